//! The one owner of orders, payments, passes, deposited keys and grants.
//!
//! Every command either changes nothing and says why, or gives an [`Answer`]: at most one record, already applied to
//! the ledger, and the reply. The reply may be shown only after the record is durable. [`Ledger::apply`] is the only
//! way anything changes, live and at replay alike, and it refuses records that contradict what is known: a journal that
//! replays to its end has no grant without payment, no pass below zero and no two orders under one name. What concerns
//! providers, bills, refunds and disputes is in `ledger/money.rs`.

mod handover;
mod imports;
mod money;

mod rights;

mod spans;

use std::collections::BTreeMap;
use std::time::Duration;

use self::imports::Import;
pub use self::money::{Collect, GiveBack, PassOffer, ProviderNews, Refunding, STUCK_AFTER};
use self::rights::RevokedByDevice;
use self::spans::Previews;
pub use self::spans::{MAX_PREVIEWS_A_DAY, SpanRight};
use super::dues::{Dispute, MAX_DISPUTES, MAX_PAYMENTS, MAX_REFUNDS, RefundStanding};
use super::grants::{self, Asker, Grant, GrantRefusal, Verdict};
use super::orders::{Goods, Means, Order, OrderState, Payment, Refund};
use super::passes::{self, Holds, Pass};
use super::record::{
    self, ChainHash, DisputeId, EventId, IdempotencyKey, PassId, Reason, Record, RefundedBy, SealedKey, Terms,
};
use super::refusals::{
    AdmitRefusal, DepositRefusal, Full, LookRefusal, OrderRefusal, PassRefusal, PayRefusal, TillRefusal,
};
use crate::catalog::{CatalogEntry, Money, Offer};
use crate::id::{AccountId, DeviceId, ItemId, OrderId, PublisherId, TitleId};
use crate::invalid::Invalid;
use crate::licence::Licence;
use crate::seal::KeyCommitment;
use crate::succession::Lineage;
use crate::time::Utc;

/// Longest name of a publisher, in bytes.
pub const MAX_NAME_LEN: usize = 64;

/// Shortest and longest life of a pass.
pub const PASS_VALID: std::ops::RangeInclusive<Duration> =
    Duration::from_secs(1)..=Duration::from_secs(10 * 366 * 24 * 60 * 60);

/// The limits of a ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// How long an unpaid order stays open.
    pub open_for: Duration,
    /// For how many devices of an account the key of one order may leave.
    pub max_devices_per_order: usize,
    /// How often a device of one order may be replaced within the window; at most [`super::orders::MAX_REPLACEMENTS`].
    pub max_replacements: usize,
    /// Within which time replacements are counted.
    pub replacement_window: Duration,
    /// Orders of one account that wait for money at a time.
    pub max_open_orders_per_account: usize,
    /// Orders of one account.
    pub max_orders_per_account: usize,
    /// Orders in all: those that were paid, and those that have not been forgotten yet.
    pub max_orders: usize,
    /// Passes in all, ever.
    pub max_passes: usize,
    /// Deposited keys.
    pub max_items: usize,
    /// Admitted publishers.
    pub max_publishers: usize,
    /// Payments whose fate no provider has told yet.
    pub max_open_payments: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            open_for: Duration::from_secs(24 * 60 * 60),
            max_devices_per_order: 4,
            max_replacements: 2,
            replacement_window: Duration::from_secs(30 * 24 * 60 * 60),
            max_open_orders_per_account: 50,
            max_orders_per_account: 10_000,
            max_orders: 1_000_000,
            max_passes: 1_000_000,
            max_items: 100_000,
            max_publishers: 1_000,
            max_open_payments: 10_000,
        }
    }
}

/// The outcome of a command that was not refused.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "the record has to be made durable before the reply is shown"]
pub struct Answer<T> {
    /// What has happened now; nothing when it had happened before.
    pub record: Option<Record>,
    /// What to say once the record is durable.
    pub reply: T,
}

impl<T> Answer<T> {
    const fn unchanged(reply: T) -> Self {
        Self { record: None, reply }
    }
}

/// A record that contradicts the records before it. The journal is damaged or was not written by us: stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Contradiction(&'static str);

