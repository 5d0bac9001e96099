//! Statements and who made them.
//!
//! A [`Signed`] keeps the bytes that were signed: they are verified and passed on as they came, never re-encoded. What
//! they say can be had only through [`Signed::verify`], which names the expected signer; each kind of statement signs
//! in a context of its own, so that none can be taken for another.

use std::fmt;
use std::marker::PhantomData;

use bytes::Bytes;
use data_encoding::BASE64URL_NOPAD;
use ed25519_dalek::{Signature, Signer as _, VerifyingKey};
use prost::Message as _;
use rand_core::CryptoRng;
use zeroize::Zeroizing;

use crate::id::{DeviceId, PublisherId, ServerId};
use crate::invalid::{self, Invalid};
use crate::pb::common as pb;

/// Longest payload.
pub const MAX_PAYLOAD_BYTES: usize = 65_536;
/// Longest signed statement as protobuf: payload, signer, signature and their field headers.
pub const MAX_SIGNED_BYTES: usize = MAX_PAYLOAD_BYTES + 256;

/// Something that can be signed.
pub trait Statement: Sized {
    /// What kind of statement this is. Part of the signed bytes; never the same for two kinds, never changed.
    const CONTEXT: &'static str;
    /// Who signs statements of this kind.
    type Signer: Copy + Eq + fmt::Display + AsRef<[u8; 32]> + From<[u8; 32]>;

    /// The bytes to sign.
    fn encode(&self) -> Vec<u8>;

    /// Reads and checks bytes that were signed.
    fn decode(bytes: &[u8]) -> Result<Self, Invalid>;

    /// False when the statement itself names another signer.
    fn may_be_signed_by(&self, signer: &Self::Signer) -> bool {
        let _ = signer;
        true
    }
}

/// Why a statement is not believed. Treat it as if it had not been said.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignedError {
    /// Someone else's, perhaps genuine.
    #[error("this {what} is signed by {found}, not by {expected}")]
    OtherSigner {
        /// Kind of statement.
        what: &'static str,
        /// Whom we asked for.
        expected: String,
        /// Who is said to have signed, or whom the statement itself names.
        found: String,
    },
    /// The signature does not fit: altered, made for another purpose, or by a weak key.
    #[error("the signature of this {0} is not valid")]
    Forged(&'static str),
    /// Genuine, but breaks a rule. Its signer has a fault, or speaks a newer version.
    #[error("this {what} breaks a rule: {why}")]
    Invalid {
        /// Kind of statement.
        what: &'static str,
        /// Which rule.
        why: Invalid,
    },
}

/// An Ed25519 signing key. Wiped when dropped; no `Debug`.
#[derive(Clone)]
pub struct SigningKey(ed25519_dalek::SigningKey);

impl SigningKey {
    /// Makes a key.
    pub fn generate(rng: &mut impl CryptoRng) -> Self {
        Self(ed25519_dalek::SigningKey::generate(rng))
    }

    /// Takes a secret (RFC 8032 seed, 32 bytes) back from where it was kept.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let seed = Zeroizing::new(<[u8; 32]>::try_from(bytes).ok()?);
        Some(Self(ed25519_dalek::SigningKey::from_bytes(&seed)))
    }

    /// The secret seed, to be kept in a file that only the owner can read.
    pub fn expose(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(self.0.to_bytes())
    }

    /// The public half.
    pub fn public(&self) -> [u8; 32] {
        self.0.verifying_key().to_bytes()
    }

    /// The public half as the name of a device.
    pub fn device_id(&self) -> DeviceId {
        self.public().into()
    }

    /// The public half as the name of a publisher.
    pub fn publisher_id(&self) -> PublisherId {
        self.public().into()
    }

    /// The public half as the name of a server.
    pub fn server_id(&self) -> ServerId {
        self.public().into()
    }

    /// Signs a challenge or other short message in a context of its own.
    pub fn sign_bytes(&self, context: &str, message: &[u8]) -> [u8; 64] {
        self.0.sign(&signed_bytes(context, message)).to_bytes()
    }
}

/// Verifies what [`SigningKey::sign_bytes`] made.
pub fn verify_bytes(signer: &[u8; 32], context: &str, message: &[u8], signature: &[u8; 64]) -> bool {
    let signature = Signature::from_bytes(signature);
    VerifyingKey::from_bytes(signer)
        .is_ok_and(|key| key.verify_strict(&signed_bytes(context, message), &signature).is_ok())
}

/// A statement of kind `T`, its signer and the signature: not yet believed.
pub struct Signed<T> {
    payload: Bytes,
    signer: [u8; 32],
    signature: [u8; 64],
    kind: PhantomData<fn() -> T>,
}

