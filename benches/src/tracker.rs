//! What a tracker costs as a whole program: real processes, real sockets, real devices with keys.

pub mod assign;
pub mod echo;
pub mod restart;
pub mod world;
