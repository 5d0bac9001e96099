//! Decides whether something may be sent to a site now, and tells when that changes for those who were told.
//!
//! What somebody watches is never kept waiting. What is queued waits as its customer says, or else as its site does;
//! what nobody has asked for waits for the windows of its site. Whoever was let through is told when their window
//! ends, its volume is used up, or the operator changes it ([`Action::Close`]); whoever was told to wait is told when
//! they may begin earlier than that ([`Action::Open`]), and begins by themselves when their time comes.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use super::windows::Used;
use super::{Closed, Delivery, Site, Verdict, Why};
use crate::id::{DeviceId, ItemId, SiteId};
use crate::limit::Limit;
use crate::ticket::TicketClass;
use crate::time::{Mono, Now, Utc};

/// Answers that are remembered of one device; the oldest gives way. As many as a planner keeps wishes.
const MAX_ASKS_PER_DEVICE: usize = 64;

/// Whoever was let through and has not asked again for this long is not sent anything any more.
const ASK_LASTS: Duration = Duration::from_secs(120);

/// The date may be set while the program runs: edges are looked for at least this often.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// Windows of one site whose volume is remembered: those that are open, and a few before in case the date is set back.
const USED_MAX: usize = 64;

/// What somebody wants to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ask {
    /// To whom.
    pub device: DeviceId,
    /// Which item.
    pub item: ItemId,
    /// Where that is.
    pub site: SiteId,
    /// Why it is sent.
    pub class: TicketClass,
    /// When it is wanted; none: nobody has said.
    pub delivery: Option<Delivery>,
}

/// What the shell does next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Nothing more of the item is to be sent to the device: take its leases back and tell it until when.
    Close {
        /// To whom.
        device: DeviceId,
        /// Which item.
        item: ItemId,
        /// Until when, and why.
        closed: Closed,
    },
    /// The device may ask for the item now, earlier than it was told.
    Open {
        /// Who.
        device: DeviceId,
        /// Which item.
        item: ItemId,
    },
    /// This much may arrive at a site from now on.
    Rate {
        /// Where.
        site: SiteId,
        /// How much.
        bytes_per_sec: Limit<u64>,
    },
}

#[derive(Debug)]
struct Known {
    site: Site,
    used: Used,
    rate: Limit<u64>,
    edge: Option<Utc>,
}

#[derive(Debug, Clone)]
struct Asked {
    ask: Ask,
    told: Verdict,
    at: Mono,
}

/// The machine. One per tracker.
#[derive(Debug, Default)]
pub struct Gate {
    sites: BTreeMap<SiteId, Known>,
    asked: BTreeMap<(DeviceId, ItemId), Asked>,
    /// Who has asked where.
    at_site: BTreeSet<(SiteId, DeviceId, ItemId)>,
    edges: BTreeSet<(Utc, SiteId)>,
    actions: VecDeque<Action>,
    seen: Option<Now>,
}

impl Gate {
    /// A gate that knows no site: everything may be sent.
    pub fn new() -> Gate {
        Gate::default()
    }

    /// A site as it was described, or is from now on.
    pub fn handle_site(&mut self, now: Now, site: Site) {
        let id = site.id().clone();
        let fresh = Known { site: site.clone(), used: Used::new(), rate: Limit::Unlimited, edge: None };
        self.sites.entry(id.clone()).or_insert(fresh).site = site;
        self.reconsider(now, &id);
    }

    /// A site is as if it had never been described: it has no windows.
    pub fn handle_site_gone(&mut self, now: Now, site: &SiteId) {
        let Some(known) = self.sites.remove(site) else { return };
        if let Some(edge) = known.edge {
            self.edges.remove(&(edge, site.clone()));
        }
        if known.rate != Limit::Unlimited {
            self.actions.push_back(Action::Rate { site: site.clone(), bytes_per_sec: Limit::Unlimited });
        }
        self.ask_all_again(now, site);
    }

    /// How much had arrived in windows, by when they began, when that was last written down.
    pub fn restore_used(&mut self, now: Now, site: &SiteId, used: impl IntoIterator<Item = (Utc, u64)>) {
        if let Some(known) = self.sites.get_mut(site) {
            known.used = used.into_iter().take(USED_MAX).collect();
            self.reconsider(now, site);
        }
    }

    /// Bytes have arrived at a site. They count in the open window that began first and still has room.
    ///
    /// Answers the window they count in and how much that makes, for whoever writes it down.
    pub fn handle_received(&mut self, now: Now, site: &SiteId, bytes: u64) -> Option<(Utc, u64)> {
        let known = self.sites.get_mut(site)?;
        let spans = known.site.spans_at(now.utc);
        let span = spans.iter().find(|span| span.has_room(&known.used)).or(spans.first())?;
        let had_room = span.has_room(&known.used);
        let used = known.used.entry(span.starts).or_default();
        *used = used.saturating_add(bytes);
        let counted = (span.starts, *used);
        while known.used.len() > USED_MAX {
            known.used.pop_first();
        }
        if had_room && !span.has_room(&known.used) {
            self.reconsider(now, site);
        }
        Some(counted)
    }

