//! What a run is measured by: wall clock, the kernel's books on processes, and the first byte on disk.
//!
//! Figures come from `/proc`, never from the contenders themselves.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use rustix::fs::SeekFrom;

/// How often processes and files are looked at: a hundredth of a fast run.
pub(super) const LOOK_EVERY: Duration = Duration::from_millis(5);
/// A run that takes longer has gone wrong, whatever the contender.
pub(super) const ENDS_WITHIN: Duration = Duration::from_secs(300);
/// The unit of processor time in `/proc`, fixed by the kernel's interface.
const TICKS_PER_SEC: f64 = 100.0;

/// One run of one contender.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Run {
    pub(super) mb_per_s: f64,
    pub(super) cpu_s_per_gib_source: f64,
    pub(super) cpu_s_per_gib_sink: f64,
    pub(super) peak_rss_mb_source: f64,
    pub(super) peak_rss_mb_sink: f64,
    pub(super) first_byte_ms: f64,
}

/// What was seen of a run, before it is divided by anything.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub(super) wall: Duration,
    pub(super) first_byte: Option<Duration>,
    pub(super) cpu_s_source: f64,
    /// Of all sinks together.
    pub(super) cpu_s_sinks: f64,
    pub(super) peak_rss_source: u64,
    pub(super) peak_rss_sink: u64,
}

impl Seen {
    /// The figures, for a file of `len` bytes that went to so many sinks.
    pub(super) fn figures(&self, len: u64, sinks: usize) -> Run {
        let gib = len as f64 / f64::from(1 << 30);
        let mb = |bytes: u64| bytes as f64 / 1e6;
        Run {
            mb_per_s: mb(len) * sinks as f64 / self.wall.as_secs_f64(),
            cpu_s_per_gib_source: self.cpu_s_source / gib,
            cpu_s_per_gib_sink: self.cpu_s_sinks / sinks as f64 / gib,
            peak_rss_mb_source: mb(self.peak_rss_source),
            peak_rss_mb_sink: mb(self.peak_rss_sink),
            first_byte_ms: self.first_byte.unwrap_or(self.wall).as_secs_f64() * 1e3,
        }
    }
}

/// Processor seconds that a process has used itself, and those of its ended children.
pub(super) fn cpu_s(pid: u32) -> anyhow::Result<(f64, f64)> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).context("the process has ended")?;
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |n: usize| fields.get(n).and_then(|field| field.parse::<f64>().ok()).context("no processor time");
    Ok(((ticks(11)? + ticks(12)?) / TICKS_PER_SEC, (ticks(13)? + ticks(14)?) / TICKS_PER_SEC))
}

/// The most memory that a process has had resident; nothing once it has ended.
pub(super) fn peak_rss(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().trim_end_matches("kB").trim().parse::<u64>().ok().map(|kib| kib << 10)
}

/// Looks for the first byte of the file in what sinks write.
pub(super) struct FirstByte {
    folders: Vec<PathBuf>,
    /// Files smaller than this are somebody's books, not the film.
    least: u64,
}

impl FirstByte {
    pub(super) fn within(folders: Vec<PathBuf>, least: u64) -> FirstByte {
        FirstByte { folders, least }
    }

    pub(super) fn is_there(&self) -> bool {
        self.folders.iter().any(|folder| self.in_folder(folder).unwrap_or(false))
    }

    fn in_folder(&self, folder: &Path) -> io::Result<bool> {
        for entry in std::fs::read_dir(folder)? {
            let entry = entry?;
            let found = match entry.file_type()? {
                kind if kind.is_dir() => self.in_folder(&entry.path())?,
                kind if kind.is_file() => self.in_file(&entry.path())?,
                _ => false,
            };
            if found {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// A preallocated file has length but no data.
    fn in_file(&self, path: &Path) -> io::Result<bool> {
        let file = File::open(path)?;
        Ok(file.metadata()?.len() >= self.least && rustix::fs::seek(&file, SeekFrom::Data(0)).is_ok())
    }
}

/// Looks again and again until `done`, noting when the first byte was there.
pub(super) async fn watch(
    begun: Instant,
    first_byte: &FirstByte,
    seen: &mut Seen,
    mut done: impl FnMut(&mut Seen) -> anyhow::Result<bool>,
) -> anyhow::Result<()> {
    loop {
        if seen.first_byte.is_none() && first_byte.is_there() {
            seen.first_byte = Some(begun.elapsed());
        }
        if done(seen)? {
            seen.wall = begun.elapsed();
            return Ok(());
        }
        if begun.elapsed() > ENDS_WITHIN {
            bail!("it has not ended within {} s", ENDS_WITHIN.as_secs());
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_count_every_copy_for_the_rate_and_one_for_a_sink() {
        let seen = Seen {
            wall: Duration::from_secs(2),
            first_byte: Some(Duration::from_millis(30)),
            cpu_s_source: 3.0,
            cpu_s_sinks: 6.0,
            peak_rss_source: 5_000_000,
            peak_rss_sink: 7_000_000,
        };
        let run = seen.figures(1 << 30, 3);
        assert!((run.mb_per_s - 1610.6).abs() < 0.1, "{run:?}");
        assert!((run.cpu_s_per_gib_source - 3.0).abs() < 1e-9 && (run.cpu_s_per_gib_sink - 2.0).abs() < 1e-9);
        assert!((run.first_byte_ms - 30.0).abs() < 1e-9);
    }

    #[test]
    fn own_processor_time_and_memory_are_found() {
        assert!(cpu_s(std::process::id()).is_ok());
        assert!(peak_rss(std::process::id()).is_some_and(|bytes| bytes > 0));
    }

    #[test]
    fn preallocated_file_has_no_first_byte_until_something_is_written() {
        use std::os::unix::fs::FileExt as _;
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::create_dir(folder.path().join("deep")).expect("a folder");
        let file = File::create(folder.path().join("deep/film")).expect("a file");
        file.set_len(1 << 20).expect("some room");
        let first_byte = FirstByte::within(vec![folder.path().to_path_buf()], 1 << 20);
        assert!(!first_byte.is_there());
        file.write_all_at(&[1], 300_000).expect("written");
        assert!(first_byte.is_there());
    }
}
