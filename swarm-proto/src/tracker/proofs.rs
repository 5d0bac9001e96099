//! Whether devices hold what they say they hold.
//!
//! Two holders of a chunk are asked for its BLAKE3 hash, keyed with a nonce that nobody has seen before: only who has
//! the bytes can answer. The tracker has none, so it compares. Whoever stays silent, admits to hold nothing, or stands
//! alone with its answer is doubted, and what it holds of that item no longer counts until it has proven itself. When
//! two contradict one another a third decides; if there is none, a seed is believed before a box, and nobody else.
//! At most [`Config::checks_per_sec`] checks are begun, and one device answers one at a time. A device that fetches the
//! chunk from others in time passes: this finds lost and lying disks, not conspiracies.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use rand::RngExt as _;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng as _, SeedableRng as _};

use crate::bitmap::Holding;
use crate::geometry::ChunkIndex;
use crate::id::{DeviceId, ItemId};
use crate::membership::DeviceKind;
use crate::time::{Mono, Now};

/// Holdings looked at in one go while searching for one that is due.
const LOOKED_AT: usize = 256;

/// Witnesses looked at for one check.
const WITNESSES: usize = 64;

/// Between two looks when nothing was due.
const IDLE: Duration = Duration::from_secs(5);

/// How often and how patiently holdings are checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Checks begun in a second. Each costs two devices a read of one chunk.
    pub checks_per_sec: u32,
    /// How long a device may take to answer.
    pub deadline: Duration,
    /// How long a proof is good.
    pub proven_for: Duration,
    /// How long a doubted holding rests until it is asked again.
    pub retry_after: Duration,
    /// Holdings that are watched, about 100 bytes each; more are not, and count as not proven.
    pub max_watched: usize,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            checks_per_sec: 20,
            deadline: Duration::from_secs(15),
            proven_for: Duration::from_secs(86_400),
            retry_after: Duration::from_secs(3_600),
            max_watched: 500_000,
        }
    }
}

/// What is known of a holding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Its device says so.
    Claimed,
    /// Its device has answered for a random chunk of it, not too long ago.
    Proven,
    /// Its device has failed to.
    Doubted,
}

/// A question to a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Challenge {
    /// Names the answer.
    pub id: u64,
    /// Of which item.
    pub item: ItemId,
    /// Which chunk is to be hashed.
    pub chunk: ChunkIndex,
    /// The key of the hash.
    pub nonce: [u8; 32],
}

impl Challenge {
    /// The right answer of who has the chunk.
    pub fn answer(&self, chunk: &[u8]) -> [u8; 32] {
        *blake3::keyed_hash(&self.nonce, chunk).as_bytes()
    }
}

/// What the shell does next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Ask a device.
    Ask(DeviceId, Challenge),
    /// What this device says of this item counts no longer, or counts again.
    Judged {
        /// Who.
        device: DeviceId,
        /// Of what.
        item: ItemId,
        /// It is not believed.
        doubted: bool,
    },
}

/// A device that could answer.
#[derive(Debug, Clone)]
pub struct Holder {
    /// Who.
    pub device: DeviceId,
    /// What it is there for: seeds are the better witnesses.
    pub kind: DeviceKind,
    /// What it says to hold.
    pub holding: Holding,
}

/// What the machine must know of devices when it chooses whom to ask.
pub trait World {
    /// This device, if it is here and holds something of this item.
    fn holder_here(&self, device: &DeviceId, item: &ItemId) -> Option<Holder>;
    /// Some of those who are here and hold something of this item; a few dozen are enough.
    fn holders_here(&self, item: &ItemId) -> Vec<Holder>;
}

#[derive(Debug, Clone, Copy)]
struct Watched {
    standing: Standing,
    /// When it was last judged, or came to be watched.
    since: Mono,
}

/// A check under way: the first is the suspect, the others are witnesses.
#[derive(Debug)]
struct Check {
    item: ItemId,
    chunk: ChunkIndex,
    nonce: [u8; 32],
    asked: Vec<Asked>,
}

