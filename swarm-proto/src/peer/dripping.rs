//! Which span keys a box asks for while a title plays, and which it forgets.
//!
//! A place at which a player reads is a head; a title may have a few (a browser looks at the end of a file before it
//! plays the middle). For each head the keys of its span, of the one behind and of the next two are held, never more:
//! so at most [`MAX_HELD`] at a time, and those of a film that plays through are four. What a head needs first is asked
//! for first; a head that has only just jumped asks for little, so that somebody who looks for a scene does not spend
//! the look-ahead. One question is under way at a time. Sees indices, never keys.

use std::collections::{BTreeSet, VecDeque};
use std::ops::Range;
use std::time::Duration;

use crate::geometry::{CHUNKS_PER_SPAN, ChunkIndex, Geometry};
use crate::time::Mono;

/// Spans whose keys are held behind a head, for a small step back.
const BEHIND: u32 = 1;

/// Spans whose keys are fetched before a head comes to them: 13 s of a film of 20 Mbit/s.
const AHEAD: u32 = 2;

/// Places at which a title is read at a time.
const MAX_HEADS: usize = 3;

/// Most keys that are held of a title.
pub const MAX_HELD: usize = MAX_HEADS * (BEHIND + 1 + AHEAD) as usize;

/// A head that nobody reads at any more: paused, or gone elsewhere. What it held is forgotten.
const SILENT: Duration = Duration::from_secs(60);

/// How long a head stays before more is fetched than it reads.
const SETTLED: Duration = Duration::from_secs(2);

/// A head this far into its span, in chunks, needs the next one before it has settled: 8 MiB are 3 s at 20 Mbit/s.
const LATE: u32 = CHUNKS_PER_SPAN / 2;

/// Between two questions that are not answered.
const RETRY_MIN: Duration = Duration::from_millis(250);
const RETRY_MAX: Duration = Duration::from_secs(5);

/// What the box should do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Ask the keyserver for the keys of these spans.
    Ask(Range<u32>),
    /// Wipe the key of this span.
    Drop(u32),
}

/// The keys of one title that plays.
#[derive(Debug, Clone)]
pub struct Dripping {
    geometry: Geometry,
    /// The one that was heard last comes last.
    heads: Vec<Head>,
    held: BTreeSet<u32>,
    asked: bool,
    not_before: Mono,
    pause: Duration,
    actions: VecDeque<Action>,
}

#[derive(Debug, Clone, Copy)]
struct Head {
    chunk: u32,
    since: Mono,
    heard: Mono,
}

impl Head {
    const fn span(&self) -> u32 {
        self.chunk / CHUNKS_PER_SPAN
    }

    fn is_settled(&self, now: Mono) -> bool {
        now.since(self.since) >= SETTLED
    }

    /// The spans whose keys it needs now.
    fn needs(&self, now: Mono) -> Range<u32> {
        let next = match (self.is_settled(now), self.chunk % CHUNKS_PER_SPAN >= LATE) {
            (true, _) => AHEAD,
            (false, true) => 1,
            (false, false) => 0,
        };
        self.span()..self.span() + 1 + next
    }

    /// The spans whose keys are kept for it.
    const fn keeps(&self) -> Range<u32> {
        self.span().saturating_sub(BEHIND)..self.span() + 1 + AHEAD
    }
}

impl Dripping {
    /// Nothing is held and nobody reads.
    pub const fn new(geometry: Geometry) -> Self {
        Self {
            geometry,
            heads: Vec::new(),
            held: BTreeSet::new(),
            asked: false,
            not_before: Mono::ZERO,
            pause: RETRY_MIN,
            actions: VecDeque::new(),
        }
    }

    /// A player reads in this chunk, or waits for it.
    pub fn handle_read(&mut self, now: Mono, chunk: ChunkIndex) {
        let (chunk, span) = (chunk.get(), chunk.span().get());
        let known = self.heads.iter().rposition(|head| head.keeps().contains(&span));
        let since = match known {
            Some(place) => self.heads.remove(place).since,
            None => now,
        };
        if self.heads.len() >= MAX_HEADS {
            self.heads.remove(0);
        }
        self.heads.push(Head { chunk, since, heard: now });
        self.go_on(now);
    }

    /// The keys of these spans have come.
    pub fn handle_released(&mut self, now: Mono, spans: Range<u32>) {
        self.asked = false;
        self.pause = RETRY_MIN;
        self.held.extend(spans);
        self.go_on(now);
    }

    /// The keyserver gives the next key after this time.
    pub fn handle_ahead(&mut self, now: Mono, again_in: Duration) {
        self.asked = false;
        self.not_before = now + again_in.min(SILENT);
        self.go_on(now);
    }

    /// The keyserver has not answered.
    pub fn handle_unanswered(&mut self, now: Mono) {
        self.asked = false;
        self.not_before = now + self.pause;
        self.pause = (self.pause * 2).min(RETRY_MAX);
        self.go_on(now);
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Mono) {
        self.go_on(now);
    }

    /// When to call back.
    pub fn poll_timeout(&self, now: Mono) -> Option<Mono> {
        let silent = self.heads.iter().map(|head| head.heard + SILENT);
        let settled = self.heads.iter().filter(|head| !head.is_settled(now)).map(|head| head.since + SETTLED);
        let again = (!self.asked && self.not_before > now).then_some(self.not_before);
        silent.chain(settled).chain(again).min()
    }

    /// What to do next.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// Whether the key of a span is held.
    pub fn holds(&self, span: u32) -> bool {
        self.held.contains(&span)
    }

