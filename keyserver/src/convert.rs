//! Between the messages of the contract and our types; what comes in is checked here, field by field.

use daemon::Failure;
use swarm_proto::id::{ItemId, OrderId};
use swarm_proto::invalid::Invalid;
use swarm_proto::keyserver::orders::{Means, OrderState};
use swarm_proto::pb::keyserver as pb;
use tonic::Status;

use crate::books::{MAX_PAGE, Page, Standing};
use crate::refusals;

/// A field of fixed length.
pub(crate) fn id<'a, T: TryFrom<&'a [u8], Error: std::fmt::Display>>(
    field: &'static str,
    bytes: &'a [u8],
) -> Result<T, Status> {
    T::try_from(bytes).map_err(|error| refuse(Invalid::new(field, error.to_string())))
}

pub(crate) fn refuse(invalid: Invalid) -> Status {
    refusals::invalid(&invalid).into()
}

/// A message field that has to be there.
pub(crate) fn present<T>(field: &'static str, value: Option<T>) -> Result<T, Status> {
    value.ok_or_else(|| refuse(Invalid::new(field, "is missing")))
}

/// An item to look for, or all.
pub(crate) fn optional_item(bytes: &[u8]) -> Result<Option<ItemId>, Status> {
    optional_id("item", bytes)
}

/// A field of fixed length, or an empty one.
pub(crate) fn optional_id<'a, T: TryFrom<&'a [u8], Error: std::fmt::Display>>(
    field: &'static str,
    bytes: &'a [u8],
) -> Result<Option<T>, Status> {
    if bytes.is_empty() { Ok(None) } else { id(field, bytes).map(Some) }
}

/// Where a page of a list begins, and how long it may be.
pub(crate) fn page_request(page_size: u32, page_token: &[u8]) -> Result<(Option<usize>, usize), Status> {
    let before = match page_token {
        [] => None,
        token => {
            let place = token.try_into().map(u32::from_be_bytes);
            Some(place.map_err(|_| refuse(Invalid::new("page_token", "must come from an earlier answer")))? as usize)
        }
    };
    match page_size as usize {
        size @ 1..=MAX_PAGE => Ok((before, size)),
        _ => Err(refuse(Invalid::new("page_size", format!("must be 1 to {MAX_PAGE}")))),
    }
}

/// What continues a list at a place.
pub(crate) fn page_token(next: Option<usize>) -> Vec<u8> {
    // Orders are counted in at most a few million: their places fit.
    next.map(|place| (place as u32).to_be_bytes().to_vec()).unwrap_or_default()
}

pub(crate) fn page(page: Page) -> pb::ListOrdersResponse {
    let next_page_token = page_token(page.next);
    pb::ListOrdersResponse { orders: page.orders.into_iter().map(order).collect(), next_page_token }
}

pub(crate) fn order(standing: Standing) -> pb::Order {
    let Standing { order, state } = standing;
    let payment = order.payment();
    let paid_by = payment.map_or("", |payment| match payment.means {
        Means::Pass(_) => "pass",
        Means::Webhook(_) => "webhook",
        Means::Provider(_) => "stripe",
        Means::Bill(_) => "bill",
    });
    pb::Order {
        order: order.id.to_vec(),
        item: order.item().map(|item| item.to_vec()).unwrap_or_default(),
        offer: order.offer.to_string(),
        state: state_of(state).into(),
        price: Some(order.price.into()),
        created_utc_ms: order.created.as_millis(),
        paid_utc_ms: payment.map(|payment| payment.at.as_millis()),
        paid_by: paid_by.to_owned(),
    }
}

fn state_of(state: OrderState) -> pb::OrderState {
    match state {
        OrderState::Pending => pb::OrderState::Pending,
        OrderState::Paid => pb::OrderState::Paid,
        OrderState::Granted => pb::OrderState::Granted,
        OrderState::Refunded => pb::OrderState::Refunded,
        OrderState::Disputed => pb::OrderState::Disputed,
        OrderState::Expired => pb::OrderState::Expired,
    }
}

/// The name of an order, as a field of a request.
pub(crate) fn order_id(bytes: &[u8]) -> Result<OrderId, Status> {
    id("order", bytes)
}

/// Turns what the books and the ledger say into an answer or a status.
pub(crate) fn settled<T, E>(
    result: Result<Result<T, E>, crate::books::Closed>,
    refusal: impl FnOnce(&E) -> Failure,
) -> Result<T, Status> {
    result.map_err(Failure::from)?.map_err(|error| refusal(&error).into())
}
