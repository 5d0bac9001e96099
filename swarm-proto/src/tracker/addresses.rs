//! Which addresses of a device are handed out, and to whom.
//!
//! A device says on which addresses it listens; the tracker sees from which IP address it speaks. Only the ports of
//! what it says are believed: they are joined with the address that was seen, so that nobody can aim the swarm at a
//! stranger. Loopback and private addresses are handed out only to askers that were seen on such an address
//! themselves.

use core::net::IpAddr;
use std::fmt;

/// Addresses of one device that are kept.
pub const MAX_ADDRESSES: usize = 16;

/// Longest address that is looked at.
pub const MAX_ADDRESS_BYTES: usize = 256;

/// A way to connect: what follows the IP address in a multiaddr.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Port {
    /// `/tcp/PORT`
    Tcp(u16),
    /// `/udp/PORT/quic-v1`
    Quic(u16),
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Port::Tcp(port) => write!(f, "/tcp/{port}"),
            Port::Quic(port) => write!(f, "/udp/{port}/quic-v1"),
        }
    }
}

/// Where a device listens, as far as it can be believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reachable {
    observed: IpAddr,
    ports: Vec<Port>,
}

impl Reachable {
    /// Joins the address that a device was seen at with the ports it says it listens on.
    ///
    /// What is no direct address of a transport of ours (relays, names, port zero) is left out: a device may well
    /// listen on more than we hand out.
    pub fn new<'a>(observed: IpAddr, listening: impl IntoIterator<Item = &'a str>) -> Reachable {
        let observed = observed.to_canonical();
        let mut ports: Vec<Port> = listening
            .into_iter()
            .take(MAX_ADDRESSES)
            .filter(|text| text.len() <= MAX_ADDRESS_BYTES)
            .filter_map(|text| port_of(text, &observed))
            .collect();
        ports.sort_unstable();
        ports.dedup();
        Reachable { observed, ports }
    }

    /// The address the device was seen at.
    pub fn observed(&self) -> IpAddr {
        self.observed
    }

    /// The multiaddrs that an asker seen at this address may dial.
    pub fn for_asker(&self, asker: IpAddr) -> Vec<String> {
        if !may_dial(asker.to_canonical(), self.observed) {
            return Vec::new();
        }
        let version = if self.observed.is_ipv4() { "ip4" } else { "ip6" };
        self.ports.iter().map(|port| format!("/{version}/{}{port}", self.observed)).collect()
    }
}

/// The port of a multiaddr like `/ip4/0.0.0.0/tcp/7100`, if the device listens there for those who see it as it was
/// seen: on any address of the same version, or on that very address, or behind a router on a private one.
fn port_of(text: &str, observed: &IpAddr) -> Option<Port> {
    let mut parts = text.strip_prefix('/')?.split('/');
    let version = parts.next()?;
    let ip: IpAddr = parts.next()?.parse().ok()?;
    let matches_version = match version {
        "ip4" => ip.is_ipv4(),
        "ip6" => ip.is_ipv6(),
        _ => false,
    };
    // Loopback means: only from the same machine.
    let listens_for_it = !ip.is_loopback() || observed.is_loopback();
    if !matches_version || ip.is_multicast() || ip.is_ipv4() != observed.is_ipv4() || !listens_for_it {
        return None;
    }
    let port = match (parts.next()?, parts.next()?.parse().ok()?, parts.next()) {
        ("tcp", port, None) => Port::Tcp(port),
        ("udp", port, Some("quic-v1")) => Port::Quic(port),
        _ => return None,
    };
    let rest: Vec<&str> = parts.collect();
    let is_direct = matches!(rest[..], [] | ["p2p", _]);
    (is_direct && port != Port::Tcp(0) && port != Port::Quic(0)).then_some(port)
}

fn may_dial(asker: IpAddr, target: IpAddr) -> bool {
    if target.is_unspecified() || target.is_multicast() || is_broadcast(target) {
        return false;
    }
    if target.is_loopback() {
        return asker.is_loopback();
    }
    !is_private(target) || is_private(asker) || asker.is_loopback()
}

fn is_broadcast(ip: IpAddr) -> bool {
    matches!(ip, IpAddr::V4(ip) if ip.is_broadcast())
}

fn is_private(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_private() || ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unique_local() || ip.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    fn handed_out(observed: &str, listening: &[&str], asker: &str) -> Vec<String> {
        Reachable::new(ip(observed), listening.iter().copied()).for_asker(ip(asker))
    }

    #[test]
    fn ports_are_joined_with_the_address_that_was_seen() {
        let listening = ["/ip4/0.0.0.0/tcp/7100", "/ip4/0.0.0.0/udp/7100/quic-v1"];
        let expected = ["/ip4/198.51.100.7/tcp/7100", "/ip4/198.51.100.7/udp/7100/quic-v1"];
        assert_eq!(handed_out("198.51.100.7", &listening, "203.0.113.9"), expected);
    }

    #[test]
    fn nobody_can_aim_the_swarm_at_a_stranger() {
        let addresses = handed_out("198.51.100.7", &["/ip4/192.0.2.1/tcp/25"], "203.0.113.9");
        assert_eq!(addresses, ["/ip4/198.51.100.7/tcp/25"]);
    }

    #[test]
    fn loopback_is_for_the_same_machine_only() {
        let listening = ["/ip4/127.0.0.1/tcp/7100"];
        assert_eq!(handed_out("127.0.0.1", &listening, "127.0.0.1"), ["/ip4/127.0.0.1/tcp/7100"]);
        assert!(handed_out("127.0.0.1", &listening, "203.0.113.9").is_empty());
        assert!(handed_out("198.51.100.7", &listening, "203.0.113.9").is_empty());
    }

    #[test]
    fn private_addresses_are_for_private_askers_only() {
        let listening = ["/ip4/192.168.1.5/tcp/7100"];
        assert_eq!(handed_out("192.168.1.5", &listening, "192.168.1.6"), ["/ip4/192.168.1.5/tcp/7100"]);
        assert!(handed_out("192.168.1.5", &listening, "203.0.113.9").is_empty());
    }

    #[test]
    fn address_seen_through_an_ipv6_socket_is_the_ipv4_address_it_is() {
        let addresses = handed_out("::ffff:198.51.100.7", &["/ip4/0.0.0.0/tcp/7100"], "::ffff:203.0.113.9");
        assert_eq!(addresses, ["/ip4/198.51.100.7/tcp/7100"]);
    }

    #[test]
    fn what_is_no_direct_address_is_left_out() {
        let odd = [
            "",
            "nonsense",
            "/dns4/example.org/tcp/7100",
            "/ip4/0.0.0.0/tcp/0",
            "/ip4/0.0.0.0/tcp/70000",
            "/ip4/0.0.0.0/udp/7100",
            "/ip4/0.0.0.0/tcp/7100/ws",
            "/ip4/1.2.3.4/tcp/1/p2p/12D3Koo/p2p-circuit",
            "/ip4/224.0.0.1/tcp/7100",
            "/ip6/::/tcp/7100",
            "/ip4/::/tcp/7100",
        ];
        assert!(handed_out("198.51.100.7", &odd, "203.0.113.9").is_empty());
    }

    #[test]
    fn nothing_is_handed_out_for_addresses_that_nobody_can_have() {
        for observed in ["0.0.0.0", "255.255.255.255", "224.0.0.1"] {
            assert!(handed_out(observed, &["/ip4/0.0.0.0/tcp/7100"], "127.0.0.1").is_empty(), "{observed}");
        }
    }
}
