//! Who may have which title: asked before anything is queued, planned or preloaded.
//!
//! Plain functions over what the registry and the catalog know; the same for a title that is watched, one that waits
//! in a queue and one that is brought ahead of time. Ratings and regions are the publisher's, signed with the entry.
//! They concern who watches, so a seed is asked for neither. Where a title is limited to regions, a customer whose
//! region nobody has stated is outside all of them.

use crate::catalog::Region;
use crate::id::{AccountId, DeviceId};
use crate::limit::Limit;
use crate::membership::DeviceKind;
use crate::tracker::catalog::Listing;
use crate::tracker::registry::{Customer, Device, Registry, Status};

/// Why a title is not for someone. The tests are made in this order; the first that fails is told.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Enrol the device.
    #[error("this device is not enrolled here")]
    NoDevice,
    /// Start with a new identity; this one does not come back.
    #[error("this device has been revoked")]
    Revoked,
    /// Look at the list of customers.
    #[error("there is no such customer")]
    NoCustomer,
    /// Talk to the operator.
    #[error("this customer is suspended")]
    Suspended,
    /// Talk to the operator.
    #[error("this customer's account is closed")]
    Closed,
    /// Choose another title.
    #[error("this title is not offered any more: its publisher has withdrawn it")]
    Withdrawn,
    /// Choose another title.
    #[error("this title is not offered here at the moment")]
    Hidden,
    /// The operator states the customer's region.
    #[error("this title is limited to some regions, and no region is known of this customer")]
    NoRegion,
    /// Choose another title.
    #[error("this title is not offered in region {0}")]
    OtherRegion(Region),
    /// The customer's limit would have to be raised.
    #[error("this title is rated {rating}, and this customer's limit is {limit}")]
    AboveCustomersLimit {
        /// Of the title.
        rating: u32,
        /// What is allowed.
        limit: u32,
    },
    /// Watch it on another box, or raise this one's limit.
    #[error("this title is rated {rating}, and this device's limit is {limit}")]
    AboveDevicesLimit {
        /// Of the title.
        rating: u32,
        /// What is allowed.
        limit: u32,
    },
}

/// Whether anything is done for a device at all.
pub fn admit_device<'a>(registry: &'a Registry, device: &DeviceId) -> Result<(&'a Device, &'a Customer), Refused> {
    let device = registry.device(device).ok_or(Refused::NoDevice)?;
    if device.revoked {
        return Err(Refused::Revoked);
    }
    Ok((device, admit_customer(registry, &device.account)?))
}

/// Whether anything is done for a customer at all.
pub fn admit_customer<'a>(registry: &'a Registry, account: &AccountId) -> Result<&'a Customer, Refused> {
    let customer = registry.customer(account).ok_or(Refused::NoCustomer)?;
    match customer.status {
        Status::Active => Ok(customer),
        Status::Suspended => Err(Refused::Suspended),
        Status::Closed { .. } => Err(Refused::Closed),
    }
}

/// Whether a device may have a title.
pub fn admit(registry: &Registry, device: &DeviceId, title: &Listing) -> Result<(), Refused> {
    let (device, customer) = admit_device(registry, device)?;
    offered(title)?;
    if device.kind == DeviceKind::Seed {
        return Ok(());
    }
    suits(customer, title)?;
    match device.rating_limit {
        Limit::Of(limit) if title.entry.rating_age > limit => {
            Err(Refused::AboveDevicesLimit { rating: title.entry.rating_age, limit })
        }
        _ => Ok(()),
    }
}

/// Whether a customer may have a title on some box of its own.
pub fn admit_for_customer(registry: &Registry, account: &AccountId, title: &Listing) -> Result<(), Refused> {
    let customer = admit_customer(registry, account)?;
    offered(title)?;
    suits(customer, title)
}

/// Whether a device may have an item, by any of the titles that point to it; the refusal is that of the first.
pub fn admit_item<'a>(
    registry: &Registry,
    device: &DeviceId,
    mut titles: impl Iterator<Item = &'a Listing>,
) -> Option<Result<(), Refused>> {
    let first = admit(registry, device, titles.next()?);
    let any = first.is_ok() || titles.any(|title| admit(registry, device, title).is_ok());
    Some(if any { Ok(()) } else { first })
}

fn offered(title: &Listing) -> Result<(), Refused> {
    match (title.entry.withdrawn, title.hidden) {
        (true, _) => Err(Refused::Withdrawn),
        (false, true) => Err(Refused::Hidden),
        (false, false) => Ok(()),
    }
}

fn suits(customer: &Customer, title: &Listing) -> Result<(), Refused> {
    let entry = &title.entry;
    match customer.region {
        None if !entry.regions.is_empty() => return Err(Refused::NoRegion),
        Some(region) if !entry.is_offered_in(region) => return Err(Refused::OtherRegion(region)),
        _ => {}
    }
    match customer.rating_limit {
        Limit::Of(limit) if entry.rating_age > limit => {
            Err(Refused::AboveCustomersLimit { rating: entry.rating_age, limit })
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
