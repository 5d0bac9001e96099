//! Which seeds keep a copy of which item, so that each is on several.
//!
//! Every offered item is wanted on [`Config::copies`] seeds, or on as many as there are. Copies that exist stay where
//! they are; what is missing is placed by weighted rendezvous hashing among the seeds with room. A seed that is away for
//! too long counts as lost and its copies are made anew elsewhere; one that drains keeps each copy until enough others
//! have theirs. Nothing here deletes the last copy: a seed may drop only what others hold in full. Sees lengths and
//! holdings, never chunks.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::id::{DeviceId, ItemId};
use crate::time::{Mono, Now};

use super::placement::{self, Presence};

/// Items that one list names. What a seed lacks beyond them follows when some of these have arrived.
pub const MAX_LISTED: usize = 4_096;

/// How many copies there shall be, and how patient that is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Seeds that shall hold each item. At least 1.
    pub copies: usize,
    /// A seed that has been away for this long is lost: what it held is copied elsewhere.
    pub lost_after: Duration,
}

impl Default for Config {
    fn default() -> Config {
        Config { copies: 2, lost_after: Duration::from_secs(15 * 60) }
    }
}

/// What a seed has of an item.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Held {
    /// Nothing.
    Nothing,
    /// Some chunks.
    Part,
    /// All of them.
    Copy,
}

/// What the shell does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// What this seed shall hold or drop has changed: tell it.
    Tell(DeviceId),
}

/// How a seed stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It is here.
    Online,
    /// It is away, and expected back.
    Away,
    /// It has been away for so long that its copies are made anew.
    Lost,
    /// It is giving up its copies.
    Draining,
    /// It has given up all its copies and is free to go.
    Drained,
}

/// A seed, for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Overview {
    /// How it stands.
    pub standing: Standing,
    /// Items it holds in full.
    pub copies: usize,
    /// Bytes of those that are listed.
    pub bytes: u64,
    /// Items it shall hold and does not yet.
    pub to_fetch: usize,
    /// Items it shall drop.
    pub to_drop: usize,
    /// What it says to have free; none: it has not said.
    pub free_bytes: Option<u64>,
}

/// The copies of an item.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copies {
    /// Seeds that hold it in full and count.
    pub held: usize,
    /// How many shall.
    pub wanted: usize,
    /// Seeds that are to fetch it.
    pub planned: Vec<DeviceId>,
    /// There are too few seeds with room for it.
    pub no_room: bool,
}

#[derive(Debug)]
struct Seed {
    here: bool,
    /// When it counts as lost, while it is away.
    lost_at: Option<Mono>,
    lost: bool,
    draining: bool,
    presence: Presence,
    /// What it has said to have free.
    free_bytes: Option<u64>,
    /// Items that did not fit into this were last offered to it.
    room_offered: u64,
    holds: BTreeMap<ItemId, Held>,
    /// Items whose holding was found wanting. They count as not held, and are not placed here.
    doubted: BTreeSet<ItemId>,
    /// What it shall hold, and the bytes that its disk will need for each that it has not begun.
    assigned: BTreeMap<ItemId, u64>,
    /// Sum of those.
    promised_bytes: u64,
    droppable: BTreeSet<ItemId>,
}

impl Seed {
    /// Copies on it count, and may be placed on it.
    fn counts(&self) -> bool {
        !self.lost && !self.draining
    }

    fn held(&self, item: &ItemId) -> Held {
        match self.doubted.contains(item) {
            true => Held::Nothing,
            false => self.holds.get(item).copied().unwrap_or(Held::Nothing),
        }
    }

    /// Bytes that are left when it has fetched what it shall; none while it has not said what it has.
    fn room(&self) -> Option<u64> {
        Some(self.free_bytes?.saturating_sub(self.promised_bytes))
    }

    fn promise(&mut self, item: ItemId, bytes: u64) {
        let before = self.assigned.insert(item, bytes).unwrap_or(0);
        self.promised_bytes = self.promised_bytes - before + bytes;
    }

