//! What came of it: counts while a run goes on, and the results at its end.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use super::World;
use super::checks::Violation;
use super::limits::{Crowd, Sender};
use super::tracker::Load;
use crate::world::device::Manners;

/// Counts of a run.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// Chunk bytes that verified, by who sent them.
    pub(crate) from_boxes: u64,
    pub(crate) from_seeds: u64,
    /// Chunk bytes that came and were of no use.
    pub(crate) forged: u64,
    pub(crate) cut_off: u64,
    pub(crate) twice: u64,
    /// Bytes that seeds have sent, whole chunks or not.
    pub(crate) seeds_sent: u64,
    /// Bytes by the sites they went from and to.
    pub(crate) between: Vec<Vec<u64>>,
    /// Devices that hold each chunk of each title, seeds too.
    pub(crate) copies: Vec<Vec<u32>>,
    pub(crate) honest_banned: u64,
    pub(crate) crooks_banned: u64,
    pub(crate) stalls: u64,
    pub(crate) kademlia: u64,
    pub(crate) requests: u64,
    pub(crate) holdings_asked: u64,
    pub(crate) reports: u64,
    pub(crate) samples: Vec<Sample>,
    pub(crate) violation: Option<Violation>,
}

/// How things stood at a moment.
#[derive(Debug, Clone, Serialize)]
pub struct Sample {
    /// Seconds since the beginning.
    pub at_secs: f64,
    /// Wishes fulfilled.
    pub done: usize,
    /// Verified bytes from boxes and from seeds, and wasted ones.
    pub from_boxes: u64,
    /// See [`Sample::from_boxes`].
    pub from_seeds: u64,
    /// See [`Sample::from_boxes`].
    pub wasted: u64,
    /// Devices that hold the rarest chunk of the first title.
    pub rarest: u32,
}

/// What came of a run.
#[derive(Debug, Clone, Serialize)]
pub struct Outcome {
    /// Every result that `[expect]` and comparisons may name.
    pub results: BTreeMap<&'static str, f64>,
    /// How long each fulfilled wish took, in seconds, ascending.
    pub took_secs: Vec<f64>,
    /// The fluid limit in seconds, where there is one.
    pub fluid_limit_secs: Option<f64>,
    /// How things went.
    pub samples: Vec<Sample>,
    /// Names of the sites, and bytes from each to each.
    pub sites: Vec<String>,
    /// See [`Outcome::sites`].
    pub between: Vec<Vec<u64>>,
}

impl World {
    pub(super) fn take_sample(&mut self) {
        let rarest = self.tally.copies.first().and_then(|chunks| chunks.iter().min()).copied().unwrap_or(0);
        self.tally.samples.push(Sample {
            at_secs: self.now().as_secs_f64(),
            done: self.progress().0,
            from_boxes: self.tally.from_boxes,
            from_seeds: self.tally.from_seeds,
            wasted: self.tally.wasted(),
            rarest,
        });
    }

    /// The part of all verified bytes that boxes have sent, so far.
    pub fn offload(&self) -> f64 {
        ratio(self.tally.from_boxes, self.tally.from_boxes + self.tally.from_seeds)
    }

    /// Everything that came of it so far.
    pub fn outcome(&self) -> Outcome {
        let tally = &self.tally;
        let counting: Vec<_> = self.wants.iter().filter(|want| !want.given_up).collect();
        let mut took: Vec<f64> =
            counting.iter().filter_map(|want| Some((want.done_at? - want.at) as f64 / 1e6)).collect();
        took.sort_by(f64::total_cmp);
        let crowd = self.crowd();
        let limits = crowd.as_ref().map(|crowd| (crowd.fluid().as_secs_f64(), crowd.budget(1).as_secs_f64()));
        let verified = tally.from_boxes + tally.from_seeds;

        let mut results = BTreeMap::from([
            ("complete", ratio(took.len() as u64, counting.len() as u64)),
            ("offload", self.offload()),
            ("seed_sends_per_chunk", ratio(tally.seeds_sent, self.wanted_titles() * self.geometry.sealed_len())),
            ("waste", ratio(tally.wasted(), verified + tally.wasted())),
            ("waste_forged", ratio(tally.forged, verified + tally.wasted())),
            ("waste_cut_off", ratio(tally.cut_off, verified + tally.wasted())),
            ("waste_twice", ratio(tally.twice, verified + tally.wasted())),
            ("transit_copies_per_site", self.transit_copies()),
            ("fairness", jain(&took)),
            ("honest_banned", tally.honest_banned as f64),
            ("crooks_banned", tally.crooks_banned as f64),
            ("stalls", tally.stalls as f64),
            ("kademlia_questions", tally.kademlia as f64),
            ("requests_per_chunk", ratio(tally.requests, verified.div_ceil(1 << 20))),
            ("holdings_asked_per_chunk", ratio(tally.holdings_asked, verified.div_ceil(1 << 20))),
            ("reports_per_box", ratio(tally.reports, u64::from(self.n_boxes))),
            ("rarest_copies", tally.copies.iter().flatten().min().copied().unwrap_or(0).into()),
            ("chunks_delivered", verified.div_ceil(1 << 20) as f64),
            ("virtual_seconds", self.now().as_secs_f64()),
            ("events", self.events() as f64),
        ]);
        self.tracker.load.tell(&mut results, u64::from(self.n_boxes));
        if let Some((smooth, starts)) = self.plays() {
            results.insert("plays_without_stall", smooth);
            results.insert("median_start_seconds", quantile(&starts, 0.5));
        }
        if let (Some(last), true) = (took.last(), took.len() == counting.len()) {
            results.insert("last_seconds", *last);
            results.insert("median_seconds", quantile(&took, 0.5));
            results.insert("p95_seconds", quantile(&took, 0.95));
            if let Some((fluid, budget)) = limits {
                results.insert("last_over_fluid_limit", last / fluid);
                results.insert("median_over_fluid_limit", quantile(&took, 0.5) / fluid);
                results.insert("p95_over_fluid_limit", quantile(&took, 0.95) / fluid);
                results.insert("last_minus_fluid_limit_seconds", last - fluid);
                results.insert("last_over_budget_limit", last / budget);
                results.insert("fluid_limit_seconds", fluid);
                results.insert("budget_limit_seconds", budget);
            }
            if let Some(crowd) = crowd {
                results.insert("servers_only_last_seconds", crowd.servers_only().as_secs_f64());
            }
        }
        Outcome {
            results,
            took_secs: took,
            fluid_limit_secs: limits.map(|(fluid, _)| fluid),
            samples: tally.samples.clone(),
            sites: self.site_names(),
            between: tally.between.clone(),
        }
    }

