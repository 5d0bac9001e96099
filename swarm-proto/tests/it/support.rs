//! What several tests need: fixed keys, fixed moments, fixed bytes.

use rand_chacha::ChaCha8Rng;
use rand_core::SeedableRng;
use swarm_proto::catalog::{CatalogEntry, Kind, Media, Money, Offer, OfferKind, Policy};
use swarm_proto::geometry::Geometry;
use swarm_proto::id::{AccountId, DeviceId, ItemId, OrderId, TitleId};
use swarm_proto::licence::{Licence, Subject};
use swarm_proto::limit::Limit;
use swarm_proto::manifest::{Manifest, ManifestBuilder};
use swarm_proto::membership::{DeviceKind, Membership};
use swarm_proto::seal::{ContentKey, Sealer};
use swarm_proto::signed::SigningKey;
use swarm_proto::ticket::{SeedShare, Ticket, TicketClass};
use swarm_proto::time::Utc;
use swarm_proto::wrap::HpkeSecret;

use std::time::Duration;

pub(crate) const HOUR: Duration = Duration::from_secs(3600);
pub(crate) const DAY: Duration = Duration::from_secs(86_400);

/// 2026-11-22T15:55:36Z
pub(crate) const NOON: Utc = Utc::from_secs(1_795_362_936);

pub(crate) fn rng(seed: u64) -> ChaCha8Rng {
    ChaCha8Rng::seed_from_u64(seed)
}

pub(crate) fn signing_key(fill: u8) -> SigningKey {
    SigningKey::from_bytes(&[fill; 32]).expect("32 bytes")
}

pub(crate) fn hpke_secret(fill: u8) -> HpkeSecret {
    HpkeSecret::from_bytes(&[fill; 32]).expect("32 bytes")
}

pub(crate) fn content_key() -> ContentKey {
    let key: Vec<u8> = (0..32).collect();
    ContentKey::from_bytes(&key).expect("32 bytes")
}

/// The input of BLAKE3's official test vectors: 0, 1, … 250, 0, 1, …
pub(crate) fn pattern(len: usize) -> Vec<u8> {
    (0..251u8).cycle().take(len).collect()
}

/// Seals a whole file in one go.
pub(crate) fn seal(key: &ContentKey, plain: &[u8]) -> (Vec<u8>, Manifest) {
    let geometry = Geometry::of_plain(plain.len() as u64).expect("fits");
    let mut sealer = Sealer::new(key.clone(), geometry);
    let mut sealed = Vec::new();
    sealer.push(plain, &mut sealed).expect("not longer than announced");
    sealer.finish().expect("complete");
    let mut builder = ManifestBuilder::new(geometry);
    builder.update(&sealed).expect("not longer than announced");
    (sealed, builder.finish().expect("complete"))
}

pub(crate) fn entry() -> CatalogEntry {
    let rent = Policy {
        start_by: Limit::Of(30 * DAY),
        finish_within: Limit::Of(48 * HOUR),
        soft_finish: true,
        renew_after: Limit::Of(7 * DAY),
        offline_grace: Limit::Of(DAY),
        not_before: Limit::Of(NOON),
        not_after: Limit::Of(NOON + 365 * DAY),
        drip: None,
    };
    let offer = |id: &str, kind, minor, currency: &str, policy| Offer {
        id: id.parse().expect("a label"),
        kind,
        price: Money::new(minor, currency.parse().expect("a currency")).expect("a price"),
        policy,
        preview: None,
    };
    CatalogEntry {
        title: TitleId::from([1; 16]),
        version: 3,
        publisher: signing_key(1).publisher_id(),
        item: ItemId::from([2; 32]),
        geometry: Geometry::of_plain(8_000_000).expect("fits"),
        commitment: content_key().commitment(),
        span_commitment: None,
        name: "Harbour at dawn".to_owned(),
        description: "Boats leave.\nBoats return.".to_owned(),
        kind: Kind::Video,
        media: Media {
            mime: "video/mp4".to_owned(),
            duration: Some(Duration::from_millis(93_500)),
            codecs: "avc1.64001f, mp4a.40.2".to_owned(),
            picture: Some((1280, 720)),
            bit_rate: Some(680_000),
        },
        artwork: None,
        rating_age: 6,
        regions: ["CH", "DE"].map(|region| region.parse().expect("a region")).to_vec(),
        released: NOON,
        expires: Limit::Of(NOON + 90 * DAY),
        offers: vec![
            offer("rent-48h", OfferKind::Rent, 399, "EUR", rent),
            offer("buy", OfferKind::Buy, 1299, "EUR", Policy::UNLIMITED),
            offer("pass", OfferKind::Pass, 1, "XXX", Policy::UNLIMITED),
        ],
        withdrawn: false,
    }
}

pub(crate) fn membership() -> Membership {
    Membership {
        device: signing_key(2).device_id(),
        account: AccountId::from([3; 16]),
        site: "north".parse().expect("a label"),
        kind: DeviceKind::Box,
        hpke: hpke_secret(4).public(),
        issued: NOON,
        expires: NOON + 30 * DAY,
        serial: 7,
    }
}

pub(crate) fn ticket() -> Ticket {
    Ticket {
        device: signing_key(2).device_id(),
        item: ItemId::from([2; 32]),
        class: TicketClass::Queued,
        expires: NOON + HOUR,
        serial: 9,
        shares: vec![
            SeedShare { seed: signing_key(7).device_id(), bytes: 1 << 30, run: Some(12) },
            SeedShare { seed: signing_key(8).device_id(), bytes: 64 << 20, run: None },
        ],
        shares_until: NOON + HOUR / 6,
        party: 5,
    }
}

pub(crate) fn licence() -> Licence {
    let subject = Subject {
        order: OrderId::from([5; 16]),
        device: DeviceId::from(signing_key(2).public()),
        item: ItemId::from([2; 32]),
        commitment: content_key().commitment(),
        spans: 0..1,
    };
    Licence::new(11, subject, &entry().offers[0].policy, NOON, NOON)
}
