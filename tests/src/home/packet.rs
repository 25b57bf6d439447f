//! Packets from scratch, right in every byte unless asked otherwise: what attackers send.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An Ethernet address.
pub type Mac = [u8; 6];

/// The address of all.
pub const BROADCAST: Mac = [0xff; 6];
/// IP protocol numbers.
pub const ICMP: u8 = 1;
/// TCP's.
pub const TCP: u8 = 6;
/// UDP's.
pub const UDP: u8 = 17;
/// ICMPv6's.
pub const ICMPV6: u8 = 58;
/// The SYN flag of TCP.
pub const SYN: u8 = 2;

/// EtherTypes.
pub const IPV4: u16 = 0x0800;
/// Of ARP.
pub const ARP: u16 = 0x0806;
/// Of IPv6.
pub const IPV6: u16 = 0x86dd;

/// Returns a frame.
#[must_use]
pub fn ethernet(dst: Mac, src: Mac, ethertype: u16, payload: &[u8]) -> Vec<u8> {
    [&dst, &src, &ethertype.to_be_bytes()[..], payload].concat()
}

/// Returns an IPv4 packet; `fragment` is the 16-bit word of flags and offset.
#[must_use]
pub fn ipv4(src: Ipv4Addr, dst: Ipv4Addr, protocol: u8, fragment: u16, payload: &[u8]) -> Vec<u8> {
    let len = (20 + payload.len()) as u16;
    let mut packet = vec![0x45, 0];
    packet.extend(len.to_be_bytes());
    packet.extend([0, 7]);
    packet.extend(fragment.to_be_bytes());
    packet.extend([64, protocol, 0, 0]);
    packet.extend(src.octets());
    packet.extend(dst.octets());
    let sum = checksum(&[&packet]);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet.extend(payload);
    packet
}

/// Returns an IPv6 packet.
#[must_use]
pub fn ipv6(src: Ipv6Addr, dst: Ipv6Addr, next: u8, hops: u8, payload: &[u8]) -> Vec<u8> {
    let [l0, l1] = (payload.len() as u16).to_be_bytes();
    let fixed = [0x60, 0, 0, 0, l0, l1, next, hops];
    [&fixed[..], &src.octets(), &dst.octets(), payload].concat()
}

/// Returns a packet of either family between two addresses of one, with hop limit 255 for IPv6.
///
/// # Panics
/// When the families differ.
#[must_use]
pub fn ip(src: IpAddr, dst: IpAddr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => ipv4(src, dst, protocol, 0, payload),
        (IpAddr::V6(src), IpAddr::V6(dst)) => ipv6(src, dst, protocol, 255, payload),
        _ => panic!("{src} and {dst} are of two families"),
    }
}

/// Returns the EtherType of an address's family.
#[must_use]
pub fn ethertype(ip: IpAddr) -> u16 {
    if ip.is_ipv4() { IPV4 } else { IPV6 }
}

/// Returns a UDP datagram, summed.
#[must_use]
pub fn udp(src: IpAddr, dst: IpAddr, ports: [u16; 2], payload: &[u8]) -> Vec<u8> {
    let words = [ports[0], ports[1], (8 + payload.len()) as u16, 0].map(u16::to_be_bytes);
    let mut datagram = [&words.concat()[..], payload].concat();
    sum_at(&mut datagram, 6, src, dst, UDP);
    datagram
}

/// Returns a TCP segment, summed, with sequence number 1.
#[must_use]
pub fn tcp(src: IpAddr, dst: IpAddr, ports: [u16; 2], flags: u8, payload: &[u8]) -> Vec<u8> {
    let mut segment = ports.map(u16::to_be_bytes).concat();
    segment.extend([0, 0, 0, 1, 0, 0, 0, 0, 0x50, flags, 0x20, 0, 0, 0, 0, 0]);
    segment.extend(payload);
    sum_at(&mut segment, 16, src, dst, TCP);
    segment
}

/// Returns an ICMP message of 8 bytes and a payload, summed.
#[must_use]
pub fn icmp(kind: u8, code: u8, payload: &[u8]) -> Vec<u8> {
    let mut message = [&[kind, code, 0, 0, 0, 7, 0, 1], payload].concat();
    let sum = checksum(&[&message]);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    message
}

/// Returns an ICMPv6 message, summed; `rest` is what follows the checksum.
#[must_use]
pub fn icmpv6(src: Ipv6Addr, dst: Ipv6Addr, kind: u8, rest: &[u8]) -> Vec<u8> {
    let mut message = [&[kind, 0, 0, 0], rest].concat();
    sum_at(&mut message, 2, src.into(), dst.into(), ICMPV6);
    message
}

/// Returns an echo request of the address's family.
#[must_use]
pub fn echo(src: IpAddr, dst: IpAddr, payload: &[u8]) -> Vec<u8> {
    match (src, dst) {
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            let message = icmpv6(src, dst, 128, &[&[0, 7, 0, 1], payload].concat());
            ipv6(src, dst, ICMPV6, 255, &message)
        }
        _ => ip(src, dst, ICMP, &icmp(8, 0, payload)),
    }
}

