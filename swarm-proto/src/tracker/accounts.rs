//! Counts what has travelled: how much from boxes and how much from seeds, where, when, and of which item.
//!
//! Receivers' words make the totals, since they have verified what they count; senders' words are held against them.
//! Both ends report on their own, so a pair is compared when it has been quiet for a while, with room for what was in
//! flight or lost in a crash. Who says more than its counterpart is listed for people to look at and nothing else: a
//! report alone bans nobody. Old hours, and quiet pairs, are forgotten.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::id::{DeviceId, ItemId, SiteId};
use crate::time::{Mono, Now, Utc};

const HOUR_SECS: u64 = 3_600;
const DAY_SECS: u64 = 24 * HOUR_SECS;

/// Hours that are kept one by one: a week, and the day that is compared with it.
pub const HOURS_KEPT: u64 = 8 * 24;

/// Days that are kept: a year, and the month that is compared with it.
pub const DAYS_KEPT: u64 = 400;

/// Days for which each item has its own sums.
pub const ITEM_DAYS_KEPT: u64 = 40;

/// Sums that are kept at most: far above a thousand sites and ten thousand items.
const SLOTS_MAX: usize = 1_000_000;

/// A pair that has said nothing for this long is compared for the last time.
const QUIET: Duration = Duration::from_secs(600);

/// Pairs that are compared at a time. Those beyond are counted in the totals and not compared.
const PAIRS_MAX: usize = 200_000;

/// Differences up to this are what was in flight, or lost with a process that was killed.
const TOLERANCE_BYTES: u64 = 32 << 20;

/// And this part of what was sent, for reports that were lost.
const TOLERANCE_DIVISOR: u64 = 8;

/// Mismatches that are listed; the one seen least lately gives way.
pub const MISMATCHES_MAX: usize = 1_000;

/// Who sent, seen from the device that received.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SourceKind {
    /// Another box of the same customer in the same site.
    SameHome,
    /// A box of the same site.
    SameSite,
    /// A box of another site of the same ISP.
    SameIsp,
    /// Any other box.
    Elsewhere,
    /// A seed.
    Seed,
    /// A device that is not enrolled here: what it sent was verified like everything else.
    Stranger,
}

impl SourceKind {
    /// All of them, nearest first.
    pub const ALL: [SourceKind; 6] = [
        SourceKind::SameHome,
        SourceKind::SameSite,
        SourceKind::SameIsp,
        SourceKind::Elsewhere,
        SourceKind::Seed,
        SourceKind::Stranger,
    ];

    /// Whether it is a box of this swarm.
    pub const fn is_box(self) -> bool {
        !matches!(self, SourceKind::Seed | SourceKind::Stranger)
    }
}

/// Bytes that were received.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sums {
    /// Verified, and new to the receiver.
    pub verified_bytes: u64,
    /// Of no use: forged, cut off, or there already.
    pub wasted_bytes: u64,
}

impl Sums {
    /// Both together: every byte that arrived.
    pub const fn received_bytes(self) -> u64 {
        self.verified_bytes.saturating_add(self.wasted_bytes)
    }

    fn add(&mut self, other: Sums) {
        self.verified_bytes = self.verified_bytes.saturating_add(other.verified_bytes);
        self.wasted_bytes = self.wasted_bytes.saturating_add(other.wasted_bytes);
    }
}

/// Sums by who sent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals([Sums; SourceKind::ALL.len()]);

impl Totals {
    /// What came from one kind of source.
    pub fn of(&self, source: SourceKind) -> Sums {
        self.0[source as usize]
    }

    /// The same, without all other kinds of source.
    pub fn only(&self, source: SourceKind) -> Totals {
        let mut only = Totals::default();
        only.add(source, self.of(source));
        only
    }

    /// What came from all of them.
    pub fn all(&self) -> Sums {
        self.sum(|_| true)
    }

    /// What came from boxes.
    pub fn from_boxes(&self) -> Sums {
        self.sum(SourceKind::is_box)
    }

    fn sum(&self, which: impl Fn(SourceKind) -> bool) -> Sums {
        let mut sums = Sums::default();
        SourceKind::ALL.into_iter().filter(|source| which(*source)).for_each(|source| sums.add(self.of(source)));
        sums
    }

    /// One more amount from one kind of source.
    pub fn add(&mut self, source: SourceKind, sums: Sums) {
        self.0[source as usize].add(sums);
    }

    fn add_all(&mut self, other: &Totals) {
        SourceKind::ALL.into_iter().for_each(|source| self.add(source, other.of(source)));
    }
}

