//! `kill -9` at any moment, and disks that are full.

use std::fs;
use std::time::Duration;

use rustix::process::{Resource, Rlimit};
use swarm_proto::pb::keyserver::OrderState;
use tokio::task::JoinSet;
use tonic::Code;

use crate::process::Process;
use crate::world::{TillMessage, World, get, now, paid_body, reason};

/// How long the keyserver may take to notice that the disk has room again: it tries once a second.
const RECOVERS_WITHIN: Duration = Duration::from_secs(20);

#[tokio::test]
async fn a_purchase_survives_a_kill_between_any_two_steps() {
    let world = World::new();
    let viewer = world.household();
    let mut code = None;
    // Each life of the keyserver repeats everything from the beginning and gets one step further.
    for life in 1..=4 {
        let keyserver = world.home.start();
        world.deposit(&keyserver).await.expect("deposited");
        let shop = viewer.shop(&keyserver).await;
        if life >= 2 {
            let order = shop.order("one-purchase-many-lives", world.film.item, "rent").await.expect("ordered");
            let made = || {
                world.home.ask(&["pass", "create", "--credits", "1", "--valid", "1d"])["code"]
                    .as_str()
                    .expect("a code")
                    .to_owned()
            };
            let code = code.get_or_insert_with(made);
            if life >= 3 {
                shop.pay(&order.order, code).await.expect("paid");
            }
            if life >= 4 {
                shop.grant(&order.order).await.expect("granted");
            }
        }
        keyserver.kill();
    }
    let keyserver = world.home.start();
    let shop = viewer.shop(&keyserver).await;
    let order = shop.order("one-purchase-many-lives", world.film.item, "rent").await.expect("ordered");
    assert_eq!(order.state(), OrderState::Granted);
    assert_eq!(shop.grant(&order.order).await.expect("granted").licence.serial, 1);
    for kind in ["key_deposited", "order_created", "pass_created", "pass_redeemed", "granted"] {
        assert_eq!(world.home.records(kind), 1, "{kind}");
    }
}

#[tokio::test]
async fn nothing_acknowledged_is_lost_when_killed_under_load() {
    const ASKED: usize = 40;
    let world = World::new();
    let viewer = world.household();
    let mut acknowledged = Vec::new();
    for acknowledged_before_kill in [1, 5, 13, 29] {
        let keyserver = world.home.start();
        world.deposit(&keyserver).await.expect("deposited");
        let mut asking = JoinSet::new();
        for n in 0..ASKED {
            let key = format!("purchase-under-load-{n:02}");
            let request = viewer.call(
                &keyserver,
                swarm_proto::pb::keyserver::CreateOrderRequest {
                    idempotency_key: key.clone(),
                    item: world.film.item.to_vec(),
                    offer: "rent".to_owned(),
                },
            );
            let mut client = viewer.shop(&keyserver).await.client;
            asking
                .spawn(async move { client.create_order(request).await.map(|order| (key, order.into_inner().order)) });
        }
        for _ in 0..acknowledged_before_kill {
            acknowledged.push(asking.join_next().await.expect("asked").expect("no panic").expect("ordered"));
        }
        keyserver.kill();
        // Answers that were under way when it died count too.
        while let Some(answer) = asking.join_next().await {
            acknowledged.extend(answer.expect("no panic"));
        }
    }
    let keyserver = world.home.start();
    let shop = viewer.shop(&keyserver).await;
    for (key, order) in &acknowledged {
        assert_eq!(&shop.order(key, world.film.item, "rent").await.expect("found").order, order);
    }
    assert!(world.home.records("order_created") <= ASKED as u64, "one order for each key");
}

#[tokio::test]
async fn on_a_full_disk_nothing_is_sold_and_all_goes_on_when_it_is_freed() {
    let world = World::new();
    let keyserver = world.home.start();
    world.deposit(&keyserver).await.expect("deposited");
    let viewer = world.household();
    let shop = viewer.shop(&keyserver).await;
    let order = shop.order("before-the-disk-was-full", world.film.item, "rent").await.expect("ordered");
    let secret = world.home.ask(&["webhook", "secret", "new"])["secret"].as_str().expect("a secret").to_owned();
    let paid = TillMessage::signed(&secret, "evt_1", now().as_secs(), &paid_body(&order, viewer.account()));

    let size = fs::metadata(world.home.file("journal")).expect("a journal").len();
    limit_file_size(&keyserver, Some(size + 10));
    let refused = shop.order("while-the-disk-is-full", world.film.item, "rent").await.expect_err("no room");
    assert_eq!((refused.code(), reason(&refused).as_str()), (Code::Unavailable, "E-AUDIT-01"));
    assert_eq!(paid.send(&keyserver).await.0, 503, "the till will say it again");
    let refused = shop.grant(&order.order).await.err().expect("no grants without a journal");
    assert_eq!(reason(&refused), "E-AUDIT-01");
    assert_eq!(shop.look(&order.order).await.expect("questions are answered").state(), OrderState::Pending);
    assert_eq!(get(&keyserver, "/readyz").await.0, 503);

    limit_file_size(&keyserver, None);
    let recovered = async {
        while paid.send(&keyserver).await.0 != 200 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(RECOVERS_WITHIN, recovered).await.expect("it goes on by itself");
    assert!(shop.grant(&order.order).await.is_ok());
    assert_eq!(get(&keyserver, "/readyz").await.0, 200);
    assert_eq!(world.home.records("order_created"), 1, "what was refused did not happen");
    assert_eq!(keyserver.stop().await, 143);
}

fn limit_file_size(keyserver: &Process, bytes: Option<u64>) {
    let limits = Rlimit { current: bytes, maximum: rustix::process::getrlimit(Resource::Fsize).maximum };
    rustix::process::prlimit(Some(keyserver.pid()), Resource::Fsize, limits).expect("our own child");
}
