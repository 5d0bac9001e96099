//! Reads, seals, hashes and writes a file, each at the same time as the others.
//!
//! Three threads hand chunks to each other in a few buffers that go round: one reads and hashes the clear bytes, one
//! seals them and hashes the sealed ones, one writes. After each span the sealed bytes are made durable and then logged
//! with their chunk values and the hash of the clear file so far; a later run reads the log, checks that the clear file
//! still begins with the same bytes, and goes on behind the last span in it. What was sealed but not logged is sealed
//! again from the same bytes under the same key.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use daemon::exit::{Exit, Failure};
use swarm_proto::geometry::{
    CHUNK_BYTES, CHUNKS_PER_SPAN, ChunkIndex, Geometry, SEGMENT_PLAIN_BYTES, SEGMENTS_PER_CHUNK, SpanIndex,
};
use swarm_proto::manifest::{Manifest, ManifestBuilder, Value};
use swarm_proto::seal::{ContentKey, SealError, Sealer};
use zeroize::Zeroizing;

use super::{Progress, Source, Watcher, changed, notify, unreadable};
use crate::items::{self, Folder};

/// Clear bytes of a whole chunk.
const PLAIN_CHUNK_BYTES: u64 = SEGMENT_PLAIN_BYTES * SEGMENTS_PER_CHUNK as u64;

/// Buffers that go round between two threads: one in each hand, and one on the table.
const BUFFERS: usize = 3;

/// A record of the log: span (4), its chunk values (16 × 32, zeros where there is no chunk), BLAKE3 of the clear file
/// up to its end (32), BLAKE3 of all that (32).
const RECORD_BYTES: usize = 4 + CHUNKS_PER_SPAN as usize * VALUE_BYTES + 2 * VALUE_BYTES;
const VALUE_BYTES: usize = 32;

/// What is to be sealed, and where to.
pub(super) struct Sealing {
    pub(super) source: Source,
    pub(super) key: ContentKey,
    /// The file of sealed bytes.
    pub(super) into: PathBuf,
    /// The log of spans that are durable in it.
    pub(super) log: PathBuf,
    pub(super) folder: Folder,
    pub(super) watcher: Watcher,
}

/// A sealed file, all of it durable.
pub(super) struct Done {
    pub(super) manifest: Manifest,
    /// BLAKE3 of the clear file.
    pub(super) content_hash: [u8; 32],
    /// Clear bytes that an earlier run had sealed.
    pub(super) resumed_bytes: u64,
}

/// Why sealing ended early.
pub(super) enum Stop {
    /// The file is not the one it was: the key must not be used any more.
    SourceChanged(Failure),
    /// Another run can go on.
    Failed(Failure),
}

/// What is durable of a sealed file.
struct Log {
    file: File,
    values: Vec<Value>,
    /// BLAKE3 of the clear file up to the end of the last span; `None` at the beginning.
    clear_hash: Option<[u8; 32]>,
}

struct ClearChunk {
    bytes: Zeroizing<Vec<u8>>,
    /// BLAKE3 of the clear file up to here, at the end of a span.
    hash_so_far: Option<[u8; 32]>,
}

struct SealedChunk {
    index: ChunkIndex,
    bytes: Vec<u8>,
    value: Value,
    hash_so_far: Option<[u8; 32]>,
}

/// Seals the whole file, or what an earlier run has left of it.
pub(super) fn seal(job: &Sealing) -> Result<Done, Stop> {
    let geometry = job.source.geometry;
    let mut log =
        Log::open(&job.log, geometry).map_err(|error| failed("cannot open the log of what is sealed", &error))?;
    let into = job.open_sealed_file(&mut log)?;
    let begin = log.values.len() as u32;
    let resumed_bytes = plain_end(geometry, begin);
    if resumed_bytes > 0 {
        tracing::info!(resumed_bytes, "going on behind what an earlier run has sealed");
    }
    job.report(begin)?;

    let (clear_to, clear_from) = sync_channel(BUFFERS);
    let (clear_back, clear_free) = sync_channel(BUFFERS);
    let (sealed_to, sealed_from) = sync_channel(BUFFERS);
    let (sealed_back, sealed_free) = sync_channel(BUFFERS);
    for _ in 0..BUFFERS {
        drop(clear_back.send(Zeroizing::new(Vec::with_capacity(PLAIN_CHUNK_BYTES as usize))));
        drop(sealed_back.send(Vec::with_capacity(CHUNK_BYTES as usize)));
    }
    let content_hash = thread::scope(|scope| {
        let known = log.clear_hash;
        let reader = scope.spawn(move || read(&job.source, begin, known, &clear_free, &clear_to));
        let builder = ManifestBuilder::resume(geometry, log.values.clone());
        let sealer = scope.spawn(move || {
            let builder = builder.map_err(|error| {
                Stop::Failed(Failure::new(Exit::Integrity, "E-SEAL-09", "the log is damaged").why(error))
            })?;
            seal_chunks(job, begin, builder, (&clear_from, &clear_back), (&sealed_free, &sealed_to))
        });
        let written = job.write(&into, &mut log, &sealed_from, &sealed_back);
        // A writer that has given up lets go of its ends, so that the others find nobody to work for.
        drop((sealed_from, sealed_back));
        let sealed = sealer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        let read = reader.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        written?;
        sealed?;
        read
    })?;
    job.source.check_unchanged().map_err(Stop::SourceChanged)?;
    let manifest = ManifestBuilder::resume(geometry, log.values).and_then(ManifestBuilder::finish);
    let manifest = manifest.map_err(|error| {
        Stop::Failed(Failure::new(Exit::Failed, "E-SEAL-18", "not everything was sealed").why(error))
    })?;
    Ok(Done { manifest, content_hash, resumed_bytes })
}

