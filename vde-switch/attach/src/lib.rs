//! How guests plug in: taps with virtio-net headers, in this network namespace or in a guest's.
//!
//! This crate acts (descriptors, namespaces, the `ip` program) and decides nothing: which names and
//! addresses are used is its caller's, which frames pass is `vde_switch`'s.

pub mod forward;
pub mod link;
pub mod netns;
mod sys;
pub mod tap;
