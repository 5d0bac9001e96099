//! Keeps what seeds send to each site within the bytes that its hour allows.
//!
//! A share of a ticket is debited when it is granted, as if all of it were sent; what has not been sent comes back when
//! the share is over and its seed has said what it sent, and not before. So for each site, at any moment:
//! `sent in this hour + could still be sent <= budget`, whatever boxes ask for, keep or show twice, and whether or not
//! seeds and tracker can hear each other. A seed that has restarted has forgotten what it sent: its earlier shares count
//! as sent. Hours are those of UTC. The caller writes a grant down before it hands out the ticket.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::geometry::CHUNK_BYTES;
use crate::id::{AccountId, DeviceId, SiteId};
use crate::limit::Limit;
use crate::ticket::SeedShare;
use crate::time::Utc;

/// The hour of the budget.
const HOUR: Duration = Duration::from_secs(3_600);

/// A customer may hold this part of its site's hour in shares that it has not used. A quarter: one household alone still
/// fetches at full speed, and it takes several customers to keep a site's budget from being used.
const ACCOUNT_DIVISOR: u64 = 4;

/// But always this much: with less, a small budget would be handed out in crumbs.
const ACCOUNT_MIN_BYTES: u64 = 64 << 20;

/// How much longer than it says a share is taken to be good, for clocks that disagree.
const SKEW: Duration = Duration::from_secs(300);

/// What seeds may send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// To a site in an hour. Zero: nothing.
    pub bytes_per_hour: Limit<u64>,
    /// To these sites instead.
    pub sites: BTreeMap<SiteId, Limit<u64>>,
    /// How long a seed that cannot hear its tracker honours a share beyond its end.
    pub grace: Duration,
}

impl Default for Config {
    fn default() -> Config {
        let grace = crate::peer::uploads::Config::default().grace;
        Config { bytes_per_hour: Limit::Unlimited, sites: BTreeMap::new(), grace }
    }
}

/// What a ticket should let one seed send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Want {
    /// Which.
    pub seed: DeviceId,
    /// The run of the seed that would count it; none: it has not said.
    pub run: Option<u64>,
    /// How much.
    pub bytes: u64,
}

/// For whom a share is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asker {
    /// Whose device.
    pub account: AccountId,
    /// Where it stands.
    pub site: SiteId,
}

/// The shares of one ticket, as they are written down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// The ticket.
    pub serial: u64,
    /// For whom.
    pub asker: Asker,
    /// Until when the shares hold.
    pub until: Utc,
    /// What each seed may send. Those that are over are gone.
    pub parts: Vec<Part>,
}

/// One share of a grant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// Who may send.
    pub seed: DeviceId,
    /// In which run.
    pub run: u64,
    /// How much.
    pub bytes: u64,
    /// How much of it was sent, as the seed says.
    pub sent: u64,
}

impl Part {
    fn open(&self) -> u64 {
        self.bytes - self.sent
    }
}

/// What was sent to a site in an hour, as it is written down.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Hour {
    /// Which, counted from the epoch.
    pub number: u64,
    /// How much.
    pub sent_bytes: u64,
}

/// What has changed since it was last asked, for the store.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Tickets whose grants have changed or are gone.
    pub serials: BTreeSet<u64>,
    /// Sites whose hour has changed.
    pub sites: BTreeSet<SiteId>,
}

#[derive(Debug, Default)]
struct Site {
    hour: Hour,
    /// What could still be sent under live shares.
    open_bytes: u64,
}

/// The ledger. One per tracker.
#[derive(Debug)]
pub struct Origin {
    config: Config,
    sites: BTreeMap<SiteId, Site>,
    open_by_account: BTreeMap<AccountId, u64>,
    grants: BTreeMap<u64, Grant>,
    by_seed: BTreeSet<(DeviceId, Utc, u64)>,
    changes: Changes,
}

impl Origin {
    /// A ledger in which nothing was sent.
    pub fn new(config: Config) -> Origin {
        Origin {
            config,
            sites: BTreeMap::new(),
            open_by_account: BTreeMap::new(),
            grants: BTreeMap::new(),
            by_seed: BTreeSet::new(),
            changes: Changes::default(),
        }
    }

    /// Puts back what was sent to a site, at the start.
    pub fn restore_hour(&mut self, site: SiteId, hour: Hour) {
        self.sites.entry(site).or_default().hour = hour;
    }

