//! The command line.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::builder::Resettable;
use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use pinrail_model::near::nearest;
use pinrail_model::notify::{NoticeEvent, NoticeState};

use crate::client::Place;
use crate::commands;
use crate::commands::backfills::{BackfillArgs, BackfillsCommand};
use crate::commands::limits::{LimitsCommand, PoolsCommand};
use crate::commands::replay::ReplayArgs;
use crate::commands::server::UpArgs;
use crate::commands::simulate::SimulateArgs;
use crate::commands::surgery::{JobsArgs, MarkArgs, ScopeArgs};
use crate::commands::work::WorkArgs;
use crate::commands::workers::WorkersCommand;
use crate::failure::{Failure, USAGE};
use crate::output::{self, Output};

/// A self-service data platform in one binary.
#[derive(Debug, Parser)]
#[command(name = "pinrail", version, max_term_width = 110, disable_help_subcommand = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// What every command understands.
#[derive(Debug, Args)]
struct Global {
    /// Print one JSON document on standard output; progress goes to standard error
    #[arg(long, global = true)]
    json: bool,
    /// The state folder [default: .pinrail in the project]
    #[arg(long, global = true, value_name = "DIR", env = "PINRAIL_STATE")]
    state: Option<PathBuf>,
    /// The project's folder [default: the current one or the nearest above it with a pinrail.toml]
    #[arg(long, global = true, value_name = "DIR")]
    project: Option<PathBuf>,
    /// A server to use instead of the state folder's own
    #[arg(long, global = true, value_name = "URL", env = "PINRAIL_URL")]
    url: Option<String>,
    /// The bearer token for that server
    #[arg(long, global = true, value_name = "TOKEN", env = "PINRAIL_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// The target, in a project that has [targets]; in lists, only this one's [default: the project's usual one]
    #[arg(id = "at-target", long = "target", global = true, value_name = "NAME", env = "PINRAIL_TARGET")]
    target: Option<String>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a project from an example
    #[command(after_help = "Examples:
  pinrail init hello
  pinrail init flights --example flights && cd flights && pinrail run flights --at 2013-01-01")]
    Init {
        /// The folder to make; the project is named as it
        name: String,
        /// tiny (two jobs, no data), seed (three jobs), flights (a pipeline over 336,776 flights) [default: tiny]
        #[arg(long, value_name = "EXAMPLE")]
        example: Option<String>,
    },
    /// Serve the state folder: API and jobs in one process
    Up(UpArgs),
    /// Run jobs for a server, from this machine or another
    #[command(
        after_help = "It works until the server or SIGTERM lets it finish what it has; a second SIGTERM ends it at once.

Examples:
  pinrail token create --name worker-1 --role worker > worker.token
  pinrail work --url https://pinrail.example.org --token-file worker.token
  pinrail work --url https://pinrail.example.org --token-file worker.token --labels gpu,zone=b --slots 4"
    )]
    Work(WorkArgs),
    /// List the workers of the server, or let one finish what it has
    #[command(
        args_conflicts_with_subcommands = true,
        after_help = "Examples:
  pinrail workers
  pinrail workers drain worker-1
  pinrail workers drain worker-1 --undo"
    )]
    Workers {
        #[command(subcommand)]
        command: Option<WorkersCommand>,
    },
    /// Stop the server of the state folder
    Down,
    /// Check the project's workflow files
    Check,
    /// Make this folder's workflows the active ones
    Deploy {
        /// Only say what would change
        #[arg(long)]
        dry_run: bool,
    },
    /// Say what a deploy would change: jobs, fire times, runs under way
    Plan,
    /// Play this folder's schedules on a virtual clock: what waits for slots and pools, which SLAs are missed
    #[command(
        after_help = "Jobs take as long as they usually do: the median of their latest successful runs. Nothing is run.

