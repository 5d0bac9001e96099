//! Draws one plan: keeps what is still good, then looks for more, the cheapest first.
//!
//! How much a wish may have follows from everyone's: what is missing is shared out over what the boxes of the item can
//! send, so that all who fetch it finish together (the proportional rule of a planned mesh). Sources with something
//! left are drawn at random from the pool of the nearest site, which takes the same time among a hundred devices as
//! among a hundred thousand. Where nothing is left, a wish takes from those that come after it, and from customers who
//! have more, until they have alike. What no box of a site has is brought there once, over the cheapest link.

use std::cmp::Reverse;
use std::ops::Range;

use rand::RngExt as _;

use super::crowd::{ItemNo, Local, SiteNo, Slot};
use super::portions::{self, Order, Sender};
use super::{LeaseNo, Planner, Reason, WishNo};
use crate::geometry::CHUNK_BYTES;
use crate::id::AccountId;
use crate::membership::DeviceKind;
use crate::peer::chunk_set::ChunkSet;
use crate::ticket::TicketClass;
use crate::time::{Mono, Now};

/// A pool of at most this many is looked at whole: then nothing depends on luck.
const SMALL_POOL: usize = 64;

/// An asker that lacks so few chunks looks for their holders one by one.
const LAST_CHUNKS: u32 = 32;

/// Devices of the same customer that are looked at before others.
const MAX_HOME: usize = 8;

/// Other sites that one plan looks at.
const MAX_SITES: usize = 16;

/// Busy sources among which something is taken from others.
const BUSY_LOOKED_AT: usize = 8;

/// Leases of one busy source that are looked at.
const VICTIMS_LOOKED_AT: usize = 8;

/// A lease that brings chunks to a site has at least so many, so that it is worth its connection.
const LEAST_BROUGHT: u64 = 4;

/// A chunk with so many holders at a site is not rare there: no plan has to care for it. More than a small pool has.
const PLENTY: u32 = 2 * SMALL_POOL as u32;

/// Part of what a wish may have below which nothing is changed for it: a plan that is nearly right stays.
const NEARLY_DIVISOR: u64 = 8;

/// Where to look for a source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pool {
    Free,
    Busy,
    Seeds,
}

/// One drawing: who asks, for what, and how much is still to be found.
#[derive(Debug)]
struct Draw {
    wish: WishNo,
    slot: Slot,
    item: ItemNo,
    site: SiteNo,
    account: AccountId,
    class: TicketClass,
    rank: u32,
    missing: ChunkSet,
    want_bytes_per_sec: u64,
    /// Sources that others complain about are looked at too.
    last_resort: bool,
    /// Seeds that sent until now, and are asked before others if one is needed again.
    seeds_before: Vec<Slot>,
    now: Mono,
}

impl Planner {
    /// Draws the plan of a wish.
    pub(super) fn draw(&mut self, now: Now, wish: WishNo) {
        let asked = &mut self.wishes[wish as usize];
        let (slot, item, class, rank) = (asked.slot, asked.item, asked.class, asked.rank);
        let missing = std::mem::replace(&mut asked.missing, ChunkSet::empty(0));
        let closed = asked.until.is_some_and(|until| until <= now.utc);
        let asker = self.crowd.device(slot);
        let (site, account) = (asker.site, asker.account);
        let mut draw = Draw {
            wish,
            slot,
            item,
            site,
            account,
            class,
            rank,
            missing,
            want_bytes_per_sec: 0,
            last_resort: false,
            seeds_before: Vec::new(),
            now: now.mono,
        };
        draw.seeds_before = self.prune(&draw);
        if !closed {
            draw.want_bytes_per_sec = self.entitlement(&draw);
        }
        self.trim(&draw);
        if draw.want_bytes_per_sec > 0 {
            self.look_near(&draw);
            self.bring(&draw);
            self.look_far(&draw);
            self.look_for_last_holders(&mut draw);
        }
        self.share_out(&draw);
        let covered = self.covered(&draw);
        let wanting = covered.len() < draw.missing.len();
        let it = self.crowd.item_mut(item);
        match wanting {
            true => it.wanting.insert(wish),
            false => it.wanting.remove(&wish),
        };
        self.wishes[wish as usize].missing = draw.missing;
    }

    /// Ends leases that are of no use any more, and those of seeds that only help out: whether they are still needed
    /// is seen when the boxes have been asked. Answers the seeds.
    fn prune(&mut self, draw: &Draw) -> Vec<Slot> {
        let mut seeds = Vec::new();
        for lease in self.wishes[draw.wish as usize].leases.clone() {
            let granted = &self.leases[lease as usize];
            let shunned = (granted.reason != Reason::LastResort) == self.is_shunned(granted.source, draw.now);
            let seeds_may_send = self.crowd.site(draw.site).seeds_may_send;
            let forbidden = !seeds_may_send && self.is_from_seed(lease);
            let granted = &self.leases[lease as usize];
            let source = granted.source;
            let is_spent = granted.arriving && self.still_brought(draw, lease).is_empty();
            let helps_out = !granted.arriving && self.is_from_seed(lease);
            if helps_out {
                seeds.push(source);
            }
            let useless = !self.may_meet(draw, source) || !self.is_useful(draw, source);
            if is_spent || helps_out || shunned || forbidden || useless {
                self.end_lease(lease);
            }
        }
        seeds
    }

