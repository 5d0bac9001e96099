//! Yamux with bounds: what libp2p's own wrapper leaves open.
//!
//! libp2p's lets the windows of one connection grow to 1 GiB. Here they share a fixed amount. Yamux ends a connection on
//! which one stream too many is opened; here one of ours waits until another has ended, and one of theirs is reset.
//! Closing a connection whose other end does not read takes seconds, not for ever. What goes over the wire is the same.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use std::{future, io, iter};

use futures::task::AtomicWaker;
use futures::{AsyncRead, AsyncWrite, FutureExt as _};
use libp2p::core::UpgradeInfo;
use libp2p::core::muxing::{StreamMuxer, StreamMuxerEvent};
use libp2p::core::upgrade::{InboundConnectionUpgrade, OutboundConnectionUpgrade};
use tokio::time::{Sleep, sleep};

/// Streams of a connection, both directions. Chunks need two, other protocols one or two; Kademlia opens one for each
/// question.
pub(super) const STREAMS: usize = 32;
/// Streams that Yamux itself lets live, closing ones included; beyond it ends the connection.
const YAMUX_STREAMS: usize = 512;
/// Window that each stream begins with, as Yamux has it.
const WINDOW: usize = yamux::DEFAULT_CREDIT as usize;
/// By how much all windows of a connection together may grow beyond that: 100 Mbit/s over 160 ms.
const GROWTH: usize = 2 << 20;
/// Largest piece of one stream before others have their turn.
const FRAME: usize = 64 << 10;
/// How long the other end may take to read what was said before a goodbye.
const CLOSE_WITHIN: Duration = Duration::from_secs(3);

/// Makes [`Muxer`]s.
#[derive(Debug, Clone)]
pub(super) struct Config(yamux::Config);

impl Default for Config {
    fn default() -> Self {
        let mut config = yamux::Config::default();
        // Of this, only what the streams that we let live may hold is ever given: 8 MiB, and the growth.
        config.set_max_num_streams(YAMUX_STREAMS);
        config.set_max_connection_receive_window(Some(YAMUX_STREAMS * WINDOW + GROWTH));
        config.set_split_send_size(FRAME);
        Self(config)
    }
}

impl UpgradeInfo for Config {
    type Info = &'static str;
    type InfoIter = iter::Once<&'static str>;

    fn protocol_info(&self) -> Self::InfoIter {
        iter::once("/yamux/1.0.0")
    }
}

impl<C: AsyncRead + AsyncWrite + Unpin> InboundConnectionUpgrade<C> for Config {
    type Output = Muxer<C>;
    type Error = io::Error;
    type Future = future::Ready<io::Result<Muxer<C>>>;

    fn upgrade_inbound(self, io: C, _: &'static str) -> Self::Future {
        future::ready(Ok(Muxer::new(yamux::Connection::new(io, self.0, yamux::Mode::Server))))
    }
}

impl<C: AsyncRead + AsyncWrite + Unpin> OutboundConnectionUpgrade<C> for Config {
    type Output = Muxer<C>;
    type Error = io::Error;
    type Future = future::Ready<io::Result<Muxer<C>>>;

    fn upgrade_outbound(self, io: C, _: &'static str) -> Self::Future {
        future::ready(Ok(Muxer::new(yamux::Connection::new(io, self.0, yamux::Mode::Client))))
    }
}

/// A connection that carries streams.
pub(super) struct Muxer<C> {
    connection: yamux::Connection<C>,
    /// Streams that came while nobody asked for one.
    waiting: VecDeque<Stream>,
    /// Woken when one comes.
    inbound: AtomicWaker,
    /// One for each living stream, and our own; woken when one ends.
    living: Arc<AtomicWaker>,
    closing: Option<Pin<Box<Sleep>>>,
}

/// A stream; counts for as long as it lives.
pub(super) struct Stream {
    stream: yamux::Stream,
    living: Arc<AtomicWaker>,
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.living.wake();
    }
}

