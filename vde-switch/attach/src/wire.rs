//! The wire between a guest and its data plane.

pub mod spec;

pub use spec::{SpecError, WireSpec};
