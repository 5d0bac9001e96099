//! What is to be kept where: copies on seeds, titles that wait on boxes, and the proof that they are there.
//!
//! The machines of `swarm_proto::tracker` decide; here they hear what devices do, and devices hear what they shall do.
//! A box's list is sent when its site has been looked at since the start of this tracker, not before: an empty list
//! would withdraw everything.

mod lists;
mod views;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use daemon::exit::Failure;
use swarm_proto::id::{AccountId, DeviceId, ItemId, SiteId, TitleId};
use swarm_proto::invalid::Invalid;
use swarm_proto::membership::DeviceKind;
use swarm_proto::pb::tracker as pb;
use swarm_proto::time::{Mono, Now, Utc};
use swarm_proto::tracker::catalog::Listing;
use swarm_proto::tracker::demand::{self, Demand, Forecast};
use swarm_proto::tracker::placement::Presence;
use swarm_proto::tracker::planner::{Held, Waiting};
use swarm_proto::tracker::preload::{Extent, Target, Wanted};
use swarm_proto::tracker::proofs::{self, Proofs, Standing};
use swarm_proto::tracker::registry::Registry;
use swarm_proto::tracker::repositories::{self, Repositories};

use self::views::Here;
use super::{Handle, State};
use crate::config::Config;
use crate::refusal;

/// Between two looks at a site whose boxes or targets have changed, and a little more for each box in it.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// See [`LOOK_EVERY`]: at 100,000 boxes, ten seconds.
const LOOK_EVERY_PER_BOX: Duration = Duration::from_micros(100);

/// Between two looks at a site where nothing is known to have changed: rooms and demand have.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

/// A box that has not been seen for this long is not one of its site's boxes any more.
const GONE_AFTER: Duration = Duration::from_secs(14 * 86_400);

/// How long a box is not asked again to preload what it dropped for lack of room.
const DECLINED_FOR: Duration = Duration::from_secs(6 * 3_600);

/// Refusals that are remembered; beyond that, boxes are asked again.
const MAX_DECLINED: usize = 100_000;

/// Copies that are being deleted. More wait.
const MAX_LEAVING: usize = 100_000;

/// One who watches a title asks for many plans: within this time they are one play.
const ONE_PLAY: Duration = Duration::from_secs(6 * 3_600);

/// Plays that are remembered so that they are not counted twice.
const MAX_PLAYS: usize = 50_000;

/// Seeds named to somebody who waits.
const NAMED: usize = 3;

/// Everything that is kept, and the machines that decide about it.
pub(super) struct Keeping {
    pub(super) repositories: Repositories,
    proofs: Proofs,
    demand: Demand,
    /// What operators want, by site.
    pub(super) targets: BTreeMap<(SiteId, TitleId), Wanted>,
    /// The boxes of each site.
    boxes: BTreeMap<SiteId, BTreeMap<DeviceId, BoxState>>,
    /// What each box of a site was told to preload; no entry: the site was not looked at yet.
    lists: BTreeMap<SiteId, BTreeMap<DeviceId, Vec<(ItemId, Extent)>>>,
    /// Sites to look at.
    due: BTreeMap<SiteId, Mono>,
    declined: BTreeMap<(DeviceId, ItemId), Mono>,
    leaving: BTreeSet<(DeviceId, ItemId)>,
    plays: BTreeMap<(DeviceId, ItemId), Mono>,
    to_tell: BTreeSet<DeviceId>,
    last_version: u64,
}

#[derive(Debug, Clone, Copy)]
struct BoxState {
    free_bytes: Option<u64>,
    preload_bytes: Option<u64>,
    presence: Presence,
}

/// A target and where it comes from.
pub(super) struct Aim {
    pub(super) title: TitleId,
    pub(super) target: Target,
    pub(super) by_demand: bool,
    pub(super) forecast: Forecast,
}

