//! A run's file for people, in the browser.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use pinrail_model::ids::RunId;
use pinrail_model::names::TaskName;
use serde_json::{Value, json};

use super::show::find;
use crate::client::{Client, Place, encoded};
use crate::failure::{FAILED, Failure, REFUSED};
use crate::output::{Output, cell};
use crate::user;

/// How long a browser that cannot start takes to say so; one that works may stay for as long as it is looked at.
const PATIENCE: Duration = Duration::from_secs(2);
const LOOK_AGAIN: Duration = Duration::from_millis(20);

pub fn open(place: &Place, output: Output, reference: &str, name: Option<&str>) -> Result<ExitCode, Failure> {
    let client = place.connect()?;
    let run = find(place, &client, reference)?;
    let found = client.list(&format!("/runs/{}/files", cell(&run["id"])))?;
    let file = choose(&run, &found, name)?;
    let path = fetch(&client, &run, &file)?;
    let opened = show(&path);
    match &opened {
        Ok(()) => output.say(&format!("opened {}", path.display())),
        Err(why) => {
            output.say(&path.display().to_string());
            eprintln!("{why}; open the file by hand");
        }
    }
    let document =
        json!({"run": run["id"], "job": file["job"], "name": file["name"], "path": path, "opened": opened.is_ok()});
    output.document(&document);
    Ok(ExitCode::SUCCESS)
}

/// The file that is named, or of the newest attempt that left files a page, or its last one.
fn choose(run: &Value, found: &Value, name: Option<&str>) -> Result<Value, Failure> {
    let id = cell(&run["id"]);
    let mut files: Vec<&Value> = found["items"].as_array().into_iter().flatten().collect();
    if files.is_empty() {
        return Err(Failure::new(REFUSED, format!("run {id} left no file for people"))
            .hint("A job leaves one with ctx.save('report.html', text)."));
    }
    if let Some(name) = name {
        files.retain(|file| file["name"] == name);
        if files.is_empty() {
            return Err(Failure::new(REFUSED, format!("run {id} left no file \"{name}\""))
                .hint(format!("List them with `pinrail files {id}`.")));
        }
    }
    let attempts: Vec<&Value> = run["tasks"]
        .as_array()
        .into_iter()
        .flatten()
        .flat_map(|task| task["attempts"].as_array().into_iter().flatten())
        .collect();
    let started = |file: &Value| {
        let attempt = attempts.iter().find(|attempt| attempt["id"] == file["attempt"]);
        attempt.map(|attempt| cell(&attempt["started_at"])).unwrap_or_default()
    };
    let newest = files.into_iter().max_by_key(|file| (started(file), is_page(&cell(&file["name"]))));
    Ok(newest.cloned().unwrap_or_default())
}

fn is_page(name: &str) -> bool {
    let extension = Path::new(name).extension().and_then(|extension| extension.to_str()).unwrap_or_default();
    ["html", "htm", "svg"].contains(&extension.to_ascii_lowercase().as_str())
}

/// Copies the file to where a browser can read it.
fn fetch(client: &Client, run: &Value, file: &Value) -> Result<PathBuf, Failure> {
    let strange = || Failure::new(FAILED, "the server names a file that cannot be one");
    // What becomes a path here comes from elsewhere.
    let id: RunId = cell(&run["id"]).parse().map_err(|_| strange())?;
    let job: TaskName = cell(&file["job"]).parse().map_err(|_| strange())?;
    let name = cell(&file["name"]);
    if Path::new(&name).file_name().and_then(|name| name.to_str()) != Some(&name) {
        return Err(strange());
    }
    let path = format!("/runs/{id}/files/{}/{}", encoded(job.as_str()), encoded(&name));
    let bytes = client.bytes(&path, None)?;
    let folder = user::cache()?.join("opened").join(id.to_string()).join(job.as_str());
    user::make_private(&user::cache()?)?;
    std::fs::create_dir_all(&folder)?;
    let path = folder.join(name);
    std::fs::write(&path, bytes)?;
    Ok(path)
}

/// Has the desktop show a file; says why it cannot.
fn show(path: &Path) -> Result<(), String> {
    let program = if cfg!(target_os = "macos") { "open" } else { "xdg-open" };
    let seated = ["DISPLAY", "WAYLAND_DISPLAY", "BROWSER"];
    if !cfg!(target_os = "macos") && seated.iter().all(|name| std::env::var_os(name).is_none_or(|v| v.is_empty())) {
        return Err("there is no display here".to_owned());
    }
    let mut command = Command::new(program);
    command.arg(path).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    // It outlives this command, and the terminal's Ctrl-C.
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    let mut child = command.spawn().map_err(|_| format!("there is no {program} here"))?;
    for _ in 0..PATIENCE.as_millis() / LOOK_AGAIN.as_millis() {
        match child.try_wait() {
            Ok(Some(status)) if status.success() => return Ok(()),
            Ok(Some(_)) => return Err(format!("{program} found no browser")),
            _ => std::thread::sleep(LOOK_AGAIN),
        }
    }
    Ok(())
}
