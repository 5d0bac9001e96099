//! Looks for what must not be on any disk: keys, and runs of the clear film.
//!
//! Reads every byte of every file under a folder. A run is found with a rolling hash (Rabin and Karp 1987) over
//! windows of 64 bytes and then compared byte for byte, so a report is never a chance hit. Never writes.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

/// Length of a run of clear film that counts as a leak, bytes.
const WINDOW: usize = 64;
/// Up to this size of film every window is searched for; of larger ones each 64th, so that 127 bytes in a row are
/// always found and the index stays small.
const DENSE_FILM_BYTES: usize = 16 << 20;
/// Of a very large film only so much is indexed.
const INDEXED_FILM_BYTES: usize = 256 << 20;
/// Windows with fewer different bytes (padding, empty tables) occur by themselves in any file.
const MIN_DISTINCT: usize = 16;
const BASE: u64 = 0x0100_0000_01b3;
/// Bits of the filter in front of the index: sixteen for each window of a dense index, so that nearly every byte of
/// ciphertext is done with after one look.
const FILTER_BITS: usize = 1 << 28;
/// Read buffer, bytes.
const PIECE: usize = 1 << 20;

/// What was found where.
#[derive(Debug, PartialEq)]
pub(super) struct Leak {
    pub(super) file: PathBuf,
    pub(super) offset: u64,
    pub(super) what: &'static str,
}

/// What to look for.
pub(super) struct Search<'a> {
    film: &'a [u8],
    /// Where in the film each window begins, by its hash.
    windows: HashMap<u64, u32>,
    filter: Vec<u64>,
    secrets: Vec<(&'static str, Vec<u8>)>,
}

impl<'a> Search<'a> {
    /// `secrets` are short byte strings (keys) with a name; both their bytes and their lower-case hex are looked for.
    pub(super) fn new(film: &'a [u8], secrets: Vec<(&'static str, Vec<u8>)>) -> Search<'a> {
        let indexed = &film[..film.len().min(INDEXED_FILM_BYTES)];
        let step = if film.len() <= DENSE_FILM_BYTES { 1 } else { WINDOW };
        let mut windows = HashMap::with_capacity(indexed.len() / step);
        let mut filter = vec![0; FILTER_BITS / 64];
        let mut rolling = Rolling::default();
        for (at, &byte) in indexed.iter().enumerate() {
            rolling.push(byte, at.checked_sub(WINDOW).map(|old| indexed[old]));
            if let Some(start) = (at + 1).checked_sub(WINDOW)
                && start % step == 0
                && distinct(&indexed[start..=at]) >= MIN_DISTINCT
            {
                windows.entry(rolling.hash).or_insert(start as u32);
                let (word, bit) = filter_place(rolling.hash);
                filter[word] |= bit;
            }
        }
        let mut all = Vec::new();
        for (name, bytes) in secrets {
            all.push((name, hex(&bytes).into_bytes()));
            all.push((name, bytes));
        }
        Search { film, windows, filter, secrets: all }
    }

    /// Windows in the index, for the report.
    pub(super) fn windows(&self) -> usize {
        self.windows.len()
    }

    /// Every leak in every file under `folder`, and the bytes read.
    pub(super) fn scan(&self, folder: &Path) -> anyhow::Result<(Vec<Leak>, u64)> {
        let mut leaks = Vec::new();
        let mut read = 0;
        let mut folders = vec![folder.to_path_buf()];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(&folder).with_context(|| format!("failed to list {}", folder.display()))? {
                let entry = entry?;
                if entry.file_type()?.is_dir() {
                    folders.push(entry.path());
                } else if entry.file_type()?.is_file() {
                    read += self.scan_file(&entry.path(), &mut leaks)?;
                }
            }
        }
        Ok((leaks, read))
    }

    fn scan_file(&self, path: &Path, leaks: &mut Vec<Leak>) -> anyhow::Result<u64> {
        // A file may go while we look (a database compacts): then there is nothing to find in it.
        let Ok(mut file) = File::open(path) else { return Ok(0) };
        let mut buffer = Vec::with_capacity(PIECE + WINDOW);
        let mut offset = 0;
        loop {
            let kept = buffer.len();
            let got = file.by_ref().take(PIECE as u64).read_to_end(&mut buffer)?;
            if got == 0 {
                return Ok(offset + kept as u64);
            }
            self.scan_piece(path, offset, &buffer, leaks);
            // What lies wholly in the overlap of two pieces has been seen twice.
            leaks.dedup();
            // The last window of this piece begins the next one, so a run across the border is seen too.
            let keep = buffer.len().min(WINDOW - 1);
            offset += (buffer.len() - keep) as u64;
            buffer.drain(..buffer.len() - keep);
        }
    }

    fn scan_piece(&self, path: &Path, offset: u64, piece: &[u8], leaks: &mut Vec<Leak>) {
        let mut leak =
            |at: usize, what| leaks.push(Leak { file: path.to_path_buf(), offset: offset + at as u64, what });
        for (name, secret) in &self.secrets {
            if let Some(at) = find(piece, secret) {
                leak(at, name);
            }
        }
        let mut rolling = Rolling::default();
        for (at, &byte) in piece.iter().enumerate() {
            rolling.push(byte, at.checked_sub(WINDOW).map(|old| piece[old]));
            let Some(start) = (at + 1).checked_sub(WINDOW) else { continue };
            let (word, bit) = filter_place(rolling.hash);
            if self.filter[word] & bit == 0 {
                continue;
            }
            if let Some(&film_at) = self.windows.get(&rolling.hash)
                && self.film[film_at as usize..film_at as usize + WINDOW] == piece[start..=at]
            {
                leak(start, "64 bytes of the clear film");
                return;
            }
        }
    }
}

