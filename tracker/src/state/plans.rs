//! Questions about plans: when a title would be there, and why who sends what.

use std::time::Duration;

use daemon::exit::Failure;
use swarm_proto::geometry::CHUNK_BYTES;
use swarm_proto::id::{DeviceId, ItemId, TitleId};
use swarm_proto::pb::common as pb_common;
use swarm_proto::pb::tracker as pb;
use swarm_proto::ticket::TicketClass;
use swarm_proto::time::{Now, Utc};
use swarm_proto::tracker::admission;
use swarm_proto::tracker::planner::{Estimate, Lease};
use swarm_proto::tracker::registry::RegistryError;
use swarm_proto::tracker::sites::{Ask, Closed, Verdict};

use super::{Handle, State};
use crate::refusal;

/// Ends of windows that one estimate looks beyond: a month of nights.
const MAX_WINDOWS: usize = 64;

impl Handle {
    /// When a title would be complete on a device.
    pub(crate) async fn estimate(&self, device: DeviceId, title: TitleId) -> Result<pb::EstimateResponse, Failure> {
        self.look(move |state, now| state.estimate(now, &device, &title)).await
    }

    /// Why who sends a title to a device.
    pub(crate) async fn explain(&self, device: DeviceId, title: TitleId) -> Result<pb::Explanation, Failure> {
        self.look(move |state, now| state.explain(now, &device, &title)).await
    }
}

impl State {
    fn estimate(&self, now: Now, device: &DeviceId, title: &TitleId) -> Result<pb::EstimateResponse, Failure> {
        let account = admission::admit_device(&self.registry, device).map_err(refusal::admission)?.0.account;
        let listing = self.catalog.title(title).ok_or_else(refusal::no_title)?;
        admission::admit(&self.registry, device, listing).map_err(refusal::admission)?;
        let queue = self.queues.get(&account);
        let before = queue.into_iter().flat_map(|queue| queue.entries());
        let before = before.take_while(|entry| entry.title != *title);
        let before = before.filter(|entry| entry.target.is_none_or(|target| target == *device));
        let bytes_before: u64 = before
            .filter_map(|entry| self.catalog.title(&entry.title))
            .map(|it| u64::from(self.missing_chunks(device, &it.entry.item, it.n_chunks())) * CHUNK_BYTES)
            .sum();
        let missing = self.missing_chunks(device, &listing.entry.item, listing.n_chunks());
        let answer = pb::EstimateResponse {
            ready_utc_ms: None,
            bytes_per_sec: 0,
            missing_bytes: (u64::from(missing) * CHUNK_BYTES).min(listing.entry.geometry.sealed_len()),
            bytes_before,
            not_before: String::new(),
        };
        let ask = self.ask_of(*device, listing.entry.item, TicketClass::Queued).ok_or_else(refusal::no_title)?;
        let (after, bytes_per_sec) =
            match self.planner.estimate(now.mono, device, &listing.entry.item, missing, bytes_before) {
                Estimate::Ready { after, bytes_per_sec } => (after, bytes_per_sec),
                Estimate::NotBefore(why) => {
                    let not_before = self.waiting_text(&listing.entry.item, why);
                    return Ok(pb::EstimateResponse { not_before, ..answer });
                }
            };
        Ok(match self.over_windows(now.utc, &ask, after) {
            Ok(ready) => pb::EstimateResponse { ready_utc_ms: Some(ready.as_millis()), bytes_per_sec, ..answer },
            Err(closed) => {
                pb::EstimateResponse { not_before: self.site_in_words(now.utc, &ask.site, &closed), ..answer }
            }
        })
    }

    /// When so much time of sending will have passed: only while the site's windows and the customer's wish let it.
    fn over_windows(&self, from: Utc, ask: &Ask, sending: Duration) -> Result<Utc, Closed> {
        let (mut at, mut left) = (from, sending);
        for _ in 0..MAX_WINDOWS {
            match self.gate.judge(at, ask) {
                Verdict::Open { until: Some(until) } if at + left > until && until > at => {
                    left = left.saturating_sub(until.since(at));
                    at = until;
                }
                Verdict::Open { .. } => return Ok(at + left),
                Verdict::Closed(Closed { opens: Some(opens), .. }) if opens > at => at = opens,
                Verdict::Closed(closed) => return Err(closed),
            }
        }
        Ok(at + left)
    }

    fn missing_chunks(&self, device: &DeviceId, item: &ItemId, n_chunks: u32) -> u32 {
        n_chunks.saturating_sub(self.planner.holding(device, item).map_or(0, |held| held.len()))
    }

    fn explain(&self, now: Now, device: &DeviceId, title: &TitleId) -> Result<pb::Explanation, Failure> {
        self.registry.device(device).ok_or_else(|| refusal::registry(RegistryError::NoDevice))?;
        let listing = self.catalog.title(title).ok_or_else(refusal::no_title)?;
        let n_chunks = listing.n_chunks();
        let item = listing.entry.item;
        let Some(told) = self.planner.explain(now, device, &item) else {
            return Ok(pb::Explanation {
                n_chunks,
                waiting: "nobody holds it or has asked for it".to_owned(),
                ..pb::Explanation::default()
            });
        };
        let name = |device: &DeviceId| self.registry.device(device).map(|it| it.name.clone()).unwrap_or_default();
        let source = |lease: &Lease| pb::ExplainedSource {
            device: lease.source.to_vec(),
            name: name(&lease.source),
            kind: pb_common::DeviceKind::from(lease.kind).into(),
            planned_bytes_per_sec: lease.planned_bytes_per_sec,
            rate_cap_bytes_per_sec: lease.rate_cap_bytes_per_sec,
            first_chunks: lease.portions.iter().map(|portion| portion.end - portion.start).sum(),
            reason: lease.reason.to_string(),
        };
        let others = told.others.iter().map(|(why, device)| pb::ExplainedOther {
            device: device.to_vec(),
            name: name(device),
            reason: why.to_string(),
        });
        Ok(pb::Explanation {
            class: told.asked.map_or(pb_common::TicketClass::Unspecified, |asked| asked.class.into()).into(),
            rank: told.asked.map(|asked| asked.rank).filter(|rank| *rank != u32::MAX),
            missing_chunks: match told.asked {
                Some(asked) => asked.missing,
                None => self.missing_chunks(device, &item, n_chunks),
            },
            n_chunks,
            planned_bytes_per_sec: told.asked.map_or(0, |asked| asked.rate_bytes_per_sec),
            sources: told.leases.iter().map(source).collect(),
            waiting: told.waiting.map(|why| self.waiting_text(&item, why)).unwrap_or_default(),
            others: others.collect(),
            not_looked_at: u32::try_from(told.not_looked_at).unwrap_or(u32::MAX),
        })
    }
}
