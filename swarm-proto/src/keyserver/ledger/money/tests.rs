//! Providers, bills, refunds, disputes and bought passes by example, and all of them against a naive model.

use std::collections::BTreeMap;

use proptest::prelude::*;
use proptest::sample::Index as Pick;

use super::super::tests::*;
use super::*;
use crate::keyserver::record::Label;
use crate::limit::Limit;

const CAROL: AccountId = AccountId::from_bytes([0xc; 16]);

fn attempt(n: usize) -> AttemptId {
    AttemptId::from(*order_id(n).as_bytes())
}

fn card() -> Card {
    let (label, method) = (Label::new("Visa ending in 4242"), Reference::new("pm_1"));
    Card { label: label.expect("a label"), method: method.expect("a name"), customer: None }
}

fn begun(ledger: &mut Ledger, n: usize) -> (OrderId, AttemptId) {
    let order = ordered(ledger, n, "rent");
    let answer = ledger.begin_payment(at(1), &ALICE, order, Method::Card(card()), attempt(n)).expect("begun");
    assert!(answer.record.is_some());
    (order, attempt(n))
}

fn says(ledger: &mut Ledger, attempt: AttemptId, news: ProviderNews) -> Result<bool, ProviderRefusal> {
    ledger.handle_provider(at(2), attempt, news).map(|answer| {
        assert_eq!(answer.record.is_none(), answer.reply, "what is known is not written again");
        answer.reply
    })
}

fn collected() -> ProviderNews {
    ProviderNews::Collected(money(299, "EUR"))
}

fn named(ledger: &mut Ledger, attempt: AttemptId) {
    let reference = Reference::new("pi_1").expect("a name");
    assert_eq!(says(ledger, attempt, ProviderNews::Named(reference)), Ok(false));
}

fn state(ledger: &Ledger, order: OrderId) -> OrderState {
    ledger.state(at(2), ledger.any_order(&order).expect("there"))
}

fn part(minor: u64, keeps_rights: bool) -> Refunding {
    Refunding { minor: Some(minor), keeps_rights, ..whole("a scratch in the picture") }
}

fn ten_titles() -> PassOffer {
    let id = "ten".parse().expect("an id");
    PassOffer { id, holds: Holds::Credits(10), valid: 90 * DAY, price: money(1_990, "EUR") }
}

fn bought_pass(ledger: &mut Ledger, gift: bool) -> (OrderId, PassId) {
    let pass = PassId::from_bytes([77; 32]);
    let order = ledger
        .create_pass_order(at(0), ALICE, key(77), &ten_titles(), gift, pass, order_id(77))
        .expect("ordered")
        .reply
        .id;
    assert_eq!(ledger.pass(&pass), None, "nothing is sold before it is paid");
    let paid = TillEvent { amount: money(1_990, "EUR"), ..news(TillNews::Succeeded, 77, order, ALICE) };
    let _ = ledger.handle_till(at(1), &paid).expect("paid");
    (order, pass)
}

fn eur(minor: u64) -> CreditLimit {
    CreditLimit { minor, currency: "EUR".parse().expect("a currency") }
}

#[test]
fn while_one_payment_is_under_way_there_is_no_second() {
    let mut ledger = shop();
    let (order, first) = begun(&mut ledger, 1);
    let again = ledger.begin_payment(at(1), &ALICE, order, Method::Card(card()), attempt(2)).expect("the same");
    assert_eq!(again.record, None);
    assert_eq!(says(&mut ledger, first, ProviderNews::Declined(Decline::Funds)), Ok(false));
    assert_eq!(state(&ledger, order), OrderState::Pending, "nothing was charged, and one may try again");
    let second = ledger.begin_payment(at(3), &ALICE, order, Method::Card(card()), attempt(2)).expect("begun");
    assert!(second.record.is_some());
    assert_eq!(says(&mut ledger, attempt(2), collected()), Ok(false));
    assert_eq!(state(&ledger, order), OrderState::Paid);
}

#[test]
fn tries_to_pay_are_bounded_for_an_order_and_in_all() {
    let mut ledger = shop_with(Config { max_open_payments: 1, ..Config::default() });
    let (order, first) = begun(&mut ledger, 1);
    let other = ordered(&mut ledger, 50, "rent");
    let busy = ledger.begin_payment(at(1), &ALICE, other, Method::Card(card()), attempt(50));
    assert_eq!(busy, Err(PayRefusal::Busy(1)));
    assert_eq!(says(&mut ledger, first, ProviderNews::Declined(Decline::Refused)), Ok(false));
    for n in 2..=MAX_ATTEMPTS {
        let _ = ledger.begin_payment(at(1), &ALICE, order, Method::Card(card()), attempt(n)).expect("begun");
        assert_eq!(says(&mut ledger, attempt(n), ProviderNews::Declined(Decline::Refused)), Ok(false));
    }
    let more = ledger.begin_payment(at(1), &ALICE, order, Method::Card(card()), attempt(99));
    assert_eq!(more, Err(PayRefusal::TooManyTries(MAX_ATTEMPTS)));
}

