//! The secured byte stream: records of up to 16 KiB, each a Noise message after its length.
//!
//! A reader's buffer is filled straight from the record if it is large enough, and what a writer hands over in large
//! pieces is sealed straight from there; only small pieces are gathered first. Memory per connection is fixed: what
//! has been sealed and not yet sent, one large read of sealed bytes, one opened record. A record that does not open
//! ends the connection for good.

use std::io;
use std::ops::Range;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures::{AsyncRead, AsyncWrite};
use snow::TransportState;

/// Before each record: its length, big-endian.
const LENGTH: usize = 2;
const TAG: usize = 16;
/// Clear bytes of a full record of ours: small enough to be opened while the next one is on its way.
const RECORD: usize = 16 << 10;
/// Longest record that is read: Noise has no longer ones, and libp2p's nodes use them.
const RECORD_MAX: usize = u16::MAX as usize;
/// Sealed bytes that wait for the socket.
const SEND_BUFFER: usize = 4 * (LENGTH + RECORD + TAG);
/// Sealed bytes read at a time: more than the longest record, so that there is always room for one.
const RECEIVE_BUFFER: usize = 128 << 10;
/// Pieces from this size on are worth a record of their own rather than being copied once more.
const DIRECT: usize = 4 << 10;

/// A connection under the keys of its handshake.
pub(in crate::net) struct Records<T> {
    io: T,
    noise: TransportState,
    /// After how many records a key is renewed; libp2p's `/noise` never does.
    pub(super) rekey_every: Option<u64>,
    sent: u64,
    received: u64,
    /// Sealed bytes as they came.
    inbound: Box<[u8]>,
    unread: Range<usize>,
    /// A record that was larger than its reader's buffer; grows to the longest that the other side sends.
    opened: Vec<u8>,
    unheard: Range<usize>,
    /// Small pieces that wait to become a record.
    gathered: Vec<u8>,
    /// Sealed bytes that wait for the socket.
    outbound: Box<[u8]>,
    unsent: Range<usize>,
}

impl<T> Records<T> {
    pub(super) fn new(io: T, noise: TransportState, rekey_every: Option<u64>) -> Self {
        Self {
            io,
            noise,
            rekey_every,
            sent: 0,
            received: 0,
            // Zeroed pages come from the system untouched: an idle connection costs what it uses.
            inbound: vec![0; RECEIVE_BUFFER].into(),
            unread: 0..0,
            opened: Vec::new(),
            unheard: 0..0,
            gathered: Vec::new(),
            outbound: vec![0; SEND_BUFFER].into(),
            unsent: 0..0,
        }
    }

    fn has_room(&self) -> bool {
        self.outbound.len() - self.unsent.end >= LENGTH + RECORD + TAG
    }

    /// Seals at most [`RECORD`] bytes; there is room.
    fn seal(&mut self, clear: &[u8]) -> io::Result<()> {
        let at = self.unsent.end + LENGTH;
        let len = self.noise.write_message(clear, &mut self.outbound[at..]).map_err(io::Error::other)?;
        // A record of ours is far below 64 KiB.
        self.outbound[at - LENGTH..at].copy_from_slice(&(len as u16).to_be_bytes());
        self.unsent.end = at + len;
        self.sent += 1;
        if self.rekey_every.is_some_and(|every| self.sent.is_multiple_of(every)) {
            self.noise.rekey_outgoing();
        }
        Ok(())
    }

    /// Seals what was gathered; there is room.
    fn seal_gathered(&mut self) -> io::Result<()> {
        let mut gathered = std::mem::take(&mut self.gathered);
        let sealed = self.seal(&gathered);
        gathered.clear();
        self.gathered = gathered;
        sealed
    }

    /// The next whole record among the bytes that have come.
    fn next_record(&self) -> io::Result<Option<Range<usize>>> {
        let Some((length, rest)) = self.inbound[self.unread.clone()].split_first_chunk() else { return Ok(None) };
        let len = usize::from(u16::from_be_bytes(*length));
        if len < TAG {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a record shorter than its tag"));
        }
        let start = self.unread.start + LENGTH;
        Ok((rest.len() >= len).then_some(start..start + len))
    }

