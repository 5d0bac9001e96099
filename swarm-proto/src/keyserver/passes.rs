//! Prepaid passes: credits bought, credits spent, and until when.
//!
//! A pass never holds less than nothing, and what it holds is always what was bought minus what its unrefunded orders
//! cost. Each order takes its credits once. Only the hash of a pass is known here; codes never come this far.

use std::collections::BTreeMap;

use crate::catalog::{Currency, Money};
use crate::id::OrderId;
use crate::time::Utc;

/// Most credits of one pass.
pub const MAX_CREDITS: u32 = 10_000;

/// A prepaid right to keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pass {
    bought: u32,
    expires: Utc,
    spent: BTreeMap<OrderId, u32>,
}

impl Pass {
    /// A pass nobody has used yet.
    pub(super) fn new(bought: u32, expires: Utc) -> Self {
        Self { bought, expires, spent: BTreeMap::new() }
    }

    /// Credits it was sold with.
    pub const fn credits_bought(&self) -> u32 {
        self.bought
    }

    /// Credits that are left.
    pub fn credits_left(&self) -> u32 {
        self.bought - self.spent.values().sum::<u32>()
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
        if credits == 0 || credits > self.credits_left() || self.spent.contains_key(&order) {
            return false;
        }
        self.spent.insert(order, credits);
        true
    }

    /// Gives back what an order took.
    pub(super) fn give_back(&mut self, order: &OrderId) {
        self.spent.remove(order);
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
        let mut pass = Pass::new(3, Utc::from_secs(100));
        assert!(pass.spend(order(1), 2));
        assert!(!pass.spend(order(2), 2), "one is left");
        assert!(pass.spend(order(2), 1));
        assert!(!pass.spend(order(3), 1));
        assert_eq!(pass.credits_left(), 0);
    }

    #[test]
    fn one_order_takes_its_credits_once() {
        let mut pass = Pass::new(3, Utc::from_secs(100));
        assert!(pass.spend(order(1), 1));
        assert!(!pass.spend(order(1), 1));
        assert_eq!(pass.credits_left(), 2);
    }

    #[test]
    fn a_refund_gives_back_exactly_what_was_taken() {
        let mut pass = Pass::new(3, Utc::from_secs(100));
        assert!(pass.spend(order(1), 2));
        pass.give_back(&order(1));
        pass.give_back(&order(1));
        assert_eq!(pass.credits_left(), 3);
    }

    #[test]
    fn a_pass_expires_at_its_moment() {
        let pass = Pass::new(1, Utc::from_millis(100));
        assert!(!pass.is_expired(Utc::from_millis(99)));
        assert!(pass.is_expired(Utc::from_millis(100)));
    }
}
