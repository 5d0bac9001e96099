//! The operator's pages: orders with what happened to them, what waits too long, refunds, passes, the journal.
//!
//! Behind the operator's token, typed once into a form: the browser then has a cookie of random bytes that only this
//! path and no script sees, and every form of a session carries a token of that session. Sessions are in memory, few,
//! and end; a restart ends them all.

#![allow(clippy::result_large_err, reason = "a page that says why is the other answer, not an error")]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{Form, Path, Query, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware;
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::{get, post};
use daemon::token::OperatorToken;
use daemon::{Exit, Failure, secrets};
use data_encoding::BASE64URL_NOPAD;
use maud::{Markup, html};
use serde::Deserialize;
use swarm_proto::id::{OrderId, RefundId};
use swarm_proto::keyserver::ledger::Refunding;
use swarm_proto::keyserver::orders::{Goods, OrderState};
use swarm_proto::keyserver::passes::Holds;
use swarm_proto::keyserver::record::{PassId, Reason};

use crate::books::{Books, Standing};
use crate::checkout::{self, fresh_key};
use crate::gateway::Gateways;
use crate::{clock, refusals, words};

const COOKIE: &str = "reelswarm_operator";

/// How long a session lasts: a working day.
const SESSION: Duration = Duration::from_secs(12 * 60 * 60);

/// Sessions at a time; one more ends the oldest.
const MAX_SESSIONS: usize = 32;

/// Wrong tokens within [`LOCKED`] after which nobody signs in for that long. A token has 256 random bits: this is
/// against noise.
const MAX_WRONG: u32 = 20;
const LOCKED: Duration = Duration::from_secs(60);

/// Rows of a page.
const ROWS: usize = 50;

/// What has to be typed to give money back.
const CONFIRM: &str = "refund";

#[derive(Clone)]
struct Console(Arc<Inner>);

struct Inner {
    name: String,
    books: Books,
    gateways: Gateways,
    token: OperatorToken,
    secure: bool,
    door: Mutex<Door>,
}

/// Who is signed in.
#[derive(Default)]
struct Door {
    /// By the cookie's value: since when, and the token of its forms.
    sessions: BTreeMap<String, (Instant, String)>,
    wrong: Option<(Instant, u32)>,
}

/// The routes; `secure` when the port is encrypted, so that the cookie never goes without.
pub(crate) fn routes(name: &str, books: Books, gateways: Gateways, token: OperatorToken, secure: bool) -> Router {
    let door = Mutex::default();
    let console = Console(Arc::new(Inner { name: name.to_owned(), books, gateways, token, secure, door }));
    Router::new()
        .route("/operator", get(orders))
        .route("/operator/sign-in", get(sign_in_form).post(sign_in))
        .route("/operator/sign-out", post(sign_out))
        .route("/operator/stuck", get(stuck))
        .route("/operator/order/{order}", get(order).post(refund))
        .route("/operator/passes", get(passes))
        .route("/operator/status", get(status))
        .layer(middleware::from_fn(checkout::guard))
        .with_state(console)
}

/// What a handler answers when it cannot.
type Answer = Result<Response, Response>;

