//! The journal: append-only files in which every record stands in one chain of hashes.
//!
//! ```text
//! file   = header ‖ frame*
//! header = "RSJOURNL" ‖ version u32 ‖ server id (32) ‖ check of the master key (32) ‖ before ‖ check of all that (4)
//! before = nothing in version 1; in version 2, records before (u64) ‖ hash of the last of them (32)
//! frame  = length u32 ‖ check (4) ‖ payload ‖ hash (32)
//! hash   = BLAKE3(previous hash ‖ length ‖ payload); before the first frame of all, BLAKE3(header)
//! check  = the first four bytes of BLAKE3(previous hash ‖ length), in a header of BLAKE3(header)
//! ```
//!
//! Integers are big-endian, the payload is an [`Entry`] in JSON. The file that is written to is closed from time to
//! time and becomes a *volume*; the next one goes on with the same chain, so that cutting it in volumes changes no hash
//! ([`shelf`] knows where they stand, [`snapshot`] what replaces the old ones at a start). What [`Journal::append`] has
//! returned `Ok` for is on disk. A file that merely ends early, as after a power cut, loses the one frame that was never
//! acknowledged; anything else that does not fit is damage, named by its place, and nothing is read past it. The check
//! of the length keeps a damaged length from passing for an early end.

pub mod repair;
pub mod shelf;
pub mod snapshot;

use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, Read, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use daemon::{Exit, Failure, secrets};
use serde::{Deserialize, Serialize};
use swarm_proto::id::ServerId;
use swarm_proto::keyserver::record::Record;
use swarm_proto::time::Utc;

use self::shelf::{Shelf, Story};
use crate::crash;

/// The name of the journal in a data folder.
pub const FILE: &str = "journal";

const MAGIC: [u8; 8] = *b"RSJOURNL";
/// The version of a journal's first volume.
const FIRST: u32 = 1;
/// The version of a volume that goes on where another ended.
const GOES_ON: u32 = 2;
const FIRST_LEN: usize = 8 + 4 + 32 + 32 + CHECK_LEN;
const GOES_ON_LEN: usize = FIRST_LEN + 8 + HASH_LEN;
const CHECK_LEN: usize = 4;
const FRAME_HEAD_LEN: usize = 4 + CHECK_LEN;
const HASH_LEN: usize = 32;

/// Longest payload. The longest record, a deposit with sixteen offers, is below 16 KiB.
const MAX_PAYLOAD: u32 = 64 << 10;

/// The end of a file that was preallocated or grown by a power cut, and never written.
const ZEROS: [u8; 4096] = [0; 4096];

/// How much room is tried when a full disk may have been freed: more than a batch needs.
const PROBE_LEN: u64 = 256 << 10;

/// A record and when it was written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// When, by the keyserver's clock, in milliseconds since 1970.
    pub at: Utc,
    /// What has happened.
    pub record: Record,
}

/// Whose journal a file is, and what comes before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// The keyserver that wrote it.
    pub server: ServerId,
    /// Proves the master key that its secrets are sealed and hashed with, without giving it away.
    pub master_check: [u8; 32],
    /// The end of the volume before; none before the first.
    pub after: Option<Head>,
}

impl Header {
    fn to_bytes(self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(GOES_ON_LEN);
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&self.after.map_or(FIRST, |_| GOES_ON).to_be_bytes());
        bytes.extend_from_slice(self.server.as_bytes());
        bytes.extend_from_slice(&self.master_check);
        if let Some(after) = self.after {
            bytes.extend_from_slice(&after.records.to_be_bytes());
            bytes.extend_from_slice(&after.hash);
        }
        let check: [u8; CHECK_LEN] = first_bytes(blake3::hash(&bytes).as_bytes());
        bytes.extend_from_slice(&check);
        bytes
    }

    /// Reads the header of a file of this length; also gives where the chain goes on.
    fn read(file: &mut impl Read, file_len: u64) -> Result<(Header, Head), ReadError> {
        let damage = |why: &str| ReadError::Damaged(Damage { offset: 0, why: why.to_owned() });
        let too_short = || damage("the file is shorter than the header of a journal");
        if file_len < FIRST_LEN as u64 {
            return Err(too_short());
        }
        let mut bytes = vec![0; FIRST_LEN];
        file.read_exact(&mut bytes)?;
        if bytes[..8] != MAGIC {
            return Err(damage("the file does not begin as a journal does"));
        }
        let version = u32::from_be_bytes(*bytes[8..].first_chunk().expect("long enough"));
        match version {
            FIRST => {}
            GOES_ON if file_len < GOES_ON_LEN as u64 => return Err(too_short()),
            GOES_ON => {
                bytes.resize(GOES_ON_LEN, 0);
                file.read_exact(&mut bytes[FIRST_LEN..])?;
            }
            other => {
                let why = format!("it is a journal of version {other}, this program reads up to version {GOES_ON}");
                return Err(damage(&why));
            }
        }
        let (said, check) = bytes.split_at(bytes.len() - CHECK_LEN);
        if check != first_bytes(blake3::hash(said).as_bytes()) {
            return Err(damage("the header does not fit its check"));
        }
        let after = (version == GOES_ON).then(|| Head {
            records: u64::from_be_bytes(*said[76..].first_chunk().expect("long enough")),
            hash: *said[84..].first_chunk().expect("long enough"),
        });
        let header = Header {
            server: ServerId::try_from(&said[12..44]).expect("32 bytes"),
            master_check: *said[44..].first_chunk().expect("long enough"),
            after,
        };
        Ok((header, after.unwrap_or(Head { records: 0, hash: *blake3::hash(&bytes).as_bytes() })))
    }

    fn len(&self) -> u64 {
        (if self.after.is_some() { GOES_ON_LEN } else { FIRST_LEN }) as u64
    }
}

