//! The one connection to the tracker.
//!
//! Keeps the Attend stream up while the device is enrolled (jittered back-off, `tracker.retry_max` at most), opens it
//! with a Hello of everything held, sends reports, mirrors the catalog, keeps the queue and asks for plans. When the
//! tracker is away every question fails fast and nothing waits for it: the device goes on with what it knows.

mod backoff;
mod outbox;

use std::convert::Infallible;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use daemon::client;
use daemon::exit::{Exit, Failure};
use daemon::shutdown::Shutdown;
use daemon::store::{Batch, Store};
use futures::StreamExt as _;
use futures::stream::ReadyChunks;
use swarm_proto::id::{DeviceId, ItemId, ServerId, TitleId};
use swarm_proto::pb;
use swarm_proto::pb::tracker::{notice, report};
use swarm_proto::peer::uploads::Told;
use swarm_proto::ticket::TicketClass;
use swarm_proto::time::Utc;
use swarm_proto::tracker::revocations::MAX_TOLD;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, Interval, MissedTickBehavior, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Request, Status, Streaming};

use crate::assignments::Assignments;
use crate::catalog::{self, Catalog};
use crate::clock;
use crate::config;
use crate::identity::{Enrolled, Enrolment, Identity, Members};
use crate::items::Items;
use crate::records::Key;
use crate::wishes::Queue;
use backoff::Backoff;
use outbox::Outbox;

/// How long a question to the tracker may take. A plan that comes later has been replaced by Kademlia's answer.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);

/// How long the tracker may take from the opened stream to its Welcome.
const WELCOME_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a report may wait for a tracker that has stopped reading before the stream counts as lost.
const SEND_TIMEOUT: Duration = Duration::from_secs(10);

/// Reports handed to the transport and not yet taken by it. What waits longer waits in the outbox, where it coalesces.
const REPORTS_IN_FLIGHT: usize = 16;

/// Notices handed to the engine and not yet taken by it.
const NOTICES_IN_FLIGHT: usize = 64;

/// The longest URL of a keyserver that is believed.
const MAX_URL_BYTES: usize = 512;

/// Heartbeats are never closer or further apart than this, whatever the tracker asks for.
const HEARTBEAT_EVERY: Range<Duration> = Duration::from_secs(1)..Duration::from_secs(300);

/// A stream that lived this long was a good one: the next attempt follows at once.
const GOOD_STREAM: Duration = Duration::from_secs(30);

/// Bounds of a Hello, from the contract.
const MAX_ADDRESSES: usize = 16;
const MAX_HOLDINGS: usize = 100_000;

/// What the engine tells through the link besides its reports; holdings are read from `items` when a Hello is sent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HelloState {
    /// Multiaddrs this device listens on, without `/p2p`. A change is told to the tracker at once.
    pub addresses: Vec<String>,
    /// Measured, for heartbeats; `None` until something was sent.
    pub uplink_bytes_per_sec: Option<u64>,
    /// Measured, for heartbeats; `None` until something was received.
    pub downlink_bytes_per_sec: Option<u64>,
    /// What the owner allows to be sent; `None` is unlimited.
    pub upload_cap_bytes_per_sec: Option<u64>,
    /// Tells this run of the device from those before.
    pub run: u64,
    /// How much more may be preloaded here; `None` until that is known.
    pub preload_bytes: Option<u64>,
}

/// Whether the tracker is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkState {
    /// Where it is looked for.
    pub url: String,
    /// The Attend stream is open and greeted.
    pub up: bool,
    /// Since when it has been up or down.
    pub since: Utc,
    /// Why it is down; empty when up.
    pub last_error: String,
}

/// What the tracker says that the engine must hear.
#[derive(Debug, Clone)]
pub enum TrackerNotice {
    /// Replaces the plan of its item.
    Plan(pb::tracker::Plan),
    /// Prove that a chunk is here.
    Challenge(pb::tracker::Challenge),
    /// Seeds to keep connected.
    PinnedSeeds(Vec<pb::tracker::Source>),
    /// Devices that were shut out.
    Revoked(Vec<DeviceId>),
    /// The tracker can be asked for plans.
    Up,
    /// The tracker is away: sources must be found without it.
    Down,
}

