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
use super::rating::{self, Rating};

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
    /// Let in the box that shows this code
    Pair {
        /// The eight characters on its screen
        code: String,
        /// Whose it will be: name or account id
        #[arg(long)]
        customer: String,
        /// What it will be there for
        #[arg(long, value_enum, default_value_t = Kind::Box)]
        kind: Kind,
        /// Where it stands [default: the tracker's default_site]
        #[arg(long, default_value = "", hide_default_value = true)]
        site: String,
    },
    /// Show a device
    Show {
        /// Its device id
        device: DeviceId,
    },
    /// Shut a device out for good: its stream is closed, and no other device serves it any more
    Revoke {
        /// Its device id
        device: DeviceId,
        /// Only say what would happen
        #[arg(long)]
        dry_run: bool,
    },
    /// Give a device another name
    Rename {
        /// Its device id
        device: DeviceId,
        /// The name
        name: String,
    },
    /// Move a device to another site
    Move {
        /// Its device id
        device: DeviceId,
        /// The site's label
        site: String,
    },
    /// Limit what a device may fetch, below its customer's limit: a children's room
    Limit {
        /// Its device id
        device: DeviceId,
        /// The highest age rating, or `unlimited`
        age: Rating,
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
    pub(super) rating_limit: String,
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
            rating_limit: rating::text(message.rating_limit),
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
            let all = list_devices(&mut tracker, account).await?;
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
        DeviceCommand::Pair { code, customer, kind, site } => {
            let account = tracker.account(&customer).await?;
            let kind = pb_common::DeviceKind::from(kind).into();
            let answer = tracker.devices.pair_device(pb::PairDeviceRequest { code, account, kind, site }).await;
            let device = Device::of(tracker.answer(answer)?)?;
            global.print(&device, || format!("{}  {} is {customer}'s\n", device.device, device.name))
        }
        DeviceCommand::Show { device } => show(global, &find(&mut tracker, device).await?),
        DeviceCommand::Revoke { device, dry_run: true } => {
            let device = find(&mut tracker, device).await?;
            global.print(&device, || format!("{}  {} would be revoked\n", device.device, device.name))
        }
        DeviceCommand::Revoke { device, dry_run: false } => {
            let answer = tracker.operator.revoke_device(pb::RevokeDeviceRequest { device: device.to_vec() }).await;
            let device = Device::of(tracker.answer(answer)?)?;
            global.print(&device, || format!("{}  {} is {}\n", device.device, device.name, device.state))
        }
        DeviceCommand::Rename { device, name } => {
            let request = pb::SetDeviceRequest { device: device.to_vec(), name: Some(name), ..Default::default() };
            set(global, &mut tracker, request).await
        }
        DeviceCommand::Move { device, site } => {
            let request = pb::SetDeviceRequest { device: device.to_vec(), site: Some(site), ..Default::default() };
            set(global, &mut tracker, request).await
        }
        DeviceCommand::Limit { device, age } => {
            let rating_limit = Some(age.into());
            let request = pb::SetDeviceRequest { device: device.to_vec(), rating_limit, ..Default::default() };
            set(global, &mut tracker, request).await
        }
    }
}

async fn set(global: &Global, tracker: &mut Tracker, request: pb::SetDeviceRequest) -> anyhow::Result<Exit> {
    let answer = tracker.devices.set_device(request).await;
    show(global, &Device::of(tracker.answer(answer)?)?)
}

fn show(global: &Global, device: &Device) -> anyhow::Result<Exit> {
    global.print(device, || {
        let Device { name, kind, site, state, last_seen, copies, partial, rating_limit, .. } = device;
        format!(
            "{name}  {}\n  customer      {}\n  kind          {kind}\n  site          {site}\n  state         {state}\n  \
             last seen     {last_seen}\n  rating limit  {rating_limit}\n  copies        {copies} and {partial} in part\n",
            device.device, device.account
        )
    })
}

/// Every device of an account; of all, if it is empty.
pub(super) async fn list_devices(tracker: &mut Tracker, account: Vec<u8>) -> Result<Vec<Device>, Failure> {
    let mut all = Vec::new();
    let mut page_token = Vec::new();
    loop {
        let request = pb::ListDevicesRequest { account: account.clone(), page_size: PAGE_SIZE, page_token };
        let answer = tracker.operator.list_devices(request).await;
        let page = tracker.answer(answer)?;
        all.extend(collect(page.devices, Device::of)?);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return Ok(all);
        }
    }
}

async fn find(tracker: &mut Tracker, device: DeviceId) -> Result<Device, Failure> {
    let all = list_devices(tracker, Vec::new()).await?;
    all.into_iter().find(|it| it.device == device).ok_or_else(|| {
        Failure::new(Exit::NotFound, "E-DEVICE-01", format!("there is no device {device}")).hint("tracker device ls")
    })
}
