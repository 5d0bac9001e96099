//! What was paid for an order, what went back, and what is disputed.
//!
//! Facts that only accumulate. Each comes any number of times and in any order, and what is read off them is the same:
//! money that arrived outdoes a declined try, a dispute that was lost outdoes one that was won, and what a provider
//! says it has given back in all is the largest number it ever said.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::billing::Month;
use super::record::{DisputeId, EventId, Method, PassId, Reason, Reference, RefundedBy};
use crate::id::{AttemptId, RefundId};
use crate::time::Utc;

/// Payments remembered for one order. A till that says it more often under new names has a fault.
pub const MAX_PAYMENTS: usize = 8;

/// Tries to pay one order with a provider. Whoever needs more has another problem than this order.
pub const MAX_ATTEMPTS: usize = 16;

/// Refunds remembered for one order.
pub const MAX_REFUNDS: usize = 16;

/// Disputes remembered for one order.
pub const MAX_DISPUTES: usize = 8;

/// Which way money came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Means {
    /// Credits of a prepaid pass.
    Pass(PassId),
    /// A till's word.
    Webhook(EventId),
    /// A provider that was asked to collect it.
    Provider(AttemptId),
    /// The account's bill of a month.
    Bill(Month),
}

/// Money that has arrived for an order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Payment {
    /// When we learned of it.
    pub at: Utc,
    /// Which way it came.
    pub means: Means,
}

/// Why a provider did not collect, as far as the payer may know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decline {
    /// The bank or card said no.
    Refused,
    /// There is not enough money.
    Funds,
    /// The bank could not make sure who pays.
    Authentication,
    /// The payment was called off or given up.
    Cancelled,
    /// The provider could make nothing of the way to pay.
    Unusable,
}

/// One try to have a provider collect the price.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// Its name, made before anyone was asked: the provider's idempotency key.
    pub id: AttemptId,
    /// When it was begun.
    pub begun: Utc,
    /// What the payer pays with.
    pub method: Method,
    /// What the provider calls it, once known.
    pub reference: Option<Reference>,
    /// Why it failed, and when we learned of it.
    pub declined: Option<(Utc, Decline)>,
    /// Whether money came.
    pub paid: bool,
    /// The most that the provider ever said it has given back of it without having been asked to by us.
    pub returned_elsewhere_minor: u64,
}

impl Attempt {
    /// Whether its fate is not known yet.
    pub const fn is_open(&self) -> bool {
        !self.paid && self.declined.is_none()
    }
}

/// How giving money back stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefundStanding {
    /// The provider has not said yet that it is done.
    UnderWay,
    /// It is done, or there was nothing for a provider to do.
    Done(Utc),
    /// The provider will not do it. Someone has to.
    Failed(Utc),
}

/// Money that goes or went back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refund {
    /// When it was decided, or when we learned of it.
    pub at: Utc,
    /// On whose word.
    pub by: RefundedBy,
    /// How much, in the minor unit of the price; all that was paid if nothing is said.
    pub minor: Option<u64>,
    /// Whether the right that was bought stays.
    pub keeps_rights: bool,
    /// How it stands.
    pub standing: RefundStanding,
    /// Its name, if it was decided here.
    pub id: Option<RefundId>,
    /// The payment of which a provider gives it back.
    pub attempt: Option<AttemptId>,
}

/// How a dispute stands. The later one outdoes the earlier one, in whichever order they are learned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Dispute {
    /// The payer wants the money back.
    Open,
    /// The payer did not get it.
    Won,
    /// The payer got it.
    Lost,
}

/// All that is known about the money of one order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Dues {
    payments: Vec<Payment>,
    attempts: Vec<Attempt>,
    refunds: Vec<Refund>,
    disputes: BTreeMap<DisputeId, (Utc, Dispute)>,
}

impl Dues {
    /// The money that paid for the order: the first that arrived.
    pub fn payment(&self) -> Option<&Payment> {
        self.payments.first()
    }

    /// All money that arrived.
    pub fn payments(&self) -> &[Payment] {
        &self.payments
    }

    /// The tries to pay with a provider, as they were begun.
    pub fn attempts(&self) -> &[Attempt] {
        &self.attempts
    }

    /// The try of this name.
    pub fn attempt(&self, id: &AttemptId) -> Option<&Attempt> {
        self.attempts.iter().find(|attempt| attempt.id == *id)
    }

    /// The try whose fate is not known yet.
    pub fn open_attempt(&self) -> Option<&Attempt> {
        self.attempts.iter().find(|attempt| attempt.is_open())
    }

    /// Money that goes or went back.
    pub fn refunds(&self) -> &[Refund] {
        &self.refunds
    }

    /// The refund of this name.
    pub fn refund(&self, id: &RefundId) -> Option<&Refund> {
        self.refunds.iter().find(|refund| refund.id == Some(*id))
    }

    /// The first refund that ended the right.
    pub fn ended_by(&self) -> Option<&Refund> {
        self.refunds.iter().find(|refund| !refund.keeps_rights)
    }

