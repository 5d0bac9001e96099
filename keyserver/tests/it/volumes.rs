//! A journal that has grown: volumes, snapshots, archives, backups, recovery.

use std::fs;
use std::time::Duration;

use swarm_proto::pb::keyserver::OrderState;

use crate::process::Process;
use crate::world::World;

/// How long a snapshot of a few hundred records may take on a busy machine.
const SNAPSHOT_WITHIN: Duration = Duration::from_secs(30);

const SMALL: &str = "journal.volume=16 KiB";

fn key(n: usize) -> String {
    format!("purchase-number-{n:04}")
}

/// Sells the film to so many households, each with a pass of its own; gives their orders.
async fn sell(
    world: &World,
    keyserver: &Process,
    numbers: std::ops::Range<usize>,
) -> Vec<(crate::world::Device, Vec<u8>)> {
    world.deposit(keyserver).await.expect("deposited");
    let code = world.home.ask(&["pass", "create", "--credits", "1000", "--valid", "1d"]);
    let code = code["code"].as_str().expect("a code");
    let mut sold = Vec::new();
    for n in numbers {
        let viewer = world.household();
        let shop = viewer.shop(keyserver).await;
        let order = shop.order(&key(n), world.film.item, "rent").await.expect("ordered").order;
        shop.pay(&order, code).await.expect("paid");
        shop.grant(&order).await.expect("granted");
        drop(shop);
        sold.push((viewer, order));
    }
    sold
}

