//! `keyserver pass`, `order` and `publisher`: asked of the keyserver that runs on the data folder.

use std::fmt::Write as _;

use clap::Subcommand;
use daemon::client::{self, Trust};
use daemon::token::{self, Bearer, OperatorToken};
use daemon::units::Duration;
use daemon::{DataFolder, Exit, Failure, tls};
use serde::Serialize;
use swarm_proto::catalog::{Currency, Money};
use swarm_proto::id::{ItemId, OrderId, PublisherId};
use swarm_proto::keyserver::record::PassId;
use swarm_proto::pb::keyserver as pb;
use swarm_proto::pb::keyserver::operator_client::OperatorClient;
use swarm_proto::pb::keyserver::payments_client::PaymentsClient;
use swarm_proto::time::Utc;
use tonic::Status;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;

use super::{Global, money};

/// Orders asked for at a time.
const PAGE: u32 = 500;

#[derive(Subcommand)]
pub(super) enum PassCommand {
    /// Make a pass and print its code, which is shown only now
    Create {
        /// How many titles it pays for; left out: whatever is ordered while it lasts
        #[arg(long, value_name = "N")]
        credits: Option<u32>,
        /// How long it is worth something, such as 90d
        #[arg(long, value_name = "DURATION")]
        valid: Duration,
    },
    /// List passes
    Ls {
        /// How many
        #[arg(long, value_name = "N", default_value_t = 50)]
        limit: u32,
    },
    /// Show what a pass holds
    Show {
        /// Its code, or its id as `pass ls` prints it
        pass: String,
    },
    /// Take back a pass made here; one that was bought is refunded with its order
    Refund {
        /// Its id, as `pass ls` prints it
        pass: PassId,
        /// Why; kept in the journal
        #[arg(long)]
        reason: String,
    },
}

#[derive(Subcommand)]
pub(super) enum OrderCommand {
    /// List orders, the latest first
    Ls {
        /// How many
        #[arg(long, value_name = "N", default_value_t = 50)]
        limit: u32,
    },
    /// List orders that wait for a provider for more than five minutes
    Stuck,
    /// Show an order
    Show {
        /// The order's code, as `order ls` prints it
        order: OrderId,
        /// With what happened to it
        #[arg(long)]
        timeline: bool,
    },
    /// Give money back: no key of the order leaves any more, credits of a pass go back to the pass
    Refund {
        /// The order's code, as `order ls` prints it
        order: OrderId,
        /// How much, in the currency's minor unit [default: all that is left]
        #[arg(long, value_name = "N")]
        minor: Option<u64>,
        /// What was bought stays: a goodwill
        #[arg(long)]
        keep_rights: bool,
        /// Why; kept in the journal
        #[arg(long)]
        reason: String,
    },
}

#[derive(Subcommand)]
pub(super) enum PublisherCommand {
    /// Let a publisher deposit keys here
    Add {
        /// The publisher's id, as `peer-node publisher id` prints it
        publisher: PublisherId,
        /// What people call it
        #[arg(long)]
        name: String,
    },
}

#[derive(Serialize)]
struct NewPass {
    code: String,
    credits: u32,
    expires: String,
}

pub(super) async fn pass(global: &Global, command: PassCommand) -> anyhow::Result<Exit> {
    let (credits, valid) = match command {
        PassCommand::Create { credits: Some(credits), valid } => (credits, valid),
        PassCommand::Create { credits: None, valid } => return money::create_time_pass(global, valid).await,
        PassCommand::Ls { limit } => return money::passes(global, limit).await,
        PassCommand::Show { pass } => return money::show_pass(global, &pass).await,
        PassCommand::Refund { pass, reason } => return money::void_pass(global, pass, reason).await,
    };
    let mut keyserver = Keyserver::reach(global).await?;
    let valid_ms = u64::try_from(valid.get().as_millis()).unwrap_or(u64::MAX);
    let made = keyserver.client.create_pass(pb::CreatePassRequest { credits, valid_ms }).await;
    let pb::CreatePassResponse { code, expires_utc_ms } =
        made.map_err(|status| keyserver.failure(&status))?.into_inner();
    let pass = NewPass { code, credits, expires: Utc::from_millis(expires_utc_ms).to_string() };
    global.print(&pass, || format!("{}\n", pass.code))
}

#[derive(Serialize)]
pub(super) struct OrderLine {
    pub(super) order: String,
    /// Of an order for a title; one for a pass has none.
    item: Option<String>,
    offer: String,
    pub(super) state: &'static str,
    amount_minor: u64,
    currency: String,
    created: String,
    paid: Option<String>,
    paid_by: Option<String>,
}

pub(super) async fn order(global: &Global, command: OrderCommand) -> anyhow::Result<Exit> {
    match command {
        OrderCommand::Ls { limit } => {
            let mut keyserver = Keyserver::reach(global).await?;
            let orders = keyserver.orders(limit).await?;
            let lines = orders.into_iter().map(line).collect::<anyhow::Result<Vec<_>>>()?;
            global.print(&lines, || table(&lines))
        }
        OrderCommand::Stuck => money::stuck(global).await,
        OrderCommand::Show { order, timeline } => money::show_order(global, order, timeline).await,
        OrderCommand::Refund { order, minor, keep_rights, reason } => {
            money::refund(global, order, minor, keep_rights, reason).await
        }
    }
}

