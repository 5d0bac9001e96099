//! Fetches items: which chunk to ask of whom, when to give up on a source, and where to look for others.
//!
//! Several items at once, in strict order of priority and under one budget of outstanding bytes: as long as a source
//! has a wanted chunk of a higher item, nothing of a lower one is asked of it. Sources come from the tracker's plan;
//! when the tracker is away, names nobody, or its sources stall, also from Kademlia and from the pinned seeds. Boxes
//! come before seeds where both have a chunk. What has to wait for its time ([`Closed`]) is asked of nobody until then.
//! One proven bad chunk bans its sender.
//!
//! Every [`Action::Request`] is answered exactly once ([`Transfers::handle_answer`]), even after [`Action::Cancel`].
//! An answer of [`Answer::Data`] is followed by exactly one [`Transfers::handle_verdict`], and a verified chunk by one
//! [`Transfers::handle_stored`]. Never sees bytes, addresses, tickets or the disk.

mod answers;
mod asking;
mod closing;
mod requests;
mod roles;
mod sources;
#[cfg(test)]
#[allow(clippy::single_range_in_vec_init, reason = "a list of one range is meant")]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Range;
use std::time::Duration;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

pub use self::closing::Closed;
use self::closing::Closure;
use self::requests::{Request, Requests};
use self::roles::{Role, Roles};
use self::sources::{Source, SourceNo, Sources};
use super::chunk_set::ChunkSet;
use super::picker::Picker;
use super::rate::{Cap, Meter};
use crate::geometry::{CHUNK_BYTES, ChunkIndex, Geometry};
use crate::id::{DeviceId, ItemId};
use crate::membership::DeviceKind;
use crate::time::{Mono, Now, Utc};

/// A source that has this many strikes is asked for one chunk at a time, after all others.
const STRIKES_TO_DEMOTE: u32 = 2;
/// A source that has this many strikes is not asked for [`Config::drop_for`].
const STRIKES_TO_DROP: u32 = 4;
/// How long a source that cannot be reached is left alone, doubled with each failure up to [`REST_MAX`].
const REST_AFTER_FAILURE: Duration = Duration::from_secs(1);
/// The longest a source is left alone for being busy or unreachable.
const REST_MAX: Duration = Duration::from_secs(60);
/// The shortest a busy source is left alone, whatever it says.
const REST_MIN: Duration = Duration::from_millis(50);
/// How long a source that refuses us is not asked for that item.
const REFUSED_FOR: Duration = Duration::from_secs(5);
/// How long the answer to a manifest or holding request may take.
const SMALL_DEADLINE: Duration = Duration::from_secs(10);
/// A manifest is asked of one more source when the first has not answered for this long.
const MANIFEST_PATIENCE: Duration = Duration::from_secs(2);
/// The tracker is asked for the plan of one item at most this often.
const PLAN_EVERY_MIN: Duration = Duration::from_secs(1);
/// How long to wait for the tracker's next plan when it has not said.
const PLAN_EVERY: Duration = Duration::from_secs(5);
/// Kademlia is asked about one item at most this often.
const KADEMLIA_EVERY: Duration = Duration::from_secs(10);
/// Once a plan has stalled, other sources stay allowed for this long, so that they are not dropped at the first sign of
/// life.
const DEGRADED_FOR: Duration = Duration::from_secs(15);
/// A viewer who has not asked for a chunk for this long is gone.
const PLAYING_FOR: Duration = Duration::from_secs(15);
/// How long a paused item waits before the disk is tried again.
const PAUSE: Duration = Duration::from_secs(10);
/// No lease is believed for longer than this.
const LEASE_MAX: Duration = Duration::from_secs(2 * 60 * 60);
/// Finished and given-up items whose tallies are kept for people to look at.
const MEMORIES: usize = 256;
/// Banned devices that are remembered; the shell's block list has its own memory.
const BANNED_MAX: usize = 4_096;
/// Devices whose rate and manners are remembered while they are no one's source.
const SOURCES_MAX: usize = 1_024;

