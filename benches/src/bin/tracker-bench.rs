//! What a tracker costs as a whole program; see `benches::tracker`.

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use benches::tracker::{assign, echo, restart, world};
use clap::{Parser, Subcommand};

/// Measures a tracker in a process of its own.
#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// One JSON object a line, for programs
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Subcommand)]
enum Command {
    /// Questions "who sends this to me?" answered in a second, beside a bare echo of the same messages
    Assign {
        /// Boxes that ask
        #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=10_000))]
        boxes: u32,
        /// Rounds of either, in turn
        #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u8).range(1..))]
        rounds: u8,
        /// Seconds of each round
        #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u64).range(1..))]
        seconds: u64,
    },
    /// How soon it serves again after kill -9, when it knows many devices with 20 titles each
    Restart {
        /// Devices
        #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
        devices: u32,
        /// Restarts
        #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..))]
        rounds: u8,
    },
}

fn main() -> anyhow::Result<ExitCode> {
    let args: Vec<OsString> = std::env::args_os().collect();
    match args.get(1).and_then(|arg| arg.to_str()) {
        Some(world::BE_TRACKER) => {
            let rest = args.into_iter().skip(2);
            return Ok(tracker::run([OsString::from("tracker")].into_iter().chain(rest)));
        }
        Some(echo::BE_ECHO) => {
            runtime()?.block_on(echo::serve(Path::new(args.get(2).unwrap_or(&OsString::new()))))?;
            return Ok(ExitCode::SUCCESS);
        }
        _ => {}
    }
    let cli = Cli::parse();
    match cli.command {
        Command::Assign { boxes, rounds, seconds } => {
            let each = Duration::from_secs(seconds);
            show_assign(cli.json, &runtime()?.block_on(assign::measure(boxes, usize::from(rounds), each))?);
        }
        Command::Restart { devices, rounds } => {
            let progress = |so_far| eprintln!("{so_far} of {devices} devices are known");
            let figures = runtime()?.block_on(restart::measure(devices, usize::from(rounds), progress))?;
            figures.iter().for_each(|it| show_restart(cli.json, it));
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()
}

fn show_assign(json: bool, it: &assign::Figures) {
    if json {
        let line = serde_json::json!({
            "boxes": it.boxes, "echo_per_sec": it.echo_per_sec, "tracker_per_sec": it.tracker_per_sec,
            "ratio": it.ratio, "request_bytes": it.request_bytes, "answer_bytes": it.answer_bytes,
            "answered": it.answered,
        });
        println!("{line}");
        return;
    }
    println!("{} boxes; a question has {} bytes, an answer {}", it.boxes, it.request_bytes, it.answer_bytes);
    println!("{:.0} % of the answers name sources", it.answered * 100.0);
    println!("round  echo/s  tracker/s");
    for (n, (echo, tracker)) in it.echo_per_sec.iter().zip(&it.tracker_per_sec).enumerate() {
        println!("{:5}  {echo:6.0}  {tracker:9.0}", n + 1);
    }
    println!("tracker / echo: {:.2} (medians)", it.ratio);
}

fn show_restart(json: bool, it: &restart::Figures) {
    if json {
        let line = serde_json::json!({
            "devices": it.devices, "held": it.held, "ready_seconds": it.ready_seconds,
            "first_plan_seconds": it.first_plan_seconds, "peak_mib": it.peak_mib, "disk_mib": it.disk_mib,
        });
        println!("{line}");
        return;
    }
    println!(
        "{} devices × {} titles: ready after {:.2} s, first plan after {:.2} s; {:.0} MiB at most, {:.0} MiB on disk",
        it.devices, it.held, it.ready_seconds, it.first_plan_seconds, it.peak_mib, it.disk_mib
    );
}
