//! What must be absent, checked by machine: dependencies that point the wrong way, and licences we cannot carry.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::run::cargo;

/// Which of our crates each one may name. They meet through the traits of the model.
const LAYERS: &[(&str, &[&str])] = &[
    ("pinrail-model", &[]),
    ("pinrail-store", &["pinrail-model"]),
    ("pinrail-exec", &["pinrail-model"]),
    ("pinrail-lake", &["pinrail-model"]),
    ("pinrail-service", &["pinrail-model"]),
    ("pinrail-testkit", &["pinrail-model"]),
    ("pinrail", &["pinrail-model", "pinrail-store", "pinrail-exec", "pinrail-lake", "pinrail-service"]),
    ("xtask", &[]),
];

/// Heavy dependencies, each with the one crate that may name it.
const OWNED: &[(&str, &str)] = &[
    ("rusqlite", "pinrail-store"),
    ("sqlx", "pinrail-store"),
    ("datafusion", "pinrail-lake"),
    ("iceberg", "pinrail-lake"),
    ("arrow", "pinrail-lake"),
    ("parquet", "pinrail-lake"),
    ("axum", "pinrail-service"),
    ("lettre", "pinrail-service"),
];

/// What the pure core must not reach, by any path.
const IMPURE: &[&str] = &["tokio", "arrow", "rusqlite", "axum"];

/// Licences that the project may carry.
const LICENCES: &[&str] = &[
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "MIT",
    "MIT-0",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "0BSD",
    "ISC",
    "MPL-2.0",
    "Zlib",
    "Unlicense",
    "CC0-1.0",
    "BSL-1.0",
    // Data tables of the Unicode consortium, and root certificates.
    "Unicode-3.0",
    "CDLA-Permissive-2.0",
];

/// All checks over `cargo metadata`.
pub fn all() -> Result<()> {
    println!("xtask: layers and licences");
    let output = cargo(&["metadata", "--format-version", "1", "--locked"]).output().context("cargo metadata")?;
    if !output.status.success() {
        bail!("cargo metadata failed: {}", String::from_utf8_lossy(&output.stderr));
    }
    let metadata: Value = serde_json::from_slice(&output.stdout)?;
    let mut faults = layers(&metadata);
    faults.extend(purity(&metadata));
    faults.extend(licences(&metadata));
    if faults.is_empty() { Ok(()) } else { bail!("{}", faults.join("\n")) }
}

fn packages(metadata: &Value) -> impl Iterator<Item = &Value> {
    metadata["packages"].as_array().into_iter().flatten()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn layers(metadata: &Value) -> Vec<String> {
    let ours: BTreeMap<&str, &[&str]> = LAYERS.iter().copied().collect();
    let mut faults = Vec::new();
    for package in packages(metadata).filter(|package| package["source"].is_null()) {
        let name = text(&package["name"]);
        let Some(allowed) = ours.get(name) else {
            faults.push(format!("crate {name} is not in the table of layers"));
            continue;
        };
        for dependency in package["dependencies"].as_array().into_iter().flatten() {
            // Tests may use the testkit and look at more.
            if dependency["kind"] == "dev" {
                continue;
            }
            let used = text(&dependency["name"]);
            if ours.contains_key(used) && !allowed.contains(&used) {
                faults.push(format!("crate {name} must not name crate {used}"));
            }
            if let Some((_, owner)) = OWNED.iter().find(|(owned, owner)| *owned == used && *owner != name) {
                faults.push(format!("crate {name} must not name {used}; only {owner} does"));
            }
        }
    }
    faults
}

/// Follows the resolved graph from the model, without what only its tests use.
fn purity(metadata: &Value) -> Vec<String> {
    let names: BTreeMap<&str, &str> =
        packages(metadata).map(|package| (text(&package["id"]), text(&package["name"]))).collect();
    let nodes: BTreeMap<&str, &Value> =
        metadata["resolve"]["nodes"].as_array().into_iter().flatten().map(|node| (text(&node["id"]), node)).collect();
    let mut open: Vec<&str> = names.iter().filter(|(_, name)| **name == "pinrail-model").map(|(id, _)| *id).collect();
    let mut seen = BTreeSet::new();
    while let Some(id) = open.pop() {
        if !seen.insert(id) {
            continue;
        }
        for dependency in nodes.get(id).and_then(|node| node["deps"].as_array()).into_iter().flatten() {
            let normal = dependency["dep_kinds"].as_array().into_iter().flatten().any(|kind| kind["kind"].is_null());
            if normal {
                open.push(text(&dependency["pkg"]));
            }
        }
    }
    let reached = seen.into_iter().filter_map(|id| names.get(id).copied());
    reached.filter(|name| IMPURE.contains(name)).map(|name| format!("the pure core reaches {name}")).collect()
}

fn licences(metadata: &Value) -> Vec<String> {
    packages(metadata)
        .filter(|package| !allowed(text(&package["license"])))
        .map(|package| {
            format!(
                "{} {} has the licence \"{}\"",
                text(&package["name"]),
                text(&package["version"]),
                text(&package["license"])
            )
        })
        .collect()
}

/// Whether an SPDX expression can be satisfied: all of its `AND` parts, each by one of its `OR` parts.
fn allowed(expression: &str) -> bool {
    let plain = expression.replace(['(', ')'], "").replace('/', " OR ");
    let known = |licence: &str| LICENCES.contains(&licence.trim());
    !plain.is_empty() && plain.split(" AND ").all(|part| part.split(" OR ").any(known))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_of_licences_are_understood() {
        assert!(allowed("MIT OR Apache-2.0"));
        assert!(allowed("MIT/Apache-2.0"));
        assert!(allowed("(MIT OR GPL-3.0) AND Unicode-3.0"));
        assert!(!allowed("GPL-3.0"));
        assert!(!allowed("MIT AND GPL-3.0"));
        assert!(!allowed(""));
    }
}
