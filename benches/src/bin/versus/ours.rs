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
use swarm_proto::pb::node::{AddToQueueRequest, GetStatusRequest, Status, TitleQuery};
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
/// Traffic is counted four times a second.
const SETTLED_AFTER: Duration = Duration::from_millis(600);
/// Before the bits in a bitmap: 12 bytes of header and the item's id.
const BITMAP_BITS_AT: usize = 44;
/// After them: a checksum.
const BITMAP_CHECKSUM_BYTES: usize = 32;

/// Tracker, keyserver and a seed that has the title.
pub(super) struct Swarm {
    folder: PathBuf,
    tracker: Daemon,
    keyserver: Daemon,
    seed: Sink,
    /// The title's item, as its files are called.
    item: String,
    n_chunks: u32,
    sealed: blake3::Hash,
    /// `--set` of every device.
    settings: Vec<String>,
    customers: usize,
}

/// A device that is asked over its control service.
pub(super) struct Sink {
    daemon: Daemon,
    client: NodeClient<InterceptedService<Channel, Bearer>>,
    settings: Vec<String>,
}

/// One that has been killed.
pub(super) struct Killed {
    data: PathBuf,
    settings: Vec<String>,
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
        let seed = Sink::enrol(folder, &tracker, "seed", "seed", settings).await?;
        let film = original.path.to_str().context("the file has a readable name")?;
        let args = ["publish", film, "--title", TITLE, "--offer", "rent:2.99EUR:48h", "--publisher-key", key];
        let item = text(&seed.daemon.command(&args).await?, "item")?;
        let sealed = item.parse().context("an item is named by its hash")?;
        let len = std::fs::metadata(seed.daemon.data.join(format!("items/{item}.item")))?.len();
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
            sinks.push(self.new_box(&[]).await?);
        }
        rustix::fs::sync();
        let pids = sinks.iter().map(|sink| sink.daemon.pid()).collect::<anyhow::Result<Vec<u32>>>()?;
        let source = self.seed.daemon.pid()?;
        let cpu_of_sinks = || pids.iter().map(|pid| Ok(measure::cpu_s(*pid)?.0)).sum::<anyhow::Result<f64>>();
        let (source_before, sinks_before) = (measure::cpu_s(source)?.0, cpu_of_sinks()?);
        let folders: Vec<PathBuf> = sinks.iter().map(|sink| sink.daemon.data.join("items")).collect();
        let bitmaps: Vec<PathBuf> = folders.iter().map(|folder| folder.join(format!("{}.bitmap", self.item))).collect();
        let first_byte = FirstByte::within(folders.clone(), (original.len / 2).min(1 << 20));

        let begun = Instant::now();
        for sink in &mut sinks {
            sink.want().await?;
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
        for sink in sinks {
            self.check_and_remove(sink).await?;
        }
        Ok(seen.figures(original.len, shape.0))
    }

    /// A box of a new customer, in touch with its tracker.
    pub(super) async fn new_box(&mut self, settings: &[String]) -> anyhow::Result<Sink> {
        self.customers += 1;
        let name = format!("box-{}", self.customers);
        let settings = [&self.settings, settings].concat();
        Sink::enrol(&self.folder, &self.tracker, &name, "box", &settings).await
    }

    /// Stops a box, compares what it holds with the item, and deletes it. Gives back the item's length.
    pub(super) async fn check_and_remove(&self, mut sink: Sink) -> anyhow::Result<u64> {
        sink.daemon.stop().await?;
        let copy = sink.daemon.data.join(format!("items/{}.item", self.item));
        ensure!(super::hash(&copy)? == self.sealed, "{} is not the item", copy.display());
        let len = std::fs::metadata(copy)?.len();
        std::fs::remove_dir_all(&sink.daemon.data)?;
        Ok(len)
    }

    pub(super) fn n_chunks(&self) -> u32 {
        self.n_chunks
    }

    /// Bytes that the seed has sent since it started, once they are no longer changing.
    pub(super) async fn sent_by_seed(&mut self) -> anyhow::Result<u64> {
        let mut sent = self.seed.status().await?.uploaded_bytes;
        loop {
            tokio::time::sleep(SETTLED_AFTER).await;
            let now = self.seed.status().await?.uploaded_bytes;
            if now == sent {
                return Ok(now);
            }
            sent = now;
        }
    }

    pub(super) async fn stop(&mut self) -> anyhow::Result<()> {
        for daemon in [&mut self.seed.daemon, &mut self.keyserver, &mut self.tracker] {
            daemon.stop().await?;
        }
        Ok(())
    }
}

