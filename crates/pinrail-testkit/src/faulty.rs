//! A store that fails when it is told to, and is another store otherwise.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use async_trait::async_trait;
use pinrail_model::ids::{AttemptId, TableId, TransitionId};
use pinrail_model::names::{ProjectName, TableRef};
use pinrail_model::seam::lake::{Overlay, Pointer, PointerError, PointerSwap, Pointers};
use pinrail_model::seam::store::{
    Answer, Command, Durability, Forget, Load, Query, Reply, Store, StoreError, StoredRun, Topic, Transition, Who,
};
use pinrail_model::target::Place;
use pinrail_model::time::Micros;

/// Passes so many calls on to a store and fails all that come after them, as if the process had died just there.
pub struct Faulty {
    inner: Arc<dyn Store>,
    left: AtomicI64,
}

impl Faulty {
    #[must_use]
    pub fn after(inner: Arc<dyn Store>, calls: u32) -> Self {
        Self { inner, left: AtomicI64::new(i64::from(calls)) }
    }

    /// Whether a call has failed.
    #[must_use]
    pub fn has_failed(&self) -> bool {
        self.left.load(Ordering::SeqCst) < 0
    }

    fn pass(&self) -> Result<(), StoreError> {
        if self.left.fetch_sub(1, Ordering::SeqCst) > 0 {
            Ok(())
        } else {
            Err(StoreError::Failed("as told".to_owned()))
        }
    }

    fn pass_pointer(&self) -> Result<(), PointerError> {
        self.pass().map_err(|error| PointerError::Failed(error.to_string()))
    }
}

#[async_trait]
impl Store for Faulty {
    async fn send(&self, commands: Vec<Command>) -> Result<(), StoreError> {
        self.pass()?;
        self.inner.send(commands).await
    }

    async fn take(&self, after: u64) -> Result<Vec<(u64, Command)>, StoreError> {
        self.pass()?;
        self.inner.take(after).await
    }

    async fn load(&self, what: Load) -> Result<Vec<StoredRun>, StoreError> {
        self.pass()?;
        self.inner.load(what).await
    }

    async fn commit(&self, transitions: Vec<Transition>, durability: Durability) -> Result<Vec<Reply>, StoreError> {
        self.pass()?;
        self.inner.commit(transitions, durability).await
    }

    async fn resolve(&self, id: TransitionId) -> Result<Option<Reply>, StoreError> {
        self.pass()?;
        self.inner.resolve(id).await
    }

    async fn read(&self, who: &Who, query: Query) -> Result<Answer, StoreError> {
        self.pass()?;
        self.inner.read(who, query).await
    }

    async fn follow(&self, topic: Topic, after: u64) -> Result<(), StoreError> {
        self.pass()?;
        self.inner.follow(topic, after).await
    }

    async fn copy(&self, to: PathBuf) -> Result<(), StoreError> {
        self.pass()?;
        self.inner.copy(to).await
    }

    async fn forget(&self, what: Forget, before: Micros, most: u32) -> Result<u64, StoreError> {
        self.pass()?;
        self.inner.forget(what, before, most).await
    }

    async fn lease(&self, holder: &str) -> Result<u64, StoreError> {
        self.pass()?;
        self.inner.lease(holder).await
    }
}

#[async_trait]
impl Pointers for Faulty {
    async fn head(&self, project: &ProjectName) -> Result<u64, PointerError> {
        self.pass_pointer()?;
        self.inner.head(project).await
    }

    async fn find(&self, place: &Place, table: &TableRef, at: Option<u64>) -> Result<Option<Pointer>, PointerError> {
        self.pass_pointer()?;
        self.inner.find(place, table, at).await
    }

    async fn list(&self, place: &Place, at: Option<u64>) -> Result<Vec<Pointer>, PointerError> {
        self.pass_pointer()?;
        self.inner.list(place, at).await
    }

    async fn overlays(&self, attempt: AttemptId) -> Result<Vec<Overlay>, PointerError> {
        self.pass_pointer()?;
        self.inner.overlays(attempt).await
    }

    async fn stage(&self, epoch: u64, overlay: Overlay) -> Result<(), PointerError> {
        self.pass_pointer()?;
        self.inner.stage(epoch, overlay).await
    }

    async fn swap(&self, place: &Place, swaps: Vec<PointerSwap>) -> Result<(), PointerError> {
        self.pass_pointer()?;
        self.inner.swap(place, swaps).await
    }

    async fn named(&self) -> Result<Vec<(TableId, String)>, PointerError> {
        self.pass_pointer()?;
        self.inner.named().await
    }
}
