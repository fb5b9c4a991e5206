//! What every store must do, written against the trait, so that a second implementation is checked by the same words.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use pinrail_model::admit::Scope;
use pinrail_model::backfill::{Backfill, Order, Progress};
use pinrail_model::document::{Document, ExecutorKind, Sha};
use pinrail_model::explain::Unpublished;
use pinrail_model::ids::{
    AttemptId, BackfillId, CommandId, NoticeId, QueryId, RunId, SessionId, TableId, TokenId, TransitionId,
};
use pinrail_model::names::{ChannelName, ProjectName, TableRef, WorkflowName};
use pinrail_model::notify::{Channel, Delivery, Notice, NoticeEvent, NoticeRow, NoticeState};
use pinrail_model::run::{
    Attempt, Cause, Class, CleanupEnd, Control, Effects, Ending, Event, Executed, Graph, Outcome, Pending, Phase,
    Position, Report, Run, apply,
};
use pinrail_model::schedule::{Fires, Schedule};
use pinrail_model::seam::lake::{Intent, Overlay, PointerError, PointerSwap};
use pinrail_model::seam::store::{
    ActiveVersion, Answer, AttemptRow, BackfillRow, BundleFile, BundleRow, Command, CommandKind, CounterRow,
    Durability, EventRow, FileRow, Forget, IdempotencyRow, InputRow, LimitName, LimitRow, LimitSet, Load, LogRow,
    ProjectRow, Publication, Query, QueryRow, Reply, RunRow, SecretRow, Store, StoredReply, SystemTable, TaskRow,
    TokenRow, Transition, VersionRow, Who, Write,
};
use pinrail_model::target::{Lane, Place, Target};
use pinrail_model::time::{Interval, Micros, Now};
use pinrail_model::trigger::{Overrun, Trigger};
use serde_json::json;

/// Runs the whole suite, each part on a store of its own.
pub async fn all<F, S>(fresh: F)
where
    F: Fn() -> S,
    S: Future<Output = Arc<dyn Store>>,
{
    a_former_owner_is_refused(fresh().await.as_ref()).await;
    a_run_is_read_back_as_it_was_written(fresh().await.as_ref()).await;
    an_instance_has_rows_of_its_own(fresh().await.as_ref()).await;
    a_unique_key_has_one_run(fresh().await.as_ref()).await;
    commands_are_taken_in_order_until_they_are_answered(fresh().await.as_ref()).await;
    pointers_swap_all_or_none(fresh().await.as_ref()).await;
    a_view_stays_as_it_was(fresh().await.as_ref()).await;
    a_publication_happens_once(fresh().await.as_ref()).await;
    a_former_attempt_may_not_stage(fresh().await.as_ref()).await;
    inputs_are_compared_with_the_last_success(fresh().await.as_ref()).await;
    what_is_behind_becomes_durable_in_order(fresh().await.as_ref()).await;
    a_reader_of_one_project_sees_no_other(fresh().await.as_ref()).await;
    runs_are_listed_by_all_that_they_are_asked_for(fresh().await.as_ref()).await;
    what_is_not_there_cannot_be_ended(fresh().await.as_ref()).await;
    an_old_view_is_forgotten_when_nobody_looks_at_it(fresh().await.as_ref()).await;
    what_belongs_to_old_runs_is_forgotten_in_slices(fresh().await.as_ref()).await;
    what_belongs_to_no_run_is_forgotten_by_age(fresh().await.as_ref()).await;
    a_workflow_stays_active_while_it_is_kept(fresh().await.as_ref()).await;
    each_target_has_its_own_tables(fresh().await.as_ref()).await;
    a_bundle_is_dropped_when_nothing_names_it(fresh().await.as_ref()).await;
    an_installation_keeps_its_name_until_it_gets_another(fresh().await.as_ref()).await;
    a_reply_is_stored_once_for_its_key(fresh().await.as_ref()).await;
    what_is_to_happen_is_read_back(fresh().await.as_ref()).await;
    a_backfill_counts_as_its_runs_before_they_have_rows(fresh().await.as_ref()).await;
    a_notice_is_told_once_and_delivered_once(fresh().await.as_ref()).await;
    a_recovery_is_told_only_after_a_failure(fresh().await.as_ref()).await;
    what_is_usual_is_that_of_the_latest_successes(fresh().await.as_ref()).await;
    what_is_read_of_a_run_is_of_one_moment(fresh().await).await;
}

fn asked(second: i64) -> QueryRow {
    let id = QueryId::from_parts(u64::try_from(second * 1000).unwrap_or(0), 1);
    QueryRow {
        id,
        project: project(),
        state: "succeeded".to_owned(),
        created_at: Micros(second * 1_000_000),
        data: json!({}),
    }
}

fn project() -> ProjectName {
    "p".parse().expect("a name")
}

fn place() -> Place {
    Place::plain(project())
}

/// A target whose tables have its name as prefix, or none.
fn target(name: &str, prefix: bool) -> Arc<Target> {
    Arc::new(Target {
        name: name.parse().expect("a name"),
        prefix: prefix.then(|| name.parse().expect("a prefix")),
        reads: Vec::new(),
        protected: false,
        schedules: true,
        vars: BTreeMap::new(),
        scratch: None,
    })
}

fn lane(project: &ProjectName) -> Lane {
    Lane { project: project.clone(), workflow: "w".parse().expect("a name"), target: None }
}

fn table(name: &str) -> TableRef {
    name.parse().expect("a table name")
}

fn id(n: u128) -> TransitionId {
    TransitionId::from_parts(1, n)
}

fn sha() -> Sha {
    Sha::of(b"x")
}

fn document() -> serde_json::Value {
    json!({"format": 1, "workflow": "w", "source": {"file": "w.py", "line": 1},
           "jobs": [{"name": "a", "kind": "shell", "shell": ["true"]}, {"name": "b", "kind": "shell", "shell": ["true"], "after": ["a"]}]})
}

fn new_run(n: u128, project: &ProjectName) -> Run {
    let document = Document::read(&document()).expect("a document");
    let graph = Graph::new(&document.jobs, None);
    Run {
        id: RunId::from_parts(n as u64, n),
        project: project.clone(),
        target: None,
        workflow: document.workflow,
        class: Class::Interactive,
        cause: Cause::Request { by: "test".to_owned() },
        interval: Interval { start: Micros(0), end: Micros(1) },
        tz: "UTC".to_owned(),
        params: BTreeMap::from([("x".to_owned(), json!([1, "é"]))]),
        param_types: BTreeMap::new(),
        bundle: sha(),
        version: sha(),
        created_at: Micros(5),
        started_at: None,
        ended_at: None,
        stop: None,
        pending: None,
        hold: None,
        jobs: None,
        replay_of: None,
        outside: BTreeMap::new(),
        executors: BTreeMap::new(),
        notify: None,
        tasks: Run::new_tasks(&graph, sha(), sha()),
        graph: Arc::new(graph),
        open: Default::default(),
    }
}

fn rows(run: &Run, key: Option<&str>) -> Vec<Write> {
    let mut rows = vec![Write::Run(Box::new(RunRow {
        run: run.clone(),
        state: run.state().name(),
        unique_key: key.map(str::to_owned),
    }))];
    for (ix, task) in run.tasks.iter().enumerate() {
        let instance = task.instance_text();
        let task_row = TaskRow { run: run.id, ix: ix as u32, instance, task: task.as_ref().clone() };
        rows.push(Write::Task(Box::new(task_row)));
        if let Some(attempt) = task.attempt() {
            rows.push(Write::Attempt(Box::new(AttemptRow {
                run: run.id,
                project: run.project.clone(),
                job: task.job.clone(),
                instance: task.instance_text(),
                epoch: task.epoch,
                attempt: attempt.clone(),
            })));
        }
    }
    rows
}

/// A run whose first task has a live attempt.
fn claimed(n: u128, project: &ProjectName) -> (Run, AttemptId) {
    let mut run = new_run(n, project);
    let attempt = AttemptId::from_parts(1, n);
    let mut fx = Effects::default();
    let claim =
        Event::Claimed { task: 0, attempt, session: SessionId::from_parts(1, 1), executor: ExecutorKind::Shell };
    apply(&mut run, &Event::Created, Now::default(), &mut fx).expect("created");
    apply(&mut run, &claim, Now::default(), &mut fx).expect("claimed");
    (run, attempt)
}

async fn commit(store: &dyn Store, transition: Transition) -> Reply {
    let replies = store.commit(vec![transition], Durability::Waited).await.expect("a reply");
    replies.into_iter().next().expect("one reply")
}

async fn a_former_owner_is_refused(store: &dyn Store) {
    let first = store.lease("one").await.expect("a lease");
    let second = store.lease("two").await.expect("a lease");
    assert!(second > first);
    let run = new_run(1, &project());
    let owned = |epoch, n| Transition { shard_epoch: Some(epoch), ..Transition::new(id(n), rows(&run, None)) };
    assert_eq!(commit(store, owned(first, 1)).await, Reply::Stale);
    assert!(store.load(Load::Unfinished).await.expect("runs").is_empty(), "a refused change leaves nothing");
    assert_eq!(commit(store, owned(second, 2)).await, Reply::Committed);
}

async fn a_run_is_read_back_as_it_was_written(store: &dyn Store) {
    let (run, attempt) = claimed(1, &project());
    let version = Write::Version(VersionRow {
        project: project(),
        workflow: run.workflow.clone(),
        version: sha(),
        bundle: sha(),
        document: document(),
        created_at: Micros(0),
    });
    let mut writes = rows(&run, None);
    writes.push(version);
    assert_eq!(commit(store, Transition::new(id(1), writes)).await, Reply::Committed);
    let found = store.load(Load::Unfinished).await.expect("runs");
    assert_eq!(found.len(), 1);
    let stored = &found[0];
    assert_eq!(serde_json::to_value(&stored.run).ok(), serde_json::to_value(&run).ok());
    assert_eq!(stored.tasks.len(), 2);
    assert_eq!(stored.tasks[0].position, run.tasks[0].position);
    assert_eq!(stored.tasks[0].attempts[0].id, attempt);
    assert_eq!(stored.documents[&sha()]["workflow"], "w");
}

