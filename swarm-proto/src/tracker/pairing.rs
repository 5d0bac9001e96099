//! Boxes that show a code and wait until somebody of a customer types it (in the manner of RFC 8628).
//!
//! A device has one code at a time, and one code is one device's. Whoever types it sees first which device asks, then
//! lets it in; the device, asking under its own key, finds its membership. Kept in memory alone: after a restart a
//! box asks for a new code and shows that. Bounded; where there is no room, nobody who waits is pushed out.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::id::DeviceId;
use crate::time::Mono;
use crate::tracker::registry::{Applicant, InviteKey};

/// Boxes that wait at the same time.
pub const MAX_WAITING: usize = 10_000;

/// How long a code can be typed.
pub const LASTS: Duration = Duration::from_secs(15 * 60);

/// How often a box asks whether somebody has.
pub const POLL_EVERY: Duration = Duration::from_secs(2);

/// Why a pairing does not go on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PairingError {
    /// Try again in a while.
    #[error("too many boxes wait for their codes to be typed: {MAX_WAITING} is the limit")]
    Full,
    /// Compare it with what the box shows. Counts as a wrong guess.
    #[error("no box waits with this code")]
    NoCode,
    /// Ask for a code, and show it.
    #[error("this device has no code, or its code is over")]
    NotWaiting,
}

#[derive(Debug)]
struct Waiting {
    key: InviteKey,
    applicant: Applicant,
    until: Mono,
    admitted: bool,
}

/// Boxes that wait.
#[derive(Debug, Default)]
pub struct Pairings {
    waiting: BTreeMap<DeviceId, Waiting>,
    by_code: BTreeMap<InviteKey, DeviceId>,
}

impl Pairings {
    /// A box wants to be let in and shows the code of this key from now on; the code it had is void.
    pub fn ask(&mut self, now: Mono, key: InviteKey, applicant: Applicant) -> Result<(), PairingError> {
        self.forget(now);
        self.drop_device(&applicant.device);
        if self.waiting.len() >= MAX_WAITING {
            return Err(PairingError::Full);
        }
        self.by_code.insert(key, applicant.device);
        let waiting = Waiting { key, until: now + LASTS, admitted: false, applicant };
        self.waiting.insert(waiting.applicant.device, waiting);
        Ok(())
    }

    /// Which box shows this code.
    pub fn find(&self, now: Mono, key: &InviteKey) -> Result<&Applicant, PairingError> {
        let waiting = self.by_code.get(key).and_then(|device| self.waiting.get(device));
        let open = waiting.filter(|it| now < it.until && !it.admitted);
        open.map(|it| &it.applicant).ok_or(PairingError::NoCode)
    }

    /// The box with this code has been let in: the code is used up, and the box may still ask for its answer.
    pub fn handle_admitted(&mut self, key: &InviteKey) {
        if let Some(waiting) = self.by_code.remove(key).and_then(|device| self.waiting.get_mut(&device)) {
            waiting.admitted = true;
        }
    }

    /// Whether a box has been let in.
    pub fn poll(&self, now: Mono, device: &DeviceId) -> Result<bool, PairingError> {
        let waiting = self.waiting.get(device).filter(|it| now < it.until);
        waiting.map(|it| it.admitted).ok_or(PairingError::NotWaiting)
    }

    fn forget(&mut self, now: Mono) {
        let over: Vec<DeviceId> = self.waiting.iter().filter(|(_, it)| it.until <= now).map(|(id, _)| *id).collect();
        over.iter().for_each(|device| self.drop_device(device));
    }

    fn drop_device(&mut self, device: &DeviceId) {
        if let Some(waiting) = self.waiting.remove(device) {
            self.by_code.remove(&waiting.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wrap::HpkePublic;

    fn applicant(n: u32) -> Applicant {
        let mut id = [7; 32];
        id[..4].copy_from_slice(&n.to_be_bytes());
        Applicant { device: DeviceId::from(id), hpke: HpkePublic::from_bytes([1; 32]), name: format!("box {n}") }
    }

    fn key(n: u32) -> InviteKey {
        let mut key = [9; 32];
        key[..4].copy_from_slice(&n.to_be_bytes());
        InviteKey(key)
    }

    fn at(secs: u64) -> Mono {
        Mono::from_millis(secs * 1_000)
    }

    #[test]
    fn box_waits_until_its_code_is_typed_and_the_code_works_once() {
        let mut pairings = Pairings::default();
        pairings.ask(at(0), key(1), applicant(1)).unwrap();
        assert_eq!(pairings.poll(at(1), &applicant(1).device), Ok(false));
        assert_eq!(pairings.find(at(1), &key(1)), Ok(&applicant(1)));
        pairings.handle_admitted(&key(1));
        assert_eq!(pairings.poll(at(2), &applicant(1).device), Ok(true));
        assert_eq!(pairings.poll(at(3), &applicant(1).device), Ok(true), "a lost answer is not a lost code");
        assert_eq!(pairings.find(at(3), &key(1)), Err(PairingError::NoCode));
    }

    #[test]
    fn code_ends_with_its_time_and_with_the_next_one() {
        let mut pairings = Pairings::default();
        pairings.ask(at(0), key(1), applicant(1)).unwrap();
        pairings.ask(at(1), key(2), applicant(1)).unwrap();
        assert_eq!(pairings.find(at(2), &key(1)), Err(PairingError::NoCode));
        let late = at(1) + LASTS;
        assert_eq!(pairings.find(late, &key(2)), Err(PairingError::NoCode));
        assert_eq!(pairings.poll(late, &applicant(1).device), Err(PairingError::NotWaiting));
    }

    #[test]
    fn crowd_does_not_push_out_who_waits_and_there_is_room_when_its_codes_are_over() {
        let mut pairings = Pairings::default();
        for n in 0..MAX_WAITING as u32 {
            pairings.ask(at(0), key(n), applicant(n)).unwrap();
        }
        let late = key(u32::MAX);
        assert_eq!(pairings.ask(at(1), late, applicant(u32::MAX)), Err(PairingError::Full));
        assert!(pairings.find(at(1), &key(0)).is_ok());
        assert_eq!(pairings.ask(at(0) + LASTS, late, applicant(u32::MAX)), Ok(()));
        assert_eq!((pairings.waiting.len(), pairings.by_code.len()), (1, 1));
    }
}
