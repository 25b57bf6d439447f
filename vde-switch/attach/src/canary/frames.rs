//! Frames byte by byte, without checksums: nobody verifies any before the guest at the far end.

use std::net::{Ipv4Addr, Ipv6Addr};

use vde_switch::mac::MacAddr;

pub(super) const ICMP: u8 = 1;
pub(super) const TCP: u8 = 6;
pub(super) const UDP: u8 = 17;
pub(super) const FRAGMENT: u8 = 44;
pub(super) const ICMPV6: u8 = 58;
pub(super) const OPTIONS: u8 = 60;

pub(super) const SYN: u8 = 2;
pub(super) const ACK: u8 = 16;

pub(super) const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
pub(super) const ALL_ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);

pub(super) fn ethernet(dst: MacAddr, src: MacAddr, ethertype: u16, payload: &[u8]) -> Vec<u8> {
    [&dst.0, &src.0, &ethertype.to_be_bytes()[..], payload].concat()
}

/// `frame` with other bytes from `at` on.
pub(super) fn with(mut frame: Vec<u8>, at: usize, bytes: &[u8]) -> Vec<u8> {
    frame.splice(at..at + bytes.len(), bytes.iter().copied());
    frame
}

/// `frame` with a tag between its MAC addresses and the rest.
pub(super) fn tagged(tag: &[u8], frame: &[u8]) -> Vec<u8> {
    [&frame[..12], tag, &frame[12..]].concat()
}

/// An ARP message; the target MAC address is zero, as in a request.
pub(super) fn arp(op: u16, mac: MacAddr, sender: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
    let fixed = [0, 1, 8, 0, 6, 4];
    let (sender, target) = (sender.octets(), target.octets());
    [&fixed[..], &op.to_be_bytes(), &mac.0, &sender, &[0; 6], &target].concat()
}

/// An IPv4 packet; `fragment` is the 16-bit word of flags and offset.
pub(super) fn ip4(
    (src, dst): (Ipv4Addr, Ipv4Addr),
    protocol: u8,
    fragment: u16,
    rest: &[u8],
) -> Vec<u8> {
    let len = ((20 + rest.len()) as u16).to_be_bytes();
    let [f0, f1] = fragment.to_be_bytes();
    let fixed = [0x45, 0, len[0], len[1], 0, 7, f0, f1, 64, protocol, 0, 0];
    [&fixed[..], &src.octets(), &dst.octets(), rest].concat()
}

/// An IPv6 packet with a hop limit of 255.
pub(super) fn ip6((src, dst): (Ipv6Addr, Ipv6Addr), next: u8, rest: &[u8]) -> Vec<u8> {
    let [l0, l1] = (rest.len() as u16).to_be_bytes();
    let fixed = [0x60, 0, 0, 0, l0, l1, next, 255];
    [&fixed[..], &src.octets(), &dst.octets(), rest].concat()
}

pub(super) fn tcp(flags: u8, payload: &[u8]) -> Vec<u8> {
    let fixed = [0x9c, 0x40, 0, 22, 0, 0, 0, 1, 0, 0, 0, 2, 0x50, flags, 2, 0, 0, 0, 0, 0];
    [&fixed[..], payload].concat()
}

pub(super) fn udp(src: u16, dst: u16, payload: &[u8]) -> Vec<u8> {
    let words = [src, dst, (8 + payload.len()) as u16, 0].map(u16::to_be_bytes).concat();
    [&words[..], payload].concat()
}

/// An ICMP or ICMPv6 message of 8 bytes and a payload.
pub(super) fn icmp(kind: u8, payload: &[u8]) -> Vec<u8> {
    [&[kind, 0, 0, 0, 0, 0, 0, 1], payload].concat()
}

/// A neighbour discovery message; `flags` is the byte behind the checksum.
pub(super) fn nd(kind: u8, flags: u8, target: Ipv6Addr, options: &[u8]) -> Vec<u8> {
    [&[kind, 0, 0, 0, flags, 0, 0, 0], &target.octets()[..], options].concat()
}

/// A link-layer address option: 1 source, 2 target.
pub(super) fn link_option(kind: u8, mac: MacAddr) -> Vec<u8> {
    [&[kind, 1], &mac.0[..]].concat()
}

/// An extension header of 8 bytes of padding, or a routing header of type 0.
pub(super) fn extension(next: u8, rest: &[u8]) -> Vec<u8> {
    [&[next, 0, 1, 4, 0, 0, 0, 0], rest].concat()
}

/// An IPv6 fragment header, `offset` in bytes.
pub(super) fn fragment6(next: u8, offset: u16, more: bool, rest: &[u8]) -> Vec<u8> {
    let [o0, o1] = (offset | u16::from(more)).to_be_bytes();
    [&[next, 0, o0, o1, 0, 0, 0, 9], rest].concat()
}

/// The group that a node with this address listens to (RFC 4291 2.7.1).
pub(super) fn solicited_node(target: Ipv6Addr) -> Ipv6Addr {
    let [.., a, b, c] = target.octets();
    Ipv6Addr::from([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, a, b, c])
}

/// The group MAC address of a destination.
pub(super) fn group4(dst: Ipv4Addr) -> MacAddr {
    let [_, b, c, d] = dst.octets();
    if dst.is_multicast() { MacAddr([1, 0, 0x5e, b & 0x7f, c, d]) } else { MacAddr::BROADCAST }
}

pub(super) fn group6(dst: Ipv6Addr) -> MacAddr {
    let [.., a, b, c, d] = dst.octets();
    MacAddr([0x33, 0x33, a, b, c, d])
}

/// The virtio-net header of a TCP super-frame that begins with `headers` bytes, in segments of
/// 1000 bytes; `start` is where TCP is.
pub(super) fn super_frame(kind: u8, headers: u16, start: u16) -> [u8; 12] {
    let mut header = [1, kind, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    for (at, field) in [(2, headers), (4, 1000), (6, start), (8, 16)] {
        header[at..at + 2].copy_from_slice(&field.to_le_bytes());
    }
    header
}
