//! How questions and answers share one long-lived stream.
//!
//! The asker opens the stream and sends questions as it likes, each under a number of its own; the answerer sends, in
//! any order, one answer to each, its body in pieces between which pieces of other answers may come. Every frame is a
//! header of twelve bytes and as many more as that says. Nothing here knows which numbers are open: that is for whoever
//! owns the stream.
//!
//! ```text
//!  0  kind: from the asker 1 ask, 2 cancel; from the answerer 3 answer, 4 piece, 5 withdrawn
//!  1  urgency (ask): 1 playing, 2 queued, 3 preload; else 0
//!  2  reserved = 0 (u16)
//!  4  number of the question (u32)
//!  8  bytes that follow (u32): a request (ask), the fixed part of an answer (answer), a piece of its body (piece), else 0
//! ```

use super::{ANSWER_HEADER_BYTES, MAX_REQUEST_BYTES, REQUEST_HEADER_BYTES, WireError, part, too_large, zero};

/// Size of a frame without what follows.
pub const FRAME_HEADER_BYTES: usize = 12;
/// Longest piece: other answers wait for no more than this.
pub const MAX_PIECE_BYTES: usize = 64 << 10;

/// How much somebody waits for an answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Urgency {
    /// Someone is watching.
    Playing = 1,
    /// Someone has asked for it.
    #[default]
    Queued = 2,
    /// Someone may ask for it.
    Preload = 3,
}

impl Urgency {
    /// All of them, the most urgent first.
    pub const ALL: [Self; 3] = [Self::Playing, Self::Queued, Self::Preload];

    fn from_byte(byte: u8) -> Result<Self, WireError> {
        let found = Self::ALL.into_iter().find(|urgency| *urgency as u8 == byte);
        found.ok_or(too_large("urgency", byte.into(), Self::ALL.len() as u64))
    }
}

/// What an asker sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AskerFrame {
    /// A question; its request follows.
    Ask {
        /// Its number, which no open question of the stream has.
        number: u32,
        /// How much it is waited for.
        urgency: Urgency,
        /// Bytes of the request.
        len: usize,
    },
    /// The answer is no longer wanted. It ends as it would have, or with [`AnswererFrame::Withdrawn`].
    Cancel {
        /// Of which question.
        number: u32,
    },
}

/// What an answerer sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AnswererFrame {
    /// The fixed part of an answer follows.
    Answer {
        /// To which question.
        number: u32,
    },
    /// The next piece of an answer's body follows.
    Piece {
        /// Of which question.
        number: u32,
        /// How many bytes, at least 1.
        len: usize,
    },
    /// No more of this answer will come.
    Withdrawn {
        /// To which question.
        number: u32,
    },
}

impl AskerFrame {
    /// Writes the header.
    pub fn encode(self) -> [u8; FRAME_HEADER_BYTES] {
        match self {
            Self::Ask { number, urgency, len } => header(1, urgency as u8, number, len),
            Self::Cancel { number } => header(2, 0, number, 0),
        }
    }

    /// Reads the header.
    pub fn decode(bytes: &[u8; FRAME_HEADER_BYTES]) -> Result<Self, WireError> {
        let Header { kind, urgency, number, len } = Header::read(bytes)?;
        match kind {
            1 if len < REQUEST_HEADER_BYTES => Err(WireError::Body { announced: len, found: REQUEST_HEADER_BYTES }),
            1 if len > MAX_REQUEST_BYTES => Err(too_large("request", len as u64, MAX_REQUEST_BYTES as u64)),
            1 => Ok(Self::Ask { number, urgency: Urgency::from_byte(urgency)?, len }),
            2 => {
                zero("urgency", urgency.into())?;
                zero("length", len as u64)?;
                Ok(Self::Cancel { number })
            }
            other => Err(WireError::Kind(other)),
        }
    }
}

impl AnswererFrame {
    /// Writes the header.
    pub fn encode(self) -> [u8; FRAME_HEADER_BYTES] {
        match self {
            Self::Answer { number } => header(3, 0, number, ANSWER_HEADER_BYTES),
            Self::Piece { number, len } => header(4, 0, number, len),
            Self::Withdrawn { number } => header(5, 0, number, 0),
        }
    }

    /// Reads the header.
    pub fn decode(bytes: &[u8; FRAME_HEADER_BYTES]) -> Result<Self, WireError> {
        let Header { kind, urgency, number, len } = Header::read(bytes)?;
        zero("urgency", urgency.into())?;
        match kind {
            3 if len == ANSWER_HEADER_BYTES => Ok(Self::Answer { number }),
            3 => Err(WireError::Body { announced: len, found: ANSWER_HEADER_BYTES }),
            4 if len == 0 => Err(WireError::Zero("piece length")),
            4 if len > MAX_PIECE_BYTES => Err(too_large("piece", len as u64, MAX_PIECE_BYTES as u64)),
            4 => Ok(Self::Piece { number, len }),
            5 => {
                zero("length", len as u64)?;
                Ok(Self::Withdrawn { number })
            }
            other => Err(WireError::Kind(other)),
        }
    }
}

/// The fields that all frames have.
struct Header {
    kind: u8,
    urgency: u8,
    number: u32,
    len: usize,
}

impl Header {
    fn read(bytes: &[u8; FRAME_HEADER_BYTES]) -> Result<Self, WireError> {
        let [kind, urgency, ..] = *bytes;
        zero("reserved bytes", u16::from_be_bytes(part(bytes, 2)).into())?;
        let (number, len) = (u32::from_be_bytes(part(bytes, 4)), u32::from_be_bytes(part(bytes, 8)));
        Ok(Self { kind, urgency, number, len: len as usize })
    }
}

/// No frame is longer than [`MAX_PIECE_BYTES`].
fn header(kind: u8, urgency: u8, number: u32, len: usize) -> [u8; FRAME_HEADER_BYTES] {
    let mut bytes = [0; FRAME_HEADER_BYTES];
    bytes[..2].copy_from_slice(&[kind, urgency]);
    bytes[4..8].copy_from_slice(&number.to_be_bytes());
    bytes[8..].copy_from_slice(&(len as u32).to_be_bytes());
    bytes
}
