//! Which bytes a player asks for (RFC 9110, section 14): one range, or everything.

use std::ops::Range;

/// What is to be sent of a body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Asked {
    /// All of it: no range was asked for, or one that is not understood, or several at once.
    Whole,
    /// These bytes; never empty.
    Part(Range<u64>),
    /// A range that begins behind the end.
    Beyond,
}

/// Reads the value of a `Range` header for a body of `len` bytes (at least one).
pub(super) fn asked(header: &str, len: u64) -> Asked {
    let Some((unit, set)) = header.split_once('=') else { return Asked::Whole };
    let Some((first, last)) = set.trim().split_once('-') else { return Asked::Whole };
    if !unit.trim().eq_ignore_ascii_case("bytes") || set.contains(',') {
        return Asked::Whole;
    }
    match (number(first), number(last)) {
        (Some(Some(first)), Some(Some(last))) if last < first => Asked::Whole,
        (Some(Some(first)), Some(last)) if first < len => {
            Asked::Part(first..last.map_or(len, |last| last.saturating_add(1).min(len)))
        }
        (Some(Some(_)), Some(_)) | (Some(None), Some(Some(0))) => Asked::Beyond,
        (Some(None), Some(Some(suffix))) => Asked::Part(len.saturating_sub(suffix)..len),
        _ => Asked::Whole,
    }
}

/// Nothing, a number (as large as it gets if it is larger than any file), or no sense.
fn number(text: &str) -> Option<Option<u64>> {
    let text = text.trim();
    if text.is_empty() {
        return Some(None);
    }
    text.bytes().all(|digit| digit.is_ascii_digit()).then(|| Some(text.parse().unwrap_or(u64::MAX)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ranges_are_read_as_players_write_them() {
        assert_eq!(asked("bytes=0-", 10), Asked::Part(0..10));
        assert_eq!(asked("bytes=3-5", 10), Asked::Part(3..6));
        assert_eq!(asked("bytes=3-500", 10), Asked::Part(3..10));
        assert_eq!(asked("bytes=-4", 10), Asked::Part(6..10));
        assert_eq!(asked("bytes=-40", 10), Asked::Part(0..10));
        assert_eq!(asked("Bytes = 9-9", 10), Asked::Part(9..10));
        assert_eq!(asked("bytes=0-99999999999999999999999", 10), Asked::Part(0..10));
    }

    #[test]
    fn range_behind_the_end_cannot_be_had() {
        assert_eq!(asked("bytes=10-", 10), Asked::Beyond);
        assert_eq!(asked("bytes=10-20", 10), Asked::Beyond);
        assert_eq!(asked("bytes=-0", 10), Asked::Beyond);
    }

    #[test]
    fn what_makes_no_sense_is_ignored() {
        for header in
            ["", "bytes", "bytes=", "bytes=-", "bytes=5-3", "bytes=a-b", "bytes=1-2,4-5", "lines=1-2", "bytes=+1-2"]
        {
            assert_eq!(asked(header, 10), Asked::Whole, "{header}");
        }
    }

    proptest! {
        #[test]
        fn part_is_never_empty_and_lies_inside(header in "bytes=[0-9]{0,4}-[0-9]{0,4}", len in 1..5_000_u64) {
            if let Asked::Part(part) = asked(&header, len) {
                prop_assert!(part.start < part.end && part.end <= len);
            }
        }
    }
}
