//! Which chunks were written since the bitmap: a hint for the next start.
//!
//! `<id>.tail` gets four bytes, big-endian, for every chunk that has been written; it is never waited for. When the
//! program has died, chunks that are named there and not in the bitmap are hashed, and those that are good are held:
//! nothing that had arrived is fetched again, and nothing else is hashed. Never believed without a hash, so a torn or
//! stale one does no harm.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use swarm_proto::geometry::{ChunkIndex, MAX_CHUNKS};

const RECORD_BYTES: usize = 4;
/// Every chunk of the longest item, each written once more than needed.
const MAX_BYTES: u64 = 2 * MAX_CHUNKS as u64 * RECORD_BYTES as u64;

/// The tail of one item, open for more.
pub(super) struct Tail(File);

impl Tail {
    pub(super) fn open(path: &Path) -> io::Result<Tail> {
        Ok(Tail(OpenOptions::new().append(true).create(true).mode(0o600).open(path)?))
    }

    pub(super) fn add(&self, chunk: ChunkIndex) -> io::Result<()> {
        (&self.0).write_all(&chunk.get().to_be_bytes())
    }
}

/// The chunks that a tail names; none when there is no tail.
pub(super) fn read(path: &Path) -> io::Result<BTreeSet<ChunkIndex>> {
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeSet::new()),
        file => file?,
    };
    let mut bytes = Vec::new();
    file.take(MAX_BYTES).read_to_end(&mut bytes)?;
    let (records, _torn) = bytes.as_chunks::<RECORD_BYTES>();
    Ok(records.iter().filter_map(|record| ChunkIndex::new(u32::from_be_bytes(*record))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(raw: u32) -> ChunkIndex {
        ChunkIndex::new(raw).expect("possible")
    }

    #[test]
    fn tail_names_what_was_added_over_all_runs() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("x.tail");
        assert!(read(&path).expect("none yet").is_empty());
        Tail::open(&path).and_then(|tail| tail.add(chunk(7))).expect("added");
        Tail::open(&path).and_then(|tail| tail.add(chunk(3))).expect("added");
        assert_eq!(read(&path).expect("read"), BTreeSet::from([chunk(3), chunk(7)]));
    }

    #[test]
    fn torn_and_impossible_records_are_passed_over() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("x.tail");
        std::fs::write(&path, [&9_u32.to_be_bytes()[..], &u32::MAX.to_be_bytes(), &[1, 2, 3]].concat()).expect("made");
        assert_eq!(read(&path).expect("read"), BTreeSet::from([chunk(9)]));
    }
}
