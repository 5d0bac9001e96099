//! The demo's eyes: what a running box says of itself, and what its play URL gives to any player.
//!
//! Asks the box's own control service with the token in its data folder, as the box's commands do. A film is hashed as
//! it streams in and never kept.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use daemon::client::{self, Trust};
use daemon::token::{self, Bearer, OperatorToken};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Bytes;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use swarm_proto::pb::node::node_client::NodeClient;
use swarm_proto::pb::node::{GetStatusRequest, Status, TitleState, TitleStatus};
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;

use super::process::Daemon;
use super::report::Findings;

/// How often a box is asked while something is awaited.
const ASK_EVERY: Duration = Duration::from_millis(20);

/// A box (or seed) as its control service shows it.
pub(super) struct Node {
    client: NodeClient<InterceptedService<Channel, Bearer>>,
}

impl Node {
    pub(super) async fn of(daemon: &Daemon) -> anyhow::Result<Node> {
        let token = OperatorToken::read(&daemon.data.join(token::FILE))?;
        let channel = client::connect(&daemon.url, &Trust::default()).await?;
        Ok(Node { client: NodeClient::with_interceptor(channel, token.bearer()) })
    }

    pub(super) async fn status(&mut self) -> anyhow::Result<Status> {
        let request = GetStatusRequest { title: String::new() };
        Ok(self.client.get_status(request).await.map_err(daemon::Failure::from)?.into_inner())
    }

    /// The status of one title; an empty one while the box does not know it yet.
    pub(super) async fn title(&mut self, name: &str) -> anyhow::Result<TitleStatus> {
        let status = self.status().await?;
        Ok(status.titles.into_iter().find(|t| t.name == name).unwrap_or_default())
    }

    /// Asks until `enough` holds of the whole status, at most so long.
    pub(super) async fn until(
        &mut self,
        within: Duration,
        what: &str,
        mut enough: impl FnMut(&Status) -> bool,
    ) -> anyhow::Result<Status> {
        let begun = Instant::now();
        loop {
            let status = self.status().await?;
            if enough(&status) {
                return Ok(status);
            }
            if begun.elapsed() > within {
                bail!("waited {} s for {what}; titles: {:?}", within.as_secs(), status.titles);
            }
            tokio::time::sleep(ASK_EVERY).await;
        }
    }

    /// Waits until a title satisfies `enough`.
    pub(super) async fn until_title(
        &mut self,
        name: &str,
        within: Duration,
        what: &str,
        mut enough: impl FnMut(&TitleStatus) -> bool,
    ) -> anyhow::Result<TitleStatus> {
        let status = self.until(within, what, |s| s.titles.iter().any(|t| t.name == name && enough(t))).await?;
        status.titles.into_iter().find(|t| t.name == name).context("the title has just been seen")
    }

    /// Waits until a title is complete on this box's disk.
    pub(super) async fn until_available(&mut self, name: &str, within: Duration) -> anyhow::Result<TitleStatus> {
        let what = format!("\"{name}\" to be available");
        self.until_title(name, within, &what, |t| t.state() == TitleState::Available).await
    }
}

/// Names for the devices of this demo, by id in hex.
pub(super) type Names = BTreeMap<String, String>;

/// Verified bytes of a title by the name of their source.
pub(super) fn bytes_from(title: &TitleStatus, names: &Names) -> BTreeMap<String, u64> {
    let mut from = BTreeMap::new();
    for source in &title.sources {
        let id = super::leaks::hex(&source.device);
        let name = names.get(&id).cloned().unwrap_or_else(|| id[..8.min(id.len())].to_owned());
        *from.entry(name).or_default() += source.verified_bytes;
    }
    from.retain(|_, bytes| *bytes > 0);
    from
}

/// What a step says of a title that has arrived.
pub(super) fn arrived(title: &TitleStatus, names: &Names, what: &str) -> Findings {
    let bytes_from = bytes_from(title, names);
    let chunks = |bytes: u64| bytes.div_ceil(1 << 20);
    let split: Vec<String> = bytes_from.iter().map(|(name, bytes)| format!("{} from {name}", chunks(*bytes))).collect();
    Findings {
        detail: format!("{what}: {} chunks, {}", title.n_chunks, split.join(", ")),
        bytes_from,
        wasted_bytes: Some(title.wasted_bytes),
        ..Findings::default()
    }
}

/// An answer of a play URL.
pub(super) struct Played {
    pub(super) status: u16,
    pub(super) len: u64,
    pub(super) hash: blake3::Hash,
    /// The whole body, if it is short (a Range, an error).
    pub(super) short: Vec<u8>,
}

/// Bodies up to this size are kept as well as hashed.
const SHORT_BODY: usize = 256 << 10;

/// Fetches a URL as a player does, with an optional `Range` header.
pub(super) async fn fetch(url: &str, range: Option<&str>) -> anyhow::Result<Played> {
    let client: Client<_, Empty<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
    let mut request = hyper::Request::get(url);
    if let Some(range) = range {
        request = request.header(hyper::header::RANGE, range);
    }
    let answer = client.request(request.body(Empty::new())?).await.with_context(|| format!("failed to fetch {url}"))?;
    let status = answer.status().as_u16();
    let mut body = answer.into_body();
    let mut hasher = blake3::Hasher::new();
    let (mut len, mut short) = (0, Vec::new());
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame.with_context(|| format!("{url} broke off after {len} bytes"))?.into_data() {
            hasher.update(&data);
            len += data.len() as u64;
            if short.len() + data.len() <= SHORT_BODY {
                short.extend_from_slice(&data);
            }
        }
    }
    Ok(Played { status, len, hash: hasher.finalize(), short })
}

/// Plays the whole stream and three Ranges of it, and compares each with the original.
pub(super) async fn play_and_compare(url: &str, original: &super::Original) -> anyhow::Result<Duration> {
    let begun = Instant::now();
    let whole = fetch(url, None).await?;
    let took = begun.elapsed();
    ensure!(whole.status == 200, "{url} answered {}", whole.status);
    ensure!(whole.len == original.len, "played {} bytes, the original has {}", whole.len, original.len);
    ensure!(whole.hash == original.hash, "the played stream differs from the original");

    // The beginning, a piece across the border of two segments, and the end.
    let last = original.len - 1;
    let border = 65_520.min(last);
    for (from, to) in
        [(0, 99.min(last)), (border.saturating_sub(50), (border + 50).min(last)), (last.saturating_sub(99), last)]
    {
        let part = fetch(url, Some(&format!("bytes={from}-{to}"))).await?;
        ensure!(part.status == 206, "a Range request was answered with {}", part.status);
        ensure!(part.short == original.read(from, to)?, "bytes {from} to {to} differ from the original");
    }
    Ok(took)
}
