//! What the ledger decides about providers, bills, refunds, disputes and the passes that customers buy.
//!
//! A payment is begun in the ledger before a provider hears of it, so that its idempotency key is on disk first, and
//! whatever the provider says is held against it. Money that arrives and buys nothing, because the order was paid or
//! refunded meanwhile, is remembered as surplus until it is on its way back. Never talks to anyone: what a provider has
//! to be asked is handed out as [`Collect`] and [`GiveBack`].

mod bills;
mod wallet;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::*;
use crate::catalog::{OfferId, Policy};
use crate::id::{AttemptId, RefundId};
use crate::keyserver::billing::{Bill, Entry, Limit as CreditLimit, Line, Month};
use crate::keyserver::dues::{Decline, MAX_ATTEMPTS};
use crate::keyserver::orders::PassGoods;
use crate::keyserver::record::{Card, Method, Reference};
use crate::keyserver::refusals::{BillRefusal, ProviderRefusal, RefundRefusal, VoidRefusal};

/// A provider that has not told the fate of a payment or refund after this long is worth a look.
pub const STUCK_AFTER: Duration = Duration::from_secs(5 * 60);

/// Accounts that may pay by bill or have a card: as many as there can be orders would be too many to go through.
const MAX_PAYERS: usize = 1_000_000;

/// What the ledger looks up besides orders.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Index {
    attempts: BTreeMap<AttemptId, OrderId>,
    refunds: BTreeMap<RefundId, OrderId>,
    /// What providers call payments.
    references: BTreeMap<Reference, AttemptId>,
    open_attempts: BTreeSet<AttemptId>,
    open_refunds: BTreeSet<RefundId>,
    /// Orders with money that buys nothing.
    surplus: BTreeSet<OrderId>,
    bills: BTreeMap<AccountId, Bill>,
    /// The last month whose bills are closed.
    closed: Option<Month>,
    cards: BTreeMap<AccountId, Card>,
    /// Passes that are ordered and not yet paid.
    ordered_passes: BTreeSet<PassId>,
}

impl Index {
    pub(super) const fn new() -> Self {
        Self {
            attempts: BTreeMap::new(),
            refunds: BTreeMap::new(),
            references: BTreeMap::new(),
            open_attempts: BTreeSet::new(),
            open_refunds: BTreeSet::new(),
            surplus: BTreeSet::new(),
            bills: BTreeMap::new(),
            closed: None,
            cards: BTreeMap::new(),
            ordered_passes: BTreeSet::new(),
        }
    }

    /// Forgets the orders that are not among these: no money ever came for them, and none is under way.
    pub(super) fn forget(&mut self, orders: &BTreeMap<OrderId, Order>) {
        self.attempts.retain(|_, order| orders.contains_key(order));
        self.references.retain(|_, attempt| self.attempts.contains_key(attempt));
        let wanted: BTreeSet<PassId> = orders
            .values()
            .filter_map(|order| match order.goods {
                Goods::Pass(goods) => Some(goods.pass),
                Goods::Title(_) => None,
            })
            .collect();
        self.ordered_passes.retain(|pass| wanted.contains(pass));
    }
}

/// A kind of pass that customers can buy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PassOffer {
    /// What the shop calls it.
    pub id: OfferId,
    /// What it holds.
    pub holds: Holds,
    /// For how long, from the payment on.
    pub valid: Duration,
    /// What it costs: money.
    pub price: Money,
}

/// What the operator wants to give back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refunding {
    /// How much, in the minor unit of the price. Nothing said: all that is left, of a pass what its unused part is worth.
    pub minor: Option<u64>,
    /// Whether the right that was bought stays.
    pub keeps_rights: bool,
    /// Why.
    pub reason: Reason,
}

impl Refunding {
    /// All of it; the right ends.
    pub const fn whole(reason: Reason) -> Self {
        Self { minor: None, keeps_rights: false, reason }
    }
}

/// What a provider says about a payment, after it was made sure that it is the provider who says it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProviderNews {
    /// What it calls the payment.
    Named(Reference),
    /// It has collected this.
    Collected(Money),
    /// It has not and will not.
    Declined(Decline),
    /// It has given back so much of it in all, in the minor unit of the price.
    Returned(u64),
    /// The payer wants it back from their bank, or that was decided.
    Disputed(DisputeId, Dispute),
}

