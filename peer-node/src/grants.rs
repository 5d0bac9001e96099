//! What may be played on this box, and how it comes to be paid for.
//!
//! An order is on disk, with the idempotency key that makes it one order however often it is sent, before the
//! keyserver hears of it. From then on it is followed until its grant is here: through restarts, lost answers and an
//! absent keyserver. A grant is kept as it came (signed licence, wrapped key) and is verified whenever it is read; the
//! key itself exists in memory only, while someone may watch. While it plays, the keyserver is told, so that an account
//! plays on as many devices as it may; what the keyserver takes back is not played any more. One task talks to the keyserver and changes what is
//! stored; everyone else holds a [`Grants`]. Never says what anyone downloads, never asks the wall clock for rights.

mod checkout;
mod keeper;
mod keys;
mod lineage;
mod records;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use daemon::Shutdown;
use daemon::exit::{Exit, Failure};
use daemon::store::Store;
use swarm_proto::catalog::{CatalogEntry, Offer};
use swarm_proto::drip::Preview;
use swarm_proto::geometry::Geometry;
use swarm_proto::id::{DeviceId, ItemId, OrderId};
use swarm_proto::licence::Denied;
use swarm_proto::limit::Limit;
use swarm_proto::pb::keyserver as pb;
use swarm_proto::pb::keyserver::OrderState;
use swarm_proto::peer::trusted_time::TrustedTime;
use swarm_proto::peer::viewings::Viewings;
use swarm_proto::revocations::Revocations;
use swarm_proto::seal::{KeyCommitment, Opener, Released};
use swarm_proto::span_tree::SpanCommitment;
use swarm_proto::time::{Now, Utc};
use swarm_proto::wrap::{self, Label};
use tokio::sync::{mpsc, oneshot, watch};

use self::checkout::Links;
use self::keeper::{Caller, Keeper, Request};
pub use self::keys::Keys;
use self::keys::{Drip, Subject};
use self::records::Grant;
use crate::config;
use crate::identity::{Identity, Members};
use crate::tracker_link::LinkState;

/// Requests to the keeper that may wait. People click; eight are more than one household.
const KEEPER_QUEUE: usize = 8;

/// How long the beginning of a film waits to hear whether there is a place for it. A keyserver that takes longer is
/// heard while the film plays already.
const PLACE_WITHIN: Duration = Duration::from_secs(1);

/// The code of the refusal to play outside the time that was bought.
pub const OUTSIDE_WINDOW: &str = "E-PLAY-02";

/// Keys in memory at a time: one per screen of a household.
const OPEN_KEYS: usize = 4;

/// What the grants stand on.
pub struct Deps {
    /// Section `keyserver` of the configuration.
    pub config: config::Keyserver,
    /// Proves this device and unwraps its keys.
    pub identity: Arc<Identity>,
    /// Shown to the keyserver: to which account an order belongs.
    pub members: Members,
    /// The box's store.
    pub store: Arc<dyn Store>,
    /// Where the tracker says that keys are sold.
    pub keyserver_url: watch::Receiver<Option<String>>,
    /// What people call this device; other devices of the account are told.
    pub name: String,
    /// Both clocks of the machine.
    pub clock: fn() -> Now,
    /// Ends the task.
    pub shutdown: Shutdown,
}

/// How far a purchase has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PurchaseState {
    /// Kept here; the keyserver cannot be reached and will hear of it as soon as it can.
    Waiting,
    /// Ordered; no money yet.
    Pending,
    /// Paid; the key has not arrived yet.
    Paid,
    /// The key is here.
    Granted,
    /// The money went back.
    Refunded,
    /// Nobody paid in time.
    Expired,
}

impl fmt::Display for PurchaseState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            PurchaseState::Waiting => "waiting for the keyserver",
            PurchaseState::Pending => "pending",
            PurchaseState::Paid => "paid",
            PurchaseState::Granted => "granted",
            PurchaseState::Refunded => "refunded",
            PurchaseState::Expired => "expired",
        })
    }
}

