//! The embedded store: one sled tree on the local disk.
//!
//! Layout of the tree: `0x00 "format"` holds the format's number, `0x00 "commits"` the number of the last commit, and
//! `0x01 ‖ key` holds `version (u64, big-endian) ‖ value`. A batch and its commit number are one sled batch, which sled
//! recovers whole or not at all. A lock around it makes "check, then write" one step and keeps a page of a scan from
//! showing half a commit; it is not held while flushing, so that concurrent commits share a flush. A reader may thus
//! see a commit a moment before it is on disk, but nothing that builds on it can be on disk before it.
//! All of it runs on blocking threads.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use sled::IVec;

use super::{Batch, Durability, Entry, Page, Store, StoreError, Versioned, Write, check_key, check_scan};
use crate::exit::{Exit, Failure};

/// Sled's default of 1 GiB would be most of a box's memory; our records are few and the kernel caches the file too.
const CACHE_BYTES: u64 = 16 << 20;

/// After how long a relaxed commit is on disk at the latest.
const FLUSH_EVERY_MS: u64 = 500;

/// Sled's own threads may hold the lock of a store for a moment after it was dropped.
const OPEN_TRIES: u32 = 50;
const OPEN_RETRY: Duration = Duration::from_millis(20);

/// The layout described above.
const FORMAT: u64 = 1;

const FORMAT_KEY: &[u8] = b"\x00format";
const COMMITS_KEY: &[u8] = b"\x00commits";
const RECORDS: u8 = 0x01;

/// A store in a folder.
#[derive(Clone)]
pub struct Sled(Arc<Inner>);

struct Inner {
    db: sled::Db,
    /// The number of the last commit. Held for writing while a commit checks and writes.
    commits: RwLock<u64>,
}

impl std::fmt::Debug for Sled {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sled").finish_non_exhaustive()
    }
}

impl Sled {
    /// Opens the store in this folder, or makes an empty one.
    pub async fn open(folder: impl AsRef<Path>) -> Result<Sled, Failure> {
        let folder = folder.as_ref().to_owned();
        tokio::task::spawn_blocking(move || open(&folder))
            .await
            .map_err(|error| Failure::new(Exit::Failed, "E-STORE-04", "the store could not be opened").why(error))?
    }

    async fn on_blocking_thread<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Inner) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let inner = Arc::clone(&self.0);
        match tokio::task::spawn_blocking(move || work(&inner)).await {
            Ok(result) => result,
            Err(error) => Err(StoreError::Backend(error.to_string())),
        }
    }
}

#[async_trait]
impl Store for Sled {
    async fn get(&self, key: &[u8]) -> Result<Option<Versioned>, StoreError> {
        check_key(key)?;
        let key = record_key(key);
        self.on_blocking_thread(move |inner| inner.get(&key)).await
    }

    async fn scan(&self, prefix: &[u8], after: Option<&[u8]>, limit: usize) -> Result<Page, StoreError> {
        check_scan(prefix, after, limit)?;
        let (prefix, after) = (record_key(prefix), after.map(record_key));
        self.on_blocking_thread(move |inner| inner.scan(&prefix, after.as_deref(), limit)).await
    }

    async fn commit(&self, batch: Batch) -> Result<u64, StoreError> {
        batch.check()?;
        self.on_blocking_thread(move |inner| inner.commit(batch)).await
    }
}

impl Inner {
    fn get(&self, key: &[u8]) -> Result<Option<Versioned>, StoreError> {
        self.db.get(key)?.as_ref().map(versioned_of).transpose()
    }

    fn scan(&self, prefix: &[u8], after: Option<&[u8]>, limit: usize) -> Result<Page, StoreError> {
        let _no_commit_meanwhile = self.commits.read().unwrap_or_else(PoisonError::into_inner);
        let behind = after.filter(|after| *after >= prefix);
        let mut found = self.db.range(behind.unwrap_or(prefix)..);
        let mut entries = Vec::new();
        loop {
            let Some((key, raw)) = found.next().transpose()?.filter(|(key, _)| key.starts_with(prefix)) else {
                return Ok(Page { entries, next: None });
            };
            if behind.is_some_and(|after| *key == *after) {
                continue;
            }
            if entries.len() == limit {
                let next = entries.last().map(|entry: &Entry| entry.key.clone());
                return Ok(Page { entries, next });
            }
            entries.push(Entry { key: Bytes::copy_from_slice(&key[1..]), versioned: versioned_of(&raw)? });
        }
    }

    fn commit(&self, batch: Batch) -> Result<u64, StoreError> {
        let durability = batch.durability;
        let version = self.apply(batch)?;
        if durability == Durability::Durable {
            self.db.flush()?;
        }
        Ok(version)
    }

    fn apply(&self, batch: Batch) -> Result<u64, StoreError> {
        let mut commits = self.commits.write().unwrap_or_else(PoisonError::into_inner);
        batch.check_preconditions(|key| Ok(self.get(&record_key(key))?.map(|versioned| versioned.version)))?;
        let version = *commits + 1;
        let mut writes = sled::Batch::default();
        writes.insert(COMMITS_KEY, &version.to_be_bytes());
        for Write { key, value } in batch.writes {
            match value {
                Some(value) => writes.insert(record_key(&key), [&version.to_be_bytes(), value.as_ref()].concat()),
                None => writes.remove(record_key(&key)),
            }
        }
        self.db.apply_batch(writes)?;
        *commits = version;
        Ok(version)
    }
}

