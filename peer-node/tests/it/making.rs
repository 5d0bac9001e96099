//! Things that tests are made of: files, keys, sealed items.

use std::path::Path;

use bytes::Bytes;
use daemon::units::ByteSize;
use peer_node::config;
use peer_node::items::Items;
use swarm_proto::geometry::{ChunkIndex, Geometry};
use swarm_proto::manifest::{Manifest, ManifestBuilder};
use swarm_proto::seal::{ContentKey, Sealer};

/// An item with everything known about it.
pub(crate) struct Made {
    pub(crate) clear: Vec<u8>,
    pub(crate) sealed: Bytes,
    pub(crate) key: ContentKey,
    pub(crate) manifest: std::sync::Arc<Manifest>,
}

impl Made {
    pub(crate) fn chunk(&self, raw: u32) -> Bytes {
        let range = self.manifest.geometry().chunk_range(index(raw));
        self.sealed.slice(range.start as usize..range.end as usize)
    }
}

/// Bytes that look random and are the same for the same seed.
pub(crate) fn noise(len: usize, seed: u8) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(&[seed]).finalize_xof().fill(&mut bytes);
    bytes
}

/// Seals `len` bytes of noise.
pub(crate) fn item(len: usize, seed: u8) -> Made {
    seal(noise(len, seed), seed)
}

/// Seals these bytes under a key that follows from the seed.
pub(crate) fn seal(clear: Vec<u8>, seed: u8) -> Made {
    let key = ContentKey::from_bytes(&[seed; 32]).expect("32 bytes");
    let geometry = Geometry::of_plain(clear.len() as u64).expect("possible");
    let mut sealer = Sealer::new(key.clone(), geometry);
    let mut sealed = Vec::new();
    sealer.push(&clear, &mut sealed).expect("all of it");
    sealer.finish().expect("all of it");
    let mut builder = ManifestBuilder::new(geometry);
    builder.update(&sealed).expect("all of it");
    let manifest = builder.finish().expect("all of it").into();
    Made { clear, sealed: sealed.into(), key, manifest }
}

pub(crate) fn index(raw: u32) -> ChunkIndex {
    ChunkIndex::new(raw).expect("small")
}

pub(crate) fn open(root: &Path) -> Items {
    let config = config::Items { reserve: ByteSize::mib(1), cache: ByteSize::mib(2), direct_writes: true };
    Items::open(root, &config).expect("the folder opens")
}

/// Writes all chunks of an item.
pub(crate) async fn hold(items: &Items, made: &Made) {
    items.reserve(made.manifest.item(), made.manifest.clone()).await.expect("room");
    for chunk in made.manifest.geometry().chunks() {
        items.write(made.manifest.item(), chunk, made.chunk(chunk.get())).await.expect("written");
    }
}

/// What kill -9 would leave: the folder as it is at this moment, elsewhere.
pub(crate) fn snapshot(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("made");
    for entry in std::fs::read_dir(from).expect("a folder") {
        let entry = entry.expect("an entry");
        let target = to.join(entry.file_name());
        match entry.file_type().expect("a type").is_dir() {
            true => snapshot(&entry.path(), &target),
            // A file may be renamed while the folder is read; then it is there under its other name.
            false => drop(std::fs::copy(entry.path(), target)),
        }
    }
}
