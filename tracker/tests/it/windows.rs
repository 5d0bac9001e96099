//! Sites and their windows, as operators, customers and boxes meet them.

use std::time::Duration;

use serde_json::Value;
use swarm_proto::limit::Limit;
use swarm_proto::pb::common as pb_common;
use swarm_proto::pb::tracker as pb;
use swarm_proto::pb::tracker::delivery::When;
use swarm_proto::pb::tracker::notice::Notice;
use swarm_proto::pb::tracker::report::Report;
use swarm_proto::pb::tracker::sites_client::SitesClient;
use swarm_proto::time::Utc;
use tonic::{Code, Status};

use crate::world::{Attending, Device, Intercepted, SOON, World, copy, utc};

const DAY: u64 = 86_400;

/// A window on every day, from so many seconds from now until so many seconds from now, UTC.
fn windows(from: u64, to: u64) -> Vec<pb::Window> {
    let secs = |after: u64| u32::try_from((utc().as_secs() + after) % DAY).unwrap();
    let end = |secs: u32| if secs == 0 { 86_400 } else { secs };
    let window = |day| pb::Window {
        day,
        from_secs: secs(from),
        to_secs: end(secs(to)),
        rate_per_sec: Some(unlimited()),
        volume: Some(unlimited()),
    };
    (0..7).map(window).collect()
}

fn unlimited() -> pb_common::BytesLimit {
    Limit::<u64>::Unlimited.into()
}

async fn put(world: &World, windows: Vec<pb::Window>, version: u64) -> Result<pb::SiteChanged, Status> {
    let site =
        pb::Site { site: "main".to_owned(), time_zone: "UTC".to_owned(), windows, version, ..pb::Site::default() };
    let request = pb::PutSiteRequest { site: Some(site), dry_run: false };
    Ok(sites(world).put_site(request).await?.into_inner())
}

fn sites(world: &World) -> SitesClient<Intercepted> {
    world.operators_sites()
}

/// A world with a title, a seed that holds it, and a box that wants it in the windows of its site.
async fn world() -> (World, Device, Attending, Attending) {
    let world = World::start().await;
    world.title(1).await;
    let seed = world.seed(9).await;
    let seeding = seed.attend(&world, vec![copy(1)]).await;
    let device = world.box_(1).await;
    let attending = device.attend(&world, Vec::new()).await;
    want(&world, &device, Some(When::OffPeak(true))).await;
    (world, device, attending, seeding)
}

async fn want(world: &World, device: &Device, when: Option<When>) -> pb::QueueState {
    let delivery = when.map(|when| pb::Delivery { when: Some(when) });
    let request = pb::AddToQueueRequest { title: vec![1; 16], this_device_only: true, delivery, ..Default::default() };
    world.queue().add_to_queue(device.calls(request)).await.unwrap().into_inner()
}

async fn pushed_plan(attending: &mut Attending) -> pb::Plan {
    let plan = attending.until(|notice| match notice {
        Notice::Plan(plan) => Some(plan),
        _ => None,
    });
    plan.await
}

/// Waits until a device is told that it may begin.
async fn opened(attending: &mut Attending) {
    let told =
        async { while pushed_plan(attending).await.closed_until_utc_ms.is_none_or(|it| it > utc().as_millis()) {} };
    tokio::time::timeout(SOON, told).await.expect("it is told in time");
}

#[tokio::test]
async fn what_is_kept_for_tonight_gets_no_sources_before_and_says_when() {
    let (world, device, _attending, _seeding) = world().await;
    assert!(!device.ask(&world, 1).await.unwrap().leases.is_empty(), "a site without windows knows no peak");
    put(&world, windows(7_200, 10_800), 0).await.unwrap();
    let plan = device.ask(&world, 1).await.unwrap();
    let opens = plan.closed_until_utc_ms.expect("it is closed");
    assert!(plan.leases.is_empty() && plan.closed_from_utc_ms.is_none());
    assert!((7_100_000..=7_200_000).contains(&(opens - plan.utc_ms)), "{plan:?}");
    assert!(plan.waiting.contains('–'), "{}", plan.waiting);

    let request = pb::AssignSourcesRequest { item: vec![1; 32], missing: Vec::new(), playing: true, class: 0 };
    let watched = world.swarm().assign_sources(device.calls(request)).await.unwrap().into_inner();
    assert!(!watched.leases.is_empty() && watched.closed_until_utc_ms.is_none(), "a viewer does not wait");
}

