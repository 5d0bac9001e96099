//! What answers, verdicts and silence mean for a chunk and for its source.
//!
//! A chunk whose request ends without success is wanted again at once. A source is judged only by what it did to us:
//! busy rests, claiming what it lacks or saying nothing earns strikes, a proven bad chunk is the end.

use super::*;

/// How long a source without the manifest is not asked for it again.
const NO_MANIFEST_FOR: Duration = Duration::from_secs(2);
/// How long a source that refused for good is not asked for that item.
const REFUSED_FOR_GOOD: Duration = Duration::from_secs(60);
/// A connection that broke may be made anew after this.
const REST_AFTER_CLOSE: Duration = Duration::from_millis(200);
/// A slow but steady source keeps its chunk for this long at most.
const CHUNK_PATIENCE: Duration = Duration::from_secs(300);
/// How much the latest chunk counts in a source's rate: one part in so many.
const RATE_WEIGHT: u64 = 4;
/// A transfer whose last chunk is this fresh is arriving, whatever is asked at the moment.
const FRESH: Duration = Duration::from_secs(3);

impl Transfers {
    pub(super) fn answered(&mut self, now: Now, id: RequestId, answer: Answer) {
        let Some(request) = self.requests.get_mut(&id) else { return };
        match request.stage {
            RequestStage::Checking => return,
            RequestStage::Cancelled => {
                let Some(request) = self.requests.remove(&id) else { return };
                self.waste_arrived(&request, answer.bytes().max(request.received));
                return;
            }
            RequestStage::Open => {}
        }
        if let Answer::Data(bytes) = answer
            && request.ask != Ask::Holding
        {
            request.stage = RequestStage::Checking;
            request.received = bytes;
            self.books.received_bytes += bytes;
            self.books.unjudged_bytes += bytes;
            self.arrived(now, id);
            return;
        }

        let Some(request) = self.requests.remove(&id) else { return };
        self.free(&request);
        self.waste_arrived(&request, answer.bytes().max(request.received));
        let Request { item, device, ask, .. } = request;
        match (answer, ask) {
            (Answer::Holding(holding), Ask::Holding) => self.set_holding(item, device, holding),
            (Answer::NotHeld, Ask::Holding) => {
                let width = self.items.get(&item).map_or(0, |t| t.geometry.n_chunks());
                self.set_holding(item, device, ChunkSet::empty(width));
            }
            (Answer::NotHeld, Ask::Manifest) => {
                self.shun(now, item, device, NO_MANIFEST_FOR);
                self.report_stall(item, device);
                self.replan(now, item);
            }
            (Answer::NotHeld, Ask::Chunk(chunk)) => {
                self.unclaim(item, device, chunk);
                self.strike(now, item, device, 1);
            }
            (Answer::Busy(after), _) => self.rest(now, device, after.clamp(REST_MIN, REST_MAX)),
            (Answer::Refused(Refused::Ticket), _) => {
                self.shun(now, item, device, REFUSED_FOR);
                self.replan(now, item);
            }
            (Answer::Refused(Refused::Other), _) => self.shun(now, item, device, REFUSED_FOR_GOOD),
            (Answer::Failed { failure, .. }, _) => self.failed(now, item, device, failure),
            (Answer::Data(_) | Answer::Holding(_), _) => self.failed(now, item, device, Failure::Malformed),
        }
    }

