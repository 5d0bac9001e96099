//! A peer that lies: enrolled like any other, it says that it holds an item and sends noise for every chunk.
//!
//! Speaks the real protocols over real sockets through `peer_node::net`; only its answers are false.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use libp2p::identity::Keypair;
use peer_node::config;
use peer_node::net;
use swarm_proto::bitmap::Holding;
use swarm_proto::catalog::CatalogEntry;
use swarm_proto::geometry::Geometry;
use swarm_proto::manifest::Manifest;
use swarm_proto::pb::common::ChunkRange;
use swarm_proto::pb::tracker::report::Report as Kind;
use swarm_proto::pb::tracker::swarm_client::SwarmClient;
use swarm_proto::pb::tracker::{Heartbeat, Hello, ItemHolding, Report, notice};
use swarm_proto::wire::{Answer, Ask};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;

use super::device::Device;

/// How often the tracker hears that it is still there.
const HEARTBEAT_EVERY: Duration = Duration::from_secs(2);
/// How long the tracker may take to greet it.
const WELCOME_WITHIN: Duration = Duration::from_secs(10);

/// The liar, while it is in the swarm.
pub(super) struct Liar {
    device: Device,
    sent: Arc<AtomicU64>,
    tasks: Vec<JoinHandle<()>>,
    _net: net::Handle,
}

impl Liar {
    /// Joins the swarm and claims a whole copy of a title. `manifest` is the true one (it could get it from anyone), so
    /// that it is asked for chunks at all: a false one does not fold to the item id.
    pub(super) async fn join(tracker_url: &str, code: &str, title: &str, manifest: &[u8]) -> anyhow::Result<Liar> {
        let device = Device::enrol(tracker_url, code, "liar").await?;
        let entry = device.entry(title).await?;
        let geometry = entry.geometry;
        let values = Manifest::from_bytes(entry.item, manifest)?.values_bytes();
        let keypair = Keypair::ed25519_from_bytes(device.signing.expose().as_mut_slice())?;
        let listen = config::Net { listen: vec!["/ip4/127.0.0.1/tcp/0".to_owned()], ..config::Net::default() };
        let (net, mut questions) = net::spawn(keypair, net::Config::of(&listen)?).await?;

        let sent = Arc::new(AtomicU64::new(0));
        let count = sent.clone();
        let lies = tokio::spawn(async move {
            while let Some(inbound) = questions.recv().await {
                let answer = lie(&geometry, &values, inbound.request.ask);
                let bad = matches!(answer, Answer::Data { .. });
                if inbound.responder.send(answer).await > 0 && bad {
                    count.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        let addresses = net.status().borrow().listening.iter().map(ToString::to_string).collect();
        let claims = attend(&device, &entry, geometry, addresses).await?;
        Ok(Liar { device, sent, tasks: vec![lies, claims], _net: net })
    }

    /// Its id in hex.
    pub(super) fn id(&self) -> String {
        self.device.id()
    }

    /// Bad chunks that have left.
    pub(super) fn bad_chunks_sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }
}

impl Drop for Liar {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

fn lie(geometry: &Geometry, values: &Bytes, ask: Ask) -> Answer {
    match ask {
        Ask::Manifest => Answer::Manifest { sealed_len: geometry.sealed_len(), values: values.clone() },
        Ask::Holding => Holding::complete(geometry.n_chunks()).map_or(Answer::NotHeld, Answer::Holding),
        Ask::Chunk { index, .. } => {
            let noise = vec![0x5a; geometry.chunk_len(index)];
            Answer::Data { segment_values: Bytes::new(), bytes: noise.into() }
        }
    }
}

/// Tells the tracker of the copy that does not exist, and stays on its stream.
async fn attend(
    device: &Device,
    entry: &CatalogEntry,
    geometry: Geometry,
    addresses: Vec<String>,
) -> anyhow::Result<JoinHandle<()>> {
    ensure!(!addresses.is_empty(), "the liar has no address to be reached at");
    let ranges = vec![ChunkRange { first: 0, count: geometry.n_chunks() }];
    let holding = ItemHolding { item: entry.item.to_vec(), n_chunks: geometry.n_chunks(), ranges };
    let hello = Hello { addresses, holdings: vec![holding], software: "liar".to_owned(), run: 0 };
    let (reports, stream) = mpsc::channel(4);
    reports.send(Report { report: Some(Kind::Hello(hello)) }).await?;
    let request = device.to_tracker(ReceiverStream::new(stream))?;
    let mut notices =
        SwarmClient::new(device.tracker.clone()).attend(request).await.map_err(daemon::Failure::from)?.into_inner();
    tokio::time::timeout(WELCOME_WITHIN, async {
        while let Some(notice) = notices.message().await? {
            if matches!(notice.notice, Some(notice::Notice::Welcome(_))) {
                return Ok(());
            }
        }
        anyhow::bail!("the tracker closed the liar's stream")
    })
    .await
    .context("the tracker did not greet the liar")??;
    Ok(tokio::spawn(async move {
        let mut beat = tokio::time::interval(HEARTBEAT_EVERY);
        loop {
            tokio::select! {
                notice = notices.message() => if !matches!(notice, Ok(Some(_))) { return },
                _ = beat.tick() => {
                    let heartbeat = Report { report: Some(Kind::Heartbeat(Heartbeat::default())) };
                    if reports.send(heartbeat).await.is_err() { return }
                }
            }
        }
    }))
}
