//! What a device attaches to each gRPC call to prove its key to one server.
//!
//! A token is worth nothing at another server and nothing after ten minutes, so it need not be stored or revoked. It
//! does not protect the call's content; TLS does.

use std::time::Duration;

use prost::Message as _;

use crate::id::{DeviceId, ServerId};
use crate::invalid::{Invalid, id};
use crate::limit;
use crate::membership::CLOCK_TOLERANCE;
use crate::pb::common as pb;
use crate::signed::{Signed, SignedError, SigningKey, Statement};
use crate::time::Utc;

/// The metadata key that carries [`Signed::to_text`] of a token.
pub const METADATA_KEY: &str = "reelswarm-call";

/// Longest life of a token: a stolen one is soon worthless, and one serves many calls.
pub const MAX_LIFE: Duration = Duration::from_secs(600);

/// Proof of a device's key towards one server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallToken {
    /// Who calls, and signs.
    pub device: DeviceId,
    /// Who is called.
    pub audience: ServerId,
    /// From when.
    pub issued: Utc,
    /// Until when; at most [`MAX_LIFE`] later.
    pub expires: Utc,
}

/// What a good token proves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Proof {
    /// Who calls.
    pub device: DeviceId,
    /// From then on the same token proves nothing.
    pub until: Utc,
}

/// Why a call is not accepted. Answer `Unauthenticated`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// Altered, or against the rules.
    #[error(transparent)]
    Signed(#[from] SignedError),
    /// Meant for another server: someone replays it, or the caller has the wrong address.
    #[error("the call token is meant for server {0}")]
    OtherAudience(ServerId),
    /// Made in the future: the clocks are apart by more than five minutes.
    #[error("the call token is from the future ({0}); check the clock of the device")]
    TooEarly(Utc),
    /// Too old: the caller should make a fresh one, or its clock is wrong.
    #[error("the call token expired at {0}; make a fresh one, or check the clock of the device")]
    Expired(Utc),
}

impl CallToken {
    /// Makes a token for calls to one server in the next ten minutes.
    pub fn sign(key: &SigningKey, audience: ServerId, now: Utc) -> Result<Signed<Self>, Invalid> {
        let token = Self { device: key.device_id(), audience, issued: now, expires: now + MAX_LIFE };
        Signed::sign(key, &token)
    }

    /// Everything a server checks before it believes that the caller has a device's key.
    pub fn verify(signed: &Signed<Self>, audience: &ServerId, now: Utc) -> Result<Proof, CallError> {
        let token = signed.verify(&signed.signer())?;
        if token.audience != *audience {
            return Err(CallError::OtherAudience(token.audience));
        }
        if token.issued > now + CLOCK_TOLERANCE {
            return Err(CallError::TooEarly(token.issued));
        }
        if now >= token.expires + CLOCK_TOLERANCE {
            return Err(CallError::Expired(token.expires));
        }
        Ok(Proof { device: token.device, until: token.expires + CLOCK_TOLERANCE })
    }
}

impl Statement for CallToken {
    const CONTEXT: &'static str = "call token";
    type Signer = DeviceId;

    fn encode(&self) -> Vec<u8> {
        pb::CallToken {
            device_id: self.device.to_vec(),
            audience: self.audience.to_vec(),
            issued_utc_ms: self.issued.as_millis(),
            expires_utc_ms: self.expires.as_millis(),
        }
        .encode_to_vec()
    }

    fn decode(bytes: &[u8]) -> Result<Self, Invalid> {
        let message = pb::CallToken::decode(bytes).map_err(|error| Invalid::new(Self::CONTEXT, error.to_string()))?;
        let issued = limit::utc("issued_utc_ms", message.issued_utc_ms)?;
        let expires = limit::utc("expires_utc_ms", message.expires_utc_ms)?;
        if expires <= issued || expires.since(issued) > MAX_LIFE {
            return Err(Invalid::new("expires_utc_ms", "must lie after issued_utc_ms, by at most ten minutes"));
        }
        Ok(Self {
            device: id("device_id", &message.device_id)?,
            audience: id("audience", &message.audience)?,
            issued,
            expires,
        })
    }

    fn may_be_signed_by(&self, signer: &DeviceId) -> bool {
        self.device == *signer
    }
}
