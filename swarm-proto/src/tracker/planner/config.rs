//! What the planner may assume, and how long it trusts itself.

use std::time::Duration;

/// What the planner may assume and how long it trusts itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// How long a lease lasts.
    pub lease: Duration,
    /// When a device should ask again. A third of a lease: two lost messages do no harm.
    pub renew_after: Duration,
    /// A device that has not been heard of for this long is offline.
    pub silence: Duration,
    /// How long a source that stalled is avoided.
    pub avoid: Duration,
    /// A plan is not drawn anew more often than this because of good news.
    pub redraw_every: Duration,
    /// Distinct accounts that must complain about a source before others are planned away from it.
    pub complainers: usize,
    /// Sources that one plan names for speed.
    pub max_sources: usize,
    /// Leases of one plan, with those that are there for single chunks only. At most 64.
    pub max_leases: usize,
    /// Seeds that one plan names for speed.
    pub max_seeds: usize,
    /// What one lease is worth while there are more sources than needed. 10 Mbit/s: a cable uplink gives two such
    /// leases and a fibre uplink ten, so each asker has several sources and each source several askers.
    pub lease_bytes_per_sec: u64,
    /// A source with less than this left is full.
    pub least_bytes_per_sec: u64,
    /// Bytes per second a box is believed to send while nobody has measured it.
    pub unknown_box_bytes_per_sec: u64,
    /// Bytes per second a seed is believed to send while nobody has measured it.
    pub unknown_seed_bytes_per_sec: u64,
    /// An uplink measured below this was idle rather than slow.
    pub slowest_bytes_per_sec: u64,
    /// Boxes that together give this much to a title in a queue need no seed beside them.
    pub enough_bytes_per_sec: u64,
    /// The same for a title that somebody is watching.
    pub enough_playing_bytes_per_sec: u64,
    /// What a byte costs between two sites when the operator has not said; within a site it is 0.
    pub cost_between_sites: u32,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            lease: Duration::from_secs(15),
            renew_after: Duration::from_secs(5),
            silence: Duration::from_secs(35),
            avoid: Duration::from_secs(60),
            redraw_every: Duration::from_secs(1),
            complainers: 2,
            max_sources: 8,
            max_leases: 32,
            max_seeds: 2,
            lease_bytes_per_sec: 1_250_000,
            least_bytes_per_sec: 256_000,
            unknown_box_bytes_per_sec: 1_250_000,
            unknown_seed_bytes_per_sec: 12_500_000,
            slowest_bytes_per_sec: 64 << 10,
            enough_bytes_per_sec: 1_250_000,
            enough_playing_bytes_per_sec: 2_500_000,
            cost_between_sites: 10,
        }
    }
}
