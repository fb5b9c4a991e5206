//! Python environments of bundles, for whoever asks: before workflow files are imported, and over the API.

use pinrail_model::document::Sha;
use pinrail_model::names::ProjectName;
use std::path::Path;

use crate::app::App;
use crate::compile::Compiled;
use crate::environments::{Code, EnvironmentError, KnownEnvironment, WantedEnvironment, extras_of, known_extras, read};
use crate::problem::Problem;
use crate::project::Project;
use crate::tokens::{Principal, Role};

impl App {
    /// Gives a project's settings the interpreter that its workflow files are imported by: that of its Python environment,
    /// built if need be, when it has a lock. Gives the extras that its templates may name.
    pub(crate) async fn equip(
        &self,
        project: &ProjectName,
        bundle: Sha,
        root: &Path,
        settings: &mut Project,
    ) -> Result<Vec<String>, EnvironmentError> {
        let folder = self.folder(project).await?;
        let environments = &self.attempts.parts.environments;
        let code = Code { project, bundle, root, folder: folder.as_deref(), settings };
        let tell = |words: &str| tracing::info!(%project, "{words}");
        if let Some(environment) = environments.ensure(code, &[], &tell).await? {
            let extras = known_extras(root, settings).map_err(EnvironmentError::Wrong)?;
            settings.interpreter = Some(environment.python().display().to_string());
            return Ok(extras);
        }
        if let Some(name) = settings.interpreter.as_ref().filter(|name| name.contains('/'))
            && let Some(folder) = folder
        {
            settings.interpreter = Some(folder.join(name).display().to_string());
        }
        Ok(Vec::new())
    }

    async fn folder(&self, project: &ProjectName) -> Result<Option<std::path::PathBuf>, EnvironmentError> {
        let folder = self.attempts.project_folder(project).await;
        folder.map_err(|error| EnvironmentError::Machine {
            message: error.to_string(),
            hint: "Try again; if it persists, look at the disk and the server's log.".to_owned(),
        })
    }

    /// Adds what is wrong with the locks of extras that jobs name.
    pub(crate) fn check_extras(&self, root: &Path, settings: &Project, compiled: &mut Compiled) {
        let combinations = compiled.documents.values().flat_map(extras_of);
        let wrong: Vec<_> = combinations.filter_map(|extras| read(root, settings, &extras).err()).flatten().collect();
        for found in wrong {
            if !compiled.diagnostics.contains(&found) {
                compiled.broken.entry(crate::project::FILE.to_owned()).or_default();
                compiled.diagnostics.push(found);
            }
        }
    }

    /// The Python environments that a bundle asks for, the one of all its files first; these of them are built. Those
    /// with extras are known once the first one is there.
    ///
    /// # Errors
    /// When a lock is wrong, or an environment cannot be built.
    pub async fn wanted_environments(
        &self,
        principal: &Principal,
        project: &ProjectName,
        bundle: Sha,
        extras: &[String],
        build: &[Sha],
    ) -> Result<Vec<WantedEnvironment>, Problem> {
        principal.may(Role::Operator, project)?;
        // As long as this is held, retention removes none of them.
        let _held = self.bundles.hold().await;
        let (root, settings) = self.bundle(project, bundle).await?;
        let folder = self.folder(project).await?;
        let code = Code { project, bundle, root: &root, folder: folder.as_deref(), settings: &settings };
        let environments = &self.attempts.parts.environments;
        let tell = |words: &str| tracing::info!(%project, "{words}");
        let mut combinations = vec![Vec::new()];
        if !extras.is_empty() {
            combinations.push(extras.to_vec());
        }
        let mut wanted: Vec<WantedEnvironment> = Vec::new();
        let mut at = 0;
        while at < combinations.len() {
            let extras = combinations[at].clone();
            let Some(mut one) = environments.wanted(code, &extras).await? else { break };
            if !one.ready && build.contains(&one.digest) {
                environments.ensure(code, &extras, &tell).await?;
                one = environments.wanted(code, &extras).await?.unwrap_or(one);
            }
            let ready = one.ready;
            if !wanted.iter().any(|known| known.digest == one.digest) {
                wanted.push(one);
            }
            if at == 0 && ready {
                // What is wrong with the files is told by who needs them.
                let compiled = self.compile(principal, project, bundle).await?;
                let named = compiled.documents.values().flat_map(extras_of);
                combinations.extend(named.filter(|extras| read(&root, &settings, extras).is_ok()));
            }
            at += 1;
        }
        Ok(wanted)
    }

    /// The Python environments that bundles of a project used, the last used first.
    ///
    /// # Errors
    /// When the caller may not see the project.
    pub async fn environments(
        &self,
        principal: &Principal,
        project: &ProjectName,
    ) -> Result<Vec<KnownEnvironment>, Problem> {
        principal.may(Role::Viewer, project)?;
        let (environments, project) = (self.attempts.parts.environments.clone(), project.clone());
        let listed = tokio::task::spawn_blocking(move || environments.list(&project)).await;
        listed.map_err(|error| Problem::new("internal", error.to_string()))
    }
}
