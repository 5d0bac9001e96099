//! What a tracker says about its own decisions.

use swarm_proto::pb::tracker as pb;
use swarm_proto::pb::tracker::plans_client::PlansClient;
use swarm_proto::pb::tracker::report::Report;
use tonic::Code;

use crate::world::{CHUNKS, World, copy};

fn told(world: &World, args: &[&str]) -> String {
    let output = world.command(args);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test]
async fn operator_is_told_who_sends_and_why_others_do_not() {
    let world = World::start().await;
    let title = world.title(1).await;
    let (asker, holder, seed) = (world.box_(1).await, world.box_(2).await, world.seed(9).await);
    let _holder = holder.attend(&world, vec![copy(1)]).await;
    let _seed = seed.attend(&world, vec![copy(1)]).await;
    let _asker = asker.attend(&world, Vec::new()).await;
    asker.ask_until(&world, 1, |plan| !plan.leases.is_empty()).await;

    let id = asker.id().to_string();
    let json = told(&world, &["explain", &id, &title.name, "--json"]);
    let explained: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(explained["asked_for"], "in the queue");
    assert_eq!(explained["missing_chunks"], CHUNKS);
    assert_eq!(explained["sources"][0]["device"], holder.id().to_string());
    assert_eq!(explained["sources"][0]["reason"], "a box of the same site");
    assert_eq!(explained["others"][0]["device"], seed.id().to_string());
    assert_eq!(explained["others"][0]["reason"], "a server, and boxes give enough");

    let words = told(&world, &["explain", &id[..10], &title.name]);
    assert!(words.contains("Who sends") && words.contains("a server, and boxes give enough"), "{words}");
    let unknown = world.command(&["explain", "no such box", &title.name]);
    assert_eq!(unknown.status.code(), Some(daemon::Exit::NotFound as i32));
}

#[tokio::test]
async fn box_is_told_when_a_title_would_be_there_before_it_is_queued() {
    let world = World::start().await;
    let title = world.title(1).await;
    let (asker, holder) = (world.box_(1).await, world.box_(2).await);
    let mut plans = PlansClient::connect(world.url.clone()).await.unwrap();
    let ask = || asker.calls(pb::EstimateRequest { title: title.title.to_vec(), device: Vec::new() });
    let nobody = plans.estimate(ask()).await.unwrap().into_inner();
    assert_eq!(
        (nobody.ready_utc_ms, nobody.not_before.as_str()),
        (None, "none yet: nobody has said to hold it, and there is no seed to keep it")
    );

    let _holder = holder.attend(&world, vec![copy(1)]).await;
    let attending = asker.attend(&world, Vec::new()).await;
    let downlink = pb::Heartbeat { downlink_bytes_per_sec: Some(1 << 20), ..pb::Heartbeat::default() };
    attending.report(Report::Heartbeat(downlink)).await;
    let before = crate::world::utc().as_millis();
    let ready = crate::world::poll(async || {
        let told = plans.estimate(ask()).await.unwrap().into_inner();
        (told.bytes_per_sec == 1 << 20).then_some(told)
    });
    let ready = ready.await;
    let secs = (ready.ready_utc_ms.unwrap() - before) / 1_000;
    assert!((u64::from(CHUNKS)..u64::from(CHUNKS) + 20).contains(&secs), "{secs} s for {CHUNKS} chunks at 1 MiB/s");

    let for_another = pb::EstimateRequest { title: title.title.to_vec(), device: holder.id().to_vec() };
    assert_eq!(plans.estimate(asker.calls(for_another)).await.unwrap_err().code(), Code::PermissionDenied);
    let words = told(&world, &["estimate", &asker.id().to_string(), &title.name]);
    assert!(words.starts_with("about 2"), "{words}");
}
