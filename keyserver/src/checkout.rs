//! The checkout pages: offer, pay, result; passes; the account's orders. Plain forms, no script.
//!
//! They are reached by a link that a device of the account has asked for (`crate::link`): whoever has it acts for the
//! account until it ends. A form carries the idempotency key of what it does, made when the page was: however often it
//! is sent, it happens once. What changes something comes by POST from a page of ours only. Everything from outside is
//! escaped where it is written; nothing here is decided.

mod view;

pub(crate) use self::view::{notice, whole_page};

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Form, Path, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::{get, post};
use daemon::{Exit, Failure};
use data_encoding::BASE64URL_NOPAD;
use maud::Markup;
use serde::Deserialize;
use swarm_proto::id::{AccountId, ItemId, OrderId};
use swarm_proto::keyserver::ledger::PassOffer;
use swarm_proto::keyserver::orders::{Goods, OrderState};
use swarm_proto::keyserver::record::IdempotencyKey;

use crate::books::{Books, Standing};
use crate::cashier::Detours;
use crate::gateway::{Gateways, Instrument, Purchase, not_taken};
use crate::link::{self, Dead};
use crate::vault::ring::KeyRing;
use crate::{clock, refusals};

/// Where the pages begin.
pub(crate) const PREFIX: &str = "/pay";

/// Where payers come back to from their bank: the link they had is not told to anyone outside.
pub(crate) const RETURN: &str = "/paid";

/// Orders on the account's page.
const ORDERS_SHOWN: usize = 20;

const POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; style-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
);

/// What the pages stand on.
#[derive(Clone)]
pub(crate) struct Checkout(Arc<Inner>);

struct Inner {
    name: String,
    books: Books,
    keys: Arc<KeyRing>,
    gateways: Gateways,
    passes: Vec<PassOffer>,
    detours: Detours,
    link_valid: Duration,
    public_url: String,
}

impl Checkout {
    #[allow(clippy::too_many_arguments, reason = "the parts of a keyserver, named once")]
    pub(crate) fn new(
        name: &str,
        books: Books,
        keys: Arc<KeyRing>,
        gateways: Gateways,
        passes: Vec<PassOffer>,
        detours: Detours,
        link_valid: Duration,
        public_url: &str,
    ) -> Checkout {
        let (name, public_url) = (name.to_owned(), public_url.trim_end_matches('/').to_owned());
        Checkout(Arc::new(Inner { name, books, keys, gateways, passes, detours, link_valid, public_url }))
    }

    /// A link for an account to this page below its own, and when it ends.
    pub(crate) fn link(&self, account: AccountId, goal: &str) -> (String, swarm_proto::time::Utc) {
        let end = clock::utc() + self.0.link_valid;
        let link = link::make(&self.0.keys.now().vault, account, end);
        (format!("{}{PREFIX}/{link}{goal}", self.0.public_url), end)
    }

    pub(crate) fn routes(&self) -> Router {
        Router::new()
            .route("/pay/{link}", get(home))
            .route("/pay/{link}/pass", post(buy_pass))
            .route("/pay/{link}/claim", post(claim))
            .route("/pay/{link}/item/{item}", get(offers).post(buy))
            .route("/pay/{link}/order/{order}", get(order).post(pay))
            .route(RETURN, get(came_back))
            .layer(middleware::from_fn(guard))
            .with_state(self.clone())
    }

    fn account(&self, link: &str) -> Result<AccountId, Trouble> {
        link::read(&self.0.keys.now().vault, link, clock::utc()).map_err(|dead| match dead {
            Dead::Over => Trouble::of(
                StatusCode::GONE,
                Failure::new(Exit::NotAllowed, "E-PAGE-01", "This link has ended")
                    .hint("Open a fresh one on your television. Nothing you have paid for is lost."),
            ),
            Dead::Forged => Trouble::of(
                StatusCode::NOT_FOUND,
                Failure::new(Exit::NotFound, "E-PAGE-02", "This link leads nowhere")
                    .hint("Open the link on your television again, and check that all of it arrived."),
            ),
        })
    }

