//! What the planner promises, as single stories and as invariants over random ones.

#![allow(clippy::single_range_in_vec_init, reason = "one run of chunks is meant, not its chunks")]

use std::time::Duration;

use super::*;
use crate::limit::Limit;

pub(super) const SEED: [u8; 32] = [7; 32];
pub(super) const MB: u64 = 1_000_000;
pub(super) const ITEM: ItemId = ItemId::from_bytes([1; 32]);
pub(super) const CHUNKS: u32 = 24;

pub(super) fn at(ms: u64) -> Now {
    Now::new(Mono::from_millis(ms), Utc::from_secs(1_800_000_000) + Duration::from_millis(ms))
}

pub(super) fn id(n: u8) -> DeviceId {
    DeviceId::from([n; 32])
}

fn runs(of: &[Range<u32>]) -> Holding {
    Holding::from_runs(CHUNKS, of.iter().cloned()).expect("runs of the item")
}

fn copy() -> Holding {
    runs(&[0..CHUNKS])
}

/// A planner and short words for what happens to it.
struct Story(Planner);

impl Story {
    fn new() -> Story {
        Story::with(Config::default())
    }

    fn with(config: Config) -> Story {
        Story(Planner::new(SEED, config))
    }

    fn device(&mut self, n: u8, kind: DeviceKind, site: &str) -> &mut Story {
        let profile = Profile { kind, site: SiteId::new(site).expect("a label"), account: AccountId::from([n; 16]) };
        self.0.handle_enrolled(at(0), id(n), &profile);
        self.0.handle_arrived(at(0), id(n));
        self
    }

    fn boxes(&mut self, of: impl IntoIterator<Item = u8>) -> &mut Story {
        for n in of {
            self.device(n, DeviceKind::Box, "north");
        }
        self
    }

    fn seed(&mut self, n: u8) -> &mut Story {
        self.device(n, DeviceKind::Seed, "north").holds(n, copy())
    }

    fn holds(&mut self, n: u8, holding: Holding) -> &mut Story {
        self.0.handle_holding(at(0), id(n), ITEM, &holding);
        self
    }

    fn uplink(&mut self, n: u8, bytes_per_sec: u64) -> &mut Story {
        let link = Link { uplink_bytes_per_sec: Some(bytes_per_sec), ..Link::default() };
        self.0.handle_heartbeat(at(0), id(n), link);
        self
    }

    fn ask(&mut self, ms: u64, n: u8) -> Plan {
        self.0.plan(at(ms), &wish(n, &[0..CHUNKS]))
    }

    fn pushed(&mut self, ms: u64) -> Vec<(DeviceId, Plan)> {
        self.0.handle_timeout(at(ms));
        let mut pushed = Vec::new();
        while let Some(action) = self.0.poll_action() {
            if let Action::Push { wish, plan } = action {
                pushed.push((wish.device, plan));
            }
        }
        pushed
    }
}

fn wish(n: u8, missing: &[Range<u32>]) -> Wish {
    Wish {
        device: id(n),
        item: ITEM,
        n_chunks: CHUNKS,
        missing: missing.to_vec(),
        class: TicketClass::Queued,
        rank: 0,
        until: None,
    }
}

fn sources(plan: &Plan) -> Vec<DeviceId> {
    let mut sources: Vec<DeviceId> = plan.leases.iter().map(|lease| lease.source).collect();
    sources.sort();
    sources
}

fn rate_from(plan: &Plan, n: u8) -> u64 {
    plan.leases.iter().find(|lease| lease.source == id(n)).map_or(0, |lease| lease.planned_bytes_per_sec)
}

fn reasons(plan: &Plan) -> Vec<Reason> {
    plan.leases.iter().map(|lease| lease.reason).collect()
}

fn covered(plan: &Plan) -> ChunkSet {
    let mut chunks = ChunkSet::empty(CHUNKS);
    for chunk in plan.leases.iter().flat_map(|lease| lease.portions.iter().cloned().flatten()) {
        assert!(chunks.insert(chunk), "portions overlap at {chunk}");
    }
    chunks
}

