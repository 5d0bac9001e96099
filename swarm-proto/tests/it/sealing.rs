//! What was sealed opens, and nothing else does.

use proptest::prelude::*;
use swarm_proto::geometry::{
    CHUNK_BYTES, Geometry, SEGMENT_BYTES, SEGMENT_PLAIN_BYTES, SEGMENTS_PER_SPAN, SegmentIndex, SpanIndex,
};
use swarm_proto::seal::{ContentKey, OpenError, Opener, Released, ReleasedError, SealError, Sealer};

use crate::support::{content_key, pattern, rng, seal};

fn opener(key: &ContentKey, geometry: Geometry) -> Opener {
    Opener::new(Released::Whole(key.clone()), geometry)
}

fn segment_bytes(geometry: &Geometry, segment: SegmentIndex, sealed: &[u8]) -> Vec<u8> {
    let range = geometry.segment_range(segment);
    sealed[range.start as usize..range.end as usize].to_vec()
}

fn open_all(opener: &Opener, sealed: &[u8]) -> Result<Vec<u8>, OpenError> {
    let geometry = *opener.geometry();
    let mut plain = Vec::new();
    for segment in (0..geometry.n_segments()).filter_map(|raw| geometry.segment(raw)) {
        plain.extend_from_slice(opener.open_segment(segment, &mut segment_bytes(&geometry, segment, sealed))?);
    }
    Ok(plain)
}

#[test]
fn a_film_over_several_spans_comes_out_as_it_went_in() {
    let plain = pattern(2 * 16 * CHUNK_BYTES as usize + 12_345);
    let (sealed, manifest) = seal(&content_key(), &plain);
    assert_eq!(manifest.geometry().n_spans(), 3);
    assert_eq!(open_all(&opener(&content_key(), *manifest.geometry()), &sealed), Ok(plain));
}

#[test]
fn sealed_bytes_repeat_nothing_of_the_film() {
    let plain = vec![0; 5 * SEGMENT_BYTES as usize];
    let (sealed, _) = seal(&content_key(), &plain);
    let mut blocks: Vec<&[u8]> = sealed.chunks(32).collect();
    blocks.sort_unstable();
    blocks.dedup();
    assert_eq!(blocks.len(), sealed.len().div_ceil(32), "equal plain text must not give equal blocks");
}

#[test]
fn swapped_repeated_and_foreign_segments_do_not_open() {
    let plain = pattern(4 * SEGMENT_PLAIN_BYTES as usize);
    let (sealed, manifest) = seal(&content_key(), &plain);
    let geometry = *manifest.geometry();
    let opener_here = opener(&content_key(), geometry);
    let segments: Vec<SegmentIndex> = (0..4).filter_map(|raw| geometry.segment(raw)).collect();
    for claimed in &segments {
        for actual in &segments {
            let result = opener_here.open_segment(*claimed, &mut segment_bytes(&geometry, *actual, &sealed)).is_ok();
            assert_eq!(result, claimed == actual, "segment {actual} in place of {claimed}");
        }
    }
    let (foreign, _) = seal(&ContentKey::generate(&mut rng(1)), &plain);
    let mut buf = segment_bytes(&geometry, segments[0], &foreign);
    assert_eq!(opener_here.open_segment(segments[0], &mut buf), Err(OpenError::Forged(segments[0])));
}

#[test]
fn a_segment_of_another_span_does_not_open() {
    let plain = pattern((SEGMENTS_PER_SPAN as usize + 1) * SEGMENT_PLAIN_BYTES as usize);
    let (sealed, manifest) = seal(&content_key(), &plain);
    let geometry = *manifest.geometry();
    let (first, second) = (SegmentIndex::FIRST, SpanIndex::new(1).expect("possible").first_segment());
    let opener = opener(&content_key(), geometry);
    assert!(opener.open_segment(second, &mut segment_bytes(&geometry, second, &sealed)).is_ok());
    assert!(opener.open_segment(second, &mut segment_bytes(&geometry, first, &sealed)).is_err());
}

