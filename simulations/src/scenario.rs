//! What is simulated: boxes and their links, titles, who wants what when, what goes wrong, and what is expected of it.
//!
//! One TOML file each; the ready ones are in `scenarios/` and part of the program. Unknown keys are refused with their
//! line and the nearest key there is; any key can be set from outside (`--set churn.share=0.2`).

use std::collections::BTreeMap;
use std::path::Path;

use daemon::config::{Invalid, Loaded, Settings, Sources};
use daemon::units::Duration;
use daemon::{Exit, Failure};
use serde::{Deserialize, Serialize};
use swarm_proto::geometry::MAX_CHUNKS;

/// The ready scenarios.
const READY: &[(&str, &str)] = &[
    ("flash_crowd", include_str!("../scenarios/flash_crowd.toml")),
    ("frugal_seeds", include_str!("../scenarios/frugal_seeds.toml")),
    ("churn", include_str!("../scenarios/churn.toml")),
    ("origin_dies", include_str!("../scenarios/origin_dies.toml")),
    ("liars", include_str!("../scenarios/liars.toml")),
    ("turncoats", include_str!("../scenarios/turncoats.toml")),
    ("free_riders", include_str!("../scenarios/free_riders.toml")),
    ("two_isps", include_str!("../scenarios/two_isps.toml")),
    ("tracker_restarts", include_str!("../scenarios/tracker_restarts.toml")),
    ("zipf_week", include_str!("../scenarios/zipf_week.toml")),
    ("prime_time", include_str!("../scenarios/prime_time.toml")),
];

/// More boxes than this do not fit any computer this runs on.
const MAX_BOXES: u32 = 1_000_000;

/// More titles than this are not told apart.
const MAX_TITLES: u32 = 10_000;

/// A whole swarm and what happens to it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Scenario {
    /// One line for people.
    pub about: String,
    /// Boxes.
    pub boxes: u32,
    /// What all chance comes from.
    pub seed: u64,
    /// Virtual time after which a run ends, whatever is missing.
    pub until: Duration,
    /// Who decides who sends.
    pub plans: Plans,
    /// What is there to be had.
    pub titles: Titles,
    /// Who wants what, and when.
    pub wants: Wants,
    /// Who watches what they want while it arrives.
    pub plays: Plays,
    /// Media servers.
    pub seeds: Seeds,
    /// Kinds of links of boxes; their shares add up to one.
    pub links: Vec<LinkClass>,
    /// Sites; none: one site for all. Their shares add up to one.
    pub sites: Vec<Site>,
    /// What all sites together may exchange, in Mbit/s; 0: nothing, absent: as much as their links carry.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub transit_mbit: Option<u64>,
    /// How long messages take.
    pub delays: Delays,
    /// What the tracker knows of links.
    pub uplinks: Uplinks,
    /// Boxes that leave.
    pub churn: Churn,
    /// Boxes that do not play by the rules, as shares of all.
    pub crooks: Crooks,
    /// What breaks.
    pub faults: Faults,
    /// Settings of the machines that differ from their defaults.
    pub machines: Machines,
    /// What must come out: names of results, and bounds such as `<= 1.05`.
    pub expect: BTreeMap<String, String>,
}

/// `plans`: who decides who sends.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Plans {
    /// The planner that ships.
    #[default]
    Planner,
    /// For comparison: a tracker that names devices at random, as BitTorrent's do.
    RandomList,
}

/// `titles`: what is there to be had.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Titles {
    /// How many.
    pub count: u32,
    /// Chunks (1 MiB) of each.
    pub chunks: u32,
    /// Exponent of popularity; 0: all alike.
    pub zipf: f64,
}

/// `wants`: who wants what, and when.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Wants {
    /// The share of boxes that want anything.
    pub share: f64,
    /// Titles that each of them queues.
    pub per_box: u32,
    /// They come at random moments within this time.
    pub over: Duration,
}

/// `plays`: who watches what they want while it arrives.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Plays {
    /// The share of wishes that are watched from the moment they are made.
    pub share: f64,
    /// Mbit/s that a film needs.
    pub mbit: u64,
}

/// `seeds`: media servers. Each holds every title.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Seeds {
    /// How many.
    pub count: u32,
    /// Uplink of each in Mbit/s.
    pub up_mbit: u64,
    /// Downlink of each in Mbit/s.
    pub down_mbit: u64,
    /// Where they stand; absent: at all sites in turn.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub site: Option<String>,
}

