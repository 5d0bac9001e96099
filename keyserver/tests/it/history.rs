//! What buyers were told, held against what the journal says: the invariants I1 to I4 and I10, checked by a reader that
//! shares no code with the ledger.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};

use serde_json::Value;
use swarm_proto::id::{DeviceId, OrderId};

use crate::process::Home;

/// What a keyserver has acknowledged to someone.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Told {
    /// "This is your order", to whoever asked under this idempotency key.
    Ordered { key: String, order: OrderId },
    /// "It is paid."
    Paid { order: OrderId },
    /// "Here is the key", under this licence.
    Granted { order: OrderId, device: DeviceId, serial: u64 },
}

/// Everything that was acknowledged, over all lives of a keyserver.
#[derive(Debug, Default)]
pub(crate) struct History(Mutex<Vec<Told>>);

impl History {
    pub(crate) fn note(&self, told: Told) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(told);
    }

    /// Holds what was told against the whole journal of a home.
    pub(crate) fn check(&self, home: &Home) {
        let journal = Facts::read(home);
        for told in self.0.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            match told {
                Told::Ordered { key, order } => {
                    assert_eq!(journal.keys.get(key), Some(&order.to_string()), "I1: the order of {key} is lost");
                }
                Told::Paid { order } => {
                    assert!(journal.paid.contains(&order.to_string()), "I1: the payment of {order} is lost");
                }
                Told::Granted { order, device, serial } => {
                    let found = journal.grants.get(&(order.to_string(), device.to_string()));
                    assert_eq!(found, Some(serial), "I10: a key left for {order} that the journal does not hold");
                }
            }
        }
    }
}

/// What the records of a journal say, taken one by one.
#[derive(Default)]
struct Facts {
    keys: BTreeMap<String, String>,
    policies: BTreeMap<String, Value>,
    paid: BTreeSet<String>,
    refunded: BTreeSet<String>,
    grants: BTreeMap<(String, String), u64>,
    /// What each pass holds.
    balances: BTreeMap<String, i64>,
    events: BTreeSet<String>,
}

impl Facts {
    fn read(home: &Home) -> Facts {
        let verdict = home.ask(&["audit", "verify"]);
        assert_eq!((&verdict["ok"], &verdict["believed_to"]), (&Value::Bool(true), &Value::Null), "I10: {verdict}");
        let exported = home.command(&["audit", "export"]);
        assert!(exported.status.success(), "{}", String::from_utf8_lossy(&exported.stderr));
        let mut facts = Facts::default();
        for line in String::from_utf8(exported.stdout).expect("text").lines() {
            let line: Value = serde_json::from_str(line).expect("JSON");
            facts.take(line["at_utc_ms"].as_u64().expect("a moment"), &line["record"]);
        }
        facts
    }

    fn take(&mut self, at: u64, record: &Value) {
        let text = |field: &str| record[field].as_str().unwrap_or_else(|| panic!("no {field} in {record}")).to_owned();
        let number = |field: &str| record[field].as_u64().unwrap_or_else(|| panic!("no {field} in {record}"));
        match record["kind"].as_str().expect("a kind") {
            "order_created" => {
                let twice = self.keys.insert(text("idempotency_key"), text("order"));
                assert_eq!(twice, None, "I1: two orders under one idempotency key");
                self.policies.insert(text("order"), record["policy"].clone());
            }
            "pass_created" => {
                self.balances.insert(text("pass"), number("credits").cast_signed());
            }
            "pass_redeemed" => {
                let balance = self.balances.get_mut(&text("pass")).expect("I3: a pass that was sold");
                *balance -= number("credits").cast_signed();
                assert!(*balance >= 0, "I3: a pass below zero");
                assert!(self.paid.insert(text("order")), "I3: an order is paid twice by a pass");
            }
            "payment_received" => {
                assert!(self.events.insert(text("event")), "I2: one message of a till counts twice");
                self.paid.insert(text("order"));
            }
            "order_refunded" => {
                self.refunded.insert(text("order"));
            }
            "granted" => {
                let order = text("order");
                assert!(self.paid.contains(&order) && !self.refunded.contains(&order), "I2: a key without payment");
                let twice = self.grants.insert((order.clone(), text("device")), number("serial"));
                assert_eq!(twice, None, "I2: two grants for one order and device");
                let policy = &self.policies[&order];
                let (begin, end) = (policy["not_before_utc_ms"].as_u64(), policy["not_after_utc_ms"].as_u64());
                assert!(
                    begin.is_none_or(|begin| begin <= at) && end.is_none_or(|end| at < end),
                    "I4: outside its window"
                );
            }
            _ => {}
        }
    }
}
