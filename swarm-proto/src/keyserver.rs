//! The decisions of the keyserver: which order stands how, what a pass is worth, when a key may leave.
//!
//! One owner of all state, the [`ledger::Ledger`]. It takes commands and answers each with at most one
//! [`record::Record`] and the reply that depends on it; the daemon makes the record durable before anyone sees the
//! reply, and rebuilds the ledger from the records at the next start. Nothing else is remembered: the journal is the
//! truth.

pub mod attempts;
pub mod billing;
pub mod cashier;
pub mod clock_watch;
pub mod compaction;
pub mod drips;
pub mod dues;
pub mod grants;
pub mod ledger;
pub mod orders;
pub mod passes;
pub mod players;
pub mod record;
pub mod refusals;
