//! What the operator asks about one device.

use swarm_proto::pb::tracker as pb;
use swarm_proto::pb::tracker::devices_server::Devices;
use tonic::{Request, Response, Status};

use super::Shared;
use crate::{convert, refusal};

pub(super) struct Service(pub(super) Shared);

#[tonic::async_trait]
impl Devices for Service {
    async fn set_device(&self, request: Request<pb::SetDeviceRequest>) -> Result<Response<pb::Device>, Status> {
        self.0.auth.operator(&request)?;
        let message = request.into_inner();
        let device = convert::id("device", &message.device).map_err(convert::bad)?;
        let change = convert::device_change(message).map_err(convert::bad)?;
        self.0.state.set_device(device, change).await.map(Response::new).map_err(refusal::status)
    }

    async fn pair_device(&self, request: Request<pb::PairDeviceRequest>) -> Result<Response<pb::Device>, Status> {
        self.0.auth.operator(&request)?;
        let message = request.into_inner();
        let account = convert::id("account", &message.account).map_err(convert::bad)?;
        let kind = convert::kind(message.kind).map_err(convert::bad)?;
        let code = convert::code(&message.code).map_err(convert::bad)?;
        self.0.state.pair(account, code, kind, message.site).await.map(Response::new).map_err(refusal::status)
    }
}
