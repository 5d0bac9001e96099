//! The torrent of a file: version 1, one file, pieces of 1 MiB, no tracker.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use anyhow::Context as _;
use sha1::{Digest as _, Sha1};

const PIECE_BYTES: u64 = 1 << 20;

/// Writes the torrent of `file` to `torrent`.
pub(super) fn write(file: &Path, torrent: &Path) -> anyhow::Result<()> {
    let name = file.file_name().and_then(|name| name.to_str()).context("the file has a name")?;
    let mut reader = File::open(file)?;
    let len = reader.metadata()?.len();
    let mut hashes = Vec::new();
    let mut piece = Vec::new();
    while reader.by_ref().take(PIECE_BYTES).read_to_end(&mut piece)? > 0 {
        hashes.extend_from_slice(&Sha1::digest(&piece));
        piece.clear();
    }
    std::fs::write(torrent, encode(name, len, &hashes))
        .with_context(|| format!("failed to write {}", torrent.display()))
}

/// Bencode wants the keys of a dictionary in order.
fn encode(name: &str, len: u64, hashes: &[u8]) -> Vec<u8> {
    let mut torrent = format!(
        "d4:infod6:lengthi{len}e4:name{}:{name}12:piece lengthi{PIECE_BYTES}e6:pieces{}:",
        name.len(),
        hashes.len()
    )
    .into_bytes();
    torrent.extend_from_slice(hashes);
    torrent.extend_from_slice(b"ee");
    torrent
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn torrent_names_every_piece_by_its_sha1() {
        let folder = tempfile::tempdir().expect("a folder");
        let (file, torrent) = (folder.path().join("film.bin"), folder.path().join("t"));
        std::fs::write(&file, vec![0; PIECE_BYTES as usize + 3]).expect("written");
        write(&file, &torrent).expect("a torrent");
        let bytes = std::fs::read(&torrent).expect("read");
        let head = b"d4:infod6:lengthi1048579e4:name8:film.bin12:piece lengthi1048576e6:pieces40:";
        assert_eq!(&bytes[..head.len()], head);
        assert_eq!(bytes[head.len()..][..20], Sha1::digest(vec![0; PIECE_BYTES as usize])[..]);
        assert_eq!(bytes[head.len() + 20..][..20], Sha1::digest([0; 3])[..]);
    }
}
