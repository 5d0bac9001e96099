//! Writes the sealed bytes of one item without filling the page cache.
//!
//! Where the file system takes direct writes, whole pages go straight from memory to the disk: the kernel copies
//! nothing, and what others have in its cache stays there. Where it does not (tmpfs, some network file systems), writes
//! go through the cache and their pages are given back as soon as they are durable, so that the same pages serve all the
//! time. What is no whole page, at the end of an item, always goes through the cache. Never reads.

use std::fs::{File, OpenOptions};
use std::io;
use std::num::NonZeroU64;
use std::ops::Range;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::BytesMut;
use rustix::fs::{Advice, OFlags};
use rustix::io::Errno;

use crate::buffers::{ALIGN_BYTES, Buffers, is_aligned};

/// Written at a time from memory that does not begin on a page.
const SHEET_BYTES: usize = 256 << 10;

/// An item's file, open for writing.
pub(super) struct ItemFile {
    cached: File,
    direct: Option<File>,
    /// The file system took the flag and refuses the writes all the same.
    refused: AtomicBool,
}

/// Memory in which bytes are laid right for the disk, where they were not.
pub(super) struct Sheet(BytesMut);

impl Sheet {
    pub(super) fn of(buffers: &Buffers) -> Sheet {
        Sheet(buffers.take(SHEET_BYTES))
    }
}

impl ItemFile {
    /// Opens a file that is there; `direct` where that is possible.
    pub(super) fn open(path: &Path, direct: bool) -> io::Result<ItemFile> {
        let cached = OpenOptions::new().write(true).open(path)?;
        let flags = OFlags::DIRECT.bits().cast_signed();
        let direct = match direct.then(|| OpenOptions::new().write(true).custom_flags(flags).open(path)) {
            Some(Err(error)) if !is_refusal(&error) => return Err(error),
            opened => opened.and_then(Result::ok),
        };
        Ok(ItemFile { cached, direct, refused: AtomicBool::new(false) })
    }

    pub(super) fn write(&self, bytes: &[u8], at: u64, sheet: &mut Sheet) -> io::Result<()> {
        let whole = match self.direct_file() {
            Some(file) if at.is_multiple_of(ALIGN_BYTES as u64) => {
                let pages = &bytes[..bytes.len() / ALIGN_BYTES * ALIGN_BYTES];
                match write_pages(file, pages, at, sheet) {
                    Ok(()) => pages.len(),
                    Err(error) if is_refusal(&error) => {
                        self.refused.store(true, Ordering::Relaxed);
                        0
                    }
                    Err(error) => return Err(error),
                }
            }
            _ => 0,
        };
        self.cached.write_all_at(&bytes[whole..], at + whole as u64)
    }

    /// Waits until everything written is on the disk, then gives back the memory that the cache has spent on it.
    pub(super) fn make_durable(&self, written: &[Range<u64>]) -> io::Result<()> {
        self.cached.sync_data()?;
        if self.direct_file().is_none() {
            for range in written {
                // It is only advice.
                let _ = rustix::fs::fadvise(
                    &self.cached,
                    range.start,
                    NonZeroU64::new(range.end - range.start),
                    Advice::DontNeed,
                );
            }
        }
        Ok(())
    }

    fn direct_file(&self) -> Option<&File> {
        self.direct.as_ref().filter(|_| !self.refused.load(Ordering::Relaxed))
    }
}

fn write_pages(file: &File, pages: &[u8], at: u64, sheet: &mut Sheet) -> io::Result<()> {
    if is_aligned(pages) {
        return file.write_all_at(pages, at);
    }
    let mut at = at;
    for part in pages.chunks(SHEET_BYTES) {
        let laid = &mut sheet.0[..part.len()];
        laid.copy_from_slice(part);
        file.write_all_at(laid, at)?;
        at += part.len() as u64;
    }
    Ok(())
}

/// Not a fault of the disk: it wants to be written to in another way.
fn is_refusal(error: &io::Error) -> bool {
    let refusals = [Errno::INVAL, Errno::OPNOTSUPP];
    error.raw_os_error().is_some_and(|code| refusals.iter().any(|errno| errno.raw_os_error() == code))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use swarm_proto::geometry::CHUNK_BYTES;

    use super::*;

    const CHUNK: usize = CHUNK_BYTES as usize;

    fn pattern(len: usize, seed: u8) -> Vec<u8> {
        (0..len).map(|n| (n as u8).wrapping_mul(31).wrapping_add(seed)).collect()
    }

    /// Two chunks and a bit, written back to front, as they would come from a network and as they would not.
    fn written_by(folder: &Path, direct: bool) -> Vec<u8> {
        let (path, buffers) = (folder.join("item"), Buffers::default());
        File::create(&path).expect("made").set_len(2 * CHUNK_BYTES + 5_000).expect("sized");
        let file = ItemFile::open(&path, direct).expect("opened");
        let mut sheet = Sheet::of(&buffers);
        let mut aligned = buffers.take(CHUNK);
        aligned.copy_from_slice(&pattern(CHUNK, 2));
        let unaligned = Bytes::from([&[0][..], &pattern(CHUNK, 1)].concat()).slice(1..);
        file.write(&pattern(5_000, 3), 2 * CHUNK_BYTES, &mut sheet).expect("the end");
        file.write(&aligned, CHUNK_BYTES, &mut sheet).expect("the middle");
        file.write(&unaligned, 0, &mut sheet).expect("the beginning");
        file.make_durable(&[0..CHUNK_BYTES, CHUNK_BYTES..2 * CHUNK_BYTES + 5_000]).expect("durable");
        std::fs::read(path).expect("read")
    }

    #[test]
    fn every_way_of_writing_leaves_the_same_bytes() {
        let expected = [pattern(CHUNK, 1), pattern(CHUNK, 2), pattern(5_000, 3)].concat();
        let folder = tempfile::tempdir().expect("a folder");
        assert!(written_by(folder.path(), true) == expected, "past the cache");
        assert!(written_by(folder.path(), false) == expected, "through it");
    }

    #[test]
    fn file_system_without_direct_writes_is_written_to_all_the_same() {
        let shared_memory = Path::new("/dev/shm");
        if !shared_memory.is_dir() {
            return;
        }
        let folder = tempfile::tempdir_in(shared_memory).expect("a folder in memory");
        let expected = [pattern(CHUNK, 1), pattern(CHUNK, 2), pattern(5_000, 3)].concat();
        assert!(written_by(folder.path(), true) == expected);
    }
}