Examples:
  pinrail simulate
  pinrail simulate --days 31 --from 2024-05-01 --pool warehouse=2
  pinrail simulate --slots 16 --duration flights/load=1800 --runs"
    )]
    Simulate(SimulateArgs),
    /// List the deployed workflows
    Workflows,
    /// List the schedules of the deployed workflows, or show one with its next fire times
    Schedules {
        /// Only this workflow's, with its next five fire times
        workflow: Option<String>,
    },
    /// Stop the schedule of a workflow from firing
    Pause {
        workflow: String,
        /// Why, for people
        #[arg(long)]
        reason: Option<String>,
    },
    /// Let the schedule of a workflow fire again
    Resume {
        workflow: String,
        /// Why, for people
        #[arg(long)]
        reason: Option<String>,
    },
    /// Run a workflow as it is in this folder
    Run(RunArgs),
    /// Run one job: a Python class, an SQL file, or a command after --
    Submit(SubmitArgs),
    /// Run a deployed workflow for many dates
    #[command(after_help = "Examples:
  pinrail backfill flights --job daily_delays --from 2013-01-01 --to 2013-12-31
  pinrail backfill flights --at 2013-01-05 --at 2013-02-07 --redo
  pinrail backfill flights --from 2013-01-01 --to 2013-12-31 --dry-run")]
    Backfill(BackfillArgs),
    /// List backfills, show one, or pause, resume, edit and cancel it
    #[command(
        args_conflicts_with_subcommands = true,
        after_help = "Examples:
  pinrail backfills
  pinrail backfills last
  pinrail backfills edit K3F9 --concurrency 8"
    )]
    Backfills {
        #[command(subcommand)]
        command: Option<BackfillsCommand>,
        /// An id, its last characters, or `last`
        id: Option<String>,
    },
    /// List runs, newest first
    Runs {
        /// Only runs of this backfill: an id, its last characters, or `last`
        #[arg(long, value_name = "ID")]
        backfill: Option<String>,
        /// Only runs of this workflow
        #[arg(long)]
        workflow: Option<String>,
        /// queued, running, succeeded, failed or cancelled
        #[arg(long = "in", value_name = "STATE", value_parser = ["queued", "running", "succeeded", "failed", "cancelled"])]
        in_state: Option<String>,
        /// How many at most
        #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=500))]
        limit: u32,
    },
    /// Show a run: an id, its last characters, `last`, or workflow@date
    #[command(after_help = "Examples:
  pinrail show flights@2013-01-02
  pinrail show last --job load              the instances of a mapped job, one line each
  pinrail show last --job load --in failed")]
    Show {
        /// An id, its last characters, `last`, or workflow@date
        #[arg(default_value = "last")]
        run: String,
        /// Only this job, each of its instances, or one instance, as in 'load[3]'
        #[arg(long)]
        job: Option<String>,
        /// Only jobs and instances in this state, such as failed
        #[arg(long = "in", value_name = "STATE")]
        in_state: Option<String>,
    },
    /// Print the logs of a run
    Logs {
        /// An id, its last characters, `last`, or workflow@date
        #[arg(default_value = "last")]
        run: String,
        /// Only this job
        #[arg(long)]
        job: Option<String>,
        /// The attempt's number [default: the last]
        #[arg(long)]
        attempt: Option<u64>,
        /// Go on until the attempt ends
        #[arg(short, long)]
        follow: bool,
    },
    /// List the files that a run left for people, or print one
    Files {
        /// An id, its last characters, `last`, or workflow@date
        #[arg(default_value = "last")]
        run: String,
        /// Print this file
        name: Option<String>,
    },
    /// Show a file that a run left for people, such as its report, in the browser
    #[command(after_help = "Examples:
  pinrail open
  pinrail open flights@2013-01-02 report.html")]
    Open {
        /// An id, its last characters, `last`, or workflow@date
        #[arg(default_value = "last")]
        run: String,
        /// The file [default: the newest one]
        name: Option<String>,
    },
    /// Say why a run waits, works, failed or was slow
    Explain {
        /// An id, its last characters, `last`, or workflow@date
        #[arg(default_value = "last")]
        run: String,
        /// Only this job
        #[arg(long)]
        job: Option<String>,
        /// Where its time went, against the latest runs of its workflow
        #[arg(long, conflicts_with = "job")]
        slow: bool,
    },
    /// End a run, or one job of it
    Cancel {
        /// An id, its last characters, `last`, or workflow@date
        #[arg(default_value = "last")]
        run: String,
        /// Only this job
        #[arg(long)]
        job: Option<String>,
        /// Why, for people
        #[arg(long)]
        reason: Option<String>,
    },
    /// Run again what failed, or what is selected
    Retry {
        /// An id, its last characters, `last`, or workflow@date
        #[arg(default_value = "last")]
        run: String,
        /// Jobs: a, a+ (and below), +a (and above)
        #[arg(long, value_name = "SELECT")]
        job: Option<String>,
        /// Whose code: that of the run, of this folder, or the deployed one
        #[arg(long, value_parser = ["run", "folder", "deployed"], default_value = "run")]
        code: String,
        /// Print the id and return
        #[arg(long)]
        detach: bool,
    },
    /// Run again what has run, from its exact code and parameters, in tables of its own; tell what came out otherwise
    #[command(after_help = "Examples:
  pinrail replay K3F9
  pinrail replay flights@2013-01-02 --job daily_delays --drop")]
    Replay(ReplayArgs),
    /// Say what became of jobs of a run, whether they ran or not
    #[command(after_help = "Examples:
  pinrail mark --job load --as succeeded --reason 'loaded by hand'
  pinrail mark K3F9 --job report+ --as skipped")]
    Mark(MarkArgs),
    /// Skip jobs of a run, and with them what waits for their success; `disable` lets that go on
    Skip(JobsArgs),
    /// Switch off jobs of a run that have not begun
    Disable(JobsArgs),
    /// Switch jobs of a run on again
    Enable(JobsArgs),
    /// Keep a run, jobs of it, a workflow, the project or the platform from beginning anything new
    #[command(after_help = "Examples:
  pinrail hold K3F9 --job report --reason 'look at the numbers first'
  pinrail hold --workflow flights
  pinrail hold --platform --reason upgrade")]
    Hold {
        #[command(flatten)]
        scope: ScopeArgs,
        /// Also stop what is under way; for a workflow, the project or the platform
        #[arg(long, conflicts_with = "run")]
        abort: bool,
    },
    /// Let go what is held
    Release(ScopeArgs),
    /// List what is held as a whole: workflows, projects, the platform
    Holds,
    /// Give a run other code for the jobs that have not begun
    Reload {
        /// An id, its last characters, `last`, or workflow@date
        #[arg(default_value = "last")]
        run: String,
        /// Whose code: the deployed one, or that of this folder
        #[arg(long, value_parser = ["deployed", "folder"], default_value = "deployed")]
        code: String,
    },
    /// List, set and remove pools: slots that jobs share
    #[command(args_conflicts_with_subcommands = true)]
    Pools {
        #[command(subcommand)]
        command: Option<PoolsCommand>,
    },
    /// List the limits of the project; set its quota and its weight
    #[command(args_conflicts_with_subcommands = true)]
    Limits {
        #[command(subcommand)]
        command: Option<LimitsCommand>,
    },
    /// Run SQL against the project's tables
    Sql {
        /// The statements; `-` reads them from standard input
        #[arg(required_unless_present = "file")]
        text: Option<String>,
        /// A file of statements
        #[arg(short, long, value_name = "FILE", conflicts_with = "text")]
        file: Option<PathBuf>,
        /// How rows are printed
        #[arg(long, value_parser = ["table", "csv"], default_value = "table")]
        format: String,
    },
    /// Print the SQL of a job or a file as it will run, without running it
    #[command(after_help = "Examples:
  pinrail render daily_delays --at 2013-01-01
  pinrail render sql/load.sql --workflow flights --param min_flights=100")]
    Render(RenderArgs),
    /// List the project's tables
    Tables,
    /// List the project's Python environments
    Environments,
    /// Print the counters of a run
    Counters {
        /// An id, its last characters, `last`, or workflow@date
        #[arg(default_value = "last")]
        run: String,
    },
    /// Write everything that the state folder holds into one file, also while it is served
    Backup {
        file: PathBuf,
        /// Include the key of the secrets; whoever has the file can then read them
        #[arg(long)]
        with_key: bool,
    },
    /// Make a state folder from a backup; --state names it
    Restore { file: PathBuf },
    /// Inside an attempt: leave a value for the jobs that wait for this one
    Output {
        name: String,
        /// JSON, or else a text
        #[arg(allow_negative_numbers = true)]
        value: String,
        /// Take the value as a text even if it is JSON
        #[arg(long)]
        text: bool,
    },
    /// Inside an attempt: save a file for people to read
    Save {
        file: PathBuf,
        /// What it is called [default: the file's own name]
        #[arg(long)]
        name: Option<String>,
    },
    /// Set, list and remove the project's secrets
    #[command(subcommand)]
    Secret(SecretCommand),
    /// Try the project's channels for notices, and list what went through them
    #[command(subcommand)]
    Notify(NotifyCommand),
    /// Make, list and revoke bearer tokens
    #[command(subcommand)]
    Token(TokenCommand),
    /// Store a token for a server elsewhere; --url then uses it
    #[command(
        after_help = "The token is read from standard input and tried before it is stored, in a file that only you can read.

