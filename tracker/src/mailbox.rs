//! What is still to be told to one device, on its way to the stream that tells it.
//!
//! Bounded without a queue: of each kind of notice only the latest matters, so it takes the place of the one before.
//! Only plans are several, one for each item; a device that lets too many of them lie does not read and loses its
//! stream. The last thing said on a closed mailbox is why it was closed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::Stream;
use swarm_proto::id::{DeviceId, ItemId};
use swarm_proto::pb::common::Signed;
use swarm_proto::pb::tracker::notice::Notice as Kind;
use swarm_proto::pb::tracker::{Assignments, Challenge, Notice, Plan, QueueState, Revoked, Welcome};
use swarm_proto::tracker::revocations::MAX_TOLD;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tonic::Status;

/// Plans that may lie unread: as many items as a device may be planned for at the same time.
const MAX_UNREAD_PLANS: usize = 64;

/// The writer's end. Clones write to the same device.
#[derive(Debug, Clone, Default)]
pub(crate) struct Mailbox(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    unread: Mutex<Unread>,
    changed: Notify,
    closed: CancellationToken,
}

#[derive(Debug, Default)]
struct Unread {
    welcome: Option<Welcome>,
    membership: Option<Signed>,
    queue: Option<QueueState>,
    catalog_version: Option<u64>,
    plans: BTreeMap<ItemId, Plan>,
    revoked: BTreeSet<DeviceId>,
    assignments: Option<Assignments>,
    challenge: Option<Challenge>,
    closed: Option<Status>,
    /// The reason for closing was read: the stream is over.
    over: bool,
}

impl Mailbox {
    pub(crate) fn welcome(&self, welcome: Welcome) {
        self.change(|unread| unread.welcome = Some(welcome));
    }

    pub(crate) fn membership(&self, membership: Signed) {
        self.change(|unread| unread.membership = Some(membership));
    }

    pub(crate) fn queue(&self, queue: QueueState) {
        self.change(|unread| unread.queue = Some(queue));
    }

    pub(crate) fn catalog_version(&self, version: u64) {
        self.change(|unread| unread.catalog_version = Some(version));
    }

    pub(crate) fn assignments(&self, assignments: Assignments) {
        self.change(|unread| unread.assignments = Some(assignments));
    }

    /// A device is asked one thing at a time: a challenge that was not read has been given up.
    pub(crate) fn challenge(&self, challenge: Challenge) {
        self.change(|unread| unread.challenge = Some(challenge));
    }

    pub(crate) fn plan(&self, item: ItemId, plan: Plan) {
        self.change(|unread| {
            unread.plans.insert(item, plan);
            if unread.plans.len() > MAX_UNREAD_PLANS {
                unread.plans.clear();
                unread.close(not_reading());
            }
        });
        self.cancel_if_closed();
    }

    /// Devices that were shut out. A device that leaves too many of them unread is told all of them when it is back.
    pub(crate) fn revoked(&self, devices: impl IntoIterator<Item = DeviceId>) {
        self.change(|unread| {
            unread.revoked.extend(devices);
            if unread.revoked.len() > MAX_TOLD {
                unread.revoked.clear();
                unread.close(not_reading());
            }
        });
        self.cancel_if_closed();
    }

    /// Ends the stream after what is unread; the first reason counts.
    pub(crate) fn close(&self, why: Status) {
        self.change(|unread| unread.close(why));
        self.0.closed.cancel();
    }

    /// Is cancelled when the mailbox is closed.
    pub(crate) fn closed(&self) -> CancellationToken {
        self.0.closed.clone()
    }

    /// What the device reads: everything unread, and more as it comes, until the mailbox is closed.
    pub(crate) fn read(self) -> impl Stream<Item = Result<Notice, Status>> + Send {
        futures::stream::unfold(self, async |mailbox| {
            loop {
                let next = mailbox.unread().next();
                match next {
                    Next::Notice(kind) => return Some((Ok(Notice { notice: Some(*kind) }), mailbox)),
                    Next::Closed(why) => return Some((Err(why), mailbox)),
                    Next::Over => return None,
                    // A change since then has left a permit, so it is not missed.
                    Next::Nothing => mailbox.0.changed.notified().await,
                }
            }
        })
    }

    fn change(&self, change: impl FnOnce(&mut Unread)) {
        change(&mut self.unread());
        self.0.changed.notify_one();
    }

    fn cancel_if_closed(&self) {
        if self.unread().closed.is_some() {
            self.0.closed.cancel();
        }
    }

