//! What happens while devices are here: they come, report, ask who sends what, and go.

use std::collections::BTreeSet;
use std::net::IpAddr;

use daemon::exit::Failure;
use futures::FutureExt as _;
use swarm_proto::bitmap::Holding;
use swarm_proto::id::{DeviceId, ItemId};
use swarm_proto::invalid::Invalid;
use swarm_proto::membership::DeviceKind;
use swarm_proto::pb::common as pb_common;
use swarm_proto::pb::tracker as pb;
use swarm_proto::pb::tracker::report::Report;
use swarm_proto::ticket::TicketClass;
use swarm_proto::time::{Mono, Now};
use swarm_proto::tracker::addresses::Reachable;
use swarm_proto::tracker::admission;
use swarm_proto::tracker::planner::{Held, Plan, Waiting, Wish};
use swarm_proto::tracker::registry::Device;
use swarm_proto::tracker::sites::Verdict;
use tonic::Status;

use super::{FLUSH_AFTER, Handle, State};
use crate::convert::{self, Hello};
use crate::mailbox::Mailbox;
use crate::refusal;

/// Seeds that a device keeps connected.
const PINNED_SEEDS: usize = 3;

/// Items outside the catalog that one device may hold chunks of: what a publisher's seed is about to publish, and
/// what titles have pointed to before.
const MAX_UNLISTED: usize = 1_000;

/// A device that is here.
#[derive(Debug)]
pub(super) struct Session {
    /// Tells the streams of one device apart: the last one counts.
    number: u64,
    pub(super) mailbox: Mailbox,
    pub(super) reachable: Reachable,
    /// How many seeds it was told to keep connected.
    pinned: usize,
    /// Tells this run of the device from those before, if it has said.
    pub(super) run: Option<u64>,
    /// Until when what it received has been counted.
    pub(super) counted_at: Mono,
}

/// What the web page tells of a title.
#[derive(Debug, Clone)]
pub(crate) struct TitleCopies {
    pub(crate) name: String,
    pub(crate) sealed_len: u64,
    pub(crate) copies_online: usize,
    pub(crate) partial_online: usize,
}

/// What the web page tells of everything.
#[derive(Debug, Clone)]
pub(crate) struct Overview {
    pub(crate) boxes_online: usize,
    pub(crate) seeds_online: usize,
    pub(crate) n_titles: usize,
    pub(crate) titles: Vec<TitleCopies>,
    pub(crate) traffic: pb::TrafficTotals,
}

impl Handle {
    /// A device has opened a stream and said what it holds. Answers the number of its session.
    pub(crate) async fn arrive(
        &self,
        device: DeviceId,
        from: IpAddr,
        hello: Hello,
        mailbox: Mailbox,
        again: Option<u64>,
    ) -> Result<u64, Failure> {
        self.ask(move |state, now| state.arrive(now, device, from, hello, mailbox, again).boxed()).await
    }

    /// A device reports something.
    pub(crate) async fn report(&self, device: DeviceId, session: u64, report: Report) -> Result<(), Failure> {
        self.look(move |state, now| state.report(now, device, session, report)).await
    }

    /// A device's stream is over.
    pub(crate) async fn depart(&self, device: DeviceId, session: u64) -> Result<(), Failure> {
        self.look(move |state, now| {
            state.depart(now, device, session);
            Ok(())
        })
        .await
    }

    /// Who sends an item to a device that asks from this address.
    pub(crate) async fn assign(
        &self,
        device: DeviceId,
        from: IpAddr,
        item: ItemId,
        missing: Vec<pb_common::ChunkRange>,
        class: TicketClass,
    ) -> Result<pb::Plan, Failure> {
        self.ask(move |state, now| async move { state.assign(now, device, from, item, &missing, class).await }.boxed())
            .await
    }

    /// Who holds which chunks of an item.
    pub(crate) async fn copies(&self, item: ItemId) -> Result<pb::Copies, Failure> {
        self.look(move |state, _| state.copies(item)).await
    }

    /// Bytes by source.
    pub(crate) async fn traffic(&self) -> Result<pb::TrafficTotals, Failure> {
        self.look(|state, _| Ok(state.traffic_message())).await
    }

    /// What the web page tells.
    pub(crate) async fn overview(&self, at_most: usize) -> Result<Overview, Failure> {
        self.look(move |state, _| Ok(state.overview(at_most))).await
    }
}

