//! Prepaid passes: credits or time bought, what is spent, and until when.
//!
//! A pass never holds less than nothing, and what it holds is always what was bought minus what its unrefunded orders
//! cost. Each order takes its credits once. A time pass opens whatever is ordered while it lasts, and what it opened
//! ends with it. Only the hash of a pass is known here; codes never come this far.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::catalog::{Currency, Money};
use crate::id::{AccountId, OrderId};
use crate::time::Utc;

/// Most credits of one pass.
pub const MAX_CREDITS: u32 = 10_000;

/// What a pass was sold with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Holds {
    /// So many credits.
    Credits(u32),
    /// Whatever is ordered while it lasts.
    Time,
}

impl Holds {
    /// Credits, of which a time pass has none.
    pub const fn credits(self) -> u32 {
        match self {
            Self::Credits(credits) => credits,
            Self::Time => 0,
        }
    }
}

/// A prepaid right to keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pass {
    holds: Holds,
    expires: Utc,
    spent: BTreeMap<OrderId, u32>,
    owner: Option<AccountId>,
    bought_by: Option<OrderId>,
    voided: bool,
}

impl Pass {
    /// A pass nobody has used yet.
    pub(super) const fn new(holds: Holds, expires: Utc) -> Self {
        Self { holds, expires, spent: BTreeMap::new(), owner: None, bought_by: None, voided: false }
    }

    /// A pass that was bought with this order, for this account or as a gift.
    pub(super) fn bought(holds: Holds, expires: Utc, order: OrderId, owner: Option<AccountId>) -> Self {
        Self { owner, bought_by: Some(order), ..Self::new(holds, expires) }
    }

    /// What it was sold with.
    pub const fn holds(&self) -> Holds {
        self.holds
    }

    /// Credits it was sold with; none of a time pass.
    pub const fn credits_bought(&self) -> u32 {
        self.holds.credits()
    }

    /// Credits that are left; none of a time pass, or of one that was taken back.
    pub fn credits_left(&self) -> u32 {
        if self.voided { 0 } else { self.credits_bought() - self.spent.values().sum::<u32>() }
    }

    /// How many orders it has paid that were not refunded.
    pub fn orders_paid(&self) -> usize {
        self.spent.len()
    }

    /// The account it belongs to: nobody else may spend it. Without one, whoever has the code may.
    pub const fn owner(&self) -> Option<AccountId> {
        self.owner
    }

    /// The order it was bought with, if a customer bought it.
    pub const fn bought_by(&self) -> Option<OrderId> {
        self.bought_by
    }

    /// Whether it was taken back and pays for nothing any more.
    pub const fn is_void(&self) -> bool {
        self.voided
    }

    /// When the rest becomes worthless.
    pub const fn expires(&self) -> Utc {
        self.expires
    }

    /// True from the moment it expires.
    pub fn is_expired(&self, now: Utc) -> bool {
        now >= self.expires
    }

    /// Takes the price of an order; false, and nothing is taken, when it is not there or was taken before.
    pub(super) fn spend(&mut self, order: OrderId, credits: u32) -> bool {
        let fits = match self.holds {
            Holds::Credits(_) => credits > 0 && credits <= self.credits_left(),
            Holds::Time => credits == 0,
        };
        if !fits || self.voided || self.spent.contains_key(&order) {
            return false;
        }
        self.spent.insert(order, credits);
        true
    }

    /// Gives back what an order took.
    pub(super) fn give_back(&mut self, order: &OrderId) {
        self.spent.remove(order);
    }

    pub(super) const fn set_owner(&mut self, owner: AccountId) {
        self.owner = Some(owner);
    }

    pub(super) const fn take_back(&mut self) {
        self.voided = true;
    }
}

/// How much of what a pass cost its unused part is worth, in whole minor units, rounded down. A time pass that has
/// paid for something is used.
pub fn worth_minor(pass: &Pass, price: &Money) -> u64 {
    match pass.holds() {
        _ if pass.is_void() => 0,
        Holds::Credits(bought) => {
            let worth = u128::from(price.minor) * u128::from(pass.credits_left()) / u128::from(bought.max(1));
            u64::try_from(worth).unwrap_or(price.minor)
        }
        Holds::Time if pass.orders_paid() == 0 => price.minor,
        Holds::Time => 0,
    }
}

/// What an order costs in credits: the price of an offer sold for credits, one credit for any other.
///
/// `None` when no pass can hold so many.
pub fn cost(price: &Money) -> Option<u32> {
    if price.currency != Currency::CREDITS {
        return Some(1);
    }
    u32::try_from(price.minor).ok().filter(|credits| *credits <= MAX_CREDITS)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(n: u8) -> OrderId {
        OrderId::from([n; 16])
    }

    #[test]
    fn credits_are_spent_until_there_are_none() {
        let mut pass = Pass::new(Holds::Credits(3), Utc::from_secs(100));
        assert!(pass.spend(order(1), 2));
        assert!(!pass.spend(order(2), 2), "one is left");
        assert!(pass.spend(order(2), 1));
        assert!(!pass.spend(order(3), 1));
        assert_eq!(pass.credits_left(), 0);
    }

    #[test]
    fn one_order_takes_its_credits_once() {
        let mut pass = Pass::new(Holds::Credits(3), Utc::from_secs(100));
        assert!(pass.spend(order(1), 1));
        assert!(!pass.spend(order(1), 1));
        assert_eq!(pass.credits_left(), 2);
    }

    #[test]
    fn a_refund_gives_back_exactly_what_was_taken() {
        let mut pass = Pass::new(Holds::Credits(3), Utc::from_secs(100));
        assert!(pass.spend(order(1), 2));
        pass.give_back(&order(1));
        pass.give_back(&order(1));
        assert_eq!(pass.credits_left(), 3);
    }

    #[test]
    fn a_pass_expires_at_its_moment() {
        let pass = Pass::new(Holds::Credits(1), Utc::from_millis(100));
        assert!(!pass.is_expired(Utc::from_millis(99)));
        assert!(pass.is_expired(Utc::from_millis(100)));
    }

    #[test]
    fn a_time_pass_pays_each_order_once_and_no_credits() {
        let mut pass = Pass::new(Holds::Time, Utc::from_secs(100));
        assert!(!pass.spend(order(1), 1));
        assert!(pass.spend(order(1), 0));
        assert!(!pass.spend(order(1), 0));
        assert!(pass.spend(order(2), 0));
        assert_eq!((pass.credits_left(), pass.orders_paid()), (0, 2));
    }

    #[test]
    fn the_unused_part_of_a_pass_is_worth_its_share_and_nothing_once_taken_back() {
        let price = Money::new(1_000, "EUR".parse().expect("a currency")).expect("an amount");
        let mut pass = Pass::new(Holds::Credits(3), Utc::from_secs(100));
        assert_eq!(worth_minor(&pass, &price), 1_000);
        assert!(pass.spend(order(1), 1));
        assert_eq!(worth_minor(&pass, &price), 666, "never more than the share");
        pass.take_back();
        assert_eq!((worth_minor(&pass, &price), pass.credits_left()), (0, 0));
        assert!(!pass.spend(order(2), 1));
        let mut month = Pass::new(Holds::Time, Utc::from_secs(100));
        assert_eq!(worth_minor(&month, &price), 1_000);
        assert!(month.spend(order(1), 0));
        assert_eq!(worth_minor(&month, &price), 0);
    }
}
