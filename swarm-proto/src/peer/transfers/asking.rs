//! What to ask next, and of whom: plans, manifests, holdings, chunks.
//!
//! [`Transfers::advance`] runs after every event and asks for all that may be asked now. It never waits for anything;
//! what may be asked later is found again at the next event or timeout.

use std::cmp::Reverse;

use super::*;
use crate::peer::picker::Offer;

/// How often transfers with sources are looked at when nothing happens: rates fall, and the slow lose their chunks.
const TICK: Duration = Duration::from_millis(500);
/// A source this many times slower than the asker loses its chunk.
/// Three rather than two: at two, equal links steal from each other under jitter.
const STEAL_RATIO: u64 = 3;
/// No chunk is stolen before its source had this long to send it.
const STEAL_AFTER: Duration = Duration::from_secs(1);
/// One chunk in so many may be stolen, but [`STEALS_MIN`] always: it bounds what is fetched in part and thrown away.
const STEALS_PER_CHUNKS: u32 = 50;
const STEALS_MIN: u32 = 4;
/// Portions that their source will have sent within this many seconds are left to it.
const PORTION_SOON_SECS: u64 = 1;
/// Boxes are given this long to get going before seeds help them.
const HELP_AFTER: Duration = Duration::from_secs(3);
/// How far ahead of its measured rate a source is asked.
const PIPELINE: Duration = Duration::from_millis(500);
/// A source whose part is of no use is asked again this often.
const USELESS_REFRESH: Duration = Duration::from_secs(1);
/// The deadline of a chunk allows this many times what its source usually takes.
const DEADLINE_FACTOR: u64 = 8;
/// Short questions to one source at a time: together with its chunks they stay below what a connection carries.
const SMALL_PER_SOURCE: usize = 4;
/// Most ranges that a question to the tracker may carry.
const RANGES_MAX: usize = 16_384;

impl Transfers {
    /// Asks for everything that may be asked now.
    pub(super) fn advance(&mut self, now: Now) {
        self.seen = self.seen.max(now.mono);
        self.mind_closures(now);
        let active: Vec<ItemId> = self.active().collect();
        for &item in &active {
            self.look_for_sources(now, item);
            self.ask_small(now, item);
        }
        for &item in &active {
            self.ask_for_viewer(now, item);
        }
        let mut kept = BTreeSet::new();
        for (at, &item) in active.iter().enumerate() {
            self.ask_chunks(now, item, &kept);
            if at + 1 < active.len() {
                self.keep_for(item, &mut kept);
            }
        }
    }

