//! The word of a till: `POST /webhooks/payment`, signed as Standard Webhooks 1.0 describes.
//!
//! Nothing is believed before the signature over the bytes as they came is verified, in constant time, with one of at
//! most two live secrets, and nothing is written that does not agree with the order in amount, currency and account.
//! The answer is 2xx only when the news is durable or was known; a till repeats everything else.

use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use daemon::{Exit, Failure};
use data_encoding::BASE64;
use hmac::{Hmac, KeyInit, Mac};
use serde::Deserialize;
use sha2::Sha256;
use swarm_proto::catalog::{Currency, Money};
use swarm_proto::id::{AccountId, OrderId};
use swarm_proto::keyserver::dues::Dispute;
use swarm_proto::keyserver::ledger::{TillEvent, TillNews};
use swarm_proto::time::Utc;

use crate::secret::WebhookSecrets;
use crate::services::Context;
use crate::vault::event_id;
use crate::{clock, crash, refusals};

/// Where tills post to.
pub const PATH: &str = "/webhooks/payment";

/// Largest message of a till.
const MAX_BODY_BYTES: usize = 16 << 10;

/// How far the clock of a till may be off, and how old a message may get on its way.
const TOLERANCE: Duration = Duration::from_secs(300);

/// Most signatures looked at in one message: a till that rotates its secret sends two.
const MAX_SIGNATURES: usize = 4;

/// Longest id of a message.
const MAX_ID_LEN: usize = 256;

/// The route of the till.
pub(crate) fn routes(context: Context, secrets: WebhookSecrets) -> Router {
    Router::new()
        .route(PATH, post(handle))
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .with_state(Till { context, secrets })
}

#[derive(Clone)]
struct Till {
    context: Context,
    secrets: WebhookSecrets,
}

/// Why a message is not taken.
#[derive(Debug)]
struct Refusal {
    status: StatusCode,
    failure: Failure,
}

impl Refusal {
    fn new(status: StatusCode, failure: Failure) -> Refusal {
        Refusal { status, failure }
    }

    fn malformed(what: impl std::fmt::Display) -> Refusal {
        let hint = "send it as docs/protocol.md, \"Payments\", describes";
        Refusal::new(StatusCode::BAD_REQUEST, Failure::new(Exit::Usage, "E-WEBHOOK-01", what).hint(hint))
    }

    fn unauthorized(code: &'static str, what: &str, hint: &str) -> Refusal {
        Refusal::new(StatusCode::UNAUTHORIZED, Failure::new(Exit::NotAllowed, code, what).hint(hint))
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (self.status, axum::Json(self.failure.to_json())).into_response()
    }
}

async fn handle(State(till): State<Till>, headers: HeaderMap, body: Bytes) -> Response {
    match till.take(&headers, &body).await {
        Ok(outcome) => {
            till.context.counters.count("webhook", outcome);
            axum::Json(serde_json::json!({ "status": outcome })).into_response()
        }
        Err(refusal) => {
            till.context.counters.count("webhook", "refused");
            let (status, reason) = (refusal.status.as_u16(), &refusal.failure.what);
            match refusal.status {
                // Anyone can send these; the counter is enough, or strangers fill the log.
                StatusCode::BAD_REQUEST | StatusCode::UNAUTHORIZED => {
                    tracing::debug!(status, reason, "not the word of a till")
                }
                _ => tracing::warn!(status, reason, "word of a till not taken"),
            }
            refusal.into_response()
        }
    }
}

impl Till {
    /// Takes one message; says what became of it.
    async fn take(&self, headers: &HeaderMap, body: &[u8]) -> Result<&'static str, Refusal> {
        let message = Message { headers: Headers::read(headers)?, body };
        let secrets =
            self.secrets.read().await.map_err(|failure| Refusal::new(StatusCode::SERVICE_UNAVAILABLE, failure))?;
        message.check_time(clock::utc())?;
        message.check_signature(secrets.iter().map(|secret| secret.as_slice()))?;
        let Some(event) = message.event()? else { return Ok("ignored") };
        crash::point("webhook-verified");