/// What a till says, after its signature was verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TillEvent {
    /// Which message this is.
    pub id: EventId,
    /// What has happened.
    pub what: TillNews,
    /// For which order.
    pub order: OrderId,
    /// Who paid.
    pub account: AccountId,
    /// How much.
    pub amount: Money,
}

/// What has happened at a till.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum TillNews {
    /// Money has arrived.
    Succeeded,
    /// Money went back: all of it, or the part that the amount says.
    Refunded,
    /// The payer wants the money back from their bank, or that was decided.
    Disputed(Dispute),
}

/// A key that leaves, and its licence. To be unsealed, checked, wrapped and signed by the daemon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Release {
    /// For the daemon to sign.
    pub licence: Licence,
    /// For the vault to open.
    pub key: SealedKey,
}

/// An item whose key is deposited.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// Whose it is.
    pub publisher: PublisherId,
    /// The title it belongs to.
    pub title: TitleId,
    /// What its key must hash to.
    pub commitment: KeyCommitment,
    /// How many spans it has.
    pub n_spans: u32,
    /// What can be bought.
    pub terms: Terms,
    key: SealedKey,
}

/// Everything a keyserver knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ledger {
    config: Config,
    publishers: BTreeMap<PublisherId, String>,
    items: BTreeMap<ItemId, Item>,
    orders: BTreeMap<OrderId, Order>,
    /// All orders as they were created.
    sequence: Vec<OrderId>,
    accounts: BTreeMap<AccountId, Account>,
    passes: BTreeMap<PassId, Pass>,
    events: BTreeMap<EventId, (OrderId, TillNews)>,
    money: money::Index,
    last_serial: u64,
    revoked: RevokedByDevice,
    /// The keys that have signed licences; none while there was only one.
    lineage: Option<Lineage>,
    /// Keys of studios by their place in the vault.
    imports: BTreeMap<ItemId, Import>,
    previews: Previews,
}

/// The orders of one account.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Account {
    /// As they were created.
    orders: Vec<OrderId>,
    by_key: BTreeMap<IdempotencyKey, OrderId>,
    /// Passes that belong to it, as they came.
    passes: Vec<PassId>,
}

/// How many orders stand how.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Totals {
    /// Orders by state; states without orders are left out.
    pub orders: BTreeMap<OrderState, usize>,
    /// Orders that were paid more than once.
    pub overpaid: usize,
    /// Orders that wait for a provider longer than they should.
    pub stuck: usize,
    /// Licences that were issued.
    pub grants: u64,
    /// Deposited keys.
    pub items: usize,
    /// Passes ever sold.
    pub passes: usize,
    /// Admitted publishers.
    pub publishers: usize,
}

impl Ledger {
    /// A ledger of which nothing has been written yet.
    pub const fn new(config: Config) -> Self {
        Self {
            config,
            publishers: BTreeMap::new(),
            items: BTreeMap::new(),
            orders: BTreeMap::new(),
            sequence: Vec::new(),
            accounts: BTreeMap::new(),
            passes: BTreeMap::new(),
            events: BTreeMap::new(),
            money: money::Index::new(),
            last_serial: 0,
            revoked: RevokedByDevice::new(),
            lineage: None,
            imports: BTreeMap::new(),
            previews: Previews::new(),
        }
    }

    /// Lets a publisher deposit keys; true when it was admitted before.
    pub fn admit_publisher(
        &mut self,
        now: Utc,
        publisher: PublisherId,
        name: &str,
    ) -> Result<Answer<bool>, AdmitRefusal> {
        if self.publishers.contains_key(&publisher) {
            return Ok(Answer::unchanged(true));
        }
        let name = record::line("name", name, MAX_NAME_LEN)?;
        room("publishers", self.publishers.len(), self.config.max_publishers)?;
        Ok(self.enter(now, Record::PublisherAdmitted { publisher, name }, |_| false))
    }

    /// Whether a publisher may deposit keys.
    pub fn is_admitted(&self, publisher: &PublisherId) -> bool {
        self.publishers.contains_key(publisher)
    }

