//! The way from a command to the tracker that runs on a data folder.

use daemon::client::{self, Trust};
use daemon::exit::{Exit, Failure};
use daemon::token::{self, Bearer, OperatorToken};
use daemon::{DataFolder, tls};
use swarm_proto::pb::tracker::accounts_client::AccountsClient;
use swarm_proto::pb::tracker::catalog_client::CatalogClient;
use swarm_proto::pb::tracker::customers_client::CustomersClient;
use swarm_proto::pb::tracker::devices_client::DevicesClient;
use swarm_proto::pb::tracker::operator_client::OperatorClient;
use swarm_proto::pb::tracker::plans_client::PlansClient;
use swarm_proto::pb::tracker::preload_client::PreloadClient;
use swarm_proto::pb::tracker::queue_client::QueueClient;
use swarm_proto::pb::tracker::repositories_client::RepositoriesClient;
use swarm_proto::pb::tracker::sites_client::SitesClient;
use tonic::Status;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;

use super::Global;
use crate::human;

/// Rows asked for at a time.
pub(super) const PAGE_SIZE: u32 = 200;

/// Rows of one answer: catalog pages may hold entries of 64 KiB.
const MAX_ANSWER_BYTES: usize = 16 << 20;

/// A way to the tracker of a data folder.
pub(super) struct Tracker {
    url: String,
    pub(super) operator: OperatorClient<InterceptedService<Channel, Bearer>>,
    pub(super) catalog: CatalogClient<InterceptedService<Channel, Bearer>>,
    pub(super) plans: PlansClient<InterceptedService<Channel, Bearer>>,
    pub(super) customers: CustomersClient<InterceptedService<Channel, Bearer>>,
    pub(super) devices: DevicesClient<InterceptedService<Channel, Bearer>>,
    pub(super) queue: QueueClient<InterceptedService<Channel, Bearer>>,
    pub(super) accounts: AccountsClient<InterceptedService<Channel, Bearer>>,
    pub(super) sites: SitesClient<InterceptedService<Channel, Bearer>>,
    pub(super) repositories: RepositoriesClient<InterceptedService<Channel, Bearer>>,
    pub(super) preload: PreloadClient<InterceptedService<Channel, Bearer>>,
}

impl Tracker {
    pub(super) async fn of(global: &Global) -> Result<Tracker, Failure> {
        let folder = DataFolder::inspect(global.data_folder()?)?;
        let url = folder.endpoint()?;
        let token = OperatorToken::read(&folder.file(token::FILE))?;
        let certificate = tls::self_signed_certificate(folder.path());
        let trust = Trust { ca_file: certificate.exists().then_some(certificate), insecure: true };
        let channel = client::connect(&url, &trust).await?;
        let bearer = || InterceptedService::new(channel.clone(), token.bearer());
        Ok(Tracker {
            url,
            operator: OperatorClient::new(bearer()).max_decoding_message_size(MAX_ANSWER_BYTES),
            catalog: CatalogClient::new(bearer()).max_decoding_message_size(MAX_ANSWER_BYTES),
            plans: PlansClient::new(bearer()),
            customers: CustomersClient::new(bearer()).max_decoding_message_size(MAX_ANSWER_BYTES),
            devices: DevicesClient::new(bearer()),
            queue: QueueClient::new(bearer()),
            accounts: AccountsClient::new(bearer()).max_decoding_message_size(MAX_ANSWER_BYTES),
            sites: SitesClient::new(bearer()).max_decoding_message_size(MAX_ANSWER_BYTES),
            repositories: RepositoriesClient::new(bearer()),
            preload: PreloadClient::new(bearer()),
        })
    }

    /// The address that is reached from this machine.
    pub(super) fn url(&self) -> &str {
        &self.url
    }

    pub(super) fn answer<T>(&self, answer: Result<tonic::Response<T>, Status>) -> Result<T, Failure> {
        answer.map(tonic::Response::into_inner).map_err(|status| client::failure(&self.url, &status))
    }
}

pub(super) fn table<T, const N: usize>(headings: [&str; N], of: &[T], row: impl Fn(&T) -> [String; N]) -> String {
    human::table(headings, &of.iter().map(row).collect::<Vec<_>>())
}

pub(super) fn collect<M, T>(messages: Vec<M>, read: impl Fn(M) -> Result<T, Failure>) -> Result<Vec<T>, Failure> {
    messages.into_iter().map(read).collect()
}

/// An id in an answer of the tracker.
pub(super) fn id<'a, T: TryFrom<&'a [u8], Error: std::fmt::Display>>(bytes: &'a [u8]) -> Result<T, Failure> {
    T::try_from(bytes).map_err(|error| {
        Failure::new(Exit::VersionMismatch, "E-ANSWER-01", "the tracker answered with something that is no id")
            .why(error)
            .hint("use the same version of this program as the one that runs")
    })
}
