//! What leaves of an item's keys before, or instead of, the whole: a drip's pace, a preview's length.
//!
//! Both are made of whole spans, whose playing time is taken to be the mean one of the title; that is computed here and
//! nowhere else. Both need the commitment to all span keys ([`crate::span_tree`]), which the catalog entry then bears.

use std::time::Duration;

use crate::catalog::Media;
use crate::geometry::Geometry;
use crate::invalid::Invalid;
use crate::pb::common as pb;

/// How much faster than it plays a title's keys may be had. A stretch of a film may need twice its mean bit rate for
/// long, and people watch faster; a box that collects keys instead still takes half as long as watching takes.
const FASTER: u32 = 2;

/// Spans that a device may be ahead of the pace unless its publisher says otherwise: a start, its index, some jumps.
const AHEAD: u32 = 8;

/// Fewest spans that a device may be ahead: what plays, what comes next, and one jump.
pub const MIN_AHEAD: u32 = 4;
/// Most spans that a device may be ahead: a GiB.
pub const MAX_AHEAD: u32 = 64;

/// Longest time that one span may stand for.
const MAX_EVERY: Duration = Duration::from_secs(60 * 60);

/// Shortest and longest preview.
const PREVIEW_LEN: std::ops::RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(24 * 60 * 60);

/// Keys leave span by span while the title plays: at this pace, and so many ahead of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Drip {
    /// The key of one more span may leave each time this has passed.
    every: Duration,
    /// How many may leave at once, after a pause.
    ahead: u32,
}

impl Drip {
    /// Checks a pace.
    pub fn new(every: Duration, ahead: u32) -> Result<Self, Invalid> {
        if !(Duration::from_millis(1)..=MAX_EVERY).contains(&every) {
            return Err(Invalid::new("every_ms", "must be 1 ms to 1 hour"));
        }
        if !(MIN_AHEAD..=MAX_AHEAD).contains(&ahead) {
            return Err(Invalid::new("ahead", format!("must be {MIN_AHEAD} to {MAX_AHEAD}")));
        }
        // Whole milliseconds: what is written down is what is meant.
        Ok(Self { every: Duration::from_millis(every.as_millis() as u64), ahead })
    }

    /// The pace of a title that plays for so long: twice as fast as it plays.
    pub fn of(geometry: &Geometry, playing: Duration) -> Result<Self, Invalid> {
        let every = playing / geometry.n_spans() / FASTER;
        Self::new(every.clamp(Duration::from_millis(1), MAX_EVERY), AHEAD)
    }

    /// The key of one more span may leave each time this has passed.
    pub const fn every(&self) -> Duration {
        self.every
    }

    /// How many spans' keys may leave at once, after a pause.
    pub const fn ahead(&self) -> u32 {
        self.ahead
    }
}

impl From<Drip> for pb::Drip {
    fn from(drip: Drip) -> Self {
        Self { every_ms: drip.every.as_millis() as u64, ahead: drip.ahead }
    }
}

impl TryFrom<pb::Drip> for Drip {
    type Error = Invalid;

    fn try_from(message: pb::Drip) -> Result<Self, Invalid> {
        Self::new(Duration::from_millis(message.every_ms), message.ahead)
    }
}

/// The beginning of a title that anyone of the swarm may watch without paying.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Preview {
    /// For people: how long it plays.
    length: Duration,
    /// Of which spans the keys leave: so many, from the first.
    spans: u32,
}

impl Preview {
    /// Checks a preview; that it is shorter than its title is checked with the title.
    pub fn new(length: Duration, spans: u32) -> Result<Self, Invalid> {
        if !PREVIEW_LEN.contains(&length) {
            return Err(Invalid::new("length_ms", "must be 1 second to 24 hours"));
        }
        if spans == 0 {
            return Err(Invalid::new("spans", "must be at least 1"));
        }
        Ok(Self { length: Duration::from_millis(length.as_millis() as u64), spans })
    }

    /// The spans in which the first `length` of a title lie that plays for so long, at its mean bit rate.
    pub fn of(geometry: &Geometry, playing: Duration, length: Duration) -> Result<Self, Invalid> {
        let (n_spans, playing_ms) = (u128::from(geometry.n_spans()), playing.as_millis().max(1));
        let spans = (n_spans * length.as_millis()).div_ceil(playing_ms).max(1);
        if spans >= n_spans {
            return Err(Invalid::new("preview", "would be all of the title: a key opens 16 MiB at a time"));
        }
        Self::new(length, spans as u32)
    }

