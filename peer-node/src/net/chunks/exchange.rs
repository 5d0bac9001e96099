//! A question and its answer as seen from outside while they travel.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::Waker;

use futures::task::AtomicWaker;
use swarm_proto::wire::frames::Urgency;
use swarm_proto::wire::{Answer, Request};
use tokio::sync::oneshot;

use crate::net::AskError;

/// A transfer: how much of it has come, and that it is no longer wanted.
#[derive(Debug, Default)]
pub struct Exchange {
    urgency: Urgency,
    received: AtomicU64,
    cancelled: AtomicBool,
    waker: AtomicWaker,
}

impl Exchange {
    /// One that is waited for this much.
    pub fn of(urgency: Urgency) -> Self {
        Self { urgency, ..Self::default() }
    }

    /// How much it is waited for.
    pub fn urgency(&self) -> Urgency {
        self.urgency
    }

    /// Bytes of the answer's body that have arrived.
    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// The answer is no longer wanted: its sender is told to stop.
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::Release);
        self.waker.wake();
    }

    /// Whether it is no longer wanted.
    pub fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Acquire)
    }

    pub(super) fn set_received(&self, bytes: u64) {
        self.received.store(bytes, Ordering::Relaxed);
    }

    /// Whether it is no longer wanted; `waker` is woken when that changes.
    pub(super) fn poll_cancelled(&self, waker: &Waker) -> bool {
        self.waker.register(waker);
        self.is_cancelled()
    }
}

/// Something asked, and where its answer goes.
#[derive(Debug)]
pub(in crate::net) struct Question {
    pub(in crate::net) request: Request,
    pub(in crate::net) exchange: Arc<Exchange>,
    pub(in crate::net) reply: oneshot::Sender<Result<Answer, AskError>>,
}

impl Question {
    pub(super) fn answer(self, answer: Result<Answer, AskError>) {
        // The one who asked may have gone.
        let _ = self.reply.send(answer);
    }
}

/// An answer on its way; when it has left, or never will, the receipt says how many bytes of it did.
#[derive(Debug)]
pub(super) struct Answered {
    pub(super) answer: Answer,
    pub(super) receipt: Receipt,
}

/// Says how much of an answer's payload was sent, once, when it is dropped.
#[derive(Debug, Default)]
pub(super) struct Receipt {
    pub(super) sent: u64,
    to: Option<oneshot::Sender<u64>>,
}

impl Receipt {
    pub(super) fn new() -> (Self, oneshot::Receiver<u64>) {
        let (to, receiver) = oneshot::channel();
        (Self { sent: 0, to: Some(to) }, receiver)
    }
}

impl Drop for Receipt {
    fn drop(&mut self) {
        if let Some(to) = self.to.take() {
            // Nobody asks when the device is stopping.
            let _ = to.send(self.sent);
        }
    }
}