/// The manifest of a file that was sealed to its end.
pub(super) fn manifest_of_log(path: &Path, geometry: Geometry) -> io::Result<Option<Manifest>> {
    let log = Log::open(path, geometry)?;
    Ok(ManifestBuilder::resume(geometry, log.values).and_then(ManifestBuilder::finish).ok())
}

impl Sealing {
    /// The file to write to, with room for everything. If it is not there, neither is what the log says.
    fn open_sealed_file(&self, log: &mut Log) -> Result<File, Stop> {
        let len = self.source.geometry.sealed_len();
        let options = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).clone();
        let cannot = |error: io::Error| failed("cannot make the sealed file", &error);
        let file = options.open(&self.into).map_err(cannot)?;
        let found = file.metadata().map_err(cannot)?.len();
        if found == len {
            return Ok(file);
        }
        log.clear().map_err(cannot)?;
        let free = self.folder.free_bytes().map_err(cannot)?;
        if free < len {
            return Err(Stop::Failed(
                Failure::new(
                    Exit::Storage,
                    "E-DISK-02",
                    format!("not enough space to publish {}", self.source.path.display()),
                )
                .why(format!("needs {} bytes more", len - free))
                .hint("free some space, or use another data folder"),
            ));
        }
        items::allocate(&file, len).map_err(cannot)?;
        Ok(file)
    }

    /// Writes what comes, and after each span makes it durable and logs it.
    fn write(
        &self,
        into: &File,
        log: &mut Log,
        chunks: &Receiver<SealedChunk>,
        back: &SyncSender<Vec<u8>>,
    ) -> Result<(), Stop> {
        let geometry = self.source.geometry;
        let cannot = |error: io::Error| failed("cannot write the sealed file", &error);
        let mut span_values = Vec::with_capacity(CHUNKS_PER_SPAN as usize);
        while let Ok(SealedChunk { index, bytes, value, hash_so_far }) = chunks.recv() {
            into.write_all_at(&bytes, geometry.chunk_range(index).start).map_err(cannot)?;
            span_values.push(value);
            // The sealer may be done and gone: then nobody needs the buffer.
            drop(back.send(bytes));
            if let Some(hash) = hash_so_far {
                into.sync_data().map_err(cannot)?;
                log.append(index.span(), &span_values, &hash).map_err(cannot)?;
                span_values.clear();
            }
            self.report(index.get() + 1)?;
        }
        Ok(())
    }

    fn report(&self, chunks: u32) -> Result<(), Stop> {
        let geometry = self.source.geometry;
        let progress = Progress::Sealing { done: plain_end(geometry, chunks), total: geometry.plain_len() };
        notify(&self.watcher, progress).map_err(Stop::Failed)
    }
}

/// Reads from the first chunk that is not sealed, hashing everything; answers the hash of the whole file.
fn read(
    source: &Source,
    begin: u32,
    known: Option<[u8; 32]>,
    free: &Receiver<Zeroizing<Vec<u8>>>,
    to: &SyncSender<ClearChunk>,
) -> Result<[u8; 32], Stop> {
    let geometry = source.geometry;
    let mut hasher = blake3::Hasher::new();
    for chunk in geometry.chunks() {
        // Nobody gives buffers back any more: another thread has the reason.
        let Ok(mut bytes) = free.recv() else { break };
        let range = plain_end(geometry, chunk.get())..plain_end(geometry, chunk.get() + 1);
        bytes.resize((range.end - range.start) as usize, 0);
        source.file.read_exact_at(&mut bytes, range.start).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => Stop::SourceChanged(unreadable(&source.path, &error)),
            _ => Stop::Failed(unreadable(&source.path, &error)),
        })?;
        hasher.update(&bytes);
        if chunk.get() + 1 == begin && known != Some(*hasher.finalize().as_bytes()) {
            return Err(Stop::SourceChanged(changed(
                &source.path,
                "its bytes are not those that an earlier run has sealed",
            )));
        }
        if chunk.get() < begin {
            if to.send(ClearChunk { bytes, hash_so_far: None }).is_err() {
                break;
            }
            continue;
        }
        let hash_so_far = ends_span(geometry, chunk).then(|| *hasher.finalize().as_bytes());
        if to.send(ClearChunk { bytes, hash_so_far }).is_err() {
            break;
        }
    }
    source.check_unchanged().map_err(Stop::SourceChanged)?;
    Ok(*hasher.finalize().as_bytes())
}

