//! Chooses the next chunk of one item to ask of one source.
//!
//! A chunk is in exactly one state: have, wanted, in flight or skipped; only methods of [`Picker`] move it. Never sees
//! bytes or sockets, and knows nothing of time: callers say what a source holds and what may be taken from it.
//!
//! Order of choice: what is about to be played, by position; what the plan gave this source; what nobody else is about
//! to take; and among equals the rarest, ties by lot.

use std::ops::Range;

use rand::RngExt;
use rand_chacha::ChaCha8Rng;

use super::chunk_set::ChunkSet;

/// Where a chunk is on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// Verified and written.
    Have,
    /// To be asked for.
    Wanted,
    /// Asked for, or on its way to the disk.
    InFlight,
    /// Not to be fetched.
    Skipped,
}

/// What matters when choosing for one source.
#[derive(Debug, Clone)]
pub struct Offer<'a> {
    /// What the source holds, as far as we know.
    pub holding: &'a ChunkSet,
    /// What the plan would have it send first.
    pub portions: Option<&'a ChunkSet>,
    /// What is left to others who are about to send it.
    pub left_to_others: Option<&'a ChunkSet>,
}

/// The chunks of one item and where each is.
#[derive(Debug, Clone)]
pub struct Picker {
    have: ChunkSet,
    wanted: ChunkSet,
    in_flight: ChunkSet,
    skipped: ChunkSet,
    copies: Counts,
}

impl Picker {
    /// Chunks in `have` are have, others in `skipped` are skipped, the rest is wanted.
    pub fn new(have: ChunkSet, mut skipped: ChunkSet) -> Self {
        let width = have.width();
        skipped.subtract(&have);
        let mut wanted = ChunkSet::full(width);
        wanted.subtract(&have);
        wanted.subtract(&skipped);
        Self { have, wanted, in_flight: ChunkSet::empty(width), skipped, copies: Counts::default() }
    }

    /// Where a chunk is.
    pub fn state(&self, chunk: u32) -> State {
        if self.have.contains(chunk) {
            State::Have
        } else if self.wanted.contains(chunk) {
            State::Wanted
        } else if self.in_flight.contains(chunk) {
            State::InFlight
        } else {
            State::Skipped
        }
    }

    /// What is held.
    pub fn have(&self) -> &ChunkSet {
        &self.have
    }

    /// What is to be asked for.
    pub fn wanted(&self) -> &ChunkSet {
        &self.wanted
    }

    /// What has been asked for.
    pub fn in_flight(&self) -> &ChunkSet {
        &self.in_flight
    }

    /// Whether everything that is not skipped is held.
    pub fn is_complete(&self) -> bool {
        self.wanted.is_empty() && self.in_flight.is_empty()
    }

    /// What is neither held nor skipped.
    pub fn missing(&self) -> ChunkSet {
        let mut missing = self.wanted.clone();
        missing.add(&self.in_flight);
        missing
    }

    /// A source holds these chunks.
    pub fn count_in(&mut self, holding: &ChunkSet) {
        self.copies.add(holding);
    }

    /// A source no longer holds these chunks, or is gone.
    pub fn count_out(&mut self, holding: &ChunkSet) {
        self.copies.subtract(holding);
    }

    /// The first wanted chunk of `window` that the source holds: for a viewer, by position.
    pub fn pick_in_order(&self, holding: &ChunkSet, window: Range<u32>) -> Option<u32> {
        window.into_iter().find(|&chunk| self.wanted.contains(chunk) && holding.contains(chunk))
    }

    /// The chunk to ask of a source next; `None` when it has nothing that may be taken from it.
    pub fn pick(&self, offer: &Offer<'_>, rng: &mut ChaCha8Rng) -> Option<u32> {
        let mut held = self.wanted.clone();
        held.keep(offer.holding);
        if let Some(portions) = offer.portions {
            let mut planned = held.clone();
            planned.keep(portions);
            if !planned.is_empty() {
                return self.rarest(planned, rng);
            }
        }
        if let Some(others) = offer.left_to_others {
            held.subtract(others);
        }
        self.rarest(held, rng)
    }

    /// Asked for. Only a wanted chunk can be.
    pub fn take(&mut self, chunk: u32) {
        assert!(self.wanted.remove(chunk), "only a wanted chunk is asked for");
        self.in_flight.insert(chunk);
    }

