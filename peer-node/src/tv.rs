//! The screen of the box: what is here, what is coming, and a player.
//!
//! Plain pages with one stylesheet and no script; every text of a publisher is escaped. The list looks again by itself
//! every few seconds, the player's page never does.

use std::fmt::Write as _;
use std::time::Duration;

use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Router, middleware};
use http::{HeaderName, HeaderValue, StatusCode, header};
use maud::{DOCTYPE, Markup, html};
use swarm_proto::catalog::CatalogEntry;
use swarm_proto::id::{ItemId, TitleId};
use swarm_proto::pb::node::{Status, TitleState, TitleStatus};

use crate::cli::show;
use crate::clock;
use crate::grants;
use crate::status::{self, Sources};

/// Between two looks of the list, in seconds.
const REFRESH_SECS: &str = "3";

/// How long a page waits for word when its title will be here.
const PROMISE_WITHIN: Duration = Duration::from_secs(1);

/// Nothing but our own pages, our own stylesheet and our own films.
const POLICY: [(HeaderName, HeaderValue); 4] = [
    (
        header::CONTENT_SECURITY_POLICY,
        HeaderValue::from_static(
            "default-src 'none'; style-src 'self'; media-src 'self'; img-src 'self'; form-action 'none'; frame-ancestors 'none'; base-uri 'none'",
        ),
    ),
    (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
    (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
];

/// The pages under `/tv`.
pub fn routes(sources: Sources) -> Router {
    Router::new()
        .route("/", get(async || axum::response::Redirect::temporary("/tv")))
        .route("/tv", get(home))
        .route("/tv/style.css", get(stylesheet))
        .route("/tv/watch/{item}", get(watch))
        .route("/tv/preview/{item}", get(preview))
        .layer(middleware::map_response(async |mut response: Response| {
            response.headers_mut().extend(POLICY);
            response
        }))
        .with_state(sources)
}

async fn home(State(sources): State<Sources>) -> Response {
    match sources.status("") {
        Ok(status) => page("Reelswarm", true, &home_body(&status)).into_response(),
        Err(failure) => failure.into_response(),
    }
}

async fn watch(State(sources): State<Sources>, Path(item): Path<String>) -> Response {
    let title = item.parse::<ItemId>().ok().and_then(|item| sources.catalog.of_item(item));
    let Some(title) = title else {
        return (StatusCode::NOT_FOUND, page("Not here", false, &missing_body())).into_response();
    };
    match sources.status(&title.entry.title.to_string()) {
        Ok(status) => {
            let shown = &status.titles[0];
            let here = shown.state() == TitleState::Available;
            let promise = if here { String::new() } else { promise(&sources, title.entry.title).await };
            let checkout = match shown.playable {
                true => None,
                false => sources.grants.checkout(title.entry.item).await,
            };
            let about = About {
                description: &title.entry.description,
                mime: &title.entry.media.mime,
                promise: &promise,
                checkout: checkout.as_deref(),
            };
            let body = watch_body(shown, &about);
            page(&title.entry.name, false, &body).into_response()
        }
        Err(failure) => failure.into_response(),
    }
}

/// When a title will be here; empty if nobody can say in time.
async fn promise(sources: &Sources, title: TitleId) -> String {
    let told = tokio::time::timeout(PROMISE_WITHIN, sources.link.estimate(title)).await;
    told.ok().and_then(Result::ok).map_or_else(String::new, |told| show::capital(&show::ready(&told, clock::utc())))
}

async fn preview(State(sources): State<Sources>, Path(item): Path<String>) -> Response {
    let title = item.parse::<ItemId>().ok().and_then(|item| sources.catalog.of_item(item));
    let previewed = title.and_then(|title| grants::preview_of(&title.entry).map(|preview| (title, preview)));
    let Some((title, preview)) = previewed else {
        return (StatusCode::NOT_FOUND, page("Not here", false, &missing_body())).into_response();
    };
    let go_on = sources.how_to_go_on(&title.entry).await;
    let entry = &title.entry;
    page(&entry.name, false, &preview_body(entry, preview.length(), &go_on)).into_response()
}

async fn stylesheet() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "text/css; charset=utf-8")], include_str!("tv.css"))
}

