//! `keyserver key`: new keys in place of old ones, and keys of studios.

mod import;

use clap::Subcommand;
use daemon::token::Bearer;
use daemon::{DataFolder, Exit, Failure, client};
use serde::Serialize;
use swarm_proto::id::ServerId;
use swarm_proto::pb::keyserver as pb;
use swarm_proto::pb::keyserver::keys_operator_client::KeysOperatorClient;
use swarm_proto::wrap::HpkePublic;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;

use super::{Global, operator};
use crate::vault::rotation;

#[derive(Subcommand)]
pub(super) enum KeyCommand {
    /// Put a new key in place of an old one
    #[command(subcommand)]
    Rotate(RotateCommand),
    /// Take over the keys that a studio has made, from a CPIX document with keys in clear
    Import(import::ImportArgs),
}

#[derive(Subcommand, Clone, Copy)]
pub(super) enum RotateCommand {
    /// The key that seals what publishers deposit, while the keyserver is stopped; every deposited key is sealed anew
    Master,
    /// The key that signs licences, while the keyserver runs; boxes follow by themselves
    Signing,
    /// The key that deposits are wrapped to; the one before holds until the next change
    Deposit,
}

#[derive(Serialize)]
struct Rotated {
    key: &'static str,
    /// Deposited keys that were sealed anew.
    #[serde(skip_serializing_if = "Option::is_none")]
    resealed: Option<usize>,
    /// The public half of the new key for deposits.
    #[serde(skip_serializing_if = "Option::is_none")]
    hpke_public: Option<String>,
    /// The keyserver's id from now on.
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<ServerId>,
    /// Its id until now.
    #[serde(skip_serializing_if = "Option::is_none")]
    before: Option<ServerId>,
}

impl Rotated {
    const fn of(key: &'static str) -> Rotated {
        Rotated { key, resealed: None, hpke_public: None, id: None, before: None }
    }
}

pub(super) async fn run(global: &Global, command: KeyCommand) -> anyhow::Result<Exit> {
    let which = match command {
        KeyCommand::Rotate(which) => which,
        KeyCommand::Import(args) => return import::run(global, args).await,
    };
    let rotated = match which {
        RotateCommand::Master => master(global)?,
        RotateCommand::Signing => signing(global).await?,
        RotateCommand::Deposit => deposit(global).await?,
    };
    global.print(&rotated, || match &rotated {
        Rotated { resealed: Some(resealed), .. } => {
            format!("master key changed, {resealed} deposited keys sealed anew\n")
        }
        Rotated { id: Some(id), .. } => {
            format!("licences are signed by {id} from now on; boxes follow by themselves\n")
        }
        Rotated { hpke_public, .. } => {
            format!("deposits are wrapped to {}\n", hpke_public.as_deref().unwrap_or_default())
        }
    })
}

fn master(global: &Global) -> anyhow::Result<Rotated> {
    let path = global.data_folder()?;
    // Before the lock is taken: a folder that is not there is not to be made.
    DataFolder::inspect(&path)?;
    if !global.settings()?.vault.master_command.is_empty() {
        return Err(Failure::new(Exit::Config, "E-VAULT-05", "the master key is not in the data folder")
            .why("vault.master_command gives it")
            .hint(
                "write the key it gives to master.key (0600), take the command out of the configuration, rotate, \
                   then give the new master.key to whatever keeps keys for you",
            )
            .into());
    }
    let folder = DataFolder::open(&path)?;
    Ok(Rotated { resealed: Some(rotation::master(&folder)?), ..Rotated::of("master") })
}

async fn signing(global: &Global) -> anyhow::Result<Rotated> {
    let (mut client, url) = reach(global).await?;
    let changed = client.rotate_signing_key(pb::RotateSigningKeyRequest {}).await;
    let changed = changed.map_err(|status| client::failure(&url, &status))?.into_inner();
    let id = |bytes: &[u8]| ServerId::try_from(bytes);
    Ok(Rotated { id: Some(id(&changed.server)?), before: Some(id(&changed.predecessor)?), ..Rotated::of("signing") })
}

/// Through the keyserver if one runs on the data folder, else on its files.
async fn deposit(global: &Global) -> anyhow::Result<Rotated> {
    let path = global.data_folder()?;
    DataFolder::inspect(&path)?;
    let public = match DataFolder::open(&path) {
        Ok(folder) => rotation::deposit(folder.path())?.0.public(),
        Err(failure) if failure.exit == Exit::Conflict => {
            let (mut client, url) = reach(global).await?;
            let changed = client.rotate_deposit_key(pb::RotateDepositKeyRequest {}).await;
            let changed = changed.map_err(|status| client::failure(&url, &status))?.into_inner();
            HpkePublic::try_from(changed.hpke_public.as_slice())?
        }
        Err(failure) => return Err(failure.into()),
    };
    Ok(Rotated { hpke_public: Some(public.to_string()), ..Rotated::of("deposit") })
}

type Client = KeysOperatorClient<InterceptedService<Channel, Bearer>>;

async fn reach(global: &Global) -> Result<(Client, String), Failure> {
    let (channel, bearer, url) = operator::way(global).await?;
    Ok((KeysOperatorClient::with_interceptor(channel, bearer), url))
}
