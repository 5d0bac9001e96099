//! The operator's commands, and those who are not the operator.

use std::process::Command;

use daemon::token::{self, OperatorToken};
use serde_json::Value;
use swarm_proto::id::OrderId;
use swarm_proto::pb::keyserver as pb;
use swarm_proto::pb::keyserver::operator_client::OperatorClient;
use tonic::Code;

use crate::world::{World, reason};

#[tokio::test]
async fn operator_admits_publishers_lists_and_refunds_orders() {
    let world = World::new();
    let keyserver = world.home.start();
    let newcomer = "11".repeat(32);
    assert_eq!(world.home.ask(&["publisher", "add", &newcomer, "--name", "Acme"])["already"], false);
    assert_eq!(world.home.ask(&["publisher", "add", &newcomer, "--name", "Acme"])["already"], true);
    assert_eq!(world.home.ask(&["id"])["id"], keyserver.id.as_str());

    world.deposit(&keyserver).await.expect("deposited");
    let viewer = world.household();
    let shop = viewer.shop(&keyserver).await;
    for n in 0..3 {
        shop.order(&format!("purchase-number-{n}-of-3"), world.film.item, "rent").await.expect("ordered");
    }
    let listed = world.home.ask(&["order", "ls", "--limit", "2"]);
    let listed = listed.as_array().expect("a list");
    assert_eq!(listed.len(), 2);
    assert_eq!((listed[0]["state"].as_str(), listed[0]["amount_minor"].as_u64()), (Some("pending"), Some(299)));
    let order = listed[0]["order"].as_str().expect("an id");
    assert_eq!(world.home.ask(&["order", "refund", order, "--reason", "a mistake"])["state"], "refunded");
    let nobodys = OrderId::from([0; 16]).to_string();
    let unknown = world.home.command(&["order", "refund", &nobodys, "--reason", "a mistake"]);
    assert_eq!(unknown.status.code(), Some(4));
}

#[tokio::test]
async fn without_the_token_nobody_is_the_operator() {
    let (world, other) = (World::new(), World::new());
    let (keyserver, _elsewhere) = (world.home.start(), other.home.start());
    let request = || pb::CreatePassRequest { credits: 1, valid_ms: 1000 };
    let bare = OperatorClient::new(keyserver.channel().await).create_pass(request()).await.expect_err("no token");
    let token = OperatorToken::read(&other.home.file(token::FILE)).expect("a token");
    let mut foreign = OperatorClient::with_interceptor(keyserver.channel().await, token.bearer());
    let foreign = foreign.create_pass(request()).await.expect_err("another token");
    for refused in [bare, foreign] {
        assert_eq!((refused.code(), reason(&refused).as_str()), (Code::Unauthenticated, "E-TOKEN-01"));
    }
    let token = OperatorToken::read(&world.home.file(token::FILE)).expect("a token");
    let mut operator = OperatorClient::with_interceptor(keyserver.channel().await, token.bearer());
    for (credits, valid_ms) in [(0, 1000), (10_001, 1000), (1, 0), (1, u64::MAX)] {
        let refused =
            operator.create_pass(pb::CreatePassRequest { credits, valid_ms }).await.expect_err("out of bounds");
        assert_eq!(refused.code(), Code::InvalidArgument);
    }
}

#[test]
fn commands_say_what_to_do_when_no_keyserver_runs() {
    let world = World::new();
    drop(world.home.start());
    let output = world.home.command(&["pass", "create", "--credits", "1", "--valid", "1d"]);
    assert_eq!(output.status.code(), Some(6));
    let error: Value = serde_json::from_slice(&output.stderr).expect("JSON");
    assert!(error["error"]["hint"].as_str().is_some_and(|hint| hint.contains("run")), "{error}");
}

#[test]
fn second_start_on_one_folder_and_settings_without_sense_are_refused() {
    let world = World::new();
    let _first = world.home.start();
    assert_eq!(world.home.try_start().err(), Some(10));
    let wrong = World::with(&["orders.devices_per_order=0"]);
    assert_eq!(wrong.home.try_start().err(), Some(3));
    let exposed = World::with(&["server.insecure=false"]);
    let mut command = Command::new(env!("CARGO_BIN_EXE_keyserver"));
    let output =
        command.args(["run", "--listen", "0.0.0.0:0", "--data"]).arg(exposed.home.data()).output().expect("it runs");
    assert_eq!(output.status.code(), Some(3), "plain on every address is refused");
}

#[test]
fn completions_and_configuration_are_printed() {
    let run = |args: &[&str]| Command::new(env!("CARGO_BIN_EXE_keyserver")).args(args).output().expect("it runs");
    assert!(String::from_utf8_lossy(&run(&["completions", "bash"]).stdout).contains("keyserver"));
    assert!(String::from_utf8_lossy(&run(&["config", "init"]).stdout).contains("trusted_trackers"));
    assert_eq!(run(&["pass"]).status.code(), Some(2));
}
