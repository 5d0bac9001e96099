//! Everything an operator can set. `config.example.toml` says the same and is tested to equal the defaults.

use daemon::config::{Invalid, Settings};
use daemon::{serve, units};
use serde::{Deserialize, Serialize};
use swarm_proto::id::{PublisherId, ServerId};
use swarm_proto::keyserver::ledger;
use swarm_proto::keyserver::orders::MAX_REPLACEMENTS;

/// The port a keyserver listens on unless it is told otherwise.
const PORT: u16 = 7002;

/// Most trackers whose memberships are believed: each is compared with at every call.
const MAX_TRACKERS: usize = 64;

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

/// How much is kept, ever: all of it is in memory.
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
        }
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