    /// What the wish may have in all.
    fn entitlement(&mut self, draw: &Draw) -> u64 {
        let config = &self.config;
        let it = self.crowd.item(draw.item);
        let mine = u128::from(draw.missing.len());
        let share = u128::from(it.uplink_bytes_per_sec) * mine / u128::from(it.missing.max(1));
        let enough = match draw.class {
            TicketClass::Playing => config.enough_playing_bytes_per_sec,
            TicketClass::Queued | TicketClass::Preload => config.enough_bytes_per_sec,
        };
        let want = u64::try_from(share).unwrap_or(u64::MAX).max(enough);
        let downlink = self.crowd.device(draw.slot).link.downlink_bytes_per_sec.unwrap_or(u64::MAX);
        let left = downlink.saturating_sub(self.give_way(draw, downlink));
        let want = want.min(left);
        if draw.class == TicketClass::Playing {
            return want;
        }
        want.min(self.fits_into_site(draw))
    }

    /// What the asker's wishes before this one are being sent. Those after it make room for it.
    fn give_way(&mut self, draw: &Draw, downlink: u64) -> u64 {
        let mut before = 0;
        let mut after: Vec<WishNo> = Vec::new();
        for (_, other) in &self.crowd.device(draw.slot).wishes {
            let asked = &self.wishes[*other as usize];
            if *other == draw.wish {
                continue;
            }
            match (asked.class, asked.rank) < (draw.class, draw.rank) {
                true => before += asked.rate_bytes_per_sec,
                false => after.push(*other),
            }
        }
        let left = downlink.saturating_sub(before);
        for other in after {
            let incoming = self.crowd.device(draw.slot).incoming_bytes_per_sec - before;
            let mine = self.wishes[draw.wish as usize].rate_bytes_per_sec;
            let wanted = self.config.lease_bytes_per_sec.min(left);
            if incoming.saturating_sub(mine) + wanted.max(mine) <= left {
                break;
            }
            for lease in self.wishes[other as usize].leases.clone() {
                self.end_lease(lease);
            }
            self.redraw_soon(draw.now, other);
        }
        before
    }

    /// What the site has left for the wish; where everything is taken, whoever has more than its share is drawn anew.
    fn fits_into_site(&mut self, draw: &Draw) -> u64 {
        let site = self.crowd.site(draw.site);
        let Some(inbound) = site.inbound_bytes_per_sec else { return u64::MAX };
        let mine = self.wishes[draw.wish as usize].rate_bytes_per_sec;
        let left = inbound.saturating_sub(site.planned_bytes_per_sec - mine);
        let share = inbound / site.wishes.len().max(1) as u64;
        let fair = match left < share {
            true => {
                let rich: Vec<WishNo> = site
                    .wishes
                    .iter()
                    .copied()
                    .filter(|no| self.wishes[*no as usize].rate_bytes_per_sec > share)
                    .take(VICTIMS_LOOKED_AT)
                    .collect();
                for no in rich {
                    self.shrink(no, share);
                    self.redraw_soon(draw.now, no);
                }
                share
            }
            // Nobody takes more than half of what others would need for their share.
            false => share.max(left / 2),
        };
        // Among the rich may have been this wish itself.
        let mine = self.wishes[draw.wish as usize].rate_bytes_per_sec;
        let site = self.crowd.site(draw.site);
        fair.min(inbound.saturating_sub(site.planned_bytes_per_sec - mine))
    }

    /// Gives back what is beyond what the wish may have.
    fn trim(&mut self, draw: &Draw) {
        let bound = draw.want_bytes_per_sec;
        let rate = self.wishes[draw.wish as usize].rate_bytes_per_sec;
        let is_nearly_right =
            rate.saturating_sub(bound) <= (bound / NEARLY_DIVISOR).min(self.config.lease_bytes_per_sec);
        let hard = self.crowd.device(draw.slot).link.downlink_bytes_per_sec.is_some_and(|downlink| rate > downlink)
            || self.crowd.site(draw.site).inbound_bytes_per_sec.is_some();
        if rate > bound && (hard || !is_nearly_right) {
            self.shrink(draw.wish, bound);
        }
    }

