//! Every key of the box's own store, and what lies there.
//!
//! Soft copies only: what the tracker and the publishers said last, so that a box that starts without a network goes
//! on. Deleting the store loses nothing that cannot be fetched again, except rights: what `grants` keeps is listed
//! there. Chunk bytes are in files of their own, never here.

use bytes::{BufMut, Bytes, BytesMut};
use daemon::store::{Batch, MAX_PAGE, MAX_VALUE_BYTES, Store, StoreError};
use swarm_proto::id::{ItemId, TitleId};

/// Keys begin with a byte that says what they are. Integers are big-endian; letters are never reused.
/// `grants` begins its keys with a capital.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Key {
    /// `c`: how far the catalog was followed: tracker id (32) ‖ catalog version (8).
    CatalogVersion,
    /// `h` ‖ title (16): how the tracker shows the title: 0 = listed, 1 = hidden by its operator (1).
    Title(TitleId),
    /// `t` ‖ title (16) ‖ part (2): a part of the signed catalog entry.
    EntryPart(TitleId, u16),
    /// `q` ‖ part (2): a part of the customer's queue, a protobuf QueueState.
    QueuePart(u16),
    /// `a` ‖ part (2): a part of what the tracker assigns, a protobuf Assignments.
    AssignmentPart(u16),
    /// `p` ‖ item (32): it came by preload; nothing lies there.
    Preloaded(ItemId),
    /// `k`: the keyserver that the tracker named last, as text.
    KeyserverUrl,
    /// `l` ‖ item (32): the last plan for a wanted item, a protobuf Plan without what is over soon.
    Plan(ItemId),
    /// `n`: the seeds to keep connected, a protobuf Welcome.
    PinnedSeeds,
}

impl Key {
    /// The key as the store takes it.
    pub fn bytes(self) -> Bytes {
        let mut key = BytesMut::with_capacity(33);
        match self {
            Key::CatalogVersion => key.put_u8(b'c'),
            Key::Title(title) => {
                key.put_u8(b'h');
                key.put_slice(title.as_bytes());
            }
            Key::EntryPart(title, part) => {
                key.put_slice(&Prefix::EntryParts(title).bytes());
                key.put_u16(part);
            }
            Key::QueuePart(part) => {
                key.put_slice(&Prefix::QueueParts.bytes());
                key.put_u16(part);
            }
            Key::AssignmentPart(part) => {
                key.put_slice(&Prefix::AssignmentParts.bytes());
                key.put_u16(part);
            }
            Key::Preloaded(item) => {
                key.put_slice(&Prefix::Preloaded.bytes());
                key.put_slice(item.as_bytes());
            }
            Key::KeyserverUrl => key.put_u8(b'k'),
            Key::Plan(item) => {
                key.put_slice(&Prefix::Plans.bytes());
                key.put_slice(item.as_bytes());
            }
            Key::PinnedSeeds => key.put_u8(b'n'),
        }
        key.freeze()
    }
}

/// What keys that belong together begin with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Prefix {
    /// Of all titles.
    Titles,
    /// Of the parts of one entry.
    EntryParts(TitleId),
    /// Of the parts of the queue.
    QueueParts,
    /// Of all plans.
    Plans,
    /// Of the parts of what the tracker assigns.
    AssignmentParts,
    /// Of everything that came by preload.
    Preloaded,
}

impl Prefix {
    /// The prefix as the store takes it.
    pub fn bytes(self) -> Bytes {
        match self {
            Prefix::Titles => Bytes::from_static(b"h"),
            Prefix::EntryParts(title) => [b"t".as_slice(), title.as_bytes()].concat().into(),
            Prefix::QueueParts => Bytes::from_static(b"q"),
            Prefix::Plans => Bytes::from_static(b"l"),
            Prefix::AssignmentParts => Bytes::from_static(b"a"),
            Prefix::Preloaded => Bytes::from_static(b"p"),
        }
    }
}

/// Puts bytes that are larger than a value, cut into parts, and deletes the parts that a longer predecessor left.
///
/// At most `max_parts` are written or deleted, so that callers can bound their batches.
pub fn put_parts(mut batch: Batch, bytes: &[u8], max_parts: u16, key: impl Fn(u16) -> Key) -> Batch {
    let mut pieces = bytes.chunks(MAX_VALUE_BYTES);
    for part in 0..max_parts {
        batch = match pieces.next() {
            Some(piece) => batch.put(key(part).bytes(), Bytes::copy_from_slice(piece)),
            None => batch.delete(key(part).bytes()),
        };
    }
    debug_assert!(pieces.next().is_none(), "callers bound what they store");
    batch
}

/// Reads what [`put_parts`] put; `None` if there is nothing.
pub async fn read_parts(store: &dyn Store, prefix: Prefix) -> Result<Option<Bytes>, StoreError> {
    let page = store.scan(&prefix.bytes(), None, MAX_PAGE).await?;
    if page.entries.is_empty() {
        return Ok(None);
    }
    let mut bytes = BytesMut::new();
    page.entries.iter().for_each(|entry| bytes.put_slice(&entry.versioned.value));
    Ok(Some(bytes.freeze()))
}

#[cfg(test)]
mod tests {
    use daemon::store::Memory;

    use super::*;

    #[tokio::test]
    async fn shorter_record_replaces_all_of_a_longer_one() {
        let store = Memory::default();
        for length in [3 * MAX_VALUE_BYTES + 5, MAX_VALUE_BYTES, 7] {
            let bytes: Vec<u8> = (0..length).map(|n| n as u8).collect();
            store.commit(put_parts(Batch::new(), &bytes, 4, Key::QueuePart)).await.unwrap();
            assert_eq!(read_parts(&store, Prefix::QueueParts).await.unwrap().unwrap(), bytes);
        }
    }

    #[test]
    fn keys_of_a_kind_begin_with_their_prefix() {
        let title = TitleId::from_bytes([7; 16]);
        assert!(Key::Title(title).bytes().starts_with(&Prefix::Titles.bytes()));
        assert!(Key::EntryPart(title, 9).bytes().starts_with(&Prefix::EntryParts(title).bytes()));
        assert!(Key::Plan(ItemId::from_bytes([7; 32])).bytes().starts_with(&Prefix::Plans.bytes()));
        assert!(Key::QueuePart(9).bytes().starts_with(&Prefix::QueueParts.bytes()));
        assert!(Key::AssignmentPart(9).bytes().starts_with(&Prefix::AssignmentParts.bytes()));
        assert!(Key::Preloaded(ItemId::from_bytes([7; 32])).bytes().starts_with(&Prefix::Preloaded.bytes()));
    }
}