#[test]
fn what_a_provider_says_has_to_agree_with_the_order() {
    let mut ledger = shop();
    let (order, payment) = begun(&mut ledger, 1);
    let before = ledger.clone();
    for (news, refusal) in [
        (ProviderNews::Collected(money(298, "EUR")), ProviderRefusal::OtherAmount),
        (ProviderNews::Collected(money(299, "USD")), ProviderRefusal::OtherAmount),
        (ProviderNews::Returned(300), ProviderRefusal::OtherAmount),
    ] {
        assert_eq!(says(&mut ledger, payment, news), Err(refusal));
    }
    assert_eq!(says(&mut ledger, attempt(9), collected()), Err(ProviderRefusal::NoSuchPayment));
    assert_eq!(ledger.belongs(&payment, &order, &BOB), Err(ProviderRefusal::OtherOrder));
    assert_eq!(ledger.belongs(&payment, &order_id(9), &ALICE), Err(ProviderRefusal::OtherOrder));
    assert_eq!(ledger.belongs(&payment, &order, &ALICE), Ok(()));
    assert_eq!(ledger, before, "nothing was written");
}

#[test]
fn events_of_a_provider_may_come_in_any_order_and_again() {
    let dispute = DisputeId::from_bytes([1; 32]);
    let events = [
        ProviderNews::Named(Reference::new("pi_1").expect("a name")),
        ProviderNews::Declined(Decline::Authentication),
        collected(),
        ProviderNews::Disputed(dispute, Dispute::Open),
        ProviderNews::Disputed(dispute, Dispute::Won),
    ];
    for first in 0..events.len() {
        for second in 0..events.len() {
            let mut ledger = shop();
            let (order, payment) = begun(&mut ledger, 1);
            for place in [first, second].into_iter().chain(0..events.len()).chain((0..events.len()).rev()) {
                says(&mut ledger, payment, events[place].clone()).expect("genuine");
            }
            assert_eq!(state(&ledger, order), OrderState::Paid, "{first} {second}");
        }
    }
}

#[test]
fn money_that_buys_nothing_goes_back_by_itself_and_takes_no_right_with_it() {
    let mut ledger = shop();
    let (order, payment) = begun(&mut ledger, 1);
    named(&mut ledger, payment);
    let _ = ledger.handle_till(at(2), &news(TillNews::Succeeded, 1, order, ALICE)).expect("paid elsewhere");
    assert_eq!(ledger.surplus_orders().count(), 0);
    assert_eq!(says(&mut ledger, payment, collected()), Ok(false));
    assert_eq!(ledger.surplus_orders().collect::<Vec<_>>(), [order]);
    assert!(ledger.return_surplus(at(3), &order, refund_id(1)).reply);
    assert!(!ledger.return_surplus(at(3), &order, refund_id(2)).reply, "once");
    assert_eq!(ledger.surplus_orders().count(), 0);
    assert_eq!(ledger.give_back_errand(&refund_id(1)).map(|errand| errand.minor), Some(299));
    assert_eq!(says(&mut ledger, payment, ProviderNews::Returned(299)), Ok(true), "that was us");
    assert_eq!(state(&ledger, order), OrderState::Paid);
    assert!(!ledger.handle_refund(at(4), refund_id(1), true).reply);
    assert_eq!((ledger.open_refunds().count(), ledger.give_back_errand(&refund_id(1))), (0, None));
}

#[test]
fn money_that_arrives_after_the_refund_goes_back() {
    let mut ledger = shop();
    let (order, payment) = begun(&mut ledger, 1);
    named(&mut ledger, payment);
    let _ = ledger.refund(at(2), order, whole("changed their mind"), refund_id(1)).expect("refunded");
    assert_eq!(ledger.collect(at(2), &payment).map(|errand| errand.call_off), Some(true));
    assert_eq!(says(&mut ledger, payment, collected()), Ok(false));
    assert_eq!(state(&ledger, order), OrderState::Refunded);
    assert!(ledger.return_surplus(at(3), &order, refund_id(2)).reply);
}