/// A purchase as its buyer sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Purchase {
    /// The keyserver's name for it; `None` until it has answered.
    pub order: Option<OrderId>,
    /// How far it is.
    pub state: PurchaseState,
}

/// The rights of this device.
#[derive(Clone)]
pub struct Grants {
    shared: Arc<Shared>,
    keeper: mpsc::Sender<Request>,
    shutdown: Shutdown,
    link: watch::Receiver<LinkState>,
}

/// What questions are answered from. Only the keeper changes it, except for the keys that are open.
struct Shared {
    caller: Caller,
    /// What people call this device.
    name: String,
    clock: fn() -> Now,
    state: RwLock<State>,
}

struct State {
    time: TrustedTime,
    /// All grants by item, each item's by order.
    grants: BTreeMap<ItemId, BTreeMap<OrderId, Grant>>,
    /// What became of the last order of an item that has no grant yet.
    orders: BTreeMap<ItemId, OrderState>,
    open: BTreeMap<ItemId, (OrderId, Keys)>,
    /// Where titles can be paid in a browser.
    links: Links,
    /// Keys of previews, until others take their room.
    previews: BTreeMap<ItemId, Keys>,
    viewings: Viewings,
    /// What the keyserver has taken back.
    revoked: Option<Revocations>,
    /// Viewings that the keyserver has ended, and why.
    ended: BTreeMap<ItemId, Failure>,
}

impl Grants {
    /// Reads what is stored and begins to follow open orders.
    pub async fn start(deps: Deps) -> anyhow::Result<Grants> {
        let (requests, inbox) = mpsc::channel(KEEPER_QUEUE);
        let shutdown = deps.shutdown.clone();
        let (keeper, shared, link) = Keeper::open(deps, inbox).await?;
        shutdown.spawn(keeper.run());
        Ok(Grants { shared, keeper: requests, shutdown, link })
    }

    /// Orders an offer of a title (the only one, if none is named), pays it with a pass if there is a code, and fetches
    /// the grant if it is paid. Asking again goes on with the order that is under way.
    pub async fn buy(
        &self,
        entry: &CatalogEntry,
        offer: Option<&str>,
        pass: Option<&str>,
        replaces: Option<DeviceId>,
    ) -> Result<Purchase, Failure> {
        let offer = choose_offer(entry, offer)?.id.clone();
        let pass = pass.map(swarm_proto::code::PassCode::parse).transpose().map_err(|error| {
            Failure::new(Exit::Usage, "E-PAY-01", "this is not a pass code")
                .why(error)
                .hint("type it as it is printed: five groups of letters and digits, hyphens do not matter")
        })?;
        let (reply, answer) = oneshot::channel();
        let request = Request::Buy { item: entry.item, commitment: entry.commitment, offer, pass, replaces, reply };
        self.keeper.send(request).await.map_err(|_| stopping())?;
        answer.await.map_err(|_| stopping())?
    }

    /// The effective expiry of the right to watch an item (no viewing begins from then on), or why none may begin now.
    pub fn playable(&self, item: &ItemId) -> Result<Limit<Utc>, Failure> {
        let now = (self.shared.clock)();
        self.shared.read(|state| state.usable(now, item).map(Grant::expiry))
    }

    /// The effective expiry, if a viewing of an item may begin now.
    pub fn playable_until(&self, item: &ItemId) -> Option<Limit<Utc>> {
        self.playable(item).ok()
    }

