//! What the schedules of a project would come to: gathers what a forecast is made of. The play itself is pure
//! ([`pinrail_model::simulation::forecast`]); nothing of it is kept.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use pinrail_model::document::{Document, Sha, first_message};
use pinrail_model::names::{JobName, PoolName, ProjectName, TargetName, WorkflowName};
use pinrail_model::near::nearest;
use pinrail_model::notify::SAMPLE;
use pinrail_model::seam::store::{Answer, LimitName, Query};
use pinrail_model::simulation::{Forecast, Scene, Workers, forecast_while};
use pinrail_model::target::name_of;
use pinrail_model::time::Micros;
use serde::Deserialize;
use utoipa::ToSchema;

use crate::app::App;
use crate::problem::Problem;
use crate::tokens::{Principal, Role};

/// Days of a forecast at most, and when nothing is said.
const MOST_DAYS: u32 = 92;
const DAYS: u32 = 7;
/// How long a job takes that never succeeded, in seconds.
const ASSUMED: f64 = 60.0;
/// Runs that are told one by one at most, and when nothing is said.
const MOST_TOLD: u32 = 10_000;
const TOLD: u32 = 1000;

/// What is simulated: the project as it is, but for what is given.
#[derive(Debug, Clone, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SimulationRequest {
    /// Whose workflows; none: the deployed ones.
    #[serde(default)]
    pub bundle: Option<Sha>,
    /// Of deployed workflows: those of this target.
    #[serde(default)]
    pub target: Option<TargetName>,
    /// 7 unless said otherwise.
    #[serde(default)]
    #[schema(minimum = 1, maximum = 92)]
    pub days: Option<u32>,
    /// The first moment; none: now.
    #[serde(default)]
    pub from: Option<Micros>,
    /// Slots of pools, instead of what is set.
    #[serde(default)]
    #[schema(value_type = BTreeMap<String, u32>)]
    pub pools: BTreeMap<PoolName, u32>,
    /// Attempts of the project at once, instead of what is set.
    #[serde(default)]
    pub quota: Option<u32>,
    /// Slots of one worker with every label, instead of the workers that are connected.
    #[serde(default)]
    pub slots: Option<u32>,
    /// How many seconds jobs take, as `job` or `workflow/job`, instead of what they usually take.
    #[serde(default)]
    pub durations: BTreeMap<String, f64>,
    /// How many seconds a job takes that never succeeded; 60 unless said otherwise.
    #[serde(default)]
    pub assumed_seconds: Option<f64>,
    /// Runs that are told one by one; 1000 unless said otherwise.
    #[serde(default)]
    #[schema(maximum = 10_000)]
    pub runs: Option<u32>,
}

/// How long jobs take, by workflow.
type Durations = BTreeMap<WorkflowName, BTreeMap<JobName, Duration>>;

impl App {
    /// Plays the schedules of a project on a virtual clock.
    ///
    /// # Errors
    /// When the code is not known or has errors, or something that is given does not exist.
    pub async fn simulate(
        &self,
        principal: &Principal,
        project: &ProjectName,
        request: SimulationRequest,
    ) -> Result<Forecast, Problem> {
        principal.may(Role::Operator, project)?;
        let days = within("days", request.days.unwrap_or(DAYS), 1, MOST_DAYS)?;
        let told = within("runs", request.runs.unwrap_or(TOLD), 0, MOST_TOLD)?;
        let assumed = span("assumed_seconds", request.assumed_seconds.unwrap_or(ASSUMED))?;
        let documents = self.simulated(principal, project, &request).await?;
        let from = request.from.unwrap_or_else(|| self.now());
        let mut took = self.usually(principal, project, &documents).await?;
        set_durations(&documents, &request.durations, &mut took)?;
        let (mut pools, mut quota) = (BTreeMap::new(), None);
        for limit in self.limits(principal, project).await? {
            match limit.name {
                LimitName::Pool(pool) => drop(pools.insert(pool, limit.set.value)),
                LimitName::Quota => quota = Some(limit.set.value),
                LimitName::Weight => {}
            }
        }
        check_pools(&documents, &pools, &request.pools)?;
        pools.extend(request.pools);
        let workers = match request.slots {
            Some(0) => return Err(Problem::new("bad-parameter", "parameter \"slots\": it must be at least 1")),
            Some(slots) => {
                let labels = documents.iter().flat_map(|document| &document.jobs).flat_map(|job| &job.labels);
                vec![Workers { slots, labels: labels.cloned().collect() }]
            }
            None => self.connected().await?,
        };
        let scene = Scene {
            project: project.clone(),
            documents,
            took,
            assumed,
            pools,
            quota: request.quota.or(quota),
            workers,
            from,
            until: from.plus(Duration::from_secs(u64::from(days) * 86_400)),
            most_told: told as usize,
        };
        // A caller that goes away drops this, and nothing is played for nobody.
        let wanted = Arc::new(());
        let asked = Arc::downgrade(&wanted);
        let played = tokio::task::spawn_blocking(move || forecast_while(&scene, &|| asked.strong_count() > 0)).await;
        drop(wanted);
        played.map_err(|error| Problem::new("internal", format!("the simulation broke off: {error}")))
    }

