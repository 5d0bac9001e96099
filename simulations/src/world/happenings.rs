//! What happens in a world, one thing at a time: messages arrive, flows end, boxes come and go.
//!
//! Everything a machine wishes is done at once and in order, as in the daemon. What the daemon does in threads of its
//! own (hashing, writing) takes no time here.

use rand::RngExt as _;
use rand::seq::IndexedRandom as _;
use swarm_proto::membership::DeviceKind;
use swarm_proto::peer::chunk_set::ChunkSet;
use swarm_proto::peer::transfers::{Action, Answer, Ask, Failure, Refused, RequestId, Verdict, Wanted};
use swarm_proto::peer::uploads::{self, Admission};
use swarm_proto::ticket::TicketClass;
use swarm_proto::tracker::planner::{self, Wish};
use swarm_proto::wire::Refusal;

use super::build::HEARTBEAT_MICROS;
use super::checks::Rule;
use super::device::{Live, LiveState, Manners, number_of, title_of};
use super::links::{FlowId, Way};
use super::tracker::{Notice, Report};
use super::{BEAT_MICROS, Canary, Control, Reply, Request, Sending, Wake, World, micros, moment_of};

/// Bytes of one chunk in a manifest.
const MANIFEST_BYTES_PER_CHUNK: u64 = 32;

/// What is under way is told to the machine this often, as in the daemon.
const LOOK_EVERY_MICROS: u64 = 250_000;

/// Providers that Kademlia keeps for one item.
const PROVIDERS: usize = 20;

/// Boxes that have lost their tracker try again within this time.
const RECONNECT_WITHIN_MICROS: u64 = 4_000_000;

/// The event at which the canary strikes, where it strikes once.
const CANARY_AT: u64 = 1_000;

impl World {
    pub(super) fn woken(&mut self, wake: Wake) {
        match wake {
            Wake::Timer(device) => self.timer(device),
            Wake::FlowEnds(device) => self.flows_end(device),
            Wake::News(device) => self.tell_news(device),
            Wake::Heartbeat(device) => self.heartbeat(device),
            Wake::Planner => self.planner_timer(),
            Wake::Reserve { device, title } => self.reserved(device, title),
            Wake::Providers { device, title } => self.providers_found(device, title),
            Wake::Want(want) => self.wanted(want),
            Wake::Play(want) => self.play(want),
            Wake::Leave(device) => self.leave(device),
            Wake::Reconnect(device) => self.reconnect(device),
            Wake::SeedsLeave => (self.n_boxes..self.devices.len() as u32).for_each(|seed| self.leave(seed)),
            Wake::TrackerStops => self.tracker_stops(),
            Wake::TrackerStarts => self.tracker_starts(),
            Wake::Beat => {
                self.links.divide_wide(self.schedule.now());
                self.after_links();
                self.schedule.wake(self.schedule.now() + BEAT_MICROS, Wake::Beat);
            }
            Wake::Sample => {
                self.take_sample();
                self.check_at_a_sample();
                self.schedule.wake(self.schedule.now() + self.sample_every(), Wake::Sample);
            }
        }
    }

    /// A request has reached whom it is for.
    pub(super) fn requested(&mut self, request: Request) {
        match request {
            Request::Ask { from, to, id, title, ask } => self.asked(from, to, id, title, ask),
            Request::Cancel { from, id } => self.cancelled(from, id),
        }
    }

