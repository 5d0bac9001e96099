//! Handshakes and records: with ourselves, with libp2p's own Noise, with published vectors, and with whoever lies.

use std::pin::Pin;
use std::task::{Context, Poll};

use futures::future::{join, try_join};
use libp2p::Transport as _;
use libp2p::core::Endpoint;
use libp2p::core::transport::{Boxed, DialOpts, ListenerId, MemoryTransport, PortUse, TransportEvent};
use libp2p::core::upgrade::Version;
use libp2p::noise as theirs;
use proptest::prelude::*;
use tokio::io::{DuplexStream, duplex};
use tokio::time::timeout;
use tokio_util::compat::{Compat, TokioAsyncReadCompatExt as _};

use super::*;
use crate::net::muxer;

/// In the time of the test.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(10);
const BOTH: [Suite; 2] = [Suite::Aes, Suite::ChaCha];

type Pipe = Compat<DuplexStream>;

fn pipe() -> (Pipe, Pipe) {
    let (one, other) = duplex(100_000);
    (one.compat(), other.compat())
}

fn config(offered: &[Suite]) -> (Config, PeerId) {
    let keypair = Keypair::generate_ed25519();
    let config = Config::new(&keypair, offered.to_vec()).expect("fresh keys sign");
    (config, keypair.public().to_peer_id())
}

/// A pair that has shaken hands.
async fn pair(suite: Suite) -> (Records<Pipe>, Records<Pipe>) {
    let ((dialer, a), (listener, b)) = (config(&BOTH[suite as usize..]), config(&BOTH[suite as usize..]));
    let (one, other) = pipe();
    let secured = try_join(dialer.secure(one, suite, true), listener.secure(other, suite, false)).await;
    let ((seen_b, one), (seen_a, other)) = secured.expect("honest peers agree");
    assert_eq!((seen_a, seen_b), (a, b));
    (one, other)
}

fn bytes(hex: &str) -> Vec<u8> {
    data_encoding::HEXLOWER.decode(hex.as_bytes()).expect("hex")
}

/// Of the vectors that come with the Cacophony library, as implementations of Noise compare themselves by.
#[test]
fn the_aes_handshake_is_that_of_the_published_vector() {
    let name = Suite::Aes.noise_name();
    let with = || snow::Builder::with_resolver(name.parse().expect("a name"), Box::new(Resolver));
    let (static_i, static_r) = (
        bytes("e61ef9919cde45dd5f82166404bd08e38bceb5dfdfded0a34c8df7ed542214d1"),
        bytes("4a3acbfdb163dec651dfa3194dece676d437029c62a408b4c5ea9114246e4893"),
    );
    let (ephemeral_i, ephemeral_r) = (
        bytes("893e28b9dc6ca8d611ab664754b8ceb7bac5117349a4439a6b0569da977c464a"),
        bytes("bbdb4cdbd309f1a1f2e1456967fe288cadd6f712d65dc7b7793d5e63da6b375b"),
    );
    let prologue = b"John Galt";
    let mut dialer = with()
        .prologue(prologue)
        .and_then(|it| it.local_private_key(&static_i))
        .and_then(|it| it.fixed_ephemeral_key_for_testing_only(&ephemeral_i).build_initiator())
        .expect("a good key");
    let mut listener = with()
        .prologue(prologue)
        .and_then(|it| it.local_private_key(&static_r))
        .and_then(|it| it.fixed_ephemeral_key_for_testing_only(&ephemeral_r).build_responder())
        .expect("a good key");
    let messages: [(&str, &str); 3] = [
        (
            "4c756477696720766f6e204d69736573",
            "ca35def5ae56cec33dc2036731ab14896bc4c75dbb07a61f879f8e3afa4c79444c756477696720766f6e204d69736573",
        ),
        (
            "4d757272617920526f746862617264",
            "95ebc60d2b1fa672c1f46a8aa265ef51bfe38e7ccb39ec5be34069f144808843757117acceb05bd7a45733bc22015c97a9d0cbaf41b8\
             0446d5988ff5127235d76b79eade70f473d6a4ef521fdcbeda5340d01e028ba793fc059f2724a83af05f12dda0448a7621a926b379a9\
             2477fd",
        ),
        (
            "462e20412e20486179656b",
            "c90f1cf77eba4e50edb038991565e36c9758943a989229b6051244dc4fbecb6946744b401af2ee1a5881b65fbb87fd07cb6a328ecec\
             c9ce6ce84c399dc332d4fd521fa4bb7f467ce909395",
        ),
    ];
    let mut buffers = ([0; 1_024], [0; 1_024]);
    for (at, (payload, sealed)) in messages.iter().enumerate() {
        let (from, to) = if at == 1 { (&mut listener, &mut dialer) } else { (&mut dialer, &mut listener) };
        let len = from.write_message(&bytes(payload), &mut buffers.0).expect("its turn");
        assert_eq!(buffers.0[..len], bytes(sealed), "message {at}");
        let len = to.read_message(&buffers.0[..len], &mut buffers.1).expect("as it was sent");
        assert_eq!(buffers.1[..len], bytes(payload), "message {at}");
    }
    let mut dialer = dialer.into_transport_mode().expect("the handshake is over");
    let mut listener = listener.into_transport_mode().expect("the handshake is over");
    for (is_dialer, payload, sealed) in [
        (false, "4361726c204d656e676572", "bc3fa77f6aca3e8466d7dc6bea10013e88a6a29add5132b461806c"),
        (
            true,
            "4a65616e2d426170746973746520536179",
            "250b01074cdfe0df2ecf8ccbf1737b15a2ddb5b52fd9a396604e9c793cee3b3bb9",
        ),
    ] {
        let from = if is_dialer { &mut dialer } else { &mut listener };
        let len = from.write_message(&bytes(payload), &mut buffers.0).expect("there is room");
        assert_eq!(buffers.0[..len], bytes(sealed));
    }
}

