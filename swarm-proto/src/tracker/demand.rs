//! How much each title is wanted in each site.
//!
//! A count of titles queued and one of titles played, for each item and site, halving with a stated half-life, so that
//! what was wanted last month says little about tonight. To these comes what is wanted elsewhere, at a discount, and a
//! credit for being new. Bounded: the least wanted are forgotten. Knows nothing of customers.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::id::{ItemId, SiteId};
use crate::time::Utc;

use super::fixed;

/// One title queued, in the units of a [`Forecast`].
const ONE: u64 = 1 << 20;

/// A play is a wish that could not wait: as much as two in a queue.
const PLAY: u64 = 2 * ONE;

/// A new title is worth as much as this many queued ones on its first day, with nobody having asked.
const NOVELTY: u64 = 4 * ONE;

/// Wishes elsewhere count this much less than those of the site.
const ELSEWHERE_DIVISOR: u64 = 4;

/// The part of the counts that is forgotten at a time when there are too many, so that forgetting is rare.
const FORGET_DIVISOR: usize = 8;

/// How long wishes count, and how many are remembered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Until a title queued counts half.
    pub queued_half_life: Duration,
    /// Until a play counts half. Shorter: what is watched tonight was advertised today.
    pub played_half_life: Duration,
    /// Until being new counts half.
    pub new_half_life: Duration,
    /// Pairs of item and site that are remembered, about 150 bytes each.
    pub max_counts: usize,
}

impl Default for Config {
    fn default() -> Config {
        let day = Duration::from_secs(86_400);
        Config { queued_half_life: 3 * day, played_half_life: day, new_half_life: 7 * day, max_counts: 100_000 }
    }
}

/// How much a title is wanted. Only the order matters.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Forecast(u64);

impl Forecast {
    /// In thousandths of a title queued a moment ago.
    pub const fn thousandths(self) -> u64 {
        self.0.saturating_mul(1_000) / ONE
    }
}

#[derive(Debug, Clone, Copy)]
struct Count {
    queued: u64,
    played: u64,
    at: Utc,
}

/// What has been wanted.
#[derive(Debug)]
pub struct Demand {
    config: Config,
    counts: BTreeMap<ItemId, BTreeMap<SiteId, Count>>,
    n_counts: usize,
}

impl Demand {
    /// Nothing has been wanted yet.
    pub fn new(config: Config) -> Demand {
        Demand { config, counts: BTreeMap::new(), n_counts: 0 }
    }

    /// A customer of a site has put a title into a queue, now or before.
    pub fn handle_queued(&mut self, at: Utc, item: ItemId, site: &SiteId) {
        let half_life = self.config.queued_half_life;
        let count = self.count(at, item, site);
        count.queued = count.queued.saturating_add(fixed::decayed(ONE, count.at.since(at), half_life));
    }

    /// Somebody in a site has begun to watch a title.
    pub fn handle_played(&mut self, at: Utc, item: ItemId, site: &SiteId) {
        let half_life = self.config.played_half_life;
        let count = self.count(at, item, site);
        count.played = count.played.saturating_add(fixed::decayed(PLAY, count.at.since(at), half_life));
    }

    /// How much a title that came out then is wanted in a site.
    pub fn forecast(&self, now: Utc, item: &ItemId, site: &SiteId, released: Utc) -> Forecast {
        let (mut here, mut elsewhere) = (0_u64, 0_u64);
        for (of, count) in self.counts.get(item).into_iter().flatten() {
            let sum = if of == site { &mut here } else { &mut elsewhere };
            *sum = sum.saturating_add(self.worth(now, count));
        }
        let new = match released <= now {
            true => fixed::decayed(NOVELTY, now.since(released), self.config.new_half_life),
            false => 0,
        };
        Forecast(here.saturating_add(elsewhere / ELSEWHERE_DIVISOR).saturating_add(new))
    }

    fn worth(&self, now: Utc, count: &Count) -> u64 {
        let age = now.since(count.at);
        let queued = fixed::decayed(count.queued, age, self.config.queued_half_life);
        queued.saturating_add(fixed::decayed(count.played, age, self.config.played_half_life))
    }

    /// The count of an item and site, brought forward to this moment unless it is later already.
    fn count(&mut self, at: Utc, item: ItemId, site: &SiteId) -> &mut Count {
        if self.counts.get(&item).is_none_or(|sites| !sites.contains_key(site)) {
            if self.n_counts >= self.config.max_counts {
                self.forget_some(at);
            }
            self.n_counts += 1;
        }
        let (queued_half_life, played_half_life) = (self.config.queued_half_life, self.config.played_half_life);
        let count = self.counts.entry(item).or_default().entry(site.clone());
        let count = count.or_insert(Count { queued: 0, played: 0, at });
        let age = at.since(count.at);
        count.queued = fixed::decayed(count.queued, age, queued_half_life);
        count.played = fixed::decayed(count.played, age, played_half_life);
        count.at = count.at.max(at);
        count
    }

