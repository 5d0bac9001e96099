//! The reference store: a sorted map behind a lock. For tests, and for what need not survive.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{PoisonError, RwLock};

use async_trait::async_trait;
use bytes::Bytes;

use super::{Batch, Entry, Page, Store, StoreError, Versioned, Write, check_key, check_scan};

/// A store that lives as long as the process.
#[derive(Debug, Default)]
pub struct Memory(RwLock<Contents>);

#[derive(Debug, Default)]
struct Contents {
    commits: u64,
    values: BTreeMap<Bytes, Versioned>,
}

impl Memory {
    /// An empty store.
    pub fn new() -> Memory {
        Memory::default()
    }
}

#[async_trait]
impl Store for Memory {
    async fn get(&self, key: &[u8]) -> Result<Option<Versioned>, StoreError> {
        check_key(key)?;
        let contents = self.0.read().unwrap_or_else(PoisonError::into_inner);
        Ok(contents.values.get(key).cloned())
    }

    async fn scan(&self, prefix: &[u8], after: Option<&[u8]>, limit: usize) -> Result<Page, StoreError> {
        check_scan(prefix, after, limit)?;
        let start = match after.filter(|after| *after >= prefix) {
            Some(after) => Bound::Excluded(after),
            None => Bound::Included(prefix),
        };
        let contents = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let mut found = contents
            .values
            .range::<[u8], _>((start, Bound::Unbounded))
            .take_while(|(key, _)| key.starts_with(prefix))
            .map(|(key, versioned)| Entry { key: key.clone(), versioned: versioned.clone() });
        let entries: Vec<Entry> = found.by_ref().take(limit).collect();
        let next = found.next().and_then(|_| entries.last().map(|entry| entry.key.clone()));
        Ok(Page { entries, next })
    }

    async fn commit(&self, batch: Batch) -> Result<u64, StoreError> {
        batch.check()?;
        let mut contents = self.0.write().unwrap_or_else(PoisonError::into_inner);
        batch.check_preconditions(|key| Ok(contents.values.get(key).map(|versioned| versioned.version)))?;
        contents.commits += 1;
        let version = contents.commits;
        for Write { key, value } in batch.writes {
            match value {
                Some(value) => contents.values.insert(key, Versioned { version, value }),
                None => contents.values.remove(&key),
            };
        }
        Ok(version)
    }
}
