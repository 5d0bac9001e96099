//! Chunks that were verified a moment ago, kept in memory.
//!
//! What arrives is asked for again at once, by a neighbour or by a player, and writes leave nothing of it in the page
//! cache. Bounded by bytes; the chunk that was not asked for the longest goes first, and its memory takes the next one
//! that arrives.

use std::collections::BTreeMap;

use bytes::Bytes;
use swarm_proto::geometry::ChunkIndex;
use swarm_proto::id::ItemId;

use crate::buffers::Buffers;

type Key = (ItemId, ChunkIndex);

/// Verified chunks, the least recently used ones leaving first.
pub(super) struct Cache {
    max_bytes: usize,
    used_bytes: usize,
    /// Counts uses; the smallest is the oldest.
    clock: u64,
    chunks: BTreeMap<Key, (u64, Bytes)>,
    by_age: BTreeMap<u64, Key>,
    buffers: Buffers,
}

impl Cache {
    pub(super) fn new(max_bytes: usize, buffers: Buffers) -> Cache {
        Cache { max_bytes, used_bytes: 0, clock: 0, chunks: BTreeMap::new(), by_age: BTreeMap::new(), buffers }
    }

    pub(super) fn get(&mut self, item: ItemId, index: ChunkIndex) -> Option<Bytes> {
        let (age, bytes) = self.chunks.get_mut(&(item, index))?;
        self.clock += 1;
        self.by_age.remove(age);
        *age = self.clock;
        self.by_age.insert(self.clock, (item, index));
        Some(bytes.clone())
    }

    pub(super) fn put(&mut self, item: ItemId, index: ChunkIndex, bytes: Bytes) {
        if bytes.len() > self.max_bytes {
            return;
        }
        self.forget((item, index));
        self.clock += 1;
        self.used_bytes += bytes.len();
        self.chunks.insert((item, index), (self.clock, bytes));
        self.by_age.insert(self.clock, (item, index));
        while self.used_bytes > self.max_bytes
            && let Some((_, oldest)) = self.by_age.first_key_value()
        {
            self.forget(*oldest);
        }
    }

    pub(super) fn forget_chunk(&mut self, item: ItemId, index: ChunkIndex) {
        self.forget((item, index));
    }

    pub(super) fn forget_item(&mut self, item: ItemId) {
        let keys: Vec<Key> = self.chunks.range((item, ChunkIndex::FIRST)..).map(|(key, _)| *key).collect();
        keys.into_iter().take_while(|key| key.0 == item).for_each(|key| self.forget(key));
    }

    fn forget(&mut self, key: Key) {
        if let Some((age, bytes)) = self.chunks.remove(&key) {
            self.by_age.remove(&age);
            self.used_bytes -= bytes.len();
            self.buffers.give_back(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ITEM: ItemId = ItemId::from_bytes([1; 32]);
    const OTHER: ItemId = ItemId::from_bytes([2; 32]);

    fn chunk(raw: u32) -> ChunkIndex {
        ChunkIndex::new(raw).expect("small")
    }

    #[test]
    fn chunk_that_was_not_asked_for_the_longest_leaves_first() {
        let mut cache = Cache::new(30, Buffers::default());
        for raw in 0..3 {
            cache.put(ITEM, chunk(raw), Bytes::from(vec![0; 10]));
        }
        assert!(cache.get(ITEM, chunk(0)).is_some());
        cache.put(ITEM, chunk(3), Bytes::from(vec![0; 10]));
        let held: Vec<bool> = (0..4).map(|raw| cache.get(ITEM, chunk(raw)).is_some()).collect();
        assert_eq!(held, [true, false, true, true]);
    }

    #[test]
    fn chunk_larger_than_the_cache_is_not_kept() {
        let mut cache = Cache::new(5, Buffers::default());
        cache.put(ITEM, chunk(0), Bytes::from_static(b"123456"));
        assert!(cache.get(ITEM, chunk(0)).is_none());
    }

    #[test]
    fn forgetting_an_item_leaves_the_others_and_frees_its_room() {
        let mut cache = Cache::new(100, Buffers::default());
        cache.put(ITEM, chunk(0), Bytes::from_static(b"a"));
        cache.put(ITEM, chunk(7), Bytes::from_static(b"b"));
        cache.put(OTHER, chunk(7), Bytes::from_static(b"c"));
        cache.forget_item(ITEM);
        assert!(cache.get(ITEM, chunk(7)).is_none() && cache.get(OTHER, chunk(7)).is_some());
        assert_eq!(cache.used_bytes, 1);
    }
}