    pub(super) fn judged(&mut self, now: Now, id: RequestId, verdict: Verdict) {
        let Some(request) = self.requests.get(&id).filter(|r| r.is_checking()) else { return };
        self.books.unjudged_bytes -= request.received;
        match (request.ask, verdict) {
            (Ask::Chunk(_), Verdict::Verified) => self.verified(now, id),
            (_, Verdict::Verified) => {
                let item = request.item;
                self.books.verified_bytes += request.received;
                self.requests.remove(&id);
                self.manifest_is_here(now, item);
            }
            (_, Verdict::Forged) => {
                let Some(request) = self.end(id) else { return };
                self.waste(&request, request.received);
                let what = match request.ask {
                    Ask::Chunk(chunk) => format!("sent chunk {chunk} of item {} with wrong bytes", request.item),
                    _ => format!("sent a manifest that does not belong to item {}", request.item),
                };
                self.ban(now, request.device, what);
            }
            (_, Verdict::OtherLength) => {
                let Some(request) = self.end(id) else { return };
                self.waste(&request, request.received);
                self.shun(now, request.item, request.device, REFUSED_FOR_GOOD);
                if let Some(transfer) = self.items.get_mut(&request.item) {
                    "its sources say another length than the catalog".clone_into(&mut transfer.waiting);
                }
            }
        }
    }

    /// The time of a request is over, unless something steadily arrives.
    pub(super) fn expire(&mut self, now: Now, id: RequestId) {
        let floor = (self.config.floor_bytes_per_sec * self.config.chunk_deadline.as_secs()).max(1);
        let Some(request) = self.requests.get_mut(&id) else { return };
        let steady = request.received - request.received_before >= floor;
        if steady && now.mono.since(request.asked_at) < CHUNK_PATIENCE {
            request.received_before = request.received;
            request.deadline = now.mono + self.config.chunk_deadline;
            return;
        }
        let (item, device) = (request.item, request.device);
        self.cancel(id);
        self.strike(now, item, device, 1);
    }

    /// Gives up a request: its chunk is wanted again, its end is awaited.
    pub(super) fn cancel(&mut self, id: RequestId) {
        let Some(request) = self.requests.get_mut(&id).filter(|r| r.stage == RequestStage::Open) else { return };
        request.stage = RequestStage::Cancelled;
        let request = request.clone();
        self.actions.push_back(Action::Cancel { id });
        self.free(&request);
    }

    /// Ends a chunk that was verified and has been written, or could not be.
    pub(super) fn end_chunk(&mut self, id: RequestId) -> Option<(Request, ChunkIndex)> {
        self.requests.get(&id).filter(|r| r.is_checking())?;
        let request = self.requests.remove(&id)?;
        self.outstanding_bytes -= request.bytes;
        let Ask::Chunk(chunk) = request.ask else { return None };
        Some((request, chunk))
    }

    pub(super) fn release(&mut self, item: ItemId, chunk: ChunkIndex) {
        if let Some(picker) = self.items.get_mut(&item).and_then(|t| t.stage.picker_mut()) {
            picker.release(chunk.get());
        }
    }

    pub(super) fn pause(&mut self, now: Now, item: ItemId, why: String) {
        self.cancel_all(|r| r.item == item);
        let Some(transfer) = self.items.get_mut(&item) else { return };
        let picker = match std::mem::replace(&mut transfer.stage, Stage::Reserving) {
            Stage::Fetching(picker) | Stage::Paused { picker: Some(picker), .. } => Some(picker),
            Stage::Manifest | Stage::Reserving | Stage::Paused { picker: None, .. } => None,
        };
        transfer.stage = Stage::Paused { picker, until: now.mono + PAUSE, why };
    }

    pub(super) fn finish_if_complete(&mut self, now: Now, item: ItemId) {
        let complete = |t: &Transfer| t.stage.picker().is_some_and(Picker::is_complete);
        if self.items.get(&item).is_some_and(complete) {
            self.forget(now, item);
            self.actions.push_back(Action::Complete { item });
        }
    }

    /// Ends a transfer and keeps only what people may want to know about it.
    pub(super) fn forget(&mut self, now: Now, item: ItemId) {
        self.cancel_all(|r| r.item == item);
        let Some(transfer) = self.items.remove(&item) else { return };
        let complete = transfer.stage.picker().is_some_and(Picker::is_complete);
        let standing = if complete { Standing::Complete } else { Standing::Waiting("no longer wanted".to_owned()) };
        self.memories.push_back((item, transfer.progress(now, standing)));
        while self.memories.len() > MEMORIES {
            self.memories.pop_front();
        }
        if self.sources.len() > SOURCES_MAX {
            let items = &self.items;
            self.sources.retain(|device, s| s.open > 0 || items.values().any(|t| t.roles.contains_key(device)));
        }
    }

