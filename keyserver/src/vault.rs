//! The keyserver's own secrets, and what they seal.
//!
//! Three files of 32 bytes, made at the first start and never again: `master.key` seals deposited keys and hashes pass
//! codes, `identity.key` signs licences, `deposit.key` unwraps deposits. They and the journal are all that has to be
//! kept; without `master.key` no key that was deposited can ever be released, so it is never replaced while there is a
//! journal. A content key leaves the vault only after it was held against its commitment. Nothing here has a `Debug`.

use std::path::PathBuf;

use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{Key, XChaCha20Poly1305, XNonce};
use daemon::{DataFolder, Exit, Failure, secrets};
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng;
use swarm_proto::code::PassCode;
use swarm_proto::id::{ItemId, OrderId, ServerId};
use swarm_proto::keyserver::record::{EventId, PassId, SealedKey};
use swarm_proto::seal::{ContentKey, KeyCommitment};
use swarm_proto::signed::SigningKey;
use swarm_proto::wrap::{HpkeSecret, deposit_aad};
use zeroize::Zeroizing;

use crate::journal::Header;

/// The file of the master key in a data folder.
pub const MASTER: &str = "master.key";
/// The file of the key that signs licences.
pub const IDENTITY: &str = "identity.key";
/// The file of the key that unwraps deposits.
pub const DEPOSIT: &str = "deposit.key";

const NONCE_LEN: usize = 24;

/// Everything secret that a keyserver has.
pub struct Keys {
    /// Signs licences; its public half is the keyserver's id.
    pub signing: SigningKey,
    /// Unwraps deposits.
    pub deposit: HpkeSecret,
    /// Seals what is deposited.
    pub vault: Vault,
}

impl Keys {
    /// Reads the keys of a data folder. Makes those that are missing, unless there is a journal that needs the old ones.
    pub fn open(folder: &DataFolder, has_journal: bool) -> Result<Keys, Failure> {
        let key = |name: &str| match has_journal {
            false => secrets::read_or_create_key(&folder.file(name)),
            true => {
                secrets::read_key(&folder.file(name)).map_err(|failure| keep_or_restore(folder.file(name), failure))
            }
        };
        let (master, identity, deposit) = (key(MASTER)?, key(IDENTITY)?, key(DEPOSIT)?);
        Ok(Keys {
            signing: SigningKey::from_bytes(identity.as_slice()).expect("a key file has 32 bytes"),
            deposit: HpkeSecret::from_bytes(deposit.as_slice()).expect("a key file has 32 bytes"),
            vault: Vault::new(&master),
        })
    }

    /// The id of the keyserver that has these keys.
    pub fn server(&self) -> ServerId {
        self.signing.server_id()
    }

    /// The header of a journal that belongs to these keys.
    pub fn header(&self) -> Header {
        Header { server: self.server(), master_check: self.vault.check }
    }

    /// Whether a journal belongs to these keys.
    pub fn check_header(&self, folder: &DataFolder, found: &Header) -> Result<(), Failure> {
        let name = match found {
            Header { master_check, .. } if *master_check != self.vault.check => MASTER,
            Header { server, .. } if *server != self.server() => IDENTITY,
            _ => return Ok(()),
        };
        Err(Failure::new(Exit::Integrity, "E-VAULT-02", format!("{name} does not belong to the journal"))
            .why(format!("the journal was begun by keyserver {} with another {name}", found.server))
            .hint(format!("put back the {name} that belongs to it, in {}", folder.path().display())))
    }
}

fn keep_or_restore(path: PathBuf, failure: Failure) -> Failure {
    if failure.exit != Exit::NotFound {
        return failure;
    }
    Failure::new(Exit::NotFound, "E-VAULT-01", format!("{} is missing", path.display()))
        .why("there is a journal that needs it, so no other is made in its place")
        .hint("put it back from a backup; without it the deposited keys cannot be opened")
}

/// Why a sealed key does not come out. The journal is damaged, or the master key is not the one it was sealed with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum VaultError {
    /// It does not authenticate.
    #[error("the sealed key does not open with this master key")]
    Forged,
    /// It opens, but is not the key of the item.
    #[error("the sealed key is not the one that the catalog entry commits to")]
    WrongKey,
}

/// Seals content keys, and turns secrets into names.
pub struct Vault {
    cipher: XChaCha20Poly1305,
    pass_key: Zeroizing<[u8; 32]>,
    bought_key: Zeroizing<[u8; 32]>,
    link_key: Zeroizing<[u8; 32]>,
    check: [u8; 32],
}

impl Vault {
    fn new(master: &[u8; 32]) -> Vault {
        let derived = |context| Zeroizing::new(blake3::derive_key(context, master));
        let sealing = derived("reelswarm v1 keyserver vault");
        Vault {
            cipher: XChaCha20Poly1305::new(&Key::from(*sealing)),
            pass_key: derived("reelswarm v1 keyserver pass codes"),
            bought_key: derived("reelswarm v1 keyserver bought passes"),
            link_key: derived("reelswarm v1 keyserver checkout links"),
            check: *derived("reelswarm v1 keyserver master key check"),
        }
    }

