//! Keys that a studio has made: imported once, and then the key of one item.
//!
//! An imported key waits for the deposit of an item that its publisher has sealed with it. No key, imported or not,
//! becomes the key of two items: both would be sealed with the same stream.

use super::{Answer, Contradiction, Ledger, room, unless};
use crate::cpix::KeyId;
use crate::id::{ItemId, PublisherId};
use crate::keyserver::record::{Record, SealedKey};
use crate::keyserver::refusals::ImportRefusal;
use crate::seal::KeyCommitment;
use crate::time::Utc;

/// A key of a studio.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Import {
    publisher: PublisherId,
    pub(super) commitment: KeyCommitment,
    pub(super) key: SealedKey,
}

impl Ledger {
    /// What an import would do, before anyone unwraps a key for it: `true` when the key is here already.
    pub fn expects_import(
        &self,
        publisher: &PublisherId,
        kid: &KeyId,
        commitment: &KeyCommitment,
    ) -> Result<bool, ImportRefusal> {
        if !self.is_admitted(publisher) {
            return Err(ImportRefusal::NotAdmitted);
        }
        match self.imports.get(&kid.place(publisher)) {
            Some(known) if known.commitment == *commitment => return Ok(true),
            Some(_) => return Err(ImportRefusal::OtherKey(*kid)),
            None => {}
        }
        if let Some(item) = self.user_of(commitment) {
            return Err(ImportRefusal::KeyUsed(item));
        }
        room("imported keys", self.imports.len(), self.config.max_items)?;
        Ok(false)
    }

    /// Takes over a key of a studio for a publisher; true when it was here already.
    pub fn import_key(
        &mut self,
        now: Utc,
        publisher: PublisherId,
        kid: KeyId,
        commitment: KeyCommitment,
        key: SealedKey,
    ) -> Result<Answer<bool>, ImportRefusal> {
        match self.expects_import(&publisher, &kid, &commitment)? {
            true => Ok(Answer::unchanged(true)),
            false => Ok(self.enter(now, Record::KeyImported { publisher, kid, commitment, key }, |_| false)),
        }
    }

    /// The imported key of a publisher that a catalog entry commits to, and the name it is sealed under.
    pub fn imported(&self, publisher: &PublisherId, commitment: &KeyCommitment) -> Option<(ItemId, SealedKey)> {
        let found = self.imports.iter().find(|(_, one)| one.publisher == *publisher && one.commitment == *commitment);
        found.map(|(place, import)| (*place, import.key.clone()))
    }

    /// The item that this is the key of. Looks at every item, which is quick enough for each deposit.
    pub(super) fn user_of(&self, commitment: &KeyCommitment) -> Option<ItemId> {
        self.items.iter().find(|(_, item)| item.commitment == *commitment).map(|(id, _)| *id)
    }

    /// A sealed key by the name it is sealed under.
    pub(super) fn sealed_key_mut(&mut self, name: &ItemId) -> Option<&mut SealedKey> {
        match self.items.get_mut(name) {
            Some(item) => Some(&mut item.key),
            None => self.imports.get_mut(name).map(|import| &mut import.key),
        }
    }

    pub(super) fn apply_import(
        &mut self,
        publisher: PublisherId,
        kid: KeyId,
        commitment: KeyCommitment,
        key: SealedKey,
    ) -> Result<(), Contradiction> {
        let place = kid.place(&publisher);
        unless(!self.is_admitted(&publisher), "the publisher is not admitted")?;
        unless(self.imports.contains_key(&place), "the key is imported already")?;
        self.imports.insert(place, Import { publisher, commitment, key });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keyserver::compaction::Compaction;
    use crate::keyserver::ledger::Config;

    const NOON: Utc = Utc::from_secs(1_795_362_936);
    const ACME: PublisherId = PublisherId::from_bytes([1; 32]);
    const KID: KeyId = KeyId::from_bytes([2; 16]);

    fn sealed(n: u8) -> SealedKey {
        SealedKey::from_bytes([n; SealedKey::LEN])
    }

    fn commitment(n: u8) -> KeyCommitment {
        KeyCommitment::from_bytes([n; 32])
    }

    fn ledger() -> Ledger {
        let mut ledger = Ledger::new(Config { max_items: 2, ..Config::default() });
        let _ = ledger.admit_publisher(NOON, ACME, "Acme").expect("admitted");
        ledger
    }

    #[test]
    fn a_studios_key_is_taken_once_and_found_by_what_an_entry_commits_to() {
        let mut ledger = ledger();
        let mut again = ledger.clone();
        let taken = ledger.import_key(NOON, ACME, KID, commitment(3), sealed(4)).expect("taken");
        assert!(!taken.reply);
        let record = taken.record.expect("something has happened");
        let written = serde_json::to_string(&record).expect("JSON");
        assert!(written.contains("\"kid\":\"02020202-0202-0202-0202-020202020202\""), "{written}");
        again.apply(NOON, &serde_json::from_str(&written).expect("reads back")).expect("fits");
        assert_eq!(again, ledger);
        assert!(Compaction::default().keeps(1, &record, &ledger));

        let repeated = ledger.import_key(NOON, ACME, KID, commitment(3), sealed(5)).expect("known");
        assert!(repeated.reply && repeated.record.is_none());
        assert_eq!(ledger.imported(&ACME, &commitment(3)), Some((KID.place(&ACME), sealed(4))));
        assert_eq!(ledger.imported(&PublisherId::from_bytes([9; 32]), &commitment(3)), None, "another publisher's");
        assert_eq!(ledger.imported(&ACME, &commitment(9)), None);
    }

    #[test]
    fn another_key_under_a_known_name_a_stranger_and_too_many_are_refused() {
        let mut ledger = ledger();
        let _ = ledger.import_key(NOON, ACME, KID, commitment(3), sealed(4)).expect("taken");
        let other = ledger.import_key(NOON, ACME, KID, commitment(5), sealed(4));
        assert_eq!(other, Err(ImportRefusal::OtherKey(KID)));
        let stranger = PublisherId::from_bytes([9; 32]);
        assert_eq!(ledger.import_key(NOON, stranger, KID, commitment(3), sealed(4)), Err(ImportRefusal::NotAdmitted));
        let kid = |n| KeyId::from_bytes([n; 16]);
        let _ = ledger.import_key(NOON, ACME, kid(7), commitment(7), sealed(7)).expect("taken");
        let full = ledger.import_key(NOON, ACME, kid(8), commitment(8), sealed(8));
        assert!(matches!(full, Err(ImportRefusal::Full(_))));
    }

    #[test]
    fn an_imported_key_is_sealed_anew_with_the_others() {
        let mut ledger = ledger();
        let _ = ledger.import_key(NOON, ACME, KID, commitment(3), sealed(4)).expect("taken");
        let place = KID.place(&ACME);
        assert_eq!(ledger.sealed_keys().collect::<Vec<_>>(), [(&place, &commitment(3), &sealed(4))]);
        assert!(ledger.reseal(NOON, place, sealed(6)).record.is_some());
        assert_eq!(ledger.imported(&ACME, &commitment(3)), Some((place, sealed(6))));
    }
}
