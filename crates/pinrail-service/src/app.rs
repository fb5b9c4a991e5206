//! The application functions behind the API: each authorizes, checks, and reads the store or sends to its inbox.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use pinrail_model::document::{
    Document, ExecutorKind, Job, JobKind, Param, ParamType, Sha, SqlSource, check_executor, first_message,
};
use pinrail_model::explain::Explanation;
use pinrail_model::ids::{AttemptId, BackfillId, CommandId, Ids, RunId, TransitionId, fresh};
use pinrail_model::names::{BadName, JobName, ProjectName, TargetName, TaskName, WorkflowName};
use pinrail_model::near::nearest;
use pinrail_model::notify::Rules;
use pinrail_model::run::{Cause, Class, Ends, Run};
use pinrail_model::schedule::{interval_at, zone_of};
use pinrail_model::seam::exec::Sandbox;
use pinrail_model::seam::lake::{Catalog, FileScope, LakeError, QueryEngine, TableInfo, View};
use pinrail_model::seam::store::{
    Activation, ActiveVersion, Answer, BundleRow, Code, Command, CommandKind, Durability, IdempotencyRow, InputRow,
    ListedRun, NewRun, ProjectRow, Query, Reply, Store, StoredAttempt, StoredReply, StoredRun, TokenRow, Topic,
    Transition, VersionRow, Who, Write,
};
use pinrail_model::select::select;
use pinrail_model::step;
use pinrail_model::target::{Lane, Target, name_of};
use pinrail_model::time::{Clock, Micros};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::ToSchema;

use crate::attempt::Attempts;
use crate::bundles::{Bundles, Manifest, check, sha};
use crate::compile::{Compiled, Compiler, TIMEOUT, named};
use crate::edges;
use crate::environments::EnvironmentError;
use crate::inputs;
use crate::notify::Sender;
use crate::owner::{Input, OwnerHandle};
use crate::plan::{JobChanges, ScheduleChange, job_changes, schedule_change};
use crate::problem::Problem;
use crate::project::Project;
use crate::queries::Queries;
use crate::retention::compiled_file;
use crate::tokens::{Principal, Role, digest, make, project_not_found};

/// How long a caller waits for the owner to take a command.
const COMMAND_PATIENCE: Duration = Duration::from_secs(30);

/// Everything that a request can reach.
pub struct App {
    pub store: Arc<dyn Store>,
    pub clock: Arc<dyn Clock>,
    pub ids: Arc<dyn Ids>,
    pub owner: OwnerHandle,
    pub attempts: Arc<Attempts>,
    pub bundles: Bundles,
    pub compiler: Compiler,
    pub sandbox: Arc<dyn Sandbox>,
    pub engine: Option<Arc<dyn QueryEngine>>,
    pub catalog: Option<Arc<dyn Catalog>>,
    pub queries: Queries,
    pub sender: Arc<Sender>,
    pub state: PathBuf,
}

/// What a run is asked for with.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RunRequest {
    /// Either this or `job`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workflow: Option<WorkflowName>,
    /// A job without a workflow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<OneOff>,
    /// A date or time of the interval; none: the last complete one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<String>,
    /// Values of the workflow's parameters; texts are read as the parameter's type. Those of a `job` are what they are.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub params: BTreeMap<String, Value>,
    /// Runs all jobs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub executor: Option<ExecutorKind>,
    /// Runs these jobs, whatever runs the others.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub executors: BTreeMap<JobName, ExecutorKind>,
    /// Which jobs, as in `a`, `a+`, `+a`; none: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jobs: Option<String>,
    /// Outputs of jobs above that the selection leaves out. Given, those jobs count as succeeded, for tests of one job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upstream: Option<BTreeMap<JobName, BTreeMap<String, Value>>>,
    /// The bundle to run; none: the deployed one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bundle: Option<Sha>,
    /// Whose tables it writes; none: the usual one of the bundle, or the only one that has the deployed workflow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<TargetName>,
}

/// A job of its own.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum OneOff {
    /// A dotted path, such as `jobs.load.LoadFlights`.
    Class(String),
    /// Statements.
    Sql(String),
    /// A file of statements, relative to the project.
    SqlFile(String),
    /// A program and its arguments.
    Shell(Vec<String>),
}

/// Which runs a list shows: what is none does not matter.
#[derive(Debug, Clone, Default)]
pub struct RunsPage {
    pub project: Option<ProjectName>,
    pub workflow: Option<WorkflowName>,
    pub target: Option<TargetName>,
    pub state: Option<String>,
    pub backfill: Option<BackfillId>,
    /// Only older ones than this.
    pub before: Option<RunId>,
    pub limit: u32,
}

/// What a deploy came to.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Deployed {
    pub bundle: Sha,
    /// Null in a project without targets.
    pub target: Option<TargetName>,
    /// Nothing was changed.
    pub dry_run: bool,
    pub workflows: Vec<DeployedWorkflow>,
    /// Files with errors: nothing of them was deployed.
    pub broken: Vec<String>,
    /// Active workflows that stay as they were, because their file has errors.
    pub kept: Vec<KeptWorkflow>,
    /// Active workflows that the bundle does not have, which are active no longer.
    pub removed: Vec<WorkflowName>,
    pub diagnostics: Vec<crate::compile::Diagnostic>,
    /// What people should know, such as that runs under way keep their version.
    pub notes: Vec<String>,
}

/// A workflow whose last good version stays active.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct KeptWorkflow {
    pub name: WorkflowName,
    pub version: Sha,
    pub deployed_at: Micros,
    /// Where the errors are.
    pub file: String,
    /// How many are known to be there.
    pub errors: usize,
}

/// One workflow of a deploy.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct DeployedWorkflow {
    pub name: WorkflowName,
    pub version: Sha,
    /// How many it has.
    pub jobs: usize,
    /// What the deploy does to it.
    pub change: Change,
    /// What it does to its jobs.
    pub diff: JobChanges,
    /// Runs under way, which keep the version that they began with.
    pub in_flight: u32,
    /// What it does to its fire times of the next seven days; none without a schedule before and after.
    pub schedule: Option<ScheduleChange>,
}

/// A workflow against its active version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Change {
    /// None of that name was active.
    New,
    /// Its document is another one.
    Changed,
    /// Its document is the same, but files of the project are not.
    Files,
    Unchanged,
}

impl App {
    pub(crate) fn now(&self) -> Micros {
        self.clock.now().wall
    }

    fn transition(&self, writes: Vec<Write>) -> Transition {
        Transition::new(fresh::<TransitionId>(self.ids.as_ref()), writes)
    }

    pub(crate) async fn commit(&self, writes: Vec<Write>) -> Result<(), Problem> {
        let replies = self.store.commit(vec![self.transition(writes)], Durability::Waited).await?;
        match replies.first() {
            Some(Reply::Committed) => Ok(()),
            other => Err(refused(other)),
        }
    }

    /// Changes something that may not be there; gives whether it was.
    pub(crate) async fn change(&self, write: Write) -> Result<bool, Problem> {
        let replies = self.store.commit(vec![self.transition(vec![write])], Durability::Waited).await?;
        match replies.first() {
            Some(Reply::Committed) => Ok(true),
            Some(Reply::Missing) => Ok(false),
            other => Err(refused(other)),
        }
    }

    pub(crate) fn who(principal: &Principal) -> Who {
        Who { project: principal.project.clone() }
    }

    /// Whether a filter by project names one that the caller can see.
    fn reaches(principal: &Principal, filter: Option<&ProjectName>) -> bool {
        principal.project.as_ref().is_none_or(|own| filter.is_none_or(|project| project == own))
    }

    // Tokens.

    /// Makes the admin's token if there is none that works, and keeps it in a file that only its owner can read.
    ///
    /// # Errors
    /// When the file or the database cannot be written.
    pub async fn ensure_admin(&self) -> Result<String, Problem> {
        let file = self.state.join("admin.token");
        if let Ok(token) = std::fs::read_to_string(&file) {
            let token = token.trim().to_owned();
            if self.authenticate(&token).await.is_ok() {
                return Ok(token);
            }
        }
        let token = self.make_token("admin", None, Role::Admin, None).await?.1;
        write_private(&file, token.as_bytes())
            .map_err(|e| Problem::new("state-failed", format!("\"{}\" cannot be written: {e}", file.display())))?;
        Ok(token)
    }

