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
    /// The instances of each mapped job that was spread, by index. They come after all jobs; a mapped job waits for them.
    pub instances: BTreeMap<usize, Vec<usize>>,
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

    /// The graph of these jobs, in this order, each with the index that it has if it is an instance.
    ///
    /// # Errors
    /// The first name that is no job of the document.
    pub fn of<'a>(jobs: &[Job], nodes: impl Iterator<Item = (&'a JobName, Option<u32>)>) -> Result<Self, JobName> {
        let (instances, names): (Vec<_>, Vec<_>) = nodes.partition(|(_, index)| index.is_some());
        // Looked for one by one, the names of ten thousand jobs would cost as many times ten thousand looks.
        let known: BTreeMap<&JobName, &Job> = jobs.iter().map(|job| (&job.name, job)).collect();
        let job = |name: &JobName| known.get(name).map(|job| (*job).clone()).ok_or_else(|| name.clone());
        let mut graph = Self::build(names.into_iter().map(|(name, _)| job(name)).collect::<Result<_, _>>()?);
        let places: BTreeMap<JobName, usize> =
            graph.jobs.iter().enumerate().map(|(ix, job)| (job.name.clone(), ix)).collect();
        let mut made: BTreeMap<usize, Arc<Job>> = BTreeMap::new();
        for (name, _) in instances {
            let of = *places.get(name).ok_or_else(|| name.clone())?;
            let job = made.entry(of).or_insert_with(|| Arc::new(graph.jobs[of].instance()));
            let job = Arc::clone(job);
            graph.add_instance(of, job);
        }
        Ok(graph)
    }

    /// The same where a mapped job has so many instances at least, and those are what the job says now.
    #[must_use]
    pub fn spread(&self, of: usize, instances: usize) -> Self {
        let mut graph = self.clone();
        let job = Arc::new(self.jobs[of].instance());
        for ix in graph.instances.get(&of).into_iter().flatten().take(instances) {
            graph.jobs[*ix] = Arc::clone(&job);
        }
        while graph.instances.get(&of).map_or(0, Vec::len) < instances {
            graph.add_instance(of, Arc::clone(&job));
        }
        graph
    }

    /// It waits for what its job waits for, and its job waits for it.
    fn add_instance(&mut self, of: usize, job: Arc<Job>) {
        let (ix, inputs) = (self.jobs.len(), self.inputs(of).to_vec());
        // The edges of a run with instances are its own.
        let (parents, children) = (Arc::make_mut(&mut self.parents), Arc::make_mut(&mut self.children));
        for input in &inputs {
            children[*input].push(ix);
        }
        self.jobs.push(job);
        parents.push(inputs);
        parents[of].push(ix);
        children.push(vec![of]);
        self.weight.push(self.weight[of] + 1);
        self.instances.entry(of).or_default().push(ix);
    }

    /// The jobs that a job waits for, without instances of its own.
    #[must_use]
    pub fn inputs(&self, ix: usize) -> &[usize] {
        let own = self.instances.get(&ix).map_or(0, Vec::len);
        &self.parents[ix][..self.parents[ix].len() - own]
    }

    /// The same edges, with the jobs of another graph at some places: what has begun there began as those say.
    #[must_use]
    pub fn with_jobs_of(&self, other: &Self, places: impl Iterator<Item = usize>) -> Self {
        let mut jobs = self.jobs.clone();
        for ix in places {
            jobs[ix] = Arc::clone(&other.jobs[ix]);
        }
        Self { jobs, ..self.clone() }
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
            // An instance takes the place of its job, which does nothing itself.
            let is_instance = ix >= self.jobs.len() - self.instances.values().map(Vec::len).sum::<usize>();
            self.weight[ix] = if is_instance { below + 1 } else { below + own(&self.jobs[ix]) };
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
        let (parents, children) = (Arc::new(parents), Arc::new(children));
        Self { jobs, parents, children, weight, concurrency: None, instances: BTreeMap::new() }
    }
}
