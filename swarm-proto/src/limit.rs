//! A bound, or "unlimited" said aloud.
//!
//! Zero is never a limit and absence is never permission: every message that carries a limit must carry it in one of
//! its two forms, and a bound of zero is refused where it enters.

use std::fmt;
use std::time::Duration;

use crate::invalid::{Invalid, positive};
use crate::pb::common as pb;
use crate::time::Utc;

/// Longest duration that a message may state: 100 years.
pub const MAX_DURATION_MS: u64 = 100 * 365 * 86_400_000;

/// A bound on something, or the word that there is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Limit<T> {
    /// Up to here.
    Of(T),
    /// No bound.
    Unlimited,
}

impl<T> Limit<T> {
    /// The bound, if there is one.
    pub fn bound(self) -> Option<T> {
        match self {
            Self::Of(bound) => Some(bound),
            Self::Unlimited => None,
        }
    }

    /// Converts the bound.
    pub fn map<U>(self, convert: impl FnOnce(T) -> U) -> Limit<U> {
        match self {
            Self::Of(bound) => Limit::Of(convert(bound)),
            Self::Unlimited => Limit::Unlimited,
        }
    }

    /// True when nothing is bounded.
    pub const fn is_unlimited(&self) -> bool {
        matches!(self, Self::Unlimited)
    }
}

impl<T: fmt::Display> fmt::Display for Limit<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Of(bound) => bound.fmt(f),
            Self::Unlimited => f.write_str("unlimited"),
        }
    }
}

impl From<Limit<Duration>> for pb::DurationLimit {
    fn from(limit: Limit<Duration>) -> Self {
        use pb::duration_limit::Limit as Form;
        let limit = match limit {
            Limit::Of(duration) => Form::Millis(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)),
            Limit::Unlimited => Form::Unlimited(pb::Unlimited {}),
        };
        Self { limit: Some(limit) }
    }
}

impl From<Limit<Utc>> for pb::MomentLimit {
    fn from(limit: Limit<Utc>) -> Self {
        use pb::moment_limit::Limit as Form;
        let limit = match limit {
            Limit::Of(moment) => Form::UtcMs(moment.as_millis()),
            Limit::Unlimited => Form::Unlimited(pb::Unlimited {}),
        };
        Self { limit: Some(limit) }
    }
}

impl From<Limit<u64>> for pb::BytesLimit {
    fn from(limit: Limit<u64>) -> Self {
        use pb::bytes_limit::Limit as Form;
        let limit = match limit {
            Limit::Of(bytes) => Form::Bytes(bytes),
            Limit::Unlimited => Form::Unlimited(pb::Unlimited {}),
        };
        Self { limit: Some(limit) }
    }
}

/// Reads a duration that must be stated.
pub(crate) fn duration(field: &'static str, message: Option<pb::DurationLimit>) -> Result<Limit<Duration>, Invalid> {
    use pb::duration_limit::Limit as Form;
    match message.and_then(|message| message.limit) {
        None => Err(unstated(field)),
        Some(Form::Unlimited(_)) => Ok(Limit::Unlimited),
        Some(Form::Millis(millis)) if millis > MAX_DURATION_MS => {
            Err(Invalid::new(field, "is longer than 100 years; say unlimited"))
        }
        Some(Form::Millis(millis)) => Ok(Limit::Of(Duration::from_millis(positive(field, millis)?))),
    }
}

/// Reads a moment that must be stated.
pub(crate) fn moment(field: &'static str, message: Option<pb::MomentLimit>) -> Result<Limit<Utc>, Invalid> {
    use pb::moment_limit::Limit as Form;
    match message.and_then(|message| message.limit) {
        None => Err(unstated(field)),
        Some(Form::Unlimited(_)) => Ok(Limit::Unlimited),
        Some(Form::UtcMs(millis)) => utc(field, millis).map(Limit::Of),
    }
}

/// Reads a date that must be stated and must exist in our calendar.
pub(crate) fn utc(field: &'static str, millis: u64) -> Result<Utc, Invalid> {
    let moment = Utc::from_millis(positive(field, millis)?);
    if moment.as_millis() == millis { Ok(moment) } else { Err(Invalid::new(field, "lies after the year 9999")) }
}

fn unstated(field: &'static str) -> Invalid {
    Invalid::new(field, "must be stated: a limit of at least 1, or unlimited")
}
