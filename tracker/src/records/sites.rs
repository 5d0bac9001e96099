//! How sites lie in the store, and how much has arrived in their windows.

use prost::Message;
use swarm_proto::id::SiteId;
use swarm_proto::limit::Limit;
use swarm_proto::time::Utc;
use swarm_proto::tracker::sites::{QueuedWhen, Site, TimeOfDay, Weekday, Window, Zone};

use super::{Key, MAX_PARTS, Records};

/// A site and how often it has been described.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Described {
    pub(crate) site: Site,
    pub(crate) version: u64,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct StoredSite {
    #[prost(uint64, tag = "1")]
    version: u64,
    #[prost(string, tag = "2")]
    isp: String,
    #[prost(string, tag = "3")]
    zone: String,
    #[prost(bool, tag = "4")]
    queued_off_peak: bool,
    #[prost(message, repeated, tag = "5")]
    windows: Vec<StoredWindow>,
    #[prost(message, repeated, tag = "6")]
    holidays: Vec<StoredHoliday>,
    #[prost(message, repeated, tag = "7")]
    costs: Vec<StoredCost>,
}

#[derive(Clone, PartialEq, Message)]
struct StoredWindow {
    #[prost(uint32, tag = "1")]
    day: u32,
    #[prost(uint32, tag = "2")]
    from_secs: u32,
    #[prost(uint32, tag = "3")]
    to_secs: u32,
    /// None: unlimited.
    #[prost(uint64, optional, tag = "4")]
    rate_bytes_per_sec: Option<u64>,
    /// None: unlimited.
    #[prost(uint64, optional, tag = "5")]
    volume_bytes: Option<u64>,
}

#[derive(Clone, PartialEq, Message)]
struct StoredHoliday {
    #[prost(string, tag = "1")]
    date: String,
    #[prost(uint32, tag = "2")]
    as_day: u32,
}

#[derive(Clone, PartialEq, Message)]
struct StoredCost {
    #[prost(string, tag = "1")]
    from: String,
    #[prost(uint32, tag = "2")]
    cost: u32,
}

/// What has arrived in the windows that are remembered.
#[derive(Clone, PartialEq, Message)]
pub(super) struct StoredUse {
    #[prost(message, repeated, tag = "1")]
    windows: Vec<StoredUsed>,
}

#[derive(Clone, PartialEq, Message)]
struct StoredUsed {
    #[prost(uint64, tag = "1")]
    began_utc_ms: u64,
    #[prost(uint64, tag = "2")]
    bytes: u64,
}

impl Records {
    pub(crate) fn site(self, described: &Described) -> Records {
        let Described { site, version } = described;
        let windows = site.windows().map(|window| StoredWindow {
            day: window.day.number(),
            from_secs: window.from.as_secs(),
            to_secs: window.to.as_secs(),
            rate_bytes_per_sec: window.rate_bytes_per_sec.bound(),
            volume_bytes: window.volume_bytes.bound(),
        });
        let holidays =
            site.holidays().map(|(date, day)| StoredHoliday { date: date.to_string(), as_day: day.number() });
        let stored = StoredSite {
            version: *version,
            isp: site.isp().to_owned(),
            zone: site.zone().name().to_owned(),
            queued_off_peak: site.queued() == QueuedWhen::OffPeak,
            windows: windows.collect(),
            holidays: holidays.collect(),
            costs: site.costs().map(|(from, cost)| StoredCost { from: from.to_string(), cost }).collect(),
        };
        self.parts(|part| Key::SitePart(site.id(), part), &stored.encode_to_vec())
    }

    pub(crate) fn forgotten_site(self, site: &SiteId) -> Records {
        let Records(mut batch) = self;
        for part in 0..MAX_PARTS {
            batch = batch.delete(Key::SitePart(site, part).bytes());
        }
        Records(batch.delete(Key::SiteUse(site).bytes()))
    }

    pub(crate) fn site_use(self, site: &SiteId, used: impl Iterator<Item = (Utc, u64)>) -> Records {
        let windows = used.map(|(began, bytes)| StoredUsed { began_utc_ms: began.as_millis(), bytes });
        self.put(Key::SiteUse(site), StoredUse { windows: windows.collect() }.encode_to_vec())
    }
}

/// A name in so many bytes that no name is the beginning of another.
pub(super) fn padded(site: &SiteId) -> [u8; SiteId::MAX_LEN] {
    let mut padded = [0; SiteId::MAX_LEN];
    padded[..site.as_str().len()].copy_from_slice(site.as_str().as_bytes());
    padded
}

