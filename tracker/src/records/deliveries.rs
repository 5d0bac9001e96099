//! How what was delivered to a customer's boxes lies in the store: the last [`KEPT`] of each customer, by number.

use daemon::exit::Failure;
use daemon::store::{MAX_PAGE, Store};
use prost::Message;
use swarm_proto::id::{AccountId, DeviceId, TitleId};
use swarm_proto::time::Utc;

use super::{Key, Records, damaged};

/// Deliveries of one customer that are kept: years of evenings. Fewer than a page of the store holds.
pub(crate) const KEPT: usize = 1_000;
const _: () = assert!(KEPT < MAX_PAGE);

/// A title that had come to a box in full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Delivered {
    pub(crate) title: TitleId,
    pub(crate) device: DeviceId,
    pub(crate) at: Utc,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct StoredDelivery {
    #[prost(bytes = "vec", tag = "1")]
    title: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    device: Vec<u8>,
    #[prost(uint64, tag = "3")]
    at_utc_ms: u64,
}

impl Records {
    /// A delivery under its number, which is one more than that of the last one; the oldest gives way.
    pub(crate) fn delivery(self, account: &AccountId, number: u64, delivered: &Delivered) -> Records {
        let stored = StoredDelivery {
            title: delivered.title.to_vec(),
            device: delivered.device.to_vec(),
            at_utc_ms: delivered.at.as_millis(),
        };
        let records = self.put(Key::Delivery(account, number), stored.encode_to_vec());
        match number.checked_sub(KEPT as u64) {
            Some(oldest) => records.forgotten_delivery(account, oldest),
            None => records,
        }
    }

    pub(crate) fn forgotten_delivery(self, account: &AccountId, number: u64) -> Records {
        Records(self.0.delete(Key::Delivery(account, number).bytes()))
    }
}

/// What was delivered to a customer, the oldest first, each with its number.
pub(crate) async fn deliveries(store: &dyn Store, account: &AccountId) -> Result<Vec<(u64, Delivered)>, Failure> {
    let mut prefix = Key::Delivery(account, 0).bytes();
    prefix.truncate(prefix.len() - size_of::<u64>());
    let page = store.scan(&prefix, None, MAX_PAGE).await?;
    let read = |key: &[u8], value: &[u8]| {
        let number = u64::from_be_bytes(key.get(prefix.len()..)?.try_into().ok()?);
        let stored = StoredDelivery::decode(value).ok()?;
        let delivered = Delivered {
            title: TitleId::try_from(stored.title.as_slice()).ok()?,
            device: DeviceId::try_from(stored.device.as_slice()).ok()?,
            at: Utc::from_millis(stored.at_utc_ms),
        };
        Some((number, delivered))
    };
    let rows =
        page.entries.iter().map(|entry| read(&entry.key, &entry.versioned.value).ok_or_else(|| damaged(&entry.key)));
    rows.collect()
}

#[cfg(test)]
mod tests {
    use daemon::store::Memory;

    use super::*;

    fn delivered(n: u64) -> Delivered {
        Delivered { title: TitleId::from([1; 16]), device: DeviceId::from([2; 32]), at: Utc::from_secs(n) }
    }

    #[tokio::test]
    async fn the_last_deliveries_of_each_customer_are_kept_in_order() {
        let store = Memory::new();
        let (ada, bea) = (AccountId::from([1; 16]), AccountId::from([2; 16]));
        for number in 0..KEPT as u64 + 3 {
            Records::new().delivery(&ada, number, &delivered(number)).commit(&store).await.unwrap();
        }
        Records::new().delivery(&bea, 0, &delivered(9)).commit(&store).await.unwrap();
        let kept = deliveries(&store, &ada).await.unwrap();
        assert_eq!((kept.len(), kept[0], kept[KEPT - 1].0), (KEPT, (3, delivered(3)), KEPT as u64 + 2));
        Records::new().forgotten_delivery(&bea, 0).commit(&store).await.unwrap();
        assert!(deliveries(&store, &bea).await.unwrap().is_empty());
    }
}
