//! Drives what this device fetches and passes on.
//!
//! One task owns the machines of `swarm_proto::peer` and does what they wish with the network, the disk and the tracker.
//! A chunk goes: asked → arrived → verified → written → told to others. Nothing is written, counted or passed on before
//! it is verified, and nothing is announced before it is written. Decides nothing that a machine could decide.

mod fetch;
mod keeping;
mod memory;
mod plan;
mod run;
mod serve;
mod show;
mod tell;

use std::ops::Range;
use std::sync::Arc;

use daemon::store::Store;
use libp2p::Multiaddr;
use swarm_proto::geometry::{ChunkIndex, Geometry};
use swarm_proto::id::{DeviceId, ItemId};
use swarm_proto::membership::DeviceKind;
pub use swarm_proto::peer::transfers::{Books, FoundBy};
use swarm_proto::ticket::TicketClass;
use swarm_proto::time::Utc;
use tokio::sync::{mpsc, oneshot, watch};

use self::memory::Memory;
use self::run::{Command, Engine, Views};
use crate::identity::{Identity, Members};
use crate::items::Items;
use crate::tracker_link::{self, HelloState, TrackerNotice};
use crate::{config, net};

/// Commands that wait for the engine. Those who ask wait in turn; nothing is dropped.
const COMMANDS: usize = 64;

/// An item this device shall hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// Which.
    pub item: ItemId,
    /// Its sizes, from the signed catalog entry.
    pub geometry: Geometry,
    /// Why: what is only preloaded keeps within its quota.
    pub class: TicketClass,
    /// Chunks that are not meant.
    pub skip: Vec<Range<u32>>,
}

impl Wanted {
    /// All of an item that somebody has asked for.
    pub fn queued(item: ItemId, geometry: Geometry) -> Wanted {
        Wanted { item, geometry, class: TicketClass::Queued, skip: Vec::new() }
    }
}

/// An item that somebody wants does not fit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoomWanted {
    /// Which.
    pub item: ItemId,
    /// Bytes that are missing.
    pub short: u64,
}

/// What the engine stands on.
pub struct Deps {
    /// Who this device is.
    pub identity: Arc<Identity>,
    /// Its membership, now and later.
    pub members: Members,
    /// Items on disk.
    pub items: Items,
    /// The tracker; `None` runs without one.
    pub tracker: Option<tracker_link::Handle>,
    /// Remembers plans and tickets.
    pub store: Arc<dyn Store>,
    /// The network side.
    pub net: net::Config,
    /// What is fetched, and how eagerly.
    pub transfers: config::Transfers,
    /// What is passed on, and how much of it.
    pub uploads: config::Uploads,
    /// What may be preloaded.
    pub preload: config::Preload,
}

/// How an item stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ItemState {
    /// No source yet.
    Waiting,
    /// Kept for a window of its site, or for the moment its customer named.
    Scheduled,
    /// Chunks are coming.
    Arriving,
    /// Complete on this disk.
    Available,
    /// The disk is full, or writing failed; goes on by itself.
    Paused,
}

/// What one source has given for one item.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceBytes {
    /// Who.
    pub device: DeviceId,
    /// Box or seed, if known.
    pub kind: Option<DeviceKind>,
    /// Bytes that verified.
    pub verified_bytes: u64,
    /// Bytes that were of no use: forged, twice, or cut off.
    pub wasted_bytes: u64,
    /// How it was found.
    pub found_by: FoundBy,
}

/// One item at a moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ItemSnapshot {
    /// Which.
    pub item: ItemId,
    /// How it stands.
    pub state: ItemState,
    /// Chunks of the item.
    pub n_chunks: u32,
    /// Chunks verified and written.
    pub chunks_held: u32,
    /// Length of the sealed file.
    pub sealed_len: u64,
    /// Verified bytes per second over the last 5 s.
    pub rate_bytes_per_sec: u64,
    /// Who gave what since this download began.
    pub sources: Vec<SourceBytes>,
    /// Bytes that were of no use.
    pub wasted_bytes: u64,
    /// Since when it is in this state.
    pub since: Utc,
    /// When the last chunk was verified.
    pub last_data: Option<Utc>,
    /// Why it waits or is paused, for a person; else empty.
    pub reason: String,
}

/// A device that is no longer spoken to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Banned {
    /// Who.
    pub device: DeviceId,
    /// Since when.
    pub since: Utc,
    /// Why, for a person.
    pub reason: String,
}

