//! Who calls: a device that proves its key, with a membership that a trusted tracker has signed.
//!
//! Both come with every call, as metadata, and are checked before anything else. The account is the one the membership
//! names; nothing in a request can say otherwise.

use std::collections::BTreeSet;

use swarm_proto::call::{self, CallToken};
use swarm_proto::id::ServerId;
use swarm_proto::invalid::Invalid;
use swarm_proto::keyserver::grants::Asker;
use swarm_proto::membership::Membership;
use swarm_proto::signed::{Signed, Statement};
use swarm_proto::time::Utc;
use swarm_proto::wrap::HpkePublic;
use tonic::Status;
use tonic::metadata::MetadataMap;

use crate::refusals::unauthenticated;

/// The metadata key that carries a membership as text.
pub(crate) const MEMBERSHIP_KEY: &str = "reelswarm-membership";

/// A device that has proven who it is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Caller {
    /// Device, account, and what the device is there for.
    pub(crate) asker: Asker,
    /// Where grants for it are wrapped to.
    pub(crate) hpke: HpkePublic,
}

/// Decides whom to believe.
#[derive(Debug, Clone)]
pub(crate) struct Doorkeeper {
    server: ServerId,
    trackers: BTreeSet<ServerId>,
}

impl Doorkeeper {
    pub(crate) fn new(server: ServerId, trackers: impl IntoIterator<Item = ServerId>) -> Doorkeeper {
        Doorkeeper { server, trackers: trackers.into_iter().collect() }
    }

    /// The device behind a call.
    pub(crate) fn admit(&self, metadata: &MetadataMap, now: Utc) -> Result<Caller, Status> {
        let token: Signed<CallToken> = carried(metadata, call::METADATA_KEY)?;
        let proof = CallToken::verify(&token, &self.server, now).map_err(|error| {
            unauthenticated(error, "make a fresh call token for this keyserver, and check the clock")
        })?;
        let device = proof.device;
        let membership: Signed<Membership> = carried(metadata, MEMBERSHIP_KEY)?;
        let tracker = membership.signer();
        if !self.trackers.contains(&tracker) {
            let why = format!("the membership is signed by {tracker}, which this keyserver does not trust");
            return Err(unauthenticated(why, "the operator names a tracker in trusted_trackers"));
        }
        let membership = membership
            .verify(&tracker)
            .map_err(|error| unauthenticated(error, "get a fresh membership from the tracker"))?;
        if membership.device != device {
            return Err(unauthenticated("the membership belongs to another device", "send the caller's own"));
        }
        if !membership.is_valid_at(now) {
            let why = format!("the membership holds from {} to {}", membership.issued, membership.expires);
            return Err(unauthenticated(why, "get a fresh membership from the tracker, and check the clock"));
        }
        let asker = Asker { account: membership.account, device, kind: membership.kind };
        Ok(Caller { asker, hpke: membership.hpke })
    }
}

fn carried<T: Statement>(metadata: &MetadataMap, key: &'static str) -> Result<Signed<T>, Status> {
    let refuse = |why: String| unauthenticated(why, "send it as base64url of the signed message, without padding");
    let mut values = metadata.get_all(key).iter();
    let value = values.next().ok_or_else(|| refuse(format!("there is no {key} with the call")))?;
    if values.next().is_some() {
        return Err(refuse(format!("there is more than one {key} with the call")));
    }
    let text = value.to_str().map_err(|_| refuse(format!("{key} is not text")))?;
    Signed::from_text(text).map_err(|error: Invalid| refuse(format!("{key}: {error}")))
}
