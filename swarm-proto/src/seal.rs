//! Seals files and opens them again, segment by segment.
//!
//! One random key per item, one derived key per span, and per segment a nonce that says where it lies and whether it is
//! the last (STREAM, Hoang et al. 2015): a swapped, repeated, missing, shortened or added segment, or one of another
//! item, does not open. Clear bytes leave [`Opener`] only after their tag was verified. Keys are wiped from memory when
//! dropped and have no `Debug`.

use aead_stream::aead::{self, Buffer};
use aead_stream::{NewStream, StreamBE32, StreamPrimitive};
use chacha20poly1305::ChaCha20Poly1305;
use rand_core::CryptoRng;
use std::fmt;
use std::ops::Range;
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, Zeroizing};

use crate::geometry::{Geometry, MAX_SPANS, SEGMENT_BYTES, SEGMENT_PLAIN_BYTES, SegmentIndex, SpanIndex, TAG_BYTES};
use crate::id::{IdError, write_hex};

/// Contexts of BLAKE3's key derivation. Part of the format: changing one makes every item unreadable.
const SPAN_KEY_CONTEXT: &str = "reelswarm v1 span key";
const NONCE_PREFIX_CONTEXT: &str = "reelswarm v1 nonce prefix";
const COMMITMENT_CONTEXT: &str = "reelswarm v1 key commitment";

const KEY_BYTES: usize = 32;
/// STREAM takes five of ChaCha20-Poly1305's twelve nonce bytes for position and last flag.
const NONCE_PREFIX_BYTES: usize = 7;

type Stream = StreamBE32<ChaCha20Poly1305>;

/// Proves which content key an item was sealed with, without giving it away.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyCommitment([u8; 32]);

impl KeyCommitment {
    /// Wraps bytes that are known to be one.
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

impl TryFrom<&[u8]> for KeyCommitment {
    type Error = IdError;

    fn try_from(bytes: &[u8]) -> Result<Self, IdError> {
        let wrong = IdError::Length { what: "a key commitment", expected: 32, found: bytes.len() };
        bytes.try_into().map(Self).map_err(|_| wrong)
    }
}

impl fmt::Display for KeyCommitment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(f, &self.0)
    }
}

impl fmt::Debug for KeyCommitment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyCommitment({self})")
    }
}

/// The secret of one item. What a customer buys.
#[derive(Clone)]
pub struct ContentKey(Zeroizing<[u8; KEY_BYTES]>);

impl ContentKey {
    /// Makes a key for one item. Never use a key for a second item.
    pub fn generate(rng: &mut impl CryptoRng) -> Self {
        let mut key = Zeroizing::new([0; KEY_BYTES]);
        rng.fill_bytes(&mut *key);
        Self(key)
    }

    /// Takes a key back from where it was kept.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(|bytes| Self(Zeroizing::new(bytes)))
    }

    /// The bytes, to be wrapped or sealed at rest.
    pub fn expose(&self) -> &[u8; KEY_BYTES] {
        &self.0
    }

    /// What the catalog entry says about this key.
    pub fn commitment(&self) -> KeyCommitment {
        KeyCommitment(blake3::derive_key(COMMITMENT_CONTEXT, &*self.0))
    }

    /// The keys of some spans: what a preview or a drip releases. Empty spans are `None`, as are spans beyond what items have.
    pub fn spans(&self, spans: Range<u32>) -> Option<SpanKeys> {
        if spans.is_empty() || spans.end > MAX_SPANS {
            return None;
        }
        let first = SpanIndex::new(spans.start)?;
        let mut keys = Zeroizing::new(Vec::with_capacity(spans.len() * KEY_BYTES));
        for span in spans.filter_map(SpanIndex::new) {
            keys.extend_from_slice(&*self.span_key(span));
        }
        Some(SpanKeys { prefix: self.nonce_prefix(), first, keys })
    }

    fn span_key(&self, span: SpanIndex) -> Zeroizing<[u8; KEY_BYTES]> {
        let mut hasher = blake3::Hasher::new_derive_key(SPAN_KEY_CONTEXT);
        hasher.update(&*self.0).update(&span.get().to_be_bytes());
        let mut hash = hasher.finalize();
        let key = Zeroizing::new(*hash.as_bytes());
        hash.zeroize();
        hasher.zeroize();
        key
    }

    fn nonce_prefix(&self) -> [u8; NONCE_PREFIX_BYTES] {
        let derived = Zeroizing::new(blake3::derive_key(NONCE_PREFIX_CONTEXT, &*self.0));
        let mut prefix = [0; NONCE_PREFIX_BYTES];
        prefix.copy_from_slice(&derived[..NONCE_PREFIX_BYTES]);
        prefix
    }
}

