//! Sells to devices: offers, orders, passes, grants.
//!
//! An order belongs to the account of the caller's membership. A key is unsealed, held against its commitment and
//! wrapped to the caller only after the grant is in the journal.

use std::sync::{Mutex, PoisonError};

use daemon::{Exit, Failure};
use swarm_proto::code::PassCode;
use swarm_proto::id::{AccountId, ItemId, OrderId};
use swarm_proto::keyserver::attempts::Attempts;
use swarm_proto::keyserver::ledger::Release;
use swarm_proto::keyserver::record::{IdempotencyKey, PassId};
use swarm_proto::keyserver::refusals::PayRefusal;
use swarm_proto::pb::keyserver as pb;
use swarm_proto::pb::keyserver::shop_server;
use swarm_proto::seal::Released;
use swarm_proto::signed::Signed;
use swarm_proto::wrap::{HpkePublic, Label, wrap};
use tonic::{Request, Response, Status};

use super::Context;
use crate::caller::Caller;
use crate::convert::{id, optional_item, order, order_id, page, page_request, refuse, settled};
use crate::{clock, refusals};

pub(crate) struct Shop {
    context: Context,
    attempts: Mutex<Attempts>,
}

impl Shop {
    pub(crate) fn new(context: Context) -> Shop {
        Shop { context, attempts: Mutex::default() }
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
        let account = caller.asker.account;
        let order_id = order_id(&request.order)?;
        let pass = self.pass_of(account, &request.code)?;
        let paid = self.context.books.pay_with_pass(account, order_id, pass).await;
        if matches!(paid, Ok(Err(PayRefusal::WrongCode))) {
            self.count_wrong(account);
        }
        let standing = settled(paid, refusals::pay)?;
        tracing::info!(order = %order_id, "order paid with a pass");
        Ok(order(standing))
    }

    async fn look_at_pass(&self, caller: Caller, code: &str) -> Result<pb::Pass, Status> {
        let account = caller.asker.account;
        let pass = self.pass_of(account, code)?;
        let Some((bought, left, expires)) = self.context.books.pass(pass).await.map_err(Failure::from)? else {
            self.count_wrong(account);
            return Err(refusals::wrong_code().into());
        };
        Ok(pb::Pass { credits_bought: bought, credits_left: left, expires_utc_ms: expires.as_millis() })
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
        let keys = &self.context.keys;
        let content_key = keys.vault.open(&licence.item, &licence.commitment, &key).map_err(|error| {
            tracing::error!(item = %licence.item, %error, "a deposited key cannot be released");
            Failure::new(Exit::Integrity, "E-VAULT-03", "the key of the item cannot be released")
                .why(error)
                .hint("the operator checks the journal with `keyserver audit verify`")
        })?;
        let signed = Signed::sign(&keys.signing, &licence).map_err(|error| {
            Failure::new(Exit::Failed, "E-GRANT-02", "the licence breaks a rule")
                .why(error)
                .hint("report this: it is a fault of the keyserver")
        })?;
        let secret = Released::Whole(content_key).encode();
        let wrapped =
            wrap(&mut crate::rng(), to, Label::Grant, &licence.grant_aad(&signed), &secret).map_err(|error| {
                Failure::new(Exit::Usage, "E-GRANT-03", "the key cannot be wrapped to the device")
                    .why(error)
                    .hint("enrol the device again: its HPKE key is unusable")
            })?;
        Ok(pb::Grant { licence: Some(signed.into()), key: Some(wrapped.into()), utc_ms: clock::utc().as_millis() })
    }

    /// The pass that a code names, unless the account has tried too many wrong ones.
    fn pass_of(&self, account: AccountId, code: &str) -> Result<PassId, Status> {
        let admitted = self.attempts(|attempts| attempts.admit(clock::now().mono, &account));
        if let Err(wait) = admitted {
            self.context.counters.count("pass code", "held up");
            return Err(Failure::new(Exit::Storage, "E-PASS-02", "too many wrong pass codes")
                .hint(format!("try again in {} minutes", wait.as_secs().div_ceil(60)))
                .into());
        }
        // A typing error is found by the check character and costs no attempt: it says nothing about any pass.
        let code = PassCode::parse(code).map_err(|error| {
            Failure::new(Exit::Usage, "E-PASS-03", "this is not a pass code")
                .why(error)
                .hint("check the code and type it again")
        })?;
        Ok(self.context.keys.vault.pass_id(&code))
    }

    fn count_wrong(&self, account: AccountId) {
        self.context.counters.count("pass code", "wrong");
        self.attempts(|attempts| attempts.handle_wrong(clock::now().mono, account));
    }

    fn attempts<T>(&self, act: impl FnOnce(&mut Attempts) -> T) -> T {
        act(&mut self.attempts.lock().unwrap_or_else(PoisonError::into_inner))
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
