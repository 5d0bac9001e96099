//! Which titles there are, in which version, and what a change of one means for the whole catalog.
//!
//! The catalog has one version that rises with each change; each title remembers the version of its last change, so
//! that a mirror asks for "everything after n". A title never goes back to a lower version nor to another publisher.
//! Signatures are verified before an entry comes here, and bytes are kept as their publisher made them.

use std::collections::{BTreeMap, BTreeSet};

use crate::catalog::{CatalogEntry, Superseded};
use crate::id::{ItemId, TitleId};
use crate::signed::Signed;

/// Titles of one catalog. An entry is a few kilobytes, sixty-four at most: this is some hundred megabytes.
pub const MAX_TITLES: usize = 20_000;

/// A title as it stands in the catalog.
#[derive(Debug, Clone)]
pub struct Listing {
    /// What the publisher says, verified and read.
    pub entry: CatalogEntry,
    /// The same, byte for byte as it was signed.
    pub signed: Signed<CatalogEntry>,
    /// Version of the catalog at the last change of this title.
    pub catalog_version: u64,
    /// The operator does not want it shown.
    pub hidden: bool,
}

impl Listing {
    /// Whether devices may fetch it.
    pub fn is_offered(&self) -> bool {
        !self.hidden && !self.entry.withdrawn
    }

    /// How many chunks its item has.
    pub fn n_chunks(&self) -> u32 {
        self.entry.geometry.n_chunks()
    }

    fn says_all(&self, words: &[String]) -> bool {
        let name = self.entry.name.to_lowercase();
        let description = self.entry.description.to_lowercase();
        words.iter().all(|word| name.contains(word) || description.contains(word))
    }
}

/// What publishing an entry would do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It becomes this version of the catalog.
    New(u64),
    /// It is there already.
    Already,
}

/// Why an entry does not enter the catalog.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Publish a higher version, or under a title id of your own.
    #[error(transparent)]
    Superseded(#[from] Superseded),
    /// One of the two entries is wrong about the file.
    #[error("another title says that this item has {listed} bytes, this one says {offered}")]
    OtherLength {
        /// In the entry.
        offered: u64,
        /// In the catalog.
        listed: u64,
    },
    /// Withdraw something, or run another tracker.
    #[error("the catalog is full: it lists {MAX_TITLES} titles")]
    Full,
}

/// Every title of one tracker.
#[derive(Debug, Default)]
pub struct Catalog {
    version: u64,
    titles: BTreeMap<TitleId, Listing>,
    by_version: BTreeMap<u64, TitleId>,
    by_item: BTreeMap<ItemId, BTreeSet<TitleId>>,
}

impl Catalog {
    /// What would happen if this entry were published now.
    pub fn consider(&self, entry: &CatalogEntry) -> Result<Verdict, Refusal> {
        match self.titles.get(&entry.title) {
            Some(old) => entry.may_replace(&old.entry)?,
            None if self.titles.len() >= MAX_TITLES => return Err(Refusal::Full),
            None => {}
        }
        if self.titles.get(&entry.title).is_some_and(|old| old.entry.version == entry.version) {
            return Ok(Verdict::Already);
        }
        let offered = entry.geometry.sealed_len();
        let same_item = self.by_item.get(&entry.item).into_iter().flatten().map(|title| &self.titles[title]);
        match same_item.map(|other| other.entry.geometry.sealed_len()).find(|listed| *listed != offered) {
            Some(listed) => Err(Refusal::OtherLength { offered, listed }),
            None => Ok(Verdict::New(self.version + 1)),
        }
    }

    /// Puts in a title, in place of what it was before.
    pub fn insert(&mut self, listing: Listing) {
        let title = listing.entry.title;
        if let Some(old) = self.titles.remove(&title) {
            self.by_version.remove(&old.catalog_version);
            if let Some(titles) = self.by_item.get_mut(&old.entry.item) {
                titles.remove(&title);
            }
        }
        self.version = self.version.max(listing.catalog_version);
        self.by_version.insert(listing.catalog_version, title);
        self.by_item.entry(listing.entry.item).or_default().insert(title);
        self.titles.insert(title, listing);
    }

