//! The task that owns the engine's state.
//!
//! One loop: waits for a command, something finished, a question of another device or the clock; tells the machines;
//! does what they wish, in order. What takes time runs beside it as a job that ends in an [`Event`]; the machines bound
//! how many there can be. Local work goes before new work from others.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt as _};
use swarm_proto::bitmap::Holding;
use swarm_proto::geometry::{CHUNK_BYTES, ChunkIndex, Geometry};
use swarm_proto::id::{DeviceId, ItemId};
use swarm_proto::manifest::{Manifest, VerifiedChunk};
use swarm_proto::pb;
use swarm_proto::pb::tracker::report::Report;
use swarm_proto::peer::chunk_set::ChunkSet;
use swarm_proto::peer::news::News;
use swarm_proto::peer::rate::Meter;
use swarm_proto::peer::transfers::{self, Action, Ask, RequestId, Transfers, Verdict};
use swarm_proto::peer::uploads::{self, Uploads};
use swarm_proto::time::{Mono, Now};
use swarm_proto::wire::Answer;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{MissedTickBehavior, interval};

use super::memory::{Change, Memory};
use super::plan::Parts;
use super::serve::{Desk, Sent};
use super::show::Show;
use super::{Banned, ChunkWait, Deps, RoomWanted, Snapshot, Wanted};
use crate::identity::Members;
use crate::items::{Items, ItemsError};
use crate::net::{self, AskError, Exchange, Inbound, ProviderKey};
use crate::tracker_link::{self, HelloState, TrackerNotice};
use crate::{clock, config};

/// How often what is going on is shown, and transfers are looked at from outside.
const TICK: Duration = Duration::from_millis(250);
/// How long stopping waits for what is being verified and written.
const STOP_WITHIN: Duration = Duration::from_secs(5);
/// What would be told within this time is told before the end.
const LAST_NEWS: Duration = Duration::from_secs(60);

/// A player that waits for a chunk.
pub(super) type Waiter = oneshot::Sender<Result<(), ChunkWait>>;

/// Who waits for a command to be done.
pub(super) type Done = oneshot::Sender<anyhow::Result<()>>;

/// What the engine is asked to do.
pub(super) enum Command {
    SetWanted(Vec<Wanted>),
    Adopt { item: ItemId, done: Done },
    Remove { item: ItemId, done: Done },
    Chunk { item: ItemId, index: ChunkIndex, held: Waiter },
    Notice(TrackerNotice),
    RoomMade,
    Stop { done: oneshot::Sender<()> },
}

/// What a job has come to. Of what was removed, `n_chunks` says how large it was, if anything of it was here.
pub(super) enum Event {
    Answered { id: RequestId, result: Result<Answer, AskError> },
    ChunkJudged { id: RequestId, chunk: Option<VerifiedChunk> },
    ManifestJudged { id: RequestId, item: ItemId, verdict: Verdict, manifest: Option<Arc<Manifest>> },
    Reserved { item: ItemId, result: Result<Holding, ItemsError> },
    Stored { id: RequestId, item: ItemId, chunk: ChunkIndex, result: Result<(), ItemsError> },
    Planned { item: ItemId, result: anyhow::Result<pb::tracker::Plan> },
    PlanReady(Parts),
    Provider { item: ItemId, device: Option<DeviceId>, more: mpsc::Receiver<DeviceId> },
    Sent(Sent),
    Proven { id: u64, hash: Option<[u8; 32]>, lost: Option<(ItemId, ChunkIndex)> },
    Removed { item: ItemId, n_chunks: Option<u32>, result: Result<(), ItemsError>, done: Done },
    Nothing,
}

/// A request that the network has.
pub(super) struct Live {
    pub(super) item: ItemId,
    pub(super) ask: Ask,
    pub(super) exchange: Arc<Exchange>,
}

/// What others see of the engine.
pub(super) struct Views {
    pub(super) snapshot: watch::Receiver<Arc<Snapshot>>,
    pub(super) hello: watch::Receiver<HelloState>,
    pub(super) room_wanted: watch::Receiver<Option<RoomWanted>>,
}

