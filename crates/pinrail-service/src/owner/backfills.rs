//! The owner's backfills: their rows are made in slices, and their runs begin when admission says so.
//!
//! Those that have no rows yet are listed all the same, from the backfill's own row: nobody waits for them to be made.
//!
//! The two largest costs of a large one are the commits of its slices (a run's row with its indexes, and a line of
//! history), between which others get their turn, and the way of its intervals through the JSON of command and row.

use pinrail_model::backfill::{Backfill, Progress, SLICE};
use pinrail_model::ids::{BackfillId, RunId};
use pinrail_model::run::{Cause, Control, Event, Pending, Run, RunState};
use pinrail_model::seam::store::{
    Answer, BackfillChange, BackfillRow, Durability, EventRow, Load, Query, RunRow, StoreError, Who, Write,
};
use pinrail_model::step;
use serde_json::{Value, json};

use super::{Batch, Input, Owner, Refusal, rebuild};

/// A backfill that is not over, in memory.
pub(super) struct Filling {
    row: BackfillRow,
    /// Indexes in the order in which they begin.
    sequence: Vec<u32>,
}

impl Owner {
    pub(super) async fn create_backfill(&mut self, new: &Backfill, batch: &mut Batch) -> Result<Value, Refusal> {
        let row = BackfillRow { backfill: new.clone(), progress: Progress::begin(new) };
        batch.replies.push(Write::Backfill(Box::new(row.clone())));
        self.hold_backfill(row);
        Ok(json!({"id": new.id}))
    }

    fn hold_backfill(&mut self, row: BackfillRow) {
        let id = row.backfill.id;
        let sequence = row.backfill.sequence();
        self.shard.follow_backfill(&row.backfill, &row.progress);
        self.shard.recount_backfill(id);
        self.backfills.insert(id, Filling { row, sequence });
        // Its runs are made in slices between which others get their turn.
        self.handle.tell(Input::Fill(id));
    }

    /// A run of a backfill that has not made its row yet.
    pub(super) fn unmade(&self, run: RunId) -> Option<Run> {
        let rows = self.backfills.values().map(|filling| &filling.row);
        rows.into_iter().find_map(|row| row.backfill.unmade(&row.progress).find(run))
    }

    /// A backfill that is over may be needed again, because one of its runs is retried.
    async fn find_backfill(&mut self, id: BackfillId) -> Result<Option<&mut Filling>, StoreError> {
        if !self.backfills.contains_key(&id) {
            let answer = self.parts.store.read(&Who::default(), Query::Backfill(id)).await?;
            let Answer::Backfills(mut rows) = answer else { return Ok(None) };
            let Some(row) = rows.pop() else { return Ok(None) };
            self.hold_backfill(row);
        }
        Ok(self.backfills.get_mut(&id))
    }

    /// Makes the rows of the next runs of a backfill.
    pub(super) async fn fill(&mut self, id: BackfillId, batch: &mut Batch) -> Result<(), StoreError> {
        self.flush(batch).await?;
        let now = self.parts.clock.now().wall;
        let Some(filling) = self.backfills.get_mut(&id) else { return Ok(()) };
        let (backfill, progress) = (&filling.row.backfill, &mut filling.row.progress);
        let slice = progress.next_slice(backfill, &filling.sequence, SLICE);
        if slice.is_empty() {
            return Ok(());
        }
        let made: Vec<(Run, bool)> = slice.into_iter().map(|(index, again)| (backfill.run(index), again)).collect();
        let row = Write::Progress { id, state: backfill.state(progress), progress: Box::new(progress.clone()) };
        self.shard.follow_backfill(backfill, progress);
        // What was cancelled by itself before an edit stays so.
        let mut runs = Vec::with_capacity(made.len());
        for (run, again) in made {
            let stored = if again { self.parts.store.load(Load::One(run.id)).await?.pop() } else { None };
            if stored.is_none_or(|stored| stored.run.pending == Some(Pending::Backfill)) {
                runs.push(run);
            }
        }
        let mut writes: Vec<Write> = runs
            .iter()
            .map(|run| Write::Run(Box::new(RunRow { run: run.clone(), state: run.state().name(), unique_key: None })))
            .collect();
        writes.push(row);
        let mut transition = self.transition(writes);
        transition.events = runs
            .iter()
            .map(|run| EventRow {
                run: run.id,
                seq: 1,
                at: now,
                kind: "run-created".to_owned(),
                job: None,
                data: json!({"backfill": id}),
            })
            .collect();
        step!("backfill.before-slice");
        // What follows waits in order behind it.
        self.parts.store.commit(vec![transition], Durability::Waited).await?;
        step!("backfill.after-slice");
        self.handle.tell(Input::Fill(id));
        Ok(())
    }

