//! What is asked of the books about keys that have left.

use swarm_proto::id::{DeviceId, ItemId, OrderId};
use swarm_proto::keyserver::grants::Asker;
use swarm_proto::keyserver::ledger::Answer;
use swarm_proto::keyserver::record::Reason;
use swarm_proto::keyserver::refusals::{LookRefusal, PlayRefusal, ReplaceRefusal, WithdrawRefusal};
use swarm_proto::licence::Licence;
use swarm_proto::revocations::Revocations;
use swarm_proto::seal::KeyCommitment;
use swarm_proto::time::Utc;

use super::{Books, Closed, MAX_PAGE, Standing, standing};

/// Something that was bought and may still be watched.
#[derive(Debug, Clone)]
pub struct Right {
    /// The purchase.
    pub standing: Standing,
    /// To which key its licences commit.
    pub commitment: KeyCommitment,
    /// The device that asked has a licence that counts.
    pub granted_here: bool,
}

/// Some rights of an account, the latest first.
#[derive(Debug, Clone, Default)]
pub struct Rights {
    /// The rights.
    pub rights: Vec<Right>,
    /// Where the next page begins, if there is one.
    pub next: Option<usize>,
}

impl Books {
    /// Whether a device may play under an order; the first word that it does is kept.
    pub async fn report_play(
        &self,
        asker: Asker,
        order: OrderId,
        first_play: Utc,
    ) -> Result<Result<(), PlayRefusal>, Closed> {
        self.decide(move |ledger, now| ledger.report_play(now, &asker, order, first_play)).await
    }

    /// Gives the place of a lost device to the one that asks.
    pub async fn replace_device(
        &self,
        asker: Asker,
        order: OrderId,
        lost: DeviceId,
    ) -> Result<Result<(), ReplaceRefusal>, Closed> {
        self.decide(move |ledger, now| ledger.replace_device(now, &asker, order, lost)).await
    }

    /// Takes a key back from a device on the operator's word.
    pub async fn withdraw_grant(
        &self,
        order: OrderId,
        device: DeviceId,
        reason: Reason,
    ) -> Result<Result<(), WithdrawRefusal>, Closed> {
        self.decide(move |ledger, now| ledger.withdraw_grant(now, order, device, reason)).await
    }

    /// Revokes a device; true when it was revoked before.
    pub async fn revoke_device(&self, device: DeviceId, reason: Reason) -> Result<bool, Closed> {
        let revoked = self.decide(move |ledger, now| {
            let Answer { record, reply: () } = ledger.revoke_device(now, device, reason);
            let already = record.is_none();
            Ok::<_, std::convert::Infallible>(Answer { record, reply: already })
        });
        revoked.await.map(|answer| match answer {
            Ok(already) => already,
            Err(never) => match never {},
        })
    }

    /// What a device may no longer use, if that has changed since version `known`.
    pub async fn revocations(&self, device: DeviceId, known: u64) -> Result<Option<Revocations>, Closed> {
        self.look(move |keeper, now| {
            keeper.ledger.revocations(now, &device).filter(|revocations| revocations.version > known)
        })
        .await
    }

    /// The licences that count under an order.
    pub async fn licences(&self, order: OrderId) -> Result<Result<Vec<Licence>, LookRefusal>, Closed> {
        self.look(move |keeper, _| {
            let found = keeper.ledger.any_order(&order).ok_or(LookRefusal::NoSuchOrder)?;
            Ok(keeper.ledger.licences(found))
        })
        .await
    }

    /// What an account has bought and may still watch, perhaps of one item only.
    pub async fn rights_of(
        &self,
        asker: Asker,
        item: Option<ItemId>,
        before: Option<usize>,
        size: usize,
    ) -> Result<Rights, Closed> {
        self.look(move |keeper, now| {
            let ledger = &keeper.ledger;
            let mut page = Rights::default();
            let live = ledger
                .orders_of(&asker.account, before)
                .filter(|(_, order)| order.item().is_some() && item.is_none_or(|item| order.item() == Some(item)))
                .filter(|(_, order)| ledger.may_watch(now, &asker, order));
            for (place, order) in live {
                if page.rights.len() == size.clamp(1, MAX_PAGE) {
                    page.next = Some(place + 1);
                    break;
                }
                let Some(item) = order.item().and_then(|item| ledger.item(&item)) else { continue };
                page.rights.push(Right {
                    standing: standing(ledger, now, order),
                    commitment: item.commitment,
                    granted_here: ledger.has_grant(order, &asker.device),
                });
            }
            page
        })
        .await
    }
}
