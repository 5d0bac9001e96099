//! Draws what is going on, for people.
//!
//! Drawn anew only when something may have changed, and not more often than a large disk allows.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use swarm_proto::id::ItemId;
use swarm_proto::peer::transfers::{Progress, Standing, Tally, Transfers};
use swarm_proto::time::{Mono, Now, Utc};

use super::{Banned, ItemSnapshot, ItemState, Snapshot, SourceBytes, Wanted};
use crate::items::Items;
use crate::net;

/// With more items than this, drawing is work, and is done less often.
const MANY_ITEMS: usize = 1_000;
const SELDOM: Duration = Duration::from_secs(2);

/// All there is to see.
pub(super) struct Scene<'a> {
    pub(super) items: &'a Items,
    pub(super) wanted: &'a [Wanted],
    pub(super) transfers: &'a Transfers,
    pub(super) network: &'a net::Status,
    pub(super) uploaded_bytes: u64,
    pub(super) banned: &'a VecDeque<Banned>,
}

/// What the last drawing must remember for the next.
#[derive(Debug, Default)]
pub(super) struct Show {
    touched: bool,
    drawn_at: Option<Mono>,
    n_items: usize,
    since: BTreeMap<ItemId, (ItemState, Utc)>,
}

impl Show {
    /// Something may have changed.
    pub(super) fn touch(&mut self) {
        self.touched = true;
    }

    /// A new picture; `None` when there is nothing new or the last one is too fresh.
    pub(super) fn draw(&mut self, now: Now, scene: &Scene<'_>) -> Option<Snapshot> {
        let moving = scene.wanted.iter().any(|wanted| scene.transfers.is_fetching(&wanted.item));
        let too_fresh = self.n_items > MANY_ITEMS && self.drawn_at.is_some_and(|at| now.mono.since(at) < SELDOM);
        if !(self.touched || moving || self.drawn_at.is_none()) || too_fresh {
            return None;
        }
        self.touched = false;
        self.drawn_at = Some(now.mono);

        let mut shown: Vec<ItemSnapshot> = scene.wanted.iter().map(|w| self.wanted_item(now, scene, w)).collect();
        let in_queue: BTreeSet<ItemId> = scene.wanted.iter().map(|wanted| wanted.item).collect();
        for item in scene.items.list().into_iter().filter(|item| !in_queue.contains(item)) {
            shown.extend(self.held_item(now, scene, item));
        }
        self.n_items = shown.len();
        let known: BTreeSet<ItemId> = shown.iter().map(|item| item.item).collect();
        self.since.retain(|item, _| known.contains(item));
        Some(Snapshot {
            items: shown,
            connected_peers: scene.network.connected.len(),
            listening: scene.network.listening.clone(),
            uploaded_bytes: scene.uploaded_bytes,
            books: scene.transfers.books(),
            banned: scene.banned.iter().cloned().collect(),
        })
    }

    fn wanted_item(&mut self, now: Now, scene: &Scene<'_>, wanted: &Wanted) -> ItemSnapshot {
        let n_chunks = wanted.geometry.n_chunks();
        let held = scene.items.holding(&wanted.item).map_or(0, |holding| holding.len());
        let progress = scene.transfers.progress(now, &wanted.item);
        let is_beginning = !wanted.skip.is_empty();
        let (state, reason) = match progress.as_ref().map(|progress| &progress.standing) {
            _ if held == n_chunks => (ItemState::Available, String::new()),
            Some(Standing::Complete) | None if is_beginning && held > 0 => {
                (ItemState::Waiting, "its beginning is here; queue it to fetch the rest".to_owned())
            }
            Some(Standing::Arriving) => (ItemState::Arriving, String::new()),
            Some(Standing::Scheduled { opens, why }) => {
                let zone = if opens.is_some() { " (site time)" } else { "" };
                (ItemState::Scheduled, format!("{why}{zone}"))
            }
            Some(Standing::Paused(why)) => (ItemState::Paused, why.clone()),
            Some(Standing::Waiting(why)) => (ItemState::Waiting, why.clone()),
            Some(Standing::Queued | Standing::Complete) | None => {
                (ItemState::Waiting, "titles before it come first".to_owned())
            }
        };
        self.item(now, wanted.item, state, reason, (n_chunks, held, wanted.geometry.sealed_len()), progress)
    }

    /// An item that nobody here has queued: published, or left from before.
    fn held_item(&mut self, now: Now, scene: &Scene<'_>, item: ItemId) -> Option<ItemSnapshot> {
        let (manifest, holding) = (scene.items.manifest(&item)?, scene.items.holding(&item)?);
        let (state, reason) = match holding.is_complete() {
            true => (ItemState::Available, String::new()),
            false => (ItemState::Waiting, "not in the queue".to_owned()),
        };
        let sizes = (holding.n_chunks(), holding.len(), manifest.geometry().sealed_len());
        Some(self.item(now, item, state, reason, sizes, scene.transfers.progress(now, &item)))
    }

    fn item(
        &mut self,
        now: Now,
        item: ItemId,
        state: ItemState,
        reason: String,
        (n_chunks, chunks_held, sealed_len): (u32, u32, u64),
        progress: Option<Progress>,
    ) -> ItemSnapshot {
        let since = match self.since.get(&item) {
            Some((before, since)) if *before == state => *since,
            _ => now.utc,
        };
        self.since.insert(item, (state, since));
        let tallies = progress.as_ref().map_or(&[][..], |progress| &progress.tallies);
        ItemSnapshot {
            item,
            state,
            n_chunks,
            chunks_held,
            sealed_len,
            rate_bytes_per_sec: progress.as_ref().map_or(0, |progress| progress.rate_bytes_per_sec),
            sources: tallies.iter().map(source).collect(),
            wasted_bytes: tallies.iter().map(|tally| tally.wasted_bytes).sum(),
            since,
            last_data: progress.as_ref().and_then(|progress| progress.last_data),
            reason,
        }
    }
}

fn source(tally: &Tally) -> SourceBytes {
    SourceBytes {
        device: tally.device,
        kind: tally.kind,
        verified_bytes: tally.verified_bytes,
        wasted_bytes: tally.wasted_bytes,
        found_by: tally.found_by,
    }
}
