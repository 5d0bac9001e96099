//! Becoming a member, and ceasing to be one.

use daemon::exit::Failure;
use swarm_proto::membership::DeviceKind;
use swarm_proto::pb::common::DeviceKind as PbKind;
use swarm_proto::pb::tracker as pb;
use tonic::Code;

use crate::world::{Device, World, membership, utc};

#[tokio::test]
async fn code_becomes_a_membership_once_and_for_one_device() {
    let world = World::start().await;
    let account = world.customer("Ada").await;
    let code = world.invite(&account, PbKind::Seed).await;
    let device = Device::new(1, world.id);
    let first = world.enrol(&device, &code.to_lowercase().replace('-', " ")).await.unwrap();
    assert_eq!(first.swarm_key.len(), 32);
    let again = world.enrol(&device, &code).await.unwrap();
    assert_eq!(first, again, "a lost answer is not a lost code");
    let member = membership(first, world.id);
    assert_eq!((member.device, member.account.to_vec(), member.kind), (device.id(), account, DeviceKind::Seed));
    assert!(member.is_valid_at(utc()));

    let other = Failure::from(world.enrol(&Device::new(2, world.id), &code).await.unwrap_err());
    assert_eq!(other.code, "E-ENROL-03");
}

#[tokio::test]
async fn tracker_says_who_it_is_without_being_asked_for_proof() {
    let world = World::with(&["keyserver_url=http://127.0.0.1:7002", "name=North"]).await;
    let info = world.enrolment().get_tracker(pb::GetTrackerRequest {}).await.unwrap().into_inner();
    assert_eq!(info.server, world.id.to_vec());
    assert_eq!((info.name.as_str(), info.keyserver_url.as_str()), ("North", "http://127.0.0.1:7002"));
}

#[tokio::test]
async fn enrolment_needs_the_proof_of_a_key_for_this_tracker() {
    let world = World::start().await;
    let account = world.customer("Ada").await;
    let code = world.invite(&account, PbKind::Box).await;
    let request = pb::EnrolRequest { code: code.clone(), hpke_public: vec![9; 32], device_name: "box".to_owned() };
    assert_eq!(world.enrolment().enrol(request).await.unwrap_err().code(), Code::Unauthenticated);
    let elsewhere = Device::new(1, [8; 32].into());
    assert_eq!(world.enrol(&elsewhere, &code).await.unwrap_err().code(), Code::Unauthenticated);
}

#[tokio::test]
async fn whoever_tries_many_codes_has_to_wait() {
    let world = World::start().await;
    let account = world.customer("Ada").await;
    let code = world.invite(&account, PbKind::Box).await;
    let mut generator = <rand_chacha::ChaCha20Rng as rand_chacha::rand_core::SeedableRng>::from_seed([1; 32]);
    let mut guess = || swarm_proto::code::EnrolCode::generate(&mut generator).reveal().to_string();
    let device = Device::new(1, world.id);
    for _ in 0..20 {
        let refused = Failure::from(world.enrol(&device, &guess()).await.unwrap_err());
        assert_eq!(refused.code, "E-ENROL-01");
    }
    assert_eq!(world.enrol(&device, &guess()).await.unwrap_err().code(), Code::ResourceExhausted);
    assert_eq!(world.enrol(&device, &code).await.unwrap_err().code(), Code::ResourceExhausted);
}

#[tokio::test]
async fn revoked_device_loses_its_stream_and_its_rights_at_once() {
    let world = World::start().await;
    world.title(1).await;
    let device = world.box_(1).await;
    let mut attending = device.attend(&world, Vec::new()).await;
    let request = pb::RevokeDeviceRequest { device: device.id().to_vec() };
    let revoked = world.operator().revoke_device(request).await.unwrap().into_inner();
    assert!(revoked.revoked && !revoked.online);
    assert_eq!(attending.end().await.code(), Code::Unauthenticated);
    assert_eq!(device.ask(&world, 1).await.unwrap_err().code(), Code::Unauthenticated);
    assert_eq!(device.open(&world).await.err().unwrap().code(), Code::Unauthenticated);
    let get = device.calls(pb::GetQueueRequest::default());
    assert_eq!(world.queue().get_queue(get).await.unwrap_err().code(), Code::Unauthenticated);
}

#[tokio::test]
async fn nothing_is_scheduled_for_a_suspended_customer() {
    let world = World::start().await;
    world.title(1).await;
    let account = world.customer("Ada").await;
    let device = world.device_of(1, &account, PbKind::Box).await;
    let set = async |status: pb::CustomerStatus| {
        let request = pb::SetCustomerStatusRequest { account: account.clone(), status: status.into() };
        world.operator().set_customer_status(request).await.unwrap();
    };
    set(pb::CustomerStatus::Suspended).await;
    let refused = Failure::from(device.ask(&world, 1).await.unwrap_err());
    assert_eq!(refused.code, "E-CUSTOMER-03");
    set(pb::CustomerStatus::Active).await;
    device.ask(&world, 1).await.unwrap();
}

#[tokio::test]
async fn operators_calls_are_not_for_devices() {
    let world = World::start().await;
    let device = world.box_(1).await;
    let mut operator = pb::operator_client::OperatorClient::connect(world.url.clone()).await.unwrap();
    let request = || pb::AddCustomerRequest { name: "Eve".to_owned(), ..Default::default() };
    assert_eq!(operator.add_customer(device.calls(request())).await.unwrap_err().code(), Code::PermissionDenied);
    assert_eq!(operator.add_customer(request()).await.unwrap_err().code(), Code::Unauthenticated);
}
