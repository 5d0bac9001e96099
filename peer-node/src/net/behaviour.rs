//! The libp2p `Swarm` of a device: transports, behaviours and their limits.
//!
//! Nearly every default of these libraries is unbounded or too wide; each number here replaces one of them.

use std::time::Duration;

use libp2p::core::muxing::StreamMuxerBox;
use libp2p::core::transport::{Boxed, OrTransport, global_only};
use libp2p::core::upgrade::Version;
use libp2p::identity::Keypair;
use libp2p::kad::store::{MemoryStore, MemoryStoreConfig};
use libp2p::swarm::NetworkBehaviour;
use libp2p::{
    PeerId, StreamProtocol, Swarm, Transport, allow_block_list, connection_limits, identify, kad,
    memory_connection_limits, ping, quic, tcp,
};

use super::chunks::{self, Shared};
use super::muxer::{self, STREAMS};
use super::noise::{self, Suite};
use super::{Config, doors, fresh_port};

/// The swarm's own Kademlia: strangers of the public network have no business here.
pub(super) const KAD_PROTOCOL: StreamProtocol = StreamProtocol::new("/reelswarm/kad/1");
const IDENTIFY_PROTOCOL: &str = "/reelswarm/id/1";
/// Says what it is and nothing about its build.
const AGENT: &str = "reelswarm";

/// A connection is made and secured within this time.
const HANDSHAKE_WITHIN: Duration = Duration::from_secs(10);
/// A connection that nobody uses is closed.
const IDLE: Duration = Duration::from_secs(120);
const PENDING_IN: u32 = 32;
const PENDING_OUT: u32 = 32;
const CONNECTIONS_PER_PEER: u32 = 2;
/// Of the machine's memory; beyond it no connection is made.
const MEMORY_SHARE: f64 = 0.75;
const QUIC_STREAM_BYTES: u32 = 2 << 20;
const QUIC_CONNECTION_BYTES: u32 = 6 << 20;
const KAD_PACKET_BYTES: usize = 16 << 10;
const KAD_QUERY_WITHIN: Duration = Duration::from_secs(20);
/// A provider that does not say so again is forgotten.
const PROVIDER_TTL: Duration = Duration::from_secs(30 * 60);
const PROVIDE_EVERY: Duration = Duration::from_secs(10 * 60);
/// Keys with providers that the store keeps: our own, and what `routing` admits of others.
const PROVIDED_KEYS: usize = 65_536;

#[derive(NetworkBehaviour)]
pub(super) struct Behaviour {
    pub(super) limits: connection_limits::Behaviour,
    doors: doors::Behaviour,
    memory: memory_connection_limits::Behaviour,
    pub(super) blocked: allow_block_list::Behaviour<allow_block_list::BlockedPeers>,
    pub(super) identify: identify::Behaviour,
    ping: ping::Behaviour,
    pub(super) kad: kad::Behaviour<MemoryStore>,
    pub(super) chunks: chunks::Behaviour,
}

/// A swarm that listens nowhere yet.
pub(super) fn build(keypair: &Keypair, config: &Config, shared: Shared) -> anyhow::Result<Swarm<Behaviour>> {
    let peer = keypair.public().to_peer_id();
    let transport = transport(keypair, config.private_addresses)?;
    let behaviour = Behaviour {
        limits: connection_limits::Behaviour::new(
            connection_limits::ConnectionLimits::default()
                .with_max_pending_incoming(Some(PENDING_IN))
                .with_max_pending_outgoing(Some(PENDING_OUT))
                .with_max_established_incoming(Some(config.connections_in))
                .with_max_established(Some(config.connections))
                .with_max_established_per_peer(Some(CONNECTIONS_PER_PEER)),
        ),
        doors: doors::Behaviour::default(),
        memory: memory_connection_limits::Behaviour::with_max_percentage(MEMORY_SHARE),
        blocked: allow_block_list::Behaviour::default(),
        identify: identify::Behaviour::new(
            identify::Config::new(IDENTIFY_PROTOCOL.to_owned(), keypair.public())
                .with_agent_version(AGENT.to_owned())
                .with_hide_listen_addrs(true)
                .with_push_listen_addr_updates(true),
        ),
        ping: ping::Behaviour::default(),
        kad: kademlia(peer, config.kad_server),
        chunks: chunks::Behaviour::new(shared),
    };
    let swarm = libp2p::swarm::Config::with_tokio_executor()
        .with_idle_connection_timeout(IDLE)
        .with_dial_concurrency_factor(1.try_into()?)
        .with_max_negotiating_inbound_streams(STREAMS);
    Ok(Swarm::new(transport, behaviour, peer, swarm))
}

fn transport(keypair: &Keypair, private: bool) -> anyhow::Result<Boxed<(PeerId, StreamMuxerBox)>> {
    let secured = noise::Config::new(keypair, Suite::of_this_machine())?;
    let tcp = fresh_port::Transport(tcp::tokio::Transport::new(tcp::Config::new().nodelay(true)))
        .upgrade(Version::V1Lazy)
        .authenticate(secured)
        .multiplex(muxer::Config::default())
        .timeout(HANDSHAKE_WITHIN)
        .map(|(peer, muxer), _| (peer, StreamMuxerBox::new(muxer)));
    let mut config = quic::Config::new(keypair);
    config.max_concurrent_stream_limit = STREAMS as u32;
    config.max_stream_data = QUIC_STREAM_BYTES;
    config.max_connection_data = QUIC_CONNECTION_BYTES;
    let quic = quic::tokio::Transport::new(config).map(|(peer, muxer), _| (peer, StreamMuxerBox::new(muxer)));
    let both = OrTransport::new(tcp, quic).map(|either, _| either.into_inner()).boxed();
    Ok(if private { both } else { global_only::Transport::new(both).boxed() })
}

fn kademlia(peer: PeerId, server: bool) -> kad::Behaviour<MemoryStore> {
    let store = MemoryStoreConfig {
        // Provider records only; none of anything else.
        max_records: 0,
        max_value_bytes: 0,
        max_provided_keys: PROVIDED_KEYS,
        ..MemoryStoreConfig::default()
    };
    let mut config = kad::Config::new(KAD_PROTOCOL);
    config
        .set_query_timeout(KAD_QUERY_WITHIN)
        .disjoint_query_paths(true)
        .set_record_filtering(kad::StoreInserts::FilterBoth)
        .set_record_ttl(None)
        .set_replication_interval(None)
        .set_publication_interval(None)
        .set_caching(kad::Caching::Disabled)
        .set_provider_record_ttl(Some(PROVIDER_TTL))
        .set_provider_publication_interval(Some(PROVIDE_EVERY))
        .set_max_packet_size(KAD_PACKET_BYTES)
        .set_kbucket_inserts(kad::BucketInserts::Manual);
    let mut kad = kad::Behaviour::with_config(peer, MemoryStore::with_config(peer, store), config);
    kad.set_mode(Some(if server { kad::Mode::Server } else { kad::Mode::Client }));
    kad
}
