//! `keyserver key import`: the keys of a CPIX document, for a publisher who seals items with them.
//!
//! The document is read here and stays here: each key goes to the keyserver wrapped, like a deposit.

use std::fmt::Write as _;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use clap::Args;
use daemon::{Exit, Failure, client};
use serde::Serialize;
use swarm_proto::cpix::{self, MAX_DOCUMENT_BYTES, StudioKey};
use swarm_proto::id::PublisherId;
use swarm_proto::pb::keyserver as pb;
use swarm_proto::pb::keyserver::deposits_client::DepositsClient;
use swarm_proto::wrap::{self, HpkePublic, Label, deposit_aad};
use zeroize::Zeroizing;

use super::super::{Global, operator};

#[derive(Args)]
pub(crate) struct ImportArgs {
    /// The CPIX document
    file: PathBuf,
    /// For which publisher, as `peer-node publisher id` prints it
    #[arg(long, value_name = "ID")]
    publisher: PublisherId,
    /// Only say what would be imported
    #[arg(long)]
    dry_run: bool,
}

#[derive(Serialize)]
struct Imported {
    kid: String,
    commitment: String,
    already: bool,
    dry_run: bool,
}

pub(super) async fn run(global: &Global, args: ImportArgs) -> anyhow::Result<Exit> {
    let ImportArgs { file, publisher, dry_run } = args;
    let document = read(&file)?;
    let keys = cpix::read(&document).map_err(|error| {
        Failure::new(Exit::Usage, "E-CPIX-01", format!("{} is not taken", file.display()))
            .why(error)
            .hint("nothing was imported; ask the studio for a CPIX 2 document with its keys in clear")
    })?;
    let (mut keyserver, url) = super::reach(global).await?;
    let (channel, ..) = operator::way(global).await?;
    let info = DepositsClient::new(channel).get_keyserver(pb::GetKeyserverRequest::default()).await;
    let info = info.map_err(|status| client::failure(&url, &status))?.into_inner();
    let to = HpkePublic::try_from(info.hpke_public.as_slice())?;
    let mut imported = Vec::with_capacity(keys.len());
    // All are tried before any is taken: a document is imported as a whole, unless something changes in between.
    for dry_run in [true, false].into_iter().take(if dry_run { 1 } else { 2 }) {
        imported.clear();
        for StudioKey { kid, key } in &keys {
            let commitment = key.commitment();
            let aad = deposit_aad(&kid.place(&publisher), &commitment);
            let wrapped = wrap::wrap(&mut crate::rng(), &to, Label::Deposit, &aad, key.expose())?;
            let request = pb::ImportKeyRequest {
                publisher: publisher.to_vec(),
                kid: kid.as_bytes().to_vec(),
                commitment: commitment.to_vec(),
                key: Some(wrapped.into()),
                dry_run,
            };
            let answer = keyserver.import_key(request).await.map_err(|status| client::failure(&url, &status))?;
            let (kid, commitment) = (kid.to_string(), commitment.to_string());
            imported.push(Imported { kid, commitment, already: answer.into_inner().already, dry_run });
        }
    }
    global.print(&imported, || table(&imported))
}

/// Reads a document, no more of it than there may be.
fn read(path: &Path) -> Result<Zeroizing<String>, Failure> {
    let failed = |error| Failure::io(format!("cannot read {}", path.display()), &error);
    let mut document = Zeroizing::new(String::new());
    let file = File::open(path).map_err(failed)?;
    file.take(MAX_DOCUMENT_BYTES as u64 + 1).read_to_string(&mut document).map_err(failed)?;
    Ok(document)
}

fn table(imported: &[Imported]) -> String {
    let mut text = String::new();
    for Imported { kid, already, dry_run, .. } in imported {
        let what = match (already, dry_run) {
            (true, _) => "was imported before",
            (false, true) => "would be imported",
            (false, false) => "is imported",
        };
        writeln!(text, "{kid}  {what}").expect("a string takes every text");
    }
    text
}
