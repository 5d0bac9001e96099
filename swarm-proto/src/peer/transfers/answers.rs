//! What answers, verdicts and silence mean for a chunk and for its source.
//!
//! A chunk whose request ends without success is wanted again at once. A source is judged only by what it did to us:
//! busy rests, claiming what it lacks or saying nothing earns strikes, a proven bad chunk is the end.

use super::requests::Stage as RequestStage;
use super::*;

/// How long a source without the manifest is not asked for it again.
const NO_MANIFEST_FOR: Duration = Duration::from_millis(500);
/// How long a source that refused for good is not asked for that item.
const REFUSED_FOR_GOOD: Duration = Duration::from_secs(60);
/// A connection that broke may be made anew after this.
const REST_AFTER_CLOSE: Duration = Duration::from_millis(200);
/// A slow but steady source keeps its chunk for this long at most.
const CHUNK_PATIENCE: Duration = Duration::from_secs(300);
/// A transfer whose last chunk is this fresh is arriving, whatever is asked at the moment.
const FRESH: Duration = Duration::from_secs(3);

impl Transfers {
    pub(super) fn answered(&mut self, now: Now, id: RequestId, answer: Answer) {
        let Some(request) = self.requests.get_mut(id) else { return };
        match request.stage {
            RequestStage::Checking => return,
            RequestStage::Cancelled => {
                let Some(request) = self.requests.remove(id) else { return };
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

        let Some(request) = self.requests.remove(id) else { return };
        self.free(&request);
        self.waste_arrived(&request, answer.bytes().max(request.received));
        let Request { item, source, ask, .. } = request;
        match (answer, ask) {
            (Answer::Holding(holding), Ask::Holding) => self.set_holding(item, source, holding),
            (Answer::NotHeld, Ask::Holding) => {
                let width = self.items.get(&item).map_or(0, |t| t.geometry.n_chunks());
                self.set_holding(item, source, ChunkSet::empty(width));
            }
            (Answer::NotHeld, Ask::Manifest) => {
                if self.lacks_manifest(now, item, source) {
                    self.report_stall(item, source);
                    self.replan(now, item);
                }
            }
            (Answer::NotHeld, Ask::Chunk(chunk)) => {
                self.unclaim(item, source, chunk);
                self.strike(now, item, source, 1);
            }
            (Answer::Busy(after), _) => self.rest(now, source, after.clamp(REST_MIN, REST_MAX)),
            (Answer::Refused(Refused::Ticket), _) => {
                self.shun(now, item, source, REFUSED_FOR);
                self.replan(now, item);
            }
            (Answer::Refused(Refused::Other), _) => self.shun(now, item, source, REFUSED_FOR_GOOD),
            (Answer::Failed { failure, .. }, _) => self.failed(now, item, source, failure),
            (Answer::Data(_) | Answer::Holding(_), _) => self.failed(now, item, source, Failure::Malformed),
        }
    }

    pub(super) fn judged(&mut self, now: Now, id: RequestId, verdict: Verdict) {
        let Some(request) = self.requests.get(id).filter(|r| r.is_checking()) else { return };
        self.books.unjudged_bytes -= request.received;
        match (request.ask, verdict) {
            (Ask::Chunk(_), Verdict::Verified) => self.verified(now, id),
            (_, Verdict::Verified) => {
                let item = request.item;
                self.books.verified_bytes += request.received;
                self.requests.remove(id);
                self.manifest_is_here(now, item);
            }
            (_, Verdict::Forged) => {
                let Some(request) = self.end(id) else { return };
                self.waste(&request, request.received);
                let what = match request.ask {
                    Ask::Chunk(chunk) => format!("sent chunk {chunk} of item {} with wrong bytes", request.item),
                    _ => format!("sent a manifest that does not belong to item {}", request.item),
                };
                self.ban(now, request.source, what);
            }
            (_, Verdict::OtherLength) => {
                let Some(request) = self.end(id) else { return };
                self.waste(&request, request.received);
                self.shun(now, request.item, request.source, REFUSED_FOR_GOOD);
                if let Some(transfer) = self.items.get_mut(&request.item) {
                    "its sources say another length than the catalog".clone_into(&mut transfer.waiting);
                }
            }
        }
    }

    /// The time of a request is over, unless something steadily arrives.
    pub(super) fn expire(&mut self, now: Now, id: RequestId) {
        let floor = (self.config.floor_bytes_per_sec * self.config.chunk_deadline.as_secs()).max(1);
        let Some(request) = self.requests.get_mut(id) else { return };
        let steady = request.received - request.received_before >= floor;
        if steady && now.mono.since(request.asked_at) < CHUNK_PATIENCE {
            request.received_before = request.received;
            self.requests.prolong(id, now.mono + self.config.chunk_deadline);
            return;
        }
        let (item, source) = (request.item, request.source);
        self.cancel(id);
        self.strike(now, item, source, 1);
    }

    /// Gives up a request: its chunk is wanted again, its end is awaited.
    pub(super) fn cancel(&mut self, id: RequestId) {
        let Some(request) = self.requests.get_mut(id).filter(|r| r.is_open()) else { return };
        request.stage = RequestStage::Cancelled;
        let request = request.clone();
        self.actions.push_back(Action::Cancel { id });
        self.free(&request);
    }

    /// Ends a chunk that was verified and has been written, or could not be.
    pub(super) fn end_chunk(&mut self, id: RequestId) -> Option<(Request, ChunkIndex)> {
        self.requests.get(id).filter(|r| r.is_checking())?;
        let request = self.requests.remove(id)?;
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
        if self.items.get(&item).is_some_and(|transfer| complete(transfer)) {
            self.forget(now, item);
            self.actions.push_back(Action::Complete { item });
        }
    }

    /// Ends a transfer and keeps only what people may want to know about it.
    pub(super) fn forget(&mut self, now: Now, item: ItemId) {
        self.cancel_all(|r| r.item == item);
        let Some(mut transfer) = self.items.remove(&item) else { return };
        let sources: Vec<SourceNo> = transfer.roles.iter().map(|role| role.source).collect();
        for source in sources {
            transfer.drop_role(item, source, &self.sources, &mut self.traffic);
        }
        let complete = transfer.stage.picker().is_some_and(Picker::is_complete);
        let standing = if complete { Standing::Complete } else { Standing::Waiting("no longer wanted".to_owned()) };
        self.memories.push_back((item, transfer.progress(now, standing, &self.sources)));
        while self.memories.len() > MEMORIES {
            self.memories.pop_front();
        }
        if self.sources.len() > SOURCES_MAX {
            let (items, requests) = (&self.items, &self.requests);
            self.sources.retain(|number, _| {
                requests.values().any(|request| request.source == number)
                    || items.values().any(|transfer| transfer.roles.get(number).is_some())
            });
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
        let Some(request) = self.requests.get(id) else { return };
        let source = &mut self.sources[request.source];
        source.failures = 0;
        if !matches!(request.ask, Ask::Chunk(_)) {
            return;
        }
        source.close_one(now.mono, request.received);
    }

    fn verified(&mut self, now: Now, id: RequestId) {
        let Some(request) = self.requests.get(id) else { return };
        let Ask::Chunk(chunk) = request.ask else { return };
        let Some(transfer) = self.items.get_mut(&request.item) else {
            // Taken out of the queue while it was checked.
            let request = request.clone();
            return self.waste(&request, request.received);
        };
        let twice = transfer.stage.any_picker().is_some_and(|picker| picker.have().contains(chunk.get()));
        let bytes = request.received;
        let traffic = match twice {
            true => Traffic { wasted_bytes: bytes, ..Traffic::default() },
            false => Traffic { verified_bytes: bytes, ..Traffic::default() },
        };
        transfer.note(request, traffic, &self.sources, &mut self.traffic);
        if twice {
            self.books.wasted_bytes += bytes;
            return;
        }
        self.books.verified_bytes += bytes;
        transfer.meter.add(now.mono, bytes);
        transfer.moved_at = now.mono;
        transfer.last_data = Some(now.utc);
        transfer.waiting.clear();
        if let Some(role) = transfer.roles.get_mut(request.source) {
            role.strikes = role.strikes.saturating_sub(1);
            role.delivered = true;
        }
        transfer.recount(request.source);
    }

    fn manifest_is_here(&mut self, now: Now, item: ItemId) {
        self.cancel_all(|r| r.item == item && r.ask == Ask::Manifest);
        let Some(transfer) = self.items.get_mut(&item).filter(|t| matches!(t.stage, Stage::Manifest)) else { return };
        transfer.stage = Stage::Reserving;
        transfer.moved_at = now.mono;
        self.actions.push_back(Action::Reserve { item });
    }

    fn failed(&mut self, now: Now, item: ItemId, number: SourceNo, failure: Failure) {
        match failure {
            Failure::Cancelled => {}
            Failure::Silent => self.strike(now, item, number, 1),
            Failure::Malformed => self.strike(now, item, number, STRIKES_TO_DROP),
            Failure::Closed | Failure::Unreachable => {
                let source = &mut self.sources[number];
                source.failures += 1;
                let first = if failure == Failure::Closed { REST_AFTER_CLOSE } else { REST_AFTER_FAILURE };
                let doubled = first * 2u32.pow((source.failures - 1).min(10));
                self.rest(now, number, doubled.min(REST_MAX));
                self.replan(now, item);
            }
        }
    }

    fn strike(&mut self, now: Now, item: ItemId, source: SourceNo, strikes: u32) {
        let drop_for = self.config.drop_for;
        let Some(role) = self.items.get_mut(&item).and_then(|t| t.roles.get_mut(source)) else { return };
        let before = role.strikes;
        role.strikes += strikes;
        let demoted = before < STRIKES_TO_DEMOTE && role.strikes >= STRIKES_TO_DEMOTE;
        if role.strikes >= STRIKES_TO_DROP {
            // It comes back on probation.
            role.strikes = STRIKES_TO_DEMOTE;
            role.shunned_until = now.mono + drop_for;
        }
        if demoted {
            self.report_stall(item, source);
        }
        self.replan(now, item);
    }

    /// A source has no manifest at the moment. True: it should have one, by what the plan or it itself says.
    fn lacks_manifest(&mut self, now: Now, item: ItemId, source: SourceNo) -> bool {
        let Some(role) = self.items.get_mut(&item).and_then(|t| t.roles.get_mut(source)) else { return false };
        role.bare_until = now.mono + NO_MANIFEST_FOR;
        role.portions.is_some() || role.holding.as_ref().is_some_and(|holding| !holding.is_empty())
    }

    /// The tracker shall not plan this source again.
    fn report_stall(&mut self, item: ItemId, source: SourceNo) {
        let role = self.items.get(&item).and_then(|t| t.roles.get(source));
        if role.is_some_and(|role| role.found_by == FoundBy::Plan) {
            self.actions.push_back(Action::ReportStall { item, source: self.sources[source].device });
        }
    }

    fn ban(&mut self, now: Now, source: SourceNo, reason: String) {
        let device = self.sources[source].device;
        if self.banned.contains(&device) {
            return;
        }
        if self.banned.len() >= BANNED_MAX {
            self.banned.pop_first();
        }
        self.banned.insert(device);
        self.cancel_all(|r| r.source == source);
        let concerned: Vec<ItemId> =
            self.items.iter().filter(|(_, t)| t.roles.get(source).is_some()).map(|(&item, _)| item).collect();
        for item in concerned {
            self.report_stall(item, source);
            self.replan(now, item);
            if let Some(transfer) = self.items.get_mut(&item) {
                transfer.drop_role(item, source, &self.sources, &mut self.traffic);
            }
        }
        self.actions.push_back(Action::Ban { device, reason });
    }

    fn rest(&mut self, now: Now, source: SourceNo, lasts: Duration) {
        let source = &mut self.sources[source];
        source.rests_until = source.rests_until.max(now.mono + lasts);
    }

    fn shun(&mut self, now: Now, item: ItemId, source: SourceNo, lasts: Duration) {
        if let Some(role) = self.items.get_mut(&item).and_then(|t| t.roles.get_mut(source)) {
            role.shunned_until = role.shunned_until.max(now.mono + lasts);
        }
    }

    /// A source is lost: the plan is drawn anew.
    fn replan(&mut self, now: Now, item: ItemId) {
        if let Some(transfer) = self.items.get_mut(&item) {
            transfer.plan_due = transfer.plan_due.min(now.mono);
        }
    }

    fn set_holding(&mut self, item: ItemId, source: SourceNo, holding: ChunkSet) {
        let Some(transfer) = self.items.get_mut(&item) else { return };
        if holding.width() != transfer.geometry.n_chunks() {
            return;
        }
        let Some(role) = transfer.roles.get_mut(source) else { return };
        let before = role.holding.replace(holding);
        let counted = std::mem::take(&mut role.counted);
        if let (true, Some(before), Some(picker)) = (counted, before, transfer.stage.picker_mut()) {
            picker.count_out(&before);
        }
        transfer.recount(source);
    }

    /// The source does not have a chunk that it seemed to have.
    fn unclaim(&mut self, item: ItemId, source: SourceNo, chunk: ChunkIndex) {
        let role = self.items.get(&item).and_then(|t| t.roles.get(source));
        let Some(mut holding) = role.and_then(|role| role.holding.clone()) else { return };
        holding.remove(chunk.get());
        self.set_holding(item, source, holding);
    }

    /// Gives the slot, the budget and the chunk of a request back.
    fn free(&mut self, request: &Request) {
        let mut role = self.items.get_mut(&request.item).and_then(|t| t.roles.get_mut(request.source));
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
                let source = &mut self.sources[request.source];
                source.open = source.open.saturating_sub(1);
                self.release(request.item, chunk);
            }
        }
    }

    /// Ends a request whose data was found bad.
    fn end(&mut self, id: RequestId) -> Option<Request> {
        let request = self.requests.remove(id)?;
        if let Ask::Chunk(chunk) = request.ask {
            self.outstanding_bytes -= request.bytes;
            self.release(request.item, chunk);
        }
        Some(request)
    }

    pub(super) fn cancel_all(&mut self, which: impl Fn(&Request) -> bool) {
        let ids: Vec<RequestId> = self.requests.iter().filter(|(_, r)| which(r)).map(|(id, _)| id).collect();
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
        let traffic = Traffic { wasted_bytes: bytes, ..Traffic::default() };
        match self.items.get_mut(&request.item) {
            Some(transfer) => transfer.note(request, traffic, &self.sources, &mut self.traffic),
            None => self.traffic.entry((request.item, self.sources[request.source].device)).or_default().add(traffic),
        }
    }
}

impl Transfer {
    pub(super) fn new(now: Now, wanted: Wanted) -> Self {
        let mut transfer = Self {
            geometry: wanted.geometry,
            skip: wanted.skip,
            stage: Stage::Manifest,
            roles: Roles::default(),
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
        self.roles.iter().any(|role| role.found_by == FoundBy::Plan && role.shunned_until <= now)
    }

    /// The disk is ready and holds these chunks.
    pub(super) fn start(&mut self, now: Mono, have: ChunkSet) {
        let skip = ChunkSet::from_ranges(self.geometry.n_chunks(), self.skip.iter().cloned());
        let mut picker = Picker::new(have, skip);
        for role in self.roles.iter_mut() {
            role.counted = role.delivered && role.holding.is_some();
            if let Some(holding) = role.holding.as_ref().filter(|_| role.counted) {
                picker.count_in(holding);
            }
        }
        self.stage = Stage::Fetching(picker);
        self.fetching_since = now;
        self.moved_at = now;
    }

    pub(super) fn progress(&self, now: Now, standing: Standing, sources: &Sources) -> Progress {
        let mut tallies = self.tallies.clone();
        for role in self.roles.iter().filter(|role| role.given != Traffic::default()) {
            tally(&mut tallies, &sources[role.source], role.found_by).add(role.given);
        }
        Progress {
            standing,
            held: self.stage.any_picker().map_or(0, |picker| picker.have().len()),
            rate_bytes_per_sec: self.meter.per_sec(now.mono),
            last_data: self.last_data,
            tallies: tallies.into_values().collect(),
        }
    }

    /// Lets a source that has delivered count as a holder.
    fn recount(&mut self, source: SourceNo) {
        let (Some(role), Some(picker)) = (self.roles.get_mut(source), self.stage.picker_mut()) else { return };
        if let Some(holding) = role.holding.as_ref().filter(|_| role.delivered && !role.counted) {
            picker.count_in(holding);
            role.counted = true;
        }
    }

    /// Counts what a request has brought: for the role in which its source was asked.
    fn note(
        &mut self,
        request: &Request,
        traffic: Traffic,
        sources: &Sources,
        of_others: &mut BTreeMap<(ItemId, DeviceId), Traffic>,
    ) {
        if let Some(role) = self.roles.get_mut(request.source).filter(|role| role.found_by == request.found_by) {
            role.given.add(traffic);
            role.untold.add(traffic);
            return;
        }
        let source = &sources[request.source];
        tally(&mut self.tallies, source, request.found_by).add(traffic);
        of_others.entry((request.item, source.device)).or_default().add(traffic);
    }
}

/// What a source has given for an item in one way of being known.
pub(super) fn tally<'a>(
    tallies: &'a mut BTreeMap<(DeviceId, FoundBy), Tally>,
    source: &Source,
    found_by: FoundBy,
) -> &'a mut Tally {
    let tally = tallies.entry((source.device, found_by)).or_insert(Tally {
        device: source.device,
        kind: source.kind,
        found_by,
        verified_bytes: 0,
        wasted_bytes: 0,
    });
    tally.kind = tally.kind.or(source.kind);
    tally
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

impl Tally {
    pub(super) fn add(&mut self, traffic: Traffic) {
        self.verified_bytes += traffic.verified_bytes;
        self.wasted_bytes += traffic.wasted_bytes;
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
