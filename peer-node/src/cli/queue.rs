//! `peer-node queue`: the customer's priority list.

use clap::Subcommand;
use daemon::exit::Exit;
use swarm_proto::pb::node::{
    AddToQueueRequest, GetQueueRequest, MoveInQueueRequest, QueueView, RemoveFromQueueRequest,
};

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
        QueueCommand::Ls => device.client.get_queue(GetQueueRequest {}).await,
        QueueCommand::Add { title, first } => {
            device.client.add_to_queue(AddToQueueRequest { title: query(&title), first }).await
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
    global.print(&serde_json::json!({ "version": queue.version, "titles": titles }), || text(&queue))
}

fn text(queue: &QueueView) -> String {
    if queue.titles.is_empty() {
        return "the queue is empty; put something into it: peer-node queue add TITLE\n".to_owned();
    }
    let rows: Vec<[String; 4]> = (1u32..)
        .zip(&queue.titles)
        .map(|(place, title)| {
            let progress = format!("{} %", show::percent(title));
            [place.to_string(), show::text(&title.name), show::state(title).to_owned(), progress]
        })
        .collect();
    show::table(["#", "NAME", "STATE", "HERE"], &rows)
}
