//! Sites: where boxes stand, when the line there is idle, how much may then be sent, and what a byte costs that comes
//! from elsewhere.
//!
//! A site without windows knows no peak: nothing waits there. One with windows keeps what may wait for them; a rate or
//! volume of zero lets nothing through, and what has no bound says so. Local times mean what [`calendar`] says. Never
//! reads a clock: the moment comes in.

pub mod calendar;
mod gate;
#[cfg(test)]
mod tests;
mod windows;
mod words;

use std::collections::BTreeMap;

pub use self::calendar::{CalendarError, Date, Local, TimeOfDay, Weekday, Zone};
pub use self::gate::{Action, Ask, Gate};
pub use self::windows::Span;
use crate::id::SiteId;
use crate::limit::Limit;
use crate::time::Utc;

/// Sites of one tracker. A country has a few hundred points of presence.
pub const MAX_SITES: usize = 1_000;

/// Windows of one site: one for each hour of the week.
pub const MAX_WINDOWS: usize = 168;

/// Holidays of one site: some years of them.
pub const MAX_HOLIDAYS: usize = 100;

/// Prices that one site may set for others by name.
pub const MAX_COSTS: usize = MAX_SITES;

/// Longest label of an ISP.
pub const MAX_ISP_BYTES: usize = 64;

/// What a byte costs that stays in its site.
pub const COST_SAME_SITE: u32 = 0;

/// What a byte costs from another site of the same ISP, unless it is said: its own backbone, which is paid for.
pub const COST_SAME_ISP: u32 = 10;

/// What a byte costs from anywhere else, unless it is said: transit. Ten times the backbone, so that no number of near
/// sources is passed over for a far one.
pub const COST_ELSEWHERE: u32 = 100;

/// When somebody wants a title to be delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivery {
    /// As soon as it can be.
    Anytime,
    /// In the windows of the site.
    OffPeak,
    /// From this moment on.
    NotBefore(Utc),
}

/// What a site does with queued titles of which nobody has said when they are wanted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum QueuedWhen {
    /// Delivers them at once.
    #[default]
    Anytime,
    /// Keeps them for its windows.
    OffPeak,
}

impl From<QueuedWhen> for Delivery {
    fn from(default: QueuedWhen) -> Delivery {
        match default {
            QueuedWhen::Anytime => Delivery::Anytime,
            QueuedWhen::OffPeak => Delivery::OffPeak,
        }
    }
}

/// A time of each week in which the line of a site may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// The day it begins on.
    pub day: Weekday,
    /// When it begins.
    pub from: TimeOfDay,
    /// When it ends: on the same day, or on the next one if that is not later than `from`.
    pub to: TimeOfDay,
    /// What may arrive at the site meanwhile.
    pub rate_bytes_per_sec: Limit<u64>,
    /// What may arrive at the site in one such window altogether.
    pub volume_bytes: Limit<u64>,
}

impl Window {
    /// Whether it ends on the day after it began.
    pub fn crosses_midnight(&self) -> bool {
        self.to <= self.from
    }

    /// Whether it can let anything through at all.
    fn is_of_use(&self) -> bool {
        self.rate_bytes_per_sec != Limit::Of(0) && self.volume_bytes != Limit::Of(0)
    }
}

/// Why a site cannot be as it was described.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SiteError {
    /// Say 00:00 and 24:00 for a whole day.
    #[error("a window that begins at {0} cannot end at the same time; a whole day is 00:00 to 24:00")]
    Empty(TimeOfDay),
    /// Say 00:00 of the day after.
    #[error("a window cannot begin at the end of a day; let it begin at 00:00 of the next")]
    BeginsAtEnd,
    /// Take the other one out first.
    #[error("a window begins on {0} at {1} already")]
    Twice(Weekday, TimeOfDay),
    /// Take something out first.
    #[error("a site has at most {at_most} {what}")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many there may be.
        at_most: usize,
    },
    /// Shorten it.
    #[error("the label of an ISP has at most {MAX_ISP_BYTES} bytes, on one line")]
    Isp,
    /// Leave it out.
    #[error("what a site costs itself is nothing, and cannot be set")]
    OwnCost,
}

/// One ISP region or point of presence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Site {
    id: SiteId,
    isp: String,
    zone: Zone,
    queued: QueuedWhen,
    windows: BTreeMap<(Weekday, TimeOfDay), Window>,
    holidays: BTreeMap<Date, Weekday>,
    costs: BTreeMap<SiteId, u32>,
}

impl Site {
    /// A site without windows, of no ISP, on UTC.
    pub fn new(id: SiteId) -> Site {
        Site {
            id,
            isp: String::new(),
            zone: Zone::utc(),
            queued: QueuedWhen::Anytime,
            windows: BTreeMap::new(),
            holidays: BTreeMap::new(),
            costs: BTreeMap::new(),
        }
    }