    /// Lets a wish have no more than this: those from seeds go first, then those that came last.
    fn shrink(&mut self, wish: WishNo, bound: u64) {
        let mut leases: Vec<LeaseNo> = self.wishes[wish as usize].leases.iter().rev().copied().collect();
        leases.sort_by_key(|lease| !self.is_from_seed(*lease));
        for lease in leases {
            let over = self.wishes[wish as usize].rate_bytes_per_sec.saturating_sub(bound);
            if over == 0 {
                return;
            }
            let rate = self.leases[lease as usize].rate_bytes_per_sec;
            match rate > over {
                true => self.set_rate(lease, rate - over),
                false => self.end_lease(lease),
            }
        }
    }

    /// Boxes of the same home and the same site.
    fn look_near(&mut self, draw: &Draw) {
        let home = self.crowd.home_of(draw.slot, MAX_HOME);
        let here = home.into_iter().filter(|slot| self.crowd.is_sending(*slot, draw.item));
        let here: Vec<Slot> = here.filter(|slot| self.crowd.device(*slot).kind == DeviceKind::Box).collect();
        self.take_from(draw, here, draw.want_bytes_per_sec, Reason::SameHome);
        if self.lacks(draw, draw.want_bytes_per_sec) == 0 {
            return;
        }
        let drawn = self.sample(draw, draw.site, Pool::Free);
        self.take_from(draw, drawn, draw.want_bytes_per_sec, Reason::SameSite);
        self.grow(draw, draw.want_bytes_per_sec);
        if draw.class != TicketClass::Preload && self.lacks(draw, draw.want_bytes_per_sec) > 0 {
            let busy = self.sample(draw, draw.site, Pool::Busy);
            self.take_from_others(draw, busy, draw.want_bytes_per_sec, Reason::SameSite);
        }
    }

    /// What no box of the site has, and none is about to get, comes from elsewhere: the cheapest site first, then seeds.
    fn bring(&mut self, draw: &Draw) {
        let mut scarce = draw.missing.clone();
        scarce.subtract(&self.covered_here(draw));
        for lease in self.wishes[draw.wish as usize].leases.clone() {
            // What this wish brings already it goes on bringing.
            let lease = &self.leases[lease as usize];
            if lease.arriving {
                for chunk in lease.portions.iter().cloned().flatten() {
                    scarce.remove(chunk);
                }
            }
        }
        let bringing = self.wishes[draw.wish as usize].leases.iter().filter(|no| self.leases[**no as usize].arriving);
        let bringing: u64 = bringing.map(|no| self.leases[*no as usize].rate_bytes_per_sec).sum();
        if scarce.is_empty()
            && bringing == 0
            && !self.crowd.item(draw.item).local(draw.site).is_some_and(Local::has_copy)
        {
            scarce = self.take_hoarded(draw);
        }
        if scarce.is_empty() {
            return;
        }
        let alone = self.wishes[draw.wish as usize].leases.is_empty();
        for site in self.other_sites(draw) {
            let drawn = self.sample(draw, site, Pool::Free);
            self.bring_from(draw, drawn, &mut scarce, Reason::NotHere);
            if scarce.is_empty() || self.is_full(draw) {
                return;
            }
        }
        if !self.crowd.site(draw.site).seeds_may_send {
            return;
        }
        if bringing > self.config.lease_bytes_per_sec * 2 && !alone {
            return;
        }
        let reason = if alone && self.has_no_boxes(draw) { Reason::NoBoxes } else { Reason::OnlySeed };
        let seeds = self.seeds_nearest_first(draw);
        self.bring_from(draw, seeds, &mut scarce, reason);
    }

    /// Boxes elsewhere, then seeds, while those that are near do not give enough.
    fn look_far(&mut self, draw: &Draw) {
        let enough = match draw.class {
            TicketClass::Playing => self.config.enough_playing_bytes_per_sec,
            TicketClass::Queued | TicketClass::Preload => self.config.enough_bytes_per_sec,
        };
        let enough = enough.min(draw.want_bytes_per_sec);
        if self.lacks(draw, enough) == 0 {
            return;
        }
        for site in self.other_sites(draw) {
            let drawn = self.sample(draw, site, Pool::Free);
            self.take_from(draw, drawn, enough, Reason::Elsewhere);
        }
        if self.lacks(draw, enough) == 0 || !self.crowd.site(draw.site).seeds_may_send {
            return;
        }
        let taken = self.wishes[draw.wish as usize].leases.iter().filter(|no| self.is_from_seed(**no)).count();
        let mut seeds = self.seeds_nearest_first(draw);
        seeds.retain(|slot| self.suits(draw, *slot));
        seeds.truncate(self.config.max_seeds.saturating_sub(taken));
        let reason = if self.has_no_boxes(draw) { Reason::NoBoxes } else { Reason::BoxesTooSlow };
        self.take_from(draw, seeds.clone(), enough, reason);
        self.grow(draw, enough);
        if draw.class != TicketClass::Preload {
            self.take_from_others(draw, seeds, enough, reason);
        }
    }

