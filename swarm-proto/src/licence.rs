//! The clocks of a released key, as a keyserver says them.
//!
//! A licence names one order, one device, one item and the spans its key opens. All moments are judged with the trusted
//! time that the caller brings (signed server time plus what has passed since), never with a clock that the viewer can
//! set. Windows include their beginning and exclude their end. When a right ends is computed here and nowhere else:
//! [`Licence::expiry`] is what the box judges by and what every screen shows.

use std::ops::Range;
use std::time::Duration;

use prost::Message as _;

use crate::catalog::{Policy, period};
use crate::drip::Drip;
use crate::geometry::MAX_SPANS;
use crate::id::{DeviceId, ItemId, OrderId, ServerId};
use crate::invalid::{Invalid, id, positive, present};
use crate::limit::{self, Limit};
use crate::pb::common as pb;
use crate::seal::KeyCommitment;
use crate::signed::{Signed, Statement};
use crate::time::Utc;
use crate::wrap;

/// The rules by which this code reads a licence that comes with a key.
pub const POLICY_VERSION: u32 = 1;

/// The rules of a licence whose keys leave span by span: a reader that knows only the others must not read it.
pub const DRIP_POLICY_VERSION: u32 = 2;

/// How far past `finish_within` a viewing under way may run when the licence finishes softly: the longest film there is,
/// with an interval. A bound all the same, so that a player left on pause does not make a purchase of a rental.
pub const SOFT_FINISH: Duration = Duration::from_secs(6 * 60 * 60);

/// What a released key may be used for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Licence {
    /// Unique per keyserver.
    pub serial: u64,
    /// The purchase.
    pub order: OrderId,
    /// The one device that can unwrap the key.
    pub device: DeviceId,
    /// What it opens.
    pub item: ItemId,
    /// To which key the catalog entry commits.
    pub commitment: KeyCommitment,
    /// Which spans it opens; never empty.
    pub spans: Range<u32>,
    /// The viewing period begins.
    pub not_before: Limit<Utc>,
    /// The viewing period ends.
    pub not_after: Limit<Utc>,
    /// The first play begins before this.
    pub start_by: Limit<Utc>,
    /// Playing ends this long after the first play.
    pub finish_within: Limit<Duration>,
    /// A viewing under way when that time is over may be watched to its end, for [`SOFT_FINISH`] at most.
    pub soft_finish: bool,
    /// A fresh licence is due this long after `issued`.
    pub renew_after: Limit<Duration>,
    /// The device may still play this long after the renewal was due.
    pub offline_grace: Limit<Duration>,
    /// When the keyserver said all this.
    pub issued: Utc,
    /// By which rules to read it.
    pub policy_version: u32,
    /// When the title was first played under this order, on whichever device, as far as the keyserver has heard.
    pub first_play: Option<Utc>,
    /// Its keys leave span by span, at this pace; else the whole key comes with the licence.
    pub drip: Option<Drip>,
}

/// What the licence belongs to: the purchase, and who may use it for what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject {
    /// The purchase.
    pub order: OrderId,
    /// For which device.
    pub device: DeviceId,
    /// For which item.
    pub item: ItemId,
    /// To which key the catalog entry commits.
    pub commitment: KeyCommitment,
    /// Which spans; never empty.
    pub spans: Range<u32>,
}

/// Why nothing is shown now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// Wait until then.
    #[error("the viewing period begins at {0}")]
    TooEarly(Utc),
    /// Over for good. Offer to buy again.
    #[error("the viewing period ended at {0}")]
    TooLate(Utc),
    /// Over for good. Offer to buy again.
    #[error("the title had to be started before {0}")]
    NotStarted(Utc),
    /// Over for good. Offer to buy again.
    #[error("the title had to be finished before {0}")]
    Finished(Utc),
    /// Ask the keyserver for a fresh licence, then play.
    #[error("the licence had to be renewed before {0}: connect to the Internet and try again")]
    RenewalOverdue(Utc),
}