impl Sink {
    /// Enrols and starts a device of a customer of its own.
    async fn enrol(
        folder: &Path,
        tracker: &Daemon,
        name: &str,
        kind: &str,
        settings: &[String],
    ) -> anyhow::Result<Sink> {
        let customer = format!("home of {name}");
        tracker.command(&["customer", "add", &customer]).await?;
        let invite = tracker.command(&["device", "invite", &customer, "--kind", kind]).await?;
        let data = folder.join(name);
        let code = text(&invite, "code")?;
        commands::run("peer-node", &data, &["enrol", &code, "--tracker", &tracker.url, "--name", name]).await?;
        let own = [
            format!("name={name}"),
            "server.listen=127.0.0.1:0".to_owned(),
            "net.listen=[\"/ip4/127.0.0.1/tcp/0\"]".to_owned(),
        ];
        Sink::start(&data, [&own, settings].concat()).await
    }

    /// Starts it and waits until it listens and is in touch with its tracker.
    async fn start(data: &Path, settings: Vec<String>) -> anyhow::Result<Sink> {
        let mut sink = Sink::start_alone(data, settings).await?;
        let begun = Instant::now();
        loop {
            let status = sink.status().await?;
            if status.tracker.is_some_and(|link| link.up) && !status.listening.is_empty() {
                return Ok(sink);
            }
            ensure!(begun.elapsed() < IN_TOUCH_WITHIN, "a device does not reach its tracker");
            tokio::time::sleep(ASK_EVERY).await;
        }
    }

    async fn start_alone(data: &Path, settings: Vec<String>) -> anyhow::Result<Sink> {
        let daemon = Daemon::start("peer-node", data, &settings).await?;
        let token = OperatorToken::read(&daemon.data.join(token::FILE))?;
        let channel = client::connect(&daemon.url, &Trust::default()).await?;
        Ok(Sink { client: NodeClient::with_interceptor(channel, token.bearer()), daemon, settings })
    }

    pub(super) async fn status(&mut self) -> anyhow::Result<Status> {
        let request = GetStatusRequest { title: String::new() };
        Ok(self.client.get_status(request).await.map_err(daemon::Failure::from)?.into_inner())
    }

    /// Puts the title into its queue.
    pub(super) async fn want(&mut self) -> anyhow::Result<()> {
        let title = Some(TitleQuery { text: TITLE.to_owned() });
        let wish = AddToQueueRequest { title, first: true, delivery: None };
        self.client.add_to_queue(wish).await.map_err(daemon::Failure::from)?;
        Ok(())
    }

    /// One of its figures for the person on call, by the end of its name.
    pub(super) async fn metric(&self, name: &str) -> anyhow::Result<f64> {
        let answer = commands::get(self.daemon.url.trim_start_matches("http://"), "/metrics")?;
        let line = answer.lines().find(|line| line.split(' ').next().is_some_and(|word| word.ends_with(name)));
        let value = line.and_then(|line| line.split(' ').nth(1)).with_context(|| format!("it has no figure {name}"))?;
        Ok(value.parse()?)
    }

    /// `kill -9`.
    pub(super) async fn kill(self) -> anyhow::Result<Killed> {
        let Sink { daemon, settings, .. } = self;
        let data = daemon.data.clone();
        daemon.kill().await?;
        Ok(Killed { data, settings })
    }
}

impl Killed {
    pub(super) async fn start_again(self) -> anyhow::Result<Sink> {
        Sink::start_alone(&self.data, self.settings).await
    }
}

/// Whether a bitmap on disk holds every chunk.
fn is_complete(bitmap: &Path, n_chunks: u32) -> Option<bool> {
    let bytes = std::fs::read(bitmap).ok()?;
    let bits = bytes.get(BITMAP_BITS_AT..bytes.len().checked_sub(BITMAP_CHECKSUM_BYTES)?)?;
    Holding::from_bits(n_chunks, bits).ok().map(|holding| holding.is_complete())
}
