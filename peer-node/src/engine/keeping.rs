//! What is held without anybody here having asked: how much of the disk it may take, and the proof that it is there.
//!
//! What is preloaded takes at most a stated part of what would be free without it, reserved before it is fetched; it
//! gives way when something that somebody wants does not fit.

use std::ops::Range;

use swarm_proto::geometry::{CHUNK_BYTES, ChunkIndex};
use swarm_proto::id::ItemId;
use swarm_proto::pb;
use swarm_proto::pb::tracker::report::Report;
use swarm_proto::ticket::TicketClass;
use swarm_proto::time::Now;
use swarm_proto::tracker::proofs::Challenge;

use super::run::{Engine, Event};
use super::{RoomWanted, Wanted};
use crate::items::ItemsError;

/// Challenges answered at a time. The tracker sends one at a time; more would only wait for the disk.
const CHALLENGES_AT_ONCE: usize = 2;

/// The chunks of an item that are meant.
pub(super) fn ranges_meant(wanted: &Wanted) -> Vec<Range<u32>> {
    let mut meant = Vec::new();
    let mut from = 0;
    for skip in &wanted.skip {
        meant.push(from..skip.start);
        from = skip.end;
    }
    meant.push(from..wanted.geometry.n_chunks());
    meant.retain(|range| !range.is_empty());
    meant
}

/// Their bytes.
pub(super) fn bytes_meant(wanted: &Wanted) -> u64 {
    let chunks: u64 = ranges_meant(wanted).iter().map(|range| range.len() as u64).sum();
    (chunks * CHUNK_BYTES).min(wanted.geometry.sealed_len())
}

impl Engine {
    /// Asks anew about what is fetched for another reason than before.
    pub(super) fn reclass(&mut self, now: Now, before: &[Wanted]) {
        let other = |wanted: &&Wanted| before.iter().any(|it| it.item == wanted.item && it.class != wanted.class);
        let items: Vec<ItemId> = self.wanted.iter().filter(other).map(|wanted| wanted.item).collect();
        for item in items {
            self.transfers.handle_reclassed(now, item);
        }
    }

    /// What the disk holds of an item; none if its place there must be made, or made larger, first.
    pub(super) fn on_disk(&self, wanted: &Wanted) -> Option<swarm_proto::bitmap::Holding> {
        let holding = self.items.holding(&wanted.item)?;
        let has_room = holding.is_complete() || !wanted.skip.is_empty() || self.items.is_reserved(&wanted.item);
        has_room.then_some(holding)
    }

    /// Whether a chunk is one of those that are meant to be here.
    pub(super) fn is_meant(&self, item: &ItemId, index: ChunkIndex) -> bool {
        let wanted = self.wanted.iter().find(|wanted| wanted.item == *item);
        wanted.is_some_and(|wanted| ranges_meant(wanted).iter().any(|range| range.contains(&index.get())))
    }

    /// How many bytes more may be preloaded: of what would be free without preloads, a part.
    pub(super) fn preload_room(&self) -> u64 {
        let is_here = |wanted: &&Wanted| {
            let takes_room = self.items.holding(&wanted.item).is_some() || self.reserving.contains(&wanted.item);
            wanted.class == TicketClass::Preload && takes_room
        };
        let taken: u64 = self.wanted.iter().filter(is_here).map(bytes_meant).sum();
        let all = u128::from(self.items.usage().free_bytes) + u128::from(taken);
        let allowed = u64::try_from(all * u128::from(self.preload.max_percent) / 100).unwrap_or(u64::MAX);
        allowed.saturating_sub(taken)
    }

    /// Something that somebody wants does not fit: preloads may give way.
    pub(super) fn ask_for_room(&self, item: ItemId, error: &ItemsError) {
        let is_preload = self.wanted.iter().any(|it| it.item == item && it.class == TicketClass::Preload);
        if let (ItemsError::StorageFull { short, .. }, false) = (error, is_preload) {
            self.room_wanted.send_replace(Some(RoomWanted { item, short: *short }));
        }
    }

    /// Hashes a chunk that the tracker asks for. What cannot be understood is not answered.
    pub(super) fn answer_challenge(&mut self, challenge: &pb::tracker::Challenge) {
        let read = || {
            Some(Challenge {
                id: challenge.id,
                item: ItemId::try_from(challenge.item.as_slice()).ok()?,
                chunk: ChunkIndex::new(challenge.chunk)?,
                nonce: challenge.nonce.as_slice().try_into().ok()?,
            })
        };
        let Some(challenge) = read().filter(|_| self.challenges < CHALLENGES_AT_ONCE) else {
            return tracing::debug!(id = challenge.id, "a challenge is not answered");
        };
        self.challenges += 1;
        let items = self.items.clone();
        self.job(async move {
            let (item, chunk, id) = (challenge.item, challenge.chunk, challenge.id);
            let (hash, lost) = match items.read_chunk(item, chunk).await {
                Ok(bytes) => (tokio::task::spawn_blocking(move || challenge.answer(&bytes)).await.ok(), None),
                Err(error) => (None, matches!(error, ItemsError::Rotten(..)).then_some((item, chunk))),
            };
            Event::Proven { id, hash, lost }
        });
    }

    pub(super) fn on_proven(&mut self, now: Now, id: u64, hash: Option<[u8; 32]>, lost: Option<(ItemId, ChunkIndex)>) {
        self.challenges -= 1;
        let hash = hash.map(Vec::from).unwrap_or_default();
        self.report(Report::Proof(pb::tracker::ProofAnswer { id, hash }));
        if let Some((item, chunk)) = lost {
            self.holding_changed(now, item);
            self.lost(now, item, chunk);
        }
    }
}

#[cfg(test)]
mod tests {
    use swarm_proto::geometry::Geometry;

    use super::*;

    #[test]
    fn meant_is_what_is_not_skipped() {
        let geometry = Geometry::of_sealed((40 << 20) - 65_000).unwrap();
        let mut wanted = Wanted::queued(ItemId::from_bytes([1; 32]), geometry);
        assert_eq!(
            (ranges_meant(&wanted), bytes_meant(&wanted)),
            (vec![Range { start: 0, end: 40 }], geometry.sealed_len())
        );
        wanted.skip = vec![0..2, 16..40];
        assert_eq!((ranges_meant(&wanted), bytes_meant(&wanted)), (vec![Range { start: 2, end: 16 }], 14 << 20));
    }
}
