//! Seals a secret to one X25519 key: HPKE (RFC 9180), base mode, single shot.
//!
//! A fresh ephemeral key for every wrapping; no context is ever reused, so no nonce can be. Each use has its own
//! [`Label`], and what the secret belongs to goes into the AAD: a wrapping taken elsewhere does not open. Public keys of
//! small order, which would give a shared secret that everyone knows, are refused on both sides.

use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use hpke::aead::ChaCha20Poly1305;
use hpke::kdf::HkdfSha256;
use hpke::kem::X25519HkdfSha256;
use hpke::{Deserializable, HpkeError, Kem, OpModeR, OpModeS, Serializable};
use rand_core::CryptoRng;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use zeroize::Zeroizing;

use crate::id::{DeviceId, IdError, ItemId, OrderId, read_hex, write_hex};
use crate::invalid::{self, Invalid};
use crate::pb::common as pb;
use crate::seal::KeyCommitment;
use crate::span_tree::SpanCommitment;

/// Longest ciphertext: the keys of all spans of the longest item fit twice.
pub const MAX_CIPHERTEXT_BYTES: usize = 128 * 1024;

/// Longest secret.
pub const MAX_SECRET_BYTES: usize = MAX_CIPHERTEXT_BYTES - TAG_BYTES;

/// Tag of ChaCha20-Poly1305.
const TAG_BYTES: usize = 16;

type Encapped = <X25519HkdfSha256 as Kem>::EncappedKey;
type Private = <X25519HkdfSha256 as Kem>::PrivateKey;
type Public = <X25519HkdfSha256 as Kem>::PublicKey;

/// What a wrapped secret is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Label {
    /// Keyserver to device: a released key. AAD: [`grant_aad`].
    Grant,
    /// Publisher to keyserver: the key of an item. AAD: [`deposit_aad`].
    Deposit,
    /// Keyserver to device: keys of some spans. AAD: [`span_keys_aad`].
    SpanKeys,
    /// A device to itself: the key of an item that is being published, kept until it is deposited.
    JobKey,
}

impl Label {
    const fn info(self) -> &'static [u8] {
        match self {
            Self::Grant => b"reelswarm v1 grant",
            Self::Deposit => b"reelswarm v1 deposit",
            Self::SpanKeys => b"reelswarm v1 span keys",
            Self::JobKey => b"reelswarm v1 job key",
        }
    }
}

/// Binds a released key to the purchase, the device, the item and its clocks.
///
/// `licence_hash` is the BLAKE3 of the licence as signed: [`crate::signed::Signed::payload_hash`].
pub fn grant_aad(
    order: &OrderId,
    device: &DeviceId,
    item: &ItemId,
    commitment: &KeyCommitment,
    licence_hash: &[u8; 32],
) -> [u8; 144] {
    let mut aad = [0; 144];
    aad[..16].copy_from_slice(order.as_bytes());
    aad[16..48].copy_from_slice(device.as_bytes());
    aad[48..80].copy_from_slice(item.as_bytes());
    aad[80..112].copy_from_slice(commitment.as_bytes());
    aad[112..].copy_from_slice(licence_hash);
    aad
}

/// Binds a deposited key to its item.
pub fn deposit_aad(item: &ItemId, commitment: &KeyCommitment) -> [u8; 64] {
    let mut aad = [0; 64];
    aad[..32].copy_from_slice(item.as_bytes());
    aad[32..].copy_from_slice(commitment.as_bytes());
    aad
}

/// Binds released span keys to the purchase (none: a preview), the device, the item, its commitment and the spans.
pub fn span_keys_aad(
    order: Option<&OrderId>,
    device: &DeviceId,
    item: &ItemId,
    commitment: &SpanCommitment,
    spans: &Range<u32>,
) -> [u8; 120] {
    let mut aad = [0; 120];
    if let Some(order) = order {
        aad[..16].copy_from_slice(order.as_bytes());
    }
    aad[16..48].copy_from_slice(device.as_bytes());
    aad[48..80].copy_from_slice(item.as_bytes());
    aad[80..112].copy_from_slice(commitment.as_bytes());
    aad[112..116].copy_from_slice(&spans.start.to_be_bytes());
    aad[116..].copy_from_slice(&(spans.len() as u32).to_be_bytes());
    aad
}

