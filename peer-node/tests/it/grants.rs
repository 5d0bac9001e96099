//! Purchases against a keyserver that loses answers, goes away and comes back.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use daemon::Shutdown;
use daemon::exit::{Exit, Failure};
use daemon::store::{Memory, Sled, Store};
use peer_node::grants::{Deps, Grants, OUTSIDE_WINDOW, Purchase, PurchaseState};
use peer_node::identity::{Enrolled, Identity};
use peer_node::{clock, config};
use rand::rand_core::UnwrapErr;
use rand::rngs::SysRng;
use swarm_proto::catalog::{CatalogEntry, Kind, Media, Offer, Policy};
use swarm_proto::code::PassCode;
use swarm_proto::geometry::ChunkIndex;
use swarm_proto::id::{AccountId, OrderId, PublisherId, ServerId, TitleId};
use swarm_proto::licence::{Licence, Subject};
use swarm_proto::limit::Limit;
use swarm_proto::membership::{DeviceKind, Membership};
use swarm_proto::pb::keyserver as pb;
use swarm_proto::pb::keyserver::OrderState;
use swarm_proto::pb::keyserver::deposits_server::{Deposits, DepositsServer};
use swarm_proto::pb::keyserver::rights_server::{Rights, RightsServer};
use swarm_proto::pb::keyserver::shop_server::{Shop, ShopServer};
use swarm_proto::revocations::Revocations;
use swarm_proto::seal::Released;
use swarm_proto::server_time::{self, ServerTime};
use swarm_proto::signed::{Signed, SigningKey};
use swarm_proto::succession::{Lineage, Succession};
use swarm_proto::time::{Mono, Now, Utc};
use swarm_proto::wrap::{self, HpkePublic, HpkeSecret, Label};
use tokio::sync::watch;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

use crate::making::{self, Made};

/// How long a test waits for what has to happen.
const SOON: Duration = Duration::from_secs(20);

/// A keyserver with one item, in memory. It keeps its orders while it is away.
struct Keyserver {
    signing: Mutex<SigningKey>,
    /// How its keys followed one another.
    lineage: Mutex<Lineage>,
    made: Made,
    offers: Vec<Offer>,
    device: (swarm_proto::id::DeviceId, HpkePublic),
    orders: Mutex<BTreeMap<String, pb::Order>>,
    /// The next answer of this call is lost after the work is done.
    loses: Mutex<Option<&'static str>>,
    wrong_key: AtomicBool,
    utc_ms: AtomicU64,
    /// Too many others play.
    no_place: AtomicBool,
    /// What was bought may not be watched any more.
    is_over: AtomicBool,
    /// Everything that was said about playing.
    reports: Mutex<Vec<pb::ReportPlayRequest>>,
    revocations: Mutex<Option<Signed<Revocations>>>,
}

impl Keyserver {
    fn lost(&self, call: &'static str) -> Result<(), Status> {
        let mut loses = self.loses.lock().expect("unpoisoned");
        match *loses == Some(call) {
            true => {
                *loses = None;
                Err(Status::unavailable("the answer is lost"))
            }
            false => Ok(()),
        }
    }

    fn with_order<T>(&self, id: &[u8], change: impl FnOnce(&mut pb::Order) -> T) -> Result<T, Status> {
        let mut orders = self.orders.lock().expect("unpoisoned");
        orders
            .values_mut()
            .find(|order| order.order == id)
            .map(change)
            .ok_or_else(|| Status::not_found("no such order"))
    }

    fn n_orders(&self) -> usize {
        self.orders.lock().expect("unpoisoned").len()
    }

    /// A till has taken the money.
    fn cash(&self) {
        self.orders.lock().expect("unpoisoned").values_mut().for_each(|order| order.set_state(OrderState::Paid));
    }

    fn signing(&self) -> SigningKey {
        self.signing.lock().expect("unpoisoned").clone()
    }

    /// Another key signs from now on, as the one before has said, or without a word.
    fn change_key(&self, fill: u8, said: bool) {
        let next = SigningKey::from_bytes(&[fill; 32]).expect("32 bytes");
        if said {
            let succession = Succession::sign(&self.signing(), &next, self.utc()).expect("signed");
            self.lineage.lock().expect("unpoisoned").hand_over(succession).expect("it follows");
        }
        *self.signing.lock().expect("unpoisoned") = next;
    }

