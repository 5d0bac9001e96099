//! From deposit to grant, for devices that are who they say and for others.

use futures::future::join_all;
use swarm_proto::call::CallToken;
use swarm_proto::catalog::CatalogEntry;
use swarm_proto::id::AccountId;
use swarm_proto::membership::{DeviceKind, Membership};
use swarm_proto::pb::common;
use swarm_proto::pb::keyserver as pb;
use swarm_proto::pb::keyserver::OrderState;
use swarm_proto::seal::ContentKey;
use swarm_proto::signed::{Signed, SigningKey, Statement};
use tonic::Code;

use crate::world::{Device, Film, World, get, now, reason, rng};

const KEY: &str = "a-purchase-of-the-tests";

#[tokio::test]
async fn a_pass_pays_and_the_key_opens_for_the_device_that_asked() {
    let world = World::new();
    let keyserver = world.home.start();
    assert!(!world.deposit(&keyserver).await.expect("deposited"));
    assert!(world.deposit(&keyserver).await.expect("the same again is fine"));

    let viewer = world.household();
    let shop = viewer.shop(&keyserver).await;
    let request = viewer.call(&keyserver, pb::GetOffersRequest { item: world.film.item.to_vec() });
    let offers = shop.client.clone().get_offers(request).await;
    assert_eq!(offers.expect("offers").into_inner().offers.len(), 2);
    let order = shop.order(KEY, world.film.item, "rent").await.expect("ordered");
    assert_eq!((order.state(), order.paid_utc_ms), (OrderState::Pending, None));
    let refused = shop.grant(&order.order).await.err().expect("not paid");
    assert_eq!((refused.code(), reason(&refused).as_str()), (Code::FailedPrecondition, "PAYMENT_REQUIRED"));

    let pass = world.home.ask(&["pass", "create", "--credits", "2", "--valid", "1d"]);
    let code = pass["code"].as_str().expect("a code").to_lowercase().replace('-', " ");
    let paid = shop.pay(&order.order, &code).await.expect("paid");
    assert_eq!((paid.state(), paid.paid_by.as_str()), (OrderState::Paid, "pass"));
    let unlocked = shop.grant(&order.order).await.expect("granted");
    assert_eq!(unlocked.key.expose(), world.film.key.expose());
    assert_eq!(unlocked.key.commitment(), world.film.key.commitment());
    assert_eq!((unlocked.licence.device, unlocked.licence.item), (viewer.key.device_id(), world.film.item));

    let again = shop.grant(&order.order).await.expect("granted again");
    assert_eq!(again.licence, unlocked.licence);
    assert_eq!(shop.pay(&order.order, &code).await.expect("paid already").state(), OrderState::Granted);
    let left =
        shop.client.clone().get_pass(viewer.call(&keyserver, pb::GetPassRequest { code })).await.expect("a pass");
    assert_eq!((left.get_ref().credits_bought, left.get_ref().credits_left), (2, 1));
    let all = shop
        .client
        .clone()
        .list_orders(viewer.call(&keyserver, pb::ListOrdersRequest { page_size: 500, ..Default::default() }))
        .await
        .expect("a list");
    assert_eq!(all.into_inner().orders.len(), 1);
    assert_eq!((world.home.records("granted"), world.home.records("pass_redeemed")), (1, 1));
}

#[tokio::test]
async fn one_credit_pays_one_of_sixty_four_orders() {
    let world = World::with(&["orders.open_per_account=64"]);
    let keyserver = world.home.start();
    world.deposit(&keyserver).await.expect("deposited");
    let viewer = world.household();
    let shop = viewer.shop(&keyserver).await;
    let orders = join_all((0..64).map(|n| {
        let shop = shop.clone();
        let item = world.film.item;
        async move { shop.order(&format!("purchase-of-many-{n:02}"), item, "rent").await.expect("ordered") }
    }))
    .await;
    let one_more = shop.order("purchase-one-too-many", world.film.item, "rent").await.expect_err("too many open");
    assert_eq!((one_more.code(), reason(&one_more).as_str()), (Code::ResourceExhausted, "E-ORDER-04"));
    let pass = world.home.ask(&["pass", "create", "--credits", "1", "--valid", "1d"]);
    let code = pass["code"].as_str().expect("a code");

    let outcomes = join_all(orders.iter().map(|order| shop.pay(&order.order, code))).await;
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 1);
    for refused in outcomes.iter().filter_map(|outcome| outcome.as_ref().err()) {
        assert_eq!((refused.code(), reason(refused).as_str()), (Code::FailedPrecondition, "PASS_EMPTY"));
    }
    let grants = join_all(orders.iter().map(|order| shop.grant(&order.order))).await;
    assert_eq!(grants.iter().filter(|grant| grant.is_ok()).count(), 1);
    assert_eq!((world.home.records("pass_redeemed"), world.home.records("granted")), (1, 1));
}