/// What the link stands on.
pub struct Deps {
    /// Section `tracker` of the configuration.
    pub config: config::Tracker,
    /// Proves this device in each call.
    pub identity: Arc<Identity>,
    /// Says to which tracker this device belongs, and keeps renewals.
    pub enrolment: Enrolment,
    /// Told in each Hello.
    pub items: Items,
    /// Mirrors what the tracker publishes.
    pub catalog: Catalog,
    /// Keeps the customer's queue.
    pub queue: Queue,
    /// Keeps what shall be held besides.
    pub assignments: Assignments,
    /// Remembers where keys are sold.
    pub store: Arc<dyn Store>,
    /// Ends the link.
    pub shutdown: Shutdown,
}

/// Asks the tracker, and tells it.
#[derive(Clone)]
pub struct Handle {
    identity: Arc<Identity>,
    session: watch::Receiver<Option<Session>>,
    state: watch::Receiver<LinkState>,
    keyserver_url: watch::Receiver<Option<String>>,
    outbox: Outbox,
    queue: Queue,
}

/// A greeted tracker.
#[derive(Clone)]
struct Session {
    channel: Channel,
    tracker: ServerId,
}

/// Makes a link that is not started yet, since the engine needs its handle first. The receiver brings what the engine
/// must hear, in order.
pub async fn prepare(deps: Deps) -> anyhow::Result<(Handle, Link, mpsc::Receiver<TrackerNotice>)> {
    let members = deps.enrolment.watch();
    let url = url_of(&deps.config, members.borrow().as_deref());
    let down = LinkState { url, up: false, since: clock::utc(), last_error: "not tried yet".to_owned() };
    let remembered = deps.store.get(&Key::KeyserverUrl.bytes()).await?;
    let remembered = remembered.and_then(|url| String::from_utf8(url.value.to_vec()).ok());
    let (state, state_seen) = watch::channel(down);
    let (session, session_seen) = watch::channel(None);
    let (keyserver_url, keyserver_url_seen) = watch::channel(remembered);
    let (notices, notices_heard) = mpsc::channel(NOTICES_IN_FLIGHT);
    let (_, nothing_to_add) = watch::channel(HelloState::default());
    let outbox = Outbox::default();
    let handle = Handle {
        identity: deps.identity.clone(),
        session: session_seen,
        state: state_seen,
        keyserver_url: keyserver_url_seen,
        outbox: outbox.clone(),
        queue: deps.queue.clone(),
    };
    let link = Link { deps, members, state, session, keyserver_url, notices, hello: nothing_to_add, outbox };
    Ok((handle, link, notices_heard))
}

/// Where the tracker is looked for: as configured, else where the device enrolled, else on this machine.
pub fn url_of(config: &config::Tracker, enrolled: Option<&Enrolled>) -> String {
    match (config.url.as_str(), enrolled) {
        (config::AUTO, Some(enrolled)) => enrolled.tracker_url.clone(),
        (config::AUTO, None) => config::DEFAULT_TRACKER_URL.to_owned(),
        (configured, _) => configured.to_owned(),
    }
}

impl Handle {
    /// Who may send this item to this device, and the ticket they ask for; fails within 5 s when the tracker is away.
    pub async fn assign_sources(
        &self,
        item: ItemId,
        missing: Vec<Range<u32>>,
        class: TicketClass,
    ) -> anyhow::Result<pb::tracker::Plan> {
        let missing = missing
            .into_iter()
            .map(|range| pb::common::ChunkRange { first: range.start, count: range.end - range.start });
        let request = pb::tracker::AssignSourcesRequest {
            item: item.to_vec(),
            missing: missing.collect(),
            playing: class == TicketClass::Playing,
            class: pb::common::TicketClass::from(class).into(),
        };
        let plan = self
            .ask(request, async |channel, request| {
                pb::tracker::swarm_client::SwarmClient::new(channel).assign_sources(request).await
            })
            .await?;
        if plan.item != item.as_bytes() {
            bail!(Failure::new(Exit::Integrity, "E-TRACKER-03", "the tracker answered with the plan of another item"));
        }
        Ok(plan)
    }