/// What fetching may use and how patient it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Bytes asked for and not yet on the disk, over all items and sources. At least one chunk.
    pub outstanding_bytes: u64,
    /// Chunks asked of one source at a time, once it has proven itself. At least 1.
    pub outstanding_per_source: u32,
    /// What fetching may take; none: unlimited.
    pub rate_bytes_per_sec: Option<u64>,
    /// Items worked on at a time; those after them wait their turn.
    pub active_items: usize,
    /// Sources kept for one item.
    pub sources_per_item: usize,
    /// How far ahead of a viewer chunks are fetched in order of position.
    pub read_ahead_chunks: u32,
    /// How often a source that holds a part is asked what it holds by now.
    pub holding_refresh: Duration,
    /// How long a chunk may take at least, before it is asked of somebody else.
    pub chunk_deadline: Duration,
    /// A source that keeps up this rate is given more time than [`Config::chunk_deadline`].
    pub floor_bytes_per_sec: u64,
    /// A transfer without a new chunk for this long looks for other sources than those of its plan.
    pub stall_after: Duration,
    /// How much later pinned seeds are asked than the boxes that Kademlia knows.
    pub pinned_after: Duration,
    /// How long seeds are spared for boxes that have not answered yet.
    pub spare_seeds_for: Duration,
    /// Boxes that together give less than this are helped by seeds.
    pub help_below_bytes_per_sec: u64,
    /// How long a source with too many strikes is not asked.
    pub drop_for: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            outstanding_bytes: 16 * CHUNK_BYTES,
            outstanding_per_source: 4,
            rate_bytes_per_sec: None,
            active_items: 8,
            sources_per_item: 64,
            read_ahead_chunks: 16,
            holding_refresh: Duration::from_secs(3),
            chunk_deadline: Duration::from_secs(20),
            floor_bytes_per_sec: 4 << 10,
            stall_after: Duration::from_secs(5),
            pinned_after: Duration::from_secs(2),
            spare_seeds_for: Duration::from_secs(2),
            help_below_bytes_per_sec: 512 << 10,
            drop_for: Duration::from_secs(600),
        }
    }
}

/// An item to fetch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// Which.
    pub item: ItemId,
    /// Its sizes, from the signed catalog entry.
    pub geometry: Geometry,
    /// What is on the disk; none: not even its manifest.
    pub have: Option<ChunkSet>,
    /// Chunks not to be fetched.
    pub skip: Vec<Range<u32>>,
}

/// What the tracker planned for one item.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// For which.
    pub item: ItemId,
    /// Who sends.
    pub leases: Vec<Lease>,
    /// When to ask again.
    pub renew_after: Duration,
    /// Why nobody sends, for people.
    pub waiting: String,
    /// When nobody is to be asked for it; none: it may be fetched at any time.
    pub closed: Option<Closed>,
}

/// A source and what it is meant to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// Who.
    pub device: DeviceId,
    /// What it is there for.
    pub kind: DeviceKind,
    /// How fast at most.
    pub rate_cap_bytes_per_sec: Option<u64>,
    /// Until when.
    pub until: Utc,
    /// What to take first.
    pub portions: Vec<Range<u32>>,
}

/// How a source came to be known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum FoundBy {
    /// The tracker's plan.
    Plan,
    /// A provider record in Kademlia.
    Kademlia,
    /// One of the seeds every device keeps connected.
    Pinned,
}

/// Names one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ask {
    /// All chunk values of the item.
    Manifest,
    /// Which chunks the other has.
    Holding,
    /// One chunk.
    Chunk(ChunkIndex),
}

/// What came back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// A manifest or chunk of this many bytes; a verdict follows.
    Data(u64),
    /// What the other has.
    Holding(ChunkSet),
    /// Not now; ask again after this long.
    Busy(Duration),
    /// It does not have that.
    NotHeld,
    /// It will not serve us, for this reason.
    Refused(Refused),
    /// Nothing useful came.
    Failed {
        /// Why.
        failure: Failure,
        /// Bytes of the payload that had arrived.
        received: u64,
    },
}

/// Why a source will not serve us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// A fresh ticket may help.
    Ticket,
    /// Nothing we can do.
    Other,
}

/// How a request came to nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// No connection could be made.
    Unreachable,
    /// The connection ended.
    Closed,
    /// Nothing came for too long.
    Silent,
    /// What came broke the protocol.
    Malformed,
    /// We no longer wanted it.
    Cancelled,
}

