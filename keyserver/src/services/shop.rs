//! Sells to devices: offers, orders, passes, grants.
//!
//! An order belongs to the account of the caller's membership. A key is unsealed, held against its commitment and
//! wrapped to the caller only after the grant is in the journal.

use std::sync::Arc;

use daemon::{Exit, Failure};
use swarm_proto::id::{ItemId, OrderId};
use swarm_proto::keyserver::ledger::Release;
use swarm_proto::keyserver::record::IdempotencyKey;
use swarm_proto::pb::keyserver as pb;
use swarm_proto::pb::keyserver::shop_server;
use swarm_proto::seal::Released;
use swarm_proto::signed::Signed;
use swarm_proto::wrap::{HpkePublic, Label, wrap};
use tonic::{Request, Response, Status};

use super::Context;
use crate::caller::Caller;
use crate::convert::{id, optional_item, order, order_id, page, page_request, refuse, settled};
use crate::gateway::pass::PassDesk;
use crate::gateway::{Instrument, PaymentGateway, Purchase};
use crate::{clock, refusals};

pub(crate) struct Shop {
    context: Context,
    passes: Arc<PassDesk>,
}

impl Shop {
    pub(crate) fn new(context: Context, passes: Arc<PassDesk>) -> Shop {
        Shop { context, passes }
    }

    async fn create(&self, caller: Caller, request: pb::CreateOrderRequest) -> Result<pb::Order, Status> {
        let key = IdempotencyKey::new(&request.idempotency_key).map_err(refuse)?;
        let item: ItemId = id("item", &request.item)?;
        let new = OrderId::generate(&mut crate::rng());
        let created = self.context.books.create_order(caller.asker.account, key, item, request.offer, new).await;
        let standing = settled(created, refusals::order)?;
        if standing.order.id == new {
            tracing::info!(order = %new, %item, offer = %standing.order.offer, "order created");
        }
        Ok(order(standing))
    }

    async fn pay(&self, caller: Caller, request: pb::PayWithPassRequest) -> Result<pb::Order, Status> {
        let purchase = Purchase { account: caller.asker.account, order: order_id(&request.order)? };
        Ok(order(self.passes.begin(purchase, Instrument::Code(request.code)).await?))
    }

    async fn look_at_pass(&self, caller: Caller, code: &str) -> Result<pb::Pass, Status> {
        let pass = self.passes.look(caller.asker.account, code).await?;
        Ok(pb::Pass {
            credits_bought: pass.credits_bought(),
            credits_left: pass.credits_left(),
            expires_utc_ms: pass.expires().as_millis(),
        })
    }

    async fn grant(&self, caller: Caller, order: &[u8]) -> Result<pb::Grant, Status> {
        let order = order_id(order)?;
        let granted = self.context.books.request_grant(caller.asker, order).await;
        if let Ok(Err(refusal)) = &granted {
            tracing::info!(%order, device = %caller.asker.device.short(), %refusal, "no key left");
        }
        let release = settled(granted, refusals::grant)?;
        let (serial, device) = (release.licence.serial, caller.asker.device);
        let grant = self.wrap(&caller.hpke, release)?;
        tracing::info!(%order, device = %device.short(), serial, "key left");
        Ok(grant)
    }

    /// Unseals a key, holds it against its commitment, and wraps it to the device together with its signed licence.
    fn wrap(&self, to: &HpkePublic, release: Release) -> Result<pb::Grant, Status> {
        let Release { licence, key } = release;
        let keys = self.context.keys.now();
        let content_key = keys.vault.open(&licence.item, &licence.commitment, &key).map_err(|error| {
            tracing::error!(item = %licence.item, %error, "a deposited key cannot be released");
            refusals::sealed_key(&error)
        })?;
        let signed = Signed::sign(&keys.signing, &licence).map_err(|error| {
            Failure::new(Exit::Failed, "E-GRANT-02", "the licence breaks a rule")
                .why(error)
                .hint("report this: it is a fault of the keyserver")
        })?;
        let utc_ms = clock::utc().as_millis();
        if licence.drip.is_some() {
            // Its keys leave while it plays; that there is one, and the right one, is known now.
            return Ok(pb::Grant { licence: Some(signed.into()), key: None, utc_ms });
        }
        let secret = Released::Whole(content_key).encode();
        let wrapped = wrap(&mut crate::rng(), to, Label::Grant, &licence.grant_aad(&signed), &secret)
            .map_err(|error| refusals::unwrappable(&error))?;
        Ok(pb::Grant { licence: Some(signed.into()), key: Some(wrapped.into()), utc_ms })
    }
}

#[tonic::async_trait]
impl shop_server::Shop for Shop {
    async fn get_offers(
        &self,
        request: Request<pb::GetOffersRequest>,
    ) -> Result<Response<pb::GetOffersResponse>, Status> {
        self.context.caller(&request)?;
        let item: ItemId = id("item", &request.get_ref().item)?;
        let offers = self.context.books.offers(item).await.map_err(Failure::from)?;
        let offers =
            offers.ok_or_else(|| refusals::order(&swarm_proto::keyserver::refusals::OrderRefusal::NoSuchItem))?;
        Ok(Response::new(pb::GetOffersResponse { offers: offers.iter().map(Into::into).collect() }))
    }

    async fn create_order(&self, request: Request<pb::CreateOrderRequest>) -> Result<Response<pb::Order>, Status> {
        let caller = self.context.caller(&request)?;
        let result = self.create(caller, request.into_inner()).await;
        self.context.counters.count_result("order", &result);
        result.map(Response::new)
    }

    async fn get_order(&self, request: Request<pb::GetOrderRequest>) -> Result<Response<pb::Order>, Status> {
        let caller = self.context.caller(&request)?;
        let found = self.context.books.order(caller.asker.account, order_id(&request.get_ref().order)?).await;
        Ok(Response::new(order(settled(found, refusals::look)?)))
    }

    async fn list_orders(
        &self,
        request: Request<pb::ListOrdersRequest>,
    ) -> Result<Response<pb::ListOrdersResponse>, Status> {
        let caller = self.context.caller(&request)?;
        let request = request.into_inner();
        let item = optional_item(&request.item)?;
        let (before, size) = page_request(request.page_size, &request.page_token)?;
        let orders = self.context.books.orders_of(caller.asker.account, item, before, size).await;
        Ok(Response::new(page(orders.map_err(Failure::from)?)))
    }

    async fn pay_with_pass(&self, request: Request<pb::PayWithPassRequest>) -> Result<Response<pb::Order>, Status> {
        let caller = self.context.caller(&request)?;
        let result = self.pay(caller, request.into_inner()).await;
        self.context.counters.count_result("pass payment", &result);
        result.map(Response::new)
    }

    async fn get_pass(&self, request: Request<pb::GetPassRequest>) -> Result<Response<pb::Pass>, Status> {
        let caller = self.context.caller(&request)?;
        self.look_at_pass(caller, &request.get_ref().code).await.map(Response::new)
    }

    async fn request_grant(&self, request: Request<pb::RequestGrantRequest>) -> Result<Response<pb::Grant>, Status> {
        let caller = self.context.caller(&request)?;
        let result = self.grant(caller, &request.get_ref().order).await;
        self.context.counters.count_result("grant", &result);
        result.map(Response::new)
    }
}
