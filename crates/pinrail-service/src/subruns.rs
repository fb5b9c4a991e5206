//! Runs of workflows that are the work of jobs: made, watched and ended for them.
//!
//! Such a run comes from the code that asks for it, for the same interval and at the same target. It is a run like any
//! other, with a cause of its own; the attempt holds its id and no slot. A later attempt takes up the run of the one
//! before where that failed, as long as the parameters are the same.
//!
//! Invariants:
//! - the attempt's handle names the run, durably, before anything is done to it: whoever dies when, there is one run, and
//!   whoever stops the attempt knows which run to stop;
//! - a run that was stopped for its job is not waited for: it may need the slot of the job's cleanup for its own.

mod check;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use minijinja::{Value as Jinja, context};
use pinrail_model::document::{Document, Sha};
use pinrail_model::fault::{Evidence, Fault, Reason};
use pinrail_model::ids::{RunId, TokenId, fresh};
use pinrail_model::names::WorkflowName;
use pinrail_model::notify::Rules;
use pinrail_model::run::{
    Attempt, Cause, Ending, Event, Executed, Outcome, Phase, RUN, Report, RetryWish, Run, Task, Verdict,
};
use pinrail_model::seam::exec::{AttemptSink, Spec, Stream};
use pinrail_model::seam::store::{CommandKind, NewRun, StoredRun};
use pinrail_model::step;
use pinrail_model::time::Micros;
use serde_json::{Map, Value, json};

use crate::app::{App, find_workflow, is_final, param_types, params};
use crate::attempt::{OneWork, Ticket};
use crate::conditions::{environment, said};
use crate::owner::Input;
use crate::problem::Problem;
use crate::tokens::{Principal, Role};

pub(crate) use check::settle;

/// How long one look at a run waits for its end.
const PATIENCE: Duration = Duration::from_secs(3600);
/// How long is waited after the state could not be read.
const PAUSE: Duration = Duration::from_secs(1);
/// So many runs may be the work of each other's jobs, one within the other.
const DEEPEST: usize = 10;
/// Bytes of what the jobs of a run left that are passed on.
const LARGEST_OUTPUTS: usize = 256 << 10;
/// The field of an attempt's handle with the time at which the run that it takes up had ended before.
const ENDED: &str = "ended";

/// What a job may have done with runs of workflows.
#[async_trait]
pub(crate) trait SubRuns: Send + Sync {
    /// The run that an attempt is to have: one that is to be made, or one that failed for an earlier attempt.
    async fn choose(&self, ticket: &Ticket, asked: &Asked) -> Result<Chosen, Problem>;
    /// Has the run go, if it does not yet. May be done again at any time.
    async fn go(&self, ticket: &Ticket, asked: &Asked, chosen: &Chosen) -> Result<(), Problem>;
    /// The run, once it is over.
    async fn ended(&self, ticket: &Ticket, run: RunId) -> Result<StoredRun, Problem>;
    /// Stops the run if it is there and not over, without waiting for its end. What makes it was sent before, and is done
    /// before.
    async fn stop(&self, ticket: &Ticket, run: RunId) -> Result<(), Problem>;
}

/// What an attempt asks for.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub workflow: WorkflowName,
    pub params: BTreeMap<String, Value>,
}

/// The run of an attempt, as its handle has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Chosen {
    run: RunId,
    /// It had ended then, before it was taken up again.
    ended: Option<Micros>,
}

impl Chosen {
    fn of(attempt: &Attempt) -> Option<Self> {
        let ended = attempt.handle.as_ref()?.get(ENDED).cloned().and_then(|at| serde_json::from_value(at).ok());
        Some(Self { run: attempt.sub_run()?, ended })
    }

    fn handle(&self) -> Value {
        match self.ended {
            Some(ended) => json!({RUN: self.run, ENDED: ended}),
            None => json!({RUN: self.run}),
        }
    }
}