Examples:
  pinrail login https://pinrail.example.org
  pinrail login https://pinrail.example.org < token.txt
  pinrail login --forget https://pinrail.example.org"
    )]
    Login(LoginArgs),
    /// Look whether this machine has what jobs need
    #[command(after_help = "Exit code 1 says that something needed is missing.

Examples:
  pinrail doctor
  pinrail doctor --json | jq '.checks[] | select(.state != \"ok\")'")]
    Doctor,
    /// Run the project's tests with pytest
    #[command(after_help = "Examples:
  pinrail test
  pinrail test --extra dev
  pinrail test -- tests/test_load.py -k few_flights -x")]
    Test {
        /// Also what this extra of the project's lock has
        #[arg(long = "extra", value_name = "EXTRA")]
        extras: Vec<String>,
        /// Arguments for pytest
        #[arg(last = true, value_name = "PYTEST ARGUMENTS")]
        arguments: Vec<String>,
    },
    /// The Python SDK that this binary carries
    #[command(subcommand)]
    Sdk(SdkCommand),
    /// Make workflows and jobs of another tool's files
    #[command(subcommand)]
    Import(ImportCommand),
}

/// The arguments of `run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// The workflow
    pub workflow: String,
    /// A date or time of the interval [default: the last complete one]
    #[arg(long)]
    pub at: Option<String>,
    /// Jobs: a, a+ (and below), +a (and above)
    #[arg(long, value_name = "SELECT")]
    pub job: Option<String>,
    /// Outputs of jobs that --job leaves out, which then need not have run: {"load": {"rows": 3}}
    #[arg(long, value_name = "JSON", requires = "job")]
    pub upstream: Option<String>,
    /// A parameter
    #[arg(long = "param", value_name = "NAME=VALUE")]
    pub params: Vec<String>,
    /// The executor of all jobs, or of one
    #[arg(long = "executor", value_name = "EXECUTOR | JOB=EXECUTOR")]
    pub executors: Vec<String>,
    /// Run the deployed version instead of this folder
    #[arg(long)]
    pub deployed: bool,
    /// Print the id and return
    #[arg(long, conflicts_with = "wait")]
    pub detach: bool,
    /// Wait for the end, which is what happens anyway
    #[arg(long)]
    pub wait: bool,
}