/// Whether data is what was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is.
    Verified,
    /// It is not, and its sender knew.
    Forged,
    /// It proves itself, but says that our own idea of the item's length is wrong. Nobody's fault among the sources.
    OtherLength,
}

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Ask a device.
    Request {
        /// Names the answer.
        id: RequestId,
        /// Whom.
        device: DeviceId,
        /// About which item.
        item: ItemId,
        /// What.
        ask: Ask,
    },
    /// The answer is no longer wanted.
    Cancel {
        /// Which.
        id: RequestId,
    },
    /// Ask the tracker for a plan: [`Transfers::handle_plan`] or [`Transfers::handle_no_plan`] follows.
    AskTracker {
        /// For which item.
        item: ItemId,
        /// What is missing; none: everything.
        missing: Vec<Range<u32>>,
        /// Somebody watches it while it arrives.
        playing: bool,
    },
    /// Ask Kademlia who provides an item: any number of [`Transfers::handle_providers`] may follow.
    AskKademlia {
        /// Which.
        item: ItemId,
    },
    /// The manifest is there: make room on the disk. [`Transfers::handle_reserved`] or [`Transfers::handle_paused`]
    /// follows.
    Reserve {
        /// For which item.
        item: ItemId,
    },
    /// Tell the tracker that a source gives nothing.
    ReportStall {
        /// Of which item.
        item: ItemId,
        /// Who.
        source: DeviceId,
    },
    /// Speak to this device no more.
    Ban {
        /// Who.
        device: DeviceId,
        /// What it did, for people.
        reason: String,
    },
    /// Every wanted chunk of the item is on the disk.
    Complete {
        /// Which.
        item: ItemId,
    },
}

/// What one source has given for one item.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tally {
    /// Who.
    pub device: DeviceId,
    /// What it is there for, if known.
    pub kind: Option<DeviceKind>,
    /// How it came to be known.
    pub found_by: FoundBy,
    /// Bytes that verified.
    pub verified_bytes: u64,
    /// Bytes that were of no use: forged, twice, or cut off.
    pub wasted_bytes: u64,
}

/// Bytes of one source, since they were last asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Bytes that verified.
    pub verified_bytes: u64,
    /// Bytes that were of no use.
    pub wasted_bytes: u64,
}

impl Traffic {
    fn add(&mut self, other: Traffic) {
        self.verified_bytes += other.verified_bytes;
        self.wasted_bytes += other.wasted_bytes;
    }
}

/// Chunks and manifests since the start: what has arrived, and what became of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Books {
    /// What arrived.
    pub received_bytes: u64,
    /// What verified and was new.
    pub verified_bytes: u64,
    /// Bytes that were of no use.
    pub wasted_bytes: u64,
    /// Bytes that are being checked at the moment.
    pub unjudged_bytes: u64,
}

impl Books {
    /// Whether every byte is accounted for.
    pub fn balance(&self) -> bool {
        self.received_bytes == self.verified_bytes + self.wasted_bytes + self.unjudged_bytes
    }
}

/// How an item stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// Others come first.
    Queued,
    /// Nobody sends it, for this reason.
    Waiting(String),
    /// It waits for its time.
    Scheduled {
        /// When it goes on, by this device's clock; none: nobody can say.
        opens: Option<Utc>,
        /// The same in words, in the time of the site.
        why: String,
    },
    /// Chunks are coming.
    Arriving,
    /// The disk does not take it, for this reason.
    Paused(String),
    /// Everything wanted is here.
    Complete,
}

/// How a transfer goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// How it stands.
    pub standing: Standing,
    /// Chunks on the disk.
    pub held: u32,
    /// Verified bytes per second over the last five seconds.
    pub rate_bytes_per_sec: u64,
    /// When the last chunk was verified.
    pub last_data: Option<Utc>,
    /// Who gave what.
    pub tallies: Vec<Tally>,
}

/// All transfers of one device.
#[derive(Debug)]
pub struct Transfers {
    config: Config,
    rng: ChaCha8Rng,
    /// Highest priority first.
    order: Vec<ItemId>,
    items: BTreeMap<ItemId, Box<Transfer>>,
    memories: VecDeque<(ItemId, Progress)>,
    sources: Sources,
    pinned: BTreeSet<DeviceId>,
    banned: BTreeSet<DeviceId>,
    requests: Requests,
    next_request: u64,
    outstanding_bytes: u64,
    cap: Option<Cap>,
    tracker_up: bool,
    /// Of roles that are over; the others count for themselves.
    traffic: BTreeMap<(ItemId, DeviceId), Traffic>,
    books: Books,
    /// The moment of the last event: nothing before it is still to be done.
    seen: Mono,
    actions: VecDeque<Action>,
    /// Room for the list of items that an event looks at.
    looked_at: Vec<ItemId>,
}

