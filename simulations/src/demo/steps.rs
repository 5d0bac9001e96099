//! The steps of the demo, in order; each does one thing for real and checks it.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use daemon::{Exit, Shutdown};
use peer_node::status::{books_balance, bytes_by_kind};
use serde_json::Value;
use swarm_proto::pb::node::TitleState;
use swarm_proto::seal::Released;

use super::device::Device;
use super::leaks::{Leak, Search, hex};
use super::liar::Liar;
use super::node::{Node, arrived, bytes_from, fetch, play_and_compare};
use super::process::Daemon;
use super::report::{Findings, Report};
use super::world::{World, text};
use super::{Options, Original, till};

/// A download that takes longer than this has gone wrong, whatever its size: 1 GiB takes seconds here.
const ARRIVES_WITHIN: Duration = Duration::from_secs(180);
/// Buying has to fail this fast when nobody answers.
const SAYS_SO_WITHIN: Duration = Duration::from_secs(3);
/// What waited for the keyserver has to happen so soon after it is back.
const SETTLES_WITHIN: Duration = Duration::from_secs(15);
/// How often a keyserver is asked for what is awaited.
const ASK_EVERY: Duration = Duration::from_millis(100);
/// How fast box 3 may fetch while servers are stopped around it, so that there is a middle to stop them in.
const UNHURRIED: &str = "12 MiB/s";

/// Runs everything and says how it went. When the user asks it to stop, the daemons are stopped all the same before the
/// folder goes.
pub(super) async fn run(
    options: &Options,
    folder: &Path,
    film: &Original,
    shutdown: &Shutdown,
) -> anyhow::Result<Exit> {
    let mut report = Report::new(options.json, options.headless);
    let mut world = World::start(folder, options.boxes).await?;
    for (name, url) in world.links() {
        report.line(&format!("✓ {name:<10} {url}"));
    }
    report.line("");

    let stopped = tokio::select! {
        () = all_steps(&mut world, &mut report, film) => false,
        () = shutdown.requested() => true,
    };
    if stopped {
        world.stop().await?;
        return Ok(shutdown.drain().await);
    }
    let peak_memory = world.peak_memory_of_boxes()?;
    let passed = report.verdict(&world.links(), &peak_memory);
    if !passed && options.keep.is_none() {
        report.line("Logs go with the folder; run again with --keep DIR to read them.");
    }
    if passed && !options.exit {
        report.line("Open a link, press Ctrl-C to stop. Nothing is left behind.");
        shutdown.requested().await;
    }
    world.stop().await?;
    Ok(if passed { Exit::Done } else { Exit::Failed })
}

/// Stops at the first step that fails: the later ones build on it.
async fn all_steps(world: &mut World, report: &mut Report, film: &Original) {
    let name = film.name.as_str();
    let _all_passed = report.step("publish", "sealing the film", publish(world, film)).await
        && report.step("carry", "box 1 fetches it", carry(world, name)).await
        && report.step("share", "box 2 fetches it", share(world, name)).await
        && report.step("no key", "box 2 tries to play", refuse(world, name)).await
        && report.step("pay", "a pass is redeemed", pay(world, film)).await
        && report.step("portions", "the other boxes fetch it", portions(world, name)).await
        && report.step("attack", "a lying peer offers bad chunks", attack(world)).await
        && report.step("no shop", "the keyserver is stopped", keyserver_outage(world)).await
        && report.step("no plan", "the tracker is stopped", tracker_outage(world)).await
        && report.step("sealed", "looking for keys and clear bytes on every disk", sealed(world, film)).await;
}

async fn publish(world: &mut World, film: &Original) -> anyhow::Result<Findings> {
    let begun = Instant::now();
    let published = world.publish(film).await?;
    let took = begun.elapsed();
    let item = text(&published, "item")?;
    check_sealed_file(&world.seed, &item)?;

    let again = world.publish(film).await?;
    ensure!(text(&again, "item")? == item, "publishing the same file twice made two items");

    let chunks = film.len.div_ceil(65_520).div_ceil(16);
    let detail = format!("\"{}\", {chunks} chunks, sealed on the seed; its key is locked in the keyserver", film.name);
    Ok(Findings::say(detail).rate(film.len, took))
}

