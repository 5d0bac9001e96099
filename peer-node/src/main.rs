//! The `peer-node` program: everything is in the library, so that others can start a device too.

use std::process::ExitCode;

fn main() -> ExitCode {
    peer_node::run(std::env::args_os())
}
