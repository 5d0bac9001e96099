//! Items on a real disk, compared with what they should be.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use daemon::units::ByteSize;
use peer_node::config;
use peer_node::items::{Items, ItemsError};
use proptest::prelude::*;
use tempfile::TempDir;

use crate::making::{Made, hold, index, item, open, snapshot};

const MIB: usize = 1 << 20;

fn folder() -> TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

fn file(root: &Path, made: &Made, suffix: &str) -> PathBuf {
    root.join("items").join(format!("{}.{suffix}", made.manifest.item()))
}

fn overwrite(path: &Path, at: u64, bytes: &[u8]) {
    let mut file = fs::OpenOptions::new().write(true).open(path).expect("opens");
    file.seek(SeekFrom::Start(at)).expect("seeks");
    file.write_all(bytes).expect("writes");
}

#[tokio::test]
async fn file_of_a_complete_item_hashes_to_its_id() {
    let (root, made) = (folder(), item(2 * MIB + 12_345, 1));
    let items = open(root.path());
    hold(&items, &made).await;
    let on_disk = fs::read(file(root.path(), &made, "item")).expect("a file");
    assert_eq!(blake3::hash(&on_disk).as_bytes(), made.manifest.item().as_bytes());
    assert_eq!(items.usage().stored_bytes, made.sealed.len() as u64);
}

#[tokio::test]
async fn folder_holds_three_files_for_an_item_and_none_after_its_removal() {
    let (root, made) = (folder(), item(MIB, 1));
    let items = open(root.path());
    hold(&items, &made).await;
    items.flush().await.expect("flushed");
    let names = || fs::read_dir(root.path().join("items")).expect("a folder").count();
    assert_eq!(names(), 3);
    items.remove(made.manifest.item()).await.expect("removed");
    assert_eq!(names(), 0);
    assert!(items.list().is_empty() && items.holding(&made.manifest.item()).is_none());
    assert!(matches!(items.read_chunk(made.manifest.item(), index(0)).await, Err(ItemsError::Unknown(_))));
}

#[tokio::test]
async fn part_of_an_item_takes_room_for_that_part_and_the_whole_for_the_whole() {
    use std::os::unix::fs::MetadataExt as _;

    let (root, made) = (folder(), item(40 * MIB, 1));
    let (id, items) = (made.manifest.item(), open(root.path()));
    let allocated = || fs::metadata(file(root.path(), &made, "item")).expect("a file").blocks() * 512;
    let manifest = made.manifest.clone();
    items.reserve_part(id, manifest.clone(), std::iter::once(0..4).collect()).await.expect("there is room");
    assert!(!items.is_reserved(&id));
    assert!(allocated() <= 5 * MIB as u64, "{}", allocated());
    items.reserve(id, manifest).await.expect("there is room");
    assert!(items.is_reserved(&id));
    let len = fs::metadata(file(root.path(), &made, "item")).expect("a file").len();
    assert_eq!(len, made.manifest.geometry().sealed_len());
}

#[tokio::test]
async fn removal_right_after_a_write_leaves_nothing_behind() {
    let (root, made) = (folder(), item(3 * MIB, 1));
    let items = open(root.path());
    for _ in 0..5 {
        hold(&items, &made).await;
        items.remove(made.manifest.item()).await.expect("removed");
        items.flush().await.expect("flushed");
        assert_eq!(fs::read_dir(root.path().join("items")).expect("a folder").count(), 0);
    }
}

#[tokio::test]
async fn rotten_chunk_is_found_when_it_is_read_and_not_held_from_then_on() {
    let (root, made) = (folder(), item(3 * MIB, 1));
    let items = open(root.path());
    hold(&items, &made).await;
    items.flush().await.expect("flushed");
    let id = made.manifest.item();
    overwrite(&file(root.path(), &made, "item"), MIB as u64 + 77, b"rot");

    let items = open(root.path());
    assert!(items.holding(&id).expect("there").is_complete());
    assert!(matches!(items.read_chunk(id, index(1)).await, Err(ItemsError::Rotten(..))));
    assert!(matches!(items.read_chunk(id, index(1)).await, Err(ItemsError::NotHeld(..))));
    assert_eq!(items.read_chunk(id, index(2)).await.expect("sound"), made.chunk(2));
    items.flush().await.expect("flushed");
    let reopened = open(root.path());
    assert!(!reopened.holding(&id).expect("there").contains(index(1)), "also after a restart");

    reopened.write(id, index(1), made.chunk(1)).await.expect("fetched again");
    assert_eq!(reopened.read_chunk(id, index(1)).await.expect("sound"), made.chunk(1));
}

