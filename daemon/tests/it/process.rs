//! What is left when a process ends, however it ends.
//!
//! A test that needs a second process runs this test binary again, with itself as the only test and with the folder
//! in an environment variable; there it plays the child.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use daemon::store::{Batch, Sled};
use daemon::{DataFolder, Exit, Failure, Shutdown, Store, run_main};

use super::serve::Daemon;

const FOLDER_VARIABLE: &str = "REELSWARM_TEST_FOLDER";

/// The folder, if this process is the child.
fn folder_of_child() -> Option<PathBuf> {
    std::env::var_os(FOLDER_VARIABLE).map(PathBuf::from)
}

fn child(test: &str, folder: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("the test binary has a path"));
    command.args(["--exact", test, "--nocapture"]).env(FOLDER_VARIABLE, folder);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// The lines that a child says to its parent, among those of the test harness.
fn said(child: &mut Child) -> impl Iterator<Item = String> + use<> {
    let stdout = child.stdout.take().expect("stdout is piped");
    let lines = BufReader::new(stdout).lines().map_while(Result::ok);
    lines.filter_map(|line| line.split_once("child: ").map(|(_, said)| said.to_owned()))
}

#[tokio::test]
async fn acknowledged_commits_survive_kill_9_and_no_half_commit_does() {
    if let Some(folder) = folder_of_child() {
        return commit_for_ever(&folder).await;
    }
    let folder = tempfile::tempdir().unwrap();
    let mut acknowledged = 0;
    for round in 0..3 {
        let test = "process::acknowledged_commits_survive_kill_9_and_no_half_commit_does";
        let mut child = child(test, folder.path()).spawn().unwrap();
        let last = said(&mut child).nth(20 + round * 7).expect("the child goes on committing");
        child.kill().unwrap();
        child.wait().unwrap();
        acknowledged = last.parse::<u64>().unwrap();

        let store = Sled::open(folder.path()).await.unwrap();
        let (left, right) = (number_at(&store, b"left").await, number_at(&store, b"right").await);
        assert!(left >= acknowledged, "{acknowledged} was acknowledged, {left} is there");
        assert_eq!(left, right, "half a commit is there");
    }
    assert!(acknowledged > 40, "each child went on where the one before was killed");
}

async fn commit_for_ever(folder: &Path) {
    let store = Sled::open(folder).await.expect("the store opens");
    for n in number_at(&store, b"left").await + 1.. {
        store.commit(Batch::new().put("left", n.to_string()).put("right", n.to_string())).await.expect("it commits");
        println!("child: {n}");
    }
}

async fn number_at(store: &Sled, key: &[u8]) -> u64 {
    let value = store.get(key).await.expect("the store answers");
    value.map_or(0, |found| std::str::from_utf8(&found.value).expect("text").parse().expect("a number"))
}

#[test]
fn data_folder_is_free_again_after_kill_9() {
    if let Some(folder) = folder_of_child() {
        let _held = DataFolder::open(folder).unwrap();
        println!("child: holds");
        loop {
            std::thread::park();
        }
    }
    let outer = tempfile::tempdir().unwrap();
    let folder = outer.path().join("data");
    let mut child = child("process::data_folder_is_free_again_after_kill_9", &folder).spawn().unwrap();
    assert_eq!(said(&mut child).next().as_deref(), Some("holds"));
    let refused = DataFolder::open(&folder).unwrap_err();
    assert_eq!(refused.what, format!("already running (pid {})", child.id()));
    assert_eq!(DataFolder::inspect(&folder).unwrap().daemon(), Some(child.id()));
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(DataFolder::open(&folder).is_ok());
}

