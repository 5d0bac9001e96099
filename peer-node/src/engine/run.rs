//! The task that owns the engine's state.
//!
//! One loop: waits for a command, something finished, a question of another device or the clock; tells the machines;
//! does what they wish, in order. What takes time runs beside it as a job that ends in an [`Event`]; the machines bound
//! how many there can be. Local work goes before new work from others.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt as _};
use swarm_proto::bitmap::Holding;
use swarm_proto::geometry::{CHUNK_BYTES, ChunkIndex, Geometry};
use swarm_proto::id::{DeviceId, ItemId};
use swarm_proto::manifest::{Manifest, ManifestError, VerifiedChunk};
use swarm_proto::membership::DeviceKind;
use swarm_proto::pb;
use swarm_proto::pb::tracker::report::Report;
use swarm_proto::peer::chunk_set::ChunkSet;
use swarm_proto::peer::rate::Meter;
use swarm_proto::peer::transfers::{self, Action, Ask, Failure, Refused, RequestId, Transfers, Verdict};
use swarm_proto::peer::uploads::{self, Uploads};
use swarm_proto::time::{Mono, Now};
use swarm_proto::wire::{self, Answer, Refusal};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{MissedTickBehavior, interval};

use super::plan::{self, Parts};
use super::serve::{Desk, Sent};
use super::show::Show;
use super::{Banned, ChunkWait, Deps, Snapshot, Wanted};
use crate::identity::Members;
use crate::items::{Items, ItemsError};
use crate::net::{self, AskError, Exchange, Inbound, ProviderKey};
use crate::tracker_link::{self, HelloState, TrackerNotice};
use crate::{clock, config};

/// How often what is going on is shown, and transfers are looked at from outside.
const TICK: Duration = Duration::from_millis(250);
/// How often traffic and link rates are told to the tracker.
const REPORT_EVERY: Duration = Duration::from_secs(5);
/// Items announced in Kademlia with each tick: a seed with many does not flood its peers at the start.
const ANNOUNCE_PER_TICK: usize = 8;
/// Waits of players at a time. One more is told that the device is stopping.
const WAITERS_MAX: usize = 1_024;
/// Pinned seeds that are believed.
const PINNED_MAX: usize = 8;
/// Bans that are shown.
const BANS_SHOWN: usize = 256;
/// Measured rates are told in steps, so that jitter is not news.
const RATE_STEP: u64 = 64 << 10;
/// How long stopping waits for what is being verified and written.
const STOP_WITHIN: Duration = Duration::from_secs(5);

/// What the engine is asked to do.
pub(super) enum Command {
    SetWanted(Vec<Wanted>),
    Adopt { item: ItemId, done: oneshot::Sender<anyhow::Result<()>> },
    Remove { item: ItemId, done: oneshot::Sender<anyhow::Result<()>> },
    Chunk { item: ItemId, index: ChunkIndex, held: oneshot::Sender<Result<(), ChunkWait>> },
    Notice(TrackerNotice),
    Stop { done: oneshot::Sender<()> },
}

/// What a job has come to.
enum Event {
    Answered { id: RequestId, result: Result<Answer, AskError> },
    ChunkJudged { id: RequestId, chunk: Option<VerifiedChunk> },
    ManifestJudged { id: RequestId, item: ItemId, verdict: Verdict, manifest: Option<Arc<Manifest>> },
    Reserved { item: ItemId, result: Result<Holding, ItemsError> },
    Stored { id: RequestId, item: ItemId, chunk: ChunkIndex, result: Result<(), ItemsError> },
    Planned { item: ItemId, result: anyhow::Result<pb::tracker::Plan> },
    PlanReady(Parts),
    Provider { item: ItemId, device: Option<DeviceId>, more: mpsc::Receiver<DeviceId> },
    Sent(Sent),
    Removed { item: ItemId, result: Result<(), ItemsError>, done: oneshot::Sender<anyhow::Result<()>> },
    Nothing,
}

/// A request that the network has.
struct Live {
    item: ItemId,
    ask: Ask,
    exchange: Arc<Exchange>,
}

