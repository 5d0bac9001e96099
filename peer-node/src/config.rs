//! Everything a device can be told, checked before a port opens.
//!
//! One section per module that reads it. `config.example.toml` says the same to people and is tested to equal
//! [`Config::default`].

use std::path::PathBuf;

use daemon::client::Trust;
use daemon::config::{Invalid, Settings};
use daemon::serve;
use daemon::units::{ByteRate, ByteSize, Duration, Limit};
use serde::{Deserialize, Serialize};
use swarm_proto::id::ServerId;

/// The word that leaves an address to what the device has learnt.
pub const AUTO: &str = "auto";

/// The port for players, the TV page and this program's own commands.
const DEFAULT_PORT: u16 = 7101;

/// Where a tracker is looked for before the device has enrolled anywhere.
pub const DEFAULT_TRACKER_URL: &str = "http://127.0.0.1:7001";

/// Longest name of a device, from the tracker's contract.
pub const MAX_NAME_BYTES: usize = 64;

/// The configuration of a box or seed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// What people call this device, 1 to 64 bytes.
    pub name: String,
    /// The port for players, the TV page and this program's own commands.
    pub server: serve::Config,
    /// The libp2p side.
    pub net: Net,
    /// Item files on disk.
    pub items: Items,
    /// What is fetched, and how eagerly.
    pub transfers: Transfers,
    /// What is passed on, and how much of it.
    pub uploads: Uploads,
    /// What the tracker may have this device hold in case somebody asks for it.
    pub preload: Preload,
    /// Playback.
    pub play: Play,
    /// The tracker.
    pub tracker: Tracker,
    /// The keyserver.
    pub keyserver: Keyserver,
}

/// `net`: the libp2p side.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Net {
    /// Multiaddrs to listen on; port 0 takes any free one.
    pub listen: Vec<String>,
    /// Multiaddrs with `/p2p/…` of peers to join Kademlia through, besides what the tracker names.
    pub bootstrap: Vec<String>,
    /// Multiaddrs under which the Internet reaches this device, when it does not listen on them itself.
    pub external: Vec<String>,
    /// Speak to private and loopback addresses and let others know ours: for a swarm in one house or on one computer.
    /// A device that listens on loopback only does so anyway.
    pub private_addresses: bool,
    /// Whether this device answers Kademlia queries of others.
    pub kad_server: bool,
    /// Established connections from others.
    pub connections_in: u32,
    /// Established connections in all.
    pub connections: u32,
}

/// `items`: item files on disk.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Items {
    /// What is always left free on the disk.
    pub reserve: ByteSize,
    /// Recently verified chunks kept in memory.
    pub cache: ByteSize,
    /// Write past the system's page cache where the file system can; else through it, giving the memory back.
    pub direct_writes: bool,
}

/// `transfers`: what is fetched, and how eagerly.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Transfers {
    /// Chunks asked for and not yet here, over all items and sources.
    pub outstanding_chunks: u32,
    /// Chunks asked of one source at a time, once it has proven itself.
    pub outstanding_per_source: u32,
    /// What fetching may take.
    pub rate: Limit<ByteRate>,
}

/// `uploads`: what is passed on, and how much of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Uploads {
    /// Chunks being sent at a time.
    pub slots: u32,
    /// Chunks being sent to one peer at a time.
    pub slots_per_peer: u32,
    /// What passing on may take.
    pub rate: Limit<ByteRate>,
}

/// `preload`: what the tracker may have this device hold in case somebody asks for it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Preload {
    /// The part of the disk that would be free without it, in per cent.
    pub max_percent: u8,
}

/// `play`: playback.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Play {
    /// Players served at a time.
    pub players: u32,
}

/// `tracker`: the one this device belongs to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Tracker {
    /// `http://` or `https://` address; `auto`: where this device enrolled, before that `http://127.0.0.1:7001`.
    pub url: String,
    /// The one authority to trust instead of the system's, a PEM file; empty for the system's.
    pub ca_file: String,
    /// Speak plain HTTP to a tracker that is not on this machine.
    pub insecure: bool,
    /// The longest pause between two attempts to reach it.
    pub retry_max: Duration,
}

/// `keyserver`: where rights are bought.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Keyserver {
    /// `http://` or `https://` address; `auto`: the one the tracker names.
    pub url: String,
    /// Its id in hex, if it is known beforehand; `auto`: remembered from the first contact.
    pub id: String,
    /// The one authority to trust instead of the system's, a PEM file; empty for the system's.
    pub ca_file: String,
    /// Speak plain HTTP to a keyserver that is not on this machine.
    pub insecure: bool,
    /// The longest pause between two questions about an order that waits for money or for its grant.
    pub retry_max: Duration,
}

impl Tracker {
    /// How far the way to the tracker is trusted.
    pub fn trust(&self) -> Trust {
        trust(&self.ca_file, self.insecure)
    }
}

impl Keyserver {
    /// How far the way to the keyserver is trusted.
    pub fn trust(&self) -> Trust {
        trust(&self.ca_file, self.insecure)
    }
}

fn trust(ca_file: &str, insecure: bool) -> Trust {
    Trust { ca_file: Some(ca_file).filter(|path| !path.is_empty()).map(PathBuf::from), insecure }
}

impl Default for Config {
    fn default() -> Config {
        Config {
            name: "box".to_owned(),
            server: serve::Config::on_loopback(DEFAULT_PORT),
            net: Net::default(),
            items: Items::default(),
            transfers: Transfers::default(),
            uploads: Uploads::default(),
            preload: Preload::default(),
            play: Play::default(),
            tracker: Tracker::default(),
            keyserver: Keyserver::default(),
        }
    }
}