    fn utc(&self) -> Utc {
        Utc::from_millis(self.utc_ms.load(Ordering::SeqCst))
    }
}

#[derive(Clone)]
struct Service(Arc<Keyserver>);

#[tonic::async_trait]
impl Rights for Service {
    async fn check_in(&self, request: Request<pb::CheckInRequest>) -> Result<Response<pb::CheckInResponse>, Status> {
        let nonce = server_time::nonce(&request.into_inner().nonce).expect("a nonce");
        let time = ServerTime::sign(&self.0.signing(), nonce, self.0.utc()).expect("signed");
        let revocations = self.0.revocations.lock().expect("unpoisoned").clone().map(Into::into);
        Ok(Response::new(pb::CheckInResponse { time: Some(time.into()), revocations }))
    }

    async fn report_play(
        &self,
        request: Request<pb::ReportPlayRequest>,
    ) -> Result<Response<pb::ReportPlayResponse>, Status> {
        self.0.reports.lock().expect("unpoisoned").push(request.into_inner());
        match self.0.no_place.load(Ordering::SeqCst) {
            true => Err(Failure::new(Exit::Conflict, "TOO_MANY_PLAYING", "\"attic\" plays").into()),
            false => Ok(Response::new(pb::ReportPlayResponse { interval_ms: 1_000 })),
        }
    }

    async fn list_rights(
        &self,
        request: Request<pb::ListRightsRequest>,
    ) -> Result<Response<pb::ListRightsResponse>, Status> {
        let item = request.into_inner().item;
        let orders = self.0.orders.lock().expect("unpoisoned");
        let live = orders.values().filter(|order| matches!(order.state(), OrderState::Paid | OrderState::Granted));
        let live = live
            .filter(|order| item.is_empty() || order.item == item)
            .filter(|_| !self.0.is_over.load(Ordering::SeqCst));
        let rights = live.map(|order| pb::Right {
            order: Some(order.clone()),
            commitment: self.0.made.key.commitment().to_vec(),
            granted_here: order.state() == OrderState::Granted,
        });
        Ok(Response::new(pb::ListRightsResponse { rights: rights.collect(), next_page_token: Vec::new() }))
    }

    async fn replace_device(
        &self,
        _: Request<pb::ReplaceDeviceRequest>,
    ) -> Result<Response<pb::ReplaceDeviceResponse>, Status> {
        Err(Status::unimplemented("not asked for here"))
    }
}

#[tonic::async_trait]
impl Deposits for Service {
    async fn get_keyserver(
        &self,
        request: Request<pb::GetKeyserverRequest>,
    ) -> Result<Response<pb::KeyserverInfo>, Status> {
        let server = self.0.signing().public().to_vec();
        let known = ServerId::try_from(request.into_inner().known.as_slice());
        let lineage = self.0.lineage.lock().expect("unpoisoned");
        let successions = known.map_or(Vec::new(), |known| lineage.since(&known).iter().map(Into::into).collect());
        let utc_ms = self.0.utc().as_millis();
        Ok(Response::new(pb::KeyserverInfo { server, hpke_public: vec![9; 32], utc_ms, successions }))
    }

    async fn deposit_key(&self, _: Request<pb::DepositKeyRequest>) -> Result<Response<pb::DepositKeyResponse>, Status> {
        Err(Status::unimplemented("not asked for here"))
    }
}

#[tonic::async_trait]
impl Shop for Service {
    async fn get_offers(&self, _: Request<pb::GetOffersRequest>) -> Result<Response<pb::GetOffersResponse>, Status> {
        Err(Status::unimplemented("not asked for here"))
    }

    async fn create_order(&self, request: Request<pb::CreateOrderRequest>) -> Result<Response<pb::Order>, Status> {
        for proof in ["reelswarm-call", "reelswarm-membership"] {
            assert!(request.metadata().contains_key(proof), "{proof} is missing");
        }
        let request = request.into_inner();
        let order = {
            let mut orders = self.0.orders.lock().expect("unpoisoned");
            let id = OrderId::generate(&mut UnwrapErr(SysRng));
            let order = orders.entry(request.idempotency_key).or_insert_with(|| pb::Order {
                order: id.to_vec(),
                item: request.item,
                offer: request.offer,
                state: OrderState::Pending.into(),
                ..pb::Order::default()
            });
            order.clone()
        };
        self.0.lost("create")?;
        Ok(Response::new(order))
    }

