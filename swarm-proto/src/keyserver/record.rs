//! What the journal says: one record for each thing that has happened, and never a secret.
//!
//! A record is a fact, complete in itself: applying the records in order to an empty ledger gives the ledger. Codes of
//! passes and names of webhook events appear as keyed hashes or plain hashes, content keys as sealed by the vault.
//! Names of kinds and fields are never reused for another meaning; a reader that meets a kind it does not know stops.

mod form;

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::billing::Month;
use super::dues::{Decline, Dispute};
use super::passes::Holds;
use crate::catalog::{Currency, Money, Offer, OfferId, Policy};
use crate::cpix::KeyId;
use crate::id::{AccountId, AttemptId, DeviceId, ItemId, OrderId, PublisherId, RefundId, TitleId};
use crate::invalid::Invalid;
use crate::seal::KeyCommitment;
use crate::signed::Signed;
use crate::succession::Succession;
use crate::time::Utc;

/// Something that has happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Record {
    /// The operator lets a publisher deposit keys.
    PublisherAdmitted {
        /// Who.
        publisher: PublisherId,
        /// What people call it.
        name: String,
    },
    /// A publisher has deposited the key of an item.
    KeyDeposited {
        /// The sealed file the key opens.
        item: ItemId,
        /// Whose item it is.
        publisher: PublisherId,
        /// The title it belongs to.
        title: TitleId,
        /// What the key must hash to.
        #[serde(with = "form::commitment")]
        commitment: KeyCommitment,
        /// How many spans the item has.
        n_spans: u32,
        /// What the publisher says about buying it.
        terms: Terms,
        /// The key, as only the vault can open it.
        key: SealedKey,
    },
    /// A publisher has published a later version of the entry of an item: other offers, or none.
    TermsChanged {
        /// Whose offers.
        item: ItemId,
        /// From now on.
        terms: Terms,
    },
    /// A customer has ordered.
    OrderCreated {
        /// The new order.
        order: OrderId,
        /// Whose it is.
        account: AccountId,
        /// Made by the client before it asked.
        idempotency_key: IdempotencyKey,
        /// What was bought.
        item: ItemId,
        /// Which offer it was bought under.
        #[serde(with = "form::offer_id")]
        offer: OfferId,
        /// What it costs, as offered at that moment.
        #[serde(with = "form::money")]
        price: Money,
        /// Which clocks it buys, as offered at that moment.
        #[serde(with = "form::policy")]
        policy: Policy,
    },
    /// The operator has sold a pass.
    PassCreated {
        /// Keyed hash of its code.
        pass: PassId,
        /// How many credits it holds.
        credits: u32,
        /// Worth nothing from here on.
        expires: Utc,
    },
    /// A pass has paid an order.
    PassRedeemed {
        /// Which order.
        order: OrderId,
        /// With which pass.
        pass: PassId,
        /// For how many credits.
        credits: u32,
    },
    /// A till says that money for an order has arrived.
    PaymentReceived {
        /// Which order.
        order: OrderId,
        /// Which message of the till said so.
        event: EventId,
    },
    /// Money went back. Credits of a pass return to the pass.
    OrderRefunded {
        /// Which order.
        order: OrderId,
        /// On whose word.
        by: RefundedBy,
    },
    /// A key has been released to a device for the first time.
    Granted {
        /// Under which order.
        order: OrderId,
        /// To which device.
        device: DeviceId,
        /// Number of its licence.
        serial: u64,
    },
    /// The licence of a grant has been issued anew.
    LicenceRenewed {
        /// Under which order.
        order: OrderId,
        /// For which device.
        device: DeviceId,
    },
    /// A title was played for the first time under an order: the clock of the rental runs.
    FirstPlayed {
        /// Under which order.
        order: OrderId,
        /// On which device.
        device: DeviceId,
        /// When, as the device says and the keyserver finds possible.
        first_play: Utc,
    },
    /// A key was taken back from a device: its licence no longer counts.
    GrantWithdrawn {
        /// Under which order.
        order: OrderId,
        /// From which device.
        device: DeviceId,
        /// On whose word.
        by: WithdrawnBy,
    },
    /// No key leaves for a device any more, and none that it has counts.
    DeviceRevoked {
        /// Which device.
        device: DeviceId,
        /// Why, in the operator's words.
        reason: Reason,
    },
    /// Keys of spans may leave for a device under an order that drips: so many in all since its grant.
    SpansAllowed {
        /// Under which order.
        order: OrderId,
        /// For which device.
        device: DeviceId,
        /// How many, those of earlier records included.
        total: u64,
    },
    /// A device was given the beginning of a title for nothing.
    PreviewGiven {
        /// Of which item.
        item: ItemId,
        /// Which device.
        device: DeviceId,
    },
    /// Orders for which no money ever came are no longer kept.
    OrdersForgotten {
        /// Those that were created before this moment.
        created_before: Utc,
    },
    /// A deposited key was sealed under another master key.
    KeyResealed {
        /// The item it opens.
        item: ItemId,
        /// The key, as only the vault can open it from now on.
        key: SealedKey,
    },
    /// The operator has accepted a journal that ends before what was once there, such as one from a backup.
    RollbackAccepted {
        /// How many records there were.
        records: u64,
        /// The hash of the last one.
        hash: ChainHash,
    },
    /// The operator has sold a pass for time.
    TimePassCreated {
        /// Keyed hash of its code.
        pass: PassId,
        /// Worth nothing from here on.
        expires: Utc,
    },
    /// A customer has ordered a pass.
    PassOrdered {
        /// The new order.
        order: OrderId,
        /// Whose it is.
        account: AccountId,
        /// Made by the client before it asked.
        idempotency_key: IdempotencyKey,
        /// Which kind of pass, as the shop calls it.
        #[serde(with = "form::offer_id")]
        offer: OfferId,
        /// Keyed hash of its code.
        pass: PassId,
        /// What it will hold.
        holds: Holds,
        /// For how long, from the payment on, in milliseconds.
        valid_ms: u64,
        /// Whether its code is for someone else.
        gift: bool,
        /// What it costs.
        #[serde(with = "form::money")]
        price: Money,
    },
    /// A pass now belongs to an account, which alone may spend it.
    PassClaimed {
        /// Which pass.
        pass: PassId,
        /// Whose it is.
        account: AccountId,
    },
    /// The operator has taken a pass back: it pays for nothing any more.
    PassVoided {
        /// Which pass.
        pass: PassId,
        /// Why.
        reason: Reason,
    },
    /// A provider is going to be asked to collect the price of an order.
    PaymentBegun {
        /// Which order.
        order: OrderId,
        /// The provider's idempotency key.
        attempt: AttemptId,
        /// What the payer pays with.
        method: Method,
    },
    /// A provider has said what it calls a payment.
    PaymentNamed {
        /// For which order.
        order: OrderId,
        /// Which one.
        attempt: AttemptId,
        /// Its name there.
        reference: Reference,
    },
    /// A provider has collected.
    PaymentCollected {
        /// In this attempt.
        attempt: AttemptId,
    },
    /// A provider has not collected and will not.
    PaymentDeclined {
        /// For which order.
        order: OrderId,
        /// In this attempt.
        attempt: AttemptId,
        /// Why.
        why: Decline,
    },
    /// The price of an order was put on the account's bill.
    OrderBilled {
        /// Which order.
        order: OrderId,
    },
    /// Money of an order is to go back.
    RefundBegun {
        /// Which order.
        order: OrderId,
        /// Its name, made before it was asked for: the provider's idempotency key.
        refund: RefundId,
        /// How much, in the minor unit of the price.
        minor: u64,
        /// Whether the right that was bought stays.
        keeps_rights: bool,
        /// On whose word.
        by: RefundedBy,
        /// The payment of which a provider gives it back; none when nobody has to be asked.
        attempt: Option<AttemptId>,
    },
    /// A provider has given money back.
    RefundMade {
        /// Which refund.
        refund: RefundId,
    },
    /// A provider will not give money back.
    RefundFailed {
        /// Which refund.
        refund: RefundId,
    },
    /// A provider has given back more of a payment than it was asked to: someone did it there.
    ReturnedElsewhere {
        /// Of which payment.
        attempt: AttemptId,
        /// How much more, in all.
        total_minor: u64,
    },
    /// A till says that part of the money went back.
    PartReturned {
        /// Which order.
        order: OrderId,
        /// Which message of the till said so.
        event: EventId,
        /// How much, in the minor unit of the price.
        minor: u64,
    },
    /// The payer of an order wants the money back from their bank, or that was decided.
    Disputed {
        /// Which order.
        order: OrderId,
        /// Which dispute.
        dispute: DisputeId,
        /// How it stands.
        standing: Dispute,
    },
    /// The operator lets an account pay by its bill, up to here.
    CreditLimitSet {
        /// Which account.
        account: AccountId,
        /// The most it may owe at a time, in the minor unit; zero means nothing.
        minor: u64,
        /// Of what.
        #[serde(with = "form::currency")]
        currency: Currency,
    },
    /// The bills of all months up to this one are settled and do not change any more.
    MonthsClosed {
        /// The last of them.
        month: Month,
    },
    /// The operator has noted how an account pays with a provider.
    CardSaved {
        /// Which account.
        account: AccountId,
        /// With what.
        card: Card,
    },
    /// The key that signs licences has handed over to another.
    SigningKeyChanged {
        /// As the key before has signed it.
        #[serde(with = "form::succession")]
        succession: Signed<Succession>,
    },
    /// The operator has taken over a key that a studio has made for a publisher's item.
    KeyImported {
        /// Who may publish with it.
        publisher: PublisherId,
        /// What the studio calls it.
        kid: KeyId,
        /// What the key must hash to.
        #[serde(with = "form::commitment")]
        commitment: KeyCommitment,
        /// The key, as only the vault can open it.
        key: SealedKey,
    },
}

