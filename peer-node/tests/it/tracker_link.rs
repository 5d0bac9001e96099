//! The link to the tracker, over real sockets, against a tracker that does as it is told.

use std::sync::Arc;
use std::time::Duration;

use daemon::exit::{Exit, Failure};
use daemon::shutdown::Shutdown;
use daemon::store::{Memory, Store};
use peer_node::assignments::Assignments;
use peer_node::catalog::Catalog;
use peer_node::config;
use peer_node::identity::{Enrolment, Identity};
use peer_node::items::Items;
use peer_node::tracker_link::{self, Handle, HelloState, TrackerNotice, item_holding};
use peer_node::wishes::Queue;
use swarm_proto::id::ItemId;
use swarm_proto::pb::tracker as pb;
use swarm_proto::pb::tracker::{notice, report};
use swarm_proto::ticket::TicketClass;
use tempfile::TempDir;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

use crate::fake_tracker::{FakeTracker, Serving, entry};
use crate::making;

/// Long enough for the slowest machine, never waited for on a good one.
const SOON: Duration = Duration::from_secs(20);

struct Device {
    link: Handle,
    notices: mpsc::Receiver<TrackerNotice>,
    hello: watch::Sender<HelloState>,
    identity: Arc<Identity>,
    enrolment: Enrolment,
    items: Items,
    catalog: Catalog,
    queue: Queue,
    store: Arc<dyn Store>,
    folder: TempDir,
    shutdown: Shutdown,
}

impl Drop for Device {
    fn drop(&mut self) {
        self.shutdown.trigger(Exit::Done);
    }
}

/// A device that has enrolled at this tracker and looks for it at `url`.
async fn device(tracker: &FakeTracker, url: &str) -> Device {
    let folder = private_folder();
    let identity = Arc::new(Identity::open_or_create(folder.path()).unwrap());
    let enrolment = Enrolment::open(folder.path(), &identity).unwrap();
    let membership = Some((&tracker.membership(identity.device, identity.hpke.public(), 1)).into());
    let answer = pb::EnrolResponse { membership, swarm_key: vec![5; 32] };
    enrolment.accept(&identity, tracker.key().server_id(), url, answer).unwrap();

    let store: Arc<dyn Store> = Arc::new(Memory::default());
    let (catalog, queue) = (Catalog::open(store.clone()).await.unwrap(), Queue::open(store.clone()).await.unwrap());
    let items = making::open(folder.path());
    let shutdown = Shutdown::manual();
    let deps = tracker_link::Deps {
        config: config::Tracker { retry_max: daemon::units::Duration::from_millis(50), ..config::Tracker::default() },
        identity: identity.clone(),
        enrolment: enrolment.clone(),
        items: items.clone(),
        catalog: catalog.clone(),
        queue: queue.clone(),
        assignments: Assignments::open(store.clone()).await.unwrap(),
        store: store.clone(),
        shutdown: shutdown.clone(),
    };
    let (link, unstarted, notices) = tracker_link::prepare(deps).await.unwrap();
    let hello = watch::Sender::new(HelloState {
        addresses: vec!["/ip4/127.0.0.1/tcp/7100".to_owned()],
        ..HelloState::default()
    });
    unstarted.start(hello.subscribe());
    Device { link, notices, hello, identity, enrolment, items, catalog, queue, store, folder, shutdown }
}

impl Device {
    /// Enrols once more, at another address of the same tracker.
    fn enrol_again(&self, tracker: &FakeTracker, url: &str) {
        let membership = Some((&tracker.membership(self.identity.device, self.identity.hpke.public(), 2)).into());
        let answer = pb::EnrolResponse { membership, swarm_key: vec![5; 32] };
        self.enrolment.accept(&self.identity, tracker.key().server_id(), url, answer).unwrap();
    }
}

fn private_folder() -> TempDir {
    use std::os::unix::fs::PermissionsExt as _;
    tempfile::Builder::new().permissions(std::fs::Permissions::from_mode(0o700)).tempdir().unwrap()
}

fn served(seed: u8) -> (FakeTracker, Serving) {
    let tracker = FakeTracker::new(seed);
    let serving = tracker.serve("127.0.0.1:0");
    (tracker, serving)
}

