//! `tracker queue`: what customers want, in their order.

use clap::Subcommand;
use daemon::exit::{Exit, Failure};
use serde::Serialize;
use swarm_proto::id::{DeviceId, ItemId, TitleId};
use swarm_proto::pb::tracker as pb;
use swarm_proto::pb::tracker::delivery::When;
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
        /// Deliver it in the windows of each box's site
        #[arg(long, conflicts_with_all = ["not_before", "anytime"])]
        tonight: bool,
        /// Deliver it from then on, such as 2026-12-24T18:00:00Z
        #[arg(long, value_name = "MOMENT", conflicts_with = "anytime")]
        not_before: Option<Utc>,
        /// Deliver it at once, whatever its site does
        #[arg(long)]
        anytime: bool,
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
    delivery: String,
}

pub(super) async fn run(global: &Global, command: QueueCommand) -> anyhow::Result<Exit> {
    let mut tracker = Tracker::of(global).await?;
    let answer = match command {
        QueueCommand::Ls { customer } => {
            let account = tracker.account(&customer).await?;
            tracker.queue.get_queue(pb::GetQueueRequest { account }).await
        }
        QueueCommand::Add { customer, title, before, tonight, not_before, anytime } => {
            let account = tracker.account(&customer).await?;
            let title = tracker.title(&title).await?.title.to_vec();
            let before = match before {
                Some(before) => tracker.title(&before).await?.title.to_vec(),
                None => Vec::new(),
            };
            let when = match (tonight, not_before, anytime) {
                (true, ..) => Some(When::OffPeak(true)),
                (_, Some(moment), _) => Some(When::NotBeforeUtcMs(moment.as_millis())),
                (_, _, true) => Some(When::Anytime(true)),
                (false, None, false) => None,
            };
            let delivery = when.map(|when| pb::Delivery { when: Some(when) });
            let request = pb::AddToQueueRequest { account, title, this_device_only: false, before, delivery };
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
        let place = (it.place + 1).to_string();
        [place, it.name.clone(), device, it.delivery.clone(), it.added.clone(), it.title.to_string()]
    };
    global.print_list(&entries, || table(["PLACE", "NAME", "FOR", "WHEN", "ADDED", "TITLE"], &entries, row))
}

/// When a title is wanted, for a person.
fn delivery_in_words(delivery: Option<&pb::Delivery>) -> String {
    match delivery.and_then(|delivery| delivery.when) {
        None => "as its site does".to_owned(),
        Some(When::Anytime(_)) => "anytime".to_owned(),
        Some(When::OffPeak(_)) => "tonight".to_owned(),
        Some(When::NotBeforeUtcMs(millis)) => format!("not before {}", Utc::from_millis(millis)),
    }
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
            delivery: delivery_in_words(entry.delivery.as_ref()),
        })
    };
    messages.into_iter().enumerate().map(entry).collect()
}