/// What one device says of another, since it last said so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    /// The other one.
    pub counterpart: DeviceId,
    /// Of which item.
    pub item: ItemId,
    /// What the other one is to this one.
    pub source: SourceKind,
    /// What came from it.
    pub received: Sums,
    /// What went to it.
    pub sent_bytes: u64,
}

/// Two devices that disagree about what one has sent to the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mismatch {
    /// Who sent.
    pub sender: DeviceId,
    /// Who received.
    pub receiver: DeviceId,
    /// What.
    pub item: ItemId,
    /// How much, as the sender says.
    pub said_sent_bytes: u64,
    /// How much, as the receiver says.
    pub said_received_bytes: u64,
    /// When they began.
    pub since: Utc,
    /// When they last disagreed.
    pub seen: Utc,
}

/// One sum, as it is written down.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Slot {
    /// One hour of a site, counted from the epoch.
    Hour(u64, SiteId),
    /// One day of a site.
    Day(u64, SiteId),
    /// One day of an item.
    Item(u64, ItemId),
}

#[derive(Debug)]
struct Pair {
    sent: u64,
    received: u64,
    since: Utc,
    heard: Mono,
}

type PairKey = (DeviceId, DeviceId, ItemId);

/// The accounts. One per tracker.
#[derive(Debug, Default)]
pub struct Accounts {
    slots: BTreeMap<Slot, Totals>,
    pairs: BTreeMap<PairKey, Pair>,
    mismatches: BTreeMap<PairKey, Mismatch>,
    compare_at: Option<Mono>,
    changed: BTreeSet<Slot>,
    newest_hour: u64,
}

impl Accounts {
    /// Puts back what was written down, at the start.
    pub fn restore(&mut self, slot: Slot, totals: Totals) {
        if let Slot::Hour(hour, _) = slot {
            self.newest_hour = self.newest_hour.max(hour);
        }
        self.slots.insert(slot, totals);
    }

    /// A device of a site says what it has received and sent.
    pub fn handle_report(&mut self, now: Now, device: DeviceId, site: &SiteId, rows: &[Row]) {
        let (hour, day) = (now.utc.as_secs() / HOUR_SECS, now.utc.as_secs() / DAY_SECS);
        for row in rows {
            if row.received != Sums::default() {
                self.count(Slot::Hour(hour, site.clone()), row.source, row.received);
                self.count(Slot::Day(day, site.clone()), row.source, row.received);
                self.count(Slot::Item(day, row.item), row.source, row.received);
                let key = (row.counterpart, device, row.item);
                self.note(now, key, |pair| &mut pair.received, row.received.received_bytes());
            }
            if row.sent_bytes > 0 {
                let key = (device, row.counterpart, row.item);
                self.note(now, key, |pair| &mut pair.sent, row.sent_bytes);
            }
        }
        if hour > self.newest_hour {
            self.newest_hour = hour;
            self.forget_old(hour, day);
        }
    }

    /// Compares pairs, and lets go of those that have become quiet.
    pub fn handle_timeout(&mut self, now: Now) {
        if self.compare_at.is_none_or(|at| now.mono < at) {
            return;
        }
        let quiet = |pair: &Pair| now.mono.since(pair.heard) >= QUIET;
        let over: Vec<PairKey> = self.pairs.iter().filter(|(_, pair)| quiet(pair)).map(|(key, _)| *key).collect();
        for key in over {
            if let Some(pair) = self.pairs.remove(&key) {
                self.compare(now.utc, key, &pair);
            }
        }
        self.compare_at = (!self.pairs.is_empty()).then(|| now.mono + QUIET);
    }

    /// When [`Accounts::handle_timeout`] has something to do.
    pub fn poll_timeout(&self) -> Option<Mono> {
        self.compare_at
    }

    /// Everything since a moment, in whole hours of sites; in whole days, where hours are not kept any more.
    pub fn by_site(&self, now: Utc, since: Utc) -> BTreeMap<SiteId, Totals> {
        self.gather(now, since, |_, site| site.clone())
    }

    /// The same by hour (or day), as the second from the epoch at which it begins.
    pub fn by_hour(&self, now: Utc, since: Utc) -> BTreeMap<Utc, Totals> {
        self.gather(now, since, |begins, _| begins)
    }

