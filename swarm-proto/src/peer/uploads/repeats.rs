//! Which chunks were sent to whom of late: who asks for the same chunk again and again wastes a seed's uplink.

use std::collections::BTreeMap;
use std::time::Duration;

use roaring::RoaringBitmap;

use crate::geometry::ChunkIndex;
use crate::id::{DeviceId, ItemId};
use crate::time::Mono;

/// How long a chunk that was sent is remembered.
const WINDOW: Duration = Duration::from_secs(3_600);

/// Pairs of device and item that are remembered at a time; the oldest gives way. At 8 KiB for the longest item, 32 MiB
/// at the very most.
const PAIRS_MAX: usize = 4_096;

/// Chunks sent to each device within [`WINDOW`]: once, and twice.
#[derive(Debug, Default)]
pub(super) struct Repeats {
    pairs: BTreeMap<(DeviceId, ItemId), Sent>,
}

#[derive(Debug)]
struct Sent {
    since: Mono,
    once: RoaringBitmap,
    twice: RoaringBitmap,
}

impl Repeats {
    /// How often this chunk has been sent to this device.
    pub(super) fn times(&self, now: Mono, device: DeviceId, item: ItemId, chunk: ChunkIndex) -> u32 {
        let fresh = |it: &&Sent| now.since(it.since) < WINDOW;
        let Some(it) = self.pairs.get(&(device, item)).filter(fresh) else { return 0 };
        u32::from(it.once.contains(chunk.get())) + u32::from(it.twice.contains(chunk.get()))
    }

    /// The chunk has been sent once more.
    pub(super) fn note(&mut self, now: Mono, device: DeviceId, item: ItemId, chunk: ChunkIndex) {
        let key = (device, item);
        if !self.pairs.contains_key(&key) && self.pairs.len() >= PAIRS_MAX {
            let oldest = self.pairs.iter().min_by_key(|(_, it)| it.since).map(|(key, _)| *key);
            self.pairs.remove(&oldest.expect("a full map has an oldest entry"));
        }
        let fresh = || Sent { since: now, once: RoaringBitmap::new(), twice: RoaringBitmap::new() };
        let it = self.pairs.entry(key).or_insert_with(fresh);
        if now.since(it.since) >= WINDOW {
            *it = fresh();
        }
        if !it.once.insert(chunk.get()) {
            it.twice.insert(chunk.get());
        }
    }
}
