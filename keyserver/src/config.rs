//! Everything an operator can set. `config.example.toml` says the same and is tested to equal the defaults.

use std::path::PathBuf;

use daemon::config::{Invalid, Settings};
use daemon::{serve, units};
use serde::{Deserialize, Serialize};
use swarm_proto::catalog::{Currency, Money};
use swarm_proto::id::{PublisherId, ServerId};
use swarm_proto::keyserver::ledger;
use swarm_proto::keyserver::orders::MAX_REPLACEMENTS;
use swarm_proto::keyserver::passes::{Holds, MAX_CREDITS};

/// The port a keyserver listens on unless it is told otherwise.
const PORT: u16 = 7002;

/// Smallest and largest volume: a deposit has to fit, and reading one again has to take seconds.
const VOLUME: std::ops::RangeInclusive<u64> = 16 << 10..=4 << 30;

/// What came of an idempotency key is known for at least so long.
const MIN_REMEMBERED: std::time::Duration = std::time::Duration::from_secs(30 * 24 * 60 * 60);

/// Most trackers whose memberships are believed: each is compared with at every call.
const MAX_TRACKERS: usize = 64;

/// Most kinds of passes in the shop: they are all on one page.
const MAX_PASS_KINDS: usize = 32;

/// The longest that a link to the checkout pages may open them.
const MAX_LINK_VALID: std::time::Duration = std::time::Duration::from_secs(24 * 60 * 60);

/// The longest that one question to a provider may take.
const MAX_PROVIDER_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(30);

/// How often a device may be asked to say that it plays.
const REPORT_EVERY: std::ops::RangeInclusive<std::time::Duration> =
    std::time::Duration::from_secs(1)..=std::time::Duration::from_secs(600);

/// The configuration of a keyserver.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// What people call this keyserver; on its page.
    pub name: String,
    /// Trackers whose memberships are believed. Without one, no device can buy.
    pub trusted_trackers: Vec<ServerId>,
    /// Publishers that are admitted at the start, besides those the operator admits later.
    pub publishers: Vec<PublisherId>,
    /// The port.
    pub server: serve::Config,
    /// What an order may do.
    pub orders: Orders,
    /// How many devices play.
    pub play: Play,
    /// How much is kept.
    pub limits: Limits,
    /// How the journal is kept.
    pub journal: Journal,
    /// Where the master key comes from.
    pub vault: Vault,
    /// The pages where people pay.
    pub checkout: Checkout,
    /// Payments through Stripe.
    pub stripe: Stripe,
    /// Kinds of passes that customers can buy.
    pub passes: Vec<PassKind>,
}

/// Where the master key comes from.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Vault {
    /// A program and its arguments that print the master key; empty for the file in the data folder.
    pub master_command: Vec<String>,
}

/// How the journal is kept.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Journal {
    /// A volume is closed, and a snapshot taken, when it has grown to this size.
    pub volume: units::ByteSize,
    /// Unpaid orders are forgotten when a volume is closed this long after they expired.
    pub forget_unpaid_after: units::Duration,
}

/// The pages where people pay.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Checkout {
    /// Where browsers reach this keyserver, if not under the address it listens on.
    pub public_url: Option<String>,
    /// How long a link to the pages opens them.
    pub link_valid: units::Duration,
    /// The page of a till; `{order}` in it is the order's code.
    pub till_url: Option<String>,
}

/// Payments through Stripe.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Stripe {
    /// The file of the secret key, mode 0600. Without one, nobody pays through Stripe.
    pub key_file: Option<PathBuf>,
    /// Where Stripe's interface is.
    pub url: String,
    /// How long an answer may take. A payment that got none waits, and is asked about again.
    pub timeout: units::Duration,
    /// Questions under way at a time.
    pub at_a_time: usize,
    /// The file of the secret that Stripe signs its messages with, mode 0600.
    pub webhook_secret_file: Option<PathBuf>,
    /// The file of the one before, while it is exchanged.
    pub webhook_secret_before_file: Option<PathBuf>,
    /// Banks and wallets to which payers may be sent, as Stripe calls them.
    pub methods: Vec<String>,
}

/// A kind of pass that customers can buy.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PassKind {
    /// What orders call it: 1 to 32 of a-z, 0-9 and hyphen.
    pub id: String,
    /// How many titles it pays for; left out of a pass for time.
    #[serde(default)]
    pub credits: Option<u32>,
    /// How long it is worth something, from the payment on.
    pub valid: units::Duration,
    /// What it costs, in the minor unit.
    pub price_minor: u64,
    /// Of what: three letters of ISO 4217.
    pub currency: String,
}