#[test]
fn a_refund_in_part_ends_the_right_unless_it_is_said_to_stay() {
    let mut ledger = shop();
    let (order, payment) = begun(&mut ledger, 1);
    named(&mut ledger, payment);
    assert_eq!(says(&mut ledger, payment, collected()), Ok(false));
    let _ = ledger.refund(at(3), order, part(100, true), refund_id(1)).expect("refunded");
    assert!(ledger.request_grant(at(3), &box_of(ALICE, 1), order).is_ok(), "a goodwill");
    let same = ledger.refund(at(3), order, part(100, true), refund_id(1)).expect("the same word");
    assert_eq!(same.record, None);
    assert_eq!(
        ledger.refund(at(3), order, part(200, true), refund_id(2)),
        Err(RefundRefusal::TooMuch { left_minor: 199 })
    );
    assert_eq!(
        ledger.refund(at(3), order, part(0, true), refund_id(2)),
        Err(RefundRefusal::TooMuch { left_minor: 199 })
    );
    let _ = ledger.refund(at(4), order, part(99, false), refund_id(3)).expect("refunded");
    assert_eq!(ledger.request_grant(at(5), &box_of(ALICE, 1), order), Err(GrantRefusal::OrderRefunded));
    assert_eq!(ledger.open_refunds().count(), 2);
    assert!(!ledger.handle_refund(at(6), refund_id(3), false).reply, "the provider would not");
    assert_eq!(state(&ledger, order), OrderState::Refunded, "the word stands all the same");
    let _ = ledger.refund(at(7), order, part(199, false), refund_id(4)).expect("what failed is still there to give");
}

#[test]
fn what_was_refunded_at_the_provider_ends_the_right_too() {
    let mut ledger = shop();
    let (order, payment) = begun(&mut ledger, 1);
    named(&mut ledger, payment);
    assert_eq!(says(&mut ledger, payment, collected()), Ok(false));
    let _ = ledger.refund(at(3), order, part(50, true), refund_id(1)).expect("refunded");
    assert_eq!(says(&mut ledger, payment, ProviderNews::Returned(50)), Ok(true), "that was us");
    assert_eq!(says(&mut ledger, payment, ProviderNews::Returned(80)), Ok(false));
    assert_eq!(says(&mut ledger, payment, ProviderNews::Returned(80)), Ok(true));
    assert_eq!(state(&ledger, order), OrderState::Refunded);
    assert_eq!(ledger.any_order(&order).map(|order| order.dues.returned_minor(299)), Some(80));
}

#[test]
fn a_till_may_refund_in_part_too() {
    let mut ledger = shop();
    let order = paid(&mut ledger, 1, "rent");
    let back = TillEvent { amount: money(100, "EUR"), ..news(TillNews::Refunded, 2, order, ALICE) };
    assert!(!ledger.handle_till(at(3), &back).expect("taken").reply);
    assert!(ledger.handle_till(at(3), &back).expect("known").reply);
    assert_eq!(state(&ledger, order), OrderState::Refunded);
    let more = TillEvent { amount: money(300, "EUR"), ..news(TillNews::Refunded, 3, order, ALICE) };
    assert_eq!(ledger.handle_till(at(3), &more), Err(TillRefusal::OtherAmount));
    let other = TillEvent { amount: money(100, "USD"), ..news(TillNews::Refunded, 3, order, ALICE) };
    assert_eq!(ledger.handle_till(at(3), &other), Err(TillRefusal::OtherAmount));
}

#[test]
fn a_dispute_stops_grants_until_it_is_won() {
    let mut ledger = shop();
    let order = paid(&mut ledger, 1, "rent");
    let _ = ledger.request_grant(at(2), &box_of(ALICE, 1), order).expect("granted");
    let mut hear = |dispute| ledger.handle_till(at(3), &news(TillNews::Disputed(dispute), 3, order, ALICE));
    assert!(!hear(Dispute::Open).expect("taken").reply);
    assert!(hear(Dispute::Open).expect("known").reply);
    assert_eq!(ledger.request_grant(at(3), &box_of(ALICE, 1), order), Err(GrantRefusal::OrderDisputed));
    let mut hear = |dispute| ledger.handle_till(at(4), &news(TillNews::Disputed(dispute), 4, order, ALICE));
    assert!(!hear(Dispute::Won).expect("taken").reply);
    assert!(hear(Dispute::Open).expect("old news").reply);
    assert!(ledger.request_grant(at(4), &box_of(ALICE, 1), order).is_ok());
    let lost = news(TillNews::Disputed(Dispute::Lost), 5, order, ALICE);
    assert!(!ledger.handle_till(at(5), &lost).expect("taken").reply);
    assert_eq!(ledger.request_grant(at(5), &box_of(ALICE, 1), order), Err(GrantRefusal::OrderDisputed));
}

