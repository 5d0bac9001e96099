//! Who is here, who holds which chunks, and where to find somebody who can send.
//!
//! Devices, items and sites have numbers in here, so that a copy costs a few dozen bytes. Each item keeps, site by
//! site, the devices that could send it now in pools: boxes with something left to give, boxes that give all they
//! have, and seeds. A device is in the pool of an item exactly while it may send and either holds some of it or is
//! fetching it; the chunks of those in a pool are counted, so that rare ones are known without looking at anyone.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use slab::Slab;

use super::plan::{Link, Profile, Reach};
use super::{Config, LeaseNo, WishNo};
use crate::bitmap::Holding;
use crate::id::{AccountId, DeviceId, ItemId, SiteId};
use crate::membership::DeviceKind;
use crate::peer::chunk_set::ChunkSet;
use crate::time::Mono;

/// A device's number.
pub(super) type Slot = u32;
/// An item's number.
pub(super) type ItemNo = u32;
/// A site's number.
pub(super) type SiteNo = u32;

/// No place in a list.
const NOWHERE: u32 = u32::MAX;

/// What a device holds of an item.
#[derive(Debug, Clone, Copy)]
pub enum Held<'a> {
    /// All of it: a copy.
    All(u32),
    /// These chunks.
    Part(&'a ChunkSet),
}

impl Held<'_> {
    /// Chunks of the item.
    pub fn n_chunks(&self) -> u32 {
        match self {
            Held::All(n_chunks) => *n_chunks,
            Held::Part(chunks) => chunks.width(),
        }
    }

    /// Chunks held.
    pub fn len(&self) -> u32 {
        match self {
            Held::All(n_chunks) => *n_chunks,
            Held::Part(chunks) => chunks.len(),
        }
    }

    /// Nothing.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Everything.
    pub fn is_complete(&self) -> bool {
        matches!(self, Held::All(_))
    }

    /// Whether this chunk is held.
    pub fn contains(&self, chunk: u32) -> bool {
        match self {
            Held::All(n_chunks) => chunk < *n_chunks,
            Held::Part(chunks) => chunks.contains(chunk),
        }
    }

    /// The chunks as runs: ascending, not touching each other.
    pub fn runs(&self) -> Vec<Range<u32>> {
        match self {
            Held::All(n_chunks) => std::iter::once(0..*n_chunks).collect(),
            Held::Part(chunks) => chunks.ranges(),
        }
    }

    /// The same as a value of its own.
    pub fn to_holding(&self) -> Holding {
        Holding::from_runs(self.n_chunks(), self.runs()).expect("chunks of the item")
    }

    /// How many of these chunks are held.
    pub(super) fn shared(&self, wanted: &ChunkSet) -> u32 {
        match self {
            Held::All(_) => wanted.len(),
            Held::Part(chunks) => chunks.shared(wanted),
        }
    }

    /// Whether any of these chunks is held.
    pub(super) fn meets(&self, wanted: &ChunkSet) -> bool {
        match self {
            Held::All(_) => !wanted.is_empty(),
            Held::Part(chunks) => chunks.meets(wanted),
        }
    }

    /// Those of these chunks that are held.
    pub(super) fn of(&self, wanted: &ChunkSet) -> ChunkSet {
        let mut both = wanted.clone();
        if let Held::Part(chunks) = self {
            both.keep(chunks);
        }
        both
    }
}

/// A device's part in an item: it holds chunks of it, or fetches it.
#[derive(Debug)]
struct Member {
    item: ItemNo,
    /// Place in [`Item::members`].
    at: u32,
    /// Place in its pool; [`NOWHERE`] while it cannot send.
    pool_at: u32,
    /// What it holds; none: everything.
    part: Option<Box<ChunkSet>>,
}