impl PartialEq for ContentKey {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&*other.0).into()
    }
}
impl Eq for ContentKey {}

/// The keys of a run of spans: opens them and nothing else.
#[derive(Clone)]
pub struct SpanKeys {
    prefix: [u8; NONCE_PREFIX_BYTES],
    first: SpanIndex,
    /// 32 bytes a span; never empty.
    keys: Zeroizing<Vec<u8>>,
}

impl SpanKeys {
    /// Which spans these keys open.
    pub fn range(&self) -> Range<u32> {
        self.first.get()..self.first.get() + (self.keys.len() / KEY_BYTES) as u32
    }

    /// The same keys, each for itself: so that one can be dropped while others stay.
    pub fn each(&self) -> impl Iterator<Item = SpanKeys> {
        let spans = self.range().filter_map(SpanIndex::new).zip(self.keys.chunks_exact(KEY_BYTES));
        spans.map(|(first, key)| SpanKeys { prefix: self.prefix, first, keys: Zeroizing::new(key.to_vec()) })
    }

    pub(crate) const fn prefix(&self) -> &[u8; NONCE_PREFIX_BYTES] {
        &self.prefix
    }

    pub(crate) fn key(&self, span: SpanIndex) -> Option<Zeroizing<[u8; KEY_BYTES]>> {
        let place = span.get().checked_sub(self.first.get())? as usize * KEY_BYTES;
        let key = self.keys.get(place..place + KEY_BYTES)?;
        key.try_into().ok().map(Zeroizing::new)
    }
}

/// Why a released key was not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReleasedError {
    /// The unwrapped bytes are no key. Report it: the keyserver is faulty.
    #[error("the released key is not in a known form")]
    Format,
    /// A key, but of another item. Report it: the keyserver or the publisher is faulty. The film is not damaged.
    #[error("the released key is not the one that the catalog entry commits to")]
    WrongKey,
}

/// What a grant carries: the key of the whole item, or of some spans.
#[derive(Clone)]
pub enum Released {
    /// Everything. Can be checked against the commitment.
    Whole(ContentKey),
    /// Some spans. Cannot be checked against the commitment to the content key, but against the one to all span keys
    /// ([`crate::span_tree::SpanCommitment`]).
    Spans(SpanKeys),
}

impl Released {
    /// The secret to wrap: `0x01 ‖ key` or `0x02 ‖ nonce prefix ‖ first span (u32) ‖ span keys`.
    pub fn encode(&self) -> Zeroizing<Vec<u8>> {
        let mut secret = Zeroizing::new(Vec::with_capacity(1 + NONCE_PREFIX_BYTES + 4 + self.key_bytes()));
        match self {
            Self::Whole(key) => {
                secret.push(1);
                secret.extend_from_slice(key.expose());
            }
            Self::Spans(keys) => {
                secret.push(2);
                secret.extend_from_slice(&keys.prefix);
                secret.extend_from_slice(&keys.first.get().to_be_bytes());
                secret.extend_from_slice(&keys.keys);
            }
        }
        secret
    }

    /// Reads an unwrapped secret and holds it against the commitment of the signed catalog entry.
    pub fn decode(secret: &[u8], commitment: &KeyCommitment) -> Result<Self, ReleasedError> {
        match secret.split_first() {
            Some((1, key)) => {
                let key = ContentKey::from_bytes(key).ok_or(ReleasedError::Format)?;
                let matches = bool::from(key.commitment().0.ct_eq(&commitment.0));
                if matches { Ok(Self::Whole(key)) } else { Err(ReleasedError::WrongKey) }
            }
            Some((2, rest)) => decode_spans(rest).map(Self::Spans).ok_or(ReleasedError::Format),
            _ => Err(ReleasedError::Format),
        }
    }