/// Waits until what is watched is so.
async fn until<T>(watched: &mut watch::Receiver<T>, so: impl FnMut(&T) -> bool) {
    timeout(SOON, watched.wait_for(so)).await.expect("it becomes so in time").expect("its owner lives");
}

async fn until_up(device: &Device, up: bool) {
    until(&mut device.link.up(), |state| state.up == up).await;
}

async fn until_reported(tracker: &FakeTracker, mut wanted: impl FnMut(&report::Report) -> bool) {
    until(&mut tracker.reports(), |reports| reports.iter().any(&mut wanted)).await;
}

#[tokio::test]
async fn hello_comes_first_with_everything_held_and_heartbeats_follow() {
    let (tracker, serving) = served(1);
    let device = device(&tracker, "http://127.0.0.1:9").await;
    let made = making::item(3 << 20, 1);
    making::hold(&device.items, &made).await;
    device.enrol_again(&tracker, &serving.url());
    until_reported(&tracker, |report| matches!(report, report::Report::Heartbeat(_))).await;

    let reports = tracker.reports().borrow().clone();
    let report::Report::Hello(hello) = &reports[0] else { panic!("first came {:?}", reports[0]) };
    assert_eq!(hello.addresses, ["/ip4/127.0.0.1/tcp/7100"]);
    let holding = device.items.holding(&made.manifest.item()).unwrap();
    assert_eq!(hello.holdings, [item_holding(&made.manifest.item(), made.manifest.geometry().n_chunks(), &holding)]);
}

#[tokio::test]
async fn new_addresses_are_told_at_once() {
    let (tracker, serving) = served(1);
    let device = device(&tracker, &serving.url()).await;
    until_up(&device, true).await;
    device.hello.send_modify(|state| state.addresses = vec!["/ip4/127.0.0.1/tcp/9999".to_owned()]);
    until_reported(
        &tracker,
        |report| matches!(report, report::Report::Hello(hello) if hello.addresses == ["/ip4/127.0.0.1/tcp/9999"]),
    )
    .await;
}

#[tokio::test]
async fn reports_made_while_the_tracker_was_away_arrive_when_it_is_back() {
    let (tracker, serving) = served(1);
    let mut device = device(&tracker, &serving.url()).await;
    until_up(&device, true).await;
    let address = serving.address.to_string();
    drop(serving);
    until_up(&device, false).await;
    assert!(!device.link.up().borrow().last_error.is_empty());
    let row =
        pb::TrafficRow { item: vec![1; 32], counterpart: vec![2; 32], sent_bytes: 7, ..pb::TrafficRow::default() };
    device.link.report(report::Report::Traffic(pb::Traffic { rows: vec![row.clone()] }));

    let _serving = tracker.serve(&address);
    until_up(&device, true).await;
    until_reported(
        &tracker,
        |report| matches!(report, report::Report::Traffic(traffic) if traffic.rows == [row.clone()]),
    )
    .await;
    let mut heard = Vec::new();
    while let Ok(notice) = device.notices.try_recv() {
        heard.push(match notice {
            TrackerNotice::Up => "up",
            TrackerNotice::Down => "down",
            TrackerNotice::PinnedSeeds(_) => "seeds",
            TrackerNotice::Plan(_) => "plan",
            TrackerNotice::Revoked(_) => "revoked",
            TrackerNotice::Challenge(_) => "challenge",
        });
    }
    assert_eq!(heard, ["seeds", "up", "down", "seeds", "up"]);
}

#[tokio::test]
async fn question_to_an_absent_tracker_fails_at_once() {
    let tracker = FakeTracker::new(1);
    let device = device(&tracker, "http://127.0.0.1:9").await;
    let asked = timeout(
        Duration::from_secs(5),
        device.link.assign_sources(ItemId::from_bytes([1; 32]), Vec::new(), TicketClass::Queued),
    );
    let failure = Failure::of(&asked.await.expect("fast").unwrap_err());
    assert_eq!((failure.exit, failure.code.as_ref()), (Exit::Unreachable, "E-TRACKER-01"));
}

