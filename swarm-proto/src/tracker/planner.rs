//! Decides which sources send which chunks of an item to which device, how fast and until when.
//!
//! Who may be a source: an online, unrevoked device other than the asker that has chunks the asker lacks or is about
//! to get some, whose owner lets it send, and that the asker can meet. The cheapest come first: the same home, the
//! same site, other sites, then seeds. What no box of a site has is brought there once; the boxes pass it on. No more
//! is promised of an uplink than it is believed to have. When there is not enough for everyone, a title that is
//! watched comes before queues and those before preloads, one customer's titles go in their order, and customers share
//! alike. Leases end by themselves, so that a lost message corrects itself; a source that is lost or stalls is
//! replaced at once by an [`Action::Push`]. An event touches what it changes, never the whole swarm. Knows chunk
//! indices only: never bytes, addresses or sockets.

mod config;
mod crowd;
mod draw;
mod estimate;
mod explain;
#[cfg(test)]
mod model;
mod plan;
mod portions;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Range;

use rand::RngExt as _;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use slab::Slab;

pub use self::config::Config;
pub use self::crowd::Held;
use self::crowd::{Crowd, ItemNo, Slot};
pub use self::estimate::Estimate;
pub use self::explain::{AskedFor, Explanation, WhyNot};
pub use self::plan::{Action, Lease, Link, Plan, Profile, Reach, Reason, SiteRules, Waiting, Wish};
use crate::bitmap::Holding;
use crate::id::{AccountId, DeviceId, ItemId, SiteId};
use crate::membership::DeviceKind;
use crate::peer::chunk_set::ChunkSet;
use crate::ticket::TicketClass;
use crate::time::{Mono, Now, Utc};

/// Sources that one device avoids at the same time. A device that complains about more complains about its own link.
const MAX_AVOIDED: usize = 64;

/// Accounts that are remembered as having complained about one source; more would change nothing.
const MAX_COMPLAINERS: usize = 8;

/// Items that one device may be planned for at the same time; the oldest wish gives way.
const MAX_WISHES_PER_DEVICE: usize = 64;

/// Plans drawn anew in one timeout, so that the loss of a popular source does not keep everyone else waiting.
const REDRAWS_PER_TIMEOUT: usize = 32;

/// Askers that hear at once of new chunks; the others find out when they ask again.
const MAX_TOLD: usize = 32;

/// Devices that are looked at to say why nobody sends.
const MAX_ASKED_WHY: usize = 512;

/// A seed that helps out may be asked for this part above the planned rate: more would not spare it.
const SEED_HEADROOM_DIVISOR: u64 = 4;

/// A box may be asked for so many times the planned rate: what one asker leaves of its uplink others take, and an uplink
/// that was measured too low can show it.
const BOX_HEADROOM: u64 = 3;

/// A wish's number.
type WishNo = u32;
/// A lease's number.
type LeaseNo = u32;

/// A wish and what has been planned for it.
#[derive(Debug)]
struct Asked {
    slot: Slot,
    item: ItemNo,
    missing: ChunkSet,
    class: TicketClass,
    rank: u32,
    until: Option<Utc>,
    leases: Vec<LeaseNo>,
    /// Sum of their planned rates.
    rate_bytes_per_sec: u64,
    planned_at: Mono,
    ends: Mono,
    /// When it is to be drawn anew.
    redraw: Option<Mono>,
    /// What the asker was last told, in short.
    told: u64,
}

/// A lease and what it counts against.
#[derive(Debug)]
struct Granted {
    source: Slot,
    wish: WishNo,
    rate_bytes_per_sec: u64,
    reason: Reason,
    portions: Vec<Range<u32>>,
    /// Its portions count as on their way to the asker's site.
    arriving: bool,
}

/// Something that is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Due {
    Silent(Slot),
    End(WishNo),
    Redraw(WishNo),
}

/// The machine. One per tracker.
#[derive(Debug)]
pub struct Planner {
    config: Config,
    rng: ChaCha8Rng,
    crowd: Crowd,
    wishes: Slab<Asked>,
    leases: Slab<Granted>,
    /// What each customer's devices are being sent; none: nothing.
    accounts: BTreeMap<AccountId, u64>,
    timers: BTreeSet<(Mono, Due)>,
    actions: VecDeque<Action>,
}

