//! What a box asks its keyserver besides grants.

use swarm_proto::id::OrderId;
use swarm_proto::membership::DeviceKind;
use swarm_proto::pb::keyserver as pb;
use swarm_proto::pb::keyserver::rights_client::RightsClient;
use swarm_proto::revocations::Revocations;
use swarm_proto::server_time::{ServerTime, TimeError};
use swarm_proto::signed::Signed;
use tonic::{Code, Request, Status};

use crate::process::Process;
use crate::world::{Device, World, now, reason};

const KEY: &str = "a-purchase-of-the-tests";

fn question(nonce_bytes: usize) -> pb::CheckInRequest {
    pb::CheckInRequest { nonce: vec![7; nonce_bytes], revocations_version: 0 }
}

/// A keyserver that has sold the film to a household, and the order.
async fn sold(world: &World, viewer: &Device) -> (Process, Vec<u8>) {
    let keyserver = world.home.start();
    world.deposit(&keyserver).await.expect("deposited");
    let shop = viewer.shop(&keyserver).await;
    let order = shop.order(KEY, world.film.item, "rent").await.expect("ordered").order;
    let code = world.home.ask(&["pass", "create", "--credits", "1", "--valid", "1d"]);
    shop.pay(&order, code["code"].as_str().expect("a code")).await.expect("paid");
    (keyserver, order)
}

async fn play(device: &Device, keyserver: &Process, order: &[u8], name: &str, take_over: bool) -> Result<u64, Status> {
    let request = pb::ReportPlayRequest {
        order: order.to_vec(),
        first_play_utc_ms: now().as_millis(),
        device_name: name.to_owned(),
        begins: true,
        take_over,
    };
    let mut rights = RightsClient::new(keyserver.channel().await);
    Ok(rights.report_play(device.call(keyserver, request)).await?.into_inner().interval_ms)
}

#[tokio::test]
async fn account_plays_on_two_devices_at_a_time_and_a_third_may_take_over() {
    let world = World::new();
    let first = world.household();
    let others: Vec<Device> = (0..2).map(|_| world.device_of(first.account(), DeviceKind::Box)).collect();
    let (keyserver, order) = sold(&world, &first).await;
    assert_eq!(reason(&play(&first, &keyserver, &order, "", false).await.expect_err("no key yet")), "NO_GRANT");
    for device in others.iter().chain([&first]) {
        device.shop(&keyserver).await.grant(&order).await.map(drop).expect("granted");
    }
    assert_eq!(play(&first, &keyserver, &order, "living room", false).await.expect("plays"), 30_000);
    play(&others[0], &keyserver, &order, "kitchen", false).await.expect("plays");
    let third = play(&others[1], &keyserver, &order, "attic", false).await.expect_err("two play");
    assert_eq!((third.code(), reason(&third).as_str()), (Code::AlreadyExists, "TOO_MANY_PLAYING"));
    assert!(third.message().contains("living room") && third.message().contains("kitchen"), "{}", third.message());
    play(&others[1], &keyserver, &order, "attic", true).await.expect("takes over");
    let stranger = world.household();
    assert_eq!(reason(&play(&stranger, &keyserver, &order, "", false).await.expect_err("not theirs")), "E-ORDER-06");
    assert_eq!(world.home.records("first_played"), 1, "the rental's clock is started once");
    let grants = world.home.ask(&["grant", "ls", &OrderId::try_from(order.as_slice()).expect("an id").to_string()]);
    let grants = grants.as_array().expect("a list");
    assert_eq!(grants.len(), 3);
    let first_play = &grants[0]["first_play"];
    assert!(first_play.is_string() && grants.iter().all(|grant| grant["first_play"] == *first_play), "{grants:?}");
}