    /// When a title would be complete on this device; fails within 5 s when the tracker is away.
    pub async fn estimate(&self, title: TitleId) -> anyhow::Result<pb::tracker::EstimateResponse> {
        let request = pb::tracker::EstimateRequest { title: title.to_vec(), device: Vec::new() };
        self.ask(request, async |channel, request| {
            pb::tracker::plans_client::PlansClient::new(channel).estimate(request).await
        })
        .await
    }

    /// Whether a copy may be deleted: whether the tracker knows of another one.
    pub async fn release(&self, item: ItemId, reason: pb::tracker::ReleaseReason) -> anyhow::Result<bool> {
        let request = pb::tracker::ReleaseRequest { item: item.to_vec(), reason: reason.into() };
        let answer = self
            .ask(request, async |channel, request| {
                pb::tracker::custody_client::CustodyClient::new(channel).release(request).await
            })
            .await?;
        Ok(answer.may_drop)
    }

    /// Queues a report: holdings are kept one per item (the latest), traffic is added up, all of it is bounded.
    pub fn report(&self, report: report::Report) {
        self.outbox.add(report);
    }

    /// Queues what this seed has sent under shares; `everything` if nothing that was ever told is left out.
    pub fn report_shares(&self, told: Told, everything: bool) {
        self.outbox.add_shares(told, everything);
    }

    /// Whether the tracker is there, and since when.
    pub fn up(&self) -> watch::Receiver<LinkState> {
        self.state.clone()
    }

    /// The keyserver that sells this tracker's catalog, if it has named one; remembered over restarts.
    pub fn keyserver_url(&self) -> watch::Receiver<Option<String>> {
        self.keyserver_url.clone()
    }

    /// Puts a title into the customer's queue, for this device; says when it is wanted if somebody has.
    pub async fn add_to_queue(
        &self,
        title: TitleId,
        first: bool,
        delivery: Option<pb::tracker::Delivery>,
    ) -> anyhow::Result<()> {
        let before = match (first, self.queue.state().entries.first()) {
            (true, Some(head)) => head.title.clone(),
            _ => Vec::new(),
        };
        let request = pb::tracker::AddToQueueRequest {
            account: Vec::new(),
            title: title.to_vec(),
            this_device_only: true,
            before,
            delivery,
        };
        let state = self
            .ask(request, async |channel, request| {
                pb::tracker::queue_client::QueueClient::new(channel).add_to_queue(request).await
            })
            .await?;
        self.queue.advance(state).await
    }

    /// Moves a title of the customer's queue to a new place, 0 being the first.
    pub async fn move_in_queue(&self, title: TitleId, to: u32) -> anyhow::Result<()> {
        let request =
            pb::tracker::MoveInQueueRequest { account: Vec::new(), title: title.to_vec(), to, if_version: None };
        let state = self
            .ask(request, async |channel, request| {
                pb::tracker::queue_client::QueueClient::new(channel).move_in_queue(request).await
            })
            .await?;
        self.queue.advance(state).await
    }

    /// Takes a title out of the customer's queue.
    pub async fn remove_from_queue(&self, title: TitleId) -> anyhow::Result<()> {
        let request = pb::tracker::RemoveFromQueueRequest { account: Vec::new(), title: title.to_vec() };
        let state = self
            .ask(request, async |channel, request| {
                pb::tracker::queue_client::QueueClient::new(channel).remove_from_queue(request).await
            })
            .await?;
        self.queue.advance(state).await
    }

