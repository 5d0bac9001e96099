//! Everyone who can be asked for one item, and who of them may be asked now.
//!
//! Most roles are those of plans that are over. Who may be asked is therefore worked out once, and again only when a
//! role, a lease or the need for help has changed: the events of a transfer look at a few roles, not at all of them.

use std::ops::{Index, IndexMut};
use std::time::Duration;

use super::sources::SourceNo;
use super::{FoundBy, Traffic};
use crate::peer::chunk_set::ChunkSet;
use crate::peer::rate::Cap;
use crate::time::Mono;

/// Never.
const NEVER: Mono = Mono::from_millis(u64::MAX);

/// One device as a source of one item.
#[derive(Debug)]
pub(super) struct Role {
    pub(super) source: SourceNo,
    pub(super) found_by: FoundBy,
    pub(super) since: Mono,
    pub(super) lease_until: Mono,
    pub(super) cap: Option<Cap>,
    pub(super) portions: Option<ChunkSet>,
    pub(super) holding: Option<ChunkSet>,
    pub(super) holding_asked_at: Option<Mono>,
    pub(super) holding_open: bool,
    /// Has no manifest, and is not asked for it before then.
    pub(super) bare_until: Mono,
    pub(super) strikes: u32,
    /// Not asked before then.
    pub(super) shunned_until: Mono,
    /// Has sent a chunk of this item that verified.
    pub(super) delivered: bool,
    /// Its holding is in the picker's count of copies: only of those that have delivered.
    pub(super) counted: bool,
    /// What it has given in this role, and what of it nobody has asked about.
    pub(super) given: Traffic,
    pub(super) untold: Traffic,
}

impl Role {
    pub(super) fn new(source: SourceNo, since: Mono, found_by: FoundBy) -> Self {
        Self {
            source,
            found_by,
            since,
            lease_until: since,
            cap: None,
            portions: None,
            holding: None,
            holding_asked_at: None,
            holding_open: false,
            bare_until: Mono::ZERO,
            strikes: 0,
            shunned_until: Mono::ZERO,
            delivered: false,
            counted: false,
            given: Traffic::default(),
            untold: Traffic::default(),
        }
    }

    /// From when until when it may be asked, however it behaves.
    fn term(&self, terms: &Terms) -> (Mono, Mono) {
        match (self.found_by, terms.degraded_since) {
            _ if terms.closed => (NEVER, NEVER),
            (FoundBy::Plan, None) => (Mono::ZERO, self.lease_until),
            (FoundBy::Kademlia | FoundBy::Pinned, None) => (NEVER, NEVER),
            (FoundBy::Plan | FoundBy::Kademlia, Some(_)) => (Mono::ZERO, NEVER),
            (FoundBy::Pinned, Some(since)) => (since + terms.pinned_after, NEVER),
        }
    }
}

/// What decides, beside plan and Kademlia, who may be asked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Terms {
    /// Nobody is asked now.
    pub(super) closed: bool,
    /// Since when the plan alone is not enough.
    pub(super) degraded_since: Option<Mono>,
    pub(super) pinned_after: Duration,
}

/// All roles of one item.
#[derive(Debug, Default)]
pub(super) struct Roles {
    /// Whose role stands at the same place in `all`.
    sources: Vec<SourceNo>,
    all: Vec<Role>,
    /// Places of those who may be asked. It is right under these terms and until that moment, unless a role has changed.
    allowed: Vec<usize>,
    terms: Terms,
    right_until: Mono,
}

impl Roles {
    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Where the role of a source stands.
    pub(super) fn place(&self, source: SourceNo) -> Option<usize> {
        self.sources.iter().position(|it| *it == source)
    }

    pub(super) fn get(&self, source: SourceNo) -> Option<&Role> {
        self.place(source).map(|place| &self.all[place])
    }

    /// For what does not decide whether it may be asked; see [`Roles::changed`].
    pub(super) fn get_mut(&mut self, source: SourceNo) -> Option<&mut Role> {
        self.place(source).map(|place| &mut self.all[place])
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Role> {
        self.all.iter()
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Role> {
        self.all.iter_mut()
    }

    pub(super) fn push(&mut self, role: Role) {
        self.sources.push(role.source);
        self.all.push(role);
        self.changed();
    }

    pub(super) fn remove(&mut self, source: SourceNo) -> Option<Role> {
        let place = self.place(source)?;
        self.sources.swap_remove(place);
        // Places have changed.
        self.allowed.clear();
        self.changed();
        Some(self.all.swap_remove(place))
    }

    /// A lease, or how a source is known, is another now.
    pub(super) fn changed(&mut self) {
        self.right_until = Mono::ZERO;
    }

    /// Works out who may be asked, if that can have changed. True: it has been.
    pub(super) fn allow(&mut self, now: Mono, terms: Terms) -> bool {
        if now < self.right_until && terms == self.terms {
            return false;
        }
        self.terms = terms;
        self.right_until = NEVER;
        self.allowed.clear();
        for (place, role) in self.all.iter().enumerate() {
            let (from, until) = role.term(&terms);
            if from <= now && now < until {
                self.allowed.push(place);
                self.right_until = self.right_until.min(until);
            } else if now < from {
                self.right_until = self.right_until.min(from);
            }
        }
        true
    }

    /// Those who may be asked, however they behave, as worked out last.
    pub(super) fn allowed(&self) -> impl Iterator<Item = &Role> {
        self.allowed.iter().map(|place| &self.all[*place])
    }

    pub(super) fn is_allowed(&self, place: usize) -> bool {
        self.allowed.contains(&place)
    }

    /// Their places.
    pub(super) fn allowed_places(&self) -> &[usize] {
        &self.allowed
    }
}

impl Index<usize> for Roles {
    type Output = Role;

    fn index(&self, place: usize) -> &Role {
        &self.all[place]
    }
}

impl IndexMut<usize> for Roles {
    fn index_mut(&mut self, place: usize) -> &mut Role {
        &mut self.all[place]
    }
}
