//! `/pair`: a customer's browser lets in the box that shows a code.
//!
//! A sign-in link is only looked at by GET, so that a mail scanner does not use it up; a button opens it and begins a
//! session (cookie: `HttpOnly`, `SameSite=Strict`). A POST comes from a page of ours: the browser says so, and forms
//! carry a value that only this session's pages know. Before a box is let in, the page says which one asks.

use std::net::{IpAddr, SocketAddr};

use axum::Router;
use axum::extract::{ConnectInfo, Form, Path, State};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use daemon::exit::{Exit, Failure};
use daemon::secrets;
use data_encoding::BASE64URL_NOPAD;
use maud::{Markup, html};
use serde::Deserialize;
use swarm_proto::code::EnrolCode;
use swarm_proto::tracker::registry::Applicant;
use swarm_proto::tracker::signins::{SESSION_LASTS, SecretKey, form_value};

use super::{HEADERS, Page, document};
use crate::state::{SIGN_IN_PATH, SignedIn};
use crate::{convert, refusal};

const COOKIE: &str = "reelswarm_session";

const SEE_OTHER: &str = "/pair";

/// The routes of signing in and pairing.
pub(super) fn routes() -> Router<Page> {
    Router::new()
        .route(&format!("{SIGN_IN_PATH}{{link}}"), get(offer).post(sign_in))
        .route("/pair", get(ask).post(answer))
}

/// What the form of `/pair` sends.
#[derive(Deserialize)]
struct Typed {
    code: String,
    /// Proves that the form is one of this session's.
    form: String,
    /// The box has been shown, and is the right one.
    #[serde(default)]
    confirmed: bool,
}

/// A browser that has signed in, and what its forms have to carry.
struct Session {
    of: SignedIn,
    form: String,
}

async fn offer(State(page): State<Page>, Path(link): Path<String>) -> Response {
    let body = html! {
        p { "This signs this browser in for one hour. The link works once." }
        form method="post" action={ (SIGN_IN_PATH) (link) } { button type="submit" { "Sign in" } }
    };
    show(&page, StatusCode::OK, "Sign in", body)
}

async fn sign_in(State(page): State<Page>, Path(link): Path<String>, headers: HeaderMap) -> Result<Response, Failure> {
    check_origin(&headers)?;
    let secret = secrets::random::<32>();
    let opened = match secret_of(&link) {
        Some(link) => page.state.open_link(SecretKey::of(&link), SecretKey::of(&secret)).await?,
        None => None,
    };
    if opened.is_none() {
        let body = html! { p.empty { "This link has been used or is over. Ask for a new one." } };
        return Ok(show(&page, StatusCode::FORBIDDEN, "Sign in", body));
    }
    let secure = if page.is_tls { "; Secure" } else { "" };
    let cookie = format!(
        "{COOKIE}={}; HttpOnly; SameSite=Strict; Path=/; Max-Age={}{secure}",
        BASE64URL_NOPAD.encode(secret.as_slice()),
        SESSION_LASTS.as_secs()
    );
    let headers = [(header::SET_COOKIE, cookie), (header::LOCATION, SEE_OTHER.to_owned())];
    Ok((StatusCode::SEE_OTHER, HEADERS, headers).into_response())
}

async fn ask(State(page): State<Page>, headers: HeaderMap) -> Result<Response, Failure> {
    Ok(match session(&page, &headers).await? {
        Some(session) => show(&page, StatusCode::OK, "Add a box", code_form(&session, None)),
        None => signed_out(&page),
    })
}

async fn answer(
    State(page): State<Page>,
    ConnectInfo(from): ConnectInfo<SocketAddr>,
    headers: HeaderMap,
    Form(typed): Form<Typed>,
) -> Result<Response, Failure> {
    check_origin(&headers)?;
    let Some(session) = session(&page, &headers).await? else { return Ok(signed_out(&page)) };
    let is_ours = match (secret_of(&typed.form), secret_of(&session.form)) {
        (Some(sent), Some(expected)) => SecretKey::of(&sent) == SecretKey::of(&expected),
        _ => false,
    };
    if !is_ours {
        return Err(foreign_form("the form is not one of this session's"));
    }
    Ok(match step(&page, from.ip().to_canonical(), &session, &typed).await {
        Ok(body) => show(&page, StatusCode::OK, "Add a box", body),
        Err(failure) => {
            let status = if failure.code == "E-ENROL-05" { StatusCode::TOO_MANY_REQUESTS } else { StatusCode::OK };
            show(&page, status, "Add a box", code_form(&session, Some(&failure)))
        }
    })
}

