//! How a box that nobody can type on becomes a member: it shows a code and waits.

use swarm_proto::pb::tracker as pb;
use swarm_proto::pb::tracker::pairing_server::Pairing;
use swarm_proto::tracker::registry::Applicant;
use tonic::{Request, Response, Status};

use super::Shared;
use crate::{auth, convert, refusal};

pub(super) struct Service(pub(super) Shared);

#[tonic::async_trait]
impl Pairing for Service {
    async fn request_pairing(
        &self,
        request: Request<pb::RequestPairingRequest>,
    ) -> Result<Response<pb::RequestPairingResponse>, Status> {
        let device = self.0.auth.device(&request)?;
        let from = auth::address_of(&request)?;
        let message = request.into_inner();
        let applicant = Applicant {
            device,
            hpke: convert::id("hpke_public", &message.hpke_public).map_err(convert::bad)?,
            name: convert::name("device_name", &message.device_name).map_err(convert::bad)?,
        };
        self.0.state.request_pairing(from, applicant).await.map(Response::new).map_err(refusal::status)
    }

    async fn poll_pairing(
        &self,
        request: Request<pb::PollPairingRequest>,
    ) -> Result<Response<pb::PollPairingResponse>, Status> {
        let device = self.0.auth.device(&request)?;
        self.0.state.poll_pairing(device).await.map(Response::new).map_err(refusal::status)
    }
}
