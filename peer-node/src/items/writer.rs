//! The thread that changes item files, and the one that waits for the disk.
//!
//! Chunks are written as they come and collected in a batch: [`BATCH_BYTES`], [`BATCH_AGE`] or the end of an item,
//! whichever is first. The batch goes to the sealing thread, which makes the data durable and only then promises it in
//! the bitmap, while the next batch is being written. Files are deleted only when no batch is on its way.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry as Slot;
use std::io;
use std::ops::Range;
use std::sync::{Arc, mpsc as sync_mpsc};
use std::time::Duration;

use bytes::Bytes;
use swarm_proto::bitmap::Holding;
use swarm_proto::geometry::{ChunkIndex, Geometry};
use swarm_proto::id::ItemId;
use swarm_proto::manifest::Manifest;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::disk::Loaded;
use super::file::{ItemFile, Sheet};
use super::tail::Tail;
use super::{Entry, Folder, ItemsError, Shared};

/// What a crash costs at most, in bytes, times the batches under way: hashed again when the program has died, fetched
/// again when the power was cut. Small enough for both to pass without notice, large enough that a disk's wait for
/// durability is paid rarely.
const BATCH_BYTES: u64 = 16 << 20;

/// What a crash costs at most in time.
const BATCH_AGE: Duration = Duration::from_secs(1);

/// Batches that wait for the sealing thread. With one, at most three batches are not durable yet.
const BATCH_QUEUE: usize = 1;

type Reply<T> = oneshot::Sender<Result<T, ItemsError>>;

/// What the writer can be asked to do.
pub(super) enum Command {
    /// Chunks that are meant; none: all.
    Reserve {
        manifest: Arc<Manifest>,
        part: Option<Vec<Range<u32>>>,
        reply: Reply<Holding>,
    },
    Write {
        item: ItemId,
        index: ChunkIndex,
        sealed: Bytes,
        reply: Reply<()>,
    },
    Forget {
        item: ItemId,
        index: ChunkIndex,
        reply: Reply<()>,
    },
    Adopt {
        item: ItemId,
        reply: Reply<Holding>,
    },
    Remove {
        item: ItemId,
        reply: Reply<()>,
    },
    Flush {
        reply: Reply<()>,
    },
}

/// Items whose bitmap has fallen behind.
#[derive(Default)]
struct Batch {
    items: BTreeMap<ItemId, Behind>,
    bytes: u64,
    since: Option<Instant>,
}

/// One of them.
struct Behind {
    file: ItemFile,
    tail: Tail,
    written: Vec<Range<u64>>,
}

/// What the sealing thread makes durable: data first, then the promise.
enum Sealing {
    Items(Vec<(ItemId, Behind, Holding)>),
    /// Everything before this is durable.
    Barrier(sync_mpsc::SyncSender<()>),
}

struct Writer {
    shared: Arc<Shared>,
    sealer: sync_mpsc::SyncSender<Sealing>,
    batch: Batch,
    sheet: Sheet,
}

/// Starts both threads. They end when the last handle is gone, after everything written is durable.
pub(super) fn start(shared: Arc<Shared>, commands: mpsc::Receiver<Command>) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
    let (sealer, batches) = sync_mpsc::sync_channel(BATCH_QUEUE);
    let folder = shared.folder.clone();
    std::thread::Builder::new().name("items-sealer".to_owned()).spawn(move || seal(&folder, &batches))?;
    let sheet = Sheet::of(&shared.buffers);
    let writer = Writer { shared, sealer, batch: Batch::default(), sheet };
    std::thread::Builder::new()
        .name("items-writer".to_owned())
        .spawn(move || runtime.block_on(writer.run(commands)))?;
    Ok(())
}