/// The last link of the chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// How many records there are.
    pub records: u64,
    /// The hash of the last one, or of the header.
    pub hash: [u8; HASH_LEN],
}

impl Head {
    /// The hash in hex.
    pub fn hash_hex(&self) -> String {
        data_encoding::HEXLOWER.encode(&self.hash)
    }
}

/// What does not fit in a journal, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("damaged at byte {offset}: {why}")]
pub struct Damage {
    /// Where in the file.
    pub offset: u64,
    /// What is wrong there.
    pub why: String,
}

/// Why a journal was not read to its end.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The file cannot be read.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The file is not what was written.
    #[error(transparent)]
    Damaged(#[from] Damage),
}

/// What was found in a file that was read to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Survey {
    /// Whose it is.
    pub header: Header,
    /// Where its part of the chain begins.
    pub begins: Head,
    /// The end of the chain.
    pub head: Head,
    /// Where the last whole frame ends.
    pub len: u64,
    /// Bytes after that: a frame that was being written when the power went, never acknowledged.
    pub torn: u64,
}

/// One record as it stands in the file.
#[derive(Debug)]
pub struct Link {
    /// Counted from one, over all volumes.
    pub number: u64,
    /// Where its frame begins.
    pub offset: u64,
    /// What it says.
    pub entry: Entry,
    /// Its hash in the journal's chain; none when it was read from a snapshot.
    pub hash: Option<[u8; HASH_LEN]>,
}

/// Reads one file from its beginning and gives every record to `each`, which may find it contradictory.
pub fn read(path: &Path, each: impl FnMut(Link) -> Result<(), String>) -> Result<Survey, ReadError> {
    read_file(&File::open(path)?, |_| Ok(()), each)
}

/// How many records come before a file of a journal; none before the first, or when its header cannot be read.
pub fn after(path: &Path) -> Option<u64> {
    shelf::header_of(path).ok()?.after.map(|after| after.records)
}

/// Reads one file; `fits` decides on where it begins before any of its records is looked at.
fn read_file(
    file: &File,
    fits: impl FnOnce(&Head) -> Result<(), String>,
    mut each: impl FnMut(Link) -> Result<(), String>,
) -> Result<Survey, ReadError> {
    let file_len = file.metadata()?.len();
    let mut file = BufReader::with_capacity(1 << 20, file);
    let (header, begins) = Header::read(&mut file, file_len)?;
    fits(&begins).map_err(|why| Damage { offset: 0, why })?;
    let (mut head, mut offset) = (begins, header.len());
    loop {
        let left = file_len - offset;
        match next_frame(&mut file, &head.hash, offset, left)? {
            Frame::End => return Ok(Survey { header, begins, head, len: offset, torn: left }),
            Frame::Whole { payload, hash } => {
                let entry = serde_json::from_slice(&payload)
                    .map_err(|error| Damage { offset, why: format!("the record is not readable: {error}") })?;
                head = Head { records: head.records + 1, hash };
                each(Link { number: head.records, offset, entry, hash: Some(hash) })
                    .map_err(|why| Damage { offset, why })?;
                offset += (FRAME_HEAD_LEN + payload.len() + HASH_LEN) as u64;
            }
        }
    }
}

enum Frame {
    Whole { payload: Vec<u8>, hash: [u8; HASH_LEN] },
    End,
}

