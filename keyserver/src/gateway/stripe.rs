//! Stripe: a PaymentIntent for each try to pay.
//!
//! Made first and confirmed in a second step, each under an idempotency key of its own, so that no money moves before
//! what Stripe calls the payment is in the journal. What became of it is read from the PaymentIntent, whoever asks: an
//! answer, a message or a later question say the same. Messages count only with a genuine `Stripe-Signature` over the
//! bytes as they came. The number of a card never comes here: payers use a card that Stripe keeps for their account, or
//! are sent to their bank or wallet.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use axum::http::{HeaderMap, Method, StatusCode};
use bytes::Bytes;
use daemon::{Exit, Failure, secrets};
use data_encoding::HEXLOWER_PERMISSIVE;
use hmac::{Hmac, KeyInit, Mac};
use serde::Deserialize;
use sha2::Sha256;
use swarm_proto::catalog::Money;
use swarm_proto::id::{AccountId, AttemptId, OrderId};
use swarm_proto::keyserver::dues::{Decline, Dispute};
use swarm_proto::keyserver::ledger::{Collect, GiveBack, ProviderNews};
use swarm_proto::keyserver::record::{DisputeId, Method as PayMethod, Reference};
use swarm_proto::time::Utc;
use tokio::sync::mpsc;
use zeroize::Zeroizing;

use super::http::Client;
use super::{Heard, Instrument, Payment, PaymentGateway, Progress, Purchase, Returned, Trouble, not_taken};
use crate::books::{Books, Standing};
use crate::config;
use crate::{clock, refusals, vault};

/// Where Stripe posts to.
pub(crate) const PATH: &str = "/webhooks/stripe";

/// How far the clock of Stripe may be off, and how old a message may get on its way: what its libraries take.
const TOLERANCE: Duration = Duration::from_secs(300);

/// Most signatures looked at in one message: Stripe sends two while a secret is exchanged.
const MAX_SIGNATURES: usize = 4;

/// Most refunds of one payment that are looked through for ours.
const REFUNDS_LOOKED_AT: &str = "100";

pub(crate) struct Stripe {
    books: Books,
    client: Client,
    key: Zeroizing<String>,
    /// Files of the one or two live secrets, read for every message.
    secret_files: Vec<PathBuf>,
    kinds: Vec<String>,
    return_to: Option<String>,
    nudge: mpsc::Sender<AttemptId>,
}

impl Stripe {
    /// Stripe, if it is set up; `nudge` hears of payments that were begun.
    pub(crate) fn open(
        config: &config::Stripe,
        return_to: Option<String>,
        books: Books,
        nudge: mpsc::Sender<AttemptId>,
    ) -> Result<Option<Stripe>, Failure> {
        let Some(key_file) = &config.key_file else { return Ok(None) };
        let bytes = secrets::read(key_file)?;
        let key = Zeroizing::new(String::from_utf8_lossy(&bytes).trim().to_owned());
        if key.is_empty() || !key.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(Failure::new(Exit::Config, "E-STRIPE-03", format!("{} is not a key", key_file.display()))
                .hint("put the secret key of the Stripe account there, which begins with sk_ or rk_"));
        }
        let client = Client::new(&config.url, config.timeout.get())?;
        let secret_files = [&config.webhook_secret_file, &config.webhook_secret_before_file];
        let secret_files = secret_files.into_iter().flatten().cloned().collect();
        let kinds = config.methods.clone();
        Ok(Some(Stripe { books, client, key, secret_files, kinds, return_to, nudge }))
    }

    /// Kinds of banks and wallets to which payers can be sent.
    pub(crate) fn kinds(&self) -> &[String] {
        &self.kinds
    }

    async fn ask(
        &self,
        method: Method,
        path: &str,
        idempotency_key: Option<&str>,
        form: &[(String, String)],
    ) -> Result<(StatusCode, Bytes), Trouble> {
        let bearer = Zeroizing::new(format!("Bearer {}", self.key.as_str()));
        let mut headers = vec![("authorization", bearer.as_str())];
        headers.extend(idempotency_key.map(|key| ("idempotency-key", key)));
        let (status, body) = self.client.ask(method, path, &headers, form).await?;
        match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                Err(Trouble(format!("Stripe does not take our key ({status})")))
            }
            // What is in conflict, too much or broken at the moment may work later.
            StatusCode::CONFLICT | StatusCode::TOO_MANY_REQUESTS => Err(Trouble(format!("Stripe says {status}"))),
            status if status.is_server_error() => Err(Trouble(format!("Stripe says {status}"))),
            status => Ok((status, body)),
        }
    }

    /// Has Stripe make the payment, which moves no money.
    async fn make(&self, errand: &Collect) -> Result<Progress, Trouble> {
        let key = format!("{}-make", errand.attempt);
        let (status, body) = self.ask(Method::POST, "/v1/payment_intents", Some(&key), &intent_form(errand)).await?;
        if status.is_client_error() {
            tracing::warn!(order = %errand.order, %status, why = %refusal_text(&body), "Stripe refuses a payment");
            return Ok(Progress::Declined(Decline::Unusable));
        }
        let intent: Intent = read(&body)?;
        Reference::new(&intent.id).map(Progress::Named).map_err(|error| Trouble(error.to_string()))
    }

    async fn look(&self, reference: &Reference) -> Result<Intent, Trouble> {
        let path = format!("/v1/payment_intents/{}", escaped(reference));
        let (status, body) = self.ask(Method::GET, &path, None, &[]).await?;
        match status.is_success() {
            true => read(&body),
            false => Err(Trouble(format!("Stripe does not show a payment it has named ({status})"))),
        }
    }

    async fn act(&self, errand: &Collect, reference: &Reference, verb: &str) -> Result<Intent, Trouble> {
        let path = format!("/v1/payment_intents/{}/{verb}", escaped(reference));
        let key = format!("{}-{verb}", errand.attempt);
        let return_to = (verb == "confirm").then_some(self.return_to.clone()).flatten();
        let form: Vec<_> = return_to.map(|url| ("return_url".to_owned(), url)).into_iter().collect();
        let (status, body) = self.ask(Method::POST, &path, Some(&key), &form).await?;
        // A refusal here is told by the payment itself: declined, done or called off meanwhile.
        if status.is_success() { read(&body) } else { self.look(reference).await }
    }
}

