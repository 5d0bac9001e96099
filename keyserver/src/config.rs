//! Everything an operator can set. `config.example.toml` says the same and is tested to equal the defaults.

use daemon::config::{Invalid, Settings};
use daemon::{serve, units};
use serde::{Deserialize, Serialize};
use swarm_proto::id::{PublisherId, ServerId};
use swarm_proto::keyserver::ledger;

/// The port a keyserver listens on unless it is told otherwise.
const PORT: u16 = 7002;

/// Smallest and largest volume: a deposit has to fit, and reading one again has to take seconds.
const VOLUME: std::ops::RangeInclusive<u64> = 16 << 10..=4 << 30;

/// What came of an idempotency key is known for at least so long.
const MIN_REMEMBERED: std::time::Duration = std::time::Duration::from_secs(30 * 24 * 60 * 60);

/// Most trackers whose memberships are believed: each is compared with at every call.
const MAX_TRACKERS: usize = 64;

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
    /// How much is kept.
    pub limits: Limits,
    /// How the journal is kept.
    pub journal: Journal,
    /// Where the master key comes from.
    pub vault: Vault,
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
            limits: Limits::default(),
            journal: Journal::default(),
            vault: Vault::default(),
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
            ("orders.open_per_account", self.orders.open_per_account),
            ("limits.orders", self.limits.orders),
            ("limits.orders_per_account", self.limits.orders_per_account),
            ("limits.passes", self.limits.passes),
            ("limits.items", self.limits.items),
            ("limits.publishers", self.limits.publishers),
            ("limits.open_payments", self.limits.open_payments),
        ];
        if let Some((key, _)) = positive.into_iter().find(|(_, limit)| *limit == 0) {
            return Err(Invalid::new(key, "zero means none at all, and nothing could be sold", "at least 1"));
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
        Ok(())
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
