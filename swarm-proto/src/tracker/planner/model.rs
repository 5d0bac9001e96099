//! The planner against what could be counted by hand, after every one of many random events.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::tests::{CHUNKS, ITEM, MB, SEED, at, id};
use super::*;
use crate::limit::Limit;

/// Something that happens to a swarm of boxes 0 to 5 and seeds 6 and 7, at two sites, of five customers.
#[derive(Debug, Clone)]
enum Event {
    Arrive(u8),
    Depart(u8),
    Revoke(u8),
    Hold(u8, u8, Vec<bool>),
    Link(u8, Link),
    Stall(u8, u8, u8),
    Reach(u8, Reach),
    Wish { n: u8, item: u8, missing: Vec<bool>, class: TicketClass, rank: u32, open_ms: Option<u64> },
    Withdraw(u8, u8),
    Origin(bool),
    Site(Limit<u64>),
    Wait(u64),
}

const DEVICES: u8 = 8;
const ITEMS: u8 = 3;

fn item(n: u8) -> ItemId {
    if n == 0 { ITEM } else { ItemId::from_bytes([100 + n; 32]) }
}

fn site(n: u8) -> SiteId {
    SiteId::new(if n.is_multiple_of(3) { "south" } else { "north" }).expect("a label")
}

fn chunks() -> impl Strategy<Value = Vec<bool>> {
    prop_oneof![
        3 => proptest::collection::vec(any::<bool>(), CHUNKS as usize),
        2 => Just(vec![true; CHUNKS as usize]),
    ]
}

fn link() -> impl Strategy<Value = Link> {
    let rate = || proptest::option::of(0..20 * MB);
    (rate(), rate(), proptest::option::weighted(0.3, 0..3 * MB)).prop_map(|(up, down, cap)| Link {
        uplink_bytes_per_sec: up,
        downlink_bytes_per_sec: down,
        upload_cap_bytes_per_sec: cap,
    })
}

fn class() -> impl Strategy<Value = TicketClass> {
    prop_oneof![Just(TicketClass::Playing), Just(TicketClass::Queued), Just(TicketClass::Preload)]
}

fn event() -> impl Strategy<Value = Event> {
    let device = 0..DEVICES;
    let items = 0..ITEMS;
    let wish =
        (device.clone(), items.clone(), chunks(), class(), 0..4_u32, proptest::option::weighted(0.2, 0..9_000_u64));
    prop_oneof![
        4 => device.clone().prop_map(Event::Arrive),
        1 => device.clone().prop_map(Event::Depart),
        1 => (0..40_u8).prop_map(Event::Revoke),
        4 => (device.clone(), items.clone(), chunks()).prop_map(|(n, item, chunks)| Event::Hold(n, item, chunks)),
        2 => (device.clone(), link()).prop_map(|(n, link)| Event::Link(n, link)),
        2 => (device.clone(), items.clone(), device.clone()).prop_map(|(n, item, source)| Event::Stall(n, item, source)),
        1 => (device.clone(), prop_oneof![Just(Reach::Open), Just(Reach::Punchable), Just(Reach::Closed)])
            .prop_map(|(n, reach)| Event::Reach(n, reach)),
        8 => wish.prop_map(|(n, item, missing, class, rank, open_ms)| Event::Wish { n, item, missing, class, rank, open_ms }),
        1 => (device, items).prop_map(|(n, item)| Event::Withdraw(n, item)),
        1 => any::<bool>().prop_map(Event::Origin),
        1 => prop_oneof![Just(Limit::Unlimited), (0..20 * MB).prop_map(Limit::Of)].prop_map(Event::Site),
        1 => (0..20_000_u64).prop_map(Event::Wait),
    ]
}

fn runs_of(chunks: &[bool]) -> Vec<Range<u32>> {
    let mut set = ChunkSet::empty(CHUNKS);
    for (chunk, _) in (0..).zip(chunks).filter(|(_, is_in)| **is_in) {
        set.insert(chunk);
    }
    set.ranges()
}

/// What a slow and simple tracker would know.
#[derive(Default)]
struct Naive {
    online: BTreeSet<u8>,
    revoked: BTreeSet<u8>,
    holds: BTreeMap<(u8, u8), Vec<Range<u32>>>,
    seeds_may_send: bool,
}

