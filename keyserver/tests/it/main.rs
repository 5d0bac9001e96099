//! The keyserver as others meet it: a real process, real sockets, a real disk.

mod audit;
mod crashes;
mod operator;
mod process;
mod rights;
mod sales;
mod tills;
mod world;
