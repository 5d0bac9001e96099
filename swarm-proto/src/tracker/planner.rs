//! Decides which sources send which chunks of an item to which device, how fast and until when.
//!
//! Who may be a source: an online, unrevoked device other than the asker, with chunks the asker lacks, whose owner
//! lets it send. Boxes come before seeds, the same site before others, and a device that is sending already counts
//! for less. Leases end by themselves, so that a lost message corrects itself; a source that is lost or stalls is
//! replaced at once by an [`Action::Push`]. Knows chunk indices only: never bytes, addresses or sockets.

mod choice;
mod portions;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::ops::Range;
use std::time::Duration;

use rand::RngExt as _;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use roaring::RoaringBitmap;

use self::choice::{Candidate, Pick, Tier};
use self::portions::Order;
use crate::bitmap::Holding;
use crate::id::{AccountId, DeviceId, ItemId, SiteId};
use crate::membership::DeviceKind;
use crate::time::{Mono, Now, Utc};

/// Sources that one device avoids at the same time. A device that complains about more complains about its own link.
const MAX_AVOIDED: usize = 64;

/// Accounts that are remembered as having complained about one source; more would change nothing.
const MAX_COMPLAINERS: usize = 8;

/// Items that one device may be planned for at the same time; the oldest wish gives way.
const MAX_WISHES_PER_DEVICE: usize = 64;

/// Plans drawn anew in one timeout, so that the loss of a popular source does not keep everyone else waiting.
const REDRAWS_PER_TIMEOUT: usize = 32;

/// A cap leaves this part above the planned rate free, so that an uplink that was measured too low can show it.
const CAP_HEADROOM_DIVISOR: u64 = 4;

/// What the planner may assume and how long it trusts itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// How long a lease lasts.
    pub lease: Duration,
    /// When a device should ask again. A third of a lease: two lost messages do no harm.
    pub renew_after: Duration,
    /// A device that has not been heard of for this long is offline.
    pub silence: Duration,
    /// How long a source that stalled is avoided.
    pub avoid: Duration,
    /// A plan is not drawn anew more often than this because of good news.
    pub redraw_every: Duration,
    /// Distinct accounts that must complain about a source before others are planned away from it.
    pub complainers: usize,
    /// Boxes and seeds that one plan names for speed.
    pub max_sources: usize,
    /// Leases of one plan, with those that are there for single chunks only. At most 64.
    pub max_leases: usize,
    /// Seeds that one plan names for speed.
    pub max_seeds: usize,
    /// Bytes per second a box is believed to send while nobody has measured it.
    pub unknown_box_bytes_per_sec: u64,
    /// Bytes per second a seed is believed to send while nobody has measured it.
    pub unknown_seed_bytes_per_sec: u64,
    /// An uplink measured below this was idle rather than slow.
    pub slowest_bytes_per_sec: u64,
    /// Boxes that together give this much to a title in a queue need no seed beside them.
    pub enough_bytes_per_sec: u64,
    /// The same for a title that somebody is watching.
    pub enough_playing_bytes_per_sec: u64,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            lease: Duration::from_secs(15),
            renew_after: Duration::from_secs(5),
            silence: Duration::from_secs(35),
            avoid: Duration::from_secs(60),
            redraw_every: Duration::from_secs(1),
            complainers: 2,
            max_sources: 8,
            max_leases: 32,
            max_seeds: 2,
            unknown_box_bytes_per_sec: 1_250_000,
            unknown_seed_bytes_per_sec: 12_500_000,
            slowest_bytes_per_sec: 64 << 10,
            enough_bytes_per_sec: 1_250_000,
            enough_playing_bytes_per_sec: 2_500_000,
        }
    }
}

/// What is known of a device before it has said anything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Profile {
    /// What it is there for.
    pub kind: DeviceKind,
    /// Where it stands.
    pub site: SiteId,
    /// Whose it is.
    pub account: AccountId,
}

/// What a device says about its link.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Link {
    /// Measured; none: not known yet.
    pub uplink_bytes_per_sec: Option<u64>,
    /// Measured; none: not known yet.
    pub downlink_bytes_per_sec: Option<u64>,
    /// What its owner allows; none: unlimited. 0: it sends nothing.
    pub upload_cap_bytes_per_sec: Option<u64>,
}

