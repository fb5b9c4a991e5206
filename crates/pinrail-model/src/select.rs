//! Selecting jobs of a workflow, in dbt's notation: `a` alone, `a+` with all below, `+a` with all above.

use std::collections::{BTreeMap, BTreeSet};

use crate::document::Job;
use crate::names::JobName;
use crate::near::nearest;

/// The selected jobs; several selectors separated by commas or white space add up.
///
/// # Errors
/// A message that quotes the unknown name and the nearest one.
pub fn select(jobs: &[Job], selector: &str) -> Result<BTreeSet<JobName>, String> {
    let mut selected = BTreeSet::new();
    for part in selector.split(',').flat_map(parts) {
        let (above, rest) = part.strip_prefix('+').map_or((false, part), |rest| (true, rest));
        let (below, name) = rest.strip_suffix('+').map_or((false, rest), |rest| (true, rest));
        if name.is_empty() || name.starts_with('+') || name.ends_with('+') {
            return Err(format!("\"{selector}\" is not a selection; write a, a+ or +a, with commas between several"));
        }
        let Some(job) = jobs.iter().find(|job| job.name.as_str() == name) else {
            let hint = nearest(name, jobs.iter().map(|job| job.name.as_str()))
                .map_or_else(String::new, |near| format!("; did you mean \"{near}\"?"));
            return Err(format!("job \"{name}\" not found{hint}"));
        };
        selected.insert(job.name.clone());
        if above {
            reach(&job.name, &parents(jobs), &mut selected);
        }
        if below {
            reach(&job.name, &children(jobs), &mut selected);
        }
    }
    Ok(selected)
}

/// The parts between commas may have white space around and between them; without any there is one that is empty.
pub(crate) fn parts(text: &str) -> Vec<&str> {
    let parts: Vec<&str> = text.split_whitespace().collect();
    if parts.is_empty() { vec![""] } else { parts }
}

fn parents(jobs: &[Job]) -> BTreeMap<&JobName, Vec<&JobName>> {
    jobs.iter().map(|job| (&job.name, job.after.iter().collect())).collect()
}

fn children(jobs: &[Job]) -> BTreeMap<&JobName, Vec<&JobName>> {
    let mut children: BTreeMap<&JobName, Vec<&JobName>> = BTreeMap::new();
    for job in jobs {
        for parent in &job.after {
            children.entry(parent).or_default().push(&job.name);
        }
    }
    children
}

fn reach(from: &JobName, edges: &BTreeMap<&JobName, Vec<&JobName>>, into: &mut BTreeSet<JobName>) {
    let mut stack = vec![from];
    while let Some(at) = stack.pop() {
        for next in edges.get(at).into_iter().flatten() {
            if into.insert((*next).clone()) {
                stack.push(next);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn plus_signs_reach_up_and_down() {
        let job = |name: &str, after: &[&str]| -> Job {
            serde_json::from_value(json!({"name": name, "kind": "shell", "shell": ["x"], "after": after})).unwrap()
        };
        let jobs = [job("a", &[]), job("b", &["a"]), job("c", &["b"]), job("d", &["a"])];
        let names =
            |s: &str| select(&jobs, s).map(|set| set.iter().map(JobName::to_string).collect::<Vec<_>>().join(" "));
        assert_eq!(names("b").unwrap(), "b");
        assert_eq!(names("b+").unwrap(), "b c");
        assert_eq!(names("+b").unwrap(), "a b");
        assert_eq!(names("+b+,d").unwrap(), "a b c d");
        assert_eq!(names("bb+").unwrap_err(), "job \"bb\" not found; did you mean \"b\"?");
        assert_eq!(names(" b, d ").unwrap(), "b d");
        for wrong in ["", " ", "+", "++", "b++", "++b", "b,", ",b", "b,,d"] {
            assert!(names(wrong).unwrap_err().contains("is not a selection"), "{wrong}");
        }
    }
}
