//! What each side says of itself inside the handshake: libp2p's payload, and what this side offers.
//!
//! The signature binds the X25519 key of the handshake to the key that names the peer. The offered protocols stand in an
//! extension that libp2p's own nodes skip; the handshake's cipher, not the signature, vouches for them.

use libp2p::PeerId;
use libp2p::identity::{Keypair, PublicKey};
use prost::Message as _;

/// What libp2p signs before an X25519 key.
const DOMAIN: &[u8] = b"noise-libp2p-static-key:";
/// More names than this are not read: there are two.
const OFFERED_MAX: usize = 16;

/// Why the other side is nobody.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(in crate::net) enum IdentityError {
    /// Not the payload of libp2p's Noise.
    #[error("what the peer says of itself cannot be read")]
    Unreadable,
    /// The handshake ended without a key of the other side.
    #[error("the peer has sent no key")]
    NoKey,
    /// A key of a kind that is not used here, or of the wrong length.
    #[error("the peer's identity key cannot be read")]
    Key,
    /// The key that it names did not sign the handshake's.
    #[error("the peer's signature does not prove its identity")]
    Signature,
    /// This device could not sign.
    #[error("this device's key does not sign")]
    Signing,
}

/// libp2p's `NoiseHandshakePayload`.
#[derive(Clone, PartialEq, prost::Message)]
struct Payload {
    #[prost(bytes = "vec", optional, tag = "1")]
    identity_key: Option<Vec<u8>>,
    #[prost(bytes = "vec", optional, tag = "2")]
    identity_sig: Option<Vec<u8>>,
    #[prost(message, optional, tag = "4")]
    extensions: Option<Extensions>,
}

/// libp2p's `NoiseExtensions`; numbers above 1,024 are free for whoever needs one.
#[derive(Clone, PartialEq, prost::Message)]
struct Extensions {
    #[prost(string, repeated, tag = "7102")]
    offered: Vec<String>,
}

/// What one side says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Statement {
    identity: Vec<u8>,
    signature: Vec<u8>,
    /// The security protocols that it offers; empty if it says nothing of them.
    pub(super) offered: Vec<String>,
}

impl Statement {
    /// States that this X25519 key is used by the owner of `keypair`.
    pub(super) fn sign<'a>(
        keypair: &Keypair,
        x25519: &[u8],
        offered: impl IntoIterator<Item = &'a str>,
    ) -> Result<Self, IdentityError> {
        let signature = keypair.sign(&[DOMAIN, x25519].concat()).map_err(|_| IdentityError::Signing)?;
        let offered = offered.into_iter().map(str::to_owned).collect();
        Ok(Self { identity: keypair.public().encode_protobuf(), signature, offered })
    }

    /// As it goes over the wire.
    pub(super) fn encode(self) -> Vec<u8> {
        let Self { identity, signature, offered } = self;
        let extensions = Some(Extensions { offered });
        Payload { identity_key: Some(identity), identity_sig: Some(signature), extensions }.encode_to_vec()
    }

    /// Reads one; fields that we do not know are skipped.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, IdentityError> {
        let payload = Payload::decode(bytes).map_err(|_| IdentityError::Unreadable)?;
        let offered = payload.extensions.unwrap_or_default().offered;
        if offered.len() > OFFERED_MAX {
            return Err(IdentityError::Unreadable);
        }
        let identity = payload.identity_key.ok_or(IdentityError::Unreadable)?;
        Ok(Self { identity, signature: payload.identity_sig.ok_or(IdentityError::Signature)?, offered })
    }

    /// Who says it, if this X25519 key is the one it is bound to.
    pub(super) fn verify(&self, x25519: &[u8]) -> Result<PeerId, IdentityError> {
        let key = PublicKey::try_decode_protobuf(&self.identity).map_err(|_| IdentityError::Key)?;
        if key.verify(&[DOMAIN, x25519].concat(), &self.signature) {
            Ok(key.to_peer_id())
        } else {
            Err(IdentityError::Signature)
        }
    }
}
