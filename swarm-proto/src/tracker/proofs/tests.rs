//! Honest devices, and some that are not.

use super::*;
use crate::time::Utc;

const N: u32 = 40;

fn device(n: u8) -> DeviceId {
    DeviceId::from([n; 32])
}

fn item() -> ItemId {
    ItemId::from([9; 32])
}

fn at(secs: u64) -> Now {
    Now::new(Mono::from_millis(secs * 1_000), Utc::from_secs(1_800_000_000 + secs))
}

/// How a device answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Nature {
    Honest,
    /// Makes something up.
    Liar,
    /// Says nothing.
    Silent,
    /// Admits it.
    Empty,
}

use DeviceKind::{Box, Seed};
use Nature::{Empty, Honest, Liar, Silent};
use Standing::{Claimed, Doubted, Proven};

struct Devices(BTreeMap<DeviceId, (DeviceKind, Holding, Nature)>);

impl World for Devices {
    fn holder_here(&self, device: &DeviceId, item: &ItemId) -> Option<Holder> {
        self.holders_here(item).into_iter().find(|it| it.device == *device)
    }

    fn holders_here(&self, _: &ItemId) -> Vec<Holder> {
        self.0
            .iter()
            .map(|(device, (kind, holding, _))| Holder { device: *device, kind: *kind, holding: holding.clone() })
            .collect()
    }
}

fn devices(natures: &[(DeviceKind, Nature)]) -> Devices {
    let all =
        natures.iter().zip(1..).map(|((kind, nature), n)| (device(n), (*kind, Holding::complete(N).unwrap(), *nature)));
    Devices(all.collect())
}

fn watching(devices: &Devices) -> Proofs {
    let mut proofs = Proofs::new([1; 32], Config::default());
    devices.0.keys().for_each(|device| proofs.handle_watched(at(0), *device, item()));
    proofs
}

fn bytes_of(chunk: ChunkIndex) -> Vec<u8> {
    vec![chunk.get() as u8; 100]
}

/// Lets everyone answer as they do until so many seconds have passed; says how often each was asked.
fn run(proofs: &mut Proofs, devices: &Devices, secs: std::ops::Range<u64>) -> BTreeMap<DeviceId, u32> {
    let mut asked: BTreeMap<DeviceId, u32> = BTreeMap::new();
    for now in secs.map(at) {
        proofs.handle_timeout(now, devices);
        let mut questions = VecDeque::new();
        loop {
            while let Some(action) = proofs.poll_action() {
                if let Action::Ask(device, challenge) = action {
                    *asked.entry(device).or_default() += 1;
                    questions.push_back((device, challenge));
                }
            }
            let Some((device, challenge)) = questions.pop_front() else { break };
            let answer = match devices.0[&device].2 {
                Honest => Answer::Hash(challenge.answer(&bytes_of(challenge.chunk))),
                Liar => Answer::Hash(challenge.answer(b"something else")),
                Empty => Answer::NotHeld,
                Silent => continue,
            };
            proofs.handle_answer(now, device, challenge.id, answer);
        }
    }
    asked
}

fn standings(proofs: &Proofs, devices: &Devices, secs: u64) -> Vec<Standing> {
    devices.0.keys().map(|device| proofs.standing(at(secs), device, &item())).collect()
}

#[test]
fn honest_holders_prove_one_another() {
    let devices = devices(&[(Box, Honest), (Box, Honest)]);
    let mut proofs = watching(&devices);
    run(&mut proofs, &devices, 0..3);
    assert_eq!(standings(&proofs, &devices, 3), [Proven, Proven]);
}

#[test]
fn whoever_lies_says_nothing_or_has_nothing_is_doubted_and_nobody_else() {
    let devices = devices(&[(Seed, Honest), (Box, Liar), (Box, Silent), (Box, Empty), (Box, Honest), (Box, Honest)]);
    let mut proofs = watching(&devices);
    run(&mut proofs, &devices, 0..200);
    assert_eq!(standings(&proofs, &devices, 200), [Proven, Doubted, Doubted, Doubted, Proven, Proven]);
}

#[test]
fn box_that_contradicts_a_seed_is_doubted_without_a_third() {
    let devices = devices(&[(Seed, Honest), (Box, Liar)]);
    let mut proofs = watching(&devices);
    run(&mut proofs, &devices, 0..5);
    assert_eq!(standings(&proofs, &devices, 5), [Proven, Doubted]);
}

