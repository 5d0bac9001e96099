//! The demo as a stranger meets it: its JSON, its links in a real browser and a real `curl`, and what it leaves behind.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::browser::Browser;

/// Steps of the demo, in order.
const STEPS: [&str; 10] =
    ["publish", "carry", "share", "no key", "pay", "portions", "attack", "no shop", "no plan", "sealed"];

/// A demo that has passed and stays up.
struct Demo {
    process: Child,
    steps: Vec<Value>,
    links: BTreeMap<String, String>,
    keep: PathBuf,
}

impl Demo {
    fn start(keep: &Path) -> Demo {
        let process = Command::new(env!("CARGO_BIN_EXE_demo"))
            .args(["--headless", "--json", "--keep"])
            .arg(keep)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the demo starts");
        let mut demo = Demo { process, steps: Vec::new(), links: BTreeMap::new(), keep: keep.to_path_buf() };
        let output = demo.process.stdout.take().expect("its output is piped");
        for line in BufReader::new(output).lines() {
            let line: Value = serde_json::from_str(&line.expect("its output can be read")).expect("every line is JSON");
            let Some(verdict) = line.get("demo") else {
                demo.steps.push(line);
                continue;
            };
            assert_eq!(verdict, "passed", "{line:#}\nafter {:#?}", demo.steps);
            let links = line["links"].as_object().expect("links are an object");
            demo.links =
                links.iter().map(|(k, v)| (k.clone(), v.as_str().expect("a link is text").to_owned())).collect();
            return demo;
        }
        panic!("the demo ended without a verdict after {:#?}", demo.steps);
    }

    fn item(&self) -> (String, String) {
        let items = self.keep.join("box-2/items");
        let film = std::fs::read_dir(items).expect("box 2 has items").flatten().map(|e| e.path());
        let film = film
            .filter(|p| p.extension().is_some_and(|e| e == "item"))
            .min_by_key(|p| p.metadata().map_or(0, |m| m.len()));
        let film = film.expect("box 2 holds the film");
        (film.file_stem().expect("a name").to_string_lossy().into_owned(), film.to_string_lossy().into_owned())
    }

    fn play_url(&self) -> String {
        self.links["box 2"].replace("/tv", &format!("/play/{}", self.item().0))
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

/// The output of a tool; `None` if it is not installed here (in CI that is a failure).
fn tool(name: &str, args: &[&str]) -> Option<Vec<u8>> {
    match Command::new(name).args(args).output() {
        Ok(output) => {
            assert!(output.status.success(), "{name} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
            Some(output.stdout)
        }
        Err(error) => {
            assert!(std::env::var_os("CI").is_none(), "{name} is missing in CI: {error}");
            eprintln!("skipped: {name} is not installed (./test.sh installs it)");
            None
        }
    }
}

/// Processes whose command line names this folder.
fn processes_on(folder: &Path) -> Vec<u32> {
    let folder = folder.to_string_lossy().into_owned();
    let pids = std::fs::read_dir("/proc").expect("processes can be listed").flatten();
    pids.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&line).contains(&folder)
        })
        .collect()
}

#[tokio::test]
async fn a_film_travels_sealed_is_paid_for_and_plays_in_a_browser() {
    let folder = tempfile::tempdir().expect("a folder");
    let demo = Demo::start(&folder.path().join("swarm"));

    let names: Vec<&str> = demo.steps.iter().map(|s| s["step"].as_str().expect("a step has a name")).collect();
    assert_eq!(names, STEPS);
    assert!(demo.steps.iter().all(|s| s["ok"] == true && s["seconds"].is_f64()), "{:#?}", demo.steps);
    assert!(
        demo.steps[5]["bytes_from"]["box 1"].as_u64() > Some(0)
            && demo.steps[5]["bytes_from"]["box 2"].as_u64() > Some(0)
    );

    let (id, path) = demo.item();
    if let Some(printed) = tool("b3sum", &[&path]) {
        assert!(printed.starts_with(id.as_bytes()), "b3sum prints {}", String::from_utf8_lossy(&printed));
    }
    let film = include_bytes!("../../media/harbour-at-dawn.mp4");
    if let Some(part) = tool("curl", &["-sf", "-r", "1000000-1000999", &demo.play_url()]) {
        assert_eq!(part, film[1_000_000..1_001_000]);
    }
    if tool("chromedriver", &["--version"]).is_some() {
        plays_in_a_browser(&demo).await;
    }

    // Killed hard, it takes everything with it.
    let own = demo.process.id();
    let swarm = demo.keep.clone();
    drop(demo);
    let begun = Instant::now();
    while processes_on(&swarm).iter().any(|pid| *pid != own) {
        assert!(begun.elapsed() < Duration::from_secs(20), "daemons outlive a killed demo: {:?}", processes_on(&swarm));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn plays_in_a_browser(demo: &Demo) {
    let browser = Browser::start().await;
    browser.open(&demo.links["box 2"]).await;
    browser.until("the film's tile on the television", "return document.querySelector('a.tile') !== null").await;
    browser.open(&demo.links["box 2"].replace("/tv", &format!("/tv/watch/{}", demo.item().0))).await;
    browser.until("a player", "return document.querySelector('video') !== null").await;
    browser.run("const v = document.querySelector('video'); v.muted = true; v.play();").await;
    browser.until("the picture to move", "return document.querySelector('video').currentTime > 0.5").await;
    browser.run("document.querySelector('video').currentTime = 30").await;
    browser
        .until(
            "the picture to move after a seek",
            "const v = document.querySelector('video'); return !v.seeking && v.currentTime > 30.3",
        )
        .await;
    let size = browser.run("const v = document.querySelector('video'); return [v.videoWidth, v.videoHeight]").await;
    assert_eq!(size, serde_json::json!([1280, 720]));
    browser.quit().await;
}

#[test]
fn a_demo_that_is_asked_to_stop_leaves_neither_processes_nor_files() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut process = Command::new(env!("CARGO_BIN_EXE_demo"))
        .args(["--headless", "--json"])
        .env("TMPDIR", folder.path())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the demo starts");
    let output = process.stdout.take().expect("its output is piped");
    let first = BufReader::new(output).lines().next().expect("a step").expect("it can be read");
    assert!(first.contains("publish"), "{first}");
    let pid = rustix::process::Pid::from_child(&process);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("it runs");
    let ended = process.wait().expect("it ends");
    assert_eq!(ended.code(), Some(143));
    assert_eq!(processes_on(folder.path()), Vec::<u32>::new());
    assert_eq!(std::fs::read_dir(folder.path()).expect("the folder is there").count(), 0, "files are left behind");
}

#[test]
fn bad_options_say_what_is_wrong_and_start_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("mine"), "precious").expect("a file");
    let full = folder.path().to_string_lossy().into_owned();
    let empty = folder.path().join("empty.mp4");
    std::fs::write(&empty, "").expect("a file");
    let empty = empty.to_string_lossy().into_owned();
    for (args, exit, says) in [
        (vec!["--boxes", "2"], 2, "between 3 and 12"),
        (vec!["--keep", &full], 10, "is not empty"),
        (vec!["--media", "/nowhere/film.mp4"], 4, "/nowhere/film.mp4"),
        (vec!["--media", &empty], 2, "is empty"),
        (vec!["as", "butler"], 2, "tracker, keyserver or peer-node"),
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_demo")).args(&args).output().expect("the demo starts");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(exit), "{args:?}: {stderr}");
        assert!(stderr.contains(says), "{args:?} says: {stderr}");
    }
    assert_eq!(std::fs::read(folder.path().join("mine")).expect("the file is still there"), b"precious");
}
