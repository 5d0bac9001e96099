//! Sites and their windows: what is answered to those who must wait, and what the gate wants done.

use daemon::exit::Failure;
use futures::FutureExt as _;
use swarm_proto::id::{AccountId, DeviceId, ItemId, SiteId};
use swarm_proto::membership::DeviceKind;
use swarm_proto::pb::tracker as pb;
use swarm_proto::ticket::TicketClass;
use swarm_proto::time::{Now, Utc};
use swarm_proto::tracker::planner::SiteRules;
use swarm_proto::tracker::queue::PriorityList;
use swarm_proto::tracker::sites::{self, Action, Ask, Closed, Delivery, MAX_SITES, Site, Verdict};

use super::{FLUSH_AFTER, Handle, State};
use crate::records::{Described, Records};
use crate::{convert, refusal};

/// Devices that begin in one second when a window opens. A plan costs a tracker less than a millisecond.
const STARTS_PER_SEC: u64 = 200;

/// Devices that wait begin within this long at least, and at most.
const SPREAD: std::ops::RangeInclusive<u64> = 1_000..=600_000;

/// What one device can have received in a second. More is an attempt at the volume that its neighbours share.
const BOX_LINE_BYTES_PER_SEC: u64 = 125_000_000;
const SEED_LINE_BYTES_PER_SEC: u64 = 1_250_000_000;

impl Handle {
    /// Every site that was described or that devices stand at.
    pub(crate) async fn sites(&self) -> Result<pb::ListSitesResponse, Failure> {
        self.look(|state, now| Ok(state.site_list(now))).await
    }

    /// One site and how it stands.
    pub(crate) async fn site(&self, site: SiteId) -> Result<pb::SiteState, Failure> {
        self.look(move |state, now| {
            let described = state.described(&site);
            let known = described.version > 0 || state.stands_at(&site) != (0, 0);
            if known { Ok(state.site_state(now, &described)) } else { Err(refusal::no_site(&site)) }
        })
        .await
    }

    /// Describes a site anew, or says what that would do.
    pub(crate) async fn put_site(&self, described: Described, dry_run: bool) -> Result<pb::SiteChanged, Failure> {
        self.ask(move |state, now| state.put_site(now, described, dry_run).boxed()).await
    }

    /// Forgets what was said about a site, or says what that would do.
    pub(crate) async fn remove_site(&self, site: SiteId, dry_run: bool) -> Result<pb::SiteChanged, Failure> {
        self.ask(move |state, now| state.remove_site(now, site, dry_run).boxed()).await
    }
}

impl State {
    async fn put_site(
        &mut self,
        now: Now,
        mut described: Described,
        dry_run: bool,
    ) -> Result<pb::SiteChanged, Failure> {
        let id = described.site.id().clone();
        let version = self.described(&id).version;
        if described.version != version {
            return Err(refusal::site_moved_on(&id, described.version, version));
        }
        if version == 0 && self.gate.sites().count() >= MAX_SITES {
            return Err(refusal::too_many_sites());
        }
        let (stopped, begun) = self.gate.what_if(now.utc, &id, Some(&described.site));
        if !dry_run {
            described.version += 1;
            self.commit(Records::new().site(&described)).await?;
            self.site_versions.insert(id.clone(), described.version);
            self.gate.handle_site(now, described.site.clone());
            self.tell_planner_all();
            tracing::info!(site = %id, stopped, begun, "a site is described anew");
        }
        Ok(changed(self.site_state(now, &described), stopped, begun))
    }

    async fn remove_site(&mut self, now: Now, site: SiteId, dry_run: bool) -> Result<pb::SiteChanged, Failure> {
        if self.gate.site(&site).is_none() {
            return Err(refusal::no_site(&site));
        }
        let (stopped, begun) = self.gate.what_if(now.utc, &site, None);
        if !dry_run {
            self.commit(Records::new().forgotten_site(&site)).await?;
            self.site_versions.remove(&site);
            self.unwritten.sites.remove(&site);
            self.gate.handle_site_gone(now, &site);
            self.tell_planner(&site);
            self.tell_planner_all();
            tracing::info!(site = %site, stopped, begun, "a site is forgotten");
        }
        let gone = Described { site: Site::new(site), version: 0 };
        Ok(changed(self.site_state(now, &gone), stopped, begun))
    }

