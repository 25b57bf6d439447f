//! What scenarios, demo and benches stand on: the [`lab`], the [`cast`] of real programs playing in
//! it, and the [`traffic`] they carry.

pub mod cast;
pub mod fuzz;
pub mod inject;
pub mod lab;
pub mod stage;
mod sys;
pub mod traffic;

pub use sys::exit_on_signals;
