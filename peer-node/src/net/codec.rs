//! Reads and writes the frames of `/reelswarm/chunk/1` on a stream.
//!
//! The format is `swarm_proto::wire`; here are only its I/O, its limits of time, and what the outside wants to know of a
//! transfer while it runs: how many bytes have come or gone, and that it is no longer wanted. No length is believed
//! before it is checked against what was asked, and memory is touched only as bytes arrive.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use libp2p::{StreamProtocol, request_response};
use swarm_proto::geometry::{CHUNK_BYTES, MAX_CHUNKS, SEGMENTS_PER_CHUNK};
use swarm_proto::manifest::VALUE_BYTES;
use swarm_proto::wire::{
    ANSWER_HEADER_BYTES, Answer, AnswerHeader, Ask, REQUEST_HEADER_BYTES, Request, RequestHeader, WireError,
};
use tokio::sync::oneshot;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::throttle::Throttle;
use crate::buffers::Buffers;

/// A request must be here this soon after its stream was opened.
const READ_REQUEST_WITHIN: Duration = Duration::from_secs(10);
/// Written at a time; the other side must take so much within [`WRITE_SLICE_WITHIN`], which is 4 KiB/s.
const WRITE_SLICE: usize = 64 << 10;
/// Written at a time under a rate: small enough that a slow sender is not taken for a dead one.
const THROTTLED_SLICE: usize = 16 << 10;
const WRITE_SLICE_WITHIN: Duration = Duration::from_secs(16);

/// A transfer as seen from outside while it runs.
#[derive(Debug, Default)]
pub struct Exchange {
    received: AtomicU64,
    cancelled: CancellationToken,
}

impl Exchange {
    /// Bytes of the answer's body that have arrived.
    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// The answer is no longer wanted: its stream is reset.
    pub fn cancel(&self) {
        self.cancelled.cancel();
    }

    /// Whether it is no longer wanted.
    pub fn is_cancelled(&self) -> bool {
        self.cancelled.is_cancelled()
    }
}

/// A request on its way, with its transfer.
#[derive(Debug)]
pub(super) struct Asked {
    /// Or why what came is not one. libp2p says nothing of a stream whose request cannot be read, and we want to know.
    pub(super) request: Result<Request, WireError>,
    pub(super) exchange: Arc<Exchange>,
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
    sent: u64,
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

/// One per stream: libp2p clones it from the one it was given.
#[derive(Debug)]
pub(super) struct Codec {
    throttle: Arc<Throttle>,
    buffers: Buffers,
    /// What this stream asked; none on the answering side.
    asked: Option<(Ask, Arc<Exchange>)>,
}

impl Codec {
    pub(super) fn new(throttle: Arc<Throttle>, buffers: Buffers) -> Self {
        Self { throttle, buffers, asked: None }
    }
}

impl Clone for Codec {
    fn clone(&self) -> Self {
        Self::new(self.throttle.clone(), self.buffers.clone())
    }
}

impl request_response::Codec for Codec {
    type Protocol = StreamProtocol;
    type Request = Asked;
    type Response = Answered;

    async fn read_request<T>(&mut self, _: &StreamProtocol, io: &mut T) -> io::Result<Asked>
    where
        T: AsyncRead + Unpin + Send,
    {
        let request = timeout(READ_REQUEST_WITHIN, read_request(io)).await??;
        Ok(Asked { request, exchange: Arc::default() })
    }

    async fn write_request<T>(&mut self, _: &StreamProtocol, io: &mut T, asked: Asked) -> io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        let Asked { request, exchange } = asked;
        let request = request.map_err(invalid)?;
        let frame = request.encode().map_err(invalid)?;
        self.asked = Some((request.ask, exchange.clone()));
        tokio::select! {
            written = io.write_all(&frame) => written,
            () = exchange.cancelled.cancelled() => Err(io::ErrorKind::Interrupted.into()),
        }
    }

