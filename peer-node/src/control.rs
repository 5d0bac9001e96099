//! How a person's commands reach the running device: the gRPC service `Node`, for whoever holds the operator's token.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use daemon::exit::{Exit, Failure};
use futures::Stream;
use swarm_proto::catalog::CatalogEntry;
use swarm_proto::id::{DeviceId, ItemId, TitleId};
use swarm_proto::pb::node as pb;
use swarm_proto::pb::node::pair_progress::Progress;
use swarm_proto::pb::tracker::EstimateResponse;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use crate::catalog::Title;
use crate::cli::show;
use crate::clock;
use crate::config::Config;
use crate::enrol;
use crate::freeing::Fate;
use crate::grants::{self, PurchaseState};
use crate::pair::{self, Shown};
use crate::status::Sources;

/// Statuses of one watcher on their way; a slow one gets the next when it has taken the last.
const WATCH_DEPTH: usize = 1;

/// Codes on their way to whoever pairs this box.
const PAIR_DEPTH: usize = 4;

/// A watcher gets at most four statuses a second …
const WATCH_AT_MOST: Duration = Duration::from_millis(250);

/// … and one each second, so that "no data for 12 s" counts on.
const WATCH_AT_LEAST: Duration = Duration::from_secs(1);

/// How long a title that is not known may take to come in with the catalog.
const NEW_TITLE_WITHIN: Duration = Duration::from_millis(1_500);

/// How long the answer to a new entry of the queue waits for word when the title will be here.
const PROMISE_WITHIN: Duration = Duration::from_secs(1);

/// Entries in one answer, from the contract.
const MAX_LISTED: usize = 1_000;

/// Bytes of entries in one answer; gRPC's clients take 4 MiB.
const MAX_LISTED_BYTES: usize = 3 << 20;

/// Longest title query.
const MAX_QUERY_BYTES: usize = 256;

/// The service.
pub struct Control {
    config: Arc<Config>,
    sources: Sources,
    stop: CancellationToken,
}

type Answer<T> = Result<Response<T>, Status>;

impl Control {
    /// A service that answers from these sources, and ends its streams at `stop`.
    pub fn new(config: Arc<Config>, sources: Sources, stop: CancellationToken) -> Control {
        Control { config, sources, stop }
    }

    /// The title that is meant. One that was published a moment ago is waited for.
    async fn title(&self, query: Option<pb::TitleQuery>) -> Result<Arc<Title>, Failure> {
        let text = query.unwrap_or_default().text;
        if text.len() > MAX_QUERY_BYTES {
            return Err(Failure::new(
                Exit::Usage,
                "E-TITLE-14",
                format!("a title is named in at most {MAX_QUERY_BYTES} bytes"),
            ));
        }
        let mut changes = self.sources.catalog.changes();
        let appears = async {
            loop {
                changes.borrow_and_update();
                match self.sources.catalog.find(&text) {
                    Err(failure) if failure.exit == Exit::NotFound && self.sources.link.up().borrow().up => {}
                    answer => return answer,
                }
                if changes.changed().await.is_err() {
                    return self.sources.catalog.find(&text);
                }
            }
        };
        timeout(NEW_TITLE_WITHIN, appears).await.unwrap_or_else(|_| self.sources.catalog.find(&text))
    }

    /// Answers when the title will be here, for a person.
    async fn add(&self, request: pb::AddToQueueRequest) -> anyhow::Result<String> {
        let title = self.title(request.title).await?;
        self.sources.link.add_to_queue(title.entry.title, request.first, request.delivery).await?;
        // The title is in the queue, whether or not somebody can say when it comes.
        let estimate = timeout(PROMISE_WITHIN, self.sources.link.estimate(title.entry.title)).await;
        Ok(estimate.ok().and_then(Result::ok).map_or_else(String::new, |told| show::ready(&told, clock::utc())))
    }

    /// Answers what has become of what was here, for a person.
    async fn remove(&self, request: pb::RemoveFromQueueRequest) -> anyhow::Result<String> {
        let title = self.queued(request.title).await?;
        let known = self.sources.catalog.title(title);
        let freeing = self.sources.freeing();
        // Asked before: whoever follows the queue may free it first.
        let fate = known.as_ref().map_or(Fate::NotHere, |known| freeing.fate(&known.entry.item));
        self.sources.link.remove_from_queue(title).await?;
        match known {
            Some(known) if request.delete => {
                self.sources.engine.remove(known.entry.item).await.context("failed to delete it from this disk")?;
                Ok(String::new())
            }
            Some(known) if matches!(fate, Fate::Freed(_)) => {
                freeing.handle_unwanted(known.entry.item).await?;
                Ok(fate.in_words())
            }
            _ => Ok(fate.in_words()),
        }
    }

    /// The title of the queue that is meant, also one whose catalog entry has not arrived.
    async fn queued(&self, query: Option<pb::TitleQuery>) -> Result<TitleId, Failure> {
        match self.sources.queue.find(query.as_ref().map_or("", |query| &query.text)) {
            Some(title) => Ok(title),
            None => Ok(self.title(query).await?.entry.title),
        }
    }

