//! What time it is, as a keyserver signs it for one device that asks.
//!
//! The device makes up a nonce for each question, so an answer cannot be kept and told again later. What a device does
//! with it is in [`crate::peer::trusted_time`].

use prost::Message as _;

use crate::id::ServerId;
use crate::invalid::Invalid;
use crate::limit;
use crate::pb::common as pb;
use crate::signed::{Signed, SignedError, SigningKey, Statement};
use crate::time::Utc;

/// Bytes of a nonce.
pub const NONCE_BYTES: usize = 32;

/// A keyserver's clock, at some moment between a device's question and the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServerTime {
    /// Which question this answers.
    pub nonce: [u8; NONCE_BYTES],
    /// What time it was.
    pub utc: Utc,
}

/// Why a keyserver's word about the time is not taken. Ask again.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TimeError {
    /// Altered, or someone else's.
    #[error(transparent)]
    Signed(#[from] SignedError),
    /// The answer to another question, perhaps an old one told again.
    #[error("the server's time answers another question")]
    OtherNonce,
}

impl ServerTime {
    /// Answers a question.
    pub fn sign(key: &SigningKey, nonce: [u8; NONCE_BYTES], utc: Utc) -> Result<Signed<Self>, Invalid> {
        Signed::sign(key, &Self { nonce, utc })
    }

    /// Takes the answer to the question with this nonce.
    pub fn verify(signed: &Signed<Self>, server: &ServerId, nonce: &[u8; NONCE_BYTES]) -> Result<Utc, TimeError> {
        let told = signed.verify(server)?;
        if told.nonce == *nonce { Ok(told.utc) } else { Err(TimeError::OtherNonce) }
    }
}

/// Reads the nonce of a question.
pub fn nonce(bytes: &[u8]) -> Result<[u8; NONCE_BYTES], Invalid> {
    bytes.try_into().map_err(|_| Invalid::new("nonce", format!("must have {NONCE_BYTES} bytes")))
}

impl Statement for ServerTime {
    const CONTEXT: &'static str = "server time";
    type Signer = ServerId;

    fn encode(&self) -> Vec<u8> {
        pb::ServerTime { nonce: self.nonce.to_vec(), utc_ms: self.utc.as_millis() }.encode_to_vec()
    }

    fn decode(bytes: &[u8]) -> Result<Self, Invalid> {
        let message = pb::ServerTime::decode(bytes).map_err(|error| Invalid::new(Self::CONTEXT, error.to_string()))?;
        Ok(Self { nonce: nonce(&message.nonce)?, utc: limit::utc("utc_ms", message.utc_ms)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_counts_for_its_question_and_from_its_server_only() {
        let key = SigningKey::from_bytes(&[7; 32]).expect("32 bytes");
        let signed = ServerTime::sign(&key, [1; 32], Utc::from_secs(1_000)).expect("signed");
        let (server, other) = (key.server_id(), ServerId::from([8; 32]));
        assert_eq!(ServerTime::verify(&signed, &server, &[1; 32]), Ok(Utc::from_secs(1_000)));
        assert_eq!(ServerTime::verify(&signed, &server, &[2; 32]), Err(TimeError::OtherNonce));
        assert!(matches!(ServerTime::verify(&signed, &other, &[1; 32]), Err(TimeError::Signed(_))));
        assert!(nonce(&[0; 31]).is_err(), "a short nonce is no question");
    }
}