    /// The crowd, if all come at once and nothing but seeds has what they want.
    pub(super) fn crowd(&self) -> Option<Crowd> {
        if self.wants.iter().any(|want| want.at > 0) {
            return None;
        }
        let mut bytes = BTreeMap::<u32, u64>::new();
        for want in self.wants.iter().filter(|want| !want.given_up) {
            *bytes.entry(want.device).or_default() += self.geometry.sealed_len();
        }
        let wanted = bytes.into_iter().map(|(device, bytes)| (bytes, self.devices[device as usize].down_bytes_per_sec));
        let sends = |number: usize| {
            let device = &self.devices[number];
            match device.manners {
                Manners::Honest => true,
                Manners::Liar { after } => after > 0,
                Manners::FreeRider | Manners::Staller => false,
            }
        };
        let sender = |number: usize| Sender {
            bytes_per_sec: self.devices[number].up_bytes_per_sec,
            leaves: self.leaves.get(&(number as u32)).map(|at| Duration::from_micros(*at)),
        };
        let (n_boxes, n) = (self.n_boxes as usize, self.devices.len());
        Some(Crowd {
            new_bytes: self.wanted_titles() * self.geometry.sealed_len(),
            wanted: wanted.collect(),
            seeds: (n_boxes..n).map(sender).collect(),
            boxes: (0..n_boxes).filter(|number| sends(*number)).map(sender).collect(),
        })
    }

    fn wanted_titles(&self) -> u64 {
        self.wants.iter().map(|want| want.title).collect::<std::collections::BTreeSet<_>>().len() as u64
    }

    /// Copies of everything wanted that crossed between sites, for each site that has no seed.
    fn transit_copies(&self) -> f64 {
        let sites = self.tally.between.len();
        let with_seeds: std::collections::BTreeSet<usize> =
            self.devices[self.n_boxes as usize..].iter().map(|seed| seed.site).collect();
        let without = (0..sites).filter(|site| !with_seeds.contains(site)).count() as u64;
        let across = |from: usize| (0..sites).filter(move |to| *to != from).map(move |to| (from, to));
        let bytes: u64 = (0..sites).flat_map(across).map(|(from, to)| self.tally.between[from][to]).sum();
        ratio(bytes, without * self.wanted_titles() * self.geometry.sealed_len())
    }
}

impl Tally {
    pub(crate) fn wasted(&self) -> u64 {
        self.forged + self.cut_off + self.twice
    }
}

impl Load {
    fn tell(&self, results: &mut BTreeMap<&'static str, f64>, boxes: u64) {
        results.insert("planner_longest_ms", self.longest_nanos as f64 / 1e6);
        results.insert("planner_total_seconds", self.nanos as f64 / 1e9);
        results.insert("plans_per_box", ratio(self.plans + self.pushes, boxes));
        results.insert("leases_per_plan", ratio(self.leases, self.plans + self.pushes));
    }
}

/// The value below which this part of them lies.
pub(crate) fn quantile(ascending: &[f64], part: f64) -> f64 {
    let at = (ascending.len() as f64 * part).ceil() as usize;
    ascending.get(at.saturating_sub(1)).copied().unwrap_or(f64::NAN)
}

/// Jain's index of how equally fast everybody was served: 1 when all took equally long.
fn jain(took: &[f64]) -> f64 {
    let rates: Vec<f64> = took.iter().filter(|secs| **secs > 0.0).map(|secs| 1.0 / secs).collect();
    let (sum, squares) = (rates.iter().sum::<f64>(), rates.iter().map(|rate| rate * rate).sum::<f64>());
    if squares == 0.0 { 1.0 } else { sum * sum / (rates.len() as f64 * squares) }
}

fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_values_that_occurred() {
        let values = [1.0, 2.0, 3.0, 4.0];
        assert_eq!((quantile(&values, 0.5), quantile(&values, 0.95), quantile(&values, 0.0)), (2.0, 4.0, 1.0));
    }

    #[test]
    fn equal_times_are_fair_and_unequal_ones_less() {
        assert!((jain(&[5.0, 5.0, 5.0]) - 1.0).abs() < 1e-9);
        assert!(jain(&[1.0, 9.0]) < 0.7);
    }
}
