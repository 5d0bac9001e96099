//! What an operator asks of a running tracker, and how the answers are printed.

use clap::{Args, Subcommand, ValueEnum};
use daemon::client::{self, Trust};
use daemon::exit::{Exit, Failure};
use daemon::token::{self, Bearer, OperatorToken};
use daemon::units::Duration;
use daemon::{DataFolder, tls};
use serde::Serialize;
use swarm_proto::catalog::CatalogEntry;
use swarm_proto::id::{AccountId, DeviceId, ItemId, PublisherId, TitleId};
use swarm_proto::pb::common as pb_common;
use swarm_proto::pb::tracker as pb;
use swarm_proto::pb::tracker::catalog_client::CatalogClient;
use swarm_proto::pb::tracker::get_title_request::By;
use swarm_proto::pb::tracker::operator_client::OperatorClient;
use swarm_proto::pb::tracker::queue_client::QueueClient;
use swarm_proto::signed::Signed;
use swarm_proto::time::Utc;
use tonic::Status;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;

use super::Global;
use crate::human;

/// Rows asked for at a time.
const PAGE_SIZE: u32 = 200;

/// Rows of one answer: catalog pages may hold entries of 64 KiB.
const MAX_ANSWER_BYTES: usize = 16 << 20;

#[derive(Subcommand)]
pub(super) enum CustomerCommand {
    /// Add a customer
    Add {
        /// What people call it; unique
        name: String,
    },
    /// List customers
    Ls,
    /// Schedule nothing for a customer until it is activated again
    Suspend {
        /// Its name or account id
        customer: String,
    },
    /// Serve a suspended customer again
    Activate {
        /// Its name or account id
        customer: String,
    },
}

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

#[derive(Subcommand)]
pub(super) enum PublisherCommand {
    /// Let a publisher publish here
    Add {
        /// Its key, as `peer-node publisher id` prints it
        publisher: PublisherId,
        /// What people call it
        #[arg(long)]
        name: String,
    },
}

#[derive(Subcommand)]
pub(super) enum TitleCommand {
    /// List titles, hidden ones included, newest first
    Ls,
    /// Keep a title, but do not show it to devices
    Hide {
        /// Its id, its item id or its exact name
        title: String,
    },
    /// Show a hidden title again
    Show {
        /// Its id, its item id or its exact name
        title: String,
    },
}

#[derive(Subcommand)]
pub(super) enum QueueCommand {
    /// List what a customer wants, highest priority first
    Ls {
        /// Name or account id
        customer: String,
    },
    /// Add a title for every box of a customer
    Add {
        /// Name or account id
        customer: String,
        /// Its id, its item id or its exact name
        title: String,
        /// Put it before this title
        #[arg(long, value_name = "TITLE")]
        before: Option<String>,
    },
    /// Take a title out
    Rm {
        /// Name or account id
        customer: String,
        /// Its id, its item id or its exact name
        title: String,
    },
}

#[derive(Args)]
pub(super) struct CopiesArgs {
    /// A title's id, item id or exact name
    title: String,
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

/// A way to the tracker of a data folder.
struct Tracker {
    url: String,
    operator: OperatorClient<InterceptedService<Channel, Bearer>>,
    catalog: CatalogClient<InterceptedService<Channel, Bearer>>,
    queue: QueueClient<InterceptedService<Channel, Bearer>>,
}

impl Tracker {
    async fn of(global: &Global) -> Result<Tracker, Failure> {
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
            queue: QueueClient::new(bearer()),
        })
    }

    fn answer<T>(&self, answer: Result<tonic::Response<T>, Status>) -> Result<T, Failure> {
        answer.map(tonic::Response::into_inner).map_err(|status| client::failure(&self.url, &status))
    }

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
    async fn account(&mut self, customer: &str) -> Result<Vec<u8>, Failure> {
        if let Ok(account) = customer.parse::<AccountId>() {
            return Ok(account.to_vec());
        }
        let found = self.customers().await?.into_iter().find(|it| it.name == customer);
        found.map(|it| it.account).ok_or_else(|| {
            Failure::new(Exit::NotFound, "E-CUSTOMER-01", format!("there is no customer {customer}"))
                .hint("tracker customer ls")
        })
    }

    /// The title that somebody means by its id, its item id or its name.
    async fn title(&mut self, text: &str) -> Result<Title, Failure> {
        let by = match (text.parse::<TitleId>(), text.parse::<ItemId>()) {
            (Ok(title), _) => By::Title(title.to_vec()),
            (_, Ok(item)) => By::Item(item.to_vec()),
            _ => By::Name(text.to_owned()),
        };
        let answer = self.catalog.get_title(pb::GetTitleRequest { by: Some(by) }).await;
        Title::of(self.answer(answer)?)
    }
}