pub(super) struct Engine {
    pub(super) device: DeviceId,
    pub(super) members: Members,
    pub(super) items: Items,
    pub(super) net: net::Handle,
    pub(super) tracker: Option<tracker_link::Handle>,
    pub(super) transfers: Transfers,
    pub(super) desk: Desk,
    pub(super) wanted: Vec<Wanted>,
    pub(super) live: BTreeMap<RequestId, Live>,
    pub(super) jobs: FuturesUnordered<BoxFuture<'static, Event>>,
    pub(super) memory: Memory,
    /// Manifests that are proven but not yet on the disk.
    pub(super) manifests: BTreeMap<ItemId, Arc<Manifest>>,
    /// Our own tickets, as the tracker signed them.
    pub(super) tickets: BTreeMap<ItemId, Bytes>,
    pub(super) waiters: BTreeMap<(ItemId, ChunkIndex), Vec<Waiter>>,
    /// Items to be announced in Kademlia, and those that are.
    pub(super) to_announce: VecDeque<ItemId>,
    pub(super) announced: BTreeSet<ItemId>,
    /// What the tracker does not know yet.
    pub(super) news: News,
    pub(super) uplink: Meter,
    pub(super) downlink: Meter,
    pub(super) best_uplink: u64,
    pub(super) best_downlink: u64,
    pub(super) uploaded_before: u64,
    pub(super) upload_cap: Option<u64>,
    /// Tells this run of the device from those before: shares of tickets name it.
    pub(super) run: u64,
    /// The tracker is to be told of every share, not only of those that have changed.
    pub(super) untold_shares: bool,
    pub(super) reported_at: Mono,
    pub(super) banned: VecDeque<Banned>,
    pub(super) show: Show,
    pub(super) snapshot: watch::Sender<Arc<Snapshot>>,
    pub(super) hello: watch::Sender<HelloState>,
    pub(super) preload: config::Preload,
    /// Preloads for which the disk is making room.
    pub(super) reserving: BTreeSet<ItemId>,
    /// How much more may be preloaded, as the tracker was told.
    pub(super) preload_left: u64,
    pub(super) room_wanted: watch::Sender<Option<RoomWanted>>,
    /// Challenges that are being answered.
    pub(super) challenges: usize,
}

impl Engine {
    pub(super) fn new(deps: Deps, net: net::Handle, memory: Memory) -> (Self, Views) {
        let Deps { identity, members, items, tracker, transfers, uploads, preload, .. } = deps;
        let (room_wanted, room_seen) = watch::channel(None);
        let upload_cap = match uploads.slots {
            0 => Some(0),
            _ => uploads.rate.at().map(|rate| rate.bytes_per_sec()),
        };
        let (snapshot, seen) = watch::channel(Arc::new(Snapshot::default()));
        let run = run_number();
        let (hello, told) =
            watch::channel(HelloState { upload_cap_bytes_per_sec: upload_cap, run, ..HelloState::default() });
        let uploads = uploads::Config {
            slots: uploads.slots,
            slots_per_peer: uploads.slots_per_peer,
            ..uploads::Config::default()
        };
        let uploads = Uploads::new(identity.device, run, uploads);
        let engine = Self {
            device: identity.device,
            members,
            net,
            tracker,
            transfers: Transfers::new(seed(&identity.device), transfers_config(&transfers)),
            desk: Desk::new(uploads, items.clone()),
            wanted: Vec::new(),
            live: BTreeMap::new(),
            jobs: FuturesUnordered::new(),
            memory,
            manifests: BTreeMap::new(),
            tickets: BTreeMap::new(),
            waiters: BTreeMap::new(),
            to_announce: items.list().into(),
            announced: BTreeSet::new(),
            news: News::new(),
            uplink: Meter::default(),
            downlink: Meter::default(),
            best_uplink: 0,
            best_downlink: 0,
            uploaded_before: 0,
            upload_cap,
            run,
            untold_shares: true,
            reported_at: clock::now().mono,
            banned: VecDeque::new(),
            show: Show::default(),
            snapshot,
            hello,
            preload,
            reserving: BTreeSet::new(),
            preload_left: 0,
            room_wanted,
            challenges: 0,
            items,
        };
        (engine, Views { snapshot: seen, hello: told, room_wanted: room_seen })
    }