    /// Puts the next run of a backfill into the line of its workflow.
    pub(super) async fn advance(&mut self, id: BackfillId, batch: &mut Batch) -> Result<(), StoreError> {
        let Some(filling) = self.backfills.get_mut(&id) else { return Ok(()) };
        let progress = &mut filling.row.progress;
        let Some(index) = filling.sequence.get(progress.next as usize).copied() else { return Ok(()) };
        progress.next += 1;
        batch.backfills.insert(id);
        let run = filling.row.backfill.run_id(index);
        self.shard.follow_backfill(&filling.row.backfill, &filling.row.progress);
        // One that a person holds is in memory before its turn.
        if !self.runs.contains_key(&run) {
            let Some(stored) = self.parts.store.load(Load::One(run)).await?.pop() else { return Ok(()) };
            if stored.run.pending != Some(Pending::Backfill) {
                return Ok(());
            }
            let Ok(held) = rebuild(stored) else { return Ok(()) };
            self.runs.insert(run, held);
        }
        // One that was cancelled by itself, or that has begun before a crash, has had its turn.
        if self.runs.get(&run).is_none_or(|held| held.run.pending != Some(Pending::Backfill)) {
            return Ok(());
        }
        if let Err(error) = self.apply(run, &Event::Turned, batch) {
            tracing::error!(%run, %error, "a run of a backfill cannot take its turn");
        }
        Ok(())
    }

    pub(super) fn backfill_moved(&mut self, id: BackfillId, before: RunState, after: RunState, batch: &mut Batch) {
        if let Some(filling) = self.backfills.get_mut(&id) {
            filling.row.progress.follow(before, after);
            let now = self.parts.clock.now().wall;
            let over = filling.row.state().is_final();
            filling.row.progress.ended_at = over.then_some(now);
            self.shard.follow_backfill(&filling.row.backfill, &filling.row.progress);
            batch.backfills.insert(id);
        }
    }

    pub(super) fn progress_row(&self, id: BackfillId) -> Option<Write> {
        let row = &self.backfills.get(&id)?.row;
        Some(Write::Progress { id, state: row.state(), progress: Box::new(row.progress.clone()) })
    }

    /// Forgets a backfill that is over.
    pub(super) fn settle_backfill(&mut self, id: BackfillId) {
        if self.backfills.get(&id).is_some_and(|filling| filling.row.state().is_final()) {
            self.backfills.remove(&id);
        }
    }

    /// A run that goes on again belongs to a backfill that may be over.
    pub(super) async fn wake_backfill(&mut self, id: RunId) -> Result<(), StoreError> {
        let Some(Cause::Backfill { id, .. }) = self.runs.get(&id).map(|held| held.run.cause.clone()) else {
            return Ok(());
        };
        self.find_backfill(id).await.map(|_| ())
    }