#[derive(Serialize)]
struct Customer {
    account: AccountId,
    name: String,
    status: &'static str,
    created: String,
    devices: u32,
}

impl Customer {
    fn of(message: pb::Customer) -> Result<Customer, Failure> {
        let status = match message.status() {
            pb::CustomerStatus::Suspended => "suspended",
            _ => "active",
        };
        Ok(Customer {
            account: id(&message.account)?,
            name: message.name,
            status,
            created: Utc::from_millis(message.created_utc_ms).to_string(),
            devices: message.devices,
        })
    }
}

pub(super) async fn customer(global: &Global, command: CustomerCommand) -> anyhow::Result<Exit> {
    let mut tracker = Tracker::of(global).await?;
    let (customer, status) = match command {
        CustomerCommand::Add { name } => {
            let answer = tracker.operator.add_customer(pb::AddCustomerRequest { name }).await;
            let customer = Customer::of(tracker.answer(answer)?)?;
            return global.print(&customer, || format!("{}  {}\n", customer.account, customer.name));
        }
        CustomerCommand::Ls => {
            let all: Vec<Customer> = collect(tracker.customers().await?, Customer::of)?;
            let row =
                |it: &Customer| [it.account.to_string(), it.name.clone(), it.status.to_owned(), it.devices.to_string()];
            return global.print_list(&all, || table(["ACCOUNT", "NAME", "STATUS", "DEVICES"], &all, row));
        }
        CustomerCommand::Suspend { customer } => (customer, pb::CustomerStatus::Suspended),
        CustomerCommand::Activate { customer } => (customer, pb::CustomerStatus::Active),
    };
    let account = tracker.account(&customer).await?;
    let request = pb::SetCustomerStatusRequest { account, status: status.into() };
    let answer = tracker.operator.set_customer_status(request).await;
    let customer = Customer::of(tracker.answer(answer)?)?;
    global.print(&customer, || format!("{}  {} is {}\n", customer.account, customer.name, customer.status))
}

#[derive(Serialize)]
struct Invitation {
    code: String,
    expires: String,
}

#[derive(Serialize)]
struct Device {
    device: DeviceId,
    account: AccountId,
    name: String,
    site: String,
    kind: &'static str,
    state: &'static str,
    last_seen: String,
    copies: u32,
    partial: u32,
}

