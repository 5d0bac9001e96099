//! What every chunk of an item must hash to, and the proof that the list belongs to the item.
//!
//! A chunk value is the BLAKE3 chaining value of that chunk as a subtree of the whole file; folding all values gives
//! the [`ItemId`]. A [`Manifest`] exists only after that folding, and a [`VerifiedChunk`] only after its bytes matched.
//! The values do not bind the exact length of the last chunk: the length always comes from the signed catalog entry,
//! never from the peer that sent the values.
//!
//! An item of one chunk has one value, the ordinary root hash, which is the item id itself.

use blake3::Hasher;
use blake3::hazmat::{HasherExt, Mode, merge_subtrees_non_root, merge_subtrees_root};
use bytes::Bytes;

use crate::geometry::{
    CHUNK_BYTES, ChunkIndex, Geometry, GeometryError, MAX_CHUNKS, SEGMENT_BYTES, SEGMENTS_PER_CHUNK, SegmentIndex,
};
use crate::id::ItemId;

/// The BLAKE3 chaining value of a subtree of the file (of the whole file: its root hash).
pub type Value = [u8; VALUE_BYTES];

/// Bytes of one value.
pub const VALUE_BYTES: usize = 32;

/// Longest manifest file: header and 32,768 values.
pub const MAX_FILE_BYTES: usize = HEADER_BYTES + MAX_CHUNKS as usize * VALUE_BYTES;

/// First bytes of a manifest file.
const MAGIC: [u8; 4] = *b"RSMF";
const VERSION: u8 = 1;
/// Magic, version, three zero bytes, sealed length.
const HEADER_BYTES: usize = 16;

/// Why a manifest does not prove itself.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// No item has this length. Whoever stated it is wrong.
    #[error("the length is impossible: {0}")]
    Geometry(#[from] GeometryError),
    /// Too few or too many values. Drop the manifest and blame whoever sent it.
    #[error("the item has {expected} chunks, the manifest {found} values")]
    Count {
        /// Chunks of the item.
        expected: u32,
        /// Values that came.
        found: usize,
    },
    /// The values fold to another item. Drop the manifest and blame whoever sent it.
    #[error("the manifest does not belong to item {0}")]
    Forged(ItemId),
    /// The file is not a manifest of this version. Fetch the manifest again.
    #[error("not a manifest file of version {VERSION}: {0}")]
    Format(&'static str),
}

/// Why bytes are not the chunk (or segment) they claim to be. Drop them and blame whoever sent them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ChunkError {
    /// The item ends before it.
    #[error("the item has no chunk {0}")]
    NoSuchChunk(ChunkIndex),
    /// The wrong number of bytes.
    #[error("chunk {chunk} has {expected} bytes, not {found}")]
    Length {
        /// Which.
        chunk: ChunkIndex,
        /// Bytes it has.
        expected: usize,
        /// Bytes that came.
        found: u64,
    },
    /// Too few or too many segment values.
    #[error("chunk {chunk} has {expected} segment values, {found} came")]
    Values {
        /// Which chunk.
        chunk: ChunkIndex,
        /// Values it has.
        expected: usize,
        /// Values that came, begun ones included.
        found: usize,
    },
    /// The bytes hash to something else.
    #[error("chunk {0} does not match the manifest")]
    Forged(ChunkIndex),
    /// The bytes of one segment hash to something else.
    #[error("segment {0} does not match its chunk")]
    ForgedSegment(SegmentIndex),
}

/// A chunk whose bytes matched the manifest: may be kept, counted, passed on, opened.
#[derive(Debug, Clone)]
pub struct VerifiedChunk {
    index: ChunkIndex,
    bytes: Bytes,
}

impl VerifiedChunk {
    /// Which chunk.
    pub const fn index(&self) -> ChunkIndex {
        self.index
    }

    /// Its bytes.
    pub const fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Its bytes.
    pub fn into_bytes(self) -> Bytes {
        self.bytes
    }
}

/// The values of all chunks of one item, proven to belong to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    item: ItemId,
    geometry: Geometry,
    values: Vec<Value>,
}

