//! Everything Reelswarm decides: types, formats, crypto and state machines.
//!
//! Pure by construction: no clock, file, socket, environment or global randomness is reachable from here (`clippy.toml`
//! and `tests/it/purity.rs` see to it). Time comes in as [`time::Now`], randomness as `&mut impl CryptoRng` or a seed.

pub mod pb;
