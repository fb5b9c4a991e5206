//! The one thread that writes. It takes all orders that wait, puts them into one SQLite transaction with a savepoint
//! each, commits once, and only then answers: so many callers share one `fdatasync`.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use pinrail_model::ids::AttemptId;
use pinrail_model::names::ProjectName;
use pinrail_model::seam::lake::{Overlay, PointerError, PointerSwap};
use pinrail_model::seam::store::{Command, Forget, Reply, StoreError, Topic, Transition};
use pinrail_model::step;
use pinrail_model::time::Micros;
use rusqlite::{Connection, OptionalExtension, params};
use tokio::sync::{broadcast, oneshot};

use super::{failed, forget, pointers, rows};

/// One thing to write, with where its answer goes.
pub(super) enum Order {
    Commit {
        transitions: Vec<Transition>,
        answer: Option<oneshot::Sender<Result<Vec<Reply>, StoreError>>>,
    },
    Send {
        commands: Vec<Command>,
        answer: oneshot::Sender<Result<(), StoreError>>,
    },
    Forget {
        what: Forget,
        before: Micros,
        most: u32,
        runs: Option<Vec<String>>,
        answer: oneshot::Sender<Result<u64, StoreError>>,
    },
    Lease {
        holder: String,
        answer: oneshot::Sender<Result<u64, StoreError>>,
    },
    Stage {
        epoch: u64,
        overlay: Box<Overlay>,
        answer: oneshot::Sender<Result<(), PointerError>>,
    },
    Swap {
        project: ProjectName,
        swaps: Vec<PointerSwap>,
        answer: oneshot::Sender<Result<(), PointerError>>,
    },
}

/// Orders that go into one commit at most: a bound on how long the first of them waits.
const MOST_IN_A_COMMIT: usize = 1000;
/// How long changes that nobody waits for may stay undurable.
const BEHIND: Duration = Duration::from_millis(50);

#[derive(Debug)]
pub(super) struct Writer {
    orders: Sender<Order>,
}

impl Writer {
    pub(super) fn start(
        connection: Connection,
        news: broadcast::Sender<Arc<HashSet<Topic>>>,
    ) -> Result<Self, StoreError> {
        let (orders, inbox) = channel();
        std::thread::Builder::new()
            .name("store-writer".to_owned())
            .spawn(move || Thread { connection, news }.run(&inbox))
            .map_err(|e| StoreError::Failed(e.to_string()))?;
        Ok(Self { orders })
    }

    pub(super) fn order(&self, order: Order) -> Result<(), StoreError> {
        self.orders.send(order).map_err(|_| StoreError::Failed("the writer has stopped".to_owned()))
    }
}

struct Thread {
    connection: Connection,
    news: broadcast::Sender<Arc<HashSet<Topic>>>,
}

/// Sends an answer once the commit has succeeded, or the reason why it has not.
type Answer = Box<dyn FnOnce(Option<&StoreError>)>;

impl Thread {
    fn run(mut self, inbox: &Receiver<Order>) {
        while let Ok(first) = inbox.recv() {
            let batch = gather(first, inbox);
            self.write(batch);
        }
    }

    fn write(&mut self, batch: Vec<Order>) {
        let mut answers: Vec<Answer> = Vec::with_capacity(batch.len());
        let mut topics = HashSet::new();
        step!("store.before-commit");
        let result = self.in_one_transaction(batch, &mut answers, &mut topics);
        if let Err(error) = &result {
            tracing::error!(%error, "a commit failed");
        }
        step!("store.after-commit");
        for answer in answers {
            answer(result.as_ref().err());
        }
        if result.is_ok() && !topics.is_empty() {
            // Nobody may be listening; then there is nobody to tell.
            let _ = self.news.send(Arc::new(topics));
        }
    }

    fn in_one_transaction(
        &mut self,
        batch: Vec<Order>,
        answers: &mut Vec<Answer>,
        topics: &mut HashSet<Topic>,
    ) -> Result<(), StoreError> {
        let mut transaction = self.connection.transaction().map_err(failed)?;
        for order in batch {
            answers.push(apply(&mut transaction, order, topics));
        }
        transaction.commit().map_err(failed)
    }
}

