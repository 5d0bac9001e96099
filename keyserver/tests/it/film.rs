//! The film that tests and benches sell: an item, its key, and what its publisher says about it.

use std::time::Duration;

use rand::rand_core::UnwrapErr;
use rand::rngs::SysRng;
use swarm_proto::catalog::{CatalogEntry, Kind, Media, Money, Offer, OfferKind, Policy};
use swarm_proto::geometry::Geometry;
use swarm_proto::id::{ItemId, PublisherId, TitleId};
use swarm_proto::limit::Limit;
use swarm_proto::seal::ContentKey;
use swarm_proto::time::Utc;

/// An item and its key.
pub(crate) struct Film {
    pub(crate) item: ItemId,
    pub(crate) key: ContentKey,
    pub(crate) title: TitleId,
    pub(crate) made: Utc,
}

impl Film {
    pub(crate) fn new(made: Utc) -> Film {
        let mut rng = UnwrapErr(SysRng);
        let key = ContentKey::generate(&mut rng);
        let item = ItemId::from_bytes(blake3::derive_key("a sealed film of the tests", key.expose()));
        Film { item, key, title: TitleId::generate(&mut rng), made }
    }

    /// Its entry: "rent" for money, and "soon", which may be watched from tomorrow on.
    pub(crate) fn entry(&self, publisher: PublisherId) -> CatalogEntry {
        let day = Duration::from_secs(86_400);
        let rent = Policy {
            finish_within: Limit::Of(2 * day),
            renew_after: Limit::Of(day),
            offline_grace: Limit::Of(day),
            ..Policy::UNLIMITED
        };
        let soon = Policy { not_before: Limit::Of(self.made + day), ..rent.clone() };
        CatalogEntry {
            title: self.title,
            version: 1,
            publisher,
            item: self.item,
            geometry: Geometry::of_plain(40 << 20).expect("a length"),
            commitment: self.key.commitment(),
            span_commitment: None,
            name: "Harbour at dawn".to_owned(),
            description: String::new(),
            kind: Kind::Video,
            media: Media {
                mime: "video/mp4".to_owned(),
                duration: None,
                codecs: String::new(),
                picture: None,
                bit_rate: None,
            },
            artwork: None,
            rating_age: 0,
            regions: Vec::new(),
            released: Utc::from_secs(1),
            expires: Limit::Unlimited,
            offers: vec![offer("rent", money(299, "EUR"), rent), offer("soon", money(299, "EUR"), soon)],
            withdrawn: false,
        }
    }
}

pub(crate) fn money(minor: u64, currency: &str) -> Money {
    Money::new(minor, currency.parse().expect("a currency")).expect("an amount")
}

fn offer(id: &str, price: Money, policy: Policy) -> Offer {
    Offer { id: id.parse().expect("an id"), kind: OfferKind::Rent, price, policy, preview: None }
}
