//! `peer-node publish` and `peer-node publisher`: a file becomes a title.
//!
//! Sealing happens in this process, beside the device that runs on the data folder; that device then takes the sealed
//! item over. Whatever interrupts it, the same command again goes on.

use std::fs::File;
use std::io::Read;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context as _;
use async_trait::async_trait;
use clap::{Args, Subcommand};
use daemon::client;
use daemon::data_folder::DataFolder;
use daemon::exit::{Exit, Failure};
use daemon::{logs, secrets, units};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use swarm_proto::catalog::{CatalogEntry, Region};
use swarm_proto::cpix::{self, KeyId};
use swarm_proto::id::ItemId;
use swarm_proto::pb::node::AdoptItemRequest;
use swarm_proto::seal::ContentKey;
use swarm_proto::signed::Signed;
use swarm_proto::time::Utc;
use zeroize::Zeroizing;

use super::daemon_client::{self, Device};
use super::{Global, show};
use crate::config::{AUTO, Config};
use crate::identity::{Enrolment, Identity};
use crate::publish::{self, Adoption, Outlets, Progress, Published, Publisher, Request, Watcher};
use crate::{clock, tracker_link};

/// Off a terminal a line is printed whenever this much more of the file is sealed.
const LINE_EVERY_PERCENT: u64 = 10;

/// Context under which the key that wraps unfinished jobs follows from a publisher's signing key.
const JOB_KEY_CONTEXT: &str = "reelswarm v1 publisher job key";

#[derive(Args)]
pub(super) struct PublishArgs {
    /// The media file
    file: PathBuf,
    /// What people will see
    #[arg(long, value_name = "NAME")]
    title: String,
    /// Some lines about it
    #[arg(long, default_value = "", hide_default_value = true)]
    description: String,
    /// What it costs: rent:2.99EUR:48h, buy:9.99EUR or pass:1, with :drip at the end if its keys are to leave while it
    /// plays; may be given several times
    #[arg(long, value_name = "OFFER")]
    offer: Vec<String>,
    /// How much of its beginning is free, such as 5m
    #[arg(long, value_name = "TIME")]
    preview: Option<units::Duration>,
    /// A small picture: JPEG, PNG or WebP, at most 32 KiB
    #[arg(long, value_name = "FILE")]
    poster: Option<PathBuf>,
    /// Youngest age that may watch
    #[arg(long, value_name = "YEARS", default_value_t = 0)]
    rating_age: u32,
    /// Country in which it is offered, such as DE; may be given several times [default: everywhere]
    #[arg(long, value_name = "COUNTRY")]
    region: Vec<Region>,
    /// Date of its first showing, such as 2026-11-22 [default: now]
    #[arg(long, value_name = "DATE")]
    released: Option<Utc>,
    /// Seal it with the key that a studio has made, from this CPIX document [default: a fresh key]
    #[arg(long, value_name = "FILE")]
    cpix: Option<PathBuf>,
    /// Which key of the document, if it has several
    #[arg(long, value_name = "KID", requires = "cpix")]
    kid: Option<KeyId>,
    #[command(flatten)]
    publisher: KeyArgs,
    /// Where the tracker is [default: as configured]
    #[arg(long, value_name = "URL")]
    tracker: Option<String>,
    /// Where the key goes [default: as configured, or as the tracker says]
    #[arg(long, value_name = "URL")]
    keyserver: Option<String>,
}

#[derive(Args)]
pub(super) struct KeyArgs {
    /// File with the publisher's signing key, made if it does not exist [default: one of the data folder]
    #[arg(long, value_name = "FILE")]
    publisher_key: Option<PathBuf>,
}

#[derive(Subcommand)]
pub(super) enum PublisherCommand {
    /// Print the id that operators admit; makes the key if there is none
    Id(KeyArgs),
}

/// The end of a publication, as `--json` prints it.
#[derive(Serialize)]
struct Answer {
    state: &'static str,
    title: String,
    item: String,
    name: String,
    plain_len: u64,
    sealed_len: u64,
    n_chunks: u64,
    already: bool,
    resumed_bytes: u64,
    held: bool,
    publisher: String,
    hint: Option<String>,
}

pub(super) fn run_publisher(global: &Global, command: PublisherCommand) -> anyhow::Result<Exit> {
    let PublisherCommand::Id(args) = command;
    let publisher = args.open(&prepared_folder(global)?)?;
    let id = publisher.id().to_string();
    global.print(&serde_json::json!({ "publisher": id }), || format!("{id}\n"))
}