async fn has_snapshots(world: &World, at_least: usize) {
    let seen = async {
        let count = || {
            fs::read_dir(world.home.file("journal.snapshots")).map_or(0, |entries| {
                entries.filter(|entry| entry.as_ref().is_ok_and(|entry| entry.file_name() != "taking")).count()
            })
        };
        while count() < at_least {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(SNAPSHOT_WITHIN, seen).await.expect("a snapshot is taken");
}

#[tokio::test]
async fn a_start_needs_only_the_snapshot_and_what_came_after_and_the_whole_history_can_still_be_proven() {
    let world = World::with(&[SMALL]);
    let keyserver = world.home.start();
    let sold = sell(&world, &keyserver, 0..40).await;
    has_snapshots(&world, 2).await;
    assert_eq!(keyserver.stop().await, 143);
    let verdict = world.home.ask(&["audit", "verify"]);
    assert_eq!((&verdict["ok"], verdict["kinds"]["granted"].as_u64()), (&true.into(), Some(40)), "{verdict}");
    assert!(verdict["volumes"].as_u64().is_some_and(|volumes| volumes >= 2), "{verdict}");
    assert!(verdict["snapshots_proven"].as_u64().is_some_and(|proven| proven >= 1), "{verdict}");

    let archive = world.home.data().with_file_name("archive");
    fs::rename(world.home.file("journal.volumes"), &archive).expect("moved away");
    let keyserver = world.home.start();
    for (viewer, order) in &sold {
        let shop = viewer.shop(&keyserver).await;
        assert_eq!(shop.look(order).await.expect("found").state(), OrderState::Granted);
        assert!(shop.grant(order).await.is_ok());
    }
    sell(&world, &keyserver, 40..42).await;
    assert_eq!(keyserver.stop().await, 143);
    let believed = world.home.ask(&["audit", "verify"]);
    assert!(believed["ok"] == true && believed["believed_to"].as_u64().is_some(), "{believed}");
    let proven = world.home.ask(&["audit", "verify", "--archive", archive.to_str().expect("text")]);
    assert!(proven["ok"] == true && proven["believed_to"].is_null(), "{proven}");
    assert_eq!(proven["kinds"]["granted"].as_u64(), Some(42), "{proven}");
    assert_eq!(proven["head"], believed["head"]);
}

#[tokio::test]
async fn everything_but_keys_journal_and_volumes_can_be_lost() {
    let world = World::with(&[SMALL]);
    let keyserver = world.home.start();
    let sold = sell(&world, &keyserver, 0..20).await;
    has_snapshots(&world, 1).await;
    keyserver.kill();
    for entry in fs::read_dir(world.home.data()).expect("a folder") {
        let path = entry.expect("readable").path();
        let name = path.file_name().and_then(|name| name.to_str()).expect("text");
        match name {
            "journal" | "journal.volumes" => {}
            _ if name.ends_with(".key") => {}
            _ if path.is_dir() => fs::remove_dir_all(path).expect("removed"),
            _ => fs::remove_file(path).expect("removed"),
        }
    }
    let keyserver = world.home.start();
    for (viewer, order) in &sold {
        assert_eq!(viewer.shop(&keyserver).await.look(order).await.expect("found").state(), OrderState::Granted);
    }
    has_snapshots(&world, 1).await;
}

#[tokio::test]
async fn a_snapshot_that_says_something_else_is_found() {
    let world = World::with(&[SMALL]);
    let keyserver = world.home.start();
    sell(&world, &keyserver, 0..20).await;
    has_snapshots(&world, 1).await;
    assert_eq!(keyserver.stop().await, 143);
    let entry = fs::read_dir(world.home.file("journal.snapshots")).expect("a folder").next().expect("one");
    let path = entry.expect("readable").path();
    let whole = fs::read(&path).expect("readable");
    for place in [20, whole.len() / 2, whole.len() - 10] {
        let mut bytes = whole.clone();
        bytes[place] ^= 1;
        fs::write(&path, &bytes).expect("writable");
        assert_eq!(world.home.try_start().err(), Some(7), "flip at {place}");
        assert_eq!(world.home.command(&["audit", "verify"]).status.code(), Some(12), "flip at {place}");
    }
    let recovered = world.home.ask(&["recover", "--apply"]);
    assert_eq!(recovered["ok"], true, "{recovered}");
    assert!(!path.exists(), "the volumes say the same");
    drop(world.home.start());
}

#[tokio::test]
async fn a_restored_backup_is_served_only_after_the_loss_was_accepted() {
    let world = World::new();
    let keyserver = world.home.start();
    let mut sold = sell(&world, &keyserver, 0..3).await;
    assert_eq!(keyserver.stop().await, 143);
    let backup = fs::read(world.home.file("journal")).expect("readable");
    let keyserver = world.home.start();
    sold.extend(sell(&world, &keyserver, 3..5).await);
    assert_eq!(keyserver.stop().await, 143);

    fs::write(world.home.file("journal"), backup).expect("restored");
    assert_eq!(world.home.try_start().err(), Some(7));
    let log = fs::read_to_string(world.home.log()).expect("a log");
    let said = log.lines().rev().find(|line| line.contains("E-AUDIT-05")).expect("it says why");
    assert!(said.contains("7 records before what was once here") && said.contains("--accept-rollback"), "{said}");
    let keyserver = world.home.try_start_with(&[], &["--accept-rollback"]).expect("it starts");
    for (n, (viewer, order)) in sold.iter().enumerate() {
        let found = viewer.shop(&keyserver).await.look(order).await;
        assert_eq!(found.is_ok(), n < 3, "order {n}");
    }
    assert_eq!(keyserver.stop().await, 143);
    assert_eq!(world.home.records("rollback_accepted"), 1, "the loss is in the books");
    drop(world.home.start());
}

#[tokio::test]
async fn an_older_journal_that_went_on_elsewhere_is_noticed_too() {
    let world = World::new();
    let keyserver = world.home.start();
    sell(&world, &keyserver, 0..1).await;
    assert_eq!(keyserver.stop().await, 143);
    let backup = fs::read(world.home.file("journal")).expect("readable");
    let keyserver = world.home.start();
    sell(&world, &keyserver, 1..3).await;
    assert_eq!(keyserver.stop().await, 143);
    let anchor = world.home.anchor();
    let seen = fs::read(&anchor).expect("an anchor");
    fs::write(world.home.file("journal"), backup).expect("restored");
    let keyserver = world.home.try_start_with(&[], &["--accept-rollback"]).expect("it starts");
    sell(&world, &keyserver, 3..7).await;
    assert_eq!(keyserver.stop().await, 143);
    fs::write(&anchor, seen).expect("restored");
    assert_eq!(world.home.try_start().err(), Some(7), "longer than the anchor, but not the same");
}

#[tokio::test]
async fn recovery_explains_mends_and_keeps_what_was_there() {
    let world = World::new();
    let keyserver = world.home.start();
    let sold = sell(&world, &keyserver, 0..3).await;
    assert_eq!(keyserver.stop().await, 143);
    let journal = world.home.file("journal");
    let whole = fs::read(&journal).expect("readable");
    let mut bytes = whole.clone();
    bytes[whole.len() / 2] ^= 4;
    fs::write(&journal, &bytes).expect("writable");
    assert_eq!(world.home.try_start().err(), Some(7));
    let log = fs::read_to_string(world.home.log()).expect("a log");
    assert!(log.contains("keyserver recover"), "it says what to do");

    let looked = world.home.command(&["recover"]);
    assert_eq!(looked.status.code(), Some(7));
    let report: serde_json::Value = serde_json::from_slice(&looked.stdout).expect("JSON");
    assert!(report["findings"][0]["remedy"].as_str().is_some_and(|remedy| remedy.contains("flipped back")), "{report}");
    assert_eq!(fs::read(&journal).expect("readable"), bytes, "looking changes nothing");

    let mended = world.home.ask(&["recover", "--apply"]);
    assert_eq!(fs::read(&journal).expect("readable"), whole);
    let copy = mended["findings"][0]["done"].as_str().expect("a copy");
    assert_eq!(fs::read(copy).expect("readable"), bytes);
    let keyserver = world.home.start();
    assert_eq!(world.home.command(&["recover", "--apply"]).status.code(), Some(10), "not while it runs");
    for (viewer, order) in &sold {
        assert_eq!(viewer.shop(&keyserver).await.look(order).await.expect("found").state(), OrderState::Granted);
    }
}

#[tokio::test]
async fn a_clock_behind_the_journal_raises_the_alarm() {
    let world = World::new();
    let keyserver = world.home.start();
    sell(&world, &keyserver, 0..1).await;
    assert_eq!(keyserver.stop().await, 143);
    let Some(faketime) = library("libfaketime.so.1") else {
        return eprintln!("skipped: libfaketime is not installed");
    };
    let variables = [("LD_PRELOAD", faketime.as_str()), ("FAKETIME", "-600s"), ("FAKETIME_DONT_FAKE_MONOTONIC", "1")];
    let keyserver = world.home.try_start_with(&variables, &[]).expect("it starts");
    let (status, report) = crate::world::get(&keyserver, "/readyz?verbose").await;
    assert_eq!(status, 503, "{report}");
    assert!(report.contains("time differs from the last record by 5") || report.contains("by 600 s"), "{report}");
}

fn library(name: &str) -> Option<String> {
    let folders = ["/usr/lib/x86_64-linux-gnu/faketime", "/usr/lib/aarch64-linux-gnu/faketime", "/usr/lib/faketime"];
    folders.iter().map(|folder| format!("{folder}/{name}")).find(|path| std::path::Path::new(path).exists())
}
