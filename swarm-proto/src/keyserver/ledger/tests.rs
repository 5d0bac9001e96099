//! The ledger by example, and against a naive model under random histories.

mod rights;

mod spans;

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use proptest::sample::Index;

use super::*;
use crate::catalog::{Currency, Kind, Media, OfferId, OfferKind, Policy};
use crate::geometry::Geometry;
use crate::id::RefundId;
use crate::keyserver::compaction::Compaction;
use crate::limit::Limit;
use crate::membership::DeviceKind;

const PUBLISHER: PublisherId = PublisherId::from_bytes([1; 32]);
pub(super) const ITEM: ItemId = ItemId::from_bytes([2; 32]);
pub(super) const ALICE: AccountId = AccountId::from_bytes([0xa; 16]);
pub(super) const BOB: AccountId = AccountId::from_bytes([0xb; 16]);
pub(super) const PASS: PassId = PassId::from_bytes([7; 32]);
pub(super) const DAY: Duration = Duration::from_secs(24 * 60 * 60);

pub(super) fn at(secs: u64) -> Utc {
    Utc::from_secs(1_000_000 + secs)
}

pub(super) fn money(minor: u64, currency: &str) -> Money {
    Money::new(minor, currency.parse().expect("a currency")).expect("an amount")
}

pub(super) fn offer(id: &str, price: Money, policy: Policy) -> Offer {
    Offer { id: id.parse::<OfferId>().expect("an id"), kind: OfferKind::Rent, price, policy, preview: None }
}

/// Must be started within 30 days, watched within 48 hours, and renewed every day.
pub(super) fn rental() -> Policy {
    Policy {
        start_by: Limit::Of(30 * DAY),
        finish_within: Limit::Of(2 * DAY),
        renew_after: Limit::Of(DAY),
        offline_grace: Limit::Of(DAY),
        ..Policy::UNLIMITED
    }
}

pub(super) fn entry(version: u64, offers: Vec<Offer>) -> CatalogEntry {
    CatalogEntry {
        title: TitleId::from([3; 16]),
        version,
        publisher: PUBLISHER,
        item: ITEM,
        geometry: Geometry::of_plain(40 << 20).expect("a length"),
        commitment: KeyCommitment::from_bytes([4; 32]),
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
        released: at(0),
        expires: Limit::Unlimited,
        offers,
        withdrawn: false,
    }
}

pub(super) fn sealed() -> SealedKey {
    SealedKey::from_bytes([5; SealedKey::LEN])
}

pub(super) fn key(n: usize) -> IdempotencyKey {
    IdempotencyKey::new(&format!("purchase-number-{n:04}")).expect("a key")
}

pub(super) fn order_id(n: usize) -> OrderId {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&(n as u64).to_be_bytes());
    OrderId::from(bytes)
}

pub(super) fn device(n: u8) -> DeviceId {
    DeviceId::from_bytes([n; 32])
}

pub(super) fn box_of(account: AccountId, n: u8) -> Asker {
    Asker { account, device: device(n), kind: DeviceKind::Box }
}

pub(super) fn news(what: TillNews, id: u8, order: OrderId, account: AccountId) -> TillEvent {
    TillEvent { id: EventId::from_bytes([id; 32]), what, order, account, amount: money(299, "EUR") }
}

/// A ledger with one item: a rental for money, a rental for two credits, one shown only from day 10 to day 20.
pub(super) fn shop() -> Ledger {
    shop_with(Config::default())
}

pub(super) fn shop_with(config: Config) -> Ledger {
    let mut ledger = Ledger::new(config);
    let premiere =
        Policy { not_before: Limit::Of(at(0) + 10 * DAY), not_after: Limit::Of(at(0) + 20 * DAY), ..rental() };
    let credits = Money::new(2, Currency::CREDITS).expect("an amount");
    let offers = vec![
        offer("rent", money(299, "EUR"), rental()),
        offer("pass", credits, rental()),
        offer("premiere", money(299, "EUR"), premiere),
    ];
    let _ = ledger.admit_publisher(at(0), PUBLISHER, "Acme").expect("admitted");
    let _ = ledger.deposit(at(0), &entry(1, offers), sealed()).expect("deposited");
    ledger
}

/// The records of a [`shop`].
pub(super) fn opening() -> Vec<(Utc, Record)> {
    let item = shop().items[&ITEM].clone();
    let Item { publisher, title, commitment, n_spans, terms, key } = item;
    vec![
        (at(0), Record::PublisherAdmitted { publisher, name: "Acme".to_owned() }),
        (at(0), Record::KeyDeposited { item: ITEM, publisher, title, commitment, n_spans, terms, key }),
    ]
}

pub(super) fn ordered(ledger: &mut Ledger, n: usize, offer: &str) -> OrderId {
    ledger.create_order(at(0), ALICE, key(n), ITEM, offer, order_id(n)).expect("ordered").reply.id
}

