//! Carries the chunk protocol: one long-lived stream for what we ask a peer, one for what it asks us.
//!
//! Questions go to the connection that a peer has, or wait until it has one; answers come back to whoever asked without
//! passing the swarm's task. Every question gets exactly one answer or one [`AskError`]. A peer that owes bytes and sends
//! none, does not take what it asked for, or sends what is no frame, loses its connection.

mod answering;
mod asking;
mod exchange;
mod handler;

use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use libp2p::core::Endpoint;
use libp2p::core::transport::PortUse;
use libp2p::swarm::dial_opts::DialOpts;
use libp2p::swarm::{
    CloseConnection, ConnectionDenied, ConnectionId, DialError, FromSwarm, NetworkBehaviour, NotifyHandler,
    PeerAddresses, THandler, THandlerInEvent, THandlerOutEvent, ToSwarm,
};
use libp2p::{Multiaddr, PeerId};
use tokio::sync::mpsc;

pub use self::answering::Responder;
pub use self::exchange::Exchange;
pub(super) use self::exchange::Question;
use self::handler::Handler;
use super::peer_id::device_of;
use super::throttle::Throttle;
use super::{AskError, Inbound};
use crate::buffers::Buffers;

/// Peers whose addresses are remembered for dialling.
const ADDRESSES_OF: NonZeroUsize = NonZeroUsize::new(1_024).expect("not zero");
/// Questions that wait for a connection to their peer; for all peers together.
const WAITING_MAX: usize = 1_024;

/// What all connections share.
#[derive(Debug)]
pub(super) struct Shared {
    /// Where questions of others go.
    pub(super) inbound: mpsc::Sender<Inbound>,
    /// What all answers together may take.
    pub(super) throttle: Throttle,
    /// Where chunks are received.
    pub(super) buffers: Buffers,
    /// How long a peer that owes bytes may send none.
    pub(super) silence: Duration,
}

/// Why a connection must end.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Fault {
    /// It owes answers and nothing comes. Two peers that upload to each other over Yamux can block each other for good
    /// (rust-yamux#227); a new connection sets them free, and a dead peer is found out sooner.
    #[error("it owes answers and is silent")]
    Silent,
    /// It does not read what it has asked for, or does not finish what it says.
    #[error("it does not take its answers, or does not finish its questions")]
    Stalled,
    /// It sends what is no frame of the protocol.
    #[error("it does not speak our protocol: {0}")]
    Malformed(String),
    /// It opens one stream after the other.
    #[error("it has opened too many streams")]
    Streams,
}

/// libp2p's side of the chunk protocol.
pub(super) struct Behaviour {
    shared: Arc<Shared>,
    /// The connections that each peer has, the oldest first.
    connections: BTreeMap<PeerId, Vec<ConnectionId>>,
    /// Questions to peers that are being dialled.
    waiting: BTreeMap<PeerId, Vec<Question>>,
    n_waiting: usize,
    addresses: PeerAddresses,
    actions: VecDeque<ToSwarm<Infallible, Question>>,
    waker: Option<Waker>,
}

impl Behaviour {
    pub(super) fn new(shared: Shared) -> Self {
        Self {
            shared: Arc::new(shared),
            connections: BTreeMap::new(),
            waiting: BTreeMap::new(),
            n_waiting: 0,
            addresses: PeerAddresses::new(ADDRESSES_OF),
            actions: VecDeque::new(),
            waker: None,
        }
    }

    /// Asks a peer; connects to it first if need be.
    pub(super) fn ask(&mut self, peer: PeerId, question: Question) {
        if let Some(connection) = self.connections.get(&peer).and_then(|all| all.first()) {
            self.pass_on(peer, *connection, question);
        } else if self.n_waiting >= WAITING_MAX {
            question.answer(Err(AskError::TooMany));
        } else {
            let waiting = self.waiting.entry(peer).or_default();
            if waiting.is_empty() {
                self.actions.push_back(ToSwarm::Dial { opts: DialOpts::peer_id(peer).build() });
            }
            waiting.push(question);
            self.n_waiting += 1;
        }
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    fn pass_on(&mut self, peer_id: PeerId, connection: ConnectionId, event: Question) {
        let handler = NotifyHandler::One(connection);
        self.actions.push_back(ToSwarm::NotifyHandler { peer_id, handler, event });
    }

    fn take_waiting(&mut self, peer: &PeerId) -> Vec<Question> {
        let waiting = self.waiting.remove(peer).unwrap_or_default();
        self.n_waiting -= waiting.len();
        waiting
    }

    fn handler(&self, peer: &PeerId) -> Handler {
        Handler::new(device_of(peer), self.shared.clone())
    }
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = Handler;
    type ToSwarm = Infallible;

    fn handle_pending_outbound_connection(
        &mut self,
        _: ConnectionId,
        peer: Option<PeerId>,
        _: &[Multiaddr],
        _: Endpoint,
    ) -> Result<Vec<Multiaddr>, ConnectionDenied> {
        Ok(peer.map(|peer| self.addresses.get(&peer).collect()).unwrap_or_default())
    }

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(self.handler(&peer))
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(self.handler(&peer))
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        self.addresses.on_swarm_event(&event);
        match event {
            FromSwarm::ConnectionEstablished(event) => {
                self.connections.entry(event.peer_id).or_default().push(event.connection_id);
                for question in self.take_waiting(&event.peer_id) {
                    self.pass_on(event.peer_id, event.connection_id, question);
                }
            }
            FromSwarm::ConnectionClosed(event) => {
                if let Some(all) = self.connections.get_mut(&event.peer_id) {
                    all.retain(|connection| *connection != event.connection_id);
                    if all.is_empty() {
                        self.connections.remove(&event.peer_id);
                    }
                }
            }
            // One that failed because another is under way says nothing about that one.
            FromSwarm::DialFailure(event) if !matches!(event.error, DialError::DialPeerConditionFalse(_)) => {
                let waiting = event.peer_id.map(|peer| self.take_waiting(&peer));
                for question in waiting.unwrap_or_default() {
                    question.answer(Err(AskError::Unreachable));
                }
            }
            _ => {}
        }
    }

    fn on_connection_handler_event(&mut self, peer_id: PeerId, id: ConnectionId, fault: THandlerOutEvent<Self>) {
        tracing::warn!(peer = %peer_id, %fault, "a peer is disconnected");
        self.actions.push_back(ToSwarm::CloseConnection { peer_id, connection: CloseConnection::One(id) });
        // What is asked from now on needs another one.
        if let Some(all) = self.connections.get_mut(&peer_id)
            && all.len() > 1
        {
            all.retain(|connection| *connection != id);
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ToSwarm<Infallible, THandlerInEvent<Self>>> {
        if let Some(action) = self.actions.pop_front() {
            return Poll::Ready(action);
        }
        self.waker = Some(cx.waker().clone());
        Poll::Pending
    }
}

#[cfg(test)]
mod tests;
