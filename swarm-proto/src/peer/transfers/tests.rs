mod closing;

use proptest::prelude::*;

use super::*;

/// Transfers under test, with whatever they have asked and not been answered.
struct Lab {
    transfers: Transfers,
    now: u64,
    open: BTreeMap<RequestId, (DeviceId, ItemId, Ask)>,
    /// Everything else they wished, in order.
    wishes: Vec<Action>,
    /// Each chunk that was asked: of whom, of which item, in order.
    asked: Vec<(DeviceId, ItemId, u32)>,
}

impl Lab {
    fn new(config: Config) -> Self {
        let transfers = Transfers::new(7, config);
        let mut lab = Self { transfers, now: 1_000_000, open: BTreeMap::new(), wishes: Vec::new(), asked: Vec::new() };
        lab.tell(|t, now| t.handle_tracker(now, true));
        lab
    }

    fn now(&self) -> Now {
        Now::new(Mono::from_millis(self.now), Utc::from_millis(1_700_000_000_000 + self.now))
    }

    fn tell(&mut self, event: impl FnOnce(&mut Transfers, Now)) {
        let now = self.now();
        event(&mut self.transfers, now);
        let mut actions: VecDeque<Action> = std::iter::from_fn(|| self.transfers.poll_action()).collect();
        self.check_priority(&actions);
        while let Some(action) = actions.pop_front() {
            match action {
                Action::Request { id, device, item, ask } => {
                    if let Ask::Chunk(chunk) = ask {
                        self.asked.push((device, item, chunk.get()));
                    }
                    self.open.insert(id, (device, item, ask));
                }
                Action::Cancel { id } => {
                    // The network ends what is cancelled, and says so.
                    self.open.remove(&id);
                    let failed = Answer::Failed { failure: Failure::Cancelled, received: 0 };
                    self.transfers.handle_answer(now, id, failed);
                    actions.extend(std::iter::from_fn(|| self.transfers.poll_action()));
                    self.wishes.push(Action::Cancel { id });
                }
                other => self.wishes.push(other),
            }
        }
    }

    /// [`HONEST`] has everything: after each event that asked it for something of a lower item, no chunk of a higher one
    /// may be left to be asked for.
    fn check_priority(&self, actions: &VecDeque<Action>) {
        let of_honest = |action: &Action| match action {
            Action::Request { device, item, ask: Ask::Chunk(_), .. } if *device == HONEST => Some(*item),
            _ => None,
        };
        for lower in actions.iter().filter_map(of_honest) {
            for higher in self.transfers.order.iter().take_while(|item| **item != lower) {
                let picker = self.transfers.items.get(higher).and_then(|transfer| transfer.stage.picker());
                assert!(picker.is_none_or(|p| p.wanted().is_empty()), "a lower item before a higher one");
            }
        }
    }

    /// Lets time pass, waking the machine as often as it wishes.
    fn pass(&mut self, ms: u64) {
        let end = self.now + ms;
        for _ in 0..100_000 {
            let wake = self.transfers.poll_timeout().map_or(end, |at| at.as_millis().max(self.now + 1));
            if wake > end {
                self.now = end;
                return;
            }
            self.now = wake;
            self.tell(|t, now| t.handle_timeout(now));
        }
        panic!("the machine wants to be woken without end");
    }

    fn want(&mut self, items: &[(u8, u32)]) {
        let wanted = items
            .iter()
            .map(|&(n, chunks)| Wanted {
                item: item(n),
                geometry: geometry(chunks),
                have: Some(ChunkSet::empty(chunks)),
                skip: Vec::new(),
            })
            .collect();
        self.tell(|t, now| t.handle_wanted(now, wanted));
    }

    fn plan(&mut self, n: u8, leases: Vec<Lease>) {
        let plan =
            Plan { item: item(n), leases, renew_after: Duration::from_secs(5), waiting: String::new(), closed: None };
        self.tell(|t, now| t.handle_plan(now, plan));
    }

    fn lease(&self, device: DeviceId, kind: DeviceKind) -> Lease {
        let until = self.now().utc + Duration::from_secs(600);
        Lease { device, kind, rate_cap_bytes_per_sec: None, until, portions: Vec::new() }
    }

    fn boxes(&self, devices: &[DeviceId]) -> Vec<Lease> {
        devices.iter().map(|&device| self.lease(device, DeviceKind::Box)).collect()
    }

    fn answer(&mut self, id: RequestId, answer: Answer) {
        self.open.remove(&id).expect("only what is open is answered");
        self.tell(|t, now| t.handle_answer(now, id, answer));
    }

    fn find(&self, which: impl Fn(DeviceId, Ask) -> bool) -> Option<RequestId> {
        self.open.iter().find(|(_, (device, _, ask))| which(*device, *ask)).map(|(&id, _)| id)
    }

