//! How many questions "who sends this to me?" a tracker answers in a second, beside a bare echo of the same messages.
//!
//! Boxes with open streams hold some of a hundred titles and ask for others, again and again, as they do when plans run
//! out. The echo gets the same questions, with the same proofs attached, and answers with a typical plan.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use daemon::client::{self, Trust};
use prost::Message as _;
use swarm_proto::pb::common as pb_common;
use swarm_proto::pb::tracker as pb;
use swarm_proto::pb::tracker::swarm_client::SwarmClient;
use tonic::transport::Channel;

use super::echo;
use super::world::{self, Device, Tracker};

const TITLES: u32 = 100;
const SEEDS: u32 = 4;
/// Titles that each box holds, and that it asks for.
const HELD: u32 = 5;
const ASKED: u32 = 2;
const CONNECTIONS: usize = 4;
/// Questions under way at a time, over all connections.
const AT_ONCE: usize = 64;

/// What was measured.
#[derive(Debug, Clone, PartialEq)]
pub struct Figures {
    /// Boxes that asked.
    pub boxes: u32,
    /// Answers a second in each round, in turn.
    pub echo_per_sec: Vec<f64>,
    /// The same of the tracker.
    pub tracker_per_sec: Vec<f64>,
    /// Median of the tracker over median of the echo.
    pub ratio: f64,
    /// Size of a typical question and its answer, encoded.
    pub request_bytes: usize,
    /// The same of its answer.
    pub answer_bytes: usize,
    /// Share of the answers that named sources.
    pub answered: f64,
}

/// Measures `rounds` rounds of `each` of either, in turn.
///
/// # Errors
/// If a server cannot be started or refuses something.
pub async fn measure(boxes: u32, rounds: usize, each: Duration) -> anyhow::Result<Figures> {
    let folder = tempfile::tempdir()?;
    let tracker = Tracker::start(&folder.path().join("data"))?;
    tracker.publish(TITLES).await?;
    let seeds = tracker.enrol(boxes, boxes + SEEDS, pb_common::DeviceKind::Seed).await?;
    let devices = tracker.enrol(0, boxes, pb_common::DeviceKind::Box).await?;
    let streams = tracker.connect().await?;
    for seed in &seeds {
        tokio::spawn(seed.attend(&streams, (0..TITLES).map(world::copy).collect()).await?.stay());
    }
    for (n, device) in (0..).zip(&devices) {
        let held = (0..HELD).map(|k| world::copy((n + k) % TITLES)).collect();
        tokio::spawn(device.attend(&streams, held).await?.stay());
    }

    let questions = Questions::new(&devices);
    let mut typical = Vec::new();
    let mut swarm = SwarmClient::new(tracker.connect().await?);
    for n in 0..questions.len() {
        typical.push(swarm.assign_sources(questions.get(n)).await?.into_inner());
    }
    let answered = typical.iter().filter(|plan| !plan.leases.is_empty()).count() as f64 / typical.len() as f64;
    typical.sort_by_key(pb::Plan::encoded_len);
    let plan = typical.swap_remove(typical.len() / 2);
    let echo = echo::Running::start(folder.path(), &plan)?;

    let (to_tracker, to_echo) = (connections(&tracker.url).await?, connections(&echo.url).await?);
    rate(&to_echo, &questions, each / 4).await?;
    rate(&to_tracker, &questions, each / 4).await?;
    let (mut echo_per_sec, mut tracker_per_sec) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        echo_per_sec.push(rate(&to_echo, &questions, each).await?);
        tracker_per_sec.push(rate(&to_tracker, &questions, each).await?);
    }
    Ok(Figures {
        boxes,
        ratio: median(&tracker_per_sec) / median(&echo_per_sec),
        echo_per_sec,
        tracker_per_sec,
        request_bytes: questions.get(0).get_ref().encoded_len(),
        answer_bytes: plan.encoded_len(),
        answered,
    })
}

/// What boxes ask, in a ring.
struct Questions<'a> {
    devices: &'a [Device],
}

impl<'a> Questions<'a> {
    fn new(devices: &'a [Device]) -> Questions<'a> {
        Questions { devices }
    }

    fn len(&self) -> usize {
        self.devices.len() * ASKED as usize
    }

    fn get(&self, n: usize) -> tonic::Request<pb::AssignSourcesRequest> {
        let at = n % self.devices.len();
        let nth = u32::try_from(n / self.devices.len()).unwrap_or(0) % ASKED;
        let title = (u32::try_from(at).unwrap_or(0) + HELD + nth) % TITLES;
        let request = pb::AssignSourcesRequest { item: world::item(title).to_vec(), ..Default::default() };
        self.devices[at].calls(request)
    }
}

async fn connections(url: &str) -> anyhow::Result<Vec<Channel>> {
    let mut channels = Vec::new();
    for _ in 0..CONNECTIONS {
        channels.push(client::connect(url, &Trust::default()).await.context("cannot connect")?);
    }
    Ok(channels)
}

/// Answers a second.
async fn rate(channels: &[Channel], questions: &Questions<'_>, each: Duration) -> anyhow::Result<f64> {
    let start = Instant::now();
    let asker = |n: usize| {
        let mut swarm = SwarmClient::new(channels[n % channels.len()].clone());
        async move {
            let mut answers = 0u64;
            let mut next = n * questions.len() / AT_ONCE;
            while start.elapsed() < each {
                swarm.assign_sources(questions.get(next)).await?;
                answers += 1;
                next += 1;
            }
            Ok::<u64, tonic::Status>(answers)
        }
    };
    let answers = futures::future::try_join_all((0..AT_ONCE).map(asker)).await?;
    Ok(answers.iter().sum::<u64>() as f64 / start.elapsed().as_secs_f64())
}

fn median(of: &[f64]) -> f64 {
    let mut sorted = of.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}
