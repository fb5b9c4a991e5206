//! What every attempt must know of its project before it begins, kept at hand: where the project's own folder is, and what
//! `pinrail.toml` says in its bundle. Both are the same for all attempts of a project and bundle, of which a schedule may
//! begin thousands in a second.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pinrail_model::document::Sha;
use pinrail_model::names::ProjectName;
use pinrail_model::seam::store::{Answer, Query, Store, StoreError, Who};

use crate::project::Project;

/// Bundles whose settings are kept, and projects whose folders are.
const MOST_KEPT: usize = 1000;

/// What `pinrail.toml` says, by bundle; none where it cannot be read.
type Settings = HashMap<(ProjectName, Sha), Option<Arc<Project>>>;

/// What is at hand.
#[derive(Debug, Default)]
pub(crate) struct Places {
    settings: Mutex<Settings>,
    folders: Mutex<Folders>,
}

#[derive(Debug, Default)]
struct Folders {
    known: HashMap<ProjectName, Option<PathBuf>>,
    /// How often a folder was set: what was read before the last time may be what it was before.
    changes: u64,
}

impl Places {
    /// What `pinrail.toml` says in an unpacked bundle, in which nothing ever changes; none when it cannot be read.
    pub fn settings(&self, root: &Path, project: &ProjectName, bundle: Sha) -> Option<Arc<Project>> {
        let key = (project.clone(), bundle);
        let mut kept = lock(&self.settings);
        if let Some(settings) = kept.get(&key) {
            return settings.clone();
        }
        if kept.len() >= MOST_KEPT {
            kept.clear();
        }
        let settings = Project::read_bundle(root, project).ok().map(Arc::new);
        kept.insert(key, settings.clone());
        settings
    }

    /// The folder of a project, as it was last named; whether it is there is another question.
    pub async fn folder(&self, store: &dyn Store, project: &ProjectName) -> Result<Option<PathBuf>, StoreError> {
        let changes = {
            let folders = lock(&self.folders);
            if let Some(folder) = folders.known.get(project) {
                return Ok(folder.clone());
            }
            folders.changes
        };
        let who = Who { project: Some(project.clone()) };
        let Answer::Projects(rows) = store.read(&who, Query::Projects).await? else { return Ok(None) };
        let folder = rows.into_iter().next().and_then(|row| row.folder).map(PathBuf::from);
        let mut folders = lock(&self.folders);
        if folders.changes == changes {
            if folders.known.len() >= MOST_KEPT {
                folders.known.clear();
            }
            folders.known.insert(project.clone(), folder.clone());
        }
        Ok(folder)
    }

    /// The folder of a project was named anew.
    pub fn named(&self, project: &ProjectName) {
        let mut folders = lock(&self.folders);
        folders.changes += 1;
        folders.known.remove(project);
    }
}

fn lock<T>(kept: &Mutex<T>) -> MutexGuard<'_, T> {
    kept.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use pinrail_model::ids::TransitionId;
    use pinrail_model::seam::store::{Durability, ProjectRow, Transition, Write};
    use pinrail_model::time::Micros;
    use pinrail_store::SqliteStore;

    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn a_folder_that_is_named_anew_is_seen() {
        let state = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(state.path()).unwrap();
        let (places, project): (_, ProjectName) = (Places::default(), "p".parse().unwrap());
        assert_eq!(places.folder(&store, &project).await.unwrap(), None);
        for (n, folder) in [(1, "/a"), (2, "/b")] {
            let row = ProjectRow { name: project.clone(), folder: Some(folder.to_owned()), created_at: Micros(1) };
            let transition = Transition::new(TransitionId::from_parts(0, n), vec![Write::Project(row)]);
            store.commit(vec![transition], Durability::Waited).await.unwrap();
            places.named(&project);
            for _ in 0..2 {
                assert_eq!(places.folder(&store, &project).await.unwrap(), Some(folder.into()));
            }
        }
    }
}
