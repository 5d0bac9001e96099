//! What is kept about purchases, and where in the box's store.
//!
//! Nothing here opens a film by itself: keys are kept as the keyserver wrapped them, a pass code that waits for its
//! keyserver is wrapped to the device itself.

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message as _;
use swarm_proto::catalog::OfferId;
use swarm_proto::id::{ItemId, OrderId};
use swarm_proto::licence::Licence;
use swarm_proto::limit::Limit;
use swarm_proto::pb::common as pb;
use swarm_proto::pb::keyserver::OrderState;
use swarm_proto::seal::KeyCommitment;
use swarm_proto::signed::Signed;
use swarm_proto::succession::Lineage;
use swarm_proto::time::Utc;
use swarm_proto::wrap::Wrapped;

/// Keys in the box's store begin with a capital here, elsewhere with a small letter. Letters are never reused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Key {
    /// `O` ‖ item (32) ‖ offer: the last order of that offer.
    Order(ItemId, OfferId),
    /// `G` ‖ item (32) ‖ order (16): what that order has given.
    Grant(ItemId, OrderId),
    /// `K`: id of the keyserver that is believed (32).
    Keyserver,
    /// `L` ‖ place (u16): how the key of the keyserver before handed over to the next.
    Succession(u16),
    /// `R`: what the keyserver has taken back from this device, a signed list.
    Revocations,
    /// `A`: everything that the account had bought has been taken over from the keyserver once (empty).
    Recovered,
    /// `U`: the latest moment that is known to have passed, milliseconds since 1970 (8).
    HighWater,
}

/// All orders.
pub(super) const ORDERS: &[u8] = b"O";
/// All grants.
pub(super) const GRANTS: &[u8] = b"G";
/// All successions.
pub(super) const SUCCESSIONS: &[u8] = b"L";

impl Key {
    pub(super) fn bytes(&self) -> Bytes {
        let mut key = BytesMut::with_capacity(65);
        match self {
            Key::Order(item, offer) => {
                key.put_slice(ORDERS);
                key.put_slice(item.as_bytes());
                key.put_slice(offer.as_str().as_bytes());
            }
            Key::Grant(item, order) => {
                key.put_slice(GRANTS);
                key.put_slice(item.as_bytes());
                key.put_slice(order.as_bytes());
            }
            Key::Keyserver => key.put_u8(b'K'),
            Key::Succession(place) => {
                key.put_slice(SUCCESSIONS);
                key.put_u16(*place);
            }
            Key::Revocations => key.put_u8(b'R'),
            Key::Recovered => key.put_u8(b'A'),
            Key::HighWater => key.put_u8(b'U'),
        }
        key.freeze()
    }
}

/// A purchase, from the wish to the key.
#[derive(Clone)]
pub(super) struct Order {
    pub(super) item: ItemId,
    pub(super) offer: OfferId,
    pub(super) commitment: KeyCommitment,
    /// Made and stored before the keyserver hears of the order, so that asking twice is buying once.
    pub(super) idempotency_key: String,
    /// The keyserver's name for it; `None` until it has answered.
    pub(super) id: Option<OrderId>,
    pub(super) state: OrderState,
    /// A pass code to pay with, wrapped to this device.
    pub(super) pass: Option<Wrapped>,
    /// The grant is stored.
    pub(super) has_grant: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
struct StoredOrder {
    #[prost(bytes = "vec", tag = "1")]
    item: Vec<u8>,
    #[prost(string, tag = "2")]
    offer: String,
    #[prost(bytes = "vec", tag = "3")]
    commitment: Vec<u8>,
    #[prost(string, tag = "4")]
    idempotency_key: String,
    #[prost(bytes = "vec", tag = "5")]
    id: Vec<u8>,
    #[prost(enumeration = "OrderState", tag = "6")]
    state: i32,
    #[prost(message, optional, tag = "7")]
    pass: Option<pb::Wrapped>,
    #[prost(bool, tag = "8")]
    has_grant: bool,
}

impl Order {
    pub(super) fn key(&self) -> Key {
        Key::Order(self.item, self.offer.clone())
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        StoredOrder {
            item: self.item.to_vec(),
            offer: self.offer.to_string(),
            commitment: self.commitment.to_vec(),
            idempotency_key: self.idempotency_key.clone(),
            id: self.id.map_or_else(Vec::new, |id| id.to_vec()),
            state: self.state.into(),
            pass: self.pass.clone().map(Into::into),
            has_grant: self.has_grant,
        }
        .encode_to_vec()
    }

