//! `peer-node id`: who this device is, made up if it has never run.

use daemon::data_folder::DataFolder;
use daemon::exit::Exit;
use serde::Serialize;

use super::{Global, daemon_client};
use crate::identity::Identity;

#[derive(Serialize)]
struct Answer {
    device: String,
    short: String,
    peer_id: String,
}

pub(super) fn run(global: &Global) -> anyhow::Result<Exit> {
    let path = global.data_folder()?;
    let identity = match daemon_client::running(&path)? {
        Some(inspection) => Identity::open_or_create(inspection.path())?,
        None => Identity::open_or_create(DataFolder::open(path)?.path())?,
    };
    let answer = Answer {
        device: identity.device.to_string(),
        short: identity.device.short(),
        peer_id: identity.keypair.public().to_peer_id().to_string(),
    };
    global.print(&answer, || {
        format!("device   {}\nshort    {}\npeer id  {}\n", answer.device, answer.short, answer.peer_id)
    })
}
