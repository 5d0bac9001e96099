//! `peer-node status`: one screen about this device.

use std::fmt::Write as _;
use std::io::{IsTerminal, Write as _};
use std::time::Duration;

use clap::Args;
use daemon::exit::Exit;
use serde::Serialize;
use swarm_proto::id::{DeviceId, ItemId, TitleId};
use swarm_proto::pb::common::DeviceKind;
use swarm_proto::pb::node::{GetStatusRequest, Link, SourceBytes, Status, TitleStatus};
use swarm_proto::time::Utc;

use super::daemon_client::Device;
use super::{Global, show};
use crate::{clock, status};

/// Moves to the upper left corner and clears what follows, so that a watched screen does not scroll.
const REDRAW: &str = "\u{1b}[H\u{1b}[J";

#[derive(Args)]
pub(super) struct StatusArgs {
    /// Only this title
    title: Option<String>,
    /// Go on showing it
    #[arg(long)]
    watch: bool,
}

/// A status as `--json` prints it.
#[derive(Serialize)]
struct StatusLine {
    device: String,
    peer_id: String,
    name: String,
    kind: &'static str,
    enrolled: bool,
    tracker: LinkLine,
    keyserver: LinkLine,
    listening: Vec<String>,
    connected_peers: u32,
    stored_bytes: u64,
    free_bytes: u64,
    uploaded_bytes: u64,
    titles: Vec<TitleLine>,
    banned: Vec<BannedLine>,
}

#[derive(Serialize)]
struct LinkLine {
    url: String,
    up: bool,
    since: String,
    last_error: String,
}

#[derive(Serialize)]
struct BannedLine {
    device: String,
    since: String,
    reason: String,
}

/// A title as `--json` prints it, here and in other commands.
#[derive(Serialize)]
pub(super) struct TitleLine {
    pub(super) title: String,
    pub(super) item: String,
    pub(super) name: String,
    pub(super) state: &'static str,
    percent: u32,
    chunks_held: u32,
    n_chunks: u32,
    sealed_len: u64,
    rate_bytes_per_sec: u64,
    from_boxes_bytes: u64,
    from_seeds_bytes: u64,
    wasted_bytes: u64,
    sources: Vec<SourceLine>,
    reason: String,
    delivery: String,
    last_data_ms_ago: Option<u64>,
    playable: bool,
    playable_until: Option<String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    checkout_url: String,
    play_url: String,
}

#[derive(Serialize)]
struct SourceLine {
    device: String,
    kind: &'static str,
    verified_bytes: u64,
    wasted_bytes: u64,
    found_by: String,
}

pub(super) async fn run(global: &Global, args: StatusArgs) -> anyhow::Result<Exit> {
    let mut device = Device::reach(global).await?;
    let request = GetStatusRequest { title: args.title.unwrap_or_default() };
    if !args.watch {
        let status = device.client.get_status(request).await.map_err(|status| device.failure(&status))?.into_inner();
        global.print(&StatusLine::of(&status), || screen(&status))?;
        return Ok(Exit::Done);
    }
    let mut statuses =
        device.client.watch_status(request).await.map_err(|status| device.failure(&status))?.into_inner();
    let redraws = !global.json && std::io::stdout().is_terminal();
    while let Some(status) = statuses.message().await.map_err(|status| device.failure(&status))? {
        if redraws {
            write!(std::io::stdout(), "{REDRAW}")?;
        }
        global.print(&StatusLine::of(&status), || screen(&status))?;
    }
    Ok(Exit::Done)
}

