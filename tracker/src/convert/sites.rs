//! Sites and wishes about time, as messages.

use swarm_proto::id::SiteId;
use swarm_proto::invalid::Invalid;
use swarm_proto::limit::Limit;
use swarm_proto::pb::common as pb_common;
use swarm_proto::pb::tracker as pb;
use swarm_proto::time::Utc;
use swarm_proto::tracker::sites::{Delivery, QueuedWhen, Site, TimeOfDay, Weekday, Window, Zone};

use crate::records::Described;

/// A site by its name.
pub(crate) fn site_id(field: &'static str, name: &str) -> Result<SiteId, Invalid> {
    SiteId::new(name).map_err(|error| Invalid::new(field, error.to_string()))
}

/// A site as an operator describes it, and the version they had seen.
pub(crate) fn described(message: Option<pb::Site>) -> Result<Described, Invalid> {
    let message = message.ok_or_else(|| Invalid::new("site", "is missing"))?;
    let version = message.version;
    site(message).map(|site| Described { site, version }).map_err(|error| error.inside("site"))
}

fn site(message: pb::Site) -> Result<Site, Invalid> {
    let mut site = Site::new(site_id("site", &message.site)?);
    site.set_isp(&message.isp).map_err(|error| Invalid::new("isp", error.to_string()))?;
    site.set_zone(Zone::named(&message.time_zone).map_err(|error| Invalid::new("time_zone", error.to_string()))?);
    site.set_queued(if message.queued_off_peak { QueuedWhen::OffPeak } else { QueuedWhen::Anytime });
    for (at, message) in message.windows.into_iter().enumerate() {
        let inside = |error: Invalid| error.inside(format!("windows[{at}]"));
        let window = window(message).map_err(inside)?;
        site.add_window(window).map_err(|error| inside(Invalid::new("from_secs", error.to_string())))?;
    }
    for (at, message) in message.holidays.into_iter().enumerate() {
        let inside = |error: Invalid| error.inside(format!("holidays[{at}]"));
        let date = message.date.parse().map_err(|error| inside(said("date", &error)))?;
        let as_day = weekday("as_day", message.as_day).map_err(inside)?;
        site.add_holiday(date, as_day).map_err(|error| inside(said("date", &error)))?;
    }
    for (at, message) in message.costs.into_iter().enumerate() {
        let inside = |error: Invalid| error.inside(format!("costs[{at}]"));
        let from = site_id("from_site", &message.from_site).map_err(inside)?;
        site.set_cost(from, message.cost).map_err(|error| inside(said("from_site", &error)))?;
    }
    Ok(site)
}

fn window(message: pb::Window) -> Result<Window, Invalid> {
    let time = |field, secs| TimeOfDay::from_secs(secs).ok_or_else(|| Invalid::new(field, "must be at most 86400"));
    Ok(Window {
        day: weekday("day", message.day)?,
        from: time("from_secs", message.from_secs)?,
        to: time("to_secs", message.to_secs)?,
        rate_bytes_per_sec: limit("rate_per_sec", message.rate_per_sec)?,
        volume_bytes: limit("volume", message.volume)?,
    })
}

fn weekday(field: &'static str, number: u32) -> Result<Weekday, Invalid> {
    Weekday::of_number(number).ok_or_else(|| Invalid::new(field, "must be 0 (Monday) to 6 (Sunday)"))
}

/// Zero is a limit here: nothing.
fn limit(field: &'static str, message: Option<pb_common::BytesLimit>) -> Result<Limit<u64>, Invalid> {
    use pb_common::bytes_limit::Limit as Form;
    match message.and_then(|message| message.limit) {
        Some(Form::Bytes(bytes)) => Ok(Limit::Of(bytes)),
        Some(Form::Unlimited(_)) => Ok(Limit::Unlimited),
        None => Err(Invalid::new(field, "must be stated: a number of bytes, 0 being none, or unlimited")),
    }
}

fn said(field: &'static str, error: &impl std::fmt::Display) -> Invalid {
    Invalid::new(field, error.to_string())
}

/// A site as operators see it.
pub(crate) fn site_message(described: &Described) -> pb::Site {
    let Described { site, version } = described;
    let windows = site.windows().map(|window| pb::Window {
        day: window.day.number(),
        from_secs: window.from.as_secs(),
        to_secs: window.to.as_secs(),
        rate_per_sec: Some(window.rate_bytes_per_sec.into()),
        volume: Some(window.volume_bytes.into()),
    });
    let holidays = site.holidays().map(|(date, day)| pb::Holiday { date: date.to_string(), as_day: day.number() });
    pb::Site {
        site: site.id().to_string(),
        isp: site.isp().to_owned(),
        time_zone: site.zone().name().to_owned(),
        queued_off_peak: site.queued() == QueuedWhen::OffPeak,
        windows: windows.collect(),
        holidays: holidays.collect(),
        costs: site.costs().map(|(from, cost)| pb::Cost { from_site: from.to_string(), cost }).collect(),
        version: *version,
    }
}