/// Writes pieces at one end and reads them at the other with buffers of the given sizes.
async fn carried(suite: Suite, pieces: &[Vec<u8>], reads: &[usize]) -> Vec<u8> {
    let (mut one, mut other) = pair(suite).await;
    let write = async {
        for piece in pieces {
            one.write_all(piece).await.expect("the other end reads");
        }
        one.close().await.expect("the other end reads");
    };
    let read = async {
        let mut all = Vec::new();
        for size in reads.iter().cycle() {
            let mut buffer = vec![0; *size];
            match other.read(&mut buffer).await.expect("an honest stream") {
                0 => break,
                len => all.extend_from_slice(&buffer[..len]),
            }
        }
        all
    };
    join(write, read).await.1
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn what_is_written_in_any_pieces_is_read_in_any_pieces(
        pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..70_000), 0..8),
        reads in prop::collection::vec(1usize..80_000, 1..6),
        aes in any::<bool>(),
    ) {
        let suite = if aes { Suite::Aes } else { Suite::ChaCha };
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        let read = runtime.block_on(carried(suite, &pieces, &reads));
        prop_assert_eq!(read, pieces.concat());
    }

    #[test]
    fn garbage_instead_of_a_handshake_is_an_error(garbage in prop::collection::vec(any::<u8>(), 0..600), aes in any::<bool>()) {
        let suite = if aes { Suite::Aes } else { Suite::ChaCha };
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        for is_dialer in [true, false] {
            let (one, mut other) = pipe();
            let secured = runtime.block_on(async {
                other.write_all(&garbage).await.expect("a pipe takes it");
                other.close().await.expect("a pipe closes");
                config(&BOTH).0.secure(one, suite, is_dialer).await
            });
            prop_assert!(secured.is_err());
        }
    }

    #[test]
    fn a_statement_of_any_bytes_proves_nobody(noise in prop::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(Statement::decode(&noise).is_err() || Statement::decode(&noise).is_ok_and(|it| it.verify(&[7; 32]).is_err()));
    }
}

/// Lets both sides speak through somebody who changes one byte of what the dialer or the listener says.
async fn through_a_meddler(suite: Suite, of_dialer: bool, place: usize) -> (bool, bool) {
    let ((dialer, _), (listener, _)) = (config(&BOTH[suite as usize..]), config(&BOTH[suite as usize..]));
    let ((one, mut left), (mut right, other)) = (pipe(), pipe());
    let meddle = async {
        let mut seen = [0, 0];
        let mut buffers = [[0; 4_096], [0; 4_096]];
        loop {
            let [a, b] = &mut buffers;
            let (len, dialers) = tokio::select! {
                len = left.read(a) => (len.unwrap_or(0), true),
                len = right.read(b) => (len.unwrap_or(0), false),
            };
            let (from, to) = if dialers { (&mut buffers[0], &mut right) } else { (&mut buffers[1], &mut left) };
            let seen = &mut seen[usize::from(dialers)];
            if dialers == of_dialer && (*seen..*seen + len).contains(&place) {
                from[place - *seen] ^= 0x10;
            }
            *seen += len;
            if len == 0 || to.write_all(&from[..len]).await.is_err() {
                return;
            }
        }
    };
    // A changed length is waited for until the time is up.
    let dial = async { timeout(PATIENCE, dialer.secure(one, suite, true)).await.is_ok_and(|it| it.is_ok()) };
    let listen = async { timeout(PATIENCE, listener.secure(other, suite, false)).await.is_ok_and(|it| it.is_ok()) };
    let ((), dialer, listener) = tokio::join!(meddle, dial, listen);
    (dialer, listener)
}

