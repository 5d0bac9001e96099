//! Makes a world out of a scenario and a seed.

use std::collections::{BTreeMap, BTreeSet};

use rand::RngExt as _;
use rand::seq::SliceRandom as _;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng as _;
use swarm_proto::geometry::{CHUNK_BYTES, Geometry};
use swarm_proto::id::{AccountId, SiteId};
use swarm_proto::membership::DeviceKind;
use swarm_proto::peer::chunk_set::ChunkSet;
use swarm_proto::peer::transfers::{self, Transfers};
use swarm_proto::peer::uploads::{self, Uploads};
use swarm_proto::tracker::planner::{self, Link, Profile};

use super::checks::Limits;
use super::device::{Device, Manners, Parts, id_of, item_of};
use super::links::{LinkId, Links};
use super::plays::Play;
use super::schedule::{self, Schedule};
use super::tally::Tally;
use super::trace::Trace;
use super::tracker::Tracker;
use super::{BEAT_MICROS, Canary, Title, Wake, Want, World, clocks_at, micros};
use crate::scenario::Scenario;

/// Bytes per second of one Mbit/s.
const MBIT: u64 = 125_000;

/// Pictures of how things stand, at most, in one run.
const SAMPLES: u64 = 600;

/// Devices tell the tracker that they are there this often, as at the tracker.
pub(super) const HEARTBEAT_MICROS: u64 = 10_000_000;

/// Independent sources of chance, so that changing one thing does not change all others.
enum Chance {
    Links = 1,
    Wants = 2,
    Leaving = 3,
    Crooks = 4,
    World = 5,
}

impl World {
    /// The swarm of a scenario, before anything has happened. `watched` names a box whose story is kept.
    pub fn new(scenario: &Scenario, watched: Option<u32>, canary: Option<Canary>) -> World {
        let geometry = Geometry::of_sealed(u64::from(scenario.titles.chunks) * CHUNK_BYTES)
            .expect("scenarios have titles of a length that items can have");
        let mut tracker_seed = [0; 32];
        tracker_seed[..8].copy_from_slice(&scenario.seed.to_be_bytes());
        let machines = Machines::of(scenario);
        let tracker = Tracker::new(
            tracker_seed,
            machines.planner.clone(),
            scenario.plans,
            geometry.n_chunks(),
            geometry.sealed_len(),
        );
        let delays = schedule::Delays {
            request: micros(scenario.delays.request.get()),
            answer: micros(scenario.delays.answer.get()),
            control: micros(scenario.delays.control.get()),
        };
        let mut links = Links::default();
        let wide = |links: &mut Links, mbit: Option<u64>| mbit.map(|mbit| links.add_wide(mbit * MBIT));
        let borders: Vec<(Option<LinkId>, Option<LinkId>)> =
            scenario.sites.iter().map(|it| (wide(&mut links, it.out_mbit), wide(&mut links, it.in_mbit))).collect();
        let transit = wide(&mut links, scenario.transit_mbit);
        let n_sites = scenario.sites.len().max(1);
        let title = |number| Title { item: item_of(number, scenario.seed), providers: Vec::new() };
        let mut world = World {
            schedule: Schedule::new(delays),
            links,
            sendings: Vec::new(),
            devices: Vec::new(),
            n_boxes: scenario.boxes,
            titles: (0..scenario.titles.count).map(title).collect(),
            geometry,
            chunk_lasts: (CHUNK_BYTES * 1_000_000 / (scenario.plays.mbit * MBIT)).max(1),
            tracker,
            wants: Vec::new(),
            open_wants: 0,
            wants_of: BTreeMap::new(),
            leaves: BTreeMap::new(),
            borders,
            transit,
            chance: chance(scenario.seed, Chance::World),
            trace: Trace::new(watched),
            tally: Tally {
                between: vec![vec![0; n_sites]; n_sites],
                copies: vec![vec![0; geometry.n_chunks() as usize]; scenario.titles.count as usize],
                ..Tally::default()
            },
            limits: Limits::of_chunks(machines.outstanding_chunks, machines.slots, machines.seed_slots),
            tainted: BTreeSet::new(),
            canary,
            scenario: scenario.clone(),
        };
        world.add_boxes(&machines);
        world.add_seeds(&machines);
        world.connect_all();
        world.add_wants();
        world.add_leaving();
        world.add_faults();
        world
    }

