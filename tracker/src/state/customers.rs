//! Questions about customers.

use daemon::exit::Failure;
use futures::FutureExt as _;
use swarm_proto::id::{AccountId, DeviceId, ItemId};
use swarm_proto::pb::tracker as pb;
use swarm_proto::time::Now;
use swarm_proto::tracker::planner::Held;
use swarm_proto::tracker::registry::{Customer, CustomerChange, Device, InviteKey, RegistryError, Standing};

use super::devices::MAX_SWEPT;
use super::{Handle, State};
use crate::convert;
use crate::records::Records;
use crate::refusal;

/// Devices and holdings on one page of an export.
const EXPORT_ROWS: usize = 1_000;

impl Handle {
    /// Adds a customer.
    pub(crate) async fn add_customer(&self, name: String, more: CustomerChange) -> Result<pb::Customer, Failure> {
        self.ask(move |state, now| state.add_customer(now, name, more).boxed()).await
    }

    /// Changes what is known of a customer.
    pub(crate) async fn set_customer(
        &self,
        account: AccountId,
        change: CustomerChange,
    ) -> Result<pb::Customer, Failure> {
        self.ask(move |state, _| state.set_customer(account, change).boxed()).await
    }

    /// A page of everything that is known of a customer, from after what a page has ended with.
    pub(crate) async fn export_customer(
        &self,
        account: AccountId,
        after: Option<(DeviceId, ItemId)>,
    ) -> Result<pb::CustomerExport, Failure> {
        self.ask(move |state, _| state.export_customer(account, after).boxed()).await
    }

    /// Erases a customer, or says what would go.
    pub(crate) async fn delete_customer(
        &self,
        account: AccountId,
        dry_run: bool,
    ) -> Result<pb::DeletedCustomer, Failure> {
        self.ask(move |state, now| {
            async move {
                let deleted = state.what_would_go(&account).await?;
                if !dry_run {
                    state.delete_customer(now, account).await?;
                }
                Ok(deleted)
            }
            .boxed()
        })
        .await
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

    /// Suspends a customer, closes its account, or serves it again.
    pub(crate) async fn set_customer_status(&self, account: AccountId, to: Standing) -> Result<pb::Customer, Failure> {
        self.ask(move |state, now| state.set_customer_status(now, account, to).boxed()).await
    }
}

impl State {
    async fn add_customer(&mut self, now: Now, name: String, more: CustomerChange) -> Result<pb::Customer, Failure> {
        let account = AccountId::generate(&mut self.rng);
        let customer = self.registry.new_customer(now.utc, account, &name).map_err(refusal::registry)?;
        let customer = Customer {
            region: more.region.flatten(),
            rating_limit: more.rating_limit.unwrap_or(customer.rating_limit),
            ..customer
        };
        self.commit(Records::new().customer(&customer)).await?;
        let answer = convert::customer(&customer, 0);
        self.registry.insert_customer(customer);
        Ok(answer)
    }

    async fn set_customer(&mut self, account: AccountId, change: CustomerChange) -> Result<pb::Customer, Failure> {
        let customer = self.registry.changed_customer(&account, change).map_err(refusal::registry)?;
        self.commit(Records::new().customer(&customer)).await?;
        let answer = self.customer_message(&customer);
        self.registry.insert_customer(customer);
        Ok(answer)
    }

    async fn set_customer_status(
        &mut self,
        now: Now,
        account: AccountId,
        to: Standing,
    ) -> Result<pb::Customer, Failure> {
        let customer = self.registry.with_standing(now.utc, &account, to).map_err(refusal::registry)?;
        self.commit(Records::new().customer(&customer)).await?;
        tracing::info!(%account, status = ?customer.status, "customer changed");
        self.registry.insert_customer(customer.clone());
        if to == Standing::Closed {
            self.signins.end(&account);
            self.shut_out_all(now, &account).await?;
        }
        Ok(self.customer_message(&customer))
    }

    async fn shut_out_all(&mut self, now: Now, account: &AccountId) -> Result<(), Failure> {
        let open = self.registry.devices_of(account).filter(|it| !it.revoked);
        let revoked = open.map(|it| Device { revoked: true, ..it.clone() }).collect();
        self.shut_out(now, revoked).await
    }