/// Takes what waits. A batch that nobody waits for lingers a moment, so that it shares a commit with one that is.
#[allow(clippy::disallowed_methods, reason = "lingering is a matter of this thread alone; nothing is decided by it")]
fn gather(first: Order, inbox: &Receiver<Order>) -> Vec<Order> {
    let mut waited = is_waited(&first);
    let mut batch = vec![first];
    let until = std::time::Instant::now() + BEHIND;
    while batch.len() < MOST_IN_A_COMMIT {
        let next = if waited {
            inbox.try_recv().ok()
        } else {
            inbox.recv_timeout(until.saturating_duration_since(std::time::Instant::now())).ok()
        };
        let Some(next) = next else { break };
        waited |= is_waited(&next);
        batch.push(next);
    }
    batch
}

fn is_waited(order: &Order) -> bool {
    !matches!(order, Order::Commit { answer: None, .. })
}

/// Applies one order inside the transaction; the answer it returns is given after the commit.
fn apply(transaction: &mut rusqlite::Transaction<'_>, order: Order, topics: &mut HashSet<Topic>) -> Answer {
    match order {
        Order::Commit { transitions, answer } => {
            let result: Result<Vec<Reply>, StoreError> =
                transitions.iter().map(|transition| commit_one(transaction, transition, topics)).collect();
            if let (Err(error), None) = (&result, &answer) {
                tracing::error!(%error, "a change that nobody waits for could not be written");
            }
            reply(answer, result, std::convert::identity)
        }
        Order::Send { commands, answer } => {
            topics.insert(Topic::Commands);
            reply(Some(answer), send(transaction, &commands), std::convert::identity)
        }
        Order::Forget { what, before, most, runs, answer } => {
            let forgotten = savepoint(transaction, |connection| {
                let forgotten = match &runs {
                    Some(runs) => forget::of_runs(connection, what, before, runs),
                    None => forget::rows(connection, what, before, most),
                };
                forgotten.map(Ok::<u64, std::convert::Infallible>)
            });
            reply(Some(answer), forgotten.map(|Ok(count)| count), std::convert::identity)
        }
        Order::Lease { holder, answer } => reply(Some(answer), lease(transaction, &holder), std::convert::identity),
        Order::Stage { epoch, overlay, answer } => {
            reply(Some(answer), pointers::stage(transaction, epoch, &overlay), pointer_failed)
        }
        Order::Swap { project, swaps, answer } => {
            let swapped = savepoint(transaction, |t| pointers::swap_all(t, &project, &swaps, None));
            let result = match swapped {
                Ok(Ok(_)) => Ok(()),
                Ok(Err(table)) => Err(PointerError::Conflict(table)),
                Err(error) => Err(PointerError::Failed(error.to_string())),
            };
            reply(Some(answer), result, pointer_failed)
        }
    }
}

fn pointer_failed(error: StoreError) -> PointerError {
    PointerError::Failed(error.to_string())
}

fn reply<T: 'static, E: 'static>(
    to: Option<oneshot::Sender<Result<T, E>>>,
    result: Result<T, E>,
    convert: impl FnOnce(StoreError) -> E + 'static,
) -> Answer {
    Box::new(move |failure| {
        let result = failure.map_or(result, |error| Err(convert(error.clone())));
        if let Some(to) = to {
            // The caller may have gone; the change stands.
            let _ = to.send(result);
        }
    })
}

/// Runs a part that may turn out to be impossible: then nothing of it remains.
fn savepoint<T, E>(
    transaction: &mut rusqlite::Transaction<'_>,
    part: impl FnOnce(&Connection) -> Result<Result<T, E>, StoreError>,
) -> Result<Result<T, E>, StoreError> {
    let savepoint = transaction.savepoint().map_err(failed)?;
    let result = part(&savepoint);
    match &result {
        Ok(Ok(_)) => savepoint.commit().map_err(failed)?,
        // Dropping a savepoint rolls it back.
        _ => drop(savepoint),
    }
    result
}

fn commit_one(
    transaction: &mut rusqlite::Transaction<'_>,
    transition: &Transition,
    topics: &mut HashSet<Topic>,
) -> Result<Reply, StoreError> {
    if let Some(earlier) = earlier_reply(transaction, transition)? {
        return Ok(earlier);
    }
    let result = savepoint(transaction, |connection| write_all(connection, transition))?;
    let reply = match result {
        Ok(()) => {
            for event in &transition.events {
                topics.insert(Topic::Run(event.run));
            }
            for write in &transition.writes {
                if let pinrail_model::seam::store::Write::CommandReply { command, .. } = write {
                    topics.insert(Topic::Reply(*command));
                }
            }
            Reply::Committed
        }
        Err(reply) => reply,
    };
    if !transition.publications.is_empty() && reply == Reply::Committed {
        remember(transaction, transition, &reply)?;
    }
    Ok(reply)
}

