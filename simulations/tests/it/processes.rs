//! A small swarm of real processes for tests: tracker, keyserver, one seed, one box, and whoever joins them. All of it
//! ends with the test.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use libp2p::Multiaddr;
use serde_json::Value;
use swarm_proto::id::DeviceId;

/// Nothing a test waits for takes longer than this.
const SOON: Duration = Duration::from_secs(120);

/// How often something awaited is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Settings that take any free port.
const ANY_PORT: &str = "server.listen=127.0.0.1:0";
const ANY_NET: &str = "net.listen=[\"/ip4/127.0.0.1/tcp/0\"]";

/// The running swarm.
pub(crate) struct Swarm {
    pub(crate) tracker: Program,
    pub(crate) box_: Program,
    pub(crate) seed: Program,
    pub(crate) keyserver: Program,
    publisher_key: String,
    folder: tempfile::TempDir,
}

/// One of our programs with a data folder, running or not.
pub(crate) struct Program {
    role: &'static str,
    data: PathBuf,
    url: String,
    settings: Vec<String>,
    child: Option<Child>,
}

impl Swarm {
    /// Starts everything; the box fetches no faster than this.
    pub(crate) fn start(rate: &str) -> Swarm {
        Swarm::start_with(rate, &[])
    }

    /// The same, with settings of the tracker.
    pub(crate) fn start_with(rate: &str, tracker_settings: &[&str]) -> Swarm {
        Swarm::start_as(rate, tracker_settings, str::to_owned)
    }

    /// The same, with a box that reaches the keyserver at the address that this makes of its URL.
    pub(crate) fn start_far(rate: &str, keyserver_url: impl FnOnce(&str) -> String) -> Swarm {
        Swarm::start_as(rate, &[], keyserver_url)
    }

    fn start_as(rate: &str, tracker_settings: &[&str], keyserver_url: impl FnOnce(&str) -> String) -> Swarm {
        let folder = tempfile::tempdir().expect("a folder");
        let mut tracker = Program::new("tracker", folder.path(), "tracker");
        let mut keyserver = Program::new("keyserver", folder.path(), "keyserver");
        let id = text(&tracker.says(&["id"]), "id");
        keyserver.run(&[ANY_PORT, &format!("trusted_trackers=[\"{id}\"]")]);
        let sold_at = format!("keyserver_url={}", keyserver.url);
        tracker.run(&[&[ANY_PORT, sold_at.as_str()], tracker_settings].concat());

        let publisher = Program::new("peer-node", folder.path(), "publisher");
        let publisher_key = publisher.data.join("signing.key").to_string_lossy().into_owned();
        let id = text(&publisher.says(&["publisher", "id", "--publisher-key", &publisher_key]), "publisher");
        for server in [&tracker, &keyserver] {
            server.says(&["publisher", "add", &id, "--name", "Studio"]);
        }
        let seed = device(&tracker, folder.path(), "seed", "seed", &[]);
        let at = format!("keyserver.url={}", keyserver_url(&keyserver.url));
        let box_ = device(&tracker, folder.path(), "box", "box", &[&format!("transfers.rate={rate}"), &at]);
        Swarm { tracker, box_, seed, keyserver, publisher_key, folder }
    }

    /// One more device, of a customer of its own.
    pub(crate) fn join(&self, name: &'static str, kind: &str) -> Program {
        device(&self.tracker, self.folder.path(), name, kind, &[])
    }

    /// Who the seed is and where it listens.
    pub(crate) fn seed_contact(&self) -> (DeviceId, Vec<Multiaddr>) {
        let status = self.seed.says(&["status"]);
        let listening = status["listening"].as_array().expect("a status says where it listens");
        let address = |it: &Value| it.as_str().and_then(|text| text.parse().ok()).expect("an address");
        let device = text(&status, "device").parse().expect("a device");
        (device, listening.iter().map(address).collect())
    }

    /// `kill -9`, then a new start on the same folder.
    pub(crate) fn kill_and_restart_seed(&mut self) {
        self.seed.stop();
        self.seed.run(&[ANY_PORT, ANY_NET]);
    }

    /// Publishes so many MiB that nobody can guess. Answers the item.
    pub(crate) fn publish(&self, name: &str, mib: u64) -> String {
        let file = self.folder.path().join(format!("{name}.bin"));
        let mut noise = blake3::Hasher::new_derive_key("reelswarm tests noise").update(name.as_bytes()).finalize_xof();
        let mut bytes = vec![0; usize::try_from(mib << 20).expect("a small file")];
        noise.fill(&mut bytes);
        std::fs::write(&file, bytes).expect("the file is written");
        self.publish_file(name, &file, &["--offer", "rent:2.99EUR:48h"])
    }

    /// Publishes a file in this way; says which item it is.
    pub(crate) fn publish_file(&self, name: &str, file: &Path, how: &[&str]) -> String {
        let file = file.to_string_lossy();
        let what = ["publish", &file, "--title", name, "--publisher-key", &self.publisher_key];
        text(&self.seed.says(&[&what, how].concat()), "item")
    }

    /// What the box says of a title; nothing while it does not know it.
    pub(crate) fn title(&self, name: &str) -> Value {
        self.box_.title(name)
    }

    /// Looks at a title of the box until it is as wished for.
    pub(crate) fn until(&self, name: &str, what: &str, good: impl Fn(&Value) -> bool) -> Value {
        self.box_.until(name, what, good)
    }