#[tokio::test]
async fn five_clicks_make_one_order() {
    let world = World::new();
    let keyserver = world.home.start();
    world.deposit(&keyserver).await.expect("deposited");
    let viewer = world.household();
    let shop = viewer.shop(&keyserver).await;
    let clicks = join_all((0..5).map(|_| shop.order(KEY, world.film.item, "rent"))).await;
    let first = clicks[0].as_ref().expect("ordered");
    assert!(clicks.iter().all(|click| click.as_ref().is_ok_and(|order| order.order == first.order)));
    let other = shop.order(KEY, world.film.item, "soon").await.expect_err("another request");
    assert_eq!((other.code(), reason(&other).as_str()), (Code::AlreadyExists, "E-ORDER-03"));
    assert_eq!(world.home.records("order_created"), 1);
}

#[tokio::test]
async fn orders_of_others_stay_theirs() {
    let world = World::new();
    let keyserver = world.home.start();
    world.deposit(&keyserver).await.expect("deposited");
    let (viewer, neighbour) = (world.household(), world.household());
    let order = viewer.shop(&keyserver).await.order(KEY, world.film.item, "rent").await.expect("ordered");
    let shop = neighbour.shop(&keyserver).await;
    let code = world.home.ask(&["pass", "create", "--credits", "1", "--valid", "1d"])["code"]
        .as_str()
        .expect("a code")
        .to_owned();
    let refusals = [
        shop.look(&order.order).await.expect_err("not theirs"),
        shop.pay(&order.order, &code).await.expect_err("not theirs"),
        shop.grant(&order.order).await.err().expect("not theirs"),
    ];
    for refused in refusals {
        assert_eq!((refused.code(), reason(&refused).as_str()), (Code::PermissionDenied, "E-ORDER-06"));
    }
    let unknown = shop.look(&[0; 16]).await.expect_err("nobody's");
    assert_eq!(unknown.code(), Code::NotFound);
}

#[tokio::test]
async fn only_boxes_get_keys_and_only_in_the_viewing_period() {
    let world = World::new();
    let keyserver = world.home.start();
    world.deposit(&keyserver).await.expect("deposited");
    let viewer = world.household();
    let shop = viewer.shop(&keyserver).await;
    let code = world.home.ask(&["pass", "create", "--credits", "2", "--valid", "1d"])["code"]
        .as_str()
        .expect("a code")
        .to_owned();
    let soon = shop.order("a-purchase-for-tomorrow", world.film.item, "soon").await.expect("ordered");
    shop.pay(&soon.order, &code).await.expect("paid");
    let early = shop.grant(&soon.order).await.err().expect("tomorrow");
    assert_eq!((early.code(), reason(&early).as_str()), (Code::FailedPrecondition, "TOO_EARLY"));

    let order = shop.order(KEY, world.film.item, "rent").await.expect("ordered");
    shop.pay(&order.order, &code).await.expect("paid");
    let seed = world.device_of(viewer.account(), DeviceKind::Seed);
    let refused = seed.shop(&keyserver).await.grant(&order.order).await.err().expect("a seed");
    assert_eq!((refused.code(), reason(&refused).as_str()), (Code::PermissionDenied, "E-GRANT-01"));
    let second_box = world.device_of(viewer.account(), DeviceKind::Box);
    assert!(second_box.shop(&keyserver).await.grant(&order.order).await.is_ok());

    let order_id = swarm_proto::id::OrderId::try_from(order.order.as_slice()).expect("an id").to_string();
    world.home.ask(&["order", "refund", &order_id, "--reason", "charged back"]);
    let refunded = shop.grant(&order.order).await.err().expect("refunded");
    assert_eq!(reason(&refunded), "ORDER_REFUNDED");
}

