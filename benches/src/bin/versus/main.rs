//! One file from one source to one sink, and to three: through us and through what one would take instead.
//!
//! `cargo run --release -p benches --bin versus -- [--json] [--runs N] [--size 1GiB] [--only NAME]...`
//!
//! Every contender is programs of its own on loopback; they take turns, run by run, so that what counts is a ratio of
//! things measured side by side. A run begins when the sinks are told to fetch and ends when the last has the whole
//! file on disk. Outputs of the run before are deleted and the disk synced first; afterwards every output is compared
//! with the file. A contender that is not installed is named with how to install it.
//!
//! `mb_per_s` counts every copy, 10^6 bytes each MB. `cpu_s_per_gib_source` is for all copies together,
//! `cpu_s_per_gib_sink` for one; `first_byte_ms` is when the first sink has the first byte of the file on its disk.
//! We are held to more than the others: a box has the whole file once it is durable and its bitmap says so.

mod chart;
mod commands;
mod measure;
mod others;
mod ours;
mod raw_tcp;
mod report;
mod restart;
mod torrent;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, ensure};
use clap::Parser;
use daemon::units::ByteSize;
use daemon::{Exit, Failure};

use self::others::Other;
use self::ours::Swarm;
use self::report::Report;

/// Fewer have no median worth the name.
const MIN_RUNS: usize = 3;

/// Carries one file through Reelswarm and through other programs, in turn, on this computer.
#[derive(Parser)]
#[command(name = "versus", version)]
struct Options {
    /// Runs of each contender and shape, at least 3; the median counts.
    #[arg(long, default_value_t = MIN_RUNS, value_name = "N")]
    runs: usize,
    /// How large the file is.
    #[arg(long, default_value = "1 GiB")]
    size: ByteSize,
    /// Only these contenders [all: --only list].
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
    /// Only these shapes: 1x1, 1x3.
    #[arg(long, value_name = "SHAPE")]
    shape: Vec<String>,
    /// Where programs are that are not on PATH.
    #[arg(long, value_name = "FOLDER")]
    programs: Vec<PathBuf>,
    /// Work here instead of in the system's temporary folder; should be the disk that is meant.
    #[arg(long, value_name = "FOLDER")]
    folder: Option<PathBuf>,
    /// Settings for every box and the seed, as KEY=VALUE.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    settings: Vec<String>,
    /// Where the chart goes; not drawn with --json.
    #[arg(long, default_value = "versus.svg", value_name = "FILE")]
    svg: PathBuf,
    /// Only kill a box of ours at nine tenths of the file, and see how it goes on.
    #[arg(long, conflicts_with_all = ["only", "shape"])]
    restart: bool,
    /// One JSON object per contender and shape on standard output.
    #[arg(long)]
    json: bool,
}

/// From one source to so many sinks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Shape(usize);

const SHAPES: [Shape; 2] = [Shape(1), Shape(3)];

impl std::fmt::Display for Shape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "1x{}", self.0)
    }
}

/// Who takes part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Contender {
    Reelswarm,
    Other(Other),
}

impl Contender {
    fn all() -> Vec<Contender> {
        std::iter::once(Contender::Reelswarm).chain(Other::ALL.map(Contender::Other)).collect()
    }

    fn name(self) -> &'static str {
        match self {
            Contender::Reelswarm => "reelswarm",
            Contender::Other(other) => other.name(),
        }
    }
}

fn main() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().collect();
    if args.get(1).is_some_and(|a| a == "as") {
        let rest = args.iter().skip(2).cloned();
        return match args.get(2).and_then(|role| role.to_str()) {
            Some("tracker") => tracker::run(rest),
            Some("keyserver") => keyserver::run(rest),
            Some("peer-node") => peer_node::run(rest),
            Some("raw-source") => raw_tcp::source(&args[3..]),
            Some("raw-sink") => raw_tcp::sink(&args[3..]),
            _ => {
                eprintln!("error: `versus as` takes a program that versus itself starts");
                ExitCode::from(Exit::Usage.number())
            }
        };
    }
    let options = Options::parse_from(args);
    let json = options.json;
    daemon::run_main(json, Box::pin(run(options)))
}

/// The file that is carried, and what it must be at the other end.
struct Original {
    path: PathBuf,
    len: u64,
    hash: blake3::Hash,
}

impl Original {
    /// A file that no compressor and no chance can guess.
    fn make(folder: &Path, len: u64) -> anyhow::Result<Original> {
        std::fs::create_dir_all(folder)?;
        let path = folder.join("film.bin");
        let mut noise = std::io::Read::take(blake3::Hasher::new_keyed(&[7; 32]).finalize_xof(), len);
        std::io::copy(&mut noise, &mut std::fs::File::create(&path)?)
            .with_context(|| format!("failed to write {}", path.display()))?;
        Ok(Original { hash: hash(&path)?, path, len })
    }

