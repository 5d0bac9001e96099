//! Frames of the long-lived streams of the chunk protocol: known bytes, what is written is read, all else is an error.

use proptest::prelude::*;
use swarm_proto::wire::frames::{AnswererFrame, AskerFrame, FRAME_HEADER_BYTES, MAX_PIECE_BYTES, Urgency};
use swarm_proto::wire::{MAX_REQUEST_BYTES, REQUEST_HEADER_BYTES, WireError};

#[test]
fn frames_have_the_bytes_of_the_specification() {
    let ask = AskerFrame::Ask { number: 0x0102_0304, urgency: Urgency::Preload, len: 42 };
    assert_eq!(ask.encode(), [1, 3, 0, 0, 1, 2, 3, 4, 0, 0, 0, 42]);
    assert_eq!(AskerFrame::Cancel { number: 5 }.encode(), [2, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0]);
    assert_eq!(AnswererFrame::Answer { number: 5 }.encode(), [3, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 16]);
    let piece = AnswererFrame::Piece { number: 5, len: 65_536 };
    assert_eq!(piece.encode(), [4, 0, 0, 0, 0, 0, 0, 5, 0, 1, 0, 0]);
    assert_eq!(AnswererFrame::Withdrawn { number: u32::MAX }.encode(), [5, 0, 0, 0, 255, 255, 255, 255, 0, 0, 0, 0]);
}

#[test]
fn lengths_are_checked_before_anything_is_read_after_them() {
    let ask = |len: u32| {
        let mut bytes = AskerFrame::Ask { number: 1, urgency: Urgency::Queued, len: 42 }.encode();
        bytes[8..].copy_from_slice(&len.to_be_bytes());
        AskerFrame::decode(&bytes)
    };
    assert!(ask(REQUEST_HEADER_BYTES as u32).is_ok() && ask(MAX_REQUEST_BYTES as u32).is_ok());
    assert!(matches!(ask(REQUEST_HEADER_BYTES as u32 - 1), Err(WireError::Body { .. })));
    assert!(matches!(ask(MAX_REQUEST_BYTES as u32 + 1), Err(WireError::TooLarge { field: "request", .. })));
    let piece = |len: u32| {
        let mut bytes = AnswererFrame::Piece { number: 1, len: 1 }.encode();
        bytes[8..].copy_from_slice(&len.to_be_bytes());
        AnswererFrame::decode(&bytes)
    };
    assert!(piece(1).is_ok() && piece(MAX_PIECE_BYTES as u32).is_ok());
    assert_eq!(piece(0), Err(WireError::Zero("piece length")));
    assert!(matches!(piece(17 << 20), Err(WireError::TooLarge { field: "piece", .. })));
    let mut answer = AnswererFrame::Answer { number: 1 }.encode();
    answer[11] = 17;
    assert!(matches!(AnswererFrame::decode(&answer), Err(WireError::Body { .. })));
}

#[test]
fn nobody_sends_what_the_other_side_would() {
    let ask = AskerFrame::Ask { number: 1, urgency: Urgency::Playing, len: 42 }.encode();
    assert_eq!(AnswererFrame::decode(&ask), Err(WireError::Reserved("urgency")));
    assert_eq!(AnswererFrame::decode(&AskerFrame::Cancel { number: 1 }.encode()), Err(WireError::Kind(2)));
    assert_eq!(AskerFrame::decode(&AnswererFrame::Withdrawn { number: 1 }.encode()), Err(WireError::Kind(5)));
}

proptest! {
    #[test]
    fn what_is_written_is_read(number: u32, len in REQUEST_HEADER_BYTES..=MAX_REQUEST_BYTES, piece in 1..=MAX_PIECE_BYTES) {
        for urgency in Urgency::ALL {
            let ask = AskerFrame::Ask { number, urgency, len };
            prop_assert_eq!(AskerFrame::decode(&ask.encode()), Ok(ask));
        }
        let cancel = AskerFrame::Cancel { number };
        prop_assert_eq!(AskerFrame::decode(&cancel.encode()), Ok(cancel));
        let answerers =
            [AnswererFrame::Answer { number }, AnswererFrame::Piece { number, len: piece }, AnswererFrame::Withdrawn { number }];
        for frame in answerers {
            prop_assert_eq!(AnswererFrame::decode(&frame.encode()), Ok(frame));
        }
    }

    #[test]
    fn any_other_bytes_are_an_error_or_mean_exactly_themselves(bytes: [u8; FRAME_HEADER_BYTES]) {
        if let Ok(frame) = AskerFrame::decode(&bytes) {
            prop_assert_eq!(frame.encode(), bytes);
        }
        if let Ok(frame) = AnswererFrame::decode(&bytes) {
            prop_assert_eq!(frame.encode(), bytes);
        }
    }
}
