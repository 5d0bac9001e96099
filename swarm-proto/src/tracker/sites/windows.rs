//! The windows of a site as moments: which one is open, until when, and which comes next.

use std::collections::BTreeMap;

use super::{Closed, Date, Site, Verdict, Weekday, Why, Window};
use crate::limit::Limit;
use crate::time::Utc;

/// Windows that follow one another without a gap are one for this many; what lasts longer is asked about again.
const MERGED_MAX: usize = 16;

/// Bytes that have arrived in windows, by when the window began.
pub(super) type Used = BTreeMap<Utc, u64>;

/// A window on one date, as moments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// When it begins.
    pub starts: Utc,
    /// When it is over.
    pub ends: Utc,
    /// What may arrive meanwhile.
    pub rate_bytes_per_sec: Limit<u64>,
    /// What may arrive altogether.
    pub volume_bytes: Limit<u64>,
}

impl Span {
    pub(super) fn covers(&self, at: Utc) -> bool {
        self.starts <= at && at < self.ends
    }

    pub(super) fn has_room(&self, used: &Used) -> bool {
        let used = used.get(&self.starts).copied().unwrap_or(0);
        self.volume_bytes.bound().is_none_or(|volume| used < volume)
    }
}

impl Site {
    /// Whether the site has windows at all.
    pub fn has_windows(&self) -> bool {
        !self.windows.is_empty()
    }

    /// The windows that are open at a moment, the one that began first before the others.
    pub fn spans_at(&self, at: Utc) -> Vec<Span> {
        let mut spans: Vec<Span> = self.spans_near(at).filter(|span| span.covers(at)).collect();
        spans.sort_by_key(|span| (span.starts, span.ends));
        spans
    }

    /// What may arrive at the site now altogether: the most generous window that is open, everything outside windows.
    pub fn rate_at(&self, at: Utc) -> Limit<u64> {
        let generous = |one: Limit<u64>, other: Limit<u64>| match (one, other) {
            (Limit::Of(one), Limit::Of(other)) => Limit::Of(one.max(other)),
            _ => Limit::Unlimited,
        };
        let rates = self.spans_at(at).into_iter().map(|span| span.rate_bytes_per_sec);
        rates.reduce(generous).unwrap_or(Limit::Unlimited)
    }

    /// The next moment after this one at which a window begins or ends.
    pub fn edge_after(&self, at: Utc) -> Option<Utc> {
        let near = self.spans_near(at).flat_map(|span| [span.starts, span.ends]).filter(|edge| *edge > at).min();
        near.or_else(|| self.next_spans(at).first().map(|span| span.starts))
    }

    /// Whether what is kept for windows may be sent.
    pub(super) fn in_windows(&self, at: Utc, used: &Used) -> Verdict {
        if !self.has_windows() {
            return Verdict::Open { until: None };
        }
        let good = |span: &Span| span.has_room(used) && span.rate_bytes_per_sec != Limit::Of(0);
        let covering = self.spans_at(at);
        if let Some(ends) = covering.iter().filter(|span| good(span)).map(|span| span.ends).max() {
            return Verdict::Open { until: Some(self.open_until(ends, &good)) };
        }
        let next = self.next_spans(at).into_iter().find(good);
        let why = match next {
            None => Why::NothingAllowed,
            Some(_) if covering.iter().any(|span| !span.has_room(used)) => Why::UsedUp,
            Some(_) => Why::OutsideWindows,
        };
        Verdict::Closed(Closed { opens: next.map(|span| span.starts), ends: next.map(|span| span.ends), why })
    }

    fn open_until(&self, ends: Utc, good: &impl Fn(&Span) -> bool) -> Utc {
        let mut until = ends;
        for _ in 0..MERGED_MAX {
            let later = self.spans_near(until).filter(|span| span.covers(until) && good(span)).map(|span| span.ends);
            match later.max() {
                Some(later) => until = later,
                None => break,
            }
        }
        until
    }

    /// The windows of the first date on which one begins after this moment that can let something through, in order.
    fn next_spans(&self, at: Utc) -> Vec<Span> {
        // A day of the week that is a holiday each time it comes still comes without one after them all.
        let days = 7 * (self.holidays.len() + 2);
        let mut date = self.zone.local(at).date.previous();
        for _ in 0..days {
            let Some(this) = date else { break };
            let mut spans: Vec<Span> = self
                .windows_on(this)
                .filter(|window| window.is_of_use())
                .filter_map(|window| self.span(this, window))
                .filter(|span| span.starts > at)
                .collect();
            if !spans.is_empty() {
                spans.sort_by_key(|span| (span.starts, span.ends));
                return spans;
            }
            date = this.next();
        }
        Vec::new()
    }

    /// Every window that could be open around a moment. One lasts less than two days; a country may leave out a day.
    fn spans_near(&self, at: Utc) -> impl Iterator<Item = Span> + '_ {
        let today = self.zone.local(at).date;
        let yesterday = today.previous();
        let dates = [yesterday.and_then(Date::previous), yesterday, Some(today), today.next()];
        dates
            .into_iter()
            .flatten()
            .flat_map(move |date| self.windows_on(date).filter_map(move |it| self.span(date, it)))
    }

    fn windows_on(&self, date: Date) -> impl Iterator<Item = &Window> {
        let day: Weekday = self.holidays.get(&date).copied().unwrap_or_else(|| date.weekday());
        self.windows.values().filter(move |window| window.day == day)
    }

    /// None if the clock jumps over all of it.
    fn span(&self, date: Date, window: &Window) -> Option<Span> {
        let last = if window.crosses_midnight() { date.next()? } else { date };
        let (starts, ends) = (self.zone.first(date, window.from)?, self.zone.first(last, window.to)?);
        (starts < ends).then_some(Span {
            starts,
            ends,
            rate_bytes_per_sec: window.rate_bytes_per_sec,
            volume_bytes: window.volume_bytes,
        })
    }
}
