//! Releases keys span by span: while a title plays whose offer drips, and as a free preview.
//!
//! Rights are judged for each release, then the place of the account, then the pace; what the journal has to say in
//! advance is on disk before a key is unsealed. Each answer brings what leads from its keys to the commitment that the
//! publisher has signed, so that a box needs to believe nobody.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use daemon::{Exit, Failure};
use swarm_proto::id::{ItemId, OrderId};
use swarm_proto::invalid::Invalid;
use swarm_proto::keyserver::drips::{DripRefusal, Drips};
use swarm_proto::keyserver::ledger::SpanRight;
use swarm_proto::keyserver::players::{DeviceName, Playing};
use swarm_proto::pb::common;
use swarm_proto::pb::keyserver as pb;
use swarm_proto::pb::keyserver::spans_server;
use swarm_proto::seal::{ContentKey, Released};
use swarm_proto::span_tree::SpanTree;
use swarm_proto::wrap::{Label, span_keys_aad, wrap};
use tonic::{Request, Response, Status};

use super::Context;
use super::rights::Place;
use crate::caller::Caller;
use crate::convert::{id, order_id, present, refuse, settled};
use crate::{clock, refusals};

/// Most spans in one question.
const MAX_ASKED: u32 = 64;

/// Trees over span keys that are kept, 64 KiB each at most: of the titles that play most at the moment. A tree takes
/// longer to make than all the rest of an answer.
const TREES: usize = 256;

pub(crate) struct Spans {
    context: Context,
    place: Place,
    drips: Mutex<Drips>,
    trees: Mutex<BTreeMap<ItemId, Arc<SpanTree>>>,
}

impl Spans {
    pub(crate) fn new(context: Context, place: Place) -> Spans {
        Spans { context, place, drips: Mutex::default(), trees: Mutex::default() }
    }

    async fn release(&self, caller: Caller, request: pb::ReleaseSpansRequest) -> Result<pb::ReleasedSpans, Status> {
        let (order, books, asker) = (order_id(&request.order)?, &self.context.books, caller.asker);
        let name = DeviceName::new(&request.device_name).map_err(refuse)?;
        let wanted = present("spans", request.spans)?;
        let (drip, right) = settled(books.may_drip(asker, order).await, refusals::span)?;
        let wanted = asked(&wanted, right.n_spans)?;
        let playing = Playing { device: asker.device, name, begins: false, takes_over: false };
        self.place.take(asker.account, playing)?;
        // Keys that leave are a viewing that has begun, whether or not the device has said so.
        settled(books.report_play(asker, order, clock::utc()).await, refusals::play)?;

        let now = clock::now().mono;
        let drawn = self.drips().handle_asked(now, order, asker.device, &drip, wanted.len() as u32);
        let draw = match drawn {
            Ok(draw) => draw,
            Err(DripRefusal::Ahead(again_in)) => {
                let again_in_ms = u64::try_from(again_in.as_millis()).unwrap_or(u64::MAX).max(1);
                return Ok(pb::ReleasedSpans { again_in_ms, ..pb::ReleasedSpans::default() });
            }
            Err(refusal) => return Err(refusals::drip_full(&refusal).into()),
        };
        if draw.needs_allowance {
            settled(books.allow_spans(asker, order).await, refusals::span)?;
            self.drips().handle_allowed(order, asker.device, draw.spans);
            tracing::info!(%order, device = %asker.device.short(), "keys leave span by span");
        }
        self.wrap(&caller, Some(&order), &right, wanted.start..wanted.start + draw.spans)
    }

    async fn preview(&self, caller: Caller, item: &[u8]) -> Result<pb::ReleasedSpans, Status> {
        let item: ItemId = id("item", item)?;
        let given = self.context.books.request_preview(caller.asker, item).await;
        let (spans, right) = settled(given, refusals::preview)?;
        tracing::info!(%item, device = %caller.asker.device.short(), spans, "preview given");
        self.wrap(&caller, None, &right, 0..spans)
    }

    /// Unseals a key and wraps those of some spans to the device, with their proof.
    fn wrap(
        &self,
        caller: &Caller,
        order: Option<&OrderId>,
        right: &SpanRight,
        spans: Range<u32>,
    ) -> Result<pb::ReleasedSpans, Status> {
        let SpanRight { item, commitment, n_spans, key } = right;
        let key = self.context.keys.now().vault.open(item, commitment, key).map_err(|error| {
            tracing::error!(%item, %error, "a deposited key cannot be released");
            refusals::sealed_key(&error)
        })?;
        let impossible = || {
            Failure::new(Exit::Failed, "E-GRANT-08", "the item has no such spans")
                .hint("report this: it is a fault of the keyserver")
        };
        let tree = self.tree(*item, &key, *n_spans).ok_or_else(impossible)?;
        let (keys, siblings) = key.spans(spans.clone()).zip(tree.siblings(&spans)).ok_or_else(impossible)?;
        let aad = span_keys_aad(order, &caller.asker.device, item, &tree.commitment(), &spans);
        let secret = Released::Spans(keys).encode();
        let wrapped = wrap(&mut crate::rng(), &caller.hpke, Label::SpanKeys, &aad, &secret)
            .map_err(|error| refusals::unwrappable(&error))?;
        Ok(pb::ReleasedSpans {
            spans: Some(common::SpanRange { first: spans.start, count: spans.len() as u32 }),
            keys: Some(wrapped.into()),
            siblings: siblings.iter().map(|value| value.to_vec()).collect(),
            again_in_ms: 0,
        })
    }

    fn tree(&self, item: ItemId, key: &ContentKey, n_spans: u32) -> Option<Arc<SpanTree>> {
        if let Some(known) = self.trees.lock().unwrap_or_else(PoisonError::into_inner).get(&item) {
            return Some(Arc::clone(known));
        }
        let tree = Arc::new(SpanTree::of(key, n_spans)?);
        let mut trees = self.trees.lock().unwrap_or_else(PoisonError::into_inner);
        if trees.len() >= TREES {
            // Which one goes does not matter: it comes back with the next question about it.
            trees.pop_first();
        }
        trees.insert(item, Arc::clone(&tree));
        Some(tree)
    }

    fn drips(&self) -> std::sync::MutexGuard<'_, Drips> {
        self.drips.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The spans that are asked for, if the item has them.
fn asked(range: &common::SpanRange, n_spans: u32) -> Result<Range<u32>, Status> {
    let wrong = || refuse(Invalid::new("spans", format!("must be 1 to {MAX_ASKED} of the item's {n_spans}")));
    let end = range.first.checked_add(range.count).filter(|end| *end <= n_spans).ok_or_else(wrong)?;
    if (1..=MAX_ASKED).contains(&range.count) { Ok(range.first..end) } else { Err(wrong()) }
}

#[tonic::async_trait]
impl spans_server::Spans for Spans {
    async fn release_spans(
        &self,
        request: Request<pb::ReleaseSpansRequest>,
    ) -> Result<Response<pb::ReleasedSpans>, Status> {
        let caller = self.context.caller(&request)?;
        let result = self.release(caller, request.into_inner()).await;
        self.context.counters.count_result("spans", &result);
        result.map(Response::new)
    }

    async fn get_preview(
        &self,
        request: Request<pb::GetPreviewRequest>,
    ) -> Result<Response<pb::ReleasedSpans>, Status> {
        let caller = self.context.caller(&request)?;
        let result = self.preview(caller, &request.get_ref().item).await;
        self.context.counters.count_result("preview", &result);
        result.map(Response::new)
    }
}
