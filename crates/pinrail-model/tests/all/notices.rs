//! Who is told of what, without anybody who delivers it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use pinrail_model::document::ExecutorKind;
use pinrail_model::fault::{Evidence, Fault};
use pinrail_model::ids::{AttemptId, Ids, SessionId};
use pinrail_model::notify::{NoticeEvent, NoticeRow, Rules, Usual, left, rows, watched};
use pinrail_model::run::*;
use pinrail_model::time::{Micros, Now};

use crate::world::{JobPlan, World};

/// Counts.
#[derive(Default)]
struct Numbers(AtomicU64);

impl Ids for Numbers {
    fn parts(&self) -> (u64, u128) {
        (1, u128::from(self.0.fetch_add(1, Ordering::Relaxed)))
    }
}

fn plan(after: &[usize]) -> JobPlan {
    JobPlan { after: after.to_vec(), ..JobPlan::default() }
}

fn at(seconds: u64) -> Now {
    Now { wall: Micros(seconds as i64 * 1_000_000), mono: Duration::from_secs(seconds) }
}

/// A run that tells the channel `ops` of everything.
fn telling(plans: Vec<JobPlan>, sla_seconds: Option<f64>) -> Run {
    let mut run = World::new(plans, 1).run;
    // As it is before anything is admitted.
    run.tasks = Run::new_tasks(&run.graph, run.bundle, run.version);
    apply(&mut run, &Event::Created, at(0), &mut Effects::default()).unwrap();
    let ops = vec!["ops".parse().unwrap()];
    let on = NoticeEvent::ALL.map(|event| (event, ops.clone())).into();
    run.notify = Some(Arc::new(Rules { on, sla_seconds }));
    run
}

/// Lets a task begin an attempt.
fn begin(run: &mut Run, task: TaskIx, second: u64) {
    let attempt = AttemptId::from_parts(1, second.into());
    let session = SessionId::from_parts(1, 1);
    let claimed = Event::Claimed { task, attempt, session, executor: ExecutorKind::Python };
    apply(run, &claimed, at(second), &mut Effects::default()).unwrap();
}

/// Lets the attempt of a task fail for good, and gives what happened.
fn fail(run: &mut Run, task: TaskIx, second: u64) -> Vec<Happening> {
    let mut fx = Effects::default();
    let mut report = |run: &mut Run, report| {
        let epoch = run.tasks[task].epoch;
        apply(run, &Event::Reported { task, epoch, report }, at(second), &mut fx).unwrap();
    };
    let evidence = Evidence::new("it\u{1b}[31m is broken");
    report(run, Report::Failed(Verdict::failed(Fault::Data, Some(Phase::Execute), evidence)));
    report(run, Report::CleanupEnded(CleanupEnd { ok: true, detail: None }));
    fx.history
}

fn keys(rows: &[NoticeRow]) -> Vec<String> {
    rows.iter().map(|row| row.key.split_once('/').unwrap().1.to_owned()).collect()
}

#[test]
fn the_same_happening_has_the_same_key_and_a_first_failure_has_one_for_the_run() {
    let mut run = telling(vec![plan(&[]), plan(&[])], None);
    let ids = Numbers::default();
    begin(&mut run, 0, 1);
    begin(&mut run, 1, 2);
    let first = fail(&mut run, 0, 3);
    let told = rows(&run, &first, at(3).wall, &ids);
    assert_eq!(keys(&told), ["failure/j0/1/ops", "first-failure//1/ops"]);
    assert_eq!(keys(&told), keys(&rows(&run, &first, at(9).wall, &ids)), "looked at again");
    let second = fail(&mut run, 1, 4);
    assert_eq!(keys(&rows(&run, &second, at(4).wall, &ids)), ["failure/j1/1/ops", "first-failure//1/ops"]);
    let retry = Event::Retry { tasks: vec![1], by: "anna".to_owned(), code: None };
    apply(&mut run, &retry, at(5), &mut Effects::default()).unwrap();
    begin(&mut run, 1, 6);
    let again = fail(&mut run, 1, 7);
    assert_eq!(keys(&rows(&run, &again, at(7).wall, &ids)), ["failure/j1/2/ops", "first-failure//2/ops"]);
    let notice = &told[0].notice;
    assert_eq!(notice.title, "j0 failed in execute · attempt 1 of 1 · fault data: a retry will not help");
    assert_eq!(notice.lines, ["it [31m is broken"], "nothing that a terminal obeys");
}

