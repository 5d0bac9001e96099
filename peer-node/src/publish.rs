//! Turns a file into a title: sealed, its key deposited, held by this device, announced.
//!
//! Runs in the process of the command line, beside the daemon of the same data folder. Every step can be cut off at any
//! moment and done again: a job file remembers the key (wrapped), what is sealed for certain, and the signed entry, so
//! that a second run ends in one title, not two. A file that changes while it is read is never published: its job, key
//! included, is thrown away. Nothing is announced before the key is deposited and the item is whole.

mod job;
mod offer;
mod pipeline;

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use async_trait::async_trait;
use bytes::Bytes;
use daemon::client;
use daemon::exit::{Exit, Failure};
use daemon::secrets;
use rand::rand_core::UnwrapErr;
use rand::rngs::SysRng;
use swarm_proto::catalog::{Artwork, ArtworkMime, CatalogEntry, MAX_ARTWORK_BYTES, Region};
use swarm_proto::geometry::Geometry;
use swarm_proto::id::{ItemId, PublisherId, TitleId};
use swarm_proto::limit::Limit;
use swarm_proto::pb::{keyserver as keyserver_pb, tracker as tracker_pb};
use swarm_proto::seal::{ContentKey, KeyCommitment};
use swarm_proto::signed::{Signed, SigningKey};
use swarm_proto::span_tree::{SpanCommitment, SpanTree};
use swarm_proto::time::Utc;
use swarm_proto::wrap::{self, HpkePublic, HpkeSecret, Label};
use tonic::transport::Channel;

use self::job::{Fingerprint, Job, Sealed, Workshop};
pub use self::offer::{OfferWish, parse_offer};
use crate::items::Folder;
use crate::media;

const SIGNING_KEY: &str = "signing.key";
const HPKE_KEY: &str = "hpke.key";

/// How long a server may take for one answer: a deposit or an announcement is one durable write there.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// How much of a file is hashed between two looks at whether to stop.
const HASH_STEP: usize = 1 << 20;

/// What is to be published, and what the catalog shall say about it. It may bear a key: no `Debug`.
#[derive(Clone)]
pub struct Request {
    /// The data folder of the device that will hold the item.
    pub data: PathBuf,
    /// The file.
    pub source: PathBuf,
    /// One line for people.
    pub name: String,
    /// Some lines for people; may be empty.
    pub description: String,
    /// What it costs; at least one.
    pub offers: Vec<OfferWish>,
    /// How much of it may be watched before it is paid.
    pub preview: Option<Duration>,
    /// A small picture (JPEG, PNG or WebP, at most 32 KiB).
    pub poster: Option<PathBuf>,
    /// Youngest age that may watch; 0 is for all ages.
    pub rating_age: u32,
    /// Where it may be offered, ascending; none means everywhere.
    pub regions: Vec<Region>,
    /// First public showing.
    pub released: Utc,
    /// What it is sealed with, which never seals anything else; none: a fresh key.
    pub key: Option<ContentKey>,
}

/// The keys of a publisher, in the folder `publisher` of a data folder. It has no `Debug`.
pub struct Publisher {
    signing: SigningKey,
    hpke: HpkeSecret,
}

impl Publisher {
    /// Reads the keys; makes them if this data folder has never published.
    pub fn open_or_create(data: &Path) -> anyhow::Result<Publisher> {
        let folder = Workshop::folder(data)?;
        let key = |name| secrets::read_or_create_key(&folder.join(name));
        Publisher::of_keys(key(SIGNING_KEY)?.as_slice(), key(HPKE_KEY)?.as_slice())
            .context("a publisher key is damaged")
    }

    /// A publisher of these two secrets, 32 bytes each.
    pub fn of_keys(signing: &[u8], hpke: &[u8]) -> Option<Publisher> {
        Some(Publisher { signing: SigningKey::from_bytes(signing)?, hpke: HpkeSecret::from_bytes(hpke)? })
    }

