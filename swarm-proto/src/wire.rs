//! The chunk protocol, `/reelswarm/chunk/2`: its requests and answers as bytes.
//!
//! How many of them share one stream is said in [`frames`]. Each begins with a header of fixed size, which states the
//! length of everything that follows; a reader decodes the header, learns a length that is already checked, and only
//! then allocates. Payloads are [`Bytes`] and are never copied here. Whatever is unknown, reserved or too long is an
//! error: close the stream.
//!
//! ```text
//! request (42 bytes + ticket)                  answer (16 bytes + body)
//!  0  version = 1                               0  version = 1
//!  1  kind: 1 manifest, 2 holding, 3 chunk      1  kind: 1 data … 6 refused
//!  2  flags: bit 0 = segment values wanted      2  detail: segment values (data), why (refused), else 0
//!  3  reserved = 0                              3  reserved = 0
//!  4  chunk index, 0 unless kind 3 (u32)        4  payload bytes | values | chunks | retry ms (u32)
//!  8  item (32 bytes)                           8  sealed length (manifest), else 0 (u64)
//! 40  ticket length (u16), ticket              16  body
//! ```

pub mod frames;

use bytes::{BufMut, Bytes, BytesMut};

use crate::bitmap::{Holding, HoldingError, bits_len};
use crate::geometry::{CHUNK_BYTES, ChunkIndex, Geometry, MAX_CHUNKS, SEGMENTS_PER_CHUNK};
use crate::id::ItemId;
use crate::manifest::VALUE_BYTES;

/// The protocol's name, as libp2p negotiates it.
pub const PROTOCOL: &str = "/reelswarm/chunk/2";
/// Size of a request without its ticket.
pub const REQUEST_HEADER_BYTES: usize = 42;
/// Size of an answer without its body.
pub const ANSWER_HEADER_BYTES: usize = 16;
/// Longest ticket. A signed ticket has about 250 bytes; the rest is room for later fields.
pub const MAX_TICKET_BYTES: usize = 1024;
/// Longest request.
pub const MAX_REQUEST_BYTES: usize = REQUEST_HEADER_BYTES + MAX_TICKET_BYTES;
/// Longest answer: a chunk with all its segment values, or the manifest of the longest item.
pub const MAX_ANSWER_BYTES: usize = CHUNK_BYTES as usize + 64 * 1024;

const VERSION: u8 = 1;
const WANT_SEGMENT_VALUES: u8 = 1;

/// Why a frame is not understood. Close the stream; more than once, drop the peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// Another version of the protocol under this one's name.
    #[error("frame of version {0}, expected {VERSION}")]
    Version(u8),
    /// Neither a request nor an answer that we know.
    #[error("unknown kind {0}")]
    Kind(u8),
    /// A byte that has no meaning for this kind is not zero.
    #[error("{0} must be zero for this kind")]
    Reserved(&'static str),
    /// A length or number outside its bounds.
    #[error("{field} is {found}, at most {max} is allowed")]
    TooLarge {
        /// Which number.
        field: &'static str,
        /// What came.
        found: u64,
        /// What may come.
        max: u64,
    },
    /// A number that must not be zero.
    #[error("{0} is zero")]
    Zero(&'static str),
    /// A sealed length that no item has, or that does not fit the number of values.
    #[error("a manifest of {count} values does not fit a sealed length of {sealed_len}")]
    Manifest {
        /// Values announced.
        count: u32,
        /// Length announced.
        sealed_len: u64,
    },
    /// The body is not of the length that the header announced. A mistake of the caller.
    #[error("the frame announces {announced} more bytes, {found} were given")]
    Body {
        /// In the header.
        announced: usize,
        /// Given.
        found: usize,
    },
    /// The bits of a holding name chunks that the item does not have.
    #[error(transparent)]
    Holding(#[from] HoldingError),
}

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ask {
    /// The values of all chunks.
    Manifest,
    /// Which chunks the other side has.
    Holding,
    /// One chunk.
    Chunk {
        /// Which.
        index: ChunkIndex,
        /// Whether its segment values shall precede it, so that the first 64 KiB can be shown at once.
        want_segment_values: bool,
    },
}

/// A request and the ticket that allows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Of which item.
    pub item: ItemId,
    /// What of it.
    pub ask: Ask,
    /// A signed ticket as protobuf, at most [`MAX_TICKET_BYTES`].
    pub ticket: Bytes,
}

/// The fixed part of a request: all but the ticket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestHeader {
    item: ItemId,
    ask: Ask,
    ticket_len: u16,
}

