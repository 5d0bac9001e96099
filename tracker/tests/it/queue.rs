//! Queues, as boxes and operators change them.

use swarm_proto::pb::common::DeviceKind as PbKind;
use swarm_proto::pb::tracker as pb;
use swarm_proto::pb::tracker::notice::Notice;
use tonic::Code;

use crate::world::{Device, World, entry};

async fn three_titles(world: &World) {
    world.admit_publisher().await;
    for n in 1..=3 {
        world.publish(&entry(n, 1)).await.unwrap();
    }
}

async fn add(world: &World, device: &Device, n: u8, this_device_only: bool) -> pb::QueueState {
    let request = pb::AddToQueueRequest { title: vec![n; 16], this_device_only, ..Default::default() };
    world.queue().add_to_queue(device.calls(request)).await.unwrap().into_inner()
}

fn titles(state: &pb::QueueState) -> Vec<u8> {
    state.entries.iter().map(|entry| entry.title[0]).collect()
}

#[tokio::test]
async fn every_box_of_a_customer_hears_of_a_change_and_nobody_else_does() {
    let world = World::start().await;
    three_titles(&world).await;
    let account = world.customer("Ada").await;
    let first = world.device_of(1, &account, PbKind::Box).await;
    let second = world.device_of(2, &account, PbKind::Box).await;
    let stranger = world.box_(3).await;
    let mut listening = second.attend(&world, Vec::new()).await;
    for n in 1..=3 {
        add(&world, &first, n, false).await;
    }
    let request = pb::MoveInQueueRequest { title: vec![3; 16], to: 0, ..Default::default() };
    let moved = world.queue().move_in_queue(first.calls(request)).await.unwrap().into_inner();
    assert_eq!(titles(&moved), [3, 1, 2]);
    let heard = listening.until(|notice| match notice {
        Notice::Queue(state) if state.version == moved.version => Some(state),
        _ => None,
    });
    assert_eq!(heard.await, moved);
    let get = stranger.calls(pb::GetQueueRequest::default());
    assert!(world.queue().get_queue(get).await.unwrap().into_inner().entries.is_empty());
}

#[tokio::test]
async fn operator_changes_the_queue_of_anyone_and_a_device_only_its_own() {
    let world = World::start().await;
    three_titles(&world).await;
    let account = world.customer("Ada").await;
    let device = world.device_of(1, &account, PbKind::Box).await;
    add(&world, &device, 1, true).await;
    let request = pb::AddToQueueRequest {
        account: account.clone(),
        title: vec![2; 16],
        this_device_only: false,
        before: vec![1; 16],
        delivery: None,
    };
    let state = world.operators_queue().add_to_queue(request).await.unwrap().into_inner();
    assert_eq!(titles(&state), [2, 1]);
    assert_eq!(state.entries[1].device, device.id().to_vec());
    assert_eq!(state.entries[0].name, "Title 2");
    let get = pb::GetQueueRequest { account };
    assert_eq!(world.queue().get_queue(device.calls(get)).await.unwrap_err().code(), Code::PermissionDenied);
}

#[tokio::test]
async fn writer_who_saw_an_older_queue_is_told_so() {
    let world = World::start().await;
    three_titles(&world).await;
    let device = world.box_(1).await;
    let seen = add(&world, &device, 1, false).await.version;
    add(&world, &device, 2, false).await;
    let request = pb::MoveInQueueRequest { title: vec![2; 16], to: 0, if_version: Some(seen), ..Default::default() };
    assert_eq!(world.queue().move_in_queue(device.calls(request)).await.unwrap_err().code(), Code::Aborted);
}

#[tokio::test]
async fn what_is_not_there_cannot_be_queued_or_removed() {
    let world = World::start().await;
    three_titles(&world).await;
    let device = world.box_(1).await;
    let unknown = pb::AddToQueueRequest { title: vec![9; 16], ..Default::default() };
    assert_eq!(world.queue().add_to_queue(device.calls(unknown)).await.unwrap_err().code(), Code::NotFound);
    let absent = pb::RemoveFromQueueRequest { title: vec![1; 16], ..Default::default() };
    assert_eq!(world.queue().remove_from_queue(device.calls(absent)).await.unwrap_err().code(), Code::NotFound);
}
