//! SQL from the command line.

use std::io::{Read, Write};
use std::path::Path;
use std::process::ExitCode;

use serde_json::{Value, json};

use super::project::{tell_definition_errors, without_empty_last};
use super::run::parameters;
use crate::cli::RenderArgs;
use crate::client::{Place, project_path};
use crate::failure::{CANCELLED, FAILED, Failure};
use crate::interrupts;
use crate::output::{Output, cell, plural, table};

/// Seconds that one request waits for the end; a Ctrl-C is noticed as soon.
const WAIT: u64 = 1;

pub fn sql(
    place: &Place,
    output: Output,
    text: Option<&str>,
    file: Option<&Path>,
    format: &str,
) -> Result<ExitCode, Failure> {
    let (text, name) = statements(text, file)?;
    ask(place, output, &text, format).map_err(|failure| match name {
        // Of a file the place is one that an editor can go to.
        Some(name) if failure.message.starts_with(|c: char| c.is_ascii_digit()) => {
            Failure { message: format!("{name}:{}", failure.message), ..failure }
        }
        _ => failure,
    })
}

/// The statements, and the name of the file that they are from.
fn statements(text: Option<&str>, file: Option<&Path>) -> Result<(String, Option<String>), Failure> {
    if let Some(file) = file {
        let name = file.display().to_string();
        let text = std::fs::read_to_string(file)
            .map_err(|e| Failure::new(FAILED, format!("file \"{name}\" cannot be read: {e}")))?;
        return Ok((text, Some(name)));
    }
    match text {
        Some("-") | None => {
            let mut text = String::new();
            std::io::stdin()
                .lock()
                .read_to_string(&mut text)
                .map_err(|e| Failure::new(FAILED, format!("standard input cannot be read: {e}")))?;
            Ok((text, None))
        }
        Some(text) => Ok((text.to_owned(), None)),
    }
}

fn ask(place: &Place, output: Output, text: &str, format: &str) -> Result<ExitCode, Failure> {
    let project = place.project()?;
    let client = place.connect()?;
    let bundle = client.send_bundle(&project, &place.state()?)?;
    interrupts::count();
    let body = json!({"sql": text, "bundle": bundle, "target": place.target(&project), "wait": WAIT});
    let mut query = client.post(&format!("/projects/{}/queries", project.name), &body)?;
    let path = format!("/queries/{}", cell(&query["id"]));
    while query["state"] == "running" {
        if interrupts::seen() > 0 {
            client.post(&format!("{path}/cancel"), &json!({}))?;
            return Err(Failure::new(CANCELLED, "the query was cancelled; statements that had ended stay"));
        }
        query = client.get(&format!("{path}?wait={WAIT}"))?;
    }
    let result = format!("{path}/result?format={}", if output.json || format == "table" { "json" } else { format });
    let bytes = client.bytes(&result, None)?;
    if query["truncated"] == true {
        eprintln!("warning: the result is larger than is kept; its end is missing");
    }
    if format == "table" && !output.json {
        let result = serde_json::from_slice(&bytes)
            .map_err(|e| Failure::new(FAILED, format!("the server's result cannot be read: {e}")))?;
        output.say(&shown(&result));
        return Ok(ExitCode::SUCCESS);
    }
    // What goes to programs goes as the server made it.
    let mut out = std::io::stdout().lock();
    out.write_all(&bytes)?;
    if output.json {
        out.write_all(b"\n")?;
    }
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
        "target": place.target(&project),
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
    format!("{}\n({})", table(&rows), plural(rows.len() as u64 - 1, "row"))
}

/// A missing value and an empty text look different.
fn null_cell(value: &Value) -> String {
    if value.is_null() { "NULL".to_owned() } else { cell(value) }
}

pub fn tables(place: &Place, output: Output) -> Result<ExitCode, Failure> {
    let project = place.project()?;
    let client = place.connect()?;
    let mut path = format!("/projects/{}/tables", project.name);
    // What the targets are stands in the folder's file.
    if let Some(target) = place.target(&project) {
        path.push_str(&format!("?bundle={}&target={target}", client.send_bundle(&project, &place.state()?)?));
    }
    let found = client.list(&path)?;
    if !output.json {
        let mut rows = vec![["table", "rows", "bytes", "partitioned by", "read from"].map(str::to_owned).to_vec()];
        for item in found["items"].as_array().into_iter().flatten() {
            let parts: Vec<String> = item["partitioned_by"].as_array().into_iter().flatten().map(cell).collect();
            let (rows_of, bytes) = (cell(&item["rows"]), cell(&item["bytes"]));
            rows.push(vec![cell(&item["table"]), rows_of, bytes, parts.join(", "), cell(&item["read_from"])]);
        }
        output.say(&table(&without_empty_last(rows)));
    }
    output.document(&found);
    Ok(ExitCode::SUCCESS)
}
