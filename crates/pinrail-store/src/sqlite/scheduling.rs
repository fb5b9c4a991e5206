//! Schedules, backfills, holds and limits: what is to happen, as rows.

use std::collections::BTreeMap;

use pinrail_model::admit::Scope;
use pinrail_model::backfill::{BackfillState, Progress};
use pinrail_model::ids::BackfillId;
use pinrail_model::names::ProjectName;
use pinrail_model::run::Control;
use pinrail_model::seam::store::{Answer, BackfillRow, LimitName, LimitRow, LimitSet, StoreError, SucceededIn, Who};
use pinrail_model::target::Lane;
use pinrail_model::time::{Interval, Micros};
use pinrail_model::trigger::Trigger;
use rusqlite::{Connection, Row, params};

use super::read::{all, one, parsed, visible};
use super::rows::{decode, encode, execute, target_column};
use super::{broken, sha};

pub(super) fn trigger(connection: &Connection, trigger: &Trigger) -> Result<(), StoreError> {
    execute(
        connection,
        "insert into triggers (project, target, workflow, due_at, data) values (?1, ?2, ?3, ?4, ?5)
         on conflict (project, target, workflow) do update set due_at = excluded.due_at, data = excluded.data",
        params![
            trigger.project.as_str(),
            trigger.target.as_ref().map_or("", |target| target.name.as_str()),
            trigger.workflow.as_str(),
            trigger.due_at().map(|at| at.0),
            encode(trigger)?
        ],
    )
}

pub(super) fn triggers(
    connection: &Connection,
    who: &Who,
    project: Option<&ProjectName>,
) -> Result<Vec<Trigger>, StoreError> {
    let only = project.or(who.project.as_ref());
    let texts: Vec<String> = match only {
        None => all(connection, "select data from triggers order by project, workflow, target", [], |row| row.get(0))?,
        Some(project) => {
            let sql = "select data from triggers where project = ?1 order by workflow, target";
            all(connection, sql, [project.as_str()], |row| row.get(0))?
        }
    };
    let mut found: Vec<Trigger> =
        texts.iter().map(|text| decode("a schedule", text)).collect::<Result<_, StoreError>>()?;
    found.retain(|trigger| visible(who, &trigger.project));
    Ok(found)
}

pub(super) fn backfill(connection: &Connection, row: &BackfillRow) -> Result<(), StoreError> {
    let backfill = &row.backfill;
    execute(
        connection,
        "insert into backfills (id, project, workflow, state, finished, created_at, data, progress)
         values (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)
         on conflict (id) do update set state = excluded.state, finished = excluded.finished, data = excluded.data,
           progress = excluded.progress",
        params![
            backfill.id.to_string(),
            backfill.project.as_str(),
            backfill.workflow.as_str(),
            row.state().name(),
            row.state().is_final(),
            backfill.created_at.0,
            encode(backfill)?,
            encode(&row.progress)?,
        ],
    )
}

pub(super) fn progress(
    connection: &Connection,
    id: BackfillId,
    state: BackfillState,
    progress: &Progress,
) -> Result<(), StoreError> {
    execute(
        connection,
        "update backfills set state = ?2, finished = ?3, progress = ?4 where id = ?1",
        params![id.to_string(), state.name(), state.is_final(), encode(progress)?],
    )
}

fn raw(row: &Row<'_>) -> rusqlite::Result<(String, String)> {
    Ok((row.get(0)?, row.get(1)?))
}

fn a_backfill((data, progress): (String, String)) -> Result<BackfillRow, StoreError> {
    Ok(BackfillRow { backfill: decode("a backfill", &data)?, progress: decode("a backfill", &progress)? })
}

pub(super) fn backfill_row(
    connection: &Connection,
    who: &Who,
    id: BackfillId,
) -> Result<Option<BackfillRow>, StoreError> {
    let found = one(connection, "select data, progress from backfills where id = ?1", [id.to_string()], raw)?;
    let found = found.map(a_backfill).transpose()?;
    Ok(found.filter(|row| visible(who, &row.backfill.project)))
}

pub(super) fn backfills(
    connection: &Connection,
    who: &Who,
    project: Option<&ProjectName>,
    before: Option<BackfillId>,
    limit: u32,
) -> Result<Vec<BackfillRow>, StoreError> {
    if project.is_some_and(|project| !visible(who, project)) {
        return Ok(Vec::new());
    }
    // Greater than every id.
    let before = before.map_or_else(|| "~".to_owned(), |id| id.to_string());
    let rows = match project.or(who.project.as_ref()) {
        None => all(
            connection,
            "select data, progress from backfills where id < ?1 order by id desc limit ?2",
            params![before, limit],
            raw,
        )?,
        Some(project) => all(
            connection,
            "select data, progress from backfills where project = ?1 and id < ?2 order by id desc limit ?3",
            params![project.as_str(), before, limit],
            raw,
        )?,
    };
    rows.into_iter().map(a_backfill).collect()
}

pub(super) fn unfinished(connection: &Connection, who: &Who) -> Result<Vec<BackfillRow>, StoreError> {
    let sql = "select data, progress from backfills indexed by backfills_unfinished where finished = 0 order by id";
    let rows = all(connection, sql, [], raw)?;
    let mut found: Vec<BackfillRow> = rows.into_iter().map(a_backfill).collect::<Result<_, _>>()?;
    found.retain(|row| visible(who, &row.backfill.project));
    Ok(found)
}

/// Backfills of which some runs have no rows yet: they count as runs all the same.
pub(super) fn unmade(connection: &Connection, who: &Who) -> Result<Vec<BackfillRow>, StoreError> {
    let sql = "select data, progress from backfills indexed by backfills_unfinished
                where finished = 0 and progress ->> '$.data.unmade' > 0";
    let rows = all(connection, sql, [], raw)?;
    let mut found: Vec<BackfillRow> = rows.into_iter().map(a_backfill).collect::<Result<_, _>>()?;
    found.retain(|row| visible(who, &row.backfill.project));
    Ok(found)
}

