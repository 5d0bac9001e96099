//! What seeds keep and boxes preload, with devices that do as they are told, and one that lies.

use serde_json::Value;
use swarm_proto::pb::common as pb_common;
use swarm_proto::pb::tracker as pb;
use swarm_proto::pb::tracker::notice::Notice;
use swarm_proto::pb::tracker::report::Report;
use tonic::Code;

use crate::world::{Attending, CHUNKS, Device, World, copy, holding};

const GIB: u64 = 1 << 30;

/// How a device answers challenges.
#[derive(Clone, Copy, PartialEq)]
enum Nature {
    Honest,
    /// Says it holds everything, and makes up the answers.
    Liar,
}

fn heartbeat(free_bytes: u64) -> Report {
    Report::Heartbeat(pb::Heartbeat { free_bytes, ..pb::Heartbeat::default() })
}

/// Does what the tracker says until the tracker is gone: holds what it shall, drops what it may, answers challenges.
fn obey(mut attending: Attending, nature: Nature) {
    tokio::spawn(async move {
        attending.report(heartbeat(100 * GIB)).await;
        while let Ok(notice) = attending.next_whenever().await {
            match notice {
                Notice::Assignments(list) => {
                    for it in list.hold {
                        let chunks = it.ranges.first().map_or(CHUNKS, |range| range.count.min(CHUNKS));
                        let holding = Some(holding(it.item[0], &[(0, chunks)]));
                        attending.report(Report::Holding(pb::HoldingChange { holding })).await;
                    }
                    for item in list.drop {
                        let holding = Some(holding(item[0], &[]));
                        attending.report(Report::Holding(pb::HoldingChange { holding })).await;
                    }
                }
                Notice::Challenge(challenge) => {
                    let nonce: [u8; 32] = challenge.nonce.as_slice().try_into().unwrap();
                    let chunk = match nature {
                        Nature::Honest => vec![challenge.chunk as u8; 100],
                        Nature::Liar => b"no idea".to_vec(),
                    };
                    let hash = blake3::keyed_hash(&nonce, &chunk).as_bytes().to_vec();
                    attending.report(Report::Proof(pb::ProofAnswer { id: challenge.id, hash })).await;
                }
                _ => {}
            }
        }
    });
}

