//! What every store has to do, written once and run against each backend.
//!
//! Examples name the promises one by one; a property compares a backend with a model too naive to be wrong, a plain
//! list searched from end to end; concurrent writers check that a commit is one step.

use std::collections::BTreeSet;
use std::sync::Arc;

use proptest::prelude::*;

use super::*;

/// A store under test; the folder it may live in goes away with it.
struct Fresh {
    store: Arc<dyn Store>,
    _folder: Option<tempfile::TempDir>,
}

async fn memory() -> Fresh {
    Fresh { store: Arc::new(Memory::new()), _folder: None }
}

async fn sled() -> Fresh {
    let folder = tempfile::tempdir().unwrap();
    let store = Sled::open(folder.path()).await.unwrap();
    Fresh { store: Arc::new(store), _folder: Some(folder) }
}

macro_rules! promises {
    ($($promise:ident),+ $(,)?) => {
        promises!(@on memory: $($promise),+);
        promises!(@on sled: $($promise),+);
    };
    (@on $backend:ident: $($promise:ident),+) => {
        mod $backend {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $promise() {
                let fresh = super::$backend().await;
                super::$promise(std::sync::Arc::clone(&fresh.store)).await;
            })+
        }
    };
}

promises!(
    what_was_put_is_read_back,
    absent_means_there_is_nothing,
    version_means_nobody_wrote_since,
    failed_precondition_leaves_everything_as_it_was,
    versions_grow_across_deletion,
    scan_keeps_to_its_prefix_and_order,
    pages_join_to_the_whole,
    bounds_are_kept,
    concurrent_increments_are_all_counted,
    no_page_shows_half_a_commit,
);

async fn what_was_put_is_read_back(store: Arc<dyn Store>) {
    let version = store.commit(Batch::new().put("a", "1").put("b", Vec::new())).await.unwrap();
    let read = store.get(b"a").await.unwrap();
    assert_eq!(read, Some(Versioned { version, value: Bytes::from_static(b"1") }));
    assert_eq!(store.get(b"b").await.unwrap().unwrap().value, Bytes::new());
    assert_eq!(store.get(b"c").await.unwrap(), None);
    store.commit(Batch::new().delete("a").delete("c")).await.unwrap();
    assert_eq!(store.get(b"a").await.unwrap(), None);
}

async fn absent_means_there_is_nothing(store: Arc<dyn Store>) {
    let version = store.commit(Batch::new().absent("a").put("a", "1")).await.unwrap();
    let refused = store.commit(Batch::new().absent("a").put("a", "2")).await.unwrap_err();
    assert!(matches!(refused, StoreError::Conflict { found: Some(found), .. } if found == version));
    assert_eq!(store.get(b"a").await.unwrap().unwrap().value, "1");
}

async fn version_means_nobody_wrote_since(store: Arc<dyn Store>) {
    let first = store.commit(Batch::new().put("a", "1").relaxed()).await.unwrap();
    let second = store.commit(Batch::new().version_is("a", first).put("a", "2")).await.unwrap();
    assert!(second > first);
    let refused = store.commit(Batch::new().version_is("a", first).put("a", "3")).await.unwrap_err();
    assert!(matches!(refused, StoreError::Conflict { found: Some(found), .. } if found == second));
    let refused = store.commit(Batch::new().version_is("b", first).put("b", "1")).await.unwrap_err();
    assert!(matches!(refused, StoreError::Conflict { found: None, .. }));
}

async fn failed_precondition_leaves_everything_as_it_was(store: Arc<dyn Store>) {
    store.commit(Batch::new().put("kept", "1").put("there", "1")).await.unwrap();
    let batch = Batch::new().put("new", "1").put("kept", "2").delete("there").absent("there");
    store.commit(batch).await.unwrap_err();
    let page = store.scan(b"", None, 10).await.unwrap();
    let seen: Vec<_> = page.entries.iter().map(|entry| (&entry.key[..], &entry.versioned.value[..])).collect();
    assert_eq!(seen, [(&b"kept"[..], &b"1"[..]), (b"there", b"1")]);
}

