//! What this device looks like from outside: one screen's worth of facts, put together from those who own them.

use std::collections::BTreeMap;
use std::sync::Arc;

use daemon::exit::Failure;
use swarm_proto::catalog::CatalogEntry;
use swarm_proto::id::ItemId;
use swarm_proto::pb::node as pb;
use swarm_proto::time::Utc;

use crate::catalog::{Catalog, Title};
use crate::clock;
use crate::engine::{self, ItemSnapshot, ItemState, Snapshot};
use crate::freeing::Freeing;
use crate::grants::{self, Grants};
use crate::identity::{Enrolment, Identity};
use crate::items::Items;
use crate::tracker_link::{self, LinkState};
use crate::wishes::{self, Queue};

/// Everyone who knows a part of the status. Clones share them.
#[derive(Clone)]
pub struct Sources {
    /// What people call this device.
    pub name: String,
    /// Where players reach it.
    pub url: String,
    /// Who it is.
    pub identity: Arc<Identity>,
    /// To whom it belongs.
    pub enrolment: Enrolment,
    /// Whether the tracker is there.
    pub link: tracker_link::Handle,
    /// What titles are called.
    pub catalog: Catalog,
    /// What the customer wants.
    pub queue: Queue,
    /// What is on disk.
    pub items: Items,
    /// What is on its way.
    pub engine: engine::Handle,
    /// What may be played.
    pub grants: Grants,
}

impl Sources {
    /// Frees what nobody wants any more.
    pub fn freeing(&self) -> Freeing {
        Freeing::new(self.items.clone(), self.engine.clone(), self.grants.clone())
    }

    /// Everything, or the one title that a person asks for.
    pub fn status(&self, only: &str) -> Result<pb::Status, Failure> {
        let only = if only.is_empty() { None } else { Some(self.catalog.find(only)?) };
        let now = clock::utc();
        let snapshot = self.engine.snapshot().borrow().clone();
        let enrolled = self.enrolment.current();
        let usage = self.items.usage();
        let mut titles = self.titles(&snapshot, now);
        if let Some(only) = only {
            titles.retain(|title| title.title == only.entry.title.as_bytes());
            if titles.is_empty() {
                titles.push(self.title_status(&only, None, now));
            }
        }
        Ok(pb::Status {
            device: self.identity.device.to_vec(),
            peer_id: self.identity.keypair.public().to_peer_id().to_string(),
            name: self.name.clone(),
            kind: enrolled.as_ref().map_or(0, |enrolled| kind(enrolled.membership.kind).into()),
            enrolled: enrolled.is_some(),
            tracker: Some(link(&self.link.up().borrow())),
            keyserver: Some(link(&self.grants.link().borrow())),
            listening: snapshot.listening.iter().map(ToString::to_string).collect(),
            connected_peers: u32::try_from(snapshot.connected_peers).unwrap_or(u32::MAX),
            titles,
            stored_bytes: usage.stored_bytes,
            free_bytes: usage.free_bytes,
            uploaded_bytes: snapshot.uploaded_bytes,
            received: Some(books(&snapshot.books)),
            banned: snapshot.banned.iter().map(banned).collect(),
            pairing_code: self.enrolment.code().unwrap_or_default(),
        })
    }

    /// The titles of the queue, in its order.
    pub fn queue(&self) -> pb::QueueView {
        let snapshot = self.engine.snapshot().borrow().clone();
        let state = self.queue.state();
        let items = by_item(&snapshot);
        pb::QueueView { version: state.version, titles: self.queued(&state, &items, clock::utc()), note: String::new() }
    }