pub(super) async fn run(global: &Global, args: PublishArgs) -> anyhow::Result<Exit> {
    logs::init(&global.logs)?;
    let config = global.settings()?;
    let data = prepared_folder(global)?;
    let publisher = args.publisher.open(&data)?;
    let offers = args.offer.iter().map(|offer| publish::parse_offer(offer)).collect::<Result<Vec<_>, _>>()?;
    let mut regions = args.region;
    regions.sort_unstable();
    regions.dedup();
    let request = Request {
        data: data.clone(),
        source: args.file,
        name: args.title,
        description: args.description,
        offers,
        preview: args.preview.map(|preview| preview.get()),
        poster: args.poster,
        rating_age: args.rating_age,
        regions,
        released: args.released.unwrap_or_else(clock::utc),
        key: args.cpix.map(|document| studio_key(&document, args.kid)).transpose()?,
    };
    let outlets = Servers { config, data, tracker: args.tracker, keyserver: args.keyserver };
    let published = publish::run(request, &publisher, &outlets, watcher(global)).await?;
    report(global, &publisher, &published)
}

/// A key of a studio's document: the one of this name, or the only one.
fn studio_key(path: &Path, kid: Option<KeyId>) -> Result<ContentKey, Failure> {
    let mut document = Zeroizing::new(String::new());
    let failed = |error| Failure::io(format!("cannot read {}", path.display()), &error);
    let file = File::open(path).map_err(failed)?;
    file.take(cpix::MAX_DOCUMENT_BYTES as u64 + 1).read_to_string(&mut document).map_err(failed)?;
    let keys = cpix::read(&document).map_err(|error| {
        Failure::new(Exit::Usage, "E-CPIX-05", format!("{} gives no key", path.display()))
            .why(error)
            .hint("ask the studio for a CPIX 2 document with its keys in clear")
    })?;
    let mut fitting = keys.into_iter().filter(|key| kid.is_none_or(|kid| kid == key.kid));
    match (fitting.next(), fitting.next()) {
        (Some(only), None) => Ok(only.key),
        (None, _) => Err(Failure::new(Exit::NotFound, "E-CPIX-06", format!("{} has no such key", path.display()))
            .hint("name another with --kid")),
        (Some(_), Some(_)) => {
            Err(Failure::new(Exit::Usage, "E-CPIX-07", format!("{} has several keys", path.display()))
                .hint("name the one for this file with --kid"))
        }
    }
}

/// The data folder, made and checked, and not held: a device may run on it.
fn prepared_folder(global: &Global) -> Result<PathBuf, Failure> {
    let path = global.data_folder()?;
    match daemon_client::running(&path)? {
        Some(inspection) => Ok(inspection.path().to_owned()),
        None => Ok(DataFolder::open(path)?.path().to_owned()),
    }
}

impl KeyArgs {
    fn open(&self, data: &Path) -> anyhow::Result<Publisher> {
        let Some(path) = &self.publisher_key else { return Publisher::open_or_create(data) };
        let signing = secrets::read_or_create_key(path)?;
        let job_key = Zeroizing::new(blake3::derive_key(JOB_KEY_CONTEXT, signing.as_slice()));
        Publisher::of_keys(signing.as_slice(), job_key.as_slice()).context("the publisher's key is not a key")
    }
}

/// Those who hear of the title: keyserver, the device of this data folder, tracker.
struct Servers {
    config: Config,
    data: PathBuf,
    tracker: Option<String>,
    keyserver: Option<String>,
}

impl Servers {
    fn tracker_url(&self) -> Result<String, Failure> {
        if let Some(url) = &self.tracker {
            return Ok(url.clone());
        }
        let enrolled = || {
            let identity = Identity::open_or_create(&self.data)?;
            Ok(Enrolment::open(&self.data, &identity)?.current())
        };
        let enrolled = enrolled().map_err(|error: anyhow::Error| Failure::of(&error))?;
        Ok(tracker_link::url_of(&self.config.tracker, enrolled.as_deref()))
    }

    async fn keyserver_url(&self) -> Result<String, Failure> {
        if let Some(url) = &self.keyserver {
            return Ok(url.clone());
        }
        if self.config.keyserver.url != AUTO {
            return Ok(self.config.keyserver.url.clone());
        }
        let tracker = self.tracker_url()?;
        let channel = client::connect(&tracker, &self.config.tracker.trust()).await?;
        let info = tracker_link::tracker_info(channel).await.map_err(|error| Failure::of(&error))?;
        if info.keyserver_url.is_empty() {
            return Err(Failure::new(Exit::Config, "E-PUBLISH-20", "it is not known where the key should go")
                .why(format!("the tracker at {tracker} names no keyserver"))
                .hint("name it: --keyserver URL"));
        }
        Ok(info.keyserver_url)
    }
}

#[async_trait]
impl Outlets for Servers {
    async fn deposit(&self, entry: &Signed<CatalogEntry>, key: &ContentKey) -> Result<(), Failure> {
        let url = self.keyserver_url().await?;
        let channel = client::connect(&url, &self.config.keyserver.trust()).await?;
        publish::deposit(&url, channel, entry, key).await
    }

