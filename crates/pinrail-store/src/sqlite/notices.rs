//! The outbox of notices, and the channels that they go to.

use std::collections::BTreeMap;
use std::time::Duration;

use pinrail_model::ids::NoticeId;
use pinrail_model::names::{ChannelName, JobName, ProjectName, WorkflowName};
use pinrail_model::notify::{Channel, Delivery, NoticeEvent, NoticeRow, NoticeState, Usual};
use pinrail_model::seam::store::StoreError;
use pinrail_model::time::Micros;
use rusqlite::{Connection, Params, Row, params};

use super::broken;
use super::read::{all, one};
use super::rows::{decode, encode, execute};

/// Stores notices, each once: one whose key is there already tells of the same thing.
pub(super) fn insert(connection: &Connection, rows: &[NoticeRow]) -> Result<(), StoreError> {
    for row in rows {
        let (notice, delivery) = (&row.notice, &row.delivery);
        if notice.event == NoticeEvent::Recovery && !had_failed(connection, row)? {
            continue;
        }
        execute(
            connection,
            "insert into notices (id, key, project, workflow, run, job, event, channel, at, state, tries, due_at,
                                  ended_at, answer, data)
             values (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15) on conflict do nothing",
            params![
                row.id.to_string(),
                row.key,
                notice.project.as_str(),
                notice.workflow.as_str(),
                notice.run.to_string(),
                notice.job.as_ref().map(JobName::as_str),
                notice.event.name(),
                row.channel.as_str(),
                notice.at.0,
                delivery.state.name(),
                delivery.tries,
                delivery.due_at.0,
                delivery.ended_at.map(|at| at.0),
                delivery.answer,
                encode(notice)?,
            ],
        )?;
    }
    Ok(())
}

/// Whether the run of a notice had failed before it was retried, or else the run of its workflow that ended before it.
/// What was cancelled says nothing.
fn had_failed(connection: &Connection, row: &NoticeRow) -> Result<bool, StoreError> {
    let run = row.notice.run.to_string();
    let sql = "select 1 from events where run = ?1 and kind = 'run-ended' and data ->> 'state' = 'failed' limit 1";
    let itself: Option<i64> = one(connection, sql, [&run], |row| row.get(0))?;
    if itself.is_some() {
        return Ok(true);
    }
    let sql = "select state from runs indexed by runs_ended
                where project = ?1 and workflow = ?2 and finished = 1 and state in ('succeeded', 'failed') and id <> ?3
                order by ended_at desc limit 1";
    let params = params![row.notice.project.as_str(), row.notice.workflow.as_str(), run];
    let last: Option<String> = one(connection, sql, params, |row| row.get(0))?;
    Ok(last.as_deref() == Some("failed"))
}

/// Notes how far a delivery is. What is over stays so.
pub(super) fn deliver(connection: &Connection, id: NoticeId, delivery: &Delivery) -> Result<(), StoreError> {
    execute(
        connection,
        "update notices set state = ?2, tries = ?3, due_at = ?4, ended_at = ?5, answer = ?6
          where id = ?1 and state = 'pending'",
        params![
            id.to_string(),
            delivery.state.name(),
            delivery.tries,
            delivery.due_at.0,
            delivery.ended_at.map(|at| at.0),
            delivery.answer
        ],
    )
}

/// Replaces the channels of a project.
pub(super) fn set_channels(
    connection: &Connection,
    project: &ProjectName,
    channels: &BTreeMap<ChannelName, Channel>,
) -> Result<(), StoreError> {
    execute(connection, "delete from channels where project = ?1", [project.as_str()])?;
    for (name, channel) in channels {
        let sql = "insert into channels (project, name, data) values (?1, ?2, ?3)";
        execute(connection, sql, params![project.as_str(), name.as_str(), encode(channel)?])?;
    }
    Ok(())
}