    /// Seals the key of an item.
    pub fn seal(&self, item: &ItemId, key: &ContentKey) -> SealedKey {
        let nonce = secrets::random::<NONCE_LEN>();
        let aad = deposit_aad(item, &key.commitment());
        let payload = Payload { msg: key.expose(), aad: &aad };
        let ciphertext =
            self.cipher.encrypt(&XNonce::from(*nonce), payload).expect("32 bytes are not too many to seal");
        let mut sealed = [0; SealedKey::LEN];
        sealed[..NONCE_LEN].copy_from_slice(nonce.as_slice());
        sealed[NONCE_LEN..].copy_from_slice(&ciphertext);
        SealedKey::from_bytes(sealed)
    }

    /// Opens the key of an item and holds it against its commitment.
    pub fn open(
        &self,
        item: &ItemId,
        commitment: &KeyCommitment,
        sealed: &SealedKey,
    ) -> Result<ContentKey, VaultError> {
        let (nonce, ciphertext) = sealed.as_bytes().split_first_chunk::<NONCE_LEN>().expect("a sealed key has a nonce");
        let aad = deposit_aad(item, commitment);
        let payload = Payload { msg: ciphertext, aad: &aad };
        let opened = self.cipher.decrypt(&XNonce::from(*nonce), payload).map_err(|_| VaultError::Forged)?;
        let key = ContentKey::from_bytes(&Zeroizing::new(opened)).ok_or(VaultError::Forged)?;
        if key.commitment() == *commitment { Ok(key) } else { Err(VaultError::WrongKey) }
    }

    /// The code of the pass that an order buys: always the same, and written down nowhere.
    pub fn bought_code(&self, order: &OrderId) -> PassCode {
        let seed = blake3::keyed_hash(&self.bought_key, order.as_bytes());
        PassCode::generate(&mut ChaCha20Rng::from_seed(*seed.as_bytes()))
    }

    /// The keyed hash that a link to the checkout pages bears.
    pub(crate) fn link_mac(&self, said: &[u8]) -> blake3::Hash {
        blake3::keyed_hash(&self.link_key, said)
    }

    /// A vault under a master key of this byte.
    #[cfg(test)]
    pub(crate) fn of_tests(byte: u8) -> Vault {
        Vault::new(&[byte; 32])
    }

    /// The name under which a pass is known.
    pub fn pass_id(&self, code: &PassCode) -> PassId {
        PassId::from_bytes(*blake3::keyed_hash(&self.pass_key, code.reveal().as_bytes()).as_bytes())
    }
}

/// The name under which a message of a till is known.
pub fn event_id(webhook_id: &str) -> EventId {
    EventId::from_bytes(blake3::derive_key("reelswarm v1 keyserver webhook id", webhook_id.as_bytes()))
}

/// The name under which a dispute is known.
pub(crate) fn dispute_hash(dispute: &str) -> [u8; 32] {
    blake3::derive_key("reelswarm v1 keyserver dispute", dispute.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ITEM: ItemId = ItemId::from_bytes([5; 32]);

    fn key() -> ContentKey {
        ContentKey::from_bytes(&[7; 32]).expect("32 bytes")
    }

    #[test]
    fn a_sealed_key_comes_out_as_it_went_in() {
        let vault = Vault::new(&[1; 32]);
        let sealed = vault.seal(&ITEM, &key());
        let opened = vault.open(&ITEM, &key().commitment(), &sealed).expect("opens");
        assert_eq!(opened.expose(), key().expose());
        assert_ne!(sealed, vault.seal(&ITEM, &key()), "each time with a fresh nonce");
    }

    #[test]
    fn a_sealed_key_opens_only_where_it_belongs() {
        let vault = Vault::new(&[1; 32]);
        let sealed = vault.seal(&ITEM, &key());
        let commitment = key().commitment();
        let other_item = ItemId::from_bytes([6; 32]);
        assert_eq!(vault.open(&other_item, &commitment, &sealed).err(), Some(VaultError::Forged));
        let other_commitment = KeyCommitment::from_bytes([6; 32]);
        assert_eq!(vault.open(&ITEM, &other_commitment, &sealed).err(), Some(VaultError::Forged));
        assert_eq!(Vault::new(&[2; 32]).open(&ITEM, &commitment, &sealed).err(), Some(VaultError::Forged));
    }

    #[test]
    fn a_pass_has_one_name_however_it_is_typed() {
        let vault = Vault::new(&[1; 32]);
        let code = PassCode::generate(&mut crate::rng());
        let typed = PassCode::parse(&code.reveal().to_lowercase().replace('-', " ")).expect("the same code");
        assert_eq!(vault.pass_id(&code), vault.pass_id(&typed));
        assert_ne!(vault.pass_id(&code), Vault::new(&[2; 32]).pass_id(&code), "without the key nobody can try codes");
    }
}
