//! `peer-node queue`: the customer's priority list.

use clap::Subcommand;
use daemon::exit::Exit;
use swarm_proto::pb::node::{
    AddToQueueRequest, EstimateRequest, GetQueueRequest, MoveInQueueRequest, QueueView, RemoveFromQueueRequest,
};
use swarm_proto::pb::tracker::Delivery;
use swarm_proto::pb::tracker::delivery::When;
use swarm_proto::time::Utc;

use super::daemon_client::{Device, query};
use super::status::TitleLine;
use super::{Global, show};

#[derive(Subcommand)]
pub(super) enum QueueCommand {
    /// List the queue, highest priority first
    Ls,
    /// Put a title into the queue, for this device
    Add {
        /// Its name, the beginning of it, or its id
        title: String,
        /// Before everything else
        #[arg(long)]
        first: bool,
        /// Deliver it in the next window of this box's site
        #[arg(long, conflicts_with_all = ["not_before", "anytime"])]
        tonight: bool,
        /// Deliver it from then on, such as 2026-12-24T18:00:00Z
        #[arg(long, value_name = "MOMENT", conflicts_with = "anytime")]
        not_before: Option<Utc>,
        /// Deliver it at once, whatever the site does
        #[arg(long)]
        anytime: bool,
    },
    /// Say when a title would be here, before it is put into the queue
    Estimate {
        /// Its name, the beginning of it, or its id
        title: String,
    },
    /// Move a title to another place
    Mv {
        /// Its name, the beginning of it, or its id
        title: String,
        /// The new place, 1 being the first
        #[arg(value_parser = clap::value_parser!(u32).range(1..))]
        place: u32,
    },
    /// Take a title out of the queue
    Rm {
        /// Its name, the beginning of it, or its id
        title: String,
        /// Also delete what this disk has of it
        #[arg(long)]
        delete: bool,
    },
}

pub(super) async fn run(global: &Global, command: QueueCommand) -> anyhow::Result<Exit> {
    let mut device = Device::reach(global).await?;
    let answer = match command {
        QueueCommand::Estimate { title } => return estimate(global, &mut device, &title).await,
        QueueCommand::Ls => device.client.get_queue(GetQueueRequest {}).await,
        QueueCommand::Add { title, first, tonight, not_before, anytime } => {
            let when = match (tonight, not_before, anytime) {
                (true, ..) => Some(When::OffPeak(true)),
                (_, Some(moment), _) => Some(When::NotBeforeUtcMs(moment.as_millis())),
                (_, _, true) => Some(When::Anytime(true)),
                (false, None, false) => None,
            };
            let delivery = when.map(|when| Delivery { when: Some(when) });
            device.client.add_to_queue(AddToQueueRequest { title: query(&title), first, delivery }).await
        }
        QueueCommand::Mv { title, place } => {
            device.client.move_in_queue(MoveInQueueRequest { title: query(&title), to: place - 1 }).await
        }
        QueueCommand::Rm { title, delete } => {
            device.client.remove_from_queue(RemoveFromQueueRequest { title: query(&title), delete }).await
        }
    };
    let queue = answer.map_err(|status| device.failure(&status))?.into_inner();
    let titles: Vec<TitleLine> = queue.titles.iter().map(TitleLine::of).collect();
    global
        .print(&serde_json::json!({ "version": queue.version, "titles": titles, "note": queue.note }), || text(&queue))
}

async fn estimate(global: &Global, device: &mut Device, title: &str) -> anyhow::Result<Exit> {
    let answer = device.client.estimate(EstimateRequest { title: query(title) }).await;
    let told = answer.map_err(|status| device.failure(&status))?.into_inner();
    let object = serde_json::json!({
        "ready": told.ready_utc_ms.map(|ms| Utc::from_millis(ms).to_string()),
        "bytes_per_sec": told.bytes_per_sec,
        "missing_bytes": told.missing_bytes,
        "bytes_before": told.bytes_before,
        "not_before": Some(&told.not_before).filter(|why| !why.is_empty()),
    });
    global.print(&object, || {
        let before = match told.bytes_before {
            0 => String::new(),
            bytes => format!(", after {} that come before it", show::bytes(bytes)),
        };
        format!("{}{before}\n", show::capital(&show::ready(&told, crate::clock::utc())))
    })
}

fn text(queue: &QueueView) -> String {
    let note = if queue.note.is_empty() { String::new() } else { format!("{}\n", show::text(&queue.note)) };
    if queue.titles.is_empty() {
        return format!("{note}the queue is empty; put something into it: peer-node queue add TITLE\n");
    }
    let rows: Vec<[String; 6]> = (1u32..)
        .zip(&queue.titles)
        .map(|(place, title)| {
            let progress = format!("{} %", show::percent(title));
            let (when, remark) = (show::delivery(title), show::text(&title.reason));
            [place.to_string(), show::text(&title.name), show::state(title).to_owned(), progress, when, remark]
        })
        .collect();
    format!("{note}{}", show::table(["#", "NAME", "STATE", "HERE", "WHEN", ""], &rows))
}
