//! `peer-node enrol`: with the running device if there is one, else in its place.

use clap::Args;
use daemon::data_folder::DataFolder;
use daemon::exit::{Exit, Failure};
use serde::Serialize;
use swarm_proto::membership::Membership;
use swarm_proto::pb::node::pair_progress::Progress;
use swarm_proto::pb::node::{EnrolRequest, PairCode, PairRequest};
use swarm_proto::signed::Signed;
use swarm_proto::time::Utc;

use super::Global;
use super::daemon_client::{self, Device};
use crate::identity::{Enrolment, Identity};
use crate::pair::Shown;
use crate::{enrol, pair};

#[derive(Args)]
pub(super) struct EnrolArgs {
    /// The eight characters that `tracker device invite` printed
    #[arg(required_unless_present = "pair")]
    code: Option<String>,
    /// Show a code instead, and wait until somebody has typed it at the tracker
    #[arg(long, conflicts_with = "code")]
    pair: bool,
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
        Some(inspection) => ask(global, Device::connect(&inspection).await?, args).await?,
        None => {
            let config = global.settings()?;
            let folder = DataFolder::open(path)?;
            let identity = Identity::open_or_create(folder.path())?;
            let enrolment = Enrolment::open(folder.path(), &identity)?;
            let (url, name) = (args.tracker.as_deref(), args.name.as_deref());
            let enrolled = match &args.code {
                Some(code) => enrol::enrol(&config, &identity, &enrolment, code, url, name).await?,
                None => {
                    let mut printed = Ok(Exit::Done);
                    let show = |shown: &Shown| printed = say_code(global, &shown.code, shown.expires);
                    let enrolled = pair::pair(&config, &identity, &enrolment, url, name, show).await?;
                    printed?;
                    enrolled
                }
            };
            enrolled.signed.clone()
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

/// Has the running device enrol.
async fn ask(global: &Global, mut device: Device, args: EnrolArgs) -> anyhow::Result<Signed<Membership>> {
    let (tracker_url, device_name) = (args.tracker.unwrap_or_default(), args.name.unwrap_or_default());
    if let Some(code) = args.code {
        let request = EnrolRequest { code, tracker_url, device_name };
        let answer = device.client.enrol(request).await.map_err(|status| device.failure(&status))?.into_inner();
        return Ok(Signed::try_from(answer.membership.unwrap_or_default())?);
    }
    let request = PairRequest { tracker_url, device_name };
    let mut answers = device.client.pair(request).await.map_err(|status| device.failure(&status))?.into_inner();
    while let Some(answer) = answers.message().await.map_err(|status| device.failure(&status))? {
        match answer.progress {
            Some(Progress::Code(PairCode { code, expires_utc_ms })) => {
                say_code(global, &code, Utc::from_millis(expires_utc_ms))?;
            }
            Some(Progress::Membership(signed)) => return Ok(Signed::try_from(signed)?),
            None => {}
        }
    }
    Err(Failure::new(Exit::Unreachable, "E-ENROL-15", "the device stopped before somebody had typed the code")
        .hint("start it again and repeat")
        .into())
}

fn say_code(global: &Global, code: &str, expires: Utc) -> anyhow::Result<Exit> {
    let answer = serde_json::json!({ "code": code, "expires": expires.to_string() });
    global.print(&answer, || {
        format!("{code}\n  type it at the tracker: its page /pair, or tracker device pair {code} --customer NAME\n")
    })
}