impl PassKind {
    /// The kind as the ledger wants it.
    pub fn offer(&self) -> Result<ledger::PassOffer, Invalid> {
        let wrong = |why: &dyn std::fmt::Display| {
            let hint = "id, credits (or none, for time), valid, price_minor and currency";
            Invalid::new("passes", why.to_string(), hint)
        };
        let currency = self.currency.parse().map_err(|error| wrong(&error))?;
        if currency == Currency::CREDITS {
            return Err(wrong(&"a pass is bought with money, not with credits"));
        }
        let holds = match self.credits {
            Some(credits @ 1..=MAX_CREDITS) => Holds::Credits(credits),
            Some(_) => return Err(wrong(&format!("credits must be 1 to {MAX_CREDITS}"))),
            None => Holds::Time,
        };
        if !ledger::PASS_VALID.contains(&self.valid.get()) {
            return Err(wrong(&"valid must be 1 second to 10 years"));
        }
        Ok(ledger::PassOffer {
            id: self.id.parse().map_err(|error| wrong(&error))?,
            holds,
            valid: self.valid.get(),
            price: Money::new(self.price_minor, currency).map_err(|error| wrong(&error))?,
        })
    }
}

impl Default for Checkout {
    fn default() -> Checkout {
        Checkout { public_url: None, link_valid: units::Duration::from_secs(15 * 60), till_url: None }
    }
}

impl Default for Stripe {
    fn default() -> Stripe {
        Stripe {
            key_file: None,
            url: "https://api.stripe.com".to_owned(),
            timeout: units::Duration::from_secs(5),
            at_a_time: 16,
            webhook_secret_file: None,
            webhook_secret_before_file: None,
            methods: Vec::new(),
        }
    }
}

/// What an order may do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Orders {
    /// How long an order waits for money.
    pub open_for: units::Duration,
    /// For how many devices of an account the key of one order may leave.
    pub devices_per_order: usize,
    /// Orders of one account that wait for money at a time.
    pub open_per_account: usize,
    /// How often a lost or broken device of one order may be replaced within the window.
    pub replacements: usize,
    /// Within which time replacements are counted.
    pub replacement_window: units::Duration,
}

/// How many devices play.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Play {
    /// Devices of one account that play at a time.
    pub devices_at_a_time: Devices,
    /// How often a device that plays says so. Its place is free after three times of silence.
    pub report_every: units::Duration,
}

/// A number of devices, or the word "unlimited".
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Devices {
    /// So many.
    AtMost(usize),
    /// As many as there are.
    Unlimited(Unlimited),
}

/// The word for no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unlimited {
    /// No limit.
    Unlimited,
}

/// How much is kept: all of it is in memory.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Orders in all.
    pub orders: usize,
    /// Orders of one account.
    pub orders_per_account: usize,
    /// Passes.
    pub passes: usize,
    /// Deposited keys.
    pub items: usize,
    /// Publishers.
    pub publishers: usize,
    /// Payments whose fate no provider has told yet.
    pub open_payments: usize,
}

impl Config {
    /// The limits as the ledger wants them.
    pub fn ledger(&self) -> ledger::Config {
        ledger::Config {
            open_for: self.orders.open_for.get(),
            max_devices_per_order: self.orders.devices_per_order,
            max_replacements: self.orders.replacements,
            replacement_window: self.orders.replacement_window.get(),
            max_open_orders_per_account: self.orders.open_per_account,
            max_orders_per_account: self.limits.orders_per_account,
            max_orders: self.limits.orders,
            max_passes: self.limits.passes,
            max_items: self.limits.items,
            max_publishers: self.limits.publishers,
            max_open_payments: self.limits.open_payments,
        }
    }
}

impl Default for Config {
    fn default() -> Config {
        Config {
            name: "keyserver".to_owned(),
            trusted_trackers: Vec::new(),
            publishers: Vec::new(),
            server: serve::Config::on_loopback(PORT),
            orders: Orders::default(),
            play: Play::default(),
            limits: Limits::default(),
            journal: Journal::default(),
            vault: Vault::default(),
            checkout: Checkout::default(),
            stripe: Stripe::default(),
            passes: Vec::new(),
        }
    }
}

impl Default for Journal {
    fn default() -> Journal {
        Journal { volume: units::ByteSize(64 << 20), forget_unpaid_after: units::Duration(MIN_REMEMBERED) }
    }
}

impl Default for Orders {
    fn default() -> Orders {
        let ledger = ledger::Config::default();
        Orders {
            open_for: units::Duration(ledger.open_for),
            devices_per_order: ledger.max_devices_per_order,
            open_per_account: ledger.max_open_orders_per_account,
            replacements: ledger.max_replacements,
            replacement_window: units::Duration(ledger.replacement_window),
        }
    }
}