impl State {
    async fn arrive(
        &mut self,
        now: Now,
        device: DeviceId,
        from: IpAddr,
        hello: Hello,
        mailbox: Mailbox,
        again: Option<u64>,
    ) -> Result<u64, Failure> {
        let member = self.registry.member(&device).map_err(refusal::caller)?.clone();
        self.check_holdings(&hello.holdings)?;
        let is_current = |session: &Session| Some(session.number) == again;
        if again.is_some() && !self.sessions.get(&device).is_some_and(is_current) {
            return Err(refusal::stopping());
        }
        let renewed = self.renew_membership(now, &device).await?;

        if again.is_none() {
            self.close_session(&device, Status::aborted("another stream of this device has taken over"));
            self.last_session += 1;
        }
        let number = again.unwrap_or(self.last_session);
        let reachable = Reachable::new(from, hello.addresses.iter().map(String::as_str));
        tracing::debug!(device = %device.short(), software = hello.software.escape_debug().to_string(), "device is here");
        self.sessions.insert(
            device,
            Session { number, mailbox: mailbox.clone(), reachable, pinned: 0, run: hello.run, counted_at: now.mono },
        );
        self.note_run(now, device, hello.run);
        self.planner.handle_arrived(now, device);
        self.replace_holdings(now, device, hello.holdings);
        self.note_seen(now, device);
        self.keep_arrival(now, device);
        self.count_online();

        self.welcome(&device);
        if member.kind == DeviceKind::Seed && again.is_none() {
            self.offer_seed(&device);
        }
        if let Some(membership) = renewed {
            mailbox.membership(membership.into());
        }
        mailbox.revoked(self.revocations.told().copied());
        mailbox.queue(self.queue_message(&member.account));
        mailbox.catalog_version(self.catalog.version());
        Ok(number)
    }

    fn report(&mut self, now: Now, device: DeviceId, session: u64, report: Report) -> Result<(), Failure> {
        if self.sessions.get(&device).is_none_or(|it| it.number != session) {
            return Err(refusal::stopping());
        }
        let field = |invalid: Invalid| refusal::field(&invalid);
        match report {
            Report::Hello(_) => unreachable!("a Hello is an arrival"),
            Report::Holding(change) => {
                let change = change.holding.ok_or_else(|| field(Invalid::new("holding.holding", "is missing")))?;
                let holding = convert::item_holding(change).map_err(|error| field(error.inside("holding.holding")))?;
                self.check_holding(device, &holding).map_err(|error| field(error.inside("holding.holding")))?;
                self.planner.handle_alive(now, device);
                self.hold(now, device, holding.0, holding.1);
            }
            Report::Heartbeat(heartbeat) => {
                self.planner.handle_heartbeat(now, device, convert::link(&heartbeat));
                self.keep_room(now, device, &heartbeat);
            }
            Report::Proof(proof) => {
                self.planner.handle_alive(now, device);
                self.keep_proof(now, device, &proof).map_err(field)?;
            }
            Report::Stall(stall) => {
                let item = convert::id("stall.item", &stall.item).map_err(field)?;
                let source: DeviceId = convert::id("stall.source", &stall.source).map_err(field)?;
                tracing::debug!(device = %device.short(), source = %source.short(), "source stalls");
                self.planner.handle_alive(now, device);
                self.planner.handle_stall(now, device, item, source);
            }
            Report::Traffic(traffic) => {
                self.account_traffic(now, device, &traffic)?;
                self.planner.handle_alive(now, device);
                let arrived = traffic
                    .rows
                    .iter()
                    .map(|row| row.received_verified_bytes.saturating_add(row.received_wasted_bytes));
                self.count_in_window(now, &device, arrived.fold(0, u64::saturating_add));
            }
            Report::SharesUsed(used) => {
                self.planner.handle_alive(now, device);
                self.use_shares(now, device, &used)?;
            }
        }
        self.note_seen(now, device);
        Ok(())
    }

    fn depart(&mut self, now: Now, device: DeviceId, session: u64) {
        if self.sessions.get(&device).is_none_or(|it| it.number != session) {
            return;
        }
        self.sessions.remove(&device);
        self.gate.handle_departed(device);
        self.planner.handle_departed(now, device);
        self.keep_departure(now, device);
        self.count_online();
        tracing::debug!(device = %device.short(), "device is gone");
    }