#[test]
fn boxes_come_before_seeds() {
    let mut story = Story::new();
    story.boxes([1, 2]).holds(2, copy()).seed(9);
    let plan = story.ask(0, 1);
    assert_eq!(sources(&plan), [id(2)]);
    assert_eq!(reasons(&plan), [Reason::SameSite]);
    assert!(covered(&plan).is_full());
}

#[test]
fn seed_sends_when_there_is_no_box() {
    let mut story = Story::new();
    story.boxes([1]).seed(9);
    let plan = story.ask(0, 1);
    assert_eq!(reasons(&plan), [Reason::NoBoxes]);
    assert_eq!(plan.waiting, None);
}

#[test]
fn seed_sends_only_the_chunks_that_no_box_holds() {
    let mut story = Story::new();
    story.boxes([1, 2]).holds(2, runs(&[0..20])).seed(9);
    let plan = story.ask(0, 1);
    let seed = plan.leases.iter().find(|lease| lease.source == id(9)).expect("the seed is needed");
    assert_eq!((seed.reason, seed.portions.as_slice()), (Reason::OnlySeed, [20..CHUNKS].as_slice()));
    assert!(covered(&plan).is_full());
}

#[test]
fn seed_helps_out_when_the_boxes_are_too_slow() {
    let mut story = Story::new();
    story.boxes([1, 2]).holds(2, copy()).uplink(2, MB / 4).seed(9);
    let plan = story.ask(0, 1);
    assert_eq!(reasons(&plan), [Reason::SameSite, Reason::BoxesTooSlow]);
    let seed = &plan.leases[1];
    assert_eq!(seed.planned_bytes_per_sec, MB);
    assert!(seed.rate_cap_bytes_per_sec.is_some(), "a seed that helps out is not asked for everything");
}

#[test]
fn several_boxes_share_what_is_missing_by_what_their_uplinks_give() {
    let mut story = Story::new();
    story.boxes([1, 2, 3]).holds(2, copy()).uplink(2, 2 * MB).holds(3, copy()).uplink(3, 4 * MB);
    let plan = story.ask(0, 1);
    let chunks_of = |n: u8| {
        let lease = plan.leases.iter().find(|lease| lease.source == id(n)).expect("both send");
        lease.portions.iter().map(Range::len).sum::<usize>()
    };
    assert_eq!((chunks_of(2), chunks_of(3)), (8, 16));
}

#[test]
fn box_with_part_of_an_item_sends_that_part() {
    let mut story = Story::new();
    story.boxes([1, 2, 3]).holds(2, runs(&[0..12])).holds(3, runs(&[6..24]));
    let plan = story.ask(0, 1);
    assert_eq!(sources(&plan), [id(2), id(3)]);
    assert!(covered(&plan).is_full());
}

#[test]
fn rarest_chunks_come_first() {
    let mut story = Story::new();
    story.boxes([1, 2, 3]).holds(2, copy()).holds(3, runs(&[0..16]));
    let plan = story.ask(0, 1);
    let full = plan.leases.iter().find(|lease| lease.source == id(2)).expect("the copy sends");
    assert!(full.portions[0].start >= 16, "chunks 16.. have one holder only: {:?}", full.portions);
}

#[test]
fn chunks_of_a_title_that_is_watched_come_in_order_and_from_everyone() {
    let mut story = Story::new();
    story.boxes([1, 2, 3]).holds(2, copy()).uplink(2, 2 * MB).holds(3, copy()).uplink(3, 2 * MB);
    let plan = story.0.plan(at(0), &Wish { class: TicketClass::Playing, ..wish(1, &[4..CHUNKS]) });
    for lease in &plan.leases {
        assert!(lease.portions.is_sorted_by_key(|portion| portion.start));
        assert!(lease.portions[0].start < 6, "{:?}", lease.portions);
    }
}

