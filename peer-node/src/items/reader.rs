//! Reads chunks from disk; each is hashed once while its file stays as it is.
//!
//! A chunk that was found sound is not hashed again as long as nothing about its file has changed (who it is, its
//! length, when it was last written or replaced), and for [`SOUND_FOR`] at most: a disk that rots tells nobody. While a
//! file is being written, every read of it is hashed. A reader that goes forward finds the next chunks on their way from
//! the disk already. Files stay open between reads; how many is bounded.

use std::collections::BTreeMap;
use std::fs::{File, Metadata};
use std::io;
use std::num::NonZeroU64;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use rustix::fs::Advice;
use swarm_proto::geometry::{CHUNK_BYTES, ChunkIndex};
use swarm_proto::id::ItemId;
use swarm_proto::manifest::{ChunkError, Manifest};
use swarm_proto::peer::chunk_set::ChunkSet;

use crate::buffers::Buffers;

/// Item files that stay open. More titles than this are rarely sent at a time.
const OPEN_FILES: usize = 64;

/// How long a chunk counts as sound after it was hashed.
const SOUND_FOR: Duration = Duration::from_secs(3_600);

/// A file that was changed this recently may change again without its times showing it: clocks of file systems are
/// coarse. Nothing about it is remembered.
const QUIET_FOR: Duration = Duration::from_secs(2);

/// Chunks that are fetched from the disk ahead of a reader that goes forward. A disk with a head then reads for some
/// tens of milliseconds at a time.
pub(super) const AHEAD_CHUNKS: u32 = 4;

/// How a read went that is no error of the system.
#[derive(Debug)]
pub(super) enum Fault {
    /// The bytes are not what they were, or not there.
    Rotten,
    /// A mistake of the caller.
    NoSuchChunk(ChunkError),
    /// The disk failed.
    Disk(io::Error),
}

/// What reading has cost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Readings {
    /// Chunks that were read from disk.
    pub from_disk: u64,
    /// Chunks that were hashed on their way from the disk, or at the start to know what is held.
    pub hashed: u64,
}

/// Reads chunks of items; shared by all threads that do.
pub(super) struct Reader {
    buffers: Buffers,
    open: Mutex<OpenFiles>,
    from_disk: AtomicU64,
    hashed: AtomicU64,
}

#[derive(Default)]
struct OpenFiles {
    files: BTreeMap<ItemId, OpenFile>,
    /// Counts uses; the smallest is the oldest.
    clock: u64,
}

struct OpenFile {
    file: Arc<File>,
    used: u64,
    stamp: Stamp,
    sound: ChunkSet,
    sound_since: Instant,
    /// The furthest chunk that was read or is being fetched ahead.
    reached: u32,
}