    /// Says what a device holds, each time it is asked.
    fn say_holding(&mut self, device: DeviceId, chunks: &ChunkSet) {
        while let Some(id) = self.find(|d, ask| d == device && ask == Ask::Holding) {
            let width = self.open[&id].1;
            let width = self.transfers.items[&width].geometry.n_chunks();
            self.answer(id, Answer::Holding(ChunkSet::from_ranges(width, chunks.ranges())));
        }
    }

    fn chunks_open(&self, device: DeviceId) -> Vec<u32> {
        let of = self.open.values().filter(|(d, ..)| *d == device);
        of.filter_map(|(_, _, ask)| if let Ask::Chunk(chunk) = ask { Some(chunk.get()) } else { None }).collect()
    }

    fn chunk_request(&self, device: DeviceId) -> Option<RequestId> {
        self.find(|d, ask| d == device && matches!(ask, Ask::Chunk(_)))
    }

    /// Lets a device send one chunk, in this time.
    fn deliver(&mut self, device: DeviceId, ms: u64) -> bool {
        let Some(id) = self.chunk_request(device) else { return false };
        self.now += ms;
        self.arrive(id);
        true
    }

    fn arrive(&mut self, id: RequestId) {
        let (_, item, ask) = self.open[&id];
        let Ask::Chunk(chunk) = ask else { panic!("not a chunk") };
        let bytes = self.transfers.items[&item].geometry.chunk_len(chunk) as u64;
        self.answer(id, Answer::Data(bytes));
        self.tell(|t, now| t.handle_verdict(now, id, Verdict::Verified));
        self.tell(|t, now| t.handle_stored(now, id));
    }

    fn wished(&mut self, which: impl Fn(&Action) -> bool) -> bool {
        let found = self.wishes.iter().any(which);
        self.wishes.clear();
        found
    }

    fn progress(&self, n: u8) -> Progress {
        self.transfers.progress(self.now(), &item(n)).expect("it was wanted")
    }
}

/// A device that has everything and does as it should.
const HONEST: DeviceId = DeviceId::from_bytes([100; 32]);

fn item(n: u8) -> ItemId {
    ItemId::from_bytes([n; 32])
}

fn device(n: u8) -> DeviceId {
    DeviceId::from_bytes([n; 32])
}

fn geometry(chunks: u32) -> Geometry {
    Geometry::of_sealed(u64::from(chunks) * CHUNK_BYTES).expect("whole chunks are a geometry")
}

/// A lab that fetches one item of so many chunks from boxes that hold all of it.
fn lab_with(chunks: u32, devices: &[DeviceId]) -> Lab {
    let mut lab = Lab::new(Config::default());
    lab.want(&[(1, chunks)]);
    lab.plan(1, lab.boxes(devices));
    for &device in devices {
        lab.say_holding(device, &ChunkSet::full(chunks));
    }
    lab
}

#[test]
fn an_item_begins_with_a_plan_a_manifest_and_room_on_the_disk() {
    let mut lab = Lab::new(Config::default());
    let wanted = Wanted { item: item(1), geometry: geometry(3), have: None, skip: Vec::new() };
    lab.tell(|t, now| t.handle_wanted(now, vec![wanted]));
    assert!(lab.wished(|a| matches!(a, Action::AskTracker { .. })));
    lab.plan(1, lab.boxes(&[device(1)]));
    lab.say_holding(device(1), &ChunkSet::full(3));
    assert!(lab.chunks_open(device(1)).is_empty(), "no chunk before the manifest");

    let manifest = lab.find(|_, ask| ask == Ask::Manifest).expect("the manifest is asked for");
    lab.answer(manifest, Answer::Data(96));
    lab.tell(|t, now| t.handle_verdict(now, manifest, Verdict::Verified));
    assert!(lab.wished(|a| *a == Action::Reserve { item: item(1) }));
    lab.tell(|t, now| t.handle_reserved(now, item(1), ChunkSet::empty(3)));
    assert_eq!(lab.chunks_open(device(1)).len(), 1);

    while lab.deliver(device(1), 10) {}
    assert!(lab.wished(|a| *a == Action::Complete { item: item(1) }));
    assert_eq!(lab.progress(1).standing, Standing::Complete);
    assert_eq!(lab.progress(1).held, 3);
    assert_eq!(lab.progress(1).tallies[0].verified_bytes, 3 * CHUNK_BYTES);
    assert_eq!(lab.transfers.outstanding_bytes(), 0);
}

