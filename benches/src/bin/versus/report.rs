//! Says how everybody did: a JSON object or a line of a table per contender and shape, medians of the runs.

use std::collections::BTreeMap;

use serde_json::json;

use super::Shape;
use super::measure::Run;
use super::restart::Restart;

/// One contender in one shape.
pub(super) struct Row {
    pub(super) contender: &'static str,
    pub(super) shape: Shape,
    pub(super) median: Run,
}

/// What has been measured so far.
pub(super) struct Report {
    json: bool,
    runs: usize,
    results: BTreeMap<(&'static str, usize), Vec<Run>>,
    rows: Vec<Row>,
    failed: bool,
}

impl Report {
    pub(super) fn new(json: bool, runs: usize) -> Report {
        Report { json, runs, results: BTreeMap::new(), rows: Vec::new(), failed: false }
    }

    pub(super) fn missing(&self, contender: &str, install: &str) {
        match self.json {
            true => println!("{}", json!({ "contender": contender, "missing": install })),
            false => println!("{contender}: not installed; {install}"),
        }
    }

    pub(super) fn progress(&self, contender: &str, shape: Shape, run: usize) {
        eprintln!("{shape} run {} of {}: {contender}", run + 1, self.runs);
    }

    pub(super) fn add(&mut self, contender: &'static str, shape: Shape, result: anyhow::Result<Run>) {
        match result {
            Ok(run) => self.results.entry((contender, shape.0)).or_default().push(run),
            Err(error) => {
                self.failed = true;
                eprintln!("error: a run of {contender} {shape} failed: {error:#}");
            }
        }
    }

    /// Prints what everybody has reached in this shape.
    pub(super) fn shape_is_done(&mut self, shape: Shape, contenders: &[&'static str]) {
        if !self.json {
            println!(
                "\n{shape:<22} {:>8} {:>13} {:>11} {:>11} {:>13} {:>9} {:>14}",
                "MB/s", "(least–most)", "cpu source", "cpu sink", "peak MB", "", "first byte ms"
            );
        }
        for contender in contenders {
            let runs = self.results.get(&(*contender, shape.0)).map_or(&[][..], Vec::as_slice);
            if runs.len() < self.runs {
                self.failed = true;
                self.say_failed(contender, shape, runs.len());
                continue;
            }
            let row = Row { contender, shape, median: median(runs) };
            self.say(&row, runs);
            self.rows.push(row);
        }
    }

    /// How a killed box went on.
    pub(super) fn restarted(&self, restart: &Restart) {
        let Restart { held_percent, first_useful_byte_ms, fetched_again_mib, hashed_again_percent } = restart;
        if self.json {
            let line = json!({
                "contender": "reelswarm", "figure": "restart", "held_percent": round(*held_percent),
                "first_useful_byte_ms": round(*first_useful_byte_ms), "fetched_again_mib": round(*fetched_again_mib),
                "hashed_again_percent": round(*hashed_again_percent),
            });
            println!("{line}");
        } else {
            println!(
                "killed with {held_percent:.0} % held: first useful byte after {first_useful_byte_ms:.0} ms, \
                 {fetched_again_mib:.1} MiB fetched again, {hashed_again_percent:.1} % hashed again"
            );
        }
    }

    pub(super) fn rows(&self) -> &[Row] {
        &self.rows
    }

    pub(super) fn all_well(&self) -> bool {
        !self.failed
    }

    fn say_failed(&self, contender: &str, shape: Shape, runs: usize) {
        let why = format!("{} of {} runs failed", self.runs - runs, self.runs);
        match self.json {
            true => println!("{}", json!({ "contender": contender, "shape": shape.to_string(), "failed": why })),
            false => println!("{contender:<22} {why}"),
        }
    }

    fn say(&self, row: &Row, runs: &[Run]) {
        let Row { contender, shape, median } = row;
        let rates: Vec<f64> = runs.iter().map(|run| run.mb_per_s).collect();
        let least = rates.iter().copied().fold(f64::INFINITY, f64::min);
        let most = rates.iter().copied().fold(0.0, f64::max);
        if self.json {
            let line = json!({
                "contender": contender, "shape": shape.to_string(),
                "mb_per_s": round(median.mb_per_s),
                "cpu_s_per_gib_source": round(median.cpu_s_per_gib_source),
                "cpu_s_per_gib_sink": round(median.cpu_s_per_gib_sink),
                "peak_rss_mb": round(median.peak_rss_mb_source.max(median.peak_rss_mb_sink)),
                "peak_rss_mb_source": round(median.peak_rss_mb_source),
                "peak_rss_mb_sink": round(median.peak_rss_mb_sink),
                "first_byte_ms": round(median.first_byte_ms),
                "mb_per_s_runs": rates.iter().map(|rate| round(*rate)).collect::<Vec<_>>(),
            });
            println!("{line}");
        } else {
            println!(
                "{contender:<22} {:>8.0} {:>13} {:>11.2} {:>11.2} {:>13} {:>9} {:>14.0}",
                median.mb_per_s,
                format!("{least:.0}–{most:.0}"),
                median.cpu_s_per_gib_source,
                median.cpu_s_per_gib_sink,
                format!("{:.0} / {:.0}", median.peak_rss_mb_source, median.peak_rss_mb_sink),
                "",
                median.first_byte_ms,
            );
        }
    }
}

/// Three digits after the point are more than any of this is good for.
fn round(value: f64) -> f64 {
    (value * 1e3).round() / 1e3
}

/// The median of each figure by itself.
fn median(runs: &[Run]) -> Run {
    let of = |figure: fn(&Run) -> f64| {
        let mut values: Vec<f64> = runs.iter().map(figure).collect();
        values.sort_by(f64::total_cmp);
        let middle = values.len() / 2;
        if values.len() % 2 == 1 { values[middle] } else { f64::midpoint(values[middle - 1], values[middle]) }
    };
    Run {
        mb_per_s: of(|run| run.mb_per_s),
        cpu_s_per_gib_source: of(|run| run.cpu_s_per_gib_source),
        cpu_s_per_gib_sink: of(|run| run.cpu_s_per_gib_sink),
        peak_rss_mb_source: of(|run| run.peak_rss_mb_source),
        peak_rss_mb_sink: of(|run| run.peak_rss_mb_sink),
        first_byte_ms: of(|run| run.first_byte_ms),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_outlier_does_not_move_the_median() {
        let runs = [200.0, 9_000.0, 210.0].map(|mb_per_s| Run { mb_per_s, ..Run::default() });
        assert!((median(&runs).mb_per_s - 210.0).abs() < 1e-9);
        let four = [1.0, 2.0, 3.0, 4.0].map(|first_byte_ms| Run { first_byte_ms, ..Run::default() });
        assert!((median(&four).first_byte_ms - 2.5).abs() < 1e-9);
    }
}
