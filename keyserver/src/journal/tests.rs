//! The journal under cuts, flips, failing disks and interrupted closings.

use std::fs;
use std::path::PathBuf;

use swarm_proto::id::PublisherId;
use swarm_proto::keyserver::ledger::{self, Ledger};
use tempfile::TempDir;

use super::*;

const HEADER: Header = Header { server: ServerId::from_bytes([1; 32]), master_check: [2; 32], after: None };

/// Opens the journal that this is the live file of.
fn open(path: &Path, each: impl FnMut(Link) -> Result<(), String>) -> Result<(Journal, Survey), shelf::Unreadable> {
    let shelf = Shelf::new(path.parent().expect("in a folder"));
    Journal::open(&shelf, each).map(|(journal, story)| (journal, story.live))
}

fn entry(n: u8) -> Entry {
    let record = Record::PublisherAdmitted { publisher: PublisherId::from_bytes([n; 32]), name: format!("number {n}") };
    Entry { at: Utc::from_secs(n.into()), record }
}

fn journal_of(entries: u8) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join(FILE);
    Journal::create(&path, HEADER).expect("created");
    let (mut journal, _) = open(&path, |_| Ok(())).expect("opens");
    for n in 0..entries {
        journal.append(&[entry(n)]).expect("appended");
    }
    (folder, path)
}

fn entries_of(path: &Path) -> Result<Vec<Entry>, ReadError> {
    let mut entries = Vec::new();
    read(path, |link| {
        entries.push(link.entry);
        Ok(())
    })?;
    Ok(entries)
}

#[test]
fn what_was_appended_is_read_back_in_order() {
    let (_folder, path) = journal_of(5);
    assert_eq!(entries_of(&path).expect("whole"), (0..5).map(entry).collect::<Vec<_>>());
}

#[test]
fn a_batch_is_one_chain_with_what_was_before() {
    let (_folder, path) = journal_of(2);
    let (mut journal, survey) = open(&path, |_| Ok(())).expect("opens");
    assert_eq!(survey.header, HEADER);
    journal.append(&[entry(2), entry(3)]).expect("appended");
    assert_eq!(entries_of(&path).expect("whole").len(), 4);
    assert_eq!(read(&path, |_| Ok(())).expect("whole").head, journal.head());
}

#[test]
fn a_journal_cut_anywhere_keeps_every_record_before_the_cut() {
    let (_folder, path) = journal_of(4);
    let whole = fs::read(&path).expect("readable");
    for cut in 1..=200 {
        fs::write(&path, &whole[..whole.len() - cut]).expect("writable");
        let mut seen = Vec::new();
        let (mut journal, survey) = open(&path, |link| {
            seen.push(link.entry);
            Ok(())
        })
        .expect("a cut is not damage");
        assert_eq!(seen, (0..seen.len() as u8).map(entry).collect::<Vec<_>>());
        assert!(seen.len() >= 2, "cut {cut} lost {} records", 4 - seen.len());
        assert_eq!(fs::metadata(&path).expect("there").len(), survey.len);
        journal.append(&[entry(9)]).expect("appended");
        assert_eq!(entries_of(&path).expect("whole").last(), Some(&entry(9)));
    }
}

#[test]
fn every_flipped_bit_is_found_and_named() {
    let (_folder, path) = journal_of(3);
    let whole = fs::read(&path).expect("readable");
    for place in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[place] ^= 1 << (place % 8);
        fs::write(&path, &bytes).expect("writable");
        match entries_of(&path) {
            Err(ReadError::Damaged(damage)) => assert!(damage.offset <= place as u64),
            other => panic!("a flip at {place} gave {other:?}"),
        }
    }
}

#[test]
fn an_end_of_zeros_was_never_written() {
    let (_folder, path) = journal_of(2);
    let mut bytes = fs::read(&path).expect("readable");
    let len = bytes.len() as u64;
    bytes.resize(bytes.len() + 10_000, 0);
    fs::write(&path, &bytes).expect("writable");
    let (_, survey) = open(&path, |_| Ok(())).expect("opens");
    assert_eq!((survey.len, survey.torn), (len, 10_000));
}

#[test]
fn a_record_that_contradicts_the_others_is_damage() {
    let (_folder, path) = journal_of(2);
    let result = read(&path, |link| if link.number == 2 { Err("twice".to_owned()) } else { Ok(()) });
    assert!(matches!(result, Err(ReadError::Damaged(Damage { why, .. })) if why == "twice"));
}

#[test]
fn a_removed_record_breaks_the_chain() {
    let (_folder, path) = journal_of(3);
    let mut places = Vec::new();
    read(&path, |link| {
        places.push(link.offset as usize);
        Ok(())
    })
    .expect("whole");
    let mut bytes = fs::read(&path).expect("readable");
    bytes.drain(places[1]..places[2]);
    fs::write(&path, &bytes).expect("writable");
    assert!(matches!(entries_of(&path), Err(ReadError::Damaged(damage)) if damage.offset == places[1] as u64));
}

