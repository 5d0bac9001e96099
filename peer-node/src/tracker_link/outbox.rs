//! Reports on their way to the tracker.
//!
//! Kept while the tracker is away, and bounded: of an item's holdings only the latest counts, traffic between the same
//! two devices adds up, stalls are forgotten oldest first.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use swarm_proto::pb::tracker::{HoldingChange, ItemHolding, Report, Stall, Traffic, TrafficRow, report};
use tokio::sync::Notify;
use tokio::time::Instant;

/// Between two batches of reports. The first goes at once and later ones coalesce; short enough that a plan made now
/// knows the chunks of now.
const BATCH_EVERY: Duration = Duration::from_millis(100);

/// Items whose holding has changed; a Hello brings everything anyway.
const MAX_HOLDINGS: usize = 100_000;

/// Pairs of item and counterpart with traffic to report.
const MAX_TRAFFIC_ROWS: usize = 10_000;

/// Rows in one Traffic report, from the contract.
const ROWS_PER_REPORT: usize = 1_000;

/// Stalled sources to report.
const MAX_STALLS: usize = 256;

#[derive(Clone, Default)]
pub(super) struct Outbox(Arc<Shared>);

#[derive(Default)]
struct Shared {
    waiting: Mutex<Waiting>,
    filled: Notify,
}

#[derive(Default)]
struct Waiting {
    /// When the oldest report came in; `None` when there is none.
    since: Option<Instant>,
    /// When reports were taken last.
    taken: Option<Instant>,
    holdings: BTreeMap<Vec<u8>, ItemHolding>,
    traffic: BTreeMap<(Vec<u8>, Vec<u8>), TrafficRow>,
    stalls: VecDeque<Stall>,
}

impl Outbox {
    /// Takes a report. Hello and heartbeat are the link's own and are not queued.
    pub(super) fn add(&self, report: report::Report) {
        self.waiting().add(report);
        self.0.filled.notify_one();
    }

    /// Waits until there are reports and the last batch is long enough ago. Nothing is lost if the wait is given up.
    pub(super) async fn ripe(&self) {
        loop {
            let due = self.waiting().due();
            match due {
                Some(due) => return tokio::time::sleep_until(due).await,
                None => self.0.filled.notified().await,
            }
        }
    }

    /// Everything there is to report.
    pub(super) fn take(&self) -> Vec<Report> {
        let emptied = Waiting { taken: Some(Instant::now()), ..Waiting::default() };
        let Waiting { holdings, traffic, stalls, .. } = std::mem::replace(&mut *self.waiting(), emptied);
        let holdings =
            holdings.into_values().map(|holding| report::Report::Holding(HoldingChange { holding: Some(holding) }));
        let stalls = stalls.into_iter().map(report::Report::Stall);
        let rows: Vec<TrafficRow> = traffic.into_values().collect();
        let traffic = rows.chunks(ROWS_PER_REPORT).map(|rows| report::Report::Traffic(Traffic { rows: rows.to_vec() }));
        holdings.chain(stalls).chain(traffic).map(|report| Report { report: Some(report) }).collect()
    }

    /// Forgets holding changes: a Hello is about to tell all holdings.
    pub(super) fn drop_holdings(&self) {
        self.waiting().holdings.clear();
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    fn due(&self) -> Option<Instant> {
        let since = self.since?;
        Some(self.taken.map_or(since, |taken| since.max(taken + BATCH_EVERY)))
    }

    fn add(&mut self, report: report::Report) {
        self.since.get_or_insert_with(Instant::now);
        match report {
            report::Report::Holding(HoldingChange { holding: Some(holding) }) => {
                if self.holdings.len() < MAX_HOLDINGS || self.holdings.contains_key(&holding.item) {
                    self.holdings.insert(holding.item.clone(), holding);
                }
            }
            report::Report::Traffic(Traffic { rows }) => rows.into_iter().for_each(|row| self.add_traffic(row)),
            report::Report::Stall(stall) => {
                if self.stalls.len() == MAX_STALLS {
                    self.stalls.pop_front();
                }
                self.stalls.push_back(stall);
            }
            report::Report::Holding(_) | report::Report::Hello(_) | report::Report::Heartbeat(_) => {}
        }
    }

    fn add_traffic(&mut self, row: TrafficRow) {
        let key = (row.item.clone(), row.counterpart.clone());
        if let Some(sum) = self.traffic.get_mut(&key) {
            sum.received_verified_bytes = sum.received_verified_bytes.saturating_add(row.received_verified_bytes);
            sum.received_wasted_bytes = sum.received_wasted_bytes.saturating_add(row.received_wasted_bytes);
            sum.sent_bytes = sum.sent_bytes.saturating_add(row.sent_bytes);
        } else if self.traffic.len() < MAX_TRAFFIC_ROWS {
            self.traffic.insert(key, row);
        } else {
            tracing::warn!("too many unreported counterparts; traffic of one more is not reported");
        }
    }
}

#[cfg(test)]
mod tests {
    use swarm_proto::pb::common::ChunkRange;

