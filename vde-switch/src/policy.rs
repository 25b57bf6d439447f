//! What one port may say: its stations' addresses, towards its segment.
//!
//! # Theory of operation
//! The same code stands at both ends: where a guest's frame enters, to protect the seller, and
//! behind a tunnel, where the stations are those that the session's key may speak for, to protect
//! everyone. Networks that the order routes over a station are that station's to speak for.
//! [`Policy::check`] is [`Frame::trim`], [`Parsed::parse`] (what nobody may say), the length and
//! offload rules, and [`Policy::admit`] (what this port may say); it remembers nothing and answers
//! the same to the same frame. Which link-local addresses a station has, and how often it may speak
//! to groups, are the switch's to remember.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::frame::Frame;
use crate::mac::MacAddr;
use crate::parse::{Arp, ArpOp, Body, Ipv4, Ipv6, L4, Nd, Packet, Parsed, is_link_local};
use crate::port::Learning;
use crate::serve::Route;
use crate::station::{Segment, Station};
use crate::verdict::DropReason;
use crate::vnet::{GsoType, VnetError};

/// The rules of one port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    segment: Segment,
    stations: Vec<Station>,
    learning: Learning,
    routes: Vec<Route>,
}

impl Policy {
    /// Makes the rules for a port where these stations and nobody else may speak.
    #[must_use]
    pub fn new(stations: &[Station], segment: Segment) -> Self {
        Self::with_learning(stations, segment, Learning::Off)
    }

    /// Makes the rules for a port that may also bridge a LAN of strangers.
    ///
    /// Strangers may use any address of the subnet. That they take no station's is for the switch
    /// to see, which knows them all.
    #[must_use]
    pub fn with_learning(stations: &[Station], segment: Segment, learning: Learning) -> Self {
        Self { segment, stations: stations.to_vec(), learning, routes: Vec::new() }
    }

    /// Lets packets of these networks pass as well: to them, and from them by the station that they
    /// are behind.
    #[must_use]
    pub fn with_routes(self, routes: &[Route]) -> Self {
        Self { routes: routes.to_vec(), ..self }
    }

    /// Returns who may speak there.
    #[must_use]
    pub fn stations(&self) -> &[Station] {
        &self.stations
    }

    pub(crate) fn set_routes(&mut self, routes: &[Route]) {
        self.routes = routes.to_vec();
    }

    pub(crate) fn set_segment(&mut self, segment: Segment) {
        self.segment = segment;
    }

    /// Judges a frame from its length to its addresses; its padding is cut off.
    ///
    /// # Errors
    /// The [`DropReason`] of the first rule that the frame breaks.
    pub fn check(&self, frame: &mut Frame<'_>) -> Result<Parsed, DropReason> {
        let parsed = form(frame, self.segment.mtu)?;
        self.admit(&parsed)?;
        Ok(parsed)
    }

    /// Judges the addresses of a well-formed frame.
    ///
    /// # Errors
    /// The [`DropReason`] of the first rule that the frame breaks.
    pub fn admit(&self, parsed: &Parsed) -> Result<(), DropReason> {
        let station = self.station(parsed.src);
        if station.is_none() && self.learning == Learning::Off {
            return Err(DropReason::ForeignMac);
        }
        match &parsed.packet {
            Packet::Ipv4(packet) => self.admit_ipv4(station, parsed.dst, packet),
            Packet::Ipv6(packet) => self.admit_ipv6(station, parsed.dst, packet),
            Packet::Arp(message) => self.admit_arp(station, parsed.dst, message),
        }
    }

    /// Returns the station with this MAC address.
    #[must_use]
    pub fn station(&self, mac: MacAddr) -> Option<&Station> {
        self.stations.iter().find(|station| station.mac == mac)
    }

    fn admit_ipv4(
        &self,
        station: Option<&Station>,
        dst_mac: MacAddr,
        packet: &Ipv4,
    ) -> Result<(), DropReason> {
        let dst = packet.dst;
        // Who asks for an address has none yet.
        let asks = packet.l4 == L4::Dhcp && packet.src.is_unspecified() && dst.is_broadcast();
        let routes = station.is_some_and(|station| self.router(packet.src) == Some(station.ipv4));
        if !(asks || routes || self.owns_ipv4(station, packet.src)) {
            return Err(DropReason::ForeignIpv4);
        }
        let [a, b, c, d] = dst.octets();
        let expected = if dst.is_broadcast() || self.segment.is_broadcast(dst) {
            Some(MacAddr::BROADCAST)
        } else if [a, b, c] == [224, 0, 0] || a == 239 {
            Some(MacAddr([0x01, 0x00, 0x5e, b & 0x7f, c, d]))
        } else if self.segment.contains_ipv4(dst) || self.router(dst).is_some() {
            None
        } else {
            return Err(DropReason::OutsideSegment);
        };
        suits(dst_mac, expected)
    }