impl Default for Net {
    fn default() -> Net {
        Net {
            listen: vec!["/ip4/0.0.0.0/tcp/7100".to_owned(), "/ip4/0.0.0.0/udp/7100/quic-v1".to_owned()],
            bootstrap: Vec::new(),
            external: Vec::new(),
            private_addresses: false,
            kad_server: true,
            connections_in: 120,
            connections: 150,
        }
    }
}

impl Default for Items {
    fn default() -> Items {
        Items { reserve: ByteSize::mib(256), cache: ByteSize::mib(16), direct_writes: true }
    }
}

impl Default for Transfers {
    fn default() -> Transfers {
        Transfers { outstanding_chunks: 16, outstanding_per_source: 4, rate: Limit::Unlimited }
    }
}

impl Default for Uploads {
    fn default() -> Uploads {
        Uploads { slots: 16, slots_per_peer: 4, rate: Limit::Unlimited }
    }
}

impl Default for Preload {
    fn default() -> Preload {
        Preload { max_percent: 50 }
    }
}

impl Default for Play {
    fn default() -> Play {
        Play { players: 8 }
    }
}

impl Default for Tracker {
    fn default() -> Tracker {
        Tracker { url: AUTO.to_owned(), ca_file: String::new(), insecure: false, retry_max: Duration::from_secs(30) }
    }
}

impl Default for Keyserver {
    fn default() -> Keyserver {
        Keyserver {
            url: AUTO.to_owned(),
            id: AUTO.to_owned(),
            ca_file: String::new(),
            insecure: false,
            retry_max: Duration::from_secs(10),
        }
    }
}

impl Settings for Config {
    const ROLE: &'static str = "peer-node";
    const EXAMPLE: &'static str = include_str!("../config.example.toml");

    fn check(&self) -> Result<(), Invalid> {
        check_name(&self.name)?;
        if !self.server.listen.ip().is_loopback() {
            let why = "this port is for players and commands on this machine only";
            return Err(Invalid::new("server.listen", why, "an address such as 127.0.0.1:7101"));
        }
        let limits = [
            ("net.connections", self.net.connections),
            ("transfers.outstanding_chunks", self.transfers.outstanding_chunks),
            ("transfers.outstanding_per_source", self.transfers.outstanding_per_source),
            ("uploads.slots_per_peer", self.uploads.slots_per_peer),
            ("play.players", self.play.players),
        ];
        if let Some((key, _)) = limits.into_iter().find(|(_, limit)| *limit == 0) {
            return Err(Invalid::new(key, "nothing could happen", "1 or more"));
        }
        if self.net.connections_in > self.net.connections {
            return Err(Invalid::new("net.connections_in", "it is more than net.connections", "at most that"));
        }
        if self.preload.max_percent > 100 {
            return Err(Invalid::new("preload.max_percent", "a disk has no more than that", "0 to 100"));
        }
        check_pause("tracker.retry_max", self.tracker.retry_max)?;
        check_pause("keyserver.retry_max", self.keyserver.retry_max)?;
        check_url("tracker.url", &self.tracker.url)?;
        check_url("keyserver.url", &self.keyserver.url)?;
        match self.keyserver.id == AUTO || self.keyserver.id.parse::<ServerId>().is_ok() {
            true => Ok(()),
            false => Err(Invalid::new("keyserver.id", "it is not the id of a server", "64 hex digits, or \"auto\"")),
        }
    }
}

fn check_name(name: &str) -> Result<(), Invalid> {
    match name.len() {
        1..=MAX_NAME_BYTES if !name.contains(char::is_control) => Ok(()),
        _ => Err(Invalid::new(
            "name",
            format!("a name has 1 to {MAX_NAME_BYTES} bytes on one line"),
            "such as \"Living room\"",
        )),
    }
}

/// A pause below a few milliseconds is a busy loop, one above an hour never ends for a person.
fn check_pause(key: &str, pause: Duration) -> Result<(), Invalid> {
    match pause.get().as_millis() {
        10..=3_600_000 => Ok(()),
        _ => Err(Invalid::new(key, "it has to be between 10ms and 1h", "such as \"30s\"")),
    }
}

fn check_url(key: &str, url: &str) -> Result<(), Invalid> {
    let good = url == AUTO || url.starts_with("http://") || url.starts_with("https://");
    if good { Ok(()) } else { Err(Invalid::new(key, "it is not an address", "http://… or https://…, or \"auto\"")) }
}

#[cfg(test)]
mod tests {
    use daemon::config::{Sources, example_is_default};

    use super::*;

    fn refusal(assignment: &str) -> String {
        Sources::none().set(assignment).load::<Config>().unwrap_err().to_string()
    }

    #[test]
    fn example_says_the_defaults() {
        assert_eq!(example_is_default::<Config>(), Ok(()));
    }

    #[test]
    fn defaults_make_sense() {
        assert!(Sources::none().load::<Config>().is_ok());
    }

    #[test]
    fn values_that_make_no_sense_are_refused_by_name() {
        for assignment in [
            "name=",
            "server.listen=0.0.0.0:7101",
            "net.connections=0",
            "net.connections_in=1000",
            "uploads.slots_per_peer=0",
            "preload.max_percent=101",
            "tracker.retry_max=0s",
            "keyserver.retry_max=2h",
            "tracker.url=ftp://example",
            "keyserver.id=abc",
        ] {
            let key = assignment.split('=').next().unwrap();
            assert!(refusal(assignment).contains(key), "{assignment}: {}", refusal(assignment));
        }
    }
}
