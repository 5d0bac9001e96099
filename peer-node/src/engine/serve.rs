//! Answers what other devices ask.
//!
//! Who may be served is decided by `swarm_proto::peer::uploads`; here the ticket's signature is checked (once per
//! ticket), the disk is read and the answer sent. A chunk is hashed again on its way from the disk, so that what has
//! rotted is never passed on.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use swarm_proto::geometry::ChunkIndex;
use swarm_proto::id::{DeviceId, ItemId, ServerId};
use swarm_proto::manifest::{self, Manifest};
use swarm_proto::peer::uploads::{self, Admission, SendId, Uploads};
use swarm_proto::signed::Signed;
use swarm_proto::ticket::Ticket;
use swarm_proto::time::Now;
use swarm_proto::wire::{Answer, Ask, Refusal, Request};

use crate::items::{Items, ItemsError};
use crate::net::{Inbound, Responder};

/// Tickets whose signatures need not be checked again.
const TICKETS_KNOWN: usize = 1_024;

/// Tickets that our tracker has signed, by the hash of their bytes.
#[derive(Debug, Default)]
struct Tickets {
    known: BTreeMap<[u8; 32], Ticket>,
    order: VecDeque<[u8; 32]>,
}

impl Tickets {
    /// The ticket in these bytes, if our tracker signed it.
    fn read(&mut self, bytes: &[u8], tracker: &ServerId) -> Option<Ticket> {
        let hash = *blake3::hash(bytes).as_bytes();
        if let Some(ticket) = self.known.get(&hash) {
            return Some(ticket.clone());
        }
        let ticket = Signed::<Ticket>::from_bytes(bytes).ok()?.verify(tracker).ok()?;
        if self.order.len() >= TICKETS_KNOWN
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
        self.order.push_back(hash);
        self.known.insert(hash, ticket.clone());
        Some(ticket)
    }
}

/// An answer to be sent.
#[derive(Debug)]
pub(super) struct Reply {
    responder: Responder,
    what: What,
}

/// Where the answer comes from.
#[derive(Debug)]
enum What {
    Ready(Answer),
    Chunk { item: ItemId, index: ChunkIndex, want_segment_values: bool, send: SendId },
}

/// How an answer ended.
#[derive(Debug)]
pub(super) struct Sent {
    /// The chunk that was being sent, and how many of its bytes were.
    pub(super) chunk: Option<(SendId, u64)>,
    /// A chunk that turned out to be rotten.
    pub(super) lost: Option<(ItemId, ChunkIndex)>,
}

/// Where questions of others are decided.
pub(super) struct Desk {
    pub(super) uploads: Uploads,
    pub(super) items: Items,
    /// Whose tickets count; none before enrolment.
    tracker: Option<ServerId>,
    pub(super) tracker_up: bool,
    tickets: Tickets,
}

impl Desk {
    pub(super) fn new(uploads: Uploads, items: Items) -> Self {
        Self { uploads, items, tracker: None, tracker_up: false, tickets: Tickets::default() }
    }

    /// From now on only this tracker's tickets count.
    pub(super) fn set_tracker(&mut self, tracker: Option<ServerId>) {
        if self.tracker != tracker {
            self.tracker = tracker;
            self.tickets = Tickets::default();
        }
    }

    /// Decides about one question.
    pub(super) fn admit(&mut self, now: Now, inbound: Inbound) -> Reply {
        let Inbound { device, request, responder } = inbound;
        Reply { responder, what: self.decide(now, device, &request) }
    }