#[derive(Debug)]
pub(super) struct Device {
    pub(super) id: DeviceId,
    pub(super) kind: DeviceKind,
    pub(super) site: SiteNo,
    pub(super) account: AccountId,
    pub(super) reach: Reach,
    pub(super) revoked: bool,
    /// When it counts as silent; none: it is offline.
    pub(super) silent_at: Option<Mono>,
    pub(super) link: Link,
    /// Sources that stalled for it, and until when it avoids them.
    pub(super) avoids: Vec<(Slot, Mono)>,
    /// Accounts whose devices it stalled for, and until when that counts.
    pub(super) complainers: Vec<(AccountId, Mono)>,
    /// Leases it serves.
    pub(super) serves: Vec<LeaseNo>,
    /// Sum of the planned rates of those leases.
    pub(super) promised_bytes_per_sec: u64,
    /// What it has been planned for.
    pub(super) wishes: Vec<(ItemNo, WishNo)>,
    /// Sum of the planned rates of the leases that send to it.
    pub(super) incoming_bytes_per_sec: u64,
    /// What it is believed to send.
    uplink_bytes_per_sec: u64,
    has_room: bool,
    /// By number of the item.
    members: Vec<Member>,
}

impl Device {
    pub(super) fn is_online(&self) -> bool {
        self.silent_at.is_some() && !self.revoked
    }

    pub(super) fn may_send(&self) -> bool {
        self.is_online() && self.link.upload_cap_bytes_per_sec != Some(0)
    }

    pub(super) fn is_avoiding(&self, source: Slot, now: Mono) -> bool {
        self.avoids.iter().any(|(slot, until)| *slot == source && now < *until)
    }

    /// How many accounts complain about it at the moment.
    pub(super) fn complaints(&self, now: Mono) -> usize {
        self.complainers.iter().filter(|(_, until)| now < *until).count()
    }

    /// What it is believed to send.
    pub(super) fn uplink_bytes_per_sec(&self) -> u64 {
        self.uplink_bytes_per_sec
    }

    /// What it has not promised to anyone.
    pub(super) fn free_bytes_per_sec(&self) -> u64 {
        self.uplink_bytes_per_sec.saturating_sub(self.promised_bytes_per_sec)
    }

    fn member(&self, item: ItemNo) -> Option<usize> {
        self.members.binary_search_by_key(&item, |it| it.item).ok()
    }
}

/// What one site has of one item.
#[derive(Debug, Default)]
pub(super) struct Local {
    /// Boxes that could send and have something left to give.
    pub(super) free: Vec<Slot>,
    /// Boxes that could send and give all they have.
    pub(super) busy: Vec<Slot>,
    /// Seeds that could send.
    pub(super) seeds: Vec<Slot>,
    /// Boxes of the pools that hold everything.
    copies: u32,
    /// How many other boxes of the pools hold each chunk; empty while nobody holds a part.
    parts: Vec<u32>,
    /// Those that one of these holds; none while nobody holds a part.
    present: Option<ChunkSet>,
    /// How many leases bring each chunk from elsewhere; empty while none does.
    arriving: Vec<u32>,
    /// Those that one brings.
    coming: Option<ChunkSet>,
}

impl Local {
    /// Boxes here that hold this chunk.
    pub(super) fn holders(&self, chunk: u32) -> u32 {
        self.copies + self.parts.get(chunk as usize).copied().unwrap_or(0)
    }

    /// Whether some box here holds everything.
    pub(super) fn has_copy(&self) -> bool {
        self.copies > 0
    }

    /// Whether some box here holds a part.
    pub(super) fn has_parts(&self) -> bool {
        !self.parts.is_empty()
    }

    /// The fewest holders that a chunk has here.
    pub(super) fn fewest_holders(&self) -> u32 {
        self.copies + self.parts.iter().min().copied().unwrap_or(0)
    }

    /// Chunks that boxes here hold of which none holds everything.
    pub(super) fn present(&self) -> Option<&ChunkSet> {
        self.present.as_ref()
    }

    /// Chunks that are on their way here.
    pub(super) fn coming(&self) -> Option<&ChunkSet> {
        self.coming.as_ref()
    }

    fn count(&mut self, n_chunks: u32, part: Option<&ChunkSet>, by: i32) {
        match part {
            None => self.copies = self.copies.wrapping_add_signed(by),
            Some(chunks) => {
                if self.parts.is_empty() && !chunks.is_empty() {
                    self.parts = vec![0; n_chunks as usize];
                }
                let present = self.present.get_or_insert_with(|| ChunkSet::empty(n_chunks));
                for chunk in chunks.iter() {
                    let holders = &mut self.parts[chunk as usize];
                    *holders = holders.wrapping_add_signed(by);
                    match *holders {
                        0 => present.remove(chunk),
                        _ => present.insert(chunk),
                    };
                }
            }
        }
    }

