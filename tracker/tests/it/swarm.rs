//! Who sends what to whom.

use swarm_proto::pb::common as pb_common;
use swarm_proto::pb::tracker as pb;
use swarm_proto::pb::tracker::notice::Notice;
use swarm_proto::pb::tracker::report::Report;

use swarm_proto::signed::Signed;
use swarm_proto::ticket::{Ticket, TicketClass};
use tonic::Code;

use crate::world::{CHUNKS, World, copy, hello, holding, sources, utc};

fn plan(notice: Notice) -> Option<pb::Plan> {
    match notice {
        Notice::Plan(plan) => Some(plan),
        _ => None,
    }
}

#[tokio::test]
async fn device_is_welcomed_with_its_queue_and_with_seeds_to_keep() {
    let world = World::start().await;
    let seed = world.seed(9).await;
    let _seed = seed.attend(&world, Vec::new()).await;
    let device = world.box_(1).await;
    let mut attending = device.open(&world).await.unwrap();
    attending.report(hello(Vec::new())).await;
    let Notice::Welcome(welcome) = attending.next().await.unwrap() else { panic!("a welcome comes first") };
    assert_eq!(welcome.observed_address, "127.0.0.1");
    assert_eq!(welcome.heartbeat_every_ms, 10_000);
    assert_eq!(welcome.pinned_seeds[0].device, seed.id().to_vec());
    assert_eq!(welcome.pinned_seeds[0].addresses[0], "/ip4/127.0.0.1/tcp/25");
    assert!(matches!(attending.next().await.unwrap(), Notice::Queue(_)));
}

#[tokio::test]
async fn box_that_came_before_the_seeds_hears_of_them() {
    let world = World::start().await;
    let (device, seed) = (world.box_(1).await, world.seed(9).await);
    let mut early = device.attend(&world, Vec::new()).await;
    let _seed = seed.attend(&world, Vec::new()).await;
    let pinned = early.until(|notice| match notice {
        Notice::Welcome(welcome) => Some(welcome.pinned_seeds),
        _ => None,
    });
    assert_eq!(pinned.await[0].device, seed.id().to_vec());
}

#[tokio::test]
async fn box_is_planned_before_a_seed() {
    let world = World::start().await;
    world.title(1).await;
    let (asker, holder, seed) = (world.box_(1).await, world.box_(2).await, world.seed(9).await);
    let _seed = seed.attend(&world, vec![copy(1)]).await;
    let plan = asker.ask(&world, 1).await.unwrap();
    assert_eq!(sources(&plan), [seed.id().to_vec()]);
    assert_eq!((plan.n_chunks, plan.sealed_len), (CHUNKS, u64::from(CHUNKS) << 20));

    let _holder = holder.attend(&world, vec![copy(1)]).await;
    let plan = asker.ask(&world, 1).await.unwrap();
    assert_eq!(sources(&plan), [holder.id().to_vec()]);
    let source = plan.leases[0].source.as_ref().unwrap();
    assert!(source.same_site);
    assert!(source.addresses.contains(&"/ip4/127.0.0.1/tcp/7100".to_owned()));
    assert!(!source.addresses.iter().any(|it| it.contains("192.0.2.1")), "{:?}", source.addresses);
    let total: u32 = plan.leases.iter().flat_map(|lease| &lease.portions).map(|range| range.count).sum();
    assert_eq!(total, CHUNKS);
}

#[tokio::test]
async fn boxes_with_parts_of_an_item_send_them_together() {
    let world = World::start().await;
    world.title(1).await;
    let (asker, first, second) = (world.box_(1).await, world.box_(2).await, world.box_(3).await);
    let _first = first.attend(&world, vec![holding(1, &[(0, 12)])]).await;
    let second_stream = second.attend(&world, Vec::new()).await;
    let change = pb::HoldingChange { holding: Some(holding(1, &[(10, 14)])) };
    second_stream.report(Report::Holding(change)).await;
    let plan = asker.ask_until(&world, 1, |plan| plan.leases.len() == 2).await;
    let total: u32 = plan.leases.iter().flat_map(|lease| &lease.portions).map(|range| range.count).sum();
    assert_eq!(total, CHUNKS);
}

#[tokio::test]
async fn ticket_is_for_this_device_and_item_and_for_a_day() {
    let world = World::start().await;
    let entry = world.title(1).await;
    let device = world.box_(1).await;
    let plan = device.ask(&world, 1).await.unwrap();
    assert!(plan.waiting.starts_with("none yet"), "{}", plan.waiting);
    let signed: Signed<Ticket> = plan.ticket.unwrap().try_into().unwrap();
    assert!(signed.to_bytes().len() <= 1_024);
    let ticket = Ticket::verify(&signed, &world.id, device.id(), entry.item, utc()).unwrap();
    assert_eq!(ticket.shares, []);
    assert_eq!(ticket.class, TicketClass::Queued);
    let hours = ticket.expires.since(utc()).as_secs() / 3_600;
    assert!((23..=24).contains(&hours), "{hours}");
}

#[tokio::test]
async fn box_that_waits_hears_of_the_first_source() {
    let world = World::start().await;
    world.title(1).await;
    let (asker, holder) = (world.box_(1).await, world.box_(2).await);
    let mut waiting = asker.attend(&world, Vec::new()).await;
    assert!(asker.ask(&world, 1).await.unwrap().leases.is_empty());
    let _holder = holder.attend(&world, vec![copy(1)]).await;
    assert_eq!(sources(&waiting.until(plan).await), [holder.id().to_vec()]);
}

