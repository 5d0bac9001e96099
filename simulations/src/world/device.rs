//! One box or seed: the machines that ship, and the little that is around them.
//!
//! Decides nothing: what to ask, whom to serve and when to tell the tracker are the machines' business. Crooks are the
//! exception; what they do wrong is theirs.

use std::collections::{BTreeMap, BTreeSet};

use swarm_proto::bitmap::Holding;
use swarm_proto::id::{AccountId, DeviceId, ItemId};
use swarm_proto::membership::DeviceKind;
use swarm_proto::peer::chunk_set::ChunkSet;
use swarm_proto::peer::news::News;
use swarm_proto::peer::rate::Meter;
use swarm_proto::peer::transfers::{Ask, RequestId, Transfers};
use swarm_proto::peer::uploads::Uploads;
use swarm_proto::ticket::Ticket;
use swarm_proto::tracker::planner::Link;

use super::links::{FlowId, LinkId};

/// How a device behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Manners {
    Honest,
    /// Forges what it sends, once it has sent so many good chunks.
    Liar {
        after: u32,
    },
    /// Sends nothing.
    FreeRider,
    /// Takes requests and never answers.
    Staller,
}

/// A request of ours that is not over.
#[derive(Debug, Clone)]
pub(crate) struct Live {
    pub(crate) title: u32,
    pub(crate) to: u32,
    pub(crate) ask: Ask,
    pub(crate) state: LiveState,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LiveState {
    /// On its way, or its answer is.
    Asked,
    /// Being sent.
    Sending(FlowId),
    /// The other side has it and says nothing.
    Swallowed,
}

/// One device.
#[derive(Debug)]
pub(crate) struct Device {
    pub(crate) id: DeviceId,
    pub(crate) account: AccountId,
    pub(crate) kind: DeviceKind,
    pub(crate) site: usize,
    pub(crate) up: LinkId,
    pub(crate) down: LinkId,
    pub(crate) up_bytes_per_sec: u64,
    pub(crate) down_bytes_per_sec: u64,
    /// What it tells the tracker of its links, if it does not have to measure them.
    pub(crate) told: Option<Link>,
    pub(crate) manners: Manners,
    pub(crate) online: bool,
    pub(crate) transfers: Transfers,
    pub(crate) uploads: Uploads,
    pub(crate) news: News,
    pub(crate) held: BTreeMap<u32, ChunkSet>,
    /// Titles it wants, the most important first.
    pub(crate) queue: Vec<u32>,
    pub(crate) tickets: BTreeMap<u32, Ticket>,
    pub(crate) live: BTreeMap<RequestId, Live>,
    pub(crate) banned: BTreeSet<u32>,
    /// Good chunks sent.
    pub(crate) sent_good: u32,
    /// Bytes of chunks that reached it, whole or in part.
    pub(crate) received_bytes: u64,
    pub(crate) accounted_bytes: u64,
    uplink: Meter,
    best_uplink: u64,
    /// When what is under way was last told to the machine.
    pub(crate) looked_at: u64,
    /// When it is woken next: by its machine, by its uplink, for its news.
    pub(crate) timer_at: u64,
    pub(crate) end_at: u64,
    pub(crate) news_at: u64,
}

/// What a device is made of.
pub(crate) struct Parts {
    pub(crate) id: DeviceId,
    pub(crate) account: AccountId,
    pub(crate) kind: DeviceKind,
    pub(crate) site: usize,
    pub(crate) up: LinkId,
    pub(crate) down: LinkId,
    pub(crate) up_bytes_per_sec: u64,
    pub(crate) down_bytes_per_sec: u64,
    pub(crate) told: Option<Link>,
    pub(crate) manners: Manners,
    pub(crate) transfers: Transfers,
    pub(crate) uploads: Uploads,
}

impl Device {
    pub(crate) fn new(parts: Parts) -> Self {
        let Parts { id, account, kind, site, up, down, up_bytes_per_sec, down_bytes_per_sec, told, .. } = parts;
        let Parts { manners, transfers, uploads, .. } = parts;
        Self {
            id,
            account,
            kind,
            site,
            up,
            down,
            up_bytes_per_sec,
            down_bytes_per_sec,
            told,
            manners,
            online: true,
            transfers,
            uploads,
            news: News::new(),
            held: BTreeMap::new(),
            queue: Vec::new(),
            tickets: BTreeMap::new(),
            live: BTreeMap::new(),
            banned: BTreeSet::new(),
            sent_good: 0,
            received_bytes: 0,
            accounted_bytes: 0,
            uplink: Meter::default(),
            best_uplink: 0,
            looked_at: 0,
            timer_at: u64::MAX,
            end_at: u64::MAX,
            news_at: u64::MAX,
        }
    }

    pub(crate) fn is_honest(&self) -> bool {
        self.manners == Manners::Honest
    }

    /// Whether the next chunk it sends is forged.
    pub(crate) fn lies(&self) -> bool {
        matches!(self.manners, Manners::Liar { after } if self.sent_good >= after)
    }

    /// What it tells the tracker about a title.
    pub(crate) fn holding(&self, title: u32, n_chunks: u32) -> Holding {
        let runs = self.held.get(&title).map(ChunkSet::ranges).unwrap_or_default();
        Holding::from_runs(n_chunks, runs).expect("a set of chunks is a holding")
    }

    /// A chunk has left.
    pub(crate) fn measure(&mut self, now: swarm_proto::time::Mono, bytes: u64) {
        self.uplink.add(now, bytes);
        self.best_uplink = self.best_uplink.max(self.uplink.per_sec(now));
    }

    /// What a heartbeat says of its links.
    pub(crate) fn link(&self) -> Link {
        self.told.unwrap_or(Link {
            uplink_bytes_per_sec: (self.best_uplink > 0).then_some(self.best_uplink),
            downlink_bytes_per_sec: None,
            upload_cap_bytes_per_sec: None,
        })
    }
}

/// The device of this number. The number is in its id, where it does not decide the order of devices.
pub(crate) fn id_of(number: u32, salt: u64) -> DeviceId {
    DeviceId::from_bytes(named(b"device", u64::from(number), salt, number))
}

/// The number of a device.
pub(crate) fn number_of(id: &DeviceId) -> u32 {
    last_number(id.as_bytes())
}

/// The item of this number.
pub(crate) fn item_of(number: u32, salt: u64) -> ItemId {
    ItemId::from_bytes(named(b"item", u64::from(number), salt, number))
}

/// The number of an item.
pub(crate) fn title_of(item: &ItemId) -> u32 {
    last_number(item.as_bytes())
}

fn last_number(bytes: &[u8; 32]) -> u32 {
    let (_, last) = bytes.split_last_chunk().expect("an id has 32 bytes");
    u32::from_be_bytes(*last)
}

fn named(what: &[u8], number: u64, salt: u64, last: u32) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(what).update(&number.to_le_bytes()).update(&salt.to_le_bytes());
    let mut bytes = *hasher.finalize().as_bytes();
    bytes[28..].copy_from_slice(&last.to_be_bytes());
    bytes
}