/// One item on its way.
#[derive(Debug)]
struct Transfer {
    geometry: Geometry,
    skip: Vec<Range<u32>>,
    stage: Stage,
    roles: Roles,
    playing: Option<Playing>,
    /// A question to the tracker is under way.
    plan_asked: bool,
    plan_asked_at: Option<Mono>,
    plan_due: Mono,
    /// The last plan had leases.
    plan_names_sources: bool,
    waiting: String,
    /// When it is not to be fetched.
    closure: Option<Closure>,
    /// It is not to be fetched now.
    closed: bool,
    kademlia_asked_at: Option<Mono>,
    /// Since when the plan alone is not enough.
    degraded_since: Option<Mono>,
    degraded_until: Mono,
    meter: Meter,
    /// When the last chunk was verified, or work began.
    moved_at: Mono,
    last_data: Option<Utc>,
    /// Since when chunks are asked for.
    fetching_since: Mono,
    /// Chunks that were taken from a slow source and given to a faster one.
    steals: u32,
    /// Of roles that are over; the others count for themselves.
    tallies: BTreeMap<(DeviceId, FoundBy), Tally>,
}

#[derive(Debug)]
enum Stage {
    /// The manifest is not here.
    Manifest,
    /// The disk makes room.
    Reserving,
    /// Chunks are asked for.
    Fetching(Picker),
    /// The disk refused; what was known is kept.
    Paused { picker: Option<Picker>, until: Mono, why: String },
}

#[derive(Debug)]
struct Playing {
    from: u32,
    until: Mono,
}

impl Transfers {
    /// A device that fetches nothing yet.
    pub fn new(seed: u64, config: Config) -> Self {
        let cap = config.rate_bytes_per_sec.map(Cap::new);
        Self {
            config,
            rng: ChaCha8Rng::seed_from_u64(seed),
            order: Vec::new(),
            items: BTreeMap::new(),
            memories: VecDeque::new(),
            sources: Sources::default(),
            pinned: BTreeSet::new(),
            banned: BTreeSet::new(),
            requests: Requests::default(),
            next_request: 0,
            outstanding_bytes: 0,
            cap,
            tracker_up: false,
            traffic: BTreeMap::new(),
            books: Books::default(),
            seen: Mono::ZERO,
            actions: VecDeque::new(),
            looked_at: Vec::new(),
        }
    }

    /// Replaces the list of items to fetch, highest priority first. Items already under way keep what they have.
    pub fn handle_wanted(&mut self, now: Now, wanted: Vec<Wanted>) {
        let stay: BTreeSet<ItemId> = wanted.iter().map(|w| w.item).collect();
        for item in self.order.clone() {
            if !stay.contains(&item) {
                self.forget(now, item);
            }
        }
        self.order.clear();
        for w in wanted {
            if self.order.contains(&w.item) {
                continue;
            }
            self.order.push(w.item);
            if self.items.get(&w.item).is_some_and(|transfer| transfer.skip != w.skip) {
                // Another part of it is meant: it begins anew with what the disk holds.
                self.forget(now, w.item);
            }
            if !self.items.contains_key(&w.item) && !w.is_complete() {
                self.memories.retain(|(item, _)| *item != w.item);
                self.items.insert(w.item, Box::new(Transfer::new(now, w)));
            }
        }
        self.advance(now);
    }

    /// Whether the tracker can be asked.
    pub fn handle_tracker(&mut self, now: Now, up: bool) {
        self.tracker_up = up;
        let recheck = self.recheck_at(now);
        for transfer in self.items.values_mut() {
            transfer.plan_asked = false;
            match (transfer.closed, up) {
                (false, _) => transfer.plan_due = now.mono,
                (true, true) => transfer.plan_due = transfer.plan_due.min(recheck),
                (true, false) => {}
            }
        }
        self.advance(now);
    }