impl Inner {
    fn door<T>(&self, act: impl FnOnce(&mut Door) -> T) -> T {
        act(&mut self.door.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The token of the session's forms; else the way to the door.
    fn admit(&self, headers: &HeaderMap) -> Result<String, Response> {
        let cookies = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
        let ours = cookies.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='));
        let value = ours.filter(|(name, _)| *name == COOKIE).map(|(_, value)| value).next().unwrap_or_default();
        let known = self.door(|door| {
            door.sessions.retain(|_, (since, _)| since.elapsed() < SESSION);
            door.sessions.get(value).map(|(_, form)| form.clone())
        });
        known.ok_or_else(|| Redirect::to("/operator/sign-in").into_response())
    }

    fn check_form(&self, session: &str, form: &str) -> Result<(), Response> {
        if session == form {
            return Ok(());
        }
        let failure = Failure::new(Exit::NotAllowed, "E-PAGE-04", "This form is not of your session")
            .hint("Open the page again and send the form from there.");
        Err(self.failed(StatusCode::FORBIDDEN, &failure))
    }

    fn page(&self, title: &str, session: &str, body: &Markup) -> Response {
        let whole = html! {
            nav {
                a href="/operator" { "Orders" }
                a href="/operator/stuck" { "Stuck" }
                a href="/operator/passes" { "Passes" }
                a href="/operator/status" { "Status" }
                form method="post" action="/operator/sign-out" {
                    input type="hidden" name="csrf" value=(session);
                    button.quiet type="submit" { "Sign out" }
                }
            }
            h1 { (title) }
            (body)
        };
        checkout::whole_page(&self.name, title, "wide", &whole).into_response()
    }

    fn failed(&self, status: StatusCode, failure: &Failure) -> Response {
        let body =
            html! { h1 { "That did not work" } (checkout::notice(failure)) p.back { a href="/operator" { "Orders" } } };
        (status, checkout::whole_page(&self.name, "That did not work", "wide", &body)).into_response()
    }

    fn fail(&self, failure: Failure) -> Response {
        let status = failure.clone().into_response().status();
        self.failed(status, &failure)
    }
}

async fn sign_in_form(State(console): State<Console>) -> Response {
    console.sign_in_page(None)
}

#[derive(Deserialize)]
struct SignIn {
    token: String,
}

impl Console {
    fn sign_in_page(&self, trouble: Option<&Failure>) -> Response {
        let body = html! {
            h1 { "Operator" }
            @if let Some(failure) = trouble { (checkout::notice(failure)) }
            form.card method="post" action="/operator/sign-in" {
                label { span.label { "Token" } input type="password" name="token" autocomplete="off" maxlength="128" required autofocus; }
                button type="submit" { "Sign in" }
            }
            p.fine { "It is in the file operator.token of the keyserver's data folder." }
        };
        let page = checkout::whole_page(&self.0.name, "Operator", "", &body);
        let status = if trouble.is_some() { StatusCode::UNAUTHORIZED } else { StatusCode::OK };
        (status, page).into_response()
    }
}

async fn sign_in(State(console): State<Console>, Form(form): Form<SignIn>) -> Response {
    let inner = &*console.0;
    let locked = inner.door(|door| door.wrong.is_some_and(|(since, n)| n >= MAX_WRONG && since.elapsed() < LOCKED));
    if locked {
        let failure =
            Failure::new(Exit::NotAllowed, "E-PAGE-05", "Too many wrong tokens").hint("Try again in a minute.");
        return console.sign_in_page(Some(&failure));
    }
    if !inner.token.matches(form.token.trim()) {
        inner.door(|door| {
            let (since, count) =
                door.wrong.filter(|(since, _)| since.elapsed() < LOCKED).unwrap_or((Instant::now(), 0));
            door.wrong = Some((since, count + 1));
        });
        tracing::warn!("someone tried to sign in as the operator with a wrong token");
        let failure = Failure::new(Exit::NotAllowed, "E-PAGE-06", "This is not the operator's token")
            .hint("Copy it from operator.token in the keyserver's data folder.");
        return console.sign_in_page(Some(&failure));
    }
    let value = BASE64URL_NOPAD.encode(secrets::random::<32>().as_slice());
    inner.door(|door| {
        while door.sessions.len() >= MAX_SESSIONS {
            let oldest = door.sessions.iter().min_by_key(|(_, (since, _))| *since).map(|(value, _)| value.clone());
            oldest.and_then(|oldest| door.sessions.remove(&oldest));
        }
        door.sessions.insert(value.clone(), (Instant::now(), fresh_key()));
    });
    let secure = if inner.secure { "; Secure" } else { "" };
    let cookie =
        format!("{COOKIE}={value}; Path=/operator; HttpOnly; SameSite=Strict; Max-Age={}{secure}", SESSION.as_secs());
    let mut response = Redirect::to("/operator").into_response();
    response.headers_mut().insert(header::SET_COOKIE, HeaderValue::from_str(&cookie).expect("base64url and words"));
    response
}

#[derive(Deserialize)]
struct Csrf {
    csrf: String,
}

async fn sign_out(State(console): State<Console>, headers: HeaderMap, Form(form): Form<Csrf>) -> Answer {
    let inner = &*console.0;
    let session = inner.admit(&headers)?;
    inner.check_form(&session, &form.csrf)?;
    inner.door(|door| door.sessions.retain(|_, (_, known)| *known != session));
    Ok(Redirect::to("/operator/sign-in").into_response())
}

#[derive(Deserialize)]
struct From {
    #[serde(default)]
    before: Option<usize>,
}

async fn orders(State(console): State<Console>, headers: HeaderMap, Query(from): Query<From>) -> Answer {
    let inner = &*console.0;
    let session = inner.admit(&headers)?;
    let page = inner.books.all_orders(from.before, ROWS).await.map_err(|closed| inner.fail(closed.into()))?;
    let body = html! {
        (order_table(&page.orders))
        @if let Some(next) = page.next { p.back { a href={ "/operator?before=" (next) } { "Earlier" } } }
        p.fine { "As a command: " code { "keyserver order ls" } }
    };
    Ok(inner.page("Orders", &session, &body))
}

async fn stuck(State(console): State<Console>, headers: HeaderMap) -> Answer {
    let inner = &*console.0;
    let session = inner.admit(&headers)?;
    let stuck = inner.books.stuck_orders().await.map_err(|closed| inner.fail(closed.into()))?;
    let body = html! {
        @if stuck.is_empty() { p { "No order waits for a provider for more than five minutes." } }
        @else { p { "A provider has not told the fate of these for more than five minutes. They are asked again by themselves." } (order_table(&stuck)) }
        p.fine { "As a command: " code { "keyserver order stuck" } }
    };
    Ok(inner.page("Stuck", &session, &body))
}

fn order_table(orders: &[Standing]) -> Markup {
    html! {
        @if orders.is_empty() { p { "None yet." } }
        @else { table {
            thead { tr { th { "Created" } th { "Order" } th { "State" } th { "For" } th.number { "Price" } } }
            tbody { @for Standing { order, state } in orders { tr {
                td { (words::moment(order.created)) }
                td { a href={ "/operator/order/" (order.id) } { code { (order.id) } } }
                td { span class={ "state " (css(*state)) } { (words::state(*state)) } }
                td { (what(&order.goods)) " · " (order.offer) }
                td.number { (words::price(&order.price)) }
            } } }
        } }
    }
}

fn what(goods: &Goods) -> &'static str {
    match goods {
        Goods::Title(_) => "title",
        Goods::Pass(goods) if goods.gift => "pass, a gift",
        Goods::Pass(_) => "pass",
    }
}

const fn css(state: OrderState) -> &'static str {
    match state {
        OrderState::Paid | OrderState::Granted => "good",
        OrderState::Disputed => "bad",
        OrderState::Pending => "open",
        OrderState::Refunded | OrderState::Expired => "over",
    }
}

