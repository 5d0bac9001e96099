//! Plays titles to players on this machine: `/play/ITEM`, with ranges.
//!
//! Clear bytes exist in memory only, a few segments ahead of the player, and only while the rights last: they are asked
//! for before the first byte and again before each few segments. What has not arrived yet is waited for, and comes
//! first from then on. Every chunk is verified against the manifest before it is opened; a chunk that has rotted on
//! disk is fetched again meanwhile. When the player hangs up, the work ends. The port is loopback and answers only to
//! host names of this machine (`daemon::serve`), so that no web page elsewhere can read a film.

mod range;

use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use axum::Router;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use bytes::Bytes;
use daemon::exit::{Exit, Failure};
use futures::stream::{self, StreamExt as _};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use swarm_proto::catalog::CatalogEntry;
use swarm_proto::geometry::{ChunkIndex, Geometry, SEGMENT_BYTES, SEGMENTS_PER_CHUNK, SegmentIndex, TAG_BYTES};
use swarm_proto::id::ItemId;
use swarm_proto::seal::Opener;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use self::range::Asked;
use crate::catalog::Catalog;
use crate::grants::Keys;
use crate::items::{Items, ItemsError};
use crate::{config, engine, grants};

/// Segments opened in one go: long enough that handing work to another thread costs nothing, short enough that a
/// player's small range is answered at once.
const BATCH_SEGMENTS: u32 = 4;

/// Batches opened before the player has taken the one it is at: half a MiB of clear bytes.
const READ_AHEAD: usize = 2;

/// How often a chunk that vanishes again (rotten disk) is fetched for one viewing.
const CHUNK_ATTEMPTS: usize = 3;

/// How long a player waits for an answer when not a byte of the title is here. The answer itself begins then, and
/// bytes follow as they arrive.
const REFUSE_WITHIN: Duration = Duration::from_secs(1);

/// What playing stands on.
pub struct Deps {
    /// Section `play` of the configuration.
    pub config: config::Play,
    /// Knows the titles.
    pub catalog: Catalog,
    /// Has the chunks.
    pub items: Items,
    /// Fetches those that are missing.
    pub engine: engine::Handle,
    /// Has the keys.
    pub grants: grants::Grants,
}

/// What a player needs of the device besides its disk. In the daemon this is catalog, grants and engine.
#[async_trait]
pub trait House: Send + Sync + 'static {
    /// What the publisher says about an item.
    fn title(&self, item: ItemId) -> Option<CatalogEntry>;
    /// The key, for a viewing that begins now.
    async fn open(&self, entry: &CatalogEntry) -> Result<Keys, Failure>;
    /// The keys of its free beginning, and how many clear bytes they open.
    async fn preview(&self, entry: &CatalogEntry) -> Result<(Keys, u64), Failure>;
    /// Whether a viewing that has begun may go on.
    fn may_go_on(&self, item: ItemId) -> Result<(), Failure>;
    /// Resolves when a chunk is held.
    async fn chunk(&self, item: ItemId, index: ChunkIndex) -> Result<(), engine::ChunkWait>;
}

struct Device {
    catalog: Catalog,
    engine: engine::Handle,
    grants: grants::Grants,
}

#[async_trait]
impl House for Device {
    fn title(&self, item: ItemId) -> Option<CatalogEntry> {
        self.catalog.of_item(item).map(|title| title.entry.clone())
    }

    async fn open(&self, entry: &CatalogEntry) -> Result<Keys, Failure> {
        self.grants.open(entry.item, entry.geometry, entry.commitment, entry.span_commitment).await
    }

    async fn preview(&self, entry: &CatalogEntry) -> Result<(Keys, u64), Failure> {
        self.grants.preview(entry).await
    }

    fn may_go_on(&self, item: ItemId) -> Result<(), Failure> {
        self.grants.may_go_on(&item)
    }

    async fn chunk(&self, item: ItemId, index: ChunkIndex) -> Result<(), engine::ChunkWait> {
        self.engine.chunk(item, index).await
    }
}

