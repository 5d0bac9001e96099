//! When to ask a provider again, and how much at a time.
//!
//! An errand is a payment to collect or a refund to make. It is run at once when it turns up, then again and again,
//! later each time, until its fate is known. At most so many run at a time: a provider that is slow holds up errands,
//! never the keyserver. Knows nothing of what an errand is about; what happened to it comes in, what to run goes out.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use crate::id::{AttemptId, RefundId};
use crate::time::Mono;

/// The limits of a cashier.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Errands that run at a time.
    pub at_a_time: usize,
    /// How long after the first run an errand is run again; doubled each time.
    pub first_pause: Duration,
    /// The longest pause.
    pub longest_pause: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self { at_a_time: 16, first_pause: Duration::from_secs(2), longest_pause: Duration::from_secs(300) }
    }
}

/// Something that a provider has to be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Errand {
    /// Whether it has collected this.
    Collect(AttemptId),
    /// To give this back.
    GiveBack(RefundId),
}

/// What became of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The fate is known. There is nothing more to ask.
    Over,
    /// Not yet, or nobody answered.
    Again,
}

/// Decides which errand runs when.
#[derive(Debug)]
pub struct Cashier {
    config: Config,
    rng: ChaCha8Rng,
    /// Errands that wait: when they are due, and how often they ran.
    waiting: BTreeMap<Errand, (Mono, u32)>,
    /// Errands that run: how often they ran before, and whether they are to run again at once.
    running: BTreeMap<Errand, (u32, bool)>,
    actions: VecDeque<Errand>,
}

impl Cashier {
    /// A cashier with nothing to do.
    pub fn new(seed: u64, config: Config) -> Self {
        let rng = ChaCha8Rng::seed_from_u64(seed);
        Self { config, rng, waiting: BTreeMap::new(), running: BTreeMap::new(), actions: VecDeque::new() }
    }

    /// There is an errand, new or known; it is worth running now.
    pub fn handle_errand(&mut self, now: Mono, errand: Errand) {
        match self.running.get_mut(&errand) {
            Some((_, again)) => *again = true,
            None => _ = self.waiting.insert(errand, (now, 0)),
        }
        self.start(now);
    }

    /// All errands there are: those that nobody told of are added, those that are over elsewhere are forgotten.
    pub fn handle_errands(&mut self, now: Mono, all: &BTreeSet<Errand>) {
        self.waiting.retain(|errand, _| all.contains(errand));
        for errand in all {
            if !self.running.contains_key(errand) {
                self.waiting.entry(*errand).or_insert((now, 0));
            }
        }
        self.start(now);
    }

    /// An errand has run.
    pub fn handle_outcome(&mut self, now: Mono, errand: Errand, outcome: Outcome) {
        let Some((runs, again)) = self.running.remove(&errand) else { return };
        match outcome {
            Outcome::Over => {}
            Outcome::Again if again => _ = self.waiting.insert(errand, (now, 0)),
            Outcome::Again => {
                let pause = self.pause(runs);
                self.waiting.insert(errand, (now + pause, runs.saturating_add(1)));
            }
        }
        self.start(now);
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Mono) {
        self.start(now);
    }

    /// When to call [`Cashier::handle_timeout`].
    pub fn poll_timeout(&self) -> Option<Mono> {
        if self.running.len() >= self.config.at_a_time {
            return None; // The next outcome starts the next errand.
        }
        self.waiting.values().map(|(due, _)| *due).min()
    }

    /// The next errand to run.
    pub fn poll_action(&mut self) -> Option<Errand> {
        self.actions.pop_front()
    }

    fn start(&mut self, now: Mono) {
        while self.running.len() < self.config.at_a_time {
            let due = self.waiting.iter().filter(|(_, (due, _))| *due <= now);
            let Some((errand, runs)) = due.min_by_key(|(_, (due, _))| *due).map(|(errand, (_, runs))| (*errand, *runs))
            else {
                return;
            };
            self.waiting.remove(&errand);
            self.running.insert(errand, (runs, false));
            self.actions.push_back(errand);
        }
    }

    /// Twice as long each time, and up to a quarter longer: errands that began together do not stay together.
    fn pause(&mut self, runs: u32) -> Duration {
        let doubled = self.config.first_pause.saturating_mul(1 << runs.min(20)).min(self.config.longest_pause);
        let quarter = u64::try_from(doubled.as_millis() / 4).unwrap_or(u64::MAX).max(1);
        doubled + Duration::from_millis(self.rng.next_u64() % quarter)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn errand(n: u8) -> Errand {
        Errand::Collect(AttemptId::from([n; 16]))
    }

    fn at(secs: u64) -> Mono {
        Mono::from_millis(secs * 1000)
    }

    #[test]
    fn an_errand_runs_at_once_and_then_later_each_time() {
        let mut cashier = Cashier::new(7, Config::default());
        cashier.handle_errand(at(0), errand(1));
        let mut now = at(0);
        let mut pauses = Vec::new();
        for _ in 0..12 {
            assert_eq!(cashier.poll_action(), Some(errand(1)));
            assert_eq!(cashier.poll_action(), None);
            cashier.handle_outcome(now, errand(1), Outcome::Again);
            let due = cashier.poll_timeout().expect("it is run again");
            pauses.push(due.since(now).as_secs());
            now = due;
            cashier.handle_timeout(now);
        }
        assert!(pauses.windows(2).all(|pair| pair[0] <= pair[1] || pair[1] >= 300), "{pauses:?}");
        assert!(pauses[0] >= 2 && *pauses.last().expect("some") <= 375, "{pauses:?}");
    }

    #[test]
    fn no_more_run_at_a_time_than_may() {
        let mut cashier = Cashier::new(7, Config { at_a_time: 2, ..Config::default() });
        for n in 0..5 {
            cashier.handle_errand(at(0), errand(n));
        }
        assert_eq!(std::iter::from_fn(|| cashier.poll_action()).count(), 2);
        assert_eq!(cashier.poll_timeout(), None, "the next outcome starts the next one");
        cashier.handle_outcome(at(30), errand(0), Outcome::Over);
        assert_eq!(std::iter::from_fn(|| cashier.poll_action()).count(), 1);
    }

    #[test]
    fn news_while_it_runs_makes_it_run_again_at_once() {
        let mut cashier = Cashier::new(7, Config::default());
        cashier.handle_errand(at(0), errand(1));
        assert_eq!(cashier.poll_action(), Some(errand(1)));
        cashier.handle_errand(at(1), errand(1));
        assert_eq!(cashier.poll_action(), None, "never twice at a time");
        cashier.handle_outcome(at(2), errand(1), Outcome::Again);
        assert_eq!(cashier.poll_action(), Some(errand(1)));
        cashier.handle_outcome(at(2), errand(1), Outcome::Over);
        assert_eq!((cashier.poll_action(), cashier.poll_timeout()), (None, None));
    }

    #[test]
    fn errands_nobody_told_of_are_found_and_those_that_are_over_forgotten() {
        let mut cashier = Cashier::new(7, Config::default());
        cashier.handle_errands(at(0), &BTreeSet::from([errand(1)]));
        assert_eq!(cashier.poll_action(), Some(errand(1)));
        cashier.handle_outcome(at(0), errand(1), Outcome::Again);
        cashier.handle_errands(at(1), &BTreeSet::new());
        assert_eq!(cashier.poll_timeout(), None);
    }
}