/// A job that lists, one that is mapped over the list, and one attempt of each task, all succeeded.
fn spread(n: u128, items: &[serde_json::Value]) -> Run {
    let mut document = document();
    document["jobs"][1]["map"] = json!({"job": "a", "output": "files"});
    let document = Document::read(&document).expect("a document");
    let mut run = Run { graph: Arc::new(Graph::new(&document.jobs, None)), ..new_run(n, &project()) };
    let mut told = |event: &Event| {
        let mut fx = Effects::default();
        apply(&mut run, event, Now::default(), &mut fx).expect("it fits");
        run.tasks.iter().map(|task| task.epoch).collect::<Vec<_>>()
    };
    told(&Event::Created);
    let session = SessionId::from_parts(1, 1);
    let mut work = |task: usize, outputs: BTreeMap<String, serde_json::Value>| {
        let attempt = AttemptId::from_parts(1, n * 100 + task as u128);
        let epoch = told(&Event::Claimed { task, attempt, session, executor: ExecutorKind::Shell })[task];
        let executed = Executed { result: json!(null), spec: None, outputs };
        let said = [
            Report::PhaseStarted(Phase::Setup),
            Report::PhaseStarted(Phase::Execute),
            Report::Executed(executed),
            Report::Completed { outputs: BTreeMap::new() },
        ];
        for report in said {
            told(&Event::Reported { task, epoch, report });
        }
        let epoch = told(&Event::Published { task, epoch, written: Vec::new() })[task];
        let end = CleanupEnd { ok: true, detail: None };
        told(&Event::Reported { task, epoch, report: Report::CleanupEnded(end) });
    };
    work(0, BTreeMap::from([("files".to_owned(), json!(items))]));
    for index in 0..items.len() {
        work(2 + index, BTreeMap::from([("rows".to_owned(), json!(index * 10))]));
    }
    run
}

async fn an_instance_has_rows_of_its_own(store: &dyn Store) {
    let run = spread(1, &[json!("x"), json!({"y": 1})]);
    let attempt = run.tasks[3].attempt().expect("an attempt").id;
    let event = EventRow {
        run: run.id,
        seq: 1,
        at: Micros(0),
        kind: "k".to_owned(),
        job: Some(run.tasks[3].name()),
        data: json!({}),
    };
    let mut writes = rows(&run, None);
    let (job, name) = (run.tasks[3].name(), "f".to_owned());
    writes.push(Write::File(FileRow { run: run.id, attempt, job, name, sha: sha(), size: 1 }));
    let transition = Transition { events: vec![event], ..Transition::new(id(1), writes) };
    assert_eq!(commit(store, transition).await, Reply::Committed);
    let read = |query: Query| async { store.read(&Who::default(), query).await.expect("an answer") };
    let Answer::Run(stored) = read(Query::Run(run.id)).await else { panic!("no run") };
    let names: Vec<String> = stored.tasks.iter().map(|task| task.name().to_string()).collect();
    assert_eq!(names, ["a", "b", "b[0]", "b[1]"]);
    let attempts: Vec<_> = stored.tasks.iter().map(|task| task.attempt().map(|attempt| attempt.id)).collect();
    let written: Vec<_> = run.tasks.iter().map(|task| task.attempt().map(|attempt| attempt.id)).collect();
    assert_eq!(attempts, written, "each has its own");
    assert_eq!(stored.tasks[3].instance, run.tasks[3].instance);
    assert_eq!((stored.tasks[1].spread, stored.tasks[1].ending), (Some(2), Some(Ending::Succeeded)));
    assert_eq!(stored.outputs(&stored.tasks[1])["rows"], json!([0, 10]));
    let Answer::Attempt(found) = read(Query::Attempt(attempt)).await else { panic!("no attempt") };
    assert_eq!(found.job.as_str(), "b[1]");
    let Answer::Events(events) = read(Query::Events { run: run.id, after: 0, limit: 10 }).await else { panic!() };
    assert_eq!(events[0].job.as_ref().map(ToString::to_string).as_deref(), Some("b[1]"));
    let Answer::Files(files) = read(Query::Files(run.id)).await else { panic!("no files") };
    assert_eq!(files[0].job.as_str(), "b[1]");
    let column =
        |rows: &[Vec<serde_json::Value>], at: usize| rows.iter().map(|row| row[at].clone()).collect::<Vec<_>>();
    let Answer::Rows(rows) = read(Query::System(SystemTable::Tasks)).await else { panic!("no rows") };
    assert_eq!(column(&rows, 3), [json!(null), json!(null), json!(0), json!(1)]);
    assert_eq!(column(&rows, 4), [json!(null), json!(null), json!("\"x\""), json!("{\"y\":1}")]);
    let Answer::Rows(rows) = read(Query::System(SystemTable::Attempts)).await else { panic!("no rows") };
    assert_eq!(column(&rows, 4), [json!(null), json!(0), json!(1)]);
    let query = Query::Succeeded { lane: lane(&project()), interval: run.interval };
    let Answer::Succeeded(left) = read(query).await else { panic!("nothing succeeded") };
    let left: BTreeMap<_, _> = left.iter().map(|task| (task.job.as_str(), json!(task.outputs))).collect();
    let wanted = [("a", json!({"files": ["x", {"y": 1}]})), ("b", json!({"rows": [0, 10]}))];
    assert_eq!(left, BTreeMap::from(wanted), "jobs below find the lists");
    let (from, until) = (Micros(0), Micros(1));
    let query = Query::SucceededBetween { lane: lane(&project()), from, until };
    let Answer::SucceededBetween(rows) = read(query).await else { panic!("nothing succeeded") };
    assert_eq!(rows.len(), 2, "what is missing is asked by job");
    let query = Query::Usual { project: project(), workflow: run.workflow.clone(), runs: 20 };
    let Answer::Usual(usual) = read(query).await else { panic!("nothing is usual") };
    assert!(usual.jobs.values().all(|took| took.len() == 1), "a run counts once: {usual:?}");
    assert_eq!(usual.jobs.len(), 2);
}

async fn a_unique_key_has_one_run(store: &dyn Store) {
    let (one, two) = (new_run(1, &project()), new_run(2, &project()));
    assert_eq!(commit(store, Transition::new(id(1), rows(&one, Some("k")))).await, Reply::Committed);
    assert_eq!(commit(store, Transition::new(id(2), rows(&two, Some("k")))).await, Reply::Exists(one.id.to_string()));
    assert_eq!(commit(store, Transition::new(id(3), rows(&one, Some("k")))).await, Reply::Committed);
    assert!(store.load(Load::One(two.id)).await.expect("runs").is_empty());
}

async fn commands_are_taken_in_order_until_they_are_answered(store: &dyn Store) {
    let command = |n| Command {
        id: CommandId::from_parts(1, n),
        by: "anna".to_owned(),
        at: Micros(1),
        kind: CommandKind::Stop { run: RunId::from_parts(1, 1), job: None, reason: None },
    };
    store.send(vec![command(1), command(2)]).await.expect("sent");
    store.send(vec![command(1)]).await.expect("sent again");
    let taken = store.take(0).await.expect("commands");
    assert_eq!(taken.iter().map(|(_, c)| c.id).collect::<Vec<_>>(), [command(1).id, command(2).id]);
    let reply = Write::CommandReply { command: command(1).id, reply: json!({"ok": 1}) };
    assert_eq!(commit(store, Transition::new(id(1), vec![reply])).await, Reply::Committed);
    assert_eq!(store.take(0).await.expect("commands").len(), 1);
    assert!(store.take(taken[1].0).await.expect("commands").is_empty());
    let answer = store.read(&Who::default(), Query::CommandReply(command(1).id)).await.expect("an answer");
    assert!(matches!(answer, Answer::Reply(reply) if reply == json!({"ok": 1})));
}

fn swap(name: &str, expect: Option<&str>, new: Option<&str>) -> PointerSwap {
    let own = |text: &str| text.to_owned();
    PointerSwap { id: TableId::from_parts(1, 1), table: table(name), expect: expect.map(own), new: new.map(own) }
}

async fn pointers_swap_all_or_none(store: &dyn Store) {
    store.swap(&place(), vec![swap("a.x", None, Some("1")), swap("a.y", None, Some("1"))]).await.expect("made");
    let moved = store.swap(&place(), vec![swap("a.x", Some("1"), Some("2")), swap("a.y", Some("0"), Some("2"))]).await;
    assert_eq!(moved, Err(PointerError::Conflict(table("a.y"))));
    let found = store.find(&place(), &table("a.x"), None).await.expect("a pointer").expect("there");
    assert_eq!(found.location, "1", "the first swap was taken back");
    let again = store.swap(&place(), vec![swap("a.x", None, Some("3"))]).await;
    assert_eq!(again, Err(PointerError::Conflict(table("a.x"))), "what exists cannot be made");
}

async fn a_view_stays_as_it_was(store: &dyn Store) {
    store.swap(&place(), vec![swap("a.x", None, Some("1"))]).await.expect("made");
    let seen = store.head(&project()).await.expect("a head");
    store.swap(&place(), vec![swap("a.x", Some("1"), Some("2")), swap("a.y", None, Some("1"))]).await.expect("changed");
    store.swap(&place(), vec![swap("a.x", Some("2"), None)]).await.expect("dropped");
    let (place_of_all, name) = (place(), table("a.x"));
    let at = |at| store.find(&place_of_all, &name, at);
    assert_eq!(at(Some(seen)).await.expect("a pointer").map(|p| p.location), Some("1".to_owned()));
    assert_eq!(at(None).await.expect("a pointer"), None);
    assert_eq!(store.list(&place(), Some(seen)).await.expect("a list").len(), 1);
    assert_eq!(store.list(&place(), None).await.expect("a list").len(), 1);
    assert_eq!(store.head(&project()).await.expect("a head"), seen + 2);
}

async fn a_publication_happens_once(store: &dyn Store) {
    let (run, attempt) = claimed(1, &project());
    assert_eq!(commit(store, Transition::new(id(1), rows(&run, None))).await, Reply::Committed);
    let publication = |expect| Publication {
        place: place(),
        attempt,
        run: run.id,
        job: run.tasks[0].job.clone(),
        instance: String::new(),
        generation: 1,
        at: Micros(1),
        swaps: vec![swap("a.x", expect, Some("new"))],
    };
    let publish = |n, expect| Transition { publications: vec![publication(expect)], ..Transition::new(id(n), vec![]) };
    assert_eq!(commit(store, publish(2, Some("old"))).await, Reply::Conflict(table("a.x")));
    assert_eq!(commit(store, publish(3, None)).await, Reply::Committed);
    assert_eq!(commit(store, publish(3, None)).await, Reply::Committed, "the same id gives the first answer");
    assert_eq!(store.resolve(id(3)).await.expect("an answer"), Some(Reply::Committed));
    assert_eq!(store.resolve(id(2)).await.expect("an answer"), None);
    assert_eq!(commit(store, publish(4, Some("new"))).await, Reply::Fenced, "once per task and generation");
    assert_eq!(store.head(&project()).await.expect("a head"), 1);
}

