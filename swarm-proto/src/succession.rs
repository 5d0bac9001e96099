//! How a keyserver changes the key it signs with: each key hands over to the next.
//!
//! A keyserver is known by its key, so a new key counts only because the one before has said so. Such a
//! [`Succession`] is signed by the key before and bears the new key's own signature, so that nobody can name as heir a
//! key that is not theirs. The successions in their order are a [`Lineage`]: its last key signs everything that is said
//! now, those before it only prove what they have signed while it was their turn. A key that has handed over cannot
//! name another heir, and no lineage goes in a circle.

use prost::Message as _;

use crate::id::ServerId;
use crate::invalid::{Invalid, id};
use crate::limit;
use crate::pb::common as pb;
use crate::signed::{Signed, SignedError, SigningKey, Statement, verify_bytes};
use crate::time::Utc;

/// Most successions of one keyserver: a new key each year of a long life. All of them are kept by every device.
pub const MAX_SUCCESSIONS: usize = 64;

/// In which context the new key signs.
const ACCEPTANCE: &str = "succession accepted";

/// One key hands over to the next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Succession {
    /// The key that signs this, and nothing after it.
    pub predecessor: ServerId,
    /// The key that counts from now on.
    pub successor: ServerId,
    /// When, by the keyserver's clock.
    pub made: Utc,
    /// The successor's signature: it knows of this.
    acceptance: [u8; 64],
}

impl Succession {
    /// Hands over from one key to another.
    pub fn sign(from: &SigningKey, to: &SigningKey, made: Utc) -> Result<Signed<Self>, Invalid> {
        let (predecessor, successor) = (from.server_id(), to.server_id());
        let acceptance = to.sign_bytes(ACCEPTANCE, &accepted(&predecessor, &successor, made));
        Signed::sign(from, &Self { predecessor, successor, made, acceptance })
    }
}

/// What the new key signs: predecessor ‖ successor ‖ made_utc_ms.
fn accepted(predecessor: &ServerId, successor: &ServerId, made: Utc) -> [u8; 72] {
    let mut bytes = [0; 72];
    bytes[..32].copy_from_slice(predecessor.as_bytes());
    bytes[32..64].copy_from_slice(successor.as_bytes());
    bytes[64..].copy_from_slice(&made.as_millis().to_be_bytes());
    bytes
}

impl Statement for Succession {
    const CONTEXT: &'static str = "succession";
    type Signer = ServerId;

    fn encode(&self) -> Vec<u8> {
        pb::Succession {
            predecessor: self.predecessor.to_vec(),
            successor: self.successor.to_vec(),
            made_utc_ms: self.made.as_millis(),
            acceptance: self.acceptance.to_vec(),
        }
        .encode_to_vec()
    }

    fn decode(bytes: &[u8]) -> Result<Self, Invalid> {
        let message = pb::Succession::decode(bytes).map_err(|error| Invalid::new(Self::CONTEXT, error.to_string()))?;
        let acceptance = message.acceptance.as_slice().try_into();
        let succession = Self {
            predecessor: id("predecessor", &message.predecessor)?,
            successor: id("successor", &message.successor)?,
            made: limit::utc("made_utc_ms", message.made_utc_ms)?,
            acceptance: acceptance.map_err(|_| Invalid::new("acceptance", "must have 64 bytes"))?,
        };
        let Self { predecessor, successor, made, acceptance } = &succession;
        if !verify_bytes(successor.as_bytes(), ACCEPTANCE, &accepted(predecessor, successor, *made), acceptance) {
            return Err(Invalid::new("acceptance", "must be the successor's signature"));
        }
        Ok(succession)
    }

    fn may_be_signed_by(&self, signer: &ServerId) -> bool {
        self.predecessor == *signer
    }
}