impl Record {
    /// The order it is about. A record that is about none never goes away with an order.
    pub const fn order(&self) -> Option<OrderId> {
        match self {
            Self::OrderCreated { order, .. }
            | Self::PassRedeemed { order, .. }
            | Self::PaymentReceived { order, .. }
            | Self::OrderRefunded { order, .. }
            | Self::Granted { order, .. }
            | Self::LicenceRenewed { order, .. }
            | Self::PassOrdered { order, .. }
            | Self::PaymentBegun { order, .. }
            | Self::PaymentNamed { order, .. }
            | Self::PaymentDeclined { order, .. }
            | Self::OrderBilled { order, .. }
            | Self::RefundBegun { order, .. }
            | Self::PartReturned { order, .. }
            | Self::Disputed { order, .. }
            | Self::FirstPlayed { order, .. }
            | Self::SpansAllowed { order, .. }
            | Self::GrantWithdrawn { order, .. } => Some(*order),
            Self::PublisherAdmitted { .. }
            | Self::KeyDeposited { .. }
            | Self::TermsChanged { .. }
            | Self::PassCreated { .. }
            | Self::DeviceRevoked { .. }
            | Self::PreviewGiven { .. }
            | Self::OrdersForgotten { .. }
            | Self::KeyResealed { .. }
            | Self::RollbackAccepted { .. }
            | Self::TimePassCreated { .. }
            | Self::PassClaimed { .. }
            | Self::PassVoided { .. }
            | Self::CreditLimitSet { .. }
            | Self::MonthsClosed { .. }
            | Self::CardSaved { .. }
            | Self::SigningKeyChanged { .. }
            | Self::KeyImported { .. } => None,
            // Money came or went back: such an order is never forgotten.
            Self::PaymentCollected { .. }
            | Self::RefundMade { .. }
            | Self::RefundFailed { .. }
            | Self::ReturnedElsewhere { .. } => None,
        }
    }
}

