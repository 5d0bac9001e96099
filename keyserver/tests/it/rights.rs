//! What a box asks its keyserver besides grants.

use swarm_proto::pb::keyserver as pb;
use swarm_proto::pb::keyserver::rights_client::RightsClient;
use swarm_proto::server_time::{ServerTime, TimeError};
use swarm_proto::signed::Signed;
use tonic::{Code, Request};

use crate::world::{World, now, reason};

#[tokio::test]
async fn time_is_signed_for_the_device_that_asks() {
    let world = World::new();
    let keyserver = world.home.start();
    let viewer = world.household();
    let mut rights = RightsClient::new(keyserver.channel().await);
    let before = now();
    let request = viewer.call(&keyserver, pb::CheckInRequest { nonce: vec![7; 32] });
    let answer = rights.check_in(request).await.expect("the time").into_inner();
    let signed = Signed::<ServerTime>::try_from(answer.time.expect("signed")).expect("well formed");
    let server = keyserver.id.parse().expect("an id");
    let told = ServerTime::verify(&signed, &server, &[7; 32]).expect("the answer to this question");
    assert!((before..=now()).contains(&told));
    assert_eq!(ServerTime::verify(&signed, &server, &[8; 32]), Err(TimeError::OtherNonce), "not to another");

    let short = rights.check_in(viewer.call(&keyserver, pb::CheckInRequest { nonce: vec![7; 31] })).await;
    let short = short.expect_err("no nonce");
    assert_eq!((short.code(), reason(&short).as_str()), (Code::InvalidArgument, "E-FIELD-01"));
    let stranger = rights.check_in(Request::new(pb::CheckInRequest { nonce: vec![7; 32] })).await;
    assert_eq!(stranger.expect_err("nobody").code(), Code::Unauthenticated);
}
