//! The gRPC services: each call is admitted, its message checked, and the state asked.

mod accounts;
mod catalog;
mod customers;
mod devices;
mod enrolment;
mod keeping;
mod operator;
mod pairing;
mod plans;
mod queue;
mod sites;
mod swarm;

use std::sync::Arc;

use swarm_proto::id::ServerId;
use swarm_proto::pb::tracker as pb;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;

use crate::auth::Auth;
use crate::state::Handle;
use daemon::Shutdown;

/// Largest message of a device: a Hello of 100,000 holdings that are not too scattered.
const MAX_REPORT_BYTES: usize = 8 << 20;

/// Largest message of every other call: a signed entry and little more.
const MAX_MESSAGE_BYTES: usize = 256 << 10;

/// What every service stands on.
#[derive(Clone)]
pub(crate) struct Shared {
    pub(crate) auth: Auth,
    pub(crate) state: Handle,
    pub(crate) server: ServerId,
    pub(crate) name: Arc<str>,
    pub(crate) keyserver_url: Arc<str>,
    pub(crate) shutdown: Shutdown,
}

impl Shared {
    fn stop(&self) -> CancellationToken {
        self.shutdown.token()
    }
}

/// Every service of a tracker.
pub(crate) fn routes(shared: Shared) -> Routes {
    let catalog = pb::catalog_server::CatalogServer::new(catalog::Service(shared.clone()));
    let enrolment = pb::enrolment_server::EnrolmentServer::new(enrolment::Service(shared.clone()));
    let swarm = pb::swarm_server::SwarmServer::new(swarm::Service(shared.clone()));
    let queue = pb::queue_server::QueueServer::new(queue::Service(shared.clone()));
    let plans = pb::plans_server::PlansServer::new(plans::Service(shared.clone()));
    let customers = pb::customers_server::CustomersServer::new(customers::Service(shared.clone()));
    let devices = pb::devices_server::DevicesServer::new(devices::Service(shared.clone()));
    let pairing = pb::pairing_server::PairingServer::new(pairing::Service(shared.clone()));
    let accounts = pb::accounts_server::AccountsServer::new(accounts::Service(shared.clone()));
    let sites = pb::sites_server::SitesServer::new(sites::Service(shared.clone()));
    let keeping = keeping::Service(shared.clone());
    let custody = pb::custody_server::CustodyServer::new(keeping.clone());
    let repositories = pb::repositories_server::RepositoriesServer::new(keeping.clone());
    let preload = pb::preload_server::PreloadServer::new(keeping);
    let operator = pb::operator_server::OperatorServer::new(operator::Service(shared));
    Routes::new(catalog.max_decoding_message_size(MAX_MESSAGE_BYTES))
        .add_service(enrolment.max_decoding_message_size(MAX_MESSAGE_BYTES))
        .add_service(swarm.max_decoding_message_size(MAX_REPORT_BYTES))
        .add_service(queue.max_decoding_message_size(MAX_MESSAGE_BYTES))
        .add_service(plans.max_decoding_message_size(MAX_MESSAGE_BYTES))
        .add_service(customers.max_decoding_message_size(MAX_MESSAGE_BYTES))
        .add_service(devices.max_decoding_message_size(MAX_MESSAGE_BYTES))
        .add_service(pairing.max_decoding_message_size(MAX_MESSAGE_BYTES))
        .add_service(accounts.max_decoding_message_size(MAX_MESSAGE_BYTES))
        .add_service(sites.max_decoding_message_size(MAX_MESSAGE_BYTES))
        .add_service(custody.max_decoding_message_size(MAX_MESSAGE_BYTES))
        .add_service(repositories.max_decoding_message_size(MAX_MESSAGE_BYTES))
        .add_service(preload.max_decoding_message_size(MAX_MESSAGE_BYTES))
        .add_service(operator.max_decoding_message_size(MAX_MESSAGE_BYTES))
}
