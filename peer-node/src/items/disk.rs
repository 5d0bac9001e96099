//! The folder of items: names, formats and the order in which files come and go.
//!
//! An item exists when its `.item` file does; manifest and bitmap are written before it appears and removed after it.
//! A `.tail` is there while an item is being written; see `tail`.
//! The bitmap is 12 bytes of header (`RSBM`, version, three zeros, number of chunks), the item id, one bit a chunk
//! (lowest first) and the BLAKE3 of all that; it is replaced as a whole. Files with other names are left alone.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::ops::Range;
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use rustix::fs::FallocateFlags;
use rustix::io::Errno;
use swarm_proto::bitmap::{Holding, bits_len};
use swarm_proto::geometry::{CHUNK_BYTES, ChunkIndex, MAX_CHUNKS};
use swarm_proto::id::ItemId;
use swarm_proto::manifest::{self, Manifest};

use super::tail;

/// What `publish` calls an item that it is still sealing: `<job>.sealing`.
const SEALING_SUFFIX: &str = "sealing";

const ITEM_SUFFIX: &str = "item";
const MANIFEST_SUFFIX: &str = "manifest";
const BITMAP_SUFFIX: &str = "bitmap";
const TAIL_SUFFIX: &str = "tail";
/// A bitmap or manifest that was being written when the program died.
const TEMPORARY_SUFFIX: &str = "new";

const BITMAP_MAGIC: [u8; 4] = *b"RSBM";
const BITMAP_VERSION: u8 = 1;
const BITMAP_HEADER_BYTES: usize = 12;
const HASH_BYTES: usize = 32;
const MAX_BITMAP_BYTES: usize = BITMAP_HEADER_BYTES + 2 * HASH_BYTES + bits_len(MAX_CHUNKS);

/// What was found of an item.
pub(super) struct Loaded {
    pub(super) manifest: Manifest,
    pub(super) holding: Holding,
    /// Chunks that had to be hashed to know.
    pub(super) hashed: u32,
}

/// The folder with all item files.
#[derive(Debug, Clone)]
pub struct Folder {
    path: PathBuf,
}

