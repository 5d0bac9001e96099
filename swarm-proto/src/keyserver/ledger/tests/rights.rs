//! Keys that have left: played, replaced, taken back.

use super::*;
use crate::keyserver::refusals::{PlayRefusal, ReplaceRefusal, WithdrawRefusal};

fn why() -> Reason {
    Reason::new("stolen").expect("a reason")
}

fn granted(ledger: &mut Ledger, n: u8, order: OrderId) -> Licence {
    ledger.request_grant(at(2), &box_of(ALICE, n), order).expect("granted").reply.licence
}

#[test]
fn first_play_counts_for_every_device_and_is_told_once() {
    let mut ledger = shop();
    let order = paid(&mut ledger, 1, "rent");
    granted(&mut ledger, 1, order);
    granted(&mut ledger, 2, order);
    let begun = at(2) + DAY;
    let first = ledger.report_play(begun, &box_of(ALICE, 1), order, begun).expect("may play");
    assert!(matches!(first.record, Some(Record::FirstPlayed { .. })));
    assert_eq!(ledger.report_play(begun + DAY, &box_of(ALICE, 2), order, begun + DAY).expect("may play").record, None);
    let other = ledger.request_grant(begun + DAY, &box_of(ALICE, 2), order).expect("renewed").reply.licence;
    assert_eq!(other.first_play, Some(begun));
    let end = begun + 2 * DAY;
    assert_eq!(other.expiry(None), Limit::Of(end), "and is one expiry, here and on the box");
    assert!(ledger.may_watch(end.minus(Duration::from_secs(1)), &box_of(ALICE, 2), ledger.any_order(&order).unwrap()));
    assert!(!ledger.may_watch(end, &box_of(ALICE, 2), ledger.any_order(&order).unwrap()));
}

#[test]
fn word_of_a_first_play_before_the_grant_or_in_the_future_is_put_right() {
    for (said, kept) in [(at(0).minus(DAY), at(2)), (at(9) + DAY, at(9)), (at(5), at(5))] {
        let mut ledger = shop();
        let order = paid(&mut ledger, 1, "rent");
        granted(&mut ledger, 1, order);
        let _ = ledger.report_play(at(9), &box_of(ALICE, 1), order, said).expect("may play");
        assert_eq!(ledger.any_order(&order).and_then(Order::first_play), Some(kept));
    }
}

#[test]
fn only_who_has_a_key_may_play() {
    let mut ledger = shop();
    let order = paid(&mut ledger, 1, "rent");
    assert_eq!(ledger.report_play(at(3), &box_of(ALICE, 1), order, at(3)), Err(PlayRefusal::NoGrant));
    granted(&mut ledger, 1, order);
    let stranger = ledger.report_play(at(3), &box_of(BOB, 1), order, at(3));
    assert_eq!(stranger, Err(PlayRefusal::Look(LookRefusal::OtherAccount)));
    let _ = ledger.revoke_device(at(4), device(1), why());
    assert_eq!(ledger.report_play(at(5), &box_of(ALICE, 1), order, at(5)), Err(PlayRefusal::DeviceRevoked));
}

#[test]
fn lost_device_is_replaced_and_its_licence_no_longer_counts() {
    let mut ledger = shop();
    let order = paid(&mut ledger, 1, "rent");
    let lost = granted(&mut ledger, 1, order);
    for n in 2..=4 {
        granted(&mut ledger, n, order);
    }
    let begun = at(2) + DAY;
    let _ = ledger.report_play(begun, &box_of(ALICE, 1), order, begun).expect("may play");
    let new = box_of(ALICE, 5);
    assert_eq!(ledger.request_grant(begun, &new, order), Err(GrantRefusal::TooManyDevices(4)));
    assert_eq!(ledger.replace_device(begun, &new, order, device(9)), Err(ReplaceRefusal::NoSuchDevice));
    assert_eq!(ledger.replace_device(begun, &box_of(ALICE, 1), order, device(1)), Err(ReplaceRefusal::Itself));
    let stranger = ledger.replace_device(begun, &box_of(BOB, 1), order, device(1));
    assert_eq!(stranger, Err(ReplaceRefusal::Grant(GrantRefusal::OtherAccount)));

    let _ = ledger.replace_device(begun, &new, order, device(1)).expect("replaced");
    let licence = ledger.request_grant(begun, &new, order).expect("there is room").reply.licence;
    assert_eq!((licence.serial, licence.first_play), (5, Some(begun)), "a new box is no new rental");
    assert_eq!(licence.start_by, lost.start_by);
    let list = ledger.revocations(begun, &device(1)).expect("it has lost something");
    assert!(list.covers(&lost) && list.version == 1 && !list.all);
    assert_eq!(ledger.revocations(begun, &device(2)), None, "others learn nothing");
    assert_eq!(ledger.report_play(begun, &box_of(ALICE, 1), order, begun), Err(PlayRefusal::NoGrant));
}

