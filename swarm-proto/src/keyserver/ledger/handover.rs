//! Which keys have signed licences: what the ledger knows of a keyserver's own key.
//!
//! Each change is a record that bears the signed succession, so whoever reads the journal can check for themselves which
//! key signed when. The key a keyserver began with is named by the first of them.

use super::{Answer, Contradiction, Ledger};
use crate::id::ServerId;
use crate::keyserver::record::Record;
use crate::signed::Signed;
use crate::succession::{Lineage, LineageError, Succession};
use crate::time::Utc;

impl Ledger {
    /// The keys so far; none while there was only one.
    pub const fn lineage(&self) -> Option<&Lineage> {
        self.lineage.as_ref()
    }

    /// Hands over to another key; says which one signs from now on.
    pub fn hand_over(&mut self, now: Utc, succession: Signed<Succession>) -> Result<Answer<ServerId>, LineageError> {
        let successor = self.lineage_before(&succession).hand_over(succession.clone())?;
        Ok(self.enter(now, Record::SigningKeyChanged { succession }, |_| successor))
    }

    pub(super) fn apply_handover(&mut self, succession: Signed<Succession>) -> Result<(), Contradiction> {
        let mut lineage = self.lineage_before(&succession);
        let followed = lineage.hand_over(succession);
        followed.map_err(|_| Contradiction("the key does not follow the one before"))?;
        self.lineage = Some(lineage);
        Ok(())
    }

    fn lineage_before(&self, succession: &Signed<Succession>) -> Lineage {
        self.lineage.clone().unwrap_or_else(|| Lineage::founded_by(succession.signer()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keyserver::compaction::Compaction;
    use crate::keyserver::ledger::Config;
    use crate::signed::SigningKey;

    const NOON: Utc = Utc::from_secs(1_795_362_936);

    fn key(n: u8) -> SigningKey {
        SigningKey::from_bytes(&[n; 32]).expect("32 bytes")
    }

    fn succession(from: u8, to: u8) -> Signed<Succession> {
        Succession::sign(&key(from), &key(to), NOON).expect("valid")
    }

    #[test]
    fn a_change_of_key_is_a_record_that_proves_itself_and_is_never_left_out() {
        let mut ledger = Ledger::new(Config::default());
        let mut again = ledger.clone();
        for to in 2..=3 {
            let Answer { record, reply } = ledger.hand_over(NOON, succession(to - 1, to)).expect("it follows");
            assert_eq!(reply, key(to).server_id());
            let record = record.expect("something has happened");
            let written = serde_json::to_string(&record).expect("records are JSON");
            let read: Record = serde_json::from_str(&written).expect("reads back");
            assert_eq!(read, record);
            again.apply(NOON, &read).expect("fits");
            assert!(Compaction::default().keeps(1, &record, &ledger), "a snapshot has it");
        }
        assert_eq!(again, ledger);
        assert_eq!(ledger.lineage().map(Lineage::current), Some(key(3).server_id()));
    }

    #[test]
    fn a_key_that_does_not_follow_is_refused_and_contradicts_a_journal() {
        let mut ledger = Ledger::new(Config::default());
        let _ = ledger.hand_over(NOON, succession(1, 2)).expect("it follows");
        let unchanged = ledger.clone();
        for stranger in [succession(1, 3), succession(4, 5), succession(2, 1)] {
            assert!(ledger.hand_over(NOON, stranger.clone()).is_err());
            assert!(ledger.apply(NOON, &Record::SigningKeyChanged { succession: stranger }).is_err());
        }
        assert_eq!(ledger, unchanged);
    }
}
