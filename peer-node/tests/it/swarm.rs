//! Real nodes on loopback: network, engine and disk together, with a tracker's words put into their mouths.
//!
//! Each test builds a small swarm with its own tracker key. What lies, stays silent or breaks off is a node made of the
//! network alone, answered by the test.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use daemon::store::Store;
use futures::StreamExt as _;
use peer_node::engine::{self, FoundBy, ItemSnapshot, ItemState, Wanted};
use peer_node::identity::{Enrolled, Identity};
use peer_node::items::Items;
use peer_node::net::{self, AskError, Exchange, Inbound};
use peer_node::tracker_link::TrackerNotice;
use peer_node::{clock, config};
use prost::Message as _;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{Rng as _, SeedableRng as _};
use swarm_proto::geometry::{CHUNK_BYTES, ChunkIndex, Geometry};
use swarm_proto::id::{AccountId, DeviceId, ItemId, SiteId};
use swarm_proto::manifest::{Manifest, ManifestBuilder};
use swarm_proto::membership::{DeviceKind, Membership};
use swarm_proto::pb;
use swarm_proto::signed::{Signed, SigningKey};
use swarm_proto::ticket::{SeedShare, Ticket, TicketClass};
use swarm_proto::wire::{Answer, Ask, Refusal, Request};
use swarm_proto::wrap::HpkeSecret;
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::time::timeout;
use zeroize::Zeroizing;

/// Far more than anything here takes; a test that needs it has failed.
const PATIENCE: Duration = Duration::from_secs(60);
const TCP: &str = "/ip4/127.0.0.1/tcp/0";
const QUIC: &str = "/ip4/127.0.0.1/udp/0/quic-v1";

/// One tracker's swarm: its key, and a source of randomness.
struct Swarm {
    tracker: SigningKey,
    rng: ChaCha20Rng,
    /// Tickets let these send as much as there is.
    seeds: Vec<DeviceId>,
}

/// A sealed item. To the swarm any bytes are ciphertext.
struct Film {
    item: ItemId,
    bytes: Bytes,
    manifest: Arc<Manifest>,
}

impl Film {
    fn geometry(&self) -> Geometry {
        *self.manifest.geometry()
    }

    fn chunk(&self, index: ChunkIndex) -> Bytes {
        let range = self.geometry().chunk_range(index);
        self.bytes.slice(range.start as usize..range.end as usize)
    }
}

struct Node {
    device: DeviceId,
    kind: DeviceKind,
    engine: engine::Handle,
    items: Items,
    identity: Arc<Identity>,
    store: Arc<dyn Store>,
    folder: TempDir,
}

/// How a source stands in a plan.
struct Source {
    device: DeviceId,
    kind: DeviceKind,
    addresses: Vec<String>,
    portions: Option<Range<u32>>,
}

impl Swarm {
    fn new(seed: u64) -> Self {
        let mut rng = ChaCha20Rng::seed_from_u64(seed);
        Self { tracker: SigningKey::generate(&mut rng), rng, seeds: Vec::new() }
    }

    fn film(&mut self, bytes: u64) -> Film {
        let mut sealed = vec![0; bytes as usize];
        self.rng.fill_bytes(&mut sealed);
        let mut builder = ManifestBuilder::new(Geometry::of_sealed(bytes).expect("a possible length"));
        builder.update(&sealed).expect("as long as announced");
        let manifest = Arc::new(builder.finish().expect("all of it"));
        assert_eq!(manifest.item().as_bytes(), blake3::hash(&sealed).as_bytes());
        Film { item: manifest.item(), bytes: sealed.into(), manifest }
    }

    fn identity(&mut self) -> Identity {
        let (signing, hpke) = (SigningKey::generate(&mut self.rng), HpkeSecret::generate(&mut self.rng));
        Identity::of_keys(signing, hpke).expect("fresh keys are keys")
    }

    fn enrolled(&self, identity: &Identity, kind: DeviceKind) -> Enrolled {
        let now = clock::utc();
        let membership = Membership {
            device: identity.device,
            account: AccountId::from_bytes([1; 16]),
            site: SiteId::new("home").expect("a label"),
            kind,
            hpke: identity.hpke.public(),
            issued: now,
            expires: now + Duration::from_secs(3_600),
            serial: 1,
        };
        Enrolled {
            signed: Signed::sign(&self.tracker, &membership).expect("a valid membership"),
            membership,
            swarm_key: Zeroizing::new([7; 32]),
            tracker: self.tracker.server_id(),
            tracker_url: String::new(),
        }
    }