    fn add_boxes(&mut self, machines: &Machines) {
        let scenario = self.scenario.clone();
        let n = scenario.boxes as usize;
        let mut rng = chance(scenario.seed, Chance::Links);
        let mut classes = dealt(&scenario.links.iter().map(|class| class.share).collect::<Vec<_>>(), n);
        let mut sites = dealt(&scenario.sites.iter().map(|site| site.share).collect::<Vec<_>>(), n);
        classes.shuffle(&mut rng);
        sites.shuffle(&mut rng);
        let crooks = &scenario.crooks;
        let shares = [crooks.liars, crooks.turncoats, crooks.free_riders, crooks.stallers];
        let honest = 1.0 - shares.iter().sum::<f64>();
        let mut manners = dealt(&[shares.as_slice(), &[honest]].concat(), n);
        manners.shuffle(&mut chance(scenario.seed, Chance::Crooks));
        for number in 0..n {
            let class = &scenario.links[classes[number]];
            let manners = match manners[number] {
                0 => Manners::Liar { after: 0 },
                1 => Manners::Liar { after: crooks.turn_after },
                2 => Manners::FreeRider,
                3 => Manners::Staller,
                _ => Manners::Honest,
            };
            let wrong = 1.0 + scenario.uplinks.misjudged * rng.random_range(-1.0..=1.0);
            let told = Link {
                uplink_bytes_per_sec: Some(((class.up_mbit * MBIT) as f64 * wrong) as u64),
                downlink_bytes_per_sec: Some(class.down_mbit * MBIT),
                upload_cap_bytes_per_sec: None,
            };
            let slots = if manners == Manners::FreeRider { 0 } else { machines.slots };
            let site = sites.get(number).copied().unwrap_or(0);
            let rates = (class.up_mbit * MBIT, class.down_mbit * MBIT);
            self.add_device(machines, DeviceKind::Box, site, rates, scenario.uplinks.told.then_some(told), slots);
            self.devices[number].manners = manners;
        }
    }

    fn add_seeds(&mut self, machines: &Machines) {
        let seeds = self.scenario.seeds.clone();
        let named = seeds.site.as_ref().and_then(|name| self.scenario.sites.iter().position(|it| it.name == *name));
        for number in 0..seeds.count as usize {
            let site = named.unwrap_or(number % self.scenario.sites.len().max(1));
            let rates = (seeds.up_mbit * MBIT, seeds.down_mbit * MBIT);
            let told = Link {
                uplink_bytes_per_sec: Some(rates.0),
                downlink_bytes_per_sec: Some(rates.1),
                upload_cap_bytes_per_sec: None,
            };
            self.add_device(machines, DeviceKind::Seed, site, rates, Some(told), machines.seed_slots);
            let seed = (self.devices.len() - 1) as u32;
            for title in 0..self.titles.len() as u32 {
                self.give_copy(seed, title);
            }
        }
        let liars = |it: &Device| matches!(it.manners, Manners::Liar { after: 0 });
        for number in (0..self.n_boxes).filter(|number| liars(&self.devices[*number as usize])).collect::<Vec<_>>() {
            for title in 0..self.titles.len() as u32 {
                self.give_copy(number, title);
            }
        }
    }

    fn add_device(
        &mut self,
        machines: &Machines,
        kind: DeviceKind,
        site: usize,
        (up, down): (u64, u64),
        told: Option<Link>,
        slots: u32,
    ) {
        let number = self.devices.len() as u32;
        let id = id_of(number, self.scenario.seed);
        let (first, _) = id.as_bytes().split_first_chunk().expect("an id has 32 bytes");
        let mut account = [0; 16];
        account[12..].copy_from_slice(&number.to_be_bytes());
        let uploads = uploads::Config { slots, is_seed: kind == DeviceKind::Seed, ..machines.uploads.clone() };
        let parts = Parts {
            id,
            account: AccountId::from_bytes(account),
            kind,
            site,
            up: self.links.add(up, number),
            down: self.links.add(down, number),
            up_bytes_per_sec: up,
            down_bytes_per_sec: down,
            told,
            manners: Manners::Honest,
            transfers: Transfers::new(u64::from_be_bytes(*first), machines.transfers.clone()),
            uploads: Uploads::new(id, 1, uploads),
        };
        self.devices.push(Device::new(parts));
    }

