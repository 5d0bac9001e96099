//! The demo's processes: this same program, started again as one of the daemons or as one of their commands.
//!
//! A daemon prints one JSON line when it is ready; until then it has not started. Daemons end with this process, even
//! when it is killed. Commands are run to their end and give back their exit code and their JSON lines. The user's own
//! configuration is never read: every process has a home folder of its own.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

/// How long a daemon may take until it is ready, or to drain when it is told to stop.
const START_OR_STOP_WITHIN: Duration = Duration::from_secs(20);
/// How long a command may run.
const COMMAND_WITHIN: Duration = Duration::from_secs(300);

/// Which of our programs.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Tracker,
    Keyserver,
    PeerNode,
}

impl Role {
    pub(super) fn name(self) -> &'static str {
        match self {
            Role::Tracker => "tracker",
            Role::Keyserver => "keyserver",
            Role::PeerNode => "peer-node",
        }
    }
}

fn program(role: Role, home: &Path) -> anyhow::Result<Command> {
    let mut command = Command::new(std::env::current_exe().context("failed to find this program")?);
    command.arg("as").arg(role.name()).stdin(Stdio::null()).kill_on_drop(true);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("REELSWARM_") {
            command.env_remove(name);
        }
    }
    command.env("HOME", home);
    for name in ["XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME", "XDG_CACHE_HOME", "XDG_RUNTIME_DIR", "RUST_LOG"]
    {
        command.env_remove(name);
    }
    Ok(command)
}

/// What `--set` is given: keys of the configuration and their values.
pub(super) type Settings = Vec<(&'static str, String)>;

/// A daemon and how to start it again.
pub(super) struct Daemon {
    pub(super) name: String,
    pub(super) role: Role,
    pub(super) data: PathBuf,
    pub(super) url: String,
    /// Public id as the daemon prints it.
    pub(super) id: String,
    /// Values of `--set`, by key.
    settings: BTreeMap<String, String>,
    child: Option<Child>,
}

impl Daemon {
    /// Starts a daemon on `data` with `--set` settings and waits until it is ready.
    pub(super) async fn start(role: Role, name: &str, data: &Path, settings: Settings) -> anyhow::Result<Daemon> {
        let mut daemon = Daemon {
            name: name.to_owned(),
            role,
            data: data.to_path_buf(),
            url: String::new(),
            id: String::new(),
            settings: settings.into_iter().map(|(key, value)| (key.to_owned(), value)).collect(),
            child: None,
        };
        daemon.start_again().await?;
        Ok(daemon)
    }

    /// Starts it (again) on the same folder; where it had an address, on the same address.
    pub(super) async fn start_again(&mut self) -> anyhow::Result<()> {
        self.launch()
            .await
            .with_context(|| format!("failed to start {}; its log is {}", self.name, self.log().display()))
    }

    async fn launch(&mut self) -> anyhow::Result<()> {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.log())?;
        let mut command = program(self.role, self.home())?;
        command.args(["run", "--json", "--data"]).arg(&self.data);
        command.env("REELSWARM_PARENT", std::process::id().to_string());
        if let Some(address) = self.url.strip_prefix("http://") {
            self.settings.insert("server.listen".to_owned(), address.trim_end_matches('/').to_owned());
        }
        for (key, value) in &self.settings {
            command.arg("--set").arg(format!("{key}={value}"));
        }
        let mut child = command.stdout(Stdio::piped()).stderr(log).spawn()?;
        let mut lines = BufReader::new(child.stdout.take().context("standard output is piped")?).lines();
        let ready = tokio::time::timeout(START_OR_STOP_WITHIN, async {
            while let Some(line) = lines.next_line().await? {
                if let Ok(value) = serde_json::from_str::<Value>(&line)
                    && value.get("ready").is_some()
                {
                    return Ok(value);
                }
            }
            bail!("it ended before it was ready")
        });
        let ready = ready.await.context("it was not ready in time")??;
        let text =
            |key: &str| ready[key].as_str().map(str::to_owned).with_context(|| format!("its ready line has no {key}"));
        self.url = text("url")?;
        self.id = text("id")?;
        self.child = Some(child);
        // Whatever it still prints must not fill the pipe.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        Ok(())
    }

    /// Changes a setting for the next start.
    pub(super) fn set(&mut self, key: &str, value: &str) {
        self.settings.insert(key.to_owned(), value.to_owned());
    }

    /// Where its log goes.
    pub(super) fn log(&self) -> PathBuf {
        self.data.with_extension("log")
    }

    fn home(&self) -> &Path {
        self.data.parent().unwrap_or(&self.data)
    }

    /// Asks it to stop (SIGTERM) and waits until it has drained.
    pub(super) async fn stop(&mut self) -> anyhow::Result<()> {
        let Some(mut child) = self.child.take() else { return Ok(()) };
        if let Some(pid) = child.id().and_then(|pid| rustix::process::Pid::from_raw(pid.cast_signed())) {
            rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
        }
        tokio::time::timeout(START_OR_STOP_WITHIN, child.wait())
            .await
            .with_context(|| format!("{} did not stop in time", self.name))??;
        Ok(())
    }

    /// `kill -9`.
    pub(super) async fn kill(&mut self) -> anyhow::Result<()> {
        let Some(mut child) = self.child.take() else { return Ok(()) };
        child.kill().await.with_context(|| format!("failed to kill {}", self.name))
    }

    /// It has been started and not been stopped.
    pub(super) fn is_running(&self) -> bool {
        self.child.is_some()
    }

    /// The most memory it has had resident since it started, bytes.
    pub(super) fn peak_memory(&self) -> anyhow::Result<u64> {
        let pid = self.child.as_ref().and_then(Child::id).with_context(|| format!("{} does not run", self.name))?;
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
        let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).context("the kernel tells no peak memory")?;
        let kib: u64 = line.trim().trim_end_matches("kB").trim().parse()?;
        Ok(kib << 10)
    }

    /// Runs one of the role's commands against this daemon's data folder.
    pub(super) async fn command(&self, args: &[&str]) -> anyhow::Result<Outcome> {
        run(self.role, self.home(), &self.data, args).await
    }
}

