//! What seeds keep and boxes preload: what devices ask about it, and what the operator decides.

use swarm_proto::geometry::MAX_SPANS;
use swarm_proto::invalid::Invalid;
use swarm_proto::pb::tracker as pb;
use swarm_proto::pb::tracker::custody_server::Custody;
use swarm_proto::pb::tracker::preload_server::Preload;
use swarm_proto::pb::tracker::repositories_server::Repositories;
use swarm_proto::tracker::preload::{Extent, Wanted};
use tonic::{Request, Response, Status};

use super::Shared;
use crate::{convert, refusal};

#[derive(Clone)]
pub(super) struct Service(pub(super) Shared);

#[tonic::async_trait]
impl Custody for Service {
    async fn release(&self, request: Request<pb::ReleaseRequest>) -> Result<Response<pb::ReleaseResponse>, Status> {
        let device = self.0.auth.device(&request)?;
        let message = request.get_ref();
        let item = convert::id("item", &message.item).map_err(convert::bad)?;
        let reason = match message.reason() {
            pb::ReleaseReason::Unspecified => {
                return Err(convert::bad(Invalid::new("reason", "is missing or unknown")));
            }
            reason => reason,
        };
        self.0.state.release(device, item, reason).await.map(Response::new).map_err(refusal::status)
    }
}

#[tonic::async_trait]
impl Repositories for Service {
    async fn list_seeds(
        &self,
        request: Request<pb::ListSeedsRequest>,
    ) -> Result<Response<pb::ListSeedsResponse>, Status> {
        self.0.auth.operator(&request)?;
        let message = request.get_ref();
        let after = convert::optional_id("page_token", &message.page_token).map_err(convert::bad)?;
        let size = convert::page_size(message.page_size).map_err(convert::bad)?;
        self.0.state.seeds(after, size).await.map(Response::new).map_err(refusal::status)
    }

    async fn list_seed_items(
        &self,
        request: Request<pb::ListSeedItemsRequest>,
    ) -> Result<Response<pb::ListSeedItemsResponse>, Status> {
        self.0.auth.operator(&request)?;
        let message = request.get_ref();
        let seed = convert::id("device", &message.device).map_err(convert::bad)?;
        let after = convert::optional_id("page_token", &message.page_token).map_err(convert::bad)?;
        let size = convert::page_size(message.page_size).map_err(convert::bad)?;
        self.0.state.seed_items(seed, after, size).await.map(Response::new).map_err(refusal::status)
    }

    async fn set_seed_draining(
        &self,
        request: Request<pb::SetSeedDrainingRequest>,
    ) -> Result<Response<pb::Seed>, Status> {
        self.0.auth.operator(&request)?;
        let message = request.get_ref();
        let seed = convert::id("device", &message.device).map_err(convert::bad)?;
        self.0.state.drain(seed, message.draining).await.map(Response::new).map_err(refusal::status)
    }
}

#[tonic::async_trait]
impl Preload for Service {
    async fn set_target(&self, request: Request<pb::SetTargetRequest>) -> Result<Response<pb::PreloadTarget>, Status> {
        self.0.auth.operator(&request)?;
        let message = request.into_inner();
        let title = convert::id("title", &message.title).map_err(convert::bad)?;
        let wanted = wanted(&message).map_err(convert::bad)?;
        let target = self.0.state.set_target(title, message.site, wanted, message.dry_run).await;
        target.map(Response::new).map_err(refusal::status)
    }

    async fn remove_target(
        &self,
        request: Request<pb::RemoveTargetRequest>,
    ) -> Result<Response<pb::RemoveTargetResponse>, Status> {
        self.0.auth.operator(&request)?;
        let message = request.into_inner();
        let title = convert::id("title", &message.title).map_err(convert::bad)?;
        let removed = self.0.state.remove_target(title, message.site).await.map_err(refusal::status)?;
        Ok(Response::new(pb::RemoveTargetResponse { already: !removed }))
    }

    async fn list_targets(
        &self,
        request: Request<pb::ListTargetsRequest>,
    ) -> Result<Response<pb::ListTargetsResponse>, Status> {
        self.0.auth.operator(&request)?;
        let targets = self.0.state.targets(request.into_inner().site).await.map_err(refusal::status)?;
        Ok(Response::new(pb::ListTargetsResponse { targets }))
    }
}

fn wanted(message: &pb::SetTargetRequest) -> Result<Wanted, Invalid> {
    let share_percent = u8::try_from(message.share_percent).ok().filter(|share| (1..=100).contains(share));
    let extent = match message.starts_spans {
        None => Extent::Whole,
        Some(spans) if (1..=MAX_SPANS).contains(&spans) => Extent::Starts { spans },
        Some(_) => return Err(Invalid::new("starts_spans", format!("must be 1 to {MAX_SPANS}"))),
    };
    let share_percent = share_percent.ok_or_else(|| Invalid::new("share_percent", "must be 1 to 100"))?;
    Ok(Wanted { extent, share_percent })
}