/// Money for a provider to collect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Collect {
    /// Its idempotency key.
    pub attempt: AttemptId,
    /// For which order.
    pub order: OrderId,
    /// Who pays.
    pub account: AccountId,
    /// How much.
    pub price: Money,
    /// With what.
    pub method: Method,
    /// What the provider calls it, once known.
    pub reference: Option<Reference>,
    /// Whether the order does not wait for it any more, so that it is to be called off.
    pub call_off: bool,
}

/// Money for a provider to give back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GiveBack {
    /// Its idempotency key.
    pub refund: RefundId,
    /// Of which order.
    pub order: OrderId,
    /// What the provider calls the payment.
    pub reference: Reference,
    /// How much, in the minor unit of the price.
    pub minor: u64,
}

impl Ledger {
    /// Begins to have a provider collect the price. While one try is under way there is no second one.
    pub fn begin_payment(
        &mut self,
        now: Utc,
        account: &AccountId,
        order: OrderId,
        method: Method,
        new: AttemptId,
    ) -> Result<Answer<Order>, PayRefusal> {
        let found = self.order(account, &order)?;
        if self.is_paid(now, found)? || found.dues.open_attempt().is_some() {
            return Ok(Answer::unchanged(found.clone()));
        }
        if found.price.currency == crate::catalog::Currency::CREDITS {
            return Err(PayRefusal::CreditsOnly);
        }
        if found.dues.attempts().len() >= MAX_ATTEMPTS {
            return Err(PayRefusal::TooManyTries(MAX_ATTEMPTS));
        }
        let open = self.money.open_attempts.len();
        if open >= self.config.max_open_payments {
            return Err(PayRefusal::Busy(open));
        }
        let record = Record::PaymentBegun { order, attempt: new, method };
        Ok(self.enter(now, record, |ledger| ledger.orders[&order].clone()))
    }

    /// Takes what a provider says; true when it was known before.
    pub fn handle_provider(
        &mut self,
        now: Utc,
        attempt: AttemptId,
        news: ProviderNews,
    ) -> Result<Answer<bool>, ProviderRefusal> {
        let order = *self.money.attempts.get(&attempt).ok_or(ProviderRefusal::NoSuchPayment)?;
        let Order { price, dues, .. } = &self.orders[&order];
        let known = dues.attempt(&attempt).expect("the index names the order that has it");
        let record = match news {
            ProviderNews::Named(reference) => match &known.reference {
                None if self.money.references.contains_key(&reference) => return Err(ProviderRefusal::OtherReference),
                None => Some(Record::PaymentNamed { order, attempt, reference }),
                Some(first) if *first == reference => None,
                Some(_) => return Err(ProviderRefusal::OtherReference),
            },
            ProviderNews::Collected(amount) if amount != *price => return Err(ProviderRefusal::OtherAmount),
            ProviderNews::Collected(_) if known.paid => None,
            ProviderNews::Collected(_) if dues.payments().len() >= MAX_PAYMENTS => {
                return Err(ProviderRefusal::TooMany);
            }
            ProviderNews::Collected(_) => Some(Record::PaymentCollected { attempt }),
            ProviderNews::Declined(why) => known.is_open().then_some(Record::PaymentDeclined { order, attempt, why }),
            ProviderNews::Returned(total) if total > price.minor => return Err(ProviderRefusal::OtherAmount),
            ProviderNews::Returned(total) => {
                let elsewhere = total.saturating_sub(dues.asked_back_minor(&attempt));
                match elsewhere > known.returned_elsewhere_minor {
                    true if dues.refunds().len() >= MAX_REFUNDS => return Err(ProviderRefusal::TooMany),
                    true => Some(Record::ReturnedElsewhere { attempt, total_minor: elsewhere }),
                    false => None,
                }
            }
            ProviderNews::Disputed(dispute, standing) => match dues.learns_from(&dispute, standing) {
                true if !dues.disputes().contains_key(&dispute) && dues.disputes().len() >= MAX_DISPUTES => {
                    return Err(ProviderRefusal::TooMany);
                }
                true => Some(Record::Disputed { order, dispute, standing }),
                false => None,
            },
        };
        match record {
            Some(record) => Ok(self.enter(now, record, |_| false)),
            None => Ok(Answer::unchanged(true)),
        }
    }

