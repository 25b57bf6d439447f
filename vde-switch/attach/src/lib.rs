//! How guests plug in: taps with virtio-net headers, in this network namespace or in a guest's, a
//! tap that somebody else's hypervisor holds, or a unix socket.
//!
//! This crate acts (descriptors, namespaces, the `ip` program) and decides nothing: which names and
//! addresses are used is its caller's, which frames pass is `vde_switch`'s.

pub mod canary;
pub mod forward;
pub mod host_tap;
pub mod link;
mod netlink;
pub mod netns;
pub mod nft;
pub mod pair;
pub mod rules;
pub mod stream;
mod sys;
mod sysctl;
pub mod tap;
pub mod wire;

#[cfg(test)]
#[path = "../../tests/frames/mod.rs"]
mod frames;
#[cfg(test)]
#[path = "../../tests/oracle/mod.rs"]
mod oracle;
#[cfg(test)]
#[path = "../../tests/rows/mod.rs"]
mod rows;
#[cfg(test)]
mod testing;
