//! "This device may fetch this item until then", as a tracker says it.
//!
//! Every request of the chunk protocol bears one; the uploader checks it offline and needs no list of who may have what.
//! It says nothing about purchases: sealed bytes are for every member. Boxes serve whoever bears one; a seed sends only
//! what the ticket grants to it by name, so that what seeds send is decided in one place.

use prost::Message as _;

use crate::id::{DeviceId, ItemId, ServerId};
use crate::invalid::{Invalid, id, positive};
use crate::limit;
use crate::pb::common as pb;
use crate::signed::{Signed, SignedError, Statement};
use crate::time::Utc;

/// Seeds that one ticket may name.
pub const MAX_SHARES: usize = 8;

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
    /// Tells the tickets of a tracker apart.
    pub serial: u64,
    /// What each seed may send; at most [`MAX_SHARES`]. Who is not named sends nothing.
    pub shares: Vec<SeedShare>,
    /// Until when the shares hold.
    pub shares_until: Utc,
    /// Stands for the bearer's customer, so that uploaders can be fair between customers.
    pub party: u64,
}

/// How much one seed may send under a ticket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SeedShare {
    /// Which.
    pub seed: DeviceId,
    /// How much, of chunks and manifests.
    pub bytes: u64,
    /// The run of the seed that counts it; none: any.
    pub run: Option<u64>,
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
    /// What this seed may send under the ticket.
    pub fn share_of(&self, seed: &DeviceId) -> Option<&SeedShare> {
        self.shares.iter().find(|share| share.seed == *seed)
    }

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
            serial: self.serial,
            shares: self.shares.iter().map(SeedShare::message).collect(),
            shares_until_utc_ms: self.shares_until.as_millis(),
            party: self.party,
        }
        .encode_to_vec()
    }

    fn decode(bytes: &[u8]) -> Result<Self, Invalid> {
        let message = pb::Ticket::decode(bytes).map_err(|error| Invalid::new(Self::CONTEXT, error.to_string()))?;
        let expires = limit::utc("expires_utc_ms", message.expires_utc_ms)?;
        let shares_until = limit::utc("shares_until_utc_ms", message.shares_until_utc_ms)?;
        if shares_until > expires {
            return Err(Invalid::new("shares_until_utc_ms", "is after expires_utc_ms"));
        }
        Ok(Self {
            device: id("device_id", &message.device_id)?,
            item: id("item_id", &message.item_id)?,
            class: message.class().try_into()?,
            expires,
            serial: positive("serial", message.serial)?,
            shares: shares(&message.shares)?,
            shares_until,
            party: positive("party", message.party)?,
        })
    }
}

impl SeedShare {
    fn message(&self) -> pb::SeedShare {
        pb::SeedShare { seed_id: self.seed.to_vec(), bytes: self.bytes, run: self.run }
    }
}

fn shares(messages: &[pb::SeedShare]) -> Result<Vec<SeedShare>, Invalid> {
    if messages.len() > MAX_SHARES {
        return Err(Invalid::new("shares", format!("must be at most {MAX_SHARES}")));
    }
    let mut shares: Vec<SeedShare> = Vec::with_capacity(messages.len());
    for message in messages {
        let seed = id("shares.seed_id", &message.seed_id)?;
        if shares.iter().any(|share| share.seed == seed) {
            return Err(Invalid::new("shares.seed_id", "is named twice"));
        }
        let bytes = positive("shares.bytes", message.bytes)?;
        let run = message.run.map(|run| positive("shares.run", run)).transpose()?;
        shares.push(SeedShare { seed, bytes, run });
    }
    Ok(shares)
}
