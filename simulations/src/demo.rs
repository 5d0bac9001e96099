//! The main job end to end, on one computer: publish, carry, refuse, pay, play, share, survive.
//!
//! Every daemon is a real process on loopback with a data folder in one temporary folder; every step checks what it
//! claims and is timed. Nothing is left behind: processes end with this one, even when it is killed, and the folder
//! goes unless `--keep` names one.

pub mod device;
mod leaks;
mod liar;
mod node;
mod process;
mod report;
mod steps;
mod till;
mod world;

use std::ffi::OsString;
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser;
use daemon::{Exit, Failure, Shutdown};

/// The film that is published when no other is named: see `media/make.sh`.
const FILM: &[u8] = include_bytes!("../media/harbour-at-dawn.mp4");

/// Fewer boxes cannot show a title coming from two of them.
const MIN_BOXES: usize = 3;
/// More processes than this only measure the computer.
const MAX_BOXES: usize = 12;

/// Sends a film through a whole swarm on this computer: tracker, keyserver, one seed and three boxes, real processes
/// on loopback.
#[derive(Parser)]
#[command(
    name = "demo",
    version,
    after_help = "Examples:\n  demo                              watch it, then open the links; Ctrl-C ends it\n  demo --media film.mkv             with a file of your own\n  demo --headless --exit --json     for scripts: one JSON object per step, exit code 1 if any failed"
)]
struct Options {
    /// Number of boxes, 3 to 12.
    #[arg(long, default_value_t = MIN_BOXES, value_name = "N")]
    boxes: usize,
    /// Publish this file instead of the built-in film.
    #[arg(long, value_name = "FILE")]
    media: Option<PathBuf>,
    /// Keep all data folders and logs here (must be empty or absent).
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
    /// End after the last step instead of staying up.
    #[arg(long)]
    exit: bool,
    /// No moving display.
    #[arg(long)]
    headless: bool,
    /// One JSON object per step on standard output.
    #[arg(long)]
    json: bool,
}

/// The whole program. With `as ROLE …` it is that daemon instead.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let args: Vec<OsString> = args.into_iter().collect();
    if args.get(1).is_some_and(|a| a == "as") {
        let role = args.get(2).cloned().unwrap_or_default();
        return match role.to_str() {
            Some("tracker") => tracker::run(args.into_iter().skip(2)),
            Some("keyserver") => keyserver::run(args.into_iter().skip(2)),
            Some("peer-node") => peer_node::run(args.into_iter().skip(2)),
            _ => {
                eprintln!("error: `demo as` takes tracker, keyserver or peer-node");
                ExitCode::from(Exit::Usage.number())
            }
        };
    }
    let options = Options::parse_from(args);
    let json = options.json;
    daemon::run_main(json, run(options))
}

async fn run(options: Options) -> anyhow::Result<Exit> {
    if !(MIN_BOXES..=MAX_BOXES).contains(&options.boxes) {
        let what = format!("--boxes {} is not between {MIN_BOXES} and {MAX_BOXES}", options.boxes);
        return Err(Failure::new(Exit::Usage, "E-DEMO-01", what).into());
    }
    let folder = Folder::new(options.keep.as_deref())?;
    let original = Original::prepare(options.media.as_deref(), folder.path())?;
    let shutdown = Shutdown::listen()?;
    steps::run(&options, folder.path(), &original, &shutdown).await
}

/// Where everything of this run lies.
enum Folder {
    Temporary(tempfile::TempDir),
    Kept(PathBuf),
}

impl Folder {
    fn new(keep: Option<&Path>) -> anyhow::Result<Folder> {
        let Some(keep) = keep else {
            return Ok(Folder::Temporary(tempfile::Builder::new().prefix("reelswarm-demo-").tempdir()?));
        };
        std::fs::create_dir_all(keep).with_context(|| format!("failed to create {}", keep.display()))?;
        let keep = keep.canonicalize()?;
        if std::fs::read_dir(&keep)?.next().is_some() {
            let failure = Failure::new(Exit::Conflict, "E-DEMO-02", format!("{} is not empty", keep.display()))
                .hint("name a new folder with --keep");
            return Err(failure.into());
        }
        Ok(Folder::Kept(keep))
    }

    fn path(&self) -> &Path {
        match self {
            Folder::Temporary(folder) => folder.path(),
            Folder::Kept(folder) => folder,
        }
    }
}

/// The clear file a title was made from.
struct Original {
    file: PathBuf,
    name: String,
    len: u64,
    hash: blake3::Hash,
}

impl Original {
    fn prepare(media: Option<&Path>, folder: &Path) -> anyhow::Result<Original> {
        match media {
            None => {
                let file = folder.join("harbour-at-dawn.mp4");
                std::fs::write(&file, FILM)?;
                Original::of(&file, "Harbour at dawn")
            }
            Some(media) => {
                let file = media
                    .canonicalize()
                    .map_err(|error| Failure::io(format!("cannot read {}", media.display()), &error))?;
                let name = media.file_stem().map(|s| s.to_string_lossy().into_owned()).unwrap_or_default();
                Original::of(&file, &name)
            }
        }
    }

    /// A file of `mib` MiB that no compressor and no chance can guess.
    fn noise(folder: &Path, name: &str, mib: u64) -> anyhow::Result<Original> {
        let file = folder.join(format!("{}.bin", name.to_lowercase().replace(' ', "-")));
        let mut key = [0; 32];
        getrandom::fill(&mut key)?;
        let mut noise = blake3::Hasher::new_keyed(&key).finalize_xof();
        std::io::copy(&mut std::io::Read::by_ref(&mut noise).take(mib << 20), &mut File::create(&file)?)?;
        Original::of(&file, name)
    }

    fn of(file: &Path, name: &str) -> anyhow::Result<Original> {
        let failed = || format!("failed to read {}", file.display());
        let len = std::fs::metadata(file).with_context(failed)?.len();
        if len == 0 {
            let what = format!("{} is empty", file.display());
            return Err(Failure::new(Exit::Usage, "E-DEMO-03", what).hint("name a file with something in it").into());
        }
        let mut hasher = blake3::Hasher::new();
        hasher.update_reader(File::open(file).with_context(failed)?).with_context(failed)?;
        Ok(Original { file: file.to_path_buf(), name: name.to_owned(), len, hash: hasher.finalize() })
    }

    /// Bytes `from..=to`.
    fn read(&self, from: u64, to: u64) -> anyhow::Result<Vec<u8>> {
        let mut file = File::open(&self.file)?;
        file.seek(SeekFrom::Start(from))?;
        let mut bytes = Vec::new();
        file.take(to - from + 1).read_to_end(&mut bytes)?;
        Ok(bytes)
    }
}