impl Default for Play {
    fn default() -> Play {
        Play {
            devices_at_a_time: Devices::AtMost(2),
            report_every: units::Duration(std::time::Duration::from_secs(30)),
        }
    }
}

impl Default for Limits {
    fn default() -> Limits {
        let ledger = ledger::Config::default();
        Limits {
            orders: ledger.max_orders,
            orders_per_account: ledger.max_orders_per_account,
            passes: ledger.max_passes,
            items: ledger.max_items,
            publishers: ledger.max_publishers,
            open_payments: ledger.max_open_payments,
        }
    }
}

impl Settings for Config {
    const ROLE: &'static str = "keyserver";
    const EXAMPLE: &'static str = include_str!("../config.example.toml");

    fn check(&self) -> Result<(), Invalid> {
        if self.name.is_empty() || self.name.len() > 100 || self.name.chars().any(char::is_control) {
            return Err(Invalid::new("name", "it is shown to people", "1 to 100 bytes on one line"));
        }
        if self.trusted_trackers.len() > MAX_TRACKERS {
            return Err(Invalid::new("trusted_trackers", "these are too many", format!("at most {MAX_TRACKERS}")));
        }
        let positive = [
            ("orders.devices_per_order", self.orders.devices_per_order),
            ("orders.replacements", self.orders.replacements),
            ("orders.open_per_account", self.orders.open_per_account),
            ("limits.orders", self.limits.orders),
            ("limits.orders_per_account", self.limits.orders_per_account),
            ("limits.passes", self.limits.passes),
            ("limits.items", self.limits.items),
            ("limits.publishers", self.limits.publishers),
            ("limits.open_payments", self.limits.open_payments),
            ("stripe.at_a_time", self.stripe.at_a_time),
        ];
        if let Some((key, _)) = positive.into_iter().find(|(_, limit)| *limit == 0) {
            return Err(Invalid::new(key, "zero means none at all, and nothing could be sold", "at least 1"));
        }
        if self.orders.replacements > MAX_REPLACEMENTS {
            return Err(Invalid::new(
                "orders.replacements",
                "so many are not remembered",
                format!("at most {MAX_REPLACEMENTS}"),
            ));
        }
        if self.play.devices_at_a_time == Devices::AtMost(0) {
            return Err(Invalid::new("play.devices_at_a_time", "nobody could play", "at least 1, or \"unlimited\""));
        }
        if !REPORT_EVERY.contains(&self.play.report_every.get()) {
            return Err(Invalid::new(
                "play.report_every",
                "too often costs everybody, too rarely misses them",
                "1s to 10min",
            ));
        }
        if self.orders.open_for.get().is_zero() {
            return Err(Invalid::new("orders.open_for", "every order would expire at once", "for example \"24h\""));
        }
        if !VOLUME.contains(&self.journal.volume.0) {
            return Err(Invalid::new("journal.volume", "no journal can be kept in such volumes", "16 KiB to 4 GiB"));
        }
        if self.journal.forget_unpaid_after.get() < MIN_REMEMBERED {
            let why = "clients may ask again under an idempotency key for 30 days";
            return Err(Invalid::new("journal.forget_unpaid_after", why, "at least \"30days\""));
        }
        if self.checkout.link_valid.get().is_zero() || self.checkout.link_valid.get() > MAX_LINK_VALID {
            return Err(Invalid::new("checkout.link_valid", "whoever has a link pays for the account", "1s to 24h"));
        }
        if self.stripe.timeout.get().is_zero() || self.stripe.timeout.get() > MAX_PROVIDER_TIMEOUT {
            return Err(Invalid::new("stripe.timeout", "people wait for it", "1s to 30s"));
        }
        if self
            .checkout
            .till_url
            .as_ref()
            .is_some_and(|url| !url.starts_with("https://") && !url.starts_with("http://"))
        {
            return Err(Invalid::new(
                "checkout.till_url",
                "browsers are sent there",
                "https://till.example/?order={order}",
            ));
        }
        if self.passes.len() > MAX_PASS_KINDS {
            return Err(Invalid::new(
                "passes",
                "these are too many to choose from",
                format!("at most {MAX_PASS_KINDS}"),
            ));
        }
        self.passes.iter().try_for_each(|kind| kind.offer().map(drop))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn example_says_the_defaults() {
        daemon::config::example_is_default::<Config>().expect("the same");
    }

    #[test]
    fn limits_of_zero_are_refused() {
        let mut config = Config::default();
        config.limits.orders = 0;
        assert_eq!(config.check().expect_err("refused").key, "limits.orders");
    }
}