/// One of `links`: a kind of access link.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LinkClass {
    /// What people call it.
    pub name: String,
    /// The share of boxes that have it.
    pub share: f64,
    /// Mbit/s to the box.
    pub down_mbit: u64,
    /// Mbit/s from the box.
    pub up_mbit: u64,
}

/// One of `sites`: an ISP region.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Site {
    /// Its name.
    pub name: String,
    /// The share of boxes that are there.
    pub share: f64,
    /// What all its devices together may take from other sites, in Mbit/s; absent: as much as their links carry.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub in_mbit: Option<u64>,
    /// What they may send to other sites.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub out_mbit: Option<u64>,
}

/// `delays`: how long messages take.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Delays {
    /// From asking a device to its beginning to send.
    pub request: Duration,
    /// From the last byte sent to the chunk being here, and of every short answer.
    pub answer: Duration,
    /// One way to or from the tracker.
    pub control: Duration,
    /// From asking Kademlia to its answer.
    pub kademlia: Duration,
}

/// `uplinks`: what the tracker knows of links.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Uplinks {
    /// Boxes tell their links as they are, known from earlier transfers. Otherwise they tell what they measure in this
    /// run.
    pub told: bool,
    /// What is told is wrong by up to this part, either way.
    pub misjudged: f64,
}

/// `churn`: boxes that leave for good.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Churn {
    /// The share of boxes that leave.
    pub share: f64,
    /// At random moments within this time.
    pub over: Duration,
    /// The share of those whose connections do not end but fall silent.
    pub silent: f64,
}

/// `crooks`: boxes that do not play by the rules, as shares of all.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Crooks {
    /// Send forged chunks from the start.
    pub liars: f64,
    /// Send good chunks first, forged ones after [`Crooks::turn_after`].
    pub turncoats: f64,
    /// Good chunks that a turncoat sends before its first forged one.
    pub turn_after: u32,
    /// Take and send nothing.
    pub free_riders: f64,
    /// Take requests and never answer them.
    pub stallers: f64,
}

/// `faults`: what breaks.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Faults {
    /// Seeds are gone from then on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seeds_leave_at: Option<Duration>,
    /// The tracker is away; it comes back knowing what its store holds.
    pub tracker_away: Vec<Outage>,
}

/// One outage.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Outage {
    /// When it begins.
    pub at: Duration,
    /// How long it lasts.
    pub lasts: Duration,
}

/// `machines`: settings that differ from the defaults of the daemons.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Machines {
    /// Chunks a box asks for at a time, over all sources.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outstanding_chunks: Option<u32>,
    /// Chunks a box asks of one source at a time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outstanding_per_source: Option<u32>,
    /// How often a source that holds a part is asked what it holds by now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub holding_refresh: Option<Duration>,
    /// Chunks a box sends at a time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slots: Option<u32>,
    /// Chunks a seed sends at a time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seed_slots: Option<u32>,
    /// Chunks being sent to one peer at a time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slots_per_peer: Option<u32>,
    /// How long a lease lasts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lease: Option<Duration>,
    /// When a device asks for a new plan.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub renew_after: Option<Duration>,
}

impl Default for Scenario {
    fn default() -> Self {
        let fibre = LinkClass { name: "fibre".to_owned(), share: 0.4, down_mbit: 300, up_mbit: 100 };
        let cable = LinkClass { name: "cable".to_owned(), share: 0.6, down_mbit: 100, up_mbit: 20 };
        Self {
            about: String::new(),
            boxes: 1_000,
            seed: 1,
            until: Duration::from_secs(3_600),
            plans: Plans::default(),
            titles: Titles::default(),
            wants: Wants::default(),
            plays: Plays::default(),
            seeds: Seeds::default(),
            links: vec![fibre, cable],
            sites: Vec::new(),
            transit_mbit: None,
            delays: Delays::default(),
            uplinks: Uplinks::default(),
            churn: Churn::default(),
            crooks: Crooks::default(),
            faults: Faults::default(),
            machines: Machines::default(),
            expect: BTreeMap::new(),
        }
    }
}

impl Default for Titles {
    fn default() -> Self {
        Self { count: 1, chunks: 1_024, zipf: 0.0 }
    }
}

impl Default for Wants {
    fn default() -> Self {
        Self { share: 1.0, per_box: 1, over: Duration::from_secs(0) }
    }
}

impl Default for Plays {
    fn default() -> Self {
        Self { share: 0.0, mbit: 8 }
    }
}

impl Default for Seeds {
    fn default() -> Self {
        Self { count: 2, up_mbit: 1_000, down_mbit: 1_000, site: None }
    }
}