    pub(super) fn decode(bytes: &[u8]) -> anyhow::Result<Order> {
        let stored = StoredOrder::decode(bytes)?;
        let state = stored.state();
        Ok(Order {
            item: stored.item.as_slice().try_into()?,
            offer: stored.offer.parse()?,
            commitment: stored.commitment.as_slice().try_into()?,
            idempotency_key: stored.idempotency_key,
            id: if stored.id.is_empty() { None } else { Some(stored.id.as_slice().try_into()?) },
            state,
            pass: stored.pass.map(TryInto::try_into).transpose()?,
            has_grant: stored.has_grant,
        })
    }

    /// The keyserver's name for it, while it waits for money.
    pub(super) fn awaits_money(&self) -> Option<OrderId> {
        self.id.filter(|_| self.state == OrderState::Pending)
    }

    /// True while something is still to come from the keyserver.
    pub(super) fn is_open(&self) -> bool {
        match self.state {
            OrderState::Unspecified | OrderState::Pending => true,
            OrderState::Paid | OrderState::Granted => !self.has_grant,
            // The bank may yet decide for us.
            OrderState::Disputed => true,
            OrderState::Refunded | OrderState::Expired => false,
        }
    }
}

/// A released key as it came, and the clocks that go with it.
#[derive(Clone)]
pub(super) struct Grant {
    pub(super) licence: Licence,
    pub(super) signed: Signed<Licence>,
    /// None where its keys drip.
    pub(super) key: Option<Wrapped>,
    pub(super) first_play: Option<Utc>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct StoredGrant {
    #[prost(message, optional, tag = "1")]
    licence: Option<pb::Signed>,
    #[prost(message, optional, tag = "2")]
    key: Option<pb::Wrapped>,
    #[prost(uint64, optional, tag = "3")]
    first_play_utc_ms: Option<u64>,
}

impl Grant {
    /// The effective expiry: from then on no viewing begins.
    pub(super) fn expiry(&self) -> Limit<Utc> {
        self.licence.expiry(self.first_play)
    }

    pub(super) fn lasts_longer_than(&self, other: &Grant) -> bool {
        match (self.expiry(), other.expiry()) {
            (_, Limit::Unlimited) => false,
            (Limit::Unlimited, Limit::Of(_)) => true,
            (Limit::Of(end), Limit::Of(other)) => end > other,
        }
    }

    pub(super) fn store_key(&self) -> Key {
        Key::Grant(self.licence.item, self.licence.order)
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        StoredGrant {
            licence: Some((&self.signed).into()),
            key: self.key.clone().map(Into::into),
            first_play_utc_ms: self.first_play.map(Utc::as_millis),
        }
        .encode_to_vec()
    }

    /// Reads a grant that was verified when it came; the signature is verified again, by the key that was the
    /// keyserver's then, since a disk can be written to by others.
    pub(super) fn decode(bytes: &[u8], keyserver: &Lineage) -> anyhow::Result<Grant> {
        use anyhow::Context as _;
        let stored = StoredGrant::decode(bytes)?;
        let signed = Signed::<Licence>::try_from(stored.licence.context("it has no licence")?)?;
        let licence = keyserver.verify_kept(&signed)?;
        anyhow::ensure!(
            stored.key.is_none() == licence.drip.is_some(),
            "its licence and its key do not belong together"
        );
        Ok(Grant {
            licence,
            signed,
            key: stored.key.map(TryInto::try_into).transpose()?,
            first_play: stored.first_play_utc_ms.map(Utc::from_millis),
        })
    }
}