    /// The keys of an item, for a viewing that begins now or is under way. The first one starts the clock of a rental.
    pub async fn open(
        &self,
        item: ItemId,
        geometry: Geometry,
        commitment: KeyCommitment,
        span_commitment: Option<SpanCommitment>,
    ) -> Result<Keys, Failure> {
        let now = (self.shared.clock)();
        let grant = self.shared.read(|state| state.watchable(now, &item).cloned())?;
        let order = grant.licence.order;
        if grant.first_play.is_none() {
            let (reply, done) = oneshot::channel();
            self.keeper.send(Request::FirstPlay { item, order, reply }).await.map_err(|_| stopping())?;
            done.await.map_err(|_| stopping())??;
        }
        if self.shared.read(|state| state.viewings.under_way(now.mono, &item).is_none()) {
            self.take_place(item, false).await?;
        }
        self.shared.change(|state| state.viewings.handle_played(now.mono, item, order));
        if let Some(keys) = self.shared.read(|state| state.opened(&item, &order)) {
            return Ok(keys);
        }
        let keys = match grant.licence.drip {
            None => Keys::of(Opener::new(self.shared.unwrap(&grant, &commitment)?, geometry)),
            Some(_) => {
                let span_commitment = span_commitment.ok_or_else(uncommitted)?;
                check_commitment(&grant, &commitment)?;
                keys::drip(
                    Drip {
                        subject: Subject { item, geometry, commitment, span_commitment },
                        order,
                        caller: self.shared.caller.clone(),
                        device_name: self.shared.name.clone(),
                        keeper: self.keeper.clone(),
                        clock: self.shared.clock,
                    },
                    &self.shutdown,
                )
            }
        };
        self.shared.change(|state| state.keep_open(item, order, keys.clone()));
        Ok(keys)
    }

    /// The keys of the beginning of a title, for nothing, and how many of its clear bytes they open.
    pub async fn preview(&self, entry: &CatalogEntry) -> Result<(Keys, u64), Failure> {
        let preview = preview_of(entry).ok_or_else(|| no_preview(entry))?;
        let CatalogEntry { item, geometry, commitment, .. } = *entry;
        let subject =
            Subject { item, geometry, commitment, span_commitment: entry.span_commitment.ok_or_else(uncommitted)? };
        let known = self.shared.read(|state| state.previews.get(&item).cloned());
        let keys = match known {
            Some(keys) => keys,
            None => {
                let session = keys::session(&self.keeper).await?;
                let caller = &self.shared.caller;
                let request = caller.signed_call(&session, pb::GetPreviewRequest { item: item.to_vec() })?;
                let answer = session.call(session.spans().get_preview(request)).await?;
                let released = subject.unwrap(caller, None, answer)?;
                if released.range() != (0..preview.spans()) {
                    return Err(no_preview(entry).why("the keyserver knows another preview of this title"));
                }
                let keys = Keys::of(Opener::new(Released::Spans(released), geometry));
                self.shared.change(|state| state.keep_preview(item, keys.clone()));
                keys
            }
        };
        Ok((keys, preview.plain_len(&geometry)))
    }

    /// Asks the keyserver for one of the places that the account has for playing. With `take_over`, the device of the
    /// account that has been silent longest gives way. Who cannot reach the keyserver plays within its licence.
    pub async fn take_place(&self, item: ItemId, take_over: bool) -> Result<(), Failure> {
        let (reply, answer) = oneshot::channel();
        self.keeper.send(Request::TakePlace { item, take_over, reply }).await.map_err(|_| stopping())?;
        match tokio::time::timeout(PLACE_WITHIN, answer).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(stopping()),
            // The keeper goes on asking; if there is no place, the viewing ends as soon as it knows.
            Err(_) => Ok(()),
        }
    }

    /// Whether a viewing of an item that has begun may go on.
    pub fn may_go_on(&self, item: &ItemId) -> Result<(), Failure> {
        let now = (self.shared.clock)();
        if let Some(failure) = self.shared.read(|state| state.ended.get(item).cloned()) {
            return Err(failure);
        }
        self.shared.change(|state| match state.watchable(now, item).map(|grant| grant.licence.order) {
            Ok(order) => {
                state.viewings.handle_played(now.mono, *item, order);
                Ok(())
            }
            Err(failure) => {
                state.viewings.handle_over(item);
                Err(failure)
            }
        })
    }

    /// Whether a key of an item is here, or on its way because somebody has ordered it.
    pub fn is_bought(&self, item: &ItemId) -> bool {
        let lives = |order: &OrderState| !matches!(order, OrderState::Refunded | OrderState::Expired);
        self.shared.read(|state| state.grants.contains_key(item) || state.orders.get(item).is_some_and(lives))
    }

    /// Whether the keyserver is there.
    pub fn link(&self) -> watch::Receiver<LinkState> {
        self.link.clone()
    }
}

