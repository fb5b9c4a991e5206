//! What each code of an explanation means and what to do about it, for the page of all codes.

/// A code with what it means and what to do about it: a sentence each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Code {
    pub code: &'static str,
    pub meaning: &'static str,
    pub remedy: &'static str,
}

const fn code(code: &'static str, meaning: &'static str, remedy: &'static str) -> Code {
    Code { code, meaning, remedy }
}

/// The codes of [`super::Why`], in its order.
pub const CODES: &[Code] = &[
    code(
        "waiting-for-jobs",
        "Jobs that it waits for have not ended.",
        "Explain the job that it waits for, with `pinrail explain RUN --job JOB`.",
    ),
    code(
        "waiting-for-conditions",
        "A condition of `wait_for=` is not met yet.",
        "See to what it waits for; `pinrail release RUN --job JOB` lets the job go on without it.",
    ),
    code(
        "waiting-for-slot",
        "Every worker slot that new work may take is held.",
        "Wait, or add slots: another worker with `pinrail work`, or the server again with `pinrail up --slots N`.",
    ),
    code(
        "waiting-for-limit",
        "A pool, a quota, a `concurrency` or a `key` that it needs has no room.",
        "Wait for the holders that are named, or give it more room with the command that is named.",
    ),
    code(
        "waiting-for-worker",
        "No worker that has its labels has a free slot.",
        "Start a worker with these labels, or take the labels from its template.",
    ),
    code(
        "held-by-scope",
        "A person holds its workflow, its project or the platform: nothing new in it begins.",
        "Ask that person, or let it go with the command that is named.",
    ),
    code("run-held", "A person holds its run.", "Ask that person, or `pinrail release RUN`."),
    code(
        "waiting-for-interval",
        "Its run has not begun: another one of the same workflow for the same interval is under way.",
        "Wait for that run, or cancel it.",
    ),
    code(
        "waiting-for-runs",
        "Its run has not begun: as many of its schedule as may be are under way.",
        "Wait for those runs, or choose another `overrun` or a higher `max_active`.",
    ),
    code(
        "waiting-for-success",
        "Its run has not begun: the run before failed, and `overrun` is `delay-until-success`.",
        "Mend the failed run and retry it, or mark it as succeeded.",
    ),
    code(
        "waiting-in-backfill",
        "Its run has not begun: its turn in its backfill is still to come.",
        "Wait, or let more of its runs be under way: `pinrail backfills edit ID --concurrency N`.",
    ),
    code(
        "waiting-for-workflow",
        "Its work is a run of another workflow, which is not over.",
        "Explain that run, with the command that is named; `pinrail cancel RUN --job JOB` ends both.",
    ),
    code(
        "waiting-to-finish",
        "It has a result to finish or a cleanup to do, and waits for the next free slot, before all new work.",
        "Wait: it is next.",
    ),
    code(
        "backing-off",
        "It failed and will be tried again at the time that is named.",
        "Wait, or cancel it and retry it when its cause is mended.",
    ),
    code(
        "held",
        "It does not begin: a person holds it, or it took down whatever ran it and a person must look.",
        "Let it go with `pinrail release RUN --job JOB`, or look at the machine and retry it.",
    ),
    code(
        "waiting-for-server",
        "The server that worked on it is gone, and the one that answers does not go on with it.",
        "`pinrail up` goes on with it.",
    ),
    code("working", "It is being worked on.", "Wait, or follow it with `pinrail logs RUN --job JOB -f`."),
    code(
        "ending-badly",
        "Its last attempt has failed and is being cleaned up.",
        "Wait for the end of cleanup; the failure is told of already.",
    ),
    code("failed", "It failed and is not tried again.", "Do what the remedy says, then `pinrail retry`."),
    code("cancelled", "A person or program stopped it.", "`pinrail retry RUN` when it is to run again."),
    code(
        "upstream-failed",
        "A job that it waits for did not succeed.",
        "Explain that job; a retry of the run takes this one along.",
    ),
    code("skipped", "Its trigger rule (`run_if`) was not met, or a person skipped it.", "Nothing, if that was meant."),
    code("ended", "It is over; its state says how.", "Nothing."),
];
