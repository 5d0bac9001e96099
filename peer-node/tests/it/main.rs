//! Integration tests of peer-node: real sockets, real files, real processes.

mod grants;
mod cli;
mod fake_tracker;
mod items;
mod making;
mod play;
mod publish;
mod swarm;
mod tracker_link;
