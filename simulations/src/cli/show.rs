//! What a person (or a script) sees of a run: one live line, plain lines without a terminal, objects with `--json`.

use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use crate::world::{World, clock};

/// The live line is drawn anew this often, and an object is printed this often.
const EVERY: Duration = Duration::from_millis(250);

/// Without a terminal a line is printed this often.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// Shows how a run goes.
pub(super) struct Show {
    started: Instant,
    shown: Instant,
    every: Duration,
    how: How,
}

enum How {
    Line(ProgressBar),
    Lines,
    Objects,
    Nothing,
}

impl Show {
    pub(super) fn new(json: bool) -> Show {
        let (how, every) = match json {
            true => (How::Objects, LINE_EVERY),
            false if std::io::stderr().is_terminal() => {
                let style = ProgressStyle::with_template("{spinner} {msg}").expect("the template is sound");
                (How::Line(ProgressBar::new_spinner().with_style(style)), EVERY)
            }
            false => (How::Lines, LINE_EVERY),
        };
        let now = Instant::now();
        Show { started: now, shown: now, every, how }
    }

    /// Shows nothing while it runs.
    pub(super) fn nothing() -> Show {
        let now = Instant::now();
        Show { started: now, shown: now, every: LINE_EVERY, how: How::Nothing }
    }

    pub(super) fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// Tells how things stand, if it was not told just now.
    pub(super) fn look(&mut self, world: &World) {
        if self.shown.elapsed() < self.every {
            return;
        }
        self.shown = Instant::now();
        let (done, all) = world.progress();
        let wall = self.elapsed().as_secs_f64();
        let speed = world.now().as_secs_f64() / wall.max(1e-3);
        let left = (done > 0).then(|| wall / done as f64 * (all - done) as f64);
        let memory = peak_rss_bytes().unwrap_or(0) >> 20;
        let line = || {
            let at = clock(u64::try_from(world.now().as_micros()).unwrap_or(u64::MAX));
            let eta = left.map_or("–".to_owned(), |secs| format!("{secs:.0} s"));
            let offload = world.offload() * 100.0;
            format!("{at}  {speed:.1}×  {done}/{all} done  offload {offload:.2} %  {memory} MiB  ETA {eta}")
        };
        match &self.how {
            How::Line(bar) => {
                bar.set_message(line());
                bar.tick();
            }
            How::Lines => eprintln!("{}", line()),
            How::Objects => println!(
                "{}",
                json!({
                    "virtual_seconds": world.now().as_secs_f64(), "speed_up": speed, "done": done, "of": all,
                    "offload": world.offload(), "memory_mib": memory, "eta_seconds": left,
                })
            ),
            How::Nothing => {}
        }
    }

    pub(super) fn end(&self) {
        if let How::Line(bar) = &self.how {
            bar.finish_and_clear();
        }
    }
}

/// The most memory this process has had, as the kernel counts it.
pub(super) fn peak_rss_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1_024)
}
