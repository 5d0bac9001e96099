//! `tracker site`: where devices stand, when the line there is idle, and what bytes cost between sites.
//!
//! Each change reads the site, changes it and writes it back whole; the tracker refuses it if somebody else was
//! faster. With `--dry-run` it only says what would happen.

use clap::{Args, Subcommand, ValueEnum};
use daemon::exit::{Exit, Failure};
use daemon::units::{ByteRate, ByteSize, Limit};
use serde::Serialize;
use swarm_proto::id::SiteId;
use swarm_proto::pb::common as pb_common;
use swarm_proto::pb::tracker as pb;
use swarm_proto::tracker::sites::{Date, TimeOfDay, Weekday, Zone};

use super::Global;
use super::client::{Tracker, table};
use crate::human;

/// Seconds of a day.
const DAY_SECS: u32 = 86_400;

#[derive(Subcommand)]
pub(super) enum SiteCommand {
    /// List sites
    Ls,
    /// Show a site and its week
    Show {
        /// Its name
        site: SiteId,
    },
    /// Describe a site, or change what was said about it
    Set {
        /// Its name
        site: SiteId,
        /// Its time zone, such as Europe/Berlin [default for a new site: UTC]
        #[arg(long)]
        zone: Option<Zone>,
        /// Label of its ISP; sites with the same one are near one another
        #[arg(long)]
        isp: Option<String>,
        /// What becomes of queued titles of which nobody says when they are wanted
        #[arg(long, value_enum)]
        queued: Option<Queued>,
        #[command(flatten)]
        act: Act,
    },
    /// Forget what was said about a site
    Rm {
        /// Its name
        site: SiteId,
        #[command(flatten)]
        act: Act,
    },
    /// Say when its line is idle
    #[command(subcommand)]
    Window(WindowCommand),
    /// Let another day's windows apply on a date
    #[command(subcommand)]
    Holiday(HolidayCommand),
    /// Say what a byte costs that comes from another site
    #[command(subcommand)]
    Cost(CostCommand),
}

#[derive(Subcommand)]
pub(super) enum WindowCommand {
    /// Add a window on some days
    Add {
        /// Name of the site
        site: SiteId,
        /// Days it begins on: daily, mon-fri, or sat,sun
        days: Days,
        /// Local times, such as 01:00-06:00; may cross midnight
        times: Times,
        /// What may arrive at the site meanwhile, such as 500MB/s; 0B/s is nothing
        #[arg(long, default_value = "unlimited")]
        rate: Limit<ByteRate>,
        /// What may arrive in one such window altogether, such as 2TB; 0B is nothing
        #[arg(long, default_value = "unlimited")]
        volume: Limit<ByteSize>,
        #[command(flatten)]
        act: Act,
    },
    /// Take a window out
    Rm {
        /// Name of the site
        site: SiteId,
        /// Days it begins on: daily, mon-fri, or sat,sun
        days: Days,
        /// When it begins, such as 01:00
        from: TimeOfDay,
        #[command(flatten)]
        act: Act,
    },
}

#[derive(Subcommand)]
pub(super) enum HolidayCommand {
    /// Add a date
    Add {
        /// Name of the site
        site: SiteId,
        /// The date, such as 2026-12-24
        date: Date,
        /// The day whose windows apply, such as sun
        day: Weekday,
        #[command(flatten)]
        act: Act,
    },
    /// Take a date out
    Rm {
        /// Name of the site
        site: SiteId,
        /// The date
        date: Date,
        #[command(flatten)]
        act: Act,
    },
}

#[derive(Subcommand)]
pub(super) enum CostCommand {
    /// Set what a byte costs: 0 is free, 10 is usual within an ISP, 100 elsewhere
    Set {
        /// Where it arrives
        site: SiteId,
        /// Where it comes from
        from: SiteId,
        /// What it costs
        cost: u32,
        #[command(flatten)]
        act: Act,
    },
    /// Let it cost what is usual again
    Rm {
        /// Where it arrives
        site: SiteId,
        /// Where it comes from
        from: SiteId,
        #[command(flatten)]
        act: Act,
    },
}

