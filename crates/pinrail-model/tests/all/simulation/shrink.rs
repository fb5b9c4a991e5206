//! Makes a failing case smaller, as long as it fails.

use super::case::{Case, Trouble};
use super::world::play;

/// Attempts at making a case smaller; each plays it once.
const MOST_TRIES: usize = 600;

/// The smallest case found that breaks a rule.
pub fn shrink(case: &Case) -> Case {
    let mut least = case.clone();
    let mut tries = 0;
    loop {
        let before = size(&least);
        halves(&mut least, &mut tries);
        for candidate in simpler(&least) {
            try_one(&mut least, candidate, &mut tries);
        }
        if size(&least) == before || tries >= MOST_TRIES {
            return least;
        }
    }
}

fn fails(case: &Case) -> bool {
    play(case, false).is_err()
}

fn try_one(least: &mut Case, candidate: Case, tries: &mut usize) -> bool {
    *tries += 1;
    let better = *tries < MOST_TRIES && size(&candidate) < size(least) && fails(&candidate);
    if better {
        *least = candidate;
    }
    better
}

/// Leaves out ever smaller stretches of deeds.
fn halves(least: &mut Case, tries: &mut usize) {
    let mut length = least.deeds.len();
    while length > 0 {
        let mut from = 0;
        while from < least.deeds.len() {
            let mut candidate = least.clone();
            let to = (from + length).min(candidate.deeds.len());
            candidate.deeds.drain(from..to);
            if !try_one(least, candidate, tries) {
                from += length;
            }
        }
        length /= 2;
    }
}

/// The case with one thing less.
fn simpler(case: &Case) -> Vec<Case> {
    let mut cases = Vec::new();
    let mut with = |change: &dyn Fn(&mut Case)| {
        let mut candidate = case.clone();
        change(&mut candidate);
        cases.push(candidate);
    };
    with(&|case| case.workers.truncate(1));
    with(&|case| case.quotas.iter_mut().for_each(|quota| *quota = None));
    for workflow in 0..case.workflows.len() {
        with(&|case| case.workflows[workflow].schedule = None);
        with(&|case| case.workflows[workflow].concurrency = None);
        let jobs = case.workflows[workflow].jobs.len();
        for keep in [jobs / 2, jobs.saturating_sub(1)] {
            with(&|case| case.workflows[workflow].jobs.truncate(keep.max(1)));
        }
        for job in 0..jobs {
            with(&|case| case.workflows[workflow].jobs[job].troubles.clear());
            with(&|case| case.workflows[workflow].jobs[job].after.clear());
            with(&|case| case.workflows[workflow].jobs[job].waits.truncate(1));
            with(&|case| case.workflows[workflow].jobs[job].waits.clear());
            with(&|case| case.workflows[workflow].jobs[job].map = [false; 2]);
            with(&|case| {
                let job = &mut case.workflows[workflow].jobs[job];
                job.after_later.clone_from(&job.after);
            });
            with(&|case| {
                let job = &mut case.workflows[workflow].jobs[job];
                (job.pools, job.concurrency, job.key, job.label) = ([0, 0], None, None, false);
            });
            with(&|case| {
                let job = &mut case.workflows[workflow].jobs[job];
                (job.engine, job.writes, job.timeout, job.warn, job.retries) = (false, false, None, None, 0);
            });
        }
    }
    cases
}

/// How much there is to a case.
fn size(case: &Case) -> usize {
    let jobs = case.workflows.iter().flat_map(|workflow| &workflow.jobs);
    let of_job = |job: &super::case::JobPlan| {
        let limits = usize::from(job.concurrency.is_some()) + usize::from(job.key.is_some()) + usize::from(job.label);
        let kinds = usize::from(job.engine) + usize::from(job.writes) + job.retries as usize;
        let times = usize::from(job.warn.is_some()) + usize::from(job.timeout.is_some());
        let pools = job.pools.iter().filter(|slots| **slots > 0).count();
        let troubles = job.troubles.iter().filter(|trouble| **trouble != Trouble::None).count();
        let later = usize::from(job.after_later != job.after);
        let maps = job.map.iter().filter(|map| **map).count();
        1 + job.after.len()
            + later
            + maps
            + limits
            + kinds
            + times
            + pools
            + troubles
            + job.troubles.len()
            + 2 * job.waits.len()
    };
    let of_workflow = |plan: &super::case::WorkflowPlan| {
        4 * usize::from(plan.schedule.is_some()) + usize::from(plan.concurrency.is_some())
    };
    let quotas = case.quotas.iter().flatten().count();
    jobs.map(of_job).sum::<usize>()
        + case.workflows.iter().map(of_workflow).sum::<usize>()
        + case.workers.len()
        + quotas
        + 4 * case.deeds.len()
}