    /// The tracker has planned.
    pub fn handle_plan(&mut self, now: Now, plan: Plan) {
        let Some(transfer) = self.items.get_mut(&plan.item) else { return };
        transfer.plan_asked = false;
        transfer.plan_due = now.mono + plan.renew_after.max(PLAN_EVERY_MIN);
        transfer.plan_names_sources = !plan.leases.is_empty();
        if transfer.closed {
            transfer.open(now.mono);
            transfer.plan_due = now.mono + plan.renew_after.max(PLAN_EVERY_MIN);
        }
        transfer.waiting.clone_from(&plan.waiting);
        if self.take_closed(now, plan.item, plan.closed, &plan.waiting) {
            return self.advance(now);
        }
        let Some(transfer) = self.items.get_mut(&plan.item) else { return };
        for role in transfer.roles.iter_mut().filter(|role| role.found_by == FoundBy::Plan) {
            role.lease_until = now.mono;
            role.portions = None;
        }
        transfer.roles.changed();
        for lease in plan.leases {
            self.take_lease(now, plan.item, plan.renew_after, lease);
        }
        self.advance(now);
    }

    /// The tracker could not plan.
    pub fn handle_no_plan(&mut self, now: Now, item: ItemId) {
        if let Some(transfer) = self.items.get_mut(&item) {
            transfer.plan_asked = false;
            transfer.plan_due = match transfer.closure.as_ref().filter(|_| transfer.closed) {
                Some(closure) => closure.until(),
                None => now.mono + PLAN_EVERY,
            };
            // A plan that could not be renewed still says who held the item.
            transfer.plan_names_sources = false;
        }
        self.advance(now);
    }

    /// Kademlia knows these providers of an item.
    pub fn handle_providers(&mut self, now: Now, item: ItemId, devices: impl IntoIterator<Item = DeviceId>) {
        for device in devices {
            self.add_role(now, item, device, FoundBy::Kademlia);
        }
        self.advance(now);
    }

    /// These seeds are kept connected whatever happens.
    pub fn handle_pinned(&mut self, now: Now, seeds: impl IntoIterator<Item = DeviceId>) {
        self.pinned = seeds.into_iter().collect();
        for &device in &self.pinned {
            let source = self.sources.enter(device);
            self.sources[source].kind = Some(DeviceKind::Seed);
        }
        self.advance(now);
    }

    /// The player waits for this chunk; it and those after it come first.
    pub fn handle_playing(&mut self, now: Now, item: ItemId, chunk: ChunkIndex) {
        if let Some(transfer) = self.items.get_mut(&item) {
            if transfer.closed {
                transfer.open(now.mono);
            }
            if transfer.playing.is_none() {
                transfer.plan_due = now.mono;
            }
            transfer.playing = Some(Playing { from: chunk.get(), until: now.mono + PLAYING_FOR });
        }
        self.advance(now);
    }

    /// A request has been answered, or never will be.
    pub fn handle_answer(&mut self, now: Now, id: RequestId, answer: Answer) {
        self.answered(now, id, answer);
        self.advance(now);
    }

    /// Whether the verdict on what this request brought is awaited; nobody wants what was cancelled before it came.
    pub fn awaits_verdict(&self, id: &RequestId) -> bool {
        self.requests.get(*id).is_some_and(Request::is_checking)
    }

    /// So many bytes of the payload have arrived. Tell it now and then, so that slow can be told from dead.
    pub fn handle_received(&mut self, id: RequestId, bytes: u64) {
        if let Some(request) = self.requests.get_mut(id) {
            request.received = request.received.max(bytes);
        }
    }

    /// Data that arrived has been checked.
    pub fn handle_verdict(&mut self, now: Now, id: RequestId, verdict: Verdict) {
        let is_chunk = self.requests.get(id).is_some_and(Request::is_for_chunk);
        self.judged(now, id, verdict);
        // A good chunk gives nothing back before it is written.
        if !is_chunk || verdict != Verdict::Verified {
            self.advance(now);
        }
    }

    /// A verified chunk is written.
    pub fn handle_stored(&mut self, now: Now, id: RequestId) {
        if let Some((request, chunk)) = self.end_chunk(id) {
            if let Some(transfer) = self.items.get_mut(&request.item)
                && let Some(picker) = transfer.stage.picker_mut()
            {
                picker.store(chunk.get());
            }
            self.finish_if_complete(now, request.item);
        }
        self.advance(now);
    }