    /// Answers whether this may be sent, and remembers what it answered.
    pub fn ask(&mut self, now: Now, ask: Ask) -> Verdict {
        self.seen = Some(now);
        let key = (ask.device, ask.item);
        self.forget(&key);
        let told = self.judge(now.utc, &ask);
        // Nothing ever changes for whoever watches.
        if ask.class != TicketClass::Playing {
            self.make_room(&ask.device);
            self.at_site.insert((ask.site.clone(), ask.device, ask.item));
            self.asked.insert(key, Asked { ask, told, at: now.mono });
        }
        told
    }

    /// What would be answered, without anybody asking.
    pub fn judge(&self, now: Utc, ask: &Ask) -> Verdict {
        self.judge_many(now, ask, &mut None)
    }

    /// The same for many who ask at one site at the same moment: what its windows say is found out once.
    fn judge_many(&self, now: Utc, ask: &Ask, windows: &mut Option<Verdict>) -> Verdict {
        let open = Verdict::Open { until: None };
        let Some(known) = self.sites.get(&ask.site) else {
            return match ask.delivery {
                Some(Delivery::NotBefore(when)) if ask.class == TicketClass::Queued => not_before(now, when),
                _ => open,
            };
        };
        let delivery = match ask.class {
            TicketClass::Playing => return open,
            TicketClass::Preload => Delivery::OffPeak,
            TicketClass::Queued => ask.delivery.unwrap_or_else(|| known.site.queued().into()),
        };
        match delivery {
            Delivery::Anytime => open,
            Delivery::OffPeak => *windows.get_or_insert_with(|| known.site.in_windows(now, &known.used)),
            Delivery::NotBefore(when) => not_before(now, when),
        }
    }

    /// When somebody wants an item has changed: whoever was answered about it is told what follows from that.
    pub fn handle_delivery(&mut self, now: Now, device: DeviceId, item: ItemId, delivery: Option<Delivery>) {
        if let Some(asked) = self.asked.get_mut(&(device, item)) {
            asked.ask.delivery = delivery;
            self.ask_again(now, (device, item), &mut None);
        }
    }

    /// Somebody has queued what a device would have fetched in case.
    pub fn handle_queued(&mut self, device: DeviceId, item: ItemId) {
        if let Some(asked) = self.asked.get_mut(&(device, item)).filter(|it| it.ask.class == TicketClass::Preload) {
            asked.ask.class = TicketClass::Queued;
        }
    }

    /// A device does not want an item any more.
    pub fn handle_withdrawn(&mut self, device: DeviceId, item: ItemId) {
        self.forget(&(device, item));
    }

    /// A device has gone.
    pub fn handle_departed(&mut self, device: DeviceId) {
        for key in self.asked_by(&device) {
            self.forget(&key);
        }
    }

    /// Lets time pass.
    pub fn handle_timeout(&mut self, now: Now) {
        self.seen = Some(now);
        while let Some((at, site)) = self.edges.first().cloned()
            && at <= now.utc
        {
            self.reconsider(now, &site);
        }
    }

    /// When [`Gate::handle_timeout`] has something to do.
    pub fn poll_timeout(&self) -> Option<Mono> {
        let seen = self.seen?;
        let (edge, _) = self.edges.first()?;
        Some(seen.mono + edge.since(seen.utc).min(LOOK_EVERY))
    }

    /// What to do next.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// Every site that was described.
    pub fn sites(&self) -> impl Iterator<Item = &Site> {
        self.sites.values().map(|known| &known.site)
    }

    /// One site.
    pub fn site(&self, site: &SiteId) -> Option<&Site> {
        self.sites.get(site).map(|known| &known.site)
    }

    /// Whether what is kept for windows may be sent, if a site is like this.
    pub fn windows_of(&self, now: Utc, like: &Site) -> Verdict {
        let nothing = Used::new();
        like.in_windows(now, self.sites.get(like.id()).map_or(&nothing, |known| &known.used))
    }

    /// How much has arrived in the windows that are remembered, by when they began.
    pub fn used(&self, site: &SiteId) -> impl Iterator<Item = (Utc, u64)> {
        let used = self.sites.get(site).into_iter().flat_map(|known| &known.used);
        used.map(|(window, bytes)| (*window, *bytes))
    }

    /// The items that a device was answered about.
    pub fn items_of(&self, device: &DeviceId) -> Vec<ItemId> {
        self.asked_by(device).into_iter().map(|(_, item)| item).collect()
    }

    /// What may arrive at a site now altogether.
    pub fn rate_of(&self, site: &SiteId) -> Limit<u64> {
        self.sites.get(site).map_or(Limit::Unlimited, |known| known.rate)
    }