/// The arguments of `submit`.
#[derive(Debug, Args)]
pub struct SubmitArgs {
    /// A dotted class or function name, or the path of an SQL file
    #[arg(required_unless_present = "command")]
    pub target: Option<String>,
    /// A command
    #[arg(last = true, value_name = "COMMAND")]
    pub command: Vec<String>,
    /// The executor
    #[arg(long)]
    pub executor: Option<String>,
    /// A date [default: yesterday]
    #[arg(long)]
    pub at: Option<String>,
    /// A parameter: a number, true, false, or else a text
    #[arg(long = "param", value_name = "NAME=VALUE")]
    pub params: Vec<String>,
    /// Print the id and return
    #[arg(long, conflicts_with = "wait")]
    pub detach: bool,
    /// Wait for the end, which is what happens anyway
    #[arg(long)]
    pub wait: bool,
}

/// The arguments of `render`.
#[derive(Debug, Args)]
pub struct RenderArgs {
    /// A job, or the path of an SQL file
    #[arg(value_name = "JOB | FILE.sql")]
    pub target: String,
    /// A date or time of the interval [default: the last complete one]
    #[arg(long)]
    pub at: Option<String>,
    /// The workflow, where it could be several
    #[arg(long)]
    pub workflow: Option<String>,
    /// A parameter
    #[arg(long = "param", value_name = "NAME=VALUE")]
    pub params: Vec<String>,
}

