//! Turns the tracker's plan into what the machines and the network take, or says what is wrong with it.
//!
//! A tracker is believed about who sends, not about sizes: an item's length comes from its catalog entry, and what a
//! plan says beyond it is left out.

use std::ops::Range;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use libp2p::Multiaddr;
use prost::Message as _;
use swarm_proto::id::{DeviceId, ItemId};
use swarm_proto::membership::DeviceKind;
use swarm_proto::pb;
use swarm_proto::peer::transfers::{Closed, Lease, Plan};
use swarm_proto::time::Utc;
use swarm_proto::wire::MAX_TICKET_BYTES;

/// Leases read from one plan.
const LEASES_MAX: usize = 64;
/// Addresses read of one source, and the longest text read as one.
const ADDRESSES_MAX: usize = 16;
const ADDRESS_BYTES_MAX: usize = 256;
/// The longest reason for people that is shown.
const WAITING_CHARS_MAX: usize = 256;

/// A plan, taken apart.
#[derive(Debug)]
pub(super) struct Parts {
    pub(super) plan: Plan,
    /// Where the sources are.
    pub(super) addresses: Vec<(DeviceId, Vec<Multiaddr>)>,
    /// What goes with every request for the item; none when the tracker gave none.
    pub(super) ticket: Option<Bytes>,
}

/// `now` is this device's clock. Moments are understood as so long after the plan was made, by the tracker's clock: a
/// box whose date is wrong begins and ends in time all the same.
pub(super) fn read(plan: pb::tracker::Plan, own: DeviceId, now: Utc) -> anyhow::Result<Parts> {
    let made = if plan.utc_ms == 0 { now } else { Utc::from_millis(plan.utc_ms) };
    let after = |utc_ms: u64| Utc::from_millis(utc_ms).since(made);
    let closed = plan.closed_until_utc_ms.map(|until| Closed {
        from: plan.closed_from_utc_ms.map(after).unwrap_or_default(),
        until: after(until),
        spread: Duration::from_millis(plan.spread_ms),
    });
    let item = ItemId::try_from(plan.item.as_slice()).context("the plan names no item")?;
    let ticket = plan.ticket.map(|ticket| Bytes::from(ticket.encode_to_vec()));
    ensure!(ticket.as_ref().is_none_or(|ticket| ticket.len() <= MAX_TICKET_BYTES), "the plan's ticket is too long");
    let (mut leases, mut addresses) = (Vec::new(), Vec::new());
    for lease in plan.leases.into_iter().take(LEASES_MAX) {
        let source = lease.source.context("a lease names no source")?;
        let (device, kind, at) = read_source(&source)?;
        if device == own {
            continue;
        }
        addresses.push((device, at));
        leases.push(Lease {
            device,
            kind,
            rate_cap_bytes_per_sec: lease.rate_cap_bytes_per_sec,
            until: now + after(lease.until_utc_ms),
            portions: lease.portions.iter().map(range).collect(),
        });
    }
    let waiting = plan.waiting.chars().take(WAITING_CHARS_MAX).collect();
    let plan = Plan { item, leases, renew_after: Duration::from_millis(plan.renew_after_ms), waiting, closed };
    Ok(Parts { plan, addresses, ticket })
}

/// A source, what it is there for, and where. Addresses that cannot be read are left out.
pub(super) fn read_source(source: &pb::tracker::Source) -> anyhow::Result<(DeviceId, DeviceKind, Vec<Multiaddr>)> {
    let device = DeviceId::try_from(source.device.as_slice()).context("a source names no device")?;
    let kind = match source.kind() {
        pb::common::DeviceKind::Seed => DeviceKind::Seed,
        pb::common::DeviceKind::Box | pb::common::DeviceKind::Unspecified => DeviceKind::Box,
    };
    let texts = source.addresses.iter().take(ADDRESSES_MAX).filter(|text| text.len() <= ADDRESS_BYTES_MAX);
    Ok((device, kind, texts.filter_map(|text| text.parse().ok()).collect()))
}

fn range(range: &pb::common::ChunkRange) -> Range<u32> {
    range.first..range.first.saturating_add(range.count)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(n: u8) -> Option<pb::tracker::Source> {
        Some(pb::tracker::Source {
            device: vec![n; 32],
            kind: pb::common::DeviceKind::Seed.into(),
            addresses: vec!["/ip4/127.0.0.1/tcp/1".to_owned(), "nonsense".to_owned()],
            same_site: true,
        })
    }

    fn plan(leases: Vec<pb::tracker::Lease>) -> pb::tracker::Plan {
        pb::tracker::Plan { item: vec![1; 32], leases, ..pb::tracker::Plan::default() }
    }

    #[test]
    fn a_plan_is_read_without_ourselves_and_without_unreadable_addresses() {
        let lease = |n| pb::tracker::Lease { source: source(n), ..pb::tracker::Lease::default() };
        let parts =
            read(plan(vec![lease(1), lease(2)]), DeviceId::from_bytes([1; 32]), Utc::EPOCH).expect("a good plan");
        assert_eq!(parts.plan.leases.len(), 1);
        assert_eq!(parts.plan.leases[0].kind, DeviceKind::Seed);
        assert_eq!(parts.addresses[0].1.len(), 1);
    }

    #[test]
    fn a_plan_with_a_broken_source_or_ticket_is_refused() {
        let own = DeviceId::from_bytes([1; 32]);
        let read = |plan| read(plan, own, Utc::EPOCH);
        assert!(read(plan(vec![pb::tracker::Lease::default()])).is_err());
        let ticket = pb::common::Signed { payload: vec![0; 2_000].into(), ..pb::common::Signed::default() };
        assert!(read(pb::tracker::Plan { ticket: Some(ticket), ..plan(Vec::new()) }).is_err());
    }

    #[test]
    fn a_wrong_date_on_the_box_moves_neither_the_end_of_a_lease_nor_that_of_a_window() {
        let second = Duration::from_secs(1);
        let (tracker, ours) = (Utc::from_secs(1_800_000_000), Utc::from_secs(5));
        let lease = pb::tracker::Lease {
            source: source(2),
            until_utc_ms: (tracker + 15 * second).as_millis(),
            ..Default::default()
        };
        let plan = pb::tracker::Plan {
            utc_ms: tracker.as_millis(),
            closed_from_utc_ms: Some((tracker + 60 * second).as_millis()),
            closed_until_utc_ms: Some((tracker + 90 * second).as_millis()),
            spread_ms: 1_000,
            ..plan(vec![lease])
        };
        let parts = read(plan, DeviceId::from_bytes([1; 32]), ours).expect("a good plan");
        assert_eq!(parts.plan.leases[0].until, ours + 15 * second);
        assert_eq!(parts.plan.closed, Some(Closed { from: 60 * second, until: 90 * second, spread: second }));
    }
}