    fn unread(&self) -> MutexGuard<'_, Unread> {
        self.0.unread.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What comes next on the stream.
enum Next {
    Notice(Box<Kind>),
    Closed(Status),
    Over,
    Nothing,
}

impl Unread {
    fn close(&mut self, why: Status) {
        self.closed.get_or_insert(why);
    }

    fn take_revoked(&mut self) -> Option<Revoked> {
        let devices = std::mem::take(&mut self.revoked);
        (!devices.is_empty()).then(|| Revoked { devices: devices.iter().map(DeviceId::to_vec).collect() })
    }

    /// Takes out the next thing to say: first who the tracker is, last why it stops.
    fn next(&mut self) -> Next {
        if self.over {
            return Next::Over;
        }
        let kind = (self.welcome.take().map(Kind::Welcome))
            .or_else(|| self.take_revoked().map(Kind::Revoked))
            .or_else(|| self.membership.take().map(Kind::Membership))
            .or_else(|| self.queue.take().map(Kind::Queue))
            .or_else(|| self.plans.pop_first().map(|(_, plan)| Kind::Plan(plan)))
            .or_else(|| self.catalog_version.take().map(Kind::CatalogVersion))
            .or_else(|| self.assignments.take().map(Kind::Assignments))
            .or_else(|| self.challenge.take().map(Kind::Challenge));
        match (kind, &self.closed) {
            (Some(kind), _) => Next::Notice(Box::new(kind)),
            (None, Some(why)) => {
                self.over = true;
                Next::Closed(why.clone())
            }
            (None, None) => Next::Nothing,
        }
    }
}

fn not_reading() -> Status {
    Status::resource_exhausted("this device does not read its notices: connect again")
}

#[cfg(test)]
mod tests {
    use futures::StreamExt as _;

    use super::*;

    fn queue(version: u64) -> QueueState {
        QueueState { version, entries: Vec::new() }
    }

    fn plan(n: u8) -> (ItemId, Plan) {
        (ItemId::from([n; 32]), Plan { item: vec![n; 32], ..Plan::default() })
    }

    #[tokio::test]
    async fn slow_reader_finds_only_the_latest_of_each_kind() {
        let mailbox = Mailbox::default();
        for version in 1..=100 {
            mailbox.queue(queue(version));
            mailbox.catalog_version(version);
        }
        mailbox.welcome(Welcome::default());
        mailbox.close(Status::unavailable("stopping"));
        let read: Vec<_> = mailbox.read().collect().await;
        let kinds: Vec<_> = read.iter().map(|it| it.as_ref().ok().and_then(|it| it.notice.clone())).collect();
        let expected = [
            Some(Kind::Welcome(Welcome::default())),
            Some(Kind::Queue(queue(100))),
            Some(Kind::CatalogVersion(100)),
            None,
        ];
        assert_eq!(kinds, expected);
    }

    #[tokio::test]
    async fn reader_that_lets_plans_pile_up_loses_its_stream() {
        let mailbox = Mailbox::default();
        for n in 0..=MAX_UNREAD_PLANS as u8 {
            let (item, plan) = plan(n);
            mailbox.plan(item, plan);
        }
        let read: Vec<_> = mailbox.read().collect().await;
        assert_eq!(read.len(), 1);
        assert_eq!(read[0].as_ref().unwrap_err().code(), tonic::Code::ResourceExhausted);
    }

    #[tokio::test]
    async fn revoked_devices_are_added_up_until_they_are_read() {
        let mailbox = Mailbox::default();
        mailbox.revoked([DeviceId::from([2; 32])]);
        mailbox.revoked([DeviceId::from([1; 32]), DeviceId::from([2; 32])]);
        mailbox.close(Status::unavailable("stopping"));
        let read: Vec<_> = mailbox.read().collect().await;
        let told = Kind::Revoked(Revoked { devices: vec![vec![1; 32], vec![2; 32]] });
        assert_eq!(read[0].as_ref().unwrap().notice, Some(told));
    }

    #[tokio::test]
    async fn reader_that_waits_is_woken() {
        let mailbox = Mailbox::default();
        let mut read = Box::pin(mailbox.clone().read());
        let waiting = tokio::spawn(async move { read.next().await });
        tokio::task::yield_now().await;
        mailbox.queue(queue(1));
        assert!(waiting.await.unwrap().unwrap().is_ok());
    }

    #[tokio::test]
    async fn first_reason_for_closing_is_the_one_that_is_told() {
        let mailbox = Mailbox::default();
        mailbox.close(Status::unauthenticated("revoked"));
        mailbox.close(Status::unavailable("stopping"));
        let read: Vec<_> = mailbox.read().collect().await;
        assert_eq!(read[0].as_ref().unwrap_err().code(), tonic::Code::Unauthenticated);
    }
}
