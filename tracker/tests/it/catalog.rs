//! Publishing, reading and following the catalog.

use daemon::exit::Failure;
use futures::StreamExt as _;
use swarm_proto::catalog::CatalogEntry;
use swarm_proto::pb::tracker as pb;
use swarm_proto::pb::tracker::get_title_request::By;
use swarm_proto::signed::Signed;
use tonic::Code;

use crate::world::{World, entry, publisher};

fn names(page: &pb::ListTitlesResponse) -> Vec<String> {
    let name = |title: &pb::Title| {
        let signed: Signed<CatalogEntry> = title.entry.clone().unwrap().try_into().unwrap();
        signed.verify(&publisher().publisher_id()).unwrap().name
    };
    page.titles.iter().map(name).collect()
}

#[tokio::test]
async fn published_entry_is_found_by_id_item_and_name_and_is_the_publishers_own() {
    let world = World::start().await;
    let entry = world.title(1).await;
    let device = world.box_(1).await;
    for by in [By::Title(vec![1; 16]), By::Item(vec![1; 32]), By::Name("Title 1".to_owned())] {
        let request = device.calls(pb::GetTitleRequest { by: Some(by) });
        let title = world.catalog().get_title(request).await.unwrap().into_inner();
        let signed: Signed<CatalogEntry> = title.entry.unwrap().try_into().unwrap();
        assert_eq!(signed.verify(&publisher().publisher_id()).unwrap(), entry);
    }
}

#[tokio::test]
async fn publisher_that_was_not_admitted_is_named_and_refused() {
    let world = World::start().await;
    let refused = Failure::from(world.publish(&entry(1, 1)).await.unwrap_err());
    assert_eq!(refused.code, "E-PUBLISH-01");
    assert!(refused.why.unwrap().contains(&publisher().publisher_id().to_string()));
}

#[tokio::test]
async fn same_version_again_is_fine_and_a_lower_one_is_not() {
    let world = World::start().await;
    world.admit_publisher().await;
    assert!(!world.publish(&entry(1, 2)).await.unwrap().already);
    assert!(world.publish(&entry(1, 2)).await.unwrap().already);
    assert_eq!(world.publish(&entry(1, 1)).await.unwrap_err().code(), Code::FailedPrecondition);
    let other = CatalogEntry { name: "Another".to_owned(), ..entry(1, 2) };
    assert_eq!(world.publish(&other).await.unwrap_err().code(), Code::AlreadyExists);
}

#[tokio::test]
async fn forged_entry_is_refused() {
    let world = World::start().await;
    world.admit_publisher().await;
    let mut signed: swarm_proto::pb::common::Signed = Signed::sign(&publisher(), &entry(1, 1)).unwrap().into();
    signed.signature[0] ^= 1;
    let refused = world.catalog().publish(pb::PublishRequest { entry: Some(signed) }).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(refused.message().contains("entry.signature"), "{refused}");
}

#[tokio::test]
async fn catalog_comes_in_pages_newest_first() {
    let world = World::start().await;
    world.admit_publisher().await;
    for n in 1..=5 {
        world.publish(&entry(n, 1)).await.unwrap();
    }
    let mut all = Vec::new();
    let mut page_token = Vec::new();
    loop {
        let request = pb::ListTitlesRequest { page_size: 2, page_token };
        let page = world.operators_catalog().list_titles(request).await.unwrap().into_inner();
        all.extend(names(&page));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    assert_eq!(all, ["Title 5", "Title 4", "Title 3", "Title 2", "Title 1"]);
    let refused = world.operators_catalog().list_titles(pb::ListTitlesRequest::default()).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
}

#[tokio::test]
async fn search_finds_every_word_wherever_it_stands() {
    let world = World::start().await;
    world.title(1).await;
    world.publish(&CatalogEntry { description: "Nothing".to_owned(), ..entry(2, 1) }).await.unwrap();
    let search = async |query: &str| {
        let request = pb::SearchTitlesRequest { query: query.to_owned(), page_size: 10, page_token: Vec::new() };
        names(&world.operators_catalog().search_titles(request).await.unwrap().into_inner())
    };
    assert_eq!(search("DAWN title").await, ["Title 1"]);
    assert_eq!(search("title").await, ["Title 2", "Title 1"]);
}

#[tokio::test]
async fn watcher_gets_what_it_missed_and_then_each_change() {
    let world = World::start().await;
    world.title(1).await;
    world.publish(&entry(2, 1)).await.unwrap();
    let device = world.box_(1).await;
    let request = device.calls(pb::WatchCatalogRequest { after_version: 1 });
    let mut changes = world.catalog().watch_catalog(request).await.unwrap().into_inner();
    assert_eq!(changes.next().await.unwrap().unwrap().catalog_version, 2);

    world.publish(&entry(1, 2)).await.unwrap();
    assert_eq!(changes.next().await.unwrap().unwrap().catalog_version, 3);
    let hide = pb::SetTitleHiddenRequest { title: vec![2; 16], hidden: true };
    world.operator().set_title_hidden(hide).await.unwrap();
    let change = changes.next().await.unwrap().unwrap();
    assert!(change.title.unwrap().hidden);
}

#[tokio::test]
async fn hidden_title_is_the_operators_alone() {
    let world = World::start().await;
    world.title(1).await;
    let device = world.box_(1).await;
    let hide = pb::SetTitleHiddenRequest { title: vec![1; 16], hidden: true };
    world.operator().set_title_hidden(hide).await.unwrap();
    let by = || pb::GetTitleRequest { by: Some(By::Title(vec![1; 16])) };
    assert_eq!(world.catalog().get_title(device.calls(by())).await.unwrap_err().code(), Code::NotFound);
    assert!(world.operators_catalog().get_title(by()).await.unwrap().into_inner().hidden);
    assert_eq!(device.ask(&world, 1).await.unwrap_err().code(), Code::PermissionDenied);
}

#[tokio::test]
async fn catalog_is_not_for_strangers() {
    let world = World::start().await;
    world.title(1).await;
    let stranger = crate::world::Device::new(77, world.id);
    let request = || pb::ListTitlesRequest { page_size: 1, page_token: Vec::new() };
    assert_eq!(world.catalog().list_titles(request()).await.unwrap_err().code(), Code::Unauthenticated);
    let refused = world.catalog().list_titles(stranger.calls(request())).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
}
