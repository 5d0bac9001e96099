//! What the machines that decide what is kept where see of this tracker.

use std::collections::{BTreeMap, BTreeSet};

use swarm_proto::geometry::CHUNKS_PER_SPAN;
use swarm_proto::id::{DeviceId, ItemId, SiteId};
use swarm_proto::time::Now;
use swarm_proto::tracker::planner::{Held, Planner};
use swarm_proto::tracker::preload::{self, Candidate, Extent, Has};
use swarm_proto::tracker::proofs::{self, Holder, Standing};
use swarm_proto::tracker::registry::Registry;
use swarm_proto::tracker::sites::{COST_ELSEWHERE, Site};

use super::{BoxState, GONE_AFTER, State};

/// Witnesses offered for one check.
const WITNESSES: usize = 64;

/// Who could answer a challenge.
pub(super) struct Here<'a> {
    pub(super) planner: &'a Planner,
    pub(super) registry: &'a Registry,
}

impl Here<'_> {
    fn holder(&self, device: DeviceId, held: Held<'_>) -> Option<Holder> {
        let kind = self.registry.device(&device).filter(|it| !it.revoked)?.kind;
        self.planner.is_online(&device).then(|| Holder { device, kind, holding: held.to_holding() })
    }
}

impl proofs::World for Here<'_> {
    fn holder_here(&self, device: &DeviceId, item: &ItemId) -> Option<Holder> {
        self.holder(*device, self.planner.holding(device, item)?)
    }

    fn holders_here(&self, item: &ItemId) -> Vec<Holder> {
        let here = self.planner.holders(item).filter_map(|(device, held)| self.holder(device, held));
        here.take(WITNESSES).collect()
    }
}

/// A site as the preload sees it.
pub(super) struct View<'a> {
    pub(super) state: &'a State,
    pub(super) site: &'a SiteId,
    pub(super) now: Now,
}

impl View<'_> {
    fn boxes(&self) -> Option<&BTreeMap<DeviceId, BoxState>> {
        self.state.keeping.boxes.get(self.site)
    }
}

impl preload::Site for View<'_> {
    fn boxes(&self) -> Vec<Candidate> {
        let recent = |device: &DeviceId| {
            let known = self.state.registry.device(device);
            known.is_some_and(|it| !it.revoked && self.now.utc.since(it.last_seen) < GONE_AFTER)
        };
        let boxes = self.boxes().into_iter().flatten().filter(|(device, _)| recent(device));
        let candidate = |(device, it): (&DeviceId, &BoxState)| Candidate {
            device: *device,
            free_bytes: it.free_bytes,
            allowed_bytes: it.preload_bytes,
            presence: it.presence.at(self.now.mono),
        };
        boxes.map(candidate).collect()
    }

    fn holders(&self, item: &ItemId, extent: Extent) -> Vec<(DeviceId, Has)> {
        let Some(boxes) = self.boxes() else { return Vec::new() };
        let counts = |device: &DeviceId| {
            let keeping = &self.state.keeping;
            boxes.contains_key(device)
                && !keeping.leaving.contains(&(*device, *item))
                && keeping.standing(self.now, device, item) != Standing::Doubted
        };
        let holders = self.state.planner.holders(item).filter(|(device, _)| counts(device));
        holders.map(|(device, held)| (device, has(held, extent))).collect()
    }

    fn declines(&self, device: &DeviceId, item: &ItemId) -> bool {
        let keeping = &self.state.keeping;
        keeping.declined.get(&(*device, *item)).is_some_and(|until| self.now.mono < *until)
            || keeping.standing(self.now, device, item) == Standing::Doubted
            || self.state.admit_item(device, item).is_err()
    }

    /// As the operator has described the site; what nobody holds will come from elsewhere.
    fn cost(&self, item: &ItemId) -> u32 {
        let gate = &self.state.gate;
        let unsaid = Site::new(self.site.clone());
        let here = gate.site(self.site).unwrap_or(&unsaid);
        let complete = self.state.planner.holders(item).filter(|(_, held)| held.is_complete());
        let sites = complete.filter_map(|(device, _)| Some(&self.state.registry.device(&device)?.site));
        let sites: BTreeSet<&SiteId> = sites.collect();
        let price = |from: &&SiteId| here.cost_from(from, gate.site(from).map(Site::isp));
        sites.iter().map(price).min().unwrap_or(COST_ELSEWHERE)
    }
}

fn has(held: Held<'_>, extent: Extent) -> Has {
    let meant = match extent {
        Extent::Whole => held.n_chunks(),
        Extent::Starts { spans } => spans.saturating_mul(CHUNKS_PER_SPAN).min(held.n_chunks()),
    };
    match held.runs().first() {
        Some(run) if run.start == 0 && run.end >= meant => Has::All,
        _ => Has::Part,
    }
}