pub(super) fn whole(reason: &str) -> Refunding {
    Refunding::whole(Reason::new(reason).expect("a reason"))
}

pub(super) fn refund_id(n: usize) -> RefundId {
    RefundId::from(*order_id(n).as_bytes())
}

pub(super) fn paid(ledger: &mut Ledger, n: usize, offer: &str) -> OrderId {
    let order = ordered(ledger, n, offer);
    assert!(!ledger.handle_till(at(1), &news(TillNews::Succeeded, n as u8, order, ALICE)).expect("paid").reply);
    order
}

#[test]
fn key_does_not_leave_before_payment_clears() {
    let mut ledger = shop();
    let order = ordered(&mut ledger, 1, "rent");
    assert_eq!(ledger.request_grant(at(1), &box_of(ALICE, 1), order), Err(GrantRefusal::PaymentRequired));
    let _ = ledger.handle_till(at(2), &news(TillNews::Succeeded, 1, order, ALICE)).expect("paid");
    let answer = ledger.request_grant(at(3), &box_of(ALICE, 1), order).expect("granted");
    assert_eq!(answer.record, Some(Record::Granted { order, device: device(1), serial: 1 }));
    let licence = answer.reply.licence;
    assert_eq!((licence.serial, licence.device, licence.spans), (1, device(1), 0..3));
    assert_eq!(licence.start_by, Limit::Of(at(3) + 30 * DAY));
    assert_eq!(answer.reply.key, sealed());
}

#[test]
fn asking_again_gives_the_same_licence_and_writes_nothing() {
    let mut ledger = shop();
    let order = paid(&mut ledger, 1, "rent");
    let first = ledger.request_grant(at(2), &box_of(ALICE, 1), order).expect("granted");
    let again = ledger.request_grant(at(60_000), &box_of(ALICE, 1), order).expect("granted");
    assert_eq!((again.record, again.reply), (None, first.reply));
}

#[test]
fn a_renewal_brings_a_later_date_and_moves_nothing_else() {
    let mut ledger = shop();
    let order = paid(&mut ledger, 1, "rent");
    let first = ledger.request_grant(at(2), &box_of(ALICE, 1), order).expect("granted").reply.licence;
    let later = at(2) + DAY;
    let renewed = ledger.request_grant(later, &box_of(ALICE, 1), order).expect("renewed");
    assert_eq!(renewed.record, Some(Record::LicenceRenewed { order, device: device(1) }));
    let licence = renewed.reply.licence;
    assert_eq!(licence.issued, later);
    assert_eq!((licence.serial, licence.start_by), (first.serial, first.start_by));
}

#[test]
fn second_device_of_the_household_does_not_move_the_start() {
    let mut ledger = shop();
    let order = paid(&mut ledger, 1, "rent");
    let first = ledger.request_grant(at(2), &box_of(ALICE, 1), order).expect("granted").reply.licence;
    let second = ledger.request_grant(at(2) + DAY, &box_of(ALICE, 2), order).expect("granted").reply.licence;
    assert_eq!(second.serial, 2);
    assert_eq!(second.start_by, first.start_by);
}

#[test]
fn key_leaves_for_so_many_devices_and_no_more() {
    let mut ledger = shop();
    let order = paid(&mut ledger, 1, "rent");
    for n in 1..=4 {
        let _ = ledger.request_grant(at(2), &box_of(ALICE, n), order).expect("granted");
    }
    assert_eq!(ledger.request_grant(at(2), &box_of(ALICE, 5), order), Err(GrantRefusal::TooManyDevices(4)));
    assert!(ledger.request_grant(at(2), &box_of(ALICE, 1), order).is_ok(), "those that have it may ask again");
}

#[test]
fn key_leaves_only_for_boxes_of_the_account_that_paid() {
    let mut ledger = shop();
    let order = paid(&mut ledger, 1, "rent");
    assert_eq!(ledger.request_grant(at(2), &box_of(BOB, 1), order), Err(GrantRefusal::OtherAccount));
    let seed = Asker { kind: DeviceKind::Seed, ..box_of(ALICE, 1) };
    assert_eq!(ledger.request_grant(at(2), &seed, order), Err(GrantRefusal::NotABox));
    assert_eq!(ledger.request_grant(at(2), &box_of(ALICE, 1), order_id(9)), Err(GrantRefusal::NoSuchOrder));
    assert_eq!(ledger.order(&BOB, &order), Err(LookRefusal::OtherAccount));
}

