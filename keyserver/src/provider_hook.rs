//! What a provider posts to us by itself: `POST /webhooks/stripe`.
//!
//! The gateway makes sure that it is the provider's word, and the ledger that it agrees with the order; the answer is
//! 2xx only when the news is durable or was known. A provider repeats everything else.

use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use daemon::{Exit, Failure};
use swarm_proto::id::AttemptId;
use swarm_proto::keyserver::refusals::ProviderRefusal;

use crate::books::Books;
use crate::cashier;
use crate::gateway::stripe::{self, Stripe};
use crate::gateway::{Heard, Payment, PaymentGateway};
use crate::services::Counters;

/// Largest message: one object of Stripe with all its charges has some ten KiB.
const MAX_BODY_BYTES: usize = 64 << 10;

#[derive(Clone)]
struct Hook {
    gateway: Arc<Stripe>,
    books: Books,
    counters: Counters,
}

pub(crate) fn routes(gateway: Arc<Stripe>, books: Books, counters: Counters) -> Router {
    let hook = Hook { gateway, books, counters };
    Router::new().route(stripe::PATH, post(handle)).layer(DefaultBodyLimit::max(MAX_BODY_BYTES)).with_state(hook)
}

async fn handle(State(hook): State<Hook>, headers: HeaderMap, body: Bytes) -> Response {
    match hook.take(&headers, &body).await {
        Ok(outcome) => {
            hook.counters.count("stripe message", outcome);
            axum::Json(serde_json::json!({ "status": outcome })).into_response()
        }
        Err((status, failure)) => {
            hook.counters.count("stripe message", "refused");
            match status {
                // Anyone can send these; the counter is enough, or strangers fill the log.
                StatusCode::BAD_REQUEST | StatusCode::UNAUTHORIZED => {
                    tracing::debug!(reason = %failure.what, "not the word of Stripe")
                }
                _ => tracing::warn!(reason = %failure.what, "word of Stripe not taken"),
            }
            (status, axum::Json(failure.to_json())).into_response()
        }
    }
}

impl Hook {
    /// Takes one message; says what became of it.
    async fn take(&self, headers: &HeaderMap, body: &[u8]) -> Result<&'static str, (StatusCode, Failure)> {
        let heard = self.gateway.hear(headers, body).await.map_err(|failure| {
            let status = match failure.exit {
                Exit::Usage => StatusCode::BAD_REQUEST,
                Exit::NotAllowed => StatusCode::UNAUTHORIZED,
                _ => StatusCode::SERVICE_UNAVAILABLE,
            };
            (status, failure)
        })?;
        let Heard::News { of, news } = heard else { return Ok("ignored") };
        let Some(attempt) = self.attempt(of).await? else { return Ok("ignored") };
        let mut outcome = "already";
        for news in news {
            let word = cashier::word(&news);
            let known = self.books.handle_provider(attempt, news).await.map_err(closed)?;
            if !known.map_err(refused)? {
                tracing::info!(%attempt, word, "word of Stripe");
                outcome = "accepted";
            }
        }
        Ok(outcome)
    }

    /// The payment a message is about; none when it is of someone else who uses the same account.
    async fn attempt(&self, of: Payment) -> Result<Option<AttemptId>, (StatusCode, Failure)> {
        match of {
            Payment::Ours(attempt, order, account) => {
                self.books.belongs(attempt, order, account).await.map_err(closed)?.map_err(refused)?;
                Ok(Some(attempt))
            }
            Payment::Theirs(reference) => self.books.attempt_of(reference).await.map_err(closed),
        }
    }
}

fn closed(closed: crate::books::Closed) -> (StatusCode, Failure) {
    (StatusCode::SERVICE_UNAVAILABLE, closed.into())
}

fn refused(refusal: ProviderRefusal) -> (StatusCode, Failure) {
    let status = match refusal {
        ProviderRefusal::NoSuchPayment => StatusCode::NOT_FOUND,
        _ => StatusCode::CONFLICT,
    };
    let failure = Failure::new(Exit::Conflict, "E-STRIPE-08", refusal)
        .hint("compare the payment at Stripe with `keyserver order show`");
    (status, failure)
}
