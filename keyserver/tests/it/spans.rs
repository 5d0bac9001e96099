//! Keys that leave span by span, and previews, at a real keyserver.

use std::ops::Range;
use std::time::Duration;

use swarm_proto::catalog::CatalogEntry;
use swarm_proto::drip::{Drip, Preview};
use swarm_proto::geometry::Geometry;
use swarm_proto::id::OrderId;
use swarm_proto::keyserver::ledger::MAX_PREVIEWS_A_DAY;
use swarm_proto::membership::DeviceKind;
use swarm_proto::pb::common;
use swarm_proto::pb::keyserver as pb;
use swarm_proto::pb::keyserver::shop_client::ShopClient;
use swarm_proto::pb::keyserver::spans_client::SpansClient;
use swarm_proto::seal::{Released, SpanKeys};
use swarm_proto::span_tree::{SpanCommitment, SpanTree};
use swarm_proto::wrap::{self, Label};
use tonic::{Code, Status};

use crate::film::Film;
use crate::process::Process;
use crate::world::{Device, World, now, reason};

const KEY: &str = "a-purchase-of-the-tests";
const N_SPANS: u32 = 100;

/// A film of a hundred spans whose offer "rent" drips, one key in ten seconds, and has a preview of three spans.
fn entry(world: &World) -> CatalogEntry {
    let geometry = Geometry::of_plain(u64::from(N_SPANS) * (16 << 20) - (1 << 20)).expect("a length");
    assert_eq!(geometry.n_spans(), N_SPANS);
    let mut entry = CatalogEntry { geometry, span_commitment: Some(commitment(&world.film)), ..world.entry() };
    entry.offers[0].policy.drip = Some(Drip::new(Duration::from_secs(10), 8).expect("a pace"));
    entry.offers[0].preview = Some(Preview::new(Duration::from_secs(60), 3).expect("a preview"));
    entry
}

fn commitment(film: &Film) -> SpanCommitment {
    SpanTree::of(&film.key, N_SPANS).expect("spans").commitment()
}

/// A keyserver that has sold the film to a household, and the order.
async fn sold(world: &World, viewer: &Device) -> (Process, Vec<u8>) {
    let keyserver = world.home.start();
    world.deposit_entry(&keyserver, &entry(world), &world.film.key).await.expect("deposited");
    let shop = viewer.shop(&keyserver).await;
    let order = shop.order(KEY, world.film.item, "rent").await.expect("ordered").order;
    let code = world.home.ask(&["pass", "create", "--credits", "1", "--valid", "1d"]);
    shop.pay(&order, code["code"].as_str().expect("a code")).await.expect("paid");
    (keyserver, order)
}

/// Asks for a licence; that it brings no key.
async fn licence(viewer: &Device, keyserver: &Process, order: &[u8]) -> Result<(), Status> {
    let mut shop = ShopClient::new(keyserver.channel().await);
    let request = pb::RequestGrantRequest { order: order.to_vec() };
    let grant = shop.request_grant(viewer.call(keyserver, request)).await?.into_inner();
    assert!(grant.key.is_none(), "no key leaves with the licence");
    Ok(())
}

async fn ask(
    viewer: &Device,
    keyserver: &Process,
    order: &[u8],
    spans: Range<u32>,
) -> Result<pb::ReleasedSpans, Status> {
    let request = pb::ReleaseSpansRequest {
        order: order.to_vec(),
        spans: Some(common::SpanRange { first: spans.start, count: spans.len() as u32 }),
        device_name: "living room".to_owned(),
    };
    let mut client = SpansClient::new(keyserver.channel().await);
    Ok(client.release_spans(viewer.call(keyserver, request)).await?.into_inner())
}

async fn preview(viewer: &Device, keyserver: &Process, film: &Film) -> Result<pb::ReleasedSpans, Status> {
    let request = pb::GetPreviewRequest { item: film.item.to_vec() };
    let mut client = SpansClient::new(keyserver.channel().await);
    Ok(client.get_preview(viewer.call(keyserver, request)).await?.into_inner())
}

/// What a box makes of an answer: unwrapped, and proven by the publisher's commitment.
fn opened(world: &World, viewer: &Device, order: Option<&[u8]>, answer: pb::ReleasedSpans) -> SpanKeys {
    let range = answer.spans.expect("spans");
    let spans = range.first..range.first + range.count;
    let order = order.map(|order| OrderId::try_from(order).expect("an id"));
    let (device, commitment) = (viewer.membership.device, commitment(&world.film));
    let aad = wrap::span_keys_aad(order.as_ref(), &device, &world.film.item, &commitment, &spans);
    let wrapped = answer.keys.expect("keys").try_into().expect("well formed");
    let secret = wrap::unwrap(&viewer.hpke, Label::SpanKeys, &aad, &wrapped).expect("wrapped to this device");
    let Ok(Released::Spans(keys)) = Released::decode(&secret, &world.film.key.commitment()) else {
        panic!("keys of spans")
    };
    let siblings: Vec<[u8; 32]> =
        answer.siblings.iter().map(|value| value.as_slice().try_into().expect("32 bytes")).collect();
    assert!(commitment.proves(N_SPANS, &keys, &siblings), "the publisher has committed to them");
    assert_eq!(keys.range(), spans);
    keys
}

