//! How chunks come in: what a wish of the machine means for network, disk and tracker, and what their answers mean for
//! the machine.
//!
//! Verifying runs on blocking threads, writing on the disk's own; a chunk whose item is gone by then is dropped.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use swarm_proto::geometry::{ChunkIndex, Geometry};
use swarm_proto::id::{DeviceId, ItemId};
use swarm_proto::manifest::{Manifest, VerifiedChunk};
use swarm_proto::pb;
use swarm_proto::peer::transfers::{self, Ask, Failure, Refused, RequestId, Verdict};
use swarm_proto::ticket::TicketClass;
use swarm_proto::time::Now;
use swarm_proto::wire::frames::Urgency;
use swarm_proto::wire::{self, Answer, Refusal};
use tokio::sync::mpsc;

use super::run::{Engine, Event, Live, Waiter, chunk_set};
use super::{Banned, ChunkWait};
use super::{keeping, plan};
use crate::clock;
use crate::net::{AskError, Exchange};

/// Waits of players at a time. One more is told that the device is stopping.
const WAITERS_MAX: usize = 1_024;
/// Pinned seeds that are believed.
const PINNED_MAX: usize = 8;
/// Bans that are shown.
const BANS_SHOWN: usize = 256;

impl Engine {
    /// Tells the machine what is wanted, with what the disk holds now.
    pub(super) fn want(&mut self, now: Now) {
        let wanted = self.wanted.iter().map(|wanted| transfers::Wanted {
            item: wanted.item,
            geometry: wanted.geometry,
            have: self.on_disk(wanted).map(|holding| chunk_set(&holding)),
            skip: wanted.skip.clone(),
        });
        let wanted: Vec<_> =
            wanted.filter(|w| w.have.as_ref().is_none_or(|h| h.width() == w.geometry.n_chunks())).collect();
        let stay: BTreeSet<ItemId> = wanted.iter().map(|wanted| wanted.item).collect();
        self.tickets.retain(|item, _| stay.contains(item));
        self.manifests.retain(|item, _| stay.contains(item));
        self.transfers.handle_wanted(now, wanted);
        let gone: Vec<_> = self.waiters.keys().filter(|(item, _)| !stay.contains(item)).copied().collect();
        for waiter in gone.iter().filter_map(|key| self.waiters.remove(key)).flatten() {
            // A player may have given up.
            let _ = waiter.send(Err(ChunkWait::NotWanted));
        }
    }

    pub(super) fn wait_for_chunk(&mut self, now: Now, item: ItemId, index: ChunkIndex, held: Waiter) {
        let on_disk = self.items.holding(&item).is_some_and(|holding| holding.contains(index));
        let wanted = self.is_meant(&item, index);
        let full = self.waiters.values().map(Vec::len).sum::<usize>() >= WAITERS_MAX;
        if on_disk || !wanted || full {
            let answer = match (on_disk, wanted) {
                (true, _) => Ok(()),
                (false, false) => Err(ChunkWait::NotWanted),
                (false, true) => Err(ChunkWait::Stopping),
            };
            // A player may have given up.
            let _ = held.send(answer);
            return;
        }
        self.waiters.entry((item, index)).or_default().push(held);
        self.lost(now, item, index);
        self.transfers.handle_playing(now, item, index);
    }

    /// A chunk that was held may have rotted: it is fetched again if its item is wanted.
    pub(super) fn lost(&mut self, now: Now, item: ItemId, chunk: ChunkIndex) {
        if self.transfers.is_fetching(&item) {
            self.transfers.handle_lost(now, item, chunk);
        } else if self.geometry(&item).is_some() {
            self.want(now);
        }
    }

    pub(super) fn ask(&mut self, id: RequestId, device: DeviceId, item: ItemId, ask: Ask) {
        let is_playing = self.transfers.is_playing(clock::now().mono, &item);
        let exchange = Arc::new(Exchange::of(if is_playing { Urgency::Playing } else { Urgency::Queued }));
        let request = wire::Request {
            item,
            ask: match ask {
                Ask::Manifest => wire::Ask::Manifest,
                Ask::Holding => wire::Ask::Holding,
                Ask::Chunk(index) => wire::Ask::Chunk { index, want_segment_values: false },
            },
            ticket: self.tickets.get(&item).cloned().unwrap_or_default(),
        };
        self.live.insert(id, Live { item, ask, exchange: exchange.clone() });
        let net = self.net.clone();
        self.job(async move { Event::Answered { id, result: net.ask(device, request, exchange).await } });
    }