#[test]
fn boxes_of_the_same_site_come_before_others() {
    let mut story = Story::new();
    story.boxes([1, 2]).holds(2, copy()).device(3, DeviceKind::Box, "south").holds(3, copy());
    assert_eq!(sources(&story.ask(0, 1)), [id(2)]);
}

#[test]
fn boxes_of_other_sites_help_out_before_seeds_do() {
    let mut story = Story::new();
    story.boxes([1, 2]).holds(2, copy()).uplink(2, MB / 2).seed(9);
    story.device(3, DeviceKind::Box, "south").holds(3, copy()).uplink(3, 2 * MB);
    assert_eq!(reasons(&story.ask(0, 1)), [Reason::SameSite, Reason::Elsewhere]);
}

#[test]
fn two_askers_spread_over_two_sources() {
    let mut story = Story::with(Config { max_sources: 1, ..Config::default() });
    story.boxes([1, 2, 3, 4]).holds(3, copy()).holds(4, copy());
    let (first, second) = (story.ask(0, 1), story.ask(0, 2));
    assert_ne!(sources(&first), sources(&second));
}

#[test]
fn askers_of_one_source_share_its_uplink() {
    let mut story = Story::new();
    story.boxes([1, 2, 3]).holds(3, copy()).uplink(3, 8 * MB);
    let alone = story.ask(0, 1);
    assert_eq!(alone.leases[0].rate_cap_bytes_per_sec, None, "alone it may find out what the uplink gives");
    let second = rate_from(&story.ask(0, 2), 3);
    let renewed = story.ask(1, 1);
    let first = rate_from(&renewed, 3);
    assert!(first + second <= 8 * MB, "{first} and {second}");
    assert!(first.min(second) >= 3 * MB, "{first} and {second}");
    assert_eq!(renewed.leases[0].rate_cap_bytes_per_sec, Some(first * 3));
}

#[test]
fn lease_ends_by_itself_and_gives_back_what_it_had_promised() {
    let mut story = Story::new();
    story.boxes([1, 2, 3]).holds(3, copy()).uplink(3, 8 * MB);
    story.ask(0, 1);
    let lease = Config::default().lease.as_millis() as u64;
    story.0.handle_alive(at(lease), id(3));
    story.0.handle_timeout(at(lease));
    assert!(story.0.leases(&id(1), &ITEM).is_empty());
    assert_eq!(story.ask(lease, 2).leases[0].planned_bytes_per_sec, 8 * MB);
}

#[test]
fn copy_that_has_arrived_needs_no_leases_any_more() {
    let mut story = Story::new();
    story.boxes([1, 2]).seed(9);
    story.ask(0, 1);
    story.holds(1, copy());
    assert!(story.0.leases(&id(1), &ITEM).is_empty());
}

#[test]
fn source_that_leaves_is_replaced_at_once() {
    let mut story = Story::new();
    story.boxes([1, 2]).holds(2, copy()).seed(9);
    story.ask(0, 1);
    story.0.handle_departed(at(10), id(2));
    assert_eq!(story.0.poll_timeout(), Some(at(10).mono));
    let pushed = story.pushed(10);
    assert_eq!((pushed[0].0, sources(&pushed[0].1)), (id(1), vec![id(9)]));
}

#[test]
fn silent_device_counts_as_offline() {
    let mut story = Story::new();
    story.boxes([1, 2]).holds(2, copy());
    let silence = Config::default().silence.as_millis() as u64;
    story.0.handle_alive(at(1_000), id(1));
    story.0.handle_timeout(at(silence));
    assert_eq!(story.0.poll_action(), Some(Action::Silent(id(2))));
    assert_eq!(story.0.poll_action(), None);
    assert_eq!(story.ask(silence, 1).waiting, Some(Waiting::HoldersAway));
}

