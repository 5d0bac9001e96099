//! A server in a process of its own, and the customers, devices and titles that it is filled with over gRPC.
//!
//! Nothing is put into its store from outside: whatever it holds, somebody has told it.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, ensure};
use daemon::client::{self, Trust};
use daemon::token::{self, Bearer, OperatorToken};
use futures::{StreamExt as _, TryStreamExt as _};
use swarm_proto::call::{self, CallToken};
use swarm_proto::catalog::{CatalogEntry, Kind, Media};
use swarm_proto::geometry::{CHUNK_BYTES, Geometry};
use swarm_proto::id::{DeviceId, ItemId, ServerId, TitleId};
use swarm_proto::limit::Limit;
use swarm_proto::pb::common as pb_common;
use swarm_proto::pb::tracker as pb;
use swarm_proto::pb::tracker::catalog_client::CatalogClient;
use swarm_proto::pb::tracker::enrolment_client::EnrolmentClient;
use swarm_proto::pb::tracker::operator_client::OperatorClient;
use swarm_proto::pb::tracker::report::Report;
use swarm_proto::pb::tracker::swarm_client::SwarmClient;
use swarm_proto::seal::KeyCommitment;
use swarm_proto::signed::{Signed, SigningKey};
use swarm_proto::time::Utc;
use tokio::sync::mpsc;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use tonic::{Request, Streaming};

/// The hidden first argument with which a measuring program becomes a tracker.
pub const BE_TRACKER: &str = "be-tracker";

/// Chunks of every item.
pub const CHUNKS: u32 = 1_024;

/// Requests of one kind that are under way at a time while a tracker is filled.
const AT_ONCE: usize = 64;

/// A tracker in a process of its own; killed when dropped.
#[derive(Debug)]
pub struct Tracker {
    child: Child,
    data: PathBuf,
    /// Where it is.
    pub url: String,
    /// Its id.
    pub id: ServerId,
}