    pub(super) fn on_answer(&mut self, now: Now, id: RequestId, result: Result<Answer, AskError>) {
        let Some(live) = self.live.get(&id) else { return };
        let (item, ask, received) = (live.item, live.ask, live.exchange.received());
        let failed = |failure| transfers::Answer::Failed { failure, received };
        let geometry = self.geometry(&item);
        let answer = match (result, ask, geometry) {
            (Ok(_), _, None) => failed(Failure::Cancelled),
            (Ok(Answer::Data { bytes, .. }), Ask::Chunk(index), Some(geometry)) => {
                if bytes.len() == geometry.chunk_len(index) {
                    return self.check_chunk(now, id, item, index, bytes);
                }
                failed(Failure::Malformed)
            }
            (Ok(Answer::Manifest { sealed_len, values }), Ask::Manifest, Some(geometry)) => {
                return self.check_manifest(now, id, item, geometry, sealed_len, values);
            }
            (Ok(Answer::Holding(holding)), Ask::Holding, Some(geometry))
                if holding.n_chunks() == geometry.n_chunks() =>
            {
                transfers::Answer::Holding(chunk_set(&holding))
            }
            (Ok(Answer::Busy { retry_ms }), ..) => transfers::Answer::Busy(Duration::from_millis(retry_ms.into())),
            (Ok(Answer::NotHeld), ..) => transfers::Answer::NotHeld,
            (Ok(Answer::Refused(why)), ..) => transfers::Answer::Refused(refused(why)),
            (Ok(Answer::Data { .. } | Answer::Manifest { .. } | Answer::Holding(_)), ..) => failed(Failure::Malformed),
            (Err(error), ..) => {
                tracing::debug!(%item, ?ask, %error, "no answer");
                failed(failure(&error))
            }
        };
        self.live.remove(&id);
        self.transfers.handle_answer(now, id, answer);
    }

    /// Hashing is work for another thread.
    pub(super) fn check_chunk(&mut self, now: Now, id: RequestId, item: ItemId, index: ChunkIndex, bytes: Bytes) {
        let Some(manifest) = self.items.manifest(&item) else {
            self.live.remove(&id);
            let received = bytes.len() as u64;
            let failed = transfers::Answer::Failed { failure: Failure::Cancelled, received };
            return self.transfers.handle_answer(now, id, failed);
        };
        self.transfers.handle_answer(now, id, transfers::Answer::Data(bytes.len() as u64));
        if !self.transfers.awaits_verdict(&id) {
            self.live.remove(&id);
            return;
        }
        self.job(async move {
            let checked = tokio::task::spawn_blocking(move || manifest.verify_chunk(index, bytes));
            let chunk = checked.await.expect("hashing does not panic").ok();
            Event::ChunkJudged { id, chunk }
        });
    }

    pub(super) fn check_manifest(
        &mut self,
        now: Now,
        id: RequestId,
        item: ItemId,
        geometry: Geometry,
        sealed_len: u64,
        values: Bytes,
    ) {
        self.transfers.handle_answer(now, id, transfers::Answer::Data(values.len() as u64));
        if !self.transfers.awaits_verdict(&id) {
            self.live.remove(&id);
            return;
        }
        self.job(async move {
            let proven = tokio::task::spawn_blocking(move || prove(item, &geometry, sealed_len, &values));
            let (verdict, manifest) = proven.await.expect("hashing does not panic");
            Event::ManifestJudged { id, item, verdict, manifest }
        });
    }

    pub(super) fn judge(&mut self, now: Now, id: RequestId, verdict: Verdict) {
        self.live.remove(&id);
        self.transfers.handle_verdict(now, id, verdict);
    }

    pub(super) fn write(&mut self, id: RequestId, item: ItemId, chunk: VerifiedChunk) {
        let items = self.items.clone();
        self.job(async move {
            let index = chunk.index();
            let result = items.write(item, index, chunk.into_bytes()).await;
            Event::Stored { id, item, chunk: index, result }
        });
    }

    pub(super) fn reserve(&mut self, item: ItemId) {
        let manifest = self.manifests.get(&item).cloned().or_else(|| self.items.manifest(&item));
        let Some(manifest) = manifest else {
            // The title was dropped and wanted again in between: its manifest is asked for anew.
            self.transfers.handle_paused(clock::now(), item, "its manifest must be fetched again".to_owned());
            return;
        };
        let Some(wanted) = self.wanted.iter().find(|wanted| wanted.item == item).cloned() else { return };
        if wanted.class == TicketClass::Preload {
            if keeping::bytes_meant(&wanted) > self.preload_room() {
                let why = "preloads have taken the part of this disk that they may".to_owned();
                return self.transfers.handle_paused(clock::now(), item, why);
            }
            self.reserving.insert(item);
        }
        let items = self.items.clone();
        self.job(async move {
            let result = match wanted.skip.is_empty() {
                true => items.reserve(item, manifest).await,
                false => items.reserve_part(item, manifest, keeping::ranges_meant(&wanted)).await,
            };
            Event::Reserved { item, result }
        });
    }

