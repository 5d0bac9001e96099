//! What a device counts, for `/metrics`: read from those who know when someone asks. No label names a person or title.

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;

use crate::status::Sources;

/// Reads the figures of a device.
pub struct Figures(Sources);

impl Figures {
    /// The figures behind these sources.
    pub fn of(sources: Sources) -> Figures {
        Figures(sources)
    }
}

impl std::fmt::Debug for Figures {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Figures").finish_non_exhaustive()
    }
}

impl Collector for Figures {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> std::fmt::Result {
        let Sources { engine, items, link, grants, .. } = &self.0;
        let snapshot = engine.snapshot().borrow().clone();
        let usage = items.usage();
        let gauges = [
            ("stored", "Bytes of items on this disk", Some(Unit::Bytes), usage.stored_bytes),
            ("free", "Bytes that items may still take", Some(Unit::Bytes), usage.free_bytes),
            ("items", "Items wanted or held", None, snapshot.items.len() as u64),
            ("peers_connected", "Devices connected now", None, snapshot.connected_peers as u64),
            ("peers_banned", "Devices that sent a proven bad chunk", None, snapshot.banned.len() as u64),
            ("tracker_up", "Whether the tracker is there", None, link.up().borrow().up.into()),
            ("keyserver_up", "Whether the keyserver is there", None, grants.link().borrow().up.into()),
        ];
        for (name, help, unit, value) in gauges {
            let gauge = ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
            let encoder = encoder.encode_descriptor(name, help, unit.as_ref(), gauge.metric_type())?;
            gauge.encode(encoder)?;
        }
        let readings = items.readings();
        let counters = [
            ("uploaded", "Bytes passed on", Some(Unit::Bytes), snapshot.uploaded_bytes),
            ("chunks_read", "Chunks that were read from disk", None, readings.from_disk),
            ("chunks_hashed_again", "Chunks on disk that were hashed again", None, readings.hashed),
        ];
        for (name, help, unit, value) in counters {
            let counter = ConstCounter::new(value);
            let encoder = encoder.encode_descriptor(name, help, unit.as_ref(), counter.metric_type())?;
            counter.encode(encoder)?;
        }
        Ok(())
    }
}
