//! What tills say, and what others say in their name.

use futures::future::join_all;
use futures::{StreamExt, stream};
use swarm_proto::id::AccountId;
use swarm_proto::pb::keyserver as pb;
use swarm_proto::pb::keyserver::OrderState;

use crate::process::Process;
use crate::world::{Device, TillMessage, World, body, get, now, paid_body, rng};

struct Sale {
    world: World,
    keyserver: Process,
    viewer: Device,
    order: pb::Order,
    secret: String,
}

impl Sale {
    /// An order for 2.99 EUR that waits for money, and a till that is set up.
    async fn new() -> Sale {
        let world = World::new();
        let keyserver = world.home.start();
        world.deposit(&keyserver).await.expect("deposited");
        let viewer = world.household();
        let order = viewer
            .shop(&keyserver)
            .await
            .order("a-purchase-at-the-till", world.film.item, "rent")
            .await
            .expect("ordered");
        let secret = new_secret(&world);
        Sale { world, keyserver, viewer, order, secret }
    }

    fn message(&self, id: &str, body: &str) -> TillMessage {
        TillMessage::signed(&self.secret, id, now().as_secs(), body)
    }

    fn paid(&self) -> String {
        paid_body(&self.order, self.viewer.account())
    }

    async fn state(&self) -> OrderState {
        self.viewer.shop(&self.keyserver).await.look(&self.order.order).await.expect("an order").state()
    }
}

fn new_secret(world: &World) -> String {
    world.home.ask(&["webhook", "secret", "new"])["secret"].as_str().expect("a secret").to_owned()
}