pub(super) struct Engine {
    device: DeviceId,
    members: Members,
    items: Items,
    net: net::Handle,
    tracker: Option<tracker_link::Handle>,
    transfers: Transfers,
    desk: Desk,
    wanted: Vec<Wanted>,
    live: BTreeMap<RequestId, Live>,
    jobs: FuturesUnordered<BoxFuture<'static, Event>>,
    /// Manifests that are proven but not yet on the disk.
    manifests: BTreeMap<ItemId, Arc<Manifest>>,
    /// Our own tickets, as the tracker signed them.
    tickets: BTreeMap<ItemId, Bytes>,
    waiters: BTreeMap<(ItemId, ChunkIndex), Vec<oneshot::Sender<Result<(), ChunkWait>>>>,
    /// Items to be announced in Kademlia, and those that are.
    to_announce: VecDeque<ItemId>,
    announced: BTreeSet<ItemId>,
    /// Items whose holding the tracker does not know yet.
    unreported: BTreeSet<ItemId>,
    uplink: Meter,
    downlink: Meter,
    best_uplink: u64,
    best_downlink: u64,
    uploaded_before: u64,
    upload_cap: Option<u64>,
    reported_at: Mono,
    banned: VecDeque<Banned>,
    show: Show,
    snapshot: watch::Sender<Arc<Snapshot>>,
    hello: watch::Sender<HelloState>,
}

