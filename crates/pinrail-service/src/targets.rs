//! `[targets.NAME]` of pinrail.toml, which target a request means, and what may be done there.
//!
//! Invariants:
//! - what a deploy said of a target holds until the next deploy to it: no folder's file makes it less protected;
//! - the tables of a protected target are changed by runs of the versions that are deployed to it, and by nothing else,
//!   under whatever name a folder reaches for them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use pinrail_model::document::Sha;
use pinrail_model::names::{BadName, ParamName, Prefix, ProjectName, TargetName, WorkflowName};
use pinrail_model::near::nearest;
use pinrail_model::run::Run;
use pinrail_model::seam::store::{ActiveVersion, Answer, Query, Who};
use pinrail_model::target::{Source, Target, name_of};

use crate::app::App;
use crate::problem::Problem;
use crate::project::{FILE, Project, ProjectError, json};
use crate::tokens::Principal;

/// The target that is meant when nobody names one, if the file declares it.
const USUAL: &str = "dev";
/// Settings of a target, with what each says.
pub const KEYS: &[(&str, &str)] = &[
    ("prefix", "Stands before the namespaces of the target's tables; without it they are stored as they are written"),
    ("read_from", "The target that a table which this one lacks is read from, and never written"),
    ("protected", "`true`: its tables are changed by runs of deployed workflows only"),
    ("schedules", "`false`: schedules of workflows that are deployed to it do not fire"),
    (
        "vars",
        "A section of its own, `[targets.NAME.vars]`: values for SQL as `{{ var.x }}`, for Python as `ctx.vars.x`",
    ),
];

/// The targets that a project declares.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Targets {
    all: BTreeMap<TargetName, Arc<Target>>,
    usual: Option<TargetName>,
}

/// One section as it is written.
struct Written {
    prefix: Option<Prefix>,
    read_from: Option<TargetName>,
    protected: bool,
    schedules: bool,
    vars: BTreeMap<String, serde_json::Value>,
}

impl Targets {
    /// Reads the sections below `[targets]`; `usual` is the one that `[project]` names.
    ///
    /// # Errors
    /// What is wrong with them, with line and remedy.
    pub(crate) fn read(text: &str, targets: &toml::Table, usual: Option<&str>) -> Result<Self, ProjectError> {
        let mut written: BTreeMap<TargetName, Written> = BTreeMap::new();
        for (name, value) in targets {
            let at = Place { text, section: format!("[targets.{name}]") };
            let Some(table) = value.as_table() else {
                let message = format!("\"{name}\" in [targets] must be a section of its own: [targets.{name}]");
                return Err(wrong(text, name, message));
            };
            let known: TargetName = name.parse().map_err(|e: BadName| at.wrong(name, e.to_string()))?;
            written.insert(known, at.target(table)?);
        }
        let mut prefixes: BTreeMap<Option<&Prefix>, &TargetName> = BTreeMap::new();
        for (name, target) in &written {
            let at = Place { text, section: format!("[targets.{name}]") };
            if let Some(other) = prefixes.insert(target.prefix.as_ref(), name) {
                let message = match &target.prefix {
                    Some(prefix) => format!("targets \"{other}\" and \"{name}\" have the same prefix \"{prefix}\""),
                    None => format!("targets \"{other}\" and \"{name}\" both have no prefix"),
                };
                let hint = "Give each its own, such as prefix = \"dev\": otherwise their tables would be the same.";
                return Err(ProjectError { hint: Some(hint.to_owned()), ..at.wrong("prefix", message) });
            }
        }
        let mut all = BTreeMap::new();
        for name in written.keys() {
            let reads = sources(text, &written, name)?;
            let Some(of) = written.get(name) else { continue };
            let target = Target {
                name: name.clone(),
                prefix: of.prefix.clone(),
                reads,
                protected: of.protected,
                schedules: of.schedules,
                vars: of.vars.clone(),
                scratch: None,
            };
            all.insert(name.clone(), Arc::new(target));
        }
        let usual = match usual {
            Some(named) => match all.keys().find(|name| name.as_str() == named) {
                Some(found) => Some(found.clone()),
                None => {
                    let message = format!("\"target\" in [project] is \"{named}\", but there is no [targets.{named}]");
                    let near = nearest(named, all.keys().map(TargetName::as_str));
                    let hint = near.map(|near| format!("did you mean \"{near}\"?"));
                    return Err(ProjectError { hint, ..wrong(text, "target", message) });
                }
            },
            None if all.len() == 1 => all.keys().next().cloned(),
            None => all.keys().find(|name| name.as_str() == USUAL).cloned(),
        };
        Ok(Self { all, usual })
    }

