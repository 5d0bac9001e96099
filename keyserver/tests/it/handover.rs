//! A keyserver changes the key it signs with, and nobody has to wait for it or believe a stranger.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use swarm_proto::call::CallToken;
use swarm_proto::id::ServerId;
use swarm_proto::licence::Licence;
use swarm_proto::pb::keyserver as pb;
use swarm_proto::pb::keyserver::deposits_client::DepositsClient;
use swarm_proto::pb::keyserver::shop_client::ShopClient;
use swarm_proto::signed::Signed;
use swarm_proto::succession::Lineage;
use tonic::{Code, Request};

use crate::process::Process;
use crate::world::{Device, World, now};

fn id_of(keyserver: &Process) -> ServerId {
    keyserver.id.parse().expect("an id")
}

/// What a box does that knows this much of the keyserver.
async fn greeted(keyserver: &Process, known: &Lineage) -> Lineage {
    let request = pb::GetKeyserverRequest { known: known.current().to_vec() };
    let info = DepositsClient::new(keyserver.channel().await).get_keyserver(request).await.expect("it answers");
    let info = info.into_inner();
    let mut followed = known.clone();
    for succession in info.successions {
        followed.hand_over(succession.try_into().expect("well formed")).expect("it follows");
    }
    assert_eq!(followed.current().to_vec(), info.server);
    followed
}

/// Something that was bought: it can be asked for again and again.
struct Bought {
    viewer: Device,
    order: Vec<u8>,
}

impl Bought {
    async fn by(world: &World, keyserver: &Process, key: &str) -> Bought {
        world.deposit(keyserver).await.expect("deposited");
        let code = world.home.ask(&["pass", "create", "--credits", "1", "--valid", "1d"]);
        let viewer = world.household();
        let shop = viewer.shop(keyserver).await;
        let order = shop.order(key, world.film.item, "rent").await.expect("ordered").order;
        shop.pay(&order, code["code"].as_str().expect("a code")).await.expect("paid");
        drop(shop);
        Bought { viewer, order }
    }

    /// The licence, as it comes when the keyserver is called by this name.
    async fn licence(&self, keyserver: &Process, name: ServerId) -> Result<Signed<Licence>, tonic::Status> {
        let mut request = Request::new(pb::RequestGrantRequest { order: self.order.clone() });
        let token = CallToken::sign(&self.viewer.key, name, now()).expect("signed");
        request.metadata_mut().insert("reelswarm-call", token.to_text().parse().expect("text"));
        request.metadata_mut().insert("reelswarm-membership", self.viewer.vouched.to_text().parse().expect("text"));
        let granted = ShopClient::new(keyserver.channel().await).request_grant(request).await?.into_inner();
        Ok(granted.licence.expect("a licence").try_into().expect("well formed"))
    }
}

#[tokio::test]
async fn the_signing_key_changes_under_load_and_no_call_fails() {
    let world = World::new();
    let keyserver = world.home.start();
    let met = Lineage::founded_by(id_of(&keyserver));
    let bought = Arc::new(Bought::by(&world, &keyserver, "before-any-change-of-the-key").await);
    let first = bought.licence(&keyserver, met.current()).await.expect("granted");
    let (keyserver, done) = (Arc::new(keyserver), Arc::new(AtomicBool::new(false)));
    let asking = (0..4).map(|_| {
        let (keyserver, bought, done, mut known) = (keyserver.clone(), bought.clone(), done.clone(), met.clone());
        tokio::spawn(async move {
            let mut answers = 0;
            while !done.load(Ordering::Relaxed) || answers == 0 {
                // Greets and asks, as a box does, which can meet a change in between.
                known = greeted(&keyserver, &known).await;
                let licence = bought.licence(&keyserver, known.current()).await.expect("every call is answered");
                known = greeted(&keyserver, &known).await;
                known.verify_kept(&licence).expect("signed by a key of the keyserver");
                answers += 1;
            }
        })
    });
    let asking: Vec<_> = asking.collect();
    for changes in 1..=3 {
        let before = id_of_folder(&world);
        let home = world.home.command(&["key", "rotate", "signing"]);
        assert!(home.status.success(), "{}", String::from_utf8_lossy(&home.stderr));
        let rotated: serde_json::Value = serde_json::from_slice(&home.stdout).expect("JSON");
        assert_eq!(rotated["before"], before);
        assert_eq!(rotated["id"], id_of_folder(&world));
        assert_ne!(rotated["id"], rotated["before"], "change {changes}");
    }
    done.store(true, Ordering::Relaxed);
    for each in asking {
        each.await.expect("nothing was refused");
    }
    let known = greeted(&keyserver, &met).await;
    assert_eq!(known.successions().len(), 3);
    let last = bought.licence(&keyserver, known.current()).await.expect("granted");
    assert_eq!(last.signer(), known.current());
    for licence in [&first, &last] {
        assert_eq!(known.verify_kept(licence).expect("it still counts").serial, 1);
    }
    assert_eq!(world.home.records("signing_key_changed"), 3);
}

