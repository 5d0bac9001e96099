//! `keyserver audit`: reads the journal as a stranger would, and believes nothing that the chain does not prove.
//!
//! Works beside a running keyserver. Besides hashes, every record is held against those before it: no grant without
//! payment, no pass below zero, no second grant for a device. A snapshot is believed only as far as the volumes it was
//! made of are missing; where they are there, it has to agree with them.

use std::collections::{BTreeMap, VecDeque};
use std::fs::OpenOptions;
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use daemon::{DataFolder, Exit, Failure};
use serde::Serialize;
use swarm_proto::id::ServerId;
use swarm_proto::keyserver::ledger::Ledger;
use swarm_proto::keyserver::record::Record;
use swarm_proto::time::Utc;

use super::Global;
use crate::books;
use crate::config::Config;
use crate::journal::shelf::{Shelf, Story, Unreadable};
use crate::journal::snapshot::{self, TakeError};
use crate::journal::{self, Link, ReadError, Survey};
use crate::vault::Keys;

#[derive(Subcommand)]
pub(super) enum AuditCommand {
    /// Check the chain and every record; exit 12 when something does not fit
    Verify(FileArgs),
    /// Take a snapshot of the closed volumes now, and check it
    Snapshot,
    /// Print the last records
    Show {
        #[command(flatten)]
        file: FileArgs,
        /// How many
        #[arg(long, value_name = "N", default_value_t = 50)]
        limit: usize,
    },
    /// Write all records as JSON lines
    Export {
        #[command(flatten)]
        file: FileArgs,
        /// Where to [default: standard output]
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
}

#[derive(Args)]
pub(super) struct FileArgs {
    /// One file of a journal, such as a volume in a backup, instead of the data folder's
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// A folder with closed volumes that were moved out of the data folder; may be given several times
    #[arg(long, value_name = "FOLDER", conflicts_with = "file")]
    archive: Vec<PathBuf>,
}

/// What is read: one file, or the whole journal of a data folder.
enum Source {
    File(PathBuf),
    Journal(Shelf),
}

impl FileArgs {
    fn source(&self, global: &Global) -> Result<Source, Failure> {
        match &self.file {
            Some(file) => Ok(Source::File(file.clone())),
            None => {
                let folder = DataFolder::inspect(global.data_folder()?)?;
                Ok(Source::Journal(Shelf::new(folder.path()).with_archives(self.archive.iter().cloned())))
            }
        }
    }
}

impl Source {
    fn path(&self) -> PathBuf {
        match self {
            Source::File(path) => path.clone(),
            Source::Journal(shelf) => shelf.live(),
        }
    }

    /// The snapshot to begin with: none when every volume is there.
    fn begins_with(&self) -> Result<Option<PathBuf>, Failure> {
        let Source::Journal(shelf) = self else { return Ok(None) };
        let cannot = |error: io::Error| Failure::io("cannot look at the journal's folders", &error);
        let first = match shelf.volumes().map_err(cannot)?.first() {
            Some(volume) => volume.first,
            None => journal::after(&shelf.live()).map_or(1, |records| records + 1),
        };
        let mut snapshots = shelf.snapshots().map_err(cannot)?.into_iter();
        Ok(snapshots.find(|(records, _)| first > 1 && *records + 1 >= first).map(|(_, path)| path))
    }

