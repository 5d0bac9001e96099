//! Files become titles, whatever happens meanwhile.

use std::collections::HashMap;
use std::fs;
use std::io::Write as _;
use std::ops::ControlFlow;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use daemon::exit::{Exit, Failure};
use peer_node::items::Items;
use peer_node::publish::{self, Adoption, Outlets, Progress, Published, Publisher, Request, Watcher};
use swarm_proto::catalog::CatalogEntry;
use swarm_proto::id::ItemId;
use swarm_proto::seal::{ContentKey, Opener, Released};
use swarm_proto::signed::Signed;
use swarm_proto::time::Utc;
use tempfile::TempDir;

use crate::making;

const MIB: usize = 1 << 20;
/// Clear bytes of one span.
const SPAN: usize = 256 * 65_520;

/// A keyserver, a tracker and a daemon that remember what they were told.
#[derive(Default)]
struct Town {
    deposits: Mutex<Vec<(Signed<CatalogEntry>, ContentKey)>>,
    announced: Mutex<Vec<Signed<CatalogEntry>>>,
    adopted: Mutex<Vec<ItemId>>,
    /// Steps that fail the first time.
    fails_once: Mutex<Vec<&'static str>>,
}

impl Town {
    fn may(&self, step: &'static str) -> Result<(), Failure> {
        let mut fails = self.fails_once.lock().expect("unpoisoned");
        match fails.iter().position(|name| *name == step) {
            Some(place) => {
                fails.remove(place);
                Err(Failure::new(Exit::Unreachable, "E-TEST-01", format!("cannot {step}")))
            }
            None => Ok(()),
        }
    }
}

#[async_trait]
impl Outlets for Town {
    async fn deposit(&self, entry: &Signed<CatalogEntry>, key: &ContentKey) -> Result<(), Failure> {
        self.may("deposit")?;
        self.deposits.lock().expect("unpoisoned").push((entry.clone(), key.clone()));
        Ok(())
    }

    async fn adopt(&self, item: ItemId) -> Result<Adoption, Failure> {
        self.may("adopt")?;
        self.adopted.lock().expect("unpoisoned").push(item);
        Ok(Adoption::AtNextStart)
    }

    async fn announce(&self, entry: &Signed<CatalogEntry>) -> Result<(), Failure> {
        self.may("announce")?;
        self.announced.lock().expect("unpoisoned").push(entry.clone());
        Ok(())
    }
}

struct Studio {
    root: TempDir,
    town: Town,
    publisher: Publisher,
}

impl Studio {
    fn new() -> Studio {
        let root = tempfile::tempdir().expect("a temporary folder");
        fs::create_dir(root.path().join("data")).expect("made");
        fs::set_permissions(root.path().join("data"), fs::Permissions::from_mode(0o700)).expect("set");
        let publisher = Publisher::of_keys(&[1; 32], &[2; 32]).expect("keys");
        Studio { root, town: Town::default(), publisher }
    }

    fn data(&self) -> PathBuf {
        self.root.path().join("data")
    }

    fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.root.path().join(name);
        fs::write(&path, bytes).expect("written");
        path
    }

    fn request(&self, source: &Path) -> Request {
        Request {
            data: self.data(),
            source: source.to_owned(),
            name: "A film".to_owned(),
            description: String::new(),
            offers: vec![publish::parse_offer("buy:9.99EUR").expect("an offer")],
            preview: None,
            poster: None,
            rating_age: 0,
            regions: Vec::new(),
            key: None,
            released: Utc::from_secs(1),
        }
    }

    async fn publish(&self, source: &Path) -> Result<Published, Failure> {
        self.publish_watched(source, Arc::new(|_| ControlFlow::Continue(()))).await
    }

    async fn publish_watched(&self, source: &Path, watcher: Watcher) -> Result<Published, Failure> {
        publish::run(self.request(source), &self.publisher, &self.town, watcher).await
    }

    /// Runs until `progress` says stop.
    async fn publish_until(&self, source: &Path, stop: impl Fn(Progress) -> bool + Send + Sync + 'static) {
        let watcher: Watcher = Arc::new(move |progress| match stop(progress) {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        });
        let failure = self.publish_watched(source, watcher).await.expect_err("stopped");
        assert_eq!(failure.exit, Exit::Interrupted);
    }

    fn item_bytes(&self, item: &ItemId) -> Vec<u8> {
        fs::read(self.data().join("items").join(format!("{item}.item"))).expect("an item file")
    }

    /// Opens an item with the key that was deposited for it.
    fn opened(&self, item: &ItemId) -> Vec<u8> {
        let deposits = self.town.deposits.lock().expect("unpoisoned");
        let (entry, key) = deposits
            .iter()
            .map(|(signed, key)| (signed.verify(&self.publisher.id()).expect("ours"), key))
            .find(|(entry, _)| entry.item == *item)
            .expect("deposited");
        assert_eq!(entry.commitment, key.commitment());
        let opener = Opener::new(Released::Whole(key.clone()), entry.geometry);
        let mut sealed = self.item_bytes(item);
        let mut clear = Vec::new();
        for (raw, segment) in sealed.chunks_mut(65_536).enumerate() {
            let index = entry.geometry.segment(raw as u32).expect("there");
            clear.extend_from_slice(opener.open_segment(index, segment).expect("genuine"));
        }
        clear
    }

    fn files_below(&self, folder: &str) -> usize {
        fs::read_dir(self.data().join(folder)).map_or(0, Iterator::count)
    }

    fn nothing_is_published(&self) {
        assert!(self.town.announced.lock().expect("unpoisoned").is_empty());
        assert!(self.town.deposits.lock().expect("unpoisoned").is_empty());
        assert_eq!(self.files_below("publisher/jobs"), 0);
        assert_eq!(self.files_below("items"), 0);
    }
}