/// Only publications are remembered: everything else is a replacement of rows by the one owner, and writing it again
/// gives the same rows.
fn remember(connection: &Connection, transition: &Transition, reply: &Reply) -> Result<(), StoreError> {
    let text = serde_json::to_string(reply).unwrap_or_default();
    connection
        .prepare_cached("insert into transitions (id, reply) values (?1, ?2) on conflict (id) do nothing")
        .and_then(|mut s| s.execute(params![transition.id.to_string(), text]))
        .map_err(failed)?;
    Ok(())
}

fn earlier_reply(connection: &Connection, transition: &Transition) -> Result<Option<Reply>, StoreError> {
    if transition.publications.is_empty() {
        return Ok(None);
    }
    let text: Option<String> = connection
        .prepare_cached("select reply from transitions where id = ?1")
        .and_then(|mut s| s.query_row([transition.id.to_string()], |row| row.get(0)).optional())
        .map_err(failed)?;
    Ok(text.and_then(|text| serde_json::from_str(&text).ok()))
}

fn write_all(connection: &Connection, transition: &Transition) -> Result<Result<(), Reply>, StoreError> {
    if let Some(epoch) = transition.shard_epoch
        && epoch != shard_epoch(connection)?
    {
        return Ok(Err(Reply::Stale));
    }
    if let Some(fence) = transition.fence
        && !holds(connection, fence.attempt, fence.epoch)?
    {
        return Ok(Err(Reply::Fenced));
    }
    for publication in &transition.publications {
        if let Err(reply) = pointers::publish(connection, publication)? {
            return Ok(Err(reply));
        }
    }
    for write in &transition.writes {
        if let Err(reply) = rows::write(connection, write)? {
            return Ok(Err(reply));
        }
    }
    for event in &transition.events {
        rows::event(connection, event)?;
    }
    Ok(Ok(()))
}

pub(super) fn holds(connection: &Connection, attempt: AttemptId, epoch: u64) -> Result<bool, StoreError> {
    let found: Option<i64> = connection
        .prepare_cached(
            "select t.epoch from attempts a join tasks t on t.run = a.run and t.job = a.job and t.instance = a.instance
              where a.id = ?1 and a.state = 'running'",
        )
        .and_then(|mut s| s.query_row([attempt.to_string()], |row| row.get(0)).optional())
        .map_err(failed)?;
    Ok(found == Some(epoch.cast_signed()))
}

fn shard_epoch(connection: &Connection) -> Result<u64, StoreError> {
    let text: Option<String> = connection
        .prepare_cached("select value from meta where key = 'shard-epoch'")
        .and_then(|mut s| s.query_row([], |row| row.get(0)).optional())
        .map_err(failed)?;
    Ok(text.and_then(|text| text.parse().ok()).unwrap_or(0))
}

fn lease(connection: &Connection, holder: &str) -> Result<u64, StoreError> {
    let epoch = shard_epoch(connection)? + 1;
    let mut put = connection
        .prepare_cached(
            "insert into meta (key, value) values (?1, ?2) on conflict (key) do update set value = excluded.value",
        )
        .map_err(failed)?;
    put.execute(params!["shard-epoch", epoch.to_string()]).map_err(failed)?;
    put.execute(params!["shard-holder", holder]).map_err(failed)?;
    Ok(epoch)
}

fn send(connection: &Connection, commands: &[Command]) -> Result<(), StoreError> {
    let mut insert = connection
        .prepare_cached("insert into commands (id, body) values (?1, ?2) on conflict (id) do nothing")
        .map_err(failed)?;
    for command in commands {
        let body = serde_json::to_string(command).map_err(|e| StoreError::Failed(e.to_string()))?;
        // One that could not be read again would stop every owner from now on.
        serde_json::from_str::<Command>(&body)
            .map_err(|e| StoreError::Failed(format!("command {} would not be readable: {e}", command.id)))?;
        insert.execute(params![command.id.to_string(), body]).map_err(failed)?;
    }
    Ok(())
}
