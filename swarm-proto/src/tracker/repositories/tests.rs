//! Small worlds of seeds, by hand; then many, at random.

use proptest::prelude::*;

use super::*;
use crate::time::Utc;

const GIB: u64 = 1 << 30;

fn seed(n: u8) -> DeviceId {
    DeviceId::from([n; 32])
}

fn item(n: u8) -> ItemId {
    ItemId::from([n; 32])
}

fn at(secs: u64) -> Now {
    Now::new(Mono::from_millis(secs * 1_000), Utc::from_secs(1_800_000_000 + secs))
}

/// So many seeds, all here, with room for everything.
fn world(seeds: u8) -> Repositories {
    let mut repositories = Repositories::new(Config::default());
    for n in 1..=seeds {
        repositories.handle_enrolled(at(0), seed(n), false);
        repositories.handle_arrived(at(0), seed(n));
        repositories.handle_room(at(0), seed(n), 100 * GIB);
    }
    repositories
}

fn told(repositories: &mut Repositories) -> Vec<DeviceId> {
    std::iter::from_fn(|| repositories.poll_action()).map(|Action::Tell(seed)| seed).collect()
}

/// Every seed fetches what it shall and drops what it may, until nothing is left to do.
fn obey(repositories: &mut Repositories, now: Now) {
    loop {
        let here: Vec<DeviceId> = repositories.seeds.iter().filter(|(_, it)| it.here).map(|(seed, _)| *seed).collect();
        let mut moved = false;
        for seed in here {
            for item in repositories.to_hold(&seed) {
                moved |= repositories.seeds[&seed].held(&item) != Held::Copy;
                repositories.handle_holding(now, seed, item, Held::Copy);
            }
            for item in repositories.to_drop(&seed) {
                moved = true;
                repositories.handle_holding(now, seed, item, Held::Nothing);
            }
        }
        if !moved {
            return;
        }
    }
}

fn holders(repositories: &Repositories, n: u8) -> Vec<DeviceId> {
    let holds = |it: &Seed| it.held(&item(n)) == Held::Copy;
    repositories.seeds.iter().filter(|(_, it)| holds(it)).map(|(seed, _)| *seed).collect()
}

fn publish(repositories: &mut Repositories, n: u8, on: u8) {
    repositories.handle_holding(at(0), seed(on), item(n), Held::Copy);
    repositories.handle_item(at(0), item(n), GIB);
}

#[test]
fn item_published_on_one_seed_is_put_on_a_second_and_no_third() {
    let mut repositories = world(3);
    publish(&mut repositories, 7, 1);
    let copies = repositories.copies(&item(7));
    assert_eq!((copies.held, copies.wanted, copies.planned.len(), copies.no_room), (1, 2, 1, false));
    assert!(told(&mut repositories).contains(&copies.planned[0]));
    obey(&mut repositories, at(1));
    assert_eq!(holders(&repositories, 7), [seed(1), copies.planned[0]]);
    assert_eq!(repositories.short().count(), 0);
}

#[test]
fn one_seed_alone_keeps_one_copy_and_lacks_nothing() {
    let mut repositories = world(1);
    publish(&mut repositories, 7, 1);
    assert_eq!(repositories.copies(&item(7)), Copies { held: 1, wanted: 1, planned: Vec::new(), no_room: false });
    assert_eq!(repositories.short().count(), 0);
}

#[test]
fn seed_that_is_away_for_too_long_is_replaced_and_not_before() {
    let mut repositories = world(3);
    publish(&mut repositories, 7, 1);
    obey(&mut repositories, at(1));
    repositories.handle_departed(at(10), seed(1));
    assert_eq!(repositories.poll_timeout(), Some(at(10 + 15 * 60).mono));
    repositories.handle_timeout(at(9 + 15 * 60));
    assert!(repositories.copies(&item(7)).planned.is_empty());
    repositories.handle_timeout(at(10 + 15 * 60));
    assert_eq!(repositories.overview(&seed(1)).map(|it| it.standing), Some(Standing::Lost));
    obey(&mut repositories, at(1_000));
    assert_eq!(holders(&repositories, 7), [seed(1), seed(2), seed(3)]);

    repositories.handle_arrived(at(2_000), seed(1));
    obey(&mut repositories, at(2_000));
    assert_eq!(holders(&repositories, 7).len(), 3, "a copy too many is no reason to delete one");
}

