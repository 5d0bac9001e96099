//! The stream of each running device, and the question who sends what.

use std::net::IpAddr;
use std::pin::Pin;
use std::time::Duration;

use daemon::exit::Failure;
use futures::Stream;
use swarm_proto::id::DeviceId;
use swarm_proto::invalid::Invalid;
use swarm_proto::pb::tracker as pb;
use swarm_proto::pb::tracker::report::Report;
use swarm_proto::pb::tracker::swarm_server::Swarm;
use tonic::{Request, Response, Status, Streaming};

use super::Shared;
use crate::convert::{self, Hello};
use crate::mailbox::Mailbox;
use crate::{auth, refusal};

/// How long a device may take from opening its stream to its Hello.
const HELLO_WITHIN: Duration = Duration::from_secs(10);

pub(super) struct Service(pub(super) Shared);

#[tonic::async_trait]
impl Swarm for Service {
    type AttendStream = Pin<Box<dyn Stream<Item = Result<pb::Notice, Status>> + Send>>;

    async fn attend(&self, request: Request<Streaming<pb::Report>>) -> Result<Response<Self::AttendStream>, Status> {
        let device = self.0.auth.device(&request)?;
        let from = auth::address_of(&request)?;
        self.0.state.check_member(device).await.map_err(refusal::status)?;
        let mailbox = Mailbox::default();
        let reader = Reader { shared: self.0.clone(), device, from, mailbox: mailbox.clone(), session: None };
        self.0.shutdown.spawn(reader.run(request.into_inner()));
        Ok(Response::new(Box::pin(mailbox.read())))
    }

    async fn assign_sources(&self, request: Request<pb::AssignSourcesRequest>) -> Result<Response<pb::Plan>, Status> {
        let device = self.0.auth.device(&request)?;
        let from = auth::address_of(&request)?;
        let message = request.into_inner();
        let item = convert::id("item", &message.item).map_err(convert::bad)?;
        let class = convert::class(message.class, message.playing).map_err(convert::bad)?;
        let plan = self.0.state.assign(device, from, item, message.missing, class).await;
        plan.map(Response::new).map_err(refusal::status)
    }
}

/// Reads what one device reports, until its stream or the tracker ends.
struct Reader {
    shared: Shared,
    device: DeviceId,
    from: IpAddr,
    mailbox: Mailbox,
    session: Option<u64>,
}

impl Reader {
    async fn run(mut self, reports: Streaming<pb::Report>) {
        let closed = self.mailbox.closed();
        let ended = closed.run_until_cancelled(self.read(reports)).await;
        if let Some(Err(failure)) = ended {
            self.mailbox.close(refusal::status(failure));
        }
        if let Some(session) = self.session
            && let Err(failure) = self.shared.state.depart(self.device, session).await
        {
            tracing::debug!(%failure, "a device left while the tracker was stopping");
        }
        // A device that closed its side cleanly is told that nothing more will come.
        self.mailbox.close(Status::cancelled("the device has closed its stream"));
    }

    async fn read(&mut self, mut reports: Streaming<pb::Report>) -> Result<(), Failure> {
        let first = tokio::time::timeout(HELLO_WITHIN, reports.message()).await;
        let Ok(mut next) = first else { return Err(not_a_hello("it did not come in time")) };
        loop {
            let report = match next {
                Ok(Some(message)) => message.report,
                Ok(None) => return Ok(()),
                Err(status) if status.code() == tonic::Code::OutOfRange => return Err(Failure::from(status)),
                Err(status) => {
                    tracing::debug!(device = %self.device.short(), %status, "a device's stream broke");
                    return Ok(());
                }
            };
            self.take(report.ok_or_else(unknown_report)?).await?;
            next = reports.message().await;
        }
    }

    async fn take(&mut self, report: Report) -> Result<(), Failure> {
        match (report, self.session) {
            (Report::Hello(hello), again) => {
                let hello = Hello::try_from(hello).map_err(|invalid| refusal::field(&invalid))?;
                let arrived = self.shared.state.arrive(self.device, self.from, hello, self.mailbox.clone(), again);
                self.session = Some(arrived.await?);
                Ok(())
            }
            (report, Some(session)) => self.shared.state.report(self.device, session, report).await,
            (_, None) => Err(not_a_hello("something else came first")),
        }
    }
}

fn not_a_hello(why: &'static str) -> Failure {
    refusal::field(&Invalid::new("report", format!("must begin with a hello: {why}")))
}

fn unknown_report() -> Failure {
    refusal::field(&Invalid::new("report", "is of a kind that this tracker does not know"))
}
