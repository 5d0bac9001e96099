//! Messages of `proto/` become types of ours, and back; whatever breaks a bound is refused by the name of its field.

mod sites;

use std::ops::Range;
use std::time::Duration;

use swarm_proto::bitmap::{Holding, MAX_RUNS};
use swarm_proto::catalog::{MAX_RATING_AGE, Region};
use swarm_proto::code::EnrolCode;
use swarm_proto::geometry::MAX_CHUNKS;
use swarm_proto::id::{DeviceId, ItemId, SiteId, TitleId};
use swarm_proto::invalid::Invalid;
use swarm_proto::limit::Limit;
use swarm_proto::membership::DeviceKind;
use swarm_proto::pb::common as pb_common;
use swarm_proto::pb::tracker as pb;
use swarm_proto::ticket::TicketClass;
use swarm_proto::time::Utc;
use swarm_proto::tracker::accounts::{Mismatch, SourceKind, Totals};
use swarm_proto::tracker::addresses::{MAX_ADDRESS_BYTES, MAX_ADDRESSES};
use swarm_proto::tracker::catalog::Listing;
use swarm_proto::tracker::planner::{Lease, Link};
use swarm_proto::tracker::registry::{self, CustomerChange, DeviceChange, MAX_NAME_BYTES, Standing};
use tonic::Status;

use crate::refusal;

pub(crate) use self::sites::{delivery, delivery_message, described, site_id, site_message};

/// Holdings that one Hello may tell.
pub(crate) const MAX_HOLDINGS: usize = 100_000;

/// Rows of one report of traffic.
pub(crate) const MAX_TRAFFIC_ROWS: usize = 1_000;

/// Shares of one report.
const MAX_SHARE_USES: usize = 1_000;

/// Bytes of one row of traffic: what nobody moves between two reports is an attempt at the totals.
const MAX_ROW_BYTES: u64 = 1 << 42;

/// Longest text that says which software a device runs.
const MAX_SOFTWARE_BYTES: usize = 128;

/// Longest search.
const MAX_QUERY_BYTES: usize = 200;

/// Most rows of one page.
const MAX_PAGE_SIZE: u32 = 200;

/// How long an invitation may be valid, and how long it is when nobody says.
const INVITE_VALID: std::ops::RangeInclusive<u64> = 1_000..=7 * 24 * 3_600_000;
const INVITE_VALID_BY_DEFAULT: Duration = Duration::from_secs(15 * 60);

/// A field that breaks a rule, as gRPC carries it.
pub(crate) fn bad(invalid: Invalid) -> Status {
    refusal::status(refusal::field(&invalid))
}

/// An id in a field.
pub(crate) fn id<'a, T>(field: &'static str, bytes: &'a [u8]) -> Result<T, Invalid>
where
    T: TryFrom<&'a [u8]>,
    T::Error: std::fmt::Display,
{
    T::try_from(bytes).map_err(|error| Invalid::new(field, error.to_string()))
}

/// An id in a field that may be empty.
pub(crate) fn optional_id<'a, T>(field: &'static str, bytes: &'a [u8]) -> Result<Option<T>, Invalid>
where
    T: TryFrom<&'a [u8]>,
    T::Error: std::fmt::Display,
{
    if bytes.is_empty() { Ok(None) } else { id(field, bytes).map(Some) }
}

/// What people will call something.
pub(crate) fn name(field: &'static str, text: &str) -> Result<String, Invalid> {
    let text = text.trim();
    if text.is_empty() || text.len() > MAX_NAME_BYTES {
        return Err(Invalid::new(field, format!("must have 1 to {MAX_NAME_BYTES} bytes of text")));
    }
    if text.chars().any(|character| character.is_control() || reorders(character)) {
        return Err(Invalid::new(field, "must not contain control characters"));
    }
    Ok(text.to_owned())
}