    /// What a deposit of this entry would do, before anyone unwraps a key for it: `true` when the key is here already.
    pub fn expects_deposit(&self, entry: &CatalogEntry) -> Result<bool, DepositRefusal> {
        if !self.is_admitted(&entry.publisher) {
            return Err(DepositRefusal::NotAdmitted);
        }
        let Some(item) = self.items.get(&entry.item) else {
            room("deposited keys", self.items.len(), self.config.max_items)?;
            return match self.user_of(&entry.commitment) {
                Some(other) => Err(DepositRefusal::KeyUsed(other)),
                None => Ok(false),
            };
        };
        if item.publisher != entry.publisher || item.title != entry.title {
            return Err(DepositRefusal::OtherTitle);
        }
        if item.commitment != entry.commitment {
            return Err(DepositRefusal::OtherKey);
        }
        let known = item.terms.version;
        if entry.version < known || (entry.version == known && item.terms != terms_of(entry)) {
            return Err(DepositRefusal::OldVersion(known));
        }
        Ok(true)
    }

    /// Takes the key of a verified entry, or only its offers when the key is here; true in the latter case.
    pub fn deposit(&mut self, now: Utc, entry: &CatalogEntry, key: SealedKey) -> Result<Answer<bool>, DepositRefusal> {
        let already = self.expects_deposit(entry)?;
        let (item, terms) = (entry.item, terms_of(entry));
        if !already {
            let record = Record::KeyDeposited {
                item,
                publisher: entry.publisher,
                title: entry.title,
                commitment: entry.commitment,
                n_spans: entry.geometry.n_spans(),
                terms,
                key,
            };
            return Ok(self.enter(now, record, |_| false));
        }
        match self.items.get(&item).is_some_and(|known| known.terms == terms) {
            true => Ok(Answer::unchanged(true)),
            false => Ok(self.enter(now, Record::TermsChanged { item, terms }, |_| true)),
        }
    }

    /// The item whose key is deposited.
    pub fn item(&self, item: &ItemId) -> Option<&Item> {
        self.items.get(item)
    }

    /// Takes an order. `new` becomes its id, unless the account has made this very request before.
    pub fn create_order(
        &mut self,
        now: Utc,
        account: AccountId,
        idempotency_key: IdempotencyKey,
        item: ItemId,
        offer: &str,
        new: OrderId,
    ) -> Result<Answer<Order>, OrderRefusal> {
        if let Some(earlier) = self.order_of_key(&account, &idempotency_key) {
            let same = earlier.goods == Goods::Title(item) && earlier.offer.as_str() == offer;
            return if same { Ok(Answer::unchanged(earlier.clone())) } else { Err(OrderRefusal::KeyReused) };
        }
        let terms = &self.items.get(&item).ok_or(OrderRefusal::NoSuchItem)?.terms;
        let Offer { id, price, policy, .. } = terms.offer(offer).ok_or(OrderRefusal::NoSuchOffer)?.clone();
        if let Some(end) = policy.not_after.bound().filter(|end| now >= *end) {
            return Err(OrderRefusal::OfferOver(end));
        }
        self.room_for_order(now, &account)?;
        let record = Record::OrderCreated { order: new, account, idempotency_key, item, offer: id, price, policy };
        Ok(self.enter(now, record, |ledger| ledger.orders[&new].clone()))
    }

    /// Whether one more order of this account fits.
    fn room_for_order(&self, now: Utc, account: &AccountId) -> Result<(), OrderRefusal> {
        room("orders", self.orders.len(), self.config.max_orders)?;
        let orders = self.accounts.get(account).map_or(0, |account| account.orders.len());
        room("orders of this account", orders, self.config.max_orders_per_account)?;
        let open = self.open_orders(now, account);
        if open >= self.config.max_open_orders_per_account {
            return Err(OrderRefusal::TooManyOpen(open));
        }
        Ok(())
    }

    /// An order of this account.
    pub fn order(&self, account: &AccountId, order: &OrderId) -> Result<&Order, LookRefusal> {
        let order = self.orders.get(order).ok_or(LookRefusal::NoSuchOrder)?;
        if order.account == *account { Ok(order) } else { Err(LookRefusal::OtherAccount) }
    }

    /// How an order stands.
    pub fn state(&self, now: Utc, order: &Order) -> OrderState {
        order.state(now, self.config.open_for)
    }

    /// Orders of an account, the latest first. `before` continues where an earlier answer ended.
    pub fn orders_of(&self, account: &AccountId, before: Option<usize>) -> impl Iterator<Item = (usize, &Order)> {
        self.latest_first(self.accounts.get(account).map_or(&[], |account| account.orders.as_slice()), before)
    }

