//! The keys that are in use now. They change while the keyserver runs; whoever needs them asks each time.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use swarm_proto::id::ServerId;
use swarm_proto::time::Utc;

use super::Keys;

/// How long after a change calls to the key before are still answered: a device notices the change within a minute, and
/// its tokens live for ten.
const CALLED_BY_OLD_NAME: Duration = Duration::from_secs(10 * 60);

/// Where the keys hang.
pub struct KeyRing(RwLock<Arc<Keys>>);

impl KeyRing {
    /// A ring with these keys.
    pub fn new(keys: Keys) -> Arc<KeyRing> {
        Arc::new(KeyRing(RwLock::new(Arc::new(keys))))
    }

    /// The keys that are in use at this moment.
    pub fn now(&self) -> Arc<Keys> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn replace(&self, keys: Keys) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(keys);
    }
}

impl Keys {
    /// The name by which a caller means this keyserver: its key, or for a while the one before.
    pub(crate) fn name_for(&self, called: &ServerId, now: Utc) -> ServerId {
        match self.lineage.before() {
            Some((before, handed_over)) if before == *called && now < handed_over + CALLED_BY_OLD_NAME => before,
            _ => self.server(),
        }
    }
}