impl Shared {
    fn read<T>(&self, question: impl FnOnce(&State) -> T) -> T {
        question(&self.state.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(&mut self.state.write().unwrap_or_else(PoisonError::into_inner))
    }

    /// The key of a grant, held against what the publisher committed to.
    fn unwrap(&self, grant: &Grant, commitment: &KeyCommitment) -> Result<Released, Failure> {
        check_commitment(grant, commitment)?;
        let aad = grant.licence.grant_aad(&grant.signed);
        let key = grant.key.as_ref().ok_or_else(|| unfit(&"it is missing"))?;
        let hpke = &self.caller.identity.hpke;
        let secret = wrap::unwrap(hpke, Label::Grant, &aad, key).map_err(|error| unfit(&error))?;
        match Released::decode(&secret, commitment).map_err(|error| unfit(&error))? {
            whole @ Released::Whole(_) => Ok(whole),
            // They come with a proof, or not at all.
            Released::Spans(_) => Err(unfit(&"it is for some spans only, and nothing proves it")),
        }
    }
}

impl State {
    /// The grant under which a viewing of this item may begin now: the one that lasts longest.
    fn usable(&self, now: Now, item: &ItemId) -> Result<&Grant, Failure> {
        self.best(item, |grant| self.time.allows_start(now, &grant.licence, grant.first_play))
    }

    /// The grant under which a viewing may begin, or else the one under which one that is under way may go on.
    fn watchable(&self, now: Now, item: &ItemId) -> Result<&Grant, Failure> {
        let usable = self.usable(now, item);
        let (Err(_), Some(viewing)) = (&usable, self.viewings.under_way(now.mono, item)) else { return usable };
        let grant = self.grants.get(item).and_then(|grants| grants.get(&viewing.order));
        let grant = grant.filter(|grant| !self.is_revoked(grant));
        let Some((grant, first_play)) = grant.and_then(|grant| Some((grant, grant.first_play?))) else { return usable };
        let judged = self.time.allows_continue(now, &grant.licence, first_play);
        judged.map(|()| grant).map_err(|denied| self.refusal(item, Some(denied)))
    }

    fn best(&self, item: &ItemId, judge: impl Fn(&Grant) -> Result<(), Denied>) -> Result<&Grant, Failure> {
        let grants = self.grants.get(item).into_iter().flat_map(BTreeMap::values);
        let (mut best, mut denied): (Option<&Grant>, Option<Denied>) = (None, None);
        let mut is_taken_back = false;
        for grant in grants {
            if self.is_revoked(grant) {
                is_taken_back = true;
                continue;
            }
            match judge(grant) {
                Ok(()) if best.is_none_or(|best| grant.lasts_longer_than(best)) => best = Some(grant),
                Ok(()) => {}
                Err(reason) => denied = Some(reason),
            }
        }
        best.ok_or_else(|| match denied {
            None if is_taken_back => taken_back(),
            denied => self.refusal(item, denied),
        })
    }

    /// The keyserver has taken the key back.
    fn is_revoked(&self, grant: &Grant) -> bool {
        self.revoked.as_ref().is_some_and(|revoked| revoked.covers(&grant.licence))
    }

    fn refusal(&self, item: &ItemId, denied: Option<Denied>) -> Failure {
        let over = |reason: Denied, hint: &str| {
            Failure::new(Exit::Payment, OUTSIDE_WINDOW, "this title cannot be played now").why(reason).hint(hint)
        };
        match denied {
            Some(reason @ Denied::TooEarly(_)) => over(reason, "wait until then"),
            Some(reason @ Denied::RenewalOverdue(_)) => over(reason, "connect to the keyserver and try again"),
            Some(reason) => over(reason, "buy it again: peer-node pay TITLE"),
            None => self.unpaid(item),
        }
    }