    fn asked(&mut self, from: u32, to: u32, id: RequestId, title: u32, ask: Ask) {
        // Who has left no longer waits for an answer.
        if !self.devices[from as usize].live.contains_key(&id) {
            return;
        }
        let now = self.clocks();
        let [asker, server] =
            self.devices.get_disjoint_mut([from as usize, to as usize]).expect("nobody is a source of its own");
        if !server.online || server.banned.contains(&from) {
            return self.reply(from, id, Answer::Failed { failure: Failure::Unreachable, received: 0 });
        }
        let Some(ticket) = asker.tickets.get(&title) else {
            return self.reply(from, id, Answer::Refused(Refused::Ticket));
        };
        if server.manners == Manners::Staller && matches!(ask, Ask::Chunk(_)) {
            self.set_state(from, id, LiveState::Swallowed);
            return;
        }
        let what = match ask {
            Ask::Manifest => uploads::Ask::Manifest(u64::from(self.geometry.n_chunks()) * MANIFEST_BYTES_PER_CHUNK),
            Ask::Holding => uploads::Ask::Small,
            Ask::Chunk(chunk) => uploads::Ask::Chunk { index: chunk, bytes: self.geometry.chunk_len(chunk) as u64 },
        };
        let item = self.titles[title as usize].item;
        let admission = server.uploads.admit(now, asker.id, item, what, ticket, self.tracker.up);
        let send = match admission {
            Admission::Serve(send) => send,
            Admission::Busy(after) => return self.reply(from, id, Answer::Busy(after)),
            Admission::Refused(why) => return self.reply(from, id, Answer::Refused(refused(why))),
        };
        let server = &mut self.devices[to as usize];
        let held = server.held.get(&title);
        match (ask, held) {
            (_, None) => self.reply(from, id, Answer::NotHeld),
            (Ask::Manifest, Some(_)) => {
                let bytes = u64::from(self.geometry.n_chunks()) * MANIFEST_BYTES_PER_CHUNK;
                self.reply(from, id, Answer::Data(bytes));
            }
            (Ask::Holding, Some(held)) => {
                let held = held.clone();
                self.reply(from, id, Answer::Holding(held));
            }
            (Ask::Chunk(chunk), Some(held)) => {
                let send = send.expect("a chunk is served under a name");
                if !held.contains(chunk.get()) {
                    server.uploads.handle_sent(now.mono, send, 0);
                    return self.reply(from, id, Answer::NotHeld);
                }
                let forged = server.lies();
                if server.is_honest() {
                    self.check_genuine(Rule::OnlyVerifiedIsPassedOn, to, title, Some(chunk.get()));
                }
                let bytes = self.geometry.chunk_len(chunk) as u64;
                let flow = self.links.start(self.schedule.now(), &self.way(to, from), bytes);
                if self.sendings.len() <= flow.index() {
                    self.sendings.resize(flow.index() + 1, None);
                }
                self.sendings[flow.index()] = Some(Sending { from: to, to: from, id, send, forged });
                self.set_state(from, id, LiveState::Sending(flow));
                self.trace.note(self.schedule.now(), "sends", to, from, chunk.get().into());
                self.after_links();
            }
        }
    }

    fn cancelled(&mut self, from: u32, id: RequestId) {
        let Some(live) = self.devices[from as usize].live.get(&id) else { return };
        match live.state {
            // Its answer is on its way already.
            LiveState::Asked => {}
            LiveState::Sending(flow) => {
                let received = self.stop_sending(flow);
                self.cut_off(from, id, Failure::Cancelled, received);
            }
            LiveState::Swallowed => self.cut_off(from, id, Failure::Cancelled, 0),
        }
    }

    /// A request ends before its answer was whole.
    fn cut_off(&mut self, to: u32, id: RequestId, failure: Failure, received: u64) {
        self.tally.cut_off += received;
        self.set_state(to, id, LiveState::Asked);
        self.reply(to, id, Answer::Failed { failure, received });
    }

    fn stop_sending(&mut self, flow: FlowId) -> u64 {
        let sending = self.sendings[flow.index()].take().expect("a flow belongs to a sending");
        let sent = self.links.end(self.schedule.now(), flow);
        self.has_sent(&sending, sent);
        self.after_links();
        sent
    }

    /// Bytes have left a device, a whole chunk or not.
    fn has_sent(&mut self, sending: &Sending, sent: u64) {
        let now = self.clocks().mono;
        let sender = &mut self.devices[sending.from as usize];
        sender.uploads.handle_sent(now, sending.send, sent);
        sender.measure(now, sent);
        if !sending.forged {
            sender.sent_good += 1;
        }
        if sender.kind == DeviceKind::Seed {
            self.tally.seeds_sent += sent;
        }
        let (from, to) = (sender.site, self.devices[sending.to as usize].site);
        self.tally.between[from][to] += sent;
    }

