//! Decides which request of another device is served now.
//!
//! Nobody is served who has no valid ticket; nobody gets more than a few chunks at a time, and when there are more askers
//! than slots, customers take turns. A seed sends no more under a ticket than the share that the ticket gives to it by
//! name, and no chunk to the same device more than twice an hour. Who is turned away for now is told when to come back.
//! The shell says what a ticket is worth and whether a chunk is held; bytes and signatures never come here.

mod repeats;
mod shares;
mod turns;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use self::repeats::Repeats;
pub use self::shares::Told;
use self::shares::{Denied, Shares};
use self::turns::Turns;
use crate::geometry::ChunkIndex;
use crate::id::{DeviceId, ItemId};
use crate::ticket::Ticket;
use crate::time::{Mono, Now, Utc};
use crate::wire::Refusal;

/// Manifests and holdings one peer may ask for in one [`SMALL_WINDOW`].
const SMALL_MAX: u32 = 64;
const SMALL_WINDOW: Duration = Duration::from_secs(10);
/// Peers whose small questions are counted at a time.
const ASKERS_MAX: usize = 4_096;
/// How often a seed sends a chunk to the same device within an hour. Once should do; the second time is for a disk that
/// lost it or a line that broke.
const SAME_CHUNK_MAX: u32 = 2;

/// Devices shut out that are remembered: several times what a tracker tells on one stream.
const REVOKED_MAX: usize = 16_384;

/// How much is passed on at a time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Chunks being sent at a time. 0 sends nothing.
    pub slots: u32,
    /// Chunks being sent to one peer at a time.
    pub slots_per_peer: u32,
    /// When a peer that found no slot should ask again.
    pub busy_for: Duration,
    /// This device is a seed: it counts bytes against shares.
    pub is_seed: bool,
    /// How long a ticket and its shares are honoured beyond their end while the tracker is away and nobody can get new
    /// ones.
    pub grace: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            slots: 16,
            slots_per_peer: 4,
            busy_for: Duration::from_millis(200),
            is_seed: false,
            grace: Duration::from_secs(24 * 60 * 60),
        }
    }
}

/// What another device asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ask {
    /// Something short: a holding, or whatever is not here.
    Small,
    /// A manifest of this many bytes.
    Manifest(u64),
    /// A chunk.
    Chunk {
        /// Which.
        index: ChunkIndex,
        /// Its length.
        bytes: u64,
    },
}

/// Names one chunk being sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct SendId(u64);

/// What to do with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// Answer it. For a chunk, [`Uploads::handle_sent`] follows under this name.
    Serve(Option<SendId>),
    /// Not now.
    Busy(Duration),
    /// Not with this ticket, or not by this device.
    Refused(Refusal),
}

/// What this device gives to others.
#[derive(Debug)]
pub struct Uploads {
    config: Config,
    sends: BTreeMap<SendId, Send>,
    next_send: u64,
    turns: Turns,
    shares: Shares,
    repeats: Repeats,
    /// Devices that the tracker has shut out, whatever their tickets say.
    revoked: BTreeSet<DeviceId>,
    small: BTreeMap<DeviceId, u32>,
    small_since: Mono,
    sent_bytes: u64,
    /// What was sent since it was last asked: device, item, bytes.
    ledger: BTreeMap<(ItemId, DeviceId), u64>,
    log: VecDeque<(ItemId, DeviceId)>,
}

#[derive(Debug)]
struct Send {
    device: DeviceId,
    item: ItemId,
    chunk: ChunkIndex,
    ticket: u64,
    party: u64,
    bytes: u64,
}

/// Rows of [`Uploads::take_ledger`] kept at most; the oldest are added up by the caller more often than that.
const LEDGER_MAX: usize = 1_000;

impl Uploads {
    /// A device that gives nothing yet, and the number of this run of it.
    pub fn new(own: DeviceId, run: u64, config: Config) -> Self {
        Self {
            turns: Turns::default(),
            shares: Shares::new(own, run, config.grace),
            repeats: Repeats::default(),
            config,
            sends: BTreeMap::new(),
            next_send: 0,
            revoked: BTreeSet::new(),
            small: BTreeMap::new(),
            small_since: Mono::ZERO,
            sent_bytes: 0,
            ledger: BTreeMap::new(),
            log: VecDeque::new(),
        }
    }