    /// Which spans of an item this opens.
    pub fn range(&self, geometry: &Geometry) -> Range<u32> {
        match self {
            Self::Whole(_) => 0..geometry.n_spans(),
            Self::Spans(keys) => keys.range().start..keys.range().end.min(geometry.n_spans()),
        }
    }

    fn key(&self, span: SpanIndex) -> Option<Zeroizing<[u8; KEY_BYTES]>> {
        match self {
            Self::Whole(key) => Some(key.span_key(span)),
            Self::Spans(keys) => keys.key(span),
        }
    }

    fn prefix(&self) -> [u8; NONCE_PREFIX_BYTES] {
        match self {
            Self::Whole(key) => key.nonce_prefix(),
            Self::Spans(keys) => keys.prefix,
        }
    }

    fn key_bytes(&self) -> usize {
        match self {
            Self::Whole(_) => KEY_BYTES,
            Self::Spans(keys) => keys.keys.len(),
        }
    }
}

fn decode_spans(bytes: &[u8]) -> Option<SpanKeys> {
    let (prefix, rest) = bytes.split_first_chunk::<NONCE_PREFIX_BYTES>()?;
    let (first, keys) = rest.split_first_chunk::<4>()?;
    let first = SpanIndex::new(u32::from_be_bytes(*first))?;
    let room = (MAX_SPANS - first.get()) as usize;
    if keys.is_empty() || !keys.len().is_multiple_of(KEY_BYTES) || keys.len() / KEY_BYTES > room {
        return None;
    }
    Some(SpanKeys { prefix: *prefix, first, keys: Zeroizing::new(keys.to_vec()) })
}

/// Why a file could not be sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// More bytes came than the file had at the beginning: it grew. Start again with a new key.
    #[error("the file grew while it was read: it had {expected} bytes at the beginning")]
    Grew {
        /// Bytes at the beginning.
        expected: u64,
    },
    /// Fewer bytes came than the file had at the beginning: it shrank. Start again with a new key.
    #[error("the file shrank while it was read: it had {expected} bytes at the beginning, {found} could be read")]
    Shrank {
        /// Bytes at the beginning.
        expected: u64,
        /// Bytes that came.
        found: u64,
    },
}

/// Turns clear bytes, in pieces of any size, into sealed segments.
pub struct Sealer {
    key: ContentKey,
    geometry: Geometry,
    prefix: [u8; NONCE_PREFIX_BYTES],
    /// Segments that are sealed.
    sealed: u32,
    /// The clear beginning of the next segment.
    pending: Zeroizing<Vec<u8>>,
    stream: Option<(SpanIndex, Stream)>,
}

impl Sealer {
    /// Begins an item at its first byte.
    pub fn new(key: ContentKey, geometry: Geometry) -> Self {
        Self::resume_at(key, geometry, SpanIndex::FIRST)
    }

    /// Goes on after a crash at the first byte of a span.
    ///
    /// The clear file must be the same as before the crash, to the byte: otherwise two texts would be sealed under one
    /// nonce. When in doubt, begin again with a new key.
    pub fn resume_at(key: ContentKey, geometry: Geometry, span: SpanIndex) -> Self {
        let prefix = key.nonce_prefix();
        let pending = Zeroizing::new(Vec::with_capacity(SEGMENT_BYTES as usize));
        let sealed = span.first_segment().get().min(geometry.n_segments());
        Self { key, geometry, prefix, sealed, pending, stream: None }
    }

    /// Where in the clear file the next byte must come from.
    pub fn plain_position(&self) -> u64 {
        (u64::from(self.sealed) * SEGMENT_PLAIN_BYTES).min(self.geometry.plain_len()) + self.pending.len() as u64
    }

    /// Takes the next clear bytes and appends the segments they complete to `out`.
    pub fn push(&mut self, mut plain: &[u8], out: &mut Vec<u8>) -> Result<(), SealError> {
        while !plain.is_empty() {
            let grew = SealError::Grew { expected: self.geometry.plain_len() };
            let segment = self.geometry.segment(self.sealed).ok_or(grew)?;
            let wanted = self.geometry.segment_len(segment) - TAG_BYTES as usize;
            let (now, later) = plain.split_at((wanted - self.pending.len()).min(plain.len()));
            self.pending.extend_from_slice(now);
            plain = later;
            if self.pending.len() == wanted {
                self.seal_pending(segment);
                out.extend_from_slice(&self.pending);
                self.pending.clear();
            }
        }
        Ok(())
    }