    async fn get_order(&self, request: Request<pb::GetOrderRequest>) -> Result<Response<pb::Order>, Status> {
        Ok(Response::new(self.0.with_order(&request.into_inner().order, |order| order.clone())?))
    }

    async fn list_orders(&self, _: Request<pb::ListOrdersRequest>) -> Result<Response<pb::ListOrdersResponse>, Status> {
        Err(Status::unimplemented("not asked for here"))
    }

    async fn pay_with_pass(&self, request: Request<pb::PayWithPassRequest>) -> Result<Response<pb::Order>, Status> {
        let request = request.into_inner();
        if request.code != pass() {
            return Err(Status::permission_denied("no such pass"));
        }
        let order = self.0.with_order(&request.order, |order| {
            order.set_state(OrderState::Paid);
            order.clone()
        })?;
        self.0.lost("pay")?;
        Ok(Response::new(order))
    }

    async fn get_pass(&self, _: Request<pb::GetPassRequest>) -> Result<Response<pb::Pass>, Status> {
        Err(Status::unimplemented("not asked for here"))
    }

    async fn request_grant(&self, request: Request<pb::RequestGrantRequest>) -> Result<Response<pb::Grant>, Status> {
        let server = &self.0;
        let (id, offer) = server.with_order(&request.into_inner().order, |order| {
            order.set_state(OrderState::Granted);
            (order.order.clone(), order.offer.clone())
        })?;
        let policy = &server.offers.iter().find(|known| known.id.as_str() == offer).expect("an offer").policy;
        let subject = Subject {
            order: id.as_slice().try_into().expect("16 bytes"),
            device: server.device.0,
            item: server.made.manifest.item(),
            commitment: server.made.key.commitment(),
            spans: 0..server.made.manifest.geometry().n_spans(),
        };
        let licence = Licence::new(1, subject, policy, server.utc(), server.utc());
        let signed = Signed::sign(&server.signing(), &licence).expect("a licence");
        let mut secret = Released::Whole(server.made.key.clone()).encode();
        if server.wrong_key.load(Ordering::SeqCst) {
            secret[5] ^= 1;
        }
        let aad = licence.grant_aad(&signed);
        let key = wrap::wrap(&mut UnwrapErr(SysRng), &server.device.1, Label::Grant, &aad, &secret).expect("wrapped");
        server.lost("grant")?;
        Ok(Response::new(pb::Grant {
            licence: Some((&signed).into()),
            key: Some(key.into()),
            utc_ms: server.utc().as_millis(),
        }))
    }
}

/// A box with its keyserver, which can be switched off and on at one address.
struct Home {
    server: Arc<Keyserver>,
    address: SocketAddr,
    running: Option<tokio::task::JoinHandle<()>>,
    identity: Arc<Identity>,
    store: Arc<dyn Store>,
    shutdown: Shutdown,
    config: config::Keyserver,
}

/// For ever, for 48 hours, and for 48 hours without ever asking again.
fn offers() -> Vec<Offer> {
    let parsed = |text| peer_node::publish::parse_offer(text).expect("an offer").offer;
    let rent = parsed("rent:2.99EUR:48h");
    let policy = Policy { renew_after: Limit::Unlimited, offline_grace: Limit::Unlimited, ..rent.policy.clone() };
    let evening = Offer { id: "evening".parse().expect("an id"), policy, ..rent.clone() };
    vec![parsed("buy:9.99EUR"), rent, evening]
}

/// The code of the only pass there is.
fn pass() -> String {
    static PASS: LazyLock<PassCode> = LazyLock::new(|| PassCode::generate(&mut UnwrapErr(SysRng)));
    PASS.reveal().to_string()
}

