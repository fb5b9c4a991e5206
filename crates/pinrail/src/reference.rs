//! The reference of everything that can be set, and of every limit: docs/generated/configuration.md.
//!
//! What the code declares is read from it: sections of `pinrail.toml`, options of the command line, settings of
//! templates, and the named limits, whose values and reasons are those of their constants in the source.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use clap::CommandFactory;
use pinrail_service::project::SECTIONS;

use crate::cli::Cli;

const PAGE: &str = "docs/generated/configuration.md";
const HEAD: &str =
    "# Configuration and limits\n\nGenerated from the code; `PINRAIL_UPDATE=1 cargo test -p pinrail` writes it anew.\n";

/// Environment variables that no option of the command line stands for.
const ENVIRONMENT: &[(&str, &[(&str, &str)])] = &[
    (
        "Read by commands",
        &[
            ("PINRAIL_PYTHON", "The Python interpreter of projects that name none; without it `python3`"),
            (
                "PINRAIL_ENVIRONMENTS",
                "Where Python environments are built and found; without it `environments/` in the state folder. `pinrail test` \
                 sets it, so that the throw-away state folders of tests share those of the project",
            ),
            ("PINRAIL_LOG", "What servers and commands tell on standard error, such as `info`; without it `warn`"),
            ("PINRAIL_BIN", "The `pinrail` binary that `pinrail.testing` runs; without it the one on `PATH`"),
            ("NO_COLOR", "Set to anything: no colours"),
            ("PINRAIL_SMTP_URL", "The mail server for notices, such as `smtps://user:password@mail.example.org`"),
            ("PINRAIL_SMTP_FROM", "Whom letters are from, such as `pinrail@example.org`"),
            ("PINRAIL_PUBLIC_URL", "Where people reach the server, for links in notices; without it where it listens"),
            ("XDG_CONFIG_HOME", "Where `pinrail login` keeps tokens, in `pinrail/`; without it `~/.config`"),
            (
                "XDG_STATE_HOME",
                "Where `pinrail work` keeps code and scratch files, in `pinrail/`; without it `~/.local/state`",
            ),
            ("XDG_CACHE_HOME", "Where `pinrail open` puts files for the browser, in `pinrail/`; without it `~/.cache`"),
        ],
    ),
    (
        "Set for commands of an attempt",
        &[
            ("PINRAIL_RUN", "The id of the run"),
            ("PINRAIL_ATTEMPT", "The id of the attempt"),
            ("PINRAIL_DS", "The run's local date"),
            ("PINRAIL_ITEM", "What an instance of a mapped job works on: a text as it is, anything else as JSON"),
            ("PINRAIL_INDEX", "Which instance of a mapped job it is, from 0"),
            ("PINRAIL_INTERVAL_START", "The begin of the data interval, in UTC"),
            ("PINRAIL_INTERVAL_END", "The end of the data interval, which is not included, in UTC"),
            ("PINRAIL_PARAM_", "Followed by a parameter's name in upper case, with `_` for `-`: its value"),
            ("PINRAIL_TARGET", "The target of the run, in a project that has targets"),
            ("PINRAIL_VAR_", "Followed by the name of a variable of the target, as for parameters: its value"),
            ("TMPDIR", "The attempt's scratch folder"),
            ("PINRAIL_INSTALLATION", "The id of the state folder; at a worker, of its session there"),
            ("PINRAIL_SOCKET", "How `pinrail output`, `save` and `secret read` reach the server"),
        ],
    ),
    (
        "For those who work on Pinrail",
        &[
            ("PINRAIL_DIE_AT", "The named step at which the process kills itself, for tests of crashes"),
            ("PINRAIL_STEPS", "A file to which the passed steps are added"),
            ("PINRAIL_UPDATE", "Set to anything: tests write generated files anew"),
            ("PINRAIL_RUNNER_FD", "The descriptor over which a job's process speaks with the server"),
            ("PINRAIL_WARM_FD", "The descriptor over which a warm process does"),
        ],
    ),
];

