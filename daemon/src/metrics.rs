//! What a daemon counts, for `/metrics` in the OpenMetrics text format.
//!
//! One registry for the whole process, filled by whoever counts something. Labels never name a user, a device or a
//! title: their number is bounded by the program, not by the world. Facts of the process (memory, processor time,
//! descriptors) are read from `/proc` when asked for, and left out where there is none.

use std::fmt;
use std::fs;
use std::sync::{Arc, Mutex, PoisonError};

use axum::response::{IntoResponse, Response};
use http::header;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, text};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

/// The media type of the OpenMetrics text format.
const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The registry of a daemon. Clones share it.
#[derive(Debug, Clone)]
pub struct Metrics(Arc<Mutex<Registry>>);

impl Metrics {
    /// A registry that knows about the process and about this role and version.
    pub fn new(role: &'static str, version: &'static str) -> Metrics {
        let mut registry = Registry::with_prefix("reelswarm");
        registry.register("build", "The program", Info::new(vec![("role", role), ("version", version)]));
        registry.register_collector(Box::new(Process));
        Metrics(Arc::new(Mutex::new(registry)))
    }

    /// Lets someone add what they count. Called once per counter at the start, never on a hot path.
    pub fn register<T>(&self, add: impl FnOnce(&mut Registry) -> T) -> T {
        add(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Everything counted, as text.
    pub fn encode(&self) -> Result<String, fmt::Error> {
        let mut out = String::new();
        text::encode(&mut out, &self.0.lock().unwrap_or_else(PoisonError::into_inner))?;
        Ok(out)
    }

    pub(crate) fn page(&self) -> Response {
        match self.encode() {
            Ok(text) => ([(header::CONTENT_TYPE, CONTENT_TYPE)], text).into_response(),
            Err(fmt::Error) => http::StatusCode::INTERNAL_SERVER_ERROR.into_response(),
        }
    }
}

/// Reads the facts of this process from `/proc`.
#[derive(Debug)]
struct Process;

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        if let Some(bytes) = resident_bytes() {
            let metric = ConstGauge::new(bytes);
            let help = "Memory that is resident";
            metric.encode(encoder.encode_descriptor(
                "process_resident_memory",
                help,
                Some(&Unit::Bytes),
                metric.metric_type(),
            )?)?;
        }
        if let Some(seconds) = cpu_seconds() {
            let metric = ConstCounter::new(seconds);
            let help = "Processor time, user and system";
            metric.encode(encoder.encode_descriptor(
                "process_cpu",
                help,
                Some(&Unit::Seconds),
                metric.metric_type(),
            )?)?;
        }
        if let Some(open) = open_descriptors() {
            let metric = ConstGauge::new(open);
            let help = "File descriptors that are open";
            metric.encode(encoder.encode_descriptor("process_open_fds", help, None, metric.metric_type())?)?;
        }
        Ok(())
    }
}

/// The memory of this process that is resident, where the system tells.
pub fn resident_bytes() -> Option<i64> {
    let statm = fs::read_to_string("/proc/self/statm").ok()?;
    let pages: i64 = statm.split_whitespace().nth(1)?.parse().ok()?;
    pages.checked_mul(i64::try_from(rustix::param::page_size()).ok()?)
}

/// The processor time this process has used, user and system, where the system tells.
pub fn cpu_seconds() -> Option<f64> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    // The name of the program may hold spaces and parentheses; what follows the last one is numbers.
    let numbers: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let (user, system): (f64, f64) = (numbers.get(11)?.parse().ok()?, numbers.get(12)?.parse().ok()?);
    Some((user + system) / rustix::param::clock_ticks_per_second() as f64)
}

fn open_descriptors() -> Option<i64> {
    i64::try_from(fs::read_dir("/proc/self/fd").ok()?.count()).ok()
}

#[cfg(test)]
mod tests {
    use prometheus_client::metrics::counter::Counter;

    use super::*;

    #[test]
    fn page_holds_the_process_and_what_was_registered() {
        let metrics = Metrics::new("tracker", "1.2.3");
        let counter = metrics.register(|registry| {
            let counter = Counter::<u64>::default();
            registry.register("plans", "Plans made", counter.clone());
            counter
        });
        counter.inc_by(3);
        let text = metrics.encode().unwrap();
        assert!(text.contains("reelswarm_plans_total 3\n"), "{text}");
        assert!(text.contains("reelswarm_build_info{role=\"tracker\",version=\"1.2.3\"} 1\n"), "{text}");
        assert!(text.contains("process_resident_memory_bytes "), "{text}");
        assert!(text.contains("process_cpu_seconds_total "), "{text}");
        assert!(text.contains("process_open_fds "), "{text}");
        assert!(text.ends_with("# EOF\n"), "{text}");
    }
}