#[tonic::async_trait]
impl PaymentGateway for Stripe {
    fn name(&self) -> &'static str {
        "stripe"
    }

    fn setup(&self) -> (String, bool) {
        match self.secret_files.is_empty() {
            true => ("set stripe.webhook_secret_file, or news comes only by asking".to_owned(), true),
            false => (format!("messages come to {PATH}"), true),
        }
    }

    async fn begin(&self, purchase: Purchase, with: Instrument) -> Result<Standing, Failure> {
        let Purchase { account, order } = purchase;
        let method = match with {
            Instrument::Card => match self.books.wallet(account).await?.card {
                Some(card) => PayMethod::Card(card),
                None => return Err(not_taken()),
            },
            Instrument::Elsewhere(kind) if self.kinds.contains(&kind) => match Reference::new(&kind) {
                Ok(kind) => PayMethod::Elsewhere(kind),
                Err(_) => return Err(not_taken()),
            },
            Instrument::Code(_) | Instrument::OwnPass(_) | Instrument::Bill | Instrument::Elsewhere(_) => {
                return Err(not_taken());
            }
        };
        let new = AttemptId::generate(&mut crate::rng());
        let begun = self.books.begin_payment(account, order, method, new).await?;
        let standing = begun.map_err(|refusal| refusals::pay(&refusal))?;
        if let Some(attempt) = standing.order.dues.open_attempt() {
            // When the cashier has too much to hear, it finds the payment by itself a little later.
            let _ = self.nudge.try_send(attempt.id);
        }
        Ok(standing)
    }

    async fn pursue(&self, errand: &Collect) -> Result<Progress, Trouble> {
        let reference = match &errand.reference {
            Some(reference) => reference,
            None if errand.call_off => return Ok(Progress::Declined(Decline::Cancelled)),
            None => return self.make(errand).await,
        };
        let intent = self.look(reference).await?;
        let intent = match intent.status.as_str() {
            "requires_confirmation" | "requires_action" if errand.call_off => {
                self.act(errand, reference, "cancel").await?
            }
            "requires_confirmation" => self.act(errand, reference, "confirm").await?,
            _ => intent,
        };
        intent.progress()
    }

    async fn give_back(&self, errand: &GiveBack) -> Result<Returned, Trouble> {
        let form = |pairs: &[(&str, &str)]| -> Vec<(String, String)> {
            pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
        };
        // Idempotency keys are forgotten after a day; the refund's own name is not.
        let ours = errand.refund.to_string();
        let known = form(&[("payment_intent", errand.reference.as_str()), ("limit", REFUNDS_LOOKED_AT)]);
        let (status, body) = self.ask(Method::GET, "/v1/refunds", None, &known).await?;
        if status.is_success() {
            let list: RefundList = read(&body)?;
            let found = list.data.into_iter().find(|refund| refund.metadata.get("refund") == Some(&ours));
            if let Some(refund) = found {
                return Ok(refund.returned());
            }
        }
        let minor = errand.minor.to_string();
        let (order, reference) = (errand.order.to_string(), errand.reference.as_str());
        let wish = form(&[
            ("payment_intent", reference),
            ("amount", &minor),
            ("metadata[refund]", &ours),
            ("metadata[order]", &order),
        ]);
        let (status, body) = self.ask(Method::POST, "/v1/refunds", Some(&ours), &wish).await?;
        if status.is_client_error() {
            tracing::warn!(order = %errand.order, %status, why = %refusal_text(&body), "Stripe refuses a refund");
            return Ok(Returned::Refused);
        }
        Ok(read::<StripeRefund>(&body)?.returned())
    }

    async fn hear(&self, headers: &HeaderMap, body: &[u8]) -> Result<Heard, Failure> {
        let files = self.secret_files.clone();
        let read = tokio::task::spawn_blocking(move || {
            files.iter().map(|file| secrets::read(file)).collect::<Result<Vec<_>, _>>()
        });
        let failed = |why: &dyn std::fmt::Display| {
            Failure::new(Exit::Unreachable, "E-STRIPE-04", "the secrets for Stripe's messages cannot be read").why(why)
        };
        let secrets = read.await.map_err(|error| failed(&error))?.map_err(|error| failed(&error))?;
        if secrets.is_empty() {
            return Err(Failure::new(Exit::Unreachable, "E-STRIPE-04", "no secret for Stripe's messages is set up")
                .hint("set stripe.webhook_secret_file"));
        }
        check_signature(headers, body, clock::utc(), secrets.iter().map(|secret| secret.trim_ascii()))?;
        event(body)
    }

    async fn check(&self) -> Result<String, Failure> {
        let asked = self.ask(Method::GET, "/v1/payment_intents", None, &[("limit".to_owned(), "1".to_owned())]).await;
        let away = |why: &dyn std::fmt::Display| {
            Failure::new(Exit::ChecksFailed, "E-STRIPE-05", "Stripe cannot be used at the moment")
                .why(why)
                .hint("check stripe.url, the key in stripe.key_file and the way to the network")
        };
        match asked {
            Ok((status, _)) if status.is_success() => Ok("Stripe answers and takes our key".to_owned()),
            Ok((status, body)) => Err(away(&format!("it says {status}: {}", refusal_text(&body)))),
            Err(trouble) => Err(away(&trouble)),
        }
    }
}