        let (order, what) = (event.order, event.what);
        let known = self.context.books.handle_till(event).await;
        let known = known.map_err(|closed| Refusal::new(StatusCode::SERVICE_UNAVAILABLE, closed.into()))?;
        let already = known.map_err(|refusal| {
            let failure = refusals::till(&refusal);
            let status = if failure.exit == Exit::NotFound { StatusCode::NOT_FOUND } else { StatusCode::CONFLICT };
            Refusal::new(status, failure)
        })?;
        tracing::info!(%order, ?what, already, "word of a till");
        crash::point("webhook-durable");
        Ok(if already { "already" } else { "accepted" })
    }
}

/// A message as it came.
struct Message<'a> {
    headers: Headers<'a>,
    body: &'a [u8],
}

struct Headers<'a> {
    id: &'a str,
    timestamp: &'a str,
    signatures: &'a str,
}

impl<'a> Headers<'a> {
    fn read(headers: &'a HeaderMap) -> Result<Headers<'a>, Refusal> {
        let one = |name: &'static str| {
            let mut values = headers.get_all(name).iter();
            let value = values.next().ok_or_else(|| Refusal::malformed(format_args!("there is no {name} header")))?;
            if values.next().is_some() {
                return Err(Refusal::malformed(format_args!("there is more than one {name} header")));
            }
            value.to_str().map_err(|_| Refusal::malformed(format_args!("the {name} header is not text")))
        };
        let id = one("webhook-id")?;
        if id.is_empty() || id.len() > MAX_ID_LEN || !id.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(Refusal::malformed(format_args!(
                "webhook-id has to be 1 to {MAX_ID_LEN} visible ASCII characters"
            )));
        }
        Ok(Headers { id, timestamp: one("webhook-timestamp")?, signatures: one("webhook-signature")? })
    }
}

impl Message<'_> {
    fn check_time(&self, now: Utc) -> Result<(), Refusal> {
        let digits = self.headers.timestamp;
        let plain = digits.bytes().all(|byte| byte.is_ascii_digit());
        let secs = digits.parse().ok().filter(|_| plain);
        let sent =
            Utc::from_secs(secs.ok_or_else(|| Refusal::malformed("webhook-timestamp has to be seconds since 1970"))?);
        if now.since(sent) > TOLERANCE || sent.since(now) > TOLERANCE {
            let hint = "check both clocks; a message is worth nothing after five minutes, send it again with a fresh timestamp";
            return Err(Refusal::unauthorized("E-WEBHOOK-02", "the message is too old or from the future", hint));
        }
        Ok(())
    }

    fn check_signature<'s>(&self, secrets: impl Iterator<Item = &'s [u8]>) -> Result<(), Refusal> {
        let signatures: Vec<Vec<u8>> = self
            .headers
            .signatures
            .split(' ')
            .filter_map(|signature| BASE64.decode(signature.strip_prefix("v1,")?.as_bytes()).ok())
            .take(MAX_SIGNATURES)
            .collect();
        // Every secret is tried with every signature: how long it takes tells nothing.
        let mut genuine = false;
        for secret in secrets {
            let mac = self.mac(secret);
            for signature in &signatures {
                genuine |= mac.clone().verify_slice(signature).is_ok();
            }
        }
        let hint = "sign id.timestamp.body with the secret that `keyserver webhook secret new` printed";
        if genuine {
            Ok(())
        } else {
            Err(Refusal::unauthorized("E-WEBHOOK-03", "the message is not signed with a live secret", hint))
        }
    }

    fn mac(&self, secret: &[u8]) -> Hmac<Sha256> {
        let mut mac = <Hmac<Sha256> as KeyInit>::new_from_slice(secret).expect("HMAC takes keys of every length");
        for part in [self.headers.id.as_bytes(), b".", self.headers.timestamp.as_bytes(), b".", self.body] {
            mac.update(part);
        }
        mac
    }

    /// What the message says; `None` when it is about something else than payments.
    fn event(&self) -> Result<Option<TillEvent>, Refusal> {
        let malformed =
            |error: serde_json::Error| Refusal::malformed(format_args!("the body is not readable: {error}"));
        let Envelope { kind } = serde_json::from_slice(self.body).map_err(malformed)?;
        let what = match kind.as_str() {
            "payment.succeeded" => TillNews::Succeeded,
            "payment.refunded" => TillNews::Refunded,
            "payment.disputed" => TillNews::Disputed(Dispute::Open),
            "payment.dispute.won" => TillNews::Disputed(Dispute::Won),
            "payment.dispute.lost" => TillNews::Disputed(Dispute::Lost),
            _ => return Ok(None),
        };
        let Payment { data } = serde_json::from_slice(self.body).map_err(malformed)?;
        let currency: Currency = data.currency.parse().map_err(Refusal::malformed)?;
        let amount = Money::new(data.amount_minor, currency).map_err(Refusal::malformed)?;
        Ok(Some(TillEvent { id: event_id(self.headers.id), what, order: data.order, account: data.account, amount }))
    }
}