    /// A verified chunk could not be written: the item pauses and goes on by itself.
    pub fn handle_store_failed(&mut self, now: Now, id: RequestId, why: String) {
        if let Some((request, chunk)) = self.end_chunk(id) {
            self.release(request.item, chunk);
            self.pause(now, request.item, why);
        }
        self.advance(now);
    }

    /// The disk has room, and holds these chunks already.
    pub fn handle_reserved(&mut self, now: Now, item: ItemId, have: ChunkSet) {
        if let Some(transfer) = self.items.get_mut(&item) {
            if matches!(transfer.stage, Stage::Reserving) {
                transfer.start(now.mono, have);
            }
            self.finish_if_complete(now, item);
        }
        self.advance(now);
    }

    /// The disk has no room. It is tried again after a while.
    pub fn handle_paused(&mut self, now: Now, item: ItemId, why: String) {
        self.pause(now, item, why);
        self.advance(now);
    }

    /// An item is fetched for another reason than before: what was planned and what it was kept waiting for may not
    /// hold any more.
    pub fn handle_reclassed(&mut self, now: Now, item: ItemId) {
        if let Some(transfer) = self.items.get_mut(&item) {
            if transfer.closed {
                transfer.open(now.mono);
            }
            transfer.plan_due = now.mono;
        }
        self.advance(now);
    }

    /// There may be room on the disk now: what is paused is tried again at once.
    pub fn handle_room(&mut self, now: Now) {
        for transfer in self.items.values_mut() {
            if let Stage::Paused { until, .. } = &mut transfer.stage {
                *until = now.mono;
            }
        }
        self.advance(now);
    }

    /// A chunk that was held is gone: it rotted.
    pub fn handle_lost(&mut self, now: Now, item: ItemId, chunk: ChunkIndex) {
        if let Some(picker) = self.items.get_mut(&item).and_then(|t| t.stage.picker_mut()) {
            picker.lose(chunk.get());
        }
        self.advance(now);
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Now) {
        for id in self.requests.late(now.mono) {
            self.expire(now, id);
        }
        self.advance(now);
    }

    /// When to call [`Transfers::handle_timeout`].
    pub fn poll_timeout(&self) -> Option<Mono> {
        self.requests.soonest().into_iter().chain(self.next_wake()).min()
    }

    /// What to do next; drain to `None` after every `handle_*`.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// How an item goes; `None` when it was never wanted or is long forgotten.
    pub fn progress(&self, now: Now, item: &ItemId) -> Option<Progress> {
        let Some(transfer) = self.items.get(item) else {
            return self.memories.iter().rev().find(|(i, _)| i == item).map(|(_, p)| p.clone());
        };
        let standing = self.standing(now, item, transfer);
        Some(transfer.progress(now, standing, &self.sources))
    }

    /// The items to fetch, highest priority first; finished ones among them.
    pub fn order(&self) -> &[ItemId] {
        &self.order
    }

    /// Whether this item is on its way.
    pub fn is_fetching(&self, item: &ItemId) -> bool {
        self.items.contains_key(item)
    }

    /// Whether somebody watches this item as it arrives.
    pub fn is_playing(&self, now: Mono, item: &ItemId) -> bool {
        self.items.get(item).and_then(|it| it.playing.as_ref()).is_some_and(|playing| now < playing.until)
    }

    /// What came since the last call, by item and source.
    pub fn take_traffic(&mut self) -> BTreeMap<(ItemId, DeviceId), Traffic> {
        let mut taken = std::mem::take(&mut self.traffic);
        for (item, transfer) in &mut self.items {
            for role in transfer.roles.iter_mut().filter(|role| role.untold != Traffic::default()) {
                let device = self.sources[role.source].device;
                taken.entry((*item, device)).or_default().add(std::mem::take(&mut role.untold));
            }
        }
        taken
    }

    /// What has arrived since the start, and what became of it.
    pub fn books(&self) -> Books {
        self.books
    }

    /// Bytes asked for and not yet on the disk.
    pub fn outstanding_bytes(&self) -> u64 {
        self.outstanding_bytes
    }
}
