//! The status page at `/`: how the keyserver stands, in numbers. No order, no customer, no secret.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use daemon::Failure;
use maud::{DOCTYPE, Markup, html};
use swarm_proto::keyserver::orders::OrderState;
use tokio::sync::Mutex;

use crate::books::{Books, Overview};
use crate::vault::ring::KeyRing;

/// How long numbers are shown again before they are counted anew: counting looks at every order.
const FRESH: Duration = Duration::from_secs(2);

const POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; style-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
);

const STYLE: &str = include_str!("page.css");

/// The states of an order in the order of its life, as people read them.
const STATES: [(OrderState, &str); 6] = [
    (OrderState::Pending, "waiting for money"),
    (OrderState::Paid, "paid"),
    (OrderState::Granted, "key released"),
    (OrderState::Refunded, "refunded"),
    (OrderState::Disputed, "disputed"),
    (OrderState::Expired, "never paid"),
];

/// The routes of the page.
pub(crate) fn routes(name: &str, keys: Arc<KeyRing>, books: Books) -> Router {
    let page = Page { name: name.to_owned(), keys, books, started: Instant::now(), counted: Mutex::default() };
    Router::new().route("/", get(show)).route("/style.css", get(style)).with_state(Arc::new(page))
}

struct Page {
    name: String,
    keys: Arc<KeyRing>,
    books: Books,
    started: Instant,
    counted: Mutex<Option<(Instant, Overview)>>,
}

impl Page {
    async fn overview(&self) -> Result<Overview, Failure> {
        let mut counted = self.counted.lock().await;
        if let Some((at, overview)) = counted.as_ref()
            && at.elapsed() < FRESH
        {
            return Ok(overview.clone());
        }
        let overview = self.books.overview().await?;
        *counted = Some((Instant::now(), overview.clone()));
        Ok(overview)
    }
}

async fn show(State(page): State<Arc<Page>>) -> Response {
    match page.overview().await {
        Ok(overview) => {
            let headers = [
                (header::CONTENT_SECURITY_POLICY, POLICY),
                (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
            ];
            (headers, render(&page, &overview)).into_response()
        }
        Err(failure) => failure.into_response(),
    }
}

async fn style() -> Response {
    ([(header::CONTENT_TYPE, HeaderValue::from_static("text/css; charset=utf-8"))], STYLE).into_response()
}

fn render(page: &Page, overview: &Overview) -> Markup {
    let Overview { totals, head, journal_bytes } = overview;
    let rows = STATES.map(|(state, words)| (words, totals.orders.get(&state).copied().unwrap_or_default()));
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { (page.name) " · Reelswarm keyserver" }
                link rel="stylesheet" href="/style.css";
            }
            body {
                main {
                    h1 { (page.name) }
                    p { "Reelswarm keyserver, up for " (uptime(page.started.elapsed())) "." }
                    h2 { "Orders" }
                    dl {
                        @for (words, count) in rows { dt { (words) } dd { (count) } }
                        @if totals.stuck > 0 { dt { "waiting too long for a provider" } dd.alert { (totals.stuck) } }
                        @if totals.overpaid > 0 { dt { "paid more than once" } dd.alert { (totals.overpaid) } }
                    }
                    h2 { "Kept here" }
                    dl {
                        dt { "licences issued" } dd { (totals.grants) }
                        dt { "keys deposited" } dd { (totals.items) }
                        dt { "passes sold" } dd { (totals.passes) }
                        dt { "publishers admitted" } dd { (totals.publishers) }
                    }
                    h2 { "Journal" }
                    dl {
                        dt { "records" } dd { (head.records) }
                        dt { "bytes" } dd { (journal_bytes) }
                        dt { "head of the chain" } dd { code { (head.hash_hex()) } }
                        dt { "keyserver id" } dd { code { (page.keys.now().server()) } }
                    }
                }
            }
        }
    }
}

fn uptime(elapsed: Duration) -> String {
    let minutes = elapsed.as_secs() / 60;
    let (days, hours) = (minutes / 1440, minutes / 60 % 24);
    match (days, hours) {
        (0, 0) => format!("{minutes} min"),
        (0, hours) => format!("{hours} h {} min", minutes % 60),
        (days, hours) => format!("{days} d {hours} h"),
    }
}
