//! The manual runs: every page is one script, in a project folder of its own, beside one server.
//!
//! - A fenced block `sh` is run, in order, all in one shell. `sh exit=N` says with which code its last command ends;
//!   `sh ignore` is not run, and why not stands in the page.
//! - A block whose first line is a comment with a path (`# jobs/hello.py`, `-- sql/x.sql`) is written to that file when
//!   the script comes to it.
//! - A block `text` or `json` right after a `sh` block is what it prints. Ids, digests, times, durations, sizes, blanks
//!   and the order in which jobs end are not compared, and a line `...` stands for any number of lines.
//!
//! The line numbers of the script are those of the page, so that a command that fails is named with page and line.

use std::fmt::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::support::{Project, repository};

/// What a page writes for the address of the server; the script has the real one in its place.
const ADDRESS: &str = "127.0.0.1:7070";
/// What a page shows for the project's folder.
const FOLDER: &str = "/home/anna/demo";
/// How the pages start a server of their own; then none runs before.
const STARTS: &str = "pinrail up --detach";

/// One test per page. Those of the second list need the SQL engine.
macro_rules! pages {
    ($($name:ident $path:literal)* ; $($lake:ident $lake_path:literal)*) => {
        $(#[test] fn $name() { run($path); })*
        $(#[cfg(feature = "lake")] #[test] fn $lake() { run($lake_path); })*
        const PAGES: &[&str] = &[$($path,)* $($lake_path,)*];
    };
}

pages! {
    backfills "docs/backfills.md"
    environments "docs/environments.md"
    conditions "docs/conditions.md"
    explain "docs/explain.md"
    importing "docs/importing.md"
    map "docs/map.md"
    notifications "docs/notifications.md"
    operations "docs/operations.md"
    pools "docs/pools.md"
    schedules "docs/schedules.md"
    simulate "docs/simulate.md"
    sub_workflows "docs/sub-workflows.md"
    surgery "docs/surgery.md"
    workers "docs/workers.md"
    workflows "docs/workflows.md"
    ;
    readme "README.md"
    jobs "docs/jobs.md"
    sql "docs/sql.md"
    testing "docs/testing.md"
    executors "docs/executors.md"
    replay "docs/replay.md"
    targets "docs/targets.md"
    rest "docs/rest.md"
}

/// Pages without a command.
const PLAIN: &[&str] = &["docs/README.md", COMPARISON, "docs/isolation.md", "docs/runner-protocol.md"];
/// What we have beside other tools; each row says which test proves it.
const COMPARISON: &str = "docs/compare.md";

#[test]
fn every_page_is_tested() {
    let folder = std::fs::read_dir(repository().join("docs")).unwrap();
    let found = folder.map(|entry| format!("docs/{}", entry.unwrap().file_name().into_string().unwrap()));
    for page in found.filter(|page| page.ends_with(".md")) {
        let plain = PLAIN.contains(&page.as_str());
        assert!(plain || PAGES.contains(&page.as_str()), "{page} is not in the list of pages");
        let text = std::fs::read_to_string(repository().join(&page)).unwrap();
        assert!(!plain || blocks(&text).iter().all(|block| block.kind != "sh"), "{page} has commands");
    }
}

#[test]
fn links_lead_somewhere() {
    for page in PAGES.iter().chain(PLAIN) {
        let text = std::fs::read_to_string(repository().join(page)).unwrap();
        let folder = repository().join(page).parent().unwrap().to_owned();
        for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
            if file.starts_with("http") {
                continue;
            }
            let path = if file.is_empty() { repository().join(page) } else { folder.join(file) };
            assert!(path.exists(), "{page} leads to {target}, which does not exist");
            if !anchor.is_empty() {
                let there = std::fs::read_to_string(&path).unwrap();
                let is_code = path.extension().is_some_and(|extension| extension == "rs");
                let (places, what) = if is_code { (tests(&there), "test") } else { (anchors(&there), "heading") };
                assert!(places.iter().any(|one| one == anchor), "{page} leads to {target}: no such {what}");
            }
        }
    }
}

#[test]
fn every_row_of_the_comparison_leads_to_a_test() {
    let text = std::fs::read_to_string(repository().join(COMPARISON)).unwrap();
    let rows = text.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| | "));
    let mut count = 0;
    for row in rows {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        assert_eq!(cells.len(), 9, "{row}");
        assert!(cells[1].starts_with("[yes](../crates/"), "{row}");
        assert!(cells[1].split("](").skip(1).all(|link| link.contains(".rs#")), "{row}");
        for word in cells[2..].iter().filter_map(|cell| cell.strip_prefix('[')?.split_once("][")) {
            let name = word.1.split(']').next().unwrap();
            assert!(text.contains(&format!("\n[{name}]: https://")), "{COMPARISON} has no link \"{name}\"");
        }
        count += 1;
    }
    assert!(count > 30, "{COMPARISON} has {count} rows");
}

/// The names of the tests of a file.
fn tests(text: &str) -> Vec<String> {
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let after_mark =
        lines.windows(2).filter(|pair| pair[0].starts_with("#[test]") || pair[0].starts_with("#[tokio::test"));
    let names =
        after_mark.filter_map(|pair| pair[1].trim_start_matches("async ").strip_prefix("fn ")?.split('(').next());
    names.map(str::to_owned).collect()
}

/// The names under which the headings of a page can be linked.
fn anchors(text: &str) -> Vec<String> {
    let headings = text.lines().filter(|line| line.starts_with('#')).map(|line| {
        let plain = line.trim_start_matches('#').trim().to_lowercase();
        plain.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c)).collect::<String>().replace(' ', "-")
    });
    let ids = text.split("id=\"").skip(1).filter_map(|rest| rest.split('"').next()).map(str::to_owned);
    headings.chain(ids).collect()
}

