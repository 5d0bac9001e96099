//! Item files on disk: what this device holds, and nothing else.
//!
//! An item is three files: `<id>.item` (the sealed bytes, preallocated; `b3sum` of a complete one prints the id),
//! `<id>.manifest` and `<id>.bitmap` (which chunks are on disk for certain). Chunks become durable in batches: data,
//! `fdatasync`, bitmap, in that order, so a bitmap never promises what a power cut could take back. When the program has
//! died, chunks of unfinished batches are hashed at the next start (`<id>.tail` names them), and nothing else is unless
//! a bitmap is damaged; after a power cut they may have to be fetched again. A chunk that is read from disk is hashed
//! before anyone sees it, once while its file stays as it is. Writes leave nothing in the page cache: what has just
//! arrived is kept in a small cache here. One thread changes files and the list of items, a second one waits for the
//! disk; everyone else holds an [`Items`]. Never sees clear bytes.

mod cache;
mod disk;
mod file;
mod reader;
mod tail;
mod writer;

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use anyhow::Context as _;
use bytes::Bytes;
use swarm_proto::bitmap::Holding;
use swarm_proto::geometry::{ChunkIndex, SegmentIndex};
use swarm_proto::id::ItemId;
use swarm_proto::manifest::Manifest;
use tokio::sync::{Semaphore, mpsc, oneshot};

use self::cache::Cache;
pub use self::disk::Folder;
use self::disk::Loaded;
pub(crate) use self::disk::allocate;
pub use self::reader::Readings;
use self::reader::{Fault, Reader};
use self::writer::Command;
use crate::buffers::Buffers;
use crate::config;

/// Requests to the writer that may wait, most of them carrying a chunk: together 8 MiB at the most.
const WRITER_QUEUE: usize = 8;

/// Chunks read from disk at a time. More would only wait for the same disk, each with a MiB in its hands.
const READS_AT_ONCE: usize = 4;

/// Why an item or a chunk could not be had or kept.
#[derive(Debug, thiserror::Error)]
pub enum ItemsError {
    /// Not enough room. The title pauses; free that much or more.
    #[error("the disk lacks {short} bytes for item {item}")]
    StorageFull {
        /// Which item.
        item: ItemId,
        /// How many bytes are missing.
        short: u64,
    },
    /// No such item here. Reserve or adopt it first.
    #[error("item {0} is not on this disk")]
    Unknown(ItemId),
    /// The chunk has not arrived yet.
    #[error("chunk {1} of item {0} is not held")]
    NotHeld(ItemId, ChunkIndex),
    /// The bytes on disk are no longer those that were written. The chunk is not held any more: fetch it again.
    #[error("chunk {1} of item {0} is damaged on disk")]
    Rotten(ItemId, ChunkIndex),
    /// The item has no such chunk or segment, or it has another length. A mistake of the caller.
    #[error("item {item} has no such piece: {why}")]
    NoSuchPiece {
        /// Which item.
        item: ItemId,
        /// What is wrong with the piece.
        why: String,
    },
    /// What `publish` left is not a whole, sealed item.
    #[error("item {item} cannot be taken over: {why}")]
    NotWhole {
        /// Which item.
        item: ItemId,
        /// What is missing.
        why: String,
    },
    /// The disk failed.
    #[error("cannot {what} of item {item}: {error}")]
    Disk {
        /// Which item.
        item: ItemId,
        /// What was tried.
        what: &'static str,
        /// What the system said.
        #[source]
        error: io::Error,
    },
    /// The program is ending.
    #[error("the item store is closed")]
    Closed,
}

/// How full the disk is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Bytes of chunks that are held.
    pub stored_bytes: u64,
    /// Bytes that may still be stored, the reserve taken off.
    pub free_bytes: u64,
}

/// The items on this device's disk.
#[derive(Clone)]
pub struct Items {
    shared: Arc<Shared>,
    writer: mpsc::Sender<Command>,
}

/// What readers see. Only the writer's thread changes the list.
struct Shared {
    folder: Folder,
    reserve: u64,
    list: RwLock<BTreeMap<ItemId, Entry>>,
    cache: Mutex<Cache>,
    reader: Reader,
    reads: Semaphore,
    direct_writes: bool,
    buffers: Buffers,
}

#[derive(Clone)]
struct Entry {
    manifest: Arc<Manifest>,
    holding: Holding,
    /// All of it has its place on the disk.
    reserved: bool,
}

