//! How an item is divided: chunks, segments and spans, and the sizes of all of them.
//!
//! Everything follows from one number, the length of the file. A [`Geometry`] exists only for lengths that a sealed
//! item can have, so no later arithmetic can overflow, and no size is ever taken from a peer.

use std::fmt;
use std::ops::Range;

/// Unit of transfer, verification and accounting.
pub const CHUNK_BYTES: u64 = 1 << 20;
/// Unit of sealing and of random access.
pub const SEGMENT_BYTES: u64 = 65_536;
/// Authentication tag at the end of every segment.
pub const TAG_BYTES: u64 = 16;
/// Clear bytes in a full segment.
pub const SEGMENT_PLAIN_BYTES: u64 = SEGMENT_BYTES - TAG_BYTES;
/// Segments in a full chunk.
pub const SEGMENTS_PER_CHUNK: u32 = (CHUNK_BYTES / SEGMENT_BYTES) as u32;
/// Chunks that share one derived key.
pub const CHUNKS_PER_SPAN: u32 = 16;
/// Segments that share one derived key.
pub const SEGMENTS_PER_SPAN: u32 = SEGMENTS_PER_CHUNK * CHUNKS_PER_SPAN;
/// Most chunks of an item: 32 GiB, so that a manifest is at most 1 MiB on the wire.
pub const MAX_CHUNKS: u32 = 32_768;
/// Most spans of an item.
pub const MAX_SPANS: u32 = MAX_CHUNKS / CHUNKS_PER_SPAN;
/// Longest sealed file.
pub const MAX_SEALED_LEN: u64 = MAX_CHUNKS as u64 * CHUNK_BYTES;

/// Why a length cannot be that of an item.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum GeometryError {
    /// There is nothing to seal. Choose another file.
    #[error("the file is empty")]
    Empty,
    /// No sealed file has this length. Whoever said so is wrong.
    #[error("a sealed file cannot have {0} bytes: its last segment would hold no data")]
    Impossible(u64),
    /// More than the format can hold. Split the file.
    #[error("{0} bytes are too many: a sealed file has at most {MAX_SEALED_LEN} (32 GiB)")]
    TooLong(u64),
}

