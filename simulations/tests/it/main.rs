//! Tests of the whole house: rules of the repository, and whole swarms of real processes.

mod browser;
mod demo;
mod drip;
mod far;
mod keeping;
mod processes;
mod queue;
mod repository;
mod thief;
mod virtual_swarms;
