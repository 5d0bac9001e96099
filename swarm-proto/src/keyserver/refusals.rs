//! Why the ledger refuses, and what whoever asked can do about it.
//!
//! One enum for each command. A refusal has changed nothing; the doc line of each says what follows. Why a key does
//! not leave is with the grants: [`super::grants::GrantRefusal`].

use super::ledger::MAX_PAYMENTS_PER_ORDER;
use crate::invalid::Invalid;
use crate::time::Utc;

/// A limit of [`super::ledger::Config`] that is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("there are {limit} {what} already, the most this keyserver keeps")]
pub struct Full {
    /// Of what.
    pub what: &'static str,
    /// The limit.
    pub limit: usize,
}

/// Why a publisher was not admitted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AdmitRefusal {
    /// Choose another name.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// Raise the limit.
    #[error(transparent)]
    Full(#[from] Full),
}

/// Why a deposit was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DepositRefusal {
    /// Ask the operator to admit the publisher.
    #[error("the publisher is not admitted here")]
    NotAdmitted,
    /// Seal the file again: a fresh key gives a fresh item.
    #[error("another key is deposited for this item")]
    OtherKey,
    /// The item belongs to another publisher or title.
    #[error("the item is deposited under another publisher or title")]
    OtherTitle,
    /// Raise the version of the entry.
    #[error(
        "version {0} of the entry is known, a deposit must not go back or say something else under the same number"
    )]
    OldVersion(u64),
    /// Raise the limit.
    #[error(transparent)]
    Full(#[from] Full),
}

/// Why an order was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OrderRefusal {
    /// The key has not been deposited here.
    #[error("this keyserver has no key for the item")]
    NoSuchItem,
    /// Look at the offers again.
    #[error("the item is not offered so, or not any more")]
    NoSuchOffer,
    /// The viewing period of the offer is over.
    #[error("the viewing period of the offer ended at {0}")]
    OfferOver(Utc),
    /// A new purchase needs a new key.
    #[error("the idempotency key was used for another request")]
    KeyReused,
    /// Pay or wait for some of them.
    #[error("{0} orders wait for payment already")]
    TooManyOpen(usize),
    /// Raise the limit.
    #[error(transparent)]
    Full(#[from] Full),
}

/// Why an order cannot be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LookRefusal {
    /// Ask for the list of orders.
    #[error("there is no such order")]
    NoSuchOrder,
    /// Nothing helps.
    #[error("the order belongs to another account")]
    OtherAccount,
}

/// Why a pass was not created.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PassRefusal {
    /// Choose other terms.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// Raise the limit.
    #[error(transparent)]
    Full(#[from] Full),
}

/// Why a pass did not pay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PayRefusal {
    /// The order cannot be had.
    #[error(transparent)]
    Look(#[from] LookRefusal),
    /// Order again.
    #[error("the order was refunded")]
    Refunded,
    /// Order again.
    #[error("the order was not paid in time")]
    Expired,
    /// Look at the code again. To be counted against the account.
    #[error("there is no pass with this code")]
    WrongCode,
    /// Use another pass.
    #[error("the pass expired at {0}")]
    PassExpired(Utc),
    /// Use another pass.
    #[error("the pass has {left} credits left, the order costs {cost}")]
    PassEmpty {
        /// What the pass still holds.
        left: u32,
        /// What the order costs.
        cost: u32,
    },
    /// Pay with money.
    #[error("the order costs more credits than any pass holds")]
    TooDear,
}

/// Why a till's word is not taken. Nothing was written; someone should look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TillRefusal {
    /// The till may say it again later.
    #[error("there is no such order")]
    NoSuchOrder,
    /// The till speaks of another customer.
    #[error("the order belongs to another account")]
    OtherAccount,
    /// The till speaks of another amount or currency.
    #[error("the amount is not the price of the order")]
    OtherAmount,
    /// The till has used the id of a message for another one.
    #[error("the id of this message was used for another one")]
    EventReused,
    /// The till has a fault.
    #[error("{MAX_PAYMENTS_PER_ORDER} payments are known for this order, no more are taken")]
    TooMany,
}
