//! The one task that talks to the keyserver and writes down what came of it.
//!
//! Works in rounds: greet the keyserver (is it the one we know), check in (what time is it), move every open order one step
//! further, fetch fresh licences that are due. Rounds come quickly while something is expected and rarely otherwise;
//! after a failure they come later and later, up to a bound. A buyer's request is a round of its own for that order.
//! What a step has learnt is on disk before the next step and before the buyer's answer.

use std::collections::BTreeMap;
use std::sync::{Arc, RwLock};
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use daemon::client::{self, Trust};
use daemon::exit::{Exit, Failure};
use daemon::secrets;
use daemon::store::{Batch, MAX_PAGE, Store};
use data_encoding::HEXLOWER;
use rand::rand_core::UnwrapErr;
use rand::rngs::SysRng;
use swarm_proto::catalog::OfferId;
use swarm_proto::code::PassCode;
use swarm_proto::id::{DeviceId, ItemId, OrderId, ServerId};
use swarm_proto::licence::{Denied, Licence};
use swarm_proto::pb::common;
use swarm_proto::pb::keyserver as pb;
use swarm_proto::pb::keyserver::OrderState;
use swarm_proto::pb::keyserver::checkout_client::CheckoutClient;
use swarm_proto::pb::keyserver::deposits_client::DepositsClient;
use swarm_proto::pb::keyserver::rights_client::RightsClient;
use swarm_proto::pb::keyserver::shop_client::ShopClient;
use swarm_proto::pb::keyserver::spans_client::SpansClient;
use swarm_proto::revocations::Revocations;
use swarm_proto::seal::KeyCommitment;
use swarm_proto::server_time::{NONCE_BYTES, ServerTime};
use swarm_proto::signed::Signed;
use swarm_proto::succession::Lineage;
use swarm_proto::time::Utc;
use swarm_proto::wrap::{self, Label, Wrapped};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::Channel;
use zeroize::Zeroizing;

use super::checkout::Links;
use super::records::{self, Grant, Key, Order};
use super::{Deps, Purchase, PurchaseState, Shared, State, TrustedTime, Viewings, lineage};
use crate::config::AUTO;
use crate::identity::{Identity, Members};
use crate::tracker_link::LinkState;

/// How long one call may take. Three of them fit into the ten seconds that a buyer's own request may last.
const CALL_WITHIN: Duration = Duration::from_secs(3);

/// The first pause after a failure, and between two looks at an order that is expected to move.
const RETRY_MIN: Duration = Duration::from_secs(1);

/// How often an idle device checks in with its keyserver, which keeps its clock right.
const IDLE: Duration = Duration::from_secs(60);

/// How often what plays is reported until the keyserver has said how often it wants to hear it, and the bounds of that.
const REPORT_EVERY: Duration = Duration::from_secs(30);
const REPORT_MIN: Duration = Duration::from_secs(1);
const REPORT_MAX: Duration = Duration::from_secs(600);

/// Rights asked for at a time.
const RIGHTS_PAGE: u32 = 100;

/// Orders followed at a time. A box with more open orders is being played with.
const MAX_OPEN_ORDERS: usize = 256;

/// Metadata that shows to which account a device belongs.
const MEMBERSHIP_METADATA: &str = "reelswarm-membership";

/// What the pass code in a stored order is wrapped with.
const PASS_AAD: &[u8] = b"pass code";

/// What others ask of the keeper.
pub(super) enum Request {
    /// Makes or continues an order.
    Buy {
        item: ItemId,
        commitment: KeyCommitment,
        offer: OfferId,
        pass: Option<PassCode>,
        replaces: Option<DeviceId>,
        reply: oneshot::Sender<Result<Purchase, Failure>>,
    },
    /// Asks for a place to play.
    TakePlace { item: ItemId, take_over: bool, reply: oneshot::Sender<Result<(), Failure>> },
    /// Asks who the keyserver is, and how it is reached.
    Session { reply: oneshot::Sender<Result<Session, Failure>> },
    /// Starts the clock of a rental, durably.
    FirstPlay { item: ItemId, order: OrderId, reply: oneshot::Sender<Result<(), Failure>> },
}

/// A keyserver that has proven to be the one we know.
#[derive(Clone)]
pub(super) struct Session {
    url: String,
    channel: Channel,
    server: ServerId,
    greeted: Instant,
}

/// Proves this device and its account to the keyserver.
#[derive(Clone)]
pub(super) struct Caller {
    pub(super) identity: Arc<Identity>,
    pub(super) members: Members,
}

/// Follows orders until their grants are here.
pub(super) struct Keeper {
    deps: Deps,
    inbox: mpsc::Receiver<Request>,
    shared: Arc<Shared>,
    link: watch::Sender<LinkState>,
    /// The keyserver that is believed; `None` before the first contact.
    known: Option<Lineage>,
    /// Every order that is stored, by its key.
    orders: BTreeMap<Bytes, Order>,
    session: Option<Session>,
    pause: Duration,
    next_round: Instant,
    /// How often the keyserver wants to hear of what plays.
    report_every: Duration,
    next_report: Instant,
    is_recovered: bool,
}

