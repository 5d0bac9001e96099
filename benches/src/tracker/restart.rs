//! How long a tracker that was killed takes to serve again when it knows many devices and what they hold.

use std::time::{Duration, Instant};

use futures::{StreamExt as _, TryStreamExt as _};
use swarm_proto::pb::common as pb_common;
use swarm_proto::pb::tracker as pb;
use swarm_proto::pb::tracker::swarm_client::SwarmClient;
use tonic::transport::Channel;

use super::world::{self, Device, Tracker};

const TITLES: u32 = 2_000;
/// Whole titles that each box holds.
const HELD: u32 = 20;
/// Devices that say at the same time what they hold.
const AT_ONCE: usize = 64;
/// Devices that are brought in between two lines of progress.
const BATCH: u32 = 5_000;
/// Holdings are written a little later than they are reported.
const WRITTEN_WITHIN: Duration = Duration::from_secs(120);

/// What was measured.
#[derive(Debug, Clone, PartialEq)]
pub struct Figures {
    /// Devices that the tracker knows, each with its holdings.
    pub devices: u32,
    /// Holdings of one device.
    pub held: u32,
    /// From the start of the process until it takes calls.
    pub ready_seconds: f64,
    /// Until the first plan is answered.
    pub first_plan_seconds: f64,
    /// The most memory it had by then.
    pub peak_mib: f64,
    /// What the data folder takes on disk.
    pub disk_mib: f64,
}

/// Fills a tracker with devices, kills it, and starts it again `rounds` times; `progress` is told how far it is.
///
/// # Errors
/// If the tracker cannot be started or refuses something.
pub async fn measure(devices: u32, rounds: usize, progress: impl Fn(u32)) -> anyhow::Result<Vec<Figures>> {
    let folder = tempfile::tempdir()?;
    let data = folder.path().join("data");
    let mut tracker = Tracker::start(&data)?;
    tracker.publish(TITLES).await?;
    let mut asker = None;
    for from in (0..devices).step_by(BATCH as usize) {
        let to = devices.min(from + BATCH);
        let batch = tracker.enrol(from, to, pb_common::DeviceKind::Box).await?;
        say_what_they_hold(&tracker, from, &batch).await?;
        asker = batch.into_iter().next().or(asker);
        progress(to);
    }
    wait_until_written(&tracker).await?;
    let mut asker = asker.ok_or_else(|| anyhow::anyhow!("at least one device is needed"))?;

    let mut figures = Vec::new();
    for _ in 0..rounds {
        tracker.kill()?;
        let start = Instant::now();
        tracker = Tracker::start(&data)?;
        let mut swarm = SwarmClient::new(tracker.connect().await?);
        let ready_seconds = start.elapsed().as_secs_f64();
        asker.renew(tracker.id)?;
        let request = pb::AssignSourcesRequest { item: world::item(TITLES / 2).to_vec(), ..Default::default() };
        swarm.assign_sources(asker.calls(request)).await?;
        figures.push(Figures {
            devices,
            held: HELD,
            ready_seconds,
            first_plan_seconds: start.elapsed().as_secs_f64(),
            peak_mib: tracker.peak_bytes()? as f64 / f64::from(1 << 20),
            disk_mib: size_of(&data)? as f64 / f64::from(1 << 20),
        });
    }
    Ok(figures)
}

async fn say_what_they_hold(tracker: &Tracker, from: u32, devices: &[Device]) -> anyhow::Result<()> {
    let channel = tracker.connect().await?;
    let attending: Vec<_> = (from..).zip(devices).map(|(n, device)| say(&channel, n, device)).collect();
    futures::stream::iter(attending).buffer_unordered(AT_ONCE).try_for_each(|()| async { Ok(()) }).await
}

async fn say(channel: &Channel, n: u32, device: &Device) -> anyhow::Result<()> {
    let held = (0..HELD).map(|k| world::copy(title_of(n, k))).collect();
    // Dropping the stream is how a device leaves; what it holds stays known.
    device.attend(channel, held).await.map(drop)
}

/// One of a device's titles: in each band some are popular, and no two of a device are the same.
fn title_of(device: u32, nth: u32) -> u32 {
    let hash = blake3::hash(&[device.to_le_bytes(), nth.to_le_bytes()].concat());
    let (first, _) = hash.as_bytes().split_first_chunk().expect("a hash has 32 bytes");
    let uniform = f64::from(u32::from_le_bytes(*first)) / f64::from(u32::MAX);
    let band = TITLES / HELD;
    nth * band + ((uniform * uniform * f64::from(band)) as u32).min(band - 1)
}

async fn wait_until_written(tracker: &Tracker) -> anyhow::Result<()> {
    let deadline = Instant::now() + WRITTEN_WITHIN;
    loop {
        let metrics = world::metrics(&tracker.url)?;
        let unwritten = metrics.lines().find_map(|line| line.strip_prefix("reelswarm_unwritten_records "));
        match unwritten {
            Some("0") => return Ok(()),
            Some(_) if Instant::now() < deadline => tokio::time::sleep(Duration::from_millis(200)).await,
            Some(left) => anyhow::bail!("{left} records are still not written"),
            None => anyhow::bail!("the tracker does not tell what is not written yet"),
        }
    }
}

fn size_of(folder: &std::path::Path) -> std::io::Result<u64> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let kind = entry.metadata()?;
        bytes += if kind.is_dir() { size_of(&entry.path())? } else { kind.len() };
    }
    Ok(bytes)
}
