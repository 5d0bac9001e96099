//! The keyserver as others meet it: a real process, real sockets, a real disk.

mod audit;
mod checkout;
mod clocks;
mod crash_points;
mod crashes;
mod film;
mod handover;
mod history;
mod honesty;
mod imports;
mod keys;
mod operator;
mod process;
mod rights;
mod sales;
mod spans;
mod stripe;
mod tills;
mod volumes;
mod web;
mod world;
