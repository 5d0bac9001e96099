//! The one owner of everything a tracker knows: one loop that waits, then answers one question at a time.
//!
//! A record is on disk before the answer that depends on it: each question that changes something first asks the
//! machines what would become of it, then commits that, then lets it be so. What devices will say again (holdings,
//! traffic, when they were seen) is written a little later, together. Others hold a [`Handle`].

mod accounts;
mod customers;
mod deliveries;
mod devices;
mod keeping;
mod pairing;
mod plans;
mod preloads;
mod publishers;
mod queues;
mod repositories;
mod sessions;
mod signins;
mod tickets;
mod titles;
mod windows;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use daemon::exit::Failure;
use daemon::health::Check;
use daemon::store::Store;
use daemon::{Exit, Health, Metrics, Shutdown};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng as _;
use swarm_proto::id::{AccountId, DeviceId, ItemId, SiteId};
use swarm_proto::membership::DeviceKind;
use swarm_proto::signed::SigningKey;
use swarm_proto::time::{Mono, Now};
use swarm_proto::tracker::accounts::{Accounts, Slot};
use swarm_proto::tracker::catalog::Catalog;
use swarm_proto::tracker::guesses::Guesses;
use swarm_proto::tracker::origin::Origin;
use swarm_proto::tracker::pairing::Pairings;
use swarm_proto::tracker::planner::{self, Planner};
use swarm_proto::tracker::queue::PriorityList;
use swarm_proto::tracker::registry::Registry;
use swarm_proto::tracker::revocations::Revocations;
use swarm_proto::tracker::signins::SignIns;
use swarm_proto::tracker::sites::Gate;
use swarm_proto::tracker::tickets::Tickets;
use tokio::sync::{mpsc, oneshot, watch};

use self::keeping::Keeping;
use self::sessions::Session;
use crate::config::Config;
use crate::records::{Delivered, Everything, Holdings, Records, Traffic};
use crate::{clock, refusal};

pub(crate) use self::queues::Change;
pub(crate) use self::sessions::Overview;
#[cfg(test)]
pub(crate) use self::sessions::TitleCopies;
pub(crate) use self::signins::{SIGN_IN_PATH, SignedIn};

/// Questions that wait for the loop. Whoever comes when it is full waits before asking, so that devices slow down
/// rather than pile up.
const QUESTIONS: usize = 256;

/// How long what devices would say again may wait to be written.
const FLUSH_AFTER: Duration = Duration::from_secs(1);

/// Pause between two batches of such writes, so that questions are answered in between.
const FLUSH_PAUSE: Duration = Duration::from_millis(20);

/// How long writing waits after the store has failed.
const FLUSH_RETRY: Duration = Duration::from_secs(5);

/// How often invitations and revocations that are over are forgotten.
const SWEEP_EVERY: Duration = Duration::from_secs(3_600);

/// Wrong enrolment codes that one address may try in [`GUESS_WINDOW`]. With 35 random bits and codes that live for
/// minutes, guessing one takes millions of addresses.
const WRONG_CODES: u32 = 20;

/// See [`WRONG_CODES`].
const GUESS_WINDOW: Duration = Duration::from_secs(600);

/// What the state is made of at the start.
pub(crate) struct Parts {
    pub(crate) config: Config,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) key: SigningKey,
    pub(crate) swarm_key: [u8; 32],
    pub(crate) health: Health,
    pub(crate) metrics: Metrics,
}

/// A question, on its way to the loop: it gets the state, answers, and is gone.
type Question = Box<dyn for<'a> FnOnce(&'a mut State, Now) -> BoxFuture<'a, ()> + Send>;

/// Asks the state. Clones ask the same state.
#[derive(Clone)]
pub(crate) struct Handle {
    questions: mpsc::Sender<Question>,
    catalog_version: watch::Receiver<u64>,
}

impl Handle {
    /// The version of the catalog, and when it changes.
    pub(crate) fn catalog_version(&self) -> watch::Receiver<u64> {
        self.catalog_version.clone()
    }

    /// Asks something that may have to be written down first.
    async fn ask<T: Send + 'static>(
        &self,
        question: impl for<'a> FnOnce(&'a mut State, Now) -> BoxFuture<'a, Result<T, Failure>> + Send + 'static,
    ) -> Result<T, Failure> {
        let (answer, answered) = oneshot::channel();
        let question: Question = Box::new(move |state, now| {
            // Whoever asked may have stopped waiting; what was decided stays decided.
            question(state, now).map(|decided| drop(answer.send(decided))).boxed()
        });
        self.questions.send(question).await.map_err(|_| refusal::stopping())?;
        answered.await.map_err(|_| refusal::stopping())?
    }

    /// Asks something that is answered from memory.
    async fn look<T: Send + 'static>(
        &self,
        question: impl FnOnce(&mut State, Now) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, Failure> {
        self.ask(move |state, now| std::future::ready(question(state, now)).boxed()).await
    }
}