    /// Everything since a moment, in whole days, by item.
    pub fn by_item(&self, since: Utc) -> BTreeMap<ItemId, Totals> {
        let mut found: BTreeMap<ItemId, Totals> = BTreeMap::new();
        for (slot, totals) in &self.slots {
            if let Slot::Item(day, item) = slot
                && *day >= since.as_secs() / DAY_SECS
            {
                found.entry(*item).or_default().add_all(totals);
            }
        }
        found
    }

    /// Everything since a moment.
    pub fn total(&self, now: Utc, since: Utc) -> Totals {
        let mut all = Totals::default();
        self.by_site(now, since).values().for_each(|totals| all.add_all(totals));
        all
    }

    /// Pairs that disagree, the worst first.
    pub fn mismatches(&self) -> Vec<Mismatch> {
        let mut all: Vec<Mismatch> = self.mismatches.values().copied().collect();
        all.sort_by_key(|it| std::cmp::Reverse(it.said_sent_bytes.abs_diff(it.said_received_bytes)));
        all
    }

    /// These devices are gone with their customer: no pair and no mismatch names them any more. Sums name nobody.
    pub fn forget_devices(&mut self, gone: &BTreeSet<DeviceId>) {
        let names_nobody = |(sender, receiver, _): &PairKey| !gone.contains(sender) && !gone.contains(receiver);
        self.pairs.retain(|key, _| names_nobody(key));
        self.mismatches.retain(|key, _| names_nobody(key));
    }

    /// What a sum has come to; none: it is forgotten.
    pub fn totals(&self, slot: &Slot) -> Option<&Totals> {
        self.slots.get(slot)
    }

    /// Which sums have changed or gone since the last call, for the store.
    pub fn take_changes(&mut self) -> BTreeSet<Slot> {
        std::mem::take(&mut self.changed)
    }

    fn count(&mut self, slot: Slot, source: SourceKind, sums: Sums) {
        self.slots.entry(slot.clone()).or_default().add(source, sums);
        self.changed.insert(slot);
    }

    fn note(&mut self, now: Now, key: PairKey, which: impl Fn(&mut Pair) -> &mut u64, bytes: u64) {
        if !self.pairs.contains_key(&key) && self.pairs.len() >= PAIRS_MAX {
            return;
        }
        let fresh = || Pair { sent: 0, received: 0, since: now.utc, heard: now.mono };
        let pair = self.pairs.entry(key).or_insert_with(fresh);
        let said = which(pair);
        *said = said.saturating_add(bytes);
        pair.heard = now.mono;
        self.compare_at.get_or_insert(now.mono + QUIET);
    }

    fn compare(&mut self, now: Utc, key: PairKey, pair: &Pair) {
        let tolerated = TOLERANCE_BYTES.saturating_add(pair.sent.max(pair.received) / TOLERANCE_DIVISOR);
        if pair.sent.abs_diff(pair.received) <= tolerated {
            return;
        }
        if !self.mismatches.contains_key(&key) && self.mismatches.len() >= MISMATCHES_MAX {
            let oldest = self.mismatches.iter().min_by_key(|(_, it)| it.seen).map(|(key, _)| *key);
            self.mismatches.remove(&oldest.expect("a full list has an oldest entry"));
        }
        let (sender, receiver, item) = key;
        let it = self.mismatches.entry(key).or_insert(Mismatch {
            sender,
            receiver,
            item,
            said_sent_bytes: 0,
            said_received_bytes: 0,
            since: pair.since,
            seen: now,
        });
        it.said_sent_bytes = it.said_sent_bytes.saturating_add(pair.sent);
        it.said_received_bytes = it.said_received_bytes.saturating_add(pair.received);
        it.seen = now;
    }

    fn gather<K: Ord>(&self, now: Utc, since: Utc, key: impl Fn(Utc, &SiteId) -> K) -> BTreeMap<K, Totals> {
        let first_kept = (now.as_secs() / HOUR_SECS).saturating_sub(HOURS_KEPT - 1);
        let by_hour = since.as_secs() / HOUR_SECS >= first_kept;
        let mut found: BTreeMap<K, Totals> = BTreeMap::new();
        for (slot, totals) in &self.slots {
            let (number, secs, site) = match slot {
                Slot::Hour(hour, site) if by_hour => (*hour, HOUR_SECS, site),
                Slot::Day(day, site) if !by_hour => (*day, DAY_SECS, site),
                _ => continue,
            };
            if number >= since.as_secs() / secs {
                found.entry(key(Utc::from_secs(number * secs), site)).or_default().add_all(totals);
            }
        }
        found
    }

