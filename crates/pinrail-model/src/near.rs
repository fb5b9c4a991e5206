//! The nearest name, for "did you mean".

/// The candidate most like `name`, if one is like it at all.
pub fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let lower = name.to_lowercase();
    candidates
        .into_iter()
        .map(|candidate| (strsim::jaro_winkler(&lower, &candidate.to_lowercase()), candidate))
        .filter(|(likeness, _)| *likeness >= LIKE)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}

/// Below this Jaro-Winkler likeness a suggestion confuses more than it helps.
const LIKE: f64 = 0.80;

#[cfg(test)]
mod tests {
    use super::nearest;

    #[test]
    fn a_typing_mistake_finds_the_name_and_a_stranger_finds_none() {
        assert_eq!(nearest("daily_delay", ["load", "daily_delays"]), Some("daily_delays"));
        assert_eq!(nearest("exectuor", ["name", "executor"]), Some("executor"));
        assert_eq!(nearest("zebra", ["load", "daily_delays"]), None);
    }
}