impl Home {
    async fn new() -> Home {
        let identity = Identity::of_keys(
            SigningKey::from_bytes(&[3; 32]).expect("32 bytes"),
            HpkeSecret::from_bytes(&[4; 32]).expect("32 bytes"),
        )
        .expect("an identity");
        let signing = SigningKey::from_bytes(&[5; 32]).expect("32 bytes");
        let server = Arc::new(Keyserver {
            lineage: Mutex::new(Lineage::founded_by(signing.server_id())),
            signing: Mutex::new(signing),
            made: making::item(10_000, 1),
            offers: offers(),
            device: (identity.device, identity.hpke.public()),
            orders: Mutex::default(),
            loses: Mutex::default(),
            wrong_key: AtomicBool::new(false),
            utc_ms: AtomicU64::new(clock::utc().as_millis()),
            no_place: AtomicBool::new(false),
            is_over: AtomicBool::new(false),
            reports: Mutex::default(),
            revocations: Mutex::default(),
        });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        drop(listener);
        let config =
            config::Keyserver { retry_max: daemon::units::Duration::from_secs(1), ..config::Keyserver::default() };
        let identity = Arc::new(identity);
        let store: Arc<dyn Store> = Arc::new(Memory::default());
        Home { server, address, running: None, identity, store, shutdown: Shutdown::manual(), config }
    }

    async fn open_shop(&mut self) {
        let listener = tokio::net::TcpListener::bind(self.address).await.expect("the port is free");
        let service = Service(self.server.clone());
        self.running = Some(tokio::spawn(async move {
            let router = tonic::transport::Server::builder()
                .add_service(DepositsServer::new(service.clone()))
                .add_service(RightsServer::new(service.clone()))
                .add_service(ShopServer::new(service));
            router.serve_with_incoming(TcpListenerStream::new(listener)).await.expect("served");
        }));
    }

    async fn close_shop(&mut self) {
        if let Some(running) = self.running.take() {
            running.abort();
            drop(running.await);
        }
    }

    /// The box starts; what ran before has ended.
    async fn start(&mut self) -> Grants {
        self.start_at(clock::now).await
    }

    async fn start_at(&mut self, clock: fn() -> Now) -> Grants {
        self.shutdown.trigger(Exit::Done);
        self.shutdown.drain().await;
        self.shutdown = Shutdown::manual();
        let (_, members) = watch::channel(Some(Arc::new(self.enrolled())));
        let (_, keyserver_url) = watch::channel(Some(format!("http://{}", self.address)));
        let deps = Deps {
            config: self.config.clone(),
            identity: self.identity.clone(),
            members,
            store: self.store.clone(),
            keyserver_url,
            name: "living room".to_owned(),
            clock,
            shutdown: self.shutdown.clone(),
        };
        Grants::start(deps).await.expect("started")
    }

    fn enrolled(&self) -> Enrolled {
        let tracker = SigningKey::from_bytes(&[6; 32]).expect("32 bytes");
        let membership = Membership {
            device: self.identity.device,
            account: AccountId::from([1; 16]),
            site: "north".parse().expect("a site"),
            kind: DeviceKind::Box,
            hpke: self.identity.hpke.public(),
            issued: Utc::from_secs(1),
            expires: Utc::MAX,
            serial: 1,
        };
        let signed = Signed::sign(&tracker, &membership).expect("a membership");
        let swarm_key = zeroize::Zeroizing::new([0; 32]);
        Enrolled { membership, signed, swarm_key, tracker: tracker.server_id(), tracker_url: String::new() }
    }

    fn entry(&self) -> CatalogEntry {
        let made = &self.server.made;
        CatalogEntry {
            title: TitleId::from([1; 16]),
            version: 1,
            publisher: PublisherId::from([2; 32]),
            item: made.manifest.item(),
            geometry: *made.manifest.geometry(),
            commitment: made.key.commitment(),
            span_commitment: None,
            name: "Noise".to_owned(),
            description: String::new(),
            kind: Kind::File,
            media: Media {
                mime: "a/b".to_owned(),
                duration: None,
                codecs: String::new(),
                picture: None,
                bit_rate: None,
            },
            artwork: None,
            rating_age: 0,
            regions: Vec::new(),
            released: Utc::from_secs(1),
            expires: Limit::Unlimited,
            offers: self.server.offers.clone(),
            withdrawn: false,
        }
    }

    async fn buy(&self, grants: &Grants, offer: &str, code: Option<&str>) -> Purchase {
        grants.buy(&self.entry(), Some(offer), code, None).await.expect("bought")
    }

    /// Waits until the item may be played.
    async fn playable(&self, grants: &Grants) -> Limit<Utc> {
        let item = self.server.made.manifest.item();
        let until = async {
            loop {
                match grants.playable(&item) {
                    Ok(until) => return until,
                    Err(_) => tokio::task::yield_now().await,
                }
            }
        };
        tokio::time::timeout(SOON, until).await.expect("the key arrives soon")
    }

