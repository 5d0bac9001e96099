//! The answerer's end of a stream: reads questions, sends answers in pieces, the most urgent first.
//!
//! Whoever does not read is waited for, not buffered for: beside the answers that admission has let through, no more
//! than one small buffer of frames and what the muxer holds (`net/muxer.rs`) is kept. No question is read while
//! [`QUESTIONS_MAX`] are open, so that flooding us with questions fills the asker's own window. What is called off is cut
//! at the next piece; a reader that takes less than 64 KiB in 16 s is given up.

use std::collections::{BTreeMap, VecDeque};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use futures::{AsyncRead, AsyncWrite, FutureExt as _};
use swarm_proto::id::DeviceId;
use swarm_proto::wire::frames::{AnswererFrame, AskerFrame, FRAME_HEADER_BYTES, MAX_PIECE_BYTES, Urgency};
use swarm_proto::wire::{
    ANSWER_HEADER_BYTES, Answer, AnswerFrame, REQUEST_HEADER_BYTES, Request, RequestHeader, WireError,
};
use tokio::sync::mpsc;
use tokio::time::{Sleep, sleep, sleep_until};

use super::exchange::{Answered, Receipt};
use super::{Fault, Shared};
use crate::net::Inbound;

/// Questions open on one stream: well above what admission allows, so that it can say "busy".
pub(super) const QUESTIONS_MAX: usize = 64;
/// A question must be here this soon after its first byte.
const READ_WITHIN: Duration = Duration::from_secs(10);
/// A piece must be taken within this time: 4 KiB/s.
const WRITE_WITHIN: Duration = Duration::from_secs(16);
/// Written at a time under a rate: small enough that a slow sender is not taken for a dead one.
const THROTTLED_PIECE: usize = 16 << 10;
/// When a peer that found our queue full should ask again.
const BUSY_MS: u32 = 500;
/// Read at a time: several questions.
const READ: usize = 2 << 10;

/// Sends one answer. Dropping it tells the asker that none will come.
#[derive(Debug)]
pub struct Responder {
    number: u32,
    answers: Option<mpsc::Sender<Said>>,
}

/// An answer to a question, or that there will be none.
type Said = (u32, Option<Answered>);

impl Responder {
    /// Answers; resolves when the answer has left or never will, with the bytes of its payload that did.
    pub async fn send(mut self, answer: Answer) -> u64 {
        let (receipt, sent) = Receipt::new();
        let Some(answers) = self.answers.take() else { return 0 };
        // There is room for one answer to each open question. A stream that has ended drops it with its receipt.
        let _ = answers.send((self.number, Some(Answered { answer, receipt }))).await;
        sent.await.unwrap_or(0)
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        if let Some(answers) = self.answers.take() {
            // There is room for one answer to each open question; a stream that has ended needs none.
            let _ = answers.try_send((self.number, None));
        }
    }
}

/// A question that has no whole answer yet.
struct Asked {
    urgency: Urgency,
    cancelled: bool,
}

/// An answer on its way out.
struct Sending {
    number: u32,
    /// Its fixed part, until that has been sent.
    head: Option<[u8; ANSWER_HEADER_BYTES]>,
    values: Bytes,
    payload: Bytes,
    receipt: Receipt,
}

impl Sending {
    fn body_len(&self) -> usize {
        self.values.len() + self.payload.len()
    }
}

/// An answer whose piece is being written.
struct Writing {
    sending: Sending,
    piece: Bytes,
    is_payload: bool,
}

/// Everything asked by the other side over one stream.
pub(super) struct Answering {
    device: DeviceId,
    shared: Arc<Shared>,
    open: BTreeMap<u32, Asked>,
    answers: mpsc::Receiver<Said>,
    answer_to: mpsc::Sender<Said>,
    ready: BTreeMap<Urgency, VecDeque<Sending>>,
    inbuf: BytesMut,
    /// Frames without bulk that wait to be written.
    out: BytesMut,
    writing: Option<Writing>,
    must_flush: bool,
    /// When the next piece is paid for.
    paying: Option<Pin<Box<Sleep>>>,
    half_read: Option<Pin<Box<Sleep>>>,
    stuck: Option<Pin<Box<Sleep>>>,
}

impl Answering {
    pub(super) fn new(device: DeviceId, shared: Arc<Shared>) -> Self {
        let (answer_to, answers) = mpsc::channel(QUESTIONS_MAX);
        Self {
            device,
            shared,
            open: BTreeMap::new(),
            answers,
            answer_to,
            ready: BTreeMap::new(),
            inbuf: BytesMut::new(),
            out: BytesMut::new(),
            writing: None,
            must_flush: false,
            paying: None,
            half_read: None,
            stuck: None,
        }
    }