#[derive(Debug)]
struct Asked {
    device: DeviceId,
    kind: DeviceKind,
    until: Mono,
    answer: Option<Answer>,
}

/// What a device said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// This is the hash.
    Hash([u8; 32]),
    /// It does not hold the chunk, or not any more.
    NotHeld,
    /// It went away meanwhile: nothing follows from that.
    Gone,
}

/// The machine. One per tracker.
#[derive(Debug)]
pub struct Proofs {
    config: Config,
    rng: ChaCha8Rng,
    watched: BTreeMap<(DeviceId, ItemId), Watched>,
    /// New ones, which are asked first.
    fresh: VecDeque<(DeviceId, ItemId)>,
    /// Where looking for due ones goes on.
    cursor: Option<(DeviceId, ItemId)>,
    checks: BTreeMap<u64, Check>,
    /// Who is being asked, in which check.
    busy: BTreeMap<DeviceId, u64>,
    last_id: u64,
    next_at: Option<Mono>,
    actions: VecDeque<Action>,
}

impl Proofs {
    /// Nothing is watched. Devices cannot foresee nonces while the seed is secret.
    pub fn new(seed: [u8; 32], config: Config) -> Proofs {
        Proofs {
            config,
            rng: ChaCha8Rng::from_seed(seed),
            watched: BTreeMap::new(),
            fresh: VecDeque::new(),
            cursor: None,
            checks: BTreeMap::new(),
            busy: BTreeMap::new(),
            last_id: 0,
            next_at: None,
            actions: VecDeque::new(),
        }
    }

    /// This holding counts as coverage: it is to be proven.
    pub fn handle_watched(&mut self, now: Now, device: DeviceId, item: ItemId) {
        if self.watched.contains_key(&(device, item)) || self.watched.len() >= self.config.max_watched {
            return;
        }
        self.watched.insert((device, item), Watched { standing: Standing::Claimed, since: now.mono });
        self.fresh.push_back((device, item));
        self.next_at = Some(self.next_at.map_or(now.mono, |at| at.min(now.mono + self.pace())));
    }

    /// This holding is gone, or does not count any more.
    pub fn handle_unwatched(&mut self, device: DeviceId, item: ItemId) {
        if self.watched.remove(&(device, item)).is_some_and(|it| it.standing == Standing::Doubted) {
            self.actions.push_back(Action::Judged { device, item, doubted: false });
        }
    }

    /// A device has gone. It owes no answer.
    pub fn handle_departed(&mut self, now: Now, device: DeviceId) {
        if let Some(check) = self.busy.get(&device).copied() {
            self.handle_answer(now, device, check, Answer::Gone);
        }
    }

    /// A device has answered. What nobody asked is ignored.
    pub fn handle_answer(&mut self, now: Now, device: DeviceId, id: u64, answer: Answer) {
        if self.busy.get(&device) != Some(&id) {
            return;
        }
        self.busy.remove(&device);
        let check = self.checks.get_mut(&id).expect("a busy device is in a check");
        let asked = check.asked.iter_mut().find(|it| it.device == device).expect("a busy device was asked");
        asked.answer = Some(answer);
        self.conclude_if_answered(now, id);
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Now, world: &impl World) {
        let late: Vec<(DeviceId, u64)> = self.busy.iter().map(|(device, id)| (*device, *id)).collect();
        for (device, id) in late {
            let is_late = |it: &&Asked| it.device == device && it.until <= now.mono;
            if self.checks.get(&id).is_some_and(|check| check.asked.iter().any(|it| is_late(&it))) {
                self.handle_answer(now, device, id, Answer::NotHeld);
            }
        }
        self.ask_third_witnesses(now, world);
        if self.next_at.is_some_and(|at| at <= now.mono) {
            let begun = self.begin_one(now, world);
            let wait = if begun || !self.fresh.is_empty() { self.pace() } else { IDLE };
            self.next_at = (!self.watched.is_empty()).then(|| now.mono + wait);
        }
    }