    /// All orders, the latest first. `before` continues where an earlier answer ended.
    pub fn all_orders(&self, before: Option<usize>) -> impl Iterator<Item = (usize, &Order)> {
        self.latest_first(&self.sequence, before)
    }

    /// Sells a pass under the hash of a fresh code, and says when it expires.
    pub fn create_pass(
        &mut self,
        now: Utc,
        pass: PassId,
        credits: u32,
        valid: Duration,
    ) -> Result<Answer<Utc>, PassRefusal> {
        if !(1..=passes::MAX_CREDITS).contains(&credits) {
            return Err(Invalid::new("credits", format!("must be 1 to {}", passes::MAX_CREDITS)).into());
        }
        if !PASS_VALID.contains(&valid) {
            return Err(Invalid::new("valid_ms", "must be 1 second to 10 years").into());
        }
        room("passes", self.passes.len(), self.config.max_passes)?;
        let expires = now + valid;
        Ok(self.enter(now, Record::PassCreated { pass, credits, expires }, |_| expires))
    }

    /// The pass with this hash.
    pub fn pass(&self, pass: &PassId) -> Option<&Pass> {
        self.passes.get(pass)
    }

    /// Pays an order with a pass. An order that is paid stays paid, whatever the code.
    pub fn pay_with_pass(
        &mut self,
        now: Utc,
        account: &AccountId,
        order: OrderId,
        pass: PassId,
    ) -> Result<Answer<Order>, PayRefusal> {
        let found = self.order(account, &order)?;
        match self.state(now, found) {
            OrderState::Paid | OrderState::Granted => return Ok(Answer::unchanged(found.clone())),
            OrderState::Refunded => return Err(PayRefusal::Refunded),
            OrderState::Disputed => return Err(PayRefusal::Disputed),
            OrderState::Expired => return Err(PayRefusal::Expired),
            OrderState::Pending => {}
        }
        if found.item().is_none() {
            return Err(PayRefusal::PassForPass);
        }
        let wallet = self.usable_pass(now, account, &pass)?;
        let credits = match wallet.holds() {
            Holds::Credits(_) => passes::cost(&found.price).ok_or(PayRefusal::TooDear)?,
            Holds::Time => 0,
        };
        let left = wallet.credits_left();
        if left < credits {
            return Err(PayRefusal::PassEmpty { left, cost: credits });
        }
        Ok(self.enter(now, Record::PassRedeemed { order, pass, credits }, |ledger| ledger.orders[&order].clone()))
    }

    /// Takes a till's word; true when it was known before.
    pub fn handle_till(&mut self, now: Utc, event: &TillEvent) -> Result<Answer<bool>, TillRefusal> {
        let order = self.orders.get(&event.order).ok_or(TillRefusal::NoSuchOrder)?;
        if order.account != event.account {
            return Err(TillRefusal::OtherAccount);
        }
        let part = event.what == TillNews::Refunded
            && event.amount.currency == order.price.currency
            && event.amount.minor < order.price.minor;
        if order.price != event.amount && !part {
            return Err(TillRefusal::OtherAmount);
        }
        if let Some(known) = self.events.get(&event.id) {
            let same = *known == (event.order, event.what);
            return if same { Ok(Answer::unchanged(true)) } else { Err(TillRefusal::EventReused) };
        }
        let (order_id, id) = (event.order, event.id);
        match event.what {
            TillNews::Disputed(dispute) if !order.dues.learns_from(&DisputeId::OF_THE_TILL, dispute) => {
                Ok(Answer::unchanged(true))
            }
            TillNews::Disputed(standing) => {
                let record = Record::Disputed { order: order_id, dispute: DisputeId::OF_THE_TILL, standing };
                Ok(self.enter(now, record, |_| false))
            }
            TillNews::Refunded if part && order.dues.refunds().len() >= MAX_REFUNDS => Err(TillRefusal::TooMany),
            TillNews::Refunded if part => {
                let record = Record::PartReturned { order: order_id, event: id, minor: event.amount.minor };
                Ok(self.enter(now, record, |_| false))
            }
            TillNews::Refunded if order.refund().is_some() => Ok(Answer::unchanged(true)),
            TillNews::Refunded => {
                let record = Record::OrderRefunded { order: order_id, by: RefundedBy::Till(id) };
                Ok(self.enter(now, record, |_| false))
            }
            TillNews::Succeeded if order.dues.payments().len() >= MAX_PAYMENTS => Err(TillRefusal::TooMany),
            TillNews::Succeeded => {
                Ok(self.enter(now, Record::PaymentReceived { order: order_id, event: id }, |_| false))
            }
        }
    }

