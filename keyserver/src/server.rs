//! How the parts of a running keyserver hang together.
//!
//! Folder and lock, keys, journal, books; then the services and pages on one port. Nothing is served before the whole
//! journal has been replayed.

use std::path::PathBuf;
use std::sync::Arc;

use daemon::config::{Loaded, Sources};
use daemon::serve::{App, Bound};
use daemon::token::{self, OperatorToken};
use daemon::{DataFolder, Exit, Failure, Health, Metrics, Shutdown};
use swarm_proto::id::ServerId;
use swarm_proto::pb::FILE_DESCRIPTOR_SET;

use crate::books::{self, Books};
use crate::caller::Doorkeeper;
use crate::config::Config;
use crate::journal::{self, Journal};
use crate::secret::WebhookSecrets;
use crate::services::{self, Context, Counters};
use crate::vault::Keys;
use crate::{page, refusals, till};

/// The name given to publishers that the configuration admits.
const CONFIGURED: &str = "from the configuration";

/// A keyserver that is about to serve.
#[derive(Debug, Clone)]
pub struct Ready {
    /// Where it can be reached from this machine.
    pub url: String,
    /// Its id.
    pub id: ServerId,
}

/// Runs a keyserver until it is asked to stop; `announce` is told when it is ready.
pub async fn run(
    data: PathBuf,
    sources: &Sources,
    shutdown: Shutdown,
    announce: impl FnOnce(&Ready) -> std::io::Result<()>,
) -> anyhow::Result<Exit> {
    let Loaded { settings: config, .. } = sources.load::<Config>()?;
    let folder = DataFolder::open(data)?;
    let metrics = Metrics::new("keyserver", env!("CARGO_PKG_VERSION"));
    let health = Health::new();

    let bound = Bound::bind(&config.server, &folder).await?;
    let (keys, books) = open(&config, &folder, &metrics, &health, &shutdown)?;
    for publisher in &config.publishers {
        let admitted = books.admit_publisher(*publisher, CONFIGURED.to_owned()).await.map_err(Failure::from)?;
        admitted.map_err(|refusal| refusals::admit(&refusal))?;
    }
    if config.trusted_trackers.is_empty() {
        tracing::warn!("no tracker is trusted, so no device can buy; set trusted_trackers");
    }

    let ready = Ready { url: bound.url(), id: keys.server() };
    let doorkeeper = Doorkeeper::new(ready.id, config.trusted_trackers.iter().copied());
    let token = OperatorToken::open_or_create(&folder.file(token::FILE))?;
    let counters = Counters::new(&metrics);
    let context = Context { books: books.clone(), keys: Arc::new(keys), doorkeeper, counters };
    let web = page::routes(&config.name, ready.id, books)
        .merge(till::routes(context.clone(), WebhookSecrets::new(folder.path())));
    let grpc = services::routes(&context, &config, &token);
    let app = App { grpc, web, descriptors: FILE_DESCRIPTOR_SET, health, metrics };

    folder.note_endpoint(&ready.url)?;
    // The port is taken already: whoever comes before it is served waits a moment.
    announce(&ready)?;
    bound.serve(app, shutdown.token()).await?;
    Ok(shutdown.drain().await)
}

/// Reads keys and journal, and starts to keep the books.
fn open(
    config: &Config,
    folder: &DataFolder,
    metrics: &Metrics,
    health: &Health,
    shutdown: &Shutdown,
) -> Result<(Keys, Books), Failure> {
    let path = folder.file(journal::FILE);
    let has_journal =
        path.try_exists().map_err(|error| Failure::io(format!("cannot look at {}", path.display()), &error))?;
    // The token is made after the journal: where it is, there has been a journal.
    if !has_journal && folder.file(token::FILE).exists() {
        return Err(Failure::new(Exit::Integrity, "E-AUDIT-03", format!("the journal {} is missing", path.display()))
            .why("this keyserver has run before, and a new journal would forget every order")
            .hint("put it back from a backup; to begin anew, take another data folder"));
    }
    let keys = Keys::open(folder, has_journal)?;
    if !has_journal {
        Journal::create(&path, keys.header())?;
    }
    let check = health.check("journal", "free space where the keyserver keeps its data");
    let counters = books::Counters::new(metrics);
    let owned = |header: &journal::Header| keys.check_header(folder, header);
    let books = Books::open(&path, config.ledger(), owned, counters, check, shutdown)?;
    Ok((keys, books))
}
