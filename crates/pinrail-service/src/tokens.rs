//! Bearer tokens: made once, shown once, kept as a digest; bound to a role and, if wanted, to one project.

use std::fmt;
use std::str::FromStr;

use pinrail_model::document::Sha;
use pinrail_model::ids::TokenId;
use pinrail_model::names::ProjectName;
use pinrail_model::near::nearest;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::problem::Problem;
use crate::system::random;

/// What a token begins with, so that secret scanners know it.
const PREFIX: &str = "pinrail_";

/// What somebody may do in a project; each role includes the earlier ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    Viewer,
    /// Runs, cancels, retries.
    Operator,
    /// Deploys, sets secrets.
    Developer,
    Admin,
}

impl Role {
    pub const ALL: [(Self, &'static str); 4] = [
        (Self::Viewer, "viewer"),
        (Self::Operator, "operator"),
        (Self::Developer, "developer"),
        (Self::Admin, "admin"),
    ];
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = Self::ALL.iter().find(|(role, _)| role == self).map_or("", |(_, name)| name);
        f.write_str(name)
    }
}

impl FromStr for Role {
    type Err = Problem;

    fn from_str(text: &str) -> Result<Self, Problem> {
        let found = Self::ALL.iter().find(|(_, name)| *name == text).map(|(role, _)| *role);
        found.ok_or_else(|| {
            let names = Self::ALL.iter().map(|(_, name)| *name);
            let hint = nearest(text, names.clone()).map_or_else(
                || format!("Roles are {}.", names.collect::<Vec<_>>().join(", ")),
                |n| format!("Did you mean \"{n}\"?"),
            );
            Problem::new("bad-parameter", format!("role \"{text}\" does not exist")).hint(hint)
        })
    }
}

/// Who calls, once the token is known to be good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    /// Of the token.
    pub id: TokenId,
    pub name: String,
    pub role: Role,
    /// None: every project.
    pub project: Option<ProjectName>,
}

impl Principal {
    /// Checks that the caller may do something in a project.
    ///
    /// # Errors
    /// 404 for a project outside of the token's, exactly as if it did not exist; 403 when the role is too low.
    pub fn may(&self, role: Role, project: &ProjectName) -> Result<(), Problem> {
        if self.project.as_ref().is_some_and(|own| own != project) {
            return Err(project_not_found(project.as_str()));
        }
        if self.role < role {
            let detail = format!("this needs the role \"{role}\"; the token has \"{}\"", self.role);
            return Err(Problem::new("role-too-low", detail).hint("Ask an admin for a token with that role."));
        }
        Ok(())
    }
}

impl Principal {
    /// Checks that the caller may do something that concerns all projects.
    ///
    /// # Errors
    /// 403 when the role is too low or the token is for one project.
    pub fn may_everywhere(&self, role: Role) -> Result<(), Problem> {
        if self.role < role {
            let detail = format!("this needs the role \"{role}\"; the token has \"{}\"", self.role);
            return Err(Problem::new("role-too-low", detail).hint("Ask an admin for a token with that role."));
        }
        if self.project.is_some() {
            return Err(crate::app::everywhere_only());
        }
        Ok(())
    }
}

/// The answer for a project that is not there, or that the caller may not know of.
#[must_use]
pub fn project_not_found(name: &str) -> Problem {
    Problem::new("project-not-found", format!("no project \"{name}\" that this token can see"))
        .hint("List projects with GET /api/v1/projects.")
}

/// A new token and its digest.
#[must_use]
pub fn make() -> (String, Sha) {
    let token = format!("{PREFIX}{}", hex::encode(random::<24>()));
    let hash = digest(&token);
    (token, hash)
}

/// The digest under which a token is kept. Tokens are 192 random bits, so a plain SHA-256 cannot be guessed back.
#[must_use]
pub fn digest(token: &str) -> Sha {
    Sha::of(token.as_bytes())
}
