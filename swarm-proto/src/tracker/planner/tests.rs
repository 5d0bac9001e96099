//! What the planner promises, as single stories and as invariants over random ones.

#![allow(clippy::single_range_in_vec_init, reason = "one run of chunks is meant, not its chunks")]

use proptest::prelude::*;

use super::*;

const SEED: [u8; 32] = [7; 32];
const MB: u64 = 1_000_000;
const ITEM: ItemId = ItemId::from_bytes([1; 32]);
const CHUNKS: u32 = 24;

fn at(ms: u64) -> Now {
    Now::new(Mono::from_millis(ms), Utc::from_secs(1_800_000_000) + Duration::from_millis(ms))
}

fn id(n: u8) -> DeviceId {
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
        self.0.handle_enrolled(id(n), profile);
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
        self.0.handle_holding(at(0), id(n), ITEM, holding);
        self
    }

    fn uplink(&mut self, n: u8, bytes_per_sec: u64) -> &mut Story {
        let link = Link { uplink_bytes_per_sec: Some(bytes_per_sec), ..Link::default() };
        self.0.handle_heartbeat(at(0), id(n), link);
        self
    }

    fn ask(&mut self, ms: u64, n: u8) -> Plan {
        self.0.plan(at(ms), wish(n, &[0..CHUNKS]))
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
    Wish { device: id(n), item: ITEM, n_chunks: CHUNKS, missing: missing.to_vec(), playing: false }
}

fn sources(plan: &Plan) -> Vec<DeviceId> {
    let mut sources: Vec<DeviceId> = plan.leases.iter().map(|lease| lease.source).collect();
    sources.sort();
    sources
}

fn reasons(plan: &Plan) -> Vec<Reason> {
    plan.leases.iter().map(|lease| lease.reason).collect()
}

fn covered(plan: &Plan) -> RoaringBitmap {
    let mut chunks = RoaringBitmap::new();
    for portion in plan.leases.iter().flat_map(|lease| &lease.portions) {
        assert_eq!(chunks.insert_range(portion.clone()), u64::from(portion.end - portion.start), "portions overlap");
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
    assert_eq!(covered(&plan).len(), u64::from(CHUNKS));
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
    assert_eq!(covered(&plan).len(), u64::from(CHUNKS));
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
    assert_eq!(covered(&plan).len(), u64::from(CHUNKS));
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
    let plan = story.0.plan(at(0), Wish { playing: true, ..wish(1, &[4..CHUNKS]) });
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
    assert_eq!(story.ask(0, 2).leases[0].planned_bytes_per_sec, 4 * MB);
    let renewed = story.ask(1, 1);
    assert_eq!(renewed.leases[0].planned_bytes_per_sec, 4 * MB);
    assert_eq!(renewed.leases[0].rate_cap_bytes_per_sec, Some(5 * MB));
}

#[test]
fn two_askers_of_one_seed_do_not_begin_with_the_same_chunk() {
    let mut story = Story::new();
    story.boxes([1, 2]).seed(9);
    let (first, second) = (story.ask(0, 1), story.ask(0, 2));
    assert_ne!(first.leases[0].portions[0].start, second.leases[0].portions[0].start);
}

#[test]
fn lease_ends_by_itself_and_gives_back_what_it_had_promised() {
    let mut story = Story::new();
    story.boxes([1, 2, 3]).holds(3, copy()).uplink(3, 8 * MB);
    story.ask(0, 1);
    let lease = Config::default().lease.as_millis() as u64;
    story.0.handle_alive(at(lease), id(3));
    story.0.handle_timeout(at(lease));
    assert!(story.0.leases(id(1), ITEM).is_empty());
    assert_eq!(story.ask(lease, 2).leases[0].planned_bytes_per_sec, 8 * MB);
}

#[test]
fn copy_that_has_arrived_needs_no_leases_any_more() {
    let mut story = Story::new();
    story.boxes([1, 2]).seed(9);
    story.ask(0, 1);
    story.holds(1, copy());
    assert!(story.0.leases(id(1), ITEM).is_empty());
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
    story.0.handle_holding(at(3_000), id(2), ITEM, copy());
    let pushed = story.pushed(3_000);
    assert_eq!(sources(&pushed[0].1), [id(2)]);
}

#[test]
fn good_news_does_not_come_more_often_than_once_a_second() {
    let mut story = Story::new();
    story.boxes([1, 2]);
    story.ask(0, 1);
    story.0.handle_holding(at(10), id(2), ITEM, runs(&[0..1]));
    assert!(story.pushed(10).is_empty());
    story.0.handle_holding(at(20), id(2), ITEM, runs(&[0..2]));
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
    assert_eq!(sources(&story.ask(10, 2)), [id(3)]);
}

#[test]
fn source_that_two_accounts_complain_about_is_the_last_resort_for_the_others() {
    let mut story = Story::new();
    story.boxes([1, 2, 3, 4]).holds(4, copy()).uplink(4, 20 * MB).seed(9);
    for n in [1, 2, 3] {
        assert_eq!(sources(&story.ask(0, n)), [id(4)]);
    }
    story.0.handle_stall(at(1), id(1), ITEM, id(4));
    story.0.handle_stall(at(1), id(2), ITEM, id(4));
    assert!(story.pushed(1).iter().any(|(device, plan)| *device == id(3) && sources(plan) == [id(9)]));
    story.0.handle_departed(at(2), id(9));
    assert_eq!(reasons(&story.ask(2, 3)), [Reason::LastResort]);
    let later = 1 + Config::default().avoid.as_millis() as u64;
    story.device(3, DeviceKind::Box, "north");
    story.0.handle_arrived(at(later), id(4));
    assert_eq!(reasons(&story.ask(later, 3)), [Reason::SameSite]);
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
        story.0.plan(at(u64::from(n)), Wish { item, ..wish(1, &[0..CHUNKS]) });
    }
    assert_eq!(story.0.answered.len(), MAX_WISHES_PER_DEVICE);
    assert!(!story.0.answered.contains_key(&(id(1), ItemId::from_bytes([0; 32]))));
}

