//! `tracker seed`: what the seeds keep, and how one of them is let go.

use clap::Subcommand;
use daemon::exit::{Exit, Failure};
use serde::Serialize;
use swarm_proto::id::{DeviceId, ItemId};
use swarm_proto::pb::tracker as pb;

use super::Global;
use super::client::{PAGE_SIZE, Tracker, collect, id, table};
use crate::human;

#[derive(Subcommand)]
pub(super) enum SeedCommand {
    /// List seeds and what they keep (as tracker seeds)
    Ls,
    /// List what a seed holds or shall hold
    Show {
        /// Its device id or its name
        seed: String,
    },
    /// Have a seed give up its copies as soon as others hold them
    Drain {
        /// Its device id or its name
        seed: String,
    },
    /// Let a draining seed keep its copies
    Undrain {
        /// Its device id or its name
        seed: String,
    },
}

#[derive(Serialize)]
struct Seed {
    device: DeviceId,
    name: String,
    site: String,
    state: &'static str,
    copies: u32,
    bytes: u64,
    to_fetch: u32,
    to_drop: u32,
    free_bytes: Option<u64>,
}

impl Seed {
    fn of(message: pb::Seed) -> Result<Seed, Failure> {
        let state = match message.state() {
            pb::SeedState::Online => "online",
            pb::SeedState::Lost => "lost",
            pb::SeedState::Draining => "draining",
            pb::SeedState::Drained => "drained",
            pb::SeedState::Away | pb::SeedState::Unspecified => "away",
        };
        Ok(Seed {
            device: id(&message.device)?,
            name: message.name,
            site: message.site,
            state,
            copies: message.copies,
            bytes: message.bytes,
            to_fetch: message.to_fetch,
            to_drop: message.to_drop,
            free_bytes: message.free_bytes,
        })
    }
}

#[derive(Serialize)]
struct SeedItem {
    item: ItemId,
    name: String,
    chunks: u32,
    n_chunks: u32,
    assigned: bool,
    proof: &'static str,
    copies: u32,
}

impl SeedItem {
    fn of(message: pb::SeedItem) -> Result<SeedItem, Failure> {
        let proof = match message.proof() {
            pb::Proof::Proven => "proven",
            pb::Proof::Doubted => "doubted",
            pb::Proof::Claimed | pb::Proof::Unspecified => "claimed",
        };
        Ok(SeedItem {
            item: id(&message.item)?,
            name: message.name,
            chunks: message.chunks,
            n_chunks: message.n_chunks,
            assigned: message.assigned,
            proof,
            copies: message.copies,
        })
    }
}

pub(super) async fn run(global: &Global, command: SeedCommand) -> anyhow::Result<Exit> {
    let mut tracker = Tracker::of(global).await?;
    let (seeds, summary) = seeds(&mut tracker).await?;
    let (seed, draining) = match command {
        SeedCommand::Ls => {
            return global.print_list(&seeds, || {
                let headings = ["SEED", "NAME", "SITE", "STATE", "COPIES", "BYTES", "TO FETCH", "TO DROP", "FREE"];
                format!("{}{summary}", table(headings, &seeds, row))
            });
        }
        SeedCommand::Show { seed } => {
            let items = items(&mut tracker, find(&seeds, &seed)?.device).await?;
            return global.print_list(&items, || {
                table(["ITEM", "NAME", "CHUNKS", "ASSIGNED", "PROOF", "COPIES"], &items, |it: &SeedItem| {
                    let assigned = if it.assigned { "yes" } else { "no" };
                    let chunks = format!("{}/{}", it.chunks, it.n_chunks);
                    let item = it.item.to_string()[..12].to_owned();
                    [item, it.name.clone(), chunks, assigned.to_owned(), it.proof.to_owned(), it.copies.to_string()]
                })
            });
        }
        SeedCommand::Drain { seed } => (seed, true),
        SeedCommand::Undrain { seed } => (seed, false),
    };
    let device = find(&seeds, &seed)?.device;
    let request = pb::SetSeedDrainingRequest { device: device.to_vec(), draining };
    let answer = tracker.repositories.set_seed_draining(request).await;
    let seed = Seed::of(tracker.answer(answer)?)?;
    global.print(&seed, || match seed.state {
        "drained" => format!("{} holds nothing that is offered: it is free to go\n", seed.name),
        "draining" => {
            format!(
                "{} gives up {} copies as soon as others hold them; tracker seeds tells when it is free to go\n",
                seed.name, seed.copies
            )
        }
        _ => format!("{} keeps its copies\n", seed.name),
    })
}

fn row(it: &Seed) -> [String; 9] {
    [
        it.device.to_string(),
        it.name.clone(),
        it.site.clone(),
        it.state.to_owned(),
        it.copies.to_string(),
        human::bytes(it.bytes),
        it.to_fetch.to_string(),
        it.to_drop.to_string(),
        it.free_bytes.map_or_else(|| "-".to_owned(), human::bytes),
    ]
}

/// All seeds, and a line about what is kept.
async fn seeds(tracker: &mut Tracker) -> Result<(Vec<Seed>, String), Failure> {
    let mut all = Vec::new();
    let mut page_token = Vec::new();
    loop {
        let answer = tracker.repositories.list_seeds(pb::ListSeedsRequest { page_size: PAGE_SIZE, page_token }).await;
        let page = tracker.answer(answer)?;
        all.extend(page.seeds);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            let short = match page.items_short {
                0 => "no title has fewer".to_owned(),
                1 => "1 title has fewer".to_owned(),
                n => format!("{n} titles have fewer"),
            };
            let summary = format!("{} copies of each title are wanted; {short} than can be had\n", page.copies);
            return Ok((collect(all, Seed::of)?, summary));
        }
    }
}

async fn items(tracker: &mut Tracker, seed: DeviceId) -> Result<Vec<SeedItem>, Failure> {
    let mut all = Vec::new();
    let mut page_token = Vec::new();
    loop {
        let request = pb::ListSeedItemsRequest { device: seed.to_vec(), page_size: PAGE_SIZE, page_token };
        let answer = tracker.repositories.list_seed_items(request).await;
        let page = tracker.answer(answer)?;
        all.extend(page.items);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return collect(all, SeedItem::of);
        }
    }
}

/// The seed that somebody means by its id or its name.
fn find<'a>(seeds: &'a [Seed], text: &str) -> Result<&'a Seed, Failure> {
    let id = text.parse::<DeviceId>().ok();
    let meant: Vec<&Seed> = seeds.iter().filter(|it| Some(it.device) == id || it.name == text).collect();
    match meant[..] {
        [one] => Ok(one),
        [] => {
            Err(Failure::new(Exit::NotFound, "E-SEED-01", format!("there is no seed {text}")).hint("tracker seed ls"))
        }
        _ => Err(Failure::new(Exit::Conflict, "E-SEED-02", format!("{} seeds are called {text}", meant.len()))
            .hint("name the one that is meant by its device id")),
    }
}
