//! Whole swarms on one computer.
//!
//! [`demo`] runs the real daemons as processes and shows the main job end to end. [`world`] is a swarm in virtual time,
//! which runs the machines of `swarm-proto`; [`scenario`] says what happens in it, and [`cli`] is the program around
//! them.

pub mod cli;
#[cfg(feature = "demo")]
pub mod demo;
pub mod expect;
pub mod scenario;
mod statistics;
pub mod world;