type ClearEnds<'a> = (&'a Receiver<ClearChunk>, &'a SyncSender<Zeroizing<Vec<u8>>>);
type SealedEnds<'a> = (&'a Receiver<Vec<u8>>, &'a SyncSender<SealedChunk>);

/// Seals what comes; chunks that an earlier run has sealed only pass by.
fn seal_chunks(
    job: &Sealing,
    begin: u32,
    mut builder: ManifestBuilder,
    clear: ClearEnds<'_>,
    sealed: SealedEnds<'_>,
) -> Result<(), Stop> {
    let geometry = job.source.geometry;
    let span = SpanIndex::new(begin.div_ceil(CHUNKS_PER_SPAN)).unwrap_or(SpanIndex::FIRST);
    let mut sealer = Sealer::resume_at(job.key.clone(), geometry, span);
    for index in geometry.chunks() {
        let Ok(ClearChunk { bytes, hash_so_far }) = clear.0.recv() else { return Ok(()) };
        if index.get() < begin {
            drop(clear.1.send(bytes));
            continue;
        }
        let Ok(mut out) = sealed.0.recv() else { return Ok(()) };
        out.clear();
        let grew = |error: SealError| Stop::SourceChanged(changed(&job.source.path, &error.to_string()));
        sealer.push(&bytes, &mut out).map_err(grew)?;
        drop(clear.1.send(bytes));
        let broken = |why: &dyn std::fmt::Display| {
            Stop::Failed(Failure::new(Exit::Failed, "E-SEAL-18", "a chunk could not be sealed").why(why))
        };
        builder.update(&out).map_err(|error| broken(&error))?;
        let value =
            *builder.values().get(index.as_usize()).ok_or_else(|| broken(&"its sealed bytes are incomplete"))?;
        if sealed.1.send(SealedChunk { index, bytes: out, value, hash_so_far }).is_err() {
            return Ok(());
        }
    }
    Ok(())
}

impl Log {
    /// Reads the records that are whole, in order; what follows them is forgotten.
    fn open(path: &Path, geometry: Geometry) -> io::Result<Log> {
        let file = OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(path)?;
        let mut log = Log { file: file.try_clone()?, values: Vec::new(), clear_hash: None };
        let mut bytes = Vec::new();
        (&file).take(u64::from(geometry.n_spans()) * RECORD_BYTES as u64).read_to_end(&mut bytes)?;
        let mut whole = 0;
        for (place, record) in bytes.chunks(RECORD_BYTES).enumerate() {
            let Some((values, hash)) = decode_record(place as u32, record) else { break };
            let n_values = (geometry.n_chunks() as usize - log.values.len()).min(CHUNKS_PER_SPAN as usize);
            log.values.extend_from_slice(&values[..n_values]);
            log.clear_hash = Some(hash);
            whole += RECORD_BYTES as u64;
        }
        file.set_len(whole)?;
        Ok(log)
    }

    fn append(&mut self, span: SpanIndex, values: &[Value], clear_hash: &[u8; 32]) -> io::Result<()> {
        let mut record = Vec::with_capacity(RECORD_BYTES);
        record.extend_from_slice(&span.get().to_be_bytes());
        record.extend_from_slice(values.as_flattened());
        record.resize(RECORD_BYTES - 2 * VALUE_BYTES, 0);
        record.extend_from_slice(clear_hash);
        let checksum = blake3::hash(&record);
        record.extend_from_slice(checksum.as_bytes());
        self.file.write_all(&record)?;
        self.file.sync_data()?;
        self.values.extend_from_slice(values);
        self.clear_hash = Some(*clear_hash);
        Ok(())
    }

    fn clear(&mut self) -> io::Result<()> {
        self.values.clear();
        self.clear_hash = None;
        self.file.set_len(0)
    }
}

fn decode_record(span: u32, record: &[u8]) -> Option<(&[Value], [u8; 32])> {
    let (body, checksum) = record.split_last_chunk::<VALUE_BYTES>()?;
    let (number, rest) = body.split_first_chunk::<4>()?;
    let (values, hash) = rest.split_last_chunk::<VALUE_BYTES>()?;
    let (values, []) = values.as_chunks::<VALUE_BYTES>() else { return None };
    let whole = record.len() == RECORD_BYTES && u32::from_be_bytes(*number) == span && blake3::hash(body) == *checksum;
    whole.then_some((values, *hash))
}

/// Where in the clear file the first so many chunks end.
fn plain_end(geometry: Geometry, chunks: u32) -> u64 {
    (u64::from(chunks) * PLAIN_CHUNK_BYTES).min(geometry.plain_len())
}

fn ends_span(geometry: Geometry, chunk: ChunkIndex) -> bool {
    let next = chunk.get() + 1;
    next.is_multiple_of(CHUNKS_PER_SPAN) || next == geometry.n_chunks()
}

fn failed(what: &str, error: &io::Error) -> Stop {
    Stop::Failed(Failure::io(what, error))
}