    /// Reads it from its beginning.
    fn read(&self, mut each: impl FnMut(Link) -> Result<(), String>) -> Result<Found, Failed> {
        match self {
            Source::File(path) => {
                let survey = journal::read(path, each);
                let survey = survey.map_err(|error| Failed::Unreadable(Unreadable { path: path.clone(), error }))?;
                Ok(Found { survey, volumes: 0, snapshot: None })
            }
            Source::Journal(shelf) => {
                let snapshot = self.begins_with().map_err(Failed::Other)?;
                let story = shelf.read(snapshot.as_deref(), &mut each).map_err(Failed::Unreadable)?;
                let Story { live, volumes, snapshot } = story;
                Ok(Found { survey: live, volumes, snapshot: snapshot.map(|head| head.records) })
            }
        }
    }
}

/// What was read to its end.
struct Found {
    survey: Survey,
    volumes: usize,
    /// Up to which record a snapshot had to be believed.
    snapshot: Option<u64>,
}

enum Failed {
    Unreadable(Unreadable),
    Other(Failure),
}

impl From<Failed> for Failure {
    fn from(failed: Failed) -> Failure {
        match failed {
            Failed::Unreadable(Unreadable { path, error }) => journal::failure_of_read(&path, &error),
            Failed::Other(failure) => failure,
        }
    }
}

pub(super) fn run(global: &Global, command: AuditCommand) -> anyhow::Result<Exit> {
    match command {
        AuditCommand::Verify(file) => verify(global, &file.source(global)?),
        AuditCommand::Show { file, limit } => show(global, &file.source(global)?, limit),
        AuditCommand::Export { file, out } => export(&file.source(global)?, out.as_deref()),
        AuditCommand::Snapshot => snapshot(global),
    }
}

#[derive(Serialize)]
struct Verdict {
    ok: bool,
    server: Option<ServerId>,
    records: u64,
    head: Option<String>,
    /// Closed volumes that were read.
    volumes: usize,
    /// Up to which record a snapshot was believed, since the volumes it was made of are not here.
    believed_to: Option<u64>,
    /// Snapshots that agree with the volumes they were made of.
    snapshots_proven: usize,
    /// Records by kind.
    kinds: BTreeMap<String, u64>,
    torn_bytes: u64,
    damaged_file: Option<PathBuf>,
    damaged_at: Option<u64>,
    why: Option<String>,
}

fn verify(global: &Global, source: &Source) -> anyhow::Result<Exit> {
    let mut auditor = Auditor::new(source)?;
    let result = source.read(|link| auditor.examine(&link));
    let Auditor { kinds, records, snapshots_proven, .. } = auditor;
    let verdict = match result {
        Ok(Found { survey, volumes, snapshot }) => Verdict {
            ok: true,
            server: Some(survey.header.server),
            records,
            head: Some(survey.head.hash_hex()),
            volumes,
            believed_to: snapshot,
            snapshots_proven,
            kinds,
            torn_bytes: survey.torn,
            damaged_file: None,
            damaged_at: None,
            why: None,
        },
        Err(Failed::Unreadable(Unreadable { path, error: ReadError::Damaged(damage) })) => Verdict {
            ok: false,
            server: None,
            records,
            head: None,
            volumes: 0,
            believed_to: None,
            snapshots_proven,
            kinds,
            torn_bytes: 0,
            damaged_file: Some(path),
            damaged_at: Some(damage.offset),
            why: Some(damage.why),
        },
        Err(failed) => return Err(Failure::from(failed).into()),
    };
    global.print(&verdict, || words(&source.path(), &verdict))?;
    Ok(if verdict.ok { Exit::Done } else { Exit::ChecksFailed })
}

/// Holds records against those before them, and snapshots against the records they stand for.
struct Auditor {
    ledger: Ledger,
    /// A volume alone says nothing about what is before it: only its chain is checked.
    has_beginning: bool,
    snapshots: BTreeMap<u64, PathBuf>,
    kinds: BTreeMap<String, u64>,
    records: u64,
    snapshots_proven: usize,
}

impl Auditor {
    fn new(source: &Source) -> Result<Auditor, Failure> {
        let (has_beginning, snapshots) = match source {
            Source::File(path) => (journal::after(path).is_none(), BTreeMap::new()),
            Source::Journal(shelf) => {
                let believed = source.begins_with()?;
                let snapshots =
                    shelf.snapshots().map_err(|error| Failure::io("cannot look at the snapshots", &error))?;
                (true, snapshots.into_iter().filter(|(_, path)| Some(path) != believed.as_ref()).collect())
            }
        };
        let ledger = Ledger::new(Config::default().ledger());
        let (kinds, records, snapshots_proven) = (BTreeMap::new(), 0, 0);
        Ok(Auditor { ledger, has_beginning, snapshots, kinds, records, snapshots_proven })
    }