    pub(super) fn standing(&self, now: Now, item: &ItemId, transfer: &Transfer) -> Standing {
        if let Stage::Paused { why, .. } = &transfer.stage {
            return Standing::Paused(why.clone());
        }
        if !self.active().any(|active| active == *item) {
            return Standing::Queued;
        }
        if let Some((opens, why)) = transfer.scheduled() {
            return Standing::Scheduled { opens, why };
        }
        let chunk = |r: &Request| r.item == *item && matches!(r.ask, Ask::Chunk(_)) && r.is_alive();
        let fresh = transfer.last_data.is_some() && now.mono.since(transfer.moved_at) < FRESH;
        if self.requests.values().any(chunk) || fresh {
            return Standing::Arriving;
        }
        Standing::Waiting(self.why_waiting(transfer))
    }

    fn why_waiting(&self, transfer: &Transfer) -> String {
        if !transfer.waiting.is_empty() {
            return transfer.waiting.clone();
        }
        match transfer.roles.len() {
            _ if matches!(transfer.stage, Stage::Reserving) => "making room on the disk".to_owned(),
            0 if self.tracker_up => "no source is known yet".to_owned(),
            0 => "the tracker is away and no other source is known yet".to_owned(),
            1 => "the one known source is not sending".to_owned(),
            n => format!("none of {n} known sources is sending"),
        }
    }

    /// The answer has arrived whole.
    fn arrived(&mut self, now: Now, id: RequestId) {
        let Some(request) = self.requests.get(&id) else { return };
        let Some(source) = self.sources.get_mut(&request.device) else { return };
        source.failures = 0;
        if !matches!(request.ask, Ask::Chunk(_)) {
            return;
        }
        source.open = source.open.saturating_sub(1);
        // Several requests share a link: each chunk is measured from the end of the one before.
        let from = request.asked_at.max(source.last_delivery);
        let took = now.mono.since(from).as_millis().max(1) as u64;
        let rate = request.received.saturating_mul(1_000) / took;
        source.rate_bytes_per_sec = Some(match source.rate_bytes_per_sec {
            Some(before) => (before * (RATE_WEIGHT - 1) + rate) / RATE_WEIGHT,
            None => rate,
        });
        source.last_delivery = now.mono;
    }

    fn verified(&mut self, now: Now, id: RequestId) {
        let Some(request) = self.requests.get(&id) else { return };
        let Ask::Chunk(chunk) = request.ask else { return };
        let Some(transfer) = self.items.get_mut(&request.item) else {
            // Taken out of the queue while it was checked.
            let request = request.clone();
            return self.waste(&request, request.received);
        };
        let twice = transfer.stage.any_picker().is_some_and(|picker| picker.have().contains(chunk.get()));
        let kind = self.sources.get(&request.device).and_then(|s| s.kind);
        let tally = transfer.tally(request.device, request.found_by, kind);
        let traffic = self.traffic.entry((request.item, request.device)).or_default();
        if twice {
            tally.wasted_bytes += request.received;
            traffic.wasted_bytes += request.received;
            self.books.wasted_bytes += request.received;
            return;
        }
        self.books.verified_bytes += request.received;
        tally.verified_bytes += request.received;
        traffic.verified_bytes += request.received;
        transfer.meter.add(now.mono, request.received);
        transfer.moved_at = now.mono;
        transfer.last_data = Some(now.utc);
        transfer.waiting.clear();
        if let Some(role) = transfer.roles.get_mut(&request.device) {
            role.strikes = role.strikes.saturating_sub(1);
            role.delivered = true;
        }
        transfer.recount(&request.device);
    }