/// Returns an ARP message of 28 bytes.
#[must_use]
pub fn arp(op: u16, sender: (Mac, Ipv4Addr), target: (Mac, Ipv4Addr)) -> Vec<u8> {
    let fixed = [0, 1, 8, 0, 6, 4];
    let [sender4, target4] = [sender.1, target.1].map(|ip| ip.octets());
    [&fixed[..], &op.to_be_bytes(), &sender.0, &sender4, &target.0, &target4].concat()
}

/// Returns what follows the checksum of a neighbour message; `flags` is its first byte.
#[must_use]
pub fn neighbour(flags: u8, target: Ipv6Addr, options: &[u8]) -> Vec<u8> {
    [&[flags, 0, 0, 0], &target.octets()[..], options].concat()
}

/// Returns a link-layer address option: 1 source, 2 target.
#[must_use]
pub fn link_option(kind: u8, mac: Mac) -> Vec<u8> {
    [&[kind, 1], &mac[..]].concat()
}

/// Returns a nonce option that holds up to 22 bytes.
#[must_use]
pub fn nonce_option(bytes: &[u8]) -> Vec<u8> {
    let mut option = [&[14, 3], bytes].concat();
    option.resize(24, 0);
    option
}

/// Puts an IPv6 extension header of 8 bytes in front.
#[must_use]
pub fn extension(kind: u8, next: u8, rest: &[u8]) -> Vec<u8> {
    let fixed = match kind {
        43 => [next, 0, 2, 0, 0, 0, 0, 0],
        51 => [next, 0, 0, 0, 0, 0, 0, 1],
        _ => [next, 0, 1, 4, 0, 0, 0, 0],
    };
    [&fixed[..], rest].concat()
}

/// Puts an IPv6 fragment header in front; `offset` is in bytes.
#[must_use]
pub fn fragment6(next: u8, offset: u16, more: bool, rest: &[u8]) -> Vec<u8> {
    let [o0, o1] = (offset | u16::from(more)).to_be_bytes();
    [&[next, 0, o0, o1, 0, 0, 0, 9], rest].concat()
}

/// Returns the group MAC address of a multicast or broadcast destination.
#[must_use]
pub fn group(dst: IpAddr) -> Mac {
    match dst {
        IpAddr::V4(dst) if dst.is_multicast() => {
            let [_, b, c, d] = dst.octets();
            [1, 0, 0x5e, b & 0x7f, c, d]
        }
        IpAddr::V4(_) => BROADCAST,
        IpAddr::V6(dst) => {
            let [.., a, b, c, d] = dst.octets();
            [0x33, 0x33, a, b, c, d]
        }
    }
}

/// Returns the group in which an IPv6 address is asked for.
#[must_use]
pub fn solicited_node(target: Ipv6Addr) -> Ipv6Addr {
    let [.., g, h] = target.segments();
    Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | g & 0xff, h)
}

/// Returns the link-local address that a kernel makes of a MAC address.
#[must_use]
pub fn link_local(mac: Mac) -> Ipv6Addr {
    let [a, b, c, d, e, f] = mac;
    let word = |high: u8, low: u8| u16::from_be_bytes([high, low]);
    Ipv6Addr::new(0xfe80, 0, 0, 0, word(a ^ 2, b), word(c, 0xff), word(0xfe, d), word(e, f))
}

/// Writes a checksum with its pseudo header at an offset, which is zero before.
fn sum_at(bytes: &mut [u8], at: usize, src: IpAddr, dst: IpAddr, protocol: u8) {
    let octets = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    let len = (bytes.len() as u32).to_be_bytes();
    let pseudo = [&octets(src)[..], &octets(dst), &len, &[0, 0, 0, protocol]].concat();
    let sum = match checksum(&[&pseudo, bytes]) {
        0 => 0xffff,
        sum => sum,
    };
    bytes[at..at + 2].copy_from_slice(&sum.to_be_bytes());
}

/// The checksum of the internet; every part but the last has an even length.
fn checksum(parts: &[&[u8]]) -> u16 {
    let words = parts.iter().flat_map(|part| part.chunks(2));
    let mut sum: u32 =
        words.map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_are_those_of_the_internet() {
        // RFC 1071, 3.
        assert_eq!(checksum(&[&[0, 1, 0xf2, 3, 0xf4, 0xf5, 0xf6, 0xf7]]), !0xddf2);
        let [src, dst] = [[10, 0, 0, 1], [10, 0, 0, 2]].map(Ipv4Addr::from);
        let packet = ipv4(src, dst, UDP, 0, &udp(src.into(), dst.into(), [1, 2], b"odd"));
        assert_eq!(checksum(&[&packet[..20]]), 0, "a sum with itself is nothing");
        let pseudo = [&packet[12..20], &[0, UDP, 0, 11]].concat();
        assert_eq!(checksum(&[&pseudo, &packet[20..]]), 0);
    }

    #[test]
    fn a_link_local_address_is_the_kernels() {
        let expected = "fe80::211:22ff:fe33:4455".parse::<Ipv6Addr>();
        assert_eq!(Ok(link_local([0, 0x11, 0x22, 0x33, 0x44, 0x55])), expected);
    }
}
