//! The ledger told by hand, and against seeds that send whatever their shares let them.

use proptest::prelude::*;

use super::*;

const MIB: u64 = 1 << 20;
const BUDGET: u64 = 1_000 * MIB;
const RUN: Option<u64> = Some(1);

fn at(secs: u64) -> Utc {
    // A full hour.
    Utc::from_secs(3_600_000 + secs)
}

fn until(secs: u64) -> Utc {
    at(secs + 600)
}

fn seed(n: u8) -> DeviceId {
    DeviceId::from_bytes([n; 32])
}

fn asker(n: u8) -> Asker {
    Asker { account: AccountId::from_bytes([n; 16]), site: site("north") }
}

fn site(name: &str) -> SiteId {
    SiteId::new(name).expect("a label")
}

fn origin(bytes_per_hour: u64) -> Origin {
    Origin::new(Config { bytes_per_hour: Limit::Of(bytes_per_hour), ..Config::default() })
}

fn want(n: u8, bytes: u64) -> Want {
    Want { seed: seed(n), run: RUN, bytes }
}

fn granted(shares: &[SeedShare]) -> u64 {
    shares.iter().map(|share| share.bytes).sum()
}

#[test]
fn an_hour_is_granted_once_and_the_next_one_anew() {
    let mut origin = origin(100 * MIB);
    let first = origin.grant(at(0), 1, &asker(1), until(0), &[want(1, 60 * MIB)]);
    let second = origin.grant(at(1), 2, &asker(2), until(1), &[want(1, 60 * MIB)]);
    assert_eq!((granted(&first), granted(&second)), (60 * MIB, 40 * MIB));
    assert!(origin.grant(at(2), 3, &asker(3), until(2), &[want(1, 60 * MIB)]).is_empty());
    origin.handle_used(at(3), seed(1), 1, 60 * MIB);
    origin.handle_used(at(3), seed(1), 2, 40 * MIB);
    assert!(origin.grant(at(3_599), 4, &asker(3), until(0), &[want(1, 60 * MIB)]).is_empty());
    assert_eq!(Origin::next_hour(at(3_599)), at(3_600));
    let next = origin.grant(at(3_600), 5, &asker(3), until(3_600), &[want(1, 60 * MIB)]);
    assert_eq!(granted(&next), 60 * MIB);
}

#[test]
fn what_could_still_be_sent_counts_in_the_next_hour_too() {
    let mut origin = origin(100 * MIB);
    origin.grant(at(3_599), 1, &asker(1), until(3_599), &[want(1, 60 * MIB)]);
    let next = origin.grant(at(3_600), 2, &asker(2), until(3_600), &[want(1, 60 * MIB)]);
    assert_eq!(granted(&next), 40 * MIB);
}

#[test]
fn what_was_not_sent_comes_back_when_the_seed_has_settled() {
    let mut origin = origin(100 * MIB);
    origin.grant(at(0), 1, &asker(1), until(0), &[want(1, 60 * MIB)]);
    origin.handle_used(at(10), seed(1), 1, 20 * MIB);
    origin.handle_settled(seed(1), 1, at(599));
    assert_eq!(origin.left(at(700), &site("north")), Limit::Of(40 * MIB), "it is not over yet");
    origin.handle_settled(seed(1), 2, at(600));
    origin.handle_settled(seed(2), 1, at(600));
    assert_eq!(origin.left(at(700), &site("north")), Limit::Of(40 * MIB), "others say nothing about it");
    origin.handle_settled(seed(1), 1, at(600));
    assert_eq!(origin.left(at(700), &site("north")), Limit::Of(80 * MIB));
    assert_eq!(origin.sent(at(700), &site("north")), 20 * MIB);
    assert_eq!(origin.grant_of(1), None);
}

#[test]
fn what_a_seed_forgot_in_a_restart_counts_as_sent() {
    let mut origin = origin(100 * MIB);
    origin.grant(at(0), 1, &asker(1), until(0), &[want(1, 60 * MIB)]);
    origin.handle_run(at(1), seed(1), RUN);
    assert_eq!(origin.sent(at(1), &site("north")), 0);
    origin.handle_run(at(2), seed(1), Some(2));
    assert_eq!((origin.sent(at(2), &site("north")), origin.open(&site("north"))), (60 * MIB, 0));
    let after = Want { run: Some(2), ..want(1, 60 * MIB) };
    assert_eq!(granted(&origin.grant(at(3), 2, &asker(1), until(3), &[after])), 40 * MIB);
}

#[test]
fn a_seed_neither_takes_back_nor_sends_more_than_its_share() {
    let mut origin = origin(100 * MIB);
    origin.grant(at(0), 1, &asker(1), until(0), &[want(1, 60 * MIB)]);
    for said in [20 * MIB, 5 * MIB, u64::MAX, 0] {
        origin.handle_used(at(1), seed(1), 1, said);
        origin.handle_used(at(1), seed(2), 1, said);
        origin.handle_used(at(1), seed(1), 7, said);
    }
    assert_eq!((origin.sent(at(1), &site("north")), origin.open(&site("north"))), (60 * MIB, 0));
}

