//! Keys that leave span by span: under an order that drips, and for nothing as a preview.
//!
//! Each release is judged anew: paid, not refunded or disputed, inside every clock of the licence, a device that has a
//! grant that counts. The journal says in advance, a good many spans at a time, how many may leave; of a preview it
//! says who had it, once a day for each title, and a device has only so many of them a day.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{Answer, Contradiction, Item, Ledger, NO_ORDER, unless};
use crate::drip::Drip;
use crate::id::{DeviceId, ItemId, OrderId};
use crate::keyserver::drips::ALLOWANCE;
use crate::keyserver::grants::{self, Asker, GrantRefusal};
use crate::keyserver::record::{Record, SealedKey};
use crate::keyserver::refusals::{Full, LookRefusal, PreviewRefusal, SpanRefusal};
use crate::membership::DeviceKind;
use crate::seal::KeyCommitment;
use crate::time::Utc;

/// Previews of different titles that a device may have in a day. Who looks for a film tonight tries a few.
pub const MAX_PREVIEWS_A_DAY: usize = 50;

/// Previews remembered at a time: twenty thousand devices that have all of theirs.
const MAX_PREVIEWS: usize = 1_000_000;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Whose keys may leave, and how the daemon gets at them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpanRight {
    /// The sealed file.
    pub item: ItemId,
    /// To which key its entry commits.
    pub commitment: KeyCommitment,
    /// How many spans it has.
    pub n_spans: u32,
    /// For the vault to open.
    pub key: SealedKey,
}

/// Previews by device and item, with when the keyserver gave them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Previews {
    by_device: BTreeMap<DeviceId, BTreeMap<ItemId, Utc>>,
    count: usize,
}

impl Previews {
    pub(super) const fn new() -> Self {
        Self { by_device: BTreeMap::new(), count: 0 }
    }

    /// When a device was last given a preview of an item, if that counts still.
    fn of(&self, now: Utc, device: &DeviceId) -> impl Iterator<Item = (ItemId, Utc)> {
        let all = self.by_device.get(device).into_iter().flatten();
        all.map(|(item, at)| (*item, *at)).filter(move |(_, at)| now.since(*at) < DAY)
    }

    /// Whether there is no room, not even after forgetting those of yesterday.
    fn is_full(&self, now: Utc) -> bool {
        let mut all = self.by_device.values().flat_map(BTreeMap::values);
        self.count >= MAX_PREVIEWS && !all.any(|at| now.since(*at) >= DAY)
    }

    fn insert(&mut self, at: Utc, device: DeviceId, item: ItemId) {
        if self.count >= MAX_PREVIEWS {
            self.by_device.values_mut().for_each(|items| items.retain(|_, given| at.since(*given) < DAY));
            self.by_device.retain(|_, items| !items.is_empty());
            self.count = self.by_device.values().map(BTreeMap::len).sum();
        }
        let items = self.by_device.entry(device).or_default();
        let before = items.len();
        items.retain(|_, given| at.since(*given) < DAY);
        items.insert(item, at);
        self.count = self.count + items.len() - before;
    }
}

impl Ledger {
    /// Whether keys of spans may leave for a device under an order now, and at which pace.
    pub fn may_drip(&self, now: Utc, asker: &Asker, order: OrderId) -> Result<(Drip, SpanRight), SpanRefusal> {
        let found = self.order(&asker.account, &order)?;
        if self.is_revoked(&asker.device) {
            return Err(GrantRefusal::DeviceRevoked.into());
        }
        grants::judge(found, asker, now, self.config.open_for, usize::MAX)?;
        let drip = found.policy.drip.ok_or(SpanRefusal::WholeKey)?;
        if !self.has_grant(found, &asker.device) {
            return Err(SpanRefusal::NoGrant);
        }
        let id = found.item().ok_or(GrantRefusal::NotATitle)?;
        let item = self.items.get(&id).ok_or(GrantRefusal::NotATitle)?;
        let grant = &found.grants()[&asker.device];
        let licence = grants::licence(found, asker.device, grant, item.commitment, item.n_spans);
        match licence.first_play {
            Some(first) => licence.allows_continue(now, first)?,
            None => licence.allows_start(now, None)?,
        }
        Ok((drip, right(id, item)))
    }