#[test]
fn box_that_waits_is_told_when_the_first_source_appears() {
    let mut story = Story::new();
    story.boxes([1, 2]);
    assert_eq!(story.ask(0, 1).waiting, Some(Waiting::NobodyHoldsIt));
    story.0.handle_holding(at(3_000), id(2), ITEM, &copy());
    let pushed = story.pushed(3_000);
    assert_eq!(sources(&pushed[0].1), [id(2)]);
}

#[test]
fn good_news_does_not_come_more_often_than_once_a_second() {
    let mut story = Story::new();
    story.boxes([1, 2]);
    story.ask(0, 1);
    story.0.handle_holding(at(10), id(2), ITEM, &runs(&[0..1]));
    assert!(story.pushed(10).is_empty());
    story.0.handle_holding(at(20), id(2), ITEM, &runs(&[0..2]));
    let pushed = story.pushed(1_000);
    assert_eq!(covered(&pushed[0].1).len(), 2);
}

#[test]
fn stalled_source_is_replaced_at_once_and_not_planned_for_the_complainer_again() {
    let mut story = Story::new();
    story.boxes([1, 2]).holds(2, copy()).seed(9);
    story.ask(0, 1);
    story.0.handle_stall(at(5), id(1), ITEM, id(2));
    assert_eq!(sources(&story.pushed(5)[0].1), [id(9)]);
    assert_eq!(sources(&story.ask(10, 1)), [id(9)]);
}

#[test]
fn one_complainer_does_not_take_a_source_from_everyone() {
    let mut story = Story::new();
    story.boxes([1, 2, 3]).holds(3, copy()).seed(9);
    story.ask(0, 1);
    for ms in 1..10 {
        story.0.handle_stall(at(ms), id(1), ITEM, id(3));
        story.ask(ms, 1);
    }
    assert!(sources(&story.ask(10, 2)).contains(&id(3)));
}

#[test]
fn source_that_two_accounts_complain_about_is_the_last_resort_for_the_others() {
    let mut story = Story::new();
    story.boxes([1, 2, 3, 4]).holds(4, copy()).uplink(4, 20 * MB).seed(9);
    for n in [1, 2, 3] {
        assert!(sources(&story.ask(0, n)).contains(&id(4)));
    }
    story.0.handle_stall(at(1), id(1), ITEM, id(4));
    story.0.handle_stall(at(1), id(2), ITEM, id(4));
    assert!(story.pushed(1).iter().any(|(device, plan)| *device == id(3) && !sources(plan).contains(&id(4))));
    story.0.handle_departed(at(2), id(9));
    assert!(reasons(&story.ask(2, 3)).contains(&Reason::LastResort));
    let later = 1 + Config::default().avoid.as_millis() as u64;
    story.device(3, DeviceKind::Box, "north");
    story.0.handle_arrived(at(later), id(4));
    assert!(story.ask(later, 3).leases.iter().any(|it| (it.source, it.reason) == (id(4), Reason::SameSite)));
}

#[test]
fn complaint_about_a_source_that_was_not_planned_is_ignored() {
    let mut story = Story::with(Config { complainers: 1, ..Config::default() });
    story.boxes([1, 2, 3]).holds(3, copy());
    story.0.handle_stall(at(0), id(1), ITEM, id(3));
    assert_eq!(reasons(&story.ask(0, 2)), [Reason::SameSite]);
}

#[test]
fn device_whose_owner_allows_nothing_sends_nothing() {
    let mut story = Story::new();
    story.boxes([1, 2]).holds(2, copy());
    story.ask(0, 1);
    let off = Link { upload_cap_bytes_per_sec: Some(0), ..Link::default() };
    story.0.handle_heartbeat(at(1), id(2), off);
    let pushed = story.pushed(1);
    assert_eq!(pushed[0].1.waiting, Some(Waiting::HoldersNotSending));
}

#[test]
fn owner_of_a_source_caps_what_it_is_asked_for() {
    let mut story = Story::new();
    story.boxes([1, 2]).holds(2, copy());
    let capped = Link { upload_cap_bytes_per_sec: Some(MB / 10), ..Link::default() };
    story.0.handle_heartbeat(at(0), id(2), capped);
    let lease = &story.ask(0, 1).leases[0];
    assert_eq!((lease.planned_bytes_per_sec, lease.rate_cap_bytes_per_sec), (MB / 10, Some(MB / 10)));
}

