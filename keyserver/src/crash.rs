//! Places where tests cut the power.
//!
//! A program built with debug assertions, as tests are, reads `CRASH_AT`: the name of a place, and perhaps how often it
//! is passed before the end (`grant-durable:3`). There the process kills itself as `kill -9` would: nothing is flushed,
//! no destructor runs. In a release build there is nothing to read and nothing to do: a variable in the environment
//! must not be able to stop a shop.

#[cfg(debug_assertions)]
mod armed {
    use std::sync::LazyLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    struct Fuse {
        name: String,
        left: AtomicU64,
    }

    static FUSE: LazyLock<Option<Fuse>> = LazyLock::new(|| {
        let text = std::env::var("CRASH_AT").ok()?;
        let (name, times) = text.split_once(':').unwrap_or((&text, "1"));
        Some(Fuse { name: name.to_owned(), left: AtomicU64::new(times.parse().ok()?) })
    });

    pub(super) fn is_armed() -> bool {
        FUSE.is_some()
    }

    /// Passes a place; true when it has been passed often enough.
    pub(super) fn is_due(name: &str) -> bool {
        let fuse = FUSE.as_ref().filter(|fuse| fuse.name == name);
        fuse.is_some_and(|fuse| fuse.left.fetch_sub(1, Ordering::Relaxed) == 1)
    }

    pub(super) fn die() -> ! {
        // The test that set the fuse sees how the process ends; there is no one else to tell.
        let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
        loop {
            std::thread::park();
        }
    }
}

/// The power may be cut here.
#[inline]
pub(crate) fn point(name: &str) {
    if is_due(name) {
        die();
    }
}

/// Whether the power is to be cut at this place, for those that leave half of something behind before they [`die`].
#[inline]
pub(crate) fn is_due(name: &str) -> bool {
    #[cfg(debug_assertions)]
    let due = armed::is_due(name);
    #[cfg(not(debug_assertions))]
    let due = {
        let _ = name;
        false
    };
    due
}

/// Ends this process as `kill -9` would.
pub(crate) fn die() {
    #[cfg(debug_assertions)]
    armed::die();
}

/// The power may be cut here, when one of these records is among those that are written.
#[inline]
pub(crate) fn point_of_records(entries: &[crate::journal::Entry], when: &str) {
    #[cfg(debug_assertions)]
    if armed::is_armed() {
        for entry in entries {
            let value = serde_json::to_value(&entry.record).unwrap_or_default();
            point(&format!("{}-{when}", value["kind"].as_str().unwrap_or_default()));
        }
    }
    #[cfg(not(debug_assertions))]
    let _ = (entries, when);
}
