//! What devices hold, read back at the start, page after page.
//!
//! There may be millions of records; never more than a few pages of them are in memory. The next page is read while the
//! last one is looked at. What has a damaged record fails as a whole: nothing is skipped.

use std::sync::Arc;

use bytes::Bytes;
use daemon::exit::Failure;
use daemon::store::{MAX_PAGE, Page, Store, StoreError};
use swarm_proto::bitmap::Holding;
use swarm_proto::id::{DeviceId, ItemId};
use tokio_util::task::AbortOnDropHandle;

use super::damaged;

/// All keys of holdings begin with it.
const LETTER: u8 = b'h';

/// A key without the number of its part.
const KEY_LEN: usize = 1 + DeviceId::LEN + ItemId::LEN;

/// The holdings that have not been read yet.
#[derive(Debug)]
pub(crate) struct Holdings {
    store: Arc<dyn Store>,
    ahead: Option<AbortOnDropHandle<Result<Page, StoreError>>>,
    /// One whose last part may be on the next page.
    unfinished: Option<(Bytes, Vec<u8>)>,
}

impl Holdings {
    /// Begins to read.
    pub(crate) fn read(store: Arc<dyn Store>) -> Holdings {
        let ahead = Some(scan(&store, None));
        Holdings { store, ahead, unfinished: None }
    }

    /// Some more, by device and item; `None` after the last.
    pub(crate) async fn next(&mut self) -> Result<Option<Vec<(DeviceId, ItemId, Holding)>>, Failure> {
        let Some(ahead) = self.ahead.take() else { return Ok(None) };
        let page = ahead.await.unwrap_or_else(|panicked| std::panic::resume_unwind(panicked.into_panic()))?;
        self.ahead = page.next.map(|after| scan(&self.store, Some(after)));
        let mut found = Vec::with_capacity(page.entries.len() + 1);
        for entry in page.entries {
            if entry.key.len() != KEY_LEN + 1 {
                return Err(damaged(&entry.key));
            }
            let (key, piece) = (entry.key.slice(..KEY_LEN), entry.versioned.value);
            match &mut self.unfinished {
                Some((last, value)) if *last == key => value.extend_from_slice(&piece),
                unfinished => found.extend(unfinished.replace((key, piece.to_vec())).map(whole).transpose()?),
            }
        }
        if self.ahead.is_none() {
            found.extend(self.unfinished.take().map(whole).transpose()?);
        }
        Ok(Some(found))
    }
}

fn scan(store: &Arc<dyn Store>, after: Option<Bytes>) -> AbortOnDropHandle<Result<Page, StoreError>> {
    let store = store.clone();
    let scan = async move { store.scan(&[LETTER], after.as_deref(), MAX_PAGE).await };
    AbortOnDropHandle::new(tokio::spawn(scan))
}

fn whole((key, value): (Bytes, Vec<u8>)) -> Result<(DeviceId, ItemId, Holding), Failure> {
    super::holding(&key, &value).ok_or_else(|| damaged(&key))
}

#[cfg(test)]
mod tests {
    use daemon::store::{Batch, Memory};
    use swarm_proto::geometry::MAX_CHUNKS;

    use super::*;
    use crate::records::{Key, Records};

    fn device(n: u16) -> DeviceId {
        let mut bytes = [0; 32];
        bytes[..2].copy_from_slice(&n.to_be_bytes());
        DeviceId::from(bytes)
    }

    async fn all(store: Arc<dyn Store>) -> Result<Vec<(DeviceId, ItemId, Holding)>, Failure> {
        let (mut holdings, mut all) = (Holdings::read(store), Vec::new());
        while let Some(some) = holdings.next().await? {
            all.extend(some);
        }
        Ok(all)
    }

    #[tokio::test]
    async fn holdings_come_back_however_scattered_they_are() {
        let store = Arc::new(Memory::new());
        let item = ItemId::from([2; 32]);
        let scattered = Holding::from_runs(MAX_CHUNKS, (0..MAX_CHUNKS / 2).map(|n| 2 * n..2 * n + 1)).unwrap();
        for holding in [scattered, Holding::complete(3).unwrap()] {
            Records::new().holding(&device(1), &item, Some(&holding)).commit(&*store).await.unwrap();
            assert_eq!(all(store.clone()).await.unwrap(), [(device(1), item, holding)]);
        }
        Records::new().holding(&device(1), &item, None).commit(&*store).await.unwrap();
        assert!(all(store).await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn many_come_back_once_each_wherever_their_pages_end() {
        let store = Arc::new(Memory::new());
        let item = ItemId::from([2; 32]);
        // Of two parts each, and one of one part before them: pages end in the middle of a holding.
        let long = Holding::from_runs(MAX_CHUNKS, (0..MAX_CHUNKS / 2).map(|n| 2 * n..2 * n + 1)).unwrap();
        let mut expected = Vec::new();
        for n in 0..u16::try_from(MAX_PAGE).unwrap() {
            let holding = if n == 0 { Holding::complete(3).unwrap() } else { long.clone() };
            Records::new().holding(&device(n), &item, Some(&holding)).commit(&*store).await.unwrap();
            expected.push((device(n), item, holding));
        }
        assert!(all(store).await.unwrap() == expected);
    }

    #[tokio::test]
    async fn damaged_holding_is_named_and_not_skipped() {
        let store = Arc::new(Memory::new());
        let key = Key::HoldingPart(&device(1), &ItemId::from([2; 32]), 0).bytes();
        store.commit(Batch::new().put(key, vec![0xff; 9])).await.unwrap();
        assert_eq!(all(store).await.unwrap_err().code, "E-RECORD-01");
    }
}