/// A way to pay that a provider keeps for an account. The number of the card is the provider's secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Card {
    /// What the payer calls it: "Visa ending in 4242".
    pub label: Label,
    /// What the provider calls it.
    pub method: Reference,
    /// To which customer of the provider it is attached, if to any.
    pub customer: Option<Reference>,
}

/// What a payer pays with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Method {
    /// The card that is saved for the account.
    Card(Card),
    /// On a page of this kind of bank or wallet, to which the payer is sent.
    Elsewhere(Reference),
}

/// What a publisher says about buying an item, as in its latest catalog entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Terms {
    /// Version of the catalog entry.
    pub version: u64,
    /// What people call the title; empty in records from before names were kept.
    #[serde(default)]
    pub name: String,
    /// What can be bought; none while the title is withdrawn.
    #[serde(with = "form::offers")]
    pub offers: Vec<Offer>,
}

impl Terms {
    /// The offer of this name.
    pub fn offer(&self, id: &str) -> Option<&Offer> {
        self.offers.iter().find(|offer| offer.id.as_str() == id)
    }
}

/// On whose word an order was refunded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum RefundedBy {
    /// The operator's, for this reason.
    Operator(Reason),
    /// A till's, in this message.
    Till(EventId),
    /// The provider's: it was done there.
    Provider,
    /// Nobody's: the order was paid already.
    Overpaid,
}

