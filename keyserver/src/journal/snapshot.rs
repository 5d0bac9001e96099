//! A snapshot: the records of a journal that still matter at one link of its chain, signed by the keyserver.
//!
//! ```text
//! file   = header ‖ frame* ‖ signature (64)
//! header = "RSSNAPSH" ‖ version u32 ‖ server id (32) ‖ check of the master key (32)
//!          ‖ records it stands for (u64) ‖ hash of the last of them (32) ‖ taken at, utc_ms (u64) ‖ check of all that (4)
//! ```
//!
//! Frames, check and hash are those of a journal; the chain of a snapshot begins with BLAKE3(header) and ends with what
//! is signed. A payload is a [`Kept`] in JSON. Applying the records to an empty ledger gives the ledger that all records
//! up to that link gave: whoever has the volumes can hold one against the other.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use swarm_proto::id::ServerId;
use swarm_proto::keyserver::compaction::Compaction;
use swarm_proto::keyserver::ledger::{self, Ledger};
use swarm_proto::keyserver::record::Record;
use swarm_proto::signed::verify_bytes;
use swarm_proto::time::Utc;

use super::shelf::{Shelf, Unreadable, sync};
use super::{
    CHECK_LEN, Damage, Entry, FRAME_HEAD_LEN, Frame, HASH_LEN, Head, Link, ReadError, first_bytes, frame_of, next_frame,
};
use crate::{books, crash};

/// What the signature at the end is made for.
pub const CONTEXT: &str = "reelswarm v1 keyserver snapshot";

const MAGIC: [u8; 8] = *b"RSSNAPSH";
const VERSION: u32 = 1;
const HEADER_LEN: usize = 8 + 4 + 32 + 32 + 8 + HASH_LEN + 8 + CHECK_LEN;
const SIGNATURE_LEN: usize = 64;

/// A record in a snapshot, with its number in the journal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kept {
    /// Counted from one, in the journal.
    pub number: u64,
    /// When it was written there.
    pub at: Utc,
    /// What it says.
    pub record: Record,
}

/// Whose snapshot it is, and of what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Statement {
    /// The keyserver that signs it.
    pub server: ServerId,
    /// Proves the master key that its secrets are sealed with.
    pub master_check: [u8; 32],
    /// The link of the chain.
    pub stands_for: Head,
    /// When it was taken.
    pub taken: Utc,
}

impl Statement {
    fn to_bytes(self) -> [u8; HEADER_LEN] {
        let mut bytes = Vec::with_capacity(HEADER_LEN);
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&VERSION.to_be_bytes());
        bytes.extend_from_slice(self.server.as_bytes());
        bytes.extend_from_slice(&self.master_check);
        bytes.extend_from_slice(&self.stands_for.records.to_be_bytes());
        bytes.extend_from_slice(&self.stands_for.hash);
        bytes.extend_from_slice(&self.taken.as_millis().to_be_bytes());
        let check: [u8; CHECK_LEN] = first_bytes(blake3::hash(&bytes).as_bytes());
        bytes.extend_from_slice(&check);
        bytes.try_into().expect("the parts add up")
    }

    fn from_bytes(bytes: &[u8; HEADER_LEN]) -> Result<Statement, Damage> {
        let damage = |why: &str| Damage { offset: 0, why: why.to_owned() };
        if bytes[..8] != MAGIC {
            return Err(damage("the file does not begin as a snapshot does"));
        }
        let u64_at = |place: usize| u64::from_be_bytes(*bytes[place..].first_chunk().expect("long enough"));
        let hash_at = |place: usize| *bytes[place..].first_chunk::<32>().expect("long enough");
        match u32::from_be_bytes(*bytes[8..].first_chunk().expect("long enough")) {
            VERSION => {}
            other => return Err(damage(&format!("it is a snapshot of version {other}, this program reads {VERSION}"))),
        }
        let (said, check) = bytes.split_at(HEADER_LEN - CHECK_LEN);
        if check != first_bytes(blake3::hash(said).as_bytes()) {
            return Err(damage("the header does not fit its check"));
        }
        Ok(Statement {
            server: ServerId::from_bytes(hash_at(12)),
            master_check: hash_at(44),
            stands_for: Head { records: u64_at(76), hash: hash_at(84) },
            taken: Utc::from_millis(u64_at(116)),
        })
    }
}

/// Signs the end of a snapshot.
pub type Sign<'a> = &'a dyn Fn(&[u8; HASH_LEN]) -> [u8; SIGNATURE_LEN];

