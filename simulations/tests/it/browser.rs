//! A real browser, driven over WebDriver (W3C Recommendation 2018): headless Chromium through chromedriver.
//!
//! Both come from Debian (`./test.sh` installs them). They are started on a free port with an empty profile and end
//! with the [`Browser`].

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};

/// How long a page may take for anything that is waited for.
const WITHIN: Duration = Duration::from_secs(30);

/// A browser window.
pub(crate) struct Browser {
    driver: Child,
    session: String,
    _profile: tempfile::TempDir,
}

impl Browser {
    /// Starts chromedriver and opens a window.
    pub(crate) async fn start() -> Browser {
        let mut driver = Command::new("chromedriver")
            .args(["--port=0", "--allowed-ips=127.0.0.1"])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("chromedriver starts (Debian package chromium-driver)");
        let mut lines = BufReader::new(driver.stdout.take().expect("its output is piped")).lines();
        let port: u16 = lines
            .find_map(|line| line.ok()?.rsplit_once("successfully on port ")?.1.trim_end_matches('.').parse().ok())
            .expect("chromedriver names its port");
        std::thread::spawn(move || lines.for_each(drop));

        let profile = tempfile::tempdir().expect("a profile folder");
        let base = format!("http://127.0.0.1:{port}/session");
        let options = json!({"args": [
            "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--mute-audio",
            "--disable-background-networking", "--disable-component-update", "--disable-sync",
            "--disable-dev-shm-usage", "--autoplay-policy=no-user-gesture-required", "--window-size=1920,1080",
            format!("--user-data-dir={}", profile.path().display()),
        ]});
        let wanted = json!({"capabilities": {"alwaysMatch": {"browserName": "chrome", "goog:chromeOptions": options}}});
        let answer = call("POST", &base, wanted).await;
        let session = format!("{base}/{}", answer["sessionId"].as_str().expect("a session has an id"));
        Browser { driver, session, _profile: profile }
    }

    /// Opens a page.
    pub(crate) async fn open(&self, url: &str) {
        call("POST", &format!("{}/url", self.session), json!({ "url": url })).await;
    }

    /// Runs a script in the page and gives back what it returns.
    pub(crate) async fn run(&self, script: &str) -> Value {
        call("POST", &format!("{}/execute/sync", self.session), json!({"script": script, "args": []})).await
    }

    /// Runs a script until it returns true.
    pub(crate) async fn until(&self, what: &str, script: &str) {
        let begun = Instant::now();
        while self.run(script).await != Value::Bool(true) {
            assert!(begun.elapsed() < WITHIN, "waited in vain for {what}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Closes the window.
    pub(crate) async fn quit(self) {
        call("DELETE", &self.session, Value::Null).await;
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        self.driver.kill().ok();
        self.driver.wait().ok();
    }
}

async fn call(method: &str, url: &str, body: Value) -> Value {
    let client: Client<_, Full<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
    let body = if body.is_null() { Bytes::new() } else { Bytes::from(body.to_string()) };
    let request = hyper::Request::builder().method(method).uri(url).header("content-type", "application/json");
    let answer = client.request(request.body(Full::new(body)).expect("a request")).await.expect("chromedriver answers");
    let status = answer.status();
    let text = answer.into_body().collect().await.expect("chromedriver answers whole").to_bytes();
    let mut answer: Value = serde_json::from_slice(&text).expect("chromedriver speaks JSON");
    assert!(status.is_success(), "{method} {url}: {answer}");
    answer["value"].take()
}