#[test]
fn a_bill_holds_what_it_may_and_no_more() {
    let mut ledger = shop();
    let (one, two, three) =
        (ordered(&mut ledger, 1, "rent"), ordered(&mut ledger, 2, "rent"), ordered(&mut ledger, 3, "rent"));
    assert_eq!(ledger.bill(at(1), &ALICE, one), Err(PayRefusal::NoBill));
    let _ = ledger.set_credit_limit(at(1), ALICE, eur(600)).expect("set");
    assert_eq!(ledger.set_credit_limit(at(1), ALICE, eur(600)).expect("so before").record, None);
    let _ = ledger.bill(at(1), &ALICE, one).expect("billed");
    assert_eq!(ledger.bill(at(1), &ALICE, one).expect("paid already").record, None);
    let _ = ledger.bill(at(1), &ALICE, two).expect("billed");
    assert_eq!(ledger.bill(at(1), &ALICE, three), Err(PayRefusal::OverLimit { left_minor: 2 }));
    let _ = ledger.refund(at(2), one, whole("a mistake"), refund_id(1)).expect("credited");
    assert_eq!(ledger.bill_of(&ALICE).map(|(_, owed)| owed), Some(299));
    let _ = ledger.bill(at(2), &ALICE, three).expect("there is room again");
    let lines: Vec<_> = ledger.bill_lines(Month::of(at(0))).map(|(_, line, _)| line.what).collect();
    assert_eq!(lines, [Entry::Charge(299), Entry::Charge(299), Entry::Credit(299), Entry::Charge(299)]);
    let dollars = CreditLimit { minor: 1, currency: "USD".parse().expect("a currency") };
    assert_eq!(ledger.set_credit_limit(at(2), ALICE, dollars), Err(BillRefusal::OtherCurrency));
    let _ = ledger.set_credit_limit(at(2), BOB, eur(0)).expect("zero is nothing");
    let of_bob = ledger.create_order(at(2), BOB, key(1), ITEM, "rent", order_id(9)).expect("ordered").reply.id;
    assert_eq!(ledger.bill(at(2), &BOB, of_bob), Err(PayRefusal::OverLimit { left_minor: 0 }));
}

#[test]
fn a_month_is_closed_once_when_it_is_over() {
    let mut ledger = shop();
    let _ = ledger.set_credit_limit(at(1), ALICE, eur(300)).expect("set");
    let one = ordered(&mut ledger, 1, "rent");
    let _ = ledger.bill(at(1), &ALICE, one).expect("billed");
    let month = Month::of(at(1));
    assert_eq!(ledger.close_months(at(1), month), Err(BillRefusal::NotOver(month)));
    let later = at(1) + 40 * DAY;
    assert!(!ledger.close_months(later, month).expect("closed").reply);
    assert!(ledger.close_months(later, month).expect("closed before").reply);
    assert_eq!(ledger.bill_of(&ALICE).map(|(_, owed)| owed), Some(0), "it is on the ISP's own bill now");
    let before: Vec<_> = ledger.bill_lines(month).map(|(_, line, _)| line).collect();
    let _ = ledger.refund(later, one, whole("a mistake"), refund_id(1)).expect("credited");
    let after: Vec<_> = ledger.bill_lines(month).map(|(_, line, _)| line).collect();
    assert_eq!(after, before, "a closed month does not change");
    assert_eq!(ledger.bill_lines(Month::of(later)).count(), 1, "the credit is in the month it was given");
    let two = ordered(&mut ledger, 2, "rent");
    assert_eq!(ledger.bill(at(2), &ALICE, two), Err(PayRefusal::MonthClosed(month)), "a clock went back");
}

#[test]
fn a_bought_pass_comes_to_be_when_it_is_paid_and_belongs_to_the_buyer() {
    let mut ledger = shop();
    let (_, pass) = bought_pass(&mut ledger, false);
    let found = ledger.pass(&pass).expect("sold");
    assert_eq!((found.credits_left(), found.expires()), (10, at(1) + 90 * DAY));
    assert_eq!(ledger.passes_of(&ALICE).map(|(id, _)| id).collect::<Vec<_>>(), [pass]);
    let of_bob = ledger.create_order(at(2), BOB, key(1), ITEM, "rent", order_id(1)).expect("ordered").reply.id;
    assert_eq!(ledger.pay_with_pass(at(2), &BOB, of_bob, pass), Err(PayRefusal::PassOfAnother));
    assert_eq!(ledger.claim_pass(at(2), BOB, pass).err(), Some(PayRefusal::PassOfAnother));
    let of_alice = ordered(&mut ledger, 2, "rent");
    let _ = ledger.pay_with_pass(at(2), &ALICE, of_alice, pass).expect("paid");
    let again = ledger.create_pass_order(at(3), ALICE, key(77), &ten_titles(), false, PASS, order_id(78));
    assert_eq!(again.expect("the same order").record, None);
    let other = ledger.create_pass_order(at(3), ALICE, key(77), &ten_titles(), true, PASS, order_id(78));
    assert_eq!(other, Err(OrderRefusal::KeyReused));
}

