//! The one port of a daemon: gRPC and web pages, plain or encrypted, bounded in every direction.
//!
//! gRPC and HTTP share the port and are told apart by their content type. Health (`/livez`, `/readyz`, gRPC health),
//! `/metrics` and gRPC reflection are always there. The accept loop never ends on an error; whatever a stranger opens,
//! sends slowly or never sends has a limit here. Web requests have to name a host that is ours, so that a page from
//! elsewhere cannot use a visitor's browser to reach a local daemon.

mod admission;
mod port_holder;

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use http::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use rustls::ServerConfig;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tonic::service::Routes;
use tonic::transport::server::TcpConnectInfo;

use self::admission::{Admission, Hosts};
use crate::data_folder::DataFolder;
use crate::exit::{Exit, Failure};
use crate::health::Health;
use crate::metrics::Metrics;
use crate::{tls, units};

/// How long open connections may go on after the daemon was asked to stop. Less than what the whole program gets.
const DRAIN: Duration = Duration::from_secs(8);

/// Pause after the system had no descriptor or memory for a connection: without it the loop would burn a core.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// HTTP/2 probes a connection this often, and gives it this long to answer.
const KEEP_ALIVE: Duration = Duration::from_secs(30);
const KEEP_ALIVE_WITHIN: Duration = Duration::from_secs(10);

/// Largest head of a request, HTTP/1 and HTTP/2: ours are below 2 KiB.
const MAX_HEAD_BYTES: u32 = 16 << 10;

/// Where and how a daemon listens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Address and port; port 0 takes any free one.
    pub listen: SocketAddr,
    /// Whether a port that others can reach may go without TLS.
    pub insecure: bool,
    /// Host names, besides `localhost` and plain addresses, under which web pages may be asked for.
    pub hosts: Vec<String>,
    /// How the port is encrypted.
    pub tls: tls::Config,
    /// What strangers can take up.
    pub limits: Limits,
}

impl Config {
    /// Loopback only, on this port.
    pub fn on_loopback(port: u16) -> Config {
        Config {
            listen: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port),
            insecure: false,
            hosts: Vec::new(),
            tls: tls::Config::default(),
            limits: Limits::default(),
        }
    }
}

impl Default for Config {
    fn default() -> Config {
        Config::on_loopback(0)
    }
}

/// What strangers can take up. Zero means none at all.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Connections at a time; more are closed at once.
    pub connections: usize,
    /// Requests at a time, over all connections, that have not begun to be answered; more are told to come back.
    pub requests: usize,
    /// Requests at a time on one HTTP/2 connection.
    pub streams_per_connection: u32,
    /// How long a request may take until its answer begins. Streaming calls are not bound by it.
    pub request_timeout: units::Duration,
    /// How long a new connection may take for its TLS handshake, and then for its first request.
    pub handshake_timeout: units::Duration,
    /// How long the head of an HTTP/1 request may take.
    pub header_timeout: units::Duration,
    /// The age at which a connection is asked to close, so that clients spread again over servers.
    pub connection_age: units::Duration,
    /// The largest body that a web route reads, unless it sets a limit of its own.
    pub web_body: units::ByteSize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            connections: 1_000,
            requests: 512,
            streams_per_connection: 100,
            request_timeout: units::Duration::from_secs(10),
            handshake_timeout: units::Duration::from_secs(10),
            header_timeout: units::Duration::from_secs(10),
            connection_age: units::Duration::from_secs(30 * 60),
            web_body: units::ByteSize::kib(64),
        }
    }
}

/// What a daemon serves.
#[derive(Debug)]
pub struct App {
    /// Its gRPC services.
    pub grpc: Routes,
    /// Its web pages and JSON interface.
    pub web: Router,
    /// The encoded descriptors of its gRPC services: for reflection, and to know which calls are streams.
    pub descriptors: &'static [u8],
    /// Its checks.
    pub health: Health,
    /// Its counters.
    pub metrics: Metrics,
}

/// A port that is ours, not yet served.
#[derive(Debug)]
pub struct Bound {
    listener: TcpListener,
    address: SocketAddr,
    tls: Option<Arc<ServerConfig>>,
    config: Config,
}

