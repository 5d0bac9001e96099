//! Those who meet a keyserver: a tracker that vouches, a publisher, households with boxes.

use std::time::Duration;

use data_encoding::BASE64;
use hmac::{Hmac, KeyInit, Mac};
use rand::rand_core::UnwrapErr;
use rand::rngs::SysRng;
use sha2::Sha256;
use swarm_proto::call::CallToken;
use swarm_proto::catalog::CatalogEntry;
use swarm_proto::id::{AccountId, ItemId, OrderId, SiteId};
use swarm_proto::licence::Licence;
use swarm_proto::membership::{DeviceKind, Membership};
use swarm_proto::pb::common;
use swarm_proto::pb::keyserver as pb;
use swarm_proto::pb::keyserver::deposits_client::DepositsClient;
use swarm_proto::pb::keyserver::shop_client::ShopClient;
use swarm_proto::seal::{ContentKey, Released};
use swarm_proto::signed::{Signed, SigningKey};
use swarm_proto::time::Utc;
use swarm_proto::wrap::{self, HpkePublic, HpkeSecret, Label};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic::transport::Channel;
use tonic::{Request, Status};

pub(crate) use crate::film::Film;
use crate::process::{Home, Process};

pub(crate) fn rng() -> UnwrapErr<SysRng> {
    UnwrapErr(SysRng)
}

pub(crate) fn now() -> Utc {
    keyserver::clock::utc()
}

/// A tracker, a publisher with a film, and a keyserver's home that knows both.
pub(crate) struct World {
    pub(crate) home: Home,
    pub(crate) tracker: SigningKey,
    pub(crate) publisher: SigningKey,
    pub(crate) film: Film,
}

impl World {
    pub(crate) fn new() -> World {
        World::with(&[])
    }

    pub(crate) fn with(settings: &[&str]) -> World {
        let (tracker, publisher) = (SigningKey::generate(&mut rng()), SigningKey::generate(&mut rng()));
        let mut all = vec![
            format!("trusted_trackers={}", tracker.server_id()),
            format!("publishers={}", publisher.publisher_id()),
        ];
        all.extend(settings.iter().map(|setting| (*setting).to_owned()));
        World { home: Home::new(&all), tracker, publisher, film: Film::new(now()) }
    }

    /// The film's entry: "rent" for money, and "soon", which may be watched from tomorrow on.
    pub(crate) fn entry(&self) -> CatalogEntry {
        self.film.entry(self.publisher.publisher_id())
    }

    pub(crate) async fn deposit(&self, keyserver: &Process) -> Result<bool, Status> {
        self.deposit_entry(keyserver, &self.entry(), &self.film.key).await
    }

    pub(crate) async fn deposit_entry(
        &self,
        keyserver: &Process,
        entry: &CatalogEntry,
        key: &ContentKey,
    ) -> Result<bool, Status> {
        let signed = Signed::sign(&self.publisher, entry).expect("signed");
        self.deposit_signed(keyserver, entry, signed.into(), key).await
    }

    /// Deposits under an entry that anyone may have signed.
    pub(crate) async fn deposit_signed(
        &self,
        keyserver: &Process,
        entry: &CatalogEntry,
        signed: common::Signed,
        key: &ContentKey,
    ) -> Result<bool, Status> {
        let channel = keyserver.try_channel().await.ok_or_else(|| Status::unavailable("it is dead"))?;
        let mut deposits = DepositsClient::new(channel);
        let info = deposits.get_keyserver(pb::GetKeyserverRequest::default()).await?.into_inner();
        assert_eq!(data_encoding::HEXLOWER.encode(&info.server), keyserver.id);
        let to = HpkePublic::try_from(info.hpke_public.as_slice()).expect("a key");
        let aad = wrap::deposit_aad(&entry.item, &entry.commitment);
        let wrapped = wrap::wrap(&mut rng(), &to, Label::Deposit, &aad, key.expose()).expect("wrapped");
        let request = pb::DepositKeyRequest { entry: Some(signed), key: Some(wrapped.into()) };
        Ok(deposits.deposit_key(request).await?.into_inner().already)
    }

