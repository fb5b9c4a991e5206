//! SQL from the command line.

use std::io::Write;
use std::process::ExitCode;

use serde_json::{Value, json};

use super::project::tell_definition_errors;
use super::run::parameters;
use crate::cli::RenderArgs;
use crate::client::{Place, project_path};
use crate::failure::Failure;
use crate::output::{Output, cell, table};

pub fn sql(place: &Place, output: Output, text: &str, format: &str) -> Result<ExitCode, Failure> {
    let project = place.project()?;
    let client = place.connect()?;
    let bundle = client.send_bundle(&project, &place.state()?)?;
    let path = format!("/projects/{}/queries", project.name);
    // What goes to programs goes as the server made it.
    let format = if output.json { "json" } else { format };
    if format != "table" {
        let body = json!({"sql": text, "bundle": bundle, "format": format});
        let mut out = std::io::stdout().lock();
        out.write_all(&client.bytes(&path, Some(&body))?)?;
        if format == "json" {
            out.write_all(b"\n")?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    output.say(&shown(&client.post(&path, &json!({"sql": text, "bundle": bundle}))?));
    Ok(ExitCode::SUCCESS)
}

/// Prints the text of a job or a file with its templates filled in.
pub fn render(place: &Place, output: Output, args: &RenderArgs) -> Result<ExitCode, Failure> {
    let project = place.project()?;
    let client = place.connect()?;
    let mut body = json!({
        "bundle": client.send_bundle(&project, &place.state()?)?,
        "params": parameters(&args.params)?,
        "at": args.at,
        "workflow": args.workflow,
    });
    if args.target.ends_with(".sql") {
        body["file"] = project_path(&project, &args.target).into();
    } else {
        body["job"] = json!(args.target);
    }
    let checked = client.post(&format!("/projects/{}/render", project.name), &body).inspect_err(|failure| {
        if !output.json {
            tell_definition_errors(failure, output);
        }
    })?;
    if !output.json {
        output.say(cell(&checked["rendered"]).trim_end());
    }
    output.document(&checked);
    Ok(ExitCode::SUCCESS)
}

fn shown(result: &Value) -> String {
    let columns: Vec<&Value> = result["columns"].as_array().into_iter().flatten().collect();
    if columns.is_empty() {
        return "done".to_owned();
    }
    let mut rows = vec![columns.iter().map(|column| cell(&column["name"])).collect::<Vec<_>>()];
    for row in result["rows"].as_array().into_iter().flatten() {
        rows.push(row.as_array().into_iter().flatten().map(null_cell).collect());
    }
    format!("{}\n({} rows)", table(&rows), rows.len() - 1)
}

/// A missing value and an empty text look different.
fn null_cell(value: &Value) -> String {
    if value.is_null() { "NULL".to_owned() } else { cell(value) }
}

pub fn tables(place: &Place, output: Output) -> Result<ExitCode, Failure> {
    let project = place.project()?;
    let found = place.connect()?.list(&format!("/projects/{}/tables", project.name))?;
    if !output.json {
        let mut rows = vec![["table", "rows", "bytes", "partitioned by"].map(str::to_owned).to_vec()];
        for item in found["items"].as_array().into_iter().flatten() {
            let parts: Vec<String> = item["partitioned_by"].as_array().into_iter().flatten().map(cell).collect();
            rows.push(vec![cell(&item["table"]), cell(&item["rows"]), cell(&item["bytes"]), parts.join(", ")]);
        }
        output.say(&table(&rows));
    }
    output.document(&found);
    Ok(ExitCode::SUCCESS)
}