impl Bound {
    /// Takes the port and prepares its encryption. Connections wait until it is served.
    pub async fn bind(config: &Config, folder: &DataFolder) -> Result<Bound, Failure> {
        let tls = tls::server(&config.tls, folder, config.listen, config.insecure)?;
        let cannot = |error: io::Error| cannot_listen(config.listen, &error);
        let listener = TcpListener::bind(config.listen).await.map_err(cannot)?;
        let address = listener.local_addr().map_err(cannot)?;
        Ok(Bound { listener, address, tls, config: config.clone() })
    }

    /// The address, with the port that was really taken.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The address as this machine reaches it.
    pub fn url(&self) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        let ip = match self.address.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
            IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
            ip => ip,
        };
        format!("{scheme}://{}", SocketAddr::new(ip, self.address.port()))
    }

    /// Serves until `stop`, then lets open requests come to their end, but not for long.
    pub async fn serve(self, app: App, stop: CancellationToken) -> Result<(), Failure> {
        let Bound { listener, address, tls, config } = self;
        let limits = config.limits;
        let counters = Counters::new(&app.metrics);
        let serving = app.health.check("serving", "wait, or start the daemon again");
        let (reporter, grpc_health) = tonic_health::server::health_reporter();
        let _feed = AbortOnDropHandle::new(tokio::spawn(app.health.clone().feed(reporter)));
        let hosts = Hosts::new(config.hosts.iter().chain(&config.tls.names));
        let port = Arc::new(Port {
            http: http(&limits),
            tls: tls.map(TlsAcceptor::from),
            admission: Admission::new(app, grpc_health, hosts, &limits)?,
            local: address,
            stop: stop.clone(),
            counters,
            limits,
        });
        serving.ok();
        tracing::info!(%address, tls = port.tls.is_some(), "serving");
        let mut conversations = port.accept_until_stop(&listener).await;
        drop(listener);
        serving.failing("stopping");
        let all_ended = async { while conversations.join_next().await.is_some() {} };
        if tokio::time::timeout(DRAIN, all_ended).await.is_err() {
            tracing::warn!(left = conversations.len(), "closing connections that did not end in time");
            conversations.shutdown().await;
        }
        Ok(())
    }
}

/// A port that is served.
struct Port {
    http: auto::Builder<TokioExecutor>,
    tls: Option<TlsAcceptor>,
    admission: Admission,
    local: SocketAddr,
    stop: CancellationToken,
    counters: Counters,
    limits: Limits,
}

/// What the port counts about connections.
#[derive(Debug, Clone, Default)]
struct Counters {
    open: Gauge,
    accepted: Counter,
    refused: Counter,
}

impl Counters {
    fn new(metrics: &Metrics) -> Counters {
        let counters = Counters::default();
        metrics.register(|registry| {
            registry.register("connections_open", "Connections that are open", counters.open.clone());
            registry.register("connections_accepted", "Connections that were accepted", counters.accepted.clone());
            registry.register("connections_refused", "Connections closed for being too many", counters.refused.clone());
        });
        counters
    }
}

impl Port {
    async fn accept_until_stop(self: &Arc<Port>, listener: &TcpListener) -> JoinSet<()> {
        let mut conversations = JoinSet::new();
        let mut in_trouble = false;
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                Some(_) = conversations.join_next() => continue,
                () = self.stop.cancelled() => return conversations,
            };
            match accepted {
                Ok((stream, peer)) => {
                    in_trouble = false;
                    self.admit(stream, peer, &mut conversations);
                }
                // The caller went away before we looked.
                Err(error) if is_of_one_connection(&error) => {}
                Err(error) => {
                    if !std::mem::replace(&mut in_trouble, true) {
                        tracing::warn!(%error, "cannot accept connections for now");
                    }
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn admit(self: &Arc<Port>, stream: TcpStream, peer: SocketAddr, conversations: &mut JoinSet<()>) {
        if conversations.len() >= self.limits.connections {
            self.counters.refused.inc();
            tracing::debug!(%peer, "too many connections");
            return;
        }
        self.counters.accepted.inc();
        let port = Arc::clone(self);
        conversations.spawn(async move {
            let _open = Open::count(&port.counters.open);
            port.greet(stream, peer).await;
        });
    }

    /// The TLS handshake, if there is one, then the conversation.
    async fn greet(&self, stream: TcpStream, peer: SocketAddr) {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%peer, %error, "no TCP_NODELAY");
        }
        let Some(acceptor) = &self.tls else { return self.converse(stream, peer).await };
        match tokio::time::timeout(self.limits.handshake_timeout.get(), acceptor.accept(stream)).await {
            Ok(Ok(stream)) => self.converse(stream, peer).await,
            Ok(Err(error)) => tracing::debug!(%peer, %error, "TLS handshake failed"),
            Err(_) => tracing::debug!(%peer, "TLS handshake took too long"),
        }
    }

