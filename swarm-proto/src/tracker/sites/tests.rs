use std::collections::BTreeSet;
use std::time::Duration;

use proptest::prelude::*;

use super::windows::Used;
use super::*;
use crate::id::{DeviceId, ItemId};
use crate::ticket::TicketClass;
use crate::time::{Mono, Now};

fn site_id(name: &str) -> SiteId {
    SiteId::new(name).unwrap()
}

fn window(day: &str, from: &str, to: &str) -> Window {
    Window {
        day: day.parse().unwrap(),
        from: from.parse().unwrap(),
        to: to.parse().unwrap(),
        rate_bytes_per_sec: Limit::Unlimited,
        volume_bytes: Limit::Unlimited,
    }
}

fn site(zone: &str, windows: &[Window]) -> Site {
    let mut site = Site::new(site_id("north"));
    site.set_zone(zone.parse().unwrap());
    windows.iter().for_each(|window| site.add_window(*window).unwrap());
    site
}

/// A site whose windows are the same every day.
fn nightly(zone: &str, from: &str, to: &str) -> Site {
    let windows: Vec<Window> = Weekday::ALL.map(|day| window(day.short(), from, to)).to_vec();
    site(zone, &windows)
}

fn at(text: &str) -> Utc {
    text.parse().unwrap()
}

fn now(text: &str) -> Now {
    let utc = at(text);
    Now::new(Mono::from_millis(utc.as_millis() - 1_700_000_000_000), utc)
}

fn off_peak(site: &Site, text: &str) -> Verdict {
    site.in_windows(at(text), &Used::new())
}

fn open_until(verdict: Verdict) -> String {
    match verdict {
        Verdict::Open { until: Some(until) } => until.to_string(),
        other => panic!("not open until a moment: {other:?}"),
    }
}

fn closed_until(verdict: Verdict) -> String {
    match verdict {
        Verdict::Closed(Closed { opens: Some(opens), .. }) => opens.to_string(),
        other => panic!("not closed until a moment: {other:?}"),
    }
}

fn ask(n: u8, class: TicketClass, delivery: Option<Delivery>) -> Ask {
    let (device, item) = (DeviceId::from([n; 32]), ItemId::from([n; 32]));
    Ask { device, item, site: site_id("north"), class, delivery }
}

fn gate(now: Now, site: Site) -> Gate {
    let mut gate = Gate::new();
    gate.handle_site(now, site);
    gate
}

fn actions(gate: &mut Gate) -> Vec<Action> {
    std::iter::from_fn(|| gate.poll_action()).collect()
}

const OPEN: Verdict = Verdict::Open { until: None };

#[test]
fn window_is_open_from_its_first_millisecond_to_its_last() {
    let site = nightly("UTC", "01:00", "06:00");
    assert_eq!(closed_until(off_peak(&site, "2026-11-22T00:59:59Z")), "2026-11-22T01:00:00.000Z");
    assert_eq!(open_until(off_peak(&site, "2026-11-22T01:00:00Z")), "2026-11-22T06:00:00.000Z");
    assert_eq!(open_until(off_peak(&site, "2026-11-22T01:00:01Z")), "2026-11-22T06:00:00.000Z");
    assert_eq!(open_until(off_peak(&site, "2026-11-22T05:59:59.999Z")), "2026-11-22T06:00:00.000Z");
    assert_eq!(closed_until(off_peak(&site, "2026-11-22T06:00:00Z")), "2026-11-23T01:00:00.000Z");
    assert_eq!(closed_until(off_peak(&site, "2026-11-22T06:00:01Z")), "2026-11-23T01:00:00.000Z");
}