    fn flows_end(&mut self, number: u32) {
        let (now, up) = (self.schedule.now(), self.devices[number as usize].up);
        if self.devices[number as usize].end_at != now {
            return;
        }
        self.devices[number as usize].end_at = u64::MAX;
        while let Some(flow) = self.links.ended(now, up) {
            let sending = self.sendings[flow.index()].take().expect("a flow belongs to a sending");
            let sent = self.links.end(now, flow);
            self.has_sent(&sending, sent);
            self.set_state(sending.to, sending.id, LiveState::Asked);
            let answer = Answer::Data(sent);
            self.schedule.answer(Reply { to: sending.to, id: sending.id, answer, forged: sending.forged });
        }
        self.plan_end(number);
        self.after_links();
    }

    /// An answer has arrived.
    pub(super) fn replied(&mut self, reply: Reply) {
        let Reply { to, id, answer, forged } = reply;
        let now = self.clocks();
        let invented = self.canary == Some(Canary::InventsBytes) && self.events() >= CANARY_AT;
        let device = &mut self.devices[to as usize];
        let Some(live) = device.live.remove(&id) else { return };
        let (whole, arrived) = match answer {
            Answer::Data(bytes) => (Some(bytes), bytes),
            Answer::Failed { received, .. } => (None, received),
            _ => (None, 0),
        };
        if matches!(live.ask, Ask::Chunk(_)) {
            device.received_bytes += arrived + u64::from(invented && arrived > 0);
        }
        device.transfers.handle_answer(now, id, answer);
        if !device.transfers.awaits_verdict(&id) {
            match (whole, live.ask) {
                (Some(bytes), Ask::Chunk(_)) => self.tally.twice += bytes,
                // Of short answers only those count that came although nobody wanted them any more.
                (Some(bytes), Ask::Manifest) => device.received_bytes += bytes,
                _ => {}
            }
            return self.after(to);
        }
        self.perform(to);
        let skips = |every: u64| self.tally.requests.is_multiple_of(every);
        let unnoticed = forged && matches!(self.canary, Some(Canary::SkipsVerification(every)) if skips(every));
        let verdict = if forged && !unnoticed { Verdict::Forged } else { Verdict::Verified };
        self.devices[to as usize].transfers.handle_verdict(now, id, verdict);
        if let (Ask::Chunk(chunk), Some(bytes)) = (live.ask, whole) {
            match verdict {
                Verdict::Verified => {
                    if unnoticed {
                        self.tainted.insert((to, live.title, chunk.get()));
                    }
                    self.perform(to);
                    self.stored(to, id, &live, chunk.get(), bytes);
                }
                Verdict::Forged | Verdict::OtherLength => self.tally.forged += bytes,
            }
        }
        self.after(to);
    }

    /// A chunk has been verified and written.
    fn stored(&mut self, number: u32, id: RequestId, live: &Live, chunk: u32, bytes: u64) {
        let (now, at) = (self.clocks(), self.schedule.now());
        let from_seed = self.devices[live.to as usize].kind == DeviceKind::Seed;
        *if from_seed { &mut self.tally.from_seeds } else { &mut self.tally.from_boxes } += bytes;
        self.trace.note(at, "has", number, live.to, chunk.into());
        let n_chunks = self.geometry.n_chunks();
        let device = &mut self.devices[number as usize];
        let held = device.held.entry(live.title).or_insert_with(|| ChunkSet::empty(n_chunks));
        if held.is_empty() {
            self.titles[live.title as usize].providers.push(number);
        }
        if held.insert(chunk) && device.manners == Manners::Honest {
            self.tally.copies[live.title as usize][chunk as usize] += 1;
        }
        let n_held = held.len();
        device.news.handle_changed(now.mono, self.titles[live.title as usize].item, n_held, n_chunks);
        device.transfers.handle_stored(now, id);
        self.plan_news(number);
    }

