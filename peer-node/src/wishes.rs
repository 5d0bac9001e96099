//! What this box wants to hold, and in which order.
//!
//! The customer's queue, as the tracker said it last, kept over restarts; seen through the catalog mirror, since only
//! what a publisher signed says which item a title is. Titles that the mirror does not know yet wait for it.

use std::collections::BTreeSet;
use std::sync::Arc;

use anyhow::Context as _;
use daemon::store::{Batch, MAX_VALUE_BYTES, Store};
use prost::Message as _;
use swarm_proto::id::{DeviceId, ItemId, TitleId};
use swarm_proto::pb;
use tokio::sync::{Mutex, watch};

use crate::assignments::{Assignments, List};
use crate::catalog::{Catalog, Title};
use crate::engine::{self, Wanted};
use crate::freeing::Freeing;
use crate::records::{self, Key, Prefix};

/// The longest queue, from the contract.
const MAX_ENTRIES: usize = 1_000;

/// The largest queue that is stored: a thousand entries with the longest names, and some room.
const MAX_QUEUE_BYTES: usize = 384 << 10;

/// Parts that the longest queue is stored in.
const QUEUE_PARTS: u16 = MAX_QUEUE_BYTES.div_ceil(MAX_VALUE_BYTES) as u16;

/// The customer's queue. Clones share it.
#[derive(Clone)]
pub struct Queue {
    store: Arc<dyn Store>,
    state: watch::Sender<Arc<pb::tracker::QueueState>>,
    /// Held while a state is stored, so that the stored one is the one shown.
    writing: Arc<Mutex<()>>,
}

impl Queue {
    /// Loads the queue as it was known last.
    pub async fn open(store: Arc<dyn Store>) -> anyhow::Result<Queue> {
        let state = match records::read_parts(&*store, Prefix::QueueParts).await? {
            Some(bytes) => pb::tracker::QueueState::decode(bytes).unwrap_or_else(|error| {
                tracing::warn!(%error, "the stored queue is damaged; the tracker will tell it again");
                pb::tracker::QueueState::default()
            }),
            None => pb::tracker::QueueState::default(),
        };
        Ok(Queue { store, state: watch::Sender::new(Arc::new(state)), writing: Arc::default() })
    }

    /// The queue now.
    pub fn state(&self) -> Arc<pb::tracker::QueueState> {
        self.state.borrow().clone()
    }

    /// The queue, now and after each change.
    pub fn watch(&self) -> watch::Receiver<Arc<pb::tracker::QueueState>> {
        self.state.subscribe()
    }

    /// The queued title of this id or exact name, also while its catalog entry is not known.
    pub fn find(&self, text: &str) -> Option<TitleId> {
        let (id, name) = (text.trim().parse::<TitleId>().ok(), text.trim().to_lowercase());
        let state = self.state();
        let mut titles = state.entries.iter().filter_map(|entry| {
            let title = TitleId::try_from(entry.title.as_slice()).ok()?;
            let is_named = !name.is_empty() && entry.name.to_lowercase() == name;
            (id == Some(title) || is_named).then_some(title)
        });
        titles.next()
    }

    /// Takes the queue whatever its version: the first word of a tracker that was away, or is another one.
    pub async fn replace(&self, state: pb::tracker::QueueState) -> anyhow::Result<()> {
        let _turn = self.writing.lock().await;
        self.keep(state).await
    }

    /// Takes the queue unless a later one has overtaken it on the way.
    pub async fn advance(&self, state: pb::tracker::QueueState) -> anyhow::Result<()> {
        let _turn = self.writing.lock().await;
        if state.version < self.state().version { Ok(()) } else { self.keep(state).await }
    }

    async fn keep(&self, state: pb::tracker::QueueState) -> anyhow::Result<()> {
        let bytes = state.encode_to_vec();
        let bounded = state.entries.len() <= MAX_ENTRIES && bytes.len() <= MAX_QUEUE_BYTES;
        anyhow::ensure!(bounded, "the tracker sent a queue of more than {MAX_ENTRIES} titles");
        if *self.state() == state {
            return Ok(());
        }
        let batch = records::put_parts(Batch::new(), &bytes, QUEUE_PARTS, Key::QueuePart);
        self.store.commit(batch).await.context("failed to store the queue")?;
        self.state.send_replace(Arc::new(state));
        Ok(())
    }
}

/// The entries of the queue that are meant for this device.
pub fn mine(queue: &pb::tracker::QueueState, device: DeviceId) -> impl Iterator<Item = &pb::tracker::QueueEntry> {
    queue.entries.iter().filter(move |entry| entry.device.is_empty() || entry.device == device.as_bytes())
}

/// The titles that this device is to hold, first the most wanted, as far as the catalog knows them.
pub fn titles(queue: &pb::tracker::QueueState, device: DeviceId, catalog: &Catalog) -> Vec<Arc<Title>> {
    let mut seen = BTreeSet::new();
    let titles = mine(queue, device).filter_map(|entry| catalog.title(TitleId::try_from(entry.title.as_slice()).ok()?));
    titles.filter(|title| seen.insert(title.entry.title)).collect()
}

