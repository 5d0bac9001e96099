//! Where the files of a journal stand, and in which order they are read.
//!
//! ```text
//! journal                                     the file that is written to
//! journal.volumes/000000000001-000000204800   closed volumes, named by their first and last record
//! journal.snapshots/000000204800              snapshots, named by the last record that they stand for
//! ```
//!
//! A start reads the latest snapshot and the volumes after it; volumes before it are not needed for that, and may be
//! moved to an archive. They are never removed here, only old snapshots are. Whatever does not join without a gap is
//! damage.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::{Damage, FILE, Head, Header, Link, ReadError, Survey, read_file, snapshot};
use crate::crash;

/// The folder of closed volumes, in a data folder.
pub const VOLUMES: &str = "journal.volumes";
/// The folder of snapshots, in a data folder.
pub const SNAPSHOTS: &str = "journal.snapshots";

/// Snapshots that are kept: the latest, and the one before should that be unreadable.
const SNAPSHOTS_KEPT: usize = 2;

/// Digits of a record's number in the name of a file.
const DIGITS: usize = 12;

/// Where the files of one journal stand. Clones mean the same files.
#[derive(Debug, Clone)]
pub struct Shelf {
    folder: PathBuf,
    archives: Vec<PathBuf>,
}

/// A closed volume.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Volume {
    /// The number of its first record.
    pub first: u64,
    /// The number of its last record.
    pub last: u64,
    /// Where it is.
    pub path: PathBuf,
}

/// A file of a journal that cannot be read to its end.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {error}", path = .path.display())]
pub struct Unreadable {
    /// Which file.
    pub path: PathBuf,
    /// What is wrong.
    pub error: ReadError,
}

/// What was read from the beginning, or from a snapshot, to the end of the chain.
#[derive(Debug, Clone, Copy)]
pub struct Story {
    /// The end of the chain that a snapshot stood for; none if everything was read from the first record.
    pub snapshot: Option<Head>,
    /// How many closed volumes were read.
    pub volumes: usize,
    /// The file that is written to.
    pub live: Survey,
}

impl Shelf {
    /// The journal of a data folder.
    pub fn new(folder: &Path) -> Shelf {
        Shelf { folder: folder.to_owned(), archives: Vec::new() }
    }

    /// Also looks for closed volumes in these folders.
    pub fn with_archives(self, archives: impl IntoIterator<Item = PathBuf>) -> Shelf {
        Shelf { archives: archives.into_iter().collect(), ..self }
    }

    /// The data folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The file that is written to.
    pub fn live(&self) -> PathBuf {
        self.folder.join(FILE)
    }

    /// The file that will be written to next.
    pub(super) fn next(&self) -> PathBuf {
        self.folder.join("journal.next")
    }

    /// Whether anything of a journal is here.
    pub fn has_any(&self) -> io::Result<bool> {
        Ok(self.live().try_exists()? || !self.volumes()?.is_empty() || !self.snapshots()?.is_empty())
    }

    /// Closed volumes, in order; of a volume that is in several folders, one.
    pub fn volumes(&self) -> io::Result<Vec<Volume>> {
        let mut volumes = Vec::new();
        for folder in std::iter::once(&self.folder.join(VOLUMES)).chain(&self.archives) {
            for (name, path) in files_in(folder)? {
                if let Some((first, last)) =
                    name.split_once('-').and_then(|(first, last)| Some((number(first)?, number(last)?)))
                {
                    volumes.push(Volume { first, last, path });
                }
            }
        }
        volumes.sort();
        volumes.dedup_by_key(|volume| (volume.first, volume.last));
        Ok(volumes)
    }

    /// Snapshots by the last record they stand for, in order.
    pub fn snapshots(&self) -> io::Result<Vec<(u64, PathBuf)>> {
        let files = files_in(&self.folder.join(SNAPSHOTS))?;
        let mut snapshots: Vec<_> = files.into_iter().filter_map(|(name, path)| Some((number(&name)?, path))).collect();
        snapshots.sort();
        Ok(snapshots)
    }

    /// Reads everything that a start needs: the latest snapshot and what was written since.
    pub fn replay(&self, each: impl FnMut(Link) -> Result<(), String>) -> Result<Story, Unreadable> {
        let latest = self.snapshots().map_err(|error| unreadable(&self.folder.join(SNAPSHOTS), error))?.pop();
        self.read(latest.as_ref().map(|(_, path)| path.as_path()), each)
    }

    /// Reads all records since a snapshot, after the snapshot itself; without one, from the first record.
    pub fn read(
        &self,
        snapshot: Option<&Path>,
        mut each: impl FnMut(Link) -> Result<(), String>,
    ) -> Result<Story, Unreadable> {
        let (live_path, volumes_path) = (self.live(), self.folder.join(VOLUMES));
        // Opened first: a volume that is closed meanwhile is this very file, and left out below.
        let live = File::open(&live_path).map_err(|error| unreadable(&live_path, error))?;
        let inode = live.metadata().map_err(|error| unreadable(&live_path, error))?.ino();
        let mut end = None;
        if let Some(path) = snapshot {
            let survey = snapshot::read(path, &mut each).map_err(|error| unreadable(path, error))?;
            end = Some(survey.stands_for);
        }
        let story_begins = end;
        let mut volumes = 0;
        for volume in self.volumes().map_err(|error| unreadable(&volumes_path, error))? {
            let path = &volume.path;
            let file = File::open(path).map_err(|error| unreadable(path, error))?;
            let is_live = file.metadata().map_err(|error| unreadable(path, error))?.ino() == inode;
            if is_live || end.is_some_and(|end: Head| volume.last <= end.records) {
                continue;
            }
            let survey =
                read_file(&file, |begins| joins(end, begins), &mut each).map_err(|error| unreadable(path, error))?;
            if survey.torn > 0 || survey.head.records != volume.last {
                let why = format!("it ends with record {}, not with {}", survey.head.records, volume.last);
                return Err(unreadable(path, Damage { offset: survey.len, why }));
            }
            end = Some(survey.head);
            volumes += 1;
        }
        let live =
            read_file(&live, |begins| joins(end, begins), &mut each).map_err(|error| unreadable(&live_path, error))?;
        Ok(Story { snapshot: story_begins, volumes, live })
    }

