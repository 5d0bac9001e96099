//! The journal: cut, flipped, moved to other keys; and what is never in it.

use std::fs;
use std::path::Path;

use swarm_proto::pb::keyserver::OrderState;

use crate::world::{World, now};

const KEY: &str = "a-purchase-in-the-journal";

/// Runs a whole sale, and gives the secrets that it used.
async fn sale(world: &World) -> Vec<Vec<u8>> {
    let keyserver = world.home.start();
    world.deposit(&keyserver).await.expect("deposited");
    let viewer = world.household();
    let shop = viewer.shop(&keyserver).await;
    let order = shop.order(KEY, world.film.item, "rent").await.expect("ordered");
    let code = world.home.ask(&["pass", "create", "--credits", "1", "--valid", "1d"])["code"]
        .as_str()
        .expect("a code")
        .to_owned();
    shop.pay(&order.order, &code).await.expect("paid");
    let unlocked = shop.grant(&order.order).await.expect("granted");
    assert!(unlocked.licence.issued <= now());
    assert_eq!(shop.look(&order.order).await.expect("an order").state(), OrderState::Granted);
    let webhook = world.home.ask(&["webhook", "secret", "new"])["secret"].as_str().expect("a secret").to_owned();
    let token = fs::read(world.home.file("operator.token")).expect("a token");
    assert_eq!(keyserver.stop().await, 143);
    let keys =
        ["master.key", "identity.key", "deposit.key"].map(|name| fs::read(world.home.file(name)).expect("a key"));
    let mut secrets = vec![world.film.key.expose().to_vec(), viewer.hpke.expose().to_vec(), token];
    secrets.extend(keys);
    secrets.extend([code.clone(), code.replace('-', ""), webhook].map(String::into_bytes));
    secrets
}

#[tokio::test]
async fn no_secret_is_in_the_journal_or_the_log() {
    let world = World::new();
    let secrets = sale(&world).await;
    let own_files =
        ["master.key", "identity.key", "deposit.key", "operator.token", "webhook.secret", "webhook.secret.before"];
    let mut looked_at = 0;
    for path in world.home.files() {
        if path.file_name().and_then(|name| name.to_str()).is_some_and(|name| own_files.contains(&name)) {
            continue;
        }
        looked_at += 1;
        let bytes = fs::read(&path).expect("readable");
        for (n, secret) in secrets.iter().enumerate() {
            let hex = data_encoding::HEXLOWER.encode(secret).into_bytes();
            let base64 = data_encoding::BASE64.encode(secret).trim_end_matches('=').to_owned().into_bytes();
            for form in [secret, &hex, &base64] {
                assert!(!contains(&bytes, form), "secret {n} is in {}", path.display());
            }
        }
    }
    assert!(looked_at >= 2, "at least the journal and the log");
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}

#[tokio::test]
async fn a_torn_journal_loses_only_what_was_never_whole() {
    let world = World::new();
    sale(&world).await;
    let journal = world.home.file("journal");
    let whole = fs::read(&journal).expect("readable");
    for cut in [1, 2, 31, 33, 39, 40, 41, 90, 150, 200] {
        fs::write(&journal, &whole[..whole.len() - cut]).expect("writable");
        // What is torn was never acknowledged, so the anchor cannot have seen it.
        fs::remove_file(world.home.anchor()).expect("there is an anchor");
        let keyserver = world.home.start();
        let viewer = world.household();
        viewer.shop(&keyserver).await.order(KEY, world.film.item, "rent").await.expect("it sells");
        assert_eq!(keyserver.stop().await, 143);
        assert_eq!(world.home.records("pass_redeemed"), 1, "cut {cut}");
        let log = fs::read_to_string(world.home.log()).expect("a log");
        assert!(log.contains("the journal ended in the middle of a record"), "cut {cut}");
    }
}

