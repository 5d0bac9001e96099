//! Quantities as people write them in a configuration: `"30s"`, `"10 MiB"`, `"2 MiB/s"`, `"unlimited"`.
//!
//! A quantity always carries its unit and reads back as it was written. Zero means zero; only [`Limit::Unlimited`],
//! written out as a word, means that there is no limit.

use std::fmt;
use std::num::ParseIntError;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A length of time, written `"30s"`, `"10m"`, `"1h 30m"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Duration(pub std::time::Duration);

impl Duration {
    /// So many seconds.
    pub const fn from_secs(secs: u64) -> Duration {
        Duration(std::time::Duration::from_secs(secs))
    }

    /// So many milliseconds.
    pub const fn from_millis(millis: u64) -> Duration {
        Duration(std::time::Duration::from_millis(millis))
    }

    /// The same as the standard library has it.
    pub const fn get(self) -> std::time::Duration {
        self.0
    }
}

impl From<Duration> for std::time::Duration {
    fn from(duration: Duration) -> std::time::Duration {
        duration.0
    }
}

impl fmt::Display for Duration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        humantime::format_duration(self.0).fmt(f)
    }
}

impl FromStr for Duration {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Duration, QuantityError> {
        humantime::parse_duration(text.trim()).map(Duration).map_err(|_| QuantityError::new("a duration", "30s"))
    }
}

/// An amount of data, written `"512 B"`, `"10 MiB"`, `"4 GB"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteSize(pub u64);

/// Units of [`ByteSize`], larger first, so that the first one that divides an amount is the shortest way to write it.
const BYTE_UNITS: [(&str, u64); 9] = [
    ("TiB", 1 << 40),
    ("TB", 1_000_000_000_000),
    ("GiB", 1 << 30),
    ("GB", 1_000_000_000),
    ("MiB", 1 << 20),
    ("MB", 1_000_000),
    ("KiB", 1 << 10),
    ("kB", 1_000),
    ("B", 1),
];

impl ByteSize {
    /// So many times 1024 bytes.
    pub const fn kib(n: u64) -> ByteSize {
        ByteSize(n << 10)
    }

    /// So many times 1024 KiB.
    pub const fn mib(n: u64) -> ByteSize {
        ByteSize(n << 20)
    }

    /// So many times 1024 MiB.
    pub const fn gib(n: u64) -> ByteSize {
        ByteSize(n << 30)
    }

    /// The number of bytes.
    pub const fn bytes(self) -> u64 {
        self.0
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (unit, factor) = BYTE_UNITS
            .into_iter()
            .find(|(_, factor)| self.0 >= *factor && self.0.is_multiple_of(*factor))
            .unwrap_or(("B", 1));
        write!(f, "{} {unit}", self.0 / factor)
    }
}

impl FromStr for ByteSize {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<ByteSize, QuantityError> {
        let wrong = || QuantityError::new("a size", "10 MiB");
        let text = text.trim();
        let split = text.find(|c: char| !c.is_ascii_digit() && c != '_').ok_or_else(wrong)?;
        let (number, unit) = text.split_at(split);
        let number: u64 = number.replace('_', "").parse().map_err(|_: ParseIntError| wrong())?;
        let unit = unit.trim();
        let (_, factor) = BYTE_UNITS.into_iter().find(|(name, _)| name.eq_ignore_ascii_case(unit)).ok_or_else(wrong)?;
        number.checked_mul(factor).map(ByteSize).ok_or_else(wrong)
    }
}

/// An amount of data in each second, written `"2 MiB/s"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteRate(pub u64);

impl ByteRate {
    /// The number of bytes in each second.
    pub const fn bytes_per_sec(self) -> u64 {
        self.0
    }
}

impl fmt::Display for ByteRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/s", ByteSize(self.0))
    }
}

impl FromStr for ByteRate {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<ByteRate, QuantityError> {
        let wrong = || QuantityError::new("a rate", "2 MiB/s");
        let size = text.trim().strip_suffix("/s").ok_or_else(wrong)?;
        size.parse().map(|ByteSize(bytes)| ByteRate(bytes)).map_err(|_| wrong())
    }
}

/// At most so much, or as much as there is, which has to be written out as `"unlimited"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Limit<T> {
    /// At most this; nothing at all if it is zero.
    At(T),
    /// No limit.
    Unlimited,
}

impl<T> Limit<T> {
    /// The limit, if there is one.
    pub fn at(self) -> Option<T> {
        match self {
            Limit::At(limit) => Some(limit),
            Limit::Unlimited => None,
        }
    }
}