#[test]
fn window_that_crosses_midnight_belongs_to_the_day_it_began_on() {
    let site = site("Europe/Berlin", &[window("fri", "22:00", "06:00")]);
    // The 27th of November 2026 is a Friday.
    assert_eq!(closed_until(off_peak(&site, "2026-11-27T20:59:59Z")), "2026-11-27T21:00:00.000Z");
    assert_eq!(open_until(off_peak(&site, "2026-11-27T23:30:00Z")), "2026-11-28T05:00:00.000Z");
    assert_eq!(open_until(off_peak(&site, "2026-11-28T04:59:59Z")), "2026-11-28T05:00:00.000Z");
    assert_eq!(closed_until(off_peak(&site, "2026-11-28T05:00:00Z")), "2026-12-04T21:00:00.000Z");
}

#[test]
fn night_of_the_spring_change_is_an_hour_shorter() {
    let berlin = nightly("Europe/Berlin", "01:00", "06:00");
    assert_eq!(open_until(off_peak(&berlin, "2026-03-29T00:00:00Z")), "2026-03-29T04:00:00.000Z");
    let in_the_gap = nightly("Europe/Berlin", "02:30", "04:00");
    assert_eq!(closed_until(off_peak(&in_the_gap, "2026-03-29T00:59:59Z")), "2026-03-29T01:00:00.000Z");
    assert_eq!(open_until(off_peak(&in_the_gap, "2026-03-29T01:00:00Z")), "2026-03-29T02:00:00.000Z");
    let new_york = nightly("America/New_York", "01:00", "02:30");
    assert_eq!(open_until(off_peak(&new_york, "2026-03-08T06:00:00Z")), "2026-03-08T07:00:00.000Z");
    let never = nightly("America/New_York", "02:00", "02:59");
    assert_eq!(closed_until(off_peak(&never, "2026-03-08T06:59:00Z")), "2026-03-09T06:00:00.000Z");
}

#[test]
fn night_of_the_autumn_change_is_an_hour_longer_and_a_repeated_edge_counts_once() {
    let berlin = nightly("Europe/Berlin", "01:00", "06:00");
    assert_eq!(open_until(off_peak(&berlin, "2026-10-24T23:00:00Z")), "2026-10-25T05:00:00.000Z");
    let ends_in_the_fold = nightly("Europe/Berlin", "01:00", "02:30");
    assert_eq!(open_until(off_peak(&ends_in_the_fold, "2026-10-25T00:29:59Z")), "2026-10-25T00:30:00.000Z");
    assert_eq!(closed_until(off_peak(&ends_in_the_fold, "2026-10-25T01:10:00Z")), "2026-10-26T00:00:00.000Z");
    let begins_in_the_fold = nightly("America/New_York", "01:30", "03:00");
    assert_eq!(closed_until(off_peak(&begins_in_the_fold, "2026-11-01T05:29:59Z")), "2026-11-01T05:30:00.000Z");
    assert_eq!(open_until(off_peak(&begins_in_the_fold, "2026-11-01T06:10:00Z")), "2026-11-01T08:00:00.000Z");
}

#[test]
fn zero_lets_nothing_through_and_unlimited_everything() {
    for useless in [
        Window { rate_bytes_per_sec: Limit::Of(0), ..window("sun", "01:00", "06:00") },
        Window { volume_bytes: Limit::Of(0), ..window("sun", "01:00", "06:00") },
    ] {
        let site = site("UTC", &[useless]);
        let Verdict::Closed(closed) = off_peak(&site, "2026-11-22T02:00:00Z") else { panic!("zero is zero") };
        assert_eq!((closed.opens, closed.why), (None, Why::NothingAllowed));
        assert_eq!(site.in_words(at("2026-11-22T02:00:00Z"), &closed), "the windows of this site let nothing through");
    }
    assert_eq!(site("UTC", &[]).in_windows(at("2026-11-22T02:00:00Z"), &Used::new()), OPEN);
}

