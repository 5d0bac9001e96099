//! What boxes are told about rights besides grants: what time it is.
//!
//! Asked by every box once a minute, so nothing here is written to the journal without need.

use daemon::{Exit, Failure};
use swarm_proto::pb::keyserver as pb;
use swarm_proto::pb::keyserver::rights_server;
use swarm_proto::server_time::{self, ServerTime};
use tonic::{Request, Response, Status};

use super::Context;
use crate::clock;
use crate::convert::refuse;

pub(crate) struct Rights {
    context: Context,
}

impl Rights {
    pub(crate) fn new(context: Context) -> Rights {
        Rights { context }
    }
}

#[tonic::async_trait]
impl rights_server::Rights for Rights {
    async fn check_in(&self, request: Request<pb::CheckInRequest>) -> Result<Response<pb::CheckInResponse>, Status> {
        self.context.caller(&request)?;
        let nonce = server_time::nonce(&request.get_ref().nonce).map_err(refuse)?;
        let time = ServerTime::sign(&self.context.keys.signing, nonce, clock::utc()).map_err(unsigned)?;
        Ok(Response::new(pb::CheckInResponse { time: Some(time.into()) }))
    }
}

/// A statement of our own that breaks a rule.
fn unsigned(invalid: swarm_proto::invalid::Invalid) -> Status {
    Failure::new(Exit::Failed, "E-RIGHTS-05", "the keyserver cannot sign what it has to say")
        .why(invalid)
        .hint("report this: it is a fault of the keyserver, or of its clock")
        .into()
}