impl OneWork {
    /// A job that is a run of a workflow has no process: its parameters are filled in, and the run is its execution.
    pub(crate) async fn begin_workflow(self: Arc<Self>) {
        let Some(workflow) = self.ticket.job.workflow.clone() else {
            let evidence = Evidence::new("the job's workflow is not in its workflow version");
            return self.fail(Fault::Platform, Phase::Setup, evidence.reason(Reason::StateFailed));
        };
        self.report(Report::PhaseStarted(Phase::Setup));
        let params = match filled(&self.ticket) {
            Ok(params) => params,
            Err(message) => {
                self.report(Report::PhaseEnded { phase: Phase::Setup, ok: false });
                return self.cannot(Fault::User, Phase::Setup, Evidence::new(message).reason(Reason::WorkflowRefused));
            }
        };
        self.report(Report::PhaseEnded { phase: Phase::Setup, ok: true });
        self.report(Report::PhaseStarted(Phase::Execute));
        let spec = Spec::Workflow { workflow, params };
        self.report(Report::Specified(Executed { spec: Some(spec), ..Executed::default() }));
    }

    /// Runs a workflow, or goes on waiting for the run that was begun.
    pub(crate) async fn submit_workflow(self: Arc<Self>, asked: Asked) {
        let Some(runs) = self.attempts.sub_runs() else {
            let evidence = Evidence::new("the server is ending").reason(Reason::StateFailed);
            return self.fail(Fault::Platform, Phase::Execute, evidence);
        };
        if let Some(name) = asked.params.iter().find_map(|(name, value)| self.is_secret(value).then_some(name)) {
            let message = format!("parameter \"{name}\" holds a secret, and everybody sees the parameters of a run");
            let evidence = Evidence::new(message).reason(Reason::WorkflowRefused);
            let hint = "Declare the secret in the template of the job that uses it.";
            return self.cannot(Fault::User, Phase::Execute, evidence.remedy(hint));
        }
        let sink = self.sink();
        let followed = async {
            let chosen = match Chosen::of(&self.ticket.attempt) {
                Some(chosen) => chosen,
                None => {
                    let chosen = runs.choose(&self.ticket, &asked).await?;
                    if !self.is_told(Report::Submitted { handle: chosen.handle() }).await {
                        return Ok(None);
                    }
                    chosen
                }
            };
            step!("sub-run.named");
            runs.go(&self.ticket, &asked, &chosen).await?;
            step!("sub-run.made");
            let goes = format!("run {} of workflow \"{}\" is the work of this job", chosen.run, asked.workflow);
            sink.log(Some(Phase::Execute), Stream::System, goes.as_bytes());
            runs.ended(&self.ticket, chosen.run).await.map(Some)
        };
        let followed = tokio::select! {
            biased;
            // What was about to be made is made before it is stopped: commands keep their order.
            () = sink.stopped() => Ok(None),
            followed = followed => followed,
        };
        match followed {
            // It is cleaned up, which stops the run.
            Ok(None) => {}
            Ok(Some(ended)) if ended.state == "succeeded" => {
                let (outputs, size) = left(&ended);
                if size > LARGEST_OUTPUTS {
                    let text = format!(
                        "the jobs of run {} left {size} bytes; at most {LARGEST_OUTPUTS} are passed on, so nothing is",
                        ended.run.id
                    );
                    sink.log(Some(Phase::Execute), Stream::System, format!("warning: {text}").as_bytes());
                    self.report(Report::Warned { text });
                }
                let outputs = if size > LARGEST_OUTPUTS { BTreeMap::new() } else { outputs };
                self.report(Report::EngineEnded { result: json!({"state": "succeeded", RUN: ended.run.id}), outputs });
            }
            Ok(Some(ended)) => {
                let (fault, evidence) = what_failed(&ended);
                sink.tell_failure(Phase::Execute, &evidence);
                self.fail(fault, Phase::Execute, evidence);
            }
            Err(problem) => {
                let (fault, reason) = match problem.status {
                    400..500 => (Fault::User, Reason::WorkflowRefused),
                    _ => (Fault::Platform, Reason::StateFailed),
                };
                let mut evidence = Evidence::new(problem.detail).reason(reason);
                evidence.remedy = problem.hint;
                sink.tell_failure(Phase::Execute, &evidence);
                let failed = Verdict::failed(fault, Some(Phase::Execute), evidence);
                // What is wrong with the request is as wrong at the next try.
                let retry = if fault == Fault::User { RetryWish::Never } else { RetryWish::None };
                self.report(Report::Failed(Verdict { retry, ..failed }));
            }
        }
    }

