//! Which devices an item belongs on.
//!
//! Weighted rendezvous hashing: a device's score for an item is `-w / ln h`, with `h` a hash of both between 0 and 1 and
//! `w` its weight (Schindelhauer and Schomaker, "Weighted distributed hash tables", 2005; Resch and Mirakhur, SNIA 2015).
//! The highest scores win. Nobody else's score enters, so a device that comes takes only what it wins, and one that goes
//! loses only what it had; each gets items in proportion to its weight. Whole numbers throughout: the same answer on
//! every machine and after every restart.

use std::cmp::Reverse;
use std::time::Duration;

use crate::id::{DeviceId, ItemId};
use crate::time::Mono;

use super::fixed;

/// How long until half of what is known of a device's presence is of the last such time. A week: weekends count.
const PRESENCE_HALF_LIFE: Duration = Duration::from_secs(7 * 86_400);

/// How strongly a device claims an item; more is stronger. Only scores for the same item can be compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Score(u128);

/// The claim of a device of this weight on an item. Weightless devices claim nothing.
pub fn score(item: &ItemId, device: &DeviceId, weight: u64) -> Option<Score> {
    if weight == 0 {
        return None;
    }
    let mut hasher = blake3::Hasher::new();
    hasher.update(item.as_bytes());
    hasher.update(device.as_bytes());
    let hash = hasher.finalize();
    let (first, _) = hash.as_bytes().split_first_chunk().expect("a hash has 32 bytes");
    let drawn = u64::from_be_bytes(*first);
    Some(Score((u128::from(weight) << 64) / u128::from(fixed::negative_log2(drawn))))
}

/// Devices with weights, the strongest claim first.
pub fn rank(item: &ItemId, devices: impl IntoIterator<Item = (DeviceId, u64)>) -> Vec<DeviceId> {
    let scored = devices.into_iter().filter_map(|(device, weight)| Some((score(item, &device, weight)?, device)));
    let mut scored: Vec<(Score, DeviceId)> = scored.collect();
    scored.sort_unstable_by_key(|(score, device)| (Reverse(*score), *device));
    scored.into_iter().map(|(_, device)| device).collect()
}

/// What a device weighs: its room times the part of the time that it is there.
///
/// Room counts in steps of doubling, so that an ordinary day's coming and going on a disk moves nothing.
pub fn weight(room_bytes: u64, presence: Presence) -> u64 {
    const MIB: u64 = 1 << 20;
    let step = (room_bytes / MIB).checked_ilog2().map_or(0, |log| 1_u64 << log);
    step * u64::from(presence.per_mille()).max(1)
}

/// Which part of the time a device has been there of late.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Presence {
    /// Of [`ALL_THE_TIME`].
    level: u64,
    here: bool,
    since: Mono,
}

/// The level of a device that is always there.
const ALL_THE_TIME: u64 = 1 << 32;

impl Presence {
    /// Of a device that is always there.
    pub const ALWAYS: Presence = Presence { level: ALL_THE_TIME, here: true, since: Mono::ZERO };

    /// Of a device that nobody knows yet: there half of the time, and away now.
    pub const fn unknown(now: Mono) -> Presence {
        Presence { level: ALL_THE_TIME / 2, here: false, since: now }
    }

    /// The device has come or gone.
    pub fn handle(&mut self, now: Mono, here: bool) {
        if self.here != here {
            *self = Presence { here, ..self.at(now) };
        }
    }

    /// The same, seen from a later moment.
    pub fn at(self, now: Mono) -> Presence {
        let target = if self.here { ALL_THE_TIME } else { 0 };
        let distance = fixed::decayed(target.abs_diff(self.level), now.since(self.since), PRESENCE_HALF_LIFE);
        Presence { level: target.abs_diff(distance), here: self.here, since: self.since.max(now) }
    }