    async fn adopt(&self, item: &[u8]) -> anyhow::Result<bool> {
        let item = ItemId::try_from(item)?;
        let already = self.sources.items.holding(&item).is_some_and(|holding| holding.is_complete());
        if !already {
            self.sources.items.adopt(item).await?;
            self.sources.engine.adopt(item).await?;
        }
        Ok(already)
    }

    async fn catalog(&self, search: &str) -> anyhow::Result<Vec<swarm_proto::pb::common::Signed>> {
        let (mut entries, mut bytes) = (Vec::new(), 0);
        for title in self.sources.catalog.search(search, MAX_LISTED) {
            let Some(signed) = self.sources.catalog.signed(title.entry.title).await? else { continue };
            bytes += signed.payload.len();
            if bytes > MAX_LISTED_BYTES {
                break;
            }
            entries.push(signed);
        }
        Ok(entries)
    }

    async fn buy(&self, request: pb::BuyRequest) -> anyhow::Result<pb::BuyResponse> {
        let title = self.title(request.title).await?;
        let offer = Some(request.offer).filter(|offer| !offer.is_empty());
        let pass = Some(request.pass_code).filter(|code| !code.is_empty());
        let replaces = Some(request.replaces).filter(|device| !device.is_empty());
        let replaces = replaces.map(|device| DeviceId::try_from(device.as_slice())).transpose()?;
        let purchase = self.sources.grants.buy(&title.entry, offer.as_deref(), pass.as_deref(), replaces).await?;
        let checkout_url = match purchase.state {
            PurchaseState::Pending => self.sources.grants.checkout(title.entry.item).await,
            _ => None,
        };
        Ok(pb::BuyResponse {
            checkout_url: checkout_url.unwrap_or_default(),
            order: purchase.order.map(|order| order.to_vec()).unwrap_or_default(),
            order_code: purchase.order.map(|order| order.to_string()).unwrap_or_default(),
            state: purchase.state.to_string(),
            playable: self.sources.grants.playable_until(&title.entry.item).is_some(),
            play_url: self.sources.play_url(&title.entry.item),
        })
    }

    async fn play(&self, request: pb::GetPlayUrlRequest) -> Result<pb::GetPlayUrlResponse, Failure> {
        let title = self.title(request.title).await?;
        if request.preview {
            return self.preview(&title.entry).await;
        }
        let expiry = self.sources.grants.playable(&title.entry.item)?;
        if request.take_over {
            self.sources.grants.take_place(title.entry.item, true).await?;
        }
        let url = self.sources.play_url(&title.entry.item);
        Ok(pb::GetPlayUrlResponse { url, expiry: Some(expiry.into()), ..pb::GetPlayUrlResponse::default() })
    }

    /// Where the free beginning of a title plays, once its keys are here.
    async fn preview(&self, entry: &CatalogEntry) -> Result<pb::GetPlayUrlResponse, Failure> {
        let grants = &self.sources.grants;
        grants.preview(entry).await?;
        let length = grants::preview_of(entry).map(|preview| preview.length()).unwrap_or_default();
        Ok(pb::GetPlayUrlResponse {
            url: self.sources.preview_url(&entry.item),
            expiry: None,
            preview_ms: u64::try_from(length.as_millis()).unwrap_or(u64::MAX),
            go_on: self.sources.how_to_go_on(entry).await,
        })
    }
}

#[tonic::async_trait]
impl pb::node_server::Node for Control {
    async fn get_status(&self, request: Request<pb::GetStatusRequest>) -> Answer<pb::Status> {
        Ok(Response::new(self.sources.status(&request.into_inner().title)?))
    }

    type WatchStatusStream = Pin<Box<dyn Stream<Item = Result<pb::Status, Status>> + Send>>;

    async fn watch_status(&self, request: Request<pb::GetStatusRequest>) -> Answer<Self::WatchStatusStream> {
        let title = request.into_inner().title;
        self.sources.status(&title)?;
        let (statuses, out) = mpsc::channel(WATCH_DEPTH);
        let (sources, stop) = (self.sources.clone(), self.stop.clone());
        tokio::spawn(async move { stop.run_until_cancelled(watch(sources, title, statuses)).await });
        Ok(Response::new(Box::pin(ReceiverStream::new(out))))
    }

    async fn enrol(&self, request: Request<pb::EnrolRequest>) -> Answer<pb::EnrolResponse> {
        let pb::EnrolRequest { code, tracker_url, device_name } = request.into_inner();
        let given = |text: &'_ String| !text.is_empty();
        let (url, name) = (Some(tracker_url).filter(given), Some(device_name).filter(given));
        let Sources { identity, enrolment, .. } = &self.sources;
        let enrolled = enrol::enrol(&self.config, identity, enrolment, &code, url.as_deref(), name.as_deref()).await;
        Ok(Response::new(pb::EnrolResponse { membership: Some((&enrolled.map_err(status)?.signed).into()) }))
    }