    /// What operators admit: the public signing key.
    pub fn id(&self) -> PublisherId {
        self.signing.publisher_id()
    }
}

/// How the sealed item came to the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Adoption {
    /// The running daemon holds it.
    Held,
    /// No daemon runs; it finds the item when it starts.
    AtNextStart,
}

/// Those who have to hear of a new title. Each step may be done again.
#[async_trait]
pub trait Outlets: Send + Sync {
    /// Gives the key to the keyserver.
    async fn deposit(&self, entry: &Signed<CatalogEntry>, key: &ContentKey) -> Result<(), Failure>;
    /// Asks the running daemon to take over the item.
    async fn adopt(&self, item: ItemId) -> Result<Adoption, Failure>;
    /// Puts the entry into the tracker's catalog.
    async fn announce(&self, entry: &Signed<CatalogEntry>) -> Result<(), Failure>;
}

/// How far a publication is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// Comparing with what was published before, in bytes.
    Comparing {
        /// Read.
        done: u64,
        /// Of.
        total: u64,
    },
    /// Sealing, in bytes of the clear file; what a crash left is counted as done.
    Sealing {
        /// Sealed and on disk.
        done: u64,
        /// Of.
        total: u64,
    },
    /// Giving the key to the keyserver.
    Depositing,
    /// Handing the item to the device.
    Adopting,
    /// Telling the tracker.
    Announcing,
}

/// Hears of progress; `Break` stops in good order, to be continued later.
pub type Watcher = Arc<dyn Fn(Progress) -> ControlFlow<()> + Send + Sync>;

/// A title that is in the catalog.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    /// The title.
    pub title: TitleId,
    /// Its item.
    pub item: ItemId,
    /// What it is called (if it was published before: what it was called then).
    pub name: String,
    /// Length of the clear file.
    pub plain_len: u64,
    /// Length of the sealed file.
    pub sealed_len: u64,
    /// It had been published before; nothing was done.
    pub already: bool,
    /// Bytes of the clear file that an earlier run had sealed.
    pub resumed_bytes: u64,
    /// How the device got it; `None` when nothing was done.
    pub adoption: Option<Adoption>,
    /// Advice about the file.
    pub hint: Option<String>,
}

/// Publishes a file, or finishes what an earlier run began, or says that it was published before.
pub async fn run(
    request: Request,
    publisher: &Publisher,
    outlets: &dyn Outlets,
    watcher: Watcher,
) -> Result<Published, Failure> {
    let source = Source::open(&request.source)?;
    let mut draft = draft(&request, &source, publisher)?;
    let workshop = Workshop::open(&request.data)?;
    if let Some(known) = find_published(&workshop, &source, &watcher).await? {
        return Ok(known);
    }

    let folder = Folder::open(request.data.join("items")).map_err(|error| Failure::of(&error))?;
    let mut job = match workshop.load(&source.path)? {
        Some(job) if job.fingerprint == source.fingerprint && is_sealed_with(&job, request.key.as_ref()) => job,
        Some(old) => {
            tracing::warn!(path = %source.path.display(), "the file or its key has changed since publishing it began: beginning anew");
            workshop.discard(&old, &folder)?;
            new_job(&source, publisher, request.key)?
        }
        None => new_job(&source, publisher, request.key)?,
    };
    let key = unwrap_key(&job, publisher)?;
    workshop.save(&job)?;

    let mut resumed_bytes = 0;
    if job.sealed.is_none() {
        let sealing = pipeline::Sealing {
            source: source.clone(),
            key: key.clone(),
            into: folder.sealing_path(&job.name()),
            log: workshop.log_path(&job),
            folder: folder.clone(),
            watcher: watcher.clone(),
        };
        match run_blocking(move || pipeline::seal(&sealing)).await {
            Ok(done) => {
                resumed_bytes = done.resumed_bytes;
                job.sealed = Some(Sealed { item: done.manifest.item(), content_hash: done.content_hash });
                workshop.save(&job)?;
            }
            Err(pipeline::Stop::SourceChanged(failure)) => {
                workshop.discard(&job, &folder)?;
                return Err(failure);
            }
            Err(pipeline::Stop::Failed(failure)) => return Err(failure),
        }
    }
    let sealed = job.sealed.clone().expect("it has just been sealed");
    complete(&workshop, &folder, &job, &sealed, source.geometry)?;

    let signed = match job.entry.clone() {
        Some(signed) => signed,
        None => {
            draft.title = job.title;
            draft.item = sealed.item;
            draft.commitment = key.commitment();
            draft.span_commitment = SpanTree::of(&key, draft.geometry.n_spans()).map(|tree| tree.commitment());
            let signed = sign(publisher, &draft)?;
            job.entry = Some(signed.clone());
            workshop.save(&job)?;
            signed
        }
    };
    let entry = signed.verify(&publisher.id()).map_err(|error| {
        Failure::new(Exit::NotAllowed, "E-SEAL-10", "publishing this file was begun with another publisher key")
            .why(error)
            .hint("use the key it was begun with, or remove the folder publisher/jobs of the data folder")
    })?;

    notify(&watcher, Progress::Depositing)?;
    outlets.deposit(&signed, &key).await?;
    notify(&watcher, Progress::Adopting)?;
    let adoption = outlets.adopt(entry.item).await?;
    notify(&watcher, Progress::Announcing)?;
    outlets.announce(&signed).await?;
    workshop.finish(&job, &entry.name)?;
    Ok(Published {
        title: entry.title,
        item: entry.item,
        name: entry.name,
        plain_len: entry.geometry.plain_len(),
        sealed_len: entry.geometry.sealed_len(),
        already: false,
        resumed_bytes,
        adoption: Some(adoption),
        hint: source.hint,
    })
}