    async fn opens(&self, grants: &Grants) {
        let made = &self.server.made;
        let geometry = *made.manifest.geometry();
        let keys = grants.open(made.manifest.item(), geometry, made.key.commitment(), None).await.expect("opens");
        let opener = keys.opener(ChunkIndex::FIRST).await.expect("its key is here");
        let mut sealed = made.sealed.to_vec();
        let first = made.manifest.geometry().segment(0).expect("there");
        assert!(*opener.open_segment(first, &mut sealed).expect("genuine") == *made.clear);
    }
}

#[tokio::test]
async fn pass_opens_a_title_at_once() {
    let mut home = Home::new().await;
    home.open_shop().await;
    let grants = home.start().await;
    let item = home.server.made.manifest.item();
    assert_eq!(grants.playable(&item).expect_err("unpaid").exit, Exit::Payment);
    let bought = home.buy(&grants, "buy", Some(&pass())).await;
    assert_eq!(bought.state, PurchaseState::Granted);
    assert_eq!(grants.playable(&item).expect("paid"), Limit::Unlimited);
    home.opens(&grants).await;
}

#[tokio::test]
async fn five_clicks_are_one_order() {
    let mut home = Home::new().await;
    home.open_shop().await;
    let grants = home.start().await;
    let clicks = futures::future::join_all((0..5).map(|_| home.buy(&grants, "buy", None))).await;
    assert!(clicks.iter().all(|click| *click == clicks[0] && click.state == PurchaseState::Pending));
    assert_eq!(home.server.n_orders(), 1);
    home.buy(&grants, "buy", Some(&pass())).await;
    home.buy(&grants, "buy", Some(&pass())).await;
    assert_eq!(home.server.n_orders(), 1, "what is bought is not bought again");
}

#[tokio::test]
async fn lost_answers_do_not_buy_twice() {
    for call in ["create", "pay", "grant"] {
        let mut home = Home::new().await;
        home.open_shop().await;
        let grants = home.start().await;
        *home.server.loses.lock().expect("unpoisoned") = Some(call);
        home.buy(&grants, "buy", Some(&pass())).await;
        home.playable(&grants).await;
        assert_eq!(home.server.n_orders(), 1, "{call}");
    }
}

#[tokio::test]
async fn order_made_without_a_keyserver_is_placed_and_paid_when_it_comes() {
    let mut home = Home::new().await;
    let grants = home.start().await;
    let bought = home.buy(&grants, "buy", Some(&pass())).await;
    assert_eq!(bought, Purchase { order: None, state: PurchaseState::Waiting });
    assert!(!grants.link().borrow().up);
    let grants = home.start().await;
    home.open_shop().await;
    home.playable(&grants).await;
    assert!(grants.link().borrow().up);
}

#[tokio::test]
async fn order_paid_at_a_till_clears_by_itself() {
    let mut home = Home::new().await;
    home.open_shop().await;
    let grants = home.start().await;
    assert_eq!(home.buy(&grants, "buy", None).await.state, PurchaseState::Pending);
    home.close_shop().await;
    home.server.cash();
    home.open_shop().await;
    home.playable(&grants).await;
    home.opens(&grants).await;
}

#[tokio::test]
async fn grants_survive_a_restart_without_a_keyserver() {
    let mut home = Home::new().await;
    home.open_shop().await;
    let grants = home.start().await;
    home.buy(&grants, "buy", Some(&pass())).await;
    home.close_shop().await;
    let grants = home.start().await;
    home.opens(&grants).await;
}

#[tokio::test]
async fn wrong_code_is_refused_and_the_order_waits_for_a_right_one() {
    let mut home = Home::new().await;
    home.open_shop().await;
    let grants = home.start().await;
    let typo = grants.buy(&home.entry(), Some("buy"), Some("not a code"), None).await.expect_err("no code");
    assert_eq!(typo.exit, Exit::Usage);
    assert_eq!(home.server.n_orders(), 0);
    let other = PassCode::generate(&mut UnwrapErr(SysRng)).reveal().to_string();
    let refused = grants.buy(&home.entry(), Some("buy"), Some(&other), None).await.expect_err("no such pass");
    assert_eq!(refused.exit, Exit::NotAllowed);
    assert_eq!(home.buy(&grants, "buy", Some(&pass())).await.state, PurchaseState::Granted);
    assert_eq!(home.server.n_orders(), 1);
}

