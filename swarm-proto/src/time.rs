//! Time as the machines see it: two clocks that come in from outside and are never mixed up.
//!
//! [`Mono`] orders events and measures waits; it never jumps and means nothing on another machine. [`Utc`] is the date;
//! it can be wrong and can jump. All arithmetic saturates: a hostile number cannot panic or wrap.

use std::fmt;
use std::ops::Add;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Both clocks, read together by the shell just before it calls a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// For waits and order.
    pub mono: Mono,
    /// For dates.
    pub utc: Utc,
}

impl Now {
    /// Pairs two readings.
    pub const fn new(mono: Mono, utc: Utc) -> Self {
        Self { mono, utc }
    }
}

/// Milliseconds since the program started, or any other fixed moment of this run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Mono(u64);

impl Mono {
    /// The beginning.
    pub const ZERO: Self = Self(0);

    /// So many milliseconds after the beginning.
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis)
    }

    /// Milliseconds since the beginning.
    pub const fn as_millis(self) -> u64 {
        self.0
    }

    /// How long after `earlier` this is; zero when it is not after it.
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Mono {
    type Output = Self;

    fn add(self, wait: Duration) -> Self {
        Self(self.0.saturating_add(millis_of(wait)))
    }
}

/// Milliseconds since 1970-01-01T00:00:00Z, up to the end of the year 9999.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(from = "u64", into = "u64")]
pub struct Utc(u64);

impl Utc {
    /// 1970-01-01T00:00:00Z.
    pub const EPOCH: Self = Self(0);
    /// 9999-12-31T23:59:59.999Z, the last moment that RFC 3339 can write.
    pub const MAX: Self = Self(253_402_300_799_999);

    /// So many milliseconds after the epoch; what lies beyond [`Utc::MAX`] becomes [`Utc::MAX`].
    pub const fn from_millis(millis: u64) -> Self {
        if millis > Self::MAX.0 { Self::MAX } else { Self(millis) }
    }

    /// So many seconds after the epoch, saturating.
    pub const fn from_secs(secs: u64) -> Self {
        Self::from_millis(secs.saturating_mul(1000))
    }

    /// Milliseconds since the epoch.
    pub const fn as_millis(self) -> u64 {
        self.0
    }

    /// Whole seconds since the epoch.
    pub const fn as_secs(self) -> u64 {
        self.0 / 1000
    }

    /// How long after `earlier` this is; zero when it is not after it.
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }

    /// This moment moved back, not before the epoch.
    pub fn minus(self, back: Duration) -> Self {
        Self(self.0.saturating_sub(millis_of(back)))
    }
}

impl Add<Duration> for Utc {
    type Output = Self;

    fn add(self, wait: Duration) -> Self {
        Self::from_millis(self.0.saturating_add(millis_of(wait)))
    }
}

impl From<u64> for Utc {
    fn from(millis: u64) -> Self {
        Self::from_millis(millis)
    }
}

impl From<Utc> for u64 {
    fn from(utc: Utc) -> Self {
        utc.0
    }
}

/// RFC 3339 with milliseconds: `2026-11-22T15:55:36.000Z`.
impl fmt::Display for Utc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (year, month, day) = date_of(self.0 / MILLIS_PER_DAY);
        let in_day = self.0 % MILLIS_PER_DAY;
        let (hours, minutes) = (in_day / 3_600_000, in_day / 60_000 % 60);
        let (seconds, millis) = (in_day / 1000 % 60, in_day % 1000);
        write!(f, "{year:04}-{month:02}-{day:02}T{hours:02}:{minutes:02}:{seconds:02}.{millis:03}Z")
    }
}

/// Why a text is not a moment. Ask for `2026-11-22` or `2026-11-22T15:55:36Z`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a moment is written as 2026-11-22 or 2026-11-22T15:55:36Z (UTC, 1970 to 9999), this is not")]
pub struct UtcError;

/// Reads a date, or a date and time with `Z` and up to three digits of a second's fraction.
impl FromStr for Utc {
    type Err = UtcError;

