//! Keys that a studio has made come in as a CPIX document and become the keys of items.

use std::path::PathBuf;

use swarm_proto::cpix;
use swarm_proto::pb::keyserver as pb;
use swarm_proto::pb::keyserver::deposits_client::DepositsClient;
use swarm_proto::seal::ContentKey;
use swarm_proto::signed::Signed;
use tonic::{Code, Status};

use crate::process::Process;
use crate::world::{Film, World, now};

const DOCUMENT: &str = r#"<?xml version="1.0" encoding="UTF-8"?>
<CPIX xmlns="urn:dashif:org:cpix" xmlns:pskc="urn:ietf:params:xml:ns:keyprov:pskc" version="2.3">
  <ContentKeyList>
    <ContentKey kid="40d02dd1-61a3-4787-a155-572325d47b80" commonEncryptionScheme="cenc">
      <Data><pskc:Secret><pskc:PlainValue>gPxt0PMwrHM4TdjwdQmhhQ==</pskc:PlainValue></pskc:Secret></Data>
    </ContentKey>
    <ContentKey kid="0dc3ec4f-7683-548b-81e7-3c64e582e136">
      <Data><pskc:Secret><pskc:PlainValue>WADwG2qCqkq5TVml+U5PXw==</pskc:PlainValue></pskc:Secret></Data>
    </ContentKey>
  </ContentKeyList>
</CPIX>"#;

fn written(world: &World, document: &str) -> PathBuf {
    let path = world.home.data().with_file_name("keys.cpix");
    std::fs::write(&path, document).expect("written");
    path
}

fn publisher(world: &World) -> String {
    world.publisher.publisher_id().to_string()
}

/// An item that was sealed with this key, under an entry of the world's publisher, deposited without the key.
async fn deposit_without_key(world: &World, keyserver: &Process, film: &Film) -> Result<bool, Status> {
    let entry = film.entry(world.publisher.publisher_id());
    let entry = Some(Signed::sign(&world.publisher, &entry).expect("signed").into());
    let mut deposits = DepositsClient::new(keyserver.channel().await);
    Ok(deposits.deposit_key(pb::DepositKeyRequest { entry, key: None }).await?.into_inner().already)
}

fn sealed_with(key: &ContentKey) -> Film {
    let fresh = Film::new(now());
    Film { key: key.clone(), ..fresh }
}

#[tokio::test]
async fn a_studios_key_opens_the_item_that_was_sealed_with_it_and_lies_nowhere_in_clear() {
    let world = World::new();
    let keyserver = world.home.start();
    let path = written(&world, DOCUMENT);
    let import = |more: &[&str]| {
        let (path, publisher) = (path.to_str().expect("text"), publisher(&world));
        world.home.ask(&[&["key", "import", path, "--publisher", publisher.as_str()], more].concat())
    };
    let tried = import(&["--dry-run"]);
    assert_eq!((tried[0]["already"].as_bool(), tried[0]["dry_run"].as_bool()), (Some(false), Some(true)));
    assert_eq!(world.home.records("key_imported"), 0, "nothing was taken");
    let taken = import(&[]);
    assert_eq!(taken[0]["kid"], "40d02dd1-61a3-4787-a155-572325d47b80");
    assert_eq!(import(&[])[1]["already"], true);
    assert_eq!(world.home.records("key_imported"), 2);

    let keys = cpix::read(DOCUMENT).expect("a document");
    let film = sealed_with(&keys[0].key);
    assert!(!deposit_without_key(&world, &keyserver, &film).await.expect("the key is here"));
    let viewer = world.household();
    let code = world.home.ask(&["pass", "create", "--credits", "1", "--valid", "1d"]);
    let shop = viewer.shop(&keyserver).await;
    let order = shop.order("a-film-with-a-studios-key", film.item, "rent").await.expect("ordered").order;
    shop.pay(&order, code["code"].as_str().expect("a code")).await.expect("paid");
    assert_eq!(shop.grant(&order).await.expect("granted").key.expose(), film.key.expose());

    let again = deposit_without_key(&world, &keyserver, &sealed_with(&keys[0].key)).await.expect_err("used");
    assert_eq!(again.code(), Code::AlreadyExists, "one key never seals two items: {again}");
    let unknown = deposit_without_key(&world, &keyserver, &Film::new(now())).await.expect_err("no key");
    assert_eq!(unknown.code(), Code::InvalidArgument);
    drop(shop);
    assert_eq!(keyserver.stop().await, 143);

    // The other one waits for its item through a change of the master key.
    assert_eq!(world.home.ask(&["key", "rotate", "master"])["resealed"], 3);
    let keyserver = world.home.start();
    assert!(!deposit_without_key(&world, &keyserver, &sealed_with(&keys[1].key)).await.expect("the key is here"));
    let secrets = ["gPxt0PMwrHM4TdjwdQmhhQ==", "WADwG2qCqkq5TVml+U5PXw=="];
    let secrets = secrets.map(|text| data_encoding::BASE64.decode(text.as_bytes()).expect("base64"));
    for path in world.home.files() {
        let bytes = std::fs::read(&path).expect("readable");
        for secret in secrets.iter().map(Vec::as_slice).chain(keys.iter().map(|key| key.key.expose().as_slice())) {
            assert!(!bytes.windows(secret.len()).any(|window| window == secret), "{}", path.display());
        }
    }
}

#[tokio::test]
async fn of_a_document_that_is_not_right_nothing_is_taken() {
    let world = World::new();
    let keyserver = world.home.start();
    let refused = |document: &str, publisher: &str, code: &str| {
        let path = written(&world, document);
        let output = world.home.command(&["key", "import", path.to_str().expect("text"), "--publisher", publisher]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains(code), "{said}");
        assert!(!said.contains("gPxt0PMwrHM4TdjwdQmhhQ"), "no key is ever printed: {said}");
    };
    let ours = publisher(&world);
    let external = DOCUMENT.replace("<CPIX", "<!DOCTYPE x [<!ENTITY k SYSTEM \"file:///etc/passwd\">]><CPIX");
    refused(&external, &ours, "E-CPIX-01");
    refused(&DOCUMENT.replace("PlainValue", "EncryptedValue"), &ours, "E-CPIX-01");
    refused(&DOCUMENT.replace("0dc3ec4f", "0dc3ec4"), &ours, "E-CPIX-01");
    refused(DOCUMENT, &"7".repeat(64), "E-CPIX-02");
    assert_eq!(world.home.records("key_imported"), 0);
    let path = written(&world, DOCUMENT);
    world.home.ask(&["key", "import", path.to_str().expect("text"), "--publisher", &ours]);
    refused(&DOCUMENT.replace("gPxt0PMw", "gPxt0PMx"), &ours, "E-CPIX-03");
    assert_eq!(world.home.records("key_imported"), 2);
    drop(keyserver);
}