    /// Deposits a key that was wrapped to whatever key.
    pub(crate) async fn deposit_wrapped(
        &self,
        keyserver: &Process,
        entry: &CatalogEntry,
        key: wrap::Wrapped,
    ) -> Result<bool, Status> {
        let signed: common::Signed = Signed::sign(&self.publisher, entry).expect("signed").into();
        let request = pb::DepositKeyRequest { entry: Some(signed), key: Some(key.into()) };
        Ok(DepositsClient::new(keyserver.channel().await).deposit_key(request).await?.into_inner().already)
    }

    /// A new household with one box.
    pub(crate) fn household(&self) -> Device {
        self.device_of(AccountId::generate(&mut rng()), DeviceKind::Box)
    }

    pub(crate) fn device_of(&self, account: AccountId, kind: DeviceKind) -> Device {
        Device::enrolled_by(&self.tracker, account, kind)
    }
}

/// A device, its keys and its membership.
pub(crate) struct Device {
    pub(crate) key: SigningKey,
    pub(crate) hpke: HpkeSecret,
    pub(crate) membership: Membership,
    pub(crate) vouched: Signed<Membership>,
}

impl Device {
    pub(crate) fn enrolled_by(tracker: &SigningKey, account: AccountId, kind: DeviceKind) -> Device {
        let (key, hpke) = (SigningKey::generate(&mut rng()), HpkeSecret::generate(&mut rng()));
        let membership = Membership {
            device: key.device_id(),
            account,
            site: SiteId::new("north").expect("a site"),
            kind,
            hpke: hpke.public(),
            issued: now(),
            expires: now() + Duration::from_secs(86_400),
            serial: 1,
        };
        let vouched = Signed::sign(tracker, &membership).expect("signed");
        Device { key, hpke, membership, vouched }
    }

    pub(crate) fn account(&self) -> AccountId {
        self.membership.account
    }

    /// A request with everything a keyserver wants to see.
    pub(crate) fn call<T>(&self, keyserver: &Process, message: T) -> Request<T> {
        let audience = keyserver.id.parse().expect("an id");
        let token = CallToken::sign(&self.key, audience, now()).expect("signed");
        let mut request = Request::new(message);
        request.metadata_mut().insert("reelswarm-call", token.to_text().parse().expect("text"));
        request.metadata_mut().insert("reelswarm-membership", self.vouched.to_text().parse().expect("text"));
        request
    }

    pub(crate) async fn shop<'a>(&'a self, keyserver: &'a Process) -> Shopper<'a> {
        self.shop_over(keyserver, keyserver.channel().await)
    }

    pub(crate) fn shop_over<'a>(&'a self, keyserver: &'a Process, channel: Channel) -> Shopper<'a> {
        Shopper { device: self, keyserver, client: ShopClient::new(channel) }
    }
}

/// A device at the shop.
#[derive(Clone)]
pub(crate) struct Shopper<'a> {
    pub(crate) device: &'a Device,
    pub(crate) keyserver: &'a Process,
    pub(crate) client: ShopClient<Channel>,
}

impl Shopper<'_> {
    pub(crate) async fn order(&self, key: &str, item: ItemId, offer: &str) -> Result<pb::Order, Status> {
        let request =
            pb::CreateOrderRequest { idempotency_key: key.to_owned(), item: item.to_vec(), offer: offer.to_owned() };
        Ok(self.client.clone().create_order(self.device.call(self.keyserver, request)).await?.into_inner())
    }

    pub(crate) async fn look(&self, order: &[u8]) -> Result<pb::Order, Status> {
        let request = pb::GetOrderRequest { order: order.to_vec() };
        Ok(self.client.clone().get_order(self.device.call(self.keyserver, request)).await?.into_inner())
    }

    pub(crate) async fn pay(&self, order: &[u8], code: &str) -> Result<pb::Order, Status> {
        let request = pb::PayWithPassRequest { order: order.to_vec(), code: code.to_owned() };
        Ok(self.client.clone().pay_with_pass(self.device.call(self.keyserver, request)).await?.into_inner())
    }

    pub(crate) async fn grant(&self, order: &[u8]) -> Result<Unlocked, Status> {
        let request = pb::RequestGrantRequest { order: order.to_vec() };
        let grant = self.client.clone().request_grant(self.device.call(self.keyserver, request)).await?.into_inner();
        let signed: Signed<Licence> = grant.licence.expect("a licence").try_into().expect("well formed");
        let licence = signed.verify(&self.keyserver.id.parse().expect("an id")).expect("signed by the keyserver");
        let wrapped = grant.key.expect("a key").try_into().expect("well formed");
        let aad = licence.grant_aad(&signed);
        let secret = wrap::unwrap(&self.device.hpke, Label::Grant, &aad, &wrapped).expect("wrapped to this device");
        match Released::decode(&secret, &licence.commitment).expect("the key of the commitment") {
            Released::Whole(key) => Ok(Unlocked { licence, key }),
            Released::Spans(_) => panic!("the whole film was bought"),
        }
    }
}

