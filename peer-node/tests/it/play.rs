//! A player at a real socket, compared with the clear file.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use daemon::exit::{Exit, Failure};
use peer_node::engine::ChunkWait;
use peer_node::grants::Keys;
use peer_node::items::Items;
use peer_node::{config, grants, play};
use proptest::prelude::*;
use swarm_proto::catalog::{CatalogEntry, Kind, Media};
use swarm_proto::geometry::ChunkIndex;
use swarm_proto::id::{ItemId, PublisherId, TitleId};
use swarm_proto::limit::Limit;
use swarm_proto::seal::{Opener, Released};
use swarm_proto::time::Utc;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::making::{self, Made, hold, item};

const MIB: usize = 1 << 20;

/// Clear bytes of the preview of the house.
const PREVIEW_LEN: u64 = 1_000_000;

/// A house with one title.
struct House {
    made: Made,
    items: Items,
    refusal: Mutex<Option<Failure>>,
    /// Rights end when this many questions have been asked.
    questions_left: AtomicUsize,
    /// Chunks arrive when asked for; otherwise nobody wants the item.
    arrives: AtomicBool,
    asked_for: Mutex<Vec<u32>>,
}

#[async_trait]
impl play::House for House {
    fn title(&self, item: ItemId) -> Option<CatalogEntry> {
        (item == self.made.manifest.item()).then(|| entry(&self.made))
    }

    async fn open(&self, entry: &CatalogEntry) -> Result<Keys, Failure> {
        match self.refusal.lock().expect("unpoisoned").clone() {
            Some(refusal) => Err(refusal),
            None => Ok(Keys::of(Opener::new(Released::Whole(self.made.key.clone()), entry.geometry))),
        }
    }

    async fn preview(&self, entry: &CatalogEntry) -> Result<(Keys, u64), Failure> {
        let keys = self.made.key.spans(0..1).expect("a span");
        let keys = Keys::of(Opener::new(Released::Spans(keys), entry.geometry));
        Ok((keys, PREVIEW_LEN.min(entry.geometry.plain_len())))
    }

    fn may_go_on(&self, _: ItemId) -> Result<(), Failure> {
        let left = self.questions_left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        left.map(|_| ()).map_err(|_| Failure::new(Exit::Payment, grants::OUTSIDE_WINDOW, "time is over"))
    }

    async fn chunk(&self, item: ItemId, index: ChunkIndex) -> Result<(), ChunkWait> {
        if !self.arrives.load(Ordering::SeqCst) {
            return Err(ChunkWait::NotWanted);
        }
        self.asked_for.lock().expect("unpoisoned").push(index.get());
        self.items.reserve(item, self.made.manifest.clone()).await.expect("room");
        self.items.write(item, index, self.made.chunk(index.get())).await.expect("written");
        Ok(())
    }
}

fn entry(made: &Made) -> CatalogEntry {
    CatalogEntry {
        title: TitleId::from([1; 16]),
        version: 1,
        publisher: PublisherId::from([2; 32]),
        item: made.manifest.item(),
        geometry: *made.manifest.geometry(),
        commitment: made.key.commitment(),
        span_commitment: None,
        name: "Noise".to_owned(),
        description: String::new(),
        kind: Kind::Video,
        media: Media {
            mime: "video/mp4".to_owned(),
            duration: None,
            codecs: String::new(),
            picture: None,
            bit_rate: None,
        },
        artwork: None,
        rating_age: 0,
        regions: Vec::new(),
        released: Utc::from_secs(1),
        expires: Limit::Unlimited,
        offers: Vec::new(),
        withdrawn: false,
    }
}

/// A house whose title is held, and a player's address for it.
async fn served(made: Made, players: u32) -> (TempDir, Arc<House>, SocketAddr) {
    let root = tempfile::tempdir().expect("a temporary folder");
    let items = making::open(root.path());
    let house = Arc::new(House {
        made,
        items: items.clone(),
        refusal: Mutex::default(),
        questions_left: AtomicUsize::new(usize::MAX),
        arrives: AtomicBool::new(false),
        asked_for: Mutex::default(),
    });
    let router = play::routes_of(&config::Play { players }, items, house.clone());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move { axum::serve(listener, router).await });
    (root, house, address)
}

#[derive(Debug)]
struct Answer {
    status: u16,
    head: String,
    body: Vec<u8>,
}

impl Answer {
    fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }
}

async fn request(address: SocketAddr, method: &str, path: &str, headers: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.expect("connected");
    let text = format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n{headers}\r\n");
    stream.write_all(text.as_bytes()).await.expect("sent");
    stream
}

