//! `tracker traffic`: how much boxes and seeds have sent.

use daemon::exit::Exit;
use serde::Serialize;
use swarm_proto::pb::tracker as pb;

use super::Global;
use super::client::Tracker;
use crate::human;

#[derive(Serialize)]
struct Traffic {
    from_boxes_bytes: u64,
    from_seeds_bytes: u64,
    wasted_bytes: u64,
}

pub(super) async fn run(global: &Global) -> anyhow::Result<Exit> {
    let mut tracker = Tracker::of(global).await?;
    let answer = tracker.operator.get_traffic(pb::GetTrafficRequest {}).await;
    let pb::TrafficTotals { from_boxes_bytes, from_seeds_bytes, wasted_bytes } = tracker.answer(answer)?;
    let traffic = Traffic { from_boxes_bytes, from_seeds_bytes, wasted_bytes };
    global.print(&traffic, || {
        let rows = [
            ["from boxes".to_owned(), human::bytes(from_boxes_bytes)],
            ["from seeds".to_owned(), human::bytes(from_seeds_bytes)],
            ["wasted".to_owned(), human::bytes(wasted_bytes)],
        ];
        let share = human::share(from_boxes_bytes, from_seeds_bytes);
        let share = share.map(|share| format!("{share} carried by boxes\n")).unwrap_or_default();
        format!("{}{share}", human::table(["BYTES", "AMOUNT"], &rows))
    })
}
