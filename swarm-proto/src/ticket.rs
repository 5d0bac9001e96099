//! "This device may fetch this item until then", as a tracker says it.
//!
//! Every request of the chunk protocol bears one; the uploader checks it offline and needs no list of who may have what.
//! It says nothing about purchases: sealed bytes are for every member.

use prost::Message as _;

use crate::id::{DeviceId, ItemId, ServerId};
use crate::invalid::{Invalid, id, positive};
use crate::limit::{self, Limit};
use crate::pb::common as pb;
use crate::signed::{Signed, SignedError, Statement};
use crate::time::Utc;

/// Leave to fetch an item.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ticket {
    /// Who may fetch.
    pub device: DeviceId,
    /// What.
    pub item: ItemId,
    /// Why, hence in which order.
    pub class: TicketClass,
    /// Until when.
    pub expires: Utc,
    /// How much of it from seeds.
    pub seed_bytes_max: Limit<u64>,
    /// Tells the tickets of a device apart.
    pub serial: u64,
}

/// Why an item is fetched; what is less is served first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TicketClass {
    /// Someone is watching it.
    Playing,
    /// Someone has asked for it.
    Queued,
    /// Someone may ask for it.
    Preload,
}

impl From<TicketClass> for pb::TicketClass {
    fn from(class: TicketClass) -> Self {
        match class {
            TicketClass::Playing => Self::Playing,
            TicketClass::Queued => Self::Queued,
            TicketClass::Preload => Self::Preload,
        }
    }
}

impl TryFrom<pb::TicketClass> for TicketClass {
    type Error = Invalid;

    fn try_from(class: pb::TicketClass) -> Result<Self, Invalid> {
        match class {
            pb::TicketClass::Unspecified => Err(Invalid::new("class", "is missing or unknown")),
            pb::TicketClass::Playing => Ok(Self::Playing),
            pb::TicketClass::Queued => Ok(Self::Queued),
            pb::TicketClass::Preload => Ok(Self::Preload),
        }
    }
}

/// Why a request is not served. Answer it with `Refused`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TicketError {
    /// Not the tracker's, altered, or against the rules.
    #[error(transparent)]
    Signed(#[from] SignedError),
    /// Another device's.
    #[error("the ticket is for device {0}, not for the one that bears it")]
    OtherDevice(DeviceId),
    /// Another item's.
    #[error("the ticket is for item {0}, not for the one that is asked for")]
    OtherItem(ItemId),
    /// Too old: the bearer should ask its tracker for a fresh one.
    #[error("the ticket expired at {0}")]
    Expired(Utc),
}

impl Ticket {
    /// Everything an uploader checks before it answers `bearer`, whom the connection has authenticated.
    pub fn verify(
        signed: &Signed<Self>,
        tracker: &ServerId,
        bearer: DeviceId,
        item: ItemId,
        now: Utc,
    ) -> Result<Self, TicketError> {
        let ticket = signed.verify(tracker)?;
        if ticket.device != bearer {
            return Err(TicketError::OtherDevice(ticket.device));
        }
        if ticket.item != item {
            return Err(TicketError::OtherItem(ticket.item));
        }
        if now >= ticket.expires {
            return Err(TicketError::Expired(ticket.expires));
        }
        Ok(ticket)
    }
}

impl Statement for Ticket {
    const CONTEXT: &'static str = "ticket";
    type Signer = ServerId;

    fn encode(&self) -> Vec<u8> {
        pb::Ticket {
            device_id: self.device.to_vec(),
            item_id: self.item.to_vec(),
            class: pb::TicketClass::from(self.class).into(),
            expires_utc_ms: self.expires.as_millis(),
            seed_bytes_max: Some(self.seed_bytes_max.into()),
            serial: self.serial,
        }
        .encode_to_vec()
    }

    fn decode(bytes: &[u8]) -> Result<Self, Invalid> {
        let message = pb::Ticket::decode(bytes).map_err(|error| Invalid::new(Self::CONTEXT, error.to_string()))?;
        Ok(Self {
            device: id("device_id", &message.device_id)?,
            item: id("item_id", &message.item_id)?,
            class: message.class().try_into()?,
            expires: limit::utc("expires_utc_ms", message.expires_utc_ms)?,
            seed_bytes_max: limit::bytes("seed_bytes_max", message.seed_bytes_max)?,
            serial: positive("serial", message.serial)?,
        })
    }
}
