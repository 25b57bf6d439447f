//! Everything the overlay decides.

#![warn(clippy::wildcard_enum_match_arm)] // a new reason must be looked at everywhere

pub mod addressing;
pub mod claims;
pub mod control;
pub mod cut;
pub mod dial;
pub mod drop;
pub mod envelope;
pub mod fair;
pub mod grant;
pub mod identity;
pub mod inbound;
pub mod join;
pub mod limiter;
pub mod membership;
pub mod messages;
pub mod names;
pub mod node;
pub mod order;
pub mod outbound;
pub mod path;
pub mod peer;
pub mod peers;
pub mod piece;
pub mod rate;
pub mod registry;
pub mod roster;
pub mod ticket;
pub mod transmit;
pub mod tunnel;
pub mod wire;
