//! Questions and commands about providers, bills, refunds and passes.

use std::collections::BTreeSet;

use swarm_proto::id::{AttemptId, RefundId};
use swarm_proto::keyserver::billing::{Bill, Entry as BillEntry, Limit as CreditLimit, Month, cell};
use swarm_proto::keyserver::cashier::Errand;
use swarm_proto::keyserver::ledger::{Collect, GiveBack, PassOffer, ProviderNews, Refunding};
use swarm_proto::keyserver::passes::Pass;
use swarm_proto::keyserver::record::{Card, Method, Reason, Reference};
use swarm_proto::keyserver::refusals::{BillRefusal, Full, ProviderRefusal, RefundRefusal, VoidRefusal};

use super::*;

/// Most passes of an account on its page, the latest first.
const MAX_PASSES_SHOWN: usize = 100;

/// Most lines of bills looked at in one question: the keeper has others to answer.
const MAX_BILL_LINES: usize = 2_000;

/// What an account can pay with, besides a pass code.
#[derive(Debug, Clone, Default)]
pub(crate) struct Wallet {
    /// Passes that belong to it, the latest first.
    pub(crate) passes: Vec<(PassId, Pass)>,
    /// A card that a provider keeps.
    pub(crate) card: Option<Card>,
    /// Its bill, and what is owed on it.
    pub(crate) bill: Option<(Bill, u64)>,
}

/// What can be bought of an item, and what people call it.
#[derive(Debug, Clone)]
pub(crate) struct Shelf {
    pub(crate) name: String,
    pub(crate) offers: Vec<Offer>,
}

/// Some lines of the bills of a month.
#[derive(Debug, Clone)]
pub(crate) struct BillPage {
    pub(crate) rows: String,
    pub(crate) lines: usize,
    pub(crate) complete: bool,
    pub(crate) closed: bool,
}

impl Books {
    pub(crate) async fn create_pass_order(
        &self,
        account: AccountId,
        key: IdempotencyKey,
        offer: PassOffer,
        gift: bool,
        pass: PassId,
        new: OrderId,
    ) -> Result<Result<Standing, OrderRefusal>, Closed> {
        self.decide_on_order(move |ledger, now| ledger.create_pass_order(now, account, key, &offer, gift, pass, new))
            .await
    }

    pub(crate) async fn begin_payment(
        &self,
        account: AccountId,
        order: OrderId,
        method: Method,
        new: AttemptId,
    ) -> Result<Result<Standing, PayRefusal>, Closed> {
        self.decide_on_order(move |ledger, now| ledger.begin_payment(now, &account, order, method, new)).await
    }

    pub(crate) async fn bill(
        &self,
        account: AccountId,
        order: OrderId,
    ) -> Result<Result<Standing, PayRefusal>, Closed> {
        self.decide_on_order(move |ledger, now| ledger.bill(now, &account, order)).await
    }

    pub(crate) async fn claim_pass(
        &self,
        account: AccountId,
        pass: PassId,
    ) -> Result<Result<Pass, PayRefusal>, Closed> {
        self.decide(move |ledger, now| ledger.claim_pass(now, account, pass)).await
    }

    /// Takes what a provider says; true when it was known before.
    pub(crate) async fn handle_provider(
        &self,
        attempt: AttemptId,
        news: ProviderNews,
    ) -> Result<Result<bool, ProviderRefusal>, Closed> {
        self.decide(move |ledger, now| ledger.handle_provider(now, attempt, news)).await
    }

    /// Whether a payment was begun for this order and account.
    pub(crate) async fn belongs(
        &self,
        attempt: AttemptId,
        order: OrderId,
        account: AccountId,
    ) -> Result<Result<(), ProviderRefusal>, Closed> {
        self.look(move |keeper, _| keeper.ledger.belongs(&attempt, &order, &account)).await
    }

    pub(crate) async fn attempt_of(&self, reference: Reference) -> Result<Option<AttemptId>, Closed> {
        self.look(move |keeper, _| keeper.ledger.attempt_of(&reference)).await
    }

    /// What providers have to be asked, and orders with money that buys nothing.
    pub(crate) async fn errands(&self) -> Result<(BTreeSet<Errand>, Vec<OrderId>), Closed> {
        self.look(|keeper, _| {
            let payments = keeper.ledger.open_payments().map(Errand::Collect);
            let refunds = keeper.ledger.open_refunds().map(Errand::GiveBack);
            (payments.chain(refunds).collect(), keeper.ledger.surplus_orders().collect())
        })
        .await
    }

    pub(crate) async fn collect(&self, attempt: AttemptId) -> Result<Option<Collect>, Closed> {
        self.look(move |keeper, now| keeper.ledger.collect(now, &attempt)).await
    }

    pub(crate) async fn give_back(&self, refund: RefundId) -> Result<Option<GiveBack>, Closed> {
        self.look(move |keeper, _| keeper.ledger.give_back_errand(&refund)).await
    }

    pub(crate) async fn return_surplus(&self, order: OrderId, new: RefundId) -> Result<bool, Closed> {
        let returned = self.decide(move |ledger, now| Ok::<_, Full>(ledger.return_surplus(now, &order, new))).await?;
        Ok(returned.unwrap_or_default())
    }

