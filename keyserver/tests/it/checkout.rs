//! The pages where people pay, and those who should not.

use futures::future::join_all;
use swarm_proto::id::AccountId;
use swarm_proto::membership::DeviceKind;
use swarm_proto::pb::keyserver::OrderState;
use swarm_proto::pb::keyserver::open_checkout_request::Goal;

use crate::web::{ask, get, open_checkout, order_text, send};
use crate::world::{World, rng};

const PASSES: &str = r#"passes=[{id="ten",credits=10,valid="90d",price_minor=1990,currency="EUR"},{id="month",valid="30d",price_minor=999,currency="EUR"}]"#;

fn new_pass(world: &World) -> String {
    let pass = world.home.ask(&["pass", "create", "--credits", "1", "--valid", "1d"]);
    pass["code"].as_str().expect("a code").to_owned()
}

#[tokio::test]
async fn an_offer_is_chosen_paid_and_said_to_be_paid() {
    let world = World::new();
    let keyserver = world.home.start();
    world.deposit(&keyserver).await.expect("deposited");
    let viewer = world.household();
    let goal = Some(Goal::Item(world.film.item.to_vec()));
    let offers = open_checkout(&viewer, &keyserver, goal).await;
    let page = get(&keyserver, &offers).await;
    assert_eq!(page.status, 200, "{}", page.body);
    assert!(page.body.contains("Harbour at dawn") && page.body.contains("2.99 EUR"), "{}", page.body);
    assert!(page.body.contains("Finish within 48 hours of starting"), "{}", page.body);
    assert!(!page.body.contains("<script"), "no script is needed");
    let policy = page.header("content-security-policy").expect("a policy");
    assert!(policy.contains("default-src 'none'") && policy.contains("frame-ancestors 'none'"), "{policy}");
    assert_eq!(page.header("referrer-policy"), Some("same-origin"));

    let form = format!("offer=rent&key={}", page.hidden("key"));
    let clicks = join_all((0..5).map(|_| send(&keyserver, &offers, &[], &form))).await;
    let order = clicks[0].header("location").expect("the order's page").to_owned();
    assert!(clicks.iter().all(|click| click.status == 303 && click.header("location") == Some(order.as_str())));
    assert_eq!(world.home.records("order_created"), 1, "five clicks make one order");

    let page = get(&keyserver, &order).await;
    assert!(page.body.contains("Use a code"), "{}", page.body);
    let wrong = send(&keyserver, &order, &[], "way=code&code=hello").await;
    assert_eq!(wrong.status, 409);
    assert!(wrong.body.contains("This is not a pass code"), "{}", wrong.body);
    let code = new_pass(&world);
    let paid = send(&keyserver, &order, &[], &format!("way=code&code={code}")).await;
    assert_eq!(paid.status, 303, "{}", paid.body);
    let page = get(&keyserver, &order).await;
    assert!(page.body.contains("Paid") && page.body.contains("plays on your television"), "{}", page.body);
    let shop = viewer.shop(&keyserver).await;
    let code = order.rsplit('/').next().expect("a code");
    let id: swarm_proto::id::OrderId = code.parse().expect("an id");
    assert!(shop.grant(id.as_bytes()).await.is_ok());
}

#[tokio::test]
async fn a_link_opens_only_what_is_of_its_account_and_only_as_it_was_made() {
    let world = World::new();
    let keyserver = world.home.start();
    world.deposit(&keyserver).await.expect("deposited");
    let (viewer, neighbour) = (world.household(), world.household());
    let order =
        viewer.shop(&keyserver).await.order("a-purchase-of-a-link", world.film.item, "rent").await.expect("ordered");
    let own = open_checkout(&viewer, &keyserver, Some(Goal::Order(order.order.clone()))).await;
    assert_eq!(get(&keyserver, &own).await.status, 200);
    let of_neighbour = open_checkout(&neighbour, &keyserver, None).await;
    let foreign = get(&keyserver, &format!("{of_neighbour}/order/{}", order_text(&order))).await;
    assert_eq!(foreign.status, 403, "{}", foreign.body);
    let mut forged = own.clone().into_bytes();
    forged[10] = if forged[10] == b'A' { b'B' } else { b'A' };
    assert_eq!(get(&keyserver, &String::from_utf8(forged).expect("text")).await.status, 404);
    for path in ["/pay/", "/pay/../../etc/passwd", "/pay/%00", "/pay/x/order/y", "/pay/x/claim"] {
        assert!(matches!(get(&keyserver, path).await.status, 400 | 404 | 405), "{path}");
    }
    let log = std::fs::read_to_string(world.home.log()).expect("a log");
    assert!(!log.contains(own.split('/').nth(2).expect("a link")), "links are as good as money and in no log");
}