impl Items {
    /// Opens the folder `items` below `root` and finds out what is held.
    ///
    /// Blocks: for a moment, or, for each item whose bitmap is damaged, as long as it takes to hash that item.
    pub fn open(root: &Path, config: &config::Items) -> anyhow::Result<Items> {
        let folder = Folder::open(root.join("items"))?;
        let buffers = Buffers::default();
        let reader = Reader::new(buffers.clone());
        let mut list = BTreeMap::new();
        for item in folder.scan()? {
            let loaded = folder.load(item).with_context(|| format!("failed to open item {item}"))?;
            if let Some(Loaded { manifest, holding, hashed }) = loaded {
                reader.count_hashed(hashed);
                let reserved = folder.allocated_bytes(&item) >= manifest.geometry().sealed_len();
                list.insert(item, Entry { manifest: Arc::new(manifest), holding, reserved });
            }
        }
        let cache_bytes = usize::try_from(config.cache.bytes()).unwrap_or(usize::MAX);
        let shared = Arc::new(Shared {
            folder,
            reserve: config.reserve.bytes(),
            list: RwLock::new(list),
            cache: Mutex::new(Cache::new(cache_bytes, buffers.clone())),
            reader,
            reads: Semaphore::new(READS_AT_ONCE),
            direct_writes: config.direct_writes,
            buffers,
        });
        let (writer, commands) = mpsc::channel(WRITER_QUEUE);
        writer::start(shared.clone(), commands).context("failed to start the threads that write items")?;
        Ok(Items { shared, writer })
    }

    /// Memory for chunks on their way in: what is received in it is written without another copy.
    pub fn buffers(&self) -> Buffers {
        self.shared.buffers.clone()
    }

    /// All items of which there is a file, whole or not.
    pub fn list(&self) -> Vec<ItemId> {
        self.shared.read(|list| list.keys().copied().collect())
    }

    /// What the chunks of an item must hash to.
    pub fn manifest(&self, item: &ItemId) -> Option<Arc<Manifest>> {
        self.shared.read(|list| list.get(item).map(|entry| entry.manifest.clone()))
    }

    /// The chunks that are verified and written.
    pub fn holding(&self, item: &ItemId) -> Option<Holding> {
        self.shared.read(|list| list.get(item).map(|entry| entry.holding.clone()))
    }

    /// Makes room for an item on disk. If it is here already, only says what is held.
    pub async fn reserve(&self, item: ItemId, manifest: Arc<Manifest>) -> Result<Holding, ItemsError> {
        debug_assert_eq!(manifest.item(), item, "the manifest has proven itself");
        self.ask(|reply| Command::Reserve { manifest, part: None, reply }).await
    }

    /// Makes room for some chunks of an item only. The rest takes no room until it is reserved too.
    pub async fn reserve_part(
        &self,
        item: ItemId,
        manifest: Arc<Manifest>,
        chunks: Vec<Range<u32>>,
    ) -> Result<Holding, ItemsError> {
        debug_assert_eq!(manifest.item(), item, "the manifest has proven itself");
        self.ask(|reply| Command::Reserve { manifest, part: Some(chunks), reply }).await
    }

    /// Whether all of an item has its place on the disk.
    pub fn is_reserved(&self, item: &ItemId) -> bool {
        self.shared.read(|list| list.get(item).is_some_and(|entry| entry.reserved))
    }

    /// Writes a chunk that the caller has verified. It may be read at once and is durable within a batch.
    pub async fn write(&self, item: ItemId, index: ChunkIndex, sealed: Bytes) -> Result<(), ItemsError> {
        self.ask(|reply| Command::Write { item, index, sealed, reply }).await
    }

    /// The sealed bytes of a chunk, as good as on the day they were verified.
    pub async fn read_chunk(&self, item: ItemId, index: ChunkIndex) -> Result<Bytes, ItemsError> {
        if let Some(chunk) = self.shared.cache().get(item, index) {
            return Ok(chunk);
        }
        let (manifest, next) = self.shared.read(|list| match list.get(&item) {
            None => Err(ItemsError::Unknown(item)),
            Some(entry) if !entry.holding.contains(index) => Err(ItemsError::NotHeld(item, index)),
            Some(entry) => Ok((entry.manifest.clone(), entry.held_after(index))),
        })?;
        let permit = self.shared.reads.acquire().await.map_err(|_| ItemsError::Closed)?;
        let shared = self.shared.clone();
        let read = tokio::task::spawn_blocking(move || shared.read_and_verify(&manifest, index, next)).await;
        drop(permit);
        let result = read.map_err(|_| ItemsError::Closed)?;
        if let Err(ItemsError::Rotten(..)) = result {
            tracing::warn!(%item, chunk = index.get(), "a chunk is damaged on disk and will be fetched again");
            self.ask(|reply| Command::Forget { item, index, reply }).await?;
        }
        result
    }