    /// For chunks that only few have, and when nobody else is left, everyone who could send is looked at.
    fn look_for_last_holders(&mut self, draw: &mut Draw) {
        let mut uncovered = draw.missing.clone();
        uncovered.subtract(&self.covered(draw));
        self.leave_plentiful(draw, &mut uncovered);
        if uncovered.is_empty() {
            return;
        }
        let sites = std::iter::once(draw.site).chain(self.other_sites(draw));
        let sites: Vec<SiteNo> = sites.collect();
        for last_resort in [false, true] {
            draw.last_resort = last_resort;
            for &site in &sites {
                let is_small = self.crowd.item(draw.item).local(site).is_some_and(|it| size_of(it) <= SMALL_POOL);
                if !is_small && uncovered.len() > LAST_CHUNKS {
                    continue;
                }
                let boxes = self.boxes_of(draw, site);
                let reason = if site == draw.site { Reason::SameSite } else { Reason::NotHere };
                self.cover_from(draw, boxes, &mut uncovered, if last_resort { Reason::LastResort } else { reason });
            }
            if self.crowd.site(draw.site).seeds_may_send {
                let seeds = self.seeds_nearest_first(draw);
                let reason = if last_resort { Reason::LastResort } else { Reason::OnlySeed };
                if draw.class != TicketClass::Playing && !last_resort {
                    // Whoever holds it here, or is about to, will pass it on.
                    uncovered.subtract(&self.covered_here(draw));
                }
                self.cover_from(draw, seeds, &mut uncovered, reason);
            }
            if uncovered.is_empty() {
                break;
            }
        }
        draw.last_resort = false;
    }

    /// Takes out what so many hold at the asker's site that some source will have it sooner or later.
    fn leave_plentiful(&self, draw: &Draw, chunks: &mut ChunkSet) {
        let Some(local) = self.crowd.item(draw.item).local(draw.site) else { return };
        if draw.class == TicketClass::Playing || size_of(local) <= SMALL_POOL {
            return;
        }
        if local.fewest_holders() >= PLENTY {
            *chunks = ChunkSet::empty(chunks.width());
            return;
        }
        let plentiful: Vec<u32> = chunks.iter().filter(|chunk| local.holders(*chunk) >= PLENTY).collect();
        for chunk in plentiful {
            chunks.remove(chunk);
        }
    }

    /// Takes whoever holds most of what nobody chosen so far holds, until nothing is left that one of these holds.
    fn cover_from(&mut self, draw: &Draw, mut from: Vec<Slot>, uncovered: &mut ChunkSet, reason: Reason) {
        while !uncovered.is_empty() && !self.is_full(draw) {
            from.retain(|slot| self.suits(draw, *slot));
            let overlap = |slot: Slot| self.crowd.held(slot, draw.item).map_or(0, |held| held.shared(uncovered));
            let shunned = |slot: Slot| self.is_shunned(slot, draw.now);
            let best = from.iter().copied().filter(|slot| !draw.last_resort || shunned(*slot)).max_by_key(|slot| {
                let known = self.crowd.device(*slot);
                (overlap(*slot), known.free_bytes_per_sec(), Reverse(*slot))
            });
            let Some(best) = best.filter(|slot| overlap(*slot) > 0) else { return };
            from.retain(|slot| *slot != best);
            let rate = self.config.lease_bytes_per_sec.min(draw.want_bytes_per_sec);
            let rate = rate.min(self.cap_of(draw)).min(self.link_left(draw));
            if rate == 0 {
                return;
            }
            let free = self.crowd.device(best).free_bytes_per_sec();
            if self.has_room(best) && free > 0 {
                self.grant(draw.wish, best, free.min(rate), reason);
            } else if self.take_from_others_at(draw, best, rate, reason) == 0 {
                continue;
            }
            let held = self.crowd.held(best, draw.item).expect("it was chosen for what it holds").of(uncovered);
            uncovered.subtract(&held);
        }
    }

    /// Leases from these, in this order, until the wish has this much: first from those that have something now.
    fn take_from(&mut self, draw: &Draw, mut from: Vec<Slot>, until: u64, reason: Reason) {
        let places = self.config.max_sources;
        if self.lacks(draw, until) == 0 || self.wishes[draw.wish as usize].leases.len() >= places {
            return;
        }
        let (having, fetching): (Vec<Slot>, Vec<Slot>) =
            from.drain(..).partition(|source| self.has_some(draw, *source));
        for source in having.into_iter().chain(fetching) {
            let taken = self.wishes[draw.wish as usize].leases.len();
            let lacking = self.lacks(draw, until);
            if lacking == 0 || taken >= places {
                return;
            }
            if !self.has_room(source) || !self.suits(draw, source) {
                continue;
            }
            let each = lacking / (places - taken) as u64;
            let free = self.crowd.device(source).free_bytes_per_sec();
            if free == 0 {
                continue;
            }
            let rate = free.min(each.max(self.config.lease_bytes_per_sec)).min(lacking);
            self.grant(draw.wish, source, rate, reason);
        }
    }