#[test]
fn a_gift_belongs_to_whoever_takes_it_first() {
    let mut ledger = shop();
    let (order, pass) = bought_pass(&mut ledger, true);
    assert_eq!(ledger.request_grant(at(1), &box_of(ALICE, 1), order), Err(GrantRefusal::NotATitle));
    assert_eq!(ledger.passes_of(&ALICE).count(), 0);
    let _ = ledger.claim_pass(at(2), BOB, pass).expect("taken");
    assert_eq!(ledger.claim_pass(at(2), BOB, pass).expect("taken before").record, None);
    assert_eq!(ledger.claim_pass(at(2), CAROL, pass).err(), Some(PayRefusal::PassOfAnother));
    assert_eq!(ledger.passes_of(&BOB).count(), 1);
    let other = ledger.create_pass_order(at(2), BOB, key(5), &ten_titles(), false, PASS, order_id(5));
    let other = other.expect("ordered").reply.id;
    assert_eq!(ledger.pay_with_pass(at(2), &BOB, other, pass), Err(PayRefusal::PassForPass));
}

#[test]
fn the_unused_part_of_a_bought_pass_is_refunded_and_the_pass_pays_no_more() {
    let mut ledger = shop();
    let (order, pass) = bought_pass(&mut ledger, false);
    for n in 1..=3 {
        let title = ordered(&mut ledger, n, "rent");
        let _ = ledger.pay_with_pass(at(2), &ALICE, title, pass).expect("paid");
    }
    let refunded = ledger.refund(at(3), order, whole("moves abroad"), refund_id(1)).expect("refunded");
    assert!(matches!(refunded.record, Some(Record::RefundBegun { minor: 1_393, .. })), "seven tenths of 19.90");
    let title = ordered(&mut ledger, 4, "rent");
    assert_eq!(ledger.pay_with_pass(at(4), &ALICE, title, pass), Err(PayRefusal::PassVoid));
    assert!(ledger.request_grant(at(4), &box_of(ALICE, 1), order_id(1)).is_ok(), "what it has paid stays paid");
}

#[test]
fn a_time_pass_opens_everything_while_it_lasts_and_ends_what_it_opened() {
    let mut ledger = shop();
    let _ = ledger.create_time_pass(at(0), PASS, DAY).expect("sold");
    for n in 1..=12 {
        let order = ordered(&mut ledger, n, if n % 2 == 0 { "rent" } else { "pass" });
        let _ = ledger.pay_with_pass(at(1), &ALICE, order, PASS).expect("paid");
        let licence = ledger.request_grant(at(2), &box_of(ALICE, 1), order).expect("granted").reply.licence;
        assert_eq!(licence.not_after, Limit::Of(at(0) + DAY));
    }
    let late = ordered(&mut ledger, 13, "rent");
    let end = at(0) + DAY;
    let expired = ledger.pay_with_pass(end.minus(Duration::from_millis(1)), &ALICE, late, PASS);
    assert!(expired.is_ok(), "to the last moment");
    assert_eq!(ledger.request_grant(end, &box_of(ALICE, 1), late), Err(GrantRefusal::TooLate(end)));
}

#[test]
fn the_operator_takes_a_pass_back_once() {
    let mut ledger = shop();
    let _ = ledger.create_pass(at(0), PASS, 5, DAY).expect("sold");
    let reason = Reason::new("lost in the post").expect("a reason");
    let voided = ledger.void_pass(at(1), PASS, reason.clone()).expect("taken back");
    assert_eq!((voided.record.is_some(), voided.reply), (true, 5));
    assert_eq!(ledger.void_pass(at(1), PASS, reason.clone()).expect("before").record, None);
    let order = ordered(&mut ledger, 1, "rent");
    assert_eq!(ledger.pay_with_pass(at(2), &ALICE, order, PASS), Err(PayRefusal::PassVoid));
    let (bought, pass) = bought_pass(&mut ledger, false);
    assert_eq!(ledger.void_pass(at(2), pass, reason.clone()), Err(VoidRefusal::Bought(bought)));
    assert_eq!(ledger.void_pass(at(2), PassId::from_bytes([9; 32]), reason), Err(VoidRefusal::NoSuchPass));
}