    fn page(&self, title: &str, again_after: Option<u32>, body: &Markup) -> Response {
        view::page(&self.0.name, title, again_after, "", body).into_response()
    }

    async fn order_of(&self, account: AccountId, order: OrderId) -> Result<Standing, Trouble> {
        let found = self.0.books.order(account, order).await.map_err(Failure::from)?;
        Ok(found.map_err(|refusal| refusals::look(&refusal))?)
    }

    /// The order with all that can be done about it; above it, what went wrong just now.
    async fn show_order(&self, link: &str, standing: Standing, trouble: Option<&Failure>) -> Result<Response, Trouble> {
        let Inner { books, keys, gateways, detours, .. } = &*self.0;
        let order = &standing.order;
        let wallet = books.wallet(order.account).await.map_err(Failure::from)?;
        let shelf = match order.item() {
            Some(item) => books.shelf(item).await.map_err(Failure::from)?,
            None => None,
        };
        let attempt = order.dues.open_attempt();
        let paid = matches!(standing.state, OrderState::Paid | OrderState::Granted);
        let code = match order.goods {
            Goods::Pass(_) if paid => Some(keys.now().vault.bought_code(&order.id)),
            _ => None,
        };
        let pass = match order.goods {
            Goods::Pass(goods) if paid => books.any_pass(goods.pass).await.map_err(Failure::from)?,
            _ => None,
        };
        let shown = view::Order {
            link,
            standing: &standing,
            title: shelf.as_ref().map(|shelf| shelf.name.as_str()),
            wallet: &wallet,
            till: gateways.till.page(order.id),
            kinds: gateways.stripe.as_ref().map_or(&[], |stripe| stripe.kinds()),
            has_card: gateways.stripe.is_some() && wallet.card.is_some(),
            detour: attempt.and_then(|attempt| detours.of(&attempt.id)),
            code,
            pass,
            now: clock::utc(),
        };
        let waits = attempt.is_some() && standing.state == OrderState::Pending;
        let response = self.page(view::title(&shown), waits.then_some(3), &view::order(&shown, trouble));
        Ok(match trouble {
            Some(_) => (StatusCode::CONFLICT, response).into_response(),
            None => response,
        })
    }
}

/// Why a page is not what was asked for.
struct Trouble {
    status: Option<StatusCode>,
    failure: Failure,
}

impl Trouble {
    fn of(status: StatusCode, failure: Failure) -> Trouble {
        Trouble { status: Some(status), failure }
    }
}

impl From<Failure> for Trouble {
    fn from(failure: Failure) -> Trouble {
        Trouble { status: None, failure }
    }
}

impl IntoResponse for Trouble {
    fn into_response(self) -> Response {
        let status = self.status.unwrap_or_else(|| self.failure.clone().into_response().status());
        (status, view::page("Reelswarm", "That did not work", None, "", &view::trouble(&self.failure))).into_response()
    }
}

/// Whether a request that changes something comes from a page of ours: what a browser says about where a form was.
pub(crate) fn is_from_here(headers: &HeaderMap) -> bool {
    let text = |name| headers.get(name).map(|value: &HeaderValue| value.to_str().unwrap_or("?"));
    match (text(header::ORIGIN), text(header::HOST)) {
        (Some(origin), Some(host)) => origin.split_once("://").is_some_and(|(_, authority)| authority == host),
        (Some(_), None) => false,
        // Browsers name the origin of every form that is posted. What is no browser has no one's link by accident.
        (None, _) => text(header::HeaderName::from_static("sec-fetch-site"))
            .is_none_or(|site| site == "same-origin" || site == "none"),
    }
}

