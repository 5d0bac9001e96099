//! Finds out what a file is before it is published: type, playing time, codecs, picture.
//!
//! Reads only headers: the first bytes of any file and, of an MP4, the boxes around its media data and its index. A
//! file it does not understand is `application/octet-stream` and nothing worse; never fails because of what is in a
//! file, only when the file cannot be read. Never guesses a codec.

use std::fs::File;
use std::io::{self, Cursor, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::Duration;

use re_mp4::{BoxHeader, BoxType, MoovBox, ReadBox as _, StsdBoxContent, TrackKind};
use swarm_proto::catalog::{Kind, Media};
use swarm_proto::limit::MAX_DURATION_MS;

/// How much of a file decides its type. The signatures that `infer` knows lie within the first few kilobytes.
const HEAD_BYTES: u64 = 8 * 1024;

/// The largest MP4 index that is read. One of a ten-hour film has some 20 MiB.
const MAX_MOOV_BYTES: u64 = 64 << 20;

/// How many boxes at the top of an MP4 are looked at. A fragmented file has two for every few seconds.
const MAX_TOP_BOXES: u32 = 100_000;

/// How many reads the parser gets for an index: it reads numbers of one byte or more, some of them twice.
const READS_PER_BYTE: u64 = 4;
const READS_AT_LEAST: u64 = 1_024;

/// The catalog's bound on codecs: a longer list is left out, as if unknown.
const MAX_CODECS_BYTES: usize = 128;

/// What a file turned out to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    /// What sort of title it makes.
    pub kind: Kind,
    /// What a player wants to know before it has a byte.
    pub media: Media,
    /// Advice to the publisher, for example to move the index to the front.
    pub hint: Option<String>,
}

/// What an MP4 says about itself.
#[derive(Debug, Default, PartialEq, Eq)]
struct Mp4 {
    has_video: bool,
    duration: Option<Duration>,
    codecs: String,
    picture: Option<(u32, u32)>,
    index_first: bool,
}

/// Probes an open file of `len` bytes; the path only lends its extension where the bytes do not tell.
pub fn probe(file: &File, len: u64, path: &Path) -> io::Result<Probe> {
    let mut head = vec![0; HEAD_BYTES.min(len) as usize];
    file.read_exact_at(&mut head, 0)?;
    let mut mime = mime_of(&head, path);
    let mp4 = if is_mp4(&head) { probe_mp4(file, len)? } else { None };
    if mp4.as_ref().is_some_and(|mp4| !mp4.has_video && !mp4.codecs.is_empty()) {
        mime = "audio/mp4".to_owned();
    }

    let kind = match mime.split('/').next() {
        Some("video") => Kind::Video,
        Some("audio") => Kind::Audio,
        _ => Kind::File,
    };
    let hint = mp4.as_ref().filter(|mp4| !mp4.index_first).map(|_| {
        format!(
            "the index of this MP4 is at its end, so a player must fetch the end before it can start; \
             `ffmpeg -i {} -c copy -movflags +faststart OUT.mp4` moves it to the front",
            path.display()
        )
    });
    let mp4 = mp4.unwrap_or_default();
    let bit_rate = mp4.duration.map(|duration| bits_per_sec(len, duration)).filter(|rate| *rate > 0);
    let media = Media { mime, duration: mp4.duration, codecs: mp4.codecs, picture: mp4.picture, bit_rate };
    Ok(Probe { kind, media, hint })
}

fn bits_per_sec(len: u64, duration: Duration) -> u64 {
    let rate = u128::from(len) * 8_000 / duration.as_millis().max(1);
    u64::try_from(rate).unwrap_or(u64::MAX)
}

fn mime_of(head: &[u8], path: &Path) -> String {
    match infer::get(head) {
        Some(found) => found.mime_type().to_owned(),
        None => mime_guess::from_path(path).first_or_octet_stream().essence_str().to_owned(),
    }
}

fn is_mp4(head: &[u8]) -> bool {
    head.get(4..8) == Some(b"ftyp")
}

