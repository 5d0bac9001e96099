//! The one place where this daemon asks what time it is.

use std::sync::LazyLock;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use swarm_proto::time::{Mono, Now, Utc};

/// When this process first asked.
static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// The date, from the system's clock.
pub fn utc() -> Utc {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Utc::from_millis(u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX))
}

/// Both clocks.
pub fn now() -> Now {
    let mono = u64::try_from(START.elapsed().as_millis()).unwrap_or(u64::MAX);
    Now::new(Mono::from_millis(mono), utc())
}
