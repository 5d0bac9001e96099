//! `peer-node get`: puts a title into the queue of this box and shows it arrive.
//!
//! The title goes on arriving when this command is stopped; asking again only watches.

use std::time::Duration;

use clap::Args;
use daemon::exit::{Exit, Failure};
use indicatif::{ProgressBar, ProgressStyle};
use swarm_proto::pb::node::{AddToQueueRequest, GetStatusRequest, TitleState, TitleStatus};

use super::daemon_client::{Device, query};
use super::status::{TitleLine, silence};
use super::{Global, show};
use crate::status;

/// Off a terminal a line is printed whenever this many more percent are here.
const LINE_EVERY_PERCENT: u32 = 5;

#[derive(Args)]
pub(super) struct GetArgs {
    /// Its name, the beginning of it, or its id
    title: String,
    /// Before everything else in the queue
    #[arg(long)]
    first: bool,
    /// Only put it into the queue
    #[arg(long)]
    no_wait: bool,
}

pub(super) async fn run(global: &Global, args: GetArgs) -> anyhow::Result<Exit> {
    let mut device = Device::reach(global).await?;
    let add = AddToQueueRequest { title: query(&args.title), first: args.first, delivery: None };
    let added = device.client.add_to_queue(add).await.map_err(|status| device.failure(&status))?.into_inner();
    let request = GetStatusRequest { title: args.title };
    if args.no_wait {
        let status = device.client.get_status(request).await.map_err(|status| device.failure(&status))?.into_inner();
        let title = status.titles.first().cloned().unwrap_or_default();
        global.print(&TitleLine::of(&title), || {
            let promise = if added.note.is_empty() { String::new() } else { format!(", {}", show::text(&added.note)) };
            format!("{}: in the queue{promise}; follow it with: peer-node status --watch\n", show::text(&title.name))
        })?;
        return Ok(Exit::Done);
    }
    let mut statuses =
        device.client.watch_status(request).await.map_err(|status| device.failure(&status))?.into_inner();
    let mut display = Display::new(global);
    while let Some(status) = statuses.message().await.map_err(|status| device.failure(&status))? {
        let Some(title) = status.titles.first() else { continue };
        display.show(title)?;
        if title.state() == TitleState::Available {
            return Ok(Exit::Done);
        }
    }
    Err(Failure::new(Exit::Unreachable, "E-GET-01", "the device stopped while the title was arriving")
        .hint("start it again with `peer-node run`: it goes on where it was")
        .into())
}

/// Shows progress in the way that fits who looks.
enum Display<'a> {
    /// A bar for a person at a terminal.
    Bar(ProgressBar),
    /// A line now and then for a log.
    Lines { last: Option<(TitleState, u32)> },
    /// An object for each change for a program.
    Json { global: &'a Global, last: Option<(TitleState, u32)> },
}

impl Display<'_> {
    fn new(global: &Global) -> Display<'_> {
        if global.json {
            return Display::Json { global, last: None };
        }
        if !global.is_watched() {
            return Display::Lines { last: None };
        }
        let style = ProgressStyle::with_template("{prefix} {wide_bar} {pos}/{len}  {msg}")
            .expect("the template is well-formed");
        Display::Bar(ProgressBar::new(0).with_style(style.progress_chars("━╸─")))
    }

    fn show(&mut self, title: &TitleStatus) -> anyhow::Result<()> {
        match self {
            Display::Bar(bar) => {
                bar.set_length(title.n_chunks.into());
                bar.set_prefix(show::text(&title.name));
                bar.set_message(remark(title));
                bar.set_position(title.chunks_held.into());
                if title.state() == TitleState::Available {
                    bar.finish();
                }
            }
            Display::Lines { last } => {
                let step = (title.state(), show::percent(title) / LINE_EVERY_PERCENT);
                if last.replace(step) != Some(step) {
                    println!("{}: {} %, {}", show::text(&title.name), show::percent(title), remark(title));
                }
            }
            Display::Json { global, last } => {
                let step = (title.state(), title.chunks_held);
                if last.replace(step) != Some(step) {
                    global.print(&TitleLine::of(title), String::new)?;
                }
            }
        }
        Ok(())
    }
}

/// What there is to say beside the bar: never a stale rate.
fn remark(title: &TitleStatus) -> String {
    let (boxes, seeds) = status::bytes_by_kind(title);
    let split = if boxes + seeds > 0 { format!(" ({})", show::split(boxes, seeds)) } else { String::new() };
    match (title.state(), silence(title)) {
        (TitleState::Available, _) => format!("available now{split}"),
        (TitleState::Arriving, Some(silence)) => format!("no data for {}; trying other sources", show::ago(silence)),
        (TitleState::Arriving, None) => format!("{}, {}{split}", show::rate(title.rate_bytes_per_sec), left(title)),
        (TitleState::Paused, _) => format!("paused: {}", show::text(&title.reason)),
        (TitleState::Scheduled, _) => format!("kept for {}", show::text(&title.reason)),
        (TitleState::Waiting | TitleState::Unspecified, _) if title.reason.is_empty() => {
            "waiting for a source".to_owned()
        }
        (TitleState::Waiting | TitleState::Unspecified, _) => format!("waiting: {}", show::text(&title.reason)),
    }
}

fn left(title: &TitleStatus) -> String {
    let part_missing = u64::from(title.n_chunks.saturating_sub(title.chunks_held));
    let bytes = title.sealed_len / u64::from(title.n_chunks.max(1)) * part_missing;
    match bytes.checked_div(title.rate_bytes_per_sec) {
        Some(secs) => format!("{} left", show::ago(Duration::from_secs(secs))),
        None => "finding sources".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arriving(rate: u64, last_data_ms_ago: u64) -> TitleStatus {
        TitleStatus {
            state: TitleState::Arriving.into(),
            n_chunks: 100,
            chunks_held: 40,
            sealed_len: 100 << 20,
            rate_bytes_per_sec: rate,
            last_data_ms_ago: Some(last_data_ms_ago),
            ..TitleStatus::default()
        }
    }

    #[test]
    fn rate_is_never_stale() {
        assert_eq!(remark(&arriving(1 << 20, 200)), "1.0 MB/s, 60 s left");
        assert_eq!(remark(&arriving(1 << 20, 12_000)), "no data for 12 s; trying other sources");
        assert_eq!(remark(&arriving(0, 200)), "0 B/s, finding sources");
    }

    #[test]
    fn waiting_says_why() {
        let title = TitleStatus {
            state: TitleState::Waiting.into(),
            reason: "no source holds it yet".to_owned(),
            ..TitleStatus::default()
        };
        assert_eq!(remark(&title), "waiting: no source holds it yet");
    }
}