#[test]
fn holiday_has_the_windows_of_another_day() {
    let mut site = site("UTC", &[window("sun", "00:00", "24:00"), window("thu", "01:00", "06:00")]);
    // The 24th of December 2026 is a Thursday, the 27th a Sunday.
    site.add_holiday("2026-12-24".parse().unwrap(), Weekday::Sunday).unwrap();
    site.add_holiday("2026-12-27".parse().unwrap(), Weekday::Monday).unwrap();
    assert_eq!(open_until(off_peak(&site, "2026-12-24T12:00:00Z")), "2026-12-25T00:00:00.000Z");
    assert_eq!(closed_until(off_peak(&site, "2026-12-27T12:00:00Z")), "2026-12-31T01:00:00.000Z");
}

#[test]
fn weekday_that_is_a_holiday_for_years_is_still_found() {
    let mut site = site("UTC", &[window("sun", "01:00", "06:00")]);
    let mut sunday: Date = "2026-11-29".parse().unwrap();
    for _ in 0..MAX_HOLIDAYS {
        site.add_holiday(sunday, Weekday::Monday).unwrap();
        sunday = (0..7).fold(sunday, |date, _| date.next().unwrap());
    }
    let expected = format!("{sunday}T01:00:00.000Z");
    assert_eq!(closed_until(off_peak(&site, "2026-11-23T00:00:00Z")), expected);
    assert!(matches!(site.add_holiday(sunday, Weekday::Monday), Err(SiteError::TooMany { .. })));
}

#[test]
fn windows_that_touch_or_overlap_are_one() {
    let site = site(
        "UTC",
        &[window("sun", "01:00", "03:00"), window("sun", "03:00", "05:00"), window("sun", "04:00", "06:00")],
    );
    assert_eq!(open_until(off_peak(&site, "2026-11-22T01:30:00Z")), "2026-11-22T06:00:00.000Z");
}

#[test]
fn what_is_watched_never_waits_and_what_nobody_asked_for_waits_for_a_window() {
    let noon = now("2026-11-22T12:00:00Z");
    let mut gate = gate(noon, nightly("UTC", "01:00", "06:00"));
    assert_eq!(gate.ask(noon, ask(1, TicketClass::Playing, Some(Delivery::OffPeak))), OPEN);
    assert_eq!(gate.ask(noon, ask(2, TicketClass::Queued, None)), OPEN);
    assert!(matches!(gate.ask(noon, ask(3, TicketClass::Preload, None)), Verdict::Closed(_)));
    assert!(matches!(gate.ask(noon, ask(4, TicketClass::Queued, Some(Delivery::OffPeak))), Verdict::Closed(_)));
    let elsewhere = Ask { site: site_id("south"), ..ask(5, TicketClass::Preload, None) };
    assert_eq!(gate.ask(noon, elsewhere), OPEN);
}

#[test]
fn site_says_what_becomes_of_titles_of_which_nobody_said_when_they_are_wanted() {
    let noon = now("2026-11-22T12:00:00Z");
    let mut careful = nightly("UTC", "01:00", "06:00");
    careful.set_queued(QueuedWhen::OffPeak);
    let mut gate = gate(noon, careful);
    assert!(matches!(gate.ask(noon, ask(1, TicketClass::Queued, None)), Verdict::Closed(_)));
    assert_eq!(gate.ask(noon, ask(2, TicketClass::Queued, Some(Delivery::Anytime))), OPEN);
}

#[test]
fn not_before_opens_at_its_moment_wherever_that_is() {
    let wanted = Some(Delivery::NotBefore(at("2026-11-22T20:00:00Z")));
    for mut gate in [gate(now("2026-11-22T12:00:00Z"), nightly("UTC", "01:00", "06:00")), Gate::new()] {
        let before = gate.ask(now("2026-11-22T19:59:59Z"), ask(1, TicketClass::Queued, wanted));
        assert_eq!(closed_until(before), "2026-11-22T20:00:00.000Z");
        assert_eq!(gate.ask(now("2026-11-22T20:00:00Z"), ask(1, TicketClass::Queued, wanted)), OPEN);
        assert_eq!(gate.ask(now("2026-11-22T20:00:01Z"), ask(1, TicketClass::Queued, wanted)), OPEN);
        assert_eq!(gate.ask(now("2026-11-22T19:00:00Z"), ask(1, TicketClass::Playing, wanted)), OPEN);
    }
}

