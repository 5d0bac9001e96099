//! One purchase, as the facts known about it.
//!
//! Facts only accumulate and may arrive in any order, any number of times: money that came, money that went back, keys
//! that left. How the order stands is read off the facts and never stored, so no order of events can leave it in a
//! wrong state: a refund wins over payments, money that arrives late still counts, and an unpaid order expires by
//! itself.

use std::collections::BTreeMap;
use std::time::Duration;

use super::dues::Dues;
pub use super::dues::{Means, Payment, Refund};
use super::grants::Grant;
use super::passes::Holds;
use super::record::{IdempotencyKey, PassId};
use crate::catalog::{Money, OfferId, Policy};
use crate::id::{AccountId, DeviceId, ItemId, OrderId};
use crate::limit::Limit;
use crate::time::Utc;

/// Replacements of devices remembered for one order; more than any limit on them.
pub const MAX_REPLACEMENTS: usize = 16;

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
    /// The payer wants the money back from their bank; no key leaves until that is decided for us.
    Disputed,
    /// No money came in time. Should it still come, the order is paid.
    Expired,
}

/// What was bought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Goods {
    /// The right to watch.
    Title(ItemId),
    /// A pass.
    Pass(PassGoods),
}

/// A pass that is bought: it comes to be when it is paid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PassGoods {
    /// Keyed hash of its code.
    pub pass: PassId,
    /// What it will hold.
    pub holds: Holds,
    /// For how long, from the payment on.
    pub valid: Duration,
    /// Whether its code is for someone else; otherwise it belongs to the buyer's account at once.
    pub gift: bool,
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
    pub goods: Goods,
    /// Under which offer.
    pub offer: OfferId,
    /// For how much, as offered when it was bought.
    pub price: Money,
    /// With which clocks, as offered when it was bought.
    pub policy: Policy,
    /// When it was created.
    pub created: Utc,
    /// What was paid, what went back, what is disputed.
    pub dues: Dues,
    grants: BTreeMap<DeviceId, Grant>,
    first_grant: Option<Utc>,
    first_play: Option<Utc>,
    replacements: Vec<Utc>,
}

impl Order {
    /// An order about which nothing more is known.
    #[allow(clippy::too_many_arguments, reason = "each is one field of one record")]
    pub(super) fn new(
        id: OrderId,
        account: AccountId,
        idempotency_key: IdempotencyKey,
        goods: Goods,
        offer: OfferId,
        price: Money,
        policy: Policy,
        created: Utc,
    ) -> Self {
        Self {
            id,
            account,
            idempotency_key,
            goods,
            offer,
            price,
            policy,
            created,
            dues: Dues::default(),
            grants: BTreeMap::new(),
            first_grant: None,
            first_play: None,
            replacements: Vec::new(),
        }
    }

    /// The item, of an order for a title.
    pub const fn item(&self) -> Option<ItemId> {
        match self.goods {
            Goods::Title(item) => Some(item),
            Goods::Pass(_) => None,
        }
    }

    /// How it stands at this moment, when unpaid orders are kept open for this long.
    pub fn state(&self, now: Utc, open_for: Duration) -> OrderState {
        if self.dues.ended_by().is_some() {
            return OrderState::Refunded;
        }
        if self.dues.is_disputed() {
            return OrderState::Disputed;
        }
        if self.first_grant.is_some() {
            return OrderState::Granted;
        }
        if self.dues.payment().is_some() {
            return OrderState::Paid;
        }
        if now.since(self.created) >= open_for { OrderState::Expired } else { OrderState::Pending }
    }

    /// Whether nothing ever came of it: no money, and so no key, and none is under way.
    pub fn came_to_nothing(&self) -> bool {
        self.dues.came_to_nothing() && self.first_grant.is_none()
    }

    /// The money that paid for it: the first that arrived.
    pub fn payment(&self) -> Option<&Payment> {
        self.dues.payment()
    }

    /// Money that arrived after the order was paid. It goes back, or someone has to give it back.
    pub fn overpayments(&self) -> &[Payment] {
        self.dues.payments().get(1..).unwrap_or_default()
    }

    /// The money that went back and took the right with it.
    pub fn refund(&self) -> Option<&Refund> {
        self.dues.ended_by()
    }

    /// When the first key left.
    pub const fn first_grant(&self) -> Option<Utc> {
        self.first_grant
    }

    /// When the title was first played, on whichever device.
    pub const fn first_play(&self) -> Option<Utc> {
        self.first_play
    }

    /// When devices were replaced, the latest last.
    pub fn replacements(&self) -> &[Utc] {
        &self.replacements
    }

    /// The keys that have left and were not taken back, by device.
    pub const fn grants(&self) -> &BTreeMap<DeviceId, Grant> {
        &self.grants
    }

    /// What was bought ends at this moment, if it would not end before.
    pub(super) fn end_with(&mut self, end: Utc) {
        let end = self.policy.not_after.bound().map_or(end, |known| known.min(end));
        self.policy.not_after = Limit::Of(end);
    }

    pub(super) fn add_grant(&mut self, device: DeviceId, grant: Grant) {
        self.first_grant.get_or_insert(grant.first);
        self.grants.insert(device, grant);
    }

    /// Keeps the first word about a first play.
    pub(super) fn set_first_play(&mut self, first: Utc) {
        self.first_play.get_or_insert(first);
    }

    pub(super) fn add_replacement(&mut self, at: Utc) {
        if self.replacements.len() >= MAX_REPLACEMENTS {
            self.replacements.remove(0);
        }
        self.replacements.push(at);
    }

    pub(super) const fn grants_mut(&mut self) -> &mut BTreeMap<DeviceId, Grant> {
        &mut self.grants
    }
}