async fn a_former_attempt_may_not_stage(store: &dyn Store) {
    let (run, attempt) = claimed(1, &project());
    assert_eq!(commit(store, Transition::new(id(1), rows(&run, None))).await, Reply::Committed);
    let overlay = |staged: &str| Overlay {
        attempt,
        id: TableId::from_parts(1, 1),
        table: table("a.x"),
        base: None,
        staged: Some(staged.to_owned()),
        intent: Intent::Changes,
    };
    store.stage(1, overlay("1")).await.expect("staged");
    store.stage(1, overlay("2")).await.expect("replaced");
    assert_eq!(store.stage(0, overlay("3")).await, Err(PointerError::Fenced));
    assert_eq!(store.overlays(attempt).await.expect("overlays"), [overlay("2")]);
    store.swap(&place(), vec![swap("a.y", None, Some("1"))]).await.expect("made");
    store.stage(1, Overlay { table: table("a.y"), ..overlay("1") }).await.expect("staged");
    let written = [unpublished("a.x", false, None), unpublished("a.y", true, None)];
    assert_eq!(unpublished_by(store, attempt).await, written);
    let discard = Transition::new(id(2), vec![Write::DiscardOverlays(attempt)]);
    assert_eq!(commit(store, discard).await, Reply::Committed);
    assert!(store.overlays(attempt).await.expect("overlays").is_empty());
    assert_eq!(unpublished_by(store, attempt).await, written, "their names are remembered");
    let published = Publication {
        place: place(),
        attempt: AttemptId::from_parts(1, 2),
        run: RunId::from_parts(2, 2),
        job: run.tasks[0].job.clone(),
        instance: String::new(),
        generation: 1,
        at: Micros(7),
        swaps: vec![swap("a.x", None, Some("1"))],
    };
    let transition = Transition { publications: vec![published], ..Transition::new(id(3), vec![]) };
    assert_eq!(commit(store, transition).await, Reply::Committed);
    assert_eq!(unpublished_by(store, attempt).await[0], unpublished("a.x", true, Some(Micros(7))));
}

fn unpublished(name: &str, exists: bool, snapshot_at: Option<Micros>) -> Unpublished {
    Unpublished { table: table(name), exists, snapshot_at }
}

async fn unpublished_by(store: &dyn Store, attempt: AttemptId) -> Vec<Unpublished> {
    match store.read(&Who::default(), Query::Unpublished { place: place(), attempt }).await {
        Ok(Answer::Unpublished(tables)) => tables,
        other => panic!("{other:?}"),
    }
}

async fn inputs_are_compared_with_the_last_success(store: &dyn Store) {
    let file = |size| InputRow { path: "data/x.csv".to_owned(), size, modified_at: Micros(3) };
    let inputs = async |query| match store.read(&Who::default(), query).await.expect("an answer") {
        Answer::Inputs(rows) => Some(rows.into_iter().map(|row| row.size).collect::<Vec<_>>()),
        _ => None,
    };
    let last = |before| Query::InputsOfLastSuccess {
        lane: lane(&project()),
        before: RunId::from_parts(before, u128::from(before)),
    };
    for (n, state) in [(1, "succeeded"), (2, "succeeded"), (3, "failed")] {
        let run = new_run(n, &project());
        let row = Write::Run(Box::new(RunRow { run: run.clone(), state, unique_key: None }));
        let found = |size| Write::Inputs { run: run.id, rows: vec![file(size)] };
        // Found again by a retry.
        let writes = vec![row, found(0), found(n as u64 * 10)];
        assert_eq!(commit(store, Transition::new(id(n), writes)).await, Reply::Committed);
    }
    assert_eq!(inputs(Query::Inputs(RunId::from_parts(3, 3))).await, Some(vec![30]));
    assert_eq!(inputs(last(4)).await, Some(vec![20]));
    assert_eq!(inputs(last(2)).await, Some(vec![10]));
    assert_eq!(inputs(last(1)).await, None);
}

async fn what_is_behind_becomes_durable_in_order(store: &dyn Store) {
    let run = new_run(1, &project());
    let behind = Transition::new(id(1), rows(&run, None));
    store.commit(vec![behind], Durability::Behind).await.expect("accepted");
    let mut changed = run.clone();
    changed.started_at = Some(Micros(9));
    assert_eq!(commit(store, Transition::new(id(2), rows(&changed, None))).await, Reply::Committed);
    let found = store.load(Load::One(run.id)).await.expect("runs");
    assert_eq!(found[0].run.started_at, Some(Micros(9)), "the later change won");
}

/// Each kind of thing that can be read, as rows of a project.
fn everything_of(project: &ProjectName, n: u128) -> (Run, Vec<Command>, Transition) {
    let (mut run, attempt) = claimed(n, project);
    run.bundle = Sha::of(project.as_str().as_bytes());
    let mut done = Attempt::clone(&run.tasks[0].attempts[0]);
    done.id = AttemptId::from_parts(2, n);
    done.ended_at = Some(done.started_at.plus(std::time::Duration::from_secs(3)));
    done.outcome = Some(Outcome::Succeeded);
    let second = Arc::make_mut(&mut run.tasks[1]);
    second.ending = Some(Ending::Succeeded);
    second.attempts.push(Arc::new(done));
    let backfill = a_backfill(project, n);
    run.cause = Cause::Backfill { id: backfill.id, index: 0 };
    let control = Control { by: "anna".to_owned(), at: Micros(1), reason: Some(project.to_string()) };
    let (token, created_at) = (TokenId::from_parts(1, n), Micros(1));
    let digest = Sha::of(project.as_str().as_bytes());
    let file = BundleFile { sha: digest, size: 1, executable: false };
    let version = VersionRow {
        project: project.clone(),
        workflow: run.workflow.clone(),
        version: sha(),
        bundle: digest,
        document: document(),
        created_at,
    };
    // One bundle that a run and an active version name, and one that nothing names.
    let bundle = |sha| BundleRow {
        project: project.clone(),
        sha,
        manifest: BTreeMap::from([("a".to_owned(), file.clone())]),
        created_at,
    };
    let command = Command {
        id: CommandId::from_parts(1, n),
        by: "anna".to_owned(),
        at: created_at,
        kind: CommandKind::Stop { run: run.id, job: None, reason: None },
    };
    let mut writes = rows(&run, None);
    writes.extend([
        Write::Run(Box::new(RunRow { run: run.clone(), state: "succeeded", unique_key: None })),
        Write::Inputs {
            run: run.id,
            rows: vec![InputRow { path: project.to_string(), size: 1, modified_at: created_at }],
        },
        Write::Project(ProjectRow { name: project.clone(), folder: None, created_at }),
        Write::Bundle(bundle(digest)),
        Write::Bundle(bundle(Sha::of(&n.to_le_bytes()))),
        Write::Version(version),
        Write::Activate {
            project: project.clone(),
            target: Some(target("dev", true)),
            bundle: digest,
            versions: BTreeMap::from([(run.workflow.clone(), sha())]),
            keep: BTreeSet::new(),
            at: created_at,
        },
        Write::Secret(SecretRow {
            project: project.clone(),
            name: "key".parse().expect("a name"),
            sealed: vec![1],
            set_at: created_at,
            set_by: "anna".to_owned(),
        }),
        Write::Token(TokenRow {
            id: token,
            name: "t".to_owned(),
            hash: digest,
            project: Some(project.clone()),
            role: "viewer".to_owned(),
            created_at,
            expires_at: None,
            revoked_at: None,
        }),
        Write::Idempotency(IdempotencyRow {
            principal: token.to_string(),
            key: "k".to_owned(),
            request: sha(),
            reply: None,
            at: created_at,
        }),
        Write::CommandReply { command: command.id, reply: json!({"ok": 1}) },
        Write::Query(Box::new(QueryRow {
            id: QueryId::from_parts(1, n),
            project: project.clone(),
            state: "succeeded".to_owned(),
            created_at,
            data: json!({}),
        })),
        Write::Trigger(Box::new(a_trigger(project))),
        Write::Backfill(Box::new(BackfillRow { backfill, progress: Progress::default() })),
        Write::Hold { scope: Scope::Project { project: project.clone() }, control: Some(control) },
        Write::Limit {
            project: project.clone(),
            name: LimitName::Quota,
            set: Some(LimitSet { value: 3, by: "anna".to_owned(), at: created_at, description: None }),
        },
        Write::Log(LogRow { attempt, first: 0, last: 1, bytes: 2 }),
        Write::File(FileRow {
            run: run.id,
            attempt,
            job: run.tasks[0].name(),
            name: "f".to_owned(),
            sha: digest,
            size: 1,
        }),
        Write::Notices(vec![told(&run, n, NoticeEvent::Failure, 1)]),
        Write::Channels { project: project.clone(), channels: channels(project.as_str()) },
        Write::Counters(vec![CounterRow {
            attempt,
            run: run.id,
            group: "user".to_owned(),
            name: "rows".to_owned(),
            value: 1.0,
            unit: None,
        }]),
    ]);
    let event = EventRow { run: run.id, seq: 1, at: Micros(0), kind: "k".to_owned(), job: None, data: json!({}) };
    let transition = Transition { events: vec![event], ..Transition::new(id(n), writes) };
    (run, vec![command], transition)
}

fn a_trigger(project: &ProjectName) -> Trigger {
    Trigger {
        project: project.clone(),
        workflow: "w".parse().expect("a name"),
        target: None,
        version: sha(),
        bundle: sha(),
        schedule: Schedule::new(Fires::Every(60)),
        overrun: Overrun::Skip,
        most_active: 2,
        params: BTreeMap::new(),
        param_types: BTreeMap::new(),
        notify: None,
        done_until: Micros(1),
        paused: None,
        passed: Vec::new(),
        failed: None,
    }
}