    async fn node(&mut self, kind: DeviceKind, config: NodeConfig) -> Node {
        let (identity, folder) = (Arc::new(self.identity()), tempfile::tempdir().expect("a folder"));
        self.launch(kind, config, identity, folder, Arc::new(daemon::store::Memory::default())).await
    }

    /// The same device once more, on the same folder.
    async fn again(&mut self, node: Node, config: NodeConfig) -> Node {
        let Node { kind, engine, items, identity, store, folder, .. } = node;
        engine.stop().await;
        items.flush().await.expect("what was received is written");
        drop((engine, items));
        self.launch(kind, config, identity, folder, store).await
    }

    async fn launch(
        &mut self,
        kind: DeviceKind,
        config: NodeConfig,
        identity: Arc<Identity>,
        folder: TempDir,
        store: Arc<dyn Store>,
    ) -> Node {
        let device = identity.device;
        if kind == DeviceKind::Seed {
            self.seeds.push(device);
        }
        let (_, members) = watch::channel(Some(Arc::new(self.enrolled(&identity, kind))));
        let items = Items::open(folder.path(), &config::Items::default()).expect("an empty folder opens");
        let net = config::Net {
            listen: config.listen.iter().map(|&address| address.to_owned()).collect(),
            bootstrap: config.bootstrap,
            ..config::Net::default()
        };
        let deps = engine::Deps {
            identity: identity.clone(),
            members,
            items: items.clone(),
            tracker: None,
            store: store.clone(),
            net: net::Config { silence: config.silence, ..net::Config::of(&net).expect("good addresses") },
            transfers: config::Transfers::default(),
            uploads: config.uploads,
            preload: config.preload,
        };
        let engine = engine::spawn(deps).await.expect("loopback can be listened on");
        Node { device, kind, engine, items, identity, store, folder }
    }

    /// A node of the network alone. The test answers what it is asked.
    async fn puppet(&mut self, mut answer: impl FnMut(Inbound) + Send + 'static) -> Source {
        let identity = self.identity();
        let config = config::Net { listen: vec![TCP.to_owned()], ..config::Net::default() };
        let config = net::Config::of(&config).expect("a good address");
        let (handle, mut questions) = net::spawn(identity.keypair.clone(), config).await.expect("it listens");
        let addresses = handle.status().borrow().listening.iter().map(ToString::to_string).collect();
        tokio::spawn(async move {
            let _alive = handle;
            while let Some(question) = questions.recv().await {
                answer(question);
            }
        });
        Source { device: identity.device, kind: DeviceKind::Box, addresses, portions: None }
    }

    fn ticket(&self, device: DeviceId, item: ItemId) -> Signed<Ticket> {
        let expires = clock::utc() + Duration::from_secs(3_600);
        let ticket = Ticket {
            device,
            item,
            class: TicketClass::Queued,
            expires,
            serial: 1,
            shares: self.seeds.iter().map(|&seed| SeedShare { seed, bytes: 1 << 40, run: None }).collect(),
            shares_until: expires,
            party: 1,
        };
        Signed::sign(&self.tracker, &ticket).expect("a valid ticket")
    }

    fn ticket_bytes(&self, device: DeviceId, item: ItemId) -> Bytes {
        self.ticket(device, item).to_bytes()
    }

    /// Tells a node whom it may ask for a film.
    async fn plan(&self, node: &Node, film: &Film, sources: &[&Source]) {
        let ticket = pb::common::Signed::decode(self.ticket_bytes(node.device, film.item)).expect("what we encoded");
        let lease = |source: &&Source| pb::tracker::Lease {
            source: Some(pb::tracker::Source {
                device: source.device.to_vec(),
                kind: match source.kind {
                    DeviceKind::Box => pb::common::DeviceKind::Box.into(),
                    DeviceKind::Seed => pb::common::DeviceKind::Seed.into(),
                },
                addresses: source.addresses.clone(),
                same_site: true,
            }),
            rate_cap_bytes_per_sec: None,
            until_utc_ms: (clock::utc() + Duration::from_secs(3_600)).as_millis(),
            portions: source
                .portions
                .iter()
                .map(|range| pb::common::ChunkRange { first: range.start, count: range.end - range.start })
                .collect(),
        };
        let plan = pb::tracker::Plan {
            item: film.item.to_vec(),
            n_chunks: film.geometry().n_chunks(),
            sealed_len: film.geometry().sealed_len(),
            leases: sources.iter().map(lease).collect(),
            ticket: Some(ticket),
            renew_after_ms: 5_000,
            waiting: String::new(),
            ..pb::tracker::Plan::default()
        };
        node.engine.notice(TrackerNotice::Plan(plan)).await;
    }
}

struct NodeConfig {
    listen: Vec<&'static str>,
    bootstrap: Vec<String>,
    silence: Duration,
    uploads: config::Uploads,
    preload: config::Preload,
}

