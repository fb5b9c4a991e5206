//! What workers and people ask of the server about workers.

use std::time::Duration;

use pinrail_model::document::Sha;
use pinrail_model::ids::SessionId;
use pinrail_model::seam::store::{Answer, Query, Who};

use super::wire::{Frame, Order};
use super::{Joined, Joining, check};
use crate::app::App;
use crate::bundles::Manifest;
use crate::owner::Input;
use crate::owner::workers::{WorkerInput, WorkerSeen};
use crate::problem::Problem;
use crate::tokens::{Principal, Role};

/// How long a worker that asks for orders waits for some. Shorter than proxies are patient.
const ORDERS_PATIENCE: Duration = Duration::from_secs(5);

impl App {
    /// Takes a worker in.
    ///
    /// # Errors
    /// When the token is not for that, the worker cannot be had as it is, or one of its name is here.
    pub async fn join_worker(&self, principal: &Principal, joining: Joining) -> Result<Joined, Problem> {
        principal.may_work()?;
        check(&joining)?;
        self.attempts.parts.tenancy.admit_worker(&joining.users_of)?;
        let token = principal.id;
        let asked = self.owner.ask(|answer| Input::Worker(WorkerInput::Join { joining, token, answer })).await;
        let session = asked.ok_or_else(owner_gone)??;
        let parts = &self.attempts.parts;
        Ok(parts.workers.joined(session, &parts.installation))
    }

    /// The orders of a worker after a number.
    ///
    /// # Errors
    /// 409 when its session is over.
    pub(crate) async fn orders(
        &self,
        principal: &Principal,
        id: SessionId,
        after: u64,
    ) -> Result<Vec<(u64, Order)>, Problem> {
        principal.may_work()?;
        let workers = &self.attempts.parts.workers;
        let orders = workers.speaking(id, principal.id)?.orders(after, ORDERS_PATIENCE).await;
        if workers.knows(id) { Ok(orders) } else { Err(super::closed()) }
    }

    /// Takes in what a worker has to say; gives the number of the last frame that is here.
    ///
    /// # Errors
    /// 409 when its session is over.
    pub(crate) fn hear_worker(
        &self,
        principal: &Principal,
        id: SessionId,
        first: u64,
        frames: Vec<Frame>,
    ) -> Result<u64, Problem> {
        principal.may_work()?;
        let heard = self.attempts.parts.workers.speaking(id, principal.id)?.hear(first, frames);
        if heard.draining {
            self.owner.tell(Input::Worker(WorkerInput::Draining(id)));
        }
        Ok(heard.last)
    }

    /// A worker has ended all its processes and goes.
    ///
    /// # Errors
    /// 409 when its session is over anyway.
    pub fn worker_left(&self, principal: &Principal, id: SessionId) -> Result<(), Problem> {
        principal.may_work()?;
        self.attempts.parts.workers.speaking(id, principal.id)?;
        self.owner.tell(Input::Worker(WorkerInput::Left(id)));
        Ok(())
    }

    /// The files of a bundle, for a worker that does not have it.
    ///
    /// # Errors
    /// 409 when its session is over, 400 when there is no such bundle.
    pub async fn bundle_for_worker(
        &self,
        principal: &Principal,
        id: SessionId,
        project: pinrail_model::names::ProjectName,
        sha: Sha,
    ) -> Result<Manifest, Problem> {
        principal.may_work()?;
        self.attempts.parts.workers.speaking(id, principal.id)?;
        match self.store.read(&Who::default(), Query::Bundle { project, sha }).await? {
            Answer::Bundle(row) => Ok(row.manifest),
            _ => Err(Problem::new("bad-bundle", format!("bundle {} is not known", sha.short()))),
        }
    }

    /// The bytes of a file of a bundle, for a worker.
    ///
    /// # Errors
    /// 409 when its session is over, 400 when there is no such file.
    pub async fn blob_for_worker(&self, principal: &Principal, id: SessionId, sha: Sha) -> Result<Vec<u8>, Problem> {
        principal.may_work()?;
        self.attempts.parts.workers.speaking(id, principal.id)?;
        let bundles = self.bundles.clone();
        let read = tokio::task::spawn_blocking(move || bundles.get(sha)).await;
        let read = read.map_err(|e| Problem::new("internal", e.to_string()))?;
        read.map_err(|e| Problem::new("bad-bundle", e.to_string()).hint(e.hint()))
    }

    /// All workers, the server itself among them.
    ///
    /// # Errors
    /// When the owner has stopped.
    pub async fn workers(&self) -> Result<Vec<WorkerSeen>, Problem> {
        self.owner.ask(|answer| Input::Worker(WorkerInput::List(answer))).await.ok_or_else(owner_gone)
    }

    /// Lets a worker finish what it has and take nothing new, or take something again.
    ///
    /// # Errors
    /// When the caller is no admin of all projects, or there is no such worker.
    pub async fn drain_worker(&self, principal: &Principal, name: &str, draining: bool) -> Result<(), Problem> {
        principal.may_everywhere(Role::Admin)?;
        let drain = |answer| WorkerInput::Drain { name: name.to_owned(), draining, answer };
        if self.owner.ask(|answer| Input::Worker(drain(answer))).await.ok_or_else(owner_gone)? {
            return Ok(());
        }
        let shown: String = name.chars().take(80).collect();
        Err(Problem::new("worker-not-found", format!("no worker \"{shown}\" is connected"))
            .hint("`pinrail workers` lists those that are."))
    }
}

fn owner_gone() -> Problem {
    Problem::new("owner-gone", "the server is stopping")
        .hint("Start it again with `pinrail up`; server.log says why it stops.")
}