impl From<sled::Error> for StoreError {
    fn from(error: sled::Error) -> StoreError {
        match &error {
            sled::Error::Io(io) if matches!(io.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) => {
                StoreError::Full(error.to_string())
            }
            _ => StoreError::Backend(error.to_string()),
        }
    }
}

fn open(folder: &Path) -> Result<Sled, Failure> {
    let db = open_db(folder)?;
    let number_at = |key: &[u8]| -> Result<Option<u64>, Failure> {
        let raw = db.get(key).map_err(|error| damaged(folder, &error))?;
        raw.map(|raw| {
            raw.as_ref().try_into().map(u64::from_be_bytes).map_err(|_| damaged(folder, &"a number is cut off"))
        })
        .transpose()
    };
    match number_at(FORMAT_KEY)? {
        Some(FORMAT) => {}
        Some(other) => return Err(other_format(folder, other)),
        None => {
            db.insert(FORMAT_KEY, &FORMAT.to_be_bytes())
                .and_then(|_| db.flush())
                .map_err(|error| Failure::from(StoreError::from(error)))?;
        }
    }
    let commits = number_at(COMMITS_KEY)?.unwrap_or(0);
    Ok(Sled(Arc::new(Inner { db, commits: RwLock::new(commits) })))
}

fn open_db(folder: &Path) -> Result<sled::Db, Failure> {
    let config = sled::Config::new().path(folder).cache_capacity(CACHE_BYTES).flush_every_ms(Some(FLUSH_EVERY_MS));
    for tries_left in (0..OPEN_TRIES).rev() {
        // Sled panics on some damaged files instead of returning an error.
        match catch_unwind(AssertUnwindSafe(|| config.open())) {
            Ok(Ok(db)) => return Ok(db),
            Ok(Err(sled::Error::Io(error))) if is_locked(&error) && tries_left > 0 => std::thread::sleep(OPEN_RETRY),
            Ok(Err(sled::Error::Io(error))) if is_locked(&error) => break,
            Ok(Err(sled::Error::Io(error))) if error.kind() != io::ErrorKind::InvalidData => {
                return Err(Failure::io(format!("cannot open the store in {}", folder.display()), &error));
            }
            Ok(Err(error)) => return Err(damaged(folder, &error)),
            Err(_panic) => return Err(damaged(folder, &"its files do not make sense")),
        }
    }
    Err(Failure::new(Exit::Conflict, "E-STORE-07", format!("the store in {} is in use", folder.display()))
        .hint("stop the process that uses it"))
}

/// Sled reports its lock as an error of its own making, with the real one as text.
fn is_locked(error: &io::Error) -> bool {
    error.to_string().contains("could not acquire lock")
}

fn record_key(key: &[u8]) -> Vec<u8> {
    [&[RECORDS], key].concat()
}

fn versioned_of(raw: &IVec) -> Result<Versioned, StoreError> {
    let (version, value) =
        raw.split_first_chunk().ok_or_else(|| StoreError::Backend("a record is cut off".to_owned()))?;
    Ok(Versioned { version: u64::from_be_bytes(*version), value: Bytes::copy_from_slice(value) })
}

fn damaged(folder: &Path, why: &dyn std::fmt::Display) -> Failure {
    Failure::new(Exit::Integrity, "E-STORE-05", format!("the store in {} is damaged", folder.display()))
        .why(why)
        .hint("restore it from a backup, or move it away and let the daemon rebuild what can be rebuilt")
}

fn other_format(folder: &Path, found: u64) -> Failure {
    Failure::new(
        Exit::VersionMismatch,
        "E-STORE-06",
        format!("the store in {} is of another version", folder.display()),
    )
    .why(format!("its format is {found}, this program knows {FORMAT}"))
    .hint("run the version of this program that wrote it")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn store_of_a_later_version_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        drop(Sled::open(folder.path()).await.unwrap());
        let db = open_db(folder.path()).unwrap();
        db.insert(FORMAT_KEY, &9u64.to_be_bytes()).unwrap();
        db.flush().unwrap();
        drop(db);
        assert_eq!(Sled::open(folder.path()).await.unwrap_err().exit, Exit::VersionMismatch);
    }

    #[tokio::test]
    async fn store_in_use_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let _held = Sled::open(folder.path()).await.unwrap();
        assert_eq!(Sled::open(folder.path()).await.unwrap_err().exit, Exit::Conflict);
    }

    #[tokio::test]
    async fn damaged_store_is_refused_and_named() {
        let folder = tempfile::tempdir().unwrap();
        drop(Sled::open(folder.path()).await.unwrap());
        std::fs::write(folder.path().join("conf"), b"not a configuration of sled at all").unwrap();
        let failure = Sled::open(folder.path()).await.unwrap_err();
        assert_eq!(failure.exit, Exit::Integrity, "{failure:?}");
    }

    #[tokio::test]
    async fn versions_go_on_where_they_were() {
        let folder = tempfile::tempdir().unwrap();
        let store = Sled::open(folder.path()).await.unwrap();
        let before = store.commit(Batch::new().put("a", "1")).await.unwrap();
        store.commit(Batch::new().delete("a")).await.unwrap();
        drop(store);
        let store = Sled::open(folder.path()).await.unwrap();
        assert_eq!(store.get(b"a").await.unwrap(), None);
        assert!(store.commit(Batch::new().put("a", "2")).await.unwrap() > before + 1);
    }
}