/// How a change is made.
#[derive(Debug, Clone, Copy, Args)]
pub(super) struct Act {
    /// Change nothing, say what would happen
    #[arg(long)]
    dry_run: bool,
}

/// What becomes of queued titles of which nobody says when they are wanted.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum Queued {
    /// They come at once
    Anytime,
    /// They wait for a window
    OffPeak,
}

/// Some days of the week.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Days(Vec<Weekday>);

impl std::str::FromStr for Days {
    type Err = String;

    fn from_str(text: &str) -> Result<Days, String> {
        if text.eq_ignore_ascii_case("daily") {
            return Ok(Days(Weekday::ALL.to_vec()));
        }
        let mut days = Vec::new();
        for part in text.split(',') {
            let (from, to) = part.split_once('-').unwrap_or((part, part));
            let day = |text: &str| text.parse::<Weekday>().map_err(|error| error.to_string());
            let (from, to) = (day(from)?, day(to)?);
            let first = Weekday::ALL.iter().cycle().skip(from.number() as usize);
            for day in first.take(1 + ((to.number() + 7 - from.number()) % 7) as usize) {
                if !days.contains(day) {
                    days.push(*day);
                }
            }
        }
        Ok(Days(days))
    }
}

/// From when to when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Times {
    from: TimeOfDay,
    to: TimeOfDay,
}

impl std::str::FromStr for Times {
    type Err = String;

    fn from_str(text: &str) -> Result<Times, String> {
        let (from, to) = text.split_once('-').ok_or("times are written as 01:00-06:00")?;
        let time = |text: &str| text.trim().parse::<TimeOfDay>().map_err(|error| error.to_string());
        Ok(Times { from: time(from)?, to: time(to)? })
    }
}

/// A site as `--json` prints it.
#[derive(Serialize)]
struct SiteLine {
    site: String,
    isp: String,
    time_zone: String,
    queued: &'static str,
    devices: u32,
    online: u32,
    open: bool,
    waiting: String,
    used_bytes: u64,
    windows: Vec<WindowLine>,
    holidays: Vec<HolidayLine>,
    costs: Vec<CostLine>,
    version: u64,
}

#[derive(Serialize)]
struct WindowLine {
    day: String,
    from: String,
    to: String,
    rate_bytes_per_sec: LimitLine,
    volume_bytes: LimitLine,
}

#[derive(Serialize)]
struct HolidayLine {
    date: String,
    as_day: String,
}

#[derive(Serialize)]
struct CostLine {
    from: String,
    cost: u32,
}