    /// One call as this device, bounded in time.
    async fn ask<Q, A>(
        &self,
        question: Q,
        call: impl AsyncFnOnce(Channel, Request<Q>) -> Result<tonic::Response<A>, Status>,
    ) -> anyhow::Result<A> {
        let session = self.session.borrow().clone();
        let Some(Session { channel, tracker }) = session else {
            let state = self.state.borrow().clone();
            bail!(away(&state.url).why(state.last_error));
        };
        let mut request = Request::new(question);
        self.identity.sign_call(&mut request, tracker);
        match timeout(CALL_TIMEOUT, call(channel, request)).await {
            Ok(answer) => Ok(answer.map_err(Failure::from)?.into_inner()),
            Err(_) => {
                let url = self.state.borrow().url.clone();
                bail!(away(&url).why(format!("no answer within {} s", CALL_TIMEOUT.as_secs())))
            }
        }
    }
}

fn away(url: &str) -> Failure {
    Failure::new(Exit::Unreachable, "E-TRACKER-01", format!("the tracker at {url} cannot be reached"))
        .hint("check that it runs and that tracker.url is right; this device goes on with what it knows")
}

/// The task that owns the stream.
pub struct Link {
    deps: Deps,
    members: Members,
    state: watch::Sender<LinkState>,
    session: watch::Sender<Option<Session>>,
    keyserver_url: watch::Sender<Option<String>>,
    notices: mpsc::Sender<TrackerNotice>,
    hello: watch::Receiver<HelloState>,
    outbox: Outbox,
}

/// An open, greeted stream and all that is watched while it is.
struct Stretch {
    enrolled: Arc<Enrolled>,
    notices: Streaming<pb::tracker::Notice>,
    changes: Pin<Box<ReadyChunks<Streaming<pb::tracker::CatalogChange>>>>,
    reports: mpsc::Sender<pb::tracker::Report>,
    hello: watch::Receiver<HelloState>,
    told: Vec<String>,
    members: Members,
    heartbeat: Interval,
    /// The tracker has said the queue on this stream; what comes then is in order of versions.
    queue_heard: bool,
}

/// What ends a wait on an open stream.
enum Event {
    Notice(notice::Notice),
    /// From a tracker that is newer than this device.
    UnknownNotice,
    Changes(Vec<pb::tracker::CatalogChange>),
    ReportsRipe,
    HeartbeatDue,
    EngineState,
    Membership,
    Lost(anyhow::Error),
}

impl Link {
    /// Starts the link; `hello` is what the engine adds to Hello and heartbeats.
    pub fn start(self, hello: watch::Receiver<HelloState>) {
        let shutdown = self.deps.shutdown.clone();
        shutdown.spawn(Link { hello, ..self }.run());
    }

    async fn run(mut self) {
        let stop = self.deps.shutdown.token();
        if stop.run_until_cancelled(self.keep_attending()).await.is_none() {
            tracing::debug!("tracker link ended");
        }
    }

