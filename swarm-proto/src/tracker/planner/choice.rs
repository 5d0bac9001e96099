//! Chooses the sources of one plan: boxes before seeds, near before far, and whoever has most to give first.
//!
//! Every missing chunk that a candidate holds is covered by a pick, unless a plan would need more picks than allowed.
//! Seeds are picked for three reasons only: there is no box, the boxes are too slow, or no box holds a chunk.

use std::cmp::Reverse;

use roaring::RoaringBitmap;

use super::Reason;
use crate::bitmap::Holding;
use crate::id::DeviceId;

/// Most picks of one plan: what the portions are split with has one bit for each.
pub(super) const MAX_PICKS: usize = 64;

/// Picks that boxes leave to seeds, so that chunks scattered over very many boxes are still all covered.
const RESERVED_FOR_SEEDS: usize = 2;

/// How gladly a source is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Tier {
    NearBox,
    FarBox,
    NearSeed,
    FarSeed,
    Shunned,
}

/// A device that could send something.
#[derive(Debug)]
pub(super) struct Candidate<'a> {
    pub(super) device: DeviceId,
    pub(super) tier: Tier,
    /// What it is believed to have left for the asker.
    pub(super) share_bytes_per_sec: u64,
    pub(super) held: &'a Holding,
    /// Decides between equals.
    pub(super) tie: u32,
}

/// A device that is to send something.
#[derive(Debug)]
pub(super) struct Pick {
    pub(super) device: DeviceId,
    pub(super) rate_bytes_per_sec: u64,
    /// The missing chunks it may be asked for.
    pub(super) chunks: RoaringBitmap,
    pub(super) reason: Reason,
}

/// What bounds a choice.
#[derive(Debug)]
pub(super) struct Limits {
    pub(super) enough_bytes_per_sec: u64,
    pub(super) max_sources: usize,
    pub(super) max_seeds: usize,
    pub(super) max_leases: usize,
    pub(super) slowest_bytes_per_sec: u64,
}

/// How many of these chunks somebody holds.
pub(super) fn overlap(held: &Holding, chunks: &RoaringBitmap) -> u64 {
    if held.is_complete() {
        return chunks.len();
    }
    held.runs().map(|run| chunks.range_cardinality(run)).sum()
}

/// Chooses who sends.
pub(super) fn choose(mut candidates: Vec<Candidate<'_>>, missing: &RoaringBitmap, limits: &Limits) -> Vec<Pick> {
    candidates.sort_unstable_by_key(|it| (it.tier, Reverse(it.share_bytes_per_sec), it.tie));
    let seeds_at = candidates.partition_point(|it| it.tier < Tier::NearSeed);
    let shunned_at = candidates.partition_point(|it| it.tier < Tier::Shunned);
    let shunned = candidates.split_off(shunned_at);
    let seeds = candidates.split_off(seeds_at);
    let boxes = candidates;

    let mut choice = Choice { uncovered: missing.clone(), picks: Vec::new(), rate_bytes_per_sec: 0 };
    let boxes = choice.take_fast_boxes(boxes, missing, limits);
    let for_boxes = limits.max_leases.saturating_sub(if seeds.is_empty() { 0 } else { RESERVED_FOR_SEEDS });
    choice.cover(boxes, for_boxes, |it| if it.tier == Tier::NearBox { Reason::SameSite } else { Reason::Elsewhere });
    let seeds = choice.take_fast_seeds(seeds, missing, limits);
    choice.cover(seeds, limits.max_leases, |_| Reason::OnlySeed);
    choice.cover(shunned, limits.max_leases, |_| Reason::LastResort);
    choice.picks
}

struct Choice {
    uncovered: RoaringBitmap,
    picks: Vec<Pick>,
    rate_bytes_per_sec: u64,
}

impl Choice {
    /// Near boxes as many as a plan names; far ones only while the near ones are too slow. Gives back the others.
    fn take_fast_boxes<'a>(
        &mut self,
        boxes: Vec<Candidate<'a>>,
        missing: &RoaringBitmap,
        limits: &Limits,
    ) -> Vec<Candidate<'a>> {
        let mut others = Vec::new();
        for it in boxes {
            let near = it.tier == Tier::NearBox;
            let wanted = near || self.rate_bytes_per_sec < limits.enough_bytes_per_sec;
            if !wanted || self.picks.len() >= limits.max_sources.min(limits.max_leases) {
                others.push(it);
                continue;
            }
            let reason = if near { Reason::SameSite } else { Reason::Elsewhere };
            self.take(&it, it.share_bytes_per_sec, chunks_of(it.held, missing), reason);
        }
        others
    }

    /// Seeds while what has been chosen so far is too slow, and no more of them than is lacking. Gives back the others.
    fn take_fast_seeds<'a>(
        &mut self,
        seeds: Vec<Candidate<'a>>,
        missing: &RoaringBitmap,
        limits: &Limits,
    ) -> Vec<Candidate<'a>> {
        let reason = if self.picks.is_empty() { Reason::NoBoxes } else { Reason::BoxesTooSlow };
        let mut others = Vec::new();
        let mut taken = 0;
        for it in seeds {
            let lacking = limits.enough_bytes_per_sec.saturating_sub(self.rate_bytes_per_sec);
            if lacking == 0 || taken == limits.max_seeds || self.picks.len() >= limits.max_leases {
                others.push(it);
                continue;
            }
            taken += 1;
            let rate = match reason {
                Reason::NoBoxes => it.share_bytes_per_sec,
                _ => it.share_bytes_per_sec.min(lacking.max(limits.slowest_bytes_per_sec)),
            };
            self.take(&it, rate, chunks_of(it.held, missing), reason);
        }
        others
    }

    /// Takes whoever holds most of what nobody chosen so far holds, until nothing is left that one of these holds.
    fn cover(&mut self, mut from: Vec<Candidate<'_>>, max_picks: usize, reason: impl Fn(&Candidate<'_>) -> Reason) {
        while !self.uncovered.is_empty() && self.picks.len() < max_picks {
            let useful = |(at, it): (usize, &Candidate<'_>)| (overlap(it.held, &self.uncovered), Reverse(at));
            let Some((1.., Reverse(at))) = from.iter().enumerate().map(useful).max() else { return };
            let it = from.remove(at);
            let chunks = chunks_of(it.held, &self.uncovered);
            self.take(&it, it.share_bytes_per_sec, chunks, reason(&it));
        }
    }

    fn take(&mut self, it: &Candidate<'_>, rate_bytes_per_sec: u64, chunks: RoaringBitmap, reason: Reason) {
        self.uncovered -= &chunks;
        self.rate_bytes_per_sec = self.rate_bytes_per_sec.saturating_add(rate_bytes_per_sec);
        self.picks.push(Pick { device: it.device, rate_bytes_per_sec, chunks, reason });
    }
}

fn chunks_of(held: &Holding, wanted: &RoaringBitmap) -> RoaringBitmap {
    if held.is_complete() {
        return wanted.clone();
    }
    let mut chunks = RoaringBitmap::new();
    for run in held.runs() {
        chunks.insert_range(run);
    }
    chunks & wanted
}
