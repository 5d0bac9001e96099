//! The messages of `proto/`, as generated: `pb::common`, `pb::tracker`, `pb::keyserver`, `pb::node`.
//!
//! Only the edges touch these types. Each is turned into a type of ours, checked, where it enters; nothing here has
//! been validated. Clients and servers exist with feature `grpc` only.

#![allow(
    missing_docs,
    unreachable_pub,
    unused_qualifications,
    clippy::all,
    reason = "generated from proto/, which carries the documentation"
)]

include!(concat!(env!("OUT_DIR"), "/modules.rs"));
include!(concat!(env!("OUT_DIR"), "/packages.rs"));

/// Every message and service of `proto/`, as a `google.protobuf.FileDescriptorSet`, for gRPC reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