/// What a tracker counts.
#[derive(Debug, Clone, Default)]
struct Counters {
    devices_online: Family<[(&'static str, &'static str); 1], Gauge>,
    titles: Gauge,
    plans: Family<[(&'static str, &'static str); 1], Counter>,
    received_bytes: Family<[(&'static str, &'static str); 1], Counter>,
    unwritten_records: Gauge,
    traffic_mismatches: Gauge,
}

impl Counters {
    fn new(metrics: &Metrics) -> Counters {
        let counters = Counters::default();
        metrics.register(|registry| {
            let online = counters.devices_online.clone();
            registry.register("devices_online", "Devices whose stream is open, by kind", online);
            registry.register("titles", "Titles of the catalog", counters.titles.clone());
            registry.register("plans", "Plans drawn, by whether somebody sends", counters.plans.clone());
            let received = counters.received_bytes.clone();
            registry.register("received_bytes", "Bytes that devices say to have received, by source", received);
            let mismatches = counters.traffic_mismatches.clone();
            let help = "Pairs of devices that disagree about what one has sent to the other";
            registry.register("traffic_mismatches", help, mismatches);
            let unwritten = counters.unwritten_records.clone();
            registry.register(
                "unwritten_records",
                "Holdings and other soft records that are not written yet",
                unwritten,
            );
        });
        counters
    }
}

/// Everything a tracker knows.
pub(crate) struct State {
    config: Config,
    default_site: SiteId,
    store: Arc<dyn Store>,
    key: SigningKey,
    swarm_key: [u8; 32],
    rng: ChaCha20Rng,
    catalog: Catalog,
    registry: Registry,
    queues: BTreeMap<AccountId, PriorityList>,
    planner: Planner,
    gate: Gate,
    /// How often each site that was described has been.
    site_versions: BTreeMap<SiteId, u64>,
    guesses: Guesses<std::net::IpAddr>,
    /// Codes that boxes have asked for; each counts like a wrong guess.
    code_requests: Guesses<std::net::IpAddr>,
    pairings: Pairings,
    signins: SignIns,
    revocations: Revocations,
    sessions: BTreeMap<DeviceId, Session>,
    last_session: u64,
    tickets: Tickets,
    accounts: Accounts,
    traffic: Traffic,
    keeping: Keeping,
    /// The number of the next delivery of a customer, if it is known.
    delivery_numbers: BTreeMap<AccountId, u64>,
    unwritten: Unwritten,
    sweep_at: Mono,
    catalog_version: watch::Sender<u64>,
    counters: Counters,
    writing: Check,
}

/// What will be written a little later.
#[derive(Debug, Default)]
struct Unwritten {
    holdings: BTreeSet<(DeviceId, ItemId)>,
    seen: BTreeSet<DeviceId>,
    /// Tickets whose shares have changed or are over, and sites whose hour has.
    grants: BTreeSet<u64>,
    hours: BTreeSet<SiteId>,
    /// Sums of the accounts.
    slots: BTreeSet<Slot>,
    /// Sites in whose windows something has arrived.
    sites: BTreeSet<SiteId>,
    /// Titles that have arrived, the oldest first.
    deliveries: VecDeque<(AccountId, Delivered)>,
    traffic: bool,
    write_at: Option<Mono>,
}

impl Unwritten {
    fn len(&self) -> i64 {
        let sets = self.holdings.len() + self.seen.len() + self.grants.len() + self.hours.len();
        let more = self.slots.len() + self.sites.len() + self.deliveries.len();
        i64::try_from(sets + more).unwrap_or(i64::MAX) + i64::from(self.traffic)
    }

    fn is_due_by(&mut self, at: Mono) {
        self.write_at.get_or_insert(at);
    }
}

/// Reads what was written down and starts the loop.
pub(crate) async fn start(parts: Parts, shutdown: &Shutdown) -> Result<Handle, Failure> {
    let everything = Everything::load(&*parts.store).await?;
    let (version_says, catalog_version) = watch::channel(0);
    let mut state = State::new(parts, everything, version_says)?;
    state.read_holdings().await?;
    let (questions, asked) = mpsc::channel(QUESTIONS);
    shutdown.spawn(state.run(asked, shutdown.clone()));
    Ok(Handle { questions, catalog_version })
}