#[test]
fn revoked_device_neither_sends_nor_comes_back() {
    let mut story = Story::new();
    story.boxes([1, 2]).holds(2, copy());
    story.0.handle_revoked(at(0), id(2));
    story.0.handle_arrived(at(1), id(2));
    assert!(!story.0.is_online(&id(2)));
    assert_eq!(story.ask(1, 1).waiting, Some(Waiting::NobodyHoldsIt));
}

#[test]
fn holding_of_another_size_is_not_this_item() {
    let mut story = Story::new();
    story.boxes([1, 2]).holds(2, Holding::complete(CHUNKS + 1).expect("a size"));
    assert_eq!(story.ask(0, 1).waiting, Some(Waiting::NobodyHoldsIt));
}

#[test]
fn plan_drawn_anew_asks_only_for_what_has_not_arrived_since() {
    let mut story = Story::new();
    story.boxes([1, 2]).holds(2, copy()).seed(9);
    story.ask(0, 1);
    story.holds(1, runs(&[0..20]));
    story.0.handle_departed(at(10), id(2));
    assert_eq!(covered(&story.pushed(10)[0].1).len(), 4);
}

#[test]
fn device_that_wants_everything_at_once_forgets_its_oldest_wish() {
    let mut story = Story::new();
    story.boxes([1]);
    for n in 0..=MAX_WISHES_PER_DEVICE as u8 {
        let item = ItemId::from_bytes([n; 32]);
        story.0.plan(at(u64::from(n)), &Wish { item, ..wish(1, &[0..CHUNKS]) });
    }
    assert_eq!(story.0.wishes.len(), MAX_WISHES_PER_DEVICE);
    assert_eq!(story.0.crowd.item_no(&ItemId::from_bytes([0; 32])), None);
}

#[test]
fn seeds_of_the_same_site_are_pinned_first() {
    let mut story = Story::new();
    story.boxes([1]).device(7, DeviceKind::Seed, "south").seed(9);
    assert_eq!(story.0.online_seeds(&id(1), 3), [id(9), id(7)]);
    assert_eq!(story.0.online_seeds(&id(9), 3), [id(7)]);
}

#[test]
fn two_askers_of_one_seed_bring_different_chunks_and_give_them_to_one_another() {
    let mut story = Story::with(Config { unknown_seed_bytes_per_sec: 2 * MB, ..Config::default() });
    story.boxes([1, 2]).seed(9);
    story.ask(0, 1);
    let second = story.ask(0, 2);
    let first = story.ask(1, 1);
    assert!(sources(&second).contains(&id(1)), "{first:?} {second:?}");
    let brought = |plan: &Plan| {
        let lease = plan.leases.iter().find(|lease| lease.source == id(9)).expect("the seed sends");
        ChunkSet::from_ranges(CHUNKS, lease.portions.iter().cloned())
    };
    assert!(!brought(&first).meets(&brought(&second)), "a chunk is brought twice");
}

#[test]
fn what_a_site_lacks_is_brought_there_once() {
    let mut story = Story::new();
    story.boxes([1, 2, 3]);
    story.device(4, DeviceKind::Box, "south").holds(4, copy()).uplink(4, 100 * MB);
    for round in 0..2 {
        for n in [1, 2, 3] {
            story.ask(round, n);
        }
    }
    let mut brought = ChunkSet::empty(CHUNKS);
    for n in [1, 2, 3] {
        for lease in story.0.leases(&id(n), &ITEM).iter().filter(|lease| lease.reason == Reason::NotHere) {
            for chunk in lease.portions.iter().cloned().flatten() {
                assert!(brought.insert(chunk), "chunk {chunk} is brought twice");
            }
        }
    }
    assert!(brought.is_full());
}

