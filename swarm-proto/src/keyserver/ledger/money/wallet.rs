//! Passes that customers buy, claim and own.

use super::*;

impl Ledger {
    /// Takes an order for a pass. `new` becomes its id and `pass` its pass, unless the account has made this very
    /// request before.
    #[allow(clippy::too_many_arguments, reason = "each is one field of one record")]
    pub fn create_pass_order(
        &mut self,
        now: Utc,
        account: AccountId,
        idempotency_key: IdempotencyKey,
        offer: &PassOffer,
        gift: bool,
        pass: PassId,
        new: OrderId,
    ) -> Result<Answer<Order>, OrderRefusal> {
        if let Some(earlier) = self.order_of_key(&account, &idempotency_key) {
            let same = matches!(earlier.goods, Goods::Pass(goods) if goods.gift == gift) && earlier.offer == offer.id;
            return if same { Ok(Answer::unchanged(earlier.clone())) } else { Err(OrderRefusal::KeyReused) };
        }
        self.room_for_order(now, &account)?;
        room("passes", self.passes.len() + self.money.ordered_passes.len(), self.config.max_passes)?;
        let record = Record::PassOrdered {
            order: new,
            account,
            idempotency_key,
            offer: offer.id.clone(),
            pass,
            holds: offer.holds,
            valid_ms: u64::try_from(offer.valid.as_millis()).unwrap_or(u64::MAX),
            gift,
            price: offer.price,
        };
        Ok(self.enter(now, record, |ledger| ledger.orders[&new].clone()))
    }

    /// Sells a pass for time under the hash of a fresh code, and says when it expires.
    pub fn create_time_pass(&mut self, now: Utc, pass: PassId, valid: Duration) -> Result<Answer<Utc>, PassRefusal> {
        if !PASS_VALID.contains(&valid) {
            return Err(Invalid::new("valid_ms", "must be 1 second to 10 years").into());
        }
        room("passes", self.passes.len(), self.config.max_passes)?;
        let expires = now + valid;
        Ok(self.enter(now, Record::TimePassCreated { pass, expires }, |_| expires))
    }

    /// Takes a pass into an account, which alone may spend it from then on; gives the pass.
    pub fn claim_pass(&mut self, now: Utc, account: AccountId, pass: PassId) -> Result<Answer<Pass>, PayRefusal> {
        let found = self.usable_pass(now, &account, &pass)?;
        if found.owner().is_some() {
            return Ok(Answer::unchanged(found.clone()));
        }
        Ok(self.enter(now, Record::PassClaimed { pass, account }, |ledger| ledger.passes[&pass].clone()))
    }

    /// Takes a pass back on the operator's word; says how many credits were unused. A second word changes nothing.
    pub fn void_pass(&mut self, now: Utc, pass: PassId, reason: Reason) -> Result<Answer<u32>, VoidRefusal> {
        let found = self.passes.get(&pass).ok_or(VoidRefusal::NoSuchPass)?;
        if let Some(order) = found.bought_by() {
            return Err(VoidRefusal::Bought(order));
        }
        let left = found.credits_left();
        if found.is_void() {
            return Ok(Answer::unchanged(left));
        }
        Ok(self.enter(now, Record::PassVoided { pass, reason }, |_| left))
    }

    /// The passes of an account, as they came.
    pub fn passes_of(&self, account: &AccountId) -> impl Iterator<Item = (PassId, &Pass)> {
        let ids = self.accounts.get(account).map_or(&[][..], |account| &account.passes);
        ids.iter().map(|id| (*id, &self.passes[id]))
    }

    /// All passes from this one on, by id.
    pub fn all_passes(&self, after: Option<PassId>) -> impl Iterator<Item = (PassId, &Pass)> {
        use std::ops::Bound::{Excluded, Unbounded};
        let from = after.map_or(Unbounded, Excluded);
        self.passes.range((from, Unbounded)).map(|(id, pass)| (*id, pass))
    }

    /// A pass that this account may spend now.
    pub(in crate::keyserver::ledger) fn usable_pass(
        &self,
        now: Utc,
        account: &AccountId,
        pass: &PassId,
    ) -> Result<&Pass, PayRefusal> {
        let found = self.passes.get(pass).ok_or(PayRefusal::WrongCode)?;
        if found.owner().is_some_and(|owner| owner != *account) {
            return Err(PayRefusal::PassOfAnother);
        }
        let disputed = found.bought_by().is_some_and(|order| self.orders[&order].dues.is_disputed());
        if found.is_void() || disputed {
            return Err(PayRefusal::PassVoid);
        }
        if found.is_expired(now) {
            return Err(PayRefusal::PassExpired(found.expires()));
        }
        Ok(found)
    }
}
