//! A box that is killed at nine tenths of a title: how soon it goes on, and what it does over again.
//!
//! What is fetched again is what the seed has sent beyond the item itself, over both lives of the box; what is hashed
//! again is the box's own count.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use swarm_proto::pb::node::Status;

use super::ours::{Sink, Swarm};

/// Slow enough that the box can be stopped where it is meant to be: its status is a quarter of a second old at most.
const RATE: &str = "transfers.rate=96 MiB/s";
const WITHIN: Duration = Duration::from_secs(120);
const ASK_EVERY: Duration = Duration::from_millis(10);

/// How it went.
pub(super) struct Restart {
    pub(super) held_percent: f64,
    pub(super) first_useful_byte_ms: f64,
    pub(super) fetched_again_mib: f64,
    pub(super) hashed_again_percent: f64,
}

impl Swarm {
    /// Does it once.
    pub(super) async fn kill_and_go_on(&mut self) -> anyhow::Result<Restart> {
        let sent_before = self.sent_by_seed().await?;
        let mut sink = self.new_box(&[RATE.to_owned()]).await?;
        sink.want().await?;
        let n_chunks = self.n_chunks();
        until(&mut sink, |status| held(status) * 10 >= n_chunks * 9).await?;
        let killed = sink.kill().await?;

        let begun = Instant::now();
        let mut sink = killed.start_again().await?;
        let held_percent = f64::from(held(&sink.status().await?)) / f64::from(n_chunks) * 100.0;
        until(&mut sink, |status| status.received.as_ref().is_some_and(|books| books.verified_bytes > 0)).await?;
        let first_useful_byte_ms = begun.elapsed().as_secs_f64() * 1e3;
        until(&mut sink, |status| held(status) == n_chunks).await?;
        let hashed = sink.metric("chunks_hashed_again_total").await?;
        let len = self.check_and_remove(sink).await?;
        let sent = self.sent_by_seed().await? - sent_before;
        Ok(Restart {
            held_percent,
            first_useful_byte_ms,
            fetched_again_mib: sent.saturating_sub(len) as f64 / f64::from(1 << 20),
            hashed_again_percent: hashed / f64::from(n_chunks) * 100.0,
        })
    }
}

fn held(status: &Status) -> u32 {
    status.titles.first().map_or(0, |title| title.chunks_held)
}

async fn until(sink: &mut Sink, enough: impl Fn(&Status) -> bool) -> anyhow::Result<()> {
    let begun = Instant::now();
    while !enough(&sink.status().await.context("the box does not answer")?) {
        ensure!(begun.elapsed() < WITHIN, "waited for more than {} s", WITHIN.as_secs());
        tokio::time::sleep(ASK_EVERY).await;
    }
    Ok(())
}