    /// A site as it was described, or as one is that nobody has described.
    fn described(&self, site: &SiteId) -> Described {
        Described {
            site: self.gate.site(site).cloned().unwrap_or_else(|| Site::new(site.clone())),
            version: self.site_versions.get(site).copied().unwrap_or(0),
        }
    }

    fn site_list(&self, now: Now) -> pb::ListSitesResponse {
        let described = self.gate.sites().map(|site| site.id().clone());
        let stood_at = self.registry.devices_after(None).filter(|it| !it.revoked).map(|it| it.site.clone());
        let all: std::collections::BTreeSet<SiteId> = described.chain(stood_at).collect();
        pb::ListSitesResponse { sites: all.iter().map(|site| self.site_state(now, &self.described(site))).collect() }
    }

    fn site_state(&self, now: Now, described: &Described) -> pb::SiteState {
        let site = &described.site;
        let (devices, online) = self.stands_at(site.id());
        let waiting = match self.gate.windows_of(now.utc, site) {
            Verdict::Open { .. } => String::new(),
            Verdict::Closed(closed) => site.in_words(now.utc, &closed),
        };
        let began = site.spans_at(now.utc).first().map(|span| span.starts);
        let used = self.gate.used(site.id()).find(|(window, _)| Some(*window) == began);
        pb::SiteState {
            site: Some(convert::site_message(described)),
            devices,
            online,
            open: waiting.is_empty(),
            waiting,
            used_bytes: used.map_or(0, |(_, bytes)| bytes),
        }
    }

    /// How many devices stand at a site, and how many of them are online.
    fn stands_at(&self, site: &SiteId) -> (u32, u32) {
        let here = self.registry.devices_after(None).filter(|it| it.site == *site && !it.revoked);
        here.fold((0, 0), |(devices, online), device| {
            (devices + 1, online + u32::from(self.sessions.contains_key(&device.device)))
        })
    }

    /// What the gate is asked for a device that wants an item.
    pub(super) fn ask_of(&self, device: DeviceId, item: ItemId, class: TicketClass) -> Option<Ask> {
        let site = self.registry.device(&device)?.site.clone();
        let delivery = self.delivery_of(&device, &item);
        Some(Ask { device, item, site, class, delivery })
    }

    /// When the customer of a device wants an item there.
    fn delivery_of(&self, device: &DeviceId, item: &ItemId) -> Option<Delivery> {
        let title = self.catalog.item(item)?.entry.title;
        let account = self.registry.device(device)?.account;
        self.queues.get(&account)?.delivery_to(device, &title)
    }

    /// What a device is told that has to wait.
    pub(super) fn closed_plan(&self, now: Now, ask: &Ask, closed: &Closed) -> pb::Plan {
        let known = self.catalog.item(&ask.item);
        self.counters.plans.get_or_create(&[("outcome", "closed")]).inc();
        pb::Plan {
            item: ask.item.to_vec(),
            n_chunks: known.map_or(0, |it| it.n_chunks()),
            sealed_len: known.map_or(0, |it| it.entry.geometry.sealed_len()),
            renew_after_ms: u64::try_from(self.config.plans.planner().renew_after.as_millis()).unwrap_or(u64::MAX),
            waiting: self.site_in_words(now.utc, &ask.site, closed),
            utc_ms: now.utc.as_millis(),
            closed_until_utc_ms: Some(closed.opens.unwrap_or(Utc::MAX).as_millis()),
            spread_ms: self.spread_ms(),
            ..pb::Plan::default()
        }
    }

    /// Says in a plan with leases when they end for good, and when it goes on after that.
    pub(super) fn with_end(&self, now: Now, ask: &Ask, until: Option<Utc>, plan: pb::Plan) -> pb::Plan {
        let utc_ms = now.utc.as_millis();
        let Some(until) = until else { return pb::Plan { utc_ms, ..plan } };
        let opens = match self.gate.judge(until, ask) {
            Verdict::Closed(closed) => closed.opens.unwrap_or(Utc::MAX),
            Verdict::Open { .. } => until,
        };
        let mut leases = plan.leases;
        leases.iter_mut().for_each(|lease| lease.until_utc_ms = lease.until_utc_ms.min(until.as_millis()));
        pb::Plan {
            leases,
            utc_ms,
            closed_from_utc_ms: Some(until.as_millis()),
            closed_until_utc_ms: Some(opens.as_millis()),
            spread_ms: self.spread_ms(),
            ..plan
        }
    }

