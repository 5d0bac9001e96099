//! The tracker: catalog, customers, queues, holdings and plans of a site.
//!
//! What it decides is `swarm_proto::tracker`; what is here waits, writes and answers. Start at [`server`] for how the
//! parts hang together, at `state` for who owns what it knows, at `records` for what is on disk, at `services` for what
//! devices and operators can ask. [`run`] is the whole program.

mod auth;
mod cli;
mod clock;
pub mod config;
mod convert;
mod human;
mod mailbox;
mod page;
mod records;
mod refusal;
pub mod server;
mod services;
mod state;

pub use cli::run;