impl Manifest {
    /// Folds the values and compares the result with the item id.
    ///
    /// `sealed_len` must come from the signed catalog entry: values cannot prove the length of the last chunk.
    pub fn prove(item: ItemId, sealed_len: u64, values: Vec<Value>) -> Result<Self, ManifestError> {
        let geometry = Geometry::of_sealed(sealed_len)?;
        if values.len() != geometry.n_chunks() as usize {
            return Err(ManifestError::Count { expected: geometry.n_chunks(), found: values.len() });
        }
        if fold_root(&values) != *item.as_bytes() {
            return Err(ManifestError::Forged(item));
        }
        Ok(Self { item, geometry, values })
    }

    /// [`Manifest::prove`] over values as they travel: one after the other, nothing between.
    pub fn prove_bytes(item: ItemId, sealed_len: u64, values: &[u8]) -> Result<Self, ManifestError> {
        let expected = Geometry::of_sealed(sealed_len)?.n_chunks();
        let (whole, rest) = values.as_chunks::<VALUE_BYTES>();
        // Checked before copying: the allocation follows from our length, not from theirs.
        if whole.len() != expected as usize || !rest.is_empty() {
            return Err(ManifestError::Count { expected, found: values.len().div_ceil(VALUE_BYTES) });
        }
        Self::prove(item, sealed_len, whole.to_vec())
    }

    /// Reads a manifest file and proves it.
    pub fn from_bytes(item: ItemId, file: &[u8]) -> Result<Self, ManifestError> {
        let (header, values) = file.split_at_checked(HEADER_BYTES).ok_or(ManifestError::Format("it is too short"))?;
        if header[..4] != MAGIC {
            return Err(ManifestError::Format("it begins with other bytes"));
        }
        if header[4..8] != [VERSION, 0, 0, 0] {
            return Err(ManifestError::Format("it is of another version"));
        }
        let sealed_len = header[8..].try_into().map(u64::from_be_bytes).expect("half of the header is eight bytes");
        Self::prove_bytes(item, sealed_len, values)
    }

    /// Writes the manifest file: `RSMF`, version, three zeros, sealed length (big-endian), values.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut file = Vec::with_capacity(HEADER_BYTES + self.values.len() * VALUE_BYTES);
        file.extend_from_slice(&MAGIC);
        file.extend_from_slice(&[VERSION, 0, 0, 0]);
        file.extend_from_slice(&self.geometry.sealed_len().to_be_bytes());
        file.extend_from_slice(self.values.as_flattened());
        file
    }

    /// The values as they travel.
    pub fn values_bytes(&self) -> Bytes {
        Bytes::copy_from_slice(self.values.as_flattened())
    }

    /// Which item.
    pub const fn item(&self) -> ItemId {
        self.item
    }

    /// Its shape.
    pub const fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// The values of all chunks, in order.
    pub fn values(&self) -> &[Value] {
        &self.values
    }

    /// The chunk of this number, if the item has it.
    pub const fn chunk(&self, raw: u32) -> Option<ChunkIndex> {
        self.geometry.chunk(raw)
    }

    /// What a chunk must hash to, if the item has it.
    pub fn value(&self, chunk: ChunkIndex) -> Option<&Value> {
        self.values.get(chunk.as_usize())
    }

    /// Hashes the bytes of a chunk and, if they match, vouches for them.
    pub fn verify_chunk(&self, index: ChunkIndex, bytes: Bytes) -> Result<VerifiedChunk, ChunkError> {
        self.check_chunk(index, &bytes)?;
        Ok(VerifiedChunk { index, bytes })
    }

    /// [`Manifest::verify_chunk`] for bytes that stay where they are, as when they are read from disk again.
    pub fn check_chunk(&self, index: ChunkIndex, bytes: &[u8]) -> Result<(), ChunkError> {
        let mut hasher = ChunkHasher::new(&self.geometry, index)?;
        hasher.update(bytes);
        self.check_value(index, &hasher.finalize()?)
    }

    /// Compares a value made by a [`ChunkHasher`] while the bytes arrived.
    pub fn check_value(&self, index: ChunkIndex, found: &Value) -> Result<(), ChunkError> {
        let expected = self.value(index).ok_or(ChunkError::NoSuchChunk(index))?;
        if expected == found { Ok(()) } else { Err(ChunkError::Forged(index)) }
    }

    /// Proves the segment values of a chunk, so that its segments can be checked one by one as they arrive.
    pub fn verify_segment_values(&self, index: ChunkIndex, values: &[u8]) -> Result<SegmentValues, ChunkError> {
        let expected = self.geometry.segments_of_chunk(index).len();
        let (whole, rest) = values.as_chunks::<VALUE_BYTES>();
        if expected == 0 {
            return Err(ChunkError::NoSuchChunk(index));
        }
        if whole.len() != expected || !rest.is_empty() {
            let found = values.len().div_ceil(VALUE_BYTES);
            return Err(ChunkError::Values { chunk: index, expected, found });
        }
        let folded = if self.geometry.n_chunks() == 1 { fold_root(whole) } else { fold(whole) };
        self.check_value(index, &folded)?;
        Ok(SegmentValues { geometry: self.geometry, index, values: whole.to_vec() })
    }
}