pub(super) fn channels(
    connection: &Connection,
    project: &ProjectName,
) -> Result<BTreeMap<ChannelName, Channel>, StoreError> {
    let sql = "select name, data from channels where project = ?1 order by name";
    let rows: Vec<(String, String)> = all(connection, sql, [project.as_str()], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let channel = |(name, data): (String, String)| {
        Ok((name.parse().map_err(|e| broken("a channel", e))?, decode("a channel", &data)?))
    };
    rows.into_iter().map(channel).collect()
}

const COLUMNS: &str = "id, key, channel, state, tries, due_at, ended_at, answer, data";

type Raw = (String, String, String, String, u32, i64, Option<i64>, Option<String>, String);

fn raw(row: &Row<'_>) -> rusqlite::Result<Raw> {
    Ok((
        row.get(0)?,
        row.get(1)?,
        row.get(2)?,
        row.get(3)?,
        row.get(4)?,
        row.get(5)?,
        row.get(6)?,
        row.get(7)?,
        row.get(8)?,
    ))
}

fn rows(connection: &Connection, sql: &str, params: impl Params) -> Result<Vec<NoticeRow>, StoreError> {
    all(connection, sql, params, raw)?.into_iter().map(row).collect()
}

fn row((id, key, channel, state, tries, due_at, ended_at, answer, data): Raw) -> Result<NoticeRow, StoreError> {
    let state: NoticeState = state.parse().map_err(|e: String| broken("a notice", e))?;
    Ok(NoticeRow {
        id: id.parse().map_err(|e| broken("a notice", e))?,
        key,
        channel: channel.parse().map_err(|e| broken("a notice", e))?,
        notice: decode("a notice", &data)?,
        delivery: Delivery { state, tries, due_at: Micros(due_at), ended_at: ended_at.map(Micros), answer },
    })
}

/// Of each channel the pending notice that has been due for longest. SQLite takes the other columns from that row.
pub(super) fn due(
    connection: &Connection,
    only: Option<&ProjectName>,
    at: Micros,
) -> Result<Vec<NoticeRow>, StoreError> {
    let sql = "select id, key, channel, state, tries, min(due_at), ended_at, answer, data
                 from notices indexed by notices_pending where state = 'pending' and due_at <= ?1
                group by project, channel";
    let mut found = rows(connection, sql, [at.0])?;
    found.retain(|row| only.is_none_or(|only| row.notice.project == *only));
    Ok(found)
}

/// The newest notices of a project. A statement for each shape, so that each walks its own index.
pub(super) fn list(
    connection: &Connection,
    project: &ProjectName,
    state: Option<NoticeState>,
    before: Option<NoticeId>,
    limit: u32,
) -> Result<Vec<NoticeRow>, StoreError> {
    // No id is greater than this.
    let before = before.map_or_else(|| "ntc_~".to_owned(), |before| before.to_string());
    match state {
        None => {
            let sql = format!("select {COLUMNS} from notices where project = ?1 and id < ?2 order by id desc limit ?3");
            rows(connection, &sql, params![project.as_str(), before, limit])
        }
        Some(state) => {
            let sql = format!(
                "select {COLUMNS} from notices where project = ?1 and state = ?2 and id < ?3 order by id desc limit ?4"
            );
            rows(connection, &sql, params![project.as_str(), state.name(), before, limit])
        }
    }
}

/// How long the jobs of the latest successful runs of a workflow took.
pub(super) fn usual(
    connection: &Connection,
    project: &ProjectName,
    workflow: &WorkflowName,
    runs: u32,
) -> Result<Usual, StoreError> {
    // The instances of a mapped job count as one: what one of them usually takes.
    let sql = "select a.job, cast(avg(a.ended_at - a.started_at) as integer)
                 from (select id, ended_at from runs indexed by runs_ended
                        where project = ?1 and workflow = ?2 and finished = 1 and state = 'succeeded'
                        order by ended_at desc limit ?3) r
                cross join attempts a on a.run = r.id
                where a.state = 'succeeded' and a.ended_at is not null
                group by r.id, a.job order by r.ended_at desc, r.id";
    let rows: Vec<(String, i64)> =
        all(connection, sql, params![project.as_str(), workflow.as_str(), runs], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let mut usual = Usual::default();
    for (job, took) in rows {
        let job: JobName = job.parse().map_err(|e| broken("a job name", e))?;
        usual.jobs.entry(job).or_default().push(Duration::from_micros(u64::try_from(took).unwrap_or(0)));
    }
    Ok(usual)
}