impl Tracker {
    /// Starts one on a folder and waits until it says that it is ready.
    ///
    /// # Errors
    /// If the process cannot be started or ends before it is ready.
    pub fn start(data: &Path) -> anyhow::Result<Tracker> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args([BE_TRACKER, "run", "--json", "--exit-with-parent", "--log-level", "warn", "--data"]);
        command.arg(data);
        for setting in ["listen=127.0.0.1:0", "limits.streams_per_connection=10000", "limits.requests=4096"] {
            command.args(["--set", &format!("server.{setting}")]);
        }
        let ready = spawn(command)?;
        let told: serde_json::Value =
            serde_json::from_str(&ready.line).context("the tracker did not say where it is")?;
        let text = |key: &str| told[key].as_str().with_context(|| format!("the tracker did not say its {key}"));
        let (url, id) = (text("url")?.to_owned(), text("id")?.parse()?);
        Ok(Tracker { child: ready.child, data: data.to_owned(), url, id })
    }

    /// `kill -9`.
    ///
    /// # Errors
    /// If it has ended by itself.
    pub fn kill(mut self) -> anyhow::Result<()> {
        ensure!(self.child.try_wait()?.is_none(), "the tracker has ended by itself");
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// A connection to it.
    ///
    /// # Errors
    /// If nobody answers.
    pub async fn connect(&self) -> anyhow::Result<Channel> {
        Ok(client::connect(&self.url, &Trust::default()).await?)
    }

    fn operator(&self, channel: &Channel) -> anyhow::Result<OperatorClient<InterceptedService<Channel, Bearer>>> {
        let bearer = OperatorToken::read(&self.data.join(token::FILE))?.bearer();
        Ok(OperatorClient::with_interceptor(channel.clone(), bearer))
    }

    /// The most memory it has had, in bytes.
    ///
    /// # Errors
    /// If it does not run.
    pub fn peak_bytes(&self) -> anyhow::Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("no VmHWM")?;
        Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? << 10)
    }

    /// Publishes so many titles of [`CHUNKS`] chunks.
    ///
    /// # Errors
    /// If one is refused.
    pub async fn publish(&self, titles: u32) -> anyhow::Result<()> {
        let channel = self.connect().await?;
        let publisher = SigningKey::from_bytes(&[200; 32]).context("a key")?;
        let name = "Studio".to_owned();
        let admit = pb::AdmitPublisherRequest { publisher: publisher.publisher_id().to_vec(), name };
        self.operator(&channel)?.admit_publisher(admit).await?;
        let publish = |n| {
            let signed = Signed::sign(&publisher, &entry(&publisher, n)).map(Into::into);
            let mut catalog = CatalogClient::new(channel.clone());
            async move { catalog.publish(pb::PublishRequest { entry: Some(signed?) }).await.map_err(anyhow::Error::from) }
        };
        futures::stream::iter(0..titles).map(publish).buffer_unordered(AT_ONCE).try_for_each(|_| async { Ok(()) }).await
    }

    /// Enrols devices `from..to`, four to a customer, as boxes or seeds.
    ///
    /// # Errors
    /// If one is refused.
    pub async fn enrol(&self, from: u32, to: u32, kind: pb_common::DeviceKind) -> anyhow::Result<Vec<Device>> {
        let channel = self.connect().await?;
        let operator = self.operator(&channel)?;
        let household = |first: u32| {
            let (mut operator, channel) = (operator.clone(), channel.clone());
            async move {
                let request = pb::AddCustomerRequest { name: format!("customer {first}"), ..Default::default() };
                let account = operator.add_customer(request).await?.into_inner().account;
                let mut devices = Vec::new();
                for n in first..to.min(first + 4) {
                    let invite =
                        pb::InviteDeviceRequest { account: account.clone(), kind: kind.into(), ..Default::default() };
                    let code = operator.invite_device(invite).await?.into_inner().code;
                    let device = Device::numbered(n, self.id)?;
                    let hpke_public = blake3::hash(&n.to_le_bytes()).as_bytes().to_vec();
                    let enrol = pb::EnrolRequest { code, hpke_public, device_name: format!("box {n}") };
                    EnrolmentClient::new(channel.clone()).enrol(device.calls(enrol)).await?;
                    devices.push(device);
                }
                anyhow::Ok(devices)
            }
        };
        let firsts = (from..to).step_by(4);
        let devices: Vec<Vec<Device>> =
            futures::stream::iter(firsts).map(household).buffered(AT_ONCE).try_collect().await?;
        Ok(devices.into_iter().flatten().collect())
    }
}

impl Drop for Tracker {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A process that has said its first line.
#[derive(Debug)]
pub(crate) struct Spawned {
    pub(crate) child: Child,
    pub(crate) line: String,
}

/// Starts a process that tells on its first line where it can be reached.
pub(crate) fn spawn(mut command: Command) -> anyhow::Result<Spawned> {
    let mut child = command.stdout(Stdio::piped()).spawn().context("cannot start the server")?;
    let mut line = String::new();
    BufReader::new(child.stdout.take().context("no output")?).read_line(&mut line)?;
    Ok(Spawned { child, line })
}

/// A device with its key, and a proof of it that lasts for many calls, as a box keeps one.
pub struct Device {
    key: SigningKey,
    token: String,
}

impl Device {
    fn numbered(n: u32, tracker: ServerId) -> anyhow::Result<Device> {
        let key = SigningKey::from_bytes(blake3::hash(&[b"device".as_slice(), &n.to_le_bytes()].concat()).as_bytes());
        let key = key.context("a key")?;
        let token = token_of(&key, tracker)?;
        Ok(Device { key, token })
    }

    /// Its id.
    pub fn id(&self) -> DeviceId {
        self.key.device_id()
    }

    /// A request that proves this device.
    pub fn calls<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.metadata_mut().insert(call::METADATA_KEY, self.token.parse().expect("a token is plain text"));
        request
    }

    /// Proves itself to a tracker anew: a token lasts ten minutes.
    ///
    /// # Errors
    /// Never, with the clock of this century.
    pub fn renew(&mut self, tracker: ServerId) -> anyhow::Result<()> {
        self.token = token_of(&self.key, tracker)?;
        Ok(())
    }

