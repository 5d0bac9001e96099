//! How the parts of a running tracker hang together.
//!
//! Folder and lock, keys, store, state; then the services and pages on one port. Nothing is served before everything
//! that was written down has been read.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use daemon::config::{Loaded, Sources};
use daemon::serve::{App, Bound};
use daemon::store::Sled;
use daemon::token::{self, OperatorToken};
use daemon::{DataFolder, Exit, Failure, Health, Metrics, Shutdown, secrets};
use swarm_proto::id::ServerId;
use swarm_proto::pb::FILE_DESCRIPTOR_SET;
use swarm_proto::signed::SigningKey;

use crate::auth::Auth;
use crate::config::Config;
use crate::services::{self, Shared};
use crate::state::{self, Parts};
use crate::{page, refusal};

/// The file with the Ed25519 key that signs memberships and tickets.
const IDENTITY: &str = "identity.key";

/// The file with the key that only members hold.
const SWARM_KEY: &str = "swarm.key";

/// The folder of the store.
const STORE: &str = "store";

/// A tracker that is about to serve.
#[derive(Debug, Clone)]
pub struct Ready {
    /// Where it can be reached from this machine.
    pub url: String,
    /// Its id.
    pub id: ServerId,
}

/// Runs a tracker until it is asked to stop; `announce` is told when it is ready.
pub async fn run(
    data: PathBuf,
    sources: &Sources,
    shutdown: Shutdown,
    announce: impl FnOnce(&Ready) -> std::io::Result<()>,
) -> anyhow::Result<Exit> {
    let Loaded { settings: config, .. } = sources.load::<Config>()?;
    let folder = DataFolder::open(data)?;
    let metrics = Metrics::new("tracker", env!("CARGO_PKG_VERSION"));
    let health = Health::new();

    let bound = Bound::bind(&config.server, &folder).await?;
    let key = identity(&folder.file(IDENTITY))?;
    let ready = Ready { url: bound.url(), id: key.server_id() };
    let parts = Parts {
        config: config.clone(),
        store: Arc::new(Sled::open(folder.folder(STORE)?).await?),
        key,
        swarm_key: *secrets::read_or_create_key(&folder.file(SWARM_KEY))?,
        health: health.clone(),
        metrics: metrics.clone(),
    };
    let state = state::start(parts, &shutdown).await?;

    let token = OperatorToken::open_or_create(&folder.file(token::FILE))?;
    let shared = Shared {
        auth: Auth::new(ready.id, token),
        state: state.clone(),
        server: ready.id,
        name: config.name.as_str().into(),
        keyserver_url: config.keyserver_url.as_str().into(),
        shutdown: shutdown.clone(),
    };
    let app = App {
        grpc: services::routes(shared),
        web: page::routes(state, config.name, ready.url.starts_with("https://")),
        descriptors: FILE_DESCRIPTOR_SET,
        health,
        metrics,
    };

    folder.note_endpoint(&ready.url)?;
    // The port is taken already: whoever comes before it is served waits a moment.
    announce(&ready)?;
    bound.serve(app, shutdown.token()).await?;
    Ok(shutdown.drain().await)
}

/// Who the tracker of a data folder is, or will be: its key is made if there is none, so that others can be told
/// before it runs.
pub fn id_of(data: &Path) -> Result<ServerId, Failure> {
    let exists =
        data.try_exists().map_err(|error| Failure::io(format!("cannot look at {}", data.display()), &error))?;
    let path = match exists {
        true => DataFolder::inspect(data)?.file(IDENTITY),
        false => DataFolder::open(data)?.file(IDENTITY),
    };
    Ok(identity(&path)?.server_id())
}

fn identity(path: &Path) -> Result<SigningKey, Failure> {
    let key = secrets::read_or_create_key(path)?;
    SigningKey::from_bytes(key.as_slice()).ok_or_else(|| refusal::not_a_key(path))
}