    /// Whether a payment was begun for this order and account.
    pub fn belongs(&self, attempt: &AttemptId, order: &OrderId, account: &AccountId) -> Result<(), ProviderRefusal> {
        let known = self.money.attempts.get(attempt).ok_or(ProviderRefusal::NoSuchPayment)?;
        let fits = known == order && self.orders[known].account == *account;
        if fits { Ok(()) } else { Err(ProviderRefusal::OtherOrder) }
    }

    /// The payment that a provider calls so.
    pub fn attempt_of(&self, reference: &Reference) -> Option<AttemptId> {
        self.money.references.get(reference).copied()
    }

    /// What a provider has to be asked to collect; `None` when that is over.
    pub fn collect(&self, now: Utc, attempt: &AttemptId) -> Option<Collect> {
        let found = &self.orders[self.money.open_attempts.get(attempt).and_then(|id| self.money.attempts.get(id))?];
        let known = found.dues.attempt(attempt)?;
        let waits = self.state(now, found) == OrderState::Pending;
        Some(Collect {
            attempt: *attempt,
            order: found.id,
            account: found.account,
            price: found.price,
            method: known.method.clone(),
            reference: known.reference.clone(),
            call_off: !waits,
        })
    }

    /// What a provider has to be asked to give back; `None` when that is over.
    pub fn give_back_errand(&self, refund: &RefundId) -> Option<GiveBack> {
        let found = &self.orders[self.money.open_refunds.get(refund).and_then(|id| self.money.refunds.get(id))?];
        let known = found.dues.refund(refund)?;
        let reference = found.dues.attempt(&known.attempt?)?.reference.clone()?;
        Some(GiveBack { refund: *refund, order: found.id, reference, minor: known.minor? })
    }

    /// Payments whose fate is not known.
    pub fn open_payments(&self) -> impl Iterator<Item = AttemptId> {
        self.money.open_attempts.iter().copied()
    }

    /// Refunds that a provider has not made yet.
    pub fn open_refunds(&self) -> impl Iterator<Item = RefundId> {
        self.money.open_refunds.iter().copied()
    }

    /// Orders with money that bought nothing and is not on its way back.
    pub fn surplus_orders(&self) -> impl Iterator<Item = OrderId> {
        self.money.surplus.iter().copied()
    }

    /// Orders that wait for a provider longer than they should.
    pub fn stuck_orders(&self, now: Utc) -> impl Iterator<Item = &Order> {
        let attempts = self.money.open_attempts.iter().filter_map(move |id| {
            let order = &self.orders[&self.money.attempts[id]];
            let begun = order.dues.attempt(id)?.begun;
            (now.since(begun) > STUCK_AFTER).then_some(order)
        });
        let refunds = self.money.open_refunds.iter().filter_map(move |id| {
            let order = &self.orders[&self.money.refunds[id]];
            let begun = order.dues.refund(id)?.at;
            (now.since(begun) > STUCK_AFTER).then_some(order)
        });
        attempts.chain(refunds)
    }

    /// Refunds an order on the operator's word. The same word again, or one more about an order that is refunded
    /// whole, changes nothing.
    pub fn refund(
        &mut self,
        now: Utc,
        order: OrderId,
        wish: Refunding,
        new: RefundId,
    ) -> Result<Answer<Order>, RefundRefusal> {
        let found = self.orders.get(&order).ok_or(LookRefusal::NoSuchOrder)?;
        if let Some(known) = self.money.refunds.get(&new) {
            return if *known == order { Ok(Answer::unchanged(found.clone())) } else { Err(RefundRefusal::IdReused) };
        }
        let Refunding { minor, keeps_rights, reason } = wish;
        let price = found.price.minor;
        let left_minor = price.saturating_sub(found.dues.returned_minor(price));
        let by = RefundedBy::Operator(reason);
        let done = minor.is_none() && (found.refund().is_some() || (left_minor == 0 && found.payment().is_some()));
        if done {
            return Ok(Answer::unchanged(found.clone()));
        }
        let record = match found.payment().map(|payment| payment.means) {
            None if minor.is_some() || keeps_rights => return Err(RefundRefusal::NothingPaid),
            Some(Means::Pass(_)) if minor.is_some() || keeps_rights => return Err(RefundRefusal::WholeOnly),
            None | Some(Means::Pass(_)) => Record::OrderRefunded { order, by },
            Some(means) => {
                if found.dues.refunds().len() >= MAX_REFUNDS {
                    return Err(RefundRefusal::TooMany(MAX_REFUNDS));
                }
                let unused = match found.goods {
                    Goods::Pass(goods) => passes::worth_minor(&self.passes[&goods.pass], &found.price),
                    Goods::Title(_) => left_minor,
                };
                let minor = match minor {
                    Some(minor) if minor == 0 || minor > left_minor => {
                        return Err(RefundRefusal::TooMuch { left_minor });
                    }
                    Some(minor) => minor,
                    None if unused == 0 => return Err(RefundRefusal::NothingUnused),
                    None => unused.min(left_minor),
                };
                let attempt = match means {
                    Means::Provider(attempt) => Some(attempt),
                    Means::Pass(_) | Means::Webhook(_) | Means::Bill(_) => None,
                };
                Record::RefundBegun { order, refund: new, minor, keeps_rights, by, attempt }
            }
        };
        Ok(self.enter(now, record, |ledger| ledger.orders[&order].clone()))
    }

