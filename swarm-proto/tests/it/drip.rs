//! The key drip, both ends in virtual time: what a player waits for, and what a box has at any moment.

use std::time::Duration;

use proptest::prelude::*;
use swarm_proto::drip::Drip;
use swarm_proto::geometry::{CHUNK_BYTES, CHUNKS_PER_SPAN, ChunkIndex, Geometry};
use swarm_proto::id::{DeviceId, OrderId};
use swarm_proto::keyserver::drips::{DripRefusal, Drips};
use swarm_proto::peer::dripping::{Action, Dripping};
use swarm_proto::time::Mono;

const ORDER: OrderId = OrderId::from_bytes([1; 16]);
const BOX: DeviceId = DeviceId::from_bytes([2; 32]);

/// From the question to the answer.
const LATENCY: u64 = 500;

/// How finely time is cut, in milliseconds.
const TICK: u64 = 10;

/// A film at so many bits a second, a box that plays it, and its keyserver half a second away.
struct Cinema {
    geometry: Geometry,
    drip: Drip,
    bit_rate: u64,
    keyserver: Drips,
    device: Dripping,
    /// The answer that is on its way, and when it arrives.
    answer: Option<(u64, Result<std::ops::Range<u32>, Duration>)>,
    now: u64,
    held: Vec<u32>,
    most_held: usize,
    released: u32,
}

impl Cinema {
    fn new(spans: u64, bit_rate: u64) -> Cinema {
        let geometry = Geometry::of_sealed(spans * u64::from(CHUNKS_PER_SPAN) * CHUNK_BYTES).expect("possible");
        let playing = Duration::from_millis(geometry.plain_len() * 8_000 / bit_rate);
        Cinema {
            geometry,
            drip: Drip::of(&geometry, playing).expect("a pace"),
            bit_rate,
            keyserver: Drips::default(),
            device: Dripping::new(geometry),
            answer: None,
            now: 0,
            held: Vec::new(),
            most_held: 0,
            released: 0,
        }
    }

    fn mono(&self) -> Mono {
        Mono::from_millis(self.now)
    }

    /// One tick in which the player wants the byte at `position`; whether it has it.
    fn tick(&mut self, position: u64) -> bool {
        self.now += TICK;
        if let Some((at, answer)) = self.answer.take() {
            match answer {
                answer if at > self.now => self.answer = Some((at, answer)),
                Ok(spans) => {
                    self.held.extend(spans.clone());
                    self.device.handle_released(self.mono(), spans);
                }
                Err(again_in) => self.device.handle_ahead(self.mono(), again_in),
            }
        }
        let chunk = ChunkIndex::new((position / CHUNK_BYTES) as u32).expect("inside the film");
        self.device.handle_read(self.mono(), chunk);
        while let Some(action) = self.device.poll_action() {
            match action {
                Action::Drop(span) => self.held.retain(|held| *held != span),
                Action::Ask(spans) => {
                    let asked_at = Mono::from_millis(self.now + LATENCY / 2);
                    let wanted = spans.len() as u32;
                    let answer = match self.keyserver.handle_asked(asked_at, ORDER, BOX, &self.drip, wanted) {
                        Ok(draw) => {
                            self.released += draw.spans;
                            Ok(spans.start..spans.start + draw.spans)
                        }
                        Err(DripRefusal::Ahead(again_in)) => Err(again_in),
                        Err(refusal) => panic!("{refusal}"),
                    };
                    self.answer = Some((self.now + LATENCY, answer));
                }
            }
        }
        self.most_held = self.most_held.max(self.held.len());
        self.held.contains(&chunk.span().get())
    }

    /// Plays from `position` for so long without a buffer; says how long it waited at the beginning and later.
    fn play(&mut self, position: &mut u64, millis: u64) -> (u64, u64) {
        let (mut first, mut later, mut begun) = (0, 0, false);
        let mut played = 0;
        while played < millis && *position + CHUNK_BYTES < self.geometry.sealed_len() {
            match self.tick(*position) {
                true => {
                    (begun, played) = (true, played + TICK);
                    *position += self.bit_rate / 8 * TICK / 1_000;
                }
                false if begun => later += TICK,
                false => first += TICK,
            }
        }
        (first, later)
    }
}

#[test]
fn a_film_of_20_mbit_plays_through_without_a_stall_half_a_second_from_its_keyserver() {
    let mut cinema = Cinema::new(200, 20_000_000);
    let (first, later) = cinema.play(&mut 0, u64::MAX);
    assert!(first <= LATENCY + 2 * TICK, "{first} ms until it begins");
    assert_eq!(later, 0, "it never waits again, without any buffer");
    assert_eq!(cinema.released, 200, "each key left once");
    assert!(cinema.most_held <= 4, "{} keys at a time", cinema.most_held);
}

#[test]
fn a_film_of_80_mbit_plays_through_too() {
    let (_, later) = Cinema::new(400, 80_000_000).play(&mut 0, u64::MAX);
    assert_eq!(later, 0);
}

#[test]
fn collecting_all_keys_takes_half_as_long_as_watching() {
    let cinema = Cinema::new(200, 20_000_000);
    let (mut drips, mut now, mut left) = (Drips::default(), 0, 0);
    while left < 200 {
        match drips.handle_asked(Mono::from_millis(now), ORDER, BOX, &cinema.drip, 64) {
            Ok(draw) => left += draw.spans,
            Err(DripRefusal::Ahead(again_in)) => now += again_in.as_millis() as u64,
            Err(refusal) => panic!("{refusal}"),
        }
    }
    let playing = cinema.geometry.plain_len() * 8_000 / 20_000_000;
    let ahead = playing / 200 * u64::from(cinema.drip.ahead()) / 2;
    assert!(now + ahead + 1_000 >= playing / 2, "{now} ms of {playing}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn a_jump_waits_for_one_answer_and_then_it_plays_on(
        jumps in prop::collection::vec((0..190 * CHUNKS_PER_SPAN, 14_000..60_000_u64), 1..12),
    ) {
        let mut cinema = Cinema::new(200, 20_000_000);
        for (chunk, millis) in jumps {
            let mut position = u64::from(chunk) * CHUNK_BYTES;
            let (first, later) = cinema.play(&mut position, millis);
            // A question for the place before the jump may be under way. Where the jump ends just before a span whose
            // key is not there, what is there plays first.
            prop_assert!(first + later <= 2 * LATENCY + 2 * TICK, "{first} + {later} ms after a jump to {chunk}");
            prop_assert!(cinema.most_held <= swarm_proto::peer::dripping::MAX_HELD);
        }
    }
}
