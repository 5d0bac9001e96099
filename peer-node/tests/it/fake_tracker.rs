//! A tracker that does as it is told: real sockets and signatures, and nothing that decides.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::{Stream, StreamExt as _};
use peer_node::clock;
use swarm_proto::call::CallToken;
use swarm_proto::catalog::{CatalogEntry, Kind, Media};
use swarm_proto::geometry::{CHUNK_BYTES, Geometry};
use swarm_proto::id::{AccountId, DeviceId, ItemId, SiteId, TitleId};
use swarm_proto::limit::Limit;
use swarm_proto::membership::{DeviceKind, Membership};
use swarm_proto::pb::tracker as pb;
use swarm_proto::pb::tracker::{notice, report};
use swarm_proto::seal::KeyCommitment;
use swarm_proto::signed::{Signed, SigningKey};
use swarm_proto::wrap::HpkePublic;
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{broadcast, watch};
use tokio_stream::wrappers::{BroadcastStream, TcpListenerStream};
use tonic::{Request, Response, Status, Streaming};

/// The only enrolment code that is good.
pub(crate) const CODE: &str = "7KQ2-M9X7";

/// Notices and changes that may wait for a device.
const WAITING: usize = 64;

#[derive(Clone)]
pub(crate) struct FakeTracker(Arc<Inner>);

struct Inner {
    key: SigningKey,
    state: Mutex<State>,
    reports: watch::Sender<Vec<report::Report>>,
    notices: broadcast::Sender<notice::Notice>,
    changes: broadcast::Sender<pb::CatalogChange>,
}

#[derive(Default)]
struct State {
    titles: Vec<pb::CatalogChange>,
    queue: pb::QueueState,
    keyserver_url: String,
}

/// A tracker that is being served, on threads of its own. Dropping it cuts all its connections and frees its port.
pub(crate) struct Serving {
    pub(crate) address: SocketAddr,
    runtime: Option<Runtime>,
}

impl Serving {
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let runtime = self.runtime.take().expect("dropped once");
        // A runtime waits for its threads when it is dropped, which async code may not do itself.
        std::thread::spawn(move || drop(runtime)).join().expect("nothing panicked");
    }
}

impl FakeTracker {
    pub(crate) fn new(seed: u8) -> FakeTracker {
        FakeTracker(Arc::new(Inner {
            key: SigningKey::from_bytes(&[seed; 32]).expect("32 bytes"),
            state: Mutex::default(),
            reports: watch::Sender::default(),
            notices: broadcast::Sender::new(WAITING),
            changes: broadcast::Sender::new(WAITING),
        }))
    }

    /// Serves at this address; port 0 takes any.
    pub(crate) fn serve(&self, address: &str) -> Serving {
        let listener = std::net::TcpListener::bind(address).expect("the port is free");
        listener.set_nonblocking(true).expect("possible");
        let address = listener.local_addr().expect("bound");
        let server = tonic::transport::Server::builder()
            .add_service(pb::enrolment_server::EnrolmentServer::new(self.clone()))
            .add_service(pb::swarm_server::SwarmServer::new(self.clone()))
            .add_service(pb::catalog_server::CatalogServer::new(self.clone()))
            .add_service(pb::queue_server::QueueServer::new(self.clone()));
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
        runtime.spawn(async move {
            let listener = TcpListener::from_std(listener).expect("non-blocking");
            server.serve_with_incoming(TcpListenerStream::new(listener)).await.expect("serves");
        });
        Serving { address, runtime: Some(runtime) }
    }

    pub(crate) fn key(&self) -> &SigningKey {
        &self.0.key
    }

    /// Every report so far.
    pub(crate) fn reports(&self) -> watch::Receiver<Vec<report::Report>> {
        self.0.reports.subscribe()
    }

    /// Says something to every device that attends.
    pub(crate) fn say(&self, notice: notice::Notice) {
        let _ = self.0.notices.send(notice);
    }

    pub(crate) fn set_keyserver_url(&self, url: &str) {
        self.state(|state| state.keyserver_url = url.to_owned());
    }

    /// Puts a title into the catalog, as it is.
    pub(crate) fn publish(&self, entry: &Signed<CatalogEntry>) {
        let change = self.state(|state| {
            let catalog_version = state.titles.len() as u64 + 1;
            let title = pb::Title { entry: Some(entry.into()), catalog_version, hidden: false };
            let change = pb::CatalogChange { catalog_version, title: Some(title) };
            state.titles.push(change.clone());
            change
        });
        let _ = self.0.changes.send(change);
    }

