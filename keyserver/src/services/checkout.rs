//! Links to the checkout pages, for devices.

use swarm_proto::id::{ItemId, OrderId};
use swarm_proto::pb::keyserver as pb;
use swarm_proto::pb::keyserver::checkout_server;
use swarm_proto::pb::keyserver::open_checkout_request::Goal;
use tonic::{Request, Response, Status};

use super::Context;
use crate::checkout::Checkout;
use crate::convert::{id, settled};
use crate::refusals;

pub(crate) struct Links {
    context: Context,
    pages: Checkout,
}

impl Links {
    pub(crate) fn new(context: Context, pages: Checkout) -> Links {
        Links { context, pages }
    }
}

#[tonic::async_trait]
impl checkout_server::Checkout for Links {
    async fn open_checkout(
        &self,
        request: Request<pb::OpenCheckoutRequest>,
    ) -> Result<Response<pb::OpenCheckoutResponse>, Status> {
        let caller = self.context.caller(&request)?;
        let account = caller.asker.account;
        let goal = match request.into_inner().goal {
            None => String::new(),
            Some(Goal::Order(order)) => {
                let order: OrderId = id("order", &order)?;
                settled(self.context.books.order(account, order).await, refusals::look)?;
                format!("/order/{order}")
            }
            Some(Goal::Item(item)) => format!("/item/{}", id::<ItemId>("item", &item)?),
        };
        let (url, end) = self.pages.link(account, &goal);
        self.context.counters.count("checkout link", "done");
        Ok(Response::new(pb::OpenCheckoutResponse { url, expires_utc_ms: end.as_millis() }))
    }
}
