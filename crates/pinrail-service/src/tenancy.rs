//! Which projects a server takes, by who else can reach it and whose processes their jobs would be.
//!
//! Jobs of a server without users of their own run as its user and can do to each other what that one can. So where
//! others than this machine's users reach it, there is one project.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use pinrail_model::names::ProjectName;

use crate::problem::Problem;

/// Who shares a server.
#[derive(Debug, Clone, Default)]
pub enum Tenancy {
    /// People of this machine: any number of projects, all of whose processes are the server's user's.
    #[default]
    Local,
    /// Whoever reaches it over a network: one project.
    Alone,
    /// Projects whose processes have a user each, by its number; no others.
    Users(BTreeMap<ProjectName, u32>),
}

impl Tenancy {
    /// Checks that a server with some projects takes another one, or the same again.
    ///
    /// # Errors
    /// When it does not, with what would change that.
    pub fn admit<'a>(
        &self,
        project: &ProjectName,
        mut known: impl Iterator<Item = &'a ProjectName>,
    ) -> Result<(), Problem> {
        let refused = |detail: String, hint: String| Err(Problem::new("project-refused", detail).hint(hint));
        match self {
            Self::Local => Ok(()),
            Self::Alone => match known.find(|other| *other != project) {
                None => Ok(()),
                Some(other) => refused(
                    format!("this server is reached from elsewhere and has a project already, \"{other}\""),
                    format!(
                        "Give each project a user of its own: pinrail up --run-as {other}=USER --run-as {project}=USER."
                    ),
                ),
            },
            Self::Users(users) if users.contains_key(project) => Ok(()),
            Self::Users(_) => refused(
                format!("project \"{project}\" has no user on this server"),
                format!("Start the server with --run-as {project}=USER besides."),
            ),
        }
    }

    /// Whether a folder may be a project's: people say where theirs is, and on a shared server may not name another's.
    pub(crate) fn owns(&self, project: &ProjectName, folder: &Path) -> bool {
        let Self::Users(users) = self else { return true };
        std::fs::symlink_metadata(folder).is_ok_and(|found| users.get(project) == Some(&found.uid()))
    }

    /// The number of a project's user, if it has one.
    pub(crate) fn user(&self, project: &ProjectName) -> Option<u32> {
        let Self::Users(users) = self else { return None };
        users.get(project).copied()
    }

    /// A project's folder as far as the server itself reads files in it: not where it may read more than whoever put
    /// them there.
    pub(crate) fn read_by_server(&self, folder: Option<PathBuf>) -> Option<PathBuf> {
        folder.filter(|_| !matches!(self, Self::Users(_)))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_second_project_needs_a_user_of_its_own_where_others_reach_the_server() {
        let [a, b]: [ProjectName; 2] = ["a", "b"].map(|name| name.parse().unwrap());
        let known = [a.clone()];
        let takes = |tenancy: &Tenancy, project| tenancy.admit(project, known.iter()).is_ok();
        assert!(takes(&Tenancy::Local, &b));
        assert!(takes(&Tenancy::Alone, &a) && !takes(&Tenancy::Alone, &b));
        let users = Tenancy::Users(BTreeMap::from([(b.clone(), 1000)]));
        assert!(takes(&users, &b) && !takes(&users, &a));
    }

    #[test]
    fn a_project_with_a_user_has_that_users_folder_or_none_and_the_server_reads_nothing_there() {
        let folder = tempfile::tempdir().unwrap();
        let own = std::fs::metadata(folder.path()).unwrap().uid();
        let a: ProjectName = "a".parse().unwrap();
        let with = |uid| Tenancy::Users(BTreeMap::from([(a.clone(), uid)]));
        assert!(with(own).owns(&a, folder.path()) && !with(own + 1).owns(&a, folder.path()));
        assert!(Tenancy::Local.owns(&a, folder.path()));
        let some = || Some(folder.path().to_owned());
        assert_eq!((with(own).read_by_server(some()), Tenancy::Alone.read_by_server(some())), (None, some()));
    }
}
