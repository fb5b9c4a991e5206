//! Retention of the real server: what earlier servers left is gone soon after its start, what is needed stays.

use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use crate::support::{Project, task, wait_until};

/// As if it had been there for decades.
fn age(path: &Path) {
    if path.is_dir() {
        std::fs::read_dir(path).unwrap().for_each(|entry| age(&entry.unwrap().path()));
    }
    let file = std::fs::File::open(path).unwrap();
    file.set_modified(UNIX_EPOCH + Duration::from_secs(1_000_000_000)).unwrap();
}

#[test]
fn a_server_clears_what_others_left_and_nothing_that_is_needed() {
    let project = Project::new(&[
        ("workflows/w.py", "workflow = {template(name='a', class_='jobs.a.a'): []}"),
        ("jobs/a.py", "def a(ctx):\n    ctx.save('note.txt', 'noted')\n    ctx.log('said')\n"),
    ]);
    let run = project.run(&["run", "w", "--json"]).json();
    let attempt = task(&run, "a")["attempts"][0]["id"].as_str().unwrap().to_owned();
    let unknown = "att_00000000000000000000000000";
    let left = [
        format!("scratch/projects/demo/{attempt}/left"),
        format!("scratch/{unknown}/left"),
        "scratch/backup-1f/state.db".to_owned(),
        format!("logs/{unknown}.log"),
        "blobs/ab/half.1f".to_owned(),
        format!("blobs/ab/{}", "ab".repeat(32)),
        "bundles/half.1f/a.py".to_owned(),
        format!("bundles/{}/a.py", "ab".repeat(32)),
        format!("compiled/demo-{}.json", "ab".repeat(32)),
    ]
    .map(|path| project.state().join(path));
    for path in &left {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, "left").unwrap();
    }
    for folder in ["scratch", "blobs", "bundles", "compiled"] {
        age(&project.state().join(folder));
    }
    let _server = project.up();
    wait_until("what was left is gone", || left.iter().all(|path| !path.exists()));
    assert_eq!(project.log("a"), "said\n");
    assert_eq!(project.run(&["files", "last", "note.txt"]).out, "noted");
    let again = project.run(&["retry", "--job", "a"]);
    assert_eq!(again.code, Some(0), "its bundle is unpacked again: {again:?}");
}
