//! Reading, following and publishing the catalog.

use std::pin::Pin;

use futures::Stream;
use swarm_proto::catalog::CatalogEntry;
use swarm_proto::invalid::Invalid;
use swarm_proto::pb::tracker as pb;
use swarm_proto::pb::tracker::catalog_server::Catalog;
use swarm_proto::signed::{Signed, SignedError};
use tonic::{Request, Response, Status};

use super::Shared;
use crate::auth::Caller;
use crate::convert::{self, TitleBy};
use crate::refusal;

/// Changes that are taken from the state at a time, for one watcher: a few megabytes at the very most.
const CHANGES_AT_A_TIME: usize = 64;

pub(super) struct Service(pub(super) Shared);

#[tonic::async_trait]
impl Catalog for Service {
    type WatchCatalogStream = Pin<Box<dyn Stream<Item = Result<pb::CatalogChange, Status>> + Send>>;

    async fn publish(&self, request: Request<pb::PublishRequest>) -> Result<Response<pb::PublishResponse>, Status> {
        let message = request.into_inner().entry.ok_or_else(|| convert::bad(Invalid::new("entry", "is missing")))?;
        let signed: Signed<CatalogEntry> =
            Signed::try_from(message).map_err(|invalid| convert::bad(invalid.inside("entry")))?;
        let entry = signed.verify(&signed.signer()).map_err(unbelievable)?;
        let published = self.0.state.publish(entry, signed).await.map_err(refusal::status)?;
        let answer = pb::PublishResponse { already: published.already, catalog_version: published.catalog_version };
        Ok(Response::new(answer))
    }

    async fn get_title(&self, request: Request<pb::GetTitleRequest>) -> Result<Response<pb::Title>, Status> {
        let caller = self.0.auth.caller(&request)?;
        let by = TitleBy::try_from(request.into_inner()).map_err(convert::bad)?;
        self.0.state.title(caller, by).await.map(Response::new).map_err(refusal::status)
    }

    async fn list_titles(
        &self,
        request: Request<pb::ListTitlesRequest>,
    ) -> Result<Response<pb::ListTitlesResponse>, Status> {
        let caller = self.0.auth.caller(&request)?;
        let message = request.into_inner();
        self.page(caller, None, &message.page_token, message.page_size).await
    }

    async fn search_titles(
        &self,
        request: Request<pb::SearchTitlesRequest>,
    ) -> Result<Response<pb::ListTitlesResponse>, Status> {
        let caller = self.0.auth.caller(&request)?;
        let message = request.into_inner();
        let query = convert::query(&message.query).map_err(convert::bad)?.to_owned();
        self.page(caller, Some(query), &message.page_token, message.page_size).await
    }

    async fn watch_catalog(
        &self,
        request: Request<pb::WatchCatalogRequest>,
    ) -> Result<Response<Self::WatchCatalogStream>, Status> {
        let caller = self.0.auth.caller(&request)?;
        let after = request.into_inner().after_version;
        // Someone who may not read is told so at once rather than on the stream.
        self.0.state.changes_after(caller, after, 0).await.map_err(refusal::status)?;
        Ok(Response::new(Box::pin(changes(self.0.clone(), caller, after))))
    }
}

impl Service {
    async fn page(
        &self,
        caller: Caller,
        query: Option<String>,
        token: &[u8],
        size: u32,
    ) -> Result<Response<pb::ListTitlesResponse>, Status> {
        let size = convert::page_size(size).map_err(convert::bad)?;
        let after = convert::version_token(token).map_err(convert::bad)?;
        self.0.state.titles(caller, query, after, size).await.map(Response::new).map_err(refusal::status)
    }
}

/// Every change after a version, then each new one as it comes, until the tracker stops.
fn changes(shared: Shared, caller: Caller, after: u64) -> impl Stream<Item = Result<pb::CatalogChange, Status>> + Send {
    struct Watcher {
        shared: Shared,
        version: tokio::sync::watch::Receiver<u64>,
        after: u64,
        ready: std::vec::IntoIter<pb::CatalogChange>,
        over: bool,
    }
    let version = shared.state.catalog_version();
    let watcher = Watcher { shared, version, after, ready: Vec::new().into_iter(), over: false };
    futures::stream::unfold(watcher, move |mut watcher| async move {
        loop {
            if watcher.over {
                return None;
            }
            if let Some(change) = watcher.ready.next() {
                watcher.after = change.catalog_version;
                return Some((Ok(change), watcher));
            }
            let stop = watcher.shared.stop();
            let seen = *watcher.version.borrow_and_update();
            if seen <= watcher.after {
                let changed = stop.run_until_cancelled(watcher.version.changed()).await;
                if !matches!(changed, Some(Ok(()))) {
                    watcher.over = true;
                    return Some((Err(refusal::status(refusal::stopping())), watcher));
                }
                continue;
            }
            match watcher.shared.state.changes_after(caller, watcher.after, CHANGES_AT_A_TIME).await {
                Ok(changes) => watcher.ready = changes.into_iter(),
                Err(failure) => {
                    watcher.over = true;
                    return Some((Err(refusal::status(failure)), watcher));
                }
            }
        }
    })
}

fn unbelievable(error: SignedError) -> Status {
    let invalid = match error {
        SignedError::Invalid { why, .. } => why.inside("entry.payload"),
        other => Invalid::new("entry.signature", other.to_string()),
    };
    convert::bad(invalid)
}
