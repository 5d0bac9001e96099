//! Who gets into our Kademlia tables, and with how much.
//!
//! A routing table full of one network's peers is the beginning of an eclipse, and a store without quotas is a dump.
//! Counts only; the tables themselves are libp2p's.

use std::collections::{BTreeMap, BTreeSet};

use libp2p::{Multiaddr, PeerId};

use super::address;

/// Peers of one /24 (or /48) in the routing table.
const PEERS_PER_NEIGHBOURHOOD: usize = 2;
/// Records that one provider may keep with us.
const RECORDS_PER_PROVIDER: usize = 512;
/// Records of others that we keep.
const RECORDS: usize = 8_192;

/// What has been let in.
#[derive(Debug, Default)]
pub(super) struct Routing {
    neighbourhoods: BTreeMap<Vec<u8>, BTreeSet<PeerId>>,
    records: BTreeMap<PeerId, BTreeSet<Vec<u8>>>,
    n_records: usize,
}

impl Routing {
    /// Whether a peer may enter the routing table under this address.
    pub(super) fn admit_peer(&mut self, peer: PeerId, address: &Multiaddr) -> bool {
        let Some(neighbourhood) = address::neighbourhood(address) else { return true };
        let peers = self.neighbourhoods.entry(neighbourhood).or_default();
        if peers.len() >= PEERS_PER_NEIGHBOURHOOD && !peers.contains(&peer) {
            return false;
        }
        peers.insert(peer);
        true
    }

    /// The peer has left the routing table.
    pub(super) fn remove_peer(&mut self, peer: &PeerId) {
        self.neighbourhoods.retain(|_, peers| {
            peers.remove(peer);
            !peers.is_empty()
        });
    }

    /// Whether a provider record may be kept.
    pub(super) fn admit_record(&mut self, provider: PeerId, key: &[u8]) -> bool {
        let keys = self.records.entry(provider).or_default();
        if keys.contains(key) {
            return true;
        }
        if keys.len() >= RECORDS_PER_PROVIDER || self.n_records >= RECORDS {
            return false;
        }
        keys.insert(key.to_vec());
        self.n_records += 1;
        true
    }

    /// Forgets all records, as their time is over: those still valid come again before it is.
    pub(super) fn expire_records(&mut self) {
        self.records.clear();
        self.n_records = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_network_gets_two_places_and_leaving_frees_one() {
        let mut routing = Routing::default();
        let address: Multiaddr = "/ip4/8.8.8.8/tcp/1".parse().expect("a multiaddr");
        let [a, b, c] = [PeerId::random(), PeerId::random(), PeerId::random()];
        assert!(routing.admit_peer(a, &address));
        assert!(routing.admit_peer(b, &address));
        assert!(!routing.admit_peer(c, &address));
        assert!(routing.admit_peer(a, &address), "who is in stays in");
        routing.remove_peer(&b);
        assert!(routing.admit_peer(c, &address));
    }

    #[test]
    fn one_provider_cannot_fill_the_store() {
        let mut routing = Routing::default();
        let flooder = PeerId::random();
        let kept = (0..100_000u32).filter(|n| routing.admit_record(flooder, &n.to_be_bytes())).count();
        assert_eq!(kept, RECORDS_PER_PROVIDER);
        assert!(routing.admit_record(PeerId::random(), b"other"));
    }
}
