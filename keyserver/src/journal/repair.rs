//! What can be saved of a journal that is damaged.
//!
//! A single flipped bit can be put right, and proven right: only the true bytes fit the hash. Anything else can only be
//! cut off, with all that follows; records after the damage that fit one another are written beside the journal for
//! people to read, and never taken back into the chain. Nothing is changed before a copy of the file was made.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use daemon::{Exit, Failure};
use swarm_proto::keyserver::ledger::Ledger;
use swarm_proto::time::Utc;

use super::shelf::{SNAPSHOTS, Shelf, Story, Unreadable, sync};
use super::{
    CHECK_LEN, Damage, Entry, FRAME_HEAD_LEN, HASH_LEN, MAX_PAYLOAD, ReadError, length_check, link_hash, read,
};
use crate::books;

/// The folder of copies of damaged files, in a data folder.
pub const DAMAGED: &str = "journal.damaged";

/// Most damages that are mended in one go; a file with more was not hit by chance.
const MAX_MENDED: usize = 64;

/// How far a recovery may go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// Only looks.
    Look,
    /// Does what loses nothing.
    Mend,
    /// Also cuts off the journal's end where it cannot be mended.
    Cut,
}

/// What is wrong with one file, and what helps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Remedy {
    /// One bit is flipped: this one, counted from the lowest, of the byte at this place.
    FlipBack {
        /// Which byte.
        byte: u64,
        /// Which of its bits.
        bit: u8,
    },
    /// The snapshot is not needed: an earlier one or the volumes say the same.
    SetAside,
    /// What follows is lost to the chain; so many records of it can still be read.
    CutOff {
        /// Records after the damage that fit one another.
        readable: Vec<Entry>,
        /// Bytes that are cut off.
        bytes: u64,
    },
    /// A file has to be put back from a backup or an archive.
    PutBack,
}

/// One damage and its remedy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Which file.
    pub path: PathBuf,
    /// What is wrong with it.
    pub damage: Damage,
    /// What helps.
    pub remedy: Remedy,
    /// The copy that was made before it was done; none when it was not done.
    pub done: Option<PathBuf>,
}

/// What a recovery has found and done.
#[derive(Debug)]
pub struct Recovery {
    /// In the order in which they were met.
    pub findings: Vec<Finding>,
    /// The journal, when it is whole now, and what its records make.
    pub whole: Option<(Story, Ledger)>,
}

/// Reads the journal as a start would, and deals with what does not fit, as far as it is allowed to.
pub fn recover(shelf: &Shelf, fresh: impl Fn() -> Ledger, extent: Extent, now: Utc) -> Result<Recovery, Failure> {
    let mut findings = Vec::new();
    loop {
        let mut ledger = fresh();
        let Unreadable { path, error } = match shelf.replay(|link| books::apply(&mut ledger, &link)) {
            Ok(story) => return Ok(Recovery { findings, whole: Some((story, ledger)) }),
            Err(unreadable) => unreadable,
        };
        let ReadError::Damaged(damage) = error else { return Err(super::failure_of_read(&path, &error)) };
        let cannot = |error: io::Error| Failure::io(format!("cannot mend {}", path.display()), &error);
        let remedy = remedy_of(shelf, &path, &damage).map_err(cannot)?;
        let allowed = match remedy {
            Remedy::FlipBack { .. } | Remedy::SetAside => extent != Extent::Look,
            Remedy::CutOff { .. } => extent == Extent::Cut,
            Remedy::PutBack => false,
        };
        let done = allowed.then(|| apply(shelf, &path, &damage, &remedy, now)).transpose().map_err(cannot)?;
        let goes_on = done.is_some() && findings.len() < MAX_MENDED;
        findings.push(Finding { path, damage, remedy, done });
        if !goes_on {
            return Ok(Recovery { findings, whole: None });
        }
    }
}

