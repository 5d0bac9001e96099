//! `peer-node catalog`: the titles that this box knows, from its own copy.

use clap::Subcommand;
use daemon::exit::Exit;
use serde::Serialize;
use swarm_proto::catalog::{CatalogEntry, Offer};
use swarm_proto::pb::node::ListCatalogRequest;
use swarm_proto::signed::Signed;

use super::daemon_client::Device;
use super::{Global, show};

#[derive(Subcommand)]
pub(super) enum CatalogCommand {
    /// List all titles, newest first
    Ls,
    /// List titles whose name or description has all these words
    Search {
        /// What to look for
        #[arg(required = true)]
        words: Vec<String>,
    },
}

#[derive(Serialize)]
struct Title {
    title: String,
    item: String,
    version: u64,
    name: String,
    description: String,
    mime: String,
    plain_len: u64,
    rating_age: u32,
    offers: Vec<OfferLine>,
}

#[derive(Serialize)]
struct OfferLine {
    id: String,
    kind: String,
    price_minor: u64,
    currency: String,
}

pub(super) async fn run(global: &Global, command: CatalogCommand) -> anyhow::Result<Exit> {
    let search = match command {
        CatalogCommand::Ls => String::new(),
        CatalogCommand::Search { words } => words.join(" "),
    };
    let mut device = Device::reach(global).await?;
    let answer = device
        .client
        .list_catalog(ListCatalogRequest { search })
        .await
        .map_err(|status| device.failure(&status))?
        .into_inner();
    let mut titles = Vec::new();
    for signed in answer.entries {
        let signed = Signed::<CatalogEntry>::try_from(signed)?;
        titles.push(line(signed.verify(&signed.signer())?));
    }
    global.print_list(&titles, || text(&titles))
}

fn text(titles: &[Title]) -> String {
    let rows: Vec<[String; 4]> = titles
        .iter()
        .map(|title| {
            let offers: Vec<&str> = title.offers.iter().map(|offer| offer.id.as_str()).collect();
            [show::text(&title.name), show::bytes(title.plain_len), offers.join(", "), title.title.clone()]
        })
        .collect();
    show::table(["NAME", "SIZE", "OFFERS", "TITLE"], &rows)
}

fn line(entry: CatalogEntry) -> Title {
    Title {
        title: entry.title.to_string(),
        item: entry.item.to_string(),
        version: entry.version,
        mime: entry.media.mime,
        plain_len: entry.geometry.plain_len(),
        rating_age: entry.rating_age,
        offers: entry.offers.iter().map(offer_line).collect(),
        name: entry.name,
        description: entry.description,
    }
}

fn offer_line(offer: &Offer) -> OfferLine {
    OfferLine {
        id: offer.id.to_string(),
        kind: format!("{:?}", offer.kind).to_lowercase(),
        price_minor: offer.price.minor,
        currency: offer.price.currency.to_string(),
    }
}