async fn versions_grow_across_deletion(store: Arc<dyn Store>) {
    let before = store.commit(Batch::new().put("a", "1")).await.unwrap();
    store.commit(Batch::new().delete("a")).await.unwrap();
    let after = store.commit(Batch::new().absent("a").put("a", "1")).await.unwrap();
    assert!(after > before);
    store.commit(Batch::new().version_is("a", before).put("a", "2")).await.unwrap_err();
}

async fn scan_keeps_to_its_prefix_and_order(store: Arc<dyn Store>) {
    let keys: [&[u8]; 7] = [b"a", b"b", b"b\x00", b"b\xff", b"b\xff\xff", b"c", b"\xff\xff"];
    let batch = keys.iter().rev().fold(Batch::new(), |batch, key| batch.put(key.to_vec(), key.to_vec()));
    store.commit(batch).await.unwrap();
    let scan = async |prefix: &[u8], after: Option<&[u8]>| -> Vec<Bytes> {
        store.scan(prefix, after, 10).await.unwrap().entries.into_iter().map(|entry| entry.key).collect()
    };
    assert_eq!(scan(b"", None).await, keys);
    assert_eq!(scan(b"b", None).await, keys[1..5]);
    assert_eq!(scan(b"b\xff", None).await, keys[3..5]);
    assert_eq!(scan(b"\xff", None).await, keys[6..]);
    assert_eq!(scan(b"b", Some(b"b")).await, keys[2..5]);
    assert_eq!(scan(b"b", Some(b"a")).await, keys[1..5], "a start before the prefix is the prefix");
    assert!(scan(b"b", Some(b"c")).await.is_empty(), "behind the prefix is nothing");
    assert_eq!(scan(b"b", Some(b"b\x01")).await, keys[3..5], "the start need not exist");
}