fn intent_form(errand: &Collect) -> Vec<(String, String)> {
    let mut form = vec![
        ("amount".to_owned(), errand.price.minor.to_string()),
        ("currency".to_owned(), errand.price.currency.to_string().to_ascii_lowercase()),
        ("metadata[attempt]".to_owned(), errand.attempt.to_string()),
        ("metadata[order]".to_owned(), errand.order.to_string()),
        ("metadata[account]".to_owned(), errand.account.to_string()),
    ];
    match &errand.method {
        PayMethod::Card(card) => {
            form.push(("payment_method_types[]".to_owned(), "card".to_owned()));
            form.push(("payment_method".to_owned(), card.method.as_str().to_owned()));
            form.extend(card.customer.as_ref().map(|customer| ("customer".to_owned(), customer.as_str().to_owned())));
        }
        PayMethod::Elsewhere(kind) => {
            form.push(("payment_method_types[]".to_owned(), kind.as_str().to_owned()));
            form.push(("payment_method_data[type]".to_owned(), kind.as_str().to_owned()));
        }
    }
    form
}

/// `Stripe-Signature: t=…,v1=…` over `t.body`, with one of the live secrets, in constant time.
fn check_signature<'s>(
    headers: &HeaderMap,
    body: &[u8],
    now: Utc,
    secrets: impl Iterator<Item = &'s [u8]>,
) -> Result<(), Failure> {
    let malformed = |what: &str| {
        Failure::new(Exit::Usage, "E-STRIPE-06", what.to_owned()).hint("send the message as Stripe sent it")
    };
    let mut values = headers.get_all("stripe-signature").iter();
    let header = values.next().ok_or_else(|| malformed("there is no Stripe-Signature header"))?;
    if values.next().is_some() {
        return Err(malformed("there is more than one Stripe-Signature header"));
    }
    let header = header.to_str().map_err(|_| malformed("the Stripe-Signature header is not text"))?;
    let parts = || header.split(',').filter_map(|part| part.trim().split_once('='));
    let mut stamps = parts().filter(|(name, _)| *name == "t").map(|(_, value)| value);
    let stamp = stamps.next().filter(|stamp| stamp.bytes().all(|byte| byte.is_ascii_digit()));
    let secs = stamp.and_then(|stamp| stamp.parse().ok()).filter(|_| stamps.next().is_none());
    let (stamp, sent) = stamp.zip(secs.map(Utc::from_secs)).ok_or_else(|| malformed("it has no time"))?;
    let not_genuine = |what: &str| {
        Failure::new(Exit::NotAllowed, "E-STRIPE-07", what.to_owned())
            .hint("check both clocks and the secret of the endpoint")
    };
    if now.since(sent) > TOLERANCE || sent.since(now) > TOLERANCE {
        return Err(not_genuine("the message is too old or from the future"));
    }
    let signatures: Vec<Vec<u8>> = parts()
        .filter(|(name, _)| *name == "v1")
        .filter_map(|(_, value)| HEXLOWER_PERMISSIVE.decode(value.as_bytes()).ok())
        .take(MAX_SIGNATURES)
        .collect();
    // Every secret is tried with every signature: how long it takes tells nothing.
    let mut genuine = false;
    for secret in secrets {
        let mut mac = <Hmac<Sha256> as KeyInit>::new_from_slice(secret).expect("HMAC takes keys of every length");
        for part in [stamp.as_bytes(), b".", body] {
            mac.update(part);
        }
        for signature in &signatures {
            genuine |= mac.clone().verify_slice(signature).is_ok();
        }
    }
    if genuine { Ok(()) } else { Err(not_genuine("the message is not signed with a live secret")) }
}