impl<C: AsyncRead + AsyncWrite + Unpin> Muxer<C> {
    fn new(connection: yamux::Connection<C>) -> Self {
        let (inbound, living) = (AtomicWaker::new(), Arc::new(AtomicWaker::new()));
        Self { connection, waiting: VecDeque::new(), inbound, living, closing: None }
    }

    fn is_full(&self) -> bool {
        Arc::strong_count(&self.living) > STREAMS
    }

    fn stream(&self, stream: yamux::Stream) -> Stream {
        Stream { stream, living: self.living.clone() }
    }

    /// Moves everything on; yields the streams that the other end opens and may have. Others are reset.
    fn poll_inner(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Stream>> {
        loop {
            let stream = ready!(self.connection.poll_next_inbound(cx));
            let stream = stream.ok_or(yamux::ConnectionError::Closed).flatten().map_err(broken)?;
            if !self.is_full() {
                return Poll::Ready(Ok(self.stream(stream)));
            }
        }
    }
}

impl<C: AsyncRead + AsyncWrite + Unpin + 'static> StreamMuxer for Muxer<C> {
    type Substream = Stream;
    type Error = io::Error;

    fn poll_inbound(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<Stream>> {
        if let Some(stream) = self.waiting.pop_front() {
            return Poll::Ready(Ok(stream));
        }
        self.inbound.register(cx.waker());
        self.poll_inner(cx)
    }

    fn poll_outbound(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<Stream>> {
        self.living.register(cx.waker());
        if self.is_full() {
            return Poll::Pending;
        }
        let stream = ready!(self.connection.poll_new_outbound(cx)).map_err(broken)?;
        Poll::Ready(Ok(self.stream(stream)))
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = self.connection.poll_close(cx).map_err(broken);
        if polled.is_ready() {
            return polled;
        }
        let late = self.closing.get_or_insert_with(|| Box::pin(sleep(CLOSE_WITHIN)));
        late.poll_unpin(cx).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<StreamMuxerEvent>> {
        let stream = ready!(self.poll_inner(cx))?;
        self.waiting.push_back(stream);
        self.inbound.wake();
        // Others have their turn before the next one.
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl AsyncRead for Stream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_close(cx)
    }
}

fn broken(error: yamux::ConnectionError) -> io::Error {
    match error {
        yamux::ConnectionError::Io(error) => error,
        other => io::Error::other(other),
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use futures::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::io::{DuplexStream, duplex};
    use tokio::time::{Instant, timeout};
    use tokio_util::compat::{Compat, TokioAsyncReadCompatExt as _};

    use super::*;

    type Pipe = Compat<DuplexStream>;

    /// Our muxer, and at the other end Yamux as anybody may configure it.
    fn with_a_stranger() -> (Muxer<Pipe>, yamux::Connection<Pipe>) {
        let (one, other) = duplex(64 << 10);
        let ours = Config::default().0;
        let mut theirs = yamux::Config::default();
        theirs.set_max_connection_receive_window(None).set_max_num_streams(10_000);
        let muxer = Muxer::new(yamux::Connection::new(one.compat(), ours, yamux::Mode::Server));
        (muxer, yamux::Connection::new(other.compat(), theirs, yamux::Mode::Client))
    }

    /// Keeps our side going without reading any stream; streams are kept, as a protocol that is slow to read would.
    fn keep_going(mut muxer: Muxer<Pipe>) -> tokio::task::JoinHandle<()> {
        tokio::spawn(async move {
            let mut unread = Vec::new();
            while let Ok(stream) = poll_fn(|cx| {
                if let Poll::Ready(stream) = Pin::new(&mut muxer).poll_inbound(cx) {
                    return Poll::Ready(stream);
                }
                Pin::new(&mut muxer)
                    .poll(cx)
                    .map(|it| Err(it.map_or_else(|error| error, |_| io::ErrorKind::Other.into())))
            })
            .await
            {
                unread.push(stream);
            }
        })
    }

    #[tokio::test(start_paused = true)]
    async fn a_stranger_that_fills_all_the_streams_it_can_open_is_stopped_at_the_bound() {
        let (ours, mut theirs) = with_a_stranger();
        let _ours = keep_going(ours);
        let mut streams = Vec::new();
        for _ in 0..200 {
            streams.push(poll_fn(|cx| theirs.poll_new_outbound(cx)).await.expect("its own limit is high"));
        }
        let _theirs =
            tokio::spawn(async move { while let Some(Ok(_)) = poll_fn(|cx| theirs.poll_next_inbound(cx)).await {} });
        let mut writers = Vec::new();
        for mut stream in streams {
            writers.push(tokio::spawn(async move {
                let (piece, mut taken) = (vec![0; 16 << 10], 0);
                loop {
                    match timeout(Duration::from_secs(60), stream.write(&piece)).await {
                        Ok(Ok(len)) => taken += len,
                        // It was reset.
                        Ok(Err(_)) => return None,
                        Err(_) => return Some(taken),
                    }
                }
            }));
        }
        let mut taken = Vec::new();
        for writer in writers {
            taken.extend(writer.await.expect("it does not panic"));
        }
        assert!(!taken.is_empty() && taken.len() <= STREAMS, "{} streams live", taken.len());
        let unread: usize = taken.iter().sum();
        assert!(unread <= STREAMS * WINDOW + GROWTH, "{unread} bytes wait to be read");
    }

    #[tokio::test(start_paused = true)]
    async fn one_stream_too_many_of_theirs_is_reset_and_one_of_ours_waits_for_a_place() {
        let (mut ours, mut theirs) = with_a_stranger();
        let mut streams = Vec::new();
        for _ in 0..STREAMS + 8 {
            let mut stream = poll_fn(|cx| theirs.poll_new_outbound(cx)).await.expect("its own limit is high");
            // A stream begins with its first bytes.
            stream.write_all(b"hello").await.expect("it is queued");
            streams.push(stream);
        }
        let _theirs =
            tokio::spawn(async move { while let Some(Ok(_)) = poll_fn(|cx| theirs.poll_next_inbound(cx)).await {} });
        let mut heard = VecDeque::new();
        while let Ok(stream) = timeout(Duration::from_secs(5), poll_fn(|cx| Pin::new(&mut ours).poll_inbound(cx))).await
        {
            heard.push_back(stream.expect("the connection lives"));
        }
        assert_eq!(heard.len(), STREAMS);
        let mut hello = [0; 5];
        heard[0].read_exact(&mut hello).await.expect("the first one lives");
        assert_eq!(&hello, b"hello");

        assert!(poll_fn(|cx| Poll::Ready(Pin::new(&mut ours).poll_outbound(cx).is_pending())).await);
        drop(heard.pop_back());
        let own = timeout(Duration::from_secs(5), poll_fn(|cx| Pin::new(&mut ours).poll_outbound(cx))).await;
        own.expect("there is a place").expect("the connection lives");
    }

    #[tokio::test(start_paused = true)]
    async fn a_goodbye_to_somebody_who_does_not_read_takes_seconds() {
        let (one, _never_read) = duplex(1_000);
        let connection = yamux::Connection::new(one.compat(), Config::default().0, yamux::Mode::Client);
        let mut ours = Muxer::new(connection);
        let mut stream = poll_fn(|cx| Pin::new(&mut ours).poll_outbound(cx)).await.expect("the first one");
        stream.write_all(&[0; 10_000]).await.expect("it is queued");
        let start = Instant::now();
        let closed = poll_fn(|cx| Pin::new(&mut ours).poll_close(cx)).await;
        assert_eq!(closed.map_err(|it| it.kind()), Err(io::ErrorKind::TimedOut));
        assert!(start.elapsed() <= CLOSE_WITHIN * 2, "{:?}", start.elapsed());
    }
}
