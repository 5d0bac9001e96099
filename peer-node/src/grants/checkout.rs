//! Where a title can be paid in a browser: links to the checkout pages of the keyserver, for a phone or a computer.
//!
//! A link acts for the account of this device until it ends, after some minutes; it is shown to whoever looks at this
//! device's own screens and kept in memory only. What is bought there under a link to a title (not to an order that this
//! device made) is found by asking what the account has bought.

use std::collections::BTreeMap;
use std::time::Duration;

use daemon::exit::Failure;
use swarm_proto::id::{ItemId, OrderId};
use swarm_proto::pb::keyserver as pb;
use swarm_proto::pb::keyserver::open_checkout_request::Goal;
use swarm_proto::time::Utc;

use super::Grants;
use super::keeper::{Caller, Session};
use super::keys;

/// How long a page or a command waits for a link. Without one it shows the command.
const LINK_WITHIN: Duration = Duration::from_secs(2);

/// A link that ends sooner is not shown any more: somebody has to type it, choose and pay.
const WORTH_SHOWING: Duration = Duration::from_secs(120);

/// Links kept at a time: of the titles that somebody looks at.
const MAX_LINKS: usize = 64;

/// Longest link that is shown.
const MAX_URL_BYTES: usize = 1024;

/// The links that were opened, by item, and the orders that wait for money.
#[derive(Debug, Default)]
pub(super) struct Links {
    by_item: BTreeMap<ItemId, Link>,
    pending: BTreeMap<ItemId, OrderId>,
}

#[derive(Debug)]
struct Link {
    url: String,
    order: Option<OrderId>,
    until: Utc,
}

impl Links {
    /// Notes whether an order waits for money.
    pub(super) fn note(&mut self, item: ItemId, order: Option<OrderId>) {
        let Some(order) = order else {
            self.pending.remove(&item);
            self.by_item.remove(&item);
            return;
        };
        self.pending.insert(item, order);
        if self.by_item.get(&item).is_some_and(|link| link.order != Some(order)) {
            self.by_item.remove(&item);
        }
    }

    /// The link of an item that is still worth showing.
    pub(super) fn of(&self, now: Utc, item: &ItemId) -> Option<&str> {
        self.by_item.get(item).filter(|link| now + WORTH_SHOWING < link.until).map(|link| link.url.as_str())
    }

    /// Orders that wait for money and have no link worth showing.
    pub(super) fn wanting(&self, now: Utc) -> Vec<(ItemId, OrderId)> {
        let lacking = self.pending.iter().filter(|(item, _)| self.of(now, item).is_none());
        lacking.map(|(item, order)| (*item, *order)).collect()
    }

    /// Items for which somebody may be buying in a browser, without an order that this device knows.
    pub(super) fn browsed(&self, now: Utc) -> Vec<ItemId> {
        let browsed = self.by_item.iter().filter(|(_, link)| link.order.is_none() && now < link.until);
        browsed.map(|(item, _)| *item).collect()
    }

    fn goal(&self, item: ItemId) -> Option<OrderId> {
        self.pending.get(&item).copied()
    }

    fn insert(&mut self, item: ItemId, link: Link) {
        if self.by_item.len() >= MAX_LINKS && !self.by_item.contains_key(&item) {
            let soonest = self.by_item.iter().min_by_key(|(_, link)| link.until).map(|(item, _)| *item);
            soonest.and_then(|item| self.by_item.remove(&item));
        }
        self.by_item.insert(item, link);
    }
}

impl Grants {
    /// Where a title can be paid in a browser, if a link is known that is worth showing.
    pub fn known_checkout(&self, item: &ItemId) -> Option<String> {
        let now = (self.shared.clock)();
        self.shared.read(|state| state.links.of(state.time.at_most(now), item).map(str::to_owned))
    }