    /// What this device is there for, once it is known.
    pub fn set_seed(&mut self, is_seed: bool) {
        self.config.is_seed = is_seed;
    }

    /// Whether it is a seed.
    pub fn is_seed(&self) -> bool {
        self.config.is_seed
    }

    /// The tracker has shut a device out: no ticket of its is honoured any more.
    pub fn handle_revoked(&mut self, device: DeviceId) {
        self.revoked.insert(device);
        if self.revoked.len() > REVOKED_MAX {
            self.revoked.pop_first();
        }
    }

    /// Whether a request is served. `device` is who proved to be at the other end, `item` what it asks for; the
    /// ticket's signature is that of our tracker.
    pub fn admit(
        &mut self,
        now: Now,
        device: DeviceId,
        item: ItemId,
        ask: Ask,
        ticket: &Ticket,
        tracker_up: bool,
    ) -> Admission {
        if let Err(refusal) = self.check(now.utc, device, item, ticket, tracker_up) {
            return Admission::Refused(refusal);
        }
        let (index, bytes) = match ask {
            Ask::Small => return self.admit_small(now.mono, device),
            Ask::Manifest(bytes) => return self.admit_manifest(now, device, ticket, bytes, tracker_up),
            Ask::Chunk { index, bytes } => (index, bytes),
        };
        if self.config.slots == 0 {
            return Admission::Refused(Refusal::NotServing);
        }
        if self.config.is_seed && self.times(now.mono, device, item, index) >= SAME_CHUNK_MAX {
            return Admission::Refused(Refusal::OverBudget);
        }
        // Before its turn: who has nothing to get keeps no place.
        if self.config.is_seed
            && let Err(denied) = self.shares.open(now.utc, ticket, bytes, tracker_up)
        {
            return self.deny(denied);
        }
        let to_peer = self.sends.values().filter(|send| send.device == device).count();
        let free = (self.config.slots as usize).saturating_sub(self.sends.len());
        if to_peer >= self.config.slots_per_peer as usize
            || !self.turns.take(now.mono, ticket.party, free, self.config.busy_for)
        {
            self.shares.close(ticket.serial, bytes, 0);
            return Admission::Busy(self.config.busy_for);
        }
        let id = SendId(self.next_send);
        self.next_send += 1;
        let send = Send { device, item, chunk: index, ticket: ticket.serial, party: ticket.party, bytes };
        self.sends.insert(id, send);
        Admission::Serve(Some(id))
    }

    /// A chunk has left, whole or in part; what was not sent is given back to the ticket's share.
    pub fn handle_sent(&mut self, now: Mono, id: SendId, sent: u64) {
        let Some(send) = self.sends.remove(&id) else { return };
        self.turns.give_back(send.party);
        if self.config.is_seed {
            self.shares.close(send.ticket, send.bytes, sent);
            // A line that breaks early is bad luck; who breaks it late has had the chunk.
            if sent >= send.bytes.div_ceil(2) {
                self.repeats.note(now, send.device, send.item, send.chunk);
            }
        }
        if sent == 0 {
            return;
        }
        self.sent_bytes += sent;
        let key = (send.item, send.device);
        if !self.ledger.contains_key(&key) {
            if self.log.len() >= LEDGER_MAX
                && let Some(oldest) = self.log.pop_front()
            {
                self.ledger.remove(&oldest);
            }
            self.log.push_back(key);
        }
        *self.ledger.entry(key).or_default() += sent;
    }

    /// Bytes sent since the start.
    pub fn sent_bytes(&self) -> u64 {
        self.sent_bytes
    }

    /// Chunks being sent.
    pub fn sending(&self) -> usize {
        self.sends.len()
    }

    /// What was sent since the last call, by item and counterpart.
    pub fn take_ledger(&mut self) -> Vec<(ItemId, DeviceId, u64)> {
        self.log.clear();
        std::mem::take(&mut self.ledger).into_iter().map(|((item, device), bytes)| (item, device, bytes)).collect()
    }

