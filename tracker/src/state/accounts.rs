//! Accounts of traffic: what devices report, and what the operator asks of it.
//!
//! Sums are written a little later, together: what was reported within the last seconds is lost with `kill -9`.

use daemon::exit::Failure;
use swarm_proto::id::{DeviceId, SiteId};
use swarm_proto::invalid::Invalid;
use swarm_proto::membership::DeviceKind;
use swarm_proto::pb::tracker as pb;
use swarm_proto::time::{Now, Utc};
use swarm_proto::tracker::accounts::{Row, Slot, SourceKind, Sums};
use swarm_proto::tracker::sites::Site;

use super::{FLUSH_AFTER, Handle, State};
use crate::convert;
use crate::records::Records;
use crate::refusal;

impl Handle {
    /// Sums since a moment.
    pub(crate) async fn accounts(&self, since: Utc, by: pb::AccountsBy) -> Result<pb::GetAccountsResponse, Failure> {
        self.look(move |state, now| Ok(state.accounts_message(now.utc, since, by))).await
    }

    /// Devices that disagree.
    pub(crate) async fn mismatches(&self) -> Result<pb::ListMismatchesResponse, Failure> {
        self.look(|state, _| {
            let mismatches = state.accounts.mismatches().iter().map(convert::mismatch).collect();
            Ok(pb::ListMismatchesResponse { mismatches })
        })
        .await
    }
}

impl State {
    /// A device says what it has received and sent. Nothing is counted of a report that breaks a rule.
    pub(super) fn account_traffic(&mut self, now: Now, device: DeviceId, report: &pb::Traffic) -> Result<(), Failure> {
        let rows = convert::traffic(report).map_err(|invalid| refusal::field(&invalid))?;
        if let Some(at) = rows.iter().position(|row| row.counterpart == device) {
            let field = format!("traffic.rows[{at}].counterpart");
            return Err(refusal::field(&Invalid::new(field, "is the device that reports")));
        }
        let Some(site) = self.registry.device(&device).map(|it| it.site.clone()) else { return Ok(()) };
        let rows: Vec<Row> = rows
            .into_iter()
            .map(|row| Row {
                counterpart: row.counterpart,
                item: row.item,
                source: self.source_kind(&device, &row.counterpart),
                received: Sums { verified_bytes: row.verified_bytes, wasted_bytes: row.wasted_bytes },
                sent_bytes: row.sent_bytes,
            })
            .collect();
        rows.iter().for_each(|row| self.count_traffic(row));
        self.accounts.handle_report(now, device, &site, &rows);
        self.unwritten.slots.extend(self.accounts.take_changes());
        self.unwritten.traffic = true;
        self.unwritten.is_due_by(now.mono + FLUSH_AFTER);
        Ok(())
    }

    pub(super) fn compare_accounts(&mut self, now: Now) {
        self.accounts.handle_timeout(now);
        let listed = self.accounts.mismatches().len();
        self.counters.traffic_mismatches.set(i64::try_from(listed).unwrap_or(i64::MAX));
    }

    /// Sums that have changed, as many as a batch has room for.
    pub(super) fn account_records(&self, mut records: Records) -> (Records, Vec<Slot>) {
        let mut written = Vec::new();
        for slot in &self.unwritten.slots {
            if !records.has_room() {
                break;
            }
            records = records.account(slot, self.accounts.totals(slot));
            written.push(slot.clone());
        }
        (records, written)
    }

    /// What one device is to another as a source.
    fn source_kind(&self, receiver: &DeviceId, sender: &DeviceId) -> SourceKind {
        let (Some(here), Some(there)) = (self.registry.device(receiver), self.registry.device(sender)) else {
            return SourceKind::Stranger;
        };
        match (there.kind, here.site == there.site, here.account == there.account) {
            (DeviceKind::Seed, ..) => SourceKind::Seed,
            (DeviceKind::Box, true, true) => SourceKind::SameHome,
            (DeviceKind::Box, true, false) => SourceKind::SameSite,
            (DeviceKind::Box, false, _) if self.is_same_isp(&here.site, &there.site) => SourceKind::SameIsp,
            (DeviceKind::Box, false, _) => SourceKind::Elsewhere,
        }
    }

    /// Whether two sites were said to belong to one ISP.
    fn is_same_isp(&self, one: &SiteId, other: &SiteId) -> bool {
        let isp = |site| self.gate.site(site).map(Site::isp).filter(|isp| !isp.is_empty());
        isp(one).is_some_and(|label| isp(other) == Some(label))
    }

    /// Since the store began, for the page and for machines.
    fn count_traffic(&mut self, row: &Row) {
        let Sums { verified_bytes, wasted_bytes } = row.received;
        let label = match row.source {
            SourceKind::Seed => "seed",
            SourceKind::Stranger => "stranger",
            _ => "box",
        };
        match label {
            "seed" => self.traffic.from_seeds_bytes = self.traffic.from_seeds_bytes.saturating_add(verified_bytes),
            "box" => self.traffic.from_boxes_bytes = self.traffic.from_boxes_bytes.saturating_add(verified_bytes),
            _ => {}
        }
        self.traffic.wasted_bytes = self.traffic.wasted_bytes.saturating_add(wasted_bytes);
        self.counters.received_bytes.get_or_create(&[("source", label)]).inc_by(verified_bytes);
        self.counters.received_bytes.get_or_create(&[("source", "wasted")]).inc_by(wasted_bytes);
    }

    fn accounts_message(&self, now: Utc, since: Utc, by: pb::AccountsBy) -> pb::GetAccountsResponse {
        let accounts = &self.accounts;
        let total = accounts.total(now, since);
        let rows = match by {
            pb::AccountsBy::Source => convert::account_by_source(&total),
            pb::AccountsBy::Hour => {
                let hours = accounts.by_hour(now, since).into_iter();
                hours.map(|(at, totals)| convert::account(at.as_millis().to_string(), &totals)).collect()
            }
            pb::AccountsBy::Title => accounts
                .by_item(since)
                .into_iter()
                .map(|(item, totals)| {
                    let name = self.catalog.item(&item).map(|it| it.entry.name.clone()).unwrap_or_default();
                    pb::AccountRow { name, ..convert::account(item.to_string(), &totals) }
                })
                .collect(),
            pb::AccountsBy::Site | pb::AccountsBy::Unspecified => {
                let sites = accounts.by_site(now, since).into_iter();
                sites.map(|(site, totals)| convert::account(site.to_string(), &totals)).collect()
            }
        };
        pb::GetAccountsResponse { rows, total: Some(convert::account(String::new(), &total)) }
    }
}