#[test]
fn two_boxes_that_contradict_one_another_are_both_doubted_until_a_third_decides() {
    let both = devices(&[(Box, Honest), (Box, Liar)]);
    let mut proofs = watching(&both);
    run(&mut proofs, &both, 0..5);
    assert_eq!(standings(&proofs, &both, 5), [Doubted, Doubted]);

    let three = devices(&[(Box, Honest), (Box, Liar), (Box, Honest)]);
    let mut proofs = watching(&three);
    run(&mut proofs, &three, 0..5);
    assert_eq!(standings(&proofs, &three, 5), [Proven, Doubted, Proven]);
}

#[test]
fn last_copy_cannot_be_compared_and_stays_a_claim() {
    let devices = devices(&[(Seed, Honest)]);
    let mut proofs = watching(&devices);
    assert!(run(&mut proofs, &devices, 0..100).is_empty());
    assert_eq!(standings(&proofs, &devices, 100), [Claimed]);
}

#[test]
fn device_that_goes_away_is_not_doubted_for_it() {
    let devices = devices(&[(Seed, Silent), (Box, Silent)]);
    let mut proofs = watching(&devices);
    proofs.handle_timeout(at(0), &devices);
    devices.0.keys().for_each(|device| proofs.handle_departed(at(1), *device));
    proofs.handle_timeout(at(1_000), &Devices(BTreeMap::new()));
    assert_eq!(standings(&proofs, &devices, 1_000), [Claimed, Claimed]);
    assert!(proofs.checks.is_empty() && proofs.busy.is_empty());
}

#[test]
fn doubt_ends_when_the_device_proves_itself() {
    let lying = devices(&[(Seed, Honest), (Box, Liar), (Box, Honest)]);
    let mut proofs = watching(&lying);
    run(&mut proofs, &lying, 0..5);
    assert_eq!(standings(&proofs, &lying, 5)[1], Doubted);
    let mended = devices(&[(Seed, Honest), (Box, Honest), (Box, Honest)]);
    run(&mut proofs, &mended, 5..3_000);
    assert_eq!(standings(&proofs, &mended, 3_000)[1], Doubted, "not before its time");
    run(&mut proofs, &mended, 3_600..3_700);
    assert_eq!(standings(&proofs, &mended, 3_700)[1], Proven);
}

#[test]
fn proof_grows_old() {
    let devices = devices(&[(Box, Honest), (Box, Honest)]);
    let mut proofs = watching(&devices);
    run(&mut proofs, &devices, 0..3);
    assert_eq!(standings(&proofs, &devices, 2 * 86_400), [Claimed, Claimed]);
}

#[test]
fn checks_are_no_more_frequent_than_configured() {
    let devices = devices(&[(Box, Honest); 200]);
    let mut proofs = Proofs::new([1; 32], Config { checks_per_sec: 1, ..Config::default() });
    devices.0.keys().for_each(|device| proofs.handle_watched(at(0), *device, item()));
    let asked = run(&mut proofs, &devices, 0..30);
    assert!(asked.values().sum::<u32>() <= 60, "{asked:?}");
    let mut proofs = Proofs::new([1; 32], Config { max_watched: 3, ..Config::default() });
    devices.0.keys().for_each(|device| proofs.handle_watched(at(0), *device, item()));
    assert_eq!(proofs.watched.len(), 3);
}

#[test]
fn answers_that_nobody_asked_for_change_nothing() {
    let devices = devices(&[(Seed, Silent), (Box, Silent)]);
    let mut proofs = watching(&devices);
    proofs.handle_answer(at(0), device(1), 1, Answer::NotHeld);
    proofs.handle_timeout(at(0), &devices);
    for id in [0, 2, u64::MAX] {
        proofs.handle_answer(at(0), device(1), id, Answer::NotHeld);
        proofs.handle_answer(at(0), device(77), id, Answer::NotHeld);
    }
    assert_eq!(standings(&proofs, &devices, 0), [Claimed, Claimed]);
    assert_eq!(proofs.busy.len(), 2);
}

#[test]
fn same_seed_asks_the_same() {
    let devices = devices(&[(Seed, Honest), (Box, Honest), (Box, Liar)]);
    let trace = || {
        let mut proofs = watching(&devices);
        proofs.handle_timeout(at(0), &devices);
        std::iter::from_fn(|| proofs.poll_action()).collect::<Vec<_>>()
    };
    assert_eq!(trace(), trace());
    assert_eq!(trace().len(), 2);
}