    /// The queue first, then what else is held.
    fn titles(&self, snapshot: &Snapshot, now: Utc) -> Vec<pb::TitleStatus> {
        let items = by_item(snapshot);
        let mut titles = self.queued(&self.queue.state(), &items, now);
        let others =
            snapshot.items.iter().filter(|item| !titles.iter().any(|title| title.item == item.item.as_bytes()));
        let others: Vec<_> = others
            .map(|item| match self.catalog.of_item(item.item) {
                Some(title) => self.title_status(&title, Some(item), now),
                None => self.with_snapshot(
                    pb::TitleStatus {
                        name: format!("item {}", &item.item.to_string()[..12]),
                        ..pb::TitleStatus::default()
                    },
                    item,
                    now,
                ),
            })
            .collect();
        titles.extend(others);
        titles
    }

    fn queued(
        &self,
        state: &swarm_proto::pb::tracker::QueueState,
        items: &BTreeMap<ItemId, &ItemSnapshot>,
        now: Utc,
    ) -> Vec<pb::TitleStatus> {
        let known = wishes::titles(state, self.identity.device, &self.catalog);
        let unknown = wishes::mine(state, self.identity.device)
            .filter(|entry| !known.iter().any(|title| entry.title == title.entry.title.as_bytes()));
        let unknown = unknown.map(|entry| pb::TitleStatus {
            title: entry.title.clone(),
            name: entry.name.clone(),
            state: pb::TitleState::Waiting.into(),
            reason: "its catalog entry has not arrived yet".to_owned(),
            ..pb::TitleStatus::default()
        });
        let delivery = |title: &[u8]| wishes::mine(state, self.identity.device).find(|it| it.title == title)?.delivery;
        let known = known.iter().map(|title| {
            let status = match items.get(&title.entry.item) {
                Some(snapshot) => self.title_status(title, Some(snapshot), now),
                None => {
                    pb::TitleStatus { state: pb::TitleState::Waiting.into(), ..self.title_status(title, None, now) }
                }
            };
            pb::TitleStatus { delivery: delivery(title.entry.title.as_bytes()), ..status }
        });
        known.chain(unknown).collect()
    }

    fn title_status(&self, title: &Title, snapshot: Option<&ItemSnapshot>, now: Utc) -> pb::TitleStatus {
        let entry = &title.entry;
        let expiry = self.grants.playable_until(&entry.item);
        let preview = grants::preview_of(entry);
        let status = pb::TitleStatus {
            title: entry.title.to_vec(),
            item: entry.item.to_vec(),
            name: entry.name.clone(),
            state: pb::TitleState::Unspecified.into(),
            n_chunks: entry.geometry.n_chunks(),
            sealed_len: entry.geometry.sealed_len(),
            playable: expiry.is_some(),
            expiry: expiry.map(Into::into),
            play_url: self.play_url(&entry.item),
            preview_ms: preview.map_or(0, |preview| preview.length().as_millis() as u64),
            checkout_url: self.grants.known_checkout(&entry.item).unwrap_or_default(),
            ..pb::TitleStatus::default()
        };
        match snapshot {
            Some(snapshot) => self.with_snapshot(status, snapshot, now),
            None => status,
        }
    }

    fn with_snapshot(&self, status: pb::TitleStatus, snapshot: &ItemSnapshot, now: Utc) -> pb::TitleStatus {
        let state = match snapshot.state {
            ItemState::Waiting => pb::TitleState::Waiting,
            ItemState::Scheduled => pb::TitleState::Scheduled,
            ItemState::Arriving => pb::TitleState::Arriving,
            ItemState::Available => pb::TitleState::Available,
            ItemState::Paused => pb::TitleState::Paused,
        };
        pb::TitleStatus {
            item: snapshot.item.to_vec(),
            state: state.into(),
            n_chunks: snapshot.n_chunks,
            chunks_held: snapshot.chunks_held,
            sealed_len: snapshot.sealed_len,
            rate_bytes_per_sec: snapshot.rate_bytes_per_sec,
            sources: snapshot.sources.iter().map(source).collect(),
            wasted_bytes: snapshot.wasted_bytes,
            reason: snapshot.reason.clone(),
            last_data_ms_ago: snapshot
                .last_data
                .map(|last| u64::try_from(now.since(last).as_millis()).unwrap_or(u64::MAX)),
            ..status
        }
    }

