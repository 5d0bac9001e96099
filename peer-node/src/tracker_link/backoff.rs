//! How long to wait before the next attempt.
//!
//! Doubles from one second to a maximum, and takes a random part off, so that boxes that lost the tracker in the same
//! second do not come back in the same second.

use std::time::Duration;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use zeroize::Zeroizing;

/// The first pause: short enough that a restarted tracker is not missed by anyone who watches.
const FIRST: Duration = Duration::from_secs(1);

/// At most this part of a pause is taken off.
const JITTER: f64 = 0.5;

/// The pauses of one endless series of attempts.
pub(super) struct Backoff {
    next: Duration,
    max: Duration,
    rng: ChaCha8Rng,
}

impl Backoff {
    pub(super) fn new(max: Duration, seed: Zeroizing<[u8; 32]>) -> Backoff {
        Backoff { next: FIRST.min(max), max, rng: ChaCha8Rng::from_seed(*seed) }
    }

    /// The next pause.
    pub(super) fn pause(&mut self) -> Duration {
        let pause = self.next.mul_f64(1.0 - self.rng.random_range(0.0..JITTER));
        self.next = self.next.saturating_mul(2).min(self.max);
        pause
    }

    /// Begins anew with the first pause.
    pub(super) fn reset(&mut self) {
        self.next = FIRST.min(self.max);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backoff(seed: u8) -> Backoff {
        Backoff::new(Duration::from_secs(30), Zeroizing::new([seed; 32]))
    }

    #[test]
    fn pauses_double_up_to_the_maximum() {
        let mut backoff = backoff(7);
        for whole in [1, 2, 4, 8, 16, 30, 30, 30].map(Duration::from_secs) {
            let pause = backoff.pause();
            assert!(pause > whole / 2 && pause <= whole, "{pause:?} of {whole:?}");
        }
        backoff.reset();
        assert!(backoff.pause() <= FIRST);
    }

    #[test]
    fn two_boxes_do_not_wait_equally_long() {
        assert_ne!(backoff(1).pause(), backoff(2).pause());
    }

    #[test]
    fn maximum_below_the_first_pause_holds() {
        let mut backoff = Backoff::new(Duration::from_millis(200), Zeroizing::new([3; 32]));
        assert!(backoff.pause() <= Duration::from_millis(200));
        assert!(backoff.pause() <= Duration::from_millis(200));
    }
}
