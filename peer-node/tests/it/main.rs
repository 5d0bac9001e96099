//! Integration tests of peer-node: real sockets, real files, real processes.

mod items;
mod making;
mod play;
mod publish;
mod swarm;
