//! Which titles wait on which boxes of a site before anybody asks for them.
//!
//! A target says: this title, or its beginning, on this share of the site's boxes. What boxes hold already counts and
//! stays; what is missing goes to boxes with room, by weighted rendezvous hashing, so that boxes with more room and more
//! presence take more. No box gives more than a stated part of its free disk, whatever the targets. The same function
//! answers a dry run. Never sees addresses, customers or chunks.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use crate::geometry::{CHUNK_BYTES, CHUNKS_PER_SPAN, Geometry};
use crate::id::{DeviceId, ItemId};

use super::placement::{self, Presence};

/// Items that one box preloads at most, so that a list of them is one small message.
pub const MAX_ITEMS_PER_BOX: usize = 256;

/// How much of a title is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Extent {
    /// All of it.
    Whole,
    /// The first spans, so that it begins at once.
    Starts {
        /// How many. At least 1.
        spans: u32,
    },
}

impl Extent {
    /// Chunks from the first that are meant.
    pub fn chunks(self, geometry: &Geometry) -> u32 {
        match self {
            Extent::Whole => geometry.n_chunks(),
            Extent::Starts { spans } => spans.saturating_mul(CHUNKS_PER_SPAN).min(geometry.n_chunks()),
        }
    }

    /// Bytes of those.
    pub fn bytes(self, geometry: &Geometry) -> u64 {
        (u64::from(self.chunks(geometry)) * CHUNK_BYTES).min(geometry.sealed_len())
    }
}

/// What somebody wants to wait in a site.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted {
    /// How much of the title.
    pub extent: Extent,
    /// On which part of the site's boxes, in per cent: 1 to 100.
    pub share_percent: u8,
}

/// A title that shall wait on boxes of a site.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Target {
    /// Which item.
    pub item: ItemId,
    /// Its sizes.
    pub geometry: Geometry,
    /// How much of it, on how many boxes.
    pub wanted: Wanted,
}

impl Target {
    /// On how many of so many boxes.
    pub fn boxes(&self, of: usize) -> usize {
        (of * usize::from(self.wanted.share_percent)).div_ceil(100)
    }
}

/// A box that may preload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate {
    /// Which.
    pub device: DeviceId,
    /// What its disk has free; none: it has not said, so nothing new is placed on it.
    pub free_bytes: Option<u64>,
    /// How much more its owner lets be preloaded; none: it has not said.
    pub allowed_bytes: Option<u64>,
    /// How often it is there.
    pub presence: Presence,
}

/// What a box has of an item.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Has {
    /// Some of what is meant.
    Part,
    /// All of what is meant.
    All,
}

/// What is known of the boxes of a site.
pub trait Site {
    /// Its boxes.
    fn boxes(&self) -> Vec<Candidate>;
    /// Boxes of the site that have something of this, and how much, those not believed left out.
    fn holders(&self, item: &ItemId, extent: Extent) -> Vec<(DeviceId, Has)>;
    /// Whether it is not to be placed on this box, which has said no, has lied about it or may not have it.
    fn declines(&self, device: &DeviceId, item: &ItemId) -> bool;
    /// Price of bringing a byte of it here from where it is to be had most cheaply.
    fn cost(&self, item: &ItemId) -> u32;
}

/// What came of one target.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Boxes that shall have it.
    pub wanted: usize,
    /// Boxes that have it.
    pub have: BTreeSet<DeviceId>,
    /// Boxes that shall fetch it, or the rest of it.
    pub fetching: BTreeSet<DeviceId>,
    /// Bytes that those will fetch at most.
    pub bytes: u64,
    /// Bytes times the price of bringing each here.
    pub cost: u64,
}

impl Outcome {
    /// Boxes for which no room was found.
    pub fn lacking(&self) -> usize {
        self.wanted.saturating_sub(self.have.len() + self.fetching.len())
    }
}

/// Who shall preload what.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// The boxes of the site.
    pub boxes: usize,
    /// One for each target, in their order.
    pub outcomes: Vec<Outcome>,
    /// What each box shall hold, the most important first.
    pub lists: BTreeMap<DeviceId, Vec<(ItemId, Extent)>>,
}