/// A device that wants chunks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wish {
    /// Who asks.
    pub device: DeviceId,
    /// For which item.
    pub item: ItemId,
    /// How many chunks the item has.
    pub n_chunks: u32,
    /// What it lacks: ascending, disjoint, below `n_chunks`.
    pub missing: Vec<Range<u32>>,
    /// Somebody watches it while it arrives.
    pub playing: bool,
}

/// Why a source is in a plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// A box of the same site.
    SameSite,
    /// A box of another site, because those of the same site are too slow or lack chunks.
    Elsewhere,
    /// A seed, because the boxes together are believed to be too slow.
    BoxesTooSlow,
    /// A seed, for chunks that no box can send.
    OnlySeed,
    /// A seed, because no box can send anything.
    NoBoxes,
    /// A source that others complain about, because nobody else has the chunks.
    LastResort,
}

/// A source and what it is meant to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// Who sends.
    pub source: DeviceId,
    /// What it is there for.
    pub kind: DeviceKind,
    /// Whether it stands in the asker's site.
    pub same_site: bool,
    /// What is counted against its uplink.
    pub planned_bytes_per_sec: u64,
    /// The most it may be asked for; none: whatever it gives.
    pub rate_cap_bytes_per_sec: Option<u64>,
    /// What to take from it first, in this order. Portions of one plan are disjoint.
    pub portions: Vec<Range<u32>>,
    /// Why it was chosen.
    pub reason: Reason,
}

/// Why a plan has no leases.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Waiting {
    /// Nobody has ever said to hold a missing chunk.
    NobodyHoldsIt,
    /// Whoever holds a missing chunk is away.
    HoldersAway,
    /// Whoever holds a missing chunk and is there must not send, or has stalled for this asker.
    HoldersNotSending,
    /// Nothing is missing.
    NothingMissing,
}

impl fmt::Display for Waiting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Waiting::NobodyHoldsIt => "no source holds it yet",
            Waiting::HoldersAway => "every source that holds it is offline",
            Waiting::HoldersNotSending => "every source that holds it is not sending at the moment",
            Waiting::NothingMissing => "nothing is missing",
        })
    }
}

/// The answer to a wish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Who sends what.
    pub leases: Vec<Lease>,
    /// When all leases end.
    pub until: Utc,
    /// When to ask again.
    pub renew_after: Duration,
    /// Why there are no leases.
    pub waiting: Option<Waiting>,
}

/// What the shell does next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Send this device a plan that replaces the one it has for the item.
    Push {
        /// Who asked for what.
        wish: Wish,
        /// The new plan.
        plan: Plan,
    },
    /// This device has not been heard of for too long and counts as offline; close its stream.
    Silent(DeviceId),
}

/// A wish and the plan that answers it.
#[derive(Debug)]
struct Answered {
    wish: Wish,
    leases: Vec<Lease>,
    planned_at: Mono,
    ends: Mono,
    /// When it is to be drawn anew.
    redraw: Option<Mono>,
}

#[derive(Debug)]
struct Device {
    profile: Profile,
    revoked: bool,
    /// When it counts as silent; none: it is offline.
    silent_at: Option<Mono>,
    link: Link,
    holds: BTreeSet<ItemId>,
    /// Sources that stalled for it, and until when it avoids them.
    avoids: BTreeMap<DeviceId, Mono>,
    /// Accounts whose devices it stalled for, and until when that counts.
    complainers: BTreeMap<AccountId, Mono>,
    /// Wishes that have a lease from it.
    serves: BTreeSet<(DeviceId, ItemId)>,
    /// Sum of the planned rates of those leases.
    promised_bytes_per_sec: u64,
    /// Items it has been planned for.
    wishes: BTreeSet<ItemId>,
}

impl Device {
    fn is_online(&self) -> bool {
        self.silent_at.is_some() && !self.revoked
    }

    fn may_send(&self) -> bool {
        self.is_online() && self.link.upload_cap_bytes_per_sec != Some(0)
    }

    fn is_avoiding(&self, source: &DeviceId, now: Mono) -> bool {
        self.avoids.get(source).is_some_and(|until| now < *until)
    }
}

