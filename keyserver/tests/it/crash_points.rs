//! The power is cut at every place where it could hurt, and at random; afterwards everybody who was told something
//! still has it, and nobody has anything twice.

use std::sync::Arc;
use std::time::Duration;

use rand::RngExt;
use swarm_proto::id::OrderId;
use tokio::task::JoinSet;

use crate::history::{History, Told};
use crate::process::Process;
use crate::world::{Device, TillMessage, World, now, paid_body};

/// Places around each record: before it is written, when half of it is, when all of it is but not on disk, and on disk
/// but told to nobody.
const RECORDS: [&str; 5] = ["key_deposited", "order_created", "pass_redeemed", "payment_received", "granted"];
const ANY_RECORD: [&str; 6] = [
    "record-half-written:1",
    "record-half-written:4",
    "record-half-written:5",
    "record-written:1",
    "record-written:4",
    "record-written:5",
];
const TILL: [&str; 2] = ["webhook-verified", "webhook-durable"];
const VOLUMES: [&str; 6] =
    ["volume-begun", "volume-named", "volume-closed", "snapshot-half-written", "snapshot-written", "snapshot-named"];

/// Buyers at a time.
const LOAD: usize = 16;

fn sale_places() -> Vec<String> {
    let records = RECORDS.iter().flat_map(|kind| [format!("{kind}-decided"), format!("{kind}-durable")]);
    records.chain(ANY_RECORD.into_iter().chain(TILL).map(str::to_owned)).collect()
}

/// A shop whose customers do not give up: what they have begun they repeat until it is done.
struct Shop {
    world: World,
    history: Arc<History>,
    code: String,
    secret: String,
    buyers: Vec<Arc<Buyer>>,
}

struct Buyer {
    device: Device,
    /// Idempotency keys of the purchases.
    purchases: Vec<String>,
}

impl Shop {
    async fn new(settings: &[&str], buyers: usize, purchases: usize) -> Shop {
        let world = World::with(settings);
        let keyserver = world.home.start();
        let credits = (buyers * purchases).to_string();
        let made = world.home.ask(&["pass", "create", "--credits", &credits, "--valid", "1d"]);
        let secret = world.home.ask(&["webhook", "secret", "new"]);
        assert_eq!(keyserver.stop().await, 143);
        let text = |value: &serde_json::Value| value.as_str().expect("text").to_owned();
        let buyer = |n: usize| {
            let purchases = (0..purchases).map(|m| format!("purchase-{n:02}-{m:03}-of-many")).collect();
            Arc::new(Buyer { device: world.household(), purchases })
        };
        let buyers = (0..buyers).map(buyer).collect();
        Shop { history: Arc::default(), code: text(&made["code"]), secret: text(&secret["secret"]), buyers, world }
    }

    /// Lets everybody do what is left to do; true when all of it is done.
    async fn open(&self, keyserver: &Arc<Process>) -> bool {
        if self.world.deposit(keyserver).await.is_err() {
            return false;
        }
        let mut buying = JoinSet::new();
        for buyer in &self.buyers {
            let (buyer, keyserver, history) = (Arc::clone(buyer), Arc::clone(keyserver), Arc::clone(&self.history));
            let (code, secret, item) = (self.code.clone(), self.secret.clone(), self.world.film.item);
            buying.spawn(async move {
                let Some(channel) = keyserver.try_channel().await else { return false };
                let shop = buyer.device.shop_over(&keyserver, channel);
                for (n, key) in buyer.purchases.iter().enumerate() {
                    let Ok(order) = shop.order(key, item, "rent").await else { return false };
                    let id = OrderId::try_from(order.order.as_slice()).expect("an id");
                    history.note(Told::Ordered { key: key.clone(), order: id });
                    // Every other purchase is paid at a till.
                    let paid = match n % 2 {
                        0 => {
                            let body = paid_body(&order, buyer.device.account());
                            let message = TillMessage::signed(&secret, &format!("evt_{id}"), now().as_secs(), &body);
                            message.try_send(&keyserver).await.is_some_and(|(status, _)| status == 200)
                        }
                        _ => shop.pay(&order.order, &code).await.is_ok(),
                    };
                    if !paid {
                        return false;
                    }
                    history.note(Told::Paid { order: id });
                    let Ok(unlocked) = shop.grant(&order.order).await else { return false };
                    let (device, serial) = (unlocked.licence.device, unlocked.licence.serial);
                    history.note(Told::Granted { order: id, device, serial });
                }
                true
            });
        }
        buying.join_all().await.into_iter().all(|done| done)
    }

    /// Cuts the power at a place, then lets everybody finish; checks what they were told.
    async fn survive(&self, place: &str) {
        if let Some(keyserver) = self.world.home.start_to_crash_at(place) {
            let keyserver = Arc::new(keyserver);
            self.open(&keyserver).await;
            Arc::into_inner(keyserver).expect("everybody has left").crashed().await;
        }
        let keyserver = Arc::new(self.world.home.start());
        assert!(self.open(&keyserver).await, "after {place} everybody gets what they asked for");
        self.history.check(&self.world.home);
    }
}

async fn survive_each(places: impl IntoIterator<Item = String>, buyers: usize) {
    for place in places {
        let purchases = if buyers == 1 { 2 } else { 1 };
        Shop::new(&[], buyers, purchases.max(2)).await.survive(&place).await;
    }
}

#[tokio::test]
async fn a_purchase_survives_a_power_cut_at_every_place() {
    survive_each(sale_places(), 1).await;
}

#[tokio::test]
async fn purchases_of_a_crowd_survive_a_power_cut_at_every_place() {
    survive_each(sale_places(), LOAD).await;
}

#[tokio::test]
async fn closing_a_volume_and_taking_a_snapshot_survive_a_power_cut_at_every_place() {
    for buyers in [1, LOAD] {
        for place in VOLUMES {
            let shop = Shop::new(&["journal.volume=16 KiB"], buyers, 2 * LOAD / buyers).await;
            shop.survive(place).await;
            let verdict = shop.world.home.ask(&["audit", "verify"]);
            assert!(verdict["volumes"].as_u64().is_some_and(|volumes| volumes >= 1), "{place}: {verdict}");
        }
    }
}

/// Kills a shop under load so many times.
async fn survive_kills(kills: usize) {
    let shop = Shop::new(&["journal.volume=16 KiB"], LOAD, kills.div_ceil(4)).await;
    for _ in 0..kills {
        let keyserver = Arc::new(shop.world.home.start());
        let pause = Duration::from_millis(rand::rng().random_range(0..120));
        // The power is cut at a moment that nobody has chosen; this waits for nothing.
        let kill = async {
            tokio::time::sleep(pause).await;
            rustix::process::kill_process(keyserver.pid(), rustix::process::Signal::KILL).expect("it runs");
        };
        tokio::join!(shop.open(&keyserver), kill);
        Arc::into_inner(keyserver).expect("everybody has left").crashed().await;
    }
    let keyserver = Arc::new(shop.world.home.start());
    assert!(shop.open(&keyserver).await, "in the end everybody has what they asked for");
    shop.history.check(&shop.world.home);
}

#[tokio::test]
async fn a_crowd_survives_kills_at_random_moments() {
    survive_kills(12).await;
}

#[tokio::test]
#[ignore = "takes minutes: 200 kills; run with --run-ignored all"]
async fn a_crowd_survives_two_hundred_kills_at_random_moments() {
    survive_kills(200).await;
}