    /// Lets the sources that are there give more.
    fn grow(&mut self, draw: &Draw, until: u64) {
        for lease in self.wishes[draw.wish as usize].leases.clone() {
            let lacking = self.lacks(draw, until);
            if lacking == 0 {
                return;
            }
            let (source, rate) = (self.leases[lease as usize].source, self.leases[lease as usize].rate_bytes_per_sec);
            let free = self.crowd.device(source).free_bytes_per_sec();
            if free > 0 {
                self.set_rate(lease, rate + free.min(lacking));
            }
        }
    }

    /// Takes from wishes that come later, or from customers that have more, at sources that have nothing left.
    fn take_from_others(&mut self, draw: &Draw, busy: Vec<Slot>, until: u64, reason: Reason) {
        for source in busy.into_iter().take(BUSY_LOOKED_AT) {
            let lacking = self.lacks(draw, until);
            if lacking == 0 {
                return;
            }
            let full = self.wishes[draw.wish as usize].leases.len() >= self.config.max_sources;
            let known = self.lease_from(draw.wish, source).is_some();
            if known || (!full && self.suits(draw, source)) {
                self.take_from_others_at(draw, source, lacking, reason);
            }
        }
    }

    /// The exchange of max-min fairness: nobody is left with less than who took it. Answers what was taken.
    fn take_from_others_at(&mut self, draw: &Draw, source: Slot, rate: u64, reason: Reason) -> u64 {
        let serves = &self.crowd.device(source).serves;
        let n = serves.len();
        if n == 0 {
            return 0;
        }
        let from = self.rng.random_range(0..n);
        let looked_at = (0..n.min(VICTIMS_LOOKED_AT)).map(|at| serves[(from + at) % n]);
        let best = looked_at.map(|lease| (self.may_take(draw, lease), lease)).max();
        let Some((most, lease)) = best else { return 0 };
        let taken = most.min(rate);
        if taken == 0 {
            return 0;
        }
        let (victim, had) = (self.leases[lease as usize].wish, self.leases[lease as usize].rate_bytes_per_sec);
        match had > taken {
            true => self.set_rate(lease, had - taken),
            false => self.end_lease(lease),
        }
        self.redraw_soon(draw.now, victim);
        match self.lease_from(draw.wish, source) {
            Some(mine) => {
                let had = self.leases[mine as usize].rate_bytes_per_sec;
                self.set_rate(mine, had + taken);
            }
            None => drop(self.grant(draw.wish, source, taken, reason)),
        }
        taken
    }

    /// How much of a lease this wish may take.
    fn may_take(&self, draw: &Draw, lease: LeaseNo) -> u64 {
        let lease = &self.leases[lease as usize];
        let victim = &self.wishes[lease.wish as usize];
        if lease.wish == draw.wish {
            return 0;
        }
        let theirs = self.crowd.device(victim.slot).account;
        let later = match victim.class == draw.class {
            true => theirs == draw.account && victim.rank > draw.rank,
            false => victim.class > draw.class,
        };
        if later {
            return lease.rate_bytes_per_sec;
        }
        if victim.class < draw.class || (theirs == draw.account && victim.rank < draw.rank) {
            return 0;
        }
        let (mine, theirs) = match theirs == draw.account {
            true => (self.wishes[draw.wish as usize].rate_bytes_per_sec, victim.rate_bytes_per_sec),
            false => (self.account_total(&draw.account), self.account_total(&theirs)),
        };
        let fair = theirs.saturating_sub(mine) / 2;
        let least = self.config.least_bytes_per_sec / 2;
        let taken = fair.min(lease.rate_bytes_per_sec);
        let leaves_enough = taken == lease.rate_bytes_per_sec || lease.rate_bytes_per_sec - taken >= least;
        if taken >= least && leaves_enough { taken } else { 0 }
    }

    /// Leases that bring scarce chunks, each with as many as it will send until plans have been renewed.
    fn bring_from(&mut self, draw: &Draw, from: Vec<Slot>, scarce: &mut ChunkSet, reason: Reason) {
        for source in from {
            if scarce.is_empty() || self.is_full(draw) {
                return;
            }
            let Some(held) = self.crowd.held(source, draw.item) else { continue };
            let mut chunks = held.of(scarce);
            if chunks.is_empty() {
                continue;
            }
            let lease = match self.lease_from(draw.wish, source) {
                Some(lease) => lease,
                None if !self.suits(draw, source) => continue,
                None => {
                    let wanted = match reason {
                        // Nobody else sends anything: as fast as it goes.
                        Reason::NoBoxes => self.config.unknown_seed_bytes_per_sec.max(draw.want_bytes_per_sec),
                        _ => self.lacks(draw, draw.want_bytes_per_sec).max(self.config.lease_bytes_per_sec),
                    };
                    let wanted = wanted.min(self.link_left(draw)).min(self.cap_of(draw));
                    let free = self.crowd.device(source).free_bytes_per_sec();
                    if self.has_room(source) && free > 0 && wanted > 0 {
                        self.grant(draw.wish, source, free.min(wanted), reason)
                    } else if draw.class != TicketClass::Preload
                        && self.take_from_others_at(draw, source, wanted, reason) > 0
                    {
                        self.lease_from(draw.wish, source).expect("it was just granted")
                    } else {
                        continue;
                    }
                }
            };
            let granted = &self.leases[lease as usize];
            let carries = if granted.arriving { carried(&granted.portions) } else { 0 };
            let budget = self.brings_soon(lease).saturating_sub(carries);
            if reason != Reason::NoBoxes || self.crowd.item(draw.item).wishes > 1 {
                self.keep_some(draw, &mut chunks, budget);
            }
            let granted = &self.leases[lease as usize];
            let mut portions = if granted.arriving { granted.portions.clone() } else { Vec::new() };
            scarce.subtract(&chunks);
            portions.extend(chunks.ranges());
            self.set_portions(lease, portions, true);
        }
    }

