//! Two nodes of the network alone on loopback, with a slow or a broken line between them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use libp2p::Multiaddr;
use libp2p::identity::Keypair;
use peer_node::config;
use peer_node::net::{self, AskError, Exchange, Handle, Inbound, peer_id};
use swarm_proto::geometry::{CHUNK_BYTES, ChunkIndex};
use swarm_proto::id::{DeviceId, ItemId};
use swarm_proto::wire::{Answer, Ask, Request};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

/// Far more than anything here takes; a test that needs it has failed.
const PATIENCE: Duration = Duration::from_secs(60);
const TCP: &str = "/ip4/127.0.0.1/tcp/0";
const QUIC: &str = "/ip4/127.0.0.1/udp/0/quic-v1";

struct Node {
    device: DeviceId,
    net: Handle,
    address: Multiaddr,
}

/// A node that answers every question for a chunk with the same bytes.
async fn node(listen: &str, silence: Duration) -> Node {
    let (node, mut questions) = mute(listen, silence).await;
    let chunk = Bytes::from(vec![7; CHUNK_BYTES as usize]);
    tokio::spawn(async move {
        while let Some(question) = questions.recv().await {
            let answer = Answer::Data { segment_values: Bytes::new(), bytes: chunk.clone() };
            tokio::spawn(question.responder.send(answer));
        }
    });
    node
}

/// A node whose questions the test answers.
async fn mute(listen: &str, silence: Duration) -> (Node, mpsc::Receiver<Inbound>) {
    let keypair = Keypair::generate_ed25519();
    let device = peer_id::device_of(&keypair.public().to_peer_id()).unwrap();
    let config = config::Net { listen: vec![listen.to_owned()], ..config::Net::default() };
    let config = net::Config { silence, ..net::Config::of(&config).unwrap() };
    let (net, questions) = net::spawn(keypair, config).await.unwrap();
    let address = net.status().borrow().listening[0].clone();
    (Node { device, net, address }, questions)
}

fn request(index: u32) -> Request {
    let index = ChunkIndex::new(index).unwrap();
    Request {
        item: ItemId::from_bytes([1; 32]),
        ask: Ask::Chunk { index, want_segment_values: false },
        ticket: Bytes::new(),
    }
}

impl Node {
    async fn ask(&self, other: &Node, index: u32) -> Result<Answer, AskError> {
        self.net.ask(other.device, request(index), Arc::default()).await
    }

    /// Asks for chunks, eight at a time, until so many have come; what is lost with a connection is asked for again.
    async fn fetch(&self, other: &Node, chunks: u32) {
        futures::stream::iter(0..chunks)
            .map(|index| async move {
                while !matches!(self.ask(other, index).await, Ok(Answer::Data { .. })) {
                    tokio::task::yield_now().await;
                }
            })
            .buffer_unordered(8)
            .collect::<()>()
            .await;
    }
}

/// A line with small buffers that carries so many bytes a second each way; nothing at all while it is cut.
struct Line {
    address: Multiaddr,
    cut: Arc<AtomicBool>,
}

impl Line {
    async fn to(address: &Multiaddr, bytes_per_sec: u64) -> Self {
        let port = address.iter().find_map(|part| match part {
            libp2p::multiaddr::Protocol::Tcp(port) => Some(port),
            _ => None,
        });
        let target = SocketAddr::from(([127, 0, 0, 1], port.unwrap()));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let cut = Arc::new(AtomicBool::new(false));
        let is_cut = cut.clone();
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let far = TcpStream::connect(target).await.unwrap();
                let (near_reads, near_writes) = near.into_split();
                let (far_reads, far_writes) = far.into_split();
                tokio::spawn(carry(near_reads, far_writes, bytes_per_sec, is_cut.clone()));
                tokio::spawn(carry(far_reads, near_writes, bytes_per_sec, is_cut.clone()));
            }
        });
        Self { address: format!("/ip4/127.0.0.1/tcp/{port}").parse().unwrap(), cut }
    }
}

