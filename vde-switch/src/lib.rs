//! An Ethernet switch as a value: a frame goes in, a [`Verdict`](verdict::Verdict) comes out.
//!
//! # Theory of operation
//! One [`Switch`](switch::Switch) serves one segment. It is told who is on it (ports with their
//! stations, from the signed roster) and is then asked, frame by frame, what to do. It reads no
//! clock, socket, file or randomness: time is an argument, the same calls give the same verdicts.
//!
//! ```text
//! frame ─▶ frame       padding cut off
//!       ─▶ vnet        offload and length
//!       ─▶ parse       what nobody may say
//!       ─▶ policy      what this port may say
//!       ─▶ link_local  whose fe80:: is it?
//!       ─▶ serve       DHCP and router solicitations
//!       ─▶ neighbour   ARP and ND asked
//!       ─▶ flood, fdb  how often, where to  ─▶ Verdict
//! ```
//!
//! The same way is gone at both ends of a tunnel: where a guest's frame enters, and where a
//! member's leaves its tunnel by an uplink, whose stations are those that the session's key may
//! speak for. Each frame ends in exactly one counted outcome:
//! `frames_in == forwarded + flooded + answered + Σ drops`.
//!
//! # Limits
//! Each table and rate has a named bound in its module: [`port::PORTS_MAX`],
//! [`port::STATIONS_MAX`], [`fdb::LEARNED_MAX`], [`link_local::LINK_LOCAL_MAX`], the rates of
//! [`flood::Budget`]. There is no allocation per frame.
//!
//! # Example
//! ```
//! use vde_switch::frame::Frame;
//! use vde_switch::mac::MacAddr;
//! use vde_switch::port::{HandsOn, Learning, PortConfig, PortId, PortKind};
//! use vde_switch::station::{Broadcast, Segment, Station};
//! use vde_switch::switch::Switch;
//! use vde_switch::time::Instant;
//! use vde_switch::verdict::{DropReason, Verdict};
//! use vde_switch::vnet::VnetHdr;
//!
//! let mut switch = Switch::new(Segment {
//!     ipv4: ("10.77.0.0".parse()?, 24),
//!     ipv6: ("fd3a::".parse()?, 64),
//!     mtu: 1500,
//!     broadcast: Broadcast::On,
//! });
//! for n in [1, 2] {
//!     let station = Station {
//!         mac: MacAddr([2, 0, 0, 0, 0, n]),
//!         ipv4: [10, 77, 0, n].into(),
//!         ipv6: format!("fd3a::{n}").parse()?,
//!     };
//!     let config = PortConfig {
//!         kind: PortKind::Attachment,
//!         stations: vec![station],
//!         learning: Learning::Off,
//!         hands_on: HandsOn::No,
//!     };
//!     switch.set_port(PortId(n.into()), config)?;
//! }
//!
//! // From station 1 to station 2: an IPv4 packet of protocol 99, without a payload.
//! let mut bytes = [&[2, 0, 0, 0, 0, 2], &[2, 0, 0, 0, 0, 1], &[8, 0][..]].concat();
//! bytes.extend([0x45, 0, 0, 20, 0, 0, 0, 0, 64, 99, 0, 0, 10, 77, 0, 1, 10, 77, 0, 2]);
//! let mut frame = Frame { hdr: VnetHdr::default(), bytes: &bytes };
//! assert_eq!(switch.forward(PortId(1), &mut frame, Instant::ZERO), Verdict::Forward(PortId(2)));
//!
//! // Station 2 cannot say the same in station 1's name.
//! let verdict = switch.forward(PortId(2), &mut frame, Instant::ZERO);
//! assert_eq!(verdict, Verdict::Drop(DropReason::ForeignMac));
//! assert_eq!(switch.counters().frames_in, 2);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#![warn(clippy::wildcard_enum_match_arm)] // a new reason must be looked at everywhere

pub mod answer;
pub mod counters;
pub mod fdb;
pub mod finish;
pub mod flood;
pub mod frame;
#[doc(hidden)]
pub mod fuzz;
mod hash;
pub mod link_local;
pub mod mac;
pub mod neighbour;
pub mod parse;
pub mod policy;
pub mod port;
pub mod serve;
pub mod station;
pub mod switch;
pub mod time;
pub mod verdict;
pub mod vnet;

#[cfg(test)]
#[path = "../tests/frames/mod.rs"]
mod frames;
