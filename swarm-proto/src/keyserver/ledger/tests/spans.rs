//! Keys that leave span by span, decided.

use super::*;
use crate::drip::{Drip, Preview};
use crate::keyserver::compaction::Compaction;
use crate::keyserver::drips::ALLOWANCE;
use crate::keyserver::ledger::MAX_PREVIEWS_A_DAY;
use crate::keyserver::refusals::{PreviewRefusal, SpanRefusal};
use crate::licence::{DRIP_POLICY_VERSION, Denied};
use crate::span_tree::SpanCommitment;

fn item(n: u8) -> ItemId {
    ItemId::from_bytes([n; 32])
}

/// An item whose rental drips and has a preview.
fn drip_entry(n: u8) -> CatalogEntry {
    let drip = Drip::new(Duration::from_secs(3), 8).expect("a pace");
    let mut rent = offer("rent", money(299, "EUR"), Policy { drip: Some(drip), ..rental() });
    rent.preview = Some(Preview::new(Duration::from_secs(60), 1).expect("a preview"));
    CatalogEntry {
        item: item(n),
        title: TitleId::from([n; 16]),
        commitment: KeyCommitment::from_bytes([n; 32]),
        span_commitment: Some(SpanCommitment::from_bytes([5; 32])),
        ..entry(1, vec![rent])
    }
}

/// A shop with such an item, all records, and the dates they have.
fn kept() -> (Ledger, Vec<(Utc, Record)>) {
    let (mut ledger, mut records) = (shop(), opening());
    let deposited = ledger.deposit(at(0), &drip_entry(8), sealed()).expect("deposited");
    records.extend(deposited.record.map(|record| (at(0), record)));
    (ledger, records)
}

/// A rental of it, paid and granted to a box.
fn rented(ledger: &mut Ledger) -> OrderId {
    let order = ledger.create_order(at(0), ALICE, key(1), item(8), "rent", order_id(1)).expect("ordered").reply.id;
    let event = news(TillNews::Succeeded, 1, order, ALICE);
    let _ = ledger.handle_till(at(1), &event).expect("paid");
    let licence = ledger.request_grant(at(2), &box_of(ALICE, 1), order).expect("granted").reply.licence;
    assert_eq!((licence.policy_version, licence.drip.is_some()), (DRIP_POLICY_VERSION, true));
    order
}

#[test]
fn keys_drip_only_inside_every_clock_of_the_licence() {
    let (mut ledger, _) = kept();
    let order = rented(&mut ledger);
    let here = box_of(ALICE, 1);
    assert!(ledger.may_drip(at(3), &here, order).is_ok());
    assert_eq!(ledger.may_drip(at(3), &box_of(ALICE, 2), order), Err(SpanRefusal::NoGrant));
    assert_eq!(ledger.may_drip(at(3), &box_of(BOB, 1), order), Err(SpanRefusal::Grant(GrantRefusal::OtherAccount)));
    let _ = ledger.report_play(at(3), &here, order, at(3)).expect("plays");
    // Renewed each day, as boxes do.
    let _ = ledger.request_grant(at(3) + DAY, &here, order).expect("renewed");
    let end = at(3) + 2 * DAY;
    assert!(ledger.may_drip(end.minus(Duration::from_millis(1)), &here, order).is_ok());
    assert_eq!(ledger.may_drip(end, &here, order), Err(SpanRefusal::Over(Denied::Finished(end))));
}

#[test]
fn what_is_taken_back_stops_in_the_middle_of_a_film() {
    let why = || Reason::new("stolen").expect("a reason");
    for step in 0..3 {
        let (mut ledger, _) = kept();
        let order = rented(&mut ledger);
        let here = box_of(ALICE, 1);
        let _ = ledger.allow_spans(at(3), &here, order).expect("it plays");
        match step {
            0 => drop(ledger.withdraw_grant(at(4), order, device(1), why()).expect("taken back")),
            1 => drop(ledger.revoke_device(at(4), device(1), why())),
            _ => drop(ledger.handle_till(at(4), &news(TillNews::Refunded, 2, order, ALICE)).expect("refunded")),
        }
        assert!(ledger.may_drip(at(5), &here, order).is_err() && ledger.allow_spans(at(5), &here, order).is_err());
    }
}

