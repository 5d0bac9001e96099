//! What the operator does: admits publishers, sells passes, looks at orders, refunds.
//!
//! The token is checked before a call comes here. The code of a pass exists in the answer and nowhere else.

use std::time::Duration;

use daemon::Failure;
use swarm_proto::code::PassCode;
use swarm_proto::id::RefundId;
use swarm_proto::keyserver::ledger::Refunding;
use swarm_proto::keyserver::record::Reason;
use swarm_proto::pb::keyserver as pb;
use swarm_proto::pb::keyserver::operator_server;
use tonic::{Request, Response, Status};

use super::Context;
use crate::convert::{id, order, order_id, page, page_request, refuse, settled};
use crate::refusals;

pub(crate) struct Operator {
    context: Context,
}

impl Operator {
    pub(crate) fn new(context: Context) -> Operator {
        Operator { context }
    }
}

#[tonic::async_trait]
impl operator_server::Operator for Operator {
    async fn admit_publisher(
        &self,
        request: Request<pb::AdmitPublisherRequest>,
    ) -> Result<Response<pb::AdmitPublisherResponse>, Status> {
        let pb::AdmitPublisherRequest { publisher, name } = request.into_inner();
        let publisher = id("publisher", &publisher)?;
        let already = settled(self.context.books.admit_publisher(publisher, name).await, refusals::admit)?;
        tracing::info!(%publisher, already, "publisher admitted");
        Ok(Response::new(pb::AdmitPublisherResponse { already }))
    }

    async fn create_pass(
        &self,
        request: Request<pb::CreatePassRequest>,
    ) -> Result<Response<pb::CreatePassResponse>, Status> {
        let pb::CreatePassRequest { credits, valid_ms } = request.into_inner();
        let code = PassCode::generate(&mut crate::rng());
        let pass = self.context.keys.now().vault.pass_id(&code);
        let created = self.context.books.create_pass(pass, credits, Duration::from_millis(valid_ms)).await;
        let expires = settled(created, refusals::pass)?;
        tracing::info!(credits, %expires, "pass created");
        let code = code.reveal().to_string();
        Ok(Response::new(pb::CreatePassResponse { code, expires_utc_ms: expires.as_millis() }))
    }

    async fn list_all_orders(
        &self,
        request: Request<pb::ListAllOrdersRequest>,
    ) -> Result<Response<pb::ListOrdersResponse>, Status> {
        let (before, size) = page_request(request.get_ref().page_size, &request.get_ref().page_token)?;
        let orders = self.context.books.all_orders(before, size).await.map_err(Failure::from)?;
        Ok(Response::new(page(orders)))
    }

    async fn refund_order(&self, request: Request<pb::RefundOrderRequest>) -> Result<Response<pb::Order>, Status> {
        let pb::RefundOrderRequest { order: refunded, reason } = request.into_inner();
        let refunded = order_id(&refunded)?;
        let reason = Reason::new(&reason).map_err(refuse)?;
        let new = RefundId::generate(&mut crate::rng());
        let standing =
            settled(self.context.books.refund(refunded, Refunding::whole(reason), new).await, refusals::refund)?;
        tracing::info!(order = %refunded, "order refunded by the operator");
        Ok(Response::new(order(standing)))
    }
}