#[test]
fn a_manifest_is_asked_of_somebody_else_when_the_first_is_slow() {
    let mut lab = Lab::new(Config::default());
    let wanted = Wanted { item: item(1), geometry: geometry(3), have: None, skip: Vec::new() };
    lab.tell(|t, now| t.handle_wanted(now, vec![wanted]));
    lab.plan(1, lab.boxes(&[device(1), device(2)]));
    let manifests = |lab: &Lab| lab.open.values().filter(|(_, _, ask)| *ask == Ask::Manifest).count();
    assert_eq!(manifests(&lab), 1);
    lab.pass(3_000);
    assert_eq!(manifests(&lab), 2);
}

#[test]
fn a_new_source_gets_one_chunk_until_it_has_delivered_one_and_never_more_than_its_bound() {
    let mut lab = lab_with(64, &[device(1)]);
    assert_eq!(lab.chunks_open(device(1)).len(), 1);
    lab.deliver(device(1), 5);
    assert_eq!(lab.chunks_open(device(1)).len(), 4, "a fast source is asked ahead");
    let mut slow = lab_with(64, &[device(1)]);
    slow.deliver(device(1), 9_000);
    assert_eq!(slow.chunks_open(device(1)).len(), 2);
}

#[test]
fn outstanding_bytes_stay_below_their_budget() {
    let devices: Vec<DeviceId> = (1..=20).map(device).collect();
    let mut lab = Lab::new(Config { outstanding_bytes: 5 * CHUNK_BYTES, ..Config::default() });
    lab.want(&[(1, 200)]);
    lab.plan(1, lab.boxes(&devices));
    for &device in &devices {
        lab.say_holding(device, &ChunkSet::full(200));
    }
    assert_eq!(lab.transfers.outstanding_bytes(), 5 * CHUNK_BYTES);
    for _ in 0..50 {
        let id = lab.find(|_, ask| matches!(ask, Ask::Chunk(_))).expect("something is asked");
        lab.now += 5;
        lab.arrive(id);
        assert!(lab.transfers.outstanding_bytes() <= 5 * CHUNK_BYTES);
    }
}

#[test]
fn a_poisoner_is_banned_after_one_chunk_and_all_it_was_asked_is_asked_of_others() {
    let mut lab = lab_with(64, &[device(1), device(2)]);
    lab.deliver(device(1), 5);
    let before = lab.chunks_open(device(1));
    assert_eq!(before.len(), 4);
    let id = lab.chunk_request(device(1)).expect("it is asked");
    lab.answer(id, Answer::Data(CHUNK_BYTES));
    lab.tell(|t, now| t.handle_verdict(now, id, Verdict::Forged));

    assert!(lab.wished(|a| matches!(a, Action::Ban { device: d, .. } if *d == device(1))));
    assert!(lab.chunks_open(device(1)).is_empty());
    lab.plan(1, lab.boxes(&[device(1), device(2)]));
    lab.pass(60_000);
    assert!(lab.chunks_open(device(1)).is_empty(), "a plan that names it again changes nothing");
    while lab.deliver(device(2), 5) {
        lab.say_holding(device(2), &ChunkSet::full(64));
    }
    let progress = lab.progress(1);
    assert_eq!(progress.standing, Standing::Complete);
    let wasted: u64 = progress.tallies.iter().map(|t| t.wasted_bytes).sum();
    assert_eq!(wasted, CHUNK_BYTES, "one bad chunk, no more");
}

#[test]
fn a_device_that_claims_what_it_lacks_is_demoted_after_two_and_dropped_after_four() {
    let mut lab = lab_with(64, &[device(1)]);
    for misses in 1..=4 {
        let id = lab.chunk_request(device(1)).unwrap_or_else(|| panic!("still asked after {} misses", misses - 1));
        lab.answer(id, Answer::NotHeld);
        assert_eq!(lab.wished(|a| matches!(a, Action::ReportStall { .. })), misses == 2);
    }
    assert_eq!(lab.chunk_request(device(1)), None);
    lab.pass(9 * 60_000);
    assert_eq!(lab.chunk_request(device(1)), None, "dropped for ten minutes");
    lab.plan(1, lab.boxes(&[device(1)]));
    for _ in 0..62 {
        lab.pass(1_000);
        lab.say_holding(device(1), &ChunkSet::full(64));
    }
    assert_eq!(lab.chunks_open(device(1)).len(), 1, "back on probation");
}

#[test]
fn a_silent_device_loses_its_chunk_at_the_deadline() {
    let mut lab = lab_with(8, &[device(1)]);
    let first = lab.chunk_request(device(1)).expect("it is asked");
    lab.pass(21_000);
    assert!(!lab.open.contains_key(&first));
    assert!(lab.chunk_request(device(1)).is_some(), "one strike is no verdict");
}