impl Keeping {
    pub(super) fn new(config: &Config, seed: [u8; 32]) -> Keeping {
        let repositories = repositories::Config {
            copies: config.repositories.copies,
            lost_after: config.repositories.lost_after.get(),
        };
        let proofs = proofs::Config {
            checks_per_sec: config.proofs.checks_per_sec,
            deadline: config.proofs.deadline.get(),
            proven_for: config.proofs.proven_for.get(),
            ..proofs::Config::default()
        };
        Keeping {
            repositories: Repositories::new(repositories),
            proofs: Proofs::new(seed, proofs),
            demand: Demand::new(demand::Config::default()),
            targets: BTreeMap::new(),
            boxes: BTreeMap::new(),
            lists: BTreeMap::new(),
            due: BTreeMap::new(),
            declined: BTreeMap::new(),
            leaving: BTreeSet::new(),
            plays: BTreeMap::new(),
            to_tell: BTreeSet::new(),
            last_version: 0,
        }
    }

    pub(super) fn poll_timeout(&self) -> Option<Mono> {
        let due = self.due.values().min().copied();
        [self.repositories.poll_timeout(), self.proofs.poll_timeout(), due].into_iter().flatten().min()
    }

    /// What is known of a holding.
    pub(super) fn standing(&self, now: Now, device: &DeviceId, item: &ItemId) -> Standing {
        self.proofs.standing(now, device, item)
    }

    /// A device belongs to a site.
    pub(super) fn handle_enrolled(
        &mut self,
        now: Now,
        device: DeviceId,
        kind: DeviceKind,
        site: &SiteId,
        draining: bool,
    ) {
        if kind == DeviceKind::Seed {
            return self.repositories.handle_enrolled(now, device, draining);
        }
        let fresh = BoxState { free_bytes: None, preload_bytes: None, presence: Presence::unknown(now.mono) };
        self.boxes.entry(site.clone()).or_default().entry(device).or_insert(fresh);
    }

    /// A device stands in another site than before, where another list is for it.
    pub(super) fn handle_moved(&mut self, now: Now, device: DeviceId, from: &SiteId, to: &SiteId) {
        if let Some(known) = self.boxes.get_mut(from).and_then(|boxes| boxes.remove(&device)) {
            self.boxes.entry(to.clone()).or_default().insert(device, known);
            self.to_tell.insert(device);
            self.look_soon(now, from);
            self.look_soon(now, to);
        }
    }

    /// A site is to be looked at by then.
    pub(super) fn look_at(&mut self, site: &SiteId, at: Mono) {
        let due = self.due.entry(site.clone()).or_insert(at);
        *due = at.min(*due);
    }

    fn look_soon(&mut self, now: Now, site: &SiteId) {
        let boxes = self.boxes.get(site).map_or(0, BTreeMap::len);
        let more = LOOK_EVERY_PER_BOX.saturating_mul(u32::try_from(boxes).unwrap_or(u32::MAX));
        self.look_at(site, now.mono + LOOK_EVERY + more);
    }

    fn box_mut(&mut self, site: &SiteId, device: &DeviceId) -> Option<&mut BoxState> {
        self.boxes.get_mut(site)?.get_mut(device)
    }

    /// What is planned for an item that nobody holds, in words for whoever waits for it.
    fn planned(&self, item: &ItemId, registry: &Registry) -> String {
        let copies = self.repositories.copies(item);
        match copies.planned.as_slice() {
            [] if copies.no_room => "none yet: no seed has room for it".to_owned(),
            [] => "none yet: nobody has said to hold it, and there is no seed to keep it".to_owned(),
            seeds => format!("none yet: a fill of {} is planned, as soon as somebody holds it", named(seeds, registry)),
        }
    }
}

impl Handle {
    /// A device would delete a copy.
    pub(crate) async fn release(
        &self,
        device: DeviceId,
        item: ItemId,
        reason: pb::ReleaseReason,
    ) -> Result<pb::ReleaseResponse, Failure> {
        self.look(move |state, now| state.release(now, device, item, reason)).await
    }
}

