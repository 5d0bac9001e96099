//! Answers why: why these sources, why not others, why not now. Looks at what the planner knows and changes nothing.

use std::fmt;

use super::{Lease, Planner, Slot, Waiting, WishNo};
use crate::id::{DeviceId, ItemId};
use crate::membership::DeviceKind;
use crate::peer::chunk_set::ChunkSet;
use crate::ticket::TicketClass;
use crate::time::{Mono, Now};

/// Devices that one explanation looks at. An item held by more is explained by so many of them.
const MAX_LOOKED_AT: usize = 1_000;

/// Why a device that has a part in an item does not send to an asker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum WhyNot {
    /// It is offline.
    Away,
    /// Its membership has ended.
    Revoked,
    /// Its owner lets it send nothing.
    OwnerSaysNo,
    /// It holds nothing that the asker lacks.
    NothingNew,
    /// Neither of the two can open a connection to the other.
    CannotMeet,
    /// It stalled for this asker a moment ago.
    Stalled,
    /// Other customers complain about it.
    ComplainedAbout,
    /// The budget for seeds of this hour is used up.
    OriginBudget,
    /// A server, and boxes give enough.
    SparedServer,
    /// In another site, and boxes of the asker's give enough.
    TooFar,
    /// It has promised all that it is believed to send.
    Full,
    /// Others were drawn, and they give enough.
    NotNeeded,
}

impl fmt::Display for WhyNot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            WhyNot::Away => "offline",
            WhyNot::Revoked => "revoked",
            WhyNot::OwnerSaysNo => "its owner lets it send nothing",
            WhyNot::NothingNew => "holds nothing that is missing",
            WhyNot::CannotMeet => "neither of the two can connect to the other",
            WhyNot::Stalled => "gave this box nothing a moment ago",
            WhyNot::ComplainedAbout => "several customers complain about it",
            WhyNot::OriginBudget => "the budget for servers of this hour is used up",
            WhyNot::SparedServer => "a server, and boxes give enough",
            WhyNot::TooFar => "another site, and boxes nearer give enough",
            WhyNot::Full => "sends all it can to others",
            WhyNot::NotNeeded => "others were drawn and give enough",
        })
    }
}

/// What was decided for a device and an item, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    /// What the wish is planned as; none: the device has not asked, or its plan has run out.
    pub asked: Option<AskedFor>,
    /// Who sends, and why.
    pub leases: Vec<Lease>,
    /// Why nobody does.
    pub waiting: Option<Waiting>,
    /// Who else has a part in the item, and why it does not send; by reason, then by device.
    pub others: Vec<(WhyNot, DeviceId)>,
    /// Devices that were not looked at, because there are so many.
    pub not_looked_at: usize,
}

/// How a wish is planned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AskedFor {
    /// Why it is wanted.
    pub class: TicketClass,
    /// Place in the queue, 0 first.
    pub rank: u32,
    /// Chunks it lacks.
    pub missing: u32,
    /// When it was planned last.
    pub planned_at: Mono,
    /// What it is planned to be sent.
    pub rate_bytes_per_sec: u64,
}

impl Planner {
    /// Why these sources, why not others, why not now. For a device that has not asked: as if it lacked everything.
    ///
    /// None if the device or the item is not known.
    pub fn explain(&self, now: Now, device: &DeviceId, item: &ItemId) -> Option<Explanation> {
        let slot = self.crowd.slot(device)?;
        let item = self.crowd.item_no(item)?;
        let wish = self.wish_of(slot, item);
        let missing = match wish {
            Some(wish) => self.wishes[wish as usize].missing.clone(),
            None => ChunkSet::full(self.crowd.item(item).n_chunks),
        };
        let members = self.crowd.members(item);
        let looked_at = members.iter().take(MAX_LOOKED_AT).copied().filter(|source| *source != slot);
        let others = looked_at.filter(|source| wish.is_none_or(|wish| self.lease_from(wish, *source).is_none()));
        let mut others: Vec<(WhyNot, DeviceId)> = others
            .map(|source| (self.why_not(now.mono, slot, &missing, wish, source, item), self.crowd.device(source).id))
            .collect();
        others.sort_unstable();
        let asked = wish.map(|wish| {
            let asked = &self.wishes[wish as usize];
            AskedFor {
                class: asked.class,
                rank: asked.rank,
                missing: asked.missing.len(),
                planned_at: asked.planned_at,
                rate_bytes_per_sec: asked.rate_bytes_per_sec,
            }
        });
        let leases: Vec<Lease> = wish
            .map_or_else(Vec::new, |wish| self.wishes[wish as usize].leases.iter().map(|no| self.lease(*no)).collect());
        let waiting = wish.filter(|_| leases.is_empty()).map(|wish| self.why_waiting(now.mono, wish));
        let not_looked_at = members.len().saturating_sub(MAX_LOOKED_AT);
        Some(Explanation { asked, leases, waiting, others, not_looked_at })
    }

    fn why_not(
        &self,
        now: Mono,
        slot: Slot,
        missing: &ChunkSet,
        wish: Option<WishNo>,
        source: Slot,
        item: super::ItemNo,
    ) -> WhyNot {
        let (asker, known) = (self.crowd.device(slot), self.crowd.device(source));
        let held = self.crowd.held(source, item);
        let has_room =
            known.promised_bytes_per_sec == 0 || known.free_bytes_per_sec() >= self.config.least_bytes_per_sec;
        let is_seed = known.kind == DeviceKind::Seed;
        match () {
            () if known.revoked => WhyNot::Revoked,
            () if !known.is_online() => WhyNot::Away,
            () if !known.may_send() => WhyNot::OwnerSaysNo,
            () if !held.is_some_and(|held| held.meets(missing)) => WhyNot::NothingNew,
            () if !known.reach.meets(asker.reach) => WhyNot::CannotMeet,
            () if asker.is_avoiding(source, now) => WhyNot::Stalled,
            () if self.is_shunned(source, now) => WhyNot::ComplainedAbout,
            () if is_seed && !self.crowd.site(asker.site).seeds_may_send => WhyNot::OriginBudget,
            () if is_seed && wish.is_some() => WhyNot::SparedServer,
            () if !has_room => WhyNot::Full,
            () if known.site != asker.site => WhyNot::TooFar,
            () => WhyNot::NotNeeded,
        }
    }
}
