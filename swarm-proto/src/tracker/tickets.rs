//! Decides when a device gets a new ticket, and what the ticket lets seeds send.
//!
//! A ticket that still does is sent again as it is: renewing a plan costs no signature. What is watched and what is
//! queued have tickets of their own. What may be fetched only in a window has a ticket that ends soon after it. What seeds send under tickets is [`Origin`]'s to allow; what was sent is remembered
//! here only to know when a share runs out.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::geometry::CHUNK_BYTES;
use crate::id::{AccountId, DeviceId, ItemId};
use crate::membership::CLOCK_TOLERANCE;
use crate::signed::Signed;
use crate::ticket::{MAX_SHARES, Ticket, TicketClass};
use crate::time::Utc;
use crate::tracker::origin::{Asker, Origin, Want};

/// How long a ticket lasts, unless a window ends before.
pub const TICKET_LASTS: Duration = Duration::from_secs(24 * 3_600);

/// How long its shares last: long enough that a download under way is finished when the tracker goes away, short enough
/// that what is not used comes back within the hour.
pub const SHARES_LAST: Duration = Duration::from_secs(600);

/// How far ahead of its planned rate a device may take from a seed where there is a budget. With more, a few fast boxes
/// would hold an hour's budget that others could use.
const SHARE_AHEAD: Duration = Duration::from_secs(60);

/// But at least so much, so that slow devices need no new ticket for each chunk.
const SHARE_MIN_BYTES: u64 = 64 << 20;

/// A ticket allows this part of what is missing above it: chunks may have to be sent twice.
const SLACK_DIVISOR: u64 = 10;

/// Tickets that are remembered at a time; the one that was not asked for longest gives way, and costs a signature.
const LIVE_MAX: usize = 262_144;

/// Who asks for what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Who fetches.
    pub device: DeviceId,
    /// What.
    pub item: ItemId,
    /// Why.
    pub class: TicketClass,
    /// For whom.
    pub asker: Asker,
    /// What the device lacks of it.
    pub missing_bytes: u64,
    /// When the window ends in which it may be fetched.
    pub until: Option<Utc>,
}

impl Request {
    /// When its ticket ends. A window's is let run on by what clocks may differ: an uploader whose clock is ahead would
    /// else refuse what is still allowed.
    fn expires(&self, now: Utc) -> Utc {
        let day = now + TICKET_LASTS;
        self.until.map_or(day, |until| day.min(until + CLOCK_TOLERANCE))
    }

    /// Whether a ticket that ends then does for this request.
    fn does(&self, now: Utc, expires: Utc) -> bool {
        let wanted = self.expires(now);
        (self.until.is_none() || expires <= wanted) && expires >= wanted.min(now + TICKET_LASTS / 2)
    }
}

/// A seed that the device may need.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Source {
    /// Which.
    pub seed: DeviceId,
    /// Its run, if it has said.
    pub run: Option<u64>,
    /// What the plan takes from it.
    pub bytes_per_sec: u64,
}

/// What the device gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Issue {
    /// The ticket it has.
    Again(Signed<Ticket>),
    /// This one, once it is signed and its shares are written down: [`Tickets::handle_signed`] or
    /// [`Tickets::handle_unwritten`] follows.
    New(Ticket),
}

type Key = (DeviceId, ItemId, TicketClass);

/// The tickets that devices use now. One per tracker.
#[derive(Debug)]
pub struct Tickets {
    origin: Origin,
    live: BTreeMap<Key, Live>,
    by_serial: BTreeMap<u64, Key>,
    asked: BTreeSet<(Utc, Key)>,
    last_serial: u64,
    party_key: [u8; 32],
}

#[derive(Debug)]
struct Live {
    ticket: Ticket,
    signed: Signed<Ticket>,
    sent: BTreeMap<DeviceId, u64>,
    asked_at: Utc,
}

impl Live {
    /// What this seed may still send in this run of it.
    fn left(&self, source: &Source, now: Utc) -> u64 {
        let share = self.ticket.share_of(&source.seed).filter(|_| now < self.ticket.shares_until);
        let Some(share) = share.filter(|share| share.run.is_none() || share.run == source.run) else { return 0 };
        share.bytes.saturating_sub(self.sent.get(&source.seed).copied().unwrap_or(0))
    }
}