async fn lines(world: &World, args: &[&str]) -> Vec<Value> {
    let args: Vec<&str> = args.iter().copied().chain(["--json"]).collect();
    let output = tokio::task::block_in_place(|| world.command(&args));
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Asks until the answer is as wished for.
async fn until(world: &World, args: &[&str], good: impl Fn(&[Value]) -> bool) -> Vec<Value> {
    let deadline = tokio::time::Instant::now() + crate::world::SOON;
    loop {
        let answer = lines(world, args).await;
        if good(&answer) {
            return answer;
        }
        assert!(tokio::time::Instant::now() < deadline, "{args:?}: {answer:#?}");
    }
}

fn field(rows: &[Value], key: &str) -> Vec<String> {
    rows.iter().map(|row| row[key].to_string().trim_matches('"').to_owned()).collect()
}

/// Seeds that obey, the first of them with these items.
async fn seeds(world: &World, n: u8, items: &[u8]) -> Vec<Device> {
    let mut all = Vec::new();
    for seed in 0..n {
        let device = world.seed(50 + seed).await;
        let held = if seed == 0 { items.iter().map(|item| copy(*item)).collect() } else { Vec::new() };
        obey(device.attend(world, held).await, Nature::Honest);
        all.push(device);
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn title_published_on_one_seed_is_soon_on_two_and_proven_there() {
    let world = World::start().await;
    seeds(&world, 3, &[1]).await;
    world.title(1).await;
    let rows = until(&world, &["seed", "ls"], |rows| rows.iter().filter(|it| it["copies"] == 1).count() == 2).await;
    assert_eq!(field(&rows, "state"), ["online"; 3]);
    until(&world, &["seed", "show", "box 50"], |rows| rows.len() == 1 && rows[0]["proof"] == "proven").await;
    let shown = lines(&world, &["seed", "show", "box 50"]).await;
    assert_eq!((&shown[0]["copies"], &shown[0]["assigned"]), (&2.into(), &true.into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn seed_that_is_lost_is_replaced_by_the_one_that_is_left() {
    let world = World::with(&["repositories.lost_after=100ms"]).await;
    let (first, second) = (world.seed(50).await, world.seed(51).await);
    let one = first.attend(&world, vec![copy(1)]).await;
    one.report(heartbeat(GIB)).await;
    world.title(1).await;
    obey(second.attend(&world, Vec::new()).await, Nature::Honest);
    until(&world, &["seeds"], |rows| rows.iter().all(|it| it["copies"] == 1)).await;
    let third = world.seed(52).await;
    obey(third.attend(&world, Vec::new()).await, Nature::Honest);
    drop(one);
    let rows = until(&world, &["seeds"], |rows| rows.iter().all(|it| it["copies"] == 1)).await;
    assert_eq!(rows.iter().filter(|it| it["state"] == "lost").count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn drained_seed_is_empty_and_stays_draining_over_a_restart() {
    let mut world = World::start().await;
    let all = seeds(&world, 3, &[1, 2]).await;
    world.title(1).await;
    world.title(2).await;
    until(&world, &["seeds"], |rows| rows.iter().filter_map(|it| it["copies"].as_u64()).sum::<u64>() == 4).await;
    let drained = lines(&world, &["seed", "drain", "box 50"]).await;
    assert!(["draining", "drained"].contains(&drained[0]["state"].as_str().unwrap()));
    let rows = until(&world, &["seeds"], |rows| rows.iter().any(|it| it["state"] == "drained")).await;
    assert_eq!(rows.iter().filter_map(|it| it["copies"].as_u64()).sum::<u64>(), 4);
    world.kill_and_start_again().await;
    let id = all[0].id().to_string();
    let rows = lines(&world, &["seeds"]).await;
    let again = rows.iter().find(|it| it["device"] == id.as_str()).unwrap();
    assert_eq!(again["state"], "drained");
    assert_eq!(lines(&world, &["seed", "undrain", "box 50"]).await[0]["state"], "away");
}

#[tokio::test(flavor = "multi_thread")]
async fn starts_fill_the_boxes_of_a_site_and_challenges_prove_it() {
    let world = World::start().await;
    seeds(&world, 1, &[1]).await;
    world.title(1).await;
    for n in 1..=4 {
        obey(world.box_(n).await.attend(&world, Vec::new()).await, Nature::Honest);
    }
    until(&world, &["preload", "set", "Title 1", "--share", "50%", "--starts", "--dry-run"], |rows| {
        rows[0]["fetching"] == 2 && rows[0]["bytes"] == 32 << 20
    })
    .await;
    assert!(lines(&world, &["preload", "ls"]).await.is_empty(), "a dry run changes nothing");

    lines(&world, &["preload", "set", "Title 1", "--site", "main", "--share", "50%", "--starts"]).await;
    let rows = until(&world, &["preload", "coverage"], |rows| rows[0]["proven"] == 2).await;
    assert_eq!((&rows[0]["have"], &rows[0]["wanted"], &rows[0]["boxes"]), (&2.into(), &2.into(), &4.into()));
    assert_eq!((&rows[0]["starts_spans"], &rows[0]["by"]), (&1.into(), &"operator".into()));

    assert_eq!(lines(&world, &["preload", "rm", "Title 1"]).await[0]["already"], false);
    assert_eq!(lines(&world, &["preload", "rm", "Title 1"]).await[0]["already"], true);
    assert!(lines(&world, &["preload", "ls"]).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn box_that_lies_about_its_holdings_is_found_and_replaced() {
    let world = World::start().await;
    seeds(&world, 1, &[1]).await;
    world.title(1).await;
    obey(world.box_(1).await.attend(&world, vec![copy(1)]).await, Nature::Liar);
    lines(&world, &["preload", "set", "Title 1", "--share", "50%"]).await;
    until(&world, &["preload", "coverage"], |rows| rows[0]["doubted"] == 1 && rows[0]["have"] == 0).await;
    obey(world.box_(2).await.attend(&world, Vec::new()).await, Nature::Honest);
    let rows = until(&world, &["preload", "coverage"], |rows| rows[0]["proven"] == 1).await;
    assert_eq!((&rows[0]["have"], &rows[0]["doubted"]), (&1.into(), &1.into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn targets_survive_kill_9() {
    let mut world = World::start().await;
    world.title(1).await;
    lines(&world, &["preload", "set", "Title 1", "--site", "north", "--share", "40", "--starts", "3"]).await;
    world.kill_and_start_again().await;
    let rows = lines(&world, &["preload", "ls", "--site", "north"]).await;
    assert_eq!((&rows[0]["share_percent"], &rows[0]["starts_spans"]), (&40.into(), &3.into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn most_wanted_titles_are_preloaded_by_demand_when_the_operator_says_so() {
    let world = World::with(&["preload.popular=1", "preload.popular_percent=100"]).await;
    seeds(&world, 1, &[1, 2]).await;
    world.title(1).await;
    world.title(2).await;
    obey(world.box_(1).await.attend(&world, Vec::new()).await, Nature::Honest);
    lines(&world, &["queue", "add", "customer 1", "Title 2"]).await;
    let rows = until(&world, &["preload", "coverage"], |rows| rows.len() == 1 && rows[0]["have"] == 1).await;
    assert_eq!((&rows[0]["name"], &rows[0]["by"]), (&"Title 2".into(), &"demand".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn title_that_nobody_holds_is_answered_with_where_it_is_planned() {
    let world = World::start().await;
    let asker = world.box_(1).await;
    world.title(1).await;
    let waiting = asker.ask(&world, 1).await.unwrap().waiting;
    assert!(waiting.starts_with("none yet") && waiting.contains("no seed"), "{waiting}");
    let seed = world.seed(50).await;
    let attending = seed.attend(&world, Vec::new()).await;
    attending.report(heartbeat(GIB)).await;
    let plan = asker.ask_until(&world, 1, |plan| plan.waiting.contains("box 50")).await;
    assert_eq!(plan.waiting, "none yet: a fill of box 50 is planned, as soon as somebody holds it");
}

#[tokio::test(flavor = "multi_thread")]
async fn title_whose_seed_is_away_is_answered_with_the_seed_it_will_come_from() {
    let world = World::start().await;
    let asker = world.box_(1).await;
    world.title(1).await;
    let seed = world.seed(50).await;
    drop(seed.attend(&world, vec![copy(1)]).await);
    let why = "every source that holds it is offline; a fill from box 50 is planned, as soon as it is back";
    assert_eq!(asker.ask_until(&world, 1, |plan| plan.waiting.contains("offline")).await.waiting, why);
    let estimate = lines(&world, &["estimate", "box 1", "Title 1"]).await;
    assert!(estimate[0]["not_before"].as_str().unwrap().contains("box 50"), "{estimate:#?}");
}

#[tokio::test]
async fn last_copy_is_not_released_and_two_that_lean_on_one_another_not_both() {
    let world = World::start().await;
    world.title(1).await;
    let (first, second) = (world.box_(1).await, world.box_(2).await);
    let _first = first.attend(&world, vec![copy(1)]).await;
    let ask = async |device: &Device| {
        let request = pb::ReleaseRequest { item: vec![1; 32], reason: pb::ReleaseReason::NoRoom.into() };
        world.custody().release(device.calls(request)).await.unwrap().into_inner()
    };
    assert_eq!(ask(&first).await, pb::ReleaseResponse { may_drop: false, other_copies: 0 });
    let _second = second.attend(&world, vec![copy(1)]).await;
    assert_eq!(ask(&first).await, pb::ReleaseResponse { may_drop: true, other_copies: 1 });
    assert_eq!(ask(&second).await, pb::ReleaseResponse { may_drop: false, other_copies: 0 });
}

#[tokio::test]
async fn requests_that_make_no_sense_are_refused_by_the_name_of_the_field() {
    let world = World::start().await;
    world.title(1).await;
    let device = world.box_(1).await;
    let request = pb::ReleaseRequest { item: vec![1; 32], reason: 0 };
    let refused = world.custody().release(device.calls(request)).await.unwrap_err();
    assert!(refused.code() == Code::InvalidArgument && refused.message().contains("reason"), "{refused}");

    let set = |share_percent, starts_spans| pb::SetTargetRequest {
        title: vec![1; 16],
        share_percent,
        starts_spans,
        ..pb::SetTargetRequest::default()
    };
    for (request, named) in
        [(set(0, None), "share_percent"), (set(101, None), "share_percent"), (set(5, Some(0)), "starts_spans")]
    {
        let refused = world.operators_preload().set_target(request).await.unwrap_err();
        assert!(refused.code() == Code::InvalidArgument && refused.message().contains(named), "{refused}");
    }
    let request = pb::AssignSourcesRequest { item: vec![1; 32], class: 77, ..pb::AssignSourcesRequest::default() };
    let refused = world.swarm().assign_sources(device.calls(request)).await.unwrap_err();
    assert!(refused.message().contains("class"), "{refused}");

    let mut attending = device.attend(&world, Vec::new()).await;
    attending.report(Report::Proof(pb::ProofAnswer { id: 1, hash: vec![1; 31] })).await;
    let ended = attending.end().await;
    assert!(ended.message().contains("proof.hash"), "{ended}");
}

#[tokio::test]
async fn preload_ticket_says_so() {
    let world = World::start().await;
    world.title(1).await;
    let device = world.box_(1).await;
    let request = pb::AssignSourcesRequest {
        item: vec![1; 32],
        class: pb_common::TicketClass::Preload.into(),
        ..pb::AssignSourcesRequest::default()
    };
    let plan = world.swarm().assign_sources(device.calls(request)).await.unwrap().into_inner();
    let signed: swarm_proto::signed::Signed<swarm_proto::ticket::Ticket> = plan.ticket.unwrap().try_into().unwrap();
    assert_eq!(signed.verify(&world.id).unwrap().class, swarm_proto::ticket::TicketClass::Preload);
}