    /// The one that is meant when nobody names one: the one that `[project]` names, `dev`, or the only one.
    #[must_use]
    pub fn usual(&self) -> Option<&TargetName> {
        self.usual.as_ref()
    }

    /// The target that is named, or the usual one; none where the project has no targets.
    ///
    /// # Errors
    /// None of that name, or several and none named.
    pub(crate) fn find(&self, named: Option<&TargetName>) -> Result<Option<Arc<Target>>, Problem> {
        match named.or(self.usual.as_ref()) {
            Some(name) => match self.all.get(name) {
                Some(target) => Ok(Some(Arc::clone(target))),
                None => Err(not_declared(name, self.all.keys())),
            },
            None if self.all.is_empty() => Ok(None),
            None => {
                let names: Vec<&str> = self.all.keys().map(TargetName::as_str).collect();
                let detail = format!("the project has the targets {}, and none is named", names.join(", "));
                let hint =
                    "Say which: --target NAME; or name the usual one in pinrail.toml: [project] target = \"NAME\".";
                Err(Problem::new("bad-parameter", detail).hint(hint))
            }
        }
    }
}

fn not_declared<'a>(name: &TargetName, known: impl Iterator<Item = &'a TargetName> + Clone) -> Problem {
    let problem = Problem::new("target-not-found", format!("target \"{name}\" is not declared in {FILE}"));
    match nearest(name.as_str(), known.clone().map(TargetName::as_str)) {
        Some(near) => problem.hint(format!("Did you mean \"{near}\"?")),
        None => {
            let names: Vec<&str> = known.map(TargetName::as_str).collect();
            problem.hint(match names.as_slice() {
                [] => format!("The project has no targets; declare it with a section [targets.{name}]."),
                names => format!("It declares {}.", names.join(", ")),
            })
        }
    }
}

/// Where a target reads what it lacks: the one it names, then what that one names.
fn sources(text: &str, all: &BTreeMap<TargetName, Written>, name: &TargetName) -> Result<Vec<Source>, ProjectError> {
    let at = Place { text, section: format!("[targets.{name}]") };
    let (mut found, mut seen, mut from) = (Vec::new(), BTreeSet::from([name]), name);
    while let Some(next) = all.get(from).and_then(|target| target.read_from.as_ref()) {
        let Some((known, target)) = all.get_key_value(next) else {
            let near = nearest(next.as_str(), all.keys().map(TargetName::as_str));
            let hint = near.map(|near| format!("did you mean \"{near}\"?"));
            let message = format!("target \"{from}\" reads from \"{next}\", but there is no [targets.{next}]");
            return Err(ProjectError { hint, ..at.wrong("read_from", message) });
        };
        if !seen.insert(known) {
            return Err(at.wrong("read_from", format!("target \"{name}\" would read from itself")));
        }
        found.push(Source { target: known.clone(), prefix: target.prefix.clone(), at: None });
        from = known;
    }
    Ok(found)
}

/// A section of the file.
struct Place<'a> {
    text: &'a str,
    section: String,
}

