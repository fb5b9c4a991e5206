//! Secrets: set and listed by people, opened for the attempts of jobs that declare them, shown to nobody.

use std::collections::{BTreeMap, BTreeSet};

use pinrail_model::document::Job;
use pinrail_model::fault::{Evidence, Reason};
use pinrail_model::names::{ProjectName, SecretName};
use pinrail_model::seam::store::{Answer, ProjectRow, Query, SecretRow, Store, Who, Write};
use pinrail_model::step;

use crate::app::App;
use crate::attempt::Ticket;
use crate::mask::{Masks, SHORTEST};
use crate::problem::Problem;
use crate::tokens::{Principal, Role};
use crate::vault::{Vault, VaultError};

/// Secrets are keys, passwords and small files of credentials; environment variables must be able to hold them.
const LONGEST: usize = 64 << 10;

impl App {
    /// Sets a secret of a project, or replaces its value.
    ///
    /// # Errors
    /// A value that is too short to be masked, too long, or not a text; a name that differs from another one only in
    /// case.
    pub async fn set_secret(
        &self,
        principal: &Principal,
        project: &ProjectName,
        name: SecretName,
        value: String,
    ) -> Result<SecretRow, Problem> {
        principal.may(Role::Developer, project)?;
        self.admit(project).await?;
        check_value(&name, &value)?;
        let other = secrets(self.store.as_ref(), project)
            .await
            .map_err(Problem::from)?
            .into_iter()
            .find(|row| row.name != name && row.name.as_str().eq_ignore_ascii_case(name.as_str()));
        if let Some(other) = other {
            let detail = format!("secret \"{name}\" differs only in case from secret \"{}\"", other.name);
            return Err(Problem::new("name-taken", detail).hint("Use that name, or remove it first."));
        }
        let vault = std::sync::Arc::clone(&self.attempts.parts.vault);
        let (sealed_for, sealed_as) = (project.clone(), name.clone());
        let sealed = tokio::task::spawn_blocking(move || vault.seal(&sealed_for, &sealed_as, &value)).await;
        let sealed = sealed.map_err(|e| Problem::new("internal", e.to_string()))?.map_err(vault_problem)?;
        let set_at = self.now();
        let row = SecretRow { project: project.clone(), name, sealed, set_at, set_by: principal.name.clone() };
        // A secret may be set before anything of the project was ever sent.
        let project = ProjectRow { name: project.clone(), folder: None, created_at: set_at };
        step!("secret.before-commit");
        self.commit(vec![Write::Project(project), Write::Secret(row.clone())]).await?;
        Ok(row)
    }

    /// The secrets of a project, without their values, and whether each can still be opened.
    ///
    /// # Errors
    /// When the role is too low.
    pub async fn secrets(
        &self,
        principal: &Principal,
        project: &ProjectName,
    ) -> Result<Vec<(SecretRow, bool)>, Problem> {
        principal.may(Role::Developer, project)?;
        let rows = secrets(self.store.as_ref(), project).await?;
        let vault = &self.attempts.parts.vault;
        let with_use = |row: SecretRow| {
            let opens = vault.open(&row).is_ok();
            (row, opens)
        };
        Ok(rows.into_iter().map(with_use).collect())
    }

    /// Removes a secret.
    ///
    /// # Errors
    /// 404 when there is none.
    pub async fn drop_secret(
        &self,
        principal: &Principal,
        project: &ProjectName,
        name: SecretName,
    ) -> Result<(), Problem> {
        principal.may(Role::Developer, project)?;
        let drop = Write::DropSecret { project: project.clone(), name: name.clone() };
        if self.change(drop).await? { Ok(()) } else { Err(secret_not_found(name.as_str(), project)) }
    }
}

/// The answer for a secret that is not set.
#[must_use]
pub fn secret_not_found(name: &str, project: &ProjectName) -> Problem {
    Problem::new("secret-not-found", format!("secret \"{name}\" is not set in project \"{project}\""))
        .hint("List them with `pinrail secret list`.")
}