async fn carry(world: &mut World, name: &str) -> anyhow::Result<Findings> {
    let begun = Instant::now();
    world.number(1).command(&["get", name]).await?.ok()?;
    let took = begun.elapsed();
    let title = world.node(1).await?.until_available(name, ARRIVES_WITHIN).await?;
    let (boxes, seeds) = bytes_by_kind(&title);
    ensure!(boxes == 0 && seeds == title.sealed_len, "box 1 got {boxes} bytes from boxes and {seeds} from the seed");
    check_sealed_file(world.number(1), &hex(&title.item))?;
    Ok(arrived(&title, &world.names, "box 1").rate(title.sealed_len, took))
}

async fn share(world: &mut World, name: &str) -> anyhow::Result<Findings> {
    let begun = Instant::now();
    world.number(2).command(&["get", name]).await?.ok()?;
    let took = begun.elapsed();
    let title = world.node(2).await?.until_available(name, ARRIVES_WITHIN).await?;
    let (boxes, seeds) = bytes_by_kind(&title);
    ensure!(boxes > seeds, "box 2 got {boxes} bytes from box 1 and {seeds} from the seed: it should be mostly box 1");
    check_sealed_file(world.number(2), &hex(&title.item))?;
    Ok(arrived(&title, &world.names, "box 2").rate(title.sealed_len, took))
}

async fn refuse(world: &mut World, name: &str) -> anyhow::Result<Findings> {
    let refused = world.number(2).command(&["play", name]).await?;
    ensure!(refused.exit == i32::from(Exit::Payment.number()), "`play` before paying ended with {}", refused.exit);
    let title = world.node(2).await?.title(name).await?;
    ensure!(!title.playable, "box 2 calls an unpaid title playable");
    let answer = fetch(&play_url(world.number(2), &title.item), None).await?;
    ensure!(answer.status == 402, "an unpaid title answered {}", answer.status);
    let problem: Value = serde_json::from_slice(&answer.short).context("402 without a problem document")?;
    Ok(Findings::say(format!("refused with 402: {}", problem["title"].as_str().unwrap_or("payment required"))))
}

async fn pay(world: &mut World, film: &Original) -> anyhow::Result<Findings> {
    let pass = world.keyserver.command(&["pass", "create", "--credits", "1", "--valid", "1d"]).await?.ok()?;
    let code = text(&pass, "code")?;
    let begun = Instant::now();
    world.number(2).command(&["pay", &film.name, "--pass", &code]).await?.ok()?;
    let unlocked = begun.elapsed();
    let title = world.node(2).await?.until_title(&film.name, SAYS_SO_WITHIN, "a grant", |t| t.playable).await?;
    let took = play_and_compare(&play_url(world.number(2), &title.item), film).await?;

    let twice = world.number(1).command(&["pay", &film.name, "--pass", &code]).await?;
    ensure!(twice.exit != 0, "a pass of one credit was spent twice");
    ensure!(!world.node(1).await?.title(&film.name).await?.playable, "a spent pass released a key");

    let detail = format!(
        "pass redeemed, unlocked in {:.1} s; all {} bytes and 3 Ranges as published",
        unlocked.as_secs_f64(),
        film.len
    );
    Ok(Findings::say(detail).rate(film.len, took))
}

async fn portions(world: &mut World, name: &str) -> anyhow::Result<Findings> {
    let begun = Instant::now();
    let others: Vec<usize> = (3..=world.boxes.len()).collect();
    futures::future::try_join_all(others.iter().map(async |n| world.number(*n).command(&["get", name]).await?.ok()))
        .await?;
    let took = begun.elapsed();
    for n in &others {
        let title = world.node(*n).await?.until_available(name, ARRIVES_WITHIN).await?;
        check_sealed_file(world.number(*n), &hex(&title.item))?;
    }
    let title = world.node(3).await?.title(name).await?;
    let from = bytes_from(&title, &world.names);
    for source in ["box 1", "box 2"] {
        ensure!(from.contains_key(source), "box 3 got nothing from {source}: {from:?}");
    }
    Ok(arrived(&title, &world.names, "box 3").rate(title.sealed_len * others.len() as u64, took))
}

/// Chunks that a source may have been asked for before its first one is judged (`transfers.outstanding_per_source`).
const UNDER_WAY: u64 = 4;