    async fn assign(
        &mut self,
        now: Now,
        device: DeviceId,
        from: IpAddr,
        item: ItemId,
        missing: &[pb_common::ChunkRange],
        class: TicketClass,
    ) -> Result<pb::Plan, Failure> {
        admission::admit_device(&self.registry, &device).map_err(refusal::admission)?;
        self.admit_item(&device, &item)?;
        let listing = self.catalog.item(&item).ok_or_else(refusal::no_title)?;
        let n_chunks = listing.n_chunks();
        let missing = convert::missing(n_chunks, missing).map_err(|invalid| refusal::field(&invalid))?;
        if class == TicketClass::Playing {
            self.note_played(now, device, item);
        }
        let ask = self.ask_of(device, item, class).ok_or_else(refusal::no_title)?;
        let until = match self.gate.ask(now, ask.clone()) {
            Verdict::Open { until } => until,
            Verdict::Closed(closed) => {
                self.planner.handle_withdrawn(device, item);
                return Ok(self.closed_plan(now, &ask, &closed));
            }
        };
        let rank = self.rank_of(&device, &item);
        let wish = Wish { device, item, n_chunks, missing, class, rank, until };
        self.tell_origin(now, &device);
        let plan = self.planner.plan(now, &wish);
        let message = self.plan_message(now, &wish, &plan, from).await?;
        Ok(self.with_end(now, &ask, until, message))
    }

    /// Where an item stands in the queue of a device's customer; what is in no queue comes after everything in one.
    fn rank_of(&self, device: &DeviceId, item: &ItemId) -> u32 {
        let account = self.registry.device(device).map(|it| it.account);
        let queue = account.and_then(|account| self.queues.get(&account));
        let place = queue
            .zip(self.catalog.item(item))
            .and_then(|(queue, listing)| queue.entries().iter().position(|entry| entry.title == listing.entry.title));
        place.and_then(|place| u32::try_from(place).ok()).unwrap_or(u32::MAX)
    }

    /// Whether a device may have an item, whoever asks for it and whatever for.
    pub(super) fn admit_item(&self, device: &DeviceId, item: &ItemId) -> Result<(), Failure> {
        match admission::admit_item(&self.registry, device, self.catalog.titles_of(item)) {
            None => Err(refusal::no_title()),
            Some(admitted) => admitted.map_err(refusal::admission),
        }
    }

    /// Sends a plan that nobody asked for, because the one before is not good any more.
    pub(super) async fn push_plan(&mut self, wish: &Wish, plan: Plan) {
        let Some(session) = self.sessions.get(&wish.device) else { return };
        if let Err(refused) = self.admit_item(&wish.device, &wish.item) {
            tracing::debug!(device = %wish.device.short(), item = %wish.item, %refused, "no further plan");
            self.planner.handle_withdrawn(wish.device, wish.item);
            return;
        }
        let (mailbox, from) = (session.mailbox.clone(), session.reachable.observed());
        let now = crate::clock::now();
        let Some(ask) = self.ask_of(wish.device, wish.item, wish.class) else { return };
        // Whoever has to wait has been told so.
        let Verdict::Open { until } = self.gate.judge(now.utc, &ask) else { return };
        match self.plan_message(now, wish, &plan, from).await {
            Ok(message) => mailbox.plan(wish.item, self.with_end(now, &ask, until, message)),
            Err(failure) => tracing::warn!(%failure, "a new plan could not be sent"),
        }
    }

    async fn plan_message(&mut self, now: Now, wish: &Wish, plan: &Plan, from: IpAddr) -> Result<pb::Plan, Failure> {
        let listing = self.catalog.item(&wish.item).ok_or_else(refusal::no_title)?;
        let sealed_len = listing.entry.geometry.sealed_len();
        let admittance = self.admittance(now, wish, plan).await?;
        let until = plan.until.as_millis();
        let allowed = plan.leases.iter().filter(|it| !admittance.denied.contains(&it.source));
        let leases: Vec<pb::Lease> =
            allowed.map(|it| convert::lease(it, until, self.addresses_of(&it.source, from))).collect();
        let waiting = match (leases.is_empty(), plan.waiting) {
            (true, None | Some(Waiting::OriginBudget)) => admittance.waiting,
            (_, why) => why.map(|why| self.waiting_text(&wish.item, why)).unwrap_or_default(),
        };
        let outcome = if leases.is_empty() { "waiting" } else { "planned" };
        self.counters.plans.get_or_create(&[("outcome", outcome)]).inc();
        Ok(pb::Plan {
            item: wish.item.to_vec(),
            n_chunks: wish.n_chunks,
            sealed_len,
            leases,
            ticket: Some(admittance.ticket.into()),
            renew_after_ms: u64::try_from(plan.renew_after.as_millis()).unwrap_or(u64::MAX),
            waiting,
            ..pb::Plan::default()
        })
    }

