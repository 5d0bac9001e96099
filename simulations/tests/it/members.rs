//! Boxes become members and cease to be: a real tracker, real boxes, and the commands of those who run them.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// Far more than anything here takes; a test that needs it has failed.
const PATIENCE: Duration = Duration::from_secs(60);

/// A folder in which daemons and commands run.
struct House {
    folder: tempfile::TempDir,
}

/// A daemon, killed when the test is over.
struct Daemon {
    process: Child,
    data: PathBuf,
    url: String,
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

impl House {
    fn new() -> House {
        House { folder: tempfile::tempdir().expect("a folder") }
    }

    fn program(&self, role: &str, data: &Path, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_demo"));
        command.args(["as", role]).args(args).arg("--json").arg("--data").arg(data);
        command.env_clear().env("HOME", self.folder.path()).stdin(Stdio::null());
        command
    }

    fn daemon(&self, role: &str, name: &str, args: &[&str]) -> Daemon {
        let data = self.folder.path().join(name);
        let log = std::fs::File::create(self.log(name)).expect("a log");
        let args = [&["run", "--exit-with-parent", "--set", "server.listen=127.0.0.1:0"], args].concat();
        let mut command = self.program(role, &data, &args);
        let mut process = command.stdout(Stdio::piped()).stderr(log).spawn().expect("it starts");
        let ready = line(&mut BufReader::new(process.stdout.take().expect("its output is piped")));
        Daemon { process, data, url: ready["url"].as_str().expect("a URL").trim_end_matches('/').to_owned() }
    }

    fn new_box(&self, name: &str, tracker: &Daemon) -> Daemon {
        let listen = "net.listen=[\"/ip4/127.0.0.1/tcp/0\"]";
        self.daemon("peer-node", name, &["--tracker", &tracker.url, "--name", name, "--set", listen])
    }

    fn log(&self, name: &str) -> PathBuf {
        self.folder.path().join(format!("{name}.log"))
    }

    fn ask(&self, role: &str, daemon: &Daemon, args: &[&str]) -> Output {
        self.program(role, &daemon.data, args).output().expect("it runs")
    }

    /// The one object that a command prints.
    fn told(&self, role: &str, daemon: &Daemon, args: &[&str]) -> Value {
        let output = self.ask(role, daemon, args);
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).expect("an object")
    }

    /// Has a running box show a code, and whoever typed it let it in. Answers what the box's command printed last.
    fn pair(&self, tracker: &Daemon, of: &Daemon, customer: &str) -> Value {
        let mut command = self.program("peer-node", &of.data, &["enrol", "--pair"]);
        let mut enrolling = command.stdout(Stdio::piped()).spawn().expect("it starts");
        let mut output: BufReader<ChildStdout> = BufReader::new(enrolling.stdout.take().expect("piped"));
        let code = line(&mut output)["code"].as_str().expect("a code").to_owned();
        let screen = get(&of.url, "/tv");
        assert!(screen.contains(&code), "the television shows the code: {screen}");
        let paired = self.told("tracker", tracker, &["device", "pair", &code, "--customer", customer]);
        let enrolled = line(&mut output);
        assert_eq!(enrolled["device"], paired["device"]);
        assert!(enrolling.wait().expect("it ends").success());
        assert!(!get(&of.url, "/tv").contains(&code), "a code that was typed is not shown any more");
        enrolled
    }
}

fn line(output: &mut impl std::io::BufRead) -> Value {
    let mut line = String::new();
    output.read_line(&mut line).expect("a line");
    serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"))
}

fn get(url: &str, path: &str) -> String {
    let address = url.strip_prefix("http://").expect("a plain URL");
    let mut stream = std::net::TcpStream::connect(address).expect("it listens");
    write!(stream, "GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n").expect("it reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("it answers");
    answer
}

fn until(what: &str, mut so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !so() {
        assert!(begun.elapsed() < PATIENCE, "waited for {what}");
        std::thread::yield_now();
    }
}

#[test]
fn box_joins_by_the_code_on_its_screen_and_the_others_hear_at_once_when_it_is_shut_out() {
    let house = House::new();
    let tracker = house.daemon("tracker", "tracker", &[]);
    house.told("tracker", &tracker, &["customer", "add", "Ada"]);
    let (one, two) = (house.new_box("one", &tracker), house.new_box("two", &tracker));
    house.pair(&tracker, &one, "Ada");
    let second = house.pair(&tracker, &two, "Ada");
    let is_up = |of: &Daemon| house.told("peer-node", of, &["status"])["tracker"]["up"] == true;
    until("both boxes to be connected", || is_up(&one) && is_up(&two));

    let id = second["device"].as_str().expect("an id");
    house.told("tracker", &tracker, &["device", "revoke", id]);
    until("the revoked box to lose its stream", || !is_up(&two));
    let hears = || std::fs::read_to_string(house.log("one")).expect("a log").contains("devices were revoked");
    until("the other box to hear of it", hears);
    assert!(is_up(&one));
    let again = house.ask("peer-node", &two, &["enrol", "--pair"]);
    assert_eq!(again.status.code(), Some(5), "{}", String::from_utf8_lossy(&again.stderr));
}