    fn manifest_is_here(&mut self, now: Now, item: ItemId) {
        self.cancel_all(|r| r.item == item && r.ask == Ask::Manifest);
        let Some(transfer) = self.items.get_mut(&item).filter(|t| matches!(t.stage, Stage::Manifest)) else { return };
        transfer.stage = Stage::Reserving;
        transfer.moved_at = now.mono;
        self.actions.push_back(Action::Reserve { item });
    }

    fn failed(&mut self, now: Now, item: ItemId, device: DeviceId, failure: Failure) {
        match failure {
            Failure::Cancelled => {}
            Failure::Silent => self.strike(now, item, device, 1),
            Failure::Malformed => self.strike(now, item, device, STRIKES_TO_DROP),
            Failure::Closed | Failure::Unreachable => {
                let Some(source) = self.sources.get_mut(&device) else { return };
                source.failures += 1;
                let first = if failure == Failure::Closed { REST_AFTER_CLOSE } else { REST_AFTER_FAILURE };
                let doubled = first * 2u32.pow((source.failures - 1).min(10));
                self.rest(now, device, doubled.min(REST_MAX));
                self.replan(now, item);
            }
        }
    }

    fn strike(&mut self, now: Now, item: ItemId, device: DeviceId, strikes: u32) {
        let drop_for = self.config.drop_for;
        let Some(role) = self.items.get_mut(&item).and_then(|t| t.roles.get_mut(&device)) else { return };
        let before = role.strikes;
        role.strikes += strikes;
        let demoted = before < STRIKES_TO_DEMOTE && role.strikes >= STRIKES_TO_DEMOTE;
        if role.strikes >= STRIKES_TO_DROP {
            // It comes back on probation.
            role.strikes = STRIKES_TO_DEMOTE;
            role.shunned_until = now.mono + drop_for;
        }
        if demoted {
            self.report_stall(item, device);
        }
        self.replan(now, item);
    }

    /// The tracker shall not plan this source again.
    fn report_stall(&mut self, item: ItemId, device: DeviceId) {
        let role = self.items.get(&item).and_then(|t| t.roles.get(&device));
        if role.is_some_and(|role| role.found_by == FoundBy::Plan) {
            self.actions.push_back(Action::ReportStall { item, source: device });
        }
    }

    fn ban(&mut self, now: Now, device: DeviceId, reason: String) {
        if self.banned.contains(&device) {
            return;
        }
        if self.banned.len() >= BANNED_MAX {
            self.banned.pop_first();
        }
        self.banned.insert(device);
        self.cancel_all(|r| r.device == device);
        let concerned: Vec<ItemId> =
            self.items.iter().filter(|(_, t)| t.roles.contains_key(&device)).map(|(&item, _)| item).collect();
        for item in concerned {
            self.report_stall(item, device);
            self.replan(now, item);
            if let Some(transfer) = self.items.get_mut(&item) {
                transfer.drop_role(&device);
            }
        }
        self.actions.push_back(Action::Ban { device, reason });
    }

    fn rest(&mut self, now: Now, device: DeviceId, lasts: Duration) {
        if let Some(source) = self.sources.get_mut(&device) {
            source.rests_until = source.rests_until.max(now.mono + lasts);
        }
    }

    fn shun(&mut self, now: Now, item: ItemId, device: DeviceId, lasts: Duration) {
        if let Some(role) = self.items.get_mut(&item).and_then(|t| t.roles.get_mut(&device)) {
            role.shunned_until = role.shunned_until.max(now.mono + lasts);
        }
    }

    /// A source is lost: the plan is drawn anew.
    fn replan(&mut self, now: Now, item: ItemId) {
        if let Some(transfer) = self.items.get_mut(&item) {
            transfer.plan_due = transfer.plan_due.min(now.mono);
        }
    }

