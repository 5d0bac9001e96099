//! The gRPC services: deposits of publishers, the shop for devices, the operator's.
//!
//! Each call is checked, put to the books, and answered; what is secret is opened only after the books have let the
//! answer go, so that no key is in memory for a request that is refused.

pub(crate) mod checkout;
pub(crate) mod deposits;
pub(crate) mod keys;
pub(crate) mod operator;
pub(crate) mod payments;
pub(crate) mod rights;
pub(crate) mod shop;
pub(crate) mod spans;

use std::sync::Arc;

use daemon::token::OperatorToken;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use swarm_proto::pb::keyserver::checkout_server::CheckoutServer;
use swarm_proto::pb::keyserver::deposits_server::DepositsServer;
use swarm_proto::pb::keyserver::keys_operator_server::KeysOperatorServer;
use swarm_proto::pb::keyserver::operator_server::OperatorServer;
use swarm_proto::pb::keyserver::payments_server::PaymentsServer;
use swarm_proto::pb::keyserver::rights_operator_server::RightsOperatorServer;
use swarm_proto::pb::keyserver::rights_server::RightsServer;
use swarm_proto::pb::keyserver::shop_server::ShopServer;
use swarm_proto::pb::keyserver::spans_server::SpansServer;
use tonic::service::Routes;
use tonic::service::interceptor::InterceptedService;
use tonic::{Request, Status};

use crate::books::Books;
use crate::caller::{Caller, Doorkeeper};
use crate::checkout::Checkout;
use crate::clock;
use crate::config::Config;
use crate::gateway::Gateways;
use crate::vault::ring::KeyRing;

/// Largest deposit: an entry of 64 KiB, its signature, a wrapped key.
const MAX_DEPOSIT_BYTES: usize = 80 << 10;

/// Largest other request: a name or a code.
const MAX_REQUEST_BYTES: usize = 4 << 10;

/// What services share.
#[derive(Clone)]
pub(crate) struct Context {
    pub(crate) books: Books,
    pub(crate) keys: Arc<KeyRing>,
    pub(crate) doorkeeper: Doorkeeper,
    pub(crate) counters: Counters,
}

impl Context {
    /// The device behind a call.
    pub(crate) fn caller<T>(&self, request: &Request<T>) -> Result<Caller, Status> {
        let admitted = self.doorkeeper.admit(request.metadata(), clock::utc());
        if admitted.is_err() {
            self.counters.count("call", "refused");
        }
        admitted
    }
}

/// What became of what was asked. Labels are words of this program, never of a caller.
#[derive(Debug, Clone, Default)]
pub(crate) struct Counters {
    events: Family<Event, Counter>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Event {
    what: &'static str,
    outcome: &'static str,
}

impl Counters {
    pub(crate) fn new(metrics: &daemon::Metrics) -> Counters {
        let counters = Counters::default();
        metrics.register(|registry| {
            registry.register(
                "keyserver_events",
                "What was asked of the keyserver, and what became of it",
                counters.events.clone(),
            );
        });
        counters
    }

    pub(crate) fn count(&self, what: &'static str, outcome: &'static str) {
        self.events.get_or_create(&Event { what, outcome }).inc();
    }

    /// Counts a result as done or refused.
    pub(crate) fn count_result<T, E>(&self, what: &'static str, result: &Result<T, E>) {
        self.count(what, if result.is_ok() { "done" } else { "refused" });
    }
}

/// All services on one router.
pub(crate) fn routes(
    context: &Context,
    config: &Config,
    gateways: &Gateways,
    pages: Checkout,
    locksmith: keys::Locksmith,
    token: &OperatorToken,
) -> Routes {
    let deposits =
        DepositsServer::new(deposits::Deposits::new(context.clone())).max_decoding_message_size(MAX_DEPOSIT_BYTES);
    let shop = ShopServer::new(shop::Shop::new(context.clone(), Arc::clone(&gateways.pass)))
        .max_decoding_message_size(MAX_REQUEST_BYTES);
    let place = rights::Place::new(context.counters.clone(), &config.play);
    let spans = SpansServer::new(spans::Spans::new(context.clone(), place.clone()))
        .max_decoding_message_size(MAX_REQUEST_BYTES);
    let rights = rights::Rights::new(context.clone(), place);
    let rights = RightsServer::new(rights).max_decoding_message_size(MAX_REQUEST_BYTES);
    let rights_operator =
        RightsOperatorServer::new(rights::Operator::new(context.clone())).max_decoding_message_size(MAX_REQUEST_BYTES);
    let operator =
        OperatorServer::new(operator::Operator::new(context.clone())).max_decoding_message_size(MAX_REQUEST_BYTES);
    let links =
        CheckoutServer::new(checkout::Links::new(context.clone(), pages)).max_decoding_message_size(MAX_REQUEST_BYTES);
    let locksmith = KeysOperatorServer::new(locksmith).max_decoding_message_size(MAX_REQUEST_BYTES);
    let payments = PaymentsServer::new(payments::Payments::new(context.clone(), gateways.clone()))
        .max_decoding_message_size(MAX_REQUEST_BYTES);
    Routes::new(deposits)
        .add_service(links)
        .add_service(InterceptedService::new(payments, token.guard()))
        .add_service(shop)
        .add_service(spans)
        .add_service(rights)
        .add_service(InterceptedService::new(rights_operator, token.guard()))
        .add_service(InterceptedService::new(operator, token.guard()))
        .add_service(InterceptedService::new(locksmith, token.guard()))
}