    type PairStream = Pin<Box<dyn Stream<Item = Result<pb::PairProgress, Status>> + Send>>;

    async fn pair(&self, request: Request<pb::PairRequest>) -> Answer<Self::PairStream> {
        let pb::PairRequest { tracker_url, device_name } = request.into_inner();
        let (told, out) = mpsc::channel(PAIR_DEPTH);
        let (config, sources, stop) = (self.config.clone(), self.sources.clone(), self.stop.clone());
        let work = async move {
            let given = |text: &'_ String| !text.is_empty();
            let (url, name) = (Some(tracker_url).filter(given), Some(device_name).filter(given));
            let Sources { identity, enrolment, .. } = &sources;
            let progress = |progress| Ok(pb::PairProgress { progress: Some(progress) });
            let show = |shown: &Shown| {
                let (code, expires_utc_ms) = (shown.code.clone(), shown.expires.as_millis());
                // Whoever does not read on has the last code it read; the television shows the one that counts.
                let _ = told.try_send(progress(Progress::Code(pb::PairCode { code, expires_utc_ms })));
            };
            let pairing = pair::pair(&config, identity, enrolment, url.as_deref(), name.as_deref(), show);
            let answer = tokio::select! {
                paired = pairing => match paired {
                    Ok(enrolled) => progress(Progress::Membership((&enrolled.signed).into())),
                    Err(error) => Err(status(error)),
                },
                () = told.closed() => return,
            };
            // Who asked may not wait for it.
            let _ = told.send(answer).await;
        };
        tokio::spawn(async move { stop.run_until_cancelled(work).await });
        Ok(Response::new(Box::pin(ReceiverStream::new(out))))
    }

    async fn adopt_item(&self, request: Request<pb::AdoptItemRequest>) -> Answer<pb::AdoptItemResponse> {
        let already = self.adopt(&request.into_inner().item).await.map_err(status)?;
        Ok(Response::new(pb::AdoptItemResponse { already }))
    }

    async fn list_catalog(&self, request: Request<pb::ListCatalogRequest>) -> Answer<pb::ListCatalogResponse> {
        let entries = self.catalog(&request.into_inner().search).await.map_err(status)?;
        Ok(Response::new(pb::ListCatalogResponse { entries }))
    }

    async fn get_queue(&self, _request: Request<pb::GetQueueRequest>) -> Answer<pb::QueueView> {
        Ok(Response::new(self.sources.queue()))
    }

    async fn add_to_queue(&self, request: Request<pb::AddToQueueRequest>) -> Answer<pb::QueueView> {
        let note = self.add(request.into_inner()).await.map_err(status)?;
        Ok(Response::new(pb::QueueView { note, ..self.sources.queue() }))
    }

    async fn estimate(&self, request: Request<pb::EstimateRequest>) -> Answer<EstimateResponse> {
        let title = self.title(request.into_inner().title).await?.entry.title;
        Ok(Response::new(self.sources.link.estimate(title).await.map_err(status)?))
    }

    async fn move_in_queue(&self, request: Request<pb::MoveInQueueRequest>) -> Answer<pb::QueueView> {
        let pb::MoveInQueueRequest { title, to } = request.into_inner();
        let title = self.queued(title).await?;
        self.sources.link.move_in_queue(title, to).await.map_err(status)?;
        Ok(Response::new(self.sources.queue()))
    }

    async fn remove_from_queue(&self, request: Request<pb::RemoveFromQueueRequest>) -> Answer<pb::QueueView> {
        let note = self.remove(request.into_inner()).await.map_err(status)?;
        Ok(Response::new(pb::QueueView { note, ..self.sources.queue() }))
    }

    async fn buy(&self, request: Request<pb::BuyRequest>) -> Answer<pb::BuyResponse> {
        Ok(Response::new(Control::buy(self, request.into_inner()).await.map_err(status)?))
    }

    async fn get_play_url(&self, request: Request<pb::GetPlayUrlRequest>) -> Answer<pb::GetPlayUrlResponse> {
        Ok(Response::new(self.play(request.into_inner()).await?))
    }
}

/// Sends the status now, after each change, and once a second, until the watcher is gone.
async fn watch(sources: Sources, title: String, statuses: mpsc::Sender<Result<pb::Status, Status>>) {
    let mut engine = sources.engine.snapshot();
    let mut link = sources.link.up();
    let mut queue = sources.queue.watch();
    loop {
        let sent = Instant::now();
        let status = sources.status(&title).map_err(Status::from);
        let over = status.is_err();
        if statuses.send(status).await.is_err() || over {
            return;
        }
        tokio::select! {
            Ok(()) = engine.changed() => {}
            Ok(()) = link.changed() => {}
            Ok(()) = queue.changed() => {}
            () = tokio::time::sleep(WATCH_AT_LEAST) => {}
            () = statuses.closed() => return,
        }
        tokio::time::sleep_until(sent + WATCH_AT_MOST).await;
    }
}

fn status(error: anyhow::Error) -> Status {
    Failure::of(&error).into()
}
