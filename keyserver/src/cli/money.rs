//! `keyserver order show|refund|stuck`, `pass`, `billing`, `gateway`: asked of the keyserver that runs on the
//! data folder.

use std::fmt::Write as _;
use std::io::Write as _;

use clap::Subcommand;
use daemon::Exit;
use daemon::units::Duration;
use serde::Serialize;
use swarm_proto::id::{AccountId, OrderId, RefundId};
use swarm_proto::keyserver::billing::Month;
use swarm_proto::keyserver::record::PassId;
use swarm_proto::pb::keyserver as pb;
use swarm_proto::time::Utc;

use super::Global;
use super::operator::{Keyserver, OrderLine, line, table};
use crate::words;

/// Passes asked for at a time.
const PAGE: u32 = 500;

#[derive(Subcommand)]
pub(super) enum BillingCommand {
    /// How much accounts may owe
    #[command(subcommand)]
    Limit(LimitCommand),
    /// With what accounts pay at Stripe
    #[command(subcommand)]
    Card(CardCommand),
    /// Print the lines of a month's bills as CSV
    Export {
        /// Such as 2026-11
        month: Month,
    },
    /// Settle a month that is over, and all before it, for good
    Close {
        /// Such as 2026-11
        month: Month,
    },
}

#[derive(Subcommand)]
pub(super) enum LimitCommand {
    /// Let an account pay by its bill, up to here at a time
    Set {
        /// The account's code
        account: AccountId,
        /// In the currency's minor unit; 0: nothing
        #[arg(long, value_name = "N")]
        minor: u64,
        /// Three letters, such as EUR
        #[arg(long)]
        currency: String,
    },
}

#[derive(Subcommand)]
pub(super) enum CardCommand {
    /// Note with what an account pays at Stripe
    Set {
        /// The account's code
        account: AccountId,
        /// What the payer calls it, such as "Visa ending in 4242"
        #[arg(long)]
        label: String,
        /// Stripe's name of the payment method (pm_…)
        #[arg(long)]
        method: String,
        /// Stripe's customer that it is attached to (cus_…)
        #[arg(long, default_value = "")]
        customer: String,
    },
}

#[derive(Subcommand)]
pub(super) enum GatewayCommand {
    /// List the ways to pay
    Ls,
    /// Ask a provider whether it would work with us
    Check {
        /// Which one, as in the list
        name: String,
    },
}

#[derive(Serialize)]
struct OrderReport {
    #[serde(flatten)]
    line: OrderLine,
    account: String,
    returned_minor: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    timeline: Option<Vec<Happening>>,
}

#[derive(Serialize)]
struct Happening {
    time: String,
    what: String,
}

fn report(report: pb::OrderReport, with_timeline: bool) -> anyhow::Result<OrderReport> {
    let timeline = with_timeline.then(|| {
        let happening =
            |event: pb::Happening| Happening { time: Utc::from_millis(event.utc_ms).to_string(), what: event.what };
        report.timeline.into_iter().map(happening).collect()
    });
    Ok(OrderReport {
        line: line(report.order.unwrap_or_default())?,
        account: AccountId::try_from(report.account.as_slice())?.to_string(),
        returned_minor: report.returned_minor,
        timeline,
    })
}

pub(super) async fn show_order(global: &Global, order: OrderId, timeline: bool) -> anyhow::Result<Exit> {
    let mut keyserver = Keyserver::reach(global).await?;
    let shown = keyserver.payments().show_order(pb::ShowOrderRequest { order: order.to_vec() }).await;
    let shown = report(shown.map_err(|status| keyserver.failure(&status))?.into_inner(), timeline)?;
    global.print(&shown, || {
        let mut text = table(std::slice::from_ref(&shown.line));
        for Happening { time, what } in shown.timeline.iter().flatten() {
            writeln!(text, "  {time}  {what}").expect("a string takes every text");
        }
        text
    })
}

pub(super) async fn stuck(global: &Global) -> anyhow::Result<Exit> {
    let mut keyserver = Keyserver::reach(global).await?;
    let stuck = keyserver.payments().list_stuck(pb::ListStuckRequest {}).await;
    let stuck = stuck.map_err(|status| keyserver.failure(&status))?.into_inner().orders;
    let lines = stuck.into_iter().map(line).collect::<anyhow::Result<Vec<_>>>()?;
    global.print(&lines, || table(&lines))
}

