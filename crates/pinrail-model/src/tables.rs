//! Edges and tables: which jobs of a workflow read what others write, and whether anything orders them.
//!
//! Not responsible for finding out what a text reads and writes: an [`Outline`] says so, or the workflow file.
//!
//! Invariants:
//! - what is found depends on the jobs and their outlines alone, in file order;
//! - a job of which nothing is known reads and writes nothing here: silence is never taken for a mistake.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use crate::document::Job;
use crate::names::{JobName, TableRef};
use crate::seam::lake::{Value, WriteMode};

/// A text whose tables are asked for before any run.
#[derive(Debug, Clone, Default)]
pub struct Draft {
    /// Templates not yet filled in.
    pub text: String,
    /// Template values that no run changes, by dotted path; the others are left open.
    pub constants: BTreeMap<String, Value>,
    /// The text declares its job, so its header may hold settings of the job.
    pub declares_job: bool,
}

/// Line and column of a text, from 1.
pub type Place = (u32, u32);

/// The tables that a text names, found without looking at any table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outline {
    /// Tables whose present rows it reads, each where it is first named. A point in a table's past is none of them:
    /// no job of the run can change it.
    pub reads: Vec<(TableRef, Place)>,
    /// By the header if it has one, else by its statements.
    pub writes: Vec<Touch>,
    /// Templates that stand for the names of tables: which tables they are, a run decides.
    pub open: Vec<(String, Place)>,
    /// Jobs whose outputs its templates name.
    pub outputs: BTreeSet<JobName>,
}

/// A table that a job writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Touch {
    pub table: TableRef,
    pub partition: Partition,
    pub effect: Effect,
    /// Where the text says so; none: the workflow file does.
    pub at: Option<Place>,
}

/// Column, in lower case, to value; empty: the whole table.
pub type Partition = BTreeMap<String, Part>;

/// The value of a partition column.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    Constant(String),
    /// What a run makes of it: `{{ ds }}`, an expression.
    Computed(String),
}

impl Part {
    /// The value as the workflow file has it: a text in which templates may stand.
    #[must_use]
    pub fn of_text(text: &str) -> Self {
        match text.trim().strip_prefix("{{").and_then(|rest| rest.strip_suffix("}}")) {
            Some(path) => Self::Computed(format!("{{{{ {} }}}}", path.trim())),
            None if text.contains("{{") => Self::Computed(text.to_owned()),
            None => Self::Constant(text.to_owned()),
        }
    }
}

/// What a write does to the rows that are there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Effect {
    /// The table is there afterwards; its rows are left alone.
    Makes,
    Appends,
    Replaces,
    /// The partitions of the new rows, which only a run knows, or the whole table if it has none.
    ReplacesFound,
}

/// What is known of one job.
#[derive(Debug, Clone, Default)]
pub struct JobTables {
    pub outline: Outline,
    /// It may write tables that nobody has named.
    pub unknown: bool,
}

/// What a job declares in the workflow file; none if it declares nothing.
#[must_use]
pub fn declared(job: &Job) -> Option<Vec<Touch>> {
    let writes = job.writes.as_ref().filter(|writes| !writes.is_empty())?;
    let touches = writes.iter().filter_map(|writes| {
        let partition = writes.partition.iter().map(|(column, text)| (column.to_lowercase(), Part::of_text(text)));
        let effect = match writes.mode {
            WriteMode::Replace => Effect::Replaces,
            WriteMode::Append => Effect::Appends,
        };
        Some(Touch { table: writes.table.parse().ok()?, partition: partition.collect(), effect, at: None })
    });
    Some(touches.collect())
}

/// Why one job waits for another, by their SQL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// It reads a table that the other writes.
    Reads(TableRef, Place),
    /// It names an output of the other.
    Names,
}

/// An edge that the SQL of a job makes; jobs by their positions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Edge {
    pub job: usize,
    pub parent: usize,
    pub reason: Reason,
}

