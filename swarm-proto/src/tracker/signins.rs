//! Customers who have opened a sign-in link, and links that nobody has opened yet.
//!
//! A link works once and for minutes; it becomes a session that lasts an hour. Both are known by the hash of a secret
//! that only the customer's browser holds, so nothing here signs anybody in. In memory alone, and bounded: a new one
//! takes the place of the one that is over first.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::id::AccountId;
use crate::time::Mono;

/// Links, and sessions, at the same time.
pub const MAX_EACH: usize = 10_000;

/// How long a link can be opened.
pub const LINK_LASTS: Duration = Duration::from_secs(15 * 60);

/// How long a session lasts.
pub const SESSION_LASTS: Duration = Duration::from_secs(3_600);

/// What a link or a session is found by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct SecretKey([u8; 32]);

impl SecretKey {
    /// The key of a secret.
    pub fn of(secret: &[u8; 32]) -> SecretKey {
        SecretKey(blake3::derive_key("reelswarm v1 sign-in", secret))
    }
}

/// What the forms of a session carry, so that no other site's form passes for one of them.
pub fn form_value(session: &[u8; 32]) -> [u8; 32] {
    blake3::derive_key("reelswarm v1 form", session)
}

/// Which account, and until when.
type Entries = BTreeMap<SecretKey, (AccountId, Mono)>;

/// Links and sessions.
#[derive(Debug, Default)]
pub struct SignIns {
    links: Entries,
    sessions: Entries,
}

impl SignIns {
    /// A link that signs in to this account.
    pub fn add_link(&mut self, now: Mono, link: SecretKey, account: AccountId) {
        insert(&mut self.links, now, link, account, LINK_LASTS);
    }

    /// Somebody opens a link: it is used up, and the session begins. None if there is no such link any more.
    pub fn open(&mut self, now: Mono, link: &SecretKey, session: SecretKey) -> Option<AccountId> {
        let (account, until) = self.links.remove(link)?;
        if until <= now {
            return None;
        }
        insert(&mut self.sessions, now, session, account, SESSION_LASTS);
        Some(account)
    }

    /// Whose session this is.
    pub fn account(&self, now: Mono, session: &SecretKey) -> Option<AccountId> {
        self.sessions.get(session).filter(|(_, until)| now < *until).map(|(account, _)| *account)
    }

    /// Ends every link and session of an account.
    pub fn end(&mut self, account: &AccountId) {
        for entries in [&mut self.links, &mut self.sessions] {
            entries.retain(|_, (of, _)| of != account);
        }
    }
}

fn insert(entries: &mut Entries, now: Mono, key: SecretKey, account: AccountId, lasts: Duration) {
    entries.retain(|_, (_, until)| now < *until);
    if entries.len() >= MAX_EACH {
        let first = entries.iter().min_by_key(|(_, (_, until))| *until).map(|(key, _)| *key);
        entries.remove(&first.expect("a full map has a first entry"));
    }
    entries.insert(key, (account, now + lasts));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: u32) -> SecretKey {
        let mut secret = [0; 32];
        secret[..4].copy_from_slice(&n.to_be_bytes());
        SecretKey::of(&secret)
    }

    fn at(secs: u64) -> Mono {
        Mono::from_millis(secs * 1_000)
    }

    fn account(n: u8) -> AccountId {
        AccountId::from([n; 16])
    }

    #[test]
    fn link_works_once_and_for_fifteen_minutes() {
        let mut signins = SignIns::default();
        signins.add_link(at(0), key(1), account(1));
        assert_eq!(signins.open(at(1), &key(1), key(2)), Some(account(1)));
        assert_eq!(signins.open(at(1), &key(1), key(3)), None);
        assert_eq!(signins.account(at(1), &key(2)), Some(account(1)));
        signins.add_link(at(0), key(4), account(1));
        assert_eq!(signins.open(at(0) + LINK_LASTS, &key(4), key(5)), None);
    }

    #[test]
    fn session_ends_with_its_hour_and_with_its_account() {
        let mut signins = SignIns::default();
        signins.add_link(at(0), key(1), account(1));
        signins.open(at(0), &key(1), key(2));
        assert_eq!(signins.account(at(0) + SESSION_LASTS, &key(2)), None);
        signins.end(&account(1));
        assert_eq!(signins.account(at(1), &key(2)), None);
    }

    #[test]
    fn crowd_of_links_does_not_fill_the_memory() {
        let mut signins = SignIns::default();
        for n in 0..=MAX_EACH as u32 {
            signins.add_link(at(u64::from(n) / 1_000), key(n), account(1));
        }
        assert_eq!(signins.links.len(), MAX_EACH);
    }
}
