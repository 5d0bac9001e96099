//! The task that owns the libp2p `Swarm`.
//!
//! One loop: waits for a command, an event of the swarm or the clock, then acts without waiting. A slow reader of
//! [`Inbound`] never holds it up: others are told to come back.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use libp2p::kad::store::RecordStore as _;
use libp2p::kad::{self, QueryId, RecordKey};
use libp2p::request_response::{Event as ChunkEvent, Message, OutboundFailure, OutboundRequestId, ResponseChannel};
use libp2p::swarm::SwarmEvent;
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::{Multiaddr, PeerId, identify};
use swarm_proto::id::DeviceId;
use swarm_proto::wire::{Answer, Ask, WireError};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::behaviour::{BehaviourEvent, KAD_PROTOCOL};
use super::codec::{Answered, Asked, Exchange, Receipt};
use super::peer_id::device_of;
use super::routing::Routing;
use super::{AskError, Command, Config, Inbound, NetSwarm, ProviderKey, Responder, Status, address};

/// How often kept peers are dialled, and silence is listened for.
const TICK: Duration = Duration::from_secs(1);
/// A kept peer that cannot be reached is tried again after this, doubled each time up to [`REDIAL_MAX`].
const REDIAL: Duration = Duration::from_secs(1);
const REDIAL_MAX: Duration = Duration::from_secs(60);
/// Addresses of one peer that are taken from anyone at a time.
const ADDRESSES_PER_PEER: usize = 16;
/// Providers dialled for one question.
const PROVIDERS_DIALLED: usize = 16;
/// When a peer that found our queue full should ask again.
const BUSY_MS: u32 = 500;
/// Announcements that are repeated at once when the first peer appears; others wait for their turn.
const UNHEARD_MAX: usize = 256;
/// A peer that has sent so many frames that are not questions is disconnected.
const OFFENCES_MAX: u32 = 8;
/// As long as a provider record lives.
const RECORDS_LIVE: Duration = Duration::from_secs(30 * 60);

/// A question under way.
struct Pending {
    peer: PeerId,
    /// The answer carries bulk, so bytes must keep coming.
    bulk: bool,
    exchange: Arc<Exchange>,
    reply: oneshot::Sender<Result<Answer, AskError>>,
    asked_at: Instant,
    /// Its connection was ended because nothing came.
    silent: bool,
}

/// What is known of a connected peer.
struct Connected {
    since: Instant,
    /// Bytes of all its answers, and when that number last changed.
    received: u64,
    heard_at: Instant,
    /// Questions of its that broke the protocol.
    offences: u32,
}

/// When a kept peer is dialled again.
struct Kept {
    next: Instant,
    wait: Duration,
}

pub(super) struct SwarmTask {
    swarm: NetSwarm,
    config: Config,
    commands: mpsc::Receiver<Command>,
    /// For responders; weak, so that the task ends when nobody else can ask it.
    commander: mpsc::WeakSender<Command>,
    inbound: mpsc::Sender<Inbound>,
    status: watch::Sender<Status>,
    pending: BTreeMap<OutboundRequestId, Pending>,
    connected: BTreeMap<PeerId, Connected>,
    kept: BTreeMap<PeerId, Kept>,
    searches: HashMap<QueryId, mpsc::Sender<DeviceId>>,
    provided: BTreeSet<ProviderKey>,
    /// Announced while nobody was there to hear it.
    unheard: Vec<ProviderKey>,
    routing: Routing,
    records_expire: Instant,
}

impl SwarmTask {
    pub(super) fn new(
        swarm: NetSwarm,
        config: Config,
        commands: mpsc::Receiver<Command>,
        commander: mpsc::WeakSender<Command>,
        inbound: mpsc::Sender<Inbound>,
        status: watch::Sender<Status>,
    ) -> Self {
        Self {
            swarm,
            config,
            commands,
            commander,
            inbound,
            status,
            pending: BTreeMap::new(),
            connected: BTreeMap::new(),
            kept: BTreeMap::new(),
            searches: HashMap::new(),
            provided: BTreeSet::new(),
            unheard: Vec::new(),
            routing: Routing::default(),
            records_expire: Instant::now() + RECORDS_LIVE,
        }
    }