impl Default for Delays {
    fn default() -> Self {
        let millis = Duration::from_millis;
        Self { request: millis(40), answer: millis(20), control: millis(200), kademlia: millis(1_000) }
    }
}

impl Default for Uplinks {
    fn default() -> Self {
        Self { told: true, misjudged: 0.0 }
    }
}

impl Default for Churn {
    fn default() -> Self {
        Self { share: 0.0, over: Duration::from_secs(120), silent: 0.2 }
    }
}

impl Default for Crooks {
    fn default() -> Self {
        Self { liars: 0.0, turncoats: 0.0, turn_after: 20, free_riders: 0.0, stallers: 0.0 }
    }
}

impl Settings for Scenario {
    const ROLE: &'static str = "scenario";
    const EXAMPLE: &'static str = include_str!("../scenarios/flash_crowd.toml");

    fn check(&self) -> Result<(), Invalid> {
        let between = |key: &str, value: u32, most: u32| match value {
            0 => Err(Invalid::new(key, "is zero", "say at least 1")),
            _ if value > most => Err(Invalid::new(key, format!("is above {most}"), format!("say at most {most}"))),
            _ => Ok(()),
        };
        between("boxes", self.boxes, MAX_BOXES)?;
        between("titles.count", self.titles.count, MAX_TITLES)?;
        between("titles.chunks", self.titles.chunks, MAX_CHUNKS)?;
        between("wants.per_box", self.wants.per_box, self.titles.count)?;
        let part = |key: &str, value: f64| match (0.0..=1.0).contains(&value) {
            true => Ok(()),
            false => Err(Invalid::new(key, "is not a share", "say 0 to 1")),
        };
        part("wants.share", self.wants.share)?;
        part("plays.share", self.plays.share)?;
        if self.plays.mbit == 0 {
            return Err(Invalid::new("plays.mbit", "a film of nothing is no film", "say at least 1 Mbit/s"));
        }
        part("uplinks.misjudged", self.uplinks.misjudged)?;
        part("churn.share", self.churn.share)?;
        part("churn.silent", self.churn.silent)?;
        let crooks = [self.crooks.liars, self.crooks.turncoats, self.crooks.free_riders, self.crooks.stallers];
        crooks.into_iter().try_for_each(|share| part("crooks", share))?;
        part("crooks", crooks.iter().sum())?;
        whole("links", self.links.iter().map(|class| class.share))?;
        if self.links.iter().any(|class| class.down_mbit == 0) {
            return Err(Invalid::new("links", "a downlink of nothing brings nothing", "say at least 1 Mbit/s"));
        }
        if !self.sites.is_empty() {
            whole("sites", self.sites.iter().map(|site| site.share))?;
        }
        if let Some(site) = &self.seeds.site
            && !self.sites.iter().any(|it| it.name == *site)
        {
            return Err(Invalid::new("seeds.site", "there is no such site", "name one of sites"));
        }
        Ok(())
    }
}

impl Scenario {
    /// Reads a ready scenario by its name, or a file by its path, and sets keys from outside.
    pub fn load(name: &str, set: &[String]) -> Result<Scenario, Failure> {
        let sources = match READY.iter().find(|(ready, _)| *ready == name) {
            Some((_, text)) => Sources::none().text(format!("{name}.toml"), *text),
            None if name.ends_with(".toml") || Path::new(name).exists() => Sources::none().file(name),
            None => {
                let names: Vec<&str> = Scenario::ready().map(|(name, _)| name).collect();
                return Err(Failure::new(Exit::NotFound, "E-SIM-01", format!("there is no scenario {name}"))
                    .why(format!("ready ones are {}", names.join(", ")))
                    .hint("simulations list, or name a .toml file"));
            }
        };
        let sources = set.iter().fold(sources, |sources, assignment| sources.set(assignment));
        let loaded: Loaded<Scenario> = sources.load()?;
        Ok(loaded.settings)
    }

    /// The ready scenarios: name and text.
    pub fn ready() -> impl Iterator<Item = (&'static str, &'static str)> {
        READY.iter().copied()
    }
}

/// Shares that must add up to one.
fn whole(key: &str, shares: impl Iterator<Item = f64>) -> Result<(), Invalid> {
    let shares: Vec<f64> = shares.collect();
    let sum: f64 = shares.iter().sum();
    if shares.iter().any(|share| !(0.0..=1.0).contains(share)) || (sum - 1.0).abs() > 1e-6 {
        let hint = "shares are between 0 and 1 and add up to 1";
        return Err(Invalid::new(key, format!("its shares add up to {sum}"), hint));
    }
    Ok(())
}
