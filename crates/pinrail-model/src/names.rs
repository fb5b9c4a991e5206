//! Names that people choose: validated where they are made, so that a value of one of these types is always safe to
//! put into a path, a URL or a message.

use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};

/// Why a text is not a name of the wanted kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{kind} name \"{text}\" is not allowed: {reason}")]
pub struct BadName {
    pub kind: &'static str,
    pub text: String,
    pub reason: &'static str,
}

/// The longest name of a project, workflow, job, secret, output or parameter.
pub const LONGEST_NAME: usize = 64;
/// The longest name of a namespace or table.
pub const LONGEST_TABLE_NAME: usize = 128;

fn check_name(kind: &'static str, text: &str) -> Result<(), BadName> {
    let reason = if text.is_empty() {
        "it is empty"
    } else if text.len() > LONGEST_NAME {
        "it is longer than 64 characters"
    } else if !text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') {
        "it must begin with a letter or an underscore"
    } else if !text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-') {
        "only letters, digits, underscores and hyphens are allowed"
    } else {
        return Ok(());
    };
    Err(BadName { kind, text: text.chars().take(80).collect(), reason })
}

/// A job, or an instance of a mapped one: its index in brackets.
fn check_task(kind: &'static str, text: &str) -> Result<(), BadName> {
    let (job, index) = match text.strip_suffix(']').and_then(|text| text.split_once('[')) {
        Some((job, index)) => (job, index),
        None => return check_name(kind, text),
    };
    check_name(kind, job)?;
    let is_number = index == "0" || (!index.starts_with('0') && index.len() <= 6);
    if is_number && !index.is_empty() && index.chars().all(|c| c.is_ascii_digit()) {
        return Ok(());
    }
    let reason = "the index of an instance is a number of at most six digits";
    Err(BadName { kind, text: text.chars().take(80).collect(), reason })
}

fn check_table_part(kind: &'static str, text: &str) -> Result<(), BadName> {
    let reason = if text.is_empty() {
        "it is empty"
    } else if text.len() > LONGEST_TABLE_NAME {
        "it is longer than 128 characters"
    } else if !text.starts_with(|c: char| c.is_ascii_lowercase() || c == '_') {
        "it must begin with a lower-case letter or an underscore"
    } else if !text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_') {
        "only lower-case letters, digits and underscores are allowed"
    } else if text.contains("__") {
        "two underscores in a row are reserved for the prefix of a target"
    } else {
        return Ok(());
    };
    Err(BadName { kind, text: text.chars().take(80).collect(), reason })
}

/// What a target puts before its namespaces. It neither holds nor ends in what separates the two, so that each stored
/// namespace belongs to one prefix.
fn check_prefix(kind: &'static str, text: &str) -> Result<(), BadName> {
    let reason = if text.is_empty() {
        "it is empty"
    } else if text.len() > LONGEST_NAME {
        "it is longer than 64 characters"
    } else if !text.starts_with(|c: char| c.is_ascii_lowercase()) {
        "it must begin with a lower-case letter"
    } else if !text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_') {
        "only lower-case letters, digits and underscores are allowed"
    } else if text.contains("__") || text.ends_with('_') {
        "two underscores in a row separate it from the namespace, and it may not end in one"
    } else {
        return Ok(());
    };
    Err(BadName { kind, text: text.chars().take(80).collect(), reason })
}