impl Planner {
    /// A planner that knows nobody. The seed breaks ties, so that equal askers do not all lean on the same source.
    pub fn new(seed: [u8; 32], config: Config) -> Planner {
        assert!(config.max_leases <= portions::MAX_SENDERS, "one bit for each lease of a plan");
        Planner {
            config,
            rng: ChaCha8Rng::from_seed(seed),
            crowd: Crowd::default(),
            wishes: Slab::new(),
            leases: Slab::new(),
            accounts: BTreeMap::new(),
            timers: BTreeSet::new(),
            actions: VecDeque::new(),
        }
    }

    /// A device was enrolled, is known from before, or has moved. It is offline until it arrives.
    pub fn handle_enrolled(&mut self, now: Now, device: DeviceId, profile: &Profile) {
        if let Some(slot) = self.crowd.slot(&device) {
            let known = self.crowd.device(slot);
            let site = &self.crowd.site(known.site).id;
            if (known.kind, site, known.account) == (profile.kind, &profile.site, profile.account) {
                return;
            }
            // What was planned for it and from it was planned for where it stood.
            self.drop_wishes(slot);
            self.lose_source(now, slot, None);
        }
        self.crowd.enrol(device, profile, &self.config);
    }

    /// What the operator has said about a site. Plans follow as they are renewed.
    pub fn handle_site(&mut self, site: &SiteId, rules: &SiteRules) {
        let number = self.crowd.site_no(site);
        let costs = rules.costs.iter().map(|(from, cost)| (self.crowd.site_no(from), *cost)).collect();
        let known = self.crowd.site_mut(number);
        known.inbound_bytes_per_sec = rules.inbound_bytes_per_sec.bound();
        known.costs = costs;
    }

    /// Seeds may send to a site from now on, or may not because their budget is used up: then they stop at once.
    pub fn handle_origin(&mut self, now: Now, site: &SiteId, seeds_may_send: bool) {
        let number = self.crowd.site_no(site);
        let known = self.crowd.site_mut(number);
        if std::mem::replace(&mut known.seeds_may_send, seeds_may_send) == seeds_may_send {
            return;
        }
        let asks: Vec<WishNo> = self.wishes.iter().map(|(no, _)| number_of(no)).collect();
        for wish in asks {
            let asked = &self.wishes[wish as usize];
            if self.crowd.device(asked.slot).site != number {
                continue;
            }
            let from_seeds: Vec<LeaseNo> = asked.leases.iter().copied().filter(|no| self.is_from_seed(*no)).collect();
            if seeds_may_send && (asked.leases.is_empty() || from_seeds.is_empty()) {
                self.redraw_at(now.mono, wish);
            } else if !seeds_may_send && !from_seeds.is_empty() {
                from_seeds.into_iter().for_each(|lease| self.end_lease(lease));
                self.redraw_at(now.mono, wish);
            }
        }
    }

    /// A device has come online.
    pub fn handle_arrived(&mut self, now: Now, device: DeviceId) {
        self.handle_heard(now, device, true);
        let Some(slot) = self.crowd.slot(&device) else { return };
        let held: Vec<ItemNo> = self.crowd.items_of(slot).collect();
        for item in held {
            self.tell_wanting(now, item);
        }
    }

    /// Who can open connections to a device has become known.
    pub fn handle_reach(&mut self, device: DeviceId, reach: Reach) {
        if let Some(slot) = self.crowd.slot(&device) {
            self.crowd.device_mut(slot).reach = reach;
        }
    }

    /// A device has said something, so it is there.
    pub fn handle_alive(&mut self, now: Now, device: DeviceId) {
        self.handle_heard(now, device, false);
    }

    /// A device holds exactly this of an item from now on; nothing, if the holding is empty.
    pub fn handle_holding(&mut self, now: Now, device: DeviceId, item: ItemId, holding: &Holding) {
        let Some(slot) = self.crowd.slot(&device) else { return };
        if holding.is_empty() && self.crowd.item_no(&item).is_none() {
            return;
        }
        let number = self.crowd.number_item(item, holding.n_chunks());
        if self.crowd.item(number).n_chunks != holding.n_chunks() {
            return;
        }
        self.crowd.hold(slot, number, holding);
        if holding.is_empty() {
            self.lose_source(now, slot, Some(number));
            self.crowd.forget_idle_item(number);
            return;
        }
        if holding.is_complete() {
            self.withdraw(slot, number);
        }
        if self.crowd.device(slot).is_online() {
            self.tell_wanting(now, number);
        }
    }