    pub(super) async fn run(mut self, mut commands: mpsc::Receiver<Command>, mut questions: mpsc::Receiver<Inbound>) {
        self.on_membership();
        let pinned = self.memory.pinned();
        self.pin(clock::now(), &pinned);
        let mut status = self.net.status();
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let now = clock::now();
            let wake = self.transfers.poll_timeout().map(|at| at.since(now.mono));
            tokio::select! {
                biased;
                Some(event) = self.jobs.next() => self.on_event(clock::now(), event),
                command = commands.recv() => match command {
                    Some(Command::Stop { done }) => {
                        self.stop().await;
                        // Who asked may not wait for it.
                        let _ = done.send(());
                        return;
                    }
                    Some(command) => self.on_command(clock::now(), command),
                    None => return,
                },
                () = sleep(wake) => self.transfers.handle_timeout(clock::now()),
                Ok(()) = status.changed() => self.show.touch(),
                Ok(()) = self.members.changed() => self.on_membership(),
                _ = tick.tick() => self.on_tick(clock::now()),
                Some(question) = questions.recv() => self.on_question(clock::now(), question),
            }
            self.perform_all(clock::now());
        }
    }

    fn perform_all(&mut self, now: Now) {
        while let Some(action) = self.transfers.poll_action() {
            self.perform(now, action);
        }
    }

    fn perform(&mut self, now: Now, action: Action) {
        match action {
            Action::Request { id, device, item, ask } => self.ask(id, device, item, ask),
            Action::Cancel { id } => {
                if let Some(live) = self.live.get(&id) {
                    live.exchange.cancel();
                }
            }
            Action::AskTracker { item, missing, playing } => self.ask_tracker(item, missing, playing),
            Action::AskKademlia { item } => self.ask_kademlia(item),
            Action::Reserve { item } => self.reserve(item),
            Action::ReportStall { item, source } => {
                let stall = pb::tracker::Stall { item: item.to_vec(), source: source.to_vec() };
                self.report(Report::Stall(stall));
            }
            Action::Ban { device, reason } => self.ban(now, device, reason),
            Action::Complete { item } => {
                tracing::info!(%item, "item complete");
                let change = self.memory.forget(&item);
                self.write_memory(change);
                self.holding_changed(now, item);
                self.report_holdings(now.mono);
                self.show.touch();
            }
        }
    }

    fn on_command(&mut self, now: Now, command: Command) {
        self.show.touch();
        match command {
            Command::SetWanted(wanted) => {
                let before = std::mem::replace(&mut self.wanted, wanted);
                self.want(now);
                self.reclass(now, &before);
                self.recall(now);
            }
            Command::Adopt { item, done } => {
                self.holding_changed(now, item);
                self.report_holdings(now.mono);
                self.to_announce.push_front(item);
                self.announce_some();
                // Who asked may not wait for it.
                let _ = done.send(Ok(()));
            }
            Command::Remove { item, done } => {
                self.wanted.retain(|wanted| wanted.item != item);
                self.want(now);
                self.announced.remove(&item);
                self.tickets.remove(&item);
                let (items, net, key) = (self.items.clone(), self.net.clone(), self.provider_key(item));
                let n_chunks = self.items.manifest(&item).map(|manifest| manifest.geometry().n_chunks());
                self.job(async move {
                    if let Some(key) = key {
                        net.stop_providing(key).await;
                    }
                    Event::Removed { item, n_chunks, result: items.remove(item).await, done }
                });
            }
            Command::Chunk { item, index, held } => self.wait_for_chunk(now, item, index, held),
            Command::Notice(notice) => self.on_notice(now, notice),
            Command::RoomMade => self.transfers.handle_room(now),
            Command::Stop { .. } => {}
        }
    }

    fn on_notice(&mut self, now: Now, notice: TrackerNotice) {
        match notice {
            TrackerNotice::Up => {
                self.desk.tracker_up = true;
                self.untold_shares = true;
                self.transfers.handle_tracker(now, true);
            }
            TrackerNotice::Down => {
                self.desk.tracker_up = false;
                self.transfers.handle_tracker(now, false);
            }
            TrackerNotice::Plan(plan) => match ItemId::try_from(plan.item.as_slice()) {
                Ok(item) => self.on_plan(now, item, plan),
                Err(error) => tracing::warn!(%error, "the tracker sent a plan that cannot be read"),
            },
            TrackerNotice::PinnedSeeds(sources) => {
                self.pin(now, &sources);
                let change = self.memory.keep_pinned(&sources);
                self.write_memory(change);
            }
            TrackerNotice::Revoked(devices) => self.shut_out(devices),
            TrackerNotice::Challenge(challenge) => self.answer_challenge(&challenge),
        }
    }

    fn on_event(&mut self, now: Now, event: Event) {
        match event {
            Event::Answered { id, result } => self.on_answer(now, id, result),
            Event::ChunkJudged { id, chunk: None } => self.judge(now, id, Verdict::Forged),
            Event::ChunkJudged { id, chunk: Some(chunk) } => {
                self.downlink.add(now.mono, chunk.bytes().len() as u64);
                let item = self.live.get(&id).map(|live| live.item);
                self.judge(now, id, Verdict::Verified);
                if let Some(item) = item {
                    self.write(id, item, chunk);
                }
            }
            Event::ManifestJudged { id, item, verdict, manifest } => {
                if let Some(manifest) = manifest {
                    self.manifests.insert(item, manifest);
                }
                self.judge(now, id, verdict);
            }
            Event::Reserved { item, result: Ok(holding) } => {
                self.reserving.remove(&item);
                self.manifests.remove(&item);
                self.transfers.handle_reserved(now, item, chunk_set(&holding));
                self.show.touch();
            }
            Event::Reserved { item, result: Err(error) } => {
                tracing::warn!(%item, %error, "no room for an item");
                self.reserving.remove(&item);
                self.ask_for_room(item, &error);
                self.transfers.handle_paused(now, item, error.to_string());
            }
            Event::Stored { id, item, chunk, result: Ok(()) } => {
                self.holding_changed(now, item);
                if self.announced.insert(item) {
                    self.to_announce.push_back(item);
                }
                self.transfers.handle_stored(now, id);
                for waiter in self.waiters.remove(&(item, chunk)).into_iter().flatten() {
                    // A player may have given up.
                    let _ = waiter.send(Ok(()));
                }
            }
            Event::Stored { id, item, result: Err(error), .. } => {
                tracing::warn!(%item, %error, "a chunk could not be written");
                self.transfers.handle_store_failed(now, id, error.to_string());
            }
            Event::Planned { item, result: Ok(plan) } => self.on_plan(now, item, plan),
            Event::Planned { item, result: Err(error) } => {
                tracing::debug!(%item, error = format!("{error:#}"), "no plan");
                self.transfers.handle_no_plan(now, item);
            }
            Event::PlanReady(parts) => {
                if let Some(ticket) = parts.ticket.filter(|_| self.geometry(&parts.plan.item).is_some()) {
                    self.tickets.insert(parts.plan.item, ticket);
                }
                self.transfers.handle_plan(now, parts.plan);
            }
            Event::Provider { item, device, more } => {
                let Some(device) = device else { return };
                if device != self.device {
                    self.transfers.handle_providers(now, item, [device]);
                }
                self.next_provider(item, more);
            }
            Event::Sent(sent) => self.on_sent(now, sent),
            Event::Proven { id, hash, lost } => self.on_proven(now, id, hash, lost),
            Event::Removed { item, n_chunks, result, done } => {
                if let Some(n_chunks) = n_chunks.filter(|_| self.items.holding(&item).is_none()) {
                    self.news.handle_gone(&item);
                    self.report_holding(item, n_chunks, Vec::new());
                }
                self.show.touch();
                let result = result.with_context(|| format!("failed to delete item {item}"));
                // Who asked may not wait for it.
                let _ = done.send(result);
            }
            Event::Nothing => {}
        }
    }

    fn on_question(&mut self, now: Now, question: Inbound) {
        let reply = self.desk.admit(now, question);
        let items = self.items.clone();
        self.job(async move { Event::Sent(reply.send(items).await) });
    }

    fn on_sent(&mut self, now: Now, sent: Sent) {
        if let Some((id, bytes)) = sent.chunk {
            self.desk.uploads.handle_sent(now.mono, id, bytes);
        }
        if let Some((item, chunk)) = sent.lost {
            self.holding_changed(now, item);
            self.lost(now, item, chunk);
        }
    }

    /// Fetches and serves nothing more, and lets what is being checked and written come to its end.
    async fn stop(&mut self) {
        self.wanted.clear();
        self.want(clock::now());
        self.perform_all(clock::now());
        let finish = async {
            while !self.live.is_empty() || self.transfers.outstanding_bytes() > 0 {
                let Some(event) = self.jobs.next().await else { return };
                self.on_event(clock::now(), event);
                while self.transfers.poll_action().is_some() {}
            }
        };
        if tokio::time::timeout(STOP_WITHIN, finish).await.is_err() {
            tracing::warn!("chunks under way are given up");
        }
        self.report_holdings(clock::now().mono + LAST_NEWS);
        self.report_traffic();
        self.report_shares(clock::now());
    }

    /// Goes on where the device was when it stopped, until the tracker says otherwise; what is not wanted is forgotten.
    fn recall(&mut self, now: Now) {
        let gone: Vec<ItemId> = self.memory.items().filter(|item| !self.transfers.is_fetching(item)).copied().collect();
        for item in gone {
            let change = self.memory.forget(&item);
            self.write_memory(change);
        }
        let wanted: Vec<ItemId> = self.wanted.iter().map(|wanted| wanted.item).collect();
        for item in wanted {
            if let Some(plan) = self.memory.recall(&item) {
                self.on_plan(now, item, plan);
            }
        }
    }

    pub(super) fn write_memory(&self, change: Option<Change>) {
        if let Some(change) = change {
            self.job(async move {
                change.write().await;
                Event::Nothing
            });
        }
    }

    pub(super) fn provider_key(&self, item: ItemId) -> Option<ProviderKey> {
        let enrolled = self.members.borrow().clone()?;
        Some(ProviderKey(*blake3::keyed_hash(&enrolled.swarm_key, item.as_bytes()).as_bytes()))
    }

    pub(super) fn geometry(&self, item: &ItemId) -> Option<Geometry> {
        self.wanted.iter().find(|wanted| wanted.item == *item).map(|wanted| wanted.geometry)
    }

    pub(super) fn job(&self, job: impl Future<Output = Event> + Send + 'static) {
        self.jobs.push(Box::pin(job));
    }
}

/// Forever, if there is nothing to wake for.
async fn sleep(wake: Option<Duration>) {
    match wake {
        Some(after) => tokio::time::sleep(after).await,
        None => std::future::pending().await,
    }
}

pub(super) fn chunk_set(holding: &Holding) -> ChunkSet {
    ChunkSet::from_ranges(holding.n_chunks(), holding.runs())
}

fn transfers_config(config: &config::Transfers) -> transfers::Config {
    transfers::Config {
        outstanding_bytes: u64::from(config.outstanding_chunks.max(1)) * CHUNK_BYTES,
        outstanding_per_source: config.outstanding_per_source.max(1),
        rate_bytes_per_sec: config.rate.at().map(|rate| rate.bytes_per_sec()),
        ..transfers::Config::default()
    }
}

/// Another one at each start, never zero.
fn run_number() -> u64 {
    u64::from_be_bytes(*daemon::secrets::random::<8>()) | 1
}

/// Ties need not be secret, only different from device to device and the same in a replay.
fn seed(device: &DeviceId) -> u64 {
    let (first, _) = device.as_bytes().split_first_chunk().expect("an id has 32 bytes");
    u64::from_be_bytes(*first)
}
