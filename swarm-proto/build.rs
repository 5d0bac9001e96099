//! Compiles every `.proto` file under `proto/` to Rust, without `protoc`.
//!
//! Messages are always generated; gRPC clients and servers only with feature `grpc`. Writes, besides prost's own
//! files, `packages.rs` (one short alias per package that exists) and `descriptors.bin` (for gRPC reflection).

#![allow(clippy::disallowed_methods, reason = "a build script reads and writes files; the library may not")]

use std::collections::BTreeSet;
use std::error::Error;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{env, fs};

use prost::Message;

fn main() -> Result<(), Box<dyn Error>> {
    let root = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?).join("../proto").canonicalize()?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    println!("cargo::rerun-if-changed={}", root.display());

    let mut files = Vec::new();
    find_protos(&root, &mut files)?;
    files.sort();

    let descriptors = protox::compile(&files, [&root])?;
    fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    let packages: BTreeSet<String> = descriptors.file.iter().map(|file| file.package().to_owned()).collect();
    fs::write(out.join("packages.rs"), aliases(&packages)?)?;

    let grpc = env::var_os("CARGO_FEATURE_GRPC").is_some();
    tonic_prost_build::configure()
        .build_client(grpc)
        .build_server(grpc)
        .bytes(".reelswarm.common.v1.Signed.payload")
        .include_file("modules.rs")
        .compile_fds(descriptors)?;
    Ok(())
}

fn find_protos(folder: &Path, found: &mut Vec<PathBuf>) -> Result<(), Box<dyn Error>> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            find_protos(&path, found)?;
        } else if path.extension().is_some_and(|extension| extension == "proto") {
            found.push(path);
        }
    }
    Ok(())
}

/// `reelswarm.common.v1` is reached as `pb::common`: one version at a time is spoken, so the name need not carry it.
fn aliases(packages: &BTreeSet<String>) -> Result<String, Box<dyn Error>> {
    let mut text = String::new();
    for package in packages {
        if let ["reelswarm", name, version] = package.split('.').collect::<Vec<_>>()[..] {
            writeln!(text, "pub use reelswarm::{name}::{version} as {name};")?;
        }
    }
    Ok(text)
}