#[test]
fn cheaper_site_comes_before_a_dearer_one() {
    let mut story = Story::new();
    story.boxes([1]);
    story.device(3, DeviceKind::Box, "south").holds(3, copy()).uplink(3, 100 * MB);
    story.device(4, DeviceKind::Box, "west").holds(4, copy()).uplink(4, 100 * MB);
    let costs = |south, west| {
        let costs = [("south", south), ("west", west)];
        SiteRules {
            inbound_bytes_per_sec: Limit::Unlimited,
            costs: costs.map(|(site, cost)| (SiteId::new(site).expect("a label"), cost)).into(),
        }
    };
    let north = SiteId::new("north").expect("a label");
    story.0.handle_site(&north, &costs(5, 3));
    assert_eq!(sources(&story.ask(0, 1)), [id(4)]);
    story.0.handle_withdrawn(id(1), ITEM);
    story.0.handle_site(&north, &costs(3, 5));
    assert_eq!(sources(&story.ask(1, 1)), [id(3)]);
}

#[test]
fn device_of_the_same_home_comes_first() {
    let mut story = Story::with(Config { max_sources: 1, ..Config::default() });
    story.boxes(1..9);
    for n in 2..9 {
        story.holds(n, copy()).uplink(n, 10 * MB);
    }
    let mine = Profile {
        kind: DeviceKind::Box,
        site: SiteId::new("north").expect("a label"),
        account: AccountId::from([1; 16]),
    };
    story.0.handle_enrolled(at(0), id(50), &mine);
    story.0.handle_arrived(at(0), id(50));
    story.holds(50, copy());
    let plan = story.ask(0, 1);
    assert_eq!((sources(&plan), reasons(&plan)), (vec![id(50)], vec![Reason::SameHome]));
}

#[test]
fn devices_that_cannot_meet_are_not_planned_for_one_another() {
    let mut story = Story::new();
    story.boxes([1, 2, 3]).holds(2, copy()).holds(3, copy());
    story.0.handle_reach(id(1), Reach::Closed);
    story.0.handle_reach(id(2), Reach::Punchable);
    assert_eq!(sources(&story.ask(0, 1)), [id(3)]);
}

/// One source of 4 MB/s that box 1 uses up, and box 2, which wants something of it too.
fn contended(change: impl FnOnce(&mut Wish)) -> (Story, Plan) {
    let mut story = Story::new();
    story.boxes([1, 2, 3]).holds(3, copy()).uplink(3, 4 * MB);
    story.ask(0, 1);
    let mut wish = wish(2, &[0..CHUNKS]);
    change(&mut wish);
    let plan = story.0.plan(at(0), &wish);
    (story, plan)
}

#[test]
fn what_is_watched_takes_from_what_is_queued() {
    let (mut story, plan) = contended(|wish| wish.class = TicketClass::Playing);
    assert!(rate_from(&plan, 3) >= 2 * MB, "{plan:?}");
    let pushed = story.pushed(1_000);
    assert_eq!(pushed[0].0, id(1), "whoever gave way is told");
}

#[test]
fn preload_takes_nothing_from_a_queue() {
    let (_, plan) = contended(|wish| wish.class = TicketClass::Preload);
    assert!(!sources(&plan).contains(&id(3)), "{plan:?}");
}

#[test]
fn customers_share_alike_however_many_titles_each_of_them_wants() {
    let mut story = Story::new();
    story.boxes([1, 2, 3]).uplink(3, 12 * MB);
    let items: Vec<ItemId> = (0..6).map(|n| ItemId::from_bytes([n; 32])).collect();
    for item in &items {
        story.0.handle_holding(at(0), id(3), *item, &copy());
    }
    for round in 0..30 {
        for item in &items[..5] {
            story.0.plan(at(round * 100), &Wish { item: *item, ..wish(1, &[0..CHUNKS]) });
        }
        story.0.plan(at(round * 100), &Wish { item: items[5], ..wish(2, &[0..CHUNKS]) });
    }
    let rate = |n: u8| story.0.account_total(&AccountId::from([n; 16]));
    let (many, one) = (rate(1), rate(2));
    assert!(one * 5 >= many * 4, "five titles get {many}, one title gets {one}");
}

