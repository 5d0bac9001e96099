//! The tracker of a virtual swarm: the planner that ships, and the messages around it.
//!
//! Decides nothing. Forgets, when it is away, what the real one would not find in its store: who is there, links, leases.

use std::time::Instant;

use rand::seq::IndexedRandom as _;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng as _;
use swarm_proto::bitmap::Holding;
use swarm_proto::id::{DeviceId, ItemId};
use swarm_proto::membership::DeviceKind;
use swarm_proto::peer::transfers;
use swarm_proto::ticket::{MAX_SHARES, SeedShare, Ticket};
use swarm_proto::time::Now;
use swarm_proto::tracker::planner::{self, Link, Planner, Profile, Wish};

use crate::scenario::Plans;

/// How long a ticket lasts, as at the tracker.
const TICKET_LASTS: std::time::Duration = std::time::Duration::from_secs(24 * 3_600);

/// How long its shares last, as at the tracker.
const SHARES_LAST: std::time::Duration = std::time::Duration::from_secs(600);

/// A ticket allows this part of an item above its length from seeds, as at the tracker.
const SEED_SLACK_DIVISOR: u64 = 10;

/// Seeds that a device keeps connected, as at the tracker.
const PINNED_SEEDS: usize = 3;

/// Devices that a tracker without a plan names, and how long before it is asked again: as with BitTorrent.
const RANDOM_LIST: usize = 40;
const RANDOM_LIST_EVERY: std::time::Duration = std::time::Duration::from_secs(30);

/// What a device tells.
#[derive(Debug)]
pub(crate) enum Report {
    Hello { holdings: Vec<(u32, Holding)>, link: Link },
    Plan { title: u32, missing: Vec<std::ops::Range<u32>>, playing: bool },
    Holding { title: u32, holding: Holding },
    Heartbeat(Link),
    Stall { title: u32, source: DeviceId },
    Gone,
}

/// What a device is told.
#[derive(Debug)]
pub(crate) enum Notice {
    Welcome { pinned: Vec<DeviceId> },
    Plan { title: u32, plan: transfers::Plan, ticket: Box<Ticket> },
    NoPlan { title: u32 },
    Down,
}

/// How much work the planner had, on this computer.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Load {
    pub(crate) calls: u64,
    pub(crate) plans: u64,
    pub(crate) pushes: u64,
    pub(crate) leases: u64,
    pub(crate) nanos: u64,
    pub(crate) longest_nanos: u64,
}

/// The tracker.
#[derive(Debug)]
pub(crate) struct Tracker {
    config: planner::Config,
    profiles: Vec<(DeviceId, Profile)>,
    seeds: Vec<DeviceId>,
    pub(crate) planner: Planner,
    pub(crate) up: bool,
    pub(crate) wake_at: u64,
    pub(crate) load: Load,
    sealed_len: u64,
    n_chunks: u32,
    tickets: u64,
    starts: u8,
    seed: [u8; 32],
    plans: Plans,
    chance: ChaCha8Rng,
}

impl Tracker {
    pub(crate) fn new(seed: [u8; 32], config: planner::Config, plans: Plans, n_chunks: u32, sealed_len: u64) -> Self {
        Self {
            planner: Planner::new(seed, config.clone()),
            config,
            profiles: Vec::new(),
            seeds: Vec::new(),
            up: true,
            wake_at: u64::MAX,
            load: Load::default(),
            sealed_len,
            n_chunks,
            tickets: 0,
            starts: 0,
            seed,
            plans,
            chance: ChaCha8Rng::from_seed(seed),
        }
    }

    /// A device becomes a member.
    pub(crate) fn enrol(&mut self, now: Now, device: DeviceId, profile: Profile) {
        self.planner.handle_enrolled(now, device, &profile);
        if profile.kind == DeviceKind::Seed {
            self.seeds.push(device);
        }
        self.profiles.push((device, profile));
    }

    /// The process is gone.
    pub(crate) fn stop(&mut self) {
        self.up = false;
        self.wake_at = u64::MAX;
    }

    /// The process is back: members and holdings come from the store.
    pub(crate) fn start(&mut self, now: Now, items: impl Iterator<Item = ItemId>) {
        self.up = true;
        self.starts = self.starts.wrapping_add(1);
        let mut seed = self.seed;
        seed[0] = seed[0].wrapping_add(self.starts);
        let before = std::mem::replace(&mut self.planner, Planner::new(seed, self.config.clone()));
        for (device, profile) in &self.profiles {
            self.planner.handle_enrolled(now, *device, profile);
        }
        for item in items {
            for (device, held) in before.holders(&item) {
                self.planner.handle_holding(now, device, item, &held.to_holding());
            }
        }
    }