#[test]
fn key_leaves_only_inside_the_viewing_period() {
    let mut ledger = shop();
    let order = paid(&mut ledger, 1, "premiere");
    let (begin, end) = (at(0) + 10 * DAY, at(0) + 20 * DAY);
    let second = Duration::from_secs(1);
    let asker = box_of(ALICE, 1);
    assert_eq!(ledger.request_grant(begin.minus(second), &asker, order), Err(GrantRefusal::TooEarly(begin)));
    assert!(ledger.request_grant(begin, &asker, order).is_ok());
    assert!(ledger.request_grant(end.minus(second), &asker, order).is_ok());
    assert_eq!(ledger.request_grant(end, &asker, order), Err(GrantRefusal::TooLate(end)));
    assert_eq!(ledger.request_grant(end + second, &box_of(ALICE, 2), order), Err(GrantRefusal::TooLate(end)));
    let late = ledger.create_order(end, ALICE, key(2), ITEM, "premiere", order_id(2));
    assert_eq!(late.map(|answer| answer.reply), Err(OrderRefusal::OfferOver(end)));
}

#[test]
fn nothing_leaves_when_nothing_can_be_watched_any_more() {
    let mut ledger = shop();
    let order = paid(&mut ledger, 1, "rent");
    let _ = ledger.request_grant(at(2), &box_of(ALICE, 1), order).expect("granted");
    let end = at(2) + 32 * DAY;
    assert!(ledger.request_grant(end.minus(Duration::from_secs(1)), &box_of(ALICE, 1), order).is_ok());
    assert_eq!(ledger.request_grant(end, &box_of(ALICE, 2), order), Err(GrantRefusal::TooLate(end)));
}

#[test]
fn same_idempotency_key_is_the_same_order_or_a_conflict() {
    let mut ledger = shop();
    let first = ordered(&mut ledger, 1, "rent");
    let again = ledger.create_order(at(5), ALICE, key(1), ITEM, "rent", order_id(2)).expect("the same");
    assert_eq!((again.record, again.reply.id), (None, first));
    let other = ledger.create_order(at(5), ALICE, key(1), ITEM, "pass", order_id(2));
    assert_eq!(other, Err(OrderRefusal::KeyReused));
    let of_bob = ledger.create_order(at(5), BOB, key(1), ITEM, "rent", order_id(2)).expect("his own");
    assert_eq!(of_bob.reply.id, order_id(2));
}

#[test]
fn news_of_a_till_has_to_agree_with_the_order() {
    let mut ledger = shop();
    let order = ordered(&mut ledger, 1, "rent");
    let before = ledger.clone();
    let right = news(TillNews::Succeeded, 1, order, ALICE);
    let wrong = [
        (TillEvent { account: BOB, ..right.clone() }, TillRefusal::OtherAccount),
        (TillEvent { amount: money(1, "EUR"), ..right.clone() }, TillRefusal::OtherAmount),
        (TillEvent { amount: money(299, "USD"), ..right.clone() }, TillRefusal::OtherAmount),
        (TillEvent { order: order_id(9), ..right.clone() }, TillRefusal::NoSuchOrder),
    ];
    for (event, refusal) in wrong {
        assert_eq!(ledger.handle_till(at(1), &event), Err(refusal));
    }
    assert_eq!(ledger, before);
    assert!(!ledger.handle_till(at(1), &right).expect("paid").reply);
    assert_eq!(ledger.handle_till(at(2), &right), Ok(Answer { record: None, reply: true }));
    let reused = TillEvent { what: TillNews::Refunded, ..right };
    assert_eq!(ledger.handle_till(at(3), &reused), Err(TillRefusal::EventReused));
}

#[test]
fn refund_before_payment_still_wins() {
    let mut ledger = shop();
    let order = ordered(&mut ledger, 1, "rent");
    let _ = ledger.handle_till(at(1), &news(TillNews::Refunded, 1, order, ALICE)).expect("refunded");
    let _ = ledger.handle_till(at(2), &news(TillNews::Succeeded, 2, order, ALICE)).expect("known");
    assert_eq!(ledger.request_grant(at(3), &box_of(ALICE, 1), order), Err(GrantRefusal::OrderRefunded));
}

#[test]
fn refund_after_the_grant_stops_further_grants() {
    let mut ledger = shop();
    let order = paid(&mut ledger, 1, "rent");
    let _ = ledger.request_grant(at(2), &box_of(ALICE, 1), order).expect("granted");
    let _ = ledger.refund(at(3), order, whole("charged back"), refund_id(1)).expect("refunded");
    assert_eq!(ledger.refund(at(4), order, whole("charged back"), refund_id(2)).expect("refunded").record, None);
    for n in [1, 2] {
        assert_eq!(ledger.request_grant(at(5), &box_of(ALICE, n), order), Err(GrantRefusal::OrderRefunded));
    }
}