#[test]
fn a_slow_but_steady_device_is_given_time() {
    let mut lab = lab_with(8, &[device(1)]);
    let first = lab.chunk_request(device(1)).expect("it is asked");
    for second in 1..=60 {
        lab.pass(1_000);
        lab.transfers.handle_received(first, second * 10_000);
    }
    assert!(lab.open.contains_key(&first));
}

#[test]
fn a_source_that_ends_gives_its_chunks_back_and_the_tracker_is_asked_at_once() {
    let mut lab = lab_with(64, &[device(1), device(2)]);
    lab.deliver(device(1), 5);
    lab.deliver(device(2), 5);
    lab.pass(1_500);
    lab.wishes.clear();
    while let Some(id) = lab.chunk_request(device(1)) {
        lab.answer(id, Answer::Failed { failure: Failure::Closed, received: 1_000 });
    }
    assert!(lab.wished(|a| matches!(a, Action::AskTracker { .. })));
    let in_flight = lab.transfers.items[&item(1)].stage.picker().expect("fetching").in_flight().len() as usize;
    assert_eq!(in_flight, lab.chunks_open(device(2)).len());
}

#[test]
fn a_busy_device_is_left_alone_for_as_long_as_it_asked() {
    let mut lab = lab_with(8, &[device(1)]);
    let id = lab.chunk_request(device(1)).expect("it is asked");
    lab.answer(id, Answer::Busy(Duration::from_secs(2)));
    lab.pass(1_900);
    assert_eq!(lab.chunk_request(device(1)), None);
    lab.pass(200);
    assert!(lab.chunk_request(device(1)).is_some());
}

#[test]
fn an_unreachable_device_is_tried_less_and_less_often() {
    let mut lab = lab_with(8, &[device(1)]);
    let mut tries = 0;
    for _ in 0..600 {
        while let Some(id) = lab.find(|_, _| true) {
            tries += 1;
            lab.answer(id, Answer::Failed { failure: Failure::Unreachable, received: 0 });
        }
        lab.plan(1, lab.boxes(&[device(1)]));
        lab.pass(1_000);
    }
    assert!((5..40).contains(&tries), "{tries} tries in ten minutes");
}

#[test]
fn nothing_of_a_lower_item_is_asked_of_a_source_that_has_more_of_a_higher_one() {
    let mut lab = Lab::new(Config::default());
    lab.want(&[(1, 6), (2, 6)]);
    for n in [1, 2] {
        lab.plan(n, lab.boxes(&[device(1)]));
    }
    lab.say_holding(device(1), &ChunkSet::full(6));
    while lab.deliver(device(1), 5) {}
    let items: Vec<ItemId> = lab.asked.iter().map(|(_, item, _)| *item).collect();
    let first_lower = items.iter().position(|i| *i == item(2)).expect("the second item follows");
    assert!(items[..first_lower].iter().all(|i| *i == item(1)));
    assert_eq!(first_lower, 6, "all of the first, then the second");
}

#[test]
fn a_new_order_takes_effect_at_once_and_loses_no_chunk() {
    let mut lab = Lab::new(Config::default());
    lab.want(&[(1, 16), (2, 16)]);
    for n in [1, 2] {
        lab.plan(n, lab.boxes(&[device(1)]));
    }
    lab.say_holding(device(1), &ChunkSet::full(16));
    lab.deliver(device(1), 5);
    let held = lab.progress(1).held;
    lab.want(&[(2, 16), (1, 16)]);
    lab.asked.clear();
    lab.deliver(device(1), 5);
    assert!(lab.asked.iter().all(|(_, i, _)| *i == item(2)));
    assert!(lab.progress(1).held > held);
}

#[test]
fn what_a_viewer_is_about_to_see_comes_first_and_in_order() {
    let mut lab = lab_with(64, &[device(1)]);
    let chunk = geometry(64).chunk(40).expect("it has 64");
    lab.tell(|t, now| t.handle_playing(now, item(1), chunk));
    lab.asked.clear();
    for _ in 0..6 {
        lab.deliver(device(1), 5);
    }
    let order: Vec<u32> = lab.asked.iter().map(|(.., chunk)| *chunk).collect();
    assert_eq!(order[..4], [40, 41, 42, 43]);
}

#[test]
fn without_a_tracker_kademlia_is_asked_and_then_the_pinned_seeds() {
    let mut lab = Lab::new(Config::default());
    let seed = device(9);
    lab.tell(|t, now| t.handle_pinned(now, [seed]));
    lab.want(&[(1, 8)]);
    lab.tell(|t, now| t.handle_tracker(now, false));
    assert!(lab.wished(|a| *a == Action::AskKademlia { item: item(1) }));
    lab.tell(|t, now| t.handle_providers(now, item(1), [device(1)]));
    lab.say_holding(device(1), &ChunkSet::full(8));
    assert_eq!(lab.chunks_open(device(1)).len(), 1);
    assert!(lab.find(|d, _| d == seed).is_none(), "boxes first");
    lab.pass(2_500);
    assert!(lab.find(|d, _| d == seed).is_some());
    assert_eq!(lab.progress(1).tallies.len(), 0);
    lab.deliver(device(1), 5);
    assert_eq!(lab.progress(1).tallies[0].found_by, FoundBy::Kademlia);
}