    /// For people: how long it plays.
    pub const fn length(&self) -> Duration {
        self.length
    }

    /// Of how many spans the keys leave, from the first.
    pub const fn spans(&self) -> u32 {
        self.spans
    }

    /// How many clear bytes of an item it opens.
    pub fn plain_len(&self, geometry: &Geometry) -> u64 {
        let last = self.spans.checked_sub(1).and_then(|last| geometry.span(last));
        let next = last.map(|last| last.first_segment().get() + crate::geometry::SEGMENTS_PER_SPAN);
        let begin = next.and_then(|next| geometry.segment(next)).map(|next| geometry.segment_plain_range(next).start);
        begin.unwrap_or(geometry.plain_len())
    }
}

impl From<Preview> for pb::Preview {
    fn from(preview: Preview) -> Self {
        Self { length_ms: preview.length.as_millis() as u64, spans: preview.spans }
    }
}

impl TryFrom<pb::Preview> for Preview {
    type Error = Invalid;

    fn try_from(message: pb::Preview) -> Result<Self, Invalid> {
        Self::new(Duration::from_millis(message.length_ms), message.spans)
    }
}

/// How long a title plays: as its publisher says, else what follows from its bit rate; `None` if neither is known.
pub fn playing_time(media: &Media, geometry: &Geometry) -> Option<Duration> {
    let from_rate = || {
        let rate = media.bit_rate.filter(|rate| *rate > 0)?;
        let millis = u128::from(geometry.plain_len()) * 8 * 1000 / u128::from(rate);
        Some(Duration::from_millis(u64::try_from(millis).ok()?))
    };
    media.duration.or_else(from_rate).filter(|playing| *playing >= Duration::from_millis(1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::geometry::{SEGMENT_PLAIN_BYTES, SEGMENTS_PER_SPAN};

    const SPAN: u64 = SEGMENT_PLAIN_BYTES * SEGMENTS_PER_SPAN as u64;
    const MINUTE: Duration = Duration::from_secs(60);

    fn item(spans: u64) -> Geometry {
        Geometry::of_plain(spans * SPAN).expect("fits")
    }

    #[test]
    fn minutes_become_spans_by_the_mean_bit_rate_and_never_the_whole_title() {
        let preview = |minutes, spans| Preview::of(&item(spans), 100 * MINUTE, minutes * MINUTE).map(|it| it.spans());
        assert_eq!(preview(5, 100), Ok(5));
        assert_eq!(preview(5, 90), Ok(5), "what is begun counts");
        assert_eq!(preview(1, 10), Ok(1));
        assert!(preview(99, 10).is_err() && preview(200, 10).is_err() && preview(1, 1).is_err());
        assert_eq!(Preview::new(MINUTE, 3).map(|three| three.plain_len(&item(10))), Ok(3 * SPAN));
        assert_eq!(Preview::new(MINUTE, 3).map(|three| three.plain_len(&item(2))), Ok(2 * SPAN));
    }

    #[test]
    fn drip_runs_twice_as_fast_as_the_film_plays() {
        let drip = Drip::of(&item(100), 100 * MINUTE).expect("a pace");
        assert_eq!((drip.every(), drip.ahead()), (MINUTE / 2, AHEAD));
        assert!(Drip::new(Duration::ZERO, AHEAD).is_err() && Drip::new(MINUTE, 3).is_err());
        assert!(Drip::new(MINUTE, 65).is_err() && Drip::new(61 * MINUTE, 8).is_err());
    }

    #[test]
    fn playing_time_comes_from_the_bit_rate_where_none_is_stated() {
        let media = |duration, bit_rate| Media {
            mime: "video/mp4".to_owned(),
            duration,
            codecs: String::new(),
            picture: None,
            bit_rate,
        };
        let million = Geometry::of_plain(1_000_000).expect("fits");
        assert_eq!(playing_time(&media(None, Some(8_000_000)), &million), Some(Duration::from_secs(1)));
        assert_eq!(playing_time(&media(Some(MINUTE), Some(8_000_000)), &million), Some(MINUTE));
        assert_eq!(playing_time(&media(None, None), &million), None);
    }
}