    /// Makes a token; its text is shown this once.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub async fn make_token(
        &self,
        name: &str,
        project: Option<ProjectName>,
        role: Role,
        lives: Option<Duration>,
    ) -> Result<(TokenRow, String), Problem> {
        let (token, hash) = make();
        let now = self.now();
        let row = TokenRow {
            id: fresh(self.ids.as_ref()),
            name: name.to_owned(),
            hash,
            project,
            role: role.to_string(),
            created_at: now,
            expires_at: lives.map(|lives| now.plus(lives)),
            revoked_at: None,
        };
        self.commit(vec![Write::Token(row.clone())]).await?;
        Ok((row, token))
    }

    /// Who a bearer token belongs to.
    ///
    /// # Errors
    /// 401 when it is unknown, expired or revoked; the answer does not say which.
    pub async fn authenticate(&self, token: &str) -> Result<Principal, Problem> {
        let invalid = || {
            Problem::new("token-invalid", "the bearer token is unknown, expired or revoked")
                .hint("Make one with `pinrail token create`, or use the one in the state folder's admin.token.")
        };
        let answer = self.store.read(&Who::default(), Query::TokenByHash(digest(token))).await?;
        let Answer::Tokens(rows) = answer else { return Err(invalid()) };
        let row = rows.into_iter().next().ok_or_else(invalid)?;
        let expired = row.expires_at.is_some_and(|at| at <= self.now());
        if expired || row.revoked_at.is_some() {
            return Err(invalid());
        }
        Ok(Principal { id: row.id, name: row.name, role: row.role.parse()?, project: row.project })
    }

    /// The tokens that a caller may see.
    ///
    /// # Errors
    /// When the role is too low.
    pub async fn tokens(&self, principal: &Principal) -> Result<Vec<TokenRow>, Problem> {
        admin_only(principal)?;
        match self.store.read(&Self::who(principal), Query::Tokens).await? {
            Answer::Tokens(rows) => Ok(rows),
            _ => Ok(Vec::new()),
        }
    }

    /// Makes a token for somebody, never with more rights than the caller's own.
    ///
    /// # Errors
    /// When the role is too low, or there is no such project.
    pub async fn create_token(
        &self,
        principal: &Principal,
        name: &str,
        project: Option<ProjectName>,
        role: Role,
        lives: Option<Duration>,
    ) -> Result<(TokenRow, String), Problem> {
        admin_only(principal)?;
        if role == Role::Worker && (project.is_some() || principal.project.is_some()) {
            let problem =
                Problem::new("bad-request", "a worker's token is not for one project").with("pointer", "/project");
            return Err(
                problem.hint("Leave the project out: a worker runs what the server gives it, of every project.")
            );
        }
        if let Some(own) = &principal.project
            && project.as_ref() != Some(own)
        {
            return Err(match project {
                Some(project) => project_not_found(project.as_str()),
                None => everywhere_only().hint(format!("Name the caller's project: \"{own}\".")),
            });
        }
        if let Some(project) = &project {
            self.known_project(principal, project).await?;
        }
        self.make_token(name, project, role, lives).await
    }

    /// Ends a token.
    ///
    /// # Errors
    /// When there is no such token in the caller's reach.
    pub async fn revoke_token(&self, principal: &Principal, id: pinrail_model::ids::TokenId) -> Result<(), Problem> {
        admin_only(principal)?;
        let revoke = Write::RevokeToken { who: Self::who(principal), id, at: self.now() };
        if self.change(revoke).await? { Ok(()) } else { Err(token_not_found(&id.to_string())) }
    }

    // Requests with a key.

    /// The request that a caller sent with a key before.
    pub(crate) async fn earlier(&self, principal: &Principal, key: &str) -> Result<Option<IdempotencyRow>, Problem> {
        let query = Query::Idempotency { principal: principal.id.to_string(), key: key.to_owned() };
        match self.store.read(&Who::default(), query).await? {
            Answer::Idempotency(row) => Ok(Some(*row)),
            _ => Ok(None),
        }
    }

    /// Notes a request before it is carried out. It is durable no later than whatever the request does.
    pub(crate) async fn begin(&self, principal: &Principal, key: &str, request: Sha) -> Result<(), Problem> {
        let row = self.idempotency(principal, key, request, None);
        self.store.commit(vec![self.transition(vec![Write::Idempotency(row)])], Durability::Behind).await?;
        Ok(())
    }

    /// Stores the reply to a request.
    pub(crate) async fn remember(
        &self,
        principal: &Principal,
        key: &str,
        request: Sha,
        status: u16,
        body: String,
    ) -> Result<(), Problem> {
        let row = self.idempotency(principal, key, request, Some(StoredReply { status, body }));
        self.commit(vec![Write::Idempotency(row)]).await
    }

    /// Forgets a request that was refused.
    pub(crate) async fn forget(&self, principal: &Principal, key: &str) -> Result<(), Problem> {
        let drop = Write::DropIdempotency { principal: principal.id.to_string(), key: key.to_owned() };
        self.store.commit(vec![self.transition(vec![drop])], Durability::Behind).await?;
        Ok(())
    }

    fn idempotency(
        &self,
        principal: &Principal,
        key: &str,
        request: Sha,
        reply: Option<StoredReply>,
    ) -> IdempotencyRow {
        let (principal, key) = (principal.id.to_string(), key.to_owned());
        IdempotencyRow { principal, key, request, reply, at: self.now() }
    }

    // Projects and bundles.

    /// The projects that a caller may see.
    ///
    /// # Errors
    /// When the state cannot be read.
    pub async fn projects(&self, principal: &Principal) -> Result<Vec<ProjectRow>, Problem> {
        match self.store.read(&Self::who(principal), Query::Projects).await? {
            Answer::Projects(rows) => Ok(rows),
            _ => Ok(Vec::new()),
        }
    }

    /// Refuses a project that nothing was ever sent to: its name is more likely misspelt than new.
    pub(crate) async fn known_project(&self, principal: &Principal, project: &ProjectName) -> Result<(), Problem> {
        let known = self.projects(principal).await?;
        if known.iter().any(|row| row.name == *project) {
            return Ok(());
        }
        let near = nearest(project.as_str(), known.iter().map(|row| row.name.as_str()));
        Err(project_not_found(project.as_str()).hint(match near {
            Some(near) => format!("Did you mean \"{near}\"?"),
            None => "A project begins with its first deploy or bundle; `pinrail deploy` sends one.".to_owned(),
        }))
    }

    /// Checks that this server takes a project.
    pub(crate) async fn admit(&self, project: &ProjectName) -> Result<(), Problem> {
        let Answer::Projects(known) = self.store.read(&Who::default(), Query::Projects).await? else { return Ok(()) };
        self.attempts.parts.tenancy.admit(project, known.iter().map(|row| &row.name))
    }

    /// Takes note of a bundle; gives its digest and the blobs that are still to be sent.
    ///
    /// # Errors
    /// Paths that leave the project, and too many bytes.
    pub async fn announce_bundle(
        &self,
        principal: &Principal,
        project: &ProjectName,
        manifest: Manifest,
        folder: Option<String>,
    ) -> Result<(Sha, Vec<Sha>), Problem> {
        principal.may(Role::Operator, project)?;
        self.admit(project).await?;
        check(&manifest).map_err(|e| Problem::new("bad-bundle", e.to_string()).hint(e.hint()))?;
        // What is not missing now must not be deleted before the bundle is known.
        let _held = self.bundles.hold().await;
        let missing = self.bundles.missing(&manifest);
        let bundle = sha(&manifest);
        if missing.is_empty() {
            let sizes = self.bundles.check_sizes(&manifest);
            sizes.map_err(|e| Problem::new("bad-bundle", e.to_string()).hint(e.hint()))?;
            let created_at = self.now();
            self.commit(vec![
                Write::Project(ProjectRow { name: project.clone(), folder, created_at }),
                Write::Bundle(BundleRow { project: project.clone(), sha: bundle, manifest, created_at }),
            ])
            .await?;
            self.attempts.places.named(project);
        }
        Ok((bundle, missing))
    }

    /// Keeps one blob.
    ///
    /// # Errors
    /// When its bytes are not what its digest says.
    pub async fn put_blob(
        &self,
        principal: &Principal,
        project: &ProjectName,
        wanted: Sha,
        bytes: Vec<u8>,
    ) -> Result<(), Problem> {
        principal.may(Role::Operator, project)?;
        let bundles = self.bundles.clone();
        let _held = self.bundles.hold().await;
        let put = tokio::task::spawn_blocking(move || {
            if Sha::of(&bytes) != wanted {
                return Err(Problem::new(
                    "bad-bundle",
                    format!("the bytes sent for blob {wanted} have another digest"),
                ));
            }
            bundles.put(&bytes).map_err(|e| Problem::new("state-failed", e.to_string()).hint(e.hint()))
        });
        put.await.map_err(|e| Problem::new("internal", e.to_string()))??;
        Ok(())
    }

    pub(crate) async fn known_bundle(&self, project: &ProjectName, bundle: Sha) -> Result<BundleRow, Problem> {
        let query = Query::Bundle { project: project.clone(), sha: bundle };
        match self.store.read(&Who { project: Some(project.clone()) }, query).await? {
            Answer::Bundle(row) => Ok(*row),
            _ => Err(Problem::new("bad-bundle", format!("bundle {bundle} is not known")).hint("Send it first.")),
        }
    }

    pub(crate) async fn bundle(&self, project: &ProjectName, bundle: Sha) -> Result<(PathBuf, Project), Problem> {
        let row = self.known_bundle(project, bundle).await?;
        let bundles = self.bundles.clone();
        let _held = self.bundles.hold().await;
        let unpacked = tokio::task::spawn_blocking(move || bundles.unpack(&row.manifest)).await;
        let root = unpacked
            .map_err(|e| Problem::new("internal", e.to_string()))?
            .map_err(|e| Problem::new("bad-bundle", e.to_string()).hint(e.hint()))?;
        let settings = Project::read_bundle(&root, project)
            .map_err(|e| Problem { hint: e.hint.clone(), ..Problem::new("definition-errors", e.to_string()) })?;
        Ok((root, settings))
    }

    /// Compiles the workflow files of a bundle, once for ever.
    ///
    /// # Errors
    /// When the bundle is not known or the interpreter cannot be run.
    pub async fn compile(
        &self,
        principal: &Principal,
        project: &ProjectName,
        bundle: Sha,
    ) -> Result<Compiled, Problem> {
        principal.may(Role::Operator, project)?;
        let _held = self.bundles.hold().await;
        let kept = compiled_file(&self.state, project, bundle);
        if let Some(compiled) = std::fs::read(&kept).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()) {
            return Ok(compiled);
        }
        let (root, mut settings) = self.bundle(project, bundle).await?;
        settings.name = project.clone();
        let equipped = self.equip(project, bundle, &root, &mut settings).await;
        let mut compiled = match equipped {
            Ok(extras) => {
                let engine = self.engine.as_deref();
                self.compiler.compile(self.sandbox.as_ref(), engine, &root, &settings, &extras).await?
            }
            // As wrong as a mistake in a workflow file, and told like one; not kept, because only part of it is the bundle's.
            Err(EnvironmentError::Wrong(found)) => return Ok(Compiled::without_environment(found)),
            Err(other) => return Err(other.into()),
        };
        self.check_extras(&root, &settings, &mut compiled);
        let now = self.now();
        let mut writes = Vec::new();
        for (version, document) in &compiled.documents {
            let (_, workflow) = named(document);
            writes.push(Write::Version(VersionRow {
                project: project.clone(),
                workflow: workflow.parse().map_err(|e: BadName| Problem::new("internal", e.to_string()))?,
                version: *version,
                bundle,
                document: document.clone(),
                created_at: now,
            }));
        }
        if !writes.is_empty() {
            self.commit(writes).await?;
        }
        // Kept only to save time: one that is lost or cut off is made again. What took too long may take less time later.
        let lasting = compiled.diagnostics.iter().all(|diagnostic| diagnostic.code != TIMEOUT)
            && (self.engine.is_some() || !edges::need_engine(&compiled));
        if let Some(folder) = kept.parent().filter(|_| lasting) {
            let temporary = kept.with_extension("new");
            let written = std::fs::create_dir_all(folder)
                .and_then(|()| std::fs::write(&temporary, serde_json::to_vec(&compiled).unwrap_or_default()))
                .and_then(|()| std::fs::rename(&temporary, &kept));
            if let Err(error) = written {
                tracing::warn!(%error, "a compilation cannot be kept");
            }
        }
        Ok(compiled)
    }

    /// Makes a bundle's workflows the active ones. A broken file disables only its own workflows.
    ///
    /// # Errors
    /// When nothing in it can be deployed.
    pub async fn deploy(
        &self,
        principal: &Principal,
        project: &ProjectName,
        (bundle, target): (Sha, Option<&TargetName>),
        dry_run: bool,
    ) -> Result<Deployed, Problem> {
        principal.may(Role::Developer, project)?;
        // An old bundle must not be forgotten before it is named.
        let _held = self.bundles.hold().await;
        let mut compiled = self.compile(principal, project, bundle).await?;
        self.warn_of_pools(project, &mut compiled).await?;
        let disabled: BTreeSet<&String> = compiled.broken.values().flatten().collect();
        let (_, settings) = self.bundle(project, bundle).await?;
        let target = settings.targets.find(target)?;
        self.may_deploy_there(project, target.as_ref()).await?;
        let name = name_of(target.as_ref());
        let (active, elsewhere): (Vec<ActiveVersion>, Vec<ActiveVersion>) =
            self.workflows(principal, project).await?.into_iter().partition(|active| active.target == name);
        let by_name: BTreeMap<&WorkflowName, &ActiveVersion> =
            active.iter().map(|active| (&active.workflow, active)).collect();
        let mut versions = BTreeMap::new();
        let (mut workflows, mut notes) = (Vec::new(), Vec::new());
        for (version, document) in &compiled.documents {
            let read = Document::read(document).map_err(|errors| Problem::new("internal", first_message(&errors)))?;
            if disabled.contains(&read.workflow.to_string()) {
                continue;
            }
            let (name, jobs) = (read.workflow.clone(), read.jobs.len());
            let active = by_name.get(&name);
            let before = active.and_then(|active| Document::read(&active.document).ok());
            let change = match active {
                None => Change::New,
                Some(active) if active.version != *version => Change::Changed,
                Some(active) if active.bundle != bundle => Change::Files,
                Some(_) => Change::Unchanged,
            };
            let fires = target.as_ref().is_none_or(|target| target.schedules);
            let now = Some(&read).filter(|_| fires);
            let schedule = schedule_change(before.as_ref().filter(|_| fires), now, self.now());
            let diff = job_changes(before.as_ref(), &read);
            let in_flight = self.in_flight(principal, project, &name, target.as_ref()).await?;
            if in_flight > 0 && matches!(change, Change::Changed | Change::Files) {
                let runs = if in_flight == 1 { "run" } else { "runs" };
                notes.push(format!("{in_flight} {runs} in flight of \"{name}\" keep the version that they began with"));
            }
            workflows.push(DeployedWorkflow { name, version: *version, jobs, change, diff, in_flight, schedule });
            versions.insert(read.workflow, *version);
        }
        notes.extend(self.taken_over(project, target.as_ref(), &elsewhere).await?);
        // What is wrong with the settings is wrong with every workflow.
        let all = compiled.broken.is_empty() || compiled.broken.contains_key(crate::project::FILE);
        if compiled.errors() > 0 && (all || versions.is_empty()) {
            let detail = format!("{}; nothing was deployed", definition_errors(compiled.errors()));
            return Err(Problem::new("definition-errors", detail)
                .hint("Run `pinrail check`.")
                .with("diagnostics", &compiled.diagnostics));
        }
        let kept = kept(&active, &compiled, &versions);
        let stays = |name: &WorkflowName| versions.contains_key(name) || kept.iter().any(|kept| kept.name == *name);
        let removed = active.into_iter().map(|active| active.workflow).filter(|name| !stays(name)).collect();
        if !dry_run {
            step!("deploy.before-commit");
            let keep = kept.iter().map(|kept| kept.name.clone()).collect();
            let channels = self.bundle(project, bundle).await?.1.notify.channels;
            let (project, at) = (project.clone(), self.now());
            let activation = Activation { project, target: target.clone(), bundle, versions, keep, channels, at };
            self.command(principal, CommandKind::Activate(Box::new(activation))).await?;
        }
        let broken = compiled.broken.into_keys().collect();
        let target = name_of(target.as_ref());
        Ok(Deployed {
            bundle,
            target,
            dry_run,
            workflows,
            broken,
            kept,
            removed,
            diagnostics: compiled.diagnostics,
            notes,
        })
    }

    /// The active workflows of a project.
    ///
    /// # Errors
    /// When the project is not in the caller's reach.
    pub async fn workflows(&self, principal: &Principal, project: &ProjectName) -> Result<Vec<ActiveVersion>, Problem> {
        principal.may(Role::Viewer, project)?;
        match self.store.read(&Self::who(principal), Query::ActiveVersions { project: project.clone() }).await? {
            Answer::ActiveVersions(rows) => Ok(rows),
            _ => Ok(Vec::new()),
        }
    }

    // Runs.

    /// Makes a run; with a key that the caller has used before, gives the run that it made then.
    ///
    /// # Errors
    /// Everything that makes the run impossible, before any of it exists.
    pub async fn create_run(
        &self,
        principal: &Principal,
        project: &ProjectName,
        request: RunRequest,
        key: Option<String>,
    ) -> Result<StoredRun, Problem> {
        principal.may(Role::Operator, project)?;
        // An old bundle must not be forgotten before the run names it.
        let _held = self.bundles.hold().await;
        let (document, version, bundle, target) = self.code_of(principal, project, &request).await?;
        let code = request.job.is_none().then_some((&document.workflow, bundle));
        self.may_run_there(principal, project, target.as_ref(), code).await?;
        let lane = Lane::of(project, &document.workflow, target.as_ref());
        let executors = executors(&document, &request)?;
        let params = params(&document, &request.params)?;
        let interval = interval_at(document.schedule.as_ref(), request.at.as_deref(), self.now())
            .map_err(|message| Problem::new("bad-parameter", message))?;
        let outside = match &request.jobs {
            None => BTreeMap::new(),
            Some(jobs) => match &request.upstream {
                Some(given) => given_outside(&document, jobs, given)?,
                None => self.outside(&lane, &document, jobs, interval).await?,
            },
        };
        let id: RunId = fresh(self.ids.as_ref());
        // Who runs what is in a folder looks at it.
        let notify = if request.bundle.is_none() { Rules::of(&document) } else { None };
        let param_types = param_types(&document);
        let new = NewRun {
            id,
            project: project.clone(),
            target,
            workflow: document.workflow.clone(),
            version,
            bundle,
            class: Class::Interactive,
            one_off: request.job.is_some(),
            job: None,
            interval,
            tz: zone_of(document.schedule.as_ref()).to_owned(),
            params,
            param_types,
            outside,
            executors,
            by: principal.name.clone(),
            jobs: request.jobs,
            notify,
            replay_of: None,
            unique_key: key.map(|key| format!("{project}/{}/{key}", principal.id)),
        };
        let inputs = self.inputs(project, bundle).await?;
        let reply = self.command(principal, CommandKind::CreateRun(Box::new(new))).await?;
        // Under a key that has a run already, that run.
        let made: Option<RunId> = reply["ok"]["id"].as_str().and_then(|id| id.parse().ok());
        let made = made.ok_or_else(|| Problem::new("internal", format!("the reply for run {id} names no run")))?;
        if made == id {
            self.record_inputs(id, inputs).await?;
        }
        self.run(principal, made).await
    }

    /// The files under `[files]` of a project whose folder is here, as they are now.
    pub(crate) async fn inputs(&self, project: &ProjectName, bundle: Sha) -> Result<Vec<InputRow>, Problem> {
        let Some(folder) = self.attempts.project_folder(project).await? else { return Ok(Vec::new()) };
        // What is wrong with the bundle is told by what needs it.
        let Ok((_, settings)) = self.bundle(project, bundle).await else { return Ok(Vec::new()) };
        if settings.files.is_none() {
            return Ok(Vec::new());
        }
        let state = self.state.clone();
        let looked = tokio::task::spawn_blocking(move || inputs::look(&folder, &settings, &state)).await;
        Ok(looked.ok().flatten().unwrap_or_default())
    }

    /// Only explanations read them, so nobody waits.
    pub(crate) async fn record_inputs(&self, run: RunId, rows: Vec<InputRow>) -> Result<(), Problem> {
        if !rows.is_empty() {
            let write = Write::Inputs { run, rows };
            self.store.commit(vec![self.transition(vec![write])], Durability::Behind).await?;
        }
        Ok(())
    }

    /// The document that a request means, with its version and bundle, and the target at which it is to run.
    async fn code_of(
        &self,
        principal: &Principal,
        project: &ProjectName,
        request: &RunRequest,
    ) -> Result<(Document, Sha, Sha, Option<Arc<Target>>), Problem> {
        let named = request.target.as_ref();
        let target = match request.bundle {
            Some(bundle) => self.target_in(project, bundle, named).await?,
            None => self.target_of_deployed(principal, project, request.workflow.as_ref(), named).await?,
        };
        match (&request.workflow, &request.job) {
            (Some(_), Some(_)) | (None, None) => {
                Err(Problem::new("bad-request", "a run needs either \"workflow\" or \"job\""))
            }
            (None, Some(job)) => {
                let bundle = match request.bundle {
                    Some(bundle) => bundle,
                    None => self.deployed_bundle(principal, project, target.as_ref()).await?,
                };
                let document = one_off(job, request.executor, &request.params)?;
                self.known_bundle(project, bundle).await?;
                let (sealed, version) = document.seal();
                self.commit(vec![Write::Version(VersionRow {
                    project: project.clone(),
                    workflow: document.workflow.clone(),
                    version,
                    bundle,
                    document: sealed,
                    created_at: self.now(),
                })])
                .await?;
                Ok((document, version, bundle, target))
            }
            (Some(workflow), None) => match request.bundle {
                Some(bundle) => {
                    let compiled = self.compile(principal, project, bundle).await?;
                    let (document, version, bundle) = find_workflow(&compiled, workflow, bundle)?;
                    Ok((document, version, bundle, target))
                }
                None => {
                    let (document, version, bundle) =
                        self.deployed(principal, project, workflow, target.as_ref()).await?;
                    Ok((document, version, bundle, target))
                }
            },
        }
    }

    /// The active version of a workflow at a target, with its bundle.
    pub(crate) async fn deployed(
        &self,
        principal: &Principal,
        project: &ProjectName,
        workflow: &WorkflowName,
        target: Option<&Arc<Target>>,
    ) -> Result<(Document, Sha, Sha), Problem> {
        let mut active = self.workflows(principal, project).await?;
        active.retain(|active| active.target == name_of(target));
        let names: Vec<_> = active.iter().map(|version| version.workflow.to_string()).collect();
        let found = active.into_iter().find(|version| version.workflow == *workflow);
        let found = found.ok_or_else(|| workflow_not_found(workflow, &names, "deployed"))?;
        let document =
            Document::read(&found.document).map_err(|errors| Problem::new("internal", first_message(&errors)))?;
        Ok((document, found.version, found.bundle))
    }

    pub(crate) async fn deployed_bundle(
        &self,
        principal: &Principal,
        project: &ProjectName,
        target: Option<&Arc<Target>>,
    ) -> Result<Sha, Problem> {
        let mut active = self.workflows(principal, project).await?;
        active.retain(|active| active.target == name_of(target));
        if let Some(latest) = active.iter().max_by_key(|version| version.deployed_at) {
            return Ok(latest.bundle);
        }
        self.known_project(principal, project).await?;
        // A command or a statement needs no files: an empty bundle will do.
        Ok(self.announce_bundle(principal, project, Manifest::new(), None).await?.0)
    }

    /// Outputs of the parents that a selection leaves out: they must have succeeded for the same interval.
    pub(crate) async fn outside(
        &self,
        lane: &Lane,
        document: &Document,
        jobs: &str,
        interval: pinrail_model::time::Interval,
    ) -> Result<Outputs, Problem> {
        let needed = left_out(document, jobs)?;
        if needed.is_empty() {
            return Ok(BTreeMap::new());
        }
        let query = Query::Succeeded { lane: lane.clone(), interval };
        let Answer::Succeeded(rows) = self.store.read(&Who::default(), query).await? else {
            return Ok(BTreeMap::new());
        };
        let outputs: Outputs = rows.into_iter().map(|row| (row.job, row.outputs)).collect();
        let missing: Vec<String> =
            needed.iter().filter(|job| !outputs.contains_key(**job)).map(|job| job.to_string()).collect();
        if missing.is_empty() {
            return Ok(outputs.into_iter().filter(|(job, _)| needed.contains(job)).collect());
        }
        let detail = format!("{} did not succeed for this interval", missing.join(", "));
        // What is above a missing parent may be missing as well, so it is selected with all of it.
        let above: Vec<String> = missing.iter().map(|job| format!("+{job}")).collect();
        let wanted = jobs.split([',', ' ']).filter(|part| !part.is_empty()).map(str::to_owned);
        let all: Vec<String> = wanted.chain(above).collect();
        let hint = format!("Select what is above as well: --job {}", all.join(","));
        Err(Problem::new("parents-missing", detail).hint(hint))
    }

    /// One run.
    ///
    /// # Errors
    /// 404 when there is none in the caller's reach.
    pub async fn run(&self, principal: &Principal, id: RunId) -> Result<StoredRun, Problem> {
        match self.store.read(&Self::who(principal), Query::Run(id)).await? {
            Answer::Run(stored) => Ok(*stored),
            _ => Err(run_not_found(&id.to_string())),
        }
    }

    /// The run that a person means: an id, its last characters, `last`, or `workflow@date`.
    ///
    /// # Errors
    /// None, or several that it could be.
    pub async fn find_run(
        &self,
        principal: &Principal,
        project: Option<ProjectName>,
        reference: &str,
    ) -> Result<StoredRun, Problem> {
        if let Ok(id) = reference.parse::<RunId>() {
            return self.run(principal, id).await;
        }
        if !Self::reaches(principal, project.as_ref()) {
            return Err(run_not_found(reference));
        }
        let mut query = Find { project, ..Find::default() };
        if let Some((workflow, at)) = reference.split_once('@') {
            let workflow: WorkflowName = workflow.parse().map_err(|_| run_not_found(reference))?;
            query.workflow = Some(workflow);
            query.date = Some(at.to_owned());
        } else if reference != "last" {
            if reference.len() < 2 || !reference.chars().all(|c| c.is_ascii_alphanumeric()) {
                return Err(run_not_found(reference));
            }
            query.ends_with = Some(reference.to_ascii_uppercase());
        }
        let latest = reference == "last" || query.date.is_some();
        let runs = self.find_runs(principal, query).await?;
        match runs.as_slice() {
            [] => Err(run_not_found(reference)),
            [first, rest @ ..] if rest.is_empty() || latest => self.run(principal, first.run.id).await,
            several => {
                let ids: Vec<_> = several.iter().map(|listed| listed.run.id.to_string()).collect();
                Err(Problem::new("bad-parameter", format!("\"{reference}\" could be {}", ids.join(", "))))
            }
        }
    }

    async fn find_runs(&self, principal: &Principal, find: Find) -> Result<Vec<ListedRun>, Problem> {
        let limit = if find.date.is_some() { 200 } else { 10 };
        let query = Query::Runs {
            project: find.project,
            workflow: find.workflow,
            target: None,
            state: None,
            backfill: None,
            ends_with: find.ends_with,
            before: None,
            limit,
        };
        let Answer::Runs(mut runs) = self.store.read(&Self::who(principal), query).await? else {
            return Ok(Vec::new());
        };
        if let Some(date) = find.date {
            runs.retain(|stored| {
                let tz = pinrail_model::schedule::zone(&stored.run.tz);
                tz.is_ok_and(|tz| pinrail_model::schedule::ds(stored.run.interval, tz).to_string() == date)
            });
        }
        Ok(runs)
    }

    /// A page of runs, newest first.
    ///
    /// # Errors
    /// When the state cannot be read.
    pub async fn runs(&self, principal: &Principal, page: RunsPage) -> Result<Vec<ListedRun>, Problem> {
        let RunsPage { project, workflow, target, state, backfill, before, limit } = page;
        if !Self::reaches(principal, project.as_ref()) {
            return Ok(Vec::new());
        }
        let query = Query::Runs { project, workflow, target, state, backfill, ends_with: None, before, limit };
        match self.store.read(&Self::who(principal), query).await? {
            Answer::Runs(runs) => Ok(runs),
            _ => Ok(Vec::new()),
        }
    }

    /// Waits until a run has ended, or as long as the caller wants.
    ///
    /// # Errors
    /// 404 when there is none in the caller's reach.
    pub async fn wait(&self, principal: &Principal, id: RunId, patience: Duration) -> Result<StoredRun, Problem> {
        // A run may have thousands of tasks, and each of them wakes whoever waits several times: nothing but the state is
        // read before the end.
        let ended = async {
            loop {
                match self.store.read(&Self::who(principal), Query::RunState(id)).await? {
                    Answer::RunState { state, last_event } if !is_final(&state) => {
                        self.store.follow(Topic::Run(id), last_event).await?;
                    }
                    _ => return Ok::<(), Problem>(()),
                }
            }
        };
        if let Ok(ended) = tokio::time::timeout(patience, ended).await {
            ended?;
        }
        self.run(principal, id).await
    }

    /// Ends a run, or one job of it.
    ///
    /// # Errors
    /// 409 when it has ended already.
    pub async fn cancel(
        &self,
        principal: &Principal,
        id: RunId,
        job: Option<TaskName>,
        reason: Option<String>,
    ) -> Result<StoredRun, Problem> {
        let stored = self.run(principal, id).await?;
        principal.may(Role::Operator, &stored.run.project)?;
        self.command(principal, CommandKind::Stop { run: id, job, reason }).await?;
        self.run(principal, id).await
    }

    /// Runs what failed again, or what is selected.
    ///
    /// # Errors
    /// 409 when it has not ended.
    pub async fn retry(
        &self,
        principal: &Principal,
        id: RunId,
        jobs: Option<String>,
        bundle: Option<Sha>,
    ) -> Result<StoredRun, Problem> {
        let stored = self.run(principal, id).await?;
        let project = &stored.run.project;
        principal.may(Role::Operator, project)?;
        let _held = self.bundles.hold().await;
        let code = match bundle {
            None => {
                self.may_go_on(principal, &stored.run).await?;
                None
            }
            // A job of no workflow stays what it was asked to be, with the files as they are now.
            Some(bundle) if matches!(stored.run.cause, Cause::OneOff { .. }) => {
                self.known_bundle(project, bundle).await?;
                let target = self.target_of_run(&stored.run).await?;
                self.may_run_there(principal, project, target.as_ref(), None).await?;
                Some(Code { bundle, version: stored.run.version })
            }
            Some(bundle) => {
                let compiled = self.compile(principal, project, bundle).await?;
                let (_, version, bundle) = find_workflow(&compiled, &stored.run.workflow, bundle)?;
                let code = Some((&stored.run.workflow, bundle));
                let target = self.target_of_run(&stored.run).await?;
                self.may_run_there(principal, project, target.as_ref(), code).await?;
                Some(Code { bundle, version })
            }
        };
        let inputs = self.inputs(project, code.as_ref().map_or(stored.run.bundle, |code| code.bundle)).await?;
        self.command(principal, CommandKind::Retry { run: id, jobs, code }).await?;
        self.record_inputs(id, inputs).await?;
        self.run(principal, id).await
    }

    /// Why the tasks of a run are where they are, the most telling first.
    ///
    /// # Errors
    /// 404 when there is none in the caller's reach.
    pub async fn explain(
        &self,
        principal: &Principal,
        id: RunId,
        job: Option<TaskName>,
    ) -> Result<Vec<Explanation>, Problem> {
        let stored = self.run(principal, id).await?;
        let name = job.clone();
        let answer = self.owner.ask(|answer| Input::Explain { run: id, job, answer }).await;
        let found = answer.ok_or_else(|| Problem::new("owner-gone", "the server is stopping"))??;
        let mut found = found.ok_or_else(|| {
            let name = name.map_or_else(String::new, |name| name.to_string());
            Problem::new("job-not-found", format!("job \"{name}\" not found in run \"{id}\""))
                .hint(format!("See its jobs with `pinrail show {id}`."))
        })?;
        self.foresee(principal, &mut found).await?;
        let mut explanations = found.explanations;
        if explanations.iter().any(|explanation| explanation.why.failure().is_some()) {
            self.compare(&stored.run, &mut explanations).await?;
        }
        Ok(explanations)
    }

    /// Adds to explanations of failures what is known of files and tables.
    async fn compare(&self, run: &Run, explanations: &mut [Explanation]) -> Result<(), Problem> {
        let read = async |query| self.store.read(&Who::default(), query).await;
        let before = Query::InputsOfLastSuccess { lane: run.lane(), before: run.id };
        let changed = match (read(before).await?, read(Query::Inputs(run.id)).await?) {
            // A run without any knows nothing of files: it may have been made before they were recorded.
            (Answer::Inputs(before), Answer::Inputs(now)) if !before.is_empty() && !now.is_empty() => {
                inputs::changes(&before, &now)
            }
            _ => Vec::new(),
        };
        for explanation in explanations {
            let failure = explanation.why.failure();
            let Some((attempt, ends)) = failure.and_then(|failure| Some((failure.attempt?, failure.ends))) else {
                continue;
            };
            let unpublished = Query::Unpublished { place: run.place(), attempt };
            if let Answer::Unpublished(rows) = read(unpublished).await? {
                explanation.unpublished = rows;
            }
            if ends != Ends::Cancelled {
                explanation.changed.clone_from(&changed);
            }
        }
        Ok(())
    }

    /// One attempt.
    ///
    /// # Errors
    /// 404 when there is none in the caller's reach.
    pub async fn attempt(&self, principal: &Principal, id: AttemptId) -> Result<StoredAttempt, Problem> {
        match self.store.read(&Self::who(principal), Query::Attempt(id)).await? {
            Answer::Attempt(attempt) => Ok(*attempt),
            _ => Err(attempt_not_found(&id.to_string())),
        }
    }

    /// Sends a command and waits for what became of it.
    pub(crate) async fn command(&self, principal: &Principal, kind: CommandKind) -> Result<Value, Problem> {
        let id: CommandId = fresh(self.ids.as_ref());
        let command = Command { id, by: principal.name.clone(), at: self.now(), kind };
        step!("command.before-send");
        self.store.send(vec![command]).await?;
        step!("command.after-send");
        self.owner.tell(Input::Nudge);
        let replied = async {
            loop {
                if let Answer::Reply(reply) = self.store.read(&Who::default(), Query::CommandReply(id)).await? {
                    return Ok::<Value, Problem>(reply);
                }
                self.store.follow(Topic::Reply(id), 0).await?;
            }
        };
        let reply = tokio::time::timeout(COMMAND_PATIENCE, replied).await.map_err(|_| {
            Problem::new("owner-gone", "the command was accepted but has not been applied yet")
                .hint("It will be; look again.")
        })??;
        refusal(&reply).map_or(Ok(reply), Err)
    }

    // SQL.

    /// The tables of a project.
    ///
    /// # Errors
    /// When the project is not in the caller's reach or this build has no engine.
    pub async fn tables(
        &self,
        principal: &Principal,
        project: &ProjectName,
        (bundle, target): (Option<Sha>, Option<&TargetName>),
    ) -> Result<Vec<TableInfo>, Problem> {
        principal.may(Role::Viewer, project)?;
        let catalog = self.catalog.as_ref().ok_or_else(no_engine)?;
        let target = match bundle {
            Some(bundle) => self.target_in(project, bundle, target).await?,
            None => self.target_of_deployed(principal, project, None, target).await?,
        };
        let view = View::now(project.clone(), target);
        catalog.list(&view).await.map_err(sql_problem)
    }

    /// The files that SQL over an unpacked bundle may open.
    ///
    /// # Errors
    /// When the state cannot be read.
    pub(crate) async fn files_of(
        &self,
        project: &ProjectName,
        root: PathBuf,
        settings: Project,
    ) -> Result<FileScope, Problem> {
        let folder = self.attempts.parts.tenancy.read_by_server(self.attempts.project_folder(project).await?);
        let patterns = settings.files.map(|files| files.into_values().collect());
        Ok(FileScope::of_project(root, folder, patterns, &self.state))
    }
}