/// The values of the segments of one chunk, proven against its manifest.
#[derive(Debug, Clone)]
pub struct SegmentValues {
    geometry: Geometry,
    index: ChunkIndex,
    values: Vec<Value>,
}

impl SegmentValues {
    /// Checks the sealed bytes of one segment of this chunk.
    pub fn check_segment(&self, segment: SegmentIndex, bytes: &[u8]) -> Result<(), ChunkError> {
        let forged = ChunkError::ForgedSegment(segment);
        if segment.chunk() != self.index || bytes.is_empty() || bytes.len() != self.geometry.segment_len(segment) {
            return Err(forged);
        }
        let matches = self.values.get(segment.in_chunk()) == Some(&segment_value(&self.geometry, segment, bytes));
        if matches { Ok(()) } else { Err(forged) }
    }
}

/// The value of a whole chunk: what the manifest of the item it belongs to must say.
pub fn chunk_value(geometry: &Geometry, index: ChunkIndex, bytes: &[u8]) -> Result<Value, ChunkError> {
    let mut hasher = ChunkHasher::new(geometry, index)?;
    hasher.update(bytes);
    hasher.finalize()
}

/// The values of all segments of a chunk, as they precede it on the wire.
pub fn segment_values(geometry: &Geometry, index: ChunkIndex, bytes: &[u8]) -> Result<Vec<Value>, ChunkError> {
    let expected = geometry.chunk_len(index);
    if expected == 0 {
        return Err(ChunkError::NoSuchChunk(index));
    }
    if bytes.len() != expected {
        return Err(ChunkError::Length { chunk: index, expected, found: bytes.len() as u64 });
    }
    let segments = geometry.segments_of_chunk(index).filter_map(|raw| geometry.segment(raw));
    let pieces = bytes.chunks(SEGMENT_BYTES as usize);
    Ok(segments.zip(pieces).map(|(segment, piece)| segment_value(geometry, segment, piece)).collect())
}

fn segment_value(geometry: &Geometry, segment: SegmentIndex, bytes: &[u8]) -> Value {
    let mut hasher = Hasher::new();
    if geometry.n_segments() == 1 {
        return *hasher.update(bytes).finalize().as_bytes();
    }
    hasher.set_input_offset(u64::from(segment.get()) * SEGMENT_BYTES);
    hasher.update(bytes).finalize_non_root()
}

/// Hashes one chunk from slices of any size, as they arrive from the network or the sealer.
#[derive(Debug, Clone)]
pub struct ChunkHasher {
    hasher: Hasher,
    index: ChunkIndex,
    is_root: bool,
    expected: usize,
    found: u64,
}

impl ChunkHasher {
    /// Begins a chunk.
    pub fn new(geometry: &Geometry, index: ChunkIndex) -> Result<Self, ChunkError> {
        let range = geometry.chunk_range(index);
        if range.is_empty() {
            return Err(ChunkError::NoSuchChunk(index));
        }
        let mut hasher = Hasher::new();
        hasher.set_input_offset(range.start);
        let is_root = geometry.n_chunks() == 1;
        Ok(Self { hasher, index, is_root, expected: geometry.chunk_len(index), found: 0 })
    }

    /// Takes the next bytes. What lies beyond the end of the chunk is counted, not hashed.
    pub fn update(&mut self, bytes: &[u8]) {
        self.found = self.found.saturating_add(bytes.len() as u64);
        if self.found <= self.expected as u64 {
            self.hasher.update(bytes);
        }
    }

    /// Bytes that are still to come.
    pub const fn missing(&self) -> usize {
        (self.expected as u64).saturating_sub(self.found) as usize
    }