#[derive(Debug, Default)]
struct Item {
    holders: BTreeMap<DeviceId, Holding>,
    /// Devices whose plan does not cover everything they lack.
    wanting: BTreeSet<DeviceId>,
}

/// The machine. One per tracker.
#[derive(Debug)]
pub struct Planner {
    config: Config,
    rng: ChaCha8Rng,
    devices: BTreeMap<DeviceId, Device>,
    items: BTreeMap<ItemId, Item>,
    answered: BTreeMap<(DeviceId, ItemId), Answered>,
    silences: BTreeSet<(Mono, DeviceId)>,
    ends: BTreeSet<(Mono, DeviceId, ItemId)>,
    redraws: BTreeSet<(Mono, DeviceId, ItemId)>,
    actions: VecDeque<Action>,
}

impl Planner {
    /// A planner that knows nobody. The seed breaks ties, so that equal askers do not all lean on the same source.
    pub fn new(seed: [u8; 32], config: Config) -> Planner {
        assert!(config.max_leases <= choice::MAX_PICKS, "one bit for each lease of a plan");
        Planner {
            config,
            rng: ChaCha8Rng::from_seed(seed),
            devices: BTreeMap::new(),
            items: BTreeMap::new(),
            answered: BTreeMap::new(),
            silences: BTreeSet::new(),
            ends: BTreeSet::new(),
            redraws: BTreeSet::new(),
            actions: VecDeque::new(),
        }
    }

    /// A device was enrolled, or is known from before. It is offline until it arrives.
    pub fn handle_enrolled(&mut self, device: DeviceId, profile: Profile) {
        let fresh = Device {
            profile: profile.clone(),
            revoked: false,
            silent_at: None,
            link: Link::default(),
            holds: BTreeSet::new(),
            avoids: BTreeMap::new(),
            complainers: BTreeMap::new(),
            serves: BTreeSet::new(),
            promised_bytes_per_sec: 0,
            wishes: BTreeSet::new(),
        };
        self.devices.entry(device).or_insert(fresh).profile = profile;
    }

    /// A device has come online.
    pub fn handle_arrived(&mut self, now: Now, device: DeviceId) {
        self.handle_heard(now, device, true);
        let held: Vec<ItemId> =
            self.devices.get(&device).map(|it| it.holds.iter().copied().collect()).unwrap_or_default();
        for item in held {
            self.tell_wanting(now, item);
        }
    }

    /// A device has said something, so it is there.
    pub fn handle_alive(&mut self, now: Now, device: DeviceId) {
        self.handle_heard(now, device, false);
    }

    /// A device holds exactly this of an item from now on; nothing, if the holding is empty.
    pub fn handle_holding(&mut self, now: Now, device: DeviceId, item: ItemId, holding: Holding) {
        let Some(known) = self.devices.get_mut(&device) else { return };
        let online = known.is_online();
        if holding.is_empty() {
            known.holds.remove(&item);
            if let Some(it) = self.items.get_mut(&item) {
                it.holders.remove(&device);
            }
            self.forget_idle_item(&item);
            self.lose_source(now, device, Some(item));
            return;
        }
        known.holds.insert(item);
        let complete = holding.is_complete();
        self.items.entry(item).or_default().holders.insert(device, holding);
        if complete {
            self.release(device, item);
        }
        if online {
            self.tell_wanting(now, item);
        }
    }

    /// A device has measured its link, or its owner has changed what it may send.
    pub fn handle_heartbeat(&mut self, now: Now, device: DeviceId, link: Link) {
        self.handle_alive(now, device);
        let Some(known) = self.devices.get_mut(&device) else { return };
        let could_send = known.may_send();
        known.link = link;
        let can_send = known.may_send();
        if could_send && !can_send {
            self.lose_source(now, device, None);
        }
    }

    /// A device has gone offline.
    pub fn handle_departed(&mut self, now: Now, device: DeviceId) {
        let Some(known) = self.devices.get_mut(&device) else { return };
        let Some(silent_at) = known.silent_at.take() else { return };
        known.link = Link::default();
        known.avoids.clear();
        self.silences.remove(&(silent_at, device));
        self.drop_wishes(device);
        self.lose_source(now, device, None);
    }

