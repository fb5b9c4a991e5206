//! A case: workflows, what people ask for, and what goes wrong, all as data, so that it can be made smaller.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use pinrail_model::condition::{Condition, Look, Otherwise, That};
use pinrail_model::document::{DeclaredWrites, Document, FORMAT, Job, MapOver, RunIf, Sha, Source};
use pinrail_model::fault::Fault;
use pinrail_model::names::{ProjectName, WorkflowName};
use pinrail_model::run::{Ending, Position};
use pinrail_model::schedule::{CatchUp, Covers, Fires, Schedule};
use pinrail_model::time::Micros;
use pinrail_model::trigger::Overrun;
use serde_json::json;

use super::dice::Dice;

/// Tasks that a case asks for at least, beside those that its schedules and backfills make.
pub const LEAST_TASKS: usize = 50;
/// Faults that a case has at least.
pub const LEAST_FAULTS: usize = 5;
/// How long people and faults are at work.
const BUSY: Duration = Duration::from_secs(6 * 3600);
pub const POOLS: [&str; 2] = ["a", "b"];
pub const LABEL: &str = "gpu";
/// The output that jobs are mapped over.
pub const LIST: &str = "list";
pub const PROJECTS: usize = 2;

/// One simulated world and its history.
#[derive(Debug, Clone)]
pub struct Case {
    /// Decides durations, and all else that is not said here.
    pub seed: u64,
    pub start: Micros,
    pub workflows: Vec<WorkflowPlan>,
    pub workers: Vec<WorkerPlan>,
    /// Slots of the pools of each project; none: there is no such pool.
    pub pools: Vec<[Option<u32>; 2]>,
    pub quotas: Vec<Option<u32>>,
    /// In order of time.
    pub deeds: Vec<Deed>,
}

#[derive(Debug, Clone)]
pub struct WorkflowPlan {
    pub project: usize,
    pub jobs: Vec<JobPlan>,
    pub schedule: Option<Schedule>,
    pub overrun: Overrun,
    pub max_active: u32,
    pub concurrency: Option<u32>,
}

#[derive(Debug, Clone)]
pub struct JobPlan {
    pub after: Vec<usize>,
    /// What it waits for in the workflow's other version.
    pub after_later: Vec<usize>,
    /// Whether it is mapped over what the first of those leaves, and whether it is in the other version.
    pub map: [bool; 2],
    pub run_if: RunIf,
    pub retries: u32,
    pub retry_delay: u32,
    pub may_fail: bool,
    /// `execute` returns a spec for an engine.
    pub engine: bool,
    pub writes: bool,
    pub pools: [u32; 2],
    pub concurrency: Option<u32>,
    pub key: Option<&'static str>,
    pub label: bool,
    pub priority: i32,
    pub warn: Option<u32>,
    pub timeout: Option<u32>,
    pub waits: Vec<WaitPlan>,
    /// What goes wrong with its first attempts, one each.
    pub troubles: Vec<Trouble>,
}

/// Something outside of its run that a job waits for.
#[derive(Debug, Clone)]
pub struct WaitPlan {
    /// Looks in vain before the one that sees something; none: it is never seen.
    pub vain: Option<u32>,
    pub look: Look,
    /// Seconds between two looks.
    pub every: u32,
    pub patience: u32,
    pub skips: bool,
}

#[derive(Debug, Clone, Copy)]
pub struct WorkerPlan {
    pub slots: u32,
    pub label: bool,
}

/// What goes wrong with an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    None,
    Setup(Fault),
    Execute(Fault),
    /// The job says that another try is all it needs.
    Later,
    /// The job says that another try is useless.
    Never,
    Engine(Fault),
    Complete(Fault),
    Cleanup,
    /// Pointers move under so many of its publications.
    Conflicts(u8),
    /// It does not end by itself for ten hours.
    Hangs,
}

/// Something that happens to the shard.
#[derive(Debug, Clone, Copy)]
pub struct Deed {
    pub at: Duration,
    pub what: Act,
}

