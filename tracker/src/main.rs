//! The `tracker` program: everything is in the library, so that others can start a tracker too.

use std::process::ExitCode;

fn main() -> ExitCode {
    tracker::run(std::env::args_os())
}
