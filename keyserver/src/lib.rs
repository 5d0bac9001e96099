//! keyserver
