//! The anchor: how long the journal has ever been, written down outside the data folder.
//!
//! Whoever puts back yesterday's backup puts back a journal that is whole in itself, and has forgotten a day of sales.
//! The anchor stands beside the data folder, so that it does not go back with it. A journal that ends before its anchor,
//! or has another record in that place, is served only after the operator has accepted the loss; that becomes a record
//! itself.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use daemon::{Exit, Failure, Shutdown, secrets};
use serde::{Deserialize, Serialize};
use swarm_proto::id::ServerId;
use swarm_proto::time::Utc;
use tokio::sync::watch;

use crate::clock;
use crate::journal::Head;

/// How often the anchor follows the journal. What is sold within the last moments before a loss is not missed; a
/// backup is hours old.
const FOLLOW_EVERY: Duration = Duration::from_secs(10);

/// Largest anchor file that is read.
const MAX_LEN: u64 = 4 << 10;

/// The longest journal that was seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Anchor {
    /// Whose journal.
    pub server: ServerId,
    /// Its end.
    pub head: Head,
    /// When it was seen.
    pub seen: Utc,
}

/// As it stands in the file.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    server: ServerId,
    records: u64,
    hash: String,
    seen_utc_ms: u64,
}

/// Where the anchor of a data folder stands: beside it.
pub fn path_of(data: &Path) -> PathBuf {
    let mut name = data.file_name().unwrap_or_default().to_owned();
    name.push(".anchor");
    data.with_file_name(name)
}

impl Anchor {
    /// Reads an anchor, if there is one.
    pub fn read(path: &Path) -> Result<Option<Anchor>, Failure> {
        let file = match File::open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Failure::io(format!("cannot read {}", path.display()), &error)),
            Ok(file) => file,
        };
        let mut text = String::new();
        file.take(MAX_LEN)
            .read_to_string(&mut text)
            .map_err(|error| Failure::io(format!("cannot read {}", path.display()), &error))?;
        let anchor = serde_json::from_str(&text).ok().and_then(|written: Written| {
            let hash = data_encoding::HEXLOWER.decode(written.hash.as_bytes()).ok()?.try_into().ok()?;
            let head = Head { records: written.records, hash };
            Some(Anchor { server: written.server, head, seen: Utc::from_millis(written.seen_utc_ms) })
        });
        let unreadable = || {
            Failure::new(Exit::Integrity, "E-AUDIT-07", format!("{} is not an anchor of a journal", path.display()))
                .why("it tells how long the journal was, and whether a backup is older than that")
                .hint("check the journal with `keyserver audit verify`, then remove the file")
        };
        anchor.map(Some).ok_or_else(unreadable)
    }

    fn write(&self, path: &Path) -> Result<(), Failure> {
        let Anchor { server, head, seen } = *self;
        let written = Written { server, records: head.records, hash: head.hash_hex(), seen_utc_ms: seen.as_millis() };
        secrets::replace(path, &serde_json::to_vec(&written).expect("numbers and text are JSON"))
    }
}

/// Whether a journal with this end, last written at `last`, is what was seen; `found` is its record in the place that
/// the anchor names.
pub(crate) fn check(
    anchor: Option<&Anchor>,
    server: ServerId,
    head: &Head,
    last: Utc,
    found: Option<&[u8; 32]>,
) -> Result<(), Failure> {
    let Some(anchor) = anchor.filter(|anchor| anchor.server == server) else { return Ok(()) };
    let hint = "put back the journal that was here. If it is lost for good, start once with --accept-rollback, then \
                compare with the payment provider every order since, and those that `keyserver order ls` shows as waiting";
    if head.records < anchor.head.records {
        let missing = anchor.head.records - head.records;
        let what =
            format!("the journal ends with record {}, {missing} records before what was once here", head.records);
        let why =
            format!("record {} was here at {}; the last that is left is of {last}", anchor.head.records, anchor.seen);
        return Err(Failure::new(Exit::Integrity, "E-AUDIT-05", what).why(why).hint(hint));
    }
    if found.is_some_and(|found| *found != anchor.head.hash) {
        let what = format!("record {} of the journal is not the one that was once here", anchor.head.records);
        let why = format!("another was there at {}: an older journal was put back, and went on", anchor.seen);
        return Err(Failure::new(Exit::Integrity, "E-AUDIT-05", what).why(why).hint(hint));
    }
    Ok(())
}

/// Lets the anchor follow the journal until the program stops, and once more then.
pub(crate) async fn follow(path: PathBuf, server: ServerId, mut head: watch::Receiver<Head>, shutdown: Shutdown) {
    let mut troubled = false;
    loop {
        let anchor = Anchor { server, head: *head.borrow_and_update(), seen: clock::utc() };
        let to = path.clone();
        let written = tokio::task::spawn_blocking(move || anchor.write(&to)).await;
        match written {
            Ok(Err(failure)) if !troubled => {
                troubled = true;
                tracing::warn!(%failure, "a journal from a backup would not be noticed");
            }
            Ok(Ok(())) => troubled = false,
            _ => {}
        }
        if shutdown.is_requested() && !head.has_changed().unwrap_or(false) {
            return;
        }
        tokio::select! {
            () = shutdown.requested() => {}
            () = async {
                tokio::time::sleep(FOLLOW_EVERY).await;
                // Nobody writes any more when the sender is gone; then only the end is waited for.
                if head.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            } => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERVER: ServerId = ServerId::from_bytes([1; 32]);

    fn head(records: u64) -> Head {
        Head { records, hash: [records as u8; 32] }
    }

    fn anchor() -> Anchor {
        Anchor { server: SERVER, head: head(9), seen: Utc::from_secs(100) }
    }

    #[test]
    fn an_anchor_is_read_as_it_was_written() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = path_of(&folder.path().join("data"));
        assert_eq!(Anchor::read(&path).expect("nothing there"), None);
        anchor().write(&path).expect("written");
        assert_eq!(Anchor::read(&path).expect("readable"), Some(anchor()));
        std::fs::write(&path, "not an anchor").expect("written");
        assert_eq!(Anchor::read(&path).expect_err("refused").code, "E-AUDIT-07");
    }

    #[test]
    fn a_journal_that_went_back_is_noticed_and_one_that_went_on_is_not() {
        let fits = |records, found: Option<[u8; 32]>| {
            check(Some(&anchor()), SERVER, &head(records), Utc::from_secs(50), found.as_ref()).is_ok()
        };
        assert!(fits(9, Some([9; 32])), "as it was seen");
        assert!(fits(12, Some([9; 32])), "longer since");
        assert!(fits(12, None), "that record is behind a snapshot by now");
        assert!(!fits(8, None), "a record is missing");
        assert!(!fits(12, Some([8; 32])), "an older one went on differently");
        let other = ServerId::from_bytes([2; 32]);
        assert!(check(Some(&anchor()), other, &head(1), Utc::EPOCH, None).is_ok(), "another keyserver began here");
        assert!(check(None, SERVER, &head(0), Utc::EPOCH, None).is_ok());
    }
}
