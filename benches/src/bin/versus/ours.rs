//! Us: a whole swarm of real processes, as a customer has it, with tracker and keyserver; the seed is the source.
//!
//! Boxes are new for every run: enrolled, connected to their tracker, with nothing on their disk. The clock starts when
//! the title is put into their queues, so finding sources, tickets and connections count; it stops when the bitmap of
//! the last box says that every chunk is verified and durable.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use daemon::client::{self, Trust};
use daemon::token::{self, Bearer, OperatorToken};
use swarm_proto::bitmap::Holding;
use swarm_proto::pb::node::node_client::NodeClient;
use swarm_proto::pb::node::{AddToQueueRequest, GetStatusRequest, TitleQuery};
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;

use super::commands::{self, Daemon, text};
use super::measure::{self, FirstByte, Run, Seen};
use super::{Original, Shape};

const TITLE: &str = "Versus";
/// How long a new box may take to get in touch with its tracker.
const IN_TOUCH_WITHIN: Duration = Duration::from_secs(20);
/// How often it is asked whether it is.
const ASK_EVERY: Duration = Duration::from_millis(20);
/// Before the bits in a bitmap: 12 bytes of header and the item's id.
const BITMAP_BITS_AT: usize = 44;
/// After them: a checksum.
const BITMAP_CHECKSUM_BYTES: usize = 32;

/// Tracker, keyserver and a seed that has the title.
pub(super) struct Swarm {
    folder: PathBuf,
    tracker: Daemon,
    keyserver: Daemon,
    seed: Daemon,
    /// The title's item, as its files are called.
    item: String,
    n_chunks: u32,
    sealed: blake3::Hash,
    /// `--set` of every device.
    settings: Vec<String>,
    customers: usize,
}

/// A box that is asked over its control service.
struct Sink {
    daemon: Daemon,
    client: NodeClient<InterceptedService<Channel, Bearer>>,
}

impl Swarm {
    /// Starts it and publishes the file.
    pub(super) async fn start(folder: &Path, original: &Original, settings: &[String]) -> anyhow::Result<Swarm> {
        std::fs::create_dir_all(folder)?;
        let any_port = "server.listen=127.0.0.1:0".to_owned();
        let tracker_data = folder.join("tracker");
        let id = text(&commands::run("tracker", &tracker_data, &["id"]).await?, "id")?;
        let trusted = format!("trusted_trackers=[\"{id}\"]");
        let keyserver = Daemon::start("keyserver", &folder.join("keyserver"), &[any_port.clone(), trusted]).await?;
        let named = format!("keyserver_url={}", keyserver.url);
        let tracker = Daemon::start("tracker", &tracker_data, &[any_port, named]).await?;

        let publisher_data = folder.join("publisher");
        let key = publisher_data.join("signing.key");
        let key = key.to_str().context("the folder has a readable name")?;
        let publisher =
            commands::run("peer-node", &publisher_data, &["publisher", "id", "--publisher-key", key]).await?;
        let publisher = text(&publisher, "publisher")?;
        for shop in [&tracker, &keyserver] {
            shop.command(&["publisher", "add", &publisher, "--name", "Versus pictures"]).await?;
        }
        let seed = device(folder, &tracker, "seed", "seed", settings).await?;
        let film = original.path.to_str().context("the file has a readable name")?;
        let args = ["publish", film, "--title", TITLE, "--offer", "rent:2.99EUR:48h", "--publisher-key", key];
        let item = text(&seed.command(&args).await?, "item")?;
        let sealed = item.parse().context("an item is named by its hash")?;
        let len = std::fs::metadata(seed.data.join(format!("items/{item}.item")))?.len();
        let n_chunks = u32::try_from(len.div_ceil(1 << 20))?;
        let folder = folder.to_path_buf();
        Ok(Swarm {
            folder,
            tracker,
            keyserver,
            seed,
            item,
            n_chunks,
            sealed,
            settings: settings.to_vec(),
            customers: 0,
        })
    }