/// Walks the boxes at the top of an MP4 up to its index; `None` when there is none that can be understood.
fn probe_mp4(file: &File, len: u64) -> io::Result<Option<Mp4>> {
    let mut at = 0;
    let mut media_seen = false;
    for _ in 0..MAX_TOP_BOXES {
        let Some((name, size)) = top_box(file, at, len)? else { return Ok(None) };
        match name {
            BoxType::MoovBox if size > MAX_MOOV_BYTES => return Ok(None),
            BoxType::MoovBox => {
                let mut moov = vec![0; size as usize];
                file.read_exact_at(&mut moov, at)?;
                return Ok(read_index(&moov).map(|mp4| Mp4 { index_first: !media_seen, ..mp4 }));
            }
            BoxType::MdatBox => media_seen = true,
            _ => {}
        }
        at += size;
    }
    Ok(None)
}

/// Name and whole size of the box at this offset; `None` at the end of the file and for a size that cannot be.
fn top_box(file: &File, at: u64, len: u64) -> io::Result<Option<(BoxType, u64)>> {
    let mut header = [0; 16];
    let there = (len - at).min(16) as usize;
    file.read_exact_at(&mut header[..there], at)?;
    let Ok(BoxHeader { name, size }) = BoxHeader::read(&mut Cursor::new(&header[..there])) else { return Ok(None) };
    // A 64-bit size is reported without its own eight bytes, a size of zero means "up to the end of the file".
    let size = match u32::from_be_bytes([header[0], header[1], header[2], header[3]]) {
        0 => len - at,
        1 => size.saturating_add(8),
        _ => size,
    };
    Ok((size >= 8 && size <= len - at).then_some((name, size)))
}

/// What the index says.
///
/// The parser is written for well-formed files; one that makes it panic, or read on for ever (a box of size zero
/// inside another), is a file that nothing is known of.
fn read_index(moov: &[u8]) -> Option<Mp4> {
    let parse = || {
        let mut reader =
            Patient { inner: Cursor::new(moov), patience: READS_AT_LEAST + READS_PER_BYTE * moov.len() as u64 };
        let header = BoxHeader::read(&mut reader).ok()?;
        MoovBox::read_box(&mut reader, header.size).ok()
    };
    let moov = catch_unwind(AssertUnwindSafe(parse)).ok()??;

    let fragments = moov.mvex.as_ref().and_then(|mvex| mvex.mehd.as_ref()).map_or(0, |mehd| mehd.fragment_duration);
    let duration = moov.mvhd.duration.max(fragments);
    let millis = duration.saturating_mul(1_000).checked_div(u64::from(moov.mvhd.timescale));
    let millis = millis.filter(|millis| (1..=MAX_DURATION_MS).contains(millis));
    let mut mp4 = Mp4 { duration: millis.map(Duration::from_millis), ..Mp4::default() };
    let mut codecs = Vec::new();
    for trak in &moov.traks {
        let stsd = &trak.mdia.minf.stbl.stsd;
        if stsd.kind() == Some(TrackKind::Video) {
            mp4.has_video = true;
            let (width, height) = (u32::from(trak.tkhd.width.value()), u32::from(trak.tkhd.height.value()));
            mp4.picture = mp4.picture.max((width > 0 && height > 0).then_some((width, height)));
        }
        codecs.extend(codec(&stsd.contents));
    }
    codecs.dedup();
    let codecs = codecs.join(", ");
    if codecs.len() <= MAX_CODECS_BYTES {
        mp4.codecs = codecs;
    }
    Some(mp4)
}

/// A reader that answers only so many reads.
struct Patient<R> {
    inner: R,
    patience: u64,
}

impl<R: Read> Read for Patient<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let spent = || io::Error::other("the parser reads in circles");
        self.patience = self.patience.checked_sub(1).ok_or_else(spent)?;
        self.inner.read(buffer)
    }
}

impl<R: Seek> Seek for Patient<R> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.inner.seek(to)
    }
}