/// What the planner keeps to know things quickly agrees with what it could count, and nothing is promised twice.
fn check_books(planner: &Planner, naive: &Naive, now: Now) -> Result<(), TestCaseError> {
    let mut promised: BTreeMap<Slot, u64> = BTreeMap::new();
    let mut accounts: BTreeMap<AccountId, u64> = BTreeMap::new();
    for (no, lease) in &planner.leases {
        let asked = &planner.wishes[lease.wish as usize];
        prop_assert!(asked.leases.contains(&number_of(no)));
        prop_assert!(planner.crowd.device(lease.source).serves.contains(&number_of(no)));
        prop_assert!(lease.rate_bytes_per_sec > 0);
        prop_assert_ne!(lease.source, asked.slot);
        *promised.entry(lease.source).or_default() += lease.rate_bytes_per_sec;
        *accounts.entry(planner.crowd.device(asked.slot).account).or_default() += lease.rate_bytes_per_sec;
    }
    prop_assert_eq!(&accounts, &planner.accounts);
    for n in 0..DEVICES {
        let slot = planner.crowd.slot(&id(n)).expect("enrolled");
        let device = planner.crowd.device(slot);
        prop_assert_eq!(device.is_online(), naive.online.contains(&n) && !naive.revoked.contains(&n));
        let sum = promised.get(&slot).copied().unwrap_or(0);
        prop_assert_eq!(device.promised_bytes_per_sec, sum);
        prop_assert!(
            sum <= device.uplink_bytes_per_sec(),
            "no lease above capacity: {} of {}",
            sum,
            device.uplink_bytes_per_sec()
        );
        if !device.may_send() {
            prop_assert_eq!(sum, 0, "a device that must not send has leases");
        }
        let incoming: u64 =
            device.wishes.iter().map(|(_, wish)| planner.wishes[*wish as usize].rate_bytes_per_sec).sum();
        prop_assert_eq!(device.incoming_bytes_per_sec, incoming);
    }
    for (_, asked) in &planner.wishes {
        let sum: u64 = asked.leases.iter().map(|no| planner.leases[*no as usize].rate_bytes_per_sec).sum();
        prop_assert_eq!(asked.rate_bytes_per_sec, sum);
        prop_assert!(asked.ends > now.mono, "a lease outlives its time");
        prop_assert!(planner.crowd.device(asked.slot).is_online());
    }
    for n in 0..ITEMS {
        let holders: BTreeMap<DeviceId, Vec<Range<u32>>> =
            planner.holders(&item(n)).map(|(device, held)| (device, held.runs())).collect();
        let naive = naive.holds.iter().filter(|((_, of), runs)| *of == n && !runs.is_empty());
        prop_assert_eq!(holders, naive.map(|((device, _), runs)| (id(*device), runs.clone())).collect());
        let Some(no) = planner.crowd.item_no(&item(n)) else { continue };
        planner.crowd.check(no).map_err(TestCaseError::fail)?;
        let asking = planner.wishes.iter().filter(|(_, asked)| asked.item == no);
        let missing: u64 = asking.map(|(_, asked)| u64::from(asked.missing.len())).sum();
        prop_assert_eq!(planner.crowd.item(no).missing, missing);
    }
    let due = planner.wishes.len()
        + planner.wishes.iter().filter(|(_, asked)| asked.redraw.is_some()).count()
        + usize::from(DEVICES)
        - (0..DEVICES).filter(|n| !planner.is_online(&id(*n))).count();
    prop_assert_eq!(planner.timers.len(), due);
    Ok(())
}

fn check_plan(
    planner: &Planner,
    naive: &Naive,
    now: Now,
    wish: &Wish,
    n: u8,
    of: u8,
    plan: &Plan,
) -> Result<(), TestCaseError> {
    let missing = ChunkSet::from_ranges(CHUNKS, wish.missing.iter().cloned());
    let asker = planner.crowd.device(planner.crowd.slot(&wish.device).expect("enrolled"));
    let mut portions = ChunkSet::empty(CHUNKS);
    for lease in &plan.leases {
        let source = (0..DEVICES).find(|n| id(*n) == lease.source).expect("one of ours");
        prop_assert_ne!(source, n);
        prop_assert!(naive.online.contains(&source) && !naive.revoked.contains(&source));
        prop_assert!(!asker.is_avoiding(planner.crowd.slot(&lease.source).expect("enrolled"), now.mono));
        prop_assert!(naive.seeds_may_send || lease.kind == DeviceKind::Box || site(n) != site(1));
        let holds = naive.holds.get(&(source, of)).cloned().unwrap_or_default();
        let holds = ChunkSet::from_ranges(CHUNKS, holds);
        for chunk in lease.portions.iter().cloned().flatten() {
            prop_assert!(holds.contains(chunk), "a portion names what its source lacks");
            prop_assert!(missing.contains(chunk), "a portion names what is not missing");
            prop_assert!(portions.insert(chunk), "portions overlap");
        }
        prop_assert!(lease.planned_bytes_per_sec > 0);
    }
    prop_assert_eq!(plan.leases.is_empty(), plan.waiting.is_some());
    if let Some(downlink) = asker.link.downlink_bytes_per_sec {
        // What is there for single chunks may go a little beyond.
        let beyond = planner.config.least_bytes_per_sec * planner.config.max_leases as u64;
        let planned: u64 = plan.leases.iter().map(|lease| lease.planned_bytes_per_sec).sum();
        prop_assert!(planned <= downlink.saturating_add(beyond), "{planned} over a link of {downlink}");
    }
    Ok(())
}

