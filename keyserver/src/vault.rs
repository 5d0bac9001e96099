//! The keyserver's own secrets, and what they seal.
//!
//! Three keys of 32 bytes, made at the first start: the master key seals deposited keys, `identity.key` signs licences,
//! `deposit.key` unwraps deposits. They and the journal are all that has to be kept; without the master key no key that
//! was deposited can ever be released, so none is made while there is a journal. It is the file `master.key`, or comes
//! from a command ([`master`]); [`rotation`] and [`handover`] change keys, [`ring`] has those in use. Pass codes are hashed with a key that the first master key
//! gave, and that later ones keep sealed in `pass.key`. A content key leaves the vault only after it was held against
//! its commitment. Nothing here has a `Debug`.

pub(crate) mod handover;
pub(crate) mod master;
pub mod ring;
pub mod rotation;

use std::path::{Path, PathBuf};
use std::sync::Arc;

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
use swarm_proto::succession::Lineage;
use swarm_proto::wrap::{HpkeSecret, Label, WrapError, Wrapped, deposit_aad, unwrap};
use zeroize::Zeroizing;

use crate::journal::Header;

/// The file of the master key in a data folder.
pub const MASTER: &str = "master.key";
/// The file of the key that signs licences.
pub const IDENTITY: &str = "identity.key";
/// The key that is to sign, while the change is under way.
pub const IDENTITY_NEXT: &str = "identity.key.next";
/// The file of the key that unwraps deposits.
pub const DEPOSIT: &str = "deposit.key";

/// The master key that is to come, while the change is under way.
pub const MASTER_NEXT: &str = "master.key.next";
/// The key before the last change, which still opens what was wrapped to it.
pub const DEPOSIT_BEFORE: &str = "deposit.key.before";
/// The key that pass codes are hashed with, sealed; there since the first change of the master key.
pub const PASS: &str = "pass.key";

const NONCE_LEN: usize = 24;
const PASS_AAD: &[u8] = b"reelswarm v1 keyserver pass codes";

/// Everything secret that a keyserver has.
#[derive(Clone)]
pub struct Keys {
    /// Signs licences; its public half is the keyserver's id.
    pub signing: SigningKey,
    /// The keys that have signed licences so far.
    pub lineage: Lineage,
    /// Unwraps deposits.
    pub deposit: HpkeSecret,
    /// Unwraps deposits to the key before.
    deposit_before: Option<HpkeSecret>,
    /// Seals what is deposited.
    pub vault: Arc<Vault>,
}

impl Keys {
    /// Reads the keys of a data folder. Makes those that are missing, unless there is a journal that needs the old ones.
    /// The master key comes from the command, if there is one.
    pub fn open(folder: &DataFolder, has_journal: bool, master_command: &[String]) -> Result<Keys, Failure> {
        if !has_journal {
            let made =
                [MASTER, IDENTITY, DEPOSIT].into_iter().filter(|name| *name != MASTER || master_command.is_empty());
            for name in made {
                secrets::read_or_create_key(&folder.file(name))?;
            }
        }
        Keys::of_existing(folder.path(), master_command)
    }

    /// The keys of a data folder that has them all.
    pub fn of_existing(folder: &Path, master_command: &[String]) -> Result<Keys, Failure> {
        let key = |name: &str| {
            let path = folder.join(name);
            secrets::read_key(&path).map_err(|failure| keep_or_restore(path, failure))
        };
        if folder.join(MASTER_NEXT).exists() {
            return Err(Failure::new(Exit::Integrity, "E-VAULT-04", "a change of the master key was cut off")
                .why(format!("both {MASTER} and {MASTER_NEXT} are in {}", folder.display()))
                .hint("`keyserver key rotate master` goes on where it stopped"));
        }
        let (identity, deposit) = (key(IDENTITY)?, key(DEPOSIT)?);
        let master = if master_command.is_empty() { key(MASTER)? } else { master::ask(master_command)? };
        let pass_key = pass_key(&folder.join(PASS), &[&master])?;
        let deposit_before = match secrets::read_key(&folder.join(DEPOSIT_BEFORE)) {
            Ok(key) => Some(HpkeSecret::from_bytes(key.as_slice()).expect("a key file has 32 bytes")),
            Err(failure) if failure.exit == Exit::NotFound => None,
            Err(failure) => return Err(failure),
        };
        let signing = SigningKey::from_bytes(identity.as_slice()).expect("a key file has 32 bytes");
        Ok(Keys {
            lineage: Lineage::founded_by(signing.server_id()),
            signing,
            deposit: HpkeSecret::from_bytes(deposit.as_slice()).expect("a key file has 32 bytes"),
            deposit_before,
            vault: Arc::new(Vault::new(&master, &pass_key)),
        })
    }

    /// Unwraps what was deposited, to this key or the one before.
    pub fn unwrap_deposit(&self, aad: &[u8], wrapped: &Wrapped) -> Result<Zeroizing<Vec<u8>>, WrapError> {
        let now = unwrap(&self.deposit, Label::Deposit, aad, wrapped);
        match (&self.deposit_before, now) {
            (Some(before), Err(error)) => unwrap(before, Label::Deposit, aad, wrapped).map_err(|_| error),
            (_, now) => now,
        }
    }

    /// The id of the keyserver that has these keys.
    pub fn server(&self) -> ServerId {
        self.signing.server_id()
    }

    /// The header of a journal that is begun with these keys.
    pub fn header(&self) -> Header {
        Header { server: self.lineage.founder(), master_check: self.vault.check(), after: None }
    }