#[tokio::test]
async fn links_end_by_themselves() {
    let world = World::with(&["checkout.link_valid=1s"]);
    let keyserver = world.home.start();
    let viewer = world.household();
    let link = open_checkout(&viewer, &keyserver, None).await;
    let page = crate::web::until_page_says(&keyserver, &link, "This link has ended").await;
    assert_eq!(page.status, 410);
}

#[tokio::test]
async fn forms_of_other_sites_change_nothing() {
    let world = World::new();
    let keyserver = world.home.start();
    world.deposit(&keyserver).await.expect("deposited");
    let viewer = world.household();
    let order =
        viewer.shop(&keyserver).await.order("a-purchase-to-attack", world.film.item, "rent").await.expect("ordered");
    let path = open_checkout(&viewer, &keyserver, Some(Goal::Order(order.order.clone()))).await;
    let form = format!("way=code&code={}", new_pass(&world));
    let kind = ("content-type", "application/x-www-form-urlencoded");
    let before = world.home.ask(&["audit", "verify"]);
    for (what, headers) in [
        ("another origin", vec![kind, ("origin", "https://evil.example")]),
        ("no origin to name", vec![kind, ("origin", "null")]),
        ("another port", vec![kind, ("origin", "http://127.0.0.1:1")]),
        ("another site", vec![kind, ("sec-fetch-site", "cross-site")]),
        ("a name that was rebound", vec![kind, ("host", "evil.example"), ("origin", "http://evil.example")]),
    ] {
        let refused = ask(keyserver.address(), "POST", &path, &headers, &form).await.expect("it answers");
        assert_eq!(refused.status, 403, "{what}: {}", refused.body);
    }
    assert_eq!(world.home.ask(&["audit", "verify"]), before);
    assert_eq!(send(&keyserver, &path, &[], &form).await.status, 303, "from its own page it works");
}

#[tokio::test]
async fn hostile_names_are_text() {
    let world = World::new();
    let keyserver = world.home.start();
    let name = r#"<script>alert(1)</script>"><img src=x onerror=alert(1)> ' & =cmd|' /C calc'!A0"#;
    let entry = swarm_proto::catalog::CatalogEntry { name: name.to_owned(), ..world.entry() };
    world.deposit_entry(&keyserver, &entry, &world.film.key).await.expect("deposited");
    let viewer = world.household();
    let path = open_checkout(&viewer, &keyserver, Some(Goal::Item(world.film.item.to_vec()))).await;
    let page = get(&keyserver, &path).await;
    assert!(page.body.contains("&lt;script&gt;alert(1)"), "{}", page.body);
    assert!(!page.body.contains("<script") && !page.body.contains("<img"), "{}", page.body);
}