#[derive(Serialize)]
struct Admitted {
    publisher: PublisherId,
    already: bool,
}

pub(super) async fn publisher(global: &Global, command: PublisherCommand) -> anyhow::Result<Exit> {
    let PublisherCommand::Add { publisher, name } = command;
    let mut keyserver = Keyserver::reach(global).await?;
    let request = pb::AdmitPublisherRequest { publisher: publisher.to_vec(), name };
    let admitted = keyserver.client.admit_publisher(request).await.map_err(|status| keyserver.failure(&status))?;
    let admitted = Admitted { publisher, already: admitted.into_inner().already };
    global.print(&admitted, || match admitted.already {
        true => format!("{publisher} was admitted before\n"),
        false => format!("{publisher} is admitted\n"),
    })
}

/// The keyserver that runs on a data folder.
pub(super) struct Keyserver {
    client: OperatorClient<InterceptedService<Channel, Bearer>>,
    payments: PaymentsClient<InterceptedService<Channel, Bearer>>,
    url: String,
}

/// The way to the keyserver that runs on the data folder, the token for it, and its address.
pub(super) async fn way(global: &Global) -> Result<(Channel, Bearer, String), Failure> {
    let folder = DataFolder::inspect(global.data_folder()?)?;
    let url = folder.endpoint()?;
    let token = OperatorToken::read(&folder.file(token::FILE))?;
    let ca_file = Some(tls::self_signed_certificate(folder.path())).filter(|path| path.exists());
    // The token never leaves the machine in clear: the folder of the daemon is here, so the daemon is too.
    let channel = client::connect(&url, &Trust { ca_file, insecure: false }).await?;
    Ok((channel, token.bearer(), url))
}

impl Keyserver {
    pub(super) async fn reach(global: &Global) -> Result<Keyserver, Failure> {
        let (channel, bearer, url) = way(global).await?;
        let client = OperatorClient::with_interceptor(channel.clone(), bearer.clone());
        let payments = PaymentsClient::with_interceptor(channel, bearer);
        Ok(Keyserver { client, payments, url })
    }

    /// The questions about money.
    pub(super) fn payments(&mut self) -> &mut PaymentsClient<InterceptedService<Channel, Bearer>> {
        &mut self.payments
    }

    async fn orders(&mut self, limit: u32) -> Result<Vec<pb::Order>, Failure> {
        let (mut orders, mut page_token) = (Vec::new(), Vec::new());
        loop {
            let left = limit.saturating_sub(u32::try_from(orders.len()).unwrap_or(u32::MAX));
            if left == 0 {
                return Ok(orders);
            }
            let request = pb::ListAllOrdersRequest { page_size: left.min(PAGE), page_token };
            let page = self.client.list_all_orders(request).await.map_err(|status| self.failure(&status))?.into_inner();
            orders.extend(page.orders);
            page_token = page.next_page_token;
            if page_token.is_empty() {
                return Ok(orders);
            }
        }
    }

    pub(super) fn failure(&self, status: &Status) -> Failure {
        client::failure(&self.url, status)
    }
}

pub(super) fn line(order: pb::Order) -> anyhow::Result<OrderLine> {
    let state = match order.state() {
        pb::OrderState::Unspecified => "unknown",
        pb::OrderState::Pending => "pending",
        pb::OrderState::Paid => "paid",
        pb::OrderState::Granted => "granted",
        pb::OrderState::Refunded => "refunded",
        pb::OrderState::Expired => "expired",
        pb::OrderState::Disputed => "disputed",
    };
    let price = order.price.unwrap_or_default();
    Ok(OrderLine {
        order: OrderId::try_from(order.order.as_slice())?.to_string(),
        item: (!order.item.is_empty())
            .then(|| ItemId::try_from(order.item.as_slice()).map(|item| item.to_string()))
            .transpose()?,
        offer: order.offer,
        state,
        amount_minor: price.minor,
        currency: price.currency,
        created: Utc::from_millis(order.created_utc_ms).to_string(),
        paid: order.paid_utc_ms.map(|paid| Utc::from_millis(paid).to_string()),
        paid_by: Some(order.paid_by).filter(|paid_by| !paid_by.is_empty()),
    })
}

pub(super) fn table(lines: &[OrderLine]) -> String {
    let mut text = String::new();
    for line in lines {
        let OrderLine { order, item, offer, state, created, .. } = line;
        let price = line.currency.parse::<Currency>().and_then(|currency| Money::new(line.amount_minor, currency));
        let price = price.map(|price| price.to_string()).unwrap_or_default();
        let item = item.as_ref().map_or_else(|| "pass".to_owned(), |item| format!("{}…", &item[..12]));
        writeln!(text, "{created}  {order}  {state:<8}  {offer:<12}  {price:<24}  {item}")
            .expect("a string takes every text");
    }
    text
}
