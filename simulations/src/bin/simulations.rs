//! Whole swarms in virtual time: see `simulations::cli`.

fn main() -> std::process::ExitCode {
    simulations::cli::main(std::env::args_os())
}