proptest! {
    #[test]
    fn plans_keep_their_promises_whatever_happens(events in proptest::collection::vec(event(), 1..80)) {
        let mut planner = Planner::new(SEED, Config::default());
        let mut naive = Naive { seeds_may_send: true, ..Naive::default() };
        for n in 0..DEVICES {
            let kind = if n < 6 { DeviceKind::Box } else { DeviceKind::Seed };
            let profile = Profile { kind, site: site(n), account: AccountId::from([n % 5; 16]) };
            planner.handle_enrolled(at(0), id(n), &profile);
        }
        let mut ms = 0;
        for event in events {
            ms += 7;
            let now = at(ms);
            match event {
                Event::Arrive(n) => {
                    planner.handle_arrived(now, id(n));
                    if !naive.revoked.contains(&n) {
                        naive.online.insert(n);
                    }
                }
                Event::Depart(n) => {
                    planner.handle_departed(now, id(n));
                    naive.online.remove(&n);
                }
                Event::Revoke(n) if n < DEVICES => {
                    planner.handle_revoked(now, id(n));
                    naive.online.remove(&n);
                    naive.revoked.insert(n);
                }
                Event::Revoke(_) => {}
                Event::Hold(n, of, chunks) => {
                    let runs = runs_of(&chunks);
                    let holding = Holding::from_runs(CHUNKS, runs.iter().cloned()).expect("runs of the item");
                    planner.handle_holding(now, id(n), item(of), &holding);
                    naive.holds.insert((n, of), runs);
                }
                Event::Link(n, link) => planner.handle_heartbeat(now, id(n), link),
                Event::Stall(n, of, source) => planner.handle_stall(now, id(n), item(of), id(source)),
                Event::Reach(n, reach) => planner.handle_reach(id(n), reach),
                Event::Wish { n, item: of, missing, class, rank, open_ms } => {
                    let until = open_ms.map(|ms| now.utc + std::time::Duration::from_millis(ms));
                    let missing = runs_of(&missing);
                    let wish = Wish { device: id(n), item: item(of), n_chunks: CHUNKS, missing, class, rank, until };
                    let plan = planner.plan(now, &wish);
                    check_plan(&planner, &naive, now, &wish, n, of, &plan)?;
                }
                Event::Withdraw(n, of) => planner.handle_withdrawn(id(n), item(of)),
                Event::Origin(open) => {
                    planner.handle_origin(now, &site(1), open);
                    naive.seeds_may_send = open;
                }
                Event::Site(inbound_bytes_per_sec) => {
                    planner.handle_site(&site(1), &SiteRules { inbound_bytes_per_sec, costs: BTreeMap::new() });
                }
                Event::Wait(more) => ms += more,
            }
            let now = at(ms);
            while planner.poll_timeout().is_some_and(|due| due <= now.mono) {
                planner.handle_timeout(now);
            }
            while let Some(action) = planner.poll_action() {
                match action {
                    Action::Silent(device) => {
                        let n = (0..DEVICES).find(|n| id(*n) == device).expect("one of ours");
                        naive.online.remove(&n);
                    }
                    Action::Push { wish, plan } => {
                        prop_assert!(plan.leases.iter().all(|lease| lease.source != wish.device));
                    }
                }
            }
            check_books(&planner, &naive, now)?;
        }
    }

    #[test]
    fn same_seed_and_same_events_give_the_same_plans(wishes in proptest::collection::vec((0_u8..4, chunks()), 1..20)) {
        let run = || {
            let mut planner = Planner::new(SEED, Config::default());
            for n in 0..7 {
                let kind = if n < 6 { DeviceKind::Box } else { DeviceKind::Seed };
                let profile = Profile { kind, site: site(1), account: AccountId::from([n; 16]) };
                planner.handle_enrolled(at(0), id(n), &profile);
                planner.handle_arrived(at(0), id(n));
            }
            for n in 4..7 {
                planner.handle_holding(at(0), id(n), ITEM, &Holding::complete(CHUNKS).expect("a size"));
            }
            let mut plans = Vec::new();
            for (n, chunks) in &wishes {
                let missing = runs_of(chunks);
                let class = TicketClass::Queued;
                let wish = Wish { device: id(*n), item: ITEM, n_chunks: CHUNKS, missing, class, rank: 0, until: None };
                plans.push(planner.plan(at(1), &wish));
            }
            plans
        };
        prop_assert_eq!(run(), run());
    }
}
