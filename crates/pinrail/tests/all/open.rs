//! A run's files for people, shown where there is something to show them.

use crate::support::Project;

const WORKFLOW: (&str, &str) = (
    "workflows/w.py",
    "workflow = {template(name='a', class_='jobs.a.a'): [], template(name='b', class_='jobs.a.b'): 'a', template(name='c', shell='true'): 'b'}",
);
const JOBS: (&str, &str) = (
    "jobs/a.py",
    "def a(ctx):\n    ctx.save('first.html', 'first')\ndef b(ctx):\n    ctx.save('report.html', '<p>42</p>')\n    ctx.save('table.csv', '6,7')\n",
);

/// A desktop whose browser notes what it is shown.
fn desktop(project: &Project, script: &str) -> (String, std::path::PathBuf) {
    let shown = project.path().join("shown");
    let program = project.path().join("bin/xdg-open");
    project.write("bin/xdg-open", &format!("#!/bin/sh\necho \"$1\" > {}\n{script}\n", shown.display()));
    std::fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    (format!("{}:{}", program.parent().unwrap().display(), std::env::var("PATH").unwrap()), shown)
}

#[test]
fn the_newest_file_is_shown_in_the_browser() {
    let project = Project::new(&[WORKFLOW, JOBS]);
    assert_eq!(project.run(&["run", "w", "--at", "2013-01-01"]).code, Some(0));
    let (path, shown) = desktop(&project, "");
    let open = |arguments: &[&str]| {
        let mut command = project.command(arguments);
        let ran: crate::support::Ran = command.env("PATH", &path).env("DISPLAY", ":0").output().unwrap().into();
        assert_eq!(ran.code, Some(0), "{ran:?}");
        let file = std::fs::read_to_string(&shown).unwrap().trim().to_owned();
        assert!(ran.out.contains(&file), "{ran:?}");
        std::fs::read_to_string(file).unwrap()
    };
    assert_eq!(open(&["open"]), "<p>42</p>");
    assert_eq!(open(&["open", "w@2013-01-01", "table.csv"]), "6,7");
    assert_eq!(open(&["open", "last", "first.html", "--json"]), "first");
}

#[test]
fn without_a_browser_the_path_is_printed() {
    let project = Project::new(&[WORKFLOW, JOBS]);
    assert_eq!(project.run(&["run", "w"]).code, Some(0));
    let (path, _) = desktop(&project, "exit 3");
    for (display, path, said) in [
        ("", path.as_str(), "there is no display here"),
        (":0", "/nowhere", "there is no xdg-open here"),
        (":0", &path, "xdg-open found no browser"),
    ] {
        let mut command = project.command(&["open"]);
        command.env("PATH", path).env("DISPLAY", display).env_remove("WAYLAND_DISPLAY").env_remove("BROWSER");
        let ran: crate::support::Ran = command.output().unwrap().into();
        assert_eq!(ran.code, Some(0), "{ran:?}");
        assert!(ran.err.contains(said), "{ran:?}");
        assert_eq!(std::fs::read_to_string(ran.out.trim()).unwrap(), "<p>42</p>");
    }
    for (arguments, said) in [
        (["open", "last", "x.html"], "left no file \"x.html\""),
        (["open", "w@2012-01-01", "x.html"], "no run \"w@2012-01-01\""),
    ] {
        let refused = project.run(&arguments);
        assert_eq!(refused.code, Some(4), "{refused:?}");
        assert!(refused.err.contains(said), "{}", refused.err);
    }
    assert_eq!(project.run(&["run", "w", "--job", "c"]).code, Some(0));
    let nothing = project.run(&["open"]);
    assert_eq!(nothing.code, Some(4), "{nothing:?}");
    assert!(nothing.err.contains("left no file for people"), "{}", nothing.err);
}