/// Why a succession does not continue a lineage. What is known stays as it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LineageError {
    /// It is not the current key that hands over, or it is not what was signed.
    #[error(transparent)]
    Signed(#[from] SignedError),
    /// A key that has handed over never comes back.
    #[error("the key {0} has been the keyserver's before")]
    Circle(ServerId),
    /// No more keys are followed. Set the new id by hand.
    #[error("the keyserver has changed its key {MAX_SUCCESSIONS} times, which is the most there may be")]
    TooMany,
}

/// The keys of one keyserver, from the first that is known to the one that signs now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lineage {
    /// One more than there are successions.
    keys: Vec<ServerId>,
    successions: Vec<Signed<Succession>>,
    /// When the last of them was made.
    handed_over: Option<Utc>,
}

impl Lineage {
    /// A keyserver of which one key is known.
    pub fn founded_by(key: ServerId) -> Self {
        Self { keys: vec![key], successions: Vec::new(), handed_over: None }
    }

    /// The lineage that a key belongs to, according to successions that were kept in their order. Those that do not
    /// continue one another, or do not concern this key, are nothing to it.
    pub fn resumed(known: ServerId, kept: Vec<Signed<Succession>>) -> Self {
        let connected = || {
            let mut lineage = Self::founded_by(kept.first()?.signer());
            for succession in kept {
                lineage.hand_over(succession).ok()?;
            }
            lineage.includes(&known).then_some(lineage)
        };
        connected().unwrap_or_else(|| Self::founded_by(known))
    }

    /// Continues with the next key.
    pub fn hand_over(&mut self, succession: Signed<Succession>) -> Result<ServerId, LineageError> {
        let Succession { successor, made, .. } = succession.verify(&self.current())?;
        if self.includes(&successor) {
            return Err(LineageError::Circle(successor));
        }
        if self.successions.len() >= MAX_SUCCESSIONS {
            return Err(LineageError::TooMany);
        }
        self.keys.push(successor);
        self.successions.push(succession);
        self.handed_over = Some(made);
        Ok(successor)
    }

    /// The key that signs what is said now.
    pub fn current(&self) -> ServerId {
        *self.keys.last().expect("there is always a key")
    }

    /// The first key that is known.
    pub fn founder(&self) -> ServerId {
        self.keys[0]
    }

    /// Whether this is or was a key of the keyserver.
    pub fn includes(&self, key: &ServerId) -> bool {
        self.keys.contains(key)
    }

    /// The key that handed over last, and when.
    pub fn before(&self) -> Option<(ServerId, Utc)> {
        Some((*self.keys.iter().nth_back(1)?, self.handed_over?))
    }

    /// All successions, in order.
    pub fn successions(&self) -> &[Signed<Succession>] {
        &self.successions
    }

    /// What someone has to hear who knows this key; nothing when it is the current one, or none of ours.
    pub fn since(&self, known: &ServerId) -> &[Signed<Succession>] {
        let place = self.keys.iter().position(|key| key == known).unwrap_or(self.successions.len());
        &self.successions[place..]
    }