    async fn converse(&self, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, peer: SocketAddr) {
        let heard = Arc::new(AtomicBool::new(false));
        let answer = service_fn(|request: Request<Incoming>| {
            heard.store(true, Ordering::Relaxed);
            let request = self.introduced(request, peer);
            let admission = self.admission.clone();
            async move { Ok::<_, Infallible>(admission.answer(request).await) }
        });
        let conversation = self.http.serve_connection(TokioIo::new(stream), answer);
        let silence = tokio::time::sleep(self.limits.handshake_timeout.get());
        let age = tokio::time::sleep(self.limits.connection_age.get());
        tokio::pin!(conversation, silence, age);
        let mut closing = false;
        loop {
            tokio::select! {
                ended = conversation.as_mut() => {
                    if let Err(error) = ended {
                        tracing::debug!(%peer, %error, "connection ended");
                    }
                    return;
                }
                () = silence.as_mut(), if !heard.load(Ordering::Relaxed) => {
                    if heard.load(Ordering::Relaxed) {
                        continue;
                    }
                    tracing::debug!(%peer, "no request for too long");
                    if std::mem::replace(&mut closing, true) {
                        return;
                    }
                    // Politely first: a client may have connected early and be about to ask.
                    conversation.as_mut().graceful_shutdown();
                    silence.as_mut().reset(tokio::time::Instant::now() + self.limits.handshake_timeout.get());
                }
                () = self.stop.cancelled(), if !closing => {
                    closing = true;
                    conversation.as_mut().graceful_shutdown();
                }
                () = age.as_mut(), if !closing => {
                    closing = true;
                    conversation.as_mut().graceful_shutdown();
                }
            }
        }
    }

    /// The request with who sent it, where both axum and tonic look for that.
    fn introduced(&self, request: Request<Incoming>, peer: SocketAddr) -> Request<Body> {
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(ConnectInfo(peer));
        request.extensions_mut().insert(TcpConnectInfo { local_addr: Some(self.local), remote_addr: Some(peer) });
        request
    }
}

/// Counts a connection for as long as it lives.
struct Open(Gauge);

impl Open {
    fn count(open: &Gauge) -> Open {
        open.inc();
        Open(open.clone())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.dec();
    }
}

fn http(limits: &Limits) -> auto::Builder<TokioExecutor> {
    let mut http = auto::Builder::new(TokioExecutor::new());
    http.http1()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_timeout.get())
        .max_buf_size(MAX_HEAD_BYTES as usize);
    http.http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.streams_per_connection)
        .max_header_list_size(MAX_HEAD_BYTES)
        .keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE_WITHIN);
    http
}

fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionRefused
    )
}

fn cannot_listen(address: SocketAddr, error: &io::Error) -> Failure {
    let port = address.port();
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            let why = match port_holder::of(port) {
                Some(holder) => format!("{holder} listens on it"),
                None => "another program listens on it".to_owned(),
            };
            Failure::new(Exit::Conflict, "E-PORT-01", format!("port {port} is taken"))
                .why(why)
                .hint("stop that program, or take another port with server.listen; port 0 takes any free one")
        }
        io::ErrorKind::PermissionDenied => {
            Failure::new(Exit::NotAllowed, "E-PORT-02", format!("not allowed to listen on {address}"))
                .why(error)
                .hint("take a port from 1024 up with server.listen")
        }
        _ => Failure::new(Exit::Config, "E-PORT-03", format!("cannot listen on {address}"))
            .why(error)
            .hint("set server.listen to an address of this machine"),
    }
}
