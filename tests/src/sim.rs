//! The deterministic simulation: whole orders in one thread, with moved time, bad networks,
//! crashes, wrong clocks and hostile members, from one seed each.
//!
//! # Theory of operation
//! The cores are the real ones: registry, membership, data plane, switch. What is simulated is what
//! they are handed: time ([`host`]), datagrams ([`link`]), streams ([`stream`]), disks
//! ([`gateway`]), guests ([`frames`]) and, in the first ring, the tunnel's cryptography
//! ([`engine`]). [`run`] draws a world and its misfortunes from a seed; [`world`] lets one event
//! happen after another and asks after each what must always hold; [`model`] says who may hear
//! whom.
//!
//! # Limits
//! No NAT that maps UDP ports, no MTU smaller than 1500, no bandwidth: those are the lab's.

pub mod buyer;
pub mod engine;
pub mod frames;
pub mod gateway;
pub mod host;
pub mod hostile;
pub mod link;
pub mod many;
pub mod model;
pub mod plant;
pub mod process;
pub mod recovery;
pub mod rng;
pub mod run;
pub mod seller;
mod session;
pub mod stream;
mod watch;
pub mod world;