    /// Sends money back that bought nothing; false when there is none.
    pub fn return_surplus(&mut self, now: Utc, order: &OrderId, new: RefundId) -> Answer<bool> {
        let surplus = self.orders.get(order).and_then(|found| Some((found.dues.surplus()?, found.price.minor)));
        let Some((attempt, minor)) = surplus else { return Answer::unchanged(false) };
        let (by, attempt, keeps_rights) = (RefundedBy::Overpaid, Some(attempt), true);
        let record = Record::RefundBegun { order: *order, refund: new, minor, keeps_rights, by, attempt };
        self.enter(now, record, |_| true)
    }

    /// A provider has given money back, or will not; true when that was known.
    pub fn handle_refund(&mut self, now: Utc, refund: RefundId, made: bool) -> Answer<bool> {
        if !self.money.open_refunds.contains(&refund) {
            return Answer::unchanged(true);
        }
        let record = if made { Record::RefundMade { refund } } else { Record::RefundFailed { refund } };
        self.enter(now, record, |_| false)
    }

    /// An order, whosever it is.
    pub fn any_order(&self, order: &OrderId) -> Option<&Order> {
        self.orders.get(order)
    }

    /// Whether an order is paid, when it can be paid at all.
    fn is_paid(&self, now: Utc, order: &Order) -> Result<bool, PayRefusal> {
        match self.state(now, order) {
            OrderState::Paid | OrderState::Granted => Ok(true),
            OrderState::Refunded => Err(PayRefusal::Refunded),
            OrderState::Disputed => Err(PayRefusal::Disputed),
            OrderState::Expired => Err(PayRefusal::Expired),
            OrderState::Pending => Ok(false),
        }
    }

    pub(super) fn add_order(&mut self, order: Order) -> Result<(), Contradiction> {
        unless(self.orders.contains_key(&order.id), "the order exists already")?;
        let of_account = self.accounts.entry(order.account).or_default();
        unless(of_account.by_key.contains_key(&order.idempotency_key), "the idempotency key is used already")?;
        of_account.by_key.insert(order.idempotency_key.clone(), order.id);
        of_account.orders.push(order.id);
        self.sequence.push(order.id);
        self.orders.insert(order.id, order);
        Ok(())
    }

    /// Money has arrived; a pass that it buys comes to be.
    pub(super) fn receive(&mut self, id: OrderId, payment: Payment) -> Result<(), Contradiction> {
        let order = self.orders.get_mut(&id).ok_or(NO_ORDER)?;
        let (first, at) = (order.payment().is_none(), payment.at);
        order.dues.add_payment(payment);
        let refunded = order.refund().is_some();
        if let (true, Goods::Pass(goods)) = (first, order.goods) {
            let PassGoods { pass, holds, valid, gift } = goods;
            let owner = (!gift).then_some(order.account);
            let account = order.account;
            let mut bought = Pass::bought(holds, at + valid, id, owner);
            if refunded {
                bought.take_back();
            }
            self.money.ordered_passes.remove(&pass);
            self.passes.insert(pass, bought);
            if owner.is_some() {
                self.accounts.entry(account).or_default().passes.push(pass);
            }
        }
        self.note_surplus(id);
        Ok(())
    }

