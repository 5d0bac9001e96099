//! Speaks to other devices: one libp2p `Swarm`, owned by one task.
//!
//! Carries questions and answers of the chunk protocol, keeps seeds connected, finds and announces providers in
//! Kademlia. Every question gets exactly one answer or one [`AskError`]. Every number that a stranger could drive up has
//! a limit here: connections, streams, records, addresses, pending questions. Decides nothing about chunks and never
//! looks into them; tickets are somebody else's.

mod address;
mod behaviour;
mod chunks;
mod doors;
mod fresh_port;
mod muxer;
mod noise;
pub mod peer_id;
mod routing;
mod swarm_task;
mod throttle;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use daemon::Failure;
use daemon::exit::Exit;
use libp2p::identity::Keypair;
use libp2p::multiaddr::Multiaddr;
use libp2p::{PeerId, Swarm};
use swarm_proto::id::DeviceId;
use swarm_proto::wire::{Answer, Request};
use tokio::sync::{mpsc, oneshot, watch};

pub use self::chunks::{Exchange, Responder};
use self::chunks::{Question, Shared};
use self::swarm_task::SwarmTask;
use self::throttle::Throttle;
use crate::buffers::Buffers;
use crate::config;

/// Commands that wait for the task. Those who ask wait in turn; nothing is dropped.
const COMMANDS: usize = 256;
/// Questions of others that wait for an answerer. Beyond that they are told to come back.
const INBOUND: usize = 256;
/// Providers of one item that wait to be read.
const PROVIDERS: usize = 64;
/// How long starting waits for the addresses that the system gives.
const LISTEN_WITHIN: Duration = Duration::from_secs(3);

/// How this device takes part in the network.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where it listens.
    pub listen: Vec<Multiaddr>,
    /// Peers to join Kademlia through.
    pub bootstrap: Vec<(PeerId, Multiaddr)>,
    /// Where the Internet reaches it.
    pub external: Vec<Multiaddr>,
    /// Loopback and private addresses are spoken to and told to others.
    pub private_addresses: bool,
    /// It answers Kademlia queries.
    pub kad_server: bool,
    /// Established connections from others.
    pub connections_in: u32,
    /// Established connections in all.
    pub connections: u32,
    /// What all answers together may take.
    pub upload_bytes_per_sec: Option<u64>,
    /// A peer that owes answers and has sent no byte for this long is disconnected.
    pub silence: Duration,
    /// Where chunks are received.
    pub buffers: Buffers,
}

impl Config {
    /// Checks what a person has written.
    pub fn of(config: &config::Net) -> anyhow::Result<Self> {
        let listen = parse("net.listen", &config.listen)?;
        let bootstrap = parse("net.bootstrap", &config.bootstrap)?
            .into_iter()
            .map(|address| {
                let shown = address.to_string();
                address::split_peer(address).ok_or_else(|| {
                    bad("net.bootstrap", &shown, "it does not end with /p2p/ and the id of a peer".to_owned())
                })
            })
            .collect::<Result<_, _>>()?;
        let loopback_only = !listen.is_empty() && listen.iter().all(address::is_loopback);
        Ok(Self {
            listen,
            bootstrap,
            external: parse("net.external", &config.external)?,
            private_addresses: config.private_addresses || loopback_only,
            kad_server: config.kad_server,
            connections_in: config.connections_in,
            connections: config.connections,
            upload_bytes_per_sec: None,
            silence: Duration::from_secs(10),
            buffers: Buffers::default(),
        })
    }
}

/// Why a question has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AskError {
    /// No connection could be made. Try later, or somebody else.
    #[error("the peer cannot be reached")]
    Unreachable,
    /// The connection ended. What was asked may be asked again.
    #[error("the connection was closed")]
    Closed,
    /// Nothing came for too long.
    #[error("the peer is silent")]
    Silent,
    /// What came is not an answer to what was asked. The peer is broken or hostile.
    #[error("the peer broke the protocol: {0}")]
    Malformed(String),
    /// The one who asked no longer wants it.
    #[error("no longer wanted")]
    Cancelled,
    /// More questions wait than there is room for. Ask again when some are answered.
    #[error("too many questions wait for an answer")]
    TooMany,
}

/// What is going on, for people.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Status {
    /// Devices connected now.
    pub connected: BTreeSet<DeviceId>,
    /// Addresses listened on, without `/p2p`.
    pub listening: Vec<Multiaddr>,
}

/// A question of another device, proven to be that device.
#[derive(Debug)]
pub struct Inbound {
    /// Who asks.
    pub device: DeviceId,
    /// What.
    pub request: Request,
    /// Where the answer goes.
    pub responder: Responder,
}

/// What the task is asked to do.
#[derive(Debug)]
enum Command {
    Ask { peer: PeerId, question: Question },
    Addresses { peer: PeerId, addresses: Vec<Multiaddr> },
    Keep { peers: BTreeSet<PeerId> },
    Ban { peer: PeerId },
    Provide { key: ProviderKey },
    StopProviding { key: ProviderKey },
    FindProviders { key: ProviderKey, found: mpsc::Sender<DeviceId> },
}