    /// A device has measured its link, or its owner has changed what it may send.
    pub fn handle_heartbeat(&mut self, now: Now, device: DeviceId, link: Link) {
        self.handle_alive(now, device);
        let Some(slot) = self.crowd.slot(&device) else { return };
        let could_send = self.crowd.device(slot).may_send();
        self.crowd.change(slot, &self.config, |it| it.link = link);
        let known = self.crowd.device(slot);
        if could_send && !known.may_send() {
            self.lose_source(now, slot, None);
        } else {
            self.keep_promises(now, slot);
        }
    }

    /// A device has gone offline.
    pub fn handle_departed(&mut self, now: Now, device: DeviceId) {
        let Some(slot) = self.crowd.slot(&device) else { return };
        let Some(silent_at) = self.crowd.device(slot).silent_at else { return };
        self.timers.remove(&(silent_at, Due::Silent(slot)));
        self.drop_wishes(slot);
        self.crowd.change(slot, &self.config, |it| {
            it.silent_at = None;
            it.link = Link::default();
            it.avoids.clear();
        });
        self.lose_source(now, slot, None);
    }

    /// A device has lost its membership for good.
    pub fn handle_revoked(&mut self, now: Now, device: DeviceId) {
        self.handle_departed(now, device);
        if let Some(slot) = self.crowd.slot(&device) {
            self.crowd.device_mut(slot).revoked = true;
        }
    }

    /// A device says that a source of its plan gives it nothing.
    ///
    /// It is planned away from that source at once, the others when enough distinct accounts say so. Complaints about
    /// a source that was not planned for the complainer are ignored.
    pub fn handle_stall(&mut self, now: Now, device: DeviceId, item: ItemId, source: DeviceId) {
        let (Some(slot), Some(source)) = (self.crowd.slot(&device), self.crowd.slot(&source)) else { return };
        let Some(wish) = self.crowd.item_no(&item).and_then(|item| self.wish_of(slot, item)) else { return };
        let Some(lease) = self.lease_from(wish, source) else { return };
        let until = now.mono + self.config.avoid;
        let asker = self.crowd.device_mut(slot);
        let account = asker.account;
        asker.avoids.retain(|(other, until)| *other != source && now.mono < *until);
        if asker.avoids.len() < MAX_AVOIDED {
            asker.avoids.push((source, until));
        }
        self.end_lease(lease);
        self.redraw_at(now.mono, wish);

        let stalled = self.crowd.device_mut(source);
        let shunned_before = stalled.complaints(now.mono) >= self.config.complainers;
        stalled.complainers.retain(|(other, until)| *other != account && now.mono < *until);
        if stalled.account != account && stalled.complainers.len() < MAX_COMPLAINERS {
            stalled.complainers.push((account, until));
        }
        if !shunned_before && self.is_shunned(source, now.mono) {
            self.lose_source(now, source, None);
        }
    }

    /// Answers a wish with a plan and remembers both until the leases end. Leases that are still good are kept.
    pub fn plan(&mut self, now: Now, wish: &Wish) -> Plan {
        let missing = ChunkSet::from_ranges(wish.n_chunks, wish.missing.iter().cloned());
        let Some(slot) = self.crowd.slot(&wish.device).filter(|_| !missing.is_empty()) else {
            self.handle_withdrawn(wish.device, wish.item);
            return Plan {
                leases: Vec::new(),
                until: now.utc + self.config.lease,
                renew_after: self.config.renew_after,
                waiting: Some(Waiting::NothingMissing),
            };
        };
        let item = self.crowd.number_item(wish.item, wish.n_chunks);
        if self.crowd.item(item).n_chunks != wish.n_chunks {
            // Whoever said so first was wrong: the wish is from the catalog.
            self.forget_item(now, item);
            return self.plan(now, wish);
        }
        let no = self.ask(now, slot, item, missing, wish);
        self.draw(now, no);
        let plan = self.answer(now, no);
        if !self.crowd.device(slot).is_online() {
            self.forget_wish(no);
        }
        plan
    }

