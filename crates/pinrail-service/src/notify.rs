//! Delivers notices: looks for what is due, sends it, and notes what became of it; and looks at runs that have an SLA.
//!
//! What happened was stored as a row of the outbox in the transaction in which it happened. So a crash loses no notice;
//! one that was sent but not yet noted as such is sent again under the same id.
//!
//! Invariants: of each channel one notice is under way at a time, so that an endpoint that hangs holds up nobody else; a
//! try is noted before it is made, so that none is made for ever.

mod api;
mod send;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use pinrail_model::ids::{Ids, TransitionId, fresh};
use pinrail_model::names::{ChannelName, ProjectName, SecretName, WorkflowName};
use pinrail_model::notify::{Address, Channel, Delivery, NoticeRow, NoticeState, SAMPLE, Usual, watched};
use pinrail_model::run::Run;
use pinrail_model::seam::store::{Answer, Durability, Query, Store, StoreError, Transition, Who, Write};
use pinrail_model::step;
use pinrail_model::time::{Clock, Micros};
use tokio::task::JoinSet;

pub use api::{NoticeLine, TestRequest, Tested};
pub use send::{Message, Sender};

use crate::mask::Masks;
use crate::owner::{Input, OwnerHandle};
use crate::vault::Vault;

/// How often it is looked for notices that are due: people do not notice a second, and a look that finds nothing costs
/// less than a millisecond.
const LOOK: Duration = Duration::from_secs(1);
/// How often runs that have an SLA are looked at.
const WATCH: Duration = Duration::from_secs(30);
/// Channels that are written to at the same time, one notice each.
const AT_ONCE: usize = 64;
/// The wait after a first failed try; it doubles with each further one.
const FIRST_DELAY: Duration = Duration::from_secs(2);
/// The longest wait between two tries: an endpoint that comes back gets its notices within the hour.
const LONGEST_DELAY: Duration = Duration::from_secs(60 * 60);
/// What could not be delivered for so long is given up: it is no news any more.
const GIVE_UP: Duration = Duration::from_secs(24 * 60 * 60);

/// The reconciler of the outbox of one state folder.
pub struct Deliveries {
    pub store: Arc<dyn Store>,
    pub clock: Arc<dyn Clock>,
    pub ids: Arc<dyn Ids>,
    pub vault: Arc<Vault>,
    pub owner: OwnerHandle,
    pub sender: Arc<Sender>,
}

/// A channel of a project.
type Place = (ProjectName, ChannelName);

impl Deliveries {
    /// Works until the server ends.
    pub async fn work(self) {
        let this = Arc::new(self);
        let mut sending: JoinSet<()> = JoinSet::new();
        let mut busy: HashMap<tokio::task::Id, Place> = HashMap::new();
        let mut told = BTreeSet::new();
        let mut last_watch: Option<Duration> = None;
        loop {
            let now = this.clock.now();
            if last_watch.is_none_or(|last| now.mono.saturating_sub(last) >= WATCH) {
                last_watch = Some(now.mono);
                if let Err(error) = this.watch(&mut told, now.wall).await {
                    tracing::warn!(%error, "runs that have an SLA could not be looked at");
                }
            }
            match this.due(now.wall).await {
                Ok(rows) => {
                    for row in rows {
                        let place = (row.notice.project.clone(), row.channel.clone());
                        if sending.len() < AT_ONCE && !busy.values().any(|other| *other == place) {
                            let handle = sending.spawn(Arc::clone(&this).deliver(row));
                            busy.insert(handle.id(), place);
                        }
                    }
                }
                Err(error) => tracing::warn!(%error, "notices could not be looked for"),
            }
            tokio::select! {
                Some(ended) = sending.join_next_with_id(), if !sending.is_empty() => {
                    let id = ended.map_or_else(|error| error.id(), |(id, ())| id);
                    busy.remove(&id);
                }
                () = tokio::time::sleep(LOOK) => {}
            }
        }
    }

    /// Of each channel the notice that has been due for longest.
    async fn due(&self, at: Micros) -> Result<Vec<NoticeRow>, StoreError> {
        match self.store.read(&Who::default(), Query::DueNotices { at }).await? {
            Answer::Notices(rows) => Ok(rows),
            _ => Ok(Vec::new()),
        }
    }

    async fn commit(&self, write: Write) -> Result<(), StoreError> {
        let transition = Transition::new(fresh::<TransitionId>(self.ids.as_ref()), vec![write]);
        self.store.commit(vec![transition], Durability::Waited).await.map(|_| ())
    }

    async fn deliver(self: Arc<Self>, row: NoticeRow) {
        if let Err(error) = self.try_once(&row).await {
            tracing::warn!(%error, id = %row.id, "what became of a notice could not be noted");
        }
    }

