//! Answers when a title would be there, before anyone has asked for it, from what the planner knows now.
//!
//! The estimate follows the rule by which plans are drawn: a share of what the boxes of the item can send, no less
//! than the servers make up for, no more than the asker's link takes, after what stands before it in the queue.

use std::time::Duration;

use super::{Planner, Slot, Waiting};
use crate::geometry::CHUNK_BYTES;
use crate::id::{DeviceId, ItemId};
use crate::time::Mono;

/// Devices whose free uplink is looked at; a larger item is judged by so many of them.
const LOOKED_AT: usize = 128;

/// Until the first chunks flow: a plan, connections, manifests.
const START: Duration = Duration::from_secs(2);

/// What a link whose speed nobody has measured is believed to take: 100 Mbit/s.
const UNKNOWN_DOWNLINK_BYTES_PER_SEC: u64 = 12_500_000;

/// When a title would be complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Estimate {
    /// After this long, at this rate.
    Ready {
        /// From now on, while nothing is closed.
        after: Duration,
        /// What it is expected to come at.
        bytes_per_sec: u64,
    },
    /// Not before something changes.
    NotBefore(Waiting),
}

impl Planner {
    /// When a device would have the chunks it lacks of an item, after so many bytes that come before them.
    pub fn estimate(
        &self,
        now: Mono,
        device: &DeviceId,
        item: &ItemId,
        missing_chunks: u32,
        bytes_before: u64,
    ) -> Estimate {
        if missing_chunks == 0 {
            return Estimate::Ready { after: Duration::ZERO, bytes_per_sec: 0 };
        }
        let Some(slot) = self.crowd.slot(device) else { return Estimate::NotBefore(Waiting::NobodyHoldsIt) };
        let Some(number) = self.crowd.item_no(item) else { return Estimate::NotBefore(Waiting::NobodyHoldsIt) };
        let asker = self.crowd.device(slot);
        let members = self.crowd.members(number);
        let step = members.len().div_ceil(LOOKED_AT).max(1);
        let looked_at: Vec<Slot> = members.iter().step_by(step).copied().collect();
        let mut holders = 0_u64;
        let mut away = false;
        let (mut boxes, mut seeds) = (0_u64, 0_u64);
        for source in looked_at.into_iter().chain(self.crowd.seeds().iter().copied()) {
            let known = self.crowd.device(source);
            let holds = self.crowd.held(source, number).is_some_and(|held| !held.is_empty());
            if source == slot || known.revoked {
                continue;
            }
            if !known.is_online() {
                away |= holds;
                continue;
            }
            if !self.crowd.is_sending(source, number) || asker.is_avoiding(source, now) {
                continue;
            }
            holders += u64::from(holds);
            let own: u64 = self.promised_for(source, number);
            let gives = known.free_bytes_per_sec() + own;
            match known.kind {
                crate::membership::DeviceKind::Box => boxes += gives,
                crate::membership::DeviceKind::Seed => seeds = seeds.max(gives),
            }
        }
        if holders == 0 {
            return Estimate::NotBefore(if away { Waiting::HoldersAway } else { Waiting::NobodyHoldsIt });
        }
        let site = self.crowd.site(asker.site);
        let boxes = boxes.saturating_mul(step as u64);
        let mine = u128::from(missing_chunks);
        let others = u128::from(self.crowd.item(number).missing);
        let others = match self.wish_of(slot, number) {
            Some(wish) => others - u128::from(self.wishes[wish as usize].missing.len()),
            None => others,
        };
        // Whoever fetches also sends: this device would.
        let boxes = boxes + if others > 0 { asker.uplink_bytes_per_sec() } else { 0 };
        let share = u64::try_from(u128::from(boxes) * mine / (mine + others)).unwrap_or(u64::MAX);
        let seeds = if site.seeds_may_send { seeds } else { 0 };
        let rate = match share {
            0 => seeds,
            share => share.max(self.config.enough_bytes_per_sec.min(share.saturating_add(seeds))),
        };
        let downlink = asker.link.downlink_bytes_per_sec.unwrap_or(UNKNOWN_DOWNLINK_BYTES_PER_SEC);
        let inbound =
            site.inbound_bytes_per_sec.map_or(u64::MAX, |inbound| inbound / (site.wishes.len() as u64).max(1));
        let rate = rate.min(downlink).min(inbound);
        if rate == 0 {
            let waiting = if site.seeds_may_send { Waiting::HoldersBusy } else { Waiting::OriginBudget };
            return Estimate::NotBefore(waiting);
        }
        let bytes = u64::from(missing_chunks) * CHUNK_BYTES + bytes_before;
        let after = START + Duration::from_secs_f64(bytes as f64 / rate as f64);
        Estimate::Ready { after, bytes_per_sec: rate }
    }

    /// What a source has promised to those who fetch this item.
    fn promised_for(&self, source: Slot, item: super::ItemNo) -> u64 {
        let serves = self.crowd.device(source).serves.iter();
        let of_item = serves.filter(|no| {
            let wish = self.leases[**no as usize].wish;
            self.wishes[wish as usize].item == item
        });
        of_item.map(|no| self.leases[*no as usize].rate_bytes_per_sec).sum()
    }
}