async fn attack(world: &mut World) -> anyhow::Result<Findings> {
    let lantern = Original::noise(&world.folder, "Lantern night", 12)?;
    let published = world.publish(&lantern).await?;
    let item = text(&published, "item")?;
    let code = world.invite("box", "mallory").await?;
    let manifest = std::fs::read(world.seed.data.join("items").join(format!("{item}.manifest")))?;
    let liar = Liar::join(&world.tracker.url, &code, &lantern.name, &manifest).await?;
    world.names.insert(liar.id(), "liar".to_owned());

    world.number(3).command(&["get", &lantern.name]).await?.ok()?;
    let mut node = world.node(3).await?;
    let title = node.until_available(&lantern.name, ARRIVES_WITHIN).await?;
    let banned: Vec<String> = node.status().await?.banned.iter().map(|b| hex(&b.device)).collect();
    ensure!(liar.bad_chunks_sent() > 0, "the liar was never asked: nothing was shown");
    ensure!(banned == [liar.id()], "banned are {banned:?}, the liar is {}", liar.id());
    ensure!(
        title.wasted_bytes <= UNDER_WAY << 20,
        "{} bytes were wasted on the liar, what was under way when the first chunk was found out is enough",
        title.wasted_bytes
    );
    check_sealed_file(world.number(3), &item)?;
    let mut findings = arrived(&title, &world.names, "the liar is banned after 1 bad chunk, the file is bit-exact");
    findings.bytes_from.remove("liar");
    drop(liar);
    Ok(findings)
}

async fn keyserver_outage(world: &mut World) -> anyhow::Result<Findings> {
    let title = Original::noise(&world.folder, "Closing time", 24)?;
    let published = world.publish(&title).await?;
    slow_down(world.number_mut(3)).await?;
    let secret = world.keyserver.command(&["webhook", "secret", "new"]).await?.ok()?;
    let secret = text(&secret, "secret")?;

    world.number(3).command(&["get", &title.name, "--no-wait"]).await?.ok()?;
    let mut node = world.node(3).await?;
    let before = node.until_title(&title.name, ARRIVES_WITHIN, "the first chunks", |t| t.chunks_held > 1).await?;
    ensure!(before.state() != TitleState::Available, "it arrived before the keyserver could be stopped");
    world.keyserver.stop().await?;

    let begun = Instant::now();
    let ordered = world.number(3).command(&["pay", &title.name]).await?.ok()?;
    ensure!(begun.elapsed() < SAYS_SO_WITHIN, "buying took {:?} to say that nobody is there", begun.elapsed());
    ensure!(ordered["playable"] == false, "a title became playable with the keyserver stopped: {ordered}");
    let arrived_without = node.until_available(&title.name, ARRIVES_WITHIN).await?;

    // The box has kept the wish and makes its order by itself; a till hears of the money and says so.
    world.keyserver.start_again().await?;
    let order = latest_order(&world.keyserver, &text(&published, "item")?).await?;
    till::pay(&world.keyserver.url, &secret, &order, world.account(3)?).await?;
    let paid = node.until_title(&title.name, SETTLES_WITHIN, "the grant", |t| t.playable).await?;
    play_and_compare(&play_url(world.number(3), &paid.item), &title).await?;
    let what = "box 3 went on; back again, the kept order is cleared by a till's signed word";
    Ok(arrived(&arrived_without, &world.names, what))
}

async fn tracker_outage(world: &mut World) -> anyhow::Result<Findings> {
    let title = Original::noise(&world.folder, "Long way home", 32)?;
    world.publish(&title).await?;
    world.number(1).command(&["get", &title.name]).await?.ok()?;
    world.number_mut(1).stop().await?;

    // Only the seed can be in box 3's plan now.
    world.number(3).command(&["get", &title.name, "--no-wait"]).await?.ok()?;
    let mut node = world.node(3).await?;
    let begun = node.until_title(&title.name, ARRIVES_WITHIN, "the first chunks", |t| t.chunks_held > 1).await?;
    ensure!(begun.state() != TitleState::Available, "it arrived before the tracker could be stopped");
    world.tracker.kill().await?;
    world.number_mut(1).start_again().await?;
    let mut source = world.node(1).await?;
    source.until(ARRIVES_WITHIN, "box 1 to join the swarm without a tracker", |s| s.connected_peers > 0).await?;
    world.seed.kill().await?;

    let finished = node.until_available(&title.name, ARRIVES_WITHIN).await?;
    check_sealed_file(world.number(3), &hex(&finished.item))?;
    let kademlia: u64 = finished.sources.iter().filter(|s| s.found_by == "kademlia").map(|s| s.verified_bytes).sum();
    ensure!(kademlia > 0, "nothing came from a source found through Kademlia: {:?}", finished.sources);
    world.tracker.start_again().await?;
    world.seed.start_again().await?;
    let what = "tracker and seed killed midway, box 1 found through Kademlia";
    Ok(arrived(&finished, &world.names, what))
}

