//! The one thread that writes. It takes all orders that wait, puts them into one SQLite transaction with a savepoint
//! each, commits once, and only then answers: so many callers share one `fdatasync`.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use pinrail_model::ids::AttemptId;
use pinrail_model::seam::lake::{Overlay, PointerError, PointerSwap};
use pinrail_model::seam::store::{Command, Forget, Reply, StoreError, Topic, Transition, Write};
use pinrail_model::step;
use pinrail_model::target::Place;
use pinrail_model::time::Micros;
use rusqlite::{Connection, params};
use tokio::sync::{broadcast, oneshot};

use super::{broken, failed, forget, pointers, read, rows};

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
        place: Place,
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
        let mut batch = batch.into_iter();
        for order in batch.by_ref() {
            answers.push(apply(&mut transaction, order, topics));
            // A full disk, say, makes SQLite take everything back. What came now would be a change of its own.
            if transaction.is_autocommit() {
                break;
            }
        }
        if transaction.is_autocommit() {
            answers.extend(batch.map(refuse));
            return Err(StoreError::Failed("the transaction was taken back".to_owned()));
        }
        // From here on nobody can tell.
        transaction.commit().map_err(|e| StoreError::Unknown(e.to_string()))
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

/// Applies one order inside the transaction, wholly or not at all; the answer it returns is given after the commit.
fn apply(transaction: &mut rusqlite::Transaction<'_>, order: Order, topics: &mut HashSet<Topic>) -> Answer {
    match order {
        Order::Commit { transitions, answer } => {
            let mut news = HashSet::new();
            let result = whole(transaction, |order| {
                let epoch = shard_epoch(order)?;
                transitions.iter().map(|transition| commit_one(order, epoch, transition, &mut news)).collect()
            });
            match (&result, &answer) {
                (Ok(_), _) => topics.extend(news),
                (Err(error), None) => {
                    tracing::error!(%error, "a change that nobody waits for could not be written");
                }
                (Err(_), Some(_)) => {}
            }
            reply(answer, result, std::convert::identity)
        }
        Order::Send { commands, answer } => {
            let sent = whole(transaction, |connection| send(connection, &commands));
            reply(Some(answer), sent, std::convert::identity)
        }
        Order::Forget { what, before, most, runs, answer } => {
            let forgotten = whole(transaction, |connection| match &runs {
                Some(runs) => forget::of_runs(connection, what, before, runs),
                None => forget::rows(connection, what, before, most),
            });
            reply(Some(answer), forgotten, std::convert::identity)
        }
        Order::Lease { holder, answer } => {
            let leased = whole(transaction, |connection| lease(connection, &holder));
            reply(Some(answer), leased, std::convert::identity)
        }
        Order::Stage { epoch, overlay, answer } => {
            let staged = whole(transaction, |connection| Ok(pointers::stage(connection, epoch, &overlay)));
            reply(Some(answer), staged.map_err(pointer_failed).flatten(), pointer_failed)
        }
        Order::Swap { place, swaps, answer } => {
            let swapped = whole(transaction, |connection| match pointers::moved(connection, &place, &swaps)? {
                Some(table) => Ok(Err(PointerError::Conflict(table))),
                None => pointers::swap_all(connection, &place, &swaps, None).map(|_| Ok(())),
            });
            reply(Some(answer), swapped.map_err(pointer_failed).flatten(), pointer_failed)
        }
    }
}

