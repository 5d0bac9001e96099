//! Counts wrong codes, so that nobody can try them all.
//!
//! A guesser who has been wrong too often in a window of time is refused until the window is over, right or wrong.
//! Holds a bounded number of guessers: when it is full, the one whose window began first is forgotten.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::time::Mono;

/// Guessers that are remembered at the same time.
pub const MAX_GUESSERS: usize = 4_096;

/// Who has guessed wrong, and how often. `K` says who: an address, an account.
#[derive(Debug)]
pub struct Guesses<K> {
    allowed: u32,
    window: Duration,
    wrong: BTreeMap<K, (Mono, u32)>,
}

impl<K: Ord + Clone> Guesses<K> {
    /// Allows so many wrong guesses in each window.
    pub fn new(allowed: u32, window: Duration) -> Guesses<K> {
        Guesses { allowed, window, wrong: BTreeMap::new() }
    }

    /// How long this guesser has to wait before the next guess is looked at.
    pub fn wait(&self, now: Mono, who: &K) -> Option<Duration> {
        let (began, wrong) = self.wrong.get(who)?;
        let ends = *began + self.window;
        (*wrong >= self.allowed && now < ends).then(|| ends.since(now))
    }

    /// A guess was wrong.
    pub fn handle_wrong(&mut self, now: Mono, who: K) {
        if !self.wrong.contains_key(&who) && self.wrong.len() >= MAX_GUESSERS {
            let oldest = self.wrong.iter().min_by_key(|(_, (began, _))| *began).map(|(who, _)| who.clone());
            self.wrong.remove(&oldest.expect("a full map has an oldest entry"));
        }
        let (began, wrong) = self.wrong.entry(who).or_insert((now, 0));
        if now >= *began + self.window {
            (*began, *wrong) = (now, 0);
        }
        *wrong += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn at(secs: u64) -> Mono {
        Mono::from_millis(secs * 1000)
    }

    #[test]
    fn guesser_waits_after_too_many_wrong_guesses() {
        let mut guesses = Guesses::new(2, MINUTE);
        guesses.handle_wrong(at(0), 1);
        assert_eq!(guesses.wait(at(1), &1), None);
        guesses.handle_wrong(at(10), 1);
        assert_eq!(guesses.wait(at(20), &1), Some(Duration::from_secs(40)));
        assert_eq!(guesses.wait(at(20), &2), None);
        assert_eq!(guesses.wait(at(60), &1), None);
    }

    #[test]
    fn window_begins_anew_when_it_is_over() {
        let mut guesses = Guesses::new(2, MINUTE);
        guesses.handle_wrong(at(0), 1);
        guesses.handle_wrong(at(61), 1);
        assert_eq!(guesses.wait(at(62), &1), None);
    }

    #[test]
    fn crowd_of_guessers_does_not_fill_the_memory() {
        let mut guesses = Guesses::new(1, MINUTE);
        for who in 0..2 * MAX_GUESSERS {
            guesses.handle_wrong(at(who as u64 / 1_000), who);
        }
        assert_eq!(guesses.wrong.len(), MAX_GUESSERS);
    }
}