/// What a genuine message says.
fn event(body: &[u8]) -> Result<Heard, Failure> {
    let malformed =
        |error: serde_json::Error| Failure::new(Exit::Usage, "E-STRIPE-06", "the message is not readable").why(error);
    let Event { kind, data } = serde_json::from_slice(body).map_err(malformed)?;
    let object = data.object;
    Ok(match kind.as_str() {
        "payment_intent.succeeded" | "payment_intent.payment_failed" | "payment_intent.canceled" => {
            let intent: Intent = serde_json::from_value(object).map_err(malformed)?;
            let (Ok(reference), Some(of)) = (Reference::new(&intent.id), intent.ours()) else {
                return Ok(Heard::Nothing); // A payment of someone else who uses the same account.
            };
            // A failed try may be followed by another one of the same payment only if we ask for it, and we never do.
            let fate = match intent.progress() {
                Ok(Progress::Collected(amount)) => Some(ProviderNews::Collected(amount)),
                Ok(Progress::Declined(why)) => Some(ProviderNews::Declined(why)),
                Ok(Progress::Named(_) | Progress::Waiting { .. }) | Err(_) => None,
            };
            Heard::News { of, news: [ProviderNews::Named(reference)].into_iter().chain(fate).collect() }
        }
        "charge.refunded" => {
            let charge: Charge = serde_json::from_value(object).map_err(malformed)?;
            theirs(charge.payment_intent, ProviderNews::Returned(charge.amount_refunded))
        }
        "charge.dispute.created" | "charge.dispute.updated" | "charge.dispute.closed" => {
            let dispute: StripeDispute = serde_json::from_value(object).map_err(malformed)?;
            let standing = match dispute.status.as_str() {
                // The bank's inquiry, by which no money has moved.
                "warning_needs_response" | "warning_under_review" | "warning_closed" => return Ok(Heard::Nothing),
                "won" => Dispute::Won,
                "lost" => Dispute::Lost,
                _ => Dispute::Open,
            };
            let id = DisputeId::from_bytes(vault::dispute_hash(&dispute.id));
            theirs(dispute.payment_intent, ProviderNews::Disputed(id, standing))
        }
        _ => Heard::Nothing,
    })
}

fn theirs(intent: Option<String>, news: ProviderNews) -> Heard {
    match intent.and_then(|intent| Reference::new(&intent).ok()) {
        Some(reference) => Heard::News { of: Payment::Theirs(reference), news: vec![news] },
        None => Heard::Nothing,
    }
}