async fn order(State(console): State<Console>, headers: HeaderMap, Path(order): Path<String>) -> Answer {
    let inner = &*console.0;
    let session = inner.admit(&headers)?;
    let standing = inner.find(&order).await?;
    Ok(inner.order_page(&session, &standing, None))
}

impl Inner {
    async fn find(&self, order: &str) -> Result<Standing, Response> {
        let none = || self.fail(refusals::look(&swarm_proto::keyserver::refusals::LookRefusal::NoSuchOrder));
        let order: OrderId = order.parse().map_err(|_| none())?;
        self.books.any_order(order).await.map_err(|closed| self.fail(closed.into()))?.ok_or_else(none)
    }

    fn order_page(&self, session: &str, standing: &Standing, trouble: Option<&Failure>) -> Response {
        let Standing { order, state } = standing;
        let returned = order.dues.returned_minor(order.price.minor);
        let body = html! {
            @if let Some(failure) = trouble { (checkout::notice(failure)) }
            dl.facts {
                dt { "State" } dd { span class={ "state " (css(*state)) } { (words::state(*state)) } }
                dt { "Order" } dd { code { (order.id) } }
                dt { "Account" } dd { code { (order.account) } }
                dt { "For" } dd { (what(&order.goods)) " · " (order.offer) @if let Some(item) = order.item() { " · " code { (item) } } }
                dt { "Price" } dd { (words::price(&order.price)) @if returned > 0 { ", " (words::amount(returned, order.price.currency)) " given back" } }
                dt { "Keys released" } dd { (order.grants().len()) }
            }
            h2 { "What happened" }
            ol.timeline {
                li { time { (words::moment(order.created)) } " ordered" }
                @for (at, happening) in order.dues.timeline() {
                    li { time { (words::moment(at)) } " " (words::happening(&happening, order.price.currency)) }
                }
            }
            h2 { "Give money back" }
            form.card.tall method="post" action={ "/operator/order/" (order.id) } {
                input type="hidden" name="csrf" value=(session);
                input type="hidden" name="refund" value=(RefundId::generate(&mut crate::rng()));
                label { span.label { "Minor units (" (order.price.currency) ")" } input name="minor" inputmode="numeric" placeholder="all that is left"; }
                label { span.label { "Reason, kept in the journal" } input name="reason" maxlength="200" required; }
                label.check { input type="checkbox" name="keep" value="yes"; " The right stays (a goodwill)" }
                label { span.label { "Type " b { (CONFIRM) } " to confirm" } input name="confirm" autocomplete="off" required; }
                button type="submit" { "Give back" }
            }
            p.fine { "As a command: " code { "keyserver order refund " (order.id) " --reason …" } }
        };
        let page = self.page("Order", session, &body);
        if trouble.is_some() { (StatusCode::CONFLICT, page).into_response() } else { page }
    }
}

