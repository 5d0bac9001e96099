//! A whole swarm in virtual time: the machines of `swarm-proto`, and a world around them.
//!
//! The world moves messages and bytes and lets things go wrong; every decision about chunks and sources is made by the
//! machines that ship. Discrete events, one seed, ties in the order in which things were planned: the same scenario and
//! seed give the same trace, byte for byte. Chunks are indices here, never bytes. See `links` for how bandwidth is
//! shared and `checks` for what must hold all the time.

mod build;
mod checks;
mod device;
mod happenings;
mod limits;
mod links;
mod plays;
mod schedule;
mod tally;
mod trace;
mod tracker;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use rand_chacha::ChaCha8Rng;
use swarm_proto::geometry::Geometry;
use swarm_proto::id::ItemId;
use swarm_proto::peer::transfers::{self, Ask, RequestId};
use swarm_proto::peer::uploads::SendId;
use swarm_proto::time::{Mono, Now, Utc};

pub use self::checks::{Rule, Violation};
use self::device::Device;
use self::links::{LinkId, Links};
use self::plays::Play;
use self::schedule::{Due, Schedule};
use self::tally::Tally;
pub use self::tally::{Outcome, Sample};
use self::trace::Trace;
pub(crate) use self::trace::clock;
use self::tracker::{Notice, Report, Tracker};
use crate::scenario::Scenario;

/// Machines have been running for a while when a run begins: nothing is at the zero of its clock.
const MONO_AT_START_MS: u64 = 1_000_000;

/// When a run begins: Monday, 2 November 2026, 18:00 UTC.
const UTC_AT_START_SECS: u64 = 1_793_642_400;

/// How often wide links are divided anew.
const BEAT_MICROS: u64 = 100_000;

/// What is to be done later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Wake {
    /// The machine of a device wants to be called.
    Timer(u32),
    /// A flow of a device's uplink ends.
    FlowEnds(u32),
    /// A device has news for the tracker.
    News(u32),
    Heartbeat(u32),
    Planner,
    /// A device reserves room for a title.
    Reserve {
        device: u32,
        title: u32,
    },
    /// Kademlia has found who provides a title.
    Providers {
        device: u32,
        title: u32,
    },
    /// Somebody wants a title.
    Want(u32),
    /// Whoever watches what a wish brings needs the next chunk.
    Play(u32),
    Leave(u32),
    /// A device tries to reach its tracker.
    Reconnect(u32),
    SeedsLeave,
    TrackerStops,
    TrackerStarts,
    /// Wide links are divided anew.
    Beat,
    Sample,
}

/// A message between devices.
#[derive(Debug)]
enum Request {
    Ask { from: u32, to: u32, id: RequestId, title: u32, ask: Ask },
    Cancel { from: u32, id: RequestId },
}

/// What comes back.
#[derive(Debug)]
struct Reply {
    to: u32,
    id: RequestId,
    answer: transfers::Answer,
    forged: bool,
}

/// A message from or to the tracker.
#[derive(Debug)]
enum Control {
    Up { from: u32, report: Report },
    Down { to: u32, notice: Notice },
}

/// A chunk that is being sent.
#[derive(Debug, Clone, Copy)]
struct Sending {
    from: u32,
    to: u32,
    id: RequestId,
    send: SendId,
    forged: bool,
}

/// A title and who says to provide it.
#[derive(Debug)]
struct Title {
    item: ItemId,
    providers: Vec<u32>,
}

/// A device that wants a title.
#[derive(Debug, Clone)]
struct Want {
    device: u32,
    title: u32,
    at: u64,
    done_at: Option<u64>,
    /// The device has left before it was done.
    given_up: bool,
    /// How it is watched; none: it is not.
    play: Option<Play>,
}

