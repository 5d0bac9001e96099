//! A long way between two programs of a test: every byte arrives half a round trip later than it was sent.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

/// Pieces on their way in one direction; a sender waits when there are more.
const ON_THE_WAY: usize = 4096;

/// Where to connect instead of `to` for this round trip. Ends with the test's process.
pub(crate) fn far_from(to: SocketAddr, round_trip: Duration) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let here = listener.local_addr().expect("an address");
    thread::spawn(move || {
        for near in listener.incoming().map_while(Result::ok) {
            let Ok(far) = TcpStream::connect(to) else { continue };
            for stream in [&near, &far] {
                stream.set_nodelay(true).expect("an open socket");
            }
            let copies = (near.try_clone().expect("a socket"), far.try_clone().expect("a socket"));
            carry(near, copies.1, round_trip / 2);
            carry(far, copies.0, round_trip / 2);
        }
    });
    here
}

fn carry(mut from: TcpStream, to: TcpStream, delay: Duration) {
    let (pieces, arriving) = sync_channel(ON_THE_WAY);
    thread::spawn(move || send_on(&mut from, &pieces));
    thread::spawn(move || arrive(to, &arriving, delay));
}

fn send_on(from: &mut TcpStream, pieces: &SyncSender<(Instant, Vec<u8>)>) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(read @ 1..) = from.read(&mut buffer) {
        if pieces.send((Instant::now(), buffer[..read].to_vec())).is_err() {
            return;
        }
    }
}

fn arrive(mut to: TcpStream, arriving: &Receiver<(Instant, Vec<u8>)>, delay: Duration) {
    while let Ok((sent, piece)) = arriving.recv() {
        // The way itself: what these tests are about.
        thread::sleep((sent + delay).saturating_duration_since(Instant::now()));
        if to.write_all(&piece).is_err() {
            return;
        }
    }
    // The other end may be gone already.
    let _ = to.shutdown(Shutdown::Write);
}