    /// Opens a record into the reader's buffer, or beside it; gives what the reader got.
    fn open(&mut self, record: Range<usize>, out: &mut [u8]) -> io::Result<usize> {
        self.unread.start = record.end;
        let fits = out.len() >= record.len();
        if !fits && self.opened.len() < record.len() {
            self.opened.resize(record.len(), 0);
        }
        let into = if fits { &mut *out } else { &mut *self.opened };
        let opened = self.noise.read_message(&self.inbound[record], into);
        let len = opened.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        self.received += 1;
        if self.rekey_every.is_some_and(|every| self.received.is_multiple_of(every)) {
            self.noise.rekey_incoming();
        }
        if fits {
            return Ok(len);
        }
        self.unheard = 0..len;
        Ok(self.hand_over(out))
    }

    /// Gives the reader what has been opened.
    fn hand_over(&mut self, out: &mut [u8]) -> usize {
        let len = out.len().min(self.unheard.len());
        out[..len].copy_from_slice(&self.opened[self.unheard.start..][..len]);
        self.unheard.start += len;
        len
    }

    /// Room behind the bytes that have come for the rest of a record.
    fn make_room(&mut self) {
        if self.unread.is_empty() {
            self.unread = 0..0;
        } else if self.inbound.len() - self.unread.start < LENGTH + RECORD_MAX {
            self.inbound.copy_within(self.unread.clone(), 0);
            self.unread = 0..self.unread.len();
        }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Records<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut [u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        if out.is_empty() {
            return Poll::Ready(Ok(0));
        }
        loop {
            if !this.unheard.is_empty() {
                return Poll::Ready(Ok(this.hand_over(out)));
            }
            if let Some(record) = this.next_record()? {
                match this.open(record, out)? {
                    // An empty record is allowed and says nothing.
                    0 => continue,
                    len => return Poll::Ready(Ok(len)),
                }
            }
            this.make_room();
            match ready!(Pin::new(&mut this.io).poll_read(cx, &mut this.inbound[this.unread.end..]))? {
                0 if this.unread.is_empty() => return Poll::Ready(Ok(0)),
                0 => return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
                len => this.unread.end += len,
            }
        }
    }
}

impl<T: AsyncWrite + Unpin> Records<T> {
    /// Sends everything that is sealed.
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.unsent.is_empty() {
            match ready!(Pin::new(&mut self.io).poll_write(cx, &self.outbound[self.unsent.clone()]))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                len => self.unsent.start += len,
            }
        }
        self.unsent = 0..0;
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Records<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        let mut taken = 0;
        while taken < data.len() {
            if !this.has_room() {
                match this.poll_drain(cx) {
                    Poll::Ready(drained) => drained?,
                    Poll::Pending if taken > 0 => break,
                    Poll::Pending => return Poll::Pending,
                }
            }
            let rest = &data[taken..];
            let is_large = rest.len() >= DIRECT;
            let gathered = this.gathered.len();
            if gathered > 0 && (is_large || gathered == RECORD) {
                this.seal_gathered()?;
            } else if is_large {
                let len = rest.len().min(RECORD);
                this.seal(&rest[..len])?;
                taken += len;
            } else {
                let len = rest.len().min(RECORD - gathered);
                this.gathered.extend_from_slice(&rest[..len]);
                taken += len;
            }
        }
        Poll::Ready(Ok(taken))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if !this.gathered.is_empty() {
            if !this.has_room() {
                ready!(this.poll_drain(cx))?;
            }
            this.seal_gathered()?;
        }
        ready!(this.poll_drain(cx))?;
        Pin::new(&mut this.io).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.as_mut().poll_flush(cx))?;
        Pin::new(&mut self.io).poll_close(cx)
    }
}