    pub(super) async fn change_backfill(
        &mut self,
        id: BackfillId,
        change: &BackfillChange,
        control: &Control,
        batch: &mut Batch,
    ) -> Result<Value, Refusal> {
        let failed = |error: StoreError| Refusal::new("state-failed", error.to_string());
        let now = self.parts.clock.now().wall;
        let found = self.find_backfill(id).await.map_err(failed)?;
        let filling = found.ok_or_else(|| Refusal::new("backfill-not-found", format!("no backfill \"{id}\"")))?;
        let state = filling.row.state();
        if state.is_final() {
            let message = format!("backfill \"{id}\" is over already: {}", state.name());
            self.settle_backfill(id);
            return Err(Refusal::new("wrong-state", message));
        }
        let progress = &mut filling.row.progress;
        match change {
            BackfillChange::Pause => progress.paused = Some(control.clone()),
            BackfillChange::Resume => progress.paused = None,
            BackfillChange::Edit { concurrency, params } => {
                let backfill = &mut filling.row.backfill;
                backfill.concurrency = concurrency.unwrap_or(backfill.concurrency).max(1);
                let total = backfill.total();
                if let Some(params) = params {
                    backfill.params.clone_from(params);
                    // Rows whose turn is still to come are made again with them.
                    progress.made = progress.next.min(total);
                }
            }
            BackfillChange::Cancel => {
                progress.cancel(control);
                self.cancel_backfill(id, control, batch).await.map_err(failed)?;
            }
        }
        if let Some(filling) = self.backfills.get_mut(&id) {
            let over = filling.row.state().is_final();
            filling.row.progress.ended_at = over.then_some(now);
            self.shard.follow_backfill(&filling.row.backfill, &filling.row.progress);
            batch.replies.push(Write::Backfill(Box::new(filling.row.clone())));
            self.handle.tell(Input::Fill(id));
        }
        Ok(json!({"id": id}))
    }

    /// Stops what is under way of a backfill, and ends its runs whose turn is still to come.
    async fn cancel_backfill(
        &mut self,
        id: BackfillId,
        control: &Control,
        batch: &mut Batch,
    ) -> Result<(), StoreError> {
        let live: Vec<RunId> = self
            .runs
            .values()
            .map(|held| &held.run)
            .filter(|run| matches!(run.cause, Cause::Backfill { id: of, .. } if of == id))
            .map(|run| run.id)
            .collect();
        for run in live {
            let (by, reason) = (control.by.clone(), control.reason.clone());
            // One that has ended meanwhile needs no stop.
            let _ = self.apply(run, &Event::Stop { task: None, by, reason }, batch);
        }
        let Some(filling) = self.backfills.get_mut(&id) else { return Ok(()) };
        let progress = &mut filling.row.progress;
        let dormant = progress.dormant(&filling.sequence).iter();
        let dormant: Vec<RunId> = dormant.map(|index| filling.row.backfill.run_id(*index)).collect();
        progress.next = filling.row.backfill.total();
        for slice in dormant.chunks(SLICE as usize) {
            let mut writes = Vec::with_capacity(slice.len());
            // What is in memory was stopped there.
            for run in slice.iter().filter(|run| !self.runs.contains_key(run)) {
                let Some(stored) = self.parts.store.load(Load::One(*run)).await?.pop() else { continue };
                if stored.run.pending != Some(Pending::Backfill) {
                    continue;
                }
                let mut run = stored.run;
                run.pending = None;
                run.stop = Some(pinrail_model::run::Stop {
                    by: control.by.clone(),
                    at: control.at,
                    reason: control.reason.clone(),
                });
                run.ended_at = Some(control.at);
                writes.push(Write::Run(Box::new(RunRow { state: run.state().name(), run, unique_key: None })));
            }
            if let Some(filling) = self.backfills.get_mut(&id) {
                filling.row.progress.stopped += writes.len() as u32;
            }
            self.parts.store.commit(vec![self.transition(writes)], Durability::Waited).await?;
        }
        Ok(())
    }

    /// Reads the backfills that are not over. Their counts are those of their runs, whatever was stored of them last.
    pub(super) async fn recover_backfills(&mut self) -> Result<(), StoreError> {
        if !self.fires() {
            return Ok(());
        }
        let Answer::Backfills(rows) = self.parts.store.read(&Who::default(), Query::UnfinishedBackfills).await? else {
            return Ok(());
        };
        for mut row in rows {
            let counts = self.parts.store.read(&Who::default(), Query::BackfillCounts(row.backfill.id)).await?;
            if let Answer::BackfillCounts(counts) = counts {
                let count = |state: RunState| counts.get(state.name()).copied().unwrap_or(0);
                row.progress.running = count(RunState::Running);
                row.progress.succeeded = count(RunState::Succeeded);
                row.progress.failed = count(RunState::Failed);
                row.progress.stopped = count(RunState::Cancelled);
            }
            self.hold_backfill(row);
        }
        Ok(())
    }
}