#[tokio::test]
async fn preload_waits_for_a_window_where_what_is_queued_comes_at_once() {
    let (world, device, mut attending, _seeding) = world().await;
    put(&world, windows(7_200, 10_800), 0).await.unwrap();
    let ask = async |class: pb_common::TicketClass| {
        let request = pb::AssignSourcesRequest { item: vec![1; 32], class: class.into(), ..Default::default() };
        world.swarm().assign_sources(device.calls(request)).await.unwrap().into_inner()
    };
    let preload = ask(pb_common::TicketClass::Preload).await;
    assert!(preload.leases.is_empty() && preload.closed_until_utc_ms.is_some(), "{preload:?}");
    want(&world, &device, Some(When::Anytime(true))).await;
    opened(&mut attending).await;
    assert!(!ask(pb_common::TicketClass::Queued).await.leases.is_empty(), "who queues it need not wait");

    assert!(ask(pb_common::TicketClass::Preload).await.leases.is_empty());
    put(&world, windows(DAY - 60, 3_600), 1).await.unwrap();
    opened(&mut attending).await;
    assert!(!ask(pb_common::TicketClass::Preload).await.leases.is_empty());
}

#[tokio::test]
async fn end_of_a_window_ends_leases_and_is_told_when_it_comes() {
    let (world, device, mut attending, _seeding) = world().await;
    put(&world, windows(DAY - 60, 3), 0).await.unwrap();
    let plan = device.ask(&world, 1).await.unwrap();
    let ends = plan.closed_from_utc_ms.expect("it ends");
    assert!(plan.leases.iter().all(|lease| lease.until_utc_ms <= ends) && !plan.leases.is_empty(), "{plan:?}");
    let closed = pushed_plan(&mut attending).await;
    assert!(closed.leases.is_empty() && closed.utc_ms >= ends, "{closed:?}");
    assert_eq!(closed.closed_until_utc_ms, plan.closed_until_utc_ms);
    assert!(device.ask(&world, 1).await.unwrap().leases.is_empty());
}

#[tokio::test]
async fn operator_who_changes_a_window_stops_what_runs_and_calls_what_waits() {
    let (world, device, mut attending, _seeding) = world().await;
    put(&world, windows(DAY - 60, 3_600), 0).await.unwrap();
    assert!(!device.ask(&world, 1).await.unwrap().leases.is_empty());
    let changed = put(&world, windows(7_200, 10_800), 1).await.unwrap();
    assert_eq!((changed.stopped, changed.begun), (1, 0));
    let closed = pushed_plan(&mut attending).await;
    assert!(closed.closed_until_utc_ms.is_some_and(|opens| opens > closed.utc_ms), "{closed:?}");
    let changed = put(&world, windows(DAY - 60, 3_600), 2).await.unwrap();
    assert_eq!((changed.stopped, changed.begun), (0, 1));
    let over = pushed_plan(&mut attending).await;
    assert!(over.closed_until_utc_ms.is_some_and(|opens| opens <= over.utc_ms), "{over:?}");
    assert_eq!(put(&world, Vec::new(), 1).await.unwrap_err().code(), Code::Aborted);
}

#[tokio::test]
async fn customer_who_cannot_wait_is_heard_at_once() {
    let (world, device, mut attending, _seeding) = world().await;
    put(&world, windows(7_200, 10_800), 0).await.unwrap();
    assert!(device.ask(&world, 1).await.unwrap().leases.is_empty());
    let state = want(&world, &device, Some(When::Anytime(true))).await;
    assert_eq!(state.entries[0].delivery, Some(pb::Delivery { when: Some(When::Anytime(true)) }));
    pushed_plan(&mut attending).await;
    assert!(!device.ask(&world, 1).await.unwrap().leases.is_empty());
    let later = utc() + Duration::from_secs(3_600);
    want(&world, &device, Some(When::NotBeforeUtcMs(later.as_millis()))).await;
    let closed = pushed_plan(&mut attending).await;
    assert_eq!(closed.closed_until_utc_ms, Some(later.as_millis()));
    assert!(closed.waiting.starts_with("not before "), "{}", closed.waiting);
}

