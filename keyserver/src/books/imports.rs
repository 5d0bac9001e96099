//! What is asked of the books about keys that studios have made.

use swarm_proto::cpix::KeyId;
use swarm_proto::id::{ItemId, PublisherId};
use swarm_proto::keyserver::record::SealedKey;
use swarm_proto::keyserver::refusals::ImportRefusal;
use swarm_proto::seal::KeyCommitment;

use super::{Books, Closed};

impl Books {
    /// What an import would do: `true` when the key is here already.
    pub async fn expects_import(
        &self,
        publisher: PublisherId,
        kid: KeyId,
        commitment: KeyCommitment,
    ) -> Result<Result<bool, ImportRefusal>, Closed> {
        self.look(move |keeper, _| keeper.ledger.expects_import(&publisher, &kid, &commitment)).await
    }

    /// Takes over a studio's key, sealed in its place; true when it was here already.
    pub async fn import_key(
        &self,
        publisher: PublisherId,
        kid: KeyId,
        commitment: KeyCommitment,
        key: SealedKey,
    ) -> Result<Result<bool, ImportRefusal>, Closed> {
        self.decide(move |ledger, now| ledger.import_key(now, publisher, kid, commitment, key)).await
    }

    /// The imported key of a publisher with this commitment, and the place it is sealed for.
    pub async fn imported(
        &self,
        publisher: PublisherId,
        commitment: KeyCommitment,
    ) -> Result<Option<(ItemId, SealedKey)>, Closed> {
        self.look(move |keeper, _| keeper.ledger.imported(&publisher, &commitment)).await
    }
}
