//! `peer-node pay`: orders a title, and pays it with a pass if there is one.

use std::io::{BufRead, IsTerminal, Write};

use clap::Args;
use daemon::exit::Exit;
use serde::Serialize;
use swarm_proto::id::DeviceId;
use swarm_proto::pb::node::{BuyRequest, BuyResponse};
use zeroize::Zeroizing;

use super::Global;
use super::daemon_client::{Device, query};

#[derive(Args)]
pub(super) struct PayArgs {
    /// Its name, the beginning of it, or its id
    title: String,
    /// Which offer, if there are several
    #[arg(long, value_name = "ID")]
    offer: Option<String>,
    /// Code of a pass; `-` reads it from stdin [default: asks on a terminal]
    #[arg(long, value_name = "CODE")]
    pass: Option<String>,
    /// A lost or broken device of the account (its id) whose place this one takes
    #[arg(long, value_name = "DEVICE")]
    replaces: Option<DeviceId>,
}

#[derive(Serialize)]
struct Answer<'a> {
    order: &'a str,
    state: &'a str,
    playable: bool,
    play_url: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    checkout_url: &'a str,
}

pub(super) async fn run(global: &Global, args: PayArgs) -> anyhow::Result<Exit> {
    let mut device = Device::reach(global).await?;
    let pass_code = match args.pass.as_deref() {
        Some("-") => line()?,
        Some(code) => Zeroizing::new(code.to_owned()),
        None if !global.json && std::io::stdin().is_terminal() => {
            eprint!("Pass code (empty to leave the order open for a till): ");
            std::io::stderr().flush()?;
            line()?
        }
        None => Zeroizing::default(),
    };
    let request = BuyRequest {
        title: query(&args.title),
        offer: args.offer.unwrap_or_default(),
        pass_code: pass_code.to_string(),
        replaces: args.replaces.map(|device| device.to_vec()).unwrap_or_default(),
    };
    let bought = device.client.buy(request).await.map_err(|status| device.failure(&status))?.into_inner();
    let BuyResponse { order_code, state, playable, play_url, checkout_url, .. } = &bought;
    let answer = Answer { order: order_code, state, playable: *playable, play_url, checkout_url };
    global.print(&answer, || match (playable, order_code.as_str()) {
        (true, order) => format!("order {order}: {state}; play it at {play_url}\n"),
        (false, "") => format!("ordered: {state}; the rest happens by itself\n"),
        (false, order) if checkout_url.is_empty() => {
            format!("order {order}: {state}; the key comes by itself once it is paid\n")
        }
        (false, order) => format!(
            "order {order}: {state}\npay it in a browser: {checkout_url}\nthe key comes by itself once it is paid\n"
        ),
    })?;
    Ok(Exit::Done)
}

fn line() -> std::io::Result<Zeroizing<String>> {
    let mut text = Zeroizing::new(String::new());
    std::io::stdin().lock().read_line(&mut text)?;
    Ok(Zeroizing::new(text.trim().to_owned()))
}