    async fn read_response<T>(&mut self, _: &StreamProtocol, io: &mut T) -> io::Result<Answered>
    where
        T: AsyncRead + Unpin + Send,
    {
        let (ask, exchange) = self.asked.take().expect("an answer is read on the stream that asked");
        let answer = tokio::select! {
            answer = read_answer(io, ask, &exchange, &self.buffers) => answer?,
            () = exchange.cancelled.cancelled() => return Err(io::ErrorKind::Interrupted.into()),
        };
        Ok(Answered { answer, receipt: Receipt::default() })
    }

    async fn write_response<T>(&mut self, _: &StreamProtocol, io: &mut T, answered: Answered) -> io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        let Answered { answer, mut receipt } = answered;
        let frame = answer.into_frame().map_err(invalid)?;
        timeout(WRITE_SLICE_WITHIN, io.write_all(&frame.header)).await??;
        timeout(WRITE_SLICE_WITHIN, io.write_all(&frame.values)).await??;
        let slice = if self.throttle.is_unlimited() { WRITE_SLICE } else { THROTTLED_SLICE };
        for slice in frame.payload.chunks(slice) {
            self.throttle.take(slice.len() as u64).await;
            timeout(WRITE_SLICE_WITHIN, io.write_all(slice)).await??;
            receipt.sent += slice.len() as u64;
        }
        timeout(WRITE_SLICE_WITHIN, io.flush()).await?
    }
}

async fn read_request<T: AsyncRead + Unpin>(io: &mut T) -> io::Result<Result<Request, WireError>> {
    let mut header = [0; REQUEST_HEADER_BYTES];
    io.read_exact(&mut header).await?;
    let header = match RequestHeader::decode(&header) {
        Ok(header) => header,
        Err(error) => return Ok(Err(error)),
    };
    let mut ticket = vec![0; header.body_len()];
    io.read_exact(&mut ticket).await?;
    Ok(header.with_body(ticket.into()))
}

