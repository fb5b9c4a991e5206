//! The committed table of legal moves is the one in the code, and the published JSON Schema too.

use std::path::PathBuf;

#[test]
fn the_page_of_legal_moves_is_current() {
    current("docs/generated/task-moves.md", &format!("{HEAD}{}", pinrail_model::run::edges_markdown()));
}

#[test]
fn the_json_schema_of_the_workflow_document_is_current() {
    let text = serde_json::to_string_pretty(&pinrail_model::document::json_schema()).unwrap();
    current("docs/generated/workflow.schema.json", &(text + "\n"));
}

const HEAD: &str = "# The moves of a task\n\nGenerated from the code; `PINRAIL_UPDATE=1 cargo test -p pinrail-model` writes it anew.\n\n";

fn current(path: &str, wanted: &str) {
    let file = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..").join(path);
    if std::env::var_os("PINRAIL_UPDATE").is_some() {
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(&file, wanted).unwrap();
    }
    let found = std::fs::read_to_string(&file).unwrap_or_default();
    assert!(found == wanted, "{path} is not current; run PINRAIL_UPDATE=1 cargo test -p pinrail-model");
}
