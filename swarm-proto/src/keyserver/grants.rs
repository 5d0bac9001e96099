//! When a key may leave, and with which clocks.
//!
//! A key leaves only for an order that is paid and not refunded, only to a box of the account that paid, and only
//! inside the viewing period. One grant for each device of an order: whoever asks again gets the same licence, with the
//! same number and the same clocks; only when its renewal is due is it issued anew. The moment by which viewing must
//! begin is counted from the first grant of the order and never moves. A key that was taken back makes room for another
//! device; what was watched with it stays watched: the first play counts for the order.

use std::time::Duration;

use super::orders::{Order, OrderState};
use crate::catalog::Policy;
use crate::id::{AccountId, DeviceId};
use crate::licence::{Licence, SOFT_FINISH, Subject};
use crate::limit::Limit;
use crate::membership::DeviceKind;
use crate::seal::KeyCommitment;
use crate::time::Utc;

/// A licence is not issued anew more often than this, whatever its policy says: each time is a record in the journal.
const MIN_RENEWAL: Duration = Duration::from_secs(60);

/// A key that has left for one device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// Number of its licence.
    pub serial: u64,
    /// When the key left first.
    pub first: Utc,
    /// When its licence was issued last.
    pub issued: Utc,
    /// Of an order that drips: for how many spans the journal has let keys leave.
    pub spans_allowed: u64,
}

/// Who asks for a key: what the membership proves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asker {
    /// The account the device belongs to.
    pub account: AccountId,
    /// The device.
    pub device: DeviceId,
    /// What it is there for.
    pub kind: DeviceKind,
}

/// Why a key does not leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum GrantRefusal {
    /// There is no such order. Ask for the list of orders.
    #[error("there is no such order")]
    NoSuchOrder,
    /// The order is another account's. Nothing helps.
    #[error("the order belongs to another account")]
    OtherAccount,
    /// The device holds sealed copies and plays nothing. Ask from a box.
    #[error("keys leave for boxes only, this device is a seed")]
    NotABox,
    /// Pay, then ask again.
    #[error("the order is not paid")]
    PaymentRequired,
    /// Too late for this order. Order again, and pay.
    #[error("the order was not paid in time")]
    OrderExpired,
    /// The money went back. Order again.
    #[error("the order was refunded")]
    OrderRefunded,
    /// The bank decides whose the money is. Wait, or order again.
    #[error("the payment of the order is disputed")]
    OrderDisputed,
    /// The order bought a pass. Order a title, and pay with the pass.
    #[error("the order is for a pass, which has no key")]
    NotATitle,
    /// Ask again at this moment.
    #[error("the viewing period begins at {0}")]
    TooEarly(Utc),
    /// Over for good. Order again, if it is still offered.
    #[error("the viewing period ended at {0}")]
    TooLate(Utc),
    /// The operator has revoked the device. Ask them why.
    #[error("the device is revoked")]
    DeviceRevoked,
    /// The account has as many boxes on this order as it may. Ask from one of those.
    #[error("the key of this order has left for {0} devices already, no more are allowed")]
    TooManyDevices(usize),
}

/// What is to be done about a request that is not refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The device gets its first licence.
    First,
    /// The device gets its licence issued anew.
    Renewal,
    /// The device gets the licence that it got before.
    Again,
}

/// Whether the key of this order may leave for this device now.
pub(super) fn judge(
    order: &Order,
    asker: &Asker,
    now: Utc,
    open_for: Duration,
    max_devices: usize,
) -> Result<Verdict, GrantRefusal> {
    if order.account != asker.account {
        return Err(GrantRefusal::OtherAccount);
    }
    if asker.kind != DeviceKind::Box {
        return Err(GrantRefusal::NotABox);
    }
    if order.item().is_none() {
        return Err(GrantRefusal::NotATitle);
    }
    match order.state(now, open_for) {
        OrderState::Pending => return Err(GrantRefusal::PaymentRequired),
        OrderState::Expired => return Err(GrantRefusal::OrderExpired),
        OrderState::Refunded => return Err(GrantRefusal::OrderRefunded),
        OrderState::Disputed => return Err(GrantRefusal::OrderDisputed),
        OrderState::Paid | OrderState::Granted => {}
    }
    check_window(order, now)?;
    match order.grants().get(&asker.device) {
        None if order.grants().len() >= max_devices => Err(GrantRefusal::TooManyDevices(max_devices)),
        None => Ok(Verdict::First),
        Some(grant) if renewal_is_due(&order.policy, grant, now) => Ok(Verdict::Renewal),
        Some(_) => Ok(Verdict::Again),
    }
}

/// The licence of a grant that the order holds.
pub(super) fn licence(
    order: &Order,
    device: DeviceId,
    grant: &Grant,
    commitment: KeyCommitment,
    n_spans: u32,
) -> Licence {
    let item = order.item().expect("a grant belongs to a title");
    let subject = Subject { order: order.id, device, item, commitment, spans: 0..n_spans };
    let granted = order.first_grant().unwrap_or(grant.first);
    let first_play = order.first_play();
    Licence { first_play, ..Licence::new(grant.serial, subject, &order.policy, granted, grant.issued) }
}

/// Whether this moment lies in the viewing period.
pub(super) fn check_period(policy: &Policy, now: Utc) -> Result<(), GrantRefusal> {
    if policy.may_grant_at(now) {
        return Ok(());
    }
    match (policy.not_before, policy.not_after) {
        (Limit::Of(begin), _) if now < begin => Err(GrantRefusal::TooEarly(begin)),
        (_, Limit::Of(end)) => Err(GrantRefusal::TooLate(end)),
        (_, Limit::Unlimited) => Ok(()),
    }
}

/// Besides the viewing period: when nothing can be watched any more under an order, its key stays here.
fn check_window(order: &Order, now: Utc) -> Result<(), GrantRefusal> {
    check_period(&order.policy, now)?;
    match last_play(order) {
        Some(end) if now >= end => Err(GrantRefusal::TooLate(end)),
        _ => Ok(()),
    }
}

/// The moment by which every viewing that began in time has ended; `None` when there is no such moment yet.
fn last_play(order: &Order) -> Option<Utc> {
    let policy = &order.policy;
    let more = if policy.soft_finish { SOFT_FINISH } else { Duration::ZERO };
    Some(order.first_grant()? + policy.start_by.bound()? + policy.finish_within.bound()? + more)
}

fn renewal_is_due(policy: &Policy, grant: &Grant, now: Utc) -> bool {
    policy.renew_after.bound().is_some_and(|after| now >= grant.issued + after.max(MIN_RENEWAL))
}