    /// Disputes, and when we learned how each stands.
    pub const fn disputes(&self) -> &BTreeMap<DisputeId, (Utc, Dispute)> {
        &self.disputes
    }

    /// Whether a payer wants money back and has not been told no.
    pub fn is_disputed(&self) -> bool {
        self.disputes.values().any(|(_, dispute)| *dispute != Dispute::Won)
    }

    /// Whether no money came, went back or is under way.
    pub fn came_to_nothing(&self) -> bool {
        let quiet = self.payments.is_empty() && self.refunds.is_empty() && self.disputes.is_empty();
        quiet && self.open_attempt().is_none()
    }

    /// How much is on its way back or has gone, of a price, so far: what refunds by hand and by providers add up to.
    pub fn returned_minor(&self, price_minor: u64) -> u64 {
        let refunds = self.refunds.iter().filter(|refund| !matches!(refund.standing, RefundStanding::Failed(_)));
        refunds.fold(0, |sum: u64, refund| sum.saturating_add(refund.minor.unwrap_or(price_minor)))
    }

    /// How much of one payment was asked back by us, whatever the provider has made of it.
    pub(super) fn asked_back_minor(&self, attempt: &AttemptId) -> u64 {
        let ours = self.refunds.iter().filter(|refund| refund.id.is_some() && refund.attempt == Some(*attempt));
        ours.filter_map(|refund| refund.minor).fold(0, u64::saturating_add)
    }

    /// A payment by a provider that buys nothing, since the order was paid or refunded before it came, and of which
    /// nothing is on its way back yet.
    pub(super) fn surplus(&self) -> Option<AttemptId> {
        let buys_nothing = |place: usize| place > 0 || self.ended_by().is_some();
        let surplus = self.payments.iter().enumerate().filter(|(place, _)| buys_nothing(*place));
        let mut attempts = surplus.filter_map(|(_, payment)| match payment.means {
            Means::Provider(attempt) => Some(attempt),
            Means::Pass(_) | Means::Webhook(_) | Means::Bill(_) => None,
        });
        attempts.find(|attempt| {
            let elsewhere = self.attempt(attempt).map_or(0, |known| known.returned_elsewhere_minor);
            elsewhere == 0 && self.asked_back_minor(attempt) == 0
        })
    }

    pub(super) fn add_payment(&mut self, payment: Payment) {
        self.payments.push(payment);
    }

    pub(super) fn begin(&mut self, id: AttemptId, begun: Utc, method: Method) {
        let (reference, declined, paid, returned_elsewhere_minor) = (None, None, false, 0);
        self.attempts.push(Attempt { id, begun, method, reference, declined, paid, returned_elsewhere_minor });
    }

    pub(super) fn attempt_mut(&mut self, id: &AttemptId) -> Option<&mut Attempt> {
        self.attempts.iter_mut().find(|attempt| attempt.id == *id)
    }

    pub(super) fn add_refund(&mut self, refund: Refund) {
        self.refunds.push(refund);
    }

    pub(super) fn refund_mut(&mut self, id: &RefundId) -> Option<&mut Refund> {
        self.refunds.iter_mut().find(|refund| refund.id == Some(*id))
    }

    /// Learns how a dispute stands; false when that says nothing new.
    pub(super) fn learns_from(&self, id: &DisputeId, dispute: Dispute) -> bool {
        self.disputes.get(id).is_none_or(|(_, known)| *known < dispute)
    }

    pub(super) fn set_dispute(&mut self, id: DisputeId, at: Utc, dispute: Dispute) {
        self.disputes.insert(id, (at, dispute));
    }
}

/// Something that happened to the money of an order, for people to read in order of time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Happening {
    /// A provider was asked to collect.
    Begun(AttemptId),
    /// It did not.
    Declined(Decline),
    /// Money arrived.
    Paid(Means),
    /// Money goes or went back.
    Refunded(Refund),
    /// A dispute came to stand so.
    Disputed(Dispute),
}

impl Dues {
    /// What happened, in order of time.
    pub fn timeline(&self) -> Vec<(Utc, Happening)> {
        let begun = self.attempts.iter().map(|attempt| (attempt.begun, Happening::Begun(attempt.id)));
        let declined = self.attempts.iter().filter_map(|attempt| attempt.declined);
        let declined = declined.map(|(at, why)| (at, Happening::Declined(why)));
        let paid = self.payments.iter().map(|payment| (payment.at, Happening::Paid(payment.means)));
        let refunded = self.refunds.iter().map(|refund| (refund.at, Happening::Refunded(refund.clone())));
        let disputed = self.disputes.values().map(|(at, dispute)| (*at, Happening::Disputed(*dispute)));
        let mut timeline: Vec<_> = begun.chain(declined).chain(paid).chain(refunded).chain(disputed).collect();
        timeline.sort_by_key(|(at, _)| *at);
        timeline
    }

    /// Why money went back, as the operator said it.
    pub fn reason(refund: &Refund) -> Option<&Reason> {
        match &refund.by {
            RefundedBy::Operator(reason) => Some(reason),
            RefundedBy::Till(_) | RefundedBy::Provider | RefundedBy::Overpaid => None,
        }
    }
}
