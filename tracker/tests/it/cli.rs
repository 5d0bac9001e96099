//! The commands, as a person or a script types them, and the page, as a browser gets it.

use std::process::Command;

use serde_json::Value;
use swarm_proto::catalog::CatalogEntry;
use swarm_proto::pb::common::DeviceKind as PbKind;
use swarm_proto::pb::tracker as pb;

use crate::world::{Device, World, copy, entry, publisher};

/// Runs a command on another thread, so that the connections of the test go on meanwhile.
async fn lines(world: &World, args: &[&str]) -> Vec<Value> {
    let args: Vec<&str> = args.iter().copied().chain(["--json"]).collect();
    let output = tokio::task::block_in_place(|| world.command(&args));
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

async fn line(world: &World, args: &[&str]) -> Value {
    let mut lines = lines(world, args).await;
    assert_eq!(lines.len(), 1, "{args:?}: {lines:?}");
    lines.remove(0)
}

/// The exit code of a command and the error it prints.
async fn refused(world: &World, args: &[&str]) -> (i32, Value) {
    let args: Vec<&str> = args.iter().copied().chain(["--json"]).collect();
    let output = tokio::task::block_in_place(|| world.command(&args));
    let error = serde_json::from_slice(&output.stderr).unwrap_or(Value::Null);
    (output.status.code().unwrap(), error)
}

#[tokio::test(flavor = "multi_thread")]
async fn operator_does_everything_by_command() {
    let world = World::start().await;
    let added = line(&world, &["customer", "add", "Ada Example"]).await;
    let invited = line(&world, &["device", "invite", "Ada Example", "--kind", "seed", "--valid", "1h"]).await;
    let device = Device::new(1, world.id);
    world.enrol(&device, invited["code"].as_str().unwrap()).await.unwrap();
    let publisher = publisher().publisher_id().to_string();
    assert_eq!(line(&world, &["publisher", "add", &publisher, "--name", "Studio"]).await["already"], false);
    world.publish(&entry(1, 1)).await.unwrap();
    let _attending = device.attend(&world, vec![copy(1)]).await;

    let customers = lines(&world, &["customer", "ls"]).await;
    assert_eq!((&customers[0]["account"], &customers[0]["devices"]), (&added["account"], &Value::from(1)));
    let devices = lines(&world, &["device", "ls", "Ada Example"]).await;
    assert_eq!(devices[0]["device"], device.id().to_string());
    assert_eq!((&devices[0]["kind"], &devices[0]["state"]), (&"seed".into(), &"online".into()));
    assert_eq!(devices[0]["copies"], 1);
    let titles = lines(&world, &["title", "ls"]).await;
    assert_eq!((&titles[0]["name"], &titles[0]["hidden"]), (&"Title 1".into(), &false.into()));
    assert_eq!(lines(&world, &["copies", "Title 1"]).await[0]["chunks"], 24);
    assert_eq!(line(&world, &["offload"]).await["from_boxes_bytes"], 0);
    assert_eq!(lines(&world, &["queue", "add", "Ada Example", "Title 1"]).await[0]["name"], "Title 1");
    assert_eq!(lines(&world, &["queue", "ls", "Ada Example"]).await.len(), 1);
    assert!(lines(&world, &["queue", "rm", "Ada Example", "Title 1"]).await.is_empty());
    assert_eq!(line(&world, &["title", "hide", "Title 1"]).await["hidden"], true);
    assert_eq!(line(&world, &["title", "show", "Title 1"]).await["hidden"], false);
    assert_eq!(line(&world, &["customer", "suspend", "Ada Example"]).await["status"], "suspended");
    assert_eq!(line(&world, &["customer", "activate", "Ada Example"]).await["status"], "active");
    let revoked = line(&world, &["device", "revoke", &device.id().to_string()]).await;
    assert_eq!(revoked["state"], "revoked");
    assert_eq!(line(&world, &["id"]).await["id"], world.id.to_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn people_get_tables() {
    let world = World::start().await;
    let account = world.customer("Ada").await;
    world.device_of(1, &account, PbKind::Box).await;
    let output = tokio::task::block_in_place(|| world.command(&["device", "ls"]));
    let text = String::from_utf8(output.stdout).unwrap();
    let headings: Vec<&str> = text.lines().next().unwrap().split_whitespace().collect();
    assert_eq!(headings, ["DEVICE", "NAME", "KIND", "SITE", "STATE", "COPIES", "PARTIAL", "LAST", "SEEN"]);
    assert!(text.contains("box 1") && text.contains("offline"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_failure_has_its_exit_code() {
    let world = World::start().await;
    let code = async |args: &[&str]| refused(&world, args).await.0;
    assert_eq!(code(&["customer", "suspend", "Nobody"]).await, 4);
    assert_eq!(code(&["title", "hide", "Nothing"]).await, 4);
    assert_eq!(code(&["device", "revoke", "nonsense"]).await, 2);
    assert_eq!(code(&["config", "check", "/nowhere/tracker.toml"]).await, 3);
    world.customer("Ada").await;
    let (exit, error) = refused(&world, &["customer", "add", "Ada"]).await;
    assert_eq!((exit, &error["error"]["code"]), (10, &"E-CUSTOMER-02".into()));
    let (exit, error) = refused(&world, &["run", "--set", "server.listen=127.0.0.1:0"]).await;
    assert_eq!(exit, 10, "{error}");
    assert!(error["error"]["message"].as_str().unwrap().contains("already running"), "{error}");
}

#[test]
fn command_without_a_tracker_says_that_none_runs() {
    let folder = tempfile::tempdir().unwrap();
    let program = |args: &[&str]| {
        Command::new(env!("CARGO_BIN_EXE_tracker"))
            .args(args)
            .arg("--data")
            .arg(folder.path().join("data"))
            .output()
            .unwrap()
    };
    let made = program(&["id"]);
    assert!(made.status.success());
    assert_eq!(program(&["id"]).stdout, made.stdout, "an id is made once");
    let failed = program(&["customer", "ls"]);
    assert_eq!(failed.status.code(), Some(6));
    assert!(String::from_utf8_lossy(&failed.stderr).contains("no daemon runs"));
}

#[tokio::test(flavor = "multi_thread")]
async fn page_shows_the_catalog_as_text() {
    let world = World::start().await;
    world.title(1).await;
    let name = "<script>alert(1)</script>".to_owned();
    world.publish(&CatalogEntry { name, ..entry(2, 1) }).await.unwrap();
    let device = world.box_(1).await;
    let _attending = device.attend(&world, vec![copy(1)]).await;
    let page = tokio::task::block_in_place(|| world.get("/"));
    assert!(page.starts_with("HTTP/1.1 200") && page.contains("content-security-policy: default-src 'none'"), "{page}");
    assert!(page.contains("Title 1") && page.contains("25.2 MB"), "{page}");
    assert!(page.contains("&lt;script&gt;") && !page.contains("<script>"), "{page}");
    let style = tokio::task::block_in_place(|| world.get("/style.css"));
    assert!(style.contains("content-type: text/css"), "{style}");
    assert!(world.operator().get_traffic(pb::GetTrafficRequest {}).await.is_ok());
}