    fn excuse(&mut self, item: &ItemId) {
        self.promised_bytes -= self.assigned.remove(item).unwrap_or(0);
    }
}

#[derive(Debug, Default)]
struct Item {
    /// Of the sealed file; none: it is not offered, so nobody is to fetch it.
    len: Option<u64>,
    seeds: BTreeSet<DeviceId>,
    assigned: BTreeSet<DeviceId>,
    no_room: bool,
}

/// The machine. One per tracker.
#[derive(Debug)]
pub struct Repositories {
    config: Config,
    seeds: BTreeMap<DeviceId, Seed>,
    items: BTreeMap<ItemId, Item>,
    /// Items that found no room; looked at again when there is some.
    homeless: BTreeSet<ItemId>,
    losses: BTreeSet<(Mono, DeviceId)>,
    to_tell: BTreeSet<DeviceId>,
}

impl Repositories {
    /// No seeds, no items.
    pub fn new(config: Config) -> Repositories {
        assert!(config.copies > 0, "every item is kept somewhere");
        Repositories {
            config,
            seeds: BTreeMap::new(),
            items: BTreeMap::new(),
            homeless: BTreeSet::new(),
            losses: BTreeSet::new(),
            to_tell: BTreeSet::new(),
        }
    }

    /// A seed was enrolled, or is known from before. It is away until it arrives.
    pub fn handle_enrolled(&mut self, now: Now, seed: DeviceId, draining: bool) {
        if self.seeds.contains_key(&seed) {
            return;
        }
        let lost_at = now.mono + self.config.lost_after;
        let fresh = Seed {
            here: false,
            lost_at: Some(lost_at),
            lost: false,
            draining,
            presence: Presence::unknown(now.mono),
            free_bytes: None,
            room_offered: 0,
            holds: BTreeMap::new(),
            doubted: BTreeSet::new(),
            assigned: BTreeMap::new(),
            promised_bytes: 0,
            droppable: BTreeSet::new(),
        };
        let wanted = self.wanted();
        self.seeds.insert(seed, fresh);
        self.losses.insert((lost_at, seed));
        self.settle_all_if_other(now, wanted);
    }

    /// A seed is here.
    pub fn handle_arrived(&mut self, now: Now, seed: DeviceId) {
        let wanted = self.wanted();
        let Some(known) = self.seeds.get_mut(&seed) else { return };
        known.here = true;
        known.presence.handle(now.mono, true);
        if let Some(at) = known.lost_at.take() {
            self.losses.remove(&(at, seed));
        }
        if std::mem::take(&mut known.lost) {
            self.settle_all_of(now, &seed, wanted);
        }
        self.offer_all(&seed);
        self.house_homeless(now, &seed);
        self.to_tell.insert(seed);
    }

    /// A seed is away.
    pub fn handle_departed(&mut self, now: Now, seed: DeviceId) {
        let lost_at = now.mono + self.config.lost_after;
        let Some(known) = self.seeds.get_mut(&seed).filter(|it| it.here) else { return };
        known.here = false;
        known.presence.handle(now.mono, false);
        known.lost_at = Some(lost_at);
        self.losses.insert((lost_at, seed));
    }

    /// A seed has lost its membership for good.
    pub fn handle_revoked(&mut self, now: Now, seed: DeviceId) {
        let wanted = self.wanted();
        let Some(gone) = self.seeds.remove(&seed) else { return };
        if let Some(at) = gone.lost_at {
            self.losses.remove(&(at, seed));
        }
        self.to_tell.remove(&seed);
        let touched: BTreeSet<ItemId> = gone.holds.into_keys().chain(gone.assigned.into_keys()).collect();
        for item in &touched {
            if let Some(it) = self.items.get_mut(item) {
                it.seeds.remove(&seed);
                it.assigned.remove(&seed);
            }
        }
        touched.iter().for_each(|item| self.settle(now, item));
        self.settle_all_if_other(now, wanted);
    }

