//! The base of the daemons as a daemon uses it: over real sockets, in real folders, with real processes.

mod process;
mod serve;
