//! The tracker as its devices, publishers and operators meet it: a real process, asked over real sockets.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

mod accounts;
mod catalog;
mod cli;
mod customers;
mod durability;
mod enrolment;
mod faults;
mod hostile;
mod keeping;
mod origin;
mod pairing;
mod plans;
mod queue;
mod swarm;
mod windows;
mod world;