#[test]
fn zero_is_zero_and_a_site_of_its_own_has_its_own_number() {
    let sites = BTreeMap::from([(site("free"), Limit::Unlimited), (site("north"), Limit::Of(0))]);
    let mut origin = Origin::new(Config { bytes_per_hour: Limit::Of(64 * MIB), sites, ..Config::default() });
    assert!(origin.grant(at(0), 1, &asker(1), until(0), &[want(1, MIB)]).is_empty());
    let free = Asker { site: site("free"), ..asker(1) };
    let shares = origin.grant(at(0), 2, &free, until(0), &[want(1, 1 << 40)]);
    assert_eq!(shares, [SeedShare { seed: seed(1), bytes: 1 << 40, run: None }]);
    let south = Asker { site: site("south"), ..asker(1) };
    assert_eq!(granted(&origin.grant(at(0), 3, &south, until(0), &[want(1, 1 << 40)])), 64 * MIB);
}

#[test]
fn one_customer_cannot_hold_the_whole_hour() {
    let mut origin = origin(BUDGET);
    let held: u64 = (0..100).map(|n| granted(&origin.grant(at(n), n, &asker(1), until(n), &[want(1, 64 * MIB)]))).sum();
    assert_eq!(held, BUDGET / ACCOUNT_DIVISOR);
    assert_eq!(granted(&origin.grant(at(100), 100, &asker(2), until(0), &[want(1, 64 * MIB)])), 64 * MIB);
}

#[test]
fn a_seed_that_does_not_say_its_run_gets_no_share_of_a_budget() {
    let mut origin = origin(BUDGET);
    let silent = Want { run: None, ..want(1, MIB) };
    let shares = origin.grant(at(0), 1, &asker(1), until(0), &[silent, want(2, MIB)]);
    assert_eq!(shares.iter().map(|share| share.seed).collect::<Vec<_>>(), [seed(2)]);
}

#[test]
fn crumbs_are_not_granted() {
    let mut origin = origin(100 * MIB + MIB / 2);
    origin.grant(at(0), 1, &asker(1), until(0), &[want(1, 64 * MIB)]);
    assert_eq!(granted(&origin.grant(at(0), 2, &asker(2), until(0), &[want(1, 36 * MIB)])), 36 * MIB);
    assert!(origin.grant(at(0), 3, &asker(3), until(0), &[want(1, 2 * MIB)]).is_empty());
    assert_eq!(granted(&origin.grant(at(0), 4, &asker(4), until(0), &[want(1, MIB / 4)])), MIB / 4, "a short item");
}

#[test]
fn a_clock_that_goes_back_makes_no_new_hour() {
    let mut origin = origin(100 * MIB);
    origin.grant(at(7_200), 1, &asker(1), until(7_200), &[want(1, 60 * MIB)]);
    origin.handle_used(at(7_200), seed(1), 1, 60 * MIB);
    assert_eq!(origin.left(at(0), &site("north")), Limit::Of(40 * MIB));
    origin.grant(at(0), 2, &asker(2), until(0), &[want(1, 60 * MIB)]);
    origin.handle_used(at(0), seed(1), 2, 40 * MIB);
    assert_eq!(origin.left(at(0), &site("north")), Limit::Of(0));
    assert_eq!(origin.left(at(3_600), &site("north")), Limit::Of(100 * MIB));
}

#[test]
fn a_restarted_tracker_knows_what_it_has_granted() {
    let mut before = origin(100 * MIB);
    before.grant(at(0), 1, &asker(1), until(0), &[want(1, 30 * MIB), want(2, 30 * MIB)]);
    before.handle_used(at(1), seed(1), 1, 10 * MIB);
    let mut after = origin(100 * MIB);
    after.restore_hour(site("north"), before.hour_of(&site("north")));
    after.restore_grant(before.grant_of(1).unwrap().clone());
    assert_eq!(after.left(at(2), &site("north")), Limit::Of(40 * MIB));
    after.handle_used(at(3), seed(1), 1, 10 * MIB);
    assert_eq!(after.left(at(3), &site("north")), Limit::Of(40 * MIB), "it was told before");
    let changed = Changes { serials: BTreeSet::from([1]), sites: BTreeSet::from([site("north")]) };
    assert_eq!((before.take_changes(), after.take_changes()), (changed, Changes::default()));
}

#[test]
fn a_share_that_nobody_settles_comes_back_when_no_seed_honours_it_any_more() {
    let mut origin = origin(100 * MIB);
    origin.grant(at(0), 1, &asker(1), until(0), &[want(1, 64 * MIB)]);
    let over = 600 + 24 * 3_600 + SKEW.as_secs();
    assert!(granted(&origin.grant(at(over - 1), 2, &asker(2), until(over - 1), &[want(1, 64 * MIB)])) < 64 * MIB);
    let shares = origin.grant(at(over), 3, &asker(3), until(over), &[want(1, 64 * MIB)]);
    assert_eq!(granted(&shares), 64 * MIB);
    assert_eq!(origin.take_changes().serials, BTreeSet::from([1]));
}

