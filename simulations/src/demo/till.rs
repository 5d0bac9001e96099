//! A till: tells the keyserver, over HTTP and signed, that money has arrived.
//!
//! Standard Webhooks (standardwebhooks.com, specification 1.0): headers `webhook-id`, `webhook-timestamp`,
//! `webhook-signature: v1,` base64 of HMAC-SHA256 over id.timestamp.body.

use anyhow::{Context as _, ensure};
use data_encoding::BASE64;
use hmac::{Hmac, KeyInit as _, Mac as _};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use serde_json::json;
use sha2::Sha256;

use super::world::{CURRENCY, PRICE_MINOR};

/// Reports that an account has paid the price of [`super::world::OFFER`] for an order.
pub(super) async fn pay(keyserver: &str, secret: &str, order: &str, account: &str) -> anyhow::Result<()> {
    let body = json!({
        "type": "payment.succeeded",
        "data": {
            "order": order,
            "account": account,
            "amount_minor": PRICE_MINOR,
            "currency": CURRENCY,
        },
    })
    .to_string();
    let id = format!("evt_{order}");
    let timestamp = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_secs();
    let key = BASE64.decode(secret.trim_start_matches("whsec_").as_bytes()).context("the webhook secret is base64")?;
    let mut mac = Hmac::<Sha256>::new_from_slice(&key)?;
    mac.update(format!("{id}.{timestamp}.{body}").as_bytes());
    let signature = format!("v1,{}", BASE64.encode(&mac.finalize().into_bytes()));

    let url = format!("{}/webhooks/payment", keyserver.trim_end_matches('/'));
    let request = hyper::Request::post(&url)
        .header("content-type", "application/json")
        .header("webhook-id", &id)
        .header("webhook-timestamp", timestamp)
        .header("webhook-signature", signature)
        .body(Full::new(Bytes::from(body)))?;
    let client: Client<_, Full<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
    let answer = client.request(request).await.with_context(|| format!("failed to reach {url}"))?;
    let status = answer.status();
    let text = answer.into_body().collect().await?.to_bytes();
    ensure!(status.is_success(), "{url} answered {status}: {}", String::from_utf8_lossy(&text));
    Ok(())
}
