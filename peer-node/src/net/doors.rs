//! How many strangers of one address may stand at the door at a time.
//!
//! Securing a connection costs a signature and some curve arithmetic. Who opens connections and never finishes them takes
//! the places of everybody else (there are few, `net/behaviour.rs`); so one address gets but some of them, and more are
//! turned away before any of that work. Of IPv6, a /64 counts as one address: a household has that many. Loopback is not
//! counted: who is there already has the machine.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::{IpAddr, Ipv6Addr};
use std::task::{Context, Poll};

use libp2p::core::Endpoint;
use libp2p::core::transport::PortUse;
use libp2p::swarm::{
    ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, THandler, THandlerInEvent, THandlerOutEvent, ToSwarm,
    dummy,
};
use libp2p::{Multiaddr, PeerId};

use super::address;

/// Connections of one address that are being secured.
const PENDING_MAX: usize = 8;
/// The bits of an IPv6 address that tell one household from another.
const HOUSEHOLD: u128 = !0 << 64;

/// Turned away: too many others of this address are being let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{PENDING_MAX} connections of {0} are being secured")]
struct Crowded(IpAddr);

/// Counts who stands at the door.
#[derive(Debug, Default)]
pub(super) struct Behaviour {
    /// Bounded by the connections that may be pending in all.
    pending: BTreeMap<ConnectionId, IpAddr>,
}

impl Behaviour {
    fn admit(&mut self, id: ConnectionId, from: &Multiaddr) -> Result<(), Crowded> {
        let Some(ip) = address::ip(from).filter(|ip| !ip.is_loopback()) else { return Ok(()) };
        let ip = match ip {
            IpAddr::V4(_) => ip,
            IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() & HOUSEHOLD).into(),
        };
        if self.pending.values().filter(|other| **other == ip).count() >= PENDING_MAX {
            return Err(Crowded(ip));
        }
        self.pending.insert(id, ip);
        Ok(())
    }

    fn leave(&mut self, id: ConnectionId) {
        self.pending.remove(&id);
    }
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = dummy::ConnectionHandler;
    type ToSwarm = Infallible;

    fn handle_pending_inbound_connection(
        &mut self,
        id: ConnectionId,
        _: &Multiaddr,
        from: &Multiaddr,
    ) -> Result<(), ConnectionDenied> {
        self.admit(id, from).map_err(ConnectionDenied::new)
    }

    fn handle_established_inbound_connection(
        &mut self,
        id: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.leave(id);
        Ok(dummy::ConnectionHandler)
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(dummy::ConnectionHandler)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        match event {
            FromSwarm::ConnectionEstablished(event) => self.leave(event.connection_id),
            FromSwarm::ListenFailure(event) => self.leave(event.connection_id),
            _ => {}
        }
    }

    fn on_connection_handler_event(&mut self, _: PeerId, _: ConnectionId, event: THandlerOutEvent<Self>) {
        match event {}
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Infallible, THandlerInEvent<Self>>> {
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(address: &str) -> Multiaddr {
        address.parse().expect("an address")
    }

    #[test]
    fn one_address_takes_but_some_of_the_places_and_gets_them_back() {
        let mut doors = Behaviour::default();
        let crowd: Vec<ConnectionId> = (0..PENDING_MAX).map(ConnectionId::new_unchecked).collect();
        for id in &crowd {
            assert_eq!(doors.admit(*id, &from("/ip4/8.8.8.8/tcp/1")), Ok(()));
        }
        let next = ConnectionId::new_unchecked(100);
        assert!(doors.admit(next, &from("/ip4/8.8.8.8/tcp/2")).is_err());
        assert_eq!(doors.admit(next, &from("/ip4/8.8.4.4/udp/2/quic-v1")), Ok(()), "a neighbour is let in");
        doors.leave(crowd[3]);
        assert_eq!(doors.admit(crowd[3], &from("/ip4/8.8.8.8/tcp/3")), Ok(()));
    }

    #[test]
    fn a_household_with_many_addresses_is_one() {
        let mut doors = Behaviour::default();
        for at in 0..PENDING_MAX {
            let address = from(&format!("/ip6/2001:db8:0:1::{at}/tcp/1"));
            assert_eq!(doors.admit(ConnectionId::new_unchecked(at), &address), Ok(()));
        }
        let next = ConnectionId::new_unchecked(100);
        assert!(doors.admit(next, &from("/ip6/2001:db8:0:1:ffff::1/tcp/1")).is_err());
        assert_eq!(doors.admit(next, &from("/ip6/2001:db8:0:2::1/tcp/1")), Ok(()));
    }

    #[test]
    fn who_is_on_this_machine_is_not_counted() {
        let mut doors = Behaviour::default();
        for at in 0..10 * PENDING_MAX {
            assert_eq!(doors.admit(ConnectionId::new_unchecked(at), &from("/ip4/127.0.0.1/tcp/1")), Ok(()));
        }
    }
}
