//! Signed statements: what they say survives, what breaks a rule does not, and nobody speaks for another.

use std::time::Duration;

use proptest::prelude::*;
use prost::Message;
use swarm_proto::call::{CallError, CallToken, Proof};
use swarm_proto::catalog::{Artwork, ArtworkMime, CatalogEntry, Region, Superseded};
use swarm_proto::id::{DeviceId, ItemId, TitleId};
use swarm_proto::invalid::Invalid;
use swarm_proto::licence::{Denied, Licence, SOFT_FINISH};
use swarm_proto::limit::Limit;
use swarm_proto::membership::{CLOCK_TOLERANCE, Membership};
use swarm_proto::pb::common as pb;
use swarm_proto::signed::{Signed, SignedError, Statement, verify_bytes};
use swarm_proto::ticket::{MAX_SHARES, SeedShare, Ticket, TicketError};
use swarm_proto::time::Utc;
use swarm_proto::wire::MAX_TICKET_BYTES;

use crate::support::{DAY, HOUR, NOON, entry, licence, membership, signing_key, ticket};

#[test]
fn statements_survive_bytes_and_text() {
    fn travels<T: Statement + PartialEq + std::fmt::Debug>(key: u8, statement: &T) {
        let key = signing_key(key);
        let signed = Signed::sign(&key, statement).expect("valid");
        let read = Signed::<T>::from_text(&signed.to_text()).expect("reads back");
        assert_eq!(read, signed);
        assert_eq!(read.verify(&key.public().into()).as_ref(), Ok(statement));
    }
    travels(1, &entry());
    travels(6, &membership());
    travels(6, &ticket());
    travels(6, &licence());
}

#[test]
fn a_signed_ticket_fits_into_a_request() {
    let share = |n| SeedShare { seed: DeviceId::from([n; 32]), bytes: u64::MAX, run: Some(u64::MAX) };
    let longest = Ticket { shares: (0..MAX_SHARES as u8).map(share).collect(), ..ticket() };
    let signed = Signed::sign(&signing_key(6), &longest).expect("valid");
    assert!(signed.to_bytes().len() <= MAX_TICKET_BYTES, "{} bytes", signed.to_bytes().len());
}

#[test]
fn a_ticket_with_shares_that_make_no_sense_is_refused_by_the_name_of_the_field() {
    let share = ticket().shares[0];
    let refused = |ticket: Ticket| Signed::sign(&signing_key(6), &ticket).expect_err("refused").field;
    assert_eq!(refused(Ticket { shares: vec![share; 2], ..ticket() }), "shares.seed_id");
    assert_eq!(refused(Ticket { shares: vec![share; MAX_SHARES + 1], ..ticket() }), "shares");
    assert_eq!(refused(Ticket { shares: vec![SeedShare { bytes: 0, ..share }], ..ticket() }), "shares.bytes");
    assert_eq!(refused(Ticket { shares: vec![SeedShare { run: Some(0), ..share }], ..ticket() }), "shares.run");
    assert_eq!(refused(Ticket { shares_until: NOON + DAY, ..ticket() }), "shares_until_utc_ms");
    assert_eq!(refused(Ticket { party: 0, ..ticket() }), "party");
}

#[test]
fn another_signer_and_another_purpose_are_not_accepted() {
    let (tracker, other) = (signing_key(6), signing_key(7));
    let signed = Signed::sign(&tracker, &ticket()).expect("valid");
    assert!(matches!(signed.verify(&other.server_id()), Err(SignedError::OtherSigner { .. })));

    let mut message = pb::Signed::from(&signed);
    message.signer = other.public().to_vec();
    let claimed = Signed::<Ticket>::try_from(message).expect("well-formed");
    assert_eq!(claimed.verify(&other.server_id()), Err(SignedError::Forged("ticket")));

    let as_licence = Signed::<Licence>::try_from(pb::Signed::from(&signed)).expect("well-formed");
    assert_eq!(as_licence.verify(&tracker.server_id()), Err(SignedError::Forged("licence")));
}

