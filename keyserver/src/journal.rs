//! The journal: an append-only file in which every record stands in a chain of hashes.
//!
//! ```text
//! file   = header ‖ frame*
//! header = "RSJOURNL" ‖ version u32 ‖ server id (32) ‖ check of the master key (32) ‖ first 4 bytes of BLAKE3 of these
//! frame  = length u32 ‖ check (4) ‖ payload ‖ hash (32)
//! hash   = BLAKE3(previous hash ‖ length ‖ payload); before the first frame, BLAKE3(header)
//! check  = the first four bytes of BLAKE3(previous hash ‖ length)
//! ```
//!
//! Integers are big-endian, the payload is an [`Entry`] in JSON. What [`Journal::append`] has returned `Ok` for is on
//! disk. A file that merely ends early, as after a power cut, loses the one frame that was never acknowledged; anything
//! else that does not fit is damage, named by its place, and nothing is read past it. The check of the length keeps a
//! damaged length from passing for an early end.

use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use daemon::{Exit, Failure, secrets};
use serde::{Deserialize, Serialize};
use swarm_proto::id::ServerId;
use swarm_proto::keyserver::record::Record;
use swarm_proto::time::Utc;

/// The name of the journal in a data folder.
pub const FILE: &str = "journal";

const MAGIC: [u8; 8] = *b"RSJOURNL";
const VERSION: u32 = 1;
const HEADER_LEN: usize = 8 + 4 + 32 + 32 + CHECK_LEN;
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

/// Whose journal a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// The keyserver that wrote it.
    pub server: ServerId,
    /// Proves the master key that its secrets are sealed and hashed with, without giving it away.
    pub master_check: [u8; 32],
}

impl Header {
    fn to_bytes(self) -> [u8; HEADER_LEN] {
        let mut bytes = [0; HEADER_LEN];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..12].copy_from_slice(&VERSION.to_be_bytes());
        bytes[12..44].copy_from_slice(self.server.as_bytes());
        bytes[44..76].copy_from_slice(&self.master_check);
        let check = header_check(&bytes);
        bytes[76..].copy_from_slice(&check);
        bytes
    }

    fn from_bytes(bytes: &[u8; HEADER_LEN]) -> Result<Header, Damage> {
        let damage = |why: String| Damage { offset: 0, why };
        let (magic, rest) = bytes.split_at(8);
        let (version, rest) = rest.split_at(4);
        let (server, rest) = rest.split_at(32);
        let (master_check, check) = rest.split_at(32);
        if magic != MAGIC {
            return Err(damage("the file does not begin as a journal does".to_owned()));
        }
        match u32::from_be_bytes(version.try_into().expect("four bytes")) {
            VERSION => {}
            other => {
                return Err(damage(format!(
                    "it is a journal of version {other}, this program reads version {VERSION}"
                )));
            }
        }
        if check != header_check(bytes) {
            return Err(damage("the header does not fit its check".to_owned()));
        }
        Ok(Header {
            server: ServerId::try_from(server).expect("32 bytes"),
            master_check: master_check.try_into().expect("32 bytes"),
        })
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

/// What was found in a journal that was read to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Survey {
    /// Whose it is.
    pub header: Header,
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
    /// Counted from one.
    pub number: u64,
    /// Where its frame begins.
    pub offset: u64,
    /// What it says.
    pub entry: Entry,
    /// Its hash.
    pub hash: [u8; HASH_LEN],
}