/// What this device is to hold: first what is queued, then the copies that must exist, then what may be asked for.
fn wanted(queued: &[Arc<Title>], list: &List, catalog: &Catalog) -> Vec<Wanted> {
    let queued = queued.iter().map(|title| Wanted::queued(title.entry.item, title.entry.geometry));
    let assigned = |repository: bool| {
        let of_kind = list.hold.iter().filter(move |it| it.repository == repository);
        of_kind.filter_map(|it| Some(it.wanted(catalog.of_item(it.item)?.entry.geometry)))
    };
    let mut seen = BTreeSet::new();
    queued.chain(assigned(true)).chain(assigned(false)).filter(|wanted| seen.insert(wanted.item)).collect()
}

/// Keeps the engine told of what is wanted, for as long as it is polled, and frees what no longer is.
pub async fn follow(
    queue: Queue,
    assignments: Assignments,
    catalog: Catalog,
    device: DeviceId,
    engine: engine::Handle,
    freeing: Freeing,
) {
    let (mut states, mut lists, mut changes) = (queue.watch(), assignments.watch_taken_up(), catalog.changes());
    let (mut told, mut queued_before): (Option<Vec<Wanted>>, _) = (None, BTreeSet::new());
    loop {
        changes.borrow_and_update();
        let state = states.borrow_and_update().clone();
        let list = lists.borrow_and_update().clone();
        let queued = titles(&state, device, &catalog);
        let wanted = wanted(&queued, &list, &catalog);
        if told.as_ref() != Some(&wanted) {
            tracing::debug!(titles = wanted.len(), "queue is in effect");
            engine.set_wanted(wanted.clone()).await;
            let queued = queued.iter().map(|title| title.entry.item).collect();
            let before: BTreeSet<ItemId> = std::mem::replace(&mut queued_before, queued);
            // What leaves the list of the tracker is not freed here: others may count on it.
            let unwanted = before.into_iter().filter(|item| !wanted.iter().any(|it| it.item == *item));
            for item in unwanted {
                if let Err(failure) = freeing.handle_unwanted(item).await {
                    tracing::warn!(%item, %failure, "what nobody wants any more could not be freed");
                }
            }
            told = Some(wanted);
        }
        tokio::select! {
            Ok(()) = states.changed() => {}
            Ok(()) = lists.changed() => {}
            Ok(()) = changes.changed() => {}
            else => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use daemon::store::Memory;

    use super::*;

    fn state(version: u64, names: &[&str]) -> pb::tracker::QueueState {
        let entry =
            |name: &&str| pb::tracker::QueueEntry { name: (*name).to_owned(), ..pb::tracker::QueueEntry::default() };
        pb::tracker::QueueState { version, entries: names.iter().map(entry).collect() }
    }

    #[tokio::test]
    async fn queue_is_known_after_a_restart_without_a_tracker() {
        let store: Arc<dyn Store> = Arc::new(Memory::default());
        let queue = Queue::open(store.clone()).await.unwrap();
        queue.replace(state(7, &["Atlas", "Reef"])).await.unwrap();
        assert_eq!(*Queue::open(store).await.unwrap().state(), state(7, &["Atlas", "Reef"]));
    }

    #[tokio::test]
    async fn overtaken_state_is_dropped_and_a_new_beginning_is_not() {
        let queue = Queue::open(Arc::new(Memory::default())).await.unwrap();
        queue.replace(state(7, &["Atlas"])).await.unwrap();
        queue.advance(state(6, &["Reef"])).await.unwrap();
        assert_eq!(queue.state().version, 7);
        queue.replace(state(1, &["Reef"])).await.unwrap();
        assert_eq!(*queue.state(), state(1, &["Reef"]));
    }

    #[tokio::test]
    async fn queued_title_is_found_by_name_and_id_without_the_catalog() {
        let queue = Queue::open(Arc::new(Memory::default())).await.unwrap();
        let title = TitleId::from_bytes([7; 16]);
        let mut state = state(1, &["Atlas"]);
        state.entries[0].title = title.to_vec();
        queue.replace(state).await.unwrap();
        assert_eq!((queue.find("atlas"), queue.find(&title.to_string())), (Some(title), Some(title)));
        assert_eq!((queue.find("atl"), queue.find("")), (None, None));
    }

    #[tokio::test]
    async fn longer_queue_than_the_contract_allows_is_refused() {
        let queue = Queue::open(Arc::new(Memory::default())).await.unwrap();
        let names: Vec<String> = (0..=MAX_ENTRIES).map(|n| n.to_string()).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        assert!(queue.replace(state(1, &names)).await.is_err());
        assert!(queue.state().entries.is_empty());
    }
}