    /// Whether a value holds a secret that the attempt may use.
    fn is_secret(&self, value: &Value) -> bool {
        self.live.revealed().masks.hides(&value.to_string())
    }

    /// Reports something, and says whether it was accepted and is durable.
    async fn is_told(&self, report: Report) -> bool {
        let (run, task, epoch) = (self.ticket.run, self.ticket.task, self.ticket.epoch);
        let event = Event::Reported { task, epoch, report };
        self.owner.ask(|answer| Input::Durable { run, event, answer }).await == Some(true)
    }

    /// Stops the run that was the work of an attempt which has no more use for it. One that has ended is somebody else's by
    /// now, who may have retried it.
    pub(crate) async fn stop_sub_run(&self) {
        let attempt = &self.ticket.attempt;
        let has_end = attempt.executed.as_ref().is_some_and(|executed| !executed.result.is_null())
            || attempt.verdict.as_ref().is_some_and(|v| v.evidence.reason == Some(Reason::WorkflowFailed));
        if has_end {
            return;
        }
        let (Some(run), Some(runs)) = (self.ticket.attempt.sub_run(), self.attempts.sub_runs()) else { return };
        if let Err(problem) = runs.stop(&self.ticket, run).await {
            // Cleanup goes on, and says what is left.
            let text = format!("run {run} could not be stopped: {}", problem.detail);
            self.report(Report::Warned { text });
        }
    }
}

/// The parameters of a job that runs a workflow, their templates filled in. A text that is one template as a whole gives
/// what that is worth, of whatever type.
fn filled(ticket: &Ticket) -> Result<BTreeMap<String, Value>, String> {
    let fill = |(name, value): (&String, &Value)| {
        let value = fill(value, &context_of(ticket)).map_err(|message| format!("parameter \"{name}\": {message}"))?;
        Ok((name.clone(), value))
    };
    ticket.job.params.iter().map(fill).collect()
}

fn fill(value: &Value, context: &Jinja) -> Result<Value, String> {
    let Value::String(text) = value else { return Ok(value.clone()) };
    let environment = environment();
    let Some(expression) = whole(text) else {
        return environment.render_str(text, context).map(Value::String).map_err(|error| said(&error));
    };
    let worth = environment.compile_expression(expression).and_then(|compiled| compiled.eval(context));
    let worth = worth.map_err(|error| said(&error))?;
    if worth.is_undefined() {
        return Err(format!("\"{text}\" names something that is not there"));
    }
    serde_json::to_value(&worth).map_err(|error| error.to_string())
}

/// The expression that a text consists of.
fn whole(text: &str) -> Option<&str> {
    let inner = text.trim().strip_prefix("{{")?.strip_suffix("}}")?;
    (!inner.contains("{{") && !inner.contains("}}")).then(|| inner.trim())
}

/// What templates name: `ds`, `interval`, `params`, `var`, `upstream.JOB.NAME`, and of a mapped job `item` and `index`.
fn context_of(ticket: &Ticket) -> Jinja {
    let outputs = |value: &Value| value.get("outputs").cloned().unwrap_or(Value::Object(Map::new()));
    let upstream: BTreeMap<&String, Value> = ticket.upstream.iter().map(|(job, v)| (job, outputs(v))).collect();
    let interval = context! {
        start => ticket.interval.start.to_string(),
        end => ticket.interval.end.to_string(),
    };
    let var = ticket.target.as_ref().map(|target| &target.vars);
    let run = context! { ds => ticket.ds(), interval, params => &ticket.params, var, upstream };
    match &ticket.instance {
        Some(instance) => context! { item => &instance.item, index => instance.index, ..run },
        None => run,
    }
}

/// What the jobs of a run left, by job, and how many bytes that is.
fn left(ended: &StoredRun) -> (BTreeMap<String, Value>, usize) {
    let jobs = ended.tasks.iter().filter(|task| task.instance.is_none());
    let outputs: BTreeMap<String, Value> = jobs
        .map(|task| (task.job.to_string(), ended.outputs(task)))
        .filter(|(_, outputs)| !outputs.is_empty())
        .map(|(job, outputs)| (job, json!(outputs)))
        .collect();
    let size = serde_json::to_string(&outputs).map_or(0, |text| text.len());
    (outputs, size)
}