fn next_frame(file: &mut impl Read, previous: &[u8; HASH_LEN], offset: u64, left: u64) -> Result<Frame, ReadError> {
    if left < FRAME_HEAD_LEN as u64 {
        return Ok(Frame::End);
    }
    let damage = |why: &str| ReadError::Damaged(Damage { offset, why: why.to_owned() });
    let mut frame_head = [0; FRAME_HEAD_LEN];
    file.read_exact(&mut frame_head)?;
    let (length, check) = frame_head.split_at(4);
    let length: [u8; 4] = length.try_into().expect("four bytes");
    if check != length_check(previous, length) {
        let never_written = frame_head == [0; FRAME_HEAD_LEN] && only_zeros(file)?;
        return if never_written {
            Ok(Frame::End)
        } else {
            Err(damage("the length of the record does not fit its check"))
        };
    }
    let payload_len = u32::from_be_bytes(length);
    if payload_len == 0 || payload_len > MAX_PAYLOAD {
        return Err(damage("the length of the record is impossible"));
    }
    if left < u64::from(payload_len) + (FRAME_HEAD_LEN + HASH_LEN) as u64 {
        return Ok(Frame::End);
    }
    let mut payload = vec![0; payload_len as usize];
    let mut hash = [0; HASH_LEN];
    file.read_exact(&mut payload)?;
    file.read_exact(&mut hash)?;
    match link_hash(previous, length, &payload) == hash {
        true => Ok(Frame::Whole { payload, hash }),
        false => Err(damage("the record does not fit its hash")),
    }
}

fn only_zeros(file: &mut impl Read) -> io::Result<bool> {
    let mut buffer = ZEROS;
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(true),
            n if buffer[..n] != ZEROS[..n] => return Ok(false),
            _ => {}
        }
    }
}

fn length_check(previous: &[u8; HASH_LEN], length: [u8; 4]) -> [u8; CHECK_LEN] {
    first_bytes(blake3::Hasher::new().update(previous).update(&length).finalize().as_bytes())
}

fn first_bytes(hash: &[u8; HASH_LEN]) -> [u8; CHECK_LEN] {
    *hash.first_chunk().expect("a hash is longer than its check")
}

fn link_hash(previous: &[u8; HASH_LEN], length: [u8; 4], payload: &[u8]) -> [u8; HASH_LEN] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(previous).update(&length).update(payload);
    *hasher.finalize().as_bytes()
}

/// Where a journal's bytes go. Tests have one that fails when they want it to.
trait Medium: Send {
    /// Writes everything at this place.
    fn write_all_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// Waits until what was written is on disk.
    fn sync(&mut self) -> io::Result<()>;
    /// Ends the file here, on disk too.
    fn cut(&mut self, len: u64) -> io::Result<()>;
}

impl Medium for File {
    fn write_all_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
        FileExt::write_all_at(self, bytes, offset)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.sync_data()
    }

    fn cut(&mut self, len: u64) -> io::Result<()> {
        self.set_len(len)?;
        self.sync_all()
    }
}

/// A journal that this process writes.
pub struct Journal {
    medium: Box<dyn Medium>,
    shelf: Shelf,
    header: Header,
    head: Head,
    /// Where the last durable frame ends. The file may be longer after a failed write, until it could be cut.
    len: u64,
    must_cut: bool,
    /// The file has its name only in memory yet: nothing counts that is written to it.
    must_name: bool,
}

impl Journal {
    /// Starts a journal, unless there is one.
    pub fn create(path: &Path, header: Header) -> Result<(), Failure> {
        secrets::create(path, &header.to_bytes())
    }

    /// Opens a journal for writing after giving its snapshot and all records since to `each`; cuts off a frame that was
    /// never whole, and tidies up after a closing of a volume that was interrupted.
    pub fn open(
        shelf: &Shelf,
        each: impl FnMut(Link) -> Result<(), String>,
    ) -> Result<(Journal, Story), shelf::Unreadable> {
        let here = |error: io::Error| shelf::Unreadable { path: shelf.live(), error: error.into() };
        shelf.tidy().map_err(here)?;
        let story = shelf.replay(each)?;
        let Survey { header, head, len, torn, .. } = story.live;
        let mut file = OpenOptions::new().write(true).open(shelf.live()).map_err(here)?;
        if torn > 0 {
            tracing::warn!(bytes = torn, offset = len, "the journal ended in the middle of a record; dropped it");
            file.cut(len).map_err(here)?;
        }
        let (medium, shelf) = (Box::new(file), shelf.clone());
        Ok((Journal { medium, shelf, header, head, len, must_cut: false, must_name: false }, story))
    }

    /// The end of the chain.
    pub fn head(&self) -> Head {
        self.head
    }

    /// The length in bytes of the file that is written to.
    pub fn bytes(&self) -> u64 {
        self.len
    }

    /// Where it stands.
    pub fn shelf(&self) -> &Shelf {
        &self.shelf
    }

