//! `tracker explain` and `tracker estimate`: why who sends what, and when a title would be there.

use std::fmt::Write as _;

use clap::Args;
use daemon::exit::{Exit, Failure};
use serde::Serialize;
use swarm_proto::id::DeviceId;
use swarm_proto::pb::common as pb_common;
use swarm_proto::pb::tracker as pb;
use swarm_proto::time::Utc;

use super::Global;
use super::client::{PAGE_SIZE, Tracker, id};
use crate::human;

#[derive(Args)]
pub(super) struct OnArgs {
    /// The box: its id, the beginning of its id, or its name if no other box has it
    device: String,
    /// The title: its id, its item id or its exact name
    title: String,
}

#[derive(Serialize)]
struct Source {
    device: DeviceId,
    name: String,
    planned_bytes_per_sec: u64,
    rate_cap_bytes_per_sec: Option<u64>,
    first_chunks: u32,
    reason: String,
}

#[derive(Serialize)]
struct Other {
    device: DeviceId,
    name: String,
    reason: String,
}

#[derive(Serialize)]
struct Explained {
    asked_for: Option<&'static str>,
    rank: Option<u32>,
    missing_chunks: u32,
    n_chunks: u32,
    planned_bytes_per_sec: u64,
    sources: Vec<Source>,
    waiting: Option<String>,
    others: Vec<Other>,
    not_looked_at: u32,
}

#[derive(Serialize)]
struct Estimated {
    ready: Option<String>,
    bytes_per_sec: u64,
    missing_bytes: u64,
    bytes_before: u64,
    not_before: Option<String>,
}

pub(super) async fn explain(global: &Global, args: OnArgs) -> anyhow::Result<Exit> {
    let mut tracker = Tracker::of(global).await?;
    let device = device(&mut tracker, &args.device).await?;
    let title = tracker.title(&args.title).await?.title.to_vec();
    let answer = tracker.plans.explain(pb::ExplainRequest { device: device.to_vec(), title }).await;
    let told = tracker.answer(answer)?;
    let asked_for = match told.class() {
        pb_common::TicketClass::Playing => Some("being watched"),
        pb_common::TicketClass::Queued => Some("in the queue"),
        pb_common::TicketClass::Preload => Some("a preload"),
        pb_common::TicketClass::Unspecified => None,
    };
    let mut explained = Explained {
        asked_for,
        rank: told.rank,
        missing_chunks: told.missing_chunks,
        n_chunks: told.n_chunks,
        planned_bytes_per_sec: told.planned_bytes_per_sec,
        sources: Vec::new(),
        waiting: Some(told.waiting).filter(|why| !why.is_empty()),
        others: Vec::new(),
        not_looked_at: told.not_looked_at,
    };
    for it in told.sources {
        explained.sources.push(Source {
            device: id(&it.device)?,
            name: it.name,
            planned_bytes_per_sec: it.planned_bytes_per_sec,
            rate_cap_bytes_per_sec: it.rate_cap_bytes_per_sec,
            first_chunks: it.first_chunks,
            reason: it.reason,
        });
    }
    for it in told.others {
        explained.others.push(Other { device: id(&it.device)?, name: it.name, reason: it.reason });
    }
    global.print(&explained, || in_words(&explained))
}

pub(super) async fn estimate(global: &Global, args: OnArgs) -> anyhow::Result<Exit> {
    let mut tracker = Tracker::of(global).await?;
    let device = device(&mut tracker, &args.device).await?;
    let title = tracker.title(&args.title).await?.title.to_vec();
    let answer = tracker.plans.estimate(pb::EstimateRequest { device: device.to_vec(), title }).await;
    let told = tracker.answer(answer)?;
    let estimated = Estimated {
        ready: told.ready_utc_ms.map(|ms| Utc::from_millis(ms).to_string()),
        bytes_per_sec: told.bytes_per_sec,
        missing_bytes: told.missing_bytes,
        bytes_before: told.bytes_before,
        not_before: Some(told.not_before).filter(|why| !why.is_empty()),
    };
    global.print(&estimated, || match (&estimated.ready, &estimated.not_before) {
        (Some(_), _) if estimated.missing_bytes == 0 => "complete on this box\n".to_owned(),
        (Some(ready), _) => {
            let (missing, rate) = (human::bytes(estimated.missing_bytes), human::bytes(estimated.bytes_per_sec));
            let before = match estimated.bytes_before {
                0 => String::new(),
                bytes => format!(" after {} that come before it", human::bytes(bytes)),
            };
            format!("about {ready}: {missing}{before} at {rate}/s\n")
        }
        (None, why) => format!("not yet: {}\n", why.as_deref().unwrap_or("nobody knows")),
    })
}