    async fn try_once(&self, row: &NoticeRow) -> Result<(), StoreError> {
        let tries = row.delivery.tries + 1;
        let delay = delay(tries);
        // Should this server die now, another one waits as long as after a failure.
        let begun = Delivery { tries, due_at: self.clock.now().wall.plus(delay), ..row.delivery.clone() };
        self.commit(Write::Delivery { id: row.id, delivery: begun.clone() }).await?;
        step!("notify.before-send");
        let sent = self.send(row).await;
        step!("notify.after-send");
        let now = self.clock.now().wall;
        let delivery = match sent {
            Ok(answer) => {
                Delivery { state: NoticeState::Delivered, ended_at: Some(now), answer: Some(answer), ..begun }
            }
            Err(answer) if now.since(row.notice.at) > GIVE_UP => {
                tracing::warn!(id = %row.id, channel = %row.channel, answer, "a notice could not be delivered");
                Delivery { state: NoticeState::Failed, ended_at: Some(now), answer: Some(answer), ..begun }
            }
            Err(answer) => Delivery { due_at: now.plus(delay), answer: Some(answer), ..begun },
        };
        self.commit(Write::Delivery { id: row.id, delivery }).await
    }

    /// Gives what the endpoint answered, or why it did not take the notice.
    async fn send(&self, row: &NoticeRow) -> Result<String, String> {
        let project = &row.notice.project;
        let query = Query::Channels { project: project.clone() };
        let answer = self.store.read(&Who::default(), query).await.map_err(|e| e.to_string())?;
        let channel = match answer {
            Answer::Channels(mut channels) => channels.remove(&row.channel),
            _ => None,
        };
        let channel = channel.ok_or_else(|| format!("channel \"{}\" is not deployed any more", row.channel))?;
        let message = Message { id: row.id.to_string(), notice: &row.notice, test: false };
        let secrets = Secrets { store: self.store.as_ref(), vault: &self.vault };
        secrets.send(&self.sender, project, &channel, &message, self.clock.now().wall).await
    }

    // Runs that have an SLA.

    /// Tells of runs that will miss their SLA or have missed it, each once.
    async fn watch(&self, told: &mut BTreeSet<String>, now: Micros) -> Result<(), StoreError> {
        let Some(runs) = self.owner.ask(Input::Promised).await else { return Ok(()) };
        told.retain(|key| runs.iter().any(|run| key.starts_with(&run.id.to_string())));
        let mut usual: BTreeMap<(ProjectName, WorkflowName), Usual> = BTreeMap::new();
        let mut rows = Vec::new();
        for run in &runs {
            let key = (run.project.clone(), run.workflow.clone());
            if !usual.contains_key(&key) {
                usual.insert(key.clone(), self.usual(run).await?);
            }
            let Some(usual) = usual.get(&key) else { continue };
            rows.extend(watched(run, usual, now, self.ids.as_ref()));
        }
        rows.retain(|row| !told.contains(&row.key));
        if rows.is_empty() {
            return Ok(());
        }
        let keys: Vec<String> = rows.iter().map(|row| row.key.clone()).collect();
        self.commit(Write::Notices(rows)).await?;
        told.extend(keys);
        Ok(())
    }

    async fn usual(&self, run: &Run) -> Result<Usual, StoreError> {
        let query = Query::Usual { project: run.project.clone(), workflow: run.workflow.clone(), runs: SAMPLE };
        match self.store.read(&Who::default(), query).await? {
            Answer::Usual(usual) => Ok(usual),
            _ => Ok(Usual::default()),
        }
    }
}

/// How long is waited after so many tries.
fn delay(tries: u32) -> Duration {
    FIRST_DELAY.saturating_mul(1 << tries.saturating_sub(1).min(16)).min(LONGEST_DELAY)
}

/// What opens the secrets that a channel names.
struct Secrets<'a> {
    store: &'a dyn Store,
    vault: &'a Vault,
}

