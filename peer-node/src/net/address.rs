//! Which addresses are spoken to, and which are told to others.
//!
//! A peer may claim any address as its own; a swarm that dialled them all would be a cannon for whoever aims it. Private
//! and loopback addresses are left alone unless the device is told that its swarm lives there; unspecified, multicast
//! and broadcast ones always are.

use std::net::IpAddr;

use libp2p::Multiaddr;
use libp2p::PeerId;
use libp2p::multiaddr::Protocol;

/// The IP address a multiaddr begins with.
pub(super) fn ip(address: &Multiaddr) -> Option<IpAddr> {
    match address.iter().next()? {
        Protocol::Ip4(ip) => Some(ip.into()),
        Protocol::Ip6(ip) => Some(ip.to_canonical()),
        _ => None,
    }
}

/// Whether the address may be dialled and passed on.
pub(super) fn is_allowed(address: &Multiaddr, private: bool) -> bool {
    let Some(ip) = ip(address) else { return false };
    let nowhere = ip.is_unspecified() || ip.is_multicast() || matches!(ip, IpAddr::V4(ip) if ip.is_broadcast());
    !nowhere && (private || !is_private(ip))
}

/// Whether the address is loopback.
pub(super) fn is_loopback(address: &Multiaddr) -> bool {
    ip(address).is_some_and(|ip| ip.is_loopback())
}

/// Splits `/p2p/…` off the end.
pub(super) fn split_peer(mut address: Multiaddr) -> Option<(PeerId, Multiaddr)> {
    match address.pop()? {
        Protocol::P2p(peer) if !address.is_empty() => Some((peer, address)),
        _ => None,
    }
}

/// The address without `/p2p/…`.
pub(super) fn without_peer(address: &Multiaddr) -> Multiaddr {
    address.iter().filter(|part| !matches!(part, Protocol::P2p(_))).collect()
}

/// TCP carries the bulk at half the work of QUIC, so it is tried first.
pub(super) fn prefer_tcp(addresses: &mut [Multiaddr]) {
    addresses.sort_by_key(|address| !address.iter().any(|part| matches!(part, Protocol::Tcp(_))));
}

/// The network a routing table must not be full of: /24 or /48.
pub(super) fn neighbourhood(address: &Multiaddr) -> Option<Vec<u8>> {
    match ip(address)? {
        ip if is_private(ip) => None,
        IpAddr::V4(ip) => Some(ip.octets()[..3].to_vec()),
        IpAddr::V6(ip) => Some(ip.octets()[..6].to_vec()),
    }
}

fn is_private(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => {
            let [a, b, ..] = ip.octets();
            let shared = a == 100 && (64..128).contains(&b);
            ip.is_loopback() || ip.is_private() || ip.is_link_local() || ip.is_documentation() || shared || a == 0
        }
        IpAddr::V6(ip) => ip.is_loopback() || ip.is_unique_local() || ip.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed(address: &str, private: bool) -> bool {
        is_allowed(&address.parse().expect("a multiaddr"), private)
    }

    #[test]
    fn private_addresses_need_leave_and_nowhere_is_never_dialled() {
        for address in ["/ip4/127.0.0.1/tcp/1", "/ip4/192.168.1.2/tcp/1", "/ip4/100.64.0.1/tcp/1", "/ip6/::1/tcp/1"] {
            assert!(!allowed(address, false), "{address}");
            assert!(allowed(address, true), "{address}");
        }
        for address in ["/ip4/0.0.0.0/tcp/1", "/ip4/224.0.0.1/udp/1", "/ip4/255.255.255.255/tcp/1", "/ip6/::/tcp/1"] {
            assert!(!allowed(address, true), "{address}");
        }
        assert!(allowed("/ip4/8.8.8.8/tcp/1", false));
        assert!(!allowed("/dns4/example.org/tcp/1", true), "names are not resolved");
        assert!(!allowed("/ip6/::ffff:127.0.0.1/tcp/1", false), "a mapped address is what it maps to");
    }

    #[test]
    fn tcp_comes_first() {
        let mut addresses: Vec<Multiaddr> = ["/ip4/8.8.8.8/udp/1/quic-v1", "/ip4/8.8.8.8/tcp/1"]
            .map(|address| address.parse().expect("a multiaddr"))
            .to_vec();
        prefer_tcp(&mut addresses);
        assert_eq!(addresses[0].to_string(), "/ip4/8.8.8.8/tcp/1");
    }
}