/// The arguments of `login`.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct LoginArgs {
    /// The server's URL
    #[arg(value_name = "URL")]
    server: Option<String>,
    /// List the servers for which a token is stored
    #[arg(long)]
    list: bool,
    /// Forget the token for a server
    #[arg(long, value_name = "URL")]
    forget: Option<String>,
}

#[derive(Debug, Subcommand)]
enum SecretCommand {
    /// Set a secret; its value is read from standard input, without the line end at its end
    Set { name: String },
    /// List the secrets, without their values
    List,
    /// Remove a secret
    Rm { name: String },
    /// Inside an attempt: print a secret that the job declares
    Read { name: String },
}

#[derive(Debug, Subcommand)]
enum NotifyCommand {
    /// Send a test notice to a channel, and print what its endpoint answers
    #[command(after_help = "The channel is the one that this folder's pinrail.toml declares, deployed or not.

Examples:
  pinrail notify test ops
  pinrail notify test ops --event sla-at-risk")]
    Test {
        /// The channel
        channel: String,
        /// What the notice pretends to tell of
        #[arg(long, default_value = "failure", value_parser = NoticeEvent::ALL.map(NoticeEvent::name))]
        event: String,
    },
    /// List notices, newest first, with what became of each
    Log {
        /// pending, delivered or failed
        #[arg(long = "in", value_name = "STATE", value_parser = NoticeState::ALL.map(NoticeState::name))]
        in_state: Option<String>,
        /// How many at most
        #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=500))]
        limit: u32,
    },
}

#[derive(Debug, Subcommand)]
enum TokenCommand {
    /// Make a token; it is shown this once
    Create {
        /// What it is for
        #[arg(long, default_value = "cli")]
        name: String,
        /// viewer, operator, developer, admin, or worker
        #[arg(long, default_value = "admin")]
        role: String,
        /// The only project it is good for [default: all]
        #[arg(long = "for", value_name = "PROJECT")]
        only: Option<String>,
        /// Seconds until it expires [default: never]
        #[arg(long, value_name = "SECONDS")]
        expires_in: Option<u64>,
    },
    /// List tokens
    List,
    /// End a token
    Revoke { id: String },
}

