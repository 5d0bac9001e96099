//! What this device needs to go on if it starts again while its tracker is away: its tickets, and where sources were.
//!
//! For each wanted item the last plan, without what is over soon (times, rates, portions); and the seeds to keep
//! connected. Written when it has changed, without haste: what is lost is one plan older. Forgotten when the item is
//! complete or no longer wanted.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use anyhow::Context as _;
use bytes::Bytes;
use daemon::store::{Batch, MAX_PAGE, MAX_VALUE_BYTES, Store};
use prost::Message as _;
use swarm_proto::id::ItemId;
use swarm_proto::pb::tracker as pb;

use crate::records::{Key, Prefix};

/// Sources of one plan that are kept, and addresses of each.
const SOURCES_KEPT: usize = 8;
const ADDRESSES_KEPT: usize = 4;

pub(super) struct Memory {
    store: Arc<dyn Store>,
    /// As they are in the store.
    plans: BTreeMap<ItemId, Bytes>,
    pinned: Bytes,
    /// Plans from before the start that nobody has looked at yet.
    unread: BTreeSet<ItemId>,
}

/// A change of the memory, on its way to the disk.
pub(super) struct Change {
    store: Arc<dyn Store>,
    batch: Batch,
}

impl Change {
    /// Losing it is a pity and no more.
    pub(super) async fn write(self) {
        if let Err(error) = self.store.commit(self.batch.relaxed()).await {
            tracing::warn!(%error, "the last plan could not be remembered");
        }
    }
}

impl Memory {
    /// Reads what was remembered.
    pub(super) async fn open(store: Arc<dyn Store>) -> anyhow::Result<Memory> {
        let mut plans = BTreeMap::new();
        let mut after: Option<Bytes> = None;
        loop {
            let page = store.scan(&Prefix::Plans.bytes(), after.as_deref(), MAX_PAGE).await;
            let page = page.context("failed to read the last plans")?;
            for entry in page.entries {
                if let Ok(item) = ItemId::try_from(&entry.key[1..]) {
                    plans.insert(item, entry.versioned.value);
                }
            }
            match page.next {
                Some(next) => after = Some(next),
                None => break,
            }
        }
        let pinned = store.get(&Key::PinnedSeeds.bytes()).await.context("failed to read the pinned seeds")?;
        let pinned = pinned.map(|versioned| versioned.value).unwrap_or_default();
        let unread = plans.keys().copied().collect();
        Ok(Memory { store, plans, pinned, unread })
    }

    /// The plan from before the start, once.
    pub(super) fn recall(&mut self, item: &ItemId) -> Option<pb::Plan> {
        let is_unread = self.unread.remove(item);
        is_unread.then(|| pb::Plan::decode(self.plans.get(item)?.clone()).ok()).flatten()
    }

    /// The seeds that were to be kept connected.
    pub(super) fn pinned(&self) -> Vec<pb::Source> {
        pb::Welcome::decode(self.pinned.clone()).unwrap_or_default().pinned_seeds
    }

    /// Remembers a plan; nothing is to be written if nothing lasting in it is new.
    pub(super) fn keep(&mut self, item: ItemId, plan: &pb::Plan) -> Option<Change> {
        self.unread.remove(&item);
        let mut kept = pb::Plan { ticket: plan.ticket.clone(), item: plan.item.clone(), ..pb::Plan::default() };
        let sources = plan.leases.iter().take(SOURCES_KEPT).filter_map(|lease| lease.source.as_ref());
        kept.leases = sources.map(|it| pb::Lease { source: Some(brief(it)), ..pb::Lease::default() }).collect();
        while kept.encoded_len() > MAX_VALUE_BYTES {
            kept.leases.pop()?;
        }
        let bytes = Bytes::from(kept.encode_to_vec());
        if self.plans.get(&item) == Some(&bytes) {
            return None;
        }
        self.plans.insert(item, bytes.clone());
        Some(self.change(Batch::new().put(Key::Plan(item).bytes(), bytes)))
    }