impl<T: Statement> Signed<T> {
    /// Signs a statement, unless those who receive it would refuse it.
    pub fn sign(key: &SigningKey, statement: &T) -> Result<Self, Invalid> {
        let payload = Bytes::from(statement.encode());
        if payload.len() > MAX_PAYLOAD_BYTES {
            return Err(Invalid::new(T::CONTEXT, format!("must have at most {MAX_PAYLOAD_BYTES} bytes")));
        }
        if !T::decode(&payload)?.may_be_signed_by(&key.public().into()) {
            return Err(Invalid::new(T::CONTEXT, "names another signer than the one who signs"));
        }
        let signature = key.sign_bytes(T::CONTEXT, &payload);
        Ok(Self { payload, signer: key.public(), signature, kind: PhantomData })
    }

    /// Verifies the signature of the expected signer, then reads the statement and checks its rules.
    pub fn verify(&self, expected: &T::Signer) -> Result<T, SignedError> {
        let other =
            |found: String| SignedError::OtherSigner { what: T::CONTEXT, expected: expected.to_string(), found };
        if self.signer != *expected.as_ref() {
            return Err(other(self.signer().to_string()));
        }
        if !verify_bytes(&self.signer, T::CONTEXT, &self.payload, &self.signature) {
            return Err(SignedError::Forged(T::CONTEXT));
        }
        let statement = T::decode(&self.payload).map_err(|why| SignedError::Invalid { what: T::CONTEXT, why })?;
        if !statement.may_be_signed_by(expected) {
            return Err(other("whom it names itself".to_owned()));
        }
        Ok(statement)
    }

    /// Who is said to have signed. No proof: pass it to [`Signed::verify`] only where any signer is acceptable.
    pub fn signer(&self) -> T::Signer {
        self.signer.into()
    }

    /// The bytes that were signed.
    pub const fn payload(&self) -> &Bytes {
        &self.payload
    }

    /// BLAKE3 of the bytes that were signed: names this very statement.
    pub fn payload_hash(&self) -> [u8; 32] {
        *blake3::hash(&self.payload).as_bytes()
    }

    /// As protobuf, for disks and for fields of type bytes.
    pub fn to_bytes(&self) -> Bytes {
        pb::Signed::from(self).encode_to_vec().into()
    }

    /// Reads [`Signed::to_bytes`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Invalid> {
        if bytes.len() > MAX_SIGNED_BYTES {
            return Err(Invalid::new(T::CONTEXT, format!("must have at most {MAX_SIGNED_BYTES} bytes")));
        }
        let message = pb::Signed::decode(bytes).map_err(|error| Invalid::new(T::CONTEXT, error.to_string()))?;
        message.try_into()
    }

    /// As base64url without padding, for gRPC metadata and HTTP headers.
    pub fn to_text(&self) -> String {
        BASE64URL_NOPAD.encode(&self.to_bytes())
    }

    /// Reads [`Signed::to_text`].
    pub fn from_text(text: &str) -> Result<Self, Invalid> {
        if text.len() > MAX_SIGNED_BYTES.div_ceil(3) * 4 {
            return Err(Invalid::new(T::CONTEXT, "is too long"));
        }
        let bytes = BASE64URL_NOPAD
            .decode(text.as_bytes())
            .map_err(|_| Invalid::new(T::CONTEXT, "is not base64url without padding"))?;
        Self::from_bytes(&bytes)
    }
}

impl<T> Clone for Signed<T> {
    fn clone(&self) -> Self {
        Self { payload: self.payload.clone(), kind: PhantomData, ..*self }
    }
}

impl<T> PartialEq for Signed<T> {
    fn eq(&self, other: &Self) -> bool {
        self.payload == other.payload && self.signer == other.signer && self.signature == other.signature
    }
}
impl<T> Eq for Signed<T> {}

impl<T: Statement> fmt::Debug for Signed<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signed({}, {} bytes by {})", T::CONTEXT, self.payload.len(), self.signer())
    }
}

impl<T> From<&Signed<T>> for pb::Signed {
    fn from(signed: &Signed<T>) -> Self {
        Self { payload: signed.payload.clone(), signer: signed.signer.to_vec(), signature: signed.signature.to_vec() }
    }
}

impl<T> From<Signed<T>> for pb::Signed {
    fn from(signed: Signed<T>) -> Self {
        (&signed).into()
    }
}

impl<T> TryFrom<pb::Signed> for Signed<T> {
    type Error = Invalid;

    fn try_from(message: pb::Signed) -> Result<Self, Invalid> {
        if message.payload.is_empty() || message.payload.len() > MAX_PAYLOAD_BYTES {
            return Err(Invalid::new("payload", format!("must have 1 to {MAX_PAYLOAD_BYTES} bytes")));
        }
        let signature = message.signature.as_slice().try_into();
        Ok(Self {
            payload: message.payload,
            signer: *invalid::id::<ServerId>("signer", &message.signer)?.as_bytes(),
            signature: signature.map_err(|_| Invalid::new("signature", "must have 64 bytes"))?,
            kind: PhantomData,
        })
    }
}

/// `"reelswarm v1 " ‖ context ‖ 0x00 ‖ payload`. No context contains a zero, so no two pairs give the same bytes.
fn signed_bytes(context: &str, payload: &[u8]) -> Vec<u8> {
    [b"reelswarm v1 ".as_slice(), context.as_bytes(), &[0], payload].concat()
}
