//! A set of chunks of one item, dense and quick to intersect.
//!
//! Always as wide as its item has chunks; operations between sets of different width are a bug of the caller. Holdings
//! on the wire are `bitmap::Holding`; this is what the machines count with.

use std::ops::Range;

const WORD_BITS: u32 = 64;

/// A set of chunks of one item.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChunkSet {
    words: Vec<u64>,
    width: u32,
    len: u32,
}

impl ChunkSet {
    /// The empty set for an item of `width` chunks.
    pub fn empty(width: u32) -> Self {
        Self { words: vec![0; width.div_ceil(WORD_BITS) as usize], width, len: 0 }
    }

    /// Every chunk of an item of `width` chunks.
    pub fn full(width: u32) -> Self {
        Self::from_ranges(width, Some(0..width))
    }

    /// The chunks of these ranges; what lies beyond the item is left out.
    pub fn from_ranges(width: u32, ranges: impl IntoIterator<Item = Range<u32>>) -> Self {
        let mut set = Self::empty(width);
        for range in ranges {
            set.insert_range(range);
        }
        set
    }

    /// Chunks of the item.
    pub fn width(&self) -> u32 {
        self.width
    }

    /// Chunks in the set.
    pub fn len(&self) -> u32 {
        self.len
    }

    /// Whether no chunk is in the set.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether every chunk is in the set.
    pub fn is_full(&self) -> bool {
        self.len == self.width
    }

    /// Whether this chunk is in the set.
    pub fn contains(&self, chunk: u32) -> bool {
        let (word, bit) = place(chunk);
        self.words.get(word).is_some_and(|w| w & bit != 0)
    }

    /// Puts a chunk in; says whether it was new. One beyond the item is ignored.
    pub fn insert(&mut self, chunk: u32) -> bool {
        let (word, bit) = place(chunk);
        if chunk >= self.width || self.words[word] & bit != 0 {
            return false;
        }
        self.words[word] |= bit;
        self.len += 1;
        true
    }

    /// Puts a range in; what lies beyond the item is left out.
    pub fn insert_range(&mut self, range: Range<u32>) {
        let mut chunk = range.start;
        let end = range.end.min(self.width);
        while chunk < end {
            let in_word = (WORD_BITS - chunk % WORD_BITS).min(end - chunk);
            let bits = (u64::MAX >> (WORD_BITS - in_word)) << (chunk % WORD_BITS);
            let word = &mut self.words[(chunk / WORD_BITS) as usize];
            self.len += (bits & !*word).count_ones();
            *word |= bits;
            chunk += in_word;
        }
    }

    /// Takes a chunk out; says whether it was there.
    pub fn remove(&mut self, chunk: u32) -> bool {
        let (word, bit) = place(chunk);
        if !self.contains(chunk) {
            return false;
        }
        self.words[word] &= !bit;
        self.len -= 1;
        true
    }

    /// The chunks, ascending.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.words.iter().enumerate().flat_map(|(i, &word)| bits(i, word))
    }

    /// The chunks in both sets, ascending.
    pub fn both<'a>(&'a self, other: &'a Self) -> impl Iterator<Item = u32> + 'a {
        self.words.iter().zip(&other.words).enumerate().flat_map(|(i, (a, b))| bits(i, a & b))
    }

    /// Whether the sets share a chunk.
    pub fn meets(&self, other: &Self) -> bool {
        self.words.iter().zip(&other.words).any(|(a, b)| a & b != 0)
    }

    /// Whether every chunk of this set is in the other one.
    pub fn is_within(&self, other: &Self) -> bool {
        self.words.iter().zip(&other.words).all(|(a, b)| a & !b == 0)
    }

    /// Whether both sets have more than so many chunks in common.
    pub fn shares_more_than(&self, other: &Self, n: u32) -> bool {
        let mut shared = 0;
        self.words.iter().zip(&other.words).any(|(a, b)| {
            shared += (a & b).count_ones();
            shared > n
        })
    }

    /// How many chunks both sets have.
    pub fn shared(&self, other: &Self) -> u32 {
        self.words.iter().zip(&other.words).map(|(a, b)| (a & b).count_ones()).sum()
    }

    /// Adds all of the other set.
    pub fn add(&mut self, other: &Self) {
        for (a, b) in self.words.iter_mut().zip(&other.words) {
            *a |= b;
        }
        self.recount();
    }

    /// Takes away all of the other set.
    pub fn subtract(&mut self, other: &Self) {
        for (a, b) in self.words.iter_mut().zip(&other.words) {
            *a &= !b;
        }
        self.recount();
    }

    /// Keeps only what the other set has too.
    pub fn keep(&mut self, other: &Self) {
        for (a, b) in self.words.iter_mut().zip(&other.words) {
            *a &= b;
        }
        self.recount();
    }

    /// Takes out what the other set has too, and puts in what only the other one has.
    pub fn toggle(&mut self, other: &Self) {
        for (a, b) in self.words.iter_mut().zip(&other.words) {
            *a ^= b;
        }
        self.recount();
    }

    /// The chunk with so many others before it.
    pub fn nth(&self, mut before: u32) -> Option<u32> {
        for (i, &word) in self.words.iter().enumerate() {
            let ones = word.count_ones();
            if before < ones {
                return bits(i, word).nth(before as usize);
            }
            before -= ones;
        }
        None
    }

    /// The set as ranges: ascending, not touching each other.
    pub fn ranges(&self) -> Vec<Range<u32>> {
        let mut ranges: Vec<Range<u32>> = Vec::new();
        for (i, &word) in self.words.iter().enumerate() {
            let (mut word, mut at) = (word, i as u32 * WORD_BITS);
            while word != 0 {
                let gap = word.trailing_zeros();
                let run = (word >> gap).trailing_ones();
                let range = at + gap..at + gap + run;
                match ranges.last_mut() {
                    Some(last) if last.end == range.start => last.end = range.end,
                    _ => ranges.push(range),
                }
                at += gap + run;
                word = if gap + run < WORD_BITS { word >> (gap + run) } else { 0 };
            }
        }
        ranges
    }

    /// The chunks from 64 × `index` on, the first in the lowest bit.
    pub(crate) fn word(&self, index: usize) -> u64 {
        self.words[index]
    }

    /// Bytes that the set has reserved beside itself.
    pub(crate) fn heap_bytes(&self) -> usize {
        self.words.capacity() * size_of::<u64>()
    }

    fn recount(&mut self) {
        self.len = self.words.iter().map(|w| w.count_ones()).sum();
    }
}