/// A number, or the word.
#[derive(Serialize)]
#[serde(untagged)]
enum LimitLine {
    Of(u64),
    Unlimited(&'static str),
}

/// A change as `--json` prints it.
#[derive(Serialize)]
struct ChangedLine {
    dry_run: bool,
    /// Downloads that are stopped.
    stopped: u32,
    /// Waiting ones that may begin.
    begun: u32,
    #[serde(flatten)]
    site: SiteLine,
}

pub(super) async fn run(global: &Global, command: SiteCommand) -> anyhow::Result<Exit> {
    let mut tracker = Tracker::of(global).await?;
    match command {
        SiteCommand::Ls => ls(global, tracker).await,
        SiteCommand::Show { site } => {
            let state = tracker.site(&site).await?;
            global.print(&SiteLine::of(&state), || screen(&state))
        }
        SiteCommand::Set { site, zone, isp, queued, act } => {
            let mut message = tracker.site_or_new(&site).await?;
            if let Some(zone) = zone {
                zone.name().clone_into(&mut message.time_zone);
            }
            if let Some(isp) = isp {
                message.isp = isp;
            }
            if let Some(queued) = queued {
                message.queued_off_peak = matches!(queued, Queued::OffPeak);
            }
            put(global, tracker, message, act).await
        }
        SiteCommand::Rm { site, act } => {
            let request = pb::RemoveSiteRequest { site: site.to_string(), dry_run: act.dry_run };
            let answer = tracker.sites.remove_site(request).await;
            let changed = tracker.answer(answer)?;
            say(global, &changed, act)
        }
        SiteCommand::Window(command) => window(global, tracker, command).await,
        SiteCommand::Holiday(command) => holiday(global, tracker, command).await,
        SiteCommand::Cost(command) => cost(global, tracker, command).await,
    }
}

async fn ls(global: &Global, mut tracker: Tracker) -> anyhow::Result<Exit> {
    let answer = tracker.sites.list_sites(pb::ListSitesRequest {}).await;
    let states = tracker.answer(answer)?.sites;
    let all: Vec<SiteLine> = states.iter().map(SiteLine::of).collect();
    let row = |it: &SiteLine| {
        let now = if it.windows.is_empty() { "no windows".to_owned() } else { open_or(it.open, &it.waiting) };
        let devices = format!("{} of {}", it.online, it.devices);
        [it.site.clone(), it.isp.clone(), it.time_zone.clone(), devices, it.queued.to_owned(), now]
    };
    global.print_list(&all, || table(["SITE", "ISP", "TIME ZONE", "ONLINE", "QUEUED", "WINDOW"], &all, row))
}

async fn window(global: &Global, mut tracker: Tracker, command: WindowCommand) -> anyhow::Result<Exit> {
    match command {
        WindowCommand::Add { site, days: Days(days), times, rate, volume, act } => {
            let mut message = tracker.described_site(&site).await?;
            message.windows.extend(days.iter().map(|day| pb::Window {
                day: day.number(),
                from_secs: times.from.as_secs(),
                to_secs: times.to.as_secs(),
                rate_per_sec: Some(bytes_limit(rate.at().map(ByteRate::bytes_per_sec))),
                volume: Some(bytes_limit(volume.at().map(ByteSize::bytes))),
            }));
            put(global, tracker, message, act).await
        }
        WindowCommand::Rm { site, days: Days(days), from, act } => {
            let mut message = tracker.described_site(&site).await?;
            let before = message.windows.len();
            let meant = |window: &pb::Window| {
                window.from_secs == from.as_secs() && days.iter().any(|day| day.number() == window.day)
            };
            message.windows.retain(|window| !meant(window));
            if message.windows.len() == before {
                return Err(absent(&site, format!("no window that begins at {from} on these days")).into());
            }
            put(global, tracker, message, act).await
        }
    }
}

async fn holiday(global: &Global, mut tracker: Tracker, command: HolidayCommand) -> anyhow::Result<Exit> {
    match command {
        HolidayCommand::Add { site, date, day, act } => {
            let mut message = tracker.described_site(&site).await?;
            message.holidays.retain(|holiday| holiday.date != date.to_string());
            message.holidays.push(pb::Holiday { date: date.to_string(), as_day: day.number() });
            put(global, tracker, message, act).await
        }
        HolidayCommand::Rm { site, date, act } => {
            let mut message = tracker.described_site(&site).await?;
            let before = message.holidays.len();
            message.holidays.retain(|holiday| holiday.date != date.to_string());
            if message.holidays.len() == before {
                return Err(absent(&site, format!("no holiday on {date}")).into());
            }
            put(global, tracker, message, act).await
        }
    }
}

async fn cost(global: &Global, mut tracker: Tracker, command: CostCommand) -> anyhow::Result<Exit> {
    match command {
        CostCommand::Set { site, from, cost, act } => {
            let mut message = tracker.described_site(&site).await?;
            message.costs.retain(|it| it.from_site != from.as_str());
            message.costs.push(pb::Cost { from_site: from.to_string(), cost });
            put(global, tracker, message, act).await
        }
        CostCommand::Rm { site, from, act } => {
            let mut message = tracker.described_site(&site).await?;
            let before = message.costs.len();
            message.costs.retain(|it| it.from_site != from.as_str());
            if message.costs.len() == before {
                return Err(absent(&site, format!("no price of its own for what comes from {from}")).into());
            }
            put(global, tracker, message, act).await
        }
    }
}

impl Tracker {
    async fn site(&mut self, site: &SiteId) -> Result<pb::SiteState, Failure> {
        let answer = self.sites.get_site(pb::GetSiteRequest { site: site.to_string() }).await;
        self.answer(answer)
    }

    /// A site as it was described.
    async fn described_site(&mut self, site: &SiteId) -> Result<pb::Site, Failure> {
        Ok(self.site(site).await?.site.unwrap_or_default())
    }

