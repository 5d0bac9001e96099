//! Changes the keys of the running keyserver, and takes over those of studios, on the operator's word.
//!
//! One change at a time. The token is checked before a call comes here. A studio's key comes wrapped, like a deposit,
//! and is sealed before it is written anywhere.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use daemon::{Exit, Failure};
use swarm_proto::cpix::KeyId;
use swarm_proto::id::PublisherId;
use swarm_proto::pb::keyserver as pb;
use swarm_proto::pb::keyserver::keys_operator_server;
use swarm_proto::seal::KeyCommitment;
use swarm_proto::wrap::Wrapped;
use tokio::sync::Mutex;
use tonic::{Request, Response, Status};

use super::{Context, deposits};
use crate::convert::{id, present, refuse, settled};
use crate::refusals;
use crate::vault::{handover, rotation};

pub(crate) struct Locksmith {
    context: Context,
    folder: PathBuf,
    turn: Arc<Mutex<()>>,
}

impl Locksmith {
    pub(crate) fn new(folder: &Path, context: &Context) -> Locksmith {
        Locksmith { context: context.clone(), folder: folder.to_owned(), turn: Arc::default() }
    }
}

#[tonic::async_trait]
impl keys_operator_server::KeysOperator for Locksmith {
    async fn rotate_signing_key(
        &self,
        _: Request<pb::RotateSigningKeyRequest>,
    ) -> Result<Response<pb::RotateSigningKeyResponse>, Status> {
        let turn = Arc::clone(&self.turn).lock_owned().await;
        let (folder, Context { books, keys, .. }) = (self.folder.clone(), self.context.clone());
        // A task of its own: it goes on to its end when whoever asked is gone.
        let changing = async move {
            let _turn = turn;
            handover::hand_over(&folder, &keys, &books).await
        };
        let (before, lineage) = tokio::spawn(changing).await.map_err(cut_off)??;
        Ok(Response::new(pb::RotateSigningKeyResponse {
            server: lineage.current().to_vec(),
            predecessor: before.to_vec(),
            successions: u32::try_from(lineage.successions().len()).unwrap_or(u32::MAX),
        }))
    }

    async fn rotate_deposit_key(
        &self,
        _: Request<pb::RotateDepositKeyRequest>,
    ) -> Result<Response<pb::RotateDepositKeyResponse>, Status> {
        let turn = Arc::clone(&self.turn).lock_owned().await;
        let (folder, keys) = (self.folder.clone(), Arc::clone(&self.context.keys));
        let changing = move || {
            let _turn = turn;
            rotation::deposit_of(&folder, &keys)
        };
        let public = tokio::task::spawn_blocking(changing).await.map_err(cut_off)??;
        tracing::info!("the key for deposits has changed");
        Ok(Response::new(pb::RotateDepositKeyResponse { hpke_public: public.to_vec() }))
    }

    async fn import_key(
        &self,
        request: Request<pb::ImportKeyRequest>,
    ) -> Result<Response<pb::ImportKeyResponse>, Status> {
        let pb::ImportKeyRequest { publisher, kid, commitment, key, dry_run } = request.into_inner();
        let publisher: PublisherId = id("publisher", &publisher)?;
        let kid = KeyId::from_bytes(id("kid", &kid)?);
        let commitment: KeyCommitment = id("commitment", &commitment)?;
        let wrapped: Wrapped = present("key", key)?.try_into().map_err(refuse)?;
        let Context { books, keys, .. } = &self.context;
        let already = settled(books.expects_import(publisher, kid, commitment).await, refusals::import)?;
        let (keys, place) = (keys.now(), kid.place(&publisher));
        let key = deposits::opened(&keys, &place, &commitment, &wrapped)?;
        if already || dry_run {
            return Ok(Response::new(pb::ImportKeyResponse { already }));
        }
        let sealed = keys.vault.seal(&place, &key);
        let already = settled(books.import_key(publisher, kid, commitment, sealed).await, refusals::import)?;
        tracing::info!(%publisher, %kid, "a studio's key is imported");
        Ok(Response::new(pb::ImportKeyResponse { already }))
    }
}

fn cut_off(error: tokio::task::JoinError) -> Failure {
    Failure::new(Exit::Failed, "E-VAULT-11", "the change of the key was cut off")
        .why(error)
        .hint("ask for it again; report this: it is a fault of the keyserver")
}
