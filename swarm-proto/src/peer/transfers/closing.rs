//! Items that must wait for their time: a window of the site, or the moment their customer named.
//!
//! While an item is closed nothing of it is asked of anybody, neither the tracker nor Kademlia nor a source, whether or
//! not the tracker can be reached. When its time comes it goes on by itself, at a moment of its own, so that all boxes
//! of a site do not begin at once. A viewer opens it: what is watched does not wait.

use rand::RngExt as _;

use super::*;

/// No plan keeps a device waiting for longer than this without another look. Longer than any window is away.
const CLOSED_MAX: Duration = Duration::from_secs(400 * 24 * 60 * 60);

/// No spread is longer than this.
const SPREAD_MAX: Duration = Duration::from_secs(60 * 60);

/// What is said of an item whose window has ended while the tracker was away.
const NEXT_WINDOW: &str = "when the next window of its site opens";

/// What waits asks within this long whether that still holds, when the tracker is back.
const RECHECK_WITHIN: Duration = Duration::from_secs(30);

/// When an item is closed, as a plan says it, after the moment of the plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Closed {
    /// Since when; zero: now.
    pub from: Duration,
    /// Until when.
    pub until: Duration,
    /// The device goes on at a moment within this long after that.
    pub spread: Duration,
}

/// A time in which an item is closed, or will be.
#[derive(Debug, Clone)]
pub(super) struct Closure {
    from: Mono,
    until: Mono,
    /// When the device goes on, by the plan, before anything is spread; none: nobody can say.
    opens: Option<Utc>,
    why: String,
}

impl Closure {
    pub(super) fn until(&self) -> Mono {
        self.until
    }
}

impl Transfers {
    /// What a plan says about when its item is closed. True: it is, now.
    pub(super) fn take_closed(&mut self, now: Now, item: ItemId, closed: Option<Closed>, why: &str) -> bool {
        let Some(transfer) = self.items.get_mut(&item) else { return false };
        transfer.closure = closed.map(|closed| {
            let spread = u64::try_from(closed.spread.min(SPREAD_MAX).as_millis()).unwrap_or(u64::MAX);
            let wait = closed.until.min(CLOSED_MAX);
            Closure {
                from: now.mono + closed.from,
                until: now.mono + wait + Duration::from_millis(self.rng.random_range(0..=spread)),
                opens: (closed.until < CLOSED_MAX).then(|| now.utc + wait),
                why: if why.is_empty() { NEXT_WINDOW.to_owned() } else { why.to_owned() },
            }
        });
        let closed = transfer.closure.as_ref().is_some_and(|it| it.from <= now.mono);
        if closed && transfer.is_playing(now.mono) {
            // It was asked about before somebody began to watch.
            transfer.closure = None;
            transfer.plan_due = now.mono;
            return true;
        }
        if closed {
            self.close(now, item);
        }
        closed
    }

    /// Closes what must close now and opens what may go on.
    pub(super) fn mind_closures(&mut self, now: Now) {
        let due = |transfer: &Transfer| {
            let begins = transfer.closure.as_ref().is_some_and(|it| it.from <= now.mono) && !transfer.closed;
            let ends = transfer.closure.as_ref().is_some_and(|it| it.until <= now.mono);
            begins || ends
        };
        let items: Vec<ItemId> =
            self.items.iter().filter(|(_, transfer)| due(transfer)).map(|(&item, _)| item).collect();
        for item in items {
            let Some(transfer) = self.items.get_mut(&item) else { continue };
            let over = transfer.closure.as_ref().is_some_and(|it| it.until <= now.mono);
            if over || transfer.is_playing(now.mono) {
                transfer.open(now.mono);
            } else {
                self.close(now, item);
            }
        }
    }

    /// The tracker is back: what waits asks once more whether it has to, not everything at once.
    pub(super) fn recheck_at(&mut self, now: Now) -> Mono {
        let within = u64::try_from(RECHECK_WITHIN.as_millis()).unwrap_or(u64::MAX);
        now.mono + Duration::from_millis(self.rng.random_range(0..=within))
    }

    fn close(&mut self, now: Now, item: ItemId) {
        self.cancel_all(|request| request.item == item);
        let Some(transfer) = self.items.get_mut(&item) else { return };
        transfer.closed = true;
        transfer.degraded_since = None;
        transfer.degraded_until = now.mono;
        if let Some(closure) = &transfer.closure {
            transfer.plan_due = closure.until;
        }
        for role in transfer.roles.iter_mut() {
            role.lease_until = now.mono;
        }
        transfer.roles.changed();
    }
}

impl Transfer {
    /// Goes on: as if work on it began now.
    pub(super) fn open(&mut self, now: Mono) {
        self.closure = None;
        self.closed = false;
        self.waiting.clear();
        self.plan_due = now;
        self.moved_at = now;
        self.fetching_since = now;
    }

    /// When something about its time is to be done.
    pub(super) fn closure_wakes(&self) -> impl Iterator<Item = Mono> {
        let closure = self.closure.as_ref();
        closure.into_iter().flat_map(|closure| [closure.from, closure.until])
    }

    /// Until when it is closed, and why, for people.
    pub(super) fn scheduled(&self) -> Option<(Option<Utc>, String)> {
        let closure = self.closure.as_ref().filter(|_| self.closed)?;
        Some((closure.opens, closure.why.clone()))
    }
}
