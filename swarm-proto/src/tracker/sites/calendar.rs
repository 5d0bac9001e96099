//! Local time: zones, dates, weekdays, times of day, and the moments they mean.
//!
//! The one rule for clocks that are moved: a time of day means the first moment of its date at which the local clock
//! shows that time or a later one. So what lies in the hour that spring leaves out happens when the clock jumps over
//! it, and what lies in the hour that autumn repeats happens the first time. The zones are those that come with the
//! program: two trackers of one version agree, whatever is installed where they run.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use jiff::civil;
use jiff::tz::{TimeZone, TimeZoneDatabase};

use crate::time::Utc;

/// Longest name of a zone that is looked up; the longest there is has 32 bytes.
const MAX_ZONE_BYTES: usize = 64;

/// Seconds of a day on a clock that nobody moves.
const DAY_SECS: u32 = 86_400;

/// Why a text is not the zone, date, weekday or time of day it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CalendarError {
    /// Ask for a name of the time zone database.
    #[error("a time zone is named as in the IANA database, such as Europe/Berlin; there is no {0:?}")]
    Zone(String),
    /// Ask again.
    #[error("a date is written as 2026-12-24, this is not")]
    Date,
    /// Ask again.
    #[error("a weekday is one of mon, tue, wed, thu, fri, sat, sun, this is not")]
    Weekday,
    /// Ask again.
    #[error("a time of day is written as 01:00 or 01:00:30, 24:00 being the end of the day, this is not")]
    TimeOfDay,
}

/// A time zone of the IANA database.
#[derive(Clone, PartialEq, Eq)]
pub struct Zone(TimeZone);

impl Zone {
    /// The zone of this name.
    pub fn named(name: &str) -> Result<Zone, CalendarError> {
        let unknown = || CalendarError::Zone(name.chars().take(MAX_ZONE_BYTES).collect());
        if name.is_empty() || name.len() > MAX_ZONE_BYTES {
            return Err(unknown());
        }
        let zone = TimeZoneDatabase::bundled().get(name).map_err(|_| unknown())?;
        if zone.iana_name().is_some() { Ok(Zone(zone)) } else { Err(unknown()) }
    }

    /// The zone that needs no rules.
    pub fn utc() -> Zone {
        Zone(TimeZone::UTC)
    }

    /// Its name in the database.
    pub fn name(&self) -> &str {
        self.0.iana_name().unwrap_or("UTC")
    }

    /// What the local clock shows at a moment.
    pub fn local(&self, at: Utc) -> Local {
        let shown = self.0.to_datetime(timestamp(at));
        let secs = 3_600 * u32::from(shown.hour().unsigned_abs())
            + 60 * u32::from(shown.minute().unsigned_abs())
            + u32::from(shown.second().unsigned_abs());
        Local { date: Date(shown.date()), time: TimeOfDay(secs) }
    }

    /// The first moment of a date at which the local clock shows this time or a later one; none outside the years that
    /// [`Utc`] can say.
    pub fn first(&self, date: Date, time: TimeOfDay) -> Option<Utc> {
        let (date, secs) = match time.0 {
            DAY_SECS => (date.next()?, 0),
            secs => (date, secs),
        };
        let at = |secs: u32| i8::try_from(secs).ok();
        let clock = civil::Time::new(at(secs / 3_600)?, at(secs / 60 % 60)?, at(secs % 60)?, 0).ok()?;
        let shown = self.0.to_ambiguous_timestamp(date.0.to_datetime(clock));
        let skipped = matches!(shown.offset(), jiff::tz::AmbiguousOffset::Gap { .. });
        // Of a time that comes twice this is the first; of one that never comes it is a moment before the jump.
        let earlier = shown.earlier().ok()?;
        let moment = match skipped {
            true => self.0.following(earlier).next()?.timestamp(),
            false => earlier,
        };
        let millis = u64::try_from(moment.as_millisecond()).ok()?;
        (millis <= Utc::MAX.as_millis()).then(|| Utc::from_millis(millis))
    }
}

impl fmt::Debug for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Zone({})", self.name())
    }
}

impl fmt::Display for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Zone {
    type Err = CalendarError;

    fn from_str(name: &str) -> Result<Zone, CalendarError> {
        Zone::named(name)
    }
}

/// What a clock on the wall shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Local {
    /// The day.
    pub date: Date,
    /// The time on that day.
    pub time: TimeOfDay,
}

/// A day of the calendar, wherever it is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Date(civil::Date);

impl Date {
    /// A day by its numbers; none if the calendar has no such day.
    pub fn new(year: i16, month: i8, day: i8) -> Option<Date> {
        civil::Date::new(year, month, day).ok().map(Date)
    }

