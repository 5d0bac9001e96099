//! A new master key, while the keyserver is stopped for a moment, and a new key for deposits at any time.
//!
//! A new master key is first written beside the old one. Then every deposited key is sealed anew, by records in the
//! journal, and a volume is begun under the new key; only then does the new one take the old one's place. As long as
//! both are there a keyserver does not start, and the same command goes on where it was cut off. Names of passes do not
//! change: the key that they are hashed with is carried over, sealed under the new master key.

use std::fs;
use std::path::Path;

use daemon::{DataFolder, Exit, Failure, secrets};
use swarm_proto::keyserver::ledger::{Config, Ledger};
use swarm_proto::keyserver::record::Record;
use swarm_proto::wrap::{HpkePublic, HpkeSecret};

use super::ring::KeyRing;
use super::{DEPOSIT, DEPOSIT_BEFORE, Keys, MASTER, MASTER_NEXT, PASS, Vault};
use crate::journal::shelf::{Shelf, Unreadable};
use crate::journal::{self, Entry, Journal};
use crate::{books, clock, crash};

/// Records that share one wait for the disk.
const BATCH: usize = 256;

/// Puts a new master key in place of the old one; says how many deposited keys were sealed anew.
pub fn master(folder: &DataFolder) -> Result<usize, Failure> {
    let (current, next) = (folder.file(MASTER), folder.file(MASTER_NEXT));
    let old = secrets::read_key(&current)?;
    let new = secrets::read_or_create_key(&next)?;
    let pass_key = super::pass_key(&folder.file(PASS), &[&old, &new])?;
    let (from, to) = (Vault::new(&old, &pass_key), Vault::new(&new, &pass_key));
    crash::point("rotation-begun");

    let shelf = Shelf::new(folder.path());
    let unreadable = |error: Unreadable| journal::failure_of_read(&error.path, &error.error);
    let full = |error: std::io::Error| Failure::io("cannot write the journal", &error);
    let mut ledger = Ledger::new(Config::default());
    let (mut journal, story) = Journal::open(&shelf, |link| books::apply(&mut ledger, &link)).map_err(unreadable)?;
    let header = story.live.header;
    if ![from.check(), to.check()].contains(&header.master_check) {
        return Err(super::wrong_key(folder.path(), MASTER, &header));
    }
    let mut entries = Vec::new();
    for (item, commitment, sealed) in ledger.sealed_keys() {
        if to.open(item, commitment, sealed).is_ok() {
            continue;
        }
        let key = from.open(item, commitment, sealed).map_err(|error| {
            Failure::new(Exit::Integrity, "E-VAULT-07", format!("the key of item {item} cannot be sealed anew"))
                .why(error)
                .hint("check the journal with `keyserver audit verify`; the old master key is still in place")
        })?;
        let record = Record::KeyResealed { item: *item, key: to.seal(item, &key) };
        entries.push(Entry { at: clock::utc(), record });
    }
    for batch in entries.chunks(BATCH) {
        journal.append(batch).map_err(full)?;
        crash::point("rotation-resealed");
    }
    if header.master_check != to.check() {
        journal.close_volume(header.server, to.check()).map_err(full)?;
    }
    crash::point("rotation-volume");
    secrets::replace(&folder.file(PASS), &to.seal_pass_key())?;
    crash::point("rotation-pass-key");
    secrets::replace(&current, new.as_slice())?;
    crash::point("rotation-master");
    fs::remove_file(&next).map_err(|error| Failure::io(format!("cannot remove {}", next.display()), &error))?;
    Ok(entries.len())
}

/// Puts a new key for deposits in place of the old one, which goes on opening what was wrapped to it until the next
/// change; gives both, the new one first.
pub fn deposit(folder: &Path) -> Result<(HpkeSecret, HpkeSecret), Failure> {
    let key = |bytes: &[u8]| HpkeSecret::from_bytes(bytes).expect("a key has 32 bytes");
    let current = folder.join(DEPOSIT);
    let old = secrets::read_key(&current)?;
    secrets::replace(&folder.join(DEPOSIT_BEFORE), old.as_slice())?;
    crash::point("rotation-deposit-kept");
    let new = secrets::random::<32>();
    secrets::replace(&current, new.as_slice())?;
    Ok((key(new.as_slice()), key(old.as_slice())))
}

/// Does the same for a keyserver that runs; gives the new key.
pub(crate) fn deposit_of(folder: &Path, ring: &KeyRing) -> Result<HpkePublic, Failure> {
    let (new, old) = deposit(folder)?;
    let public = new.public();
    ring.replace(Keys { deposit: new, deposit_before: Some(old), ..Keys::clone(&ring.now()) });
    Ok(public)
}