impl Default for NodeConfig {
    fn default() -> Self {
        Self {
            listen: vec![TCP],
            bootstrap: Vec::new(),
            silence: Duration::from_secs(10),
            uploads: config::Uploads::default(),
            preload: config::Preload::default(),
        }
    }
}

impl Node {
    /// Puts chunks of a film on the node's disk.
    async fn hold(&self, film: &Film, chunks: Range<u32>) {
        self.items.reserve(film.item, film.manifest.clone()).await.expect("there is room");
        for raw in chunks {
            let index = film.geometry().chunk(raw).expect("a chunk of the film");
            self.items.write(film.item, index, film.chunk(index)).await.expect("it can be written");
        }
        self.engine.adopt(film.item).await.expect("the engine runs");
    }

    async fn want(&self, films: &[&Film]) {
        let wanted = films.iter().map(|film| Wanted::queued(film.item, film.geometry())).collect();
        self.engine.set_wanted(wanted).await;
    }

    /// This node as a source in plans.
    fn source(&self) -> Source {
        Source { device: self.device, kind: self.kind, addresses: self.addresses(), portions: None }
    }

    fn addresses(&self) -> Vec<String> {
        self.engine.snapshot().borrow().listening.iter().map(ToString::to_string).collect()
    }

    /// Waits until its engine has shown where it listens.
    async fn listening(&self) {
        let mut snapshot = self.engine.snapshot();
        let shown = snapshot.wait_for(|snapshot| !snapshot.listening.is_empty());
        timeout(PATIENCE, shown).await.expect("it listens soon").expect("it runs");
    }

    async fn until(&self, film: &Film, which: impl Fn(&ItemSnapshot) -> bool) -> ItemSnapshot {
        let mut snapshot = self.engine.snapshot();
        let find = |snapshot: &Arc<engine::Snapshot>| {
            snapshot.items.iter().find(|item| item.item == film.item && which(item)).cloned()
        };
        let shown = timeout(PATIENCE, snapshot.wait_for(|snapshot| find(snapshot).is_some())).await;
        match shown {
            Ok(snapshot) => find(&snapshot.expect("it runs")).expect("just found"),
            Err(_) => panic!("not in time: {:#?}", self.engine.snapshot().borrow()),
        }
    }

    async fn until_complete(&self, film: &Film) -> BTreeMap<DeviceId, u64> {
        let item = self.until(film, |item| item.state == ItemState::Available && !item.sources.is_empty()).await;
        for raw in 0..film.geometry().n_chunks() {
            let index = film.geometry().chunk(raw).expect("a chunk of the film");
            let held = self.items.read_chunk(film.item, index).await.expect("it is held");
            assert_eq!(held, film.chunk(index), "chunk {raw} is bit-exact");
        }
        let books = self.engine.snapshot().borrow().books;
        assert!(books.balance(), "every byte is verified, wasted or being checked: {books:?}");
        let verified: u64 = item.sources.iter().map(|source| source.verified_bytes).sum();
        assert!(verified <= film.geometry().sealed_len());
        item.sources.iter().map(|source| (source.device, source.verified_bytes)).collect()
    }
}

/// An honest answer to a question about a film.
fn honest(film: &Film, request: &Request) -> Answer {
    match request.ask {
        Ask::Manifest => {
            Answer::Manifest { sealed_len: film.geometry().sealed_len(), values: film.manifest.values_bytes() }
        }
        Ask::Holding => {
            let n_chunks = film.geometry().n_chunks();
            Answer::Holding(swarm_proto::bitmap::Holding::complete(n_chunks).expect("a film has chunks"))
        }
        Ask::Chunk { index, .. } => Answer::Data { segment_values: Bytes::new(), bytes: film.chunk(index) },
    }
}

fn respond(question: Inbound, answer: Answer) {
    tokio::spawn(question.responder.send(answer));
}

