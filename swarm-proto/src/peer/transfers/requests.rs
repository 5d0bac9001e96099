//! What has been asked and is not over: few at a time, the oldest first.

use super::{Ask, FoundBy, RequestId, SourceNo};
use crate::id::ItemId;
use crate::time::Mono;

/// One question and what has come of it so far.
#[derive(Debug, Clone)]
pub(super) struct Request {
    pub(super) source: SourceNo,
    pub(super) found_by: FoundBy,
    pub(super) stage: Stage,
    pub(super) ask: Ask,
    pub(super) item: ItemId,
    /// Of the chunk; 0 for anything else.
    pub(super) bytes: u64,
    pub(super) asked_at: Mono,
    pub(super) deadline: Mono,
    /// Payload that has arrived so far, and at the last deadline.
    pub(super) received: u64,
    pub(super) received_before: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// Nothing complete has come.
    Open,
    /// The answer is here: it is being verified, then written.
    Checking,
    /// No longer wanted; only its end is awaited.
    Cancelled,
}

impl Request {
    /// Still of use: being sent, checked or written.
    pub(super) fn is_alive(&self) -> bool {
        self.stage != Stage::Cancelled
    }

    pub(super) fn is_open(&self) -> bool {
        self.stage == Stage::Open
    }

    pub(super) fn is_checking(&self) -> bool {
        self.stage == Stage::Checking
    }

    pub(super) fn is_for_chunk(&self) -> bool {
        matches!(self.ask, Ask::Chunk(_))
    }
}

/// Everything that has been asked and is not over, by id.
#[derive(Debug, Default)]
pub(super) struct Requests {
    all: Vec<(RequestId, Request)>,
    /// No open request has an earlier deadline.
    soonest: Option<Mono>,
}

impl Requests {
    /// Ids ascend, so what is asked last stands last.
    pub(super) fn push(&mut self, id: RequestId, request: Request) {
        debug_assert!(self.all.last().is_none_or(|(last, _)| *last < id), "ids ascend");
        self.soonest = Some(self.soonest.map_or(request.deadline, |at| at.min(request.deadline)));
        self.all.push((id, request));
    }

    pub(super) fn get(&self, id: RequestId) -> Option<&Request> {
        self.place(id).map(|place| &self.all[place].1)
    }

    /// For everything but an earlier deadline.
    pub(super) fn get_mut(&mut self, id: RequestId) -> Option<&mut Request> {
        self.place(id).map(|place| &mut self.all[place].1)
    }

    pub(super) fn remove(&mut self, id: RequestId) -> Option<Request> {
        let (_, request) = self.all.remove(self.place(id)?);
        if self.all.is_empty() {
            self.soonest = None;
        }
        Some(request)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (RequestId, &Request)> {
        self.all.iter().map(|(id, request)| (*id, request))
    }

    pub(super) fn values(&self) -> impl Iterator<Item = &Request> {
        self.all.iter().map(|(_, request)| request)
    }

    /// Those whose time is over.
    pub(super) fn late(&mut self, now: Mono) -> Vec<RequestId> {
        if self.soonest.is_none_or(|at| now < at) {
            return Vec::new();
        }
        let open = || self.iter().filter(|(_, request)| request.is_open());
        let late = open().filter(|(_, request)| request.deadline <= now).map(|(id, _)| id).collect();
        self.soonest = open().map(|(_, request)| request.deadline).filter(|at| *at > now).min();
        late
    }

    /// A request is given more time.
    pub(super) fn prolong(&mut self, id: RequestId, deadline: Mono) {
        if let Some(request) = self.get_mut(id) {
            request.deadline = deadline;
            self.soonest = Some(self.soonest.map_or(deadline, |at| at.min(deadline)));
        }
    }

    /// When one may be late.
    pub(super) fn soonest(&self) -> Option<Mono> {
        self.soonest
    }

    fn place(&self, id: RequestId) -> Option<usize> {
        self.all.binary_search_by_key(&id, |(id, _)| *id).ok()
    }
}
