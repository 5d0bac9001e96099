//! The keeper of the books: one thread that owns the ledger and the journal.
//!
//! It takes what has been asked meanwhile as one batch, lets the ledger decide on each in turn, writes all records with
//! one wait for the disk, and only then lets the answers go: nobody sees what is not durable. When the journal cannot
//! be written, everything decided on since is forgotten by replaying the journal, whoever asked is told so, and until
//! the disk takes records again, only questions that write nothing are answered.
//!
//! When the file that is written to has grown to its size, it is closed as a volume, and a thread of its own takes a
//! snapshot of what is closed, while this one goes on.

pub mod imports;
pub(crate) mod money;

pub mod rights;

mod spans;

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use daemon::health::Check;
use daemon::{Exit, Failure, Shutdown};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use swarm_proto::catalog::{CatalogEntry, Offer};
use swarm_proto::id::{AccountId, ItemId, OrderId, PublisherId, ServerId};
use swarm_proto::keyserver::grants::{Asker, GrantRefusal};
use swarm_proto::keyserver::ledger::{Answer, Config, Ledger, Release, TillEvent, Totals};
use swarm_proto::keyserver::orders::{Order, OrderState};
use swarm_proto::keyserver::record::{ChainHash, IdempotencyKey, PassId, SealedKey};
use swarm_proto::keyserver::refusals::{
    AdmitRefusal, DepositRefusal, LookRefusal, OrderRefusal, PassRefusal, PayRefusal, TillRefusal,
};
use swarm_proto::signed::Signed;
use swarm_proto::succession::{Lineage, LineageError, Succession};
use swarm_proto::time::Utc;
use tokio::sync::{mpsc, oneshot, watch};

use crate::anchor::{self, Anchor};
use crate::journal::shelf::{Shelf, Story, Unreadable};
use crate::journal::snapshot::{self, Statement};
use crate::journal::{self, Entry, Head, Journal, Link};
use crate::vault::Keys;
use crate::vault::ring::KeyRing;
use crate::{clock, crash};

/// Requests that wait for the books. The port lets 512 requests in at a time; this is never the bottleneck.
const QUEUE: usize = 512;

/// Most requests whose records share one wait for the disk.
const MAX_BATCH: usize = 256;

/// How long after the disk refused a record it is tried again.
const TRY_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// A clock this far behind the last record is worth an alarm: grants would be judged by the wrong time.
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

/// What the books are kept in, and by which rules.
pub struct Setting {
    /// Where the journal stands; there has to be one.
    pub shelf: Shelf,
    /// The limits of the ledger.
    pub config: Config,
    /// A volume is closed when it has grown to so many bytes.
    pub volume_bytes: u64,
    /// Unpaid orders are forgotten when a volume is closed so long after they expired.
    pub forget_unpaid_after: Duration,
    /// Whose journal it has to be; signs snapshots.
    pub keys: Arc<KeyRing>,
    /// The longest journal that was ever seen here.
    pub anchor: Option<Anchor>,
    /// Whether to go on although the journal has lost its end.
    pub accept_rollback: bool,
}

/// How the books stand, for those who watch: on the health page and in the metrics.
pub struct Watched {
    /// What is counted.
    pub counters: Counters,
    /// Whether records can be written.
    pub journal: Check,
    /// Whether the clock agrees with the journal.
    pub clock: Check,
}