impl Folder {
    /// Opens the folder, making it (mode 0700) if it is not there.
    pub fn open(path: PathBuf) -> anyhow::Result<Folder> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&path)
            .with_context(|| format!("failed to make the folder {}", path.display()))?;
        Ok(Folder { path })
    }

    /// Where the sealed bytes of an item are.
    pub fn item_path(&self, item: &ItemId) -> PathBuf {
        self.file(item, ITEM_SUFFIX)
    }

    /// Where a publishing job keeps what it has sealed so far.
    pub fn sealing_path(&self, job: &str) -> PathBuf {
        self.path.join(format!("{job}.{SEALING_SUFFIX}"))
    }

    /// Turns a sealed file into a complete item. Done again after a crash, it ends in the same.
    pub fn complete(&self, manifest: &Manifest, sealed: &Path) -> io::Result<()> {
        let item = manifest.item();
        let holding = Holding::complete(manifest.geometry().n_chunks()).expect("a manifest has a possible size");
        self.write_manifest(manifest)?;
        self.write_bitmap(&item, &holding)?;
        fs::rename(sealed, self.item_path(&item))?;
        self.sync()
    }

    /// True when the sealed bytes of an item are here, whole or not.
    pub fn has(&self, item: &ItemId) -> bool {
        self.item_path(item).exists()
    }

    /// Bytes that a user without privileges may still write.
    pub fn free_bytes(&self) -> io::Result<u64> {
        let stat = rustix::fs::statvfs(&self.path)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    /// Makes every file that appeared or vanished so far do so for good.
    pub fn sync(&self) -> io::Result<()> {
        File::open(&self.path)?.sync_all()
    }

    /// The items there are files of. Says which files it does not know.
    pub(super) fn scan(&self) -> anyhow::Result<Vec<ItemId>> {
        let listing = || format!("failed to list the folder {}", self.path.display());
        let mut items = Vec::new();
        for entry in fs::read_dir(&self.path).with_context(listing)? {
            let path = entry.with_context(listing)?.path();
            let suffix = path.extension().and_then(|suffix| suffix.to_str());
            let item = path.file_stem().and_then(|stem| stem.to_str()).and_then(|stem| stem.parse::<ItemId>().ok());
            match (item, suffix) {
                (Some(item), Some(ITEM_SUFFIX)) => items.push(item),
                (Some(_), Some(MANIFEST_SUFFIX | BITMAP_SUFFIX | TAIL_SUFFIX | TEMPORARY_SUFFIX))
                | (_, Some(SEALING_SUFFIX)) => {}
                _ => tracing::warn!(path = %path.display(), "not a file of ours: left alone"),
            }
        }
        items.sort_unstable();
        Ok(items)
    }

    /// Finds out what there is of an item, repairing what can be repaired; `None` when only its manifest could tell
    /// and that is missing or damaged.
    pub(super) fn load(&self, item: ItemId) -> io::Result<Option<Loaded>> {
        let Some(manifest) = self.read_manifest(item)? else { return Ok(None) };
        let geometry = *manifest.geometry();
        let file = OpenOptions::new().read(true).write(true).open(self.item_path(&item))?;
        let found = file.metadata()?.len();
        let marked = self.read_bitmap(&item, geometry.n_chunks())?;
        let unsure: Vec<ChunkIndex> = match &marked {
            Some(marked) => {
                let written = tail::read(&self.tail_path(&item))?;
                geometry.chunks().filter(|chunk| written.contains(chunk) && !marked.contains(*chunk)).collect()
            }
            None => {
                tracing::warn!(%item, "the bitmap is missing or damaged: hashing the whole item");
                geometry.chunks().collect()
            }
        };
        let sound = hash(&file, &manifest, &unsure)?;
        if !unsure.is_empty() {
            tracing::info!(%item, hashed = unsure.len(), sound = sound.len(), "an item goes on where it stopped");
        }
        let holding = marked.as_ref().map_or(sound.clone(), |marked| marked.union(&sound));
        let there = cut_to(holding, &manifest, found);
        if found != geometry.sealed_len() {
            tracing::warn!(%item, found, expected = geometry.sealed_len(), "the item file has another length");
            file.set_len(geometry.sealed_len())?;
        }
        if marked.as_ref() != Some(&there) {
            // What a tail names may still be on its way to the disk.
            file.sync_data()?;
            self.write_bitmap(&item, &there)?;
            self.sync()?;
        }
        self.forget_tail(&item)?;
        let hashed = u32::try_from(unsure.len()).unwrap_or(u32::MAX);
        Ok(Some(Loaded { manifest, holding: there, hashed }))
    }

    /// Makes the files of an item, with room on disk for these bytes of it. A file that is there keeps what it has.
    pub(super) fn create(&self, manifest: &Manifest, places: &[Range<u64>]) -> io::Result<()> {
        let item = manifest.item();
        self.write_manifest(manifest)?;
        if self.has(&item) {
            let file = OpenOptions::new().write(true).open(self.item_path(&item))?;
            allocate_places(&file, manifest.geometry().sealed_len(), places)?;
            return self.sync();
        }
        let nothing = Holding::empty(manifest.geometry().n_chunks()).expect("a manifest has a possible size");
        self.write_bitmap(&item, &nothing)?;
        let path = self.item_path(&item);
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
        let made = allocate_places(&file, manifest.geometry().sealed_len(), places).and_then(|()| file.sync_all());
        if made.is_err() {
            self.delete(&item)?;
        }
        made.and_then(|()| self.sync())
    }

    /// Bytes an item already occupies on disk.
    pub(super) fn allocated_bytes(&self, item: &ItemId) -> u64 {
        fs::metadata(self.item_path(item)).map_or(0, |metadata| metadata.blocks().saturating_mul(512))
    }

    pub(super) fn delete(&self, item: &ItemId) -> io::Result<()> {
        for suffix in [ITEM_SUFFIX, BITMAP_SUFFIX, MANIFEST_SUFFIX, TAIL_SUFFIX] {
            remove_if_there(&self.file(item, suffix))?;
        }
        self.sync()
    }

    /// Where chunks are named that the bitmap does not hold yet.
    pub(super) fn tail_path(&self, item: &ItemId) -> PathBuf {
        self.file(item, TAIL_SUFFIX)
    }

    /// Everything that the tail names is in the bitmap.
    pub(super) fn forget_tail(&self, item: &ItemId) -> io::Result<()> {
        remove_if_there(&self.tail_path(item))
    }

    /// The manifest, if it is there and proves itself.
    pub(super) fn read_manifest(&self, item: ItemId) -> io::Result<Option<Manifest>> {
        let Some(bytes) = read_bounded(&self.file(&item, MANIFEST_SUFFIX), manifest::MAX_FILE_BYTES)? else {
            tracing::warn!(%item, "an item without its manifest: not used until its manifest is fetched again");
            return Ok(None);
        };
        match Manifest::from_bytes(item, &bytes) {
            Ok(manifest) => Ok(Some(manifest)),
            Err(error) => {
                tracing::warn!(%item, %error, "the manifest is damaged: not used until it is fetched again");
                Ok(None)
            }
        }
    }

    /// What the bitmap promises, if it is there and undamaged.
    pub(super) fn read_bitmap(&self, item: &ItemId, n_chunks: u32) -> io::Result<Option<Holding>> {
        let bytes = read_bounded(&self.file(item, BITMAP_SUFFIX), MAX_BITMAP_BYTES)?;
        Ok(bytes.and_then(|bytes| decode_bitmap(item, n_chunks, &bytes)))
    }

    /// Replaces the bitmap. What it promises must be on disk already.
    pub(super) fn write_bitmap(&self, item: &ItemId, holding: &Holding) -> io::Result<()> {
        self.replace(item, BITMAP_SUFFIX, &encode_bitmap(item, holding))
    }

    fn write_manifest(&self, manifest: &Manifest) -> io::Result<()> {
        self.replace(&manifest.item(), MANIFEST_SUFFIX, &manifest.to_bytes())
    }

    fn replace(&self, item: &ItemId, suffix: &str, contents: &[u8]) -> io::Result<()> {
        let temporary = self.path.join(format!("{item}.{suffix}.{TEMPORARY_SUFFIX}"));
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        file.write_all(contents)?;
        file.sync_all()?;
        fs::rename(&temporary, self.file(item, suffix))
    }

    fn file(&self, item: &ItemId, suffix: &str) -> PathBuf {
        self.path.join(format!("{item}.{suffix}"))
    }
}

