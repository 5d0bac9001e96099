//! What each device is told to hold: decided anew for one site at a time, and sent when it has changed.

use std::collections::{BTreeMap, BTreeSet};

use swarm_proto::geometry::CHUNKS_PER_SPAN;
use swarm_proto::id::{DeviceId, ItemId, SiteId};
use swarm_proto::membership::DeviceKind;
use swarm_proto::pb::common as pb_common;
use swarm_proto::pb::tracker as pb;
use swarm_proto::time::Now;
use swarm_proto::tracker::catalog::Listing;
use swarm_proto::tracker::demand::Forecast;
use swarm_proto::tracker::preload::{self, Extent, Target, Wanted};
use swarm_proto::tracker::proofs::Standing;

use super::views::View;
use super::{Aim, LOOK_AGAIN, State};

impl State {
    pub(super) fn tell_assignments(&mut self, now: Now, device: &DeviceId) {
        let Some(session) = self.sessions.get(device) else { return };
        let Some(known) = self.registry.device(device) else { return };
        let (hold, drop) = match known.kind {
            DeviceKind::Seed => {
                let hold = self.keeping.repositories.to_hold(device).into_iter();
                let hold = hold.map(|item| assignment(&item, Extent::Whole, pb::Purpose::Repository)).collect();
                (hold, self.keeping.repositories.to_drop(device))
            }
            DeviceKind::Box => {
                let Some(lists) = self.keeping.lists.get(&known.site) else { return };
                let list = lists.get(device).map(Vec::as_slice).unwrap_or_default();
                (
                    list.iter().map(|(item, extent)| assignment(item, *extent, pb::Purpose::Preload)).collect(),
                    Vec::new(),
                )
            }
        };
        // Counts on from the clock, so that it goes on rising over a restart.
        self.keeping.last_version = (self.keeping.last_version + 1).max(now.utc.as_millis());
        session.mailbox.assignments(pb::Assignments {
            version: self.keeping.last_version,
            hold,
            drop: drop.into_iter().map(|item| item.to_vec()).collect(),
        });
    }

    /// Decides anew what waits on the boxes of a site.
    pub(super) fn look_at_site(&mut self, now: Now, site: &SiteId) {
        let aims = self.aims(now, site);
        let before = self.keeping.lists.get(site);
        if aims.is_empty() && before.is_some_and(BTreeMap::is_empty) {
            return;
        }
        let is_first = before.is_none();
        let nothing = BTreeMap::new();
        let before = before.unwrap_or(&nothing).clone();
        let plan = self.preload_plan(now, site, &aims, &before);
        for outcome in plan.outcomes.iter().zip(&aims) {
            let (outcome, aim) = outcome;
            for device in &outcome.have {
                self.keeping.proofs.handle_watched(now, *device, aim.target.item);
            }
        }
        let devices: BTreeSet<DeviceId> = match is_first {
            true => self.keeping.boxes.get(site).into_iter().flat_map(BTreeMap::keys).copied().collect(),
            false => before.keys().chain(plan.lists.keys()).copied().collect(),
        };
        for device in devices {
            let (old, new) = (before.get(&device), plan.lists.get(&device));
            if !is_first && old == new {
                continue;
            }
            for (item, _) in old.into_iter().flatten() {
                if !new.into_iter().flatten().any(|(still, _)| still == item)
                    && self.keeping.standing(now, &device, item) != Standing::Doubted
                {
                    self.keeping.proofs.handle_unwatched(device, *item);
                }
            }
            self.keeping.to_tell.insert(device);
        }
        if !aims.is_empty() || !plan.lists.is_empty() {
            self.keeping.look_at(site, now.mono + LOOK_AGAIN);
        }
        self.keeping.lists.insert(site.clone(), plan.lists);
    }

    /// Who would preload what, if these were the targets.
    pub(in crate::state) fn preload_plan(
        &self,
        now: Now,
        site: &SiteId,
        aims: &[Aim],
        before: &BTreeMap<DeviceId, Vec<(ItemId, Extent)>>,
    ) -> preload::Plan {
        let targets: Vec<Target> = aims.iter().map(|aim| aim.target).collect();
        preload::plan(&targets, &View { state: self, site, now }, before, self.config.preload.box_percent)
    }

    /// What the boxes of a site were told to preload.
    pub(in crate::state) fn preload_lists(&self, site: &SiteId) -> BTreeMap<DeviceId, Vec<(ItemId, Extent)>> {
        self.keeping.lists.get(site).cloned().unwrap_or_default()
    }

    /// The targets of a site: what operators name, then what is wanted most; each the most wanted first.
    pub(in crate::state) fn aims(&self, now: Now, site: &SiteId) -> Vec<Aim> {
        let of_site = self.keeping.targets.iter().filter(|((of, _), _)| of == site);
        let named = of_site.filter_map(|((_, title), wanted)| {
            let listing = self.catalog.title(title).filter(|it| it.is_offered())?;
            Some(self.aim(now, site, listing, *wanted, false))
        });
        let mut aims: Vec<Aim> = named.collect();
        aims.sort_by_key(|aim| (std::cmp::Reverse(aim.forecast), aim.target.item));
        let config = &self.config.preload;
        if config.popular > 0 {
            let wanted = Wanted {
                extent: Extent::Starts { spans: config.popular_spans },
                share_percent: config.popular_percent,
            };
            let is_named = |it: &&Listing| self.keeping.targets.contains_key(&(site.clone(), it.entry.title));
            let offered = self.catalog.newest_first(None).filter(|it| it.is_offered() && !is_named(it));
            let mut popular: Vec<Aim> = offered.map(|it| self.aim(now, site, it, wanted, true)).collect();
            popular.retain(|aim| aim.forecast > Forecast::default());
            popular.sort_by_key(|aim| (std::cmp::Reverse(aim.forecast), aim.target.item));
            aims.extend(popular.into_iter().take(config.popular));
        }
        aims
    }

    pub(in crate::state) fn aim(
        &self,
        now: Now,
        site: &SiteId,
        listing: &Listing,
        wanted: Wanted,
        by_demand: bool,
    ) -> Aim {
        let entry = &listing.entry;
        let target = Target { item: entry.item, geometry: entry.geometry, wanted };
        let forecast = self.keeping.demand.forecast(now.utc, &entry.item, site, entry.released);
        Aim { title: entry.title, target, by_demand, forecast }
    }

    /// Boxes of a site that say to hold an item and are not believed.
    pub(in crate::state) fn doubted_boxes(&self, now: Now, site: &SiteId, item: &ItemId) -> usize {
        let Some(boxes) = self.keeping.boxes.get(site) else { return 0 };
        let doubted = |device: &DeviceId| {
            boxes.contains_key(device) && self.keeping.standing(now, device, item) == Standing::Doubted
        };
        self.planner.holders(item).filter(|(device, _)| doubted(device)).count()
    }
}

fn assignment(item: &ItemId, extent: Extent, purpose: pb::Purpose) -> pb::Assignment {
    let ranges = match extent {
        Extent::Whole => Vec::new(),
        Extent::Starts { spans } => {
            vec![pb_common::ChunkRange { first: 0, count: spans.saturating_mul(CHUNKS_PER_SPAN) }]
        }
    };
    pb::Assignment { item: item.to_vec(), ranges, purpose: purpose.into() }
}
