//! What a publication remembers between two runs.
//!
//! In the folder `publisher` of the data folder: `jobs/<name>.json`, one for each file that is being published, named
//! by its path; `jobs/<name>.log`, which chunks of it are sealed for certain; `published/<item>.json`, one for each
//! title; and the publisher's two keys. The content key is in a job only as wrapped to the publisher. One publication
//! runs at a time.

use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use daemon::exit::{Exit, Failure};
use daemon::secrets;
use data_encoding::{BASE64URL_NOPAD, HEXLOWER};
use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize, de};
use swarm_proto::catalog::CatalogEntry;
use swarm_proto::id::{ItemId, TitleId};
use swarm_proto::pb::common as pb;
use swarm_proto::seal::KeyCommitment;
use swarm_proto::signed::Signed;
use swarm_proto::wrap::Wrapped;

use crate::items::Folder;

/// By which the file system tells files, and versions of a file, apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Fingerprint {
    pub(super) len: u64,
    device: u64,
    inode: u64,
    modified_secs: i64,
    modified_nanos: i64,
}

impl Fingerprint {
    pub(super) fn of(metadata: &Metadata) -> Fingerprint {
        Fingerprint {
            len: metadata.len(),
            device: metadata.dev(),
            inode: metadata.ino(),
            modified_secs: metadata.mtime(),
            modified_nanos: metadata.mtime_nsec(),
        }
    }
}

/// One file on its way to being a title.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Job {
    source: PathBuf,
    pub(super) fingerprint: Fingerprint,
    pub(super) title: TitleId,
    #[serde(with = "hex")]
    commitment_bytes: [u8; 32],
    #[serde(skip, default = "no_commitment")]
    pub(super) commitment: KeyCommitment,
    #[serde(with = "wrapped")]
    pub(super) key: Wrapped,
    /// Known when every byte is sealed and on disk.
    pub(super) sealed: Option<Sealed>,
    /// What the catalog will say, signed once and for all.
    #[serde(with = "entry")]
    pub(super) entry: Option<Signed<CatalogEntry>>,
}

/// What sealing has told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Sealed {
    pub(super) item: ItemId,
    /// BLAKE3 of the clear file, by which it is recognised under another name.
    #[serde(with = "hex")]
    pub(super) content_hash: [u8; 32],
}

/// A file that is a title.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Record {
    pub(super) title: TitleId,
    pub(super) item: ItemId,
    pub(super) name: String,
    pub(super) fingerprint: Fingerprint,
    #[serde(with = "hex")]
    pub(super) content_hash: [u8; 32],
}

impl Job {
    pub(super) fn new(
        source: PathBuf,
        fingerprint: Fingerprint,
        title: TitleId,
        commitment: KeyCommitment,
        key: Wrapped,
    ) -> Job {
        let commitment_bytes = *commitment.as_bytes();
        Job { source, fingerprint, title, commitment_bytes, commitment, key, sealed: None, entry: None }
    }

    /// What its files are called.
    pub(super) fn name(&self) -> String {
        name_of(&self.source)
    }
}

/// The folder of jobs, held by one process at a time.
pub(super) struct Workshop {
    path: PathBuf,
    _lock: File,
}

