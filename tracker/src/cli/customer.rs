//! `tracker customer`: who owns devices, what they may have, and how they leave.

use std::collections::BTreeMap;
use std::io::{BufRead as _, IsTerminal as _, Write as _};

use clap::{Args, Subcommand};
use daemon::exit::{Exit, Failure};
use serde::Serialize;
use swarm_proto::id::{AccountId, DeviceId, ItemId, TitleId};
use swarm_proto::pb::tracker as pb;
use swarm_proto::time::Utc;

use super::Global;
use super::client::{PAGE_SIZE, Tracker, collect, id, table};
use super::device::{Device, list_devices};
use super::queue::{Queued, entries};
use super::rating::{self, Rating};

#[derive(Subcommand)]
pub(super) enum CustomerCommand {
    /// Add a customer
    Add {
        /// What people call it; unique
        name: String,
        #[command(flatten)]
        limits: Limits,
    },
    /// List customers
    Ls,
    /// Show a customer, its devices and its queue
    Show {
        /// Its name or account id
        customer: String,
    },
    /// Rename a customer, state its region, limit what it may watch
    Set {
        /// Its name or account id
        customer: String,
        /// Another name
        #[arg(long)]
        name: Option<String>,
        #[command(flatten)]
        limits: Limits,
    },
    /// Schedule nothing for a customer until it is activated again
    Suspend {
        /// Its name or account id
        customer: String,
    },
    /// Serve a suspended customer again, or one closed less than 30 days ago
    Activate {
        /// Its name or account id
        customer: String,
    },
    /// End an account: no deliveries, devices revoked; can be undone for 30 days
    Close {
        /// Its name or account id
        customer: String,
        /// Only say what would happen
        #[arg(long)]
        dry_run: bool,
    },
    /// Print everything the tracker knows of a customer, as one JSON document
    Export {
        /// Its name or account id
        customer: String,
    },
    /// Erase a customer and all that is known of it; the keyserver's receipts stay
    Delete {
        /// Its name or account id
        customer: String,
        /// Do not ask for the name
        #[arg(long)]
        yes: bool,
        /// Only say what would go
        #[arg(long)]
        dry_run: bool,
    },
    /// Make a link that signs a customer's browser in, once, within 15 minutes
    Link {
        /// Its name or account id
        customer: String,
    },
}

/// What a customer may watch.
#[derive(Args)]
pub(super) struct Limits {
    /// Its country, two letters (ISO 3166-1), or `unknown`
    #[arg(long, value_name = "COUNTRY")]
    region: Option<String>,
    /// The highest age rating its boxes may fetch, or `unlimited`
    #[arg(long, value_name = "AGE")]
    rating_limit: Option<Rating>,
}

impl Limits {
    fn region(&self) -> Option<String> {
        self.region.as_deref().map(|text| if text == "unknown" { String::new() } else { text.to_ascii_uppercase() })
    }
}

#[derive(Serialize)]
struct Customer {
    account: AccountId,
    name: String,
    status: &'static str,
    created: String,
    devices: u32,
    region: Option<String>,
    rating_limit: String,
    closed: Option<String>,
}

impl Customer {
    fn of(message: pb::Customer) -> Result<Customer, Failure> {
        let status = match message.status() {
            pb::CustomerStatus::Suspended => "suspended",
            pb::CustomerStatus::Closed => "closed",
            _ => "active",
        };
        Ok(Customer {
            account: id(&message.account)?,
            name: message.name,
            status,
            created: Utc::from_millis(message.created_utc_ms).to_string(),
            devices: message.devices,
            region: Some(message.region).filter(|region| !region.is_empty()),
            rating_limit: rating::text(message.rating_limit),
            closed: message.closed_utc_ms.map(|at| Utc::from_millis(at).to_string()),
        })
    }
}