    fn from_str(text: &str) -> Result<Self, UtcError> {
        let (date, time) = match text.split_once('T') {
            Some((date, time)) => (date, Some(time.strip_suffix('Z').ok_or(UtcError)?)),
            None => (text, None),
        };
        let [year, month, day] = numbers(date, '-', [4, 2, 2])?;
        if year < 1970 || !(1..=12).contains(&month) || day < 1 || day > days_in_month(year, month) {
            return Err(UtcError);
        }
        let midnight = days_before(year, month, day) * MILLIS_PER_DAY;
        let Some(time) = time else { return Ok(Self(midnight)) };

        let (clock, fraction) = time.split_once('.').unwrap_or((time, "0"));
        let [hours, minutes, seconds] = numbers(clock, ':', [2, 2, 2])?;
        if hours > 23 || minutes > 59 || seconds > 59 || !(1..=3).contains(&fraction.len()) {
            return Err(UtcError);
        }
        let millis = number(fraction)? * 10u64.pow(3 - fraction.len() as u32);
        Ok(Self(midnight + hours * 3_600_000 + minutes * 60_000 + seconds * 1000 + millis))
    }
}

const MILLIS_PER_DAY: u64 = 86_400_000;
/// Days of 400 years: the Gregorian calendar repeats after them.
const DAYS_PER_ERA: u64 = 146_097;
/// Days from 0000-03-01 to 1970-01-01. Years counted from March put the leap day last.
const DAYS_TO_EPOCH: u64 = 719_468;

fn millis_of(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Year, month and day of a day since the epoch (Howard Hinnant, "chrono-compatible low-level date algorithms").
fn date_of(days_since_epoch: u64) -> (u64, u64, u64) {
    let days = days_since_epoch + DAYS_TO_EPOCH;
    let (era, day_of_era) = (days / DAYS_PER_ERA, days % DAYS_PER_ERA);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    (year, month, day)
}

/// Days from the epoch to a date.
fn days_before(year: u64, month: u64, day: u64) -> u64 {
    let year_from_march = year - u64::from(month <= 2);
    let (era, year_of_era) = (year_from_march / 400, year_from_march % 400);
    let month_from_march = (month + 9) % 12;
    let day_of_year = (153 * month_from_march + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * DAYS_PER_ERA + day_of_era - DAYS_TO_EPOCH
}

fn days_in_month(year: u64, month: u64) -> u64 {
    let leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    match month {
        2 => 28 + u64::from(leap),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

fn numbers(text: &str, separator: char, widths: [usize; 3]) -> Result<[u64; 3], UtcError> {
    let mut parts = text.split(separator);
    let mut found = [0; 3];
    for (value, width) in found.iter_mut().zip(widths) {
        let part = parts.next().filter(|part| part.len() == width).ok_or(UtcError)?;
        *value = number(part)?;
    }
    if parts.next().is_some() { Err(UtcError) } else { Ok(found) }
}

fn number(digits: &str) -> Result<u64, UtcError> {
    if digits.bytes().all(|byte| byte.is_ascii_digit()) { digits.parse().map_err(|_| UtcError) } else { Err(UtcError) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn known_moments_read_as_in_the_calendar() {
        for (secs, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400, "2000-02-29T00:00:00.000Z"),
            (1_709_251_199, "2024-02-29T23:59:59.000Z"),
            (1_795_362_936, "2026-11-22T15:55:36.000Z"),
            (4_107_542_400, "2100-03-01T00:00:00.000Z"),
        ] {
            assert_eq!(Utc::from_secs(secs).to_string(), text);
        }
        assert_eq!(Utc::MAX.to_string(), "9999-12-31T23:59:59.999Z");
    }

    #[test]
    fn dates_that_do_not_exist_are_refused() {
        for text in [
            "2023-02-29",
            "2100-02-29",
            "2024-13-01",
            "2024-04-31",
            "1969-12-31",
            "2024-1-01",
            "2024-01-01T24:00:00Z",
            "2024-01-01T00:00:00",
            "+024-01-01",
            "",
        ] {
            assert_eq!(text.parse::<Utc>(), Err(UtcError), "{text}");
        }
        assert_eq!("2024-02-29".parse(), Ok(Utc::from_secs(1_709_164_800)));
        assert_eq!("2024-02-29T00:00:00.5Z".parse(), Ok(Utc::from_millis(1_709_164_800_500)));
    }

    #[test]
    fn arithmetic_stops_at_the_ends() {
        assert_eq!(Utc::MAX + Duration::MAX, Utc::MAX);
        assert_eq!(Utc::EPOCH.minus(Duration::from_secs(1)), Utc::EPOCH);
        assert_eq!(Mono::ZERO.since(Mono::from_millis(5)), Duration::ZERO);
        assert_eq!((Mono::from_millis(u64::MAX) + Duration::MAX).as_millis(), u64::MAX);
    }

    proptest! {
        #[test]
        fn every_moment_survives_being_written(millis in 0..=Utc::MAX.0) {
            let moment = Utc::from_millis(millis);
            prop_assert_eq!(moment.to_string().parse(), Ok(moment));
        }
    }
}