    /// Releases the key of an order to a device.
    pub fn request_grant(&mut self, now: Utc, asker: &Asker, order: OrderId) -> Result<Answer<Release>, GrantRefusal> {
        let found = self.orders.get(&order).ok_or(GrantRefusal::NoSuchOrder)?;
        let device = asker.device;
        if found.account == asker.account && self.is_revoked(&device) {
            return Err(GrantRefusal::DeviceRevoked);
        }
        let release = |ledger: &Self| ledger.release(&order, &device);
        match grants::judge(found, asker, now, self.config.open_for, self.config.max_devices_per_order)? {
            Verdict::Again => Ok(Answer::unchanged(release(self))),
            Verdict::First => {
                let serial = self.last_serial + 1;
                Ok(self.enter(now, Record::Granted { order, device, serial }, release))
            }
            Verdict::Renewal => Ok(self.enter(now, Record::LicenceRenewed { order, device }, release)),
        }
    }

    /// Whether there is such an order, whosever it is.
    pub fn knows(&self, order: &OrderId) -> bool {
        self.orders.contains_key(order)
    }

    /// Forgets orders that came to nothing, so long after they have expired; says how many. What was asked for them
    /// under an idempotency key is forgotten with them.
    pub fn forget_unpaid(&mut self, now: Utc, after: Duration) -> Answer<usize> {
        let created_before = now.minus(self.config.open_for.saturating_add(after));
        let before = self.orders.len();
        let forgettable = |order: &Order| order.came_to_nothing() && order.created < created_before;
        if !self.orders.values().any(forgettable) {
            return Answer::unchanged(0);
        }
        self.enter(now, Record::OrdersForgotten { created_before }, |ledger| before - ledger.orders.len())
    }

    /// Every key that the vault has sealed, deposited and imported ones, each with the name it is sealed under.
    pub fn sealed_keys(&self) -> impl Iterator<Item = (&ItemId, &KeyCommitment, &SealedKey)> {
        let imports = self.imports.iter().map(|(place, import)| (place, &import.commitment, &import.key));
        self.items.iter().map(|(id, item)| (id, &item.commitment, &item.key)).chain(imports)
    }

    /// Takes a deposited key that was sealed anew.
    pub fn reseal(&mut self, now: Utc, item: ItemId, key: SealedKey) -> Answer<()> {
        match self.sealed_key_mut(&item).is_some_and(|known| *known != key) {
            true => self.enter(now, Record::KeyResealed { item, key }, |_| ()),
            false => Answer::unchanged(()),
        }
    }

    /// Notes that the operator goes on with a journal that has lost its end.
    pub fn accept_rollback(&mut self, now: Utc, records: u64, hash: ChainHash) -> Answer<()> {
        self.enter(now, Record::RollbackAccepted { records, hash }, |_| ())
    }

    /// Counts everything; takes time in proportion to the number of orders.
    pub fn totals(&self, now: Utc) -> Totals {
        let mut totals = Totals {
            grants: self.last_serial,
            items: self.items.len(),
            passes: self.passes.len(),
            publishers: self.publishers.len(),
            stuck: self.stuck_orders(now).count(),
            ..Totals::default()
        };
        for order in self.orders.values() {
            *totals.orders.entry(self.state(now, order)).or_default() += 1;
            totals.overpaid += usize::from(!order.overpayments().is_empty());
        }
        totals
    }