/// Word and bit of a hash in the filter. The upper bits of a polynomial hash are the mixed ones.
fn filter_place(hash: u64) -> (usize, u64) {
    let place = (hash >> (64 - FILTER_BITS.ilog2())) as usize;
    (place / 64, 1 << (place % 64))
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    let first = *needle.first()?;
    let mut from = 0;
    while let Some(at) = haystack[from..].iter().position(|b| *b == first) {
        if haystack[from + at..].starts_with(needle) {
            return Some(from + at);
        }
        from += at + 1;
    }
    None
}

fn distinct(window: &[u8]) -> usize {
    let mut seen = [false; 256];
    window.iter().for_each(|b| seen[usize::from(*b)] = true);
    seen.iter().filter(|s| **s).count()
}

/// Lower-case hex.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// Polynomial hash of the last [`WINDOW`] bytes.
#[derive(Default)]
struct Rolling {
    hash: u64,
}

impl Rolling {
    /// BASE to the power of WINDOW: the weight with which the oldest byte leaves.
    const LEAVING: u64 = {
        let mut weight = 1u64;
        let mut n = 0;
        while n < WINDOW {
            weight = weight.wrapping_mul(BASE);
            n += 1;
        }
        weight
    };

    fn push(&mut self, byte: u8, leaving: Option<u8>) {
        self.hash = self.hash.wrapping_mul(BASE).wrapping_add(u64::from(byte) + 1);
        if let Some(old) = leaving {
            self.hash = self.hash.wrapping_sub(Self::LEAVING.wrapping_mul(u64::from(old) + 1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn film(len: usize) -> Vec<u8> {
        let mut film = vec![0; len];
        blake3::Hasher::new().update(b"film").finalize_xof().fill(&mut film);
        film
    }

    #[test]
    fn a_run_of_clear_film_is_found_at_any_place_in_any_file() {
        let film = film(100_000);
        let folder = tempfile::tempdir().expect("a folder");
        let mut inside = vec![7; PIECE - 20];
        inside.extend_from_slice(&film[4_321..4_321 + WINDOW]);
        inside.extend_from_slice(&[9; 50]);
        std::fs::create_dir(folder.path().join("deep")).expect("a folder");
        std::fs::write(folder.path().join("deep/er"), &inside).expect("a file");

        let (leaks, read) = Search::new(&film, vec![]).scan(folder.path()).expect("a scan");
        assert_eq!(read, inside.len() as u64);
        assert_eq!(leaks.len(), 1);
        assert_eq!(leaks[0].offset, (PIECE - 20) as u64);
    }

    #[test]
    fn one_byte_less_than_a_window_is_no_leak() {
        let film = film(100_000);
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("f"), &film[10..10 + WINDOW - 1]).expect("a file");
        let (leaks, _) = Search::new(&film, vec![]).scan(folder.path()).expect("a scan");
        assert!(leaks.is_empty(), "{leaks:?}");
    }

    #[test]
    fn a_key_is_found_as_bytes_and_as_hex() {
        let folder = tempfile::tempdir().expect("a folder");
        let key = vec![0xab; 32];
        std::fs::write(folder.path().join("raw"), [&[1, 2, 3][..], &key].concat()).expect("a file");
        std::fs::write(folder.path().join("hex"), format!("key={}", hex(&key))).expect("a file");
        let (leaks, _) = Search::new(&[], vec![("content key", key)]).scan(folder.path()).expect("a scan");
        assert_eq!(leaks.len(), 2);
    }
}
