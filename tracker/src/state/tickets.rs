//! Tickets for plans: which seeds they name, and how much of the site's hour that takes.
//!
//! A share is on disk before the ticket that grants it is handed out; what seeds then say to have sent is written a
//! little later, and told again by them if it was lost.

use daemon::exit::Failure;
use swarm_proto::geometry::CHUNK_BYTES;
use swarm_proto::id::{DeviceId, SiteId};
use swarm_proto::membership::DeviceKind;
use swarm_proto::pb::tracker as pb;
use swarm_proto::signed::Signed;
use swarm_proto::ticket::Ticket;
use swarm_proto::time::{Now, Utc};
use swarm_proto::tracker::origin::{Asker, Origin};
use swarm_proto::tracker::planner::{Lease, Plan, Wish};
use swarm_proto::tracker::tickets::{Issue, Request, Source};

use super::{FLUSH_AFTER, State};
use crate::convert;
use crate::records::Records;
use crate::refusal;

/// Seeds besides those of a plan that a ticket names where it costs nothing: those that the device keeps connected.
const SPARE_SEEDS: usize = 3;

/// A ticket, and what its seeds may do.
pub(super) struct Admittance {
    pub(super) ticket: Signed<Ticket>,
    /// Seeds of the plan that may send nothing: the hour's budget is used up.
    pub(super) denied: Vec<DeviceId>,
    /// Why the plan has to wait, if it has only such seeds.
    pub(super) waiting: String,
}

impl State {
    /// The ticket for a plan. What it debits is written down first.
    pub(super) async fn admittance(&mut self, now: Now, wish: &Wish, plan: &Plan) -> Result<Admittance, Failure> {
        let (request, planned) = (self.ticket_request(wish)?, self.planned_seeds(plan));
        let (planner, sessions) = (&mut self.planner, &self.sessions);
        let spare = || {
            let seeds = planner.online_seeds(&wish.device, SPARE_SEEDS).into_iter();
            let run = |seed: &DeviceId| sessions.get(seed).and_then(|session| session.run);
            seeds.map(|seed| Source { seed, run: run(&seed), bytes_per_sec: 0 }).collect()
        };
        let ticket = match self.tickets.issue(now.utc, &request, &planned, spare) {
            Issue::Again(signed) => signed,
            Issue::New(ticket) => self.sign_ticket(now, ticket).await?,
        };
        let denied = planned.iter().filter(|source| !self.tickets.may_send(now.utc, &request, source));
        let waiting =
            format!("origin budget of this hour is used up, next at {}", clock_of(Origin::next_hour(now.utc)));
        Ok(Admittance { ticket, denied: denied.map(|source| source.seed).collect(), waiting })
    }

    /// Says whether seeds may send to a device's site. While shares are live they may, though no more is to be had.
    pub(super) fn tell_origin(&mut self, now: Now, device: &DeviceId) {
        let Some(site) = self.registry.device(device).map(|it| it.site.clone()) else { return };
        let origin = self.tickets.origin();
        let left = origin.left(now.utc, &site).bound();
        let may_send = left.is_none_or(|left| left.max(origin.open(&site)) >= CHUNK_BYTES);
        self.planner.handle_origin(now, &site, may_send);
    }

    /// What a seed says to have sent under shares.
    pub(super) fn use_shares(&mut self, now: Now, device: DeviceId, used: &pb::SharesUsed) -> Result<(), Failure> {
        let used = convert::shares_used(used).map_err(|invalid| refusal::field(&invalid))?;
        if self.registry.device(&device).is_none_or(|it| it.kind != DeviceKind::Seed) {
            return Err(refusal::not_a_seed());
        }
        for (serial, sent) in used.uses {
            self.tickets.handle_used(now.utc, device, serial, sent);
        }
        let run = self.sessions.get(&device).and_then(|session| session.run);
        if let (Some(run), Some(until)) = (run, used.settled_until) {
            self.tickets.origin_mut().handle_settled(device, run, until);
        }
        self.note_origin(now);
        Ok(())
    }

