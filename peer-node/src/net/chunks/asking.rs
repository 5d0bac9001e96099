//! The asker's end of a stream: sends questions in the order of their urgency, puts the pieces of answers together.
//!
//! Bytes are read straight into the body that they belong to. No length is believed before it is checked against what
//! was asked, and memory is touched only as bytes arrive. Several questions are under way at a time; what is no longer
//! wanted is called off, and what still comes of it is thrown away.

use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use futures::{AsyncRead, AsyncWrite, FutureExt as _};
use swarm_proto::geometry::{CHUNK_BYTES, MAX_CHUNKS, SEGMENTS_PER_CHUNK};
use swarm_proto::manifest::VALUE_BYTES;
use swarm_proto::wire::frames::{AnswererFrame, AskerFrame, FRAME_HEADER_BYTES, Urgency};
use swarm_proto::wire::{ANSWER_HEADER_BYTES, Answer, AnswerHeader, Ask, WireError};
use tokio::sync::oneshot;
use tokio::time::{Instant, Sleep, sleep_until};

use super::Shared;
use super::answering::QUESTIONS_MAX;
use super::exchange::{Exchange, Question};
use crate::net::AskError;

/// No answer takes longer: a chunk at 4 KiB/s, and a little.
const ANSWER_WITHIN: Duration = Duration::from_secs(330);
/// Questions that wait for their turn on one connection; nobody here asks that much of one peer.
const WAITING_MAX: usize = 1_024;
/// Questions are written in batches of about this many bytes.
const BATCH: usize = 8 << 10;
/// What nobody wants any more is read in pieces of this size.
const SCRATCH: usize = 16 << 10;

/// Why the stream cannot go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Broken {
    /// The other side closed it, or the connection did.
    Closed,
    /// Bytes are owed and none come.
    Silent,
    /// What came is not an answer to what was asked.
    Malformed(String),
}

/// A question under way.
struct Open {
    ask: Ask,
    exchange: Arc<Exchange>,
    /// None once it is no longer wanted.
    reply: Option<oneshot::Sender<Result<Answer, AskError>>>,
    must_cancel: bool,
    body: Option<Body>,
    until: Instant,
}

/// An answer that has begun.
struct Body {
    header: AnswerHeader,
    len: usize,
    filled: usize,
    /// Empty if it is no longer wanted.
    bytes: BytesMut,
}

/// What comes next on the stream.
enum Reading {
    Header { bytes: [u8; FRAME_HEADER_BYTES], filled: usize },
    Answer { number: u32, bytes: [u8; ANSWER_HEADER_BYTES], filled: usize },
    Piece { number: u32, left: usize },
}

impl Reading {
    const START: Self = Self::Header { bytes: [0; FRAME_HEADER_BYTES], filled: 0 };
}

/// Everything asked over one connection.
pub(super) struct Asking {
    waiting: BTreeMap<Urgency, VecDeque<Question>>,
    open: BTreeMap<u32, Open>,
    next_number: u32,
    outbound: BytesMut,
    must_flush: bool,
    reading: Reading,
    scratch: Box<[u8]>,
    shared: Arc<Shared>,
    /// When the last byte came, or the first was owed.
    heard: Instant,
    alarm: Option<Pin<Box<Sleep>>>,
}