    /// Version of the whole catalog.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// How many titles there are, hidden ones included.
    pub fn len(&self) -> usize {
        self.titles.len()
    }

    /// Whether there is no title.
    pub fn is_empty(&self) -> bool {
        self.titles.is_empty()
    }

    /// A title.
    pub fn title(&self, title: &TitleId) -> Option<&Listing> {
        self.titles.get(title)
    }

    /// A title that points to this item; one that is offered, if there is any.
    pub fn item(&self, item: &ItemId) -> Option<&Listing> {
        self.titles_of(item).find(|it| it.is_offered()).or_else(|| self.titles_of(item).next())
    }

    /// Every title that points to this item.
    pub fn titles_of(&self, item: &ItemId) -> impl Iterator<Item = &Listing> {
        self.by_item.get(item).into_iter().flatten().map(|title| &self.titles[title])
    }

    /// Titles of exactly this name, newest first.
    pub fn named(&self, name: &str) -> impl Iterator<Item = &Listing> {
        self.newest_first(None).filter(move |it| it.entry.name == name)
    }

    /// Every title, the last changed first, from after the one that was changed at `after`.
    pub fn newest_first(&self, after: Option<u64>) -> impl Iterator<Item = &Listing> {
        self.by_version.range(..after.unwrap_or(u64::MAX)).rev().map(|(_, title)| &self.titles[title])
    }

    /// Titles with every one of these words in name or description, the last changed first.
    pub fn search(&self, query: &str, after: Option<u64>) -> impl Iterator<Item = &Listing> {
        let words: Vec<String> = query.split_whitespace().map(str::to_lowercase).collect();
        self.newest_first(after).filter(move |it| it.says_all(&words))
    }

