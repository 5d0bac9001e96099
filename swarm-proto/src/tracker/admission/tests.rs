//! Admission against a model that asks every question separately.

use proptest::prelude::*;

use super::*;
use crate::catalog::{CatalogEntry, Kind, Media};
use crate::geometry::Geometry;
use crate::id::{ItemId, SiteId, TitleId};
use crate::seal::KeyCommitment;
use crate::signed::{Signed, SigningKey};
use crate::time::Utc;
use crate::tracker::registry::{Applicant, CustomerChange, DeviceChange, Standing};
use crate::wrap::HpkePublic;

const ACCOUNT: [u8; 16] = [1; 16];

fn device() -> DeviceId {
    DeviceId::from([1; 32])
}

fn account() -> AccountId {
    AccountId::from(ACCOUNT)
}

fn region(name: &str) -> Region {
    name.parse().expect("two capital letters")
}

/// What one world is like.
#[derive(Debug, Clone)]
struct Case {
    standing: Standing,
    enrolled: bool,
    revoked: bool,
    seed: bool,
    region: Option<&'static str>,
    customers_limit: Limit<u32>,
    devices_limit: Limit<u32>,
    withdrawn: bool,
    hidden: bool,
    regions: Vec<&'static str>,
    rating: u32,
}

impl Case {
    /// An adult's box and a title for all.
    fn plain() -> Case {
        Case {
            standing: Standing::Active,
            enrolled: true,
            revoked: false,
            seed: false,
            region: None,
            customers_limit: Limit::Unlimited,
            devices_limit: Limit::Unlimited,
            withdrawn: false,
            hidden: false,
            regions: Vec::new(),
            rating: 0,
        }
    }

    fn registry(&self) -> Registry {
        let mut registry = Registry::default();
        let customer = registry.new_customer(Utc::EPOCH, account(), "Ada").expect("room");
        registry.insert_customer(customer);
        if self.enrolled {
            let kind = if self.seed { DeviceKind::Seed } else { DeviceKind::Box };
            let site = SiteId::new("north").expect("a label");
            let applicant =
                Applicant { device: device(), hpke: HpkePublic::from_bytes([1; 32]), name: "box".to_owned() };
            let enrolled = registry.pair(Utc::EPOCH, &account(), kind, site, applicant).expect("room");
            registry.insert_device(enrolled);
            let change = DeviceChange { rating_limit: Some(self.devices_limit), ..DeviceChange::default() };
            let limited = registry.changed_device(Utc::EPOCH, &device(), change).expect("a member");
            registry.insert_device(limited);
            if self.revoked {
                let revoked = registry.revoked(&device()).expect("a device");
                registry.insert_device(revoked);
            }
        }
        let change = CustomerChange {
            name: None,
            region: Some(self.region.map(region)),
            rating_limit: Some(self.customers_limit),
        };
        let changed = registry.changed_customer(&account(), change).expect("a customer");
        registry.insert_customer(changed);
        let stands = registry.with_standing(Utc::EPOCH, &account(), self.standing).expect("a customer");
        registry.insert_customer(stands);
        registry
    }

    fn title(&self) -> Listing {
        let key = SigningKey::from_bytes(&[5; 32]).expect("32 bytes");
        let entry = CatalogEntry {
            title: TitleId::from([1; 16]),
            version: 1,
            publisher: key.publisher_id(),
            item: ItemId::from([1; 32]),
            geometry: Geometry::of_plain(3 << 20).expect("a length"),
            commitment: KeyCommitment::from_bytes([3; 32]),
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
            rating_age: self.rating,
            regions: self.regions.iter().map(|name| region(name)).collect(),
            released: Utc::from_secs(1),
            expires: Limit::Unlimited,
            offers: Vec::new(),
            withdrawn: self.withdrawn,
        };
        let signed = Signed::sign(&key, &entry).expect("the publisher's own");
        Listing { entry, signed, catalog_version: 1, hidden: self.hidden }
    }

    fn admit(&self) -> Result<(), Refused> {
        admit(&self.registry(), &device(), &self.title())
    }

