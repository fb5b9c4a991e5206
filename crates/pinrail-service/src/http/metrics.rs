//! Figures for Prometheus: what the owner has in memory, what the API has answered, what the process holds.
//!
//! They count for this process and since its start; histories are in the tables of the platform.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::{Arc, Mutex, PoisonError};

use axum::Extension;
use axum::extract::{MatchedPath, Request, State};
use axum::http::header;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::{Shared, figures};
use crate::problem::Problem;

/// The media type of version 0.0.4 of the text format.
const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// How many requests were answered, by method, path template and status.
#[derive(Default)]
pub(super) struct Requests(Mutex<BTreeMap<(&'static str, String, u16), u64>>);

/// Counts an answer. What matched no route counts under an empty path, so that strangers cannot make up new figures.
pub(super) async fn count(
    Extension(requests): Extension<Arc<Requests>>,
    matched: Option<MatchedPath>,
    request: Request,
    next: Next,
) -> Response {
    let path = matched.map_or_else(String::new, |path| path.as_str().to_owned());
    let known = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];
    let method = known.into_iter().find(|method| request.method() == *method).unwrap_or("other");
    let response = next.run(request).await;
    let mut counts = requests.0.lock().unwrap_or_else(PoisonError::into_inner);
    *counts.entry((method, path, response.status().as_u16())).or_default() += 1;
    drop(counts);
    response
}

/// Figures in the text format of Prometheus.
#[utoipa::path(
    get, path = "/metrics", tag = "server", security(()),
    responses((status = 200, description = "Figures of this process since its start", body = String)),
    extensions(("x-codes" = json!(["owner-gone"]))),
)]
pub(super) async fn metrics(
    State(app): Shared,
    Extension(requests): Extension<Arc<Requests>>,
) -> Result<Response, Problem> {
    let figures = figures(&app).await?;
    let mut text = Text::default();
    let by_state = |counts: &BTreeMap<&'static str, u64>| -> Vec<Sample> {
        counts.iter().map(|(state, count)| (vec![("state", (*state).to_owned())], *count)).collect()
    };
    text.family("pinrail_runs", GAUGE, "Unfinished runs.", by_state(&figures.runs));
    text.family("pinrail_tasks", GAUGE, "Tasks of unfinished runs.", by_state(&figures.tasks));
    text.one("pinrail_worker_slots", GAUGE, "Worker slots.", figures.slots.into());
    text.one("pinrail_worker_slots_held", GAUGE, "Worker slots that are held.", figures.slots_held.into());
    let commits = [("waited", figures.commits_waited), ("behind", figures.commits_behind)];
    let commits = commits.map(|(how, count)| (vec![("durability", how.to_owned())], count));
    text.family("pinrail_commits_total", COUNTER, "Commits of the owner of the runs.", commits.to_vec());
    let warm: usize = app.attempts.parts.executors.values().map(|executor| executor.warm()).sum();
    text.one("pinrail_warm_processes", GAUGE, "Processes that are kept for the next attempts.", warm as u64);
    text.family("pinrail_http_requests_total", COUNTER, "Answered requests.", requests.samples());
    if let Some(bytes) = resident() {
        text.one("process_resident_memory_bytes", GAUGE, "Resident memory.", bytes);
    }
    if let Some(open) = open_files() {
        text.one("process_open_fds", GAUGE, "Open file descriptors.", open);
    }
    Ok(([(header::CONTENT_TYPE, TEXT)], text.0).into_response())
}

impl Requests {
    fn samples(&self) -> Vec<Sample> {
        let counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let labels = |(method, path, status): &(&str, String, u16)| {
            vec![("method", (*method).to_owned()), ("path", path.clone()), ("status", status.to_string())]
        };
        counts.iter().map(|(key, count)| (labels(key), *count)).collect()
    }
}

const GAUGE: &str = "gauge";
const COUNTER: &str = "counter";

/// Labels and a value.
type Sample = (Vec<(&'static str, String)>, u64);

/// The text format, one family after the other.
#[derive(Default)]
struct Text(String);

impl Text {
    fn one(&mut self, name: &str, kind: &str, help: &str, value: u64) {
        self.family(name, kind, help, vec![(Vec::new(), value)]);
    }

    fn family(&mut self, name: &str, kind: &str, help: &str, samples: Vec<Sample>) {
        // Writing to a string cannot fail.
        let _ = write!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
        for (labels, value) in samples {
            let labels: Vec<String> =
                labels.iter().map(|(label, text)| format!("{label}=\"{}\"", escaped(text))).collect();
            let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
            let _ = writeln!(self.0, "{name}{labels} {value}");
        }
    }
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// Bytes of this process in memory, where the system tells.
fn resident() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes << 10)
}

/// Open descriptors of this process, where the system tells.
fn open_files() -> Option<u64> {
    let entries = std::fs::read_dir("/proc/self/fd").ok()?.count();
    // One of them is the folder that is being read.
    Some(entries.saturating_sub(1) as u64)
}