#[test]
fn devices_are_replaced_so_often_in_so_long() {
    let mut ledger = shop();
    let order = paid(&mut ledger, 1, "rent");
    let replace = |ledger: &mut Ledger, now, lost: u8| {
        let _ = ledger.request_grant(now, &box_of(ALICE, lost), order).expect("granted");
        ledger.replace_device(now, &box_of(ALICE, lost + 1), order, device(lost))
    };
    assert!(replace(&mut ledger, at(2), 1).is_ok());
    assert!(replace(&mut ledger, at(2) + DAY, 2).is_ok());
    let again = at(2) + 30 * DAY;
    let second = Duration::from_secs(1);
    assert_eq!(replace(&mut ledger, again.minus(second), 3), Err(ReplaceRefusal::TooOften(again)));
    assert!(ledger.replace_device(again, &box_of(ALICE, 4), order, device(3)).is_ok());
}

#[test]
fn key_is_taken_back_on_the_operators_word_and_the_device_may_ask_again() {
    let mut ledger = shop();
    let order = paid(&mut ledger, 1, "rent");
    let licence = granted(&mut ledger, 1, order);
    assert_eq!(ledger.withdraw_grant(at(3), order, device(2), why()), Err(WithdrawRefusal::NoGrant));
    let _ = ledger.withdraw_grant(at(3), order, device(1), why()).expect("taken back");
    assert!(ledger.revocations(at(3), &device(1)).expect("a list").covers(&licence));
    let again = ledger.request_grant(at(4), &box_of(ALICE, 1), order).expect("granted").reply.licence;
    assert!(!ledger.revocations(at(4), &device(1)).expect("a list").covers(&again), "a new licence is another one");
    assert_eq!(again.start_by, licence.start_by, "the first grant stays the first");
}

#[test]
fn revoked_device_gets_no_key_and_loses_what_it_has() {
    let mut ledger = shop();
    let order = paid(&mut ledger, 1, "rent");
    let licence = granted(&mut ledger, 1, order);
    let _ = ledger.revoke_device(at(3), device(1), why());
    assert_eq!(ledger.revoke_device(at(4), device(1), why()).record, None);
    assert_eq!(ledger.request_grant(at(4), &box_of(ALICE, 1), order), Err(GrantRefusal::DeviceRevoked));
    assert!(ledger.revocations(at(4), &device(1)).expect("a list").covers(&licence));
    assert!(ledger.licences(ledger.any_order(&order).expect("there")).is_empty());
    assert!(ledger.request_grant(at(4), &box_of(ALICE, 2), order).is_ok(), "the household's other box plays on");
}

#[test]
fn refund_takes_keys_back_unless_a_rental_is_under_way() {
    let mut ledger = shop();
    let (untouched, begun) = (paid(&mut ledger, 1, "rent"), paid(&mut ledger, 2, "rent"));
    let kept = granted(&mut ledger, 1, begun);
    let lost = granted(&mut ledger, 1, untouched);
    let _ = ledger.report_play(at(3), &box_of(ALICE, 1), begun, at(3)).expect("may play");
    for (n, order) in [untouched, begun].into_iter().enumerate() {
        let _ = ledger.refund(at(4), order, whole("sorry"), refund_id(n)).expect("refunded");
    }
    let list = ledger.revocations(at(5), &device(1)).expect("a list");
    assert!(list.covers(&lost) && !list.covers(&kept), "what has begun ends by its own clock");
    assert_eq!(ledger.report_play(at(5), &box_of(ALICE, 1), untouched, at(5)), Err(PlayRefusal::NoGrant));
    assert!(ledger.report_play(at(5), &box_of(ALICE, 1), begun, at(5)).is_ok());
}
