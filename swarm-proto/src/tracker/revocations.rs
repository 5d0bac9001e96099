//! Which devices were shut out so recently that tickets of theirs are still about.
//!
//! Every connected device hears of them, so that nobody serves such a ticket or is served by its owner. Holds ids and
//! moments, nothing of whose they were, and a bounded number: when it is full, the one that is over first gives way.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::id::DeviceId;
use crate::time::Utc;

/// Revocations that are told at a time: 128 KiB in one notice.
pub const MAX_TOLD: usize = 4_096;

/// How long a revocation is told: a ticket lasts a day, and is honoured for another while the tracker is away.
pub const TOLD_FOR: Duration = Duration::from_secs(2 * 24 * 3_600);

/// Devices that were shut out lately.
#[derive(Debug, Default)]
pub struct Revocations {
    until: BTreeMap<DeviceId, Utc>,
}

impl Revocations {
    /// A device is shut out, or was and is told until then.
    pub fn insert(&mut self, device: DeviceId, until: Utc) {
        self.until.insert(device, until);
        if self.until.len() > MAX_TOLD {
            let first = self.until.iter().min_by_key(|(_, until)| **until).map(|(device, _)| *device);
            self.until.remove(&first.expect("a full map has a first entry"));
        }
    }

    /// Whether others are still told that this device was shut out, so that it cannot come back as somebody else's yet.
    pub fn contains(&self, device: &DeviceId) -> bool {
        self.until.contains_key(device)
    }

    /// Everyone who is told, in order.
    pub fn told(&self) -> impl Iterator<Item = &DeviceId> {
        self.until.keys()
    }

    /// Forgets whose tickets are over by now, and says who that was.
    pub fn forget(&mut self, now: Utc) -> Vec<DeviceId> {
        let over: Vec<DeviceId> = self.until.iter().filter(|(_, until)| **until <= now).map(|(it, _)| *it).collect();
        for device in &over {
            self.until.remove(device);
        }
        over
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(n: u16) -> DeviceId {
        let mut bytes = [0; 32];
        bytes[..2].copy_from_slice(&n.to_be_bytes());
        DeviceId::from(bytes)
    }

    #[test]
    fn revocation_is_told_until_no_ticket_lives() {
        let mut revocations = Revocations::default();
        revocations.insert(device(1), Utc::from_secs(10));
        revocations.insert(device(2), Utc::from_secs(20));
        assert_eq!(revocations.forget(Utc::from_secs(10)), [device(1)]);
        assert_eq!(revocations.told().collect::<Vec<_>>(), [&device(2)]);
    }

    #[test]
    fn list_is_bounded_and_loses_what_is_over_first() {
        let mut revocations = Revocations::default();
        for n in 0..=MAX_TOLD as u16 {
            revocations.insert(device(n), Utc::from_secs(1_000 + u64::from(n)));
        }
        assert_eq!(revocations.told().count(), MAX_TOLD);
        assert_eq!(revocations.told().next(), Some(&device(1)));
    }
}