    /// Whether a journal belongs to these keys. It goes by the name of the key it was begun with.
    pub fn check_header(&self, folder: &Path, found: &Header) -> Result<(), Failure> {
        let name = match found {
            Header { master_check, .. } if *master_check != self.vault.check => MASTER,
            Header { server, .. } if *server != self.lineage.founder() => IDENTITY,
            _ => return Ok(()),
        };
        Err(wrong_key(folder, name, found))
    }
}

fn wrong_key(folder: &Path, name: &str, found: &Header) -> Failure {
    Failure::new(Exit::Integrity, "E-VAULT-02", format!("{name} does not belong to the journal"))
        .why(format!("the journal was begun by keyserver {} with another {name}", found.server))
        .hint(format!("put back the {name} that belongs to it, in {}", folder.display()))
}

/// The key that pass codes are hashed with: sealed under one of these master keys, or what the first of them gives.
fn pass_key(path: &Path, masters: &[&[u8; 32]]) -> Result<Zeroizing<[u8; 32]>, Failure> {
    let sealed = match secrets::read(path) {
        Err(failure) if failure.exit == Exit::NotFound => return Ok(Vault::first_pass_key(masters[0])),
        sealed => sealed?,
    };
    let opened = masters.iter().find_map(|master| Vault::open_pass_key(master, &sealed));
    opened.ok_or_else(|| {
        Failure::new(Exit::Integrity, "E-VAULT-08", format!("{} does not open with the master key", path.display()))
            .why("it holds what pass codes are hashed with, sealed")
            .hint("put back the file and the master key that belong together; without it no pass is known")
    })
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
    fn new(master: &[u8; 32], pass_key: &[u8; 32]) -> Vault {
        Vault {
            cipher: Vault::cipher(master),
            pass_key: Zeroizing::new(*pass_key),
            // From what is carried over when the master key changes: a code that was sold is found again by its order.
            bought_key: Zeroizing::new(blake3::derive_key("reelswarm v1 keyserver bought passes", pass_key)),
            link_key: Zeroizing::new(blake3::derive_key("reelswarm v1 keyserver checkout links", master)),
            check: blake3::derive_key("reelswarm v1 keyserver master key check", master),
        }
    }

    fn cipher(master: &[u8; 32]) -> XChaCha20Poly1305 {
        let sealing = Zeroizing::new(blake3::derive_key("reelswarm v1 keyserver vault", master));
        XChaCha20Poly1305::new(&Key::from(*sealing))
    }

    fn first_pass_key(master: &[u8; 32]) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(blake3::derive_key("reelswarm v1 keyserver pass codes", master))
    }

    fn seal_pass_key(&self) -> Vec<u8> {
        let nonce = secrets::random::<NONCE_LEN>();
        let payload = Payload { msg: self.pass_key.as_slice(), aad: PASS_AAD };
        let ciphertext =
            self.cipher.encrypt(&XNonce::from(*nonce), payload).expect("32 bytes are not too many to seal");
        [nonce.as_slice(), &ciphertext].concat()
    }

    fn open_pass_key(master: &[u8; 32], sealed: &[u8]) -> Option<Zeroizing<[u8; 32]>> {
        let (nonce, ciphertext) = sealed.split_first_chunk::<NONCE_LEN>()?;
        let payload = Payload { msg: ciphertext, aad: PASS_AAD };
        let opened = Zeroizing::new(Vault::cipher(master).decrypt(&XNonce::from(*nonce), payload).ok()?);
        opened.as_slice().try_into().ok().map(Zeroizing::new)
    }

    /// Proves the master key without giving it away.
    pub fn check(&self) -> [u8; 32] {
        self.check
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
        Vault::new(&[byte; 32], &Vault::first_pass_key(&[byte; 32]))
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

    fn vault_of(n: u8) -> Vault {
        Vault::new(&[n; 32], &Vault::first_pass_key(&[n; 32]))
    }

    fn key() -> ContentKey {
        ContentKey::from_bytes(&[7; 32]).expect("32 bytes")
    }

    #[test]
    fn a_sealed_key_comes_out_as_it_went_in() {
        let vault = vault_of(1);
        let sealed = vault.seal(&ITEM, &key());
        let opened = vault.open(&ITEM, &key().commitment(), &sealed).expect("opens");
        assert_eq!(opened.expose(), key().expose());
        assert_ne!(sealed, vault.seal(&ITEM, &key()), "each time with a fresh nonce");
    }

    #[test]
    fn a_sealed_key_opens_only_where_it_belongs() {
        let vault = vault_of(1);
        let sealed = vault.seal(&ITEM, &key());
        let commitment = key().commitment();
        let other_item = ItemId::from_bytes([6; 32]);
        assert_eq!(vault.open(&other_item, &commitment, &sealed).err(), Some(VaultError::Forged));
        let other_commitment = KeyCommitment::from_bytes([6; 32]);
        assert_eq!(vault.open(&ITEM, &other_commitment, &sealed).err(), Some(VaultError::Forged));
        assert_eq!(vault_of(2).open(&ITEM, &commitment, &sealed).err(), Some(VaultError::Forged));
    }

    #[test]
    fn a_pass_has_one_name_however_it_is_typed() {
        let vault = vault_of(1);
        let code = PassCode::generate(&mut crate::rng());
        let typed = PassCode::parse(&code.reveal().to_lowercase().replace('-', " ")).expect("the same code");
        assert_eq!(vault.pass_id(&code), vault.pass_id(&typed));
        assert_ne!(vault.pass_id(&code), vault_of(2).pass_id(&code), "without the key nobody can try codes");
    }
}