fn remedy_of(shelf: &Shelf, path: &Path, damage: &Damage) -> io::Result<Remedy> {
    if path.parent().is_some_and(|folder| folder.ends_with(SNAPSHOTS)) {
        let earlier = shelf.snapshots()?.into_iter().rfind(|(_, other)| other != path);
        let replaced = match earlier {
            Some((_, earlier)) => shelf.read(Some(&earlier), |_| Ok(())).is_ok(),
            None => shelf.read(None, |_| Ok(())).is_ok(),
        };
        return Ok(if replaced { Remedy::SetAside } else { Remedy::PutBack });
    }
    if let Some((byte, bit)) = flipped_bit(path, damage)? {
        return Ok(Remedy::FlipBack { byte, bit });
    }
    match damage.offset > 0 && path == shelf.live() {
        true => Ok(Remedy::CutOff {
            readable: readable_after(path, damage.offset)?,
            bytes: fs::metadata(path)?.len() - damage.offset,
        }),
        false => Ok(Remedy::PutBack),
    }
}

/// Copies the file, then does to it what helps; gives the copy.
fn apply(shelf: &Shelf, path: &Path, damage: &Damage, remedy: &Remedy, now: Utc) -> io::Result<PathBuf> {
    let folder = shelf.folder().join(DAMAGED);
    fs::DirBuilder::new().recursive(true).create(&folder)?;
    fs::set_permissions(&folder, std::os::unix::fs::PermissionsExt::from_mode(0o700))?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let copy = free_name(&folder, &format!("{name}.{}", now.as_millis()));
    let mut to = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&copy)?;
    io::copy(&mut File::open(path)?, &mut to)?;
    to.sync_all()?;
    sync(&folder)?;
    match remedy {
        Remedy::FlipBack { byte, bit } => {
            let file = OpenOptions::new().read(true).write(true).open(path)?;
            let mut value = [0];
            file.read_exact_at(&mut value, *byte)?;
            file.write_all_at(&[value[0] ^ (1 << bit)], *byte)?;
            file.sync_all()?;
        }
        Remedy::SetAside => {
            fs::remove_file(path)?;
            sync(path.parent().unwrap_or(shelf.folder()))?;
        }
        Remedy::CutOff { readable, .. } => {
            write_readable(&copy.with_extension("after.jsonl"), readable)?;
            let file = OpenOptions::new().write(true).open(path)?;
            file.set_len(damage.offset)?;
            file.sync_all()?;
        }
        Remedy::PutBack => {}
    }
    Ok(copy)
}

fn free_name(folder: &Path, name: &str) -> PathBuf {
    let numbered = (1..).map(|n| folder.join(format!("{name}.{n}")));
    std::iter::once(folder.join(name)).chain(numbered).find(|path| !path.exists()).expect("names do not end")
}

fn write_readable(path: &Path, entries: &[Entry]) -> io::Result<()> {
    let mut file = BufWriter::new(OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?);
    for entry in entries {
        serde_json::to_writer(&mut file, entry)?;
        file.write_all(b"\n")?;
    }
    file.flush()?;
    file.get_ref().sync_all()
}

