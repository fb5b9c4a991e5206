//! Prepared situations: what is said of each, word by word, and the fields that programs read. From the same table come
//! the examples of docs/generated/explain.md, so that none is out of date and no code is without one.

#[path = "../../tests/all/failing/table.rs"]
mod failing;
mod scene;
mod slow;
mod waiting;

use std::collections::BTreeSet;
use std::fmt::Write as _;

use pinrail_model::explain::{CODES, Code, SLOW_CODES};
use pinrail_model::fault::{Fault, Reason};
use serde_json::Value;

/// One situation with what is to be said of it.
struct Situation {
    name: &'static str,
    code: &'static str,
    /// Fields of the document, which may have more.
    fields: Value,
    text: &'static str,
    /// The document, and the words that people read.
    told: (Value, String),
}

fn check(situations: &[Situation]) {
    let mut wrong = String::new();
    for situation in situations {
        let (document, text) = &situation.told;
        if document["code"] != situation.code || !has(document, &situation.fields) {
            let _ = writeln!(wrong, "== {}: fields\n{document:#}", situation.name);
        }
        if text != situation.text.trim_start_matches('\n') {
            let _ = writeln!(wrong, "== {}: words\n{text}\n", situation.name);
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
    let names: BTreeSet<&str> = situations.iter().map(|situation| situation.name).collect();
    assert_eq!(names.len(), situations.len(), "two situations have one name");
}

/// Whether a document has all that is wanted, at any depth; of a list its first items.
fn has(document: &Value, wanted: &Value) -> bool {
    match (document, wanted) {
        (Value::Object(all), Value::Object(some)) => {
            some.iter().all(|(name, value)| has(all.get(name).unwrap_or(&Value::Null), value))
        }
        (Value::Array(all), Value::Array(some)) => {
            some.len() <= all.len() && all.iter().zip(some).all(|(all, some)| has(all, some))
        }
        (found, wanted) => found == wanted,
    }
}

#[test]
fn what_waits_is_explained() {
    let situations = waiting::waiting();
    assert!(situations.len() >= 15);
    check(&situations);
}

#[test]
fn what_no_longer_waits_is_explained() {
    check(&waiting::over());
}

#[test]
fn what_was_slow_is_explained() {
    let situations = slow::slow();
    assert!(situations.len() >= 5);
    check(&situations);
}

const PAGE: &str = "docs/generated/explain.md";
const HEAD: &str = "\
# What `pinrail explain` says

Every code of an explanation: what it means, an example, and what to do. The same codes stand in the answers of the API and in
`--json`. Generated from the code and from the tests of the words; `PINRAIL_UPDATE=1 cargo test -p pinrail` writes it anew.
";

#[test]
fn the_page_of_codes_is_current() {
    let mut page = HEAD.to_owned();
    let shown: Vec<Situation> = waiting::waiting().into_iter().chain(waiting::over()).chain(slow::slow()).collect();
    for (title, codes) in [("Where a job is", CODES), ("Why a run was slow", SLOW_CODES)] {
        let _ = write!(page, "\n## {title}\n");
        for Code { code, meaning, remedy } in codes {
            let example = shown.iter().find(|situation| situation.code == *code);
            let example = example.unwrap_or_else(|| panic!("no situation has the code {code}"));
            section(&mut page, code, meaning, Some(example.text), remedy);
        }
    }
    page.push_str("\n## How an attempt failed\n\nThe field `reason` of a failure.\n");
    for failing in failing::FAILING {
        let is_known = Reason::ALL.iter().any(|reason| reason.name() == failing.reason);
        assert!(is_known && failing.fault.parse::<Fault>().is_ok(), "{}: {}", failing.job, failing.template);
    }
    assert!(failing::MODULE.contains("UserError"));
    for reason in Reason::ALL {
        let example = failing::FAILING.iter().find(|situation| situation.reason == reason.name());
        section(&mut page, reason.name(), reason.meaning(), example.map(|situation| situation.text), reason.remedy());
    }
    let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(PAGE);
    if std::env::var_os("PINRAIL_UPDATE").is_some() {
        std::fs::write(&file, &page).expect("the page can be written");
    }
    let found = std::fs::read_to_string(&file).unwrap_or_default();
    assert!(found == page, "{PAGE} is not current; run PINRAIL_UPDATE=1 cargo test -p pinrail");
}

fn section(page: &mut String, code: &str, meaning: &str, example: Option<&str>, remedy: &str) {
    let _ = write!(page, "\n### {code}\n\n{meaning}\n");
    if let Some(example) = example {
        let _ = write!(page, "\n```text\n{}\n```\n", example.trim_matches('\n'));
    }
    let _ = write!(page, "\nWhat to do: {remedy}\n");
}