/// The limits that people can meet, by topic: where each constant stands.
const LIMITS: &[(&str, &[(&str, &str)])] = &[
    (
        "Definitions",
        &[
            ("crates/pinrail-model/src/names.rs", "LONGEST_NAME"),
            ("crates/pinrail-model/src/names.rs", "LONGEST_TABLE_NAME"),
            ("crates/pinrail-model/src/document.rs", "MOST_JOBS"),
            ("crates/pinrail-service/src/compile.rs", "LIMIT"),
            ("crates/pinrail-service/src/environments/build.rs", "LIMIT"),
            ("crates/pinrail-service/src/environments/build.rs", "MEMORY"),
            ("crates/pinrail-service/src/bundles.rs", "LARGEST"),
            ("crates/pinrail-service/src/app.rs", "LARGEST_PARAMS"),
        ],
    ),
    (
        "Jobs",
        &[
            ("crates/pinrail-model/src/document.rs", "FIRST_RETRY_DELAY"),
            ("crates/pinrail-model/src/document.rs", "LONGEST_RETRY_DELAY"),
            ("crates/pinrail-model/src/document.rs", "CLEANUP_TIMEOUT"),
            ("crates/pinrail-service/src/attempt.rs", "GRACE"),
            ("crates/pinrail-service/src/attempt.rs", "MOST_PREPARATIONS"),
            ("crates/pinrail-model/src/run/apply.rs", "MOST_OWNER_DEATHS"),
            ("crates/pinrail-model/src/admit.rs", "RESERVED"),
            ("crates/pinrail/src/server.rs", "MOST_WARM"),
            ("crates/pinrail/src/server.rs", "WARM_IDLE"),
            ("crates/pinrail-exec/src/launcher.rs", "TICK"),
            ("python/src/pinrail/_context.py", "VALUE_LIMIT"),
            ("python/src/pinrail/run.py", "RESULT_LIMIT"),
            ("crates/pinrail-exec/src/channel.rs", "LONGEST_LINE"),
            ("crates/pinrail-exec/src/channel.rs", "MOST_OUTPUTS"),
            ("crates/pinrail-service/src/sink.rs", "MOST_ROWS"),
            ("crates/pinrail-service/src/sink.rs", "MOST_COUNTERS"),
            ("crates/pinrail-service/src/secrets.rs", "LONGEST"),
            ("crates/pinrail-service/src/mask.rs", "SHORTEST"),
            ("crates/pinrail-service/src/logs.rs", "HEAD"),
            ("crates/pinrail-service/src/logs.rs", "SEGMENT"),
            ("crates/pinrail-service/src/logs.rs", "SEGMENTS"),
        ],
    ),
    (
        "Workers",
        &[
            ("crates/pinrail-service/src/workers.rs", "LEASE"),
            ("crates/pinrail-service/src/workers.rs", "MOST_LABELS"),
            ("crates/pinrail-service/src/work/outbox.rs", "MOST_WAITING"),
        ],
    ),
    (
        "Schedules and backfills",
        &[
            ("crates/pinrail-model/src/trigger.rs", "LATE"),
            ("crates/pinrail-model/src/trigger.rs", "MOST_ACTIVE"),
            ("crates/pinrail-model/src/backfill.rs", "MOST_RUNS"),
            ("crates/pinrail-model/src/backfill.rs", "CONCURRENCY"),
        ],
    ),
    (
        "SQL",
        &[
            ("crates/pinrail/src/lake.rs", "MOST_QUERIES"),
            ("crates/pinrail-lake/src/catalog.rs", "MEMORY"),
            ("crates/pinrail-lake/src/sql/parse.rs", "DEEPEST"),
            ("crates/pinrail-lake/src/sql/parse.rs", "LONGEST_CHAIN"),
            ("crates/pinrail-lake/src/files.rs", "MOST_FILES"),
            ("crates/pinrail-lake/src/files.rs", "LARGEST_ARRAY"),
            ("crates/pinrail-lake/src/csv.rs", "SAMPLE"),
            ("crates/pinrail-lake/src/csv.rs", "LONGEST_RECORD"),
            ("crates/pinrail-lake/src/write.rs", "FILE_SIZE"),
            ("crates/pinrail-service/src/queries.rs", "LARGEST_RESULT"),
        ],
    ),
    (
        "API",
        &[
            ("crates/pinrail-service/src/http/extract.rs", "LARGEST_BODY"),
            ("crates/pinrail-service/src/http/runs.rs", "LONGEST_WAIT"),
            ("crates/pinrail-service/src/http/page.rs", "PAGE"),
            ("crates/pinrail-service/src/http/page.rs", "LARGEST_PAGE"),
            ("crates/pinrail-service/src/http/attempts.rs", "LONGEST_PAGE"),
            ("crates/pinrail-service/src/http/stream.rs", "KEEP_ALIVE"),
        ],
    ),
    (
        "Notices",
        &[
            ("crates/pinrail-service/src/notify.rs", "LOOK"),
            ("crates/pinrail-service/src/notify.rs", "WATCH"),
            ("crates/pinrail-service/src/notify.rs", "AT_ONCE"),
            ("crates/pinrail-service/src/notify.rs", "FIRST_DELAY"),
            ("crates/pinrail-service/src/notify.rs", "LONGEST_DELAY"),
            ("crates/pinrail-service/src/notify.rs", "GIVE_UP"),
            ("crates/pinrail-service/src/notify/send.rs", "LIMIT"),
            ("crates/pinrail-service/src/notify/send.rs", "MAIL_LIMIT"),
            ("crates/pinrail-model/src/notify.rs", "SAMPLE"),
            ("crates/pinrail-model/src/notify.rs", "LEAST_SAMPLE"),
            ("crates/pinrail-model/src/notify.rs", "MOST_LINES"),
            ("crates/pinrail-model/src/notify.rs", "LONGEST_LINE"),
            ("crates/pinrail-service/src/channels.rs", "MOST_ADDRESSES"),
        ],
    ),
    (
        "Retention",
        &[
            ("crates/pinrail-service/src/retention.rs", "LOGS"),
            ("crates/pinrail-service/src/retention.rs", "FILES"),
            ("crates/pinrail-service/src/retention.rs", "EVENTS"),
            ("crates/pinrail-service/src/retention.rs", "COUNTERS"),
            ("crates/pinrail-service/src/retention.rs", "RUNS"),
            ("crates/pinrail-service/src/retention.rs", "TABLE_HISTORY"),
            ("crates/pinrail-service/src/retention.rs", "REPLAYS"),
            ("crates/pinrail-service/src/retention.rs", "TOKENS"),
            ("crates/pinrail-service/src/retention.rs", "QUERIES"),
            ("crates/pinrail-service/src/retention.rs", "NOTICES"),
            ("crates/pinrail-service/src/retention.rs", "RESULTS"),
            ("crates/pinrail-service/src/retention.rs", "BUNDLES"),
            ("crates/pinrail-service/src/retention.rs", "ENVIRONMENTS"),
            ("crates/pinrail-service/src/retention.rs", "ORPHANS"),
            ("crates/pinrail-service/src/retention.rs", "IDEMPOTENCY"),
            ("crates/pinrail-service/src/retention.rs", "GRACE"),
            ("crates/pinrail-service/src/retention.rs", "EVERY"),
            ("crates/pinrail-service/src/retention.rs", "AT_MOST_EVERY"),
        ],
    ),
];

