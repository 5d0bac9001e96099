//! What breaks, floods or stops a tracker, and what honest devices notice of it.

use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;

use daemon::client::{self, Trust};
use daemon::exit::Failure;
use http_body_util::{BodyExt as _, Full};
use swarm_proto::call::{self, CallToken};
use swarm_proto::pb::common::DeviceKind as PbKind;
use swarm_proto::pb::tracker as pb;
use swarm_proto::pb::tracker::notice::Notice;
use swarm_proto::pb::tracker::report::Report;
use tonic::codegen::Service as _;
use tonic::{Code, Request};

use crate::world::{Attending, Device, SOON, World, copy, hello, utc};

/// Sends these bytes as the body of a call and answers what the tracker says of it.
async fn raw_call(world: &World, content_type: &str, body: Vec<u8>) -> (u16, Option<i32>) {
    let mut channel = client::connect(&world.url, &Trust::default()).await.unwrap();
    futures::future::poll_fn(|context| channel.poll_ready(context)).await.unwrap();
    let request = http::Request::post("/reelswarm.tracker.v1.Enrolment/Enrol")
        .header("content-type", content_type)
        .header("te", "trailers")
        .body(tonic::body::Body::new(Full::new(bytes::Bytes::from(body))))
        .unwrap();
    let answer = tokio::time::timeout(SOON, channel.call(request)).await.expect("an answer in time").unwrap();
    let (head, body) = answer.into_parts();
    let trailers = body.collect().await.ok().and_then(|it| it.trailers().cloned()).unwrap_or_default();
    let status = head.headers.get("grpc-status").or_else(|| trailers.get("grpc-status"));
    (head.status.as_u16(), status.map(|it| it.to_str().unwrap().parse().unwrap()))
}

/// A message in its frame: the flag of compression, the length that it claims, the bytes.
fn frame(flag: u8, claims: u32, bytes: &[u8]) -> Vec<u8> {
    [&[flag][..], &claims.to_be_bytes(), bytes].concat()
}

#[tokio::test]
async fn calls_that_are_no_messages_are_refused_and_the_next_one_is_answered() {
    let world = World::start().await;
    let grpc = "application/grpc";
    for (what, content_type, body) in [
        ("larger than any message", grpc, frame(0, 5 << 20, &vec![0; 5 << 20])),
        ("claims more than may be", grpc, frame(0, u32::MAX, b"abc")),
        ("breaks off", grpc, frame(0, 100, b"abc")),
        ("says it is compressed", grpc, frame(1, 3, b"abc")),
        ("is no protobuf", grpc, frame(0, 3, &[0xff; 3])),
        ("of a codec that nobody knows", "application/grpc+thrift", frame(0, 0, b"")),
        ("is JSON", "application/json", b"{}".to_vec()),
    ] {
        let (http, status) = raw_call(&world, content_type, body).await;
        assert!(status.is_some_and(|code| code != 0) || http >= 400, "{what}: {http} {status:?}");
        world.enrolment().get_tracker(pb::GetTrackerRequest {}).await.unwrap();
    }
}

#[tokio::test]
async fn forged_and_dated_proofs_are_refused_with_the_reason() {
    let world = World::start().await;
    let device = world.box_(1).await;
    let year = Duration::from_secs(365 * 24 * 3_600);
    let key = swarm_proto::signed::SigningKey::from_bytes(&[1; 32]).unwrap();
    let past = swarm_proto::time::Utc::from_millis(utc().as_millis() - u64::try_from(year.as_millis()).unwrap());
    for (what, token) in [
        ("a clock years behind", CallToken::sign(&key, world.id, past).unwrap().to_text()),
        ("a clock years ahead", CallToken::sign(&key, world.id, utc() + 2 * year).unwrap().to_text()),
        ("another tracker's", CallToken::sign(&key, [8; 32].into(), utc()).unwrap().to_text()),
        ("nonsense", "AAAA".to_owned()),
    ] {
        let mut request = Request::new(pb::GetQueueRequest::default());
        request.metadata_mut().insert(call::METADATA_KEY, token.parse().unwrap());
        let refused = world.queue().get_queue(request).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unauthenticated, "{what}");
        assert!(Failure::from(refused).why.is_some(), "{what}");
    }
    let own = device.calls(pb::GetQueueRequest::default());
    world.queue().get_queue(own).await.unwrap();
}