#[test]
fn the_last_plan_goes_on_when_the_tracker_is_lost() {
    let mut lab = lab_with(64, &[device(1)]);
    lab.deliver(device(1), 5);
    lab.tell(|t, now| t.handle_tracker(now, false));
    for _ in 0..60 {
        lab.pass(12_000);
        assert!(lab.deliver(device(1), 0), "its lease is over, but nobody can renew it");
    }
}

#[test]
fn a_stalled_plan_looks_elsewhere() {
    let mut lab = lab_with(8, &[device(1)]);
    lab.wishes.clear();
    lab.pass(5_500);
    assert!(lab.wished(|a| matches!(a, Action::AskKademlia { .. })));
}

#[test]
fn a_plan_whose_only_source_is_banned_is_left_at_once_and_the_tracker_hears_of_it() {
    let mut lab = lab_with(8, &[device(1)]);
    let id = lab.chunk_request(device(1)).expect("it is asked");
    lab.wishes.clear();
    lab.answer(id, Answer::Data(CHUNK_BYTES));
    lab.tell(|t, now| t.handle_verdict(now, id, Verdict::Forged));
    assert!(lab.wishes.contains(&Action::ReportStall { item: item(1), source: device(1) }));
    assert!(lab.wished(|a| matches!(a, Action::AskKademlia { .. })), "a plan of banned devices is no plan");
    lab.pass(1_000);
    assert!(lab.wished(|a| matches!(a, Action::AskTracker { .. })));
}

#[test]
fn a_source_that_claims_a_copy_and_has_no_manifest_is_replaced_at_once() {
    let mut lab = Lab::new(Config::default());
    let wanted = Wanted { item: item(1), geometry: geometry(3), have: None, skip: Vec::new() };
    lab.tell(|t, now| t.handle_wanted(now, vec![wanted]));
    lab.plan(1, vec![Lease { portions: vec![0..3], ..lab.lease(device(1), DeviceKind::Box) }]);
    let manifest = lab.find(|_, ask| ask == Ask::Manifest).expect("the manifest is asked for");
    lab.wishes.clear();
    lab.answer(manifest, Answer::NotHeld);
    assert!(lab.wished(|a| *a == Action::ReportStall { item: item(1), source: device(1) }));
    lab.pass(1_000);
    assert!(lab.wished(|a| matches!(a, Action::AskTracker { .. })));
}

#[test]
fn a_source_that_is_itself_still_fetching_is_not_blamed_for_having_no_manifest() {
    let mut lab = Lab::new(Config::default());
    let wanted = Wanted { item: item(1), geometry: geometry(3), have: None, skip: Vec::new() };
    lab.tell(|t, now| t.handle_wanted(now, vec![wanted]));
    lab.plan(1, lab.boxes(&[device(1)]));
    let manifest = lab.find(|_, ask| ask == Ask::Manifest).expect("the manifest is asked for");
    lab.answer(manifest, Answer::NotHeld);
    assert!(!lab.wished(|a| matches!(a, Action::ReportStall { .. })));
    lab.pass(1_000);
    assert!(lab.find(|_, ask| ask == Ask::Manifest).is_some(), "it is asked again soon");
}

#[test]
fn a_seed_is_asked_for_what_the_plan_has_it_send_and_for_no_more() {
    let mut lab = Lab::new(Config::default());
    lab.want(&[(1, 64)]);
    let seed = Lease { portions: vec![5..7], ..lab.lease(device(9), DeviceKind::Seed) };
    lab.plan(1, vec![seed, lab.lease(device(1), DeviceKind::Box)]);
    lab.say_holding(device(9), &ChunkSet::full(64));
    lab.say_holding(device(1), &ChunkSet::from_ranges(64, [40..64]));
    while lab.deliver(device(9), 50) {}
    let mut from_seed: Vec<u32> =
        lab.asked.iter().filter(|(of, ..)| *of == device(9)).map(|(.., chunk)| *chunk).collect();
    from_seed.sort_unstable();
    assert_eq!(from_seed, [5, 6]);
}

#[test]
fn a_source_of_a_plan_long_over_gives_its_place_to_one_of_the_next() {
    let mut lab = Lab::new(Config { sources_per_item: 2, ..Config::default() });
    lab.want(&[(1, 64)]);
    lab.plan(1, lab.boxes(&[device(1), device(2)]));
    lab.pass(1_000);
    lab.plan(1, lab.boxes(&[device(3), device(4)]));
    for new in [device(3), device(4)] {
        lab.say_holding(new, &ChunkSet::full(64));
        assert!(!lab.chunks_open(new).is_empty(), "{new} is not asked");
    }
}

