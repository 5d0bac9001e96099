//! Decides which request of another device is served now.
//!
//! Nobody is served who has no valid ticket; nobody gets more than a few chunks at a time; a seed gives each ticket no
//! more bytes than it allows. Who is turned away for now is told when to come back. The shell says what a ticket is
//! worth and whether a chunk is held; bytes and signatures never come here.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use crate::id::{DeviceId, ItemId};
use crate::limit::Limit;
use crate::ticket::Ticket;
use crate::time::{Mono, Now, Utc};
use crate::wire::Refusal;

/// Tickets whose use is counted at a time; the one that ends first gives way.
const TICKETS_MAX: usize = 16_384;
/// Manifests and holdings one peer may ask for in one [`SMALL_WINDOW`].
const SMALL_MAX: u32 = 64;
const SMALL_WINDOW: Duration = Duration::from_secs(10);
/// Peers whose small questions are counted at a time.
const ASKERS_MAX: usize = 4_096;

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
    /// This device is a seed: it counts bytes against tickets.
    pub is_seed: bool,
    /// How long a ticket is honoured beyond its end while the tracker is away and nobody can get a new one.
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
    /// Manifest or holding.
    Small,
    /// A chunk of this many bytes.
    Chunk(u64),
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
    /// Bytes given by ticket, and when the ticket ends.
    used: BTreeMap<(DeviceId, u64), Used>,
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
    ticket: u64,
    bytes: u64,
}

#[derive(Debug)]
struct Used {
    bytes: u64,
    ends: Utc,
}

/// Rows of [`Uploads::take_ledger`] kept at most; the oldest are added up by the caller more often than that.
const LEDGER_MAX: usize = 1_000;