/// Gives the file its whole length, with room on disk where the file system can promise that.
pub(crate) fn allocate(file: &File, len: u64) -> io::Result<()> {
    allocate_places(file, len, std::slice::from_ref(&(0..len)))
}

/// The same for some of its bytes only; the rest takes no room until it is written.
fn allocate_places(file: &File, len: u64, places: &[Range<u64>]) -> io::Result<()> {
    file.set_len(len)?;
    for place in places {
        match rustix::fs::fallocate(file, FallocateFlags::empty(), place.start, place.end - place.start) {
            Err(Errno::OPNOTSUPP) => {}
            result => result?,
        }
    }
    Ok(())
}

/// The chunks that lie wholly within the first `len` bytes.
fn cut_to(mut holding: Holding, manifest: &Manifest, len: u64) -> Holding {
    let geometry = manifest.geometry();
    if len < geometry.sealed_len() {
        for chunk in geometry.chunks().skip((len / CHUNK_BYTES) as usize) {
            holding.remove(chunk);
        }
    }
    holding
}

/// Which of these chunks of a file are what they should be.
fn hash(file: &File, manifest: &Manifest, chunks: &[ChunkIndex]) -> io::Result<Holding> {
    let geometry = manifest.geometry();
    let mut holding = Holding::empty(geometry.n_chunks()).expect("a manifest has a possible size");
    let mut buffer = vec![0; CHUNK_BYTES as usize];
    for &chunk in chunks {
        let bytes = &mut buffer[..geometry.chunk_len(chunk)];
        match file.read_exact_at(bytes, geometry.chunk_range(chunk).start) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => break,
            result => result?,
        }
        if manifest.check_chunk(chunk, bytes).is_ok() {
            holding.insert(chunk);
        }
    }
    Ok(holding)
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