    /// Confirms that the whole file went through.
    pub fn finish(self) -> Result<(), SealError> {
        let (expected, found) = (self.geometry.plain_len(), self.plain_position());
        if found == expected { Ok(()) } else { Err(SealError::Shrank { expected, found }) }
    }

    fn seal_pending(&mut self, segment: SegmentIndex) {
        let span = segment.span();
        let stream = match self.stream.take() {
            Some((of, stream)) if of == span => stream,
            _ => stream_of(&self.key.span_key(span), &self.prefix),
        };
        stream
            .encrypt_in_place(segment.get(), self.geometry.is_last(segment), b"", &mut *self.pending)
            .expect("a segment is far below the cipher's limit and the buffer grows");
        self.stream = Some((span, stream));
        self.sealed += 1;
    }
}

/// Why a segment did not open. No clear byte was released.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// The item ends before it. A mistake of the caller.
    #[error("the item has no segment {0}")]
    NoSuchSegment(SegmentIndex),
    /// The key that was released does not reach that far. Offer to buy the rest.
    #[error("the key for span {0} has not been released")]
    NotReleased(SpanIndex),
    /// The wrong number of bytes. Drop the chunk and fetch it again.
    #[error("segment {segment} has {expected} bytes, not {found}")]
    Length {
        /// Which.
        segment: SegmentIndex,
        /// Sealed bytes it has.
        expected: usize,
        /// Bytes that were given.
        found: usize,
    },
    /// Wrong key or altered bytes. Drop the chunk and fetch it again.
    #[error("segment {0} does not authenticate")]
    Forged(SegmentIndex),
}

/// Turns sealed segments, in any order, into clear bytes.
pub struct Opener {
    released: Released,
    geometry: Geometry,
    prefix: [u8; NONCE_PREFIX_BYTES],
}

impl Opener {
    /// Opens an item of this shape (from the signed catalog entry) with a released key.
    pub fn new(released: Released, geometry: Geometry) -> Self {
        let prefix = released.prefix();
        Self { released, geometry, prefix }
    }

    /// The shape of the item.
    pub const fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// Opens one segment in place; the clear bytes are the returned beginning of `buf`.
    ///
    /// On failure `buf` holds nothing clear.
    pub fn open_segment<'a>(&self, segment: SegmentIndex, buf: &'a mut [u8]) -> Result<&'a mut [u8], OpenError> {
        let (expected, found) = (self.geometry.segment_len(segment), buf.len());
        if expected == 0 {
            return Err(OpenError::NoSuchSegment(segment));
        }
        if found != expected {
            return Err(OpenError::Length { segment, expected, found });
        }
        let key = self.released.key(segment.span()).ok_or(OpenError::NotReleased(segment.span()))?;
        let mut in_place = InPlace { bytes: buf, len: found };
        stream_of(&key, &self.prefix)
            .decrypt_in_place(segment.get(), self.geometry.is_last(segment), b"", &mut in_place)
            .map_err(|aead::Error| OpenError::Forged(segment))?;
        let InPlace { bytes, len } = in_place;
        Ok(&mut bytes[..len])
    }
}

fn stream_of(key: &[u8; KEY_BYTES], prefix: &[u8; NONCE_PREFIX_BYTES]) -> Stream {
    Stream::new(key.into(), prefix.into())
}

/// A slice that the cipher may shorten but not lengthen: opening never allocates.
struct InPlace<'a> {
    bytes: &'a mut [u8],
    len: usize,
}

impl AsRef<[u8]> for InPlace<'_> {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

impl AsMut<[u8]> for InPlace<'_> {
    fn as_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[..self.len]
    }
}

impl Buffer for InPlace<'_> {
    fn extend_from_slice(&mut self, _: &[u8]) -> aead::Result<()> {
        Err(aead::Error)
    }

    fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }
}
