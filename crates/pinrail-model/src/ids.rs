//! Typed ids: a prefix that names the kind and a ULID in upper-case Crockford base 32, read case-insensitively.
//!
//! Ids are not monotonic within a millisecond: people tell runs apart by their last characters, so those must be random.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use ulid::Ulid;

/// Why a text is not an id of the wanted kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{text}\" is not the id of a {kind}")]
pub struct BadId {
    pub kind: &'static str,
    pub text: String,
}

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident = $prefix:literal, $kind:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Ulid);

        impl $name {
            /// What every id of this kind begins with.
            pub const PREFIX: &'static str = $prefix;
            /// What people call it.
            pub const KIND: &'static str = $kind;

            /// Makes an id from 128 bits: 48 of milliseconds since 1970, 80 random ones.
            #[must_use]
            pub fn from_parts(millis: u64, random: u128) -> Self {
                Self(Ulid::from_parts(millis, random))
            }

            /// The last characters, as people name it.
            #[must_use]
            pub fn short(&self) -> String {
                let text = self.0.to_string();
                text[text.len() - SHORT..].to_owned()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}{}", $prefix, self.0)
            }
        }

        impl FromStr for $name {
            type Err = BadId;

            fn from_str(text: &str) -> Result<Self, BadId> {
                let bad = || BadId { kind: $kind, text: text.chars().take(80).collect() };
                let prefix = text.get(..$prefix.len()).ok_or_else(bad)?;
                if !prefix.eq_ignore_ascii_case($prefix) {
                    return Err(bad());
                }
                let rest = &text[$prefix.len()..];
                Ulid::from_string(&rest.to_ascii_uppercase()).map(Self).map_err(|_| bad())
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.collect_str(self)
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

/// How many last characters of an id people see.
pub const SHORT: usize = 4;

ids! {
    /// One execution of a workflow or of a one-off job.
    RunId = "run_", "run";
    /// Runs of a workflow that were asked for together.
    BackfillId = "bkf_", "backfill";
    /// One try of a task.
    AttemptId = "att_", "attempt";
    /// A worker process's lease.
    SessionId = "ses_", "session";
    /// One change of the state database.
    TransitionId = "trn_", "transition";
    /// One request to the owner of a shard.
    CommandId = "cmd_", "command";
    /// One ad hoc query.
    QueryId = "qry_", "query";
    /// A bearer token (not its secret).
    TokenId = "tok_", "token";
    /// A notice to one channel.
    NoticeId = "ntc_", "notice";
    /// A table, whatever its name becomes.
    TableId = "tbl_", "table";
}

/// Makes ids. The one place where randomness enters production; simulations and tests bring their own.
pub trait Ids: Send + Sync {
    /// 128 bits: 48 of milliseconds since 1970, 80 random ones.
    fn parts(&self) -> (u64, u128);
}

/// Makes one id of any kind.
pub fn fresh<T: FromParts>(ids: &dyn Ids) -> T {
    let (millis, random) = ids.parts();
    T::from_parts(millis, random)
}

/// Implemented by every id kind, for [`fresh`].
pub trait FromParts {
    fn from_parts(millis: u64, random: u128) -> Self;
}

macro_rules! schemas { ($($name:ident)*) => {$(
    crate::schema::describe!($name, crate::schema::text(
        &format!("The id of a {}.", $name::KIND),
        Some(&format!("^{}[0-9A-HJKMNP-TV-Z]{{26}}$", $name::PREFIX)),
        &$name::from_parts(1_700_000_000_000, 1 << 79).to_string(),
    ));
)*} }
schemas!(RunId BackfillId AttemptId SessionId QueryId TokenId NoticeId);

macro_rules! from_parts { ($($name:ident)*) => {$(
    impl FromParts for $name {
        fn from_parts(millis: u64, random: u128) -> Self { $name::from_parts(millis, random) }
    }
)*} }
from_parts!(RunId BackfillId AttemptId SessionId TransitionId CommandId QueryId TokenId NoticeId TableId);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_read_back_whatever_its_case() {
        let id = RunId::from_parts(1_700_000_000_000, 12345);
        let text = id.to_string();
        assert!(text.starts_with("run_01"), "{text}");
        assert_eq!(text.to_lowercase().parse::<RunId>(), Ok(id));
        assert!(text.ends_with(&id.short()));
    }

    #[test]
    fn another_kind_or_nonsense_is_refused() {
        let id = RunId::from_parts(1, 2).to_string();
        assert!(id.parse::<AttemptId>().is_err());
        for text in ["", "run_", "run_é", "run_01", "run_../../etc/passwd"] {
            assert!(text.parse::<RunId>().is_err(), "{text}");
        }
    }
}