    /// A device wants an item no more, or must not have it now: what it was to be sent is free at once.
    pub fn handle_withdrawn(&mut self, device: DeviceId, item: ItemId) {
        if let (Some(slot), Some(item)) = (self.crowd.slot(&device), self.crowd.item_no(&item)) {
            self.withdraw(slot, item);
        }
    }

    /// Lets time pass.
    pub fn handle_timeout(&mut self, now: Now) {
        let mut redrawn = 0;
        while let Some((at, due)) = self.timers.first().copied()
            && at <= now.mono
            && redrawn < REDRAWS_PER_TIMEOUT
        {
            match due {
                Due::Silent(slot) => {
                    let device = self.crowd.device(slot).id;
                    self.handle_departed(now, device);
                    self.actions.push_back(Action::Silent(device));
                }
                Due::End(wish) => self.forget_wish(wish),
                Due::Redraw(wish) => {
                    redrawn += 1;
                    self.redraw(now, wish);
                }
            }
        }
    }

    /// When [`Planner::handle_timeout`] has something to do.
    pub fn poll_timeout(&self) -> Option<Mono> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// What to do next.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// Whether a device is there.
    pub fn is_online(&self, device: &DeviceId) -> bool {
        self.crowd.slot(device).is_some_and(|slot| self.crowd.device(slot).is_online())
    }

    /// The leases a device has for an item now, with their reasons.
    pub fn leases(&self, device: &DeviceId, item: &ItemId) -> Vec<Lease> {
        let wish =
            self.crowd.slot(device).zip(self.crowd.item_no(item)).and_then(|(slot, item)| self.wish_of(slot, item));
        wish.map(|wish| self.wishes[wish as usize].leases.iter().map(|no| self.lease(*no)).collect())
            .unwrap_or_default()
    }

    /// Everyone who holds chunks of an item, online or not; in no particular order.
    pub fn holders(&self, item: &ItemId) -> impl Iterator<Item = (DeviceId, Held<'_>)> {
        let number = self.crowd.item_no(item);
        let members =
            number.into_iter().flat_map(|item| self.crowd.members(item).iter().map(move |slot| (item, *slot)));
        members.filter_map(|(item, slot)| {
            let held = self.crowd.held(slot, item).filter(|held| !held.is_empty())?;
            Some((self.crowd.device(slot).id, held))
        })
    }