#[test]
fn higher_title_of_a_queue_takes_the_link_from_a_lower_one() {
    let mut story = Story::new();
    story.boxes([1, 2, 3]).holds(2, copy()).uplink(2, 4 * MB).uplink(3, 4 * MB);
    let other = ItemId::from_bytes([2; 32]);
    story.0.handle_holding(at(0), id(3), other, &copy());
    let slow = Link { downlink_bytes_per_sec: Some(2 * MB), ..Link::default() };
    story.0.handle_heartbeat(at(0), id(1), slow);
    let low = story.0.plan(at(0), &Wish { item: other, rank: 1, ..wish(1, &[0..CHUNKS]) });
    assert_eq!(low.leases[0].planned_bytes_per_sec, 2 * MB);
    let high = story.ask(0, 1);
    assert_eq!(high.leases[0].planned_bytes_per_sec, 2 * MB);
    assert_eq!(story.0.leases(&id(1), &other), []);
}

#[test]
fn site_takes_no_more_than_its_operator_allows_unless_somebody_watches() {
    let mut story = Story::new();
    story.boxes(1..10);
    for n in 5..10 {
        story.holds(n, copy()).uplink(n, 10 * MB);
    }
    let rules = SiteRules { inbound_bytes_per_sec: Limit::Of(3 * MB), costs: BTreeMap::new() };
    story.0.handle_site(&SiteId::new("north").expect("a label"), &rules);
    for round in 0..10 {
        for n in 1..4 {
            story.ask(round * 1_000, n);
        }
        let total: u64 = (1..4).flat_map(|n| story.0.leases(&id(n), &ITEM)).map(|it| it.planned_bytes_per_sec).sum();
        assert!(total <= 3 * MB, "{total}");
    }
    let each: Vec<u64> =
        (1..4).map(|n| story.0.leases(&id(n), &ITEM).iter().map(|it| it.planned_bytes_per_sec).sum()).collect();
    assert!(each.iter().all(|rate| *rate >= MB / 2), "{each:?}");
    let watched = story.0.plan(at(10_000), &Wish { class: TicketClass::Playing, ..wish(4, &[0..CHUNKS]) });
    assert!(watched.leases.iter().map(|it| it.planned_bytes_per_sec).sum::<u64>() >= 2 * MB);
}

#[test]
fn site_that_allows_nothing_gets_nothing() {
    let mut story = Story::new();
    story.boxes([1, 2]).holds(2, copy()).seed(9);
    let rules = SiteRules { inbound_bytes_per_sec: Limit::Of(0), costs: BTreeMap::new() };
    story.0.handle_site(&SiteId::new("north").expect("a label"), &rules);
    assert_eq!(story.ask(0, 1).leases, []);
}

#[test]
fn seeds_stop_when_their_budget_is_used_up_and_go_on_when_there_is_more() {
    let mut story = Story::new();
    story.boxes([1]).seed(9);
    let north = SiteId::new("north").expect("a label");
    story.ask(0, 1);
    story.0.handle_origin(at(1), &north, false);
    assert_eq!(story.pushed(1)[0].1.waiting, Some(Waiting::OriginBudget));
    story.0.handle_origin(at(2), &north, true);
    assert_eq!(sources(&story.pushed(2)[0].1), [id(9)]);
}

#[test]
fn plan_ends_when_the_window_closes() {
    let mut story = Story::new();
    story.boxes([1, 2]).holds(2, copy());
    let closes = at(4_000).utc;
    let plan = story.0.plan(at(0), &Wish { until: Some(closes), ..wish(1, &[0..CHUNKS]) });
    assert_eq!(plan.until, closes);
    story.0.handle_timeout(at(4_000));
    assert_eq!(story.0.leases(&id(1), &ITEM), []);
    assert_eq!(story.0.plan(at(4_000), &Wish { until: Some(closes), ..wish(1, &[0..CHUNKS]) }).leases, []);
}