/// The id that `keyserver id` prints.
fn id_of_folder(world: &World) -> String {
    world.home.ask(&["id"])["id"].as_str().expect("text").to_owned()
}

#[tokio::test]
async fn after_a_change_the_new_key_is_found_again_and_the_old_one_is_gone() {
    let world = World::new();
    let keyserver = world.home.start();
    let met = Lineage::founded_by(id_of(&keyserver));
    let bought = Bought::by(&world, &keyserver, "before-the-only-change-of-key").await;
    let old = fs::read(world.home.file("identity.key")).expect("readable");
    world.home.ask(&["key", "rotate", "signing"]);
    for path in world.home.files() {
        let bytes = fs::read(&path).expect("readable");
        assert!(!bytes.windows(32).any(|window| window == old), "{} has the old key", path.display());
    }
    let stranger = Lineage::founded_by(ServerId::from([7; 32]));
    let info = DepositsClient::new(keyserver.channel().await);
    let told = info.clone().get_keyserver(pb::GetKeyserverRequest { known: stranger.current().to_vec() }).await;
    assert!(told.expect("an answer").into_inner().successions.is_empty(), "nothing leads there from a stranger");
    assert_eq!(keyserver.stop().await, 143);

    let keyserver = world.home.start();
    let known = greeted(&keyserver, &met).await;
    assert_eq!((known.current(), known.successions().len()), (id_of(&keyserver), 1));
    let licence = bought.licence(&keyserver, met.current()).await.expect("the name before holds for a while");
    assert_eq!(licence.signer(), known.current());
    let refused = bought.licence(&keyserver, stranger.current()).await.expect_err("another server is meant");
    assert_eq!(refused.code(), Code::Unauthenticated);
    assert_eq!(keyserver.stop().await, 143);

    let new = fs::read(world.home.file("identity.key")).expect("readable");
    fs::write(world.home.file("identity.key"), old).expect("writable");
    assert_eq!(world.home.try_start().err(), Some(7), "the old key does not come back");
    assert!(fs::read_to_string(world.home.log()).expect("a log").contains("E-VAULT-12"));
    fs::write(world.home.file("identity.key"), new).expect("writable");
    drop(world.home.start());
}

#[tokio::test]
async fn a_change_of_the_signing_key_that_is_cut_off_has_happened_or_has_not() {
    let places = [
        ("handover-begun", false),
        ("signing_key_changed-decided", false),
        ("record-half-written", false),
        ("signing_key_changed-durable", true),
        ("handover-in-place", true),
        ("handover-complete", true),
    ];
    let world = World::new();
    let keyserver = world.home.start();
    let mut known = Lineage::founded_by(id_of(&keyserver));
    let bought = Bought::by(&world, &keyserver, "before-every-change-of-the-key").await;
    assert_eq!(keyserver.stop().await, 143);
    for (place, happened) in places {
        let keyserver = world.home.start_to_crash_at(place).expect("it is passed when the key changes");
        assert!(!world.home.command(&["key", "rotate", "signing"]).status.success(), "{place}");
        keyserver.crashed().await;
        let keyserver = world.home.start();
        let before = known.current();
        known = greeted(&keyserver, &known).await;
        assert_eq!(known.current() != before, happened, "{place}");
        assert_eq!(known.current(), id_of(&keyserver), "{place}");
        assert!(!world.home.file("identity.key.next").exists(), "{place}");
        let licence = bought.licence(&keyserver, known.current()).await.expect("granted");
        assert_eq!(licence.signer(), known.current(), "{place}");
        assert_eq!(keyserver.stop().await, 143);
    }
    assert_eq!(world.home.records("signing_key_changed"), 3);
}