#[test]
fn sigterm_drains_and_ends_with_143() {
    if folder_of_child().is_some() {
        let code = run_main(false, async {
            let shutdown = Shutdown::listen()?;
            println!("child: listens");
            Ok(shutdown.drain().await)
        });
        assert_eq!(format!("{code:?}"), format!("{:?}", std::process::ExitCode::from(143)));
        println!("child: drained");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let mut child = child("process::sigterm_drains_and_ends_with_143", folder.path()).spawn().unwrap();
    let mut said = said(&mut child);
    assert_eq!(said.next().as_deref(), Some("listens"));
    terminate(&child);
    assert_eq!(said.next().as_deref(), Some("drained"));
    assert!(child.wait().unwrap().success());
}

#[test]
fn second_signal_ends_at_once() {
    if folder_of_child().is_some() {
        run_main(false, async {
            let shutdown = Shutdown::listen()?;
            shutdown.spawn(std::future::pending::<()>());
            println!("child: listens");
            shutdown.requested().await;
            println!("child: drains");
            Ok(shutdown.drain().await)
        });
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let mut child = child("process::second_signal_ends_at_once", folder.path()).spawn().unwrap();
    let mut said = said(&mut child);
    assert_eq!(said.next().as_deref(), Some("listens"));
    terminate(&child);
    assert_eq!(said.next().as_deref(), Some("drains"));
    terminate(&child);
    assert_eq!(child.wait().unwrap().code(), Some(143));
}

fn terminate(child: &Child) {
    let pid = rustix::process::Pid::from_child(child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("the child takes signals");
}

#[test]
fn child_stops_when_its_parent_is_gone() {
    if let Some(folder) = folder_of_child() {
        return play_parent_or_grandchild(&folder);
    }
    let folder = tempfile::tempdir().unwrap();
    let mut parent = child("process::child_stops_when_its_parent_is_gone", folder.path()).spawn().unwrap();
    // The grandchild writes to the same pipe, so the pipe ends only when both are gone.
    let mut said = said(&mut parent);
    assert_eq!(said.next().as_deref(), Some("grandchild listens"));
    parent.kill().unwrap();
    parent.wait().unwrap();
    assert_eq!(said.next().as_deref(), Some("grandchild stops"));
    assert_eq!(said.next(), None);
}

fn play_parent_or_grandchild(folder: &Path) {
    if std::env::var_os(daemon::shutdown::PARENT_VARIABLE).is_some() {
        run_main(false, async {
            let shutdown = Shutdown::listen()?;
            println!("child: grandchild listens");
            let exit = shutdown.drain().await;
            println!("child: grandchild stops");
            Ok(exit)
        });
        return;
    }
    let mut grandchild = child("process::child_stops_when_its_parent_is_gone", folder);
    grandchild.stdout(Stdio::inherit()).env(daemon::shutdown::PARENT_VARIABLE, std::process::id().to_string());
    grandchild.spawn().expect("the test binary runs again").wait().expect("the grandchild can be waited for");
}

#[test]
fn failed_program_says_why_on_stderr_and_ends_with_its_code() {
    if folder_of_child().is_some() {
        let failure =
            Failure::new(Exit::Conflict, "E-TEST-01", "it is taken").why("someone was first").hint("come back");
        let code = run_main(true, async { Err::<Exit, _>(anyhow::Error::from(failure).context("failed to start")) });
        assert_eq!(format!("{code:?}"), format!("{:?}", std::process::ExitCode::from(10)));
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let test = "process::failed_program_says_why_on_stderr_and_ends_with_its_code";
    let output = child(test, folder.path()).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let said = String::from_utf8(output.stderr).unwrap();
    let object: serde_json::Value = serde_json::from_str(said.lines().next().unwrap()).unwrap();
    let expected = serde_json::json!({ "error": {
        "code": "E-TEST-01", "message": "failed to start: it is taken", "cause": "someone was first", "hint": "come back",
        "retryable": false,
    }});
    assert_eq!(object, expected);
}

#[tokio::test]
async fn port_lives_on_when_descriptors_ran_out() {
    if folder_of_child().is_some() {
        return run_out_of_descriptors().await;
    }
    let folder = tempfile::tempdir().unwrap();
    let output = child("process::port_lives_on_when_descriptors_ran_out", folder.path()).output().unwrap();
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert!(stdout.contains("child: answered again"), "{stdout} {}", String::from_utf8_lossy(&output.stderr));
}

async fn run_out_of_descriptors() {
    let daemon = Daemon::plain().await;
    assert!(daemon.get("/livez").await.starts_with("HTTP/1.1 200"));
    let open = std::fs::read_dir("/proc/self/fd").expect("there is /proc").count() as u64;
    let limit = rustix::process::Rlimit { current: Some(open + 16), maximum: Some(open + 16) };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, limit).expect("a limit may be lowered");
    let mut clients = Vec::new();
    let error = loop {
        match tokio::net::TcpStream::connect(daemon.address).await {
            Ok(client) => clients.push(client),
            Err(error) => break error,
        }
    };
    assert_eq!(error.raw_os_error(), Some(rustix::io::Errno::MFILE.raw_os_error()));
    drop(clients);
    assert!(daemon.get("/livez").await.starts_with("HTTP/1.1 200"));
    println!("child: answered again");
}