    fn spread_ms(&self) -> u64 {
        let waiting = self.sessions.len() as u64;
        (waiting * 1_000 / STARTS_PER_SEC).clamp(*SPREAD.start(), *SPREAD.end())
    }

    pub(super) fn site_in_words(&self, now: Utc, site: &SiteId, closed: &Closed) -> String {
        match self.gate.site(site) {
            Some(site) => site.in_words(now, closed),
            None => Site::new(site.clone()).in_words(now, closed),
        }
    }

    /// Does what the gate wants done.
    pub(super) fn perform_gate(&mut self) {
        let now = crate::clock::now();
        while let Some(action) = self.gate.poll_action() {
            match action {
                Action::Close { device, item, closed } => {
                    self.planner.handle_withdrawn(device, item);
                    self.tell_closed(now, device, item, &closed);
                }
                // The wait is over now: the device asks for a plan when its own moment has come.
                Action::Open { device, item } => {
                    let over = Closed { opens: Some(now.utc), ends: None, why: sites::Why::NotYet };
                    self.tell_closed(now, device, item, &over);
                }
                Action::Rate { site, bytes_per_sec } => {
                    tracing::debug!(site = %site, rate = %bytes_per_sec, "what may arrive at a site has changed");
                    self.tell_planner(&site);
                }
            }
        }
    }

    /// What the planner must know of a site.
    fn tell_planner(&mut self, site: &SiteId) {
        let inbound_bytes_per_sec = self.gate.rate_of(site);
        let rules = SiteRules { inbound_bytes_per_sec, costs: self.gate.costs_of(site) };
        self.planner.handle_site(site, &rules);
    }

    /// The same of all sites: the label of one is a price for the others.
    pub(super) fn tell_planner_all(&mut self) {
        let sites: Vec<SiteId> = self.gate.sites().map(|site| site.id().clone()).collect();
        sites.iter().for_each(|site| self.tell_planner(site));
    }

    fn tell_closed(&mut self, now: Now, device: DeviceId, item: ItemId, closed: &Closed) {
        let Some(session) = self.sessions.get(&device) else { return };
        let mailbox = session.mailbox.clone();
        let Some(ask) = self.ask_of(device, item, TicketClass::Queued) else { return };
        mailbox.plan(item, self.closed_plan(now, &ask, closed));
    }

    /// What arrived at a device counts in the window of its site.
    pub(super) fn count_in_window(&mut self, now: Now, device: &DeviceId, bytes: u64) {
        let (Some(known), Some(session)) = (self.registry.device(device), self.sessions.get_mut(device)) else {
            return;
        };
        let line = match known.kind {
            DeviceKind::Box => BOX_LINE_BYTES_PER_SEC,
            DeviceKind::Seed => SEED_LINE_BYTES_PER_SEC,
        };
        let since = now.mono.since(std::mem::replace(&mut session.counted_at, now.mono));
        let possible = u64::try_from(since.as_millis()).unwrap_or(u64::MAX).saturating_mul(line) / 1_000;
        if self.gate.handle_received(now, &known.site, bytes.min(possible)).is_some() {
            self.unwritten.sites.insert(known.site.clone());
            self.unwritten.is_due_by(now.mono + FLUSH_AFTER);
        }
    }

    /// A customer's queue is another one: those of their devices that wait or fetch hear what follows from that.
    pub(super) fn reconsider_queue(&mut self, now: Now, account: &AccountId, before: &PriorityList) {
        let devices: Vec<DeviceId> = self.registry.devices_of(account).map(|it| it.device).collect();
        for device in devices {
            for item in self.gate.items_of(&device) {
                let Some(title) = self.catalog.item(&item).map(|it| it.entry.title) else { continue };
                let in_list = |list: &PriorityList| {
                    list.entries().iter().any(|entry| entry.title == title && entry.concerns(&device))
                };
                let stays = self.queues.get(account).is_some_and(in_list);
                if in_list(before) && !stays {
                    self.gate.handle_withdrawn(device, item);
                    self.planner.handle_withdrawn(device, item);
                } else {
                    if stays {
                        self.gate.handle_queued(device, item);
                    }
                    self.gate.handle_delivery(now, device, item, self.delivery_of(&device, &item));
                }
            }
        }
    }
}

fn changed(state: pb::SiteState, stopped: usize, begun: usize) -> pb::SiteChanged {
    let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    pb::SiteChanged { state: Some(state), stopped: count(stopped), begun: count(begun) }
}
