//! What a tracker writes down: every key of its store, what lies there, and how it is read at the start.
//!
//! Values are protobuf messages of this file, not of `proto/`: the contract with devices and the layout on disk change
//! for different reasons. What may be longer than one value of the store is cut into parts under neighbouring keys.
//! Letters and field numbers are never reused; integers in keys are big-endian.

mod deliveries;
mod holdings;
mod keeping;
mod sites;

use std::collections::BTreeSet;

use bytes::{BufMut, Bytes, BytesMut};
use daemon::exit::{Exit, Failure};
use daemon::store::{Batch, MAX_PAGE, MAX_VALUE_BYTES, Store};
use prost::Message;
use swarm_proto::bitmap::Holding;
use swarm_proto::catalog::CatalogEntry;
use swarm_proto::id::{AccountId, DeviceId, ItemId, PublisherId, SiteId, TitleId};
use swarm_proto::limit::Limit;
use swarm_proto::membership::DeviceKind;
use swarm_proto::signed::Signed;
use swarm_proto::time::Utc;
use swarm_proto::tracker::accounts::{Slot, SourceKind, Sums, Totals};
use swarm_proto::tracker::catalog::Listing;
use swarm_proto::tracker::origin::{Asker, Grant, Hour, Part};
use swarm_proto::tracker::preload::Wanted;
use swarm_proto::tracker::queue::{self, PriorityList};
use swarm_proto::tracker::registry::{Customer, Device, Invite, InviteKey, Status};
use swarm_proto::tracker::sites::Delivery;
use swarm_proto::wrap::HpkePublic;

pub(crate) use self::deliveries::{Delivered, deliveries};
pub(crate) use self::holdings::Holdings;
pub(crate) use self::sites::Described;

/// Parts of the longest record, a catalog entry of 64 KiB with its signature and marks.
const MAX_PARTS: u8 = 17;

/// Parts of the longest queue, a thousand entries of 72 bytes.
const QUEUE_PARTS: u8 = 20;

/// Parts of a holding: the bits of the largest item fill one value, and their header needs a little of a second.
const HOLDING_PARTS: u8 = 2;

