//! A new signing key in place of the old one, while the keyserver runs.
//!
//! The new key is first written beside the old one. Then the old one hands over to it in a signed statement, which is a
//! record in the journal: from the moment that is on disk the new key is the keyserver's, whatever happens. Only then
//! does it take the old one's place, and the old one is gone. A change that was cut off before the record has not
//! happened; after it, the next start finishes it.

use std::fs;
use std::path::Path;

use daemon::{Exit, Failure, secrets};
use swarm_proto::id::ServerId;
use swarm_proto::signed::SigningKey;
use swarm_proto::succession::{Lineage, LineageError, Succession};

use super::ring::KeyRing;
use super::{IDENTITY, IDENTITY_NEXT, Keys};
use crate::books::Books;
use crate::{clock, crash};

impl Keys {
    /// The keys as the journal knows them: finishes a change of the signing key that was cut off, or undoes one of which
    /// the journal has not heard.
    pub(crate) fn settled(mut self, folder: &Path, lineage: Option<&Lineage>) -> Result<Keys, Failure> {
        let next = match secrets::read_key(&folder.join(IDENTITY_NEXT)) {
            Ok(key) => Some(SigningKey::from_bytes(key.as_slice()).expect("a key file has 32 bytes")),
            Err(failure) if failure.exit == Exit::NotFound => None,
            Err(failure) => return Err(failure),
        };
        if let Some(lineage) = lineage {
            self.lineage = lineage.clone();
        }
        let current = self.lineage.current();
        match next {
            Some(next) if next.server_id() == current => {
                put_in_place(folder, &next)?;
                self.signing = next;
                tracing::info!(keyserver = %current, "a change of the signing key that was cut off is complete");
            }
            // The journal never heard of it, or it is in its place already: nothing depends on it.
            Some(_) => remove_next(folder)?,
            None => {}
        }
        match self.server() == current {
            true => Ok(self),
            false => Err(other_key(folder, &self.server(), &current)),
        }
    }
}

/// Changes the signing key of a running keyserver; says which one it was, and the keys so far.
pub(crate) async fn hand_over(folder: &Path, ring: &KeyRing, books: &Books) -> Result<(ServerId, Lineage), Failure> {
    let keys = ring.now();
    let known = books.lineage().await?.unwrap_or_else(|| keys.lineage.clone());
    let mut changed = Keys::clone(&keys);
    if known.current() == keys.server() {
        let next = SigningKey::generate(&mut crate::rng());
        secrets::replace(&folder.join(IDENTITY_NEXT), next.expose().as_slice())?;
        crash::point("handover-begun");
        let succession = Succession::sign(&keys.signing, &next, clock::utc()).map_err(|invalid| {
            Failure::new(Exit::Config, "E-VAULT-10", "the new key was not signed").why(invalid).hint("check the clock")
        })?;
        books.hand_over(succession).await?.map_err(|refused| refusal(&refused))?;
    }
    // Else the journal knows a key whose file could not be put in its place when it was tried before.
    let lineage = books.lineage().await?.unwrap_or(known);
    changed = changed.settled(folder, Some(&lineage))?;
    crash::point("handover-complete");
    let (before, server) = (keys.server(), changed.server());
    ring.replace(changed);
    tracing::info!(%before, keyserver = %server, "the signing key has changed");
    Ok((before, lineage))
}

fn put_in_place(folder: &Path, next: &SigningKey) -> Result<(), Failure> {
    secrets::replace(&folder.join(IDENTITY), next.expose().as_slice())?;
    crash::point("handover-in-place");
    remove_next(folder)
}

fn remove_next(folder: &Path) -> Result<(), Failure> {
    let path = folder.join(IDENTITY_NEXT);
    fs::remove_file(&path).map_err(|error| Failure::io(format!("cannot remove {}", path.display()), &error))
}

fn other_key(folder: &Path, found: &ServerId, current: &ServerId) -> Failure {
    let path = folder.join(IDENTITY);
    Failure::new(Exit::Integrity, "E-VAULT-12", format!("{} is not the key that signs", path.display()))
        .why(format!("it is the key of {found}; in the journal stands that it has handed over to {current}"))
        .hint("put back the identity.key that was made then: boxes believe no other")
}

fn refusal(refused: &LineageError) -> Failure {
    Failure::new(Exit::Conflict, "E-VAULT-09", "the signing key cannot be changed").why(refused).hint(
        "the key in use goes on signing. If it has to go, begin a keyserver in another data folder and set keyserver.id \
         of the boxes to its id",
    )
}
