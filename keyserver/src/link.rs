//! Links to the checkout pages: who opens one acts for the account it names, until it ends.
//!
//! A link carries the account and its end, and a keyed hash of both under a key of the vault. Nothing is kept of it: it
//! cannot be made without the key, nor stretched, nor called back before its end, which is why it is short.

use data_encoding::BASE64URL_NOPAD;
use swarm_proto::id::AccountId;
use swarm_proto::time::Utc;

use crate::vault::Vault;

/// Bytes of the keyed hash.
const MAC: usize = 32;
const LEN: usize = AccountId::LEN + 8 + MAC;

/// Why a link does not open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dead {
    /// It was not made here.
    Forged,
    /// Its time is over.
    Over,
}

/// Makes a link for an account that holds until `end`.
pub(crate) fn make(vault: &Vault, account: AccountId, end: Utc) -> String {
    let mut bytes = account.to_vec();
    bytes.extend_from_slice(&end.as_millis().to_be_bytes());
    let mac = vault.link_mac(&bytes);
    bytes.extend_from_slice(mac.as_bytes());
    BASE64URL_NOPAD.encode(&bytes)
}

/// The account that a link speaks for.
pub(crate) fn read(vault: &Vault, text: &str, now: Utc) -> Result<AccountId, Dead> {
    let bytes = BASE64URL_NOPAD.decode(text.as_bytes()).map_err(|_| Dead::Forged)?;
    if bytes.len() != LEN {
        return Err(Dead::Forged);
    }
    let (said, mac) = bytes.split_at(LEN - MAC);
    let mac: [u8; MAC] = mac.try_into().expect("the rest of the link");
    // Compared in constant time: `blake3::Hash` sees to it.
    if vault.link_mac(said) != blake3::Hash::from_bytes(mac) {
        return Err(Dead::Forged);
    }
    let (account, end) = said.split_at(AccountId::LEN);
    let end = Utc::from_millis(u64::from_be_bytes(end.try_into().expect("eight bytes")));
    match now < end {
        true => AccountId::try_from(account).map_err(|_| Dead::Forged),
        false => Err(Dead::Over),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_speaks_for_its_account_until_its_end_and_cannot_be_changed() {
        let vault = Vault::of_tests(1);
        let account = AccountId::from([7; 16]);
        let end = Utc::from_secs(100);
        let link = make(&vault, account, end);
        assert_eq!(read(&vault, &link, Utc::from_millis(99_999)), Ok(account));
        assert_eq!(read(&vault, &link, end), Err(Dead::Over));
        assert_eq!(read(&Vault::of_tests(2), &link, Utc::EPOCH), Err(Dead::Forged));
        for place in 0..link.len() {
            let mut other = link.clone().into_bytes();
            other[place] = if other[place] == b'A' { b'B' } else { b'A' };
            let other = String::from_utf8(other).expect("text");
            assert_eq!(read(&vault, &other, Utc::EPOCH), Err(Dead::Forged), "{place}");
        }
        for wrong in ["", "AAAA", "../../etc/passwd"] {
            assert_eq!(read(&vault, wrong, Utc::EPOCH), Err(Dead::Forged));
        }
    }
}