/// Under which key Kademlia knows the providers of an item. Blinded by its maker: it tells a stranger nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ProviderKey(pub [u8; 32]);

/// Asks the network task.
#[derive(Debug, Clone)]
pub struct Handle {
    commands: mpsc::Sender<Command>,
    status: watch::Receiver<Status>,
}

impl Handle {
    /// Asks a device; connects to it first if need be. `exchange` shows how the answer comes in and cancels it.
    pub async fn ask(&self, device: DeviceId, request: Request, exchange: Arc<Exchange>) -> Result<Answer, AskError> {
        let peer = peer_id::peer_of(&device).ok_or(AskError::Unreachable)?;
        let (reply, answer) = oneshot::channel();
        self.tell(Command::Ask { peer, question: Question { request, exchange, reply } }).await;
        answer.await.unwrap_or(Err(AskError::Closed))
    }

    /// Remembers where a device listens. Addresses that are not allowed here are left out.
    pub async fn add_addresses(&self, device: DeviceId, addresses: Vec<Multiaddr>) {
        if let Some(peer) = peer_id::peer_of(&device) {
            self.tell(Command::Addresses { peer, addresses }).await;
        }
    }

    /// Keeps these devices connected from now on, and no others; limits do not hold for them.
    pub async fn keep_connected(&self, devices: impl IntoIterator<Item = DeviceId>) {
        let peers = devices.into_iter().filter_map(|device| peer_id::peer_of(&device)).collect();
        self.tell(Command::Keep { peers }).await;
    }

    /// Ends all connections with a device and makes no new ones.
    pub async fn ban(&self, device: DeviceId) {
        if let Some(peer) = peer_id::peer_of(&device) {
            self.tell(Command::Ban { peer }).await;
        }
    }

    /// Lets Kademlia know, now and again, that this device provides something.
    pub async fn provide(&self, key: ProviderKey) {
        self.tell(Command::Provide { key }).await;
    }

    /// Lets the announcement run out.
    pub async fn stop_providing(&self, key: ProviderKey) {
        self.tell(Command::StopProviding { key }).await;
    }

    /// Who provides something, as they are found. Ends when Kademlia knows no more.
    pub async fn find_providers(&self, key: ProviderKey) -> mpsc::Receiver<DeviceId> {
        let (found, providers) = mpsc::channel(PROVIDERS);
        self.tell(Command::FindProviders { key, found }).await;
        providers
    }

    /// Who is connected and where this device listens, now and after each change.
    pub fn status(&self) -> watch::Receiver<Status> {
        self.status.clone()
    }

    /// A task that has ended takes no more commands; those who wait for an answer see it end.
    async fn tell(&self, command: Command) {
        let _ = self.commands.send(command).await;
    }
}

/// Starts the network: listens, then runs until every [`Handle`] is gone.
pub async fn spawn(keypair: Keypair, config: Config) -> anyhow::Result<(Handle, mpsc::Receiver<Inbound>)> {
    let (inbound, questions) = mpsc::channel(INBOUND);
    let throttle = Throttle::new(config.upload_bytes_per_sec);
    let shared = Shared { inbound, throttle, buffers: config.buffers.clone(), silence: config.silence };
    let mut swarm = behaviour::build(&keypair, &config, shared).context("failed to set up the network")?;
    for address in &config.listen {
        swarm.listen_on(address.clone()).map_err(|error| cannot_listen(address, &error))?;
    }
    let (commands, queue) = mpsc::channel(COMMANDS);
    let (status, _) = watch::channel(Status::default());
    let handle = Handle { commands, status: status.subscribe() };
    let wanted = config.listen.len();
    let task = SwarmTask::new(swarm, config, queue, status);
    tokio::spawn(task.run());
    handle.wait_for_listeners(wanted).await;
    Ok((handle, questions))
}

impl Handle {
    /// Waits until the system has said which addresses came of those that were asked for.
    async fn wait_for_listeners(&self, wanted: usize) {
        let mut status = self.status.clone();
        let all = status.wait_for(|status| status.listening.len() >= wanted);
        if tokio::time::timeout(LISTEN_WITHIN, all).await.is_err() {
            tracing::warn!(wanted, "not every listen address has come up yet");
        }
    }
}

type NetSwarm = Swarm<behaviour::Behaviour>;

fn cannot_listen(address: &Multiaddr, error: &dyn std::error::Error) -> Failure {
    let mut why = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        why = inner.to_string();
        source = inner.source();
    }
    Failure::new(Exit::Conflict, "E-NET-11", format!("cannot listen on {address}")).why(why).hint(
        "stop the program that uses the port, or choose another with --set net.listen=…; port 0 takes any free one",
    )
}

fn parse(field: &str, texts: &[String]) -> anyhow::Result<Vec<Multiaddr>> {
    texts.iter().map(|text| text.parse().map_err(|error| bad(field, text, format!("{error}")).into())).collect()
}

fn bad(field: &str, text: &str, why: String) -> Failure {
    Failure::new(Exit::Config, "E-NET-12", format!("{field} has {text:?}, which is not an address"))
        .why(why)
        .hint("write it as a multiaddr, for example /ip4/0.0.0.0/tcp/7100 or /ip4/0.0.0.0/udp/7100/quic-v1")
}