/// The whole swarm.
#[derive(Debug)]
pub struct World {
    scenario: Scenario,
    schedule: Schedule<Wake, Request, Reply, Control>,
    links: Links,
    /// What flows, by the number of its flow.
    sendings: Vec<Option<Sending>>,
    devices: Vec<Device>,
    /// Devices before this one are boxes, the others seeds.
    n_boxes: u32,
    titles: Vec<Title>,
    geometry: Geometry,
    /// Of a chunk that is watched, in microseconds.
    chunk_lasts: u64,
    tracker: Tracker,
    wants: Vec<Want>,
    open_wants: usize,
    /// The wishes of each device: they lie side by side.
    wants_of: BTreeMap<u32, Range<usize>>,
    /// Who leaves, and when.
    leaves: BTreeMap<u32, u64>,
    /// What separates two sites: wide links out of and into each, and between all.
    borders: Vec<(Option<LinkId>, Option<LinkId>)>,
    transit: Option<LinkId>,
    chance: ChaCha8Rng,
    trace: Trace,
    tally: Tally,
    limits: checks::Limits,
    /// Chunks that were kept although they were forged: device, title, chunk.
    tainted: BTreeSet<(u32, u32, u32)>,
    /// Plants a fault, so that tests can see whether it is found.
    canary: Option<Canary>,
}

/// A fault that the checks must find.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Canary {
    /// One chunk in so many is passed on although it was forged.
    SkipsVerification(u64),
    /// An honest box is banned.
    BansTheHonest,
    /// Bytes arrive that nobody sent.
    InventsBytes,
}

/// Whether a run goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// There is more to come.
    Goes,
    /// Everybody has what they wanted.
    Done,
    /// The time of the scenario is over.
    TimeUp,
}

impl World {
    /// Lets so many events happen.
    pub fn step(&mut self, events: usize) -> Result<Step, Violation> {
        let until = micros(self.scenario.until.get());
        for _ in 0..events {
            if self.open_wants == 0 {
                return self.finish(Step::Done);
            }
            if self.schedule.next_at().is_none_or(|at| at > until) {
                return self.finish(Step::TimeUp);
            }
            match self.schedule.pop() {
                Some(Due::Wake(wake)) => self.woken(wake),
                Some(Due::Request(request)) => self.requested(request),
                Some(Due::Answer(reply)) => self.replied(reply),
                Some(Due::Control(Control::Up { from, report })) => self.reported(from, report),
                Some(Due::Control(Control::Down { to, notice })) => self.noticed(to, notice),
                None => return self.finish(Step::TimeUp),
            }
            if let Some(violation) = self.tally.violation.take() {
                return Err(violation);
            }
        }
        Ok(Step::Goes)
    }

    /// Virtual time since the beginning.
    pub fn now(&self) -> std::time::Duration {
        std::time::Duration::from_micros(self.schedule.now())
    }

    /// Events so far.
    pub fn events(&self) -> u64 {
        self.trace.events()
    }

    /// What happened to the box that is watched.
    pub fn lines(&self) -> &[String] {
        self.trace.lines()
    }

    /// The hash of everything that has happened.
    pub fn digest(&self) -> String {
        self.trace.digest()
    }

    /// Wishes that were fulfilled, and all of them.
    pub fn progress(&self) -> (usize, usize) {
        (self.wants.len() - self.open_wants, self.wants.len())
    }

    fn finish(&mut self, how: Step) -> Result<Step, Violation> {
        self.check_at_the_end()?;
        Ok(how)
    }

    /// Both clocks of the machines.
    fn clocks(&self) -> Now {
        clocks_at(self.schedule.now())
    }
}

fn clocks_at(at: u64) -> Now {
    let millis = at / 1_000;
    Now::new(Mono::from_millis(MONO_AT_START_MS + millis), Utc::from_millis(UTC_AT_START_SECS * 1_000 + millis))
}

/// When a machine's clock shows this.
fn moment_of(mono: Mono) -> u64 {
    mono.as_millis().saturating_sub(MONO_AT_START_MS).saturating_mul(1_000)
}

fn micros(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
