//! Whether a keyserver's clock agrees with those of its customers' boxes.
//!
//! Grants, windows and the trusted time of every box depend on this one clock, so it must not be its own only witness.
//! Each call brings a token that a device has dated, also one that is refused for its date. One box proves nothing; when
//! most accounts that were heard lately find the clock far off, in the same direction, it is. Each account is heard
//! once, so nobody outweighs others with many boxes or calls.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::id::AccountId;
use crate::time::{Mono, Now, Utc};

/// How long an account's word counts.
const HEARD_FOR: Duration = Duration::from_secs(10 * 60);

/// Most accounts that are remembered: their median is as good as that of thousands.
pub const MAX_WITNESSES: usize = 64;

/// Fewer accounts than this decide nothing.
pub const LEAST_WITNESSES: usize = 3;

/// Farther off than this is worth an alarm: honest clocks are at most so far apart.
pub const TOLERANCE: Duration = Duration::from_secs(300);

/// A box uses a token for five minutes: its clock has passed the date on it by half of that, more or less.
const TOKEN_AGE: Duration = Duration::from_secs(150);

/// The keyserver's clock is off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Off {
    /// By how much, about.
    pub by: Duration,
    /// In which direction.
    pub ahead: bool,
    /// How many accounts were heard.
    pub witnesses: usize,
}

/// What accounts have said about the time.
#[derive(Debug, Default)]
pub struct ClockWatch {
    heard: BTreeMap<AccountId, Heard>,
}

#[derive(Debug)]
struct Heard {
    at: Mono,
    /// How far the keyserver is ahead of the box, in milliseconds.
    ahead_ms: i64,
}

impl ClockWatch {
    /// Takes the date of a token that a device of this account has just used.
    pub fn handle_dated(&mut self, now: Now, account: AccountId, dated: Utc) {
        self.heard.retain(|_, heard| now.mono.since(heard.at) < HEARD_FOR);
        let (ours, theirs) = (now.utc.as_millis(), (dated + TOKEN_AGE).as_millis());
        let ahead_ms = i64::try_from(i128::from(ours) - i128::from(theirs)).unwrap_or(i64::MAX);
        if self.heard.len() >= MAX_WITNESSES && !self.heard.contains_key(&account) {
            let oldest = self.heard.iter().min_by_key(|(_, heard)| heard.at).map(|(account, _)| *account);
            oldest.map(|oldest| self.heard.remove(&oldest));
        }
        self.heard.insert(account, Heard { at: now.mono, ahead_ms });
    }

    /// What the median of those who were heard lately says; nothing while it is within what is tolerated.
    pub fn off(&self) -> Option<Off> {
        let mut said: Vec<i64> = self.heard.values().map(|heard| heard.ahead_ms).collect();
        said.sort_unstable();
        let witnesses = said.len();
        let median = *said.get(witnesses / 2).filter(|_| witnesses >= LEAST_WITNESSES)?;
        // Of an even number the one that is nearer to us counts: in doubt there is no alarm.
        let nearer = if witnesses.is_multiple_of(2) { said[witnesses / 2 - 1] } else { median };
        let median = if nearer.unsigned_abs() < median.unsigned_abs() { nearer } else { median };
        let by = Duration::from_millis(median.unsigned_abs());
        (by > TOLERANCE).then_some(Off { by, ahead: median > 0, witnesses })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOON: u64 = 1_795_362_936;

    fn at(secs: u64) -> Now {
        Now { mono: Mono::from_millis(secs * 1000), utc: Utc::from_secs(NOON + secs) }
    }

    fn account(n: u8) -> AccountId {
        AccountId::from([n; 16])
    }

    /// Accounts whose boxes think that it is so many seconds later than we do, tokens being fresh to five minutes old.
    fn heard(offsets: &[i64]) -> ClockWatch {
        let mut watch = ClockWatch::default();
        for (n, offset) in (0u8..).zip(offsets) {
            let age = i64::from(n) * 37 % 300;
            let dated = i64::try_from(NOON).expect("fits") + offset - age;
            watch.handle_dated(at(0), account(n), Utc::from_secs(dated.unsigned_abs()));
        }
        watch
    }

    #[test]
    fn a_clock_that_is_ten_minutes_off_in_either_direction_is_noticed() {
        for (offset, ahead) in [(-600, true), (600, false), (-86_400, true), (86_400, false)] {
            let off = heard(&[offset; 7]).off().unwrap_or_else(|| panic!("{offset} s are not noticed"));
            assert_eq!((off.ahead, off.witnesses), (ahead, 7));
            assert!(off.by.as_secs().abs_diff(offset.unsigned_abs()) <= 150, "{off:?}");
        }
    }

    #[test]
    fn clocks_that_agree_as_honest_ones_do_raise_no_alarm() {
        for offset in [0, 100, -100] {
            assert_eq!(heard(&[offset; 9]).off(), None, "{offset}");
        }
    }

    #[test]
    fn a_minority_whose_clocks_are_wrong_raises_no_alarm_and_hides_none() {
        assert_eq!(heard(&[-9_000, 9_000, 0, 0, 0, -9_000]).off(), None);
        assert_eq!(heard(&[-9_000, -9_000, 0, 0]).off(), None, "half of them are no majority");
        assert!(heard(&[-9_000, -9_000, -9_000, 0, 0]).off().is_some());
        assert_eq!(heard(&[-9_000, 9_000, 9_000, 0, -9_000]).off(), None, "they do not agree");
    }

    #[test]
    fn two_accounts_decide_nothing_however_often_they_are_heard() {
        let mut watch = heard(&[-9_000, -9_000]);
        for _ in 0..100 {
            watch.handle_dated(at(1), account(0), Utc::from_secs(1));
        }
        assert_eq!(watch.off(), None);
    }

    #[test]
    fn what_was_heard_is_forgotten_and_bounded() {
        let mut watch = heard(&[-9_000; 5]);
        assert!(watch.off().is_some());
        for n in 10..13 {
            watch.handle_dated(at(700), account(n), Utc::from_secs(NOON + 600));
        }
        assert_eq!(watch.off(), None, "the clock was put right");
        for n in 0..=u8::MAX {
            watch.handle_dated(at(701), account(n), Utc::from_secs(NOON + 600));
        }
        assert_eq!(watch.heard.len(), MAX_WITNESSES);
    }
}
