//! The keeper of the books: one thread that owns the ledger and the journal.
//!
//! It takes what has been asked meanwhile as one batch, lets the ledger decide on each in turn, writes all records with
//! one wait for the disk, and only then lets the answers go: nobody sees what is not durable. When the journal cannot
//! be written, everything decided on since is forgotten by replaying the journal, whoever asked is told so, and until
//! the disk takes records again, only questions that write nothing are answered.

pub mod rights;

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use daemon::health::Check;
use daemon::{Exit, Failure, Shutdown};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use swarm_proto::catalog::{CatalogEntry, Offer};
use swarm_proto::id::{AccountId, ItemId, OrderId, PublisherId, RefundId};
use swarm_proto::keyserver::grants::{Asker, GrantRefusal};
use swarm_proto::keyserver::ledger::{Answer, Config, Ledger, Refunding, Release, TillEvent, Totals};
use swarm_proto::keyserver::orders::{Order, OrderState};
use swarm_proto::keyserver::record::{IdempotencyKey, PassId, SealedKey};
use swarm_proto::keyserver::refusals::{
    AdmitRefusal, DepositRefusal, LookRefusal, OrderRefusal, PassRefusal, PayRefusal, RefundRefusal, TillRefusal,
};
use swarm_proto::time::Utc;
use tokio::sync::{mpsc, oneshot, watch};

use crate::clock;
use crate::journal::{self, Entry, Head, Header, Journal, Link, ReadError, Survey};

/// Requests that wait for the books. The port lets 512 requests in at a time; this is never the bottleneck.
const QUEUE: usize = 512;

/// Most requests whose records share one wait for the disk.
const MAX_BATCH: usize = 256;

/// How long after the disk refused a record it is tried again.
const TRY_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// A clock this far behind the last record is worth a warning: grants would be judged by the wrong time.
const CLOCK_TOLERANCE: Duration = Duration::from_secs(300);

/// Most orders on one page of a list.
pub const MAX_PAGE: usize = 500;

/// An order and how it stood when it was looked at.
#[derive(Debug, Clone)]
pub struct Standing {
    /// The order.
    pub order: Order,
    /// How it stood.
    pub state: OrderState,
}

/// Some orders of a list, the latest first.
#[derive(Debug, Clone, Default)]
pub struct Page {
    /// The orders.
    pub orders: Vec<Standing>,
    /// Where the next page begins, if there is one.
    pub next: Option<usize>,
}

/// What the status page tells.
#[derive(Debug, Clone)]
pub struct Overview {
    /// How much there is of everything.
    pub totals: Totals,
    /// The end of the journal's chain.
    pub head: Head,
    /// The journal's length.
    pub journal_bytes: u64,
}

/// What the books count.
#[derive(Debug, Clone)]
pub struct Counters {
    records: Counter,
    refused: Counter,
    sync_seconds: Histogram,
}

impl Counters {
    /// Adds the counters to the daemon's.
    pub fn new(metrics: &daemon::Metrics) -> Counters {
        let counters = Counters {
            records: Counter::default(),
            refused: Counter::default(),
            sync_seconds: Histogram::new(exponential_buckets(0.0005, 2.0, 12)),
        };
        metrics.register(|registry| {
            registry.register("journal_records", "Records made durable", counters.records.clone());
            registry.register(
                "journal_refused",
                "Requests refused because the journal could not be written",
                counters.refused.clone(),
            );
            registry.register(
                "journal_sync_seconds",
                "Writing a batch until it is durable",
                counters.sync_seconds.clone(),
            );
        });
        counters
    }
}

/// Why there is no answer from the books. Nothing was decided that lasts; ask again.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Closed {
    /// The journal cannot be written.
    #[error("the journal cannot be written: {0}")]
    JournalStuck(Arc<str>),
    /// The daemon is stopping.
    #[error("the keyserver is stopping")]
    Stopping,
}

impl From<Closed> for Failure {
    fn from(closed: Closed) -> Failure {
        let failure = Failure::new(
            Exit::Unreachable,
            "E-AUDIT-01",
            "audit storage full: nothing is sold until it takes records again",
        );
        match closed {
            Closed::JournalStuck(why) => {
                failure.why(why).hint("free space where the keyserver keeps its data; it goes on by itself")
            }
            Closed::Stopping => Failure::new(Exit::Unreachable, "E-KEYSERVER-01", "the keyserver is stopping")
                .hint("try again in a moment"),
        }
    }
}