#[tokio::test(start_paused = true)]
async fn one_changed_bit_anywhere_ends_the_handshake() {
    for suite in BOTH {
        // Each side says at least 215 bytes.
        for of_dialer in [true, false] {
            for place in (0..215).step_by(7) {
                let (dialer, listener) = through_a_meddler(suite, of_dialer, place).await;
                assert!(!dialer || !listener, "{suite:?} survives byte {place} of {of_dialer}");
            }
        }
    }
}

#[tokio::test]
async fn a_peer_that_forces_the_shared_secret_is_refused() {
    for suite in BOTH {
        let (one, mut other) = pipe();
        // The first message is its key: a point of small order, with which every secret is zero.
        other.write_all(&[0, 32]).await.expect("a pipe takes it");
        other.write_all(&[0; 32]).await.expect("a pipe takes it");
        let secured = config(&BOTH).0.secure(one, suite, false).await;
        assert!(matches!(secured, Err(Error::Noise(snow::Error::Dh))));
    }
}

#[tokio::test]
async fn a_handshake_message_that_is_too_long_is_not_waited_for() {
    let (one, mut other) = pipe();
    other.write_all(&[0xff, 0xff]).await.expect("a pipe takes it");
    let refused = config(&BOTH).0.secure(one, Suite::Aes, false).await;
    assert!(matches!(refused, Err(Error::TooLong(65_535))));
}

/// What `one` sends as it goes over the wire, for somebody who wants to change it.
async fn on_the_wire(suite: Suite, pieces: &[&[u8]]) -> (Vec<u8>, Records<Pipe>, Pipe) {
    let ((dialer, _), (listener, _)) = (config(&BOTH[suite as usize..]), config(&BOTH[suite as usize..]));
    let ((one, mut left), (mut right, other)) = (pipe(), pipe());
    let secure = try_join(dialer.secure(one, suite, true), listener.secure(other, suite, false));
    let secured = tokio::select! {
        secured = secure => secured,
        () = forward(&mut left, &mut right) => unreachable!("neither side hangs up"),
    };
    let ((_, mut one), (_, other)) = secured.expect("honest peers agree");
    for piece in pieces {
        one.write_all(piece).await.expect("a pipe takes it");
        one.flush().await.expect("a pipe takes it");
    }
    one.close().await.expect("a pipe closes");
    let mut sealed = Vec::new();
    left.read_to_end(&mut sealed).await.expect("a pipe gives it");
    (sealed, other, right)
}

/// Passes on what both say until the future is dropped.
async fn forward(left: &mut Pipe, right: &mut Pipe) {
    let (mut left_reads, mut left_writes) = left.split();
    let (mut right_reads, mut right_writes) = right.split();
    let there = async {
        let mut buffer = [0; 4_096];
        while let Ok(len @ 1..) = left_reads.read(&mut buffer).await {
            right_writes.write_all(&buffer[..len]).await.expect("a pipe takes it");
        }
    };
    let back = async {
        let mut buffer = [0; 4_096];
        while let Ok(len @ 1..) = right_reads.read(&mut buffer).await {
            left_writes.write_all(&buffer[..len]).await.expect("a pipe takes it");
        }
    };
    join(there, back).await;
}

async fn reading(mut records: Records<Pipe>, mut wire: Pipe, sealed: &[u8]) -> (Vec<u8>, io::Result<()>) {
    wire.write_all(sealed).await.expect("a pipe takes it");
    wire.close().await.expect("a pipe closes");
    let mut read = Vec::new();
    let mut buffer = [0; 1_000];
    loop {
        match records.read(&mut buffer).await {
            Ok(0) => return (read, Ok(())),
            Ok(len) => read.extend_from_slice(&buffer[..len]),
            Err(error) => return (read, Err(error)),
        }
    }
}