    /// The model: every reason there is, each by itself, in the order in which they are told.
    fn reasons(&self) -> Vec<Refused> {
        let watches = !self.seed;
        let above = |limit: Limit<u32>| limit.bound().filter(|limit| self.rating > *limit && watches);
        let mut reasons = Vec::new();
        let mut add = |holds: bool, why: Refused| reasons.extend(holds.then_some(why));
        add(!self.enrolled, Refused::NoDevice);
        add(self.revoked, Refused::Revoked);
        add(self.standing == Standing::Suspended, Refused::Suspended);
        add(self.standing == Standing::Closed, Refused::Closed);
        add(self.withdrawn, Refused::Withdrawn);
        add(self.hidden, Refused::Hidden);
        add(watches && self.region.is_none() && !self.regions.is_empty(), Refused::NoRegion);
        if let Some(name) = self.region {
            let outside = watches && !self.regions.is_empty() && !self.regions.contains(&name);
            add(outside, Refused::OtherRegion(region(name)));
        }
        if let Some(limit) = above(self.customers_limit) {
            add(true, Refused::AboveCustomersLimit { rating: self.rating, limit });
        }
        if let Some(limit) = above(self.devices_limit) {
            add(true, Refused::AboveDevicesLimit { rating: self.rating, limit });
        }
        reasons
    }
}

fn limits() -> impl Strategy<Value = Limit<u32>> {
    prop_oneof![Just(Limit::Unlimited), (0u32..=21).prop_map(Limit::Of)]
}

fn cases() -> impl Strategy<Value = Case> {
    let standings = prop_oneof![
        4 => Just(Standing::Active),
        1 => Just(Standing::Suspended),
        1 => Just(Standing::Closed)
    ];
    let flags = proptest::array::uniform5(proptest::bool::weighted(0.2));
    let regions = proptest::sample::select(vec![vec![], vec!["AT", "DE"], vec!["NO"]]);
    let region = proptest::sample::select(vec![None, Some("DE"), Some("NO")]);
    (standings, flags, region, regions, limits(), limits(), 0u32..=21).prop_map(
        |(standing, [gone, revoked, seed, withdrawn, hidden], region, regions, customers, devices, rating)| Case {
            standing,
            enrolled: !gone,
            revoked: revoked && !gone,
            seed,
            region,
            customers_limit: customers,
            devices_limit: devices,
            withdrawn,
            hidden,
            regions,
            rating,
        },
    )
}

proptest! {
    #[test]
    fn exactly_what_nothing_speaks_against_is_admitted_and_the_first_reason_is_told(case in cases()) {
        prop_assert_eq!(case.admit().err(), case.reasons().into_iter().next());
    }

    #[test]
    fn customer_may_have_what_one_of_its_unlimited_boxes_may_have(case in cases()) {
        let case = Case { enrolled: true, revoked: false, seed: false, devices_limit: Limit::Unlimited, ..case };
        let registry = case.registry();
        let title = case.title();
        prop_assert_eq!(admit_for_customer(&registry, &account(), &title), admit(&registry, &device(), &title));
    }
}

#[test]
fn limit_of_zero_means_titles_for_all_ages_and_not_everything() {
    let children = Case { devices_limit: Limit::Of(0), ..Case::plain() };
    assert_eq!(children.admit(), Ok(()));
    let film = Case { rating: 6, ..children };
    assert_eq!(film.admit(), Err(Refused::AboveDevicesLimit { rating: 6, limit: 0 }));
}

#[test]
fn item_of_two_titles_is_admitted_through_the_one_that_suits() {
    let adults = Case { customers_limit: Limit::Of(12), rating: 18, ..Case::plain() };
    let registry = adults.registry();
    let (film, cut) = (adults.title(), Case { rating: 12, ..adults }.title());
    assert_eq!(admit_item(&registry, &device(), [&film, &cut].into_iter()), Some(Ok(())));
    let refused = Refused::AboveCustomersLimit { rating: 18, limit: 12 };
    assert_eq!(admit_item(&registry, &device(), [&film].into_iter()), Some(Err(refused)));
    assert_eq!(admit_item(&registry, &device(), std::iter::empty()), None);
}
