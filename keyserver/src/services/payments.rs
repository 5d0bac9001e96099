//! What the operator asks about money: orders with what happened to them, refunds, passes, bills, ways to pay.
//!
//! The token is checked before a call comes here. The code of a pass exists in the answer and nowhere else.

use std::time::Duration;

use daemon::{Exit, Failure};
use swarm_proto::code::PassCode;
use swarm_proto::id::{AccountId, OrderId, RefundId};
use swarm_proto::invalid::Invalid;
use swarm_proto::keyserver::billing::{Limit, Month, cell};
use swarm_proto::keyserver::ledger::Refunding;
use swarm_proto::keyserver::passes::{Holds, Pass};
use swarm_proto::keyserver::record::{Card, Label, PassId, Reason, Reference};
use swarm_proto::keyserver::refusals::LookRefusal;
use swarm_proto::pb::keyserver as pb;
use swarm_proto::pb::keyserver::payments_server;
use swarm_proto::pb::keyserver::show_pass_request::Which;
use tonic::{Request, Response, Status};

use super::Context;
use crate::books::{MAX_PAGE, Standing};
use crate::convert::{id, order, order_id, present, refuse, settled};
use crate::gateway::Gateways;
use crate::{refusals, words};

/// The columns of an export.
const COLUMNS: [&str; 8] = ["account", "time", "order", "title", "offer", "charge_minor", "credit_minor", "currency"];

pub(crate) struct Payments {
    context: Context,
    gateways: Gateways,
}

impl Payments {
    pub(crate) fn new(context: Context, gateways: Gateways) -> Payments {
        Payments { context, gateways }
    }

    async fn pass(&self, pass: PassId) -> Result<Pass, Status> {
        let found = self.context.books.any_pass(pass).await.map_err(Failure::from)?;
        Ok(found.ok_or_else(refusals::wrong_code)?)
    }
}

fn report(standing: Standing) -> pb::OrderReport {
    let found = &standing.order;
    let currency = found.price.currency;
    let created = pb::Happening { utc_ms: found.created.as_millis(), what: "ordered".to_owned() };
    let timeline = found
        .dues
        .timeline()
        .into_iter()
        .map(|(at, what)| pb::Happening { utc_ms: at.as_millis(), what: words::happening(&what, currency) });
    pb::OrderReport {
        account: found.account.to_vec(),
        timeline: [created].into_iter().chain(timeline).collect(),
        returned_minor: found.dues.returned_minor(found.price.minor),
        order: Some(order(standing)),
    }
}

fn pass_report(id: PassId, pass: &Pass) -> pb::PassReport {
    pb::PassReport {
        pass: id.to_vec(),
        credits_bought: pass.credits_bought(),
        credits_left: pass.credits_left(),
        for_time: pass.holds() == Holds::Time,
        expires_utc_ms: pass.expires().as_millis(),
        account: pass.owner().map(|owner| owner.to_vec()).unwrap_or_default(),
        order: pass.bought_by().map(|order| order.to_vec()).unwrap_or_default(),
        voided: pass.is_void(),
        orders_paid: u32::try_from(pass.orders_paid()).unwrap_or(u32::MAX),
    }
}

fn pass_id(bytes: &[u8]) -> Result<PassId, Status> {
    let bytes = bytes.try_into().map_err(|_| refuse(Invalid::new("pass", "must be 32 bytes")))?;
    Ok(PassId::from_bytes(bytes))
}

fn month(text: &str) -> Result<Month, Status> {
    text.parse().map_err(refuse)
}

#[tonic::async_trait]
impl payments_server::Payments for Payments {
    async fn show_order(&self, request: Request<pb::ShowOrderRequest>) -> Result<Response<pb::OrderReport>, Status> {
        let order = order_id(&request.get_ref().order)?;
        let found = self.context.books.any_order(order).await.map_err(Failure::from)?;
        Ok(Response::new(report(found.ok_or_else(|| refusals::look(&LookRefusal::NoSuchOrder))?)))
    }

    async fn refund(&self, request: Request<pb::RefundRequest>) -> Result<Response<pb::OrderReport>, Status> {
        let pb::RefundRequest { order, refund, minor, keeps_rights, reason } = request.into_inner();
        let (order, refund): (OrderId, RefundId) = (order_id(&order)?, id("refund", &refund)?);
        let wish = Refunding { minor, keeps_rights, reason: Reason::new(&reason).map_err(refuse)? };
        let standing = settled(self.context.books.refund(order, wish, refund).await, refusals::refund)?;
        tracing::info!(%order, %refund, "order refunded by the operator");
        Ok(Response::new(report(standing)))
    }

    async fn list_stuck(
        &self,
        _request: Request<pb::ListStuckRequest>,
    ) -> Result<Response<pb::ListStuckResponse>, Status> {
        let stuck = self.context.books.stuck_orders().await.map_err(Failure::from)?;
        Ok(Response::new(pb::ListStuckResponse { orders: stuck.into_iter().map(order).collect() }))
    }

    async fn create_time_pass(
        &self,
        request: Request<pb::CreateTimePassRequest>,
    ) -> Result<Response<pb::CreatePassResponse>, Status> {
        let valid = Duration::from_millis(request.get_ref().valid_ms);
        let code = PassCode::generate(&mut crate::rng());
        let pass = self.context.keys.now().vault.pass_id(&code);
        let expires = settled(self.context.books.create_time_pass(pass, valid).await, refusals::pass)?;
        tracing::info!(%expires, "time pass created");
        let code = code.reveal().to_string();
        Ok(Response::new(pb::CreatePassResponse { code, expires_utc_ms: expires.as_millis() }))
    }