#[tokio::test]
async fn offer_has_to_be_named_when_there_are_several() {
    let mut home = Home::new().await;
    let grants = home.start().await;
    let unclear = grants.buy(&home.entry(), None, None, None).await.expect_err("which");
    assert!(unclear.why.expect("why").contains("rent"));
    assert_eq!(grants.buy(&home.entry(), Some("gift"), None, None).await.expect_err("none").exit, Exit::NotFound);
}

#[tokio::test]
async fn key_that_the_publisher_did_not_commit_to_is_not_accepted() {
    let mut home = Home::new().await;
    home.open_shop().await;
    home.server.wrong_key.store(true, Ordering::SeqCst);
    let grants = home.start().await;
    let failure = grants.buy(&home.entry(), Some("buy"), Some(&pass()), None).await.expect_err("a wrong key");
    assert_eq!(failure.exit, Exit::Integrity);
    assert!(grants.playable_until(&home.server.made.manifest.item()).is_none());
    home.server.wrong_key.store(false, Ordering::SeqCst);
    home.playable(&grants).await;
}

#[tokio::test]
async fn other_keyserver_at_the_same_address_is_not_believed() {
    let mut home = Home::new().await;
    home.config.id = ServerId::from([8; 32]).to_string();
    home.open_shop().await;
    let grants = home.start().await;
    let failure = grants.buy(&home.entry(), Some("buy"), Some(&pass()), None).await.expect_err("a stranger");
    assert!(failure.hint.expect("hint").contains("keyserver.id"));
    assert_eq!(home.server.n_orders(), 0);
}

#[tokio::test]
async fn a_keyserver_is_followed_from_key_to_key_and_what_it_signed_before_still_counts() {
    let mut home = Home::new().await;
    home.open_shop().await;
    let grants = home.start().await;
    home.buy(&grants, "buy", Some(&pass())).await;
    home.playable(&grants).await;
    // It is greeted once a minute: the next grant comes with a signature that this box does not know yet.
    home.server.change_key(6, true);
    let bought = home.buy(&grants, "rent", Some(&pass())).await;
    assert_eq!(bought.state, PurchaseState::Granted, "nobody notices");

    home.close_shop().await;
    let grants = home.start().await;
    assert_eq!(grants.playable(&home.server.made.manifest.item()).expect("kept"), Limit::Unlimited);
    home.opens(&grants).await;
    // While the box was off, the key changed twice.
    home.server.change_key(7, true);
    home.server.change_key(8, true);
    home.open_shop().await;
    let grants = home.start().await;
    let bought = home.buy(&grants, "evening", Some(&pass())).await;
    assert_eq!(bought.state, PurchaseState::Granted);

    home.server.change_key(9, false);
    let grants = home.start().await;
    let mut link = grants.link();
    let refused = link.wait_for(|link| link.last_error.contains("is not the keyserver that this device knows"));
    tokio::time::timeout(SOON, refused).await.expect("it is met soon").expect("the box runs");
}

#[tokio::test]
async fn rental_ends_and_no_wall_clock_brings_it_back() {
    let mut home = Home::new().await;
    home.open_shop().await;
    let grants = home.start().await;
    home.buy(&grants, "rent", Some(&pass())).await;
    home.opens(&grants).await;
    let item = home.server.made.manifest.item();
    assert!(grants.may_go_on(&item).is_ok());
    home.server.utc_ms.fetch_add(Duration::from_secs(49 * 3_600).as_millis() as u64, Ordering::SeqCst);
    let grants = home.start().await;
    let failure = tokio::time::timeout(SOON, async {
        loop {
            match grants.playable(&item) {
                Ok(_) => tokio::task::yield_now().await,
                Err(failure) => return failure,
            }
        }
    });
    let failure = failure.await.expect("the keyserver tells the time soon");
    assert_eq!((failure.exit, failure.code.as_ref()), (Exit::Payment, OUTSIDE_WINDOW));
    home.close_shop().await;
    let grants = home.start_at(|| Now::new(clock::now().mono, Utc::from_secs(1))).await;
    assert!(grants.playable(&item).is_err(), "the latest known time is kept");
    home.open_shop().await;
    home.server.is_over.store(true, Ordering::SeqCst);
    let again = home.buy(&grants, "rent", Some(&pass())).await;
    assert_eq!(again.state, PurchaseState::Granted);
    assert_eq!(home.server.n_orders(), 2, "a rental that is over is bought anew");
}

