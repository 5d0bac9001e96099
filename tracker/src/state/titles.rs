//! Questions about the catalog.

use daemon::exit::Failure;
use futures::FutureExt as _;
use swarm_proto::catalog::CatalogEntry;
use swarm_proto::id::TitleId;
use swarm_proto::pb::tracker as pb;
use swarm_proto::signed::Signed;
use swarm_proto::time::Now;
use swarm_proto::tracker::catalog::{Listing, Verdict};

use super::{Handle, State};
use crate::auth::Caller;
use crate::convert::{self, TitleBy};
use crate::records::Records;
use crate::refusal;

/// Bytes of signed entries on one page: below what a client accepts in one message, with room for one entry more.
const MAX_PAGE_BYTES: usize = 2 << 20;

/// What publishing has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Published {
    /// It was so already.
    pub(crate) already: bool,
    /// Version of the catalog.
    pub(crate) catalog_version: u64,
}

impl Handle {
    /// Puts a verified entry into the catalog.
    pub(crate) async fn publish(
        &self,
        entry: CatalogEntry,
        signed: Signed<CatalogEntry>,
    ) -> Result<Published, Failure> {
        self.ask(move |state, now| state.publish(now, entry, signed).boxed()).await
    }

    /// One title.
    pub(crate) async fn title(&self, caller: Caller, by: TitleBy) -> Result<pb::Title, Failure> {
        self.look(move |state, _| {
            state.may_read(caller)?;
            let listing = state.find_title(&by)?;
            match listing.hidden && caller != Caller::Operator {
                true => Err(refusal::no_title()),
                false => Ok(convert::title(listing)),
            }
        })
        .await
    }

    /// A page of the catalog, or of what fits a search.
    pub(crate) async fn titles(
        &self,
        caller: Caller,
        query: Option<String>,
        after: Option<u64>,
        page_size: usize,
    ) -> Result<pb::ListTitlesResponse, Failure> {
        self.look(move |state, _| {
            state.may_read(caller)?;
            let shown = |it: &&Listing| caller == Caller::Operator || !it.hidden;
            Ok(match query {
                None => page(state.catalog.newest_first(after).filter(shown), page_size),
                Some(query) => page(state.catalog.search(&query, after).filter(shown), page_size),
            })
        })
        .await
    }

    /// What has changed in the catalog since a version, oldest change first.
    pub(crate) async fn changes_after(
        &self,
        caller: Caller,
        version: u64,
        at_most: usize,
    ) -> Result<Vec<pb::CatalogChange>, Failure> {
        self.look(move |state, _| {
            state.may_read(caller)?;
            let changes = state.catalog.changes_after(version).take(at_most);
            let change = |it: &Listing| pb::CatalogChange {
                catalog_version: it.catalog_version,
                title: Some(convert::title(it)),
            };
            Ok(changes.map(change).collect())
        })
        .await
    }

    /// Hides a title from devices, or shows it again.
    pub(crate) async fn hide_title(&self, title: TitleId, hidden: bool) -> Result<pb::Title, Failure> {
        self.ask(move |state, now| state.hide_title(now, title, hidden).boxed()).await
    }
}

impl State {
    async fn publish(
        &mut self,
        now: Now,
        entry: CatalogEntry,
        signed: Signed<CatalogEntry>,
    ) -> Result<Published, Failure> {
        if !self.registry.is_publisher(&entry.publisher) {
            return Err(refusal::not_admitted(entry.publisher));
        }
        let catalog_version = match self.catalog.consider(&entry).map_err(refusal::publish)? {
            Verdict::Already => return Ok(Published { already: true, catalog_version: self.catalog.version() }),
            Verdict::New(version) => version,
        };
        let hidden = self.catalog.title(&entry.title).is_some_and(|old| old.hidden);
        let listing = Listing { entry, signed, catalog_version, hidden };
        self.commit(Records::new().title(&listing)).await?;
        tracing::info!(title = %listing.entry.title, version = listing.entry.version, "title published");
        self.insert_title(now, listing);
        self.tell_catalog_version();
        Ok(Published { already: false, catalog_version })
    }

    async fn hide_title(&mut self, now: Now, title: TitleId, hidden: bool) -> Result<pb::Title, Failure> {
        let old = self.catalog.title(&title).ok_or_else(refusal::no_title)?;
        if old.hidden == hidden {
            return Ok(convert::title(old));
        }
        let listing = Listing { hidden, catalog_version: self.catalog.version() + 1, ..old.clone() };
        self.commit(Records::new().title(&listing)).await?;
        let answer = convert::title(&listing);
        self.insert_title(now, listing);
        self.tell_catalog_version();
        Ok(answer)
    }

    /// Puts in a title that is on disk.
    pub(super) fn insert_title(&mut self, now: Now, listing: Listing) {
        let old = self.catalog.title(&listing.entry.title).map(|it| it.entry.item);
        self.catalog.insert(listing.clone());
        self.keep_title(now, old, &listing);
        self.catalog_version.send_replace(self.catalog.version());
        self.counters.titles.set(i64::try_from(self.catalog.len()).unwrap_or(i64::MAX));
    }

    /// The one title that is meant.
    pub(super) fn find_title(&self, by: &TitleBy) -> Result<&Listing, Failure> {
        match by {
            TitleBy::Title(title) => self.catalog.title(title).ok_or_else(refusal::no_title),
            TitleBy::Item(item) => self.catalog.item(item).ok_or_else(refusal::no_title),
            TitleBy::Name(name) => {
                let named: Vec<&Listing> = self.catalog.named(name).collect();
                match named[..] {
                    [] => Err(refusal::no_title()),
                    [one] => Ok(one),
                    ref several => {
                        let ids: Vec<String> = several.iter().map(|it| it.entry.title.to_string()).collect();
                        Err(refusal::many_titles(name, &ids))
                    }
                }
            }
        }
    }

    /// The catalog is for devices that belong here, and for the operator.
    pub(super) fn may_read(&self, caller: Caller) -> Result<(), Failure> {
        match caller {
            Caller::Operator => Ok(()),
            Caller::Device(device) => self.registry.member(&device).map(drop).map_err(refusal::caller),
        }
    }

    fn tell_catalog_version(&self) {
        for session in self.sessions.values() {
            session.mailbox.catalog_version(self.catalog.version());
        }
    }
}

/// As many titles as were asked for, but no more than fit a message.
fn page<'a>(listings: impl Iterator<Item = &'a Listing>, page_size: usize) -> pb::ListTitlesResponse {
    let mut titles = Vec::new();
    let mut bytes = 0;
    let mut last = 0;
    for listing in listings {
        bytes += listing.signed.payload().len();
        let is_full = titles.len() == page_size || (bytes > MAX_PAGE_BYTES && !titles.is_empty());
        if is_full {
            return pb::ListTitlesResponse { titles, next_page_token: u64::to_be_bytes(last).to_vec() };
        }
        last = listing.catalog_version;
        titles.push(convert::title(listing));
    }
    pb::ListTitlesResponse { titles, next_page_token: Vec::new() }
}
