//! The library cannot reach a clock, a socket or a runtime, because nothing it depends on brings one.

use std::process::Command;

/// What would make a decision depend on the machine it runs on. Names of packages, as `cargo tree` prints them.
const FORBIDDEN: [&str; 7] = ["tokio", "tonic", "libp2p-swarm", "libp2p", "sled", "mio", "hyper"];

/// The dependency tree of the library without feature `grpc`, with these further arguments.
fn tree(arguments: &[&str]) -> String {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let output = Command::new(cargo)
        .args(["tree", "-p", "swarm-proto", "--no-default-features", "--offline", "--locked", "--prefix", "none"])
        .args(arguments)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo runs: it has just built this test");
    assert!(output.status.success(), "cargo tree failed: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("cargo prints UTF-8")
}

#[test]
fn calendar_can_read_neither_the_clock_nor_the_zones_of_the_machine() {
    let features = tree(&["-e", "normal,features"]);
    assert!(features.contains("jiff feature \"tzdb-bundle-always\""), "the tree was read: {features}");
    for forbidden in ["std", "default", "tz-system", "tzdb-zoneinfo", "tzdb-concatenated"] {
        let feature = format!("jiff feature \"{forbidden}\"");
        assert!(!features.contains(&feature), "{feature}: a decision would depend on where it is made");
    }
}

#[test]
fn nothing_that_does_io_is_in_the_dependency_tree() {
    let tree = tree(&["-e", "normal"]);
    let packages: Vec<&str> = tree.lines().filter_map(|line| line.split_whitespace().next()).collect();
    assert!(packages.contains(&"blake3"), "the tree was read: {tree}");
    for forbidden in FORBIDDEN {
        assert!(!packages.contains(&forbidden), "{forbidden} has become a dependency of swarm-proto");
    }
}
