//! Rules that hold for the repository as a whole: what may be locked, where things are, what the documents promise.
//!
//! Reads files of the checkout only; never builds or runs anything.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("simulations lies in the workspace").to_path_buf()
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|e| panic!("cannot read {path}: {e}"))
}

/// Every locked version of each package.
fn locked() -> BTreeMap<String, Vec<(u64, u64, u64)>> {
    let lock: toml::Table = read("Cargo.lock").parse().expect("Cargo.lock is TOML");
    let mut versions = BTreeMap::<String, Vec<_>>::new();
    for package in lock["package"].as_array().expect("Cargo.lock lists packages") {
        let name = package["name"].as_str().expect("a package has a name").to_owned();
        versions.entry(name).or_default().push(version(package["version"].as_str().expect("a package has a version")));
    }
    versions
}

fn version(text: &str) -> (u64, u64, u64) {
    let core = text.split(['-', '+']).next().unwrap_or(text);
    let mut parts = core.split('.').map(|p| p.parse().expect("a version part is a number"));
    (parts.next().unwrap_or(0), parts.next().unwrap_or(0), parts.next().unwrap_or(0))
}

/// Advisories often appear months late: below these versions a known hole is open (docs/security.md, "Floors").
const FLOORS: &[(&str, &str)] = &[
    ("libp2p", "0.57.1"),
    ("yamux", "0.14.0"),
    ("quinn-proto", "0.11.19"),
    ("h2", "0.4.16"),
    ("tonic", "0.14.0"),
    ("rustls", "0.23.46"),
    ("rustls-webpki", "0.103.13"),
    ("ring", "0.17.12"),
    ("hickory-proto", "0.26.1"),
    ("prost", "0.14.0"),
    ("tracing-subscriber", "0.3.20"),
    ("curve25519-dalek", "4.1.3"),
    ("bytes", "1.11.1"),
    ("time", "0.3.47"),
];

#[test]
fn no_locked_version_lies_below_its_floor() {
    let locked = locked();
    for (name, floor) in FLOORS {
        for found in locked.get(*name).into_iter().flatten() {
            assert!(*found >= version(floor), "{name} {found:?} is locked, the floor is {floor}");
        }
    }
}

#[test]
fn libraries_we_do_without_stay_out() {
    let locked = locked();
    for name in ["libp2p-gossipsub", "libp2p-rendezvous", "openssl", "openssl-sys", "native-tls", "protoc"] {
        assert!(!locked.contains_key(name), "{name} has come in: cargo tree -i {name} tells through whom");
    }
    assert_eq!(locked["yamux"].len(), 1, "a second line of yamux has come in");
}

#[test]
fn nothing_lies_at_the_top_but_the_house() {
    let allowed: BTreeSet<&str> = [
        "Cargo.toml",
        "Cargo.lock",
        "README.md",
        "ARCHITECTURE.md",
        "LICENSE",
        "proto",
        "swarm-proto",
        "daemon",
        "tracker",
        "keyserver",
        "peer-node",
        "simulations",
        "benches",
        "docs",
        "test.sh",
        "rustfmt.toml",
        "target",
    ]
    .into();
    for entry in std::fs::read_dir(root()).expect("the workspace can be listed") {
        let name = entry.expect("an entry can be read").file_name().into_string().expect("names are UTF-8");
        assert!(name.starts_with('.') || allowed.contains(name.as_str()), "{name} does not belong at the top");
    }
}

#[test]
fn the_readme_is_short_and_starts_with_the_two_commands() {
    let readme = read("README.md");
    assert!(readme.lines().count() <= 150, "README.md has more than 150 lines");
    let first_screen = readme.lines().take(40).collect::<Vec<_>>().join("\n");
    for command in ["cargo run --release --bin demo", "./test.sh"] {
        assert!(first_screen.contains(command), "`{command}` is not on the first screen of README.md");
    }
}

