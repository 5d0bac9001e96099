//! One file through iroh-blobs from one process to another on loopback; relays and discovery are off.
//!
//! `iroh-pair serve FILE STORE` prints a ticket and serves until its standard input ends.
//! `iroh-pair fetch TICKET STORE FILE` fetches, verified, and exports the file.

use anyhow::{Context as _, bail};
use iroh::endpoint::presets;
use iroh::protocol::Router;
use iroh::{Endpoint, EndpointAddr, RelayMode};
use iroh_blobs::BlobsProtocol;
use iroh_blobs::store::fs::FsStore;
use iroh_blobs::ticket::BlobTicket;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args.as_slice() {
        ["serve", file, store] => serve(file, store).await,
        ["fetch", ticket, store, file] => fetch(ticket, store, file).await,
        _ => bail!("usage: iroh-pair serve FILE STORE | iroh-pair fetch TICKET STORE FILE"),
    }
}

async fn serve(file: &str, store: &str) -> anyhow::Result<()> {
    let store = FsStore::load(store).await?;
    let tag = store.blobs().add_path(std::path::absolute(file)?).await?;
    let endpoint = endpoint().await?;
    let mut address = EndpointAddr::new(endpoint.id());
    for socket in endpoint.bound_sockets() {
        address = address.with_ip_addr(socket);
    }
    let router = Router::builder(endpoint).accept(iroh_blobs::ALPN, BlobsProtocol::new(&store, None)).spawn();
    println!("{}", BlobTicket::new(address, tag.hash, tag.format));
    tokio::task::spawn_blocking(|| std::io::read_to_string(std::io::stdin())).await??;
    drop(router);
    Ok(())
}

async fn fetch(ticket: &str, store: &str, file: &str) -> anyhow::Result<()> {
    let store = FsStore::load(store).await?;
    let ticket: BlobTicket = ticket.parse().context("not a ticket")?;
    let connection = endpoint().await?.connect(ticket.addr().clone(), iroh_blobs::ALPN).await?;
    let fetched = store.remote().fetch(connection, ticket.hash_and_format()).complete().await;
    fetched.map_err(|error| anyhow::anyhow!("not fetched: {error}"))?;
    store.blobs().export(ticket.hash(), std::path::absolute(file)?).await?;
    Ok(())
}

async fn endpoint() -> anyhow::Result<Endpoint> {
    let builder = Endpoint::builder(presets::Minimal).relay_mode(RelayMode::Disabled).clear_ip_transports();
    Ok(builder.bind_addr("127.0.0.1:0")?.bind().await?)
}