    /// The last request for it has ended without success.
    pub fn release(&mut self, chunk: u32) {
        if self.in_flight.remove(chunk) {
            self.wanted.insert(chunk);
        }
    }

    /// Verified and written.
    pub fn store(&mut self, chunk: u32) {
        self.wanted.remove(chunk);
        self.in_flight.remove(chunk);
        self.skipped.remove(chunk);
        self.have.insert(chunk);
    }

    /// No longer on the disk: it rotted.
    pub fn lose(&mut self, chunk: u32) {
        if self.have.remove(chunk) {
            self.wanted.insert(chunk);
        }
    }

    /// The fewest known copies first; among equals every one with the same chance.
    fn rarest(&self, among: ChunkSet, rng: &mut ChaCha8Rng) -> Option<u32> {
        let rarest = self.copies.fewest(among);
        let ties = rarest.len();
        if ties == 0 { None } else { rarest.nth(rng.random_range(0..ties)) }
    }
}

/// Known holders of each chunk, one set of chunks for each binary digit of the number: so that adding a holding and
/// finding the rarest chunks take a few operations for every 64 chunks.
#[derive(Debug, Clone, Default)]
struct Counts {
    /// The lowest digit first; as many as the highest count has needed.
    digits: Vec<ChunkSet>,
}

impl Counts {
    fn add(&mut self, holding: &ChunkSet) {
        let mut carry = holding.clone();
        for digit in &mut self.digits {
            if carry.is_empty() {
                return;
            }
            let mut both = digit.clone();
            both.keep(&carry);
            digit.toggle(&carry);
            carry = both;
        }
        if !carry.is_empty() {
            self.digits.push(carry);
        }
    }

    /// Nothing falls below zero.
    fn subtract(&mut self, holding: &ChunkSet) {
        let mut counted = ChunkSet::empty(holding.width());
        self.digits.iter().for_each(|digit| counted.add(digit));
        let mut borrow = holding.clone();
        borrow.keep(&counted);
        for digit in &mut self.digits {
            if borrow.is_empty() {
                return;
            }
            let mut lacking = borrow.clone();
            lacking.subtract(digit);
            digit.toggle(&borrow);
            borrow = lacking;
        }
    }

    /// Those of these chunks that have the fewest holders.
    fn fewest(&self, mut among: ChunkSet) -> ChunkSet {
        for digit in self.digits.iter().rev() {
            if !among.is_within(digit) {
                among.subtract(digit);
            }
        }
        among
    }
}