    /// Asks again and again until there is an answer.
    pub(crate) fn eventually<T>(&self, what: &str, ask: impl Fn() -> Option<T>) -> T {
        let begun = Instant::now();
        loop {
            if let Some(answer) = ask() {
                return answer;
            }
            assert!(begun.elapsed() < SOON, "waited for {what}; the box says {:#}", self.box_.says(&["status"]));
            std::thread::sleep(LOOK_EVERY);
        }
    }
}

/// Invites, enrols and starts a device.
fn device(tracker: &Program, folder: &Path, name: &'static str, kind: &str, settings: &[&str]) -> Program {
    tracker.says(&["customer", "add", name]);
    let code = text(&tracker.says(&["device", "invite", name, "--kind", kind]), "code");
    let mut device = Program::new("peer-node", folder, name);
    device.says(&["enrol", &code, "--tracker", &tracker.url, "--name", name]);
    device.run(&[&[ANY_PORT, ANY_NET], settings].concat());
    device
}

/// Looks until something is as wished for.
pub(crate) fn poll<T: std::fmt::Debug>(what: &str, mut look: impl FnMut() -> T, good: impl Fn(&T) -> bool) -> T {
    let begun = Instant::now();
    loop {
        let seen = look();
        if good(&seen) {
            return seen;
        }
        assert!(begun.elapsed() < SOON, "waited for {what}: {seen:#?}");
        std::thread::sleep(LOOK_EVERY);
    }
}

impl Program {
    fn new(role: &'static str, folder: &Path, name: &str) -> Program {
        Program { role, data: folder.join(name), url: String::new(), settings: Vec::new(), child: None }
    }

    /// Where it can be reached.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// `kill -9`.
    pub(crate) fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may have ended already.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Where it keeps its files.
    pub(crate) fn data(&self) -> &Path {
        &self.data
    }

    fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_demo"));
        let home = self.data.parent().expect("a data folder lies in a folder");
        command.args(["as", self.role]).stdin(Stdio::null()).env("HOME", home).env_remove("RUST_LOG");
        for name in ["XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME", "XDG_RUNTIME_DIR"] {
            command.env_remove(name);
        }
        command
    }

    /// What a device says of a title; nothing while it does not know it.
    pub(crate) fn title(&self, name: &str) -> Value {
        let status = self.says(&["status"]);
        let titles = status["titles"].as_array().expect("a status lists titles");
        titles.iter().find(|title| title["name"] == name).cloned().unwrap_or_default()
    }

    /// Looks at a title of a device until it is as wished for.
    pub(crate) fn until(&self, name: &str, what: &str, good: impl Fn(&Value) -> bool) -> Value {
        poll(what, || self.title(name), good)
    }

    /// Whether a device has a file for an item.
    pub(crate) fn has_file_of(&self, item: &str) -> bool {
        self.data.join("items").join(format!("{item}.item")).exists()
    }

    /// Starts a device again with these settings.
    pub(crate) fn start_again(&mut self, settings: &[&str]) {
        self.run(&[&[ANY_PORT, ANY_NET], settings].concat());
    }

    /// Starts the daemon and waits until it is ready.
    fn run(&mut self, settings: &[&str]) {
        let mut command = self.command();
        command.args(["run", "--json", "--log-level", "warn", "--data"]).arg(&self.data);
        command.env("REELSWARM_PARENT", std::process::id().to_string());
        for setting in settings {
            command.args(["--set", setting]);
        }
        let mut child = command.stdout(Stdio::piped()).spawn().expect("it starts");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("its output is piped")).read_line(&mut line).expect("it prints");
        let ready: Value = serde_json::from_str(&line).unwrap_or_else(|_| panic!("{} is not ready: {line}", self.role));
        self.url = text(&ready, "url").trim_end_matches('/').to_owned();
        self.settings = settings.iter().map(|setting| (*setting).to_owned()).collect();
        self.child = Some(child);
    }

    /// What a browser gets.
    pub(crate) fn page(&self, path: &str) -> String {
        let address = self.url.strip_prefix("http://").expect("a plain address");
        let mut stream = std::net::TcpStream::connect(address).expect("it listens");
        write!(stream, "GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n").expect("it reads");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("it answers");
        answer
    }

    /// Starts it again as it was, where it was.
    pub(crate) fn run_again(&mut self) {
        let here = format!("server.listen={}", self.url.trim_start_matches("http://"));
        let settings = self.settings.clone();
        let settings = settings.iter().map(|setting| match setting.starts_with("server.listen=") {
            true => here.as_str(),
            false => setting,
        });
        let settings: Vec<&str> = settings.collect();
        self.run(&settings);
    }

    /// The last JSON object that a command prints.
    pub(crate) fn says(&self, args: &[&str]) -> Value {
        let last = self.lists(args).pop();
        last.unwrap_or_else(|| panic!("{} {args:?} printed no JSON", self.role))
    }

    /// Every JSON object that a command prints, one a line.
    pub(crate) fn lists(&self, args: &[&str]) -> Vec<Value> {
        let output = self.command().args(args).arg("--json").arg("--data").arg(&self.data).output();
        let output = output.expect("the command runs");
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{} {args:?}: {complaint}", self.role);
        let printed = String::from_utf8_lossy(&output.stdout);
        printed.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.stop();
    }
}

pub(crate) fn text(value: &Value, key: &str) -> String {
    value[key].as_str().unwrap_or_else(|| panic!("no {key} in {value}")).to_owned()
}