#[test]
fn end_of_a_window_stops_whoever_was_let_through() {
    let before = now("2026-11-22T05:59:00Z");
    let mut gate = gate(before, nightly("UTC", "01:00", "06:00"));
    assert!(matches!(gate.ask(before, ask(1, TicketClass::Preload, None)), Verdict::Open { .. }));
    gate.ask(before, ask(2, TicketClass::Queued, None));
    assert_eq!(gate.poll_timeout(), Some(before.mono + Duration::from_secs(60)));

    gate.handle_timeout(now("2026-11-22T05:59:59.999Z"));
    assert_eq!(actions(&mut gate), []);
    gate.handle_timeout(now("2026-11-22T06:00:00Z"));
    let closed = Closed {
        opens: Some(at("2026-11-23T01:00:00Z")),
        ends: Some(at("2026-11-23T06:00:00Z")),
        why: Why::OutsideWindows,
    };
    let (device, item) = (DeviceId::from([1; 32]), ItemId::from([1; 32]));
    assert_eq!(actions(&mut gate), [Action::Close { device, item, closed }]);
    // Those who wait begin by themselves: nobody calls them all at once.
    gate.handle_timeout(now("2026-11-23T01:00:00Z"));
    assert_eq!(actions(&mut gate), []);
}

#[test]
fn window_closes_when_its_volume_is_used_up_and_the_next_one_is_full_again() {
    let start = now("2026-11-22T01:00:00Z");
    let mut night = nightly("UTC", "01:00", "06:00");
    night.windows.values_mut().for_each(|window| window.volume_bytes = Limit::Of(1_000));
    let mut gate = gate(start, night);
    gate.ask(start, ask(1, TicketClass::Preload, None));
    let north = site_id("north");
    assert_eq!(gate.handle_received(start, &north, 999), Some((start.utc, 999)));
    assert_eq!(actions(&mut gate), []);
    gate.handle_received(start, &north, 1);
    let [Action::Close { closed, .. }] = actions(&mut gate)[..] else { panic!("one is stopped") };
    assert_eq!((closed.opens, closed.why), (Some(at("2026-11-23T01:00:00Z")), Why::UsedUp));
    let words = gate.site(&north).unwrap().in_words(start.utc, &closed);
    assert_eq!(words, "tomorrow 01:00–06:00, as the volume of this window is used up");
    let next = now("2026-11-23T01:00:00Z");
    assert!(matches!(gate.ask(next, ask(1, TicketClass::Preload, None)), Verdict::Open { .. }));
    assert_eq!(gate.handle_received(now("2026-11-23T12:00:00Z"), &north, 5), None, "no window is open");
    assert_eq!(gate.used(&north).collect::<Vec<_>>(), [(start.utc, 1_000)]);
}

#[test]
fn volume_that_was_written_down_counts() {
    let start = now("2026-11-22T02:00:00Z");
    let mut night = nightly("UTC", "01:00", "06:00");
    night.windows.values_mut().for_each(|window| window.volume_bytes = Limit::Of(1_000));
    let mut gate = gate(start, night);
    gate.restore_used(start, &site_id("north"), [(at("2026-11-22T01:00:00Z"), 1_000)]);
    assert!(matches!(gate.ask(start, ask(1, TicketClass::Preload, None)), Verdict::Closed(_)));
}

