//! How fast the tracker's planner decides, and what it remembers, as the swarm grows.
//!
//! `cargo run --release -p benches --bin planner -- [--json] [--plans N] [--devices N]...`
//!
//! Devices at 20 sites hold 20 whole titles each out of 2,000 (Zipf, exponent 0.9), ten seeds hold all of them. Then
//! devices ask for titles they lack, by the same law, so that about a tenth of them is being planned for at any time.
//! A decision is one lease of a plan. What is shown: decisions a second on one core, their cost beside that of the
//! smallest swarm, and bytes per holding.

use std::time::{Duration, Instant};

use rand::RngExt as _;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng as _;
use swarm_proto::bitmap::Holding;
use swarm_proto::id::{AccountId, DeviceId, ItemId, SiteId};
use swarm_proto::membership::DeviceKind;
use swarm_proto::ticket::TicketClass;
use swarm_proto::time::{Mono, Now, Utc};
use swarm_proto::tracker::planner::{Action, Config, Link, Planner, Profile, Wish};

const ITEMS: usize = 2_000;
const ITEMS_PER_DEVICE: usize = 20;
const CHUNKS: u32 = 1_024;
const SITES: usize = 20;
const SEEDS: usize = 10;
const ZIPF: f64 = 0.9;
/// Plans that are timed, unless told otherwise.
const PLANS: usize = 100_000;
/// How often a device is heard of.
const HEARTBEAT_MS: u64 = 10_000;

struct Popularity {
    cumulated: Vec<f64>,
}

impl Popularity {
    fn new() -> Popularity {
        let mut sum = 0.0;
        let cumulated = (1..=ITEMS).map(|rank| {
            sum += (rank as f64).powf(-ZIPF);
            sum
        });
        Popularity { cumulated: cumulated.collect() }
    }

    fn draw(&self, rng: &mut ChaCha8Rng) -> usize {
        let at: f64 = rng.random::<f64>() * self.cumulated[ITEMS - 1];
        self.cumulated.partition_point(|sum| *sum < at).min(ITEMS - 1)
    }
}

fn device(n: usize) -> DeviceId {
    DeviceId::from(*blake3::hash(&n.to_le_bytes()).as_bytes())
}

fn item(n: usize) -> ItemId {
    ItemId::from_bytes(*blake3::hash(&(n + (1 << 40)).to_le_bytes()).as_bytes())
}

fn at(ms: u64) -> Now {
    Now::new(Mono::from_millis(ms), Utc::from_secs(1_800_000_000) + Duration::from_millis(ms))
}

struct Figures {
    devices: usize,
    build_seconds: f64,
    decisions: u64,
    decisions_per_sec: f64,
    ns_per_decision: f64,
    plans_per_sec: f64,
    slowest_plan_ms: f64,
    bytes_per_copy: f64,
    bytes_per_part: f64,
    holdings_mib: f64,
    resident_mib: f64,
}

