//! The jobs of a run and their edges, by place.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use crate::document::{Document, Job, topological};
use crate::names::JobName;
use crate::select::select;

/// Immutable and shared by all copies of a run; jobs and edges are shared by all runs of a version.
#[derive(Debug, Clone, Default)]
pub struct Graph {
    pub jobs: Vec<Arc<Job>>,
    /// For each job, those that it waits for within the run.
    pub parents: Arc<Vec<Vec<usize>>>,
    pub children: Arc<Vec<Vec<usize>>>,
    /// The length in milliseconds of the longest path that begins here: what finishing early would let begin. A job whose
    /// duration is not known counts as a second.
    pub weight: Vec<u64>,
    /// Attempts of all runs of the workflow that may be under way at once.
    pub concurrency: Option<u32>,
}

/// How long a job of unknown duration counts.
const UNKNOWN: Duration = Duration::from_secs(1);

impl Graph {
    /// The graph of the selected jobs (none: all of them), in file order.
    #[must_use]
    pub fn new(jobs: &[Job], selected: Option<&BTreeSet<JobName>>) -> Self {
        Self::build(jobs.iter().filter(|job| selected.is_none_or(|names| names.contains(&job.name))).cloned().collect())
    }

    /// The graph of a workflow, or of what a dbt-like selection names of it.
    ///
    /// # Errors
    /// What is wrong with the selection, quoted.
    pub fn of_document(document: &Document, jobs: Option<&str>) -> Result<Self, String> {
        let selected = jobs.map(|jobs| select(&document.jobs, jobs)).transpose()?;
        Ok(Self::new(&document.jobs, selected.as_ref()).limited(document.concurrency))
    }

    /// The graph of these jobs, in this order.
    ///
    /// # Errors
    /// The first name that is no job of the document.
    pub fn of<'a>(jobs: &[Job], names: impl Iterator<Item = &'a JobName>) -> Result<Self, JobName> {
        // Looked for one by one, the names of ten thousand jobs would cost as many times ten thousand looks.
        let known: BTreeMap<&JobName, &Job> = jobs.iter().map(|job| (&job.name, job)).collect();
        let found = names.map(|name| known.get(name).map(|job| (*job).clone()).ok_or_else(|| name.clone()));
        Ok(Self::build(found.collect::<Result<_, _>>()?))
    }

    /// The same edges, with the jobs of another graph at some places: what has begun there began as those say.
    #[must_use]
    pub fn with_jobs_of(&self, other: &Self, places: impl Iterator<Item = usize>) -> Self {
        let mut jobs = self.jobs.clone();
        for ix in places {
            jobs[ix] = Arc::clone(&other.jobs[ix]);
        }
        let (parents, children) = (Arc::clone(&self.parents), Arc::clone(&self.children));
        Self { jobs, parents, children, weight: self.weight.clone(), concurrency: self.concurrency }
    }

    /// The same under a limit.
    #[must_use]
    pub fn limited(mut self, concurrency: Option<u32>) -> Self {
        self.concurrency = concurrency;
        self
    }

    /// The same with paths as long as these jobs took.
    #[must_use]
    pub fn weighed(mut self, durations: &BTreeMap<JobName, Duration>) -> Self {
        let own = |job: &Job| durations.get(&job.name).copied().unwrap_or(UNKNOWN).as_millis().max(1) as u64;
        let mut order: Vec<usize> = (0..self.jobs.len()).collect();
        // A job weighs more than those below it, which come first here.
        order.sort_by_key(|ix| self.weight[*ix]);
        for ix in order {
            let below = self.children[ix].iter().map(|child| self.weight[*child]).max().unwrap_or(0);
            self.weight[ix] = below + own(&self.jobs[ix]);
        }
        self
    }

    /// Parents that are left out do not count as edges.
    fn build(jobs: Vec<Job>) -> Self {
        let index: BTreeMap<&str, usize> = jobs.iter().enumerate().map(|(ix, job)| (job.name.as_str(), ix)).collect();
        let parents: Vec<Vec<usize>> = jobs
            .iter()
            .map(|job| job.after.iter().filter_map(|parent| index.get(parent.as_str()).copied()).collect())
            .collect();
        let mut children = vec![Vec::new(); jobs.len()];
        for (child, parents) in parents.iter().enumerate() {
            for parent in parents {
                children[*parent].push(child);
            }
        }
        let mut weight = vec![0; jobs.len()];
        for ix in topological(&jobs).unwrap_or_default().into_iter().rev() {
            let below = children[ix].iter().map(|child| weight[*child]).max().unwrap_or(0);
            weight[ix] = below + UNKNOWN.as_millis() as u64;
        }
        let jobs = jobs.into_iter().map(Arc::new).collect();
        Self { jobs, parents: Arc::new(parents), children: Arc::new(children), weight, concurrency: None }
    }
}