impl Asking {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self {
            waiting: BTreeMap::new(),
            open: BTreeMap::new(),
            next_number: 0,
            outbound: BytesMut::new(),
            must_flush: false,
            reading: Reading::START,
            scratch: Box::default(),
            shared,
            heard: Instant::now(),
            alarm: None,
        }
    }

    /// One more question.
    pub(super) fn push(&mut self, question: Question) {
        if self.waiting.values().map(VecDeque::len).sum::<usize>() >= WAITING_MAX {
            return question.answer(Err(AskError::TooMany));
        }
        self.waiting.entry(question.exchange.urgency()).or_default().push_back(question);
    }

    /// Whether anything is asked or owed.
    pub(super) fn is_busy(&self) -> bool {
        !self.open.is_empty() || self.waiting.values().any(|queue| !queue.is_empty())
    }

    /// Ends all questions and forgets the stream.
    pub(super) fn end(&mut self, error: &AskError) {
        let waiting = std::mem::take(&mut self.waiting).into_values().flatten().map(|question| question.reply);
        let open = std::mem::take(&mut self.open).into_values().filter_map(|open| open.reply);
        for reply in open.chain(waiting) {
            // The one who asked may have gone.
            let _ = reply.send(Err(error.clone()));
        }
        *self = Self::new(self.shared.clone());
    }

    /// Drops what is no longer wanted before there is a stream for it.
    pub(super) fn poll_without_stream(&mut self, cx: &mut Context<'_>) {
        for queue in self.waiting.values_mut() {
            // Rarely any, and never many.
            while let Some(at) = queue.iter().position(|it| it.exchange.poll_cancelled(cx.waker())) {
                if let Some(question) = queue.remove(at) {
                    question.answer(Err(AskError::Cancelled));
                }
            }
        }
    }

    /// Moves everything on; resolves when the stream cannot go on.
    pub(super) fn poll<S>(&mut self, cx: &mut Context<'_>, stream: &mut S) -> Poll<Broken>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        self.poll_without_stream(cx);
        self.call_off(cx);
        let moved = match self.poll_read(cx, stream) {
            Poll::Ready(Err(broken)) => return Poll::Ready(broken),
            Poll::Ready(Ok(never)) => match never {},
            Poll::Pending => self.write(cx, stream),
        };
        match moved.and_then(|()| self.listen(cx)) {
            Ok(()) => Poll::Pending,
            Err(broken) => Poll::Ready(broken),
        }
    }

    /// Tells those who no longer want their answers so at once, and the other side soon.
    fn call_off(&mut self, cx: &Context<'_>) {
        for open in self.open.values_mut() {
            if open.reply.is_some() && open.exchange.poll_cancelled(cx.waker()) {
                open.must_cancel = true;
                if let Some(body) = &mut open.body {
                    self.shared.buffers.give_back(std::mem::take(&mut body.bytes).freeze());
                }
                if let Some(reply) = open.reply.take() {
                    // The one who asked may have gone.
                    let _ = reply.send(Err(AskError::Cancelled));
                }
            }
        }
    }

    fn write<S: AsyncWrite + Unpin>(&mut self, cx: &mut Context<'_>, stream: &mut S) -> Result<(), Broken> {
        loop {
            if self.outbound.is_empty() {
                self.encode();
            }
            if self.outbound.is_empty() {
                break;
            }
            match Pin::new(&mut *stream).poll_write(cx, &self.outbound) {
                Poll::Ready(Ok(len @ 1..)) => self.outbound.advance(len),
                Poll::Ready(_) => return Err(Broken::Closed),
                Poll::Pending => return Ok(()),
            }
            self.must_flush = true;
        }
        if self.must_flush
            && let Poll::Ready(flushed) = Pin::new(stream).poll_flush(cx)
        {
            flushed.map_err(|_| Broken::Closed)?;
            self.must_flush = false;
        }
        Ok(())
    }

    /// Writes down what is to be said next: first what is no longer wanted, then questions.
    fn encode(&mut self) {
        for (&number, open) in self.open.iter_mut().filter(|(_, open)| open.must_cancel) {
            open.must_cancel = false;
            self.outbound.extend_from_slice(&AskerFrame::Cancel { number }.encode());
        }
        while self.outbound.len() < BATCH && self.open.len() < QUESTIONS_MAX {
            let next = self.waiting.values_mut().find_map(VecDeque::pop_front);
            let Some(Question { request, exchange, reply }) = next else { return };
            let frame = match request.encode() {
                Ok(frame) => frame,
                Err(error) => {
                    // The one who asked may have gone.
                    let _ = reply.send(Err(AskError::Malformed(error.to_string())));
                    continue;
                }
            };
            let number = self.free_number();
            let now = Instant::now();
            if !self.open.values().any(Open::is_owed) {
                self.heard = now;
            }
            let head = AskerFrame::Ask { number, urgency: exchange.urgency(), len: frame.len() };
            self.outbound.extend_from_slice(&head.encode());
            self.outbound.extend_from_slice(&frame);
            let until = now + ANSWER_WITHIN;
            let open = Open { ask: request.ask, exchange, reply: Some(reply), must_cancel: false, body: None, until };
            self.open.insert(number, open);
        }
    }

    fn free_number(&mut self) -> u32 {
        while self.open.contains_key(&self.next_number) {
            self.next_number = self.next_number.wrapping_add(1);
        }
        let number = self.next_number;
        self.next_number = number.wrapping_add(1);
        number
    }

    /// Reads until nothing more is there.
    fn poll_read<S>(&mut self, cx: &mut Context<'_>, stream: &mut S) -> Poll<Result<Infallible, Broken>>
    where
        S: AsyncRead + Unpin,
    {
        loop {
            match &mut self.reading {
                Reading::Header { bytes, filled } if *filled < bytes.len() => {
                    *filled += ready!(poll_some(cx, stream, &mut bytes[*filled..]))?;
                }
                Reading::Header { bytes, .. } => {
                    let frame = AnswererFrame::decode(bytes).map_err(malformed)?;
                    self.reading = self.begin(frame)?;
                }
                Reading::Answer { bytes, filled, .. } if *filled < bytes.len() => {
                    *filled += ready!(poll_some(cx, stream, &mut bytes[*filled..]))?;
                }
                Reading::Answer { number, bytes, .. } => {
                    let (number, header) = (*number, AnswerHeader::decode(bytes).map_err(malformed)?);
                    self.reading = Reading::START;
                    self.begin_answer(number, header)?;
                }
                Reading::Piece { left: 0, number } => {
                    let number = *number;
                    self.reading = Reading::START;
                    self.end_piece(number)?;
                }
                Reading::Piece { number, left } => {
                    let open = self.open.get_mut(number).expect("checked in begin");
                    let body = open.body.as_mut().expect("checked in begin");
                    let buffer = if body.bytes.is_empty() {
                        if self.scratch.is_empty() {
                            self.scratch = vec![0; SCRATCH].into();
                        }
                        let len = self.scratch.len().min(*left);
                        &mut self.scratch[..len]
                    } else {
                        &mut body.bytes[body.filled..][..*left]
                    };
                    let len = ready!(poll_some(cx, stream, buffer))?;
                    body.filled += len;
                    *left -= len;
                    if open.reply.is_some() {
                        open.exchange.set_received(body.filled as u64);
                    }
                }
            }
            self.heard = Instant::now();
        }
    }

    fn begin(&mut self, frame: AnswererFrame) -> Result<Reading, Broken> {
        let (AnswererFrame::Answer { number }
        | AnswererFrame::Piece { number, .. }
        | AnswererFrame::Withdrawn { number }) = frame;
        let Some(open) = self.open.get(&number) else {
            return Err(Broken::Malformed(format!("an answer to question {number}, which is not open")));
        };
        match (frame, &open.body) {
            (AnswererFrame::Answer { .. }, None) => {
                Ok(Reading::Answer { number, bytes: [0; ANSWER_HEADER_BYTES], filled: 0 })
            }
            (AnswererFrame::Piece { len, .. }, Some(body)) if len <= body.len - body.filled => {
                Ok(Reading::Piece { number, left: len })
            }
            (AnswererFrame::Withdrawn { .. }, _) => {
                self.close(number, Err(AskError::Closed));
                Ok(Reading::START)
            }
            (AnswererFrame::Answer { .. } | AnswererFrame::Piece { .. }, _) => {
                Err(Broken::Malformed("a piece of nothing, more than was announced, or a second answer".to_owned()))
            }
        }
    }

    fn begin_answer(&mut self, number: u32, header: AnswerHeader) -> Result<(), Broken> {
        let open = self.open.get_mut(&number).expect("checked in begin");
        let (len, max) = (header.body_len(), longest(open.ask));
        if header.values_len() > 0 && !matches!(open.ask, Ask::Chunk { want_segment_values: true, .. }) {
            return Err(malformed(WireError::Reserved("count of segment values that were not asked for")));
        }
        if len > max {
            return Err(malformed(WireError::TooLarge { field: "body", found: len as u64, max: max as u64 }));
        }
        if len == 0 {
            let answer = header.with_body(Bytes::new()).map_err(malformed)?;
            self.close(number, Ok(answer));
        } else {
            // Chunks come into memory that has been used before. Zeroed pages come from the system untouched: they cost
            // memory only once bytes are there to fill them.
            let bytes = match open.ask {
                _ if open.reply.is_none() => BytesMut::new(),
                Ask::Chunk { .. } => self.shared.buffers.take(len),
                Ask::Manifest | Ask::Holding => BytesMut::zeroed(len),
            };
            open.body = Some(Body { header, len, filled: 0, bytes });
        }
        Ok(())
    }

    fn end_piece(&mut self, number: u32) -> Result<(), Broken> {
        let open = self.open.get_mut(&number).expect("checked in begin");
        let Some(body) = open.body.take_if(|body| body.filled == body.len) else { return Ok(()) };
        let answer = if open.reply.is_some() {
            Ok(body.header.with_body(body.bytes.freeze()).map_err(malformed)?)
        } else {
            Err(AskError::Cancelled)
        };
        self.close(number, answer);
        Ok(())
    }

    fn close(&mut self, number: u32, answer: Result<Answer, AskError>) {
        if let Some(reply) = self.open.remove(&number).and_then(|open| open.reply) {
            // The one who asked may have gone.
            let _ = reply.send(answer);
        }
    }

    /// Sounds the alarm when bytes are owed and none have come for too long.
    fn listen(&mut self, cx: &mut Context<'_>) -> Result<(), Broken> {
        loop {
            let silent = self.open.values().any(Open::is_owed).then(|| self.heard + self.shared.silence);
            let late = self.open.values().map(|open| open.until).min();
            let Some(due) = silent.into_iter().chain(late).min() else {
                self.alarm = None;
                return Ok(());
            };
            // What is owed moves on with every byte; the alarm is set anew only when it rings.
            let alarm = self.alarm.get_or_insert_with(|| Box::pin(sleep_until(due)));
            if alarm.poll_unpin(cx).is_pending() {
                return Ok(());
            }
            self.alarm = None;
            if due <= Instant::now() {
                return Err(Broken::Silent);
            }
        }
    }
}