    /// Does what the machine of a device wishes, and remembers when it wants to be called again.
    pub(super) fn after(&mut self, number: u32) {
        self.perform(number);
        let device = &mut self.devices[number as usize];
        let Some(at) = device.transfers.poll_timeout().map(moment_of) else { return };
        if at < device.timer_at {
            device.timer_at = at;
            self.schedule.wake(at, Wake::Timer(number));
        }
    }

    fn perform(&mut self, number: u32) {
        while let Some(action) = self.devices[number as usize].transfers.poll_action() {
            self.perform_one(number, action);
        }
    }

    fn perform_one(&mut self, number: u32, action: Action) {
        let at = self.schedule.now();
        match action {
            Action::Request { id, device, item, ask } => {
                let (to, title) = (number_of(&device), title_of(&item));
                match ask {
                    Ask::Chunk(chunk) => {
                        self.tally.requests += 1;
                        self.trace.note(at, "asks", number, to, chunk.get().into());
                    }
                    Ask::Holding => self.tally.holdings_asked += 1,
                    Ask::Manifest => self.trace.note(at, "asks about", number, to, title.into()),
                }
                let live = Live { title, to, ask, state: LiveState::Asked };
                self.devices[number as usize].live.insert(id, live);
                self.schedule.request(Request::Ask { from: number, to, id, title, ask });
            }
            Action::Cancel { id } => {
                self.trace.note(at, "cancels", number, number, id.0);
                self.schedule.request(Request::Cancel { from: number, id });
            }
            Action::AskTracker { item, missing, playing } => {
                let title = title_of(&item);
                self.trace.note(at, "asks plan", number, number, title.into());
                self.report(number, Report::Plan { title, missing, playing });
            }
            Action::AskKademlia { item } => {
                self.tally.kademlia += 1;
                self.trace.note(at, "looks up", number, number, title_of(&item).into());
                let found = at + micros(self.scenario.delays.kademlia.get());
                self.schedule.wake(found, Wake::Providers { device: number, title: title_of(&item) });
            }
            Action::Reserve { item } => {
                self.schedule.wake(at, Wake::Reserve { device: number, title: title_of(&item) });
            }
            Action::ReportStall { item, source } => {
                self.tally.stalls += 1;
                self.trace.note(at, "complains", number, number_of(&source), title_of(&item).into());
                self.report(number, Report::Stall { title: title_of(&item), source });
            }
            Action::Ban { device, .. } => self.banned(number, number_of(&device)),
            Action::Complete { item } => self.completed(number, title_of(&item)),
        }
    }

    fn banned(&mut self, number: u32, crook: u32) {
        self.trace.note(self.schedule.now(), "bans", number, crook, 0);
        self.devices[number as usize].banned.insert(crook);
        if self.devices[crook as usize].is_honest() {
            self.tally.honest_banned += 1;
            self.violated(Rule::HonestAreNotBanned, format!("device {number} has banned device {crook}"));
        } else {
            self.tally.crooks_banned += 1;
        }
    }

    fn completed(&mut self, number: u32, title: u32) {
        let at = self.schedule.now();
        self.trace.note(at, "completes", number, number, title.into());
        self.check_genuine(Rule::ShownIsPublished, number, title, None);
        let open = |want: &&mut super::Want| want.device == number && want.title == title && want.done_at.is_none();
        if let Some(number) = self.wants_of.get(&number)
            && let Some(want) = self.wants[number.clone()].iter_mut().find(open)
        {
            want.done_at = Some(at);
            self.open_wants -= 1;
        }
    }

    fn timer(&mut self, number: u32) {
        let (at, now) = (self.schedule.now(), self.clocks());
        let device = &mut self.devices[number as usize];
        if device.timer_at != at {
            return;
        }
        device.timer_at = u64::MAX;
        if !device.online {
            return;
        }
        if at - device.looked_at >= LOOK_EVERY_MICROS {
            device.looked_at = at;
            for (id, live) in &device.live {
                if let LiveState::Sending(flow) = live.state {
                    device.transfers.handle_received(*id, self.links.sent(at, flow));
                }
            }
        }
        if device.transfers.poll_timeout().is_some_and(|due| due <= now.mono) {
            device.transfers.handle_timeout(now);
        }
        if self.canary == Some(Canary::BansTheHonest)
            && self.events() >= CANARY_AT
            && let Some(victim) = self.devices.iter().position(|device| device.is_honest())
        {
            self.banned(number, victim as u32);
        }
        self.after(number);
    }