impl Licence {
    /// What a purchase gives at the moment of its first grant: the offer's clocks, counted from `granted`.
    ///
    /// A renewal keeps `granted`, so that `start_by` does not move, and brings a later `issued`. Of a first play the
    /// keyserver may hear later: then it sets `first_play`.
    pub fn new(serial: u64, subject: Subject, policy: &Policy, granted: Utc, issued: Utc) -> Self {
        Self {
            serial,
            order: subject.order,
            device: subject.device,
            item: subject.item,
            commitment: subject.commitment,
            spans: subject.spans,
            not_before: policy.not_before,
            not_after: policy.not_after,
            start_by: policy.start_by.map(|within| granted + within),
            finish_within: policy.finish_within,
            soft_finish: policy.soft_finish,
            renew_after: policy.renew_after,
            offline_grace: policy.offline_grace,
            issued,
            policy_version: if policy.drip.is_some() { DRIP_POLICY_VERSION } else { POLICY_VERSION },
            first_play: None,
            drip: policy.drip,
        }
    }

    /// When the title was first played: the earliest of what the keyserver and this device know.
    pub fn first_play(&self, here: Option<Utc>) -> Option<Utc> {
        self.first_play.into_iter().chain(here).min()
    }

    /// The effective expiry: from this moment on no viewing begins, unless a fresh licence moves it.
    ///
    /// `first_play` is when this device first played the title, if it did.
    pub fn expiry(&self, first_play: Option<Utc>) -> Limit<Utc> {
        earliest(self.ends(self.rental(self.first_play(first_play))))
    }

    /// When a viewing that began in time has to end.
    pub fn viewing_ends(&self, first_play: Utc) -> Limit<Utc> {
        earliest(self.ends(self.viewing(first_play)))
    }

    /// Whether the key may be used at all at this moment: the viewing period, and the time offline.
    pub fn allows(&self, utc: Utc) -> Result<(), Denied> {
        self.allows_until(utc, (Limit::Unlimited, Denied::Finished))
    }

    /// Whether a viewing may begin.
    pub fn allows_start(&self, utc: Utc, first_play: Option<Utc>) -> Result<(), Denied> {
        self.allows_until(utc, self.rental(self.first_play(first_play)))
    }

    /// Whether a viewing that began in time may go on.
    ///
    /// With `soft_finish` it may be watched past `finish_within`, never past the viewing period.
    pub fn allows_continue(&self, utc: Utc, first_play: Utc) -> Result<(), Denied> {
        self.allows_until(utc, self.viewing(first_play))
    }

    /// When a fresh licence should be asked for.
    pub fn renewal_due(&self) -> Limit<Utc> {
        self.renew_after.map(|after| self.issued + after)
    }

    /// Until when the key may be used without a fresh licence.
    pub fn offline_until(&self) -> Limit<Utc> {
        match (self.renewal_due(), self.offline_grace) {
            (Limit::Of(due), Limit::Of(grace)) => Limit::Of(due + grace),
            _ => Limit::Unlimited,
        }
    }

    /// The AAD of the wrapped key that comes with this licence.
    pub fn grant_aad(&self, signed: &Signed<Self>) -> [u8; 144] {
        wrap::grant_aad(&self.order, &self.device, &self.item, &self.commitment, &signed.payload_hash())
    }

    /// The end that the rental itself has: counted from the first play, or the last moment for that.
    fn rental(&self, first_play: Option<Utc>) -> End {
        match first_play {
            Some(begun) => (self.finish_within.map(|within| begun + within), Denied::Finished),
            None => (self.start_by, Denied::NotStarted),
        }
    }

    fn viewing(&self, first_play: Utc) -> End {
        let more = if self.soft_finish { SOFT_FINISH } else { Duration::ZERO };
        let (end, denied) = self.rental(self.first_play(Some(first_play)));
        (end.map(|end| end + more), denied)
    }

    /// Every end there is, those that are for good first.
    fn ends(&self, rental: End) -> [End; 3] {
        [(self.not_after, Denied::TooLate), rental, (self.offline_until(), Denied::RenewalOverdue)]
    }