/// The screen, as lines for a person.
fn screen(status: &Status) -> String {
    let device = DeviceId::try_from(status.device.as_slice()).map(|device| device.short()).unwrap_or_default();
    let mut text = String::new();
    let _ = writeln!(
        text,
        "{} \"{}\"  {device}  {} connected",
        kind(status.kind()),
        show::text(&status.name),
        status.connected_peers
    );
    let _ = writeln!(
        text,
        "  disk       {} held, {} free, {} passed on",
        show::bytes(status.stored_bytes),
        show::bytes(status.free_bytes),
        show::bytes(status.uploaded_bytes)
    );
    if !status.enrolled {
        let _ = writeln!(text, "  not enrolled; ask your operator for a code, then: peer-node enrol CODE");
    }
    let _ = writeln!(text, "  tracker    {}", link_text(status.tracker.as_ref()));
    let _ = writeln!(text, "  keyserver  {}", link_text(status.keyserver.as_ref()));
    for banned in &status.banned {
        let device = DeviceId::try_from(banned.device.as_slice()).map(|device| device.short()).unwrap_or_default();
        let _ = writeln!(text, "  banned     {device}: {}", show::text(&banned.reason));
    }
    if status.titles.is_empty() {
        let _ = writeln!(text, "\nnothing here yet; try: peer-node get TITLE");
        return text;
    }
    let rows: Vec<[String; 6]> = status.titles.iter().map(row).collect();
    let _ = write!(text, "\n{}", show::table(["NAME", "STATE", "HERE", "RATE", "FROM", ""], &rows));
    text
}

fn row(title: &TitleStatus) -> [String; 6] {
    let (boxes, seeds) = status::bytes_by_kind(title);
    let from = if boxes + seeds > 0 { show::split(boxes, seeds) } else { String::new() };
    let rate = if title.rate_bytes_per_sec > 0 { show::rate(title.rate_bytes_per_sec) } else { String::new() };
    let payable = |url: &str| format!("to be paid: {}", show::text(url));
    let playable = match show::begin_before(title) {
        _ if !title.playable && !title.checkout_url.is_empty() => payable(&title.checkout_url),
        Some(expiry) if title.playable => format!("playable, {expiry}"),
        None if title.playable => "playable".to_owned(),
        _ => String::new(),
    };
    let remark = if title.reason.is_empty() { playable } else { show::text(&title.reason) };
    [show::text(&title.name), show::state(title).to_owned(), format!("{} %", show::percent(title)), rate, from, remark]
}

fn link_text(link: Option<&Link>) -> String {
    let Some(link) = link else { return "unknown".to_owned() };
    let since = show::ago(clock::utc().since(Utc::from_millis(link.since_utc_ms)));
    match (link.up, link.last_error.as_str()) {
        (true, _) => format!("{} up for {since}", show::text(&link.url)),
        (false, "") => format!("{} down for {since}", show::text(&link.url)),
        (false, error) => format!("{} down for {since}: {}", show::text(&link.url), show::text(error)),
    }
}

fn kind(kind: DeviceKind) -> &'static str {
    match kind {
        DeviceKind::Box => "box",
        DeviceKind::Seed => "seed",
        DeviceKind::Unspecified => "device",
    }
}

impl StatusLine {
    fn of(status: &Status) -> StatusLine {
        let link = |link: Option<&Link>| {
            let link = link.cloned().unwrap_or_default();
            LinkLine {
                url: link.url,
                up: link.up,
                since: Utc::from_millis(link.since_utc_ms).to_string(),
                last_error: link.last_error,
            }
        };
        let banned = status.banned.iter().map(|banned| BannedLine {
            device: hex::<DeviceId>(&banned.device),
            since: Utc::from_millis(banned.since_utc_ms).to_string(),
            reason: banned.reason.clone(),
        });
        StatusLine {
            device: hex::<DeviceId>(&status.device),
            peer_id: status.peer_id.clone(),
            name: status.name.clone(),
            kind: kind(status.kind()),
            enrolled: status.enrolled,
            tracker: link(status.tracker.as_ref()),
            keyserver: link(status.keyserver.as_ref()),
            listening: status.listening.clone(),
            connected_peers: status.connected_peers,
            stored_bytes: status.stored_bytes,
            free_bytes: status.free_bytes,
            uploaded_bytes: status.uploaded_bytes,
            titles: status.titles.iter().map(TitleLine::of).collect(),
            banned: banned.collect(),
        }
    }
}

