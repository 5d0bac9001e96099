//! What has travelled, for the operator.

use swarm_proto::invalid::Invalid;
use swarm_proto::pb::tracker as pb;
use swarm_proto::pb::tracker::accounts_server::Accounts;
use swarm_proto::time::Utc;
use tonic::{Request, Response, Status};

use super::Shared;
use crate::{convert, refusal};

pub(super) struct Service(pub(super) Shared);

#[tonic::async_trait]
impl Accounts for Service {
    async fn get_accounts(
        &self,
        request: Request<pb::GetAccountsRequest>,
    ) -> Result<Response<pb::GetAccountsResponse>, Status> {
        self.0.auth.operator(&request)?;
        let message = request.get_ref();
        if message.by() == pb::AccountsBy::Unspecified {
            return Err(convert::bad(Invalid::new("by", "is missing or unknown")));
        }
        let since = Utc::from_millis(message.since_utc_ms);
        self.0.state.accounts(since, message.by()).await.map(Response::new).map_err(refusal::status)
    }

    async fn list_mismatches(
        &self,
        request: Request<pb::ListMismatchesRequest>,
    ) -> Result<Response<pb::ListMismatchesResponse>, Status> {
        self.0.auth.operator(&request)?;
        self.0.state.mismatches().await.map(Response::new).map_err(refusal::status)
    }
}
