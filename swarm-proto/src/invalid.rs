//! The error of everything that enters from outside: which field breaks which rule.
//!
//! One type for all messages, so that a shell can pass it on as it stands (`InvalidArgument`, a line in a log, a hint
//! on a command line). Says nothing about who sent the message: the caller knows.

use std::borrow::Cow;
use std::fmt::Display;

/// A field that breaks a rule of its message.
///
/// Refuse the whole message and tell its sender; nothing of it may be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("field {field}: {why}")]
pub struct Invalid {
    /// Where, as in the `.proto` file, for example `offers[2].price.currency`.
    pub field: Cow<'static, str>,
    /// Which rule, for people.
    pub why: Cow<'static, str>,
}

impl Invalid {
    /// Names a field and the rule it breaks.
    pub fn new(field: impl Into<Cow<'static, str>>, why: impl Into<Cow<'static, str>>) -> Self {
        Self { field: field.into(), why: why.into() }
    }

    /// Puts the name of the enclosing field in front.
    pub fn inside(self, outer: impl Display) -> Self {
        Self { field: format!("{outer}.{}", self.field).into(), why: self.why }
    }
}

/// Turns raw bytes into an id, or names the field.
pub(crate) fn id<'a, T>(field: &'static str, bytes: &'a [u8]) -> Result<T, Invalid>
where
    T: TryFrom<&'a [u8]>,
    T::Error: Display,
{
    T::try_from(bytes).map_err(|error| Invalid::new(field, error.to_string()))
}

/// Unwraps a message field that must be there.
pub(crate) fn present<T>(field: &'static str, value: Option<T>) -> Result<T, Invalid> {
    value.ok_or_else(|| Invalid::new(field, "is missing"))
}

/// Refuses zero where zero would mean nothing.
pub(crate) fn positive(field: &'static str, value: u64) -> Result<u64, Invalid> {
    if value == 0 { Err(Invalid::new(field, "must be at least 1")) } else { Ok(value) }
}