#[derive(Deserialize)]
struct Event {
    #[serde(rename = "type")]
    kind: String,
    data: EventData,
}

#[derive(Deserialize)]
struct EventData {
    object: serde_json::Value,
}

#[derive(Debug, Deserialize)]
struct Intent {
    id: String,
    status: String,
    amount: u64,
    currency: String,
    #[serde(default)]
    metadata: BTreeMap<String, String>,
    #[serde(default)]
    last_payment_error: Option<PaymentError>,
    #[serde(default)]
    next_action: Option<NextAction>,
}

#[derive(Debug, Deserialize)]
struct PaymentError {
    #[serde(default)]
    code: Option<String>,
    #[serde(default)]
    decline_code: Option<String>,
}

#[derive(Debug, Deserialize)]
struct NextAction {
    #[serde(default)]
    redirect_to_url: Option<Redirect>,
}

#[derive(Debug, Deserialize)]
struct Redirect {
    url: String,
}

#[derive(Deserialize)]
struct Charge {
    payment_intent: Option<String>,
    amount_refunded: u64,
}

#[derive(Deserialize)]
struct StripeDispute {
    id: String,
    status: String,
    payment_intent: Option<String>,
}

#[derive(Deserialize)]
struct RefundList {
    data: Vec<StripeRefund>,
}

#[derive(Deserialize)]
struct StripeRefund {
    #[serde(default)]
    status: Option<String>,
    #[serde(default)]
    metadata: BTreeMap<String, String>,
}

impl StripeRefund {
    fn returned(&self) -> Returned {
        match self.status.as_deref() {
            Some("succeeded") => Returned::Made,
            Some("failed" | "canceled") => Returned::Refused,
            _ => Returned::UnderWay,
        }
    }
}

impl Intent {
    fn progress(&self) -> Result<Progress, Trouble> {
        Ok(match self.status.as_str() {
            "succeeded" => Progress::Collected(self.money()?),
            "requires_payment_method" => Progress::Declined(self.decline()),
            "canceled" => Progress::Declined(Decline::Cancelled),
            _ => {
                let page = self.next_action.as_ref().and_then(|action| action.redirect_to_url.as_ref());
                let page = page.map(|redirect| redirect.url.clone());
                // Only what a browser opens safely from a link is shown as one.
                Progress::Waiting { go_to: page.filter(|url| url.starts_with("https://")) }
            }
        })
    }

    fn money(&self) -> Result<Money, Trouble> {
        let currency = self.currency.to_ascii_uppercase().parse();
        let money = currency.and_then(|currency| Money::new(self.amount, currency));
        money.map_err(|error| Trouble(format!("Stripe speaks of an amount that is none: {error}")))
    }

    fn decline(&self) -> Decline {
        let codes = self.last_payment_error.iter().flat_map(|error| [&error.decline_code, &error.code]);
        let known = codes.flatten().find_map(|code| match code.as_str() {
            "insufficient_funds" => Some(Decline::Funds),
            "payment_intent_authentication_failure" | "authentication_required" => Some(Decline::Authentication),
            _ => None,
        });
        known.unwrap_or(Decline::Refused)
    }

    fn ours(&self) -> Option<Payment> {
        let attempt: AttemptId = self.metadata.get("attempt")?.parse().ok()?;
        let order: OrderId = self.metadata.get("order")?.parse().ok()?;
        let account: AccountId = self.metadata.get("account")?.parse().ok()?;
        Some(Payment::Ours(attempt, order, account))
    }
}

fn read<T: serde::de::DeserializeOwned>(body: &[u8]) -> Result<T, Trouble> {
    serde_json::from_slice(body).map_err(|error| Trouble(format!("Stripe's answer is not readable: {error}")))
}

/// What Stripe says about a refusal; its words are for the operator's log.
fn refusal_text(body: &[u8]) -> String {
    let parsed: Option<serde_json::Value> = serde_json::from_slice(body).ok();
    let message = parsed.as_ref().and_then(|value| value["error"]["message"].as_str());
    message.unwrap_or("no reason given").chars().filter(|c| !c.is_control()).take(200).collect()
}

