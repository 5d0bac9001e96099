//! Small records that survive: the one storage interface of every daemon.
//!
//! A store maps keys to versioned values, in order of keys. A batch is all or nothing: its preconditions hold at the
//! moment its writes happen, or nothing happens. The version of a value is the number of the commit that put it;
//! versions only grow, also across deletion, so that "unchanged since I looked" is one comparison. A durable commit is
//! on disk when it is acknowledged. Every size is bounded here, before a backend sees it. Backends do not know what
//! the keys mean; the repositories above them do.

mod memory;
mod sled;

#[cfg(test)]
mod conformance;

use std::collections::BTreeSet;
use std::fmt;

use async_trait::async_trait;
use bytes::Bytes;

pub use self::memory::Memory;
pub use self::sled::Sled;
use crate::exit::{Exit, Failure};

/// The longest key.
pub const MAX_KEY_BYTES: usize = 256;

/// The largest value. Larger ones make sled several times slower; what is larger belongs in a file.
pub const MAX_VALUE_BYTES: usize = 4096;

/// The most preconditions and writes in one batch: 4 MiB of values at the very most.
pub const MAX_BATCH: usize = 1024;

/// The most entries in one page of a scan.
pub const MAX_PAGE: usize = 1024;

/// Keys to versioned values, in order of keys.
#[async_trait]
pub trait Store: fmt::Debug + Send + Sync + 'static {
    /// The value at this key.
    async fn get(&self, key: &[u8]) -> Result<Option<Versioned>, StoreError>;

    /// Up to `limit` entries whose keys begin with `prefix`, in order, starting behind `after`.
    /// A page shows all of a commit or nothing of it.
    async fn scan(&self, prefix: &[u8], after: Option<&[u8]>, limit: usize) -> Result<Page, StoreError>;

    /// Checks the preconditions and performs the writes, all or nothing. Answers the version that the puts were given.
    ///
    /// Once started it goes on to its end, whether or not the future is still waited for.
    async fn commit(&self, batch: Batch) -> Result<u64, StoreError>;
}

/// A value, and the number of the commit that put it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Versioned {
    /// Larger than the version of any value put before, at this key or another.
    pub version: u64,
    /// The value.
    pub value: Bytes,
}

/// A key with its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The whole key, prefix included.
    pub key: Bytes,
    /// Its value and version.
    pub versioned: Versioned,
}

/// A part of a scan.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Page {
    /// The entries, in order of keys.
    pub entries: Vec<Entry>,
    /// Where the next page starts (`after`), unless this was the last.
    pub next: Option<Bytes>,
}

/// When a commit is acknowledged.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Durability {
    /// When it is on disk.
    #[default]
    Durable,
    /// At once; a crash within the next half second may undo it, together with whatever came after it.
    Relaxed,
}

/// What to check and what to write, all or nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Batch {
    preconditions: Vec<Precondition>,
    writes: Vec<Write>,
    durability: Durability,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Precondition {
    key: Bytes,
    /// The version the key has to have; `None` if it has to be absent.
    version: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Write {
    key: Bytes,
    /// The value to put; `None` to delete.
    value: Option<Bytes>,
}

impl Batch {
    /// Nothing yet.
    pub fn new() -> Batch {
        Batch::default()
    }

    /// Only if there is nothing at this key.
    pub fn absent(mut self, key: impl Into<Bytes>) -> Batch {
        self.preconditions.push(Precondition { key: key.into(), version: None });
        self
    }

    /// Only if the value at this key is the one that was put with this version.
    pub fn version_is(mut self, key: impl Into<Bytes>, version: u64) -> Batch {
        self.preconditions.push(Precondition { key: key.into(), version: Some(version) });
        self
    }

    /// Puts a value at this key.
    pub fn put(mut self, key: impl Into<Bytes>, value: impl Into<Bytes>) -> Batch {
        self.writes.push(Write { key: key.into(), value: Some(value.into()) });
        self
    }

    /// Deletes what is at this key, if anything is.
    pub fn delete(mut self, key: impl Into<Bytes>) -> Batch {
        self.writes.push(Write { key: key.into(), value: None });
        self
    }

    /// Acknowledged at once, and on disk a little later: for what will be said again, such as a heartbeat.
    pub fn relaxed(mut self) -> Batch {
        self.durability = Durability::Relaxed;
        self
    }

    /// How many preconditions and writes it has.
    pub fn len(&self) -> usize {
        self.preconditions.len() + self.writes.len()
    }

    /// Whether it has nothing to check and nothing to write.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn check(&self) -> Result<(), StoreError> {
        if self.len() > MAX_BATCH {
            return Err(StoreError::Limit(Limit::Batch(self.len())));
        }
        let keys = self.preconditions.iter().map(|precondition| &precondition.key);
        for key in keys.chain(self.writes.iter().map(|write| &write.key)) {
            check_key(key)?;
        }
        let mut written = BTreeSet::new();
        for Write { key, value } in &self.writes {
            if !written.insert(key) {
                return Err(StoreError::Limit(Limit::WrittenTwice(key.clone())));
            }
            if let Some(value) = value.as_ref().filter(|value| value.len() > MAX_VALUE_BYTES) {
                return Err(StoreError::Limit(Limit::Value(value.len())));
            }
        }
        Ok(())
    }

    /// Refuses with the first precondition that does not hold, given how to find the version at a key.
    fn check_preconditions(
        &self,
        mut version_at: impl FnMut(&[u8]) -> Result<Option<u64>, StoreError>,
    ) -> Result<(), StoreError> {
        for Precondition { key, version } in &self.preconditions {
            let found = version_at(key)?;
            if found != *version {
                return Err(StoreError::Conflict { key: key.clone(), found });
            }
        }
        Ok(())
    }
}