#[tokio::test]
async fn device_cannot_speak_of_what_others_hold_or_of_moments_that_cannot_be() {
    let world = World::start().await;
    world.title(1).await;
    let (holder, liar) = (world.box_(1).await, world.box_(2).await);
    let _here = holder.attend(&world, vec![copy(1)]).await;
    let attending = liar.attend(&world, Vec::new()).await;
    // Complaints about a source that was never planned for the complainer change nothing.
    for _ in 0..100 {
        attending.report(Report::Stall(pb::Stall { item: vec![1; 32], source: holder.id().to_vec() })).await;
    }
    let holdings = pb::HoldingChange { holding: Some(pb::ItemHolding { ranges: Vec::new(), ..copy(1) }) };
    attending.report(Report::Holding(holdings)).await;
    let asker = world.box_(3).await;
    let plan = asker.ask_until(&world, 1, |plan| !plan.leases.is_empty()).await;
    assert_eq!(plan.leases[0].source.as_ref().unwrap().device, holder.id().to_vec());
}

#[tokio::test]
async fn stream_that_is_never_read_holds_one_notice_of_a_kind_and_hinders_nobody() {
    let world = World::start().await;
    let account = world.customer("Ada").await;
    let (deaf, editor) =
        (world.device_of(1, &account, PbKind::Box).await, world.device_of(2, &account, PbKind::Box).await);
    for n in 1..=40 {
        world.title(n).await;
    }
    let mut unread: Attending = deaf.open(&world).await.unwrap();
    unread.report(hello(Vec::new())).await;
    let mut changes = 0;
    for _ in 0..25 {
        for n in 1..=40_u8 {
            let add = pb::AddToQueueRequest { title: vec![n; 16], ..Default::default() };
            world.queue().add_to_queue(editor.calls(add)).await.unwrap();
            changes += 1;
        }
    }
    let heard = std::cell::Cell::new(0);
    let newest = unread
        .until(|notice| {
            let Notice::Queue(queue) = notice else { return None };
            heard.set(heard.get() + 1);
            (queue.version == changes).then_some(queue)
        })
        .await;
    assert_eq!(newest.entries.len(), 40);
    let heard = heard.get();
    assert!(heard < changes, "{heard} of {changes} versions were kept for a device that did not read");
}

