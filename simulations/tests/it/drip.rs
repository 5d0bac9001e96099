//! Keys that leave while a film plays, its free beginning, and where it can be paid: through a box, in a running swarm.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::far::far_from;
use crate::processes::Swarm;

const FILM: &[u8] = include_bytes!("../../media/harbour-at-dawn.mp4");

/// Between the box and its keyserver, there and back.
const ROUND_TRIP: Duration = Duration::from_millis(500);

/// What the films of these tests need.
const BITS_PER_SEC: u64 = 20_000_000;

/// Clear bytes of a span.
const SPAN: u64 = 256 * 65_520;

/// A real film, followed by so many MiB that players skip, and of a stated length that gives it its bit rate.
struct Film {
    path: PathBuf,
    len: u64,
}

impl Film {
    fn of(folder: &Path, mib: u64) -> Film {
        let (path, len) = (folder.join("film.mp4"), mib << 20);
        let mut head = FILM.to_vec();
        let seconds = u32::try_from(len * 8 / BITS_PER_SEC).expect("a short film");
        // mvhd: version and flags, two dates, time scale, duration.
        let at = head.windows(4).position(|name| name == b"mvhd").expect("an index") + 4;
        assert_eq!(head[at], 0, "a header of version 0");
        let scale = u32::from_be_bytes(head[at + 12..at + 16].try_into().expect("four bytes"));
        head[at + 16..at + 20].copy_from_slice(&(scale * seconds).to_be_bytes());
        let rest = len - head.len() as u64;
        let mut file = File::create(&path).expect("a file");
        file.write_all(&head).expect("written");
        file.write_all(&u32::try_from(rest).expect("small").to_be_bytes()).expect("written");
        file.write_all(b"free").expect("written");
        let mut noise = vec![0; usize::try_from(rest - 8).expect("small")];
        blake3::Hasher::new_derive_key("reelswarm tests noise").finalize_xof().fill(&mut noise);
        file.write_all(&noise).expect("written");
        Film { path, len }
    }

    fn bytes(&self) -> Vec<u8> {
        std::fs::read(&self.path).expect("it is there")
    }
}

/// A swarm whose box has fetched the film and is half a second away from its keyserver.
fn swarm_with(folder: &Path, mib: u64, how: &[&str]) -> (Swarm, Film) {
    let swarm = Swarm::start_far("unlimited", |keyserver| {
        let near: SocketAddr = keyserver.trim_start_matches("http://").parse().expect("an address");
        format!("http://{}", far_from(near, ROUND_TRIP))
    });
    let film = Film::of(folder, mib);
    swarm.publish_file("Harbour", &film.path, how);
    swarm.box_.says(&["queue", "add", "Harbour"]);
    swarm.until("Harbour", "all of it", |title| title["state"] == "available");
    (swarm, film)
}

fn pay(swarm: &Swarm) {
    let pass = swarm.keyserver.says(&["pass", "create", "--credits", "1", "--valid", "1d"]);
    swarm.box_.says(&["pay", "Harbour", "--pass", pass["code"].as_str().expect("a code")]);
    swarm.until("Harbour", "its licence", |title| title["playable"] == true);
}

/// A player's request: the head of the answer, and the connection from which the body comes.
fn request(url: &str, range: &str) -> (String, TcpStream) {
    let (authority, path) = url.trim_start_matches("http://").split_once('/').expect("a path");
    let mut stream = TcpStream::connect(authority).expect("the box listens");
    stream.set_read_timeout(Some(Duration::from_secs(60))).expect("an open socket");
    write!(stream, "GET /{path} HTTP/1.1\r\nhost: {authority}\r\nconnection: close\r\n{range}\r\n").expect("sent");
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).expect("a head");
        head.push(byte[0]);
    }
    (String::from_utf8(head).expect("text"), stream)
}

fn body(url: &str, range: &str) -> (String, Vec<u8>) {
    let (head, mut stream) = request(url, range);
    let mut body = Vec::new();
    stream.read_to_end(&mut body).expect("a body");
    (head, body)
}

fn url(answer: &Value) -> &str {
    answer["url"].as_str().expect("an address")
}

