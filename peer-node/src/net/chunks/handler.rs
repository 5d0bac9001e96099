//! One connection's part of the chunk protocol: opens the stream for our questions, takes the one for the other side's.

use std::sync::Arc;
use std::task::{Context, Poll};

use libp2p::StreamProtocol;
use libp2p::core::upgrade::ReadyUpgrade;
use libp2p::swarm::handler::{
    ConnectionEvent, DialUpgradeError, FullyNegotiatedInbound, FullyNegotiatedOutbound, ListenUpgradeError,
};
use libp2p::swarm::{ConnectionHandler, ConnectionHandlerEvent, Stream, StreamUpgradeError, SubstreamProtocol};
use swarm_proto::id::DeviceId;
use swarm_proto::wire;

use super::answering::Answering;
use super::asking::{Asking, Broken};
use super::exchange::Question;
use super::{Fault, Shared};
use crate::net::AskError;

const PROTOCOL: StreamProtocol = StreamProtocol::new(wire::PROTOCOL);
/// Streams that the other side may open one after the other: each replaces the one before. One is enough.
const STREAMS_MAX: u32 = 64;

/// The stream for our questions.
enum Outbound {
    None,
    Requested,
    Open(Stream),
}

/// One connection.
pub(in crate::net) struct Handler {
    /// None if the other side is no device: then it is not answered.
    device: Option<DeviceId>,
    shared: Arc<Shared>,
    asking: Asking,
    outbound: Outbound,
    answering: Option<(Stream, Answering)>,
    /// Streams opened by the other side.
    opened: u32,
    fault: Option<Fault>,
}

impl Handler {
    pub(super) fn new(device: Option<DeviceId>, shared: Arc<Shared>) -> Self {
        let asking = Asking::new(shared.clone());
        Self { device, shared, asking, outbound: Outbound::None, answering: None, opened: 0, fault: None }
    }

    fn on_inbound(&mut self, mut stream: Stream) {
        stream.ignore_for_keep_alive();
        self.opened += 1;
        if self.opened > STREAMS_MAX {
            self.fault = Some(Fault::Streams);
        } else if let Some(device) = self.device {
            // An asker that lost its stream opens another before we know of the loss.
            self.answering = Some((stream, Answering::new(device, self.shared.clone())));
        }
    }

    fn on_broken(&mut self, broken: Broken) {
        self.outbound = Outbound::None;
        let (error, fault) = match broken {
            Broken::Closed => (AskError::Closed, None),
            Broken::Silent => (AskError::Silent, Some(Fault::Silent)),
            Broken::Malformed(why) => (AskError::Malformed(why.clone()), Some(Fault::Malformed(why))),
        };
        self.asking.end(&error);
        self.fault = self.fault.take().or(fault);
    }
}

impl ConnectionHandler for Handler {
    type FromBehaviour = Question;
    type ToBehaviour = Fault;
    type InboundProtocol = ReadyUpgrade<StreamProtocol>;
    type OutboundProtocol = ReadyUpgrade<StreamProtocol>;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = ();

    fn listen_protocol(&self) -> SubstreamProtocol<Self::InboundProtocol> {
        SubstreamProtocol::new(ReadyUpgrade::new(PROTOCOL), ())
    }

    /// Streams stay open; it is questions that keep a connection.
    fn connection_keep_alive(&self) -> bool {
        self.asking.is_busy() || self.answering.as_ref().is_some_and(|(_, answering)| answering.is_busy())
    }

    fn on_behaviour_event(&mut self, question: Question) {
        self.asking.push(question);
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<ConnectionHandlerEvent<Self::OutboundProtocol, (), Self::ToBehaviour>> {
        if let Some((stream, answering)) = &mut self.answering
            && let Poll::Ready(fault) = answering.poll(cx, stream)
        {
            self.answering = None;
            self.fault = self.fault.take().or(fault);
        }
        match &mut self.outbound {
            Outbound::Open(stream) => {
                if let Poll::Ready(broken) = self.asking.poll(cx, stream) {
                    self.on_broken(broken);
                }
            }
            Outbound::Requested => self.asking.poll_without_stream(cx),
            Outbound::None => {
                self.asking.poll_without_stream(cx);
                if self.asking.is_busy() {
                    self.outbound = Outbound::Requested;
                    let protocol = SubstreamProtocol::new(ReadyUpgrade::new(PROTOCOL), ());
                    return Poll::Ready(ConnectionHandlerEvent::OutboundSubstreamRequest { protocol });
                }
            }
        }
        match self.fault.take() {
            Some(fault) => Poll::Ready(ConnectionHandlerEvent::NotifyBehaviour(fault)),
            None => Poll::Pending,
        }
    }

    fn on_connection_event(&mut self, event: ConnectionEvent<'_, Self::InboundProtocol, Self::OutboundProtocol>) {
        match event {
            ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound { protocol, .. }) => {
                self.on_inbound(protocol);
            }
            ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound { protocol: mut stream, .. }) => {
                stream.ignore_for_keep_alive();
                self.outbound = Outbound::Open(stream);
            }
            ConnectionEvent::DialUpgradeError(DialUpgradeError { error, .. }) => {
                self.outbound = Outbound::None;
                self.asking.end(&match error {
                    StreamUpgradeError::NegotiationFailed => {
                        AskError::Malformed("it does not speak our protocol".to_owned())
                    }
                    StreamUpgradeError::Timeout => AskError::Silent,
                    StreamUpgradeError::Io(_) => AskError::Closed,
                    StreamUpgradeError::Apply(never) => match never {},
                });
            }
            ConnectionEvent::ListenUpgradeError(ListenUpgradeError { error, .. }) => match error {},
            _ => {}
        }
    }
}
