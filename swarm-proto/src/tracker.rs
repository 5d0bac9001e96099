//! The decisions of the tracker: who may be admitted, what is listed, what a customer wants next, and who sends what.
//!
//! Every type here is a synchronous owner of its state. The daemon writes what they decide to its store before it
//! answers, and gives it back to them at the next start; none of them knows of stores, sockets or clocks.

pub mod accounts;
pub mod addresses;
pub mod admission;
pub mod catalog;
pub mod demand;
pub mod guesses;
pub mod origin;
pub mod pairing;
pub mod placement;
pub mod planner;
pub mod preload;
pub mod proofs;
pub mod queue;
pub mod registry;
pub mod repositories;
pub mod revocations;
pub mod signins;
pub mod sites;
pub mod tickets;

mod fixed;
