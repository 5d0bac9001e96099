//! How fast something goes, and how fast it may go.
//!
//! Both count bytes on the monotonic clock of the shell; neither ever blocks or keeps more than a few numbers.

use std::time::Duration;

use crate::time::Mono;

const BUCKET_MS: u64 = 250;
const BUCKETS: usize = 20;
/// What [`Meter`] averages over.
pub const WINDOW: Duration = Duration::from_millis(BUCKET_MS * BUCKETS as u64);

/// Bytes per second over the last five seconds.
#[derive(Debug, Clone)]
pub struct Meter {
    buckets: [u64; BUCKETS],
    /// All buckets together.
    sum: u64,
    newest: u64,
    started: Option<Mono>,
}

impl Default for Meter {
    fn default() -> Self {
        Self { buckets: [0; BUCKETS], sum: 0, newest: 0, started: None }
    }
}

impl Meter {
    /// Counts bytes that have just arrived.
    pub fn add(&mut self, now: Mono, bytes: u64) {
        // After a silence as long as the window, the rate is that of the new start, not thinned by the silence.
        if self.per_sec(now) == 0 {
            self.started = Some(now);
        }
        self.roll(now);
        self.buckets[(self.newest % BUCKETS as u64) as usize] += bytes;
        self.sum += bytes;
    }

    /// Bytes per second over the window, or since the start if that is shorter.
    pub fn per_sec(&self, now: Mono) -> u64 {
        let Some(started) = self.started else { return 0 };
        let over: u64 = self.outdated(now).map(|bucket| self.buckets[bucket]).sum();
        let secs = now.since(started).clamp(Duration::from_millis(BUCKET_MS), WINDOW);
        (self.sum - over).saturating_mul(1_000) / secs.as_millis() as u64
    }

    fn roll(&mut self, now: Mono) {
        for bucket in self.outdated(now) {
            self.sum -= std::mem::take(&mut self.buckets[bucket]);
        }
        self.newest = self.newest.max(now.as_millis() / BUCKET_MS);
    }

    /// Places of the buckets that are older than the window, the oldest first.
    fn outdated(&self, now: Mono) -> impl Iterator<Item = usize> + use<> {
        let passed = (now.as_millis() / BUCKET_MS).saturating_sub(self.newest).min(BUCKETS as u64);
        let oldest = self.newest + 1;
        (oldest..oldest + passed).map(|bucket| (bucket % BUCKETS as u64) as usize)
    }
}

/// A cap in bytes per second that lets whole chunks through: what is taken too early is paid back by waiting.
#[derive(Debug, Clone)]
pub struct Cap {
    bytes_per_sec: u64,
    /// When what has been taken so far is paid for.
    paid_at: Mono,
}

impl Cap {
    /// How far ahead of its rate a cap may run.
    const SLACK: Duration = Duration::from_millis(250);

    /// A cap of at least one byte per second.
    pub fn new(bytes_per_sec: u64) -> Self {
        Self { bytes_per_sec: bytes_per_sec.max(1), paid_at: Mono::ZERO }
    }

    /// Its rate.
    pub fn bytes_per_sec(&self) -> u64 {
        self.bytes_per_sec
    }

    /// From when on something may be taken.
    pub fn ready_at(&self) -> Mono {
        Mono::from_millis(self.paid_at.as_millis().saturating_sub(Self::SLACK.as_millis() as u64))
    }

    /// Takes bytes.
    pub fn take(&mut self, now: Mono, bytes: u64) {
        let cost = Duration::from_millis(bytes.saturating_mul(1_000) / self.bytes_per_sec);
        self.paid_at = self.paid_at.max(now) + cost;
    }

    /// Gives back bytes that were taken and did not come.
    pub fn give_back(&mut self, bytes: u64) {
        let cost = bytes.saturating_mul(1_000) / self.bytes_per_sec;
        self.paid_at = Mono::from_millis(self.paid_at.as_millis().saturating_sub(cost));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Mono {
        Mono::from_millis(100_000 + ms)
    }

    #[test]
    fn a_steady_stream_shows_its_rate() {
        let mut meter = Meter::default();
        for i in 0..100 {
            meter.add(at(i * 100), 1_000);
        }
        let rate = meter.per_sec(at(9_900));
        assert!((9_500..=10_500).contains(&rate), "{rate}");
    }

    #[test]
    fn the_rate_falls_to_zero_when_nothing_comes() {
        let mut meter = Meter::default();
        meter.add(at(0), 1 << 20);
        assert!(meter.per_sec(at(1_000)) > 0);
        assert_eq!(meter.per_sec(at(6_000)), 0);
        meter.add(at(60_000), 1_000);
        assert_eq!(meter.per_sec(at(61_000)), 1_000);
    }

    #[test]
    fn a_cap_holds_over_time() {
        let mut cap = Cap::new(1 << 20);
        let (mut now, mut taken) = (at(0), 0u64);
        while now < at(10_000) {
            if cap.ready_at() <= now {
                cap.take(now, 1 << 20);
                taken += 1;
            }
            now = now + Duration::from_millis(10);
        }
        assert!((10..=11).contains(&taken), "{taken}");
    }

    #[test]
    fn what_did_not_come_is_given_back() {
        let mut cap = Cap::new(1_000);
        cap.take(at(0), 10_000);
        cap.give_back(10_000);
        assert!(cap.ready_at() <= at(0));
    }
}
