//! What a box or seed decides: which chunk to ask of whom, and whom to give what.
//!
//! The daemon `peer-node` is the hands of these machines: it owns sockets, files and clocks, tells them what happened
//! and does what they wish. A chunk's bytes never come here, only indices and verdicts.

pub mod chunk_set;
pub mod dripping;
pub mod news;
pub mod picker;
pub mod rate;
pub mod transfers;
pub mod trusted_time;
pub mod uploads;
pub mod viewings;