async fn a_film_travels_over(listen: &'static str) {
    let mut swarm = Swarm::new(1);
    let film = swarm.film(5 * CHUNK_BYTES + 12_345);
    let config = || NodeConfig { listen: vec![listen], ..NodeConfig::default() };
    let seed = swarm.node(DeviceKind::Seed, config()).await;
    let near = swarm.node(DeviceKind::Box, config()).await;
    seed.listening().await;
    seed.hold(&film, 0..6).await;
    near.want(&[&film]).await;
    swarm.plan(&near, &film, &[&seed.source()]).await;
    let sources = near.until_complete(&film).await;
    assert_eq!(sources[&seed.device], film.geometry().sealed_len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_film_travels_from_a_seed_to_a_box_over_tcp() {
    a_film_travels_over(TCP).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_film_travels_from_a_seed_to_a_box_over_quic() {
    a_film_travels_over(QUIC).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_box_takes_portions_from_two_boxes_at_once_and_leaves_the_seed_alone() {
    let mut swarm = Swarm::new(2);
    let film = swarm.film(16 * CHUNK_BYTES);
    let (seed, one, two, asker) = (
        swarm.node(DeviceKind::Seed, NodeConfig::default()).await,
        swarm.node(DeviceKind::Box, NodeConfig::default()).await,
        swarm.node(DeviceKind::Box, NodeConfig::default()).await,
        swarm.node(DeviceKind::Box, NodeConfig::default()).await,
    );
    for node in [&seed, &one, &two] {
        node.listening().await;
        node.hold(&film, 0..16).await;
    }
    asker.want(&[&film]).await;
    let first = Source { portions: Some(0..8), ..one.source() };
    let second = Source { portions: Some(8..16), ..two.source() };
    swarm.plan(&asker, &film, &[&seed.source(), &first, &second]).await;
    let sources = asker.until_complete(&film).await;
    assert!(sources[&one.device] >= 4 * CHUNK_BYTES, "{sources:?}");
    assert!(sources[&two.device] >= 4 * CHUNK_BYTES, "{sources:?}");
    assert_eq!(sources.get(&seed.device), None, "boxes have it all: {sources:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_boxes_with_half_a_film_each_complete_one_another() {
    // Both upload to each other at once: the case in which rust-yamux#227 can block both for good.
    let mut swarm = Swarm::new(3);
    let film = swarm.film(48 * CHUNK_BYTES);
    let one = swarm.node(DeviceKind::Box, NodeConfig::default()).await;
    let two = swarm.node(DeviceKind::Box, NodeConfig::default()).await;
    one.listening().await;
    two.listening().await;
    one.hold(&film, 0..24).await;
    two.hold(&film, 24..48).await;
    one.want(&[&film]).await;
    two.want(&[&film]).await;
    swarm.plan(&one, &film, &[&two.source()]).await;
    swarm.plan(&two, &film, &[&one.source()]).await;
    one.until_complete(&film).await;
    two.until_complete(&film).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_box_that_still_fetches_already_passes_on_what_it_has() {
    let mut swarm = Swarm::new(4);
    let film = swarm.film(12 * CHUNK_BYTES);
    let slow = config::Uploads {
        rate: "4 MiB/s".parse().map(daemon::units::Limit::At).expect("a rate"),
        ..config::Uploads::default()
    };
    let seed = swarm.node(DeviceKind::Seed, NodeConfig { uploads: slow, ..NodeConfig::default() }).await;
    let middle = swarm.node(DeviceKind::Box, NodeConfig::default()).await;
    let last = swarm.node(DeviceKind::Box, NodeConfig::default()).await;
    seed.listening().await;
    middle.listening().await;
    seed.hold(&film, 0..12).await;
    middle.want(&[&film]).await;
    last.want(&[&film]).await;
    swarm.plan(&middle, &film, &[&seed.source()]).await;
    swarm.plan(&last, &film, &[&middle.source()]).await;
    let sources = last.until_complete(&film).await;
    assert_eq!(sources[&middle.device], 12 * CHUNK_BYTES);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_box_that_starts_again_while_the_tracker_is_away_goes_on_with_its_ticket_and_its_sources() {
    let mut swarm = Swarm::new(44);
    let film = swarm.film(16 * CHUNK_BYTES);
    let slow = config::Uploads {
        rate: "4 MiB/s".parse().map(daemon::units::Limit::At).expect("a rate"),
        ..config::Uploads::default()
    };
    let seed = swarm.node(DeviceKind::Seed, NodeConfig { uploads: slow, ..NodeConfig::default() }).await;
    let asker = swarm.node(DeviceKind::Box, NodeConfig::default()).await;
    seed.listening().await;
    seed.hold(&film, 0..16).await;
    asker.want(&[&film]).await;
    swarm.plan(&asker, &film, &[&seed.source()]).await;
    asker.until(&film, |item| item.chunks_held > 2).await;
    let asker = swarm.again(asker, NodeConfig::default()).await;
    asker.want(&[&film]).await;
    let sources = asker.until_complete(&film).await;
    assert!(sources[&seed.device] < 16 * CHUNK_BYTES, "what it had is not fetched again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_liar_is_banned_after_one_flipped_bit_and_the_film_is_exact() {
    let mut swarm = Swarm::new(5);
    let film = Arc::new(swarm.film(8 * CHUNK_BYTES));
    let lies = film.clone();
    let liar = swarm
        .puppet(move |question| {
            let answer = match honest(&lies, &question.request) {
                Answer::Data { segment_values, bytes } => {
                    let mut bytes = bytes.to_vec();
                    bytes[77] ^= 1;
                    Answer::Data { segment_values, bytes: bytes.into() }
                }
                other => other,
            };
            respond(question, answer);
        })
        .await;
    let seed = swarm.node(DeviceKind::Seed, NodeConfig::default()).await;
    let asker = swarm.node(DeviceKind::Box, NodeConfig::default()).await;
    seed.listening().await;
    seed.hold(&film, 0..8).await;
    asker.want(&[&film]).await;
    swarm.plan(&asker, &film, &[&liar, &seed.source()]).await;
    let sources = asker.until_complete(&film).await;
    assert_eq!(sources[&seed.device], 8 * CHUNK_BYTES);
    let snapshot = asker.engine.snapshot().borrow().clone();
    assert_eq!(snapshot.banned.len(), 1);
    assert_eq!(snapshot.banned[0].device, liar.device);
    assert_eq!(snapshot.items[0].wasted_bytes, CHUNK_BYTES, "one bad chunk and no more");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_right_bytes_of_another_chunk_are_a_lie_too() {
    let mut swarm = Swarm::new(6);
    let film = Arc::new(swarm.film(4 * CHUNK_BYTES));
    let lies = film.clone();
    let liar = swarm
        .puppet(move |question| {
            let mut request = question.request.clone();
            if let Ask::Chunk { index, .. } = &mut request.ask {
                *index = lies.geometry().chunk((index.get() + 1) % 4).expect("one of four");
            }
            let answer = honest(&lies, &request);
            respond(question, answer);
        })
        .await;
    let asker = swarm.node(DeviceKind::Box, NodeConfig::default()).await;
    asker.want(&[&film]).await;
    swarm.plan(&asker, &film, &[&liar]).await;
    let mut snapshot = asker.engine.snapshot();
    let banned = snapshot.wait_for(|snapshot| snapshot.banned.iter().any(|banned| banned.device == liar.device));
    timeout(PATIENCE, banned).await.expect("it is found out").expect("it runs");
    assert_eq!(asker.items.holding(&film.item).expect("reserved").len(), 0, "nothing bad is kept");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_forged_manifest_bans_its_sender_and_another_source_is_asked() {
    let mut swarm = Swarm::new(7);
    let film = Arc::new(swarm.film(3 * CHUNK_BYTES));
    let lies = film.clone();
    let liar = swarm
        .puppet(move |question| {
            let answer = match honest(&lies, &question.request) {
                Answer::Manifest { sealed_len, values } => {
                    let mut values = values.to_vec();
                    values[5] ^= 1;
                    Answer::Manifest { sealed_len, values: values.into() }
                }
                other => other,
            };
            respond(question, answer);
        })
        .await;
    let asker = swarm.node(DeviceKind::Box, NodeConfig::default()).await;
    let seed = swarm.node(DeviceKind::Seed, NodeConfig::default()).await;
    seed.listening().await;
    seed.hold(&film, 0..3).await;
    asker.want(&[&film]).await;
    swarm.plan(&asker, &film, &[&liar]).await;
    let mut snapshot = asker.engine.snapshot();
    let banned = snapshot.wait_for(|snapshot| snapshot.banned.iter().any(|banned| banned.device == liar.device));
    timeout(PATIENCE, banned).await.expect("it is found out").expect("it runs");
    swarm.plan(&asker, &film, &[&seed.source()]).await;
    asker.until_complete(&film).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_device_costs_no_more_than_its_chunk() {
    let mut swarm = Swarm::new(8);
    let film = Arc::new(swarm.film(6 * CHUNK_BYTES));
    let words = film.clone();
    let mut kept = Vec::new();
    let silent = swarm
        .puppet(move |question| match question.request.ask {
            // Neither answered nor closed.
            Ask::Chunk { .. } => kept.push(question),
            _ => {
                let answer = honest(&words, &question.request);
                respond(question, answer);
            }
        })
        .await;
    let seed = swarm.node(DeviceKind::Seed, NodeConfig::default()).await;
    let config = NodeConfig { silence: Duration::from_secs(2), ..NodeConfig::default() };
    let asker = swarm.node(DeviceKind::Box, config).await;
    seed.listening().await;
    seed.hold(&film, 0..6).await;
    asker.want(&[&film]).await;
    swarm.plan(&asker, &film, &[&silent, &seed.source()]).await;
    let sources = asker.until_complete(&film).await;
    assert_eq!(sources[&seed.device], 6 * CHUNK_BYTES);
    assert!(asker.engine.snapshot().borrow().banned.is_empty(), "silence is no proof");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_that_goes_away_is_replaced() {
    let mut swarm = Swarm::new(9);
    let film = swarm.film(16 * CHUNK_BYTES);
    let slow = config::Uploads {
        rate: "4 MiB/s".parse().map(daemon::units::Limit::At).expect("a rate"),
        ..config::Uploads::default()
    };
    let leaver = swarm.node(DeviceKind::Box, NodeConfig { uploads: slow, ..NodeConfig::default() }).await;
    let seed = swarm.node(DeviceKind::Seed, NodeConfig::default()).await;
    let asker = swarm.node(DeviceKind::Box, NodeConfig::default()).await;
    for node in [&leaver, &seed] {
        node.listening().await;
        node.hold(&film, 0..16).await;
    }
    asker.want(&[&film]).await;
    swarm.plan(&asker, &film, &[&leaver.source()]).await;
    asker.until(&film, |item| item.chunks_held >= 3).await;
    leaver.engine.stop().await;
    swarm.plan(&asker, &film, &[&seed.source()]).await;
    let sources = asker.until_complete(&film).await;
    assert!(sources[&leaver.device] >= 2 * CHUNK_BYTES, "what it sent is kept: {sources:?}");
    assert!(sources[&seed.device] >= 8 * CHUNK_BYTES, "{sources:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_tracker_a_source_is_found_through_kademlia() {
    let mut swarm = Swarm::new(10);
    let film = swarm.film(4 * CHUNK_BYTES);
    let meeting_point = swarm.node(DeviceKind::Seed, NodeConfig::default()).await;
    meeting_point.listening().await;
    let peer = net::peer_id::peer_of(&meeting_point.device).expect("a device is a peer");
    let bootstrap: Vec<String> =
        meeting_point.addresses().iter().map(|address| format!("{address}/p2p/{peer}")).collect();
    let holder =
        swarm.node(DeviceKind::Box, NodeConfig { bootstrap: bootstrap.clone(), ..NodeConfig::default() }).await;
    let asker = swarm.node(DeviceKind::Box, NodeConfig { bootstrap, ..NodeConfig::default() }).await;
    holder.hold(&film, 0..4).await;
    asker.want(&[&film]).await;
    // A ticket, and nobody who sends: the tracker is gone before it could say who.
    swarm.plan(&asker, &film, &[]).await;
    asker.engine.notice(TrackerNotice::Down).await;
    let sources = asker.until_complete(&film).await;
    assert_eq!(sources[&holder.device], 4 * CHUNK_BYTES);
    let shown = asker.until(&film, |item| !item.sources.is_empty()).await;
    assert_eq!(shown.sources[0].found_by, FoundBy::Kademlia);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_on_the_disk_is_not_fetched_again() {
    let mut swarm = Swarm::new(11);
    let film = swarm.film(8 * CHUNK_BYTES);
    let seed = swarm.node(DeviceKind::Seed, NodeConfig::default()).await;
    let asker = swarm.node(DeviceKind::Box, NodeConfig::default()).await;
    seed.listening().await;
    seed.hold(&film, 0..8).await;
    asker.hold(&film, 0..5).await;
    asker.want(&[&film]).await;
    swarm.plan(&asker, &film, &[&seed.source()]).await;
    let sources = asker.until_complete(&film).await;
    assert_eq!(sources[&seed.device], 3 * CHUNK_BYTES);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_player_gets_the_chunk_it_waits_for_and_an_unknown_title_says_so() {
    let mut swarm = Swarm::new(12);
    let film = swarm.film(8 * CHUNK_BYTES);
    let seed = swarm.node(DeviceKind::Seed, NodeConfig::default()).await;
    let asker = swarm.node(DeviceKind::Box, NodeConfig::default()).await;
    let last = film.geometry().chunk(7).expect("it has eight");
    assert_eq!(asker.engine.chunk(film.item, last).await, Err(engine::ChunkWait::NotWanted));
    seed.listening().await;
    seed.hold(&film, 0..8).await;
    asker.want(&[&film]).await;
    swarm.plan(&asker, &film, &[&seed.source()]).await;
    timeout(PATIENCE, asker.engine.chunk(film.item, last)).await.expect("in time").expect("it is wanted");
    assert_eq!(asker.items.read_chunk(film.item, last).await.expect("it is held"), film.chunk(last));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_is_served_without_a_ticket_of_his_own() {
    let mut swarm = Swarm::new(13);
    let film = swarm.film(2 * CHUNK_BYTES);
    let seed = swarm.node(DeviceKind::Seed, NodeConfig::default()).await;
    seed.listening().await;
    seed.hold(&film, 0..2).await;

    let stranger = swarm.identity();
    let config = config::Net { listen: vec![TCP.to_owned()], ..config::Net::default() };
    let config = net::Config::of(&config).expect("a good address");
    let (network, _questions) = net::spawn(stranger.keypair.clone(), config).await.expect("it listens");
    let addresses = seed.addresses().iter().map(|address| address.parse().expect("an address")).collect();
    network.add_addresses(seed.device, addresses).await;
    let ask = async |ask, ticket| {
        let request = Request { item: film.item, ask, ticket };
        let answer = network.ask(seed.device, request, Arc::new(Exchange::default()));
        timeout(PATIENCE, answer).await.expect("in time")
    };
    let chunk = Ask::Chunk { index: ChunkIndex::FIRST, want_segment_values: true };

    assert_eq!(ask(chunk, Bytes::new()).await, Ok(Answer::Refused(Refusal::BadTicket)));
    let beyond = Ask::Chunk { index: ChunkIndex::new(2).expect("an index"), want_segment_values: false };
    let anothers = swarm.ticket_bytes(seed.device, film.item);
    assert_eq!(ask(chunk, anothers.clone()).await, Ok(Answer::Refused(Refusal::BadTicket)));
    // Not a word about how many chunks there are.
    assert_eq!(ask(beyond, anothers).await, Ok(Answer::Refused(Refusal::BadTicket)));
    let forger = Swarm::new(99).ticket_bytes(stranger.device, film.item);
    assert_eq!(ask(Ask::Holding, forger).await, Ok(Answer::Refused(Refusal::BadTicket)));

    let own = swarm.ticket_bytes(stranger.device, film.item);
    let Ok(Answer::Data { segment_values, bytes }) = ask(chunk, own.clone()).await else { panic!("served") };
    assert_eq!(bytes, film.chunk(ChunkIndex::FIRST));
    film.manifest.verify_segment_values(ChunkIndex::FIRST, &segment_values).expect("they prove the chunk");
    assert_eq!(ask(beyond, own).await, Ok(Answer::Refused(Refusal::NoSuchChunk)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revoked_device_is_cut_off_at_once_with_a_ticket_that_is_still_good() {
    let mut swarm = Swarm::new(16);
    let film = swarm.film(2 * CHUNK_BYTES);
    let seed = swarm.node(DeviceKind::Seed, NodeConfig::default()).await;
    seed.listening().await;
    seed.hold(&film, 0..2).await;
    let revoked = swarm.identity();
    let config = config::Net { listen: vec![TCP.to_owned()], ..config::Net::default() };
    let config = net::Config::of(&config).expect("a good address");
    let (network, _questions) = net::spawn(revoked.keypair.clone(), config).await.expect("it listens");
    let addresses = seed.addresses().iter().map(|address| address.parse().expect("an address")).collect();
    network.add_addresses(seed.device, addresses).await;
    let ticket = swarm.ticket_bytes(revoked.device, film.item);
    let ask = async || {
        let ask = Ask::Chunk { index: ChunkIndex::FIRST, want_segment_values: false };
        let request = Request { item: film.item, ask, ticket: ticket.clone() };
        let answer = network.ask(seed.device, request, Arc::new(Exchange::default()));
        timeout(PATIENCE, answer).await.expect("in time")
    };
    assert!(matches!(ask().await, Ok(Answer::Data { .. })));

    seed.engine.notice(TrackerNotice::Revoked(vec![revoked.device])).await;
    let mut status = network.status();
    let alone = status.wait_for(|status| status.connected.is_empty());
    timeout(PATIENCE, alone).await.expect("the connection is closed").expect("the network runs");
    let refused = ask().await;
    assert!(!matches!(refused, Ok(Answer::Data { .. })), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_that_is_nowhere_cannot_be_reached() {
    let mut swarm = Swarm::new(14);
    let (near, nowhere) = (swarm.identity(), swarm.identity());
    let config = config::Net { listen: vec![TCP.to_owned()], ..config::Net::default() };
    let config = net::Config::of(&config).expect("a good address");
    let (network, _questions) = net::spawn(near.keypair.clone(), config).await.expect("it listens");
    let request = Request { item: ItemId::from_bytes([1; 32]), ask: Ask::Holding, ticket: Bytes::new() };
    let answer = network.ask(nowhere.device, request, Arc::new(Exchange::default()));
    assert_eq!(timeout(PATIENCE, answer).await.expect("in time"), Err(AskError::Unreachable));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_port_that_is_taken_is_named() {
    let mut swarm = Swarm::new(15);
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = taken.local_addr().expect("it has one").port();
    let config = config::Net { listen: vec![format!("/ip4/127.0.0.1/tcp/{port}")], ..config::Net::default() };
    let config = net::Config::of(&config).expect("a good address");
    let error = net::spawn(swarm.identity().keypair.clone(), config).await.expect_err("the port is taken");
    assert!(format!("{error:#}").contains(&port.to_string()), "{error:#}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_questions_of_a_stranger_leave_the_node_serving_others() {
    let mut swarm = Swarm::new(16);
    let film = swarm.film(2 * CHUNK_BYTES);
    let seed = swarm.node(DeviceKind::Seed, NodeConfig::default()).await;
    let asker = swarm.node(DeviceKind::Box, NodeConfig::default()).await;
    seed.listening().await;
    seed.hold(&film, 0..2).await;

    let stranger = swarm.identity();
    let config = config::Net { listen: vec![TCP.to_owned()], ..config::Net::default() };
    let config = net::Config::of(&config).expect("a good address");
    let (network, _questions) = net::spawn(stranger.keypair.clone(), config).await.expect("it listens");
    let addresses = seed.addresses().iter().map(|address| address.parse().expect("an address")).collect();
    network.add_addresses(seed.device, addresses).await;
    let flood = futures::stream::iter(0..10_000u32).map(|n| {
        let mut ticket = vec![0; 1_000];
        ticket[..4].copy_from_slice(&n.to_be_bytes());
        let request = Request { item: film.item, ask: Ask::Holding, ticket: ticket.into() };
        network.ask(seed.device, request, Arc::new(Exchange::default()))
    });
    let served = flood
        .buffer_unordered(64)
        .filter(|answer| std::future::ready(matches!(answer, Ok(Answer::Holding(_)))))
        .count();

    asker.want(&[&film]).await;
    swarm.plan(&asker, &film, &[&seed.source()]).await;
    let (served, _) = tokio::join!(timeout(PATIENCE, served), asker.until_complete(&film));
    assert_eq!(served.expect("in time"), 0, "no ticket, no answer");
}

fn starts(film: &Film) -> Wanted {
    let skip = std::iter::once(16..film.geometry().n_chunks()).collect();
    Wanted { class: TicketClass::Preload, skip, ..Wanted::queued(film.item, film.geometry()) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn beginning_of_a_film_takes_no_more_room_than_it_needs_and_the_rest_comes_when_it_is_queued() {
    let mut swarm = Swarm::new(31);
    let film = swarm.film(18 * CHUNK_BYTES);
    let seed = swarm.node(DeviceKind::Seed, NodeConfig::default()).await;
    let near = swarm.node(DeviceKind::Box, NodeConfig::default()).await;
    seed.listening().await;
    seed.hold(&film, 0..18).await;
    near.engine.set_wanted(vec![starts(&film)]).await;
    swarm.plan(&near, &film, &[&seed.source()]).await;
    near.until(&film, |item| item.chunks_held == 16 && item.reason.contains("beginning")).await;
    assert!(!near.items.is_reserved(&film.item));
    let beyond = film.geometry().chunk(17).expect("it has eighteen");
    let waited = timeout(PATIENCE, near.engine.chunk(film.item, beyond)).await.expect("in time");
    assert_eq!(waited, Err(engine::ChunkWait::NotWanted), "a player does not wait for what nobody fetches");

    near.want(&[&film]).await;
    swarm.plan(&near, &film, &[&seed.source()]).await;
    near.until(&film, |item| item.state == ItemState::Available).await;
    assert!(near.items.is_reserved(&film.item));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_queued_comes_while_preloads_have_used_up_their_quota() {
    let mut swarm = Swarm::new(32);
    let (preload, queued) = (swarm.film(2 * CHUNK_BYTES), swarm.film(3 * CHUNK_BYTES));
    let config = NodeConfig { preload: config::Preload { max_percent: 0 }, ..NodeConfig::default() };
    let (seed, near) =
        (swarm.node(DeviceKind::Seed, NodeConfig::default()).await, swarm.node(DeviceKind::Box, config).await);
    seed.listening().await;
    seed.hold(&preload, 0..2).await;
    seed.hold(&queued, 0..3).await;
    let in_case = Wanted { class: TicketClass::Preload, ..Wanted::queued(preload.item, preload.geometry()) };
    near.engine.set_wanted(vec![Wanted::queued(queued.item, queued.geometry()), in_case]).await;
    for film in [&preload, &queued] {
        swarm.plan(&near, film, &[&seed.source()]).await;
    }
    near.until_complete(&queued).await;
    let paused = near.until(&preload, |item| item.state == ItemState::Paused).await;
    assert!(paused.reason.contains("preloads"), "{}", paused.reason);
    assert!(near.items.holding(&preload.item).is_none(), "no room is taken before it is allowed");
}