    fn forget_old(&mut self, hour: u64, day: u64) {
        let kept_from = |number: u64, kept: u64| number.saturating_sub(kept - 1);
        let is_old = |slot: &Slot| match slot {
            Slot::Hour(at, _) => *at < kept_from(hour, HOURS_KEPT),
            Slot::Day(at, _) => *at < kept_from(day, DAYS_KEPT),
            Slot::Item(at, _) => *at < kept_from(day, ITEM_DAYS_KEPT),
        };
        let mut gone: Vec<Slot> = self.slots.keys().filter(|slot| is_old(slot)).cloned().collect();
        // Hours come first in the order of slots: what is finest gives way.
        let kept = self.slots.keys().filter(|slot| !is_old(slot));
        let surplus = (self.slots.len() - gone.len()).saturating_sub(SLOTS_MAX);
        let surplus: Vec<Slot> = kept.take(surplus).cloned().collect();
        gone.extend(surplus);
        for slot in gone {
            self.slots.remove(&slot);
            self.changed.insert(slot);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MIB: u64 = 1 << 20;

    fn at(secs: u64) -> Now {
        // Midnight.
        Now::new(Mono::from_millis(secs * 1_000), Utc::from_secs(20_000 * DAY_SECS + secs))
    }

    fn device(n: u8) -> DeviceId {
        DeviceId::from_bytes([n; 32])
    }

    fn item(n: u8) -> ItemId {
        ItemId::from_bytes([n; 32])
    }

    fn site(name: &str) -> SiteId {
        SiteId::new(name).expect("a label")
    }

    fn received(from: u8, source: SourceKind, verified_bytes: u64, wasted_bytes: u64) -> Row {
        let received = Sums { verified_bytes, wasted_bytes };
        Row { counterpart: device(from), item: item(1), source, received, sent_bytes: 0 }
    }

    fn sent(to: u8, sent_bytes: u64) -> Row {
        Row { sent_bytes, ..received(to, SourceKind::SameSite, 0, 0) }
    }

    #[test]
    fn what_boxes_and_seeds_gave_adds_up_by_site_hour_and_item() {
        let mut accounts = Accounts::default();
        let (north, south) = (site("north"), site("south"));
        accounts.handle_report(at(10), device(1), &north, &[received(2, SourceKind::SameHome, 30, 1)]);
        accounts.handle_report(at(10), device(1), &north, &[received(9, SourceKind::Seed, 10, 0)]);
        let other = Row { item: item(2), ..received(3, SourceKind::Elsewhere, 5, 0) };
        accounts.handle_report(at(3_700), device(4), &south, &[other]);
        let now = at(4_000).utc;

        let all = accounts.total(now, at(0).utc);
        assert_eq!((all.from_boxes().verified_bytes, all.all().verified_bytes), (35, 45));
        assert_eq!(all.all().received_bytes(), 46);
        let sites = accounts.by_site(now, at(0).utc);
        assert_eq!((sites[&north].all().verified_bytes, sites[&south].all().verified_bytes), (40, 5));
        let hours = accounts.by_hour(now, at(0).utc);
        assert_eq!((hours[&at(0).utc].all().verified_bytes, hours[&at(3_600).utc].all().verified_bytes), (40, 5));
        assert_eq!(accounts.by_item(now)[&item(2)].of(SourceKind::Elsewhere).verified_bytes, 5);
        assert_eq!(accounts.total(now, at(3_600).utc).all().verified_bytes, 5);
    }

    #[test]
    fn hours_become_days_and_days_are_forgotten_at_last() {
        let mut accounts = Accounts::default();
        for day in 0..=DAYS_KEPT {
            accounts.handle_report(
                at(day * DAY_SECS),
                device(1),
                &site("north"),
                &[received(2, SourceKind::SameSite, 1, 0)],
            );
        }
        let now = at(DAYS_KEPT * DAY_SECS).utc;
        assert_eq!(accounts.total(now, at(0).utc).all().verified_bytes, DAYS_KEPT);
        assert_eq!(accounts.by_hour(now, now.minus(Duration::from_secs(7 * DAY_SECS))).len(), 8);
        assert_eq!(accounts.by_hour(now, now.minus(Duration::from_secs(30 * DAY_SECS))).len(), 31);
        assert_eq!(accounts.slots.len() as u64, 8 + DAYS_KEPT + ITEM_DAYS_KEPT);
        assert!(accounts.take_changes().contains(&Slot::Day(20_000, site("north"))), "the store is told");
    }

    #[test]
    fn ends_that_agree_within_what_was_in_flight_are_not_listed() {
        let mut accounts = Accounts::default();
        accounts.handle_report(
            at(0),
            device(1),
            &site("north"),
            &[received(2, SourceKind::SameSite, 1_000 * MIB, 5 * MIB)],
        );
        accounts.handle_report(at(60), device(2), &site("north"), &[sent(1, 980 * MIB)]);
        assert_eq!(accounts.poll_timeout(), Some(at(600).mono));
        accounts.handle_timeout(at(600));
        assert_eq!(accounts.pairs.len(), 1, "it was heard of a moment ago");
        accounts.handle_timeout(at(1_200));
        assert_eq!((accounts.pairs.len(), accounts.mismatches().len()), (0, 0));
        assert_eq!(accounts.poll_timeout(), None);
    }

    #[test]
    fn who_says_more_than_its_counterpart_is_listed_whichever_end_it_is() {
        let mut accounts = Accounts::default();
        let north = site("north");
        accounts.handle_report(at(0), device(1), &north, &[received(2, SourceKind::SameSite, 500 * MIB, 0)]);
        accounts.handle_report(at(0), device(2), &north, &[sent(1, 100 * MIB)]);
        accounts.handle_report(at(0), device(3), &north, &[sent(4, 50 * MIB)]);
        accounts.handle_timeout(at(600));
        let found = accounts.mismatches();
        let of = |it: &Mismatch| (it.sender, it.receiver, it.said_sent_bytes / MIB, it.said_received_bytes / MIB);
        assert_eq!(
            found.iter().map(of).collect::<Vec<_>>(),
            [(device(2), device(1), 100, 500), (device(3), device(4), 50, 0)]
        );
    }

    #[test]
    fn nothing_names_the_devices_of_a_customer_who_is_gone() {
        let mut accounts = Accounts::default();
        let north = site("north");
        for (device_no, row) in [(1, sent(2, 50 * MIB)), (3, sent(4, 50 * MIB))] {
            accounts.handle_report(at(0), device(device_no), &north, &[row]);
        }
        accounts.handle_timeout(at(600));
        accounts.handle_report(at(700), device(4), &north, &[received(1, SourceKind::SameSite, 7, 0)]);
        accounts.forget_devices(&BTreeSet::from([device(1)]));
        assert_eq!(accounts.mismatches().iter().map(|it| it.sender).collect::<Vec<_>>(), [device(3)]);
        assert!(accounts.pairs.is_empty());
        assert_eq!(accounts.total(at(700).utc, at(0).utc).all().verified_bytes, 7, "sums name nobody and stay");
    }

    #[test]
    fn a_liar_fills_neither_the_list_nor_the_memory() {
        let mut accounts = Accounts::default();
        for n in 0..MISMATCHES_MAX as u64 + 10 {
            let mut id = [0; 32];
            id[..8].copy_from_slice(&n.to_be_bytes());
            let row = Row { counterpart: DeviceId::from_bytes(id), ..sent(0, 100 * MIB) };
            accounts.handle_report(at(0), device(1), &site("north"), &[row]);
        }
        accounts.handle_timeout(at(600));
        assert_eq!((accounts.mismatches().len(), accounts.pairs.len()), (MISMATCHES_MAX, 0));
    }

    proptest! {
        /// I8: whatever is reported, everything received is either verified from one kind of source or wasted.
        #[test]
        fn bytes_from_boxes_and_seeds_and_waste_are_what_was_received(
            reports in prop::collection::vec((0..4u8, 0..6usize, 0..1_000u64, 0..100u64, 0..90_000u64), 0..100)
        ) {
            let mut accounts = Accounts::default();
            let (mut secs, mut all) = (0, 0);
            for (from, source, verified, wasted, later) in reports {
                secs += later;
                all += verified + wasted;
                let row = received(from, SourceKind::ALL[source], verified, wasted);
                accounts.handle_report(at(secs), device(9), &site("north"), &[row]);
            }
            let total = accounts.total(at(secs).utc, at(0).utc);
            let (boxes, seeds) = (total.from_boxes().verified_bytes, total.of(SourceKind::Seed).verified_bytes);
            let strangers = total.of(SourceKind::Stranger).verified_bytes;
            prop_assert_eq!(boxes + seeds + strangers + total.all().wasted_bytes, all);
            let items: u64 = accounts.by_item(at(0).utc).values().map(|it| it.all().received_bytes()).sum();
            prop_assert!(items <= all);
        }
    }
}