#[tokio::test]
async fn callers_who_do_not_prove_who_they_are_get_nothing() {
    let world = World::new();
    let keyserver = world.home.start();
    let viewer = world.household();
    let shop = viewer.shop(&keyserver).await;
    let list = || pb::ListOrdersRequest { page_size: 10, ..Default::default() };

    let stranger = SigningKey::generate(&mut rng());
    let elsewhere = Device::enrolled_by(&stranger, AccountId::generate(&mut rng()), DeviceKind::Box);
    let expired =
        Membership { expires: now(), issued: swarm_proto::time::Utc::from_secs(1), ..viewer.membership.clone() };
    let expired = Device { vouched: Signed::sign(&world.tracker, &expired).expect("signed"), ..world.household() };
    let borrowed = Device { vouched: viewer.vouched.clone(), ..world.household() };
    let mut bare = viewer.call(&keyserver, list());
    bare.metadata_mut().remove("reelswarm-membership");
    let mut unsigned = viewer.call(&keyserver, list());
    unsigned.metadata_mut().remove("reelswarm-call");
    let mut for_another = viewer.call(&keyserver, list());
    let token = CallToken::sign(&viewer.key, stranger.server_id(), now()).expect("signed");
    for_another.metadata_mut().insert("reelswarm-call", token.to_text().parse().expect("text"));
    let mut old = viewer.call(&keyserver, list());
    let token =
        CallToken::sign(&viewer.key, keyserver.id.parse().expect("an id"), swarm_proto::time::Utc::from_secs(1))
            .expect("signed");
    old.metadata_mut().insert("reelswarm-call", token.to_text().parse().expect("text"));
    let mut doubled = viewer.call(&keyserver, list());
    doubled.metadata_mut().append("reelswarm-membership", viewer.vouched.to_text().parse().expect("text"));

    let calls = [
        elsewhere.call(&keyserver, list()),
        expired.call(&keyserver, list()),
        borrowed.call(&keyserver, list()),
        bare,
        unsigned,
        for_another,
        old,
        doubled,
    ];
    for (n, call) in calls.into_iter().enumerate() {
        let refused = shop.client.clone().list_orders(call).await.expect_err("not known");
        assert_eq!((refused.code(), reason(&refused).as_str()), (Code::Unauthenticated, "E-CALL-01"), "call {n}");
    }
    assert!(shop.client.clone().list_orders(viewer.call(&keyserver, list())).await.is_ok());
}

#[tokio::test]
async fn a_page_of_nothing_or_of_too_much_is_refused_by_name() {
    let world = World::new();
    let keyserver = world.home.start();
    let viewer = world.household();
    let shop = viewer.shop(&keyserver).await;
    for page_size in [0, 501, u32::MAX] {
        let call = viewer.call(&keyserver, pb::ListOrdersRequest { page_size, ..Default::default() });
        let refused = shop.client.clone().list_orders(call).await.expect_err("no such page");
        assert_eq!((refused.code(), reason(&refused).as_str()), (Code::InvalidArgument, "E-FIELD-01"));
        assert!(refused.message().contains("page_size"), "{}", refused.message());
    }
}

#[tokio::test]
async fn deposits_that_do_not_hold_are_refused_and_not_written() {
    let world = World::new();
    let keyserver = world.home.start();
    let other_key = ContentKey::generate(&mut rng());
    let refusal = world.deposit_entry(&keyserver, &world.entry(), &other_key).await.expect_err("another key");
    assert_eq!(reason(&refusal), "E-DEPOSIT-07");

    let stranger = World {
        publisher: SigningKey::generate(&mut rng()),
        home: crate::process::Home::new(&[]),
        tracker: world.tracker.clone(),
        film: Film::new(now()),
    };
    let refusal = stranger.deposit(&keyserver).await.expect_err("not admitted");
    assert_eq!((refusal.code(), reason(&refusal).as_str()), (Code::PermissionDenied, "E-DEPOSIT-01"));
    let claimed = CatalogEntry { publisher: world.publisher.publisher_id(), ..stranger.entry() };
    let payload = claimed.encode();
    let signature = stranger.publisher.sign_bytes(CatalogEntry::CONTEXT, &payload).to_vec();
    let forged = common::Signed { payload: payload.into(), signer: world.publisher.public().to_vec(), signature };
    let refusal = stranger.deposit_signed(&keyserver, &claimed, forged, &stranger.film.key).await.expect_err("forged");
    assert_eq!(reason(&refusal), "E-DEPOSIT-05");
    assert_eq!(world.home.records("key_deposited"), 0);

    assert!(!world.deposit(&keyserver).await.expect("deposited"));
    let swapped = CatalogEntry { commitment: other_key.commitment(), version: 2, ..world.entry() };
    let refusal = world.deposit_entry(&keyserver, &swapped, &other_key).await.expect_err("a key is there");
    assert_eq!((refusal.code(), reason(&refusal).as_str()), (Code::AlreadyExists, "E-DEPOSIT-02"));
    assert_eq!(world.home.records("key_deposited"), 1);
}