/// Asks the keeper. Clones ask the same.
#[derive(Debug, Clone)]
pub struct Books {
    requests: mpsc::Sender<Request>,
    /// The end of the chain that is on disk.
    head: watch::Receiver<Head>,
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
    /// Replays the journal, which has to belong to the keys and to be as long as it ever was, and starts the keeper.
    pub fn open(setting: Setting, watched: Watched, shutdown: &Shutdown) -> Result<Books, Failure> {
        let begun = Instant::now();
        let Setting { shelf, config, volume_bytes, forget_unpaid_after, keys, anchor, accept_rollback } = setting;
        let unreadable = |error: Unreadable| journal::failure_of_read(&error.path, &error.error);
        let replayed = replay(&shelf, &config, anchor.as_ref()).map_err(unreadable)?;
        let Replayed { ledger, journal, story, last, at_anchor } = replayed;
        let settled = Keys::clone(&keys.now()).settled(shelf.folder(), ledger.lineage())?;
        settled.check_header(shelf.folder(), &story.live.header)?;
        keys.replace(settled);
        let server = story.live.header.server;
        let lost = anchor::check(anchor.as_ref(), server, &story.live.head, last, at_anchor.as_ref());
        let accepted = match lost {
            Err(failure) if !accept_rollback => return Err(failure),
            Err(failure) => {
                tracing::warn!(reason = %failure, "going on with a journal that has lost its end");
                anchor.map(|anchor| anchor.head)
            }
            Ok(()) => None,
        };
        let (records, elapsed) = (story.live.head.records, begun.elapsed());
        tracing::info!(
            records,
            volumes = story.volumes,
            snapshot = story.snapshot.is_some(),
            ?elapsed,
            "journal replayed"
        );
        watched.journal.ok();
        let (requests, queue) = mpsc::channel(QUEUE);
        let (stuck, stuck_now) = watch::channel(None);
        let (head, head_now) = watch::channel(story.live.head);
        let Watched { counters, journal: check, clock } = watched;
        let close_at = volume_bytes;
        let keeper = Keeper {
            ledger,
            journal,
            config,
            keys,
            volume_bytes,
            forget_unpaid_after,
            close_at,
            counters,
            check,
            clock,
            last,
            stuck,
            stuck_since: None,
            head,
            snapshot: None,
        };
        keeper.watch_clock(clock::utc());
        let shutdown = shutdown.clone();
        let keep = move || {
            if let Err(error) = keeper.keep(queue, accepted, story.volumes > 0) {
                tracing::error!(%error, "the books cannot be kept; stopping");
                shutdown.trigger(Exit::Integrity);
            }
        };
        std::thread::Builder::new()
            .name("books".to_owned())
            .spawn(keep)
            .map_err(|error| Failure::io("cannot start the thread that keeps the books", &error))?;
        Ok(Books { requests, head: head_now, stuck: stuck_now })
    }

