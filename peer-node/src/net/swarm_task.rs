//! The task that owns the libp2p `Swarm`.
//!
//! One loop: waits for a command, an event of the swarm or the clock, then acts without waiting. Questions pass through
//! it on their way to a connection; answers and the questions of others do not.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use futures::StreamExt as _;
use libp2p::kad::store::RecordStore as _;
use libp2p::kad::{self, QueryId, RecordKey};
use libp2p::swarm::SwarmEvent;
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::{Multiaddr, PeerId, identify};
use swarm_proto::id::DeviceId;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::behaviour::{BehaviourEvent, KAD_PROTOCOL};
use super::peer_id::device_of;
use super::routing::Routing;
use super::{Command, Config, NetSwarm, ProviderKey, Status, address};

/// How often kept peers are dialled.
const TICK: Duration = Duration::from_secs(1);
/// A kept peer that cannot be reached is tried again after this, doubled each time up to [`REDIAL_MAX`].
const REDIAL: Duration = Duration::from_secs(1);
const REDIAL_MAX: Duration = Duration::from_secs(60);
/// Addresses of one peer that are taken from anyone at a time.
const ADDRESSES_PER_PEER: usize = 16;
/// Providers dialled for one question.
const PROVIDERS_DIALLED: usize = 16;
/// Announcements that are repeated at once when the first peer appears; others wait for their turn.
const UNHEARD_MAX: usize = 256;
/// As long as a provider record lives.
const RECORDS_LIVE: Duration = Duration::from_secs(30 * 60);

/// When a kept peer is dialled again.
struct Kept {
    next: Instant,
    wait: Duration,
}

pub(super) struct SwarmTask {
    swarm: NetSwarm,
    config: Config,
    commands: mpsc::Receiver<Command>,
    status: watch::Sender<Status>,
    connected: BTreeSet<PeerId>,
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
        status: watch::Sender<Status>,
    ) -> Self {
        Self {
            swarm,
            config,
            commands,
            status,
            connected: BTreeSet::new(),
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
            Command::Ask { peer, question } => self.swarm.behaviour_mut().chunks.ask(peer, question),
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
                self.connected.insert(peer_id);
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
            if self.connected.contains(peer) {
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

    fn tell_connected(&self) {
        let connected: BTreeSet<DeviceId> = self.connected.iter().filter_map(device_of).collect();
        self.status.send_if_modified(|status| {
            let changed = status.connected != connected;
            status.connected = connected;
            changed
        });
    }
}