pub(super) async fn refund(
    global: &Global,
    order: OrderId,
    minor: Option<u64>,
    keeps_rights: bool,
    reason: String,
) -> anyhow::Result<Exit> {
    let mut keyserver = Keyserver::reach(global).await?;
    let refund = RefundId::generate(&mut crate::rng()).to_vec();
    let request = pb::RefundRequest { order: order.to_vec(), refund, minor, keeps_rights, reason };
    let refunded = keyserver.payments().refund(request).await;
    let refunded = report(refunded.map_err(|status| keyserver.failure(&status))?.into_inner(), true)?;
    global.print(&refunded, || format!("{} is {}\n", refunded.line.order, refunded.line.state))
}

#[derive(Serialize)]
struct PassLine {
    pass: String,
    credits_bought: u32,
    credits_left: u32,
    for_time: bool,
    expires: String,
    account: Option<String>,
    order: Option<String>,
    voided: bool,
    orders_paid: u32,
}

fn pass_line(pass: pb::PassReport) -> anyhow::Result<PassLine> {
    let id: [u8; 32] = pass.pass.as_slice().try_into()?;
    let account = (!pass.account.is_empty()).then(|| AccountId::try_from(pass.account.as_slice())).transpose()?;
    let order = (!pass.order.is_empty()).then(|| OrderId::try_from(pass.order.as_slice())).transpose()?;
    Ok(PassLine {
        pass: PassId::from_bytes(id).to_string(),
        credits_bought: pass.credits_bought,
        credits_left: pass.credits_left,
        for_time: pass.for_time,
        expires: Utc::from_millis(pass.expires_utc_ms).to_string(),
        account: account.map(|account| account.to_string()),
        order: order.map(|order| order.to_string()),
        voided: pass.voided,
        orders_paid: pass.orders_paid,
    })
}

fn pass_text(pass: &PassLine) -> String {
    let holds = match pass.for_time {
        true => "time".to_owned(),
        false => format!("{} of {}", pass.credits_left, pass.credits_bought),
    };
    let standing = if pass.voided { "taken back" } else { "" };
    format!("{}  {holds:<12}  until {}  {standing}\n", pass.pass, pass.expires)
}

pub(super) async fn passes(global: &Global, limit: u32) -> anyhow::Result<Exit> {
    let mut keyserver = Keyserver::reach(global).await?;
    let (mut lines, mut after): (Vec<PassLine>, _) = (Vec::new(), Vec::new());
    while let left @ 1.. = limit.saturating_sub(u32::try_from(lines.len()).unwrap_or(u32::MAX)) {
        let request = pb::ListPassesRequest { page_size: left.min(PAGE), after };
        let page = keyserver.payments().list_passes(request).await;
        let page = page.map_err(|status| keyserver.failure(&status))?.into_inner().passes;
        let Some(last) = page.last() else { break };
        after = last.pass.clone();
        for pass in page {
            lines.push(pass_line(pass)?);
        }
    }
    global.print(&lines, || lines.iter().map(pass_text).collect())
}

pub(super) async fn show_pass(global: &Global, which: &str) -> anyhow::Result<Exit> {
    let mut keyserver = Keyserver::reach(global).await?;
    let which = match data_encoding::HEXLOWER.decode(which.as_bytes()) {
        Ok(bytes) if bytes.len() == 32 => pb::show_pass_request::Which::Pass(bytes),
        _ => pb::show_pass_request::Which::Code(which.to_owned()),
    };
    let shown = keyserver.payments().show_pass(pb::ShowPassRequest { which: Some(which) }).await;
    let shown = pass_line(shown.map_err(|status| keyserver.failure(&status))?.into_inner())?;
    global.print(&shown, || pass_text(&shown))
}

pub(super) async fn void_pass(global: &Global, pass: PassId, reason: String) -> anyhow::Result<Exit> {
    let mut keyserver = Keyserver::reach(global).await?;
    let pass = data_encoding::HEXLOWER.decode(pass.to_string().as_bytes())?;
    let voided = keyserver.payments().void_pass(pb::VoidPassRequest { pass, reason }).await;
    let voided = pass_line(voided.map_err(|status| keyserver.failure(&status))?.into_inner())?;
    global.print(&voided, || pass_text(&voided))
}

#[derive(Serialize)]
struct NewTimePass {
    code: String,
    expires: String,
}