    /// A seed says how much room it has.
    pub fn handle_room(&mut self, now: Now, seed: DeviceId, free_bytes: u64) {
        let Some(known) = self.seeds.get_mut(&seed) else { return };
        known.free_bytes = Some(free_bytes);
        self.house_homeless(now, &seed);
    }

    /// A seed shall give up its copies, or may keep them again.
    pub fn handle_drain(&mut self, now: Now, seed: DeviceId, draining: bool) {
        let wanted = self.wanted();
        let Some(known) = self.seeds.get_mut(&seed).filter(|it| it.draining != draining) else { return };
        known.draining = draining;
        self.settle_all_of(now, &seed, wanted);
        self.offer_all(&seed);
        self.house_homeless(now, &seed);
        self.to_tell.insert(seed);
    }

    /// An item is offered and shall be kept.
    pub fn handle_item(&mut self, now: Now, item: ItemId, sealed_len: u64) {
        let it = self.items.entry(item).or_default();
        if it.len.replace(sealed_len) != Some(sealed_len) {
            self.settle(now, &item);
        }
    }

    /// An item is not offered any more. Copies stay, none are made.
    pub fn handle_item_gone(&mut self, now: Now, item: &ItemId) {
        if let Some(it) = self.items.get_mut(item) {
            it.len = None;
            self.settle(now, item);
        }
    }

    /// What a seed says of an item is not believed from now on, or is again.
    pub fn handle_doubt(&mut self, now: Now, seed: DeviceId, item: ItemId, doubted: bool) {
        let Some(known) = self.seeds.get_mut(&seed) else { return };
        let changed = match doubted {
            true => known.doubted.insert(item),
            false => known.doubted.remove(&item),
        };
        if changed && self.items.contains_key(&item) {
            self.settle(now, &item);
        }
    }

    /// What a seed has of an item.
    pub fn handle_holding(&mut self, now: Now, seed: DeviceId, item: ItemId, held: Held) {
        let Some(known) = self.seeds.get_mut(&seed) else { return };
        let before = match held {
            Held::Nothing => known.holds.remove(&item),
            held => known.holds.insert(item, held),
        };
        if before.unwrap_or(Held::Nothing) == held {
            return;
        }
        let it = self.items.entry(item).or_default();
        if known.assigned.contains_key(&item) {
            // What it has begun to fetch has its place on the disk.
            known.promise(item, if held == Held::Nothing { it.len.unwrap_or(0) } else { 0 });
        }
        match held {
            Held::Nothing => {
                known.droppable.remove(&item);
                it.seeds.remove(&seed)
            }
            _ => it.seeds.insert(seed),
        };
        self.settle(now, &item);
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Now) {
        while let Some((at, seed)) = self.losses.first().copied().filter(|(at, _)| *at <= now.mono) {
            self.losses.remove(&(at, seed));
            let wanted = self.wanted();
            let known = self.seeds.get_mut(&seed).expect("only a known seed is waited for");
            known.lost_at = None;
            known.lost = true;
            self.settle_all_of(now, &seed, wanted);
        }
    }

    /// When to call [`Repositories::handle_timeout`].
    pub fn poll_timeout(&self) -> Option<Mono> {
        self.losses.first().map(|(at, _)| *at)
    }