/// A row of docs/requirements.md that names proofs must name tests that exist.
#[test]
fn every_proof_named_in_the_requirements_exists() {
    let sources = sources();
    let mut rows = 0;
    for line in read("docs/requirements.md").lines().filter(|l| l.starts_with("| ")) {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [id, .., proofs] = cells.as_slice() else { continue };
        if !id.starts_with(|c: char| c.is_ascii_uppercase()) || !id.ends_with(|c: char| c.is_ascii_digit()) {
            continue;
        }
        rows += 1;
        for proof in proofs.split('`').skip(1).step_by(2) {
            let function = proof.rsplit("::").next().unwrap_or(proof);
            assert!(
                sources.iter().any(|(_, text)| {
                    text.contains(&format!("fn {function}(")) || text.contains(&format!("\"{function}\""))
                }),
                "row {id} names `{proof}`, and no such test (or step of the demo) exists"
            );
        }
    }
    assert!(rows >= 42, "docs/requirements.md has lost rows: {rows} left");
}

/// Codes that several crates say on purpose, and what each means wherever it is said.
const SAID_BY_SEVERAL: &[&str] = &[
    "E-CALL-01",  // the caller has not proven who it is
    "E-DATA-06",  // nothing runs on this data folder
    "E-FIELD-01", // a field breaks its bound
];

/// A person searches for a code and finds one explanation: no two crates use it for things of their own.
#[test]
fn every_error_code_has_one_meaning() {
    let mut said = BTreeMap::<String, BTreeSet<String>>::new();
    for (path, text) in sources() {
        let own = path.components().map(|part| part.as_os_str().to_string_lossy()).collect::<Vec<_>>();
        if own.iter().any(|part| part == "tests" || part == "tests.rs") {
            continue;
        }
        let text = text.split("#[cfg(test)]\nmod ").next().unwrap_or(&text);
        for code in codes(text) {
            assert!(is_well_formed(code), "{} says {code}; a code reads E-WORD-00", path.display());
            said.entry(code.to_owned()).or_default().insert(own[0].to_string());
        }
    }
    assert!(said.len() >= 100, "only {} codes were found: are they written otherwise now?", said.len());
    for (code, crates) in &said {
        let is_shared = SAID_BY_SEVERAL.contains(&code.as_str());
        assert!(is_shared || crates.len() == 1, "{code} is said by {crates:?}: give one of them a number of its own");
    }
    for code in SAID_BY_SEVERAL {
        assert!(said.get(*code).is_some_and(|crates| crates.len() > 1), "{code} is not said by several any more");
    }
}

/// The string literals of a source that begin as codes do.
fn codes(text: &str) -> impl Iterator<Item = &str> {
    text.match_indices("\"E-").map(|(start, _)| {
        let literal = &text[start + 1..];
        &literal[..literal.find('"').unwrap_or(literal.len())]
    })
}

/// Whether it reads `E-WORD-00`; the two digits may be those of a number that is filled in.
fn is_well_formed(code: &str) -> bool {
    let parts: Vec<&str> = code.split('-').collect();
    let ["E", word, number] = parts.as_slice() else { return false };
    let is_word = !word.is_empty() && word.bytes().all(|b| b.is_ascii_uppercase());
    is_word && (*number == "{:02}" || (number.len() == 2 && number.bytes().all(|b| b.is_ascii_digit())))
}

/// All Rust sources of the workspace: where they are, from its root, and what they say.
fn sources() -> Vec<(PathBuf, String)> {
    fn walk(folder: &Path, all: &mut Vec<(PathBuf, String)>) {
        for entry in std::fs::read_dir(folder).expect("a source folder can be listed").flatten() {
            let path = entry.path();
            if path.is_dir() && !path.ends_with("target") {
                walk(&path, all);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let text = std::fs::read_to_string(&path).expect("sources are UTF-8");
                all.push((path.strip_prefix(root()).expect("it lies in the workspace").to_path_buf(), text));
            }
        }
    }
    let mut all = Vec::new();
    for member in ["swarm-proto", "daemon", "tracker", "keyserver", "peer-node", "simulations", "benches"] {
        walk(&root().join(member), &mut all);
    }
    all
}