fn measure(devices: usize, plans: usize) -> Figures {
    let mut rng = ChaCha8Rng::seed_from_u64(7);
    let popularity = Popularity::new();
    let items: Vec<ItemId> = (0..ITEMS).map(item).collect();
    let ids: Vec<DeviceId> = (0..devices + SEEDS).map(device).collect();
    let copy = Holding::complete(CHUNKS).expect("a size");

    let began = Instant::now();
    let mut planner = Planner::new([7; 32], Config::default());
    for (n, id) in ids.iter().enumerate() {
        let is_seed = n >= devices;
        let account = AccountId::from(u128::try_from(n / 2).expect("a number").to_le_bytes());
        let kind = if is_seed { DeviceKind::Seed } else { DeviceKind::Box };
        let site = SiteId::new(&format!("site-{}", n % SITES)).expect("a label");
        planner.handle_enrolled(at(0), *id, &Profile { kind, site, account });
        planner.handle_arrived(at(0), *id);
        let (up, down) = match n % 5 {
            _ if is_seed => (125_000_000, 125_000_000),
            0 | 1 => (12_500_000, 37_500_000),
            _ => (2_500_000, 12_500_000),
        };
        let link =
            Link { uplink_bytes_per_sec: Some(up), downlink_bytes_per_sec: Some(down), upload_cap_bytes_per_sec: None };
        planner.handle_heartbeat(at(0), *id, link);
        if is_seed {
            items.iter().for_each(|item| planner.handle_holding(at(0), *id, *item, &copy));
        } else {
            for _ in 0..ITEMS_PER_DEVICE {
                let item = items[popularity.draw(&mut rng)];
                planner.handle_holding(at(0), *id, item, &copy);
            }
        }
    }
    let build_seconds = began.elapsed().as_secs_f64();
    let count = |planner: &Planner| -> usize { ids.iter().map(|id| planner.held_by(id).count()).sum() };
    let copies = count(&planner);
    let bytes_of_copies = planner.holdings_bytes();

    // Parts: half of the chunks, scattered, as many as it takes to see their size.
    let scattered: Vec<std::ops::Range<u32>> = (0..CHUNKS / 2).map(|n| n * 2..n * 2 + 1).collect();
    let part = Holding::from_runs(CHUNKS, scattered).expect("chunks of the item");
    let parts_from = item(ITEMS);
    for id in ids.iter().take(1_000) {
        planner.handle_holding(at(0), *id, parts_from, &part);
    }
    let bytes_of_parts = planner.holdings_bytes() - bytes_of_copies;

    // A tenth of the devices is being planned for: each asks anew every five seconds.
    let step_ms = 5_000.0 / (devices as f64 / 10.0);
    let (mut decisions, mut planned) = (0_u64, 0_usize);
    let mut slowest = Duration::ZERO;
    let mut spent = Duration::ZERO;
    let mut heard_at = 0;
    for plan in 0..plans {
        // The same tenth comes back in turn, so that most plans are renewals, as in a swarm.
        let n = plan % (devices / 10).max(1) * 10 % devices;
        let asker = ids[n];
        let mut rng = ChaCha8Rng::seed_from_u64(n as u64);
        let item = items[popularity.draw(&mut rng)];
        let class = match n % 10 {
            _ if n.is_multiple_of(70) => TicketClass::Playing,
            _ if n.is_multiple_of(110) => TicketClass::Preload,
            _ => TicketClass::Queued,
        };
        let now = at((plan as f64 * step_ms) as u64);
        if now.mono.as_millis() >= heard_at {
            heard_at = now.mono.as_millis() + HEARTBEAT_MS;
            for id in &ids {
                planner.handle_alive(now, *id);
            }
        }
        let missing = std::iter::once(0..CHUNKS).collect();
        let wish = Wish { device: asker, item, n_chunks: CHUNKS, missing, class, rank: 0, until: None };
        let began = Instant::now();
        planner.handle_timeout(now);
        let answer = planner.plan(now, &wish);
        while let Some(action) = planner.poll_action() {
            if let Action::Push { plan, .. } = action {
                decisions += plan.leases.len() as u64;
                planned += 1;
            }
        }
        let took = began.elapsed();
        spent += took;
        slowest = slowest.max(took);
        decisions += answer.leases.len() as u64;
        planned += 1;
    }
    let seconds = spent.as_secs_f64();
    Figures {
        devices,
        build_seconds,
        decisions,
        decisions_per_sec: decisions as f64 / seconds,
        ns_per_decision: seconds * 1e9 / decisions as f64,
        plans_per_sec: planned as f64 / seconds,
        slowest_plan_ms: slowest.as_secs_f64() * 1e3,
        bytes_per_copy: bytes_of_copies as f64 / copies as f64,
        bytes_per_part: bytes_of_parts as f64 / 1_000.0,
        holdings_mib: bytes_of_copies as f64 / f64::from(1 << 20),
        resident_mib: resident_bytes() as f64 / f64::from(1 << 20),
    }
}

/// What the process holds in memory now.
fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|rest| rest.split_whitespace().next()).and_then(|kib| kib.parse::<u64>().ok());
    kib.unwrap_or(0) << 10
}

fn main() {
    let mut json = false;
    let mut sizes: Vec<usize> = Vec::new();
    let mut plans = PLANS;
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match (arg.as_str(), args.len()) {
            ("--json", _) => json = true,
            ("--devices", 1..) => {
                sizes.push(args.next().and_then(|n| n.parse().ok()).filter(|n| *n >= 100).unwrap_or_else(|| usage()));
            }
            ("--plans", 1..) => {
                plans = args.next().and_then(|n| n.parse().ok()).filter(|n| *n > 0).unwrap_or_else(|| usage())
            }
            _ => usage(),
        }
    }
    if sizes.is_empty() {
        sizes = Vec::from([1_000, 10_000, 100_000]);
    }
    if !json {
        println!(
            "devices  build s  decisions/s  ns each  × first  plans/s  slowest ms  B/copy  B/part  MiB held  MiB resident"
        );
    }
    let mut first = None;
    for devices in sizes {
        let it = measure(devices, plans);
        let beside = it.ns_per_decision / *first.get_or_insert(it.ns_per_decision);
        if json {
            let line = serde_json::json!({
                "devices": it.devices, "build_seconds": it.build_seconds, "decisions": it.decisions,
                "decisions_per_sec": it.decisions_per_sec, "ns_per_decision": it.ns_per_decision,
                "cost_beside_the_first": beside, "plans_per_sec": it.plans_per_sec,
                "slowest_plan_ms": it.slowest_plan_ms, "bytes_per_copy": it.bytes_per_copy,
                "bytes_per_part": it.bytes_per_part, "holdings_mib": it.holdings_mib, "resident_mib": it.resident_mib,
            });
            println!("{line}");
        } else {
            println!(
                "{:7}  {:7.2}  {:11.0}  {:7.0}  {:7.2}  {:7.0}  {:10.2}  {:6.1}  {:6.0}  {:8.1}  {:12.1}",
                it.devices,
                it.build_seconds,
                it.decisions_per_sec,
                it.ns_per_decision,
                beside,
                it.plans_per_sec,
                it.slowest_plan_ms,
                it.bytes_per_copy,
                it.bytes_per_part,
                it.holdings_mib,
                it.resident_mib
            );
        }
    }
}

fn usage() -> ! {
    eprintln!(
        "usage: planner [--json] [--plans N] [--devices N]...   (devices: at least 100; default 1000, 10000 and 100000)"
    );
    std::process::exit(2);
}
