//! `tracker preload`: titles that wait on boxes before anybody asks for them.

use clap::{Args, Subcommand};
use daemon::exit::{Exit, Failure};
use serde::Serialize;
use swarm_proto::id::{ItemId, TitleId};
use swarm_proto::pb::tracker as pb;

use super::Global;
use super::client::{Tracker, collect, id, table};
use crate::human;

#[derive(Subcommand)]
pub(super) enum PreloadCommand {
    /// Want a title on a share of a site's boxes
    Set(SetArgs),
    /// Want a title there no longer
    Rm {
        /// A title's id, item id or exact name
        title: String,
        /// Where [default: the tracker's default_site]
        #[arg(long, default_value = "", hide_default_value = true)]
        site: String,
    },
    /// List what is wanted, by operators and by demand
    Ls(SiteArgs),
    /// List how much of it is there, and proven to be
    Coverage(SiteArgs),
}

#[derive(Args)]
pub(super) struct SetArgs {
    /// A title's id, item id or exact name
    title: String,
    /// Where [default: the tracker's default_site]
    #[arg(long, default_value = "", hide_default_value = true)]
    site: String,
    /// On which part of the site's boxes, such as 40%
    #[arg(long, value_parser = percent)]
    share: u32,
    /// Only its first spans of 16 MiB, so that it begins at once [one if no number is given]
    #[arg(long, value_name = "SPANS", num_args = 0..=1, default_missing_value = "1")]
    starts: Option<u32>,
    /// Say what would happen, and what it would cost, without doing it
    #[arg(long)]
    dry_run: bool,
}

#[derive(Args)]
pub(super) struct SiteArgs {
    /// Only this site
    #[arg(long, default_value = "", hide_default_value = true)]
    site: String,
}

fn percent(text: &str) -> Result<u32, String> {
    let share = text.trim().trim_end_matches('%').trim_end().parse::<u32>().ok();
    share.filter(|share| (1..=100).contains(share)).ok_or_else(|| "write 1% to 100%".to_owned())
}

#[derive(Serialize)]
struct Target {
    title: TitleId,
    item: ItemId,
    name: String,
    site: String,
    share_percent: u32,
    starts_spans: Option<u32>,
    by: &'static str,
    demand_thousandths: u64,
    boxes: u32,
    wanted: u32,
    have: u32,
    proven: u32,
    doubted: u32,
    fetching: u32,
    lacking: u32,
    bytes: u64,
    cost: u64,
}

impl Target {
    fn of(message: pb::PreloadTarget) -> Result<Target, Failure> {
        Ok(Target {
            title: id(&message.title)?,
            item: id(&message.item)?,
            name: message.name,
            site: message.site,
            share_percent: message.share_percent,
            starts_spans: message.starts_spans,
            by: if message.by_demand { "demand" } else { "operator" },
            demand_thousandths: message.demand_thousandths,
            boxes: message.boxes,
            wanted: message.wanted,
            have: message.have,
            proven: message.proven,
            doubted: message.doubted,
            fetching: message.fetching,
            lacking: message.lacking,
            bytes: message.bytes,
            cost: message.cost,
        })
    }

    fn extent(&self) -> String {
        match self.starts_spans {
            None => "all of it".to_owned(),
            Some(1) => "its first span".to_owned(),
            Some(n) => format!("its first {n} spans"),
        }
    }
}

pub(super) async fn run(global: &Global, command: PreloadCommand) -> anyhow::Result<Exit> {
    let mut tracker = Tracker::of(global).await?;
    match command {
        PreloadCommand::Set(args) => set(global, &mut tracker, args).await,
        PreloadCommand::Rm { title, site } => {
            let title = tracker.title(&title).await?.title.to_vec();
            let answer = tracker.preload.remove_target(pb::RemoveTargetRequest { title, site }).await;
            let already = tracker.answer(answer)?.already;
            global.print(&serde_json::json!({ "already": already }), || match already {
                true => "it was not wanted there\n".to_owned(),
                false => "removed; boxes drop what others hold and nobody has queued or paid for\n".to_owned(),
            })
        }
        PreloadCommand::Ls(args) => {
            let all = targets(&mut tracker, args.site).await?;
            let row = |it: &Target| {
                let demand = format!("{}.{:03}", it.demand_thousandths / 1_000, it.demand_thousandths % 1_000);
                let share = format!("{} %", it.share_percent);
                [it.name.clone(), it.site.clone(), share, it.extent(), it.by.to_owned(), demand]
            };
            global.print_list(&all, || table(["TITLE", "SITE", "SHARE", "WHAT", "BY", "DEMAND"], &all, row))
        }
        PreloadCommand::Coverage(args) => {
            let all = targets(&mut tracker, args.site).await?;
            let row = |it: &Target| {
                let wanted = format!("{} of {}", it.wanted, it.boxes);
                let numbers = [it.have, it.proven, it.doubted, it.fetching, it.lacking].map(|n| n.to_string());
                let [have, proven, doubted, fetching, lacking] = numbers;
                let what = it.extent();
                [it.name.clone(), it.site.clone(), what, wanted, have, proven, doubted, fetching, lacking]
            };
            let headings = ["TITLE", "SITE", "WHAT", "WANTED", "HAVE", "PROVEN", "DOUBTED", "FETCHING", "NO ROOM"];
            global.print_list(&all, || table(headings, &all, row))
        }
    }
}

async fn set(global: &Global, tracker: &mut Tracker, args: SetArgs) -> anyhow::Result<Exit> {
    let title = tracker.title(&args.title).await?.title.to_vec();
    let request = pb::SetTargetRequest {
        title,
        site: args.site,
        share_percent: args.share,
        starts_spans: args.starts,
        dry_run: args.dry_run,
    };
    let answer = tracker.preload.set_target(request).await;
    let target = Target::of(tracker.answer(answer)?)?;
    global.print(&target, || {
        let would = if args.dry_run { "would wait" } else { "shall wait" };
        let mut text = format!(
            "{}: {} {would} on {} of {} boxes of {}; {} have it, {} fetch {}",
            target.name,
            target.extent(),
            target.wanted,
            target.boxes,
            target.site,
            target.have,
            target.fetching,
            human::bytes(target.bytes)
        );
        if target.cost > 0 {
            text.push_str(&format!(", at a cost of {}", target.cost));
        }
        if target.lacking > 0 {
            text.push_str(&format!("; for {} there is no room", target.lacking));
        }
        text.push('\n');
        text
    })
}

async fn targets(tracker: &mut Tracker, site: String) -> Result<Vec<Target>, Failure> {
    let answer = tracker.preload.list_targets(pb::ListTargetsRequest { site }).await;
    collect(tracker.answer(answer)?.targets, Target::of)
}