    pub(crate) async fn handle_refund(&self, refund: RefundId, made: bool) -> Result<bool, Closed> {
        let known = self.decide(move |ledger, now| Ok::<_, Full>(ledger.handle_refund(now, refund, made))).await?;
        Ok(known.unwrap_or_default())
    }

    /// Refunds an order on the operator's word.
    pub(crate) async fn refund(
        &self,
        order: OrderId,
        wish: Refunding,
        new: RefundId,
    ) -> Result<Result<Standing, RefundRefusal>, Closed> {
        self.decide_on_order(move |ledger, now| ledger.refund(now, order, wish, new)).await
    }

    /// An order, whosever it is.
    pub(crate) async fn any_order(&self, order: OrderId) -> Result<Option<Standing>, Closed> {
        self.look(move |keeper, now| keeper.ledger.any_order(&order).map(|order| standing(&keeper.ledger, now, order)))
            .await
    }

    /// Orders that wait for a provider longer than they should.
    pub(crate) async fn stuck_orders(&self) -> Result<Vec<Standing>, Closed> {
        self.look(|keeper, now| {
            let stuck = keeper.ledger.stuck_orders(now).take(MAX_PAGE);
            stuck.map(|order| standing(&keeper.ledger, now, order)).collect()
        })
        .await
    }

    pub(crate) async fn wallet(&self, account: AccountId) -> Result<Wallet, Closed> {
        self.look(move |keeper, _| {
            let ledger = &keeper.ledger;
            let mut passes: Vec<_> = ledger.passes_of(&account).map(|(id, pass)| (id, pass.clone())).collect();
            passes.reverse();
            passes.truncate(MAX_PASSES_SHOWN);
            let bill = ledger.bill_of(&account).map(|(bill, owed)| (bill.clone(), owed));
            Wallet { passes, card: ledger.card(&account).cloned(), bill }
        })
        .await
    }

    /// What can be bought of an item; `None` when its key is not here.
    pub(crate) async fn shelf(&self, item: ItemId) -> Result<Option<Shelf>, Closed> {
        self.look(move |keeper, _| {
            let terms = &keeper.ledger.item(&item)?.terms;
            Some(Shelf { name: terms.name.clone(), offers: terms.offers.clone() })
        })
        .await
    }

    pub(crate) async fn create_time_pass(
        &self,
        pass: PassId,
        valid: Duration,
    ) -> Result<Result<Utc, PassRefusal>, Closed> {
        self.decide(move |ledger, now| ledger.create_time_pass(now, pass, valid)).await
    }

    pub(crate) async fn any_pass(&self, pass: PassId) -> Result<Option<Pass>, Closed> {
        self.look(move |keeper, _| keeper.ledger.pass(&pass).cloned()).await
    }

    pub(crate) async fn all_passes(&self, after: Option<PassId>, size: usize) -> Result<Vec<(PassId, Pass)>, Closed> {
        self.look(move |keeper, _| {
            let passes = keeper.ledger.all_passes(after).take(size.clamp(1, MAX_PAGE));
            passes.map(|(id, pass)| (id, pass.clone())).collect()
        })
        .await
    }

    /// Takes a pass back; says how many credits were unused.
    pub(crate) async fn void_pass(&self, pass: PassId, reason: Reason) -> Result<Result<u32, VoidRefusal>, Closed> {
        self.decide(move |ledger, now| ledger.void_pass(now, pass, reason)).await
    }

    pub(crate) async fn set_credit_limit(
        &self,
        account: AccountId,
        limit: CreditLimit,
    ) -> Result<Result<bool, BillRefusal>, Closed> {
        self.decide(move |ledger, now| ledger.set_credit_limit(now, account, limit)).await
    }

    pub(crate) async fn close_month(&self, month: Month) -> Result<Result<bool, BillRefusal>, Closed> {
        self.decide(move |ledger, now| ledger.close_months(now, month)).await
    }

    pub(crate) async fn save_card(&self, account: AccountId, card: Card) -> Result<Result<bool, Full>, Closed> {
        self.decide(move |ledger, now| ledger.save_card(now, account, card)).await
    }

    /// Lines of a month's bills as CSV.
    pub(crate) async fn bill_page(&self, month: Month, skip: usize) -> Result<BillPage, Closed> {
        self.look(move |keeper, _| {
            let mut lines = keeper.ledger.bill_lines(month).skip(skip);
            let mut page = BillPage { rows: String::new(), lines: 0, complete: true, closed: false };
            for (account, line, order) in lines.by_ref().take(MAX_BILL_LINES) {
                let (charge, credit) = match line.what {
                    BillEntry::Charge(minor) => (minor, 0),
                    BillEntry::Credit(minor) => (0, minor),
                };
                let title =
                    order.item().and_then(|item| keeper.ledger.item(&item)).map(|item| item.terms.name.as_str());
                let cells = [
                    account.to_string(),
                    line.at.to_string(),
                    line.order.to_string(),
                    title.unwrap_or("pass").to_owned(),
                    order.offer.to_string(),
                    charge.to_string(),
                    credit.to_string(),
                    order.price.currency.to_string(),
                ];
                page.rows.push_str(&cells.map(|text| cell(&text)).join(","));
                page.rows.push_str("\r\n");
                page.lines += 1;
            }
            page.complete = lines.next().is_none();
            page.closed = Some(month) <= keeper.ledger.closed_month();
            page
        })
        .await
    }
}