fn place(chunk: u32) -> (usize, u64) {
    ((chunk / WORD_BITS) as usize, 1 << (chunk % WORD_BITS))
}

/// The chunks whose bits are set in the `i`-th word, ascending.
fn bits(i: usize, mut word: u64) -> impl Iterator<Item = u32> {
    let first = i as u32 * WORD_BITS;
    std::iter::from_fn(move || {
        if word == 0 {
            return None;
        }
        let bit = word.trailing_zeros();
        word &= word - 1;
        Some(first + bit)
    })
}

#[cfg(test)]
#[allow(clippy::single_range_in_vec_init, reason = "a list of one range is meant")]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_full_set_has_every_chunk_and_none_beyond() {
        let set = ChunkSet::full(130);
        assert!(set.is_full());
        assert!(set.contains(129));
        assert!(!set.contains(130));
        assert_eq!(set.ranges(), [0..130]);
    }

    #[test]
    fn ranges_beyond_the_item_are_left_out() {
        let set = ChunkSet::from_ranges(10, [8..4_000_000_000]);
        assert_eq!(set.ranges(), [8..10]);
    }

    proptest! {
        #[test]
        fn it_does_what_an_ordered_set_does(
            width in 1u32..200,
            a in prop::collection::btree_set(0u32..200, 0..80),
            b in prop::collection::btree_set(0u32..200, 0..80),
            out in prop::collection::vec(0u32..200, 0..40),
        ) {
            let make = |from: &BTreeSet<u32>| {
                let mut set = ChunkSet::empty(width);
                for &chunk in from {
                    set.insert(chunk);
                }
                set
            };
            let model = |from: &BTreeSet<u32>| from.iter().copied().filter(|&c| c < width).collect::<BTreeSet<_>>();
            let (sa, sb, mut ma, mb) = (make(&a), make(&b), model(&a), model(&b));

            prop_assert_eq!(sa.both(&sb).collect::<BTreeSet<_>>(), &ma & &mb);
            prop_assert_eq!(sa.shared(&sb) as usize, (&ma & &mb).len());
            prop_assert_eq!(sa.shares_more_than(&sb, 3), (&ma & &mb).len() > 3);
            prop_assert_eq!(sa.meets(&sb), !ma.is_disjoint(&mb));
            prop_assert_eq!(sa.is_within(&sb), ma.is_subset(&mb));
            prop_assert_eq!(ma.iter().nth(a.len() / 2).copied(), sa.nth(a.len() as u32 / 2));
            let mut either = sa.clone();
            either.toggle(&sb);
            prop_assert_eq!(either.iter().collect::<BTreeSet<_>>(), &ma ^ &mb);
            let (mut sum, mut left, mut kept) = (sa.clone(), sa.clone(), sa.clone());
            sum.add(&sb);
            left.subtract(&sb);
            kept.keep(&sb);
            prop_assert_eq!(sum.iter().collect::<BTreeSet<_>>(), &ma | &mb);
            prop_assert_eq!(left.iter().collect::<BTreeSet<_>>(), &ma - &mb);
            prop_assert_eq!(kept.len() as usize, (&ma & &mb).len());

            let mut sa = sa;
            for chunk in out {
                prop_assert_eq!(sa.remove(chunk), ma.remove(&chunk));
            }
            prop_assert_eq!(sa.len() as usize, ma.len());
            prop_assert_eq!(ChunkSet::from_ranges(width, sa.ranges()), sa);
        }
    }
}