    /// The sealed bytes of a segment; its whole chunk is verified on the way.
    pub async fn read_segment(&self, item: ItemId, index: SegmentIndex) -> Result<Bytes, ItemsError> {
        let manifest = self.manifest(&item).ok_or(ItemsError::Unknown(item))?;
        let len = manifest.geometry().segment_len(index);
        if len == 0 {
            return Err(ItemsError::NoSuchPiece { item, why: format!("it ends before segment {index}") });
        }
        let chunk = self.read_chunk(item, index.chunk()).await?;
        let start = index.in_chunk() * swarm_proto::geometry::SEGMENT_BYTES as usize;
        Ok(chunk.slice(start..start + len))
    }

    /// Takes over an item that `publish` has put into the folder: whole, sealed and marked complete.
    pub async fn adopt(&self, item: ItemId) -> Result<Holding, ItemsError> {
        self.ask(|reply| Command::Adopt { item, reply }).await
    }

    /// Deletes an item.
    pub async fn remove(&self, item: ItemId) -> Result<(), ItemsError> {
        self.ask(|reply| Command::Remove { item, reply }).await
    }

    /// Waits until everything written so far is durable. The last thing to do before the program ends.
    pub async fn flush(&self) -> Result<(), ItemsError> {
        self.ask(|reply| Command::Flush { reply }).await
    }

    /// How much is stored and how much more may be.
    pub fn usage(&self) -> Usage {
        let stored_bytes = self.shared.read(|list| list.values().map(Entry::held_bytes).sum());
        let free_bytes = self.shared.folder.free_bytes().unwrap_or(0).saturating_sub(self.shared.reserve);
        Usage { stored_bytes, free_bytes }
    }

    /// What reading has cost since the start.
    pub fn readings(&self) -> Readings {
        self.shared.reader.readings()
    }

    async fn ask<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<Result<T, ItemsError>>) -> Command,
    ) -> Result<T, ItemsError> {
        let (reply, answer) = oneshot::channel();
        self.writer.send(command(reply)).await.map_err(|_| ItemsError::Closed)?;
        answer.await.map_err(|_| ItemsError::Closed)?
    }
}

impl Shared {
    fn read<T>(&self, question: impl FnOnce(&BTreeMap<ItemId, Entry>) -> T) -> T {
        question(&self.list.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn change<T>(&self, change: impl FnOnce(&mut BTreeMap<ItemId, Entry>) -> T) -> T {
        change(&mut self.list.write().unwrap_or_else(PoisonError::into_inner))
    }

    fn cache(&self) -> std::sync::MutexGuard<'_, Cache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read_and_verify(&self, manifest: &Manifest, index: ChunkIndex, next: u32) -> Result<Bytes, ItemsError> {
        let item = manifest.item();
        let bytes = self.reader.read(&self.folder.item_path(&item), manifest, index, next);
        let bytes = bytes.map_err(|fault| match fault {
            Fault::Rotten => ItemsError::Rotten(item, index),
            Fault::NoSuchChunk(error) => ItemsError::NoSuchPiece { item, why: error.to_string() },
            Fault::Disk(error) => ItemsError::Disk { item, what: "read a chunk", error },
        })?;
        self.cache().put(item, index, bytes.clone());
        Ok(bytes)
    }
}

impl Entry {
    /// How many chunks after this one are held too; no more than a reader is fetched ahead.
    fn held_after(&self, index: ChunkIndex) -> u32 {
        let after = (1..=reader::AHEAD_CHUNKS).map(|n| ChunkIndex::new(index.get() + n));
        let held = after.take_while(|chunk| chunk.is_some_and(|chunk| self.holding.contains(chunk)));
        u32::try_from(held.count()).unwrap_or(0)
    }

    fn held_bytes(&self) -> u64 {
        let geometry = self.manifest.geometry();
        let last = geometry.chunks().next_back().filter(|last| self.holding.contains(*last));
        let short = last.map_or(0, |last| swarm_proto::geometry::CHUNK_BYTES - geometry.chunk_len(last) as u64);
        u64::from(self.holding.len()) * swarm_proto::geometry::CHUNK_BYTES - short
    }
}
