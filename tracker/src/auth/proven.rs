//! Call tokens that were found good a moment ago.
//!
//! A device uses one token for many calls, and checking its signature costs more than many an answer. What is kept is
//! the hash of the whole token, so that a changed one is checked as if it were new; a token is never good for longer
//! than it says. Bounded: the ones that were not used for longest are checked again.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use swarm_proto::call::Proof;
use swarm_proto::id::DeviceId;
use swarm_proto::time::Utc;

/// Tokens of one generation; two are kept.
const GENERATION: usize = 32_768;

type Key = [u8; 32];

/// The tokens.
#[derive(Debug, Default)]
pub(super) struct Proven(Mutex<Generations>);

#[derive(Debug, Default)]
struct Generations {
    young: HashMap<Key, Proof>,
    old: HashMap<Key, Proof>,
}

impl Proven {
    /// Whose token this is, if it was found good and still is.
    pub(super) fn device(&self, token: &str, now: Utc) -> Option<DeviceId> {
        let key = key(token);
        let mut generations = self.lock();
        let proof = generations.young.get(&key).or_else(|| generations.old.get(&key)).copied()?;
        if now >= proof.until {
            return None;
        }
        generations.insert(key, proof);
        Some(proof.device)
    }

    /// A token was found good.
    pub(super) fn insert(&self, token: &str, proof: Proof) {
        self.lock().insert(key(token), proof);
    }

    fn lock(&self) -> MutexGuard<'_, Generations> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Generations {
    fn insert(&mut self, key: Key, proof: Proof) {
        if self.young.len() >= GENERATION && !self.young.contains_key(&key) {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key, proof);
    }
}

fn key(token: &str) -> Key {
    *blake3::hash(token.as_bytes()).as_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Utc = Utc::from_secs(1);

    fn proof(n: u8) -> Proof {
        Proof { device: DeviceId::from_bytes([n; 32]), until: Utc::from_secs(10) }
    }

    #[test]
    fn token_is_known_until_it_ends_and_a_changed_one_is_not() {
        let proven = Proven::default();
        assert_eq!(proven.device("token", NOW), None);
        proven.insert("token", proof(1));
        assert_eq!(proven.device("token", Utc::from_secs(9)), Some(proof(1).device));
        assert_eq!(proven.device("tokeN", Utc::from_secs(9)), None);
        assert_eq!(proven.device("token", Utc::from_secs(10)), None);
    }

    #[test]
    fn token_that_is_used_stays_and_one_that_is_not_gives_way() {
        let proven = Proven::default();
        proven.insert("used", proof(1));
        proven.insert("idle", proof(2));
        for n in 0..3 * GENERATION {
            proven.insert(&n.to_string(), proof(3));
            assert_eq!(proven.device("used", NOW), Some(proof(1).device));
        }
        assert_eq!(proven.device("idle", NOW), None);
        let generations = proven.lock();
        assert!(generations.young.len() + generations.old.len() <= 2 * GENERATION);
    }
}
