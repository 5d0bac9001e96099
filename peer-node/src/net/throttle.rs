//! Keeps what all uploads take together below a rate.
//!
//! A shared meter, no queue: whoever wants to write takes its bytes and waits until they are paid for. Waiters are
//! served in the order in which they came because each takes its place in time before it sleeps; since a connection
//! takes one small piece at a time, connections share the rate evenly.

use std::sync::Mutex;
use std::time::Duration;

use tokio::time::Instant;

/// How far ahead of its rate a throttle may run, so that single slices need no timer.
const SLACK: Duration = Duration::from_millis(50);

/// A rate shared by many writers.
#[derive(Debug)]
pub(super) struct Throttle {
    bytes_per_sec: Option<u64>,
    /// When what has been taken so far is paid for.
    paid_at: Mutex<Instant>,
}

impl Throttle {
    /// `None` never waits.
    pub(super) fn new(bytes_per_sec: Option<u64>) -> Self {
        Self { bytes_per_sec, paid_at: Mutex::new(Instant::now()) }
    }

    /// Whether nothing ever waits.
    pub(super) fn is_unlimited(&self) -> bool {
        self.bytes_per_sec.is_none()
    }

    /// Takes these bytes; they may be sent at once, or at the given time.
    pub(super) fn take(&self, bytes: u64) -> Option<Instant> {
        let rate = self.bytes_per_sec?;
        let now = Instant::now();
        let mut paid_at = self.paid_at.lock().expect("no one panics while holding it");
        *paid_at = (*paid_at).max(now) + Duration::from_secs_f64(bytes as f64 / rate.max(1) as f64);
        (*paid_at > now + SLACK).then(|| *paid_at - SLACK)
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::sleep_until;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn many_writers_together_stay_below_the_rate() {
        let throttle = Throttle::new(Some(1 << 20));
        let start = Instant::now();
        let writer = async || {
            for _ in 0..16 {
                if let Some(until) = throttle.take(64 << 10) {
                    sleep_until(until).await;
                }
            }
        };
        futures::join!(writer(), writer());
        let took = start.elapsed();
        assert!(took >= Duration::from_millis(1_900) && took <= Duration::from_millis(2_100), "{took:?}");
    }
}
