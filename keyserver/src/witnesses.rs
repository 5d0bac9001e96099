//! Raises the alarm when the boxes find that this machine's clock is wrong.
//!
//! What they say is judged by [`ClockWatch`]; here it becomes a health check and a line in the log. Nothing is decided
//! by it: a keyserver does not take its time from its customers.

use std::sync::{Mutex, PoisonError};

use daemon::health::Check;
use swarm_proto::id::AccountId;
use swarm_proto::keyserver::clock_watch::{ClockWatch, Off};
use swarm_proto::time::Utc;

use crate::clock;

/// Everyone who has called lately.
pub(crate) struct Witnesses {
    watch: Mutex<(ClockWatch, bool)>,
    check: Check,
}

impl Witnesses {
    pub(crate) fn new(check: Check) -> Witnesses {
        check.ok();
        Witnesses { watch: Mutex::default(), check }
    }

    /// Hears the date of a token that a device of a trusted tracker has signed.
    pub(crate) fn hear(&self, account: AccountId, dated: Utc) {
        let mut held = self.watch.lock().unwrap_or_else(PoisonError::into_inner);
        let (watch, alarmed) = &mut *held;
        watch.handle_dated(clock::now(), account, dated);
        match watch.off() {
            Some(Off { by, ahead, witnesses }) => {
                let seconds = by.as_secs();
                let direction = if ahead { "ahead" } else { "behind" };
                self.check
                    .failing(format!("time differs from that of {witnesses} accounts by {seconds} s: {direction}"));
                if !std::mem::replace(alarmed, true) {
                    tracing::warn!(seconds, direction, witnesses, "the clock of this machine is wrong, say the boxes");
                }
            }
            None => {
                self.check.ok();
                if std::mem::take(alarmed) {
                    tracing::info!("the clock of this machine agrees with the boxes again");
                }
            }
        }
    }
}