impl State {
    fn new(parts: Parts, everything: Everything, catalog_version: watch::Sender<u64>) -> Result<State, Failure> {
        let now = clock::now();
        let default_site = SiteId::new(&parts.config.default_site)
            .map_err(|error| Failure::new(Exit::Config, "E-CONFIG-10", "default_site is not a site").why(error))?;
        let writing = parts.health.check("store", "free some disk space, or check the disk and restart the tracker");
        writing.ok();
        let mut origin = Origin::new(parts.config.origin.ledger());
        everything.origin_hours.into_iter().for_each(|(site, hour)| origin.restore_hour(site, hour));
        everything.grants.into_iter().for_each(|grant| origin.restore_grant(grant));
        let mut accounts = Accounts::default();
        everything.accounts.into_iter().for_each(|(slot, totals)| accounts.restore(slot, totals));
        let mut state = State {
            default_site,
            rng: ChaCha20Rng::from_seed(*daemon::secrets::random()),
            planner: Planner::new(*daemon::secrets::random(), parts.config.plans.planner()),
            keeping: Keeping::new(&parts.config, *daemon::secrets::random()),
            config: parts.config,
            store: parts.store,
            key: parts.key,
            swarm_key: parts.swarm_key,
            catalog: Catalog::default(),
            registry: Registry::default(),
            queues: everything.queues.into_iter().collect(),
            gate: Gate::new(),
            site_versions: BTreeMap::new(),
            guesses: Guesses::new(WRONG_CODES, GUESS_WINDOW),
            code_requests: Guesses::new(WRONG_CODES, GUESS_WINDOW),
            pairings: Pairings::default(),
            signins: SignIns::default(),
            revocations: Revocations::default(),
            sessions: BTreeMap::new(),
            last_session: 0,
            tickets: Tickets::new(origin, *daemon::secrets::random()),
            accounts,
            traffic: everything.traffic,
            delivery_numbers: BTreeMap::new(),
            unwritten: Unwritten::default(),
            sweep_at: now.mono + SWEEP_EVERY,
            catalog_version,
            counters: Counters::new(&parts.metrics),
            writing,
        };
        let (customers, devices, titles) = (everything.customers, everything.devices, everything.titles);
        tracing::info!(customers = customers.len(), devices = devices.len(), titles = titles.len(), "state loaded");
        customers.into_iter().for_each(|customer| state.registry.insert_customer(customer));
        everything.invites.into_iter().for_each(|invite| state.registry.insert_invite(invite));
        for (publisher, name) in everything.publishers {
            state.registry.insert_publisher(publisher, name);
        }
        for device in devices {
            let (id, revoked) = (device.device, device.revoked);
            state.insert_device(now, device, everything.draining.contains(&id));
            if revoked {
                state.planner.handle_revoked(now, id);
                state.keep_revoked(now, id);
            }
        }
        titles.into_iter().for_each(|listing| state.insert_title(now, listing));
        for (device, until) in everything.revocations {
            state.revocations.insert(device, until);
        }
        for described in everything.sites {
            state.site_versions.insert(described.site.id().clone(), described.version);
            state.gate.handle_site(now, described.site);
        }
        for (site, used) in everything.site_use {
            state.gate.restore_used(now, &site, used);
        }
        state.perform_gate();
        state.tell_planner_all();
        state.keep_again(now, everything.targets);
        Ok(state)
    }

    /// What devices held when they were last heard of.
    async fn read_holdings(&mut self) -> Result<(), Failure> {
        let (now, mut holdings) = (clock::now(), Holdings::read(self.store.clone()));
        while let Some(some) = holdings.next().await? {
            for (device, item, holding) in some {
                if self.registry.device(&device).is_some() {
                    self.planner.handle_holding(now, device, item, &holding);
                    self.keep_holding(now, device, item);
                } else {
                    // Its customer was deleted and the tracker ended before this was.
                    self.unwritten.holdings.insert((device, item));
                    self.unwritten.is_due_by(now.mono);
                }
            }
        }
        Ok(())
    }

    async fn run(mut self, mut asked: mpsc::Receiver<Question>, shutdown: Shutdown) {
        loop {
            let deadline = clock::instant(self.next_timeout());
            let question = tokio::select! {
                question = asked.recv() => question,
                () = tokio::time::sleep_until(deadline) => None,
                () = shutdown.requested() => break,
            };
            let now = clock::now();
            if let Some(question) = question {
                question(&mut self, now).await;
            }
            self.handle_timeout(clock::now()).await;
            self.perform(clock::now()).await;
            self.counters.unwritten_records.set(self.unwritten.len());
        }
        self.close_sessions();
        while self.unwritten.write_at.is_some() && self.write_later_things(clock::now()).await.is_ok() {}
    }