#[derive(Debug, Clone, Default)]
struct Find {
    project: Option<ProjectName>,
    workflow: Option<WorkflowName>,
    date: Option<String>,
    ends_with: Option<String>,
}

pub(crate) fn is_final(state: &str) -> bool {
    matches!(state, "succeeded" | "failed" | "cancelled")
}

/// The active workflows that stay as they are, because the file that they would come from has errors.
fn kept(active: &[ActiveVersion], compiled: &Compiled, versions: &BTreeMap<WorkflowName, Sha>) -> Vec<KeptWorkflow> {
    let mut kept = Vec::new();
    if compiled.broken.is_empty() {
        return kept;
    }
    for active in active {
        let name = active.workflow.to_string();
        let source = active.document["source"]["file"].as_str().unwrap_or_default();
        let declares = |(_, names): &(&String, &Vec<String>)| names.contains(&name);
        let declaring = compiled.broken.iter().find(declares).map(|(file, _)| file.as_str());
        // What a helper makes may be declared by any file, also by one that is broken now.
        let helper = source.split('/').any(|part| part.starts_with('_')) || !source.starts_with("workflows/");
        let file = declaring.or_else(|| (helper || compiled.broken.contains_key(source)).then_some(source));
        if let Some(file) = file.filter(|_| !versions.contains_key(&active.workflow)) {
            kept.push(KeptWorkflow {
                name: active.workflow.clone(),
                version: active.version,
                deployed_at: active.deployed_at,
                file: file.to_owned(),
                errors: compiled.errors_of(file),
            });
        }
    }
    kept
}