    /// The items worked on, highest priority first. What waits for its time takes nobody's place.
    pub(super) fn active(&self) -> impl Iterator<Item = ItemId> + '_ {
        let mut places = self.config.active_items;
        let active = self.order.iter().filter(move |item| match self.items.get(item) {
            Some(transfer) if transfer.closed => true,
            Some(_) if places > 0 => {
                places -= 1;
                true
            }
            _ => false,
        });
        active.copied()
    }

    /// When something may be asked that may not be asked now.
    pub(super) fn next_wake(&self) -> Option<Mono> {
        let mut next = Next { seen: self.seen, at: None };
        next.take(self.cap.iter().filter(|_| !self.items.is_empty()).map(Cap::ready_at));
        for transfer in self.active().filter_map(|item| self.items.get(&item)) {
            self.item_wakes(transfer, &mut next);
        }
        next.at
    }

    /// The device may be asked for this item from now on.
    pub(super) fn add_role(&mut self, now: Now, item: ItemId, device: DeviceId, found_by: FoundBy) {
        if self.banned.contains(&device) {
            return;
        }
        let Some(transfer) = self.items.get_mut(&item) else { return };
        self.sources.entry(device).or_default();
        if let Some(role) = transfer.roles.get_mut(&device) {
            // A lease that ran out with nobody to renew it no longer explains why we ask there.
            let plan_is_over = !self.tracker_up && role.lease_until <= now.mono;
            if found_by == FoundBy::Plan || (role.found_by == FoundBy::Plan && plan_is_over) {
                role.found_by = found_by;
            }
            return;
        }
        if transfer.roles.len() >= self.config.sources_per_item && !transfer.make_room() {
            return;
        }
        transfer.roles.insert(device, Role::new(now.mono, found_by));
    }

    pub(super) fn take_lease(&mut self, now: Now, item: ItemId, renew_after: Duration, lease: Lease) {
        self.add_role(now, item, lease.device, FoundBy::Plan);
        let Some(transfer) = self.items.get_mut(&item) else { return };
        let width = transfer.geometry.n_chunks();
        let Some(role) = transfer.roles.get_mut(&lease.device) else { return };
        // Our clock may be wrong, but not by so much that a fresh lease is over before its renewal.
        let shortest = (renew_after * 2).min(LEASE_MAX);
        role.lease_until = now.mono + lease.until.since(now.utc).clamp(shortest, LEASE_MAX);
        role.portions = (!lease.portions.is_empty()).then(|| ChunkSet::from_ranges(width, lease.portions));
        if role.cap.as_ref().map(Cap::bytes_per_sec) != lease.rate_cap_bytes_per_sec {
            role.cap = lease.rate_cap_bytes_per_sec.map(Cap::new);
        }
        if let Some(source) = self.sources.get_mut(&lease.device) {
            source.kind = Some(lease.kind);
        }
    }

    pub(super) fn is_seed(&self, device: &DeviceId) -> bool {
        self.sources.get(device).is_some_and(|s| s.kind == Some(DeviceKind::Seed))
    }

    /// The tracker first; Kademlia and the pinned seeds when the plan is not enough.
    fn look_for_sources(&mut self, now: Now, item: ItemId) {
        let Some(transfer) = self.items.get_mut(&item) else { return };
        if let Stage::Paused { until, .. } = transfer.stage {
            if until <= now.mono {
                transfer.stage = Stage::Reserving;
                self.actions.push_back(Action::Reserve { item });
            }
            return;
        }

        let asked_lately = transfer.plan_asked_at.is_some_and(|at| now.mono < at + PLAN_EVERY_MIN);
        if self.tracker_up && !transfer.plan_asked && transfer.plan_due <= now.mono && !asked_lately {
            transfer.plan_asked = true;
            transfer.plan_asked_at = Some(now.mono);
            let mut missing = transfer.stage.picker().map_or_else(Vec::new, |picker| picker.missing().ranges());
            missing.truncate(RANGES_MAX);
            self.actions.push_back(Action::AskTracker { item, missing, playing: transfer.is_playing(now.mono) });
        }

        if transfer.closed {
            return;
        }
        let stalled = now.mono.since(transfer.moved_at) >= self.config.stall_after;
        let planned = transfer.plan_asked_at.is_some() && !transfer.plan_asked;
        let deserted = planned && !(transfer.plan_names_sources && transfer.has_planned_source(now.mono));
        let on_our_own = !self.tracker_up || deserted;
        if stalled || on_our_own {
            transfer.degraded_since.get_or_insert(now.mono);
            transfer.degraded_until = now.mono + if stalled { DEGRADED_FOR } else { Duration::ZERO };
        } else if transfer.degraded_until <= now.mono {
            transfer.degraded_since = None;
        }
        let Some(since) = transfer.degraded_since else { return };
        if transfer.kademlia_asked_at.is_none_or(|at| at + KADEMLIA_EVERY <= now.mono) {
            transfer.kademlia_asked_at = Some(now.mono);
            self.actions.push_back(Action::AskKademlia { item });
        }
        if since + self.config.pinned_after <= now.mono {
            for seed in self.pinned.clone() {
                self.add_role(now, item, seed, FoundBy::Pinned);
            }
        }
    }

    /// Manifests and holdings: short questions that need no slot.
    fn ask_small(&mut self, now: Now, item: ItemId) {
        let Some(transfer) = self.items.get(&item) else { return };
        let mut asks: Vec<(DeviceId, Ask)> = Vec::new();
        if matches!(transfer.stage, Stage::Manifest) {
            asks.extend(self.manifest_source(now, item, transfer).map(|device| (device, Ask::Manifest)));
        }
        let soonest = USELESS_REFRESH.min(self.config.holding_refresh);
        let old = |role: &&Role| {
            !role.holding_open
                && role.holding_asked_at.is_none_or(|at| at + soonest <= now.mono)
                && self.is_allowed(now.mono, transfer, role)
        };
        let missing = match transfer.roles.values().any(|role| old(&role)) {
            true => transfer.stage.picker().map(Picker::missing),
            false => None,
        };
        for (&device, role) in transfer.roles.iter().filter(|(_, role)| old(role)) {
            if role.holding_due(now.mono, missing.as_ref(), self.config.holding_refresh)
                && self.is_usable_as(now.mono, transfer, device, role)
            {
                asks.push((device, Ask::Holding));
            }
        }
        for (device, ask) in asks {
            let small = |r: &&Request| r.device == device && !matches!(r.ask, Ask::Chunk(_));
            if self.requests.values().filter(small).count() < SMALL_PER_SOURCE {
                self.ask(now, item, device, ask);
            }
        }
    }

    /// Whom to ask for the manifest: one at a time, a second one when the first is slow.
    fn manifest_source(&self, now: Now, item: ItemId, transfer: &Transfer) -> Option<DeviceId> {
        let asked: Vec<&Request> =
            self.requests.values().filter(|r| r.item == item && r.ask == Ask::Manifest && r.is_alive()).collect();
        let patient = asked.iter().any(|r| now.mono < r.asked_at + MANIFEST_PATIENCE || r.is_checking());
        if patient || asked.len() >= 2 {
            return None;
        }
        let free = |device: &DeviceId| !asked.iter().any(|r| r.device == *device);
        self.ranked(now.mono, transfer).into_iter().find(free)
    }

    /// What a viewer is about to see goes before everything else, to whoever can send it soonest.
    fn ask_for_viewer(&mut self, now: Now, item: ItemId) {
        let Some(transfer) = self.items.get(&item) else { return };
        let Some(playing) = transfer.playing.as_ref().filter(|playing| now.mono < playing.until) else { return };
        let end = playing.from.saturating_add(self.config.read_ahead_chunks).min(transfer.geometry.n_chunks());
        let window = playing.from..end;
        for device in self.ranked(now.mono, transfer) {
            while self.may_ask_chunk(now.mono, item, device) {
                let Some(chunk) = self.items.get(&item).and_then(|transfer| {
                    let holding = transfer.roles.get(&device)?.holding.as_ref()?;
                    transfer.stage.picker()?.pick_in_order(holding, window.clone())
                }) else {
                    break;
                };
                self.ask_chunk(now, item, device, chunk);
            }
            if self.may_ask_chunk(now.mono, item, device) {
                self.steal(now, item, device, Some(window.clone()));
            }
        }
    }

    /// Asks one chunk of each source in turn until no slot, no budget or no chunk is left.
    fn ask_chunks(&mut self, now: Now, item: ItemId, kept: &BTreeSet<DeviceId>) {
        let Some(transfer) = self.items.get(&item) else { return };
        let allowed = |(_, role): &(&DeviceId, &Role)| self.is_allowed(now.mono, transfer, role);
        let mut roles = transfer.roles.iter().filter(allowed);
        let somebody = |(device, _): (&DeviceId, &Role)| self.may_ask_chunk(now.mono, item, *device);
        if !self.has_budget(now.mono) || transfer.stage.picker().is_none() || !roles.any(somebody) {
            return;
        }
        let mut devices = self.ranked(now.mono, transfer);
        devices.retain(|device| !kept.contains(device));
        while !devices.is_empty() {
            devices.retain(|&device| {
                if !self.may_ask_chunk(now.mono, item, device) {
                    return false;
                }
                let Some(chunk) = self.choose(now.mono, item, device) else {
                    self.steal(now, item, device, None);
                    return false;
                };
                self.ask_chunk(now, item, device, chunk);
                true
            });
        }
    }

    /// A source that has something wanted of this item gives nothing to those that come after it.
    fn keep_for(&self, item: ItemId, kept: &mut BTreeSet<DeviceId>) {
        let Some(transfer) = self.items.get(&item) else { return };
        let Some(picker) = transfer.stage.picker() else { return };
        let has_more = transfer.roles.iter().filter(|(device, role)| {
            role.holding.as_ref().is_some_and(|holding| holding.meets(picker.wanted()))
                && self.is_usable(self.seen, transfer, **device)
        });
        kept.extend(has_more.map(|(&device, _)| device));
    }

    fn choose(&mut self, now: Mono, item: ItemId, device: DeviceId) -> Option<u32> {
        let transfer = self.items.get(&item)?;
        let picker = transfer.stage.picker()?;
        let role = transfer.roles.get(&device)?;
        let holding = role.holding.as_ref()?;
        let spared = self.left_to_boxes(now, transfer, device);
        let mut portions = role.portions.clone();
        if let (Some(portions), Some(spared)) = (&mut portions, &spared) {
            portions.subtract(spared);
        }
        let mut left = self.left_to_others(now, transfer, device);
        match (&mut left, spared) {
            (Some(left), Some(spared)) => left.add(&spared),
            (None, spared) => left = spared,
            (Some(_), None) => {}
        }
        let offer = Offer { holding, portions: portions.as_ref(), left_to_others: left.as_ref() };
        picker.pick(&offer, &mut self.rng)
    }

    /// What the plan has given to others who will have sent it soon. Nothing is left to seeds by a box.
    fn left_to_others(&self, now: Mono, transfer: &Transfer, device: DeviceId) -> Option<ChunkSet> {
        let wanted = transfer.stage.picker()?.wanted();
        let mut left: Option<ChunkSet> = None;
        for (other, role) in transfer.roles.iter().filter(|(other, _)| **other != device) {
            let Some(portions) = role.portions.as_ref().filter(|portions| portions.meets(wanted)) else { continue };
            let seed_for_box = self.is_seed(other) && !self.is_seed(&device);
            if seed_for_box || !self.is_promising(now, transfer, *other) {
                continue;
            }
            let rate = self.sources.get(other).and_then(|source| source.rate_bytes_per_sec);
            let bytes = u64::from(portions.shared(wanted)) * CHUNK_BYTES;
            if rate.is_none_or(|rate| bytes / rate.max(1) < PORTION_SOON_SECS) {
                left.get_or_insert_with(|| ChunkSet::empty(wanted.width())).add(portions);
            }
        }
        left
    }

    /// For a seed: what boxes have, or may turn out to have any moment. Servers are spared as long as boxes get along.
    fn left_to_boxes(&self, now: Mono, transfer: &Transfer, device: DeviceId) -> Option<ChunkSet> {
        if !self.is_seed(&device) || self.needs_help(now, transfer) {
            return None;
        }
        let width = transfer.geometry.n_chunks();
        let mut left: Option<ChunkSet> = None;
        for (other, role) in &transfer.roles {
            if self.is_seed(other) || !self.is_promising(now, transfer, *other) {
                continue;
            }
            let left = left.get_or_insert_with(|| ChunkSet::empty(width));
            match &role.holding {
                Some(holding) => left.add(holding),
                None => left.add(&ChunkSet::full(width)),
            }
        }
        left
    }

    /// It has sent something, or is too new to be judged; and it is not being left alone.
    fn is_promising(&self, now: Mono, transfer: &Transfer, device: DeviceId) -> bool {
        let Some(role) = transfer.roles.get(&device) else { return false };
        let known_for = now.since(role.since.max(transfer.fetching_since));
        self.is_usable(now, transfer, device) && (role.delivered || known_for < self.config.spare_seeds_for)
    }

    fn needs_help(&self, now: Mono, transfer: &Transfer) -> bool {
        now.since(transfer.fetching_since) >= HELP_AFTER
            && transfer.meter.per_sec(now) < self.config.help_below_bytes_per_sec
    }

    /// Whether the device may be asked anything about this item now.
    fn is_usable(&self, now: Mono, transfer: &Transfer, device: DeviceId) -> bool {
        transfer.roles.get(&device).is_some_and(|role| self.is_usable_as(now, transfer, device, role))
    }

    /// The same, for whoever has its role at hand: most roles are those of plans long over.
    fn is_usable_as(&self, now: Mono, transfer: &Transfer, device: DeviceId, role: &Role) -> bool {
        self.is_allowed(now, transfer, role)
            && role.shunned_until <= now
            && self.sources.get(&device).is_some_and(|source| source.rests_until <= now)
    }

    /// Whether plan, Kademlia or need let it be asked, however it behaves.
    fn is_allowed(&self, now: Mono, transfer: &Transfer, role: &Role) -> bool {
        !transfer.closed
            && match (role.found_by, transfer.degraded_since) {
                (FoundBy::Plan, None) => now < role.lease_until,
                (FoundBy::Kademlia | FoundBy::Pinned, None) => false,
                (FoundBy::Plan | FoundBy::Kademlia, Some(_)) => true,
                (FoundBy::Pinned, Some(since)) => now >= since + self.config.pinned_after,
            }
    }

    /// Those who may be asked, best first: well-behaved before struck, boxes before seeds, fast before slow.
    fn ranked(&self, now: Mono, transfer: &Transfer) -> Vec<DeviceId> {
        let mut devices: Vec<_> = transfer
            .roles
            .iter()
            .filter(|(device, role)| self.is_usable_as(now, transfer, **device, role))
            .map(|(&device, role)| {
                let rate = self.sources.get(&device).and_then(|s| s.rate_bytes_per_sec);
                (role.strikes >= STRIKES_TO_DEMOTE, self.is_seed(&device), Reverse(rate), device)
            })
            .collect();
        devices.sort_unstable();
        devices.into_iter().map(|(.., device)| device).collect()
    }

    /// Whether budget, caps and the source's slots allow one more chunk.
    fn may_ask_chunk(&self, now: Mono, item: ItemId, device: DeviceId) -> bool {
        let Some(transfer) = self.items.get(&item) else { return false };
        let (Some(role), Some(source)) = (transfer.roles.get(&device), self.sources.get(&device)) else {
            return false;
        };
        self.has_budget(now)
            && source.open < self.slots(source, role)
            && role.cap.as_ref().is_none_or(|cap| cap.ready_at() <= now)
            && self.is_usable(now, transfer, device)
    }

    /// Whether one more chunk may be asked of anybody.
    fn has_budget(&self, now: Mono) -> bool {
        self.outstanding_bytes + CHUNK_BYTES <= self.config.outstanding_bytes
            && self.cap.as_ref().is_none_or(|cap| cap.ready_at() <= now)
    }

    fn slots(&self, source: &Source, role: &Role) -> u32 {
        match source.rate_bytes_per_sec {
            Some(rate) if role.strikes < STRIKES_TO_DEMOTE => {
                let ahead = rate.saturating_mul(PIPELINE.as_millis() as u64) / (1_000 * CHUNK_BYTES);
                let ahead = u32::try_from(ahead).unwrap_or(u32::MAX).saturating_add(2);
                ahead.min(self.config.outstanding_per_source)
            }
            _ => 1,
        }
    }

    /// Takes a chunk from a much slower source and asks this one for it.
    fn steal(&mut self, now: Now, item: ItemId, device: DeviceId, window: Option<Range<u32>>) {
        let Some(transfer) = self.items.get(&item) else { return };
        let (Some(role), Some(source)) = (transfer.roles.get(&device), self.sources.get(&device)) else { return };
        let (Some(holding), Some(rate)) = (&role.holding, source.rate_bytes_per_sec) else { return };
        if transfer.steals >= STEALS_MIN.max(transfer.geometry.n_chunks() / STEALS_PER_CHUNKS) {
            return;
        }
        let spares_boxes = self.is_seed(&device) && window.is_none() && !self.needs_help(now.mono, transfer);
        let mine = (u64::from(source.open + 1) * CHUNK_BYTES * 1_000 / rate.max(1)).max(1);
        let slowest = self
            .requests
            .iter()
            .filter(|(_, r)| r.item == item && r.device != device && r.stage == RequestStage::Open)
            .filter(|(_, r)| !spares_boxes || self.is_seed(&r.device))
            .filter_map(|(&id, r)| {
                let Ask::Chunk(chunk) = r.ask else { return None };
                let fits = window.as_ref().is_none_or(|window| window.contains(&chunk.get()));
                let elapsed = now.mono.since(r.asked_at);
                let left = r.bytes.saturating_sub(r.received);
                let takes = left.saturating_mul(elapsed.as_millis() as u64) / r.received.max(1);
                let worth_it = elapsed >= STEAL_AFTER && takes >= mine * STEAL_RATIO;
                (fits && worth_it && holding.contains(chunk.get())).then_some((takes, id, chunk))
            })
            .max_by_key(|&(takes, ..)| takes);
        let Some((_, id, chunk)) = slowest else { return };
        self.cancel(id);
        if let Some(transfer) = self.items.get_mut(&item) {
            transfer.steals += 1;
        }
        self.ask_chunk(now, item, device, chunk.get());
    }

    fn ask_chunk(&mut self, now: Now, item: ItemId, device: DeviceId, chunk: u32) {
        let Some(transfer) = self.items.get_mut(&item) else { return };
        let index = transfer.geometry.chunk(chunk).expect("a picker has no chunk beyond its item");
        let Some(picker) = transfer.stage.picker_mut() else { return };
        picker.take(chunk);
        self.ask(now, item, device, Ask::Chunk(index));
    }

    fn ask(&mut self, now: Now, item: ItemId, device: DeviceId, ask: Ask) {
        let Some(transfer) = self.items.get_mut(&item) else { return };
        let (Some(role), Some(source)) = (transfer.roles.get_mut(&device), self.sources.get_mut(&device)) else {
            return;
        };
        let (mut bytes, mut deadline) = (0, SMALL_DEADLINE);
        match ask {
            Ask::Manifest => {}
            Ask::Holding => {
                role.holding_open = true;
                role.holding_asked_at = Some(now.mono);
            }
            Ask::Chunk(chunk) => {
                bytes = transfer.geometry.chunk_len(chunk) as u64;
                source.open += 1;
                self.outstanding_bytes += bytes;
                for cap in self.cap.iter_mut().chain(&mut role.cap) {
                    cap.take(now.mono, bytes);
                }
                let queue = u64::from(source.open) * CHUNK_BYTES;
                let usual = source.rate_bytes_per_sec.map_or(0, |rate| queue.saturating_mul(1_000) / rate.max(1));
                deadline = self.config.chunk_deadline.max(Duration::from_millis(usual.saturating_mul(DEADLINE_FACTOR)));
            }
        }
        let id = RequestId(self.next_request);
        self.next_request += 1;
        let request = Request {
            device,
            item,
            ask,
            found_by: role.found_by,
            bytes,
            asked_at: now.mono,
            deadline: now.mono + deadline,
            received: 0,
            received_before: 0,
            stage: RequestStage::Open,
        };
        self.requests.insert(id, request);
        self.actions.push_back(Action::Request { id, device, item, ask });
    }

    fn item_wakes(&self, transfer: &Transfer, next: &mut Next) {
        if let Stage::Paused { until, .. } = transfer.stage {
            return next.take([until]);
        }
        next.take(transfer.closure_wakes());
        if self.tracker_up && !transfer.plan_asked {
            let lately = transfer.plan_asked_at.map_or(Mono::ZERO, |at| at + PLAN_EVERY_MIN);
            next.take([transfer.plan_due.max(lately)]);
        }
        if transfer.closed {
            return;
        }
        next.take([transfer.moved_at + self.config.stall_after]);
        if let Some(since) = transfer.degraded_since {
            next.take([since + self.config.pinned_after]);
            next.take(transfer.kademlia_asked_at.map(|at| at + KADEMLIA_EVERY));
        }
        if !transfer.roles.is_empty() {
            next.take([self.seen + TICK]);
        }
        for (device, role) in transfer.roles.iter().filter(|(_, role)| self.is_allowed(self.seen, transfer, role)) {
            next.take([role.shunned_until]);
            next.take(role.cap.as_ref().map(Cap::ready_at));
            next.take(self.sources.get(device).map(|source| source.rests_until));
        }
    }
}

