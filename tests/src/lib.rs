//! What scenarios, demo and benches stand on: the [`lab`], the [`cast`] of real programs playing in
//! it, and the [`traffic`] they carry.

pub mod caller;
pub mod cast;
pub mod flood;
pub mod fuzz;
pub mod home;
pub mod inject;
pub mod iperf;
pub mod kills;
pub mod lab;
pub mod line;
pub mod mutants;
pub mod sim;
pub mod stage;
pub mod storm;
mod sys;
pub mod toll;
pub mod traffic;
pub mod tree;
pub mod trio;
pub mod vitals;
pub mod vm;

pub use sys::{exit_on_signals, steal_fd, wait_if_interrupted};