#[derive(Debug, Subcommand)]
enum SdkCommand {
    /// Put the SDK into an interpreter, so that editors and type checkers see it
    #[command(after_help = "Jobs do not need it: they are always run with the SDK that the binary carries.

Examples:
  pinrail sdk install
  pinrail sdk install --python .venv/bin/python")]
    Install {
        /// The interpreter [default: the project's]
        #[arg(long, value_name = "INTERPRETER")]
        python: Option<PathBuf>,
        /// Also into an interpreter that belongs to the operating system
        #[arg(long)]
        force: bool,
    },
    /// Print where the SDK lies
    #[command(after_help = "Examples:
  PYTHONPATH=$(pinrail sdk path) python -m pytest")]
    Path,
}

#[derive(Debug, Subcommand)]
enum ImportCommand {
    /// Airflow DAG files, which are read but not run; Airflow need not be installed
    #[command(after_help = "What is not translated is listed with file and line. No existing file is changed.

Examples:
  pinrail import airflow ~/airflow/dags --into flights
  pinrail import airflow dags/daily.py --json | jq '.notes[] | select(.level == \"left-out\")'")]
    Airflow(ImportArgs),
    /// Pinball workflow files (WORKFLOWS = {...}), which are read but not run
    #[command(after_help = "What is not translated is listed with file and line. No existing file is changed.

Examples:
  pinrail import pinball repo/workflows.py repo/jobs --into flights")]
    Pinball(ImportArgs),
}

/// The arguments of `import`.
#[derive(Debug, Args)]
struct ImportArgs {
    /// Files, and folders of files
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// The project's folder; a new or empty one becomes a project [default: the project of the current folder]
    #[arg(long, value_name = "DIR")]
    into: Option<PathBuf>,
}

/// Names that people know from elsewhere, and what they are called here.
const KNOWN_ELSEWHERE: &[(&str, &str)] = &[
    ("trigger", "run"),
    ("execute", "run"),
    ("start", "up"),
    ("serve", "up"),
    ("server", "up"),
    ("stop", "down"),
    ("kill", "cancel"),
    ("abort", "cancel"),
    ("drain", "hold"),
    ("clear", "retry"),
    ("redo", "retry"),
    ("poison", "retry --job JOB+"),
    ("rerun", "retry"),
    ("unpause", "resume"),
    ("unhold", "release"),
    ("catchup", "backfill"),
    ("schedule", "schedules"),
    ("cron", "schedules"),
    ("pool", "pools"),
    ("worker", "workers"),
    ("sessions", "workers"),
    ("quota", "limits set quota"),
    ("weight", "limits set weight"),
    ("diff", "plan"),
    ("forecast", "simulate"),
    ("restart", "retry"),
    ("list", "runs"),
    ("ls", "runs"),
    ("status", "show"),
    ("validate", "check"),
    ("parse", "check"),
    ("compile", "check"),
    ("query", "sql"),
    ("why", "explain"),
    ("envs", "environments"),
    ("venv", "environments"),
    ("dags", "workflows"),
    ("flows", "workflows"),
    ("push", "deploy"),
    ("migrate", "import"),
    ("convert", "import"),
    ("apply", "deploy"),
    ("log", "logs"),
    ("tail", "logs"),
    ("alert", "notify"),
    ("alerts", "notify"),
];

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    let filter = tracing_subscriber::EnvFilter::try_from_env("PINRAIL_LOG").unwrap_or_else(|_| "warn".into());
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).compact().init();
    let cli = match command().try_get_matches().and_then(|matches| Cli::from_arg_matches(&matches)) {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    let Global { json, state, project, url, token, target } = cli.global;
    // What the environment names, it names for the next command as well.
    let lasting = std::env::var_os("PINRAIL_STATE").map(PathBuf::from);
    if let Some(folder) = state.as_ref().filter(|folder| lasting.as_ref() != Some(folder)) {
        output::remember_state(folder);
    }
    let place = Place { url, token, state, project, target };
    match obey(cli.command, &place, Output::new(json)) {
        Ok(code) => code,
        Err(failure) => failure.tell(json),
    }
}