impl Place<'_> {
    /// An error at a key of the section, or at the section.
    fn wrong(&self, key: &str, message: String) -> ProjectError {
        let start = self.text.lines().position(|line| line.trim().starts_with(&self.section));
        let is_key = |line: &str| line.trim_start().trim_start_matches('"').starts_with(key);
        let below = |start: usize| self.text.lines().skip(start + 1).take_while(|line| !line.trim().starts_with('['));
        let line = start.map_or(1, |start| below(start).position(is_key).map_or(start + 1, |at| start + at + 2));
        ProjectError { file: FILE.to_owned(), line, message, hint: None }
    }

    fn target(&self, table: &toml::Table) -> Result<Written, ProjectError> {
        let known = || KEYS.iter().map(|(key, _)| *key);
        if let Some(key) = table.keys().find(|key| !known().any(|known| known == key.as_str())) {
            let hint = nearest(key, known()).map(|near| format!("did you mean \"{near}\"?"));
            let message = format!("unknown setting \"{key}\" in {}", self.section);
            return Err(ProjectError { hint, ..self.wrong(key, message) });
        }
        Ok(Written {
            prefix: self.name(table, "prefix")?,
            read_from: self.name(table, "read_from")?,
            protected: self.flag(table, "protected", false)?,
            schedules: self.flag(table, "schedules", true)?,
            vars: self.vars(table)?,
        })
    }

    fn name<T: std::str::FromStr<Err = BadName>>(
        &self,
        table: &toml::Table,
        key: &str,
    ) -> Result<Option<T>, ProjectError> {
        match table.get(key) {
            None => Ok(None),
            Some(toml::Value::String(name)) => {
                name.parse().map(Some).map_err(|e: BadName| self.wrong(key, e.to_string()))
            }
            Some(_) => Err(self.wrong(key, format!("\"{key}\" in {} must be a text", self.section))),
        }
    }

    fn flag(&self, table: &toml::Table, key: &str, usual: bool) -> Result<bool, ProjectError> {
        match table.get(key) {
            None => Ok(usual),
            Some(toml::Value::Boolean(flag)) => Ok(*flag),
            Some(_) => Err(self.wrong(key, format!("\"{key}\" in {} must be true or false", self.section))),
        }
    }

    fn vars(&self, table: &toml::Table) -> Result<BTreeMap<String, serde_json::Value>, ProjectError> {
        let Some(given) = table.get("vars") else { return Ok(BTreeMap::new()) };
        let section = self.section.replace(']', ".vars]");
        let Some(vars) = given.as_table() else {
            return Err(self.wrong("vars", format!("\"vars\" must be a section of its own: {section}")));
        };
        let at = Place { text: self.text, section };
        let one = |(name, value): (&String, &toml::Value)| {
            name.parse::<ParamName>().map_err(|e| at.wrong(name, e.to_string()))?;
            match value {
                toml::Value::Table(_) | toml::Value::Array(_) => {
                    Err(at.wrong(name, format!("\"{name}\" in {} must be a text, a number, true or false", at.section)))
                }
                value => Ok((name.clone(), json(value))),
            }
        };
        vars.iter().map(one).collect()
    }
}

/// An error at the first line that begins with a word.
fn wrong(text: &str, word: &str, message: String) -> ProjectError {
    let line = text.lines().position(|line| line.trim_start().starts_with(word)).map_or(1, |at| at + 1);
    ProjectError { file: FILE.to_owned(), line, message, hint: None }
}

impl App {
    /// The targets of a project as they were last deployed to.
    pub(crate) async fn deployed_targets(&self, project: &ProjectName) -> Result<Vec<Target>, Problem> {
        let all = self.known_targets(project).await?;
        Ok(all.into_iter().filter(|target| target.scratch.is_none()).collect())
    }

    /// Those, and the targets of replays.
    async fn known_targets(&self, project: &ProjectName) -> Result<Vec<Target>, Problem> {
        match self.store.read(&Who::default(), Query::Targets { project: project.clone() }).await? {
            Answer::Targets(targets) => Ok(targets),
            _ => Ok(Vec::new()),
        }
    }

    /// The target of a replay, by its name.
    async fn scratch_target(
        &self,
        project: &ProjectName,
        named: Option<&TargetName>,
    ) -> Result<Option<Arc<Target>>, Problem> {
        let Some(name) = named else { return Ok(None) };
        let all = self.known_targets(project).await?;
        Ok(all.into_iter().find(|target| target.scratch.is_some() && target.name == *name).map(Arc::new))
    }

