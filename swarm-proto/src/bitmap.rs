//! Which chunks of an item a device has.
//!
//! A [`Holding`] knows how many chunks its item has and never names one beyond. A copy (a complete holding) is a state
//! of its own and costs nothing. Two forms leave the program: one bit a chunk between peers, runs towards the tracker;
//! both are checked against the item's size before anything is allocated.

use std::ops::Range;

use roaring::RoaringBitmap;

use crate::geometry::{ChunkIndex, MAX_CHUNKS};
use crate::pb::common::ChunkRange;

/// Most runs that a holding can have: every other chunk.
pub const MAX_RUNS: usize = MAX_CHUNKS as usize / 2;

/// Why bytes or runs are not a holding of the item. Refuse the message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HoldingError {
    /// Not a size that items have.
    #[error("an item has 1 to {MAX_CHUNKS} chunks, not {0}")]
    Chunks(u32),
    /// Too many or too few bytes for one bit a chunk.
    #[error("the bits of {n_chunks} chunks are {} bytes, not {found}", bits_len(*n_chunks))]
    Length {
        /// Chunks of the item.
        n_chunks: u32,
        /// Bytes that came.
        found: usize,
    },
    /// Names a chunk that the item does not have.
    #[error("the item has {n_chunks} chunks, the holding names chunk {named}")]
    Beyond {
        /// Chunks of the item.
        n_chunks: u32,
        /// The chunk that does not exist.
        named: u32,
    },
    /// Runs that are empty, out of order, or touch each other.
    #[error("runs of chunks must ascend, with a gap between them, and none may be empty")]
    Disorder,
}

/// A set of chunks of one item.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holding {
    n_chunks: u32,
    held: Held,
}

/// `Some` is never complete, so that equal holdings are equal values.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Held {
    All,
    Some(RoaringBitmap),
}

impl Holding {
    /// Nothing of an item of this many chunks.
    pub fn empty(n_chunks: u32) -> Result<Self, HoldingError> {
        check(n_chunks).map(|()| Self { n_chunks, held: Held::Some(RoaringBitmap::new()) })
    }

    /// All of an item of this many chunks: a copy.
    pub fn complete(n_chunks: u32) -> Result<Self, HoldingError> {
        check(n_chunks).map(|()| Self { n_chunks, held: Held::All })
    }

    /// Reads one bit a chunk: chunk `i` is bit `i % 8` (the lowest first) of byte `i / 8`; bits beyond are zero.
    pub fn from_bits(n_chunks: u32, bits: &[u8]) -> Result<Self, HoldingError> {
        check(n_chunks)?;
        if bits.len() != bits_len(n_chunks) {
            return Err(HoldingError::Length { n_chunks, found: bits.len() });
        }
        Self::of(n_chunks, RoaringBitmap::from_lsb0_bytes(0, bits))
    }

    /// Writes [`Holding::from_bits`]; at most 4,096 bytes.
    pub fn to_bits(&self) -> Vec<u8> {
        let mut bits = vec![0; bits_len(self.n_chunks)];
        for run in self.runs() {
            for chunk in run {
                bits[chunk as usize / 8] |= 1 << (chunk % 8);
            }
        }
        bits
    }

    /// Reads runs of chunks, ascending, with gaps between them.
    pub fn from_runs(n_chunks: u32, runs: impl IntoIterator<Item = Range<u32>>) -> Result<Self, HoldingError> {
        check(n_chunks)?;
        let mut set = RoaringBitmap::new();
        let mut after = None;
        for run in runs {
            if run.is_empty() || after.is_some_and(|after| run.start <= after) {
                return Err(HoldingError::Disorder);
            }
            if run.end > n_chunks {
                return Err(HoldingError::Beyond { n_chunks, named: run.end - 1 });
            }
            after = Some(run.end);
            set.insert_range(run);
        }
        Self::of(n_chunks, set)
    }

    /// Reads runs of chunks as messages carry them.
    pub fn from_ranges(n_chunks: u32, ranges: &[ChunkRange]) -> Result<Self, HoldingError> {
        if ranges.len() > MAX_RUNS {
            return Err(HoldingError::Disorder);
        }
        Self::from_runs(n_chunks, ranges.iter().map(|range| range.first..range.first.saturating_add(range.count)))
    }

    /// Writes runs of chunks as messages carry them.
    pub fn to_ranges(&self) -> Vec<ChunkRange> {
        self.runs().map(|run| ChunkRange { first: run.start, count: run.len() as u32 }).collect()
    }

    /// How many chunks the item has.
    pub const fn n_chunks(&self) -> u32 {
        self.n_chunks
    }

