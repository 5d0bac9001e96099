//! What time it is, for rights: a clock that only a keyserver moves.
//!
//! It goes by the keyserver's signed word plus what the monotonic clock has counted since. Between two starts it stands
//! still at the latest moment that is known to have passed, and that moment only ever rises. Whoever judges by it takes
//! the end of the doubt that is stricter: [`TrustedTime::at_least`] for what has not begun yet, [`TrustedTime::at_most`]
//! for what ends. The wall clock can make it stricter until the keyserver has spoken, never more generous, and never
//! leaves a trace in it.

use std::time::Duration;

use crate::licence::{Denied, Licence};
use crate::time::{Mono, Now, Utc};

/// A clock for judging licences.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TrustedTime {
    known: Utc,
    /// How much later than `known` it may have been: what the answer took on its way.
    doubt: Duration,
    at: Mono,
    /// A keyserver has told the time since the program started.
    is_told: bool,
}

impl TrustedTime {
    /// A clock that was at `high_water` when the program last knew better.
    pub fn resume(high_water: Utc, mono: Mono) -> Self {
        Self { known: high_water, doubt: Duration::ZERO, at: mono, is_told: false }
    }

    /// A keyserver said what time it was at some moment between question and answer. A word that would move the clock
    /// back is not taken.
    pub fn handle_told(&mut self, asked: Mono, answered: Mono, utc: Utc) {
        let known = self.at_least(answered).max(utc);
        let latest = known.max(utc + answered.since(asked));
        *self = Self { known, doubt: latest.since(known), at: answered, is_told: true };
    }

    /// A keyserver has signed something at this moment: it has passed, however long ago.
    pub fn handle_passed(&mut self, mono: Mono, utc: Utc) {
        let behind = utc.since(self.at_least(mono));
        self.known = self.known + behind;
        self.doubt = self.doubt.saturating_sub(behind);
    }

    /// This moment has passed for certain.
    pub fn at_least(&self, mono: Mono) -> Utc {
        self.known + mono.since(self.at)
    }

    /// The latest moment it can be: what the ends of windows are judged by.
    pub fn at_most(&self, now: Now) -> Utc {
        let known = self.at_least(now.mono);
        if self.is_told { known + self.doubt } else { known.max(now.utc) }
    }

    /// Whether a viewing may begin.
    pub fn allows_start(&self, now: Now, licence: &Licence, first_play: Option<Utc>) -> Result<(), Denied> {
        self.has_begun(now, licence)?;
        licence.allows_start(self.at_most(now), first_play)
    }

    /// Whether a viewing may go on.
    pub fn allows_continue(&self, now: Now, licence: &Licence, first_play: Utc) -> Result<(), Denied> {
        self.has_begun(now, licence)?;
        licence.allows_continue(self.at_most(now), first_play)
    }

