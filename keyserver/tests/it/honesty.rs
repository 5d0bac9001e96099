//! What is on the wire was on the disk before, seen from outside: in the system calls of a keyserver.

use std::fs;
use std::process::Command;

use swarm_proto::pb::keyserver::OrderState;

use crate::world::{TillMessage, World, now, paid_body};

/// The calls that write to disk or wire, or wait for the disk.
const CALLS: &str = "trace=pwrite64,write,writev,sendto,sendmsg,fdatasync,fsync";

/// The frames of HTTP/2 that carry an answer; all others only keep the connection going.
const DATA: u8 = 0;
const HEADERS: u8 = 1;

#[tokio::test]
async fn every_reply_on_the_wire_comes_after_the_journal_is_on_the_disk() {
    if Command::new("strace").arg("-V").output().is_err() {
        return skip("strace is not installed");
    }
    let world = World::new();
    let trace = world.home.log().with_file_name("trace");
    let Some(keyserver) = world.home.start_traced(CALLS, &trace) else { return skip("nothing may be traced here") };
    // One request at a time, so that no reply to one is seen while another is being written.
    world.deposit(&keyserver).await.expect("deposited");
    let secret = world.home.ask(&["webhook", "secret", "new"])["secret"].as_str().expect("a secret").to_owned();
    let code = world.home.ask(&["pass", "create", "--credits", "5", "--valid", "1d"])["code"]
        .as_str()
        .expect("a code")
        .to_owned();
    let viewer = world.household();
    let shop = viewer.shop(&keyserver).await;
    for n in 0..3 {
        let order = shop.order(&format!("watched-purchase-{n}"), world.film.item, "rent").await.expect("ordered");
        if n == 0 {
            shop.pay(&order.order, &code).await.expect("paid");
        } else {
            let body = paid_body(&order, viewer.account());
            let message = TillMessage::signed(&secret, &format!("evt_{n}"), now().as_secs(), &body);
            assert_eq!(message.send(&keyserver).await.0, 200);
        }
        shop.grant(&order.order).await.expect("granted");
        assert_eq!(shop.look(&order.order).await.expect("found").state(), OrderState::Granted);
    }
    drop(shop);
    assert_eq!(keyserver.stop().await, 143);

    let written = judge(&fs::read_to_string(&trace).expect("a trace"));
    // A publisher, a key, a pass, and three times an order, a payment and a grant.
    // The publisher of the configuration need not be told to anybody.
    assert_eq!(written.records, 12);
    assert!(written.replies_after >= 11, "{written:?}");
}

fn skip(why: &str) {
    assert!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "{why}");
    eprintln!("skipped: {why}");
}

/// What a trace shows.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    /// Writes to the journal.
    records: usize,
    /// Of those, how many were on disk before the next reply. The publisher of the configuration is told to nobody.
    replies_after: usize,
}

/// Follows the calls in their order; fails at a reply while a record is written and not on disk.
fn judge(trace: &str) -> Seen {
    let mut seen = Seen { records: 0, replies_after: 0 };
    let (mut dirty, mut told) = (false, true);
    let mut syncing = None;
    for line in trace.lines() {
        let (process, call) = line.trim_start().split_once(' ').expect("a process and a call");
        let call = call.trim_start();
        let of_journal = call.split(')').next().is_some_and(|head| head.split(',').next().is_some_and(is_journal));
        if call.starts_with("pwrite64(") && of_journal {
            (dirty, told) = (true, false);
            seen.records += 1;
        } else if call.starts_with("fdatasync(") && of_journal {
            match call.ends_with("<unfinished ...>") {
                true => syncing = Some(process.to_owned()),
                false => dirty &= !call.ends_with("= 0"),
            }
        } else if call.starts_with("<... fdatasync resumed>") && syncing.as_deref() == Some(process) {
            syncing = None;
            dirty &= !call.ends_with("= 0");
        } else if call.contains("<TCP:") && is_reply(&bytes_of(call)) {
            assert!(!dirty, "a reply left before the journal was on disk: {}", &line[..line.len().min(300)]);
            seen.replies_after += usize::from(!told);
            told = true;
        }
    }
    seen
}

/// Whether the first argument of a call, with its path in hex or as text, is the journal.
fn is_journal(argument: &str) -> bool {
    let hex: String = b"/data/journal".iter().map(|byte| format!("\\x{byte:02x}")).collect();
    argument.contains("/data/journal>") || argument.contains(&format!("{hex}>"))
}

/// The bytes that a call writes, which strace prints in hex, each string between quotes.
fn bytes_of(call: &str) -> Vec<u8> {
    let strings = call.split('"').skip(1).step_by(2);
    strings.flat_map(|text| text.split("\\x").filter_map(|hex| u8::from_str_radix(hex, 16).ok())).collect()
}

fn is_reply(bytes: &[u8]) -> bool {
    if bytes.starts_with(b"HTTP/1.1") {
        return true;
    }
    let mut rest = bytes;
    while let [a, b, c, kind, ..] = rest {
        if matches!(*kind, DATA | HEADERS) {
            return true;
        }
        let len = 9 + u32::from_be_bytes([0, *a, *b, *c]) as usize;
        rest = rest.get(len..).unwrap_or_default();
    }
    false
}

#[test]
fn a_reply_that_leaves_too_early_is_seen() {
    let path = "/tmp/x/data/journal";
    let reply = r#"writev(9<TCP:[127.0.0.1:1->127.0.0.1:2]>, [{iov_base="\x48\x54\x54\x50\x2f\x31\x2e\x31", iov_len=8}], 1) = 8"#;
    let honest = format!("7 pwrite64(5<{path}>, \"\\x00\", 1, 80) = 1\n7 fdatasync(5<{path}>) = 0\n8 {reply}\n");
    assert_eq!(judge(&honest), Seen { records: 1, replies_after: 1 });
    let early = format!(
        "7 pwrite64(5<{path}>, \"\\x00\", 1, 80) = 1\n7 fdatasync(5<{path}> <unfinished ...>\n8 {reply}\n7 <... fdatasync resumed>) = 0\n"
    );
    assert!(std::panic::catch_unwind(|| judge(&early)).is_err());
}