/// Gives a key to a keyserver.
pub async fn deposit(
    url: &str,
    channel: Channel,
    entry: &Signed<CatalogEntry>,
    key: &ContentKey,
) -> Result<(), Failure> {
    let about = entry
        .verify(&entry.signer())
        .map_err(|error| Failure::new(Exit::Integrity, "E-SEAL-11", "the signed entry is damaged").why(error))?;
    let mut keyserver = keyserver_pb::deposits_client::DepositsClient::new(channel);
    let info = keyserver.get_keyserver(keyserver_pb::GetKeyserverRequest::default());
    let info = answered(url, &about.publisher, info).await?;
    let to = HpkePublic::try_from(info.hpke_public.as_slice()).map_err(|error| no_keyserver(url).why(error))?;
    let aad = wrap::deposit_aad(&about.item, &about.commitment);
    let wrapped = wrap::wrap(&mut UnwrapErr(SysRng), &to, Label::Deposit, &aad, key.expose());
    let wrapped = wrapped.map_err(|error| no_keyserver(url).why(error))?;
    let request = keyserver_pb::DepositKeyRequest { entry: Some(entry.into()), key: Some(wrapped.into()) };
    answered(url, &about.publisher, keyserver.deposit_key(request)).await?;
    Ok(())
}

/// Puts an entry into a tracker's catalog.
pub async fn announce(url: &str, channel: Channel, entry: &Signed<CatalogEntry>) -> Result<(), Failure> {
    let mut catalog = tracker_pb::catalog_client::CatalogClient::new(channel);
    let request = tracker_pb::PublishRequest { entry: Some(entry.into()) };
    answered(url, &entry.signer(), catalog.publish(request)).await?;
    Ok(())
}

/// A file that can be published.
#[derive(Debug, Clone)]
struct Source {
    path: PathBuf,
    file: Arc<File>,
    fingerprint: Fingerprint,
    geometry: Geometry,
    probe: media::Probe,
    hint: Option<String>,
}