    fn reserved(&mut self, number: u32, title: u32) {
        let now = self.clocks();
        let (item, n_chunks) = (self.titles[title as usize].item, self.geometry.n_chunks());
        let device = &mut self.devices[number as usize];
        if device.online {
            let have = device.held.get(&title).cloned().unwrap_or_else(|| ChunkSet::empty(n_chunks));
            device.transfers.handle_reserved(now, item, have);
            self.after(number);
        }
    }

    fn providers_found(&mut self, number: u32, title: u32) {
        let now = self.clocks();
        let found: Vec<_> = self.titles[title as usize]
            .providers
            .sample(&mut self.chance, PROVIDERS)
            .filter(|provider| **provider != number)
            .map(|provider| self.devices[*provider as usize].id)
            .collect();
        let item = self.titles[title as usize].item;
        let device = &mut self.devices[number as usize];
        if device.online {
            device.transfers.handle_providers(now, item, found);
            self.after(number);
        }
    }

    fn wanted(&mut self, number: u32) {
        let want = &self.wants[number as usize];
        let (number, title) = (want.device, want.title);
        if !self.devices[number as usize].online {
            return;
        }
        self.trace.note(self.schedule.now(), "wants", number, number, title.into());
        self.devices[number as usize].queue.push(title);
        let now = self.clocks();
        let device = &self.devices[number as usize];
        let wanted = device.queue.iter().map(|title| Wanted {
            item: self.titles[*title as usize].item,
            geometry: self.geometry,
            have: device.held.get(title).cloned(),
            skip: Vec::new(),
        });
        let wanted = wanted.collect();
        self.devices[number as usize].transfers.handle_wanted(now, wanted);
        self.after(number);
    }

    /// A device leaves for good.
    fn leave(&mut self, number: u32) {
        if !self.devices[number as usize].online {
            return;
        }
        self.trace.note(self.schedule.now(), "leaves", number, number, 0);
        let (up, down) = (self.devices[number as usize].up, self.devices[number as usize].down);
        self.devices[number as usize].online = false;
        self.devices[number as usize].live.clear();
        for flow in self.links.flows_of(down) {
            self.stop_sending(flow);
        }
        for flow in self.links.flows_of(up) {
            let sending = self.sendings[flow.index()].expect("a flow belongs to a sending");
            let received = self.stop_sending(flow);
            self.cut_off(sending.to, sending.id, Failure::Closed, received);
        }
        if self.devices[number as usize].manners == Manners::Honest {
            for (title, held) in &self.devices[number as usize].held {
                held.iter().for_each(|chunk| self.tally.copies[*title as usize][chunk as usize] -= 1);
            }
        }
        if let Some(wants) = self.wants_of.get(&number) {
            for want in self.wants[wants.clone()].iter_mut().filter(|want| want.done_at.is_none()) {
                want.given_up = true;
                self.open_wants -= 1;
            }
        }
        if self.chance.random_range(0.0..1.0) >= self.scenario.churn.silent {
            self.schedule.control(Control::Up { from: number, report: Report::Gone });
        }
    }

    fn heartbeat(&mut self, number: u32) {
        if !self.devices[number as usize].online {
            return;
        }
        self.account(number);
        let link = self.devices[number as usize].link();
        self.report(number, Report::Heartbeat(link));
        self.schedule.wake(self.schedule.now() + HEARTBEAT_MICROS, Wake::Heartbeat(number));
    }

    fn tell_news(&mut self, number: u32) {
        let (at, now, n_chunks) = (self.schedule.now(), self.clocks(), self.geometry.n_chunks());
        if self.devices[number as usize].news_at != at {
            return;
        }
        self.devices[number as usize].news_at = u64::MAX;
        if !self.devices[number as usize].online {
            return;
        }
        loop {
            let device = &mut self.devices[number as usize];
            let held = |item: &_| device.held.get(&title_of(item)).map_or(0, ChunkSet::len);
            let Some(item) = device.news.poll_item(now.mono, held) else { break };
            let title = title_of(&item);
            let holding = device.holding(title, n_chunks);
            if device.manners != Manners::FreeRider {
                self.report(number, Report::Holding { title, holding });
            }
        }
        self.plan_news(number);
    }