#[test]
fn an_entry_is_signed_by_the_publisher_it_names() {
    let thief = signing_key(9);
    assert!(Signed::sign(&thief, &entry()).is_err(), "one does not sign what others would refuse");

    let payload = entry().encode();
    let message = pb::Signed {
        signature: thief.sign_bytes(CatalogEntry::CONTEXT, &payload).to_vec(),
        payload: payload.into(),
        signer: thief.public().to_vec(),
    };
    let stolen = Signed::<CatalogEntry>::try_from(message).expect("well-formed");
    assert!(matches!(stolen.verify(&thief.publisher_id()), Err(SignedError::OtherSigner { .. })));
}

#[test]
fn weak_keys_prove_nothing() {
    // The identity point as key and as R, zero as s: plain verification accepts this for every message.
    let mut identity = [0; 32];
    identity[0] = 1;
    let mut signature = [0; 64];
    signature[0] = 1;
    assert!(!verify_bytes(&identity, "ticket", b"anything", &signature));
}

#[test]
fn malformed_signed_messages_name_the_field() {
    let good = pb::Signed::from(&Signed::sign(&signing_key(6), &ticket()).expect("valid"));
    let field = |message: pb::Signed| Signed::<Ticket>::try_from(message).expect_err("malformed").field;
    assert_eq!(field(pb::Signed { payload: Default::default(), ..good.clone() }), "payload");
    assert_eq!(field(pb::Signed { payload: vec![0; 65_537].into(), ..good.clone() }), "payload");
    assert_eq!(field(pb::Signed { signer: vec![0; 31], ..good.clone() }), "signer");
    assert_eq!(field(pb::Signed { signature: vec![0; 65], ..good }), "signature");
    assert!(Signed::<Ticket>::from_text("not base64!").is_err());
    assert!(Signed::<Ticket>::from_text(&"A".repeat(200_000)).is_err());
}

