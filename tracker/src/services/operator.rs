//! What only the operator may do.

use swarm_proto::pb::tracker as pb;
use swarm_proto::pb::tracker::operator_server::Operator;
use swarm_proto::tracker::registry::CustomerChange;
use tonic::{Request, Response, Status};

use super::Shared;
use crate::{convert, refusal};

pub(super) struct Service(pub(super) Shared);

#[tonic::async_trait]
impl Operator for Service {
    async fn add_customer(&self, request: Request<pb::AddCustomerRequest>) -> Result<Response<pb::Customer>, Status> {
        self.0.auth.operator(&request)?;
        let message = request.into_inner();
        let name = convert::name("name", &message.name).map_err(convert::bad)?;
        let more = CustomerChange {
            name: None,
            region: Some(convert::region(&message.region).map_err(convert::bad)?),
            rating_limit: convert::rating_limit(message.rating_limit).map_err(convert::bad)?,
        };
        self.0.state.add_customer(name, more).await.map(Response::new).map_err(refusal::status)
    }

    async fn list_customers(
        &self,
        request: Request<pb::ListCustomersRequest>,
    ) -> Result<Response<pb::ListCustomersResponse>, Status> {
        self.0.auth.operator(&request)?;
        let message = request.get_ref();
        let after = convert::optional_id("page_token", &message.page_token).map_err(convert::bad)?;
        let size = convert::page_size(message.page_size).map_err(convert::bad)?;
        self.0.state.customers(after, size).await.map(Response::new).map_err(refusal::status)
    }

    async fn set_customer_status(
        &self,
        request: Request<pb::SetCustomerStatusRequest>,
    ) -> Result<Response<pb::Customer>, Status> {
        self.0.auth.operator(&request)?;
        let message = request.get_ref();
        let account = convert::id("account", &message.account).map_err(convert::bad)?;
        let standing = convert::standing(message.status).map_err(convert::bad)?;
        self.0.state.set_customer_status(account, standing).await.map(Response::new).map_err(refusal::status)
    }

    async fn invite_device(
        &self,
        request: Request<pb::InviteDeviceRequest>,
    ) -> Result<Response<pb::InviteDeviceResponse>, Status> {
        self.0.auth.operator(&request)?;
        let message = request.into_inner();
        let account = convert::id("account", &message.account).map_err(convert::bad)?;
        let kind = convert::kind(message.kind).map_err(convert::bad)?;
        let valid = convert::invite_valid(message.valid_ms).map_err(convert::bad)?;
        self.0.state.invite(account, kind, message.site, valid).await.map(Response::new).map_err(refusal::status)
    }

    async fn list_devices(
        &self,
        request: Request<pb::ListDevicesRequest>,
    ) -> Result<Response<pb::ListDevicesResponse>, Status> {
        self.0.auth.operator(&request)?;
        let message = request.get_ref();
        let account = convert::optional_id("account", &message.account).map_err(convert::bad)?;
        let after = convert::optional_id("page_token", &message.page_token).map_err(convert::bad)?;
        let size = convert::page_size(message.page_size).map_err(convert::bad)?;
        self.0.state.devices(account, after, size).await.map(Response::new).map_err(refusal::status)
    }

    async fn revoke_device(&self, request: Request<pb::RevokeDeviceRequest>) -> Result<Response<pb::Device>, Status> {
        self.0.auth.operator(&request)?;
        let device = convert::id("device", &request.get_ref().device).map_err(convert::bad)?;
        self.0.state.revoke(device).await.map(Response::new).map_err(refusal::status)
    }

    async fn admit_publisher(
        &self,
        request: Request<pb::AdmitPublisherRequest>,
    ) -> Result<Response<pb::AdmitPublisherResponse>, Status> {
        self.0.auth.operator(&request)?;
        let message = request.get_ref();
        let publisher = convert::id("publisher", &message.publisher).map_err(convert::bad)?;
        let name = convert::name("name", &message.name).map_err(convert::bad)?;
        let already = self.0.state.admit_publisher(publisher, name).await.map_err(refusal::status)?;
        Ok(Response::new(pb::AdmitPublisherResponse { already }))
    }

    async fn set_title_hidden(
        &self,
        request: Request<pb::SetTitleHiddenRequest>,
    ) -> Result<Response<pb::Title>, Status> {
        self.0.auth.operator(&request)?;
        let message = request.get_ref();
        let title = convert::id("title", &message.title).map_err(convert::bad)?;
        self.0.state.hide_title(title, message.hidden).await.map(Response::new).map_err(refusal::status)
    }

    async fn get_copies(&self, request: Request<pb::GetCopiesRequest>) -> Result<Response<pb::Copies>, Status> {
        self.0.auth.operator(&request)?;
        let item = convert::id("item", &request.get_ref().item).map_err(convert::bad)?;
        self.0.state.copies(item).await.map(Response::new).map_err(refusal::status)
    }

    async fn get_traffic(
        &self,
        request: Request<pb::GetTrafficRequest>,
    ) -> Result<Response<pb::TrafficTotals>, Status> {
        self.0.auth.operator(&request)?;
        self.0.state.traffic().await.map(Response::new).map_err(refusal::status)
    }
}
