//! Single stories, told step by step.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use pinrail_model::admit::{Admitted, LimitId, Shard, admit};
use pinrail_model::condition::Look;
use pinrail_model::document::{ExecutorKind, Sha};
use pinrail_model::explain::{Why, explain};
use pinrail_model::fault::{Fault, Reason};
use pinrail_model::ids::{AttemptId, SessionId};
use pinrail_model::run::*;
use pinrail_model::time::{Micros, Now};
use serde_json::json;

use crate::world::{JobPlan, World, jobs};

fn plan(after: &[usize]) -> JobPlan {
    JobPlan { after: after.to_vec(), ..JobPlan::default() }
}

fn endings(world: &World) -> Vec<&'static str> {
    world.run.tasks.iter().map(|task| task.state_name()).collect()
}

#[test]
fn a_diamond_succeeds() {
    let mut world = World::new(vec![plan(&[]), plan(&[0]), plan(&[0]), plan(&[1, 2])], 2);
    world.finish();
    assert_eq!(endings(&world), ["succeeded"; 4]);
    assert_eq!(world.run.state(), RunState::Succeeded);
    assert!(world.run.ended_at.is_some());
    assert_eq!(world.publications.len(), 4);
}

#[test]
fn a_user_fault_uses_up_the_retries_and_fails_what_is_below() {
    let job = JobPlan { retries: 1, faults: vec![Fault::User; 9], ..JobPlan::default() };
    let mut world = World::new(vec![job, plan(&[0]), plan(&[1])], 4);
    world.finish();
    assert_eq!(endings(&world), ["failed", "upstream-failed", "upstream-failed"]);
    assert_eq!(world.run.tasks[0].attempts.len(), 2);
    assert_eq!(world.run.state(), RunState::Failed);
}

#[test]
fn platform_faults_are_free_but_not_without_end() {
    let job = JobPlan { faults: vec![Fault::Platform, Fault::Platform], ..JobPlan::default() };
    let mut world = World::new(vec![job], 4);
    world.finish();
    assert_eq!(endings(&world), ["succeeded"]);
    assert_eq!(world.run.tasks[0].attempts.len(), 3);
    let job = JobPlan { faults: vec![Fault::Platform; 9], ..JobPlan::default() };
    let mut world = World::new(vec![job], 4);
    world.finish();
    assert_eq!((endings(&world), world.run.tasks[0].attempts.len()), (vec!["failed"], 4));
}

#[test]
fn data_faults_are_not_retried() {
    let job = JobPlan { retries: 5, faults: vec![Fault::Data], ..JobPlan::default() };
    let mut world = World::new(vec![job], 4);
    world.finish();
    assert_eq!((endings(&world), world.run.tasks[0].attempts.len()), (vec!["failed"], 1));
}

#[test]
fn trigger_rules() {
    let failing = JobPlan { faults: vec![Fault::Data], may_fail: true, ..JobPlan::default() };
    let on = |run_if, after: &[usize]| JobPlan { run_if, ..plan(after) };
    let mut world = World::new(
        vec![
            failing,
            plan(&[]),
            on("any_failed", &[0, 1]),
            on("all_done", &[0, 1]),
            on("none_failed", &[0, 1]),
            on("any_failed", &[1]),
            on("none_failed", &[5]),
        ],
        9,
    );
    world.finish();
    assert_eq!(
        endings(&world),
        ["failed", "succeeded", "succeeded", "succeeded", "upstream-failed", "skipped", "succeeded"]
    );
    assert_eq!(world.run.state(), RunState::Succeeded, "the failed job may fail");
}