#[test]
fn operator_who_changes_a_window_stops_some_and_calls_others() {
    let noon = now("2026-11-22T12:00:00Z");
    let mut gate = gate(noon, nightly("UTC", "01:00", "06:00"));
    gate.ask(noon, ask(1, TicketClass::Preload, None));
    gate.ask(noon, ask(2, TicketClass::Queued, None));
    let (device, item) = (DeviceId::from([1; 32]), ItemId::from([1; 32]));

    let day = nightly("UTC", "10:00", "14:00");
    assert_eq!(gate.what_if(noon.utc, &site_id("north"), Some(&day)), (0, 1));
    gate.handle_site(noon, day);
    assert_eq!(actions(&mut gate), [Action::Open { device, item }]);

    let mut careful = nightly("UTC", "01:00", "06:00");
    careful.set_queued(QueuedWhen::OffPeak);
    assert_eq!(gate.what_if(noon.utc, &site_id("north"), Some(&careful)), (2, 0));
    gate.handle_site(noon, careful);
    assert_eq!(actions(&mut gate).len(), 2);

    assert_eq!(gate.what_if(noon.utc, &site_id("north"), None), (0, 2));
    gate.handle_site_gone(noon, &site_id("north"));
    assert!(actions(&mut gate).iter().all(|action| matches!(action, Action::Open { .. })));
}

#[test]
fn customer_who_changes_their_mind_is_heard_at_once() {
    let noon = now("2026-11-22T12:00:00Z");
    let mut gate = gate(noon, nightly("UTC", "01:00", "06:00"));
    gate.ask(noon, ask(1, TicketClass::Queued, Some(Delivery::Anytime)));
    let (device, item) = (DeviceId::from([1; 32]), ItemId::from([1; 32]));
    gate.handle_delivery(noon, device, item, Some(Delivery::OffPeak));
    assert!(matches!(actions(&mut gate)[..], [Action::Close { .. }]));
    gate.handle_delivery(noon, device, item, Some(Delivery::Anytime));
    assert_eq!(actions(&mut gate), [Action::Open { device, item }]);
    gate.handle_departed(device);
    gate.handle_delivery(noon, device, item, Some(Delivery::OffPeak));
    assert_eq!(actions(&mut gate), []);
}

#[test]
fn rate_of_a_site_is_told_when_it_changes() {
    let mut night = nightly("UTC", "01:00", "06:00");
    night.windows.values_mut().for_each(|window| window.rate_bytes_per_sec = Limit::Of(5_000));
    let mut gate = gate(now("2026-11-22T00:59:00Z"), night);
    assert_eq!(actions(&mut gate), []);
    let rate = |bytes_per_sec| Action::Rate { site: site_id("north"), bytes_per_sec };
    gate.handle_timeout(now("2026-11-22T01:00:00Z"));
    assert_eq!(actions(&mut gate), [rate(Limit::Of(5_000))]);
    gate.handle_timeout(now("2026-11-22T06:00:00Z"));
    assert_eq!(actions(&mut gate), [rate(Limit::Unlimited)]);
}

#[test]
fn answers_are_remembered_of_so_many_items_of_a_device_and_no_more() {
    let noon = now("2026-11-22T12:00:00Z");
    let mut gate = gate(noon, nightly("UTC", "01:00", "06:00"));
    for n in 0..=200 {
        let asked = Ask { device: DeviceId::from([1; 32]), ..ask(n, TicketClass::Preload, None) };
        gate.ask(noon, asked);
    }
    gate.handle_site_gone(noon, &site_id("north"));
    assert_eq!(actions(&mut gate).len(), 64);
}