/// The route that players open.
pub fn routes(deps: Deps) -> Router {
    let Deps { config, catalog, items, engine, grants } = deps;
    routes_of(&config, items, Arc::new(Device { catalog, engine, grants }))
}

/// The same, for any house.
pub fn routes_of(config: &config::Play, items: Items, house: Arc<dyn House>) -> Router {
    let places = Arc::new(Semaphore::new((config.players as usize).min(Semaphore::MAX_PERMITS)));
    Router::new().route("/play/{item}", get(play)).route("/preview/{item}", get(preview)).with_state(Theatre {
        items,
        house,
        places,
    })
}

#[derive(Clone)]
struct Theatre {
    items: Items,
    house: Arc<dyn House>,
    places: Arc<Semaphore>,
}

/// One viewing of one item.
#[derive(Clone)]
struct Viewing {
    item: ItemId,
    geometry: Geometry,
    keys: Keys,
    /// Whether it needs a right that may end.
    is_free: bool,
    items: Items,
    house: Arc<dyn House>,
    _place: Arc<OwnedSemaphorePermit>,
}

/// A few segments of one chunk, and which of their clear bytes are wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Batch {
    chunk: ChunkIndex,
    segments: Range<u32>,
    /// Positions in the clear file.
    wanted: Range<u64>,
}

/// Answers GET and, without the bytes, HEAD.
async fn play(State(theatre): State<Theatre>, Path(item): Path<String>, headers: HeaderMap) -> Response {
    theatre.answer(&item, &headers, Showing::Title).await.unwrap_or_else(refusal)
}

/// The same for the free beginning of a title, as a shorter file.
async fn preview(State(theatre): State<Theatre>, Path(item): Path<String>, headers: HeaderMap) -> Response {
    theatre.answer(&item, &headers, Showing::Preview).await.unwrap_or_else(refusal)
}

/// What of a title is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Showing {
    Title,
    Preview,
}

impl Theatre {
    async fn answer(&self, item: &str, headers: &HeaderMap, showing: Showing) -> Result<Response, Failure> {
        let unknown = || Failure::new(Exit::NotFound, "E-PLAY-03", "this box knows no such title");
        let item: ItemId = item.parse().map_err(|error| unknown().why(error))?;
        let entry = self.house.title(item).ok_or_else(|| unknown().hint("see what there is: peer-node catalog ls"))?;
        let (keys, len, etag) = match showing {
            Showing::Title => (self.house.open(&entry).await?, entry.geometry.plain_len(), format!("\"{item}\"")),
            Showing::Preview => {
                let (keys, len) = self.house.preview(&entry).await?;
                (keys, len, format!("\"{item}-{len}\""))
            }
        };
        let whole_only = headers.get(header::IF_RANGE).is_some_and(|value| value.as_bytes() != etag.as_bytes());
        let range = headers.get(header::RANGE).filter(|_| !whole_only).and_then(|value| value.to_str().ok());
        let (status, wanted) = match range.map_or(Asked::Whole, |range| range::asked(range, len)) {
            Asked::Whole => (StatusCode::OK, 0..len),
            Asked::Part(part) => (StatusCode::PARTIAL_CONTENT, part),
            Asked::Beyond => return Ok(beyond(len)),
        };
        let place = self.places.clone().try_acquire_owned().map_err(|_| {
            Failure::new(Exit::Unreachable, "E-PLAY-04", "too many players at a time")
                .hint("close one of them, or raise play.players")
        })?;
        let viewing = Viewing {
            item,
            geometry: entry.geometry,
            keys,
            is_free: showing == Showing::Preview,
            items: self.items.clone(),
            house: self.house.clone(),
            _place: Arc::new(place),
        };
        viewing.can_come(wanted.start).await?;

        let mut response = Response::new(viewing.body(wanted.clone()));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        for (name, value) in FIXED_HEADERS {
            headers.insert(name, HeaderValue::from_static(value));
        }
        headers.insert(header::CONTENT_TYPE, printable(&entry.media.mime));
        headers.insert(header::ETAG, printable(&etag));
        headers.insert(header::CONTENT_LENGTH, (wanted.end - wanted.start).into());
        if status == StatusCode::PARTIAL_CONTENT {
            let range = format!("bytes {}-{}/{len}", wanted.start, wanted.end - 1);
            headers.insert(header::CONTENT_RANGE, printable(&range));
        }
        Ok(response)
    }
}