    fn decide(&mut self, now: Now, device: DeviceId, request: &Request) -> What {
        let refuse = |why| What::Ready(Answer::Refused(why));
        let Some(tracker) = &self.tracker else { return refuse(Refusal::NotServing) };
        let Some(ticket) = self.tickets.read(&request.ticket, tracker) else { return refuse(Refusal::BadTicket) };
        let item = request.item;
        // Before anything about the item is looked up: who has no right to it learns nothing of it.
        if let Err(why) = self.uploads.check(now.utc, device, item, &ticket, self.tracker_up) {
            return refuse(why);
        }
        let manifest = self.items.manifest(&item);
        let ask = match (request.ask, &manifest) {
            (Ask::Chunk { index, .. }, Some(manifest)) if manifest.value(index).is_none() => {
                return refuse(Refusal::NoSuchChunk);
            }
            (Ask::Chunk { index, .. }, Some(manifest)) => {
                uploads::Ask::Chunk { index, bytes: manifest.geometry().chunk_len(index) as u64 }
            }
            (Ask::Manifest, Some(manifest)) => uploads::Ask::Manifest(manifest.values_bytes().len() as u64),
            (Ask::Chunk { .. } | Ask::Manifest | Ask::Holding, _) => uploads::Ask::Small,
        };
        let send = match self.uploads.admit(now, device, item, ask, &ticket, self.tracker_up) {
            Admission::Serve(send) => send,
            Admission::Busy(after) => {
                let retry_ms = u32::try_from(after.as_millis()).unwrap_or(u32::MAX).max(1);
                return What::Ready(Answer::Busy { retry_ms });
            }
            Admission::Refused(why) => return refuse(why),
        };
        let (Some(manifest), Some(holding)) = (manifest, self.items.holding(&item)) else {
            return What::Ready(Answer::NotHeld);
        };
        match (request.ask, send) {
            (Ask::Manifest, _) => What::Ready(manifest_answer(&manifest)),
            (Ask::Holding, _) => What::Ready(Answer::Holding(holding)),
            (Ask::Chunk { index, want_segment_values }, Some(send)) if holding.contains(index) => {
                What::Chunk { item, index, want_segment_values, send }
            }
            (Ask::Chunk { .. }, send) => {
                if let Some(send) = send {
                    self.uploads.handle_sent(now.mono, send, 0);
                }
                What::Ready(Answer::NotHeld)
            }
        }
    }
}

fn manifest_answer(manifest: &Manifest) -> Answer {
    Answer::Manifest { sealed_len: manifest.geometry().sealed_len(), values: manifest.values_bytes() }
}

impl Reply {
    /// Reads what must be read and sends the answer.
    pub(super) async fn send(self, items: Items) -> Sent {
        let (item, index, want_segment_values, send) = match self.what {
            What::Ready(answer) => {
                self.responder.send(answer).await;
                return Sent { chunk: None, lost: None };
            }
            What::Chunk { item, index, want_segment_values, send } => (item, index, want_segment_values, send),
        };
        let (answer, lost) = match items.read_chunk(item, index).await {
            Ok(bytes) if want_segment_values => (with_segment_values(&items, item, index, bytes).await, None),
            Ok(bytes) => (Answer::Data { segment_values: Bytes::new(), bytes }, None),
            Err(error) => {
                let lost = matches!(error, ItemsError::Rotten(..)).then_some((item, index));
                tracing::warn!(%item, chunk = %index, %error, "a chunk cannot be passed on");
                (Answer::NotHeld, lost)
            }
        };
        let sent = self.responder.send(answer).await;
        Sent { chunk: Some((send, sent)), lost }
    }
}

/// The chunk with the values of its segments before it; hashed off the tasks that must not wait.
async fn with_segment_values(items: &Items, item: ItemId, index: ChunkIndex, bytes: Bytes) -> Answer {
    let Some(manifest) = items.manifest(&item) else { return Answer::NotHeld };
    let hashed = tokio::task::spawn_blocking(move || {
        let values = manifest::segment_values(manifest.geometry(), index, &bytes)?;
        Ok::<_, manifest::ChunkError>(Answer::Data { segment_values: values.concat().into(), bytes })
    });
    hashed.await.ok().and_then(Result::ok).unwrap_or(Answer::NotHeld)
}