    async fn simulated(
        &self,
        principal: &Principal,
        project: &ProjectName,
        request: &SimulationRequest,
    ) -> Result<Vec<Document>, Problem> {
        let read = |json| Document::read(json).map_err(|errors| Problem::new("internal", first_message(&errors)));
        let Some(bundle) = request.bundle else {
            let target = self.target_of_deployed(principal, project, None, request.target.as_ref()).await?;
            let mut active = self.workflows(principal, project).await?;
            active.retain(|active| active.target == name_of(target.as_ref()));
            return active.iter().map(|active| read(&active.document)).collect();
        };
        let compiled = self.compile(principal, project, bundle).await?;
        if compiled.errors() > 0 {
            let detail = "the workflow files have errors; nothing was simulated";
            return Err(Problem::new("definition-errors", detail)
                .hint("Run `pinrail check`.")
                .with("diagnostics", &compiled.diagnostics));
        }
        compiled.documents.values().map(read).collect()
    }

    async fn usually(
        &self,
        principal: &Principal,
        project: &ProjectName,
        documents: &[Document],
    ) -> Result<Durations, Problem> {
        let mut took = Durations::new();
        for document in documents.iter().filter(|document| document.schedule.is_some()) {
            let workflow = document.workflow.clone();
            let query = Query::Usual { project: project.clone(), workflow: workflow.clone(), runs: SAMPLE };
            if let Answer::Usual(usual) = self.store.read(&Self::who(principal), query).await? {
                took.insert(workflow, usual.medians());
            }
        }
        Ok(took)
    }

    async fn connected(&self) -> Result<Vec<Workers>, Problem> {
        let workers = self.workers().await?.into_iter().filter(|worker| !worker.draining);
        let labels = |worker: &crate::owner::workers::WorkerSeen| worker.seen.as_ref().map(|seen| seen.labels.clone());
        Ok(workers.map(|worker| Workers { slots: worker.slots, labels: labels(&worker).unwrap_or_default() }).collect())
    }
}

fn within(name: &str, value: u32, least: u32, most: u32) -> Result<u32, Problem> {
    if (least..=most).contains(&value) {
        return Ok(value);
    }
    Err(Problem::new("bad-parameter", format!("parameter \"{name}\": {value} is not between {least} and {most}")))
}

fn span(name: &str, seconds: f64) -> Result<Duration, Problem> {
    Duration::try_from_secs_f64(seconds).map_err(|_| {
        Problem::new("bad-parameter", format!("parameter \"{name}\": {seconds} is not a number of seconds"))
    })
}

/// Takes over the durations that are given, each for the job that it names, or for all of that name.
fn set_durations(documents: &[Document], given: &BTreeMap<String, f64>, took: &mut Durations) -> Result<(), Problem> {
    let jobs = || documents.iter().flat_map(|document| document.jobs.iter().map(|job| (&document.workflow, &job.name)));
    // What names its workflow goes before what names only the job.
    let (of_one, of_all): (Vec<_>, Vec<_>) = given.iter().partition(|(name, _)| name.contains('/'));
    for (name, seconds) in of_all.into_iter().chain(of_one) {
        let time = span("durations", *seconds)?;
        let named = |workflow: &WorkflowName, job: &JobName| match name.split_once('/') {
            Some((of, named)) => workflow.as_str() == of && job.as_str() == named,
            None => job.as_str() == name,
        };
        let mut found = jobs().filter(|(workflow, job)| named(workflow, job)).peekable();
        if found.peek().is_none() {
            let problem = Problem::new("job-not-found", format!("no workflow has a job \"{name}\""));
            let known: BTreeSet<String> =
                jobs().flat_map(|(workflow, job)| [job.to_string(), format!("{workflow}/{job}")]).collect();
            return Err(match nearest(name, known.iter().map(String::as_str)) {
                Some(near) => problem.hint(format!("Did you mean \"{near}\"?")),
                None => problem,
            });
        }
        for (workflow, job) in found {
            took.entry(workflow.clone()).or_default().insert(job.clone(), time);
        }
    }
    Ok(())
}

/// A pool that is neither set nor named by a job is a mistake.
fn check_pools(
    documents: &[Document],
    set: &BTreeMap<PoolName, u32>,
    given: &BTreeMap<PoolName, u32>,
) -> Result<(), Problem> {
    let named = documents.iter().flat_map(|document| &document.jobs).flat_map(|job| job.pools.keys());
    let known: BTreeSet<&PoolName> = named.chain(set.keys()).collect();
    let Some(wrong) = given.keys().find(|pool| !known.contains(pool)) else { return Ok(()) };
    let problem = Problem::new("pool-not-found", format!("no job names pool \"{wrong}\", and it is not set"));
    Err(match nearest(wrong.as_str(), known.iter().map(|pool| pool.as_str())) {
        Some(near) => problem.hint(format!("Did you mean \"{near}\"?")),
        None => problem,
    })
}