#[derive(Deserialize)]
struct RefundForm {
    csrf: String,
    refund: String,
    #[serde(default)]
    minor: String,
    reason: String,
    #[serde(default)]
    keep: Option<String>,
    confirm: String,
}

async fn refund(
    State(console): State<Console>,
    headers: HeaderMap,
    Path(order): Path<String>,
    Form(form): Form<RefundForm>,
) -> Answer {
    let inner = &*console.0;
    let session = inner.admit(&headers)?;
    inner.check_form(&session, &form.csrf)?;
    let standing = inner.find(&order).await?;
    let id = standing.order.id;
    let (refund, wish) = match form.read() {
        Ok(read) => read,
        Err(failure) => return Ok(inner.order_page(&session, &standing, Some(&failure))),
    };
    match inner.books.refund(id, wish, refund).await.map_err(|closed| inner.fail(closed.into()))? {
        Ok(_) => {
            tracing::info!(order = %id, "order refunded by the operator, on a page");
            Ok(Redirect::to(&format!("/operator/order/{id}")).into_response())
        }
        Err(refusal) => Ok(inner.order_page(&session, &standing, Some(&refusals::refund(&refusal)))),
    }
}

impl RefundForm {
    fn read(self) -> Result<(RefundId, Refunding), Failure> {
        let wrong = |what: &str, hint: &str| Failure::new(Exit::Usage, "E-FIELD-01", what.to_owned()).hint(hint);
        if self.confirm.trim() != CONFIRM {
            return Err(wrong("The confirmation is missing", "type the word to give money back"));
        }
        let refund = self.refund.parse().map_err(|_| wrong("The form is not whole", "open the page again"))?;
        let minor = match self.minor.trim() {
            "" => None,
            digits => Some(
                digits.parse().map_err(|_| wrong("The amount is not a number", "write minor units: 150 for 1.50"))?,
            ),
        };
        let reason = Reason::new(self.reason.trim()).map_err(|error| refusals::invalid(&error))?;
        Ok((refund, Refunding { minor, keeps_rights: self.keep.is_some(), reason }))
    }
}

#[derive(Deserialize)]
struct After {
    #[serde(default)]
    after: Option<String>,
}

async fn passes(State(console): State<Console>, headers: HeaderMap, Query(query): Query<After>) -> Answer {
    let inner = &*console.0;
    let session = inner.admit(&headers)?;
    let after: Option<PassId> = query.after.and_then(|text| text.parse().ok());
    let passes = inner.books.all_passes(after, ROWS).await.map_err(|closed| inner.fail(closed.into()))?;
    let now = clock::utc();
    let body = html! {
        @if passes.is_empty() { p { "None yet." } }
        @else { table {
            thead { tr { th { "Pass" } th { "Holds" } th { "Until" } th { "Whose" } th { "Bought with" } } }
            tbody { @for (id, pass) in &passes { tr {
                td { code { (id.to_string()[..16]) "…" } }
                td { @match pass.holds() {
                    Holds::Credits(bought) => { (pass.credits_left()) " of " (bought) },
                    Holds::Time => "time",
                } @if pass.is_void() { " " span.state.over { "taken back" } } @else if pass.is_expired(now) { " " span.state.over { "ended" } } }
                td { (words::moment(pass.expires())) }
                td { @if let Some(owner) = pass.owner() { code { (owner) } } @else { "whoever has the code" } }
                td { @if let Some(order) = pass.bought_by() { a href={ "/operator/order/" (order) } { code { (order) } } } @else { "–" } }
            } } }
        } }
        @if let (true, Some((last, _))) = (passes.len() == ROWS, passes.last()) {
            p.back { a href={ "/operator/passes?after=" (last) } { "More" } }
        }
        p.fine { "As a command: " code { "keyserver pass ls" } }
    };
    Ok(inner.page("Passes", &session, &body))
}

async fn status(State(console): State<Console>, headers: HeaderMap) -> Answer {
    let inner = &*console.0;
    let session = inner.admit(&headers)?;
    let overview = inner.books.overview().await.map_err(|closed| inner.fail(closed.into()))?;
    let body = html! {
        h2 { "Journal" }
        dl.facts {
            dt { "Records" } dd { (overview.head.records) }
            dt { "Head of the chain" } dd { code { (overview.head.hash_hex()) } }
        }
        p.fine { "The whole chain is checked with " code { "keyserver audit verify" } "." }
        h2 { "Ways to pay" }
        dl.facts { @for gateway in inner.gateways.all() { dt { (gateway.name()) } dd { (gateway.setup().0) } } }
        p.fine { "Each is tried with " code { "keyserver gateway check NAME" } "." }
    };
    Ok(inner.page("Status", &session, &body))
}