    /// What a seed tells its tracker about the shares of tickets: everything, or what has changed since.
    pub fn tell_shares(&mut self, now: Utc, tracker_up: bool, everything: bool) -> Told {
        self.shares.tell(now, tracker_up, everything)
    }

    /// Whether this device may ask about this item with this ticket at all. Changes nothing, and nothing about the
    /// item has to be known for it; [`Uploads::admit`] begins with the same.
    pub fn check(
        &self,
        now: Utc,
        device: DeviceId,
        item: ItemId,
        ticket: &Ticket,
        tracker_up: bool,
    ) -> Result<(), Refusal> {
        if self.revoked.contains(&device) {
            return Err(Refusal::Banned);
        }
        if ticket.device != device || ticket.item != item {
            return Err(Refusal::BadTicket);
        }
        // While the tracker is away nobody can get a fresh ticket, and what was begun shall be finished.
        let ends = if tracker_up { ticket.expires } else { ticket.expires + self.config.grace };
        if ends <= now { Err(Refusal::ExpiredTicket) } else { Ok(()) }
    }

    fn admit_small(&mut self, now: Mono, device: DeviceId) -> Admission {
        if now.since(self.small_since) >= SMALL_WINDOW || self.small.len() >= ASKERS_MAX {
            self.small.clear();
            self.small_since = now;
        }
        let asked = self.small.entry(device).or_default();
        *asked += 1;
        if *asked > SMALL_MAX { Admission::Busy(SMALL_WINDOW) } else { Admission::Serve(None) }
    }

    /// A manifest needs no slot, but it is payload: a seed counts it.
    fn admit_manifest(
        &mut self,
        now: Now,
        device: DeviceId,
        ticket: &Ticket,
        bytes: u64,
        tracker_up: bool,
    ) -> Admission {
        let admission = self.admit_small(now.mono, device);
        if !self.config.is_seed || !matches!(admission, Admission::Serve(_)) {
            return admission;
        }
        match self.shares.open(now.utc, ticket, bytes, tracker_up) {
            Ok(()) => {
                self.shares.close(ticket.serial, bytes, bytes);
                admission
            }
            Err(denied) => self.deny(denied),
        }
    }

    fn deny(&self, denied: Denied) -> Admission {
        match denied {
            Denied::NothingLeft => Admission::Refused(Refusal::OverBudget),
            Denied::NoRoom => Admission::Busy(self.config.busy_for),
        }
    }