pub(super) async fn run(global: &Global, command: CustomerCommand) -> anyhow::Result<Exit> {
    let mut tracker = Tracker::of(global).await?;
    match command {
        CustomerCommand::Add { name, limits } => {
            let region = limits.region().unwrap_or_default();
            let rating_limit = limits.rating_limit.map(Into::into);
            let request = pb::AddCustomerRequest { name, region, rating_limit };
            let answer = tracker.operator.add_customer(request).await;
            let customer = Customer::of(tracker.answer(answer)?)?;
            global.print(&customer, || format!("{}  {}\n", customer.account, customer.name))
        }
        CustomerCommand::Ls => {
            let all: Vec<Customer> = collect(tracker.customers().await?, Customer::of)?;
            let headings = ["ACCOUNT", "NAME", "STATUS", "REGION", "RATING", "DEVICES"];
            let row = |it: &Customer| {
                let region = it.region.clone().unwrap_or_else(|| "unknown".to_owned());
                let (name, status) = (it.name.clone(), it.status.to_owned());
                [it.account.to_string(), name, status, region, it.rating_limit.clone(), it.devices.to_string()]
            };
            global.print_list(&all, || table(headings, &all, row))
        }
        CustomerCommand::Show { customer } => show(global, &mut tracker, &customer).await,
        CustomerCommand::Set { customer, name, limits } => {
            let account = tracker.account(&customer).await?;
            let region = limits.region();
            let rating_limit = limits.rating_limit.map(Into::into);
            let answer =
                tracker.customers.set_customer(pb::SetCustomerRequest { account, name, region, rating_limit }).await;
            let customer = Customer::of(tracker.answer(answer)?)?;
            global.print(&customer, || {
                let region = customer.region.as_deref().unwrap_or("unknown");
                format!("{}  region {region}, rating limit {}\n", customer.name, customer.rating_limit)
            })
        }
        CustomerCommand::Suspend { customer } => {
            set_status(global, &mut tracker, &customer, pb::CustomerStatus::Suspended).await
        }
        CustomerCommand::Activate { customer } => {
            set_status(global, &mut tracker, &customer, pb::CustomerStatus::Active).await
        }
        CustomerCommand::Close { customer, dry_run: true } => {
            let known = tracker.customer(&customer).await?;
            let known = Customer::of(known)?;
            global.print(&known, || format!("{} would be closed, {} devices revoked\n", known.name, known.devices))
        }
        CustomerCommand::Close { customer, dry_run: false } => {
            set_status(global, &mut tracker, &customer, pb::CustomerStatus::Closed).await
        }
        CustomerCommand::Export { customer } => export(&mut tracker, &customer).await,
        CustomerCommand::Delete { customer, yes, dry_run } => {
            delete(global, &mut tracker, &customer, yes, dry_run).await
        }
        CustomerCommand::Link { customer } => {
            let account = tracker.account(&customer).await?;
            let answer = tracker.customers.make_sign_in_link(pb::MakeSignInLinkRequest { account }).await;
            let made = tracker.answer(answer)?;
            let link = Link {
                url: format!("{}{}", tracker.url(), made.path),
                expires: Utc::from_millis(made.expires_utc_ms).to_string(),
            };
            global.print(&link, || format!("{}\n", link.url))
        }
    }
}

#[derive(Serialize)]
struct Link {
    url: String,
    expires: String,
}

async fn set_status(
    global: &Global,
    tracker: &mut Tracker,
    customer: &str,
    status: pb::CustomerStatus,
) -> anyhow::Result<Exit> {
    let account = tracker.account(customer).await?;
    let request = pb::SetCustomerStatusRequest { account, status: status.into() };
    let answer = tracker.operator.set_customer_status(request).await;
    let customer = Customer::of(tracker.answer(answer)?)?;
    global.print(&customer, || format!("{}  {} is {}\n", customer.account, customer.name, customer.status))
}

#[derive(Serialize)]
struct Shown {
    #[serde(flatten)]
    customer: Customer,
    boxes_and_seeds: Vec<Device>,
    queue: Vec<Queued>,
}