/// Nothing is to be kept by browsers, guessed at, run as a page, or embedded by another site.
const FIXED_HEADERS: [(HeaderName, &str); 5] = [
    (header::ACCEPT_RANGES, "bytes"),
    (header::CACHE_CONTROL, "no-store"),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::CONTENT_SECURITY_POLICY, "default-src 'none'; media-src 'self'; sandbox"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
];

impl Viewing {
    /// Refuses at once what will never come, so that a player hears why.
    async fn can_come(&self, position: u64) -> Result<(), Failure> {
        let first = self.geometry.segments_of_plain_range(position..position + 1).start;
        let Some(chunk) = SegmentIndex::new(first).map(SegmentIndex::chunk) else { return Ok(()) };
        if let Ok(Err(failure)) = tokio::time::timeout(REFUSE_WITHIN, self.keys.opener(chunk)).await {
            return Err(failure);
        }
        if self.items.holding(&self.item).is_some_and(|holding| holding.contains(chunk)) {
            return Ok(());
        }
        match tokio::time::timeout(REFUSE_WITHIN, self.house.chunk(self.item, chunk)).await {
            Ok(Err(error)) => Err(Failure::new(Exit::NotFound, "E-PLAY-05", "this title is not on this box")
                .why(error)
                .hint("fetch it: peer-node get TITLE")),
            Ok(Ok(())) | Err(_) => Ok(()),
        }
    }

    fn body(self, wanted: Range<u64>) -> Body {
        let fetcher = self.clone();
        let fetched = stream::iter(batches(self.geometry, wanted)).then(move |batch| {
            let viewing = fetcher.clone();
            async move {
                let (sealed, opener) = tokio::try_join!(viewing.fetch(batch.chunk), viewing.opener(batch.chunk))?;
                Ok::<_, io::Error>((batch, sealed, opener))
            }
        });
        let opened = fetched.map(move |fetched| {
            let viewing = self.clone();
            async move {
                let (batch, sealed, opener) = fetched?;
                tokio::task::spawn_blocking(move || viewing.open(&batch, &sealed, &opener))
                    .await
                    .map_err(io::Error::other)?
            }
        });
        Body::from_stream(opened.buffered(READ_AHEAD))
    }

    /// A verified chunk, as soon as it is here, if the viewing may go on.
    async fn fetch(&self, chunk: ChunkIndex) -> io::Result<Bytes> {
        for _ in 0..CHUNK_ATTEMPTS {
            if !self.is_free {
                self.house.may_go_on(self.item).map_err(|failure| self.interrupted(&failure))?;
            }
            match self.items.read_chunk(self.item, chunk).await {
                Ok(sealed) => return Ok(sealed),
                Err(ItemsError::Unknown(_) | ItemsError::NotHeld(..) | ItemsError::Rotten(..)) => {}
                Err(error) => return Err(self.interrupted(&error)),
            }
            self.house.chunk(self.item, chunk).await.map_err(|error| self.interrupted(&error))?;
        }
        Err(self.interrupted(&format!("chunk {chunk} does not stay on the disk")))
    }

    /// What opens a chunk; where keys come while the title plays, as soon as that one is here.
    async fn opener(&self, chunk: ChunkIndex) -> io::Result<Arc<Opener>> {
        self.keys.opener(chunk).await.map_err(|failure| self.interrupted(&failure))
    }

