//! The program as a person meets it: real processes, their output and how they end.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use crate::fake_tracker::{CODE, FakeTracker, entry};

/// Long enough for the slowest machine, never waited for on a good one.
const SOON: Duration = Duration::from_secs(30);

/// An address at which nobody answers: the discard port of this machine.
const NOBODY: &str = "http://127.0.0.1:9";

/// A data folder, and what runs on it.
struct Box {
    outer: TempDir,
}

impl Box {
    fn new() -> Box {
        Box { outer: tempfile::tempdir().unwrap() }
    }

    fn data(&self) -> PathBuf {
        self.outer.path().join("data")
    }

    /// What the device that runs here has written to stderr.
    fn log(&self) -> PathBuf {
        self.outer.path().join("log")
    }

    /// The program with nothing of this machine's user in its way.
    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_peer-node"));
        command
            .arg("--data")
            .arg(self.data())
            .args(args)
            .env_clear()
            .env("HOME", self.outer.path())
            .env("NO_COLOR", "1");
        command
    }

    fn ask(&self, args: &[&str]) -> Output {
        self.command(args).stdin(Stdio::null()).output().unwrap()
    }

    fn json(&self, args: &[&str]) -> Value {
        let output = self.ask(&[&["--json"], args].concat());
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    fn run(&self, args: &[&str]) -> Running {
        let ports = [
            "--json",
            "run",
            "--listen",
            "127.0.0.1:0",
            "--swarm-listen",
            "/ip4/127.0.0.1/tcp/0",
            "--set",
            "tracker.retry_max=50ms",
        ];
        let log = std::fs::File::create(self.log()).unwrap();
        let mut child = self.command(&[&ports, args].concat()).stdout(Stdio::piped()).stderr(log).spawn().unwrap();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        out.read_line(&mut line).unwrap();
        assert!(!line.is_empty(), "it did not start: {}", std::fs::read_to_string(self.log()).unwrap());
        Running { child, ready: serde_json::from_str(&line).unwrap() }
    }

    /// Asks for the status until it is so.
    fn until(&self, mut so: impl FnMut(&Value) -> bool) -> Value {
        let deadline = Instant::now() + SOON;
        loop {
            let status = self.json(&["status"]);
            if so(&status) {
                return status;
            }
            assert!(Instant::now() < deadline, "it did not become so: {status}");
        }
    }
}

/// A device that runs; it is killed when it goes out of scope.
struct Running {
    child: Child,
    ready: Value,
}

impl Running {
    fn url(&self) -> &str {
        self.ready["url"].as_str().unwrap()
    }

    fn signal(&self, signal: &str) {
        assert!(Command::new("kill").arg(signal).arg(self.child.id().to_string()).status().unwrap().success());
    }

    fn ended(&mut self) -> ExitStatus {
        self.child.wait().unwrap()
    }

    /// The body of a page, by plain HTTP.
    fn get(&self, path: &str) -> String {
        let address = self.url().strip_prefix("http://").unwrap();
        let mut stream = std::net::TcpStream::connect(address).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[track_caller]
fn assert_fails(output: &Output, exit: i32, says: &[&str]) {
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(exit), "{text}");
    for part in says {
        assert!(text.contains(part), "no {part:?} in {text}");
    }
}

#[test]
fn device_without_network_runs_says_so_and_stops_cleanly() {
    let this = Box::new();
    let mut running = this.run(&["--tracker", NOBODY]);
    assert_eq!(running.ready["ready"], "peer-node");
    let status = this.json(&["status"]);
    assert_eq!((&status["enrolled"], &status["tracker"]["up"]), (&Value::Bool(false), &Value::Bool(false)));
    assert_eq!(status["device"], running.ready["id"]);
    assert!(running.get("/livez").starts_with("HTTP/1.1 200"));
    let metrics = running.get("/metrics");
    assert!(
        metrics.contains("reelswarm_tracker_up 0") && metrics.contains("reelswarm_uploaded_bytes_total 0"),
        "{metrics}"
    );
    let page = running.get("/tv");
    assert!(page.starts_with("HTTP/1.1 200") && page.contains("not enrolled"), "{page}");
    assert!(running.get("/tv/style.css").contains("text/css"));

    running.signal("-TERM");
    assert_eq!(running.ended().code(), Some(143));
    assert_fails(&this.ask(&["status"]), 6, &["no device runs", "peer-node run"]);
}

#[test]
fn killed_device_starts_again_as_itself() {
    let this = Box::new();
    let mut first = this.run(&["--tracker", NOBODY]);
    first.signal("-KILL");
    assert_eq!(first.ended().signal(), Some(9));
    assert_eq!(this.run(&["--tracker", NOBODY]).ready["id"], first.ready["id"]);
}

#[test]
fn second_start_on_one_data_folder_names_the_first() {
    let this = Box::new();
    let first = this.run(&["--tracker", NOBODY]);
    let second = this.ask(&["run", "--listen", "127.0.0.1:0", "--swarm-listen", "/ip4/127.0.0.1/tcp/0"]);
    assert_fails(&second, 10, &[&format!("already running (pid {})", first.child.id()), "--data"]);
}

#[test]
fn taken_port_is_named_and_nothing_is_left_running() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let this = Box::new();
    let output = this.ask(&["run", "--listen", &format!("127.0.0.1:{port}")]);
    assert_fails(&output, 10, &[&format!("port {port} is taken"), "server.listen"]);
    let output = this.ask(&["run", "--listen", "127.0.0.1:0", "--swarm-listen", &format!("/ip4/127.0.0.1/tcp/{port}")]);
    assert_fails(&output, 10, &[&port]);
}

