//! What every store must do, written against the trait, so that a second implementation is checked by the same words.

use std::collections::BTreeMap;
use std::sync::Arc;

use pinrail_model::document::{Document, ExecutorKind, Sha};
use pinrail_model::ids::{AttemptId, CommandId, RunId, SessionId, TableId, TransitionId};
use pinrail_model::names::{ProjectName, TableRef};
use pinrail_model::run::{Cause, Class, Effects, Event, Graph, Run, apply};
use pinrail_model::seam::lake::{Intent, Overlay, PointerError, PointerSwap};
use pinrail_model::seam::store::{
    Answer, AttemptRow, Command, CommandKind, Durability, Load, Publication, Query, Reply, RunRow, Store, TaskRow,
    Transition, VersionRow, Who, Write,
};
use pinrail_model::time::{Interval, Micros, Now};
use serde_json::json;

/// Runs the whole suite, each part on a store of its own.
pub async fn all<F, S>(fresh: F)
where
    F: Fn() -> S,
    S: Future<Output = Arc<dyn Store>>,
{
    a_former_owner_is_refused(fresh().await.as_ref()).await;
    a_run_is_read_back_as_it_was_written(fresh().await.as_ref()).await;
    a_unique_key_has_one_run(fresh().await.as_ref()).await;
    commands_are_taken_in_order_until_they_are_answered(fresh().await.as_ref()).await;
    pointers_swap_all_or_none(fresh().await.as_ref()).await;
    a_view_stays_as_it_was(fresh().await.as_ref()).await;
    a_publication_happens_once(fresh().await.as_ref()).await;
    a_former_attempt_may_not_stage(fresh().await.as_ref()).await;
    what_is_behind_becomes_durable_in_order(fresh().await.as_ref()).await;
    a_reader_of_one_project_sees_no_other(fresh().await.as_ref()).await;
}

fn project() -> ProjectName {
    "p".parse().expect("a name")
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
        outside: BTreeMap::new(),
        executors: BTreeMap::new(),
        tasks: Run::new_tasks(&graph, sha(), sha()),
        graph: Arc::new(graph),
    }
}

fn rows(run: &Run, key: Option<&str>) -> Vec<Write> {
    let mut rows = vec![Write::Run(Box::new(RunRow {
        run: run.clone(),
        state: run.state().name(),
        unique_key: key.map(str::to_owned),
    }))];
    for (ix, task) in run.tasks.iter().enumerate() {
        let task_row = TaskRow { run: run.id, ix: ix as u32, instance: String::new(), task: task.as_ref().clone() };
        rows.push(Write::Task(Box::new(task_row)));
        if let Some(attempt) = task.attempt() {
            rows.push(Write::Attempt(Box::new(AttemptRow {
                run: run.id,
                project: run.project.clone(),
                job: task.job.clone(),
                instance: String::new(),
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
    store.swap(&project(), vec![swap("a.x", None, Some("1")), swap("a.y", None, Some("1"))]).await.expect("made");
    let moved =
        store.swap(&project(), vec![swap("a.x", Some("1"), Some("2")), swap("a.y", Some("0"), Some("2"))]).await;
    assert_eq!(moved, Err(PointerError::Conflict(table("a.y"))));
    let found = store.find(&project(), &table("a.x"), None).await.expect("a pointer").expect("there");
    assert_eq!(found.location, "1", "the first swap was taken back");
    let again = store.swap(&project(), vec![swap("a.x", None, Some("3"))]).await;
    assert_eq!(again, Err(PointerError::Conflict(table("a.x"))), "what exists cannot be made");
}

async fn a_view_stays_as_it_was(store: &dyn Store) {
    store.swap(&project(), vec![swap("a.x", None, Some("1"))]).await.expect("made");
    let seen = store.head(&project()).await.expect("a head");
    store
        .swap(&project(), vec![swap("a.x", Some("1"), Some("2")), swap("a.y", None, Some("1"))])
        .await
        .expect("changed");
    store.swap(&project(), vec![swap("a.x", Some("2"), None)]).await.expect("dropped");
    let (project_name, name) = (project(), table("a.x"));
    let at = |at| store.find(&project_name, &name, at);
    assert_eq!(at(Some(seen)).await.expect("a pointer").map(|p| p.location), Some("1".to_owned()));
    assert_eq!(at(None).await.expect("a pointer"), None);
    assert_eq!(store.list(&project(), Some(seen)).await.expect("a list").len(), 1);
    assert_eq!(store.list(&project(), None).await.expect("a list").len(), 1);
    assert_eq!(store.head(&project()).await.expect("a head"), seen + 2);
}

async fn a_publication_happens_once(store: &dyn Store) {
    let (run, attempt) = claimed(1, &project());
    assert_eq!(commit(store, Transition::new(id(1), rows(&run, None))).await, Reply::Committed);
    let publication = |expect| Publication {
        project: project(),
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
    let discard = Transition::new(id(2), vec![Write::DiscardOverlays(attempt)]);
    assert_eq!(commit(store, discard).await, Reply::Committed);
    assert!(store.overlays(attempt).await.expect("overlays").is_empty());
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

async fn a_reader_of_one_project_sees_no_other(store: &dyn Store) {
    let other: ProjectName = "q".parse().expect("a name");
    let (mine, theirs) = (new_run(1, &project()), new_run(2, &other));
    for (n, run) in [(1, &mine), (2, &theirs)] {
        assert_eq!(commit(store, Transition::new(id(n), rows(run, None))).await, Reply::Committed);
    }
    let who = Who { project: Some(project()) };
    let list = Query::Runs {
        project: Some(other),
        workflow: None,
        state: None,
        logical: None,
        ends_with: None,
        before: None,
        limit: 10,
    };
    let Answer::Runs(found) = store.read(&who, list).await.expect("an answer") else { panic!("not runs") };
    assert_eq!(found.iter().map(|stored| stored.run.id).collect::<Vec<_>>(), [mine.id]);
    assert!(matches!(store.read(&who, Query::Run(theirs.id)).await, Ok(Answer::Nothing)));
}
