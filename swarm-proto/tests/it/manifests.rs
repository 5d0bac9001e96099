//! Chunk values, item ids and manifests against three oracles: the official BLAKE3 vectors, `blake3::hash`, `bao-tree`.

use std::collections::BTreeMap;

use bao_tree::BlockSize;
use bao_tree::io::outboard::PreOrderMemOutboard;
use bao_tree::io::sync::Outboard;
use bytes::Bytes;
use proptest::prelude::*;
use swarm_proto::geometry::{CHUNK_BYTES, ChunkIndex, Geometry, SEGMENT_BYTES};
use swarm_proto::id::ItemId;
use swarm_proto::manifest::{
    BuildError, ChunkError, ChunkHasher, Manifest, ManifestBuilder, ManifestError, Value, chunk_value, segment_values,
};

use crate::support::pattern;

/// Lengths (in bytes) around every edge that the tree of an item has.
const LENGTHS: [u64; 12] = [
    17,
    1024,
    SEGMENT_BYTES,
    SEGMENT_BYTES + 17,
    CHUNK_BYTES - 1,
    CHUNK_BYTES,
    CHUNK_BYTES + 17,
    2 * CHUNK_BYTES,
    2 * CHUNK_BYTES + 17,
    3 * CHUNK_BYTES,
    5 * CHUNK_BYTES + 123_456,
    8 * CHUNK_BYTES + SEGMENT_BYTES,
];

fn build(bytes: &[u8]) -> Manifest {
    let geometry = Geometry::of_sealed(bytes.len() as u64).expect("a possible length");
    let mut builder = ManifestBuilder::new(geometry);
    builder.update(bytes).expect("not too long");
    builder.finish().expect("complete")
}

fn chunk_bytes<'a>(geometry: &Geometry, chunk: ChunkIndex, bytes: &'a [u8]) -> &'a [u8] {
    let range = geometry.chunk_range(chunk);
    &bytes[range.start as usize..range.end as usize]
}

#[test]
fn official_blake3_vectors_hold() {
    // From test_vectors.json of the BLAKE3 reference implementation.
    for (len, hash) in [
        (1023, "10108970eeda3eb932baac1428c7a2163b0e924c9a9e25b35bba72b28f70bd11"),
        (1024, "42214739f095a406f3fc83deb889744ac00df831c10daa55189b5d121c855af7"),
        (1025, "d00278ae47eb27b34faecf67b4fe263f82d5412916c1ffd97c8cb7fb814b8444"),
        (31_744, "62b6960e1a44bcc1eb1a611a8d6235b6b4b78f32e7abc4fb4c6cdcce94895c47"),
        (102_400, "bc3e3d41a1146b069abffad3c0d44860cf664390afce4d9661f7902e7943e085"),
    ] {
        assert_eq!(build(&pattern(len)).item().to_string(), hash, "{len} bytes");
    }
}

#[test]
fn item_id_is_the_plain_hash_of_the_file() {
    for len in LENGTHS {
        let bytes = pattern(len as usize);
        assert_eq!(build(&bytes).item(), ItemId::from(*blake3::hash(&bytes).as_bytes()), "{len} bytes");
    }
}

#[test]
fn chunk_and_segment_values_are_those_of_bao_tree() {
    for len in LENGTHS {
        let bytes = pattern(len as usize);
        let manifest = build(&bytes);
        let geometry = *manifest.geometry();
        let of_chunks = subtree_values(&bytes, 10);
        let of_segments = subtree_values(&bytes, 6);
        assert_eq!(of_chunks.values().copied().collect::<Vec<_>>(), manifest.values(), "{len} bytes");
        for chunk in geometry.chunks() {
            let part = chunk_bytes(&geometry, chunk, &bytes);
            assert_eq!(chunk_value(&geometry, chunk, part), Ok(of_chunks[&chunk.get()]));
            let expected: Vec<Value> = geometry.segments_of_chunk(chunk).map(|segment| of_segments[&segment]).collect();
            assert_eq!(segment_values(&geometry, chunk, part), Ok(expected));
        }
    }
}

