//! What the formats and the crypto of `swarm-proto` promise, from outside.

#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "tests read vectors from disk and run cargo; the library may not"
)]

mod drip;
mod manifests;
mod purity;
mod sealing;
mod statements;
mod support;
mod vectors;
mod wire;
mod wire_frames;
mod wrapping;