#[test]
fn seeds_of_the_same_site_are_pinned_first() {
    let mut story = Story::new();
    story.boxes([1]).device(7, DeviceKind::Seed, "south").seed(9);
    assert_eq!(story.0.online_seeds(&id(1), 3), [id(9), id(7)]);
    assert_eq!(story.0.online_seeds(&id(9), 3), [id(7)]);
}

/// Something that happens to a swarm of boxes 0 to 5 and seeds 6 and 7.
#[derive(Debug, Clone)]
enum Event {
    Arrive(u8),
    Depart(u8),
    Revoke(u8),
    Hold(u8, Vec<bool>),
    Link(u8, Link),
    Stall(u8, u8),
    Wish(u8, Vec<bool>, bool),
    Wait(u64),
}

const DEVICES: u8 = 8;

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

fn event() -> impl Strategy<Value = Event> {
    let device = 0..DEVICES;
    prop_oneof![
        4 => device.clone().prop_map(Event::Arrive),
        1 => device.clone().prop_map(Event::Depart),
        1 => (0..40_u8).prop_map(Event::Revoke),
        4 => (device.clone(), chunks()).prop_map(|(n, chunks)| Event::Hold(n, chunks)),
        2 => (device.clone(), link()).prop_map(|(n, link)| Event::Link(n, link)),
        2 => (device.clone(), device.clone()).prop_map(|(n, source)| Event::Stall(n, source)),
        6 => (device, chunks(), any::<bool>()).prop_map(|(n, chunks, playing)| Event::Wish(n, chunks, playing)),
        1 => (0..20_000_u64).prop_map(Event::Wait),
    ]
}

fn runs_of(chunks: &[bool]) -> Vec<Range<u32>> {
    let set: RoaringBitmap = (0..).zip(chunks).filter(|(_, is_in)| **is_in).map(|(chunk, _)| chunk).collect();
    let mut rest = set.iter();
    std::iter::from_fn(|| rest.next_range().map(|run| *run.start()..*run.end() + 1)).collect()
}

/// Sources that may send to this asker, with what they hold of what it lacks.
fn able(planner: &Planner, now: Now, asker: DeviceId, missing: &RoaringBitmap) -> Vec<(DeviceId, RoaringBitmap)> {
    let holders = planner.holders(&ITEM).filter(|(id, _)| {
        **id != asker && planner.devices[*id].may_send() && !planner.devices[&asker].is_avoiding(id, now.mono)
    });
    holders.map(|(id, held)| (*id, held.runs().flatten().filter(|chunk| missing.contains(*chunk)).collect())).collect()
}