/// The edges of the jobs that take theirs from their SQL (`auto`), beside those that they list: to each job that writes
/// a table that they read, and whose outputs they name. A writer that waits for the reader, by what is listed, is none:
/// its rows are for the next run. In the order of the jobs and of their parents, each edge once.
#[must_use]
pub fn resolve(jobs: &[Job], auto: &[bool], tables: &[JobTables]) -> Vec<Edge> {
    let listed = parents(jobs);
    let mut reach = Reach::new(&listed);
    let writers = writers(tables);
    let names: HashMap<&str, usize> = jobs.iter().enumerate().map(|(ix, job)| (job.name.as_str(), ix)).collect();
    let mut edges = Vec::new();
    for job in (0..jobs.len()).filter(|job| auto[*job]) {
        let outline = &tables[job].outline;
        let mut found: BTreeMap<usize, Reason> = BTreeMap::new();
        for (table, place) in &outline.reads {
            for &writer in writers.get(table).into_iter().flatten().filter(|writer| **writer != job) {
                if !reach.waits(writer, job) {
                    found.entry(writer).or_insert_with(|| Reason::Reads(table.clone(), *place));
                }
            }
        }
        for parent in outline.outputs.iter().filter_map(|name| names.get(name.as_str())).filter(|ix| **ix != job) {
            found.entry(*parent).or_insert(Reason::Names);
        }
        let new = found.into_iter().filter(|(parent, _)| !listed[job].contains(parent));
        edges.extend(new.map(|(parent, reason)| Edge { job, parent, reason }));
    }
    edges
}

/// The positions along a shortest cycle through the first job that is on one, its first repeated at the end; each waits
/// for the one after it.
#[must_use]
pub fn cycle(jobs: &[Job]) -> Option<Vec<usize>> {
    let parents = parents(jobs);
    let ordered: BTreeSet<usize> = in_order(&parents).into_iter().collect();
    let left: Vec<usize> = (0..jobs.len()).filter(|job| !ordered.contains(job)).collect();
    left.into_iter().find_map(|start| {
        let mut came: HashMap<usize, usize> = HashMap::new();
        let mut queue = VecDeque::from([start]);
        while let Some(at) = queue.pop_front() {
            for &parent in &parents[at] {
                if parent == start {
                    let back = std::iter::successors(Some(at), |one| came.get(one).copied());
                    let mut path: Vec<usize> = std::iter::once(start).chain(back).collect();
                    path.reverse();
                    return Some(path);
                }
                if let Entry::Vacant(new) = came.entry(parent) {
                    new.insert(at);
                    queue.push_back(parent);
                }
            }
        }
        None
    })
}

/// What edges and tables disagree on; jobs by their positions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding<'a> {
    /// A job reads what another writes, and neither waits for the other.
    MissingDependency { reader: usize, writer: usize, table: &'a TableRef, at: Place },
    /// Two jobs write the same rows, and neither waits for the other. `certain` is false where only a run can tell.
    DoubleWriter { job: usize, other: usize, write: &'a Touch, others: &'a Touch, certain: bool },
    /// A job that takes its edges from its SQL reads a table that no job is known to write, and this one may.
    UnknownWriter { reader: usize, writer: usize, table: &'a TableRef, at: Place },
}

/// Compares the edges of an acyclic workflow with what its jobs read and write: at most one finding of each kind for a
/// job and a table.
#[must_use]
pub fn findings<'a>(jobs: &[Job], auto: &[bool], tables: &'a [JobTables]) -> Vec<Finding<'a>> {
    let parents = parents(jobs);
    let mut reach = Reach::new(&parents);
    let writers = writers(tables);
    let mut found = Vec::new();
    for (reader, known) in tables.iter().enumerate() {
        let mut told = false;
        for (table, at) in &known.outline.reads {
            let written = writers.get(table);
            let apart = |reach: &mut Reach<'_>, writer: usize| writer != reader && !reach.ordered(reader, writer);
            if let Some(&writer) = written.into_iter().flatten().find(|writer| apart(&mut reach, **writer)) {
                found.push(Finding::MissingDependency { reader, writer, table, at: *at });
            }
            if written.is_none() && auto[reader] && !told {
                let unknown = (0..tables.len()).filter(|writer| tables[*writer].unknown);
                let mut unknown = unknown.filter(|writer| apart(&mut reach, *writer));
                if let Some(writer) = unknown.next() {
                    told = true;
                    found.push(Finding::UnknownWriter { reader, writer, table, at: *at });
                }
            }
        }
    }
    found.extend(double_writers(tables, &mut reach));
    found
}

