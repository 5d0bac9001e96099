//! A keyserver process on a folder of its own, on any free port.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;
use tonic::transport::Channel;

/// Until a keyserver that is to kill itself has come to that place.
const CRASHES_WITHIN: Duration = Duration::from_secs(30);

/// Where a keyserver keeps its data and its log, over all its lives.
pub(crate) struct Home {
    folder: TempDir,
    settings: Vec<String>,
}

impl Home {
    pub(crate) fn new(settings: &[String]) -> Home {
        Home { folder: tempfile::tempdir().expect("a folder"), settings: settings.to_vec() }
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.data().join(name)
    }

    /// How long its journal has ever been.
    pub(crate) fn anchor(&self) -> PathBuf {
        self.folder.path().join("data.anchor")
    }

    pub(crate) fn log(&self) -> PathBuf {
        self.folder.path().join("log")
    }

    /// Starts a keyserver here and waits until it is ready.
    pub(crate) fn start(&self) -> Process {
        self.try_start().expect("the keyserver becomes ready")
    }

    /// Starts a keyserver here; gives its exit code when it ends instead of becoming ready.
    pub(crate) fn try_start(&self) -> Result<Process, i32> {
        self.try_start_with(&[], &[])
    }

    /// Starts a keyserver here whose system calls are written to a file; none when that is not allowed.
    pub(crate) fn start_traced(&self, calls: &str, to: &Path) -> Option<Process> {
        let to = to.to_str().expect("text");
        // Strace steps behind the keyserver, so that signals meet the right one.
        let tracer = ["strace", "-D", "-f", "-yy", "-xx", "-s", "65536", "-e", calls, "-o", to];
        self.launch(&tracer, &[], &[]).ok()
    }

    /// Starts a keyserver here that cuts its own power at a place of `src/crash.rs`; none when it did so while starting.
    pub(crate) fn start_to_crash_at(&self, place: &str) -> Option<Process> {
        self.try_start_with(&[("CRASH_AT", place)], &[]).ok()
    }

    /// Starts a keyserver here with more arguments and variables.
    pub(crate) fn try_start_with(&self, variables: &[(&str, &str)], args: &[&str]) -> Result<Process, i32> {
        self.launch(&[], variables, args)
    }

    fn launch(&self, tracer: &[&str], variables: &[(&str, &str)], args: &[&str]) -> Result<Process, i32> {
        // SIGXFSZ is ignored so that a test can fill the disk with a limit on file sizes.
        let mut command = Command::new("sh");
        command.args(["-c", "trap '' XFSZ; exec \"$@\"", "sh"]).args(tracer);
        command.args([env!("CARGO_BIN_EXE_keyserver"), "run", "--json", "--exit-with-parent"]);
        command.args(["--log-level", "trace,h2=info,hyper=info,tower=info", "--set", "server.listen=127.0.0.1:0"]);
        command.arg("--data").arg(self.data());
        command.args(args).envs(variables.iter().copied());
        for setting in &self.settings {
            command.arg("--set").arg(setting);
        }
        let log = File::options().create(true).append(true).open(self.log()).expect("a log");
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log).spawn().expect("sh is there");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line).expect("readable");
        if line.is_empty() {
            let ended = child.wait().expect("it ended");
            return Err(ended.code().unwrap_or_else(|| 128 + ended.signal().expect("it was killed")));
        }
        let ready: Value = serde_json::from_str(&line).expect("one JSON object");
        let text = |key: &str| ready[key].as_str().expect("text").to_owned();
        assert_eq!(text("ready"), "keyserver");
        Ok(Process { url: text("url"), id: text("id"), child })
    }

    /// Runs one command on this folder.
    pub(crate) fn command(&self, args: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_keyserver"));
        command.args(args).arg("--json").arg("--data").arg(self.data()).output().expect("the keyserver is built")
    }

    /// Runs one command that cuts its own power at a place of `src/crash.rs`.
    pub(crate) fn command_to_crash_at(&self, place: &str, args: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_keyserver"));
        command.args(args).arg("--json").arg("--data").arg(self.data()).env("CRASH_AT", place);
        command.output().expect("the keyserver is built")
    }

    /// Runs one command that has to succeed, and reads its answer.
    pub(crate) fn ask(&self, args: &[&str]) -> Value {
        let output = self.command(args);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{args:?} failed: {errors}");
        serde_json::from_slice(&output.stdout).expect("one JSON value")
    }

    /// How many records of this kind a whole journal has.
    pub(crate) fn records(&self, kind: &str) -> u64 {
        let verdict = self.ask(&["audit", "verify"]);
        assert_eq!(verdict["ok"], true);
        verdict["kinds"][kind].as_u64().unwrap_or(0)
    }

    /// Every file below the data folder, and the log.
    pub(crate) fn files(&self) -> Vec<PathBuf> {
        let mut files = vec![self.log()];
        collect(&self.data(), &mut files);
        files
    }
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("readable").path();
        if path.is_dir() { collect(&path, files) } else { files.push(path) }
    }
}

/// A running keyserver. Killed when dropped.
pub(crate) struct Process {
    pub(crate) url: String,
    pub(crate) id: String,
    child: Child,
}

impl Process {
    pub(crate) fn pid(&self) -> rustix::process::Pid {
        rustix::process::Pid::from_child(&self.child)
    }

    /// `kill -9`.
    pub(crate) fn kill(mut self) {
        self.child.kill().expect("it runs");
        self.child.wait().expect("it ends");
    }

    /// Waits until it has killed itself, as it was told to.
    pub(crate) async fn crashed(mut self) {
        let ended = async {
            loop {
                match self.child.try_wait().expect("our own child") {
                    Some(ended) => return ended,
                    None => tokio::time::sleep(Duration::from_millis(5)).await,
                }
            }
        };
        let ended = tokio::time::timeout(CRASHES_WITHIN, ended).await.expect("the place is passed");
        assert_eq!(ended.signal(), Some(9));
    }

    /// SIGTERM; gives the exit code. Does not block the test's runtime: open connections have to hear that it stops.
    pub(crate) async fn stop(mut self) -> i32 {
        rustix::process::kill_process(self.pid(), rustix::process::Signal::TERM).expect("it runs");
        let ended = tokio::task::spawn_blocking(move || self.child.wait());
        ended.await.expect("no panic").expect("it ends").code().expect("it was not killed")
    }

    pub(crate) async fn channel(&self) -> Channel {
        Channel::from_shared(self.url.clone()).expect("an address").connect().await.expect("it listens")
    }

    /// A connection, unless it is dead.
    pub(crate) async fn try_channel(&self) -> Option<Channel> {
        Channel::from_shared(self.url.clone()).expect("an address").connect().await.ok()
    }

    /// Host and port.
    pub(crate) fn address(&self) -> &str {
        self.url.strip_prefix("http://").expect("plain").trim_end_matches('/')
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have been stopped already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