/// Refuses forms of other sites, and says to browsers what these pages never do.
pub(crate) async fn guard(request: Request, next: Next) -> Response {
    let changes = !request.method().is_safe();
    let mut response = match changes && !is_from_here(request.headers()) {
        true => Trouble::of(
            StatusCode::FORBIDDEN,
            Failure::new(Exit::NotAllowed, "E-PAGE-03", "This came from another site")
                .hint("Open the page itself and try again there."),
        )
        .into_response(),
        false => next.run(request).await,
    };
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_SECURITY_POLICY, POLICY);
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    // The link is in the address: it goes nowhere else.
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("same-origin"));
    response
}

/// A fresh idempotency key for a form.
pub(crate) fn fresh_key() -> String {
    BASE64URL_NOPAD.encode(daemon::secrets::random::<18>().as_slice())
}

async fn home(State(checkout): State<Checkout>, Path(link): Path<String>) -> Result<Response, Trouble> {
    let account = checkout.account(&link)?;
    checkout.show_home(account, &link, None).await
}

impl Checkout {
    async fn show_home(&self, account: AccountId, link: &str, trouble: Option<&Failure>) -> Result<Response, Trouble> {
        let wallet = self.0.books.wallet(account).await.map_err(Failure::from)?;
        let orders = self.0.books.orders_of(account, None, None, ORDERS_SHOWN).await.map_err(Failure::from)?;
        let body = view::home(link, &self.0.passes, &wallet, &orders.orders, clock::utc(), trouble);
        let response = self.page("Your passes and orders", None, &body);
        Ok(match trouble {
            Some(_) => (StatusCode::CONFLICT, response).into_response(),
            None => response,
        })
    }
}

async fn came_back(State(checkout): State<Checkout>) -> Response {
    checkout.page("Thank you", None, &view::came_back())
}

#[derive(Deserialize)]
struct PassForm {
    offer: String,
    key: String,
    #[serde(default)]
    gift: Option<String>,
}

async fn buy_pass(
    State(checkout): State<Checkout>,
    Path(link): Path<String>,
    Form(form): Form<PassForm>,
) -> Result<Response, Trouble> {
    let account = checkout.account(&link)?;
    let Inner { books, keys, passes, .. } = &*checkout.0;
    let offer = passes.iter().find(|offer| offer.id.as_str() == form.offer).ok_or_else(not_taken)?.clone();
    let key = IdempotencyKey::new(&form.key).map_err(|error| refusals::invalid(&error))?;
    let new = OrderId::generate(&mut crate::rng());
    let vault = Arc::clone(&keys.now().vault);
    let pass = vault.pass_id(&vault.bought_code(&new));
    let ordered = books.create_pass_order(account, key, offer, form.gift.is_some(), pass, new).await;
    let standing = ordered.map_err(Failure::from)?.map_err(|refusal| refusals::order(&refusal))?;
    Ok(to_order(&link, standing.order.id))
}

#[derive(Deserialize)]
struct ClaimForm {
    code: String,
}

async fn claim(
    State(checkout): State<Checkout>,
    Path(link): Path<String>,
    Form(form): Form<ClaimForm>,
) -> Result<Response, Trouble> {
    let account = checkout.account(&link)?;
    match checkout.0.gateways.pass.claim(account, &form.code).await {
        Ok(_) => Ok(Redirect::to(&format!("{PREFIX}/{link}")).into_response()),
        Err(failure) => checkout.show_home(account, &link, Some(&failure)).await,
    }
}

async fn offers(
    State(checkout): State<Checkout>,
    Path((link, item)): Path<(String, String)>,
) -> Result<Response, Trouble> {
    checkout.account(&link)?;
    let item: ItemId = item.parse().map_err(|_| no_item())?;
    let shelf = checkout.0.books.shelf(item).await.map_err(Failure::from)?.ok_or_else(no_item)?;
    Ok(checkout.page("Choose", None, &view::offers(&link, item, &shelf)))
}

#[derive(Deserialize)]
struct BuyForm {
    offer: String,
    key: String,
}