/// Whose fault it is that a run did not succeed: that of its first job that failed.
fn what_failed(ended: &StoredRun) -> (Fault, Evidence) {
    let (id, workflow) = (ended.run.id, &ended.run.workflow);
    // One that was given up without an attempt may have had some before.
    let verdict = |task: &Task| match (&task.given_up, task.attempts.last().and_then(|last| last.outcome.as_ref())) {
        (Some(verdict), _) => Some(verdict.as_ref().clone()),
        (None, Some(Outcome::Ended(verdict))) => Some(verdict.clone()),
        (None, _) => None,
    };
    let failed = ended.tasks.iter().filter(|task| task.ending == Some(Ending::Failed));
    let first = failed.filter_map(|task| Some((task, verdict(task)?))).next();
    let (fault, why) = match (&first, &ended.run.stop) {
        (Some((task, verdict)), _) => {
            (verdict.fault, format!("job \"{}\" failed: {}", task.name(), verdict.evidence.message))
        }
        (None, Some(stop)) => (Fault::Cancelled, format!("{} cancelled it", stop.by)),
        (None, None) => (Fault::Unknown, format!("it ended as {}", ended.state)),
    };
    let evidence = Evidence::new(format!("run {} of workflow \"{workflow}\" did not succeed: {why}", id.short()))
        .reason(Reason::WorkflowFailed)
        .remedy(format!(
            "`pinrail explain {}` says more; a retry of this job takes that run up where it failed.",
            id.short()
        ))
        .fact("run", id);
    (fault, evidence)
}

/// A run of an earlier attempt whose end nobody has made use of.
pub(crate) fn left_behind(task: &Task) -> Option<RunId> {
    let (_, earlier) = task.attempts.split_last()?;
    let last = earlier.iter().rev().find(|attempt| attempt.sub_run().is_some())?;
    let used = last.executed.as_ref().is_some_and(|executed| !executed.result.is_null());
    last.sub_run().filter(|_| !used)
}

impl App {
    /// On whose behalf a job does something to runs.
    fn job(ticket: &Ticket) -> Principal {
        let name = format!("job {} of run {}", ticket.task_name(), ticket.run.short());
        Principal { id: TokenId::from_parts(0, 0), name, role: Role::Operator, project: Some(ticket.project.clone()) }
    }

    /// The run that is asked for, with that id.
    async fn sub_run(&self, ticket: &Ticket, asked: &Asked, id: RunId) -> Result<(NewRun, Document), Problem> {
        let principal = Self::job(ticket);
        let parent = self.run(&principal, ticket.run).await?.run;
        self.check_depth(&principal, &parent).await?;
        let compiled = self.compile(&principal, &ticket.project, ticket.bundle).await?;
        let (document, version, bundle) = find_workflow(&compiled, &asked.workflow, ticket.bundle)?;
        let new = NewRun {
            id,
            project: ticket.project.clone(),
            target: ticket.target.clone(),
            workflow: document.workflow.clone(),
            version,
            bundle,
            class: parent.class,
            one_off: false,
            job: Some((ticket.run, ticket.task_name())),
            interval: ticket.interval,
            tz: ticket.tz.clone(),
            params: params(&document, &asked.params)?,
            param_types: param_types(&document),
            outside: BTreeMap::new(),
            executors: BTreeMap::new(),
            by: principal.name,
            jobs: None,
            // Who looks at the run that asks for it looks at this one.
            notify: parent.notify.as_ref().and_then(|_| Rules::of(&document)),
            replay_of: None,
            unique_key: None,
        };
        Ok((new, document))
    }

    async fn check_depth(&self, principal: &Principal, run: &Run) -> Result<(), Problem> {
        let mut path = vec![run.workflow.to_string()];
        let mut cause = run.cause.clone();
        while let Cause::Job { run, .. } = cause {
            let above = self.run(principal, run).await?.run;
            path.insert(0, above.workflow.to_string());
            cause = above.cause;
            if path.len() >= DEEPEST {
                let detail = format!("{DEEPEST} runs are the work of each other's jobs already: {}", path.join(" -> "));
                return Err(
                    Problem::new("bad-request", detail).hint("Check whether a workflow runs itself by way of others.")
                );
            }
        }
        Ok(())
    }
}