#[test]
fn what_waits_too_long_for_a_provider_is_found() {
    let mut ledger = shop();
    let (order, payment) = begun(&mut ledger, 1);
    assert_eq!(ledger.stuck_orders(at(1) + STUCK_AFTER).count(), 0);
    let late = at(2) + STUCK_AFTER;
    assert_eq!(ledger.stuck_orders(late).map(|order| order.id).collect::<Vec<_>>(), [order]);
    assert_eq!(ledger.totals(late).stuck, 1);
    assert_eq!(says(&mut ledger, payment, collected()), Ok(false));
    assert_eq!(ledger.stuck_orders(late).count(), 0);
}

/// What may happen to money, in any order and again.
#[derive(Debug, Clone)]
enum Step {
    Order { account: AccountId, pass: bool },
    Begin { order: Pick },
    Provider { attempt: Pick, news: News },
    Till { order: Pick, event: u8, what: TillNews, minor: u64 },
    Bill { order: Pick },
    PayWithPass { order: Pick, pass: Pick },
    Refund { order: Pick, minor: Option<u64>, keeps_rights: bool, id: usize },
    Surplus,
    Settle { refund: Pick, made: bool },
    Grant { order: Pick },
    Wait { hours: u64 },
    Close,
    Forget,
}

#[derive(Debug, Clone, Copy)]
enum News {
    Collected { honest: bool },
    Declined,
    Returned(u64),
    Disputed(u8, Dispute),
}

fn dispute() -> impl Strategy<Value = Dispute> {
    prop_oneof![Just(Dispute::Open), Just(Dispute::Won), Just(Dispute::Lost)]
}

fn step() -> impl Strategy<Value = Step> {
    let news = prop_oneof![
        4 => prop::bool::weighted(0.8).prop_map(|honest| News::Collected { honest }),
        2 => Just(News::Declined),
        1 => (0..400u64).prop_map(News::Returned),
        1 => (0..3u8, dispute()).prop_map(|(id, standing)| News::Disputed(id, standing)),
    ];
    let till = prop_oneof![
        3 => Just(TillNews::Succeeded),
        1 => Just(TillNews::Refunded),
        1 => dispute().prop_map(TillNews::Disputed),
    ];
    let account = prop_oneof![Just(ALICE), Just(BOB)];
    let minor = prop_oneof![3 => Just(299u64), 1 => Just(100u64), 1 => Just(1_990u64)];
    prop_oneof![
        4 => (account, prop::bool::weighted(0.3)).prop_map(|(account, pass)| Step::Order { account, pass }),
        4 => any::<Pick>().prop_map(|order| Step::Begin { order }),
        6 => (any::<Pick>(), news).prop_map(|(attempt, news)| Step::Provider { attempt, news }),
        2 => (any::<Pick>(), 0..30u8, till, minor)
            .prop_map(|(order, event, what, minor)| Step::Till { order, event, what, minor }),
        2 => any::<Pick>().prop_map(|order| Step::Bill { order }),
        3 => (any::<Pick>(), any::<Pick>()).prop_map(|(order, pass)| Step::PayWithPass { order, pass }),
        2 => (any::<Pick>(), prop::option::of(0..400u64), any::<bool>(), 0..12usize)
            .prop_map(|(order, minor, keeps_rights, id)| Step::Refund { order, minor, keeps_rights, id: 9_000 + id }),
        2 => Just(Step::Surplus),
        1 => (any::<Pick>(), any::<bool>()).prop_map(|(refund, made)| Step::Settle { refund, made }),
        4 => any::<Pick>().prop_map(|order| Step::Grant { order }),
        1 => (1..300u64).prop_map(|hours| Step::Wait { hours }),
        1 => Just(Step::Close),
        1 => Just(Step::Forget),
    ]
}

/// The facts of each order that anyone acknowledged, kept as stupidly as possible.
#[derive(Debug, Default)]
struct Facts {
    money_came: bool,
    right_ended: bool,
    disputes: BTreeMap<DisputeId, Dispute>,
    billed: u64,
    credited: u64,
}

