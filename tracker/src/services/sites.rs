//! Sites, for the operator.

use swarm_proto::pb::tracker as pb;
use swarm_proto::pb::tracker::sites_server::Sites;
use tonic::{Request, Response, Status};

use super::Shared;
use crate::{convert, refusal};

pub(super) struct Service(pub(super) Shared);

#[tonic::async_trait]
impl Sites for Service {
    async fn list_sites(
        &self,
        request: Request<pb::ListSitesRequest>,
    ) -> Result<Response<pb::ListSitesResponse>, Status> {
        self.0.auth.operator(&request)?;
        self.0.state.sites().await.map(Response::new).map_err(refusal::status)
    }

    async fn get_site(&self, request: Request<pb::GetSiteRequest>) -> Result<Response<pb::SiteState>, Status> {
        self.0.auth.operator(&request)?;
        let site = convert::site_id("site", &request.get_ref().site).map_err(convert::bad)?;
        self.0.state.site(site).await.map(Response::new).map_err(refusal::status)
    }

    async fn put_site(&self, request: Request<pb::PutSiteRequest>) -> Result<Response<pb::SiteChanged>, Status> {
        self.0.auth.operator(&request)?;
        let message = request.into_inner();
        let described = convert::described(message.site).map_err(convert::bad)?;
        self.0.state.put_site(described, message.dry_run).await.map(Response::new).map_err(refusal::status)
    }

    async fn remove_site(&self, request: Request<pb::RemoveSiteRequest>) -> Result<Response<pb::SiteChanged>, Status> {
        self.0.auth.operator(&request)?;
        let message = request.get_ref();
        let site = convert::site_id("site", &message.site).map_err(convert::bad)?;
        self.0.state.remove_site(site, message.dry_run).await.map(Response::new).map_err(refusal::status)
    }
}