/// Everything the engine shows, at a moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Items wanted (in order of priority), then the others that are held.
    pub items: Vec<ItemSnapshot>,
    /// Devices connected now.
    pub connected_peers: usize,
    /// Addresses listened on, without `/p2p`.
    pub listening: Vec<Multiaddr>,
    /// Chunk bytes sent since the start.
    pub uploaded_bytes: u64,
    /// What has arrived since the start, and what became of it.
    pub books: Books,
    /// Devices that sent a proven bad chunk.
    pub banned: Vec<Banned>,
}

/// Why a chunk cannot be waited for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChunkWait {
    /// The item is neither held nor wanted. Queue it first.
    #[error("the item is not in the queue of this box")]
    NotWanted,
    /// The device is stopping.
    #[error("this device is shutting down")]
    Stopping,
}

/// Asks the engine, and tells it.
#[derive(Clone)]
pub struct Handle {
    commands: mpsc::Sender<Command>,
    snapshot: watch::Receiver<Arc<Snapshot>>,
    hello: watch::Receiver<HelloState>,
    room_wanted: watch::Receiver<Option<RoomWanted>>,
}

impl Handle {
    /// Replaces the list of wanted items; the first has the highest priority.
    pub async fn set_wanted(&self, wanted: Vec<Wanted>) {
        self.tell(Command::SetWanted(wanted)).await;
    }

    /// Announces an item that `items` has adopted: to the tracker and in Kademlia.
    pub async fn adopt(&self, item: ItemId) -> anyhow::Result<()> {
        self.ask(|done| Command::Adopt { item, done }).await?
    }

    /// Stops fetching an item, withdraws it and deletes it.
    pub async fn remove(&self, item: ItemId) -> anyhow::Result<()> {
        self.ask(|done| Command::Remove { item, done }).await?
    }

    /// The last item that did not fit, and that somebody wants.
    pub fn room_wanted(&self) -> watch::Receiver<Option<RoomWanted>> {
        self.room_wanted.clone()
    }

    /// There may be room now: what did not fit is tried again.
    pub async fn room_made(&self) {
        self.tell(Command::RoomMade).await;
    }

    /// Resolves once the chunk is held; until then it and those after it come first.
    pub async fn chunk(&self, item: ItemId, index: ChunkIndex) -> Result<(), ChunkWait> {
        self.ask(|held| Command::Chunk { item, index, held }).await.unwrap_or(Err(ChunkWait::Stopping))
    }

    /// What happens, at most four times a second.
    pub fn snapshot(&self) -> watch::Receiver<Arc<Snapshot>> {
        self.snapshot.clone()
    }

    /// What the tracker said.
    pub async fn notice(&self, notice: TrackerNotice) {
        self.tell(Command::Notice(notice)).await;
    }

    /// What a Hello to the tracker tells about this device.
    pub fn hello(&self) -> watch::Receiver<HelloState> {
        self.hello.clone()
    }

    /// Stops fetching and serving, and tells the tracker the last traffic. What was being written is written.
    pub async fn stop(&self) {
        // An engine that has already ended is what was asked for.
        let _ = self.ask(|done| Command::Stop { done }).await;
    }

    /// An engine that has ended takes no more commands; those who wait for an answer see it end.
    async fn tell(&self, command: Command) {
        let _ = self.commands.send(command).await;
    }

    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> anyhow::Result<T> {
        let (reply, answer) = oneshot::channel();
        self.tell(command(reply)).await;
        Ok(answer.await.map_err(|_| ChunkWait::Stopping)?)
    }
}

/// Starts the engine and its network.
pub async fn spawn(deps: Deps) -> anyhow::Result<Handle> {
    let mut config = deps.net.clone();
    config.upload_bytes_per_sec = deps.uploads.rate.at().map(|rate| rate.bytes_per_sec());
    config.buffers = deps.items.buffers();
    let (net, questions) = net::spawn(deps.identity.keypair.clone(), config).await?;
    let memory = Memory::open(deps.store.clone()).await?;
    let (commands, queue) = mpsc::channel(COMMANDS);
    let (engine, Views { snapshot, hello, room_wanted }) = Engine::new(deps, net, memory);
    tokio::spawn(engine.run(queue, questions));
    Ok(Handle { commands, snapshot, hello, room_wanted })
}