proptest! {
    #![proptest_config(many())]

    #[test]
    fn no_history_of_money_breaks_an_invariant_and_replay_gives_the_same_ledger(
        steps in prop::collection::vec(step(), 1..100),
    ) {
        let limit = 1_000;
        let (mut ledger, mut replayed) = (shop(), shop());
        let mut history = opening();
        for account in [ALICE, BOB] {
            let set = ledger.set_credit_limit(at(0), account, eur(limit)).expect("set").record.expect("new");
            prop_assert_eq!(replayed.apply(at(0), &set), Ok(()));
            history.push((at(0), set));
        }
        let mut facts: BTreeMap<OrderId, Facts> = BTreeMap::new();
        let mut attempts: BTreeMap<AttemptId, OrderId> = BTreeMap::new();
        let mut refunds: Vec<RefundId> = Vec::new();
        let mut passes: Vec<PassId> = Vec::new();
        let mut now = at(0);
        for (n, step) in steps.into_iter().enumerate() {
            let orders: Vec<OrderId> = facts.keys().copied().collect();
            let pick = |pick: Pick| (!orders.is_empty()).then(|| *pick.get(&orders));
            let record = match step {
                Step::Wait { hours } => {
                    now = now + Duration::from_secs(hours * 3600);
                    None
                }
                Step::Close => {
                    let month = Month::of(now.minus(31 * DAY));
                    ledger.close_months(now, month).ok().and_then(|answer| answer.record)
                }
                Step::Forget => {
                    let record = ledger.forget_unpaid(now, Duration::ZERO).record;
                    facts.retain(|order, fact| {
                        let known = ledger.knows(order);
                        assert!(known || (!fact.money_came && !fact.right_ended), "I1: unpaid only");
                        known
                    });
                    attempts.retain(|_, order| ledger.knows(order));
                    record
                }
                Step::Order { account, pass } => {
                    let made = match pass {
                        true => {
                            let pass = PassId::from_bytes([n as u8; 32]);
                            passes.push(pass);
                            ledger.create_pass_order(now, account, key(n), &ten_titles(), n % 2 == 0, pass, order_id(n))
                        }
                        false => ledger.create_order(now, account, key(n), ITEM, "rent", order_id(n)),
                    };
                    let Ok(answer) = made else { continue };
                    facts.insert(answer.reply.id, Facts::default());
                    answer.record
                }
                Step::Begin { order } => {
                    let Some(order) = pick(order) else { continue };
                    let account = ledger.orders[&order].account;
                    match ledger.begin_payment(now, &account, order, Method::Card(card()), attempt(n)) {
                        Ok(answer) => {
                            if answer.record.is_some() {
                                prop_assert!(!facts[&order].money_came, "who has paid is not asked for money");
                                attempts.insert(attempt(n), order);
                            }
                            answer.record
                        }
                        Err(_) => None,
                    }
                }
                Step::Provider { attempt, news } => {
                    if attempts.is_empty() {
                        continue;
                    }
                    let known: Vec<_> = attempts.iter().collect();
                    let (attempt, order) = *attempt.get(&known);
                    let fact = facts.get_mut(order).expect("ordered");
                    let price = ledger.orders[order].price;
                    let paid_with = ledger.orders[order].payment().map(|payment| payment.means);
                    let news = match news {
                        News::Collected { honest: true } => ProviderNews::Collected(price),
                        News::Collected { honest: false } => ProviderNews::Collected(money(1, "EUR")),
                        News::Declined => ProviderNews::Declined(Decline::Refused),
                        News::Returned(minor) => ProviderNews::Returned(minor),
                        News::Disputed(id, standing) => ProviderNews::Disputed(DisputeId::from_bytes([id + 1; 32]), standing),
                    };
                    let Ok(answer) = ledger.handle_provider(now, *attempt, news.clone()) else { continue };
                    match (news, &answer.record) {
                        (ProviderNews::Collected(amount), _) => {
                            prop_assert_eq!(amount, price, "only the price pays");
                            fact.money_came = true;
                        }
                        (ProviderNews::Returned(_), Some(_)) => {
                            fact.right_ended |= paid_with.is_none_or(|means| means == Means::Provider(*attempt));
                        }
                        (ProviderNews::Disputed(id, standing), _) => {
                            let known = fact.disputes.entry(id).or_insert(standing);
                            *known = standing.max(*known);
                        }
                        _ => {}
                    }
                    answer.record
                }
                Step::Till { order, event, what, minor } => {
                    let Some(order) = pick(order) else { continue };
                    let account = ledger.orders[&order].account;
                    let event = TillEvent { amount: money(minor, "EUR"), ..news(what, event, order, account) };
                    let Ok(answer) = ledger.handle_till(now, &event) else { continue };
                    let fact = facts.get_mut(&order).expect("ordered");
                    match what {
                        TillNews::Succeeded => fact.money_came = true,
                        TillNews::Refunded => fact.right_ended = true,
                        TillNews::Disputed(standing) => {
                            let known = fact.disputes.entry(DisputeId::OF_THE_TILL).or_insert(standing);
                            *known = standing.max(*known);
                        }
                    }
                    answer.record
                }
                Step::Bill { order } => {
                    let Some(order) = pick(order) else { continue };
                    let account = ledger.orders[&order].account;
                    let Ok(answer) = ledger.bill(now, &account, order) else { continue };
                    let fact = facts.get_mut(&order).expect("ordered");
                    if answer.record.is_some() {
                        fact.billed += ledger.orders[&order].price.minor;
                    }
                    fact.money_came = true;
                    answer.record
                }
                Step::PayWithPass { order, pass } => {
                    let Some(order) = pick(order).filter(|_| !passes.is_empty()) else { continue };
                    let account = ledger.orders[&order].account;
                    match ledger.pay_with_pass(now, &account, order, *pass.get(&passes)) {
                        Ok(answer) => {
                            facts.get_mut(&order).expect("ordered").money_came = true;
                            answer.record
                        }
                        Err(_) => None,
                    }
                }
                Step::Refund { order, minor, keeps_rights, id } => {
                    let Some(order) = pick(order) else { continue };
                    let wish = Refunding { minor, keeps_rights, ..whole("a mistake") };
                    let Ok(answer) = ledger.refund(now, order, wish, refund_id(id)) else { continue };
                    let fact = facts.get_mut(&order).expect("ordered");
                    if let Some(Record::RefundBegun { refund, attempt, minor, .. }) = &answer.record {
                        refunds.push(*refund);
                        let billed = attempt.is_none() && fact.billed > 0;
                        let paid_by_bill = matches!(ledger.orders[&order].payment().map(|payment| payment.means), Some(Means::Bill(_)));
                        fact.credited += if billed && paid_by_bill { *minor } else { 0 };
                    }
                    fact.right_ended |= answer.record.is_some() && !keeps_rights;
                    answer.record
                }
                Step::Surplus => {
                    let Some(order) = ledger.surplus_orders().next() else { continue };
                    let answer = ledger.return_surplus(now, &order, refund_id(n));
                    prop_assert!(answer.reply);
                    refunds.push(refund_id(n));
                    answer.record
                }
                Step::Settle { refund, made } => {
                    if refunds.is_empty() {
                        continue;
                    }
                    ledger.handle_refund(now, *refund.get(&refunds), made).record
                }
                Step::Grant { order } => {
                    let Some(order) = pick(order) else { continue };
                    let account = ledger.orders[&order].account;
                    match ledger.request_grant(now, &box_of(account, 1), order) {
                        Ok(answer) => {
                            let fact = &facts[&order];
                            prop_assert!(fact.money_came && !fact.right_ended, "I2: a key left unpaid");
                            let disputed = fact.disputes.values().any(|standing| *standing != Dispute::Won);
                            prop_assert!(!disputed, "a key left while disputed");
                            answer.record
                        }
                        Err(_) => None,
                    }
                }
            };
            if let Some(record) = record {
                let text = serde_json::to_string(&record).expect("serializes");
                prop_assert_eq!(&serde_json::from_str::<Record>(&text).expect("reads back"), &record);
                prop_assert_eq!(replayed.apply(now, &record), Ok(()));
                history.push((now, record));
            }
            for (order, fact) in &facts {
                let order = &ledger.orders[order];
                prop_assert_eq!(order.payment().is_some(), fact.money_came);
                prop_assert_eq!(order.refund().is_some(), fact.right_ended);
                let disputed = fact.disputes.values().any(|standing| *standing != Dispute::Won);
                prop_assert_eq!(order.dues.is_disputed(), disputed);
                prop_assert!(order.dues.attempts().iter().filter(|attempt| attempt.is_open()).count() <= 1);
            }
            for account in [ALICE, BOB] {
                let (_, owed) = ledger.bill_of(&account).expect("a bill");
                prop_assert!(owed <= limit, "nobody owes more than they may");
                let of_account = facts.iter().filter(|(order, _)| ledger.orders[order].account == account);
                let (billed, credited) = of_account.fold((0, 0), |(billed, credited), (_, fact)| (billed + fact.billed, credited + fact.credited));
                if ledger.closed_month().is_none() {
                    prop_assert_eq!(owed, billed - credited, "what is owed is what was billed less what was credited");
                }
            }
            for pass in &passes {
                if let Some(pass) = ledger.pass(pass) {
                    prop_assert!(pass.credits_left() <= pass.credits_bought(), "I3");
                    let order = &ledger.orders[&pass.bought_by().expect("bought")];
                    prop_assert!(order.payment().is_some(), "no pass without money");
                    prop_assert_eq!(pass.is_void(), order.refund().is_some());
                }
            }
        }
        prop_assert_eq!(&compacted(&history, &ledger), &ledger, "a snapshot stands for its history");
        prop_assert_eq!(replayed, ledger);
    }
}
