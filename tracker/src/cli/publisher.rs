//! `tracker publisher`: who may publish here.

use clap::Subcommand;
use daemon::exit::Exit;
use serde::Serialize;
use swarm_proto::id::PublisherId;
use swarm_proto::pb::tracker as pb;

use super::Global;
use super::client::Tracker;

#[derive(Subcommand)]
pub(super) enum PublisherCommand {
    /// Let a publisher publish here
    Add {
        /// Its key, as `peer-node publisher id` prints it
        publisher: PublisherId,
        /// What people call it
        #[arg(long)]
        name: String,
    },
}

#[derive(Serialize)]
struct Publisher {
    publisher: PublisherId,
    name: String,
    already: bool,
}

pub(super) async fn run(global: &Global, command: PublisherCommand) -> anyhow::Result<Exit> {
    let PublisherCommand::Add { publisher, name } = command;
    let mut tracker = Tracker::of(global).await?;
    let request = pb::AdmitPublisherRequest { publisher: publisher.to_vec(), name: name.clone() };
    let answer = tracker.operator.admit_publisher(request).await;
    let already = tracker.answer(answer)?.already;
    let word = if already { "was admitted already" } else { "is admitted" };
    global.print(&Publisher { publisher, name: name.clone(), already }, || format!("{publisher}  {name} {word}\n"))
}