#[tokio::test]
async fn file_becomes_an_item_that_opens_to_the_same_bytes() {
    let studio = Studio::new();
    let clear = making::noise(SPAN + 3 * MIB + 77, 1);
    let published = studio.publish(&studio.file("film.bin", &clear)).await.expect("published");

    let sealed = studio.item_bytes(&published.item);
    assert_eq!(blake3::hash(&sealed).as_bytes(), published.item.as_bytes());
    assert!(studio.opened(&published.item) == clear);
    assert_eq!((published.already, published.resumed_bytes), (false, 0));
    let announced = studio.town.announced.lock().expect("unpoisoned").clone();
    let entry = announced[0].verify(&studio.publisher.id()).expect("ours");
    assert_eq!((entry.item, entry.title, entry.name.as_str()), (published.item, published.title, "A film"));
    assert_eq!(entry.geometry.plain_len(), clear.len() as u64);
    assert_eq!(*studio.town.adopted.lock().expect("unpoisoned"), [published.item]);

    let items = Items::open(&studio.data(), &peer_node::config::Items::default()).expect("opens");
    assert!(items.adopt(published.item).await.expect("whole").is_complete());
    assert_eq!(studio.files_below("publisher/jobs"), 0, "the wrapped key is gone with the job");
}

#[tokio::test]
async fn smallest_file_is_a_title_too() {
    let studio = Studio::new();
    let published = studio.publish(&studio.file("one", b"x")).await.expect("published");
    assert_eq!((published.plain_len, published.sealed_len), (1, 17));
    assert_eq!(studio.opened(&published.item), b"x");
}

#[tokio::test]
async fn published_once_is_published() {
    let studio = Studio::new();
    let clear = making::noise(2 * MIB, 1);
    let source = studio.file("film.bin", &clear);
    let first = studio.publish(&source).await.expect("published");
    let again = studio.publish(&source).await.expect("already so");
    assert!(again.already);
    assert_eq!((again.item, again.title, again.name.as_str()), (first.item, first.title, "A film"));

    let copy = studio.publish(&studio.file("copy.bin", &clear)).await.expect("already so");
    assert!(copy.already && copy.item == first.item, "the same bytes under another name");
    let other = studio.publish(&studio.file("other.bin", &making::noise(2 * MIB, 2))).await.expect("published");
    assert!(!other.already && other.item != first.item, "other bytes of the same length");
    assert_eq!(studio.town.announced.lock().expect("unpoisoned").len(), 2);
}

#[tokio::test]
async fn sealing_goes_on_behind_the_last_span_and_ends_in_one_title() {
    for stop_after in [0, 1, 15, 16, 17, 31, 32, 33, 40] {
        let studio = Studio::new();
        let clear = making::noise(2 * SPAN + 9 * MIB, 1);
        let source = studio.file("film.bin", &clear);
        let limit = stop_after * (SPAN as u64 / 16);
        studio
            .publish_until(&source, move |progress| matches!(progress, Progress::Sealing { done, .. } if done >= limit))
            .await;
        let key_before = fs::read_dir(studio.data().join("publisher/jobs")).expect("jobs").count();
        assert!(key_before > 0);

        let published = studio.publish(&source).await.expect("published");
        assert_eq!(published.resumed_bytes, limit / SPAN as u64 * SPAN as u64, "stopped after {stop_after} chunks");
        assert_eq!(blake3::hash(&studio.item_bytes(&published.item)).as_bytes(), published.item.as_bytes());
        assert!(studio.opened(&published.item) == clear, "stopped after {stop_after} chunks");
        assert_eq!(studio.town.announced.lock().expect("unpoisoned").len(), 1);
    }
}