#[test]
fn a_file_that_lost_or_gained_segments_is_noticed() {
    let plain = pattern(3 * SEGMENT_PLAIN_BYTES as usize);
    let (sealed, _) = seal(&content_key(), &plain);
    // Whole segments cut off: the new last one lacks the last flag.
    let cut = &sealed[..2 * SEGMENT_BYTES as usize];
    let shorter = Geometry::of_sealed(cut.len() as u64).expect("possible");
    let last = shorter.segment(1).expect("two segments");
    assert_eq!(open_all(&opener(&content_key(), shorter), cut), Err(OpenError::Forged(last)));
    // Something added: the old last one has a last flag it should not have.
    let mut more = sealed.clone();
    more.extend_from_slice(&sealed[..100]);
    let longer = Geometry::of_sealed(more.len() as u64).expect("possible");
    let old_last = longer.segment(2).expect("four segments");
    assert_eq!(open_all(&opener(&content_key(), longer), &more), Err(OpenError::Forged(old_last)));
    // Bytes cut off the last segment.
    let cut = &sealed[..sealed.len() - 1];
    let shorter = Geometry::of_sealed(cut.len() as u64).expect("possible");
    assert!(open_all(&opener(&content_key(), shorter), cut).is_err());
}

#[test]
fn segments_of_the_wrong_length_are_refused_before_any_work() {
    let (sealed, manifest) = seal(&content_key(), &pattern(100));
    let opener = opener(&content_key(), *manifest.geometry());
    let wrong = |found| Err(OpenError::Length { segment: SegmentIndex::FIRST, expected: 116, found });
    assert_eq!(opener.open_segment(SegmentIndex::FIRST, &mut sealed[..115].to_vec()), wrong(115));
    assert_eq!(opener.open_segment(SegmentIndex::FIRST, &mut []), wrong(0));
    let beyond = SegmentIndex::new(1).expect("possible");
    assert_eq!(opener.open_segment(beyond, &mut []), Err(OpenError::NoSuchSegment(beyond)));
}

#[test]
fn nothing_clear_is_left_behind_when_a_segment_is_forged() {
    let (mut sealed, manifest) = seal(&content_key(), &[0; 1000]);
    sealed[1015] ^= 1;
    let before = sealed.clone();
    let opened = opener(&content_key(), *manifest.geometry()).open_segment(SegmentIndex::FIRST, &mut sealed).is_ok();
    assert!(!opened);
    assert_eq!(sealed, before, "the tag is checked before anything is decrypted");
}

#[test]
fn a_preview_opens_its_spans_and_no_more() {
    let plain = pattern((SEGMENTS_PER_SPAN as usize * 2 + 1) * SEGMENT_PLAIN_BYTES as usize);
    let (sealed, manifest) = seal(&content_key(), &plain);
    let geometry = *manifest.geometry();
    let keys = content_key().spans(0..1).expect("not empty");
    let secret = Released::Spans(keys).encode();
    let released = Released::decode(&secret, &content_key().commitment()).expect("in form");
    assert_eq!(released.range(&geometry), 0..1);
    let opener = Opener::new(released, geometry);
    for segment in (0..geometry.n_segments()).filter_map(|raw| geometry.segment(raw)) {
        let mut buf = segment_bytes(&geometry, segment, &sealed);
        match opener.open_segment(segment, &mut buf) {
            Ok(clear) => {
                assert_eq!(segment.span(), SpanIndex::FIRST);
                let range = geometry.segment_plain_range(segment);
                assert_eq!(clear, &plain[range.start as usize..range.end as usize]);
            }
            Err(error) => assert_eq!(error, OpenError::NotReleased(segment.span())),
        }
    }
}