    /// The target at which a bundle's files are to work: the named one, or the usual one. If its name or its tables
    /// are those of a target that a deploy protected, it is that one.
    ///
    /// # Errors
    /// None of that name, or several and none named.
    pub(crate) async fn target_of_bundle(
        &self,
        project: &ProjectName,
        settings: &Project,
        named: Option<&TargetName>,
    ) -> Result<Option<Arc<Target>>, Problem> {
        if let Some(scratch) = self.scratch_target(project, named).await? {
            return Ok(Some(scratch));
        }
        let target = settings.targets.find(named)?;
        let protecting = self.protecting(project, target.as_deref()).await?;
        Ok(match (target, protecting) {
            (Some(target), _) if target.protected => Some(target),
            // Also a folder that knows no targets reaches for the tables of one, those without a prefix.
            (_, Some(known)) => Some(Arc::new(known)),
            (target, None) => target,
        })
    }

    /// The protected target, as a deploy declared it, whose name or tables a target has.
    async fn protecting(&self, project: &ProjectName, target: Option<&Target>) -> Result<Option<Target>, Problem> {
        let (name, prefix) = (target.map(|target| &target.name), target.and_then(|target| target.prefix.as_ref()));
        let known = self.deployed_targets(project).await?;
        Ok(known
            .into_iter()
            .find(|known| known.protected && (Some(&known.name) == name || known.prefix.as_ref() == prefix)))
    }

    /// The target that a request for deployed code means: the named one, or the only one that has what is asked for.
    ///
    /// # Errors
    /// None of that name was deployed to, or several have it and none is named.
    pub(crate) async fn target_of_deployed(
        &self,
        principal: &Principal,
        project: &ProjectName,
        workflow: Option<&WorkflowName>,
        named: Option<&TargetName>,
    ) -> Result<Option<Arc<Target>>, Problem> {
        let known = self.deployed_targets(project).await?;
        let find = |name: &TargetName| known.iter().find(|target| target.name == *name).cloned().map(Arc::new);
        if let Some(name) = named {
            return find(name).map(Some).ok_or_else(|| not_deployed(project, name, &known));
        }
        let active = self.workflows(principal, project).await?;
        let having = active.iter().filter(|active| workflow.is_none_or(|workflow| active.workflow == *workflow));
        let having: BTreeSet<Option<&TargetName>> = having.map(|active| active.target.as_ref()).collect();
        match having.into_iter().collect::<Vec<_>>().as_slice() {
            // What nothing declares are the tables without a prefix, which may be those of a target all the same.
            [] | [None] => Ok(self.protecting(project, None).await?.map(Arc::new)),
            [Some(one)] => Ok(find(one)),
            several => {
                let names: Vec<&str> = several.iter().map(|name| name.map_or("none", TargetName::as_str)).collect();
                let what = workflow.map_or_else(|| "the project".to_owned(), |name| format!("workflow \"{name}\""));
                let detail = format!("{what} is deployed to the targets {}, and none is named", names.join(", "));
                Err(Problem::new("bad-parameter", detail).hint("Say which: --target NAME."))
            }
        }
    }

    /// Refuses code that is not what is deployed where only that may run.
    ///
    /// # Errors
    /// 409 when the target is protected.
    pub(crate) async fn may_run_there(
        &self,
        principal: &Principal,
        project: &ProjectName,
        target: Option<&Arc<Target>>,
        code: Option<(&WorkflowName, Sha)>,
    ) -> Result<(), Problem> {
        let Some(target) = target.filter(|target| target.protected) else { return Ok(()) };
        if let Some((workflow, bundle)) = code {
            let active = self.workflows(principal, project).await?;
            let is_it = |active: &ActiveVersion| {
                active.target.as_ref() == Some(&target.name) && active.workflow == *workflow && active.bundle == bundle
            };
            if active.iter().any(is_it) {
                return Ok(());
            }
        }
        let name = &target.name;
        let detail = format!("target \"{name}\" is protected: only what is deployed to it runs there");
        Err(Problem::new("target-protected", detail).hint(match code {
            Some((workflow, _)) => format!(
                "Deploy with `pinrail deploy --target {name}`, then `pinrail run {workflow} --target {name} --deployed`."
            ),
            None => format!("Make it a job of a workflow, and deploy that with `pinrail deploy --target {name}`."),
        }))
    }

