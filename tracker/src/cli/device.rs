//! `tracker device`: what belongs to customers, and the ISP's own.

use clap::{Subcommand, ValueEnum};
use daemon::exit::{Exit, Failure};
use daemon::units::Duration;
use serde::Serialize;
use swarm_proto::id::{AccountId, DeviceId};
use swarm_proto::pb::common as pb_common;
use swarm_proto::pb::tracker as pb;
use swarm_proto::time::Utc;

use super::Global;
use super::client::{PAGE_SIZE, Tracker, collect, id, table};

#[derive(Subcommand)]
pub(super) enum DeviceCommand {
    /// Make a code that enrols one device
    Invite {
        /// The customer it will belong to: name or account id
        customer: String,
        /// What it will be there for
        #[arg(long, value_enum, default_value_t = Kind::Box)]
        kind: Kind,
        /// Where it will stand [default: the tracker's default_site]
        #[arg(long, default_value = "", hide_default_value = true)]
        site: String,
        /// How long the code can be used, such as 1h; at most 7 days
        #[arg(long, value_name = "TIME", default_value = "15m")]
        valid: Duration,
    },
    /// List devices
    Ls {
        /// Only those of this customer: name or account id
        customer: Option<String>,
    },
    /// Shut a device out for good
    Revoke {
        /// Its device id
        device: DeviceId,
    },
}

/// What a device is there for.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum Kind {
    /// A viewer's
    Box,
    /// An ISP's or publisher's media server
    Seed,
}

impl From<Kind> for pb_common::DeviceKind {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Box => Self::Box,
            Kind::Seed => Self::Seed,
        }
    }
}

#[derive(Serialize)]
struct Invitation {
    code: String,
    expires: String,
}

#[derive(Serialize)]
pub(super) struct Device {
    pub(super) device: DeviceId,
    account: AccountId,
    pub(super) name: String,
    pub(super) site: String,
    pub(super) kind: &'static str,
    pub(super) state: &'static str,
    last_seen: String,
    copies: u32,
    partial: u32,
}

impl Device {
    pub(super) fn of(message: pb::Device) -> Result<Device, Failure> {
        let state = match (message.revoked, message.online) {
            (true, _) => "revoked",
            (false, true) => "online",
            (false, false) => "offline",
        };
        let kind = match message.kind() {
            pb_common::DeviceKind::Seed => "seed",
            _ => "box",
        };
        Ok(Device {
            device: id(&message.device)?,
            account: id(&message.account)?,
            name: message.name,
            site: message.site,
            kind,
            state,
            last_seen: Utc::from_millis(message.last_seen_utc_ms).to_string(),
            copies: message.copies,
            partial: message.partial,
        })
    }
}

pub(super) async fn run(global: &Global, command: DeviceCommand) -> anyhow::Result<Exit> {
    let mut tracker = Tracker::of(global).await?;
    match command {
        DeviceCommand::Invite { customer, kind, site, valid } => {
            let account = tracker.account(&customer).await?;
            let valid_ms = u64::try_from(valid.get().as_millis()).unwrap_or(u64::MAX);
            let kind = pb_common::DeviceKind::from(kind).into();
            let request = pb::InviteDeviceRequest { account, kind, site, valid_ms: Some(valid_ms) };
            let answer = tracker.operator.invite_device(request).await;
            let answer = tracker.answer(answer)?;
            let expires = Utc::from_millis(answer.expires_utc_ms).to_string();
            let invitation = Invitation { code: answer.code, expires };
            global.print(&invitation, || format!("{}  until {}\n", invitation.code, invitation.expires))
        }
        DeviceCommand::Ls { customer } => {
            let account = match customer {
                Some(customer) => tracker.account(&customer).await?,
                None => Vec::new(),
            };
            let mut all = Vec::new();
            let mut page_token = Vec::new();
            loop {
                let request = pb::ListDevicesRequest { account: account.clone(), page_size: PAGE_SIZE, page_token };
                let answer = tracker.operator.list_devices(request).await;
                let page = tracker.answer(answer)?;
                all.extend(collect(page.devices, Device::of)?);
                page_token = page.next_page_token;
                if page_token.is_empty() {
                    break;
                }
            }
            let headings = ["DEVICE", "NAME", "KIND", "SITE", "STATE", "COPIES", "PARTIAL", "LAST SEEN"];
            let row = |it: &Device| {
                let (copies, partial) = (it.copies.to_string(), it.partial.to_string());
                let (kind, state) = (it.kind.to_owned(), it.state.to_owned());
                [
                    it.device.to_string(),
                    it.name.clone(),
                    kind,
                    it.site.clone(),
                    state,
                    copies,
                    partial,
                    it.last_seen.clone(),
                ]
            };
            global.print_list(&all, || table(headings, &all, row))
        }
        DeviceCommand::Revoke { device } => {
            let answer = tracker.operator.revoke_device(pb::RevokeDeviceRequest { device: device.to_vec() }).await;
            let device = Device::of(tracker.answer(answer)?)?;
            global.print(&device, || format!("{}  {} is {}\n", device.device, device.name, device.state))
        }
    }
}
