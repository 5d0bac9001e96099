//! Why the ledger refuses, and what whoever asked can do about it.
//!
//! One enum for each command. A refusal has changed nothing; the doc line of each says what follows. Why a key does
//! not leave is with the grants: [`super::grants::GrantRefusal`].

use super::billing::Month;
use super::dues::MAX_PAYMENTS;
use super::grants::GrantRefusal;
use crate::cpix::KeyId;
use crate::id::ItemId;
use crate::invalid::Invalid;
use crate::licence::Denied;
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
    /// Seal the file with another key: one key seals one item.
    #[error("the key is the key of item {0} already")]
    KeyUsed(ItemId),
    /// Raise the limit.
    #[error(transparent)]
    Full(#[from] Full),
}

/// Why a studio's key was not taken over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ImportRefusal {
    /// Admit the publisher first.
    #[error("the publisher is not admitted here")]
    NotAdmitted,
    /// Ask the studio which is right; a new key needs a new name.
    #[error("another key is known as {0}")]
    OtherKey(KeyId),
    /// Ask the studio for another key: one key seals one item.
    #[error("the key is the key of item {0} already")]
    KeyUsed(ItemId),
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

/// Why a device may not play what it has under an order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PlayRefusal {
    /// The order cannot be had.
    #[error(transparent)]
    Look(#[from] LookRefusal),
    /// It has no licence that counts: taken back, or given to another device. Ask for a grant.
    #[error("the device has no key that counts under this order")]
    NoGrant,
    /// Ask the operator why.
    #[error("the device is revoked")]
    DeviceRevoked,
}

/// Why no key of a span leaves under an order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SpanRefusal {
    /// No key would leave at all.
    #[error(transparent)]
    Grant(#[from] GrantRefusal),
    /// One of the clocks of its licence.
    #[error(transparent)]
    Over(#[from] Denied),
    /// It has no licence that counts: taken back, or given to another device. Ask for a grant.
    #[error("the device has no licence that counts under this order")]
    NoGrant,
    /// Ask for a grant: it brings the whole key.
    #[error("the key of this order leaves as a whole")]
    WholeKey,
}

/// Why a device gets no preview.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PreviewRefusal {
    /// The device holds sealed copies and plays nothing. Ask from a box.
    #[error("keys leave for boxes only, this device is a seed")]
    NotABox,
    /// Ask the operator why.
    #[error("the device is revoked")]
    DeviceRevoked,
    /// Ask another keyserver.
    #[error("there is no such item")]
    NoSuchItem,
    /// Buy it.
    #[error("no offer of the title has a preview at this time")]
    NoPreview,
    /// Ask again at this moment, or buy.
    #[error("the device has had as many previews as it may have in a day, the next one is at {0}")]
    TooMany(Utc),
    /// Try again tomorrow; the operator should look.
    #[error(transparent)]
    Full(#[from] Full),
}

/// Why a device did not take another one's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReplaceRefusal {
    /// It could not have a key anyway.
    #[error(transparent)]
    Grant(#[from] GrantRefusal),
    /// Look at the order again.
    #[error("the device to be replaced has no key of this order")]
    NoSuchDevice,
    /// Nothing to be done: it has a key.
    #[error("a device does not replace itself")]
    Itself,
    /// Ask again at this moment.
    #[error("devices of this order were replaced too often, the next one can be at {0}")]
    TooOften(Utc),
}

/// Why a key was not taken back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WithdrawRefusal {
    /// The order cannot be had.
    #[error(transparent)]
    Look(#[from] LookRefusal),
    /// Nothing to be done.
    #[error("the device has no key of this order")]
    NoGrant,
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
    /// Wait for the bank, or order again.
    #[error("the payment of the order is disputed")]
    Disputed,
    /// Order again.
    #[error("the order was not paid in time")]
    Expired,
    /// Pay with money.
    #[error("a pass cannot be bought with a pass")]
    PassForPass,
    /// Pay with a pass.
    #[error("the order is priced in credits, which only a pass has")]
    CreditsOnly,
    /// Order again.
    #[error("the order was tried to be paid {0} times, no more tries are taken")]
    TooManyTries(usize),
    /// Try again later, or pay another way.
    #[error("{0} payments wait for their provider already")]
    Busy(usize),
    /// Pay another way.
    #[error("the account has no bill to put this on")]
    NoBill,
    /// Pay another way.
    #[error(
        "the bill of the account has room for {left_minor} minor units of its currency, the order costs more or another currency"
    )]
    OverLimit {
        /// What may still be owed.
        left_minor: u64,
    },
    /// The clock of the keyserver went back. Try again when it is right.
    #[error("the bills of {0} are closed")]
    MonthClosed(Month),
    /// Use the pass from the account it belongs to.
    #[error("the pass belongs to another account")]
    PassOfAnother,
    /// Use another pass.
    #[error("the pass was taken back or its payment is disputed")]
    PassVoid,
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

/// Why a pass was not taken into an account, or not taken back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum VoidRefusal {
    /// Look at the id again.
    #[error("there is no such pass")]
    NoSuchPass,
    /// Refund that order.
    #[error("the pass was bought with order {0}")]
    Bought(crate::id::OrderId),
}

/// Why money does not go back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RefundRefusal {
    /// The order cannot be had.
    #[error(transparent)]
    Look(#[from] LookRefusal),
    /// Refund it whole.
    #[error("the order was paid with a pass: its credits go back together, and the right ends")]
    WholeOnly,
    /// Nothing to do.
    #[error("nothing was paid for the order")]
    NothingPaid,
    /// Nothing to do, or say how much.
    #[error("nothing of the pass is unused")]
    NothingUnused,
    /// Give back less.
    #[error("of what was paid, {left_minor} minor units have not gone back yet")]
    TooMuch {
        /// What is left.
        left_minor: u64,
    },
    /// Look at what happened to the order.
    #[error("{0} refunds are known for this order, no more are taken")]
    TooMany(usize),
    /// A new refund needs a new id.
    #[error("the id of the refund was used for another one")]
    IdReused,
}

/// Why the word of a provider is not taken. Nothing was written; someone should look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProviderRefusal {
    /// It speaks of something else.
    #[error("there is no such payment")]
    NoSuchPayment,
    /// It speaks of another amount or currency.
    #[error("the amount is not the price of the order")]
    OtherAmount,
    /// It speaks of another order or customer than the payment was begun for.
    #[error("the payment belongs to another order or account")]
    OtherOrder,
    /// It has given the payment two names, or two payments one.
    #[error("the payment is known under another name")]
    OtherReference,
    /// It has a fault.
    #[error("more is said about this order than is remembered")]
    TooMany,
}

/// Why a bill stays as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BillRefusal {
    /// Wait for its end.
    #[error("{0} is not over yet")]
    NotOver(Month),
    /// Settle what is owed first.
    #[error("the bill of the account is in another currency")]
    OtherCurrency,
    /// Raise the limit.
    #[error(transparent)]
    Full(#[from] Full),
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
    #[error("{MAX_PAYMENTS} payments are known for this order, no more are taken")]
    TooMany,
}