    /// What a byte costs at a site, by where it comes from, for every site that was described.
    pub fn costs_of(&self, site: &SiteId) -> BTreeMap<SiteId, u32> {
        let Some(known) = self.sites.get(site) else { return BTreeMap::new() };
        let others = self.sites.values().map(|other| &other.site);
        let described = others.map(|it| (it.id().clone(), known.site.cost_from(it.id(), Some(it.isp()))));
        // A price may name a site that nobody has described.
        known.site.costs().map(|(from, cost)| (from.clone(), cost)).chain(described).collect()
    }

    /// How many of those who were answered would be answered otherwise if a site were like this: how many would be
    /// stopped, and how many could begin.
    pub fn what_if(&self, now: Utc, site: &SiteId, like: Option<&Site>) -> (usize, usize) {
        let used = self.sites.get(site).map(|known| known.used.clone()).unwrap_or_default();
        let mut imagined = Gate::new();
        if let Some(like) = like {
            let known = Known { site: like.clone(), used, rate: Limit::Unlimited, edge: None };
            imagined.sites.insert(site.clone(), known);
        }
        let (mut stopped, mut begun) = (0, 0);
        for key in self.asked_at(site) {
            let ask = &self.asked[&key].ask;
            match (self.judge(now, ask), imagined.judge(now, ask)) {
                (Verdict::Open { .. }, Verdict::Closed(_)) => stopped += 1,
                (Verdict::Closed(_), Verdict::Open { .. }) => begun += 1,
                _ => {}
            }
        }
        (stopped, begun)
    }

    /// Something about a site has changed, or its window has: everything that depends on it is looked at again.
    fn reconsider(&mut self, now: Now, site: &SiteId) {
        self.seen = Some(now);
        let Some(known) = self.sites.get_mut(site) else { return };
        if let Some(edge) = known.edge.take() {
            self.edges.remove(&(edge, site.clone()));
        }
        known.edge = known.site.edge_after(now.utc);
        if let Some(edge) = known.edge {
            self.edges.insert((edge, site.clone()));
        }
        let rate = known.site.rate_at(now.utc);
        if rate != known.rate {
            known.rate = rate;
            self.actions.push_back(Action::Rate { site: site.clone(), bytes_per_sec: rate });
        }
        self.ask_all_again(now, site);
    }

    fn ask_all_again(&mut self, now: Now, site: &SiteId) {
        let mut windows = None;
        for key in self.asked_at(site) {
            self.ask_again(now, key, &mut windows);
        }
    }

    fn ask_again(&mut self, now: Now, key: (DeviceId, ItemId), windows: &mut Option<Verdict>) {
        let Some(asked) = self.asked.get(&key) else { return };
        let (before, verdict) = (asked.told, self.judge_many(now.utc, &asked.ask, windows));
        let is_stale = matches!(before, Verdict::Open { .. }) && now.mono.since(asked.at) > ASK_LASTS;
        if is_stale {
            return self.forget(&key);
        }
        let (device, item) = key;
        let action = match (&before, &verdict) {
            (Verdict::Open { .. }, Verdict::Open { .. }) => None,
            // Its time has come, as it was told.
            (Verdict::Closed(told), Verdict::Open { .. }) if told.opens.is_some_and(|opens| opens <= now.utc) => None,
            (Verdict::Closed(_), Verdict::Open { .. }) => Some(Action::Open { device, item }),
            (before, Verdict::Closed(closed)) if *before != verdict => {
                Some(Action::Close { device, item, closed: *closed })
            }
            (_, Verdict::Closed(_)) => None,
        };
        self.actions.extend(action);
        if let Some(asked) = self.asked.get_mut(&key) {
            asked.told = verdict;
        }
    }

    fn make_room(&mut self, device: &DeviceId) {
        let keys = self.asked_by(device);
        if keys.len() < MAX_ASKS_PER_DEVICE {
            return;
        }
        let oldest = keys.into_iter().min_by_key(|key| self.asked[key].at);
        self.forget(&oldest.expect("a full set has an oldest member"));
    }

    fn forget(&mut self, key: &(DeviceId, ItemId)) {
        if let Some(asked) = self.asked.remove(key) {
            self.at_site.remove(&(asked.ask.site, key.0, key.1));
        }
    }

    fn asked_by(&self, device: &DeviceId) -> Vec<(DeviceId, ItemId)> {
        let (first, last) = (ItemId::from([0; 32]), ItemId::from([0xff; 32]));
        self.asked.range((*device, first)..=(*device, last)).map(|(key, _)| *key).collect()
    }

    fn asked_at(&self, site: &SiteId) -> Vec<(DeviceId, ItemId)> {
        let first = (site.clone(), DeviceId::from([0; 32]), ItemId::from([0; 32]));
        let of_site = self.at_site.range(first..).take_while(|(at, ..)| at == site);
        of_site.map(|(_, device, item)| (*device, *item)).collect()
    }
}

fn not_before(now: Utc, when: Utc) -> Verdict {
    match when <= now {
        true => Verdict::Open { until: None },
        false => Verdict::Closed(Closed { opens: Some(when), ends: None, why: Why::NotYet }),
    }
}
