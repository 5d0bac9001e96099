//! What becomes of keys that have left: who plays, which device takes another's place, what is taken back.
//!
//! What is taken back is never taken back silently: every licence that no longer counts is in the list of its device,
//! from the record that made it so.

use std::collections::{BTreeMap, BTreeSet};

use super::{Answer, Contradiction, Ledger, NO_ORDER, unless};
use crate::id::{DeviceId, OrderId};
use crate::keyserver::grants::{self, Asker, GrantRefusal};
use crate::keyserver::orders::Order;
use crate::keyserver::record::{Reason, Record, WithdrawnBy};
use crate::keyserver::refusals::{LookRefusal, PlayRefusal, ReplaceRefusal, WithdrawRefusal};
use crate::licence::Licence;
use crate::revocations::{MAX_SERIALS, Revocations};
use crate::time::Utc;

/// What a device may no longer use.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Revoked {
    version: u64,
    all: bool,
    serials: BTreeSet<u64>,
}

/// Lists by device.
pub(super) type RevokedByDevice = BTreeMap<DeviceId, Revoked>;

impl Ledger {
    /// Whether a device may play what it has under an order. The first word that it does starts the clock of a rental
    /// for every device of the account; `first_play` is when the device says that it began.
    pub fn report_play(
        &mut self,
        now: Utc,
        asker: &Asker,
        order: OrderId,
        first_play: Utc,
    ) -> Result<Answer<()>, PlayRefusal> {
        let found = self.order(&asker.account, &order)?;
        if self.is_revoked(&asker.device) {
            return Err(PlayRefusal::DeviceRevoked);
        }
        let grant = found.grants().get(&asker.device).filter(|grant| !self.withdrawn(&asker.device, grant.serial));
        let grant = grant.ok_or(PlayRefusal::NoGrant)?;
        if found.first_play().is_some() {
            return Ok(Answer::unchanged(()));
        }
        // A box that was offline says so later; neither its clock nor its owner moves the window out of the rental.
        let first_play = first_play.clamp(grant.first.min(now), now);
        Ok(self.enter(now, Record::FirstPlayed { order, device: asker.device, first_play }, |_| ()))
    }

    /// Takes the place of a device that is lost or broken: its licence no longer counts, and the asker may have a key.
    pub fn replace_device(
        &mut self,
        now: Utc,
        asker: &Asker,
        order: OrderId,
        lost: DeviceId,
    ) -> Result<Answer<()>, ReplaceRefusal> {
        let found = self.orders.get(&order).ok_or(GrantRefusal::NoSuchOrder)?;
        if self.is_revoked(&asker.device) {
            return Err(GrantRefusal::DeviceRevoked.into());
        }
        grants::judge(found, asker, now, self.config.open_for, usize::MAX)?;
        if !found.grants().contains_key(&lost) {
            return Err(ReplaceRefusal::NoSuchDevice);
        }
        if lost == asker.device {
            return Err(ReplaceRefusal::Itself);
        }
        if let Some(again) = self.next_replacement(now, found) {
            return Err(ReplaceRefusal::TooOften(again));
        }
        let by = WithdrawnBy::Device(asker.device);
        Ok(self.enter(now, Record::GrantWithdrawn { order, device: lost, by }, |_| ()))
    }

    /// Takes a key back from a device on the operator's word.
    pub fn withdraw_grant(
        &mut self,
        now: Utc,
        order: OrderId,
        device: DeviceId,
        reason: Reason,
    ) -> Result<Answer<()>, WithdrawRefusal> {
        let found = self.orders.get(&order).ok_or(LookRefusal::NoSuchOrder)?;
        if !found.grants().contains_key(&device) {
            return Err(WithdrawRefusal::NoGrant);
        }
        let by = WithdrawnBy::Operator(reason);
        Ok(self.enter(now, Record::GrantWithdrawn { order, device, by }, |_| ()))
    }

    /// Never lets a key leave for a device again, and takes back what it has. A second word changes nothing.
    pub fn revoke_device(&mut self, now: Utc, device: DeviceId, reason: Reason) -> Answer<()> {
        match self.is_revoked(&device) {
            true => Answer::unchanged(()),
            false => self.enter(now, Record::DeviceRevoked { device, reason }, |_| ()),
        }
    }

    /// What a device may no longer use; `None` while nothing was ever taken from it.
    pub fn revocations(&self, now: Utc, device: &DeviceId) -> Option<Revocations> {
        let Revoked { version, all, serials } = self.revoked.get(device)?.clone();
        Some(Revocations { device: *device, version, issued: now, all, serials })
    }