    /// Whoever was first and alone was given everything to bring; when others come it keeps what it can bring soon.
    fn take_hoarded(&mut self, draw: &Draw) -> ChunkSet {
        let mut freed = ChunkSet::empty(draw.missing.width());
        let seeds = self.seeds_nearest_first(draw);
        let served = seeds.iter().flat_map(|seed| self.crowd.device(*seed).serves.iter().rev().take(VICTIMS_LOOKED_AT));
        let hoards: Vec<LeaseNo> = served.copied().filter(|no| self.is_hoard(draw, *no)).collect();
        for lease in hoards {
            let granted = &self.leases[lease as usize];
            let mut kept = ChunkSet::from_ranges(draw.missing.width(), granted.portions.iter().cloned());
            let all = kept.clone();
            let (wish, budget) = (granted.wish, self.brings_soon(lease));
            self.keep_some(draw, &mut kept, budget);
            let mut rest = all;
            rest.subtract(&kept);
            rest.keep(&draw.missing);
            freed.add(&rest);
            self.set_portions(lease, kept.ranges(), true);
            self.redraw_soon(draw.now, wish);
        }
        freed
    }

    fn is_hoard(&self, draw: &Draw, lease: LeaseNo) -> bool {
        let granted = &self.leases[lease as usize];
        let same_item = self.wishes[granted.wish as usize].item == draw.item;
        same_item
            && granted.wish != draw.wish
            && granted.arriving
            && carried(&granted.portions) > self.brings_soon(lease)
    }

    /// Chunks that a lease will send until plans have been renewed, with something to spare.
    fn brings_soon(&self, lease: LeaseNo) -> u64 {
        let secs = (self.config.renew_after + self.config.renew_after / 2).as_secs().max(1);
        (self.leases[lease as usize].rate_bytes_per_sec * secs / CHUNK_BYTES).max(LEAST_BROUGHT)
    }

    /// Keeps as many chunks as fit: those that are watched next, or a stretch that begins anywhere.
    fn keep_some(&mut self, draw: &Draw, chunks: &mut ChunkSet, at_most: u64) {
        let at_most = u32::try_from(at_most).unwrap_or(u32::MAX);
        if chunks.len() <= at_most {
            return;
        }
        let skip = match draw.class {
            TicketClass::Playing => 0,
            TicketClass::Queued | TicketClass::Preload => self.rng.random_range(0..chunks.len()),
        };
        let all: Vec<u32> = chunks.iter().collect();
        let kept = all.iter().cycle().skip(skip as usize).take(at_most as usize);
        let mut some = ChunkSet::empty(chunks.width());
        for chunk in kept {
            some.insert(*chunk);
        }
        *chunks = some;
    }

    /// Tells the sources that are not there for certain chunks which to send first.
    fn share_out(&mut self, draw: &Draw) {
        let leases = self.wishes[draw.wish as usize].leases.clone();
        let mut left = draw.missing.clone();
        let mut senders = Vec::new();
        let mut sharing = Vec::new();
        for lease in leases {
            let granted = &self.leases[lease as usize];
            if granted.arriving {
                // What has arrived meanwhile is not brought again.
                let mine = self.still_brought(draw, lease);
                if u64::from(mine.len()) < carried(&granted.portions) {
                    let kept = granted.portions.iter().cloned().flat_map(|run| clip(run, &mine)).collect();
                    self.set_portions(lease, kept, true);
                }
                left.subtract(&mine);
            }
        }
        let nothing_is_rare = self.nothing_is_rare(draw);
        for lease in self.wishes[draw.wish as usize].leases.clone() {
            let granted = &self.leases[lease as usize];
            if !granted.arriving && nothing_is_rare {
                self.set_portions(lease, Vec::new(), false);
            } else if !granted.arriving {
                let held = self.crowd.held(granted.source, draw.item);
                let chunks = held.map_or_else(|| ChunkSet::empty(left.width()), |held| held.of(&left));
                senders.push(Sender { rate_bytes_per_sec: granted.rate_bytes_per_sec, chunks });
                sharing.push(lease);
            }
        }
        if sharing.is_empty() {
            return;
        }
        let n_chunks = draw.missing.width();
        let order = match draw.class {
            TicketClass::Playing => Order::Playing,
            TicketClass::Queued | TicketClass::Preload => {
                Order::RarestFirst { from: self.rng.random_range(0..n_chunks) }
            }
        };
        let it = self.crowd.item(draw.item);
        // Whoever holds everything makes no chunk rarer than another.
        let locals: Vec<&Local> = it.locals().filter(|local| local.has_parts()).collect();
        let holders = |chunk: u32| locals.iter().map(|local| local.holders(chunk)).sum();
        let portions = portions::split(&senders, n_chunks, holders, order);
        for (lease, portions) in sharing.into_iter().zip(portions) {
            self.set_portions(lease, portions, false);
        }
    }

