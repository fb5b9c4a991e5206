//! What people do to runs that are under way or over, and to wholes: marks, holds, switches, other code, limits.

use std::collections::BTreeSet;

use pinrail_model::admit::{LimitId, Scope};
use pinrail_model::ids::RunId;
use pinrail_model::names::ProjectName;
use pinrail_model::run::{Control, Event, Run};
use pinrail_model::seam::store::{Command, CommandKind, LimitName, LimitSet, Write};
use serde_json::{Value, json};

use super::{Batch, Owner, Refusal, control, selected};

impl Owner {
    /// Carries out a command about one run.
    pub(super) async fn operate(&mut self, command: &Command, batch: &mut Batch) -> Result<Value, Refusal> {
        let by = command.by.clone();
        let (run, event) = match &command.kind {
            CommandKind::Mark { run, jobs, ending, reason } => {
                self.hold(*run, batch).await?;
                // What a mark lets begin again must meet no other run of its interval.
                self.make_way(*run, &by, batch).await?;
                let tasks = selected(self.held(*run)?, jobs)?;
                (*run, Event::Mark { tasks, ending: *ending, control: control(command, reason.as_deref()) })
            }
            CommandKind::HoldRun { run, jobs, held, reason } => {
                self.hold(*run, batch).await?;
                let tasks = jobs.as_ref().map(|jobs| selected(self.held(*run)?, jobs)).transpose()?;
                let control = held.then(|| control(command, reason.as_deref()));
                (*run, Event::Hold { tasks, control, by })
            }
            CommandKind::Disable { run, jobs, disabled, reason } => {
                self.hold(*run, batch).await?;
                let tasks = selected(self.held(*run)?, jobs)?;
                let control = disabled.then(|| control(command, reason.as_deref()));
                (*run, Event::Disable { tasks, control, by })
            }
            CommandKind::Reload { run, code } => {
                self.hold(*run, batch).await?;
                let code = self.new_code(self.held(*run)?, code).await?;
                (*run, Event::Reload { by, code })
            }
            _ => return Err(Refusal::new("internal", "the command is about no run".to_owned())),
        };
        let wakes = matches!(command.kind, CommandKind::Mark { .. });
        if wakes {
            self.wake_backfill(run).await.map_err(|e| Refusal::new("state-failed", e.to_string()))?;
        }
        self.apply(run, &event, batch).map_err(|e| Refusal::new("wrong-state", e.to_string()))?;
        Ok(json!({"id": run}))
    }

    fn held(&self, id: RunId) -> Result<&Run, Refusal> {
        let held = self.runs.get(&id);
        held.map(|held| &held.run).ok_or_else(|| Refusal::new("run-not-found", format!("no run \"{id}\"")))
    }

    /// Holds a whole or lets it go; stops what is under way in it if that is asked for.
    pub(super) fn hold_scope(
        &mut self,
        scope: &Scope,
        held: bool,
        abort: bool,
        control: &Control,
        batch: &mut Batch,
    ) -> Result<Value, Refusal> {
        let wanted = held.then(|| control.clone());
        self.shard.set_hold(scope.clone(), wanted.clone());
        batch.replies.push(Write::Hold { scope: scope.clone(), control: wanted });
        let within = |run: &Run| scope.holds(&run.project, &run.workflow);
        let live: BTreeSet<RunId> = if abort {
            let live = self.runs.values().map(|held| &held.run);
            live.filter(|run| within(run) && !run.state().is_final()).map(|run| run.id).collect()
        } else {
            BTreeSet::new()
        };
        for run in &live {
            let (by, reason) = (control.by.clone(), control.reason.clone());
            // One that has ended meanwhile needs no stop.
            let _ = self.apply(*run, &Event::Stop { task: None, by, reason }, batch);
        }
        Ok(json!({"stopped": live.len()}))
    }

    pub(super) fn set_limit(
        &mut self,
        project: &ProjectName,
        name: &LimitName,
        value: Option<u32>,
        description: Option<String>,
        command: &Command,
        batch: &mut Batch,
    ) -> Result<Value, Refusal> {
        self.apply_limit(project, name, value);
        let set = value.map(|value| LimitSet { value, by: command.by.clone(), at: command.at, description });
        batch.replies.push(Write::Limit { project: project.clone(), name: name.clone(), set });
        Ok(json!({}))
    }

    pub(super) fn apply_limit(&mut self, project: &ProjectName, name: &LimitName, value: Option<u32>) {
        match name {
            LimitName::Pool(pool) => {
                self.shard.set_capacity(LimitId::Pool(project.clone(), pool.clone()), value);
            }
            LimitName::Quota => self.shard.set_capacity(LimitId::Quota(project.clone()), value),
            LimitName::Weight => self.shard.set_weight(project.clone(), value.unwrap_or(1)),
        }
    }
}