/// An X25519 public key that secrets are wrapped to.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HpkePublic([u8; 32]);

impl HpkePublic {
    /// Wraps bytes; whether they are a usable key shows at the first [`wrap`].
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The bytes, as protobuf fields want them.
    pub fn to_vec(&self) -> Vec<u8> {
        self.0.to_vec()
    }
}

impl TryFrom<&[u8]> for HpkePublic {
    type Error = IdError;

    fn try_from(bytes: &[u8]) -> Result<Self, IdError> {
        let wrong = IdError::Length { what: "an HPKE public key", expected: 32, found: bytes.len() };
        bytes.try_into().map(Self).map_err(|_| wrong)
    }
}

impl fmt::Display for HpkePublic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(f, &self.0)
    }
}

impl fmt::Debug for HpkePublic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HpkePublic({self})")
    }
}

impl FromStr for HpkePublic {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        read_hex(text).map(Self).ok_or(IdError::Hex { what: "an HPKE public key", digits: 64 })
    }
}

impl Serialize for HpkePublic {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for HpkePublic {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// The secret half: whoever has it can unwrap. Wiped when dropped; no `Debug`.
#[derive(Clone)]
pub struct HpkeSecret(Private);

impl HpkeSecret {
    /// Makes a key pair.
    pub fn generate(rng: &mut impl CryptoRng) -> Self {
        Self(X25519HkdfSha256::gen_keypair_with_rng(rng).0)
    }

    /// Takes a secret back from where it was kept.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        Private::from_bytes(bytes).ok().map(Self)
    }

    /// The bytes, to be kept in a file that only the owner can read.
    pub fn expose(&self) -> Zeroizing<[u8; 32]> {
        let mut bytes = Zeroizing::new([0; 32]);
        self.0.write_exact(&mut *bytes);
        bytes
    }

    /// The public half.
    pub fn public(&self) -> HpkePublic {
        HpkePublic(X25519HkdfSha256::sk_to_pk(&self.0).to_bytes().into())
    }
}

/// A wrapped secret, as it travels and as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wrapped {
    enc: [u8; 32],
    ciphertext: Vec<u8>,
}

impl Wrapped {
    /// The encapsulated key.
    pub const fn enc(&self) -> &[u8; 32] {
        &self.enc
    }

    /// The sealed secret and its tag.
    pub fn ciphertext(&self) -> &[u8] {
        &self.ciphertext
    }
}

impl From<Wrapped> for pb::Wrapped {
    fn from(wrapped: Wrapped) -> Self {
        Self { enc: wrapped.enc.to_vec(), ciphertext: wrapped.ciphertext }
    }
}

impl TryFrom<pb::Wrapped> for Wrapped {
    type Error = Invalid;

    fn try_from(message: pb::Wrapped) -> Result<Self, Invalid> {
        let enc = invalid::id::<HpkePublic>("enc", &message.enc)?.0;
        if !(TAG_BYTES + 1..=MAX_CIPHERTEXT_BYTES).contains(&message.ciphertext.len()) {
            return Err(Invalid::new("ciphertext", format!("must have 17 to {MAX_CIPHERTEXT_BYTES} bytes")));
        }
        Ok(Self { enc, ciphertext: message.ciphertext })
    }
}

/// Why a secret was not wrapped or unwrapped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WrapError {
    /// A public key of small order: everyone would know the shared secret. Refuse whoever sent it.
    #[error("the public key is unusable: it gives a shared secret that is no secret")]
    WeakKey,
    /// An empty secret, or one that no [`Wrapped`] can carry. A mistake of the caller.
    #[error("a secret to wrap has 1 to {MAX_SECRET_BYTES} bytes, not {0}")]
    Length(usize),
    /// Made for another key, label or AAD, or altered. Do not retry; say where it came from.
    #[error("the wrapped secret does not open: it was made for another key or purpose, or it was altered")]
    Forged,
}

/// Seals a secret to a public key.
pub fn wrap(
    rng: &mut impl CryptoRng,
    to: &HpkePublic,
    label: Label,
    aad: &[u8],
    secret: &[u8],
) -> Result<Wrapped, WrapError> {
    seal(rng, to, label.info(), aad, secret)
}