#[test]
fn every_chunk_is_proven_and_no_other_bytes_are() {
    let bytes = pattern(2 * CHUNK_BYTES as usize + 5000);
    let manifest = build(&bytes);
    let geometry = *manifest.geometry();
    for chunk in geometry.chunks() {
        let good = Bytes::copy_from_slice(chunk_bytes(&geometry, chunk, &bytes));
        let verified = manifest.verify_chunk(chunk, good.clone()).expect("genuine");
        assert_eq!((verified.index(), verified.bytes()), (chunk, &good));

        let mut altered = good.to_vec();
        altered[good.len() / 2] ^= 1;
        assert_eq!(manifest.check_chunk(chunk, &altered), Err(ChunkError::Forged(chunk)));
        let short = &good[..good.len() - 1];
        assert!(matches!(manifest.check_chunk(chunk, short), Err(ChunkError::Length { .. })));
        altered.push(0);
        assert!(matches!(manifest.check_chunk(chunk, &altered), Err(ChunkError::Length { .. })));
    }
    let first = chunk_bytes(&geometry, ChunkIndex::FIRST, &bytes);
    let second = geometry.chunk(1).expect("three chunks");
    assert_eq!(manifest.check_chunk(second, first), Err(ChunkError::Forged(second)), "a chunk proves its place too");
    let beyond = ChunkIndex::new(3).expect("possible elsewhere");
    assert_eq!(manifest.check_chunk(beyond, first), Err(ChunkError::NoSuchChunk(beyond)));
}

#[test]
fn segments_are_proven_one_by_one_before_the_chunk_is_complete() {
    for len in [40_000, SEGMENT_BYTES * 3 + 99, CHUNK_BYTES + SEGMENT_BYTES * 2 + 500] {
        let bytes = pattern(len as usize);
        let manifest = build(&bytes);
        let geometry = *manifest.geometry();
        for chunk in geometry.chunks() {
            let part = chunk_bytes(&geometry, chunk, &bytes);
            let mut values = segment_values(&geometry, chunk, part).expect("right length").concat();
            let proven = manifest.verify_segment_values(chunk, &values).expect("genuine");
            for raw in geometry.segments_of_chunk(chunk) {
                let segment = geometry.segment(raw).expect("in the item");
                let range = geometry.segment_range(segment);
                let mut piece = bytes[range.start as usize..range.end as usize].to_vec();
                assert_eq!(proven.check_segment(segment, &piece), Ok(()));
                piece[0] ^= 1;
                assert_eq!(proven.check_segment(segment, &piece), Err(ChunkError::ForgedSegment(segment)));
            }
            values[0] ^= 1;
            assert!(manifest.verify_segment_values(chunk, &values).is_err());
            let n_values = values.len() / 32;
            let short = manifest.verify_segment_values(chunk, &values[32..]).err();
            assert_eq!(short, Some(ChunkError::Values { chunk, expected: n_values, found: n_values - 1 }));
            assert!(manifest.verify_segment_values(chunk, &values[1..]).is_err());
        }
    }
}

#[test]
fn a_manifest_that_was_tampered_with_proves_nothing() {
    let bytes = pattern(5 * CHUNK_BYTES as usize);
    let manifest = build(&bytes);
    let (item, len) = (manifest.item(), bytes.len() as u64);
    let good = manifest.values().to_vec();
    assert_eq!(Manifest::prove(item, len, good.clone()), Ok(manifest));

    let mut swapped = good.clone();
    swapped.swap(1, 2);
    assert_eq!(Manifest::prove(item, len, swapped), Err(ManifestError::Forged(item)));
    assert_eq!(Manifest::prove(item, len, good[..4].to_vec()), Err(ManifestError::Count { expected: 5, found: 4 }));
    // One value that is the fold of all: right as a hash, wrong as an item of five chunks.
    let whole = vec![*item.as_bytes()];
    assert!(Manifest::prove(item, CHUNK_BYTES, whole.clone()).is_ok(), "the id alone cannot tell: the length must");
    assert!(Manifest::prove(item, len, whole).is_err());
    assert!(matches!(Manifest::prove(item, 0, Vec::new()), Err(ManifestError::Geometry(_))));
}