fn page(title: &str, refreshing: bool, body: &Markup) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="dark";
                @if refreshing { meta http-equiv="refresh" content=(REFRESH_SECS); }
                title { (title) }
                link rel="stylesheet" href="/tv/style.css";
            }
            body { (body) }
        }
    }
}

fn home_body(status: &Status) -> Markup {
    let rate = status.titles.iter().map(|title| title.rate_bytes_per_sec).sum();
    html! {
        header {
            h1 { (status.name) }
            p.facts {
                span { "● " (status.connected_peers) " connected" }
                span { "▼ " (show::rate(rate)) }
                @if !status.pairing_code.is_empty() {
                    span.trouble { "waiting for its code to be typed" }
                } @else if !status.enrolled {
                    span.trouble { "not enrolled: run peer-node enrol --pair" }
                } @else if status.tracker.as_ref().is_none_or(|tracker| !tracker.up) {
                    span.trouble { "tracker away: going on without it" }
                }
            }
        }
        main {
            @if !status.pairing_code.is_empty() {
                section.pairing {
                    p { "Type this code on your provider's page, under " code { "/pair" } ", or read it to them:" }
                    p.code { (status.pairing_code) }
                }
            }
            (row("Available now", status, |title| title.state() == TitleState::Available))
            (row("Coming to your box", status, |title| title.state() != TitleState::Available))
            @if status.titles.is_empty() {
                p.empty { "Nothing here yet. Put a title into the queue: " code { "peer-node get \"TITLE\"" } }
            }
        }
    }
}

fn row(heading: &str, status: &Status, belongs: impl Fn(&TitleStatus) -> bool) -> Markup {
    let titles: Vec<&TitleStatus> = status.titles.iter().filter(|title| belongs(title)).collect();
    html! {
        @if !titles.is_empty() {
            section {
                h2 { (heading) }
                ul.tiles { @for title in titles { li { (tile(title)) } } }
            }
        }
    }
}

fn tile(title: &TitleStatus) -> Markup {
    let item = ItemId::try_from(title.item.as_slice()).map(|item| item.to_string()).unwrap_or_default();
    html! {
        a.tile href={ "/tv/watch/" (item) } {
            span.name { (title.name) }
            span.state { (state_in_words(title)) }
            @if title.state() != TitleState::Available {
                progress max=(title.n_chunks.max(1)) value=(title.chunks_held) {}
            }
        }
    }
}

/// What a title's page says besides how the title stands.
#[derive(Default)]
struct About<'a> {
    description: &'a str,
    mime: &'a str,
    /// When it will be here; may be empty.
    promise: &'a str,
    /// Where it can be paid in a browser.
    checkout: Option<&'a str>,
}

fn watch_body(title: &TitleStatus, about: &About<'_>) -> Markup {
    let About { description, mime, promise, checkout } = *about;
    let item = ItemId::try_from(title.item.as_slice()).map(|item| item.to_string()).unwrap_or_default();
    let source = format!("/play/{item}");
    html! {
        header {
            p.facts {
                a href="/tv" { "‹ Home" }
                span { (state_in_words(title)) }
                span { (show::bytes(title.sealed_len)) }
                @if !promise.is_empty() { span { (promise) } }
                @if let Some(expiry) = show::begin_before(title) { span { (expiry) } }
            }
            h1 { (title.name) }
        }
        main {
            @if !title.playable {
                p.empty {
                    "Needs payment. "
                    @if let Some(url) = checkout { "Pay in a browser: " a href=(url) rel="noreferrer" { (url) } ". " }
                    "On this box: " code { "peer-node pay \"" (title.name) "\"" }
                }
                @if title.preview_ms > 0 {
                    p.empty {
                        a href={ "/tv/preview/" (item) } {
                            "▶ Watch the first " (show::ago(Duration::from_millis(title.preview_ms)))
                        }
                    }
                }
            } @else if mime.starts_with("audio/") {
                audio controls autoplay preload="metadata" src=(source) {}
            } @else if mime.starts_with("video/") {
                video controls autoplay preload="metadata" src=(source) {}
            } @else {
                p.empty { a href=(source) { "Open the file" } }
            }
            @if !description.is_empty() { p.description { (description) } }
        }
    }
}

