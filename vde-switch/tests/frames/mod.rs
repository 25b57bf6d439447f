//! Frames to test with, byte by byte, and the small segment that they are about.

#![allow(dead_code, unreachable_pub, reason = "shared, and each test uses some")]

use std::net::{Ipv4Addr, Ipv6Addr};

pub type Mac = [u8; 6];

pub const ALICE: Mac = [2, 0, 0, 0, 0, 0x0a];
pub const BOB: Mac = [2, 0, 0, 0, 0, 0x0b];
pub const GATEWAY: Mac = [2, 0, 0, 0, 0, 2];
pub const BROADCAST: Mac = [0xff; 6];

pub const ALICE4: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 10);
pub const BOB4: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 11);
pub const GATEWAY4: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);
pub const NOBODY4: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 99);
pub const DIRECTED4: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 255);
pub const ZERO4: Ipv4Addr = Ipv4Addr::UNSPECIFIED;

pub const ALICE6: Ipv6Addr = Ipv6Addr::new(0xfd3a, 0, 0, 0, 0, 0, 0, 0x0a);
pub const BOB6: Ipv6Addr = Ipv6Addr::new(0xfd3a, 0, 0, 0, 0, 0, 0, 0x0b);
pub const GATEWAY6: Ipv6Addr = Ipv6Addr::new(0xfd3a, 0, 0, 0, 0, 0, 0, 2);
pub const NOBODY6: Ipv6Addr = Ipv6Addr::new(0xfd3a, 0, 0, 0, 0, 0, 0, 0x99);
pub const ALICE_LINK: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 1, 2, 3, 0x0a);
pub const BOB_LINK: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 1, 2, 3, 0x0b);
pub const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
pub const ALL_ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);
pub const ZERO6: Ipv6Addr = Ipv6Addr::UNSPECIFIED;

pub const ICMP: u8 = 1;
pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
pub const ICMPV6: u8 = 58;

pub const SYN: u8 = 2;
pub const ACK: u8 = 16;

/// The group MAC address of a multicast or broadcast destination.
pub fn group4(dst: Ipv4Addr) -> Mac {
    let [_, b, c, d] = dst.octets();
    if dst.is_multicast() { [1, 0, 0x5e, b & 0x7f, c, d] } else { BROADCAST }
}

pub fn group6(dst: Ipv6Addr) -> Mac {
    let [.., a, b, c, d] = dst.octets();
    [0x33, 0x33, a, b, c, d]
}

pub fn solicited_node(target: Ipv6Addr) -> Ipv6Addr {
    let [.., g, h] = target.segments();
    Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | g & 0xff, h)
}

pub fn ethernet(dst: Mac, src: Mac, ethertype: u16, payload: &[u8]) -> Vec<u8> {
    [&dst, &src, &ethertype.to_be_bytes()[..], payload].concat()
}

/// Fills up to the least length of a frame, as hardware does.
pub fn padded(mut frame: Vec<u8>) -> Vec<u8> {
    frame.resize(frame.len().max(60), 0);
    frame
}

/// An ARP message of 28 bytes; the target MAC address is zero, as in a request.
pub fn arp_message(op: u16, sha: Mac, spa: Ipv4Addr, tpa: Ipv4Addr) -> Vec<u8> {
    let fixed = [0, 1, 8, 0, 6, 4];
    [&fixed[..], &op.to_be_bytes(), &sha, &spa.octets(), &[0; 6], &tpa.octets()].concat()
}

pub fn arp(src: Mac, dst: Mac, op: u16, spa: Ipv4Addr, tpa: Ipv4Addr) -> Vec<u8> {
    ethernet(dst, src, 0x0806, &arp_message(op, src, spa, tpa))
}

/// An IPv4 packet; `fragment` is the 16-bit word of flags and offset.
pub fn packet4(src: Ipv4Addr, dst: Ipv4Addr, protocol: u8, fragment: u16, rest: &[u8]) -> Vec<u8> {
    let len = (20 + rest.len()) as u16;
    let [l0, l1] = len.to_be_bytes();
    let [f0, f1] = fragment.to_be_bytes();
    let fixed = [0x45, 0, l0, l1, 0, 7, f0, f1, 64, protocol, 0, 0];
    [&fixed[..], &src.octets(), &dst.octets(), rest].concat()
}

/// A frame from Alice to whatever MAC address suits `dst`, Bob's where it is no group.
pub fn alice4(dst: Ipv4Addr, protocol: u8, rest: &[u8]) -> Vec<u8> {
    alice4_fragment(dst, protocol, 0, rest)
}

