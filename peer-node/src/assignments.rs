//! What the tracker wants this device to hold besides its customer's queue.
//!
//! The list as the tracker said it last, kept over restarts. Preloads are wished for after everything queued; a
//! repository's copies like what is queued.

use std::ops::Range;
use std::sync::Arc;

use anyhow::Context as _;
use daemon::store::{Batch, MAX_VALUE_BYTES, Store};
use prost::Message as _;
use swarm_proto::bitmap::Holding;
use swarm_proto::geometry::Geometry;
use swarm_proto::id::ItemId;
use swarm_proto::pb;
use swarm_proto::ticket::TicketClass;
use tokio::sync::{Mutex, watch};

use crate::engine::Wanted;
use crate::records::{self, Key, Prefix};

/// Bounds of a list, from the contract.
const MAX_ITEMS: usize = 4_096;
const MAX_RANGES: usize = 64;

/// The largest list that is stored: both halves full, most items whole.
const MAX_LIST_BYTES: usize = 512 << 10;

/// Parts that the largest list is stored in.
const LIST_PARTS: u16 = MAX_LIST_BYTES.div_ceil(MAX_VALUE_BYTES) as u16;

/// One item that is to be held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assignment {
    /// Which.
    pub item: ItemId,
    /// These chunks only; none: all.
    pub ranges: Vec<Range<u32>>,
    /// One of the copies that must exist, rather than one in case somebody asks.
    pub repository: bool,
}

/// What the tracker said last, checked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct List {
    /// To be held, the most important first.
    pub hold: Vec<Assignment>,
    /// To be deleted, since others hold it.
    pub drop: Vec<ItemId>,
}

impl List {
    fn read(message: &pb::tracker::Assignments) -> anyhow::Result<List> {
        let bounded = message.hold.len() <= MAX_ITEMS && message.drop.len() <= MAX_ITEMS;
        anyhow::ensure!(bounded, "the tracker assigns more than {MAX_ITEMS} items");
        let drop = message.drop.iter().map(|item| ItemId::try_from(item.as_slice()));
        Ok(List {
            hold: message.hold.iter().map(assignment).collect::<anyhow::Result<_>>()?,
            drop: drop.collect::<Result<_, _>>()?,
        })
    }

    /// Whether an item is to be preloaded.
    pub fn preloads(&self, item: &ItemId) -> bool {
        self.hold.iter().any(|it| it.item == *item && !it.repository)
    }
}

fn assignment(message: &pb::tracker::Assignment) -> anyhow::Result<Assignment> {
    anyhow::ensure!(message.ranges.len() <= MAX_RANGES, "the tracker assigns more than {MAX_RANGES} ranges of an item");
    let repository = match message.purpose() {
        pb::tracker::Purpose::Repository => true,
        pb::tracker::Purpose::Preload => false,
        pb::tracker::Purpose::Unspecified => anyhow::bail!("the tracker assigns an item and does not say what for"),
    };
    let ranges = message.ranges.iter().map(|range| range.first..range.first.saturating_add(range.count)).collect();
    Ok(Assignment { item: ItemId::try_from(message.item.as_slice())?, ranges, repository })
}

impl Assignment {
    /// The same as a wish; ranges beyond the end of the item mean nothing.
    pub fn wanted(&self, geometry: Geometry) -> Wanted {
        let n_chunks = geometry.n_chunks();
        let ranges = self.ranges.iter().map(|range| range.start.min(n_chunks)..range.end.min(n_chunks));
        let meant = Holding::from_runs(n_chunks, ranges.filter(|range| !range.is_empty()));
        let skip = match meant {
            Ok(meant) if !meant.is_empty() => meant.gaps().collect(),
            // All of it, and so it is when the ranges make no sense: a copy too many is no harm.
            _ => Vec::new(),
        };
        let class = if self.repository { TicketClass::Queued } else { TicketClass::Preload };
        Wanted { item: self.item, geometry, class, skip }
    }
}

/// The list. Clones share it.
#[derive(Clone)]
pub struct Assignments {
    store: Arc<dyn Store>,
    list: watch::Sender<Arc<List>>,
    /// The list that is fetched by: what is preloaded has been noted as such.
    taken_up: watch::Sender<Arc<List>>,
    /// Held while a list is stored, so that the stored one is the one in effect.
    writing: Arc<Mutex<()>>,
}

impl Assignments {
    /// Loads the list as it was known last.
    pub async fn open(store: Arc<dyn Store>) -> anyhow::Result<Assignments> {
        let stored = records::read_parts(&*store, Prefix::AssignmentParts).await?;
        let read = |bytes| List::read(&pb::tracker::Assignments::decode(bytes)?);
        let list = stored.map(read).transpose().unwrap_or_else(|error| {
            tracing::warn!(%error, "the stored assignments are damaged; the tracker will tell them again");
            None
        });
        let list = Arc::new(list.unwrap_or_default());
        let (list, taken_up) = (watch::Sender::new(list.clone()), watch::Sender::new(list));
        Ok(Assignments { store, list, taken_up, writing: Arc::default() })
    }