#[tokio::test]
async fn damaged_bitmap_is_rebuilt_from_the_bytes() {
    let (root, made, other) = (folder(), item(3 * MIB, 1), item(MIB, 2));
    let items = open(root.path());
    let id = made.manifest.item();
    items.reserve(id, made.manifest.clone()).await.expect("room");
    items.write(id, index(0), made.chunk(0)).await.expect("written");
    items.write(id, index(2), made.chunk(2)).await.expect("written");
    hold(&items, &other).await;
    items.flush().await.expect("flushed");

    overwrite(&file(root.path(), &made, "bitmap"), 20, b"torn");
    let rebuilt = open(root.path()).holding(&id).expect("there");
    assert_eq!(rebuilt.iter().map(u32::from).collect::<Vec<_>>(), [0, 2]);

    fs::remove_file(file(root.path(), &made, "bitmap")).expect("removed");
    let items = open(root.path());
    assert_eq!(items.holding(&id).expect("there"), rebuilt);
    assert!(items.holding(&other.manifest.item()).expect("there").is_complete(), "other titles are fine");
}

#[tokio::test]
async fn truncated_file_loses_only_the_chunks_that_are_gone() {
    let (root, made) = (folder(), item(3 * MIB, 1));
    let items = open(root.path());
    hold(&items, &made).await;
    items.flush().await.expect("flushed");
    let path = file(root.path(), &made, "item");
    fs::OpenOptions::new().write(true).open(&path).expect("opens").set_len(MIB as u64 + 5).expect("cut");

    let items = open(root.path());
    let id = made.manifest.item();
    assert_eq!(items.holding(&id).expect("there").iter().map(u32::from).collect::<Vec<_>>(), [0]);
    for chunk in 1..made.manifest.geometry().n_chunks() {
        items.write(id, index(chunk), made.chunk(chunk)).await.expect("written");
    }
    assert_eq!(blake3::hash(&fs::read(path).expect("a file")).as_bytes(), id.as_bytes());
}

#[tokio::test]
async fn item_whose_manifest_is_damaged_comes_back_with_a_fresh_one() {
    let (root, made) = (folder(), item(2 * MIB, 1));
    let items = open(root.path());
    hold(&items, &made).await;
    items.flush().await.expect("flushed");
    overwrite(&file(root.path(), &made, "manifest"), 30, b"forged");

    let items = open(root.path());
    assert!(items.list().is_empty());
    let holding = items.reserve(made.manifest.item(), made.manifest.clone()).await.expect("room");
    assert!(holding.is_complete(), "its chunks are still good");
}

#[tokio::test]
async fn files_of_others_are_left_alone() {
    let root = folder();
    drop(open(root.path()));
    let stranger = root.path().join("items/holiday.jpg");
    fs::write(&stranger, "not ours").expect("written");
    assert!(open(root.path()).list().is_empty());
    assert_eq!(fs::read(&stranger).expect("still there"), b"not ours");
}

#[tokio::test]
async fn item_that_does_not_fit_says_how_much_is_missing() {
    let (root, made) = (folder(), item(MIB, 1));
    let config = config::Items { reserve: ByteSize(1 << 60), cache: ByteSize::mib(1), direct_writes: true };
    let items = Items::open(root.path(), &config).expect("opens");
    match items.reserve(made.manifest.item(), made.manifest.clone()).await {
        Err(ItemsError::StorageFull { short, .. }) => assert!(short > 1 << 59),
        other => panic!("{other:?}"),
    }
    assert_eq!(fs::read_dir(root.path().join("items")).expect("a folder").count(), 0);
    assert_eq!(items.usage().free_bytes, 0);
}

#[tokio::test]
async fn only_a_whole_marked_item_is_adopted() {
    let (root, made) = (folder(), item(2 * MIB, 1));
    let items = open(root.path());
    let id = made.manifest.item();
    let not_whole = |result| matches!(result, Err(ItemsError::NotWhole { .. }));
    assert!(not_whole(items.adopt(id).await), "there is nothing");

    fs::write(file(root.path(), &made, "item"), &made.sealed).expect("written");
    assert!(not_whole(items.adopt(id).await), "there is no manifest");
    fs::write(file(root.path(), &made, "manifest"), made.manifest.to_bytes()).expect("written");
    assert!(not_whole(items.adopt(id).await), "it is not marked");

    let folder = peer_node::items::Folder::open(root.path().join("items")).expect("opens");
    fs::rename(file(root.path(), &made, "item"), folder.sealing_path("job")).expect("renamed");
    folder.complete(&made.manifest, &folder.sealing_path("job")).expect("completed");
    assert!(items.adopt(id).await.expect("whole").is_complete());
    assert!(items.adopt(id).await.expect("again").is_complete());
    assert_eq!(items.read_chunk(id, index(1)).await.expect("sound"), made.chunk(1));
    assert!(open(root.path()).holding(&id).expect("found at the next start").is_complete());
}

