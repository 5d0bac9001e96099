//! How fast the keys of spans leave: for each device and order a bucket that fills at the pace of its drip.
//!
//! A bucket holds at most the stated look-ahead, so over any time `t` at most `ahead + t / every` keys leave, whatever
//! a box asks for and in whichever order. What leaves is covered by the journal in advance: [`ALLOWANCE`] keys for each
//! record, so that a film costs a handful of them. Buckets are remembered in memory only: after a restart each is full
//! once more, and what was left of an allowance is not used. Rights are judged before anyone comes here.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::drip::Drip;
use crate::id::{DeviceId, OrderId};
use crate::time::Mono;

/// Keys that one record of the journal lets leave: a GiB of film, seven minutes at 20 Mbit/s.
pub const ALLOWANCE: u32 = 64;

/// How long a full bucket that nobody draws from is remembered: forgetting it costs what is left of its allowance.
const FORGET_AFTER: Duration = Duration::from_secs(10 * 60);

/// Buckets remembered at a time: a million devices that play at this moment.
const MAX_BUCKETS: usize = 1_000_000;

/// What may leave now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Draw {
    /// So many keys: at least one, at most what was asked for.
    pub spans: u32,
    /// A record has to be durable before they leave; then [`Drips::handle_allowed`].
    pub needs_allowance: bool,
}

/// Why no key may leave now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DripRefusal {
    /// The device is as far ahead as it may be. Ask again after this time.
    #[error("the next key leaves in {} ms", .0.as_millis())]
    Ahead(Duration),
    /// Try again later; the operator should look.
    #[error("{MAX_BUCKETS} devices are given keys span by span already, the most this keyserver follows")]
    Full,
}

/// Every bucket.
#[derive(Debug, Clone, Default)]
pub struct Drips {
    buckets: BTreeMap<(OrderId, DeviceId), Bucket>,
    swept: Mono,
}

#[derive(Debug, Clone)]
struct Bucket {
    /// When it is full again; in the past: it is full.
    full_at: Mono,
    /// Keys that the journal lets leave already.
    allowed: u32,
}

impl Drips {
    /// A device asks for so many keys (at least one).
    pub fn handle_asked(
        &mut self,
        now: Mono,
        order: OrderId,
        device: DeviceId,
        drip: &Drip,
        wanted: u32,
    ) -> Result<Draw, DripRefusal> {
        if now.since(self.swept) >= FORGET_AFTER {
            self.buckets.retain(|_, bucket| now.since(bucket.full_at) < FORGET_AFTER);
            self.swept = now;
        }
        if self.buckets.len() >= MAX_BUCKETS && !self.buckets.contains_key(&(order, device)) {
            return Err(DripRefusal::Full);
        }
        let bucket = self.buckets.entry((order, device)).or_insert(Bucket { full_at: now, allowed: 0 });
        let every = drip.every();
        let lacks = bucket.full_at.since(now);
        let room = (every * drip.ahead()).saturating_sub(lacks);
        let there = u32::try_from(room.as_millis() / every.as_millis()).unwrap_or(u32::MAX);
        if there == 0 {
            return Err(DripRefusal::Ahead(every.saturating_sub(room)));
        }
        let spans = wanted.clamp(1, there);
        bucket.full_at = now + lacks + every * spans;
        let needs_allowance = bucket.allowed < spans;
        if !needs_allowance {
            bucket.allowed -= spans;
        }
        Ok(Draw { spans, needs_allowance })
    }

    /// The record that a draw of so many keys waited for is durable.
    pub fn handle_allowed(&mut self, order: OrderId, device: DeviceId, spans: u32) {
        if let Some(bucket) = self.buckets.get_mut(&(order, device)) {
            bucket.allowed = (bucket.allowed + ALLOWANCE).saturating_sub(spans);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ORDER: OrderId = OrderId::from_bytes([1; 16]);
    const BOX: DeviceId = DeviceId::from_bytes([2; 32]);

    fn drip() -> Drip {
        Drip::new(Duration::from_secs(3), 8).expect("a pace")
    }

    fn at(millis: u64) -> Mono {
        Mono::from_millis(millis)
    }

    fn ask(drips: &mut Drips, now: u64, wanted: u32) -> Result<u32, DripRefusal> {
        drips.handle_asked(at(now), ORDER, BOX, &drip(), wanted).map(|draw| draw.spans)
    }

    #[test]
    fn box_gets_its_look_ahead_and_then_one_key_at_a_time() {
        let mut drips = Drips::default();
        assert_eq!(ask(&mut drips, 0, 3), Ok(3));
        assert_eq!(ask(&mut drips, 0, 100), Ok(5), "as many as there are");
        assert_eq!(ask(&mut drips, 1_000, 1), Err(DripRefusal::Ahead(Duration::from_secs(2))));
        assert_eq!(ask(&mut drips, 3_000, 2), Ok(1));
        assert_eq!(ask(&mut drips, 1_000_000, 100), Ok(8), "a pause fills it up and no further");
        let other = DeviceId::from_bytes([3; 32]);
        assert!(drips.handle_asked(at(1_000_000), ORDER, other, &drip(), 8).is_ok(), "each device has its own");
    }

    #[test]
    fn a_record_covers_many_keys_and_none_leaves_uncovered() {
        let mut drips = Drips::default();
        let (mut records, mut left) = (0, 0);
        for second in 0..3 * 1_000 {
            if let Ok(draw) = drips.handle_asked(at(second * 1_000), ORDER, BOX, &drip(), 2) {
                left += draw.spans;
                if draw.needs_allowance {
                    records += 1;
                    drips.handle_allowed(ORDER, BOX, draw.spans);
                }
                assert!(left <= records * ALLOWANCE, "covered in advance");
            }
        }
        assert!(left >= 1_000 && records <= left / (ALLOWANCE - 2) + 1, "{records} records for {left} keys");
    }

    #[test]
    fn draw_whose_record_could_not_be_written_needs_one_again() {
        let mut drips = Drips::default();
        let draw = drips.handle_asked(at(0), ORDER, BOX, &drip(), 1).expect("full");
        assert!(draw.needs_allowance);
        assert!(drips.handle_asked(at(0), ORDER, BOX, &drip(), 1).expect("not empty").needs_allowance);
    }

    #[test]
    fn those_who_have_stopped_are_forgotten() {
        let mut drips = Drips::default();
        for n in 0..100 {
            let device = DeviceId::from_bytes([n; 32]);
            drips.handle_asked(at(0), ORDER, device, &drip(), 1).map(drop).expect("full");
        }
        ask(&mut drips, 1_000_000, 1).map(drop).expect("full");
        assert_eq!(drips.buckets.len(), 1);
    }

    proptest! {
        #[test]
        fn nobody_is_further_ahead_than_stated(asks in prop::collection::vec((0..20_000_u64, 1..20_u32), 1..200)) {
            let mut drips = Drips::default();
            let (mut now, mut left) = (0, Vec::new());
            for (wait, wanted) in asks {
                now += wait;
                if let Ok(spans) = ask(&mut drips, now, wanted) {
                    prop_assert!(spans >= 1 && spans <= wanted);
                    left.push((now, spans));
                }
            }
            for first in 0..left.len() {
                let mut sum = 0;
                for (time, spans) in &left[first..] {
                    sum += spans;
                    prop_assert!(u64::from(sum) <= 8 + (time - left[first].0) / 3_000);
                }
            }
        }
    }
}
