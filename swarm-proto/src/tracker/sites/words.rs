//! When something goes on, as one says it: "tonight 01:00–06:00".

use super::{Closed, Local, Site, Why};
use crate::time::Utc;

/// A night begins at this hour and lasts until [`MORNING`] of the next day.
const EVENING: u32 = 18;

/// See [`EVENING`].
const MORNING: u32 = 6;

const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

impl Site {
    /// What a person is told who waits for this, in the site's own time.
    pub fn in_words(&self, now: Utc, closed: &Closed) -> String {
        let Some(opens) = closed.opens else {
            return "the windows of this site let nothing through".to_owned();
        };
        let (local, opens) = (self.zone.local(now), self.zone.local(opens));
        let from = format!("{} {}", day(local, opens), opens.time);
        let until = closed.ends.map(|ends| format!("–{}", self.zone.local(ends).time)).unwrap_or_default();
        match closed.why {
            Why::NotYet => format!("not before {from}"),
            Why::UsedUp => format!("{from}{until}, as the volume of this window is used up"),
            Why::OutsideWindows | Why::NothingAllowed => format!("{from}{until}"),
        }
    }
}

fn day(now: Local, then: Local) -> String {
    let night = |local: Local| match local.time.hour() {
        ..MORNING => local.date.previous(),
        EVENING.. => Some(local.date),
        _ => None,
    };
    // Before morning, tonight is the night that is not over.
    let this_night = night(now).or(Some(now.date));
    let tomorrow = now.date.next();
    if night(then).is_some() && night(then) == this_night {
        return "tonight".to_owned();
    }
    if then.date == now.date {
        return "today".to_owned();
    }
    if Some(then.date) == tomorrow {
        return "tomorrow".to_owned();
    }
    let (day, month) = then.date.day_and_month();
    let month = MONTHS[usize::from(month.saturating_sub(1)).min(MONTHS.len() - 1)];
    format!("{} {day} {month}", then.date.weekday().short())
}
