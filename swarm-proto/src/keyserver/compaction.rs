//! Which records still matter, once a ledger has been made of them.
//!
//! A snapshot is a shorter journal: the records that give the same ledger when they are applied to an empty one, in
//! their order and with their dates. Left out is what the ledger has forgotten, and what a later record of the same
//! kind has replaced. A record of which nothing is known to be replaceable is kept. It takes two looks at the records:
//! [`Compaction::note`] for each, then [`Compaction::keeps`] for each.

use std::collections::BTreeMap;

use super::ledger::Ledger;
use super::record::Record;
use crate::id::{AccountId, DeviceId, ItemId, OrderId};

/// Decides which records of a journal go into a snapshot.
#[derive(Debug, Default)]
pub struct Compaction {
    /// The last record that filled each slot.
    last: BTreeMap<Slot, u64>,
}

/// Of the records with the same slot, only the last one shows in the ledger.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Slot {
    Renewal(OrderId, DeviceId),
    Terms(ItemId),
    SealedKey(ItemId),
    Card(AccountId),
    Allowance(OrderId, DeviceId),
    Preview(ItemId, DeviceId),
}

impl Compaction {
    /// Takes note of a record, on the first look.
    pub fn note(&mut self, number: u64, record: &Record) {
        if let Some(slot) = slot(record) {
            self.last.insert(slot, number);
        }
    }

    /// Whether a record goes into the snapshot, on the second look; `ledger` is what all of them make.
    pub fn keeps(&self, number: u64, record: &Record, ledger: &Ledger) -> bool {
        if matches!(record, Record::OrdersForgotten { .. }) {
            return false;
        }
        if record.order().is_some_and(|order| !ledger.knows(&order)) {
            return false;
        }
        if let Record::PreviewGiven { item, device } = record
            && !ledger.knows_preview(item, device)
        {
            return false;
        }
        slot(record).is_none_or(|slot| self.last.get(&slot) == Some(&number))
    }
}

fn slot(record: &Record) -> Option<Slot> {
    match record {
        Record::LicenceRenewed { order, device } => Some(Slot::Renewal(*order, *device)),
        Record::TermsChanged { item, .. } => Some(Slot::Terms(*item)),
        Record::KeyResealed { item, .. } => Some(Slot::SealedKey(*item)),
        Record::CardSaved { account, .. } => Some(Slot::Card(*account)),
        Record::SpansAllowed { order, device, .. } => Some(Slot::Allowance(*order, *device)),
        Record::PreviewGiven { item, device } => Some(Slot::Preview(*item, *device)),
        _ => None,
    }
}
