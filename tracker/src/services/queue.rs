//! The queue of a customer, for its devices and for the operator.

use swarm_proto::pb::tracker as pb;
use swarm_proto::pb::tracker::queue_server::Queue;
use tonic::{Request, Response, Status};

use super::Shared;
use crate::auth::Caller;
use crate::state::Change;
use crate::{convert, refusal};

pub(super) struct Service(pub(super) Shared);

#[tonic::async_trait]
impl Queue for Service {
    async fn get_queue(&self, request: Request<pb::GetQueueRequest>) -> Result<Response<pb::QueueState>, Status> {
        let caller = self.0.auth.caller(&request)?;
        let account = convert::optional_id("account", &request.get_ref().account).map_err(convert::bad)?;
        self.0.state.queue(caller, account).await.map(Response::new).map_err(refusal::status)
    }

    async fn add_to_queue(&self, request: Request<pb::AddToQueueRequest>) -> Result<Response<pb::QueueState>, Status> {
        let caller = self.0.auth.caller(&request)?;
        let message = request.into_inner();
        let change = Change::Add {
            title: convert::id("title", &message.title).map_err(convert::bad)?,
            this_device_only: message.this_device_only,
            before: convert::optional_id("before", &message.before).map_err(convert::bad)?,
            delivery: convert::delivery(message.delivery).map_err(convert::bad)?,
        };
        self.change(caller, &message.account, change).await
    }

    async fn move_in_queue(
        &self,
        request: Request<pb::MoveInQueueRequest>,
    ) -> Result<Response<pb::QueueState>, Status> {
        let caller = self.0.auth.caller(&request)?;
        let message = request.into_inner();
        let change = Change::Move {
            title: convert::id("title", &message.title).map_err(convert::bad)?,
            to: message.to as usize,
            if_version: message.if_version,
        };
        self.change(caller, &message.account, change).await
    }

    async fn remove_from_queue(
        &self,
        request: Request<pb::RemoveFromQueueRequest>,
    ) -> Result<Response<pb::QueueState>, Status> {
        let caller = self.0.auth.caller(&request)?;
        let message = request.into_inner();
        let change = Change::Remove { title: convert::id("title", &message.title).map_err(convert::bad)? };
        self.change(caller, &message.account, change).await
    }
}

impl Service {
    async fn change(&self, caller: Caller, account: &[u8], change: Change) -> Result<Response<pb::QueueState>, Status> {
        let account = convert::optional_id("account", account).map_err(convert::bad)?;
        self.0.state.change_queue(caller, account, change).await.map(Response::new).map_err(refusal::status)
    }
}