    /// Takes in a record that is, or is about to be, in the journal. A ledger that has refused one is of no more use.
    pub fn apply(&mut self, at: Utc, record: &Record) -> Result<(), Contradiction> {
        match record.clone() {
            Record::PublisherAdmitted { publisher, name } => {
                unless(self.publishers.contains_key(&publisher), "the publisher is admitted already")?;
                self.publishers.insert(publisher, name);
            }
            Record::KeyDeposited { item, publisher, title, commitment, n_spans, terms, key } => {
                unless(self.items.contains_key(&item), "the key of the item is deposited already")?;
                unless(!self.is_admitted(&publisher), "the publisher is not admitted")?;
                self.items.insert(item, Item { publisher, title, commitment, n_spans, terms, key });
            }
            Record::TermsChanged { item, terms } => {
                let known = self.items.get_mut(&item).ok_or(Contradiction("the item is not known"))?;
                unless(terms.version <= known.terms.version, "the terms go back to an earlier version")?;
                known.terms = terms;
            }
            Record::OrderCreated { order, account, idempotency_key, item, offer, price, policy } => {
                unless(!self.items.contains_key(&item), "the item is not known")?;
                let goods = Goods::Title(item);
                self.add_order(Order::new(order, account, idempotency_key, goods, offer, price, policy, at))?;
            }
            Record::PassCreated { pass, credits, expires } => {
                unless(self.passes.contains_key(&pass), "the pass exists already")?;
                unless(!(1..=passes::MAX_CREDITS).contains(&credits), "the pass has an impossible number of credits")?;
                self.passes.insert(pass, Pass::new(Holds::Credits(credits), expires));
            }
            Record::PassRedeemed { order, pass, credits } => {
                let found = self.orders.get_mut(&order).ok_or(NO_ORDER)?;
                let payable = found.payment().is_none() && found.refund().is_none();
                unless(!payable, "a pass pays an order that is paid or refunded")?;
                let wallet = self.passes.get_mut(&pass).ok_or(Contradiction("the pass is not known"))?;
                unless(!wallet.spend(order, credits), "the pass does not hold that many credits")?;
                if wallet.holds() == Holds::Time {
                    found.end_with(wallet.expires());
                }
                found.dues.add_payment(Payment { at, means: Means::Pass(pass) });
            }
            Record::PaymentReceived { order, event } => {
                let found = self.orders.get(&order).ok_or(NO_ORDER)?;
                unless(self.events.contains_key(&event), "the message of the till is known already")?;
                unless(found.dues.payments().len() >= MAX_PAYMENTS, "the order has too many payments")?;
                self.events.insert(event, (order, TillNews::Succeeded));
                self.receive(order, Payment { at, means: Means::Webhook(event) })?;
            }
            Record::OrderRefunded { order, by } => {
                let found = self.orders.get_mut(&order).ok_or(NO_ORDER)?;
                unless(found.refund().is_some(), "the order is refunded already")?;
                if let RefundedBy::Till(event) = by {
                    unless(self.events.contains_key(&event), "the message of the till is known already")?;
                    self.events.insert(event, (order, TillNews::Refunded));
                }
                if let Some(Payment { means: Means::Pass(pass), .. }) = found.payment() {
                    self.passes.get_mut(pass).ok_or(Contradiction("the pass is not known"))?.give_back(&order);
                }
                let (minor, keeps_rights, standing) = (None, false, RefundStanding::Done(at));
                self.give_back(order, Refund { at, by, minor, keeps_rights, standing, id: None, attempt: None })?;
            }
            Record::Granted { order, device, serial } => {
                let found = self.orders.get_mut(&order).ok_or(NO_ORDER)?;
                unless(found.payment().is_none(), "a key left for an order that is not paid")?;
                unless(found.refund().is_some(), "a key left for an order that is refunded")?;
                unless(found.dues.is_disputed(), "a key left for an order that is disputed")?;
                unless(found.grants().contains_key(&device), "the device has a grant already")?;
                unless(serial != self.last_serial + 1, "the licence has the wrong number")?;
                unless(grants::check_period(&found.policy, at).is_err(), "a key left outside the viewing period")?;
                found.add_grant(device, Grant { serial, first: at, issued: at, spans_allowed: 0 });
                self.last_serial = serial;
            }
            Record::LicenceRenewed { order, device } => {
                let found = self.orders.get_mut(&order).ok_or(NO_ORDER)?;
                unless(found.refund().is_some(), "a licence was renewed for an order that is refunded")?;
                unless(found.dues.is_disputed(), "a licence was renewed for an order that is disputed")?;
                unless(
                    grants::check_period(&found.policy, at).is_err(),
                    "a licence was renewed outside the viewing period",
                )?;
                let grant = found.grants_mut().get_mut(&device).ok_or(Contradiction("the device has no grant"))?;
                grant.issued = at;
            }
            Record::SpansAllowed { order, device, total } => self.apply_allowance(at, &order, &device, total)?,
            Record::PreviewGiven { item, device } => self.apply_preview(at, item, device)?,
            Record::FirstPlayed { order, device, first_play } => self.apply_first_play(&order, &device, first_play)?,
            Record::GrantWithdrawn { order, device, by } => self.apply_withdrawal(at, &order, device, &by)?,
            Record::DeviceRevoked { device, .. } => self.apply_device_revoked(device)?,
            Record::OrdersForgotten { created_before } => self.forget(created_before),
            Record::KeyResealed { item, key } => {
                *self.sealed_key_mut(&item).ok_or(Contradiction("the item is not known"))? = key;
            }
            Record::RollbackAccepted { .. } => {}
            Record::SigningKeyChanged { succession } => self.apply_handover(succession)?,
            Record::KeyImported { publisher, kid, commitment, key } => {
                self.apply_import(publisher, kid, commitment, key)?;
            }
            money => self.apply_money(at, money)?,
        }
        if let Some(order) = record.order() {
            self.revoke_refunded(&order);
        }
        Ok(())
    }