    /// In thousandths, rounded.
    pub const fn per_mille(self) -> u16 {
        // At most 1,000.
        ((self.level * 1_000 + ALL_THE_TIME / 2) / ALL_THE_TIME) as u16
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;

    fn device(n: u16) -> DeviceId {
        DeviceId::from(*blake3::hash(&n.to_be_bytes()).as_bytes())
    }

    fn item(n: u32) -> ItemId {
        ItemId::from(*blake3::hash(&n.to_be_bytes()).as_bytes())
    }

    fn homes(item: &ItemId, devices: &BTreeMap<DeviceId, u64>, n: usize) -> BTreeSet<DeviceId> {
        rank(item, devices.iter().map(|(device, weight)| (*device, *weight))).into_iter().take(n).collect()
    }

    fn devices() -> impl Strategy<Value = BTreeMap<DeviceId, u64>> {
        prop::collection::vec(1_u64..1 << 40, 2..12)
            .prop_map(|weights| weights.into_iter().zip(0..).map(|(weight, n)| (device(n), weight)).collect())
    }

    proptest! {
        #[test]
        fn losing_a_device_moves_only_what_it_had(devices in devices(), lost in any::<prop::sample::Index>(), n in 1_usize..4) {
            let lost = *lost.get(&devices.keys().copied().collect::<Vec<_>>());
            let mut fewer = devices.clone();
            fewer.remove(&lost);
            for item in (0..64).map(item) {
                let (before, after) = (homes(&item, &devices, n), homes(&item, &fewer, n));
                let moved: BTreeSet<_> = before.difference(&after).copied().collect();
                prop_assert!(moved.is_empty() || moved == BTreeSet::from([lost]));
            }
        }

        #[test]
        fn new_device_takes_only_what_it_wins(devices in devices(), weight in 1_u64..1 << 40, n in 1_usize..4) {
            let new = device(999);
            let mut more = devices.clone();
            more.insert(new, weight);
            for item in (0..64).map(item) {
                let (before, after) = (homes(&item, &devices, n), homes(&item, &more, n));
                let came: BTreeSet<_> = after.difference(&before).copied().collect();
                prop_assert!(came.is_empty() || came == BTreeSet::from([new]));
            }
        }

        #[test]
        fn order_of_asking_does_not_matter(devices in devices(), n in 0_u32..1_000) {
            let forward: Vec<_> = devices.iter().map(|(device, weight)| (*device, *weight)).collect();
            let backward: Vec<_> = forward.iter().rev().copied().collect();
            prop_assert_eq!(rank(&item(n), forward), rank(&item(n), backward));
        }
    }

    #[test]
    fn items_fall_in_proportion_to_weight() {
        let devices = BTreeMap::from([(device(1), 1_000), (device(2), 2_000), (device(3), 5_000)]);
        let mut won: BTreeMap<DeviceId, u32> = BTreeMap::new();
        for item in (0..8_000).map(item) {
            for home in homes(&item, &devices, 1) {
                *won.entry(home).or_default() += 1;
            }
        }
        for (n, expected) in [(1, 1_000), (2, 2_000), (3, 5_000_u32)] {
            assert!(won[&device(n)].abs_diff(expected) < 160, "{n}: {}", won[&device(n)]);
        }
    }

    #[test]
    fn placement_is_the_same_in_every_run() {
        let order = rank(&item(7), (0..4).map(|n| (device(n), 100)));
        assert_eq!(order, [device(0), device(1), device(3), device(2)]);
    }

    #[test]
    fn device_without_room_gets_nothing() {
        assert_eq!(score(&item(1), &device(1), weight(0, Presence::ALWAYS)), None);
        assert!(rank(&item(1), [(device(1), 0)]).is_empty());
    }

    #[test]
    fn an_ordinary_day_on_a_disk_changes_no_weight() {
        let at = |gib: u64| weight(gib << 30, Presence::ALWAYS);
        assert_eq!(at(70), at(120));
        assert_eq!(at(128), 2 * at(127));
    }

    #[test]
    fn presence_follows_what_a_device_does() {
        let day = |n: u64| Mono::from_millis(n * 86_400_000);
        let mut presence = Presence::unknown(day(0));
        presence.handle(day(0), true);
        assert_eq!(presence.at(day(7)).per_mille(), 750);
        assert_eq!(presence.at(day(70)).per_mille(), 1_000);
        presence.handle(day(70), false);
        assert_eq!(presence.at(day(77)).per_mille(), 500);
    }
}