#[test]
fn unpaid_orders_expire_and_late_money_still_counts() {
    let mut ledger = shop();
    let order = ordered(&mut ledger, 1, "rent");
    let late = at(0) + DAY;
    let _ = ledger.create_pass(at(0), PASS, 5, 30 * DAY).expect("sold");
    assert_eq!(ledger.request_grant(late, &box_of(ALICE, 1), order), Err(GrantRefusal::OrderExpired));
    assert_eq!(ledger.pay_with_pass(late, &ALICE, order, PASS), Err(PayRefusal::Expired));
    let _ = ledger.handle_till(late, &news(TillNews::Succeeded, 1, order, ALICE)).expect("paid");
    assert!(ledger.request_grant(late, &box_of(ALICE, 1), order).is_ok());
}

#[test]
fn unpaid_orders_are_forgotten_long_after_they_expired_and_paid_ones_never() {
    let mut ledger = shop();
    let (unpaid, settled) = (ordered(&mut ledger, 1, "rent"), paid(&mut ledger, 2, "rent"));
    let keep = 30 * DAY;
    let last = at(0) + DAY + keep;
    assert_eq!(ledger.forget_unpaid(last, keep), Answer::unchanged(0), "its answer is still kept");
    let again = ledger.create_order(last, ALICE, key(1), ITEM, "rent", order_id(3)).expect("the same");
    assert_eq!(again.reply.id, unpaid);
    let forgotten = ledger.forget_unpaid(last + Duration::from_millis(1), keep);
    assert!(matches!(forgotten, Answer { record: Some(Record::OrdersForgotten { .. }), reply: 1 }));
    assert_eq!((ledger.knows(&unpaid), ledger.knows(&settled)), (false, true));
    let anew = ledger.create_order(last, ALICE, key(1), ITEM, "rent", order_id(3)).expect("ordered");
    assert_eq!(anew.reply.id, order_id(3), "the idempotency key is free again");
    let late = news(TillNews::Succeeded, 9, unpaid, ALICE);
    assert_eq!(ledger.handle_till(last, &late), Err(TillRefusal::NoSuchOrder), "the till hears that it is not known");
    assert_eq!(ledger.all_orders(None).count(), 2);
}

#[test]
fn a_snapshot_keeps_the_last_of_what_is_replaced_and_nothing_of_what_is_forgotten() {
    let mut ledger = shop();
    let mut history = opening();
    let mut write = |at: Utc, record: Option<Record>| history.push((at, record.expect("something has happened")));
    let created = ledger.create_order(at(0), ALICE, key(1), ITEM, "rent", order_id(1)).expect("ordered");
    write(at(0), created.record);
    let created = ledger.create_order(at(0), ALICE, key(2), ITEM, "rent", order_id(2)).expect("ordered");
    write(at(0), created.record);
    ledger.create_pass(at(0), PASS, 1, DAY).map(|answer| write(at(0), answer.record)).expect("sold");
    let redeemed = ledger.pay_with_pass(at(1), &ALICE, order_id(2), PASS).expect("paid");
    write(at(1), redeemed.record);
    write(at(2), ledger.request_grant(at(2), &box_of(ALICE, 1), order_id(2)).expect("granted").record);
    for days in 1..=9 {
        let renewed = ledger.request_grant(at(2) + days * DAY, &box_of(ALICE, 1), order_id(2)).expect("renewed");
        write(at(2) + days * DAY, renewed.record);
    }
    let later = at(2) + 31 * DAY;
    write(later, ledger.forget_unpaid(later, 29 * DAY).record);
    assert_eq!(history.len(), 17);
    let mut compaction = Compaction::default();
    (1..).zip(&history).for_each(|(number, (_, record))| compaction.note(number, record));
    let kept = (1..).zip(&history).filter(|(number, (_, record))| compaction.keeps(*number, record, &ledger)).count();
    assert_eq!(kept, 7, "two of the opening, order, pass, redemption, grant and one renewal");
    assert_eq!(compacted(&history, &ledger), ledger);
}

#[test]
fn pass_pays_one_credit_for_money_offers_and_the_price_for_credit_offers() {
    let mut ledger = shop();
    let _ = ledger.create_pass(at(0), PASS, 3, DAY).expect("sold");
    let (one, two) = (ordered(&mut ledger, 1, "rent"), ordered(&mut ledger, 2, "pass"));
    let _ = ledger.pay_with_pass(at(1), &ALICE, two, PASS).expect("paid");
    assert_eq!(ledger.pass(&PASS).map(Pass::credits_left), Some(1));
    let _ = ledger.pay_with_pass(at(1), &ALICE, one, PASS).expect("paid");
    assert_eq!(ledger.pass(&PASS).map(Pass::credits_left), Some(0));
    let three = ordered(&mut ledger, 3, "rent");
    assert_eq!(ledger.pay_with_pass(at(1), &ALICE, three, PASS), Err(PayRefusal::PassEmpty { left: 0, cost: 1 }));
    let _ = ledger.refund(at(2), two, whole("sorry"), refund_id(1)).expect("refunded");
    assert_eq!(ledger.pass(&PASS).map(Pass::credits_left), Some(2), "credits of a refunded order come back");
}