/// Reads a journal from its beginning and gives every record to `each`, which may find it contradictory.
pub fn read(path: &Path, mut each: impl FnMut(Link) -> Result<(), String>) -> Result<Survey, ReadError> {
    let file = File::open(path)?;
    let file_len = file.metadata()?.len();
    let mut file = BufReader::with_capacity(1 << 20, file);
    if file_len < HEADER_LEN as u64 {
        return Err(Damage { offset: 0, why: "the file is shorter than the header of a journal".to_owned() }.into());
    }
    let mut header = [0; HEADER_LEN];
    file.read_exact(&mut header)?;
    let mut head = Head { records: 0, hash: *blake3::hash(&header).as_bytes() };
    let header = Header::from_bytes(&header)?;
    let mut offset = HEADER_LEN as u64;
    loop {
        let left = file_len - offset;
        match next_frame(&mut file, &head.hash, offset, left)? {
            Frame::End => return Ok(Survey { header, head, len: offset, torn: left }),
            Frame::Whole { payload, hash } => {
                let entry = serde_json::from_slice(&payload)
                    .map_err(|error| Damage { offset, why: format!("the record is not readable: {error}") })?;
                head = Head { records: head.records + 1, hash };
                each(Link { number: head.records, offset, entry, hash }).map_err(|why| Damage { offset, why })?;
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

fn header_check(header: &[u8; HEADER_LEN]) -> [u8; CHECK_LEN] {
    first_bytes(blake3::hash(&header[..HEADER_LEN - CHECK_LEN]).as_bytes())
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

/// A journal that this process writes.
#[derive(Debug)]
pub struct Journal {
    file: File,
    path: PathBuf,
    head: Head,
    /// Where the last durable frame ends. The file may be longer after a failed write, until it could be cut.
    len: u64,
    must_cut: bool,
}

impl Journal {
    /// Starts a journal, unless there is one.
    pub fn create(path: &Path, header: Header) -> Result<(), Failure> {
        secrets::create(path, &header.to_bytes())
    }

    /// Opens a journal for writing after giving all its records to `each`, and cuts off a frame that was never whole.
    pub fn open(path: &Path, each: impl FnMut(Link) -> Result<(), String>) -> Result<(Journal, Survey), ReadError> {
        let survey = read(path, each)?;
        let file = OpenOptions::new().write(true).mode(0o600).open(path)?;
        if survey.torn > 0 {
            tracing::warn!(
                bytes = survey.torn,
                offset = survey.len,
                "the journal ended in the middle of a record; dropped it"
            );
            file.set_len(survey.len)?;
            file.sync_all()?;
        }
        let Survey { head, len, .. } = survey;
        Ok((Journal { file, path: path.to_owned(), head, len, must_cut: false }, survey))
    }

    /// The end of the chain.
    pub fn head(&self) -> Head {
        self.head
    }

    /// Its length in bytes.
    pub fn bytes(&self) -> u64 {
        self.len
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes records and waits until they are on disk. After an error none of them counts.
    pub fn append(&mut self, entries: &[Entry]) -> io::Result<()> {
        let mut bytes = Vec::new();
        let mut head = self.head;
        for entry in entries {
            head = frame(&mut bytes, head, entry)?;
        }
        let written = self.cut_if_needed().and_then(|()| self.write_at_end(&bytes));
        if let Err(error) = written {
            self.must_cut = true;
            return Err(error);
        }
        self.head = head;
        self.len += bytes.len() as u64;
        Ok(())
    }

    /// Reads again what is durable, and only that.
    pub fn replay(&mut self, each: impl FnMut(Link) -> Result<(), String>) -> Result<(), ReadError> {
        self.cut_if_needed()?;
        let survey = read(&self.path, each)?;
        match survey.head == self.head {
            true => Ok(()),
            false => {
                Err(Damage { offset: survey.len, why: "the journal was changed by someone else".to_owned() }.into())
            }
        }
    }

    /// Tries whether the disk takes more, after it did not.
    pub fn probe(&mut self) -> io::Result<()> {
        self.must_cut = true;
        self.write_at_end(&vec![0; PROBE_LEN as usize])?;
        self.cut_if_needed()
    }

    fn write_at_end(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.seek(SeekFrom::Start(self.len))?;
        self.file.write_all(bytes)?;
        self.file.sync_data()
    }

    fn cut_if_needed(&mut self) -> io::Result<()> {
        if self.must_cut {
            self.file.set_len(self.len)?;
            self.file.sync_all()?;
            self.must_cut = false;
        }
        Ok(())
    }
}

fn frame(bytes: &mut Vec<u8>, head: Head, entry: &Entry) -> io::Result<Head> {
    let payload = serde_json::to_vec(entry)?;
    let length = u32::try_from(payload.len()).ok().filter(|length| *length <= MAX_PAYLOAD);
    let length =
        length.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "the record is too long"))?.to_be_bytes();
    let hash = link_hash(&head.hash, length, &payload);
    bytes.extend_from_slice(&length);
    bytes.extend_from_slice(&length_check(&head.hash, length));
    bytes.extend_from_slice(&payload);
    bytes.extend_from_slice(&hash);
    Ok(Head { records: head.records + 1, hash })
}

/// The failure of a journal that cannot be used, with what to do about it.
pub fn failure_of_read(path: &Path, error: &ReadError) -> Failure {
    match error {
        ReadError::Io(error) => Failure::io(format!("cannot read the journal {}", path.display()), error),
        ReadError::Damaged(damage) => {
            Failure::new(Exit::Integrity, "E-AUDIT-02", format!("the journal {} is damaged at byte {}", path.display(), damage.offset))
                .why(&damage.why)
                .hint(format!(
                    "nothing was changed. Keep a copy of the file, look at what is before that byte with `keyserver audit show --file {}`, \
                     and put back a backup that `keyserver audit verify --file BACKUP` finds whole",
                    path.display()
                ))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use swarm_proto::id::PublisherId;
    use tempfile::TempDir;

    use super::*;

    const HEADER: Header = Header { server: ServerId::from_bytes([1; 32]), master_check: [2; 32] };

    fn entry(n: u8) -> Entry {
        let record =
            Record::PublisherAdmitted { publisher: PublisherId::from_bytes([n; 32]), name: format!("number {n}") };
        Entry { at: Utc::from_secs(n.into()), record }
    }

    fn journal_of(entries: u8) -> (TempDir, PathBuf) {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join(FILE);
        Journal::create(&path, HEADER).expect("created");
        let (mut journal, _) = Journal::open(&path, |_| Ok(())).expect("opens");
        for n in 0..entries {
            journal.append(&[entry(n)]).expect("appended");
        }
        (folder, path)
    }

    fn entries_of(path: &Path) -> Result<Vec<Entry>, ReadError> {
        let mut entries = Vec::new();
        read(path, |link| {
            entries.push(link.entry);
            Ok(())
        })?;
        Ok(entries)
    }

    #[test]
    fn what_was_appended_is_read_back_in_order() {
        let (_folder, path) = journal_of(5);
        assert_eq!(entries_of(&path).expect("whole"), (0..5).map(entry).collect::<Vec<_>>());
    }

    #[test]
    fn a_batch_is_one_chain_with_what_was_before() {
        let (_folder, path) = journal_of(2);
        let (mut journal, survey) = Journal::open(&path, |_| Ok(())).expect("opens");
        assert_eq!(survey.header, HEADER);
        journal.append(&[entry(2), entry(3)]).expect("appended");
        assert_eq!(entries_of(&path).expect("whole").len(), 4);
        assert_eq!(read(&path, |_| Ok(())).expect("whole").head, journal.head());
    }

    #[test]
    fn a_journal_cut_anywhere_keeps_every_record_before_the_cut() {
        let (_folder, path) = journal_of(4);
        let whole = fs::read(&path).expect("readable");
        for cut in 1..=200 {
            fs::write(&path, &whole[..whole.len() - cut]).expect("writable");
            let mut seen = Vec::new();
            let (mut journal, survey) = Journal::open(&path, |link| {
                seen.push(link.entry);
                Ok(())
            })
            .expect("a cut is not damage");
            assert_eq!(seen, (0..seen.len() as u8).map(entry).collect::<Vec<_>>());
            assert!(seen.len() >= 2, "cut {cut} lost {} records", 4 - seen.len());
            assert_eq!(fs::metadata(&path).expect("there").len(), survey.len);
            journal.append(&[entry(9)]).expect("appended");
            assert_eq!(entries_of(&path).expect("whole").last(), Some(&entry(9)));
        }
    }

    #[test]
    fn every_flipped_bit_is_found_and_named() {
        let (_folder, path) = journal_of(3);
        let whole = fs::read(&path).expect("readable");
        for place in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[place] ^= 1 << (place % 8);
            fs::write(&path, &bytes).expect("writable");
            match entries_of(&path) {
                Err(ReadError::Damaged(damage)) => assert!(damage.offset <= place as u64),
                other => panic!("a flip at {place} gave {other:?}"),
            }
        }
    }

    #[test]
    fn an_end_of_zeros_was_never_written() {
        let (_folder, path) = journal_of(2);
        let mut bytes = fs::read(&path).expect("readable");
        let len = bytes.len() as u64;
        bytes.resize(bytes.len() + 10_000, 0);
        fs::write(&path, &bytes).expect("writable");
        let (_, survey) = Journal::open(&path, |_| Ok(())).expect("opens");
        assert_eq!((survey.len, survey.torn), (len, 10_000));
    }

    #[test]
    fn a_record_that_contradicts_the_others_is_damage() {
        let (_folder, path) = journal_of(2);
        let result = read(&path, |link| if link.number == 2 { Err("twice".to_owned()) } else { Ok(()) });
        assert!(matches!(result, Err(ReadError::Damaged(Damage { why, .. })) if why == "twice"));
    }

    #[test]
    fn a_removed_record_breaks_the_chain() {
        let (_folder, path) = journal_of(3);
        let mut places = Vec::new();
        read(&path, |link| {
            places.push(link.offset as usize);
            Ok(())
        })
        .expect("whole");
        let mut bytes = fs::read(&path).expect("readable");
        bytes.drain(places[1]..places[2]);
        fs::write(&path, &bytes).expect("writable");
        assert!(matches!(entries_of(&path), Err(ReadError::Damaged(damage)) if damage.offset == places[1] as u64));
    }

    #[test]
    fn what_was_half_written_is_cut_before_the_next_record() {
        let (_folder, path) = journal_of(1);
        let (mut journal, _) = Journal::open(&path, |_| Ok(())).expect("opens");
        journal.must_cut = true;
        let mut file = OpenOptions::new().append(true).open(&path).expect("opens");
        file.write_all(b"half a record").expect("written");
        journal.append(&[entry(1)]).expect("appended");
        assert_eq!(entries_of(&path).expect("whole"), [entry(0), entry(1)]);
        journal.probe().expect("there is room");
        assert_eq!(entries_of(&path).expect("whole").len(), 2);
    }
}
