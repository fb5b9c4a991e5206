//! Backup beside a live server and an embedded one; restore elsewhere, and go on there.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::{Value, json};

use crate::secrets::set;
use crate::support::{Project, task, wait_until};

const WORKFLOW: &str = "
workflow = {
    template(name='a', class_='jobs.a.a'): [],
    template(name='b', shell='echo $KEY | wc -c', secret_env={'KEY': 'key'}): 'a',
}
";

const JOB: &str = "
def a(ctx):
    ctx.log(f'it was {ctx.ds}')
    ctx.save('note.txt', f'note of {ctx.ds}')
    ctx.output('ds', str(ctx.ds))
";

fn project() -> Project {
    let project = Project::new(&[("workflows/w.py", WORKFLOW), ("jobs/a.py", JOB)]);
    set(&project, "key", "a-secret");
    project
}

fn run(project: &Project, at: &str) -> Value {
    let ran = project.run(&["run", "w", "--at", at, "--json"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    ran.json()
}

fn backup(project: &Project, arguments: &[&str]) -> std::path::PathBuf {
    let file = project.path().join("backups.tar");
    let ran = project.run(&[&["backup", file.to_str().unwrap(), "--json"], arguments].concat());
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert_eq!(ran.json()["bytes"], std::fs::metadata(&file).unwrap().len());
    file
}

/// Restores and gives arguments that name the restored folder.
fn restore(project: &Project, file: &Path, name: &str) -> (String, Value) {
    let state = project.path().join(name).display().to_string();
    let ran = project.run(&["restore", file.to_str().unwrap(), "--state", &state, "--json"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    (state, ran.json())
}

fn server_file(state: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(state.join("server.json")).unwrap()).unwrap()
}

#[test]
fn what_was_there_at_the_backup_is_there_after_the_restore_and_work_goes_on() {
    let project = project();
    let _server = project.up();
    assert_eq!(project.run(&["deploy"]).code, Some(0));
    let before = run(&project, "2013-01-01");
    let file = backup(&project, &["--with-key"]);
    let after = run(&project, "2013-01-02");
    let (state, restored) = restore(&project, &file, "elsewhere");
    assert_eq!(restored["secrets_to_set"], json!([]));
    let there = |arguments: &[&str]| project.run(&[arguments, &["--state", &state]].concat());
    let runs = there(&["runs", "--json"]).json();
    let ids: Vec<&Value> = runs["items"].as_array().unwrap().iter().map(|run| &run["id"]).collect();
    assert_eq!(ids, [&before["id"]], "{after}");
    let id = before["id"].as_str().unwrap();
    assert_eq!(there(&["show", id, "--json"]).json(), project.run(&["show", id, "--json"]).json());
    assert_eq!(there(&["logs", id, "--job", "a"]).out, "it was 2013-01-01\n");
    assert_eq!(there(&["files", id, "note.txt"]).out, "note of 2013-01-01");
    let again = there(&["run", "w", "--deployed", "--at", "2013-01-03", "--json"]).json();
    assert_eq!(again["state"], "succeeded", "{again}");
    assert_eq!(there(&["logs", "--job", "b"]).out, "9\n", "the key came with it");
    assert_ne!(restored["installation"], server_file(&project.state())["installation"]);
    let admin = |state: &Path| std::fs::read_to_string(state.join("admin.token")).unwrap();
    assert_ne!(admin(&project.state()), admin(Path::new(&state)), "the restored folder has an admin token of its own");
}

#[test]
fn a_backup_holds_neither_the_admins_token_nor_the_key() {
    let project = project();
    run(&project, "2013-01-01");
    // Without a live server: one for the time of the call.
    let file = backup(&project, &[]);
    let mode = std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(&file).unwrap());
    assert_eq!(mode & 0o777, 0o600);
    let listed = std::process::Command::new("tar").arg("tf").arg(&file).output().unwrap();
    assert!(listed.status.success(), "any tar reads it");
    let listed = String::from_utf8(listed.stdout).unwrap();
    let top: BTreeSet<&str> = listed.lines().map(|line| line.split('/').next().unwrap()).collect();
    let known = BTreeSet::from(["pinrail-backup.json", "state.db", "blobs", "logs", "warehouse", "pinrail-backup.end"]);
    assert!(top.is_subset(&known) && top.contains("state.db") && top.contains("blobs"), "{top:?}");
    let token = std::fs::read(project.state().join("admin.token")).unwrap();
    let bytes = std::fs::read(&file).unwrap();
    assert!(!bytes.windows(token.len()).any(|part| part == token));
    let scratch = std::fs::read_dir(project.state().join("scratch")).into_iter().flatten();
    let left: Vec<_> = scratch.map(|entry| entry.unwrap().file_name()).filter(|name| name != "projects").collect();
    assert!(left.is_empty(), "{left:?}");

    let state = project.path().join("elsewhere").display().to_string();
    let said = project.run(&["restore", file.to_str().unwrap(), "--state", &state]);
    assert_eq!(said.code, Some(0), "{said:?}");
    assert!(said.out.contains("without the key of the secrets"), "{}", said.out);
    assert!(said.out.contains("demo/key"), "{}", said.out);
    let there = |arguments: &[&str]| project.run(&[arguments, &["--state", &state]].concat());
    assert_eq!(there(&["secret", "list", "--json"]).json()["items"][0]["usable"], false);
    let failed = there(&["run", "w", "--at", "2013-01-02", "--json"]).json();
    assert_eq!(task(&failed, "b")["attempts"][0]["fault"], "user");
    let why = there(&["explain"]).out;
    assert!(why.contains("sealed with a key that this state folder does not have"), "{why}");
    assert_eq!(project.run_with(&["secret", "set", "key", "--state", &state], "new-value").code, Some(0));
    assert_eq!(there(&["retry"]).code, Some(0));
}

#[test]
fn a_restored_folder_leaves_the_processes_of_the_first_one_alone() {
    let job = "import os, time\ndef a(ctx):\n    open(ctx.params.pids, 'a').write(f'{os.getpid()} ')\n    while not os.path.exists(ctx.params.end):\n        time.sleep(0.02)\n";
    let flow = "from pinrail import Param, Workflow, template\nworkflow = Workflow({template(name='a', class_='jobs.a.a', executor='shell'): []}, params={'pids': Param(str), 'end': Param(str)})\n";
    let project = Project::new(&[("workflows/w.py", flow), ("jobs/a.py", job)]);
    let (pids, end) = (project.path().join("pids"), project.path().join("end"));
    let _server = project.up();
    let (pids_text, end_text) = (format!("pids={}", pids.display()), format!("end={}", end.display()));
    let asked = project.run(&["run", "w", "--detach", "--param", &pids_text, "--param", &end_text]);
    assert_eq!(asked.code, Some(0), "{asked:?}");
    let count = || std::fs::read_to_string(&pids).unwrap_or_default().split_whitespace().count();
    wait_until("the job runs", || count() == 1);
    let file = backup(&project, &[]);
    let (state, _) = restore(&project, &file, "elsewhere");
    let mut second = project.command(&["up", "--listen", "127.0.0.1:0", "--state", &state]);
    let mut second = second.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).spawn().unwrap();
    wait_until("the restored run goes on", || count() == 2);
    let run = project.last_run();
    assert_eq!(task(&run, "a")["attempts"][0]["state"], "running", "{run}");
    std::fs::write(&end, "").unwrap();
    assert_eq!(project.wait_for_end()["state"], "succeeded");
    assert_eq!(task(&project.last_run(), "a")["attempts"].as_array().unwrap().len(), 1);
    second.kill().unwrap();
    second.wait().unwrap();
}

#[test]
fn what_is_no_backup_or_no_place_for_one_is_refused() {
    let project = project();
    run(&project, "2013-01-01");
    let file = backup(&project, &[]);
    let text = file.to_str().unwrap();
    let again = project.run(&["backup", text]);
    assert_eq!(again.code, Some(4));
    assert!(again.err.contains("exists already"), "{}", again.err);
    let nowhere = project.run(&["backup", "x.tar", "--state", "nothing"]);
    assert!(nowhere.err.contains("there is no state in"), "{}", nowhere.err);
    assert!(!project.path().join("nothing").exists() && !project.path().join("x.tar").exists());
    let used = project.run(&["restore", text]);
    assert_eq!(used.code, Some(4));
    assert!(used.err.contains("is not an empty folder"), "{}", used.err);
    let whole = std::fs::read(&file).unwrap();
    project.write("cut.tar", "");
    std::fs::write(project.path().join("cut.tar"), &whole[..whole.len() / 2]).unwrap();
    project.write("other.tar", "not an archive");
    for (file, said) in [
        ("cut.tar", "cut off or was changed"),
        ("other.tar", "not a backup of pinrail"),
        ("missing.tar", "cannot be read"),
        ("workflows/w.py", "not a backup of pinrail"),
    ] {
        let ran = project.run(&["restore", file, "--state", "fresh"]);
        assert_eq!(ran.code, Some(4), "{file}: {ran:?}");
        assert!(ran.err.contains(said), "{file}: {}", ran.err);
        assert!(!project.path().join("fresh").exists() && !project.path().join("fresh.restoring").exists(), "{file}");
    }
    let _server = project.up();
    let made = project.run(&["token", "create", "--role", "admin", "--for", "demo", "--json"]).json();
    let refused = crate::service::request(&project, "GET", "/api/v1/backup", made["token"].as_str(), None);
    assert_eq!(refused.0, 403, "the admin of one project does not get all of them: {}", refused.1);
}

#[cfg(feature = "lake")]
#[test]
fn tables_are_found_where_they_are_after_a_restore() {
    let project = project();
    let sql = |state: &str, text: &str| {
        let ran = project.run(&["sql", text, "--json", "--state", state]);
        assert_eq!(ran.code, Some(0), "{ran:?}");
        ran.json()["rows"].clone()
    };
    let first = project.state().display().to_string();
    sql(&first, "create table raw.numbers as select 1 as n union all select 2");
    let file = backup(&project, &[]);
    sql(&first, "insert into raw.numbers values (3)");
    let (second, _) = restore(&project, &file, "second");
    // What is read and written there must not be the files of the first folder.
    std::fs::rename(project.state(), project.path().join("gone")).unwrap();
    assert_eq!(sql(&second, "select n from raw.numbers order by n"), json!([[1], [2]]));
    sql(&second, "insert into raw.numbers values (4)");
    let again = project.path().join("again.tar");
    assert_eq!(project.run(&["backup", again.to_str().unwrap(), "--state", &second]).code, Some(0));
    let (third, _) = restore(&project, &again, "third");
    std::fs::rename(&second, project.path().join("gone too")).unwrap();
    assert_eq!(sql(&third, "select n from raw.numbers order by n"), json!([[1], [2], [4]]));
}