    /// Brings the title to so many new boxes.
    pub(super) async fn run(&mut self, shape: Shape, original: &Original) -> anyhow::Result<Run> {
        let mut sinks = Vec::new();
        for _ in 0..shape.0 {
            self.customers += 1;
            let name = format!("box-{}", self.customers);
            let daemon = device(&self.folder, &self.tracker, &name, "box", &self.settings).await?;
            sinks.push(Sink::reach(daemon).await?);
        }
        rustix::fs::sync();
        let pids = sinks.iter().map(|sink| sink.daemon.pid()).collect::<anyhow::Result<Vec<u32>>>()?;
        let source = self.seed.pid()?;
        let cpu_of_sinks = || pids.iter().map(|pid| Ok(measure::cpu_s(*pid)?.0)).sum::<anyhow::Result<f64>>();
        let (source_before, sinks_before) = (measure::cpu_s(source)?.0, cpu_of_sinks()?);
        let folders: Vec<PathBuf> = sinks.iter().map(|sink| sink.daemon.data.join("items")).collect();
        let bitmaps: Vec<PathBuf> = folders.iter().map(|folder| folder.join(format!("{}.bitmap", self.item))).collect();
        let first_byte = FirstByte::within(folders.clone(), (original.len / 2).min(1 << 20));

        let begun = Instant::now();
        for sink in &mut sinks {
            let title = Some(TitleQuery { text: TITLE.to_owned() });
            let wish = AddToQueueRequest { title, first: true, delivery: None };
            sink.client.add_to_queue(wish).await.map_err(daemon::Failure::from)?;
        }
        let mut seen = Seen::default();
        let n_chunks = self.n_chunks;
        measure::watch(begun, &first_byte, &mut seen, |_| {
            Ok(bitmaps.iter().all(|bitmap| is_complete(bitmap, n_chunks).unwrap_or(false)))
        })
        .await?;
        seen.cpu_s_source = measure::cpu_s(source)?.0 - source_before;
        seen.cpu_s_sinks = cpu_of_sinks()? - sinks_before;
        seen.peak_rss_source = measure::peak_rss(source).unwrap_or(0);
        seen.peak_rss_sink = pids.iter().filter_map(|pid| measure::peak_rss(*pid)).max().unwrap_or(0);
        for sink in &mut sinks {
            sink.daemon.stop().await?;
            let copy = sink.daemon.data.join(format!("items/{}.item", self.item));
            ensure!(super::hash(&copy)? == self.sealed, "{} is not the item", copy.display());
            std::fs::remove_dir_all(&sink.daemon.data)?;
        }
        Ok(seen.figures(original.len, shape.0))
    }

    pub(super) async fn stop(&mut self) -> anyhow::Result<()> {
        for daemon in [&mut self.seed, &mut self.keyserver, &mut self.tracker] {
            daemon.stop().await?;
        }
        Ok(())
    }
}

impl Sink {
    /// Waits until the box listens and is in touch with its tracker.
    async fn reach(daemon: Daemon) -> anyhow::Result<Sink> {
        let token = OperatorToken::read(&daemon.data.join(token::FILE))?;
        let channel = client::connect(&daemon.url, &Trust::default()).await?;
        let mut client = NodeClient::with_interceptor(channel, token.bearer());
        let begun = Instant::now();
        loop {
            let request = GetStatusRequest { title: String::new() };
            let status = client.get_status(request).await.map_err(daemon::Failure::from)?.into_inner();
            let in_touch = status.tracker.is_some_and(|link| link.up) && !status.listening.is_empty();
            if in_touch {
                return Ok(Sink { daemon, client });
            }
            ensure!(begun.elapsed() < IN_TOUCH_WITHIN, "a box does not reach its tracker");
            tokio::time::sleep(ASK_EVERY).await;
        }
    }
}

/// Enrols and starts a device of a customer of its own.
async fn device(
    folder: &Path,
    tracker: &Daemon,
    name: &str,
    kind: &str,
    settings: &[String],
) -> anyhow::Result<Daemon> {
    let customer = format!("home of {name}");
    tracker.command(&["customer", "add", &customer]).await?;
    let invite = tracker.command(&["device", "invite", &customer, "--kind", kind]).await?;
    let data = folder.join(name);
    let code = text(&invite, "code")?;
    commands::run("peer-node", &data, &["enrol", &code, "--tracker", &tracker.url, "--name", name]).await?;
    let mut all = vec![
        format!("name={name}"),
        "server.listen=127.0.0.1:0".to_owned(),
        "net.listen=[\"/ip4/127.0.0.1/tcp/0\"]".to_owned(),
    ];
    all.extend_from_slice(settings);
    Daemon::start("peer-node", &data, &all).await
}

/// Whether a bitmap on disk holds every chunk.
fn is_complete(bitmap: &Path, n_chunks: u32) -> Option<bool> {
    let bytes = std::fs::read(bitmap).ok()?;
    let bits = bytes.get(BITMAP_BITS_AT..bytes.len().checked_sub(BITMAP_CHECKSUM_BYTES)?)?;
    Holding::from_bits(n_chunks, bits).ok().map(|holding| holding.is_complete())
}