#[test]
fn a_key_that_the_publisher_did_not_commit_to_is_not_used() {
    let key = content_key();
    let other = ContentKey::generate(&mut rng(2));
    let secret = Released::Whole(key.clone()).encode();
    assert!(matches!(Released::decode(&secret, &key.commitment()), Ok(Released::Whole(read)) if read == key));
    assert_eq!(Released::decode(&secret, &other.commitment()).err(), Some(ReleasedError::WrongKey));
}

#[test]
fn released_bytes_that_are_no_key_are_refused() {
    let commitment = content_key().commitment();
    let spans = content_key().spans(3..5).map(|keys| Released::Spans(keys).encode()).expect("not empty");
    for bytes in [&[][..], &[1], &[1; 32], &[1; 34], &[3; 33], &spans[..spans.len() - 1], &spans[..12]] {
        assert_eq!(Released::decode(bytes, &commitment).err(), Some(ReleasedError::Format), "{} bytes", bytes.len());
    }
    #[allow(clippy::reversed_empty_ranges, reason = "a mistake of the caller")]
    let refused = [0..0, 5..3, 0..2049, 2048..2049, u32::MAX - 1..u32::MAX];
    assert!(refused.into_iter().all(|range| content_key().spans(range).is_none()));
}

#[test]
fn sealing_goes_on_at_a_span_as_if_nothing_had_happened() {
    let plain = pattern(20 * CHUNK_BYTES as usize);
    let (sealed, manifest) = seal(&content_key(), &plain);
    let span = SpanIndex::new(1).expect("possible");
    let mut sealer = Sealer::resume_at(content_key(), *manifest.geometry(), span);
    assert_eq!(sealer.plain_position(), u64::from(SEGMENTS_PER_SPAN) * SEGMENT_PLAIN_BYTES);
    let mut rest = Vec::new();
    sealer.push(&plain[sealer.plain_position() as usize..], &mut rest).expect("not too long");
    sealer.finish().expect("complete");
    assert_eq!(rest, sealed[16 * CHUNK_BYTES as usize..]);
}

#[test]
fn a_file_that_grows_or_shrinks_while_it_is_read_is_not_sealed() {
    let geometry = Geometry::of_plain(1000).expect("fits");
    let mut grown = Sealer::new(content_key(), geometry);
    assert_eq!(grown.push(&[0; 1001], &mut Vec::new()), Err(SealError::Grew { expected: 1000 }));
    let mut shrunk = Sealer::new(content_key(), geometry);
    shrunk.push(&[0; 999], &mut Vec::new()).expect("not too long");
    assert_eq!(shrunk.finish(), Err(SealError::Shrank { expected: 1000, found: 999 }));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn files_of_any_length_read_in_any_pieces_come_out_whole(
        len in 1usize..400_000,
        cuts in prop::collection::vec(1usize..150_000, 1..20),
    ) {
        let plain = pattern(len);
        let geometry = Geometry::of_plain(len as u64).expect("fits");
        let mut sealer = Sealer::new(content_key(), geometry);
        let (mut sealed, mut at, mut cut) = (Vec::new(), 0, cuts.iter().cycle());
        while at < len {
            let end = len.min(at + cut.next().expect("endless"));
            sealer.push(&plain[at..end], &mut sealed).expect("not too long");
            prop_assert_eq!(sealer.plain_position(), end as u64);
            at = end;
        }
        sealer.finish().expect("complete");
        prop_assert_eq!(&sealed, &seal(&content_key(), &plain).0);
        prop_assert_eq!(open_all(&opener(&content_key(), geometry), &sealed), Ok(plain));
    }

    #[test]
    fn any_flipped_bit_is_noticed(len in 1usize..200_000, place: prop::sample::Index, bit in 0u8..8) {
        let (mut sealed, manifest) = seal(&content_key(), &pattern(len));
        let place = place.index(sealed.len());
        sealed[place] ^= 1 << bit;
        prop_assert!(open_all(&opener(&content_key(), *manifest.geometry()), &sealed).is_err());
    }
}