    /// What has changed since a version of the catalog, oldest change first.
    pub fn changes_after(&self, version: u64) -> impl Iterator<Item = &Listing> {
        let from = version.saturating_add(1);
        self.by_version.range(from..).map(|(_, title)| &self.titles[title])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::{Kind, Media};
    use crate::geometry::Geometry;
    use crate::limit::Limit;
    use crate::seal::KeyCommitment;
    use crate::signed::SigningKey;
    use crate::time::Utc;

    fn publisher(n: u8) -> SigningKey {
        SigningKey::from_bytes(&[n; 32]).expect("32 bytes")
    }

    fn entry(title: u8, version: u64) -> CatalogEntry {
        CatalogEntry {
            title: TitleId::from([title; 16]),
            version,
            publisher: publisher(1).publisher_id(),
            item: ItemId::from([title; 32]),
            geometry: Geometry::of_plain(3 << 20).expect("a length"),
            commitment: KeyCommitment::from_bytes([3; 32]),
            span_commitment: None,
            name: format!("Title {title}"),
            description: "A harbour at dawn".to_owned(),
            kind: Kind::Video,
            media: Media {
                mime: "video/mp4".to_owned(),
                duration: None,
                codecs: String::new(),
                picture: None,
                bit_rate: None,
            },
            artwork: None,
            rating_age: 0,
            regions: Vec::new(),
            released: Utc::from_secs(1),
            expires: Limit::Unlimited,
            offers: Vec::new(),
            withdrawn: false,
        }
    }

    fn publish(catalog: &mut Catalog, entry: CatalogEntry) -> Result<Verdict, Refusal> {
        let verdict = catalog.consider(&entry)?;
        if let Verdict::New(catalog_version) = verdict {
            let signed = Signed::sign(&publisher(1), &entry).expect("the entry is valid");
            catalog.insert(Listing { entry, signed, catalog_version, hidden: false });
        }
        Ok(verdict)
    }

    fn catalog(entries: impl IntoIterator<Item = CatalogEntry>) -> Catalog {
        let mut catalog = Catalog::default();
        for entry in entries {
            publish(&mut catalog, entry).expect("it is new");
        }
        catalog
    }

    fn names<'a>(listings: impl Iterator<Item = &'a Listing>) -> Vec<&'a str> {
        listings.map(|it| it.entry.name.as_str()).collect()
    }

    #[test]
    fn each_change_is_a_version_of_the_catalog() {
        let mut catalog = catalog([entry(1, 1), entry(2, 1)]);
        assert_eq!(publish(&mut catalog, entry(1, 2)), Ok(Verdict::New(3)));
        assert_eq!(names(catalog.changes_after(0)), ["Title 2", "Title 1"]);
        assert_eq!(names(catalog.changes_after(2)), ["Title 1"]);
        assert_eq!(names(catalog.newest_first(None)), ["Title 1", "Title 2"]);
    }

    #[test]
    fn same_entry_again_changes_nothing() {
        let mut catalog = catalog([entry(1, 1)]);
        assert_eq!(publish(&mut catalog, entry(1, 1)), Ok(Verdict::Already));
        assert_eq!(catalog.version(), 1);
    }

    #[test]
    fn title_never_goes_back_and_never_says_two_things_at_once() {
        let mut catalog = catalog([entry(1, 5)]);
        assert!(matches!(publish(&mut catalog, entry(1, 4)), Err(Refusal::Superseded(Superseded::Older { .. }))));
        let other = CatalogEntry { name: "Another".to_owned(), ..entry(1, 5) };
        assert!(matches!(publish(&mut catalog, other), Err(Refusal::Superseded(Superseded::Conflict { .. }))));
    }

    #[test]
    fn title_stays_with_its_publisher() {
        let mut catalog = catalog([entry(1, 1)]);
        let stolen = CatalogEntry { publisher: publisher(2).publisher_id(), ..entry(1, 2) };
        assert_eq!(publish(&mut catalog, stolen), Err(Refusal::Superseded(Superseded::OtherPublisher)));
    }

    #[test]
    fn two_titles_do_not_disagree_about_the_length_of_one_item() {
        let mut catalog = catalog([entry(1, 1)]);
        let longer =
            CatalogEntry { item: entry(1, 1).item, geometry: Geometry::of_plain(9 << 20).unwrap(), ..entry(2, 1) };
        assert!(matches!(publish(&mut catalog, longer), Err(Refusal::OtherLength { .. })));
    }

    #[test]
    fn every_word_of_a_search_has_to_occur() {
        let catalog = catalog([entry(1, 1), entry(2, 1)]);
        assert_eq!(names(catalog.search("HARBOUR title", None)), ["Title 2", "Title 1"]);
        assert_eq!(names(catalog.search("dawn 1", None)), ["Title 1"]);
        assert!(names(catalog.search("dawn dusk", None)).is_empty());
    }

    #[test]
    fn item_of_two_titles_is_found_through_the_one_that_is_offered() {
        let mut catalog = catalog([CatalogEntry { withdrawn: true, ..entry(1, 1) }]);
        publish(&mut catalog, CatalogEntry { item: entry(1, 1).item, ..entry(2, 1) }).unwrap();
        assert_eq!(catalog.item(&entry(1, 1).item).unwrap().entry.name, "Title 2");
        assert_eq!(names(catalog.named("Title 2")), ["Title 2"]);
    }

    #[test]
    fn new_version_with_another_item_leaves_the_old_item() {
        let mut catalog = catalog([entry(1, 1)]);
        publish(&mut catalog, CatalogEntry { item: ItemId::from([9; 32]), ..entry(1, 2) }).unwrap();
        assert!(catalog.item(&entry(1, 1).item).is_none());
        assert!(catalog.item(&ItemId::from([9; 32])).is_some());
    }
}