/// The whole file, unless it is not there; one that is too long is as good as damaged and comes back cut.
fn read_bounded(path: &Path, max: usize) -> io::Result<Option<Vec<u8>>> {
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file?,
    };
    let mut bytes = Vec::new();
    file.take(max as u64 + 1).read_to_end(&mut bytes)?;
    Ok(Some(bytes))
}

fn encode_bitmap(item: &ItemId, holding: &Holding) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(MAX_BITMAP_BYTES);
    bytes.extend_from_slice(&BITMAP_MAGIC);
    bytes.extend_from_slice(&[BITMAP_VERSION, 0, 0, 0]);
    bytes.extend_from_slice(&holding.n_chunks().to_be_bytes());
    bytes.extend_from_slice(item.as_bytes());
    bytes.extend_from_slice(&holding.to_bits());
    let checksum = blake3::hash(&bytes);
    bytes.extend_from_slice(checksum.as_bytes());
    bytes
}

fn decode_bitmap(item: &ItemId, n_chunks: u32, bytes: &[u8]) -> Option<Holding> {
    let (body, checksum) = bytes.split_last_chunk::<HASH_BYTES>()?;
    if blake3::hash(body) != *checksum {
        return None;
    }
    let (header, rest) = body.split_first_chunk::<BITMAP_HEADER_BYTES>()?;
    let (of, bits) = rest.split_first_chunk::<HASH_BYTES>()?;
    let right = header[..4] == BITMAP_MAGIC && header[4..8] == [BITMAP_VERSION, 0, 0, 0];
    if !right || header[8..] != n_chunks.to_be_bytes() || of != item.as_bytes() {
        return None;
    }
    Holding::from_bits(n_chunks, bits).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ITEM: ItemId = ItemId::from_bytes([7; 32]);

    fn holding(n_chunks: u32, chunks: &[u32]) -> Holding {
        let mut holding = Holding::empty(n_chunks).expect("possible");
        for raw in chunks {
            holding.insert(ChunkIndex::new(raw % n_chunks).expect("possible"));
        }
        holding
    }

    proptest! {
        #[test]
        fn bitmap_reads_back_as_it_was_written(n in 1..=MAX_CHUNKS, chunks in prop::collection::vec(any::<u32>(), 0..64)) {
            let written = holding(n, &chunks);
            prop_assert_eq!(decode_bitmap(&ITEM, n, &encode_bitmap(&ITEM, &written)), Some(written));
        }

        #[test]
        fn damaged_bitmap_is_not_believed(n in 1..2_000_u32, at in any::<prop::sample::Index>(), flip in 1..=255_u8) {
            let mut bytes = encode_bitmap(&ITEM, &holding(n, &[0, 3]));
            let at = at.index(bytes.len());
            bytes[at] ^= flip;
            prop_assert_eq!(decode_bitmap(&ITEM, n, &bytes), None);
        }

        #[test]
        fn torn_bitmap_is_not_believed(n in 1..2_000_u32, keep in any::<prop::sample::Index>()) {
            let bytes = encode_bitmap(&ITEM, &holding(n, &[0, 3]));
            prop_assert_eq!(decode_bitmap(&ITEM, n, &bytes[..keep.index(bytes.len())]), None);
        }
    }

    #[test]
    fn bitmap_of_another_item_is_not_believed() {
        let bytes = encode_bitmap(&ITEM, &holding(9, &[1]));
        assert_eq!(decode_bitmap(&ItemId::from_bytes([8; 32]), 9, &bytes), None);
        assert_eq!(decode_bitmap(&ITEM, 10, &bytes), None);
    }
}
