//! What the engine tells others: the tracker, Kademlia, and people.
//!
//! Holdings as they change, traffic and link rates every few seconds, announcements a few at a time, and a picture of
//! everything at most four times a second. Only what is written is told.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use swarm_proto::bitmap::Holding;
use swarm_proto::id::{DeviceId, ItemId};
use swarm_proto::membership::DeviceKind;
use swarm_proto::pb;
use swarm_proto::pb::tracker::report::Report;
use swarm_proto::time::{Mono, Now};

use super::run::{Engine, Event};
use super::show::Scene;
use crate::tracker_link::HelloState;

/// How often traffic and link rates are told to the tracker.
const REPORT_EVERY: Duration = Duration::from_secs(5);
/// Items announced in Kademlia with each tick: a seed with many does not flood its peers at the start.
const ANNOUNCE_PER_TICK: usize = 8;
/// Room for preloads is told in steps, so that every chunk is not news.
const ROOM_STEP: u64 = 1 << 20;
/// Measured rates are told in steps, so that jitter is not news.
const RATE_STEP: u64 = 64 << 10;

impl Engine {
    pub(super) fn on_membership(&mut self) {
        let enrolled = self.members.borrow_and_update().clone();
        self.desk.set_tracker(enrolled.as_ref().map(|enrolled| enrolled.tracker));
        let is_seed = enrolled.as_ref().is_some_and(|enrolled| enrolled.membership.kind == DeviceKind::Seed);
        self.desk.uploads.set_seed(is_seed);
        self.preload_left = self.preload_room();
        // Another swarm has another key.
        self.announced.clear();
        self.to_announce = self.items.list().into();
    }

    pub(super) fn on_tick(&mut self, now: Now) {
        for (id, live) in &self.live {
            self.transfers.handle_received(*id, live.exchange.received());
        }
        self.announce_some();
        self.report_holdings(now.mono);
        let sent = self.desk.uploads.sent_bytes();
        if sent > self.uploaded_before {
            self.uplink.add(now.mono, sent - self.uploaded_before);
            self.uploaded_before = sent;
            self.show.touch();
        }
        if now.mono.since(self.reported_at) >= REPORT_EVERY {
            self.reported_at = now.mono;
            self.report_traffic();
            self.report_shares(now);
            self.preload_left = self.preload_room();
        }
        self.tell_hello(now);
        let network = self.net.status().borrow().clone();
        let scene = Scene {
            items: &self.items,
            wanted: &self.wanted,
            transfers: &self.transfers,
            network: &network,
            uploaded_bytes: sent,
            banned: &self.banned,
        };
        if let Some(snapshot) = self.show.draw(now, &scene) {
            self.snapshot.send_replace(Arc::new(snapshot));
        }
    }

    pub(super) fn announce_some(&mut self) {
        for _ in 0..ANNOUNCE_PER_TICK {
            let Some(item) = self.to_announce.pop_front() else { return };
            let holds = self.items.holding(&item).is_some_and(|holding| !holding.is_empty());
            let (Some(key), true) = (self.provider_key(item), holds) else { continue };
            self.announced.insert(item);
            let net = self.net.clone();
            self.job(async move {
                net.provide(key).await;
                Event::Nothing
            });
        }
    }

    /// What the disk holds of an item is no longer what it was.
    pub(super) fn holding_changed(&mut self, now: Now, item: ItemId) {
        let holding = self.items.holding(&item);
        let held = holding.as_ref().map_or(0, Holding::len);
        let n_chunks = holding.map_or(held, |holding| holding.n_chunks());
        self.news.handle_changed(now.mono, item, held, n_chunks);
    }

    /// Tells the tracker what is due by then.
    pub(super) fn report_holdings(&mut self, due: Mono) {
        let held = |item: &ItemId| self.items.holding(item).map_or(0, |holding| holding.len());
        while let Some(item) = self.news.poll_item(due, held) {
            match (self.items.holding(&item), self.geometry(&item)) {
                (Some(holding), _) => self.report_holding(item, holding.n_chunks(), holding.to_ranges()),
                (None, Some(geometry)) => self.report_holding(item, geometry.n_chunks(), Vec::new()),
                // It was deleted, which was told when that was done.
                (None, None) => {}
            }
        }
    }

    /// Tells the tracker what is held of an item.
    pub(super) fn report_holding(&self, item: ItemId, n_chunks: u32, ranges: Vec<pb::common::ChunkRange>) {
        let holding = pb::tracker::ItemHolding { item: item.to_vec(), n_chunks, ranges };
        self.report(Report::Holding(pb::tracker::HoldingChange { holding: Some(holding) }));
    }

    pub(super) fn report_traffic(&mut self) {
        let mut rows: BTreeMap<(ItemId, DeviceId), pb::tracker::TrafficRow> = BTreeMap::new();
        let row = |item: ItemId, device: DeviceId| pb::tracker::TrafficRow {
            item: item.to_vec(),
            counterpart: device.to_vec(),
            ..pb::tracker::TrafficRow::default()
        };
        for ((item, device), traffic) in self.transfers.take_traffic() {
            let row = rows.entry((item, device)).or_insert_with(|| row(item, device));
            row.received_verified_bytes = traffic.verified_bytes;
            row.received_wasted_bytes = traffic.wasted_bytes;
        }
        for (item, device, bytes) in self.desk.uploads.take_ledger() {
            rows.entry((item, device)).or_insert_with(|| row(item, device)).sent_bytes = bytes;
        }
        if !rows.is_empty() {
            self.report(Report::Traffic(pb::tracker::Traffic { rows: rows.into_values().collect() }));
        }
    }

    /// What was sent under the shares of tickets; only seeds have some.
    pub(super) fn report_shares(&mut self, now: Now) {
        if !self.desk.uploads.is_seed() {
            return;
        }
        let everything = std::mem::take(&mut self.untold_shares);
        let told = self.desk.uploads.tell_shares(now.utc, self.desk.tracker_up, everything);
        if let Some(tracker) = &self.tracker {
            tracker.report_shares(told, everything);
        }
    }

    pub(super) fn report(&self, report: Report) {
        if let Some(tracker) = &self.tracker {
            tracker.report(report);
        }
    }

    /// What a heartbeat says: addresses, and the best rates of late.
    fn tell_hello(&mut self, now: Now) {
        let fade = |best: u64| best - best / 256;
        self.best_uplink = fade(self.best_uplink).max(self.uplink.per_sec(now.mono));
        self.best_downlink = fade(self.best_downlink).max(self.downlink.per_sec(now.mono));
        let step = |rate: u64| (rate >= RATE_STEP).then(|| rate / RATE_STEP * RATE_STEP);
        let hello = HelloState {
            addresses: self.net.status().borrow().listening.iter().map(ToString::to_string).collect(),
            uplink_bytes_per_sec: step(self.best_uplink),
            downlink_bytes_per_sec: step(self.best_downlink),
            upload_cap_bytes_per_sec: self.upload_cap,
            run: self.run,
            preload_bytes: Some(self.preload_left / ROOM_STEP * ROOM_STEP),
        };
        self.hello.send_if_modified(|told| {
            let changed = *told != hello;
            *told = hello;
            changed
        });
    }
}