    fn go_on(&mut self, now: Mono) {
        self.heads.retain(|head| now.since(head.heard) < SILENT);
        let Self { heads, held, actions, .. } = self;
        held.retain(|span| {
            let is_kept = heads.iter().any(|head| head.keeps().contains(span));
            if !is_kept {
                actions.push_back(Action::Drop(*span));
            }
            is_kept
        });
        if self.asked || now < self.not_before {
            return;
        }
        let n_spans = self.geometry.n_spans();
        let lacking = |head: &Head| {
            let mut spans = head.needs(now).filter(|span| *span < n_spans);
            let first = spans.find(|span| !self.held.contains(span))?;
            let run = spans.take_while(|span| !self.held.contains(span)).count() as u32;
            Some(first..first + 1 + run)
        };
        if let Some(spans) = self.heads.iter().rev().find_map(lacking) {
            self.asked = true;
            self.actions.push_back(Action::Ask(spans));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::geometry::CHUNK_BYTES;

    fn dripping(spans: u64) -> Dripping {
        Dripping::new(Geometry::of_sealed(spans * u64::from(CHUNKS_PER_SPAN) * CHUNK_BYTES).expect("possible"))
    }

    fn at(millis: u64) -> Mono {
        Mono::from_millis(millis)
    }

    fn chunk(span: u32, within: u32) -> ChunkIndex {
        ChunkIndex::new(span * CHUNKS_PER_SPAN + within).expect("possible")
    }

    fn actions(machine: &mut Dripping) -> Vec<Action> {
        std::iter::from_fn(|| machine.poll_action()).collect()
    }

    #[test]
    fn what_plays_is_asked_for_first_and_what_comes_next_when_the_player_stays() {
        let mut machine = dripping(10);
        machine.handle_read(at(0), chunk(3, 0));
        assert_eq!(actions(&mut machine), [Action::Ask(3..4)]);
        machine.handle_read(at(10), chunk(3, 1));
        assert_eq!(actions(&mut machine), [], "one question at a time");
        machine.handle_released(at(500), 3..4);
        assert_eq!(actions(&mut machine), []);
        assert_eq!(machine.poll_timeout(at(500)), Some(at(2_000)));
        machine.handle_timeout(at(2_000));
        assert_eq!(actions(&mut machine), [Action::Ask(4..6)]);
        machine.handle_released(at(2_500), 4..5);
        assert_eq!(actions(&mut machine), [Action::Ask(5..6)], "it came only in part");
    }

    #[test]
    fn a_jump_to_the_end_of_a_span_asks_for_the_next_one_too() {
        let mut machine = dripping(10);
        machine.handle_read(at(0), chunk(3, LATE));
        assert_eq!(actions(&mut machine), [Action::Ask(3..5)]);
        let mut machine = dripping(4);
        machine.handle_read(at(0), chunk(3, LATE));
        assert_eq!(actions(&mut machine), [Action::Ask(3..4)], "nothing comes after the end");
    }

    #[test]
    fn keys_behind_the_play_head_are_dropped() {
        let mut machine = dripping(10);
        for span in 0..10 {
            machine.handle_read(at(u64::from(span) * 6_700), chunk(span, 0));
            for action in actions(&mut machine) {
                match action {
                    Action::Ask(spans) => machine.handle_released(at(u64::from(span) * 6_700), spans),
                    Action::Drop(gone) => assert_eq!(gone + BEHIND + 1, span),
                }
            }
            assert!(machine.held.len() <= 4 && machine.holds(span), "{:?}", machine.held);
        }
    }

    #[test]
    fn whoever_jumps_about_never_holds_more_than_a_few_keys() {
        let mut machine = dripping(200);
        for step in 0..300_u32 {
            let now = at(u64::from(step) * 700);
            machine.handle_read(now, chunk(step * 37 % 200, step % 16));
            while let Some(action) = machine.poll_action() {
                if let Action::Ask(spans) = action {
                    machine.handle_released(now, spans);
                }
            }
            assert!(machine.held.len() <= MAX_HELD);
        }
    }

    #[test]
    fn player_that_stops_leaves_no_key_behind() {
        let mut machine = dripping(10);
        machine.handle_read(at(0), chunk(3, 0));
        machine.handle_released(at(1), 3..4);
        assert_eq!(actions(&mut machine), [Action::Ask(3..4)]);
        machine.handle_timeout(at(60_000));
        assert_eq!(actions(&mut machine), [Action::Drop(3)]);
        assert_eq!(machine.poll_timeout(at(60_000)), None);
    }

    #[test]
    fn keyserver_that_is_away_is_asked_again_ever_more_rarely() {
        let mut machine = dripping(10);
        machine.handle_read(at(0), chunk(0, 0));
        let (mut now, mut asked) = (at(0), Vec::new());
        while now < at(20_000) {
            machine.handle_read(now, chunk(0, 0));
            let asks = |action: &Action| matches!(action, Action::Ask(spans) if spans.start == 0);
            if actions(&mut machine).iter().any(asks) {
                asked.push(now.as_millis());
                machine.handle_unanswered(now);
            }
            now = now + Duration::from_millis(50);
        }
        assert_eq!(asked[..6], [0, 250, 750, 1_750, 3_750, 7_750]);
        assert!(asked.len() <= 9, "{asked:?}");
    }

    #[test]
    fn keyserver_that_says_later_is_asked_then() {
        let mut machine = dripping(10);
        machine.handle_read(at(0), chunk(0, 0));
        assert_eq!(actions(&mut machine), [Action::Ask(0..1)]);
        machine.handle_ahead(at(100), Duration::from_millis(900));
        assert_eq!(machine.poll_timeout(at(100)), Some(at(1_000)));
        machine.handle_timeout(at(1_000));
        assert_eq!(actions(&mut machine), [Action::Ask(0..1)]);
    }
}