    async fn keep_attending(&mut self) {
        let mut backoff = Backoff::new(self.deps.config.retry_max.get(), daemon::secrets::random());
        loop {
            let Some(enrolled) = self.membership().await else { return };
            let began = Instant::now();
            let Err(error) = self.attend(enrolled).await;
            self.note_down(&error).await;
            if began.elapsed() >= GOOD_STREAM {
                backoff.reset();
            }
            let pause = backoff.pause();
            tracing::debug!(?pause, "tracker is tried again later");
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                Ok(()) = self.members.changed() => backoff.reset(),
            }
        }
    }

    /// Waits until this device is enrolled; `None` when the program ends.
    async fn membership(&mut self) -> Option<Arc<Enrolled>> {
        loop {
            if let Some(enrolled) = self.members.borrow_and_update().clone() {
                return Some(enrolled);
            }
            self.state.send_modify(|state| state.last_error = "this device is not enrolled".to_owned());
            self.members.changed().await.ok()?;
        }
    }

    /// Opens the stream and serves it until it is lost.
    async fn attend(&mut self, enrolled: Arc<Enrolled>) -> anyhow::Result<Infallible> {
        let url = url_of(&self.deps.config, Some(&enrolled));
        self.state.send_modify(|state| state.url.clone_from(&url));
        let channel = connect(&self.deps.config, &url).await?;
        self.meet(channel.clone(), &enrolled).await?;
        let mut stretch = self.open(channel, enrolled).await?;
        loop {
            let event = stretch.next_event(&self.outbox).await;
            self.apply(&mut stretch, event).await?;
        }
    }

    /// Checks that the tracker is the one this device belongs to, and learns where keys are sold.
    async fn meet(&mut self, channel: Channel, enrolled: &Enrolled) -> anyhow::Result<()> {
        let info = tracker_info(channel).await?;
        if info.server != enrolled.tracker.as_bytes() {
            bail!(
                Failure::new(Exit::NotAllowed, "E-TRACKER-02", "another tracker answers at this address")
                    .why(format!("this device belongs to tracker {}", enrolled.tracker))
                    .hint("correct tracker.url, or enrol at the new tracker with a new code")
            );
        }
        if !info.keyserver_url.is_empty() && self.keyserver_url.borrow().as_deref() != Some(&info.keyserver_url) {
            anyhow::ensure!(
                info.keyserver_url.len() <= MAX_URL_BYTES,
                "the tracker names a keyserver with too long an address"
            );
            let batch = Batch::new().put(Key::KeyserverUrl.bytes(), info.keyserver_url.clone());
            self.deps.store.commit(batch).await.context("failed to remember the keyserver")?;
            self.keyserver_url.send_replace(Some(info.keyserver_url));
        }
        Ok(())
    }

    async fn open(&mut self, channel: Channel, enrolled: Arc<Enrolled>) -> anyhow::Result<Stretch> {
        let mut hello = self.hello.clone();
        let told = hello.borrow_and_update().addresses.clone();
        self.outbox.restart_shares();
        let (reports, queued) = mpsc::channel(REPORTS_IN_FLIGHT);
        reports.try_send(self.hello_report(&told)).expect("a fresh channel has room");

        let mut request = Request::new(ReceiverStream::new(queued));
        self.deps.identity.sign_call(&mut request, enrolled.tracker);
        let mut client = pb::tracker::swarm_client::SwarmClient::new(channel.clone());
        let greeted = async {
            let mut notices = client.attend(request).await.map_err(Failure::from)?.into_inner();
            match notices.message().await.map_err(Failure::from)?.and_then(|notice| notice.notice) {
                Some(notice::Notice::Welcome(welcome)) => Ok((notices, welcome)),
                _ => bail!("the tracker did not begin with a Welcome"),
            }
        };
        let (notices, welcome) =
            timeout(WELCOME_TIMEOUT, greeted).await.context("the tracker did not greet in time")??;

        let after_version = self.deps.catalog.version_at(enrolled.tracker);
        let mut request = Request::new(pb::tracker::WatchCatalogRequest { after_version });
        self.deps.identity.sign_call(&mut request, enrolled.tracker);
        let mut client = pb::tracker::catalog_client::CatalogClient::new(channel.clone());
        let changes = timeout(CALL_TIMEOUT, client.watch_catalog(request))
            .await
            .context("the tracker's catalog did not open in time")?;
        let changes = changes.map_err(Failure::from)?.into_inner().ready_chunks(catalog::MAX_CHANGES);

        let mut heartbeat = tokio::time::interval(heartbeat_every(&welcome));
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.note_up(channel, &enrolled, welcome).await;
        let members = self.members.clone();
        Ok(Stretch {
            enrolled,
            notices,
            changes: Box::pin(changes),
            reports,
            hello,
            told,
            members,
            heartbeat,
            queue_heard: false,
        })
    }

    async fn apply(&mut self, stretch: &mut Stretch, event: Event) -> anyhow::Result<()> {
        match event {
            Event::Notice(notice) => self.handle_notice(stretch, notice).await,
            Event::UnknownNotice => {
                tracing::debug!("the tracker sent a notice this version does not know");
                Ok(())
            }
            Event::Changes(changes) => self.deps.catalog.accept(stretch.enrolled.tracker, changes).await,
            Event::ReportsRipe => self.send_reports(stretch).await,
            Event::HeartbeatDue => {
                let heartbeat = self.heartbeat();
                stretch.send(heartbeat).await
            }
            Event::EngineState => {
                let addresses = stretch.hello.borrow_and_update().addresses.clone();
                if addresses == stretch.told {
                    return Ok(());
                }
                let hello = self.hello_report(&addresses);
                stretch.told = addresses;
                stretch.send(hello).await
            }
            Event::Membership => match self.members.borrow_and_update().as_ref() {
                Some(enrolled) if enrolled.tracker == stretch.enrolled.tracker => Ok(()),
                _ => bail!("this device has enrolled elsewhere"),
            },
            Event::Lost(error) => Err(error),
        }
    }

    async fn handle_notice(&mut self, stretch: &mut Stretch, notice: notice::Notice) -> anyhow::Result<()> {
        match notice {
            notice::Notice::Welcome(welcome) => {
                self.tell_engine(TrackerNotice::PinnedSeeds(welcome.pinned_seeds)).await
            }
            notice::Notice::Queue(state) if stretch.queue_heard => self.deps.queue.advance(state).await?,
            notice::Notice::Queue(state) => {
                self.deps.queue.replace(state).await?;
                stretch.queue_heard = true;
            }
            notice::Notice::CatalogVersion(version) => tracing::debug!(version, "catalog has moved on"),
            notice::Notice::Revoked(revoked) => {
                let ids = revoked.devices.iter().take(MAX_TOLD).map(|id| DeviceId::try_from(id.as_slice()));
                let devices = ids.collect::<Result<_, _>>().context("the tracker sent a revoked device without id")?;
                self.tell_engine(TrackerNotice::Revoked(devices)).await;
            }
            notice::Notice::Plan(plan) => self.tell_engine(TrackerNotice::Plan(plan)).await,
            notice::Notice::Assignments(list) => self.deps.assignments.replace(list).await?,
            notice::Notice::Challenge(challenge) => self.tell_engine(TrackerNotice::Challenge(challenge)).await,
            notice::Notice::Membership(signed) => {
                self.deps
                    .enrolment
                    .renew(&self.deps.identity, &stretch.enrolled, signed)
                    .context("failed to take the renewed membership")?;
            }
        }
        Ok(())
    }

    async fn send_reports(&mut self, stretch: &mut Stretch) -> anyhow::Result<()> {
        let mut reports = self.outbox.take().into_iter();
        while let Some(report) = reports.next() {
            if let Err(error) = stretch.send(report).await {
                reports.filter_map(|report| report.report).for_each(|report| self.outbox.add(report));
                return Err(error);
            }
        }
        Ok(())
    }

    /// Everything this device holds. Holding changes still in the outbox are older than this and are dropped.
    fn hello_report(&self, addresses: &[String]) -> pb::tracker::Report {
        self.outbox.drop_holdings();
        let items = &self.deps.items;
        let holdings = items.list().into_iter().take(MAX_HOLDINGS).filter_map(|item| {
            let n_chunks = items.manifest(&item)?.geometry().n_chunks();
            Some(item_holding(&item, n_chunks, &items.holding(&item)?))
        });
        pb::tracker::Report {
            report: Some(report::Report::Hello(pb::tracker::Hello {
                addresses: addresses.iter().take(MAX_ADDRESSES).cloned().collect(),
                holdings: holdings.collect(),
                software: concat!("peer-node/", env!("CARGO_PKG_VERSION")).to_owned(),
                run: self.hello.borrow().run,
            })),
        }
    }

    fn heartbeat(&self) -> pb::tracker::Report {
        let state = self.hello.borrow();
        pb::tracker::Report {
            report: Some(report::Report::Heartbeat(pb::tracker::Heartbeat {
                uplink_bytes_per_sec: state.uplink_bytes_per_sec,
                downlink_bytes_per_sec: state.downlink_bytes_per_sec,
                upload_cap_bytes_per_sec: state.upload_cap_bytes_per_sec,
                free_bytes: self.deps.items.usage().free_bytes,
                preload_bytes: state.preload_bytes,
            })),
        }
    }

    async fn note_up(&mut self, channel: Channel, enrolled: &Enrolled, welcome: pb::tracker::Welcome) {
        tracing::info!(tracker = %enrolled.tracker, observed = welcome.observed_address, "tracker is there");
        self.session.send_replace(Some(Session { channel, tracker: enrolled.tracker }));
        self.state.send_modify(|state| {
            *state = LinkState { url: state.url.clone(), up: true, since: clock::utc(), last_error: String::new() };
        });
        self.tell_engine(TrackerNotice::PinnedSeeds(welcome.pinned_seeds)).await;
        self.tell_engine(TrackerNotice::Up).await;
    }

    async fn note_down(&mut self, error: &anyhow::Error) {
        let was_up = self.session.send_replace(None).is_some();
        self.state.send_modify(|state| {
            let since = if state.up { clock::utc() } else { state.since };
            *state = LinkState { url: state.url.clone(), up: false, since, last_error: format!("{error:#}") };
        });
        if was_up {
            tracing::warn!(reason = format!("{error:#}"), "tracker is away; going on with what is known");
            self.tell_engine(TrackerNotice::Down).await;
        }
    }

    async fn tell_engine(&self, notice: TrackerNotice) {
        if self.notices.send(notice).await.is_err() {
            tracing::debug!("nobody listens to the tracker's notices any more");
        }
    }
}