#[tokio::test]
async fn records_that_are_changed_swapped_repeated_or_cut_are_not_heard() {
    for suite in BOTH {
        let pieces: [&[u8]; 2] = [&[1; 100], &[2; 100]];
        let record = LENGTH_AND_TAG + 100;
        let (sealed, to, wire) = on_the_wire(suite, &pieces).await;
        assert_eq!(sealed.len(), 2 * record);
        assert_eq!(reading(to, wire, &sealed).await.0, pieces.concat(), "nobody meddles");

        let (mut sealed, to, wire) = on_the_wire(suite, &pieces).await;
        sealed[record + 50] ^= 1;
        let (read, end) = reading(to, wire, &sealed).await;
        assert_eq!((read, end.map_err(|it| it.kind())), (vec![1; 100], Err(io::ErrorKind::InvalidData)));

        let (sealed, to, wire) = on_the_wire(suite, &pieces).await;
        let (read, end) = reading(to, wire, &[&sealed[record..], &sealed[..record]].concat()).await;
        assert_eq!((read, end.map_err(|it| it.kind())), (vec![], Err(io::ErrorKind::InvalidData)));

        let (sealed, to, wire) = on_the_wire(suite, &pieces).await;
        let (read, end) = reading(to, wire, &[&sealed[..record], &sealed[..record]].concat()).await;
        assert_eq!((read, end.map_err(|it| it.kind())), (vec![1; 100], Err(io::ErrorKind::InvalidData)));

        let (sealed, to, wire) = on_the_wire(suite, &pieces).await;
        let (read, end) = reading(to, wire, &sealed[..record + 60]).await;
        assert_eq!((read, end.map_err(|it| it.kind())), (vec![1; 100], Err(io::ErrorKind::UnexpectedEof)));

        let (_, to, wire) = on_the_wire(suite, &[]).await;
        let (read, end) = reading(to, wire, &[0, 15, 0, 0]).await;
        assert_eq!((read, end.map_err(|it| it.kind())), (vec![], Err(io::ErrorKind::InvalidData)));
    }
}

const LENGTH_AND_TAG: usize = 18;

#[tokio::test]
async fn keys_are_renewed_at_both_ends_at_the_same_record() {
    let (mut one, mut other) = pair(Suite::Aes).await;
    (one.rekey_every, other.rekey_every) = (Some(3), Some(3));
    for round in 0..10u8 {
        for from in [&mut one, &mut other] {
            from.write_all(&[round; 10]).await.expect("a pipe takes it");
            from.flush().await.expect("a pipe takes it");
        }
        for to in [&mut one, &mut other] {
            let mut read = [0; 10];
            to.read_exact(&mut read).await.expect("both have the same key");
            assert_eq!(read, [round; 10]);
        }
    }
    other.rekey_every = None;
    one.write_all(&[1; 50_000]).await.expect("a pipe takes it");
    one.flush().await.expect("a pipe takes it");
    let mut read = vec![0; 50_000];
    assert!(other.read_exact(&mut read).await.is_err(), "who does not renew hears no more");
}

#[tokio::test]
async fn libp2ps_own_noise_is_understood_in_both_directions() {
    for ours_dials in [true, false] {
        let (keypair, (ours, we)) = (Keypair::generate_ed25519(), config(&BOTH));
        let theirs = theirs::Config::new(&keypair).expect("fresh keys sign");
        let (one, other) = pipe();
        let ours = ours.secure(one, Suite::ChaCha, ours_dials);
        let theirs = async {
            let secured = if ours_dials {
                theirs.upgrade_inbound(other, "/noise").await
            } else {
                theirs.upgrade_outbound(other, "/noise").await
            };
            Ok(secured.expect("it understands us"))
        };
        let ((they, mut ours), (seen, mut theirs)) = try_join(ours, theirs).await.expect("we understand it");
        assert_eq!((they, seen), (keypair.public().to_peer_id(), we));
        let film: Vec<u8> = (0..300_000u32).map(|n| n as u8).collect();
        for ours_sends in [true, false] {
            let mut read = vec![0; film.len()];
            let (written, heard) = if ours_sends {
                let write = async { ours.write_all(&film).await.and(ours.flush().await) };
                join(write, theirs.read_exact(&mut read)).await
            } else {
                let write = async { theirs.write_all(&film).await.and(theirs.flush().await) };
                join(write, ours.read_exact(&mut read)).await
            };
            written.and(heard).expect("an honest stream");
            assert_eq!(read, film);
        }
    }
}