pub(super) fn site(key: &[u8], value: &[u8]) -> Option<Described> {
    let stored = StoredSite::decode(value).ok()?;
    let mut site = Site::new(named(key)?);
    site.set_isp(&stored.isp).ok()?;
    site.set_zone(Zone::named(&stored.zone).ok()?);
    site.set_queued(if stored.queued_off_peak { QueuedWhen::OffPeak } else { QueuedWhen::Anytime });
    let limit = |bound: Option<u64>| bound.map_or(Limit::Unlimited, Limit::Of);
    for window in stored.windows {
        let window = Window {
            day: Weekday::of_number(window.day)?,
            from: TimeOfDay::from_secs(window.from_secs)?,
            to: TimeOfDay::from_secs(window.to_secs)?,
            rate_bytes_per_sec: limit(window.rate_bytes_per_sec),
            volume_bytes: limit(window.volume_bytes),
        };
        site.add_window(window).ok()?;
    }
    for holiday in stored.holidays {
        site.add_holiday(holiday.date.parse().ok()?, Weekday::of_number(holiday.as_day)?).ok()?;
    }
    for cost in stored.costs {
        site.set_cost(SiteId::new(&cost.from).ok()?, cost.cost).ok()?;
    }
    Some(Described { site, version: stored.version })
}

pub(super) fn site_use(key: &[u8], value: &[u8]) -> Option<(SiteId, Vec<(Utc, u64)>)> {
    let stored = StoredUse::decode(value).ok()?;
    let windows = stored.windows.into_iter().map(|used| (Utc::from_millis(used.began_utc_ms), used.bytes));
    Some((named(key)?, windows.collect()))
}

fn named(key: &[u8]) -> Option<SiteId> {
    let padded = key.get(1..1 + SiteId::MAX_LEN)?;
    let name = padded.split(|byte| *byte == 0).next()?;
    SiteId::new(std::str::from_utf8(name).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use daemon::store::Memory;
    use swarm_proto::tracker::sites::{MAX_COSTS, MAX_HOLIDAYS, MAX_WINDOWS};

    use super::super::Everything;
    use super::*;

    /// A site with as much of everything as one can have.
    fn longest() -> Described {
        let name = |n: usize| SiteId::new(&format!("{n:032}")).unwrap();
        let mut site = Site::new(name(1_000_000));
        site.set_isp(&"x".repeat(64)).unwrap();
        site.set_zone("America/Argentina/ComodRivadavia".parse().unwrap());
        site.set_queued(QueuedWhen::OffPeak);
        for n in 0..u32::try_from(MAX_WINDOWS).unwrap() {
            let from = TimeOfDay::from_secs(n / 7 * 3_600).unwrap();
            let day = Weekday::of_number(n % 7).unwrap();
            let (rate, volume) = (Limit::Of(u64::MAX), Limit::Of(u64::MAX - 1));
            let to = TimeOfDay::from_secs(n / 7 * 3_600 + 1_801).unwrap();
            site.add_window(Window { day, from, to, rate_bytes_per_sec: rate, volume_bytes: volume }).unwrap();
        }
        for n in 0..MAX_HOLIDAYS {
            let date = format!("2026-{:02}-{:02}", 1 + n / 28, 1 + n % 28);
            site.add_holiday(date.parse().unwrap(), Weekday::Sunday).unwrap();
        }
        (0..MAX_COSTS).for_each(|n| site.set_cost(name(n), u32::MAX).unwrap());
        Described { site, version: u64::MAX }
    }

    #[tokio::test]
    async fn longest_site_comes_back_whole_and_a_forgotten_one_does_not() {
        let store = Memory::new();
        let described = longest();
        let used = [(Utc::from_secs(1_800_000_000), 7), (Utc::from_secs(1_800_090_000), u64::MAX)];
        let records = Records::new().site(&described).site_use(described.site.id(), used.into_iter());
        records.commit(&store).await.unwrap();
        let all = Everything::load(&store).await.unwrap();
        assert_eq!(all.sites, std::slice::from_ref(&described));
        assert_eq!(all.site_use, [(described.site.id().clone(), used.to_vec())]);

        Records::new().forgotten_site(described.site.id()).commit(&store).await.unwrap();
        let all = Everything::load(&store).await.unwrap();
        assert!(all.sites.is_empty() && all.site_use.is_empty());
    }

    #[tokio::test]
    async fn sites_whose_names_begin_alike_are_kept_apart() {
        let store = Memory::new();
        for name in ["north", "north-2", "n"] {
            let described = Described { site: Site::new(SiteId::new(name).unwrap()), version: 1 };
            Records::new().site(&described).commit(&store).await.unwrap();
        }
        let all = Everything::load(&store).await.unwrap();
        let names: Vec<&str> = all.sites.iter().map(|it| it.site.id().as_str()).collect();
        assert_eq!(names, ["n", "north", "north-2"]);
    }
}