#[tokio::test]
async fn a_pass_is_bought_given_taken_and_spent() {
    let world = World::with(&[PASSES]);
    let keyserver = world.home.start();
    world.deposit(&keyserver).await.expect("deposited");
    let (giver, taker) = (world.household(), world.household());
    world.home.ask(&["billing", "limit", "set", &giver.account().to_string(), "--minor", "5000", "--currency", "EUR"]);
    let home = open_checkout(&giver, &keyserver, None).await;
    let page = get(&keyserver, &home).await;
    assert!(
        page.body.contains("10 titles, within 90 days") && page.body.contains("Everything for 30 days"),
        "{}",
        page.body
    );
    let form = format!("offer=ten&gift=yes&key={}", page.hidden("key"));
    let order = send(&keyserver, &format!("{home}/pass"), &[], &form).await;
    let order = order.header("location").expect("the order's page").to_owned();
    assert!(!get(&keyserver, &order).await.body.contains("class=\"code\""), "no code before it is paid");
    assert_eq!(send(&keyserver, &order, &[], "way=bill").await.status, 303);
    let page = get(&keyserver, &order).await;
    let start = page.body.find("class=\"code\">").expect("the gift's code") + "class=\"code\">".len();
    let code = page.body[start..].split('<').next().expect("a code").to_owned();

    let home = open_checkout(&taker, &keyserver, None).await;
    assert_eq!(send(&keyserver, &format!("{home}/claim"), &[], &format!("code={code}")).await.status, 303);
    let page = get(&keyserver, &home).await;
    assert!(page.body.contains("10 of 10 left"), "{}", page.body);
    let bought =
        taker.shop(&keyserver).await.order("a-title-for-the-gift", world.film.item, "rent").await.expect("ordered");
    let path = format!("{home}/order/{}", order_text(&bought));
    let page = get(&keyserver, &path).await;
    assert!(page.body.contains("Use your pass"), "{}", page.body);
    let way = page.hidden("way");
    let begun = std::time::Instant::now();
    assert_eq!(send(&keyserver, &path, &[], &format!("way={way}")).await.status, 303);
    assert_eq!(taker.shop(&keyserver).await.look(&bought.order).await.expect("there").state(), OrderState::Paid);
    println!("redeemed on the page in {:?}", begun.elapsed());

    let passes = world.home.ask(&["pass", "ls"]);
    assert_eq!(passes[0]["credits_left"], 9);
    let order = order.rsplit('/').next().expect("a code").to_owned();
    let refunded = world.home.ask(&["order", "refund", &order, "--reason", "unwanted"]);
    assert_eq!((refunded["state"].as_str(), refunded["returned_minor"].as_u64()), (Some("refunded"), Some(1_791)));
    let shown = world.home.ask(&["pass", "show", &code]);
    assert_eq!((shown["voided"].as_bool(), shown["credits_left"].as_u64()), (Some(true), Some(0)));
    for file in world.home.files() {
        let text = std::fs::read(&file).expect("readable");
        let found = text.windows(code.len()).any(|window| window == code.as_bytes());
        assert!(!found, "the code is in {}", file.display());
    }
}

#[tokio::test]
async fn a_bill_holds_its_limit_under_sixty_four_orders_at_a_time() {
    let world = World::with(&["orders.open_per_account=64"]);
    let keyserver = world.home.start();
    world.deposit(&keyserver).await.expect("deposited");
    let account = AccountId::generate(&mut rng());
    let viewer = world.device_of(account, DeviceKind::Box);
    world.home.ask(&["billing", "limit", "set", &account.to_string(), "--minor", "2000", "--currency", "EUR"]);
    let shop = viewer.shop(&keyserver).await;
    let keys: Vec<_> = (0..64).map(|n| format!("purchase-for-the-bill-{n:02}")).collect();
    let orders = join_all(keys.iter().map(|key| shop.order(key, world.film.item, "rent"))).await;
    let home = open_checkout(&viewer, &keyserver, None).await;
    let paths: Vec<_> =
        orders.iter().map(|order| format!("{home}/order/{}", order_text(order.as_ref().expect("ordered")))).collect();
    let answers = join_all(paths.iter().map(|path| send(&keyserver, path, &[], "way=bill"))).await;
    assert_eq!(answers.iter().filter(|answer| answer.status == 303).count(), 6, "six times 2.99 fit into 20.00");
    let refused = answers.iter().find(|answer| answer.status == 409).expect("the rest");
    assert!(refused.body.contains("E-WAY-06"), "{}", refused.body);
    assert_eq!(world.home.records("order_billed"), 6);

    let month = &swarm_proto::keyserver::billing::Month::of(crate::world::now()).to_string();
    let export = world.home.ask(&["billing", "export", month]);
    assert_eq!((export["lines"].as_u64(), export["closed"].as_bool()), (Some(6), Some(false)));
    let csv = export["csv"].as_str().expect("text");
    assert_eq!(csv.lines().count(), 7);
    assert!(csv.lines().all(|line| line.split(',').all(|cell| cell.starts_with('"'))), "{csv}");
    assert_eq!(world.home.command(&["billing", "close", month]).status.code(), Some(2), "it is not over");
    let first = world.home.ask(&["billing", "close", "2020-01"]);
    assert_eq!(
        (first["already"].as_bool(), world.home.ask(&["billing", "close", "2020-01"])["already"].as_bool()),
        (Some(false), Some(true))
    );
}

