//! Commits a publisher to every span key of an item, so that each of them can be checked alone.
//!
//! The commitment to a content key proves only a whole content key. Where the keys of some spans leave, they come with
//! the neighbours that lead from them to the root of a tree over all span keys, which the signed catalog entry bears
//! ([`SpanCommitment`]). A leaf binds nonce prefix, index and key, since ChaCha20-Poly1305 commits to neither key nor
//! nonce; the commitment binds the number of spans. Nothing in a tree gives a key away: leaves are hashes of keys.

use std::fmt;
use std::ops::Range;

use blake3::hazmat::{Mode, merge_subtrees_non_root};
use subtle::ConstantTimeEq;
use zeroize::Zeroize;

use crate::geometry::{MAX_SPANS, SpanIndex};
use crate::id::{IdError, write_hex};
use crate::manifest::Value;
use crate::seal::{ContentKey, SpanKeys};

/// Contexts of BLAKE3's key derivation. Part of the format.
const LEAF_CONTEXT: &str = "reelswarm v1 span leaf";
const COMMITMENT_CONTEXT: &str = "reelswarm v1 span commitment";

/// Most values that come with released span keys: two paths through a tree over all spans of the longest item.
pub const MAX_SIBLINGS: usize = 2 * MAX_SPANS.ilog2() as usize;

/// Proves which span keys an item was sealed with, without giving them away.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpanCommitment([u8; 32]);

impl SpanCommitment {
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

    /// Whether released keys, with the siblings that came with them, are those of an item of so many spans.
    pub fn proves(&self, n_spans: u32, keys: &SpanKeys, siblings: &[Value]) -> bool {
        let wanted = keys.range();
        if n_spans > MAX_SPANS || wanted.end > n_spans {
            return false;
        }
        let mut siblings = siblings.iter();
        let Some(root) = rebuild(0..n_spans, &wanted, keys, &mut siblings) else { return false };
        siblings.next().is_none() && bool::from(commit(n_spans, &root).0.ct_eq(&self.0))
    }
}

impl TryFrom<&[u8]> for SpanCommitment {
    type Error = IdError;

    fn try_from(bytes: &[u8]) -> Result<Self, IdError> {
        let wrong = IdError::Length { what: "a span commitment", expected: 32, found: bytes.len() };
        bytes.try_into().map(Self).map_err(|_| wrong)
    }
}

impl fmt::Display for SpanCommitment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(f, &self.0)
    }
}

impl fmt::Debug for SpanCommitment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SpanCommitment({self})")
    }
}

/// The tree over all span keys of an item; never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpanTree {
    leaves: Vec<Value>,
}

impl SpanTree {
    /// The tree of an item of so many spans; none has no spans, or more than there can be.
    pub fn of(key: &ContentKey, n_spans: u32) -> Option<Self> {
        let keys = key.spans(0..n_spans)?;
        let leaves = (0..n_spans).filter_map(SpanIndex::new).filter_map(|span| leaf(&keys, span)).collect();
        Some(Self { leaves })
    }

    /// What the catalog entry says about these keys.
    pub fn commitment(&self) -> SpanCommitment {
        commit(self.leaves.len() as u32, &fold(&self.leaves))
    }

    /// What has to come with the keys of these spans, from the left to the right. `None` for spans that are not there.
    pub fn siblings(&self, spans: &Range<u32>) -> Option<Vec<Value>> {
        if spans.is_empty() || spans.end as usize > self.leaves.len() {
            return None;
        }
        let mut siblings = Vec::new();
        self.collect(0..self.leaves.len() as u32, spans, &mut siblings);
        Some(siblings)
    }

    fn collect(&self, node: Range<u32>, wanted: &Range<u32>, siblings: &mut Vec<Value>) {
        if is_apart(&node, wanted) {
            siblings.push(fold(&self.leaves[node.start as usize..node.end as usize]));
        } else if let Some((left, right)) = split(&node) {
            self.collect(left, wanted, siblings);
            self.collect(right, wanted, siblings);
        }
    }
}

/// The value of a node, from the keys that lie under it and the values of what is apart from them.
fn rebuild<'a>(
    node: Range<u32>,
    wanted: &Range<u32>,
    keys: &SpanKeys,
    siblings: &mut impl Iterator<Item = &'a Value>,
) -> Option<Value> {
    if is_apart(&node, wanted) {
        return siblings.next().copied();
    }
    match split(&node) {
        None => leaf(keys, SpanIndex::new(node.start)?),
        Some((left, right)) => {
            let left = rebuild(left, wanted, keys, siblings)?;
            let right = rebuild(right, wanted, keys, siblings)?;
            Some(merge_subtrees_non_root(&left, &right, Mode::Hash))
        }
    }
}