    /// The value, if exactly the bytes of the chunk came.
    pub fn finalize(self) -> Result<Value, ChunkError> {
        if self.found != self.expected as u64 {
            return Err(ChunkError::Length { chunk: self.index, expected: self.expected, found: self.found });
        }
        if self.is_root { Ok(*self.hasher.finalize().as_bytes()) } else { Ok(self.hasher.finalize_non_root()) }
    }
}

/// Why a manifest cannot be completed yet, or ever. Nothing has been published: start again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BuildError {
    /// Fewer bytes than announced.
    #[error("the sealed file ends after {found} of {expected} bytes")]
    TooShort {
        /// Announced.
        expected: u64,
        /// Seen.
        found: u64,
    },
    /// More bytes than announced.
    #[error("the sealed file is longer than the announced {expected} bytes")]
    TooLong {
        /// Announced.
        expected: u64,
    },
}

/// Makes a manifest while the sealed bytes go by.
#[derive(Debug, Clone)]
pub struct ManifestBuilder {
    geometry: Geometry,
    values: Vec<Value>,
    current: Option<ChunkHasher>,
}

impl ManifestBuilder {
    /// Begins an item of this shape.
    pub fn new(geometry: Geometry) -> Self {
        Self { geometry, values: Vec::new(), current: None }
    }

    /// Goes on after a crash: the values of the chunks that are already sealed, in order from the first.
    pub fn resume(geometry: Geometry, values: Vec<Value>) -> Result<Self, BuildError> {
        if values.len() > geometry.n_chunks() as usize {
            return Err(BuildError::TooLong { expected: geometry.sealed_len() });
        }
        Ok(Self { geometry, values, current: None })
    }

    /// Takes the next sealed bytes, in pieces of any size.
    pub fn update(&mut self, mut sealed: &[u8]) -> Result<(), BuildError> {
        while !sealed.is_empty() {
            let mut hasher = match self.current.take() {
                Some(hasher) => hasher,
                None => self.next_chunk()?,
            };
            let (now, later) = sealed.split_at(hasher.missing().min(sealed.len()));
            hasher.update(now);
            sealed = later;
            if hasher.missing() == 0 {
                self.values.push(hasher.finalize().expect("the hasher has all bytes of its chunk"));
            } else {
                self.current = Some(hasher);
            }
        }
        Ok(())
    }

    /// The values of the chunks that are complete: what a crash must not lose.
    pub fn values(&self) -> &[Value] {
        &self.values
    }

    /// Folds the values into the item id.
    pub fn finish(self) -> Result<Manifest, BuildError> {
        let expected = self.geometry.sealed_len();
        if self.values.len() != self.geometry.n_chunks() as usize {
            let begun = self.current.map_or(0, |hasher| hasher.found);
            return Err(BuildError::TooShort { expected, found: self.values.len() as u64 * CHUNK_BYTES + begun });
        }
        let item = ItemId::from_bytes(fold_root(&self.values));
        Ok(Manifest { item, geometry: self.geometry, values: self.values })
    }

    fn next_chunk(&self) -> Result<ChunkHasher, BuildError> {
        let too_long = BuildError::TooLong { expected: self.geometry.sealed_len() };
        let index = self.geometry.chunk(self.values.len() as u32).ok_or(too_long)?;
        ChunkHasher::new(&self.geometry, index).map_err(|_| too_long)
    }
}

/// The root hash over the values of equal, left-complete subtrees. One value is a root already.
fn fold_root(values: &[Value]) -> Value {
    match split(values) {
        None => values[0],
        Some((left, right)) => *merge_subtrees_root(&fold(left), &fold(right), Mode::Hash).as_bytes(),
    }
}

/// The chaining value over the values of equal, left-complete subtrees. At most fifteen levels deep.
fn fold(values: &[Value]) -> Value {
    match split(values) {
        None => values[0],
        Some((left, right)) => merge_subtrees_non_root(&fold(left), &fold(right), Mode::Hash),
    }
}

/// BLAKE3's tree: the left side is the largest power of two that leaves something for the right.
fn split(values: &[Value]) -> Option<(&[Value], &[Value])> {
    debug_assert!(!values.is_empty(), "an item has at least one chunk");
    (values.len() > 1).then(|| values.split_at(values.len().next_power_of_two() / 2))
}

const _: () = assert!(SEGMENTS_PER_CHUNK.is_power_of_two(), "segments must be subtrees of chunks");