    /// Puts back a grant, at the start.
    pub fn restore_grant(&mut self, grant: Grant) {
        self.insert(grant);
    }

    /// What seeds may send to a site in an hour.
    pub fn budget(&self, site: &SiteId) -> Limit<u64> {
        *self.config.sites.get(site).unwrap_or(&self.config.bytes_per_hour)
    }

    /// What may still be granted to a site in this hour.
    pub fn left(&self, now: Utc, site: &SiteId) -> Limit<u64> {
        self.budget(site).map(|budget| budget.saturating_sub(self.sent(now, site)).saturating_sub(self.open(site)))
    }

    /// What was sent to a site in this hour, as far as is known or must be assumed.
    pub fn sent(&self, now: Utc, site: &SiteId) -> u64 {
        let in_this = |it: &&Site| it.hour.number >= hour_of(now);
        self.sites.get(site).filter(in_this).map_or(0, |it| it.hour.sent_bytes)
    }

    /// What could still be sent to a site under live shares.
    pub fn open(&self, site: &SiteId) -> u64 {
        self.sites.get(site).map_or(0, |it| it.open_bytes)
    }

    /// When the next hour begins.
    pub fn next_hour(now: Utc) -> Utc {
        Utc::from_secs((hour_of(now) + 1) * HOUR.as_secs())
    }

    /// Debits shares for a ticket, as far as the hour allows; where nothing is limited, nothing is debited.
    ///
    /// What is debited has to be written down ([`Origin::grant_of`]) before the ticket is handed out, or taken back
    /// ([`Origin::handle_unwritten`]).
    pub fn grant(&mut self, now: Utc, serial: u64, asker: &Asker, until: Utc, wants: &[Want]) -> Vec<SeedShare> {
        self.drop_overdue(now);
        if self.budget(&asker.site).is_unlimited() {
            let whole = |want: &Want| SeedShare { seed: want.seed, bytes: want.bytes, run: None };
            return wants.iter().filter(|want| want.bytes > 0).map(whole).collect();
        }
        let mut left = self.left_for(now, asker);
        let mut parts: Vec<Part> = Vec::new();
        for want in wants {
            let bytes = want.bytes.min(left);
            // Less than a chunk is of no use to anybody.
            if let Some(run) = want.run.filter(|_| bytes > 0 && bytes >= want.bytes.min(CHUNK_BYTES)) {
                parts.push(Part { seed: want.seed, run, bytes, sent: 0 });
                left -= bytes;
            }
        }
        let share = |part: &Part| SeedShare { seed: part.seed, bytes: part.bytes, run: Some(part.run) };
        let shares = parts.iter().map(share).collect();
        if !parts.is_empty() {
            self.insert(Grant { serial, asker: asker.clone(), until, parts });
        }
        shares
    }

    /// The ticket was not handed out after all.
    pub fn handle_unwritten(&mut self, serial: u64) {
        if let Some(grant) = self.remove(serial) {
            self.release(&grant.asker, grant.parts.iter().map(Part::open).sum());
        }
    }

    /// A seed says how much it has sent under a share by now. It cannot take anything back, nor send more than it may.
    pub fn handle_used(&mut self, now: Utc, seed: DeviceId, serial: u64, sent: u64) {
        let Some(grant) = self.grants.get_mut(&serial) else { return };
        let Some(part) = grant.parts.iter_mut().find(|part| part.seed == seed) else { return };
        let sent = sent.min(part.bytes);
        let more = sent.saturating_sub(part.sent);
        if more == 0 {
            return;
        }
        part.sent = sent;
        let asker = grant.asker.clone();
        self.changes.serials.insert(serial);
        self.charge(now, &asker, more);
    }

    /// A seed says that it serves no share any more that ends by then, and has told what it sent under those.
    pub fn handle_settled(&mut self, seed: DeviceId, run: u64, until: Utc) {
        let over = self.by_seed.range((seed, Utc::EPOCH, 0)..=(seed, until, u64::MAX));
        let over: Vec<u64> = over.map(|(_, _, serial)| *serial).collect();
        for serial in over {
            self.end(serial, seed, |part| part.run == run, |ledger, asker, open| ledger.release(asker, open));
        }
    }