/// Whether a character turns the writing around or ends a line, with which a name could pose as another.
fn reorders(character: char) -> bool {
    matches!(character, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// How many rows a page may have.
pub(crate) fn page_size(rows: u32) -> Result<usize, Invalid> {
    match rows {
        1..=MAX_PAGE_SIZE => Ok(rows as usize),
        _ => Err(Invalid::new("page_size", format!("must be 1 to {MAX_PAGE_SIZE}"))),
    }
}

/// Where a page of the catalog begins.
pub(crate) fn version_token(token: &[u8]) -> Result<Option<u64>, Invalid> {
    match token.len() {
        0 => Ok(None),
        _ => token
            .try_into()
            .map(|bytes| Some(u64::from_be_bytes(bytes)))
            .map_err(|_| Invalid::new("page_token", "was not made by this tracker")),
    }
}

/// The words of a search.
pub(crate) fn query(text: &str) -> Result<&str, Invalid> {
    if text.trim().is_empty() || text.len() > MAX_QUERY_BYTES {
        return Err(Invalid::new("query", format!("must have 1 to {MAX_QUERY_BYTES} bytes of text")));
    }
    Ok(text)
}

/// A code for a device, as somebody typed it.
pub(crate) fn code(text: &str) -> Result<EnrolCode, Invalid> {
    EnrolCode::parse(text).map_err(|error| Invalid::new("code", error.to_string()))
}

/// What a device is there for.
pub(crate) fn kind(value: i32) -> Result<DeviceKind, Invalid> {
    pb_common::DeviceKind::try_from(value).unwrap_or_default().try_into()
}

/// A site, or the one of devices without.
pub(crate) fn site(text: &str, default: &SiteId) -> Result<SiteId, Invalid> {
    match text {
        "" => Ok(default.clone()),
        text => SiteId::new(text).map_err(|error| Invalid::new("site", error.to_string())),
    }
}

/// How long an invitation is valid.
pub(crate) fn invite_valid(millis: Option<u64>) -> Result<Duration, Invalid> {
    match millis {
        None => Ok(INVITE_VALID_BY_DEFAULT),
        Some(millis) if INVITE_VALID.contains(&millis) => Ok(Duration::from_millis(millis)),
        Some(_) => Err(Invalid::new("valid_ms", "must be 1 s to 7 days, in milliseconds")),
    }
}

/// What the operator makes of an account.
pub(crate) fn standing(value: i32) -> Result<Standing, Invalid> {
    match pb::CustomerStatus::try_from(value).unwrap_or_default() {
        pb::CustomerStatus::Active => Ok(Standing::Active),
        pb::CustomerStatus::Suspended => Ok(Standing::Suspended),
        pb::CustomerStatus::Closed => Ok(Standing::Closed),
        pb::CustomerStatus::Unspecified => Err(Invalid::new("status", "is missing or unknown")),
    }
}

/// A country, or none.
pub(crate) fn region(text: &str) -> Result<Option<Region>, Invalid> {
    if text.is_empty() { Ok(None) } else { text.parse().map(Some) }
}

/// The highest age rating, where it is said.
pub(crate) fn rating_limit(message: Option<pb::RatingLimit>) -> Result<Option<Limit<u32>>, Invalid> {
    use pb::rating_limit::Limit as Form;
    let Some(message) = message else { return Ok(None) };
    match message.limit {
        Some(Form::Age(age)) if age <= MAX_RATING_AGE => Ok(Some(Limit::Of(age))),
        Some(Form::Age(_)) => Err(Invalid::new("rating_limit.age", format!("must be 0 to {MAX_RATING_AGE}"))),
        Some(Form::Unlimited(_)) => Ok(Some(Limit::Unlimited)),
        None => Err(Invalid::new("rating_limit.limit", "is missing: an age, or unlimited")),
    }
}

fn rating_limit_message(limit: Limit<u32>) -> pb::RatingLimit {
    use pb::rating_limit::Limit as Form;
    let limit = match limit {
        Limit::Of(age) => Form::Age(age),
        Limit::Unlimited => Form::Unlimited(pb_common::Unlimited {}),
    };
    pb::RatingLimit { limit: Some(limit) }
}

/// What shall be different about a customer.
pub(crate) fn customer_change(message: pb::SetCustomerRequest) -> Result<CustomerChange, Invalid> {
    Ok(CustomerChange {
        name: message.name.map(|text| name("name", &text)).transpose()?,
        region: message.region.map(|text| region(&text)).transpose()?,
        rating_limit: rating_limit(message.rating_limit)?,
    })
}

/// What shall be different about a device.
pub(crate) fn device_change(message: pb::SetDeviceRequest) -> Result<DeviceChange, Invalid> {
    let site = |text: String| SiteId::new(&text).map_err(|error| Invalid::new("site", error.to_string()));
    Ok(DeviceChange {
        name: message.name.map(|text| name("name", &text)).transpose()?,
        site: message.site.map(site).transpose()?,
        rating_limit: rating_limit(message.rating_limit)?,
    })
}

/// What a device says when it comes.
pub(crate) struct Hello {
    pub(crate) addresses: Vec<String>,
    pub(crate) holdings: Vec<(ItemId, Holding)>,
    pub(crate) software: String,
    /// Tells this run of the device from those before.
    pub(crate) run: Option<u64>,
}

impl TryFrom<pb::Hello> for Hello {
    type Error = Invalid;

    fn try_from(message: pb::Hello) -> Result<Hello, Invalid> {
        if message.addresses.len() > MAX_ADDRESSES {
            return Err(Invalid::new("hello.addresses", format!("must be at most {MAX_ADDRESSES}")));
        }
        if let Some(at) = message.addresses.iter().position(|text| text.len() > MAX_ADDRESS_BYTES) {
            let why = format!("must have at most {MAX_ADDRESS_BYTES} bytes");
            return Err(Invalid::new(format!("hello.addresses[{at}]"), why));
        }
        if message.holdings.len() > MAX_HOLDINGS {
            return Err(Invalid::new("hello.holdings", format!("must be at most {MAX_HOLDINGS}")));
        }
        if message.software.len() > MAX_SOFTWARE_BYTES {
            return Err(Invalid::new("hello.software", format!("must have at most {MAX_SOFTWARE_BYTES} bytes")));
        }
        let mut holdings: Vec<(ItemId, Holding)> = Vec::with_capacity(message.holdings.len());
        for (at, holding) in message.holdings.into_iter().enumerate() {
            let holding = item_holding(holding).map_err(|error| error.inside(format!("hello.holdings[{at}]")))?;
            holdings.push(holding);
        }
        holdings.sort_by_key(|(item, _)| *item);
        if holdings.windows(2).any(|pair| pair[0].0 == pair[1].0) {
            return Err(Invalid::new("hello.holdings", "names an item twice"));
        }
        let run = (message.run > 0).then_some(message.run);
        Ok(Hello { addresses: message.addresses, holdings, software: message.software, run })
    }
}

/// What a device holds of one item.
pub(crate) fn item_holding(message: pb::ItemHolding) -> Result<(ItemId, Holding), Invalid> {
    let item = id("item", &message.item)?;
    if !(1..=MAX_CHUNKS).contains(&message.n_chunks) {
        return Err(Invalid::new("n_chunks", format!("must be 1 to {MAX_CHUNKS}")));
    }
    let holding = holding("ranges", message.n_chunks, &message.ranges)?;
    Ok((item, holding))
}

fn holding(field: &'static str, n_chunks: u32, ranges: &[pb_common::ChunkRange]) -> Result<Holding, Invalid> {
    if ranges.len() > MAX_RUNS {
        return Err(Invalid::new(field, format!("must be at most {MAX_RUNS}")));
    }
    Holding::from_ranges(n_chunks, ranges).map_err(|error| Invalid::new(field, error.to_string()))
}

/// What a device lacks of an item; no ranges mean all of it.
pub(crate) fn missing(n_chunks: u32, ranges: &[pb_common::ChunkRange]) -> Result<Vec<Range<u32>>, Invalid> {
    let missing = match ranges {
        [] => Holding::complete(n_chunks).map_err(|error| Invalid::new("item", error.to_string()))?,
        ranges => holding("missing", n_chunks, ranges)?,
    };
    Ok(missing.runs().collect())
}

/// Why a device fetches an item; older ones say only whether somebody watches.
pub(crate) fn class(class: i32, playing: bool) -> Result<TicketClass, Invalid> {
    match (pb_common::TicketClass::try_from(class), playing) {
        (_, true) => Ok(TicketClass::Playing),
        (Ok(pb_common::TicketClass::Unspecified), false) => Ok(TicketClass::Queued),
        (class, false) => class.unwrap_or_default().try_into(),
    }
}

/// What a device says about its link.
pub(crate) fn link(message: &pb::Heartbeat) -> Link {
    Link {
        uplink_bytes_per_sec: message.uplink_bytes_per_sec,
        downlink_bytes_per_sec: message.downlink_bytes_per_sec,
        upload_cap_bytes_per_sec: message.upload_cap_bytes_per_sec,
    }
}

/// What a device has received from another, and sent to it.
pub(crate) struct TrafficRow {
    pub(crate) item: ItemId,
    pub(crate) counterpart: DeviceId,
    pub(crate) sent_bytes: u64,
    pub(crate) verified_bytes: u64,
    pub(crate) wasted_bytes: u64,
}

/// What a device has received since it last said so.
pub(crate) fn traffic(message: &pb::Traffic) -> Result<Vec<TrafficRow>, Invalid> {
    if message.rows.len() > MAX_TRAFFIC_ROWS {
        return Err(Invalid::new("traffic.rows", format!("must be at most {MAX_TRAFFIC_ROWS}")));
    }
    let rows = message
        .rows
        .iter()
        .enumerate()
        .map(|(at, row)| traffic_row(row).map_err(|error| error.inside(format!("traffic.rows[{at}]"))));
    let rows: Vec<TrafficRow> = rows.collect::<Result<_, _>>()?;
    let all: u64 = rows.iter().map(|row| row.verified_bytes + row.wasted_bytes + row.sent_bytes).sum();
    match all {
        0..=MAX_ROW_BYTES => Ok(rows),
        _ => Err(Invalid::new("traffic.rows", format!("must add up to at most {MAX_ROW_BYTES} bytes"))),
    }
}

fn traffic_row(row: &pb::TrafficRow) -> Result<TrafficRow, Invalid> {
    let bounded = |field, bytes| match bytes {
        0..=MAX_ROW_BYTES => Ok(bytes),
        _ => Err(Invalid::new(field, format!("must be at most {MAX_ROW_BYTES}"))),
    };
    Ok(TrafficRow {
        item: id("item", &row.item)?,
        sent_bytes: bounded("sent_bytes", row.sent_bytes)?,
        counterpart: id("counterpart", &row.counterpart)?,
        verified_bytes: bounded("received_verified_bytes", row.received_verified_bytes)?,
        wasted_bytes: bounded("received_wasted_bytes", row.received_wasted_bytes)?,
    })
}

/// Sums as operators see them.
pub(crate) fn account(of: String, totals: &Totals) -> pb::AccountRow {
    let from = |source| totals.of(source).verified_bytes;
    pb::AccountRow {
        of,
        name: String::new(),
        from_same_home_bytes: from(SourceKind::SameHome),
        from_same_site_bytes: from(SourceKind::SameSite),
        from_same_isp_bytes: from(SourceKind::SameIsp),
        from_elsewhere_bytes: from(SourceKind::Elsewhere),
        from_seeds_bytes: from(SourceKind::Seed),
        from_strangers_bytes: from(SourceKind::Stranger),
        wasted_bytes: totals.all().wasted_bytes,
    }
}

/// The same, one row for each kind of source that has sent something.
pub(crate) fn account_by_source(totals: &Totals) -> Vec<pb::AccountRow> {
    let named = SourceKind::ALL.into_iter().map(|source| match source {
        SourceKind::SameHome => (source, "same home"),
        SourceKind::SameSite => (source, "same site"),
        SourceKind::SameIsp => (source, "same ISP"),
        SourceKind::Elsewhere => (source, "elsewhere"),
        SourceKind::Seed => (source, "seed"),
        SourceKind::Stranger => (source, "stranger"),
    });
    let sent = named.filter(|(source, _)| totals.of(*source).received_bytes() > 0);
    sent.map(|(source, name)| account(name.to_owned(), &totals.only(source))).collect()
}

/// A disagreement as operators see it.
pub(crate) fn mismatch(mismatch: &Mismatch) -> pb::Mismatch {
    pb::Mismatch {
        sender: mismatch.sender.to_vec(),
        receiver: mismatch.receiver.to_vec(),
        item: mismatch.item.to_vec(),
        said_sent_bytes: mismatch.said_sent_bytes,
        said_received_bytes: mismatch.said_received_bytes,
        since_utc_ms: mismatch.since.as_millis(),
        seen_utc_ms: mismatch.seen.as_millis(),
    }
}

/// What a seed has sent under shares.
pub(crate) struct SharesUsed {
    /// By serial of the ticket.
    pub(crate) uses: Vec<(u64, u64)>,
    pub(crate) settled_until: Option<Utc>,
}

/// What a seed says to have sent under shares.
pub(crate) fn shares_used(message: &pb::SharesUsed) -> Result<SharesUsed, Invalid> {
    if message.uses.len() > MAX_SHARE_USES {
        return Err(Invalid::new("shares_used.uses", format!("must be at most {MAX_SHARE_USES}")));
    }
    let uses = message.uses.iter().map(|it| (it.serial, it.sent_bytes)).collect();
    Ok(SharesUsed { uses, settled_until: message.settled_until_utc_ms.map(Utc::from_millis) })
}

/// Which title somebody means.
pub(crate) enum TitleBy {
    Title(TitleId),
    Item(ItemId),
    Name(String),
}

impl TryFrom<pb::GetTitleRequest> for TitleBy {
    type Error = Invalid;

    fn try_from(message: pb::GetTitleRequest) -> Result<TitleBy, Invalid> {
        use pb::get_title_request::By;
        match message.by {
            Some(By::Title(bytes)) => id("title", &bytes).map(TitleBy::Title),
            Some(By::Item(bytes)) => id("item", &bytes).map(TitleBy::Item),
            Some(By::Name(name)) if name.is_empty() || name.len() > MAX_QUERY_BYTES => {
                Err(Invalid::new("name", format!("must have 1 to {MAX_QUERY_BYTES} bytes")))
            }
            Some(By::Name(name)) => Ok(TitleBy::Name(name)),
            None => Err(Invalid::new("by", "is missing: name a title, an item or a name")),
        }
    }
}

/// A title as devices and operators see it.
pub(crate) fn title(listing: &Listing) -> pb::Title {
    pb::Title {
        entry: Some((&listing.signed).into()),
        catalog_version: listing.catalog_version,
        hidden: listing.hidden,
    }
}

/// A customer as operators see it.
pub(crate) fn customer(customer: &registry::Customer, devices: usize) -> pb::Customer {
    let status = match customer.status {
        registry::Status::Active => pb::CustomerStatus::Active,
        registry::Status::Suspended => pb::CustomerStatus::Suspended,
        registry::Status::Closed { .. } => pb::CustomerStatus::Closed,
    };
    pb::Customer {
        account: customer.account.to_vec(),
        name: customer.name.clone(),
        status: status.into(),
        created_utc_ms: customer.created.as_millis(),
        devices: u32::try_from(devices).unwrap_or(u32::MAX),
        region: customer.region.map(|region| region.to_string()).unwrap_or_default(),
        rating_limit: Some(rating_limit_message(customer.rating_limit)),
        closed_utc_ms: match customer.status {
            registry::Status::Closed { since } => Some(since.as_millis()),
            registry::Status::Active | registry::Status::Suspended => None,
        },
    }
}

/// A device as operators see it, with its complete copies and partial holdings.
pub(crate) fn device(device: &registry::Device, online: bool, copies: u32, partial: u32) -> pb::Device {
    pb::Device {
        device: device.device.to_vec(),
        account: device.account.to_vec(),
        name: device.name.clone(),
        site: device.site.to_string(),
        kind: pb_common::DeviceKind::from(device.kind).into(),
        online,
        revoked: device.revoked,
        last_seen_utc_ms: device.last_seen.as_millis(),
        copies,
        partial,
        rating_limit: Some(rating_limit_message(device.rating_limit)),
    }
}

/// What a customer is told of an invitation.
pub(crate) fn invitation(invite: &registry::Invite) -> pb::Invitation {
    pb::Invitation {
        kind: pb_common::DeviceKind::from(invite.kind).into(),
        site: invite.site.to_string(),
        expires_utc_ms: invite.expires.as_millis(),
        used_by: invite.used_by.map(Into::into).unwrap_or_default(),
    }
}

/// Where a page of an export begins: after this item of this device.
pub(crate) fn export_token(token: &[u8]) -> Result<Option<(DeviceId, ItemId)>, Invalid> {
    if token.is_empty() {
        return Ok(None);
    }
    let foreign = || Invalid::new("page_token", "was not made by this tracker");
    let (device, item) = token.split_at_checked(DeviceId::LEN).ok_or_else(foreign)?;
    Ok(Some((id("page_token", device)?, id("page_token", item)?)))
}

/// A lease as its asker sees it.
pub(crate) fn lease(lease: &Lease, until_utc_ms: u64, addresses: Vec<String>) -> pb::Lease {
    let source = pb::Source {
        device: lease.source.to_vec(),
        kind: pb_common::DeviceKind::from(lease.kind).into(),
        addresses,
        same_site: lease.same_site,
    };
    let portions =
        lease.portions.iter().map(|run| pb_common::ChunkRange { first: run.start, count: run.end - run.start });
    pb::Lease {
        source: Some(source),
        rate_cap_bytes_per_sec: lease.rate_cap_bytes_per_sec,
        until_utc_ms,
        portions: portions.collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(first: u32, count: u32) -> pb_common::ChunkRange {
        pb_common::ChunkRange { first, count }
    }

    fn refused(holding: pb::ItemHolding) -> String {
        let hello = pb::Hello { holdings: vec![holding], ..pb::Hello::default() };
        Hello::try_from(hello).err().expect("it is refused").field.into_owned()
    }

    #[test]
    fn hello_that_breaks_a_bound_is_refused_by_the_name_of_the_field() {
        let item = vec![1; 32];
        let of = |n_chunks, ranges| pb::ItemHolding { item: item.clone(), n_chunks, ranges };
        assert_eq!(
            refused(pb::ItemHolding { item: vec![1; 31], n_chunks: 1, ranges: vec![] }),
            "hello.holdings[0].item"
        );
        for n_chunks in [0, MAX_CHUNKS + 1, u32::MAX] {
            assert_eq!(refused(of(n_chunks, vec![])), "hello.holdings[0].n_chunks");
        }
        for ranges in [
            vec![range(0, 9)],
            vec![range(8, 1)],
            vec![range(0, 0)],
            vec![range(u32::MAX, u32::MAX)],
            vec![range(4, 1), range(0, 1)],
            vec![range(0, 2), range(1, 2)],
            vec![range(0, 1); MAX_RUNS + 1],
        ] {
            assert_eq!(refused(of(8, ranges)), "hello.holdings[0].ranges");
        }
        let twice = pb::Hello { holdings: vec![of(8, vec![]), of(8, vec![])], ..pb::Hello::default() };
        assert_eq!(Hello::try_from(twice).err().expect("refused").field, "hello.holdings");
        let many = pb::Hello { addresses: vec![String::new(); MAX_ADDRESSES + 1], ..pb::Hello::default() };
        assert_eq!(Hello::try_from(many).err().expect("refused").field, "hello.addresses");
    }

    #[test]
    fn traffic_beyond_belief_is_refused() {
        let row = pb::TrafficRow {
            item: vec![1; 32],
            counterpart: vec![2; 32],
            received_verified_bytes: u64::MAX,
            ..pb::TrafficRow::default()
        };
        let refused = traffic(&pb::Traffic { rows: vec![row.clone()] }).err().expect("refused");
        assert_eq!(refused.field, "traffic.rows[0].received_verified_bytes");
        let large = pb::TrafficRow { received_verified_bytes: 0, sent_bytes: MAX_ROW_BYTES, ..row.clone() };
        let together = pb::Traffic { rows: vec![large; 2] };
        assert_eq!(traffic(&together).err().expect("refused").field, "traffic.rows");
        let many = pb::Traffic { rows: vec![pb::TrafficRow::default(); MAX_TRAFFIC_ROWS + 1] };
        assert_eq!(traffic(&many).err().expect("refused").field, "traffic.rows");
    }

    #[test]
    fn more_shares_than_one_report_may_hold_are_refused() {
        let many = pb::SharesUsed { uses: vec![pb::ShareUse::default(); MAX_SHARE_USES + 1], ..Default::default() };
        assert_eq!(shares_used(&many).err().expect("refused").field, "shares_used.uses");
    }

    #[test]
    fn everything_is_missing_unless_it_is_said_what() {
        let ends = |of: &[_]| missing(24, of).unwrap().into_iter().map(|run| (run.start, run.end)).collect::<Vec<_>>();
        assert_eq!(ends(&[]), [(0, 24)]);
        assert_eq!(ends(&[range(3, 2), range(9, 1)]), [(3, 5), (9, 10)]);
        assert_eq!(missing(24, &[range(23, 2)]).unwrap_err().field, "missing");
    }
}
