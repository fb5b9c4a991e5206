//! Targets: named surroundings of a project, such as dev and prod, each with tables, active versions and runs of its own.
//!
//! People write plain names everywhere. What a target is was decided when a run or a query began, and goes with it: nothing
//! that works on it later asks for a target by its name.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use crate::names::{NamespaceName, Prefix, ProjectName, TargetName, WorkflowName};
use crate::time::Micros;

/// What separates a target's prefix from the namespace; names that people choose never hold it.
const SEPARATOR: &str = "__";

/// A target, as `pinrail.toml` declares it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Target {
    pub name: TargetName,
    /// What stands before the namespaces of its tables; none: they are stored as they are written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix: Option<Prefix>,
    /// Where a table that it lacks is read from, first to last. Never written.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reads: Vec<Source>,
    /// It takes runs of deployed code only.
    #[serde(default)]
    pub protected: bool,
    /// Schedules of workflows that are deployed to it fire.
    #[serde(default)]
    pub schedules: bool,
    /// What SQL calls `var.NAME` and Python `ctx.vars.NAME`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub vars: BTreeMap<String, Value>,
    /// When it was made for one run alone; its tables count for nobody and do not stay. None: a project declares it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scratch: Option<Micros>,
}

/// A target that another one reads from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Source {
    pub target: TargetName,
    #[schema(value_type = Option<String>)]
    pub prefix: Option<Prefix>,
    /// As of which catalog sequence it is read; none: as everything else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<u64>,
}

/// The tables of a project that one target writes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Place {
    pub project: ProjectName,
    pub prefix: Option<Prefix>,
}

impl Place {
    /// The tables of a project without targets.
    #[must_use]
    pub fn plain(project: ProjectName) -> Self {
        Self { project, prefix: None }
    }

    /// What stands before each namespace as it is stored.
    #[must_use]
    pub fn before(&self) -> String {
        self.prefix.as_ref().map_or_else(String::new, |prefix| format!("{prefix}{SEPARATOR}"))
    }

    /// A namespace as it is stored.
    #[must_use]
    pub fn stored(&self, namespace: &NamespaceName) -> String {
        format!("{}{namespace}", self.before())
    }

    /// A stored namespace as people write it; none when it is another target's.
    #[must_use]
    pub fn written<'a>(&self, stored: &'a str) -> Option<&'a str> {
        let (prefix, namespace) = match stored.split_once(SEPARATOR) {
            Some((prefix, namespace)) => (Some(prefix), namespace),
            None => (None, stored),
        };
        (prefix == self.prefix.as_ref().map(Prefix::as_str)).then_some(namespace)
    }
}

/// A workflow at a target: its runs mind each other, and no others.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lane {
    pub project: ProjectName,
    pub workflow: WorkflowName,
    pub target: Option<TargetName>,
}

impl Lane {
    #[must_use]
    pub fn of(project: &ProjectName, workflow: &WorkflowName, target: Option<&Arc<Target>>) -> Self {
        Self { project: project.clone(), workflow: workflow.clone(), target: name_of(target) }
    }
}

/// The name of a target, if there is one.
#[must_use]
pub fn name_of(target: Option<&Arc<Target>>) -> Option<TargetName> {
    target.map(|target| target.name.clone())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_stored_namespace_belongs_to_one_target() {
        let place = |prefix: Option<&str>| Place {
            project: "flights".parse().unwrap(),
            prefix: prefix.map(|prefix| prefix.parse().unwrap()),
        };
        let prefixes = [None, Some("dev"), Some("dev_anna"), Some("d")];
        for namespace in ["marts", "_x", "dev", "dev_anna_x", "_"] {
            for prefix in prefixes {
                let stored = place(prefix).stored(&namespace.parse().unwrap());
                for other in prefixes {
                    let found = place(other).written(&stored).map(str::to_owned);
                    assert_eq!(found, (prefix == other).then(|| namespace.to_owned()), "{stored} of {other:?}");
                }
            }
        }
    }
}