    /// A device has come: who it should stay connected to.
    pub(crate) fn arrive(&mut self, now: Now, device: DeviceId, link: Link) -> Vec<DeviceId> {
        self.planner.handle_arrived(now, device);
        self.planner.handle_heartbeat(now, device, link);
        self.planner.online_seeds(&device, PINNED_SEEDS)
    }

    /// Who sends an item.
    pub(crate) fn plan(&mut self, now: Now, wish: Wish) -> (transfers::Plan, Ticket) {
        let plan = match self.plans {
            Plans::Planner => self.timed(|planner| planner.plan(now, &wish)),
            Plans::RandomList => self.random_list(now, &wish),
        };
        self.load.plans += 1;
        self.message(now, &wish, plan)
    }

    fn random_list(&mut self, now: Now, wish: &Wish) -> planner::Plan {
        let known = self.profiles.sample(&mut self.chance, RANDOM_LIST);
        let known = known.filter(|(device, _)| *device != wish.device && self.planner.is_online(device));
        let lease = |(device, profile): &(DeviceId, Profile)| planner::Lease {
            source: *device,
            kind: profile.kind,
            same_site: false,
            planned_bytes_per_sec: 0,
            rate_cap_bytes_per_sec: None,
            portions: Vec::new(),
            reason: planner::Reason::Elsewhere,
        };
        let leases = known.map(lease).collect();
        let until = now.utc + 2 * RANDOM_LIST_EVERY;
        planner::Plan { leases, until, renew_after: RANDOM_LIST_EVERY, waiting: None }
    }

    /// A plan as it goes to a device, with its ticket.
    pub(crate) fn message(&mut self, now: Now, wish: &Wish, plan: planner::Plan) -> (transfers::Plan, Ticket) {
        self.load.leases += plan.leases.len() as u64;
        self.tickets += 1;
        let ticket = Ticket {
            device: wish.device,
            item: wish.item,
            class: wish.class,
            expires: now.utc + TICKET_LASTS,
            serial: self.tickets,
            shares: self.shares(&plan),
            shares_until: now.utc + SHARES_LAST,
            party: party_of(&wish.device),
        };
        let until = plan.until;
        let lease = |it: planner::Lease| transfers::Lease {
            device: it.source,
            kind: it.kind,
            rate_cap_bytes_per_sec: it.rate_cap_bytes_per_sec,
            until,
            portions: it.portions,
        };
        let told = transfers::Plan {
            item: wish.item,
            leases: plan.leases.into_iter().map(lease).collect(),
            renew_after: plan.renew_after,
            waiting: plan.waiting.map(|why| why.to_string()).unwrap_or_default(),
            closed: None,
        };
        (told, ticket)
    }

    /// The seeds of the plan, then others, without a budget.
    fn shares(&self, plan: &planner::Plan) -> Vec<SeedShare> {
        let planned = plan.leases.iter().filter(|lease| lease.kind == DeviceKind::Seed).map(|lease| lease.source);
        let mut seeds: Vec<DeviceId> = planned.take(MAX_SHARES).collect();
        for seed in &self.seeds {
            if seeds.len() < MAX_SHARES && !seeds.contains(seed) {
                seeds.push(*seed);
            }
        }
        let bytes = self.sealed_len + self.sealed_len / SEED_SLACK_DIVISOR;
        seeds.into_iter().map(|seed| SeedShare { seed, bytes, run: None }).collect()
    }

    /// Does something with the planner and notes how long this computer took for it.
    pub(crate) fn timed<T>(&mut self, act: impl FnOnce(&mut Planner) -> T) -> T {
        let started = Instant::now();
        let result = act(&mut self.planner);
        let nanos = u64::try_from(started.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.load.calls += 1;
        self.load.nanos += nanos;
        self.load.longest_nanos = self.load.longest_nanos.max(nanos);
        result
    }

    pub(crate) fn n_chunks(&self) -> u32 {
        self.n_chunks
    }
}

/// Every device here belongs to a customer of its own.
fn party_of(device: &DeviceId) -> u64 {
    let (first, _) = device.as_bytes().split_first_chunk().expect("an id has 32 bytes");
    u64::from_be_bytes(*first).max(1)
}
