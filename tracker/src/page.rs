//! The page at `/`: what can be had here, and how many copies are online.
//!
//! Everything shown is escaped text; there is no script, and the one stylesheet comes from here.

mod pair;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderName, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use daemon::exit::Failure;

use maud::{DOCTYPE, Markup, html};

use crate::human;
use crate::state::{Handle, Overview};

/// Titles on the page: the newest ones. More than people scroll through.
const MAX_TITLES: usize = 500;

const STYLE: &str = include_str!("page.css");

/// Nothing is loaded but our own stylesheet, nobody frames the page, and no type is guessed.
const HEADERS: [(HeaderName, HeaderValue); 4] = [
    (
        header::CONTENT_SECURITY_POLICY,
        HeaderValue::from_static(
            "default-src 'none'; style-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'self'",
        ),
    ),
    (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
    (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
];

#[derive(Clone)]
struct Page {
    state: Handle,
    name: String,
    /// Whether browsers come over TLS, so that cookies may insist on it.
    is_tls: bool,
}

/// The web routes of a tracker.
pub(crate) fn routes(state: Handle, name: String, is_tls: bool) -> Router {
    let page = Page { state, name, is_tls };
    Router::new().route("/", get(front)).route("/style.css", get(style)).merge(pair::routes()).with_state(page)
}

async fn front(State(page): State<Page>) -> Result<Response, Failure> {
    let overview = page.state.overview(MAX_TITLES).await?;
    Ok((HEADERS, render(&page.name, &overview)).into_response())
}

async fn style() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "text/css; charset=utf-8"), (header::CACHE_CONTROL, "max-age=3600")], STYLE)
}

fn render(name: &str, overview: &Overview) -> Markup {
    let traffic = &overview.traffic;
    let main = html! {
        main {
            dl {
                (figure("titles", &overview.n_titles.to_string()))
                (figure("boxes online", &overview.boxes_online.to_string()))
                (figure("seeds online", &overview.seeds_online.to_string()))
                (figure("sent by boxes", &human::bytes(traffic.from_boxes_bytes)))
                (figure("sent by seeds", &human::bytes(traffic.from_seeds_bytes)))
                @if let Some(share) = human::share(traffic.from_boxes_bytes, traffic.from_seeds_bytes) {
                    (figure("carried by boxes", &share))
                }
            }
            @if overview.titles.is_empty() {
                p.empty { "No title has been published yet." }
            } @else {
                table {
                    thead { tr { th { "Title" } th.number { "Size" } th.number { "Copies online" } } }
                    tbody {
                        @for title in &overview.titles {
                            tr {
                                td { (title.name) }
                                td.number { (human::bytes(title.sealed_len)) }
                                td.number {
                                    (title.copies_online)
                                    @if title.partial_online > 0 {
                                        span.quiet { " + " (title.partial_online) " in part" }
                                    }
                                }
                            }
                        }
                    }
                }
            }
        }
    };
    document(name, main)
}

/// A page under the tracker's name.
fn document(name: &str, main: Markup) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { (name) }
                link rel="stylesheet" href="/style.css";
            }
            body {
                header { h1 { (name) } }
                (main)
            }
        }
    }
}

fn figure(name: &str, value: &str) -> Markup {
    html! { div { dt { (name) } dd { (value) } } }
}

#[cfg(test)]
mod tests {
    use swarm_proto::pb::tracker::TrafficTotals;

    use super::*;
    use crate::state::TitleCopies;

    #[test]
    fn names_are_text_and_nothing_else() {
        let title = TitleCopies {
            name: "<script>alert(1)</script>".to_owned(),
            sealed_len: 3 << 20,
            copies_online: 2,
            partial_online: 1,
        };
        let overview = Overview {
            boxes_online: 3,
            seeds_online: 1,
            n_titles: 1,
            titles: vec![title],
            traffic: TrafficTotals { from_boxes_bytes: 3, from_seeds_bytes: 1, wasted_bytes: 0 },
        };
        let page = render("\"><b>", &overview).into_string();
        assert!(!page.contains("<script>") && !page.contains("<b>"), "{page}");
        assert!(page.contains("&lt;script&gt;alert(1)&lt;/script&gt;") && page.contains("75 %"), "{page}");
    }
}