#[tokio::test]
async fn plan_is_of_the_item_that_was_asked_for() {
    let (tracker, serving) = served(1);
    let device = device(&tracker, &serving.url()).await;
    until_up(&device, true).await;
    let plan = device
        .link
        .assign_sources(ItemId::from_bytes([7; 32]), Vec::from([0..1, 2..3]), TicketClass::Playing)
        .await
        .unwrap();
    assert_eq!((plan.item, plan.waiting.as_str()), (vec![7; 32], "no source holds it yet"));
}

#[tokio::test]
async fn another_tracker_at_the_address_is_not_believed() {
    let (stranger, serving) = served(2);
    let device = device(&FakeTracker::new(1), &serving.url()).await;
    until(&mut device.link.up(), |state| state.last_error.contains("another tracker answers")).await;
    assert!(!device.link.up().borrow().up);
    assert!(stranger.reports().borrow().is_empty(), "nothing was told to it");
}

#[tokio::test]
async fn catalog_is_mirrored_and_known_again_after_a_restart_without_a_tracker() {
    let (tracker, serving) = served(1);
    tracker.publish(&entry("Harbour at dawn", 1, 3));
    let device = device(&tracker, &serving.url()).await;
    let mut changes = device.catalog.changes();
    until(&mut changes, |_| device.catalog.find("harbour").is_ok()).await;
    tracker.publish(&entry("Atlas", 2, 3));
    until(&mut changes, |_| device.catalog.find("atlas").is_ok()).await;
    assert_eq!(device.catalog.version_at(tracker.key().server_id()), 2);

    let again = Catalog::open(device.store.clone()).await.unwrap();
    assert_eq!(again.search("", 10).len(), 2);
    assert_eq!(again.version_at(tracker.key().server_id()), 2);
}

#[tokio::test]
async fn queue_changes_are_kept_and_reach_those_who_watch() {
    let (tracker, serving) = served(1);
    let device = device(&tracker, &serving.url()).await;
    until_up(&device, true).await;
    let [harbour, atlas] = ["Harbour at dawn", "Atlas"].map(|name| entry(name, 1, 3));
    let titles = [&harbour, &atlas].map(|signed| signed.verify(&signed.signer()).unwrap().title);
    device.link.add_to_queue(titles[0], false, None).await.unwrap();
    device.link.add_to_queue(titles[1], true, None).await.unwrap();
    let order = |queue: &Queue| queue.state().entries.iter().map(|entry| entry.title.clone()).collect::<Vec<_>>();
    assert_eq!(order(&device.queue), [titles[1].to_vec(), titles[0].to_vec()]);
    device.link.move_in_queue(titles[1], 1).await.unwrap();
    assert_eq!(order(&device.queue), [titles[0].to_vec(), titles[1].to_vec()]);
    assert_eq!(order(&Queue::open(device.store.clone()).await.unwrap()), order(&device.queue));

    tracker.say(notice::Notice::Queue(pb::QueueState { version: 99, entries: Vec::new() }));
    until(&mut device.queue.watch(), |state| state.version == 99).await;
}

#[tokio::test]
async fn renewed_membership_is_on_disk_and_a_forged_one_is_not() {
    let (tracker, serving) = served(1);
    let device = device(&tracker, &serving.url()).await;
    until_up(&device, true).await;
    let renewed = tracker.membership(device.identity.device, device.identity.hpke.public(), 2);
    tracker.say(notice::Notice::Membership((&renewed).into()));
    until(&mut device.enrolment.watch(), |enrolled| {
        enrolled.as_ref().is_some_and(|enrolled| enrolled.membership.serial == 2)
    })
    .await;
    let again = Enrolment::open(device.folder.path(), &device.identity).unwrap();
    assert_eq!(again.current().unwrap().membership.serial, 2);

    let forged = FakeTracker::new(9).membership(device.identity.device, device.identity.hpke.public(), 3);
    tracker.say(notice::Notice::Membership((&forged).into()));
    until(&mut device.link.up(), |state| state.last_error.contains("renewed membership")).await;
    assert_eq!(device.enrolment.current().unwrap().membership.serial, 2);
}

#[tokio::test]
async fn keyserver_that_the_tracker_names_is_remembered() {
    let (tracker, serving) = served(1);
    tracker.set_keyserver_url("http://127.0.0.1:7002");
    let device = device(&tracker, &serving.url()).await;
    until(&mut device.link.keyserver_url(), |url| url.as_deref() == Some("http://127.0.0.1:7002")).await;
}
