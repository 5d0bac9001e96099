//! The log of a run: every event, hashed as it happens, and told in words for one box if somebody watches it.
//!
//! Two runs are the same when their digests are. The digest covers what happened and when, never how long this computer
//! took for it.

use std::fmt::Write as _;

/// Bytes that are hashed together.
const BLOCK: usize = 1 << 16;

/// Lines that are kept for one box.
const LINES_MAX: usize = 200_000;

/// The log.
#[derive(Debug)]
pub(crate) struct Trace {
    hasher: blake3::Hasher,
    block: Vec<u8>,
    events: u64,
    watched: Option<u32>,
    lines: Vec<String>,
}

impl Trace {
    pub(crate) fn new(watched: Option<u32>) -> Self {
        Self {
            hasher: blake3::Hasher::new(),
            block: Vec::with_capacity(BLOCK + 32),
            events: 0,
            watched,
            lines: Vec::new(),
        }
    }

    /// Something has happened to a device: what, and about which other one.
    pub(crate) fn note(&mut self, at: u64, what: &'static str, device: u32, other: u32, number: u64) {
        self.events += 1;
        self.block.extend_from_slice(&at.to_le_bytes());
        self.block.extend_from_slice(what.as_bytes());
        self.block.extend_from_slice(&device.to_le_bytes());
        self.block.extend_from_slice(&other.to_le_bytes());
        self.block.extend_from_slice(&number.to_le_bytes());
        if self.block.len() >= BLOCK {
            self.hasher.update(&self.block);
            self.block.clear();
        }
        let watched = self.watched.is_some_and(|watched| watched == device || watched == other);
        if watched && self.lines.len() < LINES_MAX {
            let mut line = String::new();
            // Writing to a string cannot fail.
            let _ = write!(line, "{} {what:<12} box {device:<6} with {other:<6} {number}", clock(at));
            self.lines.push(line);
        }
    }

    /// Events so far.
    pub(crate) fn events(&self) -> u64 {
        self.events
    }

    /// What happened to the box that is watched.
    pub(crate) fn lines(&self) -> &[String] {
        &self.lines
    }

    /// The hash of everything so far.
    pub(crate) fn digest(&self) -> String {
        let mut hasher = self.hasher.clone();
        hasher.update(&self.block);
        hasher.finalize().to_hex()[..32].to_owned()
    }
}

/// Virtual time for people: `00:02:13.640`, with days before it when there are any.
pub(crate) fn clock(micros: u64) -> String {
    let millis = micros / 1_000;
    let (days, in_day) = (millis / 86_400_000, millis % 86_400_000);
    let (hours, minutes) = (in_day / 3_600_000, in_day / 60_000 % 60);
    let (seconds, millis) = (in_day / 1_000 % 60, in_day % 1_000);
    let time = format!("{hours:02}:{minutes:02}:{seconds:02}.{millis:03}");
    if days == 0 { time } else { format!("{days}d {time}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_events_have_the_same_digest_and_others_another() {
        let digest = |last: u64| {
            let mut trace = Trace::new(None);
            for at in 0..5_000 {
                trace.note(at, "asks", 1, 2, at);
            }
            trace.note(5_000, "asks", 1, 2, last);
            trace.digest()
        };
        assert_eq!(digest(1), digest(1));
        assert_ne!(digest(1), digest(2));
    }

    #[test]
    fn virtual_time_reads_like_a_clock() {
        assert_eq!(clock(133_640_000), "00:02:13.640");
        assert_eq!(clock(90_000_000_000), "1d 01:00:00.000");
    }
}
