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
use swarm_proto::keyserver::cashier as cashier_machine;
use swarm_proto::pb::FILE_DESCRIPTOR_SET;
use tokio::sync::mpsc;

use crate::anchor::{self, Anchor};
use crate::books::{self, Books, Setting, Watched};
use crate::caller::Doorkeeper;
use crate::cashier::{self, Detours};
use crate::checkout::{self, Checkout};
use crate::config::{self, Config};
use crate::gateway::Gateways;
use crate::gateway::bill::BillDesk;
use crate::gateway::pass::PassDesk;
use crate::gateway::stripe::Stripe;
use crate::gateway::till::TillDesk;
use crate::journal::Journal;
use crate::journal::shelf::Shelf;
use crate::secret::WebhookSecrets;
use crate::services::keys::Locksmith;
use crate::services::{self, Context, Counters};
use crate::vault::Keys;
use crate::vault::ring::KeyRing;
use crate::witnesses::Witnesses;
use crate::{console, page, provider_hook, refusals, till};

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
    accept_rollback: bool,
    shutdown: Shutdown,
    announce: impl FnOnce(&Ready) -> std::io::Result<()>,
) -> anyhow::Result<Exit> {
    let Loaded { settings: config, .. } = sources.load::<Config>()?;
    let folder = DataFolder::open(data)?;
    let metrics = Metrics::new("keyserver", env!("CARGO_PKG_VERSION"));
    let health = Health::new();

    let bound = Bound::bind(&config.server, &folder).await?;
    let (keys, books) = open(&config, &folder, accept_rollback, &metrics, &health, &shutdown)?;
    for publisher in &config.publishers {
        let admitted = books.admit_publisher(*publisher, CONFIGURED.to_owned()).await.map_err(Failure::from)?;
        admitted.map_err(|refusal| refusals::admit(&refusal))?;
    }
    if config.trusted_trackers.is_empty() {
        tracing::warn!("no tracker is trusted, so no device can buy; set trusted_trackers");
    }

    let ready = Ready { url: bound.url(), id: keys.now().server() };
    // The journal keeps the name of the key it was begun with.
    let founder = keys.now().lineage.founder();
    shutdown.spawn(anchor::follow(anchor::path_of(folder.path()), founder, books.head(), shutdown.clone()));
    let witnesses = Witnesses::new(health.check("clock of the boxes", "set the clock of this machine"));
    let doorkeeper = Doorkeeper::new(Arc::clone(&keys), config.trusted_trackers.iter().copied(), witnesses);
    let token = OperatorToken::open_or_create(&folder.file(token::FILE))?;
    let counters = Counters::new(&metrics);
    let context = Context { books: books.clone(), keys, doorkeeper, counters };
    let secrets = WebhookSecrets::new(folder.path());
    let desks = open_desks(&config, &context, &secrets, &ready.url, &shutdown)?;
    let locksmith = Locksmith::new(folder.path(), &context);
    let mut web = page::routes(&config.name, Arc::clone(&context.keys), books.clone())
        .merge(till::routes(context.clone(), secrets))
        .merge(desks.pages.routes())
        .merge(console::routes(
            &config.name,
            books.clone(),
            desks.gateways.clone(),
            token.clone(),
            ready.url.starts_with("https://"),
        ));
    if let Some(stripe) = desks.gateways.stripe.clone() {
        web = web.merge(provider_hook::routes(stripe, books, context.counters.clone()));
    }
    let grpc = services::routes(&context, &config, &desks.gateways, desks.pages, locksmith, &token);
    let app = App { grpc, web, descriptors: FILE_DESCRIPTOR_SET, health, metrics };

    folder.note_endpoint(&ready.url)?;
    // The port is taken already: whoever comes before it is served waits a moment.
    announce(&ready)?;
    bound.serve(app, shutdown.token()).await?;
    Ok(shutdown.drain().await)
}

/// Where people pay.
struct Desks {
    gateways: Gateways,
    pages: Checkout,
}

/// Sets up the ways to pay and their pages, and starts to ask providers.
fn open_desks(
    config: &Config,
    context: &Context,
    secrets: &WebhookSecrets,
    url: &str,
    shutdown: &Shutdown,
) -> Result<Desks, Failure> {
    let Context { books, keys, counters, .. } = context;
    let offers = config.passes.iter().map(config::PassKind::offer).collect::<Result<Vec<_>, _>>();
    let offers = offers.map_err(|invalid| {
        Failure::new(Exit::Config, "E-KEYSERVER-04", "a kind of pass cannot be sold").why(invalid.why)
    })?;
    let public_url = config.checkout.public_url.as_deref();
    let return_to = public_url.map(|url| format!("{}{}", url.trim_end_matches('/'), checkout::RETURN));
    let (nudge, nudges) = mpsc::channel(cashier::NUDGES);
    let stripe = Stripe::open(&config.stripe, return_to, books.clone(), nudge)?.map(Arc::new);
    let detours = Detours::default();
    if let Some(stripe) = stripe.clone() {
        let pace = cashier_machine::Config { at_a_time: config.stripe.at_a_time, ..Default::default() };
        cashier::start(pace, stripe, books.clone(), counters.clone(), detours.clone(), nudges, shutdown);
    }
    let gateways = Gateways {
        pass: Arc::new(PassDesk::new(books.clone(), Arc::clone(keys), counters.clone())),
        bill: Arc::new(BillDesk::new(books.clone())),
        till: Arc::new(TillDesk::new(books.clone(), secrets.clone(), config.checkout.till_url.clone())),
        stripe,
    };
    let pages = Checkout::new(
        &config.name,
        books.clone(),
        Arc::clone(keys),
        gateways.clone(),
        offers,
        detours,
        config.checkout.link_valid.get(),
        public_url.unwrap_or(url),
    );
    Ok(Desks { gateways, pages })
}

/// Reads keys and journal, and starts to keep the books.
fn open(
    config: &Config,
    folder: &DataFolder,
    accept_rollback: bool,
    metrics: &Metrics,
    health: &Health,
    shutdown: &Shutdown,
) -> Result<(Arc<KeyRing>, Books), Failure> {
    let shelf = Shelf::new(folder.path());
    let path = shelf.live();
    let cannot_look = |error: std::io::Error| Failure::io(format!("cannot look at {}", path.display()), &error);
    let has_journal = path.try_exists().map_err(cannot_look)?;
    // The token is made after the journal: where it is, there has been a journal.
    if !has_journal && (folder.file(token::FILE).exists() || shelf.has_any().map_err(cannot_look)?) {
        return Err(Failure::new(Exit::Integrity, "E-AUDIT-03", format!("the journal {} is missing", path.display()))
            .why("this keyserver has run before, and a new journal would forget every order")
            .hint("put it back from a backup; to begin anew, take another data folder"));
    }
    let keys = KeyRing::new(Keys::open(folder, has_journal, &config.vault.master_command)?);
    if !has_journal {
        Journal::create(&path, keys.now().header())?;
    }
    let watched = Watched {
        counters: books::Counters::new(metrics),
        journal: health.check("journal", "free space where the keyserver keeps its data"),
        clock: health.check("clock", "set the clock of this machine"),
    };
    let setting = Setting {
        shelf,
        config: config.ledger(),
        volume_bytes: config.journal.volume.0,
        forget_unpaid_after: config.journal.forget_unpaid_after.get(),
        keys: Arc::clone(&keys),
        anchor: Anchor::read(&anchor::path_of(folder.path()))?,
        accept_rollback,
    };
    Ok((keys, Books::open(setting, watched, shutdown)?))
}