    fn plan_news(&mut self, number: u32) {
        let device = &mut self.devices[number as usize];
        let Some(at) = device.news.poll_timeout().map(moment_of) else { return };
        let at = at.max(self.schedule.now());
        if at < device.news_at {
            device.news_at = at;
            self.schedule.wake(at, Wake::News(number));
        }
    }

    fn report(&mut self, from: u32, report: Report) {
        self.tally.reports += 1;
        self.schedule.control(Control::Up { from, report });
    }

    /// A message has reached the tracker.
    pub(super) fn reported(&mut self, from: u32, report: Report) {
        let (now, id) = (self.clocks(), self.devices[from as usize].id);
        if !self.tracker.up {
            if let Report::Plan { title, .. } = report {
                self.schedule.control(Control::Down { to: from, notice: Notice::NoPlan { title } });
            }
            return;
        }
        match report {
            Report::Hello { holdings, link } => {
                let pinned = self.tracker.arrive(now, id, link);
                for (title, holding) in holdings {
                    let item = self.titles[title as usize].item;
                    self.tracker.timed(|planner| planner.handle_holding(now, id, item, &holding));
                }
                self.schedule.control(Control::Down { to: from, notice: Notice::Welcome { pinned } });
            }
            Report::Plan { title, missing, playing } => {
                let (item, n_chunks) = (self.titles[title as usize].item, self.tracker.n_chunks());
                let everything = || std::iter::once(0..n_chunks).collect();
                let missing = if missing.is_empty() { everything() } else { missing };
                let class = if playing { TicketClass::Playing } else { TicketClass::Queued };
                let place = self.devices[from as usize].queue.iter().position(|it| *it == title);
                let rank = place.map_or(u32::MAX, |place| place as u32);
                let wish = Wish { device: id, item, n_chunks, missing, class, rank, until: None };
                let (plan, ticket) = self.tracker.plan(now, wish);
                let ticket = Box::new(ticket);
                self.trace.note(self.schedule.now(), "gets plan", from, from, plan.leases.len() as u64);
                self.schedule.control(Control::Down { to: from, notice: Notice::Plan { title, plan, ticket } });
            }
            Report::Holding { title, holding } => {
                let item = self.titles[title as usize].item;
                self.tracker.timed(|planner| {
                    planner.handle_alive(now, id);
                    planner.handle_holding(now, id, item, &holding);
                });
            }
            Report::Heartbeat(link) => self.tracker.timed(|planner| planner.handle_heartbeat(now, id, link)),
            Report::Stall { title, source } => {
                let item = self.titles[title as usize].item;
                self.tracker.timed(|planner| planner.handle_stall(now, id, item, source));
            }
            Report::Gone => self.tracker.timed(|planner| planner.handle_departed(now, id)),
        }
        self.after_tracker();
    }

    /// A message of the tracker has reached a device.
    pub(super) fn noticed(&mut self, to: u32, notice: Notice) {
        let now = self.clocks();
        let device = &mut self.devices[to as usize];
        if !device.online {
            return;
        }
        match notice {
            Notice::Welcome { pinned } => {
                device.transfers.handle_tracker(now, true);
                device.transfers.handle_pinned(now, pinned);
            }
            Notice::Plan { title, plan, ticket } => {
                device.tickets.insert(title, *ticket);
                device.transfers.handle_plan(now, plan);
            }
            Notice::NoPlan { title } => device.transfers.handle_no_plan(now, self.titles[title as usize].item),
            Notice::Down => device.transfers.handle_tracker(now, false),
        }
        self.after(to);
    }

    fn planner_timer(&mut self) {
        if self.tracker.wake_at != self.schedule.now() {
            return;
        }
        self.tracker.wake_at = u64::MAX;
        let now = self.clocks();
        self.tracker.timed(|planner| planner.handle_timeout(now));
        self.after_tracker();
    }