fn a_backfill(project: &ProjectName, n: u128) -> Backfill {
    Backfill {
        id: BackfillId::from_parts(1, n),
        project: project.clone(),
        workflow: "w".parse().expect("a name"),
        target: None,
        version: sha(),
        bundle: sha(),
        by: "anna".to_owned(),
        created_at: Micros(1),
        class: Class::Backfill,
        tz: "UTC".to_owned(),
        jobs: None,
        params: BTreeMap::new(),
        param_types: BTreeMap::new(),
        executors: BTreeMap::new(),
        outside: BTreeMap::new(),
        order: Order::Newest,
        concurrency: 4,
        intervals: vec![Interval { start: Micros(0), end: Micros(1) }],
        done_before: Vec::new(),
    }
}

/// What schedules, backfills, holds and limits are, is read back, replaced and taken away.
async fn what_is_to_happen_is_read_back(store: &dyn Store) {
    let project = project();
    let trigger = a_trigger(&project);
    let read = async |query| store.read(&Who::default(), query).await.expect("an answer");
    let triggers = || Query::Triggers { project: None };
    commit(store, Transition::new(id(1), vec![Write::Trigger(Box::new(trigger.clone()))])).await;
    let mut later = trigger.clone();
    later.done_until = Micros(77);
    commit(store, Transition::new(id(2), vec![Write::Trigger(Box::new(later.clone()))])).await;
    let Answer::Triggers(found) = read(triggers()).await else { panic!("not triggers") };
    assert_eq!(found, [later]);
    // The same workflow's at a target is another one.
    let elsewhere = Trigger { target: Some(target("dev", true)), ..trigger.clone() };
    let drop = Write::DropTrigger(trigger.lane());
    commit(store, Transition::new(id(3), vec![Write::Trigger(Box::new(elsewhere.clone())), drop])).await;
    let Answer::Triggers(found) = read(triggers()).await else { panic!("not triggers") };
    assert_eq!(found, std::slice::from_ref(&elsewhere));
    commit(store, Transition::new(id(30), vec![Write::DropTrigger(elsewhere.lane())])).await;
    let Answer::Triggers(found) = read(triggers()).await else { panic!("not triggers") };
    assert_eq!(found, []);

    let mut row = BackfillRow { backfill: a_backfill(&project, 1), progress: Progress::default() };
    commit(store, Transition::new(id(4), vec![Write::Backfill(Box::new(row.clone()))])).await;
    let unfinished = async || match read(Query::UnfinishedBackfills).await {
        Answer::Backfills(rows) => rows,
        other => panic!("not backfills: {other:?}"),
    };
    assert_eq!(unfinished().await, [row.clone()]);
    // One of its runs sleeps until its turn comes: whoever resumes what is unfinished does not get it.
    let mut run = new_run(1, &project);
    run.cause = Cause::Backfill { id: row.backfill.id, index: 0 };
    run.pending = Some(Pending::Backfill);
    run.tasks.clear();
    commit(store, Transition::new(id(5), rows(&run, None))).await;
    assert_eq!(store.load(Load::Unfinished).await.expect("runs").len(), 0);
    run.pending = Some(Pending::Turn);
    commit(store, Transition::new(id(6), rows(&run, None))).await;
    assert_eq!(store.load(Load::Unfinished).await.expect("runs").len(), 1);
    let counts = read(Query::BackfillCounts(row.backfill.id)).await;
    assert!(matches!(&counts, Answer::BackfillCounts(counts) if counts.get("queued") == Some(&1)), "{counts:?}");
    row.progress = Progress { made: 1, next: 1, succeeded: 1, ..Progress::default() };
    let (state, progress) = (row.state(), Box::new(row.progress.clone()));
    commit(store, Transition::new(id(7), vec![Write::Progress { id: row.backfill.id, state, progress }])).await;
    assert_eq!(unfinished().await, []);
    let Answer::Backfills(found) = read(Query::Backfill(row.backfill.id)).await else { panic!("not a backfill") };
    assert_eq!(found, [row]);

    let control = Control { by: "anna".to_owned(), at: Micros(1), reason: None };
    let hold = |control| vec![Write::Hold { scope: Scope::Platform, control }];
    commit(store, Transition::new(id(8), hold(Some(control.clone())))).await;
    let Answer::Holds(found) = read(Query::Holds).await else { panic!("not holds") };
    assert_eq!(found, [(Scope::Platform, control)]);
    commit(store, Transition::new(id(9), hold(None))).await;
    let Answer::Holds(found) = read(Query::Holds).await else { panic!("not holds") };
    assert_eq!(found, []);

    let pool = LimitName::Pool("reports".parse().expect("a name"));
    let limit = |set| vec![Write::Limit { project: self::project(), name: pool.clone(), set }];
    let set = LimitSet { value: 2, by: "anna".to_owned(), at: Micros(1), description: None };
    commit(store, Transition::new(id(10), limit(Some(set.clone())))).await;
    let Answer::Limits(found) = read(Query::Limits { project: None }).await else { panic!("not limits") };
    assert_eq!(found, [LimitRow { project: self::project(), name: pool.clone(), set }]);
    commit(store, Transition::new(id(11), limit(None))).await;
    let Answer::Limits(found) = read(Query::Limits { project: None }).await else { panic!("not limits") };
    assert_eq!(found, []);
}

/// Every query that there is, asking for what [`everything_of`] made.
fn queries_for(project: &ProjectName, run: &Run, n: u128) -> Vec<Query> {
    let (digest, attempt) = (run.bundle, AttemptId::from_parts(1, n));
    let (project, workflow) = (project.clone(), run.workflow.clone());
    let mut all = vec![
        Query::Run(run.id),
        Query::RunState(run.id),
        runs_of(Some(project.clone())),
        Query::Attempt(attempt),
        Query::Events { run: run.id, after: 0, limit: 9 },
        Query::Counters { run: run.id },
        Query::Projects,
        Query::Bundle { project: project.clone(), sha: digest },
        Query::IdleBundles { before: Micros(9) },
        Query::Blobs,
        Query::Version { project: project.clone(), version: sha() },
        Query::Documents { project: project.clone(), versions: vec![sha()] },
        Query::ActiveVersions { project: project.clone() },
        Query::Targets { project: project.clone() },
        Query::Succeeded { lane: Lane { workflow, ..lane(&project) }, interval: run.interval },
        Query::Secrets { project: project.clone() },
        Query::Secret { project: project.clone(), name: "key".parse().expect("a name") },
        Query::Tokens,
        Query::TokenByHash(digest),
        Query::Idempotency { principal: TokenId::from_parts(1, n).to_string(), key: "k".to_owned() },
        Query::CommandReply(CommandId::from_parts(1, n)),
        Query::AdHoc { id: QueryId::from_parts(1, n) },
        Query::AdHocs { project: project.clone(), before: None, limit: 9 },
        Query::AdHocs { project: project.clone(), before: Some(QueryId::from_parts(9, n)), limit: 9 },
        Query::Logs(attempt),
        Query::Files(run.id),
        Query::Inputs(run.id),
        Query::InputsOfLastSuccess { lane: run.lane(), before: RunId::from_parts(99, 0) },
        Query::Triggers { project: Some(project.clone()) },
        Query::Triggers { project: None },
        Query::Backfills { project: Some(project.clone()), before: None, limit: 9 },
        Query::Backfills { project: None, before: None, limit: 9 },
        Query::Backfill(BackfillId::from_parts(1, n)),
        Query::UnfinishedBackfills,
        Query::BackfillCounts(BackfillId::from_parts(1, n)),
        Query::Holds,
        Query::Limits { project: Some(project.clone()) },
        Query::Limits { project: None },
        Query::SucceededRuns { lane: run.lane(), from: Micros(0), until: Micros(9) },
        Query::SucceededBetween { lane: run.lane(), from: Micros(0), until: Micros(9) },
        Query::Notices { project: project.clone(), state: None, before: None, limit: 9 },
        Query::Notices {
            project: project.clone(),
            state: Some(NoticeState::Pending),
            before: Some(NoticeId::from_parts(9, n)),
            limit: 9,
        },
        Query::DueNotices { at: Micros(9) },
        Query::Channels { project: project.clone() },
        Query::Usual { project: project.clone(), workflow: run.workflow.clone(), runs: 9 },
        Query::Unpublished { place: Place::plain(project), attempt },
    ];
    all.extend(SystemTable::ALL.map(Query::System));
    // A new kind of query does not compile here until it stands above as well.
    for query in &all {
        match query {
            Query::Run(_)
            | Query::RunState(_)
            | Query::Runs { .. }
            | Query::Attempt(_)
            | Query::Events { .. }
            | Query::Counters { .. }
            | Query::Projects
            | Query::Bundle { .. }
            | Query::IdleBundles { .. }
            | Query::Blobs
            | Query::Version { .. }
            | Query::Documents { .. }
            | Query::ActiveVersions { .. }
            | Query::Targets { .. }
            | Query::Succeeded { .. }
            | Query::Secrets { .. }
            | Query::Secret { .. }
            | Query::Tokens
            | Query::TokenByHash(_)
            | Query::Idempotency { .. }
            | Query::CommandReply(_)
            | Query::AdHoc { .. }
            | Query::AdHocs { .. }
            | Query::Logs(_)
            | Query::Files(_)
            | Query::Inputs(_)
            | Query::InputsOfLastSuccess { .. }
            | Query::Unpublished { .. }
            | Query::Triggers { .. }
            | Query::Backfills { .. }
            | Query::Backfill(_)
            | Query::UnfinishedBackfills
            | Query::BackfillCounts(_)
            | Query::Holds
            | Query::Limits { .. }
            | Query::SucceededRuns { .. }
            | Query::SucceededBetween { .. }
            | Query::Notices { .. }
            | Query::DueNotices { .. }
            | Query::Channels { .. }
            | Query::Usual { .. }
            | Query::System(_) => {}
            Query::Installation => panic!("it belongs to no project"),
        }
    }
    all
}