    /// A seed has come: what it sent in earlier runs it cannot say any more.
    pub(super) fn note_run(&mut self, now: Now, device: DeviceId, run: Option<u64>) {
        self.tickets.origin_mut().handle_run(now.utc, device, run);
        self.note_origin(now);
    }

    /// What has changed in the ledger of what seeds send is to be written.
    pub(super) fn note_origin(&mut self, now: Now) {
        let changes = self.tickets.origin_mut().take_changes();
        if changes.serials.is_empty() && changes.sites.is_empty() {
            return;
        }
        self.unwritten.grants.extend(changes.serials);
        self.unwritten.hours.extend(changes.sites);
        self.unwritten.is_due_by(now.mono + FLUSH_AFTER);
    }

    /// Grants and hours that have changed go into one batch, so that what comes back and what was sent agree.
    pub(super) fn origin_records(&self, mut records: Records) -> (Records, Vec<u64>, Vec<SiteId>) {
        let (mut grants, mut hours) = (Vec::new(), Vec::new());
        for &serial in &self.unwritten.grants {
            if !records.has_room() {
                return (records, grants, hours);
            }
            records = records.grant(serial, self.tickets.origin().grant_of(serial));
            grants.push(serial);
        }
        for site in &self.unwritten.hours {
            if !records.has_room() {
                break;
            }
            records = records.origin_hour(site, self.tickets.origin().hour_of(site));
            hours.push(site.clone());
        }
        (records, grants, hours)
    }

    async fn sign_ticket(&mut self, now: Now, ticket: Ticket) -> Result<Signed<Ticket>, Failure> {
        let signed = Signed::sign(&self.key, &ticket).map_err(|invalid| refusal::field(&invalid));
        let written = match (&signed, self.tickets.origin().grant_of(ticket.serial)) {
            (Ok(_), Some(grant)) => self.commit(Records::new().grant(ticket.serial, Some(grant))).await,
            _ => Ok(()),
        };
        match (signed, written) {
            (Ok(signed), Ok(())) => {
                self.tickets.handle_signed(now.utc, ticket, signed.clone());
                self.note_origin(now);
                Ok(signed)
            }
            (Err(failure), _) | (_, Err(failure)) => {
                self.tickets.handle_unwritten(ticket.serial);
                Err(failure)
            }
        }
    }

    fn ticket_request(&self, wish: &Wish) -> Result<Request, Failure> {
        let device = self.registry.member(&wish.device).map_err(refusal::caller)?;
        let sealed_len = self.catalog.item(&wish.item).ok_or_else(refusal::no_title)?.entry.geometry.sealed_len();
        let chunks: u64 = wish.missing.iter().map(|run| u64::from(run.end - run.start)).sum();
        Ok(Request {
            device: wish.device,
            item: wish.item,
            class: wish.class,
            asker: Asker { account: device.account, site: device.site.clone() },
            missing_bytes: (chunks * CHUNK_BYTES).min(sealed_len),
            until: wish.until,
        })
    }

    /// The seeds of a plan, and how much it takes from them.
    fn planned_seeds(&self, plan: &Plan) -> Vec<Source> {
        let seeds = plan.leases.iter().filter(|lease| lease.kind == DeviceKind::Seed);
        let source = |lease: &Lease| Source {
            seed: lease.source,
            run: self.sessions.get(&lease.source).and_then(|session| session.run),
            bytes_per_sec: lease.planned_bytes_per_sec,
        };
        seeds.map(source).collect()
    }
}

/// The time of day, as people say it.
fn clock_of(at: Utc) -> String {
    let minutes = at.as_secs() / 60 % (24 * 60);
    format!("{:02}:{:02} UTC", minutes / 60, minutes % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_hours_are_told_as_on_a_clock() {
        assert_eq!(clock_of(Origin::next_hour(Utc::from_secs(5))), "01:00 UTC");
        assert_eq!(clock_of(Origin::next_hour(Utc::from_secs(24 * 3_600 - 1))), "00:00 UTC");
    }
}
