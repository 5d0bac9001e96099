//! `keyserver audit`: reads the journal as a stranger would, and believes nothing that the chain does not prove.
//!
//! Works beside a running keyserver. Besides hashes, every record is held against those before it: no grant without
//! payment, no pass below zero, no second grant for a device.

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
use crate::journal::{self, Link, ReadError};

#[derive(Subcommand)]
pub(super) enum AuditCommand {
    /// Check the chain and every record; exit 12 when something does not fit
    Verify(FileArgs),
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
    /// Another journal than the data folder's, such as a backup
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
}

impl FileArgs {
    fn path(&self, global: &Global) -> Result<PathBuf, Failure> {
        match &self.file {
            Some(file) => Ok(file.clone()),
            None => Ok(DataFolder::inspect(global.data_folder()?)?.file(journal::FILE)),
        }
    }
}

pub(super) fn run(global: &Global, command: AuditCommand) -> anyhow::Result<Exit> {
    match command {
        AuditCommand::Verify(file) => verify(global, &file.path(global)?),
        AuditCommand::Show { file, limit } => show(global, &file.path(global)?, limit),
        AuditCommand::Export { file, out } => export(&file.path(global)?, out.as_deref()),
    }
}

#[derive(Serialize)]
struct Verdict {
    ok: bool,
    server: Option<ServerId>,
    records: u64,
    head: Option<String>,
    /// Records by kind.
    kinds: BTreeMap<String, u64>,
    torn_bytes: u64,
    damaged_at: Option<u64>,
    why: Option<String>,
}

fn verify(global: &Global, path: &Path) -> anyhow::Result<Exit> {
    let mut ledger = Ledger::new(Config::default().ledger());
    let mut kinds = BTreeMap::new();
    let mut records = 0;
    let survey = journal::read(path, |link| {
        books::apply(&mut ledger, &link)?;
        records = link.number;
        *kinds.entry(kind(&link.entry.record)).or_default() += 1;
        Ok(())
    });
    let verdict = match survey {
        Ok(survey) => Verdict {
            ok: true,
            server: Some(survey.header.server),
            records,
            head: Some(survey.head.hash_hex()),
            kinds,
            torn_bytes: survey.torn,
            damaged_at: None,
            why: None,
        },
        Err(ReadError::Damaged(damage)) => {
            let (damaged_at, why) = (Some(damage.offset), Some(damage.why));
            Verdict { ok: false, server: None, records, head: None, kinds, torn_bytes: 0, damaged_at, why }
        }
        Err(error) => return Err(journal::failure_of_read(path, &error).into()),
    };
    global.print(&verdict, || words(path, &verdict))?;
    Ok(if verdict.ok { Exit::Done } else { Exit::ChecksFailed })
}

fn words(path: &Path, verdict: &Verdict) -> String {
    let mut text = match (&verdict.head, verdict.damaged_at, &verdict.why) {
        (Some(head), ..) => format!("{}: whole, {} records\nhead {head}\n", path.display(), verdict.records),
        (None, at, why) => format!(
            "{}: damaged at byte {}, after {} whole records: {}\n",
            path.display(),
            at.unwrap_or_default(),
            verdict.records,
            why.as_deref().unwrap_or("unknown")
        ),
    };
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
    hash: String,
    record: Record,
}

impl From<Link> for Line {
    fn from(Link { number, offset, entry, hash }: Link) -> Line {
        Line {
            number,
            offset,
            at: entry.at.to_string(),
            at_utc_ms: entry.at.as_millis(),
            hash: data_encoding::HEXLOWER.encode(&hash),
            record: entry.record,
        }
    }
}

/// Shows what is whole even when what follows is damaged, and says so then.
fn show(global: &Global, path: &Path, limit: usize) -> anyhow::Result<Exit> {
    let mut last = VecDeque::new();
    let result = journal::read(path, |link| {
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
    result.map_err(|error| journal::failure_of_read(path, &error))?;
    Ok(Exit::Done)
}

fn export(path: &Path, out: Option<&Path>) -> anyhow::Result<Exit> {
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
    let result = journal::read(path, |link| {
        write_line(&mut sink, &Line::from(link)).map_err(|error| unwritten.insert(error).to_string())
    });
    if let Some(error) = unwritten {
        return Err(Failure::io("cannot write the export", &error).into());
    }
    sink.flush()?;
    result.map_err(|error| journal::failure_of_read(path, &error))?;
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
