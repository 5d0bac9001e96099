//! The names of things: items, titles, devices, accounts, orders, publishers, servers, sites.
//!
//! Each is a type of its own over fixed bytes, so that no two can be confused. Keys and hashes are written in hex (an
//! item id is exactly what `b3sum` prints); what people may have to type (titles, accounts, orders) is written as a
//! code with a check character. `Debug` shows the beginning only: enough for a log, too little to look someone up.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;

use rand_core::CryptoRng;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::code::{self, CodeError};

/// Why bytes or text are not the id they should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// The wrong number of bytes. Refuse the message.
    #[error("{what} has {expected} bytes, found {found}")]
    Length {
        /// Which id.
        what: &'static str,
        /// Bytes it has.
        expected: usize,
        /// Bytes that came.
        found: usize,
    },
    /// Not hex, or not enough of it. Ask again.
    #[error("{what} is written as {digits} hex digits (0-9 a-f), this is not")]
    Hex {
        /// Which id.
        what: &'static str,
        /// Digits it has.
        digits: usize,
    },
    /// Not a code. Ask again.
    #[error("{what} is not readable: {why}")]
    Code {
        /// Which id.
        what: &'static str,
        /// What is wrong with the code.
        why: CodeError,
    },
    /// Not a label. Choose another name.
    #[error("a site is 1 to 32 of a-z, 0-9 and hyphen, with a letter or digit at both ends, this is not")]
    Label,
}

macro_rules! bytes_id {
    ($(#[$doc:meta])* $name:ident, $len:literal, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; $len]);

        impl $name {
            /// Bytes in one of these.
            pub const LEN: usize = $len;

            /// Wraps bytes that are known to be one.
            pub const fn from_bytes(bytes: [u8; $len]) -> Self {
                Self(bytes)
            }

            /// The bytes.
            pub const fn as_bytes(&self) -> &[u8; $len] {
                &self.0
            }

            /// The bytes, as protobuf fields want them.
            pub fn to_vec(&self) -> Vec<u8> {
                self.0.to_vec()
            }
        }

        impl From<[u8; $len]> for $name {
            fn from(bytes: [u8; $len]) -> Self {
                Self(bytes)
            }
        }

        impl From<$name> for [u8; $len] {
            fn from(id: $name) -> Self {
                id.0
            }
        }

        impl From<$name> for Vec<u8> {
            fn from(id: $name) -> Self {
                id.to_vec()
            }
        }

        impl AsRef<[u8; $len]> for $name {
            fn as_ref(&self) -> &[u8; $len] {
                &self.0
            }
        }

        impl TryFrom<&[u8]> for $name {
            type Error = IdError;

            fn try_from(bytes: &[u8]) -> Result<Self, IdError> {
                let wrong = IdError::Length { what: $what, expected: $len, found: bytes.len() };
                bytes.try_into().map(Self).map_err(|_| wrong)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let shown = self.to_string();
                write!(f, "{}({}…)", stringify!($name), &shown[..8])
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
            }
        }
    };
}

macro_rules! hex_id {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        bytes_id!($(#[$doc])* $name, 32, $what);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write_hex(f, &self.0)
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                read_hex(text).map(Self).ok_or(IdError::Hex { what: $what, digits: 64 })
            }
        }
    };
}

macro_rules! code_id {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        bytes_id!($(#[$doc])* $name, 16, $what);

        impl $name {
            /// Makes a new one; 128 random bits never meet twice.
            pub fn generate(rng: &mut impl CryptoRng) -> Self {
                let mut bytes = [0u8; 16];
                rng.fill_bytes(&mut bytes);
                Self(bytes)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&code::encode_bytes(&self.0))
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                code::decode_bytes(text).map(Self).map_err(|why| IdError::Code { what: $what, why })
            }
        }
    };
}