impl State {
    /// What was written down is known again.
    pub(super) fn keep_again(&mut self, now: Now, targets: Vec<(TitleId, SiteId, Wanted)>) {
        for (title, site, wanted) in targets {
            self.keeping.look_at(&site, now.mono);
            self.keeping.targets.insert((site, title), wanted);
        }
        let queues = self.queues.clone();
        for (account, list) in &queues {
            for entry in list.entries() {
                self.note_queued(entry.added, account, &entry.title);
            }
        }
    }

    /// A title was queued for the boxes of a customer.
    pub(super) fn note_queued(&mut self, at: Utc, account: &AccountId, title: &TitleId) {
        let Some(item) = self.catalog.title(title).map(|it| it.entry.item) else { return };
        let sites: BTreeSet<&SiteId> =
            self.registry.devices_of(account).filter(|it| !it.revoked).map(|it| &it.site).collect();
        sites.into_iter().for_each(|site| self.keeping.demand.handle_queued(at, item, site));
    }

    /// Somebody watches a title while it arrives.
    pub(super) fn note_played(&mut self, now: Now, device: DeviceId, item: ItemId) {
        let plays = &mut self.keeping.plays;
        if plays.len() >= MAX_PLAYS {
            plays.retain(|_, at| now.mono.since(*at) < ONE_PLAY);
        }
        let counted = plays.get(&(device, item)).is_some_and(|at| now.mono.since(*at) < ONE_PLAY);
        if counted || plays.len() >= MAX_PLAYS {
            return;
        }
        plays.insert((device, item), now.mono);
        if let Some(known) = self.registry.device(&device) {
            self.keeping.demand.handle_played(now.utc, item, &known.site);
        }
    }

    /// A title has come into the catalog, or has changed there.
    pub(super) fn keep_title(&mut self, now: Now, old: Option<ItemId>, listing: &Listing) {
        let item = listing.entry.item;
        if let Some(old) = old.filter(|old| *old != item && self.catalog.item(old).is_none()) {
            self.keeping.repositories.handle_item_gone(now, &old);
        }
        match listing.is_offered() {
            true => self.keeping.repositories.handle_item(now, item, listing.entry.geometry.sealed_len()),
            false => self.keeping.repositories.handle_item_gone(now, &item),
        }
    }

    /// What a device holds of an item has changed.
    pub(super) fn keep_holding(&mut self, now: Now, device: DeviceId, item: ItemId) {
        let Some(known) = self.registry.device(&device) else { return };
        let held = match self.planner.holding(&device, &item) {
            None => repositories::Held::Nothing,
            Some(held) if held.is_complete() => repositories::Held::Copy,
            Some(_) => repositories::Held::Part,
        };
        if held == repositories::Held::Nothing {
            self.keeping.leaving.remove(&(device, item));
            self.keeping.proofs.handle_unwatched(device, item);
        }
        if known.kind == DeviceKind::Seed {
            if held == repositories::Held::Copy {
                self.keeping.proofs.handle_watched(now, device, item);
            }
            return self.keeping.repositories.handle_holding(now, device, item, held);
        }
        let lists = self.keeping.lists.get(&known.site);
        let preloads = |lists: &BTreeMap<DeviceId, Vec<(ItemId, Extent)>>| {
            lists.get(&device).is_some_and(|list| list.iter().any(|(of, _)| *of == item))
        };
        if lists.is_some_and(preloads) {
            self.keeping.look_soon(now, &known.site.clone());
        }
    }

    /// A device has come.
    pub(super) fn keep_arrival(&mut self, now: Now, device: DeviceId) {
        // What it was asked on a stream before this one it may never have heard.
        self.keeping.proofs.handle_departed(now, device);
        let Some(known) = self.registry.device(&device) else { return };
        let site = known.site.clone();
        if known.kind == DeviceKind::Seed {
            return self.keeping.repositories.handle_arrived(now, device);
        }
        if let Some(it) = self.keeping.box_mut(&site, &device) {
            it.presence.handle(now.mono, true);
        }
        let gone: Vec<ItemId> = self.keeping.leaving_of(&device);
        for item in gone.into_iter().filter(|item| self.planner.holding(&device, item).is_none()) {
            self.keeping.leaving.remove(&(device, item));
        }
        if self.keeping.lists.contains_key(&site) {
            self.keeping.to_tell.insert(device);
        }
        self.keeping.look_soon(now, &site);
    }

