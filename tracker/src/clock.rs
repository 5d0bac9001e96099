//! The one place of this crate that looks at a clock.

use std::sync::LazyLock;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use swarm_proto::time::{Mono, Now, Utc};

static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// What time it is, on both clocks. Monotonic time counts from the first look.
pub(crate) fn now() -> Now {
    let utc = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Now::new(Mono::from_millis(millis(START.elapsed())), Utc::from_millis(millis(utc)))
}

/// The instant at which monotonic time will be `mono`.
pub(crate) fn instant(mono: Mono) -> tokio::time::Instant {
    (*START + Duration::from_millis(mono.as_millis())).into()
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