    /// The licences that count under an order, one for each device, as they would be issued again.
    pub fn licences(&self, order: &Order) -> Vec<Licence> {
        let Some(item) = order.item().and_then(|item| self.items.get(&item)) else { return Vec::new() };
        let counts = order.grants().iter().filter(|(device, grant)| !self.withdrawn(device, grant.serial));
        counts.map(|(device, grant)| grants::licence(order, *device, grant, item.commitment, item.n_spans)).collect()
    }

    /// Whether something may still be watched under an order, now or later.
    pub fn may_watch(&self, now: Utc, asker: &Asker, order: &Order) -> bool {
        let judged = grants::judge(order, asker, now, self.config.open_for, usize::MAX);
        let finish = order.first_play().zip(order.policy.finish_within.bound()).map(|(first, within)| first + within);
        matches!(judged, Ok(_) | Err(GrantRefusal::TooEarly(_))) && finish.is_none_or(|end| now < end)
    }

    /// Whether a device has a licence that counts under an order.
    pub fn has_grant(&self, order: &Order, device: &DeviceId) -> bool {
        order.grants().get(device).is_some_and(|grant| !self.withdrawn(device, grant.serial))
    }

    /// True when no key leaves for this device any more.
    pub(super) fn is_revoked(&self, device: &DeviceId) -> bool {
        self.revoked.get(device).is_some_and(|revoked| revoked.all)
    }

    pub(super) fn apply_first_play(
        &mut self,
        order: &OrderId,
        device: &DeviceId,
        first: Utc,
    ) -> Result<(), Contradiction> {
        let found = self.orders.get_mut(order).ok_or(NO_ORDER)?;
        unless(!found.grants().contains_key(device), "a device plays without a key")?;
        unless(found.first_play().is_some(), "a title is played for the first time twice")?;
        found.set_first_play(first);
        Ok(())
    }

    pub(super) fn apply_withdrawal(
        &mut self,
        at: Utc,
        order: &OrderId,
        device: DeviceId,
        by: &WithdrawnBy,
    ) -> Result<(), Contradiction> {
        let found = self.orders.get_mut(order).ok_or(NO_ORDER)?;
        let grant =
            found.grants_mut().remove(&device).ok_or(Contradiction("a key is taken back that was not given"))?;
        if matches!(by, WithdrawnBy::Device(_)) {
            found.add_replacement(at);
        }
        self.revoke(device, grant.serial);
        Ok(())
    }

    pub(super) fn apply_device_revoked(&mut self, device: DeviceId) -> Result<(), Contradiction> {
        unless(self.is_revoked(&device), "the device is revoked already")?;
        let revoked = self.revoked.entry(device).or_default();
        *revoked = Revoked { version: revoked.version + 1, all: true, ..std::mem::take(revoked) };
        Ok(())
    }

    /// When the money of an order went back, by whatever way: nothing may be watched any more, except that a rental
    /// under way runs to its own end.
    pub(super) fn revoke_refunded(&mut self, order: &OrderId) {
        let Some(found) = self.orders.get(order).filter(|order| order.refund().is_some()) else { return };
        if found.first_play().is_some() && !found.policy.finish_within.is_unlimited() {
            return;
        }
        let grants: Vec<_> = found.grants().iter().map(|(device, grant)| (*device, grant.serial)).collect();
        grants.into_iter().for_each(|(device, serial)| self.revoke(device, serial));
    }

    fn revoke(&mut self, device: DeviceId, serial: u64) {
        let revoked = self.revoked.entry(device).or_default();
        let is_full = revoked.serials.len() >= MAX_SERIALS;
        let is_forgotten = is_full && revoked.serials.first().is_some_and(|oldest| serial < *oldest);
        if is_forgotten || !revoked.serials.insert(serial) {
            return;
        }
        revoked.version += 1;
        if is_full {
            // The oldest licences are the ones that their own clocks have ended.
            revoked.serials.pop_first();
        }
    }

    fn withdrawn(&self, device: &DeviceId, serial: u64) -> bool {
        self.revoked.get(device).is_some_and(|revoked| revoked.all || revoked.serials.contains(&serial))
    }

    /// When the next device of an order may be replaced, if not now.
    fn next_replacement(&self, now: Utc, order: &Order) -> Option<Utc> {
        let window = self.config.replacement_window;
        let recent: Vec<Utc> = order.replacements().iter().copied().filter(|at| now.since(*at) < window).collect();
        let oldest_that_counts = recent.len().checked_sub(self.config.max_replacements)?;
        Some(recent[oldest_that_counts] + window)
    }
}
