//! How guests plug in: taps with virtio-net headers, in this network namespace or in a guest's, a
//! tap that somebody else's hypervisor holds, or a unix socket.
//!
//! This crate acts (descriptors, namespaces, the `ip` program) and decides nothing: which names and
//! addresses are used is its caller's, which frames pass is `vde_switch`'s.

pub mod forward;
pub mod host_tap;
pub mod link;
mod netlink;
pub mod netns;
pub mod pair;
pub mod stream;
mod sys;
mod sysctl;
pub mod tap;