impl Request {
    /// Writes the frame.
    pub fn encode(&self) -> Result<Bytes, WireError> {
        if self.ticket.len() > MAX_TICKET_BYTES {
            return Err(too_large("ticket", self.ticket.len() as u64, MAX_TICKET_BYTES as u64));
        }
        let (kind, flags, index) = match self.ask {
            Ask::Manifest => (1, 0, 0),
            Ask::Holding => (2, 0, 0),
            Ask::Chunk { index, want_segment_values } => (3, u8::from(want_segment_values), index.get()),
        };
        let mut frame = BytesMut::with_capacity(REQUEST_HEADER_BYTES + self.ticket.len());
        frame.put_slice(&[VERSION, kind, flags, 0]);
        frame.put_u32(index);
        frame.put_slice(self.item.as_bytes());
        // Checked above.
        frame.put_u16(self.ticket.len() as u16);
        frame.put_slice(&self.ticket);
        Ok(frame.freeze())
    }
}

impl RequestHeader {
    /// Reads the fixed part.
    pub fn decode(header: &[u8; REQUEST_HEADER_BYTES]) -> Result<Self, WireError> {
        let [version, kind, flags, reserved, ..] = *header;
        let raw_index = u32::from_be_bytes(part(header, 4));
        let item = ItemId::from_bytes(part(header, 8));
        let ticket_len = u16::from_be_bytes(part(header, 40));
        if version != VERSION {
            return Err(WireError::Version(version));
        }
        zero("reserved byte", reserved.into())?;
        if usize::from(ticket_len) > MAX_TICKET_BYTES {
            return Err(too_large("ticket", ticket_len.into(), MAX_TICKET_BYTES as u64));
        }
        let ask = match kind {
            1 | 2 => {
                zero("flags", flags.into())?;
                zero("chunk index", raw_index.into())?;
                if kind == 1 { Ask::Manifest } else { Ask::Holding }
            }
            3 => {
                zero("flags", (flags & !WANT_SEGMENT_VALUES).into())?;
                let beyond = too_large("chunk index", raw_index.into(), u64::from(MAX_CHUNKS) - 1);
                let index = ChunkIndex::new(raw_index).ok_or(beyond)?;
                Ask::Chunk { index, want_segment_values: flags & WANT_SEGMENT_VALUES != 0 }
            }
            other => return Err(WireError::Kind(other)),
        };
        Ok(Self { item, ask, ticket_len })
    }

    /// Bytes of the ticket that follows.
    pub fn body_len(&self) -> usize {
        self.ticket_len.into()
    }

    /// Joins header and ticket.
    pub fn with_body(self, ticket: Bytes) -> Result<Request, WireError> {
        if ticket.len() != self.body_len() {
            return Err(WireError::Body { announced: self.body_len(), found: ticket.len() });
        }
        Ok(Request { item: self.item, ask: self.ask, ticket })
    }
}

/// Why a request is refused for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Refusal {
    /// The ticket is missing, forged, or another device's. Ask the tracker for a fresh one.
    BadTicket = 1,
    /// The ticket's time is over. Ask the tracker for a fresh one.
    ExpiredTicket = 2,
    /// The ticket lets this seed send nothing (more), or the chunk has been sent twice within the hour. Ask the tracker for
    /// a plan.
    OverBudget = 3,
    /// The item has no such chunk. The asker has a wrong manifest.
    NoSuchChunk = 4,
    /// This device does not serve now (its owner has switched uploads off, or it shuts down). Ask another source.
    NotServing = 5,
    /// This device has banned the asker.
    Banned = 6,
}