/// A provider's name as one segment of a path.
fn escaped(reference: &Reference) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    let bytes = reference.as_str().bytes();
    bytes.map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn signed(secret: &[u8], stamp: u64, body: &[u8]) -> String {
        let mut mac = <Hmac<Sha256> as KeyInit>::new_from_slice(secret).expect("any length");
        mac.update(format!("{stamp}.").as_bytes());
        mac.update(body);
        HEXLOWER_PERMISSIVE.encode(&mac.finalize().into_bytes())
    }

    fn check(header: &str, body: &[u8], secrets: &[&[u8]]) -> Result<(), Failure> {
        let mut headers = HeaderMap::new();
        headers.insert("stripe-signature", HeaderValue::from_str(header).expect("text"));
        check_signature(&headers, body, Utc::from_secs(1_000_000), secrets.iter().copied())
    }

    #[test]
    fn only_genuine_and_fresh_messages_count() {
        let body: &[u8] = b"{\"id\":\"evt_1\"}";
        let right = signed(b"whsec_new", 1_000_000, body);
        let both: &[&[u8]] = &[b"whsec_old", b"whsec_new"];
        assert!(check(&format!("t=1000000,v1={right}"), body, both).is_ok());
        assert!(check(&format!("t=1000000,v1=00,v1={right},v0=x"), body, both).is_ok(), "while a secret is exchanged");
        for (what, header, body, secrets) in [
            ("another body", format!("t=1000000,v1={right}"), &b"{}"[..], both),
            ("another time", format!("t=1000001,v1={right}"), body, both),
            ("another secret", format!("t=1000000,v1={right}"), body, &both[..1]),
            ("no secret", format!("t=1000000,v1={right}"), body, &[]),
            ("another scheme", format!("t=1000000,v0={right}"), body, both),
            ("no signature", "t=1000000".to_owned(), body, both),
            ("no time", format!("v1={right}"), body, both),
            ("two times", format!("t=1000000,t=1000000,v1={right}"), body, both),
            ("a strange time", format!("t=+1000000,v1={right}"), body, both),
            ("too old", format!("t=999699,v1={}", signed(b"whsec_new", 999_699, body)), body, both),
            ("from the future", format!("t=1000301,v1={}", signed(b"whsec_new", 1_000_301, body)), body, both),
        ] {
            assert!(check(&header, body, secrets).is_err(), "{what}");
        }
    }

    #[test]
    fn payments_of_others_on_the_same_account_are_not_ours() {
        let body = br#"{"type":"payment_intent.succeeded","data":{"object":
            {"id":"pi_1","status":"succeeded","amount":299,"currency":"eur","metadata":{}}}}"#;
        assert_eq!(event(body).expect("readable"), Heard::Nothing);
        assert_eq!(event(br#"{"type":"customer.created","data":{"object":{}}}"#).expect("readable"), Heard::Nothing);
        assert!(event(b"not json").is_err());
    }

    #[test]
    fn disputes_and_refunds_name_the_payment() {
        let body = br#"{"type":"charge.dispute.closed","data":{"object":
            {"id":"dp_1","status":"lost","payment_intent":"pi_1"}}}"#;
        let Heard::News { of, news } = event(body).expect("readable") else { panic!("it is about a payment") };
        assert_eq!(of, Payment::Theirs(Reference::new("pi_1").expect("a name")));
        assert!(matches!(news[..], [ProviderNews::Disputed(_, Dispute::Lost)]));
        let body = br#"{"type":"charge.refunded","data":{"object":{"payment_intent":"pi_1","amount_refunded":100}}}"#;
        let Heard::News { news, .. } = event(body).expect("readable") else { panic!("it is about a payment") };
        assert_eq!(news, [ProviderNews::Returned(100)]);
        let inquiry = br#"{"type":"charge.dispute.created","data":{"object":
            {"id":"dp_1","status":"warning_needs_response","payment_intent":"pi_1"}}}"#;
        assert_eq!(event(inquiry).expect("readable"), Heard::Nothing);
    }

    #[test]
    fn only_pages_with_tls_are_linked_to() {
        let intent = |url: &str| Intent {
            id: "pi_1".to_owned(),
            status: "requires_action".to_owned(),
            amount: 299,
            currency: "eur".to_owned(),
            metadata: BTreeMap::new(),
            last_payment_error: None,
            next_action: Some(NextAction { redirect_to_url: Some(Redirect { url: url.to_owned() }) }),
        };
        let go_to = |url| match intent(url).progress() {
            Ok(Progress::Waiting { go_to }) => go_to,
            other => panic!("it waits: {other:?}"),
        };
        assert!(go_to("https://bank.example/3ds").is_some());
        assert!(go_to("javascript:alert(1)").is_none());
        assert!(go_to("http://bank.example/").is_none());
    }
}