    /// What a player opens for the free beginning of a title.
    pub fn preview_url(&self, item: &ItemId) -> String {
        format!("{}/preview/{item}", self.url)
    }

    /// What to do to see more than a preview of a title, in words.
    pub async fn how_to_go_on(&self, entry: &CatalogEntry) -> String {
        let command = format!("peer-node pay \"{}\"", entry.name);
        match self.grants.checkout(entry.item).await {
            Some(url) => format!("To see all of it, pay at {url} or with: {command}"),
            None => format!("To see all of it: {command}"),
        }
    }

    /// What a player opens.
    pub fn play_url(&self, item: &ItemId) -> String {
        format!("{}/play/{item}", self.url)
    }
}

/// Whether every byte that a device has received is either verified, wasted or being checked (I8).
pub fn books_balance(status: &pb::Status) -> bool {
    let received = status.received.unwrap_or_default();
    received.received_bytes == received.verified_bytes + received.wasted_bytes + received.unjudged_bytes
}

/// Bytes verified from boxes and from seeds. A source that only Kademlia knows counts as a box: seeds are known from
/// plans and pins.
pub fn bytes_by_kind(title: &pb::TitleStatus) -> (u64, u64) {
    let is_seed = |source: &&pb::SourceBytes| source.kind() == swarm_proto::pb::common::DeviceKind::Seed;
    let all: u64 = title.sources.iter().map(|source| source.verified_bytes).sum();
    let seeds = title.sources.iter().filter(is_seed).map(|source| source.verified_bytes).sum();
    (all - seeds, seeds)
}

fn by_item(snapshot: &Snapshot) -> BTreeMap<ItemId, &ItemSnapshot> {
    snapshot.items.iter().map(|item| (item.item, item)).collect()
}

fn kind(kind: swarm_proto::membership::DeviceKind) -> swarm_proto::pb::common::DeviceKind {
    match kind {
        swarm_proto::membership::DeviceKind::Box => swarm_proto::pb::common::DeviceKind::Box,
        swarm_proto::membership::DeviceKind::Seed => swarm_proto::pb::common::DeviceKind::Seed,
    }
}

fn books(books: &engine::Books) -> pb::Received {
    pb::Received {
        received_bytes: books.received_bytes,
        verified_bytes: books.verified_bytes,
        wasted_bytes: books.wasted_bytes,
        unjudged_bytes: books.unjudged_bytes,
    }
}

fn link(state: &LinkState) -> pb::Link {
    pb::Link {
        url: state.url.clone(),
        up: state.up,
        since_utc_ms: state.since.as_millis(),
        last_error: state.last_error.clone(),
    }
}

fn banned(banned: &engine::Banned) -> pb::BannedPeer {
    pb::BannedPeer {
        device: banned.device.to_vec(),
        since_utc_ms: banned.since.as_millis(),
        reason: banned.reason.clone(),
    }
}

fn source(source: &engine::SourceBytes) -> pb::SourceBytes {
    pb::SourceBytes {
        device: source.device.to_vec(),
        kind: source.kind.map_or(0, |known| kind(known).into()),
        verified_bytes: source.verified_bytes,
        wasted_bytes: source.wasted_bytes,
        found_by: match source.found_by {
            engine::FoundBy::Plan => "plan",
            engine::FoundBy::Kademlia => "kademlia",
            engine::FoundBy::Pinned => "pinned",
        }
        .to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_of_a_source_of_unknown_kind_are_not_lost_from_the_split() {
        let from = |kind: i32, verified_bytes| pb::SourceBytes { kind, verified_bytes, ..pb::SourceBytes::default() };
        let title =
            pb::TitleStatus { sources: vec![from(0, 24), from(1, 1), from(2, 9)], ..pb::TitleStatus::default() };
        assert_eq!(bytes_by_kind(&title), (25, 9));
    }
}