#[test]
fn paying_twice_with_a_pass_takes_one_credit() {
    let mut ledger = shop();
    let _ = ledger.create_pass(at(0), PASS, 3, DAY).expect("sold");
    let order = ordered(&mut ledger, 1, "rent");
    let _ = ledger.pay_with_pass(at(1), &ALICE, order, PASS).expect("paid");
    assert_eq!(ledger.pay_with_pass(at(2), &ALICE, order, PASS).expect("paid").record, None);
    assert_eq!(ledger.pass(&PASS).map(Pass::credits_left), Some(2));
}

#[test]
fn pass_that_is_unknown_expired_or_someone_elses_order_does_not_pay() {
    let mut ledger = shop();
    let _ = ledger.create_pass(at(0), PASS, 3, Duration::from_secs(10)).expect("sold");
    let order = ordered(&mut ledger, 1, "rent");
    let unknown = PassId::from_bytes([8; 32]);
    assert_eq!(ledger.pay_with_pass(at(1), &ALICE, order, unknown), Err(PayRefusal::WrongCode));
    assert_eq!(ledger.pay_with_pass(at(10), &ALICE, order, PASS), Err(PayRefusal::PassExpired(at(10))));
    assert_eq!(ledger.pay_with_pass(at(1), &BOB, order, PASS), Err(PayRefusal::Look(LookRefusal::OtherAccount)));
}

#[test]
fn second_payment_of_an_order_is_remembered_for_whoever_gives_it_back() {
    let mut ledger = shop();
    let order = paid(&mut ledger, 1, "rent");
    let _ = ledger.handle_till(at(2), &news(TillNews::Succeeded, 2, order, ALICE)).expect("taken");
    assert_eq!(ledger.order(&ALICE, &order).map(|order| order.overpayments().len()), Ok(1));
    assert_eq!(ledger.totals(at(2)).overpaid, 1);
    for id in 3..=MAX_PAYMENTS as u8 {
        let _ = ledger.handle_till(at(2), &news(TillNews::Succeeded, id, order, ALICE)).expect("taken");
    }
    let one_more = news(TillNews::Succeeded, 200, order, ALICE);
    assert_eq!(ledger.handle_till(at(2), &one_more), Err(TillRefusal::TooMany));
}

#[test]
fn deposits_are_idempotent_and_never_swap_a_key() {
    let mut ledger = shop();
    let known = entry(1, ledger.item(&ITEM).expect("deposited").terms.offers.clone());
    assert_eq!(ledger.deposit(at(1), &known, sealed()), Ok(Answer { record: None, reply: true }));
    let other_key = CatalogEntry { commitment: KeyCommitment::from_bytes([9; 32]), ..known.clone() };
    assert_eq!(ledger.deposit(at(1), &other_key, sealed()), Err(DepositRefusal::OtherKey));
    let stranger = CatalogEntry { publisher: PublisherId::from_bytes([9; 32]), ..known.clone() };
    assert_eq!(ledger.deposit(at(1), &stranger, sealed()), Err(DepositRefusal::NotAdmitted));
    let other_title = CatalogEntry { title: TitleId::from([9; 16]), ..known.clone() };
    assert_eq!(ledger.deposit(at(1), &other_title, sealed()), Err(DepositRefusal::OtherTitle));
    let same_version = CatalogEntry { offers: Vec::new(), ..known };
    assert_eq!(ledger.deposit(at(1), &same_version, sealed()), Err(DepositRefusal::OldVersion(1)));
}

#[test]
fn new_offers_bind_new_orders_only() {
    let mut ledger = shop();
    let order = paid(&mut ledger, 1, "rent");
    let withdrawn = CatalogEntry { withdrawn: true, ..entry(2, vec![offer("rent", money(499, "EUR"), rental())]) };
    let changed = ledger.deposit(at(2), &withdrawn, sealed()).expect("taken");
    assert!(matches!(changed, Answer { record: Some(Record::TermsChanged { .. }), reply: true }));
    let refused = ledger.create_order(at(3), ALICE, key(2), ITEM, "rent", order_id(2));
    assert_eq!(refused, Err(OrderRefusal::NoSuchOffer));
    assert!(ledger.request_grant(at(3), &box_of(ALICE, 1), order).is_ok(), "bought rights stay");
    assert_eq!(ledger.deposit(at(4), &entry(1, Vec::new()), sealed()), Err(DepositRefusal::OldVersion(2)));
}

