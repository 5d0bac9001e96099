//! One port, seen from outside.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::routing::{get, post};
use daemon::client::{self, Trust};
use daemon::serve::{App, Bound, Config};
use daemon::token::OperatorToken;
use daemon::{DataFolder, Exit, Failure, Health, Metrics, tls, units};
use prost::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic::transport::Channel;
use tonic::{Code, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tower::ServiceExt;

/// Nothing here takes long; whatever does has failed.
const DEADLINE: Duration = Duration::from_secs(20);

/// A daemon with nothing of its own, on a free port.
pub(crate) struct Daemon {
    pub(crate) address: SocketAddr,
    url: String,
    health: Health,
    stop: CancellationToken,
    serving: tokio::task::JoinHandle<Result<(), Failure>>,
    folder: DataFolder,
    _outer: tempfile::TempDir,
}

impl Daemon {
    async fn start(config: Config, grpc: Routes, web: Router) -> Daemon {
        Daemon::start_with_descriptors(config, grpc, web, &[]).await
    }

    async fn start_with_descriptors(config: Config, grpc: Routes, web: Router, descriptors: &'static [u8]) -> Daemon {
        let outer = tempfile::tempdir().expect("a temporary folder");
        let folder = DataFolder::open(outer.path().join("data")).expect("the folder is new");
        let bound = Bound::bind(&config, &folder).await.expect("a free port");
        let (address, url) = (bound.address(), bound.url());
        let (health, metrics, stop) = (Health::new(), Metrics::new("test", "0"), CancellationToken::new());
        let app = App { grpc, web, descriptors, health: health.clone(), metrics };
        let serving = tokio::spawn(bound.serve(app, stop.clone()));
        Daemon { address, url, health, stop, serving, folder, _outer: outer }
    }

    pub(crate) async fn plain() -> Daemon {
        Daemon::start(Config::default(), Routes::default(), Router::new()).await
    }

    async fn channel(&self) -> Channel {
        client::connect(&self.url, &Trust::default()).await.expect("the daemon answers")
    }

    /// A web request as a browser sends it; status line, headers and body of the answer.
    pub(crate) async fn get(&self, path: &str) -> String {
        self.say(&format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")).await
    }

    async fn say(&self, request: &str) -> String {
        let mut stream = TcpStream::connect(self.address).await.expect("the port is open");
        stream.write_all(request.as_bytes()).await.expect("the daemon reads");
        heard(&mut stream).await
    }

    async fn stopped(self) -> Result<(), Failure> {
        self.stop.cancel();
        within(self.serving).await.expect("serving does not panic")
    }
}

async fn heard(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    within(stream.read_to_end(&mut answer)).await.expect("the daemon answers and closes");
    String::from_utf8_lossy(&answer).into_owned()
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, future).await.expect("it does not take long")
}

/// A gRPC call of any path, with an empty message; the status it ends with before any answer.
async fn call(channel: &Channel, path: &str) -> Option<Status> {
    let request = http::Request::post(path)
        .header("content-type", "application/grpc")
        .body(tonic::body::Body::new(axum::body::Body::from(&[0u8; 5][..])))
        .expect("a request");
    let response = within(channel.clone().oneshot(request)).await.expect("the daemon answers");
    Status::from_header_map(response.headers())
}

fn limited(change: impl FnOnce(&mut daemon::serve::Limits)) -> Config {
    let mut config = Config::default();
    change(&mut config.limits);
    config
}

#[tokio::test]
async fn web_pages_and_grpc_share_the_port() {
    let daemon =
        Daemon::start(Config::default(), Routes::default(), Router::new().route("/", get(|| async { "hello" }))).await;
    assert!(daemon.get("/").await.ends_with("\r\n\r\nhello"));
    let answer = HealthClient::new(daemon.channel().await).check(HealthCheckRequest::default()).await.unwrap();
    assert_eq!(answer.into_inner().status(), tonic_health::pb::health_check_response::ServingStatus::Serving);
    let unknown = call(&daemon.channel().await, "/no.Such/Call").await.unwrap();
    assert_eq!(Failure::from(unknown).exit, Exit::VersionMismatch);
}

#[tokio::test]
async fn machines_find_health_and_metrics() {
    let daemon = Daemon::plain().await;
    assert!(daemon.get("/livez").await.starts_with("HTTP/1.1 200"));
    let store = daemon.health.check("store", "free some disk space");
    store.failing("disk full");
    let answer = daemon.get("/readyz?verbose").await;
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    assert!(answer.contains("[-] store: disk full, 0 s ago; try: free some disk space\n"), "{answer}");
    store.ok();
    assert!(daemon.get("/readyz").await.ends_with("ready\n"));
    let metrics = daemon.get("/metrics").await;
    assert!(metrics.contains("application/openmetrics-text"), "{metrics}");
    assert!(metrics.contains("reelswarm_requests_total{kind=\"web\",outcome=\"answered\"} 3\n"), "{metrics}");
}

#[tokio::test]
async fn grpc_health_follows_the_checks() {
    let daemon = Daemon::plain().await;
    let mut client = HealthClient::new(daemon.channel().await);
    let mut watch = client.watch(HealthCheckRequest::default()).await.unwrap().into_inner();
    let mut next = async || within(watch.message()).await.unwrap().unwrap().status;
    assert_eq!(next().await, 1);
    let store = daemon.health.check("store", "");
    assert_eq!(next().await, 2);
    store.ok();
    assert_eq!(next().await, 1);
}

#[tokio::test]
async fn foreign_host_names_are_refused_but_not_to_machines() {
    let config = Config { hosts: vec!["console.example".to_owned()], ..Config::default() };
    let daemon = Daemon::start(config, Routes::default(), Router::new().route("/", get(|| async { "hello" }))).await;
    let ask = async |host: &str, path: &str| {
        daemon.say(&format!("GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n")).await
    };
    assert!(ask("console.example", "/").await.starts_with("HTTP/1.1 200"));
    assert!(ask("evil.example", "/").await.starts_with("HTTP/1.1 403"));
    assert!(ask("evil.example", "/livez").await.starts_with("HTTP/1.1 200"));
    let grpc_from_a_page = "POST /no.Such/Call HTTP/1.1\r\nhost: evil.example\r\ncontent-type: application/grpc\r\nconnection: close\r\n\r\n";
    assert!(daemon.say(grpc_from_a_page).await.starts_with("HTTP/1.1 505"));
}

#[tokio::test]
async fn bodies_and_heads_are_bounded() {
    let daemon =
        Daemon::start(Config::default(), Routes::default(), Router::new().route("/", post(async |body: String| body)))
            .await;
    let post = |length: usize| {
        let body = "x".repeat(length);
        format!("POST / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}")
    };
    assert!(daemon.say(&post(64 << 10)).await.starts_with("HTTP/1.1 200"));
    assert!(daemon.say(&post((64 << 10) + 1)).await.starts_with("HTTP/1.1 413"));
    let long_head = format!("GET / HTTP/1.1\r\nhost: localhost\r\nx: {}\r\n\r\n", "x".repeat(20 << 10));
    assert!(daemon.say(&long_head).await.starts_with("HTTP/1.1 431"));
}

#[tokio::test]
async fn slow_call_is_ended_and_a_stream_is_not() {
    let pending = || post(async || std::future::pending::<&'static str>().await);
    let release = Arc::new(Notify::new());
    let released = Arc::clone(&release);
    let slow_stream = post(async move || {
        released.notified().await;
        "answered"
    });
    let grpc = Routes::from(Router::new().route("/test.Slow/Unary", pending()).route("/test.Slow/Stream", slow_stream));
    let web = Router::new().route("/slow", get(async || std::future::pending::<&'static str>().await));
    let config = limited(|limits| limits.request_timeout = units::Duration::from_millis(50));
    let daemon = Daemon::start_with_descriptors(config, grpc, web, descriptors_of_slow()).await;
    let channel = daemon.channel().await;

    let stream = tokio::spawn({
        let channel = channel.clone();
        async move { call(&channel, "/test.Slow/Stream").await.is_none() }
    });
    let status = call(&channel, "/test.Slow/Unary").await.unwrap();
    assert_eq!(status.code(), Code::DeadlineExceeded);
    assert_eq!(Failure::from(status).code, "E-SERVE-03");
    assert!(daemon.get("/slow").await.starts_with("HTTP/1.1 503"));
    release.notify_one();
    assert!(within(stream).await.unwrap(), "the stream outlived the timeout of calls");
}

/// Descriptors of a service with one unary and one streaming call.
fn descriptors_of_slow() -> &'static [u8] {
    let method = |name: &str, streams| prost_types::MethodDescriptorProto {
        name: Some(name.to_owned()),
        input_type: Some(".test.Nothing".to_owned()),
        output_type: Some(".test.Nothing".to_owned()),
        server_streaming: Some(streams),
        ..Default::default()
    };
    let service = prost_types::ServiceDescriptorProto {
        name: Some("Slow".to_owned()),
        method: vec![method("Unary", false), method("Stream", true)],
        ..Default::default()
    };
    let nothing = prost_types::DescriptorProto { name: Some("Nothing".to_owned()), ..Default::default() };
    let file = prost_types::FileDescriptorProto {
        name: Some("slow.proto".to_owned()),
        package: Some("test".to_owned()),
        message_type: vec![nothing],
        service: vec![service],
        ..Default::default()
    };
    prost_types::FileDescriptorSet { file: vec![file] }.encode_to_vec().leak()
}

#[tokio::test]
async fn too_many_requests_are_told_to_come_back() {
    let (begun, release) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (begins, released) = (Arc::clone(&begun), Arc::clone(&release));
    let web = Router::new().route(
        "/",
        get(async move || {
            begins.notify_one();
            released.notified().await;
            "done"
        }),
    );
    let daemon = Daemon::start(limited(|limits| limits.requests = 1), Routes::default(), web).await;
    let channel = daemon.channel().await;
    let first = daemon.get("/");
    let meanwhile = async {
        within(begun.notified()).await;
        let second = daemon.get("/").await;
        assert!(second.starts_with("HTTP/1.1 503"), "{second}");
        assert!(second.contains("retry-after: 1\r\n"), "{second}");
        let status = call(&channel, "/no.Such/Call").await.unwrap();
        assert_eq!(status.code(), Code::ResourceExhausted);
        assert!(Failure::from(status).retryable());
        assert!(daemon.get("/livez").await.starts_with("HTTP/1.1 200"), "machines are always answered");
        release.notify_one();
    };
    let (first, ()) = tokio::join!(first, meanwhile);
    assert!(first.ends_with("done"));
}

#[tokio::test]
async fn panic_of_a_handler_is_an_answer_and_nobody_else_notices() {
    async fn panics() -> &'static str {
        panic!("on purpose")
    }
    let grpc = Routes::from(Router::new().route("/test.Bad/Call", post(panics)));
    let daemon = Daemon::start(Config::default(), grpc, Router::new().route("/", get(panics))).await;
    assert!(daemon.get("/").await.starts_with("HTTP/1.1 500"));
    let channel = daemon.channel().await;
    assert_eq!(call(&channel, "/test.Bad/Call").await.unwrap().code(), Code::Internal);
    assert!(HealthClient::new(channel).check(HealthCheckRequest::default()).await.is_ok());
}

#[tokio::test]
async fn silent_and_superfluous_connections_are_closed() {
    let config = limited(|limits| {
        limits.connections = 1;
        limits.handshake_timeout = units::Duration::from_millis(100);
    });
    let daemon = Daemon::start(config, Routes::default(), Router::new()).await;
    let mut silent = TcpStream::connect(daemon.address).await.unwrap();
    // Half of HTTP/2's greeting: not yet silence for a server that only counts bytes.
    silent.write_all(b"PRI * HTTP").await.unwrap();
    let mut superfluous = TcpStream::connect(daemon.address).await.unwrap();
    assert_eq!(heard(&mut superfluous).await, "");
    assert_eq!(heard(&mut silent).await, "");
    assert!(daemon.get("/livez").await.starts_with("HTTP/1.1 200"), "there is room again");
}

#[tokio::test]
async fn taken_port_is_named_with_its_holder() {
    let daemon = Daemon::plain().await;
    let config = Config { listen: daemon.address, ..Config::default() };
    let failure = Bound::bind(&config, &daemon.folder).await.unwrap_err();
    assert_eq!(failure.exit, Exit::Conflict);
    assert_eq!(failure.what, format!("port {} is taken", daemon.address.port()));
    assert!(failure.why.unwrap().contains(&format!("(pid {})", std::process::id())));
}

#[tokio::test]
async fn open_request_is_answered_before_the_port_is_gone() {
    let (begun, release) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (begins, released) = (Arc::clone(&begun), Arc::clone(&release));
    let web = Router::new().route(
        "/",
        get(async move || {
            begins.notify_one();
            released.notified().await;
            "done"
        }),
    );
    let daemon = Daemon::start(Config::default(), Routes::default(), web).await;
    let address = daemon.address;
    let open = daemon.get("/");
    let meanwhile = async {
        within(begun.notified()).await;
        daemon.stop.cancel();
        release.notify_one();
    };
    let (open, ()) = tokio::join!(open, meanwhile);
    assert!(open.ends_with("done"), "{open}");
    daemon.stopped().await.unwrap();
    assert!(TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn encrypted_port_answers_who_trusts_its_certificate() {
    let tls = tls::Config { mode: tls::Mode::SelfSigned, ..tls::Config::default() };
    let daemon = Daemon::start(Config { tls, ..Config::default() }, Routes::default(), Router::new()).await;
    assert!(daemon.url.starts_with("https://"));
    let trusting = Trust { ca_file: Some(tls::self_signed_certificate(daemon.folder.path())), insecure: false };
    let channel = client::connect(&daemon.url, &trusting).await.unwrap();
    assert!(HealthClient::new(channel).check(HealthCheckRequest::default()).await.is_ok());

    let other = tempfile::tempdir().unwrap();
    let other_folder = DataFolder::open(other.path().join("data")).unwrap();
    let tls = tls::Config { mode: tls::Mode::SelfSigned, ..tls::Config::default() };
    Bound::bind(&Config { tls, ..Config::default() }, &other_folder).await.unwrap();
    let mistaken = Trust { ca_file: Some(tls::self_signed_certificate(other_folder.path())), insecure: false };
    let failure = client::connect(&daemon.url, &mistaken).await.unwrap_err();
    assert_eq!(failure.exit, Exit::Unreachable);
    assert!(failure.hint.unwrap().contains("authority"));
}

#[tokio::test]
async fn call_to_a_daemon_that_is_gone_names_it() {
    let daemon = Daemon::plain().await;
    let url = daemon.url.clone();
    let mut early = HealthClient::new(daemon.channel().await);
    let mut lazy = HealthClient::new(client::connect_lazily(&url, &Trust::default()).unwrap());
    daemon.stopped().await.unwrap();
    for client in [&mut early, &mut lazy] {
        let status = client.check(HealthCheckRequest::default()).await.unwrap_err();
        let failure = client::failure(&url, &status);
        assert_eq!((failure.exit, failure.what), (Exit::Unreachable, format!("cannot reach {url}")));
    }
}

#[tokio::test]
async fn port_for_others_without_tls_is_refused() {
    let daemon = Daemon::plain().await;
    let mut config = Config { listen: "0.0.0.0:0".parse().unwrap(), ..Config::default() };
    assert_eq!(Bound::bind(&config, &daemon.folder).await.unwrap_err().exit, Exit::Config);
    config.insecure = true;
    let bound = Bound::bind(&config, &daemon.folder).await.unwrap();
    assert_eq!(bound.url(), format!("http://127.0.0.1:{}", bound.address().port()));
}

#[tokio::test]
async fn pages_for_the_operator_want_the_token() {
    let outer = tempfile::tempdir().unwrap();
    let path = DataFolder::open(outer.path().join("data")).unwrap().file(daemon::token::FILE);
    let token = OperatorToken::open_or_create(&path).unwrap();
    let web = token.protect(Router::new().route("/admin", get(|| async { "secrets" })));
    let daemon = Daemon::start(Config::default(), Routes::default(), web).await;
    let refused = daemon.get("/admin").await;
    assert!(refused.starts_with("HTTP/1.1 401"), "{refused}");
    assert!(refused.contains("www-authenticate: Bearer\r\n") && refused.contains("E-TOKEN-01"), "{refused}");
    assert!(refused.contains("\"status\":401"), "{refused}");
    let text = std::fs::read_to_string(path).unwrap();
    let ask =
        format!("GET /admin HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {text}\r\nconnection: close\r\n\r\n");
    assert!(daemon.say(&ask).await.ends_with("secrets"));
}
