//! The account's own bill: what a household owes to its ISP for titles, month by month.
//!
//! An account has a bill only when the operator has set a limit for it, and owes at most that much at a time: the sum
//! of all months that are not closed. A month is closed once, when it is over, and never changes afterwards; what goes
//! back later is a credit in the month in which it goes back. Amounts are whole minor units of the limit's currency.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::catalog::{Currency, Money};
use crate::id::OrderId;
use crate::invalid::Invalid;
use crate::time::Utc;

/// A month of the calendar, in UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Month {
    year: u16,
    month: u8,
}

impl Month {
    /// The month of a moment.
    pub fn of(at: Utc) -> Self {
        // A moment as text begins with its month: 2026-11-…
        at.to_string()[..7].parse().expect("a moment is in a month")
    }

    /// Whether the month is over.
    pub fn is_over(self, now: Utc) -> bool {
        self < Self::of(now)
    }
}

impl FromStr for Month {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let number = |digits: &str| digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok())?;
        let parsed = match text.split_once('-') {
            Some((year, month)) if year.len() == 4 && month.len() == 2 => number(year).zip(number(month)),
            _ => None,
        };
        match parsed {
            Some((year, month @ 1..=12)) if year >= 1970 => Ok(Self { year, month: month as u8 }),
            _ => Err(Invalid::new("month", "must be a year and a month, such as 2026-11")),
        }
    }
}

impl fmt::Display for Month {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04}-{:02}", self.year, self.month)
    }
}

impl Serialize for Month {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Month {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// One line of a bill.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Line {
    /// When.
    pub at: Utc,
    /// For which order.
    pub order: OrderId,
    /// Owed or given back.
    pub what: Entry,
}

/// What a line says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entry {
    /// The price of an order.
    Charge(u64),
    /// What went back.
    Credit(u64),
}

/// What one account owes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bill {
    limit: Limit,
    months: BTreeMap<Month, Vec<Line>>,
}

/// The most that an account may owe; zero means nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    /// In the minor unit of the currency.
    pub minor: u64,
    /// Of what.
    pub currency: Currency,
}

impl Bill {
    pub(super) const fn new(limit: Limit) -> Self {
        Self { limit, months: BTreeMap::new() }
    }

    /// The most that may be owed.
    pub const fn limit(&self) -> Limit {
        self.limit
    }

    /// The lines of a month, as they were written.
    pub fn lines(&self, month: Month) -> &[Line] {
        self.months.get(&month).map_or(&[], Vec::as_slice)
    }

    /// What is owed in the months after this one, the last that is closed.
    pub fn owed_after(&self, closed: Option<Month>) -> u64 {
        let open = self.months.iter().filter(|(month, _)| Some(**month) > closed);
        let lines = open.flat_map(|(_, lines)| lines);
        let (charges, credits) = lines.fold((0u64, 0u64), |(charges, credits), line| match line.what {
            Entry::Charge(minor) => (charges.saturating_add(minor), credits),
            Entry::Credit(minor) => (charges, credits.saturating_add(minor)),
        });
        charges.saturating_sub(credits)
    }

    /// Whether this price can still be owed.
    pub fn has_room(&self, price: &Money, closed: Option<Month>) -> bool {
        let owed = self.owed_after(closed).checked_add(price.minor);
        price.currency == self.limit.currency && owed.is_some_and(|owed| owed <= self.limit.minor)
    }

    pub(super) const fn set_limit(&mut self, limit: Limit) {
        self.limit = limit;
    }

    pub(super) fn write(&mut self, line: Line) {
        self.months.entry(Month::of(line.at)).or_default().push(line);
    }
}

/// One cell of a table that is opened with a spreadsheet: quoted, and never a formula.
///
/// A cell that a spreadsheet would run (`=`, `+`, `-`, `@`, tab or carriage return in front) begins with an apostrophe.
pub fn cell(text: &str) -> String {
    let runs = text.starts_with(['=', '+', '-', '@', '\t', '\r', '\n']);
    format!("\"{}{}\"", if runs { "'" } else { "" }, text.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn months_are_those_of_the_calendar() {
        let at = |text: &str| Month::of(text.parse().expect("a moment"));
        assert_eq!(at("2026-11-30T23:59:59.999Z").to_string(), "2026-11");
        assert_eq!(at("2026-12-01T00:00:00.000Z").to_string(), "2026-12");
        let month: Month = "2026-11".parse().expect("a month");
        assert!(!month.is_over("2026-11-30T23:59:59.999Z".parse().expect("a moment")));
        assert!(month.is_over("2026-12-01T00:00:00.000Z".parse().expect("a moment")));
        for wrong in ["2026-13", "2026-00", "2026-1", "26-11", "2026-11-01", "+026-11", "", "1969-12"] {
            assert!(wrong.parse::<Month>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn cells_are_quoted_and_never_run() {
        for (text, safe) in [
            ("plain", "\"plain\""),
            ("two \"words\"", "\"two \"\"words\"\"\""),
            ("=1+1", "\"'=1+1\""),
            ("+1", "\"'+1\""),
            ("-1", "\"'-1\""),
            ("@SUM(A1)", "\"'@SUM(A1)\""),
            ("\tx", "\"'\tx\""),
            ("\r=x", "\"'\r=x\""),
        ] {
            assert_eq!(cell(text), safe);
        }
    }

    #[test]
    fn what_is_owed_is_charges_less_credits_of_open_months() {
        let eur: Currency = "EUR".parse().expect("a currency");
        let mut bill = Bill::new(Limit { minor: 500, currency: eur });
        let at = |text: &str| text.parse().expect("a moment");
        let order = OrderId::from([1; 16]);
        bill.write(Line { at: at("2026-10-02T00:00:00.000Z"), order, what: Entry::Charge(300) });
        bill.write(Line { at: at("2026-11-02T00:00:00.000Z"), order, what: Entry::Charge(150) });
        let price = |minor| Money::new(minor, eur).expect("an amount");
        assert_eq!(bill.owed_after(None), 450);
        assert!(bill.has_room(&price(50), None));
        assert!(!bill.has_room(&price(51), None));
        let october = "2026-10".parse().ok();
        assert!(bill.has_room(&price(350), october), "October is settled elsewhere");
        bill.write(Line { at: at("2026-11-03T00:00:00.000Z"), order, what: Entry::Credit(150) });
        assert_eq!(bill.owed_after(october), 0);
        let usd = Money::new(1, "USD".parse().expect("a currency")).expect("an amount");
        assert!(!bill.has_room(&usd, october), "another currency is another bill");
    }
}
