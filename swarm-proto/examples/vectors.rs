//! Writes `tests/vectors/` anew: `cargo run -p swarm-proto --example vectors`.
//!
//! Do so only with a new version of a format; the diff is what every other implementation has to follow.

#![allow(clippy::disallowed_methods, reason = "writes files; the library may not")]

#[path = "../tests/it/support.rs"]
#[allow(dead_code, reason = "shared with the tests, which use the rest of it")]
mod support;
#[path = "../tests/it/vectors.rs"]
mod vectors;

fn main() -> std::io::Result<()> {
    for (name, value) in vectors::all() {
        let path = vectors::folder().join(name);
        std::fs::write(&path, vectors::text(&value))?;
        println!("{}", path.display());
    }
    Ok(())
}
