//! Items that wait for their time.

use super::*;

const HOUR: Duration = Duration::from_secs(3_600);

impl Lab {
    /// The tracker says that an item is closed, from then until then.
    fn closed(&mut self, n: u8, from: Duration, until: Duration, leases: Vec<Lease>) {
        let plan = Plan {
            item: item(n),
            waiting: if leases.is_empty() { "tonight 01:00–06:00".to_owned() } else { String::new() },
            leases,
            renew_after: Duration::from_secs(5),
            closed: Some(Closed { from, until, spread: Duration::from_secs(10) }),
        };
        self.tell(|t, now| t.handle_plan(now, plan));
    }

    /// How often the tracker was asked about an item since this was asked last.
    fn asked_the_tracker(&mut self, n: u8) -> usize {
        let before = self.wishes.len();
        self.wishes.retain(|wish| !matches!(wish, Action::AskTracker { item: it, .. } if *it == item(n)));
        before - self.wishes.len()
    }

    fn asked_kademlia(&mut self) -> bool {
        self.wished(|wish| matches!(wish, Action::AskKademlia { .. }))
    }

    fn is_closed(&self, n: u8) -> bool {
        matches!(self.progress(n).standing, Standing::Scheduled { .. })
    }
}

#[test]
fn what_waits_for_its_time_is_asked_of_nobody_until_then_and_then_goes_on() {
    let mut lab = Lab::new(Config::default());
    lab.tell(|t, now| t.handle_pinned(now, [device(9)]));
    lab.want(&[(1, 8)]);
    lab.closed(1, Duration::ZERO, HOUR, Vec::new());
    lab.asked_the_tracker(1);
    lab.pass(3_599_000);
    assert_eq!((lab.asked_the_tracker(1), lab.asked_kademlia(), lab.open.len()), (0, false, 0));
    let opens = Some(lab.now().utc + Duration::from_secs(1));
    let why = "tonight 01:00–06:00".to_owned();
    assert_eq!(lab.progress(1).standing, Standing::Scheduled { opens, why });
    lab.pass(11_001);
    assert_eq!(lab.asked_the_tracker(1), 1, "it goes on within its spread");
    assert!(!lab.is_closed(1));
}

#[test]
fn what_waits_as_a_preload_goes_on_at_once_when_somebody_queues_it() {
    let mut lab = Lab::new(Config::default());
    lab.want(&[(1, 8)]);
    lab.closed(1, Duration::ZERO, HOUR, Vec::new());
    // The tracker is asked about one item no more than once a second.
    lab.pass(1_000);
    lab.asked_the_tracker(1);
    lab.tell(|t, now| t.handle_reclassed(now, item(1)));
    assert_eq!((lab.asked_the_tracker(1), lab.is_closed(1)), (1, false));
}

#[test]
fn tracker_that_goes_away_meanwhile_opens_nothing_before_its_time() {
    let mut lab = Lab::new(Config::default());
    lab.tell(|t, now| t.handle_pinned(now, [device(9)]));
    lab.want(&[(1, 8)]);
    lab.closed(1, Duration::ZERO, HOUR, Vec::new());
    lab.tell(|t, now| t.handle_tracker(now, false));
    lab.tell(|t, now| t.handle_providers(now, item(1), [device(1)]));
    lab.pass(3_599_000);
    assert!(lab.is_closed(1) && !lab.asked_kademlia() && lab.open.is_empty());
    lab.pass(20_000);
    assert!(lab.asked_kademlia(), "its time has come, and nobody else can be asked");
    assert!(lab.find(|source, _| source == device(9)).is_some(), "the pinned seeds are asked");
}

#[test]
fn end_of_a_window_cuts_off_what_arrives_though_the_tracker_says_nothing() {
    let mut lab = Lab::new(Config::default());
    lab.want(&[(1, 8)]);
    lab.closed(1, Duration::from_secs(30), HOUR, lab.boxes(&[device(1)]));
    lab.say_holding(device(1), &ChunkSet::full(8));
    assert!(!lab.is_closed(1) && !lab.chunks_open(device(1)).is_empty());
    lab.tell(|t, now| t.handle_tracker(now, false));
    lab.pass(29_999);
    assert!(!lab.is_closed(1));
    lab.pass(1);
    assert!(lab.is_closed(1));
    assert_eq!((lab.open.len(), lab.transfers.outstanding_bytes()), (0, 0));
    lab.pass(3_000_000);
    assert!(lab.open.is_empty());
    lab.pass(580_001);
    assert!(!lab.is_closed(1) && lab.find(|source, _| source == device(1)).is_some(), "it resumes in the next one");
}