    /// A device has lost its membership for good.
    pub fn handle_revoked(&mut self, now: Now, device: DeviceId) {
        self.handle_departed(now, device);
        if let Some(known) = self.devices.get_mut(&device) {
            known.revoked = true;
        }
    }

    /// A device says that a source of its plan gives it nothing.
    ///
    /// It is planned away from that source at once, the others when enough distinct accounts say so. Complaints about
    /// a source that was not planned for the complainer are ignored.
    pub fn handle_stall(&mut self, now: Now, device: DeviceId, item: ItemId, source: DeviceId) {
        let planned = self.answered.get(&(device, item)).is_some_and(|it| it.leases.iter().any(|l| l.source == source));
        if !planned {
            return;
        }
        let until = now.mono + self.config.avoid;
        let Some(asker) = self.devices.get_mut(&device) else { return };
        let account = asker.profile.account;
        asker.avoids.retain(|_, until| now.mono < *until);
        if asker.avoids.len() < MAX_AVOIDED {
            asker.avoids.insert(source, until);
        }
        let stalled = self.devices.get_mut(&source).expect("a planned source is a device");
        let shunned_before = complaints(stalled, now.mono) >= self.config.complainers;
        stalled.complainers.retain(|_, until| now.mono < *until);
        if stalled.profile.account != account && stalled.complainers.len() < MAX_COMPLAINERS {
            stalled.complainers.insert(account, until);
        }
        let shunned = complaints(stalled, now.mono) >= self.config.complainers;
        if shunned && !shunned_before {
            self.lose_source(now, source, None);
        } else {
            self.redraw_at(now.mono, device, item);
        }
    }

    /// Answers a wish with a plan and remembers both until the leases end.
    pub fn plan(&mut self, now: Now, wish: Wish) -> Plan {
        self.release(wish.device, wish.item);
        self.make_room(&wish.device);
        self.draw(now, wish)
    }

    /// Lets time pass.
    pub fn handle_timeout(&mut self, now: Now) {
        while let Some((at, device)) = self.silences.first().copied()
            && at <= now.mono
        {
            self.handle_departed(now, device);
            self.actions.push_back(Action::Silent(device));
        }
        while let Some((at, device, item)) = self.ends.first().copied()
            && at <= now.mono
        {
            self.release(device, item);
        }
        for _ in 0..REDRAWS_PER_TIMEOUT {
            let Some((at, device, item)) = self.redraws.first().copied() else { break };
            if at > now.mono {
                break;
            }
            let answered = self.release(device, item).expect("a redraw belongs to an answered wish");
            let Some(wish) = self.what_is_left(answered.wish) else { continue };
            let plan = self.draw(now, wish.clone());
            if plan.leases != answered.leases {
                self.actions.push_back(Action::Push { wish, plan });
            }
        }
    }

    /// When [`Planner::handle_timeout`] has something to do.
    pub fn poll_timeout(&self) -> Option<Mono> {
        let silence = self.silences.first().map(|(at, _)| *at);
        let end = self.ends.first().map(|(at, ..)| *at);
        let redraw = self.redraws.first().map(|(at, ..)| *at);
        [silence, end, redraw].into_iter().flatten().min()
    }

    /// What to do next.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// Whether a device is there.
    pub fn is_online(&self, device: &DeviceId) -> bool {
        self.devices.get(device).is_some_and(Device::is_online)
    }

    /// The leases a device has for an item now, with their reasons.
    pub fn leases(&self, device: DeviceId, item: ItemId) -> &[Lease] {
        self.answered.get(&(device, item)).map_or(&[], |it| &it.leases)
    }

    /// Everyone who holds chunks of an item, online or not.
    pub fn holders(&self, item: &ItemId) -> impl Iterator<Item = (&DeviceId, &Holding)> {
        self.items.get(item).into_iter().flat_map(|it| &it.holders)
    }

    /// What a device holds of an item.
    pub fn holding(&self, device: &DeviceId, item: &ItemId) -> Option<&Holding> {
        self.items.get(item)?.holders.get(device)
    }

    /// Every item a device holds chunks of.
    pub fn held_by(&self, device: &DeviceId) -> impl Iterator<Item = &ItemId> {
        self.devices.get(device).into_iter().flat_map(|it| &it.holds)
    }

