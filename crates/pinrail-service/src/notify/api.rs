//! What people ask about notices: which there were and what became of them, and whether a channel works.

use pinrail_model::ids::{NoticeId, RunId, fresh};
use pinrail_model::names::{ChannelName, ProjectName};
use pinrail_model::near::nearest;
use pinrail_model::notify::{Channel, Notice, NoticeEvent, NoticeRow, NoticeState};
use pinrail_model::seam::store::{Answer, Query};
use pinrail_model::time::{Interval, Micros};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Message, Secrets};
use crate::app::App;
use crate::channels::channel_of;
use crate::problem::Problem;
use crate::tokens::{Principal, Role};

/// A notice to one channel, and what became of it.
#[derive(Debug, Serialize, ToSchema)]
pub struct NoticeLine {
    /// The same in every try to deliver it.
    pub id: NoticeId,
    pub channel: ChannelName,
    pub state: NoticeState,
    /// Tries to deliver it, the one that is under way included.
    pub tries: u32,
    /// When it is tried next, while it is pending.
    pub due_at: Option<Micros>,
    /// When it was delivered or given up.
    pub ended_at: Option<Micros>,
    /// What the endpoint answered last, or why it could not be asked.
    pub answer: Option<String>,
    #[serde(flatten)]
    pub notice: Notice,
}

impl From<NoticeRow> for NoticeLine {
    fn from(row: NoticeRow) -> Self {
        let delivery = row.delivery;
        Self {
            id: row.id,
            channel: row.channel,
            state: delivery.state,
            tries: delivery.tries,
            due_at: Some(delivery.due_at).filter(|_| delivery.state == NoticeState::Pending),
            ended_at: delivery.ended_at,
            answer: delivery.answer,
            notice: row.notice,
        }
    }
}

/// A try of a channel.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TestRequest {
    /// What the notice pretends to tell of; a failure unless said otherwise.
    #[serde(default)]
    pub event: Option<NoticeEvent>,
    /// The channel as `pinrail.toml` has it; without it the one that is deployed.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    pub channel: Option<serde_json::Map<String, serde_json::Value>>,
}

/// What became of a try.
#[derive(Debug, Serialize, ToSchema)]
pub struct Tested {
    pub channel: ChannelName,
    /// What receivers see: `email`, `webhook` or `chat`.
    pub kind: String,
    /// Whether the endpoint took the notice.
    pub delivered: bool,
    /// What it answered, or why it could not be asked.
    pub answer: String,
}

impl App {
    /// The notices of a project, newest first.
    ///
    /// # Errors
    /// When the project is not in the caller's reach.
    pub async fn notices(
        &self,
        principal: &Principal,
        project: &ProjectName,
        state: Option<NoticeState>,
        before: Option<NoticeId>,
        limit: u32,
    ) -> Result<Vec<NoticeLine>, Problem> {
        principal.may(Role::Viewer, project)?;
        let query = Query::Notices { project: project.clone(), state, before, limit };
        match self.store.read(&Self::who(principal), query).await? {
            Answer::Notices(rows) => Ok(rows.into_iter().map(NoticeLine::from).collect()),
            _ => Ok(Vec::new()),
        }
    }

    /// Sends a notice of nothing to a channel, now, and gives what came of it.
    ///
    /// # Errors
    /// When the role is too low, or there is no such channel.
    pub async fn test_channel(
        &self,
        principal: &Principal,
        project: &ProjectName,
        name: &str,
        request: TestRequest,
    ) -> Result<Tested, Problem> {
        principal.may(Role::Developer, project)?;
        let bad = |message: String| Problem::new("bad-channel", message);
        let (channel, name) = match request.channel {
            Some(table) => {
                let channel = channel_of(name, &table).map_err(|e| Problem { hint: e.hint, ..bad(e.message) })?;
                (channel, name.parse().map_err(|e: pinrail_model::names::BadName| bad(e.to_string()))?)
            }
            None => self.channel(project, name).await?,
        };
        let notice = pretended(project, &name, request.event.unwrap_or(NoticeEvent::Failure), self.now());
        let id: NoticeId = fresh(self.ids.as_ref());
        let message = Message { id: id.to_string(), notice: &notice, test: true };
        let secrets = Secrets { store: self.store.as_ref(), vault: &self.attempts.parts.vault };
        let sent = secrets.send(&self.sender, project, &channel, &message, self.now()).await;
        let delivered = sent.is_ok();
        let answer = sent.unwrap_or_else(|why| why);
        Ok(Tested { channel: name, kind: channel.kind().to_owned(), delivered, answer })
    }

    async fn channel(&self, project: &ProjectName, name: &str) -> Result<(Channel, ChannelName), Problem> {
        let answer = self.store.read(&Default::default(), Query::Channels { project: project.clone() }).await?;
        let Answer::Channels(channels) = answer else { return Err(channel_not_found(name, project)) };
        let near = nearest(name, channels.keys().map(ChannelName::as_str)).map(str::to_owned);
        match channels.into_iter().find(|(known, _)| known.as_str() == name) {
            Some((name, channel)) => Ok((channel, name)),
            None => Err(match near {
                Some(near) => channel_not_found(name, project).hint(format!("Did you mean \"{near}\"?")),
                None => channel_not_found(name, project),
            }),
        }
    }
}

fn channel_not_found(name: &str, project: &ProjectName) -> Problem {
    let shown: String = name.chars().take(80).collect();
    Problem::new("channel-not-found", format!("project \"{project}\" has no deployed channel \"{shown}\""))
        .hint("Declare it in pinrail.toml, [notify.NAME], then `pinrail deploy`.")
}

/// A notice of nothing. It belongs to a run that there cannot be.
fn pretended(project: &ProjectName, channel: &ChannelName, event: NoticeEvent, now: Micros) -> Notice {
    Notice {
        event,
        at: now,
        project: project.clone(),
        workflow: "test".parse().unwrap_or_else(|_| unreachable!("it is a name")),
        run: RunId::from_parts(0, 0),
        interval: Interval { start: now, end: now },
        ds: now.to_utc().date_naive().to_string(),
        job: None,
        fault: None,
        title: format!("this is a test of channel \"{channel}\" of project \"{project}\""),
        lines: vec![format!("a notice of the event \"{event}\" would come this way; nothing has happened")],
        next: None,
    }
}
