//! `tracker traffic` and `tracker offload`: what has travelled, and how much of it boxes have sent.

use clap::{Args, Subcommand, ValueEnum};
use daemon::exit::{Exit, Failure};
use daemon::units::Duration;
use serde::Serialize;
use swarm_proto::id::{DeviceId, ItemId};
use swarm_proto::pb::tracker as pb;
use swarm_proto::time::Utc;

use super::Global;
use super::client::{Tracker, collect, id, table};
use crate::{clock, human};

/// What is asked for when nobody says since when.
const LATELY: &str = "24h";

#[derive(Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct TrafficArgs {
    #[command(flatten)]
    since: Since,
    /// What there is a row for
    #[arg(long, value_enum, default_value_t = By::Site)]
    by: By,
    #[command(subcommand)]
    command: Option<TrafficCommand>,
}

#[derive(Subcommand)]
enum TrafficCommand {
    /// Print devices that disagree about what one sent to the other
    Mismatches,
}

#[derive(Args)]
pub(super) struct Since {
    /// How far back: 30m, 24h, 30d; at most 400 days
    #[arg(long, value_name = "TIME", default_value = LATELY)]
    since: Duration,
}

impl Since {
    fn utc_ms(&self) -> u64 {
        clock::now().utc.minus(self.since.get()).as_millis()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum By {
    Site,
    Source,
    Hour,
    Title,
}

impl From<By> for pb::AccountsBy {
    fn from(by: By) -> pb::AccountsBy {
        match by {
            By::Site => pb::AccountsBy::Site,
            By::Source => pb::AccountsBy::Source,
            By::Hour => pb::AccountsBy::Hour,
            By::Title => pb::AccountsBy::Title,
        }
    }
}

#[derive(Serialize)]
struct Traffic {
    #[serde(skip_serializing_if = "String::is_empty")]
    of: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    name: String,
    from_boxes_bytes: u64,
    from_same_home_bytes: u64,
    from_same_site_bytes: u64,
    from_same_isp_bytes: u64,
    from_elsewhere_bytes: u64,
    from_seeds_bytes: u64,
    from_strangers_bytes: u64,
    wasted_bytes: u64,
}

impl Traffic {
    fn of(by: By, row: pb::AccountRow) -> Traffic {
        let boxes =
            [row.from_same_home_bytes, row.from_same_site_bytes, row.from_same_isp_bytes, row.from_elsewhere_bytes];
        let of = match (by, row.of.parse::<u64>()) {
            (By::Hour, Ok(millis)) => Utc::from_millis(millis).to_string(),
            _ => row.of,
        };
        Traffic {
            of,
            name: row.name,
            from_boxes_bytes: boxes.into_iter().fold(0, u64::saturating_add),
            from_same_home_bytes: row.from_same_home_bytes,
            from_same_site_bytes: row.from_same_site_bytes,
            from_same_isp_bytes: row.from_same_isp_bytes,
            from_elsewhere_bytes: row.from_elsewhere_bytes,
            from_seeds_bytes: row.from_seeds_bytes,
            from_strangers_bytes: row.from_strangers_bytes,
            wasted_bytes: row.wasted_bytes,
        }
    }

    /// Everything that was verified, whoever sent it.
    fn verified_bytes(&self) -> u64 {
        self.from_boxes_bytes.saturating_add(self.from_seeds_bytes).saturating_add(self.from_strangers_bytes)
    }

    /// The part of it that boxes sent, in thousandths.
    fn offload(&self) -> Option<f64> {
        let all = self.verified_bytes();
        (all > 0).then(|| (self.from_boxes_bytes as f64 / all as f64 * 1_000.0).round() / 1_000.0)
    }
}

#[derive(Serialize)]
struct Offload {
    offload: Option<f64>,
    from_boxes_bytes: u64,
    verified_bytes: u64,
    since_utc: String,
    definition: &'static str,
}

#[derive(Serialize)]
struct Mismatch {
    sender: DeviceId,
    receiver: DeviceId,
    item: ItemId,
    said_sent_bytes: u64,
    said_received_bytes: u64,
    since_utc: String,
    seen_utc: String,
}

impl Mismatch {
    fn of(message: pb::Mismatch) -> Result<Mismatch, Failure> {
        Ok(Mismatch {
            sender: id(&message.sender)?,
            receiver: id(&message.receiver)?,
            item: id(&message.item)?,
            said_sent_bytes: message.said_sent_bytes,
            said_received_bytes: message.said_received_bytes,
            since_utc: Utc::from_millis(message.since_utc_ms).to_string(),
            seen_utc: Utc::from_millis(message.seen_utc_ms).to_string(),
        })
    }

    /// Who says more than the other, and how much.
    fn told(&self) -> (&'static str, u64) {
        let who = if self.said_sent_bytes > self.said_received_bytes { "sender" } else { "receiver" };
        (who, self.said_sent_bytes.abs_diff(self.said_received_bytes))
    }
}

pub(super) async fn run(global: &Global, args: TrafficArgs) -> anyhow::Result<Exit> {
    if let Some(TrafficCommand::Mismatches) = args.command {
        return mismatches(global).await;
    }
    let mut tracker = Tracker::of(global).await?;
    let (rows, total) = ask(&mut tracker, &args.since, args.by).await?;
    let heading = match args.by {
        By::Site => "SITE",
        By::Source => "SOURCE",
        By::Hour => "FROM",
        By::Title => "TITLE",
    };
    global.print_list(&rows, || {
        let line = |it: &Traffic| {
            let of = if it.name.is_empty() { &it.of } else { &it.name };
            [
                of.clone(),
                human::bytes(it.from_boxes_bytes),
                human::bytes(it.from_seeds_bytes),
                human::bytes(it.wasted_bytes),
                percent(it.offload()),
            ]
        };
        let text = table([heading, "FROM BOXES", "FROM SEEDS", "WASTED", "OFFLOAD"], &rows, line);
        let share = total.offload().map(|_| format!("{} carried by boxes\n", percent(total.offload())));
        format!("{text}{}", share.unwrap_or_default())
    })
}

pub(super) async fn offload(global: &Global, since: Since) -> anyhow::Result<Exit> {
    const DEFINITION: &str = "bytes verified from boxes / all bytes verified";
    let mut tracker = Tracker::of(global).await?;
    let (_, total) = ask(&mut tracker, &since, By::Site).await?;
    let offload = Offload {
        offload: total.offload(),
        from_boxes_bytes: total.from_boxes_bytes,
        verified_bytes: total.verified_bytes(),
        since_utc: Utc::from_millis(since.utc_ms()).to_string(),
        definition: DEFINITION,
    };
    global.print(&offload, || match total.offload() {
        Some(part) => format!("{} ({DEFINITION}, in the last {})\n", percent(Some(part)), since.since),
        None => format!("nothing has been received in the last {}\n", since.since),
    })
}

async fn mismatches(global: &Global) -> anyhow::Result<Exit> {
    let mut tracker = Tracker::of(global).await?;
    let answer = tracker.accounts.list_mismatches(pb::ListMismatchesRequest {}).await;
    let found = collect(tracker.answer(answer)?.mismatches, Mismatch::of)?;
    let row = |it: &Mismatch| {
        let (who, more) = it.told();
        [
            it.sender.short(),
            it.receiver.short(),
            human::bytes(it.said_sent_bytes),
            human::bytes(it.said_received_bytes),
            format!("{} by the {who}", human::bytes(more)),
            it.seen_utc.clone(),
        ]
    };
    let headings = ["SENDER", "RECEIVER", "SAYS SENT", "SAYS RECEIVED", "MORE", "SEEN"];
    global.print_list(&found, || table(headings, &found, row))
}

async fn ask(tracker: &mut Tracker, since: &Since, by: By) -> Result<(Vec<Traffic>, Traffic), Failure> {
    let request = pb::GetAccountsRequest { since_utc_ms: since.utc_ms(), by: pb::AccountsBy::from(by).into() };
    let answer = tracker.accounts.get_accounts(request).await;
    let answer = tracker.answer(answer)?;
    let rows = answer.rows.into_iter().map(|row| Traffic::of(by, row)).collect();
    Ok((rows, Traffic::of(by, answer.total.unwrap_or_default())))
}

fn percent(part: Option<f64>) -> String {
    part.map(|part| format!("{:.1} %", part * 100.0)).unwrap_or_default()
}
