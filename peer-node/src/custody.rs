//! What this device gives up: what was withdrawn, and what is preloaded when its room is needed.
//!
//! Deletes nothing that is queued, bought or ordered here, and no copy of which the tracker does not know another:
//! before each deletion it is asked, and while it is away everything stays. What comes by preload is noted before it is
//! fetched and remembered over restarts, so that it can be told from what people put here.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use daemon::store::{Batch, MAX_PAGE, Store};
use swarm_proto::id::{DeviceId, ItemId};
use swarm_proto::pb::tracker::ReleaseReason;

use crate::assignments::{Assignments, List};
use crate::catalog::Catalog;
use crate::engine::{self, RoomWanted};
use crate::grants::Grants;
use crate::items::Items;
use crate::records::{Key, Prefix};
use crate::tracker_link;
use crate::wishes::{self, Queue};

/// Until a copy that could not be given up is asked about again.
const RETRY_EVERY: Duration = Duration::from_secs(60);

/// What deciding stands on.
pub struct Deps {
    /// Who this device is.
    pub device: DeviceId,
    /// Remembers what came by preload.
    pub store: Arc<dyn Store>,
    /// What shall be held and what not.
    pub assignments: Assignments,
    /// What the customer wants.
    pub queue: Queue,
    /// Which item a title is.
    pub catalog: Catalog,
    /// What is paid for.
    pub grants: Grants,
    /// What is on the disk.
    pub items: Items,
    /// Deletes, and says when it lacks room.
    pub engine: engine::Handle,
    /// Knows of other copies.
    pub link: tracker_link::Handle,
}

struct Custody {
    deps: Deps,
    /// What came by preload and is still here.
    preloaded: BTreeSet<ItemId>,
}

/// Gives up what is to be given up, for as long as it is polled.
pub async fn keep(deps: Deps) {
    let preloaded = match preloaded(&*deps.store).await {
        Ok(preloaded) => preloaded,
        Err(error) => {
            // What it would have deleted stays until the next start.
            return tracing::error!(error = format!("{error:#}"), "what was preloaded cannot be read");
        }
    };
    let (mut lists, mut rooms) = (deps.assignments.watch(), deps.engine.room_wanted());
    let mut retry = tokio::time::interval(RETRY_EVERY);
    retry.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut custody = Custody { deps, preloaded };
    let mut wanted = None;
    loop {
        let done = match &wanted {
            Some(wanted) => custody.make_room(wanted).await,
            None => Ok(()),
        };
        if let Err(error) = done.and(custody.follow().await) {
            tracing::warn!(error = format!("{error:#}"), "a copy could not be given up; trying again later");
        }
        wanted = tokio::select! {
            Ok(()) = rooms.changed() => rooms.borrow_and_update().clone(),
            Ok(()) = lists.changed() => None,
            _ = retry.tick() => None,
        };
    }
}

impl Custody {
    /// Notes what is to come, lets it come, and gives up what is to go.
    async fn follow(&mut self) -> anyhow::Result<()> {
        let list = self.deps.assignments.list();
        for assignment in list.hold.iter().filter(|it| !it.repository) {
            let item = assignment.item;
            // What people have put here before is not ours to give up later.
            if !self.preloaded.contains(&item) && !self.is_here(&item) && !self.is_needed(&item) {
                self.note(item).await?;
            }
        }
        self.deps.assignments.take_up(list.clone());
        self.tidy(&list).await
    }

    /// Deletes what was withdrawn and what others hold.
    async fn tidy(&mut self, list: &List) -> anyhow::Result<()> {
        for item in list.drop.iter().filter(|item| self.is_here(item) && !self.is_needed(item)) {
            tracing::info!(%item, "a copy is given up, since others hold it");
            self.deps.engine.remove(*item).await?;
        }
        let withdrawn: Vec<ItemId> = self.preloaded.iter().filter(|item| !list.preloads(item)).copied().collect();
        for item in withdrawn {
            if !self.is_here(&item) || self.is_needed(&item) {
                self.forget(item).await?;
            } else if self.deps.link.release(item, ReleaseReason::Withdrawn).await? {
                tracing::info!(%item, "a preload is given up, since it was withdrawn");
                self.remove(item).await?;
            }
        }
        Ok(())
    }

    /// Deletes preloads, the least important first, until an item that somebody wants has room.
    async fn make_room(&mut self, wanted: &RoomWanted) -> anyhow::Result<()> {
        let list = self.deps.assignments.list();
        let rank =
            |item: &ItemId| list.hold.iter().position(|it| it.item == *item).map_or(0, |at| list.hold.len() - at);
        let is_spare = |item: &&ItemId| **item != wanted.item && self.is_here(item) && !self.is_needed(item);
        let mut spare: Vec<ItemId> = self.preloaded.iter().filter(is_spare).copied().collect();
        spare.sort_by_key(|item| (rank(item), *item));
        let free_at_first = self.deps.items.usage().free_bytes;
        let mut given_up = false;
        for item in spare {
            if self.deps.items.usage().free_bytes >= free_at_first.saturating_add(wanted.short) {
                break;
            }
            if self.deps.link.release(item, ReleaseReason::NoRoom).await? {
                tracing::info!(%item, wanted = %wanted.item, "a preload gives way");
                self.deps.assignments.forget(&item);
                self.remove(item).await?;
                given_up = true;
            }
        }
        if given_up {
            self.deps.engine.room_made().await;
        }
        Ok(())
    }

    fn is_here(&self, item: &ItemId) -> bool {
        self.deps.items.holding(item).is_some()
    }

    /// Somebody has queued, bought or ordered it here.
    fn is_needed(&self, item: &ItemId) -> bool {
        let queue = self.deps.queue.state();
        let queued = wishes::titles(&queue, self.deps.device, &self.deps.catalog);
        queued.iter().any(|title| title.entry.item == *item) || self.deps.grants.is_bought(item)
    }

    async fn remove(&mut self, item: ItemId) -> anyhow::Result<()> {
        self.deps.engine.remove(item).await?;
        self.forget(item).await
    }

    async fn note(&mut self, item: ItemId) -> anyhow::Result<()> {
        let batch = Batch::new().put(Key::Preloaded(item).bytes(), Vec::new());
        self.deps.store.commit(batch).await.context("failed to note what is preloaded")?;
        self.preloaded.insert(item);
        Ok(())
    }

    async fn forget(&mut self, item: ItemId) -> anyhow::Result<()> {
        let batch = Batch::new().delete(Key::Preloaded(item).bytes());
        self.deps.store.commit(batch).await.context("failed to note what is not preloaded any more")?;
        self.preloaded.remove(&item);
        Ok(())
    }
}

async fn preloaded(store: &dyn Store) -> anyhow::Result<BTreeSet<ItemId>> {
    let prefix = Prefix::Preloaded.bytes();
    let mut found = BTreeSet::new();
    let mut after = None;
    loop {
        let page = store.scan(&prefix, after.as_deref(), MAX_PAGE).await?;
        for entry in &page.entries {
            found.insert(ItemId::try_from(&entry.key[prefix.len()..])?);
        }
        match page.next {
            Some(next) => after = Some(next),
            None => return Ok(found),
        }
    }
}
