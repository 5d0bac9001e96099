//! Our own programs: this same binary, started again as one of the daemons or as one of their commands.
//!
//! Daemons end with this process, even when it is killed. The user's own configuration is never read: every process has
//! a home folder of its own.

use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

/// How long a daemon may take until it is ready, or to drain when it is told to stop.
const START_OR_STOP_WITHIN: Duration = Duration::from_secs(20);
/// How long a command may run; publishing seals the whole file.
const COMMAND_WITHIN: Duration = Duration::from_secs(300);
/// How long a server may take to answer a question about itself, and how much it may say.
const ANSWERS_WITHIN: Duration = Duration::from_secs(1);
const MAX_ANSWER_BYTES: u64 = 1 << 20;

fn program(role: &str, home: &Path) -> anyhow::Result<Command> {
    let mut command = Command::new(std::env::current_exe().context("failed to find this program")?);
    command.arg("as").arg(role).stdin(Stdio::null()).kill_on_drop(true).env("HOME", home);
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("REELSWARM_") || text.starts_with("XDG_") {
            command.env_remove(name);
        }
    }
    Ok(command)
}

/// A daemon that runs.
pub(super) struct Daemon {
    pub(super) data: PathBuf,
    pub(super) url: String,
    role: &'static str,
    child: Child,
}

impl Daemon {
    /// Starts a daemon on `data` with `--set` settings and waits until it is ready.
    pub(super) async fn start(role: &'static str, data: &Path, settings: &[String]) -> anyhow::Result<Daemon> {
        let log_path = data.with_extension("log");
        let log = std::fs::OpenOptions::new().create(true).append(true).open(&log_path)?;
        let mut command = program(role, data.parent().unwrap_or(data))?;
        command.args(["run", "--json", "--data"]).arg(data);
        command.env("REELSWARM_PARENT", std::process::id().to_string());
        for setting in settings {
            command.arg("--set").arg(setting);
        }
        let mut child = command.stdout(Stdio::piped()).stderr(log).spawn()?;
        let mut lines = BufReader::new(child.stdout.take().context("standard output is piped")?).lines();
        let ready = tokio::time::timeout(START_OR_STOP_WITHIN, async {
            while let Some(line) = lines.next_line().await? {
                match serde_json::from_str::<Value>(&line) {
                    Ok(value) if value.get("ready").is_some() => return Ok(value),
                    _ => {}
                }
            }
            let log = std::fs::read_to_string(&log_path).unwrap_or_default();
            bail!("{role} ended before it was ready: {}", log.lines().last().unwrap_or_default())
        });
        let ready = ready.await.with_context(|| format!("{role} was not ready in time"))??;
        // Whatever it still prints must not fill the pipe.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        let url = text(&ready, "url")?.trim_end_matches('/').to_owned();
        Ok(Daemon { data: data.to_path_buf(), url, role, child })
    }

    pub(super) fn pid(&self) -> anyhow::Result<u32> {
        self.child.id().with_context(|| format!("{} has ended", self.role))
    }

    /// Runs one of the role's commands against this daemon's data folder; its last JSON object.
    pub(super) async fn command(&self, args: &[&str]) -> anyhow::Result<Value> {
        run(self.role, &self.data, args).await
    }

    /// `kill -9`.
    pub(super) async fn kill(mut self) -> anyhow::Result<()> {
        self.child.kill().await.with_context(|| format!("failed to kill {}", self.role))
    }

    /// Asks it to stop (SIGTERM) and waits until it has drained.
    pub(super) async fn stop(&mut self) -> anyhow::Result<()> {
        if let Some(pid) = self.child.id().and_then(|pid| rustix::process::Pid::from_raw(pid.cast_signed())) {
            rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
        }
        let ended = tokio::time::timeout(START_OR_STOP_WITHIN, self.child.wait()).await;
        ended.with_context(|| format!("{} did not stop in time", self.role))??;
        Ok(())
    }
}

/// What a server on this computer answers to a GET, headers and all.
pub(super) fn get(address: &str, path: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(ANSWERS_WITHIN))?;
    stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n").as_bytes())?;
    let mut answer = String::new();
    stream.take(MAX_ANSWER_BYTES).read_to_string(&mut answer)?;
    Ok(answer)
}

/// Runs a command to its end; the last JSON object that it printed.
pub(super) async fn run(role: &str, data: &Path, args: &[&str]) -> anyhow::Result<Value> {
    let shown = format!("{role} {}", args.join(" "));
    let mut command = program(role, data.parent().unwrap_or(data))?;
    command.args(args).arg("--json").arg("--data").arg(data);
    let output = tokio::time::timeout(COMMAND_WITHIN, command.output());
    let output = output.await.with_context(|| format!("`{shown}` did not end in time"))??;
    let complaint = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "`{shown}` ended with {}: {}", output.status, complaint.trim());
    let stdout = String::from_utf8_lossy(&output.stdout);
    let last = stdout.lines().filter_map(|line| serde_json::from_str(line).ok()).next_back();
    last.with_context(|| format!("`{shown}` printed no JSON"))
}

/// A text field of a JSON object that a command printed.
pub(super) fn text(value: &Value, key: &str) -> anyhow::Result<String> {
    value[key].as_str().map(str::to_owned).with_context(|| format!("no {key} in {value}"))
}
