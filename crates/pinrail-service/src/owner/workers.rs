//! Workers come, are told apart from lost ones, and go: what the owner decides about sessions.

use std::collections::BTreeSet;

use pinrail_model::admit::Key;
use pinrail_model::explain::{Explanation, Why};
use pinrail_model::ids::{SessionId, TokenId, fresh};
use pinrail_model::run::{Event, Loss, Position, Run};
use pinrail_model::seam::store::StoreError;
use pinrail_model::time::Micros;
use tokio::sync::oneshot;

use super::{Batch, Owner};
use crate::problem::Problem;
use crate::workers::{Joining, Seen};

/// What concerns workers.
pub enum WorkerInput {
    Join {
        joining: Joining,
        token: TokenId,
        answer: oneshot::Sender<Result<SessionId, Problem>>,
    },
    /// A worker is to take nothing new, or may again. Answered with whether there is one of that name.
    Drain {
        name: String,
        draining: bool,
        answer: oneshot::Sender<bool>,
    },
    /// The process of a worker was asked to end.
    Draining(SessionId),
    /// Nothing of a worker lives any more.
    Left(SessionId),
    List(oneshot::Sender<Vec<WorkerSeen>>),
}

/// A worker and what it has to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerSeen {
    /// None: the server itself.
    pub seen: Option<Seen>,
    pub slots: u32,
    pub held: u32,
    pub draining: bool,
    pub since: Micros,
}

impl Owner {
    pub(super) async fn worker(&mut self, input: WorkerInput, batch: &mut Batch) -> Result<(), StoreError> {
        match input {
            WorkerInput::Join { joining, token, answer } => {
                let joined = self.join(&joining, token, batch).await?;
                // A worker that has gone meanwhile is lost like any other.
                let _ = answer.send(joined);
            }
            WorkerInput::Drain { name, draining, answer } => {
                let found = self.attempts.parts.workers.named(&name);
                if let Some(id) = found {
                    self.shard.drain(id, draining);
                    self.send_home();
                }
                let _ = answer.send(found.is_some());
            }
            WorkerInput::Draining(id) => {
                self.shard.drain(id, true);
                self.send_home();
            }
            WorkerInput::Left(id) => self.lose(id, batch).await?,
            WorkerInput::List(answer) => {
                let _ = answer.send(self.workers());
            }
        }
        Ok(())
    }

    async fn join(
        &mut self,
        joining: &Joining,
        token: TokenId,
        batch: &mut Batch,
    ) -> Result<Result<SessionId, Problem>, StoreError> {
        if let Some(former) = joining.former {
            // Nothing of it lives, so there is nothing to wait for.
            self.lose(former, batch).await?;
            self.attempts.parts.workers.confirm(former);
        }
        if self.attempts.parts.workers.named(&joining.name).is_some() {
            let detail = format!("a worker with the name \"{}\" is connected", joining.name);
            let hint =
                "Give this one another with --name. If that one was killed, it counts as lost within some seconds.";
            return Ok(Err(Problem::new("worker-exists", detail).hint(hint)));
        }
        let id: SessionId = fresh(self.parts.ids.as_ref());
        self.attempts.parts.workers.join(id, joining, token);
        self.shard.join(id, joining.slots, joining.labels.clone());
        tracing::info!(name = joining.name, slots = joining.slots, "a worker has joined");
        Ok(Ok(id))
    }

    /// Finds workers whose leases have run out.
    pub(super) async fn expire(&mut self, batch: &mut Batch) -> Result<(), StoreError> {
        for id in self.attempts.parts.workers.overdue() {
            let name = self.attempts.parts.workers.seen(id).map(|seen| seen.name);
            tracing::warn!(?name, "a worker was not heard of for the length of its lease; what it held is lost");
            self.lose(id, batch).await?;
        }
        Ok(())
    }

    /// Ends a session. What it held is lost, each task by its position, and fenced by its epoch from now on.
    async fn lose(&mut self, id: SessionId, batch: &mut Batch) -> Result<(), StoreError> {
        if !self.attempts.parts.workers.knows(id) {
            return Ok(());
        }
        let held: BTreeSet<Key> = self.shard.of_session(id).collect();
        for (run, task) in held {
            self.flush_if_publishing(run, batch).await?;
            let Some(epoch) = self.runs.get(&run).map(|held| held.run.tasks[task].epoch) else { continue };
            let event = Event::Lost { task, epoch, by: Loss::Session };
            if let Err(error) = self.apply(run, &event, batch) {
                tracing::error!(%run, %error, "a task of a lost worker cannot be resumed");
            }
        }
        self.shard.part(id);
        self.attempts.parts.workers.close(id);
        Ok(())
    }

    /// Lets workers go that were to be empty and are.
    pub(super) fn send_home(&self) {
        let workers = &self.attempts.parts.workers;
        let empty = self.shard.sessions().iter().filter(|(_, session)| session.draining && session.held() == 0);
        for (id, _) in empty.filter(|(id, _)| workers.is_empty(**id)) {
            workers.send_home(*id);
        }
    }

    /// The name of the worker that runs what an explanation is about.
    pub(super) fn worker_of(&self, run: &Run, explanation: &Explanation) -> Option<String> {
        let Why::Working { position, .. } = &explanation.why else { return None };
        // An engine is nobody's.
        if *position == Position::Submitted {
            return None;
        }
        let task = &run.tasks[run.find(explanation.job.as_ref()?.as_str())?];
        Some(self.attempts.parts.workers.seen(task.attempt()?.session)?.name)
    }

    fn workers(&self) -> Vec<WorkerSeen> {
        let seen = self.shard.sessions().iter().map(|(id, session)| {
            let seen = self.attempts.parts.workers.seen(*id);
            let since = seen.as_ref().map_or(self.since, |seen| seen.since);
            WorkerSeen { seen, slots: session.slots, held: session.held(), draining: session.draining, since }
        });
        seen.collect()
    }
}
