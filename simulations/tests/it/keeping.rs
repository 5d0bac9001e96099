//! What is kept without anybody asking, with real processes: copies on seeds, beginnings on boxes, and what gives way.

use serde_json::Value;

use crate::processes::{Program, Swarm, poll};

fn is_available(title: &Value) -> bool {
    title["state"] == "available"
}

/// Asks the tracker until its answer is as wished for.
fn until(swarm: &Swarm, args: &[&str], good: impl Fn(&Vec<Value>) -> bool) -> Vec<Value> {
    poll(&args.join(" "), || swarm.tracker.lists(args), good)
}

fn copies(rows: &[Value]) -> u64 {
    rows.iter().filter_map(|row| row["copies"].as_u64()).sum()
}

fn stands(rows: &[Value], name: &str, state: &str) -> bool {
    rows.iter().any(|row| row["name"] == name && row["state"] == state)
}

#[test]
fn title_is_copied_repaired_and_drained_by_itself_and_a_new_seed_fills() {
    let swarm = Swarm::start_with("unlimited", &["repositories.lost_after=2s"]);
    let mut others: Vec<Program> = ["seed-2", "seed-3"].map(|name| swarm.join(name, "seed")).into();
    let item = swarm.publish("Harbour", 2);

    let rows = until(&swarm, &["seeds"], |rows| copies(rows) == 2);
    let second = rows.iter().position(|row| row["copies"] == 1 && row["name"] != "seed").expect("a second one");
    let at = usize::from(rows[second]["name"] == "seed-3");
    others[at].until("Harbour", "the second copy", is_available);
    assert!(!others[1 - at].has_file_of(&item), "two copies are wanted, not three");
    until(&swarm, &["seed", "show", "seed"], |rows| rows[0]["proof"] == "proven" && rows[0]["copies"] == 2);

    others[at].stop();
    others[1 - at].until("Harbour", "the repair", is_available);
    let lost = if at == 0 { "seed-2" } else { "seed-3" };
    until(&swarm, &["seeds"], |rows| stands(rows, lost, "lost"));

    swarm.tracker.says(&["seed", "drain", "seed"]);
    until(&swarm, &["seeds"], |rows| stands(rows, "seed", "drained"));
    poll("the drained seed to be empty", || swarm.seed.has_file_of(&item), |there| !there);
    assert!(others[1 - at].has_file_of(&item));

    let new = swarm.join("seed-4", "seed");
    let here = new.until("Harbour", "a new seed to fill itself", is_available);
    assert_eq!(here["item"], item.as_str());
}

#[test]
fn beginnings_wait_on_boxes_are_proven_and_give_way() {
    let swarm = Swarm::start("unlimited");
    let mut second = swarm.join("box-2", "box");
    let item = swarm.publish("Harbour", 18);
    let other = swarm.publish("Lantern", 2);

    let would = swarm.tracker.says(&["preload", "set", "Harbour", "--share", "100%", "--starts", "--dry-run"]);
    assert_eq!((&would["wanted"], &would["boxes"]), (&2.into(), &2.into()));
    swarm.tracker.says(&["preload", "set", "Harbour", "--share", "100%", "--starts"]);
    let rows = until(&swarm, &["preload", "coverage"], |rows| rows[0]["proven"] == 2);
    assert_eq!((&rows[0]["have"], &rows[0]["boxes"]), (&2.into(), &2.into()));
    for device in [&swarm.box_, &second] {
        let held = |title: &Value| title["chunks_held"] == 16 && title["n_chunks"] == 19;
        device.until("Harbour", "the beginning and no more", held);
    }

    // Who queues it gets the rest.
    swarm.box_.says(&["get", "Harbour"]);
    swarm.until("Harbour", "the rest", is_available);

    // Where nothing fits any more, a preload is given up for what somebody wants.
    second.stop();
    second.start_again(&["items.reserve=1000000 GiB"]);
    second.says(&["queue", "add", "Lantern"]);
    poll("the preload to give way", || second.has_file_of(&item), |there| !there);
    second.until("Lantern", "what is missing", |title| title["reason"].as_str().is_some_and(|it| it.contains("lacks")));
    assert!(swarm.seed.has_file_of(&item) && swarm.seed.has_file_of(&other));

    // What was withdrawn stays where somebody has queued it.
    swarm.tracker.says(&["preload", "rm", "Harbour"]);
    until(&swarm, &["preload", "ls"], Vec::is_empty);
    swarm.until("Harbour", "nothing to have changed", is_available);
}
