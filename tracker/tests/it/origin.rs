//! What seeds may send to a site in an hour, as the tracker gives it out.

use std::collections::BTreeMap;

use swarm_proto::pb::tracker as pb;
use swarm_proto::pb::tracker::report::Report;
use swarm_proto::signed::Signed;
use swarm_proto::ticket::{SeedShare, Ticket};
use tonic::Code;

use crate::world::{Attending, CHUNKS, Device, World, copy, hello, sources, utc};

const MIB: u64 = 1 << 20;
const FILM: u64 = CHUNKS as u64 * MIB;
const BUDGET: &str = "origin.bytes_per_hour=40 MiB";

/// Every ticket that was handed out, by serial: what seeds may send if all of them are used.
#[derive(Default)]
struct Hoard(BTreeMap<u64, u64>);

impl Hoard {
    fn keep(&mut self, plan: &pb::Plan) -> Ticket {
        let ticket = ticket(plan);
        self.0.insert(ticket.serial, ticket.shares.iter().map(|share| share.bytes).sum());
        ticket
    }

    fn bytes(&self) -> u64 {
        self.0.values().sum()
    }
}

fn ticket(plan: &pb::Plan) -> Ticket {
    let signed: Signed<Ticket> = plan.ticket.clone().unwrap().try_into().unwrap();
    signed.verify(&signed.signer()).unwrap()
}

fn used(serial: u64, sent_bytes: u64, settled: bool) -> Report {
    let settled_until_utc_ms = settled.then(|| utc().as_millis() + 3_600_000);
    Report::SharesUsed(pb::SharesUsed { uses: vec![pb::ShareUse { serial, sent_bytes }], settled_until_utc_ms })
}

async fn world(settings: &[&str]) -> (World, Device, Attending) {
    let world = World::with(settings).await;
    world.title(1).await;
    let seed = world.seed(100).await;
    let stream = seed.attend(&world, vec![copy(1)]).await;
    (world, seed, stream)
}

#[tokio::test]
async fn an_hour_is_given_out_once_however_often_boxes_ask_and_even_over_kill_9() {
    let (mut world, seed, stream) = world(&[BUDGET]).await;
    let mut hoard = Hoard::default();
    let mut devices = Vec::new();
    for n in 1..=4 {
        let device = world.box_(n).await;
        for _ in 0..5 {
            hoard.keep(&device.ask(&world, 1).await.unwrap());
        }
        devices.push(device);
    }
    assert_eq!(hoard.bytes(), 40 * MIB);
    let late = devices[3].ask(&world, 1).await.unwrap();
    assert!(late.leases.is_empty(), "{late:?}");
    assert!(late.waiting.starts_with("origin budget of this hour is used up, next at "), "{}", late.waiting);

    world.kill_and_start_again().await;
    drop(stream);
    let _stream = seed.attend(&world, vec![copy(1)]).await;
    for device in &devices {
        hoard.keep(&device.ask(&world, 1).await.unwrap());
    }
    assert_eq!(hoard.bytes(), 40 * MIB, "what was granted before counts");
}

#[tokio::test]
async fn what_was_not_sent_comes_back_when_the_seed_has_said_so() {
    let (world, seed, stream) = world(&[BUDGET]).await;
    let (first, second) = (world.box_(1).await, world.box_(2).await);
    let share = ticket(&first.ask(&world, 1).await.unwrap()).share_of(&seed.id()).copied().unwrap();
    assert_eq!(share.bytes, FILM + FILM / 10);
    assert_eq!(ticket(&second.ask(&world, 1).await.unwrap()).shares[0].bytes, 40 * MIB - share.bytes);
    let serial = ticket(&first.ask(&world, 1).await.unwrap()).serial;
    stream.report(used(serial, 2 * MIB, true)).await;
    let third = world.box_(3).await;
    let plan = third.ask_until(&world, 1, |plan| !plan.leases.is_empty()).await;
    assert_eq!(ticket(&plan).shares[0].bytes, share.bytes);
}

#[tokio::test]
async fn a_seed_that_starts_again_has_sent_everything_it_might_have() {
    let (world, seed, stream) = world(&[BUDGET]).await;
    let (first, second) = (world.box_(1).await, world.box_(2).await);
    let before = ticket(&first.ask(&world, 1).await.unwrap());
    drop(stream);
    let stream = seed.open(&world).await.unwrap();
    let Report::Hello(again) = hello(vec![copy(1)]) else { unreachable!("a hello is a hello") };
    stream.report(Report::Hello(pb::Hello { run: 2, ..again })).await;
    stream.report(used(before.serial, 0, false)).await;
    let plan = first.ask_until(&world, 1, |plan| ticket(plan).serial != before.serial).await;
    let share = ticket(&plan).shares[0];
    assert_eq!((share.run, share.bytes), (Some(2), 40 * MIB - before.shares[0].bytes));
    assert!(second.ask(&world, 1).await.unwrap().leases.is_empty());
}

#[tokio::test]
async fn a_site_of_zero_is_served_by_boxes_alone() {
    let (world, seed, _stream) = world(&["origin.sites.main=0 B"]).await;
    let (asker, holder) = (world.box_(1).await, world.box_(2).await);
    assert!(asker.ask(&world, 1).await.unwrap().waiting.starts_with("origin budget"));
    let _holder = holder.attend(&world, vec![copy(1)]).await;
    let plan = asker.ask_until(&world, 1, |plan| !plan.leases.is_empty()).await;
    assert!(!sources(&plan).contains(&seed.id().to_vec()), "{plan:?}");
    assert_eq!(ticket(&plan).shares, []);
}

#[tokio::test]
async fn a_plan_asked_for_again_brings_the_same_ticket() {
    let (world, seed, _stream) = world(&[]).await;
    let asker = world.box_(1).await;
    let plan = asker.ask(&world, 1).await.unwrap();
    let share = SeedShare { seed: seed.id(), bytes: FILM + FILM / 10, run: None };
    assert_eq!(ticket(&plan).shares, [share]);
    assert_eq!(asker.ask(&world, 1).await.unwrap().ticket, plan.ticket);
    let request = pb::AssignSourcesRequest { item: vec![1; 32], missing: Vec::new(), playing: true, class: 0 };
    let playing = world.swarm().assign_sources(asker.calls(request)).await.unwrap().into_inner();
    assert_ne!(ticket(&playing).serial, ticket(&plan).serial);
}

#[tokio::test]
async fn only_seeds_say_what_they_sent_under_shares() {
    let (world, ..) = world(&[BUDGET]).await;
    let mut stream = world.box_(1).await.attend(&world, Vec::new()).await;
    stream.report(used(1, 1, true)).await;
    assert_eq!(stream.end().await.code(), Code::PermissionDenied);
}