    /// Which.
    pub fn id(&self) -> &SiteId {
        &self.id
    }

    /// Whose it is; empty: nobody has said.
    pub fn isp(&self) -> &str {
        &self.isp
    }

    /// Which clock it lives by.
    pub fn zone(&self) -> &Zone {
        &self.zone
    }

    /// What it does with queued titles of which nobody has said when they are wanted.
    pub fn queued(&self) -> QueuedWhen {
        self.queued
    }

    /// Its windows, as the week goes.
    pub fn windows(&self) -> impl Iterator<Item = &Window> {
        self.windows.values()
    }

    /// Dates on which the windows of another day of the week apply.
    pub fn holidays(&self) -> impl Iterator<Item = (Date, Weekday)> {
        self.holidays.iter().map(|(date, day)| (*date, *day))
    }

    /// What was set for single other sites.
    pub fn costs(&self) -> impl Iterator<Item = (&SiteId, u32)> {
        self.costs.iter().map(|(site, cost)| (site, *cost))
    }

    /// Says whose it is.
    pub fn set_isp(&mut self, isp: &str) -> Result<(), SiteError> {
        let isp = isp.trim();
        if isp.len() > MAX_ISP_BYTES || isp.chars().any(char::is_control) {
            return Err(SiteError::Isp);
        }
        isp.clone_into(&mut self.isp);
        Ok(())
    }

    /// Says which clock it lives by.
    pub fn set_zone(&mut self, zone: Zone) {
        self.zone = zone;
    }

    /// Says what becomes of queued titles of which nobody has said when they are wanted.
    pub fn set_queued(&mut self, queued: QueuedWhen) {
        self.queued = queued;
    }

    /// Adds a window. Windows may overlap: then the more generous one counts, and what arrives is counted in the one
    /// that began first.
    pub fn add_window(&mut self, window: Window) -> Result<(), SiteError> {
        if window.from == TimeOfDay::END {
            return Err(SiteError::BeginsAtEnd);
        }
        if window.from == window.to {
            return Err(SiteError::Empty(window.from));
        }
        if self.windows.contains_key(&(window.day, window.from)) {
            return Err(SiteError::Twice(window.day, window.from));
        }
        room(self.windows.len(), "windows", MAX_WINDOWS)?;
        self.windows.insert((window.day, window.from), window);
        Ok(())
    }

    /// Lets the windows of another day apply on this date.
    pub fn add_holiday(&mut self, date: Date, as_day: Weekday) -> Result<(), SiteError> {
        if !self.holidays.contains_key(&date) {
            room(self.holidays.len(), "holidays", MAX_HOLIDAYS)?;
        }
        self.holidays.insert(date, as_day);
        Ok(())
    }

    /// Sets what a byte costs here that comes from that site.
    pub fn set_cost(&mut self, from: SiteId, cost: u32) -> Result<(), SiteError> {
        if from == self.id {
            return Err(SiteError::OwnCost);
        }
        if !self.costs.contains_key(&from) {
            room(self.costs.len(), "costs", MAX_COSTS)?;
        }
        self.costs.insert(from, cost);
        Ok(())
    }

    /// What a byte costs here that comes from a site, of which nothing but its name may be known.
    pub fn cost_from(&self, from: &SiteId, isp: Option<&str>) -> u32 {
        if *from == self.id {
            return COST_SAME_SITE;
        }
        let same_isp = !self.isp.is_empty() && isp == Some(self.isp.as_str());
        let usual = if same_isp { COST_SAME_ISP } else { COST_ELSEWHERE };
        self.costs.get(from).copied().unwrap_or(usual)
    }
}

fn room(have: usize, what: &'static str, at_most: usize) -> Result<(), SiteError> {
    if have < at_most { Ok(()) } else { Err(SiteError::TooMany { what, at_most }) }
}

/// Whether something may be sent to a site now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Yes.
    Open {
        /// Until then at most; none: nothing ends it.
        until: Option<Utc>,
    },
    /// No.
    Closed(Closed),
}

/// Why something waits, and for what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Closed {
    /// When it may go on; none: never, as things stand.
    pub opens: Option<Utc>,
    /// When the window ends that begins then, if it is one.
    pub ends: Option<Utc>,
    /// Why.
    pub why: Why,
}

/// Why something waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Why {
    /// Its customer wants it later.
    NotYet,
    /// It is kept for a window, and there is none now.
    OutsideWindows,
    /// There is a window, and its volume is used up.
    UsedUp,
    /// No window of the site lets anything through.
    NothingAllowed,
}
