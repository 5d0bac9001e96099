//! One customer's strict priority list: what stands higher is fetched first.
//!
//! A title stands in the list once for every box of the customer, or once for each of several single boxes, never
//! both. Each change raises the version by one, so that two people who edit the same list notice each other. Never
//! knows what a title is, nor whether it may be fetched.

use super::sites::Delivery;
use crate::id::{DeviceId, TitleId};
use crate::time::Utc;

/// How many entries one list may have.
/// More than a household watches in years, and small enough to send whole with every change.
pub const MAX_ENTRIES: usize = 1_000;

/// A title that somebody wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Which title.
    pub title: TitleId,
    /// The only box it is for; none: every box of the customer.
    pub target: Option<DeviceId>,
    /// When it was first asked for.
    pub added: Utc,
    /// When it is wanted; none: nobody has said, and the site decides.
    pub delivery: Option<Delivery>,
}

impl Entry {
    /// Whether this entry asks anything of this box.
    pub fn concerns(&self, device: &DeviceId) -> bool {
        self.target.as_ref().is_none_or(|target| target == device)
    }

    /// Whether this is the entry of a title that `editor` means: its own box's, or for a person without a box, any.
    fn is_meant_by(&self, title: &TitleId, editor: Option<&DeviceId>) -> bool {
        self.title == *title && editor.is_none_or(|device| self.concerns(device))
    }
}

/// Why a list did not change.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum QueueError {
    /// Remove something first.
    #[error("the queue is full: it holds {MAX_ENTRIES} titles")]
    Full,
    /// The title is not there; look again.
    #[error("the title is not in the queue")]
    Absent,
    /// The title to stand before is not there; look again.
    #[error("the title to stand before is not in the queue")]
    NoSuchPlace,
    /// Somebody else has changed the list; look again and repeat if it is still wanted.
    #[error("the queue has moved on from version {seen} to {now}")]
    MovedOn {
        /// The version the writer had seen.
        seen: u64,
        /// The version there is now.
        now: u64,
    },
}

/// The list of one customer, highest priority first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PriorityList {
    version: u64,
    entries: Vec<Entry>,
}

impl PriorityList {
    /// A list as it was written down; none if it could not have been made by this type.
    pub fn restore(version: u64, entries: Vec<Entry>) -> Option<PriorityList> {
        let twice = |(at, entry): (usize, &Entry)| {
            entries[..at].iter().any(|earlier| {
                earlier.title == entry.title
                    && (earlier.target == entry.target || earlier.target.is_none() || entry.target.is_none())
            })
        };
        let sound = entries.len() <= MAX_ENTRIES && !entries.iter().enumerate().any(twice);
        sound.then_some(PriorityList { version, entries })
    }

    /// How often the list has changed.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Everything wanted, highest priority first.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Puts a title at the end, or before another one. One that is there already moves and keeps the moment it was
    /// first asked for, and when it is wanted unless that is said anew; one that was for single boxes and is now for
    /// all becomes one entry.
    pub fn add(
        &mut self,
        now: Utc,
        title: TitleId,
        target: Option<DeviceId>,
        before: Option<TitleId>,
        delivery: Option<Delivery>,
    ) -> Result<(), QueueError> {
        let replaced = |entry: &Entry| entry.is_meant_by(&title, target.as_ref());
        let first = self.entries.iter().find(|entry| replaced(entry));
        let entry = match first {
            // For every box already: asking for one box alone must not take it from the others.
            Some(entry) => Entry {
                title,
                target: target.filter(|_| entry.target.is_some()),
                added: entry.added,
                delivery: delivery.or(entry.delivery),
            },
            None => Entry { title, target, added: now, delivery },
        };
        let kept = self.entries.iter().filter(|entry| !replaced(entry)).count();
        if kept == MAX_ENTRIES {
            return Err(QueueError::Full);
        }
        // A title stands before itself where it stood.
        let place = match before {
            None => self.entries.len(),
            Some(before) => self
                .entries
                .iter()
                .position(|entry| entry.is_meant_by(&before, target.as_ref()))
                .ok_or(QueueError::NoSuchPlace)?,
        };
        let place = place - self.entries[..place].iter().filter(|entry| replaced(entry)).count();
        self.entries.retain(|entry| !entry.is_meant_by(&title, target.as_ref()));
        self.entries.insert(place, entry);
        self.version += 1;
        Ok(())
    }

