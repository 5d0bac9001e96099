//! "This device belongs to this account and site", as a tracker says it.
//!
//! Peers check it before they talk, keyservers before they sell: both offline, with the tracker's public key. A later
//! membership of a device has a higher serial, so that an old one can be told from a new one.

use std::time::Duration;

use prost::Message as _;

use crate::id::{AccountId, DeviceId, ServerId, SiteId};
use crate::invalid::{Invalid, id, positive};
use crate::limit;
use crate::pb::common as pb;
use crate::signed::Statement;
use crate::time::Utc;
use crate::wrap::HpkePublic;

/// How far two honest clocks may be apart.
pub const CLOCK_TOLERANCE: Duration = Duration::from_secs(300);

/// A device's place in the swarm.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Membership {
    /// Whose.
    pub device: DeviceId,
    /// The customer it belongs to.
    pub account: AccountId,
    /// Where it stands.
    pub site: SiteId,
    /// What it is there for.
    pub kind: DeviceKind,
    /// Where grants for it are wrapped to.
    pub hpke: HpkePublic,
    /// From when.
    pub issued: Utc,
    /// Until when.
    pub expires: Utc,
    /// Counts the memberships of this device.
    pub serial: u64,
}

/// What a device is there for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DeviceKind {
    /// A viewer's.
    Box,
    /// An ISP's or publisher's media server.
    Seed,
}

impl DeviceKind {
    /// The word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Box => "box",
            Self::Seed => "seed",
        }
    }
}

impl From<DeviceKind> for pb::DeviceKind {
    fn from(kind: DeviceKind) -> Self {
        match kind {
            DeviceKind::Box => Self::Box,
            DeviceKind::Seed => Self::Seed,
        }
    }
}

impl TryFrom<pb::DeviceKind> for DeviceKind {
    type Error = Invalid;

    fn try_from(kind: pb::DeviceKind) -> Result<Self, Invalid> {
        match kind {
            pb::DeviceKind::Unspecified => Err(Invalid::new("kind", "is missing or unknown")),
            pb::DeviceKind::Box => Ok(Self::Box),
            pb::DeviceKind::Seed => Ok(Self::Seed),
        }
    }
}

impl Membership {
    /// True between `issued` and `expires`; a clock may lag [`CLOCK_TOLERANCE`] behind the tracker's.
    pub fn is_valid_at(&self, utc: Utc) -> bool {
        self.issued <= utc + CLOCK_TOLERANCE && utc < self.expires
    }
}

impl Statement for Membership {
    const CONTEXT: &'static str = "membership";
    type Signer = ServerId;

    fn encode(&self) -> Vec<u8> {
        pb::Membership {
            device_id: self.device.to_vec(),
            account_id: self.account.to_vec(),
            site_id: self.site.to_string(),
            kind: pb::DeviceKind::from(self.kind).into(),
            hpke_public: self.hpke.to_vec(),
            issued_utc_ms: self.issued.as_millis(),
            expires_utc_ms: self.expires.as_millis(),
            serial: self.serial,
        }
        .encode_to_vec()
    }

    fn decode(bytes: &[u8]) -> Result<Self, Invalid> {
        let message = pb::Membership::decode(bytes).map_err(|error| Invalid::new(Self::CONTEXT, error.to_string()))?;
        let issued = limit::utc("issued_utc_ms", message.issued_utc_ms)?;
        let expires = limit::utc("expires_utc_ms", message.expires_utc_ms)?;
        if expires <= issued {
            return Err(Invalid::new("expires_utc_ms", "must lie after issued_utc_ms"));
        }
        Ok(Self {
            device: id("device_id", &message.device_id)?,
            account: id("account_id", &message.account_id)?,
            site: message
                .site_id
                .parse()
                .map_err(|error: crate::id::IdError| Invalid::new("site_id", error.to_string()))?,
            kind: message.kind().try_into()?,
            hpke: id("hpke_public", &message.hpke_public)?,
            issued,
            expires,
            serial: positive("serial", message.serial)?,
        })
    }
}