    fn next_timeout(&self) -> Mono {
        let machines = [
            self.planner.poll_timeout(),
            self.gate.poll_timeout(),
            self.accounts.poll_timeout(),
            self.keeping.poll_timeout(),
            self.unwritten.write_at,
        ];
        machines.into_iter().flatten().fold(self.sweep_at, Mono::min)
    }

    async fn handle_timeout(&mut self, now: Now) {
        self.planner.handle_timeout(now);
        if self.accounts.poll_timeout().is_some_and(|at| at <= now.mono) {
            self.compare_accounts(now);
        }
        self.gate.handle_timeout(now);
        self.keep_on(now);
        if self.unwritten.write_at.is_some_and(|at| at <= now.mono)
            && let Err(failure) = self.write_later_things(now).await
        {
            tracing::warn!(%failure, "holdings could not be written; trying again");
            self.unwritten.write_at = Some(now.mono + FLUSH_RETRY);
        }
        if self.sweep_at <= now.mono {
            self.sweep_at = now.mono + SWEEP_EVERY;
            self.sweep_invites(now).await;
            self.sweep_revocations(now).await;
        }
    }

    /// Does what the machines want done.
    async fn perform(&mut self, now: Now) {
        self.perform_gate();
        while let Some(action) = self.planner.poll_action() {
            match action {
                planner::Action::Push { wish, plan } => self.push_plan(&wish, plan).await,
                planner::Action::Silent(device) => self.close_silent(now, &device),
            }
        }
        self.perform_keeping(now);
    }

    /// Makes records durable. Nothing has changed if this fails.
    async fn commit(&self, records: Records) -> Result<(), Failure> {
        let committed = records.commit(&*self.store).await;
        match &committed {
            Ok(()) => self.writing.ok(),
            Err(failure) => self.writing.failing(failure.to_string()),
        }
        committed
    }

    /// Writes a batch of what may be written later; more follows after a pause if there is more.
    async fn write_later_things(&mut self, now: Now) -> Result<(), Failure> {
        self.write_deliveries().await?;
        let (mut records, grants, hours) = self.origin_records(Records::new());
        let slots;
        (records, slots) = self.account_records(records);
        let mut written = Vec::new();
        for (device, item) in &self.unwritten.holdings {
            if !records.has_room() {
                break;
            }
            let held = self.planner.holding(device, item).map(|held| held.to_holding());
            records = records.holding(device, item, held.as_ref());
            written.push((*device, *item));
        }
        let mut seen = Vec::new();
        for device in &self.unwritten.seen {
            if !records.has_room() {
                break;
            }
            if let Some(known) = self.registry.device(device) {
                records = records.seen(device, known.last_seen);
            }
            seen.push(*device);
        }
        let mut sites = Vec::new();
        for site in &self.unwritten.sites {
            if !records.has_room() {
                break;
            }
            records = records.site_use(site, self.gate.used(site));
            sites.push(site.clone());
        }
        let traffic = self.unwritten.traffic && records.has_room();
        if traffic {
            records = records.traffic(&self.traffic);
        }
        if !records.is_empty() {
            self.commit(records.relaxed()).await?;
        }
        for serial in &grants {
            self.unwritten.grants.remove(serial);
        }
        for site in &hours {
            self.unwritten.hours.remove(site);
        }
        for slot in &slots {
            self.unwritten.slots.remove(slot);
        }
        for pair in &written {
            self.unwritten.holdings.remove(pair);
        }
        for device in &seen {
            self.unwritten.seen.remove(device);
        }
        for site in &sites {
            self.unwritten.sites.remove(site);
        }
        self.unwritten.traffic &= !traffic;
        self.unwritten.write_at = (self.unwritten.len() > 0).then(|| now.mono + FLUSH_PAUSE);
        Ok(())
    }

    fn count_online(&self) {
        let mut boxes = 0;
        let mut seeds = 0;
        for device in self.sessions.keys() {
            match self.registry.device(device).map(|it| it.kind) {
                Some(DeviceKind::Seed) => seeds += 1,
                _ => boxes += 1,
            }
        }
        self.counters.devices_online.get_or_create(&[("kind", "box")]).set(boxes);
        self.counters.devices_online.get_or_create(&[("kind", "seed")]).set(seeds);
    }
}