#[test]
fn seed_that_comes_back_in_time_is_not_replaced() {
    let mut repositories = world(3);
    publish(&mut repositories, 7, 1);
    obey(&mut repositories, at(1));
    repositories.handle_departed(at(10), seed(1));
    repositories.handle_arrived(at(100), seed(1));
    repositories.handle_timeout(at(10_000));
    assert_eq!(repositories.poll_timeout(), None);
    assert!(repositories.copies(&item(7)).planned.is_empty());
}

#[test]
fn draining_seed_keeps_its_copy_until_another_has_one() {
    let mut repositories = world(2);
    publish(&mut repositories, 7, 1);
    let other = repositories.copies(&item(7)).planned[0];
    repositories.handle_drain(at(1), seed(1), true);
    assert!(repositories.to_drop(&seed(1)).is_empty());
    repositories.handle_holding(at(2), other, item(7), Held::Part);
    assert!(repositories.to_drop(&seed(1)).is_empty());
    assert_eq!(repositories.overview(&seed(1)).map(|it| it.standing), Some(Standing::Draining));
    repositories.handle_holding(at(3), other, item(7), Held::Copy);
    assert_eq!(repositories.to_drop(&seed(1)), [item(7)]);
    assert!(told(&mut repositories).contains(&seed(1)));
    obey(&mut repositories, at(4));
    assert_eq!(holders(&repositories, 7), [other]);
    assert_eq!(repositories.overview(&seed(1)).map(|it| it.standing), Some(Standing::Drained));
}

#[test]
fn last_seed_cannot_be_drained() {
    let mut repositories = world(1);
    publish(&mut repositories, 7, 1);
    repositories.handle_drain(at(1), seed(1), true);
    assert!(repositories.to_drop(&seed(1)).is_empty());
    repositories.handle_enrolled(at(2), seed(2), false);
    repositories.handle_arrived(at(2), seed(2));
    repositories.handle_room(at(2), seed(2), 100 * GIB);
    assert_eq!(repositories.to_hold(&seed(2)), [item(7)], "a new seed fills itself from the others");
    obey(&mut repositories, at(3));
    assert_eq!(holders(&repositories, 7), [seed(2)]);
}

#[test]
fn drain_that_is_called_off_deletes_nothing_more() {
    let mut repositories = world(3);
    publish(&mut repositories, 7, 1);
    obey(&mut repositories, at(1));
    repositories.handle_drain(at(2), seed(1), true);
    repositories.handle_drain(at(3), seed(1), false);
    assert!(repositories.to_drop(&seed(1)).is_empty());
    assert!(repositories.copies(&item(7)).held >= 2);
}

#[test]
fn item_goes_only_where_it_fits_and_as_soon_as_it_does() {
    let mut repositories = world(2);
    repositories.handle_room(at(0), seed(2), GIB / 2);
    publish(&mut repositories, 7, 1);
    assert!(repositories.copies(&item(7)).no_room);
    repositories.handle_room(at(1), seed(2), 3 * GIB);
    assert_eq!(repositories.copies(&item(7)).planned, [seed(2)]);
}

#[test]
fn room_that_is_promised_is_not_promised_again() {
    let mut repositories = world(2);
    repositories.handle_room(at(0), seed(2), 5 * GIB / 2);
    for n in 1..=4 {
        publish(&mut repositories, n, 1);
    }
    assert_eq!(repositories.to_hold(&seed(2)).len(), 2);
    assert_eq!((1..=4).filter(|n| repositories.copies(&item(*n)).no_room).count(), 2);
}

#[test]
fn copy_that_is_not_believed_is_made_anew_elsewhere() {
    let mut repositories = world(3);
    publish(&mut repositories, 7, 1);
    obey(&mut repositories, at(1));
    let second = holders(&repositories, 7)[1];
    repositories.handle_doubt(at(2), second, item(7), true);
    let planned = repositories.copies(&item(7)).planned;
    assert!(planned.len() == 1 && planned[0] != second && planned[0] != seed(1));
    repositories.handle_doubt(at(3), second, item(7), false);
    assert!(repositories.copies(&item(7)).planned.is_empty());
}

