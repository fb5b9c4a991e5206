//! The committed document is the one that the code makes, and says all that it should of every operation.

use std::collections::BTreeSet;
use std::path::PathBuf;

use pinrail_service::http::document_text;
use pinrail_service::problem::codes_markdown;
use pinrail_service::tokens::Role;
use serde_json::Value;

const ERRORS: &str = "\
# Errors of the API

Every problem document has one of these codes. Generated from the code; \
`PINRAIL_UPDATE=1 cargo test -p pinrail-service` writes it anew.

";

#[test]
fn the_document_of_the_api_is_current() {
    current("openapi.json", &document_text());
}

#[test]
fn the_page_of_errors_is_current() {
    current("docs/generated/errors.md", &format!("{ERRORS}{}", codes_markdown()));
}

fn current(path: &str, wanted: &str) {
    let file = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..").join(path);
    if std::env::var_os("PINRAIL_UPDATE").is_some() {
        std::fs::write(&file, wanted).unwrap();
    }
    let found = std::fs::read_to_string(&file).unwrap_or_default();
    assert!(found == wanted, "{path} is not current; run PINRAIL_UPDATE=1 cargo test -p pinrail-service");
}

/// Every code that is given to a problem is in the table, so that none is a 500 by accident.
#[test]
fn every_code_in_the_sources_has_a_status_and_a_meaning() {
    let page = codes_markdown();
    let mut open = vec![PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src")];
    while let Some(path) = open.pop() {
        if path.is_dir() {
            open.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        for call in text.split("Problem::new(").chain(text.split("Refusal::new(")).skip(1) {
            let Some(code) = call.trim_start().strip_prefix('"').and_then(|rest| rest.split('"').next()) else {
                continue;
            };
            assert!(page.contains(&format!("`{code}`")), "{} makes \"{code}\"", path.display());
        }
    }
}

struct Operation {
    name: String,
    path: String,
    declared: Value,
}

fn operations() -> Vec<Operation> {
    let document: Value = serde_json::from_str(&document_text()).unwrap();
    let mut operations = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, declared) in item.as_object().unwrap() {
            let (name, path) = (format!("{method} {path}"), path.clone());
            operations.push(Operation { name, path, declared: declared.clone() });
        }
    }
    operations
}

#[test]
fn every_operation_says_what_it_does_and_which_role_it_needs() {
    let mut ids = BTreeSet::new();
    for Operation { name, path, declared } in operations() {
        assert!(declared["summary"].as_str().is_some_and(|text| text.ends_with('.')), "{name} has no summary");
        assert!(ids.insert(declared["operationId"].as_str().unwrap().to_owned()), "{name} has no id of its own");
        let security = &declared["security"][0];
        match security["token"][0].as_str() {
            Some(role) => assert!(role.parse::<Role>().is_ok(), "{name} needs \"{role}\""),
            None => {
                assert!(security.as_object().is_some_and(serde_json::Map::is_empty), "{name} does not say its role")
            }
        }
        let parameters = declared["parameters"].as_array().cloned().unwrap_or_default();
        let declared_parts = parameters.iter().filter(|p| p["in"] == "path").map(|p| p["name"].as_str().unwrap());
        let parts = path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'));
        assert_eq!(declared_parts.collect::<Vec<_>>(), parts.collect::<Vec<_>>(), "{name}");
        if security["token"].is_array() {
            let unauthorized = &declared["responses"]["401"]["content"]["application/problem+json"];
            assert!(unauthorized.is_object(), "{name} does not tell of missing tokens");
        }
    }
}

#[test]
fn every_reference_leads_somewhere() {
    let document: Value = serde_json::from_str(&document_text()).unwrap();
    let mut open = vec![&document];
    let mut seen = 0;
    while let Some(value) = open.pop() {
        match value {
            Value::Object(map) => {
                if let Some(reference) = map.get("$ref").and_then(Value::as_str) {
                    let found = document.pointer(reference.strip_prefix('#').unwrap());
                    assert!(found.is_some(), "{reference} leads nowhere");
                    seen += 1;
                }
                open.extend(map.values());
            }
            Value::Array(items) => open.extend(items),
            _ => {}
        }
    }
    assert!(seen > 100, "{seen} references");
}