/// Asks the keeper. Clones ask the same.
#[derive(Debug, Clone)]
pub struct Books {
    requests: mpsc::Sender<Request>,
    /// Why nothing can be written at the moment.
    stuck: watch::Receiver<Option<Arc<str>>>,
}

/// Lets an answer go. Dropped instead when what it says did not become durable; whoever asked finds out why.
type LetGo = Box<dyn FnOnce() + Send>;
type Decide = dyn FnOnce(&mut Ledger, Utc, &mut Vec<Entry>) -> LetGo + Send;
type Look = dyn FnOnce(&Keeper, Utc) -> LetGo + Send;

enum Request {
    /// Decides, and puts down what has to be written.
    Decide(Box<Decide>),
    /// Looks, and writes nothing.
    Look(Box<Look>),
}

impl Books {
    /// Replays the journal at `path`, which has to exist and to belong to whom `owned` says, and starts the keeper.
    pub fn open(
        path: &Path,
        config: Config,
        owned: impl FnOnce(&Header) -> Result<(), Failure>,
        counters: Counters,
        check: Check,
        shutdown: &Shutdown,
    ) -> Result<Books, Failure> {
        let begun = Instant::now();
        let (ledger, journal, survey) =
            replay(path, &config).map_err(|error| journal::failure_of_read(path, &error))?;
        owned(&survey.header)?;
        tracing::info!(records = survey.head.records, elapsed = ?begun.elapsed(), "journal replayed");
        check.ok();
        let (requests, queue) = mpsc::channel(QUEUE);
        let (stuck, stuck_now) = watch::channel(None);
        let keeper = Keeper { ledger, journal, config, counters, check, stuck, stuck_since: None };
        let shutdown = shutdown.clone();
        let keep = move || {
            if let Err(error) = keeper.keep(queue) {
                tracing::error!(%error, "the books cannot be kept; stopping");
                shutdown.trigger(Exit::Integrity);
            }
        };
        std::thread::Builder::new()
            .name("books".to_owned())
            .spawn(keep)
            .map_err(|error| Failure::io("cannot start the thread that keeps the books", &error))?;
        Ok(Books { requests, stuck: stuck_now })
    }

    /// Lets a publisher deposit keys; true when it was admitted before.
    pub async fn admit_publisher(
        &self,
        publisher: PublisherId,
        name: String,
    ) -> Result<Result<bool, AdmitRefusal>, Closed> {
        self.decide(move |ledger, now| ledger.admit_publisher(now, publisher, &name)).await
    }

    /// Whether a deposit of this entry would be taken; true when its key is here already.
    pub async fn expects_deposit(&self, entry: CatalogEntry) -> Result<Result<bool, DepositRefusal>, Closed> {
        self.look(move |keeper, _| keeper.ledger.expects_deposit(&entry)).await
    }

    /// Takes a key that was checked and sealed; true when it was here already.
    pub async fn deposit(&self, entry: CatalogEntry, key: SealedKey) -> Result<Result<bool, DepositRefusal>, Closed> {
        self.decide(move |ledger, now| ledger.deposit(now, &entry, key)).await
    }

    /// What can be bought of an item; `None` when its key is not here.
    pub async fn offers(&self, item: ItemId) -> Result<Option<Vec<Offer>>, Closed> {
        self.look(move |keeper, _| keeper.ledger.item(&item).map(|item| item.terms.offers.clone())).await
    }

    /// Takes an order; `new` is its id unless it exists already.
    pub async fn create_order(
        &self,
        account: AccountId,
        key: IdempotencyKey,
        item: ItemId,
        offer: String,
        new: OrderId,
    ) -> Result<Result<Standing, OrderRefusal>, Closed> {
        self.decide_on_order(move |ledger, now| ledger.create_order(now, account, key, item, &offer, new)).await
    }

    /// An order of an account.
    pub async fn order(&self, account: AccountId, order: OrderId) -> Result<Result<Standing, LookRefusal>, Closed> {
        self.look(move |keeper, now| {
            keeper.ledger.order(&account, &order).map(|order| standing(&keeper.ledger, now, order))
        })
        .await
    }

    /// Orders of an account, perhaps of one item only.
    pub async fn orders_of(
        &self,
        account: AccountId,
        item: Option<ItemId>,
        before: Option<usize>,
        size: usize,
    ) -> Result<Page, Closed> {
        self.look(move |keeper, now| {
            let orders = keeper.ledger.orders_of(&account, before);
            page(
                &keeper.ledger,
                now,
                orders.filter(|(_, order)| item.is_none_or(|item| order.item() == Some(item))),
                size,
            )
        })
        .await
    }