    /// Reads a statement that was kept: whichever key signed it did so while it was its turn. What is said now has to be
    /// signed by [`Lineage::current`].
    pub fn verify_kept<T: Statement<Signer = ServerId>>(&self, signed: &Signed<T>) -> Result<T, SignedError> {
        let signer = signed.signer();
        signed.verify(if self.includes(&signer) { &signer } else { &self.keys[self.keys.len() - 1] })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server_time::ServerTime;

    const NOON: Utc = Utc::from_secs(1_795_362_936);

    fn key(n: u8) -> SigningKey {
        SigningKey::from_bytes(&[n; 32]).expect("32 bytes")
    }

    fn succession(from: u8, to: u8) -> Signed<Succession> {
        Succession::sign(&key(from), &key(to), NOON).expect("valid")
    }

    /// Keys 1 to n.
    fn lineage(n: u8) -> Lineage {
        let mut lineage = Lineage::founded_by(key(1).server_id());
        for to in 2..=n {
            assert_eq!(lineage.hand_over(succession(to - 1, to)), Ok(key(to).server_id()));
        }
        lineage
    }

    #[test]
    fn each_key_is_followed_by_the_one_it_names() {
        let lineage = lineage(4);
        assert_eq!((lineage.founder(), lineage.current()), (key(1).server_id(), key(4).server_id()));
        assert_eq!(lineage.before(), Some((key(3).server_id(), NOON)));
        assert_eq!(Lineage::founded_by(key(1).server_id()).before(), None);
    }

    #[test]
    fn whoever_knows_an_earlier_key_is_told_what_came_after_it() {
        let (all, mut late) = (lineage(5), lineage(3));
        for succession in all.since(&late.current()) {
            late.hand_over(succession.clone()).expect("it continues");
        }
        assert_eq!(late, all);
        assert!(all.since(&all.current()).is_empty());
        assert!(all.since(&key(9).server_id()).is_empty(), "a stranger is told nothing");
    }

    #[test]
    fn only_the_current_key_can_hand_over() {
        let mut lineage = lineage(3);
        let unchanged = lineage.clone();
        for from in [1, 2, 9] {
            let refused = lineage.hand_over(succession(from, 7));
            assert!(matches!(refused, Err(LineageError::Signed(SignedError::OtherSigner { .. }))), "{refused:?}");
        }
        assert_eq!(lineage, unchanged);
    }

    #[test]
    fn a_key_that_has_handed_over_never_comes_back() {
        for to in 1..=3 {
            assert_eq!(lineage(3).hand_over(succession(3, to)), Err(LineageError::Circle(key(to).server_id())));
        }
    }

    #[test]
    fn nobody_becomes_heir_without_their_own_signature() {
        let (from, heir, thief) = (key(1), key(2), key(3));
        let (predecessor, successor) = (from.server_id(), heir.server_id());
        let message = accepted(&predecessor, &successor, NOON);
        for acceptance in [
            [0; 64],
            thief.sign_bytes(ACCEPTANCE, &message),
            heir.sign_bytes(Succession::CONTEXT, &message),
            heir.sign_bytes(ACCEPTANCE, &accepted(&thief.server_id(), &successor, NOON)),
        ] {
            let claimed = Succession { predecessor, successor, made: NOON, acceptance };
            let refused = Signed::sign(&from, &claimed).expect_err("not accepted");
            assert_eq!(refused.field, "acceptance");
        }
    }

    #[test]
    fn a_succession_in_the_name_of_another_key_is_refused() {
        let genuine = succession(1, 2).verify(&key(1).server_id()).expect("genuine");
        assert!(Signed::sign(&key(3), &genuine).is_err(), "it names key 1");
    }

    #[test]
    fn what_was_kept_is_resumed_from_whichever_of_its_keys_is_known() {
        let all = lineage(4);
        for n in 1..=4 {
            assert_eq!(Lineage::resumed(key(n).server_id(), all.successions().to_vec()), all);
        }
        let stranger = key(9).server_id();
        assert_eq!(Lineage::resumed(stranger, all.successions().to_vec()), Lineage::founded_by(stranger));
        let with_a_gap = [succession(1, 2), succession(3, 4)].to_vec();
        let first = key(1).server_id();
        assert_eq!(Lineage::resumed(first, with_a_gap), Lineage::founded_by(first));
        assert_eq!(Lineage::resumed(first, Vec::new()), Lineage::founded_by(first));
    }

    #[test]
    fn what_an_earlier_key_has_signed_is_still_read_and_a_strangers_word_is_not() {
        let lineage = lineage(3);
        let told = |n| ServerTime::sign(&key(n), [5; 32], NOON).expect("valid");
        for n in 1..=3 {
            assert_eq!(lineage.verify_kept(&told(n)).expect("kept").utc, NOON);
        }
        assert!(matches!(lineage.verify_kept(&told(9)), Err(SignedError::OtherSigner { .. })));
    }

    #[test]
    fn a_lineage_ends_somewhere() {
        let most = u8::try_from(MAX_SUCCESSIONS).expect("few") + 1;
        assert_eq!(lineage(most).hand_over(succession(most, 200)), Err(LineageError::TooMany));
    }
}