pub(super) fn counts(connection: &Connection, who: &Who, id: BackfillId) -> Result<Answer, StoreError> {
    if who.project.is_some() && backfill_row(connection, who, id)?.is_none() {
        return Ok(Answer::BackfillCounts(BTreeMap::new()));
    }
    let sql = "select state, count(*) from runs indexed by runs_backfill where backfill = ?1 group by state";
    let rows: Vec<(String, u32)> = all(connection, sql, [id.to_string()], |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok(Answer::BackfillCounts(rows.into_iter().collect()))
}

/// The text by which a scope is found: its JSON, in which nothing changes places.
fn scope_text(scope: &Scope) -> Result<String, StoreError> {
    serde_json::to_string(scope).map_err(|e| StoreError::Failed(e.to_string()))
}

pub(super) fn hold(connection: &Connection, scope: &Scope, control: Option<&Control>) -> Result<(), StoreError> {
    let scope = scope_text(scope)?;
    match control {
        None => execute(connection, "delete from holds where scope = ?1", [scope]),
        Some(control) => execute(
            connection,
            "insert into holds (scope, data) values (?1, ?2) on conflict (scope) do update set data = excluded.data",
            params![scope, encode(control)?],
        ),
    }
}

/// A hold of the platform concerns everybody.
pub(super) fn holds(connection: &Connection, who: &Who) -> Result<Vec<(Scope, Control)>, StoreError> {
    let rows = all(connection, "select scope, data from holds order by scope", [], raw)?;
    let mut found = Vec::with_capacity(rows.len());
    for (scope, data) in rows {
        let scope: Scope = serde_json::from_str(&scope).map_err(|e| broken("a hold", e))?;
        let seen = match &scope {
            Scope::Platform => true,
            Scope::Project { project } | Scope::Workflow { project, .. } => visible(who, project),
        };
        if seen {
            found.push((scope, decode("a hold", &data)?));
        }
    }
    Ok(found)
}

pub(super) fn limit(
    connection: &Connection,
    project: &ProjectName,
    name: &LimitName,
    set: Option<&LimitSet>,
) -> Result<(), StoreError> {
    let (kind, own) = name.parts();
    match set {
        None => execute(
            connection,
            "delete from limits where project = ?1 and kind = ?2 and name = ?3",
            params![project.as_str(), kind, own],
        ),
        Some(set) => execute(
            connection,
            "insert into limits (project, kind, name, value, data) values (?1, ?2, ?3, ?4, ?5)
             on conflict (project, kind, name) do update set value = excluded.value, data = excluded.data",
            params![project.as_str(), kind, own, set.value, encode(set)?],
        ),
    }
}

pub(super) fn limits(
    connection: &Connection,
    who: &Who,
    project: Option<&ProjectName>,
) -> Result<Vec<LimitRow>, StoreError> {
    if project.is_some_and(|project| !visible(who, project)) {
        return Ok(Vec::new());
    }
    let raw = |row: &Row<'_>| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?));
    let rows: Vec<(String, String, String, String)> = match project.or(who.project.as_ref()) {
        None => all(connection, "select project, kind, name, data from limits order by project, kind, name", [], raw)?,
        Some(project) => all(
            connection,
            "select project, kind, name, data from limits where project = ?1 order by kind, name",
            [project.as_str()],
            raw,
        )?,
    };
    rows.into_iter()
        .map(|(project, kind, name, data)| {
            let name = match kind.as_str() {
                "quota" => LimitName::Quota,
                "weight" => LimitName::Weight,
                _ => LimitName::Pool(parsed("the name of a pool", &name)?),
            };
            Ok(LimitRow { project: parsed("a project name", &project)?, name, set: decode("a limit", &data)? })
        })
        .collect()
}

pub(super) fn succeeded_runs(
    connection: &Connection,
    lane: &Lane,
    from: Micros,
    until: Micros,
) -> Result<Vec<Interval>, StoreError> {
    all(
        connection,
        "select interval_start, interval_end from runs indexed by runs_interval
          where project = ?1 and workflow = ?2 and interval_start >= ?3 and interval_start < ?4
            and target = ?5 and state = 'succeeded' order by interval_start",
        params![lane.project.as_str(), lane.workflow.as_str(), from.0, until.0, target_column(lane.target.as_ref())],
        |row| Ok(Interval { start: Micros(row.get(0)?), end: Micros(row.get(1)?) }),
    )
}

pub(super) fn succeeded_between(
    connection: &Connection,
    lane: &Lane,
    from: Micros,
    until: Micros,
) -> Result<Vec<SucceededIn>, StoreError> {
    let rows: Vec<(i64, i64, String, String)> = all(
        connection,
        "select r.interval_start, r.interval_end, t.job, t.bundle
           from runs r indexed by runs_interval cross join tasks t on t.run = r.id
          where r.project = ?1 and r.workflow = ?2 and r.interval_start >= ?3 and r.interval_start < ?4
            and r.target = ?5 and t.ending = 'succeeded' and t.instance = '' order by r.interval_start, r.id",
        params![lane.project.as_str(), lane.workflow.as_str(), from.0, until.0, target_column(lane.target.as_ref())],
        |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)),
    )?;
    rows.into_iter()
        .map(|(start, end, job, bundle)| {
            let interval = Interval { start: Micros(start), end: Micros(end) };
            Ok(SucceededIn { interval, job: parsed("a job name", &job)?, bundle: sha(&bundle)? })
        })
        .collect()
}
