//! Integration tests of peer-node: real sockets, real files, real processes.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

mod cli;
mod fake_tracker;
mod grants;
mod items;
mod making;
mod net;
mod play;
mod publish;
mod swarm;
mod tracker_link;