/// Why a store did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A precondition does not hold, nothing was written. Read again and decide again.
    #[error("{} is {}", shown(key), found.map_or("absent".to_owned(), |version| format!("at version {version}")))]
    Conflict {
        /// The key that is not as expected.
        key: Bytes,
        /// The version it has, if it is there.
        found: Option<u64>,
    },
    /// The caller asked for more than a store takes. A mistake in the program: keep to the bounds.
    #[error(transparent)]
    Limit(Limit),
    /// The disk is full. Nothing was acknowledged; free some space.
    #[error("the disk is full: {0}")]
    Full(String),
    /// The backend failed. Whether the commit happened is known only after reading again.
    #[error("the store failed: {0}")]
    Backend(String),
}

/// Which bound of a store was not kept.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Limit {
    /// A key is empty or longer than [`MAX_KEY_BYTES`].
    #[error("a key of {0} bytes, allowed are 1 to {MAX_KEY_BYTES}")]
    Key(usize),
    /// A value is larger than [`MAX_VALUE_BYTES`].
    #[error("a value of {0} bytes, allowed are {MAX_VALUE_BYTES}")]
    Value(usize),
    /// A batch has more than [`MAX_BATCH`] parts.
    #[error("a batch of {0} parts, allowed are {MAX_BATCH}")]
    Batch(usize),
    /// A page of no entry, or of more than [`MAX_PAGE`].
    #[error("a page of {0} entries, allowed are 1 to {MAX_PAGE}")]
    Page(usize),
    /// One batch writes a key twice, so that its outcome would depend on an order that it does not have.
    #[error("{} is written twice in one batch", shown(.0))]
    WrittenTwice(Bytes),
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Failure {
        match &error {
            StoreError::Conflict { .. } => {
                Failure::new(Exit::Conflict, "E-STORE-01", "someone else changed this at the same time")
                    .why(error)
                    .hint("try again")
            }
            StoreError::Limit(_) => {
                Failure::new(Exit::Usage, "E-STORE-02", "this is too much to store in one record").why(error)
            }
            StoreError::Full(_) => Failure::new(Exit::Storage, "E-STORE-03", "cannot store anything more")
                .why(error)
                .hint("free some disk space; the daemon goes on by itself then"),
            StoreError::Backend(_) => Failure::new(Exit::Failed, "E-STORE-04", "cannot read or write the store")
                .why(error)
                .hint("check the disk and its permissions, then restart the daemon"),
        }
    }
}

fn check_key(key: &[u8]) -> Result<(), StoreError> {
    match key.len() {
        1..=MAX_KEY_BYTES => Ok(()),
        length => Err(StoreError::Limit(Limit::Key(length))),
    }
}

fn check_scan(prefix: &[u8], after: Option<&[u8]>, limit: usize) -> Result<(), StoreError> {
    if prefix.len() > MAX_KEY_BYTES {
        return Err(StoreError::Limit(Limit::Key(prefix.len())));
    }
    after.map_or(Ok(()), check_key)?;
    match limit {
        1..=MAX_PAGE => Ok(()),
        limit => Err(StoreError::Limit(Limit::Page(limit))),
    }
}

/// A key as it appears in a message: text where it is text.
fn shown(key: &[u8]) -> String {
    format!("key {}", key.escape_ascii())
}