impl Device {
    fn of(message: pb::Device) -> Result<Device, Failure> {
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

pub(super) async fn device(global: &Global, command: DeviceCommand) -> anyhow::Result<Exit> {
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

#[derive(Serialize)]
struct Publisher {
    publisher: PublisherId,
    name: String,
    already: bool,
}

pub(super) async fn publisher(global: &Global, command: PublisherCommand) -> anyhow::Result<Exit> {
    let PublisherCommand::Add { publisher, name } = command;
    let mut tracker = Tracker::of(global).await?;
    let request = pb::AdmitPublisherRequest { publisher: publisher.to_vec(), name: name.clone() };
    let answer = tracker.operator.admit_publisher(request).await;
    let already = tracker.answer(answer)?.already;
    let word = if already { "was admitted already" } else { "is admitted" };
    global.print(&Publisher { publisher, name: name.clone(), already }, || format!("{publisher}  {name} {word}\n"))
}

#[derive(Serialize)]
struct Title {
    title: TitleId,
    item: ItemId,
    name: String,
    version: u64,
    sealed_len: u64,
    publisher: PublisherId,
    hidden: bool,
    withdrawn: bool,
}

impl Title {
    fn of(message: pb::Title) -> Result<Title, Failure> {
        let unreadable = |why: &dyn std::fmt::Display| {
            Failure::new(Exit::Integrity, "E-TITLE-04", "the tracker answered with an entry that cannot be believed")
                .why(why)
        };
        let signed = message.entry.ok_or_else(|| unreadable(&"it is missing"))?;
        let signed: Signed<CatalogEntry> = Signed::try_from(signed).map_err(|error| unreadable(&error))?;
        let entry = signed.verify(&signed.signer()).map_err(|error| unreadable(&error))?;
        Ok(Title {
            title: entry.title,
            item: entry.item,
            name: entry.name,
            version: entry.version,
            sealed_len: entry.geometry.sealed_len(),
            publisher: entry.publisher,
            hidden: message.hidden,
            withdrawn: entry.withdrawn,
        })
    }

    fn state(&self) -> &'static str {
        match (self.withdrawn, self.hidden) {
            (true, _) => "withdrawn",
            (false, true) => "hidden",
            (false, false) => "offered",
        }
    }
}

pub(super) async fn title(global: &Global, command: TitleCommand) -> anyhow::Result<Exit> {
    let mut tracker = Tracker::of(global).await?;
    let (text, hidden) = match command {
        TitleCommand::Ls => return list_titles(global, tracker).await,
        TitleCommand::Hide { title } => (title, true),
        TitleCommand::Show { title } => (title, false),
    };
    let title = tracker.title(&text).await?.title.to_vec();
    let answer = tracker.operator.set_title_hidden(pb::SetTitleHiddenRequest { title, hidden }).await;
    let title = Title::of(tracker.answer(answer)?)?;
    global.print(&title, || format!("{}  {} is {}\n", title.title, title.name, title.state()))
}

async fn list_titles(global: &Global, mut tracker: Tracker) -> anyhow::Result<Exit> {
    let mut all = Vec::new();
    let mut page_token = Vec::new();
    loop {
        let answer = tracker.catalog.list_titles(pb::ListTitlesRequest { page_size: PAGE_SIZE, page_token }).await;
        let page = tracker.answer(answer)?;
        all.extend(collect(page.titles, Title::of)?);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    let row = |it: &Title| {
        let size = human::bytes(it.sealed_len);
        [
            it.title.to_string(),
            it.name.clone(),
            size,
            it.version.to_string(),
            it.state().to_owned(),
            it.item.to_string(),
        ]
    };
    global.print_list(&all, || table(["TITLE", "NAME", "SIZE", "VERSION", "STATE", "ITEM"], &all, row))
}

#[derive(Serialize)]
struct Queued {
    place: usize,
    title: TitleId,
    item: ItemId,
    name: String,
    device: Option<DeviceId>,
    added: String,
}

pub(super) async fn queue(global: &Global, command: QueueCommand) -> anyhow::Result<Exit> {
    let mut tracker = Tracker::of(global).await?;
    let answer = match command {
        QueueCommand::Ls { customer } => {
            let account = tracker.account(&customer).await?;
            tracker.queue.get_queue(pb::GetQueueRequest { account }).await
        }
        QueueCommand::Add { customer, title, before } => {
            let account = tracker.account(&customer).await?;
            let title = tracker.title(&title).await?.title.to_vec();
            let before = match before {
                Some(before) => tracker.title(&before).await?.title.to_vec(),
                None => Vec::new(),
            };
            let request = pb::AddToQueueRequest { account, title, this_device_only: false, before };
            tracker.queue.add_to_queue(request).await
        }
        QueueCommand::Rm { customer, title } => {
            let account = tracker.account(&customer).await?;
            let title = tracker.title(&title).await?.title.to_vec();
            tracker.queue.remove_from_queue(pb::RemoveFromQueueRequest { account, title }).await
        }
    };
    let state = tracker.answer(answer)?;
    let mut entries = Vec::with_capacity(state.entries.len());
    for (place, entry) in state.entries.into_iter().enumerate() {
        entries.push(Queued {
            place,
            title: id(&entry.title)?,
            item: id(&entry.item)?,
            name: entry.name,
            device: if entry.device.is_empty() { None } else { Some(id(&entry.device)?) },
            added: Utc::from_millis(entry.added_utc_ms).to_string(),
        });
    }
    let row = |it: &Queued| {
        let device = it.device.map_or_else(|| "every box".to_owned(), |device| device.short());
        [(it.place + 1).to_string(), it.name.clone(), device, it.added.clone(), it.title.to_string()]
    };
    global.print_list(&entries, || table(["PLACE", "NAME", "FOR", "ADDED", "TITLE"], &entries, row))
}

#[derive(Serialize)]
struct Copy {
    #[serde(flatten)]
    device: Device,
    chunks: u32,
    n_chunks: u32,
}

pub(super) async fn copies(global: &Global, args: CopiesArgs) -> anyhow::Result<Exit> {
    let mut tracker = Tracker::of(global).await?;
    let item = match args.title.parse::<ItemId>() {
        Ok(item) => item,
        Err(_) => tracker.title(&args.title).await?.item,
    };
    let answer = tracker.operator.get_copies(pb::GetCopiesRequest { item: item.to_vec() }).await;
    let copies = tracker.answer(answer)?;
    let n_chunks = copies.n_chunks;
    let all = collect(copies.devices, |it| {
        Ok(Copy { device: Device::of(it.device.unwrap_or_default())?, chunks: it.chunks, n_chunks })
    })?;
    let row = |it: &Copy| {
        let held = format!("{}/{n_chunks}", it.chunks);
        let of = &it.device;
        [of.device.to_string(), of.name.clone(), of.kind.to_owned(), of.site.clone(), of.state.to_owned(), held]
    };
    global.print_list(&all, || table(["DEVICE", "NAME", "KIND", "SITE", "STATE", "CHUNKS"], &all, row))
}

#[derive(Serialize)]
struct Traffic {
    from_boxes_bytes: u64,
    from_seeds_bytes: u64,
    wasted_bytes: u64,
}

pub(super) async fn traffic(global: &Global) -> anyhow::Result<Exit> {
    let mut tracker = Tracker::of(global).await?;
    let answer = tracker.operator.get_traffic(pb::GetTrafficRequest {}).await;
    let pb::TrafficTotals { from_boxes_bytes, from_seeds_bytes, wasted_bytes } = tracker.answer(answer)?;
    let traffic = Traffic { from_boxes_bytes, from_seeds_bytes, wasted_bytes };
    global.print(&traffic, || {
        let rows = [
            ["from boxes".to_owned(), human::bytes(from_boxes_bytes)],
            ["from seeds".to_owned(), human::bytes(from_seeds_bytes)],
            ["wasted".to_owned(), human::bytes(wasted_bytes)],
        ];
        let share = human::share(from_boxes_bytes, from_seeds_bytes);
        let share = share.map(|share| format!("{share} carried by boxes\n")).unwrap_or_default();
        format!("{}{share}", human::table(["BYTES", "AMOUNT"], &rows))
    })
}

fn table<T, const N: usize>(headings: [&str; N], of: &[T], row: impl Fn(&T) -> [String; N]) -> String {
    human::table(headings, &of.iter().map(row).collect::<Vec<_>>())
}

fn collect<M, T>(messages: Vec<M>, read: impl Fn(M) -> Result<T, Failure>) -> Result<Vec<T>, Failure> {
    messages.into_iter().map(read).collect()
}

/// An id in an answer of the tracker.
fn id<'a, T: TryFrom<&'a [u8], Error: std::fmt::Display>>(bytes: &'a [u8]) -> Result<T, Failure> {
    T::try_from(bytes).map_err(|error| {
        Failure::new(Exit::VersionMismatch, "E-ANSWER-01", "the tracker answered with something that is no id")
            .why(error)
            .hint("use the same version of this program as the one that runs")
    })
}