fn preview_body(entry: &CatalogEntry, length: Duration, go_on: &str) -> Markup {
    let source = format!("/preview/{}", entry.item);
    html! {
        header {
            p.facts {
                a href={ "/tv/watch/" (entry.item) } { "‹ Back" }
                span { "The first " (show::ago(length)) ", free" }
            }
            h1 { (entry.name) }
        }
        main {
            @if entry.media.mime.starts_with("audio/") {
                audio controls autoplay preload="metadata" src=(source) {}
            } @else {
                video controls autoplay preload="metadata" src=(source) {}
            }
            p.empty { (go_on) }
        }
    }
}

fn missing_body() -> Markup {
    html! { main { p.empty { "This box knows no such title. " a href="/tv" { "Home" } } } }
}

/// The one state of a title, with an icon, never by colour alone.
fn state_in_words(title: &TitleStatus) -> String {
    let mut words = match title.state() {
        TitleState::Available if title.playable => "▶ Ready to play".to_owned(),
        TitleState::Available => "▣ Here; needs payment".to_owned(),
        TitleState::Arriving => format!("◔ {} %, {}", show::percent(title), show::rate(title.rate_bytes_per_sec)),
        TitleState::Paused => format!("⏸ Paused: {}", title.reason),
        TitleState::Scheduled => format!("◷ {}", show::capital(&title.reason)),
        TitleState::Waiting => "◷ Waiting for a source".to_owned(),
        TitleState::Unspecified => "◌ Not in the queue".to_owned(),
    };
    let (boxes, seeds) = status::bytes_by_kind(title);
    if boxes + seeds > 0 {
        let _ = write!(words, " · {}", show::split(boxes, seeds));
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_from_afar_are_text_and_nothing_else() {
        let title =
            TitleStatus { name: "<script>alert(1)</script>".to_owned(), item: vec![7; 32], ..TitleStatus::default() };
        let html = tile(&title).into_string();
        assert!(html.contains("&lt;script&gt;") && !html.contains("<script"));
    }

    #[test]
    fn code_that_waits_to_be_typed_stands_on_the_screen() {
        let status = Status { pairing_code: "7KQ2-M9X7".to_owned(), ..Status::default() };
        assert!(home_body(&status).into_string().contains("7KQ2-M9X7"));
        assert!(!home_body(&Status::default()).into_string().contains("section class=\"pairing\""));
    }

    #[test]
    fn unpaid_title_has_no_player() {
        let title = TitleStatus { item: vec![7; 32], ..TitleStatus::default() };
        let film = About { mime: "video/mp4", ..About::default() };
        assert!(!watch_body(&title, &film).into_string().contains("<video"));
        let paid = TitleStatus { playable: true, ..title };
        assert!(watch_body(&paid, &film).into_string().contains("<video"));
    }

    #[test]
    fn unpaid_title_says_where_it_can_be_paid_and_what_is_free() {
        let title = TitleStatus { item: vec![7; 32], preview_ms: 300_000, ..TitleStatus::default() };
        let checkout = Some("https://keys.example/pay/abc");
        let about = About { mime: "video/mp4", checkout, ..About::default() };
        let html = watch_body(&title, &about).into_string();
        assert!(html.contains("href=\"https://keys.example/pay/abc\"") && html.contains("peer-node pay"), "{html}");
        assert!(html.contains("Watch the first 5 min") && html.contains("/tv/preview/0707"), "{html}");
        let paid = TitleStatus { playable: true, ..title };
        let html = watch_body(&paid, &About { checkout: None, ..about }).into_string();
        assert!(!html.contains("/pay/") && !html.contains("/tv/preview/"));
    }
}