#[tokio::test]
async fn used_up_volume_closes_the_window_and_stays_used_up_over_kill_9() {
    let (mut world, device, mut attending, _seeding) = world().await;
    let mut little = windows(DAY - 60, 3_600);
    little.iter_mut().for_each(|window| window.volume = Some(Limit::Of(1_000_u64).into()));
    put(&world, little, 0).await.unwrap();
    assert!(!device.ask(&world, 1).await.unwrap().leases.is_empty());
    let row = pb::TrafficRow {
        item: vec![1; 32],
        counterpart: vec![2; 32],
        received_verified_bytes: 1_000_000,
        ..pb::TrafficRow::default()
    };
    // A device that has been here for no time at all can have received nothing.
    let told = async {
        loop {
            attending.report(Report::Traffic(pb::Traffic { rows: vec![row.clone()] })).await;
            let used = sites(&world).get_site(pb::GetSiteRequest { site: "main".to_owned() }).await.unwrap();
            if used.into_inner().used_bytes >= 1_000 {
                return;
            }
        }
    };
    tokio::time::timeout(SOON, told).await.expect("it counts in time");
    let closed = pushed_plan(&mut attending).await;
    assert!(closed.waiting.contains("used up"), "{}", closed.waiting);

    let written = async { while !world.metrics().contains("reelswarm_unwritten_records 0\n") {} };
    tokio::time::timeout(SOON, written).await.expect("it is written in time");
    // It is written without waiting for the disk; whatever is acknowledged after it takes it along.
    world.customer("the last one").await;
    world.kill_and_start_again().await;
    let _again = device.attend(&world, Vec::new()).await;
    assert!(device.ask(&world, 1).await.unwrap().waiting.contains("used up"));
}

#[tokio::test]
async fn sites_are_for_operators() {
    let world = World::start().await;
    let device = world.box_(1).await;
    let request = device.calls(pb::ListSitesRequest {});
    assert_eq!(world.sites().list_sites(request).await.unwrap_err().code(), Code::PermissionDenied);
}

/// What a command printed.
fn lines(world: &World, args: &[&str]) -> Vec<Value> {
    let output = tokio::task::block_in_place(|| world.command(&[args, &["--json"]].concat()));
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn line(world: &World, args: &[&str]) -> Value {
    lines(world, args).pop().expect("it printed something")
}

#[tokio::test(flavor = "multi_thread")]
async fn operator_describes_a_site_by_command() {
    let world = World::start().await;
    world.title(1).await;
    world.customer("Ada").await;
    let set = ["site", "set", "north", "--zone", "Europe/Berlin", "--isp", "Coast", "--queued", "off-peak"];
    let dry = line(&world, &[&set[..], &["--dry-run"]].concat());
    assert_eq!((&dry["dry_run"], &dry["time_zone"]), (&Value::Bool(true), &"Europe/Berlin".into()));
    assert!(lines(&world, &["site", "ls"]).is_empty(), "a dry run changes nothing");
    assert_eq!(line(&world, &set)["queued"], "off-peak");

    let add = ["site", "window", "add", "north", "mon-fri", "01:00-06:00", "--rate", "500MB/s", "--volume", "0B"];
    let added = line(&world, &add);
    assert_eq!(added["windows"].as_array().unwrap().len(), 5);
    assert_eq!(added["windows"][0]["rate_bytes_per_sec"], 500_000_000);
    assert_eq!(added["windows"][0]["volume_bytes"], 0, "zero is zero");
    line(&world, &["site", "window", "add", "north", "sat,sun", "22:00-08:00"]);
    line(&world, &["site", "window", "rm", "north", "fri", "01:00"]);
    line(&world, &["site", "holiday", "add", "north", "2026-12-24", "sun"]);
    line(&world, &["site", "cost", "set", "north", "south", "7"]);
    let shown = line(&world, &["site", "show", "north"]);
    assert_eq!(shown["windows"].as_array().unwrap().len(), 6);
    assert_eq!(shown["windows"][5]["rate_bytes_per_sec"], "unlimited");
    assert_eq!((&shown["holidays"][0]["as_day"], &shown["costs"][0]["cost"]), (&"sun".into(), &7.into()));
    let week = tokio::task::block_in_place(|| world.command(&["site", "show", "north"]));
    let week = String::from_utf8(week.stdout).unwrap();
    assert!(week.contains("WINDOW") && week.contains("22:00–08:00") && week.contains("nothing"), "{week}");

    line(&world, &["site", "holiday", "rm", "north", "2026-12-24"]);
    line(&world, &["site", "cost", "rm", "north", "south"]);
    let absent = tokio::task::block_in_place(|| world.command(&["site", "cost", "rm", "north", "south"]));
    assert_eq!(absent.status.code(), Some(4));
    let queued = line(&world, &["queue", "add", "Ada", "Title 1", "--tonight"]);
    assert_eq!(queued["delivery"], "tonight");
    let later = line(&world, &["queue", "add", "Ada", "Title 1", "--not-before", "2030-01-01T00:00:00Z"]);
    assert_eq!(later["delivery"], format!("not before {}", "2030-01-01T00:00:00Z".parse::<Utc>().unwrap()));
    assert_eq!(line(&world, &["site", "rm", "north"])["version"], 0);
    assert!(lines(&world, &["site", "ls"]).is_empty());
}