    /// Seeds that are there, those of the asker's site first; equals in random order.
    pub fn online_seeds(&mut self, asker: &DeviceId, at_most: usize) -> Vec<DeviceId> {
        let site = self.devices.get(asker).map(|it| it.profile.site.clone());
        let rng = &mut self.rng;
        let mut seeds: Vec<(bool, u32, DeviceId)> = self
            .devices
            .iter()
            .filter(|(id, it)| it.profile.kind == DeviceKind::Seed && it.may_send() && *id != asker)
            .map(|(id, it)| (Some(&it.profile.site) != site.as_ref(), rng.random(), *id))
            .collect();
        seeds.sort_unstable();
        seeds.into_iter().take(at_most).map(|(.., id)| id).collect()
    }

    fn handle_heard(&mut self, now: Now, device: DeviceId, arriving: bool) {
        let silent_at = now.mono + self.config.silence;
        let Some(known) = self.devices.get_mut(&device).filter(|it| !it.revoked) else { return };
        if known.silent_at.is_none() && !arriving {
            return;
        }
        if let Some(before) = known.silent_at.replace(silent_at) {
            self.silences.remove(&(before, device));
        }
        self.silences.insert((silent_at, device));
    }

    /// A source has gone, for one item or for all: whoever counted on it is planned anew at once.
    fn lose_source(&mut self, now: Now, source: DeviceId, of: Option<ItemId>) {
        let Some(known) = self.devices.get(&source) else { return };
        let served: Vec<(DeviceId, ItemId)> =
            known.serves.iter().filter(|(_, item)| of.is_none_or(|it| it == *item)).copied().collect();
        for (device, item) in served {
            self.redraw_at(now.mono, device, item);
        }
    }

    /// Somebody has new chunks of an item: whoever lacks a source for some is planned anew soon.
    fn tell_wanting(&mut self, now: Now, item: ItemId) {
        let Some(it) = self.items.get(&item) else { return };
        let wanting: Vec<DeviceId> = it.wanting.iter().copied().collect();
        for device in wanting {
            let planned_at = self.answered[&(device, item)].planned_at;
            self.redraw_at(now.mono.max(planned_at + self.config.redraw_every), device, item);
        }
    }

    fn redraw_at(&mut self, at: Mono, device: DeviceId, item: ItemId) {
        let Some(answered) = self.answered.get_mut(&(device, item)) else { return };
        if answered.redraw.is_some_and(|earlier| earlier <= at) {
            return;
        }
        if let Some(later) = answered.redraw.replace(at) {
            self.redraws.remove(&(later, device, item));
        }
        self.redraws.insert((at, device, item));
    }

    fn drop_wishes(&mut self, device: DeviceId) {
        let wishes: Vec<ItemId> =
            self.devices.get(&device).map(|it| it.wishes.iter().copied().collect()).unwrap_or_default();
        for item in wishes {
            self.release(device, item);
        }
    }

    fn make_room(&mut self, device: &DeviceId) {
        let Some(known) = self.devices.get(device) else { return };
        if known.wishes.len() < MAX_WISHES_PER_DEVICE {
            return;
        }
        let oldest = known.wishes.iter().copied().min_by_key(|item| self.answered[&(*device, *item)].planned_at);
        self.release(*device, oldest.expect("a full set has an oldest member"));
    }

    /// Forgets a wish and gives back what its leases had promised.
    fn release(&mut self, device: DeviceId, item: ItemId) -> Option<Answered> {
        let answered = self.answered.remove(&(device, item))?;
        for lease in &answered.leases {
            let source = self.devices.get_mut(&lease.source).expect("a planned source is a device");
            source.promised_bytes_per_sec -= lease.planned_bytes_per_sec;
            source.serves.remove(&(device, item));
        }
        self.devices.get_mut(&device).expect("an asker is a device").wishes.remove(&item);
        if let Some(it) = self.items.get_mut(&item) {
            it.wanting.remove(&device);
        }
        self.forget_idle_item(&item);
        self.ends.remove(&(answered.ends, device, item));
        if let Some(at) = answered.redraw {
            self.redraws.remove(&(at, device, item));
        }
        Some(answered)
    }

