//! Jobs that fail, each in its way, with what is said of them.

/// A job that fails.
pub struct Failing {
    pub job: &'static str,
    /// What stands in its template beside its name.
    pub template: &'static str,
    pub reason: &'static str,
    pub fault: &'static str,
    pub text: &'static str,
}

/// The module of the Python jobs.
pub const MODULE: &str = "\
import os
import signal
import sys
import time

from pinrail import Shell, UserError


def exception(ctx):
    rows = []
    return rows[3]


def said(ctx):
    raise UserError('data/orders.csv is missing', hint='export it from the shop')


def check(ctx):
    ctx.check('enough orders', False, detail='3, expected 100 or more')


def leave(ctx):
    sys.exit(4)


def kill(ctx):
    os.kill(os.getpid(), signal.SIGKILL)


def sleep(ctx):
    time.sleep(600)


def grasp(ctx):
    raise MemoryError


def quit(ctx):
    os._exit(0)


def quit_badly(ctx):
    os._exit(3)


def read(ctx):
    return ctx.file('data/absent.csv').read_text()


def give(ctx):
    return {1, 2}


def command(ctx):
    return Shell(['sh', '-c', 'echo no luck >&2; exit 5'])


class Published:
    def execute(self, ctx):
        return 112

    def complete(self, ctx, result):
        ctx.check('enough rows', result > 1000, detail=f'{result} rows')


class Prepared:
    def setup(self, ctx):
        raise ValueError('no such day')

    def execute(self, ctx):
        pass
";

/// Each in its way.
pub const FAILING: &[Failing] = &[
    Failing {
        job: "exception",
        template: "class_='jobs.fail.exception'",
        reason: "exception",
        fault: "user",
        text: "",
    },
    Failing { job: "said", template: "class_='jobs.fail.said'", reason: "said", fault: "user", text: "" },
    Failing { job: "check", template: "class_='jobs.fail.check'", reason: "check-failed", fault: "data", text: "" },
    Failing {
        job: "check-in-complete",
        template: "class_='jobs.fail.Published'",
        reason: "check-failed",
        fault: "data",
        text: "",
    },
    Failing { job: "in-setup", template: "class_='jobs.fail.Prepared'", reason: "exception", fault: "user", text: "" },
    Failing {
        job: "exit-code",
        template: "shell='echo no orders >&2; exit 3'",
        reason: "exit-code",
        fault: "user",
        text: "",
    },
    Failing { job: "sys-exit", template: "class_='jobs.fail.leave'", reason: "exit-code", fault: "user", text: "" },
    Failing {
        job: "not-found",
        template: "shell='no-such-program-here'",
        reason: "command-not-found",
        fault: "user",
        text: "",
    },
    Failing { job: "refused", template: "shell=['./absent']", reason: "command-refused", fault: "user", text: "" },
    Failing { job: "crashed", template: "shell='kill -SEGV $$'", reason: "crashed", fault: "user", text: "" },
    Failing { job: "killed", template: "shell='kill -KILL $$'", reason: "killed", fault: "unknown", text: "" },
    Failing { job: "killed-python", template: "class_='jobs.fail.kill'", reason: "killed", fault: "unknown", text: "" },
    Failing {
        job: "slow",
        template: "shell='sleep 600', timeout='500ms'",
        reason: "time-limit",
        fault: "timeout",
        text: "",
    },
    Failing {
        job: "slow-python",
        template: "class_='jobs.fail.sleep', timeout='500ms'",
        reason: "time-limit",
        fault: "timeout",
        text: "",
    },
    Failing {
        job: "large",
        template: r#"shell='python3 -c "import time; kept = bytes(1) * 300_000_000; time.sleep(600)"', memory='50MB'"#,
        reason: "memory-limit",
        fault: "out-of-memory",
        text: "",
    },
    Failing {
        job: "memory-error",
        template: "class_='jobs.fail.grasp'",
        reason: "memory-error",
        fault: "out-of-memory",
        text: "",
    },
    Failing { job: "ended-early", template: "class_='jobs.fail.quit'", reason: "ended-early", fault: "user", text: "" },
    Failing {
        job: "ended-with-code",
        template: "class_='jobs.fail.quit_badly'",
        reason: "exit-code",
        fault: "user",
        text: "",
    },
    Failing {
        job: "secret",
        template: "shell='true', secrets=['ftp']",
        reason: "secret-missing",
        fault: "user",
        text: "",
    },
    Failing { job: "import", template: "class_='jobs.broken.job'", reason: "exception", fault: "user", text: "" },
    Failing { job: "no-file", template: "class_='jobs.fail.read'", reason: "exception", fault: "user", text: "" },
    Failing { job: "not-json", template: "class_='jobs.fail.give'", reason: "said", fault: "user", text: "" },
    Failing { job: "engine", template: "class_='jobs.fail.command'", reason: "exit-code", fault: "user", text: "" },
    Failing { job: "permanent", template: "shell='exit 76', retries=3", reason: "exit-code", fault: "user", text: "" },
];
