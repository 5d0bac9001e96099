//! What the tracker says about its own decisions.

use swarm_proto::pb::tracker as pb;
use swarm_proto::pb::tracker::plans_server::Plans;
use tonic::{Request, Response, Status};

use super::Shared;
use crate::auth::Caller;
use crate::{convert, refusal};

pub(super) struct Service(pub(super) Shared);

#[tonic::async_trait]
impl Plans for Service {
    async fn estimate(&self, request: Request<pb::EstimateRequest>) -> Result<Response<pb::EstimateResponse>, Status> {
        let caller = self.0.auth.caller(&request)?;
        let message = request.get_ref();
        let title = convert::id("title", &message.title).map_err(convert::bad)?;
        let named = convert::optional_id("device", &message.device).map_err(convert::bad)?;
        let device = match (caller, named) {
            (Caller::Device(device), None) => device,
            (Caller::Device(_), Some(_)) => return Err(refusal::status(refusal::not_for_devices())),
            (Caller::Operator, Some(device)) => device,
            (Caller::Operator, None) => convert::id("device", &message.device).map_err(convert::bad)?,
        };
        self.0.state.estimate(device, title).await.map(Response::new).map_err(refusal::status)
    }

    async fn explain(&self, request: Request<pb::ExplainRequest>) -> Result<Response<pb::Explanation>, Status> {
        self.0.auth.operator(&request)?;
        let message = request.get_ref();
        let device = convert::id("device", &message.device).map_err(convert::bad)?;
        let title = convert::id("title", &message.title).map_err(convert::bad)?;
        self.0.state.explain(device, title).await.map(Response::new).map_err(refusal::status)
    }
}
