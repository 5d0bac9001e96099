//! Reports and calls that no honest device makes are refused by the name of the field, and the tracker goes on.

use daemon::exit::Failure;
use swarm_proto::pb::tracker as pb;
use swarm_proto::pb::tracker::report::Report;
use tonic::{Code, Status};

use crate::world::{CHUNKS, Device, World, copy, hello, holding, ranges};

fn assert_names(status: &Status, field: &str) {
    assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    assert!(status.message().contains(&format!("field {field} ")), "{field}: {status}");
}

async fn refused_report(world: &World, device: &Device, report: Report) -> Status {
    let mut attending = device.attend(world, Vec::new()).await;
    attending.report(report).await;
    attending.end().await
}

async fn refused_hello(world: &World, device: &Device, report: Report) -> Status {
    let mut attending = device.open(world).await.unwrap();
    attending.report(report).await;
    attending.end().await
}

#[tokio::test]
async fn hello_that_cannot_be_true_is_refused_by_the_name_of_the_field() {
    let world = World::start().await;
    world.title(1).await;
    let device = world.box_(1).await;
    let of = |n_chunks, of: &[(u32, u32)]| pb::ItemHolding { item: vec![1; 32], n_chunks, ranges: ranges(of) };
    for (holding, field) in [
        (of(u32::MAX, &[]), "hello.holdings[0].n_chunks"),
        (of(CHUNKS, &[(0, u32::MAX)]), "hello.holdings[0].ranges"),
        (of(CHUNKS, &[(CHUNKS, 1)]), "hello.holdings[0].ranges"),
        (of(CHUNKS, &[(5, 1), (5, 1)]), "hello.holdings[0].ranges"),
        (of(CHUNKS + 1, &[(0, 1)]), "hello.holdings[0].n_chunks"),
        (pb::ItemHolding { item: vec![1; 5], ..copy(1) }, "hello.holdings[0].item"),
    ] {
        assert_names(&refused_hello(&world, &device, hello(vec![holding])).await, field);
    }
    let addresses = pb::Hello { addresses: vec!["/ip4/1.2.3.4/tcp/1".to_owned(); 17], ..Default::default() };
    assert_names(&refused_hello(&world, &device, Report::Hello(addresses)).await, "hello.addresses");
    device.ask(&world, 1).await.unwrap();
}

#[tokio::test]
async fn device_cannot_fill_the_tracker_with_items_that_nobody_lists() {
    let world = World::start().await;
    let device = world.box_(1).await;
    let unlisted = (0..=1_000_u32).map(|n| {
        let mut item = vec![7; 32];
        item[..4].copy_from_slice(&n.to_be_bytes());
        pb::ItemHolding { item, ..copy(1) }
    });
    let refused = refused_hello(&world, &device, hello(unlisted.collect())).await;
    assert_names(&refused, "hello.holdings[1000].item");
}

#[tokio::test]
async fn report_that_cannot_be_true_is_refused_by_the_name_of_the_field() {
    let world = World::start().await;
    world.title(1).await;
    let device = world.box_(1).await;
    let row = pb::TrafficRow {
        item: vec![1; 32],
        counterpart: vec![2; 32],
        received_verified_bytes: u64::MAX,
        ..Default::default()
    };
    for (report, field) in [
        (Report::Traffic(pb::Traffic { rows: vec![row] }), "traffic.rows[0].received_verified_bytes"),
        (Report::Traffic(pb::Traffic { rows: vec![Default::default(); 1_001] }), "traffic.rows"),
        (Report::Holding(pb::HoldingChange { holding: None }), "holding.holding"),
        (Report::Holding(pb::HoldingChange { holding: Some(holding(1, &[(20, 9)])) }), "holding.holding.ranges"),
        (Report::Stall(pb::Stall { item: vec![1; 32], source: Vec::new() }), "stall.source"),
    ] {
        assert_names(&refused_report(&world, &device, report).await, field);
    }
}

#[tokio::test]
async fn stream_has_to_begin_with_a_hello() {
    let world = World::start().await;
    let device = world.box_(1).await;
    let early = Report::Heartbeat(pb::Heartbeat::default());
    assert_names(&refused_hello(&world, &device, early).await, "report");
}

#[tokio::test]
async fn plan_for_what_does_not_exist_is_refused() {
    let world = World::start().await;
    world.title(1).await;
    let device = world.box_(1).await;
    assert_eq!(Failure::from(device.ask(&world, 9).await.unwrap_err()).code, "E-TITLE-01");
    let ask = async |missing: &[(u32, u32)]| {
        let request = pb::AssignSourcesRequest { item: vec![1; 32], missing: ranges(missing), ..Default::default() };
        world.swarm().assign_sources(device.calls(request)).await.unwrap_err()
    };
    assert_names(&ask(&[(0, CHUNKS + 1)]).await, "missing");
    assert_names(&ask(&[(4, 1), (2, 1)]).await, "missing");
    assert_names(&ask(&vec![(0, 1); 20_000]).await, "missing");
}

#[tokio::test]
async fn stranger_cannot_open_a_stream() {
    let world = World::start().await;
    let stranger = Device::new(50, world.id);
    assert_eq!(stranger.open(&world).await.err().unwrap().code(), Code::Unauthenticated);
}

#[tokio::test]
async fn operators_mistakes_are_named() {
    let world = World::start().await;
    let account = world.customer("Ada").await;
    let again = pb::AddCustomerRequest { name: "Ada".to_owned(), ..Default::default() };
    assert_eq!(world.operator().add_customer(again).await.unwrap_err().code(), Code::AlreadyExists);
    let long = pb::AddCustomerRequest { name: "x".repeat(65), ..Default::default() };
    assert_names(&world.operator().add_customer(long).await.unwrap_err(), "name");
    let invite = |kind, site: &str, valid_ms| pb::InviteDeviceRequest {
        account: account.clone(),
        kind,
        site: site.to_owned(),
        valid_ms,
    };
    for (request, field) in [
        (invite(0, "", None), "kind"),
        (invite(9, "", None), "kind"),
        (invite(1, "North Pole", None), "site"),
        (invite(1, "", Some(0)), "valid_ms"),
        (invite(1, "", Some(u64::MAX)), "valid_ms"),
    ] {
        assert_names(&world.operator().invite_device(request).await.unwrap_err(), field);
    }
    let unknown = pb::RevokeDeviceRequest { device: vec![9; 32] };
    assert_eq!(world.operator().revoke_device(unknown).await.unwrap_err().code(), Code::NotFound);
}