    /// Remembers which seeds to keep connected.
    pub(super) fn keep_pinned(&mut self, seeds: &[pb::Source]) -> Option<Change> {
        // A tracker that knows no seed yet is no reason to forget those of yesterday.
        if seeds.is_empty() {
            return None;
        }
        let pinned_seeds = seeds.iter().take(SOURCES_KEPT).map(brief).collect();
        let mut kept = pb::Welcome { pinned_seeds, ..pb::Welcome::default() };
        while kept.encoded_len() > MAX_VALUE_BYTES {
            kept.pinned_seeds.pop()?;
        }
        let bytes = Bytes::from(kept.encode_to_vec());
        if self.pinned == bytes {
            return None;
        }
        self.pinned = bytes.clone();
        Some(self.change(Batch::new().put(Key::PinnedSeeds.bytes(), bytes)))
    }

    /// Forgets the plan of an item that needs none any more.
    pub(super) fn forget(&mut self, item: &ItemId) -> Option<Change> {
        self.unread.remove(item);
        self.plans.remove(item)?;
        Some(self.change(Batch::new().delete(Key::Plan(*item).bytes())))
    }

    /// Items whose plans are remembered.
    pub(super) fn items(&self) -> impl Iterator<Item = &ItemId> {
        self.plans.keys()
    }

    fn change(&self, batch: Batch) -> Change {
        Change { store: self.store.clone(), batch }
    }
}

fn brief(source: &pb::Source) -> pb::Source {
    let addresses = source.addresses.iter().take(ADDRESSES_KEPT).cloned().collect();
    pb::Source { addresses, ..source.clone() }
}

#[cfg(test)]
mod tests {
    use daemon::store;

    use super::*;

    fn item(n: u8) -> ItemId {
        ItemId::from_bytes([n; 32])
    }

    fn plan(sources: u8, until_utc_ms: u64, address: &str) -> pb::Plan {
        let source =
            |n| pb::Source { device: vec![n; 32], addresses: vec![address.to_owned(); 16], ..pb::Source::default() };
        let lease = |n| pb::Lease { source: Some(source(n)), until_utc_ms, ..pb::Lease::default() };
        pb::Plan { item: item(1).to_vec(), leases: (0..sources).map(lease).collect(), ..pb::Plan::default() }
    }

    #[tokio::test]
    async fn plans_and_pinned_seeds_are_known_after_a_restart_until_they_are_not_needed() {
        let store: Arc<dyn Store> = Arc::new(store::Memory::default());
        let mut memory = Memory::open(store.clone()).await.unwrap();
        memory.keep(item(1), &plan(2, 5, "/ip4/127.0.0.1/tcp/1")).unwrap().write().await;
        let seeds: Vec<pb::Source> =
            plan(1, 0, "/ip4/127.0.0.1/tcp/2").leases.into_iter().filter_map(|lease| lease.source).collect();
        memory.keep_pinned(&seeds).unwrap().write().await;
        assert!(memory.recall(&item(1)).is_none(), "it is not from before");

        let mut memory = Memory::open(store.clone()).await.unwrap();
        let recalled = memory.recall(&item(1)).unwrap();
        assert_eq!((recalled.leases.len(), recalled.leases[0].until_utc_ms), (2, 0));
        assert_eq!(recalled.leases[0].source.as_ref().unwrap().addresses.len(), ADDRESSES_KEPT);
        assert!(memory.recall(&item(1)).is_none(), "once is enough");
        assert_eq!(memory.pinned().len(), 1);
        memory.forget(&item(1)).unwrap().write().await;
        assert_eq!(Memory::open(store).await.unwrap().items().count(), 0);
    }

    #[tokio::test]
    async fn a_plan_that_says_nothing_lasting_anew_is_not_written_again() {
        let mut memory = Memory::open(Arc::new(store::Memory::default())).await.unwrap();
        assert!(memory.keep(item(1), &plan(2, 5, "/ip4/127.0.0.1/tcp/1")).is_some());
        assert!(memory.keep(item(1), &plan(2, 99, "/ip4/127.0.0.1/tcp/1")).is_none());
        assert!(memory.keep(item(1), &plan(3, 99, "/ip4/127.0.0.1/tcp/1")).is_some());
    }

    #[tokio::test]
    async fn a_plan_with_endless_addresses_is_cut_to_what_the_store_takes() {
        let mut memory = Memory::open(Arc::new(store::Memory::default())).await.unwrap();
        memory.keep(item(1), &plan(64, 5, &"x".repeat(255))).unwrap().write().await;
        assert!(memory.plans[&item(1)].len() <= MAX_VALUE_BYTES);
    }
}
