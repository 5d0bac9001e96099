//! Who is playing right now, so that an account plays on so many devices at a time and no more.
//!
//! A box that plays says so again and again; one that falls silent has given its place back. A device that begins when
//! all places are taken is refused with the names of the others, and may take the place of one of them: that one hears
//! of it when it speaks up next, and stops. Remembered in memory only: after a restart of the keyserver everybody has
//! one more go, which costs nobody a film. Rights are judged elsewhere, before anyone comes here.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use crate::id::{AccountId, DeviceId};
use crate::invalid::Invalid;
use crate::limit::Limit;
use crate::time::Mono;

/// Longest name of a device, in bytes.
pub const MAX_NAME_BYTES: usize = 64;

/// Devices remembered at a time, over all accounts: a million that play at this moment.
const MAX_PLAYERS: usize = 1_000_000;

/// The limits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Devices of an account that play at a time.
    pub at_a_time: Limit<usize>,
    /// How long a device may be silent before its place is free.
    pub silence: Duration,
}

/// What people call a device: at most 64 bytes on one line, perhaps nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeviceName(String);

impl DeviceName {
    /// Checks a name.
    pub fn new(text: &str) -> Result<Self, Invalid> {
        if text.len() > MAX_NAME_BYTES || text.chars().any(char::is_control) {
            return Err(Invalid::new("device_name", format!("must be at most {MAX_NAME_BYTES} bytes on one line")));
        }
        Ok(Self(text.to_owned()))
    }
}

/// A device that plays, as the others of its account may know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Other {
    /// Which device.
    pub device: DeviceId,
    /// What its people call it.
    pub name: DeviceName,
}

/// Its name, else the short form of its id.
impl fmt::Display for Other {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name.0.as_str() {
            "" => write!(f, "device {}", self.device.short()),
            name => write!(f, "\"{name}\""),
        }
    }
}

/// What a device says that wants to play, or plays.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Playing {
    /// Which device.
    pub device: DeviceId,
    /// What its people call it.
    pub name: DeviceName,
    /// A viewing begins now; else one goes on.
    pub begins: bool,
    /// Whoever has been silent longest gives way, if there is no place.
    pub takes_over: bool,
}

/// Why a device may not play now.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlayersRefusal {
    /// Stop one of those, or take its place.
    #[error("{} is allowed to play at a time, and so many do: {}", devices(*limit), list(others))]
    TooMany {
        /// How many may.
        limit: usize,
        /// Who does.
        others: Vec<Other>,
    },
    /// Stop. To go on here, begin anew.
    #[error("{by} plays instead")]
    TakenOver {
        /// Who has asked for the place.
        by: Other,
    },
    /// Try again later; the operator should look.
    #[error("{MAX_PLAYERS} devices play already, the most this keyserver follows")]
    Full,
}

/// Everyone who plays.
#[derive(Debug, Clone)]
pub struct Players {
    config: Config,
    accounts: BTreeMap<AccountId, Vec<Player>>,
    count: usize,
    swept: Mono,
}

#[derive(Debug, Clone)]
struct Player {
    who: Other,
    heard: Mono,
    /// Who has taken its place.
    gave_way_to: Option<Other>,
}

impl Players {
    /// Nobody plays yet.
    pub const fn new(config: Config) -> Self {
        Self { config, accounts: BTreeMap::new(), count: 0, swept: Mono::ZERO }
    }

