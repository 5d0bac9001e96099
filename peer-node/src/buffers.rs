//! Memory for chunks, used again and again.
//!
//! A chunk is a MiB: asking the system for fresh memory each time costs more than hashing it. Buffers begin on a page of
//! their own, so that what arrives in one can be written past the page cache without another copy. The pool is bounded;
//! what is returned beyond that goes back to the system. Whoever takes a buffer sees bytes of some earlier chunk in it:
//! sealed ones, never clear.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::{Buf as _, Bytes, BytesMut};
use swarm_proto::geometry::CHUNK_BYTES;

/// What disks want the address, the place and the length of a direct write to be multiples of. 512 would do for many,
/// 4,096 for all that are known.
pub const ALIGN_BYTES: usize = 4_096;

/// Buffers that wait to be used again: twice what one fast source has on its way to us.
const KEPT: usize = 8;

/// A pool of buffers; clones share it.
#[derive(Debug, Clone, Default)]
pub struct Buffers {
    free: Arc<Mutex<Vec<BytesMut>>>,
}

impl Buffers {
    /// A buffer of `len` bytes with anything in it. One that is no longer than a chunk begins on a page of its own.
    pub fn take(&self, len: usize) -> BytesMut {
        let most = CHUNK_BYTES as usize;
        if len > most {
            return BytesMut::zeroed(len);
        }
        let mut buffer = self.free().pop().unwrap_or_else(|| {
            let mut memory = BytesMut::zeroed(most + ALIGN_BYTES);
            memory.advance(memory.as_ptr().align_offset(ALIGN_BYTES).min(ALIGN_BYTES));
            memory
        });
        buffer.resize(len, 0);
        buffer
    }

    /// Takes back a buffer that nobody else looks at any more; others are left to whoever still does.
    pub fn give_back(&self, bytes: Bytes) {
        let Ok(buffer) = bytes.try_into_mut() else { return };
        let whole = buffer.capacity() >= CHUNK_BYTES as usize && is_aligned(&buffer);
        let mut free = self.free();
        if whole && free.len() < KEPT {
            free.push(buffer);
        }
    }

    fn free(&self) -> MutexGuard<'_, Vec<BytesMut>> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a direct write may begin here.
pub fn is_aligned(bytes: &[u8]) -> bool {
    bytes.as_ptr().align_offset(ALIGN_BYTES) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHUNK: usize = CHUNK_BYTES as usize;

    #[test]
    fn buffer_begins_on_a_page_and_is_used_again() {
        let buffers = Buffers::default();
        let first = buffers.take(CHUNK).freeze();
        assert!(is_aligned(&first));
        let at = first.as_ptr();
        buffers.give_back(first);
        let again = buffers.take(CHUNK - 5);
        assert_eq!((again.as_ptr(), again.len()), (at, CHUNK - 5));
    }

    #[test]
    fn shortened_buffer_comes_back_whole() {
        let buffers = Buffers::default();
        let first = buffers.take(100).freeze();
        let at = first.as_ptr();
        buffers.give_back(first);
        let again = buffers.take(CHUNK);
        assert_eq!((again.as_ptr(), again.len()), (at, CHUNK));
    }

    #[test]
    fn buffer_that_somebody_still_reads_is_not_used_again() {
        let buffers = Buffers::default();
        let mut buffer = buffers.take(CHUNK);
        buffer.fill(7);
        let reader = buffer.freeze();
        buffers.give_back(reader.clone());
        buffers.take(CHUNK).fill(9);
        assert!(reader.iter().all(|byte| *byte == 7));
    }

    #[test]
    fn foreign_memory_and_more_than_enough_is_not_kept() {
        let buffers = Buffers::default();
        buffers.give_back(Bytes::from(vec![0; 10]));
        assert!(buffers.free().is_empty());
        let many: Vec<Bytes> = (0..KEPT + 3).map(|_| buffers.take(CHUNK).freeze()).collect();
        many.into_iter().for_each(|buffer| buffers.give_back(buffer));
        assert_eq!(buffers.free().len(), KEPT);
    }

    #[test]
    fn longer_than_a_chunk_is_served_but_not_kept() {
        let buffers = Buffers::default();
        let long = buffers.take(CHUNK + 512);
        assert_eq!(long.len(), CHUNK + 512);
    }
}
