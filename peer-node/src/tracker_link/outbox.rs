//! Reports on their way to the tracker.
//!
//! Kept while the tracker is away, and bounded: of an item's holdings only the latest counts, traffic between the same
//! two devices adds up, stalls are forgotten oldest first. That shares are settled is said only on a stream that has
//! carried everything sent under them: what a broken stream has swallowed is told again first.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use swarm_proto::pb::tracker::{
    HoldingChange, ItemHolding, ProofAnswer, Report, ShareUse, SharesUsed, Stall, Traffic, TrafficRow, report,
};
use swarm_proto::peer::uploads::Told;
use swarm_proto::time::Utc;
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

/// Shares in one report, from the contract.
const USES_PER_REPORT: usize = 1_000;

/// Shares to report: as many as a seed counts.
const MAX_USES: usize = 16_384;

/// Stalled sources to report.
const MAX_STALLS: usize = 256;

/// Answers to challenges. The tracker waits for one at a time; older ones have come too late.
const MAX_PROOFS: usize = 4;

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
    shares: BTreeMap<u64, u64>,
    settled_until: Option<u64>,
    /// Everything sent under shares has been put in since the stream began.
    shares_complete: bool,
    proofs: VecDeque<ProofAnswer>,
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
        let mut waiting = self.waiting();
        let shares_complete = waiting.shares_complete;
        let emptied = Waiting { taken: Some(Instant::now()), shares_complete, ..Waiting::default() };
        let Waiting { holdings, traffic, stalls, proofs, shares, settled_until, .. } =
            std::mem::replace(&mut *waiting, emptied);
        drop(waiting);
        let holdings =
            holdings.into_values().map(|holding| report::Report::Holding(HoldingChange { holding: Some(holding) }));
        let stalls = stalls.into_iter().map(report::Report::Stall);
        let proofs = proofs.into_iter().map(report::Report::Proof);
        let rows: Vec<TrafficRow> = traffic.into_values().collect();
        let traffic = rows.chunks(ROWS_PER_REPORT).map(|rows| report::Report::Traffic(Traffic { rows: rows.to_vec() }));
        let shares = shares_used(shares, settled_until.filter(|_| shares_complete)).map(report::Report::SharesUsed);
        let reports = holdings.chain(proofs).chain(stalls).chain(traffic).chain(shares);
        reports.map(|report| Report { report: Some(report) }).collect()
    }

    /// Takes what a seed has sent under shares; `everything` if it leaves nothing out.
    pub(super) fn add_shares(&self, told: Told, everything: bool) {
        let mut waiting = self.waiting();
        waiting.shares_complete |= everything;
        waiting.settled_until = waiting.settled_until.max(told.settled_until.map(Utc::as_millis));
        let filled = !told.uses.is_empty() || waiting.settled_until.is_some();
        told.uses.into_iter().for_each(|(serial, sent)| waiting.add_use(serial, sent));
        if filled {
            waiting.since.get_or_insert_with(Instant::now);
            drop(waiting);
            self.0.filled.notify_one();
        }
    }

    /// A new stream begins: what went out on the last one may not have arrived.
    pub(super) fn restart_shares(&self) {
        let mut waiting = self.waiting();
        waiting.shares_complete = false;
        waiting.settled_until = None;
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
            // That they are settled is said anew on the next stream.
            report::Report::SharesUsed(used) => {
                used.uses.into_iter().for_each(|it| self.add_use(it.serial, it.sent_bytes));
            }
            report::Report::Proof(proof) => {
                if self.proofs.len() == MAX_PROOFS {
                    self.proofs.pop_front();
                }
                self.proofs.push_back(proof);
            }
            report::Report::Holding(_) | report::Report::Hello(_) | report::Report::Heartbeat(_) => {}
        }
    }

    fn add_use(&mut self, serial: u64, sent: u64) {
        let told = self.shares.entry(serial).or_default();
        *told = sent.max(*told);
        if self.shares.len() > MAX_USES {
            // The oldest serial is the lowest.
            self.shares.pop_first();
            self.shares_complete = false;
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

/// Reports that together tell all this; only the last one says that it is settled.
fn shares_used(shares: BTreeMap<u64, u64>, settled_until_utc_ms: Option<u64>) -> impl Iterator<Item = SharesUsed> {
    let uses: Vec<ShareUse> = shares.into_iter().map(|(serial, sent_bytes)| ShareUse { serial, sent_bytes }).collect();
    let mut reports: Vec<SharesUsed> = uses
        .chunks(USES_PER_REPORT)
        .map(|uses| SharesUsed { uses: uses.to_vec(), settled_until_utc_ms: None })
        .collect();
    if settled_until_utc_ms.is_some() {
        let mut last = reports.pop().unwrap_or_default();
        last.settled_until_utc_ms = settled_until_utc_ms;
        reports.push(last);
    }
    reports.into_iter()
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

    fn told(uses: &[(u64, u64)], settled: u64) -> Told {
        Told { uses: uses.to_vec(), settled_until: Some(Utc::from_millis(settled)) }
    }

    fn shares_of(outbox: &Outbox) -> Vec<SharesUsed> {
        let reports = outbox.take().into_iter().filter_map(|report| report.report);
        let shares = reports.map(|report| match report {
            report::Report::SharesUsed(used) => used,
            other => panic!("not about shares: {other:?}"),
        });
        shares.collect()
    }

    fn used(uses: &[(u64, u64)], settled_until_utc_ms: Option<u64>) -> SharesUsed {
        let uses = uses.iter().map(|&(serial, sent_bytes)| ShareUse { serial, sent_bytes });
        SharesUsed { uses: uses.collect(), settled_until_utc_ms }
    }

    #[test]
    fn shares_are_settled_only_on_a_stream_that_has_carried_everything() {
        let outbox = Outbox::default();
        outbox.add_shares(told(&[(1, 5)], 100), false);
        assert_eq!(shares_of(&outbox), [used(&[(1, 5)], None)]);
        outbox.add_shares(told(&[(1, 5), (2, 7)], 200), true);
        outbox.add_shares(told(&[(2, 9)], 300), false);
        assert_eq!(shares_of(&outbox), [used(&[(1, 5), (2, 9)], Some(300))]);
        outbox.add_shares(told(&[], 400), false);
        assert_eq!(shares_of(&outbox), [used(&[], Some(400))]);

        outbox.add_shares(told(&[(3, 1)], 500), false);
        outbox.restart_shares();
        assert_eq!(shares_of(&outbox), [used(&[(3, 1)], None)]);
        outbox.add_shares(told(&[], 600), false);
        assert_eq!(shares_of(&outbox), []);
    }

    #[test]
    fn many_shares_go_in_several_reports_and_the_last_one_settles_them() {
        let outbox = Outbox::default();
        let uses: Vec<(u64, u64)> = (0..2_500).map(|serial| (serial, 1)).collect();
        outbox.add_shares(told(&uses, 100), true);
        let reports = shares_of(&outbox);
        let settled: Vec<_> = reports.iter().map(|it| (it.uses.len(), it.settled_until_utc_ms)).collect();
        assert_eq!(settled, [(1_000, None), (1_000, None), (500, Some(100))]);
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