/// The command line as it is understood here: a variable that is set but empty counts as not set.
fn command() -> clap::Command {
    Cli::command().mut_args(|arg| {
        let empty = arg.get_env().and_then(std::env::var_os).is_some_and(|value| value.is_empty());
        if empty { arg.env(Resettable::Reset) } else { arg }
    })
}

fn usage(error: &clap::Error) -> ExitCode {
    use clap::error::ErrorKind;
    if error.kind() == ErrorKind::InvalidSubcommand {
        let word = error.get(clap::error::ContextKind::InvalidSubcommand).map(ToString::to_string).unwrap_or_default();
        let failure = Failure::new(USAGE, format!("there is no command \"{word}\""));
        let command = Cli::command();
        let names: Vec<_> = command.get_subcommands().map(|c| c.get_name().to_owned()).collect();
        let meant = KNOWN_ELSEWHERE.iter().find(|(known, _)| *known == word).map(|(_, name)| *name);
        let meant = meant.or_else(|| nearest(&word, names.iter().map(String::as_str)));
        let hint =
            meant.map_or_else(|| "See `pinrail --help`.".to_owned(), |name| format!("Did you mean `pinrail {name}`?"));
        return failure.hint(hint).tell(false);
    }
    // Help and version are no errors; clap knows where each goes.
    let _ = error.print();
    ExitCode::from(if error.use_stderr() { USAGE } else { 0 })
}