#[tokio::test]
async fn word_of_a_till_pays_an_order() {
    let sale = Sale::new().await;
    let (status, answer) = sale.message("evt_1", &sale.paid()).send(&sale.keyserver).await;
    assert_eq!(status, 200, "{answer}");
    assert!(answer.contains(r#"{"status":"accepted"}"#), "{answer}");
    assert_eq!(sale.state().await, OrderState::Paid);
    let shop = sale.viewer.shop(&sale.keyserver).await;
    let unlocked = shop.grant(&sale.order.order).await.expect("granted");
    assert_eq!(unlocked.key.expose(), sale.world.film.key.expose());
    assert_eq!(shop.look(&sale.order.order).await.expect("an order").paid_by, "webhook");
}

#[tokio::test]
async fn forgeries_of_a_till_write_nothing() {
    let sale = Sale::new().await;
    let genuine = sale.message("evt_1", &sale.paid());
    let now = now().as_secs();
    let (account, order) = (sale.viewer.account(), sale.order.order.clone());
    let at = |timestamp| TillMessage::signed(&sale.secret, "evt_1", timestamp, &sale.paid());
    let says = |body: String| sale.message("evt_1", &body);
    let other_secret = "whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
    let forgeries = [
        ("no signature", 400, genuine.clone().without("webhook-signature")),
        ("no id", 400, genuine.clone().without("webhook-id")),
        ("no timestamp", 400, genuine.clone().without("webhook-timestamp")),
        ("signature twice", 400, genuine.clone().twice("webhook-signature")),
        ("id twice", 400, genuine.clone().twice("webhook-id")),
        ("timestamp twice", 400, genuine.clone().twice("webhook-timestamp")),
        ("empty signature", 401, genuine.clone().set("webhook-signature", "")),
        (
            "wrong signature",
            401,
            genuine.clone().set("webhook-signature", "v1,AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="),
        ),
        ("other scheme", 401, genuine.clone().set("webhook-signature", &genuine.headers[2].1.replace("v1,", "v2,"))),
        ("other id", 401, genuine.clone().set("webhook-id", "evt_2")),
        ("other secret", 401, TillMessage::signed(other_secret, "evt_1", now, &sale.paid())),
        ("old", 401, at(now - 310)),
        ("from the future", 401, at(now + 310)),
        ("other timestamp", 401, genuine.clone().set("webhook-timestamp", &(now - 1).to_string())),
        ("not a timestamp", 400, genuine.clone().set("webhook-timestamp", "soon")),
        ("written anew", 401, TillMessage { body: genuine.body.replace(',', ", "), ..genuine.clone() }),
        ("too little", 409, says(body("payment.succeeded", &order, account, 1, "EUR"))),
        ("other currency", 409, says(body("payment.succeeded", &order, account, 299, "USD"))),
        ("other account", 409, says(body("payment.succeeded", &order, AccountId::generate(&mut rng()), 299, "EUR"))),
        ("other order", 404, says(body("payment.succeeded", &[7; 16], account, 299, "EUR"))),
        ("nothing for money", 400, says(body("payment.succeeded", &order, account, 0, "EUR"))),
        ("no fields", 400, says(r#"{"type":"payment.succeeded","data":{}}"#.to_owned())),
        ("not JSON", 400, says("payment.succeeded".to_owned())),
        ("too long", 413, says(format!(r#"{{"type":"x","padding":"{}"}}"#, "x".repeat(17 << 10)))),
    ];
    let before = sale.world.home.ask(&["audit", "verify"]);
    for (what, expected, message) in forgeries {
        let (status, answer) = message.send(&sale.keyserver).await;
        assert_eq!(status, expected, "{what}: {answer}");
    }
    let (status, answer) = says(r#"{"type":"payment.created","data":{}}"#.to_owned()).send(&sale.keyserver).await;
    assert_eq!(status, 200, "news about something else is ignored: {answer}");
    assert_eq!(sale.world.home.ask(&["audit", "verify"]), before, "nothing was written");
    assert_eq!(sale.state().await, OrderState::Pending);
    let (_, metrics) = get(&sale.keyserver, "/metrics").await;
    // A body that is too long is refused before it is looked at.
    assert!(metrics.contains(r#"what="webhook",outcome="refused"} 23"#), "{metrics}");
    assert_eq!(genuine.send(&sale.keyserver).await.0, 200, "the genuine one still counts");
}

#[tokio::test]
async fn one_message_a_thousand_times_before_the_orders_answer_is_one_payment_and_one_grant() {
    let sale = Sale::new().await;
    let message = sale.message("evt_1", &sale.paid());
    let shop = sale.viewer.shop(&sale.keyserver).await;
    // The box has not heard of its order yet: it asks again and again, and so does the till. The port lets 512 in.
    let told = stream::iter((0..1_000).map(|_| message.send(&sale.keyserver))).buffer_unordered(300);
    let asked = join_all((0..32).map(|_| async {
        let order = shop.order("a-purchase-at-the-till", sale.world.film.item, "rent").await.expect("ordered").order;
        // Before the money has arrived this is refused, and changes nothing.
        (shop.grant(&order).await.is_ok(), order)
    }));
    let (told, asked) = tokio::join!(told.collect::<Vec<_>>(), asked);
    assert!(told.iter().all(|(status, _)| *status == 200));
    assert_eq!(told.iter().filter(|(_, answer)| answer.contains("accepted")).count(), 1);
    assert!(asked.iter().all(|(_, order)| *order == sale.order.order), "one order");
    assert_eq!(shop.grant(&sale.order.order).await.expect("paid").licence.serial, 1);
    for kind in ["order_created", "payment_received", "granted"] {
        assert_eq!(sale.world.home.records(kind), 1, "{kind}");
    }
}

#[tokio::test]
async fn refunds_arrive_in_any_order_and_win() {
    let sale = Sale::new().await;
    let refunded = body("payment.refunded", &sale.order.order, sale.viewer.account(), 299, "EUR");
    assert_eq!(sale.message("evt_2", &refunded).send(&sale.keyserver).await.0, 200);
    assert_eq!(sale.message("evt_1", &sale.paid()).send(&sale.keyserver).await.0, 200);
    assert_eq!(sale.state().await, OrderState::Refunded);
    let (status, answer) = sale.message("evt_1", &refunded).send(&sale.keyserver).await;
    assert_eq!(status, 409, "an id means one message: {answer}");
}

#[tokio::test]
async fn the_secret_before_holds_while_tills_change_over() {
    let sale = Sale::new().await;
    let second = new_secret(&sale.world);
    assert_eq!(sale.message("evt_1", &sale.paid()).send(&sale.keyserver).await.0, 200, "the one before still holds");
    let third = new_secret(&sale.world);
    assert_eq!(sale.message("evt_1", &sale.paid()).send(&sale.keyserver).await.0, 401, "and then no more");
    for secret in [second, third] {
        let message = TillMessage::signed(&secret, "evt_1", now().as_secs(), &sale.paid());
        assert_eq!(message.send(&sale.keyserver).await.0, 200);
    }
}

#[tokio::test]
async fn without_a_secret_no_till_is_believed() {
    let world = World::new();
    let keyserver = world.home.start();
    let message = TillMessage::signed("whsec_AAAA", "evt_1", now().as_secs(), "{}");
    let (status, answer) = message.send(&keyserver).await;
    assert_eq!(status, 503, "{answer}");
    assert!(answer.contains("keyserver webhook secret new"), "{answer}");
}