impl Writer {
    async fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        loop {
            let command = match self.batch.since {
                None => commands.recv().await,
                Some(since) => match tokio::time::timeout_at(since + BATCH_AGE, commands.recv()).await {
                    Ok(command) => command,
                    Err(_) => {
                        self.hand_over_batch();
                        continue;
                    }
                },
            };
            let Some(command) = command else { break };
            self.perform(command);
            if self.batch.bytes >= BATCH_BYTES {
                self.hand_over_batch();
            }
        }
        self.hand_over_batch();
    }

    /// Answers that nobody waits for any more are dropped: the work is done all the same.
    fn perform(&mut self, command: Command) {
        match command {
            Command::Reserve { manifest, part, reply } => {
                drop(reply.send(self.reserve(&manifest, part.as_deref())));
            }
            Command::Write { item, index, sealed, reply } => drop(reply.send(self.write(item, index, sealed))),
            Command::Forget { item, index, reply } => drop(reply.send(self.forget(item, index))),
            Command::Adopt { item, reply } => drop(reply.send(self.adopt(item))),
            Command::Remove { item, reply } => drop(reply.send(self.remove(item))),
            Command::Flush { reply } => {
                self.flush();
                drop(reply.send(Ok(())));
            }
        }
    }

    fn reserve(&mut self, manifest: &Arc<Manifest>, part: Option<&[Range<u32>]>) -> Result<Holding, ItemsError> {
        let item = manifest.item();
        let known = self.shared.read(|list| list.get(&item).map(|entry| (entry.holding.clone(), entry.reserved)));
        if let Some((holding, reserved)) = &known
            && (*reserved || part.is_some())
        {
            return Ok(holding.clone());
        }
        let geometry = manifest.geometry();
        let places: Vec<Range<u64>> = match part {
            None => std::iter::once(0..geometry.sealed_len()).collect(),
            Some(part) => part.iter().filter_map(|range| bytes_of(geometry, range)).collect(),
        };
        let disk = |what| move |error| ItemsError::Disk { item, what, error };
        let folder = &self.shared.folder;
        let wanted: u64 = places.iter().map(|place| place.end - place.start).sum();
        let needed = wanted.saturating_sub(folder.allocated_bytes(&item));
        let free = folder.free_bytes().map_err(disk("see the room for the file"))?;
        let short = needed.saturating_add(self.shared.reserve).saturating_sub(free);
        if needed > 0 && short > 0 {
            return Err(ItemsError::StorageFull { item, short });
        }
        match folder.create(manifest, &places) {
            Err(error) if is_full(&error) => return Err(ItemsError::StorageFull { item, short: needed.max(1) }),
            made => made.map_err(disk("make the file"))?,
        }
        let holding = match known {
            Some((holding, _)) => holding,
            None => self.take(item, "read the new file")?,
        };
        if part.is_none() {
            self.shared.change(|list| list.get_mut(&item).map(|entry| entry.reserved = true));
        }
        Ok(holding)
    }

    fn write(&mut self, item: ItemId, index: ChunkIndex, sealed: Bytes) -> Result<(), ItemsError> {
        let entry = self.shared.read(|list| list.get(&item).cloned()).ok_or(ItemsError::Unknown(item))?;
        let range = entry.manifest.geometry().chunk_range(index);
        if sealed.is_empty() || range.end - range.start != sealed.len() as u64 {
            let why = format!("chunk {index} with {} bytes", sealed.len());
            return Err(ItemsError::NoSuchPiece { item, why });
        }
        if entry.holding.contains(index) {
            return Ok(());
        }
        let behind = self.batch.behind(&self.shared, item)?;
        match behind.file.write(&sealed, range.start, &mut self.sheet).and_then(|()| behind.tail.add(index)) {
            Err(error) if is_full(&error) => return Err(ItemsError::StorageFull { item, short: sealed.len() as u64 }),
            written => written.map_err(|error| ItemsError::Disk { item, what: "write a chunk", error })?,
        }
        behind.wrote(range);
        self.batch.bytes += sealed.len() as u64;
        self.shared.cache().put(item, index, sealed);
        let is_complete = self.shared.change(|list| {
            list.get_mut(&item).is_some_and(|entry| entry.holding.insert(index) && entry.holding.is_complete())
        });
        if is_complete {
            self.hand_over_batch();
        }
        Ok(())
    }

    fn forget(&mut self, item: ItemId, index: ChunkIndex) -> Result<(), ItemsError> {
        self.shared.cache().forget_chunk(item, index);
        let was_held = self.shared.change(|list| list.get_mut(&item).is_some_and(|entry| entry.holding.remove(index)));
        if was_held {
            self.batch.behind(&self.shared, item)?;
        }
        Ok(())
    }

    fn adopt(&mut self, item: ItemId) -> Result<Holding, ItemsError> {
        if let Some(holding) = self.holding(item).filter(Holding::is_complete) {
            return Ok(holding);
        }
        let not_whole = |why: &str| Err(ItemsError::NotWhole { item, why: why.to_owned() });
        let disk = |error| ItemsError::Disk { item, what: "look at the files", error };
        let folder = &self.shared.folder;
        if !folder.has(&item) {
            return not_whole("there is no file of it in the folder of items");
        }
        let Some(manifest) = folder.read_manifest(item).map_err(disk)? else {
            return not_whole("its manifest is missing or does not prove itself");
        };
        let marked = folder.read_bitmap(&item, manifest.geometry().n_chunks()).map_err(disk)?;
        if !marked.is_some_and(|holding| holding.is_complete()) {
            return not_whole("it is not marked as complete");
        }
        match self.take(item, "look at the files")? {
            holding if holding.is_complete() => Ok(holding),
            _ => not_whole("the file is shorter than the item"),
        }
    }

    fn remove(&mut self, item: ItemId) -> Result<(), ItemsError> {
        self.flush();
        self.shared.change(|list| list.remove(&item));
        self.shared.cache().forget_item(item);
        self.shared.reader.forget(&item);
        self.shared.folder.delete(&item).map_err(|error| ItemsError::Disk { item, what: "delete the files", error })
    }

    /// Reads an item that is new in the folder and puts it on the list.
    fn take(&mut self, item: ItemId, what: &'static str) -> Result<Holding, ItemsError> {
        let loaded = self.shared.folder.load(item).map_err(|error| ItemsError::Disk { item, what, error })?;
        let Loaded { manifest, holding, hashed } = loaded.ok_or(ItemsError::Unknown(item))?;
        self.shared.reader.count_hashed(hashed);
        self.shared.reader.forget(&item);
        let reserved = self.shared.folder.allocated_bytes(&item) >= manifest.geometry().sealed_len();
        let entry = Entry { manifest: Arc::new(manifest), holding: holding.clone(), reserved };
        self.shared.change(|list| list.insert(item, entry));
        Ok(holding)
    }

    fn holding(&self, item: ItemId) -> Option<Holding> {
        self.shared.read(|list| list.get(&item).map(|entry| entry.holding.clone()))
    }

    /// Gives the batch to the sealing thread; waits when that is two batches behind.
    fn hand_over_batch(&mut self) {
        let Batch { items, .. } = std::mem::take(&mut self.batch);
        let items: Vec<_> = self.shared.read(|list| {
            items
                .into_iter()
                .filter_map(|(item, behind)| list.get(&item).map(|entry| (item, behind, entry.holding.clone())))
                .collect()
        });
        if !items.is_empty() {
            self.sealer.send(Sealing::Items(items)).expect("the sealing thread outlives the writer");
        }
    }

    fn flush(&mut self) {
        self.hand_over_batch();
        let (done, sealed) = sync_mpsc::sync_channel(1);
        self.sealer.send(Sealing::Barrier(done)).expect("the sealing thread outlives the writer");
        sealed.recv().expect("the sealing thread answers every barrier");
    }
}