/// Finds a box by what a person would type.
async fn device(tracker: &mut Tracker, named: &str) -> Result<DeviceId, Failure> {
    if let Ok(device) = named.parse() {
        return Ok(device);
    }
    let mut found: Vec<(DeviceId, String)> = Vec::new();
    let mut page_token = Vec::new();
    loop {
        let request = pb::ListDevicesRequest { account: Vec::new(), page_size: PAGE_SIZE, page_token };
        let answer = tracker.operator.list_devices(request).await;
        let page = tracker.answer(answer)?;
        for it in page.devices {
            let device: DeviceId = id(&it.device)?;
            if it.name == named || device.to_string().starts_with(named) {
                found.push((device, it.name));
            }
        }
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    match found.as_slice() {
        [(device, _)] => Ok(*device),
        [] => {
            Err(Failure::new(Exit::NotFound, "E-EXPLAIN-01", format!("no device is called or begins with {named:?}"))
                .hint("see the devices with: tracker device ls"))
        }
        several => {
            let ids: Vec<String> = several.iter().take(5).map(|(device, _)| device.to_string()).collect();
            Err(Failure::new(
                Exit::Usage,
                "E-EXPLAIN-02",
                format!("{} devices are called or begin with {named:?}", several.len()),
            )
            .why(ids.join(", "))
            .hint("name one of them by its id"))
        }
    }
}

fn in_words(it: &Explained) -> String {
    let mut text = String::new();
    let held = it.n_chunks - it.missing_chunks.min(it.n_chunks);
    let _ = match (it.asked_for, it.rank) {
        (Some(why), Some(rank)) => {
            writeln!(text, "{why} at place {}: {held} of {} chunks are there", rank + 1, it.n_chunks)
        }
        (Some(why), None) => writeln!(text, "{why}: {held} of {} chunks are there", it.n_chunks),
        (None, _) => writeln!(text, "not asked for at the moment: {held} of {} chunks are there", it.n_chunks),
    };
    if let Some(waiting) = &it.waiting {
        let _ = writeln!(text, "waiting: {waiting}");
    }
    if !it.sources.is_empty() {
        let _ = writeln!(text, "\nWho sends ({}/s planned)", human::bytes(it.planned_bytes_per_sec));
        let rows: Vec<[String; 5]> = it
            .sources
            .iter()
            .map(|of| {
                let cap = of.rate_cap_bytes_per_sec.map_or("-".to_owned(), |cap| format!("{}/s", human::bytes(cap)));
                let rate = format!("{}/s", human::bytes(of.planned_bytes_per_sec));
                [of.device.short(), of.name.clone(), rate, cap, of.reason.clone()]
            })
            .collect();
        text.push_str(&human::table(["DEVICE", "NAME", "PLANNED", "AT MOST", "WHY"], &rows));
    }
    if !it.others.is_empty() {
        let _ = writeln!(text, "\nWho does not, and why");
        let rows: Vec<[String; 3]> =
            it.others.iter().map(|of| [of.device.short(), of.name.clone(), of.reason.clone()]).collect();
        text.push_str(&human::table(["DEVICE", "NAME", "WHY NOT"], &rows));
    }
    if it.not_looked_at > 0 {
        let _ = writeln!(text, "and {} more", it.not_looked_at);
    }
    text
}