/// Reads a snapshot, gives every record to `each`, and checks the signature of whom the header names.
pub fn read(path: &Path, mut each: impl FnMut(Link) -> Result<(), String>) -> Result<Statement, ReadError> {
    let file = File::open(path)?;
    let file_len = file.metadata()?.len();
    let mut file = BufReader::with_capacity(1 << 20, file);
    let damage = |offset: u64, why: &str| ReadError::Damaged(Damage { offset, why: why.to_owned() });
    let end = file_len.checked_sub(SIGNATURE_LEN as u64).filter(|end| *end >= HEADER_LEN as u64);
    let end = end.ok_or_else(|| damage(0, "the file is shorter than a snapshot"))?;
    let mut header = [0; HEADER_LEN];
    file.read_exact(&mut header)?;
    let statement = Statement::from_bytes(&header)?;
    let (mut hash, mut offset) = (*blake3::hash(&header).as_bytes(), HEADER_LEN as u64);
    while offset < end {
        match next_frame(&mut file, &hash, offset, end - offset)? {
            Frame::End => return Err(damage(offset, "the snapshot ends in the middle of a record")),
            Frame::Whole { payload, hash: link } => {
                let Kept { number, at, record } = serde_json::from_slice(&payload)
                    .map_err(|error| damage(offset, &format!("the record is not readable: {error}")))?;
                hash = link;
                let link = Link { number, offset, entry: Entry { at, record }, hash: None };
                each(link).map_err(|why| Damage { offset, why })?;
                offset += (FRAME_HEAD_LEN + payload.len() + HASH_LEN) as u64;
            }
        }
    }
    let mut signature = [0; SIGNATURE_LEN];
    file.read_exact(&mut signature)?;
    match verify_bytes(statement.server.as_bytes(), CONTEXT, &hash, &signature) {
        true => Ok(statement),
        false => Err(damage(end, "the signature is not that of the keyserver it names")),
    }
}

/// Why there is no snapshot. The journal is as it was.
#[derive(Debug, thiserror::Error)]
pub enum TakeError {
    /// It cannot be written.
    #[error("cannot write the snapshot: {0}")]
    Io(#[from] io::Error),
    /// What it is made of cannot be read.
    #[error(transparent)]
    Unreadable(#[from] Unreadable),
    /// What was written does not give the same ledger.
    #[error("the snapshot does not give the ledger that the journal gives")]
    Differs,
}

/// Takes a snapshot of all closed volumes up to a record: of the snapshot before and what was closed since. It counts
/// only after it was read again and gave the same ledger. Says where it is and how many records it keeps.
///
/// Needs memory for two ledgers.
pub fn take(
    shelf: &Shelf,
    config: &ledger::Config,
    statement: impl FnOnce(Head) -> Statement,
    sign: Sign<'_>,
    upto: u64,
) -> Result<Option<(PathBuf, u64)>, TakeError> {
    let earlier = shelf.snapshots()?.into_iter().rfind(|(records, _)| *records < upto);
    let earlier = earlier.as_ref().map(|(_, path)| path.as_path());
    let (mut ledger, mut compaction) = (Ledger::new(config.clone()), Compaction::default());
    let end = shelf.read_volumes(earlier, upto, |link| {
        compaction.note(link.number, &link.entry.record);
        books::apply(&mut ledger, &link)
    })?;
    let Some(end) = end.filter(|end| end.records == upto) else { return Ok(None) };

    let folder = shelf.snapshots_folder()?;
    let temporary = folder.join("taking");
    let mut writer = Writer::create(&temporary, statement(end))?;
    let mut unwritten = None;
    let read = shelf.read_volumes(earlier, upto, |link| {
        if !compaction.keeps(link.number, &link.entry.record, &ledger) {
            return Ok(());
        }
        let Entry { at, record } = link.entry;
        writer.push(&Kept { number: link.number, at, record }).map_err(|error| unwritten.insert(error).to_string())
    });
    if let Some(error) = unwritten {
        return Err(error.into());
    }
    read?;
    let kept = writer.finish(sign)?;
    crash::point("snapshot-written");

    let mut again = Ledger::new(config.clone());
    let found = read_again(&temporary, &mut again);
    if found.is_err() || again != ledger {
        std::fs::remove_file(&temporary)?;
        return Err(TakeError::Differs);
    }
    let path = shelf.snapshot(upto);
    std::fs::rename(&temporary, &path)?;
    sync(&folder)?;
    crash::point("snapshot-named");
    shelf.drop_old_snapshots()?;
    Ok(Some((path, kept)))
}

fn read_again(path: &Path, ledger: &mut Ledger) -> Result<Statement, ReadError> {
    read(path, |link| books::apply(ledger, &link))
}

/// A snapshot that is being written.
struct Writer {
    file: BufWriter<File>,
    hash: [u8; HASH_LEN],
    kept: u64,
}

impl Writer {
    fn create(path: &Path, statement: Statement) -> io::Result<Writer> {
        let file = File::options().write(true).create(true).truncate(true).mode(0o600).open(path)?;
        let mut file = BufWriter::with_capacity(1 << 20, file);
        let header = statement.to_bytes();
        file.write_all(&header)?;
        Ok(Writer { file, hash: *blake3::hash(&header).as_bytes(), kept: 0 })
    }

    fn push(&mut self, kept: &Kept) -> io::Result<()> {
        let mut bytes = Vec::new();
        self.hash = frame_of(&mut bytes, &self.hash, kept)?;
        self.kept += 1;
        if crash::is_due("snapshot-half-written") {
            self.file.flush()?;
            crash::die();
        }
        self.file.write_all(&bytes)
    }

    fn finish(mut self, sign: Sign<'_>) -> io::Result<u64> {
        self.file.write_all(&sign(&self.hash))?;
        self.file.flush()?;
        self.file.get_ref().sync_all()?;
        Ok(self.kept)
    }
}
