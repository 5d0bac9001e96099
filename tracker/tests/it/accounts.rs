//! What has travelled, as the operator asks for it.

use serde_json::Value;
use swarm_proto::pb::tracker as pb;
use swarm_proto::pb::tracker::report::Report;
use tonic::Code;

use crate::world::{Device, SOON, World};

fn row(from: &Device, verified: u64, wasted: u64) -> pb::TrafficRow {
    pb::TrafficRow {
        item: vec![1; 32],
        counterpart: from.id().to_vec(),
        received_verified_bytes: verified,
        received_wasted_bytes: wasted,
        sent_bytes: 0,
    }
}

/// What a command prints, one object a line.
fn lines(world: &World, args: &[&str]) -> Vec<Value> {
    let output = world.command(&[args, &["--json"]].concat());
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

async fn until(world: &World, metric: &str) {
    let asks = async { while !world.metrics().lines().any(|line| line == metric) {} };
    tokio::time::timeout(SOON, asks).await.expect("it is so in time");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn operator_sees_who_sent_how_much_and_still_does_after_kill_9() {
    let mut world = World::start().await;
    world.title(1).await;
    let account = world.customer("Ada").await;
    let kind = swarm_proto::pb::common::DeviceKind::Box;
    let (receiver, mine) = (world.device_of(1, &account, kind).await, world.device_of(2, &account, kind).await);
    let (neighbour, seed) = (world.box_(3).await, world.seed(9).await);
    let stranger = Device::new(77, world.id);
    let stream = receiver.attend(&world, Vec::new()).await;
    let rows = vec![row(&mine, 30, 1), row(&neighbour, 50, 0), row(&seed, 15, 2), row(&stranger, 5, 0)];
    stream.report(Report::Traffic(pb::Traffic { rows })).await;
    until(&world, "reelswarm_received_bytes_total{source=\"stranger\"} 5").await;
    until(&world, "reelswarm_unwritten_records 0").await;
    // Sums are written without waiting for the disk; whatever is acknowledged after them takes them along.
    world.customer("the last one").await;
    drop(stream);
    world.kill_and_start_again().await;

    let offload = &lines(&world, &["offload"])[0];
    assert_eq!((&offload["offload"], &offload["verified_bytes"]), (&Value::from(0.8), &Value::from(100)));
    let sources = lines(&world, &["traffic", "--by", "source"]);
    let sources: Vec<_> = sources.iter().map(|it| it["of"].as_str().unwrap()).collect();
    assert_eq!(sources, ["same home", "same site", "seed", "stranger"]);
    let site = &lines(&world, &["traffic"])[0];
    assert_eq!((&site["of"], &site["wasted_bytes"]), (&Value::from("main"), &Value::from(3)));
    let title = &lines(&world, &["traffic", "--by", "title", "--since", "30d"])[0];
    assert_eq!(title["from_seeds_bytes"], 15);
    assert!(!title["name"].as_str().unwrap().is_empty());
    assert!(lines(&world, &["traffic", "mismatches"]).is_empty());
    assert!(String::from_utf8(world.command(&["offload"]).stdout).unwrap().starts_with("80.0 % "));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn boxes_of_other_sites_of_one_isp_are_told_from_those_elsewhere() {
    let world = World::start().await;
    world.title(1).await;
    let (receiver, same_isp, elsewhere) = (world.box_(1).await, world.box_(2).await, world.box_(3).await);
    for (device, site) in [(&receiver, "north"), (&same_isp, "south"), (&elsewhere, "abroad")] {
        let site = Some(site.to_owned());
        let request = pb::SetDeviceRequest { device: device.id().to_vec(), site, ..Default::default() };
        world.devices().set_device(request).await.unwrap();
    }
    for (site, isp) in [("north", "Coast"), ("south", "Coast"), ("abroad", "Hills")] {
        lines(&world, &["site", "set", site, "--zone", "UTC", "--isp", isp]);
    }
    let stream = receiver.attend(&world, Vec::new()).await;
    let rows = vec![row(&same_isp, 30, 0), row(&elsewhere, 5, 0)];
    stream.report(Report::Traffic(pb::Traffic { rows })).await;
    until(&world, "reelswarm_received_bytes_total{source=\"box\"} 35").await;
    let sources = lines(&world, &["traffic", "--by", "source"]);
    let sources: Vec<_> = sources.iter().map(|it| (it["of"].as_str().unwrap(), &it["from_boxes_bytes"])).collect();
    assert_eq!(sources, [("same ISP", &Value::from(30)), ("elsewhere", &Value::from(5))]);
}

#[tokio::test]
async fn a_device_that_reports_about_itself_is_refused_and_nothing_is_counted() {
    let world = World::start().await;
    let device = world.box_(1).await;
    let mut stream = device.attend(&world, Vec::new()).await;
    stream.report(Report::Traffic(pb::Traffic { rows: vec![row(&device, 30, 1)] })).await;
    let status = stream.end().await;
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(status.message().contains("traffic.rows[0].counterpart"), "{status:?}");
    assert_eq!(lines(&world, &["offload"])[0]["verified_bytes"], 0);
}