    fn unpaid(&self, item: &ItemId) -> Failure {
        let failure = Failure::new(Exit::Payment, "E-PLAY-01", "this title has not been paid for");
        match self.orders.get(item) {
            Some(OrderState::Pending | OrderState::Unspecified) => failure
                .why("it is ordered, but no money has arrived yet")
                .hint("pay it: peer-node pay TITLE --pass CODE"),
            Some(OrderState::Paid | OrderState::Granted) => failure
                .why("it is paid, but its key has not arrived yet")
                .hint("it comes by itself as soon as the keyserver can be reached"),
            _ => failure.hint("buy it: peer-node pay TITLE --pass CODE"),
        }
    }

    fn opened(&self, item: &ItemId, order: &OrderId) -> Option<Keys> {
        self.open.get(item).filter(|(of, _)| of == order).map(|(_, keys)| keys.clone())
    }

    fn keep_open(&mut self, item: ItemId, order: OrderId, keys: Keys) {
        if self.open.len() >= OPEN_KEYS {
            self.open.pop_first();
        }
        self.open.insert(item, (order, keys));
    }

    fn keep_preview(&mut self, item: ItemId, keys: Keys) {
        if self.previews.len() >= OPEN_KEYS {
            self.previews.pop_first();
        }
        self.previews.insert(item, keys);
    }

    /// Wipes the keys of items that may not be watched any more.
    fn close_over(&mut self, now: Now) {
        let over: Vec<ItemId> = self.open.keys().filter(|item| self.watchable(now, item).is_err()).copied().collect();
        for item in over {
            self.open.remove(&item);
        }
    }
}

/// The offer that is meant, or which ones there are.
fn choose_offer<'a>(entry: &'a CatalogEntry, wanted: Option<&str>) -> Result<&'a Offer, Failure> {
    let all =
        || entry.offers.iter().map(|offer| format!("{} ({})", offer.id, offer.price)).collect::<Vec<_>>().join(", ");
    if entry.withdrawn || entry.offers.is_empty() {
        return Err(Failure::new(Exit::NotFound, "E-PAY-02", format!("\"{}\" is not for sale", entry.name)));
    }
    match (wanted, entry.offers.as_slice()) {
        (None, [only]) => Ok(only),
        (None, _) => Err(Failure::new(Exit::Usage, "E-PAY-03", format!("\"{}\" has several offers", entry.name))
            .why(all())
            .hint("name one: --offer ID")),
        (Some(wanted), offers) => offers.iter().find(|offer| offer.id.as_str() == wanted).ok_or_else(|| {
            Failure::new(Exit::NotFound, "E-PAY-04", format!("\"{}\" has no offer {wanted}", entry.name))
                .why(format!("it has: {}", all()))
                .hint("name one: --offer ID")
        }),
    }
}

/// The longest preview that the publisher offers; `None` when there is none.
pub fn preview_of(entry: &CatalogEntry) -> Option<Preview> {
    let offers = entry.offers.iter().filter(|_| !entry.withdrawn);
    offers.filter_map(|offer| offer.preview).max_by_key(Preview::spans)
}

fn check_commitment(grant: &Grant, commitment: &KeyCommitment) -> Result<(), Failure> {
    match grant.licence.commitment == *commitment {
        true => Ok(()),
        false => Err(unfit(&"its licence is for another edition of the title")),
    }
}

fn unfit(why: &dyn fmt::Display) -> Failure {
    Failure::new(Exit::Integrity, "E-RIGHTS-01", "the key that was released does not fit this title")
        .why(why)
        .hint("the film itself is not damaged; report this to whoever runs the keyserver")
}

fn uncommitted() -> Failure {
    unfit(&"its catalog entry does not commit to the keys of its spans")
}

fn no_preview(entry: &CatalogEntry) -> Failure {
    Failure::new(Exit::Payment, "E-PLAY-08", format!("\"{}\" has no preview", entry.name))
        .hint("buy it: peer-node pay TITLE --pass CODE")
}

fn taken_back() -> Failure {
    Failure::new(Exit::Payment, OUTSIDE_WINDOW, "this title cannot be played on this device any more")
        .why("the keyserver has taken its key back: refunded, or given to another device in its place")
        .hint("buy it again: peer-node pay TITLE")
}

fn stopping() -> Failure {
    Failure::new(Exit::Unreachable, "E-PAY-05", "this device is shutting down").hint("try again when it runs")
}