/// The parents of selected jobs that are not selected themselves.
pub(crate) fn left_out<'a>(document: &'a Document, jobs: &str) -> Result<BTreeSet<&'a JobName>, Problem> {
    let selected = select(&document.jobs, jobs).map_err(|message| Problem::new("job-not-found", message))?;
    let chosen = document.jobs.iter().filter(|job| selected.contains(&job.name));
    Ok(chosen.flat_map(|job| &job.after).filter(|parent| !selected.contains(parent)).collect())
}

/// The outputs that a caller gives for parents that the selection leaves out.
fn given_outside(document: &Document, jobs: &str, given: &Outputs) -> Result<Outputs, Problem> {
    let needed = left_out(document, jobs)?;
    if let Some(other) = given.keys().find(|job| !needed.contains(job)) {
        find_job(document, other)?;
        let detail = format!("\"{other}\" is not a job above the selected ones that is left out");
        return Err(Problem::new("bad-parameter", detail));
    }
    Ok(needed.into_iter().map(|job| (job.clone(), given.get(job).cloned().unwrap_or_default())).collect())
}

/// What jobs left, by their names.
type Outputs = BTreeMap<JobName, BTreeMap<String, Value>>;

/// A reply that a change by people does not get, since no owner orders it and nothing of it is unique.
fn refused(reply: Option<&Reply>) -> Problem {
    let why = reply.map_or_else(|| "the database gave no answer".to_owned(), Reply::to_string);
    Problem::new("state-failed", format!("the change was refused: {why}")).hint("Try again.")
}