    /// A seed has come in this run: what it may have sent in earlier ones it cannot say any more.
    pub fn handle_run(&mut self, now: Utc, seed: DeviceId, run: Option<u64>) {
        let all = self.by_seed.range((seed, Utc::EPOCH, 0)..=(seed, Utc::from_millis(u64::MAX), u64::MAX));
        let all: Vec<u64> = all.map(|(_, _, serial)| *serial).collect();
        for serial in all {
            let earlier = |part: &Part| Some(part.run) != run;
            self.end(serial, seed, earlier, |ledger, asker, open| ledger.charge(now, asker, open));
        }
    }

    /// The grant of a ticket, as it is to be written down; none: it is to be forgotten.
    pub fn grant_of(&self, serial: u64) -> Option<&Grant> {
        self.grants.get(&serial)
    }

    /// The hour of a site, as it is to be written down.
    pub fn hour_of(&self, site: &SiteId) -> Hour {
        self.sites.get(site).map(|it| it.hour).unwrap_or_default()
    }

    /// What has changed since the last call, besides what was granted.
    pub fn take_changes(&mut self) -> Changes {
        std::mem::take(&mut self.changes)
    }

    fn left_for(&self, now: Utc, asker: &Asker) -> u64 {
        let (Some(left), Some(budget)) = (self.left(now, &asker.site).bound(), self.budget(&asker.site).bound()) else {
            return u64::MAX;
        };
        let held = self.open_by_account.get(&asker.account).copied().unwrap_or(0);
        left.min((budget / ACCOUNT_DIVISOR).max(ACCOUNT_MIN_BYTES).saturating_sub(held))
    }

    fn insert(&mut self, grant: Grant) {
        let open: u64 = grant.parts.iter().map(Part::open).sum();
        self.sites.entry(grant.asker.site.clone()).or_default().open_bytes += open;
        *self.open_by_account.entry(grant.asker.account).or_default() += open;
        for part in &grant.parts {
            self.by_seed.insert((part.seed, grant.until, grant.serial));
        }
        self.grants.insert(grant.serial, grant);
    }

    fn remove(&mut self, serial: u64) -> Option<Grant> {
        let grant = self.grants.remove(&serial)?;
        for part in &grant.parts {
            self.by_seed.remove(&(part.seed, grant.until, serial));
        }
        Some(grant)
    }

    /// A seed's share of a ticket is over, if it is one of these.
    fn end(
        &mut self,
        serial: u64,
        seed: DeviceId,
        which: impl Fn(&Part) -> bool,
        settle: impl FnOnce(&mut Origin, &Asker, u64),
    ) {
        let Some(grant) = self.grants.get_mut(&serial) else { return };
        let Some(at) = grant.parts.iter().position(|part| part.seed == seed && which(part)) else { return };
        let part = grant.parts.remove(at);
        let (asker, until, is_empty) = (grant.asker.clone(), grant.until, grant.parts.is_empty());
        self.by_seed.remove(&(seed, until, serial));
        if is_empty {
            self.grants.remove(&serial);
        }
        self.changes.serials.insert(serial);
        settle(self, &asker, part.open());
    }

    /// Shares that no seed honours any more, whoever it hears, and of which nobody has said what became of them.
    fn drop_overdue(&mut self, now: Utc) {
        let lasts = self.config.grace + SKEW;
        while let Some((&serial, grant)) = self.grants.first_key_value()
            && grant.until + lasts <= now
        {
            self.changes.serials.insert(serial);
            self.handle_unwritten(serial);
        }
    }

    /// What could have been sent was sent.
    fn charge(&mut self, now: Utc, asker: &Asker, bytes: u64) {
        self.release(asker, bytes);
        let site = self.sites.entry(asker.site.clone()).or_default();
        let number = hour_of(now);
        // A clock that goes back does not make a new hour.
        if number > site.hour.number {
            site.hour = Hour { number, sent_bytes: 0 };
        }
        site.hour.number = number;
        site.hour.sent_bytes = site.hour.sent_bytes.saturating_add(bytes);
        self.changes.sites.insert(asker.site.clone());
    }

    /// What could have been sent will not be.
    fn release(&mut self, asker: &Asker, bytes: u64) {
        if let Some(site) = self.sites.get_mut(&asker.site) {
            site.open_bytes = site.open_bytes.saturating_sub(bytes);
        }
        if let Some(open) = self.open_by_account.get_mut(&asker.account) {
            *open = open.saturating_sub(bytes);
            if *open == 0 {
                self.open_by_account.remove(&asker.account);
            }
        }
    }
}

fn hour_of(now: Utc) -> u64 {
    now.as_secs() / HOUR.as_secs()
}

#[cfg(test)]
mod tests;
