//! The main job of Reelswarm end to end, on one computer: see `simulations::demo`.

fn main() -> std::process::ExitCode {
    simulations::demo::main(std::env::args_os())
}
