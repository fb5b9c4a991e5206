//! Random workflows, faults and signals; the invariants are checked after every event (see `world.rs`).

use pinrail_model::explain::{Why, explain};
use pinrail_model::fault::Fault;
use pinrail_model::run::*;
use proptest::prelude::*;

use crate::world::{JobPlan, World};

fn plans() -> impl Strategy<Value = Vec<JobPlan>> {
    let faults = prop::collection::vec(
        prop::sample::select(vec![
            Fault::User,
            Fault::Data,
            Fault::Platform,
            Fault::Conflict,
            Fault::Timeout,
            Fault::Unknown,
        ]),
        0..4,
    );
    let rule = prop::sample::select(vec!["all_succeeded", "all_succeeded", "all_done", "any_failed", "none_failed"]);
    let job = (
        prop::collection::vec(any::<prop::sample::Index>(), 0..4),
        rule,
        0..3_u32,
        any::<bool>(),
        any::<bool>(),
        prop_oneof![2 => Just(vec![]), 1 => faults],
        prop_oneof![3 => Just(vec![]), 1 => prop::collection::vec(prop::sample::select(vec!["fail", "skip"]), 1..3)],
        0..3_usize,
    );
    prop::collection::vec(job, 1..12).prop_map(|jobs| {
        let plan = |(ix, (after, run_if, retries, may_fail, spec, faults, waits, looks)): (
            usize,
            (Vec<prop::sample::Index>, _, _, _, _, _, _, _),
        )| {
            let mut after: Vec<usize> = if ix == 0 { vec![] } else { after.iter().map(|i| i.index(ix)).collect() };
            after.sort_unstable();
            after.dedup();
            JobPlan { after, run_if, retries, may_fail, spec, faults, waits, looks, ..JobPlan::default() }
        };
        jobs.into_iter().enumerate().map(plan).collect()
    })
}

#[derive(Debug, Clone)]
enum Action {
    Work(usize),
    Restart,
    Lose(Loss),
    Stop,
    StopTask(usize),
    Retry,
    Mark(usize, Ending),
    Hold(Option<usize>),
    Release(Option<usize>),
    Disable(usize, bool),
}

fn actions() -> impl Strategy<Value = Vec<Action>> {
    let action = prop_oneof![
        60 => any::<usize>().prop_map(Action::Work),
        2 => Just(Action::Restart),
        1 => Just(Action::Lose(Loss::Launcher)),
        1 => Just(Action::Lose(Loss::Session)),
        1 => Just(Action::Stop),
        1 => any::<usize>().prop_map(Action::StopTask),
        3 => Just(Action::Retry),
        2 => (any::<usize>(), prop::sample::select(Ending::ALL.to_vec())).prop_map(|(ix, to)| Action::Mark(ix, to)),
        2 => any::<Option<usize>>().prop_map(Action::Hold),
        4 => any::<Option<usize>>().prop_map(Action::Release),
        2 => any::<(usize, bool)>().prop_map(|(ix, off)| Action::Disable(ix, off)),
    ];
    prop::collection::vec(action, 0..200)
}

fn retry(world: &mut World) {
    let again = |task: &Task| {
        task.position == Position::Held
            || (task.position == Position::Done
                && matches!(task.ending, Some(Ending::Failed | Ending::UpstreamFailed | Ending::Cancelled)))
    };
    let tasks: Vec<TaskIx> = (0..world.run.tasks.len()).filter(|ix| again(&world.run.tasks[*ix])).collect();
    let _ = world.apply(&Event::Retry { tasks, by: "t".to_owned(), code: None });
}

fn control() -> Control {
    Control { by: "t".to_owned(), at: Default::default(), reason: None }
}

fn hold(world: &mut World, task: Option<usize>, control: Option<Control>) {
    let tasks = task.map(|ix| vec![ix % world.run.tasks.len()]);
    let _ = world.apply(&Event::Hold { tasks, control, by: "t".to_owned() });
}

fn nothing_waits_without_a_cause(world: &World) {
    for (ix, task) in world.run.tasks.iter().enumerate() {
        let why = explain(&world.run, Some(&world.shard), ix, world.now.wall);
        if task.position != Position::Done {
            assert!(!matches!(why.why, Why::Ended), "{why:?}");
        }
        assert!(!why.why.code().is_empty());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_every_run_ends_and_the_invariants_hold(plans in plans(), slots in 1..5_u32, actions in actions()) {
        let mut world = World::new(plans, slots);
        for action in actions {
            match action {
                Action::Work(which) if world.underway() > 0 => world.work(which),
                Action::Work(_) => {}
                Action::Restart => world.restart(),
                Action::Lose(by) => world.lose_all(by),
                Action::Stop => { let _ = world.apply(&Event::Stop { task: None, by: "t".to_owned(), reason: None }); }
                Action::StopTask(ix) => {
                    let task = Some(ix % world.run.tasks.len());
                    let _ = world.apply(&Event::Stop { task, by: "t".to_owned(), reason: None });
                }
                Action::Retry => retry(&mut world),
                Action::Mark(ix, ending) => {
                    let tasks = vec![ix % world.run.tasks.len()];
                    let _ = world.apply(&Event::Mark { tasks, ending, control: control() });
                }
                Action::Hold(ix) => hold(&mut world, ix, Some(control())),
                Action::Release(ix) => hold(&mut world, ix, None),
                Action::Disable(ix, off) => {
                    let tasks = vec![ix % world.run.tasks.len()];
                    let _ = world.apply(&Event::Disable { tasks, control: off.then(control), by: "t".to_owned() });
                }
            }
            nothing_waits_without_a_cause(&world);
        }
        hold(&mut world, None, None);
        for ix in 0..world.run.tasks.len() {
            if world.run.tasks[ix].hold.is_some() {
                hold(&mut world, Some(ix), None);
            }
        }
        world.finish();
        let stuck = world.run.tasks.iter().filter(|task| task.position != Position::Done && task.position != Position::Held);
        let held_above = world.run.tasks.iter().any(|task| task.position == Position::Held);
        prop_assert!(held_above || stuck.count() == 0);
        prop_assert_eq!(world.run.state().is_final(), !held_above);
    }
}