/// The one bit of the damaged frame that makes it fit when it is flipped back. No other bytes fit its hash.
fn flipped_bit(path: &Path, damage: &Damage) -> io::Result<Option<(u64, u8)>> {
    if damage.offset == 0 {
        return Ok(None);
    }
    let mut previous = None;
    let Err(ReadError::Damaged(found)) = read(path, |link| {
        previous = link.hash;
        Ok(())
    }) else {
        return Ok(None); // Whole in itself: it contradicts the records before it.
    };
    let previous = match previous {
        Some(hash) => hash,
        None => match super::shelf::header_of(path) {
            Ok(header) => header.after.map_or_else(|| *blake3::hash(&header.to_bytes()).as_bytes(), |after| after.hash),
            Err(_) => return Ok(None),
        },
    };
    if found.offset != damage.offset {
        return Ok(None);
    }
    let mut frame = frame_at(path, damage.offset)?;
    let fits = |frame: &[u8]| {
        let (head, rest) = frame.split_at(FRAME_HEAD_LEN);
        let length: [u8; 4] = *head.first_chunk().expect("a head is longer");
        let payload_len = u32::from_be_bytes(length) as usize;
        let known = payload_len.checked_add(HASH_LEN).is_some_and(|len| (1..=rest.len()).contains(&len));
        known
            && head[4..] == length_check(&previous, length)
            && rest[payload_len..payload_len + HASH_LEN] == link_hash(&previous, length, &rest[..payload_len])
    };
    let head_fits =
        frame.len() > FRAME_HEAD_LEN && frame[4..FRAME_HEAD_LEN] == length_check(&previous, length_at(&frame));
    let suspects = match head_fits {
        false => 0..FRAME_HEAD_LEN.min(frame.len()),
        true => {
            let end = FRAME_HEAD_LEN + u32::from_be_bytes(length_at(&frame)) as usize + HASH_LEN;
            FRAME_HEAD_LEN..end.min(frame.len())
        }
    };
    for place in suspects {
        for bit in 0..8 {
            frame[place] ^= 1 << bit;
            if frame.len() > FRAME_HEAD_LEN && fits(&frame) {
                return Ok(Some((damage.offset + place as u64, bit)));
            }
            frame[place] ^= 1 << bit;
        }
    }
    Ok(None)
}

/// Records after a damaged one that fit one another, beginning after its end as far as that can be told.
fn readable_after(path: &Path, offset: u64) -> io::Result<Vec<Entry>> {
    let mut readable = Vec::new();
    let mut offset = offset;
    let mut previous: Option<[u8; HASH_LEN]> = None;
    loop {
        let frame = frame_at(path, offset)?;
        if frame.len() <= FRAME_HEAD_LEN + HASH_LEN {
            return Ok(readable);
        }
        let length = length_at(&frame);
        let payload_len = u32::from_be_bytes(length) as usize;
        let end = FRAME_HEAD_LEN + payload_len;
        let Some(hash) =
            frame.get(end..end + HASH_LEN).filter(|_| payload_len > 0 && payload_len <= MAX_PAYLOAD as usize)
        else {
            return Ok(readable);
        };
        if let Some(previous) = &previous {
            let payload = &frame[FRAME_HEAD_LEN..end];
            let entry = serde_json::from_slice(payload).ok().filter(|_| link_hash(previous, length, payload) == *hash);
            let Some(entry) = entry else { return Ok(readable) };
            readable.push(entry);
        }
        previous = hash.first_chunk().copied();
        offset += (end + HASH_LEN) as u64;
    }
}

fn length_at(frame: &[u8]) -> [u8; FRAME_HEAD_LEN - CHECK_LEN] {
    *frame.first_chunk().expect("looked at only when it is long enough")
}

/// What stands at this place: as much as the longest frame has.
fn frame_at(path: &Path, offset: u64) -> io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    file.seek(SeekFrom::Start(offset))?;
    let mut bytes = Vec::new();
    file.take((FRAME_HEAD_LEN + HASH_LEN) as u64 + u64::from(MAX_PAYLOAD)).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// What a failure says when a journal is not whole after all that was allowed.
pub fn failure_of(finding: &Finding) -> Failure {
    let Finding { path, damage, remedy, .. } = finding;
    let what = format!("{} is still damaged at byte {}", path.display(), damage.offset);
    let hint = match remedy {
        Remedy::FlipBack { .. } | Remedy::SetAside => "`keyserver recover --apply` puts it right, and loses nothing",
        Remedy::CutOff { .. } => {
            "put back a backup that is whole. If there is none, `keyserver recover --apply --cut` ends the journal there"
        }
        Remedy::PutBack => "put the file back from a backup or an archive",
    };
    Failure::new(Exit::Integrity, "E-AUDIT-06", what).why(&damage.why).hint(hint)
}