#[test]
fn manifest_file_reads_back_and_refuses_everything_else() {
    let manifest = build(&pattern(3 * CHUNK_BYTES as usize + 77));
    let (item, file) = (manifest.item(), manifest.to_bytes());
    assert_eq!(Manifest::from_bytes(item, &file), Ok(manifest));
    for place in 0..file.len() {
        let mut altered = file.clone();
        altered[place] ^= 1;
        // Within one chunk the length is not proven by the values: the catalog entry states it.
        let in_length = (8..16).contains(&place);
        assert!(Manifest::from_bytes(item, &altered).is_err() || in_length, "byte {place}");
    }
    for len in 0..file.len() {
        assert!(Manifest::from_bytes(item, &file[..len]).is_err(), "{len} bytes");
    }
    assert!(Manifest::from_bytes(ItemId::from([0; 32]), &file).is_err());
}

#[test]
fn a_file_that_changes_its_length_gets_no_manifest() {
    let geometry = Geometry::of_sealed(CHUNK_BYTES + 100).expect("possible");
    let mut short = ManifestBuilder::new(geometry);
    short.update(&pattern(CHUNK_BYTES as usize + 99)).expect("not too long");
    let expected = CHUNK_BYTES + 100;
    assert_eq!(short.finish(), Err(BuildError::TooShort { expected, found: expected - 1 }));
    let mut long = ManifestBuilder::new(geometry);
    assert_eq!(long.update(&pattern(CHUNK_BYTES as usize + 101)), Err(BuildError::TooLong { expected }));
}

#[test]
fn building_goes_on_from_recorded_values() {
    let bytes = pattern(3 * CHUNK_BYTES as usize + 9999);
    let whole = build(&bytes);
    let mut resumed = ManifestBuilder::resume(*whole.geometry(), whole.values()[..2].to_vec()).expect("not too many");
    resumed.update(&bytes[2 * CHUNK_BYTES as usize..]).expect("not too long");
    assert_eq!(resumed.finish(), Ok(whole));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn pieces_of_any_size_give_the_same_values(
        len in 17usize..3 * CHUNK_BYTES as usize,
        cuts in prop::collection::vec(1usize..200_000, 1..40),
    ) {
        prop_assume!(Geometry::of_sealed(len as u64).is_ok());
        let bytes = pattern(len);
        let geometry = Geometry::of_sealed(len as u64).expect("assumed");
        let mut builder = ManifestBuilder::new(geometry);
        let mut hasher = ChunkHasher::new(&geometry, ChunkIndex::FIRST).expect("every item has one");
        let (mut at, mut cut) = (0, cuts.iter().cycle());
        while at < len {
            let end = len.min(at + cut.next().expect("endless"));
            builder.update(&bytes[at..end]).expect("not too long");
            hasher.update(&bytes[at.min(geometry.chunk_len(ChunkIndex::FIRST))..end.min(geometry.chunk_len(ChunkIndex::FIRST))]);
            at = end;
        }
        let manifest = builder.finish().expect("complete");
        prop_assert_eq!(&manifest, &build(&bytes));
        prop_assert_eq!(hasher.finalize(), Ok(manifest.values()[0]));
    }
}

/// The values of all subtrees of 2^log KiB, as bao-tree computes them.
fn subtree_values(bytes: &[u8], log: u8) -> BTreeMap<u32, Value> {
    let outboard = PreOrderMemOutboard::create(bytes, BlockSize::from_chunk_log(log));
    let n_kib = (bytes.len() as u64).div_ceil(1024);
    let block = 1u64 << log;
    if n_kib <= block {
        return BTreeMap::from([(0, *outboard.root().as_bytes())]);
    }
    let mut values = BTreeMap::new();
    for node in outboard.tree().pre_order_nodes_iter() {
        let Some((left, right)) = outboard.load(node).expect("in memory") else { continue };
        let (start, end) = (node.chunk_range().start.0, node.chunk_range().end.0);
        let middle = (start + end) / 2;
        if middle - start == block {
            values.insert((start / block) as u32, *left.as_bytes());
        }
        if end.min(n_kib) - middle <= block {
            values.insert((middle / block) as u32, *right.as_bytes());
        }
    }
    values
}