    async fn what_would_go(&self, account: &AccountId) -> Result<pb::DeletedCustomer, Failure> {
        let customer = self.registry.customer(account).ok_or_else(|| refusal::registry(RegistryError::NoCustomer))?;
        let devices = || self.registry.devices_of(account);
        let holdings: usize = devices().map(|it| self.planner.held_by(&it.device).count()).sum();
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        Ok(pb::DeletedCustomer {
            name: customer.name.clone(),
            devices: count(devices().count()),
            invitations: count(self.registry.invites_of(account).count()),
            queue_entries: count(self.queues.get(account).map_or(0, |list| list.entries().len())),
            holdings: holdings as u64,
            deliveries: count(self.delivery_messages(account).await?.len()),
        })
    }

    /// Shuts the devices out, then erases device by device, the account last: whatever interrupts this, the customer is
    /// still found and can be deleted again. Holdings follow in the background, and at the next start if need be.
    async fn delete_customer(&mut self, now: Now, account: AccountId) -> Result<(), Failure> {
        self.signins.end(&account);
        self.shut_out_all(now, &account).await?;
        let devices: Vec<DeviceId> = self.registry.devices_of(&account).map(|it| it.device).collect();
        let invites: Vec<InviteKey> = self.registry.invites_of(&account).map(|it| it.key).collect();
        for some in devices.chunks(MAX_SWEPT) {
            self.commit(some.iter().fold(Records::new(), |records, it| records.forgotten_device(it))).await?;
        }
        for some in invites.chunks(MAX_SWEPT) {
            self.commit(some.iter().fold(Records::new(), |records, it| records.forgotten_invite(it))).await?;
        }
        self.forget_deliveries(&account).await?;
        self.commit(Records::new().forgotten_customer(&account)).await?;
        tracing::info!(%account, devices = devices.len(), "customer deleted");
        self.accounts.forget_devices(&devices.iter().copied().collect());
        for device in &devices {
            self.replace_holdings(now, *device, Vec::new());
            self.unwritten.seen.remove(device);
        }
        self.queues.remove(&account);
        self.registry.forget_customer(&account);
        Ok(())
    }

    async fn export_customer(
        &self,
        account: AccountId,
        after: Option<(DeviceId, ItemId)>,
    ) -> Result<pb::CustomerExport, Failure> {
        let account = &account;
        let customer = self.registry.customer(account).ok_or_else(|| refusal::registry(RegistryError::NoCustomer))?;
        let mut page = pb::CustomerExport::default();
        if after.is_none() {
            page.customer = Some(self.customer_message(customer));
            page.queue = self.queue_message(account).entries;
            page.deliveries = self.delivery_messages(account).await?;
            page.invitations = self.registry.invites_of(account).map(convert::invitation).collect();
        }
        let mut rows = 0;
        for device in self.registry.devices_of(account).filter(|it| after.is_none_or(|(from, _)| it.device >= from)) {
            let is_told = |item: &ItemId| after.is_some_and(|(from, last)| device.device == from && *item <= last);
            let (mut holdings, mut last) = (Vec::new(), None);
            for (item, held) in self.holdings_in_order(&device.device).filter(|(item, _)| !is_told(item)) {
                if rows == EXPORT_ROWS {
                    break;
                }
                rows += 1;
                holdings.push(pb::HeldItem { item: item.to_vec(), chunks: held.len(), n_chunks: held.n_chunks() });
                last = Some(item);
            }
            page.devices.push(pb::DeviceExport {
                device: Some(self.device_message(device)),
                hpke_public: device.hpke.to_vec(),
                issued_utc_ms: device.issued.as_millis(),
                serial: device.serial,
                observed_address: self.observed_address(&device.device),
                holdings,
            });
            if rows == EXPORT_ROWS {
                let last = last.unwrap_or(ItemId::from([0; 32]));
                page.next_page_token = [device.device.to_vec(), last.to_vec()].concat();
                break;
            }
            rows += 1;
        }
        Ok(page)
    }

    /// What a device holds, by item: the planner has an order of its own.
    fn holdings_in_order(&self, device: &DeviceId) -> impl Iterator<Item = (ItemId, Held<'_>)> {
        let mut holdings: Vec<_> = self.planner.held_by(device).collect();
        holdings.sort_by_key(|(item, _)| *item);
        holdings.into_iter()
    }

    fn observed_address(&self, device: &DeviceId) -> String {
        self.sessions.get(device).map(|it| it.reachable.observed().to_string()).unwrap_or_default()
    }

    fn customer_message(&self, customer: &Customer) -> pb::Customer {
        convert::customer(customer, self.registry.devices_of(&customer.account).filter(|it| !it.revoked).count())
    }
}