    /// Lets so many more keys leave for a device under an order as one record covers.
    pub fn allow_spans(&mut self, now: Utc, asker: &Asker, order: OrderId) -> Result<Answer<()>, SpanRefusal> {
        self.may_drip(now, asker, order)?;
        let device = asker.device;
        let total = self.orders[&order].grants()[&device].spans_allowed + u64::from(ALLOWANCE);
        Ok(self.enter(now, Record::SpansAllowed { order, device, total }, |_| ()))
    }

    /// The beginning of a title for a device, for nothing: how many spans. The same one again is not counted again.
    pub fn request_preview(
        &mut self,
        now: Utc,
        asker: &Asker,
        item: ItemId,
    ) -> Result<Answer<(u32, SpanRight)>, PreviewRefusal> {
        if asker.kind != DeviceKind::Box {
            return Err(PreviewRefusal::NotABox);
        }
        if self.is_revoked(&asker.device) {
            return Err(PreviewRefusal::DeviceRevoked);
        }
        let known = self.items.get(&item).ok_or(PreviewRefusal::NoSuchItem)?;
        let open = known.terms.offers.iter().filter(|offer| offer.policy.may_grant_at(now));
        let spans = open.filter_map(|offer| offer.preview).map(|preview| preview.spans()).max();
        let spans = spans.filter(|spans| *spans < known.n_spans).ok_or(PreviewRefusal::NoPreview)?;
        let reply = (spans, right(item, known));
        let today: Vec<(ItemId, Utc)> = self.previews.of(now, &asker.device).collect();
        if today.iter().any(|(given, _)| *given == item) {
            return Ok(Answer::unchanged(reply));
        }
        if let Some(first) = today.iter().map(|(_, at)| *at).min().filter(|_| today.len() >= MAX_PREVIEWS_A_DAY) {
            return Err(PreviewRefusal::TooMany(first + DAY));
        }
        if self.previews.is_full(now) {
            return Err(Full { what: "previews of today", limit: MAX_PREVIEWS }.into());
        }
        Ok(self.enter(now, Record::PreviewGiven { item, device: asker.device }, |_| reply))
    }

    /// Whether a preview is remembered.
    pub fn knows_preview(&self, item: &ItemId, device: &DeviceId) -> bool {
        self.previews.by_device.get(device).is_some_and(|items| items.contains_key(item))
    }

    pub(super) fn apply_preview(&mut self, at: Utc, item: ItemId, device: DeviceId) -> Result<(), Contradiction> {
        unless(!self.items.contains_key(&item), "the item is not known")?;
        self.previews.insert(at, device, item);
        Ok(())
    }

    pub(super) fn apply_allowance(
        &mut self,
        at: Utc,
        order: &OrderId,
        device: &DeviceId,
        total: u64,
    ) -> Result<(), Contradiction> {
        let found = self.orders.get_mut(order).ok_or(NO_ORDER)?;
        unless(found.policy.drip.is_none(), "spans of an order leave whose whole key has left")?;
        unless(found.refund().is_some(), "spans leave for an order that is refunded")?;
        unless(found.dues.is_disputed(), "spans leave for an order that is disputed")?;
        unless(grants::check_period(&found.policy, at).is_err(), "spans leave outside the viewing period")?;
        let grant = found.grants_mut().get_mut(device).ok_or(Contradiction("the device has no grant"))?;
        unless(total <= grant.spans_allowed, "fewer spans may leave than before")?;
        grant.spans_allowed = total;
        Ok(())
    }
}

fn right(id: ItemId, item: &Item) -> SpanRight {
    SpanRight { item: id, commitment: item.commitment, n_spans: item.n_spans, key: item.key.clone() }
}

impl From<LookRefusal> for SpanRefusal {
    fn from(refusal: LookRefusal) -> Self {
        Self::Grant(match refusal {
            LookRefusal::NoSuchOrder => GrantRefusal::NoSuchOrder,
            LookRefusal::OtherAccount => GrantRefusal::OtherAccount,
        })
    }
}