fn check_plan(planner: &Planner, now: Now, wish: &Wish, plan: &Plan) -> Result<(), TestCaseError> {
    let missing: RoaringBitmap = wish.missing.iter().cloned().flatten().collect();
    let able = able(planner, now, wish.device, &missing);
    let shunned = |id: &DeviceId| complaints(&planner.devices[id], now.mono) >= planner.config.complainers;
    let is_box = |id: &DeviceId| planner.devices[id].profile.kind == DeviceKind::Box && !shunned(id);

    for lease in &plan.leases {
        prop_assert_ne!(lease.source, wish.device);
        let held = able.iter().find(|(id, _)| *id == lease.source).map(|(_, held)| held);
        prop_assert!(held.is_some(), "an offline, revoked or avoided source is planned");
        let portions: RoaringBitmap = lease.portions.iter().cloned().flatten().collect();
        prop_assert!(portions.is_subset(held.expect("checked above")), "a portion names what its source lacks");
        prop_assert!(lease.planned_bytes_per_sec > 0);
    }
    let held_by_someone = able.iter().fold(RoaringBitmap::new(), |all, (_, held)| all | held);
    prop_assert_eq!(covered(plan), held_by_someone, "a chunk that someone holds has no sender");
    prop_assert_eq!(plan.leases.is_empty(), plan.waiting.is_some());

    let seeds_sending = plan.leases.iter().any(|lease| lease.kind == DeviceKind::Seed && !shunned(&lease.source));
    if seeds_sending {
        let on_boxes = able.iter().filter(|(id, _)| is_box(id)).fold(RoaringBitmap::new(), |all, (_, held)| all | held);
        let boxes = plan.leases.iter().filter(|lease| is_box(&lease.source));
        let rate: u64 = boxes.map(|lease| lease.planned_bytes_per_sec).sum();
        let too_slow = rate < planner.config.enough_playing_bytes_per_sec;
        prop_assert!(!missing.is_subset(&on_boxes) || too_slow, "a seed sends what boxes could");
    }
    Ok(())
}

/// What the planner keeps to know things quickly agrees with what it could count.
fn check_books(planner: &Planner) -> Result<(), TestCaseError> {
    for (id, device) in &planner.devices {
        let leases = planner.answered.iter().flat_map(|(key, it)| it.leases.iter().map(move |lease| (key, lease)));
        let mine: Vec<_> = leases.filter(|(_, lease)| lease.source == *id).collect();
        let promised: u64 = mine.iter().map(|(_, lease)| lease.planned_bytes_per_sec).sum();
        prop_assert_eq!(device.promised_bytes_per_sec, promised);
        prop_assert_eq!(device.serves.len(), mine.len());
        prop_assert_eq!(device.wishes.len(), planner.answered.keys().filter(|(asker, _)| asker == id).count());
    }
    prop_assert_eq!(planner.ends.len(), planner.answered.len());
    prop_assert_eq!(planner.redraws.len(), planner.answered.values().filter(|it| it.redraw.is_some()).count());
    prop_assert_eq!(planner.silences.len(), planner.devices.values().filter(|it| it.silent_at.is_some()).count());
    Ok(())
}

proptest! {
    #[test]
    fn plans_keep_their_promises_whatever_happens(events in proptest::collection::vec(event(), 1..80)) {
        let mut story = Story::new();
        for n in 0..DEVICES {
            let kind = if n < 6 { DeviceKind::Box } else { DeviceKind::Seed };
            story.device(n, kind, if n % 3 == 0 { "south" } else { "north" });
        }
        let mut ms = 0;
        for event in events {
            ms += 7;
            let now = at(ms);
            let planner = &mut story.0;
            match event {
                Event::Arrive(n) => planner.handle_arrived(now, id(n)),
                Event::Depart(n) => planner.handle_departed(now, id(n)),
                Event::Revoke(n) if n < DEVICES => planner.handle_revoked(now, id(n)),
                Event::Revoke(_) => {}
                Event::Hold(n, chunks) => planner.handle_holding(now, id(n), ITEM, runs(&runs_of(&chunks))),
                Event::Link(n, link) => planner.handle_heartbeat(now, id(n), link),
                Event::Stall(n, source) => planner.handle_stall(now, id(n), ITEM, id(source)),
                Event::Wish(n, chunks, playing) => {
                    let wish = Wish { playing, ..wish(n, &runs_of(&chunks)) };
                    let plan = planner.plan(now, wish.clone());
                    check_plan(planner, now, &wish, &plan)?;
                }
                Event::Wait(more) => ms += more,
            }
            let now = at(ms);
            story.0.handle_timeout(now);
            while story.0.poll_timeout().is_some_and(|due| due <= now.mono) {
                story.0.handle_timeout(now);
            }
            while let Some(action) = story.0.poll_action() {
                if let Action::Push { wish, plan } = action {
                    let lost = plan.leases.iter().find(|lease| !story.0.devices[&lease.source].may_send());
                    prop_assert_eq!(lost, None, "a plan with a lost source is pushed");
                    prop_assert!(story.0.is_online(&wish.device));
                }
            }
            check_books(&story.0)?;
            let overdue = story.0.answered.values().find(|it| it.ends <= now.mono);
            prop_assert!(overdue.is_none(), "a lease outlives its time");
        }
    }

    #[test]
    fn same_seed_and_same_events_give_the_same_plans(wishes in proptest::collection::vec((0_u8..4, chunks()), 1..20)) {
        let run = || {
            let mut story = Story::new();
            story.boxes(0..6).holds(4, copy()).holds(5, runs(&[3..9])).seed(7);
            let plans = wishes.iter().map(|(n, chunks)| story.0.plan(at(1), wish(*n, &runs_of(chunks))));
            plans.collect::<Vec<_>>()
        };
        prop_assert_eq!(run(), run());
    }
}
