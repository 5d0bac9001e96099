//! Frames of the chunk protocol and holdings: what is written is read, anything else is an error, nothing is trusted.

use std::collections::BTreeSet;

use bytes::Bytes;
use proptest::prelude::*;
use swarm_proto::bitmap::{Holding, HoldingError, MAX_RUNS};
use swarm_proto::geometry::{CHUNK_BYTES, ChunkIndex, MAX_CHUNKS};
use swarm_proto::id::ItemId;
use swarm_proto::pb::common::ChunkRange;
use swarm_proto::wire::{
    ANSWER_HEADER_BYTES, Answer, AnswerHeader, Ask, MAX_ANSWER_BYTES, MAX_TICKET_BYTES, REQUEST_HEADER_BYTES, Refusal,
    Request, RequestHeader, WireError,
};

fn read_request(frame: &Bytes) -> Result<Request, WireError> {
    let header = frame[..REQUEST_HEADER_BYTES].try_into().expect("the header's length");
    RequestHeader::decode(header)?.with_body(frame.slice(REQUEST_HEADER_BYTES..))
}

fn read_answer(answer: Answer) -> Result<Answer, WireError> {
    let frame = answer.into_frame()?;
    let header = AnswerHeader::decode(&frame.header)?;
    assert!(header.body_len() <= MAX_ANSWER_BYTES);
    assert_eq!(header.values_len(), frame.values.len());
    header.with_body([frame.values, frame.payload].concat().into())
}

#[test]
fn payloads_are_not_copied() {
    let chunk = Bytes::from(vec![7; CHUNK_BYTES as usize]);
    let frame = Answer::Data { segment_values: Bytes::new(), bytes: chunk.clone() }.into_frame().expect("fits");
    assert_eq!(frame.payload.as_ptr(), chunk.as_ptr());
    let read = AnswerHeader::decode(&frame.header).and_then(|header| header.with_body(chunk.clone())).expect("reads");
    assert!(matches!(read, Answer::Data { bytes, .. } if bytes.as_ptr() == chunk.as_ptr()));
}

#[test]
fn a_header_that_lies_about_sizes_is_refused_before_anything_is_allocated() {
    let header = |kind: u8, detail: u8, number: u32, sealed_len: u64| {
        let mut header = [0; ANSWER_HEADER_BYTES];
        header[..4].copy_from_slice(&[1, kind, detail, 0]);
        header[4..8].copy_from_slice(&number.to_be_bytes());
        header[8..].copy_from_slice(&sealed_len.to_be_bytes());
        AnswerHeader::decode(&header)
    };
    assert!(matches!(header(1, 0, CHUNK_BYTES as u32 + 1, 0), Err(WireError::TooLarge { field: "chunk", .. })));
    assert!(matches!(header(1, 17, 100, 0), Err(WireError::TooLarge { .. })));
    assert_eq!(header(1, 0, 0, 0), Err(WireError::Zero("chunk length")));
    assert!(matches!(header(2, 0, u32::MAX, u64::MAX), Err(WireError::Manifest { .. })));
    assert!(matches!(header(2, 0, 2, CHUNK_BYTES), Err(WireError::Manifest { .. })));
    assert_eq!(header(3, 0, MAX_CHUNKS + 1, 0), Err(HoldingError::Chunks(MAX_CHUNKS + 1).into()));
    assert_eq!(header(3, 0, 0, 0), Err(HoldingError::Chunks(0).into()));
    assert_eq!(header(4, 0, 0, 0), Err(WireError::Zero("retry")));
    assert_eq!(header(5, 0, 1, 0), Err(WireError::Reserved("number")));
    assert!(matches!(header(6, 0, 0, 0), Err(WireError::TooLarge { field: "reason", .. })));
    assert!(matches!(header(6, 7, 0, 0), Err(WireError::TooLarge { field: "reason", .. })));
    assert_eq!(header(0, 0, 0, 0), Err(WireError::Kind(0)));
    assert_eq!(header(7, 0, 0, 0), Err(WireError::Kind(7)));
}

#[test]
fn reserved_bits_are_kept_for_later_versions() {
    let good =
        Request { item: ItemId::from([1; 32]), ask: Ask::Manifest, ticket: Bytes::new() }.encode().expect("fits");
    let with = |place: usize, value: u8| {
        let mut frame = good.to_vec();
        frame[place] = value;
        read_request(&frame.into())
    };
    assert_eq!(with(0, 2), Err(WireError::Version(2)));
    assert_eq!(with(1, 0), Err(WireError::Kind(0)));
    assert_eq!(with(1, 4), Err(WireError::Kind(4)));
    assert_eq!(with(2, 1), Err(WireError::Reserved("flags")));
    assert_eq!(with(3, 1), Err(WireError::Reserved("reserved byte")));
    assert_eq!(with(7, 1), Err(WireError::Reserved("chunk index")));
    assert!(matches!(with(40, 0xff), Err(WireError::TooLarge { field: "ticket", .. })));
    assert!(matches!(with(41, 1), Err(WireError::Body { announced: 1, found: 0 })));
}