/// The answer to an order that was not begun: why is said when it is given.
fn refuse(order: Order) -> Answer {
    fn gone<T: 'static, E: 'static>(
        to: Option<oneshot::Sender<Result<T, E>>>,
        convert: impl Fn(StoreError) -> E + 'static,
    ) -> Answer {
        let result = Err(convert(StoreError::Failed("the transaction was taken back".to_owned())));
        reply(to, result, convert)
    }
    match order {
        Order::Commit { answer, .. } => gone(answer, std::convert::identity),
        Order::Send { answer, .. } => gone(Some(answer), std::convert::identity),
        Order::Forget { answer, .. } => gone(Some(answer), std::convert::identity),
        Order::Lease { answer, .. } => gone(Some(answer), std::convert::identity),
        Order::Stage { answer, .. } | Order::Swap { answer, .. } => gone(Some(answer), pointer_failed),
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

/// Carries out one order: after an error nothing of it remains, and what other orders did does.
fn whole<T>(
    transaction: &mut rusqlite::Transaction<'_>,
    order: impl FnOnce(&mut rusqlite::Savepoint<'_>) -> Result<T, StoreError>,
) -> Result<T, StoreError> {
    let mut savepoint = transaction.savepoint().map_err(failed)?;
    // Dropping a savepoint rolls it back.
    let done = order(&mut savepoint)?;
    savepoint.commit().map_err(failed)?;
    Ok(done)
}

/// Whatever may be refused is looked for before anything is written, so that of a refused transition nothing is left.
fn commit_one(
    connection: &Connection,
    epoch: u64,
    transition: &Transition,
    topics: &mut HashSet<Topic>,
) -> Result<Reply, StoreError> {
    let earlier = if transition.publications.is_empty() { None } else { read::reply(connection, transition.id)? };
    if let Some(reply) = earlier {
        return Ok(reply);
    }
    if let Some(reply) = refusal(connection, epoch, transition)? {
        return Ok(reply);
    }
    write_all(connection, transition)?;
    topics.extend(transition.events.iter().map(|event| Topic::Run(event.run)));
    for write in &transition.writes {
        if let Write::CommandReply { command, .. } = write {
            topics.insert(Topic::Reply(*command));
        }
    }
    if !transition.publications.is_empty() {
        remember(connection, transition)?;
    }
    Ok(Reply::Committed)
}

/// Only publications are remembered: everything else is a replacement of rows by the one owner, and writing it again
/// gives the same rows.
fn remember(connection: &Connection, transition: &Transition) -> Result<(), StoreError> {
    let text = serde_json::to_string(&Reply::Committed).map_err(|e| StoreError::Failed(e.to_string()))?;
    rows::execute(
        connection,
        "insert into transitions (id, reply) values (?1, ?2) on conflict (id) do nothing",
        params![transition.id.to_string(), text],
    )
}

/// Why a transition cannot be in an epoch of the shard; none when it can.
fn refusal(connection: &Connection, epoch: u64, transition: &Transition) -> Result<Option<Reply>, StoreError> {
    if transition.shard_epoch.is_some_and(|of| of != epoch) {
        return Ok(Some(Reply::Stale));
    }
    if let Some(fence) = transition.fence
        && !holds(connection, fence.attempt, fence.epoch)?
    {
        return Ok(Some(Reply::Fenced));
    }
    for publication in &transition.publications {
        if let Some(reply) = pointers::refusal(connection, publication)? {
            return Ok(Some(reply));
        }
    }
    for write in &transition.writes {
        if let Some(reply) = rows::refusal(connection, write)? {
            return Ok(Some(reply));
        }
    }
    Ok(None)
}

fn write_all(connection: &Connection, transition: &Transition) -> Result<(), StoreError> {
    for publication in &transition.publications {
        pointers::publish(connection, publication)?;
    }
    for write in &transition.writes {
        rows::write(connection, write)?;
    }
    for event in &transition.events {
        rows::event(connection, event)?;
    }
    Ok(())
}

pub(super) fn holds(connection: &Connection, attempt: AttemptId, epoch: u64) -> Result<bool, StoreError> {
    let sql =
        "select t.epoch from attempts a join tasks t on t.run = a.run and t.job = a.job and t.instance = a.instance
                where a.id = ?1 and a.state = 'running'";
    let found: Option<i64> = read::one(connection, sql, [attempt.to_string()], |row| row.get(0))?;
    Ok(found == Some(epoch.cast_signed()))
}

fn shard_epoch(connection: &Connection) -> Result<u64, StoreError> {
    let sql = "select value from meta where key = 'shard-epoch'";
    let text: Option<String> = read::one(connection, sql, [], |row| row.get(0))?;
    // An owner that began again at 0 would be taken for a former one.
    text.map_or(Ok(0), |text| text.parse().map_err(|e| broken("the owner's epoch", e)))
}

fn lease(connection: &Connection, holder: &str) -> Result<u64, StoreError> {
    let epoch = shard_epoch(connection)? + 1;
    let put = "insert into meta (key, value) values (?1, ?2) on conflict (key) do update set value = excluded.value";
    rows::execute(connection, put, params!["shard-epoch", epoch.to_string()])?;
    rows::execute(connection, put, params!["shard-holder", holder])?;
    Ok(epoch)
}

fn send(connection: &Connection, commands: &[Command]) -> Result<(), StoreError> {
    for command in commands {
        let body = serde_json::to_string(command).map_err(|e| StoreError::Failed(e.to_string()))?;
        // One that could not be read again would stop every owner from now on.
        serde_json::from_str::<Command>(&body)
            .map_err(|e| StoreError::Failed(format!("command {} would not be readable: {e}", command.id)))?;
        let sql = "insert into commands (id, body) values (?1, ?2) on conflict (id) do nothing";
        rows::execute(connection, sql, params![command.id.to_string(), body])?;
    }
    Ok(())
}
