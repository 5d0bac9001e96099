//! Questions about customers.

use daemon::exit::Failure;
use futures::FutureExt as _;
use swarm_proto::id::AccountId;
use swarm_proto::pb::tracker as pb;
use swarm_proto::time::Now;
use swarm_proto::tracker::registry::{Customer, Status};

use super::{Handle, State};
use crate::convert;
use crate::records::Records;
use crate::refusal;

impl Handle {
    /// Adds a customer.
    pub(crate) async fn add_customer(&self, name: String) -> Result<pb::Customer, Failure> {
        self.ask(move |state, now| state.add_customer(now, name).boxed()).await
    }

    /// A page of customers.
    pub(crate) async fn customers(
        &self,
        after: Option<AccountId>,
        page_size: usize,
    ) -> Result<pb::ListCustomersResponse, Failure> {
        self.look(move |state, _| {
            let mut rest = state.registry.customers_after(after).peekable();
            let page: Vec<&Customer> = rest.by_ref().take(page_size).collect();
            let more = rest.peek().and_then(|_| page.last().map(|last| last.account.to_vec()));
            let customers = page.into_iter().map(|it| state.customer_message(it)).collect();
            Ok(pb::ListCustomersResponse { customers, next_page_token: more.unwrap_or_default() })
        })
        .await
    }

    /// Suspends a customer, or serves it again.
    pub(crate) async fn set_customer_status(
        &self,
        account: AccountId,
        status: Status,
    ) -> Result<pb::Customer, Failure> {
        self.ask(move |state, _| state.set_customer_status(account, status).boxed()).await
    }
}

impl State {
    async fn add_customer(&mut self, now: Now, name: String) -> Result<pb::Customer, Failure> {
        let account = AccountId::generate(&mut self.rng);
        let customer = self.registry.new_customer(now.utc, account, &name).map_err(refusal::registry)?;
        self.commit(Records::new().customer(&customer)).await?;
        let answer = convert::customer(&customer, 0);
        self.registry.insert_customer(customer);
        Ok(answer)
    }

    async fn set_customer_status(&mut self, account: AccountId, status: Status) -> Result<pb::Customer, Failure> {
        let customer = self.registry.with_status(&account, status).map_err(refusal::registry)?;
        self.commit(Records::new().customer(&customer)).await?;
        tracing::info!(%account, ?status, "customer changed");
        let answer = self.customer_message(&customer);
        self.registry.insert_customer(customer);
        Ok(answer)
    }

    fn customer_message(&self, customer: &Customer) -> pb::Customer {
        convert::customer(customer, self.registry.devices_of(&customer.account).filter(|it| !it.revoked).count())
    }
}
