//! `keyserver recover`: says what is wrong with a journal that does not start, and puts right what can be.
//!
//! Looks only, unless told to apply. What it changes it copies first. The keyserver must not run meanwhile.

use std::fmt::Write as _;
use std::path::PathBuf;

use clap::Args;
use daemon::{DataFolder, Exit};
use serde::Serialize;
use swarm_proto::id::OrderId;
use swarm_proto::keyserver::ledger::Ledger;
use swarm_proto::keyserver::orders::OrderState;

use super::Global;
use crate::clock;
use crate::config::Config;
use crate::journal::repair::{self, Extent, Finding, Remedy};
use crate::journal::shelf::Shelf;

/// Most orders that are listed for the payment provider to be asked about.
const MAX_WAITING: usize = 1000;

#[derive(Args)]
pub(super) struct RecoverArgs {
    /// Put right what can be put right without loss
    #[arg(long)]
    apply: bool,
    /// Also end the journal where it cannot be put right; what follows is kept beside it
    #[arg(long, requires = "apply")]
    cut: bool,
}

#[derive(Serialize)]
struct Report {
    ok: bool,
    records: Option<u64>,
    head: Option<String>,
    torn_bytes: Option<u64>,
    findings: Vec<Line>,
    /// Orders that wait for money: the payment provider may know more about them.
    waiting: Vec<OrderId>,
}

#[derive(Serialize)]
struct Line {
    file: PathBuf,
    damaged_at: u64,
    why: String,
    remedy: String,
    /// The copy of the file as it was.
    done: Option<PathBuf>,
}

pub(super) fn run(global: &Global, args: &RecoverArgs) -> anyhow::Result<Exit> {
    let path = global.data_folder()?;
    let inspection = DataFolder::inspect(&path)?;
    let shelf = Shelf::new(inspection.path());
    // Held until the end: no keyserver may write meanwhile.
    let held = args.apply.then(|| DataFolder::open(&path)).transpose()?;
    let extent = match (args.apply, args.cut) {
        (true, true) => Extent::Cut,
        (true, false) => Extent::Mend,
        (false, _) => Extent::Look,
    };
    let fresh = || Ledger::new(Config::default().ledger());
    let now = clock::utc();
    let recovery = repair::recover(&shelf, fresh, extent, now)?;
    drop(held);
    let waiting = recovery.whole.as_ref().map(|(_, ledger)| {
        let orders = ledger.all_orders(None).map(|(_, order)| order);
        orders
            .filter(|order| ledger.state(now, order) == OrderState::Pending)
            .map(|order| order.id)
            .take(MAX_WAITING)
            .collect()
    });
    let report = Report {
        ok: recovery.whole.is_some(),
        records: recovery.whole.as_ref().map(|(story, _)| story.live.head.records),
        head: recovery.whole.as_ref().map(|(story, _)| story.live.head.hash_hex()),
        torn_bytes: recovery.whole.as_ref().map(|(story, _)| story.live.torn),
        findings: recovery.findings.iter().map(Line::from).collect(),
        waiting: waiting.unwrap_or_default(),
    };
    global.print(&report, || words(&report))?;
    match (report.ok, recovery.findings.last()) {
        (false, Some(finding)) => Err(repair::failure_of(finding).into()),
        _ => Ok(Exit::Done),
    }
}

impl From<&Finding> for Line {
    fn from(finding: &Finding) -> Line {
        let remedy = match &finding.remedy {
            Remedy::FlipBack { byte, bit } => {
                format!("bit {bit} of byte {byte} is flipped; flipped back, the record fits its hash")
            }
            Remedy::SetAside => "the snapshot is not needed: what it was made of is there".to_owned(),
            Remedy::CutOff { readable, bytes } => format!(
                "{bytes} bytes from there on cannot be put right; {} records among them can still be read",
                readable.len()
            ),
            Remedy::PutBack => "it has to be put back from a backup or an archive".to_owned(),
        };
        Line {
            file: finding.path.clone(),
            damaged_at: finding.damage.offset,
            why: finding.damage.why.clone(),
            remedy,
            done: finding.done.clone(),
        }
    }
}

fn words(report: &Report) -> String {
    let mut text = String::new();
    for Line { file, damaged_at, why, remedy, done } in &report.findings {
        let done =
            done.as_ref().map_or_else(|| "not done".to_owned(), |copy| format!("done; as it was: {}", copy.display()));
        let _ = writeln!(text, "{}: byte {damaged_at}: {why}\n  {remedy}\n  {done}", file.display());
    }
    if let (Some(records), Some(head)) = (report.records, &report.head) {
        let _ = writeln!(text, "whole, {records} records\nhead {head}");
    }
    if !report.waiting.is_empty() && !report.findings.is_empty() {
        let _ = writeln!(text, "orders that wait for money, to compare with the payment provider:");
        report.waiting.iter().for_each(|order| _ = writeln!(text, "  {order}"));
    }
    text
}
