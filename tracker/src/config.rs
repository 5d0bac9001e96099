//! Everything a tracker can be told, checked before a port opens.
//!
//! `config.example.toml` says the same to people and is tested to equal [`Config::default`].

use std::collections::BTreeMap;

use daemon::config::{Invalid, Settings};
use daemon::serve;
use daemon::units::{ByteRate, ByteSize, Duration, Limit};
use serde::{Deserialize, Serialize};
use swarm_proto::geometry;
use swarm_proto::id::SiteId;
use swarm_proto::tracker::preload::MAX_ITEMS_PER_BOX;
use swarm_proto::tracker::registry::MAX_NAME_BYTES;
use swarm_proto::tracker::{origin, planner, proofs, repositories};

/// The port that devices and people reach a tracker at.
const DEFAULT_PORT: u16 = 7001;

/// Longest address of a keyserver.
const MAX_URL_BYTES: usize = 512;

/// Heartbeats that may get lost before a device counts as offline.
const HEARTBEATS_BEFORE_SILENCE: u32 = 2;

/// Copies of one item on seeds; more is a mistake.
const MAX_COPIES: usize = 100;

/// Titles preloaded by demand leave half of a box's list to what operators name.
const MAX_POPULAR: usize = MAX_ITEMS_PER_BOX / 2;

/// Checks in a second; more would keep disks from their work.
const MAX_CHECKS_PER_SEC: u32 = 1_000;

/// The configuration of a tracker.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// What people call this tracker, 1 to 64 bytes.
    pub name: String,
    /// Where keys for the titles of this catalog are sold, told to every device; empty: nowhere.
    pub keyserver_url: String,
    /// The site of devices that are invited without one.
    pub default_site: String,
    /// The port.
    pub server: serve::Config,
    /// How sources are chosen.
    pub plans: Plans,
    /// What seeds may send.
    pub origin: OriginBudget,
    /// Copies on seeds.
    pub repositories: Repositories,
    /// Titles that wait on boxes.
    pub preload: Preload,
    /// Whether devices hold what they say.
    pub proofs: Proofs,
}

/// What seeds may send to the devices of each site.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OriginBudget {
    /// In each hour of UTC; zero: nothing.
    pub bytes_per_hour: Limit<ByteSize>,
    /// The same for single sites.
    pub sites: BTreeMap<String, Limit<ByteSize>>,
}

/// Copies on seeds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Repositories {
    /// Seeds that shall hold each item, or all seeds where there are fewer.
    pub copies: usize,
    /// A seed that is away for this long is lost, and its copies are made anew.
    pub lost_after: Duration,
}

/// Titles that wait on boxes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Preload {
    /// The part of a box's free disk that is used at most.
    pub box_percent: u8,
    /// Titles of each site that are preloaded because they are wanted most.
    pub popular: usize,
    /// On which part of the site's boxes.
    pub popular_percent: u8,
    /// How much of each, in spans of 16 MiB.
    pub popular_spans: u32,
}

/// Whether devices hold what they say.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Proofs {
    /// Checks begun in a second; each costs two devices a read of 1 MiB.
    pub checks_per_sec: u32,
    /// How long a device may take to answer.
    pub deadline: Duration,
    /// How long an answer counts.
    pub proven_for: Duration,
}

/// How sources are chosen.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Plans {
    /// How long a lease lasts.
    pub lease: Duration,
    /// When a device asks again.
    pub renew_after: Duration,
    /// How often a device says that it is there.
    pub heartbeat_every: Duration,
    /// A device that has not been heard of for this long is offline.
    pub silence: Duration,
    /// How long a source that stalled is avoided.
    pub avoid: Duration,
    /// Accounts that must complain about a source before others are planned away from it.
    pub complainers: usize,
    /// Boxes that one plan names for speed.
    pub max_sources: usize,
    /// What a box is believed to send while nobody has measured it.
    pub unknown_box: ByteRate,
    /// What a seed is believed to send while nobody has measured it.
    pub unknown_seed: ByteRate,
    /// Boxes that together give this much to a title in a queue need no seed beside them.
    pub enough: ByteRate,
    /// The same for a title that somebody is watching.
    pub enough_playing: ByteRate,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            name: "reelswarm tracker".to_owned(),
            keyserver_url: String::new(),
            default_site: "main".to_owned(),
            server: serve::Config::on_loopback(DEFAULT_PORT),
            plans: Plans::default(),
            origin: OriginBudget::default(),
            repositories: Repositories::default(),
            preload: Preload::default(),
            proofs: Proofs::default(),
        }
    }
}

impl Default for Repositories {
    fn default() -> Repositories {
        let repositories::Config { copies, lost_after } = repositories::Config::default();
        Repositories { copies, lost_after: Duration(lost_after) }
    }
}