    /// A device of an account wants to play, or plays on.
    pub fn handle_playing(&mut self, now: Mono, account: AccountId, playing: Playing) -> Result<(), PlayersRefusal> {
        let Limit::Of(limit) = self.config.at_a_time else { return Ok(()) };
        if now.since(self.swept) >= self.config.silence {
            self.sweep(now);
        }
        let Playing { device, name, begins, takes_over } = playing;
        let players = self.accounts.entry(account).or_default();
        let silence = self.config.silence;
        let before = players.len();
        players.retain(|player| now.since(player.heard) < silence);
        self.count -= before - players.len();

        let who = Other { device, name };
        let known = players.iter().position(|player| player.who.device == device);
        if let Some(known) = known {
            match (&players[known].gave_way_to, begins) {
                (None, _) => {
                    players[known] = Player { who, heard: now, gave_way_to: None };
                    return Ok(());
                }
                (Some(by), false) => return Err(PlayersRefusal::TakenOver { by: by.clone() }),
                (Some(_), true) => {
                    players.remove(known);
                    self.count -= 1;
                }
            }
        }
        let place_is_free = players.iter().filter(|player| player.gave_way_to.is_none()).count() < limit;
        if !place_is_free {
            let longest_silent =
                players.iter_mut().filter(|player| player.gave_way_to.is_none()).min_by_key(|player| player.heard);
            match longest_silent.filter(|_| begins && takes_over) {
                // It hears of this when it speaks up next, as long as it would have kept its place.
                Some(player) => *player = Player { gave_way_to: Some(who.clone()), heard: now, ..player.clone() },
                None => {
                    let others = players.iter().filter(|player| player.gave_way_to.is_none());
                    return Err(PlayersRefusal::TooMany {
                        limit,
                        others: others.map(|other| other.who.clone()).collect(),
                    });
                }
            }
        }
        if self.count >= MAX_PLAYERS {
            return Err(PlayersRefusal::Full);
        }
        players.push(Player { who, heard: now, gave_way_to: None });
        self.count += 1;
        Ok(())
    }

    /// How many devices play.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Forgets everyone who has fallen silent.
    fn sweep(&mut self, now: Mono) {
        let silence = self.config.silence;
        self.accounts.retain(|_, players| {
            players.retain(|player| now.since(player.heard) < silence);
            !players.is_empty()
        });
        self.count = self.accounts.values().map(Vec::len).sum();
        self.swept = now;
    }
}

fn devices(limit: usize) -> String {
    if limit == 1 { "one device".to_owned() } else { format!("at most {limit} devices") }
}