impl Keeper {
    /// Reads everything that is stored.
    pub(super) async fn open(
        deps: Deps,
        inbox: mpsc::Receiver<Request>,
    ) -> anyhow::Result<(Keeper, Arc<Shared>, watch::Receiver<LinkState>)> {
        let store = &*deps.store;
        let known = lineage::known(store, &deps.config.id).await?;
        let now = (deps.clock)();
        let high_water = match store.get(&Key::HighWater.bytes()).await? {
            Some(stored) => Utc::from_millis(u64::from_be_bytes(stored.value.as_ref().try_into().unwrap_or_default())),
            None => Utc::EPOCH,
        };
        let (mut orders, mut grants) = (BTreeMap::new(), BTreeMap::<_, BTreeMap<_, _>>::new());
        for (key, value) in scan(store, records::ORDERS).await? {
            let order = Order::decode(&value).context("failed to read a stored order")?;
            orders.insert(key, order);
        }
        for (_, value) in scan(store, records::GRANTS).await? {
            let keyserver = known.as_ref().context("there are grants, but no keyserver is known")?;
            match Grant::decode(&value, keyserver) {
                Ok(grant) => {
                    grants.entry(grant.licence.item).or_default().insert(grant.licence.order, grant);
                }
                Err(error) => tracing::warn!(reason = format!("{error:#}"), "a stored grant is damaged: not used"),
            }
        }
        let revoked = match store.get(&Key::Revocations.bytes()).await? {
            Some(stored) => {
                let keyserver = known.as_ref().context("keys were taken back, but no keyserver is known")?;
                let signed = Signed::<Revocations>::from_bytes(&stored.value)?;
                Some(keyserver.verify_kept(&signed).context("the list of what was taken back is damaged")?)
            }
            None => None,
        };
        let is_recovered = store.get(&Key::Recovered.bytes()).await?.is_some();
        let states = orders.values().map(|order: &Order| (order.item, order.state)).collect();
        let mut links = Links::default();
        for order in orders.values() {
            links.note(order.item, order.awaits_money());
        }
        let time = TrustedTime::resume(high_water, now.mono);
        let state = State {
            time,
            grants,
            orders: states,
            open: BTreeMap::new(),
            previews: BTreeMap::new(),
            links,
            viewings: Viewings::default(),
            revoked,
            ended: BTreeMap::new(),
        };
        let caller = Caller { identity: deps.identity.clone(), members: deps.members.clone() };
        let (name, clock) = (deps.name.clone(), deps.clock);
        let shared = Arc::new(Shared { caller, name, clock, state: RwLock::new(state) });
        let down = LinkState { url: String::new(), up: false, since: now.utc, last_error: "not tried yet".to_owned() };
        let (link, link_seen) = watch::channel(down);
        let keeper = Keeper {
            deps,
            inbox,
            shared: shared.clone(),
            link,
            known,
            orders,
            session: None,
            pause: RETRY_MIN,
            next_round: Instant::now(),
            report_every: REPORT_EVERY,
            next_report: Instant::now(),
            is_recovered,
        };
        Ok((keeper, shared, link_seen))
    }

    pub(super) async fn run(mut self) {
        let shutdown = self.deps.shutdown.clone();
        let mut url = self.deps.keyserver_url.clone();
        let mut members = self.deps.members.clone();
        loop {
            let request = tokio::select! {
                () = shutdown.requested() => break,
                Some(request) = self.inbox.recv() => Some(request),
                () = tokio::time::sleep_until(self.next_report) => {
                    self.report_all().await;
                    continue;
                }
                () = tokio::time::sleep_until(self.next_round) => None,
                Ok(()) = url.changed() => None,
                Ok(()) = members.changed() => None,
            };
            match request {
                Some(Request::Buy { item, commitment, offer, pass, replaces, reply }) => {
                    let result = self.buy(item, commitment, offer, pass, replaces).await;
                    self.pause = RETRY_MIN;
                    self.next_round = Instant::now() + RETRY_MIN;
                    drop(reply.send(result));
                }
                Some(Request::FirstPlay { item, order, reply }) => drop(reply.send(self.first_play(item, order).await)),
                Some(Request::Session { reply }) => drop(reply.send(self.session().await)),
                Some(Request::TakePlace { item, take_over, reply }) => {
                    let result = self.take_place(item, take_over).await;
                    if let Err(Err(failure)) = reply.send(result) {
                        // Nobody waited so long: the film plays already, and ends now.
                        self.end_viewing(item, failure);
                    }
                }
                None => self.round().await,
            }
        }
        if let Err(failure) = self.keep_time().await {
            tracing::warn!(reason = %failure, "the trusted time could not be stored");
        }
    }

    /// Greets the keyserver, moves every open order on, renews what is due, and decides when to come again.
    async fn round(&mut self) {
        let result = self.go_round().await;
        let now = (self.shared.clock)();
        self.shared.change(|state| state.close_over(now));
        let longest = self.deps.config.retry_max.get().max(RETRY_MIN);
        let wait = match result {
            Ok(false) => IDLE,
            Ok(true) => self.pause,
            Err(failure) => {
                tracing::debug!(reason = %failure, "the keyserver gave no answer");
                self.pause
            }
        };
        self.next_round = Instant::now() + jittered(wait);
        self.pause = (self.pause * 2).min(longest);
    }