impl Source {
    fn open(path: &Path) -> Result<Source, Failure> {
        let shown = path.display();
        let usage = |what: String| Failure::new(Exit::Usage, "E-SEAL-01", what);
        let cannot = |error: io::Error| match error.kind() {
            io::ErrorKind::NotFound => Failure::new(Exit::NotFound, "E-SEAL-02", format!("there is no file {shown}"))
                .hint("check the path; it is taken from the folder that this command runs in"),
            io::ErrorKind::PermissionDenied => {
                Failure::new(Exit::NotAllowed, "E-SEAL-03", format!("{shown} may not be read"))
                    .why(&error)
                    .hint(format!("make it readable: chmod u+r {shown}"))
            }
            _ => Failure::io(format!("cannot open {shown}"), &error),
        };
        let metadata = fs::metadata(path).map_err(cannot)?;
        if metadata.is_dir() {
            return Err(usage(format!("{shown} is a folder"))
                .hint("publish files one by one, or pack the folder into one file"));
        }
        if !metadata.is_file() {
            return Err(usage(format!("{shown} is not an ordinary file")).hint("copy its contents into a file first"));
        }
        let file = File::open(path).map_err(cannot)?;
        let path = fs::canonicalize(path).map_err(cannot)?;
        let fingerprint = Fingerprint::of(&file.metadata().map_err(cannot)?);
        let geometry = Geometry::of_plain(fingerprint.len).map_err(|error| {
            usage(format!("{shown} cannot be published")).why(error).hint("a title has 1 byte to about 32 GiB")
        })?;
        let probe = media::probe(&file, fingerprint.len, &path).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => changed(&path, "it became shorter"),
            _ => cannot(error),
        })?;
        let hint = probe.hint.clone();
        Ok(Source { path, file: Arc::new(file), fingerprint, geometry, probe, hint })
    }

    /// Fails if the file is not what it was when it was opened.
    fn check_unchanged(&self) -> Result<(), Failure> {
        let gone = |error: io::Error| changed(&self.path, &error.to_string());
        let opened = Fingerprint::of(&self.file.metadata().map_err(gone)?);
        let named = Fingerprint::of(&fs::metadata(&self.path).map_err(gone)?);
        match () {
            () if opened.len > self.fingerprint.len => {
                Err(changed(&self.path, "it is still being written to: it grew"))
            }
            () if opened.len < self.fingerprint.len => Err(changed(&self.path, "it became shorter")),
            () if opened != self.fingerprint => Err(changed(&self.path, "it was written to")),
            () if named != self.fingerprint => Err(changed(&self.path, "another file was put in its place")),
            () => Ok(()),
        }
    }

    /// BLAKE3 of the whole file.
    fn hash(&self, watcher: &Watcher) -> Result<[u8; 32], Failure> {
        let total = self.fingerprint.len;
        let (mut hasher, mut buffer, mut done) = (blake3::Hasher::new(), vec![0; HASH_STEP], 0);
        while done < total {
            let step = (total - done).min(HASH_STEP as u64) as usize;
            self.file.read_exact_at(&mut buffer[..step], done).map_err(|error| unreadable(&self.path, &error))?;
            hasher.update(&buffer[..step]);
            done += step as u64;
            notify(watcher, Progress::Comparing { done, total })?;
        }
        self.check_unchanged()?;
        Ok(*hasher.finalize().as_bytes())
    }
}

/// The entry with everything but what sealing will tell; checked, so that a wrong field costs no time.
fn draft(request: &Request, source: &Source, publisher: &Publisher) -> Result<CatalogEntry, Failure> {
    if request.offers.is_empty() {
        return Err(Failure::new(Exit::Usage, "E-SEAL-04", "a title needs at least one --offer")
            .hint("for example --offer rent:2.99EUR:48h or --offer buy:9.99EUR"));
    }
    let (geometry, media) = (&source.geometry, &source.probe.media);
    let offers =
        request.offers.iter().map(|wish| wish.of(geometry, media, request.preview)).collect::<Result<_, _>>()?;
    let draft = CatalogEntry {
        title: TitleId::from([0; 16]),
        version: 1,
        publisher: publisher.id(),
        item: ItemId::from([0; 32]),
        geometry: source.geometry,
        commitment: KeyCommitment::from_bytes([0; 32]),
        span_commitment: Some(SpanCommitment::from_bytes([0; 32])),
        name: request.name.clone(),
        description: request.description.clone(),
        kind: source.probe.kind,
        media: source.probe.media.clone(),
        artwork: request.poster.as_deref().map(read_poster).transpose()?,
        rating_age: request.rating_age,
        regions: request.regions.clone(),
        released: request.released,
        expires: Limit::Unlimited,
        offers,
        withdrawn: false,
    };
    sign(publisher, &draft)?;
    Ok(draft)
}