#[tokio::test]
async fn viewing_under_way_may_end_and_after_it_none_begins() {
    static PASSED: AtomicU64 = AtomicU64::new(0);
    fn later() -> Now {
        let Now { mono, utc } = clock::now();
        Now::new(Mono::from_millis(mono.as_millis() + PASSED.load(Ordering::SeqCst)), utc)
    }
    let minutes = |minutes: u64| PASSED.store(minutes * 60_000, Ordering::SeqCst);
    let mut home = Home::new().await;
    home.open_shop().await;
    let grants = home.start_at(later).await;
    home.buy(&grants, "evening", Some(&pass())).await;
    home.opens(&grants).await;
    let (item, window) = (home.server.made.manifest.item(), 48 * 60);
    minutes(window - 1);
    home.opens(&grants).await;
    minutes(window + 5);
    assert!(grants.playable(&item).is_err(), "no viewing begins");
    home.opens(&grants).await;
    for minute in (window + 10..window + 6 * 60).step_by(10) {
        minutes(minute);
        assert!(grants.may_go_on(&item).is_ok(), "minute {minute}");
    }
    minutes(window + 6 * 60);
    assert_eq!(grants.may_go_on(&item).expect_err("six hours are enough").code, OUTSIDE_WINDOW);
    minutes(window + 6 * 60 - 5);
    assert!(grants.may_go_on(&item).is_err(), "what is over is not taken up again");
}

#[tokio::test]
async fn viewing_that_was_left_is_not_taken_up_after_the_end() {
    static PASSED: AtomicU64 = AtomicU64::new(0);
    fn later() -> Now {
        let Now { mono, utc } = clock::now();
        Now::new(Mono::from_millis(mono.as_millis() + PASSED.load(Ordering::SeqCst)), utc)
    }
    let mut home = Home::new().await;
    home.open_shop().await;
    let grants = home.start_at(later).await;
    home.buy(&grants, "evening", Some(&pass())).await;
    home.opens(&grants).await;
    PASSED.store(48 * 3_600_000 + 1, Ordering::SeqCst);
    let made = &home.server.made;
    let refused = grants.open(made.manifest.item(), *made.manifest.geometry(), made.key.commitment(), None).await;
    assert_eq!(refused.err().expect("two days of silence").code, OUTSIDE_WINDOW);
}

#[tokio::test]
async fn wall_clock_two_years_ahead_is_healed_by_the_keyserver() {
    let mut home = Home::new().await;
    home.open_shop().await;
    let grants = home.start().await;
    home.buy(&grants, "rent", Some(&pass())).await;
    let end = home.playable(&grants).await;
    home.close_shop().await;
    fn ahead() -> Now {
        let Now { mono, utc } = clock::now();
        Now::new(mono, utc + Duration::from_secs(730 * 86_400))
    }
    let grants = home.start_at(ahead).await;
    let item = home.server.made.manifest.item();
    assert_eq!(grants.playable(&item).expect_err("until someone knows better").code, OUTSIDE_WINDOW);
    home.open_shop().await;
    assert_eq!(home.playable(&grants).await, end, "the rightful rental plays, as long as before");
}

#[tokio::test]
async fn box_that_has_lost_its_store_finds_its_purchases_again() {
    let mut home = Home::new().await;
    home.open_shop().await;
    let grants = home.start().await;
    home.buy(&grants, "buy", Some(&pass())).await;
    home.store = Arc::new(Memory::default());
    let grants = home.start().await;
    home.playable(&grants).await;
    home.opens(&grants).await;
    assert_eq!(home.server.n_orders(), 1, "nothing is bought twice");
}

#[tokio::test]
async fn what_another_device_of_the_account_bought_is_not_bought_again() {
    let mut home = Home::new().await;
    home.open_shop().await;
    let grants = home.start().await;
    home.buy(&grants, "buy", None).await;
    home.server.cash();
    home.store = Arc::new(Memory::default());
    let grants = home.start().await;
    let bought = home.buy(&grants, "buy", None).await;
    assert_eq!((bought.state, home.server.n_orders()), (PurchaseState::Granted, 1));
}

