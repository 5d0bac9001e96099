//! `tracker queue`: what customers want, in their order.

use clap::Subcommand;
use daemon::exit::{Exit, Failure};
use serde::Serialize;
use swarm_proto::id::{DeviceId, ItemId, TitleId};
use swarm_proto::pb::tracker as pb;
use swarm_proto::time::Utc;

use super::Global;
use super::client::{Tracker, id, table};

#[derive(Subcommand)]
pub(super) enum QueueCommand {
    /// List what a customer wants, highest priority first
    Ls {
        /// Name or account id
        customer: String,
    },
    /// Add a title for every box of a customer
    Add {
        /// Name or account id
        customer: String,
        /// Its id, its item id or its exact name
        title: String,
        /// Put it before this title
        #[arg(long, value_name = "TITLE")]
        before: Option<String>,
    },
    /// Take a title out
    Rm {
        /// Name or account id
        customer: String,
        /// Its id, its item id or its exact name
        title: String,
    },
}

#[derive(Serialize)]
pub(super) struct Queued {
    pub(super) place: usize,
    title: TitleId,
    item: ItemId,
    pub(super) name: String,
    device: Option<DeviceId>,
    added: String,
}

pub(super) async fn run(global: &Global, command: QueueCommand) -> anyhow::Result<Exit> {
    let mut tracker = Tracker::of(global).await?;
    let answer = match command {
        QueueCommand::Ls { customer } => {
            let account = tracker.account(&customer).await?;
            tracker.queue.get_queue(pb::GetQueueRequest { account }).await
        }
        QueueCommand::Add { customer, title, before } => {
            let account = tracker.account(&customer).await?;
            let title = tracker.title(&title).await?.title.to_vec();
            let before = match before {
                Some(before) => tracker.title(&before).await?.title.to_vec(),
                None => Vec::new(),
            };
            let request = pb::AddToQueueRequest { account, title, this_device_only: false, before };
            tracker.queue.add_to_queue(request).await
        }
        QueueCommand::Rm { customer, title } => {
            let account = tracker.account(&customer).await?;
            let title = tracker.title(&title).await?.title.to_vec();
            tracker.queue.remove_from_queue(pb::RemoveFromQueueRequest { account, title }).await
        }
    };
    let state = tracker.answer(answer)?;
    let entries = entries(state.entries)?;
    let row = |it: &Queued| {
        let device = it.device.map_or_else(|| "every box".to_owned(), |device| device.short());
        [(it.place + 1).to_string(), it.name.clone(), device, it.added.clone(), it.title.to_string()]
    };
    global.print_list(&entries, || table(["PLACE", "NAME", "FOR", "ADDED", "TITLE"], &entries, row))
}

/// A queue in an answer.
pub(super) fn entries(messages: Vec<pb::QueueEntry>) -> Result<Vec<Queued>, Failure> {
    let entry = |(place, entry): (usize, pb::QueueEntry)| {
        Ok(Queued {
            place,
            title: id(&entry.title)?,
            item: id(&entry.item)?,
            name: entry.name,
            device: if entry.device.is_empty() { None } else { Some(id(&entry.device)?) },
            added: Utc::from_millis(entry.added_utc_ms).to_string(),
        })
    };
    messages.into_iter().enumerate().map(entry).collect()
}