/// The refusal of what concerns all projects, to the admin of one.
pub(crate) fn everywhere_only() -> Problem {
    Problem::new("role-too-low", "this needs the role \"admin\" in every project; the token is for one")
}

pub(crate) fn admin_only(principal: &Principal) -> Result<(), Problem> {
    if principal.role == Role::Admin {
        return Ok(());
    }
    let detail = format!("this needs the role \"admin\"; the token has \"{}\"", principal.role);
    Err(Problem::new("role-too-low", detail).hint("Ask an admin."))
}

pub(crate) fn no_engine() -> Problem {
    Problem::new("engine-missing", "this build of pinrail has no SQL engine")
}

pub(crate) fn run_not_found(reference: &str) -> Problem {
    Problem::new("run-not-found", format!("no run \"{reference}\" in the projects that this token can see"))
        .hint("List runs with `pinrail runs` or GET /api/v1/runs.")
}

pub(crate) fn attempt_not_found(reference: &str) -> Problem {
    Problem::new("attempt-not-found", format!("no attempt \"{reference}\" in the projects that this token can see"))
}

pub(crate) fn token_not_found(reference: &str) -> Problem {
    Problem::new("token-not-found", format!("no token \"{reference}\" that this token can see"))
        .hint("List tokens with `pinrail token list` or GET /api/v1/tokens.")
}