#[test]
fn an_expired_lease_is_not_used_while_the_tracker_is_there() {
    let mut lab = lab_with(8, &[device(1), device(2)]);
    lab.deliver(device(1), 5);
    lab.deliver(device(2), 5);
    lab.plan(1, lab.boxes(&[device(2)]));
    while let Some(id) = lab.chunk_request(device(1)) {
        lab.arrive(id);
    }
    assert!(lab.chunks_open(device(1)).is_empty());
    assert!(!lab.chunks_open(device(2)).is_empty());
}

#[test]
fn a_seed_is_spared_where_a_box_has_the_chunk_and_used_where_none_has() {
    let (near, seed) = (device(1), device(9));
    let mut lab = Lab::new(Config::default());
    lab.want(&[(1, 8)]);
    lab.plan(1, vec![lab.lease(near, DeviceKind::Box), lab.lease(seed, DeviceKind::Seed)]);
    lab.say_holding(seed, &ChunkSet::full(8));
    assert!(lab.chunks_open(seed).is_empty(), "the box has not said what it holds yet");
    lab.say_holding(near, &ChunkSet::from_ranges(8, [0..6]));
    for _ in 0..8 {
        lab.deliver(near, 5);
        lab.deliver(seed, 5);
    }
    for &(who, _, chunk) in &lab.asked {
        assert_eq!(who, if chunk < 6 { near } else { seed }, "chunk {chunk}");
    }
    assert_eq!(lab.progress(1).standing, Standing::Complete);
}

#[test]
fn a_seed_steps_in_when_the_box_gives_nothing() {
    let (near, seed) = (device(1), device(9));
    let mut lab = Lab::new(Config::default());
    lab.want(&[(1, 8)]);
    lab.plan(1, vec![lab.lease(near, DeviceKind::Box), lab.lease(seed, DeviceKind::Seed)]);
    lab.say_holding(near, &ChunkSet::full(8));
    lab.say_holding(seed, &ChunkSet::full(8));
    lab.pass(2_500);
    assert!(!lab.chunks_open(seed).is_empty());
}

#[test]
fn two_boxes_with_disjoint_portions_each_send_their_own() {
    let mut lab = Lab::new(Config::default());
    lab.want(&[(1, 8)]);
    let mut leases = lab.boxes(&[device(1), device(2)]);
    leases[0].portions = vec![0..4];
    leases[1].portions = vec![4..8];
    lab.plan(1, leases);
    lab.say_holding(device(1), &ChunkSet::full(8));
    while lab.deliver(device(1), 5) {}
    assert!(lab.asked.iter().all(|(_, _, chunk)| *chunk < 4), "the second box has only just been named");
    lab.say_holding(device(2), &ChunkSet::full(8));
    while lab.deliver(device(2), 5) {}
    assert_eq!(lab.progress(1).standing, Standing::Complete);
    assert!(lab.progress(1).tallies.iter().all(|tally| tally.verified_bytes == 4 * CHUNK_BYTES));
}

#[test]
fn a_lease_goes_no_faster_than_its_cap() {
    let mut lab = Lab::new(Config::default());
    lab.want(&[(1, 64)]);
    let mut leases = lab.boxes(&[device(1)]);
    leases[0].rate_cap_bytes_per_sec = Some(CHUNK_BYTES);
    lab.plan(1, leases);
    lab.say_holding(device(1), &ChunkSet::full(64));
    for _ in 0..1_000 {
        lab.deliver(device(1), 0);
        lab.pass(10);
    }
    let held = lab.progress(1).held;
    assert!((9..=12).contains(&held), "{held} chunks in ten seconds");
}

#[test]
fn a_much_faster_idle_source_takes_the_chunk_of_a_slow_one() {
    let mut lab = lab_with(4, &[device(1), device(2)]);
    let slow = lab.chunk_request(device(1)).expect("both are asked");
    while lab.deliver(device(2), 20) {}
    lab.transfers.handle_received(slow, 10_000);
    lab.pass(1_500);
    assert!(!lab.open.contains_key(&slow), "taken from the slow one");
    assert_eq!(lab.chunks_open(device(2)).len(), 1);
    lab.deliver(device(2), 20);
    assert_eq!(lab.progress(1).standing, Standing::Complete);
}