    /// Refuses a deploy by which a target would take the tables of another one, which is protected.
    ///
    /// # Errors
    /// 409, naming both.
    pub(crate) async fn may_deploy_there(
        &self,
        project: &ProjectName,
        target: Option<&Arc<Target>>,
    ) -> Result<(), Problem> {
        let name = name_of(target);
        let prefix = target.and_then(|target| target.prefix.as_ref());
        let known = self.deployed_targets(project).await?;
        let other = known
            .iter()
            .find(|known| known.protected && Some(&known.name) != name.as_ref() && known.prefix.as_ref() == prefix);
        let Some(other) = other else { return Ok(()) };
        let detail = match name {
            Some(name) => {
                format!("target \"{name}\" would have the tables of target \"{}\", which is protected", other.name)
            }
            None => format!(
                "a project without targets would have the tables of target \"{}\", which is protected",
                other.name
            ),
        };
        let hint =
            format!("Give it a prefix of its own; or deploy to \"{}\" with protected = false first.", other.name);
        Err(Problem::new("target-protected", detail).hint(hint))
    }

    /// Refuses a run its own code again where, since it was made, only deployed code may run.
    ///
    /// # Errors
    /// 409 when its tables have become those of a protected target and its code is not what is deployed there.
    pub(crate) async fn may_go_on(&self, principal: &Principal, run: &Run) -> Result<(), Problem> {
        if run.target.as_ref().is_some_and(|target| target.protected) {
            return Ok(());
        }
        let target = self.target_of_run(run).await?;
        let code = run.cause.is_of_a_workflow().then_some((&run.workflow, run.bundle));
        self.may_run_there(principal, &run.project, target.as_ref(), code).await
    }

    /// What a deploy to a target ends, since it has the same tables: a sentence for each other target.
    pub(crate) async fn taken_over(
        &self,
        project: &ProjectName,
        target: Option<&Arc<Target>>,
        elsewhere: &[ActiveVersion],
    ) -> Result<Vec<String>, Problem> {
        let prefix = target.and_then(|target| target.prefix.as_ref());
        let known = self.deployed_targets(project).await?;
        let mut ended: BTreeMap<Option<&TargetName>, Vec<String>> = BTreeMap::new();
        for active in elsewhere {
            let of = known.iter().find(|known| Some(&known.name) == active.target.as_ref());
            if of.and_then(|of| of.prefix.as_ref()) == prefix {
                ended.entry(active.target.as_ref()).or_default().push(format!("\"{}\"", active.workflow));
            }
        }
        let told = |(name, workflows): (Option<&TargetName>, Vec<String>)| {
            let what = match name {
                Some(name) => format!("what was deployed to target \"{name}\", which has the same tables,"),
                None => "what was deployed without a target".to_owned(),
            };
            format!("{what} is active no longer: {}", workflows.join(", "))
        };
        Ok(ended.into_iter().map(told).collect())
    }

    /// The target of a run, as it was last deployed to if it was.
    pub(crate) async fn target_of_run(&self, run: &Run) -> Result<Option<Arc<Target>>, Problem> {
        Ok(match self.protecting(&run.project, run.target.as_deref()).await? {
            Some(known) => Some(Arc::new(known)),
            None => run.target.clone(),
        })
    }

    /// The target that is meant among those of a bundle.
    ///
    /// # Errors
    /// As [`Self::target_of_bundle`], and what is wrong with the bundle.
    pub(crate) async fn target_in(
        &self,
        project: &ProjectName,
        bundle: Sha,
        named: Option<&TargetName>,
    ) -> Result<Option<Arc<Target>>, Problem> {
        let (_, settings) = self.bundle(project, bundle).await?;
        self.target_of_bundle(project, &settings, named).await
    }
}

