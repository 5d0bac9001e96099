//! What a person (or a script) sees of the demo: one line per step, live while it runs.
//!
//! On a terminal a spinner shows the running step; elsewhere plain lines; with `--json` one object per step on
//! standard output and nothing else.

use std::collections::BTreeMap;
use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

/// Steps shorter than this show no rate to people.
const RATE_FROM: Duration = Duration::from_secs(1);

/// What a step found out, for its line and its JSON object.
#[derive(Default, Serialize)]
pub(super) struct Findings {
    /// One sentence for a person.
    pub(super) detail: String,
    /// Verified bytes by the source that sent them.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) bytes_from: BTreeMap<String, u64>,
    /// Bytes that came and were thrown away.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) wasted_bytes: Option<u64>,
    /// 10^6 bytes per second over the part of the step that moved data.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) mb_per_s: Option<f64>,
}

impl Findings {
    pub(super) fn say(detail: impl Into<String>) -> Findings {
        Findings { detail: detail.into(), ..Findings::default() }
    }

    pub(super) fn rate(mut self, bytes: u64, elapsed: Duration) -> Findings {
        let rate = bytes as f64 / 1e6 / elapsed.as_secs_f64().max(1e-6);
        self.mb_per_s = Some((rate * 10.0).round() / 10.0);
        self
    }
}

#[derive(Serialize)]
struct StepLine<'a> {
    step: &'a str,
    n: usize,
    ok: bool,
    seconds: f64,
    #[serde(flatten)]
    findings: &'a Findings,
}

/// Shows steps as they run.
pub(super) struct Report {
    json: bool,
    moving: bool,
    steps: usize,
    passed: usize,
    busy: Duration,
    bar: Option<ProgressBar>,
}

impl Report {
    pub(super) fn new(json: bool, headless: bool) -> Report {
        let moving = !json && !headless && std::io::stdout().is_terminal();
        Report { json, moving, steps: 0, passed: 0, busy: Duration::ZERO, bar: None }
    }

    /// A line for people; nothing with `--json`.
    pub(super) fn line(&self, text: &str) {
        if !self.json {
            println!("{text}");
        }
    }

    /// Runs one step and shows how it went. Gives back whether it passed.
    pub(super) async fn step(
        &mut self,
        name: &str,
        doing: &str,
        work: impl Future<Output = anyhow::Result<Findings>>,
    ) -> bool {
        self.steps += 1;
        if self.moving {
            let bar = ProgressBar::new_spinner().with_style(
                ProgressStyle::with_template("{spinner} {msg} {elapsed}")
                    .unwrap_or_else(|_| ProgressStyle::default_spinner()),
            );
            bar.set_message(format!("{} {name:<9} {doing}", self.steps));
            bar.enable_steady_tick(Duration::from_millis(80));
            self.bar = Some(bar);
        }
        let begun = Instant::now();
        let outcome = work.await;
        let took = begun.elapsed();
        self.busy += took;
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
        let (ok, findings) = match outcome {
            Ok(findings) => (true, findings),
            Err(error) => (false, Findings::say(format!("{error:#}"))),
        };
        self.passed += usize::from(ok);
        if self.json {
            let seconds = (took.as_secs_f64() * 1000.0).round() / 1000.0;
            print_json(&StepLine { step: name, n: self.steps, ok, seconds, findings: &findings });
        } else {
            let mark = if ok { "✓" } else { "✗" };
            // Of a short step a rate would tell only how long it takes to begin.
            let rate = findings.mb_per_s.filter(|_| took >= RATE_FROM).map(|r| format!(" ({r:.0} MB/s)"));
            let text = format!("{}{}", findings.detail, rate.unwrap_or_default());
            println!("{:>2} {name:<9} {text:<92} {mark} {:>4.1} s", self.steps, took.as_secs_f64());
        }
        ok
    }

    /// The last word. Gives back whether everything passed.
    pub(super) fn verdict(&self, links: &BTreeMap<String, String>, peak_memory: &BTreeMap<String, u64>) -> bool {
        let ok = self.passed == self.steps;
        let seconds = (self.busy.as_secs_f64() * 1000.0).round() / 1000.0;
        if self.json {
            let word = if ok { "passed" } else { "failed" };
            print_json(&serde_json::json!({
                "demo": word, "passed": self.passed, "failed": self.steps - self.passed, "seconds": seconds, "links": links,
                "peak_resident_bytes": peak_memory,
            }));
        } else if ok {
            let most = peak_memory.values().max().copied().unwrap_or_default() >> 20;
            println!("All {} passed in {seconds:.1} s; no peer-node held more than {most} MiB of memory.", self.steps);
        } else {
            println!("{} of {} FAILED (after {seconds:.1} s).", self.steps - self.passed, self.steps);
        }
        ok
    }
}

fn print_json(value: &impl Serialize) {
    println!("{}", serde_json::to_string(value).expect("a report is plain data"));
}