    /// Notes that a lease brings these chunks here, or does no more.
    pub(super) fn count_arriving(&mut self, n_chunks: u32, portions: &[Range<u32>], by: i32) {
        if self.arriving.is_empty() {
            self.arriving = vec![0; n_chunks as usize];
        }
        let coming = self.coming.get_or_insert_with(|| ChunkSet::empty(n_chunks));
        for chunk in portions.iter().cloned().flatten() {
            let leases = &mut self.arriving[chunk as usize];
            *leases = leases.wrapping_add_signed(by);
            match *leases {
                0 => coming.remove(chunk),
                _ => coming.insert(chunk),
            };
        }
    }
}

#[derive(Debug)]
pub(super) struct Item {
    pub(super) id: ItemId,
    pub(super) n_chunks: u32,
    /// Everyone who holds some of it or fetches it, online or not.
    members: Vec<Slot>,
    /// By number of the site.
    locals: Vec<(SiteNo, Local)>,
    /// How many fetch it.
    pub(super) wishes: u32,
    /// Chunks that they lack, together.
    pub(super) missing: u64,
    /// What the boxes that could send it are believed to send together.
    pub(super) uplink_bytes_per_sec: u64,
    /// Wishes whose plan does not cover everything they lack.
    pub(super) wanting: BTreeSet<WishNo>,
}

impl Item {
    pub(super) fn local(&self, site: SiteNo) -> Option<&Local> {
        let at = self.locals.binary_search_by_key(&site, |(site, _)| *site).ok()?;
        Some(&self.locals[at].1)
    }

    pub(super) fn local_mut(&mut self, site: SiteNo) -> &mut Local {
        let at = match self.locals.binary_search_by_key(&site, |(site, _)| *site) {
            Ok(at) => at,
            Err(at) => {
                self.locals.insert(at, (site, Local::default()));
                at
            }
        };
        &mut self.locals[at].1
    }

    pub(super) fn locals(&self) -> impl Iterator<Item = &Local> {
        self.locals.iter().map(|(_, local)| local)
    }

    pub(super) fn sites(&self) -> impl Iterator<Item = SiteNo> + '_ {
        self.locals.iter().map(|(site, _)| *site)
    }
}

#[derive(Debug)]
pub(super) struct Site {
    pub(super) id: SiteId,
    /// What a byte from the site of each number costs, where the operator has said so.
    pub(super) costs: BTreeMap<SiteNo, u32>,
    /// What its boxes together may take for queues and preloads; none: no bound.
    pub(super) inbound_bytes_per_sec: Option<u64>,
    /// What they have been planned for queues and preloads.
    pub(super) planned_bytes_per_sec: u64,
    /// Wishes of queues and preloads at this site.
    pub(super) wishes: BTreeSet<WishNo>,
    /// Seeds may send to this site.
    pub(super) seeds_may_send: bool,
}

/// Everyone and everything.
#[derive(Debug, Default)]
pub(super) struct Crowd {
    devices: Vec<Device>,
    slots: BTreeMap<DeviceId, Slot>,
    items: Slab<Item>,
    item_numbers: BTreeMap<ItemId, ItemNo>,
    sites: Vec<Site>,
    site_numbers: BTreeMap<SiteId, SiteNo>,
    /// Seeds that were ever enrolled.
    seeds: Vec<Slot>,
    /// Every device of a customer.
    homes: BTreeMap<AccountId, Vec<Slot>>,
}

impl Crowd {
    pub(super) fn slot(&self, device: &DeviceId) -> Option<Slot> {
        self.slots.get(device).copied()
    }

    pub(super) fn device(&self, slot: Slot) -> &Device {
        &self.devices[slot as usize]
    }

    /// For fields that decide nothing about pools; the others have methods of their own.
    pub(super) fn device_mut(&mut self, slot: Slot) -> &mut Device {
        &mut self.devices[slot as usize]
    }

    pub(super) fn item_no(&self, item: &ItemId) -> Option<ItemNo> {
        self.item_numbers.get(item).copied()
    }

    pub(super) fn item(&self, item: ItemNo) -> &Item {
        &self.items[item as usize]
    }

    pub(super) fn item_mut(&mut self, item: ItemNo) -> &mut Item {
        &mut self.items[item as usize]
    }

    pub(super) fn site(&self, site: SiteNo) -> &Site {
        &self.sites[site as usize]
    }

