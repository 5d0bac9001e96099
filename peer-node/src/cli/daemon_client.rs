//! The way from a command to the device that runs on a data folder.

use std::path::Path;

use daemon::client::{self, Trust};
use daemon::data_folder::{DataFolder, Inspection};
use daemon::exit::{Exit, Failure};
use daemon::tls;
use daemon::token::{self, Bearer, OperatorToken};
use swarm_proto::pb::node::TitleQuery;
use swarm_proto::pb::node::node_client::NodeClient;
use tonic::Status;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;

use super::Global;

/// Largest answer of the device: a page of the catalog with its pictures.
const MAX_ANSWER_BYTES: usize = 4 << 20;

/// The running device.
pub(super) struct Device {
    pub(super) client: NodeClient<InterceptedService<Channel, Bearer>>,
    url: String,
}

impl Device {
    /// Reaches the device that runs on the data folder; says how to start it if there is none.
    pub(super) async fn reach(global: &Global) -> Result<Device, Failure> {
        let path = global.data_folder()?;
        match running(&path)? {
            Some(inspection) => Device::connect(&inspection).await,
            None => Err(Failure::new(Exit::Unreachable, "E-DATA-06", format!("no device runs on {}", path.display()))
                .hint(format!("peer-node run --data {}", path.display()))),
        }
    }

    /// Reaches the device that an inspection has found.
    pub(super) async fn connect(inspection: &Inspection) -> Result<Device, Failure> {
        let url = inspection.endpoint()?;
        let token = OperatorToken::read(&inspection.file(token::FILE))?;
        let ca_file = Some(tls::self_signed_certificate(inspection.path())).filter(|path| path.exists());
        let channel = client::connect(&url, &Trust { ca_file, insecure: false }).await?;
        let client = NodeClient::with_interceptor(channel, token.bearer()).max_decoding_message_size(MAX_ANSWER_BYTES);
        Ok(Device { client, url })
    }

    /// What a person reads when the device refused a call, or is gone.
    pub(super) fn failure(&self, status: &Status) -> Failure {
        client::failure(&self.url, status)
    }
}

/// The device that runs on this folder now, if there is one.
pub(super) fn running(folder: &Path) -> Result<Option<Inspection>, Failure> {
    match folder.try_exists() {
        Ok(false) => Ok(None),
        Ok(true) => Ok(Some(DataFolder::inspect(folder)?).filter(|inspection| inspection.daemon().is_some())),
        Err(error) => Err(Failure::io(format!("cannot look at folder {}", folder.display()), &error)),
    }
}

/// A title as it was typed.
pub(super) fn query(text: &str) -> Option<TitleQuery> {
    Some(TitleQuery { text: text.to_owned() })
}
