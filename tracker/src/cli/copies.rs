//! `tracker copies`: who holds a title.

use clap::Args;
use daemon::exit::Exit;
use serde::Serialize;
use swarm_proto::id::ItemId;
use swarm_proto::pb::tracker as pb;

use super::Global;
use super::client::{Tracker, collect, table};
use super::device::Device;

#[derive(Args)]
pub(super) struct CopiesArgs {
    /// A title's id, item id or exact name
    title: String,
}

#[derive(Serialize)]
struct Copy {
    #[serde(flatten)]
    device: Device,
    chunks: u32,
    n_chunks: u32,
}

pub(super) async fn run(global: &Global, args: CopiesArgs) -> anyhow::Result<Exit> {
    let mut tracker = Tracker::of(global).await?;
    let item = match args.title.parse::<ItemId>() {
        Ok(item) => item,
        Err(_) => tracker.title(&args.title).await?.item,
    };
    let answer = tracker.operator.get_copies(pb::GetCopiesRequest { item: item.to_vec() }).await;
    let copies = tracker.answer(answer)?;
    let n_chunks = copies.n_chunks;
    let all = collect(copies.devices, |it| {
        Ok(Copy { device: Device::of(it.device.unwrap_or_default())?, chunks: it.chunks, n_chunks })
    })?;
    let row = |it: &Copy| {
        let held = format!("{}/{n_chunks}", it.chunks);
        let of = &it.device;
        [of.device.to_string(), of.name.clone(), of.kind.to_owned(), of.site.clone(), of.state.to_owned(), held]
    };
    global.print_list(&all, || table(["DEVICE", "NAME", "KIND", "SITE", "STATE", "CHUNKS"], &all, row))
}