impl Default for Preload {
    fn default() -> Preload {
        Preload { box_percent: 50, popular: 0, popular_percent: 20, popular_spans: 1 }
    }
}

impl Default for Proofs {
    fn default() -> Proofs {
        let proofs::Config { checks_per_sec, deadline, proven_for, .. } = proofs::Config::default();
        Proofs { checks_per_sec, deadline: Duration(deadline), proven_for: Duration(proven_for) }
    }
}

impl Repositories {
    fn check(&self) -> Result<(), Invalid> {
        match (self.copies, self.lost_after.get().is_zero()) {
            (1..=MAX_COPIES, false) => Ok(()),
            (1..=MAX_COPIES, true) => {
                let why = "a seed would be lost whenever it restarts";
                Err(Invalid::new("repositories.lost_after", why, "write a time such as \"15m\""))
            }
            _ => Err(Invalid::new("repositories.copies", "not a number of copies", format!("write 1 to {MAX_COPIES}"))),
        }
    }
}

impl Preload {
    fn check(&self) -> Result<(), Invalid> {
        if self.box_percent > 100 {
            return Err(Invalid::new("preload.box_percent", "a disk has no more than that", "write 0 to 100"));
        }
        if self.popular > MAX_POPULAR {
            let hint = format!("write 0 to {MAX_POPULAR}");
            return Err(Invalid::new("preload.popular", "a box could not hold so many", hint));
        }
        if !(1..=100).contains(&self.popular_percent) {
            return Err(Invalid::new("preload.popular_percent", "not a part of the boxes", "write 1 to 100"));
        }
        match (1..=geometry::MAX_SPANS).contains(&self.popular_spans) {
            true => Ok(()),
            false => {
                let hint = format!("write 1 to {}", geometry::MAX_SPANS);
                Err(Invalid::new("preload.popular_spans", "no title has so many", hint))
            }
        }
    }
}

impl Proofs {
    fn check(&self) -> Result<(), Invalid> {
        if !(1..=MAX_CHECKS_PER_SEC).contains(&self.checks_per_sec) {
            let hint = format!("write 1 to {MAX_CHECKS_PER_SEC}");
            return Err(Invalid::new("proofs.checks_per_sec", "nothing would be proven, or nothing else done", hint));
        }
        match [("proofs.deadline", self.deadline), ("proofs.proven_for", self.proven_for)]
            .into_iter()
            .find(|(_, it)| it.get().is_zero())
        {
            Some((key, _)) => Err(Invalid::new(key, "nobody could answer in time", "write a time such as \"15s\"")),
            None => Ok(()),
        }
    }
}

impl Default for OriginBudget {
    fn default() -> OriginBudget {
        OriginBudget { bytes_per_hour: Limit::Unlimited, sites: BTreeMap::new() }
    }
}

impl OriginBudget {
    /// What the ledger is told. Names of sites have been checked.
    pub(crate) fn ledger(&self) -> origin::Config {
        let bytes = |limit: &Limit<ByteSize>| match limit {
            Limit::At(size) => swarm_proto::limit::Limit::Of(size.bytes()),
            Limit::Unlimited => swarm_proto::limit::Limit::Unlimited,
        };
        let sites = self.sites.iter().filter_map(|(site, limit)| Some((SiteId::new(site).ok()?, bytes(limit))));
        origin::Config { bytes_per_hour: bytes(&self.bytes_per_hour), sites: sites.collect(), ..Default::default() }
    }

    fn check(&self) -> Result<(), Invalid> {
        match self.sites.keys().find_map(|site| Some((site, SiteId::new(site).err()?))) {
            Some((site, why)) => Err(Invalid::new(
                format!("origin.sites.{site}"),
                why,
                "name a site as its devices were invited to it, such as north = \"200 GB\"",
            )),
            None => Ok(()),
        }
    }
}

impl Default for Plans {
    fn default() -> Plans {
        let planner = planner::Config::default();
        Plans {
            lease: Duration(planner.lease),
            renew_after: Duration(planner.renew_after),
            heartbeat_every: Duration::from_secs(10),
            silence: Duration(planner.silence),
            avoid: Duration(planner.avoid),
            complainers: planner.complainers,
            max_sources: planner.max_sources,
            unknown_box: ByteRate(planner.unknown_box_bytes_per_sec),
            unknown_seed: ByteRate(planner.unknown_seed_bytes_per_sec),
            enough: ByteRate(planner.enough_bytes_per_sec),
            enough_playing: ByteRate(planner.enough_playing_bytes_per_sec),
        }
    }
}

impl Plans {
    /// What the planner is told.
    pub(crate) fn planner(&self) -> planner::Config {
        planner::Config {
            lease: self.lease.get(),
            renew_after: self.renew_after.get(),
            silence: self.silence.get(),
            avoid: self.avoid.get(),
            complainers: self.complainers,
            max_sources: self.max_sources,
            unknown_box_bytes_per_sec: self.unknown_box.bytes_per_sec(),
            unknown_seed_bytes_per_sec: self.unknown_seed.bytes_per_sec(),
            enough_bytes_per_sec: self.enough.bytes_per_sec(),
            enough_playing_bytes_per_sec: self.enough_playing.bytes_per_sec(),
            ..planner::Config::default()
        }
    }