#[cfg(test)]
#[allow(clippy::single_range_in_vec_init, reason = "a list of one range is meant")]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;
    use rand_chacha::rand_core::SeedableRng;

    use super::*;

    const WIDTH: u32 = 24;

    fn set(chunks: &BTreeSet<u32>) -> ChunkSet {
        ChunkSet::from_ranges(WIDTH, chunks.iter().map(|&c| c..c + 1))
    }

    fn picker() -> Picker {
        Picker::new(ChunkSet::empty(WIDTH), ChunkSet::empty(WIDTH))
    }

    #[test]
    fn a_viewer_gets_chunks_by_position() {
        let mut picker = picker();
        let all = ChunkSet::full(WIDTH);
        picker.take(5);
        assert_eq!(picker.pick_in_order(&all, 5..9), Some(6));
    }

    #[test]
    fn portions_of_the_plan_come_before_rarer_chunks() {
        let mut picker = picker();
        let all = ChunkSet::full(WIDTH);
        picker.count_in(&ChunkSet::from_ranges(WIDTH, [0..8]));
        let portions = ChunkSet::from_ranges(WIDTH, [3..4]);
        let offer = Offer { holding: &all, portions: Some(&portions), left_to_others: None };
        assert_eq!(picker.pick(&offer, &mut ChaCha8Rng::seed_from_u64(1)), Some(3));
        picker.take(3);
        let next = picker.pick(&offer, &mut ChaCha8Rng::seed_from_u64(1)).expect("there is more");
        assert!(next >= 8, "{next} is not the rarest");
    }

    #[test]
    fn a_released_chunk_is_wanted_again_but_a_held_one_stays_held() {
        let mut picker = picker();
        picker.take(1);
        picker.release(1);
        assert_eq!(picker.state(1), State::Wanted);
        picker.take(1);
        picker.store(1);
        picker.release(1);
        assert_eq!(picker.state(1), State::Have);
        picker.lose(1);
        assert_eq!(picker.state(1), State::Wanted);
    }

    #[derive(Debug, Clone)]
    enum Step {
        Pick { holding: BTreeSet<u32>, portions: Option<BTreeSet<u32>>, others: Option<BTreeSet<u32>> },
        Release(u32),
        Store(u32),
        Lose(u32),
        CountIn(BTreeSet<u32>),
        CountOut(BTreeSet<u32>),
    }

    fn chunks() -> impl Strategy<Value = BTreeSet<u32>> {
        prop::collection::btree_set(0..WIDTH, 0..WIDTH as usize)
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            6 => (chunks(), prop::option::of(chunks()), prop::option::of(chunks()))
                .prop_map(|(holding, portions, others)| Step::Pick { holding, portions, others }),
            2 => (0..WIDTH).prop_map(Step::Release),
            3 => (0..WIDTH).prop_map(Step::Store),
            1 => (0..WIDTH).prop_map(Step::Lose),
            2 => chunks().prop_map(Step::CountIn),
            1 => chunks().prop_map(Step::CountOut),
        ]
    }

    proptest! {
        /// The naive model: four sets, a list of counts, and the rule written out.
        #[test]
        fn it_agrees_with_the_naive_model(
            have in chunks(), skipped in chunks(), steps in prop::collection::vec(step(), 1..80), seed in any::<u64>(),
        ) {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            let mut picker = Picker::new(set(&have), set(&skipped));
            let mut states: Vec<State> = (0..WIDTH).map(|c| match () {
                () if have.contains(&c) => State::Have,
                () if skipped.contains(&c) => State::Skipped,
                () => State::Wanted,
            }).collect();
            let mut copies = vec![0u16; WIDTH as usize];

            for step in steps {
                match step {
                    Step::Pick { holding, portions, others } => {
                        let (held, first, left) = (set(&holding), portions.as_ref().map(set), others.as_ref().map(set));
                        let offer = Offer { holding: &held, portions: first.as_ref(), left_to_others: left.as_ref() };
                        let got = picker.pick(&offer, &mut rng);
                        let can = |c: &u32| states[*c as usize] == State::Wanted;
                        let mut allowed: Vec<u32> = holding.iter().copied().filter(can)
                            .filter(|c| portions.as_ref().is_some_and(|p| p.contains(c))).collect();
                        if allowed.is_empty() {
                            allowed = holding.iter().copied().filter(can)
                                .filter(|c| !others.as_ref().is_some_and(|o| o.contains(c))).collect();
                        }
                        let fewest = allowed.iter().map(|&c| copies[c as usize]).min();
                        prop_assert_eq!(got.map(|c| copies[c as usize]), fewest);
                        if let Some(chunk) = got {
                            prop_assert!(allowed.contains(&chunk));
                            picker.take(chunk);
                            states[chunk as usize] = State::InFlight;
                        }
                    }
                    Step::Release(c) => {
                        picker.release(c);
                        if states[c as usize] == State::InFlight { states[c as usize] = State::Wanted; }
                    }
                    Step::Store(c) => {
                        picker.store(c);
                        states[c as usize] = State::Have;
                    }
                    Step::Lose(c) => {
                        picker.lose(c);
                        if states[c as usize] == State::Have { states[c as usize] = State::Wanted; }
                    }
                    Step::CountIn(holding) => {
                        picker.count_in(&set(&holding));
                        for c in holding { copies[c as usize] += 1; }
                    }
                    Step::CountOut(holding) => {
                        picker.count_out(&set(&holding));
                        for c in holding { copies[c as usize] = copies[c as usize].saturating_sub(1); }
                    }
                }
                for c in 0..WIDTH {
                    prop_assert_eq!(picker.state(c), states[c as usize]);
                }
                let counted = picker.have.len() + picker.wanted.len() + picker.in_flight.len() + picker.skipped.len();
                prop_assert_eq!(counted, WIDTH);
            }
        }
    }
}