    async fn adopt(&self, item: ItemId) -> Result<Adoption, Failure> {
        let Some(inspection) = daemon_client::running(&self.data)? else { return Ok(Adoption::AtNextStart) };
        let mut device = Device::connect(&inspection).await?;
        let request = AdoptItemRequest { item: item.to_vec() };
        device.client.adopt_item(request).await.map_err(|status| device.failure(&status))?;
        Ok(Adoption::Held)
    }

    async fn announce(&self, entry: &Signed<CatalogEntry>) -> Result<(), Failure> {
        let url = self.tracker_url()?;
        let channel = client::connect(&url, &self.config.tracker.trust()).await?;
        publish::announce(&url, channel, entry).await
    }
}

fn report(global: &Global, publisher: &Publisher, published: &Published) -> anyhow::Result<Exit> {
    let held = published.adoption == Some(Adoption::Held);
    let answer = Answer {
        state: if published.already { "already published" } else { "published" },
        title: published.title.to_string(),
        item: published.item.to_string(),
        name: published.name.clone(),
        plain_len: published.plain_len,
        sealed_len: published.sealed_len,
        n_chunks: published.sealed_len.div_ceil(swarm_proto::geometry::CHUNK_BYTES),
        already: published.already,
        resumed_bytes: published.resumed_bytes,
        held,
        publisher: publisher.id().to_string(),
        hint: published.hint.clone(),
    };
    global.print(&answer, || {
        let name = show::text(&published.name);
        let mut text = match published.already {
            true => format!("already published as \"{name}\"\n"),
            false => {
                format!("published \"{name}\": {} in {} chunks\n", show::bytes(published.plain_len), answer.n_chunks)
            }
        };
        text += &format!("  title  {}\n  item   {}\n", answer.title, answer.item);
        if published.adoption == Some(Adoption::AtNextStart) {
            text += "  no device runs on this data folder; it is passed on from the next `peer-node run`\n";
        }
        if let Some(hint) = &published.hint {
            text += &format!("  hint   {hint}\n");
        }
        text
    })
}

/// Shows progress in the way that fits who looks; never stops the work.
fn watcher(global: &Global) -> Watcher {
    let display: Box<dyn FnMut(Progress) + Send> = match (global.json, global.is_watched()) {
        (true, _) => Box::new(objects()),
        (false, true) => Box::new(bar()),
        (false, false) => Box::new(lines()),
    };
    let display = Mutex::new(display);
    Arc::new(move |progress| {
        (display.lock().unwrap_or_else(PoisonError::into_inner))(progress);
        ControlFlow::Continue(())
    })
}

fn bar() -> impl FnMut(Progress) + Send {
    let style = ProgressStyle::with_template("{prefix} {wide_bar} {bytes}/{total_bytes}  {bytes_per_sec}");
    let bar = ProgressBar::new(0).with_style(style.expect("the template is well-formed").progress_chars("━╸─"));
    move |progress| match progress {
        Progress::Comparing { done, total } | Progress::Sealing { done, total } => {
            bar.set_prefix(stage(progress));
            bar.set_length(total);
            bar.set_position(done);
        }
        Progress::Depositing | Progress::Adopting | Progress::Announcing => {
            bar.finish_and_clear();
            eprintln!("{} …", stage(progress));
        }
    }
}

fn lines() -> impl FnMut(Progress) + Send {
    let mut said = None;
    move |progress| {
        let step = (stage(progress), percent(progress).map(|percent| percent / LINE_EVERY_PERCENT));
        if said.replace(step) != Some(step) {
            match percent(progress) {
                Some(percent) => eprintln!("{}: {percent} %", stage(progress)),
                None => eprintln!("{}", stage(progress)),
            }
        }
    }
}

fn objects() -> impl FnMut(Progress) + Send {
    let mut said = None;
    move |progress| {
        let step = (stage(progress), percent(progress).map(|percent| percent / LINE_EVERY_PERCENT));
        if said.replace(step) != Some(step) {
            println!("{}", serde_json::json!({ "state": stage(progress), "percent": percent(progress) }));
        }
    }
}

fn stage(progress: Progress) -> &'static str {
    match progress {
        Progress::Comparing { .. } => "comparing",
        Progress::Sealing { .. } => "sealing",
        Progress::Depositing => "depositing the key",
        Progress::Adopting => "handing over",
        Progress::Announcing => "announcing",
    }
}

fn percent(progress: Progress) -> Option<u64> {
    match progress {
        Progress::Comparing { done, total } | Progress::Sealing { done, total } => (done * 100).checked_div(total),
        Progress::Depositing | Progress::Adopting | Progress::Announcing => None,
    }
}