#[test]
fn everything_is_bounded() {
    let config = Config {
        max_orders: 3,
        max_open_orders_per_account: 2,
        max_passes: 1,
        max_publishers: 1,
        max_items: 1,
        ..Config::default()
    };
    let mut ledger = shop_with(config);
    ordered(&mut ledger, 1, "rent");
    ordered(&mut ledger, 2, "rent");
    let third = ledger.create_order(at(0), ALICE, key(3), ITEM, "rent", order_id(3));
    assert_eq!(third, Err(OrderRefusal::TooManyOpen(2)));
    let _ = ledger.create_order(at(0), BOB, key(3), ITEM, "rent", order_id(3)).expect("ordered");
    let fourth = ledger.create_order(at(0) + DAY, ALICE, key(4), ITEM, "rent", order_id(4));
    assert_eq!(fourth, Err(OrderRefusal::Full(Full { what: "orders", limit: 3 })));
    let _ = ledger.create_pass(at(0), PASS, 1, DAY).expect("sold");
    assert!(ledger.create_pass(at(0), PassId::from_bytes([8; 32]), 1, DAY).is_err());
    assert!(ledger.admit_publisher(at(0), PublisherId::from_bytes([8; 32]), "Other").is_err());
    let other = CatalogEntry { item: ItemId::from_bytes([8; 32]), ..entry(1, Vec::new()) };
    assert!(ledger.deposit(at(0), &other, sealed()).is_err());
}

#[test]
fn lists_go_on_where_they_ended() {
    let mut ledger = shop();
    for n in 0..5 {
        ordered(&mut ledger, n, "rent");
    }
    let first: Vec<_> = ledger.orders_of(&ALICE, None).take(2).map(|(place, order)| (place, order.id)).collect();
    assert_eq!(first, [(4, order_id(4)), (3, order_id(3))]);
    let rest: Vec<_> = ledger.orders_of(&ALICE, Some(3)).map(|(_, order)| order.id).collect();
    assert_eq!(rest, [order_id(2), order_id(1), order_id(0)]);
    assert_eq!(ledger.orders_of(&BOB, Some(usize::MAX)).count(), 0);
}

#[test]
fn records_that_contradict_the_ledger_are_refused() {
    let order = order_id(1);
    let granted = Record::Granted { order, device: device(1), serial: 1 };
    let mut ledger = shop();
    assert_eq!(ledger.apply(at(1), &granted), Err(NO_ORDER));
    ordered(&mut ledger, 1, "rent");
    assert_eq!(ledger.apply(at(1), &granted), Err(Contradiction("a key left for an order that is not paid")));
    let redeemed = Record::PassRedeemed { order, pass: PASS, credits: 6 };
    let _ = ledger.create_pass(at(1), PASS, 5, DAY).expect("sold");
    assert_eq!(ledger.apply(at(1), &redeemed), Err(Contradiction("the pass does not hold that many credits")));
}

/// What may be asked of a ledger, in any order, with small numbers so that things meet.
#[derive(Debug, Clone)]
enum Step {
    Wait { hours: u64 },
    CreatePass { pass: u8, credits: u32 },
    Order { account: AccountId, key: usize, offer: &'static str },
    PayWithPass { account: AccountId, order: Index, pass: u8 },
    Till { what: TillNews, event: u8, order: Index, honest: bool },
    Refund { order: Index },
    Grant { account: AccountId, device: u8, order: Index },
    ForgetUnpaid { days: u64 },
    Play { account: AccountId, device: u8, order: Index, hours_ago: u64 },
    Replace { account: AccountId, device: u8, lost: u8, order: Index },
}

fn account() -> impl Strategy<Value = AccountId> {
    prop_oneof![Just(ALICE), Just(BOB)]
}

fn step() -> impl Strategy<Value = Step> {
    let offer = prop_oneof![Just("rent"), Just("pass"), Just("premiere")];
    let what = prop_oneof![3 => Just(TillNews::Succeeded), 1 => Just(TillNews::Refunded)];
    prop_oneof![
        2 => (1..60u64).prop_map(|hours| Step::Wait { hours }),
        1 => (0..3u8, 1..4u32).prop_map(|(pass, credits)| Step::CreatePass { pass, credits }),
        4 => (account(), 0..12usize, offer).prop_map(|(account, key, offer)| Step::Order { account, key, offer }),
        4 => (account(), any::<Index>(), 0..4u8).prop_map(|(account, order, pass)| Step::PayWithPass { account, order, pass }),
        4 => (what, 0..20u8, any::<Index>(), prop::bool::weighted(0.8))
            .prop_map(|(what, event, order, honest)| Step::Till { what, event, order, honest }),
        1 => any::<Index>().prop_map(|order| Step::Refund { order }),
        6 => (account(), 0..6u8, any::<Index>()).prop_map(|(account, device, order)| Step::Grant { account, device, order }),
        1 => (0..3u64).prop_map(|days| Step::ForgetUnpaid { days }),
        2 => (account(), 0..6u8, any::<Index>(), 0..100u64)
            .prop_map(|(account, device, order, hours_ago)| Step::Play { account, device, order, hours_ago }),
        2 => (account(), 0..6u8, 0..6u8, any::<Index>())
            .prop_map(|(account, device, lost, order)| Step::Replace { account, device, lost, order }),
    ]
}

/// What is remembered of acknowledged answers only, kept as stupidly as possible.
#[derive(Default)]
struct Model {
    orders: BTreeMap<OrderId, AccountId>,
    paid: BTreeSet<OrderId>,
    refunded: BTreeSet<OrderId>,
    serials: BTreeMap<(OrderId, DeviceId), u64>,
    taken_back: BTreeMap<u64, DeviceId>,
    first_plays: BTreeMap<OrderId, Utc>,
    bought: BTreeMap<PassId, u32>,
    spent: BTreeMap<OrderId, (PassId, u32)>,
}

impl Model {
    fn nth(&self, order: Index) -> Option<OrderId> {
        (!self.orders.is_empty()).then(|| *order.get(&self.orders.keys().copied().collect::<Vec<_>>()))
    }