#[async_trait]
impl SubRuns for App {
    async fn choose(&self, ticket: &Ticket, asked: &Asked) -> Result<Chosen, Problem> {
        let (wanted, document) = self.sub_run(ticket, asked, fresh(self.ids.as_ref())).await?;
        let Some(earlier) = ticket.left_behind else { return Ok(Chosen { run: wanted.id, ended: None }) };
        let mut found = match self.run(&Self::job(ticket), earlier).await {
            Ok(found) => found,
            // It was named and not made, or is forgotten.
            Err(problem) if problem.code == "run-not-found" => return Ok(Chosen { run: earlier, ended: None }),
            Err(problem) => return Err(problem),
        };
        let has_all = found.tasks.iter().all(|task| document.jobs.iter().any(|job| job.name == task.job));
        if found.run.workflow != wanted.workflow || found.run.params != wanted.params || !has_all {
            return Ok(Chosen { run: wanted.id, ended: None });
        }
        if !is_final(&found.state) && found.run.stop.is_some() {
            // It was stopped with the earlier attempt, and cleans up.
            found = self.ended(ticket, earlier).await?;
        }
        // One that goes on was taken up by a person.
        let failed = is_final(&found.state) && found.state != "succeeded";
        Ok(Chosen { run: earlier, ended: found.run.ended_at.filter(|_| failed) })
    }

    async fn go(&self, ticket: &Ticket, asked: &Asked, chosen: &Chosen) -> Result<(), Problem> {
        let principal = Self::job(ticket);
        match self.run(&principal, chosen.run).await {
            Ok(found) if chosen.ended.is_some() && is_final(&found.state) && found.run.ended_at == chosen.ended => {
                let other: Option<Sha> = (found.run.bundle != ticket.bundle).then_some(ticket.bundle);
                match self.retry(&principal, chosen.run, None, other).await {
                    // Somebody else was quicker.
                    Err(problem) if problem.status == 409 => {
                        let found = self.run(&principal, chosen.run).await?;
                        if is_final(&found.state) {
                            return Err(problem);
                        }
                    }
                    retried => retried.map(|_| ())?,
                }
            }
            Ok(_) => {}
            Err(problem) if problem.code == "run-not-found" => {
                let (new, _) = self.sub_run(ticket, asked, chosen.run).await?;
                let inputs = self.inputs(&ticket.project, ticket.bundle).await?;
                self.command(&principal, CommandKind::CreateRun(Box::new(new))).await?;
                self.record_inputs(chosen.run, inputs).await?;
            }
            Err(problem) => return Err(problem),
        }
        Ok(())
    }

    async fn ended(&self, ticket: &Ticket, run: RunId) -> Result<StoredRun, Problem> {
        let principal = Self::job(ticket);
        loop {
            match self.wait(&principal, run, PATIENCE).await {
                Ok(found) if is_final(&found.state) => return Ok(found),
                Ok(_) => {}
                // The run goes on, whether it can be looked at or not.
                Err(problem) if problem.status >= 500 => tokio::time::sleep(PAUSE).await,
                Err(problem) => return Err(problem),
            }
        }
    }

    async fn stop(&self, ticket: &Ticket, run: RunId) -> Result<(), Problem> {
        let reason = Some("the job whose work it is was stopped".to_owned());
        match self.command(&Self::job(ticket), CommandKind::Stop { run, job: None, reason }).await {
            // It was never made, or is over.
            Err(problem) if matches!(problem.status, 404 | 409) => Ok(()),
            other => other.map(|_| ()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_as_a_whole_keeps_its_type_and_a_part_of_a_text_is_text() {
        let context = context! { ds => "2013-01-01", upstream => context! { count => context! { rows => 7 } } };
        let fill = |text: &str| fill(&json!(text), &context);
        assert_eq!(fill("{{ upstream.count.rows }}"), Ok(json!(7)));
        assert_eq!(fill("day {{ ds }}"), Ok(json!("day 2013-01-01")));
        assert_eq!(fill("{{ ds }}-{{ ds }}"), Ok(json!("2013-01-01-2013-01-01")));
        assert!(fill("{{ upstream.count.lines }}").is_err());
    }
}
