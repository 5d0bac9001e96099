//! A tracker in a process of its own, and the devices and publishers that talk to it.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use daemon::client::{self, Trust};
use daemon::token::{self, Bearer, OperatorToken};
use swarm_proto::call::{self, CallToken};
use swarm_proto::catalog::{CatalogEntry, Kind, Media};
use swarm_proto::geometry::Geometry;
use swarm_proto::id::{DeviceId, ItemId, ServerId, TitleId};
use swarm_proto::limit::Limit;
use swarm_proto::membership::Membership;
use swarm_proto::pb::common as pb_common;
use swarm_proto::pb::tracker as pb;
use swarm_proto::pb::tracker::catalog_client::CatalogClient;
use swarm_proto::pb::tracker::custody_client::CustodyClient;
use swarm_proto::pb::tracker::customers_client::CustomersClient;
use swarm_proto::pb::tracker::devices_client::DevicesClient;
use swarm_proto::pb::tracker::enrolment_client::EnrolmentClient;
use swarm_proto::pb::tracker::notice::Notice;
use swarm_proto::pb::tracker::operator_client::OperatorClient;
use swarm_proto::pb::tracker::pairing_client::PairingClient;
use swarm_proto::pb::tracker::preload_client::PreloadClient;
use swarm_proto::pb::tracker::queue_client::QueueClient;
use swarm_proto::pb::tracker::report::Report;
use swarm_proto::pb::tracker::sites_client::SitesClient;
use swarm_proto::pb::tracker::swarm_client::SwarmClient;
use swarm_proto::seal::KeyCommitment;
use swarm_proto::signed::{Signed, SigningKey};
use swarm_proto::time::Utc;
use tempfile::TempDir;
use tokio::sync::mpsc;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use tonic::{Request, Status, Streaming};

/// Nothing a test waits for takes longer than this.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// Chunks of every item here.
pub(crate) const CHUNKS: u32 = 24;

/// A running tracker, killed when the test is over.
pub(crate) struct World {
    folder: TempDir,
    settings: Vec<String>,
    child: Child,
    pub(crate) url: String,
    pub(crate) id: ServerId,
    channel: Channel,
}

pub(crate) type Intercepted = InterceptedService<Channel, Bearer>;

impl World {
    pub(crate) async fn start() -> World {
        World::with(&[]).await
    }

    pub(crate) async fn with(settings: &[&str]) -> World {
        let folder = tempfile::tempdir().unwrap();
        let settings: Vec<String> = settings.iter().map(|it| (*it).to_owned()).collect();
        let (child, url, id) = launch(folder.path(), &settings);
        let channel = client::connect(&url, &Trust::default()).await.unwrap();
        World { folder, settings, child, url, id, channel }
    }

    /// `kill -9`, then a new start on the same folder.
    pub(crate) async fn kill_and_start_again(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        (self.child, self.url, self.id) = launch(self.folder.path(), &self.settings);
        self.channel = client::connect(&self.url, &Trust::default()).await.unwrap();
    }

    /// Asks it to stop, waits until it has, and answers its exit code.
    pub(crate) fn terminate(&mut self) -> Option<i32> {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
        self.child.wait().unwrap().code()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, signal: &str) {
        let pid = self.pid().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
    }

    /// Stops it where it is, until it is told to go on. The signal takes a moment to reach every thread.
    pub(crate) async fn freeze(&self) {
        self.signal("-STOP");
        poll(async || {
            let threads = std::fs::read_dir(format!("/proc/{}/task", self.pid())).unwrap();
            // The state comes after the name, which ends with the last bracket.
            let stands = |stat: String| stat.rsplit_once(')').is_some_and(|(_, rest)| rest.starts_with(" T"));
            let mut stats = threads.map(|thread| std::fs::read_to_string(thread.unwrap().path().join("stat")).unwrap());
            stats.all(stands).then_some(())
        })
        .await;
    }

    /// The most memory that it has had since it started.
    pub(crate) fn peak_memory_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    pub(crate) fn data(&self) -> std::path::PathBuf {
        self.folder.path().join("data")
    }

    /// Runs a command of the program on the data folder.
    pub(crate) fn command(&self, args: &[&str]) -> Output {
        program(self.folder.path()).args(args).arg("--data").arg(self.data()).output().unwrap()
    }