#[tokio::test]
async fn key_that_is_taken_back_is_on_the_signed_list_of_its_device() {
    let world = World::new();
    let viewer = world.household();
    let (keyserver, order) = sold(&world, &viewer).await;
    let licence = viewer.shop(&keyserver).await.grant(&order).await.map(|unlocked| unlocked.licence).expect("granted");
    let mut rights = RightsClient::new(keyserver.channel().await);
    let answer = rights.check_in(viewer.call(&keyserver, question(32))).await.expect("an answer").into_inner();
    assert!(answer.revocations.is_none(), "nothing was taken back");

    let code = OrderId::try_from(order.as_slice()).expect("an id").to_string();
    let device = viewer.membership.device.to_string();
    world.home.ask(&["grant", "withdraw", &code, &device, "--reason", "sent back"]);
    let answer = rights.check_in(viewer.call(&keyserver, question(32))).await.expect("an answer").into_inner();
    let server = keyserver.id.parse().expect("an id");
    let list = Signed::<Revocations>::try_from(answer.revocations.expect("a list")).expect("well formed");
    let list = list.verify(&server).expect("signed");
    assert!(list.covers(&licence) && list.device == viewer.membership.device && !list.all);
    let known = pb::CheckInRequest { revocations_version: list.version, ..question(32) };
    let answer = rights.check_in(viewer.call(&keyserver, known)).await.expect("an answer").into_inner();
    assert!(answer.revocations.is_none(), "it has that list already");

    world.home.ask(&["grant", "revoke", &device, "--reason", "stolen"]);
    let refused = viewer.shop(&keyserver).await.grant(&order).await.err().expect("revoked");
    assert_eq!((refused.code(), reason(&refused).as_str()), (Code::PermissionDenied, "DEVICE_REVOKED"));
    let answer = rights.check_in(viewer.call(&keyserver, question(32))).await.expect("an answer").into_inner();
    let list = Signed::<Revocations>::try_from(answer.revocations.expect("a list")).expect("well formed");
    assert!(list.verify(&server).expect("signed").all);
    keyserver.kill();
    let keyserver = world.home.start();
    let refused = viewer.shop(&keyserver).await.grant(&order).await.err().expect("still revoked");
    assert_eq!(reason(&refused), "DEVICE_REVOKED", "it is in the journal");
}

#[tokio::test]
async fn new_box_takes_the_place_of_a_lost_one() {
    let world = World::with(&["orders.devices_per_order=1"]);
    let lost = world.household();
    let new = world.device_of(lost.account(), DeviceKind::Box);
    let (keyserver, order) = sold(&world, &lost).await;
    lost.shop(&keyserver).await.grant(&order).await.map(drop).expect("granted");
    let shop = new.shop(&keyserver).await;
    assert_eq!(reason(&shop.grant(&order).await.err().expect("one device only")), "TOO_MANY_DEVICES");
    let mut rights = RightsClient::new(keyserver.channel().await);
    let list = pb::ListRightsRequest { item: Vec::new(), page_size: 10, page_token: Vec::new() };
    let list = rights.list_rights(new.call(&keyserver, list)).await.expect("a list").into_inner();
    assert!(list.rights.len() == 1 && !list.rights[0].granted_here, "what the account may watch");
    let replace =
        |device: &Device| pb::ReplaceDeviceRequest { order: order.clone(), device: device.membership.device.to_vec() };
    rights.replace_device(new.call(&keyserver, replace(&lost))).await.expect("replaced");
    shop.grant(&order).await.map(drop).expect("granted to the new one");
    let gone = rights.replace_device(new.call(&keyserver, replace(&lost))).await.expect_err("it has none any more");
    assert_eq!((gone.code(), reason(&gone).as_str()), (Code::NotFound, "E-GRANT-04"));
}

#[tokio::test]
async fn time_is_signed_for_the_device_that_asks() {
    let world = World::new();
    let keyserver = world.home.start();
    let viewer = world.household();
    let mut rights = RightsClient::new(keyserver.channel().await);
    let before = now();
    let request = viewer.call(&keyserver, question(32));
    let answer = rights.check_in(request).await.expect("the time").into_inner();
    let signed = Signed::<ServerTime>::try_from(answer.time.expect("signed")).expect("well formed");
    let server = keyserver.id.parse().expect("an id");
    let told = ServerTime::verify(&signed, &server, &[7; 32]).expect("the answer to this question");
    assert!((before..=now()).contains(&told));
    assert_eq!(ServerTime::verify(&signed, &server, &[8; 32]), Err(TimeError::OtherNonce), "not to another");

    let short = rights.check_in(viewer.call(&keyserver, question(31))).await;
    let short = short.expect_err("no nonce");
    assert_eq!((short.code(), reason(&short).as_str()), (Code::InvalidArgument, "E-FIELD-01"));
    let stranger = rights.check_in(Request::new(question(32))).await;
    assert_eq!(stranger.expect_err("nobody").code(), Code::Unauthenticated);
}