#[test]
fn a_stop_cancels_what_has_not_published_and_a_retry_goes_on() {
    let mut world = World::new(vec![plan(&[]), plan(&[0])], 2);
    for _ in 0..3 {
        world.work(0);
    }
    world.apply(&Event::Stop { task: None, by: "anna".to_owned(), reason: None }).unwrap();
    world.finish();
    assert_eq!(endings(&world), ["cancelled", "cancelled"]);
    assert_eq!(world.run.state(), RunState::Cancelled);
    let again = world.apply(&Event::Stop { task: None, by: "anna".to_owned(), reason: None });
    assert_eq!(again.unwrap_err().to_string(), "the run is over already: cancelled");
    world.apply(&Event::Retry { tasks: vec![0, 1], by: "anna".to_owned(), code: None }).unwrap();
    world.finish();
    assert_eq!(world.run.state(), RunState::Succeeded);
    assert_eq!(world.run.tasks[0].attempts.len(), 2, "numbers run on through generations");
}

#[test]
fn a_report_from_an_earlier_epoch_changes_nothing() {
    let mut world = World::new(vec![plan(&[])], 2);
    let late = Event::Reported { task: 0, epoch: 0, report: Report::PhaseStarted(Phase::Setup) };
    assert_eq!(world.apply(&late), Err(Refused::Stale));
    assert_eq!(world.run.tasks[0].position, Position::Preparing);
}

#[test]
fn ten_deaths_of_the_server_hold_a_job() {
    let mut world = World::new(vec![plan(&[])], 2);
    for _ in 0..10 {
        while !world.run.tasks[0].position.is_live() {
            world.work(0);
        }
        world.restart();
    }
    while world.underway() > 0 {
        world.work(0);
    }
    assert_eq!(world.run.tasks[0].position, Position::Held);
    assert_eq!(world.run.tasks[0].attempts.len(), 10);
    world.apply(&Event::Retry { tasks: vec![0], by: "anna".to_owned(), code: None }).unwrap();
    world.finish();
    assert_eq!(endings(&world), ["succeeded"]);
}

#[test]
fn a_lost_complete_runs_again_from_the_stored_result() {
    let mut world = World::new(vec![JobPlan { spec: true, ..plan(&[]) }], 2);
    while world.run.tasks[0].position != Position::Completing {
        world.work(0);
    }
    world.restart();
    world.finish();
    assert_eq!((endings(&world), world.run.tasks[0].attempts.len()), (vec!["succeeded"], 1));
}

#[test]
fn a_retry_names_the_parent_that_is_missing() {
    let failing = JobPlan { faults: vec![Fault::Data], ..JobPlan::default() };
    let mut world = World::new(vec![failing, plan(&[0])], 2);
    world.finish();
    let refused = world.apply(&Event::Retry { tasks: vec![1], by: "anna".to_owned(), code: None });
    assert_eq!(
        refused.unwrap_err().to_string(),
        "job \"j1\" waits for \"j0\", which did not succeed; retry it as well"
    );
    world.apply(&Event::Retry { tasks: vec![0], by: "anna".to_owned(), code: None }).unwrap();
    world.finish();
    assert_eq!(endings(&world), ["succeeded", "succeeded"], "what is below goes on by itself");
}

#[test]
fn a_retry_with_new_code_gives_each_task_the_files_that_belong_to_its_job() {
    let failing = JobPlan { faults: vec![Fault::Data], ..JobPlan::default() };
    let mut world = World::new(vec![plan(&[]), failing, plan(&[1])], 3);
    world.finish();
    let (old, new) = (world.run.version, Sha::of(b"new"));
    let mut changed = jobs(&[plan(&[]), plan(&[]), plan(&[1])]);
    for job in &mut changed {
        job.class = Some("jobs.new.y".to_owned());
    }
    let graph = Arc::new(Graph::new(&changed, None));
    let code = Some(NewCode { graph, bundle: new, version: new });
    world.apply(&Event::Retry { tasks: vec![1], by: "anna".to_owned(), code }).unwrap();
    let seen: Vec<_> = world.run.tasks.iter().map(|task| (task.version, task.bundle)).collect();
    assert_eq!(seen, [(old, old), (new, new), (new, new)], "what is below the retried job takes the new code as well");
    let classes: Vec<_> = world.run.graph.jobs.iter().map(|job| job.class.as_deref().unwrap()).collect();
    assert_eq!(classes, ["jobs.x.y", "jobs.new.y", "jobs.new.y"]);
    world.finish();
    assert_eq!(endings(&world), ["succeeded", "succeeded", "succeeded"]);
}

