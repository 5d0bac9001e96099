//! What an account owes by its bill, month by month, and the card that is kept for it.

use super::*;

impl Ledger {
    /// Puts the price of an order on the account's bill.
    pub fn bill(&mut self, now: Utc, account: &AccountId, order: OrderId) -> Result<Answer<Order>, PayRefusal> {
        let found = self.order(account, &order)?;
        if self.is_paid(now, found)? {
            return Ok(Answer::unchanged(found.clone()));
        }
        let bill = self.money.bills.get(account).ok_or(PayRefusal::NoBill)?;
        let month = Month::of(now);
        if Some(month) <= self.money.closed {
            return Err(PayRefusal::MonthClosed(month));
        }
        if !bill.has_room(&found.price, self.money.closed) {
            let left_minor = bill.limit().minor.saturating_sub(bill.owed_after(self.money.closed));
            return Err(PayRefusal::OverLimit { left_minor });
        }
        Ok(self.enter(now, Record::OrderBilled { order }, |ledger| ledger.orders[&order].clone()))
    }

    /// The bill of an account, and what is owed on it.
    pub fn bill_of(&self, account: &AccountId) -> Option<(&Bill, u64)> {
        let bill = self.money.bills.get(account)?;
        Some((bill, bill.owed_after(self.money.closed)))
    }

    /// All lines of a month's bills.
    pub fn bill_lines(&self, month: Month) -> impl Iterator<Item = (AccountId, Line, &Order)> {
        let bills = self.money.bills.iter();
        bills.flat_map(move |(account, bill)| {
            bill.lines(month).iter().map(|line| (*account, *line, &self.orders[&line.order]))
        })
    }

    /// The last month whose bills are closed.
    pub const fn closed_month(&self) -> Option<Month> {
        self.money.closed
    }

    /// Lets an account pay by its bill, up to here; true when it was so before.
    pub fn set_credit_limit(
        &mut self,
        now: Utc,
        account: AccountId,
        limit: CreditLimit,
    ) -> Result<Answer<bool>, BillRefusal> {
        match self.money.bills.get(&account) {
            Some(bill) if bill.limit() == limit => return Ok(Answer::unchanged(true)),
            Some(bill) if bill.limit().currency != limit.currency && bill.owed_after(self.money.closed) > 0 => {
                return Err(BillRefusal::OtherCurrency);
            }
            Some(_) => {}
            None => room("accounts with a bill", self.money.bills.len(), MAX_PAYERS)?,
        }
        let record = Record::CreditLimitSet { account, minor: limit.minor, currency: limit.currency };
        Ok(self.enter(now, record, |_| false))
    }

    /// Closes the bills of a month and of all before it; true when they were closed before.
    pub fn close_months(&mut self, now: Utc, month: Month) -> Result<Answer<bool>, BillRefusal> {
        if Some(month) <= self.money.closed {
            return Ok(Answer::unchanged(true));
        }
        if !month.is_over(now) {
            return Err(BillRefusal::NotOver(month));
        }
        Ok(self.enter(now, Record::MonthsClosed { month }, |_| false))
    }

    /// Notes how an account pays with a provider; true when it was so before.
    pub fn save_card(&mut self, now: Utc, account: AccountId, card: Card) -> Result<Answer<bool>, Full> {
        match self.money.cards.get(&account) {
            Some(known) if *known == card => return Ok(Answer::unchanged(true)),
            Some(_) => {}
            None => room("accounts with a card", self.money.cards.len(), MAX_PAYERS)?,
        }
        Ok(self.enter(now, Record::CardSaved { account, card }, |_| false))
    }

    /// How an account pays with a provider.
    pub fn card(&self, account: &AccountId) -> Option<&Card> {
        self.money.cards.get(account)
    }
}