/// The first moment after the last event.
struct Next {
    seen: Mono,
    at: Option<Mono>,
}

impl Next {
    fn take(&mut self, moments: impl IntoIterator<Item = Mono>) {
        let later = moments.into_iter().filter(|at| *at > self.seen);
        self.at = self.at.into_iter().chain(later).min();
    }
}

impl Transfer {
    pub(super) fn drop_role(&mut self, device: &DeviceId) {
        let Some(role) = self.roles.remove(device) else { return };
        if let (true, Some(holding), Some(picker)) = (role.counted, &role.holding, self.stage.picker_mut()) {
            picker.count_out(holding);
        }
    }

    pub(super) fn is_playing(&self, now: Mono) -> bool {
        self.playing.as_ref().is_some_and(|playing| now < playing.until)
    }

    /// Drops a source that nobody leased, to make room for another.
    fn make_room(&mut self) -> bool {
        let idle = |(_, role): &(&DeviceId, &Role)| role.found_by != FoundBy::Plan && !role.delivered;
        let Some(device) = self.roles.iter().find(idle).map(|(&device, _)| device) else { return false };
        self.drop_role(&device);
        true
    }
}

impl Role {
    fn new(since: Mono, found_by: FoundBy) -> Self {
        Self {
            found_by,
            since,
            lease_until: since,
            cap: None,
            portions: None,
            holding: None,
            holding_asked_at: None,
            holding_open: false,
            strikes: 0,
            shunned_until: Mono::ZERO,
            delivered: false,
            counted: false,
        }
    }

    /// Whether it may have more by now than we know.
    fn holding_due(&self, now: Mono, missing: Option<&ChunkSet>, refresh: Duration) -> bool {
        let every = match &self.holding {
            Some(holding) if holding.is_full() => return false,
            Some(holding) if missing.is_none_or(|missing| missing.meets(holding)) => refresh,
            _ => USELESS_REFRESH,
        };
        self.holding_asked_at.is_none_or(|at| at + every <= now)
    }
}