    /// Reads closed volumes only, after a snapshot or from the first record; gives the end of the last one.
    pub fn read_volumes(
        &self,
        snapshot: Option<&Path>,
        upto: u64,
        mut each: impl FnMut(Link) -> Result<(), String>,
    ) -> Result<Option<Head>, Unreadable> {
        let mut end = None;
        if let Some(path) = snapshot {
            end = Some(snapshot::read(path, &mut each).map_err(|error| unreadable(path, error))?.stands_for);
        }
        let volumes = self.volumes().map_err(|error| unreadable(&self.folder.join(VOLUMES), error))?;
        for Volume { last, path, .. } in volumes.iter().filter(|volume| volume.last <= upto) {
            if end.is_some_and(|end| *last <= end.records) {
                continue;
            }
            let read = File::open(path).map_err(ReadError::from);
            let read = read.and_then(|file| read_file(&file, |begins| joins(end, begins), &mut each));
            end = Some(read.map_err(|error| unreadable(path, error))?.head);
        }
        Ok(end)
    }

    /// Gives the file that is written to its name as a volume, and puts the next one in its place. The journal is whole
    /// under its own name at every moment of it.
    pub(super) fn close_live(&self, first: u64, last: u64) -> io::Result<()> {
        let folder = self.private(VOLUMES)?;
        let volume = folder.join(format!("{first:0DIGITS$}-{last:0DIGITS$}"));
        fs::hard_link(self.live(), &volume)?;
        sync(&folder)?;
        crash::point("volume-named");
        if let Err(error) = fs::rename(self.next(), self.live()) {
            // The name promises a closed volume; this one goes on.
            fs::remove_file(&volume)?;
            return Err(error);
        }
        crash::point("volume-closed");
        Ok(())
    }

    /// Puts the next file in place of the one that is written to, which has no records.
    pub(super) fn replace_live(&self) -> io::Result<()> {
        fs::rename(self.next(), self.live())
    }

    /// Waits until the names in the data folder are on disk.
    pub(super) fn sync(&self) -> io::Result<()> {
        sync(&self.folder)
    }

    /// Removes what a closing of a volume that was interrupted has left: a second name of the file that is written to,
    /// and a file that was not begun.
    pub(super) fn tidy(&self) -> io::Result<()> {
        let inode = fs::metadata(self.live())?.ino();
        for volume in self.volumes()? {
            if fs::metadata(&volume.path)?.ino() == inode {
                fs::remove_file(&volume.path)?;
            }
        }
        match fs::remove_file(self.next()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// The folder of snapshots, private, made if need be.
    pub(super) fn snapshots_folder(&self) -> io::Result<PathBuf> {
        self.private(SNAPSHOTS)
    }

    /// Where the snapshot that ends with this record belongs.
    pub(super) fn snapshot(&self, records: u64) -> PathBuf {
        self.folder.join(SNAPSHOTS).join(format!("{records:0DIGITS$}"))
    }

    /// Removes all snapshots but the latest few.
    pub(super) fn drop_old_snapshots(&self) -> io::Result<()> {
        let snapshots = self.snapshots()?;
        let old = snapshots.len().saturating_sub(SNAPSHOTS_KEPT);
        snapshots[..old].iter().try_for_each(|(_, path)| fs::remove_file(path))
    }

    fn private(&self, name: &str) -> io::Result<PathBuf> {
        let path = self.folder.join(name);
        DirBuilder::new().recursive(true).mode(0o700).create(&path)?;
        Ok(path)
    }
}

/// Whether a file that begins here goes on where the one before ended.
fn joins(end: Option<Head>, begins: &Head) -> Result<(), String> {
    match end {
        None if begins.records == 0 => Ok(()),
        None => Err(format!("records 1 to {} are missing: neither a volume nor a snapshot has them", begins.records)),
        Some(end) if end == *begins => Ok(()),
        Some(end) if end.records < begins.records => {
            Err(format!("records {} to {} are missing before it", end.records + 1, begins.records))
        }
        Some(end) => Err(format!("it does not go on where record {} ended", end.records)),
    }
}

/// The header of a file.
pub(super) fn header_of(path: &Path) -> Result<Header, ReadError> {
    let mut file = File::open(path)?;
    let len = file.metadata()?.len();
    Ok(Header::read(&mut file, len)?.0)
}

fn unreadable(path: &Path, error: impl Into<ReadError>) -> Unreadable {
    Unreadable { path: path.to_owned(), error: error.into() }
}

fn number(digits: &str) -> Option<u64> {
    let plain = digits.len() >= DIGITS && digits.bytes().all(|byte| byte.is_ascii_digit());
    digits.parse().ok().filter(|_| plain)
}

/// The files of a folder by name; none if there is no such folder.
fn files_in(folder: &Path) -> io::Result<Vec<(String, PathBuf)>> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if let Some(name) = path.file_name().and_then(|name| name.to_str()) {
            files.push((name.to_owned(), path.clone()));
        }
    }
    Ok(files)
}

pub(super) fn sync(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}