/// How a command ended.
pub(super) struct Outcome {
    pub(super) exit: i32,
    pub(super) lines: Vec<Value>,
    pub(super) stderr: String,
    shown: String,
}

impl Outcome {
    /// The last JSON object, if the command succeeded.
    pub(super) fn ok(self) -> anyhow::Result<Value> {
        ensure!(self.exit == 0, "`{}` ended with {}: {}", self.shown, self.exit, self.complaint());
        self.lines.into_iter().next_back().with_context(|| format!("`{}` printed no JSON", self.shown))
    }

    /// What it complained of, in one line.
    pub(super) fn complaint(&self) -> String {
        let error = self.lines.iter().find_map(|l| l.get("error"));
        error.map_or_else(|| self.stderr.trim().replace('\n', " · "), Value::to_string)
    }
}

/// Runs a command to its end.
pub(super) async fn run(role: Role, home: &Path, data: &Path, args: &[&str]) -> anyhow::Result<Outcome> {
    let shown = format!("{} {}", role.name(), args.join(" "));
    let mut command = program(role, home)?;
    command.args(args).arg("--json").arg("--data").arg(data);
    let output = tokio::time::timeout(COMMAND_WITHIN, command.output())
        .await
        .with_context(|| format!("`{shown}` did not end in time"))?
        .with_context(|| format!("failed to run `{shown}`"))?;
    let stdout = String::from_utf8_lossy(&output.stdout);
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    let lines = stdout.lines().chain(stderr.lines()).filter_map(|line| serde_json::from_str(line).ok()).collect();
    Ok(Outcome { exit: output.status.code().unwrap_or(-1), lines, stderr, shown })
}