    /// Whether each source may as well be asked for whatever it has: every chunk has many holders near.
    fn nothing_is_rare(&self, draw: &Draw) -> bool {
        let local = self.crowd.item(draw.item).local(draw.site);
        draw.class != TicketClass::Playing && local.is_some_and(|local| local.fewest_holders() >= PLENTY)
    }

    /// What a lease is to bring and has not brought yet.
    fn still_brought(&self, draw: &Draw, lease: LeaseNo) -> ChunkSet {
        let granted = &self.leases[lease as usize];
        let mut chunks = ChunkSet::from_ranges(draw.missing.width(), granted.portions.iter().cloned());
        chunks.keep(&draw.missing);
        match self.crowd.held(granted.source, draw.item) {
            Some(held) => held.of(&chunks),
            None => ChunkSet::empty(chunks.width()),
        }
    }

    /// Missing chunks that some source of the plan holds or that are on their way to the site.
    fn covered(&self, draw: &Draw) -> ChunkSet {
        let mut covered = ChunkSet::empty(draw.missing.width());
        for lease in &self.wishes[draw.wish as usize].leases {
            let source = self.leases[*lease as usize].source;
            if let Some(held) = self.crowd.held(source, draw.item) {
                covered.add(&held.of(&draw.missing));
            }
        }
        if draw.class != TicketClass::Playing
            && let Some(local) = self.crowd.item(draw.item).local(draw.site)
        {
            local.coming().into_iter().for_each(|coming| covered.add(coming));
            covered.keep(&draw.missing);
        }
        covered
    }

    /// Missing chunks that boxes of the asker's site hold or, unless somebody watches, are about to get.
    fn covered_here(&self, draw: &Draw) -> ChunkSet {
        let mut covered = ChunkSet::empty(draw.missing.width());
        let Some(local) = self.crowd.item(draw.item).local(draw.site) else { return covered };
        let is_small = size_of(local) <= SMALL_POOL;
        if is_small {
            for slot in local.free.iter().chain(&local.busy) {
                if self.may_meet(draw, *slot)
                    && !self.is_shunned(*slot, draw.now)
                    && let Some(held) = self.crowd.held(*slot, draw.item)
                {
                    covered.add(&held.of(&draw.missing));
                }
            }
        } else if local.has_copy() {
            return draw.missing.clone();
        }
        if !is_small {
            local.present().into_iter().for_each(|present| covered.add(present));
        }
        if draw.class != TicketClass::Playing {
            local.coming().into_iter().for_each(|coming| covered.add(coming));
        }
        covered.keep(&draw.missing);
        covered
    }

    /// Sources to look at: all of a small pool, those with most to give first; some of a large one.
    fn sample(&mut self, draw: &Draw, site: SiteNo, pool: Pool) -> Vec<Slot> {
        let Some(local) = self.crowd.item(draw.item).local(site) else { return Vec::new() };
        let list = match pool {
            Pool::Free => &local.free,
            Pool::Busy => &local.busy,
            Pool::Seeds => &local.seeds,
        };
        if list.len() > SMALL_POOL {
            let draws = 3 * self.config.max_sources + 8;
            return (0..draws).map(|_| list[self.rng.random_range(0..list.len())]).collect();
        }
        let mut all: Vec<(Reverse<u64>, u32, Slot)> = list
            .iter()
            .map(|slot| (Reverse(self.crowd.device(*slot).free_bytes_per_sec()), self.rng.random(), *slot))
            .collect();
        all.sort_unstable();
        all.into_iter().map(|(.., slot)| slot).collect()
    }

    fn boxes_of(&mut self, draw: &Draw, site: SiteNo) -> Vec<Slot> {
        let Some(local) = self.crowd.item(draw.item).local(site) else { return Vec::new() };
        let all = local.free.len() + local.busy.len();
        let from = self.rng.random_range(0..all.max(1));
        let at = |at: usize| local.free.get(at).copied().unwrap_or_else(|| local.busy[at - local.free.len()]);
        (0..all.min(SMALL_POOL * 4)).map(|step| at((from + step) % all)).collect()
    }