impl Workshop {
    /// The folder `publisher` of a data folder, made if it is not there.
    pub(super) fn folder(data: &Path) -> Result<PathBuf, Failure> {
        let path = data.join("publisher");
        for folder in [path.clone(), path.join("jobs"), path.join("published")] {
            let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder);
            made.map_err(|error| Failure::io(format!("cannot make the folder {}", folder.display()), &error))?;
        }
        Ok(path)
    }

    /// Takes the folder for this process.
    pub(super) fn open(data: &Path) -> Result<Workshop, Failure> {
        let path = Workshop::folder(data)?;
        let lock_path = path.join("lock");
        let cannot = |error: io::Error| Failure::io(format!("cannot lock {}", lock_path.display()), &error);
        let lock = File::options().write(true).create(true).truncate(false).open(&lock_path).map_err(cannot)?;
        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Workshop { path, _lock: lock }),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(Failure::new(
                Exit::Conflict,
                "E-SEAL-16",
                "something else is being published from this data folder",
            )
            .hint("wait until it is done, then run the same command again")),
            Err(error) => Err(cannot(error.into())),
        }
    }

    /// The job of a file, if one was begun.
    pub(super) fn load(&self, source: &Path) -> Result<Option<Job>, Failure> {
        let path = self.job_path(&name_of(source));
        let mut job: Option<Job> = read_json(&path)?;
        if let Some(job) = &mut job {
            job.commitment = KeyCommitment::from_bytes(job.commitment_bytes);
        }
        Ok(job)
    }

    /// Writes a job down, for good.
    pub(super) fn save(&self, job: &Job) -> Result<(), Failure> {
        write_json(&self.job_path(&job.name()), job)
    }

    /// Where the progress of a job is logged.
    pub(super) fn log_path(&self, job: &Job) -> PathBuf {
        self.path.join("jobs").join(format!("{}.log", job.name()))
    }

    /// Forgets a job and everything it has made, the key first.
    pub(super) fn discard(&self, job: &Job, folder: &Folder) -> Result<(), Failure> {
        remove(&self.job_path(&job.name()))?;
        remove(&self.log_path(job))?;
        remove(&folder.sealing_path(&job.name()))
    }

    /// Turns a job into a record of what was published.
    pub(super) fn finish(&self, job: &Job, name: &str) -> Result<(), Failure> {
        let Some(Sealed { item, content_hash }) = job.sealed.clone() else { return Ok(()) };
        let record =
            Record { title: job.title, item, name: name.to_owned(), fingerprint: job.fingerprint, content_hash };
        write_json(&self.path.join("published").join(format!("{item}.json")), &record)?;
        remove(&self.log_path(job))?;
        remove(&self.job_path(&job.name()))
    }

    /// Everything that was published from here.
    pub(super) fn published(&self) -> Result<Vec<Record>, Failure> {
        let folder = self.path.join("published");
        let cannot = |error: io::Error| Failure::io(format!("cannot list {}", folder.display()), &error);
        let mut records = Vec::new();
        for entry in fs::read_dir(&folder).map_err(cannot)? {
            let path = entry.map_err(cannot)?.path();
            if path.extension().is_some_and(|suffix| suffix == "json") {
                records.extend(read_json(&path)?);
            }
        }
        Ok(records)
    }

    fn job_path(&self, name: &str) -> PathBuf {
        self.path.join("jobs").join(format!("{name}.json"))
    }
}

fn name_of(source: &Path) -> String {
    use std::os::unix::ffi::OsStrExt as _;
    HEXLOWER.encode(&blake3::hash(source.as_os_str().as_bytes()).as_bytes()[..16])
}

fn no_commitment() -> KeyCommitment {
    KeyCommitment::from_bytes([0; 32])
}

fn read_json<T: de::DeserializeOwned>(path: &Path) -> Result<Option<T>, Failure> {
    let bytes = match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        bytes => bytes.map_err(|error| Failure::io(format!("cannot read {}", path.display()), &error))?,
    };
    serde_json::from_slice(&bytes).map(Some).map_err(|error| {
        Failure::new(Exit::Integrity, "E-SEAL-17", format!("{} is damaged", path.display()))
            .why(error)
            .hint("remove this file and publish again")
    })
}

fn write_json(path: &Path, value: &impl Serialize) -> Result<(), Failure> {
    let bytes = serde_json::to_vec_pretty(value).expect("records have only text for keys");
    secrets::replace(path, &bytes)
}

fn remove(path: &Path) -> Result<(), Failure> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Failure::io(format!("cannot remove {}", path.display()), &error))
        }
        _ => Ok(()),
    }
}

mod hex {
    use super::{Deserialize, HEXLOWER, de};

    pub(super) fn serialize<S: serde::Serializer>(bytes: &[u8; 32], to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&HEXLOWER.encode(bytes))
    }

    pub(super) fn deserialize<'de, D: serde::Deserializer<'de>>(from: D) -> Result<[u8; 32], D::Error> {
        let bytes = HEXLOWER.decode(String::deserialize(from)?.as_bytes()).map_err(de::Error::custom)?;
        bytes.try_into().map_err(|_| de::Error::custom("not 32 bytes"))
    }
}

mod wrapped {
    use super::{BASE64URL_NOPAD, Deserialize, Wrapped, de, pb};
    use prost::Message as _;

    pub(super) fn serialize<S: serde::Serializer>(wrapped: &Wrapped, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&BASE64URL_NOPAD.encode(&pb::Wrapped::from(wrapped.clone()).encode_to_vec()))
    }

    pub(super) fn deserialize<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Wrapped, D::Error> {
        let bytes = BASE64URL_NOPAD.decode(String::deserialize(from)?.as_bytes()).map_err(de::Error::custom)?;
        pb::Wrapped::decode(bytes.as_slice()).map_err(de::Error::custom)?.try_into().map_err(de::Error::custom)
    }
}

mod entry {
    use super::{CatalogEntry, Deserialize, Signed, de};

    pub(super) fn serialize<S: serde::Serializer>(
        entry: &Option<Signed<CatalogEntry>>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        serde::Serialize::serialize(&entry.as_ref().map(Signed::to_text), to)
    }

    pub(super) fn deserialize<'de, D: serde::Deserializer<'de>>(
        from: D,
    ) -> Result<Option<Signed<CatalogEntry>>, D::Error> {
        let text = Option::<String>::deserialize(from)?;
        text.map(|text| Signed::from_text(&text)).transpose().map_err(de::Error::custom)
    }
}
