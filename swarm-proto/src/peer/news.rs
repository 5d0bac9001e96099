//! Decides when the tracker hears what has changed on the disk.
//!
//! At once: the first chunk of an item, a whole copy, and whatever is no longer held. Otherwise now and then, and sooner
//! when much has come: plans that know the chunks of a few seconds ago are as good as plans that know those of now, and
//! a tracker hears from all its boxes.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::id::ItemId;
use crate::time::Mono;

/// How old news may become.
const EVERY: Duration = Duration::from_secs(5);

/// News follow each other no faster than this.
const EVERY_MIN: Duration = Duration::from_millis(250);

/// One part in so many of an item is worth telling early: a short item must not be over before it is news.
const MUCH: u32 = 16;

/// What has changed and is to be told.
#[derive(Debug, Default)]
pub struct News {
    items: BTreeMap<ItemId, Told>,
}

#[derive(Debug)]
struct Told {
    held: u32,
    at: Mono,
    due: Option<Mono>,
}

impl News {
    /// A device whose tracker knows nothing yet.
    pub fn new() -> News {
        News::default()
    }

    /// So many chunks of an item are held now, and they are not the ones before.
    pub fn handle_changed(&mut self, now: Mono, item: ItemId, held: u32, n_chunks: u32) {
        let Some(told) = self.items.get_mut(&item) else {
            self.items.insert(item, Told { held: 0, at: Mono::ZERO, due: Some(now) });
            return;
        };
        let soonest = now.max(told.at + EVERY_MIN);
        let much = held.saturating_sub(told.held) >= n_chunks.div_ceil(MUCH);
        let due = match () {
            () if held == n_chunks || held <= told.held => now,
            () if much => soonest,
            () => soonest.max(told.at + EVERY),
        };
        told.due = Some(told.due.map_or(due, |earlier| earlier.min(due)));
    }

    /// An item was deleted, and that has been told.
    pub fn handle_gone(&mut self, item: &ItemId) {
        self.items.remove(item);
    }

    /// When [`News::poll_item`] has something.
    pub fn poll_timeout(&self) -> Option<Mono> {
        self.items.values().filter_map(|told| told.due).min()
    }

    /// An item whose holding is to be told now; `held` says how much of it is there.
    pub fn poll_item(&mut self, now: Mono, held: impl Fn(&ItemId) -> u32) -> Option<ItemId> {
        let is_due = |told: &Told| told.due.is_some_and(|due| due <= now);
        let item = self.items.iter().find(|(_, told)| is_due(told)).map(|(&item, _)| item)?;
        match held(&item) {
            0 => {
                self.items.remove(&item);
            }
            held => {
                self.items.insert(item, Told { held, at: now, due: None });
            }
        }
        Some(item)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ITEM: ItemId = ItemId::from_bytes([1; 32]);

    fn at(ms: u64) -> Mono {
        Mono::from_millis(1_000_000 + ms)
    }

    /// When news are told, for an item of 160 chunks that comes at one chunk in so many milliseconds.
    fn told(every_ms: u64) -> Vec<(u64, u32)> {
        let mut news = News::new();
        let mut told = Vec::new();
        for held in 1..=160 {
            let now = u64::from(held) * every_ms;
            while let Some(due) = news.poll_timeout().filter(|due| *due < at(now)) {
                news.poll_item(due, |_| held - 1).expect("something is due");
                told.push((due.as_millis() - 1_000_000, held - 1));
            }
            news.handle_changed(at(now), ITEM, held, 160);
            while news.poll_item(at(now), |_| held).is_some() {
                told.push((now, held));
            }
        }
        told
    }

    #[test]
    fn the_first_chunk_and_the_copy_are_told_at_once() {
        let told = told(500);
        assert_eq!(told.first(), Some(&(500, 1)));
        assert_eq!(told.last(), Some(&(80_000, 160)));
    }

    #[test]
    fn news_of_a_slow_item_are_a_few_seconds_old_at_most() {
        let told = told(1_000);
        assert!(told.windows(2).all(|pair| pair[1].0 - pair[0].0 <= 5_000), "{told:?}");
        assert!(told.len() <= 34, "{}", told.len());
    }

    #[test]
    fn news_of_a_fast_item_come_in_sixteen_steps() {
        let told = told(100);
        assert_eq!(told.len(), 17, "{told:?}");
    }

    #[test]
    fn what_was_deleted_and_told_is_not_told_again() {
        let mut news = News::new();
        news.handle_changed(at(0), ITEM, 5, 160);
        news.handle_gone(&ITEM);
        assert_eq!((news.poll_timeout(), news.poll_item(at(0), |_| 0)), (None, None));
    }

    #[test]
    fn what_is_no_longer_held_is_told_at_once_and_then_forgotten() {
        let mut news = News::new();
        news.handle_changed(at(0), ITEM, 5, 160);
        assert_eq!(news.poll_item(at(0), |_| 5), Some(ITEM));
        news.handle_changed(at(1_000), ITEM, 0, 160);
        assert_eq!(news.poll_timeout(), Some(at(1_000)));
        assert_eq!(news.poll_item(at(1_000), |_| 0), Some(ITEM));
        assert_eq!(news.poll_timeout(), None);
        news.handle_changed(at(1_100), ITEM, 1, 160);
        assert_eq!(news.poll_item(at(1_100), |_| 1), Some(ITEM));
    }
}