macro_rules! names {
    ($($(#[$doc:meta])* $name:ident, $kind:literal, $check:ident;)*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, JsonSchema)]
        #[serde(transparent)]
        pub struct $name(std::sync::Arc<str>);

        impl $name {
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = BadName;

            fn from_str(text: &str) -> Result<Self, BadName> {
                $check($kind, text)?;
                Ok(Self(text.into()))
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(d)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    )*};
}

names! {
    /// A tenant.
    ProjectName, "project", check_name;
    /// A DAG of jobs.
    WorkflowName, "workflow", check_name;
    /// A node of a workflow.
    JobName, "job", check_name;
    /// What people call a task of a run: its job, with the index of an instance, as in `load[3]`.
    TaskName, "job", check_task;
    /// A limit on the attempts that may be under way at once.
    PoolName, "pool", check_name;
    /// A secret of a project.
    SecretName, "secret", check_name;
    /// Where a project's notices go.
    ChannelName, "channel", check_name;
    /// A value that a job leaves.
    OutputName, "output", check_name;
    /// A parameter of a workflow.
    ParamName, "parameter", check_name;
    /// Surroundings of a project, such as dev and prod.
    TargetName, "target", check_name;
    /// What a target puts before its namespaces.
    Prefix, "prefix", check_prefix;
    /// A namespace of tables.
    NamespaceName, "namespace", check_table_part;
    /// A table within a namespace.
    TableName, "table", check_table_part;
}

impl From<&JobName> for TaskName {
    fn from(job: &JobName) -> Self {
        Self(std::sync::Arc::clone(&job.0))
    }
}

impl TaskName {
    /// An instance of a mapped job.
    #[must_use]
    pub fn of_instance(job: &JobName, index: u32) -> Self {
        Self(format!("{job}[{index}]").into())
    }

    /// The job alone.
    ///
    /// # Panics
    /// Never: the name was checked.
    #[must_use]
    pub fn job(&self) -> JobName {
        match self.0.split_once('[') {
            Some((job, _)) => job.parse().expect("the name of a task begins with that of its job"),
            None => JobName(std::sync::Arc::clone(&self.0)),
        }
    }

    /// Which instance it is, if it is one.
    #[must_use]
    pub fn index(&self) -> Option<u32> {
        self.0.split_once('[')?.1.strip_suffix(']')?.parse().ok()
    }
}

macro_rules! schemas { ($($name:ident, $description:literal, $example:literal;)*) => {$(
    crate::schema::describe!($name, crate::schema::text($description, Some(NAME), $example));
)*} }

/// What [`check_name`] allows, as a regular expression.
const NAME: &str = "^[A-Za-z_][A-Za-z0-9_-]{0,63}$";

schemas! {
    ProjectName, "The name of a project.", "flights";
    WorkflowName, "The name of a workflow.", "flights";
    JobName, "The name of a job of a workflow.", "daily_delays";
    PoolName, "The name of a pool.", "reports";
    SecretName, "The name of a secret of a project.", "ftp";
    ChannelName, "The name of a channel for notices of a project.", "ops";
    ParamName, "The name of a parameter of a workflow.", "min_flights";
    TargetName, "The name of a target of a project.", "prod";
}

crate::schema::describe!(
    TaskName,
    crate::schema::text(
        "The name of a job of a run; of an instance of a mapped job with its index.",
        Some("^[A-Za-z_][A-Za-z0-9_-]{0,63}(\\[(0|[1-9][0-9]{0,5})\\])?$"),
        "load[3]",
    )
);

crate::schema::describe!(
    TableRef as "TableName",
    crate::schema::text(
        "A table with its namespace.",
        Some("^[a-z_][a-z0-9_]{0,127}\\.[a-z_][a-z0-9_]{0,127}$"),
        "marts.daily_delays",
    )
);

/// A table with its namespace, as in `marts.daily_delays`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TableRef {
    pub namespace: NamespaceName,
    pub name: TableName,
}

impl fmt::Display for TableRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.namespace, self.name)
    }
}

impl FromStr for TableRef {
    type Err = BadName;

    /// Reads `namespace.table`, or `table` in the namespace `main`.
    fn from_str(text: &str) -> Result<Self, BadName> {
        let (namespace, name) = text.split_once('.').unwrap_or((DEFAULT_NAMESPACE, text));
        Ok(Self { namespace: namespace.parse()?, name: name.parse()? })
    }
}

impl Serialize for TableRef {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for TableRef {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(d)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Where an unqualified table name lives.
pub const DEFAULT_NAMESPACE: &str = "main";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_could_leave_their_place_are_refused() {
        for text in ["", "..", "a/b", "a.b", "1a", "-a", "a b", "é", "a\0", &"a".repeat(65)] {
            assert!(text.parse::<JobName>().is_err(), "{text:?}");
        }
        for text in ["jobA", "_x", "a-b_C9", &"a".repeat(64)] {
            assert!(text.parse::<JobName>().is_ok(), "{text:?}");
        }
    }

    #[test]
    fn an_instance_has_an_index() {
        for text in ["a[", "a[]", "a[x]", "a[01]", "a[1]b", "[1]", "a[1234567]", "a.b[1]", "a[-1]", "a[1][2]"] {
            assert!(text.parse::<TaskName>().is_err(), "{text:?}");
        }
        let read = |text: &str| text.parse::<TaskName>().map(|name| (name.job().to_string(), name.index())).unwrap();
        assert_eq!(read("load[0]"), ("load".to_owned(), Some(0)));
        assert_eq!(read("load[9999]"), ("load".to_owned(), Some(9999)));
        assert_eq!(read("load"), ("load".to_owned(), None));
    }

    #[test]
    fn a_prefix_can_be_told_from_every_namespace() {
        for text in ["", "Dev", "_dev", "dev_", "a__b", "1", "a-b", &"a".repeat(65)] {
            assert!(text.parse::<Prefix>().is_err(), "{text:?}");
        }
        for text in ["dev", "dev_anna", "d1"] {
            assert!(text.parse::<Prefix>().is_ok(), "{text:?}");
        }
    }

    #[test]
    fn a_table_reference_has_a_namespace() {
        assert_eq!("raw.flights".parse::<TableRef>().unwrap().to_string(), "raw.flights");
        assert_eq!("flights".parse::<TableRef>().unwrap().to_string(), "main.flights");
        for text in ["a__b.c", "A.b", "a.b.c", "a.", ".b"] {
            assert!(text.parse::<TableRef>().is_err(), "{text}");
        }
    }
}