    /// All orders.
    pub async fn all_orders(&self, before: Option<usize>, size: usize) -> Result<Page, Closed> {
        self.look(move |keeper, now| page(&keeper.ledger, now, keeper.ledger.all_orders(before), size)).await
    }

    /// Sells a pass; says when it expires.
    pub async fn create_pass(
        &self,
        pass: PassId,
        credits: u32,
        valid: Duration,
    ) -> Result<Result<Utc, PassRefusal>, Closed> {
        self.decide(move |ledger, now| ledger.create_pass(now, pass, credits, valid)).await
    }

    /// What a pass holds: credits bought, credits left, and until when.
    pub async fn pass(&self, pass: PassId) -> Result<Option<(u32, u32, Utc)>, Closed> {
        self.look(move |keeper, _| {
            keeper.ledger.pass(&pass).map(|pass| (pass.credits_bought(), pass.credits_left(), pass.expires()))
        })
        .await
    }

    /// Pays an order with a pass.
    pub async fn pay_with_pass(
        &self,
        account: AccountId,
        order: OrderId,
        pass: PassId,
    ) -> Result<Result<Standing, PayRefusal>, Closed> {
        self.decide_on_order(move |ledger, now| ledger.pay_with_pass(now, &account, order, pass)).await
    }

    /// Takes a till's word; true when it was known before.
    pub async fn handle_till(&self, event: TillEvent) -> Result<Result<bool, TillRefusal>, Closed> {
        self.decide(move |ledger, now| ledger.handle_till(now, &event)).await
    }

    /// Refunds an order on the operator's word.
    pub async fn refund(
        &self,
        order: OrderId,
        wish: Refunding,
        new: RefundId,
    ) -> Result<Result<Standing, RefundRefusal>, Closed> {
        self.decide_on_order(move |ledger, now| ledger.refund(now, order, wish, new)).await
    }

    /// Releases the key of an order to a device.
    pub async fn request_grant(&self, asker: Asker, order: OrderId) -> Result<Result<Release, GrantRefusal>, Closed> {
        self.decide(move |ledger, now| ledger.request_grant(now, &asker, order)).await
    }

    /// How much there is of everything.
    pub async fn overview(&self) -> Result<Overview, Closed> {
        self.look(|keeper, now| Overview {
            totals: keeper.ledger.totals(now),
            head: keeper.journal.head(),
            journal_bytes: keeper.journal.bytes(),
        })
        .await
    }

    async fn decide_on_order<E: Send + 'static>(
        &self,
        command: impl FnOnce(&mut Ledger, Utc) -> Result<Answer<Order>, E> + Send + 'static,
    ) -> Result<Result<Standing, E>, Closed> {
        self.decide(move |ledger, now| {
            let Answer { record, reply } = command(ledger, now)?;
            Ok(Answer { record, reply: standing(ledger, now, &reply) })
        })
        .await
    }

    async fn decide<T: Send + 'static, E: Send + 'static>(
        &self,
        command: impl FnOnce(&mut Ledger, Utc) -> Result<Answer<T>, E> + Send + 'static,
    ) -> Result<Result<T, E>, Closed> {
        let (answer, answered) = oneshot::channel();
        let decide = move |ledger: &mut Ledger, now: Utc, entries: &mut Vec<Entry>| {
            let outcome = command(ledger, now).map(|Answer { record, reply }| {
                entries.extend(record.map(|record| Entry { at: now, record }));
                reply
            });
            let_go(answer, outcome)
        };
        self.ask(Request::Decide(Box::new(decide)), answered).await
    }

    async fn look<T: Send + 'static>(
        &self,
        question: impl FnOnce(&Keeper, Utc) -> T + Send + 'static,
    ) -> Result<T, Closed> {
        let (answer, answered) = oneshot::channel();
        let look = move |keeper: &Keeper, now: Utc| let_go(answer, question(keeper, now));
        self.ask(Request::Look(Box::new(look)), answered).await
    }

    async fn ask<T>(&self, request: Request, answered: oneshot::Receiver<T>) -> Result<T, Closed> {
        self.requests.send(request).await.map_err(|_| Closed::Stopping)?;
        answered.await.map_err(|_| match self.stuck.borrow().as_ref() {
            Some(why) => Closed::JournalStuck(Arc::clone(why)),
            None => Closed::Stopping,
        })
    }
}

/// Whoever asked may have gone meanwhile; then nobody misses the answer.
fn let_go<T: Send + 'static>(to: oneshot::Sender<T>, answer: T) -> LetGo {
    Box::new(move || drop(to.send(answer)))
}