    fn forget(&mut self, created_before: Utc) {
        let orders = &mut self.orders;
        orders.retain(|_, order| !order.came_to_nothing() || order.created >= created_before);
        self.sequence.retain(|order| orders.contains_key(order));
        self.money.forget(orders);
        self.accounts.retain(|_, account| {
            account.orders.retain(|order| orders.contains_key(order));
            account.by_key.retain(|_, order| orders.contains_key(order));
            !account.orders.is_empty() || !account.passes.is_empty()
        });
    }

    /// Applies a record that was just decided on, and makes the reply from what is so now.
    fn enter<T>(&mut self, now: Utc, record: Record, reply: impl FnOnce(&Self) -> T) -> Answer<T> {
        self.apply(now, &record).expect("what was just decided fits what is known");
        let reply = reply(self);
        Answer { record: Some(record), reply }
    }

    fn order_of_key(&self, account: &AccountId, key: &IdempotencyKey) -> Option<&Order> {
        self.orders.get(self.accounts.get(account)?.by_key.get(key)?)
    }

    /// Orders are created in order of time, so the first that is too old ends the count.
    fn open_orders(&self, now: Utc, account: &AccountId) -> usize {
        let recent = self.orders_of(account, None).map(|(_, order)| order);
        let recent = recent.take_while(|order| now.since(order.created) < self.config.open_for);
        recent.filter(|order| self.state(now, order) == OrderState::Pending).count()
    }

    fn latest_first<'a>(
        &'a self,
        ids: &'a [OrderId],
        before: Option<usize>,
    ) -> impl Iterator<Item = (usize, &'a Order)> {
        let end = before.unwrap_or(ids.len()).min(ids.len());
        ids[..end].iter().enumerate().rev().map(|(place, id)| (place, &self.orders[id]))
    }

    fn release(&self, order: &OrderId, device: &DeviceId) -> Release {
        let order = &self.orders[order];
        let item = &self.items[&order.item().expect("a grant belongs to a title")];
        let grant = &order.grants()[device];
        Release {
            licence: grants::licence(order, *device, grant, item.commitment, item.n_spans),
            key: item.key.clone(),
        }
    }
}

const NO_ORDER: Contradiction = Contradiction("the order is not known");

fn unless(wrong: bool, why: &'static str) -> Result<(), Contradiction> {
    if wrong { Err(Contradiction(why)) } else { Ok(()) }
}

fn room(what: &'static str, now: usize, limit: usize) -> Result<(), Full> {
    if now < limit { Ok(()) } else { Err(Full { what, limit }) }
}

/// What can be bought according to an entry.
fn terms_of(entry: &CatalogEntry) -> Terms {
    let offers = if entry.withdrawn { Vec::new() } else { entry.offers.clone() };
    Terms { version: entry.version, name: entry.name.clone(), offers }
}

#[cfg(test)]
mod tests;