    /// What a device holds of an item; none: nothing.
    pub fn holding(&self, device: &DeviceId, item: &ItemId) -> Option<Held<'_>> {
        let held = self.crowd.held(self.crowd.slot(device)?, self.crowd.item_no(item)?)?;
        (!held.is_empty()).then_some(held)
    }

    /// Every item a device holds chunks of, with what it holds.
    pub fn held_by(&self, device: &DeviceId) -> impl Iterator<Item = (ItemId, Held<'_>)> {
        let slot = self.crowd.slot(device);
        slot.into_iter().flat_map(move |slot| {
            self.crowd.items_of(slot).filter_map(move |item| {
                let held = self.crowd.held(slot, item).filter(|held| !held.is_empty())?;
                Some((self.crowd.item(item).id, held))
            })
        })
    }

    /// Seeds that are there, those of the asker's site first; equals in random order.
    pub fn online_seeds(&mut self, asker: &DeviceId, at_most: usize) -> Vec<DeviceId> {
        let site = self.crowd.slot(asker).map(|slot| self.crowd.device(slot).site);
        let mut seeds: Vec<(bool, u32, DeviceId)> = Vec::new();
        for slot in self.crowd.seeds() {
            let seed = self.crowd.device(*slot);
            if seed.kind == DeviceKind::Seed && seed.may_send() && seed.id != *asker {
                seeds.push((Some(seed.site) != site, self.rng.random(), seed.id));
            }
        }
        seeds.sort_unstable();
        seeds.into_iter().take(at_most).map(|(.., id)| id).collect()
    }

    /// What a customer's devices are being sent together, as planned.
    pub fn account_total(&self, account: &AccountId) -> u64 {
        self.accounts.get(account).copied().unwrap_or(0)
    }

    /// Bytes of memory that holdings use, for whoever watches the size of a tracker.
    pub fn holdings_bytes(&self) -> usize {
        self.crowd.holdings_bytes()
    }

    fn handle_heard(&mut self, now: Now, device: DeviceId, arriving: bool) {
        let Some(slot) = self.crowd.slot(&device) else { return };
        let known = self.crowd.device(slot);
        if known.revoked || (known.silent_at.is_none() && !arriving) {
            return;
        }
        let silent_at = now.mono + self.config.silence;
        match known.silent_at {
            Some(before) => {
                self.timers.remove(&(before, Due::Silent(slot)));
                self.crowd.device_mut(slot).silent_at = Some(silent_at);
            }
            None => self.crowd.change(slot, &self.config, |it| it.silent_at = Some(silent_at)),
        }
        self.timers.insert((silent_at, Due::Silent(slot)));
    }

    /// A source has gone, for one item or for all: whoever counted on it is planned anew at once.
    fn lose_source(&mut self, now: Now, source: Slot, of: Option<ItemNo>) {
        let served = self.crowd.device(source).serves.clone();
        for lease in served {
            let wish = self.leases[lease as usize].wish;
            if of.is_none_or(|item| item == self.wishes[wish as usize].item) {
                self.end_lease(lease);
                self.redraw_at(now.mono, wish);
            }
        }
    }

    /// A source gives less than was thought: leases beyond that end, and whoever had them is planned anew.
    fn keep_promises(&mut self, now: Now, source: Slot) {
        while self.crowd.device(source).promised_bytes_per_sec > self.crowd.device(source).uplink_bytes_per_sec() {
            let known = self.crowd.device(source);
            let over = known.promised_bytes_per_sec - known.uplink_bytes_per_sec();
            let Some(&last) = known.serves.last() else { return };
            let (wish, rate) = (self.leases[last as usize].wish, self.leases[last as usize].rate_bytes_per_sec);
            match rate > over {
                true => self.set_rate(last, rate - over),
                false => self.end_lease(last),
            }
            self.redraw_soon(now.mono, wish);
        }
    }

    /// Somebody has new chunks of an item: whoever lacks a source for some is planned anew soon.
    fn tell_wanting(&mut self, now: Now, item: ItemNo) {
        let wanting: Vec<WishNo> = self.crowd.item(item).wanting.iter().take(MAX_TOLD).copied().collect();
        for wish in wanting {
            self.redraw_soon(now.mono, wish);
        }
    }

    /// Draws anew as soon as good news may be told again.
    fn redraw_soon(&mut self, now: Mono, wish: WishNo) {
        let planned_at = self.wishes[wish as usize].planned_at;
        self.redraw_at(now.max(planned_at + self.config.redraw_every), wish);
    }

    fn redraw_at(&mut self, at: Mono, wish: WishNo) {
        let asked = &mut self.wishes[wish as usize];
        if asked.redraw.is_some_and(|earlier| earlier <= at) {
            return;
        }
        if let Some(later) = asked.redraw.replace(at) {
            self.timers.remove(&(later, Due::Redraw(wish)));
        }
        self.timers.insert((at, Due::Redraw(wish)));
    }

    fn redraw(&mut self, now: Now, wish: WishNo) {
        let asked = &mut self.wishes[wish as usize];
        if let Some(at) = asked.redraw.take() {
            self.timers.remove(&(at, Due::Redraw(wish)));
        }
        let asked = &mut self.wishes[wish as usize];
        if let Some(Held::Part(held)) = self.crowd.held(asked.slot, asked.item) {
            let before = asked.missing.len();
            asked.missing.subtract(held);
            self.crowd.item_mut(asked.item).missing -= u64::from(before - asked.missing.len());
        }
        if self.wishes[wish as usize].missing.is_empty() {
            self.forget_wish(wish);
            return;
        }
        let told = self.wishes[wish as usize].told;
        self.end_later(now, wish);
        self.draw(now, wish);
        let plan = self.answer(now, wish);
        let asked = &self.wishes[wish as usize];
        if asked.told != told {
            let wish = Wish {
                device: self.crowd.device(asked.slot).id,
                item: self.crowd.item(asked.item).id,
                n_chunks: asked.missing.width(),
                missing: asked.missing.ranges(),
                class: asked.class,
                rank: asked.rank,
                until: asked.until,
            };
            self.actions.push_back(Action::Push { wish, plan });
        }
    }

    /// Remembers a wish; a newer one for the same item takes the place of the old.
    fn ask(&mut self, now: Now, slot: Slot, item: ItemNo, missing: ChunkSet, wish: &Wish) -> WishNo {
        if let Some(no) = self.wish_of(slot, item) {
            self.unlist(no);
            let asked = &mut self.wishes[no as usize];
            let it = self.crowd.item_mut(item);
            it.missing = it.missing - u64::from(asked.missing.len()) + u64::from(missing.len());
            (asked.missing, asked.class, asked.rank, asked.until) = (missing, wish.class, wish.rank, wish.until);
            if let Some(at) = asked.redraw.take() {
                self.timers.remove(&(at, Due::Redraw(no)));
            }
            self.list(no);
            self.end_later(now, no);
            return no;
        }
        self.make_room(slot);
        let chunks = u64::from(missing.len());
        let no = number_of(self.wishes.insert(Asked {
            slot,
            item,
            missing,
            class: wish.class,
            rank: wish.rank,
            until: wish.until,
            leases: Vec::new(),
            rate_bytes_per_sec: 0,
            planned_at: now.mono,
            ends: now.mono,
            redraw: None,
            told: 0,
        }));
        self.timers.insert((now.mono, Due::End(no)));
        self.end_later(now, no);
        let it = self.crowd.item_mut(item);
        it.wishes += 1;
        it.missing += chunks;
        self.crowd.device_mut(slot).wishes.push((item, no));
        self.crowd.fetch(slot, item);
        self.list(no);
        no
    }

    /// Counts a wish at its site, unless somebody watches.
    fn list(&mut self, no: WishNo) {
        let asked = &self.wishes[no as usize];
        if asked.class != TicketClass::Playing {
            let site = self.crowd.device(asked.slot).site;
            let site = self.crowd.site_mut(site);
            site.wishes.insert(no);
            site.planned_bytes_per_sec += asked.rate_bytes_per_sec;
        }
    }

    fn unlist(&mut self, no: WishNo) {
        let asked = &self.wishes[no as usize];
        if asked.class != TicketClass::Playing {
            let site = self.crowd.device(asked.slot).site;
            let site = self.crowd.site_mut(site);
            site.wishes.remove(&no);
            site.planned_bytes_per_sec -= asked.rate_bytes_per_sec;
        }
    }

    /// Leases are good for their full time from now on, or until the window closes.
    fn end_later(&mut self, now: Now, no: WishNo) {
        let asked = &mut self.wishes[no as usize];
        let open_for = asked.until.map_or(self.config.lease, |until| until.since(now.utc));
        let ends = now.mono + self.config.lease.min(open_for);
        self.timers.remove(&(asked.ends, Due::End(no)));
        self.timers.insert((ends, Due::End(no)));
        asked.ends = ends;
        asked.planned_at = now.mono;
    }

    fn drop_wishes(&mut self, slot: Slot) {
        for (_, wish) in self.crowd.device(slot).wishes.clone() {
            self.forget_wish(wish);
        }
    }

    fn make_room(&mut self, slot: Slot) {
        let wishes = &self.crowd.device(slot).wishes;
        if wishes.len() < MAX_WISHES_PER_DEVICE {
            return;
        }
        let oldest = wishes.iter().map(|(_, no)| *no).min_by_key(|no| self.wishes[*no as usize].planned_at);
        self.forget_wish(oldest.expect("a full list has an oldest member"));
    }

    fn withdraw(&mut self, slot: Slot, item: ItemNo) {
        if let Some(wish) = self.wish_of(slot, item) {
            self.forget_wish(wish);
        }
    }

    /// Forgets a wish and gives back what its leases had promised.
    fn forget_wish(&mut self, no: WishNo) {
        for lease in self.wishes[no as usize].leases.clone() {
            self.end_lease(lease);
        }
        self.unlist(no);
        let asked = self.wishes.remove(no as usize);
        self.timers.remove(&(asked.ends, Due::End(no)));
        if let Some(at) = asked.redraw {
            self.timers.remove(&(at, Due::Redraw(no)));
        }
        let it = self.crowd.item_mut(asked.item);
        it.wishes -= 1;
        it.missing -= u64::from(asked.missing.len());
        it.wanting.remove(&no);
        self.crowd.device_mut(asked.slot).wishes.retain(|(_, wish)| *wish != no);
        self.crowd.settle(asked.slot, asked.item);
        self.crowd.forget_idle_item(asked.item);
    }

    /// Forgets everything about an item: what was said of it was wrong.
    fn forget_item(&mut self, now: Now, item: ItemNo) {
        let nothing = Holding::empty(self.crowd.item(item).n_chunks).expect("the size of a known item");
        for slot in self.crowd.members(item).to_vec() {
            self.lose_source(now, slot, Some(item));
            self.withdraw(slot, item);
        }
        // The last one to go takes the item with it.
        while self.crowd.has_item(item)
            && let Some(&slot) = self.crowd.members(item).first()
        {
            self.crowd.hold(slot, item, &nothing);
        }
        self.crowd.forget_idle_item(item);
    }

    fn wish_of(&self, slot: Slot, item: ItemNo) -> Option<WishNo> {
        self.crowd.device(slot).wishes.iter().find(|(wanted, _)| *wanted == item).map(|(_, no)| *no)
    }

    fn lease_from(&self, wish: WishNo, source: Slot) -> Option<LeaseNo> {
        self.wishes[wish as usize].leases.iter().copied().find(|no| self.leases[*no as usize].source == source)
    }

    fn is_from_seed(&self, lease: LeaseNo) -> bool {
        self.crowd.device(self.leases[lease as usize].source).kind == DeviceKind::Seed
    }

    fn is_shunned(&self, source: Slot, now: Mono) -> bool {
        self.crowd.device(source).complaints(now) >= self.config.complainers
    }

    /// A source will send this fast to a wish.
    fn grant(&mut self, wish: WishNo, source: Slot, rate_bytes_per_sec: u64, reason: Reason) -> LeaseNo {
        let no = number_of(self.leases.insert(Granted {
            source,
            wish,
            rate_bytes_per_sec: 0,
            reason,
            portions: Vec::new(),
            arriving: false,
        }));
        self.wishes[wish as usize].leases.push(no);
        self.crowd.device_mut(source).serves.push(no);
        self.set_rate(no, rate_bytes_per_sec);
        no
    }

    /// The one place where rates are counted: against the source, for the asker, its customer and its site.
    fn set_rate(&mut self, no: LeaseNo, rate_bytes_per_sec: u64) {
        let lease = &mut self.leases[no as usize];
        let before = std::mem::replace(&mut lease.rate_bytes_per_sec, rate_bytes_per_sec);
        let (source, wish) = (lease.source, lease.wish);
        self.crowd.promise(source, &self.config, rate_bytes_per_sec, before);
        let asked = &mut self.wishes[wish as usize];
        let changed = |sum: u64| sum + rate_bytes_per_sec - before;
        asked.rate_bytes_per_sec = changed(asked.rate_bytes_per_sec);
        let asker = self.crowd.device_mut(asked.slot);
        asker.incoming_bytes_per_sec = changed(asker.incoming_bytes_per_sec);
        let (account, site) = (asker.account, asker.site);
        if asked.class != TicketClass::Playing {
            let site = self.crowd.site_mut(site);
            site.planned_bytes_per_sec = changed(site.planned_bytes_per_sec);
        }
        let total = self.accounts.entry(account).or_default();
        *total = changed(*total);
        if *total == 0 {
            self.accounts.remove(&account);
        }
    }

    fn end_lease(&mut self, no: LeaseNo) {
        self.set_rate(no, 0);
        self.set_portions(no, Vec::new(), false);
        let lease = self.leases.remove(no as usize);
        self.wishes[lease.wish as usize].leases.retain(|it| *it != no);
        self.crowd.device_mut(lease.source).serves.retain(|it| *it != no);
    }

    /// Gives a lease its portions; those of a lease that brings chunks to a site are counted there.
    fn set_portions(&mut self, no: LeaseNo, portions: Vec<Range<u32>>, arriving: bool) {
        let lease = &mut self.leases[no as usize];
        let before = std::mem::replace(&mut lease.portions, portions);
        let was_arriving = std::mem::replace(&mut lease.arriving, arriving);
        if !was_arriving && !arriving {
            return;
        }
        let asked = &self.wishes[lease.wish as usize];
        let site = self.crowd.device(asked.slot).site;
        let item = self.crowd.item_mut(asked.item);
        let n_chunks = item.n_chunks;
        let local = item.local_mut(site);
        if was_arriving {
            local.count_arriving(n_chunks, &before, -1);
        }
        if arriving {
            local.count_arriving(n_chunks, &lease.portions, 1);
        }
    }

    /// What the asker is told of its wish.
    fn answer(&mut self, now: Now, no: WishNo) -> Plan {
        let leases: Vec<Lease> = self.wishes[no as usize].leases.iter().map(|lease| self.lease(*lease)).collect();
        let waiting = leases.is_empty().then(|| self.why_waiting(now.mono, no));
        let asked = &mut self.wishes[no as usize];
        asked.told = leases.iter().fold(1, digest);
        let until = now.utc + self.config.lease;
        Plan {
            leases,
            until: asked.until.map_or(until, |closes| closes.min(until)),
            renew_after: self.config.renew_after,
            waiting,
        }
    }

    fn lease(&self, no: LeaseNo) -> Lease {
        let lease = &self.leases[no as usize];
        let source = self.crowd.device(lease.source);
        let asker = self.crowd.device(self.wishes[lease.wish as usize].slot);
        // Alone on a source, a box may find out what its uplink really gives.
        let contended = source.serves.len() > 1 && source.link.uplink_bytes_per_sec.is_some();
        let frugal = lease.reason == Reason::BoxesTooSlow;
        let planned = lease.rate_bytes_per_sec;
        let cap = match (frugal, contended) {
            (true, _) => Some(planned.saturating_add(planned / SEED_HEADROOM_DIVISOR).max(1)),
            (false, true) => Some(planned.saturating_mul(BOX_HEADROOM).max(1)),
            (false, false) => None,
        };
        Lease {
            source: source.id,
            kind: source.kind,
            same_site: source.site == asker.site,
            planned_bytes_per_sec: planned,
            rate_cap_bytes_per_sec: [cap, source.link.upload_cap_bytes_per_sec].into_iter().flatten().min(),
            portions: lease.portions.clone(),
            reason: lease.reason,
        }
    }

    fn why_waiting(&self, now: Mono, no: WishNo) -> Waiting {
        let asked = &self.wishes[no as usize];
        let asker = self.crowd.device(asked.slot);
        let site = self.crowd.site(asker.site);
        let useful = |slot: &&Slot| {
            **slot != asked.slot
                && !self.crowd.device(**slot).revoked
                && self.crowd.held(**slot, asked.item).is_some_and(|held| held.meets(&asked.missing))
        };
        let holders = || self.crowd.members(asked.item).iter().take(MAX_ASKED_WHY).filter(useful);
        if holders().next().is_none() {
            return Waiting::NobodyHoldsIt;
        }
        let mut online = holders().filter(|slot| self.crowd.device(**slot).is_online()).peekable();
        if online.peek().is_none() {
            return Waiting::HoldersAway;
        }
        let mut willing = online
            .filter(|slot| {
                let source = self.crowd.device(**slot);
                source.may_send() && source.reach.meets(asker.reach) && !asker.is_avoiding(**slot, now)
            })
            .peekable();
        if willing.peek().is_none() {
            return Waiting::HoldersNotSending;
        }
        match willing.any(|slot| site.seeds_may_send || self.crowd.device(*slot).kind == DeviceKind::Box) {
            true => Waiting::HoldersBusy,
            false => Waiting::OriginBudget,
        }
    }
}

fn number_of(index: usize) -> u32 {
    u32::try_from(index).expect("there are fewer than four billion of anything")
}

/// FNV-1a over what a device must hear of when it changes.
fn digest(mut told: u64, lease: &Lease) -> u64 {
    let mut add = |value: u64| told = (told ^ value).wrapping_mul(0x0100_0000_01b3);
    for word in lease.source.as_bytes().chunks_exact(8) {
        add(u64::from_le_bytes(word.try_into().expect("eight bytes")));
    }
    // A cap bounds what is asked; it is worth a message when it is another altogether.
    add(lease.rate_cap_bytes_per_sec.map_or(u64::MAX, |cap| u64::from(cap.max(1).ilog2())));
    if matches!(lease.reason, Reason::NotHere | Reason::OnlySeed) {
        for portion in &lease.portions {
            add(u64::from(portion.start) << 32 | u64::from(portion.end));
        }
    }
    told
}