#[test]
fn costs_are_nothing_at_home_and_little_within_one_isp() {
    let noon = now("2026-11-22T12:00:00Z");
    let mut gate = Gate::new();
    for (name, isp) in [("north", "Coast"), ("south", "Coast"), ("east", "Other"), ("west", "")] {
        let mut site = Site::new(site_id(name));
        site.set_isp(isp).unwrap();
        if name == "north" {
            site.set_cost(site_id("east"), 7).unwrap();
            site.set_cost(site_id("abroad"), 900).unwrap();
            assert_eq!(site.set_cost(site_id("north"), 1), Err(SiteError::OwnCost));
        }
        gate.handle_site(noon, site);
    }
    let costs = gate.costs_of(&site_id("north"));
    let cost = |name: &str| costs[&site_id(name)];
    assert_eq!((cost("north"), cost("south"), cost("east")), (COST_SAME_SITE, COST_SAME_ISP, 7));
    assert_eq!((cost("west"), cost("abroad")), (COST_ELSEWHERE, 900));
    assert_eq!(gate.costs_of(&site_id("west"))[&site_id("east")], COST_ELSEWHERE, "no ISP is not one ISP");
}

#[test]
fn waiting_is_said_as_people_say_it() {
    let night = nightly("Europe/Berlin", "01:00", "06:00");
    let words = |site: &Site, text: &str| match off_peak(site, text) {
        Verdict::Closed(closed) => site.in_words(at(text), &closed),
        Verdict::Open { .. } => "open".to_owned(),
    };
    assert_eq!(words(&night, "2026-11-22T19:00:00Z"), "tonight 01:00–06:00");
    assert_eq!(words(&night, "2026-11-22T23:59:00Z"), "tonight 01:00–06:00");
    assert_eq!(words(&night, "2026-11-22T10:00:00Z"), "tonight 01:00–06:00");
    assert_eq!(words(&nightly("UTC", "22:30", "02:00"), "2026-11-22T10:00:00Z"), "tonight 22:30–02:00");
    assert_eq!(words(&nightly("UTC", "13:00", "15:00"), "2026-11-22T10:00:00Z"), "today 13:00–15:00");
    assert_eq!(words(&nightly("UTC", "09:00", "10:00"), "2026-11-22T10:00:00Z"), "tomorrow 09:00–10:00");
    assert_eq!(
        words(&site("UTC", &[window("sat", "01:00", "24:00")]), "2026-11-22T10:00:00Z"),
        "sat 28 Nov 01:00–00:00"
    );
    let later = Closed { opens: Some(at("2026-11-23T19:00:00Z")), ends: None, why: Why::NotYet };
    assert_eq!(night.in_words(at("2026-11-22T10:00:00Z"), &later), "not before tomorrow 20:00");
}

#[test]
fn window_that_cannot_be_is_refused() {
    let mut site = site("UTC", &[window("mon", "01:00", "06:00")]);
    assert!(matches!(site.add_window(window("mon", "01:00", "02:00")), Err(SiteError::Twice(..))));
    assert!(matches!(site.add_window(window("mon", "02:00", "02:00")), Err(SiteError::Empty(_))));
    assert!(matches!(site.add_window(window("mon", "24:00", "02:00")), Err(SiteError::BeginsAtEnd)));
    assert!(matches!(site.set_isp("two\nlines"), Err(SiteError::Isp)));
    for minute in 0..200_u32 {
        let from = TimeOfDay::from_secs(36_000 + minute * 60).unwrap();
        let _ = site.add_window(Window { from, to: TimeOfDay::END, ..window("tue", "01:00", "02:00") });
    }
    assert_eq!(site.windows().count(), MAX_WINDOWS);
}

const MINUTE: u64 = 60_000;

/// What the clock of a zone shows, minute by minute, around a moment.
fn minutes(zone: &Zone, around: Utc) -> Vec<(Utc, Local)> {
    let first = around.minus(Duration::from_secs(3 * 86_400)).as_millis() / MINUTE;
    let last = first + 14 * 24 * 60;
    (first..last).map(|minute| Utc::from_millis(minute * MINUTE)).map(|at| (at, zone.local(at))).collect()
}