#[tokio::test]
async fn a_flipped_bit_stops_the_keyserver_and_names_the_place() {
    let world = World::new();
    sale(&world).await;
    let journal = world.home.file("journal");
    let whole = fs::read(&journal).expect("readable");
    for place in [90, whole.len() / 2, whole.len() - 50] {
        let mut bytes = whole.clone();
        bytes[place] ^= 0x10;
        fs::write(&journal, &bytes).expect("writable");
        assert_eq!(world.home.try_start().err(), Some(7), "flip at {place}");
        let log = fs::read_to_string(world.home.log()).expect("a log");
        let said = log.lines().rev().find(|line| line.contains("E-AUDIT-02")).expect("it says why");
        assert!(said.contains("damaged at byte") && said.contains("keyserver recover"), "{said}");
        let verdict = world.home.command(&["audit", "verify"]);
        assert_eq!(verdict.status.code(), Some(12));
        let verdict: serde_json::Value = serde_json::from_slice(&verdict.stdout).expect("JSON");
        assert!(verdict["damaged_at"].as_u64().is_some_and(|at| at <= place as u64), "{verdict}");
        assert_eq!(fs::read(&journal).expect("readable"), bytes, "nothing was changed");
    }
}

#[tokio::test]
async fn journal_and_keys_are_enough_to_go_on() {
    let world = World::new();
    sale(&world).await;
    for entry in fs::read_dir(world.home.data()).expect("a folder") {
        let path = entry.expect("readable").path();
        let kept = path.file_name().is_some_and(|name| name == "journal")
            || path.extension().is_some_and(|extension| extension == "key");
        if !kept {
            fs::remove_file(path).expect("removed");
        }
    }
    let keyserver = world.home.start();
    assert!(world.deposit(&keyserver).await.expect("known"), "the key is still there");
    let viewer = world.household();
    let shop = viewer.shop(&keyserver).await;
    let order = shop.order(KEY, world.film.item, "rent").await.expect("ordered");
    let code = world.home.ask(&["pass", "create", "--credits", "1", "--valid", "1d"])["code"]
        .as_str()
        .expect("a code")
        .to_owned();
    shop.pay(&order.order, &code).await.expect("paid");
    assert_eq!(shop.grant(&order.order).await.expect("granted").key.expose(), world.film.key.expose());
}

#[tokio::test]
async fn keys_that_are_missing_or_of_another_keyserver_are_not_replaced() {
    let world = World::new();
    sale(&world).await;
    let other = World::new();
    sale(&other).await;
    for name in ["master.key", "identity.key"] {
        let path = world.home.file(name);
        let kept = fs::read(&path).expect("readable");
        fs::remove_file(&path).expect("removed");
        assert_eq!(world.home.try_start().err(), Some(4), "{name} is missing");
        assert!(!path.exists(), "no other {name} is made");
        fs::copy(other.home.file(name), &path).expect("copied");
        assert_eq!(world.home.try_start().err(), Some(7), "{name} is of another keyserver");
        fs::write(&path, kept).expect("writable");
    }
    fs::rename(world.home.file("journal"), world.home.data().join("away")).expect("renamed");
    assert_eq!(world.home.try_start().err(), Some(7), "a journal that is gone is not begun anew");
    fs::rename(world.home.data().join("away"), world.home.file("journal")).expect("renamed");
    drop(world.home.start());
}

#[tokio::test]
async fn audit_shows_and_exports_every_record() {
    let world = World::new();
    sale(&world).await;
    let shown = world.home.command(&["audit", "show", "--limit", "2"]);
    assert_eq!(String::from_utf8_lossy(&shown.stdout).lines().count(), 2);
    let out = world.home.data().join("export.jsonl");
    assert!(world.home.command(&["audit", "export", "--out", path(&out)]).status.success());
    let exported = fs::read_to_string(&out).expect("readable");
    let kinds: Vec<String> = exported
        .lines()
        .map(|line| {
            serde_json::from_str::<serde_json::Value>(line).expect("JSON")["record"]["kind"]
                .as_str()
                .expect("a kind")
                .to_owned()
        })
        .collect();
    assert_eq!(
        kinds,
        ["publisher_admitted", "key_deposited", "order_created", "pass_created", "pass_redeemed", "granted"]
    );
    assert_eq!(
        world.home.command(&["audit", "export", "--out", path(&out)]).status.code(),
        Some(1),
        "nothing is overwritten"
    );
}

fn path(path: &Path) -> &str {
    path.to_str().expect("text")
}