/// Every key. Each begins with a letter that says what lies there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Key<'a> {
    /// `t` ‖ title (16) ‖ part (1): a [`StoredTitle`], in parts.
    TitlePart(&'a TitleId, u8),
    /// `c` ‖ account (16): a [`StoredCustomer`].
    Customer(&'a AccountId),
    /// `d` ‖ device (32): a [`StoredDevice`].
    Device(&'a DeviceId),
    /// `s` ‖ device (32): when it was last seen, milliseconds of UTC (8).
    Seen(&'a DeviceId),
    /// `i` ‖ hash of the code (32): a [`StoredInvite`].
    Invite(&'a InviteKey),
    /// `p` ‖ publisher (32): its name.
    Publisher(&'a PublisherId),
    /// `q` ‖ account (16) ‖ part (1): a [`StoredQueue`], in parts.
    QueuePart(&'a AccountId, u8),
    /// `h` ‖ device (32) ‖ item (32) ‖ part (1): a [`StoredHolding`], in parts.
    HoldingPart(&'a DeviceId, &'a ItemId, u8),
    /// `r` ‖ device (32): until when its revocation is told, milliseconds of UTC (8).
    Revocation(&'a DeviceId),
    /// `x`: [`Traffic`].
    Traffic,
    /// `g` ‖ serial of a ticket (8): a [`StoredGrant`].
    Grant(u64),
    /// `a` ‖ kind of sum (1: hour, day, item) ‖ number of the hour or day (8) ‖ site, as text, or item (32):
    /// [`StoredTotals`].
    Account(&'a Slot),
    /// `o` ‖ site, as text: which hour (8) ‖ bytes that seeds have sent to it (8).
    OriginHour(&'a SiteId),
    /// `w` ‖ site (32, filled up with zeros) ‖ part (1): a [`sites::StoredSite`], in parts.
    SitePart(&'a SiteId, u8),
    /// `u` ‖ site (32, filled up with zeros): a [`sites::StoredUse`].
    SiteUse(&'a SiteId),
    /// `l` ‖ device (32): a seed that gives up its copies; nothing lies there.
    Draining(&'a DeviceId),
    /// `f` ‖ title (16) ‖ site (1 to 32): a [`keeping::StoredTarget`].
    Target(&'a TitleId, &'a SiteId),
    /// `y` ‖ account (16) ‖ number (8): a [`deliveries::StoredDelivery`].
    Delivery(&'a AccountId, u64),
}

impl Key<'_> {
    fn bytes(self) -> Bytes {
        let mut key = BytesMut::with_capacity(66);
        match self {
            Key::TitlePart(title, part) => {
                key.put_u8(b't');
                key.put_slice(title.as_bytes());
                key.put_u8(part);
            }
            Key::Customer(account) => {
                key.put_u8(b'c');
                key.put_slice(account.as_bytes());
            }
            Key::Device(device) => {
                key.put_u8(b'd');
                key.put_slice(device.as_bytes());
            }
            Key::Seen(device) => {
                key.put_u8(b's');
                key.put_slice(device.as_bytes());
            }
            Key::Invite(invite) => {
                key.put_u8(b'i');
                key.put_slice(&invite.0);
            }
            Key::Publisher(publisher) => {
                key.put_u8(b'p');
                key.put_slice(publisher.as_bytes());
            }
            Key::QueuePart(account, part) => {
                key.put_u8(b'q');
                key.put_slice(account.as_bytes());
                key.put_u8(part);
            }
            Key::HoldingPart(device, item, part) => {
                key.put_u8(b'h');
                key.put_slice(device.as_bytes());
                key.put_slice(item.as_bytes());
                key.put_u8(part);
            }
            Key::Revocation(device) => {
                key.put_u8(b'r');
                key.put_slice(device.as_bytes());
            }
            Key::Traffic => key.put_u8(b'x'),
            Key::Grant(serial) => {
                key.put_u8(b'g');
                key.put_u64(serial);
            }
            Key::Account(slot) => {
                key.put_u8(b'a');
                let (kind, number, of) = match slot {
                    Slot::Hour(hour, site) => (0, hour, site.as_str().as_bytes()),
                    Slot::Day(day, site) => (1, day, site.as_str().as_bytes()),
                    Slot::Item(day, item) => (2, day, item.as_bytes().as_slice()),
                };
                key.put_u8(kind);
                key.put_u64(*number);
                key.put_slice(of);
            }
            Key::OriginHour(site) => {
                key.put_u8(b'o');
                key.put_slice(site.as_str().as_bytes());
            }
            Key::SitePart(site, part) => {
                key.put_u8(b'w');
                key.put_slice(&sites::padded(site));
                key.put_u8(part);
            }
            Key::SiteUse(site) => {
                key.put_u8(b'u');
                key.put_slice(&sites::padded(site));
            }
            Key::Draining(seed) => {
                key.put_u8(b'l');
                key.put_slice(seed.as_bytes());
            }
            Key::Target(title, site) => {
                key.put_u8(b'f');
                key.put_slice(title.as_bytes());
                key.put_slice(site.as_str().as_bytes());
            }
            Key::Delivery(account, number) => {
                key.put_u8(b'y');
                key.put_slice(account.as_bytes());
                key.put_u64(number);
            }
        }
        key.freeze()
    }
}

#[derive(Clone, PartialEq, Message)]
struct StoredTitle {
    #[prost(bytes = "bytes", tag = "1")]
    signed: Bytes,
    #[prost(uint64, tag = "2")]
    catalog_version: u64,
    #[prost(bool, tag = "3")]
    hidden: bool,
}

#[derive(Clone, PartialEq, Message)]
struct StoredCustomer {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(bool, tag = "2")]
    suspended: bool,
    #[prost(uint64, tag = "3")]
    created_utc_ms: u64,
    /// Empty: not known.
    #[prost(string, tag = "4")]
    region: String,
    /// None: unlimited.
    #[prost(uint32, optional, tag = "5")]
    rating_limit: Option<u32>,
    /// None: not closed.
    #[prost(uint64, optional, tag = "6")]
    closed_utc_ms: Option<u64>,
}

#[derive(Clone, PartialEq, Message)]
struct StoredDevice {
    #[prost(bytes = "vec", tag = "1")]
    account: Vec<u8>,
    #[prost(string, tag = "2")]
    name: String,
    #[prost(string, tag = "3")]
    site: String,
    #[prost(bool, tag = "4")]
    is_seed: bool,
    #[prost(bytes = "vec", tag = "5")]
    hpke: Vec<u8>,
    #[prost(uint64, tag = "6")]
    issued_utc_ms: u64,
    #[prost(uint64, tag = "7")]
    serial: u64,
    #[prost(bool, tag = "8")]
    revoked: bool,
    /// None: unlimited.
    #[prost(uint32, optional, tag = "9")]
    rating_limit: Option<u32>,
}

#[derive(Clone, PartialEq, Message)]
struct StoredInvite {
    #[prost(bytes = "vec", tag = "1")]
    account: Vec<u8>,
    #[prost(bool, tag = "2")]
    is_seed: bool,
    #[prost(string, tag = "3")]
    site: String,
    #[prost(uint64, tag = "4")]
    expires_utc_ms: u64,
    #[prost(bytes = "vec", tag = "5")]
    used_by: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct StoredQueue {
    #[prost(uint64, tag = "1")]
    version: u64,
    #[prost(message, repeated, tag = "2")]
    entries: Vec<StoredQueueEntry>,
}

#[derive(Clone, PartialEq, Message)]
struct StoredQueueEntry {
    #[prost(bytes = "vec", tag = "1")]
    title: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    target: Vec<u8>,
    #[prost(uint64, tag = "3")]
    added_utc_ms: u64,
    /// See [`stored_delivery`].
    #[prost(uint32, tag = "4")]
    delivery: u32,
    #[prost(uint64, tag = "5")]
    not_before_utc_ms: u64,
}

#[derive(Clone, PartialEq, Message)]
struct StoredHolding {
    #[prost(uint32, tag = "1")]
    n_chunks: u32,
    /// One bit a chunk; none for a copy.
    #[prost(bytes = "vec", tag = "2")]
    bits: Vec<u8>,
}

/// One number for each kind of source, in the order of [`SourceKind::ALL`].
#[derive(Clone, PartialEq, Message)]
struct StoredTotals {
    #[prost(uint64, repeated, tag = "1")]
    verified_bytes: Vec<u64>,
    #[prost(uint64, repeated, tag = "2")]
    wasted_bytes: Vec<u64>,
}

#[derive(Clone, PartialEq, Message)]
struct StoredGrant {
    #[prost(bytes = "vec", tag = "1")]
    account: Vec<u8>,
    #[prost(string, tag = "2")]
    site: String,
    #[prost(uint64, tag = "3")]
    until_utc_ms: u64,
    #[prost(message, repeated, tag = "4")]
    parts: Vec<StoredPart>,
}

#[derive(Clone, PartialEq, Message)]
struct StoredPart {
    #[prost(bytes = "vec", tag = "1")]
    seed: Vec<u8>,
    #[prost(uint64, tag = "2")]
    run: u64,
    #[prost(uint64, tag = "3")]
    bytes: u64,
    #[prost(uint64, tag = "4")]
    sent: u64,
}

/// Bytes that devices have received, by who sent them, since the store began.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub(crate) struct Traffic {
    /// From boxes, verified.
    #[prost(uint64, tag = "1")]
    pub(crate) from_boxes_bytes: u64,
    /// From seeds, verified.
    #[prost(uint64, tag = "2")]
    pub(crate) from_seeds_bytes: u64,
    /// Of no use to whoever received them.
    #[prost(uint64, tag = "3")]
    pub(crate) wasted_bytes: u64,
}

/// Writes that belong together. The parts of a record that has become shorter are deleted with it.
#[derive(Debug, Default)]
pub(crate) struct Records(Batch);

impl Records {
    pub(crate) fn new() -> Records {
        Records::default()
    }

    pub(crate) fn title(self, listing: &Listing) -> Records {
        let stored = StoredTitle {
            signed: listing.signed.to_bytes(),
            catalog_version: listing.catalog_version,
            hidden: listing.hidden,
        };
        self.parts(|part| Key::TitlePart(&listing.entry.title, part), &stored.encode_to_vec())
    }

    pub(crate) fn customer(self, customer: &Customer) -> Records {
        let stored = StoredCustomer {
            name: customer.name.clone(),
            suspended: customer.status == Status::Suspended,
            created_utc_ms: customer.created.as_millis(),
            region: customer.region.map(|region| region.to_string()).unwrap_or_default(),
            rating_limit: customer.rating_limit.bound(),
            closed_utc_ms: match customer.status {
                Status::Closed { since } => Some(since.as_millis()),
                Status::Active | Status::Suspended => None,
            },
        };
        self.put(Key::Customer(&customer.account), stored.encode_to_vec())
    }

    pub(crate) fn device(self, device: &Device) -> Records {
        let stored = StoredDevice {
            account: device.account.to_vec(),
            name: device.name.clone(),
            site: device.site.to_string(),
            is_seed: device.kind == DeviceKind::Seed,
            hpke: device.hpke.to_vec(),
            issued_utc_ms: device.issued.as_millis(),
            serial: device.serial,
            revoked: device.revoked,
            rating_limit: device.rating_limit.bound(),
        };
        self.put(Key::Device(&device.device), stored.encode_to_vec())
    }

    pub(crate) fn seen(self, device: &DeviceId, at: Utc) -> Records {
        self.put(Key::Seen(device), at.as_millis().to_be_bytes().to_vec())
    }

    pub(crate) fn invite(self, invite: &Invite) -> Records {
        let stored = StoredInvite {
            account: invite.account.to_vec(),
            is_seed: invite.kind == DeviceKind::Seed,
            site: invite.site.to_string(),
            expires_utc_ms: invite.expires.as_millis(),
            used_by: invite.used_by.map(Into::into).unwrap_or_default(),
        };
        self.put(Key::Invite(&invite.key), stored.encode_to_vec())
    }

    pub(crate) fn forgotten_invite(self, invite: &InviteKey) -> Records {
        Records(self.0.delete(Key::Invite(invite).bytes()))
    }

    pub(crate) fn forgotten_customer(self, account: &AccountId) -> Records {
        let without_queue = self.parts(|part| Key::QueuePart(account, part), &[]);
        Records(without_queue.0.delete(Key::Customer(account).bytes()))
    }

    pub(crate) fn forgotten_device(self, device: &DeviceId) -> Records {
        let keys = [Key::Device(device), Key::Seen(device), Key::Draining(device)];
        Records(keys.into_iter().fold(self.0, |batch, key| batch.delete(key.bytes())))
    }

    /// A device was shut out, which is told until then.
    pub(crate) fn revocation(self, device: &DeviceId, until: Utc) -> Records {
        self.put(Key::Revocation(device), until.as_millis().to_be_bytes().to_vec())
    }

    pub(crate) fn forgotten_revocation(self, device: &DeviceId) -> Records {
        Records(self.0.delete(Key::Revocation(device).bytes()))
    }

    pub(crate) fn publisher(self, publisher: &PublisherId, name: &str) -> Records {
        self.put(Key::Publisher(publisher), name.as_bytes().to_vec())
    }

    pub(crate) fn queue(self, account: &AccountId, list: &PriorityList) -> Records {
        let entries = list.entries().iter().map(|entry| {
            let (delivery, not_before_utc_ms) = stored_delivery(entry.delivery);
            StoredQueueEntry {
                title: entry.title.to_vec(),
                target: entry.target.map(Into::into).unwrap_or_default(),
                added_utc_ms: entry.added.as_millis(),
                delivery,
                not_before_utc_ms,
            }
        });
        let stored = StoredQueue { version: list.version(), entries: entries.collect() };
        self.few_parts(|part| Key::QueuePart(account, part), &stored.encode_to_vec(), QUEUE_PARTS)
    }

    /// What a device holds of an item; none: nothing any more.
    pub(crate) fn holding(self, device: &DeviceId, item: &ItemId, holding: Option<&Holding>) -> Records {
        let stored = holding.map(|holding| StoredHolding {
            n_chunks: holding.n_chunks(),
            bits: if holding.is_complete() { Vec::new() } else { holding.to_bits() },
        });
        let encoded = stored.map(|stored| stored.encode_to_vec()).unwrap_or_default();
        self.few_parts(|part| Key::HoldingPart(device, item, part), &encoded, HOLDING_PARTS)
    }

    pub(crate) fn traffic(self, traffic: &Traffic) -> Records {
        self.put(Key::Traffic, traffic.encode_to_vec())
    }

    /// What a ticket lets seeds send; none: it is over.
    pub(crate) fn grant(self, serial: u64, grant: Option<&Grant>) -> Records {
        let Some(grant) = grant else { return Records(self.0.delete(Key::Grant(serial).bytes())) };
        let part =
            |part: &Part| StoredPart { seed: part.seed.to_vec(), run: part.run, bytes: part.bytes, sent: part.sent };
        let stored = StoredGrant {
            account: grant.asker.account.to_vec(),
            site: grant.asker.site.to_string(),
            until_utc_ms: grant.until.as_millis(),
            parts: grant.parts.iter().map(part).collect(),
        };
        self.put(Key::Grant(serial), stored.encode_to_vec())
    }

    /// What one sum of the accounts has come to; none: it is forgotten.
    pub(crate) fn account(self, slot: &Slot, totals: Option<&Totals>) -> Records {
        let Some(totals) = totals else { return Records(self.0.delete(Key::Account(slot).bytes())) };
        let sums = || SourceKind::ALL.into_iter().map(|source| totals.of(source));
        let stored = StoredTotals {
            verified_bytes: sums().map(|sums| sums.verified_bytes).collect(),
            wasted_bytes: sums().map(|sums| sums.wasted_bytes).collect(),
        };
        self.put(Key::Account(slot), stored.encode_to_vec())
    }

    /// What seeds have sent to a site in its hour.
    pub(crate) fn origin_hour(self, site: &SiteId, hour: Hour) -> Records {
        let value = [hour.number.to_be_bytes(), hour.sent_bytes.to_be_bytes()].concat();
        self.put(Key::OriginHour(site), value)
    }

    /// Writes that may be lost in a crash, because devices will say the same again.
    pub(crate) fn relaxed(self) -> Records {
        Records(self.0.relaxed())
    }

    /// Whether another holding fits into the same batch.
    pub(crate) fn has_room(&self) -> bool {
        self.0.len() + usize::from(HOLDING_PARTS) <= daemon::store::MAX_BATCH
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) async fn commit(self, store: &dyn Store) -> Result<(), Failure> {
        store.commit(self.0).await?;
        Ok(())
    }

    fn put(self, key: Key<'_>, value: Vec<u8>) -> Records {
        Records(self.0.put(key.bytes(), value))
    }

    fn parts<'a>(self, key: impl Fn(u8) -> Key<'a>, value: &[u8]) -> Records {
        self.few_parts(key, value, MAX_PARTS)
    }

    fn few_parts<'a>(self, key: impl Fn(u8) -> Key<'a>, value: &[u8], at_most: u8) -> Records {
        let mut pieces = value.chunks(MAX_VALUE_BYTES);
        let Records(mut batch) = self;
        for part in 0..at_most {
            batch = match pieces.next() {
                Some(piece) => batch.put(key(part).bytes(), piece.to_vec()),
                None => batch.delete(key(part).bytes()),
            };
        }
        assert!(pieces.next().is_none(), "a bounded record fits its parts");
        Records(batch)
    }
}

/// Everything that was written down.
#[derive(Debug, Default)]
pub(crate) struct Everything {
    pub(crate) titles: Vec<Listing>,
    pub(crate) customers: Vec<Customer>,
    pub(crate) devices: Vec<Device>,
    pub(crate) invites: Vec<Invite>,
    pub(crate) publishers: Vec<(PublisherId, String)>,
    pub(crate) queues: Vec<(AccountId, PriorityList)>,
    pub(crate) revocations: Vec<(DeviceId, Utc)>,
    pub(crate) traffic: Traffic,
    pub(crate) grants: Vec<Grant>,
    pub(crate) origin_hours: Vec<(SiteId, Hour)>,
    pub(crate) accounts: Vec<(Slot, Totals)>,
    pub(crate) sites: Vec<Described>,
    pub(crate) site_use: Vec<(SiteId, Vec<(Utc, u64)>)>,
    pub(crate) draining: BTreeSet<DeviceId>,
    pub(crate) targets: Vec<(TitleId, SiteId, Wanted)>,
}

impl Everything {
    /// Reads the whole store. What was written by this program and cannot be read is a damaged disk, and said to be.
    pub(crate) async fn load(store: &dyn Store) -> Result<Everything, Failure> {
        let mut all = Everything::default();
        for (key, value) in joined(store, b't', 1 + TitleId::LEN).await? {
            all.titles.push(title(&value).ok_or_else(|| damaged(&key))?);
        }
        for (key, value) in single(store, b'c').await? {
            all.customers.push(customer(&key, &value).ok_or_else(|| damaged(&key))?);
        }
        for (key, value) in single(store, b'd').await? {
            all.devices.push(device(&key, &value).ok_or_else(|| damaged(&key))?);
        }
        for (key, value) in single(store, b's').await? {
            let (id, seen) = seen(&key, &value).ok_or_else(|| damaged(&key))?;
            if let Ok(at) = all.devices.binary_search_by_key(&id, |device| device.device) {
                all.devices[at].last_seen = seen;
            }
        }
        for (key, value) in single(store, b'i').await? {
            all.invites.push(invite(&key, &value).ok_or_else(|| damaged(&key))?);
        }
        for (key, value) in single(store, b'p').await? {
            let name = String::from_utf8(value).map_err(|_| damaged(&key))?;
            all.publishers.push((PublisherId::try_from(&key[1..]).map_err(|_| damaged(&key))?, name));
        }
        for (key, value) in joined(store, b'q', 1 + AccountId::LEN).await? {
            let list = queue(&value).ok_or_else(|| damaged(&key))?;
            all.queues.push((AccountId::try_from(&key[1..]).map_err(|_| damaged(&key))?, list));
        }
        for (key, value) in single(store, b'r').await? {
            all.revocations.push(seen(&key, &value).ok_or_else(|| damaged(&key))?);
        }
        for (key, value) in single(store, b'g').await? {
            all.grants.push(grant(&key, &value).ok_or_else(|| damaged(&key))?);
        }
        for (key, value) in single(store, b'a').await? {
            all.accounts.push(account_of(&key, &value).ok_or_else(|| damaged(&key))?);
        }
        for (key, value) in single(store, b'o').await? {
            all.origin_hours.push(origin_hour(&key, &value).ok_or_else(|| damaged(&key))?);
        }
        for (key, _) in single(store, b'l').await? {
            all.draining.insert(DeviceId::try_from(&key[1..]).map_err(|_| damaged(&key))?);
        }
        for (key, value) in single(store, b'f').await? {
            all.targets.push(keeping::target(&key, &value).ok_or_else(|| damaged(&key))?);
        }
        if let Some(versioned) = store.get(&Key::Traffic.bytes()).await? {
            all.traffic = Traffic::decode(versioned.value).map_err(|_| damaged(&Key::Traffic.bytes()))?;
        }
        for (key, value) in joined(store, b'w', 1 + SiteId::MAX_LEN).await? {
            all.sites.push(sites::site(&key, &value).ok_or_else(|| damaged(&key))?);
        }
        for (key, value) in single(store, b'u').await? {
            all.site_use.push(sites::site_use(&key, &value).ok_or_else(|| damaged(&key))?);
        }
        Ok(all)
    }
}

async fn single(store: &dyn Store, letter: u8) -> Result<Vec<(Bytes, Vec<u8>)>, Failure> {
    let mut found = Vec::new();
    let mut after: Option<Bytes> = None;
    loop {
        let page = store.scan(&[letter], after.as_deref(), MAX_PAGE).await?;
        found.extend(page.entries.into_iter().map(|entry| (entry.key, entry.versioned.value.to_vec())));
        match page.next {
            Some(next) => after = Some(next),
            None => return Ok(found),
        }
    }
}

/// Records in parts: each under the beginning of its keys that has this length.
async fn joined(store: &dyn Store, letter: u8, key_len: usize) -> Result<Vec<(Bytes, Vec<u8>)>, Failure> {
    let mut found: Vec<(Bytes, Vec<u8>)> = Vec::new();
    for (key, piece) in single(store, letter).await? {
        if key.len() != key_len + 1 {
            return Err(damaged(&key));
        }
        let of = key.slice(..key_len);
        match found.last_mut() {
            Some((last, value)) if *last == of => value.extend(piece),
            _ => found.push((of, piece)),
        }
    }
    Ok(found)
}

fn title(value: &[u8]) -> Option<Listing> {
    let stored = StoredTitle::decode(value).ok()?;
    let signed: Signed<CatalogEntry> = Signed::from_bytes(&stored.signed).ok()?;
    let entry = signed.verify(&signed.signer()).ok()?;
    Some(Listing { entry, signed, catalog_version: stored.catalog_version, hidden: stored.hidden })
}

fn customer(key: &[u8], value: &[u8]) -> Option<Customer> {
    let stored = StoredCustomer::decode(value).ok()?;
    Some(Customer {
        account: AccountId::try_from(key.get(1..)?).ok()?,
        name: stored.name,
        status: match (stored.closed_utc_ms, stored.suspended) {
            (Some(since), _) => Status::Closed { since: Utc::from_millis(since) },
            (None, true) => Status::Suspended,
            (None, false) => Status::Active,
        },
        created: Utc::from_millis(stored.created_utc_ms),
        region: if stored.region.is_empty() { None } else { Some(stored.region.parse().ok()?) },
        rating_limit: limit(stored.rating_limit),
    })
}

fn device(key: &[u8], value: &[u8]) -> Option<Device> {
    let stored = StoredDevice::decode(value).ok()?;
    Some(Device {
        device: DeviceId::try_from(key.get(1..)?).ok()?,
        account: AccountId::try_from(stored.account.as_slice()).ok()?,
        name: stored.name,
        site: SiteId::new(&stored.site).ok()?,
        kind: kind(stored.is_seed),
        hpke: HpkePublic::try_from(stored.hpke.as_slice()).ok()?,
        issued: Utc::from_millis(stored.issued_utc_ms),
        serial: stored.serial,
        revoked: stored.revoked,
        last_seen: Utc::from_millis(stored.issued_utc_ms),
        rating_limit: limit(stored.rating_limit),
    })
}

fn limit(age: Option<u32>) -> Limit<u32> {
    age.map_or(Limit::Unlimited, Limit::Of)
}

/// A device and a moment.
fn seen(key: &[u8], value: &[u8]) -> Option<(DeviceId, Utc)> {
    let millis = u64::from_be_bytes(value.try_into().ok()?);
    Some((DeviceId::try_from(key.get(1..)?).ok()?, Utc::from_millis(millis)))
}

fn invite(key: &[u8], value: &[u8]) -> Option<Invite> {
    let stored = StoredInvite::decode(value).ok()?;
    let used_by = match stored.used_by.is_empty() {
        true => None,
        false => Some(DeviceId::try_from(stored.used_by.as_slice()).ok()?),
    };
    Some(Invite {
        key: InviteKey(key.get(1..)?.try_into().ok()?),
        account: AccountId::try_from(stored.account.as_slice()).ok()?,
        kind: kind(stored.is_seed),
        site: SiteId::new(&stored.site).ok()?,
        expires: Utc::from_millis(stored.expires_utc_ms),
        used_by,
    })
}

fn queue(value: &[u8]) -> Option<PriorityList> {
    let stored = StoredQueue::decode(value).ok()?;
    let entries = stored.entries.into_iter().map(|entry| {
        let target = match entry.target.is_empty() {
            true => None,
            false => Some(DeviceId::try_from(entry.target.as_slice()).ok()?),
        };
        let title = TitleId::try_from(entry.title.as_slice()).ok()?;
        let delivery = delivery(entry.delivery, entry.not_before_utc_ms)?;
        Some(queue::Entry { title, target, added: Utc::from_millis(entry.added_utc_ms), delivery })
    });
    PriorityList::restore(stored.version, entries.collect::<Option<Vec<_>>>()?)
}

/// A number for each kind of wish, 0 for none, and the moment if it names one.
fn stored_delivery(delivery: Option<Delivery>) -> (u32, u64) {
    match delivery {
        None => (0, 0),
        Some(Delivery::Anytime) => (1, 0),
        Some(Delivery::OffPeak) => (2, 0),
        Some(Delivery::NotBefore(moment)) => (3, moment.as_millis()),
    }
}

fn delivery(kind: u32, not_before_utc_ms: u64) -> Option<Option<Delivery>> {
    match kind {
        0 => Some(None),
        1 => Some(Some(Delivery::Anytime)),
        2 => Some(Some(Delivery::OffPeak)),
        3 => Some(Some(Delivery::NotBefore(Utc::from_millis(not_before_utc_ms)))),
        _ => None,
    }
}

fn holding(key: &[u8], value: &[u8]) -> Option<(DeviceId, ItemId, Holding)> {
    let stored = StoredHolding::decode(value).ok()?;
    let holding = match stored.bits.is_empty() {
        true => Holding::complete(stored.n_chunks).ok()?,
        false => Holding::from_bits(stored.n_chunks, &stored.bits).ok()?,
    };
    let (device, item) = key.get(1..)?.split_at_checked(DeviceId::LEN)?;
    Some((DeviceId::try_from(device).ok()?, ItemId::try_from(item).ok()?, holding))
}

fn grant(key: &[u8], value: &[u8]) -> Option<Grant> {
    let stored = StoredGrant::decode(value).ok()?;
    let part = |part: &StoredPart| {
        let seed = DeviceId::try_from(part.seed.as_slice()).ok()?;
        (part.sent <= part.bytes).then_some(Part { seed, run: part.run, bytes: part.bytes, sent: part.sent })
    };
    Some(Grant {
        serial: u64::from_be_bytes(key.get(1..)?.try_into().ok()?),
        asker: Asker {
            account: AccountId::try_from(stored.account.as_slice()).ok()?,
            site: SiteId::new(&stored.site).ok()?,
        },
        until: Utc::from_millis(stored.until_utc_ms),
        parts: stored.parts.iter().map(part).collect::<Option<_>>()?,
    })
}

fn account_of(key: &[u8], value: &[u8]) -> Option<(Slot, Totals)> {
    let (kind, rest) = key.get(1..)?.split_first()?;
    let (number, of) = rest.split_at_checked(8)?;
    let number = u64::from_be_bytes(number.try_into().ok()?);
    let site = || SiteId::new(std::str::from_utf8(of).ok()?).ok();
    let slot = match kind {
        0 => Slot::Hour(number, site()?),
        1 => Slot::Day(number, site()?),
        2 => Slot::Item(number, ItemId::try_from(of).ok()?),
        _ => return None,
    };
    let stored = StoredTotals::decode(value).ok()?;
    let mut totals = Totals::default();
    let sums = stored.verified_bytes.into_iter().zip(stored.wasted_bytes);
    for (source, (verified_bytes, wasted_bytes)) in SourceKind::ALL.into_iter().zip(sums) {
        totals.add(source, Sums { verified_bytes, wasted_bytes });
    }
    Some((slot, totals))
}

fn origin_hour(key: &[u8], value: &[u8]) -> Option<(SiteId, Hour)> {
    let site = SiteId::new(std::str::from_utf8(key.get(1..)?).ok()?).ok()?;
    let (number, sent_bytes) = value.split_at_checked(8)?;
    let hour = Hour {
        number: u64::from_be_bytes(number.try_into().ok()?),
        sent_bytes: u64::from_be_bytes(sent_bytes.try_into().ok()?),
    };
    Some((site, hour))
}

fn kind(is_seed: bool) -> DeviceKind {
    if is_seed { DeviceKind::Seed } else { DeviceKind::Box }
}

fn damaged(key: &[u8]) -> Failure {
    Failure::new(Exit::Integrity, "E-RECORD-01", "a record of this tracker cannot be read")
        .why(format!("what lies at key {} is not what was written there", key.escape_ascii()))
        .hint("check the disk, then restore the data folder from a backup")
}

#[cfg(test)]
mod tests {
    use daemon::store::Memory;

    use super::*;

    fn account(n: u8) -> AccountId {
        AccountId::from([n; 16])
    }

    fn device_id(n: u8) -> DeviceId {
        DeviceId::from([n; 32])
    }

    async fn stored(records: Records) -> Everything {
        let store = Memory::new();
        records.commit(&store).await.unwrap();
        Everything::load(&store).await.unwrap()
    }

    #[tokio::test]
    async fn longest_queue_comes_back_whole() {
        let entries = (0..queue::MAX_ENTRIES as u128).map(|n| queue::Entry {
            title: TitleId::from(n.to_be_bytes()),
            target: Some(device_id(1)),
            added: Utc::from_secs(1_800_000_000),
            delivery: Some(Delivery::NotBefore(Utc::from_secs(1_900_000_000))),
        });
        let list = PriorityList::restore(7, entries.collect()).unwrap();
        assert_eq!(stored(Records::new().queue(&account(1), &list)).await.queues, [(account(1), list)]);
    }

    #[tokio::test]
    async fn queue_that_has_become_shorter_leaves_nothing_behind() {
        let store = Memory::new();
        let title = |n: u128| TitleId::from(n.to_be_bytes());
        let entry = |n: u128| queue::Entry { title: title(n), target: None, added: Utc::EPOCH, delivery: None };
        let long = PriorityList::restore(1, (0..500).map(entry).collect()).unwrap();
        let short = PriorityList::restore(2, (0..1).map(entry).collect()).unwrap();
        for list in [&long, &short] {
            Records::new().queue(&account(1), list).commit(&store).await.unwrap();
        }
        assert_eq!(Everything::load(&store).await.unwrap().queues, [(account(1), short)]);
    }

    #[tokio::test]
    async fn people_and_devices_come_back_as_they_were() {
        let customer = Customer {
            account: account(1),
            name: "Müller".to_owned(),
            status: Status::Closed { since: Utc::from_secs(4) },
            created: Utc::from_secs(5),
            region: "AT".parse().ok(),
            rating_limit: Limit::Of(12),
        };
        let device = Device {
            device: device_id(3),
            account: account(1),
            name: "living room".to_owned(),
            site: SiteId::new("north").unwrap(),
            kind: DeviceKind::Seed,
            hpke: HpkePublic::from_bytes([9; 32]),
            issued: Utc::from_secs(6),
            serial: 2,
            revoked: true,
            last_seen: Utc::from_secs(7),
            rating_limit: Limit::Of(0),
        };
        let invite = Invite {
            key: InviteKey([4; 32]),
            account: account(1),
            kind: DeviceKind::Box,
            site: SiteId::new("south").unwrap(),
            expires: Utc::from_secs(8),
            used_by: Some(device_id(3)),
        };
        let traffic = Traffic { from_boxes_bytes: 1, from_seeds_bytes: 2, wasted_bytes: 3 };
        let records = Records::new()
            .customer(&customer)
            .device(&device)
            .seen(&device.device, device.last_seen)
            .invite(&invite)
            .publisher(&PublisherId::from([5; 32]), "Studio")
            .revocation(&device.device, Utc::from_secs(9))
            .traffic(&traffic);
        let all = stored(records).await;
        assert_eq!((all.customers, all.devices, all.invites), (vec![customer], vec![device], vec![invite]));
        assert_eq!(all.revocations, [(device_id(3), Utc::from_secs(9))]);
        assert_eq!(all.publishers, [(PublisherId::from([5; 32]), "Studio".to_owned())]);
        assert_eq!(all.traffic, traffic);
    }

    #[tokio::test]
    async fn forgotten_customer_leaves_no_record() {
        let store = Memory::new();
        let list = PriorityList::restore(
            1,
            vec![queue::Entry {
                title: TitleId::from([1; 16]),
                target: Some(device_id(3)),
                added: Utc::EPOCH,
                delivery: Some(Delivery::OffPeak),
            }],
        );
        let records = Records::new().queue(&account(1), &list.unwrap()).seen(&device_id(3), Utc::EPOCH);
        records.commit(&store).await.unwrap();
        Records::new().forgotten_device(&device_id(3)).forgotten_customer(&account(1)).commit(&store).await.unwrap();
        assert!(store.scan(&[], None, MAX_PAGE).await.unwrap().entries.is_empty());
    }

    #[tokio::test]
    async fn what_seeds_may_send_and_have_sent_comes_back() {
        let grant = Grant {
            serial: 7,
            asker: Asker { account: account(1), site: SiteId::new("north").unwrap() },
            until: Utc::from_secs(9),
            parts: vec![Part { seed: device_id(2), run: 3, bytes: 100, sent: 40 }],
        };
        let (site, hour) = (SiteId::new("north").unwrap(), Hour { number: 5, sent_bytes: 40 });
        let store = Memory::new();
        Records::new().grant(7, Some(&grant)).origin_hour(&site, hour).commit(&store).await.unwrap();
        let all = Everything::load(&store).await.unwrap();
        assert_eq!((all.grants, all.origin_hours), (vec![grant], vec![(site, hour)]));
        Records::new().grant(7, None).commit(&store).await.unwrap();
        assert_eq!(Everything::load(&store).await.unwrap().grants, []);
    }

    #[tokio::test]
    async fn accounts_come_back_and_forgotten_ones_do_not() {
        let site = SiteId::new("north").unwrap();
        let slots = [Slot::Hour(7, site.clone()), Slot::Day(8, site), Slot::Item(9, ItemId::from([3; 32]))];
        let mut totals = Totals::default();
        totals.add(SourceKind::Seed, Sums { verified_bytes: 5, wasted_bytes: 1 });
        totals.add(SourceKind::SameHome, Sums { verified_bytes: 6, wasted_bytes: 0 });
        let store = Memory::new();
        for slot in &slots {
            Records::new().account(slot, Some(&totals)).commit(&store).await.unwrap();
        }
        let all = Everything::load(&store).await.unwrap().accounts;
        assert_eq!(all, slots.clone().map(|slot| (slot, totals)));
        Records::new().account(&slots[0], None).commit(&store).await.unwrap();
        assert_eq!(Everything::load(&store).await.unwrap().accounts.len(), 2);
    }

    #[tokio::test]
    async fn damaged_record_is_named_and_not_skipped() {
        let store = Memory::new();
        store.commit(Batch::new().put(Key::Device(&device_id(1)).bytes(), vec![0xff; 9])).await.unwrap();
        assert_eq!(Everything::load(&store).await.unwrap_err().code, "E-RECORD-01");
    }
}