/// Decides for one site. The first targets come first where room is short; `box_share_percent` is the part of its free
/// disk that a box gives at most. `before` is what was decided last time: it stays as long as it makes sense.
pub fn plan(
    targets: &[Target],
    site: &impl Site,
    before: &BTreeMap<DeviceId, Vec<(ItemId, Extent)>>,
    box_share_percent: u8,
) -> Plan {
    let boxes = site.boxes();
    let told_before: BTreeSet<(DeviceId, ItemId)> =
        before.iter().flat_map(|(device, list)| list.iter().map(|(item, _)| (*device, *item))).collect();
    let holders = |target: &Target| site.holders(&target.item, target.wanted.extent).into_iter().collect();
    let holders: Vec<BTreeMap<DeviceId, Has>> = targets.iter().map(holders).collect();

    let mut preloaded: BTreeMap<DeviceId, u64> = BTreeMap::new();
    for (target, has) in targets.iter().zip(&holders) {
        for device in has.keys().filter(|device| told_before.contains(&(**device, target.item))) {
            *preloaded.entry(*device).or_default() += target.wanted.extent.bytes(&target.geometry);
        }
    }
    let room_of = |it: &Candidate| Room::of(it, preloaded.get(&it.device).copied().unwrap_or(0), box_share_percent);
    let mut rooms: BTreeMap<DeviceId, Room> = boxes.iter().map(|it| (it.device, room_of(it))).collect();

    let mut plan = Plan { boxes: boxes.len(), ..Plan::default() };
    for (target, has) in targets.iter().zip(&holders) {
        let mut outcome = Outcome { wanted: target.boxes(boxes.len()), ..Outcome::default() };
        let bytes = target.wanted.extent.bytes(&target.geometry);
        for device in settled_first(target, &boxes, has, &told_before).into_iter().take(outcome.wanted) {
            let room = rooms.get_mut(&device).expect("a box of the site has a room");
            if room.items >= MAX_ITEMS_PER_BOX || site.declines(&device, &target.item) {
                continue;
            }
            match has.get(&device) {
                Some(Has::All) => outcome.have.insert(device),
                // Its place on the disk is taken already.
                Some(Has::Part) => outcome.fetching.insert(device),
                None if room.left >= bytes => {
                    room.left -= bytes;
                    outcome.fetching.insert(device)
                }
                None => continue,
            };
            room.items += 1;
        }
        let lacking = outcome.lacking();
        if lacking > 0 {
            let is_new = |it: &&Candidate| !outcome.have.contains(&it.device) && !outcome.fetching.contains(&it.device);
            let new = boxes.iter().filter(is_new).filter_map(|it| {
                let room = &rooms[&it.device];
                let fits =
                    room.left >= bytes && room.items < MAX_ITEMS_PER_BOX && !site.declines(&it.device, &target.item);
                fits.then(|| (it.device, placement::weight(room.left, it.presence)))
            });
            for device in placement::rank(&target.item, new).into_iter().take(lacking) {
                let room = rooms.get_mut(&device).expect("a box of the site has a room");
                room.left -= bytes;
                room.items += 1;
                outcome.fetching.insert(device);
            }
        }
        outcome.bytes = bytes.saturating_mul(outcome.fetching.len() as u64);
        outcome.cost = outcome.bytes.saturating_mul(u64::from(site.cost(&target.item)));
        for device in outcome.have.union(&outcome.fetching) {
            plan.lists.entry(*device).or_default().push((target.item, target.wanted.extent));
        }
        plan.outcomes.push(outcome);
    }
    plan
}

#[derive(Debug, Clone, Copy)]
struct Room {
    left: u64,
    items: usize,
}

impl Room {
    /// What is preloaded already counts as free disk that was given.
    fn of(candidate: &Candidate, preloaded: u64, box_share_percent: u8) -> Room {
        let all = u128::from(candidate.free_bytes.unwrap_or(0)) + u128::from(preloaded);
        let given = u64::try_from(all * u128::from(box_share_percent.min(100)) / 100).unwrap_or(u64::MAX);
        let left = given.saturating_sub(preloaded).min(candidate.allowed_bytes.unwrap_or(u64::MAX));
        Room { left, items: 0 }
    }
}