#[test]
fn frames_that_we_would_refuse_are_not_written_either() {
    let long = Request { item: ItemId::from([1; 32]), ask: Ask::Holding, ticket: vec![0; MAX_TICKET_BYTES + 1].into() };
    assert!(matches!(long.encode(), Err(WireError::TooLarge { .. })));
    let data = |values: usize, bytes: usize| {
        Answer::Data { segment_values: vec![0; values].into(), bytes: vec![0; bytes].into() }.into_frame()
    };
    assert!(data(512, CHUNK_BYTES as usize).is_ok());
    assert!(data(513, 100).is_err() && data(544, 100).is_err() && data(0, 0).is_err());
    assert!(data(0, CHUNK_BYTES as usize + 1).is_err());
    assert!(Answer::Manifest { sealed_len: 100, values: vec![0; 33].into() }.into_frame().is_err());
    assert!(Answer::Busy { retry_ms: 0 }.into_frame().is_err());
}

#[test]
fn the_largest_answers_fit_into_the_limit() {
    let values = Bytes::from(vec![0; MAX_CHUNKS as usize * 32]);
    let sealed_len = u64::from(MAX_CHUNKS) * CHUNK_BYTES;
    let manifest = Answer::Manifest { sealed_len, values };
    assert_eq!(read_answer(manifest.clone()), Ok(manifest));
    let data = Answer::Data { segment_values: vec![1; 512].into(), bytes: vec![2; CHUNK_BYTES as usize].into() };
    assert_eq!(read_answer(data.clone()), Ok(data));
}

#[test]
fn holdings_refuse_what_their_item_does_not_have() {
    assert_eq!(Holding::empty(0), Err(HoldingError::Chunks(0)));
    assert_eq!(Holding::complete(MAX_CHUNKS + 1), Err(HoldingError::Chunks(MAX_CHUNKS + 1)));
    assert_eq!(Holding::from_bits(9, &[0]), Err(HoldingError::Length { n_chunks: 9, found: 1 }));
    assert_eq!(Holding::from_bits(9, &[0, 2]), Err(HoldingError::Beyond { n_chunks: 9, named: 9 }));
    let range = |first, count| ChunkRange { first, count };
    assert_eq!(Holding::from_ranges(9, &[range(8, 2)]), Err(HoldingError::Beyond { n_chunks: 9, named: 9 }));
    assert!(Holding::from_ranges(9, &[range(8, u32::MAX)]).is_err());
    for disorder in [vec![range(1, 0)], vec![range(3, 1), range(1, 1)], vec![range(1, 1), range(2, 1)]] {
        assert_eq!(Holding::from_ranges(9, &disorder), Err(HoldingError::Disorder));
    }
    assert_eq!(Holding::from_ranges(9, &vec![range(0, 1); MAX_RUNS + 1]), Err(HoldingError::Disorder));
    let mut holding = Holding::empty(2).expect("a size");
    assert!(!holding.insert(ChunkIndex::new(2).expect("possible elsewhere")));
}

#[test]
fn a_holding_becomes_a_copy_with_its_last_chunk() {
    let mut holding = Holding::empty(2).expect("a size");
    let (first, second) = (ChunkIndex::FIRST, ChunkIndex::new(1).expect("possible"));
    assert!(holding.insert(second) && !holding.insert(second) && !holding.is_complete());
    assert_eq!(holding.missing().collect::<Vec<_>>(), [first]);
    assert!(holding.insert(first) && holding.is_complete());
    assert_eq!(Ok(&holding), Holding::complete(2).as_ref());
    assert!(!holding.insert(first) && holding.remove(first) && !holding.remove(first));
    assert_eq!((holding.len(), holding.is_empty()), (1, false));
}

fn asks() -> impl Strategy<Value = Ask> {
    let chunk = (0..MAX_CHUNKS, any::<bool>()).prop_map(|(raw, want_segment_values)| Ask::Chunk {
        index: ChunkIndex::new(raw).expect("in range"),
        want_segment_values,
    });
    prop_oneof![Just(Ask::Manifest), Just(Ask::Holding), chunk]
}