fn obey(command: Command, place: &Place, output: Output) -> Result<ExitCode, Failure> {
    match command {
        Command::Init { name, example } => commands::init::init(output, &name, example.as_deref()),
        Command::Up(args) => commands::server::up(place, output, &args),
        Command::Work(args) => commands::work::work(place, output, args),
        Command::Workers { command } => commands::workers::workers(place, output, command.as_ref()),
        Command::Down => commands::server::down(place, output),
        Command::Check => commands::project::check(place, output),
        Command::Deploy { dry_run } => commands::project::deploy(place, output, dry_run),
        Command::Plan => commands::project::deploy(place, output, true),
        Command::Simulate(args) => commands::simulate::simulate(place, output, &args),
        Command::Schedules { workflow } => commands::schedules::schedules(place, output, workflow.as_deref()),
        Command::Pause { workflow, reason } => {
            commands::schedules::pause(place, output, &workflow, true, reason.as_deref())
        }
        Command::Resume { workflow, reason } => {
            commands::schedules::pause(place, output, &workflow, false, reason.as_deref())
        }
        Command::Backfill(args) => commands::backfills::backfill(place, output, &args),
        Command::Backfills { command: Some(command), .. } => commands::backfills::change(place, output, &command),
        Command::Backfills { id, .. } => commands::backfills::backfills(place, output, id.as_deref()),
        Command::Mark(args) => commands::surgery::mark(place, output, &args.jobs, &args.ending),
        Command::Skip(args) => commands::surgery::mark(place, output, &args, "skipped"),
        Command::Disable(args) => commands::surgery::switch(place, output, &args, true),
        Command::Enable(args) => commands::surgery::switch(place, output, &args, false),
        Command::Hold { scope, abort } => commands::surgery::hold(place, output, &scope, abort),
        Command::Release(scope) => commands::surgery::release(place, output, &scope),
        Command::Holds => commands::surgery::holds(place, output),
        Command::Reload { run, code } => commands::surgery::reload(place, output, &run, &code),
        Command::Pools { command } => commands::limits::pools(place, output, command.as_ref()),
        Command::Limits { command } => commands::limits::limits(place, output, command.as_ref()),
        Command::Workflows => commands::project::workflows(place, output),
        Command::Run(args) => commands::run::run(place, output, &args),
        Command::Submit(args) => commands::run::submit(place, output, &args),
        Command::Runs { backfill, workflow, in_state, limit } => {
            let (workflow, state, backfill) = (workflow.as_deref(), in_state.as_deref(), backfill.as_deref());
            commands::show::runs(place, output, workflow, state, backfill, limit)
        }
        Command::Show { run, job, in_state } => {
            commands::show::show(place, output, &run, job.as_deref(), in_state.as_deref())
        }
        Command::Logs { run, job, attempt, follow } => {
            commands::show::logs(place, output, &run, job.as_deref(), attempt, follow)
        }
        Command::Files { run, name } => commands::show::files(place, output, &run, name.as_deref()),
        Command::Explain { run, job, slow } => commands::show::explain(place, output, &run, job.as_deref(), slow),
        Command::Cancel { run, job, reason } => {
            commands::run::cancel(place, output, &run, job.as_deref(), reason.as_deref())
        }
        Command::Retry { run, job, code, detach } => {
            commands::run::retry(place, output, &run, job.as_deref(), &code, detach)
        }
        Command::Replay(args) => commands::replay::replay(place, output, &args),
        Command::Sql { text, file, format } => {
            commands::sql::sql(place, output, text.as_deref(), file.as_deref(), &format)
        }
        Command::Render(args) => commands::sql::render(place, output, &args),
        Command::Tables => commands::sql::tables(place, output),
        Command::Environments => commands::environments::environments(place, output),
        Command::Counters { run } => commands::show::counters(place, output, &run),
        Command::Backup { file, with_key } => commands::backup::backup(place, output, &file, with_key),
        Command::Restore { file } => commands::backup::restore(place, output, &file),
        Command::Output { name, value, text } => commands::inside::output(output, &name, &value, text),
        Command::Save { file, name } => commands::inside::save(output, &file, name.as_deref()),
        Command::Secret(SecretCommand::Read { name }) => commands::inside::secret(output, &name),
        Command::Secret(SecretCommand::Set { name }) => commands::secret::set(place, output, &name),
        Command::Secret(SecretCommand::List) => commands::secret::list(place, output),
        Command::Secret(SecretCommand::Rm { name }) => commands::secret::rm(place, output, &name),
        Command::Open { run, name } => commands::open::open(place, output, &run, name.as_deref()),
        Command::Login(LoginArgs { server: Some(url), .. }) => commands::login::login(output, &url),
        Command::Login(LoginArgs { forget: Some(url), .. }) => commands::login::forget(output, &url),
        Command::Login(_) => commands::login::list(output),
        Command::Doctor => commands::doctor::doctor(place, output),
        Command::Test { extras, arguments } => commands::test::test(place, output, &extras, &arguments),
        Command::Sdk(SdkCommand::Install { python, force }) => {
            commands::sdk::install(place, output, python.as_deref(), force)
        }
        Command::Sdk(SdkCommand::Path) => commands::sdk::path(place, output),
        Command::Notify(NotifyCommand::Test { channel, event }) => {
            commands::notify::test(place, output, &channel, &event)
        }
        Command::Notify(NotifyCommand::Log { in_state, limit }) => {
            commands::notify::log(place, output, in_state.as_deref(), limit)
        }
        Command::Import(ImportCommand::Airflow(ImportArgs { paths, into })) => {
            commands::import::import(place, output, "airflow", &paths, into.as_deref())
        }
        Command::Import(ImportCommand::Pinball(ImportArgs { paths, into })) => {
            commands::import::import(place, output, "pinball", &paths, into.as_deref())
        }
        Command::Token(TokenCommand::Create { name, role, only, expires_in }) => {
            let token = commands::server::NewToken { name, role, project: only, expires_in_seconds: expires_in };
            commands::server::token_create(place, output, &token)
        }
        Command::Token(TokenCommand::List) => commands::server::token_list(place, output),
        Command::Token(TokenCommand::Revoke { id }) => commands::server::token_revoke(place, output, &id),
    }
}
