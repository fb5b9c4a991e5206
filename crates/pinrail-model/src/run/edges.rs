//! The legal moves of a task. The table is the specification: [`super::apply`] makes no other move, and the page in
//! `docs/` is generated from it.

use super::Position;

/// One legal move.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Edge {
    pub from: Position,
    pub to: Position,
    pub why: &'static str,
}

const fn edge(from: Position, to: Position, why: &'static str) -> Edge {
    Edge { from, to, why }
}

use Position::{Backoff, Cleaning, Completing, Done, Executing, Held, Preparing, Ready, Setup, Submitted, Waiting};

/// Every legal move of a task.
pub const EDGES: &[Edge] = &[
    edge(Waiting, Ready, "the jobs it waits for allow it, and its conditions are met"),
    edge(
        Waiting,
        Done,
        "the jobs or a condition it waits for rule it out, the run was stopped, it is switched off or was marked",
    ),
    edge(Waiting, Held, "a person holds it"),
    edge(Ready, Preparing, "it was given a slot"),
    edge(Ready, Waiting, "a job it waits for is tried again by hand, it was switched off, or new code waits for more"),
    edge(Ready, Held, "a person holds it"),
    edge(Ready, Done, "stopped or marked"),
    edge(Preparing, Setup, "setup began"),
    edge(Setup, Executing, "execute began"),
    edge(Executing, Completing, "execute returned a value"),
    edge(Executing, Submitted, "execute returned a spec for an engine"),
    edge(Submitted, Submitted, "its watcher was lost; it is watched again"),
    edge(Submitted, Completing, "the engine has finished"),
    edge(Completing, Completing, "complete was lost; it runs again from the stored result"),
    edge(Completing, Cleaning, "published, failed, stopped or lost"),
    edge(Preparing, Cleaning, "failed, stopped or lost"),
    edge(Setup, Cleaning, "failed, stopped or lost"),
    edge(Executing, Cleaning, "failed, stopped or lost"),
    edge(Submitted, Cleaning, "failed, stopped or lost"),
    edge(Cleaning, Cleaning, "cleanup was lost; it runs again"),
    edge(Cleaning, Done, "cleanup has ended and there is no further try"),
    edge(Cleaning, Backoff, "cleanup has ended and there will be another try"),
    edge(Cleaning, Held, "it takes down whatever runs it"),
    edge(Backoff, Ready, "the wait is over"),
    edge(Backoff, Waiting, "a job it waits for is tried again by hand, or it was switched off"),
    edge(Backoff, Held, "a person holds it"),
    edge(Backoff, Done, "stopped or marked"),
    edge(Held, Done, "stopped or marked"),
    edge(Held, Waiting, "tried again by hand, released or switched off"),
    edge(Done, Waiting, "tried again by hand or marked"),
];

/// Whether a task may move so.
pub(super) fn is_legal(from: Position, to: Position) -> bool {
    EDGES.iter().any(|edge| edge.from == from && edge.to == to)
}

/// The table for the docs.
#[must_use]
pub fn edges_markdown() -> String {
    let mut page = String::from("| from | to | why |\n|---|---|---|\n");
    for edge in EDGES {
        page.push_str(&format!("| {} | {} | {} |\n", edge.from, edge.to, edge.why));
    }
    page
}