    fn forget_some(&mut self, now: Utc) {
        let worths = self.counts.values().flat_map(|sites| sites.values().map(|count| self.worth(now, count)));
        let mut worths: Vec<u64> = worths.collect();
        let last = (worths.len() / FORGET_DIVISOR).min(worths.len().saturating_sub(1));
        let (_, limit, _) = worths.select_nth_unstable(last);
        let limit = *limit;
        let mut to_forget = last + 1;
        let mut counts = std::mem::take(&mut self.counts);
        counts.retain(|_, sites| {
            sites.retain(|_, count| {
                let forgotten = to_forget > 0 && self.worth(now, count) <= limit;
                to_forget -= usize::from(forgotten);
                self.n_counts -= usize::from(forgotten);
                !forgotten
            });
            !sites.is_empty()
        });
        self.counts = counts;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: u64 = 86_400;

    fn demand() -> Demand {
        Demand::new(Config::default())
    }

    fn item(n: u8) -> ItemId {
        ItemId::from([n; 32])
    }

    fn site(name: &str) -> SiteId {
        SiteId::new(name).unwrap()
    }

    fn at(days: u64) -> Utc {
        Utc::from_secs(1_800_000_000 + days * DAY)
    }

    /// In thousandths, of a title that came out so long ago that it does not count as new.
    fn forecast(demand: &Demand, days: u64, n: u8, place: &str) -> u64 {
        demand.forecast(at(days), &item(n), &site(place), Utc::EPOCH).thousandths()
    }

    #[test]
    fn wish_counts_one_and_half_after_three_days() {
        let mut demand = demand();
        demand.handle_queued(at(0), item(1), &site("north"));
        assert_eq!(forecast(&demand, 0, 1, "north"), 1_000);
        assert_eq!(forecast(&demand, 3, 1, "north"), 500);
        assert_eq!(forecast(&demand, 6, 1, "north"), 250);
    }

    #[test]
    fn play_counts_two_and_half_after_a_day() {
        let mut demand = demand();
        demand.handle_played(at(0), item(1), &site("north"));
        assert_eq!(forecast(&demand, 0, 1, "north"), 2_000);
        assert_eq!(forecast(&demand, 1, 1, "north"), 1_000);
        // Another one then: 1 of the first and 2 of the second; a day later half of that.
        demand.handle_played(at(1), item(1), &site("north"));
        assert_eq!(forecast(&demand, 1, 1, "north"), 3_000);
        assert_eq!(forecast(&demand, 2, 1, "north"), 1_500);
    }

    #[test]
    fn wishes_elsewhere_count_a_quarter() {
        let mut demand = demand();
        for _ in 0..8 {
            demand.handle_queued(at(0), item(1), &site("south"));
        }
        demand.handle_queued(at(0), item(1), &site("north"));
        assert_eq!(forecast(&demand, 0, 1, "north"), 3_000);
        assert_eq!(forecast(&demand, 0, 1, "south"), 8_250);
        assert_eq!(forecast(&demand, 0, 1, "west"), 2_250);
    }

    #[test]
    fn new_title_is_wanted_before_anyone_asks_and_less_each_week() {
        let demand = demand();
        let of = |days| demand.forecast(at(days), &item(1), &site("north"), at(7)).thousandths();
        assert_eq!([of(7), of(14), of(21)], [4_000, 2_000, 1_000]);
        assert_eq!(of(6), 0, "it is not out yet");
    }

    #[test]
    fn what_is_learnt_late_counts_as_if_learnt_in_time() {
        let (mut early, mut late) = (demand(), demand());
        for (demand, order) in [(&mut early, [0, 3, 6]), (&mut late, [6, 0, 3])] {
            for days in order {
                demand.handle_queued(at(days), item(1), &site("north"));
            }
        }
        assert_eq!(forecast(&early, 6, 1, "north"), 1_750);
        assert_eq!(forecast(&late, 6, 1, "north"), 1_750);
    }

    #[test]
    fn memory_is_bounded_and_keeps_the_most_wanted() {
        let mut demand = Demand::new(Config { max_counts: 100, ..Config::default() });
        for _ in 0..3 {
            demand.handle_queued(at(0), item(255), &site("north"));
        }
        for n in 0..=254 {
            demand.handle_queued(at(0), item(n), &site("north"));
            assert!(demand.n_counts <= 100);
        }
        assert_eq!(demand.counts.values().map(BTreeMap::len).sum::<usize>(), demand.n_counts);
        assert_eq!(forecast(&demand, 0, 255, "north"), 3_000);
    }
}