/// A fenced block: its info string, the lines of its fences, counted from 1, and what is between them.
struct Block<'a> {
    kind: &'a str,
    info: &'a str,
    first: usize,
    last: usize,
    lines: Vec<&'a str>,
}

impl Block<'_> {
    /// The file that the block is to be written to.
    fn path(&self) -> Option<&str> {
        let comment = match self.kind {
            "python" | "toml" => "# ",
            "sql" => "-- ",
            _ => return None,
        };
        let path = self.lines.first()?.strip_prefix(comment)?;
        (path.contains('.') && !path.contains(' ') && !path.contains(':')).then_some(path)
    }

    fn is_run(&self) -> bool {
        self.kind == "sh" && self.info != "ignore"
    }
}

fn blocks(text: &str) -> Vec<Block<'_>> {
    let mut found = Vec::new();
    let mut open: Option<Block<'_>> = None;
    for (line, number) in text.lines().zip(1..) {
        match (&mut open, line.strip_prefix("```")) {
            (Some(_), Some("")) => found.extend(open.take().map(|block| Block { last: number, ..block })),
            (Some(block), _) => block.lines.push(line),
            (None, Some(fence)) => {
                let (kind, info) = fence.split_once(' ').unwrap_or((fence, ""));
                open = Some(Block { kind, info, first: number, last: 0, lines: Vec::new() });
            }
            (None, None) => {}
        }
    }
    assert!(open.is_none(), "a fenced block does not end");
    found
}