#[tokio::test(flavor = "multi_thread")]
async fn tracker_that_was_stopped_for_longer_than_the_silence_goes_on_without_duplicates() {
    let settings = ["plans.heartbeat_every=500ms", "plans.silence=1s"];
    let world = World::with(&settings).await;
    world.title(1).await;
    let (holder, asker) = (world.box_(1).await, world.box_(2).await);
    let _before = holder.attend(&world, vec![copy(1)]).await;
    world.freeze().await;
    let unanswered = tokio::time::timeout(Duration::from_secs(3), asker.ask(&world, 1)).await;
    assert!(unanswered.is_err(), "a stopped process answers nothing: {unanswered:?}");
    world.signal("-CONT");
    let again = holder.attend(&world, vec![copy(1)]).await;
    again.report(Report::Heartbeat(pb::Heartbeat::default())).await;
    let plan = asker.ask_until(&world, 1, |plan| !plan.leases.is_empty()).await;
    assert_eq!(plan.leases.len(), 1, "the holder is there once");
    let copies = world.operator().get_copies(pb::GetCopiesRequest { item: vec![1; 32] }).await.unwrap().into_inner();
    assert_eq!(copies.devices.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn tracker_out_of_descriptors_accepts_again_when_there_are_some() {
    let world = World::start().await;
    let device = world.box_(1).await;
    world.title(1).await;
    let pid = world.pid().to_string();
    let limited = Command::new("prlimit").args(["--pid", &pid, "--nofile=128"]).status();
    if limited.is_err() {
        assert!(std::env::var_os("CI").is_none(), "prlimit is missing in CI");
        eprintln!("skipped: prlimit is not installed");
        return;
    }
    let address = world.url.strip_prefix("http://").unwrap().to_owned();
    let crowd: Vec<TcpStream> = (0..300).map_while(|_| TcpStream::connect(&address).ok()).collect();
    assert!(crowd.len() > 128, "the crowd is larger than what is left: {}", crowd.len());
    device.ask(&world, 1).await.unwrap();
    drop(crowd);
    let fresh = async {
        loop {
            if let Ok(channel) = client::connect(&world.url, &Trust::default()).await {
                let mut enrolment = pb::enrolment_client::EnrolmentClient::new(channel);
                if enrolment.get_tracker(pb::GetTrackerRequest {}).await.is_ok() {
                    return;
                }
            }
        }
    };
    tokio::time::timeout(SOON, fresh).await.expect("new connections are accepted again in time");
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_open_and_reset_streams_do_not_keep_honest_devices_waiting() {
    const CONNECTIONS: usize = 100;
    const RESETS: usize = 50;
    let world = World::start().await;
    world.title(1).await;
    let device = world.box_(1).await;
    let url = world.url.clone();
    let flood = tokio::spawn(async move {
        let mut channels = Vec::new();
        for _ in 0..CONNECTIONS {
            channels.extend(client::connect(&url, &Trust::default()).await.ok());
        }
        for _ in 0..RESETS {
            for channel in &channels {
                let mut client = pb::enrolment_client::EnrolmentClient::new(channel.clone());
                // Dropped before it is answered: the stream is opened and reset.
                let call = client.get_tracker(pb::GetTrackerRequest {});
                let _ = tokio::time::timeout(Duration::ZERO, call).await;
            }
        }
        channels.len()
    });
    let mut answered = 0;
    while !flood.is_finished() {
        tokio::time::timeout(SOON, device.ask(&world, 1)).await.expect("an answer in time").unwrap();
        answered += 1;
    }
    assert_eq!(flood.await.unwrap(), CONNECTIONS);
    assert!(answered > 0);
    device.ask(&world, 1).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn two_thousand_boxes_that_return_at_once_are_all_welcomed_in_bounded_memory() {
    const BOXES: u32 = 2_000;
    const CONNECTIONS: usize = 40;
    const MOST_MEMORY_KIB: u64 = 512 << 10;
    let mut world = World::start().await;
    world.title(1).await;
    let mut devices = Vec::new();
    for customer in 0..4 {
        let account = world.customer(&format!("street {customer}")).await;
        for n in 0..BOXES / 4 {
            let device = Device::numbered(customer * BOXES + n, world.id);
            let code = world.invite(&account, PbKind::Box).await;
            world.enrol(&device, &code).await.unwrap();
            devices.push(device);
        }
    }
    world.kill_and_start_again().await;
    let mut channels = Vec::new();
    for _ in 0..CONNECTIONS {
        channels.push(client::connect(&world.url, &Trust::default()).await.unwrap());
    }
    let returning = devices.iter().enumerate().map(|(at, device)| {
        let channel = channels[at % CONNECTIONS].clone();
        async move {
            // As a box does: told to come back later, it comes back.
            loop {
                match device.open_on(channel.clone()).await {
                    Ok(mut attending) => {
                        attending.report(hello(vec![copy(1)])).await;
                        if matches!(attending.next().await, Ok(Notice::Welcome(_))) {
                            return attending;
                        }
                    }
                    Err(status) => assert_eq!(status.code(), Code::ResourceExhausted, "{status}"),
                }
            }
        }
    });
    let all = tokio::time::timeout(Duration::from_secs(60), futures::future::join_all(returning)).await;
    let here = all.expect("every box is welcomed in time");
    assert_eq!(here.len(), BOXES as usize);
    let copies = world.operator().get_copies(pb::GetCopiesRequest { item: vec![1; 32] }).await.unwrap().into_inner();
    assert_eq!(copies.devices.len(), BOXES as usize);
    let peak = world.peak_memory_kib();
    assert!(peak < MOST_MEMORY_KIB, "{peak} KiB for {BOXES} boxes");
}