/// Of each job and table the first other job above it in the file that writes the same.
fn double_writers<'a>(tables: &'a [JobTables], reach: &mut Reach<'_>) -> Vec<Finding<'a>> {
    let mut by_table: HashMap<&TableRef, Written<'a>> = HashMap::new();
    let mut found = Vec::new();
    for (job, known) in tables.iter().enumerate() {
        let mut told: BTreeSet<&TableRef> = BTreeSet::new();
        for write in known.outline.writes.iter().filter(|write| write.effect != Effect::Makes) {
            let written = by_table.entry(&write.table).or_default();
            let mut first = None;
            for (other, others) in written.near(write).filter(|(other, _)| *other != job) {
                let Some(certain) = overlap(write, others) else { continue };
                if (certain || first.is_none()) && !reach.ordered(job, other) {
                    first = Some(Finding::DoubleWriter { job, other, write, others, certain });
                    if certain {
                        break;
                    }
                }
            }
            written.add(job, write);
            if let Some(finding) = first
                && told.insert(&write.table)
            {
                found.push(finding);
            }
        }
    }
    found
}

/// The writes of one table. Partitions by constants of the same columns meet only their equals, and are found by them: a
/// table may have a job for each of its partitions.
#[derive(Default)]
struct Written<'a> {
    fixed: BTreeMap<Vec<&'a str>, ByValues<'a>>,
    loose: Vec<(usize, &'a Touch)>,
}