#[test]
fn whole_key_does_not_drip() {
    let mut ledger = shop();
    let order = paid(&mut ledger, 1, "rent");
    let _ = ledger.request_grant(at(2), &box_of(ALICE, 1), order).expect("granted");
    assert_eq!(ledger.may_drip(at(3), &box_of(ALICE, 1), order), Err(SpanRefusal::WholeKey));
}

#[test]
fn device_has_so_many_previews_a_day_and_the_same_one_as_often_as_it_likes() {
    let mut ledger = shop();
    let here = box_of(ALICE, 1);
    assert_eq!(ledger.request_preview(at(0), &here, ITEM), Err(PreviewRefusal::NoPreview));
    assert_eq!(ledger.request_preview(at(0), &here, item(99)), Err(PreviewRefusal::NoSuchItem));
    let many = u8::try_from(MAX_PREVIEWS_A_DAY).expect("few");
    for n in 0..=many {
        let _ = ledger.deposit(at(0), &drip_entry(100 + n), sealed()).expect("deposited");
    }
    for n in 0..many {
        let given = ledger.request_preview(at(n.into()), &here, item(100 + n)).expect("for nothing");
        assert!(given.record.is_some() && given.reply.0 == 1);
        assert_eq!(ledger.request_preview(at(60), &here, item(100)).expect("again").record, None);
    }
    let next = at(0) + DAY;
    assert_eq!(ledger.request_preview(at(99), &here, item(100 + many)), Err(PreviewRefusal::TooMany(next)));
    assert!(ledger.request_preview(at(99), &box_of(BOB, 2), item(100 + many)).is_ok());
    assert!(ledger.request_preview(next, &here, item(100 + many)).is_ok());
    let seed = Asker { kind: DeviceKind::Seed, ..here };
    assert_eq!(ledger.request_preview(next, &seed, item(100)), Err(PreviewRefusal::NotABox));
}

#[test]
fn replay_and_snapshot_give_the_same_ledger_and_forget_what_is_superseded() {
    let (mut ledger, mut records) = kept();
    let mut note = |at: Utc, record: Option<Record>| records.extend(record.map(|record| (at, record)));
    let here = box_of(ALICE, 1);
    let order = ledger.create_order(at(0), ALICE, key(1), item(8), "rent", order_id(1)).expect("ordered");
    note(at(0), order.record);
    let order = order.reply.id;
    note(at(1), ledger.handle_till(at(1), &news(TillNews::Succeeded, 1, order, ALICE)).expect("paid").record);
    note(at(2), ledger.request_grant(at(2), &here, order).expect("granted").record);
    for n in 3..10 {
        note(at(n), ledger.allow_spans(at(n), &here, order).expect("it plays").record);
    }
    for day in 0..3 {
        let now = at(10) + DAY * day;
        note(now, ledger.request_preview(now, &here, item(8)).expect("for nothing").record);
    }
    let total = ledger.orders[&order].grants()[&device(1)].spans_allowed;
    assert_eq!(total, 7 * u64::from(ALLOWANCE));

    let replay = |records: &[(Utc, Record)]| {
        let mut again = Ledger::new(Config::default());
        records.iter().for_each(|(at, record)| again.apply(*at, record).expect("it fits"));
        again
    };
    assert_eq!(replay(&records), ledger);
    let mut compaction = Compaction::default();
    let numbered = || (0..).zip(&records);
    numbered().for_each(|(number, (_, record))| compaction.note(number, record));
    let kept: Vec<_> = numbered().filter(|(number, (_, record))| compaction.keeps(*number, record, &ledger)).collect();
    let kept: Vec<_> = kept.into_iter().map(|(_, record)| record.clone()).collect();
    assert_eq!(kept.len(), records.len() - 6 - 2, "one allowance and one preview");
    assert_eq!(replay(&kept), ledger);
}