    fn check(&self, copy: &Path) -> anyhow::Result<()> {
        let found = hash(copy)?;
        ensure!(found == self.hash, "{} is not what was sent", copy.display());
        Ok(())
    }
}

fn hash(path: &Path) -> anyhow::Result<blake3::Hash> {
    let failed = || format!("failed to read {}", path.display());
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(std::fs::File::open(path).with_context(failed)?).with_context(failed)?;
    Ok(hasher.finalize())
}

async fn run(options: Options) -> anyhow::Result<Exit> {
    let (contenders, shapes) = chosen(&options)?;
    let base = options.folder.clone().unwrap_or_else(std::env::temp_dir);
    std::fs::create_dir_all(&base).with_context(|| format!("failed to make {}", base.display()))?;
    let folder = tempfile::Builder::new().prefix("reelswarm-versus-").tempdir_in(&base)?;
    let original = Original::make(&folder.path().join("source"), options.size.bytes())?;
    let mut report = Report::new(options.json, options.runs);
    if options.restart {
        let mut swarm = Swarm::start(&folder.path().join("swarm"), &original, &options.settings).await?;
        for _ in 0..options.runs {
            report.restarted(&swarm.kill_and_go_on().await?);
        }
        swarm.stop().await?;
        return Ok(Exit::Done);
    }

    let mut present = Vec::new();
    for contender in contenders {
        match contender {
            Contender::Other(other) => match others::find(other, &options.programs) {
                Ok(programs) => present.push((contender, Some(programs))),
                Err(install) => report.missing(contender.name(), &install),
            },
            Contender::Reelswarm => present.push((contender, None)),
        }
    }
    let mut swarm = match present.iter().any(|(contender, _)| *contender == Contender::Reelswarm) {
        true => Some(Swarm::start(&folder.path().join("swarm"), &original, &options.settings).await?),
        false => None,
    };
    for shape in shapes {
        for run in 0..options.runs {
            // Back and forth, so that nobody always comes after the same neighbour.
            let forth = run % 2 == 0;
            for n in 0..present.len() {
                let (contender, programs) = &present[if forth { n } else { present.len() - 1 - n }];
                report.progress(contender.name(), shape, run);
                let result = match (contender, programs, &mut swarm) {
                    (Contender::Other(other), Some(programs), _) => {
                        others::run(*other, programs, shape, &original, &folder.path().join("others")).await
                    }
                    (_, _, Some(swarm)) => swarm.run(shape, &original).await,
                    _ => continue,
                };
                report.add(contender.name(), shape, result);
            }
        }
        report.shape_is_done(shape, &present.iter().map(|(contender, _)| contender.name()).collect::<Vec<_>>());
    }
    if let Some(swarm) = &mut swarm {
        swarm.stop().await?;
    }
    if !options.json {
        chart::draw(&options.svg, report.rows())?;
        println!("\nchart: {}", options.svg.display());
    }
    Ok(if report.all_well() { Exit::Done } else { Exit::Failed })
}

fn chosen(options: &Options) -> Result<(Vec<Contender>, Vec<Shape>), Failure> {
    let wrong = |what: String, hint: String| Failure::new(Exit::Usage, "E-VERSUS-01", what).hint(hint);
    if options.runs < MIN_RUNS {
        let what = format!("--runs {} gives no median", options.runs);
        return Err(wrong(what, format!("--runs {MIN_RUNS} or more")));
    }
    if options.size.bytes() < 1 << 20 {
        return Err(wrong(format!("--size {} is too little to measure", options.size), "--size 1MiB or more".into()));
    }
    let names: Vec<&str> = Contender::all().iter().map(|contender| contender.name()).collect();
    if let Some(unknown) = options.only.iter().find(|name| !names.contains(&name.as_str())) {
        return Err(wrong(format!("--only {unknown} is no contender"), format!("one of {}", names.join(", "))));
    }
    if let Some(unknown) = options.shape.iter().find(|name| SHAPES.iter().all(|shape| shape.to_string() != **name)) {
        return Err(wrong(format!("--shape {unknown} is not measured"), "1x1 or 1x3".into()));
    }
    let is_chosen = |list: &[String], name: &str| list.is_empty() || list.iter().any(|chosen| chosen == name);
    let contenders = Contender::all().into_iter().filter(|contender| is_chosen(&options.only, contender.name()));
    let shapes = SHAPES.into_iter().filter(|shape| is_chosen(&options.shape, &shape.to_string()));
    Ok((contenders.collect(), shapes.collect()))
}
