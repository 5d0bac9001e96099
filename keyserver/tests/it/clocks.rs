//! A keyserver whose clock is wrong says so.

use std::time::Duration;

use swarm_proto::call::CallToken;
use swarm_proto::pb::keyserver as pb;
use swarm_proto::pb::keyserver::shop_client::ShopClient;
use swarm_proto::time::Utc;
use tonic::Request;

use crate::process::Process;
use crate::world::{Device, World, get, now};

/// A call of a box whose clock shows this.
async fn called(device: &Device, keyserver: &Process, clock: Utc) -> bool {
    let token = CallToken::sign(&device.key, keyserver.id.parse().expect("an id"), clock).expect("signed");
    let mut request = Request::new(pb::ListOrdersRequest { item: Vec::new(), page_size: 1, page_token: Vec::new() });
    request.metadata_mut().insert("reelswarm-call", token.to_text().parse().expect("text"));
    request.metadata_mut().insert("reelswarm-membership", device.vouched.to_text().parse().expect("text"));
    ShopClient::new(keyserver.channel().await).list_orders(request).await.is_ok()
}

#[tokio::test]
async fn a_clock_that_is_far_off_by_the_boxes_clocks_raises_an_alarm_until_it_is_right() {
    const OFF: Duration = Duration::from_secs(20 * 60);
    let world = World::new();
    let keyserver = world.home.start();
    assert_eq!(get(&keyserver, "/readyz").await.0, 200);
    let households: Vec<_> = (0..7).map(|_| world.household()).collect();
    for (boxes_clock, says) in [(now().minus(OFF), "ahead"), (now() + OFF, "behind")] {
        for household in &households {
            assert!(!called(household, &keyserver, boxes_clock).await, "such a call is refused");
        }
        let (status, report) = get(&keyserver, "/readyz?verbose").await;
        assert_eq!(status, 503, "{report}");
        assert!(report.contains("time differs from that of") && report.contains(says), "{report}");
        assert!(report.contains("set the clock of this machine"), "{report}");
        for household in &households {
            assert!(called(household, &keyserver, now()).await);
        }
        assert_eq!(get(&keyserver, "/readyz").await.0, 200, "all agree again");
    }
    assert!(std::fs::read_to_string(world.home.log()).expect("a log").contains("the clock of this machine is wrong"));
}

#[tokio::test]
async fn boxes_of_one_account_or_of_a_strange_tracker_raise_no_alarm() {
    let world = World::new();
    let keyserver = world.home.start();
    let (account, wrong) = (world.household().account(), now() + Duration::from_secs(3_600));
    let stranger = World::new();
    for _ in 0..5 {
        let one = world.device_of(account, swarm_proto::membership::DeviceKind::Box);
        assert!(!called(&one, &keyserver, wrong).await);
        assert!(!called(&stranger.household(), &keyserver, wrong).await);
    }
    assert_eq!(get(&keyserver, "/readyz").await.0, 200);
}