    /// A device has all of a title, or says so.
    fn give_copy(&mut self, device: u32, title: u32) {
        let n_chunks = self.geometry.n_chunks();
        let it = &mut self.devices[device as usize];
        it.held.insert(title, ChunkSet::full(n_chunks));
        self.titles[title as usize].providers.push(device);
        if it.is_honest() {
            self.tally.copies[title as usize].iter_mut().for_each(|copies| *copies += 1);
        }
    }

    /// Everybody has been in touch with the tracker for long.
    fn connect_all(&mut self) {
        let now = clocks_at(0);
        let names = self.site_names();
        for device in &self.devices {
            let site = SiteId::new(&names[device.site]).expect("scenarios name sites as sites are named");
            let profile = Profile { kind: device.kind, site, account: device.account };
            self.tracker.enrol(now, device.id, profile);
        }
        let n_chunks = self.geometry.n_chunks();
        // Seeds first, so that everybody knows them.
        for number in (0..self.devices.len()).rev() {
            let device = &self.devices[number];
            let (id, link) = (device.id, device.link());
            let titles: Vec<u32> = device.held.keys().copied().collect();
            let pinned = self.tracker.arrive(now, id, link);
            for title in titles {
                let holding = self.devices[number].holding(title, n_chunks);
                let item = self.titles[title as usize].item;
                self.tracker.timed(|planner| planner.handle_holding(now, id, item, &holding));
            }
            let device = &mut self.devices[number];
            device.transfers.handle_tracker(now, true);
            device.transfers.handle_pinned(now, pinned);
            // Everybody has its own beat.
            let first = self.chance.random_range(0..HEARTBEAT_MICROS);
            self.schedule.wake(first, Wake::Heartbeat(number as u32));
        }
        self.after_tracker();
    }

    fn add_wants(&mut self) {
        let (wants, plays) = (self.scenario.wants.clone(), self.scenario.plays.clone());
        let mut rng = chance(self.scenario.seed, Chance::Wants);
        let popularity: Vec<f64> =
            (1..=self.titles.len()).map(|rank| (rank as f64).powf(-self.scenario.titles.zipf)).collect();
        let over = micros(wants.over.get());
        let mut asking: Vec<u32> = (0..self.n_boxes).filter(|number| self.may_want(*number)).collect();
        let n = (asking.len() as f64 * wants.share).round() as usize;
        asking.shuffle(&mut rng);
        asking.truncate(n);
        asking.sort_unstable();
        for device in asking {
            let mut left = popularity.clone();
            let first = self.wants.len();
            for _ in 0..wants.per_box {
                let title = drawn(&left, &mut rng);
                left[title] = 0.0;
                let at = if over == 0 { 0 } else { rng.random_range(0..over) };
                let is_watched = plays.share > 0.0 && rng.random_range(0.0..1.0) < plays.share;
                let play = is_watched.then(Play::default);
                self.wants.push(Want { device, title: title as u32, at, done_at: None, given_up: false, play });
            }
            self.wants_of.insert(device, first..self.wants.len());
        }
        self.open_wants = self.wants.len();
        for (number, want) in self.wants.iter().enumerate() {
            self.schedule.wake(want.at, Wake::Want(number as u32));
            if want.play.is_some() {
                self.schedule.wake(want.at, Wake::Play(number as u32));
            }
        }
    }

    /// Those who claim to have everything ask for nothing.
    fn may_want(&self, number: u32) -> bool {
        !matches!(self.devices[number as usize].manners, Manners::Liar { after: 0 })
    }

    fn add_leaving(&mut self) {
        let churn = self.scenario.churn.clone();
        let mut rng = chance(self.scenario.seed, Chance::Leaving);
        let mut boxes: Vec<u32> = (0..self.n_boxes).collect();
        boxes.shuffle(&mut rng);
        boxes.truncate((f64::from(self.n_boxes) * churn.share).round() as usize);
        for device in boxes {
            let at = rng.random_range(0..=micros(churn.over.get()));
            self.leaves.insert(device, at);
            self.schedule.wake(at, Wake::Leave(device));
        }
    }

