//! Everything Reelswarm decides: types, formats, crypto and state machines.
//!
//! Pure by construction: no clock, file, socket, environment or global randomness is reachable from here (`clippy.toml`
//! and `tests/it/purity.rs` see to it). Time comes in as [`time::Now`], randomness as `&mut impl CryptoRng` or a seed.

pub mod bitmap;
pub mod call;
pub mod catalog;
pub mod code;
pub mod cpix;
pub mod drip;
pub mod geometry;
pub mod id;
pub mod invalid;
pub mod keyserver;
pub mod licence;
pub mod limit;
pub mod manifest;
pub mod membership;
pub mod pb;
pub mod peer;
pub mod revocations;
pub mod seal;
pub mod server_time;
pub mod signed;
pub mod span_tree;
pub mod succession;
pub mod ticket;
pub mod time;
pub mod tracker;
pub mod wire;
pub mod wrap;
