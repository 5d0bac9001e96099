//! `keyserver grant`: who has which key, and taking it back.

use std::fmt::Write as _;

use clap::Subcommand;
use daemon::client;
use daemon::token::Bearer;
use daemon::{Exit, Failure};
use serde::Serialize;
use swarm_proto::id::{DeviceId, OrderId};
use swarm_proto::pb::common::moment_limit::Limit;
use swarm_proto::pb::keyserver as pb;
use swarm_proto::pb::keyserver::rights_operator_client::RightsOperatorClient;
use swarm_proto::time::Utc;
use tonic::Status;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;

use super::{Global, operator};

#[derive(Subcommand)]
pub(super) enum GrantCommand {
    /// List the devices that have the key of an order
    Ls {
        /// The order's code, as `order ls` prints it
        order: OrderId,
    },
    /// Take the key of an order back from a device
    Withdraw {
        /// The order's code
        order: OrderId,
        /// The device's id, as `grant ls` prints it
        device: DeviceId,
        /// Why; kept in the journal
        #[arg(long)]
        reason: String,
    },
    /// Never let a key leave for a device again, and take back what it has
    Revoke {
        /// The device's id
        device: DeviceId,
        /// Why; kept in the journal
        #[arg(long)]
        reason: String,
    },
}

#[derive(Serialize)]
struct GrantLine {
    device: String,
    serial: u64,
    issued: String,
    first_play: Option<String>,
    expiry: String,
}

#[derive(Serialize)]
struct Done {
    device: DeviceId,
    already: bool,
}

pub(super) async fn grant(global: &Global, command: GrantCommand) -> anyhow::Result<Exit> {
    let mut keyserver = Keyserver::reach(global).await?;
    match command {
        GrantCommand::Ls { order } => {
            let request = pb::ListGrantsRequest { order: order.to_vec() };
            let answer = keyserver.client.list_grants(request).await.map_err(|status| keyserver.failure(&status))?;
            let lines: Vec<GrantLine> =
                answer.into_inner().grants.into_iter().map(line).collect::<anyhow::Result<_>>()?;
            global.print(&lines, || table(&lines))
        }
        GrantCommand::Withdraw { order, device, reason } => {
            let request = pb::WithdrawGrantRequest { order: order.to_vec(), device: device.to_vec(), reason };
            keyserver.client.withdraw_grant(request).await.map_err(|status| keyserver.failure(&status))?;
            let done = Done { device, already: false };
            global.print(&done, || format!("the key of {order} is taken back from {device}\n"))
        }
        GrantCommand::Revoke { device, reason } => {
            let request = pb::RevokeDeviceRequest { device: device.to_vec(), reason };
            let revoked = keyserver.client.revoke_device(request).await.map_err(|status| keyserver.failure(&status))?;
            let done = Done { device, already: revoked.into_inner().already };
            global.print(&done, || match done.already {
                true => format!("{device} was revoked before\n"),
                false => format!("{device} is revoked; it hears of it within a minute of being connected\n"),
            })
        }
    }
}

struct Keyserver {
    client: RightsOperatorClient<InterceptedService<Channel, Bearer>>,
    url: String,
}

impl Keyserver {
    async fn reach(global: &Global) -> Result<Keyserver, Failure> {
        let (channel, bearer, url) = operator::way(global).await?;
        Ok(Keyserver { client: RightsOperatorClient::with_interceptor(channel, bearer), url })
    }

    fn failure(&self, status: &Status) -> Failure {
        client::failure(&self.url, status)
    }
}

fn line(grant: pb::GrantInfo) -> anyhow::Result<GrantLine> {
    let expiry = match grant.expiry.and_then(|expiry| expiry.limit) {
        Some(Limit::UtcMs(moment)) => Utc::from_millis(moment).to_string(),
        Some(Limit::Unlimited(_)) | None => "unlimited".to_owned(),
    };
    Ok(GrantLine {
        device: DeviceId::try_from(grant.device.as_slice())?.to_string(),
        serial: grant.serial,
        issued: Utc::from_millis(grant.issued_utc_ms).to_string(),
        first_play: grant.first_play_utc_ms.map(|first| Utc::from_millis(first).to_string()),
        expiry,
    })
}

fn table(lines: &[GrantLine]) -> String {
    let mut text = String::new();
    for GrantLine { device, serial, issued, expiry, .. } in lines {
        writeln!(text, "{device}  licence {serial}  issued {issued}  until {expiry}")
            .expect("a string takes every text");
    }
    text
}
