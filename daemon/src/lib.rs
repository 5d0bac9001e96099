//! What every long-running Reelswarm program stands on.
//!
//! Each module is one idea, and none of them knows which daemon it serves: what the tracker, the keyserver or a box
//! *decides* is in `swarm-proto`, what they *are* is in their own crates. Everything here is bounded, refuses what it
//! cannot understand, and answers trouble with a [`Failure`]: what happened, why, and what to do.

pub mod client;
pub mod command;
pub mod config;
pub mod data_folder;
pub mod exit;
pub mod health;
pub mod logs;
pub mod metrics;
pub mod secrets;
pub mod serve;
pub mod shutdown;
pub mod store;
pub mod tls;
pub mod token;
pub mod units;

pub use data_folder::DataFolder;
pub use exit::{Exit, Failure, run_main};
pub use health::Health;
pub use metrics::Metrics;
pub use shutdown::Shutdown;
pub use store::Store;
