//! What this seed has sent under the shares of tickets, and what it may still send.
//!
//! A share is counted by the ticket's serial, from the first byte until long after its end, so that no ticket is worth
//! more for being shown again. What has been sent is told to the tracker; what has been settled stays over, whatever
//! the clock says later. A share that names another run of this seed is worth nothing: its count is gone.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::id::DeviceId;
use crate::ticket::Ticket;
use crate::time::Utc;

/// Shares that are counted at a time. Ended ones give way, oldest first; when all are live, no other is served.
const USES_MAX: usize = 16_384;

/// Why nothing is sent under a ticket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Denied {
    /// The ticket has no share of this seed, or it is used up or over.
    NothingLeft,
    /// Too many other shares are live. Come again.
    NoRoom,
}

/// What was told to the tracker about shares.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Told {
    /// Bytes sent so far, by serial.
    pub uses: Vec<(u64, u64)>,
    /// No share that ends at or before this moment is served any more.
    pub settled_until: Option<Utc>,
}

/// The shares of one run of a seed.
#[derive(Debug)]
pub(super) struct Shares {
    own: DeviceId,
    run: u64,
    grace: Duration,
    uses: BTreeMap<u64, Use>,
    ends: BTreeSet<(Utc, u64)>,
    settled: Utc,
}

#[derive(Debug)]
struct Use {
    /// Bytes that have left.
    sent: u64,
    /// Bytes that are leaving.
    open: u64,
    /// What the tracker was told.
    told: u64,
}

impl Shares {
    pub(super) fn new(own: DeviceId, run: u64, grace: Duration) -> Self {
        Self { own, run, grace, uses: BTreeMap::new(), ends: BTreeSet::new(), settled: Utc::EPOCH }
    }

    /// Takes bytes from the ticket's share; [`Shares::close`] follows.
    pub(super) fn open(&mut self, now: Utc, ticket: &Ticket, bytes: u64, tracker_up: bool) -> Result<(), Denied> {
        let share = ticket.share_of(&self.own).ok_or(Denied::NothingLeft)?;
        let until = ticket.shares_until;
        // While the tracker is away nobody can get another share, and what was begun shall be finished.
        let ends = if tracker_up { until } else { until + self.grace };
        let is_over = ends <= now || until <= self.settled;
        if is_over || share.run.is_some_and(|run| run != self.run) {
            return Err(Denied::NothingLeft);
        }
        let used = self.uses.get(&ticket.serial).map_or(0, |it| it.sent + it.open);
        if used.checked_add(bytes).is_none_or(|all| all > share.bytes) {
            return Err(Denied::NothingLeft);
        }
        if !self.uses.contains_key(&ticket.serial) && !self.make_room() {
            return Err(Denied::NoRoom);
        }
        let fresh = || Use { sent: 0, open: 0, told: 0 };
        self.uses.entry(ticket.serial).or_insert_with(fresh).open += bytes;
        self.ends.insert((until, ticket.serial));
        Ok(())
    }

    /// Of the bytes taken, these were sent; the rest goes back to the share.
    pub(super) fn close(&mut self, serial: u64, taken: u64, sent: u64) {
        let Some(it) = self.uses.get_mut(&serial) else { return };
        it.open = it.open.saturating_sub(taken);
        it.sent = it.sent.saturating_add(sent.min(taken));
    }

    /// What is to be told to the tracker: everything, or what has changed. While the tracker is there, shares that are
    /// over by now are settled with it.
    pub(super) fn tell(&mut self, now: Utc, tracker_up: bool, everything: bool) -> Told {
        if tracker_up {
            let leaving = self.ends.iter().take_while(|(until, _)| *until <= now);
            let first = leaving.filter(|(_, serial)| self.uses[serial].open > 0).map(|(until, _)| *until).next();
            let settled = first.map_or(now, |until| Utc::from_millis(until.as_millis().saturating_sub(1)));
            self.settled = self.settled.max(settled);
        }
        while let Some(&(until, serial)) = self.ends.first()
            && until + self.grace <= now
            && self.uses[&serial].open == 0
        {
            self.forget(until, serial);
        }
        let news = self.uses.iter_mut().filter(|(_, it)| everything || it.told != it.sent);
        let uses = news.map(|(&serial, it)| {
            it.told = it.sent;
            (serial, it.sent)
        });
        Told { uses: uses.collect(), settled_until: tracker_up.then_some(self.settled) }
    }

    fn make_room(&mut self) -> bool {
        if self.uses.len() < USES_MAX {
            return true;
        }
        match self.ends.first().copied() {
            Some((until, serial)) if until <= self.settled => {
                self.forget(until, serial);
                true
            }
            _ => false,
        }
    }