fn kinds(swarm: &Swarm, kind: &str) -> u64 {
    swarm.keyserver.says(&["audit", "verify"])["kinds"][kind].as_u64().unwrap_or(0)
}

#[test]
fn a_film_that_drips_plays_and_jumps_through_the_box_far_from_its_keyserver() {
    let folder = tempfile::tempdir().expect("a folder");
    let (swarm, film) = swarm_with(folder.path(), 72, &["--offer", "rent:2.99EUR:48h:drip"]);
    pay(&swarm);
    assert_eq!(kinds(&swarm, "spans_allowed"), 0, "no key has left");
    let play = swarm.box_.says(&["play", "Harbour"]);
    let clear = film.bytes();
    let (head, shown) = body(url(&play), "");
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    assert!(shown == clear, "all of it, byte for byte");
    for at in [3 * SPAN + 5, 100, film.len - 1_000] {
        let (head, part) = body(url(&play), &format!("range: bytes={at}-{}\r\n", at + 999));
        assert!(head.starts_with("HTTP/1.1 206"), "{head}");
        let at = usize::try_from(at).expect("small");
        assert!(part == clear[at..(at + 1_000).min(clear.len())], "what it jumps to");
    }
    assert_eq!(kinds(&swarm, "granted"), 1);
    assert_eq!(kinds(&swarm, "first_played"), 1);
    assert_eq!(kinds(&swarm, "spans_allowed"), 1, "one record for all its keys");
}

#[test]
fn preview_plays_to_its_end_and_says_how_to_go_on() {
    let folder = tempfile::tempdir().expect("a folder");
    let (swarm, film) = swarm_with(folder.path(), 40, &["--offer", "rent:2.99EUR:48h", "--preview", "3s"]);
    let title = swarm.title("Harbour");
    assert_eq!(title["playable"], false, "nobody has paid");
    let preview = swarm.box_.says(&["play", "Harbour", "--preview"]);
    let (head, shown) = body(url(&preview), "");
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    assert_eq!(shown.len() as u64, SPAN, "one span holds the first three seconds");
    assert!(shown == film.bytes()[..shown.len()], "the film's beginning");
    let beyond = format!("range: bytes={SPAN}-\r\n");
    assert!(request(url(&preview), &beyond).0.starts_with("HTTP/1.1 416"), "and nothing of what comes then");
    let go_on = preview["go_on"].as_str().expect("words");
    assert!(go_on.contains("peer-node pay \"Harbour\"") && go_on.contains("/pay/"), "{go_on}");
    assert_eq!(kinds(&swarm, "preview_given"), 1);
    assert_eq!(kinds(&swarm, "order_created"), 0, "it costs nothing");

    let page = swarm.box_.page(&format!("/tv/preview/{}", title["item"].as_str().expect("an id")));
    assert!(page.contains("<video") && page.contains("peer-node pay"), "{page}");
}

#[test]
fn unpaid_title_shows_the_link_under_which_a_phone_can_pay_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let (swarm, _) = swarm_with(folder.path(), 8, &["--offer", "rent:2.99EUR:48h"]);
    let item = swarm.title("Harbour")["item"].as_str().expect("an id").to_owned();
    let page = swarm.box_.page(&format!("/tv/watch/{item}"));
    let shop = format!("{}/pay/", swarm.keyserver.url());
    assert!(page.contains(&shop) && page.contains(&format!("/item/{item}")), "{page}");

    let ordered = swarm.box_.says(&["pay", "Harbour"]);
    assert_eq!(ordered["state"], "pending");
    let link = ordered["checkout_url"].as_str().expect("a link").to_owned();
    assert!(link.starts_with(&shop) && link.contains("/order/"), "{link}");
    let (head, shown) = body(&link, "");
    let shown = String::from_utf8_lossy(&shown);
    assert!(head.starts_with("HTTP/1.1 200") && shown.contains("Harbour"), "{head}{shown}");
    let title = swarm.until("Harbour", "the link in the status", |title| title["checkout_url"].is_string());
    assert!(title["checkout_url"].as_str().expect("a link").contains("/order/"));
    pay(&swarm);
    assert!(swarm.title("Harbour")["checkout_url"].is_null(), "it is paid");
}