fn list(others: &[Other]) -> String {
    others.iter().map(Other::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SILENCE: Duration = Duration::from_secs(90);
    const HOME: AccountId = AccountId::from_bytes([1; 16]);

    fn at(secs: u64) -> Mono {
        Mono::from_millis(secs * 1000)
    }

    fn players(limit: usize) -> Players {
        Players::new(Config { at_a_time: Limit::Of(limit), silence: SILENCE })
    }

    fn device(n: u8) -> DeviceId {
        DeviceId::from_bytes([n; 32])
    }

    fn begins(n: u8, name: &str) -> Playing {
        let name = DeviceName::new(name).expect("a name");
        Playing { device: device(n), name, begins: true, takes_over: false }
    }

    fn goes_on(n: u8) -> Playing {
        Playing { begins: false, ..begins(n, "") }
    }

    #[test]
    fn one_device_too_many_hears_who_plays() {
        let mut players = players(2);
        assert_eq!(players.handle_playing(at(0), HOME, begins(1, "living room")), Ok(()));
        assert_eq!(players.handle_playing(at(0), HOME, begins(2, "")), Ok(()));
        let refused = players.handle_playing(at(1), HOME, begins(3, "attic")).expect_err("two play");
        let text = refused.to_string();
        assert!(text.contains("at most 2 devices") && text.contains("\"living room\""), "{text}");
        assert!(text.contains(&device(2).short()), "a device without a name is told by its id: {text}");
        let neighbour = AccountId::from_bytes([2; 16]);
        assert_eq!(players.handle_playing(at(1), neighbour, begins(3, "attic")), Ok(()), "others are not held up");
    }

    #[test]
    fn silence_gives_the_place_back() {
        let mut players = players(1);
        let _ = players.handle_playing(at(0), HOME, begins(1, "living room"));
        assert!(players.handle_playing(at(89), HOME, begins(2, "attic")).is_err());
        assert_eq!(players.handle_playing(at(90), HOME, begins(2, "attic")), Ok(()));
        assert!(players.handle_playing(at(91), HOME, goes_on(1)).is_err(), "the place is taken now");
    }

    #[test]
    fn whoever_gave_way_hears_it_and_may_come_back() {
        let mut players = players(1);
        let _ = players.handle_playing(at(0), HOME, begins(1, "living room"));
        let takes = |playing| Playing { takes_over: true, ..playing };
        assert_eq!(players.handle_playing(at(10), HOME, takes(begins(2, "attic"))), Ok(()));
        let refused = players.handle_playing(at(30), HOME, goes_on(1)).expect_err("attic plays");
        assert!(matches!(&refused, PlayersRefusal::TakenOver { .. }) && refused.to_string().contains("attic"));
        assert!(players.handle_playing(at(40), HOME, begins(1, "living room")).is_err(), "to begin needs a place");
        assert_eq!(players.handle_playing(at(41), HOME, takes(begins(1, "living room"))), Ok(()));
        assert!(players.handle_playing(at(42), HOME, takes(goes_on(2))).is_err(), "going on takes nobody's place");
    }

    #[test]
    fn account_without_a_limit_is_not_followed() {
        let mut players = Players::new(Config { at_a_time: Limit::Unlimited, silence: SILENCE });
        for n in 0..100 {
            assert_eq!(players.handle_playing(at(0), HOME, begins(n, "")), Ok(()));
        }
        assert_eq!(players.count(), 0);
    }

    #[test]
    fn those_who_fell_silent_are_forgotten() {
        let mut players = players(4);
        for n in 0..200_u8 {
            let _ = players.handle_playing(at(n.into()), AccountId::from_bytes([n; 16]), begins(n, ""));
        }
        assert!(players.count() <= 180, "{}", players.count());
        let _ = players.handle_playing(at(1_000), HOME, begins(1, ""));
        assert_eq!((players.count(), players.accounts.len()), (1, 1));
    }

    #[test]
    fn names_stay_on_one_line() {
        assert!(DeviceName::new("a\nb").is_err() && DeviceName::new(&"x".repeat(65)).is_err());
    }

    proptest! {
        /// The model: who was let in or went on within the silence, and has not given way since.
        #[test]
        fn never_more_than_the_limit_play(
            steps in prop::collection::vec((0..120u64, 0..5u8, any::<bool>(), any::<bool>()), 1..80),
            limit in 1..4usize,
        ) {
            let mut players = players(limit);
            let mut now = 0;
            let mut playing: BTreeMap<u8, u64> = BTreeMap::new();
            for (wait, n, begins_now, takes_over) in steps {
                now += wait;
                playing.retain(|_, heard| now - *heard < 90);
                let asks = Playing { begins: begins_now, takes_over, ..begins(n, "") };
                let was_full = playing.len() >= limit && !playing.contains_key(&n);
                let answer = players.handle_playing(at(now), HOME, asks);
                match answer {
                    Ok(()) => {
                        if was_full {
                            prop_assert!(begins_now && takes_over);
                            let longest = playing.values().min().copied().expect("full");
                            let gave_way = players.accounts[&HOME].iter().filter(|player| player.gave_way_to.is_some());
                            let gave_way: Vec<u8> = gave_way.map(|player| player.who.device.as_bytes()[0]).collect();
                            playing.retain(|other, heard| !(gave_way.contains(other) && *heard == longest));
                        }
                        playing.insert(n, now);
                    }
                    Err(_) => prop_assert!(!playing.contains_key(&n), "whoever plays plays on"),
                }
                prop_assert!(playing.len() <= limit);
                let in_fact = players.accounts[&HOME].iter().filter(|player| player.gave_way_to.is_none()).count();
                prop_assert_eq!(in_fact, playing.len());
                prop_assert_eq!(players.count(), players.accounts.values().map(Vec::len).sum::<usize>());
            }
        }
    }
}
