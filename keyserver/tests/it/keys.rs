//! Keys that are changed, kept elsewhere, or cut off in the middle of a change.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;

use swarm_proto::wrap::{self, HpkePublic, Label};

use crate::process::Process;
use crate::world::{Device, Film, World, now, rng};

/// Something was sold, and a pass has a credit left.
struct Sold {
    viewer: Device,
    order: Vec<u8>,
    code: String,
}

async fn sale(world: &World) -> Sold {
    let keyserver = world.home.start();
    world.deposit(&keyserver).await.expect("deposited");
    let code = world.home.ask(&["pass", "create", "--credits", "2", "--valid", "1d"]);
    let code = code["code"].as_str().expect("a code").to_owned();
    let viewer = world.household();
    let shop = viewer.shop(&keyserver).await;
    let order = shop.order("before-the-change-of-keys", world.film.item, "rent").await.expect("ordered").order;
    shop.pay(&order, &code).await.expect("paid");
    shop.grant(&order).await.expect("granted");
    drop(shop);
    assert_eq!(keyserver.stop().await, 143);
    Sold { viewer, order, code }
}

/// What was sold before a change opens after it, and the rest of the pass is still worth something.
async fn still_works(world: &World, keyserver: &Process, sold: &Sold) {
    let shop = sold.viewer.shop(keyserver).await;
    assert_eq!(shop.grant(&sold.order).await.expect("granted").key.expose(), world.film.key.expose());
    let order = shop.order("after-the-change-of-keys", world.film.item, "rent").await.expect("ordered").order;
    shop.pay(&order, &sold.code).await.expect("the pass is known");
    assert_eq!(shop.grant(&order).await.expect("granted").key.expose(), world.film.key.expose());
}

#[tokio::test]
async fn a_new_master_key_opens_everything_and_the_old_one_nothing() {
    let world = World::new();
    let sold = sale(&world).await;
    let old = fs::read(world.home.file("master.key")).expect("readable");
    for resealed in 1..=2 {
        let rotated = world.home.ask(&["key", "rotate", "master"]);
        assert_eq!(rotated["resealed"], 1, "time {resealed}");
    }
    assert_ne!(fs::read(world.home.file("master.key")).expect("readable"), old);
    assert!(!world.home.file("master.key.next").exists());
    let keyserver = world.home.start();
    assert_eq!(world.home.command(&["key", "rotate", "master"]).status.code(), Some(10), "not while it runs");
    still_works(&world, &keyserver, &sold).await;
    assert!(world.deposit_entry(&keyserver, &world.entry(), &world.film.key).await.expect("known"));
    assert_eq!(keyserver.stop().await, 143);
    assert_eq!(world.home.records("key_resealed"), 2);

    let new = fs::read(world.home.file("master.key")).expect("readable");
    fs::write(world.home.file("master.key"), old).expect("writable");
    assert_eq!(world.home.try_start().err(), Some(7), "the old one does not belong to the journal any more");
    fs::write(world.home.file("master.key"), new).expect("writable");
    drop(world.home.start());
}

#[tokio::test]
async fn a_change_of_the_master_key_that_is_cut_off_goes_on_where_it_stopped() {
    let places = [
        "rotation-begun",
        "record-half-written",
        "rotation-resealed",
        "volume-begun",
        "volume-named",
        "volume-closed",
        "rotation-volume",
        "rotation-pass-key",
        "rotation-master",
    ];
    let world = World::new();
    let sold = sale(&world).await;
    for place in places {
        let crashed = world.home.command_to_crash_at(place, &["key", "rotate", "master"]);
        assert_eq!(crashed.status.signal(), Some(9), "{place}");
        assert_eq!(world.home.try_start().err(), Some(7), "{place}: not before the change is complete");
        let log = fs::read_to_string(world.home.log()).expect("a log");
        assert!(log.contains("E-VAULT-04") && log.contains("keyserver key rotate master"), "{place}");
        world.home.ask(&["key", "rotate", "master"]);
        let keyserver = world.home.start();
        let shop = sold.viewer.shop(&keyserver).await;
        assert!(shop.grant(&sold.order).await.is_ok(), "{place}");
        drop(shop);
        assert_eq!(keyserver.stop().await, 143);
    }
    still_works(&world, &world.home.start(), &sold).await;
}

#[tokio::test]
async fn what_was_wrapped_to_the_deposit_key_before_is_still_taken_and_to_older_ones_not() {
    let world = World::new();
    sale(&world).await;
    let public = || {
        HpkePublic::try_from(
            data_encoding::HEXLOWER
                .decode(world.home.ask(&["id"])["hpke_public"].as_str().expect("text").as_bytes())
                .expect("hex")
                .as_slice(),
        )
    };
    let first = public().expect("a key");
    for (changes, while_it_runs, taken) in [(1, false, true), (2, true, false)] {
        let running = while_it_runs.then(|| world.home.start());
        world.home.ask(&["key", "rotate", "deposit"]);
        assert_ne!(public().expect("a key"), first);
        let keyserver = running.unwrap_or_else(|| world.home.start());
        let film = Film::new(now());
        let mut entry = world.entry();
        (entry.item, entry.title, entry.commitment) = (film.item, film.title, film.key.commitment());
        let aad = wrap::deposit_aad(&entry.item, &entry.commitment);
        let wrapped = wrap::wrap(&mut rng(), &first, Label::Deposit, &aad, film.key.expose()).expect("wrapped");
        let deposited = world.deposit_wrapped(&keyserver, &entry, wrapped).await;
        assert_eq!(deposited.is_ok(), taken, "after {changes} changes: {deposited:?}");
        assert_eq!(keyserver.stop().await, 143);
    }
}

#[tokio::test]
async fn a_master_key_can_come_from_a_command_and_never_lies_in_the_data_folder() {
    let elsewhere = tempfile::tempdir().expect("a folder");
    let script = elsewhere.path().join("unwrap");
    fs::write(&script, format!("#!/bin/sh\necho {}\n", "5a".repeat(32))).expect("written");
    fs::set_permissions(&script, fs::Permissions::from_mode(0o700)).expect("ours");
    let world = World::with(&[&format!("vault.master_command={}", script.display())]);
    let sold = sale(&world).await;
    assert!(!world.home.file("master.key").exists());
    for path in world.home.files() {
        let bytes = fs::read(&path).expect("readable");
        assert!(!bytes.windows(32).any(|window| window == [0x5a; 32]), "{}", path.display());
    }
    world.home.ask(&["key", "rotate", "deposit"]);
    still_works(&world, &world.home.start(), &sold).await;

    fs::write(&script, format!("#!/bin/sh\necho {}\n", "5b".repeat(32))).expect("written");
    assert_eq!(world.home.try_start().err(), Some(7), "another key does not belong to the journal");
    fs::write(&script, "#!/bin/sh\nexit 1\n").expect("written");
    assert_eq!(world.home.try_start().err(), Some(3), "no key, no keyserver");
}
