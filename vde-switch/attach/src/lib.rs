//! How guests plug in: a wire of their own with rules between them and the host, a tap that
//! somebody else's hypervisor holds, or a unix socket.
//!
//! This crate acts (descriptors, namespaces, the programs `ip` and `nft`) and decides nothing:
//! which names and addresses are used is its caller's; which frames pass is `vde_switch`'s, and
//! [`rules`] follow that.

pub mod canary;
pub mod host_tap;
pub mod link;
mod netlink;
pub mod netns;
pub mod nft;
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
