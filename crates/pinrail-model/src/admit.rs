//! Who gets a worker slot: the second of the two state machines, over the ready tasks of a shard.
//!
//! What was begun is finished first: attempts that want a slot to complete or to clean up go before new ones, and one
//! slot is kept for them, so that a flood of new work cannot keep results from being published. New attempts go by
//! class, then by the priority their author gave, then by the length of the path that hangs on them, then by age.
//!
//! The shard is derived from the runs and rebuilt with them; nothing of it is stored.

use std::collections::{BTreeMap, BTreeSet};

use crate::ids::RunId;
use crate::run::{Class, Position, Run, TaskIx};
use crate::time::Micros;

/// The occupancy and the queues of one shard.
#[derive(Debug)]
pub struct Shard {
    /// Worker slots in all, at least one.
    pub slots: u32,
    held: BTreeSet<(RunId, TaskIx)>,
    /// Want a slot to go on.
    returning: BTreeSet<(Micros, RunId, TaskIx)>,
    ready: BTreeSet<Queued>,
    places: BTreeMap<(RunId, TaskIx), Place>,
}

/// A ready task, in the order in which slots are given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Queued {
    pub class: Class,
    /// The negative of the author's priority and of the weight, so that the order is ascending.
    pub priority: i64,
    pub weight: i64,
    pub ready_at: Micros,
    pub run: RunId,
    pub task: TaskIx,
}

#[derive(Debug, Clone, Copy)]
enum Place {
    Held,
    Returning(Micros),
    Ready(Queued),
}

/// What admission decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admitted {
    /// A new attempt begins.
    Claim { run: RunId, task: TaskIx },
    /// An attempt goes on.
    Grant { run: RunId, task: TaskIx },
}

/// Slots kept for attempts that are about to finish, where there is more than one.
pub const RESERVED: u32 = 1;

impl Shard {
    #[must_use]
    pub fn new(slots: u32) -> Self {
        Self {
            slots: slots.max(1),
            held: BTreeSet::new(),
            returning: BTreeSet::new(),
            ready: BTreeSet::new(),
            places: BTreeMap::new(),
        }
    }

    /// Takes note of what became of some tasks of a run.
    pub fn follow(&mut self, run: &Run, tasks: impl IntoIterator<Item = TaskIx>) {
        for task in tasks {
            self.leave((run.id, task));
            if let Some(place) = place(run, task) {
                self.enter((run.id, task), place);
            }
        }
    }

    /// Forgets a run.
    pub fn forget(&mut self, run: &Run) {
        for task in 0..run.tasks.len() {
            self.leave((run.id, task));
        }
    }

    #[must_use]
    pub fn slots_held(&self) -> u32 {
        self.held.len() as u32
    }

    /// The tasks that wait for a slot, next first.
    pub fn queue(&self) -> impl Iterator<Item = &Queued> {
        self.ready.iter()
    }

    /// Who holds the slots.
    pub fn holders(&self) -> impl Iterator<Item = (RunId, TaskIx)> + '_ {
        self.held.iter().copied()
    }

    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.places.is_empty()
    }

    fn leave(&mut self, key: (RunId, TaskIx)) {
        match self.places.remove(&key) {
            Some(Place::Held) => {
                self.held.remove(&key);
            }
            Some(Place::Returning(since)) => {
                self.returning.remove(&(since, key.0, key.1));
            }
            Some(Place::Ready(queued)) => {
                self.ready.remove(&queued);
            }
            None => {}
        }
    }

    fn enter(&mut self, key: (RunId, TaskIx), place: Place) {
        match place {
            Place::Held => {
                self.held.insert(key);
            }
            Place::Returning(since) => {
                self.returning.insert((since, key.0, key.1));
            }
            Place::Ready(queued) => {
                self.ready.insert(queued);
            }
        }
        self.places.insert(key, place);
    }
}

fn place(run: &Run, ix: TaskIx) -> Option<Place> {
    let task = run.tasks.get(ix)?;
    if task.position == Position::Ready {
        return Some(Place::Ready(Queued {
            class: run.class,
            priority: -i64::from(run.graph.jobs[ix].priority),
            weight: -i64::from(run.graph.weight[ix]),
            ready_at: task.ready_at.unwrap_or(run.created_at),
            run: run.id,
            task: ix,
        }));
    }
    let attempt = task.attempt()?;
    if attempt.slot {
        Some(Place::Held)
    } else if attempt.wants.is_some() {
        Some(Place::Returning(attempt.started_at))
    } else {
        None
    }
}

/// Gives the free slots away. The caller applies each decision to its run and tells the shard with [`Shard::follow`].
#[must_use]
pub fn admit(shard: &Shard) -> Vec<Admitted> {
    let mut free = shard.slots.saturating_sub(shard.slots_held());
    let mut admitted = Vec::new();
    for (_, run, task) in shard.returning.iter().take(free as usize) {
        admitted.push(Admitted::Grant { run: *run, task: *task });
    }
    free -= admitted.len() as u32;
    let reserved = if shard.slots > RESERVED { RESERVED } else { 0 };
    let new = free.saturating_sub(reserved);
    admitted.extend(shard.ready.iter().take(new as usize).map(|q| Admitted::Claim { run: q.run, task: q.task }));
    admitted
}