    /// The day after.
    pub fn next(self) -> Option<Date> {
        self.0.tomorrow().ok().map(Date)
    }

    /// The day before.
    pub fn previous(self) -> Option<Date> {
        self.0.yesterday().ok().map(Date)
    }

    /// Its day of the month and the month, January being 1.
    pub(super) fn day_and_month(self) -> (u8, u8) {
        (self.0.day().unsigned_abs(), self.0.month().unsigned_abs())
    }

    /// Which day of the week it is.
    pub fn weekday(self) -> Weekday {
        Weekday::ALL[usize::from(self.0.weekday().to_monday_zero_offset().unsigned_abs())]
    }
}

impl fmt::Debug for Date {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// As in `2026-12-24`.
impl fmt::Display for Date {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04}-{:02}-{:02}", self.0.year(), self.0.month(), self.0.day())
    }
}

impl FromStr for Date {
    type Err = CalendarError;

    fn from_str(text: &str) -> Result<Date, CalendarError> {
        let mut parts = text.split('-');
        let mut next = |digits: usize| -> Option<i16> {
            let part = parts.next().filter(|it| it.len() == digits && it.bytes().all(|byte| byte.is_ascii_digit()))?;
            part.parse().ok()
        };
        let (year, month, day) = (next(4), next(2), next(2));
        let read = || Date::new(year?, i8::try_from(month?).ok()?, i8::try_from(day?).ok()?);
        let date = read().ok_or(CalendarError::Date)?;
        if parts.next().is_none() { Ok(date) } else { Err(CalendarError::Date) }
    }
}

/// A day of the week.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs, reason = "they say it themselves")]
pub enum Weekday {
    Monday,
    Tuesday,
    Wednesday,
    Thursday,
    Friday,
    Saturday,
    Sunday,
}

impl Weekday {
    /// All of them, as a week goes.
    pub const ALL: [Weekday; 7] = [
        Weekday::Monday,
        Weekday::Tuesday,
        Weekday::Wednesday,
        Weekday::Thursday,
        Weekday::Friday,
        Weekday::Saturday,
        Weekday::Sunday,
    ];

    /// Its place in the week, Monday being 0.
    pub fn number(self) -> u32 {
        self as u32
    }

    /// The day of this place in the week, Monday being 0.
    pub fn of_number(number: u32) -> Option<Weekday> {
        Weekday::ALL.get(usize::try_from(number).ok()?).copied()
    }

    /// Its three letters.
    pub fn short(self) -> &'static str {
        ["mon", "tue", "wed", "thu", "fri", "sat", "sun"][self as usize]
    }
}

impl fmt::Display for Weekday {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.short())
    }
}

impl FromStr for Weekday {
    type Err = CalendarError;

    fn from_str(text: &str) -> Result<Weekday, CalendarError> {
        let found = Weekday::ALL.into_iter().find(|day| day.short().eq_ignore_ascii_case(text));
        found.ok_or(CalendarError::Weekday)
    }
}

/// A time of day to the second; 24:00 is the end of the day.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct TimeOfDay(u32);

impl TimeOfDay {
    /// When a day begins.
    pub const MIDNIGHT: TimeOfDay = TimeOfDay(0);
    /// When a day ends.
    pub const END: TimeOfDay = TimeOfDay(DAY_SECS);

    /// So many seconds after midnight; none beyond the end of the day.
    pub fn from_secs(secs: u32) -> Option<TimeOfDay> {
        (secs <= DAY_SECS).then_some(TimeOfDay(secs))
    }

    /// Seconds after midnight.
    pub fn as_secs(self) -> u32 {
        self.0
    }

    /// The hour it lies in.
    pub fn hour(self) -> u32 {
        self.0 / 3_600
    }
}

impl fmt::Debug for TimeOfDay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// As in `01:00`, with the seconds if there are some.
impl fmt::Display for TimeOfDay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02}:{:02}", self.0 / 3_600, self.0 / 60 % 60)?;
        match self.0 % 60 {
            0 => Ok(()),
            secs => write!(f, ":{secs:02}"),
        }
    }
}

impl FromStr for TimeOfDay {
    type Err = CalendarError;