    /// The end of the chain that is on disk, as it moves.
    pub fn head(&self) -> watch::Receiver<Head> {
        self.head.clone()
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

    /// Releases the key of an order to a device.
    pub async fn request_grant(&self, asker: Asker, order: OrderId) -> Result<Result<Release, GrantRefusal>, Closed> {
        self.decide(move |ledger, now| ledger.request_grant(now, &asker, order)).await
    }

    /// The keys that have signed licences; none while there was only one.
    pub async fn lineage(&self) -> Result<Option<Lineage>, Closed> {
        self.look(|keeper, _| keeper.ledger.lineage().cloned()).await
    }

    /// Hands over to another signing key; says which one signs from now on.
    pub async fn hand_over(&self, succession: Signed<Succession>) -> Result<Result<ServerId, LineageError>, Closed> {
        self.decide(move |ledger, now| ledger.hand_over(now, succession)).await
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
    keys: Arc<KeyRing>,
    volume_bytes: u64,
    forget_unpaid_after: Duration,
    /// At which length the file is to be closed as a volume.
    close_at: u64,
    counters: Counters,
    check: Check,
    clock: Check,
    /// When the last record was written.
    last: Utc,
    stuck: watch::Sender<Option<Arc<str>>>,
    stuck_since: Option<Instant>,
    head: watch::Sender<Head>,
    /// Takes the latest snapshot.
    snapshot: Option<JoinHandle<()>>,
}

impl Keeper {
    /// Answers until nobody can ask any more. Begins by noting what was accepted, and with the snapshot that is due.
    fn keep(
        mut self,
        mut queue: mpsc::Receiver<Request>,
        accepted: Option<Head>,
        snapshot_is_due: bool,
    ) -> Result<(), Unreadable> {
        if let Some(Head { records, hash }) = accepted {
            self.handle(vec![note_of(move |ledger, now| {
                ledger.accept_rollback(now, records, ChainHash::from_bytes(hash))
            })])?;
        }
        if snapshot_is_due {
            self.take_snapshot();
        }
        while let Some(first) = queue.blocking_recv() {
            let mut batch = vec![first];
            while batch.len() < MAX_BATCH
                && let Ok(next) = queue.try_recv()
            {
                batch.push(next);
            }
            self.handle(batch)?;
            if self.journal.bytes() >= self.close_at && self.stuck_since.is_none() {
                self.close_volume()?;
            }
        }
        Ok(())
    }

    fn handle(&mut self, batch: Vec<Request>) -> Result<(), Unreadable> {
        let may_write = self.may_write();
        let now = clock::utc();
        self.watch_clock(now);
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
        crash::point_of_records(entries, "decided");
        self.journal.append(entries)?;
        crash::point_of_records(entries, "durable");
        self.head.send_replace(self.journal.head());
        self.last = entries.last().map_or(self.last, |entry| entry.at);
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
    fn forget_what_was_not_written(&mut self) -> Result<(), Unreadable> {
        let mut ledger = Ledger::new(self.config.clone());
        self.journal.replay(|link| apply(&mut ledger, &link))?;
        self.ledger = ledger;
        Ok(())
    }

    /// Forgets what nobody asks for any more, closes the file as a volume and has a snapshot taken of it.
    fn close_volume(&mut self) -> Result<(), Unreadable> {
        let after = self.forget_unpaid_after;
        self.handle(vec![note_of(move |ledger, now| ledger.forget_unpaid(now, after))])?;
        if self.stuck_since.is_some() {
            return Ok(());
        }
        let keys = self.keys.now();
        match self.journal.close_volume(keys.lineage.founder(), keys.vault.check()) {
            Ok(()) => {
                self.close_at = self.volume_bytes;
                self.take_snapshot();
            }
            Err(error) => {
                tracing::warn!(%error, "the volume cannot be closed yet; the journal goes on in it");
                self.close_at = self.journal.bytes().saturating_add(self.volume_bytes);
            }
        }
        Ok(())
    }

    /// Takes a snapshot of what is closed, unless one is being taken; the next closing makes up for it.
    fn take_snapshot(&mut self) {
        if self.snapshot.as_ref().is_some_and(|thread| !thread.is_finished()) {
            return;
        }
        let (shelf, config, keys) = (self.journal.shelf().clone(), self.config.clone(), Arc::clone(&self.keys));
        let take = move || {
            let mut taken = 0;
            // Volumes that are closed meanwhile are its business too.
            while shelf.volumes().is_ok_and(|volumes| volumes.last().is_some_and(|volume| volume.last > taken)) {
                match snapshot_of(&shelf, &config, &keys.now()) {
                    Ok(Some((records, kept))) => {
                        tracing::info!(records, kept, "snapshot taken");
                        taken = records;
                    }
                    Ok(None) => return,
                    Err(error) => {
                        return tracing::warn!(%error, "no snapshot was taken; a start reads more of the journal");
                    }
                }
            }
        };
        match std::thread::Builder::new().name("snapshot".to_owned()).spawn(take) {
            Ok(thread) => self.snapshot = Some(thread),
            Err(error) => tracing::warn!(%error, "no snapshot was taken; a start reads more of the journal"),
        }
    }

    /// Raises the alarm while the clock is behind what was written by it.
    fn watch_clock(&self, now: Utc) {
        match self.last.since(now) {
            behind if behind > CLOCK_TOLERANCE => {
                let seconds = behind.as_secs();
                self.clock.failing(format!("time differs from the last record by {seconds} s: the clock is behind"));
            }
            _ => self.clock.ok(),
        }
    }
}

/// A decision of the keeper's own: nobody waits for an answer.
fn note_of<T>(command: impl FnOnce(&mut Ledger, Utc) -> Answer<T> + Send + 'static) -> Request {
    Request::Decide(Box::new(move |ledger, now, entries| {
        entries.extend(command(ledger, now).record.map(|record| Entry { at: now, record }));
        Box::new(|| ())
    }))
}

/// Takes a snapshot of all closed volumes: how many records it stands for, and how many of them it keeps.
pub fn snapshot_of(shelf: &Shelf, config: &Config, keys: &Keys) -> Result<Option<(u64, u64)>, snapshot::TakeError> {
    let Some(upto) = shelf.volumes()?.last().map(|volume| volume.last) else { return Ok(None) };
    let statement = |stands_for| Statement {
        server: keys.server(),
        master_check: keys.vault.check(),
        stands_for,
        taken: clock::utc(),
    };
    let sign = |end: &[u8; 32]| keys.signing.sign_bytes(snapshot::CONTEXT, end);
    let taken = snapshot::take(shelf, config, statement, &sign, upto)?;
    Ok(taken.map(|(_, kept)| (upto, kept)))
}

/// What the journal gave.
struct Replayed {
    ledger: Ledger,
    journal: Journal,
    story: Story,
    /// When the last record was written.
    last: Utc,
    /// The hash of the record that the anchor names.
    at_anchor: Option<[u8; 32]>,
}

/// Builds the ledger from the journal.
fn replay(shelf: &Shelf, config: &Config, anchor: Option<&Anchor>) -> Result<Replayed, Unreadable> {
    let mut ledger = Ledger::new(config.clone());
    let (mut last, mut at_anchor) = (Utc::EPOCH, None);
    let (journal, story) = Journal::open(shelf, |link| {
        last = last.max(link.entry.at);
        if anchor.is_some_and(|anchor| anchor.head.records == link.number) {
            at_anchor = link.hash;
        }
        apply(&mut ledger, &link)
    })?;
    Ok(Replayed { ledger, journal, story, last, at_anchor })
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