    /// True when something is still expected.
    async fn go_round(&mut self) -> Result<bool, Failure> {
        let session = self.session().await?;
        if !self.is_recovered {
            self.recover(&session).await?;
        }
        let open: Vec<Bytes> =
            self.orders.iter().filter(|(_, order)| order.is_open()).map(|(key, _)| key.clone()).collect();
        for key in open {
            if let Err(failure) = self.advance(&session, &key).await {
                if self.is_away(&failure) {
                    return Err(failure);
                }
                tracing::warn!(reason = %failure, "an order does not get on");
            }
        }
        for (item, order) in self.due_renewals() {
            match self.fetch_grant(&session, item, order, None).await {
                Err(failure) if self.is_away(&failure) => return Err(failure),
                Err(failure) => tracing::warn!(%item, reason = %failure, "a licence could not be renewed"),
                Ok(()) => tracing::info!(%item, "licence renewed"),
            }
        }
        self.shared.link_pending(&session).await;
        let browsed = self.bought_in_a_browser(&session).await?;
        Ok(browsed || self.orders.values().any(Order::is_open))
    }

    async fn buy(
        &mut self,
        item: ItemId,
        commitment: KeyCommitment,
        offer: OfferId,
        pass: Option<PassCode>,
        replaces: Option<DeviceId>,
    ) -> Result<Purchase, Failure> {
        let key = Key::Order(item, offer.clone()).bytes();
        let mut order = match self.orders.get(&key) {
            Some(order) if !self.is_used_up(order) => order.clone(),
            _ => match self.bought_elsewhere(item, commitment, &offer).await {
                Some(order) => order,
                None => self.new_order(item, commitment, offer)?,
            },
        };
        if let Some(pass) = pass.filter(|_| matches!(order.state, OrderState::Unspecified | OrderState::Pending)) {
            order.pass = Some(self.wrap_pass(&pass)?);
        }
        self.keep_order(order).await?;
        if let Some(lost) = replaces {
            self.replace(&key, lost).await?;
        }
        match self.settle(&key).await {
            Err(failure) if !self.is_away(&failure) => Err(failure),
            _ => Ok(self.purchase(&key)),
        }
    }

    /// As far as an order can get now.
    async fn settle(&mut self, key: &Bytes) -> Result<(), Failure> {
        if !self.orders.get(key).is_some_and(Order::is_open) {
            return Ok(());
        }
        let session = self.session().await?;
        let result = self.advance(&session, key).await;
        if let Err(failure) = &result {
            self.is_away(failure);
        }
        result
    }

    /// Moves an order on: made known, paid, granted.
    async fn advance(&mut self, session: &Session, key: &Bytes) -> Result<(), Failure> {
        let Some(mut order) = self.orders.get(key).cloned() else { return Ok(()) };
        let id = match order.id {
            Some(id) => id,
            None => {
                let request = pb::CreateOrderRequest {
                    idempotency_key: order.idempotency_key.clone(),
                    item: order.item.to_vec(),
                    offer: order.offer.to_string(),
                };
                let request = self.signed_call(session, request)?;
                let answer = session.call(session.shop().create_order(request)).await?;
                self.take_answer(&mut order, &answer).await?
            }
        };
        if order.state == OrderState::Pending {
            let answer = match order.pass.clone() {
                Some(pass) => self.pay(session, &mut order, id, &pass).await?,
                None => {
                    let request = self.signed_call(session, pb::GetOrderRequest { order: id.to_vec() })?;
                    session.call(session.shop().get_order(request)).await?
                }
            };
            self.take_answer(&mut order, &answer).await?;
        }
        if matches!(order.state, OrderState::Paid | OrderState::Granted) && !order.has_grant {
            self.fetch_grant(session, order.item, id, Some(order.commitment)).await?;
            order.state = OrderState::Granted;
            order.has_grant = true;
            let item = order.item;
            self.keep_order(order).await?;
            tracing::info!(%item, order = %id, "the key is here");
        }
        Ok(())
    }

    /// Pays with a pass. A code that the keyserver refuses is forgotten at once.
    async fn pay(
        &mut self,
        session: &Session,
        order: &mut Order,
        id: OrderId,
        pass: &Wrapped,
    ) -> Result<pb::Order, Failure> {
        let code = wrap::unwrap(&self.deps.identity.hpke, Label::JobKey, PASS_AAD, pass).ok();
        let code = code.and_then(|code| String::from_utf8(code.to_vec()).ok()).map(Zeroizing::new);
        let Some(code) = code else {
            order.pass = None;
            self.keep_order(order.clone()).await?;
            return Err(Failure::new(Exit::Failed, "E-PAY-06", "the pass code that was kept cannot be read any more")
                .hint("type the code again: peer-node pay TITLE --pass CODE"));
        };
        let request =
            self.signed_call(session, pb::PayWithPassRequest { order: id.to_vec(), code: code.to_string() })?;
        let paid = session.call(session.shop().pay_with_pass(request)).await;
        if let Err(failure) = &paid
            && failure.exit != Exit::Unreachable
        {
            order.pass = None;
            self.keep_order(order.clone()).await?;
        }
        paid
    }