fn not_deployed(project: &ProjectName, name: &TargetName, known: &[Target]) -> Problem {
    let problem =
        Problem::new("target-not-found", format!("nothing of project \"{project}\" is deployed to target \"{name}\""));
    match nearest(name.as_str(), known.iter().map(|target| target.name.as_str())) {
        Some(near) => problem.hint(format!("Did you mean \"{near}\"?")),
        None => problem.hint(format!("Deploy to it with `pinrail deploy --target {name}`.")),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Targets, ProjectError> {
        let table: toml::Table = text.parse().unwrap();
        let usual = table.get("project").and_then(|project| project.get("target")).and_then(toml::Value::as_str);
        Targets::read(text, table["targets"].as_table().unwrap(), usual)
    }

    #[test]
    fn a_target_reads_what_its_source_reads() {
        let text = "[targets.dev]\nprefix = \"dev\"\nread_from = \"staging\"\n[targets.dev.vars]\nrows = 5\n\
                    [targets.staging]\nprefix = \"staging\"\nread_from = \"prod\"\n[targets.prod]\nprotected = true\n";
        let targets = read(text).unwrap();
        let dev = targets.find(None).unwrap().unwrap();
        assert_eq!(dev.name.as_str(), "dev");
        assert_eq!(dev.vars["rows"], 5);
        assert!(dev.schedules && !dev.protected);
        let reads: Vec<String> = dev.reads.iter().map(|source| source.target.to_string()).collect();
        assert_eq!(reads, ["staging", "prod"]);
        assert!(targets.find(Some(&"prod".parse().unwrap())).unwrap().unwrap().protected);
    }

    #[test]
    fn the_usual_target_is_the_named_one_or_dev_or_the_only_one() {
        let usual = |text: &str| read(text).unwrap().usual().map(ToString::to_string);
        let two = "[targets.a]\nprefix = \"a\"\n[targets.b]\n";
        assert_eq!(usual("[targets.a]\n").as_deref(), Some("a"));
        assert_eq!(usual(two), None);
        assert_eq!(usual(&format!("{two}[targets.dev]\nprefix = \"dev\"\n")).as_deref(), Some("dev"));
        assert_eq!(usual(&format!("[project]\ntarget = \"b\"\n{two}")).as_deref(), Some("b"));
        assert_eq!(read(two).unwrap().find(None).unwrap_err().code, "bad-parameter");
    }

    #[test]
    fn mistakes_are_named_with_line_and_remedy() {
        let say = |text: &str| {
            let e = read(text).unwrap_err();
            format!("{e}{}", e.hint.as_ref().map_or_else(String::new, |h| format!(" ({h})")))
        };
        assert_eq!(
            say("[targets.dev]\nprefx = \"dev\"\n"),
            "pinrail.toml:2: unknown setting \"prefx\" in [targets.dev] (did you mean \"prefix\"?)"
        );
        assert_eq!(
            say("[targets.dev]\n\nprefix = \"dev__a\"\n"),
            "pinrail.toml:3: prefix name \"dev__a\" is not allowed: two underscores in a row separate it from the \
             namespace, and it may not end in one"
        );
        assert!(
            say("[targets.a]\n[targets.b]\n")
                .starts_with("pinrail.toml:2: targets \"a\" and \"b\" both have no prefix")
        );
        assert_eq!(
            say("[targets.dev]\nprefix = \"dev\"\nread_from = \"prd\"\n[targets.prod]\n"),
            "pinrail.toml:3: target \"dev\" reads from \"prd\", but there is no [targets.prd] (did you mean \"prod\"?)"
        );
        assert_eq!(
            say("[targets.a]\nprefix = \"a\"\nread_from = \"b\"\n[targets.b]\nread_from = \"a\"\n"),
            "pinrail.toml:3: target \"a\" would read from itself"
        );
        assert_eq!(
            say("[project]\ntarget = \"prd\"\n[targets.prod]\n"),
            "pinrail.toml:2: \"target\" in [project] is \"prd\", but there is no [targets.prd] (did you mean \"prod\"?)"
        );
        assert_eq!(
            say("[targets.dev.vars]\nx = [1]\n"),
            "pinrail.toml:2: \"x\" in [targets.dev.vars] must be a text, a number, true or false"
        );
        assert_eq!(
            say("[targets.dev]\nschedules = 1\n"),
            "pinrail.toml:2: \"schedules\" in [targets.dev] must be true or false"
        );
    }
}