pub(crate) fn sql_problem(error: LakeError) -> Problem {
    let place = error.place.map_or_else(String::new, |(line, column)| format!("{line}:{column}: "));
    let mut problem =
        Problem::new("bad-sql", format!("{place}{}", error.evidence.message)).with("sql_code", error.code);
    problem.hint = error.evidence.remedy;
    problem
}

fn refusal(reply: &Value) -> Option<Problem> {
    let error = reply.get("error")?;
    let known = [
        "run-exists",
        "wrong-state",
        "job-not-found",
        "run-not-found",
        "version-not-found",
        "schedule-not-found",
        "backfill-not-found",
        "state-failed",
        "target-protected",
        "bad-document",
    ];
    let code = known.into_iter().find(|code| error["code"] == *code).unwrap_or("internal");
    let mut problem = Problem::new(code, error["message"].as_str().unwrap_or_default());
    problem.hint = error["hint"].as_str().map(str::to_owned);
    if let Some(run) = error["run"].as_str() {
        problem = problem.hint(format!("Follow it with `pinrail show {run}`.")).with("run", run);
    }
    Some(problem)
}

fn definition_errors(count: usize) -> String {
    format!("{count} definition error{}", if count == 1 { "" } else { "s" })
}

fn workflow_not_found(workflow: &WorkflowName, names: &[String], where_: &str) -> Problem {
    let problem = Problem::new("workflow-not-found", format!("no {where_} workflow \"{workflow}\""));
    let near = nearest(workflow.as_str(), names.iter().map(String::as_str));
    problem.hint(match (near, names.is_empty()) {
        (Some(near), _) => format!("Did you mean \"{near}\"?"),
        (None, true) => "There is none yet; `pinrail deploy` deploys the workflows of a project.".to_owned(),
        (None, false) => format!("There {} {}.", if names.len() == 1 { "is only" } else { "are" }, names.join(", ")),
    })
}