impl<T: fmt::Display> fmt::Display for Limit<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Limit::At(limit) => limit.fmt(f),
            Limit::Unlimited => f.write_str("unlimited"),
        }
    }
}

impl<T: FromStr<Err = QuantityError>> FromStr for Limit<T> {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Limit<T>, QuantityError> {
        match text.trim() {
            "unlimited" => Ok(Limit::Unlimited),
            text => text
                .parse()
                .map(Limit::At)
                .map_err(|error: QuantityError| QuantityError { or_unlimited: true, ..error }),
        }
    }
}

/// The text is not the quantity that is needed here. Tell the person how one is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QuantityError {
    kind: &'static str,
    example: &'static str,
    or_unlimited: bool,
}

impl QuantityError {
    fn new(kind: &'static str, example: &'static str) -> QuantityError {
        QuantityError { kind, example, or_unlimited: false }
    }
}

impl fmt::Display for QuantityError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "expected {} such as \"{}\"", self.kind, self.example)?;
        if self.or_unlimited { f.write_str(", or \"unlimited\"") } else { Ok(()) }
    }
}

impl std::error::Error for QuantityError {}

/// Reads a quantity from a string, and tells how to write one when it is a bare number.
struct QuantityVisitor<T>(std::marker::PhantomData<T>);

impl<T: FromStr<Err = QuantityError>> de::Visitor<'_> for QuantityVisitor<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match "".parse::<T>() {
            Err(error) => write!(f, "{}", error.to_string().trim_start_matches("expected ")),
            Ok(_) => f.write_str("a quantity with its unit"),
        }
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        text.parse().map_err(|_| E::invalid_value(de::Unexpected::Str(text), &self))
    }
}

macro_rules! serde_as_text {
    ($([$($generics:tt)*] $type:ty),+) => {$(
        impl<$($generics)*> Serialize for $type where $type: fmt::Display {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de, $($generics)*> Deserialize<'de> for $type where $type: FromStr<Err = QuantityError> {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_str(QuantityVisitor(std::marker::PhantomData))
            }
        }
    )+};
}

serde_as_text!([] Duration, [] ByteSize, [] ByteRate, [T] Limit<T>);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn quantities_read_as_they_are_spoken() {
        assert_eq!("30s".parse(), Ok(Duration::from_secs(30)));
        assert_eq!("1h 30m".parse(), Ok(Duration::from_secs(5400)));
        assert_eq!("10 MiB".parse(), Ok(ByteSize::mib(10)));
        assert_eq!("10MiB".parse(), Ok(ByteSize::mib(10)));
        assert_eq!("1_000 kb".parse(), Ok(ByteSize(1_000_000)));
        assert_eq!("2 MiB/s".parse(), Ok(ByteRate(2 << 20)));
        assert_eq!("unlimited".parse(), Ok(Limit::<ByteRate>::Unlimited));
    }

    #[test]
    fn zero_is_zero_and_never_unlimited() {
        assert_eq!("0 B/s".parse(), Ok(Limit::At(ByteRate(0))));
        assert_eq!("0s".parse(), Ok(Duration::from_secs(0)));
    }

    #[test]
    fn quantities_without_unit_are_refused_with_an_example() {
        let refusal = |result: Result<Limit<ByteSize>, QuantityError>| result.unwrap_err().to_string();
        assert_eq!(refusal("10".parse()), "expected a size such as \"10 MiB\", or \"unlimited\"");
        assert!("30".parse::<Duration>().is_err());
        assert!("10 MiB".parse::<ByteRate>().is_err());
        assert!("99999999999999 TiB".parse::<ByteSize>().is_err());
        assert!("-1 B".parse::<ByteSize>().is_err());
        assert!("".parse::<ByteSize>().is_err());
    }

    proptest! {
        #[test]
        fn sizes_and_rates_read_back_as_written(bytes: u64) {
            prop_assert_eq!(ByteSize(bytes).to_string().parse(), Ok(ByteSize(bytes)));
            prop_assert_eq!(ByteRate(bytes).to_string().parse(), Ok(ByteRate(bytes)));
            prop_assert_eq!(Limit::At(ByteSize(bytes)).to_string().parse(), Ok(Limit::At(ByteSize(bytes))));
        }

        #[test]
        fn durations_read_back_as_written(millis in 0u64..10_000_000_000) {
            prop_assert_eq!(Duration::from_millis(millis).to_string().parse(), Ok(Duration::from_millis(millis)));
        }
    }
}
