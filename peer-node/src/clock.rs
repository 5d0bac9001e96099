//! The one place of this crate that looks at a clock.
//!
//! Monotonic time counts from the first look, and goes on while the machine sleeps: a box that is suspended over the
//! weekend has not saved two days of a rental. Wall-clock time is what the machine believes and is never trusted for
//! rights: `grants` keeps a time of its own for that.

use std::sync::LazyLock;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use swarm_proto::time::{Mono, Now, Utc};

static START: LazyLock<Duration> = LazyLock::new(since_boot);

/// What time it is, on both clocks.
pub fn now() -> Now {
    let start = *START;
    Now::new(Mono::from_millis(millis(since_boot().saturating_sub(start))), utc())
}

/// What the machine's wall clock says; a clock set before 1970 reads as 1970.
pub fn utc() -> Utc {
    Utc::from_millis(millis(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()))
}

/// Linux's `CLOCK_BOOTTIME`: like the monotonic clock, but counting sleep.
#[cfg(target_os = "linux")]
fn since_boot() -> Duration {
    let read = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    Duration::new(u64::try_from(read.tv_sec).unwrap_or_default(), u32::try_from(read.tv_nsec).unwrap_or_default())
}

/// Elsewhere the monotonic clock, which on most systems stands still in sleep.
#[cfg(not(target_os = "linux"))]
fn since_boot() -> Duration {
    static FIRST: LazyLock<std::time::Instant> = LazyLock::new(std::time::Instant::now);
    FIRST.elapsed()
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