#[test]
fn withdrawn_title_is_copied_no_more_and_deleted_nowhere() {
    let mut repositories = world(3);
    publish(&mut repositories, 7, 1);
    repositories.handle_item_gone(at(1), &item(7));
    assert!((1..=3).all(|n| repositories.to_hold(&seed(n)).is_empty()));
    assert_eq!(holders(&repositories, 7), [seed(1)]);
}

#[test]
fn many_items_spread_over_the_seeds_by_their_room() {
    let mut repositories = world(3);
    repositories.handle_room(at(0), seed(3), 400 * GIB);
    for n in 1..=60 {
        repositories.handle_item(at(0), item(n), GIB / 100);
    }
    let shares: Vec<usize> = (1..=3).map(|n| repositories.to_hold(&seed(n)).len()).collect();
    assert_eq!(shares.iter().sum::<usize>(), 120);
    assert!(shares[2] > shares[0] && shares[2] > shares[1], "{shares:?}");
}

#[derive(Debug, Clone)]
enum Step {
    Publish(u8, u8),
    Come(u8),
    Go(u8),
    Drain(u8, bool),
    Obey,
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let n = 1..=5_u8;
    prop_oneof![
        (1..=9_u8, n.clone()).prop_map(|(item, on)| Step::Publish(item, on)),
        n.clone().prop_map(Step::Come),
        n.clone().prop_map(Step::Go),
        (n, any::<bool>()).prop_map(|(n, draining)| Step::Drain(n, draining)),
        Just(Step::Obey),
        (1..2_000_u64).prop_map(Step::Wait),
    ]
}

proptest! {
    #[test]
    fn nothing_that_was_published_is_ever_deleted_everywhere(steps in prop::collection::vec(step(), 1..80)) {
        let (mut repositories, mut secs) = (world(5), 0);
        let mut published = BTreeSet::new();
        for step in steps {
            match step {
                Step::Publish(n, on) => {
                    publish(&mut repositories, n, on);
                    published.insert(n);
                }
                Step::Come(n) => repositories.handle_arrived(at(secs), seed(n)),
                Step::Go(n) => repositories.handle_departed(at(secs), seed(n)),
                Step::Drain(n, draining) => repositories.handle_drain(at(secs), seed(n), draining),
                Step::Obey => obey(&mut repositories, at(secs)),
                Step::Wait(more) => {
                    secs += more;
                    repositories.handle_timeout(at(secs));
                }
            }
            for n in &published {
                prop_assert!(!holders(&repositories, *n).is_empty(), "item {} is gone", n);
            }
            for known in repositories.seeds.values() {
                prop_assert_eq!(known.assigned.values().sum::<u64>(), known.promised_bytes);
            }
        }
        // With everyone here and obeying, as many copies as are wanted.
        (1..=5).for_each(|n| repositories.handle_arrived(at(secs), seed(n)));
        obey(&mut repositories, at(secs));
        for n in &published {
            let copies = repositories.copies(&item(*n));
            prop_assert!(copies.held >= copies.wanted, "{:?}", copies);
        }
    }

    #[test]
    fn nothing_moves_while_nothing_happens(items in 1..40_u8, seeds in 1..6_u8) {
        let mut repositories = world(seeds);
        (1..=items).for_each(|n| publish(&mut repositories, n, 1 + n % seeds));
        obey(&mut repositories, at(1));
        told(&mut repositories);
        for n in 1..=seeds {
            repositories.handle_room(at(50), seed(n), 90 * GIB);
            repositories.handle_departed(at(60), seed(n));
            repositories.handle_arrived(at(70), seed(n));
        }
        let arrived: Vec<DeviceId> = (1..=seeds).map(seed).collect();
        prop_assert_eq!(told(&mut repositories), arrived, "each is told once when it comes, and what it knows");
        prop_assert!((1..=seeds).all(|n| repositories.overview(&seed(n)).is_some_and(|it| it.to_fetch == 0)));
    }
}