/// Numbers choose among what there is when the time comes.
#[derive(Debug, Clone, Copy)]
pub enum Act {
    // What people do.
    Run {
        workflow: usize,
        day: u32,
    },
    Backfill {
        workflow: usize,
        from: u32,
        days: u32,
        concurrency: u32,
        newest: bool,
    },
    PauseBackfill(u64),
    ResumeBackfill(u64),
    EditBackfill(u64, u32),
    CancelBackfill(u64),
    StopRun(u64),
    StopTask(u64, Position),
    Retry(u64),
    RetryTask(u64, Position),
    RetryWithCode(u64),
    Mark(u64, Position, Ending),
    HoldTask(u64, Position),
    ReleaseTask(u64),
    HoldRun(u64),
    ReleaseRun(u64),
    Disable(u64, Position),
    Enable(u64),
    Reload(u64),
    Pause(usize),
    Resume(usize),
    Deploy {
        workflow: usize,
        later: bool,
    },
    HoldScope {
        scope: u64,
        abort: bool,
    },
    ReleaseScope(u64),
    Pool {
        project: usize,
        pool: usize,
        slots: Option<u32>,
    },
    Quota {
        project: usize,
        slots: Option<u32>,
    },
    Drain(u64),
    // What goes wrong.
    ServerDies {
        down: u32,
        keeps: u8,
        zombies: bool,
    },
    WorkerLost {
        which: u64,
        zombies: bool,
    },
    WorkerComes {
        slots: u32,
        label: bool,
    },
    LauncherLost,
    ClockJumps(i32),
    StoreSlow {
        commits: u8,
        millis: u32,
    },
    /// The next commit fails, and the server ends; whether it was made is not known before the next one starts.
    StoreFails {
        made: bool,
    },
}

impl Act {
    pub fn is_fault(self) -> bool {
        matches!(
            self,
            Self::ServerDies { .. }
                | Self::WorkerLost { .. }
                | Self::LauncherLost
                | Self::ClockJumps(_)
                | Self::StoreSlow { .. }
                | Self::StoreFails { .. }
        )
    }
}

const FAULTS: [Fault; 9] = [
    Fault::User,
    Fault::User,
    Fault::Data,
    Fault::Platform,
    Fault::External,
    Fault::Conflict,
    Fault::Timeout,
    Fault::OutOfMemory,
    Fault::Unknown,
];
const BEFORE: [Position; 4] = [Position::Waiting, Position::Ready, Position::Backoff, Position::Held];
const OVERRUNS: [Overrun; 5] = Overrun::ALL;

impl Case {
    /// The case of a seed.
    pub fn new(seed: u64) -> Self {
        let mut dice = Dice::new(seed);
        let workflows: Vec<WorkflowPlan> = (0..dice.between(2, 3)).map(|_| workflow(&mut dice)).collect();
        let workers = (0..dice.between(1, 3))
            .map(|ix| WorkerPlan { slots: dice.between(1, 6) as u32, label: ix == 0 || dice.percent(30) })
            .collect();
        let pools = (0..PROJECTS).map(|_| [Some(dice.between(1, 4) as u32), Some(dice.between(1, 4) as u32)]).collect();
        let quotas = (0..PROJECTS).map(|_| dice.percent(25).then(|| dice.between(1, 5) as u32)).collect();
        let day = 86_400 * 1_000_000;
        let start =
            Micros(1_704_067_200_000_000 + dice.below(700) as i64 * day + dice.below(86_400) as i64 * 1_000_000);
        let mut case = Self { seed, start, workflows, workers, pools, quotas, deeds: Vec::new() };
        case.ask(&mut dice);
        case.trouble(&mut dice);
        case.deeds.sort_by_key(|deed| deed.at);
        case
    }

    /// Runs of enough tasks.
    fn ask(&mut self, dice: &mut Dice) {
        let (mut tasks, mut day) = (0, 0);
        while tasks < LEAST_TASKS {
            let workflow = dice.below(self.workflows.len());
            let jobs = self.workflows[workflow].jobs.len();
            if dice.percent(25) {
                let days = dice.between(2, 4) as u32;
                let (concurrency, newest) = (dice.between(1, 3) as u32, dice.percent(50));
                self.at(dice, BUSY / 3, Act::Backfill { workflow, from: day, days, concurrency, newest });
                day += days;
                tasks += jobs * days as usize;
            } else {
                self.at(dice, BUSY / 2, Act::Run { workflow, day });
                day += 1;
                tasks += jobs;
            }
        }
    }

