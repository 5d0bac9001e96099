//! The words in which the planner is asked and answers.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::time::Duration;

use crate::id::{AccountId, DeviceId, ItemId, SiteId};
use crate::limit::Limit;
use crate::membership::DeviceKind;
use crate::ticket::TicketClass;
use crate::time::Utc;

/// What is known of a device before it has said anything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Profile {
    /// What it is there for.
    pub kind: DeviceKind,
    /// Where it stands.
    pub site: SiteId,
    /// Whose it is.
    pub account: AccountId,
}

/// What a device says about its link.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Link {
    /// Measured; none: not known yet.
    pub uplink_bytes_per_sec: Option<u64>,
    /// Measured; none: not known yet.
    pub downlink_bytes_per_sec: Option<u64>,
    /// What its owner allows; none: unlimited. 0: it sends nothing.
    pub upload_cap_bytes_per_sec: Option<u64>,
}

/// Who can open a connection to a device.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Reach {
    /// Anyone.
    #[default]
    Open,
    /// Anyone who is open, and by hole punching others of this class.
    Punchable,
    /// Nobody: it can only open connections itself, so it meets only devices that are open.
    Closed,
}

impl Reach {
    /// Whether two devices can meet, whoever of them dials.
    pub fn meets(self, other: Reach) -> bool {
        matches!((self, other), (Reach::Open, _) | (_, Reach::Open) | (Reach::Punchable, Reach::Punchable))
    }
}

/// What the operator has said about a site.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SiteRules {
    /// What all boxes of the site together may take for titles in queues and preloads. A title that is watched is not
    /// held back by it.
    pub inbound_bytes_per_sec: Limit<u64>,
    /// What a byte costs from these sites to this one; others cost [`super::Config::cost_between_sites`].
    pub costs: BTreeMap<SiteId, u32>,
}

/// A device that wants chunks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wish {
    /// Who asks.
    pub device: DeviceId,
    /// For which item.
    pub item: ItemId,
    /// How many chunks the item has.
    pub n_chunks: u32,
    /// What it lacks: ascending, disjoint, below `n_chunks`.
    pub missing: Vec<Range<u32>>,
    /// Why, and hence what gives way to it.
    pub class: TicketClass,
    /// Place in the customer's queue, 0 first: of one customer's wishes the lower one gives way.
    pub rank: u32,
    /// When sending must end whatever the lease says, because a window closes; none: it stays open.
    pub until: Option<Utc>,
}

/// Why a source is in a plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// A device of the same customer at the same site.
    SameHome,
    /// A box of the same site.
    SameSite,
    /// A box of another site, for chunks that no box of this site holds or is about to get.
    NotHere,
    /// A box of another site, because those of this one are too slow.
    Elsewhere,
    /// A seed, because the boxes together are believed to be too slow.
    BoxesTooSlow,
    /// A seed, for chunks that no box holds or is about to get.
    OnlySeed,
    /// A seed, because no box can send anything.
    NoBoxes,
    /// A source that others complain about, because nobody else has the chunks.
    LastResort,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Reason::SameHome => "another device of the same customer",
            Reason::SameSite => "a box of the same site",
            Reason::NotHere => "another site, for chunks that no box of this site has or will have soon",
            Reason::Elsewhere => "another site, since the boxes of this one are too slow",
            Reason::BoxesTooSlow => "a seed, since the boxes are too slow",
            Reason::OnlySeed => "a seed, for chunks that no box has or will have soon",
            Reason::NoBoxes => "a seed, since no box can send anything",
            Reason::LastResort => "complained about, but nobody else has the chunks",
        })
    }
}

/// A source and what it is meant to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// Who sends.
    pub source: DeviceId,
    /// What it is there for.
    pub kind: DeviceKind,
    /// Whether it stands in the asker's site.
    pub same_site: bool,
    /// What is counted against its uplink.
    pub planned_bytes_per_sec: u64,
    /// The most it may be asked for; none: whatever it gives.
    pub rate_cap_bytes_per_sec: Option<u64>,
    /// What to take from it first, in this order. Portions of one plan are disjoint. Empty for a device that is itself
    /// still fetching and has nothing yet, and where no chunk is rare: whatever it has by then.
    pub portions: Vec<Range<u32>>,
    /// Why it was chosen.
    pub reason: Reason,
}

/// Why a plan has no leases.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Waiting {
    /// Nobody has ever said to hold a missing chunk.
    NobodyHoldsIt,
    /// Whoever holds a missing chunk is away.
    HoldersAway,
    /// Whoever holds a missing chunk and is there must not send, or has stalled for this asker.
    HoldersNotSending,
    /// Whoever holds a missing chunk is sending as much as it can to others who come first.
    HoldersBusy,
    /// Only seeds hold what is missing, and this hour's budget for seeds is used up.
    OriginBudget,
    /// Nothing is missing.
    NothingMissing,
}

impl fmt::Display for Waiting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Waiting::NobodyHoldsIt => "no source holds it yet",
            Waiting::HoldersAway => "every source that holds it is offline",
            Waiting::HoldersNotSending => "every source that holds it is not sending at the moment",
            Waiting::HoldersBusy => "every source that holds it is busy with what comes first",
            Waiting::OriginBudget => "only servers hold it, and their budget for this hour is used up",
            Waiting::NothingMissing => "nothing is missing",
        })
    }
}

/// The answer to a wish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Who sends what.
    pub leases: Vec<Lease>,
    /// When all leases end.
    pub until: Utc,
    /// When to ask again.
    pub renew_after: Duration,
    /// Why there are no leases.
    pub waiting: Option<Waiting>,
}

/// What the shell does next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Send this device a plan that replaces the one it has for the item.
    Push {
        /// Who asked for what.
        wish: Wish,
        /// The new plan.
        plan: Plan,
    },
    /// This device has not been heard of for too long and counts as offline; close its stream.
    Silent(DeviceId),
}
