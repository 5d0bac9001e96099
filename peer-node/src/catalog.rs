//! The box's own copy of the catalog.
//!
//! Only entries whose publisher's signature was verified are in it, and a title never goes back to a lower version or
//! to another publisher: the tracker can hide a title, not forge or swap one. Pictures stay in the store; memory holds
//! the rest. Only the tracker link writes.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use anyhow::Context as _;
use bytes::Bytes;
use daemon::exit::{Exit, Failure};
use daemon::store::{Batch, MAX_PAGE, MAX_VALUE_BYTES, Store};
use swarm_proto::catalog::CatalogEntry;
use swarm_proto::id::{ItemId, ServerId, TitleId};
use swarm_proto::pb;
use swarm_proto::signed::{MAX_SIGNED_BYTES, Signed};
use tokio::sync::watch;

use crate::records::{self, Key, Prefix};

/// Titles kept; about 1 KiB of memory each.
const MAX_TITLES: usize = 20_000;

/// Changes accepted in one commit, so that a batch stays within the store's bound.
pub const MAX_CHANGES: usize = 48;

/// Parts that the longest signed entry is stored in.
const ENTRY_PARTS: u16 = MAX_SIGNED_BYTES.div_ceil(MAX_VALUE_BYTES) as u16;

/// Names offered when a query fits several titles.
const MAX_SUGGESTIONS: usize = 5;

/// A title as this box knows it.
#[derive(Debug, Clone, PartialEq)]
pub struct Title {
    /// What its publisher signed, without the picture.
    pub entry: CatalogEntry,
    /// Hidden by the tracker's operator: kept, not listed.
    pub hidden: bool,
}

/// The catalog. Clones share it.
#[derive(Clone)]
pub struct Catalog {
    store: Arc<dyn Store>,
    mirror: Arc<RwLock<Mirror>>,
    changed: watch::Sender<u64>,
}

#[derive(Default)]
struct Mirror {
    titles: BTreeMap<TitleId, Arc<Title>>,
    by_item: BTreeMap<ItemId, TitleId>,
    /// BLAKE3 of each signed entry, to tell "again" from "another one that claims the same version".
    hashes: BTreeMap<TitleId, [u8; 32]>,
    followed: Option<(ServerId, u64)>,
}

/// A change that passed all checks.
struct Accepted {
    title: Title,
    hash: [u8; 32],
    signed: Bytes,
}