impl Batch {
    /// The files of an item, which is behind from now on.
    fn behind(&mut self, shared: &Shared, item: ItemId) -> Result<&mut Behind, ItemsError> {
        let behind = match self.items.entry(item) {
            Slot::Occupied(slot) => slot.into_mut(),
            Slot::Vacant(slot) => {
                let disk = |error| ItemsError::Disk { item, what: "open the files", error };
                let file = ItemFile::open(&shared.folder.item_path(&item), shared.direct_writes).map_err(disk)?;
                let tail = Tail::open(&shared.folder.tail_path(&item)).map_err(disk)?;
                slot.insert(Behind { file, tail, written: Vec::new() })
            }
        };
        self.since.get_or_insert_with(Instant::now);
        Ok(behind)
    }
}

impl Behind {
    /// Chunks mostly come one after the other.
    fn wrote(&mut self, range: Range<u64>) {
        match self.written.last_mut().filter(|last| last.end == range.start) {
            Some(last) => last.end = range.end,
            None => self.written.push(range),
        }
    }
}

fn seal(folder: &Folder, batches: &sync_mpsc::Receiver<Sealing>) {
    while let Ok(sealing) = batches.recv() {
        match sealing {
            Sealing::Items(items) => seal_items(folder, &items),
            Sealing::Barrier(done) => {
                if let Err(error) = folder.sync() {
                    tracing::error!(%error, "the folder of items could not be made durable");
                }
                let _ = done.send(());
            }
        }
    }
}

/// A failure costs durability, never truth: whatever is not on disk is found out when it is read. The folder itself is
/// not waited for: until it is durable, the bitmap before this one stands, which promises less.
fn seal_items(folder: &Folder, items: &[(ItemId, Behind, Holding)]) {
    for (item, behind, holding) in items {
        let sealed = behind.file.make_durable(&behind.written).and_then(|()| folder.write_bitmap(item, holding));
        let sealed = match holding.is_complete() {
            true => sealed.and_then(|()| folder.forget_tail(item)),
            false => sealed,
        };
        if let Err(error) = sealed {
            tracing::error!(%item, %error, "what was written could not be made durable");
        }
    }
}

/// Where these chunks lie in the file; none if the item has no such chunks.
fn bytes_of(geometry: &Geometry, chunks: &Range<u32>) -> Option<Range<u64>> {
    let first = geometry.chunk(chunks.start)?;
    let last = geometry.chunk(chunks.end.checked_sub(1)?)?;
    Some(geometry.chunk_range(first).start..geometry.chunk_range(last).end)
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}