/// Boxes that have it, then those on the way to it, then those told to fetch it; the strongest claim first.
fn settled_first(
    target: &Target,
    boxes: &[Candidate],
    has: &BTreeMap<DeviceId, Has>,
    told_before: &BTreeSet<(DeviceId, ItemId)>,
) -> Vec<DeviceId> {
    let is_settled = |it: &&Candidate| has.contains_key(&it.device) || told_before.contains(&(it.device, target.item));
    let mut settled: Vec<DeviceId> = boxes.iter().filter(is_settled).map(|it| it.device).collect();
    settled.sort_by_cached_key(|device| {
        (Reverse(has.get(device).copied()), Reverse(placement::score(&target.item, device, 1)), *device)
    });
    settled
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MIB: u64 = 1 << 20;

    fn device(n: u8) -> DeviceId {
        DeviceId::from([n; 32])
    }

    fn item(n: u8) -> ItemId {
        ItemId::from([n; 32])
    }

    /// Of 100 MiB.
    fn target(n: u8, extent: Extent, share_percent: u8) -> Target {
        Target {
            item: item(n),
            geometry: Geometry::of_sealed(100 * MIB).unwrap(),
            wanted: Wanted { extent, share_percent },
        }
    }

    #[derive(Default)]
    struct Village {
        boxes: Vec<Candidate>,
        has: BTreeMap<(ItemId, DeviceId), Has>,
        declines: BTreeSet<(DeviceId, ItemId)>,
    }

    impl Village {
        fn of(boxes: u8, free_bytes: u64) -> Village {
            let one = |n| Candidate {
                device: device(n),
                free_bytes: Some(free_bytes),
                allowed_bytes: None,
                presence: Presence::ALWAYS,
            };
            Village { boxes: (1..=boxes).map(one).collect(), ..Village::default() }
        }

        /// Every box fetches what it shall.
        fn obey(&mut self, plan: &Plan, targets: &[Target]) {
            for (target, outcome) in targets.iter().zip(&plan.outcomes) {
                for device in &outcome.fetching {
                    self.has.insert((target.item, *device), Has::All);
                }
            }
        }
    }

    impl Site for Village {
        fn boxes(&self) -> Vec<Candidate> {
            self.boxes.clone()
        }

        fn holders(&self, item: &ItemId, _: Extent) -> Vec<(DeviceId, Has)> {
            self.has.iter().filter(|((of, _), _)| of == item).map(|((_, device), has)| (*device, *has)).collect()
        }

        fn declines(&self, device: &DeviceId, item: &ItemId) -> bool {
            self.declines.contains(&(*device, *item))
        }

        fn cost(&self, _: &ItemId) -> u32 {
            3
        }
    }

    fn first(targets: &[Target], village: &Village) -> Plan {
        plan(targets, village, &BTreeMap::new(), 50)
    }

    #[test]
    fn share_of_the_boxes_is_rounded_up_and_costs_bytes_times_price() {
        let village = Village::of(10, 1_000 * MIB);
        let found = first(&[target(1, Extent::Whole, 25)], &village);
        let outcome = &found.outcomes[0];
        assert_eq!((outcome.wanted, outcome.fetching.len(), outcome.have.len()), (3, 3, 0));
        assert_eq!((outcome.bytes, outcome.cost), (300 * MIB, 900 * MIB));
        assert_eq!(found.lists.len(), 3);
    }

    #[test]
    fn starts_are_the_first_spans_only() {
        let outcome = &first(&[target(1, Extent::Starts { spans: 2 }, 100)], &Village::of(1, 1_000 * MIB)).outcomes[0];
        assert_eq!(outcome.bytes, 32 * MIB);
        let short = Geometry::of_sealed(5 * MIB + 7 * 65_536).unwrap();
        let starts = Extent::Starts { spans: 1 };
        assert_eq!((starts.chunks(&short), starts.bytes(&short)), (short.n_chunks(), short.sealed_len()));
    }

    #[test]
    fn what_boxes_have_already_counts_and_nothing_moves() {
        let mut village = Village::of(10, 1_000 * MIB);
        let targets = [target(1, Extent::Whole, 40), target(2, Extent::Starts { spans: 1 }, 70)];
        let before = first(&targets, &village);
        village.obey(&before, &targets);
        let after = plan(&targets, &village, &before.lists, 50);
        assert_eq!(after.lists, before.lists);
        assert!(after.outcomes.iter().all(|it| it.fetching.is_empty() && it.lacking() == 0));
    }

    #[test]
    fn no_box_gives_more_than_its_part_or_than_its_owner_lets() {
        let mut village = Village::of(4, 500 * MIB);
        village.boxes[0].allowed_bytes = Some(0);
        village.boxes[1].allowed_bytes = Some(150 * MIB);
        village.boxes[2].free_bytes = None;
        let targets: Vec<Target> = (1..=9).map(|n| target(n, Extent::Whole, 100)).collect();
        let found = first(&targets, &village);
        let items = |n| found.lists.get(&device(n)).map_or(0, Vec::len);
        assert_eq!([items(1), items(2), items(3), items(4)], [0, 1, 0, 2]);
        assert_eq!(found.outcomes[0].lacking(), 2);
    }

    #[test]
    fn what_is_preloaded_counts_against_the_part_that_is_given() {
        let mut village = Village::of(1, 500 * MIB);
        let mut targets: Vec<Target> = (1..=2).map(|n| target(n, Extent::Whole, 100)).collect();
        let before = first(&targets, &village);
        village.obey(&before, &targets);
        village.boxes[0].free_bytes = Some(300 * MIB);
        targets.push(target(3, Extent::Whole, 100));
        let after = plan(&targets, &village, &before.lists, 50);
        assert_eq!((after.outcomes[2].fetching.len(), after.outcomes[2].lacking()), (0, 1));
    }

    #[test]
    fn first_targets_come_first_where_room_is_short() {
        let targets = [target(1, Extent::Whole, 100), target(2, Extent::Whole, 100)];
        let found = first(&targets, &Village::of(3, 200 * MIB));
        assert_eq!((found.outcomes[0].fetching.len(), found.outcomes[1].fetching.len()), (3, 0));
    }

    #[test]
    fn box_that_declines_is_not_asked_again() {
        let mut village = Village::of(2, 1_000 * MIB);
        village.declines.insert((device(1), item(1)));
        let found = first(&[target(1, Extent::Whole, 100)], &village);
        assert_eq!(found.outcomes[0].fetching, BTreeSet::from([device(2)]));
        assert_eq!(found.outcomes[0].lacking(), 1);
    }

    #[test]
    fn smaller_share_lets_the_weakest_claims_go() {
        let mut village = Village::of(10, 1_000 * MIB);
        let wide = [target(1, Extent::Whole, 80)];
        let before = first(&wide, &village);
        village.obey(&before, &wide);
        let narrow = plan(&[target(1, Extent::Whole, 30)], &village, &before.lists, 50);
        assert_eq!(narrow.lists.len(), 3);
        assert!(narrow.lists.keys().all(|device| before.lists.contains_key(device)));
    }

    proptest! {
        #[test]
        fn box_that_goes_is_replaced_and_nobody_else_moves(boxes in 2..20_u8, share in 1..=100_u8, gone in any::<prop::sample::Index>()) {
            let mut village = Village::of(boxes, 1_000 * MIB);
            let targets = [target(1, Extent::Whole, share)];
            let before = first(&targets, &village);
            village.obey(&before, &targets);
            let gone = village.boxes.remove(gone.index(boxes.into())).device;
            village.has.remove(&(item(1), gone));
            let after = plan(&targets, &village, &before.lists, 50);
            let came = after.lists.keys().filter(|device| !before.lists.contains_key(*device)).count();
            prop_assert!(came <= 1);
            prop_assert_eq!(after.outcomes[0].have.len() + after.outcomes[0].fetching.len(), targets[0].boxes(usize::from(boxes) - 1));
        }

        #[test]
        fn room_is_never_exceeded(
            free in prop::collection::vec(0..2_000_u64, 1..8), shares in prop::collection::vec((1..=100_u8, any::<bool>()), 1..12),
        ) {
            let mut village = Village::of(free.len() as u8, 0);
            village.boxes.iter_mut().zip(&free).for_each(|(it, free)| it.free_bytes = Some(free * MIB));
            let targets: Vec<Target> = shares.iter().zip(1..).map(|((share, whole), n)| {
                target(n, if *whole { Extent::Whole } else { Extent::Starts { spans: 1 } }, *share)
            }).collect();
            let found = first(&targets, &village);
            for (device, list) in &found.lists {
                let used: u64 = list.iter().map(|(_, extent)| extent.bytes(&targets[0].geometry)).sum();
                let known = village.boxes.iter().find(|it| it.device == *device).unwrap();
                prop_assert!(used <= known.free_bytes.unwrap() / 2);
            }
        }
    }
}