#[tokio::test]
async fn sealed_bytes_are_the_same_with_and_without_an_interruption() {
    let studio = Studio::new();
    let source = studio.file("film.bin", &making::noise(2 * SPAN, 1));
    studio
        .publish_until(&source, |progress| matches!(progress, Progress::Sealing { done, .. } if done > SPAN as u64))
        .await;
    let before = studio.data().join("items");
    let sealing = fs::read_dir(&before).expect("a folder").next().expect("one").expect("an entry").path();
    let first_span = fs::read(&sealing).expect("sealed")[..16 * MIB].to_vec();
    let published = studio.publish(&source).await.expect("published");
    assert!(studio.item_bytes(&published.item)[..16 * MIB] == first_span);
}

#[tokio::test]
async fn torn_log_costs_its_last_span_only() {
    let studio = Studio::new();
    let clear = making::noise(2 * SPAN + MIB, 1);
    let source = studio.file("film.bin", &clear);
    studio.publish_until(&source, |progress| progress == Progress::Depositing).await;
    // As if sealing had not been known to be finished, and the last record had been torn.
    for entry in fs::read_dir(studio.data().join("publisher/jobs")).expect("jobs") {
        let path = entry.expect("an entry").path();
        if path.extension().is_some_and(|suffix| suffix == "log") {
            let log = fs::OpenOptions::new().write(true).open(&path).expect("opens");
            let len = log.metadata().expect("metadata").len();
            log.set_len(len - 10).expect("torn");
        }
    }
    let item = fs::read_dir(studio.data().join("items"))
        .expect("items")
        .map(|entry| entry.expect("an entry").path())
        .find(|path| path.extension().is_some_and(|suffix| suffix == "item"))
        .expect("an item");
    let published = studio.publish(&source).await.expect("published");
    assert_eq!(item.file_stem().and_then(|stem| stem.to_str()), Some(published.item.to_string().as_str()));
    assert!(studio.opened(&published.item) == clear);
}

#[tokio::test]
async fn each_step_that_fails_can_be_done_again_and_ends_in_one_entry() {
    for step in ["deposit", "adopt", "announce"] {
        let studio = Studio::new();
        let source = studio.file("film.bin", &making::noise(MIB, 1));
        studio.town.fails_once.lock().expect("unpoisoned").push(step);
        assert_eq!(studio.publish(&source).await.expect_err("it fails once").exit, Exit::Unreachable);
        let published = studio.publish(&source).await.expect("published");
        assert!(!published.already);
        let told: Vec<_> =
            studio.town.announced.lock().expect("unpoisoned").iter().map(|signed| signed.payload().clone()).collect();
        assert_eq!(told.len(), 1);
        for (entry, _) in studio.town.deposits.lock().expect("unpoisoned").iter() {
            assert_eq!(entry.payload(), &told[0], "the same entry every time");
        }
    }
}

#[tokio::test]
async fn file_that_grows_while_it_is_read_is_not_published() {
    let studio = Studio::new();
    let source = studio.file("film.bin", &making::noise(SPAN + MIB, 1));
    let growing = source.clone();
    let watcher: Watcher = Arc::new(move |progress| {
        if matches!(progress, Progress::Sealing { done: 0, .. }) {
            fs::OpenOptions::new().append(true).open(&growing).expect("opens").write_all(b"more").expect("written");
        }
        ControlFlow::Continue(())
    });
    let failure = studio.publish_watched(&source, watcher).await.expect_err("it grew");
    assert_eq!(failure.exit, Exit::Failed);
    assert!(failure.what.contains("film.bin") && failure.why.expect("why").contains("grew"));
    studio.nothing_is_published();
}

#[tokio::test]
async fn file_that_shrinks_while_it_is_read_is_not_published() {
    let studio = Studio::new();
    let source = studio.file("film.bin", &making::noise(2 * SPAN, 1));
    let shrinking = source.clone();
    let watcher: Watcher = Arc::new(move |progress| {
        if matches!(progress, Progress::Sealing { done: 0, .. }) {
            fs::OpenOptions::new().write(true).open(&shrinking).expect("opens").set_len(10).expect("cut");
        }
        ControlFlow::Continue(())
    });
    assert_eq!(studio.publish_watched(&source, watcher).await.expect_err("it shrank").exit, Exit::Failed);
    studio.nothing_is_published();
}