/// What a grant gave.
pub(crate) struct Unlocked {
    pub(crate) licence: Licence,
    pub(crate) key: ContentKey,
}

/// The reason that a status gives for programs.
pub(crate) fn reason(status: &Status) -> String {
    daemon::Failure::from(status).code.into_owned()
}

/// What a till says about an order.
pub(crate) fn paid_body(order: &pb::Order, account: AccountId) -> String {
    let price = order.price.clone().expect("a price");
    body("payment.succeeded", &order.order, account, price.minor, &price.currency)
}

pub(crate) fn body(kind: &str, order: &[u8], account: AccountId, minor: u64, currency: &str) -> String {
    let order = OrderId::try_from(order).expect("an id");
    let data = serde_json::json!({ "order": order, "account": account, "amount_minor": minor, "currency": currency });
    serde_json::json!({ "type": kind, "data": data }).to_string()
}

/// A message of a till, to be spoiled in every way.
#[derive(Clone)]
pub(crate) struct TillMessage {
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: String,
}

impl TillMessage {
    pub(crate) fn signed(secret: &str, id: &str, timestamp: u64, body: &str) -> TillMessage {
        let key = BASE64.decode(secret.strip_prefix("whsec_").expect("a prefix").as_bytes()).expect("base64");
        let mut mac = <Hmac<Sha256> as KeyInit>::new_from_slice(&key).expect("any length");
        mac.update(format!("{id}.{timestamp}.{body}").as_bytes());
        let signature = format!("v1,{}", BASE64.encode(&mac.finalize().into_bytes()));
        let header = |name: &str, value: String| (name.to_owned(), value);
        let headers = vec![
            header("webhook-id", id.to_owned()),
            header("webhook-timestamp", timestamp.to_string()),
            header("webhook-signature", signature),
        ];
        TillMessage { headers, body: body.to_owned() }
    }

    pub(crate) fn set(mut self, name: &str, value: &str) -> TillMessage {
        let header = self.headers.iter_mut().find(|(known, _)| known == name).expect("a header");
        header.1 = value.to_owned();
        self
    }

    pub(crate) fn without(mut self, name: &str) -> TillMessage {
        self.headers.retain(|(known, _)| known != name);
        self
    }

    pub(crate) fn twice(mut self, name: &str) -> TillMessage {
        let again = self.headers.iter().find(|(known, _)| known == name).expect("a header").clone();
        self.headers.push(again);
        self
    }

    /// Sends it; gives the status code and the body of the answer.
    pub(crate) async fn send(&self, keyserver: &Process) -> (u16, String) {
        self.try_send(keyserver).await.expect("it listens and answers")
    }

    /// Sends it to a keyserver that may die of it.
    pub(crate) async fn try_send(&self, keyserver: &Process) -> Option<(u16, String)> {
        let mut request =
            format!("POST /webhooks/payment HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n", keyserver.address());
        request.push_str(&format!("content-type: application/json\r\ncontent-length: {}\r\n", self.body.len()));
        for (name, value) in &self.headers {
            request.push_str(&format!("{name}: {value}\r\n"));
        }
        request.push_str("\r\n");
        request.push_str(&self.body);
        exchange(keyserver, &request).await
    }
}

/// Asks for a page.
pub(crate) async fn get(keyserver: &Process, path: &str) -> (u16, String) {
    let request = format!("GET {path} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n\r\n", keyserver.address());
    exchange(keyserver, &request).await.expect("it listens and answers")
}

async fn exchange(keyserver: &Process, request: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect(keyserver.address()).await.ok()?;
    // A server that refuses early may stop reading; its answer counts all the same.
    let _ = stream.write_all(request.as_bytes()).await;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let status = answer.split(' ').nth(1).and_then(|code| code.parse().ok())?;
    Some((status, answer))
}
