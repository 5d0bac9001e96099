//! Item files on disk: what this device holds, and nothing else.
//!
//! An item is three files: `<id>.item` (the sealed bytes, preallocated; `b3sum` of a complete one prints the id),
//! `<id>.manifest` and `<id>.bitmap` (which chunks are on disk for certain). Chunks become durable in batches: data,
//! `fdatasync`, bitmap, in that order, so a bitmap never promises what a power cut could take back. After a crash,
//! chunks of an unfinished batch are not held and are fetched again; nothing is hashed at start unless a bitmap is
//! damaged. A chunk is hashed again whenever it is read from disk, before anyone sees it. One thread changes files and
//! the list of items, a second one waits for the disk; everyone else holds an [`Items`]. Never sees clear bytes.

mod cache;
mod disk;
mod writer;

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use anyhow::Context as _;
use bytes::Bytes;
use swarm_proto::bitmap::Holding;
use swarm_proto::geometry::{ChunkIndex, SegmentIndex};
use swarm_proto::id::ItemId;
use swarm_proto::manifest::{ChunkError, Manifest};
use tokio::sync::{Semaphore, mpsc, oneshot};

use self::cache::Cache;
pub use self::disk::Folder;
pub(crate) use self::disk::allocate;
use self::writer::Command;
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
    reads: Semaphore,
}

#[derive(Clone)]
struct Entry {
    manifest: Arc<Manifest>,
    holding: Holding,
}

impl Items {
    /// Opens the folder `items` below `root` and finds out what is held.
    ///
    /// Blocks: for a moment, or, for each item whose bitmap is damaged, as long as it takes to hash that item.
    pub fn open(root: &Path, config: &config::Items) -> anyhow::Result<Items> {
        let folder = Folder::open(root.join("items"))?;
        let mut list = BTreeMap::new();
        for item in folder.scan()? {
            let loaded = folder.load(item).with_context(|| format!("failed to open item {item}"))?;
            list.extend(loaded.map(|(manifest, holding)| (item, Entry { manifest: Arc::new(manifest), holding })));
        }
        let shared = Arc::new(Shared {
            folder,
            reserve: config.reserve.bytes(),
            list: RwLock::new(list),
            cache: Mutex::new(Cache::new(usize::try_from(config.cache.bytes()).unwrap_or(usize::MAX))),
            reads: Semaphore::new(READS_AT_ONCE),
        });
        let (writer, commands) = mpsc::channel(WRITER_QUEUE);
        writer::start(shared.clone(), commands).context("failed to start the threads that write items")?;
        Ok(Items { shared, writer })
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
        self.ask(|reply| Command::Reserve { manifest, reply }).await
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
        let manifest = self.shared.read(|list| match list.get(&item) {
            None => Err(ItemsError::Unknown(item)),
            Some(entry) if !entry.holding.contains(index) => Err(ItemsError::NotHeld(item, index)),
            Some(entry) => Ok(entry.manifest.clone()),
        })?;
        let permit = self.shared.reads.acquire().await.map_err(|_| ItemsError::Closed)?;
        let shared = self.shared.clone();
        let read = tokio::task::spawn_blocking(move || shared.read_and_verify(&manifest, index)).await;
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

    fn read_and_verify(&self, manifest: &Manifest, index: ChunkIndex) -> Result<Bytes, ItemsError> {
        let item = manifest.item();
        let bytes = match self.folder.read_chunk(manifest, index) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Err(ItemsError::Rotten(item, index)),
            Err(error) => return Err(ItemsError::Disk { item, what: "read a chunk", error }),
        };
        match manifest.verify_chunk(index, bytes) {
            Ok(verified) => {
                let bytes = verified.into_bytes();
                self.cache().put(item, index, bytes.clone());
                Ok(bytes)
            }
            Err(ChunkError::Forged(_)) => Err(ItemsError::Rotten(item, index)),
            Err(error) => Err(ItemsError::NoSuchPiece { item, why: error.to_string() }),
        }
    }
}

impl Entry {
    fn held_bytes(&self) -> u64 {
        let geometry = self.manifest.geometry();
        let last = geometry.chunks().next_back().filter(|last| self.holding.contains(*last));
        let short = last.map_or(0, |last| swarm_proto::geometry::CHUNK_BYTES - geometry.chunk_len(last) as u64);
        u64::from(self.holding.len()) * swarm_proto::geometry::CHUNK_BYTES - short
    }
}