/// A seed that sends whatever it can, and the link between it and the tracker.
#[derive(Debug, Default)]
struct Cheat {
    run: u64,
    settled: Utc,
    /// Serial → (run, bytes, until, sent).
    shares: BTreeMap<u64, (u64, u64, Utc, u64)>,
    hears_tracker: bool,
}

#[derive(Debug, Clone)]
enum Event {
    Ask { asker: u8, bytes: u64, seeds: u8 },
    Send { seed: u8, pick: usize, bytes: u64 },
    Report { seed: u8 },
    Restart { seed: u8 },
    Cut { seed: u8 },
    Wait { secs: u64 },
    TrackerRestart,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => (0..4u8, 1..400 * MIB, 1..4u8).prop_map(|(asker, bytes, seeds)| Event::Ask { asker, bytes, seeds }),
        8 => (0..2u8, any::<usize>(), 1..200 * MIB).prop_map(|(seed, pick, bytes)| Event::Send { seed, pick, bytes }),
        3 => (0..2u8).prop_map(|seed| Event::Report { seed }),
        1 => (0..2u8).prop_map(|seed| Event::Restart { seed }),
        1 => (0..2u8).prop_map(|seed| Event::Cut { seed }),
        4 => (1..1_200u64).prop_map(|secs| Event::Wait { secs }),
        1 => Just(Event::TrackerRestart),
    ]
}

proptest! {
    /// Boxes keep every ticket and use it at every seed as late as they can; seeds restart, lose the tracker and come
    /// back; the tracker restarts from what it wrote down.
    #[test]
    fn seeds_never_send_more_in_an_hour_than_the_budget(events in prop::collection::vec(event(), 1..200)) {
        let mut origin = origin(BUDGET);
        let mut seeds = [Cheat::default(), Cheat::default()];
        for (n, it) in seeds.iter_mut().enumerate() {
            (it.run, it.hears_tracker) = (1, true);
            origin.handle_run(at(0), seed(n as u8), Some(1));
        }
        let (mut now, mut serial) = (0, 0);
        let mut sent_in: BTreeMap<u64, u64> = BTreeMap::new();
        for event in events {
            match event {
                Event::Ask { asker: n, bytes, seeds: which } => {
                    serial += 1;
                    let wants: Vec<Want> = (0..2u8)
                        .filter(|n| which & (1 << n) != 0)
                        .map(|n| Want { seed: seed(n), run: Some(seeds[n as usize].run), bytes })
                        .collect();
                    for share in origin.grant(at(now), serial, &asker(n), until(now), &wants) {
                        let n = share.seed.as_bytes()[0] as usize;
                        let run = share.run.expect("budgets name the run");
                        seeds[n].shares.insert(serial, (run, share.bytes, until(now), 0));
                    }
                }
                Event::Send { seed: n, pick, bytes } => {
                    let it = &mut seeds[n as usize];
                    let end = |until: Utc| if it.hears_tracker { until } else { until + Duration::from_secs(24 * 3_600) };
                    let (settled, run) = (it.settled, it.run);
                    let good: Vec<u64> = it
                        .shares
                        .iter()
                        .filter(|(_, (r, _, until, _))| *r == run && end(*until) > at(now) && *until > settled)
                        .map(|(serial, _)| *serial)
                        .collect();
                    if !good.is_empty() {
                        let share = it.shares.get_mut(&good[pick % good.len()]).expect("one of them");
                        let sent = bytes.min(share.1 - share.3);
                        share.3 += sent;
                        *sent_in.entry(hour_of(at(now))).or_default() += sent;
                    }
                }
                Event::Report { seed: n } => {
                    let it = &mut seeds[n as usize];
                    if it.hears_tracker {
                        it.settled = at(now);
                        for (&serial, &(run, _, _, sent)) in &it.shares {
                            if run == it.run {
                                origin.handle_used(at(now), seed(n), serial, sent);
                            }
                        }
                        origin.handle_settled(seed(n), it.run, it.settled);
                    }
                }
                Event::Restart { seed: n } => {
                    let it = &mut seeds[n as usize];
                    it.run += 1;
                    it.settled = Utc::EPOCH;
                    it.hears_tracker = true;
                    origin.handle_run(at(now), seed(n), Some(it.run));
                }
                Event::Cut { seed: n } => {
                    let it = &mut seeds[n as usize];
                    it.hears_tracker = !it.hears_tracker;
                }
                Event::Wait { secs } => now += secs,
                Event::TrackerRestart => {
                    let mut after = self::origin(BUDGET);
                    after.restore_hour(site("north"), origin.hour_of(&site("north")));
                    (0..=serial).filter_map(|it| origin.grant_of(it)).for_each(|it| after.restore_grant(it.clone()));
                    origin = after;
                }
            }
            for (hour, sent) in &sent_in {
                prop_assert!(*sent <= BUDGET, "{sent} bytes in hour {hour}");
            }
            let known = origin.sent(at(now), &site("north")) + origin.open(&site("north"));
            prop_assert!(known <= BUDGET, "{known} bytes are debited");
        }
    }
}