impl Open {
    /// The answer carries bulk, so bytes must keep coming.
    fn is_owed(&self) -> bool {
        self.reply.is_some() && matches!(self.ask, Ask::Chunk { .. } | Ask::Manifest)
    }
}

/// No answer to this question is longer.
fn longest(ask: Ask) -> usize {
    let chunks = MAX_CHUNKS as usize;
    let segments = SEGMENTS_PER_CHUNK as usize;
    match ask {
        Ask::Manifest => chunks * VALUE_BYTES,
        Ask::Holding => chunks.div_ceil(8),
        Ask::Chunk { want_segment_values: false, .. } => CHUNK_BYTES as usize,
        Ask::Chunk { want_segment_values: true, .. } => CHUNK_BYTES as usize + segments * VALUE_BYTES,
    }
}

/// At least one byte.
fn poll_some<S>(cx: &mut Context<'_>, stream: &mut S, buffer: &mut [u8]) -> Poll<Result<usize, Broken>>
where
    S: AsyncRead + Unpin,
{
    let read: io::Result<usize> = ready!(Pin::new(stream).poll_read(cx, buffer));
    Poll::Ready(match read {
        Ok(len @ 1..) => Ok(len),
        Ok(0) | Err(_) => Err(Broken::Closed),
    })
}

fn malformed(error: WireError) -> Broken {
    Broken::Malformed(error.to_string())
}