    /// Writes records and waits until they are on disk. After an error none of them counts.
    pub fn append(&mut self, entries: &[Entry]) -> io::Result<()> {
        let mut bytes = Vec::new();
        let mut head = self.head;
        for entry in entries {
            head = frame(&mut bytes, head, entry)?;
        }
        let written = self.settle().and_then(|()| self.write_at_end(&bytes));
        if let Err(error) = written {
            self.must_cut = true;
            return Err(error);
        }
        self.head = head;
        self.len += bytes.len() as u64;
        Ok(())
    }

    /// Reads again what is durable, and only that.
    pub fn replay(&mut self, each: impl FnMut(Link) -> Result<(), String>) -> Result<(), shelf::Unreadable> {
        let here = |error: ReadError| shelf::Unreadable { path: self.shelf.live(), error };
        if self.must_cut {
            self.medium.cut(self.len).map_err(|error| here(error.into()))?;
        }
        let live = self.shelf.replay(each)?.live;
        match live.head == self.head {
            true => {
                self.must_cut = false;
                Ok(())
            }
            false => {
                let why = "the journal was changed by someone else".to_owned();
                Err(here(Damage { offset: live.len, why }.into()))
            }
        }
    }

    /// Tries whether the disk takes more, after it did not.
    pub fn probe(&mut self) -> io::Result<()> {
        self.must_cut = true;
        self.write_at_end(&vec![0; PROBE_LEN as usize])?;
        self.settle()
    }

    /// Closes the file as a volume and goes on in a new one, under the name of a server and its master key. A file
    /// without records becomes no volume: only its header changes. After an error the file goes on as it was.
    pub fn close_volume(&mut self, server: ServerId, master_check: [u8; 32]) -> io::Result<()> {
        self.settle()?;
        let before = self.header.after.map_or(0, |after| after.records);
        let is_empty = self.head.records == before;
        let after = if is_empty { self.header.after } else { Some(self.head) };
        let header = Header { server, master_check, after };
        let bytes = header.to_bytes();
        let next = self.shelf.next();
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&next)?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        crash::point("volume-begun");
        match is_empty {
            true => self.shelf.replace_live()?,
            false => self.shelf.close_live(before + 1, self.head.records)?,
        }
        self.head = after.unwrap_or(Head { records: 0, hash: *blake3::hash(&bytes).as_bytes() });
        self.medium = Box::new(file);
        (self.header, self.len, self.must_name) = (header, header.len(), true);
        self.settle()
    }

    fn write_at_end(&mut self, bytes: &[u8]) -> io::Result<()> {
        if crash::is_due("record-half-written") {
            self.medium.write_all_at(&bytes[..bytes.len() / 2], self.len)?;
            self.medium.sync()?;
            crash::die();
        }
        self.medium.write_all_at(bytes, self.len)?;
        crash::point("record-written");
        self.medium.sync()
    }

    /// Does what an earlier failure has left to do.
    fn settle(&mut self) -> io::Result<()> {
        if self.must_name {
            self.shelf.sync()?;
            self.must_name = false;
        }
        if self.must_cut {
            self.medium.cut(self.len)?;
            self.must_cut = false;
        }
        Ok(())
    }
}

fn frame(bytes: &mut Vec<u8>, head: Head, entry: &Entry) -> io::Result<Head> {
    Ok(Head { records: head.records + 1, hash: frame_of(bytes, &head.hash, entry)? })
}

/// Adds a frame that goes on after this hash; gives its own.
fn frame_of(bytes: &mut Vec<u8>, previous: &[u8; HASH_LEN], payload: &impl Serialize) -> io::Result<[u8; HASH_LEN]> {
    let payload = serde_json::to_vec(payload)?;
    let length = u32::try_from(payload.len()).ok().filter(|length| *length <= MAX_PAYLOAD);
    let length =
        length.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "the record is too long"))?.to_be_bytes();
    let hash = link_hash(previous, length, &payload);
    bytes.extend_from_slice(&length);
    bytes.extend_from_slice(&length_check(previous, length));
    bytes.extend_from_slice(&payload);
    bytes.extend_from_slice(&hash);
    Ok(hash)
}

/// The failure of a journal that cannot be used, with what to do about it.
pub fn failure_of_read(path: &Path, error: &ReadError) -> Failure {
    match error {
        ReadError::Io(error) => Failure::io(format!("cannot read the journal {}", path.display()), error),
        ReadError::Damaged(damage) => {
            let what = format!("the journal {} is damaged at byte {}", path.display(), damage.offset);
            Failure::new(Exit::Integrity, "E-AUDIT-02", what).why(&damage.why).hint(format!(
                "nothing was changed. `keyserver recover` says what can be saved and how, `keyserver audit show --file {}` \
                 shows what is before that byte",
                path.display()
            ))
        }
    }
}

#[cfg(test)]
mod tests;