async fn carry(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    bytes_per_sec: u64,
    cut: Arc<AtomicBool>,
) {
    let mut buffer = vec![0; 16 << 10];
    while let Ok(len @ 1..) = from.read(&mut buffer).await {
        while cut.load(Ordering::Relaxed) {
            sleep(Duration::from_millis(20)).await;
        }
        sleep(Duration::from_secs_f64(len as f64 / bytes_per_sec as f64)).await;
        if to.write_all(&buffer[..len]).await.is_err() {
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_boxes_that_upload_to_each_other_over_a_slow_line_never_lock_up() {
    let silence = Duration::from_secs(3);
    let (one, other) = (node(TCP, silence).await, node(TCP, silence).await);
    let line = Line::to(&other.address, 4 << 20).await;
    one.net.add_addresses(other.device, vec![line.address.clone()]).await;
    // The first question makes the connection that both use.
    one.fetch(&other, 1).await;
    let both = async { tokio::join!(one.fetch(&other, 24), other.fetch(&one, 24)) };
    timeout(PATIENCE, both).await.expect("neither waits for the other for ever");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_line_that_went_dead_is_given_up_and_a_new_connection_goes_on() {
    let (one, other) = (node(TCP, Duration::from_secs(2)).await, node(TCP, Duration::from_secs(2)).await);
    let line = Line::to(&other.address, 64 << 20).await;
    one.net.add_addresses(other.device, vec![line.address.clone()]).await;
    one.fetch(&other, 2).await;
    line.cut.store(true, Ordering::Relaxed);
    let silent = timeout(PATIENCE, futures::future::join_all((0..4).map(|index| one.ask(&other, index)))).await;
    for answer in silent.expect("the silence is noticed") {
        assert_eq!(answer, Err(AskError::Silent));
    }
    line.cut.store(false, Ordering::Relaxed);
    timeout(PATIENCE, one.fetch(&other, 2)).await.expect("a new connection is made");
}

async fn many_chunks_at_once_over(listen: &str) {
    let silence = Duration::from_secs(10);
    let (one, other) = (node(listen, silence).await, node(listen, silence).await);
    one.net.add_addresses(other.device, vec![other.address.clone()]).await;
    timeout(PATIENCE, async { tokio::join!(one.fetch(&other, 64), other.fetch(&one, 64)) }).await.expect("in time");
    assert_eq!(one.net.status().borrow().connected.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_chunks_go_both_ways_at_once_over_tcp() {
    many_chunks_at_once_over(TCP).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_chunks_go_both_ways_at_once_over_quic() {
    many_chunks_at_once_over(QUIC).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_called_off_is_not_sent_to_its_end_and_the_connection_stays() {
    let silence = Duration::from_secs(10);
    let (one, (other, mut questions)) = (node(TCP, silence).await, mute(TCP, silence).await);
    let line = Line::to(&other.address, 2 << 20).await;
    one.net.add_addresses(other.device, vec![line.address.clone()]).await;
    let exchange = Arc::new(Exchange::default());
    let asked = tokio::spawn({
        let (net, device, exchange) = (one.net.clone(), other.device, exchange.clone());
        async move { net.ask(device, request(0), exchange).await }
    });
    let question = timeout(PATIENCE, questions.recv()).await.expect("it is asked").expect("the network runs");
    let bytes = vec![7; CHUNK_BYTES as usize].into();
    let sent = tokio::spawn(question.responder.send(Answer::Data { segment_values: Bytes::new(), bytes }));
    let begun = async {
        while exchange.received() == 0 {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, begun).await.expect("it begins");
    exchange.cancel();
    assert_eq!(asked.await.unwrap(), Err(AskError::Cancelled));
    assert!(timeout(PATIENCE, sent).await.expect("its sender is told").unwrap() <= CHUNK_BYTES);
    let again = tokio::spawn({
        let (net, device) = (one.net.clone(), other.device);
        async move { net.ask(device, request(1), Arc::default()).await }
    });
    let question = timeout(PATIENCE, questions.recv()).await.expect("it is asked").expect("the network runs");
    question.responder.send(Answer::NotHeld).await;
    assert_eq!(again.await.unwrap(), Ok(Answer::NotHeld));
}
