//! The process table, read from `/proc`.

use std::collections::BTreeMap;

/// One process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Process {
    pub parent: i32,
    pub zombie: bool,
    /// Clock ticks since boot; together with the pid it is unique.
    pub start_time: u64,
    /// Resident memory in bytes.
    pub resident: u64,
}

/// All processes by pid. What ends while it is read is left out.
pub(crate) fn table() -> BTreeMap<i32, Process> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return BTreeMap::new() };
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok());
    pids.filter_map(|pid| Some((pid, one(pid)?))).collect()
}

/// One process, if it exists.
pub(crate) fn one(pid: i32) -> Option<Process> {
    let text = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
    parse(&String::from_utf8_lossy(&text))
}

/// The children of this process, which must be single-threaded: the kernel lists them by thread. A kernel without that list
/// is asked for all processes.
pub(crate) fn own_children() -> Vec<i32> {
    let me = std::process::id();
    match std::fs::read_to_string(format!("/proc/self/task/{me}/children")) {
        Ok(text) => text.split_ascii_whitespace().filter_map(|pid| pid.parse().ok()).collect(),
        Err(_) => table().into_iter().filter(|(_, p)| p.parent == me.cast_signed()).map(|(pid, _)| pid).collect(),
    }
}

/// The command name may hold anything, so fields count from the last parenthesis.
fn parse(stat: &str) -> Option<Process> {
    let fields: Vec<&str> = stat[stat.rfind(')')? + 1..].split_ascii_whitespace().collect();
    let number = |at: usize| fields.get(at)?.parse::<u64>().ok();
    Some(Process {
        parent: fields.get(1)?.parse().ok()?,
        zombie: matches!(*fields.first()?, "Z" | "X"),
        start_time: number(19)?,
        resident: number(21)? * page_size(),
    })
}

fn page_size() -> u64 {
    static SIZE: std::sync::OnceLock<u64> = std::sync::OnceLock::new();
    *SIZE.get_or_init(|| {
        let size = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok().flatten();
        size.and_then(|size| u64::try_from(size).ok()).unwrap_or(4096)
    })
}

/// The process and everything below it.
pub(crate) fn tree(table: &BTreeMap<i32, Process>, root: i32) -> Vec<i32> {
    let mut children: BTreeMap<i32, Vec<i32>> = BTreeMap::new();
    for (pid, process) in table {
        children.entry(process.parent).or_default().push(*pid);
    }
    let mut found = vec![root];
    let mut at = 0;
    while at < found.len() {
        found.extend(children.get(&found[at]).into_iter().flatten());
        at += 1;
    }
    found
}

/// Whether a process is another one or below it.
pub(crate) fn is_below(pid: i32, root: i32) -> bool {
    let parent = |pid: &i32| one(*pid).map(|process| process.parent).filter(|parent| *parent > 0);
    std::iter::successors(Some(pid), parent).any(|pid| pid == root)
}

/// Processes in whose environment at start this holds; it is given a variable's value by name.
pub(crate) fn with_environment(holds: impl Fn(&dyn Fn(&str) -> Option<String>) -> bool) -> Vec<i32> {
    let marked = |pid: &i32| {
        let Ok(environment) = std::fs::read(format!("/proc/{pid}/environ")) else { return false };
        let value = |name: &str| {
            let mut variables = environment.split(|byte| *byte == 0).filter_map(|v| std::str::from_utf8(v).ok());
            variables.find_map(|v| v.strip_prefix(name)?.strip_prefix('=')).map(str::to_owned)
        };
        holds(&value)
    };
    table().into_keys().filter(marked).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_command_name_with_parentheses_does_not_confuse() {
        let stat = "12 (a) b) S 7 12 12 0 -1 4194304 1 0 0 0 3 4 0 0 20 0 1 0 999 1000 25 18446744073709551615";
        let process = parse(stat).unwrap();
        assert_eq!((process.parent, process.zombie, process.start_time), (7, false, 999));
        assert_eq!(process.resident, 25 * page_size());
    }

    #[test]
    fn this_process_is_in_the_table_below_its_parent() {
        let table = table();
        let me = std::process::id() as i32;
        assert!(tree(&table, table[&me].parent).contains(&me));
        assert!(is_below(me, me) && is_below(me, table[&me].parent) && !is_below(table[&me].parent, me));
    }
}
