//! Whose turn it is when more ask than there are slots for.
//!
//! Customers take turns, however many devices each of them has: a free slot goes to the one that has fewest, and among
//! those to the one that has waited longest. Who was sent away keeps its place for as long as it was told to wait, and
//! a little longer; so a slot stays empty for moments at most.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::time::Mono;

/// Customers whose place is kept at a time; one more waits until there is room.
const PARTIES_MAX: usize = 4_096;

/// How many times the waiting time a place is kept: the asker has to come back over a network.
const KEEP_FACTOR: u32 = 2;

/// The customers that are served or wait.
#[derive(Debug, Default)]
pub(super) struct Turns {
    parties: BTreeMap<u64, Party>,
    /// Those who were sent away, and some who have been served since.
    waiting: Vec<u64>,
    /// How many slots have been given away.
    given: u64,
}

#[derive(Debug, Default)]
struct Party {
    sending: u32,
    waits_until: Option<Mono>,
    /// Which of all given slots it got last; 0: none.
    last: u64,
}

impl Party {
    fn is_waiting(&self, now: Mono) -> bool {
        self.waits_until.is_some_and(|until| now < until)
    }
}

impl Turns {
    /// Whether this customer may take one of the free slots; if not, it keeps its place.
    pub(super) fn take(&mut self, now: Mono, party: u64, free: usize, wait: Duration) -> bool {
        if !self.parties.contains_key(&party) && self.parties.len() >= PARTIES_MAX {
            self.parties.retain(|_, it| it.sending > 0 || it.is_waiting(now));
            if self.parties.len() >= PARTIES_MAX {
                return false;
            }
        }
        let place = self.parties.get(&party).map_or((0, 0), |it| (it.sending, it.last));
        let parties = &self.parties;
        self.waiting.retain(|other| parties.get(other).is_some_and(|it| it.is_waiting(now)));
        let before = |other: &&u64| **other != party && (parties[*other].sending, parties[*other].last) < place;
        let may = free > 0 && self.waiting.iter().filter(before).take(free).count() < free;
        let it = self.parties.entry(party).or_default();
        if may {
            self.given += 1;
            it.sending += 1;
            it.last = self.given;
            it.waits_until = None;
        } else {
            it.waits_until = Some(now + wait * KEEP_FACTOR);
            if !self.waiting.contains(&party) {
                self.waiting.push(party);
            }
        }
        may
    }

    /// A slot of this customer is free again.
    pub(super) fn give_back(&mut self, party: u64) {
        if let Some(it) = self.parties.get_mut(&party) {
            it.sending = it.sending.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WAIT: Duration = Duration::from_millis(200);

    /// Rounds of 100 ms: everyone asks for as much as it may get, and what was given is sent by the next round.
    fn shares(slots: usize, devices_of: &[usize], rounds: u64) -> Vec<u64> {
        let mut turns = Turns::default();
        let mut got = vec![0; devices_of.len()];
        for round in 0..rounds {
            let now = Mono::from_millis(100 * round);
            let mut given = Vec::new();
            for (party, &devices) in devices_of.iter().enumerate() {
                for _ in 0..devices {
                    if turns.take(now, party as u64, slots - given.len(), WAIT) {
                        given.push(party);
                    }
                }
            }
            for party in given {
                got[party] += 1;
                turns.give_back(party as u64);
            }
        }
        got
    }

    #[test]
    fn a_customer_with_many_devices_gets_no_more_than_one_with_one() {
        let got = shares(4, &[30, 1, 1, 1, 1, 1, 1, 1], 800);
        let (most, least) = (got.iter().max().unwrap(), got.iter().min().unwrap());
        assert!(most - least <= 2 + least / 20, "{got:?}");
    }

    #[test]
    fn a_customer_that_is_alone_gets_everything() {
        assert_eq!(shares(4, &[30], 10), [40]);
    }

    #[test]
    fn the_place_of_someone_who_does_not_come_back_is_given_away() {
        let mut turns = Turns::default();
        let at = Mono::from_millis;
        assert!(turns.take(at(0), 1, 1, WAIT));
        assert!(!turns.take(at(0), 2, 0, WAIT));
        turns.give_back(1);
        assert!(!turns.take(at(10), 1, 1, WAIT), "the slot is kept for the other one");
        assert!(turns.take(at(400), 1, 1, WAIT));
    }

    #[test]
    fn a_crowd_of_customers_takes_a_bounded_place() {
        let mut turns = Turns::default();
        for party in 0..3 * PARTIES_MAX as u64 {
            turns.take(Mono::ZERO, party, 0, WAIT);
        }
        assert_eq!(turns.parties.len(), PARTIES_MAX);
        assert!(turns.take(Mono::ZERO + WAIT * KEEP_FACTOR, u64::MAX, 1, WAIT));
    }
}