    /// Fetches, checks and stores a grant. `commitment` is what the catalog said when the title was bought; a renewal
    /// is held against the licence that is here.
    async fn fetch_grant(
        &mut self,
        session: &Session,
        item: ItemId,
        order: OrderId,
        commitment: Option<KeyCommitment>,
    ) -> Result<(), Failure> {
        let request = self.signed_call(session, pb::RequestGrantRequest { order: order.to_vec() })?;
        let answer = session.call(session.shop().request_grant(request)).await?;
        let session = &self.session_of(session, answer.licence.as_ref()).await?;
        let old = self.shared.read(|state| state.grants.get(&item)?.get(&order).cloned());
        let commitment = commitment.or(old.as_ref().map(|old| old.licence.commitment));
        let grant = self.check_grant(session, answer, item, order, commitment, old.and_then(|old| old.first_play));
        let grant = grant.map_err(|error| bad_grant(&error))?;
        self.commit(Batch::new().put(grant.store_key().bytes(), grant.encode())).await?;
        let mono = (self.shared.clock)().mono;
        self.shared.change(|state| {
            state.time.handle_passed(mono, grant.licence.issued);
            state.open.remove(&item);
            state.grants.entry(item).or_default().insert(order, grant);
        });
        self.keep_time().await
    }

    fn check_grant(
        &self,
        session: &Session,
        answer: pb::Grant,
        item: ItemId,
        order: OrderId,
        commitment: Option<KeyCommitment>,
        first_play: Option<Utc>,
    ) -> anyhow::Result<Grant> {
        let signed = Signed::<Licence>::try_from(answer.licence.context("it has no licence")?)?;
        let licence = signed.verify(&session.server)?;
        anyhow::ensure!(licence.device == self.deps.identity.device, "its licence is for another device");
        anyhow::ensure!(licence.item == item, "its licence is for another item");
        anyhow::ensure!(licence.order == order, "its licence is for another order");
        let commitment = commitment.context("nobody committed to its key")?;
        anyhow::ensure!(
            answer.key.is_none() == licence.drip.is_some(),
            "its licence and its key do not belong together"
        );
        let grant = Grant { licence, signed, key: answer.key.map(TryInto::try_into).transpose()?, first_play };
        match grant.key {
            Some(_) => drop(self.shared.unwrap(&grant, &commitment)?),
            None => super::check_commitment(&grant, &commitment)?,
        }
        Ok(grant)
    }

    /// Asks the keyserver for a place to play. When it is known to be away, the licence alone decides.
    async fn take_place(&mut self, item: ItemId, take_over: bool) -> Result<(), Failure> {
        self.shared.change(|state| state.ended.remove(&item));
        if !self.link.borrow().up {
            return Ok(());
        }
        let now = (self.shared.clock)();
        let Ok(grant) = self.shared.read(|state| state.watchable(now, &item).cloned()) else { return Ok(()) };
        let session = match self.session().await {
            Ok(session) => session,
            Err(failure) => {
                tracing::debug!(reason = %failure, "nobody to ask for a place; the licence decides");
                return Ok(());
            }
        };
        let first_play = grant.first_play.unwrap_or_else(|| self.shared.read(|state| state.time.at_least(now.mono)));
        match self.report(&session, grant.licence.order, first_play, true, take_over).await {
            Err(failure) if self.is_away(&failure) => Ok(()),
            answer => answer,
        }
    }

    /// Tells the keyserver of everything that plays, and ends what may not go on.
    async fn report_all(&mut self) {
        let now = (self.shared.clock)();
        let playing: Vec<(ItemId, OrderId, Utc)> = self.shared.read(|state| {
            let heard = state.viewings.heard_within(now.mono, self.report_every);
            let first_play = |item, order| state.grants.get(&item)?.get(&order)?.first_play;
            heard.filter_map(|(item, order)| Some((item, order, first_play(item, order)?))).collect()
        });
        self.next_report = Instant::now() + self.report_every;
        if playing.is_empty() || !self.link.borrow().up {
            return;
        }
        let Ok(session) = self.session().await else { return };
        for (item, order, first_play) in playing {
            match self.report(&session, order, first_play, false, false).await {
                Ok(()) => {}
                Err(failure) if self.is_away(&failure) => return,
                Err(failure) => self.end_viewing(item, failure),
            }
        }
    }

    async fn report(
        &mut self,
        session: &Session,
        order: OrderId,
        first_play: Utc,
        begins: bool,
        take_over: bool,
    ) -> Result<(), Failure> {
        let request = pb::ReportPlayRequest {
            order: order.to_vec(),
            first_play_utc_ms: first_play.as_millis(),
            device_name: self.deps.name.clone(),
            begins,
            take_over,
        };
        let request = self.signed_call(session, request)?;
        let answer = session.call(session.rights().report_play(request)).await?;
        let interval = Duration::from_millis(answer.interval_ms).clamp(REPORT_MIN, REPORT_MAX);
        if interval != self.report_every {
            self.report_every = interval;
            self.next_report = Instant::now() + interval;
        }
        Ok(())
    }

