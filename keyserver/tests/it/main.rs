//! The keyserver as others meet it: a real process, real sockets, a real disk.

mod audit;
mod checkout;
mod crashes;
mod operator;
mod process;
mod rights;
mod sales;
mod stripe;
mod tills;
mod web;
mod world;