async fn sealed(world: &mut World, film: &Original) -> anyhow::Result<Findings> {
    for daemon in std::iter::once(&world.seed).chain(&world.boxes).filter(|daemon| daemon.is_running()) {
        let status = Node::of(daemon).await?.status().await?;
        ensure!(books_balance(&status), "{}: the books do not balance: {:?}", daemon.name, status.received);
    }
    // A witness buys the film and so learns the key that must be on no disk.
    let code = world.invite("box", "witness").await?;
    let witness = Device::enrol(&world.tracker.url, &code, "witness").await?;
    let entry = witness.entry(&film.name).await?;
    let offer = entry.offers.first().context("the film is offered")?;
    let pass = world.keyserver.command(&["pass", "create", "--credits", "1", "--valid", "1d"]).await?.ok()?;
    let pass = text(&pass, "code")?;
    let released = witness.buy(&world.keyserver.url, entry.item.as_bytes(), offer.id.as_str(), &pass).await?;
    let Released::Whole(key) = released else { bail!("a rented film came with a part of its key") };
    let secrets = vec![("the content key", key.expose().to_vec()), ("a pass code", pass.into_bytes())];

    let original = std::fs::read(&film.file)?;
    let folders: Vec<PathBuf> = world.data_folders().into_iter().map(PathBuf::from).collect();
    let disks = folders.len();
    let (windows, leaks, read) = tokio::task::spawn_blocking(move || -> anyhow::Result<_> {
        let search = Search::new(&original, secrets);
        let scans = std::thread::scope(|scope| {
            let scans: Vec<_> = folders.iter().map(|folder| scope.spawn(|| search.scan(folder))).collect();
            scans
                .into_iter()
                .map(|scan| scan.join().expect("a scan does not panic"))
                .collect::<anyhow::Result<Vec<_>>>()
        })?;
        let read: u64 = scans.iter().map(|(_, read)| read).sum();
        let leaks: Vec<Leak> = scans.into_iter().flat_map(|(leaks, _)| leaks).collect();
        Ok((search.windows(), leaks, read))
    })
    .await??;
    if let Some(leak) = leaks.first() {
        bail!("{} holds {} at byte {}", leak.file.display(), leak.what, leak.offset);
    }
    let megabytes = read / 1_000_000;
    Ok(Findings::say(format!("no key and none of {windows} windows of the film in {megabytes} MB on {disks} disks")))
}

/// The item file is named by its hash and hashes to its name, as `b3sum` would print it.
fn check_sealed_file(device: &Daemon, item: &str) -> anyhow::Result<()> {
    let path = device.data.join("items").join(format!("{item}.item"));
    let mut hasher = blake3::Hasher::new();
    let file = File::open(&path).with_context(|| format!("failed to open {}", path.display()))?;
    hasher.update_reader(file).with_context(|| format!("failed to read {}", path.display()))?;
    ensure!(
        hasher.finalize().to_hex().as_str() == item,
        "{} on {} is not what its name says",
        path.display(),
        device.name
    );
    Ok(())
}

/// Waits until the keyserver has an order of an item, and gives back its code.
async fn latest_order(keyserver: &Daemon, item: &str) -> anyhow::Result<String> {
    let begun = Instant::now();
    loop {
        let orders = keyserver.command(&["order", "ls"]).await?.ok()?;
        let orders = orders.as_array().context("orders come as a list")?;
        if let Some(order) = orders.iter().find(|order| order["item"] == item) {
            return text(order, "order");
        }
        ensure!(begun.elapsed() < SETTLES_WITHIN, "the order that the box kept did not reach the keyserver");
        tokio::time::sleep(ASK_EVERY).await;
    }
}

fn play_url(device: &Daemon, item: &[u8]) -> String {
    format!("{}/play/{}", device.url.trim_end_matches('/'), hex(item))
}

/// Starts a box again with a cap on what it fetches.
async fn slow_down(device: &mut Daemon) -> anyhow::Result<()> {
    device.stop().await?;
    device.set("transfers.rate", UNHURRIED);
    device.start_again().await
}
