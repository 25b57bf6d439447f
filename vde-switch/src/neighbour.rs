//! ARP and neighbour discovery, answered from the roster at the asking station's own port.
//!
//! # Theory of operation
//! Nothing is asked across the overlay: the switch knows every station's addresses, so it answers
//! in the station's name, also while that is unreachable. [`Neighbours`] is who has which address;
//! [`arp_reply`] and [`advertisement`] write the answers.
//!
//! Source: RFC 826 and 5227 (ARP), 4861 7.2.4 (advertisements), 4443 2.3 (their checksum).

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::answer::Answer;
use crate::hash::Table;
use crate::mac::MacAddr;
use crate::port::PortId;
use crate::station::Station;

/// A station's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Neighbour {
    /// Its MAC address.
    pub mac: MacAddr,
    /// The port it is behind.
    pub port: PortId,
}

/// Who has which IP address. Unspecified addresses are nobody's.
#[derive(Clone, Debug, Default)]
pub struct Neighbours {
    ipv4: Table<u32, Neighbour>,
    ipv6: Table<u128, Neighbour>,
}

impl Neighbours {
    /// Returns the station with this IPv4 address.
    #[must_use]
    pub fn ipv4(&self, address: Ipv4Addr) -> Option<Neighbour> {
        self.ipv4.get(&address.to_bits()).copied()
    }

    /// Returns the station with this IPv6 address.
    #[must_use]
    pub fn ipv6(&self, address: Ipv6Addr) -> Option<Neighbour> {
        self.ipv6.get(&address.to_bits()).copied()
    }

    pub(crate) fn insert(&mut self, station: &Station, port: PortId) {
        let neighbour = Neighbour { mac: station.mac, port };
        if !station.ipv4.is_unspecified() {
            self.ipv4.insert(station.ipv4.to_bits(), neighbour);
        }
        if !station.ipv6.is_unspecified() {
            self.ipv6.insert(station.ipv6.to_bits(), neighbour);
        }
    }

    pub(crate) fn remove(&mut self, station: &Station) {
        self.ipv4.remove(&station.ipv4.to_bits());
        self.ipv6.remove(&station.ipv6.to_bits());
    }
}

/// Tells `asker`, who has `asker_ipv4` or none yet, that `target_ipv4` is at `target`.
pub fn arp_reply(
    answer: &mut Answer,
    (asker, asker_ipv4): (MacAddr, Ipv4Addr),
    (target, target_ipv4): (MacAddr, Ipv4Addr),
) {
    answer
        .begin(asker, target, 0x0806)
        .put(&[0, 1, 8, 0, 6, 4, 0, 2])
        .put(&target.0)
        .put(&target_ipv4.octets())
        .put(&asker.0)
        .put(&asker_ipv4.octets())
        .pad();
}

/// Tells `asker` that `target_ipv6` is at `target`. Who asks from the unspecified address, to find
/// out whether he may take `target_ipv6`, is told through the group of all nodes.
pub fn advertisement(
    answer: &mut Answer,
    (asker, asker_ipv6): (MacAddr, Ipv6Addr),
    (target, target_ipv6): (MacAddr, Ipv6Addr),
) {
    const SOLICITED: u8 = 0x40;
    const OVERRIDE: u8 = 0x20;
    let (dst, flags) = if asker_ipv6.is_unspecified() {
        (ALL_NODES, OVERRIDE)
    } else {
        ((asker, asker_ipv6), SOLICITED | OVERRIDE)
    };
    answer
        .begin_ipv6(dst, (target, target_ipv6), 58, 255)
        .put(&[136, 0, 0, 0, flags, 0, 0, 0])
        .put(&target_ipv6.octets())
        .put(&[2, 1]) // target link-layer address, 8 bytes
        .put(&target.0)
        .finish_icmp6();
}

/// The group of all nodes (RFC 4291 2.7.1).
pub(crate) const ALL_NODES: (MacAddr, Ipv6Addr) =
    (MacAddr([0x33, 0x33, 0, 0, 0, 1]), Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1));

#[cfg(test)]
mod tests {
    use etherparse::icmpv6::TYPE_NEIGHBOR_ADVERTISEMENT;
    use etherparse::{ArpOperation, Icmpv6Type, NetSlice, SlicedPacket, TransportSlice};

    use super::*;

    const ASKER: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
    const TARGET: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);

    #[test]
    fn an_arp_reply_is_a_padded_frame_that_another_parser_understands() {
        let mut answer = Answer::default();
        let target = (TARGET, Ipv4Addr::new(10, 77, 0, 11));
        arp_reply(&mut answer, (ASKER, Ipv4Addr::UNSPECIFIED), target);
        assert_eq!(answer.len(), 60);
        assert_eq!(answer[..12], [ASKER.0, TARGET.0].concat());
        assert!(answer[42..].iter().all(|byte| *byte == 0));
        let packet = SlicedPacket::from_ethernet(&answer).unwrap();
        let Some(NetSlice::Arp(arp)) = packet.net else { panic!("no ARP") };
        assert_eq!(arp.operation(), ArpOperation::REPLY);
        assert_eq!((arp.sender_hw_addr(), arp.target_hw_addr()), (&TARGET.0[..], &ASKER.0[..]));
        assert_eq!(
            (arp.sender_protocol_addr(), arp.target_protocol_addr()),
            (&[10, 77, 0, 11][..], &[0; 4][..])
        );
    }

    #[test]
    fn an_advertisement_has_a_checksum_that_another_parser_confirms() {
        let target: Ipv6Addr = "fd00::b".parse().unwrap();
        for (asker, dst, flags) in [("fd00::a", "fd00::a", 0x60), ("::", "ff02::1", 0x20)] {
            let mut answer = Answer::default();
            advertisement(&mut answer, (ASKER, asker.parse().unwrap()), (TARGET, target));
            assert_eq!(answer.len(), 86);
            let packet = SlicedPacket::from_ethernet(&answer).unwrap();
            let Some(NetSlice::Ipv6(ip)) = packet.net else { panic!("no IPv6") };
            let (src, dst) = (target, dst.parse::<Ipv6Addr>().unwrap());
            assert_eq!((ip.header().source_addr(), ip.header().destination_addr()), (src, dst));
            assert_eq!(ip.header().hop_limit(), 255);
            let Some(TransportSlice::Icmpv6(icmp)) = packet.transport else { panic!("no ICMPv6") };
            assert!(icmp.is_checksum_valid(src.octets(), dst.octets()));
            assert_eq!(icmp.type_u8(), TYPE_NEIGHBOR_ADVERTISEMENT);
            assert!(!matches!(icmp.icmp_type(), Icmpv6Type::Unknown { .. }));
            assert_eq!(answer[58], flags);
            assert_eq!(answer[78..], [&[2, 1][..], &TARGET.0].concat());
        }
    }
}