impl Tickets {
    /// No ticket yet. The key hides accounts in tickets; with another one at each start, nobody can follow a customer
    /// for long.
    pub fn new(origin: Origin, party_key: [u8; 32]) -> Tickets {
        Tickets {
            origin,
            live: BTreeMap::new(),
            by_serial: BTreeMap::new(),
            asked: BTreeSet::new(),
            last_serial: 0,
            party_key,
        }
    }

    /// What seeds may send, and have sent.
    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    /// The same, to be told what was written down and what is to be.
    pub fn origin_mut(&mut self) -> &mut Origin {
        &mut self.origin
    }

    /// The ticket for a plan: the one the device has, if its shares reach for the seeds of the plan, else a new one.
    ///
    /// Where it costs nothing, a new ticket also names spare seeds, so that the device may ask one when the tracker is
    /// away.
    pub fn issue(
        &mut self,
        now: Utc,
        request: &Request,
        planned: &[Source],
        spare: impl FnOnce() -> Vec<Source>,
    ) -> Issue {
        self.forget_idle(now);
        let key = (request.device, request.item, request.class);
        let limited = !self.origin.budget(&request.asker.site).is_unlimited();
        let mut wants = wants(request, planned, limited);
        let expires = request.expires(now);
        let does = |live: &&Live| request.does(now, live.ticket.expires);
        if let Some(live) = self.live.get(&key).filter(does) {
            // Shares of a window's ticket end with it, however soon that is.
            let is_fresh = live.ticket.shares_until >= expires.min(now + SHARES_LAST / 2);
            let reaches = |source: &Source| {
                let wanted = wants.iter().find(|want| want.seed == source.seed).map_or(0, |want| want.bytes);
                live.left(source, now) >= wanted.div_ceil(2)
            };
            // Without a seed in the plan, shares are only a reserve, which no budget has room for.
            if (is_fresh && planned.iter().all(reaches)) || (limited && planned.is_empty()) {
                return Issue::Again(self.touch(now, key));
            }
        }
        if !limited {
            wants = self::wants(request, &[planned, &spare()].concat(), limited);
        }
        let serial = (self.last_serial + 1).max(now.as_millis());
        let until = expires.min(now + SHARES_LAST);
        let shares = self.origin.grant(now, serial, &request.asker, until, &wants);
        if shares.is_empty() && self.live.get(&key).is_some_and(|live| request.does(now, live.ticket.expires)) {
            return Issue::Again(self.touch(now, key));
        }
        self.last_serial = serial;
        Issue::New(Ticket {
            device: request.device,
            item: request.item,
            class: request.class,
            expires,
            serial,
            shares,
            shares_until: until,
            party: self.party_of(&request.asker.account),
        })
    }

    /// A ticket has been signed, and its shares are written down.
    pub fn handle_signed(&mut self, now: Utc, ticket: Ticket, signed: Signed<Ticket>) {
        let key = (ticket.device, ticket.item, ticket.class);
        self.forget(&key);
        if self.live.len() >= LIVE_MAX
            && let Some((_, longest)) = self.asked.first().copied()
        {
            self.forget(&longest);
        }
        self.by_serial.insert(ticket.serial, key);
        self.asked.insert((now, key));
        self.live.insert(key, Live { ticket, signed, sent: BTreeMap::new(), asked_at: now });
    }

    /// A ticket could not be written down: nobody has it.
    pub fn handle_unwritten(&mut self, serial: u64) {
        self.origin.handle_unwritten(serial);
    }

    /// A seed says how much it has sent under a share by now.
    pub fn handle_used(&mut self, now: Utc, seed: DeviceId, serial: u64, sent: u64) {
        self.origin.handle_used(now, seed, serial, sent);
        let live = self.by_serial.get(&serial).and_then(|key| self.live.get_mut(key));
        if let Some(live) = live.filter(|live| live.ticket.share_of(&seed).is_some()) {
            let known = live.sent.entry(seed).or_default();
            *known = sent.max(*known);
        }
    }