#[test]
fn nobody_is_told_of_what_may_fail_of_backfills_and_without_rules() {
    let ids = Numbers::default();
    let told = |change: &dyn Fn(&mut Run), plan: JobPlan| {
        let mut run = telling(vec![plan], Some(1.0));
        change(&mut run);
        begin(&mut run, 0, 1);
        let history = fail(&mut run, 0, 2);
        rows(&run, &history, at(2).wall, &ids).len()
    };
    assert_eq!(told(&|_| {}, plan(&[])), 2);
    // Its run has succeeded, too late.
    assert_eq!(told(&|_| {}, JobPlan { may_fail: true, ..plan(&[]) }), 2);
    assert_eq!(told(&|run| run.class = Class::Backfill, plan(&[])), 0);
    assert_eq!(told(&|run| run.notify = None, plan(&[])), 0);
}

/// Each job took so many seconds, in so many runs.
fn usual(seconds: &[u64], runs: usize) -> Usual {
    let took =
        |(ix, seconds): (usize, &u64)| (format!("j{ix}").parse().unwrap(), vec![Duration::from_secs(*seconds); runs]);
    Usual { jobs: seconds.iter().enumerate().map(took).collect::<BTreeMap<_, _>>() }
}

#[test]
fn what_is_left_is_the_longest_way_less_what_was_worked() {
    // j0 stands behind those that it waits for: the order of a file is anyone's own.
    let mut run = telling(vec![plan(&[1, 2]), plan(&[]), plan(&[]), plan(&[2])], None);
    let seconds = [10, 30, 100, 1];
    let found = left(&run, &usual(&seconds, 5), at(0).wall).unwrap();
    let path = |found: &pinrail_model::notify::Left| {
        found.path.iter().map(|(job, time)| (job.to_string(), time.as_secs())).collect::<Vec<_>>()
    };
    assert_eq!((found.time.as_secs(), found.sample), (110, 5));
    assert_eq!(path(&found), [("j2".to_owned(), 100), ("j0".to_owned(), 10)]);
    begin(&mut run, 2, 0);
    let found = left(&run, &usual(&seconds, 5), at(90).wall).unwrap();
    assert_eq!(path(&found), [("j1".to_owned(), 30), ("j0".to_owned(), 10)], "j2 has 10 s left by now");
    let found = left(&run, &usual(&seconds, 5), at(500).wall).unwrap();
    assert_eq!(found.time.as_secs(), 40, "what takes longer than usual may end at once");
    assert_eq!(left(&run, &usual(&seconds, 2), at(0).wall), None, "two runs say nothing");
    assert_eq!(left(&run, &usual(&seconds[..3], 5), at(0).wall), None, "j3 has never run");
}

#[test]
fn an_sla_is_at_risk_when_what_is_left_does_not_fit_and_missed_when_its_time_is_over() {
    let ids = Numbers::default();
    let mut run = telling(vec![plan(&[]), plan(&[0])], Some(60.0));
    let usual = usual(&[30, 20], 3);
    let told = |run: &Run, second| keys(&watched(run, &usual, at(second).wall, &ids));
    assert!(told(&run, 10).is_empty(), "50 s are left for 50 s of work");
    assert_eq!(told(&run, 11), ["sla-at-risk//0/ops"]);
    begin(&mut run, 0, 5);
    assert!(told(&run, 11).is_empty(), "it has begun meanwhile");
    assert_eq!(told(&run, 60), ["sla-at-risk//0/ops"]);
    assert_eq!(told(&run, 61), ["sla-missed//0/ops"]);
    fail(&mut run, 0, 62);
    assert!(told(&run, 63).is_empty(), "the run is over");
}
