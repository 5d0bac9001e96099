//! `keyserver key`: new keys in place of old ones.

use clap::Subcommand;
use daemon::{DataFolder, Exit, Failure};
use serde::Serialize;

use super::Global;
use crate::vault::rotation;

#[derive(Subcommand)]
pub(super) enum KeyCommand {
    /// Put a new key in place of an old one, while the keyserver is stopped
    #[command(subcommand)]
    Rotate(RotateCommand),
}

#[derive(Subcommand, Clone, Copy)]
pub(super) enum RotateCommand {
    /// The key that seals what publishers deposit; every deposited key is sealed anew
    Master,
    /// The key that deposits are wrapped to; the one before holds until the next change
    Deposit,
}

#[derive(Serialize)]
struct Rotated {
    key: &'static str,
    /// Deposited keys that were sealed anew.
    #[serde(skip_serializing_if = "Option::is_none")]
    resealed: Option<usize>,
    /// The public half of the new key.
    #[serde(skip_serializing_if = "Option::is_none")]
    hpke_public: Option<String>,
}

pub(super) fn run(global: &Global, command: KeyCommand) -> anyhow::Result<Exit> {
    let KeyCommand::Rotate(which) = command;
    let path = global.data_folder()?;
    // Before the lock is taken: a folder that is not there is not to be made.
    DataFolder::inspect(&path)?;
    if matches!(which, RotateCommand::Master) && !global.settings()?.vault.master_command.is_empty() {
        return Err(Failure::new(Exit::Config, "E-VAULT-05", "the master key is not in the data folder")
            .why("vault.master_command gives it")
            .hint(
                "write the key it gives to master.key (0600), take the command out of the configuration, rotate, \
                   then give the new master.key to whatever keeps keys for you",
            )
            .into());
    }
    let folder = DataFolder::open(&path)?;
    let rotated = match which {
        RotateCommand::Master => {
            Rotated { key: "master", resealed: Some(rotation::master(&folder)?), hpke_public: None }
        }
        RotateCommand::Deposit => {
            let keys = rotation::deposit(&folder)?;
            Rotated { key: "deposit", resealed: None, hpke_public: Some(keys.deposit.public().to_string()) }
        }
    };
    global.print(&rotated, || match &rotated {
        Rotated { resealed: Some(resealed), .. } => {
            format!("master key changed, {resealed} deposited keys sealed anew\n")
        }
        Rotated { hpke_public, .. } => {
            format!("deposits are wrapped to {}\n", hpke_public.as_deref().unwrap_or_default())
        }
    })
}
