//! The swarm of the demo: who is in it, and how it is set up.
//!
//! Every device belongs to a customer of its own, so that sharing between boxes is sharing between strangers.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde_json::Value;

use super::Original;
use super::node::{Names, Node};
use super::process::{Daemon, Role, Settings, run};

/// What renting a title costs here.
pub(super) const OFFER: &str = "rent:2.99EUR:48h";
pub(super) const PRICE_MINOR: u64 = 299;
pub(super) const CURRENCY: &str = "EUR";

const ANY_PORT: &str = "127.0.0.1:0";

/// All processes of the demo.
pub(super) struct World {
    pub(super) folder: PathBuf,
    pub(super) tracker: Daemon,
    pub(super) keyserver: Daemon,
    pub(super) seed: Daemon,
    pub(super) boxes: Vec<Daemon>,
    /// Names of the devices by id.
    pub(super) names: Names,
    /// Accounts of the boxes, in their order.
    accounts: Vec<String>,
    publisher_key: PathBuf,
}

impl World {
    /// Starts tracker, keyserver, one seed and the boxes, and enrols them.
    pub(super) async fn start(folder: &Path, boxes: usize) -> anyhow::Result<World> {
        // The keyserver trusts the tracker's memberships and the tracker names the keyserver: the tracker's id is made
        // before it runs.
        let tracker_data = folder.join("tracker");
        let id = run(Role::Tracker, folder, &tracker_data, &["id"]).await?.ok()?;
        let trusted = ("trusted_trackers", format!("[\"{}\"]", text(&id, "id")?));
        let any_port = ("server.listen", ANY_PORT.to_owned());
        let keyserver =
            Daemon::start(Role::Keyserver, "keyserver", &folder.join("keyserver"), vec![any_port.clone(), trusted])
                .await?;
        let named = ("keyserver_url", keyserver.url.trim_end_matches('/').to_owned());
        let tracker = Daemon::start(Role::Tracker, "tracker", &tracker_data, vec![any_port, named]).await?;

        // The publisher's key is not the seed's: it lies in a folder of its own.
        let publisher_data = folder.join("publisher");
        let publisher_key = publisher_data.join("signing.key");
        let args = ["publisher", "id", "--publisher-key", &publisher_key.to_string_lossy()];
        let publisher = run(Role::PeerNode, folder, &publisher_data, &args).await?.ok()?;
        let publisher = text(&publisher, "publisher")?;
        tracker.command(&["publisher", "add", &publisher, "--name", "Demo pictures"]).await?.ok()?;
        keyserver.command(&["publisher", "add", &publisher, "--name", "Demo pictures"]).await?.ok()?;

        let (seed, _) = device(folder, &tracker, "seed", "seed", "isp", Vec::new()).await?;
        // Box 1 will have to find its way back without a tracker.
        let status = Node::of(&seed).await?.status().await?;
        let address = status.listening.first().context("the seed listens nowhere")?;
        let bootstrap = ("net.bootstrap", format!("[\"{address}/p2p/{}\"]", status.peer_id));
        let mut world = World {
            folder: folder.to_path_buf(),
            names: BTreeMap::from([(seed.id.clone(), "seed".to_owned())]),
            tracker,
            keyserver,
            seed,
            boxes: Vec::new(),
            accounts: Vec::new(),
            publisher_key,
        };
        for n in 1..=boxes {
            let name = format!("box {n}");
            let settings = vec![bootstrap.clone()];
            let (new, account) = device(folder, &world.tracker, &name, "box", &format!("home {n}"), settings).await?;
            world.names.insert(new.id.clone(), name);
            world.boxes.push(new);
            world.accounts.push(account);
        }
        Ok(world)
    }

    /// Publishes a file through the seed. Gives back what `publish` printed last.
    pub(super) async fn publish(&self, original: &Original) -> anyhow::Result<Value> {
        let (file, key) = (original.file.to_string_lossy(), self.publisher_key.to_string_lossy());
        let args = ["publish", &file, "--title", &original.name, "--offer", OFFER, "--publisher-key", &key];
        self.seed.command(&args).await?.ok()
    }

