//! What time it is, for rights: a clock that only a keyserver moves.
//!
//! It goes by the keyserver's word plus what the monotonic clock has counted since. Between two starts it stands still
//! at the latest moment that is known to have passed. The wall clock can make it stricter, never more generous, and
//! never leaves a trace in it.

use std::time::Duration;

use swarm_proto::licence::{Denied, Licence};
use swarm_proto::time::{Mono, Now, Utc};

/// A clock for judging licences.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TrustedTime {
    known: Utc,
    at: Mono,
    /// A keyserver has told the time since the program started.
    is_told: bool,
}

impl TrustedTime {
    /// A clock that was at `high_water` when the program last knew better.
    pub(super) fn resume(high_water: Utc, mono: Mono) -> TrustedTime {
        TrustedTime { known: high_water, at: mono, is_told: false }
    }

    /// A keyserver said what time it is. A word that would move the clock back is not taken.
    pub(super) fn handle_told(&mut self, mono: Mono, utc: Utc) {
        let now = self.at_least(mono);
        *self = TrustedTime { known: now.max(utc), at: mono, is_told: true };
    }

    /// This moment has passed for certain.
    pub(super) fn at_least(&self, mono: Mono) -> Utc {
        self.known + elapsed(self.at, mono)
    }

    /// The latest moment it can be: what the ends of windows are judged by.
    pub(super) fn at_most(&self, now: Now) -> Utc {
        let known = self.at_least(now.mono);
        if self.is_told { known } else { known.max(now.utc) }
    }

    /// Whether a viewing may begin.
    pub(super) fn allows_start(&self, now: Now, licence: &Licence, first_play: Option<Utc>) -> Result<(), Denied> {
        self.has_begun(now, licence)?;
        licence.allows_start(self.at_most(now), first_play)
    }

    /// Whether a viewing may go on.
    pub(super) fn allows_continue(&self, now: Now, licence: &Licence, first_play: Utc) -> Result<(), Denied> {
        self.has_begun(now, licence)?;
        licence.allows_continue(self.at_most(now), first_play)
    }

    fn has_begun(&self, now: Now, licence: &Licence) -> Result<(), Denied> {
        match licence.allows(self.at_least(now.mono)) {
            Err(Denied::TooEarly(begin)) => Err(Denied::TooEarly(begin)),
            _ => Ok(()),
        }
    }
}

fn elapsed(from: Mono, to: Mono) -> Duration {
    to.since(from)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now(mono_secs: u64, utc_secs: u64) -> Now {
        Now::new(Mono::from_millis(mono_secs * 1000), Utc::from_secs(utc_secs))
    }

    fn mono(secs: u64) -> Mono {
        Mono::from_millis(secs * 1000)
    }

    #[test]
    fn time_goes_by_the_keyserver_and_the_monotonic_clock() {
        let mut time = TrustedTime::resume(Utc::EPOCH, mono(0));
        time.handle_told(mono(10), Utc::from_secs(1_000));
        assert_eq!(time.at_least(mono(15)), Utc::from_secs(1_005));
        assert_eq!(time.at_most(now(15, 9_999_999)), Utc::from_secs(1_005), "the wall clock has no say any more");
    }

    #[test]
    fn setting_the_wall_clock_back_wins_no_time() {
        let time = TrustedTime::resume(Utc::from_secs(1_000), mono(0));
        assert_eq!(time.at_most(now(5, 10)), Utc::from_secs(1_005));
    }

    #[test]
    fn wall_clock_ahead_is_believed_only_to_be_stricter() {
        let time = TrustedTime::resume(Utc::from_secs(1_000), mono(0));
        assert_eq!(time.at_most(now(0, 5_000)), Utc::from_secs(5_000));
        assert_eq!(time.at_least(mono(0)), Utc::from_secs(1_000), "and leaves no trace");
    }

    #[test]
    fn keyserver_cannot_move_the_clock_back() {
        let mut time = TrustedTime::resume(Utc::from_secs(1_000), mono(0));
        time.handle_told(mono(0), Utc::from_secs(500));
        assert_eq!(time.at_least(mono(1)), Utc::from_secs(1_001));
    }
}