    fn end_viewing(&self, item: ItemId, failure: Failure) {
        tracing::info!(%item, reason = %failure, "a viewing may not go on");
        self.shared.change(|state| {
            state.viewings.handle_over(&item);
            state.open.remove(&item);
            state.ended.insert(item, failure);
        });
    }

    /// Takes over what this device had bought before its store was lost.
    async fn recover(&mut self, session: &Session) -> Result<(), Failure> {
        let mut page_token = Vec::new();
        loop {
            let page = self.rights(session, Vec::new(), page_token).await?;
            for right in page.rights.iter().filter(|right| right.granted_here) {
                let Some(order) = order_of(right) else { continue };
                let is_known = self.orders.contains_key(&order.key().bytes());
                if !is_known && self.orders.values().filter(|order| order.is_open()).count() < MAX_OPEN_ORDERS {
                    tracing::info!(item = %order.item, offer = %order.offer, "a purchase is found again");
                    self.keep_order(order).await?;
                }
            }
            page_token = page.next_page_token;
            if page_token.is_empty() {
                break;
            }
        }
        self.commit(Batch::new().put(Key::Recovered.bytes(), Vec::new())).await?;
        self.is_recovered = true;
        Ok(())
    }

    /// Takes over what was bought under a link to a title. True while somebody may be buying.
    async fn bought_in_a_browser(&mut self, session: &Session) -> Result<bool, Failure> {
        let now = (self.shared.clock)();
        let browsed = self.shared.read(|state| state.links.browsed(state.time.at_most(now)));
        for item in &browsed {
            let page = self.rights(session, item.to_vec(), Vec::new()).await?;
            for order in page.rights.iter().filter_map(order_of).filter(|order| order.item == *item) {
                let is_known = self.orders.values().any(|known| known.id == order.id);
                if !is_known && self.orders.values().filter(|order| order.is_open()).count() < MAX_OPEN_ORDERS {
                    tracing::info!(item = %order.item, offer = %order.offer, "bought in a browser");
                    self.keep_order(order).await?;
                }
            }
        }
        Ok(!browsed.is_empty())
    }

    /// The same offer, bought already by another device of the account.
    async fn bought_elsewhere(&mut self, item: ItemId, commitment: KeyCommitment, offer: &OfferId) -> Option<Order> {
        let session = self.session().await.ok()?;
        let page = self.rights(&session, item.to_vec(), Vec::new()).await.ok()?;
        let known = page.rights.iter().filter_map(order_of);
        known.into_iter().find(|order| order.item == item && order.offer == *offer && order.commitment == commitment)
    }

    async fn rights(
        &self,
        session: &Session,
        item: Vec<u8>,
        page_token: Vec<u8>,
    ) -> Result<pb::ListRightsResponse, Failure> {
        let request = pb::ListRightsRequest { item, page_size: RIGHTS_PAGE, page_token };
        session.call(session.rights().list_rights(self.signed_call(session, request)?)).await
    }

    /// Takes the place of a lost device under an order that the keyserver knows.
    async fn replace(&mut self, key: &Bytes, lost: DeviceId) -> Result<(), Failure> {
        let Some(order) = self.orders.get(key).and_then(|order| order.id) else { return Ok(()) };
        let session = self.session().await?;
        let request = pb::ReplaceDeviceRequest { order: order.to_vec(), device: lost.to_vec() };
        let request = self.signed_call(&session, request)?;
        let replaced = session.call(session.rights().replace_device(request)).await;
        if let Err(failure) = &replaced {
            self.is_away(failure);
        }
        replaced.map(|_| ())
    }

    async fn first_play(&mut self, item: ItemId, order: OrderId) -> Result<(), Failure> {
        let now = (self.shared.clock)();
        let started = self.shared.read(|state| {
            let grant = state.grants.get(&item)?.get(&order)?;
            let first_play = grant.first_play.unwrap_or_else(|| state.time.at_least(now.mono));
            Some(Grant { first_play: Some(first_play), ..grant.clone() })
        });
        let Some(grant) = started else { return Ok(()) };
        self.commit(Batch::new().put(grant.store_key().bytes(), grant.encode())).await?;
        self.shared.change(|state| state.grants.entry(item).or_default().insert(order, grant));
        self.keep_time().await
    }

    /// True when this order has given all it could, so that buying again means a new one.
    fn is_used_up(&self, order: &Order) -> bool {
        match order.state {
            OrderState::Refunded | OrderState::Disputed | OrderState::Expired => true,
            _ if !order.has_grant => false,
            _ => {
                let now = (self.shared.clock)();
                self.shared.read(|state| {
                    let grant = order.id.and_then(|id| state.grants.get(&order.item)?.get(&id));
                    let grant = grant.filter(|grant| !state.is_revoked(grant));
                    let judged = grant.map(|grant| state.time.allows_start(now, &grant.licence, grant.first_play));
                    matches!(judged, None | Some(Err(Denied::TooLate(_) | Denied::NotStarted(_) | Denied::Finished(_))))
                })
            }
        }
    }