    fn admit_ipv6(
        &self,
        station: Option<&Station>,
        dst_mac: MacAddr,
        packet: &Ipv6,
    ) -> Result<(), DropReason> {
        // Of the unspecified address `parse` has let solicitations pass, of duplicate detection.
        if !packet.src.is_unspecified() && !self.owns_ipv6(station, packet.src) {
            return Err(DropReason::ForeignIpv6);
        }
        if let Body::Nd(Nd::Advertisement(target)) = packet.body
            && !self.owns_ipv6(station, target)
        {
            return Err(DropReason::SpoofedNd);
        }
        let dst = packet.dst;
        let [0xff, scope, .., a, b, c, d] = dst.octets() else {
            return if self.segment.contains_ipv6(dst) || is_link_local(dst) {
                suits(dst_mac, None)
            } else {
                Err(DropReason::OutsideSegment)
            };
        };
        if scope != 2 {
            return Err(DropReason::OutsideSegment);
        }
        suits(dst_mac, Some(MacAddr([0x33, 0x33, a, b, c, d])))
    }

    fn admit_arp(
        &self,
        station: Option<&Station>,
        dst_mac: MacAddr,
        message: &Arp,
    ) -> Result<(), DropReason> {
        let probe = message.sender.is_unspecified() && message.op == ArpOp::Request;
        if !probe && !self.owns_ipv4(station, message.sender) {
            return Err(DropReason::SpoofedArp);
        }
        if !self.segment.contains_ipv4(message.target) {
            return Err(DropReason::OutsideSegment);
        }
        let group = dst_mac.is_group().then_some(MacAddr::BROADCAST);
        suits(dst_mac, group)
    }

    /// Returns the station that an address beyond the segment is behind.
    pub(crate) fn router(&self, address: Ipv4Addr) -> Option<Ipv4Addr> {
        if self.routes.is_empty() || self.segment.contains_ipv4(address) {
            return None;
        }
        let holds = |network: Ipv4Addr, prefix: u8| {
            let host = u32::MAX.checked_shr(prefix.into()).unwrap_or(0);
            (address.to_bits() ^ network.to_bits()) & !host == 0
        };
        // The longest prefix counts, as it does where packets are routed.
        let known = self.routes.iter().filter(|(network, prefix, _)| holds(*network, *prefix));
        known.max_by_key(|(_, prefix, _)| *prefix).map(|(.., via)| *via)
    }

    fn owns_ipv4(&self, station: Option<&Station>, address: Ipv4Addr) -> bool {
        match station {
            Some(station) => station.ipv4 == address,
            None => self.segment.contains_ipv4(address) && !self.segment.is_broadcast(address),
        }
    }

    fn owns_ipv6(&self, station: Option<&Station>, address: Ipv6Addr) -> bool {
        is_link_local(address)
            || match station {
                Some(station) => station.ipv6 == address,
                None => self.segment.contains_ipv6(address),
            }
    }
}

/// Cuts padding off, then judges what depends on no address: length, offloads, headers.
pub(crate) fn form(frame: &mut Frame<'_>, mtu: u16) -> Result<Parsed, DropReason> {
    frame.trim();
    frame.hdr.check(frame.bytes, mtu).map_err(|error| match error {
        VnetError::TooLong(_) if frame.hdr.gso == GsoType::None => DropReason::TooLong,
        VnetError::TooLong(_)
        | VnetError::Flags(_)
        | VnetError::GsoType(_)
        | VnetError::NoTransport
        | VnetError::Checksum { .. }
        | VnetError::NoChecksum
        | VnetError::Protocol
        | VnetError::TcpFlags(_)
        | VnetError::GsoSize(_)
        | VnetError::Extent => DropReason::BadOffload,
    })?;
    Parsed::parse(frame.bytes)
}

/// Says whether the destination MAC address is the group's, or a station's where there is none.
fn suits(dst: MacAddr, group: Option<MacAddr>) -> Result<(), DropReason> {
    let suits = match group {
        Some(group) => dst == group,
        None => dst.is_station(),
    };
    if suits { Ok(()) } else { Err(DropReason::MacMismatch) }
}
