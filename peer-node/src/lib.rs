//! peer-node