    /// What a browser gets.
    pub(crate) fn get(&self, path: &str) -> String {
        self.browse(&format!("GET {path}"), &[], "")
    }

    /// What a browser gets that sends these headers and this form.
    pub(crate) fn browse(&self, method_and_path: &str, headers: &[(&str, &str)], form: &str) -> String {
        let address = self.url.strip_prefix("http://").unwrap();
        let mut stream = std::net::TcpStream::connect(address).unwrap();
        let mut request = format!("{method_and_path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n");
        for (name, value) in headers {
            request.push_str(&format!("{name}: {value}\r\n"));
        }
        let kind = "content-type: application/x-www-form-urlencoded";
        write!(stream, "{request}{kind}\r\ncontent-length: {}\r\n\r\n{form}", form.len()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    pub(crate) fn metrics(&self) -> String {
        self.get("/metrics")
    }

    fn bearer(&self) -> Bearer {
        OperatorToken::read(&self.data().join(token::FILE)).unwrap().bearer()
    }

    pub(crate) fn operator(&self) -> OperatorClient<Intercepted> {
        OperatorClient::with_interceptor(self.channel.clone(), self.bearer())
    }

    pub(crate) fn customers(&self) -> CustomersClient<Intercepted> {
        CustomersClient::with_interceptor(self.channel.clone(), self.bearer())
    }

    pub(crate) fn devices(&self) -> DevicesClient<Intercepted> {
        DevicesClient::with_interceptor(self.channel.clone(), self.bearer())
    }

    pub(crate) fn pairing(&self) -> PairingClient<Channel> {
        PairingClient::new(self.channel.clone())
    }

    pub(crate) fn operators_catalog(&self) -> CatalogClient<Intercepted> {
        CatalogClient::with_interceptor(self.channel.clone(), self.bearer())
    }

    pub(crate) fn operators_queue(&self) -> QueueClient<Intercepted> {
        QueueClient::with_interceptor(self.channel.clone(), self.bearer())
    }

    pub(crate) fn operators_sites(&self) -> SitesClient<Intercepted> {
        SitesClient::with_interceptor(self.channel.clone(), self.bearer())
    }

    pub(crate) fn sites(&self) -> SitesClient<Channel> {
        SitesClient::new(self.channel.clone())
    }

    pub(crate) fn catalog(&self) -> CatalogClient<Channel> {
        CatalogClient::new(self.channel.clone())
    }

    pub(crate) fn queue(&self) -> QueueClient<Channel> {
        QueueClient::new(self.channel.clone())
    }

    pub(crate) fn swarm(&self) -> SwarmClient<Channel> {
        SwarmClient::new(self.channel.clone())
    }

    pub(crate) fn custody(&self) -> CustodyClient<Channel> {
        CustodyClient::new(self.channel.clone())
    }

    pub(crate) fn operators_preload(&self) -> PreloadClient<Intercepted> {
        PreloadClient::with_interceptor(self.channel.clone(), self.bearer())
    }

    pub(crate) fn enrolment(&self) -> EnrolmentClient<Channel> {
        EnrolmentClient::new(self.channel.clone())
    }

    pub(crate) async fn customer(&self, name: &str) -> Vec<u8> {
        let request = pb::AddCustomerRequest { name: name.to_owned(), ..Default::default() };
        self.operator().add_customer(request).await.unwrap().into_inner().account
    }

    pub(crate) async fn invite(&self, account: &[u8], kind: pb_common::DeviceKind) -> String {
        let request = pb::InviteDeviceRequest { account: account.to_vec(), kind: kind.into(), ..Default::default() };
        self.operator().invite_device(request).await.unwrap().into_inner().code
    }

    /// A device of a new customer, enrolled.
    pub(crate) async fn device(&self, n: u8, kind: pb_common::DeviceKind) -> Device {
        let account = self.customer(&format!("customer {n}")).await;
        self.device_of(n, &account, kind).await
    }

    pub(crate) async fn device_of(&self, n: u8, account: &[u8], kind: pb_common::DeviceKind) -> Device {
        let code = self.invite(account, kind).await;
        let device = Device::new(n, self.id);
        self.enrol(&device, &code).await.unwrap();
        device
    }

    pub(crate) async fn enrol(&self, device: &Device, code: &str) -> Result<pb::EnrolResponse, Status> {
        let request = pb::EnrolRequest {
            code: code.to_owned(),
            hpke_public: vec![device.n.max(9); 32],
            device_name: format!("box {}", device.n),
        };
        Ok(self.enrolment().enrol(device.calls(request)).await?.into_inner())
    }

    pub(crate) async fn box_(&self, n: u8) -> Device {
        self.device(n, pb_common::DeviceKind::Box).await
    }

    pub(crate) async fn seed(&self, n: u8) -> Device {
        self.device(n, pb_common::DeviceKind::Seed).await
    }

    pub(crate) async fn admit_publisher(&self) {
        let request =
            pb::AdmitPublisherRequest { publisher: publisher().publisher_id().to_vec(), name: "Studio".to_owned() };
        self.operator().admit_publisher(request).await.unwrap();
    }

    pub(crate) async fn publish(&self, entry: &CatalogEntry) -> Result<pb::PublishResponse, Status> {
        let signed = Signed::sign(&publisher(), entry).unwrap();
        let request = pb::PublishRequest { entry: Some(signed.into()) };
        Ok(self.catalog().publish(request).await?.into_inner())
    }

    /// A published title.
    pub(crate) async fn title(&self, n: u8) -> CatalogEntry {
        self.admit_publisher().await;
        let entry = entry(n, 1);
        self.publish(&entry).await.unwrap();
        entry
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn program(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tracker"));
    command.env("XDG_CONFIG_HOME", folder.join("config")).env_remove("RUST_LOG");
    command
}

fn launch(folder: &Path, settings: &[String]) -> (Child, String, ServerId) {
    let mut command = program(folder);
    command.args([
        "run",
        "--json",
        "--exit-with-parent",
        "--log-level",
        "warn",
        "--set",
        "server.listen=127.0.0.1:0",
        "--data",
    ]);
    command.arg(folder.join("data"));
    for setting in settings {
        command.args(["--set", setting]);
    }
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let ready: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!(ready["ready"], "tracker");
    (child, ready["url"].as_str().unwrap().to_owned(), ready["id"].as_str().unwrap().parse().unwrap())
}

pub(crate) fn publisher() -> SigningKey {
    SigningKey::from_bytes(&[200; 32]).unwrap()
}

pub(crate) fn entry(n: u8, version: u64) -> CatalogEntry {
    CatalogEntry {
        title: TitleId::from([n; 16]),
        version,
        publisher: publisher().publisher_id(),
        item: ItemId::from([n; 32]),
        geometry: Geometry::of_sealed(u64::from(CHUNKS) << 20).unwrap(),
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

pub(crate) fn ranges(of: &[(u32, u32)]) -> Vec<pb_common::ChunkRange> {
    of.iter().map(|(first, count)| pb_common::ChunkRange { first: *first, count: *count }).collect()
}

pub(crate) fn holding(n: u8, of: &[(u32, u32)]) -> pb::ItemHolding {
    pb::ItemHolding { item: vec![n; 32], n_chunks: CHUNKS, ranges: ranges(of) }
}

pub(crate) fn copy(n: u8) -> pb::ItemHolding {
    holding(n, &[(0, CHUNKS)])
}

pub(crate) fn hello(holdings: Vec<pb::ItemHolding>) -> Report {
    let addresses = vec!["/ip4/127.0.0.1/tcp/7100".to_owned(), "/ip4/192.0.2.1/tcp/25".to_owned()];
    Report::Hello(pb::Hello { addresses, holdings, software: "test".to_owned(), run: 1 })
}

pub(crate) fn utc() -> Utc {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    Utc::from_millis(u64::try_from(since.as_millis()).unwrap())
}

/// A device with its key.
pub(crate) struct Device {
    pub(crate) n: u8,
    key: SigningKey,
    tracker: ServerId,
}

impl Device {
    pub(crate) fn new(n: u8, tracker: ServerId) -> Device {
        Device { n, key: SigningKey::from_bytes(&[n; 32]).unwrap(), tracker }
    }

    /// One of many: more than there are bytes.
    pub(crate) fn numbered(number: u32, tracker: ServerId) -> Device {
        let mut key = [77; 32];
        key[..4].copy_from_slice(&number.to_be_bytes());
        Device { n: 77, key: SigningKey::from_bytes(&key).unwrap(), tracker }
    }

    pub(crate) fn id(&self) -> DeviceId {
        self.key.device_id()
    }

    /// A request that proves this device.
    pub(crate) fn calls<T>(&self, message: T) -> Request<T> {
        let token = CallToken::sign(&self.key, self.tracker, utc()).unwrap();
        let mut request = Request::new(message);
        request.metadata_mut().insert(call::METADATA_KEY, token.to_text().parse().unwrap());
        request
    }

    /// Opens a stream; what comes first is not waited for.
    pub(crate) async fn open(&self, world: &World) -> Result<Attending, Status> {
        self.open_on(world.channel.clone()).await
    }

    /// Opens a stream on this connection.
    pub(crate) async fn open_on(&self, channel: Channel) -> Result<Attending, Status> {
        let (reports, mut queued) = mpsc::channel::<Report>(16);
        let stream = futures::stream::poll_fn(move |context| queued.poll_recv(context));
        let stream = futures::StreamExt::map(stream, |report| pb::Report { report: Some(report) });
        let notices = SwarmClient::new(channel).attend(self.calls(stream)).await?.into_inner();
        Ok(Attending { reports, notices })
    }

    /// Opens a stream, says what it holds, and waits to be welcomed.
    pub(crate) async fn attend(&self, world: &World, holdings: Vec<pb::ItemHolding>) -> Attending {
        let mut attending = self.open(world).await.unwrap();
        attending.report(hello(holdings)).await;
        let first = attending.next().await.unwrap();
        assert!(matches!(first, Notice::Welcome(_)), "{first:?}");
        attending
    }

    pub(crate) async fn ask(&self, world: &World, item: u8) -> Result<pb::Plan, Status> {
        let request = pb::AssignSourcesRequest { item: vec![item; 32], ..Default::default() };
        Ok(world.swarm().assign_sources(self.calls(request)).await?.into_inner())
    }

    /// Asks until the plan is as wished for.
    pub(crate) async fn ask_until(&self, world: &World, item: u8, good: impl Fn(&pb::Plan) -> bool) -> pb::Plan {
        let ask = async {
            loop {
                let plan = self.ask(world, item).await.unwrap();
                if good(&plan) {
                    return plan;
                }
            }
        };
        tokio::time::timeout(SOON, ask).await.expect("the plan becomes as wished for in time")
    }
}

/// An open stream.
pub(crate) struct Attending {
    reports: mpsc::Sender<Report>,
    notices: Streaming<pb::Notice>,
}

impl Attending {
    pub(crate) async fn report(&self, report: Report) {
        self.reports.send(report).await.unwrap();
    }

    pub(crate) async fn next(&mut self) -> Result<Notice, Status> {
        let next = tokio::time::timeout(SOON, self.notices.message()).await.expect("a notice comes in time")?;
        Ok(next.expect("the tracker says why it closes a stream").notice.expect("a notice has a kind"))
    }

    /// What the tracker says next, however long that takes.
    pub(crate) async fn next_whenever(&mut self) -> Result<Notice, Status> {
        let next = self.notices.message().await?.ok_or_else(|| Status::cancelled("the stream is over"))?;
        Ok(next.notice.expect("a notice has a kind"))
    }

    /// The next notice of a kind; others are passed over.
    pub(crate) async fn until<T>(&mut self, wanted: impl Fn(Notice) -> Option<T>) -> T {
        loop {
            if let Some(found) = wanted(self.next().await.unwrap()) {
                return found;
            }
        }
    }

    /// Why the stream ends.
    pub(crate) async fn end(&mut self) -> Status {
        loop {
            if let Err(status) = self.next().await {
                return status;
            }
        }
    }
}

pub(crate) fn sources(plan: &pb::Plan) -> Vec<Vec<u8>> {
    plan.leases.iter().map(|lease| lease.source.as_ref().unwrap().device.clone()).collect()
}

pub(crate) fn membership(answer: pb::EnrolResponse, tracker: ServerId) -> Membership {
    let signed: Signed<Membership> = answer.membership.unwrap().try_into().unwrap();
    signed.verify(&tracker).unwrap()
}

/// Asks until there is an answer.
pub(crate) async fn poll<T>(mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let asking = async {
        loop {
            if let Some(answer) = ask().await {
                return answer;
            }
        }
    };
    tokio::time::timeout(SOON, asking).await.expect("the answer comes in time")
}
