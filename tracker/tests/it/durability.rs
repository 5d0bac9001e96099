//! What has been acknowledged is there after `kill -9`.

use swarm_proto::pb::common::DeviceKind as PbKind;
use swarm_proto::pb::tracker as pb;
use swarm_proto::pb::tracker::report::Report;
use tonic::Code;

use crate::world::{SOON, World, copy, entry, holding, membership, sources};

#[tokio::test]
async fn acknowledged_changes_survive_kill_9() {
    let mut world = World::start().await;
    world.title(1).await;
    world.publish(&entry(2, 1)).await.unwrap();
    let hide = pb::SetTitleHiddenRequest { title: vec![2; 16], hidden: true };
    world.operator().set_title_hidden(hide).await.unwrap();
    let account = world.customer("Ada").await;
    let device = world.device_of(1, &account, PbKind::Box).await;
    let revoked = world.device_of(2, &account, PbKind::Box).await;
    world.operator().revoke_device(pb::RevokeDeviceRequest { device: revoked.id().to_vec() }).await.unwrap();
    let open_code = world.invite(&account, PbKind::Box).await;
    let other = world.customer("Bob").await;
    let suspend = pb::SetCustomerStatusRequest { account: other.clone(), status: pb::CustomerStatus::Suspended.into() };
    world.operator().set_customer_status(suspend).await.unwrap();
    let add = pb::AddToQueueRequest { title: vec![1; 16], ..Default::default() };
    let queue = world.queue().add_to_queue(device.calls(add)).await.unwrap().into_inner();
    let id = world.id;

    world.kill_and_start_again().await;

    assert_eq!(world.id, id, "the tracker is who it was");
    assert!(world.publish(&entry(1, 1)).await.unwrap().already, "the publisher and the title are known");
    let get = device.calls(pb::GetQueueRequest::default());
    assert_eq!(world.queue().get_queue(get).await.unwrap().into_inner(), queue);
    let page = pb::ListTitlesRequest { page_size: 10, page_token: Vec::new() };
    let titles = world.operators_catalog().list_titles(page).await.unwrap().into_inner().titles;
    assert_eq!(titles.iter().map(|it| (it.catalog_version, it.hidden)).collect::<Vec<_>>(), [(3, true), (1, false)]);
    assert_eq!(revoked.ask(&world, 1).await.unwrap_err().code(), Code::Unauthenticated);
    let page = pb::ListCustomersRequest { page_size: 10, page_token: Vec::new() };
    let customers = world.operator().list_customers(page).await.unwrap().into_inner().customers;
    let bob = customers.iter().find(|it| it.account == other).unwrap();
    assert_eq!(bob.status(), pb::CustomerStatus::Suspended);
    let newcomer = crate::world::Device::new(3, world.id);
    let enrolled = world.enrol(&newcomer, &open_code).await.unwrap();
    assert_eq!(membership(enrolled, world.id).account.to_vec(), account);
}

#[tokio::test]
async fn holdings_survive_kill_9_so_that_plans_are_possible_at_once() {
    let mut world = World::start().await;
    world.title(1).await;
    let (asker, holder) = (world.box_(1).await, world.box_(2).await);
    let holding_stream = holder.attend(&world, vec![copy(1)]).await;
    let other = pb::HoldingChange { holding: Some(holding(1, &[(0, 5), (7, 3)])) };
    holding_stream.report(Report::Holding(other)).await;
    let told = async {
        loop {
            let copies = world.operator().get_copies(pb::GetCopiesRequest { item: vec![1; 32] }).await;
            if copies.is_ok_and(|it| it.into_inner().devices.first().is_some_and(|it| it.chunks == 8)) {
                break;
            }
        }
        while !world.metrics().contains("reelswarm_unwritten_records 0\n") {}
    };
    tokio::time::timeout(SOON, told).await.unwrap();
    // Holdings are written without waiting for the disk; whatever is acknowledged after them takes them along.
    world.customer("the last one").await;

    world.kill_and_start_again().await;

    assert_eq!(asker.ask(&world, 1).await.unwrap().waiting, "every source that holds it is offline");
    let copies = world.operator().get_copies(pb::GetCopiesRequest { item: vec![1; 32] }).await.unwrap().into_inner();
    assert_eq!(copies.devices[0].chunks, 8);
    let _holder = holder.attend(&world, vec![holding(1, &[(0, 5), (7, 3)])]).await;
    assert_eq!(sources(&asker.ask(&world, 1).await.unwrap()), [holder.id().to_vec()]);
}

#[tokio::test(flavor = "multi_thread")]
async fn tracker_that_is_asked_to_stop_tells_its_devices_and_writes_everything() {
    let mut world = World::start().await;
    world.title(1).await;
    let (asker, holder) = (world.box_(1).await, world.box_(2).await);
    let mut attending = holder.attend(&world, vec![copy(1)]).await;
    let watch = asker.calls(pb::WatchCatalogRequest { after_version: 1 });
    let mut changes = world.catalog().watch_catalog(watch).await.unwrap().into_inner();

    let begun = std::time::Instant::now();
    assert_eq!(tokio::task::block_in_place(|| world.terminate()), Some(143));
    assert!(begun.elapsed() < SOON, "open streams do not keep it from stopping");
    assert_eq!(attending.end().await.code(), Code::Unavailable);
    assert_eq!(changes.message().await.unwrap_err().code(), Code::Unavailable);

    world.kill_and_start_again().await;
    assert_eq!(asker.ask(&world, 1).await.unwrap().waiting, "every source that holds it is offline");
}