#[test]
fn what_was_half_written_is_cut_before_the_next_record() {
    let (_folder, path) = journal_of(1);
    let (mut journal, _) = open(&path, |_| Ok(())).expect("opens");
    journal.must_cut = true;
    let mut file = OpenOptions::new().append(true).open(&path).expect("opens");
    file.write_all(b"half a record").expect("written");
    journal.append(&[entry(1)]).expect("appended");
    assert_eq!(entries_of(&path).expect("whole"), [entry(0), entry(1)]);
    journal.probe().expect("there is room");
    assert_eq!(entries_of(&path).expect("whole").len(), 2);
}

/// A file that fails at the n-th thing that is asked of it, after doing half of it.
struct Failing {
    file: File,
    left: usize,
}

impl Failing {
    fn is_due(&mut self) -> io::Result<()> {
        self.left = self.left.wrapping_sub(1);
        match self.left {
            0 => Err(io::Error::other("the disk is broken")),
            _ => Ok(()),
        }
    }
}

impl Medium for Failing {
    fn write_all_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let due = self.is_due();
        let half = if due.is_err() { &bytes[..bytes.len() / 2] } else { bytes };
        FileExt::write_all_at(&self.file, half, offset)?;
        due
    }

    fn sync(&mut self) -> io::Result<()> {
        self.is_due()
    }

    fn cut(&mut self, len: u64) -> io::Result<()> {
        self.is_due()?;
        self.file.set_len(len)
    }
}

#[test]
fn a_failure_at_the_nth_step_loses_nothing_acknowledged_and_invents_nothing() {
    for n in 1..=50 {
        let (_folder, path) = journal_of(1);
        let (mut journal, _) = open(&path, |_| Ok(())).expect("opens");
        let file = OpenOptions::new().write(true).open(&path).expect("opens");
        journal.medium = Box::new(Failing { file, left: n });
        let mut acknowledged = vec![entry(0)];
        let mut failures = 0;
        for number in 1..=30 {
            match journal.append(&[entry(number)]) {
                Ok(()) => acknowledged.push(entry(number)),
                Err(_) => failures += 1,
            }
        }
        assert_eq!(failures, 1, "step {n}: one failure, and the next record is taken");
        assert_eq!(entries_of(&path).expect("whole"), acknowledged, "step {n}");
        assert_eq!(read(&path, |_| Ok(())).expect("whole").head, journal.head(), "step {n}");
    }
}

fn closed_after(journal: &mut Journal, entries: std::ops::Range<u8>) {
    for n in entries {
        journal.append(&[entry(n)]).expect("appended");
    }
    journal.close_volume(HEADER.server, HEADER.master_check).expect("closed");
}

/// A journal of nine records in three volumes and a file that is written to.
fn journal_in_volumes() -> (TempDir, PathBuf) {
    let (folder, path) = journal_of(0);
    let (mut journal, _) = open(&path, |_| Ok(())).expect("opens");
    closed_after(&mut journal, 0..3);
    closed_after(&mut journal, 3..5);
    closed_after(&mut journal, 5..8);
    journal.append(&[entry(8)]).expect("appended");
    (folder, path)
}

#[test]
fn volumes_are_one_journal_whose_hashes_no_cutting_changes() {
    let (_whole_folder, whole) = journal_of(9);
    let (folder, path) = journal_in_volumes();
    let mut seen = Vec::new();
    let story = Shelf::new(folder.path())
        .replay(|link| {
            assert_eq!(link.number, seen.len() as u64 + 1);
            seen.push(link.entry);
            Ok(())
        })
        .expect("whole");
    assert_eq!(seen, entries_of(&whole).expect("whole"));
    assert_eq!((story.volumes, story.live.head), (3, read(&whole, |_| Ok(())).expect("whole").head));
    assert_eq!(after(&path), Some(8));
    let (journal, _) = open(&path, |_| Ok(())).expect("opens");
    assert_eq!(journal.head(), story.live.head, "writing goes on at the same end");
}

#[test]
fn a_file_without_records_is_no_volume() {
    let (folder, path) = journal_of(0);
    let (mut journal, _) = open(&path, |_| Ok(())).expect("opens");
    let other = [3; 32];
    for _ in 0..2 {
        journal.close_volume(HEADER.server, other).expect("closed");
    }
    closed_after(&mut journal, 0..2);
    journal.close_volume(HEADER.server, other).expect("closed");
    journal.append(&[entry(2)]).expect("appended");
    let story = Shelf::new(folder.path()).replay(|_| Ok(())).expect("whole");
    assert_eq!((story.volumes, story.live.head, story.live.header.master_check), (1, journal.head(), other));
}

