//! What was delivered to whose boxes, and when: kept for the customer, told in their export, gone with them.
//!
//! A delivery is a title of the customer's queue that one of their boxes has come to hold in full. It is written before
//! the holding is, so that what a crash loses is noted again when the box says once more what it holds. Preloads are
//! nobody's deliveries.

use std::collections::BTreeMap;

use daemon::exit::Failure;
use swarm_proto::id::{AccountId, DeviceId, ItemId};
use swarm_proto::membership::DeviceKind;
use swarm_proto::pb::tracker as pb;
use swarm_proto::time::Now;

use super::{FLUSH_AFTER, State};
use crate::records::{self, Delivered, Records};

/// Deliveries that wait to be written. Beyond that the oldest is not: the store has been failing for long.
const MAX_WAITING: usize = 10_000;

/// Deliveries that are written at a time: two records each, one of which is deleted.
const AT_A_TIME: usize = 256;

/// Customers whose next number is remembered, about 50 bytes each; of others it is read again.
const MAX_NUMBERS: usize = 100_000;

/// Records that are deleted at a time.
const FORGOTTEN_AT_A_TIME: usize = 500;

impl State {
    /// A device has come to hold all of an item.
    pub(super) fn note_delivered(&mut self, now: Now, device: DeviceId, item: ItemId) {
        let Some(known) = self.registry.device(&device).filter(|it| it.kind == DeviceKind::Box) else { return };
        let Some(title) = self.catalog.item(&item).map(|it| it.entry.title) else { return };
        let entries = self.queues.get(&known.account).into_iter().flat_map(|queue| queue.entries());
        if !entries.into_iter().any(|entry| entry.title == title && entry.concerns(&device)) {
            return;
        }
        if self.unwritten.deliveries.len() >= MAX_WAITING {
            self.unwritten.deliveries.pop_front();
        }
        self.unwritten.deliveries.push_back((known.account, Delivered { title, device, at: now.utc }));
        self.unwritten.is_due_by(now.mono + FLUSH_AFTER);
    }

    /// Writes some of what waits.
    pub(super) async fn write_deliveries(&mut self) -> Result<(), Failure> {
        let some: Vec<(AccountId, Delivered)> = self.unwritten.deliveries.iter().take(AT_A_TIME).copied().collect();
        if some.is_empty() {
            return Ok(());
        }
        let mut numbers: BTreeMap<AccountId, u64> = BTreeMap::new();
        let mut batch = Records::new();
        for (account, delivered) in &some {
            let number = match numbers.get(account).or_else(|| self.delivery_numbers.get(account)) {
                Some(number) => *number,
                None => {
                    let last = records::deliveries(&*self.store, account).await?;
                    last.last().map_or(0, |(number, _)| number + 1)
                }
            };
            batch = batch.delivery(account, number, delivered);
            numbers.insert(*account, number + 1);
        }
        self.commit(batch).await?;
        self.unwritten.deliveries.drain(..some.len());
        if self.delivery_numbers.len() >= MAX_NUMBERS {
            self.delivery_numbers.clear();
        }
        self.delivery_numbers.extend(numbers);
        Ok(())
    }

    /// Everything that was delivered to a customer, for their export.
    pub(super) async fn delivery_messages(&self, account: &AccountId) -> Result<Vec<pb::DeliveredTitle>, Failure> {
        let written = records::deliveries(&*self.store, account).await?.into_iter().map(|(_, delivered)| delivered);
        let waiting = self.unwritten.deliveries.iter().filter(|(of, _)| of == account).map(|(_, delivered)| *delivered);
        let message = |delivered: Delivered| pb::DeliveredTitle {
            title: delivered.title.to_vec(),
            name: self.catalog.title(&delivered.title).map(|it| it.entry.name.clone()).unwrap_or_default(),
            device: delivered.device.to_vec(),
            delivered_utc_ms: delivered.at.as_millis(),
        };
        Ok(written.chain(waiting).map(message).collect())
    }

    /// Erases what was delivered to a customer.
    pub(super) async fn forget_deliveries(&mut self, account: &AccountId) -> Result<(), Failure> {
        self.unwritten.deliveries.retain(|(of, _)| of != account);
        self.delivery_numbers.remove(account);
        let written = records::deliveries(&*self.store, account).await?;
        for some in written.chunks(FORGOTTEN_AT_A_TIME) {
            let records = Records::new();
            let records =
                some.iter().fold(records, |records, (number, _)| records.forgotten_delivery(account, *number));
            self.commit(records).await?;
        }
        Ok(())
    }
}