/// On whose word a key was taken back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum WithdrawnBy {
    /// Of another device of the account, which takes its place.
    Device(DeviceId),
    /// The operator's, for this reason.
    Operator(Reason),
}

macro_rules! hash_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(Hex<32>);

        impl $name {
            /// Wraps a hash.
            pub const fn from_bytes(bytes: [u8; 32]) -> Self {
                Self(Hex(bytes))
            }

            /// The bytes, as protobuf fields want them.
            pub fn to_vec(&self) -> Vec<u8> {
                self.0.0.to_vec()
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({}…)", stringify!($name), &self.0.to_string()[..8])
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = Invalid;

            fn from_str(text: &str) -> Result<Self, Invalid> {
                text.parse().map(Self)
            }
        }
    };
}

hash_id!(
    /// A pass: the keyed hash of its code. Without the key, the code cannot be found by trying.
    PassId
);
hash_id!(
    /// A message of a till: the hash of its webhook id.
    EventId
);
hash_id!(
    /// A link of the journal's chain.
    ChainHash
);
hash_id!(
    /// A dispute: the hash of what its provider calls it.
    DisputeId
);

impl DisputeId {
    /// Tills do not name disputes: an order has one at a till.
    pub const OF_THE_TILL: Self = Self::from_bytes([0; 32]);
}

/// A content key sealed by the vault: a nonce of 24 bytes, 32 bytes of ciphertext and a tag of 16.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SealedKey(Hex<{ SealedKey::LEN }>);

impl SealedKey {
    /// Bytes in one.
    pub const LEN: usize = 72;

    /// Wraps what the vault made.
    pub const fn from_bytes(bytes: [u8; Self::LEN]) -> Self {
        Self(Hex(bytes))
    }

    /// For the vault to open.
    pub const fn as_bytes(&self) -> &[u8; Self::LEN] {
        &self.0.0
    }
}

impl fmt::Debug for SealedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SealedKey")
    }
}

/// The name a client has given to one purchase before asking for it: 16 to 64 visible ASCII characters.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct IdempotencyKey(String);

impl IdempotencyKey {
    /// Checks a key.
    pub fn new(text: &str) -> Result<Self, Invalid> {
        let fits = (16..=64).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
        match fits {
            true => Ok(Self(text.to_owned())),
            false => Err(Invalid::new("idempotency_key", "must be 16 to 64 visible ASCII characters")),
        }
    }
}

impl<'de> Deserialize<'de> for IdempotencyKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(&String::deserialize(deserializer)?).map_err(de::Error::custom)
    }
}

/// Why the operator did something, in words: 1 to 200 bytes on one line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Reason(String);