#[derive(Deserialize)]
struct Envelope {
    #[serde(rename = "type")]
    kind: String,
}

#[derive(Deserialize)]
struct Payment {
    data: PaymentData,
}

/// More may be there; what is here must be.
#[derive(Deserialize)]
struct PaymentData {
    order: OrderId,
    account: AccountId,
    amount_minor: u64,
    currency: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    const BODY: &[u8] = br#"{"type":"payment.created","data":{}}"#;

    fn message<'a>(timestamp: &'a str, signatures: &'a str, body: &'a [u8]) -> Message<'a> {
        Message { headers: Headers { id: "msg_1", timestamp, signatures }, body }
    }

    #[test]
    fn the_published_example_verifies() {
        // From the specification of Standard Webhooks (and the tests of its reference libraries).
        let secret = BASE64.decode(b"MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").expect("base64");
        let example = Message {
            headers: Headers {
                id: "msg_p5jXN8AQM9LWM0D4loKWxJek",
                timestamp: "1614265330",
                signatures: "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
            },
            body: br#"{"test": 2432232314}"#,
        };
        assert!(example.check_signature([secret.as_slice()].into_iter()).is_ok());
    }

    #[test]
    fn one_genuine_signature_among_several_is_enough() {
        let right = BASE64.encode(&message("1", "", BODY).mac(b"new").finalize().into_bytes());
        let signatures = format!("v1,AAAA v2,{right} v1,{right}");
        let secrets = [b"old".as_slice(), b"new".as_slice()];
        assert!(message("1", &signatures, BODY).check_signature(secrets.into_iter()).is_ok());
        assert!(message("1", &signatures, b"{}").check_signature(secrets.into_iter()).is_err());
        assert!(message("2", &signatures, BODY).check_signature(secrets.into_iter()).is_err());
        assert!(message("1", &signatures, BODY).check_signature([b"old".as_slice()].into_iter()).is_err());
        assert!(message("1", &signatures, BODY).check_signature(std::iter::empty()).is_err());
        assert!(message("1", "", BODY).check_signature(secrets.into_iter()).is_err());
    }

    #[test]
    fn messages_are_worth_nothing_after_five_minutes() {
        let now = Utc::from_secs(1_000_000);
        for (timestamp, fits) in [
            ("999700", true),
            ("999699", false),
            ("1000300", true),
            ("1000301", false),
            ("+1000000", false),
            ("", false),
            ("99999999999999999999", false),
        ] {
            assert_eq!(message(timestamp, "", BODY).check_time(now).is_ok(), fits, "{timestamp}");
        }
    }

    #[test]
    fn news_about_something_else_is_ignored() {
        assert!(matches!(message("1", "", BODY).event(), Ok(None)));
        assert!(message("1", "", b"not json").event().is_err());
        assert!(message("1", "", br#"{"type":"payment.succeeded","data":{}}"#).event().is_err());
    }
}
