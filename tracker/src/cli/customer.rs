//! `tracker customer`: who owns devices.

use clap::Subcommand;
use daemon::exit::{Exit, Failure};
use serde::Serialize;
use swarm_proto::id::AccountId;
use swarm_proto::pb::tracker as pb;
use swarm_proto::time::Utc;

use super::Global;
use super::client::{PAGE_SIZE, Tracker, collect, id, table};

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

pub(super) async fn run(global: &Global, command: CustomerCommand) -> anyhow::Result<Exit> {
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
        if let Ok(account) = customer.parse::<AccountId>() {
            return Ok(account.to_vec());
        }
        let found = self.customers().await?.into_iter().find(|it| it.name == customer);
        found.map(|it| it.account).ok_or_else(|| {
            Failure::new(Exit::NotFound, "E-CUSTOMER-01", format!("there is no customer {customer}"))
                .hint("tracker customer ls")
        })
    }
}