    /// Whether a seed may send something under the ticket that the device has.
    pub fn may_send(&self, now: Utc, request: &Request, source: &Source) -> bool {
        let live = self.live.get(&(request.device, request.item, request.class));
        live.is_some_and(|live| live.left(source, now) > 0)
    }

    /// Stands for a customer in tickets.
    fn party_of(&self, account: &AccountId) -> u64 {
        let hash = blake3::keyed_hash(&self.party_key, account.as_bytes());
        let (first, _) = hash.as_bytes().split_first_chunk().expect("a hash has 32 bytes");
        u64::from_be_bytes(*first).max(1)
    }

    fn touch(&mut self, now: Utc, key: Key) -> Signed<Ticket> {
        let live = self.live.get_mut(&key).expect("a live ticket is touched");
        self.asked.remove(&(live.asked_at, key));
        live.asked_at = now;
        self.asked.insert((now, key));
        live.signed.clone()
    }

    fn forget_idle(&mut self, now: Utc) {
        while let Some((asked_at, key)) = self.asked.first().copied()
            && asked_at + SHARES_LAST <= now
        {
            self.forget(&key);
        }
    }

    fn forget(&mut self, key: &Key) {
        if let Some(live) = self.live.remove(key) {
            self.asked.remove(&(live.asked_at, *key));
            self.by_serial.remove(&live.ticket.serial);
        }
    }
}

/// What each seed should be let send: where there is a budget, its part of what is missing and a little, and no further
/// ahead than is good for others; else all of it.
fn wants(request: &Request, sources: &[Source], limited: bool) -> Vec<Want> {
    let most = request.missing_bytes.saturating_add(request.missing_bytes / SLACK_DIVISOR);
    let all: u128 = sources.iter().map(|source| u128::from(source.bytes_per_sec)).sum();
    let mut left = most;
    let mut wants: Vec<Want> = Vec::new();
    for source in sources {
        if wants.len() == MAX_SHARES || wants.iter().any(|want| want.seed == source.seed) {
            continue;
        }
        let mut bytes = most;
        if limited {
            let part = u128::from(most) * u128::from(source.bytes_per_sec) / all.max(1);
            let part = u64::try_from(part).unwrap_or(u64::MAX).max(CHUNK_BYTES);
            let ahead = source.bytes_per_sec.saturating_mul(SHARE_AHEAD.as_secs()).max(SHARE_MIN_BYTES);
            bytes = part.min(ahead).min(left);
            left -= bytes;
        }
        if bytes > 0 {
            wants.push(Want { seed: source.seed, run: source.run, bytes });
        }
    }
    wants
}

#[cfg(test)]
mod tests {
    use rand_chacha::ChaCha20Rng;
    use rand_chacha::rand_core::SeedableRng as _;

    use super::*;
    use crate::id::{AccountId, SiteId};
    use crate::limit::Limit;
    use crate::signed::SigningKey;
    use crate::tracker::origin::Config;

    const MIB: u64 = 1 << 20;
    const FILM: u64 = 1_000 * MIB;

    struct Desk {
        tickets: Tickets,
        key: SigningKey,
    }

    impl Desk {
        fn new(bytes_per_hour: Limit<u64>) -> Desk {
            let origin = Origin::new(Config { bytes_per_hour, ..Config::default() });
            Desk {
                tickets: Tickets::new(origin, [5; 32]),
                key: SigningKey::generate(&mut ChaCha20Rng::seed_from_u64(1)),
            }
        }

        /// The ticket, and whether it is a new one.
        fn ask(&mut self, secs: u64, request: &Request, sources: &[Source]) -> (Ticket, bool) {
            let (planned, spare): (Vec<Source>, Vec<Source>) = sources.iter().partition(|it| it.bytes_per_sec > 0);
            match self.tickets.issue(at(secs), request, &planned, || spare) {
                Issue::Again(signed) => (signed.verify(&self.key.server_id()).unwrap(), false),
                Issue::New(ticket) => {
                    let signed = Signed::sign(&self.key, &ticket).unwrap();
                    self.tickets.handle_signed(at(secs), ticket.clone(), signed);
                    (ticket, true)
                }
            }
        }
    }

