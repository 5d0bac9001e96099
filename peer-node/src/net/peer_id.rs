//! The one place where libp2p's name for a device and ours become each other.
//!
//! Both are the same Ed25519 key: a `PeerId` of an Ed25519 key holds the key itself. Other kinds of key have no place in
//! this swarm.

use libp2p::PeerId;
use libp2p::identity::{PublicKey, ed25519};
use swarm_proto::id::DeviceId;

/// What multiformats call "the digest is the data".
const IDENTITY_CODE: u64 = 0;

/// The device behind a peer; `None` unless its key is Ed25519.
pub fn device_of(peer: &PeerId) -> Option<DeviceId> {
    let hash = peer.as_ref();
    if hash.code() != IDENTITY_CODE {
        return None;
    }
    let key = PublicKey::try_decode_protobuf(hash.digest()).ok()?.try_into_ed25519().ok()?;
    Some(DeviceId::from_bytes(key.to_bytes()))
}

/// The peer that a device is; `None` if the id is not a point on the curve, hence nobody's key.
pub fn peer_of(device: &DeviceId) -> Option<PeerId> {
    let key = ed25519::PublicKey::try_from_bytes(device.as_bytes()).ok()?;
    Some(PublicKey::from(key).to_peer_id())
}

#[cfg(test)]
mod tests {
    use libp2p::identity::Keypair;

    use super::*;

    #[test]
    fn a_device_and_its_peer_name_each_other() {
        let peer = Keypair::generate_ed25519().public().to_peer_id();
        let device = device_of(&peer).expect("an Ed25519 peer is a device");
        assert_eq!(peer_of(&device), Some(peer));
    }

    #[test]
    fn a_peer_without_a_key_inside_is_no_device() {
        // A hashed key, as RSA peers have.
        let peer: PeerId = "QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N".parse().expect("a peer id");
        assert_eq!(device_of(&peer), None);
    }
}