/// Says which box has the code; once that is confirmed, lets it in.
async fn step(page: &Page, from: IpAddr, session: &Session, typed: &Typed) -> Result<Markup, Failure> {
    let code = convert::code(&typed.code).map_err(|invalid| refusal::field(&invalid))?;
    if !typed.confirmed {
        let applicant = page.state.waiting_box(from, code.clone()).await?;
        return Ok(confirmation(session, &code, &applicant));
    }
    let device = page.state.pair_own(from, session.of.account, code).await?;
    Ok(html! {
        p { strong { (device.name) } " is now one of " (session.of.name) "'s boxes. Its screen says so in a moment." }
        p { a href=(SEE_OTHER) { "Add another box" } }
    })
}

fn code_form(session: &Session, failure: Option<&Failure>) -> Markup {
    html! {
        @if let Some(failure) = failure {
            p.empty role="alert" {
                (failure.what)
                @if let Some(why) = &failure.why { ": " (why) }
                @if let Some(hint) = &failure.hint { " (" (hint) ")" }
            }
        }
        p { "Signed in as " strong { (session.of.name) } "." }
        form method="post" action=(SEE_OTHER) {
            input type="hidden" name="form" value=(session.form);
            label for="code" { "The code on the box's screen" }
            input id="code" name="code" required autofocus autocomplete="off" autocapitalize="characters" maxlength="16";
            button type="submit" { "Go on" }
        }
    }
}

fn confirmation(session: &Session, code: &EnrolCode, applicant: &Applicant) -> Markup {
    html! {
        p { "The box that shows this code is called " strong { (applicant.name) } " (" (applicant.device.short()) ")." }
        p { "Go on only if it is yours and stands before you." }
        form method="post" action=(SEE_OTHER) {
            input type="hidden" name="form" value=(session.form);
            input type="hidden" name="code" value=(*code.reveal());
            input type="hidden" name="confirmed" value="true";
            button type="submit" { "Add it to " (session.of.name) }
        }
        p { a href=(SEE_OTHER) { "It is another box" } }
    }
}

fn signed_out(page: &Page) -> Response {
    let body = html! { p.empty { "You are not signed in. Ask for a sign-in link, and open it in this browser." } };
    show(page, StatusCode::FORBIDDEN, "Add a box", body)
}

fn show(page: &Page, status: StatusCode, heading: &str, body: Markup) -> Response {
    (status, HEADERS, document(&page.name, html! { main { h2 { (heading) } (body) } })).into_response()
}

async fn session(page: &Page, headers: &HeaderMap) -> Result<Option<Session>, Failure> {
    let cookies = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    let ours = cookies.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='));
    let Some(secret) = ours.filter(|(name, _)| *name == COOKIE).find_map(|(_, value)| secret_of(value)) else {
        return Ok(None);
    };
    let of = page.state.session(SecretKey::of(&secret)).await?;
    Ok(of.map(|of| Session { of, form: BASE64URL_NOPAD.encode(&form_value(&secret)) }))
}

/// Refuses what a page of another origin has sent. Every browser of today says where a POST comes from.
fn check_origin(headers: &HeaderMap) -> Result<(), Failure> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    if text("sec-fetch-site").is_some_and(|site| site != "same-origin") {
        return Err(foreign_form("it was sent by another site's page"));
    }
    let Some(origin) = text("origin") else { return Ok(()) };
    let authority = |text: &str| text.parse::<Authority>().ok();
    let origin = origin.split_once("://").and_then(|(_, rest)| authority(rest));
    match origin.is_some() && origin == text("host").and_then(authority) {
        true => Ok(()),
        false => Err(foreign_form("it was sent by another site's page")),
    }
}

fn foreign_form(why: &str) -> Failure {
    Failure::new(Exit::NotAllowed, "E-FORM-01", "this form is not accepted")
        .why(why)
        .hint("open the page again and send its form")
}

/// A secret as it stands in a link, a cookie or a form.
fn secret_of(text: &str) -> Option<[u8; 32]> {
    BASE64URL_NOPAD.decode(text.as_bytes()).ok()?.try_into().ok()
}