    async fn list_passes(
        &self,
        request: Request<pb::ListPassesRequest>,
    ) -> Result<Response<pb::ListPassesResponse>, Status> {
        let pb::ListPassesRequest { page_size, after } = request.into_inner();
        let size = page_size as usize;
        if !(1..=MAX_PAGE).contains(&size) {
            return Err(refuse(Invalid::new("page_size", format!("must be 1 to {MAX_PAGE}"))));
        }
        let after = if after.is_empty() { None } else { Some(pass_id(&after)?) };
        let passes = self.context.books.all_passes(after, size).await.map_err(Failure::from)?;
        let passes = passes.iter().map(|(id, pass)| pass_report(*id, pass)).collect();
        Ok(Response::new(pb::ListPassesResponse { passes }))
    }

    async fn show_pass(&self, request: Request<pb::ShowPassRequest>) -> Result<Response<pb::PassReport>, Status> {
        let pass = match present("which", request.into_inner().which)? {
            Which::Pass(bytes) => pass_id(&bytes)?,
            Which::Code(code) => {
                let code = PassCode::parse(&code).map_err(|error| refuse(Invalid::new("code", error.to_string())))?;
                self.context.keys.now().vault.pass_id(&code)
            }
        };
        Ok(Response::new(pass_report(pass, &self.pass(pass).await?)))
    }

    async fn void_pass(&self, request: Request<pb::VoidPassRequest>) -> Result<Response<pb::PassReport>, Status> {
        let pb::VoidPassRequest { pass, reason } = request.into_inner();
        let (pass, reason) = (pass_id(&pass)?, Reason::new(&reason).map_err(refuse)?);
        let unused = settled(self.context.books.void_pass(pass, reason).await, refusals::void)?;
        tracing::info!(?pass, unused, "pass taken back by the operator");
        Ok(Response::new(pass_report(pass, &self.pass(pass).await?)))
    }

    async fn set_credit_limit(
        &self,
        request: Request<pb::SetCreditLimitRequest>,
    ) -> Result<Response<pb::SetCreditLimitResponse>, Status> {
        let pb::SetCreditLimitRequest { account, minor, currency } = request.into_inner();
        let account: AccountId = id("account", &account)?;
        let limit = Limit { minor, currency: currency.parse().map_err(refuse)? };
        let already = settled(self.context.books.set_credit_limit(account, limit).await, refusals::bill)?;
        let wallet = self.context.books.wallet(account).await.map_err(Failure::from)?;
        let owed_minor = wallet.bill.map_or(0, |(_, owed)| owed);
        tracing::info!(%account, minor, already, "credit limit set");
        Ok(Response::new(pb::SetCreditLimitResponse { already, owed_minor }))
    }

    async fn export_bills(
        &self,
        request: Request<pb::ExportBillsRequest>,
    ) -> Result<Response<pb::ExportBillsResponse>, Status> {
        let pb::ExportBillsRequest { month: text, skip } = request.into_inner();
        let skip = usize::try_from(skip).map_err(|_| refuse(Invalid::new("skip", "is too large")))?;
        let page = self.context.books.bill_page(month(&text)?, skip).await.map_err(Failure::from)?;
        let head = if skip == 0 { COLUMNS.map(cell).join(",") + "\r\n" } else { String::new() };
        Ok(Response::new(pb::ExportBillsResponse {
            csv: head + &page.rows,
            lines: page.lines as u64,
            complete: page.complete,
            closed: page.closed,
        }))
    }

    async fn close_month(
        &self,
        request: Request<pb::CloseMonthRequest>,
    ) -> Result<Response<pb::CloseMonthResponse>, Status> {
        let month = month(&request.get_ref().month)?;
        let already = settled(self.context.books.close_month(month).await, refusals::bill)?;
        tracing::info!(%month, already, "bills closed");
        Ok(Response::new(pb::CloseMonthResponse { already }))
    }

    async fn save_card(&self, request: Request<pb::SaveCardRequest>) -> Result<Response<pb::SaveCardResponse>, Status> {
        let pb::SaveCardRequest { account, label, method, customer } = request.into_inner();
        let account: AccountId = id("account", &account)?;
        let customer = (!customer.is_empty()).then(|| Reference::new(&customer)).transpose().map_err(refuse)?;
        let card = Card {
            label: Label::new(&label).map_err(refuse)?,
            method: Reference::new(&method).map_err(refuse)?,
            customer,
        };
        let already = settled(self.context.books.save_card(account, card).await, refusals::payers_full)?;
        tracing::info!(%account, already, "card saved");
        Ok(Response::new(pb::SaveCardResponse { already }))
    }

    async fn list_gateways(
        &self,
        _request: Request<pb::ListGatewaysRequest>,
    ) -> Result<Response<pb::ListGatewaysResponse>, Status> {
        let gateways = self.gateways.all().into_iter().map(|gateway| {
            let (setup, ready) = gateway.setup();
            pb::Gateway { name: gateway.name().to_owned(), setup, ready }
        });
        Ok(Response::new(pb::ListGatewaysResponse { gateways: gateways.collect() }))
    }

    async fn check_gateway(
        &self,
        request: Request<pb::CheckGatewayRequest>,
    ) -> Result<Response<pb::CheckGatewayResponse>, Status> {
        let name = request.into_inner().name;
        let found = self.gateways.all().into_iter().find(|gateway| gateway.name() == name);
        let gateway = found.ok_or_else(|| {
            Failure::new(Exit::NotFound, "E-WAY-10", format!("there is no way to pay called {name:?} here"))
                .hint("keyserver gateway ls; Stripe is there once stripe.key_file is set")
        })?;
        Ok(Response::new(pb::CheckGatewayResponse { said: gateway.check().await? }))
    }
}