async fn pages_join_to_the_whole(store: Arc<dyn Store>) {
    let keys: Vec<String> = (0..25).map(|n| format!("k{n:02}")).collect();
    let batch = keys.iter().fold(Batch::new(), |batch, key| batch.put(key.clone(), "v"));
    store.commit(batch.put("l", "outside")).await.unwrap();
    for limit in [1, 5, 24, 25, 26] {
        let (mut seen, mut after, mut pages) = (Vec::new(), None::<Bytes>, 0);
        loop {
            let page = store.scan(b"k", after.as_deref(), limit).await.unwrap();
            seen.extend(page.entries.into_iter().map(|entry| entry.key));
            pages += 1;
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        assert_eq!(seen, keys);
        assert_eq!(pages, keys.len().div_ceil(limit), "the last page says that it is the last");
    }
}

async fn bounds_are_kept(store: Arc<dyn Store>) {
    let refused = async |batch| match store.commit(batch).await {
        Err(StoreError::Limit(limit)) => limit,
        other => panic!("{other:?}"),
    };
    let (long_key, large) = (vec![b'k'; MAX_KEY_BYTES + 1], vec![0; MAX_VALUE_BYTES + 1]);
    assert_eq!(refused(Batch::new().put("", "v")).await, Limit::Key(0));
    assert_eq!(refused(Batch::new().delete(long_key.clone())).await, Limit::Key(MAX_KEY_BYTES + 1));
    assert_eq!(refused(Batch::new().absent(long_key.clone())).await, Limit::Key(MAX_KEY_BYTES + 1));
    assert_eq!(refused(Batch::new().put("k", large.clone())).await, Limit::Value(MAX_VALUE_BYTES + 1));
    assert_eq!(refused(Batch::new().put("k", "1").delete("k")).await, Limit::WrittenTwice(Bytes::from_static(b"k")));
    let many = (0..=MAX_BATCH).fold(Batch::new(), |batch, n| batch.put(format!("{n}"), "v"));
    assert_eq!(refused(many).await, Limit::Batch(MAX_BATCH + 1));
    assert!(store.get(b"").await.is_err());
    assert!(store.get(&long_key).await.is_err());
    assert!(store.scan(&long_key, None, 1).await.is_err());
    assert!(store.scan(b"", Some(b""), 1).await.is_err());
    assert!(store.scan(b"", None, 0).await.is_err());
    assert!(store.scan(b"", None, MAX_PAGE + 1).await.is_err());
    let largest = Batch::new().put(long_key[1..].to_vec(), large[1..].to_vec());
    store.commit(largest).await.unwrap();
    assert_eq!(store.get(&long_key[1..]).await.unwrap().unwrap().value.len(), MAX_VALUE_BYTES);
}

async fn concurrent_increments_are_all_counted(store: Arc<dyn Store>) {
    const WRITERS: u64 = 8;
    const EACH: u64 = 20;
    let writers = (0..WRITERS).map(|_| {
        let store = Arc::clone(&store);
        tokio::spawn(async move {
            let mut versions = BTreeSet::new();
            for _ in 0..EACH {
                versions.insert(increment(&*store).await);
            }
            versions
        })
    });
    let versions: Vec<BTreeSet<u64>> = futures::future::try_join_all(writers).await.unwrap();
    let distinct: BTreeSet<u64> = versions.into_iter().flatten().collect();
    assert_eq!(distinct.len() as u64, WRITERS * EACH, "no two commits share a version");
    assert_eq!(number(&store.get(b"n").await.unwrap().unwrap().value), WRITERS * EACH);
}

async fn increment(store: &dyn Store) -> u64 {
    loop {
        let batch = match store.get(b"n").await.unwrap() {
            None => Batch::new().absent("n").put("n", "1"),
            Some(Versioned { version, value }) => {
                Batch::new().version_is("n", version).put("n", (number(&value) + 1).to_string())
            }
        };
        match store.commit(batch.relaxed()).await {
            Ok(version) => return version,
            Err(StoreError::Conflict { .. }) => {}
            Err(error) => panic!("{error}"),
        }
    }
}

fn number(value: &[u8]) -> u64 {
    std::str::from_utf8(value).unwrap().parse().unwrap()
}

async fn no_page_shows_half_a_commit(store: Arc<dyn Store>) {
    let transfer = |left: u64| Batch::new().put("a", left.to_string()).put("b", (100 - left).to_string()).relaxed();
    store.commit(transfer(50)).await.unwrap();
    let writer = tokio::spawn({
        let store = Arc::clone(&store);
        async move {
            for n in 0..200 {
                store.commit(transfer(n % 100)).await.unwrap();
            }
        }
    });
    while !writer.is_finished() {
        let page = store.scan(b"", None, 10).await.unwrap();
        let sum: u64 = page.entries.iter().map(|entry| number(&entry.versioned.value)).sum();
        assert_eq!(sum, 100);
    }
    writer.await.unwrap();
}

/// One step of a random history over few keys, so that steps meet.
#[derive(Debug, Clone)]
enum Step {
    Commit { checks: Vec<(Bytes, Expectation)>, writes: Vec<(Bytes, Option<Bytes>)> },
    Get(Bytes),
    Scan { prefix: Bytes, after: Option<Bytes>, limit: usize },
}

/// What a random precondition expects, in terms of what is there when its turn comes.
#[derive(Debug, Clone, Copy)]
enum Expectation {
    Absent,
    WhatIsThere,
    SomethingOlder,
}

fn key() -> impl Strategy<Value = Bytes> {
    prop::collection::vec(prop::sample::select(vec![0u8, b'a', 0xff]), 1..4).prop_map(Bytes::from)
}

fn step() -> impl Strategy<Value = Step> {
    let expectation =
        prop_oneof![Just(Expectation::Absent), Just(Expectation::WhatIsThere), Just(Expectation::SomethingOlder)];
    let checks = prop::collection::vec((key(), expectation), 0..2);
    let value = prop::option::of(prop::collection::vec(any::<u8>(), 0..8).prop_map(Bytes::from));
    let writes = prop::collection::btree_map(key(), value, 0..4).prop_map(|writes| writes.into_iter().collect());
    let prefix = prop::collection::vec(prop::sample::select(vec![0u8, b'a', 0xff]), 0..3).prop_map(Bytes::from);
    prop_oneof![
        3 => (checks, writes).prop_map(|(checks, writes)| Step::Commit { checks, writes }),
        1 => key().prop_map(Step::Get),
        1 => (prefix, prop::option::of(key()), 1usize..5).prop_map(|(prefix, after, limit)| Step::Scan { prefix, after, limit }),
    ]
}

/// The model: entries in no order, searched from end to end.
#[derive(Default)]
struct Model(Vec<Entry>);

impl Model {
    fn get(&self, key: &[u8]) -> Option<Versioned> {
        self.0.iter().find(|entry| entry.key == key).map(|entry| entry.versioned.clone())
    }

    fn write(&mut self, key: &Bytes, value: Option<&Bytes>, version: u64) {
        self.0.retain(|entry| entry.key != key);
        let versioned = value.map(|value| Versioned { version, value: value.clone() });
        self.0.extend(versioned.map(|versioned| Entry { key: key.clone(), versioned }));
    }

    fn scan(&self, prefix: &[u8], after: Option<&[u8]>, limit: usize) -> Page {
        let behind = |entry: &&Entry| after.is_none_or(|after| entry.key > after);
        let mut entries: Vec<Entry> =
            self.0.iter().filter(|entry| entry.key.starts_with(prefix)).filter(behind).cloned().collect();
        entries.sort_by(|a, b| a.key.cmp(&b.key));
        let more = entries.len() > limit;
        entries.truncate(limit);
        let next = more.then(|| entries[limit - 1].key.clone());
        Page { entries, next }
    }
}

async fn agrees_with_the_model(store: Arc<dyn Store>, steps: Vec<Step>) {
    let mut model = Model::default();
    let mut last_version = 0;
    for step in steps {
        match step {
            Step::Get(key) => assert_eq!(store.get(&key).await.unwrap(), model.get(&key)),
            Step::Scan { prefix, after, limit } => {
                let page = store.scan(&prefix, after.as_deref(), limit).await.unwrap();
                assert_eq!(page, model.scan(&prefix, after.as_deref(), limit));
            }
            Step::Commit { checks, writes } => {
                let mut batch = Batch::new().relaxed();
                let mut holds = true;
                for (key, expectation) in checks {
                    let there = model.get(&key).map(|versioned| versioned.version);
                    batch = match (expectation, there) {
                        (Expectation::WhatIsThere, Some(version)) => batch.version_is(key, version),
                        (Expectation::SomethingOlder, Some(version)) => {
                            holds = false;
                            batch.version_is(key, version - 1)
                        }
                        (Expectation::Absent, Some(_)) => {
                            holds = false;
                            batch.absent(key)
                        }
                        (_, None) => batch.absent(key),
                    };
                }
                for (key, value) in &writes {
                    batch = match value {
                        Some(value) => batch.put(key.clone(), value.clone()),
                        None => batch.delete(key.clone()),
                    };
                }
                let outcome = store.commit(batch).await;
                assert_eq!(outcome.is_ok(), holds, "{outcome:?}");
                if let Ok(version) = outcome {
                    assert!(version > last_version);
                    last_version = version;
                    writes.iter().for_each(|(key, value)| model.write(key, value.as_ref(), version));
                }
            }
        }
    }
}

fn run(history: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(history);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn memory_agrees_with_the_model(steps in prop::collection::vec(step(), 0..40)) {
        run(async { agrees_with_the_model(memory().await.store, steps).await });
    }
}

proptest! {
    // Each case makes a folder and a database.
    #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn sled_agrees_with_the_model(steps in prop::collection::vec(step(), 0..40)) {
        run(async {
            let fresh = sled().await;
            agrees_with_the_model(Arc::clone(&fresh.store), steps).await;
        });
    }
}