    fn seeds_nearest_first(&mut self, draw: &Draw) -> Vec<Slot> {
        let sites: Vec<SiteNo> = std::iter::once(draw.site).chain(self.other_sites(draw)).collect();
        let mut seeds: Vec<Slot> = sites.into_iter().flat_map(|site| self.sample(draw, site, Pool::Seeds)).collect();
        seeds.sort_by_key(|seed| !draw.seeds_before.contains(seed));
        seeds.truncate(SMALL_POOL);
        seeds
    }

    /// Other sites with a part in the item, the cheapest first.
    fn other_sites(&self, draw: &Draw) -> Vec<SiteNo> {
        let costs = &self.crowd.site(draw.site).costs;
        let cost = |site: &SiteNo| costs.get(site).copied().unwrap_or(self.config.cost_between_sites);
        let mut sites: Vec<SiteNo> = self.crowd.item(draw.item).sites().filter(|site| *site != draw.site).collect();
        sites.sort_by_key(cost);
        sites.truncate(MAX_SITES);
        sites
    }

    /// Whether a source is one that could be added.
    fn suits(&self, draw: &Draw, source: Slot) -> bool {
        self.may_meet(draw, source)
            && (draw.last_resort || !self.is_shunned(source, draw.now))
            && self.is_useful(draw, source)
            && self.lease_from(draw.wish, source).is_none()
    }

    fn may_meet(&self, draw: &Draw, source: Slot) -> bool {
        let (asker, known) = (self.crowd.device(draw.slot), self.crowd.device(source));
        source != draw.slot
            && known.may_send()
            && known.reach.meets(asker.reach)
            && !asker.is_avoiding(source, draw.now)
    }

    /// It has something that is missing, or is being sent something that it will pass on. A viewer does not wait for
    /// what others may get.
    fn is_useful(&self, draw: &Draw, source: Slot) -> bool {
        let is_fetching = |wish: WishNo| !self.wishes[wish as usize].leases.is_empty();
        self.has_some(draw, source)
            || (draw.class != TicketClass::Playing && self.wish_of(source, draw.item).is_some_and(is_fetching))
    }

    fn has_some(&self, draw: &Draw, source: Slot) -> bool {
        self.crowd.held(source, draw.item).is_some_and(|held| held.meets(&draw.missing))
    }

    fn has_no_boxes(&self, draw: &Draw) -> bool {
        self.wishes[draw.wish as usize].leases.iter().all(|no| self.is_from_seed(*no))
    }

    fn has_room(&self, source: Slot) -> bool {
        let known = self.crowd.device(source);
        known.promised_bytes_per_sec == 0 || known.free_bytes_per_sec() >= self.config.least_bytes_per_sec
    }

    fn is_full(&self, draw: &Draw) -> bool {
        self.wishes[draw.wish as usize].leases.len() >= self.config.max_leases
    }

    /// How much the wish lacks of this, unless it is nearly there.
    fn lacks(&self, draw: &Draw, until: u64) -> u64 {
        let lacking = until.saturating_sub(self.wishes[draw.wish as usize].rate_bytes_per_sec);
        if lacking <= until / NEARLY_DIVISOR / 4 { 0 } else { lacking }
    }

    /// What the asker's link still takes. Never nothing: a chunk that only one source has is worth a little of it.
    fn link_left(&self, draw: &Draw) -> u64 {
        let asker = self.crowd.device(draw.slot);
        let downlink = asker.link.downlink_bytes_per_sec.unwrap_or(u64::MAX);
        downlink.saturating_sub(asker.incoming_bytes_per_sec).max(self.config.least_bytes_per_sec)
    }

    /// The most that one more lease may add without breaking the bound of the site.
    fn cap_of(&self, draw: &Draw) -> u64 {
        let site = self.crowd.site(draw.site);
        match (draw.class, site.inbound_bytes_per_sec) {
            (TicketClass::Playing, _) | (_, None) => u64::MAX,
            (_, Some(inbound)) => inbound.saturating_sub(site.planned_bytes_per_sec),
        }
    }
}

fn carried(portions: &[Range<u32>]) -> u64 {
    portions.iter().map(|portion| u64::from(portion.end - portion.start)).sum()
}

fn size_of(local: &Local) -> usize {
    local.free.len() + local.busy.len()
}

/// The parts of a run that are in the set, in order.
fn clip(run: Range<u32>, kept: &ChunkSet) -> Vec<Range<u32>> {
    let mut parts: Vec<Range<u32>> = Vec::new();
    for chunk in run.filter(|chunk| kept.contains(*chunk)) {
        match parts.last_mut() {
            Some(last) if last.end == chunk => last.end += 1,
            _ => parts.push(chunk..chunk + 1),
        }
    }
    parts
}
