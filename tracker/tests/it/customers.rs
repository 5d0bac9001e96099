//! What customers may have, and how they leave.

use daemon::exit::Failure;
use serde_json::Value;
use swarm_proto::catalog::CatalogEntry;
use swarm_proto::pb::common::{DeviceKind as PbKind, Unlimited};
use swarm_proto::pb::tracker as pb;
use swarm_proto::pb::tracker::notice::Notice;
use swarm_proto::pb::tracker::rating_limit::Limit;
use swarm_proto::pb::tracker::report::Report;
use tonic::{Code, Status};

use crate::world::{Device, SOON, World, copy, entry, holding};

fn age(age: u32) -> Option<pb::RatingLimit> {
    Some(pb::RatingLimit { limit: Some(Limit::Age(age)) })
}

fn code(refused: Result<impl std::fmt::Debug, Status>) -> String {
    Failure::from(refused.unwrap_err()).code.into_owned()
}

async fn set(world: &World, account: &[u8], region: Option<&str>, rating_limit: Option<pb::RatingLimit>) {
    let region = region.map(str::to_owned);
    let request = pb::SetCustomerRequest { account: account.to_vec(), name: None, region, rating_limit };
    world.customers().set_customer(request).await.unwrap();
}

async fn queue(world: &World, device: &Device, title: u8) -> Result<pb::QueueState, Status> {
    let request = pb::AddToQueueRequest { title: vec![title; 16], ..Default::default() };
    Ok(world.queue().add_to_queue(device.calls(request)).await?.into_inner())
}

async fn stand(world: &World, account: &[u8], status: pb::CustomerStatus) -> Result<pb::Customer, Status> {
    let request = pb::SetCustomerStatusRequest { account: account.to_vec(), status: status.into() };
    Ok(world.operator().set_customer_status(request).await?.into_inner())
}

#[tokio::test]
async fn what_a_customer_may_not_watch_is_neither_planned_nor_queued() {
    let world = World::start().await;
    world.admit_publisher().await;
    let (norway, adults) = ("NO".parse().unwrap(), 18);
    world.publish(&CatalogEntry { regions: vec![norway], ..entry(1, 1) }).await.unwrap();
    world.publish(&CatalogEntry { rating_age: adults, ..entry(2, 1) }).await.unwrap();
    let account = world.customer("Ada").await;
    let device = world.device_of(1, &account, PbKind::Box).await;

    assert_eq!((code(device.ask(&world, 1).await), code(queue(&world, &device, 1).await)).0, "E-ADMIT-01");
    set(&world, &account, Some("DE"), None).await;
    assert_eq!(code(device.ask(&world, 1).await), "E-ADMIT-02");
    assert_eq!(code(queue(&world, &device, 1).await), "E-ADMIT-02");
    set(&world, &account, Some("NO"), None).await;
    device.ask(&world, 1).await.unwrap();

    set(&world, &account, None, age(12)).await;
    assert_eq!(code(device.ask(&world, 2).await), "E-ADMIT-03");
    let by_operator = pb::AddToQueueRequest { account: account.clone(), title: vec![2; 16], ..Default::default() };
    assert_eq!(code(world.operators_queue().add_to_queue(by_operator).await), "E-ADMIT-03");
    set(&world, &account, None, Some(pb::RatingLimit { limit: Some(Limit::Unlimited(Unlimited {})) })).await;
    queue(&world, &device, 2).await.unwrap();

    let children = pb::SetDeviceRequest { device: device.id().to_vec(), rating_limit: age(6), ..Default::default() };
    world.devices().set_device(children).await.unwrap();
    assert_eq!(code(device.ask(&world, 2).await), "E-ADMIT-04");
    let playing = pb::AssignSourcesRequest { item: vec![2; 32], missing: Vec::new(), playing: true, class: 0 };
    assert_eq!(code(world.swarm().assign_sources(device.calls(playing)).await), "E-ADMIT-04");
}