    pub(super) fn site_mut(&mut self, site: SiteNo) -> &mut Site {
        &mut self.sites[site as usize]
    }

    pub(super) fn seeds(&self) -> &[Slot] {
        &self.seeds
    }

    pub(super) fn has_item(&self, item: ItemNo) -> bool {
        self.items.contains(item as usize)
    }

    /// Devices of the same customer at the same site, some of them if they are many.
    pub(super) fn home_of(&self, slot: Slot, at_most: usize) -> Vec<Slot> {
        let known = self.device(slot);
        let home = self.homes.get(&known.account).into_iter().flatten().copied();
        home.filter(|other| *other != slot && self.device(*other).site == known.site).take(at_most).collect()
    }

    /// Whether a device is in a pool of an item.
    pub(super) fn is_sending(&self, slot: Slot, item: ItemNo) -> bool {
        let known = self.device(slot);
        known.member(item).is_some_and(|at| known.members[at].pool_at != NOWHERE)
    }

    /// The number of a site, a new one if it has none.
    pub(super) fn site_no(&mut self, site: &SiteId) -> SiteNo {
        if let Some(known) = self.site_numbers.get(site) {
            return *known;
        }
        let number = number(self.sites.len());
        self.sites.push(Site {
            id: site.clone(),
            costs: BTreeMap::new(),
            inbound_bytes_per_sec: None,
            planned_bytes_per_sec: 0,
            wishes: BTreeSet::new(),
            seeds_may_send: true,
        });
        self.site_numbers.insert(site.clone(), number);
        number
    }

    /// The number of an item, a new one if it has none.
    pub(super) fn number_item(&mut self, item: ItemId, n_chunks: u32) -> ItemNo {
        if let Some(known) = self.item_no(&item) {
            return known;
        }
        let number = number(self.items.insert(Item {
            id: item,
            n_chunks,
            members: Vec::new(),
            locals: Vec::new(),
            wishes: 0,
            missing: 0,
            uplink_bytes_per_sec: 0,
            wanting: BTreeSet::new(),
        }));
        self.item_numbers.insert(item, number);
        number
    }

    /// Puts in a device, or changes what is known of it. It is offline until it arrives.
    pub(super) fn enrol(&mut self, device: DeviceId, profile: &Profile, config: &Config) -> Slot {
        let site = self.site_no(&profile.site);
        if let Some(slot) = self.slot(&device) {
            self.leave_pools(slot);
            let before = self.device(slot).account;
            self.homes.entry(before).or_default().retain(|it| *it != slot);
            self.homes.entry(profile.account).or_default().push(slot);
            let known = self.device_mut(slot);
            (known.kind, known.site, known.account) = (profile.kind, site, profile.account);
            if profile.kind == DeviceKind::Seed && !self.seeds.contains(&slot) {
                self.seeds.push(slot);
            }
            self.believe(slot, config);
            self.enter_pools(slot);
            return slot;
        }
        let slot = number(self.devices.len());
        self.devices.push(Device {
            id: device,
            kind: profile.kind,
            site,
            account: profile.account,
            reach: Reach::Open,
            revoked: false,
            silent_at: None,
            link: Link::default(),
            avoids: Vec::new(),
            complainers: Vec::new(),
            serves: Vec::new(),
            promised_bytes_per_sec: 0,
            wishes: Vec::new(),
            incoming_bytes_per_sec: 0,
            uplink_bytes_per_sec: 0,
            has_room: true,
            members: Vec::new(),
        });
        self.slots.insert(device, slot);
        self.homes.entry(profile.account).or_default().push(slot);
        if profile.kind == DeviceKind::Seed {
            self.seeds.push(slot);
        }
        self.believe(slot, config);
        slot
    }

    /// Changes whether a device may send (it comes, goes, is shut out, or says something of its link).
    pub(super) fn change(&mut self, slot: Slot, config: &Config, change: impl FnOnce(&mut Device)) {
        let before = self.device(slot);
        let (could_send, uplink) = (before.may_send(), before.uplink_bytes_per_sec);
        change(self.device_mut(slot));
        let known = self.device(slot);
        let can_send = known.may_send();
        let same = believed(known, config) == uplink;
        if could_send == can_send && (same || !can_send) {
            self.believe(slot, config);
            return;
        }
        // Whoever is in a pool counts there with what it was believed to give: out with the old, in with the new.
        let site = self.device(slot).site;
        debug_assert_eq!(site, self.device(slot).site, "a site changes by enrolment only");
        if could_send {
            self.leave_pools(slot);
        }
        self.believe(slot, config);
        if can_send {
            self.enter_pools(slot);
        }
    }