#[test]
fn a_job_that_is_stopped_during_its_cleanup_is_not_tried_again() {
    let mut world = World::new(vec![JobPlan { retries: 3, faults: vec![Fault::User], ..JobPlan::default() }], 2);
    while world.run.tasks[0].position != Position::Cleaning {
        world.work(0);
    }
    world.apply(&Event::Stop { task: Some(0), by: "anna".to_owned(), reason: None }).unwrap();
    world.finish();
    assert_eq!((endings(&world), world.run.tasks[0].attempts.len()), (vec!["cancelled"], 1));
}

#[test]
fn a_time_limit_outlives_the_watcher_of_an_engine() {
    let mut world = World::new(vec![JobPlan { spec: true, ..plan(&[]) }], 2);
    let mut limited = jobs(&[JobPlan { spec: true, ..plan(&[]) }]);
    limited[0].timeout_seconds = Some(60.0);
    world.run.graph = Arc::new(Graph::new(&limited, None));
    while world.run.tasks[0].position != Position::Submitted {
        world.work(0);
    }
    let (mut run, mut fx) = (world.run.clone(), Effects::default());
    let epoch = run.tasks[0].epoch;
    apply(&mut run, &Event::Lost { task: 0, epoch, by: Loss::Owner }, world.now, &mut fx).unwrap();
    let set = |work: &Work| matches!(work, Work::Set { epoch: of, timer: Timer::Abort, .. } if *of == epoch + 1);
    assert!(fx.work.iter().any(set), "{:?}", fx.work);
}

#[test]
fn a_hold_that_one_of_its_jobs_refuses_holds_none() {
    let mut world = World::new(vec![plan(&[]), plan(&[0])], 2);
    let control = Control { by: "anna".to_owned(), at: Default::default(), reason: None };
    let hold = Event::Hold { tasks: Some(vec![1, 0]), control: Some(control), by: "anna".to_owned() };
    let (mut run, mut fx) = (world.run.clone(), Effects::default());
    assert!(apply(&mut run, &hold, world.now, &mut fx).is_err());
    assert!(run.tasks[1].hold.is_none() && fx.touched.is_empty());
    world.finish();
    assert_eq!(endings(&world), ["succeeded", "succeeded"]);
}

fn waiting(otherwise: &'static str, looks: usize) -> JobPlan {
    JobPlan { waits: vec![otherwise, otherwise], looks, ..plan(&[0]) }
}

fn why(world: &World, ix: TaskIx) -> Why {
    explain(&world.run, Some(&world.shard), ix, world.now.wall).why
}

/// Works on all but the time limits.
fn look(world: &mut World) {
    while world.work_on(|work| !matches!(work, Work::Set { .. })) {}
}

#[test]
fn a_condition_is_looked_at_once_the_jobs_before_have_ended_and_holds_no_slot() {
    let mut world = World::new(vec![plan(&[]), waiting("fail", 2)], 1);
    assert!(world.run.tasks[1].watch.is_none(), "the job before has not ended");
    while world.run.tasks[1].watch.is_none() {
        world.work(0);
    }
    while world.run.tasks[0].position != Position::Done {
        world.work_on(|work| !matches!(work, Work::Watch { .. } | Work::Set { .. }));
    }
    assert_eq!(world.shard.slots_held(), 0);
    world.work_on(|work| matches!(work, Work::Watch { .. }));
    let Why::WaitingForConditions { conditions } = why(&world, 1) else { panic!("{:?}", why(&world, 1)) };
    assert_eq!(conditions.iter().map(|c| c.seen.found.as_str()).collect::<Vec<_>>(), ["look 0", ""]);
    assert_eq!(conditions[1].seen.what, "file \"a\"", "before the first look, as it was written");
    look(&mut world);
    assert_eq!(endings(&world), ["succeeded", "succeeded"]);
}