type ByValues<'a> = BTreeMap<Vec<&'a Part>, Vec<(usize, &'a Touch)>>;

impl<'a> Written<'a> {
    fn is_fixed(write: &Touch) -> bool {
        !write.partition.is_empty() && write.partition.values().all(|part| matches!(part, Part::Constant(_)))
    }

    fn key(write: &'a Touch) -> (Vec<&'a str>, Vec<&'a Part>) {
        write.partition.iter().map(|(column, part)| (column.as_str(), part)).unzip()
    }

    fn add(&mut self, job: usize, write: &'a Touch) {
        if Self::is_fixed(write) {
            let (columns, parts) = Self::key(write);
            self.fixed.entry(columns).or_default().entry(parts).or_default().push((job, write));
        } else {
            self.loose.push((job, write));
        }
    }

    /// Those that may concern the same rows, and others.
    fn near(&self, write: &'a Touch) -> impl Iterator<Item = (usize, &'a Touch)> {
        let (columns, parts) = Self::key(write);
        let only = if Self::is_fixed(write) { self.fixed.get(&columns).map(|same| (columns, same)) } else { None };
        let same = only.as_ref().and_then(|(_, same)| same.get(&parts)).into_iter().flatten();
        let rest = self.fixed.iter().filter(move |(columns, _)| only.as_ref().is_none_or(|(own, _)| own != *columns));
        same.chain(rest.flat_map(|(_, all)| all.values().flatten())).chain(&self.loose).copied()
    }
}

/// Whether two writes of one table concern the same rows: certainly, perhaps (false), or not at all (none).
fn overlap(one: &Touch, other: &Touch) -> Option<bool> {
    use Effect::{Appends, Makes, ReplacesFound};
    match (one.effect, other.effect) {
        (Makes, _) | (_, Makes) | (Appends, Appends) => return None,
        (ReplacesFound, _) | (_, ReplacesFound) => return Some(false),
        _ => {}
    }
    let mut certain = match (one.partition.is_empty(), other.partition.is_empty()) {
        (true, true) => return Some(true),
        // Rows that are added anywhere may lie in the partition that the other replaces.
        (true, false) => return Some(one.effect != Appends),
        (false, true) => return Some(other.effect != Appends),
        (false, false) => one.partition.keys().eq(other.partition.keys()),
    };
    for (column, part) in &one.partition {
        match (part, other.partition.get(column)) {
            (Part::Constant(one), Some(Part::Constant(other))) if one != other => return None,
            (one, Some(other)) => certain &= one == other,
            (_, None) => {}
        }
    }
    Some(certain)
}

/// Who writes each table, in file order.
fn writers(tables: &[JobTables]) -> HashMap<&TableRef, Vec<usize>> {
    let mut writers: HashMap<&TableRef, Vec<usize>> = HashMap::new();
    for (job, known) in tables.iter().enumerate() {
        for write in &known.outline.writes {
            let of_table = writers.entry(&write.table).or_default();
            if of_table.last() != Some(&job) {
                of_table.push(job);
            }
        }
    }
    writers
}

fn parents(jobs: &[Job]) -> Vec<Vec<usize>> {
    let index: HashMap<&str, usize> = jobs.iter().enumerate().map(|(ix, job)| (job.name.as_str(), ix)).collect();
    jobs.iter().map(|job| job.after.iter().filter_map(|name| index.get(name.as_str()).copied()).collect()).collect()
}

/// The jobs that are on no cycle and below none, parents first.
fn in_order(parents: &[Vec<usize>]) -> Vec<usize> {
    let mut children = vec![Vec::new(); parents.len()];
    let mut waits: Vec<usize> = parents.iter().map(Vec::len).collect();
    for (job, parents) in parents.iter().enumerate() {
        parents.iter().for_each(|parent| children[*parent].push(job));
    }
    let mut order: Vec<usize> = (0..parents.len()).filter(|job| waits[*job] == 0).collect();
    let mut at = 0;
    while at < order.len() {
        for &child in &children[order[at]] {
            waits[child] -= 1;
            if waits[child] == 0 {
                order.push(child);
            }
        }
        at += 1;
    }
    order
}

/// Who is above whom. The full table, 50 MB for the largest workflow, is made only if an edge alone does not answer.
struct Reach<'a> {
    parents: &'a [Vec<usize>],
    /// For each job a bit for each job that it waits for, also through others.
    above: Option<Vec<Vec<u64>>>,
}

impl<'a> Reach<'a> {
    fn new(parents: &'a [Vec<usize>]) -> Self {
        Self { parents, above: None }
    }

    /// Whether the job waits for the other, also through others.
    fn waits(&mut self, job: usize, other: usize) -> bool {
        if self.parents[job].is_empty() {
            return false;
        }
        if self.parents[job].contains(&other) {
            return true;
        }
        let above = self.above.get_or_insert_with(|| above(self.parents));
        above[job].get(other / 64).is_some_and(|word| word >> (other % 64) & 1 == 1)
    }

    fn ordered(&mut self, one: usize, other: usize) -> bool {
        self.waits(one, other) || self.waits(other, one)
    }
}