    /// Does what the planner wishes, and remembers when it wants to be called again.
    pub(super) fn after_tracker(&mut self) {
        let now = self.clocks();
        while let Some(action) = self.tracker.planner.poll_action() {
            match action {
                planner::Action::Push { wish, plan } => {
                    self.tracker.load.pushes += 1;
                    let (to, title) = (number_of(&wish.device), title_of(&wish.item));
                    self.trace.note(self.schedule.now(), "gets push", to, to, plan.leases.len() as u64);
                    let (plan, ticket) = self.tracker.message(now, &wish, plan);
                    let ticket = Box::new(ticket);
                    self.schedule.control(Control::Down { to, notice: Notice::Plan { title, plan, ticket } });
                }
                planner::Action::Silent(device) => {
                    self.trace.note(self.schedule.now(), "is silent", number_of(&device), number_of(&device), 0);
                }
            }
        }
        let Some(at) = self.tracker.planner.poll_timeout().map(moment_of) else { return };
        let at = at.max(self.schedule.now());
        if at < self.tracker.wake_at {
            self.tracker.wake_at = at;
            self.schedule.wake(at, Wake::Planner);
        }
    }

    fn tracker_stops(&mut self) {
        self.trace.note(self.schedule.now(), "stops", u32::MAX, u32::MAX, 0);
        self.tracker.stop();
        for to in 0..self.devices.len() as u32 {
            self.schedule.control(Control::Down { to, notice: Notice::Down });
        }
    }

    fn tracker_starts(&mut self) {
        let at = self.schedule.now();
        self.trace.note(at, "starts", u32::MAX, u32::MAX, 0);
        self.tracker.start(self.clocks(), self.titles.iter().map(|title| title.item));
        for device in 0..self.devices.len() as u32 {
            let after = self.chance.random_range(0..RECONNECT_WITHIN_MICROS);
            self.schedule.wake(at + after, Wake::Reconnect(device));
        }
        self.after_tracker();
    }

    fn reconnect(&mut self, number: u32) {
        let n_chunks = self.geometry.n_chunks();
        let device = &mut self.devices[number as usize];
        if !device.online {
            return;
        }
        let titles: Vec<u32> = device.held.keys().copied().collect();
        let holdings = titles.into_iter().map(|title| (title, device.holding(title, n_chunks))).collect();
        let link = device.link();
        self.report(number, Report::Hello { holdings, link });
    }

    /// Flows have changed: those who wait for an end are woken then.
    fn after_links(&mut self) {
        while let Some(up) = self.links.poll_changed() {
            self.plan_end(self.links.owner(up));
        }
    }

    fn plan_end(&mut self, number: u32) {
        let device = &mut self.devices[number as usize];
        let at = self.links.next_end(device.up);
        if at < device.end_at {
            device.end_at = at.max(self.schedule.now());
            self.schedule.wake(device.end_at, Wake::FlowEnds(number));
        }
    }

    fn way(&self, from: u32, to: u32) -> Way {
        let (from, to) = (&self.devices[from as usize], &self.devices[to as usize]);
        let border = |site: usize| self.borders.get(site).copied().unwrap_or((None, None));
        let wide = match from.site == to.site {
            true => [None; 3],
            false => [border(from.site).0, self.transit, border(to.site).1],
        };
        Way { up: from.up, down: to.down, wide }
    }

    fn set_state(&mut self, number: u32, id: RequestId, state: LiveState) {
        if let Some(live) = self.devices[number as usize].live.get_mut(&id) {
            live.state = state;
        }
    }

    fn reply(&mut self, to: u32, id: RequestId, answer: Answer) {
        self.schedule.answer(Reply { to, id, answer, forged: false });
    }
}

/// As in the daemon.
fn refused(why: Refusal) -> Refused {
    match why {
        Refusal::BadTicket | Refusal::ExpiredTicket | Refusal::OverBudget => Refused::Ticket,
        Refusal::NoSuchChunk | Refusal::NotServing | Refusal::Banned => Refused::Other,
    }
}