#[test]
fn the_page_of_configuration_and_limits_is_current() {
    let mut page = HEAD.to_owned();
    project_file(&mut page);
    templates(&mut page);
    environment(&mut page);
    command_line(&mut page);
    limits(&mut page);
    let file = root().join(PAGE);
    if std::env::var_os("PINRAIL_UPDATE").is_some() {
        std::fs::write(&file, &page).unwrap();
    }
    let found = std::fs::read_to_string(&file).unwrap_or_default();
    assert!(found == page, "{PAGE} is not current; run PINRAIL_UPDATE=1 cargo test -p pinrail");
}

#[test]
fn every_environment_variable_is_in_the_reference() {
    let mut read = BTreeSet::new();
    for folder in ["crates", "python/src"] {
        sources(&root().join(folder), &mut |text| {
            let quoted = text.split(['"', '\'']).filter(|part| part.starts_with("PINRAIL_"));
            let is_name = |part: &&str| part.bytes().all(|b| b.is_ascii_uppercase() || b == b'_');
            read.extend(quoted.filter(is_name).map(str::to_owned));
        });
    }
    let mut told: BTreeSet<String> =
        ENVIRONMENT.iter().flat_map(|(_, names)| *names).map(|(name, _)| (*name).to_owned()).collect();
    told.extend(Cli::command().get_arguments().filter_map(|arg| Some(arg.get_env()?.to_string_lossy().into_owned())));
    // The names of parameters are the users' own.
    told.retain(|name| name.starts_with("PINRAIL_") && !name.ends_with('_'));
    read.retain(|name: &String| !name.ends_with('_'));
    assert_eq!(read, told);
}