#[test]
fn folder_that_everyone_can_enter_is_refused_with_the_command_that_helps() {
    let this = Box::new();
    std::fs::create_dir(this.data()).unwrap();
    std::fs::set_permissions(this.data(), std::fs::Permissions::from_mode(0o777)).unwrap();
    assert_fails(&this.ask(&["run"]), 5, &["0777", "chmod 700"]);
}

#[test]
fn mistakes_in_the_configuration_are_named_before_anything_starts() {
    let this = Box::new();
    let file = this.outer.path().join("box.toml");
    let with = |text: &str| {
        std::fs::write(&file, text).unwrap();
        this.ask(&["run", "--config", file.to_str().unwrap()])
    };
    assert_fails(&with("[uploads]\nslotz = 3\n"), 3, &["slotz", "did you mean slots?", "line 2"]);
    assert_fails(&with("[server]\nlisten = \"0.0.0.0:7101\"\n"), 3, &["server.listen", "127.0.0.1"]);
    assert_fails(&with("[tracker]\nretry_max = 30\n"), 3, &["30s"]);
    assert_fails(&this.ask(&["run", "--set", "name=a", "--name", "b"]), 3, &["two values for name"]);
    assert!(!this.data().exists(), "nothing was made");
}

#[test]
fn box_enrols_before_its_first_run_and_again_while_it_runs() {
    let tracker = FakeTracker::new(1);
    let serving = tracker.serve("127.0.0.1:0");
    let this = Box::new();
    let answer = this.json(&["enrol", CODE, "--tracker", &serving.url(), "--name", "Living room"]);
    assert_eq!((&answer["enrolled"], &answer["site"]), (&Value::Bool(true), &Value::from("north")));
    assert_eq!(answer["tracker"], tracker.key().server_id().to_string());

    let running = this.run(&[]);
    assert_eq!(answer["device"], running.ready["id"]);
    let status = this.until(|status| status["tracker"]["up"] == true);
    assert_eq!((&status["kind"], &status["tracker"]["url"]), (&Value::from("box"), &Value::from(serving.url())));
    assert_eq!(this.json(&["enrol", CODE])["device"], answer["device"]);
}

#[test]
fn code_that_is_not_good_is_refused_and_leaves_the_device_as_it_was() {
    let tracker = FakeTracker::new(1);
    let serving = tracker.serve("127.0.0.1:0");
    let this = Box::new();
    assert_fails(&this.ask(&["enrol", "7KQ2", "--tracker", &serving.url()]), 2, &["not an enrolment code", "try:"]);
    assert_fails(&this.ask(&["enrol", "AAAA-AAAA", "--tracker", NOBODY]), 2, &["not an enrolment code"]);
    let other = swarm_proto::code::EnrolCode::generate(&mut rand::rand_core::UnwrapErr(rand::rngs::SysRng)).reveal();
    assert_fails(&this.ask(&["enrol", &other, "--tracker", &serving.url()]), 5, &["this code is not good"]);
    assert_fails(&this.ask(&["enrol", &other, "--tracker", NOBODY]), 6, &[NOBODY]);
    assert_fails(
        &this.ask(&["run", "--enrol", &other, "--listen", "127.0.0.1:0", "--tracker", &serving.url()]),
        5,
        &["failed to enrol"],
    );
    assert!(!this.data().join("enrolment.json").exists());
}