    fn at(secs: u64) -> Utc {
        Utc::from_secs(3_600_000 + secs)
    }

    fn request(missing_bytes: u64) -> Request {
        Request {
            device: DeviceId::from_bytes([1; 32]),
            item: ItemId::from_bytes([2; 32]),
            class: TicketClass::Queued,
            asker: Asker { account: AccountId::from_bytes([3; 16]), site: SiteId::new("north").unwrap() },
            missing_bytes,
            until: None,
        }
    }

    fn planned(n: u8) -> Source {
        Source { seed: DeviceId::from_bytes([n; 32]), run: Some(1), bytes_per_sec: MIB }
    }

    fn spare(n: u8) -> Source {
        Source { bytes_per_sec: 0, ..planned(n) }
    }

    fn total_bytes(ticket: &Ticket) -> u64 {
        ticket.shares.iter().map(|share| share.bytes).sum()
    }

    #[test]
    fn a_ticket_that_still_does_is_sent_again_as_it_is() {
        let mut desk = Desk::new(Limit::Unlimited);
        let (first, _) = desk.ask(0, &request(FILM), &[planned(10)]);
        assert_eq!(desk.ask(5, &request(FILM / 2), &[planned(10)]), (first.clone(), false));
        assert_eq!(desk.ask(10, &request(FILM / 2), &[]), (first.clone(), false));
        let (second, new) = desk.ask(311, &request(FILM / 2), &[planned(10)]);
        assert!(new && second.serial > first.serial);
        assert!(desk.ask(312, &request(FILM / 2), &[planned(10), planned(11)]).1, "another seed has joined");
    }

    #[test]
    fn the_reserve_is_renewed_also_while_boxes_do_everything() {
        let mut desk = Desk::new(Limit::Unlimited);
        let (first, _) = desk.ask(0, &request(FILM), &[spare(10)]);
        assert_eq!(first.shares.len(), 1);
        assert!(!desk.ask(299, &request(FILM), &[spare(10)]).1);
        assert!(desk.ask(301, &request(FILM), &[spare(10)]).1);
    }

    #[test]
    fn a_ticket_with_little_left_in_a_share_is_replaced() {
        let mut desk = Desk::new(Limit::Of(10 * FILM));
        let (first, _) = desk.ask(0, &request(FILM), &[planned(10)]);
        assert_eq!(total_bytes(&first), 64 * MIB);
        desk.tickets.handle_used(at(1), planned(10).seed, first.serial, 30 * MIB);
        assert!(!desk.ask(1, &request(FILM), &[planned(10)]).1);
        desk.tickets.handle_used(at(2), planned(10).seed, first.serial, 40 * MIB);
        assert!(desk.ask(2, &request(FILM), &[planned(10)]).1);
        let restarted = Source { run: Some(2), ..planned(10) };
        let (third, new) = desk.ask(3, &request(FILM), &[restarted]);
        assert_eq!((third.shares[0].run, new), (Some(2), true));
    }

    #[test]
    fn shares_are_never_more_than_what_is_missing_and_a_tenth() {
        let mut desk = Desk::new(Limit::Of(10 * FILM));
        let fast = Source { bytes_per_sec: FILM, ..planned(10) };
        let (ticket, _) = desk.ask(0, &request(100 * MIB), &[fast, planned(11)]);
        assert_eq!(total_bytes(&ticket), 110 * MIB);
    }

    #[test]
    fn seeds_outside_the_plan_are_named_only_where_it_costs_nothing() {
        let names = |limit| {
            let (ticket, _) = Desk::new(limit).ask(0, &request(FILM), &[planned(10), spare(11)]);
            ticket.shares.iter().map(|share| share.seed.as_bytes()[0]).collect::<Vec<_>>()
        };
        assert_eq!(names(Limit::Unlimited), [10, 11]);
        assert_eq!(names(Limit::Of(FILM)), [10]);
    }