pub(crate) fn find_workflow(
    compiled: &Compiled,
    workflow: &WorkflowName,
    bundle: Sha,
) -> Result<(Document, Sha, Sha), Problem> {
    let mut names = Vec::new();
    for (version, json) in &compiled.documents {
        let document = Document::read(json).map_err(|errors| Problem::new("internal", first_message(&errors)))?;
        if document.workflow == *workflow {
            return Ok((document, *version, bundle));
        }
        names.push(document.workflow.to_string());
    }
    if compiled.errors() > 0 {
        let detail = format!("workflow \"{workflow}\" cannot be run: {}", definition_errors(compiled.errors()));
        return Err(Problem::new("definition-errors", detail)
            .hint("Run `pinrail check`.")
            .with("diagnostics", &compiled.diagnostics));
    }
    Err(workflow_not_found(workflow, &names, "such"))
}

/// Whether what a job without a workflow names could be there at all.
fn one_off_is_sound(job: &OneOff) -> Result<(), Problem> {
    let word = |part: &str| {
        part.chars().all(|c| c.is_alphanumeric() || c == '_') && part.starts_with(|c: char| !c.is_numeric())
    };
    match job {
        OneOff::Class(class) if !class.contains('.') || !class.split('.').all(word) => {
            let problem =
                Problem::new("bad-request", format!("\"{class}\" is not a class or function with its module"));
            // A path with the name behind it, as other tools write it: jobs/load.py:LoadFlights.
            let dotted = class.replace(".py:", ".").replace(['/', ':'], ".");
            let meant = class.contains(['/', ':']) && dotted.contains('.') && dotted.split('.').all(word);
            let wanted = if meant { dotted } else { "jobs.load.LoadFlights".to_owned() };
            Err(problem.hint(format!("Write it as {wanted}.")))
        }
        OneOff::SqlFile(file) if !crate::project::is_inside(file) => {
            Err(Problem::new("bad-request", format!("\"{file}\" is not a path inside the project"))
                .hint("Paths are relative to the project, with forward slashes and without `..`."))
        }
        OneOff::Shell(command) if command.first().is_none_or(String::is_empty) => {
            Err(Problem::new("bad-request", "the command is empty").hint("Give a program and its arguments."))
        }
        _ => Ok(()),
    }
}

/// The document of a job without a workflow.
fn one_off(job: &OneOff, executor: Option<ExecutorKind>, given: &BTreeMap<String, Value>) -> Result<Document, Problem> {
    one_off_is_sound(job)?;
    let params = given.iter().map(|(name, value)| Ok((name.clone(), one_off_param(name, value)?)));
    let params = params.collect::<Result<serde_json::Map<_, _>, Problem>>()?;
    let (kind, name) = match job {
        OneOff::Class(class) => (JobKind::Class, class.rsplit('.').next().unwrap_or("job")),
        OneOff::Sql(_) => (JobKind::Sql, "sql"),
        OneOff::SqlFile(file) => (JobKind::Sql, file.rsplit('/').next().unwrap_or("sql").trim_end_matches(".sql")),
        OneOff::Shell(argv) => {
            (JobKind::Shell, argv.first().map_or("sh", |first| first.rsplit('/').next().unwrap_or("sh")))
        }
    };
    let name: String = name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).take(48).collect();
    let name = if name.starts_with(|c: char| c.is_ascii_alphabetic()) { name } else { format!("job_{name}") };
    let (sql, shell, class) = match job {
        OneOff::Class(class) => (None, None, Some(class.clone())),
        OneOff::Sql(text) => (Some(SqlSource::Text(text.clone())), None, None),
        OneOff::SqlFile(file) => (Some(SqlSource::File(file.clone())), None, None),
        OneOff::Shell(argv) => (None, Some(argv.clone()), None),
    };
    let job = json!({"name": name, "kind": kind, "class": class, "sql": sql, "shell": shell, "executor": executor});
    let document = json!({
        "format": pinrail_model::document::FORMAT,
        "workflow": name,
        "source": {"file": "", "line": 0},
        "jobs": [job],
        "params": params,
    });
    Document::read(&document).map_err(|errors| {
        let impossible = errors.first().is_some_and(|error| error.code == "executor-impossible");
        Problem::new(if impossible { "executor-impossible" } else { "bad-request" }, first_message(&errors))
    })
}