async fn buy(
    State(checkout): State<Checkout>,
    Path((link, item)): Path<(String, String)>,
    Form(form): Form<BuyForm>,
) -> Result<Response, Trouble> {
    let account = checkout.account(&link)?;
    let item: ItemId = item.parse().map_err(|_| no_item())?;
    let key = IdempotencyKey::new(&form.key).map_err(|error| refusals::invalid(&error))?;
    let new = OrderId::generate(&mut crate::rng());
    let ordered = checkout.0.books.create_order(account, key, item, form.offer, new).await.map_err(Failure::from)?;
    let standing = ordered.map_err(|refusal| refusals::order(&refusal))?;
    Ok(to_order(&link, standing.order.id))
}

async fn order(
    State(checkout): State<Checkout>,
    Path((link, order)): Path<(String, String)>,
) -> Result<Response, Trouble> {
    let account = checkout.account(&link)?;
    let standing = checkout.order_of(account, parse_order(&order)?).await?;
    checkout.show_order(&link, standing, None).await
}

#[derive(Deserialize)]
struct PayForm {
    way: String,
    #[serde(default)]
    code: String,
}

async fn pay(
    State(checkout): State<Checkout>,
    Path((link, order)): Path<(String, String)>,
    Form(form): Form<PayForm>,
) -> Result<Response, Trouble> {
    let account = checkout.account(&link)?;
    let order = parse_order(&order)?;
    let with = match form.way.split_once(':') {
        None if form.way == "code" => Instrument::Code(form.code),
        None if form.way == "bill" => Instrument::Bill,
        None if form.way == "card" => Instrument::Card,
        Some(("pass", id)) => Instrument::OwnPass(id.parse().map_err(|error| refusals::invalid(&error))?),
        Some(("elsewhere", kind)) => Instrument::Elsewhere(kind.to_owned()),
        _ => return Err(not_taken().into()),
    };
    let gateway = checkout.0.gateways.of(&with).ok_or_else(not_taken)?;
    match gateway.begin(Purchase { account, order }, with).await {
        Ok(_) => Ok(to_order(&link, order)),
        Err(failure) => {
            let standing = checkout.order_of(account, order).await?;
            checkout.show_order(&link, standing, Some(&failure)).await
        }
    }
}

fn to_order(link: &str, order: OrderId) -> Response {
    Redirect::to(&format!("{PREFIX}/{link}/order/{order}")).into_response()
}

fn parse_order(order: &str) -> Result<OrderId, Trouble> {
    let no_order =
        |_| Failure::new(Exit::NotFound, "E-ORDER-05", "there is no such order").hint("check the order's id");
    Ok(order.parse().map_err(no_order)?)
}

fn no_item() -> Failure {
    refusals::order(&swarm_proto::keyserver::refusals::OrderRefusal::NoSuchItem)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_of_other_sites_are_told_apart() {
        let from = |pairs: &[(&'static str, &'static str)]| {
            let pairs = pairs
                .iter()
                .map(|(name, value)| (header::HeaderName::from_static(name), HeaderValue::from_static(value)));
            is_from_here(&HeaderMap::from_iter(pairs))
        };
        assert!(from(&[("host", "keys.example"), ("origin", "https://keys.example")]));
        assert!(from(&[("host", "127.0.0.1:7002"), ("origin", "http://127.0.0.1:7002")]));
        assert!(from(&[("host", "keys.example"), ("sec-fetch-site", "same-origin")]));
        assert!(from(&[("host", "keys.example")]), "no browser");
        for foreign in ["https://evil.example", "null", "https://keys.example.evil.example", "https://keys.example:444"]
        {
            assert!(!from(&[("host", "keys.example"), ("origin", foreign)]), "{foreign}");
        }
        for site in ["cross-site", "same-site"] {
            assert!(!from(&[("host", "keys.example"), ("sec-fetch-site", site)]), "{site}");
        }
    }
}