impl Stretch {
    async fn next_event(&mut self, outbox: &Outbox) -> Event {
        tokio::select! {
            notice = self.notices.message() => match notice {
                Ok(Some(pb::tracker::Notice { notice: Some(notice) })) => Event::Notice(notice),
                Ok(Some(_)) => Event::UnknownNotice,
                Ok(None) => Event::Lost(anyhow::anyhow!("the tracker closed the stream")),
                Err(status) => Event::Lost(Failure::from(status).into()),
            },
            changes = self.changes.next() => match changes.map(|changes| changes.into_iter().collect::<Result<Vec<_>, Status>>()) {
                Some(Ok(changes)) => Event::Changes(changes),
                Some(Err(status)) => Event::Lost(Failure::from(status).into()),
                None => Event::Lost(anyhow::anyhow!("the tracker closed the catalog stream")),
            },
            () = outbox.ripe() => Event::ReportsRipe,
            _ = self.heartbeat.tick() => Event::HeartbeatDue,
            Ok(()) = self.hello.changed() => Event::EngineState,
            Ok(()) = self.members.changed() => Event::Membership,
        }
    }

    async fn send(&mut self, report: pb::tracker::Report) -> anyhow::Result<()> {
        self.reports.send_timeout(report, SEND_TIMEOUT).await.map_err(|error| match error {
            mpsc::error::SendTimeoutError::Timeout(_) => anyhow::anyhow!("the tracker has stopped reading"),
            mpsc::error::SendTimeoutError::Closed(_) => anyhow::anyhow!("the tracker closed the stream"),
        })
    }
}

/// A channel to a tracker.
pub(crate) async fn connect(config: &config::Tracker, url: &str) -> Result<Channel, Failure> {
    client::connect(url, &config.trust()).await
}

/// Who a tracker says it is.
pub(crate) async fn tracker_info(channel: Channel) -> anyhow::Result<pb::tracker::TrackerInfo> {
    let mut client = pb::tracker::enrolment_client::EnrolmentClient::new(channel);
    let answer = timeout(CALL_TIMEOUT, client.get_tracker(pb::tracker::GetTrackerRequest {})).await;
    let answer = answer.context("the tracker did not say who it is in time")?;
    Ok(answer.map_err(Failure::from)?.into_inner())
}

/// A holding as the tracker's contract has it.
pub fn item_holding(item: &ItemId, n_chunks: u32, holding: &swarm_proto::bitmap::Holding) -> pb::tracker::ItemHolding {
    pb::tracker::ItemHolding { item: item.to_vec(), n_chunks, ranges: holding.to_ranges() }
}

fn heartbeat_every(welcome: &pb::tracker::Welcome) -> Duration {
    Duration::from_millis(welcome.heartbeat_every_ms).clamp(HEARTBEAT_EVERY.start, HEARTBEAT_EVERY.end)
}