    fn used(&self, pass: &PassId) -> u32 {
        let unrefunded = self.spent.iter().filter(|(order, _)| !self.refunded.contains(order));
        unrefunded.filter(|(_, (by, _))| by == pass).map(|(_, (_, credits))| credits).sum()
    }
}

/// The ledger that the records make which compaction keeps.
pub(super) fn compacted(history: &[(Utc, Record)], whole: &Ledger) -> Ledger {
    let numbered = || (1..).zip(history);
    let mut compaction = Compaction::default();
    numbered().for_each(|(number, (_, record))| compaction.note(number, record));
    let mut ledger = Ledger::new(whole.config.clone());
    for (_, (at, record)) in numbered().filter(|(number, (_, record))| compaction.keeps(*number, record, whole)) {
        ledger.apply(*at, record).expect("what is kept fits together");
    }
    ledger
}

/// A history takes a tenth of a millisecond; PROPTEST_CASES asks for more.
pub(super) fn many() -> ProptestConfig {
    let config = ProptestConfig::default();
    ProptestConfig { cases: config.cases.max(10_000), ..config }
}

proptest! {
    #![proptest_config(many())]

    #[test]
    fn no_history_breaks_an_invariant_and_replay_gives_the_same_ledger(steps in prop::collection::vec(step(), 1..120)) {
        let mut ledger = shop();
        let mut replayed = shop();
        let mut history = opening();
        let mut model = Model::default();
        let mut now = at(0);
        for (n, step) in steps.into_iter().enumerate() {
            let record = match step {
                Step::Wait { hours } => {
                    now = now + Duration::from_secs(hours * 3600);
                    None
                }
                Step::CreatePass { pass, credits } => {
                    let pass = PassId::from_bytes([pass; 32]);
                    if model.bought.contains_key(&pass) {
                        continue; // A fresh code never meets an old one.
                    }
                    model.bought.insert(pass, credits);
                    ledger.create_pass(now, pass, credits, 5 * DAY).expect("room").record
                }
                Step::Order { account, key: number, offer } => {
                    match ledger.create_order(now, account, key(number), ITEM, offer, order_id(n)) {
                        Ok(answer) => {
                            prop_assert_eq!(answer.record.is_some(), answer.reply.id == order_id(n));
                            model.orders.insert(answer.reply.id, account);
                            answer.record
                        }
                        Err(_) => None,
                    }
                }
                Step::PayWithPass { account, order, pass } => {
                    let Some(order) = model.nth(order) else { continue };
                    let pass = PassId::from_bytes([pass; 32]);
                    match ledger.pay_with_pass(now, &account, order, pass) {
                        Ok(answer) => {
                            prop_assert_eq!(model.orders[&order], account);
                            prop_assert_eq!(answer.record.is_none(), model.paid.contains(&order));
                            if let Some(Record::PassRedeemed { credits, .. }) = answer.record {
                                model.spent.insert(order, (pass, credits));
                            }
                            model.paid.insert(order);
                            answer.record
                        }
                        Err(_) => None,
                    }
                }
                Step::Till { what, event, order, honest } => {
                    let Some(order) = model.nth(order) else { continue };
                    let found = ledger.orders[&order].clone();
                    let amount = if honest { found.price } else { money(1, "USD") };
                    let event = TillEvent { amount, ..news(what, event, order, found.account) };
                    match ledger.handle_till(now, &event) {
                        Ok(answer) => {
                            prop_assert!(honest);
                            let facts = if what == TillNews::Succeeded { &mut model.paid } else { &mut model.refunded };
                            facts.insert(order);
                            answer.record
                        }
                        Err(_) => None,
                    }
                }
                Step::Refund { order } => {
                    let Some(order) = model.nth(order) else { continue };
                    model.refunded.insert(order);
                    ledger.refund(now, order, whole("a mistake"), refund_id(n)).expect("there").record
                }
                Step::Grant { account, device: number, order } => {
                    let Some(order) = model.nth(order) else { continue };
                    match ledger.request_grant(now, &box_of(account, number), order) {
                        Ok(answer) => {
                            let licence = &answer.reply.licence;
                            prop_assert!(model.paid.contains(&order) && !model.refunded.contains(&order), "I2: unpaid");
                            prop_assert_eq!(model.orders[&order], account);
                            prop_assert!(licence.not_before.bound().is_none_or(|begin| begin <= now), "I4: early");
                            prop_assert!(licence.not_after.bound().is_none_or(|end| now < end), "I4: late");
                            let serial = *model.serials.entry((order, device(number))).or_insert(licence.serial);
                            prop_assert_eq!(serial, licence.serial, "I2: one grant for each order and device");
                            prop_assert!(!model.taken_back.contains_key(&licence.serial), "what was taken back does not leave again");
                            prop_assert_eq!(licence.first_play, model.first_plays.get(&order).copied());
                            let live = model.serials.keys().filter(|(of, _)| *of == order).count();
                            prop_assert!(live <= Config::default().max_devices_per_order);
                            answer.record
                        }
                        Err(_) => None,
                    }
                }
                Step::Play { account, device: number, order, hours_ago } => {
                    let Some(order) = model.nth(order) else { continue };
                    let said = now.minus(Duration::from_secs(hours_ago * 3600));
                    match ledger.report_play(now, &box_of(account, number), order, said) {
                        Ok(answer) => {
                            prop_assert!(model.serials.contains_key(&(order, device(number))));
                            if let Some(Record::FirstPlayed { first_play, .. }) = &answer.record {
                                prop_assert!(*first_play <= now);
                                prop_assert_eq!(model.first_plays.insert(order, *first_play), None, "told once");
                            }
                            answer.record
                        }
                        Err(_) => None,
                    }
                }
                Step::Replace { account, device: number, lost, order } => {
                    let Some(order) = model.nth(order) else { continue };
                    match ledger.replace_device(now, &box_of(account, number), order, device(lost)) {
                        Ok(answer) => {
                            prop_assert_eq!(model.orders[&order], account);
                            let serial = model.serials.remove(&(order, device(lost))).expect("it had a key");
                            model.taken_back.insert(serial, device(lost));
                            answer.record
                        }
                        Err(_) => None,
                    }
                }
                Step::ForgetUnpaid { days } => {
                    let Answer { record, reply } = ledger.forget_unpaid(now, days as u32 * DAY);
                    let before = model.orders.len();
                    let forgotten: BTreeSet<_> = model.orders.keys().filter(|order| !ledger.knows(order)).copied().collect();
                    prop_assert!(forgotten.is_disjoint(&model.paid) && forgotten.is_disjoint(&model.refunded), "I1: unpaid only");
                    model.orders.retain(|order, _| !forgotten.contains(order));
                    prop_assert_eq!(before - model.orders.len(), reply);
                    record
                }
            };
            if let Some(record) = record {
                prop_assert_eq!(replayed.apply(now, &record), Ok(()));
                history.push((now, record));
            }
            for (order, account) in &model.orders {
                prop_assert!(ledger.order(account, order).is_ok(), "I1: an acknowledged order is found");
            }
            for (pass, bought) in &model.bought {
                let left = ledger.pass(pass).expect("sold").credits_left();
                prop_assert_eq!(left, bought - model.used(pass), "I3: left = bought - used");
            }
            let distinct: BTreeSet<_> = model.serials.values().chain(model.taken_back.keys()).collect();
            let all = model.serials.len() + model.taken_back.len();
            prop_assert_eq!(distinct.len(), all, "no two licences share a number");
            for (serial, device) in &model.taken_back {
                let list = ledger.revocations(now, device).expect("it has lost something");
                prop_assert!(list.serials.contains(serial), "what was taken back is on the device's list");
            }
        }
        prop_assert_eq!(&compacted(&history, &ledger), &ledger, "a snapshot stands for its history");
        prop_assert_eq!(replayed, ledger);
    }

    #[test]
    fn records_survive_being_written(steps in prop::collection::vec(step(), 1..40)) {
        let mut ledger = shop();
        for (n, step) in steps.into_iter().enumerate() {
            if let Step::Order { account, key: number, offer } = step
                && let Ok(Answer { record: Some(record), .. }) = ledger.create_order(at(0), account, key(number), ITEM, offer, order_id(n))
            {
                let text = serde_json::to_string(&record).expect("serializes");
                prop_assert_eq!(serde_json::from_str::<Record>(&text).expect("reads back"), record);
            }
        }
    }
}