pub(super) async fn create_time_pass(global: &Global, valid: Duration) -> anyhow::Result<Exit> {
    let mut keyserver = Keyserver::reach(global).await?;
    let valid_ms = u64::try_from(valid.get().as_millis()).unwrap_or(u64::MAX);
    let made = keyserver.payments().create_time_pass(pb::CreateTimePassRequest { valid_ms }).await;
    let pb::CreatePassResponse { code, expires_utc_ms } =
        made.map_err(|status| keyserver.failure(&status))?.into_inner();
    let pass = NewTimePass { code, expires: Utc::from_millis(expires_utc_ms).to_string() };
    global.print(&pass, || format!("{}\n", pass.code))
}

#[derive(Serialize)]
struct Done {
    already: bool,
}

#[derive(Serialize)]
struct LimitSet {
    already: bool,
    owed_minor: u64,
}

#[derive(Serialize)]
struct Export {
    month: String,
    closed: bool,
    lines: u64,
    csv: String,
}

pub(super) async fn billing(global: &Global, command: BillingCommand) -> anyhow::Result<Exit> {
    let mut keyserver = Keyserver::reach(global).await?;
    match command {
        BillingCommand::Card(command) => card(global, &mut keyserver, command).await,
        BillingCommand::Limit(LimitCommand::Set { account, minor, currency }) => {
            let parsed = currency.parse()?;
            let request = pb::SetCreditLimitRequest { account: account.to_vec(), minor, currency };
            let set = keyserver.payments().set_credit_limit(request).await;
            let set = set.map_err(|status| keyserver.failure(&status))?.into_inner();
            let set = LimitSet { already: set.already, owed_minor: set.owed_minor };
            let (limit, owed) = (words::amount(minor, parsed), words::amount(set.owed_minor, parsed));
            global.print(&set, || format!("{account} may owe {limit}, and owes {owed}\n"))
        }
        BillingCommand::Export { month } => {
            let mut export = Export { month: month.to_string(), closed: false, lines: 0, csv: String::new() };
            loop {
                let request = pb::ExportBillsRequest { month: month.to_string(), skip: export.lines };
                let page = keyserver.payments().export_bills(request).await;
                let page = page.map_err(|status| keyserver.failure(&status))?.into_inner();
                export.lines += page.lines;
                export.closed = page.closed;
                match global.json {
                    true => export.csv.push_str(&page.csv),
                    // A month of a large ISP is printed as it comes, never held whole.
                    false => std::io::stdout().write_all(page.csv.as_bytes())?,
                }
                if page.complete {
                    return global.print(&export, String::new);
                }
            }
        }
        BillingCommand::Close { month } => {
            let closed = keyserver.payments().close_month(pb::CloseMonthRequest { month: month.to_string() }).await;
            let already = closed.map_err(|status| keyserver.failure(&status))?.into_inner().already;
            let words = if already { "were closed before" } else { "are closed" };
            global.print(&Done { already }, || format!("the bills of {month} {words}\n"))
        }
    }
}

async fn card(global: &Global, keyserver: &mut Keyserver, command: CardCommand) -> anyhow::Result<Exit> {
    let CardCommand::Set { account, label, method, customer } = command;
    let request = pb::SaveCardRequest { account: account.to_vec(), label, method, customer };
    let saved = keyserver.payments().save_card(request).await;
    let already = saved.map_err(|status| keyserver.failure(&status))?.into_inner().already;
    global.print(&Done { already }, || "saved\n".to_owned())
}

#[derive(Serialize)]
struct Gateway {
    name: String,
    setup: String,
    ready: bool,
}

#[derive(Serialize)]
struct Checked {
    said: String,
}

pub(super) async fn gateway(global: &Global, command: GatewayCommand) -> anyhow::Result<Exit> {
    let mut keyserver = Keyserver::reach(global).await?;
    match command {
        GatewayCommand::Ls => {
            let listed = keyserver.payments().list_gateways(pb::ListGatewaysRequest {}).await;
            let listed = listed.map_err(|status| keyserver.failure(&status))?.into_inner().gateways;
            let listed: Vec<Gateway> =
                listed.into_iter().map(|pb::Gateway { name, setup, ready }| Gateway { name, setup, ready }).collect();
            let text = || listed.iter().map(|gateway| format!("{:<8}  {}\n", gateway.name, gateway.setup)).collect();
            global.print(&listed, text)
        }
        GatewayCommand::Check { name } => {
            let checked = keyserver.payments().check_gateway(pb::CheckGatewayRequest { name }).await;
            let said = checked.map_err(|status| keyserver.failure(&status))?.into_inner().said;
            let checked = Checked { said };
            global.print(&checked, || format!("{}\n", checked.said))
        }
    }
}