    fn new_order(&self, item: ItemId, commitment: KeyCommitment, offer: OfferId) -> Result<Order, Failure> {
        if self.orders.values().filter(|order| order.is_open()).count() >= MAX_OPEN_ORDERS {
            return Err(Failure::new(Exit::Storage, "E-PAY-07", "this device has too many open orders")
                .hint("pay some of them first; unpaid ones expire by themselves"));
        }
        let idempotency_key = HEXLOWER.encode(&*secrets::random::<16>());
        let state = OrderState::Unspecified;
        Ok(Order { item, offer, commitment, idempotency_key, id: None, state, pass: None, has_grant: false })
    }

    fn wrap_pass(&self, pass: &PassCode) -> Result<Wrapped, Failure> {
        let to = self.deps.identity.hpke.public();
        let wrapped = wrap::wrap(&mut UnwrapErr(SysRng), &to, Label::JobKey, PASS_AAD, pass.reveal().as_bytes());
        wrapped.map_err(|error| Failure::new(Exit::Failed, "E-PAY-08", "the pass code could not be kept").why(error))
    }

    fn purchase(&self, key: &Bytes) -> Purchase {
        let order = self.orders.get(key);
        let state = match order.map(|order| (order.state, order.has_grant)) {
            None | Some((OrderState::Unspecified, _)) => PurchaseState::Waiting,
            Some((OrderState::Pending, _)) => PurchaseState::Pending,
            Some((OrderState::Paid | OrderState::Granted, false)) => PurchaseState::Paid,
            Some((OrderState::Paid | OrderState::Granted, true)) => PurchaseState::Granted,
            Some((OrderState::Refunded | OrderState::Disputed, _)) => PurchaseState::Refunded,
            Some((OrderState::Expired, _)) => PurchaseState::Expired,
        };
        Purchase { order: order.and_then(|order| order.id), state }
    }

    fn due_renewals(&self) -> Vec<(ItemId, OrderId)> {
        let now = (self.shared.clock)();
        self.shared.read(|state| {
            let latest = state.time.at_most(now);
            let grants = state.grants.values().flat_map(BTreeMap::values).map(|grant| &grant.licence);
            let grants =
                grants.filter(|licence| !state.revoked.as_ref().is_some_and(|revoked| revoked.covers(licence)));
            let is_due = |licence: &&Licence| {
                let over = licence.not_after.bound().is_some_and(|end| latest >= end);
                !over && licence.renewal_due().bound().is_some_and(|due| latest >= due)
            };
            grants.filter(is_due).map(|licence| (licence.item, licence.order)).collect()
        })
    }

    /// Takes what the keyserver says about an order.
    async fn take_answer(&mut self, order: &mut Order, answer: &pb::Order) -> Result<OrderId, Failure> {
        let id = OrderId::try_from(answer.order.as_slice()).ok().filter(|id| order.id.is_none_or(|known| known == *id));
        let state = answer.state();
        let is_ours = answer.item == order.item.as_bytes() && answer.offer == order.offer.as_str();
        let (Some(id), true, true) = (id, is_ours, state != OrderState::Unspecified) else {
            return Err(Failure::new(Exit::Integrity, "E-PAY-09", "the keyserver answered with another order")
                .hint("report this to whoever runs the keyserver"));
        };
        order.id = Some(id);
        order.state = state;
        if state != OrderState::Pending {
            order.pass = None;
        }
        self.keep_order(order.clone()).await?;
        Ok(id)
    }

    async fn keep_order(&mut self, order: Order) -> Result<(), Failure> {
        let key = order.key().bytes();
        self.commit(Batch::new().put(key.clone(), order.encode())).await?;
        self.shared.change(|state| {
            state.orders.insert(order.item, order.state);
            state.links.note(order.item, order.awaits_money());
        });
        self.orders.insert(key, order);
        Ok(())
    }

    /// Stores the latest moment that has passed for certain.
    async fn keep_time(&self) -> Result<(), Failure> {
        let mono = (self.shared.clock)().mono;
        let known = self.shared.read(|state| state.time.at_least(mono));
        self.commit(Batch::new().put(Key::HighWater.bytes(), known.as_millis().to_be_bytes().to_vec())).await
    }

    async fn commit(&self, batch: Batch) -> Result<(), Failure> {
        self.deps.store.commit(batch).await.map(|_| ()).map_err(Failure::from)
    }

    /// The keyserver, greeted within the last minute.
    async fn session(&mut self) -> Result<Session, Failure> {
        let url = self.url().ok_or_else(|| {
            Failure::new(Exit::Unreachable, "E-KEYS-01", "no keyserver is known yet")
                .why("the tracker has not named one")
                .hint("wait for the tracker, or set keyserver.url")
        })?;
        if let Some(session) = &self.session
            && session.url == url
            && session.greeted.elapsed() < IDLE
        {
            return Ok(session.clone());
        }
        match self.meet(url.clone()).await {
            Ok(session) => {
                self.set_link(&url, None);
                Ok(self.session.insert(session).clone())
            }
            Err(failure) => {
                self.set_link(&url, Some(&failure));
                Err(failure)
            }
        }
    }

