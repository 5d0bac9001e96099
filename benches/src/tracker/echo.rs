//! A bare server of the same service: it reads a question and answers with a message that it was given.
//!
//! No proof is checked, nothing is decided, nothing remembered: what is left is what the transport costs.

use std::path::Path;
use std::pin::Pin;
use std::process::{Child, Command};

use anyhow::Context as _;
use futures::Stream;
use prost::Message as _;
use swarm_proto::pb::tracker as pb;
use swarm_proto::pb::tracker::swarm_server::{Swarm, SwarmServer};
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status, Streaming};

use super::world;

/// The hidden first argument with which a measuring program becomes an echo.
pub const BE_ECHO: &str = "be-echo";

struct Echo(pb::Plan);

#[tonic::async_trait]
impl Swarm for Echo {
    type AttendStream = Pin<Box<dyn Stream<Item = Result<pb::Notice, Status>> + Send>>;

    async fn attend(&self, _: Request<Streaming<pb::Report>>) -> Result<Response<Self::AttendStream>, Status> {
        Err(Status::unimplemented("an echo has no streams"))
    }

    async fn assign_sources(&self, _: Request<pb::AssignSourcesRequest>) -> Result<Response<pb::Plan>, Status> {
        Ok(Response::new(self.0.clone()))
    }
}

/// Serves until killed, and says first where. The plan is read from a file.
///
/// # Errors
/// If the file is no plan or no port can be had.
pub async fn serve(plan: &Path) -> anyhow::Result<()> {
    let plan = pb::Plan::decode(std::fs::read(plan)?.as_slice()).context("the file is not a plan")?;
    let incoming = TcpIncoming::bind("127.0.0.1:0".parse()?)?.with_nodelay(Some(true));
    println!("http://{}", incoming.local_addr()?);
    let service = SwarmServer::new(Echo(plan));
    Ok(tonic::transport::Server::builder().add_service(service).serve_with_incoming(incoming).await?)
}

/// An echo in a process of its own; killed when dropped.
#[derive(Debug)]
pub struct Running {
    child: Child,
    /// Where it is.
    pub url: String,
}

impl Running {
    /// Starts one that answers with this plan.
    ///
    /// # Errors
    /// If the process cannot be started.
    pub fn start(folder: &Path, plan: &pb::Plan) -> anyhow::Result<Running> {
        let file = folder.join("plan");
        std::fs::write(&file, plan.encode_to_vec())?;
        let mut command = Command::new(std::env::current_exe()?);
        command.arg(BE_ECHO).arg(file);
        let spawned = world::spawn(command)?;
        Ok(Running { child: spawned.child, url: spawned.line.trim().to_owned() })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