    /// How many chunks are held.
    pub fn len(&self) -> u32 {
        match &self.held {
            Held::All => self.n_chunks,
            // At most n_chunks, which is a u32.
            Held::Some(set) => set.len() as u32,
        }
    }

    /// True when no chunk is held.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// True for a copy.
    pub const fn is_complete(&self) -> bool {
        matches!(self.held, Held::All)
    }

    /// True when this chunk is held.
    pub fn contains(&self, chunk: ChunkIndex) -> bool {
        match &self.held {
            Held::All => chunk.get() < self.n_chunks,
            Held::Some(set) => set.contains(chunk.get()),
        }
    }

    /// Adds a chunk; false when it was held already or the item does not have it.
    pub fn insert(&mut self, chunk: ChunkIndex) -> bool {
        if chunk.get() >= self.n_chunks {
            return false;
        }
        match &mut self.held {
            Held::All => false,
            Held::Some(set) => {
                let is_new = set.insert(chunk.get());
                if set.len() == u64::from(self.n_chunks) {
                    self.held = Held::All;
                }
                is_new
            }
        }
    }

    /// Takes a chunk away; false when it was not held.
    pub fn remove(&mut self, chunk: ChunkIndex) -> bool {
        if !self.contains(chunk) {
            return false;
        }
        let mut set = self.set();
        set.remove(chunk.get());
        self.held = Held::Some(set);
        true
    }

    /// The chunks that are held, ascending.
    pub fn iter(&self) -> impl Iterator<Item = ChunkIndex> + '_ {
        self.runs().flatten().filter_map(ChunkIndex::new)
    }

    /// The chunks that are not held, ascending.
    pub fn missing(&self) -> impl Iterator<Item = ChunkIndex> + '_ {
        self.gaps().flatten().filter_map(ChunkIndex::new)
    }

    /// Runs of chunks that are held, ascending, with gaps between them.
    pub fn runs(&self) -> impl Iterator<Item = Range<u32>> + '_ {
        let all = self.is_complete().then_some(0..self.n_chunks);
        let mut rest = match &self.held {
            Held::All => None,
            Held::Some(set) => Some(set.iter()),
        };
        let some = std::iter::from_fn(move || rest.as_mut()?.next_range().map(|run| *run.start()..*run.end() + 1));
        all.into_iter().chain(some)
    }

    /// Runs of chunks that are not held.
    pub fn gaps(&self) -> impl Iterator<Item = Range<u32>> + '_ {
        let mut from = 0;
        let ends = self.runs().chain(std::iter::once(self.n_chunks..self.n_chunks));
        ends.map(move |run| std::mem::replace(&mut from, run.end)..run.start).filter(|gap| !gap.is_empty())
    }

    /// What either has. Chunks that this item does not have are left out.
    pub fn union(&self, other: &Self) -> Self {
        self.combine(other, |mine, theirs| mine | theirs)
    }

    /// What both have.
    pub fn intersection(&self, other: &Self) -> Self {
        self.combine(other, |mine, theirs| mine & theirs)
    }

    /// What this one has and the other has not.
    pub fn difference(&self, other: &Self) -> Self {
        self.combine(other, |mine, theirs| mine - theirs)
    }

    fn combine(&self, other: &Self, with: impl FnOnce(RoaringBitmap, RoaringBitmap) -> RoaringBitmap) -> Self {
        let mut theirs = other.set();
        theirs.remove_range(self.n_chunks..);
        Self::normal(self.n_chunks, with(self.set(), theirs))
    }

    fn of(n_chunks: u32, set: RoaringBitmap) -> Result<Self, HoldingError> {
        match set.max() {
            Some(named) if named >= n_chunks => Err(HoldingError::Beyond { n_chunks, named }),
            _ => Ok(Self::normal(n_chunks, set)),
        }
    }

    fn normal(n_chunks: u32, set: RoaringBitmap) -> Self {
        let is_complete = set.len() == u64::from(n_chunks);
        Self { n_chunks, held: if is_complete { Held::All } else { Held::Some(set) } }
    }

    fn set(&self) -> RoaringBitmap {
        match &self.held {
            Held::All => (0..self.n_chunks).collect(),
            Held::Some(set) => set.clone(),
        }
    }
}

/// Bytes of one bit a chunk.
pub const fn bits_len(n_chunks: u32) -> usize {
    n_chunks.div_ceil(8) as usize
}

const fn check(n_chunks: u32) -> Result<(), HoldingError> {
    if n_chunks == 0 || n_chunks > MAX_CHUNKS { Err(HoldingError::Chunks(n_chunks)) } else { Ok(()) }
}