    fn examine(&mut self, link: &Link) -> Result<(), String> {
        if self.has_beginning {
            books::apply(&mut self.ledger, link)?;
        }
        self.records = link.number;
        *self.kinds.entry(kind(&link.entry.record)).or_default() += 1;
        let Some((path, hash)) = self.snapshots.get(&link.number).zip(link.hash) else { return Ok(()) };
        let mut of_snapshot = Ledger::new(Config::default().ledger());
        let statement = snapshot::read(path, |link| books::apply(&mut of_snapshot, &link));
        // A running keyserver drops old ones.
        if let Err(ReadError::Io(error)) = &statement
            && error.kind() == io::ErrorKind::NotFound
        {
            return Ok(());
        }
        let statement = statement.map_err(|error| format!("the snapshot {} is not whole: {error}", path.display()))?;
        if statement.stands_for.hash != hash || of_snapshot != self.ledger {
            return Err(format!("the snapshot {} says something else than the records up to here", path.display()));
        }
        self.snapshots_proven += 1;
        Ok(())
    }
}

#[derive(Serialize)]
struct Taken {
    records: u64,
    kept: u64,
}

/// Takes a snapshot of the closed volumes now. The keyserver may run meanwhile.
fn snapshot(global: &Global) -> anyhow::Result<Exit> {
    let folder = DataFolder::inspect(global.data_folder()?)?;
    let keys = Keys::of_existing(folder.path(), &global.settings()?.vault.master_command)?;
    let shelf = Shelf::new(folder.path());
    let taken = books::snapshot_of(&shelf, &Config::default().ledger(), &keys).map_err(|error| match error {
        TakeError::Io(error) => Failure::io("cannot write the snapshot", &error),
        TakeError::Unreadable(Unreadable { path, error }) => journal::failure_of_read(&path, &error),
        TakeError::Differs => Failure::new(Exit::Integrity, "E-AUDIT-08", TakeError::Differs)
            .hint("the journal is as it was; report this, it is a fault of the keyserver"),
    })?;
    let Some((records, kept)) = taken else {
        return Err(Failure::new(Exit::NotFound, "E-AUDIT-09", "there is no closed volume to take a snapshot of")
            .why("the journal is still in its first file, or its volumes were moved away")
            .hint("nothing has to be done: a volume is closed when the journal has grown to journal.volume")
            .into());
    };
    global.print(&Taken { records, kept }, || format!("{records} records, of which {kept} are kept\n"))
}

fn words(path: &Path, verdict: &Verdict) -> String {
    let mut text = match (&verdict.head, verdict.damaged_at, &verdict.why) {
        (Some(head), ..) => format!("{}: whole, {} records\nhead {head}\n", path.display(), verdict.records),
        (None, at, why) => format!(
            "{}: damaged at byte {}, after {} whole records: {}\n",
            verdict.damaged_file.as_deref().unwrap_or(path).display(),
            at.unwrap_or_default(),
            verdict.records,
            why.as_deref().unwrap_or("unknown")
        ),
    };
    if let Some(believed) = verdict.believed_to {
        text.push_str(&format!("records 1 to {believed} are taken from a signed snapshot; name their archive with --archive to check them too\n"));
    }
    if verdict.snapshots_proven > 0 {
        text.push_str(&format!("{} snapshots agree with the records they stand for\n", verdict.snapshots_proven));
    }
    for (kind, count) in &verdict.kinds {
        text.push_str(&format!("{count:>10}  {kind}\n"));
    }
    if verdict.torn_bytes > 0 {
        text.push_str(&format!("{} bytes at the end are a record that was being written\n", verdict.torn_bytes));
    }
    text
}

/// A record as people and programs read it.
#[derive(Serialize)]
struct Line {
    number: u64,
    offset: u64,
    at: String,
    at_utc_ms: u64,
    /// Its link in the chain; a record from a snapshot has none.
    hash: Option<String>,
    record: Record,
}

impl From<Link> for Line {
    fn from(Link { number, offset, entry, hash }: Link) -> Line {
        Line {
            number,
            offset,
            at: entry.at.to_string(),
            at_utc_ms: entry.at.as_millis(),
            hash: hash.map(|hash| data_encoding::HEXLOWER.encode(&hash)),
            record: entry.record,
        }
    }
}

/// Shows what is whole even when what follows is damaged, and says so then.
fn show(global: &Global, source: &Source, limit: usize) -> anyhow::Result<Exit> {
    let mut last = VecDeque::new();
    let result = source.read(|link| {
        last.push_back(Line::from(link));
        if last.len() > limit {
            last.pop_front();
        }
        Ok(())
    });
    let mut out = io::stdout().lock();
    for line in &last {
        match global.json {
            true => writeln!(out, "{}", serde_json::to_string(line)?)?,
            false => writeln!(
                out,
                "{:>8}  {}  {}",
                line.number,
                Utc::from_millis(line.at_utc_ms),
                serde_json::to_string(&line.record)?
            )?,
        }
    }
    out.flush()?;
    result.map_err(Failure::from)?;
    Ok(Exit::Done)
}

fn export(source: &Source, out: Option<&Path>) -> anyhow::Result<Exit> {
    let mut sink: Box<dyn Write> = match out {
        Some(out) => {
            let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(out).map_err(|error| {
                Failure::io(format!("cannot create {}", out.display()), &error)
                    .hint("name a file that does not exist yet")
            })?;
            Box::new(file)
        }
        None => Box::new(io::stdout().lock()),
    };
    let mut sink = BufWriter::new(&mut sink);
    let mut unwritten = None;
    let result = source
        .read(|link| write_line(&mut sink, &Line::from(link)).map_err(|error| unwritten.insert(error).to_string()));
    if let Some(error) = unwritten {
        return Err(Failure::io("cannot write the export", &error).into());
    }
    sink.flush()?;
    result.map_err(Failure::from)?;
    Ok(Exit::Done)
}

fn write_line(sink: &mut impl Write, line: &Line) -> io::Result<()> {
    serde_json::to_writer(&mut *sink, line)?;
    sink.write_all(b"\n")
}

/// The kind of a record as it is written.
fn kind(record: &Record) -> String {
    let value = serde_json::to_value(record).unwrap_or_default();
    value["kind"].as_str().unwrap_or("unknown").to_owned()
}
