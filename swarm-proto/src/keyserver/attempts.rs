//! Counts wrong pass codes, so that nobody finds a code by trying.
//!
//! Per account, within a window that starts at its first wrong code. Not remembered over a restart: a code has 80
//! random bits, the limit is there against noise and for the log. The number of accounts remembered is bounded; when
//! there are more, the one whose window ends first is forgotten.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::id::AccountId;
use crate::time::Mono;

/// Wrong codes that an account may try within [`WINDOW`]: enough for someone who cannot read their own writing.
pub const MAX_WRONG: u32 = 10;

/// How long wrong codes are held against an account.
pub const WINDOW: Duration = Duration::from_secs(15 * 60);

/// How many accounts are remembered at a time.
const MAX_ACCOUNTS: usize = 4096;

/// The wrong codes of the recent past.
#[derive(Debug, Default)]
pub struct Attempts {
    accounts: BTreeMap<AccountId, Wrong>,
}

#[derive(Debug)]
struct Wrong {
    since: Mono,
    count: u32,
}

impl Attempts {
    /// Whether the account may try a code now; if not, how long it has to wait.
    pub fn admit(&self, now: Mono, account: &AccountId) -> Result<(), Duration> {
        let Some(wrong) = self.accounts.get(account) else { return Ok(()) };
        let elapsed = now.since(wrong.since);
        if wrong.count < MAX_WRONG || elapsed >= WINDOW { Ok(()) } else { Err(WINDOW - elapsed) }
    }

    /// The account has tried a code that does not exist.
    pub fn handle_wrong(&mut self, now: Mono, account: AccountId) {
        if !self.accounts.contains_key(&account) && self.accounts.len() >= MAX_ACCOUNTS {
            self.forget_oldest();
        }
        let wrong = self.accounts.entry(account).or_insert(Wrong { since: now, count: 0 });
        if now.since(wrong.since) >= WINDOW {
            *wrong = Wrong { since: now, count: 0 };
        }
        wrong.count += 1;
    }

    fn forget_oldest(&mut self) {
        let oldest = self.accounts.iter().min_by_key(|(_, wrong)| wrong.since).map(|(account, _)| *account);
        if let Some(oldest) = oldest {
            self.accounts.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account(n: u32) -> AccountId {
        let mut bytes = [0; 16];
        bytes[..4].copy_from_slice(&n.to_be_bytes());
        AccountId::from(bytes)
    }

    #[test]
    fn too_many_wrong_codes_have_to_wait_out_the_window() {
        let mut attempts = Attempts::default();
        for _ in 0..MAX_WRONG {
            assert_eq!(attempts.admit(Mono::ZERO, &account(1)), Ok(()));
            attempts.handle_wrong(Mono::ZERO, account(1));
        }
        let later = Mono::from_millis(60_000);
        assert_eq!(attempts.admit(later, &account(1)), Err(WINDOW - Duration::from_secs(60)));
        assert_eq!(attempts.admit(later, &account(2)), Ok(()), "others are not held up");
        let after = Mono::ZERO + WINDOW;
        assert_eq!(attempts.admit(after, &account(1)), Ok(()));
        attempts.handle_wrong(after, account(1));
        assert_eq!(attempts.admit(after, &account(1)), Ok(()), "the count began anew");
    }

    #[test]
    fn memory_of_wrong_codes_is_bounded() {
        let mut attempts = Attempts::default();
        for n in 0..2 * MAX_ACCOUNTS as u32 {
            attempts.handle_wrong(Mono::from_millis(n.into()), account(n));
        }
        assert_eq!(attempts.accounts.len(), MAX_ACCOUNTS);
        assert!(!attempts.accounts.contains_key(&account(0)));
    }
}