    /// Tells a device who it speaks to and which seeds to keep connected.
    fn welcome(&mut self, device: &DeviceId) {
        let seeds = self.planner.online_seeds(device, PINNED_SEEDS);
        let Some(session) = self.sessions.get(device) else { return };
        let (from, mailbox) = (session.reachable.observed(), session.mailbox.clone());
        let site = self.registry.device(device).map(|it| &it.site);
        let pinned = seeds.iter().map(|seed| pb::Source {
            device: seed.to_vec(),
            kind: pb_common::DeviceKind::Seed.into(),
            addresses: self.addresses_of(seed, from),
            same_site: self.registry.device(seed).map(|it| &it.site) == site,
        });
        mailbox.welcome(pb::Welcome {
            heartbeat_every_ms: u64::try_from(self.config.plans.heartbeat_every.get().as_millis()).unwrap_or(u64::MAX),
            observed_address: from.to_string(),
            pinned_seeds: pinned.collect(),
        });
        if let Some(session) = self.sessions.get_mut(device) {
            session.pinned = seeds.len();
        }
    }

    /// A seed has come: whoever was here before and found too few is welcomed again.
    fn offer_seed(&mut self, seed: &DeviceId) {
        let short = self.sessions.iter().filter(|(device, it)| *device != seed && it.pinned < PINNED_SEEDS);
        for device in short.map(|(device, _)| *device).collect::<Vec<_>>() {
            self.welcome(&device);
        }
    }

    fn addresses_of(&self, source: &DeviceId, asker: IpAddr) -> Vec<String> {
        self.sessions.get(source).map(|it| it.reachable.for_asker(asker)).unwrap_or_default()
    }

    fn check_holdings(&self, holdings: &[(ItemId, Holding)]) -> Result<(), Failure> {
        let mut unlisted = 0;
        for (at, (item, holding)) in holdings.iter().enumerate() {
            unlisted += usize::from(self.catalog.item(item).is_none());
            let check = self.check_size(item, holding).and_then(|()| check_unlisted(unlisted));
            check.map_err(|error| refusal::field(&error.inside(format!("hello.holdings[{at}]"))))?;
        }
        Ok(())
    }

    fn check_holding(&self, device: DeviceId, (item, holding): &(ItemId, Holding)) -> Result<(), Invalid> {
        let is_new = self.planner.holding(&device, item).is_none() && !holding.is_empty();
        if is_new && self.planner.held_by(&device).count() >= convert::MAX_HOLDINGS {
            return Err(Invalid::new("item", format!("is one more than {} items", convert::MAX_HOLDINGS)));
        }
        if is_new && self.catalog.item(item).is_none() {
            let unlisted = self.planner.held_by(&device).filter(|(it, _)| self.catalog.item(it).is_none()).count();
            check_unlisted(unlisted + 1)?;
        }
        self.check_size(item, holding)
    }

    fn check_size(&self, item: &ItemId, holding: &Holding) -> Result<(), Invalid> {
        // A device that has dropped an item may not know any more how long it was.
        match self.catalog.item(item).map(|it| it.n_chunks()).filter(|_| !holding.is_empty()) {
            Some(n_chunks) if n_chunks != holding.n_chunks() => {
                Err(Invalid::new("n_chunks", format!("must be {n_chunks}, as the catalog says of this item")))
            }
            _ => Ok(()),
        }
    }

    pub(super) fn replace_holdings(&mut self, now: Now, device: DeviceId, holdings: Vec<(ItemId, Holding)>) {
        let told: BTreeSet<ItemId> = holdings.iter().map(|(item, _)| *item).collect();
        let gone: Vec<(ItemId, u32)> = self
            .planner
            .held_by(&device)
            .filter(|(item, _)| !told.contains(item))
            .map(|(item, held)| (item, held.n_chunks()))
            .collect();
        for (item, n_chunks) in gone {
            if let Ok(nothing) = Holding::empty(n_chunks) {
                self.hold(now, device, item, nothing);
            }
        }
        for (item, holding) in holdings {
            self.hold(now, device, item, holding);
        }
    }