#[tokio::test]
async fn file_that_changed_between_two_runs_gets_a_new_key() {
    let studio = Studio::new();
    let source = studio.file("film.bin", &making::noise(2 * SPAN, 1));
    studio
        .publish_until(&source, |progress| matches!(progress, Progress::Sealing { done, .. } if done > SPAN as u64))
        .await;
    let clear = making::noise(2 * SPAN, 2);
    fs::write(&source, &clear).expect("written anew");
    let published = studio.publish(&source).await.expect("published");
    assert_eq!(published.resumed_bytes, 0);
    assert!(studio.opened(&published.item) == clear);
    assert_eq!(studio.files_below("items"), 3, "nothing of the first attempt is left");
}

#[tokio::test]
async fn bad_files_are_named_with_what_to_do() {
    let studio = Studio::new();
    let check = async |path: PathBuf, exit| {
        let failure = studio.publish(&path).await.expect_err("not a title");
        assert_eq!(failure.exit, exit, "{failure}");
        assert!(failure.what.contains(path.file_name().and_then(|name| name.to_str()).expect("a name")), "{failure}");
        assert!(failure.hint.is_some(), "{failure}");
    };
    check(studio.root.path().join("missing.mp4"), Exit::NotFound).await;
    check(studio.file("empty.mp4", b""), Exit::Usage).await;
    check(studio.root.path().to_owned(), Exit::Usage).await;
    let huge = studio.file("huge.mp4", b"");
    fs::OpenOptions::new().write(true).open(&huge).expect("opens").set_len(33 << 30).expect("sparse");
    check(huge, Exit::Usage).await;
    studio.nothing_is_published();
}

#[tokio::test]
async fn entry_that_the_catalog_would_refuse_costs_no_time() {
    let studio = Studio::new();
    let source = studio.file("film.bin", b"film");
    let run = async |request: Request| {
        publish::run(request, &studio.publisher, &studio.town, Arc::new(|_| ControlFlow::Continue(())))
            .await
            .expect_err("refused")
    };
    let unnamed = run(Request { name: String::new(), ..studio.request(&source) }).await;
    assert_eq!(unnamed.exit, Exit::Usage);
    assert!(unnamed.why.expect("why").contains("name"));
    let free = run(Request { offers: Vec::new(), ..studio.request(&source) }).await;
    assert!(free.what.contains("--offer"));
    let poster = studio.file("poster.txt", b"no picture");
    assert!(run(Request { poster: Some(poster), ..studio.request(&source) }).await.what.contains("poster.txt"));
    let poster = studio.file("poster.png", &making::noise(40_000, 1));
    assert!(run(Request { poster: Some(poster), ..studio.request(&source) }).await.what.contains("too large"));
    studio.nothing_is_published();
}

#[tokio::test]
async fn neither_the_key_nor_the_film_is_on_disk_in_clear() {
    let studio = Studio::new();
    let clear = making::noise(SPAN + MIB, 1);
    let source = studio.file("film.bin", &clear);
    studio.publish_until(&source, |progress| progress == Progress::Announcing).await;
    let key = *studio.town.deposits.lock().expect("unpoisoned")[0].1.expose();
    let samples = clear.chunks_exact(64).step_by(997).chain([key.as_slice()]);
    let secrets: HashMap<u64, &[u8]> = samples.map(|secret| (beginning(secret), secret)).collect();
    let mut folders = vec![studio.data()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let bytes = fs::read(&path).expect("readable");
            let found = (0..bytes.len().saturating_sub(8))
                .any(|at| secrets.get(&beginning(&bytes[at..])).is_some_and(|secret| bytes[at..].starts_with(secret)));
            assert!(!found, "{} holds a secret", path.display());
        }
    }
}

fn beginning(bytes: &[u8]) -> u64 {
    u64::from_be_bytes(*bytes.first_chunk().expect("eight bytes"))
}

#[tokio::test]
async fn second_publication_at_the_same_time_says_so() {
    let studio = Arc::new(Studio::new());
    let source = studio.file("film.bin", b"film");
    let other = studio.file("other.bin", b"other");
    let inner = Arc::new(Mutex::new(None));
    let (seen, data, runtime) = (inner.clone(), studio.request(&other), tokio::runtime::Handle::current());
    let watcher: Watcher = Arc::new(move |progress| {
        if matches!(progress, Progress::Sealing { done: 0, .. }) {
            let publisher = Publisher::of_keys(&[1; 32], &[2; 32]).expect("keys");
            let (town, request) = (Town::default(), data.clone());
            let second = publish::run(request, &publisher, &town, Arc::new(|_| ControlFlow::Continue(())));
            *seen.lock().expect("unpoisoned") = Some(runtime.block_on(second));
        }
        ControlFlow::Continue(())
    });
    studio.publish_watched(&source, watcher).await.expect("published");
    let second = inner.lock().expect("unpoisoned").take().expect("tried");
    assert_eq!(second.expect_err("one at a time").exit, Exit::Conflict);
}