pub fn alice4_fragment(dst: Ipv4Addr, protocol: u8, fragment: u16, rest: &[u8]) -> Vec<u8> {
    let group = dst.is_multicast() || dst.is_broadcast() || dst == DIRECTED4;
    let mac = if group { group4(dst) } else { BOB };
    ethernet(mac, ALICE, 0x0800, &packet4(ALICE4, dst, protocol, fragment, rest))
}

pub fn packet6(src: Ipv6Addr, dst: Ipv6Addr, next: u8, hops: u8, rest: &[u8]) -> Vec<u8> {
    let [l0, l1] = (rest.len() as u16).to_be_bytes();
    let fixed = [0x60, 0, 0, 0, l0, l1, next, hops];
    [&fixed[..], &src.octets(), &dst.octets(), rest].concat()
}

pub fn alice6_from(src: Ipv6Addr, dst: Ipv6Addr, next: u8, rest: &[u8]) -> Vec<u8> {
    let mac = if dst.is_multicast() { group6(dst) } else { BOB };
    ethernet(mac, ALICE, 0x86dd, &packet6(src, dst, next, 255, rest))
}

pub fn alice6(dst: Ipv6Addr, next: u8, rest: &[u8]) -> Vec<u8> {
    alice6_from(ALICE6, dst, next, rest)
}

pub fn tcp(flags: u8, payload: &[u8]) -> Vec<u8> {
    let fixed = [0x9c, 0x40, 0, 22, 0, 0, 0, 1, 0, 0, 0, 2, 0x50, flags, 2, 0, 0, 0, 0, 0];
    [&fixed[..], payload].concat()
}

pub fn udp(src: u16, dst: u16, payload: &[u8]) -> Vec<u8> {
    let len = (8 + payload.len()) as u16;
    let words = [src, dst, len, 0].map(u16::to_be_bytes).concat();
    [&words[..], payload].concat()
}

/// An ICMP or ICMPv6 message of 8 bytes and a payload.
pub fn icmp(kind: u8, code: u8, payload: &[u8]) -> Vec<u8> {
    [&[kind, code, 0, 0, 0, 0, 0, 1], payload].concat()
}

/// A neighbour discovery message; `flags` is the byte behind the checksum.
pub fn nd(kind: u8, flags: u8, target: Ipv6Addr, options: &[u8]) -> Vec<u8> {
    [&[kind, 0, 0, 0, flags, 0, 0, 0], &target.octets()[..], options].concat()
}

/// A link-layer address option: 1 source, 2 target.
pub fn link_option(kind: u8, mac: Mac) -> Vec<u8> {
    [&[kind, 1], &mac[..]].concat()
}

pub fn solicitation(src: Ipv6Addr, target: Ipv6Addr) -> Vec<u8> {
    let option = if src.is_unspecified() { Vec::new() } else { link_option(1, ALICE) };
    alice6_from(src, solicited_node(target), ICMPV6, &nd(135, 0, target, &option))
}

pub fn advertisement(src: Ipv6Addr, dst: Ipv6Addr, target: Ipv6Addr) -> Vec<u8> {
    let flags = if dst.is_multicast() { 0x20 } else { 0x60 };
    alice6_from(src, dst, ICMPV6, &nd(136, flags, target, &link_option(2, ALICE)))
}

/// An extension header of 8 bytes: padding, or a routing header of type 2.
pub fn extension(kind: u8, next: u8, rest: &[u8]) -> Vec<u8> {
    let fixed = match kind {
        43 => [next, 0, 2, 0, 0, 0, 0, 0],
        51 => [next, 0, 0, 0, 0, 0, 0, 1],
        _ => [next, 0, 1, 4, 0, 0, 0, 0],
    };
    [&fixed[..], rest].concat()
}

/// An IPv6 fragment header, `offset` in bytes.
pub fn fragment6(next: u8, offset: u16, more: bool, rest: &[u8]) -> Vec<u8> {
    let [o0, o1] = (offset | u16::from(more)).to_be_bytes();
    [&[next, 0, o0, o1, 0, 0, 0, 9], rest].concat()
}

/// A 12-byte virtio-net header.
pub fn vnet(flags: u8, gso: u8, hdr_len: u16, gso_size: u16, start: u16, offset: u16) -> [u8; 12] {
    let mut header = [flags, gso, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    for (at, field) in [(2, hdr_len), (4, gso_size), (6, start), (8, offset)] {
        header[at..at + 2].copy_from_slice(&field.to_le_bytes());
    }
    header
}