    /// A membership that this tracker gives a device.
    pub(crate) fn membership(&self, device: DeviceId, hpke: HpkePublic, serial: u64) -> Signed<Membership> {
        let membership = Membership {
            device,
            account: AccountId::from_bytes([1; 16]),
            site: SiteId::new("north").expect("a label"),
            kind: DeviceKind::Box,
            hpke,
            issued: clock::utc(),
            expires: clock::utc() + Duration::from_secs(3_600),
            serial,
        };
        Signed::sign(self.key(), &membership).expect("a good membership")
    }

    fn state<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(&mut self.0.state.lock().expect("nobody panicked"))
    }

    fn caller<T>(&self, request: &Request<T>) -> Result<DeviceId, Status> {
        let text = request.metadata().get("reelswarm-call").and_then(|value| value.to_str().ok());
        let token = Signed::<CallToken>::from_text(text.ok_or_else(|| Status::unauthenticated("no token"))?);
        let token = token.map_err(|error| Status::unauthenticated(error.to_string()))?;
        CallToken::verify(&token, &self.key().server_id(), clock::utc())
            .map(|proof| proof.device)
            .map_err(|error| Status::unauthenticated(error.to_string()))
    }

    fn changed_queue(&self, change: impl FnOnce(&mut Vec<pb::QueueEntry>)) -> Response<pb::QueueState> {
        let queue = self.state(|state| {
            change(&mut state.queue.entries);
            state.queue.version += 1;
            state.queue.clone()
        });
        self.say(notice::Notice::Queue(queue.clone()));
        Response::new(queue)
    }
}

/// A title of so many chunks, signed by a publisher of the tests. The same name is the same title.
pub(crate) fn entry(name: &str, version: u64, chunks: u64) -> Signed<CatalogEntry> {
    let key = SigningKey::from_bytes(&[77; 32]).expect("32 bytes");
    let id = blake3::hash(name.as_bytes());
    let entry = CatalogEntry {
        title: TitleId::try_from(&id.as_bytes()[..16]).expect("16 bytes"),
        version,
        publisher: key.publisher_id(),
        item: ItemId::from_bytes(*id.as_bytes()),
        geometry: Geometry::of_sealed(chunks * CHUNK_BYTES).expect("possible"),
        commitment: KeyCommitment::from_bytes([3; 32]),
        span_commitment: None,
        name: name.to_owned(),
        description: String::new(),
        kind: Kind::Video,
        media: Media {
            mime: "video/mp4".to_owned(),
            duration: None,
            codecs: String::new(),
            picture: None,
            bit_rate: None,
        },
        artwork: None,
        rating_age: 0,
        regions: Vec::new(),
        released: clock::utc(),
        expires: Limit::Unlimited,
        offers: Vec::new(),
        withdrawn: false,
    };
    Signed::sign(&key, &entry).expect("a good entry")
}

type BoxStream<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl pb::enrolment_server::Enrolment for FakeTracker {
    async fn get_tracker(&self, _: Request<pb::GetTrackerRequest>) -> Result<Response<pb::TrackerInfo>, Status> {
        Ok(Response::new(pb::TrackerInfo {
            server: self.key().server_id().to_vec(),
            name: "fake".to_owned(),
            utc_ms: clock::utc().as_millis(),
            keyserver_url: self.state(|state| state.keyserver_url.clone()),
        }))
    }

    async fn enrol(&self, request: Request<pb::EnrolRequest>) -> Result<Response<pb::EnrolResponse>, Status> {
        let device = self.caller(&request)?;
        let request = request.into_inner();
        if request.code.replace('-', "") != CODE.replace('-', "") {
            return Err(Status::permission_denied("this code is not good, or was used by another device"));
        }
        let hpke = HpkePublic::try_from(request.hpke_public.as_slice())
            .map_err(|_| Status::invalid_argument("hpke_public"))?;
        let membership = Some((&self.membership(device, hpke, 1)).into());
        Ok(Response::new(pb::EnrolResponse { membership, swarm_key: vec![5; 32] }))
    }
}

#[tonic::async_trait]
impl pb::swarm_server::Swarm for FakeTracker {
    type AttendStream = BoxStream<pb::Notice>;

