//! Guests configure themselves: what they ask and are told, as another decoder understands it.

#![allow(clippy::unwrap_used, reason = "a failed arrangement fails the test")]

#[path = "../asks/mod.rs"]
mod asks;
mod dhcp4;
mod dhcp6;
#[path = "../frames/mod.rs"]
mod frames;
mod hostile;
mod router;

use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use std::net::IpAddr;

/// The parts of an answer by UDP: who, from where to where, and what; its sums are right.
fn udp_answer(frame: &[u8]) -> (IpAddr, IpAddr, (u16, u16), Vec<u8>) {
    assert!(frame.len() <= 1294 && frame[6..12] == asks::SERVICE, "{frame:02x?}");
    let packet = SlicedPacket::from_ethernet(frame).unwrap();
    let Some(TransportSlice::Udp(udp)) = &packet.transport else { panic!("no UDP") };
    let header = udp.to_header();
    assert_eq!(usize::from(header.length), udp.slice().len());
    let ports = (header.source_port, header.destination_port);
    let payload = udp.payload().to_vec();
    match packet.net.as_ref().unwrap() {
        NetSlice::Ipv4(ip) => {
            let ip = ip.header().to_header();
            assert_eq!(ip.header_checksum, ip.calc_header_checksum());
            assert_eq!(usize::from(ip.total_len), frame.len() - 14);
            let sum = header.calc_checksum_ipv4_raw(ip.source, ip.destination, &payload);
            assert_eq!(header.checksum, sum.unwrap());
            (IpAddr::from(ip.source), IpAddr::from(ip.destination), ports, payload)
        }
        NetSlice::Ipv6(ip) => {
            let ip = ip.header().to_header();
            assert_eq!(usize::from(ip.payload_length), frame.len() - 54);
            let sum = header.calc_checksum_ipv6_raw(ip.source, ip.destination, &payload);
            assert_eq!(header.checksum, sum.unwrap());
            (IpAddr::from(ip.source), IpAddr::from(ip.destination), ports, payload)
        }
        NetSlice::Arp(_) => panic!("ARP"),
    }
}