fn run(page: &str) {
    let text = std::fs::read_to_string(repository().join(page)).unwrap();
    let blocks = blocks(&text);
    let project = Project::new(&[]);
    let beside = tempfile::tempdir().unwrap();
    let (bin, outputs) = (beside.path().join("bin"), beside.path().join("outputs"));
    for folder in [&bin, &outputs] {
        std::fs::create_dir(folder).unwrap();
    }
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_pinrail"), bin.join("pinrail")).unwrap();
    let starts = blocks.iter().any(|block| block.is_run() && block.lines.iter().any(|line| line.contains(STARTS)));
    let server = (!starts).then(|| project.up());
    let address = if starts { free_address() } else { address(&project) };

    let script = script(&text, &blocks, &outputs).replace(ADDRESS, &address);
    let file = beside.path().join("script");
    std::fs::write(&file, script.replace(STARTS, &format!("{STARTS} --listen {address}"))).unwrap();
    let mut path = vec![bin];
    path.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap()));
    let mut command = Command::new("bash");
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("PINRAIL_")) {
        command.env_remove(name);
    }
    // The page about tests needs an interpreter that has pytest.
    if let Some(python) = std::env::var_os("PINRAIL_TEST_PYTHON") {
        command.env("PINRAIL_PYTHON", python);
    }
    command
        .arg(&file)
        .current_dir(project.path())
        .stdin(Stdio::null())
        .env("PATH", std::env::join_paths(path).unwrap());
    // What belongs to the user is thrown away as well.
    let status = command.env("HOME", beside.path()).env_remove("XDG_CONFIG_HOME").env("LC_ALL", "C.UTF-8").status();
    drop(server);

    let printed = |block: &Block<'_>| {
        let bytes = std::fs::read(outputs.join(block.first.to_string())).unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes).replace(&address, ADDRESS);
        text.replace(&project.path().canonicalize().unwrap().display().to_string(), FOLDER)
    };
    if !status.unwrap().success() {
        let line = std::fs::read_to_string(outputs.join("line")).unwrap_or_default();
        let at: usize = line.trim().parse().unwrap_or(0);
        let block = blocks.iter().find(|block| block.first <= at && at <= block.last);
        panic!("{page}:{at}: the command failed\n{}", block.map(printed).unwrap_or_default());
    }
    let mut wrong = String::new();
    for pair in blocks.windows(2).filter(|pair| pair[0].is_run() && matches!(pair[1].kind, "text" | "json")) {
        let between = text.lines().skip(pair[0].last).take(pair[1].first - pair[0].last - 1);
        if between.map(str::trim).any(|line| !line.is_empty()) {
            continue;
        }
        let found = printed(&pair[0]);
        if !matches(&redacted(&pair[1].lines.join("\n")), &redacted(&found)) {
            let _ = writeln!(wrong, "{page}:{}: the output differs; it is\n{found}", pair[1].first);
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

/// Where the live server of a project listens.
fn address(project: &Project) -> String {
    let text = std::fs::read_to_string(project.state().join("server.json")).unwrap();
    let live: serde_json::Value = serde_json::from_str(&text).unwrap();
    live["url"].as_str().unwrap().trim_start_matches("http://").to_owned()
}

/// An address that nobody listens at.
fn free_address() -> String {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

/// The page as a script whose lines are those of the page.
fn script(text: &str, blocks: &[Block<'_>], outputs: &Path) -> String {
    let outputs = outputs.display();
    let mut lines = vec![String::new(); text.lines().count()];
    // Every page begins with its heading, so its first line is free.
    let trap = format!("trap 'echo \"$LINENO\" >{outputs}/line' ERR");
    lines[0] = format!("set -e; {trap}; trap 'trap - ERR; pinrail down >/dev/null 2>&1 || true' EXIT");
    for block in blocks {
        let (first, last) = (block.first - 1, block.last - 1);
        if block.is_run() {
            let code = block.info.strip_prefix("exit=");
            lines[first] = format!("exec >{outputs}/{} 2>&1", block.first);
            if let Some(code) = code {
                lines[first].push_str("; trap - ERR; set +e");
                lines[last] =
                    format!("[ $? = {code} ] || {{ echo {} >{outputs}/line; exit 1; }}; set -e; {trap}", last + 1);
            }
        } else if let Some(path) = block.path() {
            lines[first] = format!("mkdir -p \"$(dirname {path})\"; cat >{path} <<'END OF FILE'");
            lines[last] = "END OF FILE".to_owned();
        } else {
            continue;
        }
        for (line, at) in block.lines.iter().zip(first + 1..) {
            (*line).clone_into(&mut lines[at]);
        }
    }
    lines.join("\n") + "\n"
}

fn matches(wanted: &[String], found: &[String]) -> bool {
    match wanted {
        [] => found.is_empty(),
        [any, rest @ ..] if any == "..." => (0..=found.len()).any(|skipped| matches(rest, &found[skipped..])),
        [line, rest @ ..] => found.first() == Some(line) && matches(rest, &found[1..]),
    }
}

/// The lines without what differs from run to run, which includes the order in which jobs end.
fn redacted(text: &str) -> Vec<String> {
    let mut lines: Vec<String> = text.lines().map(redact).collect();
    for ended in lines.chunk_by_mut(|a, b| is_task(a) && is_task(b)) {
        ended.sort();
    }
    lines
}

/// A line of `run` about a job that has ended.
fn is_task(line: &str) -> bool {
    ["✔ ", "✘ ", "– "].iter().any(|mark| line.starts_with(mark))
}

/// A line without what differs from run to run: runs of blanks and rules are one, and volatile words are a sign.
fn redact(line: &str) -> String {
    let words: Vec<&str> = line.split_whitespace().collect();
    let mut shown = Vec::new();
    for (index, word) in words.iter().enumerate() {
        let unit = words.get(index + 1).map(|next| next.trim_end_matches([',', '.', ')', ';']));
        let measured =
            unit.is_some_and(|unit| UNITS.contains(&unit)) && word.trim_matches(['(', '-']).parse::<f64>().is_ok();
        shown.push(if measured { "#".to_owned() } else { redact_word(word) });
    }
    shown.join(" ")
}

const UNITS: [&str; 12] = ["ms", "s", "min", "h", "d", "B", "kB", "MB", "GB", "KiB", "MiB", "seconds"];

/// The parts of a word between quotes, brackets and the like.
fn redact_word(word: &str) -> String {
    let mut shown = String::new();
    let mut rest = word;
    while let Some(c) = rest.chars().next() {
        let end = rest.find(|c: char| !(c.is_ascii_alphanumeric() || "_-.:".contains(c))).unwrap_or(rest.len());
        if end == 0 {
            // A rule is as long as what stands above it.
            if !(c == '─' && shown.ends_with('─')) {
                shown.push(c);
            }
            rest = &rest[c.len_utf8()..];
            continue;
        }
        let part = rest[..end].trim_end_matches(['.', ':']);
        shown.push_str(if is_volatile(part) { "#" } else { part });
        shown.push_str(&rest[part.len()..end]);
        rest = &rest[end..];
    }
    shown
}

fn is_volatile(word: &str) -> bool {
    let crockford =
        |text: &str| text.bytes().all(|b| b.is_ascii_digit() || (b.is_ascii_uppercase() && !b"ILOU".contains(&b)));
    let id = word.rsplit_once('_').map_or(word, |(_, ulid)| ulid);
    let hex = word.len() >= 4 && word.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    // 14:02, 14:02:10.123; 2026-01-02T03:04:05Z
    let clock = |text: &str| text.contains(':') && text.split(':').all(|part| digits(part.trim_end_matches('Z')));
    let moment =
        word.split_once('T').is_some_and(|(day, time)| day.len() == 10 && day.starts_with("20") && clock(time));
    let measured = ["ms", "s", "min"].iter().any(|unit| word.strip_suffix(unit).is_some_and(digits));
    // The last characters of an id, and whole ids.
    ((id.len() == 26 || id.len() == 4) && crockford(id) && !word.is_empty()) || hex || clock(word) || moment || measured
}

#[test]
fn only_what_differs_from_run_to_run_is_not_compared() {
    assert_eq!(redact("hello · 2013-01-01 · run K3F9 in 0.6 s"), "hello · 2013-01-01 · run # in # s");
    assert_eq!(redact(r#"{"id": "run_01M8480QY1158KW8AB2YKPDYHR","#), r##"{"id": "#","##);
    assert_eq!(redact("at 2026-11-23T13:02:40.585413Z,  3 rows"), "at #, 3 rows");
    assert_eq!(redact("folder (1c77)  14:02:10"), "folder (#) #");
    assert!(matches(&["a".into(), "...".into(), "d".into()], &redacted("a\nb\nc\nd")));
    assert!(!matches(&["a".into(), "d".into()], &redacted("a\nb\nd")));
}