impl Engine {
    pub(super) fn new(
        deps: Deps,
        net: net::Handle,
    ) -> (Self, watch::Receiver<Arc<Snapshot>>, watch::Receiver<HelloState>) {
        let Deps { identity, members, items, tracker, transfers, uploads, .. } = deps;
        let upload_cap = match uploads.slots {
            0 => Some(0),
            _ => uploads.rate.at().map(|rate| rate.bytes_per_sec()),
        };
        let (snapshot, seen) = watch::channel(Arc::new(Snapshot::default()));
        let (hello, told) = watch::channel(HelloState { upload_cap_bytes_per_sec: upload_cap, ..HelloState::default() });
        let uploads = Uploads::new(uploads::Config {
            slots: uploads.slots,
            slots_per_peer: uploads.slots_per_peer,
            ..uploads::Config::default()
        });
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
            manifests: BTreeMap::new(),
            tickets: BTreeMap::new(),
            waiters: BTreeMap::new(),
            to_announce: items.list().into(),
            announced: BTreeSet::new(),
            unreported: BTreeSet::new(),
            uplink: Meter::default(),
            downlink: Meter::default(),
            best_uplink: 0,
            best_downlink: 0,
            uploaded_before: 0,
            upload_cap,
            reported_at: clock::now().mono,
            banned: VecDeque::new(),
            show: Show::default(),
            snapshot,
            hello,
            items,
        };
        (engine, seen, told)
    }

    pub(super) async fn run(mut self, mut commands: mpsc::Receiver<Command>, mut questions: mpsc::Receiver<Inbound>) {
        self.on_membership();
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
                self.unreported.insert(item);
                self.report_holdings();
                self.show.touch();
            }
        }
    }

    fn on_command(&mut self, now: Now, command: Command) {
        self.show.touch();
        match command {
            Command::SetWanted(wanted) => {
                self.wanted = wanted;
                self.want(now);
            }
            Command::Adopt { item, done } => {
                self.unreported.insert(item);
                self.report_holdings();
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
                self.job(async move {
                    if let Some(key) = key {
                        net.stop_providing(key).await;
                    }
                    Event::Removed { item, result: items.remove(item).await, done }
                });
            }
            Command::Chunk { item, index, held } => self.wait_for_chunk(now, item, index, held),
            Command::Notice(notice) => self.on_notice(now, notice),
            Command::Stop { .. } => {}
        }
    }

    fn on_notice(&mut self, now: Now, notice: TrackerNotice) {
        match notice {
            TrackerNotice::Up => {
                self.desk.tracker_up = true;
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
            TrackerNotice::PinnedSeeds(sources) => self.pin(now, &sources),
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
                self.manifests.remove(&item);
                self.transfers.handle_reserved(now, item, chunk_set(&holding));
                self.show.touch();
            }
            Event::Reserved { item, result: Err(error) } => {
                tracing::warn!(%item, %error, "no room for an item");
                self.transfers.handle_paused(now, item, error.to_string());
            }
            Event::Stored { id, item, chunk, result: Ok(()) } => {
                self.unreported.insert(item);
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
            Event::Removed { item, result, done } => {
                self.unreported.insert(item);
                self.report_holdings();
                self.show.touch();
                let result = result.with_context(|| format!("failed to delete item {item}"));
                // Who asked may not wait for it.
                let _ = done.send(result);
            }
            Event::Nothing => {}
        }
    }

    // ── fetching

    /// Tells the machine what is wanted, with what the disk holds now.
    fn want(&mut self, now: Now) {
        let wanted = self.wanted.iter().map(|wanted| transfers::Wanted {
            item: wanted.item,
            geometry: wanted.geometry,
            have: self.items.holding(&wanted.item).map(|holding| chunk_set(&holding)),
            skip: Vec::new(),
        });
        let wanted: Vec<_> = wanted.filter(|w| w.have.as_ref().is_none_or(|h| h.width() == w.geometry.n_chunks())).collect();
        let stay: BTreeSet<ItemId> = wanted.iter().map(|wanted| wanted.item).collect();
        self.tickets.retain(|item, _| stay.contains(item));
        self.manifests.retain(|item, _| stay.contains(item));
        self.transfers.handle_wanted(now, wanted);
        for ((item, _), waiters) in self.waiters.extract_if(.., |(item, _), _| !stay.contains(item)) {
            tracing::debug!(%item, "a player waits for a title that is no longer wanted");
            for waiter in waiters {
                let _ = waiter.send(Err(ChunkWait::NotWanted));
            }
        }
    }

    fn wait_for_chunk(
        &mut self,
        now: Now,
        item: ItemId,
        index: ChunkIndex,
        held: oneshot::Sender<Result<(), ChunkWait>>,
    ) {
        let on_disk = self.items.holding(&item).is_some_and(|holding| holding.contains(index));
        let wanted = self.geometry(&item).is_some_and(|geometry| index.get() < geometry.n_chunks());
        let full = self.waiters.values().map(Vec::len).sum::<usize>() >= WAITERS_MAX;
        if on_disk || !wanted || full {
            let answer = match (on_disk, wanted) {
                (true, _) => Ok(()),
                (false, false) => Err(ChunkWait::NotWanted),
                (false, true) => Err(ChunkWait::Stopping),
            };
            // A player may have given up.
            let _ = held.send(answer);
            return;
        }
        self.waiters.entry((item, index)).or_default().push(held);
        self.lost(now, item, index);
        self.transfers.handle_playing(now, item, index);
    }

    /// A chunk that was held may have rotted: it is fetched again if its item is wanted.
    fn lost(&mut self, now: Now, item: ItemId, chunk: ChunkIndex) {
        if self.transfers.is_fetching(&item) {
            self.transfers.handle_lost(now, item, chunk);
        } else if self.geometry(&item).is_some() {
            self.want(now);
        }
    }

    fn ask(&mut self, id: RequestId, device: DeviceId, item: ItemId, ask: Ask) {
        let exchange = Arc::new(Exchange::default());
        let request = wire::Request {
            item,
            ask: match ask {
                Ask::Manifest => wire::Ask::Manifest,
                Ask::Holding => wire::Ask::Holding,
                Ask::Chunk(index) => wire::Ask::Chunk { index, want_segment_values: false },
            },
            ticket: self.tickets.get(&item).cloned().unwrap_or_default(),
        };
        self.live.insert(id, Live { item, ask, exchange: exchange.clone() });
        let net = self.net.clone();
        self.job(async move { Event::Answered { id, result: net.ask(device, request, exchange).await } });
    }

    fn on_answer(&mut self, now: Now, id: RequestId, result: Result<Answer, AskError>) {
        let Some(live) = self.live.get(&id) else { return };
        let (item, ask, received) = (live.item, live.ask, live.exchange.received());
        let failed = |failure| transfers::Answer::Failed { failure, received };
        let geometry = self.geometry(&item);
        let answer = match (result, ask, geometry) {
            (Ok(_), _, None) => failed(Failure::Cancelled),
            (Ok(Answer::Data { bytes, .. }), Ask::Chunk(index), Some(geometry)) => {
                if bytes.len() == geometry.chunk_len(index) {
                    return self.check_chunk(now, id, item, index, bytes);
                }
                failed(Failure::Malformed)
            }
            (Ok(Answer::Manifest { sealed_len, values }), Ask::Manifest, Some(geometry)) => {
                return self.check_manifest(now, id, item, geometry, sealed_len, values);
            }
            (Ok(Answer::Holding(holding)), Ask::Holding, Some(geometry)) if holding.n_chunks() == geometry.n_chunks() => {
                transfers::Answer::Holding(chunk_set(&holding))
            }
            (Ok(Answer::Busy { retry_ms }), ..) => transfers::Answer::Busy(Duration::from_millis(retry_ms.into())),
            (Ok(Answer::NotHeld), ..) => transfers::Answer::NotHeld,
            (Ok(Answer::Refused(why)), ..) => transfers::Answer::Refused(refused(why)),
            (Ok(Answer::Data { .. } | Answer::Manifest { .. } | Answer::Holding(_)), ..) => failed(Failure::Malformed),
            (Err(error), ..) => {
                tracing::debug!(%item, ?ask, %error, "no answer");
                failed(failure(&error))
            }
        };
        self.live.remove(&id);
        self.transfers.handle_answer(now, id, answer);
    }

    /// Hashing is work for another thread.
    fn check_chunk(&mut self, now: Now, id: RequestId, item: ItemId, index: ChunkIndex, bytes: Bytes) {
        let Some(manifest) = self.items.manifest(&item) else {
            self.live.remove(&id);
            let received = bytes.len() as u64;
            let failed = transfers::Answer::Failed { failure: Failure::Cancelled, received };
            return self.transfers.handle_answer(now, id, failed);
        };
        self.transfers.handle_answer(now, id, transfers::Answer::Data(bytes.len() as u64));
        self.job(async move {
            let checked = tokio::task::spawn_blocking(move || manifest.verify_chunk(index, bytes));
            let chunk = checked.await.expect("hashing does not panic").ok();
            Event::ChunkJudged { id, chunk }
        });
    }

    fn check_manifest(
        &mut self,
        now: Now,
        id: RequestId,
        item: ItemId,
        geometry: Geometry,
        sealed_len: u64,
        values: Bytes,
    ) {
        self.transfers.handle_answer(now, id, transfers::Answer::Data(values.len() as u64));
        self.job(async move {
            let proven = tokio::task::spawn_blocking(move || prove(item, &geometry, sealed_len, &values));
            let (verdict, manifest) = proven.await.expect("hashing does not panic");
            Event::ManifestJudged { id, item, verdict, manifest }
        });
    }

    fn judge(&mut self, now: Now, id: RequestId, verdict: Verdict) {
        self.live.remove(&id);
        self.transfers.handle_verdict(now, id, verdict);
    }

    fn write(&mut self, id: RequestId, item: ItemId, chunk: VerifiedChunk) {
        let items = self.items.clone();
        self.job(async move {
            let index = chunk.index();
            let result = items.write(item, index, chunk.into_bytes()).await;
            Event::Stored { id, item, chunk: index, result }
        });
    }

    fn reserve(&mut self, item: ItemId) {
        let manifest = self.manifests.get(&item).cloned().or_else(|| self.items.manifest(&item));
        let Some(manifest) = manifest else {
            // The title was dropped and wanted again in between: its manifest is asked for anew.
            self.transfers.handle_paused(clock::now(), item, "its manifest must be fetched again".to_owned());
            return;
        };
        let items = self.items.clone();
        self.job(async move { Event::Reserved { item, result: items.reserve(item, manifest).await } });
    }

    fn ask_tracker(&mut self, item: ItemId, missing: Vec<Range<u32>>, playing: bool) {
        let tracker = self.tracker.clone();
        self.job(async move {
            let result = match tracker {
                Some(tracker) => tracker.assign_sources(item, missing, playing).await,
                None => Err(anyhow::anyhow!("this device has no tracker")),
            };
            Event::Planned { item, result }
        });
    }

    /// The network learns the addresses before the machine learns the sources.
    fn on_plan(&mut self, now: Now, item: ItemId, plan: pb::tracker::Plan) {
        let parts = match plan::read(plan, self.device) {
            Ok(parts) => parts,
            Err(error) => {
                tracing::warn!(%item, error = format!("{error:#}"), "the tracker sent a plan that cannot be used");
                return self.transfers.handle_no_plan(now, item);
            }
        };
        let net = self.net.clone();
        self.job(async move {
            for (device, addresses) in &parts.addresses {
                net.add_addresses(*device, addresses.clone()).await;
            }
            Event::PlanReady(parts)
        });
    }

    fn ask_kademlia(&mut self, item: ItemId) {
        let Some(key) = self.provider_key(item) else { return };
        let net = self.net.clone();
        self.job(async move {
            let mut more = net.find_providers(key).await;
            Event::Provider { item, device: more.recv().await, more }
        });
    }

    fn next_provider(&mut self, item: ItemId, mut more: mpsc::Receiver<DeviceId>) {
        self.job(async move { Event::Provider { item, device: more.recv().await, more } });
    }

    fn pin(&mut self, now: Now, sources: &[pb::tracker::Source]) {
        let mut seeds = Vec::new();
        for source in sources.iter().take(PINNED_MAX) {
            match plan::read_source(source) {
                Ok((device, _, addresses)) if device != self.device => seeds.push((device, addresses)),
                Ok(_) => {}
                Err(error) => tracing::warn!(error = format!("{error:#}"), "the tracker named a seed that cannot be read"),
            }
        }
        self.transfers.handle_pinned(now, seeds.iter().map(|(device, _)| *device));
        let net = self.net.clone();
        self.job(async move {
            for (device, addresses) in &seeds {
                net.add_addresses(*device, addresses.clone()).await;
            }
            net.keep_connected(seeds.into_iter().map(|(device, _)| device)).await;
            Event::Nothing
        });
    }

    fn ban(&mut self, now: Now, device: DeviceId, reason: String) {
        tracing::warn!(device = %device.short(), reason, "a device is banned");
        if self.banned.len() >= BANS_SHOWN {
            self.banned.pop_front();
        }
        self.banned.push_back(Banned { device, since: now.utc, reason });
        self.show.touch();
        let net = self.net.clone();
        self.job(async move {
            net.ban(device).await;
            Event::Nothing
        });
    }

    // ── passing on

    fn on_question(&mut self, now: Now, question: Inbound) {
        let reply = self.desk.admit(now, question);
        let items = self.items.clone();
        self.job(async move { Event::Sent(reply.send(items).await) });
    }

    fn on_sent(&mut self, now: Now, sent: Sent) {
        if let Some((id, bytes)) = sent.chunk {
            self.desk.uploads.handle_sent(id, bytes);
        }
        if let Some((item, chunk)) = sent.lost {
            self.unreported.insert(item);
            self.lost(now, item, chunk);
        }
    }

    // ── telling others

    fn on_membership(&mut self) {
        let enrolled = self.members.borrow_and_update().clone();
        self.desk.set_tracker(enrolled.as_ref().map(|enrolled| enrolled.tracker));
        let is_seed = enrolled.as_ref().is_some_and(|enrolled| enrolled.membership.kind == DeviceKind::Seed);
        self.desk.uploads.set_seed(is_seed);
        // Another swarm has another key.
        self.announced.clear();
        self.to_announce = self.items.list().into();
    }

    fn on_tick(&mut self, now: Now) {
        for (id, live) in &self.live {
            self.transfers.handle_received(*id, live.exchange.received());
        }
        self.announce_some();
        self.report_holdings();
        let sent = self.desk.uploads.sent_bytes();
        if sent > self.uploaded_before {
            self.uplink.add(now.mono, sent - self.uploaded_before);
            self.uploaded_before = sent;
            self.show.touch();
        }
        if now.mono.since(self.reported_at) >= REPORT_EVERY {
            self.reported_at = now.mono;
            self.report_traffic();
        }
        self.tell_hello(now);
        let network = self.net.status().borrow().clone();
        let shown = self.show.draw(now, &self.items, &self.wanted, &self.transfers, network, sent, &self.banned);
        if let Some(snapshot) = shown {
            self.snapshot.send_replace(Arc::new(snapshot));
        }
    }

    fn announce_some(&mut self) {
        for _ in 0..ANNOUNCE_PER_TICK {
            let Some(item) = self.to_announce.pop_front() else { return };
            let holds = self.items.holding(&item).is_some_and(|holding| !holding.is_empty());
            let (Some(key), true) = (self.provider_key(item), holds) else { continue };
            self.announced.insert(item);
            let net = self.net.clone();
            self.job(async move {
                net.provide(key).await;
                Event::Nothing
            });
        }
    }

    fn report_holdings(&mut self) {
        for item in std::mem::take(&mut self.unreported) {
            let (n_chunks, ranges) = match self.items.holding(&item) {
                Some(holding) => (holding.n_chunks(), holding.to_ranges()),
                None => (self.geometry(&item).map_or(1, |geometry| geometry.n_chunks()), Vec::new()),
            };
            let holding = pb::tracker::ItemHolding { item: item.to_vec(), n_chunks, ranges };
            self.report(Report::Holding(pb::tracker::HoldingChange { holding: Some(holding) }));
        }
    }

    fn report_traffic(&mut self) {
        let mut rows: BTreeMap<(ItemId, DeviceId), pb::tracker::TrafficRow> = BTreeMap::new();
        let row = |item: ItemId, device: DeviceId| pb::tracker::TrafficRow {
            item: item.to_vec(),
            counterpart: device.to_vec(),
            ..pb::tracker::TrafficRow::default()
        };
        for ((item, device), traffic) in self.transfers.take_traffic() {
            let row = rows.entry((item, device)).or_insert_with(|| row(item, device));
            row.received_verified_bytes = traffic.verified_bytes;
            row.received_wasted_bytes = traffic.wasted_bytes;
        }
        for (item, device, bytes) in self.desk.uploads.take_ledger() {
            rows.entry((item, device)).or_insert_with(|| row(item, device)).sent_bytes = bytes;
        }
        if !rows.is_empty() {
            self.report(Report::Traffic(pb::tracker::Traffic { rows: rows.into_values().collect() }));
        }
    }

    fn report(&self, report: Report) {
        if let Some(tracker) = &self.tracker {
            tracker.report(report);
        }
    }

    /// What a heartbeat says: addresses, and the best rates of late.
    fn tell_hello(&mut self, now: Now) {
        let fade = |best: u64| best - best / 256;
        self.best_uplink = fade(self.best_uplink).max(self.uplink.per_sec(now.mono));
        self.best_downlink = fade(self.best_downlink).max(self.downlink.per_sec(now.mono));
        let step = |rate: u64| (rate >= RATE_STEP).then(|| rate / RATE_STEP * RATE_STEP);
        let hello = HelloState {
            addresses: self.net.status().borrow().listening.iter().map(ToString::to_string).collect(),
            uplink_bytes_per_sec: step(self.best_uplink),
            downlink_bytes_per_sec: step(self.best_downlink),
            upload_cap_bytes_per_sec: self.upload_cap,
        };
        self.hello.send_if_modified(|told| {
            let changed = *told != hello;
            *told = hello;
            changed
        });
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
        self.report_holdings();
        self.report_traffic();
    }

    fn provider_key(&self, item: ItemId) -> Option<ProviderKey> {
        let enrolled = self.members.borrow().clone()?;
        Some(ProviderKey(*blake3::keyed_hash(&enrolled.swarm_key, item.as_bytes()).as_bytes()))
    }

    fn geometry(&self, item: &ItemId) -> Option<Geometry> {
        self.wanted.iter().find(|wanted| wanted.item == *item).map(|wanted| wanted.geometry)
    }

    fn job(&self, job: impl Future<Output = Event> + Send + 'static) {
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

/// What a manifest is worth. Its values must fold to the item whatever its length; the length must be the catalog's.
fn prove(
    item: ItemId,
    geometry: &Geometry,
    theirs: u64,
    values: &[u8],
) -> (Verdict, Option<Arc<Manifest>>) {
    match Manifest::prove_bytes(item, theirs, values) {
        Ok(manifest) if theirs == geometry.sealed_len() => (Verdict::Verified, Some(Arc::new(manifest))),
        Ok(_) => (Verdict::OtherLength, None),
        Err(ManifestError::Forged(_) | ManifestError::Count { .. }) => (Verdict::Forged, None),
        Err(ManifestError::Geometry(_) | ManifestError::Format(_)) => (Verdict::Forged, None),
    }
}

fn refused(why: Refusal) -> Refused {
    match why {
        Refusal::BadTicket | Refusal::ExpiredTicket => Refused::Ticket,
        Refusal::OverBudget | Refusal::NoSuchChunk | Refusal::NotServing | Refusal::Banned => Refused::Other,
    }
}

fn failure(error: &AskError) -> Failure {
    match error {
        AskError::Unreachable => Failure::Unreachable,
        AskError::Closed => Failure::Closed,
        AskError::Silent => Failure::Silent,
        AskError::Malformed(_) => Failure::Malformed,
        AskError::Cancelled => Failure::Cancelled,
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

/// Ties need not be secret, only different from device to device and the same in a replay.
fn seed(device: &DeviceId) -> u64 {
    let (first, _) = device.as_bytes().split_first_chunk().expect("an id has 32 bytes");
    u64::from_be_bytes(*first)
}
