//! Whole swarms on one computer.
//!
//! [`demo`] runs the real daemons as processes and shows the main job end to end.

pub mod demo;