fn answers() -> impl Strategy<Value = Answer> {
    let bytes = |len: std::ops::Range<usize>| prop::collection::vec(any::<u8>(), len).prop_map(Bytes::from);
    let refusals = prop::sample::select(vec![
        Refusal::BadTicket,
        Refusal::ExpiredTicket,
        Refusal::OverBudget,
        Refusal::NoSuchChunk,
        Refusal::NotServing,
        Refusal::Banned,
    ]);
    prop_oneof![
        (0usize..=16, bytes(1..2000))
            .prop_map(|(values, bytes)| Answer::Data { segment_values: vec![9; values * 32].into(), bytes }),
        (1u32..50).prop_map(|chunks| Answer::Manifest {
            sealed_len: u64::from(chunks) * CHUNK_BYTES,
            values: vec![8; chunks as usize * 32].into(),
        }),
        sets().prop_map(|(n_chunks, set)| Answer::Holding(holding(n_chunks, &set))),
        (1u32..).prop_map(|retry_ms| Answer::Busy { retry_ms }),
        Just(Answer::NotHeld),
        refusals.prop_map(Answer::Refused),
    ]
}

fn sets() -> impl Strategy<Value = (u32, BTreeSet<u32>)> {
    (1u32..300)
        .prop_flat_map(|n_chunks| (Just(n_chunks), prop::collection::btree_set(0..n_chunks, 0..=n_chunks as usize)))
}

fn holding(n_chunks: u32, set: &BTreeSet<u32>) -> Holding {
    let mut holding = Holding::empty(n_chunks).expect("a size");
    set.iter().filter_map(|raw| ChunkIndex::new(*raw)).for_each(|chunk| assert!(holding.insert(chunk)));
    holding
}

fn set(holding: &Holding) -> BTreeSet<u32> {
    holding.iter().map(ChunkIndex::get).collect()
}

proptest! {
    #[test]
    fn requests_read_back(item: [u8; 32], ask in asks(), ticket in prop::collection::vec(any::<u8>(), 0..=MAX_TICKET_BYTES)) {
        let request = Request { item: item.into(), ask, ticket: ticket.into() };
        prop_assert_eq!(read_request(&request.encode().expect("fits")), Ok(request));
    }

    #[test]
    fn answers_read_back(answer in answers()) {
        prop_assert_eq!(read_answer(answer.clone()), Ok(answer));
    }

    #[test]
    fn any_header_is_read_or_refused_and_never_announces_too_much(
        request: [[u8; 6]; 7],
        mut answer: [u8; ANSWER_HEADER_BYTES],
        plausible: bool,
    ) {
        if plausible {
            answer[0] = 1;
            answer[1] %= 8;
            answer[3] = 0;
        }
        let request = request.as_flattened().try_into().expect("42 bytes");
        if let Ok(header) = RequestHeader::decode(request) {
            prop_assert!(header.body_len() <= MAX_TICKET_BYTES);
        }
        if let Ok(header) = AnswerHeader::decode(&answer) {
            prop_assert!(header.body_len() <= MAX_ANSWER_BYTES);
        }
    }

    #[test]
    fn holdings_are_sets((n_chunks, one) in sets(), other: prop::sample::Index) {
        let two: BTreeSet<u32> = (0..n_chunks).filter(|raw| raw % 7 <= other.index(7) as u32).collect();
        let (mine, theirs) = (holding(n_chunks, &one), holding(n_chunks, &two));
        prop_assert_eq!(set(&mine), one.clone());
        prop_assert_eq!(mine.len() as usize, one.len());
        prop_assert_eq!(set(&mine.union(&theirs)), &one | &two);
        prop_assert_eq!(set(&mine.intersection(&theirs)), &one & &two);
        prop_assert_eq!(set(&mine.difference(&theirs)), &one - &two);
        let missing: BTreeSet<u32> = mine.missing().map(ChunkIndex::get).collect();
        prop_assert_eq!(missing, (0..n_chunks).filter(|raw| !one.contains(raw)).collect::<BTreeSet<_>>());
        prop_assert_eq!(Holding::from_bits(n_chunks, &mine.to_bits()), Ok(mine.clone()));
        prop_assert_eq!(Holding::from_ranges(n_chunks, &mine.to_ranges()), Ok(mine));
    }

    #[test]
    fn a_holding_of_a_larger_item_cannot_smuggle_chunks_in((n_chunks, one) in sets()) {
        let mine = holding(n_chunks, &one);
        let theirs = Holding::complete(n_chunks + 50).expect("a size");
        prop_assert_eq!(mine.union(&theirs), Holding::complete(n_chunks).expect("a size"));
    }
}