#[tokio::test]
async fn the_operator_signs_in_refunds_with_a_reason_and_signs_out() {
    let world = World::new();
    let keyserver = world.home.start();
    world.deposit(&keyserver).await.expect("deposited");
    let viewer = world.household();
    let shop = viewer.shop(&keyserver).await;
    let order = shop.order("a-purchase-to-refund", world.film.item, "rent").await.expect("ordered");
    shop.pay(&order.order, &new_pass(&world)).await.expect("paid");
    let path = format!("/operator/order/{}", order_text(&order));
    for path in ["/operator", "/operator/passes", "/operator/status", "/operator/stuck", &path] {
        assert_eq!(get(&keyserver, path).await.status, 303, "{path} is for the operator");
    }
    let wrong = send(&keyserver, "/operator/sign-in", &[], "token=guess").await;
    assert_eq!((wrong.status, wrong.header("set-cookie")), (401, None));
    let token = std::fs::read_to_string(world.home.file("operator.token")).expect("a token");
    let entered = send(&keyserver, "/operator/sign-in", &[], &format!("token={}", token.trim())).await;
    let cookie = entered.header("set-cookie").expect("a cookie").to_owned();
    assert!(
        cookie.contains("HttpOnly") && cookie.contains("SameSite=Strict") && cookie.contains("Path=/operator"),
        "{cookie}"
    );
    let cookie = [("cookie", cookie.split(';').next().expect("a pair"))];
    let see = |path: &str| {
        let (address, path, cookie) = (keyserver.address().to_owned(), path.to_owned(), cookie[0].1.to_owned());
        async move { ask(&address, "GET", &path, &[("cookie", &cookie)], "").await.expect("it answers") }
    };
    for path in ["/operator", "/operator/passes", "/operator/status", "/operator/stuck"] {
        assert_eq!(see(path).await.status, 200, "{path}");
    }
    let page = see(&path).await;
    assert!(page.body.contains("paid with a pass"), "{}", page.body);
    let (csrf, refund) = (page.hidden("csrf").to_owned(), page.hidden("refund").to_owned());
    let form =
        |csrf: &str, confirm: &str| format!("csrf={csrf}&refund={refund}&minor=&reason=a+mistake&confirm={confirm}");
    assert_eq!(send(&keyserver, &path, &cookie, &form("guess", "refund")).await.status, 403);
    assert_eq!(send(&keyserver, &path, &cookie, &form(&csrf, "yes")).await.status, 409);
    assert_eq!(send(&keyserver, &path, &[], &form(&csrf, "refund")).await.status, 303, "to the door");
    assert_eq!(world.home.records("order_refunded"), 0);
    for _ in 0..3 {
        assert_eq!(send(&keyserver, &path, &cookie, &form(&csrf, "refund")).await.status, 303);
    }
    assert_eq!(world.home.records("order_refunded"), 1);
    assert!(see(&path).await.body.contains("a mistake"));
    let timeline = world.home.ask(&["order", "show", &order_text(&order), "--timeline"]);
    assert_eq!(timeline["timeline"].as_array().map(Vec::len), Some(3), "{timeline}");
    send(&keyserver, "/operator/sign-out", &cookie, &format!("csrf={csrf}")).await;
    assert_eq!(see("/operator").await.status, 303, "the session is over");
    let names: Vec<_> =
        world.home.ask(&["gateway", "ls"]).as_array().expect("a list").iter().map(|one| one["name"].clone()).collect();
    assert_eq!(names, ["pass", "till", "bill"]);
}