    /// Opens a stream, says what it holds, and waits until it is welcome.
    ///
    /// # Errors
    /// If the tracker refuses it.
    pub async fn attend(&self, channel: &Channel, holdings: Vec<pb::ItemHolding>) -> anyhow::Result<Attending> {
        let (reports, queued) = mpsc::channel::<Report>(16);
        let stream =
            tokio_stream::wrappers::ReceiverStream::new(queued).map(|report| pb::Report { report: Some(report) });
        let addresses = vec!["/ip4/192.0.2.1/tcp/7100".to_owned()];
        reports.send(Report::Hello(pb::Hello { addresses, holdings, software: "bench".to_owned(), run: 1 })).await?;
        let mut notices = SwarmClient::new(channel.clone()).attend(self.calls(stream)).await?.into_inner();
        notices.message().await?.context("the tracker ended the stream")?;
        Ok(Attending { reports, notices })
    }
}

/// An open stream.
#[derive(Debug)]
pub struct Attending {
    reports: mpsc::Sender<Report>,
    notices: Streaming<pb::Notice>,
}

impl Attending {
    /// Reads what comes and sends a heartbeat every ten seconds, until the stream ends.
    pub async fn stay(mut self) {
        let mut beat = tokio::time::interval(Duration::from_secs(10));
        loop {
            tokio::select! {
                _ = beat.tick() => {
                    let heartbeat = pb::Heartbeat {
                        uplink_bytes_per_sec: Some(2_500_000),
                        downlink_bytes_per_sec: Some(12_500_000),
                        free_bytes: 1 << 40,
                        ..Default::default()
                    };
                    if self.reports.send(Report::Heartbeat(heartbeat)).await.is_err() {
                        return;
                    }
                }
                notice = self.notices.message() => if !matches!(notice, Ok(Some(_))) { return },
            }
        }
    }
}

/// What a server tells of itself.
pub(crate) fn metrics(url: &str) -> anyhow::Result<String> {
    let address = url.strip_prefix("http://").context("not a plain address")?;
    let mut stream = TcpStream::connect(address)?;
    write!(stream, "GET /metrics HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// A whole copy.
pub fn copy(n: u32) -> pb::ItemHolding {
    let ranges = vec![pb_common::ChunkRange { first: 0, count: CHUNKS }];
    pb::ItemHolding { item: item(n).to_vec(), n_chunks: CHUNKS, ranges }
}

/// The item of a title.
pub fn item(n: u32) -> ItemId {
    ItemId::from(*blake3::hash(&[b"item".as_slice(), &n.to_le_bytes()].concat()).as_bytes())
}

fn entry(publisher: &SigningKey, n: u32) -> CatalogEntry {
    let mut title = [0; 16];
    title[..4].copy_from_slice(&n.to_le_bytes());
    title[15] = 1;
    CatalogEntry {
        title: TitleId::from(title),
        version: 1,
        publisher: publisher.publisher_id(),
        item: item(n),
        geometry: Geometry::of_sealed(u64::from(CHUNKS) * CHUNK_BYTES).expect("a whole number of chunks"),
        commitment: KeyCommitment::from_bytes([3; 32]),
        span_commitment: None,
        name: format!("Title {n}"),
        description: "A harbour at dawn".to_owned(),
        kind: Kind::Video,
        media: Media {
            mime: "video/mp4".to_owned(),
            duration: None,
            codecs: String::new(),
            picture: None,
            bit_rate: None,
        },
        artwork: None,
        rating_age: 0,
        regions: Vec::new(),
        released: Utc::from_secs(1),
        expires: Limit::Unlimited,
        offers: Vec::new(),
        withdrawn: false,
    }
}

fn token_of(key: &SigningKey, tracker: ServerId) -> anyhow::Result<String> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
    Ok(CallToken::sign(key, tracker, Utc::from_millis(u64::try_from(now.as_millis())?))?.to_text())
}