    fn add_faults(&mut self) {
        let faults = self.scenario.faults.clone();
        if let Some(at) = faults.seeds_leave_at {
            let at = micros(at.get());
            self.leaves.extend((self.n_boxes..self.devices.len() as u32).map(|seed| (seed, at)));
            self.schedule.wake(at, Wake::SeedsLeave);
        }
        for outage in &faults.tracker_away {
            self.schedule.wake(micros(outage.at.get()), Wake::TrackerStops);
            self.schedule.wake(micros(outage.at.get() + outage.lasts.get()), Wake::TrackerStarts);
        }
        if self.links.has_wide() {
            self.schedule.wake(BEAT_MICROS, Wake::Beat);
        }
        self.schedule.wake(0, Wake::Sample);
    }

    /// How often a picture is taken.
    pub(super) fn sample_every(&self) -> u64 {
        (micros(self.scenario.until.get()) / SAMPLES).max(1_000_000)
    }

    pub(super) fn site_names(&self) -> Vec<String> {
        match self.scenario.sites.as_slice() {
            [] => vec!["everywhere".to_owned()],
            sites => sites.iter().map(|site| site.name.clone()).collect(),
        }
    }
}

/// Settings of the machines: the defaults of the daemons, and what the scenario changes.
struct Machines {
    transfers: transfers::Config,
    uploads: uploads::Config,
    planner: planner::Config,
    outstanding_chunks: u32,
    slots: u32,
    seed_slots: u32,
}

impl Machines {
    fn of(scenario: &Scenario) -> Machines {
        let set = &scenario.machines;
        let mut transfers = transfers::Config::default();
        let outstanding_chunks =
            set.outstanding_chunks.unwrap_or((transfers.outstanding_bytes / CHUNK_BYTES) as u32).max(1);
        transfers.outstanding_bytes = u64::from(outstanding_chunks) * CHUNK_BYTES;
        transfers.outstanding_per_source = set.outstanding_per_source.unwrap_or(transfers.outstanding_per_source);
        transfers.holding_refresh = set.holding_refresh.map_or(transfers.holding_refresh, |it| it.get());
        let mut uploads = uploads::Config::default();
        uploads.slots_per_peer = set.slots_per_peer.unwrap_or(uploads.slots_per_peer);
        let slots = set.slots.unwrap_or(uploads.slots);
        let mut planner = planner::Config::default();
        planner.lease = set.lease.map_or(planner.lease, |it| it.get());
        planner.renew_after = set.renew_after.map_or(planner.renew_after, |it| it.get());
        let seed_slots = set.seed_slots.unwrap_or(slots);
        Machines { transfers, uploads, planner, outstanding_chunks, slots, seed_slots }
    }
}

fn chance(seed: u64, of: Chance) -> ChaCha8Rng {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(of as u64);
    rng
}

/// Numbers of shares, so many of each as its share says, in order.
fn dealt(shares: &[f64], n: usize) -> Vec<usize> {
    let (mut dealt, mut sum) = (Vec::with_capacity(n), 0.0);
    for (number, share) in shares.iter().enumerate() {
        sum += share;
        let until = ((sum * n as f64).round() as usize).min(n);
        dealt.resize(until.max(dealt.len()), number);
    }
    if let Some(last) = dealt.last().copied() {
        dealt.resize(n, last);
    }
    dealt
}

/// One of these, each as likely as its weight says.
fn drawn(weights: &[f64], rng: &mut ChaCha8Rng) -> usize {
    let mut at = rng.random_range(0.0..1.0) * weights.iter().sum::<f64>();
    let fits = |weight: &f64| {
        at -= weight;
        at < 0.0
    };
    let last = weights.iter().rposition(|weight| *weight > 0.0).unwrap_or(0);
    weights.iter().position(fits).unwrap_or(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_dealt_to_the_last_box() {
        assert_eq!(dealt(&[0.4, 0.6], 5), [0, 0, 1, 1, 1]);
        assert_eq!(dealt(&[1.0 / 3.0, 1.0 / 3.0, 1.0 / 3.0], 4).len(), 4);
        assert!(dealt(&[], 3).is_empty());
    }

    #[test]
    fn what_has_no_weight_is_not_drawn() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        assert!((0..1_000).all(|_| drawn(&[0.0, 1.0, 0.0], &mut rng) == 1));
    }
}