#[test]
fn entries_that_break_a_rule_name_the_field() {
    /// What to break, and what the refusal must call it.
    type Case = (fn(&mut pb::CatalogEntry), &'static str);
    let cases: [Case; 30] = [
        (|entry| entry.title_id.truncate(15), "title_id"),
        (|entry| entry.version = 0, "version"),
        (|entry| entry.publisher_id.clear(), "publisher_id"),
        (|entry| entry.item_id.push(0), "item_id"),
        (|entry| entry.sealed_len = 0, "sealed_len"),
        (|entry| entry.sealed_len = u64::MAX, "sealed_len"),
        (|entry| entry.plain_len += 1, "plain_len"),
        (|entry| entry.commitment.clear(), "commitment"),
        (|entry| entry.name = "  ".to_owned(), "name"),
        (|entry| entry.name = "x".repeat(201), "name"),
        (|entry| entry.name = "two\nlines".to_owned(), "name"),
        (|entry| entry.name = "\u{202e}gnp.exe".to_owned(), "name"),
        (|entry| entry.name = "\u{1b}[31m".to_owned(), "name"),
        (|entry| entry.description = "\0".to_owned(), "description"),
        (|entry| entry.description = "x".repeat(4097), "description"),
        (|entry| entry.kind = 0, "kind"),
        (|entry| entry.kind = 99, "kind"),
        (|entry| entry.media = None, "media"),
        (|entry| media(entry).mime = "mp4".to_owned(), "media.mime"),
        (|entry| media(entry).height = 0, "media.height"),
        (
            |entry| entry.artwork = Some(pb::Artwork { mime: "image/svg+xml".to_owned(), bytes: vec![1] }),
            "artwork.mime",
        ),
        (
            |entry| entry.artwork = Some(pb::Artwork { mime: "image/png".to_owned(), bytes: vec![0; 32_769] }),
            "artwork.bytes",
        ),
        (|entry| entry.rating_age = 22, "rating_age"),
        (|entry| entry.regions.reverse(), "regions"),
        (|entry| entry.regions[0] = "ch".to_owned(), "regions.region"),
        (|entry| entry.released_utc_ms = u64::MAX, "released_utc_ms"),
        (|entry| entry.expires = None, "expires"),
        (|entry| entry.offers[1].id = entry.offers[0].id.clone(), "offers[1].id"),
        (|entry| price(entry).minor = 0, "offers[0].price.minor"),
        (|entry| price(entry).currency = "XXX".to_owned(), "offers[0].price.currency"),
    ];
    for (place, (break_it, field)) in cases.into_iter().enumerate() {
        let mut message = pb::CatalogEntry::from(&entry());
        break_it(&mut message);
        let refused = CatalogEntry::decode(&message.encode_to_vec()).expect_err(field);
        assert_eq!(refused.field, field, "case {place}");
    }
}

#[test]
fn zero_is_never_a_limit_and_unlimited_is_said() {
    type Case = fn(&mut pb::Policy);
    let cases: [Case; 4] = [
        |policy| policy.start_by = None,
        |policy| policy.start_by = Some(pb::DurationLimit { limit: None }),
        |policy| policy.start_by = Some(pb::DurationLimit { limit: Some(pb::duration_limit::Limit::Millis(0)) }),
        |policy| policy.start_by = Some(pb::DurationLimit { limit: Some(pb::duration_limit::Limit::Millis(u64::MAX)) }),
    ];
    for break_it in cases {
        let mut message = pb::CatalogEntry::from(&entry());
        break_it(message.offers[0].policy.as_mut().expect("has one"));
        let refused = CatalogEntry::decode(&message.encode_to_vec()).expect_err("no limit is stated");
        assert_eq!(refused.field, "offers[0].policy.start_by");
    }
    let mut message = pb::CatalogEntry::from(&entry());
    let policy = message.offers[0].policy.as_mut().expect("has one");
    policy.not_after = policy.not_before;
    let refused = CatalogEntry::decode(&message.encode_to_vec()).expect_err("the viewing period is empty");
    assert_eq!(refused.field, "offers[0].policy.not_after");
    let mut message = pb::CatalogEntry::from(&entry());
    message.offers[1].policy = message.offers[0].policy;
    assert!(CatalogEntry::decode(&message.encode_to_vec()).is_err(), "what was bought does not end");
}

#[test]
fn the_largest_entry_can_be_signed() {
    let mut large = entry();
    large.name = "ü".repeat(100);
    large.description = "x".repeat(4096);
    large.artwork = Some(Artwork { mime: ArtworkMime::Webp, bytes: vec![0; 32_768].into() });
    let letters = || b'A'..=b'Z';
    let all = letters().flat_map(|one| letters().map(move |two| String::from_utf8(vec![one, two]).expect("ASCII")));
    large.regions = all.take(300).map(|region| region.parse().expect("two capitals")).collect();
    let offer = large.offers[0].clone();
    large.offers = (0..16)
        .map(|n| format!("{:0>32}", n).parse().expect("a label"))
        .map(|id| {
            let mut offer = offer.clone();
            offer.id = id;
            offer
        })
        .collect();
    assert!(Signed::sign(&signing_key(1), &large).is_ok());
}

#[test]
fn an_entry_never_goes_back_to_an_older_version() {
    let old = entry();
    assert_eq!(old.may_replace(&old), Ok(()), "the same file published twice");
    let mut newer = old.clone();
    newer.version += 1;
    newer.name = "Harbour at dusk".to_owned();
    assert_eq!(newer.may_replace(&old), Ok(()));
    assert_eq!(old.may_replace(&newer), Err(Superseded::Older { offered: 3, known: 4 }));
    newer.version = old.version;
    assert_eq!(newer.may_replace(&old), Err(Superseded::Conflict { version: 3 }));
    newer.title = TitleId::from([99; 16]);
    assert_eq!(newer.may_replace(&old), Err(Superseded::OtherPublisher));
}

#[test]
fn titles_are_offered_where_the_publisher_says() {
    let region = |text: &str| text.parse::<Region>().expect("a region");
    let mut entry = entry();
    assert!(entry.is_offered_in(region("DE")) && !entry.is_offered_in(region("FR")));
    entry.regions.clear();
    assert!(entry.is_offered_in(region("FR")));
    entry.withdrawn = true;
    assert!(!entry.is_offered_in(region("FR")));
}

#[test]
fn memberships_hold_from_issue_to_expiry() {
    let membership = membership();
    assert!(membership.is_valid_at(NOON) && membership.is_valid_at(NOON.minus(CLOCK_TOLERANCE)));
    assert!(!membership.is_valid_at(NOON.minus(CLOCK_TOLERANCE).minus(HOUR)));
    assert!(!membership.is_valid_at(NOON + 30 * DAY));
    let endless = Membership { expires: NOON, ..membership };
    assert_eq!(Signed::sign(&signing_key(6), &endless).map_err(|error| error.field), Err("expires_utc_ms".into()));
}

#[test]
fn a_ticket_serves_its_bearer_for_its_item_in_its_time() {
    let tracker = signing_key(6);
    let device = signing_key(2).device_id();
    let signed = Signed::sign(&tracker, &ticket()).expect("valid");
    let item = ticket().item;
    let verify = |bearer, item, now| Ticket::verify(&signed, &tracker.server_id(), bearer, item, now);
    assert_eq!(verify(device, item, NOON), Ok(ticket()));
    let other = signing_key(3).device_id();
    assert_eq!(verify(other, item, NOON), Err(TicketError::OtherDevice(device)));
    assert_eq!(verify(device, ItemId::from([9; 32]), NOON), Err(TicketError::OtherItem(item)));
    assert_eq!(verify(device, item, NOON + HOUR), Err(TicketError::Expired(NOON + HOUR)));
}

#[test]
fn a_call_token_is_good_for_one_server_and_ten_minutes() {
    let (device, server) = (signing_key(2), signing_key(6).server_id());
    let signed = CallToken::sign(&device, server, NOON).expect("valid");
    let expires = NOON + Duration::from_secs(600);
    let proof = Proof { device: device.device_id(), until: expires + CLOCK_TOLERANCE };
    assert_eq!(CallToken::verify(&signed, &server, NOON), Ok(proof));
    assert_eq!(CallToken::verify(&signed, &server, NOON.minus(CLOCK_TOLERANCE)), Ok(proof));
    assert!(matches!(CallToken::verify(&signed, &server, NOON.minus(HOUR)), Err(CallError::TooEarly(_))));
    let late = expires + CLOCK_TOLERANCE;
    assert_eq!(CallToken::verify(&signed, &server, late), Err(CallError::Expired(expires)));
    let other = signing_key(7).server_id();
    assert_eq!(CallToken::verify(&signed, &other, NOON), Err(CallError::OtherAudience(server)));

    let mut token = signed.verify(&device.device_id()).expect("ours");
    token.expires = NOON + HOUR;
    assert!(Signed::sign(&device, &token).is_err(), "an hour is too long");
    assert!(Signed::sign(&signing_key(3), &token).is_err(), "nobody signs for another device");
}

#[test]
fn a_viewing_period_includes_its_begin_and_excludes_its_end() {
    let licence = Licence { renew_after: Limit::Unlimited, start_by: Limit::Unlimited, ..licence() };
    let (begin, end) = (NOON, NOON + 365 * DAY);
    let second = Duration::from_secs(1);
    assert_eq!(licence.allows(begin.minus(second)), Err(Denied::TooEarly(begin)));
    assert_eq!(licence.allows(begin), Ok(()));
    assert_eq!(licence.allows(end.minus(second)), Ok(()));
    assert_eq!(licence.allows(end), Err(Denied::TooLate(end)));
    assert_eq!(licence.allows(end + second), Err(Denied::TooLate(end)));
    let policy = &entry().offers[0].policy;
    let may: Vec<bool> =
        [begin.minus(second), begin, end.minus(second), end].map(|utc| policy.may_grant_at(utc)).into();
    assert_eq!(may, [false, true, true, false]);
}

#[test]
fn a_rental_starts_in_time_and_ends_in_time() {
    let licence = Licence { renew_after: Limit::Unlimited, ..licence() };
    assert_eq!(licence.allows_start(NOON + 29 * DAY, None), Ok(()));
    assert_eq!(licence.allows_start(NOON + 30 * DAY, None), Err(Denied::NotStarted(NOON + 30 * DAY)));
    let first_play = NOON + 29 * DAY;
    assert_eq!(licence.allows_start(NOON + 30 * DAY, Some(first_play)), Ok(()));
    let end = first_play + 48 * HOUR;
    assert_eq!(licence.allows_start(end, Some(first_play)), Err(Denied::Finished(end)));
    assert_eq!(licence.allows_continue(end, first_play), Ok(()), "soft finish");
    let hard = Licence { soft_finish: false, ..licence };
    assert_eq!(hard.allows_continue(end, first_play), Err(Denied::Finished(end)));
}

#[test]
fn a_box_that_stays_offline_must_come_back() {
    let licence = licence();
    assert_eq!(licence.renewal_due(), Limit::Of(NOON + 7 * DAY));
    assert_eq!(licence.allows(NOON + 7 * DAY), Ok(()), "within the grace");
    assert_eq!(licence.allows(NOON + 8 * DAY), Err(Denied::RenewalOverdue(NOON + 8 * DAY)));
    let for_ever = Licence { offline_grace: Limit::Unlimited, ..licence };
    assert_eq!(for_ever.allows(NOON + 80 * DAY), Ok(()));
}

#[test]
fn every_clock_ends_a_right_to_the_second_and_expiry_says_which_moment() {
    let second = Duration::from_secs(1);
    let open = Licence {
        not_before: Limit::Unlimited,
        not_after: Limit::Unlimited,
        start_by: Limit::Unlimited,
        finish_within: Limit::Unlimited,
        renew_after: Limit::Unlimited,
        offline_grace: Limit::Unlimited,
        ..licence()
    };
    assert_eq!(open.expiry(Some(NOON)), Limit::Unlimited);
    let end = NOON + 10 * DAY;
    let cases = [
        (Licence { not_after: Limit::Of(end), ..open.clone() }, None, Denied::TooLate(end)),
        (Licence { start_by: Limit::Of(end), ..open.clone() }, None, Denied::NotStarted(end)),
        (Licence { finish_within: Limit::Of(10 * DAY), ..open.clone() }, Some(NOON), Denied::Finished(end)),
        (
            Licence { renew_after: Limit::Of(9 * DAY), offline_grace: Limit::Of(DAY), ..open.clone() },
            None,
            Denied::RenewalOverdue(end),
        ),
    ];
    for (licence, first_play, denied) in cases {
        assert_eq!(licence.expiry(first_play), Limit::Of(end), "{denied}");
        assert_eq!(licence.allows_start(end.minus(second), first_play), Ok(()), "{denied}");
        assert_eq!(licence.allows_start(end, first_play), Err(denied));
        assert_eq!(licence.allows_start(end + second, first_play), Err(denied));
    }
    let all = Licence { not_after: Limit::Of(end), finish_within: Limit::Of(2 * DAY), ..open };
    assert_eq!(all.expiry(Some(NOON)), Limit::Of(NOON + 2 * DAY), "the first end counts");
    assert_eq!(all.allows_start(end, Some(NOON)), Err(Denied::TooLate(end)), "what is over for good is said first");
}

#[test]
fn a_soft_finish_is_soft_for_six_hours_and_never_past_the_viewing_period() {
    let soft = Licence { renew_after: Limit::Unlimited, ..licence() };
    let (finish, second) = (NOON + 48 * HOUR, Duration::from_secs(1));
    let last = finish + SOFT_FINISH;
    assert_eq!(soft.viewing_ends(NOON), Limit::Of(last));
    assert_eq!(soft.allows_start(finish, Some(NOON)), Err(Denied::Finished(finish)), "none begins any more");
    assert_eq!(soft.allows_continue(last.minus(second), NOON), Ok(()));
    assert_eq!(soft.allows_continue(last, NOON), Err(Denied::Finished(last)));
    let premiere = Licence { not_after: Limit::Of(finish + HOUR), ..soft };
    assert_eq!(premiere.allows_continue(finish + HOUR, NOON), Err(Denied::TooLate(finish + HOUR)));
}

#[test]
fn a_play_on_another_device_of_the_household_starts_the_clock_here_too() {
    let licence = Licence { renew_after: Limit::Unlimited, first_play: Some(NOON), ..licence() };
    assert_eq!(licence.expiry(None), Limit::Of(NOON + 48 * HOUR));
    assert_eq!(licence.expiry(Some(NOON + DAY)), Limit::Of(NOON + 48 * HOUR), "the earlier play counts");
    assert_eq!(licence.expiry(Some(NOON.minus(HOUR))), Limit::Of(NOON + 47 * HOUR));
}

#[test]
fn a_change_of_summer_time_makes_no_rental_longer_or_shorter() {
    let second = Duration::from_secs(1);
    // Central Europe sets its clocks forward on the first of these days and back on the second, at 01:00 UTC.
    for eve in ["2026-03-28T20:00:00Z", "2026-10-24T20:00:00Z"] {
        let begun: Utc = eve.parse().expect("a moment");
        let licence = Licence {
            not_before: Limit::Unlimited,
            not_after: Limit::Unlimited,
            renew_after: Limit::Unlimited,
            soft_finish: false,
            ..licence()
        };
        let end = begun + 48 * HOUR;
        assert_eq!(end.since(begun).as_secs(), 172_800);
        assert_eq!(licence.allows_continue(end.minus(second), begun), Ok(()), "{eve}");
        assert_eq!(licence.allows_continue(end, begun), Err(Denied::Finished(end)), "{eve}");
    }
}

#[test]
fn a_grace_of_more_than_a_day_is_refused_where_licences_are_renewed() {
    let with = |grace: Limit<Duration>| {
        let mut message = pb::CatalogEntry::from(&entry());
        message.offers[0].policy.as_mut().expect("has one").offline_grace = Some(grace.into());
        CatalogEntry::decode(&message.encode_to_vec()).map(|_| ()).map_err(|invalid| invalid.field.into_owned())
    };
    let refused = Err("offers[0].policy.offline_grace".to_owned());
    assert_eq!(with(Limit::Of(DAY)), Ok(()));
    assert_eq!(with(Limit::Of(DAY + Duration::from_millis(1))), refused);
    assert_eq!(with(Limit::Unlimited), refused);
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _: Result<CatalogEntry, Invalid> = CatalogEntry::decode(&bytes);
        let _: Result<Membership, Invalid> = Membership::decode(&bytes);
        let _: Result<Ticket, Invalid> = Ticket::decode(&bytes);
        let _: Result<Licence, Invalid> = Licence::decode(&bytes);
        let _: Result<CallToken, Invalid> = CallToken::decode(&bytes);
        let _ = Signed::<Ticket>::from_bytes(&bytes);
    }

    #[test]
    fn damaged_statements_are_never_believed(place: prop::sample::Index, bit in 0u8..8) {
        let key = signing_key(6);
        let mut bytes = Signed::sign(&key, &licence()).expect("valid").to_bytes().to_vec();
        let place = place.index(bytes.len());
        bytes[place] ^= 1 << bit;
        if let Ok(damaged) = Signed::<Licence>::from_bytes(&bytes) {
            prop_assert!(damaged.verify(&key.server_id()).is_err());
        }
    }

    #[test]
    fn licences_survive_with_any_clocks(
        days in prop::array::uniform4(prop::option::of(1u32..10_000)),
        soft_finish: bool,
        spans in (0u32..2048, 1u32..2048),
        issued in 1u64..4_000_000_000_000,
        first_play in prop::option::of(1u64..4_000_000_000_000),
    ) {
        prop_assume!(spans.0 + spans.1 <= 2048);
        let [start_by, finish_within, renew_after, offline_grace] = days.map(|days| days.map_or(Limit::Unlimited, |days| Limit::Of(DAY * days)));
        let issued = Utc::from_millis(issued);
        let licence = Licence {
            start_by: start_by.map(|after| issued + after),
            finish_within,
            renew_after,
            offline_grace,
            soft_finish,
            spans: spans.0..spans.0 + spans.1,
            issued,
            first_play: first_play.map(Utc::from_millis),
            ..licence()
        };
        prop_assert_eq!(Licence::decode(&licence.encode()), Ok(licence));
    }
}

fn media(entry: &mut pb::CatalogEntry) -> &mut pb::Media {
    entry.media.as_mut().expect("has one")
}

fn price(entry: &mut pb::CatalogEntry) -> &mut pb::Money {
    entry.offers[0].price.as_mut().expect("has one")
}
