//! The Reelswarm box and seed, one program for both.
//!
//! A device holds sealed items, passes on what it has verified, fetches what its customer has queued, and plays what
//! has been paid for. What it *decides* is in `swarm_proto::peer`; here are its hands: disk, network, tracker,
//! keyserver, player and command line. [`run`] is the whole program.

pub mod assignments;
pub mod buffers;
pub mod catalog;
pub mod cli;
pub mod clock;
pub mod config;
pub mod control;
pub mod custody;
pub mod engine;
pub mod enrol;
pub mod freeing;
pub mod grants;
pub mod identity;
pub mod items;
pub mod media;
pub mod metrics;
pub mod net;
pub mod node;
pub mod pair;
pub mod play;
pub mod publish;
pub mod records;
pub mod status;
pub mod tracker_link;
pub mod tv;
pub mod wishes;

pub use cli::run;