#[tokio::test]
async fn a_negotiation_that_lost_the_better_cipher_on_the_way_is_noticed_by_both() {
    let ((dialer, _), (listener, _)) = (config(&BOTH), config(&BOTH));
    let (one, other) = pipe();
    let dialled = dialer.secure(one, Suite::ChaCha, true);
    let heard = listener.secure(other, Suite::ChaCha, false);
    let (dialled, heard) = join(dialled, heard).await;
    assert!(matches!(dialled, Err(Error::Downgraded { .. })));
    // The dialer has left without a word of who it is.
    assert!(heard.is_err());

    // A dialer that does not mind: the listener does.
    let (one, other) = pipe();
    let (mut careless, _) = config(&BOTH);
    careless.offered = [Suite::ChaCha].into();
    let (dialled, heard) =
        join(careless.secure(one, Suite::ChaCha, true), config(&BOTH).0.secure(other, Suite::ChaCha, false)).await;
    assert!(dialled.is_ok());
    assert!(matches!(heard, Err(Error::Downgraded { .. })));
}

#[tokio::test]
async fn a_machine_without_aes_is_spoken_to_as_libp2p_does() {
    for (dials, listens) in [(&BOTH[..], &BOTH[1..]), (&BOTH[1..], &BOTH[..]), (&BOTH[1..], &BOTH[1..])] {
        assert_eq!(negotiated(dials, listens, false).await, Ok(()));
    }
}

#[tokio::test]
async fn two_machines_with_aes_agree_on_it_and_nobody_in_between_can_talk_them_out_of_it() {
    assert_eq!(negotiated(&BOTH, &BOTH, false).await, Ok(()));
    let refused = negotiated(&BOTH, &BOTH, true).await.expect_err("somebody meddled");
    assert!(refused.contains("Downgraded"), "{refused}");
}

/// Negotiates for real; `meddled` hides from the listener that AES was proposed.
async fn negotiated(dials: &[Suite], listens: &[Suite], meddled: bool) -> Result<(), String> {
    let mut listening = secured(MemoryTransport::default(), listens);
    let mut dialing = secured(MemoryTransport::default().map(move |io, _| Meddler { io, meddled }), dials);
    let address = "/memory/0".parse().expect("an address");
    listening.listen_on(ListenerId::next(), address).expect("memory can be listened on");
    let TransportEvent::NewAddress { listen_addr, .. } = next(&mut listening).await else { panic!("it listens") };
    let options = DialOpts { role: Endpoint::Dialer, port_use: PortUse::New };
    let dialled = dialing.dial(listen_addr, options).expect("memory can be dialled");
    let heard = async {
        let TransportEvent::Incoming { upgrade, .. } = next(&mut listening).await else { panic!("somebody dials") };
        upgrade.await
    };
    match join(dialled, heard).await {
        (Ok(_), Ok(_)) => Ok(()),
        (Err(error), _) | (_, Err(error)) => Err(format!("{error:?}")),
    }
}

async fn next(
    transport: &mut Boxed<PeerId>,
) -> TransportEvent<<Boxed<PeerId> as libp2p::Transport>::ListenerUpgrade, io::Error> {
    std::future::poll_fn(|cx| Pin::new(&mut *transport).poll(cx)).await
}

/// The transport below, secured as ours is.
fn secured<T>(transport: T, offered: &[Suite]) -> Boxed<PeerId>
where
    T: libp2p::Transport + Send + Unpin + 'static,
    T::Output: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    T::Error: Send + Sync + 'static,
    T::Dial: Send + 'static,
    T::ListenerUpgrade: Send + 'static,
{
    // Not the lazy kind: nothing is said after the last negotiation, so it must end by itself.
    let upgraded = transport.upgrade(Version::V1).authenticate(config(offered).0);
    upgraded.multiplex(muxer::Config::default()).map(|(peer, _), _| peer).boxed()
}

/// A dialer's connection on which somebody writes over what is proposed.
struct Meddler<T> {
    io: T,
    meddled: bool,
}

impl<T: AsyncRead + Unpin> AsyncRead for Meddler<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut [u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_read(cx, out)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Meddler<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let name = Suite::Aes.protocol().as_bytes();
        let mut data = data.to_vec();
        if let Some(at) = data.windows(name.len()).position(|it| it == name)
            && self.meddled
        {
            data[at + 1] = b'?';
        }
        Pin::new(&mut self.io).poll_write(cx, &data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_close(cx)
    }
}