#[tokio::test]
async fn source_that_disconnects_is_replaced_at_once() {
    let world = World::start().await;
    world.title(1).await;
    let (asker, holder, seed) = (world.box_(1).await, world.box_(2).await, world.seed(9).await);
    let _seed = seed.attend(&world, vec![copy(1)]).await;
    let sending = holder.attend(&world, vec![copy(1)]).await;
    let mut receiving = asker.attend(&world, Vec::new()).await;
    assert_eq!(sources(&asker.ask(&world, 1).await.unwrap()), [holder.id().to_vec()]);
    drop(sending);
    assert_eq!(sources(&receiving.until(plan).await), [seed.id().to_vec()]);
}

#[tokio::test]
async fn source_that_stalls_is_replaced_at_once() {
    let world = World::start().await;
    world.title(1).await;
    let (asker, holder, seed) = (world.box_(1).await, world.box_(2).await, world.seed(9).await);
    let _seed = seed.attend(&world, vec![copy(1)]).await;
    let _holder = holder.attend(&world, vec![copy(1)]).await;
    let mut receiving = asker.attend(&world, Vec::new()).await;
    asker.ask(&world, 1).await.unwrap();
    let stall = pb::Stall { item: vec![1; 32], source: holder.id().to_vec() };
    receiving.report(Report::Stall(stall)).await;
    assert_eq!(sources(&receiving.until(plan).await), [seed.id().to_vec()]);
}

#[tokio::test]
async fn device_that_falls_silent_counts_as_offline() {
    let world = World::with(&["plans.heartbeat_every=100ms", "plans.silence=500ms"]).await;
    let device = world.box_(1).await;
    let mut silent = device.attend(&world, Vec::new()).await;
    assert_eq!(silent.end().await.code(), Code::DeadlineExceeded);
    let request = pb::ListDevicesRequest { account: Vec::new(), page_size: 10, page_token: Vec::new() };
    let devices = world.operator().list_devices(request).await.unwrap().into_inner().devices;
    assert!(!devices[0].online);
}

#[tokio::test]
async fn second_stream_of_a_device_takes_over() {
    let world = World::start().await;
    world.title(1).await;
    let device = world.box_(1).await;
    let mut first = device.attend(&world, vec![copy(1)]).await;
    let _second = device.attend(&world, vec![copy(1)]).await;
    assert_eq!(first.end().await.code(), Code::Aborted);
    drop(first);
    let copies = world.operator().get_copies(pb::GetCopiesRequest { item: vec![1; 32] }).await.unwrap().into_inner();
    assert!(copies.devices[0].device.as_ref().unwrap().online);
    assert_eq!(copies.devices[0].chunks, CHUNKS);
}

#[tokio::test]
async fn device_that_dropped_an_item_need_not_know_how_long_it_was() {
    let world = World::start().await;
    world.title(1).await;
    let (asker, holder) = (world.box_(1).await, world.box_(2).await);
    let holding_on = holder.attend(&world, vec![copy(1)]).await;
    asker.ask_until(&world, 1, |plan| !plan.leases.is_empty()).await;
    let dropped = pb::ItemHolding { n_chunks: 1, ranges: Vec::new(), ..copy(1) };
    holding_on.report(Report::Holding(pb::HoldingChange { holding: Some(dropped) })).await;
    asker.ask_until(&world, 1, |plan| plan.leases.is_empty()).await;
    holding_on.report(Report::Holding(pb::HoldingChange { holding: Some(copy(1)) })).await;
    asker.ask_until(&world, 1, |plan| !plan.leases.is_empty()).await;
}

#[tokio::test]
async fn seed_may_hold_what_is_about_to_be_published() {
    let world = World::start().await;
    world.admit_publisher().await;
    let (asker, seed) = (world.box_(1).await, world.seed(9).await);
    let _seed = seed.attend(&world, vec![copy(1)]).await;
    world.title(1).await;
    assert_eq!(sources(&asker.ask(&world, 1).await.unwrap()), [seed.id().to_vec()]);
}

#[tokio::test]
async fn totals_tell_boxes_from_seeds() {
    let world = World::start().await;
    let (receiver, sender, seed) = (world.box_(1).await, world.box_(2).await, world.seed(9).await);
    let receiving = receiver.attend(&world, Vec::new()).await;
    let row = |from: &crate::world::Device, verified, wasted| pb::TrafficRow {
        item: vec![1; 32],
        counterpart: from.id().to_vec(),
        received_verified_bytes: verified,
        received_wasted_bytes: wasted,
        sent_bytes: 7,
    };
    receiving.report(Report::Traffic(pb::Traffic { rows: vec![row(&sender, 30, 1), row(&seed, 10, 2)] })).await;
    let totals = async {
        loop {
            let totals = world.operator().get_traffic(pb::GetTrafficRequest {}).await.unwrap().into_inner();
            if totals.from_boxes_bytes > 0 {
                return totals;
            }
        }
    };
    let totals = tokio::time::timeout(crate::world::SOON, totals).await.unwrap();
    assert_eq!((totals.from_boxes_bytes, totals.from_seeds_bytes, totals.wasted_bytes), (30, 10, 3));
}

#[tokio::test]
async fn watched_title_gets_a_ticket_of_its_own_class() {
    let world = World::start().await;
    world.title(1).await;
    let device = world.box_(1).await;
    let missing = vec![pb_common::ChunkRange { first: 3, count: 2 }];
    let request = pb::AssignSourcesRequest { item: vec![1; 32], missing, playing: true, class: 0 };
    let plan = world.swarm().assign_sources(device.calls(request)).await.unwrap().into_inner();
    let signed: Signed<Ticket> = plan.ticket.unwrap().try_into().unwrap();
    assert_eq!(signed.verify(&world.id).unwrap().class, TicketClass::Playing);
}