    /// The same, asking the keyserver for a link if none is known; `None` if it gives none in time.
    pub async fn checkout(&self, item: ItemId) -> Option<String> {
        if let Some(known) = self.known_checkout(&item) {
            return Some(known);
        }
        let order = self.shared.read(|state| state.links.goal(item));
        let asked = async {
            let session = keys::session(&self.keeper).await?;
            open(&self.shared.caller, &session, item, order).await
        };
        match tokio::time::timeout(LINK_WITHIN, asked).await {
            Ok(Ok(link)) => {
                let url = link.url.clone();
                self.shared.change(|state| state.links.insert(item, link));
                Some(url)
            }
            Ok(Err(failure)) => {
                tracing::debug!(reason = %failure, "no checkout link");
                None
            }
            Err(_) => None,
        }
    }
}

impl super::Shared {
    /// Gets links for orders that wait for money, so that screens can show them.
    pub(super) async fn link_pending(&self, session: &Session) {
        let now = (self.clock)();
        for (item, order) in self.read(|state| state.links.wanting(state.time.at_most(now))) {
            match open(&self.caller, session, item, Some(order)).await {
                Ok(link) => self.change(|state| state.links.insert(item, link)),
                Err(failure) => {
                    tracing::debug!(reason = %failure, "no checkout link");
                    return;
                }
            }
        }
    }
}

async fn open(caller: &Caller, session: &Session, item: ItemId, order: Option<OrderId>) -> Result<Link, Failure> {
    let goal = order.map_or_else(|| Goal::Item(item.to_vec()), |order| Goal::Order(order.to_vec()));
    let request = caller.signed_call(session, pb::OpenCheckoutRequest { goal: Some(goal) })?;
    let answer = session.call(session.checkout().open_checkout(request)).await?;
    let url = answer.url;
    let is_web = url.starts_with("https://") || url.starts_with("http://");
    if !is_web || url.len() > MAX_URL_BYTES || !url.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(Failure::new(daemon::Exit::Integrity, "E-RIGHTS-08", "the keyserver's checkout link is none")
            .hint("report this to whoever runs the keyserver"));
    }
    Ok(Link { url, order, until: Utc::from_millis(answer.expires_utc_ms) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(n: u8) -> ItemId {
        ItemId::from([n; 32])
    }

    fn link(order: Option<OrderId>, until: u64) -> Link {
        Link { url: format!("http://keys.example/pay/{until}"), order, until: Utc::from_secs(until) }
    }

    #[test]
    fn link_is_shown_while_there_is_time_to_pay_and_gone_when_it_is_paid() {
        let (mut links, order) = (Links::default(), OrderId::from([1; 16]));
        links.note(item(1), Some(order));
        assert_eq!(links.wanting(Utc::from_secs(0)), [(item(1), order)]);
        links.insert(item(1), link(Some(order), 900));
        assert!(links.wanting(Utc::from_secs(0)).is_empty());
        assert_eq!(links.of(Utc::from_secs(779), &item(1)), Some("http://keys.example/pay/900"));
        assert_eq!(links.of(Utc::from_secs(780), &item(1)), None);
        links.note(item(1), None);
        assert_eq!(links.of(Utc::from_secs(0), &item(1)), None);
        assert!(links.wanting(Utc::from_secs(0)).is_empty());
    }

    #[test]
    fn link_to_a_title_gives_way_to_the_one_of_its_order() {
        let mut links = Links::default();
        links.insert(item(1), link(None, 900));
        assert_eq!(links.browsed(Utc::from_secs(899)), [item(1)]);
        assert!(links.browsed(Utc::from_secs(900)).is_empty());
        links.note(item(1), Some(OrderId::from([1; 16])));
        assert!(links.of(Utc::from_secs(0), &item(1)).is_none() && links.browsed(Utc::from_secs(0)).is_empty());
    }

    #[test]
    fn memory_of_links_is_bounded() {
        let mut links = Links::default();
        for n in 0..100 {
            links.insert(item(n), link(None, 1_000 + u64::from(n)));
        }
        assert_eq!(links.by_item.len(), MAX_LINKS);
        assert!(links.of(Utc::from_secs(0), &item(99)).is_some() && links.of(Utc::from_secs(0), &item(0)).is_none());
    }
}