/// When a title is wanted.
pub(crate) fn delivery(message: Option<pb::Delivery>) -> Result<Option<Delivery>, Invalid> {
    use pb::delivery::When;
    let Some(message) = message else { return Ok(None) };
    match message.when {
        Some(When::Anytime(true)) => Ok(Some(Delivery::Anytime)),
        Some(When::OffPeak(true)) => Ok(Some(Delivery::OffPeak)),
        Some(When::NotBeforeUtcMs(millis)) if millis <= Utc::MAX.as_millis() => {
            Ok(Some(Delivery::NotBefore(Utc::from_millis(millis))))
        }
        Some(When::NotBeforeUtcMs(_)) => Err(Invalid::new("delivery.not_before_utc_ms", "lies after the year 9999")),
        Some(When::Anytime(false)) => Err(Invalid::new("delivery.anytime", "must be true where it is set")),
        Some(When::OffPeak(false)) => Err(Invalid::new("delivery.off_peak", "must be true where it is set")),
        None => Err(Invalid::new("delivery", "says nothing that this tracker knows")),
    }
}

/// When a title is wanted, as devices see it.
pub(crate) fn delivery_message(delivery: Delivery) -> pb::Delivery {
    use pb::delivery::When;
    let when = match delivery {
        Delivery::Anytime => When::Anytime(true),
        Delivery::OffPeak => When::OffPeak(true),
        Delivery::NotBefore(moment) => When::NotBeforeUtcMs(moment.as_millis()),
    };
    pb::Delivery { when: Some(when) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message() -> pb::Site {
        let window = pb::Window {
            day: 4,
            from_secs: 79_200,
            to_secs: 21_600,
            rate_per_sec: Some(Limit::Of(0).into()),
            volume: Some(Limit::Unlimited.into()),
        };
        pb::Site {
            site: "north".to_owned(),
            isp: "Coast".to_owned(),
            time_zone: "Europe/Berlin".to_owned(),
            queued_off_peak: true,
            windows: vec![window],
            holidays: vec![pb::Holiday { date: "2026-12-24".to_owned(), as_day: 6 }],
            costs: vec![pb::Cost { from_site: "south".to_owned(), cost: 3 }],
            version: 7,
        }
    }

    fn refused(change: impl FnOnce(&mut pb::Site)) -> String {
        let mut message = message();
        change(&mut message);
        described(Some(message)).expect_err("it is refused").field.into_owned()
    }

    #[test]
    fn site_is_written_as_it_was_read_and_zero_stays_zero() {
        assert_eq!(site_message(&described(Some(message())).unwrap()), message());
    }

    #[test]
    fn description_that_breaks_a_rule_is_refused_by_the_name_of_the_field() {
        assert_eq!(refused(|it| it.site.clear()), "site.site");
        assert_eq!(refused(|it| it.time_zone = "Nowhere".to_owned()), "site.time_zone");
        assert_eq!(refused(|it| it.windows[0].day = 7), "site.windows[0].day");
        assert_eq!(refused(|it| it.windows[0].to_secs = 86_401), "site.windows[0].to_secs");
        assert_eq!(refused(|it| it.windows[0].to_secs = 79_200), "site.windows[0].from_secs");
        assert_eq!(refused(|it| it.windows[0].volume = None), "site.windows[0].volume");
        assert_eq!(refused(|it| it.windows.push(it.windows[0])), "site.windows[1].from_secs");
        assert_eq!(refused(|it| it.holidays[0].date = "2026-13-01".to_owned()), "site.holidays[0].date");
        assert_eq!(refused(|it| it.costs[0].from_site = "north".to_owned()), "site.costs[0].from_site");
        assert_eq!(described(None).unwrap_err().field, "site");
    }

    #[test]
    fn wishes_about_time_are_read_as_they_are_written() {
        for wish in [Delivery::Anytime, Delivery::OffPeak, Delivery::NotBefore(Utc::MAX)] {
            assert_eq!(delivery(Some(delivery_message(wish))), Ok(Some(wish)));
        }
        assert_eq!(delivery(None), Ok(None));
        let bad = |when| delivery(Some(pb::Delivery { when })).unwrap_err().field.into_owned();
        assert_eq!(bad(Some(pb::delivery::When::NotBeforeUtcMs(u64::MAX))), "delivery.not_before_utc_ms");
        assert_eq!(bad(Some(pb::delivery::When::OffPeak(false))), "delivery.off_peak");
        assert_eq!(bad(None), "delivery");
    }
}