#[test]
fn renewed_plan_moves_the_end() {
    let mut lab = Lab::new(Config::default());
    lab.want(&[(1, 8)]);
    lab.closed(1, Duration::from_secs(30), HOUR, lab.boxes(&[device(1)]));
    lab.say_holding(device(1), &ChunkSet::full(8));
    lab.pass(10_000);
    let lease = lab.boxes(&[device(1)]);
    lab.plan(1, lease);
    lab.pass(60_000);
    assert!(!lab.is_closed(1));
    lab.closed(1, Duration::ZERO, HOUR, Vec::new());
    assert!(lab.is_closed(1) && lab.open.is_empty());
    let over = Vec::new();
    lab.closed(1, Duration::ZERO, Duration::ZERO, over);
    lab.asked_the_tracker(1);
    lab.pass(10_001);
    assert_eq!(lab.asked_the_tracker(1), 1, "the operator has opened it");
}

#[test]
fn viewer_opens_what_waits_and_is_not_stopped() {
    let mut lab = Lab::new(Config::default());
    lab.want(&[(1, 8)]);
    lab.closed(1, Duration::ZERO, HOUR, Vec::new());
    lab.pass(2_000);
    lab.wishes.clear();
    let chunk = geometry(8).chunk(3).unwrap();
    lab.tell(|t, now| t.handle_playing(now, item(1), chunk));
    let asked = lab.wishes.iter().any(|wish| matches!(wish, Action::AskTracker { playing: true, .. }));
    assert!(asked && !lab.is_closed(1));
    // The answer to a question from before somebody watched changes nothing.
    lab.closed(1, Duration::ZERO, HOUR, Vec::new());
    assert!(!lab.is_closed(1));
    let leases = lab.boxes(&[device(1)]);
    lab.closed(1, Duration::from_secs(3), HOUR, leases);
    lab.say_holding(device(1), &ChunkSet::full(8));
    lab.pass(3_000);
    assert!(!lab.is_closed(1) && !lab.chunks_open(device(1)).is_empty());
}

#[test]
fn tracker_that_comes_back_is_asked_once_whether_it_is_still_closed() {
    let mut lab = Lab::new(Config::default());
    lab.want(&[(1, 8)]);
    lab.closed(1, Duration::ZERO, HOUR, Vec::new());
    lab.tell(|t, now| t.handle_tracker(now, false));
    lab.pass(5_000);
    lab.tell(|t, now| t.handle_tracker(now, true));
    lab.asked_the_tracker(1);
    lab.pass(31_000);
    assert_eq!(lab.asked_the_tracker(1), 1);
    lab.tell(|t, now| t.handle_no_plan(now, item(1)));
    lab.pass(600_000);
    assert_eq!(lab.asked_the_tracker(1), 0);
    assert!(lab.is_closed(1));
}

#[test]
fn what_waits_keeps_nothing_from_those_behind_it() {
    let mut lab = Lab::new(Config { active_items: 1, ..Config::default() });
    lab.want(&[(1, 8), (2, 8)]);
    lab.closed(1, Duration::ZERO, HOUR, Vec::new());
    assert_eq!(lab.asked_the_tracker(2), 1);
    let leases = lab.boxes(&[device(1)]);
    lab.plan(2, leases);
    lab.say_holding(device(1), &ChunkSet::full(8));
    assert!(!lab.chunks_open(device(1)).is_empty());
}

#[test]
fn boxes_that_waited_for_the_same_moment_do_not_begin_at_once() {
    let begins = |seed: u64| {
        let mut lab = Lab::new(Config::default());
        lab.transfers = Transfers::new(seed, Config::default());
        lab.tell(|t, now| t.handle_tracker(now, true));
        lab.want(&[(1, 8)]);
        lab.closed(1, Duration::ZERO, HOUR, Vec::new());
        let wake = lab.transfers.poll_timeout().unwrap().as_millis() - lab.now;
        assert!((3_600_000..=3_610_000).contains(&wake), "{wake}");
        wake
    };
    let moments: BTreeSet<u64> = (0..100).map(begins).collect();
    assert!(moments.len() > 90, "{}", moments.len());
}

#[test]
fn moment_that_never_comes_is_not_waited_for_by_the_clock() {
    let mut lab = Lab::new(Config::default());
    lab.want(&[(1, 8)]);
    lab.closed(1, Duration::ZERO, Duration::from_millis(u64::MAX), Vec::new());
    assert!(matches!(lab.progress(1).standing, Standing::Scheduled { opens: None, .. }));
}