impl Refusal {
    fn from_byte(byte: u8) -> Result<Self, WireError> {
        const ALL: [Refusal; 6] = [
            Refusal::BadTicket,
            Refusal::ExpiredTicket,
            Refusal::OverBudget,
            Refusal::NoSuchChunk,
            Refusal::NotServing,
            Refusal::Banned,
        ];
        ALL.into_iter().find(|refusal| *refusal as u8 == byte).ok_or(too_large("reason", byte.into(), ALL.len() as u64))
    }
}

/// What is answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// A chunk.
    Data {
        /// 32 bytes a segment, unproven; empty when they were not asked for.
        segment_values: Bytes,
        /// The chunk, unproven.
        bytes: Bytes,
    },
    /// The values of all chunks.
    Manifest {
        /// What the other side believes; compare it with the signed catalog entry.
        sealed_len: u64,
        /// 32 bytes a chunk, unproven.
        values: Bytes,
    },
    /// Which chunks the other side has, as it says.
    Holding(Holding),
    /// Too much to do. Ask again after this time, or ask someone else.
    Busy {
        /// Milliseconds, at least 1.
        retry_ms: u32,
    },
    /// The chunk (or the whole item) is not here.
    NotHeld,
    /// No, and asking again will not help.
    Refused(Refusal),
}

/// The fixed part of an answer: all but the body, whose length it knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AnswerHeader(Header);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Header {
    Data { n_segment_values: u8, len: u32 },
    Manifest { sealed_len: u64, count: u32 },
    Holding { n_chunks: u32 },
    Busy { retry_ms: u32 },
    NotHeld,
    Refused(Refusal),
}

/// An answer as bytes: write the three one after the other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AnswerFrame {
    /// The fixed part.
    pub header: [u8; ANSWER_HEADER_BYTES],
    /// What stands before the payload; often empty.
    pub values: Bytes,
    /// The bulk; often empty.
    pub payload: Bytes,
}

impl Answer {
    /// Turns the answer into bytes without copying its bulk.
    pub fn into_frame(self) -> Result<AnswerFrame, WireError> {
        let (kind, detail, number, sealed_len, values, payload) = match self {
            Self::Data { segment_values, bytes } => {
                let n_values = (segment_values.len() / VALUE_BYTES) as u64;
                let (n_values, len) = check_data(n_values, bytes.len() as u64)?;
                let announced = usize::from(n_values) * VALUE_BYTES;
                if segment_values.len() != announced {
                    return Err(WireError::Body { announced, found: segment_values.len() });
                }
                (1, n_values, len, 0, segment_values, bytes)
            }
            Self::Manifest { sealed_len, values } => {
                let count = u32::try_from(values.len() / VALUE_BYTES).unwrap_or(u32::MAX);
                check_manifest(sealed_len, count)?;
                let announced = count as usize * VALUE_BYTES;
                if values.len() != announced {
                    return Err(WireError::Body { announced, found: values.len() });
                }
                (2, 0, count, sealed_len, Bytes::new(), values)
            }
            Self::Holding(holding) => (3, 0, holding.n_chunks(), 0, Bytes::new(), holding.to_bits().into()),
            Self::Busy { retry_ms: 0 } => return Err(WireError::Zero("retry")),
            Self::Busy { retry_ms } => (4, 0, retry_ms, 0, Bytes::new(), Bytes::new()),
            Self::NotHeld => (5, 0, 0, 0, Bytes::new(), Bytes::new()),
            Self::Refused(refusal) => (6, refusal as u8, 0, 0, Bytes::new(), Bytes::new()),
        };
        let mut header = [0; ANSWER_HEADER_BYTES];
        header[..4].copy_from_slice(&[VERSION, kind, detail, 0]);
        header[4..8].copy_from_slice(&number.to_be_bytes());
        header[8..].copy_from_slice(&u64::to_be_bytes(sealed_len));
        Ok(AnswerFrame { header, values, payload })
    }
}