#[tokio::test]
async fn chunk_of_another_length_is_refused() {
    let (root, made) = (folder(), item(MIB, 1));
    let items = open(root.path());
    let id = made.manifest.item();
    items.reserve(id, made.manifest.clone()).await.expect("room");
    let result = items.write(id, index(0), made.chunk(0).slice(1..)).await;
    assert!(matches!(result, Err(ItemsError::NoSuchPiece { .. })));
    let result = items.write(id, index(9), made.chunk(0)).await;
    assert!(matches!(result, Err(ItemsError::NoSuchPiece { .. })));
}

#[tokio::test]
async fn segment_is_a_part_of_its_chunk() {
    let (root, made) = (folder(), item(MIB + 70_000, 1));
    let items = open(root.path());
    hold(&items, &made).await;
    let geometry = made.manifest.geometry();
    for raw in 0..geometry.n_segments() {
        let segment = geometry.segment(raw).expect("there");
        let range = geometry.segment_range(segment);
        let found = items.read_segment(made.manifest.item(), segment).await.expect("held");
        assert_eq!(found, made.sealed.slice(range.start as usize..range.end as usize));
    }
}

#[tokio::test]
async fn written_chunks_become_durable_by_themselves() {
    let (root, made) = (folder(), item(MIB / 2, 1));
    let items = open(root.path());
    hold(&items, &made).await;
    let copies = folder();
    let deadline = Instant::now() + Duration::from_secs(10);
    for round in 0.. {
        let copy = copies.path().join(round.to_string());
        snapshot(root.path(), &copy);
        if open(&copy).holding(&made.manifest.item()).is_some_and(|holding| holding.is_complete()) {
            break;
        }
        assert!(Instant::now() < deadline, "a batch waits for more than its age");
        tokio::task::yield_now().await;
    }
}

/// Three batches of 16 MiB may be on their way when the program dies.
const CHUNKS_UNDER_WAY: u64 = 48;

#[tokio::test]
async fn after_kill_9_nothing_that_had_arrived_is_lost_and_only_the_last_batches_are_hashed() {
    let (root, made) = (folder(), item(96 * MIB, 1));
    let items = open(root.path());
    let id = made.manifest.item();
    items.reserve(id, made.manifest.clone()).await.expect("room");
    let arrived: Vec<u32> = (0..88).collect();
    for chunk in &arrived {
        items.write(id, index(*chunk), made.chunk(*chunk)).await.expect("written");
    }
    let copies = folder();
    snapshot(root.path(), copies.path());

    let items = open(copies.path());
    let found = items.holding(&id).expect("there");
    assert_eq!(found.iter().map(u32::from).collect::<Vec<_>>(), arrived);
    assert!(items.readings().hashed <= CHUNKS_UNDER_WAY, "{:?}", items.readings());
    drop(items);
    let items = open(copies.path());
    assert_eq!((items.holding(&id), items.readings().hashed), (Some(found), 0), "once is enough");
}

#[tokio::test]
async fn chunk_that_a_crash_tore_is_not_held_whatever_the_tail_says() {
    let (root, made) = (folder(), item(3 * MIB, 1));
    let items = open(root.path());
    let id = made.manifest.item();
    items.reserve(id, made.manifest.clone()).await.expect("room");
    items.flush().await.expect("flushed");
    items.write(id, index(0), made.chunk(0)).await.expect("written");
    items.write(id, index(2), made.chunk(2)).await.expect("written");
    let copies = folder();
    snapshot(root.path(), copies.path());
    overwrite(&file(copies.path(), &made, "item"), 2 * MIB as u64 + 9, b"half a page");
    let found = open(copies.path()).holding(&id).expect("there");
    assert_eq!(found.iter().map(u32::from).collect::<Vec<_>>(), [0]);
}

