//! The queue of a customer in a running swarm: its order (F15), its windows (F17), and what leaves it.

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::Value;

use crate::processes::Swarm;

/// Chunks that one source may have been asked for when the order changes (`transfers.outstanding_per_source`), and one
/// that is being written.
const UNDER_WAY: u64 = 5;

fn held(title: &Value) -> u64 {
    title["chunks_held"].as_u64().unwrap_or(0)
}

fn is(state: &'static str) -> impl Fn(&Value) -> bool {
    move |title| title["state"] == state
}

fn utc_secs() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("it is after 1970").as_secs()
}

/// A time of day in UTC, so many seconds after this one.
fn clock(secs: u64) -> String {
    let in_day = secs % 86_400;
    format!("{:02}:{:02}:{:02}", in_day / 3_600, in_day / 60 % 60, in_day % 60)
}

#[test]
fn new_order_is_in_effect_at_once_and_what_leaves_the_queue_half_fetched_is_freed() {
    let swarm = Swarm::start("2 MiB/s");
    for (name, mib) in [("Atlas", 16), ("Reef", 6), ("Vale", 16)] {
        swarm.publish(name, mib);
    }
    swarm.box_.says(&["queue", "add", "Atlas"]);
    swarm.box_.says(&["queue", "add", "Reef"]);
    swarm.until("Atlas", "its first chunks", |title| held(title) >= 2);

    let before = held(&swarm.title("Atlas"));
    swarm.box_.says(&["queue", "mv", "Reef", "1"]);
    swarm.until("Reef", "its first chunk", |title| held(title) >= 1);
    swarm.until("Reef", "all of it", is("available"));
    // I9: while a chunk of the higher title was to be had, none of the lower one was asked for.
    let after = held(&swarm.title("Atlas"));
    assert!(after <= before + UNDER_WAY, "{before} chunks of the lower title have become {after}");
    let atlas = swarm.until("Atlas", "all of it", is("available"));
    assert_eq!(atlas["wasted_bytes"], 0, "no chunk was lost on the way: {atlas}");

    swarm.box_.says(&["queue", "add", "Vale"]);
    let vale = swarm.until("Vale", "its first chunk", |title| held(title) >= 1);
    let file = swarm.box_.data().join("items").join(format!("{}.item", vale["item"].as_str().expect("an item")));
    assert!(file.exists());
    let removed = swarm.box_.says(&["queue", "rm", "Vale"]);
    let note = removed["note"].as_str().expect("a note");
    assert!(note.contains("freed") && note.contains("partly here"), "{note}");
    assert!(!file.exists(), "its room is free");
    let kept = swarm.box_.says(&["queue", "rm", "Atlas"]);
    assert!(kept["note"].as_str().is_some_and(|note| note.contains("stays")), "{kept}");
}

#[test]
fn viewer_is_told_when_a_title_will_be_here_before_and_after_queueing_it() {
    let swarm = Swarm::start("1 MiB/s");
    swarm.publish("Atlas", 30);
    let promise = swarm.eventually("a promise", || {
        let told = swarm.box_.says(&["queue", "estimate", "Atlas"]);
        told["ready"].is_string().then_some(told)
    });
    assert!(promise["missing_bytes"].as_u64().is_some_and(|missing| missing > 30 << 20), "{promise}");
    assert!(promise["bytes_per_sec"].as_u64().is_some_and(|rate| rate > 0), "{promise}");

    let added = swarm.box_.says(&["queue", "add", "Atlas"]);
    let note = added["note"].as_str().expect("a note");
    assert!(note.starts_with("ready in about "), "{note}");
    let title = swarm.until("Atlas", "its first chunk", |title| held(title) >= 1);
    let page = swarm.box_.page(&format!("/tv/watch/{}", title["item"].as_str().expect("an item")));
    assert!(page.contains("Ready in about "), "{page}");
}

#[test]
fn bytes_stop_when_the_window_ends_and_go_on_in_the_next_one() {
    let swarm = Swarm::start("2 MiB/s");
    swarm.publish("Night train", 40);
    swarm.tracker.says(&["site", "set", "main", "--zone", "UTC"]);
    swarm.box_.says(&["queue", "add", "Night train", "--tonight"]);
    swarm.until("Night train", "its first chunks", |title| held(title) >= 2);

    let now = utc_secs();
    let (ends, next) = (now + 4, now + 12);
    let window = |from: u64, to: u64| {
        swarm.tracker.says(&["site", "window", "add", "main", "daily", &format!("{}-{}", clock(from), clock(to))]);
    };
    window(now + 86_400 - 600, ends);
    window(next, now + 3_600);

    let stopped = swarm.until("Night train", "the end of the window", is("scheduled"));
    assert!(utc_secs() >= ends, "it stopped before the window ended: {stopped}");
    let reason = stopped["reason"].as_str().expect("a reason");
    assert!(reason.contains(&clock(next)) && reason.ends_with("(site time)"), "{reason}");
    assert_eq!(stopped["delivery"], "tonight");
    let resumed = swarm.until("Night train", "the next window", |title| {
        let waits = title["state"] == "scheduled";
        assert!(!waits || held(title) <= held(&stopped) + UNDER_WAY, "bytes came while it was closed: {title}");
        !waits
    });
    assert!(utc_secs() >= next, "it went on before the window began: {resumed}");
    let done = swarm.until("Night train", "all of it", is("available"));
    assert!(held(&done) > held(&stopped), "{done}");
}