    fn from_str(text: &str) -> Result<TimeOfDay, CalendarError> {
        let two = |part: &str| match part.as_bytes() {
            [tens @ b'0'..=b'9', ones @ b'0'..=b'9'] => Some(u32::from(tens - b'0') * 10 + u32::from(ones - b'0')),
            _ => None,
        };
        let parts: Option<Vec<u32>> = text.splitn(4, ':').map(two).collect();
        let secs = match parts.as_deref() {
            Some([hours, minutes]) if *minutes < 60 => hours * 3_600 + minutes * 60,
            Some([hours, minutes, seconds]) if *minutes < 60 && *seconds < 60 => hours * 3_600 + minutes * 60 + seconds,
            _ => return Err(CalendarError::TimeOfDay),
        };
        TimeOfDay::from_secs(secs).ok_or(CalendarError::TimeOfDay)
    }
}

fn timestamp(at: Utc) -> Timestamp {
    let millis = i64::try_from(at.as_millis()).expect("the year 9999 fits");
    Timestamp::from_millisecond(millis).expect("the year 9999 is the last of both calendars")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn first(zone: &str, date: &str, time: &str) -> String {
        let zone = Zone::named(zone).unwrap();
        zone.first(date.parse().unwrap(), time.parse().unwrap()).unwrap().to_string()
    }

    #[test]
    fn hour_that_spring_leaves_out_happens_when_the_clock_jumps() {
        assert_eq!(first("Europe/Berlin", "2026-03-29", "02:00"), "2026-03-29T01:00:00.000Z");
        assert_eq!(first("Europe/Berlin", "2026-03-29", "02:59:59"), "2026-03-29T01:00:00.000Z");
        assert_eq!(first("Europe/Berlin", "2026-03-29", "03:00"), "2026-03-29T01:00:00.000Z");
        assert_eq!(first("Europe/Berlin", "2026-03-29", "01:59:59"), "2026-03-29T00:59:59.000Z");
        assert_eq!(first("America/New_York", "2026-03-08", "02:30"), "2026-03-08T07:00:00.000Z");
    }

    #[test]
    fn hour_that_autumn_repeats_happens_the_first_time() {
        assert_eq!(first("Europe/Berlin", "2026-10-25", "02:30"), "2026-10-25T00:30:00.000Z");
        assert_eq!(first("Europe/Berlin", "2026-10-25", "03:00"), "2026-10-25T02:00:00.000Z");
        assert_eq!(first("America/New_York", "2026-11-01", "01:30"), "2026-11-01T05:30:00.000Z");
    }

    #[test]
    fn day_without_a_midnight_begins_at_its_first_hour() {
        assert_eq!(first("Africa/Cairo", "2026-04-24", "00:00"), "2026-04-23T22:00:00.000Z");
        assert_eq!(first("Africa/Cairo", "2026-04-23", "24:00"), "2026-04-23T22:00:00.000Z");
    }

    #[test]
    fn day_that_a_country_left_out_is_over_when_it_begins() {
        let begins = first("Pacific/Apia", "2011-12-30", "00:00");
        assert_eq!(begins, first("Pacific/Apia", "2011-12-30", "24:00"));
        assert_eq!(begins, "2011-12-30T10:00:00.000Z");
    }

    #[test]
    fn clocks_show_local_time() {
        let zone = Zone::named("Asia/Kathmandu").unwrap();
        let shown = zone.local("2026-11-22T19:07:56.500Z".parse().unwrap());
        assert_eq!((shown.date.to_string(), shown.time.to_string()), ("2026-11-23".to_owned(), "00:52:56".to_owned()));
        assert_eq!(shown.date.weekday(), Weekday::Monday);
    }

    #[test]
    fn whatever_is_not_a_time_is_refused() {
        for bad in ["", "1:00", "01", "24:01", "25:00", "01:60", "01:00:60", "01:00:00:00", "+1:00", "a:b"] {
            assert_eq!(bad.parse::<TimeOfDay>(), Err(CalendarError::TimeOfDay), "{bad}");
        }
        for bad in ["", "2026-2-1", "2026-02-30", "2026-13-01", "2026-01-01-", "-026-01-01", "2026-01"] {
            assert_eq!(bad.parse::<Date>(), Err(CalendarError::Date), "{bad}");
        }
        for bad in ["", "Nowhere/Else", "../etc/passwd", &"x".repeat(65)] {
            assert!(Zone::named(bad).is_err(), "{bad}");
        }
        assert_eq!("FRI".parse(), Ok(Weekday::Friday));
        assert_eq!("friday".parse::<Weekday>(), Err(CalendarError::Weekday));
    }

    #[test]
    fn times_are_written_as_they_are_read() {
        for text in ["00:00", "01:00", "23:59:59", "24:00"] {
            assert_eq!(text.parse::<TimeOfDay>().unwrap().to_string(), text);
        }
        assert_eq!("2028-02-29".parse::<Date>().unwrap().to_string(), "2028-02-29");
    }
}
