//! The keyserver: orders, payments, passes, keys and grants.
//!
//! What it decides is `swarm_proto::keyserver`; what is here waits, writes and answers. Start at [`server`] for how the
//! parts hang together, at [`books`] for who owns the state, at [`journal`] and [`vault`] for what is on disk. [`run`]
//! is the whole program.

pub mod anchor;
pub mod books;
mod caller;
mod cashier;
mod checkout;
pub mod cli;
pub mod clock;
pub mod config;
mod console;
mod convert;
mod crash;
mod gateway;
pub mod journal;
mod link;
mod page;
mod provider_hook;
mod refusals;
mod secret;
pub mod server;
mod services;
pub mod till;
pub mod vault;
mod witnesses;
mod words;

use rand::rand_core::UnwrapErr;
use rand::rngs::SysRng;

pub use cli::run;

/// The operating system's randomness; nothing else is used for keys, codes and ids.
pub(crate) fn rng() -> UnwrapErr<SysRng> {
    UnwrapErr(SysRng)
}