fn sign(publisher: &Publisher, entry: &CatalogEntry) -> Result<Signed<CatalogEntry>, Failure> {
    Signed::sign(&publisher.signing, entry)
        .map_err(|invalid| Failure::new(Exit::Usage, "E-SEAL-05", "the catalog would refuse this title").why(invalid))
}

fn read_poster(path: &Path) -> Result<Artwork, Failure> {
    let shown = path.display();
    let cannot = |error: io::Error| Failure::io(format!("cannot read the poster {shown}"), &error);
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(cannot)?;
    file.take(MAX_ARTWORK_BYTES as u64 + 1).read_to_end(&mut bytes).map_err(cannot)?;
    let unfit =
        |what: String| Failure::new(Exit::Usage, "E-SEAL-06", what).hint("use a JPEG, PNG or WebP of at most 32 KiB");
    if bytes.len() > MAX_ARTWORK_BYTES {
        return Err(unfit(format!("the poster {shown} is too large")));
    }
    let mime = match infer::get(&bytes).map(|found| found.mime_type()) {
        Some("image/jpeg") => ArtworkMime::Jpeg,
        Some("image/png") => ArtworkMime::Png,
        Some("image/webp") => ArtworkMime::Webp,
        _ => return Err(unfit(format!("the poster {shown} is not a picture that every browser shows"))),
    };
    Ok(Artwork { mime, bytes: Bytes::from(bytes) })
}

/// A publication of the same file: the same to the file system, or, among those of the same length, the same bytes.
async fn find_published(workshop: &Workshop, source: &Source, watcher: &Watcher) -> Result<Option<Published>, Failure> {
    let published: Vec<_> =
        workshop.published()?.into_iter().filter(|record| record.fingerprint.len == source.fingerprint.len).collect();
    let same = match published.iter().find(|record| record.fingerprint == source.fingerprint) {
        Some(same) => Some(same),
        None if published.is_empty() => None,
        None => {
            let (source, watcher) = (source.clone(), watcher.clone());
            let hash = run_blocking(move || source.hash(&watcher)).await?;
            published.iter().find(|record| record.content_hash == hash)
        }
    };
    Ok(same.map(|record| Published {
        title: record.title,
        item: record.item,
        name: record.name.clone(),
        plain_len: source.geometry.plain_len(),
        sealed_len: source.geometry.sealed_len(),
        already: true,
        resumed_bytes: 0,
        adoption: None,
        hint: None,
    }))
}

/// Whether a job goes on with the key that is asked for; any will do when none is.
fn is_sealed_with(job: &Job, key: Option<&ContentKey>) -> bool {
    key.is_none_or(|key| key.commitment() == job.commitment)
}

fn new_job(source: &Source, publisher: &Publisher, key: Option<ContentKey>) -> Result<Job, Failure> {
    let key = key.unwrap_or_else(|| ContentKey::generate(&mut UnwrapErr(SysRng)));
    let (title, commitment) = (TitleId::generate(&mut UnwrapErr(SysRng)), key.commitment());
    let aad = key_aad(&title, &commitment);
    let wrapped = wrap::wrap(&mut UnwrapErr(SysRng), &publisher.hpke.public(), Label::JobKey, &aad, key.expose());
    let wrapped =
        wrapped.map_err(|error| Failure::new(Exit::Failed, "E-SEAL-07", "the key could not be kept").why(error))?;
    Ok(Job::new(source.path.clone(), source.fingerprint, title, commitment, wrapped))
}