#[tokio::test]
async fn chunk_is_hashed_once_while_its_file_stays_as_it_is_and_again_when_it_changes() {
    let (root, made) = (folder(), item(5 * MIB, 1));
    let id = made.manifest.item();
    let items = open(root.path());
    hold(&items, &made).await;
    // More than the cache in memory holds.
    let read_all = async || {
        for chunk in 0..5 {
            assert_eq!(items.read_chunk(id, index(chunk)).await.expect("sound"), made.chunk(chunk));
        }
        items.readings()
    };
    let deadline = Instant::now() + Duration::from_secs(20);
    let mut before = read_all().await;
    loop {
        let after = read_all().await;
        assert!(after.from_disk > before.from_disk, "the test reads from disk");
        if after.hashed == before.hashed {
            break;
        }
        // A file that was written seconds ago may change without its times showing it.
        assert!(Instant::now() < deadline, "it is hashed at every read: {after:?}");
        before = after;
    }
    overwrite(&file(root.path(), &made, "item"), MIB as u64 + 77, b"rot");
    // Chunks 3 and 4 were read last, so chunk 1 is not in memory.
    assert!(matches!(items.read_chunk(id, index(1)).await, Err(ItemsError::Rotten(..))));
    assert_eq!(items.read_chunk(id, index(2)).await.expect("sound"), made.chunk(2));
}

#[derive(Debug, Clone)]
enum Step {
    Reserve(usize),
    Write(usize, u32),
    Read(usize, u32),
    Remove(usize),
    Flush,
    Restart,
    Crash,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        2 => (0..2_usize).prop_map(Step::Reserve),
        8 => (0..2_usize, 0..3_u32).prop_map(|(which, chunk)| Step::Write(which, chunk)),
        4 => (0..2_usize, 0..3_u32).prop_map(|(which, chunk)| Step::Read(which, chunk)),
        1 => (0..2_usize).prop_map(Step::Remove),
        1 => Just(Step::Flush),
        1 => Just(Step::Restart),
        1 => Just(Step::Crash),
    ];
    prop::collection::vec(step, 1..24)
}

/// What should be held, and what of it for certain.
#[derive(Default, Clone)]
struct Model {
    held: BTreeMap<usize, BTreeSet<u32>>,
    durable: BTreeMap<usize, BTreeSet<u32>>,
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn items_are_what_a_map_of_chunks_would_be(steps in steps()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(follow(steps));
    }
}

async fn follow(steps: Vec<Step>) {
    let made = [item(2 * MIB + 99, 1), item(MIB / 3, 2)];
    let roots = folder();
    let mut root = roots.path().join("0");
    let mut items = open(&root);
    let mut model = Model::default();
    for (round, step) in steps.into_iter().enumerate() {
        match step {
            Step::Reserve(which) => {
                items.reserve(made[which].manifest.item(), made[which].manifest.clone()).await.expect("room");
                model.held.entry(which).or_default();
                model.durable.entry(which).or_default();
            }
            Step::Write(which, chunk) if chunk < made[which].manifest.geometry().n_chunks() => {
                let written = items.write(made[which].manifest.item(), index(chunk), made[which].chunk(chunk)).await;
                match model.held.get_mut(&which) {
                    Some(held) => {
                        written.expect("reserved");
                        held.insert(chunk);
                    }
                    None => assert!(matches!(written, Err(ItemsError::Unknown(_)))),
                }
            }
            Step::Read(which, chunk) => {
                let read = items.read_chunk(made[which].manifest.item(), index(chunk)).await;
                match model.held.get(&which).map(|held| held.contains(&chunk)) {
                    Some(true) => assert_eq!(read.expect("held"), made[which].chunk(chunk)),
                    Some(false) => assert!(matches!(read, Err(ItemsError::NotHeld(..)))),
                    None => assert!(matches!(read, Err(ItemsError::Unknown(_)))),
                }
            }
            Step::Write(..) => {}
            Step::Remove(which) => {
                items.remove(made[which].manifest.item()).await.expect("removed");
                model.held.remove(&which);
                model.durable = model.held.clone();
            }
            Step::Flush => {
                items.flush().await.expect("flushed");
                model.durable = model.held.clone();
            }
            Step::Restart => {
                items.flush().await.expect("flushed");
                model.durable = model.held.clone();
                items = open(&root);
            }
            Step::Crash => {
                let next = roots.path().join(format!("{}", round + 1));
                snapshot(&root, &next);
                root = next;
                items = open(&root);
                for (which, held) in &mut model.held {
                    let found = items.holding(&made[*which].manifest.item()).expect("reserved durably");
                    let found: BTreeSet<u32> = found.iter().map(u32::from).collect();
                    assert!(found.is_subset(held), "nothing is held that was not written");
                    assert!(found.is_superset(&model.durable[which]), "nothing durable is lost");
                    *held = found;
                }
                model.durable = model.held.clone();
            }
        }
        let listed: Vec<_> = items.list();
        assert_eq!(listed.len(), model.held.len());
        for (which, held) in &model.held {
            let found = items.holding(&made[*which].manifest.item()).expect("listed");
            assert_eq!(&found.iter().map(u32::from).collect::<BTreeSet<_>>(), held);
        }
    }
}