    fn trouble(&mut self, dice: &mut Dice) {
        for _ in 0..dice.between(LEAST_FAULTS as u64, 12) {
            let what = match dice.below(12) {
                0..=2 => Act::ServerDies {
                    down: dice.between(0, 600) as u32,
                    keeps: dice.below(256) as u8,
                    zombies: dice.percent(50),
                },
                3..=5 => Act::WorkerLost { which: dice.roll(), zombies: dice.percent(50) },
                6 => Act::LauncherLost,
                7 | 8 => Act::ClockJumps(dice.between(0, 43_200) as i32 - 21_600),
                9 | 10 => Act::StoreSlow { commits: dice.between(1, 8) as u8, millis: dice.between(1, 20_000) as u32 },
                _ => Act::StoreFails { made: dice.percent(50) },
            };
            self.at(dice, BUSY, what);
        }
        for _ in 0..dice.between(4, 24) {
            let what = self.signal(dice);
            self.at(dice, BUSY, what);
        }
    }

    fn signal(&self, dice: &mut Dice) -> Act {
        let workflow = dice.below(self.workflows.len());
        let project = dice.below(PROJECTS);
        let which = dice.roll();
        let position = dice.pick(&Position::ALL);
        match dice.below(40) {
            0 => Act::PauseBackfill(which),
            1 => Act::ResumeBackfill(which),
            2 => Act::EditBackfill(which, dice.between(1, 4) as u32),
            3 => Act::CancelBackfill(which),
            4 => Act::StopRun(which),
            5 | 6 => Act::StopTask(which, position),
            7 | 8 => Act::Retry(which),
            9..=11 => Act::RetryTask(which, dice.pick(&[Position::Done, Position::Done, Position::Held])),
            12 => Act::RetryWithCode(which),
            13..=17 => Act::Mark(which, dice.pick(&Position::ALL), dice.pick(&Ending::ALL)),
            18..=20 => Act::HoldTask(which, dice.pick(&BEFORE)),
            21 | 22 => Act::ReleaseTask(which),
            23 => Act::HoldRun(which),
            24 => Act::ReleaseRun(which),
            25..=27 => Act::Disable(which, dice.pick(&BEFORE)),
            28 => Act::Enable(which),
            29 | 30 => Act::Reload(which),
            31 => Act::Pause(workflow),
            32 => Act::Resume(workflow),
            33 => Act::Deploy { workflow, later: dice.percent(50) },
            34 => Act::HoldScope { scope: which, abort: dice.percent(30) },
            35 => Act::ReleaseScope(which),
            36 => Act::Pool { project, pool: dice.below(2), slots: dice.percent(80).then(|| dice.below(5) as u32) },
            37 => Act::Quota { project, slots: dice.percent(60).then(|| dice.between(1, 6) as u32) },
            38 => Act::Drain(which),
            _ => Act::WorkerComes { slots: dice.between(1, 4) as u32, label: dice.percent(50) },
        }
    }

    fn at(&mut self, dice: &mut Dice, within: Duration, what: Act) {
        let at = Duration::from_millis(dice.below(within.as_millis() as usize) as u64);
        self.deeds.push(Deed { at, what });
    }

    /// Tasks of runs that are asked for.
    pub fn tasks(&self) -> usize {
        let jobs = |workflow: usize| self.workflows[workflow].jobs.len();
        let of = |deed: &Deed| match deed.what {
            Act::Run { workflow, .. } => jobs(workflow),
            Act::Backfill { workflow, days, .. } => jobs(workflow) * days as usize,
            _ => 0,
        };
        self.deeds.iter().map(of).sum()
    }

    pub fn faults(&self) -> usize {
        let troubles = self.workflows.iter().flat_map(|workflow| &workflow.jobs).flat_map(|job| &job.troubles);
        let troubles = troubles.filter(|trouble| **trouble != Trouble::None).count();
        self.deeds.iter().filter(|deed| deed.what.is_fault()).count() + troubles
    }