fn leaf(keys: &SpanKeys, span: SpanIndex) -> Option<Value> {
    let key = keys.key(span)?;
    let mut hasher = blake3::Hasher::new_derive_key(LEAF_CONTEXT);
    hasher.update(keys.prefix()).update(&span.get().to_be_bytes()).update(&*key);
    let value = *hasher.finalize().as_bytes();
    hasher.zeroize();
    Some(value)
}

fn commit(n_spans: u32, root: &Value) -> SpanCommitment {
    let mut hasher = blake3::Hasher::new_derive_key(COMMITMENT_CONTEXT);
    hasher.update(&n_spans.to_be_bytes()).update(root);
    SpanCommitment(*hasher.finalize().as_bytes())
}

fn fold(leaves: &[Value]) -> Value {
    match split(&(0..leaves.len() as u32)) {
        None => leaves[0],
        Some((left, _)) => {
            let (left, right) = leaves.split_at(left.end as usize);
            merge_subtrees_non_root(&fold(left), &fold(right), Mode::Hash)
        }
    }
}

/// BLAKE3's tree: the left side is the largest power of two that leaves something for the right.
fn split(node: &Range<u32>) -> Option<(Range<u32>, Range<u32>)> {
    let len = node.end - node.start;
    let middle = node.start + len.next_power_of_two() / 2;
    (len > 1).then_some((node.start..middle, middle..node.end))
}

fn is_apart(node: &Range<u32>, wanted: &Range<u32>) -> bool {
    node.end <= wanted.start || wanted.end <= node.start
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(byte: u8) -> ContentKey {
        ContentKey::from_bytes(&[byte; 32]).expect("32 bytes")
    }

    fn tree(byte: u8, n_spans: u32) -> SpanTree {
        SpanTree::of(&key(byte), n_spans).expect("spans")
    }

    #[test]
    fn every_run_of_span_keys_of_every_small_item_is_proven_and_no_other() {
        for n_spans in 1..=9 {
            let (tree, other) = (tree(1, n_spans), tree(2, n_spans));
            let commitment = tree.commitment();
            for first in 0..n_spans {
                for end in first + 1..=n_spans {
                    let keys = key(1).spans(first..end).expect("spans");
                    let siblings = tree.siblings(&(first..end)).expect("spans");
                    assert!(commitment.proves(n_spans, &keys, &siblings), "{first}..{end} of {n_spans}");
                    assert!(!other.commitment().proves(n_spans, &keys, &siblings));
                    assert!(!commitment.proves(n_spans + 1, &keys, &siblings), "another number of spans");
                    let more = [siblings.clone(), vec![[0; 32]]].concat();
                    assert!(!commitment.proves(n_spans, &keys, &more), "one sibling too many");
                    if let Some((_, fewer)) = siblings.split_last() {
                        assert!(!commitment.proves(n_spans, &keys, fewer), "one sibling too few");
                    }
                    let foreign = key(2).spans(first..end).expect("spans");
                    assert!(!commitment.proves(n_spans, &foreign, &siblings), "keys of another item");
                }
            }
        }
    }

    #[test]
    fn tree_of_one_key_says_nothing_about_an_item_with_more_spans() {
        assert_ne!(tree(1, 4).commitment(), tree(1, 5).commitment());
        assert!(SpanTree::of(&key(1), 0).is_none() && SpanTree::of(&key(1), MAX_SPANS + 1).is_none());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn proof_is_short_and_breaks_with_any_change(
            n_spans in 1..=MAX_SPANS, a in any::<prop::sample::Index>(), b in any::<prop::sample::Index>(),
            place in any::<prop::sample::Index>(), bit in 0..8_u8,
        ) {
            let (a, b) = (a.index(n_spans as usize) as u32, b.index(n_spans as usize) as u32);
            let spans = a.min(b)..a.max(b).min(a.min(b) + 16) + 1;
            let tree = tree(1, n_spans);
            let keys = key(1).spans(spans.clone()).expect("spans");
            let mut siblings = tree.siblings(&spans).expect("spans");
            prop_assert!(siblings.len() <= MAX_SIBLINGS);
            prop_assert!(tree.commitment().proves(n_spans, &keys, &siblings));
            if !siblings.is_empty() {
                let place = place.index(siblings.len());
                siblings[place][0] ^= 1 << bit;
                prop_assert!(!tree.commitment().proves(n_spans, &keys, &siblings));
            }
        }
    }
}