    use super::*;

    fn holding(item: u8, chunks: u32) -> report::Report {
        let ranges = vec![ChunkRange { first: 0, count: chunks }];
        report::Report::Holding(HoldingChange {
            holding: Some(ItemHolding { item: vec![item; 32], n_chunks: 100, ranges }),
        })
    }

    fn traffic(counterpart: u8, bytes: u64) -> report::Report {
        let row = TrafficRow {
            item: vec![1; 32],
            counterpart: vec![counterpart; 32],
            sent_bytes: bytes,
            ..TrafficRow::default()
        };
        report::Report::Traffic(Traffic { rows: vec![row] })
    }

    #[test]
    fn latest_holding_of_an_item_is_the_one_reported() {
        let outbox = Outbox::default();
        for chunks in 1..=50 {
            outbox.add(holding(1, chunks));
        }
        outbox.add(holding(2, 7));
        let reports: Vec<_> = outbox.take().into_iter().filter_map(|report| report.report).collect();
        assert_eq!(reports, vec![holding(1, 50), holding(2, 7)]);
        assert!(outbox.take().is_empty());
    }

    #[test]
    fn traffic_adds_up_and_is_cut_to_what_one_report_may_hold() {
        let outbox = Outbox::default();
        outbox.add(traffic(1, 10));
        outbox.add(traffic(1, 5));
        assert_eq!(outbox.take(), vec![Report { report: Some(traffic(1, 15)) }]);

        for counterpart in 0..2_500u32 {
            let mut id = vec![0; 32];
            id[..4].copy_from_slice(&counterpart.to_be_bytes());
            let row = TrafficRow { item: vec![1; 32], counterpart: id, sent_bytes: 1, ..TrafficRow::default() };
            outbox.add(report::Report::Traffic(Traffic { rows: vec![row] }));
        }
        assert_eq!(outbox.take().len(), 3);
    }

    #[test]
    fn hello_makes_older_holding_changes_moot_and_nothing_else() {
        let outbox = Outbox::default();
        outbox.add(holding(1, 3));
        outbox.add(traffic(1, 10));
        outbox.drop_holdings();
        assert_eq!(outbox.take(), vec![Report { report: Some(traffic(1, 10)) }]);
    }

    #[test]
    fn stalls_are_forgotten_oldest_first() {
        let outbox = Outbox::default();
        for n in 0..=MAX_STALLS {
            outbox.add(report::Report::Stall(Stall { item: vec![1; 32], source: n.to_be_bytes().to_vec() }));
        }
        let reports = outbox.take();
        assert_eq!(reports.len(), MAX_STALLS);
        assert!(
            matches!(&reports[0].report, Some(report::Report::Stall(stall)) if stall.source == 1usize.to_be_bytes())
        );
    }

    #[tokio::test(start_paused = true)]
    async fn first_report_goes_at_once_and_later_ones_in_batches() {
        let (outbox, began) = (Outbox::default(), Instant::now());
        outbox.add(holding(1, 3));
        outbox.ripe().await;
        assert_eq!((outbox.take().len(), began.elapsed()), (1, Duration::ZERO));
        outbox.add(holding(1, 4));
        outbox.add(holding(1, 5));
        outbox.ripe().await;
        assert_eq!((outbox.take().len(), began.elapsed()), (1, BATCH_EVERY));
    }

    #[tokio::test(start_paused = true)]
    async fn wait_that_is_given_up_loses_nothing() {
        let outbox = Outbox::default();
        outbox.take();
        outbox.add(holding(1, 3));
        assert!(tokio::time::timeout(BATCH_EVERY / 2, outbox.ripe()).await.is_err());
        assert!(tokio::time::timeout(BATCH_EVERY, outbox.ripe()).await.is_ok());
        assert_eq!(outbox.take().len(), 1);
    }
}