impl Secrets<'_> {
    /// Sends a message to a channel; what is answered is given without the values of secrets.
    async fn send(
        &self,
        sender: &Sender,
        project: &ProjectName,
        channel: &Channel,
        message: &Message<'_>,
        now: Micros,
    ) -> Result<String, String> {
        let (url, signing) = match channel {
            Channel::Email { to } => return sender.mail(to, message).await,
            Channel::Webhook { url, secret } => (url, secret.as_ref()),
            Channel::Chat { url } => (url, None),
        };
        let mut opened = Vec::new();
        let url = match url {
            Address::Url(url) => url.clone(),
            Address::UrlSecret(name) => {
                let url = self.open(project, name).await?.trim().to_owned();
                opened.push(url.clone());
                if !crate::channels::is_url(&url) {
                    return Err(format!("the value of secret \"{name}\" is not a URL like https://example.org/path"));
                }
                url
            }
        };
        let key = match signing {
            Some(name) => Some(self.open(project, name).await?),
            None => None,
        };
        opened.extend(key.clone());
        let masks = Masks::new(opened.iter().map(String::as_str));
        let body = match channel {
            Channel::Chat { .. } => message.chat(sender),
            _ => message.document(sender),
        };
        let sent = sender.post(url, body, &message.id, key.as_deref(), now).await;
        let masked = |text: String| masks.text(&text).into_owned();
        sent.map(masked).map_err(masked)
    }

    async fn open(&self, project: &ProjectName, name: &SecretName) -> Result<String, String> {
        let query = Query::Secret { project: project.clone(), name: name.clone() };
        let answer = self.store.read(&Who::default(), query).await.map_err(|e| e.to_string())?;
        let Answer::Secrets(rows) = answer else { return Err(format!("secret \"{name}\" is not set")) };
        let row = rows.first().ok_or_else(|| format!("secret \"{name}\" is not set"))?;
        self.vault.open(row).map_err(|e| e.to_string())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use pinrail_model::ids::{NoticeId, RunId};
    use pinrail_model::notify::{Notice, NoticeEvent};
    use pinrail_model::time::{Interval, Now};
    use pinrail_store::SqliteStore;

    use super::*;
    use crate::system::SystemIds;

    #[test]
    fn waits_grow_up_to_an_hour() {
        let waits: Vec<u64> = (1..=14).map(|tries| delay(tries).as_secs()).collect();
        assert_eq!(waits, [2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 3600, 3600, 3600]);
        assert_eq!(delay(u32::MAX), LONGEST_DELAY);
    }

    /// Says what it is told.
    #[derive(Default)]
    struct Told(Mutex<Duration>);

    impl Clock for Told {
        fn now(&self) -> Now {
            let mono = *self.0.lock().expect("nobody panics with it");
            Now { wall: Micros(0).plus(mono), mono }
        }
    }

    /// A notice to a channel that nobody deployed.
    fn undeliverable() -> NoticeRow {
        let notice = Notice {
            event: NoticeEvent::Failure,
            at: Micros(0),
            project: "p".parse().expect("a name"),
            workflow: "w".parse().expect("a name"),
            run: RunId::from_parts(1, 1),
            interval: Interval { start: Micros(0), end: Micros(0) },
            ds: "1970-01-01".to_owned(),
            job: None,
            fault: None,
            title: "it failed".to_owned(),
            lines: Vec::new(),
            next: None,
        };
        let state = NoticeState::Pending;
        let delivery = Delivery { state, tries: 0, due_at: Micros(0), ended_at: None, answer: None };
        let channel = "ops".parse().expect("a name");
        NoticeRow { id: NoticeId::from_parts(1, 1), key: "k".to_owned(), channel, notice, delivery }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_cannot_be_delivered_for_a_day_is_given_up() {
        let folder = tempfile::tempdir().expect("a folder");
        let clock = Arc::new(Told::default());
        let deliveries = Arc::new(Deliveries {
            store: Arc::new(SqliteStore::open(folder.path()).expect("a store")),
            clock: clock.clone(),
            ids: Arc::new(SystemIds),
            vault: Arc::new(Vault::new(folder.path())),
            owner: crate::owner::channel().0,
            sender: Arc::default(),
        });
        deliveries.commit(Write::Notices(vec![undeliverable()])).await.expect("committed");
        let mut waits = Vec::new();
        let row = loop {
            let query = Query::Notices { project: "p".parse().expect("a name"), state: None, before: None, limit: 1 };
            let found = deliveries.store.read(&Who::default(), query).await.expect("an answer");
            let Answer::Notices(mut found) = found else { panic!("not notices") };
            let row = found.pop().expect("the notice");
            if row.delivery.state != NoticeState::Pending {
                break row;
            }
            let now = deliveries.clock.now();
            waits.push(row.delivery.due_at.since(now.wall));
            *clock.0.lock().expect("nobody panics with it") += row.delivery.due_at.since(now.wall);
            let due = deliveries.due(deliveries.clock.now().wall).await.expect("what is due");
            assert_eq!(due, std::slice::from_ref(&row));
            Arc::clone(&deliveries).deliver(row).await;
        };
        assert_eq!(row.delivery.state, NoticeState::Failed);
        assert_eq!(row.delivery.answer.as_deref(), Some("channel \"ops\" is not deployed any more"));
        let waited: Duration = waits.iter().sum();
        assert!(waited > GIVE_UP && waited <= GIVE_UP + LONGEST_DELAY, "{waited:?}");
        assert_eq!(usize::try_from(row.delivery.tries), Ok(waits.len()));
        assert!(deliveries.due(Micros(i64::MAX)).await.expect("what is due").is_empty());
    }
}