    fn forget_idle_item(&mut self, item: &ItemId) {
        if self.items.get(item).is_some_and(|it| it.holders.is_empty() && it.wanting.is_empty()) {
            self.items.remove(item);
        }
    }

    /// The wish without the chunks that have arrived since; none if they were all.
    fn what_is_left(&self, wish: Wish) -> Option<Wish> {
        let Some(held) = self.holding(&wish.device, &wish.item).filter(|it| it.n_chunks() == wish.n_chunks) else {
            return Some(wish);
        };
        let wanted = Holding::from_runs(wish.n_chunks, wish.missing.iter().cloned()).ok()?;
        let missing: Vec<Range<u32>> = wanted.difference(held).runs().collect();
        (!missing.is_empty()).then_some(Wish { missing, ..wish })
    }

    /// Draws a plan for a wish that has none, and remembers it if the asker is there.
    fn draw(&mut self, now: Now, wish: Wish) -> Plan {
        let until = now.utc + self.config.lease;
        let renew_after = self.config.renew_after;
        let mut missing = RoaringBitmap::new();
        for range in &wish.missing {
            missing.insert_range(range.start..range.end.min(wish.n_chunks));
        }
        let Some(asker) = self.devices.get(&wish.device).filter(|_| !missing.is_empty()) else {
            return Plan { leases: Vec::new(), until, renew_after, waiting: Some(Waiting::NothingMissing) };
        };
        let downlink = asker.link.downlink_bytes_per_sec;
        let asker_is_online = asker.is_online();

        let ties = self.rng.random();
        let (candidates, rarity) = self.candidates(now.mono, ties, &wish, &missing);
        let enough = match wish.playing {
            true => self.config.enough_playing_bytes_per_sec,
            false => self.config.enough_bytes_per_sec,
        };
        let limits = choice::Limits {
            enough_bytes_per_sec: enough,
            max_sources: self.config.max_sources,
            max_seeds: self.config.max_seeds,
            max_leases: self.config.max_leases,
            slowest_bytes_per_sec: self.config.slowest_bytes_per_sec,
        };
        let mut picks = choice::choose(candidates, &missing, &limits);
        fit_into(&mut picks, downlink);
        let order = match wish.playing {
            true => Order::Playing,
            false => Order::RarestFirst { from: self.rng.random_range(0..wish.n_chunks) },
        };
        let portions = portions::split(&picks, wish.n_chunks, &rarity, order);
        let covered = picks.iter().fold(RoaringBitmap::new(), |all, pick| all | &pick.chunks);
        let wanting = covered.len() < missing.len();
        let leases: Vec<Lease> = picks.iter().zip(portions).map(|(pick, mine)| self.lease(&wish, pick, mine)).collect();
        let waiting = leases.is_empty().then(|| self.why_waiting(&wish, &missing));
        if asker_is_online {
            self.remember(now.mono, wish, leases.clone(), wanting);
        }
        Plan { leases, until, renew_after, waiting }
    }

    /// Everyone who could send something, and how many of them hold each chunk.
    fn candidates(&self, now: Mono, ties: u64, wish: &Wish, missing: &RoaringBitmap) -> (Vec<Candidate<'_>>, Vec<u32>) {
        let mut ties = ChaCha8Rng::seed_from_u64(ties);
        let mut rarity = portions::Counts::new(wish.n_chunks);
        let mut candidates = Vec::new();
        let asker = self.devices.get(&wish.device).expect("only a device is planned for");
        let holders = self.items.get(&wish.item).into_iter().flat_map(|it| &it.holders);
        for (id, held) in holders {
            let source = &self.devices[id];
            let fits = held.n_chunks() == wish.n_chunks;
            if !fits || *id == wish.device || !source.may_send() || asker.is_avoiding(id, now) {
                continue;
            }
            rarity.add(held);
            if choice::overlap(held, missing) == 0 {
                continue;
            }
            let near = source.profile.site == asker.profile.site;
            let tier = match (source.profile.kind, near) {
                _ if complaints(source, now) >= self.config.complainers => Tier::Shunned,
                (DeviceKind::Box, true) => Tier::NearBox,
                (DeviceKind::Box, false) => Tier::FarBox,
                (DeviceKind::Seed, true) => Tier::NearSeed,
                (DeviceKind::Seed, false) => Tier::FarSeed,
            };
            let share_bytes_per_sec = share(source, &self.config);
            candidates.push(Candidate { device: *id, tier, share_bytes_per_sec, held, tie: ties.random() });
        }
        (candidates, rarity.finish())
    }

