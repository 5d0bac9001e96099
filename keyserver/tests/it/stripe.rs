//! Payments through Stripe, against localstripe, and against a provider that is slow or gone.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use data_encoding::HEXLOWER;
use futures::future::join_all;
use futures::{StreamExt, stream};
use hmac::{Hmac, KeyInit, Mac};
use serde_json::{Value, json};
use sha2::Sha256;
use swarm_proto::pb::keyserver as pb;
use swarm_proto::pb::keyserver::OrderState;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::process::Process;
use crate::web::{Answer, ask, get, open_checkout, order_text, send, until_page_says};
use crate::world::{Device, World, now};

const SECRET: &str = "whsec_of_the_tests";
const KEY: &str = "sk_test_of_the_tests";

/// A fake Stripe of someone else's making, on a port of its own.
struct LocalStripe {
    address: String,
    child: Child,
}

impl LocalStripe {
    /// Starts it; none when it is not installed, which fails in CI.
    async fn start() -> Option<LocalStripe> {
        let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
        let cache = cache.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")));
        let program = cache.unwrap_or_default().join("reelswarm/localstripe-venv/bin/localstripe");
        if !program.exists() {
            assert!(std::env::var_os("CI").is_none(), "localstripe is missing: ./test.sh installs it");
            eprintln!("skipped: localstripe is not installed; ./test.sh does that");
            return None;
        }
        let port = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("bound").port();
        let mut command = Command::new(program);
        command.args(["--from-scratch", "--port", &port.to_string()]).stdout(Stdio::null()).stderr(Stdio::null());
        let local = LocalStripe { address: format!("127.0.0.1:{port}"), child: command.spawn().expect("it starts") };
        let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
        while local.try_call("GET", "/v1/payment_intents", "").await.is_none() {
            assert!(tokio::time::Instant::now() < deadline, "localstripe does not answer");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Some(local)
    }

    async fn try_call(&self, method: &str, path: &str, form: &str) -> Option<Value> {
        let bearer = format!("Bearer {KEY}");
        let headers = [("authorization", bearer.as_str()), ("content-type", "application/x-www-form-urlencoded")];
        let answer = ask(&self.address, method, path, &headers, form).await.ok()?;
        serde_json::from_str(&answer.body).ok()
    }

    async fn call(&self, method: &str, path: &str, form: &str) -> Value {
        self.try_call(method, path, form).await.expect("it answers")
    }

    /// A card with this number, by Stripe's name.
    async fn card(&self, number: &str) -> String {
        let form = format!("type=card&card[number]={number}&card[exp_month]=12&card[exp_year]=2030&card[cvc]=123");
        self.call("POST", "/v1/payment_methods", &form).await["id"].as_str().expect("an id").to_owned()
    }

    /// The payments that were made for an order.
    async fn payments_of(&self, order: &str) -> Vec<Value> {
        let list = self.call("GET", "/v1/payment_intents?limit=100", "").await;
        let all = list["data"].as_array().expect("a list").clone();
        all.into_iter().filter(|intent| intent["metadata"]["order"] == order).collect()
    }
}

impl Drop for LocalStripe {
    fn drop(&mut self) {
        // It may be gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A keyserver whose customers pay through the Stripe at this address.
struct Store {
    world: World,
    keyserver: Process,
    viewer: Device,
    link: String,
    _secrets: TempDir,
}

impl Store {
    async fn open(stripe: &str, settings: &[&str]) -> Store {
        let secrets = tempfile::Builder::new().permissions(Permissions::from_mode(0o700)).tempdir().expect("a folder");
        let file = |name: &str, text: &str| {
            let path = secrets.path().join(name);
            fs::write(&path, text).expect("written");
            fs::set_permissions(&path, Permissions::from_mode(0o600)).expect("private");
            path.display().to_string()
        };
        let mut all = vec![
            format!("stripe.key_file={}", file("key", KEY)),
            format!("stripe.webhook_secret_file={}", file("webhook", SECRET)),
            format!("stripe.url=http://{stripe}"),
        ];
        all.extend(settings.iter().map(|setting| (*setting).to_owned()));
        let world = World::with(&all.iter().map(String::as_str).collect::<Vec<_>>());
        let keyserver = world.home.start();
        world.deposit(&keyserver).await.expect("deposited");
        let viewer = world.household();
        let link = open_checkout(&viewer, &keyserver, None).await;
        Store { world, keyserver, viewer, link, _secrets: secrets }
    }

    fn save_card(&self, method: &str) {
        let account = self.viewer.account().to_string();
        self.world.home.ask(&[
            "billing",
            "card",
            "set",
            &account,
            "--label",
            "Visa ending in 4242",
            "--method",
            method,
        ]);
    }

    async fn order(&self, key: &str) -> pb::Order {
        self.viewer.shop(&self.keyserver).await.order(key, self.world.film.item, "rent").await.expect("ordered")
    }

    fn path(&self, order: &pb::Order) -> String {
        format!("{}/order/{}", self.link, order_text(order))
    }

    async fn pay(&self, order: &pb::Order) -> Answer {
        send(&self.keyserver, &self.path(order), &[], "way=card").await
    }

    async fn state(&self, order: &pb::Order) -> OrderState {
        self.viewer.shop(&self.keyserver).await.look(&order.order).await.expect("there").state()
    }

    async fn until(&self, order: &pb::Order, state: OrderState) {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
        while self.state(order).await != state {
            assert!(tokio::time::Instant::now() < deadline, "the order never comes to be {state:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// A message as Stripe would send it.
    async fn hear(&self, secret: &str, timestamp: u64, event: &Value) -> Answer {
        let body = event.to_string();
        let mut mac = <Hmac<Sha256> as KeyInit>::new_from_slice(secret.as_bytes()).expect("any length");
        mac.update(format!("{timestamp}.{body}").as_bytes());
        let signature = format!("t={timestamp},v1={}", HEXLOWER.encode(&mac.finalize().into_bytes()));
        let headers = [("stripe-signature", signature.as_str()), ("content-type", "application/json")];
        ask(self.keyserver.address(), "POST", "/webhooks/stripe", &headers, &body).await.expect("it answers")
    }
}

fn dispute(intent: &str, status: &str) -> Value {
    let object = json!({ "id": "dp_1", "status": status, "payment_intent": intent });
    json!({ "id": format!("evt_{status}"), "type": "charge.dispute.updated", "data": { "object": object } })
}

#[tokio::test]
async fn stripe_pays_declines_waits_for_the_bank_refunds_and_is_believed_only_when_genuine() {
    let Some(stripe) = LocalStripe::start().await else { return };
    let store = Store::open(&stripe.address, &[]).await;
    assert_eq!(store.world.home.ask(&["gateway", "check", "stripe"])["said"], "Stripe answers and takes our key");
    let hook = json!({ "url": format!("{}/webhooks/stripe", store.keyserver.url), "secret": SECRET }).to_string();
    let json = [("content-type", "application/json")];
    ask(&stripe.address, "POST", "/_config/webhooks/keyserver", &json, &hook).await.expect("set up");

    // Paid: five fast clicks are one order and one payment.
    store.save_card(&stripe.card("4242424242424242").await);
    let order = store.order("a-purchase-by-card").await;
    let clicks = join_all((0..5).map(|_| store.pay(&order))).await;
    assert!(clicks.iter().all(|click| click.status == 303));
    store.until(&order, OrderState::Paid).await;
    let page = until_page_says(&store.keyserver, &store.path(&order), "plays on your television").await;
    assert!(!page.body.contains("http-equiv"), "there is nothing more to wait for");
    let payments = stripe.payments_of(&order_text(&order)).await;
    assert_eq!(
        (payments.len(), payments[0]["amount"].as_u64(), payments[0]["currency"].as_str()),
        (1, Some(299), Some("eur"))
    );
    assert!(store.viewer.shop(&store.keyserver).await.grant(&order.order).await.is_ok());

    // Declined: nothing is charged, another card pays the same order.
    store.save_card(&stripe.card("4000000000000341").await);
    let second = store.order("a-purchase-declined").await;
    store.pay(&second).await;
    until_page_says(&store.keyserver, &store.path(&second), "Declined. Nothing was charged.").await;
    assert_eq!(store.state(&second).await, OrderState::Pending);
    store.save_card(&stripe.card("4242424242424242").await);
    store.pay(&second).await;
    store.until(&second, OrderState::Paid).await;

    // The bank wants to know more: the page waits, and the message that follows pays.
    store.save_card(&stripe.card("4000002500003155").await);
    let third = store.order("a-purchase-with-3ds").await;
    store.pay(&third).await;
    let page = until_page_says(&store.keyserver, &store.path(&third), "Waiting for your bank").await;
    assert!(page.body.contains("http-equiv=\"refresh\""), "it asks again by itself");
    let intent = loop {
        let payments = stripe.payments_of(&order_text(&third)).await;
        if let Some(intent) = payments.into_iter().find(|intent| intent["status"] == "requires_action") {
            break intent;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    let (id, secret) = (intent["id"].as_str().expect("an id"), intent["client_secret"].as_str().expect("a secret"));
    let form = format!("client_secret={secret}&success=true");
    stripe.call("POST", &format!("/v1/payment_intents/{id}/_authenticate"), &form).await;
    store.until(&third, OrderState::Paid).await;

    // Part of it goes back and the right stays; then all of it.
    let text = order_text(&order);
    store.world.home.ask(&["order", "refund", &text, "--minor", "100", "--keep-rights", "--reason", "a scratch"]);
    assert_eq!(store.state(&order).await, OrderState::Granted);
    store.world.home.ask(&["order", "refund", &text, "--reason", "unwanted"]);
    assert_eq!(store.state(&order).await, OrderState::Refunded);
    let deadline = tokio::time::Instant::now() + Duration::from_secs(40);
    loop {
        let paid = payments[0]["id"].as_str().expect("an id");
        let refunds = stripe.call("GET", &format!("/v1/refunds?payment_intent={paid}"), "").await;
        let amounts: Vec<_> =
            refunds["data"].as_array().expect("a list").iter().map(|one| one["amount"].as_u64()).collect();
        if amounts.len() == 2 {
            assert_eq!(amounts.iter().flatten().sum::<u64>(), 299);
            break;
        }
        assert!(tokio::time::Instant::now() < deadline, "the money never goes back: {amounts:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }

    // Messages: forged ones change nothing, genuine ones may be repeated and come in any order.
    let before = store.world.home.records("disputed");
    let at = now().as_secs();
    for (what, status, answer) in [
        ("another secret", 401, store.hear("whsec_other", at, &dispute(id, "needs_response")).await),
        ("too old", 401, store.hear(SECRET, at - 400, &dispute(id, "needs_response")).await),
        ("from the future", 401, store.hear(SECRET, at + 400, &dispute(id, "needs_response")).await),
        ("a payment of someone else", 200, store.hear(SECRET, at, &dispute("pi_other", "needs_response")).await),
    ] {
        assert_eq!(answer.status, status, "{what}: {}", answer.body);
    }
    let mut altered = json!({ "id": "evt_1", "type": "payment_intent.succeeded", "data": { "object": intent } });
    altered["data"]["object"]["status"] = json!("succeeded");
    altered["data"]["object"]["amount"] = json!(1);
    assert_eq!(store.hear(SECRET, at, &altered).await.status, 409, "another amount");
    altered["data"]["object"]["amount"] = json!(299);
    altered["data"]["object"]["metadata"]["order"] = json!(order_text(&second));
    assert_eq!(store.hear(SECRET, at, &altered).await.status, 409, "another order");
    assert_eq!(store.world.home.records("disputed"), before);
    let lost = dispute(id, "lost");
    // Three hundred at a time: the port lets 512 requests in.
    let closed_first = stream::iter((0..1_000).map(|_| store.hear(SECRET, at, &lost))).buffer_unordered(300);
    let closed_first: Vec<_> = closed_first.collect().await;
    assert!(closed_first.iter().all(|answer| answer.status == 200));
    assert_eq!(store.hear(SECRET, at, &dispute(id, "needs_response")).await.status, 200, "late news");
    assert_eq!(store.state(&third).await, OrderState::Disputed);
    assert_eq!(store.world.home.records("disputed"), 1);
    assert!(store.viewer.shop(&store.keyserver).await.grant(&third.order).await.is_err());
}

/// A provider that takes connections and says nothing until it is told to.
struct Slow {
    address: String,
    answers: Arc<AtomicBool>,
    most: Arc<AtomicUsize>,
}

impl Slow {
    async fn start() -> Slow {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound").to_string();
        let slow = Slow { address, answers: Arc::default(), most: Arc::default() };
        let (answers, most, open) = (Arc::clone(&slow.answers), Arc::clone(&slow.most), Arc::new(AtomicUsize::new(0)));
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let (answers, most, open) = (Arc::clone(&answers), Arc::clone(&most), Arc::clone(&open));
                tokio::spawn(async move {
                    most.fetch_max(open.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    let mut request = vec![0; 8192];
                    let read = stream.read(&mut request).await.unwrap_or(0);
                    let request = String::from_utf8_lossy(&request[..read]).into_owned();
                    if answers.load(Ordering::SeqCst) {
                        // Its name is that of the idempotency key, so the same payment has the same name.
                        let key = request.lines().find_map(|line| line.strip_prefix("idempotency-key: "));
                        let made = key.and_then(|key| key.strip_suffix("-make"));
                        let asked =
                            request.split("/v1/payment_intents/").nth(1).and_then(|rest| rest.split([' ', '/']).next());
                        let id = made.map(|key| format!("pi_{key}")).or(asked.map(str::to_owned)).unwrap_or_default();
                        let status = if request.contains("/confirm") { "succeeded" } else { "requires_confirmation" };
                        let body = json!({ "id": id, "status": status, "amount": 299, "currency": "eur" }).to_string();
                        let head =
                            format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
                        let _ = stream.write_all((head + &body).as_bytes()).await;
                    } else {
                        // Until the keyserver gives up.
                        let _ = stream.read(&mut [0; 1]).await;
                    }
                    open.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        slow
    }
}

#[tokio::test]
async fn a_slow_provider_holds_up_its_payments_and_nothing_else() {
    let slow = Slow::start().await;
    let store =
        Store::open(&slow.address, &["stripe.timeout=1s", "stripe.at_a_time=4", "orders.open_per_account=64"]).await;
    store.save_card("pm_any");
    let keys: Vec<_> = (0..40).map(|n| format!("purchase-of-a-slow-one-{n:02}")).collect();
    let orders = join_all(keys.iter().map(|key| store.order(key))).await;
    let begun = join_all(orders.iter().map(|order| store.pay(order))).await;
    assert!(begun.iter().all(|answer| answer.status == 303), "nobody waits for the provider");
    let page = get(&store.keyserver, &store.path(&orders[0])).await;
    assert!(page.body.contains("Waiting for your bank"), "{}", page.body);
    assert!(store.viewer.shop(&store.keyserver).await.grant(&orders[0].order).await.is_err());
    let pass = store.world.home.ask(&["pass", "create", "--credits", "1", "--valid", "1d"]);
    let code = pass["code"].as_str().expect("a code");
    let paid = store.viewer.shop(&store.keyserver).await.pay(&orders[39].order, code).await.expect("paid meanwhile");
    assert_eq!(paid.state(), OrderState::Paid);
    // Twice, since this side may not have noticed yet that the keyserver gave up on some.
    assert!(slow.most.load(Ordering::SeqCst) <= 8, "no more at a time than may");

    slow.answers.store(true, Ordering::SeqCst);
    for order in &orders[..3] {
        store.until(order, OrderState::Paid).await;
    }
    assert!(slow.most.load(Ordering::SeqCst) <= 8);
}

#[tokio::test]
async fn a_payment_survives_a_kill_and_a_provider_that_was_gone() {
    let slow = Slow::start().await;
    let Store { world, keyserver, viewer, link, _secrets } = Store::open(&slow.address, &["stripe.timeout=1s"]).await;
    let store = Store { world, keyserver, viewer, link, _secrets };
    store.save_card("pm_any");
    let order = store.order("purchase-before-a-kill").await;
    assert_eq!(store.pay(&order).await.status, 303);
    let Store { world, keyserver, viewer, link, _secrets } = store;
    keyserver.kill();
    slow.answers.store(true, Ordering::SeqCst);
    let keyserver = world.home.start();
    let store = Store { world, keyserver, viewer, link, _secrets };
    store.until(&order, OrderState::Paid).await;
    assert_eq!(store.world.home.records("payment_begun"), 1, "the same payment, asked about again");
    assert_eq!(store.world.home.records("payment_collected"), 1);
}

#[tokio::test]
async fn a_thousand_words_of_stripe_before_its_own_answer_are_one_payment_and_one_grant() {
    // It has taken the payment and says nothing to whoever asked for it; its messages are faster.
    let slow = Slow::start().await;
    let store = Store::open(&slow.address, &["stripe.timeout=5s"]).await;
    store.save_card("pm_any");
    let order = store.order("a-purchase-told-of-early").await;
    assert_eq!(store.pay(&order).await.status, 303);
    let journal = store.world.home.command(&["audit", "export"]);
    let journal = String::from_utf8(journal.stdout).expect("text");
    let begun = journal.lines().find(|line| line.contains("payment_begun")).expect("it is in the journal first");
    let begun: Value = serde_json::from_str(begun).expect("JSON");
    let intent = json!({
        "id": "pi_early", "status": "succeeded", "amount": 299, "currency": "eur",
        "metadata": {
            "attempt": begun["record"]["attempt"], "order": order_text(&order),
            "account": store.viewer.account().to_string(),
        },
    });
    let event = json!({ "id": "evt_early", "type": "payment_intent.succeeded", "data": { "object": intent } });
    let at = now().as_secs();
    let shop = store.viewer.shop(&store.keyserver).await;
    let told = stream::iter((0..1_000).map(|_| store.hear(SECRET, at, &event))).buffer_unordered(300);
    let asked = join_all((0..16).map(|_| shop.grant(&order.order)));
    let (told, _) = tokio::join!(told.collect::<Vec<_>>(), asked);
    assert!(told.iter().all(|answer| answer.status == 200), "{:?}", told.iter().find(|answer| answer.status != 200));
    let serials = join_all((0..16).map(|_| shop.grant(&order.order))).await;
    assert!(serials.into_iter().all(|granted| granted.expect("paid").licence.serial == 1));
    slow.answers.store(true, Ordering::SeqCst);
    store.until(&order, OrderState::Granted).await;
    for kind in ["payment_collected", "granted"] {
        assert_eq!(store.world.home.records(kind), 1, "{kind}");
    }
}