impl Uploads {
    /// A device that gives nothing yet.
    pub fn new(config: Config) -> Self {
        Self {
            config,
            sends: BTreeMap::new(),
            next_send: 0,
            used: BTreeMap::new(),
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
        let Ask::Chunk(bytes) = ask else { return self.admit_small(now.mono, device) };
        if self.config.slots == 0 {
            return Admission::Refused(Refusal::NotServing);
        }
        let used = self.used.get(&(device, ticket.serial)).map_or(0, |used| used.bytes);
        if let (true, Limit::Of(max)) = (self.config.is_seed, ticket.seed_bytes_max)
            && used + bytes > max
        {
            return Admission::Refused(Refusal::OverBudget);
        }
        let to_peer = self.sends.values().filter(|send| send.device == device).count();
        if self.sends.len() >= self.config.slots as usize || to_peer >= self.config.slots_per_peer as usize {
            return Admission::Busy(self.config.busy_for);
        }
        self.count(device, ticket, bytes);
        let id = SendId(self.next_send);
        self.next_send += 1;
        self.sends.insert(id, Send { device, item, ticket: ticket.serial, bytes });
        Admission::Serve(Some(id))
    }

    /// A chunk has left, whole or in part; what was not sent is given back to the ticket.
    pub fn handle_sent(&mut self, id: SendId, sent: u64) {
        let Some(send) = self.sends.remove(&id) else { return };
        if let Some(used) = self.used.get_mut(&(send.device, send.ticket)) {
            used.bytes -= send.bytes.saturating_sub(sent).min(used.bytes);
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

    fn count(&mut self, device: DeviceId, ticket: &Ticket, bytes: u64) {
        let key = (device, ticket.serial);
        if !self.used.contains_key(&key) && self.used.len() >= TICKETS_MAX {
            let first = self.used.iter().min_by_key(|(_, used)| used.ends).map(|(&key, _)| key);
            if let Some(first) = first {
                self.used.remove(&first);
            }
        }
        let used = self.used.entry(key).or_insert(Used { bytes: 0, ends: ticket.expires });
        used.bytes += bytes;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ticket::TicketClass;

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

    fn ticket(n: u8) -> Ticket {
        Ticket {
            device: device(n),
            item: item(),
            expires: at(100).utc,
            seed_bytes_max: Limit::Of(3 * MIB),
            class: TicketClass::Queued,
            serial: 1,
        }
    }

    fn ask(uploads: &mut Uploads, secs: u64, n: u8) -> Admission {
        uploads.admit(at(secs), device(n), item(), Ask::Chunk(MIB), &ticket(n), true)
    }

    fn served(admission: Admission) -> SendId {
        let Admission::Serve(Some(id)) = admission else { panic!("not served: {admission:?}") };
        id
    }

    #[test]
    fn a_revoked_device_is_refused_whatever_its_ticket_says() {
        let mut uploads = Uploads::new(Config::default());
        served(ask(&mut uploads, 0, 1));
        uploads.handle_revoked(device(1));
        assert_eq!(ask(&mut uploads, 1, 1), Admission::Refused(Refusal::Banned));
        served(ask(&mut uploads, 1, 2));
    }

    #[test]
    fn a_ticket_serves_only_its_own_device_and_item() {
        let mut uploads = Uploads::new(Config::default());
        let other = uploads.admit(at(1), device(2), item(), Ask::Small, &ticket(1), true);
        assert_eq!(other, Admission::Refused(Refusal::BadTicket));
        let item = ItemId::from_bytes([8; 32]);
        let other = uploads.admit(at(1), device(1), item, Ask::Small, &ticket(1), true);
        assert_eq!(other, Admission::Refused(Refusal::BadTicket));
    }

    #[test]
    fn an_expired_ticket_is_honoured_only_while_the_tracker_is_away() {
        let mut uploads = Uploads::new(Config::default());
        let mut small = |secs, up| uploads.admit(at(secs), device(1), item(), Ask::Small, &ticket(1), up);
        assert_eq!(small(100, true), Admission::Refused(Refusal::ExpiredTicket));
        assert_eq!(small(100, false), Admission::Serve(None));
        assert_eq!(small(100 + 24 * 60 * 60, false), Admission::Refused(Refusal::ExpiredTicket));
    }

    #[test]
    fn one_peer_cannot_take_every_slot() {
        let mut uploads = Uploads::new(Config { slots: 3, slots_per_peer: 2, ..Config::default() });
        let first = served(ask(&mut uploads, 1, 1));
        served(ask(&mut uploads, 1, 1));
        assert!(matches!(ask(&mut uploads, 1, 1), Admission::Busy(_)));
        served(ask(&mut uploads, 1, 2));
        assert!(matches!(ask(&mut uploads, 1, 3), Admission::Busy(_)));
        uploads.handle_sent(first, MIB);
        served(ask(&mut uploads, 1, 3));
        assert_eq!(uploads.sending(), 3);
        assert_eq!(uploads.take_ledger(), [(item(), device(1), MIB)]);
    }

    #[test]
    fn a_seed_gives_a_ticket_no_more_than_it_allows_and_a_broken_send_does_not_count() {
        let mut uploads = Uploads::new(Config { is_seed: true, ..Config::default() });
        for _ in 0..2 {
            let id = served(ask(&mut uploads, 1, 1));
            uploads.handle_sent(id, MIB);
        }
        let broken = served(ask(&mut uploads, 1, 1));
        assert_eq!(ask(&mut uploads, 1, 1), Admission::Refused(Refusal::OverBudget));
        uploads.handle_sent(broken, 0);
        served(ask(&mut uploads, 1, 1));
        assert_eq!(uploads.sent_bytes(), 2 * MIB);
    }

    #[test]
    fn a_box_does_not_count_against_the_ticket() {
        let mut uploads = Uploads::new(Config::default());
        for _ in 0..10 {
            let id = served(ask(&mut uploads, 1, 1));
            uploads.handle_sent(id, MIB);
        }
    }

    #[test]
    fn a_device_that_sends_nothing_says_so() {
        let mut uploads = Uploads::new(Config { slots: 0, ..Config::default() });
        assert_eq!(ask(&mut uploads, 1, 1), Admission::Refused(Refusal::NotServing));
    }

    #[test]
    fn small_questions_are_rationed() {
        let mut uploads = Uploads::new(Config::default());
        let mut small = |secs| uploads.admit(at(secs), device(1), item(), Ask::Small, &ticket(1), true);
        for _ in 0..SMALL_MAX {
            assert_eq!(small(50), Admission::Serve(None));
        }
        assert!(matches!(small(50), Admission::Busy(_)));
        assert_eq!(small(61), Admission::Serve(None));
    }
}