    fn allows_until(&self, utc: Utc, rental: End) -> Result<(), Denied> {
        if let Limit::Of(begin) = self.not_before
            && utc < begin
        {
            return Err(Denied::TooEarly(begin));
        }
        let passed = self
            .ends(rental)
            .into_iter()
            .find_map(|(end, denied)| Some((end.bound()?, denied)).filter(|(end, _)| utc >= *end));
        passed.map_or(Ok(()), |(end, denied)| Err(denied(end)))
    }
}

/// A moment at which a right ends, and what that is called.
type End = (Limit<Utc>, fn(Utc) -> Denied);

fn earliest(ends: [End; 3]) -> Limit<Utc> {
    ends.into_iter().filter_map(|(end, _)| end.bound()).min().map_or(Limit::Unlimited, Limit::Of)
}

impl Statement for Licence {
    const CONTEXT: &'static str = "licence";
    type Signer = ServerId;

    fn encode(&self) -> Vec<u8> {
        pb::Licence {
            serial: self.serial,
            order_id: self.order.to_vec(),
            device_id: self.device.to_vec(),
            item_id: self.item.to_vec(),
            commitment: self.commitment.to_vec(),
            spans: Some(pb::SpanRange { first: self.spans.start, count: self.spans.len() as u32 }),
            not_before: Some(self.not_before.into()),
            not_after: Some(self.not_after.into()),
            start_by: Some(self.start_by.into()),
            finish_within: Some(self.finish_within.into()),
            soft_finish: self.soft_finish,
            renew_after: Some(self.renew_after.into()),
            offline_grace: Some(self.offline_grace.into()),
            issued_utc_ms: self.issued.as_millis(),
            policy_version: self.policy_version,
            first_play_utc_ms: self.first_play.map(Utc::as_millis),
            drip: self.drip.map(Into::into),
        }
        .encode_to_vec()
    }

    fn decode(bytes: &[u8]) -> Result<Self, Invalid> {
        let message = pb::Licence::decode(bytes).map_err(|error| Invalid::new(Self::CONTEXT, error.to_string()))?;
        let drip = message.drip.map(Drip::try_from).transpose().map_err(|error| error.inside("drip"))?;
        match (message.policy_version, drip) {
            (POLICY_VERSION, None) | (DRIP_POLICY_VERSION, Some(_)) => {}
            (POLICY_VERSION, Some(_)) => return Err(Invalid::new("drip", "belongs to another policy_version")),
            (DRIP_POLICY_VERSION, None) => return Err(Invalid::new("drip", "is missing")),
            _ => return Err(Invalid::new("policy_version", "is not known: update this program")),
        }
        let (not_before, not_after) = period(message.not_before, message.not_after)?;
        Ok(Self {
            serial: positive("serial", message.serial)?,
            order: id("order_id", &message.order_id)?,
            device: id("device_id", &message.device_id)?,
            item: id("item_id", &message.item_id)?,
            commitment: id("commitment", &message.commitment)?,
            spans: spans(present("spans", message.spans)?)?,
            not_before,
            not_after,
            start_by: limit::moment("start_by", message.start_by)?,
            finish_within: limit::duration("finish_within", message.finish_within)?,
            soft_finish: message.soft_finish,
            renew_after: limit::duration("renew_after", message.renew_after)?,
            offline_grace: limit::duration("offline_grace", message.offline_grace)?,
            issued: limit::utc("issued_utc_ms", message.issued_utc_ms)?,
            policy_version: message.policy_version,
            first_play: message.first_play_utc_ms.map(|first| limit::utc("first_play_utc_ms", first)).transpose()?,
            drip,
        })
    }
}

fn spans(range: pb::SpanRange) -> Result<Range<u32>, Invalid> {
    let end = range.first.checked_add(range.count).filter(|end| range.count > 0 && *end <= MAX_SPANS);
    let end =
        end.ok_or_else(|| Invalid::new("spans", format!("must be at least one of the spans 0 to {MAX_SPANS}")))?;
    Ok(range.first..end)
}