    /// Counts a lease for or against a source.
    pub(super) fn promise(&mut self, slot: Slot, config: &Config, more: u64, less: u64) {
        let known = self.device_mut(slot);
        known.promised_bytes_per_sec = known.promised_bytes_per_sec + more - less;
        let has_room = room(known, config);
        if has_room != known.has_room {
            self.swap_pools(slot, has_room);
        }
    }

    /// What a device holds of an item; none if nothing is known of it.
    pub(super) fn held(&self, slot: Slot, item: ItemNo) -> Option<Held<'_>> {
        let known = self.device(slot);
        let member = &known.members[known.member(item)?];
        Some(match &member.part {
            None => Held::All(self.item(item).n_chunks),
            Some(chunks) => Held::Part(chunks),
        })
    }

    /// Everyone who holds some of an item or fetches it.
    pub(super) fn members(&self, item: ItemNo) -> &[Slot] {
        &self.item(item).members
    }

    /// Every item a device holds some of or fetches.
    pub(super) fn items_of(&self, slot: Slot) -> impl Iterator<Item = ItemNo> + '_ {
        self.device(slot).members.iter().map(|it| it.item)
    }

    /// A device holds exactly this from now on.
    pub(super) fn hold(&mut self, slot: Slot, item: ItemNo, holding: &Holding) {
        let part =
            (!holding.is_complete()).then(|| Box::new(ChunkSet::from_ranges(self.item(item).n_chunks, holding.runs())));
        let at = self.join(slot, item);
        let n_chunks = self.item(item).n_chunks;
        let known = &mut self.devices[slot as usize];
        let member = &mut known.members[at];
        let in_pool = member.pool_at != NOWHERE;
        let before = std::mem::replace(&mut member.part, part);
        if in_pool && known.kind == DeviceKind::Box {
            let local = self.items[item as usize].local_mut(known.site);
            recount(local, n_chunks, before.as_deref(), member.part.as_deref());
        }
        self.settle(slot, item);
    }

    /// A device fetches an item from now on.
    pub(super) fn fetch(&mut self, slot: Slot, item: ItemNo) {
        self.join(slot, item);
        self.settle(slot, item);
    }

    /// Puts a device into the pool of an item or takes it out, and forgets it there when it has no part in it any more.
    pub(super) fn settle(&mut self, slot: Slot, item: ItemNo) {
        let known = self.device(slot);
        let Some(at) = known.member(item) else { return };
        let member = &known.members[at];
        let holds = member.part.as_ref().is_none_or(|chunks| !chunks.is_empty());
        let fetches = self.is_fetching(slot, item);
        let belongs = known.may_send() && (holds || (fetches && known.kind == DeviceKind::Box));
        match (member.pool_at != NOWHERE, belongs) {
            (false, true) => self.enter(slot, at),
            (true, false) => self.leave(slot, at),
            _ => {}
        }
        if !holds && !fetches {
            self.forget_member(slot, item);
        }
    }

    /// Forgets an item that nobody holds or fetches.
    pub(super) fn forget_idle_item(&mut self, item: ItemNo) {
        if self.items.get(item as usize).is_some_and(|it| it.members.is_empty() && it.wishes == 0) {
            let forgotten = self.items.remove(item as usize);
            self.item_numbers.remove(&forgotten.id);
        }
    }

    /// Memory that holdings use, in bytes: what is reserved, not only what is filled.
    pub(super) fn holdings_bytes(&self) -> usize {
        let member = |it: &Member| it.part.as_ref().map_or(0, |chunks| size_of::<ChunkSet>() + chunks.heap_bytes());
        let devices = self.devices.iter();
        let of_devices: usize = devices
            .map(|it| it.members.capacity() * size_of::<Member>() + it.members.iter().map(member).sum::<usize>())
            .sum();
        let of_locals = |it: &Local| {
            let slots = it.free.capacity() + it.busy.capacity() + it.seeds.capacity();
            let sets = [&it.present, &it.coming].into_iter().flatten().map(ChunkSet::heap_bytes).sum::<usize>();
            (slots + it.parts.capacity() + it.arriving.capacity()) * size_of::<u32>() + sets
        };
        let of_items = self.items.iter().map(|(_, it)| {
            it.members.capacity() * size_of::<Slot>() + it.locals.iter().map(|(_, it)| of_locals(it)).sum::<usize>()
        });
        of_devices + of_items.sum::<usize>()
    }

    /// Whether the pools and counts of an item agree with who is in it.
    #[cfg(test)]
    pub(super) fn check(&self, number: ItemNo) -> Result<(), String> {
        let item = self.item(number);
        let mut uplink = 0;
        for (site, local) in &item.locals {
            let mut copies = 0;
            let mut parts = vec![0; item.n_chunks as usize];
            let pools = [&local.free, &local.busy, &local.seeds];
            for (pool, slots) in pools.into_iter().enumerate() {
                for (at, slot) in slots.iter().enumerate() {
                    let known = self.device(*slot);
                    let member = &known.members[known.member(number).ok_or("not a member")?];
                    let expected = match (known.kind, known.has_room) {
                        (DeviceKind::Box, true) => 0,
                        (DeviceKind::Box, false) => 1,
                        (DeviceKind::Seed, _) => 2,
                    };
                    if (pool, known.site) != (expected, *site) || member.pool_at as usize != at || !known.may_send() {
                        return Err(format!("device {slot} is in the wrong pool"));
                    }
                    if known.kind == DeviceKind::Seed {
                        continue;
                    }
                    uplink += known.uplink_bytes_per_sec;
                    match &member.part {
                        None => copies += 1,
                        Some(chunks) => chunks.iter().for_each(|chunk| parts[chunk as usize] += 1),
                    }
                }
            }
            if copies != local.copies || (0..item.n_chunks).any(|it| local.holders(it) != copies + parts[it as usize]) {
                return Err(format!("holders at site {site} are miscounted"));
            }
        }
        (uplink == item.uplink_bytes_per_sec).then_some(()).ok_or_else(|| "uplinks are miscounted".to_owned())
    }

    fn is_fetching(&self, slot: Slot, item: ItemNo) -> bool {
        self.device(slot).wishes.iter().any(|(wanted, _)| *wanted == item)
    }

    fn believe(&mut self, slot: Slot, config: &Config) {
        let known = self.device_mut(slot);
        known.uplink_bytes_per_sec = believed(known, config);
        let has_room = room(known, config);
        if has_room != known.has_room {
            self.swap_pools(slot, has_room);
        }
    }

    fn join(&mut self, slot: Slot, item: ItemNo) -> usize {
        let it = &mut self.items[item as usize];
        let known = &mut self.devices[slot as usize];
        match known.members.binary_search_by_key(&item, |it| it.item) {
            Ok(at) => at,
            Err(at) => {
                let nothing = Some(Box::new(ChunkSet::empty(it.n_chunks)));
                known.members.reserve_exact(1);
                known
                    .members
                    .insert(at, Member { item, at: number(it.members.len()), pool_at: NOWHERE, part: nothing });
                it.members.push(slot);
                at
            }
        }
    }

    fn forget_member(&mut self, slot: Slot, item: ItemNo) {
        let known = &mut self.devices[slot as usize];
        let Some(at) = known.member(item) else { return };
        let gone = known.members.remove(at);
        let members = &mut self.items[item as usize].members;
        members.swap_remove(gone.at as usize);
        if let Some(moved) = members.get(gone.at as usize).copied() {
            let moved = &mut self.devices[moved as usize];
            let its = moved.member(item).expect("whoever is a member knows it");
            moved.members[its].at = gone.at;
        }
        self.forget_idle_item(item);
    }

    fn enter_pools(&mut self, slot: Slot) {
        let items: Vec<ItemNo> = self.items_of(slot).collect();
        items.into_iter().for_each(|item| self.settle(slot, item));
    }

    fn leave_pools(&mut self, slot: Slot) {
        for at in 0..self.device(slot).members.len() {
            if self.device(slot).members[at].pool_at != NOWHERE {
                self.leave(slot, at);
            }
        }
    }

    fn enter(&mut self, slot: Slot, at: usize) {
        let known = &mut self.devices[slot as usize];
        let member = &mut known.members[at];
        let item = &mut self.items[member.item as usize];
        let n_chunks = item.n_chunks;
        if known.kind == DeviceKind::Box {
            item.uplink_bytes_per_sec += known.uplink_bytes_per_sec;
        }
        let local = item.local_mut(known.site);
        let pool = pool_of(local, known.kind, known.has_room);
        member.pool_at = number(pool.len());
        pool.push(slot);
        if known.kind == DeviceKind::Box {
            local.count(n_chunks, member.part.as_deref(), 1);
        }
    }

    fn leave(&mut self, slot: Slot, at: usize) {
        let known = &mut self.devices[slot as usize];
        let member = &mut known.members[at];
        let number = member.item;
        let item = &mut self.items[number as usize];
        let n_chunks = item.n_chunks;
        if known.kind == DeviceKind::Box {
            item.uplink_bytes_per_sec -= known.uplink_bytes_per_sec;
        }
        let local = item.local_mut(known.site);
        let place = std::mem::replace(&mut member.pool_at, NOWHERE);
        let pool = pool_of(local, known.kind, known.has_room);
        pool.swap_remove(place as usize);
        let moved = pool.get(place as usize).copied();
        if known.kind == DeviceKind::Box {
            local.count(n_chunks, member.part.as_deref(), -1);
        }
        if let Some(moved) = moved {
            self.place_in_pool(moved, number, place);
        }
    }

    /// A box has used up what it can give, or has something to give again.
    fn swap_pools(&mut self, slot: Slot, has_room: bool) {
        let known = &mut self.devices[slot as usize];
        known.has_room = has_room;
        if known.kind == DeviceKind::Seed {
            return;
        }
        for at in 0..self.devices[slot as usize].members.len() {
            let known = &mut self.devices[slot as usize];
            let (site, member) = (known.site, &mut known.members[at]);
            if member.pool_at == NOWHERE {
                continue;
            }
            let item = member.item;
            let place = member.pool_at;
            let local = self.items[item as usize].local_mut(site);
            let (from, to) = match has_room {
                true => (&mut local.busy, &mut local.free),
                false => (&mut local.free, &mut local.busy),
            };
            member.pool_at = number(to.len());
            to.push(slot);
            from.swap_remove(place as usize);
            if let Some(moved) = from.get(place as usize).copied() {
                self.place_in_pool(moved, item, place);
            }
        }
    }

    fn place_in_pool(&mut self, slot: Slot, item: ItemNo, place: u32) {
        let known = &mut self.devices[slot as usize];
        let at = known.member(item).expect("whoever is in a pool is a member");
        known.members[at].pool_at = place;
    }
}