    /// When a title is wanted on a box; none: it is not in the list, or nobody has said.
    pub fn delivery_to(&self, device: &DeviceId, title: &TitleId) -> Option<Delivery> {
        self.entries.iter().find(|entry| entry.is_meant_by(title, Some(device)))?.delivery
    }

    /// Moves a title to a place, 0 being the first; a place beyond the end is the end.
    pub fn move_to(
        &mut self,
        editor: Option<&DeviceId>,
        title: &TitleId,
        to: usize,
        if_version: Option<u64>,
    ) -> Result<(), QueueError> {
        if let Some(seen) = if_version
            && seen != self.version
        {
            return Err(QueueError::MovedOn { seen, now: self.version });
        }
        let from = self.entries.iter().position(|entry| entry.is_meant_by(title, editor)).ok_or(QueueError::Absent)?;
        let entry = self.entries.remove(from);
        self.entries.insert(to.min(self.entries.len()), entry);
        self.version += 1;
        Ok(())
    }

    /// Takes a title out: for the editor's box, or for a person without a box, for all.
    pub fn remove(&mut self, editor: Option<&DeviceId>, title: &TitleId) -> Result<(), QueueError> {
        let before = self.entries.len();
        self.entries.retain(|entry| !entry.is_meant_by(title, editor));
        if self.entries.len() == before {
            return Err(QueueError::Absent);
        }
        self.version += 1;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn title(n: u8) -> TitleId {
        TitleId::from([n; 16])
    }

    fn device(n: u8) -> DeviceId {
        DeviceId::from([n; 32])
    }

    fn at(ms: u64) -> Utc {
        Utc::from_millis(ms)
    }

    fn titles(list: &PriorityList) -> Vec<TitleId> {
        list.entries().iter().map(|entry| entry.title).collect()
    }

    fn list(titles: &[u8]) -> PriorityList {
        let mut list = PriorityList::default();
        for n in titles {
            list.add(at(1), title(*n), None, None, None).expect("there is room");
        }
        list
    }

    #[test]
    fn titles_stand_in_the_order_they_were_added() {
        assert_eq!(titles(&list(&[3, 1, 2])), [title(3), title(1), title(2)]);
    }

    #[test]
    fn title_can_be_put_before_another() {
        let mut list = list(&[1, 2]);
        list.add(at(5), title(3), None, Some(title(2)), None).unwrap();
        assert_eq!(titles(&list), [title(1), title(3), title(2)]);
    }

    #[test]
    fn title_added_twice_moves_and_remembers_when_it_was_first_wanted() {
        let mut list = list(&[1, 2]);
        list.add(at(9), title(1), None, None, None).unwrap();
        assert_eq!(titles(&list), [title(2), title(1)]);
        assert_eq!(list.entries()[1].added, at(1));
        assert_eq!(list.version(), 3);
    }

    #[test]
    fn two_boxes_of_a_customer_can_want_the_same_title_each_for_itself() {
        let mut list = PriorityList::default();
        list.add(at(1), title(1), Some(device(1)), None, None).unwrap();
        list.add(at(2), title(1), Some(device(2)), None, None).unwrap();
        assert_eq!(list.entries().len(), 2);
        list.remove(Some(&device(1)), &title(1)).unwrap();
        assert_eq!(list.entries()[0].target, Some(device(2)));
    }

    #[test]
    fn title_wanted_for_every_box_stays_so_when_one_box_asks_for_it() {
        let mut list = list(&[1, 2]);
        list.add(at(3), title(1), Some(device(1)), None, None).unwrap();
        assert_eq!(list.entries()[1], Entry { title: title(1), target: None, added: at(1), delivery: None });
    }

    #[test]
    fn title_of_single_boxes_becomes_one_entry_when_wanted_for_all() {
        let mut list = PriorityList::default();
        list.add(at(1), title(1), Some(device(1)), None, None).unwrap();
        list.add(at(2), title(1), Some(device(2)), None, None).unwrap();
        list.add(at(3), title(1), None, None, None).unwrap();
        assert_eq!(list.entries(), [Entry { title: title(1), target: None, added: at(1), delivery: None }]);
    }

    #[test]
    fn when_a_title_is_wanted_stays_as_it_was_said_until_it_is_said_anew() {
        let mut list = PriorityList::default();
        list.add(at(1), title(1), Some(device(1)), None, Some(Delivery::OffPeak)).unwrap();
        list.add(at(2), title(1), Some(device(1)), None, None).unwrap();
        assert_eq!(list.delivery_to(&device(1), &title(1)), Some(Delivery::OffPeak));
        assert_eq!(list.delivery_to(&device(2), &title(1)), None);
        list.add(at(3), title(1), None, None, Some(Delivery::NotBefore(at(9)))).unwrap();
        assert_eq!(list.delivery_to(&device(2), &title(1)), Some(Delivery::NotBefore(at(9))));
    }

    #[test]
    fn writer_who_saw_an_older_version_is_told_so() {
        let mut list = list(&[1, 2]);
        let refused = list.move_to(None, &title(2), 0, Some(1));
        assert_eq!(refused, Err(QueueError::MovedOn { seen: 1, now: 2 }));
        list.move_to(None, &title(2), 0, Some(2)).unwrap();
        assert_eq!(titles(&list), [title(2), title(1)]);
    }

    #[test]
    fn place_beyond_the_end_is_the_end() {
        let mut list = list(&[1, 2, 3]);
        list.move_to(None, &title(1), usize::MAX, None).unwrap();
        assert_eq!(titles(&list), [title(2), title(3), title(1)]);
    }

    #[test]
    fn full_list_takes_no_more_but_lets_titles_move() {
        let many = (0..MAX_ENTRIES as u128).map(|n| Entry {
            title: TitleId::from(n.to_be_bytes()),
            target: None,
            added: at(1),
            delivery: None,
        });
        let mut list = PriorityList::restore(7, many.collect()).unwrap();
        let other = TitleId::from(u128::MAX.to_be_bytes());
        assert_eq!(list.add(at(2), other, None, None, None), Err(QueueError::Full));
        list.add(at(2), TitleId::from(0_u128.to_be_bytes()), None, None, None).unwrap();
        assert_eq!(list.entries().len(), MAX_ENTRIES);
    }

    #[test]
    fn list_that_names_a_title_twice_is_not_restored() {
        let entry = Entry { title: title(1), target: None, added: at(1), delivery: None };
        assert_eq!(PriorityList::restore(1, vec![entry.clone(), entry]), None);
    }

    /// What a list of titles for all boxes does, said as plainly as possible.
    fn naive(model: &mut Vec<u8>, op: &Op) {
        match *op {
            Op::Add(n, None) => {
                model.retain(|other| *other != n);
                model.push(n);
            }
            Op::Add(n, Some(before)) => {
                if !model.contains(&before) {
                    return;
                }
                let successor = model.iter().skip_while(|other| **other != before).find(|other| **other != n).copied();
                model.retain(|other| *other != n);
                let place = successor.and_then(|next| model.iter().position(|other| *other == next));
                model.insert(place.unwrap_or(model.len()), n);
            }
            Op::Move(n, to) => {
                if let Some(from) = model.iter().position(|other| *other == n) {
                    model.remove(from);
                    model.insert(to.min(model.len()), n);
                }
            }
            Op::Remove(n) => model.retain(|other| *other != n),
        }
    }

    #[derive(Debug, Clone)]
    enum Op {
        Add(u8, Option<u8>),
        Move(u8, usize),
        Remove(u8),
    }

    fn ops() -> impl Strategy<Value = Op> {
        prop_oneof![
            (0_u8..8, proptest::option::of(0_u8..8)).prop_map(|(n, before)| Op::Add(n, before)),
            (0_u8..8, 0_usize..10).prop_map(|(n, to)| Op::Move(n, to)),
            (0_u8..8).prop_map(Op::Remove),
        ]
    }

    proptest! {
        #[test]
        fn list_agrees_with_a_naive_one(ops in proptest::collection::vec(ops(), 0..60)) {
            let mut list = PriorityList::default();
            let mut model = Vec::new();
            for op in &ops {
                let version = list.version();
                let outcome = match *op {
                    Op::Add(n, before) => list.add(at(1), title(n), None, before.map(title), None),
                    Op::Move(n, to) => list.move_to(None, &title(n), to, None),
                    Op::Remove(n) => list.remove(None, &title(n)),
                };
                naive(&mut model, op);
                prop_assert_eq!(titles(&list), model.iter().map(|n| title(*n)).collect::<Vec<_>>());
                prop_assert_eq!(list.version(), version + u64::from(outcome.is_ok()));
                prop_assert!(PriorityList::restore(list.version(), list.entries().to_vec()).is_some());
            }
        }
    }
}