async fn a_backfill_counts_as_its_runs_before_they_have_rows(store: &dyn Store) {
    let day = |ix: i64| Interval { start: Micros(ix), end: Micros(ix + 1) };
    let backfill = Backfill { intervals: (0..5).map(day).collect(), ..a_backfill(&project(), 1) };
    let of = backfill.id;
    let mut row = BackfillRow { progress: Progress::begin(&backfill), backfill: backfill.clone() };
    let mut two = new_run(2, &project());
    two.created_at = Micros(2);
    let mut writes = rows(&two, None);
    writes.push(Write::Backfill(Box::new(row.clone())));
    assert_eq!(commit(store, Transition::new(id(1), writes)).await, Reply::Committed);
    let who = |project: Option<&str>| Who { project: project.map(|name| name.parse().expect("a name")) };
    let listed = async |who: Who, change: &dyn Fn(&mut Query)| {
        let mut query = runs_of(None);
        change(&mut query);
        match store.read(&who, query).await.expect("an answer") {
            Answer::Runs(runs) => runs.into_iter().map(|listed| listed.run.id).collect::<Vec<_>>(),
            other => panic!("not runs: {other:?}"),
        }
    };
    let newest_first = |indexes: &[u32]| indexes.iter().map(|ix| backfill.run_id(*ix)).collect::<Vec<_>>();
    let of_backfill = |query: &mut Query| {
        if let Query::Runs { backfill, .. } = query {
            *backfill = Some(of);
        }
    };
    assert_eq!(listed(who(None), &of_backfill).await, newest_first(&[4, 3, 2, 1, 0]));
    let mut all = newest_first(&[4, 3, 2, 1, 0]);
    all.push(two.id);
    all.sort_unstable_by(|a, b| b.cmp(a));
    assert_eq!(listed(who(None), &|_| {}).await, all);
    assert_eq!(listed(who(Some("q")), &|_| {}).await, []);
    let third = backfill.run_id(2);
    for (what, wanted) in [("queued", &[1, 0][..]), ("failed", &[])] {
        let page = |query: &mut Query| {
            of_backfill(query);
            if let Query::Runs { state, before, limit, .. } = query {
                (*state, *before, *limit) = (Some(what.to_owned()), Some(third), 2);
            }
        };
        assert_eq!(listed(who(None), &page).await, newest_first(wanted), "{what}");
    }
    let read = async |query| store.read(&Who::default(), query).await.expect("an answer");
    let Answer::Run(found) = read(Query::Run(third)).await else { panic!("not a run") };
    assert_eq!((found.run.interval, found.state.as_str(), found.tasks.len()), (day(2), "queued", 0));
    assert!(matches!(read(Query::RunState(third)).await, Answer::RunState { last_event: 0, .. }));
    assert!(matches!(store.read(&who(Some("q")), Query::Run(third)).await, Ok(Answer::Nothing)));
    assert!(store.load(Load::One(third)).await.expect("runs").is_empty(), "there is nothing to work on");

    // With rows they are what those say, and none is there twice.
    let slice = row.progress.next_slice(&backfill, &backfill.sequence(), 3);
    let runs = slice.into_iter().map(|(index, _)| backfill.run(index));
    let mut writes: Vec<Write> =
        runs.map(|run| Write::Run(Box::new(RunRow { state: run.state().name(), run, unique_key: None }))).collect();
    writes.push(Write::Progress { id: backfill.id, state: row.state(), progress: Box::new(row.progress.clone()) });
    assert_eq!(commit(store, Transition::new(id(2), writes)).await, Reply::Committed);
    assert_eq!(listed(who(None), &of_backfill).await, newest_first(&[4, 3, 2, 1, 0]));
    assert_eq!(store.load(Load::One(third)).await.expect("runs").len(), 1);
    row.progress.cancel(&Control { by: "anna".to_owned(), at: Micros(1), reason: None });
    let write = Write::Progress { id: backfill.id, state: row.state(), progress: Box::new(row.progress.clone()) };
    commit(store, Transition::new(id(3), vec![write])).await;
    assert_eq!(listed(who(None), &of_backfill).await, newest_first(&[4, 3, 2]), "no more are made");
}

fn runs_of(project: Option<ProjectName>) -> Query {
    let (workflow, target, state, backfill, ends_with, before) = Default::default();
    Query::Runs { project, workflow, target, state, backfill, ends_with, before, limit: 10 }
}

async fn a_reader_of_one_project_sees_no_other(store: &dyn Store) {
    let other: ProjectName = "q".parse().expect("a name");
    let mut runs = Vec::new();
    for (n, project) in [(1, project()), (2, other.clone())] {
        let (run, commands, transition) = everything_of(&project, n);
        store.send(commands).await.expect("sent");
        assert_eq!(commit(store, transition).await, Reply::Committed);
        let overlay = Overlay {
            attempt: AttemptId::from_parts(1, n),
            id: TableId::from_parts(1, n),
            table: table(&format!("a.{project}")),
            base: None,
            staged: Some("1".to_owned()),
            intent: Intent::Changes,
        };
        store.stage(run.tasks[0].epoch, overlay).await.expect("staged");
        runs.push(run);
    }
    let read = async |who: Option<&ProjectName>, query: &Query| {
        let answer = store.read(&Who { project: who.cloned() }, query.clone()).await;
        format!("{:?}", answer.expect("an answer"))
    };
    let (mine, theirs) = (queries_for(&project(), &runs[0], 1), queries_for(&other, &runs[1], 2));
    for (mine, theirs) in mine.iter().zip(&theirs) {
        let empty = |answer: &str| answer == "Nothing" || answer.ends_with("([])") || answer.ends_with("({})");
        let (own, everything) = (read(Some(&other), theirs).await, read(None, theirs).await);
        assert!(!empty(&own) && !empty(&everything), "{theirs:?}: {own} {everything}");
        let (seen, own) = (read(Some(&project()), theirs).await, read(Some(&project()), mine).await);
        // Asked for something that has an owner, nothing; asked for all, one's own.
        assert!(empty(&seen) || seen == own, "{theirs:?} shows {seen}");
        assert!(seen != everything, "{theirs:?} shows {seen}");
    }
    let Ok(Answer::Runs(found)) = store.read(&Who { project: Some(project()) }, runs_of(None)).await else {
        panic!("not runs")
    };
    assert_eq!(found.iter().map(|stored| stored.run.id).collect::<Vec<_>>(), [runs[0].id]);
}

