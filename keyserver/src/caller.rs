//! Who calls: a device that proves its key, with a membership that a trusted tracker has signed.
//!
//! Both come with every call, as metadata, and are checked before anything else. The account is the one the membership
//! names; nothing in a request can say otherwise.

use std::collections::BTreeSet;
use std::sync::Arc;

use swarm_proto::call::{self, CallError, CallToken, MAX_LIFE};
use swarm_proto::id::ServerId;
use swarm_proto::invalid::Invalid;
use swarm_proto::keyserver::grants::Asker;
use swarm_proto::membership::{CLOCK_TOLERANCE, Membership};
use swarm_proto::signed::{Signed, Statement};
use swarm_proto::time::Utc;
use swarm_proto::wrap::HpkePublic;
use tonic::Status;
use tonic::metadata::MetadataMap;

use crate::refusals::unauthenticated;
use crate::vault::ring::KeyRing;
use crate::witnesses::Witnesses;

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
#[derive(Clone)]
pub(crate) struct Doorkeeper {
    keys: Arc<KeyRing>,
    trackers: BTreeSet<ServerId>,
    witnesses: Arc<Witnesses>,
}

impl Doorkeeper {
    pub(crate) fn new(
        keys: Arc<KeyRing>,
        trackers: impl IntoIterator<Item = ServerId>,
        witnesses: Witnesses,
    ) -> Doorkeeper {
        Doorkeeper { keys, trackers: trackers.into_iter().collect(), witnesses: Arc::new(witnesses) }
    }

    /// The device behind a call.
    pub(crate) fn admit(&self, metadata: &MetadataMap, now: Utc) -> Result<Caller, Status> {
        let token: Signed<CallToken> = carried(metadata, call::METADATA_KEY)?;
        let keys = self.keys.now();
        let proof = match CallToken::verify(&token, &keys.server(), now) {
            Err(CallError::OtherAudience(called)) => CallToken::verify(&token, &keys.name_for(&called, now), now),
            verified => verified,
        };
        let proof = proof.map_err(|error| {
            if matches!(error, CallError::TooEarly(_) | CallError::Expired(_)) {
                self.hear_refused(metadata, &token);
            }
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
        self.witnesses.hear(membership.account, proof.until.minus(MAX_LIFE + CLOCK_TOLERANCE));
        let asker = Asker { account: membership.account, device, kind: membership.kind };
        Ok(Caller { asker, hpke: membership.hpke })
    }
}

impl Doorkeeper {
    /// Notes the date of a token that has made a call fail: that is when it matters.
    fn hear_refused(&self, metadata: &MetadataMap, token: &Signed<CallToken>) {
        let heard = || {
            let dated = token.verify(&token.signer()).ok()?;
            let membership: Signed<Membership> = carried(metadata, MEMBERSHIP_KEY).ok()?;
            let tracker = self.trackers.get(&membership.signer())?;
            let membership = membership.verify(tracker).ok()?;
            (membership.device == dated.device).then_some((membership.account, dated.issued))
        };
        if let Some((account, dated)) = heard() {
            self.witnesses.hear(account, dated);
        }
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
