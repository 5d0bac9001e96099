//! Which titles are being watched on this box: a player's many requests, seen as one viewing.
//!
//! A viewing begins with a request that the licence allows to begin one, and is under way as long as the player comes
//! back within [`GAP`]. A viewing under way may finish softly; one that was left may not be taken up again after the
//! end. Remembered in memory only: a box that restarts has nothing under way. Knows nothing of licences or keys.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::id::{ItemId, OrderId};
use crate::time::Mono;

/// How long a player may stay silent before the viewing counts as left: someone answered the door. A film that plays
/// asks for more bytes every few seconds.
pub const GAP: Duration = Duration::from_secs(15 * 60);

/// Viewings remembered at a time. A box has a few players; of more, the one that was silent longest is forgotten.
const MAX_VIEWINGS: usize = 64;

/// What is being watched.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Viewings {
    by_item: BTreeMap<ItemId, Viewing>,
}

/// One title that is being watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Viewing {
    /// Under which purchase.
    pub order: OrderId,
    heard: Mono,
}

impl Viewings {
    /// A player asks for bytes of an item, and may have them.
    pub fn handle_played(&mut self, now: Mono, item: ItemId, order: OrderId) {
        if self.by_item.len() >= MAX_VIEWINGS && !self.by_item.contains_key(&item) {
            let silent = self.by_item.iter().min_by_key(|(_, viewing)| viewing.heard).map(|(item, _)| *item);
            silent.and_then(|item| self.by_item.remove(&item));
        }
        self.by_item.insert(item, Viewing { order, heard: now });
    }

    /// The player was told that the viewing is over.
    pub fn handle_over(&mut self, item: &ItemId) {
        self.by_item.remove(item);
    }

    /// The viewing of an item that is under way.
    pub fn under_way(&self, now: Mono, item: &ItemId) -> Option<Viewing> {
        self.by_item.get(item).filter(|viewing| now.since(viewing.heard) < GAP).copied()
    }

    /// Every item whose player was heard of within this time.
    pub fn heard_within(&self, now: Mono, within: Duration) -> impl Iterator<Item = (ItemId, OrderId)> {
        self.by_item
            .iter()
            .filter(move |(_, viewing)| now.since(viewing.heard) < within)
            .map(|(item, viewing)| (*item, viewing.order))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(n: u8) -> ItemId {
        ItemId::from([n; 32])
    }

    #[test]
    fn viewing_is_under_way_until_its_player_has_been_silent_too_long() {
        let mut viewings = Viewings::default();
        let order = OrderId::from([1; 16]);
        assert_eq!(viewings.under_way(Mono::ZERO, &item(1)), None);
        viewings.handle_played(Mono::ZERO, item(1), order);
        let just = Mono::ZERO + GAP.saturating_sub(Duration::from_millis(1));
        assert_eq!(viewings.under_way(just, &item(1)).map(|viewing| viewing.order), Some(order));
        viewings.handle_played(just, item(1), order);
        assert!(viewings.under_way(just + GAP.saturating_sub(Duration::from_millis(1)), &item(1)).is_some());
        assert_eq!(viewings.under_way(just + GAP, &item(1)), None);
        assert_eq!(viewings.under_way(just, &item(2)), None, "another title is another viewing");
    }

    #[test]
    fn what_is_over_is_not_under_way() {
        let mut viewings = Viewings::default();
        viewings.handle_played(Mono::ZERO, item(1), OrderId::from([1; 16]));
        viewings.handle_over(&item(1));
        assert_eq!(viewings.under_way(Mono::ZERO, &item(1)), None);
    }

    #[test]
    fn memory_of_viewings_is_bounded() {
        let mut viewings = Viewings::default();
        for n in 0..=u8::try_from(MAX_VIEWINGS).expect("small") {
            viewings.handle_played(Mono::from_millis(n.into()), item(n), OrderId::from([1; 16]));
        }
        let now = Mono::from_millis(1_000);
        assert_eq!(viewings.heard_within(now, GAP).count(), MAX_VIEWINGS);
        assert_eq!(viewings.under_way(now, &item(0)), None, "the one that was silent longest is forgotten");
    }
}