/// What changes when a file does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    len: u64,
    written: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    fn of(metadata: &Metadata) -> Stamp {
        Stamp {
            device: metadata.dev(),
            inode: metadata.ino(),
            len: metadata.size(),
            written: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// Whether its times can be told from those of a change that comes now.
    fn is_quiet(&self) -> bool {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let changed = Duration::from_secs(u64::try_from(self.changed.0).unwrap_or(0));
        now.checked_sub(changed).is_some_and(|age| age > QUIET_FOR)
    }
}

impl Reader {
    pub(super) fn new(buffers: Buffers) -> Reader {
        Reader { buffers, open: Mutex::default(), from_disk: AtomicU64::new(0), hashed: AtomicU64::new(0) }
    }

    /// The bytes of a chunk, sound. So many after it are held too, [`AHEAD_CHUNKS`] at the most.
    pub(super) fn read(&self, path: &Path, manifest: &Manifest, index: ChunkIndex, next: u32) -> Result<Bytes, Fault> {
        let (item, geometry) = (manifest.item(), manifest.geometry());
        let file = self.file(path, manifest).map_err(Fault::Disk)?;
        let before = Stamp::of(&file.metadata().map_err(Fault::Disk)?);
        let is_sound = self.is_sound(item, &before, index);
        self.read_ahead(&file, item, index, next);

        let mut buffer = self.buffers.take(geometry.chunk_len(index));
        self.from_disk.fetch_add(1, Ordering::Relaxed);
        match file.read_exact_at(&mut buffer, geometry.chunk_range(index).start) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Err(Fault::Rotten),
            read => read.map_err(Fault::Disk)?,
        }
        if is_sound {
            return Ok(buffer.freeze());
        }
        self.hashed.fetch_add(1, Ordering::Relaxed);
        match manifest.check_chunk(index, &buffer) {
            Ok(()) => {}
            Err(ChunkError::Forged(_)) => return Err(Fault::Rotten),
            Err(error) => return Err(Fault::NoSuchChunk(error)),
        }
        let after = Stamp::of(&file.metadata().map_err(Fault::Disk)?);
        if before == after && before.is_quiet() {
            self.remember(item, &before, index);
        }
        Ok(buffer.freeze())
    }

    /// The item is gone, or another file has its name now.
    pub(super) fn forget(&self, item: &ItemId) {
        self.open().files.remove(item);
    }

    /// Chunks were hashed to know whether they are held.
    pub(super) fn count_hashed(&self, chunks: u32) {
        self.hashed.fetch_add(chunks.into(), Ordering::Relaxed);
    }

    pub(super) fn readings(&self) -> Readings {
        Readings { from_disk: self.from_disk.load(Ordering::Relaxed), hashed: self.hashed.load(Ordering::Relaxed) }
    }

    /// The item's file. Opened without the lock, since a disk may take its time.
    fn file(&self, path: &Path, manifest: &Manifest) -> io::Result<Arc<File>> {
        let item = manifest.item();
        if let Some(file) = self.open().get(&item) {
            // One that was deleted under us stays readable; its name may mean another by now.
            if file.metadata()?.nlink() > 0 {
                return Ok(file);
            }
        }
        let file = Arc::new(File::open(path)?);
        let opened = OpenFile {
            used: 0,
            stamp: Stamp::of(&file.metadata()?),
            sound: ChunkSet::empty(manifest.geometry().n_chunks()),
            sound_since: Instant::now(),
            reached: 0,
            file: file.clone(),
        };
        self.open().put(item, opened);
        Ok(file)
    }

    fn is_sound(&self, item: ItemId, stamp: &Stamp, index: ChunkIndex) -> bool {
        let mut open = self.open();
        let Some(file) = open.files.get_mut(&item) else { return false };
        if file.stamp != *stamp || file.sound_since.elapsed() > SOUND_FOR {
            file.stamp = *stamp;
            file.sound = ChunkSet::empty(file.sound.width());
            file.sound_since = Instant::now();
        }
        file.sound.contains(index.get())
    }

    fn remember(&self, item: ItemId, stamp: &Stamp, index: ChunkIndex) {
        let mut open = self.open();
        if let Some(file) = open.files.get_mut(&item).filter(|file| file.stamp == *stamp) {
            file.sound.insert(index.get());
        }
    }

    /// Lets the system fetch what a reader that goes forward will ask for next.
    fn read_ahead(&self, file: &File, item: ItemId, index: ChunkIndex, next: u32) {
        let (index, to) = (index.get(), index.get().saturating_add(next));
        let from = {
            let mut open = self.open();
            let Some(state) = open.files.get_mut(&item) else { return };
            let reached = state.reached;
            let goes_forward = (reached.saturating_sub(AHEAD_CHUNKS)..=reached.saturating_add(1)).contains(&index);
            state.reached = if goes_forward { reached.max(to) } else { index };
            if !goes_forward || to <= reached {
                return;
            }
            reached.max(index) + 1
        };
        let Some(bytes) = NonZeroU64::new(u64::from((to + 1).saturating_sub(from)) * CHUNK_BYTES) else { return };
        // It is only advice.
        let _ = rustix::fs::fadvise(file, u64::from(from) * CHUNK_BYTES, Some(bytes), Advice::WillNeed);
    }

    fn open(&self) -> MutexGuard<'_, OpenFiles> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl OpenFiles {
    fn get(&mut self, item: &ItemId) -> Option<Arc<File>> {
        self.clock += 1;
        let open = self.files.get_mut(item)?;
        open.used = self.clock;
        Some(open.file.clone())
    }

    fn put(&mut self, item: ItemId, mut open: OpenFile) {
        self.clock += 1;
        open.used = self.clock;
        self.files.insert(item, open);
        while self.files.len() > OPEN_FILES {
            let oldest = self.files.iter().min_by_key(|(_, open)| open.used).map(|(item, _)| *item);
            oldest.map(|item| self.files.remove(&item));
        }
    }
}