async fn runs_are_listed_by_all_that_they_are_asked_for(store: &dyn Store) {
    let other: ProjectName = "q".parse().expect("a name");
    let workflow: WorkflowName = "v".parse().expect("a name");
    let mut runs: Vec<(Run, &'static str)> = Vec::new();
    for n in 1..=16_u128 {
        let mut run = new_run(n, &if n % 2 == 0 { other.clone() } else { project() });
        if n % 4 < 2 {
            run.workflow = workflow.clone();
        }
        runs.push((run, if n % 8 < 4 { "failed" } else { "running" }));
    }
    let row =
        |(run, state): &(Run, &'static str)| Write::Run(Box::new(RunRow { run: run.clone(), state, unique_key: None }));
    assert_eq!(commit(store, Transition::new(id(1), runs.iter().map(row).collect())).await, Reply::Committed);
    let ending = runs[4].0.id.to_string();
    let ending = &ending[ending.len() - 3..];
    // Each combination of what can be asked for, by the bits of a number.
    for asked in 0..32_u32 {
        let wanted = |bit: u32| asked & (1 << bit) != 0;
        let (project, state) = (wanted(0).then(|| other.clone()), wanted(1).then(|| "failed".to_owned()));
        let (workflow, before) = (wanted(2).then(|| workflow.clone()), wanted(3).then(|| runs[12].0.id));
        let ends_with = wanted(4).then(|| ending.to_owned());
        let expected: Vec<RunId> = runs
            .iter()
            .rev()
            .filter(|(run, is)| {
                project.as_ref().is_none_or(|project| run.project == *project)
                    && state.as_ref().is_none_or(|state| is == state)
                    && workflow.as_ref().is_none_or(|workflow| run.workflow == *workflow)
                    && before.is_none_or(|before| run.id < before)
                    && ends_with.as_ref().is_none_or(|end| run.id.to_string().ends_with(end.as_str()))
            })
            .map(|(run, _)| run.id)
            .take(3)
            .collect();
        let target = None;
        let query = Query::Runs { project, workflow, target, state, backfill: None, ends_with, before, limit: 3 };
        let Ok(Answer::Runs(found)) = store.read(&Who::default(), query.clone()).await else { panic!("not runs") };
        assert_eq!(found.iter().map(|stored| stored.run.id).collect::<Vec<_>>(), expected, "{query:?}");
    }
}

async fn what_is_not_there_cannot_be_ended(store: &dyn Store) {
    let (_, _, transition) = everything_of(&project(), 1);
    assert_eq!(commit(store, transition).await, Reply::Committed);
    let end = |project: &str, token| {
        let project: ProjectName = project.parse().expect("a name");
        let drop = Write::DropSecret { project: project.clone(), name: "key".parse().expect("a name") };
        let who = Who { project: Some(project) };
        (drop, Write::RevokeToken { who, id: TokenId::from_parts(1, token), at: Micros(5) })
    };
    for (n, project, token) in [(2, "q", 1), (3, "q", 9)] {
        let (drop, revoke) = end(project, token);
        assert_eq!(commit(store, Transition::new(id(n), vec![drop])).await, Reply::Missing);
        assert_eq!(commit(store, Transition::new(id(n + 10), vec![revoke])).await, Reply::Missing);
    }
    let (drop, revoke) = end("p", 1);
    assert_eq!(commit(store, Transition::new(id(4), vec![drop.clone(), revoke])).await, Reply::Committed);
    assert_eq!(commit(store, Transition::new(id(5), vec![drop])).await, Reply::Missing, "it is gone");
    let again = Write::RevokeToken { who: Who::default(), id: TokenId::from_parts(1, 1), at: Micros(9) };
    assert_eq!(commit(store, Transition::new(id(6), vec![again])).await, Reply::Committed);
    let Ok(Answer::Tokens(tokens)) = store.read(&Who::default(), Query::Tokens).await else { panic!("not tokens") };
    assert_eq!(tokens[0].revoked_at, Some(Micros(5)), "the first time counts");
}

async fn an_old_view_is_forgotten_when_nobody_looks_at_it(store: &dyn Store) {
    let (project, place) = (&project(), &place());
    let mark = async |n, at| {
        let marked = Transition::new(id(n), vec![Write::MarkCatalogs { at: Micros(at) }]);
        assert_eq!(commit(store, marked).await, Reply::Committed);
    };
    let forget =
        async |before, most| store.forget(Forget::TableHistory, Micros(before), most).await.expect("forgotten");
    let at = async |name: &str, seq| {
        let found = store.find(place, &table(name), Some(seq)).await.expect("a pointer");
        found.map(|pointer| pointer.location)
    };
    for (expect, new) in [(None, Some("1")), (Some("1"), Some("2")), (Some("2"), Some("3"))] {
        store.swap(place, vec![swap("a.x", expect, new)]).await.expect("changed");
    }
    store.swap(place, vec![swap("a.y", None, Some("1"))]).await.expect("made");
    store.swap(place, vec![swap("a.y", Some("1"), None)]).await.expect("dropped");
    assert_eq!(forget(100, 9).await, 0, "nobody knows how old it is");
    mark(1, 10).await;
    // An attempt looks at the second version.
    let (mut run, _) = claimed(1, project);
    let task = Arc::make_mut(&mut run.tasks[0]);
    Arc::make_mut(&mut task.attempts[0]).view = Some(2);
    assert_eq!(commit(store, Transition::new(id(2), rows(&run, None))).await, Reply::Committed);
    store.swap(place, vec![swap("a.x", Some("3"), Some("4"))]).await.expect("changed");
    mark(3, 20).await;
    assert_eq!(forget(10, 9).await, 0, "the mark is not older");
    assert_eq!((forget(15, 9).await, forget(15, 9).await), (1, 0));
    assert_eq!((at("a.x", 1).await, at("a.x", 2).await), (None, Some("2".to_owned())));
    assert_eq!(at("a.y", 4).await, Some("1".to_owned()));
    for task in &mut run.tasks {
        Arc::make_mut(task).position = Position::Done;
        Arc::make_mut(task).ending = Some(Ending::Succeeded);
    }
    assert_eq!(commit(store, Transition::new(id(4), rows(&run, None))).await, Reply::Committed);
    // By the first mark: the second version of one table, and all of the dropped one; a slice at a time.
    assert_eq!((forget(15, 1).await, forget(15, 9).await, forget(15, 9).await), (1, 2, 0));
    assert_eq!((at("a.x", 2).await, at("a.x", 5).await), (None, Some("3".to_owned())));
    assert_eq!((at("a.x", 6).await, at("a.y", 6).await), (Some("4".to_owned()), None));
    assert_eq!((forget(25, 9).await, at("a.x", 5).await), (1, None), "by the second mark");
    assert_eq!(store.list(place, Some(6)).await.expect("a list").len(), 1);
    assert_eq!(store.list(place, None).await.expect("a list").len(), 1);
}

/// A run made and ended at second `n`, with two lines of history, a counter and a file.
fn ended(n: u64) -> (Run, Transition) {
    let (mut run, attempt) = claimed(u128::from(n), &project());
    run.id = RunId::from_parts(n * 1000, u128::from(n));
    run.ended_at = Some(Micros(n as i64 * 1_000_000));
    for task in &mut run.tasks {
        Arc::make_mut(task).position = Position::Done;
        Arc::make_mut(task).ending = Some(Ending::Succeeded);
    }
    let mut writes = rows(&run, None);
    let (name, unit) = ("rows".to_owned(), None);
    writes.push(Write::Counters(vec![CounterRow {
        attempt,
        run: run.id,
        group: "user".to_owned(),
        name,
        value: 1.0,
        unit,
    }]));
    let job = run.tasks[0].name();
    writes.push(Write::File(FileRow {
        run: run.id,
        attempt,
        job,
        name: "f".to_owned(),
        sha: Sha::of(&n.to_le_bytes()),
        size: 8,
    }));
    let event = |seq| EventRow { run: run.id, seq, at: Micros(0), kind: "k".to_owned(), job: None, data: json!({}) };
    let events = vec![event(1), event(2)];
    let transition = Transition { events, ..Transition::new(id(u128::from(n)), writes) };
    (run, transition)
}

/// How much of a run is left: lines of history, counters, files, and whether it is there at all.
async fn left(store: &dyn Store, run: &Run) -> (usize, usize, usize, bool) {
    let who = Who::default();
    let Ok(Answer::Events(events)) = store.read(&who, Query::Events { run: run.id, after: 0, limit: 9 }).await else {
        panic!("not events")
    };
    let Ok(Answer::Counters(counters)) = store.read(&who, Query::Counters { run: run.id }).await else {
        panic!("not counters")
    };
    let Ok(Answer::Files(files)) = store.read(&who, Query::Files(run.id)).await else { panic!("not files") };
    let there = !store.load(Load::One(run.id)).await.expect("runs").is_empty();
    (events.len(), counters.len(), files.len(), there)
}

async fn what_belongs_to_old_runs_is_forgotten_in_slices(store: &dyn Store) {
    let (one, two, recent) = (ended(1), ended(2), ended(50));
    // Old, but it goes on: nothing of it is forgotten.
    let mut unfinished = new_run(3, &project());
    unfinished.id = RunId::from_parts(1000, 3);
    for transition in [one.1, two.1, recent.1, Transition::new(id(9), rows(&unfinished, None))] {
        assert_eq!(commit(store, transition).await, Reply::Committed);
    }
    let (one, two, recent) = (one.0, two.0, recent.0);
    let before = Micros(10_000_000);
    let forget = async |what, most| store.forget(what, before, most).await.expect("forgotten");
    assert_eq!(forget(Forget::Events, 1).await, 1);
    assert_eq!((left(store, &one).await.0, left(store, &two).await.0), (1, 2), "a slice at a time, the oldest first");
    assert_eq!((forget(Forget::Events, 9).await, forget(Forget::Events, 9).await), (1, 0));
    let Ok(Answer::Events(events)) =
        store.read(&Who::default(), Query::Events { run: one.id, after: 0, limit: 9 }).await
    else {
        panic!("not events")
    };
    assert_eq!(events[0].seq, 2, "the numbering goes on from the last line");
    assert_eq!((forget(Forget::Counters, 9).await, forget(Forget::Counters, 9).await), (2, 0));
    assert_eq!((forget(Forget::Files, 9).await, forget(Forget::Files, 9).await), (2, 0));
    assert_eq!(left(store, &two).await, (1, 0, 0, true));
    assert_eq!(left(store, &recent).await, (2, 1, 1, true));
    assert_eq!(
        (forget(Forget::Runs, 1).await, forget(Forget::Runs, 9).await, forget(Forget::Runs, 9).await),
        (1, 1, 0)
    );
    assert_eq!(left(store, &one).await, (0, 0, 0, false));
    assert_eq!(left(store, &recent).await, (2, 1, 1, true));
    assert_eq!(store.load(Load::Unfinished).await.expect("runs").len(), 1);
}

async fn what_belongs_to_no_run_is_forgotten_by_age(store: &dyn Store) {
    let at = |second: i64| Micros(second * 1_000_000);
    let command = |second: u64| Command {
        id: CommandId::from_parts(second * 1000, u128::from(second)),
        by: "anna".to_owned(),
        at: at(second as i64),
        kind: CommandKind::Stop { run: RunId::from_parts(1, 1), job: None, reason: None },
    };
    store.send(vec![command(1), command(2), command(50)]).await.expect("sent");
    let token = |n: u128, expires_at, revoked_at| TokenRow {
        id: TokenId::from_parts(1, n),
        name: "t".to_owned(),
        hash: Sha::of(&n.to_le_bytes()),
        project: None,
        role: "viewer".to_owned(),
        created_at: at(0),
        expires_at,
        revoked_at,
    };
    let stored = |key: &str, second| IdempotencyRow {
        principal: "anna".to_owned(),
        key: key.to_owned(),
        request: sha(),
        reply: Some(StoredReply { status: 201, body: "{}".to_owned() }),
        at: at(second),
    };
    let writes = vec![
        Write::CommandReply { command: command(1).id, reply: json!({"ok": 1}) },
        Write::CommandReply { command: command(50).id, reply: json!({"ok": 1}) },
        Write::Token(token(1, Some(at(5)), None)),
        Write::Token(token(2, None, Some(at(5)))),
        Write::Token(token(3, None, None)),
        Write::Token(token(4, Some(at(50)), None)),
        Write::Idempotency(stored("old", 5)),
        Write::Idempotency(stored("new", 50)),
        Write::Query(Box::new(asked(5))),
        Write::Query(Box::new(asked(50))),
    ];
    assert_eq!(commit(store, Transition::new(id(1), writes)).await, Reply::Committed);
    let forget = async |what| store.forget(what, at(10), 9).await.expect("forgotten");
    assert_eq!((forget(Forget::Commands).await, forget(Forget::Commands).await), (1, 0));
    let replied = async |second| {
        let answer = store.read(&Who::default(), Query::CommandReply(command(second).id)).await.expect("an answer");
        matches!(answer, Answer::Reply(_))
    };
    assert!(!replied(1).await && replied(50).await);
    assert_eq!(store.take(0).await.expect("commands").len(), 1, "what was not answered stays");
    assert_eq!((forget(Forget::Tokens).await, forget(Forget::Tokens).await), (2, 0));
    let Ok(Answer::Tokens(tokens)) = store.read(&Who::default(), Query::Tokens).await else { panic!("not tokens") };
    assert_eq!(tokens.iter().map(|row| row.id).collect::<Vec<_>>(), [token(3, None, None).id, token(4, None, None).id]);
    assert_eq!((forget(Forget::Idempotency).await, forget(Forget::Idempotency).await), (1, 0));
    assert_eq!((forget(Forget::AdHocs).await, forget(Forget::AdHocs).await), (1, 0));
    let query = Query::AdHocs { project: project(), before: None, limit: 9 };
    let Ok(Answer::AdHocs(left)) = store.read(&Who::default(), query).await else { panic!("not queries") };
    assert_eq!(left, [asked(50)]);
    let kept = async |key: &str| {
        let query = Query::Idempotency { principal: "anna".to_owned(), key: key.to_owned() };
        matches!(store.read(&Who::default(), query).await, Ok(Answer::Idempotency(_)))
    };
    assert!(!kept("old").await && kept("new").await);
    // A publication is what leaves the answer to a transition behind.
    let (run, attempt) = claimed(1, &project());
    assert_eq!(commit(store, Transition::new(id(2), rows(&run, None))).await, Reply::Committed);
    let publication = |generation| Publication {
        place: place(),
        attempt,
        run: run.id,
        job: run.tasks[0].job.clone(),
        instance: String::new(),
        generation,
        at: Micros(1),
        swaps: Vec::new(),
    };
    let (old, new) = (TransitionId::from_parts(5000, 1), TransitionId::from_parts(50_000, 1));
    for (id, generation) in [(old, 1), (new, 2)] {
        let publish = Transition { publications: vec![publication(generation)], ..Transition::new(id, Vec::new()) };
        assert_eq!(commit(store, publish).await, Reply::Committed);
    }
    assert_eq!((forget(Forget::Transitions).await, forget(Forget::Transitions).await), (1, 0));
    assert_eq!(store.resolve(old).await.expect("an answer"), None);
    assert_eq!(store.resolve(new).await.expect("an answer"), Some(Reply::Committed));
}

async fn a_workflow_stays_active_while_it_is_kept(store: &dyn Store) {
    let bundle = |name: &str| Sha::of(name.as_bytes());
    let version = |workflow: &str, of: &str| {
        Write::Version(VersionRow {
            project: project(),
            workflow: workflow.parse().expect("a name"),
            version: Sha::of(workflow.as_bytes()),
            bundle: bundle(of),
            document: document(),
            created_at: Micros(0),
        })
    };
    let at_target = |of: &str, target, workflows: &[&str], keep: &[&str], at| Write::Activate {
        project: project(),
        target,
        bundle: bundle(of),
        versions: workflows.iter().map(|w| (w.parse().expect("a name"), Sha::of(w.as_bytes()))).collect(),
        keep: keep.iter().map(|w| w.parse().expect("a name")).collect(),
        at: Micros(at),
    };
    let activate = |of: &str, workflows: &[&str], keep: &[&str], at| at_target(of, None, workflows, keep, at);
    let active = async || match store.read(&Who::default(), Query::ActiveVersions { project: project() }).await {
        Ok(Answer::ActiveVersions(rows)) => {
            let name = |row: &ActiveVersion| match &row.target {
                Some(target) => format!("{target}:{}", row.workflow),
                None => row.workflow.to_string(),
            };
            let row = |row: ActiveVersion| (name(&row), row.bundle, row.deployed_at.0);
            rows.into_iter().map(row).collect::<Vec<_>>()
        }
        other => panic!("{other:?}"),
    };
    let named = |workflow: &str, of: &str, at: i64| (workflow.to_owned(), bundle(of), at);
    let first = vec![version("a", "1"), version("b", "1"), version("c", "1"), activate("1", &["a", "b", "c"], &[], 1)];
    assert_eq!(commit(store, Transition::new(id(1), first)).await, Reply::Committed);
    // One is new, one is kept, one is gone.
    let second = vec![version("a", "2"), activate("2", &["a"], &["b"], 2)];
    assert_eq!(commit(store, Transition::new(id(2), second)).await, Reply::Committed);
    assert_eq!(active().await, [named("a", "2", 2), named("b", "1", 1)]);
    // Each target has its own; the one without a prefix has the tables of what was there before there were targets.
    let dev = at_target("1", Some(target("dev", true)), &["a"], &[], 3);
    assert_eq!(commit(store, Transition::new(id(3), vec![dev])).await, Reply::Committed);
    assert_eq!(active().await, [named("a", "2", 2), named("b", "1", 1), named("dev:a", "1", 3)]);
    let prod = at_target("2", Some(target("prod", false)), &["a"], &[], 4);
    assert_eq!(commit(store, Transition::new(id(4), vec![prod])).await, Reply::Committed);
    assert_eq!(active().await, [named("dev:a", "1", 3), named("prod:a", "2", 4)]);
    let Ok(Answer::Targets(known)) = store.read(&Who::default(), Query::Targets { project: project() }).await else {
        panic!("not targets")
    };
    assert_eq!(known, [target("dev", true).as_ref().clone(), target("prod", false).as_ref().clone()]);
    let live = at_target("1", Some(target("live", false)), &["a"], &[], 5);
    assert_eq!(commit(store, Transition::new(id(5), vec![live])).await, Reply::Committed);
    assert_eq!(active().await, [named("dev:a", "1", 3), named("live:a", "1", 5)], "it has the tables of prod");
    // One that was made for a run is known until it is dropped; a declared one is not dropped.
    let scratch = Target { scratch: Some(Micros(7)), ..target("replay_x", true).as_ref().clone() };
    let known = async || match store.read(&Who::default(), Query::Targets { project: project() }).await {
        Ok(Answer::Targets(known)) => known.into_iter().map(|target| target.name.to_string()).collect::<Vec<_>>(),
        other => panic!("{other:?}"),
    };
    let write = Write::Scratch { project: project(), target: Arc::new(scratch) };
    assert_eq!(commit(store, Transition::new(id(6), vec![write])).await, Reply::Committed);
    assert_eq!(known().await, ["dev", "live", "replay_x"]);
    let drop = |name: &str| Write::DropScratch { project: project(), name: name.parse().expect("a name") };
    assert_eq!(commit(store, Transition::new(id(7), vec![drop("replay_x"), drop("dev")])).await, Reply::Committed);
    assert_eq!(known().await, ["dev", "live"]);
}

/// A table of one target is none of another's, whatever each is called by.
async fn each_target_has_its_own_tables(store: &dyn Store) {
    let of = |prefix: &str| Place { project: project(), prefix: Some(prefix.parse().expect("a prefix")) };
    let places = [place(), of("dev"), of("dev_a")];
    for (n, place) in places.iter().enumerate() {
        let made = swap("marts.x", None, Some(&n.to_string()));
        store.swap(place, vec![made]).await.expect("made, for it has none yet");
    }
    store.swap(&places[1], vec![swap("marts.only", None, Some("9"))]).await.expect("made");
    let seen = store.head(&project()).await.expect("a head");
    for at in [None, Some(seen)] {
        for (n, place) in places.iter().enumerate() {
            let found = store.find(place, &table("marts.x"), at).await.expect("a pointer").expect("there");
            assert_eq!((found.location, found.table), (n.to_string(), table("marts.x")));
        }
        let names = async |place| {
            let listed = store.list(place, at).await.expect("a list");
            listed.into_iter().map(|pointer| pointer.table).collect::<Vec<_>>()
        };
        assert_eq!(names(&places[0]).await, [table("marts.x")]);
        assert_eq!(names(&places[1]).await, [table("marts.only"), table("marts.x")]);
        assert_eq!(names(&places[2]).await, [table("marts.x")]);
    }
    store.swap(&places[1], vec![swap("marts.x", Some("1"), None)]).await.expect("dropped");
    assert_eq!(store.find(&places[1], &table("marts.x"), None).await.expect("a pointer"), None);
    assert!(store.find(&places[0], &table("marts.x"), None).await.expect("a pointer").is_some());
    // What an attempt publishes goes where its run belongs.
    let (mut run, attempt) = claimed(1, &project());
    run.target = Some(target("dev", true));
    assert_eq!(commit(store, Transition::new(id(1), rows(&run, None))).await, Reply::Committed);
    let publication = Publication {
        place: run.place(),
        attempt,
        run: run.id,
        job: run.tasks[0].job.clone(),
        instance: String::new(),
        generation: 1,
        at: Micros(1),
        swaps: vec![swap("marts.x", None, Some("new"))],
    };
    let publish = Transition { publications: vec![publication], ..Transition::new(id(2), vec![]) };
    assert_eq!(commit(store, publish).await, Reply::Committed);
    let name = table("marts.x");
    let location = async |place| {
        let found = store.find(place, &name, None).await.expect("a pointer");
        found.map(|pointer| pointer.location)
    };
    assert_eq!(location(&places[1]).await.as_deref(), Some("new"));
    assert_eq!(location(&places[0]).await.as_deref(), Some("0"));
}

async fn a_bundle_is_dropped_when_nothing_names_it(store: &dyn Store) {
    let bundle = |name: &str, at| {
        let file = BundleFile { sha: Sha::of(name.as_bytes()), size: 1, executable: false };
        let manifest = BTreeMap::from([("a.py".to_owned(), file)]);
        BundleRow {
            project: project(),
            sha: Sha::of(format!("bundle {name}").as_bytes()),
            manifest,
            created_at: Micros(at),
        }
    };
    let version = |name: &str| VersionRow {
        project: project(),
        workflow: "w".parse().expect("a name"),
        version: sha(),
        bundle: bundle(name, 0).sha,
        document: document(),
        created_at: Micros(0),
    };
    let mut run = new_run(1, &project());
    run.bundle = bundle("run", 0).sha;
    // Retried with other code, which only its task names.
    Arc::make_mut(&mut run.tasks[0]).bundle = bundle("retried", 0).sha;
    Arc::make_mut(&mut run.tasks[0]).generation = 2;
    let mut writes = rows(&run, None);
    for name in ["idle", "again", "active", "run", "retried"] {
        writes.push(Write::Bundle(bundle(name, 1)));
        writes.push(Write::Version(version(name)));
    }
    // Announced again: as recent as that.
    writes.push(Write::Bundle(bundle("again", 20)));
    writes.push(Write::Bundle(bundle("again", 2)));
    let active = BTreeMap::from([("w".parse().expect("a name"), sha())]);
    writes.push(Write::Activate {
        project: project(),
        target: None,
        bundle: bundle("active", 0).sha,
        versions: active,
        keep: BTreeSet::new(),
        at: Micros(0),
    });
    assert_eq!(commit(store, Transition::new(id(1), writes)).await, Reply::Committed);
    let before = Micros(10);
    let idle = async || match store.read(&Who::default(), Query::IdleBundles { before }).await {
        Ok(Answer::Bundles(found)) => found,
        other => panic!("{other:?}"),
    };
    let blobs = async || match store.read(&Who::default(), Query::Blobs).await {
        Ok(Answer::Blobs(found)) => found,
        other => panic!("{other:?}"),
    };
    assert_eq!(idle().await, [(project(), bundle("idle", 0).sha)]);
    assert_eq!(blobs().await.len(), 5);
    let drop_all = ["idle", "again", "active", "run", "retried"].map(|name| Write::DropBundle {
        project: project(),
        sha: bundle(name, 0).sha,
        before,
    });
    assert_eq!(commit(store, Transition::new(id(2), drop_all.to_vec())).await, Reply::Committed);
    assert!(idle().await.is_empty());
    let left = blobs().await;
    assert_eq!((left.len(), left.contains(&Sha::of(b"idle"))), (4, false), "only what is idle goes");
    let who = Who::default();
    for (name, there) in [("idle", false), ("again", true), ("active", true), ("run", true), ("retried", true)] {
        let found = store.read(&who, Query::Bundle { project: project(), sha: bundle(name, 0).sha }).await;
        assert_eq!(matches!(found, Ok(Answer::Bundle(_))), there, "{name}");
    }
}

async fn an_installation_keeps_its_name_until_it_gets_another(store: &dyn Store) {
    assert!(matches!(store.read(&Who::default(), Query::Installation).await, Ok(Answer::Nothing)));
    for (n, name) in [(1, "first"), (2, "second")] {
        let named = Transition::new(id(n), vec![Write::Installation(name.to_owned())]);
        assert_eq!(commit(store, named).await, Reply::Committed);
        let found = store.read(&Who::default(), Query::Installation).await;
        assert!(matches!(found, Ok(Answer::Installation(found)) if found == name));
    }
}

async fn a_reply_is_stored_once_for_its_key(store: &dyn Store) {
    let row = |request: &[u8], reply: Option<&str>| IdempotencyRow {
        principal: "anna".to_owned(),
        key: "k".to_owned(),
        request: Sha::of(request),
        reply: reply.map(|body| StoredReply { status: 201, body: body.to_owned() }),
        at: Micros(1),
    };
    let read = async || {
        let query = Query::Idempotency { principal: "anna".to_owned(), key: "k".to_owned() };
        match store.read(&Who::default(), query).await.expect("an answer") {
            Answer::Idempotency(row) => Some(*row),
            _ => None,
        }
    };
    let write = async |n, write| {
        assert_eq!(commit(store, Transition::new(id(n), vec![write])).await, Reply::Committed);
    };
    assert_eq!(read().await, None);
    write(1, Write::Idempotency(row(b"a", None))).await;
    assert_eq!(read().await, Some(row(b"a", None)));
    write(2, Write::Idempotency(row(b"b", Some("other")))).await;
    assert_eq!(read().await, Some(row(b"a", None)), "another request does not take the key");
    write(3, Write::Idempotency(row(b"a", Some("first")))).await;
    write(4, Write::Idempotency(row(b"a", Some("second")))).await;
    assert_eq!(read().await, Some(row(b"a", Some("first"))), "the first reply stays");
    write(5, Write::DropIdempotency { principal: "anna".to_owned(), key: "k".to_owned() }).await;
    assert_eq!(read().await, None);
}

/// Who reads that a run goes on and waits for what happens after its last event must not have read past its end.
async fn what_is_read_of_a_run_is_of_one_moment(store: Arc<dyn Store>) {
    const CHANGES: u64 = 300;
    let run = new_run(1, &project());
    let id = run.id;
    let writer = Arc::clone(&store);
    let change = move |seq: u64| {
        let mut changed = run.clone();
        changed.started_at = Some(Micros(seq.cast_signed()));
        let event = EventRow { run: id, seq, at: Micros(0), kind: "changed".to_owned(), job: None, data: json!({}) };
        Transition { events: vec![event], ..Transition::new(self::id(seq.into()), rows(&changed, None)) }
    };
    let written = async move {
        for seq in 1..=CHANGES {
            assert_eq!(commit(writer.as_ref(), change(seq)).await, Reply::Committed);
        }
    };
    let read = async {
        let mut seen = 0;
        while seen < CHANGES {
            let found = match store.read(&Who::default(), Query::Run(id)).await.expect("an answer") {
                Answer::Run(found) => found,
                // It is not there yet.
                _ => continue,
            };
            seen = found.last_event;
            assert_eq!(found.run.started_at, Some(Micros(seen.cast_signed())), "the row and the history disagree");
        }
    };
    futures::future::join(written, read).await;
}

fn channels(name: &str) -> BTreeMap<ChannelName, Channel> {
    let channel = Channel::Email { to: vec![format!("{name}@example.org")] };
    BTreeMap::from([("ops".parse().expect("a name"), channel)])
}

/// A notice of a run to the channel `ops`.
fn told(run: &Run, n: u128, event: NoticeEvent, at: i64) -> NoticeRow {
    let notice = Notice {
        event,
        at: Micros(at),
        project: run.project.clone(),
        workflow: run.workflow.clone(),
        run: run.id,
        interval: run.interval,
        ds: "1970-01-01".to_owned(),
        job: None,
        fault: None,
        title: "it failed".to_owned(),
        lines: vec!["é".to_owned()],
        next: None,
    };
    NoticeRow {
        id: NoticeId::from_parts(u64::try_from(at / 1000).unwrap_or(0), n),
        key: format!("{}/{event}/ops", run.id),
        channel: "ops".parse().expect("a name"),
        notice,
        delivery: Delivery { state: NoticeState::Pending, tries: 0, due_at: Micros(at), ended_at: None, answer: None },
    }
}

async fn notices(store: &dyn Store, state: Option<NoticeState>) -> Vec<NoticeRow> {
    let query = Query::Notices { project: project(), state, before: None, limit: 99 };
    let Ok(Answer::Notices(found)) = store.read(&Who::default(), query).await else { panic!("not notices") };
    found
}

async fn a_notice_is_told_once_and_delivered_once(store: &dyn Store) {
    let (run, _) = claimed(1, &project());
    let (first, second) = (told(&run, 1, NoticeEvent::Failure, 1_000_000), told(&run, 2, NoticeEvent::Slow, 2_000_000));
    // The same again under another id, as after a restart.
    let again = told(&run, 3, NoticeEvent::Failure, 3_000_000);
    let mut elsewhere = told(&run, 4, NoticeEvent::SlaMissed, 60_000_000);
    elsewhere.channel = "other".parse().expect("a name");
    let rows = vec![first.clone(), second.clone(), again, elsewhere.clone()];
    assert_eq!(commit(store, Transition::new(id(1), vec![Write::Notices(rows)])).await, Reply::Committed);
    assert_eq!(notices(store, None).await, [elsewhere.clone(), second.clone(), first.clone()]);
    let due = async |at| {
        let query = Query::DueNotices { at: Micros(at) };
        let Ok(Answer::Notices(found)) = store.read(&Who::default(), query).await else { panic!("not notices") };
        found.into_iter().map(|row| row.id).collect::<Vec<_>>()
    };
    assert_eq!(due(5_000_000).await, [first.id], "one of each channel, the oldest");
    assert_eq!(due(90_000_000).await, [first.id, elsewhere.id]);
    let over = Delivery {
        state: NoticeState::Delivered,
        tries: 1,
        ended_at: Some(Micros(4_000_000)),
        answer: Some("200 OK".to_owned()),
        ..first.delivery.clone()
    };
    let deliver = |delivery: &Delivery| vec![Write::Delivery { id: first.id, delivery: delivery.clone() }];
    commit(store, Transition::new(id(2), deliver(&over))).await;
    // A second sender that was late changes nothing.
    commit(store, Transition::new(id(3), deliver(&first.delivery))).await;
    assert_eq!(notices(store, Some(NoticeState::Delivered)).await[0].delivery, over);
    assert_eq!(due(5_000_000).await, [second.id]);
    assert_eq!(store.forget(Forget::Notices, Micros(10_000_000), 9).await, Ok(1), "what is pending stays");
    assert_eq!(notices(store, None).await.len(), 2);
    let set = |name: &str| vec![Write::Channels { project: project(), channels: channels(name) }];
    commit(store, Transition::new(id(4), set("anna"))).await;
    commit(store, Transition::new(id(5), set("ben"))).await;
    let found = store.read(&Who::default(), Query::Channels { project: project() }).await;
    assert!(matches!(found, Ok(Answer::Channels(found)) if found == channels("ben")));
}

async fn a_recovery_is_told_only_after_a_failure(store: &dyn Store) {
    let finish = async |n: u64, ending, seq| {
        let (mut run, _) = ended(n);
        for task in &mut run.tasks {
            Arc::make_mut(task).ending = Some(ending);
        }
        let state = run.state().name();
        let data = json!({"state": state});
        let event = EventRow { run: run.id, seq, at: Micros(0), kind: "run-ended".to_owned(), job: None, data };
        let mut recovery = told(&run, u128::from(n) << 8 | u128::from(seq), NoticeEvent::Recovery, 1);
        recovery.key.push_str(&seq.to_string());
        let mut writes = rows(&run, None);
        if ending == Ending::Succeeded {
            writes.push(Write::Notices(vec![recovery]));
        }
        let transition = Transition { events: vec![event], ..Transition::new(id(u128::from(n)), writes) };
        assert_eq!(commit(store, transition).await, Reply::Committed);
        notices(store, None).await.len()
    };
    assert_eq!(finish(1, Ending::Succeeded, 1).await, 0, "nothing had failed");
    assert_eq!(finish(2, Ending::Failed, 1).await, 0);
    assert_eq!(finish(3, Ending::Cancelled, 1).await, 0);
    assert_eq!(finish(4, Ending::Succeeded, 1).await, 1);
    assert_eq!(finish(5, Ending::Succeeded, 1).await, 1, "it was told already");
    assert_eq!(finish(6, Ending::Failed, 1).await, 1);
    assert_eq!(finish(6, Ending::Succeeded, 2).await, 2, "after a retry");
}

async fn what_is_usual_is_that_of_the_latest_successes(store: &dyn Store) {
    for n in 1..=4 {
        let (mut run, _) = ended(n);
        let mut attempt = run.tasks[0].attempt().expect("an attempt").clone();
        attempt.outcome = Some(Outcome::Succeeded);
        attempt.ended_at = Some(attempt.started_at.plus(std::time::Duration::from_secs(n)));
        Arc::make_mut(&mut run.tasks[0]).attempts = vec![Arc::new(attempt)];
        if n == 4 {
            Arc::make_mut(&mut run.tasks[0]).ending = Some(Ending::Failed);
        }
        assert_eq!(commit(store, Transition::new(id(u128::from(n)), rows(&run, None))).await, Reply::Committed);
    }
    let query = Query::Usual { project: project(), workflow: "w".parse().expect("a name"), runs: 2 };
    let Ok(Answer::Usual(usual)) = store.read(&Who::default(), query).await else { panic!("not what is usual") };
    let took: Vec<u64> = usual.jobs.values().flatten().map(std::time::Duration::as_secs).collect();
    assert_eq!(took, [3, 2], "{usual:?}");
}