    fn has_begun(&self, now: Now, licence: &Licence) -> Result<(), Denied> {
        match licence.not_before.bound() {
            Some(begin) if self.at_least(now.mono) < begin => Err(Denied::TooEarly(begin)),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HOUR: u64 = 3_600_000;
    const DAY: u64 = 24 * HOUR;

    fn now(mono_secs: u64, utc_secs: u64) -> Now {
        Now::new(mono(mono_secs), Utc::from_secs(utc_secs))
    }

    fn mono(secs: u64) -> Mono {
        Mono::from_millis(secs * 1000)
    }

    #[test]
    fn time_goes_by_the_keyserver_and_the_monotonic_clock() {
        let mut time = TrustedTime::resume(Utc::EPOCH, mono(0));
        time.handle_told(mono(10), mono(10), Utc::from_secs(1_000));
        assert_eq!(time.at_least(mono(15)), Utc::from_secs(1_005));
        assert_eq!(time.at_most(now(15, 9_999_999)), Utc::from_secs(1_005), "the wall clock has no say any more");
    }

    #[test]
    fn slow_answer_leaves_a_doubt_that_wins_nobody_a_minute() {
        let mut time = TrustedTime::resume(Utc::EPOCH, mono(0));
        time.handle_told(mono(10), mono(13), Utc::from_secs(1_000));
        assert_eq!(time.at_least(mono(13)), Utc::from_secs(1_000), "it may have been said just now");
        assert_eq!(time.at_most(now(13, 0)), Utc::from_secs(1_003), "or just after the question");
    }

    #[test]
    fn setting_the_wall_clock_back_wins_no_time() {
        let time = TrustedTime::resume(Utc::from_secs(1_000), mono(0));
        assert_eq!(time.at_most(now(5, 10)), Utc::from_secs(1_005));
    }

    #[test]
    fn wall_clock_ahead_is_believed_only_to_be_stricter() {
        let mut time = TrustedTime::resume(Utc::from_secs(1_000), mono(0));
        assert_eq!(time.at_most(now(0, 5_000)), Utc::from_secs(5_000));
        assert_eq!(time.at_least(mono(0)), Utc::from_secs(1_000), "and leaves no trace");
        time.handle_told(mono(1), mono(1), Utc::from_secs(1_001));
        assert_eq!(time.at_most(now(1, 5_000)), Utc::from_secs(1_001), "the keyserver's word heals it");
    }

    #[test]
    fn keyserver_cannot_move_the_clock_back() {
        let mut time = TrustedTime::resume(Utc::from_secs(1_000), mono(0));
        time.handle_told(mono(0), mono(0), Utc::from_secs(500));
        assert_eq!(time.at_least(mono(1)), Utc::from_secs(1_001));
    }

    #[test]
    fn what_was_signed_then_is_past_now() {
        let mut time = TrustedTime::resume(Utc::from_secs(1_000), mono(0));
        time.handle_passed(mono(5), Utc::from_secs(900));
        assert_eq!(time.at_least(mono(5)), Utc::from_secs(1_005), "old news moves nothing");
        time.handle_passed(mono(5), Utc::from_secs(2_000));
        assert_eq!(time.at_least(mono(6)), Utc::from_secs(2_001));
        assert_eq!(time.at_most(now(6, 5_000)), Utc::from_secs(5_000), "but nobody has told the time");
    }

    /// What can happen to a box and its clocks. Wall clocks are set to what they show, in milliseconds off the truth.
    #[derive(Debug, Clone)]
    enum Step {
        Wait(u64),
        SetWall(i64),
        Told { latency: u64 },
        PowerOff(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        let two_years = 730 * DAY as i64;
        let wall = prop_oneof![
            Just(HOUR as i64),
            Just(-(HOUR as i64)),
            Just(two_years),
            Just(-two_years),
            Just(-3 * DAY as i64),
            -two_years..two_years,
        ];
        prop_oneof![
            4 => (0..3 * DAY).prop_map(Step::Wait),
            3 => wall.prop_map(Step::SetWall),
            2 => (0..3_000u64).prop_map(|latency| Step::Told { latency }),
            2 => (0..10 * DAY).prop_map(Step::PowerOff),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        /// The model is the truth itself: an honest keyserver knows it, the box sees it only through its clocks.
        #[test]
        fn whatever_the_wall_clock_says_the_truth_lies_inside_the_doubt(steps in prop::collection::vec(step(), 1..60)) {
            let begin = 1_800_000_000_000_u64;
            let (mut truth, mut booted, mut wall_off) = (begin, begin, 0_i64);
            let mut time = TrustedTime::resume(Utc::from_millis(begin), Mono::ZERO);
            let mut twin = time;
            let (mut told_latency, mut high_water) = (None, Utc::from_millis(begin));
            for step in steps {
                let mono = |truth: u64| Mono::from_millis(truth - booted);
                match step {
                    Step::Wait(ms) => truth += ms,
                    Step::SetWall(off) => wall_off = off,
                    Step::Told { latency } => {
                        let asked = mono(truth);
                        let said = Utc::from_millis(truth + latency / 3);
                        truth += latency;
                        time.handle_told(asked, mono(truth), said);
                        twin.handle_told(asked, mono(truth), said);
                        told_latency = Some(latency);
                    }
                    Step::PowerOff(ms) => {
                        high_water = time.at_least(mono(truth));
                        truth += ms;
                        booted = truth;
                        time = TrustedTime::resume(high_water, Mono::ZERO);
                        twin = time;
                        told_latency = None;
                    }
                }
                let mono = Mono::from_millis(truth - booted);
                let now = Now::new(mono, Utc::from_millis(truth.saturating_add_signed(wall_off)));
                prop_assert!(time.at_least(mono) >= high_water, "the mark never falls");
                prop_assert!(time.at_least(mono).as_millis() <= truth, "nothing begins early");
                prop_assert_eq!(time.at_least(mono), twin.at_least(mono), "the wall clock leaves no trace");
                let latest = time.at_most(now);
                prop_assert!(latest >= time.at_least(mono), "the doubt is not empty");
                if let Some(latency) = told_latency {
                    prop_assert!(latest.as_millis() >= truth, "nothing lasts longer than it may");
                    prop_assert!(latest.as_millis() <= truth + latency, "an honest viewer loses the latency at most");
                } else {
                    prop_assert!(latest >= now.utc, "until told, the stricter clock counts");
                }
            }
        }
    }
}