    pub fn project(&self, workflow: usize) -> ProjectName {
        project_name(self.workflows[workflow].project)
    }

    /// The documents of all workflows in both versions.
    pub fn documents(&self) -> BTreeMap<Sha, Arc<Document>> {
        let mut documents = BTreeMap::new();
        for workflow in 0..self.workflows.len() {
            for later in [false, true] {
                documents.insert(version(workflow, later), Arc::new(self.document(workflow, later)));
            }
        }
        documents
    }

    fn document(&self, workflow: usize, later: bool) -> Document {
        let plan = &self.workflows[workflow];
        let jobs = plan.jobs.iter().enumerate().map(|(ix, job)| job.job(ix, later)).collect();
        Document {
            format: FORMAT,
            workflow: workflow_name(workflow),
            description: None,
            owner: None,
            params: BTreeMap::new(),
            schedule: plan.schedule.clone(),
            overrun: plan.overrun,
            max_active: Some(plan.max_active),
            concurrency: plan.concurrency,
            sla_seconds: None,
            notify: Default::default(),
            source: Source::default(),
            jobs,
        }
    }
}

/// The version of a workflow; which bytes it is the digest of is of no interest.
pub fn version(workflow: usize, later: bool) -> Sha {
    static VERSIONS: LazyLock<Vec<[Sha; 2]>> =
        LazyLock::new(|| (0..8).map(|ix| [Sha::of(&[ix, 0]), Sha::of(&[ix, 1])]).collect());
    VERSIONS[workflow][usize::from(later)]
}

pub fn project_name(project: usize) -> ProjectName {
    ["one", "two"][project].parse().expect("it is a name")
}

pub fn workflow_name(workflow: usize) -> WorkflowName {
    format!("w{workflow}").parse().expect("it is a name")
}

fn workflow(dice: &mut Dice) -> WorkflowPlan {
    let jobs = (0..dice.between(2, 12) as usize).map(|ix| job(dice, ix)).collect();
    let schedule = dice.percent(60).then(|| {
        let fires = match dice.below(4) {
            0 => Fires::Cron("0 * * * *".to_owned()),
            1 => Fires::Cron("30 */2 * * *".to_owned()),
            _ => Fires::Every(dice.pick(&[1800, 3600, 7200, 10_800])),
        };
        let tz = dice.pick(&["UTC", "America/New_York", "Europe/Berlin"]).to_owned();
        let catch_up = dice.pick(&[CatchUp::None, CatchUp::Latest, CatchUp::Latest, CatchUp::All]);
        let covers = dice.pick(&[Covers::BetweenFires, Covers::BetweenFires, Covers::Hour]);
        let jitter_seconds = if dice.percent(25) { 600 } else { 0 };
        Schedule { tz, covers, catch_up, jitter_seconds, ..Schedule::new(fires) }
    });
    WorkflowPlan {
        project: dice.below(PROJECTS),
        jobs,
        schedule,
        overrun: dice.pick(&OVERRUNS),
        max_active: dice.between(1, 3) as u32,
        concurrency: dice.percent(20).then(|| dice.between(1, 3) as u32),
    }
}

