//! What the operator asks about one customer: limits, leaving, and a way in for its browser.

use swarm_proto::pb::tracker as pb;
use swarm_proto::pb::tracker::customers_server::Customers;
use tonic::{Request, Response, Status};

use super::Shared;
use crate::{convert, refusal};

pub(super) struct Service(pub(super) Shared);

#[tonic::async_trait]
impl Customers for Service {
    async fn set_customer(&self, request: Request<pb::SetCustomerRequest>) -> Result<Response<pb::Customer>, Status> {
        self.0.auth.operator(&request)?;
        let message = request.into_inner();
        let account = convert::id("account", &message.account).map_err(convert::bad)?;
        let change = convert::customer_change(message).map_err(convert::bad)?;
        self.0.state.set_customer(account, change).await.map(Response::new).map_err(refusal::status)
    }

    async fn export_customer(
        &self,
        request: Request<pb::ExportCustomerRequest>,
    ) -> Result<Response<pb::CustomerExport>, Status> {
        self.0.auth.operator(&request)?;
        let message = request.get_ref();
        let account = convert::id("account", &message.account).map_err(convert::bad)?;
        let after = convert::export_token(&message.page_token).map_err(convert::bad)?;
        self.0.state.export_customer(account, after).await.map(Response::new).map_err(refusal::status)
    }

    async fn delete_customer(
        &self,
        request: Request<pb::DeleteCustomerRequest>,
    ) -> Result<Response<pb::DeletedCustomer>, Status> {
        self.0.auth.operator(&request)?;
        let message = request.get_ref();
        let account = convert::id("account", &message.account).map_err(convert::bad)?;
        self.0.state.delete_customer(account, message.dry_run).await.map(Response::new).map_err(refusal::status)
    }

    async fn make_sign_in_link(
        &self,
        request: Request<pb::MakeSignInLinkRequest>,
    ) -> Result<Response<pb::SignInLink>, Status> {
        self.0.auth.operator(&request)?;
        let account = convert::id("account", &request.get_ref().account).map_err(convert::bad)?;
        self.0.state.sign_in_link(account).await.map(Response::new).map_err(refusal::status)
    }
}