fn above(parents: &[Vec<usize>]) -> Vec<Vec<u64>> {
    let mut above: Vec<Vec<u64>> = vec![Vec::new(); parents.len()];
    for job in in_order(parents).into_iter().filter(|job| !parents[*job].is_empty()) {
        let mut bits = vec![0; parents.len().div_ceil(64)];
        for &parent in &parents[job] {
            bits[parent / 64] |= 1 << (parent % 64);
            bits.iter_mut().zip(&above[parent]).for_each(|(bits, theirs)| *bits |= theirs);
        }
        above[job] = bits;
    }
    above
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::Document;
    use serde_json::json;

    /// Jobs by name and what each lists.
    fn jobs(listed: &[(&str, &[&str])]) -> Vec<Job> {
        let job =
            |(name, after): &(&str, &[&str])| json!({"name": name, "kind": "shell", "shell": ["x"], "after": after});
        let jobs: Vec<_> = listed.iter().map(job).collect();
        let source = json!({"file": "workflows/w.py", "line": 1});
        Document::read(&json!({"format": 1, "workflow": "w", "source": source, "jobs": jobs})).unwrap().jobs
    }

    fn touch(text: &str) -> Touch {
        let mut words = text.split_whitespace();
        let table = words.next().unwrap().parse().unwrap();
        let (mut partition, mut effect) = (Partition::new(), Effect::Replaces);
        for word in words {
            match word {
                "append" => effect = Effect::Appends,
                "found" => effect = Effect::ReplacesFound,
                "make" => effect = Effect::Makes,
                pair => {
                    let (column, value) = pair.split_once('=').unwrap();
                    partition.insert(column.to_owned(), Part::of_text(value));
                }
            }
        }
        Touch { table, partition, effect, at: None }
    }

    fn tables(reads: &[&str], writes: &[&str]) -> JobTables {
        let reads = reads.iter().map(|table| (table.parse().unwrap(), (1, 1))).collect();
        let writes = writes.iter().map(|write| touch(write)).collect();
        JobTables { outline: Outline { reads, writes, ..Outline::default() }, unknown: false }
    }

    /// The findings in words.
    fn found(listed: &[(&str, &[&str])], auto: &[bool], tables: &[JobTables]) -> Vec<String> {
        let jobs = jobs(listed);
        let name = |ix: usize| jobs[ix].name.to_string();
        let word = |finding: &Finding<'_>| match *finding {
            Finding::MissingDependency { reader, writer, table, .. } => {
                format!("{} reads {table} of {}", name(reader), name(writer))
            }
            Finding::DoubleWriter { job, other, write, certain, .. } => {
                format!(
                    "{}, {} {} {}",
                    name(other),
                    name(job),
                    if certain { "write" } else { "may write" },
                    write.table
                )
            }
            Finding::UnknownWriter { reader, writer, table, .. } => {
                format!("{} reads {table}, perhaps of {}", name(reader), name(writer))
            }
        };
        findings(&jobs, auto, tables).iter().map(word).collect()
    }

    #[test]
    fn a_reader_and_a_writer_without_a_path_are_told() {
        let known = [tables(&[], &["t"]), tables(&["t"], &[]), tables(&["t"], &[]), tables(&["t"], &["t append"])];
        let listed: [(&str, &[&str]); 4] = [("w", &[]), ("apart", &[]), ("below", &["w"]), ("far", &["below"])];
        assert_eq!(found(&listed, &[false; 4], &known), ["apart reads main.t of w"]);
        // A reader that goes first reads what the run before has left.
        let listed: [(&str, &[&str]); 4] = [("w", &["apart"]), ("apart", &[]), ("below", &["w"]), ("far", &["below"])];
        assert!(found(&listed, &[false; 4], &known).is_empty());
    }

    #[test]
    fn two_writers_of_the_same_rows_without_a_path_are_told() {
        for (one, other, expected) in [
            ("t", "t", Some(true)),
            ("t", "t day={{ds}}", Some(true)),
            ("t append", "t", Some(true)),
            ("t append", "t append", None),
            ("t append", "t day={{ds}}", Some(false)),
            ("t day={{ds}}", "t day={{ds}}", Some(true)),
            ("t day={{ds}} append", "t day={{ds}}", Some(true)),
            ("t day={{ds}}", "t day=2013-01-02", Some(false)),
            ("t day={{ds}}", "t day={{params.day}}", Some(false)),
            ("t kind=a", "t kind=b", None),
            ("t kind=a", "t kind=a", Some(true)),
            ("t day={{ds}} kind=a", "t day={{ds}} kind=b", None),
            ("t day={{ds}} kind=a", "t day={{ds}}", Some(false)),
            ("t day={{ds}}", "t kind=b", Some(false)),
            ("t found", "t found", Some(false)),
            ("t make", "t", None),
            ("t", "u", None),
        ] {
            let known = [tables(&[], &[one]), tables(&[], &[other])];
            let expected = expected.map(|certain| if certain { "a, b write main.t" } else { "a, b may write main.t" });
            let expected: Vec<&str> = expected.into_iter().collect();
            assert_eq!(found(&[("a", &[]), ("b", &[])], &[false; 2], &known), expected, "{one} and {other}");
            assert!(found(&[("a", &[]), ("b", &["a"])], &[false; 2], &known).is_empty(), "{one} and then {other}");
        }
    }

    #[test]
    fn partitions_by_constants_of_different_columns_may_meet() {
        let known = [tables(&[], &["t day=x"]), tables(&[], &["t kind=b"])];
        assert_eq!(found(&[("a", &[]), ("b", &[])], &[false; 2], &known), ["a, b may write main.t"]);
    }

    #[test]
    fn a_table_with_a_job_for_each_partition_is_compared_in_moments() {
        let names: Vec<String> = (0..20_000).map(|ix| format!("j{ix}")).collect();
        let listed: Vec<(&str, &[&str])> = names.iter().map(|name| (name.as_str(), &[] as &[&str])).collect();
        let write = |ix: usize| tables(&[], &[format!("t kind=k{ix}").as_str()]);
        let mut known: Vec<JobTables> = (0..20_000).map(write).collect();
        assert!(found(&listed, &[false; 20_000], &known).is_empty());
        known[19_999] = write(7);
        assert_eq!(found(&listed, &[false; 20_000], &known), ["j7, j19999 write main.t"]);
    }

    #[test]
    fn edges_come_from_tables_and_outputs_and_what_is_listed_goes_first() {
        let listed = jobs(&[("report", &[]), ("load", &[]), ("size", &["load"]), ("fix", &["report"])]);
        let mut known =
            [tables(&["t", "marts.r"], &["marts.r"]), tables(&[], &["t"]), tables(&["t"], &[]), tables(&[], &["t"])];
        known[0].outline.outputs.insert("size".parse().unwrap());
        let edges = resolve(&listed, &[true, false, true, false], &known);
        let reads = || Reason::Reads("t".parse().unwrap(), (1, 1));
        assert_eq!(
            edges,
            [
                Edge { job: 0, parent: 1, reason: reads() },
                Edge { job: 0, parent: 2, reason: Reason::Names },
                Edge { job: 2, parent: 3, reason: reads() },
            ],
            "fix waits for report, so report does not wait for it"
        );
    }

    #[test]
    fn a_cycle_is_the_shortest_one_through_its_first_job() {
        let mut looped = jobs(&[("a", &[]), ("b", &["a"]), ("c", &["b"]), ("d", &["c"])]);
        assert_eq!(cycle(&looped), None);
        looped[1].after.push("d".parse().unwrap());
        looped[1].after.push("c".parse().unwrap());
        assert_eq!(cycle(&looped), Some(vec![1, 2, 1]));
        let mut itself = jobs(&[("a", &[])]);
        itself[0].after.push("a".parse().unwrap());
        assert_eq!(cycle(&itself), Some(vec![0, 0]));
    }

    #[test]
    fn a_job_that_does_not_say_what_it_writes_is_named_to_those_that_ask() {
        let mut known = [tables(&[], &[]), tables(&["t", "u"], &[])];
        known[0].unknown = true;
        let listed: [(&str, &[&str]); 2] = [("load", &[]), ("reads", &[])];
        assert_eq!(found(&listed, &[false, true], &known), ["reads reads main.t, perhaps of load"]);
        assert!(found(&listed, &[false, false], &known).is_empty(), "its edges are what the author says");
        assert!(found(&[("load", &[]), ("reads", &["load"])], &[false, true], &known).is_empty());
    }
}