    fn forget(&mut self, until: Utc, serial: u64) {
        self.ends.remove(&(until, serial));
        self.uses.remove(&serial);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::ItemId;
    use crate::ticket::{SeedShare, TicketClass};

    const RUN: u64 = 7;
    const HOUR: Duration = Duration::from_secs(3_600);

    fn at(secs: u64) -> Utc {
        Utc::from_secs(1_000_000 + secs)
    }

    fn own() -> DeviceId {
        DeviceId::from_bytes([5; 32])
    }

    fn shares() -> Shares {
        Shares::new(own(), RUN, HOUR)
    }

    /// 100 bytes until second 60.
    fn ticket(serial: u64, run: Option<u64>) -> Ticket {
        Ticket {
            device: DeviceId::from_bytes([1; 32]),
            item: ItemId::from_bytes([9; 32]),
            class: TicketClass::Queued,
            expires: at(86_400),
            serial,
            shares: vec![SeedShare { seed: own(), bytes: 100, run }],
            shares_until: at(60),
            party: 1,
        }
    }

    #[test]
    fn a_share_gives_its_bytes_once_and_takes_back_what_was_not_sent() {
        let mut shares = shares();
        shares.open(at(1), &ticket(1, Some(RUN)), 60, true).unwrap();
        assert_eq!(shares.open(at(1), &ticket(1, Some(RUN)), 60, true), Err(Denied::NothingLeft));
        shares.close(1, 60, 10);
        shares.open(at(1), &ticket(1, Some(RUN)), 90, true).unwrap();
        assert_eq!(shares.open(at(1), &ticket(1, Some(RUN)), 1, true), Err(Denied::NothingLeft));
        shares.open(at(1), &ticket(2, Some(RUN)), 100, true).unwrap();
    }

    #[test]
    fn a_share_of_another_seed_or_of_another_run_is_worth_nothing() {
        let mut other = ticket(1, None);
        other.shares[0].seed = DeviceId::from_bytes([6; 32]);
        assert_eq!(shares().open(at(1), &other, 1, true), Err(Denied::NothingLeft));
        assert_eq!(shares().open(at(1), &ticket(1, Some(RUN + 1)), 1, true), Err(Denied::NothingLeft));
        assert_eq!(shares().open(at(1), &ticket(1, None), 1, true), Ok(()));
    }

    #[test]
    fn a_share_lives_longer_only_while_the_tracker_is_away() {
        let mut shares = shares();
        assert_eq!(shares.open(at(60), &ticket(1, None), 1, true), Err(Denied::NothingLeft));
        assert_eq!(shares.open(at(60), &ticket(1, None), 1, false), Ok(()));
        assert_eq!(shares.open(at(60 + 3_600), &ticket(1, None), 1, false), Err(Denied::NothingLeft));
    }

    #[test]
    fn what_was_settled_stays_over_when_the_tracker_goes_away_later() {
        let mut shares = shares();
        shares.open(at(1), &ticket(1, None), 10, true).unwrap();
        shares.close(1, 10, 10);
        let told = shares.tell(at(61), true, false);
        assert_eq!(told, Told { uses: vec![(1, 10)], settled_until: Some(at(61)) });
        assert_eq!(shares.open(at(62), &ticket(1, None), 1, false), Err(Denied::NothingLeft));
        assert_eq!(shares.open(at(62), &ticket(2, None), 1, false), Err(Denied::NothingLeft));
    }

    #[test]
    fn nothing_is_settled_while_bytes_are_leaving_or_the_tracker_is_away() {
        let mut shares = shares();
        shares.open(at(1), &ticket(1, None), 10, true).unwrap();
        let told = shares.tell(at(61), true, false).settled_until.unwrap();
        assert!(told < at(60));
        shares.close(1, 10, 10);
        assert_eq!(shares.tell(at(61), false, false).settled_until, None);
        assert_eq!(shares.tell(at(62), true, false).settled_until, Some(at(62)));
    }

    #[test]
    fn news_are_told_once_and_everything_when_asked() {
        let mut shares = shares();
        shares.open(at(1), &ticket(1, None), 10, true).unwrap();
        shares.close(1, 10, 4);
        assert_eq!(shares.tell(at(2), true, false).uses, [(1, 4)]);
        assert_eq!(shares.tell(at(2), true, false).uses, []);
        assert_eq!(shares.tell(at(2), true, true).uses, [(1, 4)]);
        assert_eq!(shares.tell(at(60 + 3_600), true, true).uses, []);
    }

    #[test]
    fn a_live_share_is_never_forgotten_for_another() {
        let mut shares = shares();
        for serial in 1..=USES_MAX as u64 {
            shares.open(at(1), &ticket(serial, None), 1, true).unwrap();
            shares.close(serial, 1, 1);
        }
        assert_eq!(shares.open(at(1), &ticket(1 << 32, None), 1, true), Err(Denied::NoRoom));
        shares.tell(at(61), true, false);
        let fresh = Ticket { shares_until: at(120), ..ticket(1 << 32, None) };
        assert_eq!(shares.open(at(61), &fresh, 1, true), Ok(()));
        assert_eq!(shares.uses.len(), USES_MAX);
    }
}