    /// What to do next.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.to_tell.pop_first().map(Action::Tell)
    }

    /// What a seed shall hold: what it lacks first; at most [`MAX_LISTED`].
    pub fn to_hold(&self, seed: &DeviceId) -> Vec<ItemId> {
        let Some(known) = self.seeds.get(seed) else { return Vec::new() };
        let (held, lacking): (Vec<_>, Vec<_>) =
            known.assigned.keys().copied().partition(|item| known.held(item) == Held::Copy);
        lacking.into_iter().chain(held).take(MAX_LISTED).collect()
    }

    /// What a seed shall drop, because others hold it; at most [`MAX_LISTED`].
    pub fn to_drop(&self, seed: &DeviceId) -> Vec<ItemId> {
        let Some(known) = self.seeds.get(seed) else { return Vec::new() };
        known.droppable.iter().take(MAX_LISTED).copied().collect()
    }

    /// Whether a device is a seed of ours.
    pub fn is_seed(&self, device: &DeviceId) -> bool {
        self.seeds.contains_key(device)
    }

    /// Whether a seed shall hold an item.
    pub fn is_assigned(&self, seed: &DeviceId, item: &ItemId) -> bool {
        self.seeds.get(seed).is_some_and(|it| it.assigned.contains_key(item))
    }

    /// Whether a seed is giving up its copies.
    pub fn is_draining(&self, seed: &DeviceId) -> bool {
        self.seeds.get(seed).is_some_and(|it| it.draining)
    }

    /// How a seed stands.
    pub fn overview(&self, seed: &DeviceId) -> Option<Overview> {
        let known = self.seeds.get(seed)?;
        let offered = |item: &ItemId| self.items.get(item).and_then(|it| it.len);
        let copies = known.holds.iter().filter(|(_, held)| **held == Held::Copy);
        let standing = match known {
            Seed { draining: true, .. } if known.holds.keys().all(|item| offered(item).is_none()) => Standing::Drained,
            Seed { draining: true, .. } => Standing::Draining,
            Seed { lost: true, .. } => Standing::Lost,
            Seed { here: true, .. } => Standing::Online,
            _ => Standing::Away,
        };
        Some(Overview {
            standing,
            copies: copies.clone().count(),
            bytes: copies.filter_map(|(item, _)| offered(item)).fold(0, u64::saturating_add),
            to_fetch: known.assigned.keys().filter(|item| known.held(item) != Held::Copy).count(),
            to_drop: known.droppable.len(),
            free_bytes: known.free_bytes,
        })
    }

    /// The copies of an item.
    pub fn copies(&self, item: &ItemId) -> Copies {
        let nothing = Item::default();
        let it = self.items.get(item).unwrap_or(&nothing);
        let planned = it.assigned.iter().filter(|seed| self.seeds[*seed].held(item) != Held::Copy).copied();
        Copies {
            held: self.counted(item, it).count(),
            wanted: if it.len.is_some() { self.wanted() } else { 0 },
            planned: planned.collect(),
            no_room: it.no_room,
        }
    }

    /// Offered items with fewer copies than wanted.
    pub fn short(&self) -> impl Iterator<Item = &ItemId> {
        let wanted = self.wanted().max(1);
        let offered = self.items.iter().filter(|(_, it)| it.len.is_some());
        offered.filter(move |(item, it)| self.counted(item, it).count() < wanted).map(|(item, _)| item)
    }

    /// As many copies as are asked for, or as there are seeds to hold them.
    fn wanted(&self) -> usize {
        self.seeds.values().filter(|it| it.counts()).count().min(self.config.copies)
    }

    /// Seeds whose full copy of an item counts.
    fn counted<'a>(&'a self, item: &'a ItemId, it: &'a Item) -> impl Iterator<Item = DeviceId> + 'a {
        let counts = |seed: &&DeviceId| {
            let known = &self.seeds[*seed];
            known.counts() && known.held(item) == Held::Copy
        };
        it.seeds.iter().filter(counts).copied()
    }

    /// A seed counts now and did not before, or the other way round.
    fn settle_all_of(&mut self, now: Now, seed: &DeviceId, wanted_before: usize) {
        let Some(known) = self.seeds.get(seed) else { return };
        let items: BTreeSet<ItemId> = known.holds.keys().chain(known.assigned.keys()).copied().collect();
        items.iter().for_each(|item| self.settle(now, item));
        self.settle_all_if_other(now, wanted_before);
    }

    /// What found no room may find it here.
    fn offer_all(&mut self, seed: &DeviceId) {
        if let Some(known) = self.seeds.get_mut(seed) {
            known.room_offered = 0;
        }
    }

    /// Items that found no room are placed anew if this seed has room for them now and had not before.
    fn house_homeless(&mut self, now: Now, seed: &DeviceId) {
        let Some(known) = self.seeds.get_mut(seed).filter(|it| it.here && it.counts()) else { return };
        let room = known.room().unwrap_or(0);
        let had = std::mem::replace(&mut known.room_offered, room);
        let fits = |item: &&ItemId| self.items[*item].len.is_some_and(|len| had <= len && len <= room);
        let fitting: Vec<ItemId> = self.homeless.iter().filter(fits).copied().collect();
        fitting.iter().for_each(|item| self.settle(now, item));
    }

    /// With another number of seeds, another number of copies can be had.
    fn settle_all_if_other(&mut self, now: Now, wanted_before: usize) {
        if self.wanted() != wanted_before {
            let items: Vec<ItemId> = self.items.keys().copied().collect();
            items.iter().for_each(|item| self.settle(now, item));
        }
    }

    /// Decides anew who shall hold an item and who may drop it.
    fn settle(&mut self, now: Now, item: &ItemId) {
        let Some(it) = self.items.get(item) else { return };
        let wanted = if it.len.is_some() { self.wanted() } else { 0 };
        let mut keepers = self.who_has_or_shall(item, it);
        keepers.truncate(wanted);
        if let Some(len) = it.len.filter(|_| keepers.len() < wanted) {
            let new = self.seeds.iter().filter(|(seed, known)| {
                known.counts() && known.here && !known.doubted.contains(item) && !keepers.contains(*seed)
            });
            let with_room = new.filter_map(|(seed, known)| {
                let room = known.room().filter(|room| *room >= len)?;
                Some((*seed, placement::weight(room, known.presence.at(now.mono))))
            });
            let chosen = placement::rank(item, with_room);
            keepers.extend(chosen.into_iter().take(wanted - keepers.len()));
        }
        self.assign(item, keepers.into_iter().collect(), wanted);
        self.let_go(item);
    }

    /// Seeds that count, the most settled first: who has all of it, who is on the way to it, who was told to.
    fn who_has_or_shall(&self, item: &ItemId, it: &Item) -> Vec<DeviceId> {
        let mut found: Vec<DeviceId> = it.seeds.union(&it.assigned).copied().collect();
        found.retain(|seed| self.seeds[seed].counts() && !self.seeds[seed].doubted.contains(item));
        let claim = |seed: &DeviceId| placement::score(item, seed, 1);
        found.sort_by_cached_key(|seed| (Reverse(self.seeds[seed].held(item)), Reverse(claim(seed)), *seed));
        found
    }

    fn assign(&mut self, item: &ItemId, keepers: BTreeSet<DeviceId>, wanted: usize) {
        let it = self.items.get_mut(item).expect("an item that is settled is known");
        it.no_room = keepers.len() < wanted;
        match it.no_room {
            true => self.homeless.insert(*item),
            false => self.homeless.remove(item),
        };
        let before = std::mem::replace(&mut it.assigned, keepers.clone());
        let (len, is_idle) = (it.len.unwrap_or(0), it.len.is_none() && it.seeds.is_empty());
        for seed in before.symmetric_difference(&keepers) {
            let known = self.seeds.get_mut(seed).expect("an assigned seed is known");
            match (keepers.contains(seed), known.held(item)) {
                (true, Held::Nothing) => known.promise(*item, len),
                (true, _) => known.promise(*item, 0),
                (false, _) => known.excuse(item),
            }
            self.to_tell.insert(*seed);
        }
        if is_idle {
            self.items.remove(item);
        }
    }

    /// A seed that drains may drop a copy when enough others have theirs, and at least one has.
    fn let_go(&mut self, item: &ItemId) {
        let Some(it) = self.items.get(item) else { return };
        let counted = self.counted(item, it).count();
        let enough = it.len.is_some() && counted > 0 && counted >= self.wanted();
        for seed in it.seeds.clone() {
            let known = self.seeds.get_mut(&seed).expect("a holder is known");
            let changed = match enough && known.draining {
                true => known.droppable.insert(*item),
                false => known.droppable.remove(item),
            };
            if changed {
                self.to_tell.insert(seed);
            }
        }
    }
}

#[cfg(test)]
mod tests;