async fn ask(address: SocketAddr, method: &str, path: &str, headers: &str) -> Answer {
    let mut bytes = Vec::new();
    // A connection that is cut shows as a body shorter than its length.
    drop(request(address, method, path, headers).await.read_to_end(&mut bytes).await);
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n").expect("a head") + 4;
    let head = String::from_utf8(bytes[..end].to_vec()).expect("ascii");
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    Answer { status, head, body: bytes[end..].to_vec() }
}

fn path(house: &House) -> String {
    format!("/play/{}", house.made.manifest.item())
}

#[tokio::test]
async fn whole_film_plays_as_it_was_published() {
    let (_root, house, address) = served(item(3 * MIB + 7, 1), 8).await;
    hold(&house.items, &house.made).await;
    let answer = ask(address, "GET", &path(&house), "").await;
    assert_eq!(answer.status, 200);
    assert!(answer.body == house.made.clear);
    assert_eq!(answer.header("content-type"), Some("video/mp4"));
    assert_eq!(answer.header("accept-ranges"), Some("bytes"));
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    assert_eq!(answer.header("etag"), Some(format!("\"{}\"", house.made.manifest.item()).as_str()));
}

#[tokio::test]
async fn head_tells_the_length_and_sends_nothing() {
    let (_root, house, address) = served(item(MIB, 1), 8).await;
    hold(&house.items, &house.made).await;
    let answer = ask(address, "HEAD", &path(&house), "").await;
    assert_eq!((answer.status, answer.body.len()), (200, 0));
    assert_eq!(answer.header("content-length"), Some(MIB.to_string().as_str()));
}

#[tokio::test]
async fn range_behind_the_end_is_not_satisfiable() {
    let (_root, house, address) = served(item(1_000, 1), 8).await;
    hold(&house.items, &house.made).await;
    let answer = ask(address, "GET", &path(&house), "range: bytes=1000-\r\n").await;
    assert_eq!(answer.status, 416);
    assert_eq!(answer.header("content-range"), Some("bytes */1000"));
}

#[tokio::test]
async fn range_of_another_edition_becomes_the_whole() {
    let (_root, house, address) = served(item(1_000, 1), 8).await;
    hold(&house.items, &house.made).await;
    let other = ask(address, "GET", &path(&house), "range: bytes=5-9\r\nif-range: \"other\"\r\n").await;
    assert_eq!((other.status, other.body.len()), (200, 1_000));
    let same = format!("range: bytes=5-9\r\nif-range: \"{}\"\r\n", house.made.manifest.item());
    let same = ask(address, "GET", &path(&house), &same).await;
    assert_eq!((same.status, same.body.as_slice()), (206, &house.made.clear[5..10]));
}

#[tokio::test]
async fn unpaid_title_answers_402_and_says_what_to_do() {
    let (_root, house, address) = served(item(1_000, 1), 8).await;
    let refusal =
        Failure::new(Exit::Payment, "E-PLAY-01", "this title has not been paid for").hint("peer-node pay TITLE");
    *house.refusal.lock().expect("unpoisoned") = Some(refusal);
    let answer = ask(address, "GET", &path(&house), "").await;
    assert_eq!(answer.status, 402);
    assert_eq!(answer.header("content-type"), Some("application/problem+json"));
    let body = String::from_utf8(answer.body).expect("text");
    assert!(body.contains("not been paid") && body.contains("peer-node pay"), "{body}");
}

#[tokio::test]
async fn title_outside_its_window_answers_403() {
    let (_root, house, address) = served(item(1_000, 1), 8).await;
    *house.refusal.lock().expect("unpoisoned") =
        Some(Failure::new(Exit::Payment, grants::OUTSIDE_WINDOW, "it is over"));
    assert_eq!(ask(address, "GET", &path(&house), "").await.status, 403);
}

#[tokio::test]
async fn unknown_titles_answer_404() {
    let (_root, house, address) = served(item(1_000, 1), 8).await;
    assert_eq!(ask(address, "GET", "/play/nonsense", "").await.status, 404);
    assert_eq!(ask(address, "GET", &format!("/play/{}", ItemId::from([9; 32])), "").await.status, 404);
    let not_wanted = ask(address, "GET", &path(&house), "").await;
    assert_eq!(not_wanted.status, 404, "known, but neither here nor on its way");
    assert!(String::from_utf8(not_wanted.body).expect("text").contains("peer-node get"));
}