    fn check(&self) -> Result<(), Invalid> {
        let zero = std::time::Duration::ZERO;
        if self.heartbeat_every.get() == zero {
            return Err(Invalid::new("plans.heartbeat_every", "it is zero", "write a time such as \"10s\""));
        }
        if self.silence.get() < self.heartbeat_every.get() * HEARTBEATS_BEFORE_SILENCE {
            let hint = format!("let it be at least {HEARTBEATS_BEFORE_SILENCE} times plans.heartbeat_every");
            return Err(Invalid::new("plans.silence", "one lost heartbeat would make a device offline", hint));
        }
        if self.renew_after.get() == zero || self.renew_after.get() >= self.lease.get() {
            let why = "leases would end before they are renewed";
            return Err(Invalid::new("plans.renew_after", why, "let it be above zero and below plans.lease"));
        }
        if self.complainers == 0 {
            let why = "every source would be avoided without a complaint";
            return Err(Invalid::new("plans.complainers", why, "write at least 1; 2 or more is wise"));
        }
        let most = planner::Config::default().max_leases;
        if !(1..=most).contains(&self.max_sources) {
            return Err(Invalid::new("plans.max_sources", "not a number of sources", format!("write 1 to {most}")));
        }
        let rates = [("plans.unknown_box", self.unknown_box), ("plans.unknown_seed", self.unknown_seed)];
        match rates.into_iter().find(|(_, rate)| rate.bytes_per_sec() == 0) {
            Some((key, _)) => {
                Err(Invalid::new(key, "nothing would ever be sent", "write a rate such as \"1250 kB/s\""))
            }
            None => Ok(()),
        }
    }
}

impl Settings for Config {
    const ROLE: &'static str = "tracker";
    const EXAMPLE: &'static str = include_str!("../config.example.toml");

    fn check(&self) -> Result<(), Invalid> {
        if self.name.trim().is_empty() || self.name.len() > MAX_NAME_BYTES {
            let why = format!("a name has 1 to {MAX_NAME_BYTES} bytes");
            return Err(Invalid::new("name", why, "choose a name that people will recognise"));
        }
        if let Err(error) = SiteId::new(&self.default_site) {
            return Err(Invalid::new("default_site", error, "write a label such as \"north\""));
        }
        let url = &self.keyserver_url;
        let is_url = url.starts_with("http://") || url.starts_with("https://");
        if !url.is_empty() && (!is_url || url.len() > MAX_URL_BYTES) {
            let hint = "write it like \"http://127.0.0.1:7002\", or leave it empty";
            return Err(Invalid::new("keyserver_url", "this is not the address of a keyserver", hint));
        }
        self.origin.check()?;
        self.repositories.check()?;
        self.preload.check()?;
        self.proofs.check()?;
        self.plans.check()
    }
}

#[cfg(test)]
mod tests {
    use daemon::config::Sources;

    use super::*;

    fn refusal(assignment: &str) -> String {
        Sources::none().set(assignment).load::<Config>().unwrap_err().to_string()
    }

    #[test]
    fn example_file_says_what_the_defaults_are() {
        daemon::config::example_is_default::<Config>().unwrap();
    }

    #[test]
    fn values_that_make_no_sense_are_refused_by_name() {
        for (assignment, key) in [
            ("plans.renew_after=1h", "plans.renew_after"),
            ("plans.silence=1s", "plans.silence"),
            ("plans.complainers=0", "plans.complainers"),
            ("plans.max_sources=0", "plans.max_sources"),
            ("plans.unknown_box=0 B/s", "plans.unknown_box"),
            ("repositories.copies=0", "repositories.copies"),
            ("repositories.lost_after=0s", "repositories.lost_after"),
            ("preload.box_percent=101", "preload.box_percent"),
            ("preload.popular=1000", "preload.popular"),
            ("preload.popular_percent=0", "preload.popular_percent"),
            ("preload.popular_spans=0", "preload.popular_spans"),
            ("proofs.checks_per_sec=0", "proofs.checks_per_sec"),
            ("proofs.deadline=0s", "proofs.deadline"),
            ("default_site=North Pole", "default_site"),
            ("keyserver_url=127.0.0.1", "keyserver_url"),
            ("origin.bytes_per_hour=1000", "bytes_per_hour"),
            ("origin.sites.North Pole=1 GB", "origin.sites.North Pole"),
            ("name=", "name"),
        ] {
            let said = refusal(assignment);
            assert!(said.contains(key), "{assignment}: {said}");
        }
    }
}
