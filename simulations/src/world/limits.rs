//! The best that any system could do.
//!
//! The fluid limit of Kumar and Ross (2006): everybody is served when the seeds have sent every chunk once, when the
//! slowest has filled its downlink, and when all uplinks together have sent what all together want; whichever takes
//! longest. When devices leave, their uplinks count until then, and what they wanted does not count at all.

use std::time::Duration;

/// A sender: bytes per second, and when it leaves.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sender {
    pub(crate) bytes_per_sec: u64,
    pub(crate) leaves: Option<Duration>,
}

/// What a crowd that comes at one moment wants, and who can send it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Crowd {
    /// Bytes of all different titles that somebody wants and only seeds have.
    pub(crate) new_bytes: u64,
    /// For each that wants something: how much, and its downlink in bytes per second.
    pub(crate) wanted: Vec<(u64, u64)>,
    pub(crate) seeds: Vec<Sender>,
    pub(crate) boxes: Vec<Sender>,
}

impl Crowd {
    /// Nobody can be done with all of it sooner.
    pub(crate) fn fluid(&self) -> Duration {
        let all = self.seeds.iter().chain(&self.boxes);
        self.slowest_downlink().max(time_for(self.new_bytes, self.seeds.iter())).max(time_for(self.bytes(), all))
    }

    /// Nobody can be done sooner if seeds may send each chunk only so many times.
    pub(crate) fn budget(&self, sends_per_chunk: u64) -> Duration {
        let from_boxes = self.bytes().saturating_sub(self.new_bytes * sends_per_chunk);
        let seeds = time_for(self.new_bytes, self.seeds.iter());
        self.slowest_downlink().max(seeds).max(time_for(from_boxes, self.boxes.iter()))
    }

    /// When the last would be done with servers alone, each sending as much as it can.
    pub(crate) fn servers_only(&self) -> Duration {
        self.slowest_downlink().max(time_for(self.bytes(), self.seeds.iter()))
    }

    fn bytes(&self) -> u64 {
        self.wanted.iter().map(|(bytes, _)| bytes).sum()
    }

    fn slowest_downlink(&self) -> Duration {
        let alone = |&(bytes, rate): &(u64, u64)| seconds(bytes as f64 / rate.max(1) as f64);
        self.wanted.iter().map(alone).max().unwrap_or_default()
    }
}

/// How long these senders together need.
fn time_for<'a>(bytes: u64, senders: impl Iterator<Item = &'a Sender>) -> Duration {
    if bytes == 0 {
        return Duration::ZERO;
    }
    let senders: Vec<&Sender> = senders.collect();
    let mut rate: f64 = senders.iter().map(|sender| sender.bytes_per_sec as f64).sum();
    let mut leaving: Vec<(Duration, u64)> =
        senders.iter().filter_map(|sender| Some((sender.leaves?, sender.bytes_per_sec))).collect();
    leaving.sort_unstable();
    let (mut left, mut now) = (bytes as f64, 0.0);
    for (at, lost) in leaving {
        let lasts = at.as_secs_f64() - now;
        if rate * lasts >= left {
            break;
        }
        left -= rate * lasts;
        now += lasts;
        rate -= lost as f64;
    }
    if rate < 1.0 { Duration::MAX } else { seconds(now + left / rate) }
}

fn seconds(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MB: u64 = 1_000_000;

    fn sender(mb: u64) -> Sender {
        Sender { bytes_per_sec: mb * MB, leaves: None }
    }

    fn crowd(n: usize, seed: u64, uplink: u64, downlink: u64) -> Crowd {
        Crowd {
            new_bytes: 1_000 * MB,
            wanted: vec![(1_000 * MB, downlink * MB); n],
            seeds: vec![sender(seed)],
            boxes: vec![sender(uplink); n],
        }
    }

    #[test]
    fn the_tightest_of_seeds_downlinks_and_all_uplinks_binds() {
        assert_eq!(crowd(10, 5, 1_000, 1_000).fluid(), Duration::from_secs(200), "the seeds");
        assert_eq!(crowd(10, 500, 1_000, 4).fluid(), Duration::from_secs(250), "the downlinks");
        assert_eq!(crowd(10, 100, 10, 1_000).fluid(), Duration::from_secs(50), "all uplinks");
    }

    #[test]
    fn thrifty_seeds_leave_the_rest_to_the_boxes() {
        assert_eq!(crowd(10, 100, 10, 1_000).budget(1), Duration::from_secs(90));
        assert_eq!(crowd(10, 100, 10, 1_000).servers_only(), Duration::from_secs(100));
    }

    #[test]
    fn who_leaves_sends_until_then() {
        let mut crowd = crowd(10, 100, 10, 1_000);
        crowd.boxes[0].leaves = Some(Duration::from_secs(10));
        let late = crowd.fluid().as_secs_f64();
        assert!((late - (10.0 + 8_000.0 / 190.0)).abs() < 1e-6, "{late}");
    }
}