    /// The session to judge an answer by: a fresh one when the keyserver has changed its key since it was greeted.
    async fn session_of(&mut self, asked: &Session, answer: Option<&common::Signed>) -> Result<Session, Failure> {
        let is_of = |session: &&Session| answer.is_none_or(|signed| signed.signer == session.server.as_bytes());
        if let Some(session) = [Some(asked), self.session.as_ref()].into_iter().flatten().find(is_of) {
            return Ok(session.clone());
        }
        self.session = None;
        self.session().await
    }

    /// Greets the keyserver and, once this device belongs to an account, checks in.
    async fn meet(&mut self, url: String) -> Result<Session, Failure> {
        let session = self.greet(url).await?;
        if self.deps.members.borrow().is_some() {
            self.check_in(&session).await?;
        }
        Ok(session)
    }

    /// Learns from the keyserver what has to be known about rights: what time it is, and what no longer counts.
    async fn check_in(&self, session: &Session) -> Result<(), Failure> {
        let nonce = secrets::random::<NONCE_BYTES>();
        let known = self.shared.read(|state| state.revoked.as_ref().map_or(0, |revoked| revoked.version));
        let request = pb::CheckInRequest { nonce: nonce.to_vec(), revocations_version: known };
        let request = self.signed_call(session, request)?;
        let asked = (self.shared.clock)().mono;
        let answer = session.call(session.rights().check_in(request)).await?;
        let answered = (self.shared.clock)().mono;
        let told = answer.time.context("it says no time").and_then(|signed| {
            let signed = Signed::<ServerTime>::try_from(signed)?;
            Ok(ServerTime::verify(&signed, &session.server, &nonce)?)
        });
        let told = told.map_err(|error| bad_time(&error))?;
        self.shared.change(|state| state.time.handle_told(asked, answered, told));
        self.keep_time().await?;
        match answer.revocations {
            Some(list) => self.take_back(session, list, known).await,
            None => Ok(()),
        }
    }

    /// Takes a list of licences that no longer count, unless it is older than the one that is known.
    async fn take_back(&self, session: &Session, list: common::Signed, known: u64) -> Result<(), Failure> {
        let read = || {
            let signed = Signed::<Revocations>::try_from(list)?;
            let revoked = signed.verify(&session.server)?;
            anyhow::ensure!(revoked.device == self.deps.identity.device, "it is another device's list");
            anyhow::ensure!(revoked.version > known, "it is older than the one that is known");
            Ok((signed, revoked))
        };
        let (signed, revoked) = read().map_err(|error: anyhow::Error| bad_list(&error))?;
        self.commit(Batch::new().put(Key::Revocations.bytes(), signed.to_bytes())).await?;
        tracing::info!(version = revoked.version, licences = revoked.serials.len(), "keys were taken back");
        let now = (self.shared.clock)();
        self.shared.change(|state| {
            state.revoked = Some(revoked);
            state.close_over(now);
        });
        Ok(())
    }

    fn url(&self) -> Option<String> {
        match self.deps.config.url.as_str() {
            AUTO => self.deps.keyserver_url.borrow().clone(),
            url => Some(url.to_owned()),
        }
    }

    /// Asks who the keyserver is. The first one that answers is believed from then on.
    async fn greet(&mut self, url: String) -> Result<Session, Failure> {
        let config = &self.deps.config;
        let ca_file = Some(&config.ca_file).filter(|file| !file.is_empty()).map(Into::into);
        let trust = Trust { ca_file, insecure: config.insecure };
        let channel = match self.session.take().filter(|session| session.url == url) {
            Some(session) => session.channel,
            None => client::connect_lazily(&url, &trust)?,
        };
        let mut deposits = DepositsClient::new(channel.clone());
        let known = self.known.as_ref().map_or_else(Vec::new, |known| known.current().to_vec());
        let info = within(&url, deposits.get_keyserver(pb::GetKeyserverRequest { known })).await?;
        let server = ServerId::try_from(info.server.as_slice()).map_err(|error| stranger(&url).why(error))?;
        match &self.known {
            Some(known) if known.current() == server => {}
            Some(known) => {
                let followed = lineage::follow(known, info.successions, server);
                let followed = followed.map_err(|error| stranger(&url).why(error))?;
                self.commit(lineage::batch(known, &followed)).await?;
                tracing::info!(before = %known.current(), keyserver = %server, "the keyserver has changed its key");
                self.known = Some(followed);
            }
            None => {
                self.commit(Batch::new().put(Key::Keyserver.bytes(), server.to_vec())).await?;
                self.known = Some(Lineage::founded_by(server));
                tracing::info!(keyserver = %server, url, "keyserver met for the first time, believed from now on");
            }
        }
        Ok(Session { url, channel, server, greeted: Instant::now() })
    }

    /// Notes that the keyserver cannot be reached, if that is what a failure means.
    fn is_away(&mut self, failure: &Failure) -> bool {
        let is_away = failure.exit == Exit::Unreachable;
        if is_away {
            self.session = None;
            self.set_link(&self.url().unwrap_or_default(), Some(failure));
        }
        is_away
    }