/// The minutes in which a window is open, found by looking at the clock in each of them.
fn naive(site: &Site, shown: &[(Utc, Local)]) -> (BTreeSet<Utc>, BTreeSet<Utc>) {
    let first = |date: Date, time: TimeOfDay| {
        let edge = match time {
            TimeOfDay::END => Local { date: date.next().unwrap(), time: TimeOfDay::MIDNIGHT },
            time => Local { date, time },
        };
        shown.iter().position(|(_, local)| *local >= edge)
    };
    let dates: BTreeSet<Date> = shown.iter().map(|(_, local)| local.date).collect();
    let (mut open, mut edges) = (BTreeSet::new(), BTreeSet::new());
    for date in dates.into_iter().skip(1) {
        let day = site.holidays.get(&date).copied().unwrap_or_else(|| date.weekday());
        for window in site.windows().filter(|window| window.day == day) {
            let last = if window.crosses_midnight() { date.next().unwrap() } else { date };
            let (Some(from), to) = (first(date, window.from), first(last, window.to)) else { continue };
            let to = to.unwrap_or(shown.len());
            if from < to {
                open.extend(shown[from..to].iter().map(|(at, _)| *at));
                edges.extend([from, to].into_iter().filter_map(|edge| shown.get(edge)).map(|(at, _)| *at));
            }
        }
    }
    (open, edges)
}

fn any_window() -> impl Strategy<Value = Window> {
    let quarter = |quarters: u32| TimeOfDay::from_secs(quarters * 900).unwrap();
    let edges = (0..96_u32, 1..=96_u32).prop_filter("a window has two edges", |(from, to)| from != to);
    (0..7_u32, edges).prop_map(move |(day, (from, to))| Window {
        day: Weekday::of_number(day).unwrap(),
        from: quarter(from),
        to: quarter(to),
        ..window("mon", "00:00", "01:00")
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn next_edge_is_right_against_looking_at_the_clock_every_minute(
        zone in prop::sample::select(vec![
            ("Europe/Berlin", "2026-03-29T01:00:00Z"), ("Europe/Berlin", "2026-10-25T01:00:00Z"),
            ("America/New_York", "2026-03-08T07:00:00Z"), ("America/New_York", "2026-11-01T06:00:00Z"),
            ("Africa/Cairo", "2026-04-23T22:00:00Z"), ("Africa/Cairo", "2026-10-29T21:00:00Z"),
            ("Australia/Lord_Howe", "2026-04-04T15:00:00Z"), ("Asia/Kathmandu", "2026-01-01T00:00:00Z"),
        ]),
        windows in prop::collection::vec(any_window(), 1..6),
        holiday in (0..4_u64, 0..7_u32),
        minute in 0..2 * 24 * 60_u64,
    ) {
        let change = at(zone.1);
        let mut site = site(zone.0, &[]);
        for window in windows {
            // Two that begin together are refused; one of them is enough here.
            let _ = site.add_window(window);
        }
        let date = site.zone().local(change + Duration::from_secs(holiday.0 * 86_400)).date;
        site.add_holiday(date, Weekday::of_number(holiday.1).unwrap()).unwrap();
        let now = change.minus(Duration::from_secs(86_400)) + Duration::from_millis(minute * MINUTE);
        let shown = minutes(site.zone(), change);
        let (open, edges) = naive(&site, &shown);

        let after = |set: &BTreeSet<Utc>| set.range(now + Duration::from_millis(1)..).next().copied();
        let verdict = site.in_windows(now, &Used::new());
        match verdict {
            Verdict::Open { until } => {
                prop_assert!(open.contains(&now));
                let ends = shown.iter().map(|(at, _)| *at).find(|at| *at > now && !open.contains(at));
                if let Some(ends) = ends {
                    prop_assert_eq!(until, Some(ends));
                }
            }
            Verdict::Closed(closed) => {
                prop_assert!(!open.contains(&now));
                if let Some(opens) = after(&open) {
                    prop_assert_eq!(closed.opens, Some(opens));
                }
            }
        }
        if let Some(edge) = after(&edges) {
            prop_assert_eq!(site.edge_after(now), Some(edge));
        }
    }
}
