//! A device inside the demo itself: enrolled like any other, its keys in memory only.
//!
//! The liar is one, and so is the witness who buys a film to learn the key that must be on no disk.

use anyhow::Context as _;
use daemon::client::{self, Trust};
use daemon::{Failure, secrets};
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng as _;
use swarm_proto::call::{self, CallToken};
use swarm_proto::catalog::CatalogEntry;
use swarm_proto::id::ServerId;
use swarm_proto::licence::Licence;
use swarm_proto::membership::Membership;
use swarm_proto::pb;
use swarm_proto::seal::Released;
use swarm_proto::signed::{Signed, SigningKey};
use swarm_proto::time::Utc;
use swarm_proto::wrap::{self, HpkeSecret, Label, Wrapped};
use tonic::Request;
use tonic::transport::Channel;

/// An enrolled device.
pub struct Device {
    pub(super) signing: SigningKey,
    hpke: HpkeSecret,
    membership: Signed<Membership>,
    tracker_id: ServerId,
    /// A connection to its tracker.
    pub tracker: Channel,
}

impl Device {
    /// Makes keys and turns an enrolment code into a membership.
    pub async fn enrol(tracker_url: &str, code: &str, name: &str) -> anyhow::Result<Device> {
        let mut rng = ChaCha20Rng::from_seed(*secrets::random());
        let (signing, hpke) = (SigningKey::generate(&mut rng), HpkeSecret::generate(&mut rng));
        let tracker = client::connect(tracker_url, &Trust::default()).await?;
        let mut enrolment = pb::tracker::enrolment_client::EnrolmentClient::new(tracker.clone());
        let info = enrolment.get_tracker(pb::tracker::GetTrackerRequest {}).await.map_err(Failure::from)?.into_inner();
        let tracker_id = ServerId::try_from(info.server.as_slice())?;
        let mut request = Request::new(pb::tracker::EnrolRequest {
            code: code.to_owned(),
            hpke_public: hpke.public().to_vec(),
            device_name: name.to_owned(),
        });
        sign_call(&signing, &mut request, tracker_id)?;
        let answer = enrolment.enrol(request).await.map_err(Failure::from)?.into_inner();
        let membership = answer.membership.context("enrolment gives a membership")?;
        Ok(Device { signing, hpke, membership: Signed::try_from(membership)?, tracker_id, tracker })
    }

    /// A copy of the key that is its identity.
    pub fn signing_key(&self) -> SigningKey {
        self.signing.clone()
    }

    /// Its id in hex.
    pub(super) fn id(&self) -> String {
        self.signing.device_id().to_string()
    }

    /// A request to the tracker that proves this device.
    pub fn to_tracker<T>(&self, message: T) -> anyhow::Result<Request<T>> {
        let mut request = Request::new(message);
        sign_call(&self.signing, &mut request, self.tracker_id)?;
        Ok(request)
    }

    /// Buys an offer of an item with a pass and opens the grant: the released key, in memory.
    pub(super) async fn buy(
        &self,
        keyserver_url: &str,
        item: &[u8],
        offer: &str,
        pass: &str,
    ) -> anyhow::Result<Released> {
        let channel = client::connect(keyserver_url, &Trust::default()).await?;
        let mut deposits = pb::keyserver::deposits_client::DepositsClient::new(channel.clone());
        let info = deposits
            .get_keyserver(pb::keyserver::GetKeyserverRequest::default())
            .await
            .map_err(Failure::from)?
            .into_inner();
        let keyserver = ServerId::try_from(info.server.as_slice())?;
        let mut shop = pb::keyserver::shop_client::ShopClient::new(channel);

        let order = pb::keyserver::CreateOrderRequest {
            idempotency_key: data_encoding::HEXLOWER.encode(secrets::random::<16>().as_slice()),
            item: item.to_vec(),
            offer: offer.to_owned(),
        };
        let order =
            shop.create_order(self.to_keyserver(order, keyserver)?).await.map_err(Failure::from)?.into_inner().order;
        let paid = pb::keyserver::PayWithPassRequest { order: order.clone(), code: pass.to_owned() };
        shop.pay_with_pass(self.to_keyserver(paid, keyserver)?).await.map_err(Failure::from)?;
        let request = self.to_keyserver(pb::keyserver::RequestGrantRequest { order }, keyserver)?;
        let grant = shop.request_grant(request).await.map_err(Failure::from)?.into_inner();

        let signed: Signed<Licence> = Signed::try_from(grant.licence.context("a grant has a licence")?)?;
        let licence = signed.verify(&keyserver)?;
        let wrapped = Wrapped::try_from(grant.key.context("a grant has a key")?)?;
        let secret = wrap::unwrap(&self.hpke, Label::Grant, &licence.grant_aad(&signed), &wrapped)?;
        Ok(Released::decode(&secret, &licence.commitment)?)
    }

    fn to_keyserver<T>(&self, message: T, keyserver: ServerId) -> anyhow::Result<Request<T>> {
        let mut request = Request::new(message);
        sign_call(&self.signing, &mut request, keyserver)?;
        request.metadata_mut().insert("reelswarm-membership", self.membership.to_text().parse()?);
        Ok(request)
    }

    /// The catalog entry of a title, as its publisher signed it.
    pub async fn entry(&self, name: &str) -> anyhow::Result<CatalogEntry> {
        let by = pb::tracker::get_title_request::By::Name(name.to_owned());
        let request = self.to_tracker(pb::tracker::GetTitleRequest { by: Some(by) })?;
        let mut catalog = pb::tracker::catalog_client::CatalogClient::new(self.tracker.clone());
        let title = catalog.get_title(request).await.map_err(Failure::from)?.into_inner();
        let signed: Signed<CatalogEntry> = Signed::try_from(title.entry.context("a title has an entry")?)?;
        Ok(signed.verify(&signed.signer())?)
    }
}

fn sign_call<T>(key: &SigningKey, request: &mut Request<T>, audience: ServerId) -> anyhow::Result<()> {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
    let token = CallToken::sign(key, audience, Utc::from_millis(u64::try_from(now.as_millis())?))?;
    request.metadata_mut().insert(call::METADATA_KEY, token.to_text().parse()?);
    Ok(())
}