#[test]
fn a_full_disk_pauses_the_item_and_it_goes_on_by_itself() {
    let mut lab = lab_with(8, &[device(1)]);
    let id = lab.chunk_request(device(1)).expect("it is asked");
    lab.answer(id, Answer::Data(CHUNK_BYTES));
    lab.tell(|t, now| t.handle_verdict(now, id, Verdict::Verified));
    lab.tell(|t, now| t.handle_store_failed(now, id, "needs 3 GB more".to_owned()));
    assert_eq!(lab.progress(1).standing, Standing::Paused("needs 3 GB more".to_owned()));
    assert!(lab.chunks_open(device(1)).is_empty());
    lab.pass(11_000);
    assert!(lab.wished(|a| *a == Action::Reserve { item: item(1) }));
    lab.tell(|t, now| t.handle_reserved(now, item(1), ChunkSet::empty(8)));
    assert!(lab.chunk_request(device(1)).is_some());
}

#[test]
fn a_rotten_chunk_is_fetched_again() {
    let mut lab = lab_with(8, &[device(1)]);
    let (.., first) = lab.asked[0];
    lab.deliver(device(1), 5);
    let chunk = geometry(8).chunk(first).expect("it was asked");
    lab.tell(|t, now| t.handle_lost(now, item(1), chunk));
    while lab.deliver(device(1), 5) {}
    assert_eq!(lab.asked.iter().filter(|(.., chunk)| *chunk == first).count(), 2);
    assert_eq!(lab.progress(1).standing, Standing::Complete);
}

#[test]
fn skipped_chunks_are_not_fetched() {
    let mut lab = Lab::new(Config::default());
    let have = Some(ChunkSet::empty(8));
    let wanted = Wanted { item: item(1), geometry: geometry(8), have, skip: vec![2..8] };
    lab.tell(|t, now| t.handle_wanted(now, vec![wanted]));
    lab.plan(1, lab.boxes(&[device(1)]));
    lab.say_holding(device(1), &ChunkSet::full(8));
    while lab.deliver(device(1), 5) {}
    assert_eq!(lab.progress(1).held, 2);
    assert_eq!(lab.progress(1).standing, Standing::Complete);
}

#[test]
fn a_dropped_item_ends_its_requests_and_a_finished_one_wakes_nobody() {
    let mut lab = lab_with(8, &[device(1)]);
    lab.tell(|t, now| t.handle_wanted(now, Vec::new()));
    assert!(lab.open.is_empty());
    assert_eq!(lab.transfers.outstanding_bytes(), 0);
    assert_eq!(lab.transfers.poll_timeout(), None);
}

#[test]
fn a_waiting_item_says_why() {
    let mut lab = Lab::new(Config::default());
    lab.want(&[(1, 8)]);
    let waiting = "no source holds it yet".to_owned();
    let plan = Plan {
        item: item(1),
        leases: Vec::new(),
        renew_after: Duration::from_secs(5),
        waiting: waiting.clone(),
        closed: None,
    };
    lab.tell(|t, now| t.handle_plan(now, plan));
    assert_eq!(lab.progress(1).standing, Standing::Waiting(waiting));
    lab.tell(|t, now| t.handle_tracker(now, false));
    lab.want(&[(2, 8)]);
    let Standing::Waiting(why) = lab.progress(2).standing else { panic!("it waits") };
    assert!(why.contains("tracker is away"), "{why}");
}

/// What a source in the random swarm does with a request.
#[derive(Debug, Clone, Copy)]
enum Deed {
    Deliver,
    Forge,
    Deny,
    Busy,
    Close,
    Hang,
    Malform,
}