#[tokio::test]
async fn wrong_pass_codes_are_held_up_after_some() {
    let world = World::new();
    let keyserver = world.home.start();
    world.deposit(&keyserver).await.expect("deposited");
    let viewer = world.household();
    let shop = viewer.shop(&keyserver).await;
    let order = shop.order(KEY, world.film.item, "rent").await.expect("ordered");
    let mistyped = shop.pay(&order.order, "0000-0000-0000-0000-1").await.expect_err("mistyped");
    assert_eq!((mistyped.code(), reason(&mistyped).as_str()), (Code::InvalidArgument, "E-PASS-03"));
    let guess = || swarm_proto::code::PassCode::generate(&mut rng()).reveal().to_string();
    for _ in 0..10 {
        let refused = shop.pay(&order.order, &guess()).await.expect_err("a guess");
        assert_eq!((refused.code(), reason(&refused).as_str()), (Code::NotFound, "E-PASS-01"));
    }
    let code = world.home.ask(&["pass", "create", "--credits", "1", "--valid", "1d"])["code"]
        .as_str()
        .expect("a code")
        .to_owned();
    let held_up = shop.pay(&order.order, &code).await.expect_err("too many guesses");
    assert_eq!((held_up.code(), reason(&held_up).as_str()), (Code::ResourceExhausted, "E-PASS-02"));
    let neighbour = world.household();
    let theirs = neighbour.shop(&keyserver).await;
    let order = theirs.order(KEY, world.film.item, "rent").await.expect("ordered");
    assert!(theirs.pay(&order.order, &code).await.is_ok(), "others are not held up");
}

#[tokio::test]
async fn fields_that_break_a_rule_are_named() {
    let world = World::new();
    let keyserver = world.home.start();
    world.deposit(&keyserver).await.expect("deposited");
    let viewer = world.household();
    let shop = viewer.shop(&keyserver).await;
    let short = shop.order("short", world.film.item, "rent").await.expect_err("too short");
    assert_eq!(short.code(), Code::InvalidArgument);
    assert!(short.message().contains("idempotency_key"), "{short:?}");
    let cut = shop.look(&[1, 2, 3]).await.expect_err("not an id");
    assert!(cut.message().contains("order"), "{cut:?}");
    let no_offer = shop.order(KEY, world.film.item, "steal").await.expect_err("no such offer");
    assert_eq!((no_offer.code(), reason(&no_offer).as_str()), (Code::NotFound, "E-ORDER-02"));
    let no_item = shop.order(KEY, Film::new(now()).item, "rent").await.expect_err("no such item");
    assert_eq!(reason(&no_item), "E-ORDER-01");
}

#[tokio::test]
async fn page_shows_how_things_stand() {
    let world = World::new();
    let keyserver = world.home.start();
    let (status, page) = get(&keyserver, "/").await;
    assert_eq!(status, 200);
    assert!(page.contains("waiting for money") && page.contains(&keyserver.id), "{page}");
    assert!(page.contains("content-security-policy: default-src 'none'"), "{page}");
    assert_eq!(get(&keyserver, "/readyz").await.0, 200);
    assert_eq!(get(&keyserver, "/nothing").await.0, 404);
}

#[tokio::test]
async fn an_order_keeps_the_key_it_was_made_for_when_the_title_gets_another() {
    let world = World::new();
    let keyserver = world.home.start();
    world.deposit(&keyserver).await.expect("deposited");
    let viewer = world.household();
    let shop = viewer.shop(&keyserver).await;
    let code = world.home.ask(&["pass", "create", "--credits", "3", "--valid", "1d"]);
    let code = code["code"].as_str().expect("a code");
    let granted = shop.order("granted-before-the-new-key", world.film.item, "rent").await.expect("ordered").order;
    shop.pay(&granted, code).await.expect("paid");
    shop.grant(&granted).await.expect("granted");
    let open = shop.order("open-while-the-key-changes", world.film.item, "rent").await.expect("ordered").order;

    // The publisher seals the title anew: another item, another key, the next version of its entry.
    let sealed_anew = Film { title: world.film.title, ..Film::new(now()) };
    let mut entry = sealed_anew.entry(world.publisher.publisher_id());
    entry.version = 2;
    world.deposit_entry(&keyserver, &entry, &sealed_anew.key).await.expect("deposited");

    let new = shop.order("made-after-the-new-key-came", sealed_anew.item, "rent").await.expect("ordered").order;
    for (order, film) in [(&granted, &world.film), (&open, &world.film), (&new, &sealed_anew)] {
        shop.pay(order, code).await.expect("paid");
        let unlocked = shop.grant(order).await.expect("granted");
        assert_eq!((unlocked.licence.item, unlocked.key.expose()), (film.item, film.key.expose()));
    }
    assert_eq!(world.home.records("granted"), 3);
}