    fn hold(&mut self, now: Now, device: DeviceId, item: ItemId, holding: Holding) {
        let known = self.planner.holding(&device, &item).map(|held| held.to_holding());
        let holding = match holding.is_empty() {
            true => Holding::empty(known.as_ref().map_or(holding.n_chunks(), Holding::n_chunks)).unwrap_or(holding),
            false => holding,
        };
        if known.as_ref() == Some(&holding) {
            return;
        }
        let was_complete = self.planner.holding(&device, &item).is_some_and(|held| held.is_complete());
        self.planner.handle_holding(now, device, item, &holding);
        if holding.is_complete() && !was_complete {
            self.note_delivered(now, device, item);
        }
        self.keep_holding(now, device, item);
        self.unwritten.holdings.insert((device, item));
        self.unwritten.is_due_by(now.mono + FLUSH_AFTER);
    }

    fn note_seen(&mut self, now: Now, device: DeviceId) {
        self.registry.handle_seen(now.utc, &device);
        if self.unwritten.seen.insert(device) {
            self.unwritten.is_due_by(now.mono + FLUSH_AFTER);
        }
    }

    pub(super) fn close_silent(&mut self, now: Now, device: &DeviceId) {
        tracing::info!(device = %device.short(), "device has fallen silent");
        self.keep_departure(now, *device);
        self.close_session(device, Status::deadline_exceeded("no report for too long: connect again"));
    }

    pub(super) fn close_sessions(&mut self) {
        let stopping = refusal::status(refusal::stopping());
        self.sessions.values().for_each(|session| session.mailbox.close(stopping.clone()));
        self.sessions.clear();
    }

    fn copies(&self, item: ItemId) -> Result<pb::Copies, Failure> {
        let listed = self.catalog.item(&item).map(|it| it.n_chunks());
        let mut holders: Vec<(DeviceId, Held<'_>)> = self.planner.holders(&item).collect();
        holders.sort_unstable_by_key(|(device, _)| *device);
        let n_chunks =
            listed.or_else(|| holders.first().map(|(_, held)| held.n_chunks())).ok_or_else(refusal::no_title)?;
        let devices = holders.into_iter().filter_map(|(id, held)| {
            let device = self.registry.device(&id)?;
            Some(pb::DeviceHolding { device: Some(self.device_message(device)), chunks: held.len() })
        });
        Ok(pb::Copies { n_chunks, devices: devices.collect() })
    }

    pub(super) fn device_message(&self, device: &Device) -> pb::Device {
        let (mut copies, mut partial) = (0, 0);
        for (_, held) in self.planner.held_by(&device.device) {
            match held.is_complete() {
                true => copies += 1,
                false => partial += 1,
            }
        }
        convert::device(device, self.sessions.contains_key(&device.device), copies, partial)
    }

    fn traffic_message(&self) -> pb::TrafficTotals {
        pb::TrafficTotals {
            from_boxes_bytes: self.traffic.from_boxes_bytes,
            from_seeds_bytes: self.traffic.from_seeds_bytes,
            wasted_bytes: self.traffic.wasted_bytes,
        }
    }

    fn overview(&self, at_most: usize) -> Overview {
        let kind_of = |device: &DeviceId| self.registry.device(device).map(|it| it.kind);
        let seeds = self.sessions.keys().filter(|device| kind_of(device) == Some(DeviceKind::Seed)).count();
        let titles = self.catalog.newest_first(None).filter(|it| it.is_offered()).take(at_most).map(|it| {
            let online = self.planner.holders(&it.entry.item).filter(|(device, _)| self.planner.is_online(device));
            let (complete, partial): (Vec<_>, Vec<_>) = online.partition(|(_, held)| held.is_complete());
            TitleCopies {
                name: it.entry.name.clone(),
                sealed_len: it.entry.geometry.sealed_len(),
                copies_online: complete.len(),
                partial_online: partial.len(),
            }
        });
        Overview {
            boxes_online: self.sessions.len() - seeds,
            seeds_online: seeds,
            n_titles: self.catalog.len(),
            titles: titles.collect(),
            traffic: self.traffic_message(),
        }
    }
}

fn check_unlisted(unlisted: usize) -> Result<(), Invalid> {
    match unlisted {
        0..=MAX_UNLISTED => Ok(()),
        _ => Err(Invalid::new("item", format!("is one more than {MAX_UNLISTED} items that the catalog does not list"))),
    }
}