/// The owner of ledger and journal.
struct Keeper {
    ledger: Ledger,
    journal: Journal,
    config: Config,
    counters: Counters,
    check: Check,
    stuck: watch::Sender<Option<Arc<str>>>,
    stuck_since: Option<Instant>,
}

impl Keeper {
    /// Answers until nobody can ask any more.
    fn keep(mut self, mut queue: mpsc::Receiver<Request>) -> Result<(), ReadError> {
        while let Some(first) = queue.blocking_recv() {
            let mut batch = vec![first];
            while batch.len() < MAX_BATCH
                && let Ok(next) = queue.try_recv()
            {
                batch.push(next);
            }
            self.handle(batch)?;
        }
        Ok(())
    }

    fn handle(&mut self, batch: Vec<Request>) -> Result<(), ReadError> {
        let may_write = self.may_write();
        let now = clock::utc();
        let (mut entries, mut answers) = (Vec::new(), Vec::with_capacity(batch.len()));
        for request in batch {
            match request {
                Request::Look(look) => answers.push(look(self, now)),
                Request::Decide(decide) if may_write => answers.push(decide(&mut self.ledger, now, &mut entries)),
                Request::Decide(_) => _ = self.counters.refused.inc(),
            }
        }
        if !entries.is_empty()
            && let Err(error) = self.write(&entries)
        {
            self.counters.refused.inc_by(answers.len() as u64);
            self.be_stuck(&error);
            return self.forget_what_was_not_written();
        }
        answers.into_iter().for_each(|let_go| let_go());
        Ok(())
    }

    fn write(&mut self, entries: &[Entry]) -> io::Result<()> {
        let begun = Instant::now();
        self.journal.append(entries)?;
        self.counters.sync_seconds.observe(begun.elapsed().as_secs_f64());
        self.counters.records.inc_by(entries.len() as u64);
        Ok(())
    }

    /// Whether records can be written; when they could not lately, tries from time to time.
    fn may_write(&mut self) -> bool {
        let Some(since) = self.stuck_since else { return true };
        if since.elapsed() < TRY_AGAIN_AFTER {
            return false;
        }
        match self.journal.probe() {
            Ok(()) => {
                tracing::info!("the journal can be written again");
                self.stuck_since = None;
                self.stuck.send_replace(None);
                self.check.ok();
                true
            }
            Err(error) => {
                self.be_stuck(&error);
                false
            }
        }
    }

    fn be_stuck(&mut self, error: &io::Error) {
        if self.stuck_since.replace(Instant::now()).is_none() {
            tracing::warn!(%error, "the journal cannot be written; nothing is sold until it can");
        }
        let why = error.to_string();
        self.check.failing(&*why);
        self.stuck.send_replace(Some(why.into()));
    }

    /// What the ledger has decided since is not on disk: it has not happened.
    fn forget_what_was_not_written(&mut self) -> Result<(), ReadError> {
        let mut ledger = Ledger::new(self.config.clone());
        self.journal.replay(|link| apply(&mut ledger, &link))?;
        self.ledger = ledger;
        Ok(())
    }
}

/// Builds the ledger from the journal.
fn replay(path: &Path, config: &Config) -> Result<(Ledger, Journal, Survey), ReadError> {
    let mut ledger = Ledger::new(config.clone());
    let mut last = Utc::EPOCH;
    let (journal, survey) = Journal::open(path, |link| {
        last = link.entry.at;
        apply(&mut ledger, &link)
    })?;
    let now = clock::utc();
    if now + CLOCK_TOLERANCE < last {
        tracing::warn!(%now, last_record = %last, "the clock is behind the journal; keys would leave by the wrong time");
    }
    Ok((ledger, journal, survey))
}

/// Holds one record against those before it.
pub fn apply(ledger: &mut Ledger, link: &Link) -> Result<(), String> {
    ledger.apply(link.entry.at, &link.entry.record).map_err(|contradiction| contradiction.to_string())
}

fn standing(ledger: &Ledger, now: Utc, order: &Order) -> Standing {
    Standing { order: order.clone(), state: ledger.state(now, order) }
}

fn page<'a>(ledger: &Ledger, now: Utc, orders: impl Iterator<Item = (usize, &'a Order)>, size: usize) -> Page {
    let mut page = Page::default();
    for (place, order) in orders {
        if page.orders.len() == size.clamp(1, MAX_PAGE) {
            page.next = Some(place + 1);
            break;
        }
        page.orders.push(standing(ledger, now, order));
    }
    page
}
