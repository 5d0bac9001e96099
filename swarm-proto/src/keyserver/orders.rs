//! One purchase, as the facts known about it.
//!
//! Facts only accumulate and may arrive in any order, any number of times: money that came, money that went back, keys
//! that left. How the order stands is read off the facts and never stored, so no order of events can leave it in a
//! wrong state: a refund wins over payments, money that arrives late still counts, and an unpaid order expires by
//! itself.

use std::collections::BTreeMap;
use std::time::Duration;

use super::grants::Grant;
use super::record::{EventId, IdempotencyKey, PassId, RefundedBy};
use crate::catalog::{Money, OfferId, Policy};
use crate::id::{AccountId, DeviceId, ItemId, OrderId};
use crate::time::Utc;

/// How an order stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum OrderState {
    /// Waiting for money.
    Pending,
    /// Money has arrived; no key has left.
    Paid,
    /// At least one key has left.
    Granted,
    /// Money went back; no key leaves any more.
    Refunded,
    /// No money came in time. Should it still come, the order is paid.
    Expired,
}

/// Money that has arrived for an order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Payment {
    /// When we learned of it.
    pub at: Utc,
    /// Which way it came.
    pub means: Means,
}

/// Which way money came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Means {
    /// Credits of a prepaid pass.
    Pass(PassId),
    /// A till's word.
    Webhook(EventId),
}

/// Money that went back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refund {
    /// When we learned of it.
    pub at: Utc,
    /// On whose word.
    pub by: RefundedBy,
}

/// One purchase.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// Its id.
    pub id: OrderId,
    /// Whose it is.
    pub account: AccountId,
    /// What the client called it.
    pub idempotency_key: IdempotencyKey,
    /// What was bought.
    pub item: ItemId,
    /// Under which offer.
    pub offer: OfferId,
    /// For how much, as offered when it was bought.
    pub price: Money,
    /// With which clocks, as offered when it was bought.
    pub policy: Policy,
    /// When it was created.
    pub created: Utc,
    payments: Vec<Payment>,
    refund: Option<Refund>,
    grants: BTreeMap<DeviceId, Grant>,
}

impl Order {
    /// An order about which nothing more is known.
    #[allow(clippy::too_many_arguments, reason = "each is one field of one record")]
    pub(super) fn new(
        id: OrderId,
        account: AccountId,
        idempotency_key: IdempotencyKey,
        item: ItemId,
        offer: OfferId,
        price: Money,
        policy: Policy,
        created: Utc,
    ) -> Self {
        let (payments, refund, grants) = (Vec::new(), None, BTreeMap::new());
        Self { id, account, idempotency_key, item, offer, price, policy, created, payments, refund, grants }
    }

    /// How it stands at this moment, when unpaid orders are kept open for this long.
    pub fn state(&self, now: Utc, open_for: Duration) -> OrderState {
        if self.refund.is_some() {
            return OrderState::Refunded;
        }
        if !self.grants.is_empty() {
            return OrderState::Granted;
        }
        if !self.payments.is_empty() {
            return OrderState::Paid;
        }
        if now.since(self.created) >= open_for { OrderState::Expired } else { OrderState::Pending }
    }

    /// Whether nothing ever came of it: no money, and so no key.
    pub fn came_to_nothing(&self) -> bool {
        self.payments.is_empty() && self.refund.is_none() && self.grants.is_empty()
    }

    /// The money that paid for it: the first that arrived.
    pub fn payment(&self) -> Option<&Payment> {
        self.payments.first()
    }

    /// Money that arrived after the order was paid. Someone has to give it back.
    pub fn overpayments(&self) -> &[Payment] {
        self.payments.get(1..).unwrap_or_default()
    }

    /// How often money has arrived.
    pub fn payments_known(&self) -> usize {
        self.payments.len()
    }

    /// The money that went back.
    pub const fn refund(&self) -> Option<&Refund> {
        self.refund.as_ref()
    }

    /// The keys that have left, by device.
    pub const fn grants(&self) -> &BTreeMap<DeviceId, Grant> {
        &self.grants
    }

    pub(super) fn add_payment(&mut self, payment: Payment) {
        self.payments.push(payment);
    }

    /// Keeps the first word about a refund.
    pub(super) fn set_refund(&mut self, refund: Refund) {
        self.refund.get_or_insert(refund);
    }

    pub(super) const fn grants_mut(&mut self) -> &mut BTreeMap<DeviceId, Grant> {
        &mut self.grants
    }
}
