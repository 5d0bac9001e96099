//! Questions about the seeds: what they hold, and whether they give it up.

use daemon::exit::{Exit, Failure};
use futures::FutureExt as _;
use swarm_proto::id::{DeviceId, ItemId};
use swarm_proto::membership::DeviceKind;
use swarm_proto::pb::tracker as pb;
use swarm_proto::time::Now;
use swarm_proto::tracker::proofs::Standing as Proof;
use swarm_proto::tracker::registry::{Device, RegistryError};
use swarm_proto::tracker::repositories::Standing;

use super::{Handle, State};
use crate::records::Records;
use crate::refusal;

impl Handle {
    /// A page of seeds.
    pub(crate) async fn seeds(
        &self,
        after: Option<DeviceId>,
        page_size: usize,
    ) -> Result<pb::ListSeedsResponse, Failure> {
        self.look(move |state, _| {
            let mut rest = state.registry.devices_after(after).filter(|it| is_seed(it)).peekable();
            let page: Vec<&Device> = rest.by_ref().take(page_size).collect();
            let more = rest.peek().and_then(|_| page.last().map(|last| last.device.to_vec()));
            Ok(pb::ListSeedsResponse {
                seeds: page.into_iter().filter_map(|it| state.seed_message(it)).collect(),
                next_page_token: more.unwrap_or_default(),
                copies: u32::try_from(state.config.repositories.copies).unwrap_or(u32::MAX),
                items_short: u32::try_from(state.keeping.repositories.short().count()).unwrap_or(u32::MAX),
            })
        })
        .await
    }

    /// A page of what a seed holds or shall hold.
    pub(crate) async fn seed_items(
        &self,
        seed: DeviceId,
        after: Option<ItemId>,
        page_size: usize,
    ) -> Result<pb::ListSeedItemsResponse, Failure> {
        self.look(move |state, now| {
            state.known_seed(&seed)?;
            let mut items: Vec<ItemId> = state.planner.held_by(&seed).map(|(item, _)| item).collect();
            items.extend(state.keeping.repositories.to_hold(&seed));
            items.sort_unstable();
            items.dedup();
            let begin = after.map_or(0, |after| items.partition_point(|item| *item <= after));
            let page = &items[begin..items.len().min(begin + page_size)];
            let is_last = begin + page.len() == items.len();
            let next = page.last().filter(|_| !is_last).map(|last| last.to_vec());
            Ok(pb::ListSeedItemsResponse {
                items: page.iter().map(|item| state.seed_item(now, &seed, item)).collect(),
                next_page_token: next.unwrap_or_default(),
            })
        })
        .await
    }

    /// Makes a seed give up its copies, or lets it keep them again.
    pub(crate) async fn drain(&self, seed: DeviceId, draining: bool) -> Result<pb::Seed, Failure> {
        self.ask(move |state, now| state.drain(now, seed, draining).boxed()).await
    }
}

impl State {
    async fn drain(&mut self, now: Now, seed: DeviceId, draining: bool) -> Result<pb::Seed, Failure> {
        self.known_seed(&seed)?;
        if self.keeping.repositories.is_draining(&seed) != draining {
            self.commit(Records::new().draining(&seed, draining)).await?;
            tracing::info!(seed = %seed.short(), draining, "a seed gives up its copies, or keeps them again");
            self.keeping.repositories.handle_drain(now, seed, draining);
        }
        let device = self.known_seed(&seed)?;
        self.seed_message(device).ok_or_else(not_a_seed)
    }

    fn known_seed(&self, seed: &DeviceId) -> Result<&Device, Failure> {
        match self.registry.device(seed) {
            None => Err(refusal::registry(RegistryError::NoDevice)),
            Some(device) if is_seed(device) => Ok(device),
            Some(_) => Err(not_a_seed()),
        }
    }

    fn seed_message(&self, device: &Device) -> Option<pb::Seed> {
        let overview = self.keeping.repositories.overview(&device.device)?;
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let state = match overview.standing {
            Standing::Online => pb::SeedState::Online,
            Standing::Away => pb::SeedState::Away,
            Standing::Lost => pb::SeedState::Lost,
            Standing::Draining => pb::SeedState::Draining,
            Standing::Drained => pb::SeedState::Drained,
        };
        Some(pb::Seed {
            device: device.device.to_vec(),
            name: device.name.clone(),
            site: device.site.to_string(),
            state: state.into(),
            copies: count(overview.copies),
            bytes: overview.bytes,
            to_fetch: count(overview.to_fetch),
            to_drop: count(overview.to_drop),
            free_bytes: overview.free_bytes,
        })
    }

    fn seed_item(&self, now: Now, seed: &DeviceId, item: &ItemId) -> pb::SeedItem {
        let listing = self.catalog.item(item);
        let holding = self.planner.holding(seed, item);
        let copies = self.keeping.repositories.copies(item);
        pb::SeedItem {
            item: item.to_vec(),
            name: listing.map(|it| it.entry.name.clone()).unwrap_or_default(),
            n_chunks: listing.map(|it| it.n_chunks()).or(holding.map(|it| it.n_chunks())).unwrap_or(0),
            chunks: holding.map_or(0, |it| it.len()),
            assigned: self.keeping.repositories.is_assigned(seed, item),
            proof: proof(self.keeping.standing(now, seed, item)).into(),
            copies: u32::try_from(copies.held).unwrap_or(u32::MAX),
        }
    }
}

fn is_seed(device: &Device) -> bool {
    device.kind == DeviceKind::Seed && !device.revoked
}

fn proof(standing: Proof) -> pb::Proof {
    match standing {
        Proof::Claimed => pb::Proof::Claimed,
        Proof::Proven => pb::Proof::Proven,
        Proof::Doubted => pb::Proof::Doubted,
    }
}

fn not_a_seed() -> Failure {
    Failure::new(Exit::NotFound, "E-SEED-01", "this device is not a seed of this tracker").hint("tracker seed ls")
}