/// Opens a wrapped secret.
pub fn unwrap(with: &HpkeSecret, label: Label, aad: &[u8], wrapped: &Wrapped) -> Result<Zeroizing<Vec<u8>>, WrapError> {
    open(with, label.info(), aad, wrapped)
}

fn seal(
    rng: &mut impl CryptoRng,
    to: &HpkePublic,
    info: &[u8],
    aad: &[u8],
    secret: &[u8],
) -> Result<Wrapped, WrapError> {
    if secret.is_empty() || secret.len() > MAX_SECRET_BYTES {
        return Err(WrapError::Length(secret.len()));
    }
    let to = Public::from_bytes(&to.0).map_err(|_| WrapError::WeakKey)?;
    let (enc, ciphertext) = hpke::single_shot_seal_with_rng::<ChaCha20Poly1305, HkdfSha256, X25519HkdfSha256>(
        &OpModeS::Base,
        &to,
        info,
        secret,
        aad,
        rng,
    )
    .map_err(error_of)?;
    Ok(Wrapped { enc: enc.to_bytes().into(), ciphertext })
}

fn open(with: &HpkeSecret, info: &[u8], aad: &[u8], wrapped: &Wrapped) -> Result<Zeroizing<Vec<u8>>, WrapError> {
    let enc = Encapped::from_bytes(&wrapped.enc).map_err(error_of)?;
    hpke::single_shot_open::<ChaCha20Poly1305, HkdfSha256, X25519HkdfSha256>(
        &OpModeR::Base,
        &with.0,
        &enc,
        info,
        &wrapped.ciphertext,
        aad,
    )
    .map(Zeroizing::new)
    .map_err(error_of)
}

fn error_of(error: HpkeError) -> WrapError {
    match error {
        HpkeError::EncapError | HpkeError::DecapError => WrapError::WeakKey,
        _ => WrapError::Forged,
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use data_encoding::HEXLOWER;
    use rand_core::{TryCryptoRng, TryRng};

    use super::*;

    /// RFC 9180, A.2.1 and A.2.1.1 (sequence number 0).
    #[test]
    fn rfc_9180_base_mode_with_chacha20_poly1305_holds() {
        let recipient = hex("8057991eef8f1f1af18f4a9491d16a1ce333f695d4db8e38da75975c4478e0fb");
        let recipient = HpkeSecret::from_bytes(&recipient).expect("32 bytes");
        let public = "4310ee97d88cc1f088a5576c77ab0cf5c3ac797f3d95139c6c84b5429c59662a";
        assert_eq!(recipient.public().to_string(), public);

        let ephemeral = hex("909a9b35d3dc4713a5e72a4da274b55d3d3821a37e5d099e74a647db583a904b");
        let (info, aad) = (b"Ode on a Grecian Urn", b"Count-0");
        let wrapped = seal(&mut OneSeed(ephemeral), &recipient.public(), info, aad, b"Beauty is truth, truth beauty")
            .expect("good");
        let enc = "1afa08d3dec047a643885163f1180476fa7ddb54c6a8029ea33f95796bf2ac4a";
        assert_eq!(HEXLOWER.encode(wrapped.enc()), enc);
        let ciphertext = "1c5250d8034ec2b784ba2cfd69dbdb8af406cfe3ff938e131f0def8c8b60b4db21993c62ce81883d2dd1b51a28";
        assert_eq!(HEXLOWER.encode(wrapped.ciphertext()), ciphertext);

        let opened = open(&recipient, info, aad, &wrapped).expect("genuine");
        assert_eq!(opened.as_slice(), b"Beauty is truth, truth beauty");
    }

    fn hex(text: &str) -> Vec<u8> {
        HEXLOWER.decode(text.as_bytes()).expect("hex")
    }

    /// Gives one seed for the ephemeral key, as the RFC's vectors do.
    struct OneSeed(Vec<u8>);

    impl TryRng for OneSeed {
        type Error = Infallible;

        fn try_next_u32(&mut self) -> Result<u32, Infallible> {
            unreachable!("HPKE fills bytes")
        }

        fn try_next_u64(&mut self) -> Result<u64, Infallible> {
            unreachable!("HPKE fills bytes")
        }

        fn try_fill_bytes(&mut self, target: &mut [u8]) -> Result<(), Infallible> {
            target.copy_from_slice(&self.0);
            Ok(())
        }
    }

    impl TryCryptoRng for OneSeed {}
}