    /// A box by its number, from 1.
    pub(super) fn number(&self, n: usize) -> &Daemon {
        &self.boxes[n - 1]
    }

    pub(super) fn number_mut(&mut self, n: usize) -> &mut Daemon {
        &mut self.boxes[n - 1]
    }

    /// The account that a box belongs to, by its number from 1.
    pub(super) fn account(&self, n: usize) -> anyhow::Result<&str> {
        self.accounts.get(n - 1).map(String::as_str).with_context(|| format!("there is no box {n}"))
    }

    /// The control service of a box, by its number from 1.
    pub(super) async fn node(&self, n: usize) -> anyhow::Result<Node> {
        Node::of(self.number(n)).await
    }

    /// Makes a customer and a code with which one device of theirs can enrol.
    pub(super) async fn invite(&self, kind: &str, customer: &str) -> anyhow::Result<String> {
        invite(&self.tracker, kind, customer).await
    }

    /// Where a person can look.
    pub(super) fn links(&self) -> BTreeMap<String, String> {
        let mut links = BTreeMap::new();
        for daemon in [&self.tracker, &self.keyserver] {
            links.insert(daemon.name.clone(), daemon.url.clone());
        }
        for daemon in std::iter::once(&self.seed).chain(&self.boxes) {
            links.insert(daemon.name.clone(), format!("{}/tv", daemon.url.trim_end_matches('/')));
        }
        links
    }

    /// The most memory that the seed and the boxes that run have had resident since they last started, bytes.
    pub(super) fn peak_memory_of_boxes(&self) -> anyhow::Result<BTreeMap<String, u64>> {
        let nodes = std::iter::once(&self.seed).chain(&self.boxes).filter(|daemon| daemon.is_running());
        nodes.map(|daemon| Ok((daemon.name.clone(), daemon.peak_memory()?))).collect()
    }

    /// Every data folder.
    pub(super) fn data_folders(&self) -> Vec<&Path> {
        let daemons = [&self.tracker, &self.keyserver, &self.seed].into_iter().chain(&self.boxes);
        daemons.map(|d| d.data.as_path()).collect()
    }

    /// Stops everything in order, gracefully.
    pub(super) async fn stop(&mut self) -> anyhow::Result<()> {
        for daemon in self.boxes.iter_mut().chain([&mut self.seed, &mut self.keyserver, &mut self.tracker]) {
            daemon.stop().await?;
        }
        Ok(())
    }
}

async fn invite(tracker: &Daemon, kind: &str, customer: &str) -> anyhow::Result<String> {
    tracker.command(&["customer", "add", customer]).await?.ok()?;
    let invite = tracker.command(&["device", "invite", customer, "--kind", kind]).await?.ok()?;
    text(&invite, "code")
}

/// Enrols and starts a device. Gives back its account too.
async fn device(
    folder: &Path,
    tracker: &Daemon,
    name: &str,
    kind: &str,
    customer: &str,
    mut settings: Settings,
) -> anyhow::Result<(Daemon, String)> {
    let code = invite(tracker, kind, customer).await?;
    let data = folder.join(name.replace(' ', "-"));
    let args = ["enrol", &code, "--tracker", tracker.url.trim_end_matches('/'), "--name", name];
    let enrolled = run(Role::PeerNode, folder, &data, &args).await?.ok()?;
    settings.extend([
        ("name", name.to_owned()),
        ("server.listen", ANY_PORT.to_owned()),
        ("net.listen", "[\"/ip4/127.0.0.1/tcp/0\"]".to_owned()),
    ]);
    let daemon = Daemon::start(Role::PeerNode, name, &data, settings).await?;
    Ok((daemon, text(&enrolled, "account")?))
}

/// A text field of a JSON object that a command printed.
pub(super) fn text(value: &Value, key: &str) -> anyhow::Result<String> {
    value[key].as_str().map(str::to_owned).with_context(|| format!("no {key} in {value}"))
}