    pub(super) fn ask_tracker(&mut self, item: ItemId, missing: Vec<Range<u32>>, playing: bool) {
        let queued = self.wanted.iter().find(|wanted| wanted.item == item).map(|wanted| wanted.class);
        let class = if playing { TicketClass::Playing } else { queued.unwrap_or(TicketClass::Queued) };
        let tracker = self.tracker.clone();
        self.job(async move {
            let result = match tracker {
                Some(tracker) => tracker.assign_sources(item, missing, class).await,
                None => Err(anyhow::anyhow!("this device has no tracker")),
            };
            Event::Planned { item, result }
        });
    }

    /// The network learns the addresses before the machine learns the sources.
    pub(super) fn on_plan(&mut self, now: Now, item: ItemId, plan: pb::tracker::Plan) {
        if self.geometry(&item).is_some() && plan.ticket.is_some() {
            let change = self.memory.keep(item, &plan);
            self.write_memory(change);
        }
        let parts = match plan::read(plan, self.device, now.utc) {
            Ok(parts) => parts,
            Err(error) => {
                tracing::warn!(%item, error = format!("{error:#}"), "the tracker sent a plan that cannot be used");
                return self.transfers.handle_no_plan(now, item);
            }
        };
        let net = self.net.clone();
        self.job(async move {
            for (device, addresses) in &parts.addresses {
                net.add_addresses(*device, addresses.clone()).await;
            }
            Event::PlanReady(parts)
        });
    }

    pub(super) fn ask_kademlia(&mut self, item: ItemId) {
        let Some(key) = self.provider_key(item) else { return };
        let net = self.net.clone();
        self.job(async move {
            let mut more = net.find_providers(key).await;
            Event::Provider { item, device: more.recv().await, more }
        });
    }

    pub(super) fn next_provider(&mut self, item: ItemId, mut more: mpsc::Receiver<DeviceId>) {
        self.job(async move { Event::Provider { item, device: more.recv().await, more } });
    }

    pub(super) fn pin(&mut self, now: Now, sources: &[pb::tracker::Source]) {
        let mut seeds = Vec::new();
        for source in sources.iter().take(PINNED_MAX) {
            match plan::read_source(source) {
                Ok((device, _, addresses)) if device != self.device => seeds.push((device, addresses)),
                Ok(_) => {}
                Err(error) => {
                    tracing::warn!(error = format!("{error:#}"), "the tracker named a seed that cannot be read")
                }
            }
        }
        self.transfers.handle_pinned(now, seeds.iter().map(|(device, _)| *device));
        let net = self.net.clone();
        self.job(async move {
            for (device, addresses) in &seeds {
                net.add_addresses(*device, addresses.clone()).await;
            }
            net.keep_connected(seeds.into_iter().map(|(device, _)| device)).await;
            Event::Nothing
        });
    }

    /// Serves devices that the tracker has shut out no more, and ends what connects this one with them.
    pub(super) fn shut_out(&mut self, devices: Vec<DeviceId>) {
        tracing::info!(devices = devices.len(), "devices were revoked");
        for device in &devices {
            self.desk.uploads.handle_revoked(*device);
        }
        let net = self.net.clone();
        self.job(async move {
            for device in devices {
                net.ban(device).await;
            }
            Event::Nothing
        });
    }

    pub(super) fn ban(&mut self, now: Now, device: DeviceId, reason: String) {
        tracing::warn!(device = %device.short(), reason, "a device is banned");
        if self.banned.len() >= BANS_SHOWN {
            self.banned.pop_front();
        }
        self.banned.push_back(Banned { device, since: now.utc, reason });
        self.show.touch();
        let net = self.net.clone();
        self.job(async move {
            net.ban(device).await;
            Event::Nothing
        });
    }
}

/// What a manifest is worth. Its values must fold to the item whatever its length; the length must be the catalog's.
fn prove(item: ItemId, geometry: &Geometry, theirs: u64, values: &[u8]) -> (Verdict, Option<Arc<Manifest>>) {
    match Manifest::prove_bytes(item, theirs, values) {
        Ok(manifest) if theirs == geometry.sealed_len() => (Verdict::Verified, Some(Arc::new(manifest))),
        Ok(_) => (Verdict::OtherLength, None),
        Err(_) => (Verdict::Forged, None),
    }
}

fn refused(why: Refusal) -> Refused {
    match why {
        Refusal::BadTicket | Refusal::ExpiredTicket | Refusal::OverBudget => Refused::Ticket,
        Refusal::NoSuchChunk | Refusal::NotServing | Refusal::Banned => Refused::Other,
    }
}

fn failure(error: &AskError) -> Failure {
    match error {
        AskError::Unreachable => Failure::Unreachable,
        AskError::Closed | AskError::TooMany => Failure::Closed,
        AskError::Silent => Failure::Silent,
        AskError::Malformed(_) => Failure::Malformed,
        AskError::Cancelled => Failure::Cancelled,
    }
}
