//! The one place of this crate that looks at a clock.
//!
//! Monotonic time counts from the first look. Wall-clock time is what the machine believes and is never trusted for
//! rights: `grants` keeps a time of its own for that.

use std::sync::LazyLock;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use swarm_proto::time::{Mono, Now, Utc};

static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// What time it is, on both clocks.
pub fn now() -> Now {
    Now::new(Mono::from_millis(millis(START.elapsed())), utc())
}

/// What the machine's wall clock says; a clock set before 1970 reads as 1970.
pub fn utc() -> Utc {
    Utc::from_millis(millis(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()))
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
