//! Puts a running device together, and takes it apart in order.
//!
//! Starting: what can be wrong with the machine (folder, port, keys) is found before anything is told to others.
//! Stopping: players and commands first, then transfers, then the disk. A device that is killed instead has lost
//! nothing that it acknowledged.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context as _;
use daemon::DataFolder;
use daemon::command;
use daemon::exit::Exit;
use daemon::health::Health;
use daemon::metrics::Metrics;
use daemon::serve::{App, Bound};
use daemon::shutdown::Shutdown;
use daemon::store::{Sled, Store};
use daemon::token::{self, OperatorToken};
use swarm_proto::pb;
use tokio::sync::mpsc;
use tonic::service::Routes;

use crate::assignments::Assignments;
use crate::catalog::Catalog;
use crate::config::Config;
use crate::control::Control;
use crate::grants::Grants;
use crate::identity::{Enrolment, Identity};
use crate::items::Items;
use crate::metrics::Figures;
use crate::status::Sources;
use crate::tracker_link::TrackerNotice;
use crate::wishes::Queue;
use crate::{clock, custody, engine, enrol, grants, net, play, tracker_link, tv, wishes};

/// The folder of the store, in the data folder.
const STORE: &str = "store";

/// What is said about one run and not kept in a configuration.
#[derive(Debug, Clone)]
pub struct Options {
    /// The data folder.
    pub folder: PathBuf,
    /// An enrolment code, used unless this device is enrolled.
    pub enrol: Option<String>,
    /// Whether to say that it is ready in JSON.
    pub json: bool,
    /// Whether to stop when the process that started this one is gone.
    pub exit_with_parent: bool,
}

/// Runs a device until it is asked to stop.
pub async fn run(config: Config, options: Options) -> anyhow::Result<Exit> {
    let folder = DataFolder::open(options.folder)?;
    let shutdown = Shutdown::listen()?;
    if options.exit_with_parent {
        shutdown.end_with_parent();
    }
    let bound = Bound::bind(&config.server, &folder).await?;
    let url = bound.url();
    let token = OperatorToken::open_or_create(&folder.file(token::FILE))?;
    let identity = Arc::new(Identity::open_or_create(folder.path())?);
    let enrolment = Enrolment::open(folder.path(), &identity)?;
    if let Some(code) = options.enrol.filter(|_| enrolment.current().is_none()) {
        enrol::enrol(&config, &identity, &enrolment, &code, None, None).await.context("failed to enrol")?;
    }

    let store: Arc<dyn Store> = Arc::new(Sled::open(folder.file(STORE)).await?);
    let catalog = Catalog::open(store.clone()).await.context("failed to load the catalog")?;
    let queue = Queue::open(store.clone()).await.context("failed to load the queue")?;
    let assignments = Assignments::open(store.clone()).await.context("failed to load the assignments")?;
    let (root, items_config) = (folder.path().to_owned(), config.items.clone());
    let items = tokio::task::spawn_blocking(move || Items::open(&root, &items_config)).await?;
    let items = items.context("failed to open the items")?;

    let (link, unstarted, notices) = tracker_link::prepare(tracker_link::Deps {
        config: config.tracker.clone(),
        identity: identity.clone(),
        enrolment: enrolment.clone(),
        items: items.clone(),
        catalog: catalog.clone(),
        queue: queue.clone(),
        assignments: assignments.clone(),
        store: store.clone(),
        shutdown: shutdown.clone(),
    })
    .await?;
    let engine = engine::spawn(engine::Deps {
        identity: identity.clone(),
        members: enrolment.watch(),
        items: items.clone(),
        tracker: Some(link.clone()),
        store: store.clone(),
        net: net::Config::of(&config.net)?,
        transfers: config.transfers.clone(),
        uploads: config.uploads.clone(),
        preload: config.preload.clone(),
    })
    .await
    .context("failed to start the swarm's side")?;
    unstarted.start(engine.hello());
    let grants = Grants::start(grants::Deps {
        config: config.keyserver.clone(),
        identity: identity.clone(),
        members: enrolment.watch(),
        store: store.clone(),
        keyserver_url: link.keyserver_url(),
        name: config.name.clone(),
        clock: clock::now,
        shutdown: shutdown.clone(),
    })
    .await
    .context("failed to load the grants")?;

    let sources = Sources {
        name: config.name.clone(),
        url: url.clone(),
        identity: identity.clone(),
        enrolment: enrolment.clone(),
        link: link.clone(),
        catalog: catalog.clone(),
        queue: queue.clone(),
        items: items.clone(),
        engine: engine.clone(),
        grants: grants.clone(),
    };
    let freeing = sources.freeing();
    spawn_until_stop(&shutdown, forward(notices, engine.clone()));
    let custody = custody::Deps {
        device: identity.device,
        store,
        assignments: assignments.clone(),
        queue: queue.clone(),
        catalog: catalog.clone(),
        grants: grants.clone(),
        items: items.clone(),
        engine: engine.clone(),
        link,
    };
    spawn_until_stop(&shutdown, custody::keep(custody));
    let follow = wishes::follow(queue, assignments, catalog.clone(), identity.device, engine.clone(), freeing);
    spawn_until_stop(&shutdown, follow);

    let metrics = Metrics::new("peer-node", env!("CARGO_PKG_VERSION"));
    metrics.register(|registry| registry.register_collector(Box::new(Figures::of(sources.clone()))));
    let app = App {
        grpc: Routes::new(pb::node::node_server::NodeServer::with_interceptor(
            Control::new(Arc::new(config.clone()), sources.clone(), shutdown.token()),
            token.guard(),
        )),
        web: play::routes(play::Deps {
            config: config.play,
            catalog,
            items: items.clone(),
            engine: engine.clone(),
            grants,
        })
        .merge(tv::routes(sources)),
        descriptors: pb::FILE_DESCRIPTOR_SET,
        health: Health::new(),
        metrics,
    };
    folder.note_endpoint(&url)?;
    command::say_ready(options.json, "peer-node", &url, "/tv", &identity.device)
        .context("failed to say on stdout that this device is ready")?;
    let served = bound.serve(app, shutdown.token()).await;
    if served.is_err() {
        shutdown.trigger(Exit::Failed);
    }
    engine.stop().await;
    items.flush().await.context("failed to write the last chunks to disk")?;
    let exit = shutdown.drain().await;
    served?;
    Ok(exit)
}

/// Starts a task that may be dropped at any await when the device stops.
fn spawn_until_stop(shutdown: &Shutdown, task: impl Future<Output = ()> + Send + 'static) {
    let stop = shutdown.token();
    shutdown.spawn(async move { stop.run_until_cancelled(task).await });
}

/// Brings what the tracker says to the engine, in order.
async fn forward(mut notices: mpsc::Receiver<TrackerNotice>, engine: engine::Handle) {
    while let Some(notice) = notices.recv().await {
        engine.notice(notice).await;
    }
}