    /// The list now.
    pub fn list(&self) -> Arc<List> {
        self.list.borrow().clone()
    }

    /// The list, now and after each change.
    pub fn watch(&self) -> watch::Receiver<Arc<List>> {
        self.list.subscribe()
    }

    /// The list to fetch by, now and after each change.
    pub fn watch_taken_up(&self) -> watch::Receiver<Arc<List>> {
        self.taken_up.subscribe()
    }

    /// This list may be fetched by from now on.
    pub fn take_up(&self, list: Arc<List>) {
        self.taken_up.send_if_modified(|taken| {
            let changed = *taken != list;
            *taken = list;
            changed
        });
    }

    /// Takes what the tracker says now. Its words come in order, so the last one counts.
    pub async fn replace(&self, message: pb::tracker::Assignments) -> anyhow::Result<()> {
        let _turn = self.writing.lock().await;
        let list = List::read(&message)?;
        let bytes = message.encode_to_vec();
        anyhow::ensure!(bytes.len() <= MAX_LIST_BYTES, "the tracker sent a list of more than {MAX_LIST_BYTES} bytes");
        let batch = records::put_parts(Batch::new(), &bytes, LIST_PARTS, Key::AssignmentPart);
        self.store.commit(batch).await.context("failed to store the assignments")?;
        self.list.send_replace(Arc::new(list));
        Ok(())
    }

    /// Takes an item out until the tracker says something else: it was deleted here.
    pub fn forget(&self, item: &ItemId) {
        self.list.send_if_modified(|list| {
            let is_there = list.hold.iter().any(|it| it.item == *item);
            if is_there {
                Arc::make_mut(list).hold.retain(|it| it.item != *item);
            }
            is_there
        });
    }
}

#[cfg(test)]
mod tests {
    use daemon::store::Memory;

    use super::*;

    fn assigned(n: u8, ranges: &[(u32, u32)], purpose: pb::tracker::Purpose) -> pb::tracker::Assignment {
        let ranges = ranges.iter().map(|(first, count)| pb::common::ChunkRange { first: *first, count: *count });
        pb::tracker::Assignment { item: vec![n; 32], ranges: ranges.collect(), purpose: purpose.into() }
    }

    fn message(hold: Vec<pb::tracker::Assignment>) -> pb::tracker::Assignments {
        pb::tracker::Assignments { version: 1, hold, drop: vec![vec![9; 32]] }
    }

    use pb::tracker::Purpose::{Preload, Repository, Unspecified};

    #[tokio::test]
    async fn list_is_known_after_a_restart_without_a_tracker() {
        let store: Arc<dyn Store> = Arc::new(Memory::default());
        let assignments = Assignments::open(store.clone()).await.unwrap();
        let hold = (0..200).map(|n| assigned(n, &[(0, 16)], Preload)).collect();
        assignments.replace(message(hold)).await.unwrap();
        let list = Assignments::open(store.clone()).await.unwrap().list();
        assert_eq!((list.hold.len(), list.drop.len()), (200, 1));
        assert_eq!(list, assignments.list());
        assignments.replace(message(Vec::new())).await.unwrap();
        assert!(Assignments::open(store).await.unwrap().list().hold.is_empty());
    }

    #[tokio::test]
    async fn list_that_breaks_a_bound_changes_nothing() {
        let assignments = Assignments::open(Arc::new(Memory::default())).await.unwrap();
        let good = assigned(1, &[], Repository);
        assignments.replace(message(vec![good.clone()])).await.unwrap();
        for bad in [
            vec![good.clone(); MAX_ITEMS + 1],
            vec![assigned(1, &[], Unspecified)],
            vec![assigned(1, &[(0, 1); MAX_RANGES + 1], Preload)],
            vec![pb::tracker::Assignment { item: vec![1; 31], ..good }],
        ] {
            assert!(assignments.replace(message(bad)).await.is_err());
        }
        assert_eq!(assignments.list().hold.len(), 1);
    }

    #[test]
    fn beginning_of_an_item_is_wished_for_without_its_rest() {
        let geometry = Geometry::of_sealed(40 << 20).unwrap();
        let wanted =
            |ranges: &[(u32, u32)], purpose| assignment(&assigned(1, ranges, purpose)).unwrap().wanted(geometry);
        assert_eq!(wanted(&[(0, 16)], Preload).skip, [Range { start: 16, end: 40 }]);
        assert_eq!(wanted(&[(0, 16)], Preload).class, TicketClass::Preload);
        assert!(wanted(&[], Preload).skip.is_empty());
        assert!(wanted(&[(0, 400)], Preload).skip.is_empty(), "a short item is meant as a whole");
        assert_eq!(wanted(&[], Repository).class, TicketClass::Queued);
    }
}
