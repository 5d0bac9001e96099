//! What every store has to do, written once and run against each backend.