    fn set_link(&self, url: &str, failure: Option<&Failure>) {
        let since = (self.shared.clock)().utc;
        let last_error = failure.map(ToString::to_string).unwrap_or_default();
        self.link.send_if_modified(|link| {
            let up = failure.is_none();
            let turned = link.up != up || link.url != url;
            let changed = turned || link.last_error != last_error;
            if turned {
                *link = LinkState { url: url.to_owned(), up, since, last_error };
            } else {
                link.last_error = last_error;
            }
            changed
        });
    }

    /// A request that proves this device and its account.
    fn signed_call<T>(&self, session: &Session, message: T) -> Result<tonic::Request<T>, Failure> {
        self.shared.caller.signed_call(session, message)
    }
}

impl Caller {
    /// A request that proves this device and its account.
    pub(super) fn signed_call<T>(&self, session: &Session, message: T) -> Result<tonic::Request<T>, Failure> {
        let enrolled = self.members.borrow().clone().ok_or_else(|| {
            Failure::new(Exit::NotAllowed, "E-RIGHTS-03", "this device does not belong to an account yet")
                .hint("enrol it: peer-node enrol CODE")
        })?;
        let membership: MetadataValue<Ascii> = enrolled.signed.to_text().parse().expect("base64url fits in metadata");
        let mut request = tonic::Request::new(message);
        self.identity.sign_call(&mut request, session.server);
        request.metadata_mut().insert(MEMBERSHIP_METADATA, membership);
        Ok(request)
    }
}

impl Session {
    fn shop(&self) -> ShopClient<Channel> {
        ShopClient::new(self.channel.clone())
    }

    fn rights(&self) -> RightsClient<Channel> {
        RightsClient::new(self.channel.clone())
    }

    pub(super) fn checkout(&self) -> CheckoutClient<Channel> {
        CheckoutClient::new(self.channel.clone())
    }

    pub(super) fn spans(&self) -> SpansClient<Channel> {
        SpansClient::new(self.channel.clone())
    }

    pub(super) async fn call<T>(
        &self,
        asked: impl Future<Output = Result<tonic::Response<T>, tonic::Status>>,
    ) -> Result<T, Failure> {
        within(&self.url, asked).await
    }
}

/// A call's answer, or why there is none, in time.
async fn within<T>(
    url: &str,
    asked: impl Future<Output = Result<tonic::Response<T>, tonic::Status>>,
) -> Result<T, Failure> {
    match tokio::time::timeout(CALL_WITHIN, asked).await {
        Ok(Ok(answer)) => Ok(answer.into_inner()),
        Ok(Err(status)) => Err(client::failure(url, &status)),
        Err(_) => Err(Failure::new(Exit::Unreachable, "E-NET-13", format!("{url} does not answer"))
            .why(format!("it took longer than {} s", CALL_WITHIN.as_secs()))
            .hint("check the keyserver; what is to be done there is kept and done when it answers")),
    }
}

/// An order as the keyserver tells it; `None` if it makes no sense.
fn order_of(right: &pb::Right) -> Option<Order> {
    let order = right.order.as_ref()?;
    Some(Order {
        item: order.item.as_slice().try_into().ok()?,
        offer: order.offer.parse().ok()?,
        commitment: right.commitment.as_slice().try_into().ok()?,
        // It has a number already and is never asked for under another name.
        idempotency_key: String::new(),
        id: Some(order.order.as_slice().try_into().ok()?),
        state: order.state(),
        pass: None,
        has_grant: false,
    })
}

async fn scan(store: &dyn Store, prefix: &[u8]) -> anyhow::Result<Vec<(Bytes, Bytes)>> {
    let (mut found, mut after): (Vec<_>, Option<Bytes>) = (Vec::new(), None);
    loop {
        let page = store.scan(prefix, after.as_deref(), MAX_PAGE).await?;
        found.extend(page.entries.into_iter().map(|entry| (entry.key, entry.versioned.value)));
        after = page.next;
        if after.is_none() {
            return Ok(found);
        }
    }
}

fn stranger(url: &str) -> Failure {
    Failure::new(Exit::NotAllowed, "E-KEYS-02", format!("{url} is not the keyserver that this device knows"))
        .hint("if it was replaced on purpose, not by `key rotate signing`, set keyserver.id to the new id")
}

fn bad_time(error: &anyhow::Error) -> Failure {
    Failure::new(Exit::Integrity, "E-RIGHTS-04", "the keyserver does not say what time it is")
        .why(format!("{error:#}"))
        .hint("report this to whoever runs the keyserver; what is here plays on for as long as it may offline")
}

fn bad_list(error: &anyhow::Error) -> Failure {
    Failure::new(Exit::Integrity, "E-RIGHTS-06", "the keyserver's list of what it takes back cannot be used")
        .why(format!("{error:#}"))
        .hint("report this to whoever runs the keyserver")
}

fn bad_grant(error: &anyhow::Error) -> Failure {
    Failure::new(Exit::Integrity, "E-RIGHTS-02", "the keyserver sent a grant that cannot be used")
        .why(format!("{error:#}"))
        .hint("report this to whoever runs the keyserver")
}

/// A pause a little shorter or longer, so that many boxes do not come back together.
fn jittered(pause: Duration) -> Duration {
    pause.mul_f64(0.8 + 0.2 * rand::random::<f64>())
}