#[tokio::test]
async fn limits_that_make_no_sense_are_refused_by_the_name_of_the_field() {
    let world = World::start().await;
    let account = world.customer("Ada").await;
    for (region, rating_limit, field) in [
        (Some("Norway"), None, "region"),
        (Some("no"), None, "region"),
        (None, age(22), "rating_limit.age"),
        (None, Some(pb::RatingLimit { limit: None }), "rating_limit.limit"),
    ] {
        let region = region.map(str::to_owned);
        let request = pb::SetCustomerRequest { account: account.clone(), name: None, region, rating_limit };
        let refused = world.customers().set_customer(request).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
        assert!(refused.message().contains(&format!("field {field} ")), "{refused}");
    }
}

#[tokio::test]
async fn closed_account_gets_nothing_loses_its_devices_and_can_be_opened_again() {
    let mut world = World::start().await;
    world.title(1).await;
    let account = world.customer("Ada").await;
    let device = world.device_of(1, &account, PbKind::Box).await;
    let mut attending = device.attend(&world, Vec::new()).await;
    let closed = stand(&world, &account, pb::CustomerStatus::Closed).await.unwrap();
    assert_eq!((closed.status(), closed.devices), (pb::CustomerStatus::Closed, 0));
    assert!(closed.closed_utc_ms.is_some());
    assert_eq!(attending.end().await.code(), Code::Unauthenticated);
    let invite = pb::InviteDeviceRequest { account: account.clone(), kind: PbKind::Box.into(), ..Default::default() };
    assert_eq!(code(world.operator().invite_device(invite).await), "E-CUSTOMER-04");

    world.kill_and_start_again().await;
    let again = stand(&world, &account, pb::CustomerStatus::Closed).await.unwrap();
    assert_eq!(again.closed_utc_ms, closed.closed_utc_ms, "closing again changes nothing");
    assert_eq!(stand(&world, &account, pb::CustomerStatus::Active).await.unwrap().status(), pb::CustomerStatus::Active);
    assert_eq!(code(device.ask(&world, 1).await), "E-CALL-03");
    let fresh = world.device_of(2, &account, PbKind::Box).await;
    fresh.ask(&world, 1).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn export_tells_everything_and_deletion_leaves_nothing() {
    let mut world = World::start().await;
    world.title(1).await;
    let account = world.customer("Ada").await;
    let device = world.device_of(1, &account, PbKind::Box).await;
    let attending = device.attend(&world, vec![copy(1)]).await;
    queue(&world, &device, 1).await.unwrap();
    let run = |world: &World, args: &[&str]| {
        let output = tokio::task::block_in_place(|| world.command(args));
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.code().unwrap(), String::from_utf8(output.stdout).unwrap(), error)
    };

    let (exit, text, error) = run(&world, &["customer", "export", "Ada"]);
    assert_eq!(exit, 0, "{error}");
    let document: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(document["customer"]["name"], "Ada");
    let exported = &document["devices"][0];
    assert_eq!((&exported["device"], &exported["name"]), (&device.id().to_string().into(), &"box 1".into()));
    assert_eq!(exported["holdings"][0]["chunks"], 24);
    assert_eq!(document["queue"][0]["name"], "Title 1");
    assert_eq!(document["invitations"][0]["used_by"], device.id().to_string());

    let (exit, text, _) = run(&world, &["customer", "delete", "Ada", "--dry-run", "--json"]);
    let would: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(
        (exit, &would["deleted"], &would["devices"], &would["holdings"]),
        (0, &false.into(), &1.into(), &1.into())
    );
    let (exit, _, error) = run(&world, &["customer", "delete", "Ada"]);
    assert_eq!(exit, 2, "nobody is there to confirm it: {error}");
    let (exit, text, error) = run(&world, &["customer", "delete", "Ada", "--yes"]);
    assert!(exit == 0 && text.contains("keyserver"), "receipts stay elsewhere: {text} {error}");
    drop(attending);

    for restarted in [false, true] {
        if restarted {
            world.kill_and_start_again().await;
        }
        assert_eq!(run(&world, &["customer", "show", "Ada"]).0, 4);
        assert!(run(&world, &["device", "ls", "--json"]).1.is_empty());
        let nobody = async { while !run(&world, &["copies", "Title 1", "--json"]).1.is_empty() {} };
        tokio::time::timeout(SOON, nobody).await.expect("holdings are gone in time");
    }
    assert_eq!(code(device.ask(&world, 1).await), "E-CALL-02");
    let other = world.customer("Bea").await;
    let invited = world.invite(&other, PbKind::Box).await;
    assert_eq!(code(world.enrol(&device, &invited).await), "E-DEVICE-02", "everyone still shuts it out");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_delivered_to_which_box_is_told_in_the_export_and_goes_with_the_customer() {
    let mut world = World::start().await;
    world.title(1).await;
    world.title(2).await;
    let account = world.customer("Ada").await;
    let device = world.device_of(1, &account, PbKind::Box).await;
    queue(&world, &device, 1).await.unwrap();
    let attending = device.attend(&world, Vec::new()).await;
    for holding in [holding(1, &[(0, 3)]), copy(1), copy(2)] {
        attending.report(Report::Holding(pb::HoldingChange { holding: Some(holding) })).await;
    }
    let delivered = |world: &World| {
        let output = tokio::task::block_in_place(|| world.command(&["customer", "export", "Ada"]));
        let document: Value = serde_json::from_slice(&output.stdout).unwrap();
        document["deliveries"].as_array().unwrap().clone()
    };
    let told = async { while delivered(&world).is_empty() {} };
    tokio::time::timeout(SOON, told).await.expect("it is told in time");
    let written = |line: &str| line == "reelswarm_unwritten_records 0";
    let written = async { while !tokio::task::block_in_place(|| world.metrics()).lines().any(written) {} };
    tokio::time::timeout(SOON, written).await.expect("it is written in time");
    drop(attending);

    world.kill_and_start_again().await;
    let again = delivered(&world);
    assert_eq!(again.len(), 1, "what nobody queued was not delivered: {again:#?}");
    assert_eq!((&again[0]["name"], &again[0]["device"]), (&"Title 1".into(), &device.id().to_string().into()));
    assert!(again[0]["delivered"].as_str().unwrap().starts_with("20"), "{again:#?}");

    let erase = |args: &[&str]| {
        let args = [&["customer", "delete", "Ada", "--json"], args].concat();
        let output = tokio::task::block_in_place(|| world.command(&args));
        serde_json::from_slice::<Value>(&output.stdout).unwrap()
    };
    assert_eq!(erase(&["--dry-run"])["deliveries"], 1);
    assert_eq!(erase(&["--yes"])["deleted"], true);
}

#[tokio::test]
async fn device_is_renamed_and_moved_while_it_is_connected() {
    let world = World::start().await;
    let device = world.box_(1).await;
    let mut attending = device.attend(&world, Vec::new()).await;
    let request = pb::SetDeviceRequest {
        device: device.id().to_vec(),
        name: Some("kitchen".to_owned()),
        site: Some("south".to_owned()),
        rating_limit: None,
    };
    let changed = world.devices().set_device(request).await.unwrap().into_inner();
    assert_eq!((changed.name.as_str(), changed.site.as_str()), ("kitchen", "south"));
    let signed = attending.until(|notice| if let Notice::Membership(it) = notice { Some(it) } else { None }).await;
    let answer = pb::EnrolResponse { membership: Some(signed), swarm_key: Vec::new() };
    let membership = crate::world::membership(answer, world.id);
    assert_eq!((membership.site.as_str(), membership.serial), ("south", 2));
}

#[tokio::test]
async fn everyone_connected_hears_at_once_who_was_shut_out_and_whoever_comes_later_too() {
    let mut world = World::start().await;
    let (first, second, third) = (world.box_(1).await, world.box_(2).await, world.box_(3).await);
    let mut listening = first.attend(&world, Vec::new()).await;
    let request = pb::RevokeDeviceRequest { device: second.id().to_vec() };
    world.operator().revoke_device(request).await.unwrap();
    let revoked = |notice| if let Notice::Revoked(it) = notice { Some(it.devices) } else { None };
    assert_eq!(listening.until(revoked).await, [second.id().to_vec()]);
    assert_eq!(third.attend(&world, Vec::new()).await.until(revoked).await, [second.id().to_vec()]);
    world.kill_and_start_again().await;
    assert_eq!(third.attend(&world, Vec::new()).await.until(revoked).await, [second.id().to_vec()]);
}