macro_rules! index {
    ($(#[$doc:meta])* $name:ident, $max:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(u32);

        impl $name {
            /// The first.
            pub const FIRST: Self = Self(0);

            /// Checks a raw number against what any item can have; [`Geometry`] checks against one item.
            pub const fn new(raw: u32) -> Option<Self> {
                if raw < $max { Some(Self(raw)) } else { None }
            }

            /// The raw number.
            pub const fn get(self) -> u32 {
                self.0
            }

            /// The raw number, for indexing.
            pub const fn as_usize(self) -> usize {
                self.0 as usize
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl From<$name> for u32 {
            fn from(index: $name) -> Self {
                index.0
            }
        }
    };
}

index!(
    /// The place of a chunk in its item.
    ChunkIndex,
    MAX_CHUNKS
);
index!(
    /// The place of a segment in its item.
    SegmentIndex,
    MAX_CHUNKS * SEGMENTS_PER_CHUNK
);
index!(
    /// The place of a span in its item.
    SpanIndex,
    MAX_SPANS
);

impl ChunkIndex {
    /// The span this chunk lies in.
    pub const fn span(self) -> SpanIndex {
        SpanIndex(self.0 / CHUNKS_PER_SPAN)
    }
}

impl SegmentIndex {
    /// The chunk this segment lies in.
    pub const fn chunk(self) -> ChunkIndex {
        ChunkIndex(self.0 / SEGMENTS_PER_CHUNK)
    }

    /// The span this segment lies in.
    pub const fn span(self) -> SpanIndex {
        SpanIndex(self.0 / SEGMENTS_PER_SPAN)
    }

    /// The place of this segment in its chunk, 0 to 15.
    pub const fn in_chunk(self) -> usize {
        (self.0 % SEGMENTS_PER_CHUNK) as usize
    }
}

impl SpanIndex {
    /// The first segment of this span.
    pub const fn first_segment(self) -> SegmentIndex {
        SegmentIndex(self.0 * SEGMENTS_PER_SPAN)
    }

    /// The first chunk of this span.
    pub const fn first_chunk(self) -> ChunkIndex {
        ChunkIndex(self.0 * CHUNKS_PER_SPAN)
    }
}

/// The shape of one item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Geometry {
    plain_len: u64,
    sealed_len: u64,
}

impl Geometry {
    /// The shape of an item made from a clear file of this length.
    pub const fn of_plain(plain_len: u64) -> Result<Self, GeometryError> {
        if plain_len == 0 {
            return Err(GeometryError::Empty);
        }
        // Checked first, so that the sum below cannot overflow.
        if plain_len > MAX_SEALED_LEN {
            return Err(GeometryError::TooLong(plain_len));
        }
        let sealed_len = plain_len + plain_len.div_ceil(SEGMENT_PLAIN_BYTES) * TAG_BYTES;
        if sealed_len > MAX_SEALED_LEN {
            return Err(GeometryError::TooLong(sealed_len));
        }
        Ok(Self { plain_len, sealed_len })
    }

    /// The shape of an item of this sealed length.
    pub const fn of_sealed(sealed_len: u64) -> Result<Self, GeometryError> {
        if sealed_len == 0 {
            return Err(GeometryError::Empty);
        }
        if sealed_len > MAX_SEALED_LEN {
            return Err(GeometryError::TooLong(sealed_len));
        }
        let in_last_segment = (sealed_len - 1) % SEGMENT_BYTES + 1;
        if in_last_segment <= TAG_BYTES {
            return Err(GeometryError::Impossible(sealed_len));
        }
        let plain_len = sealed_len - sealed_len.div_ceil(SEGMENT_BYTES) * TAG_BYTES;
        Ok(Self { plain_len, sealed_len })
    }

    /// Length of the clear file.
    pub const fn plain_len(&self) -> u64 {
        self.plain_len
    }

    /// Length of the sealed file.
    pub const fn sealed_len(&self) -> u64 {
        self.sealed_len
    }

    /// How many chunks there are; at least one.
    pub const fn n_chunks(&self) -> u32 {
        self.sealed_len.div_ceil(CHUNK_BYTES) as u32
    }

    /// How many segments there are; at least one.
    pub const fn n_segments(&self) -> u32 {
        self.sealed_len.div_ceil(SEGMENT_BYTES) as u32
    }

    /// How many spans there are; at least one.
    pub const fn n_spans(&self) -> u32 {
        self.n_chunks().div_ceil(CHUNKS_PER_SPAN)
    }

    /// The chunk of this number, if the item has it.
    pub const fn chunk(&self, raw: u32) -> Option<ChunkIndex> {
        if raw < self.n_chunks() { Some(ChunkIndex(raw)) } else { None }
    }

    /// The segment of this number, if the item has it.
    pub const fn segment(&self, raw: u32) -> Option<SegmentIndex> {
        if raw < self.n_segments() { Some(SegmentIndex(raw)) } else { None }
    }

    /// The span of this number, if the item has it.
    pub const fn span(&self, raw: u32) -> Option<SpanIndex> {
        if raw < self.n_spans() { Some(SpanIndex(raw)) } else { None }
    }

    /// All chunks, in order.
    pub fn chunks(&self) -> impl DoubleEndedIterator<Item = ChunkIndex> + ExactSizeIterator + use<> {
        (0..self.n_chunks()).map(ChunkIndex)
    }

    /// Where a chunk lies in the sealed file; empty for a chunk the item does not have.
    pub fn chunk_range(&self, chunk: ChunkIndex) -> Range<u64> {
        self.sealed_range(u64::from(chunk.0), CHUNK_BYTES)
    }

    /// Bytes of a chunk; zero for a chunk the item does not have.
    pub fn chunk_len(&self, chunk: ChunkIndex) -> usize {
        len_of(&self.chunk_range(chunk))
    }

    /// Where a segment lies in the sealed file; empty for a segment the item does not have.
    pub fn segment_range(&self, segment: SegmentIndex) -> Range<u64> {
        self.sealed_range(u64::from(segment.0), SEGMENT_BYTES)
    }

    /// Sealed bytes of a segment; zero for a segment the item does not have.
    pub fn segment_len(&self, segment: SegmentIndex) -> usize {
        len_of(&self.segment_range(segment))
    }

    /// Where the clear bytes of a segment lie in the clear file; empty for a segment the item does not have.
    pub fn segment_plain_range(&self, segment: SegmentIndex) -> Range<u64> {
        let start = (u64::from(segment.0) * SEGMENT_PLAIN_BYTES).min(self.plain_len);
        start..(start + SEGMENT_PLAIN_BYTES).min(self.plain_len)
    }

    /// The segments of a chunk; empty for a chunk the item does not have.
    pub fn segments_of_chunk(&self, chunk: ChunkIndex) -> Range<u32> {
        let start = (chunk.0 * SEGMENTS_PER_CHUNK).min(self.n_segments());
        start..(start + SEGMENTS_PER_CHUNK).min(self.n_segments())
    }

    /// True for the segment that is sealed with the last flag.
    pub const fn is_last(&self, segment: SegmentIndex) -> bool {
        segment.0 + 1 == self.n_segments()
    }

    /// The segments one must open to read these bytes of the clear file. Empty when nothing of it is inside.
    pub fn segments_of_plain_range(&self, bytes: Range<u64>) -> Range<u32> {
        let end = bytes.end.min(self.plain_len);
        if bytes.start >= end {
            return 0..0;
        }
        (bytes.start / SEGMENT_PLAIN_BYTES) as u32..end.div_ceil(SEGMENT_PLAIN_BYTES) as u32
    }

    fn sealed_range(&self, place: u64, unit: u64) -> Range<u64> {
        let start = (place * unit).min(self.sealed_len);
        start..(start + unit).min(self.sealed_len)
    }
}

fn len_of(range: &Range<u64>) -> usize {
    // At most one chunk, which fits any usize.
    (range.end - range.start) as usize
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn edges_of_the_format_are_exact() {
        assert_eq!(Geometry::of_plain(0), Err(GeometryError::Empty));
        assert_eq!(Geometry::of_sealed(0), Err(GeometryError::Empty));
        assert_eq!(Geometry::of_sealed(16), Err(GeometryError::Impossible(16)));
        assert_eq!(Geometry::of_sealed(65_552), Err(GeometryError::Impossible(65_552)));
        assert_eq!(Geometry::of_sealed(17).map(|one| one.plain_len()), Ok(1));
        assert_eq!(Geometry::of_plain(65_520).map(|full| full.sealed_len()), Ok(65_536));
        assert_eq!(Geometry::of_plain(65_521).map(|more| more.sealed_len()), Ok(65_553));
        assert_eq!(Geometry::of_sealed(MAX_SEALED_LEN).map(|most| most.n_chunks()), Ok(MAX_CHUNKS));
        assert_eq!(Geometry::of_sealed(MAX_SEALED_LEN + 17), Err(GeometryError::TooLong(MAX_SEALED_LEN + 17)));
        assert_eq!(Geometry::of_plain(u64::MAX), Err(GeometryError::TooLong(u64::MAX)));
    }

    #[test]
    fn a_byte_is_read_by_opening_one_segment() {
        let geometry = Geometry::of_plain(10_000_000).expect("fits");
        assert_eq!(geometry.segments_of_plain_range(65_520..65_521), 1..2);
        assert_eq!(geometry.segments_of_plain_range(65_519..65_521), 0..2);
        assert_eq!(geometry.segments_of_plain_range(9_999_999..u64::MAX), 152..153);
        assert!(geometry.segments_of_plain_range(10_000_000..10_000_001).is_empty());
        #[allow(clippy::reversed_empty_ranges, reason = "a hostile Range header")]
        let reversed = geometry.segments_of_plain_range(5..2);
        assert!(reversed.is_empty());
    }

    proptest! {
        #[test]
        fn plain_and_sealed_lengths_agree(plain_len in 1..=MAX_SEALED_LEN / SEGMENT_BYTES * SEGMENT_PLAIN_BYTES) {
            let geometry = Geometry::of_plain(plain_len).expect("fits");
            prop_assert_eq!(Geometry::of_sealed(geometry.sealed_len()), Ok(geometry));
            prop_assert_eq!(geometry.n_segments(), plain_len.div_ceil(SEGMENT_PLAIN_BYTES) as u32);
        }

        #[test]
        fn parts_tile_the_file(plain_len in 1u64..50_000_000) {
            let geometry = Geometry::of_plain(plain_len).expect("fits");
            let mut at = 0;
            for chunk in geometry.chunks() {
                let range = geometry.chunk_range(chunk);
                prop_assert_eq!(range.start, at);
                prop_assert!(!range.is_empty());
                at = range.end;
            }
            prop_assert_eq!(at, geometry.sealed_len());
            let (mut sealed_at, mut plain_at) = (0, 0);
            for segment in (0..geometry.n_segments()).filter_map(|raw| geometry.segment(raw)) {
                let (sealed, plain) = (geometry.segment_range(segment), geometry.segment_plain_range(segment));
                prop_assert_eq!((sealed.start, plain.start), (sealed_at, plain_at));
                prop_assert_eq!(sealed.end - sealed.start, plain.end - plain.start + TAG_BYTES);
                prop_assert!(geometry.segments_of_chunk(segment.chunk()).contains(&segment.get()));
                (sealed_at, plain_at) = (sealed.end, plain.end);
            }
            prop_assert_eq!((sealed_at, plain_at), (geometry.sealed_len(), plain_len));
            prop_assert_eq!(geometry.chunk_range(ChunkIndex(MAX_CHUNKS - 1)).is_empty(), geometry.n_chunks() < MAX_CHUNKS);
        }
    }
}
