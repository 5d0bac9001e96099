//! Questions about customers' queues.

use daemon::exit::Failure;
use futures::FutureExt as _;
use swarm_proto::id::{AccountId, DeviceId, TitleId};
use swarm_proto::pb::tracker as pb;
use swarm_proto::time::Now;
use swarm_proto::tracker::admission;
use swarm_proto::tracker::queue::{Entry, PriorityList, QueueError};
use swarm_proto::tracker::registry::RegistryError;
use swarm_proto::tracker::sites::Delivery;

use super::{Handle, State};
use crate::auth::Caller;
use crate::records::Records;
use crate::{convert, refusal};

/// A change that somebody wants in a queue.
#[derive(Debug, Clone)]
pub(crate) enum Change {
    Add { title: TitleId, this_device_only: bool, before: Option<TitleId>, delivery: Option<Delivery> },
    Move { title: TitleId, to: usize, if_version: Option<u64> },
    Remove { title: TitleId },
}

impl Handle {
    /// The queue of the calling device's customer, or of the one the operator names.
    pub(crate) async fn queue(&self, caller: Caller, account: Option<AccountId>) -> Result<pb::QueueState, Failure> {
        self.look(move |state, _| {
            let account = state.account_of(caller, account)?;
            Ok(state.queue_message(&account))
        })
        .await
    }

    /// Changes a queue.
    pub(crate) async fn change_queue(
        &self,
        caller: Caller,
        account: Option<AccountId>,
        change: Change,
    ) -> Result<pb::QueueState, Failure> {
        self.ask(move |state, now| state.change_queue(now, caller, account, change).boxed()).await
    }
}

impl State {
    async fn change_queue(
        &mut self,
        now: Now,
        caller: Caller,
        account: Option<AccountId>,
        change: Change,
    ) -> Result<pb::QueueState, Failure> {
        let account = self.account_of(caller, account)?;
        if let Change::Add { title, .. } = &change {
            let listing = self.catalog.title(title).ok_or_else(refusal::no_title)?;
            match caller {
                Caller::Device(device) => admission::admit(&self.registry, &device, listing),
                Caller::Operator => admission::admit_for_customer(&self.registry, &account, listing),
            }
            .map_err(refusal::admission)?;
        }
        let mut list = self.queues.get(&account).cloned().unwrap_or_default();
        let added = match &change {
            Change::Add { title, .. } if !list.entries().iter().any(|it| it.title == *title) => Some(*title),
            _ => None,
        };
        apply(&mut list, now, caller, change).map_err(refusal::queue)?;
        self.commit(Records::new().queue(&account, &list)).await?;
        let before = self.queues.insert(account, list).unwrap_or_default();
        self.reconsider_queue(now, &account, &before);
        if let Some(title) = added {
            self.note_queued(now.utc, &account, &title);
        }
        let message = self.queue_message(&account);
        for device in self.registry.devices_of(&account) {
            if let Some(session) = self.sessions.get(&device.device) {
                session.mailbox.queue(message.clone());
            }
        }
        Ok(message)
    }

    /// Whose queue is meant: a device means its customer's, the operator says whose.
    fn account_of(&self, caller: Caller, account: Option<AccountId>) -> Result<AccountId, Failure> {
        match (caller, account) {
            (Caller::Device(device), None) => {
                self.registry.member(&device).map(|it| it.account).map_err(refusal::caller)
            }
            (Caller::Device(_), Some(_)) => Err(refusal::not_for_devices()),
            (Caller::Operator, Some(account)) => match self.registry.customer(&account) {
                Some(_) => Ok(account),
                None => Err(refusal::registry(RegistryError::NoCustomer)),
            },
            (Caller::Operator, None) => Err(refusal::registry(RegistryError::NoCustomer)),
        }
    }

    pub(super) fn queue_message(&self, account: &AccountId) -> pb::QueueState {
        let empty = PriorityList::default();
        let list = self.queues.get(account).unwrap_or(&empty);
        let entries = list.entries().iter().filter_map(|entry| self.entry_message(entry)).collect();
        pb::QueueState { version: list.version(), entries }
    }

    /// An entry as devices see it; none if the title is not in the catalog any more.
    fn entry_message(&self, entry: &Entry) -> Option<pb::QueueEntry> {
        let listing = self.catalog.title(&entry.title)?;
        Some(pb::QueueEntry {
            title: entry.title.to_vec(),
            item: listing.entry.item.to_vec(),
            name: listing.entry.name.clone(),
            device: entry.target.map(Into::into).unwrap_or_default(),
            added_utc_ms: entry.added.as_millis(),
            delivery: entry.delivery.map(convert::delivery_message),
        })
    }
}

fn apply(list: &mut PriorityList, now: Now, caller: Caller, change: Change) -> Result<(), QueueError> {
    let editor: Option<DeviceId> = match caller {
        Caller::Device(device) => Some(device),
        Caller::Operator => None,
    };
    match change {
        Change::Add { title, this_device_only, before, delivery } => {
            list.add(now.utc, title, editor.filter(|_| this_device_only), before, delivery)
        }
        Change::Move { title, to, if_version } => list.move_to(editor.as_ref(), &title, to, if_version),
        Change::Remove { title } => list.remove(editor.as_ref(), &title),
    }
}