#[tokio::test]
async fn viewing_without_a_place_is_refused_and_says_who_plays() {
    let mut home = Home::new().await;
    home.open_shop().await;
    let grants = home.start().await;
    home.buy(&grants, "buy", Some(&pass())).await;
    home.server.no_place.store(true, Ordering::SeqCst);
    let made = &home.server.made;
    let open = || grants.open(made.manifest.item(), *made.manifest.geometry(), made.key.commitment(), None);
    let refused = open().await.err().expect("no place");
    assert_eq!((refused.code.as_ref(), refused.what.contains("attic")), ("TOO_MANY_PLAYING", true));
    home.server.no_place.store(false, Ordering::SeqCst);
    assert!(open().await.is_ok());
    let reports = home.server.reports.lock().expect("unpoisoned").clone();
    assert!(reports.iter().all(|report| report.begins && report.device_name == "living room"));
    home.server.no_place.store(true, Ordering::SeqCst);
    let ended = async {
        while grants.may_go_on(&made.manifest.item()).is_ok() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(SOON, ended).await.expect("the keyserver ends the viewing");
    home.close_shop().await;
    let item = home.server.made.manifest.item();
    grants.may_go_on(&item).expect_err("and it stays ended");
}

#[tokio::test]
async fn what_the_keyserver_takes_back_is_not_played_even_offline() {
    let mut home = Home::new().await;
    home.open_shop().await;
    let grants = home.start().await;
    home.buy(&grants, "buy", Some(&pass())).await;
    home.opens(&grants).await;
    let signing = home.server.signing();
    let list = |device, version| {
        let issued = Utc::from_secs(1_000);
        let list = Revocations { device, version, issued, all: false, serials: [1].into() };
        Signed::sign(&signing, &list).expect("signed")
    };
    let (mine, other) = (list(home.identity.device, 3), list([9; 32].into(), 4));
    let item = home.server.made.manifest.item();
    *home.server.revocations.lock().expect("unpoisoned") = Some(other);
    let grants = home.start().await;
    assert!(grants.playable(&item).is_ok(), "a list of another device takes nothing back");
    *home.server.revocations.lock().expect("unpoisoned") = Some(mine);
    let grants = home.start().await;
    let taken_back = async {
        while grants.playable(&item).is_ok() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(SOON, taken_back).await.expect("the list arrives");
    home.close_shop().await;
    *home.server.revocations.lock().expect("unpoisoned") = None;
    let grants = home.start().await;
    assert_eq!(grants.playable(&item).expect_err("the list is kept").code, OUTSIDE_WINDOW);
}

#[tokio::test]
async fn after_playing_neither_key_nor_film_nor_pass_code_is_on_the_boxs_disk() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut home = Home::new().await;
    home.store = Arc::new(Sled::open(folder.path().join("store")).await.expect("a store"));
    let grants = home.start().await;
    home.buy(&grants, "buy", Some(&pass())).await;
    home.open_shop().await;
    home.playable(&grants).await;
    home.opens(&grants).await;
    home.shutdown.trigger(Exit::Done);
    home.shutdown.drain().await;

    let made = &home.server.made;
    let key = *made.key.expose();
    let spans = Released::Spans(made.key.spans(0..1).expect("a span")).encode();
    let span_key = spans[spans.len() - 32..].to_vec();
    let code = pass();
    let secrets: [(&str, Vec<u8>); 6] = [
        ("the key", key.to_vec()),
        ("the key in hex", data_encoding::HEXLOWER.encode(&key).into_bytes()),
        ("half of the key", key[8..24].to_vec()),
        ("a span's key", span_key),
        ("the film", made.clear[..64].to_vec()),
        ("the pass code", code.into_bytes()),
    ];
    let files = files_below(folder.path());
    let licence_is_there = files.iter().any(|bytes| found(bytes, made.manifest.item().as_bytes()));
    assert!(licence_is_there, "the store is searched at the right place");
    for (what, secret) in secrets {
        assert!(!files.iter().any(|bytes| found(bytes, &secret)), "{what} is on disk");
    }
}

fn files_below(folder: &std::path::Path) -> Vec<Vec<u8>> {
    let entries = std::fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("readable").path());
    entries
        .flat_map(|path| match path.is_dir() {
            true => files_below(&path),
            false => vec![std::fs::read(&path).expect("readable")],
        })
        .collect()
}

fn found(bytes: &[u8], secret: &[u8]) -> bool {
    bytes.windows(secret.len()).any(|window| window == secret)
}