    /// Whether anything is owed to the other side.
    pub(super) fn is_busy(&self) -> bool {
        !self.open.is_empty()
    }

    /// Moves everything on; resolves when the stream has ended, with whose fault it is, if it is one.
    pub(super) fn poll<S>(&mut self, cx: &mut Context<'_>, stream: &mut S) -> Poll<Option<Fault>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        loop {
            while let Poll::Ready(Some((number, answered))) = self.answers.poll_recv(cx) {
                self.on_answer(number, answered);
            }
            if let Err(fault) = self.write(cx, stream) {
                return Poll::Ready(fault);
            }
            match self.read(cx, stream) {
                // What was read may have been answered at once.
                Ok(true) => continue,
                Ok(false) => return Poll::Pending,
                Err(fault) => return Poll::Ready(fault),
            }
        }
    }

    fn on_answer(&mut self, number: u32, answered: Option<Answered>) {
        let Some(asked) = self.open.get(&number) else { return };
        let Some(Answered { answer, receipt }) = answered.filter(|_| !asked.cancelled) else {
            return self.withdraw(number);
        };
        match answer.into_frame() {
            Ok(AnswerFrame { header, values, payload }) => {
                let sending = Sending { number, head: Some(header), values, payload, receipt };
                self.ready.entry(asked.urgency).or_default().push_back(sending);
            }
            Err(error) => {
                tracing::error!(%error, "an answer of ours is none");
                self.withdraw(number);
            }
        }
    }

    fn withdraw(&mut self, number: u32) {
        self.open.remove(&number);
        self.out.extend_from_slice(&AnswererFrame::Withdrawn { number }.encode());
    }

    /// Writes until there is nothing to write, or the other side takes no more.
    fn write<S: AsyncWrite + Unpin>(&mut self, cx: &mut Context<'_>, stream: &mut S) -> Result<(), Option<Fault>> {
        loop {
            while !self.out.is_empty() {
                match Pin::new(&mut *stream).poll_write(cx, &self.out) {
                    Poll::Ready(Ok(len @ 1..)) => self.out.advance(len),
                    Poll::Ready(_) => return Err(None),
                    Poll::Pending => return self.wait_for_reader(cx),
                }
                self.must_flush = true;
            }
            while let Some(Writing { sending, piece, is_payload }) =
                self.writing.as_mut().filter(|it| !it.piece.is_empty())
            {
                match Pin::new(&mut *stream).poll_write(cx, piece) {
                    Poll::Ready(Ok(len @ 1..)) => {
                        piece.advance(len);
                        if *is_payload {
                            sending.receipt.sent += len as u64;
                        }
                    }
                    Poll::Ready(_) => return Err(None),
                    Poll::Pending => return self.wait_for_reader(cx),
                }
                self.must_flush = true;
            }
            self.stuck = None;
            if let Some(Writing { sending, .. }) = self.writing.take() {
                self.piece_has_left(sending);
            }
            if self.out.is_empty() && !self.begin_piece(cx) {
                break;
            }
        }
        if self.must_flush
            && let Poll::Ready(flushed) = Pin::new(stream).poll_flush(cx)
        {
            flushed.map_err(|_| None)?;
            self.must_flush = false;
        }
        Ok(())
    }

    fn wait_for_reader(&mut self, cx: &mut Context<'_>) -> Result<(), Option<Fault>> {
        let stuck = self.stuck.get_or_insert_with(|| Box::pin(sleep(WRITE_WITHIN)));
        if stuck.poll_unpin(cx).is_ready() { Err(Some(Fault::Stalled)) } else { Ok(()) }
    }

    fn piece_has_left(&mut self, sending: Sending) {
        let Some(asked) = self.open.get(&sending.number) else { return };
        if sending.body_len() == 0 {
            self.open.remove(&sending.number);
        } else if asked.cancelled {
            self.withdraw(sending.number);
        } else {
            // A more urgent one may go before its next piece; its equals may not.
            self.ready.entry(asked.urgency).or_default().push_front(sending);
        }
    }

    /// Puts the next piece in front of the writer; `false` if there is none, or it is not paid for yet.
    fn begin_piece(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(queue) = self.ready.values_mut().find(|queue| !queue.is_empty()) else { return false };
        let next = queue.front().expect("just found");
        let throttle = &self.shared.throttle;
        let max = if throttle.is_unlimited() { MAX_PIECE_BYTES } else { THROTTLED_PIECE };
        let is_payload = next.values.is_empty();
        let len = if is_payload { next.payload.len() } else { next.values.len() }.min(max);
        if is_payload && len > 0 {
            if self.paying.is_none() {
                self.paying = throttle.take(len as u64).map(|until| Box::pin(sleep_until(until)));
            }
            if self.paying.as_mut().is_some_and(|paying| paying.poll_unpin(cx).is_pending()) {
                return false;
            }
            self.paying = None;
        }
        let Some(mut sending) = queue.pop_front() else { return false };
        let number = sending.number;
        if let Some(head) = sending.head.take() {
            self.out.extend_from_slice(&AnswererFrame::Answer { number }.encode());
            self.out.extend_from_slice(&head);
        }
        let piece = if is_payload { sending.payload.split_to(len) } else { sending.values.split_to(len) };
        if len > 0 {
            self.out.extend_from_slice(&AnswererFrame::Piece { number, len }.encode());
        }
        self.writing = Some(Writing { sending, piece, is_payload });
        true
    }

    /// Reads what is there; whether anything was.
    fn read<S: AsyncRead + Unpin>(&mut self, cx: &mut Context<'_>, stream: &mut S) -> Result<bool, Option<Fault>> {
        let mut has_read = false;
        let mut buffer = [0; READ];
        loop {
            // Answers that wait to be written count too: who does not read is not read.
            if self.open.len() >= QUESTIONS_MAX || !self.out.is_empty() {
                self.half_read = None;
                return Ok(has_read);
            }
            if self.take_frame().map_err(|error| Some(Fault::Malformed(error.to_string())))? {
                has_read = true;
                continue;
            }
            match Pin::new(&mut *stream).poll_read(cx, &mut buffer) {
                Poll::Ready(Ok(len @ 1..)) => self.inbuf.extend_from_slice(&buffer[..len]),
                Poll::Ready(_) => return Err(None),
                Poll::Pending => break,
            }
        }
        if self.inbuf.is_empty() {
            self.half_read = None;
            return Ok(has_read);
        }
        let late = self.half_read.get_or_insert_with(|| Box::pin(sleep(READ_WITHIN)));
        if late.poll_unpin(cx).is_ready() { Err(Some(Fault::Stalled)) } else { Ok(has_read) }
    }

    /// Takes one whole frame out of what has been read, if there is one.
    fn take_frame(&mut self) -> Result<bool, WireError> {
        let Some(header) = self.inbuf.first_chunk::<FRAME_HEADER_BYTES>() else { return Ok(false) };
        match AskerFrame::decode(header)? {
            AskerFrame::Cancel { number } => {
                self.inbuf.advance(FRAME_HEADER_BYTES);
                self.cancel(number);
            }
            AskerFrame::Ask { len, .. } if self.inbuf.len() < FRAME_HEADER_BYTES + len => return Ok(false),
            AskerFrame::Ask { number, urgency, len } => {
                self.inbuf.advance(FRAME_HEADER_BYTES);
                let request = self.inbuf.split_to(len).freeze();
                self.ask(number, urgency, read_request(request)?)?;
            }
        }
        self.half_read = None;
        Ok(true)
    }

    fn ask(&mut self, number: u32, urgency: Urgency, request: Request) -> Result<(), WireError> {
        if self.open.insert(number, Asked { urgency, cancelled: false }).is_some() {
            return Err(WireError::Reserved("number of a question that is open"));
        }
        let responder = Responder { number, answers: Some(self.answer_to.clone()) };
        let inbound = Inbound { device: self.device, request, responder };
        if let Err(mpsc::error::TrySendError::Full(mut inbound)) = self.shared.inbound.try_send(inbound) {
            inbound.responder.answers = None;
            let answer = Answer::Busy { retry_ms: BUSY_MS };
            self.on_answer(number, Some(Answered { answer, receipt: Receipt::default() }));
        }
        Ok(())
    }

    fn cancel(&mut self, number: u32) {
        // One that has just been answered whole needs nothing more.
        let Some(asked) = self.open.get_mut(&number) else { return };
        asked.cancelled = true;
        let Some(queue) = self.ready.get_mut(&asked.urgency) else { return };
        if let Some(at) = queue.iter().position(|sending| sending.number == number) {
            queue.remove(at);
            self.withdraw(number);
        }
    }
}

fn read_request(mut request: Bytes) -> Result<Request, WireError> {
    let header = request.split_to(REQUEST_HEADER_BYTES);
    let header = header.first_chunk().expect("no shorter frame is decoded");
    RequestHeader::decode(header)?.with_body(request)
}
