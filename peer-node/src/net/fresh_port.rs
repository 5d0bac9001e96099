//! Dials from a port of its own, never from the one that is listened on.
//!
//! libp2p would dial from the listening port. Two devices that want something of each other dial at the same moment,
//! as plans make them do; from their listening ports that is one TCP connection with two initiators (RFC 9293, section
//! 3.5, simultaneous open), in which both wait for the other to begin the handshake. Both fail, both come back after
//! the same pause, and they never meet. Two ports make two connections, of which one is one too many and harmless.

use std::pin::Pin;
use std::task::{Context, Poll};

use libp2p::core::transport::{DialOpts, ListenerId, PortUse, TransportError, TransportEvent};
use libp2p::multiaddr::Multiaddr;

/// A transport that dials from fresh ports.
pub(super) struct Transport<T>(pub(super) T);

impl<T: libp2p::core::Transport + Unpin> libp2p::core::Transport for Transport<T> {
    type Output = T::Output;
    type Error = T::Error;
    type ListenerUpgrade = T::ListenerUpgrade;
    type Dial = T::Dial;

    fn listen_on(&mut self, id: ListenerId, address: Multiaddr) -> Result<(), TransportError<T::Error>> {
        self.0.listen_on(id, address)
    }

    fn remove_listener(&mut self, id: ListenerId) -> bool {
        self.0.remove_listener(id)
    }

    fn dial(&mut self, address: Multiaddr, options: DialOpts) -> Result<T::Dial, TransportError<T::Error>> {
        self.0.dial(address, DialOpts { port_use: PortUse::New, ..options })
    }

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<TransportEvent<T::ListenerUpgrade, T::Error>> {
        Pin::new(&mut self.0).poll(context)
    }
}