fn pool_of(local: &mut Local, kind: DeviceKind, has_room: bool) -> &mut Vec<Slot> {
    match (kind, has_room) {
        (DeviceKind::Seed, _) => &mut local.seeds,
        (DeviceKind::Box, true) => &mut local.free,
        (DeviceKind::Box, false) => &mut local.busy,
    }
}

/// Counts only what has changed between two holdings.
fn recount(local: &mut Local, n_chunks: u32, before: Option<&ChunkSet>, after: Option<&ChunkSet>) {
    let (Some(before), Some(after)) = (before, after) else {
        local.count(n_chunks, before, -1);
        local.count(n_chunks, after, 1);
        return;
    };
    let (mut lost, mut gained) = (before.clone(), after.clone());
    lost.subtract(after);
    gained.subtract(before);
    local.count(n_chunks, Some(&lost), -1);
    local.count(n_chunks, Some(&gained), 1);
}

fn believed(device: &Device, config: &Config) -> u64 {
    let unknown = match device.kind {
        DeviceKind::Box => config.unknown_box_bytes_per_sec,
        DeviceKind::Seed => config.unknown_seed_bytes_per_sec,
    };
    let measured = device.link.uplink_bytes_per_sec.map(|rate| rate.max(config.slowest_bytes_per_sec));
    measured.unwrap_or(unknown).min(device.link.upload_cap_bytes_per_sec.unwrap_or(u64::MAX)).min(MAX_RATE)
}

/// Above any link there is, and far from where sums overflow.
const MAX_RATE: u64 = 1 << 40;

fn room(device: &Device, config: &Config) -> bool {
    device.promised_bytes_per_sec == 0 || device.free_bytes_per_sec() >= config.least_bytes_per_sec
}

fn number(index: usize) -> u32 {
    u32::try_from(index).expect("there are fewer than four billion of anything")
}