#[test]
fn a_volume_that_is_missing_swapped_or_cut_is_noticed() {
    let (folder, _) = journal_in_volumes();
    let shelf = Shelf::new(folder.path());
    let volumes = shelf.volumes().expect("readable");
    let refused = || match shelf.replay(|_| Ok(())) {
        Err(shelf::Unreadable { error: ReadError::Damaged(damage), .. }) => damage.why,
        other => panic!("not noticed: {other:?}"),
    };
    let away = folder.path().join("away");
    for (n, missing) in ["records 1 to 3 are", "records 4 to 5 are", "records 6 to 8 are"].into_iter().enumerate() {
        fs::rename(&volumes[n].path, &away).expect("renamed");
        assert!(refused().contains(missing), "{}", refused());
        fs::rename(&away, &volumes[n].path).expect("renamed");
    }
    let bytes = fs::read(&volumes[1].path).expect("readable");
    fs::write(&volumes[1].path, &bytes[..bytes.len() - 1]).expect("writable");
    assert!(refused().contains("it ends with record 4"), "{}", refused());
    fs::copy(&volumes[0].path, &volumes[1].path).expect("copied");
    assert!(refused().contains("does not go on"), "{}", refused());
}

#[test]
fn a_closing_that_was_interrupted_is_undone() {
    let (folder, path) = journal_in_volumes();
    let shelf = Shelf::new(folder.path());
    let second_name = folder.path().join(shelf::VOLUMES).join("000000000009-000000000009");
    fs::hard_link(&path, &second_name).expect("linked");
    fs::write(shelf.next(), "half a header").expect("written");
    assert_eq!(shelf.replay(|_| Ok(())).expect("read as one").live.head.records, 9, "also beside a running keyserver");
    let (mut journal, _) = open(&path, |_| Ok(())).expect("opens");
    assert!(!second_name.exists() && !shelf.next().exists());
    journal.append(&[entry(9)]).expect("appended");
    assert_eq!(shelf.replay(|_| Ok(())).expect("whole").live.head.records, 10);
}

#[test]
fn one_flipped_bit_is_put_right_wherever_it_is_and_the_file_before_is_kept() {
    let (folder, path) = journal_of(3);
    let shelf = Shelf::new(folder.path());
    let whole = fs::read(&path).expect("readable");
    let fresh = || Ledger::new(ledger::Config::default());
    for place in (FIRST_LEN..whole.len()).step_by(7) {
        let mut bytes = whole.clone();
        bytes[place] ^= 1 << (place % 8);
        fs::write(&path, &bytes).expect("writable");
        let looked = repair::recover(&shelf, fresh, repair::Extent::Look, Utc::EPOCH).expect("readable");
        assert!(looked.whole.is_none() && fs::read(&path).expect("readable") == bytes, "looking changes nothing");
        let mended = repair::recover(&shelf, fresh, repair::Extent::Mend, Utc::EPOCH).expect("readable");
        assert!(mended.whole.is_some(), "flip at {place}: {:?}", mended.findings);
        assert_eq!(fs::read(&path).expect("readable"), whole, "flip at {place}");
        let copy = mended.findings[0].done.as_ref().expect("a copy");
        assert_eq!(fs::read(copy).expect("readable"), bytes);
    }
}

#[test]
fn what_cannot_be_put_right_is_cut_only_when_asked_and_what_follows_is_kept_readable() {
    let (folder, path) = journal_of(5);
    let shelf = Shelf::new(folder.path());
    let mut offsets = Vec::new();
    let noted = read(&path, |link| {
        offsets.push(link.offset as usize);
        Ok(())
    });
    noted.expect("whole");
    let mut bytes = fs::read(&path).expect("readable");
    bytes[offsets[2] + 20] ^= 0xff;
    bytes[offsets[2] + 30] ^= 0xff;
    fs::write(&path, &bytes).expect("writable");
    let fresh = || Ledger::new(ledger::Config::default());
    let mended = repair::recover(&shelf, fresh, repair::Extent::Mend, Utc::EPOCH).expect("readable");
    assert!(mended.whole.is_none() && fs::read(&path).expect("readable") == bytes, "nothing is dropped unasked");
    let cut = repair::recover(&shelf, fresh, repair::Extent::Cut, Utc::EPOCH).expect("readable");
    assert_eq!(cut.whole.expect("whole").0.live.head.records, 2);
    let [repair::Finding { remedy: repair::Remedy::CutOff { readable, .. }, done: Some(copy), .. }] = &cut.findings[..]
    else {
        panic!("{:?}", cut.findings)
    };
    assert_eq!(readable, &[entry(3), entry(4)]);
    assert_eq!(fs::read(copy).expect("readable"), bytes);
    let kept = fs::read_to_string(copy.with_extension("after.jsonl")).expect("readable");
    assert_eq!(kept.lines().count(), 2);
}