fn job(dice: &mut Dice, ix: usize) -> JobPlan {
    let parents = |dice: &mut Dice| {
        let mut after: Vec<usize> = (0..dice.below(4)).filter(|_| ix > 0).map(|_| dice.below(ix)).collect();
        after.sort_unstable();
        after.dedup();
        after
    };
    let after = parents(dice);
    let after_later = if dice.percent(30) { parents(dice) } else { after.clone() };
    let mapped = dice.percent(15);
    let rules = [RunIf::AllSucceeded, RunIf::AllSucceeded, RunIf::AllDone, RunIf::AnyFailed, RunIf::NoneFailed];
    let troubles = if dice.percent(35) { (0..dice.between(1, 4)).map(|_| trouble(dice)).collect() } else { Vec::new() };
    JobPlan {
        after,
        after_later,
        map: [0, 1].map(|_| mapped && dice.percent(90)),
        run_if: dice.pick(&rules),
        retries: dice.below(3) as u32,
        retry_delay: dice.pick(&[0, 1, 30, 900]),
        may_fail: dice.percent(15),
        engine: dice.percent(25),
        writes: dice.percent(40),
        pools: [0, 1].map(|_| if dice.percent(12) { dice.between(1, 3) as u32 } else { 0 }),
        concurrency: dice.percent(8).then(|| dice.between(1, 2) as u32),
        key: dice.percent(8).then(|| dice.pick(&["customer", "{{ ds }}"])),
        label: dice.percent(8),
        priority: dice.below(3) as i32 - 1,
        warn: dice.percent(10).then(|| dice.between(1, 600) as u32),
        timeout: dice.percent(15).then(|| dice.between(60, 3000) as u32),
        waits: if dice.percent(15) { (0..dice.between(1, 3)).map(|_| wait(dice)).collect() } else { Vec::new() },
        troubles,
    }
}

fn wait(dice: &mut Dice) -> WaitPlan {
    let look = dice.pick(&[0, 0, 0, 0, 1, 2]);
    WaitPlan {
        vain: dice.percent(85).then(|| dice.below(12) as u32),
        look: [Look::Met, Look::Never, Look::Wrong][look].clone(),
        every: dice.pick(&[5, 60, 600]),
        patience: dice.pick(&[60, 1800, 14_400]),
        skips: dice.percent(40),
    }
}

fn trouble(dice: &mut Dice) -> Trouble {
    let fault = dice.pick(&FAULTS);
    match dice.below(14) {
        0 => Trouble::Setup(fault),
        1..=4 => Trouble::Execute(fault),
        5 => Trouble::Later,
        6 => Trouble::Never,
        7 | 8 => Trouble::Engine(fault),
        9 => Trouble::Complete(fault),
        10 => Trouble::Cleanup,
        11 => Trouble::Conflicts(dice.between(1, 12) as u8),
        12 => Trouble::Hangs,
        _ => Trouble::None,
    }
}

impl WaitPlan {
    fn condition(&self) -> Condition {
        Condition {
            that: That::File { path: "in.csv".to_owned() },
            timeout_seconds: Some(f64::from(self.patience)),
            every_seconds: Some(f64::from(self.every)),
            otherwise: if self.skips { Otherwise::Skip } else { Otherwise::Fail },
        }
    }
}

impl JobPlan {
    fn job(&self, ix: usize, later: bool) -> Job {
        static PLAIN: LazyLock<Job> = LazyLock::new(|| {
            let job = json!({"name": "j", "kind": "class", "class": "jobs.x.y"});
            serde_json::from_value(job).expect("it is a job")
        });
        let name = |ix: usize| format!("j{ix}").parse().expect("it is a name");
        let after = if later { &self.after_later } else { &self.after };
        let pools = POOLS.iter().zip(self.pools).filter(|(_, slots)| *slots > 0);
        Job {
            name: name(ix),
            after: after.iter().map(|ix| name(*ix)).collect(),
            map: after.first().filter(|_| self.map[usize::from(later)]).map(|ix| MapOver {
                job: name(*ix),
                output: LIST.parse().expect("it is a name"),
                max_instances: None,
            }),
            run_if: self.run_if,
            retries: self.retries,
            retry_delay_seconds: Some(f64::from(self.retry_delay)),
            may_fail: self.may_fail,
            warn_after_seconds: self.warn.map(f64::from),
            timeout_seconds: self.timeout.map(f64::from),
            writes: self.writes.then(|| {
                vec![DeclaredWrites { table: format!("t.j{ix}"), partition: BTreeMap::new(), mode: Default::default() }]
            }),
            priority: self.priority,
            pools: pools.map(|(pool, slots)| (pool.parse().expect("it is a name"), slots)).collect(),
            concurrency: self.concurrency,
            key: self.key.map(str::to_owned),
            wait_for: self.waits.iter().map(WaitPlan::condition).collect(),
            labels: if self.label { vec![LABEL.to_owned()] } else { Vec::new() },
            ..PLAIN.clone()
        }
    }
}
