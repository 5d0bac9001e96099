//! Which licences of a device no longer count, as its keyserver signs it.
//!
//! Every device has a list of its own: it learns nothing of others, and the list is as long as what was taken from this
//! one device. Lists have versions that only go up; a device keeps the highest it has seen and honours it, connected or
//! not. A device that cannot be reached is reached by its licences' own clocks: that is what renewals are for.

use std::collections::BTreeSet;

use prost::Message as _;

use crate::id::{DeviceId, ServerId};
use crate::invalid::{Invalid, id, positive};
use crate::licence::Licence;
use crate::limit;
use crate::pb::common as pb;
use crate::signed::Statement;
use crate::time::Utc;

/// Longest list: one device cannot have lost more licences than that and still be worth enrolling.
pub const MAX_SERIALS: usize = 4096;

/// What a device may no longer use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revocations {
    /// Whose list it is.
    pub device: DeviceId,
    /// Counts the changes of this list, from 1.
    pub version: u64,
    /// When it was signed.
    pub issued: Utc,
    /// Nothing may be used any more: the device itself is revoked.
    pub all: bool,
    /// Numbers of licences that no longer count.
    pub serials: BTreeSet<u64>,
}

impl Revocations {
    /// Whether this licence no longer counts.
    pub fn covers(&self, licence: &Licence) -> bool {
        self.all || self.serials.contains(&licence.serial)
    }
}

impl Statement for Revocations {
    const CONTEXT: &'static str = "revocations";
    type Signer = ServerId;

    fn encode(&self) -> Vec<u8> {
        pb::Revocations {
            device_id: self.device.to_vec(),
            version: self.version,
            issued_utc_ms: self.issued.as_millis(),
            all: self.all,
            serials: self.serials.iter().copied().collect(),
        }
        .encode_to_vec()
    }

    fn decode(bytes: &[u8]) -> Result<Self, Invalid> {
        let message = pb::Revocations::decode(bytes).map_err(|error| Invalid::new(Self::CONTEXT, error.to_string()))?;
        let ascend = message.serials.is_sorted_by(|one, next| one < next) && message.serials.first() != Some(&0);
        if message.serials.len() > MAX_SERIALS || !ascend {
            return Err(Invalid::new("serials", format!("must be at most {MAX_SERIALS}, ascending from at least 1")));
        }
        Ok(Self {
            device: id("device_id", &message.device_id)?,
            version: positive("version", message.version)?,
            issued: limit::utc("issued_utc_ms", message.issued_utc_ms)?,
            all: message.all,
            serials: message.serials.into_iter().collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::signed::{Signed, SigningKey};

    #[test]
    fn the_longest_list_can_be_signed_and_reads_as_it_was_written() {
        let key = SigningKey::from_bytes(&[7; 32]).expect("32 bytes");
        let longest = Revocations {
            device: DeviceId::from([1; 32]),
            version: u64::MAX,
            issued: Utc::MAX,
            all: false,
            serials: (0..MAX_SERIALS as u64).map(|n| u64::MAX - n).collect(),
        };
        let signed = Signed::sign(&key, &longest).expect("it fits");
        assert_eq!(signed.verify(&key.server_id()), Ok(longest));
    }

    #[test]
    fn list_that_is_not_in_order_is_refused() {
        for serials in [vec![2, 1], vec![1, 1], vec![0], (1..=MAX_SERIALS as u64 + 1).collect()] {
            let message = pb::Revocations { device_id: vec![1; 32], version: 1, issued_utc_ms: 1, all: false, serials };
            let refused = Revocations::decode(&message.encode_to_vec()).expect_err("out of order");
            assert_eq!(refused.field, "serials");
        }
    }
}