#[test]
fn new_code_takes_back_what_the_old_had_let_begin() {
    let failing = JobPlan { faults: vec![Fault::Data], ..plan(&[]) };
    // One slot that the second job takes: the third is ready and has not begun.
    let mut world = World::new(vec![failing, plan(&[]), plan(&[])], 1);
    while world.run.tasks[0].position != Position::Done {
        world.work(0);
    }
    assert_eq!(world.run.tasks[2].position, Position::Ready);
    let new = Sha::of(b"new");
    let graph = Arc::new(Graph::new(&jobs(&[plan(&[]), plan(&[]), plan(&[0])]), None));
    let code = Some(NewCode { graph, bundle: new, version: new });
    world.apply(&Event::Retry { tasks: vec![0], by: "anna".to_owned(), code }).unwrap();
    assert_eq!(world.run.tasks[2].position, Position::Waiting);
}

#[test]
fn of_what_is_ready_the_longest_path_goes_first_by_what_its_jobs_took() {
    // j0 and j1 begin; j2 hangs on j0, j3 on j1. By their number both paths are as long.
    let plans = [plan(&[]), plan(&[]), plan(&[0]), plan(&[1])];
    let took = |seconds: [u64; 4]| {
        let took = seconds.into_iter().enumerate();
        took.map(|(ix, seconds)| (format!("j{ix}").parse().unwrap(), Duration::from_secs(seconds))).collect()
    };
    let first = |durations: Option<[u64; 4]>| {
        let mut run = World::new(plans.to_vec(), 1).run;
        let graph = Graph::new(&jobs(&plans), None);
        let graph =
            durations.map_or_else(|| Graph::new(&jobs(&plans), None), |durations| graph.weighed(&took(durations)));
        run.graph = Arc::new(graph);
        run.tasks = Run::new_tasks(&run.graph, run.bundle, run.version);
        apply(&mut run, &Event::Created, Now::default(), &mut Effects::default()).unwrap();
        let mut shard = Shard::default();
        shard.join(SessionId::from_parts(1, 1), 1, Default::default());
        shard.follow_run(&run);
        shard.follow(&run, 0..4);
        match admit(&mut shard) {
            Some(Admitted::Claim { task, .. }) => task,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(first(None), 0, "as the file has them");
    assert_eq!(first(Some([10, 1, 1, 2])), 0);
    assert_eq!(first(Some([10, 1, 1, 60])), 1, "j3 takes long, and j1 has to go first");
    let graph = Graph::new(&jobs(&plans), None).weighed(&took([10, 1, 1, 60]));
    assert_eq!(graph.weight, [11_000, 61_000, 1_000, 60_000], "milliseconds");
}

#[test]
fn what_does_not_come_in_time_fails_the_job_or_skips_it() {
    for (otherwise, ending) in [("fail", "failed"), ("skip", "skipped")] {
        let mut world = World::new(vec![plan(&[]), waiting(otherwise, usize::MAX)], 1);
        while world.run.tasks[1].watch.is_none() {
            world.work(0);
        }
        world.restart();
        while world.work_on(|work| !matches!(work, Work::Watch { .. })) {}
        assert_eq!(endings(&world), ["succeeded", ending]);
        match why(&world, 1) {
            Why::Failed { failure, .. } => {
                assert_eq!(failure.attempt, None);
                assert_eq!(failure.evidence.message, "it waited 60 s for file \"a\" in vain");
            }
            Why::Skipped { conditions, .. } => assert_eq!(conditions.len(), 2),
            other => panic!("{other:?}"),
        }
        // A retry waits again, from the beginning.
        world.apply(&Event::Retry { tasks: vec![1], by: "anna".to_owned(), code: None }).unwrap();
        assert!(world.run.tasks[1].watch.as_ref().is_some_and(|watch| !watch.is_met()));
        let released = Event::Hold { tasks: Some(vec![1]), control: None, by: "anna".to_owned() };
        world.apply(&released).unwrap();
        look(&mut world);
        assert_eq!(endings(&world), ["succeeded", "succeeded"], "somebody let it go on");
    }
}

#[test]
fn a_late_look_and_a_look_at_what_is_decided_change_nothing() {
    let mut world = World::new(vec![JobPlan { after: vec![], ..waiting("fail", 9) }], 1);
    let epoch = world.run.tasks[0].epoch;
    let observed = |epoch, condition, look| {
        let (what, found) = ("a".to_owned(), "b".to_owned());
        Event::Observed { task: 0, epoch, condition, look, what, found }
    };
    assert_eq!(world.apply(&observed(epoch + 1, 0, Look::Met)), Err(Refused::Stale));
    assert!(world.apply(&observed(epoch, 2, Look::Met)).is_err(), "there are two");
    world.apply(&observed(epoch, 1, Look::Never)).unwrap();
    assert_eq!(endings(&world), ["skipped"]);
    assert!(world.apply(&observed(epoch, 0, Look::Met)).is_err());
}

fn mapped(after: &[usize]) -> JobPlan {
    JobPlan { map: true, ..plan(after) }
}

fn lister(lists: &[serde_json::Value]) -> JobPlan {
    JobPlan { lists: lists.to_vec(), ..JobPlan::default() }
}

fn names(world: &World) -> Vec<String> {
    world.run.tasks.iter().map(|task| format!("{} {}", task.name(), task.state_name())).collect()
}

fn retry(world: &mut World, selector: &str) -> Result<(), Refused> {
    let tasks = world.run.select(selector).unwrap();
    world.apply(&Event::Retry { tasks, by: "anna".to_owned(), code: None })
}

#[test]
fn a_mapped_job_has_a_task_for_each_item_and_what_is_below_waits_for_all() {
    let mut world = World::new(vec![lister(&[json!(["a", "b", "c"])]), mapped(&[0]), plan(&[1])], 2);
    while world.run.tasks.len() == 3 {
        world.work(0);
    }
    let why = explain(&world.run, Some(&world.shard), 1, world.now.wall).why;
    let Why::WaitingForJobs { jobs, more: 0 } = why else { panic!("{why:?}") };
    assert_eq!(jobs.iter().map(|job| job.job.as_str()).collect::<Vec<_>>(), ["j1[0]", "j1[1]", "j1[2]"]);
    world.restart();
    world.finish();
    let all = ["j0", "j1", "j2", "j1[0]", "j1[1]", "j1[2]"].map(|name| format!("{name} succeeded"));
    assert_eq!(names(&world), all);
    assert!(world.run.tasks[1].attempts.is_empty(), "it is the sum of its instances");
    assert_eq!(world.run.tasks[5].instance.as_ref().unwrap().item, json!("c"));
    assert_eq!(world.run.find("j1[2]"), Some(5));
    assert_eq!(world.run.state(), RunState::Succeeded);
}

#[test]
fn a_mapped_job_leaves_the_list_of_what_its_instances_left() {
    let lists = lister(&[json!([1, 2])]);
    let middle = JobPlan { lists: vec![json!("x")], ..mapped(&[0]) };
    let mut world = World::new(vec![lists, middle, mapped(&[1])], 4);
    world.finish();
    assert_eq!(world.run.outputs(1)["list"], json!(["x", "x"]));
    assert_eq!(world.run.tasks.len(), 7, "a job can be mapped over what another mapped one left");
    assert_eq!(world.run.state(), RunState::Succeeded);
}

#[test]
fn an_empty_list_is_done_at_once() {
    let mut world = World::new(vec![lister(&[json!([])]), mapped(&[0]), plan(&[1])], 2);
    world.finish();
    assert_eq!(names(&world), ["j0 succeeded", "j1 succeeded", "j2 succeeded"]);
}

#[test]
fn what_is_no_list_or_too_long_fails_with_the_limit_named() {
    let message = |plan: JobPlan| {
        let mut world = World::new(vec![plan, mapped(&[0]), self::plan(&[1])], 2);
        world.finish();
        assert_eq!(endings(&world)[1..], ["failed", "upstream-failed"]);
        let Why::Failed { failure, .. } = explain(&world.run, None, 1, world.now.wall).why else { panic!() };
        assert_eq!(failure.fault, Fault::User);
        failure.evidence.message
    };
    assert_eq!(message(lister(&[json!("a")])), "output \"list\" of job \"j0\" is a text, not a list");
    assert_eq!(message(plan(&[])), "job \"j0\" left no output \"list\"");
    let long = (0..100_000).collect::<Vec<u32>>();
    assert_eq!(
        message(lister(&[json!(long)])),
        "output \"list\" of job \"j0\" has 100000 items; the job is mapped over 1000 at most"
    );
}

#[test]
fn what_instances_leave_together_has_a_limit() {
    let middle = JobPlan { lists: vec![json!("x".repeat(50_000))], ..mapped(&[0]) };
    let items: Vec<u32> = (0..100).collect();
    let mut world = World::new(vec![lister(&[json!(items)]), middle, plan(&[1])], 200);
    world.finish();
    assert_eq!(endings(&world)[1..3], ["failed", "upstream-failed"]);
    let Why::Failed { failure, .. } = explain(&world.run, None, 1, world.now.wall).why else { panic!() };
    assert_eq!((failure.evidence.reason, failure.fault), (Some(Reason::BadMap), Fault::User));
    let told = "what the 100 instances of job \"j1\" left takes 5000200 bytes as JSON; at most 4194304 are allowed";
    assert_eq!(failure.evidence.message, told);
    assert!(world.run.wants_retry(1), "no instance opens it again");
}

#[test]
fn of_many_instances_that_are_waited_for_ten_are_named() {
    let items: Vec<u32> = (0..12).collect();
    let mut world = World::new(vec![lister(&[json!(items)]), mapped(&[0])], 2);
    while world.run.tasks.len() == 2 {
        world.work(0);
    }
    let why = explain(&world.run, Some(&world.shard), 1, world.now.wall).why;
    let Why::WaitingForJobs { jobs, more: 2 } = why else { panic!("{why:?}") };
    assert_eq!(jobs.len(), 10);
}

#[test]
fn a_key_knows_the_item() {
    let mut world = World::new(vec![lister(&[json!([{"shop": "a"}, {"shop": 7}])]), mapped(&[0])], 2);
    world.finish();
    let graph = Arc::make_mut(&mut world.run.graph);
    let job = Arc::make_mut(&mut graph.jobs[2]);
    job.key = Some("{{ item.shop }}-{{ index }}-{{ item }}-{{ item.none }}{{ items }}".to_owned());
    graph.jobs[3] = Arc::clone(&graph.jobs[2]);
    let keys: Vec<_> = [2, 3].map(|ix| world.run.needs(ix)[0].limit.clone()).into_iter().collect();
    let key = |text: &str| LimitId::Key("p".parse().unwrap(), text.to_owned());
    assert_eq!(keys, [key("a-0-{\"shop\":\"a\"}-"), key("7-1-{\"shop\":7}-")]);
}

#[test]
fn what_is_said_of_a_mapped_job_keeps_its_instances_from_beginning_again() {
    let mut world = World::new(vec![lister(&[json!([1, 2])]), mapped(&[0])], 2);
    world.finish();
    for instance in [2, 3] {
        Arc::make_mut(&mut world.run.tasks[instance]).ending = Some(Ending::UpstreamFailed);
    }
    let control = Control { by: "anna".to_owned(), at: world.now.wall, reason: None };
    world.apply(&Event::Mark { tasks: vec![0, 1], ending: Ending::Succeeded, control }).unwrap();
    assert_eq!(names(&world)[2..], ["j1[0] upstream-failed", "j1[1] upstream-failed"]);
    assert_eq!(world.run.state(), RunState::Succeeded);
    let refused = retry(&mut world, "j1[0]").unwrap_err().to_string();
    assert!(refused.contains("job \"j1\" was marked as succeeded, and \"j1[0]\" with it; retry \"j1\""), "{refused}");
}

/// What is done for each end of an instance must not grow with how many there are: this would take minutes.
#[test]
fn ten_thousand_instances_end_one_by_one() {
    let items: Vec<u32> = (0..10_000).collect();
    let plans = vec![lister(&[json!(items)]), JobPlan { most: Some(10_000), ..mapped(&[0]) }, plan(&[1])];
    let World { mut run, mut shard, mut now, .. } = World::new(plans, 8);
    let executed = || Executed { result: json!(1), spec: None, outputs: BTreeMap::new() };
    let reported = |task, epoch, report| Event::Reported { task, epoch, report };
    let (mut open, mut ids, mut looks) = (Vec::new(), 0, 0);
    // The first attempt began when the run was made.
    let begin = |task: TaskIx, epoch| {
        let outputs = if task == 0 { BTreeMap::from([("list".to_owned(), json!(items))]) } else { BTreeMap::new() };
        let steps = [
            Report::PhaseStarted(Phase::Setup),
            Report::PhaseStarted(Phase::Execute),
            Report::Executed(executed()),
            Report::Completed { outputs },
        ];
        steps.into_iter().rev().map(move |report| reported(task, epoch, report))
    };
    open.extend(begin(0, run.tasks[0].epoch));
    while let Some(event) = open.pop() {
        now.wall = now.wall.plus(Duration::from_millis(1));
        let mut fx = Effects::default();
        apply(&mut run, &event, now, &mut fx).unwrap();
        looks += fx.touched.len();
        if fx.run_touched {
            shard.follow_run(&run);
        }
        shard.follow(&run, fx.touched.iter().copied());
        for work in fx.work {
            match work {
                Work::Begin { task, epoch } => open.extend(begin(task, epoch)),
                Work::Publish { task, epoch } => open.push(Event::Published { task, epoch, written: Vec::new() }),
                Work::Clean { task, epoch, .. } => {
                    let end = CleanupEnd { ok: true, detail: None };
                    open.push(reported(task, epoch, Report::CleanupEnded(end)));
                }
                work => panic!("{work:?}"),
            }
        }
        while let Some(Admitted::Claim { task, session, .. }) = admit(&mut shard) {
            ids += 1;
            let attempt = AttemptId::from_parts(9, ids);
            let event = Event::Claimed { task, attempt, session, executor: ExecutorKind::Python };
            let mut fx = Effects::default();
            apply(&mut run, &event, now, &mut fx).unwrap();
            shard.follow(&run, fx.touched.iter().copied());
            for work in fx.work {
                let Work::Begin { task, epoch } = work else { panic!("{work:?}") };
                open.extend(begin(task, epoch));
            }
        }
    }
    assert_eq!(run.state(), RunState::Succeeded);
    assert_eq!(run.tasks.len(), 10_003);
    assert!(looks < 10 * run.tasks.len(), "{looks} tasks were written");
}

#[test]
fn a_failed_instance_is_tried_again_alone() {
    let job = JobPlan { faults: vec![Fault::Data], ..mapped(&[0]) };
    let mut world = World::new(vec![lister(&[json!([1, 2])]), job, plan(&[1])], 4);
    world.finish();
    assert_eq!(names(&world)[1..], ["j1 failed", "j2 upstream-failed", "j1[0] failed", "j1[1] failed"]);
    let Why::Failed { failure, .. } = explain(&world.run, None, 1, world.now.wall).why else { panic!() };
    let told = ("instances".to_owned(), "2 of 2 failed: j1[0], j1[1]".to_owned());
    assert!(failure.evidence.facts.contains(&told), "{failure:?}");
    retry(&mut world, "j1[1]").unwrap();
    world.finish();
    assert_eq!(names(&world)[1..], ["j1 failed", "j2 upstream-failed", "j1[0] failed", "j1[1] succeeded"]);
    let wanted: Vec<TaskIx> = (0..world.run.tasks.len()).filter(|ix| world.run.wants_retry(*ix)).collect();
    assert_eq!(wanted, [2, 3], "its job opens with it");
    world.apply(&Event::Retry { tasks: wanted, by: "anna".to_owned(), code: None }).unwrap();
    world.finish();
    assert_eq!(world.run.state(), RunState::Succeeded);
    let attempts: Vec<_> = world.run.tasks.iter().map(|task| task.attempts.len()).collect();
    assert_eq!(attempts, [1, 0, 1, 2, 2]);
}

#[test]
fn a_mapped_job_that_is_tried_again_reads_its_list_anew() {
    let lists = [json!([1, 2, 3]), json!([7]), json!([8, 9])];
    let mut world = World::new(vec![lister(&lists), mapped(&[0]), plan(&[1])], 4);
    world.finish();
    retry(&mut world, "j0").unwrap();
    world.finish();
    assert_eq!(world.run.tasks.len(), 6, "what has ended stays as it is");
    retry(&mut world, "j0+").unwrap();
    assert_eq!(names(&world)[3..], ["j1[0] skipped", "j1[1] skipped", "j1[2] skipped"]);
    world.finish();
    assert_eq!(names(&world)[3..], ["j1[0] succeeded", "j1[1] succeeded", "j1[2] skipped"]);
    assert_eq!(world.run.tasks[3].instance.as_ref().unwrap().item, json!(8));
    let refused = retry(&mut world, "j1[2]").unwrap_err().to_string();
    assert_eq!(refused, "\"j1[2]\" is not part of job \"j1\" any more, whose list is another one");
    assert_eq!(world.run.select("j1[7]").unwrap_err(), "job \"j1[7]\" not found");
    assert_eq!(world.run.state(), RunState::Succeeded);
}

#[test]
fn what_is_said_of_a_mapped_job_is_said_of_its_instances() {
    let control = || Control { by: "anna".to_owned(), at: Micros(0), reason: None };
    let begin = || {
        let mut world = World::new(vec![lister(&[json!([1, 2, 3])]), mapped(&[0]), plan(&[1])], 2);
        while world.run.tasks.len() == 3 {
            world.work(0);
        }
        world
    };
    let mut world = begin();
    let before: Vec<_> = world.run.tasks[3..].iter().map(|task| task.position.is_before_an_attempt()).collect();
    world.apply(&Event::Disable { tasks: vec![1], control: Some(control()), by: "anna".to_owned() }).unwrap();
    world.finish();
    let off: Vec<_> = world.run.tasks[3..].iter().map(|task| task.state_name() == "disabled").collect();
    assert_eq!((off, world.run.state()), (before, RunState::Succeeded));

    let mut world = begin();
    world.apply(&Event::Stop { task: Some(1), by: "anna".to_owned(), reason: None }).unwrap();
    world.finish();
    assert_eq!(endings(&world)[1..], ["cancelled", "upstream-failed", "cancelled", "cancelled", "cancelled"]);

    let mark = Event::Mark { tasks: vec![1], ending: Ending::Succeeded, control: control() };
    world.apply(&mark).unwrap();
    world.finish();
    assert_eq!(endings(&world)[1..3], ["succeeded", "succeeded"]);
    assert_eq!(world.run.state(), RunState::Succeeded, "what a person says of the whole counts");
}