#[test]
fn titles_are_found_queued_moved_and_taken_out() {
    let tracker = FakeTracker::new(1);
    let serving = tracker.serve("127.0.0.1:0");
    for name in ["Harbour at dawn", "Atlas"] {
        tracker.publish(&entry(name, 1, 3));
    }
    let this = Box::new();
    let _running = this.run(&["--enrol", CODE, "--tracker", &serving.url()]);
    this.until(|status| status["tracker"]["up"] == true);
    let names = |queue: &Value| {
        queue["titles"]
            .as_array()
            .unwrap()
            .iter()
            .map(|title| title["name"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };

    this.json(&["queue", "add", "harbour"]);
    let queue = this.json(&["queue", "add", "atl", "--first"]);
    assert_eq!(names(&queue), ["Atlas", "Harbour at dawn"]);
    assert_eq!(queue["titles"][0]["state"], "waiting");
    assert_eq!(names(&this.json(&["queue", "mv", "atlas", "2"])), ["Harbour at dawn", "Atlas"]);
    assert_eq!(this.json(&["get", "atlas", "--no-wait"])["state"], "waiting");
    assert_eq!(
        names(&this.json(&["queue", "rm", "harbour", "--delete"]))
            .iter()
            .filter(|name| name.starts_with("Harbour"))
            .count(),
        0
    );
    assert_fails(&this.ask(&["get", "Reef"]), 4, &["no title is called \"Reef\"", "catalog search"]);
    assert_fails(&this.ask(&["play", "atlas"]), 8, &["not been paid for", "peer-node pay"]);
    let mut watcher = this.command(&["--json", "status", "atlas", "--watch"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(watcher.stdout.take().unwrap()).lines();
    for _ in 0..2 {
        let status: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
        assert_eq!(
            (names(&status), &status["titles"][0]["state"]),
            (vec!["Atlas".to_owned()], &Value::from("waiting"))
        );
    }
    watcher.kill().unwrap();
    watcher.wait().unwrap();
    let found = this.ask(&["catalog", "search", "DAWN"]);
    assert!(String::from_utf8_lossy(&found.stdout).contains("Harbour at dawn"));

    drop(serving);
    this.until(|status| status["tracker"]["up"] == false);
    assert_fails(&this.ask(&["queue", "add", "harbour"]), 6, &["cannot be reached"]);
    assert_eq!(
        names(&this.json(&["queue", "ls"])).first().map(String::as_str),
        Some("Atlas"),
        "the last known queue stays"
    );
}

#[test]
fn what_was_known_is_known_after_a_restart_without_the_tracker() {
    let tracker = FakeTracker::new(1);
    let serving = tracker.serve("127.0.0.1:0");
    tracker.publish(&entry("Atlas", 1, 3));
    let this = Box::new();
    let running = this.run(&["--enrol", CODE, "--tracker", &serving.url()]);
    this.until(|status| status["tracker"]["up"] == true);
    this.json(&["queue", "add", "atlas"]);
    running.signal("-KILL");
    drop(running);
    drop(serving);

    let _again = this.run(&[]);
    let queue = this.json(&["queue", "ls"]);
    assert_eq!(
        (&queue["titles"][0]["name"], &queue["titles"][0]["state"]),
        (&Value::from("Atlas"), &Value::from("waiting"))
    );
}

#[test]
fn nobody_without_the_token_commands_a_device() {
    let this = Box::new();
    let running = this.run(&["--tracker", NOBODY]);
    let token = this.data().join("operator.token");
    let other = Box::new();
    let _other_running = other.run(&["--tracker", NOBODY]);
    std::fs::copy(other.data().join("operator.token"), &token).unwrap();
    assert_fails(&this.ask(&["status"]), 5, &["this is for the operator"]);
    assert!(running.get("/livez").starts_with("HTTP/1.1 200"));
}

#[test]
fn secrets_are_private_files_and_not_in_the_log() {
    let tracker = FakeTracker::new(1);
    let serving = tracker.serve("127.0.0.1:0");
    let this = Box::new();
    let mut running = this.run(&["--enrol", CODE, "--tracker", &serving.url(), "--log-level", "trace"]);
    this.until(|status| status["tracker"]["up"] == true);
    running.signal("-TERM");
    running.ended();
    let log = std::fs::read_to_string(this.log()).unwrap();
    for name in ["device.key", "hpke.key", "operator.token", "enrolment.json"] {
        let path = this.data().join(name);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600, "{name}");
        assert!(!log.contains(&secret_text(&path)), "{name} is in the log");
    }
    assert!(!log.contains(&CODE.replace('-', "")) && !log.contains(CODE), "the code is in the log");
}

/// What of a secret file would show in a log.
fn secret_text(path: &Path) -> String {
    let bytes = std::fs::read(path).unwrap();
    match serde_json::from_slice::<Value>(&bytes) {
        Ok(enrolment) => enrolment["swarm_key"].as_str().unwrap().to_owned(),
        Err(_) if bytes.len() == 32 => data_encoding::HEXLOWER.encode(&bytes),
        Err(_) => String::from_utf8(bytes).unwrap().trim().to_owned(),
    }
}

#[test]
fn every_command_has_help_and_completions_name_them() {
    let this = Box::new();
    for command in
        ["run", "enrol", "get", "queue", "status", "catalog", "pay", "play", "publish", "publisher", "id", "config"]
    {
        let help = this.ask(&[command, "-h"]);
        assert!(help.status.success() && !help.stdout.is_empty(), "{command}");
    }
    for shell in ["bash", "zsh", "fish"] {
        let script = this.ask(&["completions", shell]);
        assert!(String::from_utf8_lossy(&script.stdout).contains("publish"), "{shell}");
    }
    assert_fails(&this.ask(&["stat"]), 2, &["stat"]);
}

#[test]
fn config_shows_where_each_value_came_from() {
    let this = Box::new();
    let output = this.ask(&["config", "show", "--origin", "--set", "name=kitchen"]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("name = \"kitchen\"  # flag --set name"), "{text}");
    assert!(this.ask(&["config", "init"]).stdout.starts_with(b"# Reelswarm peer-node"));
}