    /// How often a device has been sent a chunk of late, or is being sent it.
    fn times(&self, now: Mono, device: DeviceId, item: ItemId, chunk: ChunkIndex) -> u32 {
        let same = |send: &&Send| send.device == device && send.item == item && send.chunk == chunk;
        let open = u32::try_from(self.sends.values().filter(same).count()).unwrap_or(u32::MAX);
        self.repeats.times(now, device, item, chunk).saturating_add(open)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::geometry::Geometry;
    use crate::ticket::{SeedShare, TicketClass};

    const MIB: u64 = 1 << 20;

    fn at(secs: u64) -> Now {
        Now::new(Mono::from_millis(secs * 1_000), Utc::from_secs(1_000_000 + secs))
    }

    fn device(n: u8) -> DeviceId {
        DeviceId::from_bytes([n; 32])
    }

    fn item() -> ItemId {
        ItemId::from_bytes([9; 32])
    }

    fn own() -> DeviceId {
        device(200)
    }

    fn uploads(config: Config) -> Uploads {
        Uploads::new(own(), 1, config)
    }

    fn seed() -> Uploads {
        uploads(Config { is_seed: true, ..Config::default() })
    }

    /// Another customer's for each device; 3 MiB from this seed.
    fn ticket(n: u8) -> Ticket {
        Ticket {
            device: device(n),
            item: item(),
            expires: at(100).utc,
            class: TicketClass::Queued,
            serial: n.into(),
            shares: vec![SeedShare { seed: own(), bytes: 3 * MIB, run: Some(1) }],
            shares_until: at(100).utc,
            party: n.into(),
        }
    }

    fn chunk(index: u32) -> Ask {
        let geometry = Geometry::of_sealed(100 * MIB).expect("a hundred chunks");
        Ask::Chunk { index: geometry.chunk(index).expect("one of them"), bytes: MIB }
    }

    fn ask(uploads: &mut Uploads, secs: u64, n: u8, index: u32) -> Admission {
        uploads.admit(at(secs), device(n), item(), chunk(index), &ticket(n), true)
    }

    fn served(admission: Admission) -> SendId {
        let Admission::Serve(Some(id)) = admission else { panic!("not served: {admission:?}") };
        id
    }

    #[test]
    fn a_revoked_device_is_refused_whatever_its_ticket_says() {
        let mut serving = uploads(Config::default());
        served(ask(&mut serving, 0, 1, 0));
        serving.handle_revoked(device(1));
        assert_eq!(ask(&mut serving, 1, 1, 1), Admission::Refused(Refusal::Banned));
        served(ask(&mut serving, 1, 2, 0));
    }

    #[test]
    fn a_ticket_serves_only_its_own_device_and_item() {
        let mut uploads = uploads(Config::default());
        let other = uploads.admit(at(1), device(2), item(), Ask::Small, &ticket(1), true);
        assert_eq!(other, Admission::Refused(Refusal::BadTicket));
        let item = ItemId::from_bytes([8; 32]);
        let other = uploads.admit(at(1), device(1), item, Ask::Small, &ticket(1), true);
        assert_eq!(other, Admission::Refused(Refusal::BadTicket));
    }

    #[test]
    fn an_expired_ticket_is_honoured_only_while_the_tracker_is_away() {
        let mut uploads = uploads(Config::default());
        let mut small = |secs, up| uploads.admit(at(secs), device(1), item(), Ask::Small, &ticket(1), up);
        assert_eq!(small(100, true), Admission::Refused(Refusal::ExpiredTicket));
        assert_eq!(small(100, false), Admission::Serve(None));
        assert_eq!(small(100 + 24 * 60 * 60, false), Admission::Refused(Refusal::ExpiredTicket));
    }

    #[test]
    fn one_peer_cannot_take_every_slot() {
        let mut uploads = uploads(Config { slots: 3, slots_per_peer: 2, ..Config::default() });
        let first = served(ask(&mut uploads, 1, 1, 0));
        served(ask(&mut uploads, 1, 1, 1));
        assert!(matches!(ask(&mut uploads, 1, 1, 2), Admission::Busy(_)));
        served(ask(&mut uploads, 1, 2, 0));
        assert!(matches!(ask(&mut uploads, 1, 3, 0), Admission::Busy(_)));
        uploads.handle_sent(at(1).mono, first, MIB);
        served(ask(&mut uploads, 1, 3, 0));
        assert_eq!(uploads.sending(), 3);
        assert_eq!(uploads.take_ledger(), [(item(), device(1), MIB)]);
    }

    #[test]
    fn customers_take_turns_when_there_are_more_askers_than_slots() {
        let mut uploads = uploads(Config { slots: 1, ..Config::default() });
        let mut greedy = served(ask(&mut uploads, 1, 1, 0));
        for round in 0..5 {
            assert!(matches!(ask(&mut uploads, 1, 2, round), Admission::Busy(_)));
            uploads.handle_sent(at(1).mono, greedy, MIB);
            assert!(matches!(ask(&mut uploads, 1, 1, round), Admission::Busy(_)), "it is the other one's turn");
            let modest = served(ask(&mut uploads, 1, 2, round));
            uploads.handle_sent(at(1).mono, modest, MIB);
            greedy = served(ask(&mut uploads, 1, 1, round));
        }
    }

    #[test]
    fn a_seed_gives_a_ticket_no_more_than_its_share_and_a_broken_send_does_not_count() {
        let mut uploads = seed();
        for index in 0..2 {
            let id = served(ask(&mut uploads, 1, 1, index));
            uploads.handle_sent(at(1).mono, id, MIB);
        }
        let broken = served(ask(&mut uploads, 1, 1, 2));
        assert_eq!(ask(&mut uploads, 1, 1, 3), Admission::Refused(Refusal::OverBudget));
        uploads.handle_sent(at(1).mono, broken, 0);
        served(ask(&mut uploads, 1, 1, 3));
        assert_eq!(uploads.sent_bytes(), 2 * MIB);
        let told = Told { uses: vec![(1, 2 * MIB)], settled_until: Some(at(2).utc) };
        assert_eq!(uploads.tell_shares(at(2).utc, true, false), told);
    }

    #[test]
    fn a_seed_sends_nothing_under_a_ticket_that_does_not_name_it() {
        let mut uploads = seed();
        let nameless = Ticket { shares: Vec::new(), ..ticket(1) };
        for ask in [chunk(0), Ask::Manifest(32)] {
            let refused = uploads.admit(at(1), device(1), item(), ask, &nameless, true);
            assert_eq!(refused, Admission::Refused(Refusal::OverBudget));
        }
        assert_eq!(uploads.admit(at(1), device(1), item(), Ask::Small, &nameless, true), Admission::Serve(None));
    }

    #[test]
    fn a_manifest_counts_against_the_share() {
        let mut uploads = seed();
        let whole = Ask::Manifest(3 * MIB);
        assert_eq!(uploads.admit(at(1), device(1), item(), whole, &ticket(1), true), Admission::Serve(None));
        assert_eq!(ask(&mut uploads, 1, 1, 0), Admission::Refused(Refusal::OverBudget));
    }

    #[test]
    fn the_same_chunk_goes_to_the_same_box_at_most_twice_an_hour() {
        let mut uploads = seed();
        let mut again = |secs, n, serial: u64, sent| {
            let ticket = Ticket { serial, expires: at(10_000).utc, shares_until: at(10_000).utc, ..ticket(n) };
            let admission = uploads.admit(at(secs), device(n), item(), chunk(0), &ticket, true);
            if let Admission::Serve(Some(id)) = admission {
                uploads.handle_sent(at(secs).mono, id, sent);
            }
            admission
        };
        served(again(1, 1, 11, 1));
        served(again(2, 1, 12, MIB));
        served(again(3, 1, 13, MIB));
        assert_eq!(again(4, 1, 14, MIB), Admission::Refused(Refusal::OverBudget));
        served(again(4, 2, 15, MIB));
        served(again(2 + 3_600, 1, 16, MIB));
    }

    #[test]
    fn ten_boxes_that_ask_for_one_chunk_for_ever_cost_a_seed_next_to_nothing() {
        let mut uploads = seed();
        let mut sent = 0;
        for secs in 1..=90 {
            for n in 1..=10 {
                let ticket = Ticket { serial: u64::from(n) * 1_000 + secs, ..ticket(n) };
                let admission = uploads.admit(at(secs), device(n), item(), chunk(0), &ticket, true);
                if let Admission::Serve(Some(id)) = admission {
                    uploads.handle_sent(at(secs).mono, id, MIB);
                    sent += MIB;
                }
            }
        }
        assert_eq!(sent, 10 * 2 * MIB);
    }

    #[test]
    fn a_box_does_not_count_against_the_ticket() {
        let mut uploads = uploads(Config::default());
        let nameless = Ticket { shares: Vec::new(), ..ticket(1) };
        for index in 0..10 {
            let id = served(uploads.admit(at(1), device(1), item(), chunk(index), &nameless, true));
            uploads.handle_sent(at(1).mono, id, MIB);
        }
    }

    #[test]
    fn a_device_that_sends_nothing_says_so() {
        let mut uploads = uploads(Config { slots: 0, ..Config::default() });
        assert_eq!(ask(&mut uploads, 1, 1, 0), Admission::Refused(Refusal::NotServing));
    }

    #[test]
    fn small_questions_are_rationed() {
        let mut uploads = uploads(Config::default());
        let mut small = |secs| uploads.admit(at(secs), device(1), item(), Ask::Small, &ticket(1), true);
        for _ in 0..SMALL_MAX {
            assert_eq!(small(50), Admission::Serve(None));
        }
        assert!(matches!(small(50), Admission::Busy(_)));
        assert_eq!(small(61), Admission::Serve(None));
    }
}