    #[test]
    fn watching_and_queueing_have_tickets_of_their_own() {
        let mut desk = Desk::new(Limit::Unlimited);
        let (queued, _) = desk.ask(0, &request(FILM), &[]);
        let playing = Request { class: TicketClass::Playing, ..request(FILM) };
        let (playing, new) = desk.ask(1, &playing, &[]);
        assert_eq!((playing.class, new), (TicketClass::Playing, true));
        assert_eq!(desk.ask(2, &request(FILM), &[]), (queued, false));
    }

    #[test]
    fn a_ticket_for_a_window_ends_soon_after_it() {
        let mut desk = Desk::new(Limit::Unlimited);
        let until = |secs| Request { until: Some(at(secs)), ..request(FILM) };
        let (first, _) = desk.ask(0, &until(60), &[planned(10)]);
        assert_eq!(first.expires, at(60) + CLOCK_TOLERANCE);
        assert_eq!(first.shares_until, first.expires);
        assert_eq!(desk.ask(55, &until(60), &[planned(10)]), (first.clone(), false));

        let (longer, new) = desk.ask(56, &until(7_200), &[planned(10)]);
        assert!(new && longer.expires == at(7_200) + CLOCK_TOLERANCE, "the window was made longer");
        let (shorter, new) = desk.ask(57, &until(300), &[planned(10)]);
        assert!(new && shorter.expires < longer.expires, "and shorter");
        let (day, new) = desk.ask(58, &request(FILM), &[planned(10)]);
        assert_eq!((day.expires, new), (at(58) + TICKET_LASTS, true), "and taken away");
        let far = Request { until: Some(at(58) + 2 * TICKET_LASTS), ..request(FILM) };
        assert_eq!(desk.ask(59, &far, &[planned(10)]), (day, false), "a window of days is no reason for a new one");
    }

    #[test]
    fn when_nothing_is_left_of_the_hour_the_old_ticket_is_sent_again() {
        let mut desk = Desk::new(Limit::Of(64 * MIB));
        let (first, _) = desk.ask(0, &request(FILM), &[planned(10)]);
        desk.tickets.handle_used(at(1), planned(10).seed, first.serial, 64 * MIB);
        assert_eq!(desk.ask(1, &request(FILM), &[planned(10)]), (first, false));
        assert!(!desk.tickets.may_send(at(1), &request(FILM), &planned(10)));
        assert!(desk.ask(3_600, &request(FILM), &[planned(10)]).1);
        assert!(desk.tickets.may_send(at(3_600), &request(FILM), &planned(10)));
    }

    #[test]
    fn a_site_whose_budget_is_zero_gets_tickets_without_seeds() {
        let mut desk = Desk::new(Limit::Of(0));
        let (ticket, new) = desk.ask(0, &request(FILM), &[planned(10)]);
        assert_eq!((ticket.shares, new), (Vec::new(), true));
        assert!(!desk.ask(1, &request(FILM), &[planned(10)]).1);
    }

    #[test]
    fn devices_of_a_customer_are_one_party_that_does_not_tell_the_account() {
        let mut desk = Desk::new(Limit::Unlimited);
        let second = Request { device: DeviceId::from_bytes([9; 32]), ..request(FILM) };
        let stranger = Asker { account: AccountId::from_bytes([4; 16]), ..request(FILM).asker };
        let stranger = Request { device: DeviceId::from_bytes([8; 32]), asker: stranger, ..request(FILM) };
        let parties = [request(FILM), second, stranger].map(|request| desk.ask(0, &request, &[]).0.party);
        assert_eq!(parties[0], parties[1]);
        assert_ne!(parties[0], parties[2]);
        assert_ne!(parties[0], u64::from_be_bytes([3; 8]));
    }

    #[test]
    fn a_ticket_that_nobody_asks_for_is_forgotten() {
        let mut desk = Desk::new(Limit::Unlimited);
        desk.ask(0, &request(FILM), &[]);
        desk.tickets.forget_idle(at(599));
        assert_eq!((desk.tickets.live.len(), desk.tickets.by_serial.len()), (1, 1));
        desk.tickets.forget_idle(at(600));
        assert_eq!((desk.tickets.live.len(), desk.tickets.by_serial.len(), desk.tickets.asked.len()), (0, 0, 0));
    }
}