#[tokio::test]
async fn player_may_be_ahead_of_the_download() {
    let (_root, house, address) = served(item(4 * MIB, 1), 8).await;
    house.arrives.store(true, Ordering::SeqCst);
    let answer = ask(address, "GET", &path(&house), "range: bytes=2000000-3999999\r\n").await;
    assert_eq!(answer.status, 206);
    assert!(answer.body == house.made.clear[2_000_000..4_000_000]);
    let asked_for = house.asked_for.lock().expect("unpoisoned").clone();
    assert_eq!(asked_for, [1, 2, 3], "only what is needed, in order, once each");
}

#[tokio::test]
async fn rotten_chunk_is_fetched_again_and_never_shown() {
    let (root, house, address) = served(item(2 * MIB, 1), 8).await;
    hold(&house.items, &house.made).await;
    house.items.flush().await.expect("flushed");
    // The cache of this house has two chunks: two of another item push them out.
    hold(&house.items, &item(3 * MIB, 2)).await;
    let file = root.path().join("items").join(format!("{}.item", house.made.manifest.item()));
    let mut bytes = std::fs::read(&file).expect("a file");
    bytes[123_456] ^= 1;
    std::fs::write(&file, bytes).expect("damaged");
    house.arrives.store(true, Ordering::SeqCst);
    let answer = ask(address, "GET", &path(&house), "").await;
    assert!(answer.body == house.made.clear);
    assert_eq!(*house.asked_for.lock().expect("unpoisoned"), [0]);
}

#[tokio::test]
async fn viewing_ends_when_the_rights_end() {
    let (_root, house, address) = served(item(8 * MIB, 1), 8).await;
    hold(&house.items, &house.made).await;
    house.questions_left.store(9, Ordering::SeqCst);
    let answer = ask(address, "GET", &path(&house), "").await;
    assert_eq!(answer.status, 200);
    assert!(answer.body.len() < house.made.clear.len(), "the connection is cut");
    assert!(house.made.clear.starts_with(&answer.body), "after good bytes only");
}

#[tokio::test]
async fn reader_that_hangs_up_frees_its_place() {
    let (_root, house, address) = served(item(24 * MIB, 1), 1).await;
    hold(&house.items, &house.made).await;
    let mut first = request(address, "GET", &path(&house), "").await;
    let mut some = vec![0; 1_000];
    first.read_exact(&mut some).await.expect("it plays");
    assert_eq!(ask(address, "GET", &path(&house), "").await.status, 503, "there is one place");
    drop(first);
    for _ in 0..100_000 {
        if ask(address, "GET", &path(&house), "range: bytes=0-0\r\n").await.status == 206 {
            return;
        }
    }
    panic!("the place is never free again");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8))]

    #[test]
    fn ranges_are_the_bytes_of_the_clear_file(
        len in 1..3 * MIB,
        ranges in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>()), 1..12),
    ) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let (_root, house, address) = served(item(len, 3), 8).await;
            hold(&house.items, &house.made).await;
            for (a, b) in ranges {
                let (a, b) = (a.index(len), b.index(len));
                let (first, last) = (a.min(b), a.max(b));
                let answer = ask(address, "GET", &path(&house), &format!("range: bytes={first}-{last}\r\n")).await;
                assert_eq!(answer.status, 206);
                assert_eq!(answer.header("content-range"), Some(format!("bytes {first}-{last}/{len}").as_str()));
                assert!(answer.body == house.made.clear[first..=last]);
            }
        });
    }
}

#[tokio::test]
async fn preview_is_a_shorter_file_that_needs_no_right() {
    let (_root, house, address) = served(item(3 * MIB, 1), 8).await;
    hold(&house.items, &house.made).await;
    let refusal = Failure::new(Exit::Payment, "E-PLAY-01", "this title has not been paid for");
    *house.refusal.lock().expect("unpoisoned") = Some(refusal);
    house.questions_left.store(0, Ordering::SeqCst);
    let path = format!("/preview/{}", house.made.manifest.item());
    let all = ask(address, "GET", &path, "").await;
    assert_eq!((all.status, all.header("content-length")), (200, Some("1000000")));
    assert!(all.body == house.made.clear[..1_000_000], "the beginning");
    let beyond = ask(address, "GET", &path, "range: bytes=1000000-\r\n").await;
    assert_eq!((beyond.status, beyond.header("content-range")), (416, Some("bytes */1000000")));
    let title = ask(address, "GET", &format!("/play/{}", house.made.manifest.item()), "").await;
    assert_eq!(title.status, 402, "and nothing else");
}