impl AnswerHeader {
    /// Reads the fixed part.
    pub fn decode(header: &[u8; ANSWER_HEADER_BYTES]) -> Result<Self, WireError> {
        let [version, kind, detail, reserved, ..] = *header;
        let number = u32::from_be_bytes(part(header, 4));
        let sealed_len = u64::from_be_bytes(part(header, 8));
        if version != VERSION {
            return Err(WireError::Version(version));
        }
        zero("reserved byte", reserved.into())?;
        if kind != 1 && kind != 6 {
            zero("detail", detail.into())?;
        }
        if kind != 2 {
            zero("sealed length", sealed_len)?;
        }
        if kind == 5 || kind == 6 {
            zero("number", number.into())?;
        }
        let header = match kind {
            1 => {
                let (n_segment_values, len) = check_data(detail.into(), number.into())?;
                Header::Data { n_segment_values, len }
            }
            2 => {
                check_manifest(sealed_len, number)?;
                Header::Manifest { sealed_len, count: number }
            }
            3 if number == 0 || number > MAX_CHUNKS => return Err(HoldingError::Chunks(number).into()),
            3 => Header::Holding { n_chunks: number },
            4 if number == 0 => return Err(WireError::Zero("retry")),
            4 => Header::Busy { retry_ms: number },
            5 => Header::NotHeld,
            6 => Header::Refused(Refusal::from_byte(detail)?),
            other => return Err(WireError::Kind(other)),
        };
        Ok(Self(header))
    }

    /// Bytes of the body that follows; never more than [`MAX_ANSWER_BYTES`].
    pub fn body_len(&self) -> usize {
        match self.0 {
            Header::Data { n_segment_values, len } => usize::from(n_segment_values) * VALUE_BYTES + len as usize,
            Header::Manifest { count, .. } => count as usize * VALUE_BYTES,
            Header::Holding { n_chunks } => bits_len(n_chunks),
            Header::Busy { .. } | Header::NotHeld | Header::Refused(_) => 0,
        }
    }

    /// How many bytes of the body come before the first byte of a chunk: its segment values.
    pub fn values_len(&self) -> usize {
        match self.0 {
            Header::Data { n_segment_values, .. } => usize::from(n_segment_values) * VALUE_BYTES,
            _ => 0,
        }
    }

    /// Joins header and body, without copying.
    pub fn with_body(self, mut body: Bytes) -> Result<Answer, WireError> {
        if body.len() != self.body_len() {
            return Err(WireError::Body { announced: self.body_len(), found: body.len() });
        }
        Ok(match self.0 {
            Header::Data { .. } => Answer::Data { segment_values: body.split_to(self.values_len()), bytes: body },
            Header::Manifest { sealed_len, .. } => Answer::Manifest { sealed_len, values: body },
            Header::Holding { n_chunks } => Answer::Holding(Holding::from_bits(n_chunks, &body)?),
            Header::Busy { retry_ms } => Answer::Busy { retry_ms },
            Header::NotHeld => Answer::NotHeld,
            Header::Refused(refusal) => Answer::Refused(refusal),
        })
    }
}

fn check_data(n_values: u64, len: u64) -> Result<(u8, u32), WireError> {
    if n_values > SEGMENTS_PER_CHUNK.into() {
        return Err(too_large("number of segment values", n_values, SEGMENTS_PER_CHUNK.into()));
    }
    if len > CHUNK_BYTES {
        return Err(too_large("chunk", len, CHUNK_BYTES));
    }
    if len == 0 {
        return Err(WireError::Zero("chunk length"));
    }
    // Both bounds fit.
    Ok((n_values as u8, len as u32))
}

fn check_manifest(sealed_len: u64, count: u32) -> Result<(), WireError> {
    let fits = Geometry::of_sealed(sealed_len).is_ok_and(|geometry| geometry.n_chunks() == count);
    if fits { Ok(()) } else { Err(WireError::Manifest { count, sealed_len }) }
}

fn zero(field: &'static str, value: u64) -> Result<(), WireError> {
    if value == 0 { Ok(()) } else { Err(WireError::Reserved(field)) }
}

const fn too_large(field: &'static str, found: u64, max: u64) -> WireError {
    WireError::TooLarge { field, found, max }
}

/// `N` bytes of a header from a place that is inside it by construction.
fn part<const N: usize>(header: &[u8], at: usize) -> [u8; N] {
    header[at..at + N].try_into().expect("the range has N bytes")
}
