//! How a device finds out who this tracker is, and becomes a member.

use swarm_proto::pb::tracker as pb;
use swarm_proto::pb::tracker::enrolment_server::Enrolment;
use swarm_proto::tracker::registry::Applicant;
use tonic::{Request, Response, Status};

use super::Shared;
use crate::{auth, clock, convert, refusal};

pub(super) struct Service(pub(super) Shared);

#[tonic::async_trait]
impl Enrolment for Service {
    async fn get_tracker(&self, _: Request<pb::GetTrackerRequest>) -> Result<Response<pb::TrackerInfo>, Status> {
        Ok(Response::new(pb::TrackerInfo {
            server: self.0.server.to_vec(),
            name: self.0.name.to_string(),
            utc_ms: clock::now().utc.as_millis(),
            keyserver_url: self.0.keyserver_url.to_string(),
        }))
    }

    async fn enrol(&self, request: Request<pb::EnrolRequest>) -> Result<Response<pb::EnrolResponse>, Status> {
        let device = self.0.auth.device(&request)?;
        let from = auth::address_of(&request)?;
        let message = request.into_inner();
        let code = convert::code(&message.code).map_err(convert::bad)?;
        let applicant = Applicant {
            device,
            hpke: convert::id("hpke_public", &message.hpke_public).map_err(convert::bad)?,
            name: convert::name("device_name", &message.device_name).map_err(convert::bad)?,
        };
        self.0.state.enrol(from, code, applicant).await.map(Response::new).map_err(refusal::status)
    }
}
