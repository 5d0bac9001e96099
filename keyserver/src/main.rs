//! The `keyserver` program: everything is in the library, so that others can start a keyserver too.

use std::process::ExitCode;

fn main() -> ExitCode {
    keyserver::run(std::env::args_os())
}