    fn set_holding(&mut self, item: ItemId, device: DeviceId, holding: ChunkSet) {
        let Some(transfer) = self.items.get_mut(&item) else { return };
        if holding.width() != transfer.geometry.n_chunks() {
            return;
        }
        let Some(role) = transfer.roles.get_mut(&device) else { return };
        let before = role.holding.replace(holding);
        let counted = std::mem::take(&mut role.counted);
        if let (true, Some(before), Some(picker)) = (counted, before, transfer.stage.picker_mut()) {
            picker.count_out(&before);
        }
        transfer.recount(&device);
    }

    /// The source does not have a chunk that it seemed to have.
    fn unclaim(&mut self, item: ItemId, device: DeviceId, chunk: ChunkIndex) {
        let role = self.items.get(&item).and_then(|t| t.roles.get(&device));
        let Some(mut holding) = role.and_then(|role| role.holding.clone()) else { return };
        holding.remove(chunk.get());
        self.set_holding(item, device, holding);
    }

    /// Gives the slot, the budget and the chunk of a request back.
    fn free(&mut self, request: &Request) {
        let mut role = self.items.get_mut(&request.item).and_then(|t| t.roles.get_mut(&request.device));
        match request.ask {
            Ask::Manifest => {}
            Ask::Holding => {
                if let Some(role) = role {
                    role.holding_open = false;
                }
            }
            Ask::Chunk(chunk) => {
                let lease_cap = role.as_mut().and_then(|role| role.cap.as_mut());
                for cap in self.cap.iter_mut().chain(lease_cap) {
                    cap.give_back(request.bytes.saturating_sub(request.received));
                }
                self.outstanding_bytes -= request.bytes;
                if let Some(source) = self.sources.get_mut(&request.device) {
                    source.open = source.open.saturating_sub(1);
                }
                self.release(request.item, chunk);
            }
        }
    }

    /// Ends a request whose data was found bad.
    fn end(&mut self, id: RequestId) -> Option<Request> {
        let request = self.requests.remove(&id)?;
        if let Ask::Chunk(chunk) = request.ask {
            self.outstanding_bytes -= request.bytes;
            self.release(request.item, chunk);
        }
        Some(request)
    }

    pub(super) fn cancel_all(&mut self, which: impl Fn(&Request) -> bool) {
        let ids: Vec<RequestId> = self.requests.iter().filter(|(_, r)| which(r)).map(|(&id, _)| id).collect();
        for id in ids {
            self.cancel(id);
        }
    }

    /// What came of a request that has failed.
    fn waste_arrived(&mut self, request: &Request, bytes: u64) {
        if request.ask != Ask::Holding {
            self.books.received_bytes += bytes;
        }
        self.waste(request, bytes);
    }

    fn waste(&mut self, request: &Request, bytes: u64) {
        if bytes == 0 || request.ask == Ask::Holding {
            return;
        }
        self.books.wasted_bytes += bytes;
        let kind = self.sources.get(&request.device).and_then(|s| s.kind);
        self.traffic.entry((request.item, request.device)).or_default().wasted_bytes += bytes;
        if let Some(transfer) = self.items.get_mut(&request.item) {
            transfer.tally(request.device, request.found_by, kind).wasted_bytes += bytes;
        }
    }
}

impl Transfer {
    pub(super) fn new(now: Now, wanted: Wanted) -> Self {
        let mut transfer = Self {
            geometry: wanted.geometry,
            skip: wanted.skip,
            stage: Stage::Manifest,
            roles: BTreeMap::new(),
            playing: None,
            plan_asked: false,
            plan_asked_at: None,
            plan_due: now.mono,
            plan_names_sources: false,
            waiting: String::new(),
            closure: None,
            closed: false,
            kademlia_asked_at: None,
            degraded_since: None,
            degraded_until: now.mono,
            meter: Meter::default(),
            moved_at: now.mono,
            last_data: None,
            fetching_since: now.mono,
            steals: 0,
            tallies: BTreeMap::new(),
        };
        if let Some(have) = wanted.have {
            transfer.start(now.mono, have);
        }
        transfer
    }

