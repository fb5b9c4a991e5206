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
        text: r"
  exception failed in execute · attempt 1 of 1 · fault user
    IndexError: list index out of range
    your code   jobs/fail.py:11  return rows[3]
    next        fix the file, then: pinrail retry K3F9 --code folder",
    },
    Failing {
        job: "said",
        template: "class_='jobs.fail.said'",
        reason: "said",
        fault: "user",
        text: r"
  said failed in execute · attempt 1 of 1 · fault user
    data/orders.csv is missing
    your code   jobs/fail.py:15  raise UserError('data/orders.csv is missing', hint='export it from the shop')
    remedy      export it from the shop
    next        pinrail retry K3F9 --code folder",
    },
    Failing {
        job: "check",
        template: "class_='jobs.fail.check'",
        reason: "check-failed",
        fault: "data",
        text: r#"
  check failed in execute · attempt 1 of 1 · fault data: a retry will not help
    check "enough orders" failed: 3, expected 100 or more
    your code   jobs/fail.py:19  ctx.check('enough orders', False, detail='3, expected 100 or more')
    remedy      Mend the data, or the check if it asks for too much.
    next        fix the file, then: pinrail retry K3F9"#,
    },
    Failing {
        job: "check-in-complete",
        template: "class_='jobs.fail.Published'",
        reason: "check-failed",
        fault: "data",
        text: r#"
  check-in-complete failed in complete · attempt 1 of 1 · fault data: a retry will not help
    check "enough rows" failed: 112 rows
    your code   jobs/fail.py:63  ctx.check('enough rows', result > 1000, detail=f'{result} rows')
    remedy      Mend the data, or the check if it asks for too much.
    next        fix the file, then: pinrail retry K3F9"#,
    },
    Failing {
        job: "in-setup",
        template: "class_='jobs.fail.Prepared'",
        reason: "exception",
        fault: "user",
        text: r"
  in-setup failed in setup · attempt 1 of 1 · fault user
    ValueError: no such day
    your code   jobs/fail.py:68  raise ValueError('no such day')
    next        fix the file, then: pinrail retry K3F9 --code folder",
    },
    Failing {
        job: "exit-code",
        template: "shell='echo no orders >&2; exit 3'",
        reason: "exit-code",
        fault: "user",
        text: r"
  exit-code failed in execute · attempt 1 of 1 · fault user
    the job ended with exit code 3
    exit code   3
    stderr      no orders
    next        fix the file, then: pinrail retry K3F9 --code folder",
    },
    Failing {
        job: "sys-exit",
        template: "class_='jobs.fail.leave'",
        reason: "exit-code",
        fault: "user",
        text: r"
  sys-exit failed in execute · attempt 1 of 1 · fault user
    execute exited with 4
    your code   jobs/fail.py:23  sys.exit(4)
    exit code   4
    next        fix the file, then: pinrail retry K3F9 --code folder",
    },
    Failing {
        job: "not-found",
        template: "shell='no-such-program-here'",
        reason: "command-not-found",
        fault: "user",
        text: r"
  not-found failed in execute · attempt 1 of 1 · fault user
    the job ended with exit code 127
    exit code   127
    stderr      sh: 1: no-such-program-here: not found
    remedy      Check the program's name and the `PATH` that the command has.
    next        fix the file, then: pinrail retry K3F9 --code folder",
    },
    Failing {
        job: "refused",
        template: "shell=['./absent']",
        reason: "command-refused",
        fault: "user",
        text: r#"
  refused failed in execute · attempt 1 of 1 · fault user
    "./absent" cannot be started: No such file or directory (os error 2)
    remedy      Check the command's name, its path and that it may be executed.
    next        fix the file, then: pinrail retry K3F9 --code folder"#,
    },
    Failing {
        job: "crashed",
        template: "shell='kill -SEGV $$'",
        reason: "crashed",
        fault: "user",
        text: r"
  crashed failed in execute · attempt 1 of 1 · fault user
    the job crashed with SIGSEGV
    signal      SIGSEGV
    remedy      Look for compiled code that it loads: a library of another version, or a bug of it.
    next        fix the file, then: pinrail retry K3F9 --code folder",
    },
    Failing {
        job: "killed",
        template: "shell='kill -KILL $$'",
        reason: "killed",
        fault: "unknown",
        text: r"
  killed failed in execute · attempt 1 of 1 · fault unknown
    the job was killed with SIGKILL by somebody other than pinrail
    signal      SIGKILL
    remedy      Look at the machine: its memory, its log, and who else works on it.
    next        pinrail retry K3F9",
    },
    Failing {
        job: "killed-python",
        template: "class_='jobs.fail.kill'",
        reason: "killed",
        fault: "unknown",
        text: r"
  killed-python failed in execute · attempt 1 of 1 · fault unknown
    the job was killed with SIGKILL by somebody other than pinrail
    signal      SIGKILL
    remedy      Look at the machine: its memory, its log, and who else works on it.
    next        pinrail retry K3F9",
    },
    Failing {
        job: "slow",
        template: "shell='sleep 600', timeout='500ms'",
        reason: "time-limit",
        fault: "timeout",
        text: r"
  slow failed in execute · attempt 1 of 1 · fault timeout
    the job exceeded its time limit of 0.5 s
    remedy      Make it faster, or raise `timeout` in its template.
    next        pinrail retry K3F9 --code folder",
    },
    Failing {
        job: "slow-python",
        template: "class_='jobs.fail.sleep', timeout='500ms'",
        reason: "time-limit",
        fault: "timeout",
        text: r"
  slow-python failed in execute · attempt 1 of 1 · fault timeout
    the job exceeded its time limit of 0.5 s
    remedy      Make it faster, or raise `timeout` in its template.
    next        pinrail retry K3F9 --code folder",
    },
    Failing {
        job: "large",
        template: r#"shell='python3 -c "import time; kept = bytes(1) * 300_000_000; time.sleep(600)"', memory='50MB'"#,
        reason: "memory-limit",
        fault: "out-of-memory",
        text: r"
  large failed in execute · attempt 1 of 1 · fault out-of-memory: a retry will not help
    the job used N MiB of memory, more than its limit of 47 MiB
    bytes       N
    limit       50000000
    remedy      Use less memory, or raise `memory` in its template.
    next        pinrail retry K3F9 --code folder",
    },
    Failing {
        job: "memory-error",
        template: "class_='jobs.fail.grasp'",
        reason: "memory-error",
        fault: "out-of-memory",
        text: r"
  memory-error failed in execute · attempt 1 of 1 · fault out-of-memory: a retry will not help
    out of memory
    your code   jobs/fail.py:35  raise MemoryError
    remedy      Use less memory at once, or raise `memory` in its template.
    next        pinrail retry K3F9 --code folder",
    },
    Failing {
        job: "ended-early",
        template: "class_='jobs.fail.quit'",
        reason: "ended-early",
        fault: "user",
        text: r"
  ended-early failed in execute · attempt 1 of 1 · fault user
    the job's process ended before its phases had returned
    remedy      Look into the log; a job must not call os._exit nor close descriptors that it did not open.
    next        fix the file, then: pinrail retry K3F9 --code folder",
    },
    Failing {
        job: "ended-with-code",
        template: "class_='jobs.fail.quit_badly'",
        reason: "exit-code",
        fault: "user",
        text: r"
  ended-with-code failed in execute · attempt 1 of 1 · fault user
    the job ended with exit code 3
    exit code   3
    remedy      Look into the log; a job must not call os._exit nor close descriptors that it did not open.
    next        pinrail retry K3F9 --code folder",
    },
    Failing {
        job: "secret",
        template: "shell='true', secrets=['ftp']",
        reason: "secret-missing",
        fault: "user",
        text: r#"
  secret failed in setup · attempt 1 of 1 · fault user
    secret "ftp" is not set in project "demo"
    remedy      Set it with `pinrail secret set ftp` (the value is read from standard input), then retry.
    next        pinrail retry K3F9 --code folder"#,
    },
    Failing {
        job: "import",
        template: "class_='jobs.broken.job'",
        reason: "exception",
        fault: "user",
        text: r"
  import failed in setup · attempt 1 of 1 · fault user
    ModuleNotFoundError: No module named 'not_there'
    your code   jobs/broken.py:1  import not_there
    next        fix the file, then: pinrail retry K3F9 --code folder
  cleanup of import failed: ModuleNotFoundError: No module named 'not_there'
    next        pinrail logs K3F9 --job import",
    },
    Failing {
        job: "no-file",
        template: "class_='jobs.fail.read'",
        reason: "exception",
        fault: "user",
        text: r"
  no-file failed in execute · attempt 1 of 1 · fault user
    FileNotFoundError: [Errno 2] No such file or directory: '/home/anna/demo/data/absent.csv'
    your code   jobs/fail.py:47  return ctx.file('data/absent.csv').read_text()
    next        fix the file, then: pinrail retry K3F9 --code folder",
    },
    Failing {
        job: "not-json",
        template: "class_='jobs.fail.give'",
        reason: "said",
        fault: "user",
        text: r"
  not-json failed in execute · attempt 1 of 1 · fault user
    execute returned what is not a JSON value: set is not a JSON value
    remedy      return numbers, texts, lists and dicts; write rows to a table and files with ctx.save
    next        pinrail retry K3F9 --code folder",
    },
    Failing {
        job: "engine",
        template: "class_='jobs.fail.command'",
        reason: "exit-code",
        fault: "user",
        text: r"
  engine failed in execute · attempt 1 of 1 · fault user
    the job ended with exit code 5
    exit code   5
    stderr      no luck
    next        fix the file, then: pinrail retry K3F9 --code folder",
    },
    Failing {
        job: "permanent",
        template: "shell='exit 76', retries=3",
        reason: "exit-code",
        fault: "user",
        text: r"
  permanent failed in execute · attempt 1 of 4 · fault user
    the job ended with exit code 76
    exit code   76
    next        fix the file, then: pinrail retry K3F9 --code folder",
    },
];