/// A parameter of a job without a workflow, which nothing declares: its type is that of its value.
fn one_off_param(name: &str, value: &Value) -> Result<Value, Problem> {
    let kind = match value {
        Value::Bool(_) => "bool",
        Value::Number(number) if number.is_i64() => "int",
        Value::Number(_) => "float",
        Value::String(_) => "str",
        _ => {
            let detail =
                format!("parameter \"{name}\" must be of type str, int, float or bool, not {}", beginning(value));
            return Err(Problem::new("bad-parameter", detail).hint(LARGE_VALUE));
        }
    };
    Ok(json!({"type": kind, "required": true}))
}

fn executors(document: &Document, request: &RunRequest) -> Result<BTreeMap<JobName, ExecutorKind>, Problem> {
    let mut chosen = BTreeMap::new();
    let impossible = |message: String| Problem::new("executor-impossible", message);
    if let Some(executor) = request.executor {
        for job in &document.jobs {
            check_executor(job, executor).map_err(impossible)?;
            chosen.insert(job.name.clone(), executor);
        }
    }
    for (name, executor) in &request.executors {
        let job = find_job(document, name)?;
        check_executor(job, *executor).map_err(impossible)?;
        chosen.insert(name.clone(), *executor);
    }
    Ok(chosen)
}

pub(crate) fn find_job<'a>(document: &'a Document, name: &JobName) -> Result<&'a Job, Problem> {
    document.job(name.as_str()).ok_or_else(|| {
        let mut problem =
            Problem::new("job-not-found", format!("job \"{name}\" not found in workflow \"{}\"", document.workflow));
        let names = document.jobs.iter().map(|job| job.name.as_str());
        problem.hint = nearest(name.as_str(), names).map(|near| format!("Did you mean \"{near}\"?"));
        problem
    })
}

/// The most bytes that the parameters of a run may have: they travel with every attempt.
const LARGEST_PARAMS: usize = 256 << 10;
/// Of one: it is a variable of the environment of commands, for which the kernel has room for 128 KiB.
const LARGEST_PARAM: usize = 64 << 10;
const LARGE_VALUE: &str = "Put large values into a file or a table, and pass its name.";

/// The types of parameters whose values JSON gives as texts.
pub(crate) fn param_types(document: &Document) -> BTreeMap<String, ParamType> {
    let types = document.params.iter().map(|(name, param)| (name.to_string(), param.kind));
    let typed = |kind: &ParamType| matches!(kind, ParamType::Date | ParamType::Datetime | ParamType::Decimal);
    types.filter(|(_, kind)| typed(kind)).collect()
}

/// The values of all parameters: given, else default; of the right type, or refused by name.
pub(crate) fn params(document: &Document, given: &BTreeMap<String, Value>) -> Result<BTreeMap<String, Value>, Problem> {
    for (name, value) in given {
        let size = value.as_str().map_or_else(|| value.to_string().len(), str::len);
        if size > LARGEST_PARAM {
            let detail = format!("parameter \"{name}\" has {size} bytes; at most {LARGEST_PARAM} are allowed");
            return Err(Problem::new("bad-parameter", detail).hint(LARGE_VALUE));
        }
    }
    let size = serde_json::to_string(given).map_or(0, |text| text.len());
    if size > LARGEST_PARAMS {
        let detail = format!("the parameters have {size} bytes; at most {LARGEST_PARAMS} are allowed");
        return Err(Problem::new("bad-parameter", detail).hint(LARGE_VALUE));
    }
    for name in given.keys() {
        if !document.params.keys().any(|known| known.as_str() == name) {
            let mut problem = Problem::new(
                "bad-parameter",
                format!("workflow \"{}\" has no parameter \"{name}\"", document.workflow),
            );
            let names = document.params.keys().map(|known| known.as_str());
            problem.hint = nearest(name, names).map(|near| format!("Did you mean \"{near}\"?"));
            return Err(problem);
        }
    }
    let mut values = BTreeMap::new();
    for (name, param) in &document.params {
        match given.get(name.as_str()).or(param.default.as_ref()) {
            Some(value) => {
                values.insert(name.to_string(), checked(name.as_str(), param, value)?);
            }
            None if param.required => {
                let detail = format!("parameter \"{name}\" of workflow \"{}\" is required", document.workflow);
                return Err(Problem::new("bad-parameter", detail).hint(format!("Give it with --param {name}=VALUE.")));
            }
            None => {
                values.insert(name.to_string(), Value::Null);
            }
        }
    }
    Ok(values)
}

/// As much of a value as a message has room for.
fn beginning(value: &Value) -> String {
    let text = value.to_string();
    if text.chars().count() > 80 { text.chars().take(80).chain("...".chars()).collect() } else { text }
}

/// A value of the parameter's type; texts, as a command line gives them, are read.
pub(crate) fn checked(name: &str, param: &Param, value: &Value) -> Result<Value, Problem> {
    let wanted =
        serde_json::to_value(param.kind).ok().and_then(|kind| kind.as_str().map(str::to_owned)).unwrap_or_default();
    let wrong = || {
        Problem::new(
            "bad-parameter",
            format!("parameter \"{name}\" must be of type {wanted}, not {}", beginning(value)),
        )
        .hint(how_to_write(param.kind))
    };
    let text = value.as_str();
    let read = match param.kind {
        // One whose default is no value may also be given none.
        _ if value.is_null() => (!param.required && param.default.is_none()).then_some(Value::Null),
        ParamType::Int if value.is_i64() => Some(value.clone()),
        ParamType::Int => text.and_then(|text| text.parse::<i64>().ok()).map(Value::from),
        ParamType::Float if value.is_number() => Some(value.clone()),
        // JSON has neither NaN nor infinities, and a job would be given none instead.
        ParamType::Float => text.and_then(|text| text.parse().ok()).filter(|n: &f64| n.is_finite()).map(Value::from),
        ParamType::Bool if value.is_boolean() => Some(value.clone()),
        ParamType::Bool => text.and_then(|text| text.parse::<bool>().ok()).map(Value::from),
        ParamType::Str => text.map(Value::from),
        ParamType::Date => text.filter(|text| text.parse::<chrono::NaiveDate>().is_ok()).map(Value::from),
        ParamType::Datetime => {
            let good = text.is_some_and(|text| {
                chrono::DateTime::parse_from_rfc3339(text).is_ok() || text.parse::<chrono::NaiveDateTime>().is_ok()
            });
            good.then(|| value.clone())
        }
        ParamType::Decimal => decimal(value),
    };
    let read = read.ok_or_else(wrong)?;
    match &param.choices {
        Some(choices) if !read.is_null() && !choices.contains(&read) => {
            let list: Vec<_> = choices.iter().map(Value::to_string).collect();
            let detail = format!("parameter \"{name}\" must be one of {}, not {value}", list.join(", "));
            Err(Problem::new("bad-parameter", detail))
        }
        _ => Ok(read),
    }
}

fn how_to_write(kind: ParamType) -> &'static str {
    match kind {
        ParamType::Int => "Write a whole number, such as 5.",
        ParamType::Float => "Write a finite number, such as 1.5.",
        ParamType::Str => "Write a text.",
        ParamType::Bool => "Write true or false.",
        ParamType::Date => "Write a date such as 2013-01-02.",
        ParamType::Datetime => "Write a time such as 2013-01-02T06:00:00, with Z or an offset if it has a zone.",
        ParamType::Decimal => "Write a decimal number, such as 12.50.",
    }
}

fn decimal(value: &Value) -> Option<Value> {
    let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let digits = text.strip_prefix(['-', '+']).unwrap_or(&text);
    let good = digits.bytes().any(|b| b.is_ascii_digit())
        && digits.bytes().all(|b| b.is_ascii_digit() || b == b'.')
        && digits.matches('.').count() <= 1;
    good.then(|| Value::from(text))
}

/// Writes a file that only its owner can read, whole or not at all.
pub(crate) fn write_private(path: &std::path::Path, bytes: &[u8]) -> std::io::Result<()> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let temporary = path.with_extension("new");
    let _ = std::fs::remove_file(&temporary);
    let mut file = std::fs::OpenOptions::new().create_new(true).write(true).mode(0o600).open(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&temporary, path)
}