    /// Money goes or went back; a pass that it had bought is taken back, unless the right stays.
    pub(super) fn give_back(&mut self, id: OrderId, refund: Refund) -> Result<(), Contradiction> {
        let order = self.orders.get_mut(&id).ok_or(NO_ORDER)?;
        let ends = !refund.keeps_rights;
        order.dues.add_refund(refund);
        if let (true, Goods::Pass(goods)) = (ends, order.goods)
            && let Some(pass) = self.passes.get_mut(&goods.pass)
        {
            pass.take_back();
        }
        self.note_surplus(id);
        Ok(())
    }

    fn note_surplus(&mut self, id: OrderId) {
        match self.orders[&id].dues.surplus() {
            Some(_) => self.money.surplus.insert(id),
            None => self.money.surplus.remove(&id),
        };
    }

    /// Takes in a record about money.
    pub(super) fn apply_money(&mut self, at: Utc, record: Record) -> Result<(), Contradiction> {
        match record {
            Record::TimePassCreated { pass, expires } => {
                unless(self.passes.contains_key(&pass), "the pass exists already")?;
                self.passes.insert(pass, Pass::new(Holds::Time, expires));
            }
            Record::PassOrdered { order, account, idempotency_key, offer, pass, holds, valid_ms, gift, price } => {
                let taken = self.passes.contains_key(&pass) || self.money.ordered_passes.contains(&pass);
                unless(taken, "the pass exists already")?;
                let goods = PassGoods { pass, holds, valid: Duration::from_millis(valid_ms), gift };
                let (goods, policy) = (Goods::Pass(goods), Policy::UNLIMITED);
                self.add_order(Order::new(order, account, idempotency_key, goods, offer, price, policy, at))?;
                self.money.ordered_passes.insert(pass);
            }
            Record::PassClaimed { pass, account } => {
                let found = self.passes.get_mut(&pass).ok_or(NO_PASS)?;
                unless(found.owner().is_some(), "the pass belongs to someone already")?;
                found.set_owner(account);
                self.accounts.entry(account).or_default().passes.push(pass);
            }
            Record::PassVoided { pass, .. } => {
                let found = self.passes.get_mut(&pass).ok_or(NO_PASS)?;
                unless(found.is_void(), "the pass is taken back already")?;
                found.take_back();
            }
            Record::PaymentBegun { order, attempt, method } => {
                let found = self.orders.get_mut(&order).ok_or(NO_ORDER)?;
                unless(self.money.attempts.contains_key(&attempt), "the payment is begun already")?;
                unless(found.dues.attempts().len() >= MAX_ATTEMPTS, "the order has too many payments")?;
                found.dues.begin(attempt, at, method);
                self.money.attempts.insert(attempt, order);
                self.money.open_attempts.insert(attempt);
            }
            Record::PaymentNamed { attempt, reference, .. } => {
                let known = self.attempt_mut(&attempt)?;
                unless(known.reference.is_some(), "the payment has a name already")?;
                known.reference = Some(reference.clone());
                unless(self.money.references.insert(reference, attempt).is_some(), "two payments have one name")?;
            }
            Record::PaymentCollected { attempt } => {
                let known = self.attempt_mut(&attempt)?;
                unless(known.paid, "the payment is collected already")?;
                known.paid = true;
                self.money.open_attempts.remove(&attempt);
                self.receive(self.money.attempts[&attempt], Payment { at, means: Means::Provider(attempt) })?;
            }
            Record::PaymentDeclined { attempt, why, .. } => {
                let known = self.attempt_mut(&attempt)?;
                unless(!known.is_open(), "the fate of the payment is known already")?;
                known.declined = Some((at, why));
                self.money.open_attempts.remove(&attempt);
            }
            Record::OrderBilled { order } => {
                let found = self.orders.get(&order).ok_or(NO_ORDER)?;
                unless(found.payment().is_some() || found.refund().is_some(), "an order is billed that is not open")?;
                let (what, month) = (Entry::Charge(found.price.minor), Month::of(at));
                unless(Some(month) <= self.money.closed, "an order is billed in a closed month")?;
                let bill = self.money.bills.get_mut(&found.account).ok_or(Contradiction("the account has no bill"))?;
                unless(!bill.has_room(&found.price, self.money.closed), "an account owes more than it may")?;
                bill.write(Line { at, order, what });
                self.receive(order, Payment { at, means: Means::Bill(month) })?;
            }
            Record::RefundBegun { order, refund, minor, keeps_rights, by, attempt } => {
                let found = self.orders.get(&order).ok_or(NO_ORDER)?;
                unless(self.money.refunds.contains_key(&refund), "the refund is begun already")?;
                unless(found.dues.refunds().len() >= MAX_REFUNDS, "the order has too many refunds")?;
                let billed = matches!(found.payment().map(|payment| payment.means), Some(Means::Bill(_)));
                if billed && attempt.is_none() {
                    let bill = self.money.bills.get_mut(&found.account).ok_or(Contradiction("no bill"))?;
                    bill.write(Line { at, order, what: Entry::Credit(minor) });
                }
                self.money.refunds.insert(refund, order);
                let standing = match attempt {
                    Some(_) => RefundStanding::UnderWay,
                    None => RefundStanding::Done(at),
                };
                if attempt.is_some() {
                    self.money.open_refunds.insert(refund);
                }
                let (id, minor) = (Some(refund), Some(minor));
                self.give_back(order, Refund { at, by, minor, keeps_rights, standing, id, attempt })?;
            }
            Record::RefundMade { refund } => self.settle_refund(&refund, RefundStanding::Done(at))?,
            Record::RefundFailed { refund } => self.settle_refund(&refund, RefundStanding::Failed(at))?,
            Record::ReturnedElsewhere { attempt, total_minor } => {
                let known = self.attempt_mut(&attempt)?;
                unless(total_minor <= known.returned_elsewhere_minor, "less went back than before")?;
                let minor = Some(total_minor - known.returned_elsewhere_minor);
                known.returned_elsewhere_minor = total_minor;
                let order = self.money.attempts[&attempt];
                // Money that bought nothing takes no right with it when it goes back.
                let paid_with = self.orders[&order].payment().map(|payment| payment.means);
                let keeps_rights = paid_with.is_some_and(|means| means != Means::Provider(attempt));
                let (by, id, standing) = (RefundedBy::Provider, None, RefundStanding::Done(at));
                self.give_back(order, Refund { at, by, minor, keeps_rights, standing, id, attempt: Some(attempt) })?;
            }
            Record::PartReturned { order, event, minor } => {
                unless(self.events.contains_key(&event), "the message of the till is known already")?;
                self.events.insert(event, (order, TillNews::Refunded));
                let (by, standing) = (RefundedBy::Till(event), RefundStanding::Done(at));
                let (minor, keeps_rights) = (Some(minor), false);
                self.give_back(order, Refund { at, by, minor, keeps_rights, standing, id: None, attempt: None })?;
            }
            Record::Disputed { order, dispute, standing } => {
                let found = self.orders.get_mut(&order).ok_or(NO_ORDER)?;
                unless(!found.dues.learns_from(&dispute, standing), "the dispute goes back")?;
                found.dues.set_dispute(dispute, at, standing);
            }
            Record::CreditLimitSet { account, minor, currency } => {
                let limit = CreditLimit { minor, currency };
                self.money.bills.entry(account).or_insert_with(|| Bill::new(limit)).set_limit(limit);
            }
            Record::MonthsClosed { month } => {
                unless(Some(month) <= self.money.closed, "the month is closed already")?;
                self.money.closed = Some(month);
            }
            Record::CardSaved { account, card } => {
                self.money.cards.insert(account, card);
            }
            _ => return Err(Contradiction("the record is about something else")),
        }
        Ok(())
    }

    fn attempt_mut(&mut self, attempt: &AttemptId) -> Result<&mut crate::keyserver::dues::Attempt, Contradiction> {
        const NO_PAYMENT: Contradiction = Contradiction("the payment is not known");
        let order = self.money.attempts.get(attempt).ok_or(NO_PAYMENT)?;
        self.orders.get_mut(order).and_then(|order| order.dues.attempt_mut(attempt)).ok_or(NO_PAYMENT)
    }

    fn settle_refund(&mut self, refund: &RefundId, standing: RefundStanding) -> Result<(), Contradiction> {
        unless(!self.money.open_refunds.remove(refund), "the refund is not under way")?;
        let order = self.money.refunds[refund];
        let known = self.orders.get_mut(&order).and_then(|order| order.dues.refund_mut(refund)).ok_or(NO_ORDER)?;
        known.standing = standing;
        Ok(())
    }
}

const NO_PASS: Contradiction = Contradiction("the pass is not known");

#[cfg(test)]
mod tests;