    /// When to call [`Proofs::handle_timeout`].
    pub fn poll_timeout(&self) -> Option<Mono> {
        let open = self.checks.values().flat_map(|check| &check.asked).filter(|it| it.answer.is_none());
        let deadlines = open.map(|it| it.until);
        let undecided = self.checks.values().any(Check::needs_a_third).then_some(Mono::ZERO);
        deadlines.chain(self.next_at).chain(undecided).min()
    }

    /// What to do next.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// What is known of a holding.
    pub fn standing(&self, now: Now, device: &DeviceId, item: &ItemId) -> Standing {
        match self.watched.get(&(*device, *item)) {
            Some(Watched { standing: Standing::Proven, since }) if now.mono.since(*since) > self.config.proven_for => {
                Standing::Claimed
            }
            Some(watched) => watched.standing,
            None => Standing::Claimed,
        }
    }

    fn pace(&self) -> Duration {
        Duration::from_secs(1) / self.config.checks_per_sec.max(1)
    }

    /// Asks about a new holding, or about the next one that is due.
    fn begin_one(&mut self, now: Now, world: &impl World) -> bool {
        for _ in 0..self.fresh.len().min(LOOKED_AT) {
            let (device, item) = self.fresh.pop_front().expect("not more than there are");
            if !self.watched.get(&(device, item)).is_some_and(|it| it.standing == Standing::Claimed) {
                continue;
            }
            if self.begin(now, world, device, item) {
                return true;
            }
        }
        for _ in 0..self.watched.len().min(LOOKED_AT) {
            let after = self.cursor.map_or(std::ops::Bound::Unbounded, std::ops::Bound::Excluded);
            let next = self.watched.range((after, std::ops::Bound::Unbounded)).next();
            let Some((&(device, item), watched)) = next else {
                self.cursor = None;
                continue;
            };
            self.cursor = Some((device, item));
            let age = now.mono.since(watched.since);
            let due = match watched.standing {
                Standing::Claimed => true,
                // Asked again before the proof is old.
                Standing::Proven => age >= self.config.proven_for / 2,
                Standing::Doubted => age >= self.config.retry_after,
            };
            if due && self.begin(now, world, device, item) {
                return true;
            }
        }
        false
    }

    /// Asks a device and a witness about a chunk that both say to hold; false if that cannot be done now.
    fn begin(&mut self, now: Now, world: &impl World, device: DeviceId, item: ItemId) -> bool {
        let Some(suspect) = world.holder_here(&device, &item).filter(|_| !self.busy.contains_key(&device)) else {
            return false;
        };
        let holders = world.holders_here(&item);
        let others =
            holders.iter().filter(|it| it.device != device && it.holding.n_chunks() == suspect.holding.n_chunks());
        let mut best: Option<(&Holder, Holding)> = None;
        for other in others.take(WITNESSES) {
            let is_free = !self.busy.contains_key(&other.device) && !self.is_doubted(&other.device, &item);
            let both = suspect.holding.intersection(&other.holding);
            if !is_free || both.is_empty() {
                continue;
            }
            let better = |best: &Holder| best.kind != DeviceKind::Seed && other.kind == DeviceKind::Seed;
            if best.as_ref().is_none_or(|(best, _)| better(best)) {
                best = Some((other, both));
            }
        }
        let Some((witness, both)) = best else { return false };
        let nth = self.rng.random_range(0..both.len());
        let chunk = both.iter().nth(nth as usize).expect("there are that many");
        let mut nonce = [0; 32];
        self.rng.fill_bytes(&mut nonce);
        self.last_id += 1;
        let id = self.last_id;
        self.checks.insert(id, Check { item, chunk, nonce, asked: Vec::new() });
        self.ask(now, id, device, suspect.kind);
        self.ask(now, id, witness.device, witness.kind);
        true
    }

    fn ask(&mut self, now: Now, id: u64, device: DeviceId, kind: DeviceKind) {
        let check = self.checks.get_mut(&id).expect("a check that is under way");
        check.asked.push(Asked { device, kind, until: now.mono + self.config.deadline, answer: None });
        let challenge = Challenge { id, item: check.item, chunk: check.chunk, nonce: check.nonce };
        self.busy.insert(device, id);
        self.actions.push_back(Action::Ask(device, challenge));
    }