    /// Somebody whom the plan names may still be asked.
    pub(super) fn has_planned_source(&self, now: Mono) -> bool {
        self.roles.values().any(|role| role.found_by == FoundBy::Plan && role.shunned_until <= now)
    }

    /// The disk is ready and holds these chunks.
    pub(super) fn start(&mut self, now: Mono, have: ChunkSet) {
        let skip = ChunkSet::from_ranges(self.geometry.n_chunks(), self.skip.iter().cloned());
        let mut picker = Picker::new(have, skip);
        for role in self.roles.values_mut() {
            role.counted = role.delivered && role.holding.is_some();
            if let Some(holding) = role.holding.as_ref().filter(|_| role.counted) {
                picker.count_in(holding);
            }
        }
        self.stage = Stage::Fetching(picker);
        self.fetching_since = now;
        self.moved_at = now;
    }

    pub(super) fn progress(&self, now: Now, standing: Standing) -> Progress {
        Progress {
            standing,
            held: self.stage.any_picker().map_or(0, |picker| picker.have().len()),
            rate_bytes_per_sec: self.meter.per_sec(now.mono),
            last_data: self.last_data,
            tallies: self.tallies.values().cloned().collect(),
        }
    }

    /// Lets a source that has delivered count as a holder.
    fn recount(&mut self, device: &DeviceId) {
        let (Some(role), Some(picker)) = (self.roles.get_mut(device), self.stage.picker_mut()) else { return };
        if let Some(holding) = role.holding.as_ref().filter(|_| role.delivered && !role.counted) {
            picker.count_in(holding);
            role.counted = true;
        }
    }

    fn tally(&mut self, device: DeviceId, found_by: FoundBy, kind: Option<DeviceKind>) -> &mut Tally {
        let tally = self.tallies.entry((device, found_by)).or_insert(Tally {
            device,
            kind,
            found_by,
            verified_bytes: 0,
            wasted_bytes: 0,
        });
        tally.kind = tally.kind.or(kind);
        tally
    }
}

impl Stage {
    /// The picker, while chunks may be asked for.
    pub(super) fn picker(&self) -> Option<&Picker> {
        match self {
            Self::Fetching(picker) => Some(picker),
            Self::Manifest | Self::Reserving | Self::Paused { .. } => None,
        }
    }

    /// The picker, whether or not chunks may be asked for.
    pub(super) fn picker_mut(&mut self) -> Option<&mut Picker> {
        match self {
            Self::Fetching(picker) | Self::Paused { picker: Some(picker), .. } => Some(picker),
            Self::Manifest | Self::Reserving | Self::Paused { picker: None, .. } => None,
        }
    }

    fn any_picker(&self) -> Option<&Picker> {
        match self {
            Self::Fetching(picker) | Self::Paused { picker: Some(picker), .. } => Some(picker),
            Self::Manifest | Self::Reserving | Self::Paused { picker: None, .. } => None,
        }
    }
}

impl Request {
    /// Still of use: being sent, checked or written.
    pub(super) fn is_alive(&self) -> bool {
        self.stage != RequestStage::Cancelled
    }

    pub(super) fn is_checking(&self) -> bool {
        self.stage == RequestStage::Checking
    }
}

impl Answer {
    fn bytes(&self) -> u64 {
        match self {
            Self::Data(bytes) => *bytes,
            Self::Failed { received, .. } => *received,
            Self::Holding(_) | Self::Busy(_) | Self::NotHeld | Self::Refused(_) => 0,
        }
    }
}

impl Wanted {
    /// Nothing of it is to be fetched.
    pub(super) fn is_complete(&self) -> bool {
        let skip = ChunkSet::from_ranges(self.geometry.n_chunks(), self.skip.iter().cloned());
        self.have.as_ref().is_some_and(|have| {
            let mut covered = have.clone();
            covered.add(&skip);
            covered.is_full()
        })
    }
}