impl Reason {
    /// Longest reason, in bytes.
    pub const MAX_LEN: usize = 200;

    /// Checks a reason.
    pub fn new(text: &str) -> Result<Self, Invalid> {
        line("reason", text, Self::MAX_LEN).map(Self)
    }

    /// The words.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What a provider calls something: 1 to 255 visible ASCII characters.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct Reference(String);

impl Reference {
    /// Checks a name.
    pub fn new(text: &str) -> Result<Self, Invalid> {
        let fits = (1..=255).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
        match fits {
            true => Ok(Self(text.to_owned())),
            false => Err(Invalid::new("reference", "must be 1 to 255 visible ASCII characters")),
        }
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl<'de> Deserialize<'de> for Reference {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(&String::deserialize(deserializer)?).map_err(de::Error::custom)
    }
}

/// What people call something: 1 to 64 bytes on one line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Label(String);

impl Label {
    /// Longest label, in bytes.
    pub const MAX_LEN: usize = 64;

    /// Checks a label.
    pub fn new(text: &str) -> Result<Self, Invalid> {
        line("label", text, Self::MAX_LEN).map(Self)
    }

    /// The words.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl<'de> Deserialize<'de> for Label {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(&String::deserialize(deserializer)?).map_err(de::Error::custom)
    }
}

impl<'de> Deserialize<'de> for Reason {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(&String::deserialize(deserializer)?).map_err(de::Error::custom)
    }
}

/// Text for people on one line, neither empty nor too long.
pub(super) fn line(field: &'static str, text: &str, max_len: usize) -> Result<String, Invalid> {
    let fits = (1..=max_len).contains(&text.len()) && !text.chars().any(char::is_control);
    match fits {
        true => Ok(text.to_owned()),
        false => {
            Err(Invalid::new(field, format!("must be 1 to {max_len} bytes on one line without control characters")))
        }
    }
}

/// Bytes that are written in hex.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Hex<const N: usize>([u8; N]);

impl<const N: usize> fmt::Display for Hex<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        crate::id::write_hex(f, &self.0)
    }
}

impl<const N: usize> FromStr for Hex<N> {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let bytes = data_encoding::HEXLOWER.decode(text.as_bytes()).ok();
        let bytes = bytes.and_then(|bytes| bytes.try_into().ok());
        bytes.map(Self).ok_or_else(|| Invalid::new("hex", format!("must be {} digits of 0-9 a-f", 2 * N)))
    }
}

impl<const N: usize> Serialize for Hex<N> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de, const N: usize> Deserialize<'de> for Hex<N> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idempotency_keys_are_visible_ascii_of_a_sensible_length() {
        for bad in ["", "fifteen-letters", "with a space in it", "mit-Umläuten-drin", &"x".repeat(65)] {
            assert!(IdempotencyKey::new(bad).is_err(), "{bad}");
        }
        assert!(IdempotencyKey::new("0123456789abcdef").is_ok());
    }

    #[test]
    fn reasons_stay_on_one_line() {
        assert!(Reason::new("").is_err());
        assert!(Reason::new("two\nlines").is_err());
        assert!(Reason::new(&"x".repeat(201)).is_err());
        assert!(Reason::new("asked for it").is_ok());
    }

    #[test]
    fn records_read_as_they_were_written() {
        let record =
            Record::OrderRefunded { order: OrderId::from([7; 16]), by: RefundedBy::Till(EventId::from_bytes([9; 32])) };
        let text = serde_json::to_string(&record).expect("serializes");
        assert!(text.contains(r#""kind":"order_refunded""#), "{text}");
        assert_eq!(serde_json::from_str::<Record>(&text).expect("reads back"), record);
    }

    #[test]
    fn records_with_more_than_we_know_are_refused() {
        let text = r#"{"kind":"payment_received","order":"x","event":"y","more":1}"#;
        assert!(serde_json::from_str::<Record>(text).is_err());
        assert!(serde_json::from_str::<Record>(r#"{"kind":"time_travelled"}"#).is_err());
    }
}