#[test]
fn keyserver_that_is_away_stops_nothing_that_plays_and_what_is_bought_meanwhile_comes_by_itself() {
    let folder = tempfile::tempdir().expect("a folder");
    let (mut swarm, film) = swarm_with(folder.path(), 24, &["--offer", "rent:2.99EUR:48h"]);
    swarm.publish("Reef", 6);
    pay(&swarm);
    let play = swarm.box_.says(&["play", "Harbour"]);
    let (_, mut stream) = request(url(&play), "");
    let mut shown = vec![0; 1 << 20];
    stream.read_exact(&mut shown).expect("it plays");

    swarm.keyserver.stop();
    stream.read_to_end(&mut shown).expect("it plays on");
    assert!(shown == film.bytes(), "to its end, byte for byte");
    let (_, again) = body(url(&play), "range: bytes=0-99\r\n");
    assert_eq!(again.len(), 100, "a title with a licence plays anew");
    swarm.box_.says(&["queue", "add", "Reef"]);
    swarm.until("Reef", "all of it, though nobody can pay", |title| title["state"] == "available");
    let wish = swarm.box_.says(&["pay", "Reef"]);
    assert_eq!(wish["state"], "waiting for the keyserver", "it says so at once");
    assert_eq!(swarm.title("Reef")["playable"], false);

    swarm.keyserver.run_again();
    let ordered = swarm.until("Reef", "its order, by itself", |title| title["checkout_url"].is_string());
    assert_eq!(ordered["playable"], false);
    let orders = swarm.keyserver.says(&["order", "ls"]);
    assert_eq!(orders.as_array().map(Vec::len), Some(2), "one order each: {orders}");
}

#[test]
#[ignore = "takes as long as its film plays, half a minute; run with --run-ignored all"]
fn a_film_of_20_mbit_that_drips_never_stalls_half_a_second_from_its_keyserver() {
    let folder = tempfile::tempdir().expect("a folder");
    let (swarm, film) = swarm_with(folder.path(), 88, &["--offer", "rent:2.99EUR:48h:drip"]);
    pay(&swarm);
    let play = swarm.box_.says(&["play", "Harbour"]);
    let asked = Instant::now();
    let (head, mut stream) = request(url(&play), "");
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    let watched = watch(&mut stream, film.len);
    println!(
        "{} MiB at {} Mbit/s: begins after {:?}, {} stalls, {:?} in all",
        film.len >> 20,
        BITS_PER_SEC / 1_000_000,
        watched.begun.duration_since(asked),
        watched.stalls,
        watched.stalled
    );
    assert_eq!(watched.stalls, 0, "{:?} in all", watched.stalled);
}

struct Watched {
    begun: Instant,
    stalls: u32,
    stalled: Duration,
}

/// Plays as a player with a small buffer does: begins with 256 KiB and is never more than a second ahead.
fn watch(stream: &mut TcpStream, len: u64) -> Watched {
    let rate = BITS_PER_SEC / 8;
    let plays = |bytes: u64| Duration::from_micros(bytes * 1_000_000 / rate);
    let (mut received, mut buffer) = (0, vec![0; 64 << 10]);
    let mut begun = None;
    let (mut stalls, mut stalled) = (0, Duration::ZERO);
    while received < len {
        let read = stream.read(&mut buffer).expect("the film goes on");
        assert!(read > 0, "the film ends too early, after {received} bytes");
        let now = Instant::now();
        if let Some(begun) = begun {
            let due: Instant = begun + plays(received) + stalled;
            if now > due {
                (stalls, stalled) = (stalls + 1, stalled + now.duration_since(due));
            }
        }
        received += read as u64;
        if begun.is_none() && received >= 256 << 10 {
            begun = Some(now);
        }
        if let Some(begun) = begun {
            let ahead = (begun + plays(received) + stalled).saturating_duration_since(now);
            // A player takes no more than it has room for.
            std::thread::sleep(ahead.saturating_sub(Duration::from_secs(1)));
        }
    }
    Watched { begun: begun.expect("it has begun"), stalls, stalled }
}