    fn open(&self, batch: &Batch, sealed: &Bytes, opener: &Opener) -> io::Result<Bytes> {
        let mut clear = Vec::with_capacity(batch.segments.len() * SEGMENT_BYTES as usize);
        let mut starts_at = None;
        for segment in batch.segments.clone().filter_map(|raw| self.geometry.segment(raw)) {
            let place = segment.in_chunk() * SEGMENT_BYTES as usize;
            let len = self.geometry.segment_len(segment);
            starts_at.get_or_insert(self.geometry.segment_plain_range(segment).start);
            let begin = clear.len();
            clear.extend_from_slice(&sealed[place..place + len]);
            opener.open_segment(segment, &mut clear[begin..]).map_err(|error| self.interrupted(&error))?;
            clear.truncate(begin + len - TAG_BYTES as usize);
        }
        let starts_at = starts_at.expect("a batch has a segment");
        let within = (batch.wanted.start - starts_at) as usize..(batch.wanted.end - starts_at) as usize;
        Ok(Bytes::from(clear).slice(within))
    }

    /// The end of a body that has begun: the connection is cut, so that nobody takes it for the whole.
    fn interrupted(&self, why: &dyn std::fmt::Display) -> io::Error {
        tracing::warn!(item = %self.item, reason = %why, "a viewing was interrupted");
        io::Error::other(why.to_string())
    }
}

/// Cuts a range of the clear file into batches, each within one chunk.
fn batches(geometry: Geometry, wanted: Range<u64>) -> impl Iterator<Item = Batch> + Send {
    const _: () = assert!(SEGMENTS_PER_CHUNK.is_multiple_of(BATCH_SEGMENTS), "a batch lies within one chunk");
    let segments = geometry.segments_of_plain_range(wanted.clone());
    let groups = segments.start / BATCH_SEGMENTS..segments.end.div_ceil(BATCH_SEGMENTS);
    groups.filter_map(move |group| {
        let first = (group * BATCH_SEGMENTS).max(segments.start);
        let last = ((group + 1) * BATCH_SEGMENTS).min(segments.end) - 1;
        let clear = geometry.segment_plain_range(geometry.segment(first)?).start
            ..geometry.segment_plain_range(geometry.segment(last)?).end;
        Some(Batch {
            chunk: geometry.segment(first)?.chunk(),
            segments: first..last + 1,
            wanted: clear.start.max(wanted.start)..clear.end.min(wanted.end),
        })
    })
}

fn beyond(len: u64) -> Response {
    let failure = Failure::new(Exit::Usage, "E-PLAY-06", "the range lies behind the end of the title")
        .why(format!("it has {len} bytes"));
    let mut response = failure.into_response();
    *response.status_mut() = StatusCode::RANGE_NOT_SATISFIABLE;
    response.headers_mut().insert(header::CONTENT_RANGE, printable(&format!("bytes */{len}")));
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// 402 when money is missing, 403 when the time is over, else what the failure says.
fn refusal(failure: Failure) -> Response {
    let is_over = failure.code == grants::OUTSIDE_WINDOW;
    let mut response = failure.into_response();
    if is_over {
        *response.status_mut() = StatusCode::FORBIDDEN;
    }
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// A header's value made of text that is ASCII already (the catalog sees to media types).
fn printable(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).unwrap_or(HeaderValue::from_static("application/octet-stream"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn batches_cover_the_range_once_and_in_order(
            len in 1..40_000_000_u64, a in any::<prop::sample::Index>(), b in any::<prop::sample::Index>(),
        ) {
            let geometry = Geometry::of_plain(len).expect("possible");
            let (a, b) = (a.index(len as usize) as u64, b.index(len as usize) as u64);
            let wanted = a.min(b)..a.max(b) + 1;
            let mut position = wanted.start;
            for batch in batches(geometry, wanted.clone()) {
                prop_assert_eq!(batch.wanted.start, position);
                prop_assert!(batch.wanted.end > position && batch.segments.len() <= BATCH_SEGMENTS as usize);
                prop_assert_eq!((batch.segments.end - 1) / SEGMENTS_PER_CHUNK, batch.chunk.get());
                prop_assert_eq!(batch.segments.start / SEGMENTS_PER_CHUNK, batch.chunk.get());
                position = batch.wanted.end;
            }
            prop_assert_eq!(position, wanted.end);
        }
    }
}