hex_id!(
    /// An item: plain BLAKE3 of its sealed bytes, what `b3sum` prints for the file.
    ItemId,
    "an item id"
);
hex_id!(
    /// A device: its Ed25519 public key.
    DeviceId,
    "a device id"
);
hex_id!(
    /// A publisher: the Ed25519 public key that signs its catalog entries.
    PublisherId,
    "a publisher id"
);
hex_id!(
    /// A tracker or keyserver: the Ed25519 public key that signs its statements.
    ServerId,
    "a server id"
);
code_id!(
    /// A title of the catalog, over all its versions.
    TitleId,
    "a title id"
);
code_id!(
    /// A customer.
    AccountId,
    "an account id"
);
code_id!(
    /// A purchase.
    OrderId,
    "an order id"
);
code_id!(
    /// One try to have a provider collect the price of an order.
    AttemptId,
    "a payment's id"
);
code_id!(
    /// Money that a provider is asked to give back.
    RefundId,
    "a refund's id"
);

impl DeviceId {
    /// Eight characters for people, to tell their devices apart. Not unique enough to look anything up.
    pub fn short(&self) -> String {
        code::glimpse(&self.0)
    }
}

/// A site: one ISP region or point of presence, as the operator named it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SiteId(String);

impl SiteId {
    /// Longest name.
    pub const MAX_LEN: usize = 32;

    /// Checks a name.
    pub fn new(name: &str) -> Result<Self, IdError> {
        if is_label(name) { Ok(Self(name.to_owned())) } else { Err(IdError::Label) }
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SiteId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for SiteId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        Self::new(text)
    }
}

impl Borrow<str> for SiteId {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl Serialize for SiteId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for SiteId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(&String::deserialize(deserializer)?).map_err(de::Error::custom)
    }
}

/// True for names as in DNS: 1 to 32 of `a-z 0-9 -`, hyphens only inside.
pub(crate) fn is_label(name: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=SiteId::MAX_LEN).contains(&name.len())
        && name.bytes().all(inner)
        && !name.starts_with('-')
        && !name.ends_with('-')
}

/// Writes bytes as lower-case hex.
pub(crate) fn write_hex(f: &mut fmt::Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
}

/// Reads exactly 32 bytes of hex in either case.
pub(crate) fn read_hex(text: &str) -> Option<[u8; 32]> {
    if text.len() != 64 {
        return None;
    }
    data_encoding::HEXLOWER_PERMISSIVE.decode(text.as_bytes()).ok()?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn item_id_reads_as_b3sum_prints_it() {
        let item = ItemId::from(*blake3::hash(b"film").as_bytes());
        assert_eq!(item.to_string(), blake3::hash(b"film").to_hex().as_str());
    }

    #[test]
    fn wrong_ids_say_what_was_expected() {
        let error = "12".parse::<ItemId>().expect_err("too short");
        assert_eq!(error.to_string(), "an item id is written as 64 hex digits (0-9 a-f), this is not");
        let error = DeviceId::try_from(&[0u8; 5][..]).expect_err("too short");
        assert_eq!(error.to_string(), "a device id has 32 bytes, found 5");
        assert!(matches!("0000".parse::<TitleId>(), Err(IdError::Code { .. })));
    }

    #[test]
    fn debug_shows_only_the_beginning() {
        assert_eq!(format!("{:?}", ItemId::from([0xab; 32])), "ItemId(abababab…)");
    }

    #[test]
    fn sites_are_plain_labels() {
        for good in ["north", "a", "pop-7", "0"] {
            assert!(SiteId::new(good).is_ok(), "{good}");
        }
        for bad in ["", "-a", "a-", "North", "a b", "a_b", "ä", &"x".repeat(33)] {
            assert_eq!(SiteId::new(bad), Err(IdError::Label), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn ids_survive_text_and_json(hex: [u8; 32], code: [u8; 16]) {
            let device = DeviceId::from(hex);
            prop_assert_eq!(device.to_string().parse::<DeviceId>(), Ok(device));
            prop_assert_eq!(device.short().len(), 8);
            let order = OrderId::from(code);
            prop_assert_eq!(order.to_string().parse::<OrderId>(), Ok(order));
            let json = serde_json::to_string(&(device, order)).expect("serializes");
            prop_assert_eq!(serde_json::from_str::<(DeviceId, OrderId)>(&json).expect("reads back"), (device, order));
        }
    }
}