impl Catalog {
    /// Loads what was stored; entries that do not verify any more are left out and fetched again.
    pub async fn open(store: Arc<dyn Store>) -> anyhow::Result<Catalog> {
        let mut mirror = Mirror { followed: followed(&*store).await?, ..Mirror::default() };
        let mut after: Option<Bytes> = None;
        loop {
            let page = store.scan(&Prefix::Titles.bytes(), after.as_deref(), MAX_PAGE).await?;
            for entry in &page.entries {
                let hidden = entry.versioned.value.first() == Some(&1);
                match stored_entry(&*store, &entry.key, hidden).await {
                    Ok(accepted) => mirror.insert(accepted),
                    Err(error) => {
                        tracing::warn!(
                            reason = format!("{error:#}"),
                            "stored catalog entry is damaged; fetching the catalog again"
                        );
                        mirror.followed = None;
                    }
                }
            }
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        Ok(Catalog { store, mirror: Arc::new(RwLock::new(mirror)), changed: watch::Sender::new(0) })
    }

    /// Up to which change this tracker's catalog is mirrored.
    pub fn version_at(&self, tracker: ServerId) -> u64 {
        self.read(|mirror| {
            mirror.followed.filter(|(followed, _)| *followed == tracker).map_or(0, |(_, version)| version)
        })
    }

    /// Takes changes as the tracker sends them, at most [`MAX_CHANGES`]. Entries that are forged, older than what is
    /// known, or another publisher's are refused and logged; they do not stop the rest.
    pub async fn accept(&self, tracker: ServerId, changes: Vec<pb::tracker::CatalogChange>) -> anyhow::Result<()> {
        let version =
            changes.iter().map(|change| change.catalog_version).max().unwrap_or(0).max(self.version_at(tracker));
        let mut accepted: BTreeMap<TitleId, Accepted> = BTreeMap::new();
        for title in changes.into_iter().filter_map(|change| change.title) {
            match self.read(|mirror| mirror.check(title, &accepted)) {
                Ok(Some(change)) => {
                    accepted.insert(change.title.entry.title, change);
                }
                Ok(None) => {}
                Err(error) => tracing::warn!(reason = format!("{error:#}"), "catalog entry refused"),
            }
        }

        let followed = [tracker.as_bytes().as_slice(), &version.to_be_bytes()].concat();
        let mut batch = Batch::new().put(Key::CatalogVersion.bytes(), followed);
        for (title, change) in &accepted {
            batch = batch.put(Key::Title(*title).bytes(), vec![u8::from(change.title.hidden)]);
            batch = records::put_parts(batch, &change.signed, ENTRY_PARTS, |part| Key::EntryPart(*title, part));
        }
        self.store.commit(batch).await.context("failed to store the catalog")?;

        let news = accepted.len();
        self.write(|mirror| {
            mirror.followed = Some((tracker, version));
            accepted.into_values().for_each(|change| mirror.insert(change));
        });
        if news > 0 {
            self.changed.send_modify(|changes| *changes += 1);
        }
        Ok(())
    }

    /// Tells of every change.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// The title of this id.
    pub fn title(&self, title: TitleId) -> Option<Arc<Title>> {
        self.read(|mirror| mirror.titles.get(&title).cloned())
    }

    /// The title that points to this item now.
    pub fn of_item(&self, item: ItemId) -> Option<Arc<Title>> {
        self.read(|mirror| mirror.titles.get(mirror.by_item.get(&item)?).cloned())
    }

    /// Titles on offer whose name or description has every word of the text, newest first, at most `limit`.
    pub fn search(&self, text: &str, limit: usize) -> Vec<Arc<Title>> {
        let words: Vec<String> = text.split_whitespace().map(str::to_lowercase).collect();
        let mut found = self.read(|mirror| {
            let listed = mirror.titles.values().filter(|title| !title.hidden && !title.entry.withdrawn);
            listed.filter(|title| has_words(title, &words)).cloned().collect::<Vec<_>>()
        });
        found.sort_by(|a, b| b.entry.released.cmp(&a.entry.released).then_with(|| a.entry.name.cmp(&b.entry.name)));
        found.truncate(limit);
        found
    }

    /// The title a person means: by its id, its item id, its name, or the beginning of its name if only one fits.
    pub fn find(&self, query: &str) -> Result<Arc<Title>, Failure> {
        let query = query.trim();
        if query.is_empty() {
            return Err(Failure::new(Exit::Usage, "E-TITLE-11", "no title was named").hint("peer-node catalog ls"));
        }
        let by_id = query.parse().ok().and_then(|title| self.title(title));
        if let Some(title) = by_id.or_else(|| query.parse().ok().and_then(|item| self.of_item(item))) {
            return Ok(title);
        }
        let wanted = query.to_lowercase();
        let listed = self.search("", MAX_TITLES);
        let exact: Vec<_> = listed.iter().filter(|title| title.entry.name.to_lowercase() == wanted).collect();
        let begun: Vec<_> =
            listed.iter().filter(|title| title.entry.name.to_lowercase().starts_with(&wanted)).collect();
        match (exact.as_slice(), begun.as_slice()) {
            ([only], _) | ([], [only]) => Ok(Arc::clone(only)),
            ([], []) => Err(Failure::new(Exit::NotFound, "E-TITLE-12", format!("no title is called {query:?}"))
                .hint("peer-node catalog search WORDS")),
            ([], several) | (several, _) => Err(ambiguous(query, several)),
        }
    }

    /// The entry as its publisher signed it, picture included.
    pub async fn signed(&self, title: TitleId) -> anyhow::Result<Option<pb::common::Signed>> {
        let bytes = records::read_parts(&*self.store, Prefix::EntryParts(title)).await?;
        bytes.map(|bytes| Ok(Signed::<CatalogEntry>::from_bytes(&bytes)?.into())).transpose()
    }

    fn read<T>(&self, question: impl FnOnce(&Mirror) -> T) -> T {
        question(&self.mirror.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn write(&self, change: impl FnOnce(&mut Mirror)) {
        change(&mut self.mirror.write().unwrap_or_else(PoisonError::into_inner));
    }
}

impl Mirror {
    /// Verifies a title and holds it against what is known, or was accepted just before; `None` if it is nothing new.
    fn check(
        &self,
        title: pb::tracker::Title,
        before: &BTreeMap<TitleId, Accepted>,
    ) -> anyhow::Result<Option<Accepted>> {
        let signed =
            Signed::<CatalogEntry>::try_from(title.entry.context("the tracker sent a title without its entry")?)?;
        let change = verified(&signed, title.hidden)?;
        let entry = &change.title.entry;
        let mirrored = || Some((self.titles.get(&entry.title)?.as_ref(), *self.hashes.get(&entry.title)?));
        let known = before.get(&entry.title).map(|change| (&change.title, change.hash)).or_else(mirrored);
        let Some((known, hash)) = known else {
            let titles = self.titles.len() + before.len();
            anyhow::ensure!(titles < MAX_TITLES, "the catalog has more than {MAX_TITLES} titles");
            return Ok(Some(change));
        };
        let (old, name) = (&known.entry, &known.entry.name);
        anyhow::ensure!(
            old.publisher == entry.publisher,
            "{name:?} is publisher {}'s, not {}'s",
            old.publisher,
            entry.publisher
        );
        anyhow::ensure!(
            entry.version >= old.version,
            "{name:?} is known at version {}, sent was {}",
            old.version,
            entry.version
        );
        let same = hash == change.hash;
        anyhow::ensure!(
            entry.version > old.version || same,
            "another entry claims to be version {} of {name:?}",
            old.version
        );
        Ok((!same || known.hidden != change.title.hidden).then_some(change))
    }

    fn insert(&mut self, change: Accepted) {
        let (title, item) = (change.title.entry.title, change.title.entry.item);
        self.by_item.insert(item, title);
        self.hashes.insert(title, change.hash);
        if let Some(old) = self.titles.insert(title, Arc::new(change.title)).filter(|old| old.entry.item != item) {
            self.by_item.remove(&old.entry.item);
        }
    }
}

/// Checks signature and contents, and sets the picture aside.
fn verified(signed: &Signed<CatalogEntry>, hidden: bool) -> anyhow::Result<Accepted> {
    let mut entry = signed.verify(&signed.signer())?;
    entry.artwork = None;
    Ok(Accepted { title: Title { entry, hidden }, hash: signed.payload_hash(), signed: signed.to_bytes() })
}

async fn followed(store: &dyn Store) -> anyhow::Result<Option<(ServerId, u64)>> {
    let record = store.get(&Key::CatalogVersion.bytes()).await?;
    let read = |value: &[u8]| {
        let (tracker, version) = value.split_first_chunk::<32>()?;
        Some((ServerId::from_bytes(*tracker), u64::from_be_bytes(version.try_into().ok()?)))
    };
    Ok(record.and_then(|record| read(&record.value)))
}

async fn stored_entry(store: &dyn Store, key: &[u8], hidden: bool) -> anyhow::Result<Accepted> {
    let title = TitleId::try_from(key.get(1..).unwrap_or_default())?;
    let bytes = records::read_parts(store, Prefix::EntryParts(title)).await?.context("its entry is missing")?;
    let change = verified(&Signed::from_bytes(&bytes)?, hidden)?;
    anyhow::ensure!(change.title.entry.title == title, "it is the entry of another title");
    Ok(change)
}

fn has_words(title: &Title, words: &[String]) -> bool {
    let text = format!("{} {}", title.entry.name, title.entry.description).to_lowercase();
    words.iter().all(|word| text.contains(word))
}

fn ambiguous(query: &str, several: &[&Arc<Title>]) -> Failure {
    let names =
        several.iter().take(MAX_SUGGESTIONS).map(|title| format!("{:?} ({})", title.entry.name, title.entry.title));
    Failure::new(Exit::Usage, "E-TITLE-13", format!("{} titles are called {query:?} or begin so", several.len()))
        .why(names.collect::<Vec<_>>().join(", "))
        .hint("use more of the name, or the id in brackets")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use daemon::store::Memory;
    use swarm_proto::catalog::{Artwork, ArtworkMime, Kind, MAX_ARTWORK_BYTES, Media};
    use swarm_proto::geometry::Geometry;
    use swarm_proto::limit::Limit;
    use swarm_proto::seal::KeyCommitment;
    use swarm_proto::signed::SigningKey;
    use swarm_proto::time::Utc;

    use super::*;

    const TRACKER: ServerId = ServerId::from_bytes([1; 32]);

    fn key(seed: u8) -> SigningKey {
        SigningKey::from_bytes(&[seed; 32]).unwrap()
    }

    fn entry(title: u8, version: u64, name: &str) -> CatalogEntry {
        CatalogEntry {
            title: TitleId::from_bytes([title; 16]),
            version,
            publisher: key(7).publisher_id(),
            item: ItemId::from_bytes([title.wrapping_add(u8::try_from(version).unwrap()); 32]),
            geometry: Geometry::of_plain(5_000_000).unwrap(),
            commitment: KeyCommitment::from_bytes([3; 32]),
            span_commitment: None,
            name: name.to_owned(),
            description: "A film".to_owned(),
            kind: Kind::Video,
            media: Media {
                mime: "video/mp4".to_owned(),
                duration: Some(Duration::from_secs(60)),
                codecs: String::new(),
                picture: None,
                bit_rate: None,
            },
            artwork: Some(Artwork { mime: ArtworkMime::Png, bytes: vec![9; MAX_ARTWORK_BYTES].into() }),
            rating_age: 0,
            regions: Vec::new(),
            released: Utc::from_secs(1_700_000_000),
            expires: Limit::Unlimited,
            offers: Vec::new(),
            withdrawn: false,
        }
    }

    fn change(catalog_version: u64, signed: &Signed<CatalogEntry>) -> pb::tracker::CatalogChange {
        let title = pb::tracker::Title { entry: Some(signed.into()), catalog_version, hidden: false };
        pb::tracker::CatalogChange { catalog_version, title: Some(title) }
    }

    fn signed(entry: &CatalogEntry) -> Signed<CatalogEntry> {
        Signed::sign(&key(7), entry).unwrap()
    }

    async fn catalog() -> Catalog {
        Catalog::open(Arc::new(Memory::default())).await.unwrap()
    }

    #[tokio::test]
    async fn entry_with_its_picture_survives_a_restart_byte_for_byte() {
        let catalog = catalog().await;
        let signed = signed(&entry(1, 1, "Atlas"));
        catalog.accept(TRACKER, vec![change(5, &signed)]).await.unwrap();
        let again = Catalog::open(catalog.store.clone()).await.unwrap();
        assert_eq!(again.signed(TitleId::from_bytes([1; 16])).await.unwrap(), Some((&signed).into()));
        assert_eq!(again.version_at(TRACKER), 5);
        assert_eq!(again.version_at(ServerId::from_bytes([2; 32])), 0);
    }

    #[tokio::test]
    async fn title_never_goes_back_to_a_lower_version() {
        let catalog = catalog().await;
        catalog.accept(TRACKER, vec![change(1, &signed(&entry(1, 2, "Atlas")))]).await.unwrap();
        catalog.accept(TRACKER, vec![change(2, &signed(&entry(1, 1, "Old Atlas")))]).await.unwrap();
        assert_eq!(catalog.find("atlas").unwrap().entry.version, 2);
        assert!(catalog.find("old").is_err());
        catalog.accept(TRACKER, vec![change(3, &signed(&entry(1, 2, "Other Atlas")))]).await.unwrap();
        assert!(catalog.find("other").is_err(), "another entry cannot claim a version that is known");
        catalog.accept(TRACKER, vec![change(4, &signed(&entry(1, 3, "New Atlas")))]).await.unwrap();
        assert_eq!(catalog.find("new atlas").unwrap().entry.version, 3);
    }

    #[tokio::test]
    async fn later_version_in_one_batch_wins_in_any_order() {
        let (first, second) = (signed(&entry(1, 1, "Atlas")), signed(&entry(1, 2, "Atlas II")));
        for changes in [vec![change(1, &first), change(2, &second)], vec![change(2, &second), change(1, &first)]] {
            let catalog = catalog().await;
            catalog.accept(TRACKER, changes).await.unwrap();
            assert_eq!(catalog.find("atlas").unwrap().entry.version, 2);
            assert!(catalog.of_item(entry(1, 1, "Atlas").item).is_none());
        }
    }

    #[tokio::test]
    async fn forged_and_swapped_entries_are_refused_and_do_not_stop_the_rest() {
        let catalog = catalog().await;
        catalog.accept(TRACKER, vec![change(1, &signed(&entry(1, 1, "Atlas")))]).await.unwrap();
        let thief =
            Signed::sign(&key(8), &CatalogEntry { publisher: key(8).publisher_id(), ..entry(1, 9, "Stolen") }).unwrap();
        let mut forged = change(3, &signed(&entry(2, 1, "Forged")));
        forged.title.as_mut().unwrap().entry.as_mut().unwrap().signature[5] ^= 1;
        let honest = signed(&entry(3, 1, "Reef"));
        catalog.accept(TRACKER, vec![change(2, &thief), forged, change(4, &honest)]).await.unwrap();
        let names: Vec<String> = catalog.search("", 10).iter().map(|title| title.entry.name.clone()).collect();
        assert_eq!(names, ["Atlas", "Reef"]);
    }

    #[tokio::test]
    async fn titles_are_found_as_people_name_them() {
        let catalog = catalog().await;
        let changes = [(1, "Harbour at dawn"), (2, "Harbour at night"), (3, "Reef")]
            .map(|(id, name)| change(id.into(), &signed(&entry(id, 1, name))));
        catalog.accept(TRACKER, changes.to_vec()).await.unwrap();
        let name = |query: &str| catalog.find(query).map(|title| title.entry.name.clone());
        assert_eq!(name("reef").unwrap(), "Reef");
        assert_eq!(name("harbour at d").unwrap(), "Harbour at dawn");
        assert_eq!(name(&TitleId::from_bytes([2; 16]).to_string()).unwrap(), "Harbour at night");
        assert_eq!(name(&entry(3, 1, "Reef").item.to_string()).unwrap(), "Reef");
        assert_eq!(name("harbour").unwrap_err().exit, Exit::Usage);
        assert_eq!(name("atlas").unwrap_err().exit, Exit::NotFound);
        assert_eq!(name(" ").unwrap_err().exit, Exit::Usage);
    }

    #[tokio::test]
    async fn damaged_record_is_left_out_and_fetched_again() {
        let catalog = catalog().await;
        catalog
            .accept(TRACKER, vec![change(5, &signed(&entry(1, 1, "Atlas"))), change(6, &signed(&entry(2, 1, "Reef")))])
            .await
            .unwrap();
        let part = Key::EntryPart(TitleId::from_bytes([1; 16]), 1).bytes();
        catalog.store.commit(Batch::new().put(part, vec![0; 100])).await.unwrap();
        let again = Catalog::open(catalog.store.clone()).await.unwrap();
        assert!(again.find("atlas").is_err() && again.find("reef").is_ok());
        assert_eq!(again.version_at(TRACKER), 0);
    }
}
