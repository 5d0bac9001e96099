//! Integration tests of peer-node: real sockets, real files, real processes.