fn unwrap_key(job: &Job, publisher: &Publisher) -> Result<ContentKey, Failure> {
    let unusable = || {
        Failure::new(
            Exit::NotAllowed,
            "E-SEAL-08",
            "the key that publishing this file was begun with cannot be unwrapped",
        )
        .hint("use the publisher keys it was begun with, or remove the folder publisher/jobs of the data folder")
    };
    let secret = wrap::unwrap(&publisher.hpke, Label::JobKey, &key_aad(&job.title, &job.commitment), &job.key);
    let key = ContentKey::from_bytes(&secret.map_err(|error| unusable().why(error))?);
    key.filter(|key| key.commitment() == job.commitment).ok_or_else(unusable)
}

fn key_aad(title: &TitleId, commitment: &KeyCommitment) -> Vec<u8> {
    [title.as_bytes().as_slice(), commitment.as_bytes()].concat()
}

/// Makes the sealed file an item, unless a run before this one has.
fn complete(
    workshop: &Workshop,
    folder: &Folder,
    job: &Job,
    sealed: &Sealed,
    geometry: Geometry,
) -> Result<(), Failure> {
    if !folder.has(&sealed.item) {
        let manifest = pipeline::manifest_of_log(&workshop.log_path(job), geometry)
            .map_err(|error| Failure::io("cannot read what was sealed", &error))?
            .filter(|manifest| manifest.item() == sealed.item)
            .ok_or_else(|| {
                Failure::new(Exit::Integrity, "E-SEAL-09", "what an earlier run has sealed is damaged")
                    .hint("remove the folder publisher/jobs of the data folder and publish again")
            })?;
        folder
            .complete(&manifest, &folder.sealing_path(&job.name()))
            .map_err(|error| Failure::io("cannot put the sealed item in its place", &error))?;
    }
    Ok(())
}

async fn run_blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

fn notify(watcher: &Watcher, progress: Progress) -> Result<(), Failure> {
    match watcher(progress) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => Err(Failure::new(Exit::Interrupted, "E-SEAL-12", "publishing was stopped")
            .hint("the same command goes on from here")),
    }
}

fn changed(path: &Path, why: &str) -> Failure {
    Failure::new(Exit::Failed, "E-SEAL-13", format!("{} changed while it was read", path.display()))
        .why(why)
        .hint("wait until nobody writes to it, then publish it again; nothing of it was published")
}

fn unreadable(path: &Path, error: &io::Error) -> Failure {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => changed(path, "it became shorter"),
        _ => Failure::io(format!("cannot read {}", path.display()), error),
    }
}

/// A server's answer to this publisher, in time, or what went wrong and what to do.
async fn answered<T>(
    url: &str,
    publisher: &PublisherId,
    asked: impl Future<Output = Result<tonic::Response<T>, tonic::Status>>,
) -> Result<T, Failure> {
    let again = "run the same command again: it goes on from here";
    match tokio::time::timeout(ANSWER_WITHIN, asked).await {
        Ok(Ok(answer)) => Ok(answer.into_inner()),
        Ok(Err(status)) => {
            let failure = client::failure(url, &status);
            match failure.exit {
                Exit::NotAllowed => {
                    let what = format!("{url} does not admit publisher {publisher}");
                    let hint = format!("ask its operator to admit this key, then {again}");
                    Err(Failure::new(Exit::NotAllowed, "E-SEAL-14", what).why(failure).hint(hint))
                }
                _ => Err(failure),
            }
        }
        Err(_) => Err(Failure::new(Exit::Unreachable, "E-SEAL-19", format!("{url} does not answer")).hint(again)),
    }
}

fn no_keyserver(url: &str) -> Failure {
    Failure::new(Exit::Integrity, "E-SEAL-15", format!("{url} gave a key that deposits cannot be wrapped to"))
}