async fn show(global: &Global, tracker: &mut Tracker, customer: &str) -> anyhow::Result<Exit> {
    let customer = tracker.customer(customer).await?;
    let account = customer.account.clone();
    let answer = tracker.queue.get_queue(pb::GetQueueRequest { account: account.clone() }).await;
    let queue = entries(tracker.answer(answer)?.entries)?;
    let boxes_and_seeds = list_devices(tracker, account).await?;
    let shown = Shown { customer: Customer::of(customer)?, boxes_and_seeds, queue };
    global.print(&shown, || {
        let it = &shown.customer;
        let mut text = format!("{}  {}\n", it.name, it.account);
        let since = it.closed.as_ref().map(|at| format!(" since {at}")).unwrap_or_default();
        text += &format!("  status        {}{since}\n  added         {}\n", it.status, it.created);
        let region = it.region.as_deref().unwrap_or("unknown");
        text += &format!("  region        {region}\n  rating limit  {}\n", it.rating_limit);
        let row = |it: &Device| [it.device.to_string(), it.name.clone(), it.state.to_owned(), it.rating_limit.clone()];
        text += &table(["DEVICE", "NAME", "STATE", "RATING"], &shown.boxes_and_seeds, row);
        let row = |it: &Queued| [(it.place + 1).to_string(), it.name.clone()];
        text + &table(["PLACE", "QUEUED"], &shown.queue, row)
    })
}

/// The document that the law wants: keys are words, ids are text, times are dates.
#[derive(Serialize)]
struct Document {
    customer: Customer,
    devices: Vec<ExportedDevice>,
    invitations: Vec<ExportedInvitation>,
    queue: Vec<Queued>,
    deliveries: Vec<ExportedDelivery>,
    elsewhere: &'static str,
}

#[derive(Serialize)]
struct ExportedDevice {
    #[serde(flatten)]
    device: Device,
    membership_issued: String,
    membership_serial: u64,
    observed_address: Option<String>,
    holdings: Vec<ExportedHolding>,
}

#[derive(Serialize)]
struct ExportedHolding {
    item: ItemId,
    chunks: u32,
    n_chunks: u32,
}

#[derive(Serialize)]
struct ExportedDelivery {
    title: TitleId,
    name: String,
    device: DeviceId,
    delivered: String,
}

#[derive(Serialize)]
struct ExportedInvitation {
    site: String,
    expires: String,
    used_by: Option<DeviceId>,
}

/// What a tracker cannot tell, since it does not know.
const ELSEWHERE: &str = "orders, payments and receipts are kept by the keyserver: keyserver audit export";

async fn export(tracker: &mut Tracker, customer: &str) -> anyhow::Result<Exit> {
    let account = tracker.account(customer).await?;
    let mut first = None;
    let mut devices: BTreeMap<DeviceId, ExportedDevice> = BTreeMap::new();
    let mut page_token = Vec::new();
    loop {
        let request = pb::ExportCustomerRequest { account: account.clone(), page_token };
        let answer = tracker.customers.export_customer(request).await;
        let mut page = tracker.answer(answer)?;
        for message in std::mem::take(&mut page.devices) {
            let device = exported_device(message)?;
            match devices.get_mut(&device.device.device) {
                Some(known) => known.holdings.extend(device.holdings),
                None => drop(devices.insert(device.device.device, device)),
            }
        }
        page_token = std::mem::take(&mut page.next_page_token);
        first.get_or_insert(page);
        if page_token.is_empty() {
            break;
        }
    }
    let first = first.unwrap_or_default();
    let invitation = |it: pb::Invitation| {
        let used_by = if it.used_by.is_empty() { None } else { Some(id(&it.used_by)?) };
        Ok(ExportedInvitation { site: it.site, expires: Utc::from_millis(it.expires_utc_ms).to_string(), used_by })
    };
    let delivery = |it: pb::DeliveredTitle| {
        let delivered = Utc::from_millis(it.delivered_utc_ms).to_string();
        Ok(ExportedDelivery { title: id(&it.title)?, name: it.name, device: id(&it.device)?, delivered })
    };
    let document = Document {
        customer: Customer::of(first.customer.unwrap_or_default())?,
        devices: devices.into_values().collect(),
        invitations: collect(first.invitations, invitation)?,
        queue: entries(first.queue)?,
        deliveries: collect(first.deliveries, delivery)?,
        elsewhere: ELSEWHERE,
    };
    let mut out = std::io::stdout().lock();
    serde_json::to_writer_pretty(&mut out, &document)?;
    writeln!(out)?;
    Ok(Exit::Done)
}