#[tokio::test]
async fn keys_of_a_film_that_drips_leave_as_it_plays_and_never_ahead_of_their_pace() {
    let world = World::new();
    let viewer = world.household();
    let (keyserver, order) = sold(&world, &viewer).await;
    let early = ask(&viewer, &keyserver, &order, 0..1).await.expect_err("no licence yet");
    assert_eq!(reason(&early), "NO_GRANT");
    licence(&viewer, &keyserver, &order).await.expect("granted");

    let first = ask(&viewer, &keyserver, &order, 0..3).await.expect("released");
    opened(&world, &viewer, Some(&order), first);
    let elsewhere = ask(&viewer, &keyserver, &order, 70..71).await.expect("released");
    assert_eq!(opened(&world, &viewer, Some(&order), elsewhere).range(), 70..71, "a jump gets what it jumps to");
    let more = ask(&viewer, &keyserver, &order, 3..67).await.expect("released");
    let more = opened(&world, &viewer, Some(&order), more).range();
    assert!((4..=6).contains(&more.len()), "no more than the look-ahead: {more:?}");
    let none = ask(&viewer, &keyserver, &order, 8..9).await.expect("an answer");
    assert!(none.spans.is_none() && none.keys.is_none() && none.siblings.is_empty());
    assert!((1..=10_000).contains(&none.again_in_ms), "{}", none.again_in_ms);

    for wrong in [0..0, 0..65, 99..101] {
        let refused = ask(&viewer, &keyserver, &order, wrong.clone()).await.expect_err("no such spans");
        assert_eq!((refused.code(), reason(&refused).as_str()), (Code::InvalidArgument, "E-FIELD-01"), "{wrong:?}");
    }
    assert_eq!(world.home.records("granted"), 1);
    assert_eq!(world.home.records("first_played"), 1, "keys that leave are a viewing that has begun");
    assert_eq!(world.home.records("spans_allowed"), 1, "one record covers them all");
}

#[tokio::test]
async fn each_release_is_judged_anew() {
    let world = World::with(&["play.devices_at_a_time=1"]);
    let viewer = world.household();
    let other = world.device_of(viewer.account(), DeviceKind::Box);
    let (keyserver, order) = sold(&world, &viewer).await;
    for device in [&viewer, &other] {
        licence(device, &keyserver, &order).await.expect("granted");
    }
    ask(&viewer, &keyserver, &order, 0..1).await.map(drop).expect("released");
    let second = ask(&other, &keyserver, &order, 0..1).await.expect_err("one device plays");
    assert_eq!(reason(&second), "TOO_MANY_PLAYING");
    let stranger = world.household();
    assert_eq!(reason(&ask(&stranger, &keyserver, &order, 0..1).await.expect_err("not theirs")), "E-ORDER-06");

    let keyserver = {
        keyserver.kill();
        world.home.start()
    };
    ask(&viewer, &keyserver, &order, 1..2).await.map(drop).expect("it goes on after a restart in the middle");
    let device = viewer.membership.device.to_string();
    let code = OrderId::try_from(order.as_slice()).expect("an id").to_string();
    world.home.ask(&["grant", "withdraw", &code, &device, "--reason", "sent back"]);
    let gone = ask(&viewer, &keyserver, &order, 2..3).await.expect_err("taken back");
    assert_eq!(reason(&gone), "NO_GRANT", "in the middle of the film");
    world.home.ask(&["order", "refund", &code, "--reason", "a test"]);
    let refunded = ask(&other, &keyserver, &order, 2..3).await.expect_err("refunded");
    assert_eq!(reason(&refunded), "ORDER_REFUNDED");
    world.home.ask(&["audit", "verify"]);
}

#[tokio::test]
async fn preview_is_for_everyone_and_never_more_than_the_beginning() {
    let world = World::new();
    let viewer = world.household();
    let keyserver = world.home.start();
    world.deposit_entry(&keyserver, &entry(&world), &world.film.key).await.expect("deposited");
    for _ in 0..3 {
        let answer = preview(&viewer, &keyserver, &world.film).await.expect("for nothing");
        assert_eq!(opened(&world, &viewer, None, answer).range(), 0..3);
    }
    assert_eq!(world.home.records("preview_given"), 1, "the same one again is not counted again");
    let seed = world.device_of(viewer.account(), DeviceKind::Seed);
    assert_eq!(reason(&preview(&seed, &keyserver, &world.film).await.expect_err("plays nothing")), "E-GRANT-01");

    let plain = World { film: Film::new(now()), home: world.home, ..world };
    plain.deposit(&keyserver).await.expect("deposited");
    let none = preview(&viewer, &keyserver, &plain.film).await.expect_err("no preview");
    assert_eq!((none.code(), reason(&none).as_str()), (Code::FailedPrecondition, "NO_PREVIEW"));
}

#[tokio::test]
async fn a_device_has_so_many_previews_a_day_also_after_a_restart() {
    let mut world = World::new();
    let viewer = world.household();
    let mut keyserver = world.home.start();
    for n in 0..=MAX_PREVIEWS_A_DAY {
        world.film = Film::new(now());
        world.deposit_entry(&keyserver, &entry(&world), &world.film.key).await.expect("deposited");
        if n == MAX_PREVIEWS_A_DAY {
            keyserver.kill();
            keyserver = world.home.start();
            let refused = preview(&viewer, &keyserver, &world.film).await.expect_err("enough for a day");
            assert_eq!(reason(&refused), "TOO_MANY_PREVIEWS");
            let neighbour = world.household();
            preview(&neighbour, &keyserver, &world.film).await.map(drop).expect("others are not held up");
        } else {
            preview(&viewer, &keyserver, &world.film).await.map(drop).expect("for nothing");
        }
    }
}

#[tokio::test]
async fn deposit_is_refused_whose_span_keys_are_not_those_of_its_key() {
    let world = World::new();
    let keyserver = world.home.start();
    let forged = CatalogEntry { span_commitment: Some(commitment(&Film::new(now()))), ..entry(&world) };
    let refused = world.deposit_entry(&keyserver, &forged, &world.film.key).await.expect_err("forged");
    assert_eq!(reason(&refused), "E-DEPOSIT-07");
}