    /// A device has gone.
    pub(super) fn keep_departure(&mut self, now: Now, device: DeviceId) {
        self.keeping.proofs.handle_departed(now, device);
        let Some(known) = self.registry.device(&device) else { return };
        if known.kind == DeviceKind::Seed {
            return self.keeping.repositories.handle_departed(now, device);
        }
        if let Some(it) = self.keeping.box_mut(&known.site, &device) {
            it.presence.handle(now.mono, false);
        }
    }

    /// A device has lost its membership for good: nothing here names it any more.
    pub(super) fn keep_revoked(&mut self, now: Now, device: DeviceId) {
        self.keeping.proofs.handle_departed(now, device);
        self.keeping.repositories.handle_revoked(now, device);
        let held: Vec<ItemId> = self.planner.held_by(&device).map(|(item, _)| item).collect();
        held.into_iter().for_each(|item| self.keeping.proofs.handle_unwatched(device, item));
        self.keeping.plays.retain(|(of, _), _| *of != device);
        self.keeping.declined.retain(|(of, _), _| *of != device);
        self.keeping.leaving.retain(|(of, _)| *of != device);
        self.keeping.to_tell.remove(&device);
        if let Some(known) = self.registry.device(&device) {
            let site = known.site.clone();
            self.keeping.boxes.entry(site.clone()).or_default().remove(&device);
            self.keeping.look_soon(now, &site);
        }
    }

    /// A device has said what room it has.
    pub(super) fn keep_room(&mut self, now: Now, device: DeviceId, heartbeat: &pb::Heartbeat) {
        let Some(known) = self.registry.device(&device) else { return };
        if known.kind == DeviceKind::Seed {
            return self.keeping.repositories.handle_room(now, device, heartbeat.free_bytes);
        }
        let site = known.site.clone();
        let Some(it) = self.keeping.box_mut(&site, &device) else { return };
        let is_first = it.free_bytes.is_none();
        it.free_bytes = Some(heartbeat.free_bytes);
        it.preload_bytes = heartbeat.preload_bytes;
        if is_first {
            self.keeping.look_soon(now, &site);
        }
    }

    /// A device has answered a challenge.
    pub(super) fn keep_proof(&mut self, now: Now, device: DeviceId, proof: &pb::ProofAnswer) -> Result<(), Invalid> {
        let answer = match proof.hash.as_slice() {
            [] => proofs::Answer::NotHeld,
            hash => match hash.try_into() {
                Ok(hash) => proofs::Answer::Hash(hash),
                Err(_) => return Err(Invalid::new("proof.hash", "must have 32 bytes, or none")),
            },
        };
        self.keeping.proofs.handle_answer(now, device, proof.id, answer);
        Ok(())
    }

    /// Why nobody sends, for a person, and what is planned then. Names seeds, never other people's boxes.
    pub(super) fn waiting_text(&self, item: &ItemId, why: Waiting) -> String {
        match why {
            Waiting::NobodyHoldsIt => self.keeping.planned(item, &self.registry),
            Waiting::HoldersAway => {
                let is_seed = |it: &DeviceId| self.registry.device(it).is_some_and(|it| it.kind == DeviceKind::Seed);
                let mut seeds: Vec<DeviceId> = self.planner.holders(item).map(|(device, _)| device).collect();
                seeds.retain(is_seed);
                seeds.sort_unstable();
                match seeds.as_slice() {
                    [] => why.to_string(),
                    seeds => {
                        format!("{why}; a fill from {} is planned, as soon as it is back", named(seeds, &self.registry))
                    }
                }
            }
            other => other.to_string(),
        }
    }