fn exported_device(message: pb::DeviceExport) -> Result<ExportedDevice, Failure> {
    let holding =
        |it: pb::HeldItem| Ok(ExportedHolding { item: id(&it.item)?, chunks: it.chunks, n_chunks: it.n_chunks });
    Ok(ExportedDevice {
        device: Device::of(message.device.unwrap_or_default())?,
        membership_issued: Utc::from_millis(message.issued_utc_ms).to_string(),
        membership_serial: message.serial,
        observed_address: Some(message.observed_address).filter(|it| !it.is_empty()),
        holdings: collect(message.holdings, holding)?,
    })
}

#[derive(Serialize)]
struct Deleted {
    name: String,
    deleted: bool,
    devices: u32,
    invitations: u32,
    queue_entries: u32,
    holdings: u64,
    deliveries: u32,
    kept_elsewhere: &'static str,
}

async fn delete(
    global: &Global,
    tracker: &mut Tracker,
    customer: &str,
    yes: bool,
    dry_run: bool,
) -> anyhow::Result<Exit> {
    let known = tracker.customer(customer).await?;
    let account = known.account.clone();
    if !dry_run && !yes {
        confirm(&known.name)?;
    }
    let answer = tracker.customers.delete_customer(pb::DeleteCustomerRequest { account, dry_run }).await;
    let gone = tracker.answer(answer)?;
    let deleted = Deleted {
        name: gone.name,
        deleted: !dry_run,
        devices: gone.devices,
        invitations: gone.invitations,
        queue_entries: gone.queue_entries,
        holdings: gone.holdings,
        deliveries: gone.deliveries,
        kept_elsewhere: ELSEWHERE,
    };
    global.print(&deleted, || {
        let Deleted { name, devices, invitations, queue_entries, holdings, deliveries, .. } = &deleted;
        let word = if dry_run { "would go" } else { "is gone" };
        format!(
            "{name} {word}: {devices} devices with what is known of {holdings} items on them, {invitations} \
             invitations, {queue_entries} titles in the queue, {deliveries} deliveries\n{ELSEWHERE}\n"
        )
    })
}

/// Has the name typed, so that nobody is erased by a slip.
fn confirm(name: &str) -> Result<(), Failure> {
    let refused = |why: &str| {
        Failure::new(Exit::Usage, "E-CUSTOMER-06", "nothing was deleted")
            .why(why)
            .hint("type the customer's name when asked, or say --yes; --dry-run says what would go")
    };
    if !std::io::stdin().is_terminal() {
        return Err(refused("nobody is at the terminal to confirm it"));
    }
    eprint!("This erases {} for ever. Type its name to go on: ", name.escape_debug());
    let mut typed = String::new();
    let read = std::io::stdin().lock().read_line(&mut typed);
    match read {
        Ok(_) if typed.trim() == name => Ok(()),
        Ok(_) => Err(refused("another name was typed")),
        Err(error) => Err(Failure::io("cannot read the confirmation", &error)),
    }
}

impl Tracker {
    async fn customers(&mut self) -> Result<Vec<pb::Customer>, Failure> {
        let mut all = Vec::new();
        let mut page_token = Vec::new();
        loop {
            let request = pb::ListCustomersRequest { page_size: PAGE_SIZE, page_token };
            let answer = self.operator.list_customers(request).await;
            let page = self.answer(answer)?;
            all.extend(page.customers);
            page_token = page.next_page_token;
            if page_token.is_empty() {
                return Ok(all);
            }
        }
    }

    /// The account that somebody means by its id or by its customer's name.
    pub(super) async fn account(&mut self, customer: &str) -> Result<Vec<u8>, Failure> {
        match customer.parse::<AccountId>() {
            Ok(account) => Ok(account.to_vec()),
            Err(_) => Ok(self.customer(customer).await?.account),
        }
    }

    /// The customer that somebody means by its account id or its name.
    async fn customer(&mut self, customer: &str) -> Result<pb::Customer, Failure> {
        let account = customer.parse::<AccountId>().map(|account| account.to_vec());
        let is_meant = |it: &pb::Customer| it.name == customer || account.as_ref() == Ok(&it.account);
        self.customers().await?.into_iter().find(is_meant).ok_or_else(|| {
            Failure::new(Exit::NotFound, "E-CUSTOMER-01", format!("there is no customer {customer}"))
                .hint("tracker customer ls")
        })
    }
}