    /// A site as it was described, or as one begins.
    async fn site_or_new(&mut self, site: &SiteId) -> Result<pb::Site, Failure> {
        match self.described_site(site).await {
            Err(failure) if failure.exit == Exit::NotFound => {
                Ok(pb::Site { site: site.to_string(), time_zone: "UTC".to_owned(), ..pb::Site::default() })
            }
            found => found,
        }
    }
}

async fn put(global: &Global, mut tracker: Tracker, site: pb::Site, act: Act) -> anyhow::Result<Exit> {
    let answer = tracker.sites.put_site(pb::PutSiteRequest { site: Some(site), dry_run: act.dry_run }).await;
    let changed = tracker.answer(answer)?;
    say(global, &changed, act)
}

fn say(global: &Global, changed: &pb::SiteChanged, act: Act) -> anyhow::Result<Exit> {
    let state = changed.state.clone().unwrap_or_default();
    let pb::SiteChanged { stopped, begun, .. } = *changed;
    let line = ChangedLine { dry_run: act.dry_run, stopped, begun, site: SiteLine::of(&state) };
    global.print(&line, || {
        let (head, stop, begin) = match act.dry_run {
            true => ("nothing is changed; it would be:\n", "would be stopped", "could begin"),
            false => ("", "stopped", "may begin"),
        };
        format!("{head}{}{stopped} downloads {stop}, {begun} waiting ones {begin}\n", screen(&state))
    })
}

/// A site, for a person.
fn screen(state: &pb::SiteState) -> String {
    let line = SiteLine::of(state);
    let isp = if line.isp.is_empty() { "unknown" } else { &line.isp };
    let mut text = format!(
        "{}  ISP {isp}, {}, {} of {} devices online\n  queued titles: {}\n",
        line.site, line.time_zone, line.online, line.devices, line.queued
    );
    if line.windows.is_empty() {
        text.push_str("  no windows: nothing waits for one\n");
    } else {
        let used = human::bytes(line.used_bytes);
        let now = open_or(line.open, &line.waiting);
        text.push_str(&format!("  now: {now}, {used} arrived in this window\n\n{}", week(state)));
    }
    let list = |heading: &str, rows: Vec<String>| match rows.is_empty() {
        true => String::new(),
        false => format!("\n{heading}\n  {}\n", rows.join("\n  ")),
    };
    let holidays = line.holidays.iter().map(|it| format!("{} as a {}", it.date, it.as_day));
    text.push_str(&list("holidays", holidays.collect()));
    let costs = line.costs.iter().map(|it| format!("from {}: {}", it.from, it.cost));
    text.push_str(&list("costs a byte, of its own", costs.collect()));
    text
}

/// The week as a table: a row for each time of day, a mark for each day it holds on.
fn week(state: &pb::SiteState) -> String {
    let mut windows: Vec<pb::Window> = state.site.iter().flat_map(|site| site.windows.clone()).collect();
    windows.sort_by_key(|window| (window.from_secs, window.to_secs, window.day));
    let mut rows: Vec<(pb::Window, [String; 10])> = Vec::new();
    for window in windows {
        let same = |(other, _): &&mut (pb::Window, [String; 10])| pb::Window { day: window.day, ..*other } == window;
        let mark = 1 + (window.day % 7) as usize;
        if let Some((_, row)) = rows.iter_mut().find(same) {
            "●".clone_into(&mut row[mark]);
            continue;
        }
        let mut row: [String; 10] = Default::default();
        row[0] = format!("{}–{}", time(window.from_secs), time(window.to_secs));
        "●".clone_into(&mut row[mark]);
        row[8] = in_words(window.rate_per_sec.as_ref(), "/s");
        row[9] = in_words(window.volume.as_ref(), "");
        rows.push((window, row));
    }
    let rows: Vec<[String; 10]> = rows.into_iter().map(|(_, row)| row).collect();
    human::table(["WINDOW", "MON", "TUE", "WED", "THU", "FRI", "SAT", "SUN", "RATE", "VOLUME"], &rows)
}

impl SiteLine {
    fn of(state: &pb::SiteState) -> SiteLine {
        let site = state.site.clone().unwrap_or_default();
        let day = |number: u32| Weekday::of_number(number).map(|day| day.to_string()).unwrap_or_default();
        let windows = site.windows.iter().map(|window| WindowLine {
            day: day(window.day),
            from: time(window.from_secs),
            to: time(window.to_secs),
            rate_bytes_per_sec: limit_line(window.rate_per_sec.as_ref()),
            volume_bytes: limit_line(window.volume.as_ref()),
        });
        SiteLine {
            devices: state.devices,
            online: state.online,
            open: state.open,
            waiting: state.waiting.clone(),
            used_bytes: state.used_bytes,
            windows: windows.collect(),
            holidays: site
                .holidays
                .iter()
                .map(|it| HolidayLine { date: it.date.clone(), as_day: day(it.as_day) })
                .collect(),
            costs: site.costs.iter().map(|it| CostLine { from: it.from_site.clone(), cost: it.cost }).collect(),
            site: site.site,
            isp: site.isp,
            time_zone: site.time_zone,
            queued: if site.queued_off_peak { "off-peak" } else { "anytime" },
            version: site.version,
        }
    }
}

fn open_or(open: bool, waiting: &str) -> String {
    if open { "open".to_owned() } else { waiting.to_owned() }
}

fn time(secs: u32) -> String {
    TimeOfDay::from_secs(secs.min(DAY_SECS)).map(|time| time.to_string()).unwrap_or_default()
}

fn bytes_limit(bound: Option<u64>) -> pb_common::BytesLimit {
    bound.map_or(swarm_proto::limit::Limit::Unlimited, swarm_proto::limit::Limit::Of).into()
}

fn bound(limit: Option<&pb_common::BytesLimit>) -> Option<u64> {
    match limit.and_then(|limit| limit.limit) {
        Some(pb_common::bytes_limit::Limit::Bytes(bytes)) => Some(bytes),
        _ => None,
    }
}

fn limit_line(limit: Option<&pb_common::BytesLimit>) -> LimitLine {
    bound(limit).map_or(LimitLine::Unlimited("unlimited"), LimitLine::Of)
}

fn in_words(limit: Option<&pb_common::BytesLimit>, per: &str) -> String {
    match bound(limit) {
        Some(0) => "nothing".to_owned(),
        Some(bytes) => format!("{}{per}", human::bytes(bytes)),
        None => "unlimited".to_owned(),
    }
}

fn absent(site: &SiteId, what: String) -> Failure {
    Failure::new(Exit::NotFound, "E-SITE-04", format!("site {site} has {what}"))
        .hint(format!("tracker site show {site}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn days(text: &str) -> String {
        let Days(days) = text.parse().unwrap();
        days.iter().map(|day| day.short()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn days_are_said_one_by_one_in_spans_or_all_at_once() {
        assert_eq!(days("mon-fri"), "mon tue wed thu fri");
        assert_eq!(days("fri-mon"), "fri sat sun mon");
        assert_eq!(days("sat,sun,sun"), "sat sun");
        assert_eq!(days("daily"), "mon tue wed thu fri sat sun");
        assert!("always".parse::<Days>().is_err() && "".parse::<Days>().is_err());
        assert!("01:00".parse::<Times>().is_err() && "01:00-25:00".parse::<Times>().is_err());
    }

    #[test]
    fn week_is_a_table_that_says_nothing_where_nothing_may_come() {
        let window = |day, rate| pb::Window {
            day,
            from_secs: 3_600,
            to_secs: 21_600,
            rate_per_sec: Some(bytes_limit(rate)),
            volume: Some(bytes_limit(None)),
        };
        let windows = vec![window(0, Some(5_000_000)), window(6, Some(5_000_000)), window(1, Some(0))];
        let site = pb::Site { windows, ..pb::Site::default() };
        let text = week(&pb::SiteState { site: Some(site), ..pb::SiteState::default() });
        let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines[1], ["01:00–06:00", "●", "●", "5.00", "MB/s", "unlimited"]);
        assert_eq!(lines[2], ["01:00–06:00", "●", "nothing", "unlimited"]);
    }
}