    /// Whether a device may delete a copy: if another one is known that is believed and stays.
    fn release(
        &mut self,
        now: Now,
        device: DeviceId,
        item: ItemId,
        reason: pb::ReleaseReason,
    ) -> Result<pb::ReleaseResponse, Failure> {
        let site = self.registry.member(&device).map_err(refusal::caller)?.site.clone();
        let stays = |(other, held): &(DeviceId, Held<'_>)| {
            *other != device
                && held.is_complete()
                && self.registry.device(other).is_some_and(|it| !it.revoked)
                && !self.keeping.leaving.contains(&(*other, item))
                && self.keeping.standing(now, other, &item) != Standing::Doubted
        };
        let others = self.planner.holders(&item).filter(stays).count();
        let may_drop = others > 0 && self.keeping.leaving.len() < MAX_LEAVING;
        if may_drop && self.planner.holding(&device, &item).is_some() {
            self.keeping.leaving.insert((device, item));
        }
        if reason == pb::ReleaseReason::NoRoom {
            self.keeping.decline(now, device, item);
            self.keeping.look_soon(now, &site);
        }
        tracing::debug!(device = %device.short(), %item, may_drop, others, "a device would drop a copy");
        Ok(pb::ReleaseResponse { may_drop, other_copies: u32::try_from(others).unwrap_or(u32::MAX) })
    }

    /// Time has passed.
    pub(super) fn keep_on(&mut self, now: Now) {
        self.keeping.repositories.handle_timeout(now);
        self.keeping.proofs.handle_timeout(now, &Here { planner: &self.planner, registry: &self.registry });
        let due = self.keeping.due.iter().find(|(_, at)| **at <= now.mono).map(|(site, _)| site.clone());
        // One site in each turn, so that questions are answered in between.
        if let Some(site) = due {
            self.keeping.due.remove(&site);
            self.look_at_site(now, &site);
        }
    }

    /// Does what the machines want done.
    pub(super) fn perform_keeping(&mut self, now: Now) {
        while let Some(action) = self.keeping.proofs.poll_action() {
            match action {
                proofs::Action::Ask(device, challenge) => {
                    if let Some(session) = self.sessions.get(&device) {
                        session.mailbox.challenge(pb::Challenge {
                            id: challenge.id,
                            item: challenge.item.to_vec(),
                            chunk: challenge.chunk.get(),
                            nonce: challenge.nonce.to_vec(),
                        });
                    }
                }
                proofs::Action::Judged { device, item, doubted } => self.judge(now, device, item, doubted),
            }
        }
        while let Some(repositories::Action::Tell(seed)) = self.keeping.repositories.poll_action() {
            self.keeping.to_tell.insert(seed);
        }
        for device in std::mem::take(&mut self.keeping.to_tell) {
            self.tell_assignments(now, &device);
        }
    }

    fn judge(&mut self, now: Now, device: DeviceId, item: ItemId, doubted: bool) {
        match doubted {
            true => tracing::warn!(device = %device.short(), %item, "a device does not hold what it says"),
            false => tracing::info!(device = %device.short(), %item, "a device is believed again"),
        }
        self.keeping.repositories.handle_doubt(now, device, item, doubted);
        if let Some(site) = self.registry.device(&device).map(|it| it.site.clone()) {
            self.keeping.look_soon(now, &site);
        }
    }
}

impl Keeping {
    fn leaving_of(&self, device: &DeviceId) -> Vec<ItemId> {
        let from = (*device, ItemId::from([0; 32]));
        self.leaving.range(from..).take_while(|(of, _)| of == device).map(|(_, item)| *item).collect()
    }

    fn decline(&mut self, now: Now, device: DeviceId, item: ItemId) {
        if self.declined.len() >= MAX_DECLINED {
            self.declined.retain(|_, until| now.mono < *until);
        }
        if self.declined.len() < MAX_DECLINED {
            self.declined.insert((device, item), now.mono + DECLINED_FOR);
        }
    }
}

/// Seeds by their names, the first few of them.
fn named(seeds: &[DeviceId], registry: &Registry) -> String {
    let name = |seed: &DeviceId| registry.device(seed).map_or_else(|| seed.short(), |it| it.name.clone());
    let named: Vec<String> = seeds.iter().take(NAMED).map(name).collect();
    let more = if seeds.len() > NAMED { " or others" } else { "" };
    format!("{}{more}", named.join(", "))
}