fn vault_problem(error: VaultError) -> Problem {
    let cause = std::error::Error::source(&error).map_or_else(String::new, |source| format!(": {source}"));
    Problem::new("state-failed", format!("{error}{cause}")).hint("Look at the key's file and the disk.")
}

fn check_value(name: &SecretName, value: &str) -> Result<(), Problem> {
    let bad = |why: String| Err(Problem::new("bad-secret", format!("the value of secret \"{name}\" {why}")));
    let size = value.trim().len();
    if size < SHORTEST {
        return bad(format!(
            "has {size} bytes without white space around it; at least {SHORTEST} are needed, or it could not be masked in \
             logs without masking half of them"
        ));
    }
    if value.len() > LONGEST {
        return bad(format!("has {} bytes; at most {LONGEST} are allowed", value.len()));
    }
    if value.contains('\0') {
        return bad("holds a NUL byte; encode binary values, for example as base64".to_owned());
    }
    Ok(())
}

async fn secrets(
    store: &dyn Store,
    project: &ProjectName,
) -> Result<Vec<SecretRow>, pinrail_model::seam::store::StoreError> {
    match store.read(&Who::default(), Query::Secrets { project: project.clone() }).await? {
        Answer::Secrets(rows) => Ok(rows),
        _ => Ok(Vec::new()),
    }
}

/// The names that a job declares, for itself or for its environment.
pub(crate) fn declared(job: &Job) -> BTreeSet<&SecretName> {
    job.secrets.iter().chain(job.secret_env.values()).collect()
}

/// The declared secrets of an attempt, opened, and what masks them.
#[derive(Debug, Default)]
pub(crate) struct Revealed {
    values: BTreeMap<SecretName, String>,
    /// Also those that a value had earlier in the attempt.
    known: BTreeSet<String>,
    pub masks: Masks,
}

impl Revealed {
    /// Opens what the job of a ticket declares, as it is set now; what cannot be opened is left out, with the reason.
    pub async fn open(store: &dyn Store, vault: &Vault, ticket: &Ticket, before: &Self) -> (Self, Option<Evidence>) {
        let rows = match secrets(store, &ticket.project).await {
            Ok(rows) => rows,
            Err(error) => {
                // Processes of the attempt know these values already.
                let (values, known) = (before.values.clone(), before.known.clone());
                let masks = Masks::new(known.iter().map(String::as_str));
                return (
                    Self { values, known, masks },
                    Some(Evidence::new(error.to_string()).reason(Reason::StateFailed)),
                );
            }
        };
        let (mut values, mut missing, mut refused) = (BTreeMap::new(), Vec::new(), None);
        for name in declared(&ticket.job) {
            match rows.iter().find(|row| row.name == *name).map(|row| vault.open(row)) {
                None => missing.push(name),
                Some(Ok(value)) => {
                    values.insert(name.clone(), value);
                }
                Some(Err(error)) => refused = Some((name, error)),
            }
        }
        let known: BTreeSet<String> = before.known.iter().chain(values.values()).cloned().collect();
        let masks = Masks::new(known.iter().map(String::as_str));
        let why = match (missing.first(), refused) {
            (Some(first), _) => {
                let names: Vec<String> = missing.iter().map(|name| format!("\"{name}\"")).collect();
                let plural = if missing.len() == 1 { "secret" } else { "secrets" };
                let verb = if missing.len() == 1 { "is" } else { "are" };
                let message = format!("{plural} {} {verb} not set in project \"{}\"", names.join(", "), ticket.project);
                Some(Evidence::new(message).reason(Reason::SecretMissing).remedy(set_again(first)))
            }
            (None, Some((name, error))) => {
                Some(Evidence::new(error.to_string()).reason(Reason::SecretMissing).remedy(set_again(name)))
            }
            (None, None) => None,
        };
        (Self { values, known, masks }, why)
    }

    pub fn value(&self, name: &SecretName) -> Option<&str> {
        self.values.get(name).map(String::as_str)
    }
}

/// The command that helps.
pub(crate) fn set_again(name: &SecretName) -> String {
    format!("Set it with `pinrail secret set {name}` (the value is read from standard input), then retry.")
}