#[test]
fn the_manual_has_every_setting_of_a_template() {
    let page = std::fs::read_to_string(root().join("docs/workflows.md")).unwrap();
    for line in settings().lines() {
        let name = line.split('|').nth(1).unwrap().trim();
        assert!(page.contains(name), "docs/workflows.md does not have the setting {name}");
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Visits the text of all sources below a folder but tests.
fn sources(folder: &Path, visit: &mut dyn FnMut(&str)) {
    for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let (path, name) = (entry.path(), entry.file_name().into_string().unwrap());
        if path.is_dir() {
            if name != "tests" && name != "__pycache__" {
                sources(&path, visit);
            }
        } else if (name.ends_with(".rs") || name.ends_with(".py")) && name != "reference.rs" {
            visit(&std::fs::read_to_string(&path).unwrap());
        }
    }
}

fn project_file(page: &mut String) {
    page.push_str(
        "\n## pinrail.toml\n\nAn empty file makes a folder a project.\n\n| section | key | meaning |\n|---|---|---|\n",
    );
    for section in SECTIONS {
        if section.keys.is_empty() {
            let _ = writeln!(page, "| `[{}]` | any | {} |", section.name, section.meaning);
        }
        for (key, meaning) in section.keys {
            let _ = writeln!(page, "| `[{}]` | `{key}` | {meaning} |", section.name);
        }
        if section.name == "targets" {
            for (key, meaning) in pinrail_service::targets::KEYS {
                let _ = writeln!(page, "| `[targets.NAME]` | `{key}` | {meaning} |");
            }
        }
    }
}

fn templates(page: &mut String) {
    page.push_str("\n## Settings of a template\n\n");
    page.push_str("See [workflows.md](../workflows.md#settings-of-a-template) for what they do.\n\n");
    page.push_str("| setting | must be | in `[defaults]` |\n|---|---|---|\n");
    page.push_str(&settings());
}

/// The settings as the SDK has them. What a setting must be is what its error says.
fn settings() -> String {
    const PROGRAM: &str = "
from pinrail._settings import SETTINGS, WrongValue
for name, setting in SETTINGS.items():
    try:
        setting.check(object)
    except WrongValue as wrong:
        expected = wrong.expected.split(', not ')[0]
    print(f'| `{name}` | {expected} | {\"yes\" if setting.default else \"no\"} |')
";
    let done =
        Command::new("python3").args(["-c", PROGRAM]).env("PYTHONPATH", root().join("python/src")).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8(done.stdout).unwrap()
}

fn environment(page: &mut String) {
    page.push_str("\n## Environment variables\n");
    for (topic, names) in ENVIRONMENT {
        let _ = writeln!(page, "\n{topic}:\n\n| variable | meaning |\n|---|---|");
        if *topic == ENVIRONMENT[0].0 {
            let command = Cli::command();
            for arg in command.get_arguments() {
                let Some(name) = arg.get_env() else { continue };
                let _ = writeln!(page, "| `{}` | As `--{}` |", name.to_string_lossy(), arg.get_id());
            }
        }
        for (name, meaning) in *names {
            let _ = writeln!(page, "| `{name}` | {meaning} |");
        }
    }
}

fn command_line(page: &mut String) {
    page.push_str("\n## Command line\n\nEvery command understands:\n\n");
    let mut command = Cli::command();
    command.build();
    arguments(page, &command, true);
    for one in command.get_subcommands() {
        commands(page, one, "pinrail");
    }
}

fn commands(page: &mut String, command: &clap::Command, above: &str) {
    let name = format!("{above} {}", command.get_name());
    let inner: Vec<_> = command.get_subcommands().filter(|one| one.get_name() != "help").collect();
    for one in &inner {
        commands(page, one, &name);
    }
    if !inner.is_empty() {
        return;
    }
    let about = command.get_about().map(ToString::to_string).unwrap_or_default();
    let _ = writeln!(page, "\n### {name}\n\n{about}.");
    if command.get_arguments().any(|arg| !arg.is_global_set() && arg.get_id() != "help") {
        page.push('\n');
    }
    arguments(page, command, false);
}

fn arguments(page: &mut String, command: &clap::Command, global: bool) {
    let wanted =
        |arg: &&clap::Arg| arg.is_global_set() == global && !["help", "version"].contains(&arg.get_id().as_str());
    for arg in command.get_arguments().filter(wanted) {
        let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
        let values = arg.get_possible_values();
        let values: Vec<&str> = values.iter().map(clap::builder::PossibleValue::get_name).collect();
        let takes_value = arg.get_action().takes_values();
        let choices =
            if takes_value && !values.is_empty() { format!("{}; ", values.join(", ")) } else { String::new() };
        let default = arg.get_default_values().first().filter(|_| takes_value);
        let default = default.map_or_else(String::new, |value| format!(" [default: {}]", value.to_string_lossy()));
        let text = format!("{choices}{help}{default}").replace(";  [", " [");
        let dash = if text.is_empty() { "" } else { ": " };
        let _ = writeln!(page, "- `{arg}`{dash}{}", text.trim());
    }
}

fn limits(page: &mut String) {
    page.push_str("\n## Limits\n\nNone of them can be set yet, except where an option or a setting says so.\n");
    for (topic, names) in LIMITS {
        let _ = writeln!(page, "\n### {topic}\n\n| limit | value | why |\n|---|---|---|");
        for (file, name) in *names {
            let text = std::fs::read_to_string(root().join(file)).unwrap();
            let (value, why) =
                constant(&text, name).unwrap_or_else(|| panic!("{file} has no constant {name} with a reason"));
            let stem = Path::new(file).file_stem().unwrap().to_string_lossy();
            let _ = writeln!(page, "| `{stem}::{name}` | {value} | {why} |");
        }
    }
}

/// The value of a constant, and the comment above it or above those that it stands together with.
fn constant(source: &str, name: &str) -> Option<(String, String)> {
    let lines: Vec<&str> = source.lines().map(str::trim).collect();
    let is_constant = |line: &str| {
        line.contains("const ")
            || line.split(" = ").next().is_some_and(|left| left.bytes().all(|b| b.is_ascii_uppercase() || b == b'_'))
    };
    let at = lines
        .iter()
        .position(|line| line.contains(&format!("const {name}: ")) || line.starts_with(&format!("{name} = ")))?;
    let value = lines[at].split_once(" = ")?.1.trim_end_matches(';');
    let mut comment: Vec<&str> = Vec::new();
    for line in lines[..at].iter().rev() {
        let text = line.strip_prefix("/// ").or_else(|| line.strip_prefix("# "));
        match text {
            Some(text) => comment.insert(0, text),
            None if comment.is_empty() && is_constant(line) => {}
            None => break,
        }
    }
    let why = comment.join(" ");
    (!why.is_empty()).then(|| (shown(value), why))
}

/// A value as people write it.
fn shown(expression: &str) -> String {
    let number = |text: &str| text.trim().replace('_', "").parse::<u64>().ok();
    let inside = |head: &str| expression.strip_prefix(head)?.strip_suffix(')');
    if let Some((base, shift)) = expression.split_once(" << ") {
        let (unit, shift) = match number(shift).unwrap() {
            30.. => ("GiB", 30),
            20.. => ("MiB", 20),
            _ => ("KiB", 10),
        };
        return format!(
            "{} {unit}",
            (number(base).unwrap() << number(expression.split_once(" << ").unwrap().1).unwrap()) >> shift
        );
    }
    if expression == "DAY" {
        return "1 day".to_owned();
    }
    if let Some(days) = inside("DAY.saturating_mul(") {
        return format!("{days} days");
    }
    if let Some(millis) = inside("Duration::from_millis(") {
        return format!("{millis} ms");
    }
    if let Some(seconds) = inside("Duration::from_secs(") {
        let seconds: u64 = seconds.split('*').map(|part| number(part).unwrap()).product();
        return match seconds {
            3600.. if seconds.is_multiple_of(3600) => format!("{} h", seconds / 3600),
            60.. if seconds.is_multiple_of(60) => format!("{} min", seconds / 60),
            _ => format!("{seconds} s"),
        };
    }
    expression.replace('_', ",")
}