async fn read_answer<T: AsyncRead + Unpin>(
    io: &mut T,
    ask: Ask,
    exchange: &Exchange,
    buffers: &Buffers,
) -> io::Result<Answer> {
    let mut header = [0; ANSWER_HEADER_BYTES];
    io.read_exact(&mut header).await?;
    let header = AnswerHeader::decode(&header).map_err(invalid)?;
    let is_unasked = !matches!(ask, Ask::Chunk { want_segment_values: true, .. });
    if is_unasked && header.values_len() > 0 {
        return Err(invalid(WireError::Reserved("count of segment values that were not asked for")));
    }
    let (len, max) = (header.body_len(), longest(ask));
    if len > max {
        return Err(invalid(WireError::TooLarge { field: "body", found: len as u64, max: max as u64 }));
    }
    // Chunks come into memory that has been used before. Zeroed pages come from the system untouched: they cost memory
    // only once bytes are there to fill them.
    let body = match ask {
        Ask::Chunk { .. } => buffers.take(len),
        Ask::Manifest | Ask::Holding => BytesMut::zeroed(len),
    };
    let body = read_body(io, body, exchange).await?;
    header.with_body(body).map_err(invalid)
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

async fn read_body<T: AsyncRead + Unpin>(io: &mut T, mut body: BytesMut, exchange: &Exchange) -> io::Result<Bytes> {
    let mut filled = 0;
    while filled < body.len() {
        let n = io.read(&mut body[filled..]).await?;
        if n == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        filled += n;
        exchange.received.store(filled as u64, Ordering::Relaxed);
    }
    Ok(body.freeze())
}

fn invalid(error: WireError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use futures::io::Cursor;
    use libp2p::request_response::Codec as _;
    use swarm_proto::geometry::ChunkIndex;
    use swarm_proto::id::ItemId;

    use super::*;

    const PROTOCOL: StreamProtocol = StreamProtocol::new("/test/1");

    fn codec() -> Codec {
        Codec::new(Arc::new(Throttle::new(None)), Buffers::default())
    }

    async fn answer_to(ask: Ask, bytes: Vec<u8>) -> io::Result<Answer> {
        let exchange = Arc::new(Exchange::default());
        let request = Ok(Request { item: ItemId::from_bytes([1; 32]), ask, ticket: Bytes::new() });
        let mut codec = codec();
        codec.write_request(&PROTOCOL, &mut Cursor::new(Vec::new()), Asked { request, exchange }).await?;
        Ok(codec.read_response(&PROTOCOL, &mut Cursor::new(bytes)).await?.answer)
    }

    async fn frame(answer: Answer) -> (Vec<u8>, u64) {
        let mut io = Cursor::new(Vec::new());
        let (receipt, sent) = Receipt::new();
        codec().write_response(&PROTOCOL, &mut io, Answered { answer, receipt }).await.expect("a cursor takes all");
        (io.into_inner(), sent.await.expect("a receipt always comes"))
    }

    struct Silent;

    impl AsyncRead for Silent {
        fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut [u8]) -> Poll<io::Result<usize>> {
            Poll::Pending
        }
    }

    const CHUNK: Ask = Ask::Chunk { index: ChunkIndex::FIRST, want_segment_values: false };

    #[tokio::test]
    async fn an_answer_arrives_as_it_was_sent_and_its_receipt_counts_the_payload() {
        let answer = Answer::Data { segment_values: Bytes::new(), bytes: vec![7; 200_000].into() };
        let (bytes, sent) = frame(answer.clone()).await;
        assert_eq!(sent, 200_000);
        assert_eq!(answer_to(CHUNK, bytes).await.expect("a good frame"), answer);
    }

    #[tokio::test]
    async fn a_frame_that_announces_too_much_is_refused_before_memory_is_taken() {
        let mut bytes = frame(Answer::Data { segment_values: Bytes::new(), bytes: vec![7; 10].into() }).await.0;
        bytes[4..8].copy_from_slice(&(17u32 << 20).to_be_bytes());
        let error = answer_to(CHUNK, bytes).await.expect_err("17 MiB for a chunk");
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }

    #[tokio::test]
    async fn an_answer_longer_than_anything_asked_for_is_refused() {
        let (bytes, _) = frame(Answer::Data { segment_values: Bytes::new(), bytes: vec![7; 10_000].into() }).await;
        let error = answer_to(Ask::Holding, bytes).await.expect_err("a chunk instead of a holding");
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }

    #[tokio::test]
    async fn segment_values_come_only_to_those_who_asked() {
        let answer = Answer::Data { segment_values: vec![1; 32].into(), bytes: vec![7; 100].into() };
        let (bytes, _) = frame(answer.clone()).await;
        let error = answer_to(CHUNK, bytes.clone()).await.expect_err("nobody asked for values");
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        let with_values = Ask::Chunk { index: ChunkIndex::FIRST, want_segment_values: true };
        assert_eq!(answer_to(with_values, bytes).await.expect("they were asked for"), answer);
    }

    #[tokio::test]
    async fn a_frame_cut_short_is_an_error() {
        let (mut bytes, _) = frame(Answer::Data { segment_values: Bytes::new(), bytes: vec![7; 100].into() }).await;
        bytes.truncate(60);
        let error = answer_to(CHUNK, bytes).await.expect_err("60 of 116 bytes");
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }

    #[tokio::test]
    async fn a_cancelled_answer_is_not_waited_for() {
        let exchange = Arc::new(Exchange::default());
        let request = Ok(Request { item: ItemId::from_bytes([1; 32]), ask: CHUNK, ticket: Bytes::new() });
        let mut codec = codec();
        let asked = Asked { request, exchange: exchange.clone() };
        codec.write_request(&PROTOCOL, &mut Cursor::new(Vec::new()), asked).await.expect("a cursor takes all");
        exchange.cancel();
        let error = codec.read_response(&PROTOCOL, &mut Silent).await.expect_err("nothing is sent");
        assert_eq!(error.kind(), io::ErrorKind::Interrupted);
    }
}