    fn lease(&self, wish: &Wish, pick: &Pick, portions: Vec<Range<u32>>) -> Lease {
        let source = &self.devices[&pick.device];
        let asker = &self.devices[&wish.device];
        // Alone on a source, a box may find out what its uplink really gives.
        let contended = !source.serves.is_empty() && source.link.uplink_bytes_per_sec.is_some();
        let frugal = pick.reason == Reason::BoxesTooSlow;
        let planned = pick.rate_bytes_per_sec;
        let cap = (contended || frugal).then(|| planned.saturating_add(planned / CAP_HEADROOM_DIVISOR));
        Lease {
            source: pick.device,
            kind: source.profile.kind,
            same_site: source.profile.site == asker.profile.site,
            planned_bytes_per_sec: planned,
            rate_cap_bytes_per_sec: [cap, source.link.upload_cap_bytes_per_sec].into_iter().flatten().min(),
            portions,
            reason: pick.reason,
        }
    }

    fn remember(&mut self, now: Mono, wish: Wish, leases: Vec<Lease>, wanting: bool) {
        let (device, item) = (wish.device, wish.item);
        for lease in &leases {
            let source = self.devices.get_mut(&lease.source).expect("a planned source is a device");
            source.promised_bytes_per_sec += lease.planned_bytes_per_sec;
            source.serves.insert((device, item));
        }
        self.devices.get_mut(&device).expect("an asker is a device").wishes.insert(item);
        if wanting {
            self.items.entry(item).or_default().wanting.insert(device);
        }
        let ends = now + self.config.lease;
        self.ends.insert((ends, device, item));
        self.answered.insert((device, item), Answered { wish, leases, planned_at: now, ends, redraw: None });
    }

    fn why_waiting(&self, wish: &Wish, missing: &RoaringBitmap) -> Waiting {
        let useful = |(id, held): &(&DeviceId, &Holding)| {
            **id != wish.device
                && !self.devices[*id].revoked
                && held.n_chunks() == wish.n_chunks
                && choice::overlap(held, missing) > 0
        };
        let holders = || self.holders(&wish.item).filter(useful);
        if holders().next().is_none() {
            return Waiting::NobodyHoldsIt;
        }
        match holders().any(|(id, _)| self.devices[id].is_online()) {
            true => Waiting::HoldersNotSending,
            false => Waiting::HoldersAway,
        }
    }
}

/// How many accounts complain about a source at the moment.
fn complaints(source: &Device, now: Mono) -> usize {
    source.complainers.values().filter(|until| now < **until).count()
}

/// What a source is believed to have left for one more lease: what is free, or an equal part of everything.
fn share(source: &Device, config: &Config) -> u64 {
    let unknown = match source.profile.kind {
        DeviceKind::Box => config.unknown_box_bytes_per_sec,
        DeviceKind::Seed => config.unknown_seed_bytes_per_sec,
    };
    let measured = source.link.uplink_bytes_per_sec.map(|rate| rate.max(config.slowest_bytes_per_sec));
    let cap = source.link.upload_cap_bytes_per_sec.unwrap_or(u64::MAX);
    let uplink = measured.unwrap_or(unknown).min(cap);
    let free = uplink.saturating_sub(source.promised_bytes_per_sec);
    let equal = uplink / (source.serves.len() as u64 + 1);
    free.max(equal).max(1)
}

/// Plans no more than the asker can take, so that the rest of the uplinks counts as free for others.
fn fit_into(picks: &mut [Pick], downlink_bytes_per_sec: Option<u64>) {
    let Some(downlink) = downlink_bytes_per_sec else { return };
    let planned: u128 = picks.iter().map(|pick| u128::from(pick.rate_bytes_per_sec)).sum();
    if planned <= u128::from(downlink) {
        return;
    }
    for pick in picks {
        let fitting = u128::from(pick.rate_bytes_per_sec) * u128::from(downlink) / planned;
        pick.rate_bytes_per_sec = u64::try_from(fitting).unwrap_or(u64::MAX).max(1);
    }
}