#[test]
fn box_that_is_still_fetching_is_planned_before_it_holds_anything() {
    let mut story = Story::new();
    story.boxes([1, 2]).uplink(1, 20 * MB).seed(9);
    story.ask(0, 1);
    let plan = story.ask(0, 2);
    let relay = plan.leases.iter().find(|lease| lease.source == id(1)).expect("it will pass on what it gets");
    assert_eq!(relay.portions, []);
}

#[test]
fn liar_about_the_size_of_an_item_is_forgotten_when_the_catalog_knows_better() {
    let mut story = Story::new();
    story.boxes([1, 2, 3]).holds(2, Holding::complete(7).expect("a size"));
    story.ask(0, 1);
    story.holds(3, copy());
    assert_eq!(sources(&story.ask(1, 1)), [id(3)]);
    assert_eq!(story.0.holding(&id(2), &ITEM).map(|held| held.len()), None);
}

#[test]
fn good_leases_are_kept_when_a_plan_is_renewed() {
    let mut story = Story::new();
    story.boxes(1..40);
    for n in 2..40 {
        story.holds(n, copy()).uplink(n, 10 * MB);
    }
    let first = sources(&story.ask(0, 1));
    assert_eq!(sources(&story.ask(5_000, 1)), first);
}

#[test]
fn explanation_names_who_sends_and_why_everyone_else_does_not() {
    let mut story = Story::new();
    story.boxes(1..8).holds(2, copy()).uplink(2, 20 * MB).seed(9);
    story.holds(3, copy()).holds(4, copy()).holds(5, copy()).holds(6, copy());
    story.0.handle_departed(at(0), id(3));
    let off = Link { upload_cap_bytes_per_sec: Some(0), ..Link::default() };
    story.0.handle_heartbeat(at(0), id(4), off);
    story.0.handle_revoked(at(0), id(5));
    story.ask(0, 1);
    story.0.handle_stall(at(0), id(1), ITEM, id(6));
    story.pushed(0);
    let told = story.0.explain(at(0), &id(1), &ITEM).expect("both are known");
    assert_eq!(told.leases.iter().map(|lease| lease.source).collect::<Vec<_>>(), [id(2)]);
    assert_eq!(told.asked.map(|asked| asked.missing), Some(CHUNKS));
    let expected = [
        (WhyNot::Away, id(3)),
        (WhyNot::Revoked, id(5)),
        (WhyNot::OwnerSaysNo, id(4)),
        (WhyNot::Stalled, id(6)),
        (WhyNot::SparedServer, id(9)),
    ];
    assert_eq!(told.others, expected);
}

#[test]
fn estimate_is_what_is_missing_over_what_the_link_takes() {
    let mut story = Story::new();
    story.boxes([1, 2]).holds(2, copy()).uplink(2, 20 * MB);
    let slow = Link { downlink_bytes_per_sec: Some(2 * MB), ..Link::default() };
    story.0.handle_heartbeat(at(0), id(1), slow);
    let Estimate::Ready { after, bytes_per_sec } = story.0.estimate(at(0).mono, &id(1), &ITEM, CHUNKS, 0) else {
        panic!("a source is there");
    };
    assert_eq!((bytes_per_sec, after.as_secs()), (2 * MB, 14));
}

#[test]
fn estimate_says_why_not_before_a_source_comes() {
    let mut story = Story::new();
    story.boxes([1, 2]);
    let estimate = |story: &Story| story.0.estimate(at(0).mono, &id(1), &ITEM, CHUNKS, 0);
    assert_eq!(estimate(&story), Estimate::NotBefore(Waiting::NobodyHoldsIt));
    story.holds(2, copy());
    story.0.handle_departed(at(0), id(2));
    assert_eq!(estimate(&story), Estimate::NotBefore(Waiting::HoldersAway));
}