fn deed() -> impl Strategy<Value = Deed> {
    prop_oneof![
        12 => Just(Deed::Deliver), 1 => Just(Deed::Forge), 2 => Just(Deed::Deny), 2 => Just(Deed::Busy),
        2 => Just(Deed::Close), 1 => Just(Deed::Hang), 1 => Just(Deed::Malform),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// Whatever the sources do: budgets and priorities hold at every step, bytes add up, and one honest source that is
    /// there to the end completes everything.
    #[test]
    fn any_swarm_with_one_honest_source_completes_within_its_bounds(
        deeds in prop::collection::vec((deed(), 0u64..3_000), 20..200),
        holdings in prop::collection::vec(prop::collection::vec(0u32..24, 0..24), 5),
        tracker_lost_at in 0usize..200,
    ) {
        const CHUNKS: u32 = 24;
        let config = Config { outstanding_bytes: 6 * CHUNK_BYTES, ..Config::default() };
        let mut lab = Lab::new(config.clone());
        let others: Vec<DeviceId> = (0..5).map(device).collect();
        lab.want(&[(1, CHUNKS), (2, CHUNKS)]);
        let all: Vec<DeviceId> = others.iter().copied().chain([HONEST]).collect();
        let mut sent = 0u64;
        let mut hung = BTreeSet::new();
        let mut deeds = deeds.into_iter().enumerate();
        for step in 0..20_000 {
            if lab.transfers.items.is_empty() {
                break;
            }
            if step == tracker_lost_at {
                lab.tell(|t, now| t.handle_tracker(now, false));
            }
            if step % 50 == 0 {
                for n in [1, 2] {
                    lab.plan(n, lab.boxes(&all));
                }
            }
            // Small questions are answered at once.
            let small = |(_, (who, _, ask)): &(&_, &(DeviceId, _, Ask))| *ask == Ask::Holding && !hung.contains(who);
            while let Some((&id, &(who, _, ask))) = lab.open.iter().find(small) {
                prop_assert_eq!(ask, Ask::Holding);
                let set = match others.iter().position(|d| *d == who) {
                    Some(n) => ChunkSet::from_ranges(CHUNKS, holdings[n].iter().map(|&c| c..c + 1)),
                    None => ChunkSet::full(CHUNKS),
                };
                lab.answer(id, Answer::Holding(set));
            }
            let awake = |(_, (who, ..)): &(&_, &(DeviceId, _, _))| !hung.contains(who);
            let Some((&id, &(who, ..))) = lab.open.iter().find(awake) else {
                lab.pass(500);
                continue;
            };
            let (deed, ms) = if who == HONEST { (Deed::Deliver, 50) } else { deeds.next().map_or((Deed::Hang, 100), |d| d.1) };
            lab.now += ms;
            match deed {
                Deed::Deliver => { sent += CHUNK_BYTES; lab.arrive(id) }
                Deed::Forge => {
                    sent += CHUNK_BYTES;
                    lab.answer(id, Answer::Data(CHUNK_BYTES));
                    lab.tell(|t, now| t.handle_verdict(now, id, Verdict::Forged));
                    prop_assert!(lab.chunks_open(who).is_empty(), "banned at once");
                }
                Deed::Deny => lab.answer(id, Answer::NotHeld),
                Deed::Busy => lab.answer(id, Answer::Busy(Duration::from_secs(1))),
                Deed::Close => {
                    sent += 1_000;
                    lab.answer(id, Answer::Failed { failure: Failure::Closed, received: 1_000 });
                }
                Deed::Malform => lab.answer(id, Answer::Failed { failure: Failure::Malformed, received: 0 }),
                Deed::Hang => {
                    hung.insert(who);
                }
            }
            prop_assert!(lab.transfers.books().balance(), "{:?}", lab.transfers.books());
            prop_assert!(lab.transfers.outstanding_bytes() <= config.outstanding_bytes);
            for &device in &all {
                prop_assert!(lab.chunks_open(device).len() <= config.outstanding_per_source as usize);
            }
        }
        for n in [1, 2] {
            let progress = lab.progress(n);
            prop_assert_eq!(&progress.standing, &Standing::Complete, "item {}", n);
            prop_assert_eq!(progress.held, CHUNKS);
            let verified: u64 = progress.tallies.iter().map(|t| t.verified_bytes).sum();
            prop_assert_eq!(verified, u64::from(CHUNKS) * CHUNK_BYTES);
        }
        let received: u64 = lab.transfers.take_traffic().values().map(|t| t.verified_bytes + t.wasted_bytes).sum();
        prop_assert_eq!(received, sent, "every byte is either verified or wasted");
        prop_assert_eq!(lab.transfers.outstanding_bytes(), 0);
    }
}

#[test]
fn more_of_an_item_is_fetched_as_soon_as_more_is_meant() {
    let mut lab = Lab::new(Config::default());
    let wanted =
        |skip: Vec<Range<u32>>| Wanted { item: item(1), geometry: geometry(20), have: Some(ChunkSet::empty(20)), skip };
    lab.tell(|t, now| t.handle_wanted(now, vec![wanted(std::iter::once(2..20).collect())]));
    let leases = lab.boxes(&[HONEST]);
    lab.plan(1, leases);
    assert!(lab.transfers.items[&item(1)].stage.picker().is_some_and(|picker| picker.missing().len() == 2));
    lab.tell(|t, now| t.handle_wanted(now, vec![wanted(Vec::new())]));
    assert!(lab.transfers.items[&item(1)].stage.picker().is_some_and(|picker| picker.missing().len() == 20));
}

#[test]
fn item_that_found_no_room_goes_on_as_soon_as_there_is_some() {
    let mut lab = Lab::new(Config::default());
    lab.want(&[(1, 4)]);
    lab.tell(|t, now| t.handle_paused(now, item(1), "the disk is full".to_owned()));
    assert!(!lab.wishes.contains(&Action::Reserve { item: item(1) }));
    lab.tell(|t, now| t.handle_room(now));
    assert!(lab.wishes.contains(&Action::Reserve { item: item(1) }));
}