    async fn attend(&self, request: Request<Streaming<pb::Report>>) -> Result<Response<Self::AttendStream>, Status> {
        self.caller(&request)?;
        let mut incoming = request.into_inner();
        let (reports, said) = (self.0.reports.clone(), self.0.notices.subscribe());
        tokio::spawn(async move {
            while let Ok(Some(pb::Report { report: Some(report) })) = incoming.message().await {
                reports.send_modify(|reports| reports.push(report));
            }
        });
        let welcome = pb::Welcome {
            heartbeat_every_ms: 1_000,
            observed_address: "127.0.0.1".to_owned(),
            pinned_seeds: Vec::new(),
        };
        let queue = self.state(|state| state.queue.clone());
        let first = [notice::Notice::Welcome(welcome), notice::Notice::Queue(queue)];
        let later = BroadcastStream::new(said).filter_map(async |notice| notice.ok());
        let notices = futures::stream::iter(first).chain(later).map(|notice| Ok(pb::Notice { notice: Some(notice) }));
        Ok(Response::new(Box::pin(notices)))
    }

    async fn assign_sources(&self, request: Request<pb::AssignSourcesRequest>) -> Result<Response<pb::Plan>, Status> {
        self.caller(&request)?;
        Ok(Response::new(pb::Plan {
            item: request.into_inner().item,
            waiting: "no source holds it yet".to_owned(),
            ..pb::Plan::default()
        }))
    }
}

#[tonic::async_trait]
impl pb::catalog_server::Catalog for FakeTracker {
    type WatchCatalogStream = BoxStream<pb::CatalogChange>;

    async fn watch_catalog(
        &self,
        request: Request<pb::WatchCatalogRequest>,
    ) -> Result<Response<Self::WatchCatalogStream>, Status> {
        self.caller(&request)?;
        let after = request.into_inner().after_version;
        let later = BroadcastStream::new(self.0.changes.subscribe()).filter_map(async |change| change.ok());
        let known =
            self.state(|state| state.titles.clone()).into_iter().filter(move |change| change.catalog_version > after);
        Ok(Response::new(Box::pin(futures::stream::iter(known).chain(later).map(Ok))))
    }

    async fn publish(&self, _: Request<pb::PublishRequest>) -> Result<Response<pb::PublishResponse>, Status> {
        Err(Status::unimplemented("publish"))
    }

    async fn get_title(&self, _: Request<pb::GetTitleRequest>) -> Result<Response<pb::Title>, Status> {
        Err(Status::unimplemented("get_title"))
    }

    async fn list_titles(&self, _: Request<pb::ListTitlesRequest>) -> Result<Response<pb::ListTitlesResponse>, Status> {
        Err(Status::unimplemented("list_titles"))
    }

    async fn search_titles(
        &self,
        _: Request<pb::SearchTitlesRequest>,
    ) -> Result<Response<pb::ListTitlesResponse>, Status> {
        Err(Status::unimplemented("search_titles"))
    }
}

#[tonic::async_trait]
impl pb::queue_server::Queue for FakeTracker {
    async fn get_queue(&self, request: Request<pb::GetQueueRequest>) -> Result<Response<pb::QueueState>, Status> {
        self.caller(&request)?;
        Ok(Response::new(self.state(|state| state.queue.clone())))
    }

    async fn add_to_queue(&self, request: Request<pb::AddToQueueRequest>) -> Result<Response<pb::QueueState>, Status> {
        let device = self.caller(&request)?;
        let pb::AddToQueueRequest { title, before, .. } = request.into_inner();
        Ok(self.changed_queue(|entries| {
            let place = entries.iter().position(|entry| entry.title == before).unwrap_or(entries.len());
            entries.insert(place, pb::QueueEntry { title, device: device.to_vec(), ..pb::QueueEntry::default() });
        }))
    }

    async fn move_in_queue(
        &self,
        request: Request<pb::MoveInQueueRequest>,
    ) -> Result<Response<pb::QueueState>, Status> {
        self.caller(&request)?;
        let pb::MoveInQueueRequest { title, to, .. } = request.into_inner();
        Ok(self.changed_queue(|entries| {
            let from = entries.iter().position(|entry| entry.title == title).expect("it is in the queue");
            let entry = entries.remove(from);
            entries.insert((to as usize).min(entries.len()), entry);
        }))
    }

    async fn remove_from_queue(
        &self,
        request: Request<pb::RemoveFromQueueRequest>,
    ) -> Result<Response<pb::QueueState>, Status> {
        self.caller(&request)?;
        let title = request.into_inner().title;
        Ok(self.changed_queue(|entries| entries.retain(|entry| entry.title != title)))
    }
}
