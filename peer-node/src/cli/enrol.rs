//! `peer-node enrol`: with the running device if there is one, else in its place.

use clap::Args;
use daemon::data_folder::DataFolder;
use daemon::exit::Exit;
use serde::Serialize;
use swarm_proto::membership::Membership;
use swarm_proto::pb::node::EnrolRequest;
use swarm_proto::signed::Signed;

use super::Global;
use super::daemon_client::{self, Device};
use crate::enrol;
use crate::identity::{Enrolment, Identity};

#[derive(Args)]
pub(super) struct EnrolArgs {
    /// The eight characters that `tracker device invite` printed
    code: String,
    /// Where the tracker is, such as http://127.0.0.1:7001
    #[arg(long, value_name = "URL")]
    tracker: Option<String>,
    /// What people will call this device
    #[arg(long)]
    name: Option<String>,
}

#[derive(Serialize)]
struct Answer {
    enrolled: bool,
    device: String,
    account: String,
    site: String,
    kind: String,
    tracker: String,
    expires: String,
}

pub(super) async fn run(global: &Global, args: EnrolArgs) -> anyhow::Result<Exit> {
    let path = global.data_folder()?;
    let membership = match daemon_client::running(&path)? {
        Some(inspection) => {
            let mut device = Device::connect(&inspection).await?;
            let request = EnrolRequest {
                code: args.code,
                tracker_url: args.tracker.unwrap_or_default(),
                device_name: args.name.unwrap_or_default(),
            };
            let answer = device.client.enrol(request).await.map_err(|status| device.failure(&status))?.into_inner();
            Signed::<Membership>::try_from(answer.membership.unwrap_or_default())?
        }
        None => {
            let config = global.settings()?;
            let folder = DataFolder::open(path)?;
            let identity = Identity::open_or_create(folder.path())?;
            let enrolment = Enrolment::open(folder.path(), &identity)?;
            enrol::enrol(&config, &identity, &enrolment, &args.code, args.tracker.as_deref(), args.name.as_deref())
                .await?
                .signed
                .clone()
        }
    };
    let tracker = membership.signer();
    let membership = membership.verify(&tracker)?;
    let answer = Answer {
        enrolled: true,
        device: membership.device.to_string(),
        account: membership.account.to_string(),
        site: membership.site.to_string(),
        kind: format!("{:?}", membership.kind).to_lowercase(),
        tracker: tracker.to_string(),
        expires: membership.expires.to_string(),
    };
    global.print(&answer, || {
        format!(
            "enrolled: {} {} of account {} at site {}\n",
            answer.kind,
            membership.device.short(),
            answer.account,
            answer.site
        )
    })
}
