//! What to ask next, and of whom: plans, manifests, holdings, chunks.
//!
//! [`Transfers::advance`] runs after every event and asks for all that may be asked now. It never waits for anything;
//! what may be asked later is found again at the next event or timeout.

use std::cmp::Reverse;

use super::answers::tally;
use super::roles::Terms;
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
/// A source that will soon have sent all it is known to hold of what is wanted is asked again this often.
const DRY_REFRESH: Duration = Duration::from_millis(500);
/// That soon.
const DRY_WITHIN: Duration = Duration::from_secs(1);
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
        let mut active = std::mem::take(&mut self.looked_at);
        active.clear();
        active.extend(self.active());
        for &item in &active {
            self.look_for_sources(now, item);
            self.allow(now.mono, item);
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
        self.looked_at = active;
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
        let source = self.sources.enter(device);
        let known = transfer.roles.get(source).map(|role| (role.found_by, role.lease_until));
        let Some((known_by, lease_until)) = known else {
            let is_full = transfer.roles.len() >= self.config.sources_per_item;
            if !is_full || transfer.make_room(now.mono, item, &self.sources, &mut self.traffic) {
                transfer.roles.push(Role::new(source, now.mono, found_by));
            }
            return;
        };
        // A lease that ran out with nobody to renew it no longer explains why we ask there.
        let plan_is_over = !self.tracker_up && lease_until <= now.mono;
        let by =
            if found_by == FoundBy::Plan || (known_by == FoundBy::Plan && plan_is_over) { found_by } else { known_by };
        if by != known_by {
            transfer.know_by(item, source, by, &self.sources, &mut self.traffic);
        }
    }

    pub(super) fn take_lease(&mut self, now: Now, item: ItemId, renew_after: Duration, lease: Lease) {
        self.add_role(now, item, lease.device, FoundBy::Plan);
        let Some(transfer) = self.items.get_mut(&item) else { return };
        let width = transfer.geometry.n_chunks();
        let Some(source) = self.sources.number(&lease.device) else { return };
        let Some(role) = transfer.roles.get_mut(source) else { return };
        // Our clock may be wrong, but not by so much that a fresh lease is over before its renewal.
        let shortest = (renew_after * 2).min(LEASE_MAX);
        role.lease_until = now.mono + lease.until.since(now.utc).clamp(shortest, LEASE_MAX);
        role.portions = (!lease.portions.is_empty()).then(|| ChunkSet::from_ranges(width, lease.portions));
        if role.cap.as_ref().map(Cap::bytes_per_sec) != lease.rate_cap_bytes_per_sec {
            role.cap = lease.rate_cap_bytes_per_sec.map(Cap::new);
        }
        transfer.roles.changed();
        self.sources[source].kind = Some(lease.kind);
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

    /// Works out who may be asked. Of those who no longer may, what they hold is forgotten: it would be out of date.
    fn allow(&mut self, now: Mono, item: ItemId) {
        let Some(transfer) = self.items.get_mut(&item) else { return };
        let terms = Terms {
            closed: transfer.closed,
            degraded_since: transfer.degraded_since,
            pinned_after: self.config.pinned_after,
        };
        if !transfer.roles.allow(now, terms) {
            return;
        }
        for place in 0..transfer.roles.len() {
            if transfer.roles.is_allowed(place) {
                continue;
            }
            let role = &mut transfer.roles[place];
            let (holding, counted) = (role.holding.take(), std::mem::take(&mut role.counted));
            role.holding_asked_at = None;
            if let (true, Some(holding), Some(picker)) = (counted, holding, transfer.stage.picker_mut()) {
                picker.count_out(&holding);
            }
        }
    }

    /// Manifests and holdings: short questions that need no slot.
    fn ask_small(&mut self, now: Now, item: ItemId) {
        let Some(transfer) = self.items.get(&item) else { return };
        let mut asks: Vec<(SourceNo, Ask)> = Vec::new();
        if matches!(transfer.stage, Stage::Manifest) {
            asks.extend(self.manifest_source(now, item, transfer).map(|source| (source, Ask::Manifest)));
        }
        let picker = transfer.stage.picker();
        for role in transfer.roles.allowed() {
            if self.is_holding_due(now.mono, role, picker) && self.is_usable(now.mono, role) {
                asks.push((role.source, Ask::Holding));
            }
        }
        for (source, ask) in asks {
            let small = |r: &&Request| r.source == source && !r.is_for_chunk();
            if self.requests.values().filter(small).count() < SMALL_PER_SOURCE {
                self.ask(now, item, source, ask);
            }
        }
    }

    /// Whether a source may have more by now than we know, and it matters.
    fn is_holding_due(&self, now: Mono, role: &Role, picker: Option<&Picker>) -> bool {
        let refresh = self.config.holding_refresh;
        let Some(asked_at) = role.holding_asked_at.filter(|_| !role.holding_open) else { return !role.holding_open };
        if now < asked_at + DRY_REFRESH.min(refresh) {
            return false;
        }
        match &role.holding {
            Some(holding) if holding.is_full() => false,
            Some(_) if asked_at + refresh <= now => true,
            Some(holding) => picker.is_some_and(|picker| {
                let rate = self.sources[role.source].rate_bytes_per_sec.unwrap_or(0);
                let soon = rate.saturating_mul(DRY_WITHIN.as_secs()) / CHUNK_BYTES;
                !picker.wanted().shares_more_than(holding, u32::try_from(soon).unwrap_or(u32::MAX).saturating_add(1))
            }),
            None => true,
        }
    }

    /// Whom to ask for the manifest: one at a time, a second one when the first is slow.
    fn manifest_source(&self, now: Now, item: ItemId, transfer: &Transfer) -> Option<SourceNo> {
        let asked: Vec<&Request> =
            self.requests.values().filter(|r| r.item == item && r.ask == Ask::Manifest && r.is_alive()).collect();
        let patient = asked.iter().any(|r| now.mono < r.asked_at + MANIFEST_PATIENCE || r.is_checking());
        if patient || asked.len() >= 2 {
            return None;
        }
        let free = |role: &&Role| role.bare_until <= now.mono && !asked.iter().any(|r| r.source == role.source);
        let ranked = self.ranked(now.mono, transfer);
        let mut roles: Vec<&Role> = ranked.into_iter().map(|place| &transfer.roles[place]).filter(free).collect();
        // Who is still fetching it may not even have its manifest.
        roles.sort_by_key(|role| {
            let holds = role.portions.is_some() || role.holding.as_ref().is_some_and(|holding| !holding.is_empty());
            !holds && !self.sources[role.source].is_seed()
        });
        roles.first().map(|role| role.source)
    }

    /// What a viewer is about to see goes before everything else, to whoever can send it soonest.
    fn ask_for_viewer(&mut self, now: Now, item: ItemId) {
        let Some(transfer) = self.items.get(&item) else { return };
        let Some(playing) = transfer.playing.as_ref().filter(|playing| now.mono < playing.until) else { return };
        let end = playing.from.saturating_add(self.config.read_ahead_chunks).min(transfer.geometry.n_chunks());
        let window = playing.from..end;
        for place in self.ranked(now.mono, transfer) {
            while self.may_ask_chunk(now.mono, item, place) {
                let Some(chunk) = self.items.get(&item).and_then(|transfer| {
                    let holding = transfer.roles[place].holding.as_ref()?;
                    transfer.stage.picker()?.pick_in_order(holding, window.clone())
                }) else {
                    break;
                };
                self.ask_chunk(now, item, place, chunk);
            }
            if self.may_ask_chunk(now.mono, item, place) {
                self.steal(now, item, place, Some(window.clone()));
            }
        }
    }

    /// Asks one chunk of each source in turn until no slot, no budget or no chunk is left.
    fn ask_chunks(&mut self, now: Now, item: ItemId, kept: &BTreeSet<SourceNo>) {
        let Some(transfer) = self.items.get(&item) else { return };
        let mut places = transfer.roles.allowed_places().iter();
        if transfer.stage.picker().is_none() || !places.any(|place| self.may_ask_chunk(now.mono, item, *place)) {
            return;
        }
        let mut places = self.ranked(now.mono, transfer);
        places.retain(|place| !kept.contains(&transfer.roles[*place].source));
        while !places.is_empty() {
            places.retain(|&place| {
                if !self.may_ask_chunk(now.mono, item, place) {
                    return false;
                }
                let Some(chunk) = self.choose(now.mono, item, place) else {
                    self.steal(now, item, place, None);
                    return false;
                };
                self.ask_chunk(now, item, place, chunk);
                true
            });
        }
    }

    /// A source that has something wanted of this item gives nothing to those that come after it.
    fn keep_for(&self, item: ItemId, kept: &mut BTreeSet<SourceNo>) {
        let Some(transfer) = self.items.get(&item) else { return };
        let Some(picker) = transfer.stage.picker() else { return };
        let has_more = transfer.roles.allowed().filter(|role| {
            role.holding.as_ref().is_some_and(|holding| holding.meets(picker.wanted()))
                && self.is_usable(self.seen, role)
        });
        kept.extend(has_more.map(|role| role.source));
    }

    fn choose(&mut self, now: Mono, item: ItemId, place: usize) -> Option<u32> {
        let transfer = self.items.get(&item)?;
        let picker = transfer.stage.picker()?;
        let role = &transfer.roles[place];
        let holding = role.holding.as_ref().filter(|holding| holding.meets(picker.wanted()))?;
        let spared = self.left_to_boxes(now, transfer, role);
        if let Some(portions) = role.portions.as_ref().filter(|_| self.is_bound_by_plan(now, transfer, role)) {
            let mut planned = portions.clone();
            planned.keep(holding);
            spared.iter().for_each(|spared| planned.subtract(spared));
            return picker.pick(&Offer { holding: &planned, portions: None, left_to_others: None }, &mut self.rng);
        }
        let unspared = role.portions.as_ref().zip(spared.as_ref()).map(|(portions, spared)| {
            let mut left = portions.clone();
            left.subtract(spared);
            left
        });
        let mut left = self.left_to_others(now, transfer, role);
        match (&mut left, spared) {
            (Some(left), Some(spared)) => left.add(&spared),
            (None, spared) => left = spared,
            (Some(_), None) => {}
        }
        let portions = unspared.as_ref().or(role.portions.as_ref());
        picker.pick(&Offer { holding, portions, left_to_others: left.as_ref() }, &mut self.rng)
    }

    /// Whether a source is asked for nothing but its portions. A seed that the plan has send certain chunks here has others
    /// send the rest, and need not send anything twice; unless the plan is not enough, or boxes are too slow.
    fn is_bound_by_plan(&self, now: Mono, transfer: &Transfer, role: &Role) -> bool {
        self.sources[role.source].is_seed()
            && role.found_by == FoundBy::Plan
            && transfer.degraded_since.is_none()
            && !transfer.is_playing(now)
            && !self.needs_help(now, transfer)
    }

    /// What the plan has given to others who will have sent it soon. Nothing is left to seeds by a box.
    fn left_to_others(&self, now: Mono, transfer: &Transfer, role: &Role) -> Option<ChunkSet> {
        let wanted = transfer.stage.picker()?.wanted();
        let is_seed = self.sources[role.source].is_seed();
        let mut left: Option<ChunkSet> = None;
        for other in transfer.roles.allowed().filter(|other| other.source != role.source) {
            let Some(portions) = other.portions.as_ref().filter(|portions| portions.meets(wanted)) else { continue };
            let source = &self.sources[other.source];
            if (source.is_seed() && !is_seed) || !self.is_promising(now, transfer, other) {
                continue;
            }
            let bytes = u64::from(portions.shared(wanted)) * CHUNK_BYTES;
            if source.rate_bytes_per_sec.is_none_or(|rate| bytes / rate.max(1) < PORTION_SOON_SECS) {
                left.get_or_insert_with(|| ChunkSet::empty(wanted.width())).add(portions);
            }
        }
        left
    }

    /// For a seed: what boxes have, or may turn out to have any moment. Servers are spared as long as boxes get along.
    fn left_to_boxes(&self, now: Mono, transfer: &Transfer, role: &Role) -> Option<ChunkSet> {
        if !self.sources[role.source].is_seed() || self.needs_help(now, transfer) {
            return None;
        }
        let width = transfer.geometry.n_chunks();
        let mut left: Option<ChunkSet> = None;
        for other in transfer.roles.allowed() {
            if self.sources[other.source].is_seed() || !self.is_promising(now, transfer, other) {
                continue;
            }
            let left = left.get_or_insert_with(|| ChunkSet::empty(width));
            match &other.holding {
                Some(holding) => left.add(holding),
                None => left.add(&ChunkSet::full(width)),
            }
        }
        left
    }

    /// It has sent something, or is too new to be judged; and it is not being left alone.
    fn is_promising(&self, now: Mono, transfer: &Transfer, role: &Role) -> bool {
        let known_for = now.since(role.since.max(transfer.fetching_since));
        self.is_usable(now, role) && (role.delivered || known_for < self.config.spare_seeds_for)
    }

    fn needs_help(&self, now: Mono, transfer: &Transfer) -> bool {
        now.since(transfer.fetching_since) >= HELP_AFTER
            && transfer.meter.per_sec(now) < self.config.help_below_bytes_per_sec
    }

    /// Whether one of those who may be asked is not being left alone at the moment.
    fn is_usable(&self, now: Mono, role: &Role) -> bool {
        role.shunned_until <= now && self.sources[role.source].rests_until <= now
    }

    /// Places of those who may be asked, best first: well-behaved before struck, boxes before seeds, fast before slow.
    fn ranked(&self, now: Mono, transfer: &Transfer) -> Vec<usize> {
        let allowed = transfer.roles.allowed_places().iter().copied();
        let usable = allowed.filter(|place| self.is_usable(now, &transfer.roles[*place]));
        let mut ranked: Vec<_> = usable
            .map(|place| {
                let role = &transfer.roles[place];
                let source = &self.sources[role.source];
                (role.strikes >= STRIKES_TO_DEMOTE, source.is_seed(), Reverse(source.rate_bytes_per_sec), place)
            })
            .collect();
        ranked.sort_unstable();
        ranked.into_iter().map(|(.., place)| place).collect()
    }

    /// Whether budget, caps and the source's slots allow one more chunk from one of those who may be asked.
    fn may_ask_chunk(&self, now: Mono, item: ItemId, place: usize) -> bool {
        let Some(role) = self.items.get(&item).map(|transfer| &transfer.roles[place]) else { return false };
        let source = &self.sources[role.source];
        self.has_budget(now)
            && source.open < self.slots(source, role)
            && role.cap.as_ref().is_none_or(|cap| cap.ready_at() <= now)
            && self.is_usable(now, role)
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
    fn steal(&mut self, now: Now, item: ItemId, place: usize, window: Option<Range<u32>>) {
        let Some(transfer) = self.items.get(&item) else { return };
        let role = &transfer.roles[place];
        let source = &self.sources[role.source];
        let (Some(holding), Some(rate)) = (&role.holding, source.rate_bytes_per_sec) else { return };
        if transfer.steals >= STEALS_MIN.max(transfer.geometry.n_chunks() / STEALS_PER_CHUNKS) {
            return;
        }
        let spares_boxes = source.is_seed() && window.is_none() && !self.needs_help(now.mono, transfer);
        let mine = (u64::from(source.open + 1) * CHUNK_BYTES * 1_000 / rate.max(1)).max(1);
        let slowest = self
            .requests
            .iter()
            .filter(|(_, r)| r.item == item && r.source != role.source && r.is_open())
            .filter(|(_, r)| !spares_boxes || self.sources[r.source].is_seed())
            .filter_map(|(id, r)| {
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
        self.ask_chunk(now, item, place, chunk.get());
    }

    fn ask_chunk(&mut self, now: Now, item: ItemId, place: usize, chunk: u32) {
        let Some(transfer) = self.items.get_mut(&item) else { return };
        let index = transfer.geometry.chunk(chunk).expect("a picker has no chunk beyond its item");
        let source = transfer.roles[place].source;
        let Some(picker) = transfer.stage.picker_mut() else { return };
        picker.take(chunk);
        self.ask(now, item, source, Ask::Chunk(index));
    }

    fn ask(&mut self, now: Now, item: ItemId, number: SourceNo, ask: Ask) {
        let Some(transfer) = self.items.get_mut(&item) else { return };
        let Some(role) = transfer.roles.get_mut(number) else { return };
        let source = &mut self.sources[number];
        let (mut bytes, mut deadline) = (0, SMALL_DEADLINE);
        match ask {
            Ask::Manifest => {}
            Ask::Holding => {
                role.holding_open = true;
                role.holding_asked_at = Some(now.mono);
            }
            Ask::Chunk(chunk) => {
                bytes = transfer.geometry.chunk_len(chunk) as u64;
                source.open_one(now.mono);
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
            source: number,
            found_by: role.found_by,
            stage: requests::Stage::Open,
            ask,
            item,
            bytes,
            asked_at: now.mono,
            deadline: now.mono + deadline,
            received: 0,
            received_before: 0,
        };
        self.requests.push(id, request);
        self.actions.push_back(Action::Request { id, device: source.device, item, ask });
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
        for role in transfer.roles.allowed() {
            let source = &self.sources[role.source];
            next.take([role.shunned_until, source.rests_until]);
            // A cap matters only where a slot is free; when one becomes free, that is an event.
            next.take(role.cap.as_ref().filter(|_| source.open < self.slots(source, role)).map(Cap::ready_at));
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
    pub(super) fn drop_role(
        &mut self,
        item: ItemId,
        source: SourceNo,
        sources: &Sources,
        traffic: &mut BTreeMap<(ItemId, DeviceId), Traffic>,
    ) {
        let Some(mut role) = self.roles.remove(source) else { return };
        if let (true, Some(holding), Some(picker)) = (role.counted, &role.holding, self.stage.picker_mut()) {
            picker.count_out(holding);
        }
        settle(&mut role, item, sources, &mut self.tallies, traffic);
    }

    /// A source is known in another way from now on.
    fn know_by(
        &mut self,
        item: ItemId,
        source: SourceNo,
        found_by: FoundBy,
        sources: &Sources,
        traffic: &mut BTreeMap<(ItemId, DeviceId), Traffic>,
    ) {
        if let Some(role) = self.roles.get_mut(source) {
            settle(role, item, sources, &mut self.tallies, traffic);
            role.found_by = found_by;
            self.roles.changed();
        }
    }

    pub(super) fn is_playing(&self, now: Mono) -> bool {
        self.playing.as_ref().is_some_and(|playing| now < playing.until)
    }

    /// Drops a source that nobody leased, or one whose lease was over first, to make room for another.
    fn make_room(
        &mut self,
        now: Mono,
        item: ItemId,
        sources: &Sources,
        traffic: &mut BTreeMap<(ItemId, DeviceId), Traffic>,
    ) -> bool {
        let unleased = |role: &&Role| role.found_by != FoundBy::Plan && !role.delivered;
        let over = |role: &&Role| role.lease_until <= now && sources[role.source].open == 0;
        let roles = || self.roles.iter();
        let idle = roles().find(unleased).or_else(|| roles().filter(over).min_by_key(|role| role.lease_until));
        let Some(source) = idle.map(|role| role.source) else { return false };
        self.drop_role(item, source, sources, traffic);
        true
    }
}

/// Counts what a role has given where it is counted after it.
fn settle(
    role: &mut Role,
    item: ItemId,
    sources: &Sources,
    tallies: &mut BTreeMap<(DeviceId, FoundBy), Tally>,
    traffic: &mut BTreeMap<(ItemId, DeviceId), Traffic>,
) {
    let source = &sources[role.source];
    let (given, untold) = (std::mem::take(&mut role.given), std::mem::take(&mut role.untold));
    if given != Traffic::default() {
        tally(tallies, source, role.found_by).add(given);
    }
    if untold != Traffic::default() {
        traffic.entry((item, source.device)).or_default().add(untold);
    }
}