    /// Two have contradicted one another: somebody else decides, if there is anybody.
    fn ask_third_witnesses(&mut self, now: Now, world: &impl World) {
        let torn: Vec<u64> = self.checks.iter().filter(|(_, check)| check.needs_a_third()).map(|(id, _)| *id).collect();
        for id in torn {
            let check = &self.checks[&id];
            let asked: BTreeSet<DeviceId> = check.asked.iter().map(|it| it.device).collect();
            let third = world.holders_here(&check.item).into_iter().find(|it| {
                let is_free = !asked.contains(&it.device) && !self.busy.contains_key(&it.device);
                is_free && it.holding.contains(check.chunk) && !self.is_doubted(&it.device, &check.item)
            });
            match third.map(|it| (it.device, it.kind)) {
                Some((device, kind)) => self.ask(now, id, device, kind),
                None => self.conclude(now, id),
            }
        }
    }

    fn conclude_if_answered(&mut self, now: Now, id: u64) {
        let check = &self.checks[&id];
        let all_said = check.asked.iter().all(|it| it.answer.is_some());
        if all_said && !check.needs_a_third() {
            self.conclude(now, id);
        }
    }

    fn conclude(&mut self, now: Now, id: u64) {
        let check = self.checks.remove(&id).expect("a check that is under way");
        let truth = check.truth();
        for asked in &check.asked {
            let judgement = match (asked.answer, truth) {
                (Some(Answer::Gone) | None, _) => continue,
                (Some(Answer::NotHeld), _) => Standing::Doubted,
                (Some(Answer::Hash(hash)), Some(truth)) if hash == truth => Standing::Proven,
                (Some(Answer::Hash(_)), Some(_)) => Standing::Doubted,
                // Nobody to compare with.
                (Some(Answer::Hash(_)), None) if check.hashes().count() < 2 => continue,
                (Some(Answer::Hash(_)), None) => Standing::Doubted,
            };
            self.judge(now, asked.device, check.item, judgement);
        }
    }

    /// Only holdings that are watched are judged: a witness that is not counts nowhere.
    fn judge(&mut self, now: Now, device: DeviceId, item: ItemId, standing: Standing) {
        let Some(watched) = self.watched.get_mut(&(device, item)) else { return };
        let before = std::mem::replace(watched, Watched { standing, since: now.mono }).standing;
        let doubted = standing == Standing::Doubted;
        if doubted != (before == Standing::Doubted) {
            self.actions.push_back(Action::Judged { device, item, doubted });
        }
    }

    fn is_doubted(&self, device: &DeviceId, item: &ItemId) -> bool {
        self.watched.get(&(*device, *item)).is_some_and(|it| it.standing == Standing::Doubted)
    }
}

impl Check {
    fn hashes(&self) -> impl Iterator<Item = (&Asked, [u8; 32])> {
        self.asked.iter().filter_map(|it| match it.answer {
            Some(Answer::Hash(hash)) => Some((it, hash)),
            _ => None,
        })
    }

    /// Two have answered, and differently.
    fn needs_a_third(&self) -> bool {
        let all_said = self.asked.iter().all(|it| it.answer.is_some());
        let hashes: Vec<[u8; 32]> = self.hashes().map(|(_, hash)| hash).collect();
        self.asked.len() == 2 && all_said && hashes.len() == 2 && hashes[0] != hashes[1]
    }

    /// What two agree on; else what a seed says, if only one seed says something and the others are boxes.
    fn truth(&self) -> Option<[u8; 32]> {
        let hashes: Vec<(&Asked, [u8; 32])> = self.hashes().collect();
        for (at, (_, hash)) in hashes.iter().enumerate() {
            if hashes[at + 1..].iter().any(|(_, other)| other == hash) {
                return Some(*hash);
            }
        }
        let mut seeds = hashes.iter().filter(|(asked, _)| asked.kind == DeviceKind::Seed);
        match (seeds.next(), seeds.next(), hashes.len()) {
            (Some((_, hash)), None, 2..) => Some(*hash),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests;
