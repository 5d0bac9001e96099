//! Takes keys from publishers.
//!
//! The proof is the publisher's signature on the catalog entry. A key is unwrapped only for a publisher that is
//! admitted, must be the one that the entry commits to, and is sealed before it is written anywhere. A key that a studio
//! has made may be here already; then the entry alone is enough.

use daemon::{Exit, Failure};
use swarm_proto::catalog::CatalogEntry;
use swarm_proto::id::ItemId;
use swarm_proto::pb::keyserver as pb;
use swarm_proto::pb::keyserver::deposits_server;
use swarm_proto::seal::{ContentKey, KeyCommitment};
use swarm_proto::signed::Signed;
use swarm_proto::span_tree::SpanTree;
use swarm_proto::wrap::{Wrapped, deposit_aad};
use tonic::{Request, Response, Status};

use super::Context;
use crate::clock;
use crate::convert::{optional_id, present, refuse, settled};
use crate::refusals;
use crate::vault::Keys;

pub(crate) struct Deposits {
    context: Context,
}

impl Deposits {
    pub(crate) fn new(context: Context) -> Deposits {
        Deposits { context }
    }

    async fn deposit(&self, request: pb::DepositKeyRequest) -> Result<pb::DepositKeyResponse, Status> {
        let signed: Signed<CatalogEntry> = present("entry", request.entry)?.try_into().map_err(refuse)?;
        let entry = signed.verify(&signed.signer()).map_err(not_believed)?;

        let Context { books, keys, .. } = &self.context;
        let keys = keys.now();
        settled(books.expects_deposit(entry.clone()).await, refusals::deposit)?;
        let key = match request.key {
            Some(wrapped) => {
                let wrapped = wrapped.try_into().map_err(refuse)?;
                opened(&keys, &entry.item, &entry.commitment, &wrapped)?
            }
            None => self.imported(&keys, &entry).await?,
        };
        if let Some(spans) = entry.span_commitment {
            let tree =
                SpanTree::of(&key, entry.geometry.n_spans()).ok_or_else(|| not_the_key("the item has no spans"))?;
            if tree.commitment() != spans {
                return Err(not_the_key("the keys of its spans are not those that the entry commits to"));
            }
        }
        let sealed = keys.vault.seal(&entry.item, &key);
        let item = entry.item;
        let already = settled(books.deposit(entry, sealed).await, refusals::deposit)?;
        tracing::info!(%item, already, "key deposited");
        Ok(pb::DepositKeyResponse { already })
    }
}

impl Deposits {
    /// The key that a studio has made for this entry.
    async fn imported(&self, keys: &Keys, entry: &CatalogEntry) -> Result<ContentKey, Status> {
        let found = self.context.books.imported(entry.publisher, entry.commitment).await.map_err(Failure::from)?;
        let (place, sealed) = present("key", found)?;
        keys.vault.open(&place, &entry.commitment, &sealed).map_err(|error| {
            Failure::new(Exit::Integrity, "E-VAULT-13", "the imported key of the item cannot be opened")
                .why(error)
                .hint("the operator checks the journal with `keyserver audit verify`")
                .into()
        })
    }
}

/// Opens a key that was wrapped to us, and holds it against its commitment.
pub(super) fn opened(
    keys: &Keys,
    item: &ItemId,
    commitment: &KeyCommitment,
    wrapped: &Wrapped,
) -> Result<ContentKey, Status> {
    let secret = keys.unwrap_deposit(&deposit_aad(item, commitment), wrapped).map_err(not_for_us)?;
    let key = ContentKey::from_bytes(&secret).ok_or_else(|| not_the_key("it does not have 32 bytes"))?;
    match key.commitment() == *commitment {
        true => Ok(key),
        false => Err(not_the_key("it is not the key that the entry commits to")),
    }
}

#[tonic::async_trait]
impl deposits_server::Deposits for Deposits {
    async fn get_keyserver(
        &self,
        request: Request<pb::GetKeyserverRequest>,
    ) -> Result<Response<pb::KeyserverInfo>, Status> {
        let keys = self.context.keys.now();
        let known = optional_id("known", &request.get_ref().known)?;
        let successions = known.as_ref().map_or(&[][..], |known| keys.lineage.since(known));
        Ok(Response::new(pb::KeyserverInfo {
            server: keys.server().to_vec(),
            hpke_public: keys.deposit.public().to_vec(),
            utc_ms: clock::utc().as_millis(),
            successions: successions.iter().map(Into::into).collect(),
        }))
    }

    async fn deposit_key(
        &self,
        request: Request<pb::DepositKeyRequest>,
    ) -> Result<Response<pb::DepositKeyResponse>, Status> {
        let result = self.deposit(request.into_inner()).await;
        self.context.counters.count_result("deposit", &result);
        result.map(Response::new)
    }
}

fn not_believed(error: impl std::fmt::Display) -> Status {
    Failure::new(Exit::NotAllowed, "E-DEPOSIT-05", "the catalog entry is not believed")
        .why(error)
        .hint("sign it with the publisher's key")
        .into()
}

fn not_for_us(error: impl std::fmt::Display) -> Status {
    Failure::new(Exit::Usage, "E-DEPOSIT-06", "the deposited key cannot be unwrapped")
        .why(error)
        .hint("ask for this keyserver's HPKE key with GetKeyserver, and wrap the key to that")
        .into()
}

fn not_the_key(why: &str) -> Status {
    Failure::new(Exit::Usage, "E-DEPOSIT-07", "the deposited key does not belong to the entry")
        .why(why)
        .hint("publish the file again")
        .into()
}