/// The codec as RFC 6381 writes it, where it is known.
fn codec(contents: &StsdBoxContent) -> Option<String> {
    match contents {
        StsdBoxContent::Mp4a(mp4a) => {
            let config = &mp4a.esds.as_ref()?.es_desc.dec_config;
            Some(match config.object_type_indication {
                0x40 => format!("mp4a.40.{}", config.dec_specific.profile),
                other => format!("mp4a.{other:02x}"),
            })
        }
        other => other.codec_string().map(|text| match text.strip_prefix("avc1.") {
            Some(profile) => format!("avc1.{}", profile.to_ascii_lowercase()),
            None => text,
        }),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use proptest::prelude::*;

    use super::*;

    const FASTSTART: &[u8] = include_bytes!("../tests/media/faststart.mp4");
    const INDEX_LAST: &[u8] = include_bytes!("../tests/media/index-last.mp4");

    fn probed(bytes: &[u8], name: &str) -> Probe {
        let mut file = tempfile::tempfile().expect("a temporary file");
        file.write_all(bytes).expect("written");
        probe(&file, bytes.len() as u64, Path::new(name)).expect("readable")
    }

    #[test]
    fn film_with_its_index_in_front_tells_everything_and_needs_no_advice() {
        let found = probed(FASTSTART, "film.mp4");
        assert_eq!(found.kind, Kind::Video);
        assert_eq!(found.media.mime, "video/mp4");
        assert_eq!(found.media.codecs, "avc1.64000c, mp4a.40.2");
        assert_eq!(found.media.picture, Some((160, 90)));
        let seconds = found.media.duration.expect("a playing time").as_secs_f64();
        assert!((2.0..2.2).contains(&seconds), "{seconds}");
        assert!(found.media.bit_rate.is_some());
        assert_eq!(found.hint, None);
    }

    #[test]
    fn film_with_its_index_at_the_end_comes_with_the_command_that_moves_it() {
        let found = probed(INDEX_LAST, "film.mp4");
        assert_eq!(found.media.codecs, "avc1.64000c, mp4a.40.2");
        assert!(found.hint.expect("advice").contains("+faststart"));
    }

    #[test]
    fn bytes_decide_before_the_extension_does() {
        assert_eq!(probed(b"fLaC\0\0\0\x22", "song.mp4").media.mime, "audio/x-flac");
        assert_eq!(probed(b"just words", "notes.txt").media.mime, "text/plain");
        assert_eq!(probed(b"just words", "notes").media.mime, "application/octet-stream");
    }

    #[test]
    fn one_byte_is_a_file() {
        let found = probed(b"x", "x");
        assert_eq!((found.kind, found.hint), (Kind::File, None));
    }

    #[test]
    fn box_of_size_zero_inside_the_index_ends_the_search_and_not_the_program() {
        let mut bytes = FASTSTART.to_vec();
        let index = bytes.windows(4).position(|w| w == b"moov").expect("there is an index");
        let header = bytes[index..].windows(4).position(|w| w == b"mvhd").expect("it begins with its header") + index;
        // Any box but the first: the parser then jumps to where it already was.
        let track = bytes[header..].windows(4).position(|w| w == b"trak").expect("there is a track") + header;
        let inner = bytes[track..].windows(4).position(|w| w == b"mdia").expect("it has media") + track;
        for at in [track, inner] {
            bytes[at - 4..at].fill(0);
            bytes[at..at + 4].copy_from_slice(b"zero");
            assert_eq!(probed(&bytes, "film.mp4").media.mime, "video/mp4");
        }
    }

    proptest! {
        #[test]
        fn damaged_films_are_still_files(
            cut in 0..FASTSTART.len(),
            hits in prop::collection::vec((0..FASTSTART.len(), any::<u8>()), 0..16),
        ) {
            let mut bytes = FASTSTART.to_vec();
            for (at, value) in hits {
                bytes[at] = value;
            }
            bytes.truncate(FASTSTART.len() - cut);
            let found = probed(&bytes, "film.mp4");
            prop_assert!(!found.media.mime.is_empty() && found.media.codecs.len() <= MAX_CODECS_BYTES);
        }
    }
}