impl TitleLine {
    pub(super) fn of(title: &TitleStatus) -> TitleLine {
        let (from_boxes_bytes, from_seeds_bytes) = status::bytes_by_kind(title);
        TitleLine {
            title: hex::<TitleId>(&title.title),
            item: hex::<ItemId>(&title.item),
            name: title.name.clone(),
            state: show::state(title),
            percent: show::percent(title),
            chunks_held: title.chunks_held,
            n_chunks: title.n_chunks,
            sealed_len: title.sealed_len,
            rate_bytes_per_sec: title.rate_bytes_per_sec,
            from_boxes_bytes,
            from_seeds_bytes,
            wasted_bytes: title.wasted_bytes,
            sources: title.sources.iter().map(SourceLine::of).collect(),
            reason: title.reason.clone(),
            delivery: show::delivery(title),
            last_data_ms_ago: title.last_data_ms_ago,
            playable: title.playable,
            playable_until: show::expiry(title.expiry.as_ref()),
            checkout_url: title.checkout_url.clone(),
            play_url: title.play_url.clone(),
        }
    }
}

impl SourceLine {
    fn of(source: &SourceBytes) -> SourceLine {
        SourceLine {
            device: hex::<DeviceId>(&source.device),
            kind: kind(source.kind()),
            verified_bytes: source.verified_bytes,
            wasted_bytes: source.wasted_bytes,
            found_by: source.found_by.clone(),
        }
    }
}

/// An id as it is written, or nothing if the field was empty.
fn hex<'a, I: TryFrom<&'a [u8]> + ToString>(bytes: &'a [u8]) -> String {
    I::try_from(bytes).map(|id| id.to_string()).unwrap_or_default()
}

/// How long a title has been without data, if that is worth saying.
pub(super) fn silence(title: &TitleStatus) -> Option<Duration> {
    /// Below this a pause between two chunks is ordinary.
    const WORTH_SAYING: Duration = Duration::from_secs(3);
    title.last_data_ms_ago.map(Duration::from_millis).filter(|silence| *silence >= WORTH_SAYING)
}

#[cfg(test)]
mod tests {
    use swarm_proto::pb::node::TitleState;

    use super::*;

    fn title() -> TitleStatus {
        TitleStatus {
            title: vec![1; 16],
            item: vec![2; 32],
            name: "Harbour at dawn".to_owned(),
            state: TitleState::Arriving.into(),
            n_chunks: 8,
            chunks_held: 5,
            sources: vec![
                SourceBytes { kind: DeviceKind::Box.into(), verified_bytes: 4 << 20, ..SourceBytes::default() },
                SourceBytes { kind: DeviceKind::Seed.into(), verified_bytes: 1 << 20, ..SourceBytes::default() },
            ],
            rate_bytes_per_sec: 2_000_000,
            ..TitleStatus::default()
        }
    }

    #[test]
    fn screen_says_what_arrives_and_from_whom() {
        let text = screen(&Status {
            name: "Living room".to_owned(),
            enrolled: true,
            titles: vec![title()],
            ..Status::default()
        });
        assert!(text.contains("Harbour at dawn  arriving  62 %  2.0 MB/s  80 % neighbours, 20 % ISP"), "{text}");
    }

    #[test]
    fn screen_of_a_new_device_says_what_to_do() {
        let text = screen(&Status::default());
        assert!(text.contains("peer-node enrol CODE") && text.contains("peer-node get TITLE"), "{text}");
    }

    #[test]
    fn json_names_every_byte_by_its_source() {
        let line = serde_json::to_value(TitleLine::of(&title())).unwrap();
        assert_eq!((line["state"].as_str(), line["percent"].as_u64()), (Some("arriving"), Some(62)));
        assert_eq!(
            (line["from_boxes_bytes"].as_u64(), line["from_seeds_bytes"].as_u64()),
            (Some(4 << 20), Some(1 << 20))
        );
        assert_eq!(line["sources"][1]["kind"], "seed");
    }
}