    pub(super) async fn run(mut self) {
        self.join();
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                event = self.swarm.select_next_some() => self.on_event(event),
                command = self.commands.recv() => match command {
                    Some(command) => self.on_command(command),
                    None => return,
                },
                now = tick.tick() => self.on_tick(now),
            }
        }
    }

    fn join(&mut self) {
        for address in self.config.external.clone() {
            self.swarm.add_external_address(address);
        }
        for (peer, address) in self.config.bootstrap.clone() {
            self.swarm.behaviour_mut().kad.add_address(&peer, address);
            self.keep(peer);
        }
    }

    fn on_command(&mut self, command: Command) {
        match command {
            Command::Ask { peer, request, exchange, reply } => {
                let bulk = matches!(request.ask, Ask::Chunk { .. } | Ask::Manifest);
                let asked = Asked { request: Ok(request), exchange: exchange.clone() };
                let id = self.swarm.behaviour_mut().chunks.send_request(&peer, asked);
                self.pending
                    .insert(id, Pending { peer, bulk, exchange, reply, asked_at: Instant::now(), silent: false });
            }
            Command::Respond { channel, answered } => self.respond(channel, answered),
            Command::Addresses { peer, addresses } => {
                let private = self.config.private_addresses;
                let mut allowed: Vec<Multiaddr> = addresses
                    .into_iter()
                    .filter(|a| address::is_allowed(a, private))
                    .take(ADDRESSES_PER_PEER)
                    .collect();
                address::prefer_tcp(&mut allowed);
                // The swarm dials what it was told last first.
                for address in allowed.into_iter().rev() {
                    let address = address::without_peer(&address);
                    self.swarm.add_peer_address(peer, address);
                }
            }
            Command::Keep { peers } => self.keep_only(peers),
            Command::Ban { peer } => {
                self.swarm.behaviour_mut().blocked.block_peer(peer);
                self.swarm.behaviour_mut().kad.remove_peer(&peer);
                self.routing.remove_peer(&peer);
                self.kept.remove(&peer);
            }
            Command::Provide { key } => {
                if self.provided.insert(key) {
                    self.announce(key);
                }
            }
            Command::StopProviding { key } => {
                self.provided.remove(&key);
                self.swarm.behaviour_mut().kad.stop_providing(&RecordKey::new(&key.0));
            }
            Command::FindProviders { key, found } => {
                let id = self.swarm.behaviour_mut().kad.get_providers(RecordKey::new(&key.0));
                self.searches.insert(id, found);
            }
        }
    }

    fn on_event(&mut self, event: SwarmEvent<BehaviourEvent>) {
        match event {
            SwarmEvent::Behaviour(BehaviourEvent::Chunks(event)) => self.on_chunk_event(event),
            SwarmEvent::Behaviour(BehaviourEvent::Kad(event)) => self.on_kad_event(event),
            SwarmEvent::Behaviour(BehaviourEvent::Identify(identify::Event::Received { peer_id, info, .. })) => {
                self.on_identified(peer_id, info);
            }
            SwarmEvent::NewListenAddr { address, .. } => self.on_listening(address),
            SwarmEvent::ExpiredListenAddr { address, .. } => {
                self.swarm.remove_external_address(&address);
                self.status.send_modify(|status| status.listening.retain(|a| *a != address));
            }
            SwarmEvent::ListenerClosed { addresses, reason: Err(error), .. } => {
                tracing::error!(?addresses, %error, "no longer listening");
            }
            SwarmEvent::ConnectionEstablished { peer_id, num_established, .. } if num_established.get() == 1 => {
                let now = Instant::now();
                self.connected.insert(peer_id, Connected { since: now, received: 0, heard_at: now, offences: 0 });
                self.tell_connected();
            }
            SwarmEvent::ConnectionClosed { peer_id, num_established: 0, cause, .. } => {
                tracing::debug!(peer = %peer_id, ?cause, "disconnected");
                self.connected.remove(&peer_id);
                self.tell_connected();
            }
            SwarmEvent::OutgoingConnectionError { peer_id: Some(peer), error, .. } => {
                tracing::debug!(%peer, %error, "cannot connect");
            }
            SwarmEvent::IncomingConnectionError { error, .. } => tracing::debug!(%error, "refused a connection"),
            _ => {}
        }
    }

    fn on_chunk_event(&mut self, event: ChunkEvent<Asked, Answered>) {
        match event {
            ChunkEvent::Message { peer, message: Message::Request { request, channel, .. }, .. } => {
                self.on_question(peer, request, channel);
            }
            ChunkEvent::Message { message: Message::Response { request_id, response }, .. } => {
                if let Some(pending) = self.pending.remove(&request_id) {
                    self.heard(pending.peer);
                    // The one who asked may have gone.
                    let _ = pending.reply.send(Ok(response.answer));
                }
            }
            ChunkEvent::OutboundFailure { request_id, error, .. } => {
                if let Some(pending) = self.pending.remove(&request_id) {
                    let error = why(&pending, error);
                    let _ = pending.reply.send(Err(error));
                }
            }
            ChunkEvent::InboundFailure { peer, error, .. } => {
                tracing::debug!(%peer, %error, "an answer did not leave");
            }
            ChunkEvent::ResponseSent { .. } => {}
        }
    }

    fn on_question(&mut self, peer: PeerId, asked: Asked, channel: ResponseChannel<Answered>) {
        let (Some(device), Some(commands)) = (device_of(&peer), self.commander.upgrade()) else { return };
        let request = match asked.request {
            Ok(request) => request,
            Err(error) => return self.on_nonsense(peer, &error),
        };
        let inbound = Inbound { device, request, responder: Responder { channel, commands } };
        if let Err(mpsc::error::TrySendError::Full(inbound)) = self.inbound.try_send(inbound) {
            let answered = Answered { answer: Answer::Busy { retry_ms: BUSY_MS }, receipt: Receipt::default() };
            self.respond(inbound.responder.channel, answered);
        }
    }

    /// What came is not a question. Once is a bug, more is an attack.
    fn on_nonsense(&mut self, peer: PeerId, error: &WireError) {
        tracing::debug!(%peer, %error, "a frame is not a question");
        let Some(connected) = self.connected.get_mut(&peer) else { return };
        connected.offences += 1;
        if connected.offences >= OFFENCES_MAX {
            tracing::warn!(%peer, "a peer does not speak our protocol: disconnected");
            // Already closing is as good as closed.
            let _ = self.swarm.disconnect_peer_id(peer);
        }
    }

    fn respond(&mut self, channel: ResponseChannel<Answered>, answered: Answered) {
        // An answer to a connection that has closed goes nowhere; its receipt says so.
        let _ = self.swarm.behaviour_mut().chunks.send_response(channel, answered);
    }

    fn on_kad_event(&mut self, event: kad::Event) {
        match event {
            kad::Event::InboundRequest { request: kad::InboundRequest::AddProvider { record: Some(mut record) } } => {
                if !self.routing.admit_record(record.provider, record.key.as_ref()) {
                    return;
                }
                let private = self.config.private_addresses;
                record.addresses.retain(|address| address::is_allowed(address, private));
                record.addresses.truncate(ADDRESSES_PER_PEER);
                if let Err(error) = self.swarm.behaviour_mut().kad.store_mut().add_provider(record) {
                    tracing::debug!(%error, "no room for a provider record");
                }
            }
            kad::Event::OutboundQueryProgressed {
                id, result: kad::QueryResult::GetProviders(result), step, ..
            } => {
                if let Ok(kad::GetProvidersOk::FoundProviders { key, providers }) = result {
                    self.on_providers(id, &key, providers);
                }
                if step.last {
                    self.searches.remove(&id);
                }
            }
            kad::Event::RoutingUpdated { old_peer, .. } => {
                if let Some(peer) = old_peer {
                    self.routing.remove_peer(&peer);
                }
                for key in std::mem::take(&mut self.unheard) {
                    self.announce(key);
                }
            }
            _ => {}
        }
    }

    /// Kademlia repeats it every few minutes; what is said into an empty room is said again when somebody comes.
    fn announce(&mut self, key: ProviderKey) {
        if !self.provided.contains(&key) {
            return;
        }
        let kad = &mut self.swarm.behaviour_mut().kad;
        let alone = kad.kbuckets().next().is_none();
        if let Err(error) = kad.start_providing(RecordKey::new(&key.0)) {
            tracing::debug!(%error, "cannot announce an item in Kademlia");
        }
        if alone && self.unheard.len() < UNHEARD_MAX {
            self.unheard.push(key);
        }
    }

    fn on_providers(&mut self, id: QueryId, key: &RecordKey, providers: impl IntoIterator<Item = PeerId>) {
        let own = *self.swarm.local_peer_id();
        for record in self.swarm.behaviour_mut().kad.store_mut().providers(key) {
            for address in record.addresses {
                self.swarm.add_peer_address(record.provider, address);
            }
        }
        for peer in providers.into_iter().filter(|peer| *peer != own).take(PROVIDERS_DIALLED) {
            // Only while the query runs does Kademlia know where the provider is, so it is dialled at once.
            self.dial(peer);
            if let (Some(device), Some(found)) = (device_of(&peer), self.searches.get(&id)) {
                // Who does not read sees fewer providers.
                let _ = found.try_send(device);
            }
        }
    }

    fn on_identified(&mut self, peer: PeerId, info: identify::Info) {
        let private = self.config.private_addresses;
        let allowed = |address: &Multiaddr| address::is_allowed(address, private);
        let speaks_kad = info.protocols.contains(&KAD_PROTOCOL);
        for address in info.listen_addrs.into_iter().filter(allowed).take(ADDRESSES_PER_PEER) {
            let address = address::without_peer(&address);
            if speaks_kad && self.routing.admit_peer(peer, &address) {
                self.swarm.behaviour_mut().kad.add_address(&peer, address);
            }
        }
    }

    fn on_listening(&mut self, address: Multiaddr) {
        tracing::info!(%address, "listening");
        // What we listen on is where we are reached, unless it is a private address and the swarm is not.
        if address::is_allowed(&address, self.config.private_addresses) {
            self.swarm.add_external_address(address.clone());
        }
        self.status.send_modify(|status| {
            if !status.listening.contains(&address) {
                status.listening.push(address);
            }
        });
    }

    fn on_tick(&mut self, now: Instant) {
        self.redial(now);
        self.drop_silent(now);
        if self.records_expire <= now {
            self.routing.expire_records();
            self.records_expire = now + RECORDS_LIVE;
        }
    }

    fn keep_only(&mut self, mut peers: BTreeSet<PeerId>) {
        peers.extend(self.config.bootstrap.iter().map(|(peer, _)| *peer));
        let gone: Vec<PeerId> = self.kept.keys().filter(|peer| !peers.contains(peer)).copied().collect();
        for peer in gone {
            self.kept.remove(&peer);
            self.swarm.behaviour_mut().limits.remove_peer_id(&peer);
        }
        for peer in peers {
            self.keep(peer);
        }
        self.redial(Instant::now());
    }

    fn keep(&mut self, peer: PeerId) {
        if peer == *self.swarm.local_peer_id() {
            return;
        }
        self.swarm.behaviour_mut().limits.bypass_peer_id(&peer);
        self.kept.entry(peer).or_insert(Kept { next: Instant::now(), wait: REDIAL });
    }

    fn redial(&mut self, now: Instant) {
        let mut due = Vec::new();
        for (peer, kept) in &mut self.kept {
            if self.connected.contains_key(peer) {
                kept.wait = REDIAL;
            } else if kept.next <= now {
                kept.next = now + kept.wait;
                kept.wait = (kept.wait * 2).min(REDIAL_MAX);
                due.push(*peer);
            }
        }
        for peer in due {
            self.dial(peer);
        }
    }

    fn dial(&mut self, peer: PeerId) {
        let dial = DialOpts::peer_id(peer).condition(PeerCondition::DisconnectedAndNotDialing).build();
        if let Err(error) = self.swarm.dial(dial) {
            tracing::trace!(%peer, %error, "not dialled");
        }
    }

    /// Ends connections on which answers are owed and nothing comes. Two peers that upload to each other over Yamux can
    /// block each other for good (rust-yamux#227); a new connection sets them free, and a dead peer is found out sooner.
    fn drop_silent(&mut self, now: Instant) {
        let mut owed: BTreeMap<PeerId, (u64, Instant)> = BTreeMap::new();
        for pending in self.pending.values().filter(|pending| pending.bulk) {
            let (received, asked_at) = owed.entry(pending.peer).or_insert((0, pending.asked_at));
            *received += pending.exchange.received();
            *asked_at = (*asked_at).max(pending.asked_at);
        }
        for (peer, (received, asked_at)) in owed {
            let Some(connected) = self.connected.get_mut(&peer) else { continue };
            if received != connected.received {
                connected.received = received;
                connected.heard_at = now;
            }
            let heard_at = connected.heard_at.max(connected.since).max(asked_at);
            if now.duration_since(heard_at) >= self.config.silence {
                tracing::warn!(%peer, silence = ?self.config.silence, "a peer owes answers and is silent: reconnecting");
                for pending in self.pending.values_mut().filter(|pending| pending.peer == peer) {
                    pending.silent = true;
                }
                // Already closing is as good as closed.
                let _ = self.swarm.disconnect_peer_id(peer);
            }
        }
    }

    fn heard(&mut self, peer: PeerId) {
        if let Some(connected) = self.connected.get_mut(&peer) {
            connected.heard_at = Instant::now();
        }
    }

    fn tell_connected(&self) {
        let connected: BTreeSet<DeviceId> = self.connected.keys().filter_map(device_of).collect();
        self.status.send_if_modified(|status| {
            let changed = status.connected != connected;
            status.connected = connected;
            changed
        });
    }
}

fn why(pending: &Pending, error: OutboundFailure) -> AskError {
    if pending.exchange.is_cancelled() {
        return AskError::Cancelled;
    }
    if pending.silent {
        return AskError::Silent;
    }
    match error {
        OutboundFailure::DialFailure => AskError::Unreachable,
        OutboundFailure::Timeout => AskError::Silent,
        OutboundFailure::UnsupportedProtocols => AskError::Malformed("it does not speak our protocol".to_owned()),
        OutboundFailure::Io(error) if error.kind() == io::ErrorKind::InvalidData => {
            AskError::Malformed(error.to_string())
        }
        OutboundFailure::ConnectionClosed | OutboundFailure::Io(_) => AskError::Closed,
    }
}
