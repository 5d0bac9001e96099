//! What the parts of Reelswarm cost.
//!
//! `cargo bench -p benches --bench formats` measures sealing, opening and verifying beside the bare cipher and the bare
//! hash, in one go, so that what counts is a ratio and not the machine.
//!
//! `cargo bench -p benches --bench keyserver` measures how many purchases a second become keys, beside what the same
//! disk gives for bare batches of writes.
//!
//! `cargo run --release -p benches --bin planner` measures the tracker's planner alone, as the swarm grows.
//!
//! `cargo run --release -p benches --bin tracker-bench -- assign` measures the whole tracker beside a bare echo, and
//! `… restart` how soon it serves again after a `kill -9`.
//!
//! `cargo run --release -p benches --bin versus` carries one file through a whole swarm of ours and through what one
//! would take instead.

pub mod tracker;
